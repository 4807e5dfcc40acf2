package tunnel

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Patience of the retries: at once after a connection that held, and else 0.25, 0.5, 1 … 30 s, of which up to half is
// left out at random. It starts anew after a connection that held, and with every Poke. While somebody waits for the
// link it tries every 0.4 s. A server that says it is too busy gets 5 s at least, and more each time, from everybody.
const (
	firstWait  = 250 * time.Millisecond
	mostWait   = 30 * time.Second
	wantedWait = 400 * time.Millisecond
	busyFirst  = 10 * time.Second
	busyLeast  = 5 * time.Second
	heldFor    = 30 * time.Second
)

// patience says how long to wait before the next try.
type patience struct {
	plain, busy *backoff.ExponentialBackOff
}

func newPatience() *patience {
	double := func(first time.Duration) *backoff.ExponentialBackOff {
		return backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(first),
			backoff.WithMultiplier(2),
			backoff.WithRandomizationFactor(0), // ours goes down only: mostWait is a promise
			backoff.WithMaxInterval(mostWait),
			backoff.WithMaxElapsedTime(0), // never give up
		)
	}
	return &patience{double(firstWait), double(busyFirst)}
}

func (p *patience) anew() {
	p.plain.Reset()
	p.busy.Reset()
}

func (p *patience) next(err error) time.Duration {
	retry, least := p.plain, time.Duration(0)
	if isBusy(err) {
		retry, least = p.busy, busyLeast
	}
	wait := retry.NextBackOff()
	return max(least, wait-rand.N(wait/2))
}

// isBusy reports whether the far side asked for more patience.
func isBusy(err error) bool {
	var b interface{ Busy() bool }
	return errors.As(err, &b) && b.Busy()
}
