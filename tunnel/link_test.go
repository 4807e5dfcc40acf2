package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeConn is a connection that ends when it is told to.
type fakeConn struct {
	done chan struct{}
	err  error

	mu      sync.Mutex // guards what follows
	freed   bool       // Close was called
	retired bool
	local   netip.Addr
	deaf    chan struct{} // not nil: it answers when this is closed
	heard   time.Time     // nothing was heard since
	opened  []string      // what was asked for on it, in order
	takes   time.Duration // an opening
}

func newFakeConn() *fakeConn {
	return &fakeConn{done: make(chan struct{}), err: errors.New("gone"), heard: time.Now()}
}

func (c *fakeConn) LocalAddr() netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.local
}

func (c *fakeConn) Silence() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deaf == nil {
		return 0
	}
	return time.Since(c.heard)
}

func (c *fakeConn) Retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
}

// goDeaf makes it silent until the channel is closed.
func (c *fakeConn) goDeaf() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaf, c.heard = make(chan struct{}), time.Now()
	return c.deaf
}

func (c *fakeConn) answer(ctx context.Context) error {
	c.mu.Lock()
	deaf := c.deaf
	c.mu.Unlock()
	if deaf == nil {
		deaf = make(chan struct{})
		close(deaf)
	}
	select {
	case <-deaf:
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeConn) Check(ctx context.Context) error { return c.answer(ctx) }

func (c *fakeConn) Open(ctx context.Context, o Opening) (net.Conn, error) {
	c.mu.Lock()
	c.opened = append(c.opened, o.Addr)
	c.mu.Unlock()
	if o.sent != nil {
		o.sent()
	}
	time.Sleep(c.takes)
	if err := c.answer(ctx); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	far.Close()
	return near, nil
}

func (c *fakeConn) Done() <-chan struct{} { return c.done }
func (c *fakeConn) Err() error            { return c.err }
func (c *fakeConn) RTT() time.Duration    { return 4 * time.Millisecond }
func (c *fakeConn) Close() error {
	c.mu.Lock()
	c.freed = true
	c.mu.Unlock()
	c.die()
	return nil
}

func (c *fakeConn) die() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.done:
	default:
		close(c.done)
	}
}

var errDown = &DialError{Op: "connect", Addr: "box:22", Reason: "no route to host"}

// box is what a link dials: it notes when.
type box struct {
	takes time.Duration // a dial

	mu     sync.Mutex // guards what follows
	tried  []time.Time
	logins []*fakeConn
	err    error         // for every dial; nil lets it in
	lives  time.Duration // a connection; 0 is for ever
}

func (b *box) dial(ctx context.Context) (Conn, error) {
	b.mu.Lock()
	b.tried = append(b.tried, time.Now())
	b.mu.Unlock()
	select {
	case <-time.After(b.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	c := newFakeConn()
	b.logins = append(b.logins, c)
	if b.lives > 0 {
		time.AfterFunc(b.lives, c.die)
	}
	return c, nil
}

// answer is what every dial gets from now on.
func (b *box) answer(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *box) tries() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.tried)
}

// gaps are the times between the tries.
func (b *box) gaps() (gaps []time.Duration) {
	tries := b.tries()
	for i := range tries[1:] {
		gaps = append(gaps, tries[i+1].Sub(tries[i]))
	}
	return gaps
}

// running starts a link in a bubble and returns it with what ends it.
func running(t *testing.T, b *box, first Conn) (l *Link, end func()) {
	t.Helper()
	l = NewLink(b.dial, LinkOptions{First: first, Final: Final})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	synctest.Wait()
	return l, func() {
		cancel()
		synctest.Wait()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run = %v, want %v", err, context.Canceled)
			}
		default:
			t.Error("Run does not return when its context ends")
		}
	}
}

// wantGaps checks the times between tries: each is at most what want says, and at least half of it.
func wantGaps(t *testing.T, got []time.Duration, want ...time.Duration) {
	t.Helper()
	if len(got) < len(want) {
		t.Fatalf("%d times between tries, want %d", len(got), len(want))
	}
	for i, w := range want {
		if got[i] > w || got[i] < w/2 {
			t.Errorf("time %d between tries is %s, want %s to %s", i, got[i], w/2, w)
		}
	}
}

// A day without a network: it never gives up, tries at least every 30 s, and says why and since when all the while.
func TestLinkNeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		b := &box{err: errDown, takes: time.Millisecond}
		l, end := running(t, b, nil)
		time.Sleep(24 * time.Hour)
		for _, d := range []time.Duration{0, time.Minute} {
			time.Sleep(d)
			st := l.Status()
			if st.State == Up || st.LastError != errDown.Error() || !st.Since.Equal(begin) || st.Last != nil || st.RTT != 0 {
				t.Errorf("after a day: %+v, want it down since %s", st, begin)
			}
			if st.State == Waiting && (st.NextTry.Before(time.Now()) || time.Until(st.NextTry) > 30*time.Second) {
				t.Errorf("the next try is in %s", time.Until(st.NextTry))
			}
		}
		end()
		gaps := b.gaps()
		for i := range gaps {
			gaps[i] -= b.takes
		}
		const ms = time.Millisecond
		wantGaps(t, gaps, 250*ms, 500*ms, 1000*ms, 2000*ms, 4000*ms, 8000*ms, 16000*ms, 30000*ms, 30000*ms)
		if longest := slices.Max(gaps); longest > 30*time.Second {
			t.Errorf("once it did not try for %s", longest)
		}
		if same := slices.Compact(slices.Clone(gaps[8:])); len(same) < 10 {
			t.Error("no jitter")
		}
	})
}

// A lost connection is replaced at once, whoever waits gets the new one, and the story is told.
func TestLinkHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, b := newFakeConn(), &box{takes: 100 * time.Millisecond}
		l, end := running(t, b, first)
		if c, err := l.Get(t.Context()); err != nil || c != Conn(first) {
			t.Fatalf("Get = %v, %v, want the first connection", c, err)
		}
		if st := l.Status(); st.State != Up || st.Reconnects != 0 || st.Last != nil {
			t.Errorf("at first: %+v", st)
		}
		time.Sleep(time.Hour)
		first.die()
		lost := time.Now()
		c, err := l.Get(t.Context())
		if err != nil || c == Conn(first) || time.Since(lost) != b.takes {
			t.Errorf("after the loss Get = %v, %v after %s, want a new one after %s", c, err, time.Since(lost), b.takes)
		}
		st := l.Status()
		want := Healed{At: time.Now(), After: b.takes, Reason: "gone"}
		if st.State != Up || st.Reconnects != 1 || st.RTT != 4*time.Millisecond || st.LastError != "" || !st.Since.Equal(time.Now()) {
			t.Errorf("healed: %+v", st)
		}
		if st.Last == nil || *st.Last != want {
			t.Errorf("the last reconnect is %+v, want %+v", st.Last, want)
		}
		if !first.freed {
			t.Error("the lost connection was not closed")
		}
		end()
		if !b.logins[0].freed {
			t.Error("the connection is still open after the end")
		}
	})
}

// A connection that dies right after the login does not count as one that held: the tries get rarer all the same.
// One that held for 30 s starts patience anew.
func TestLinkFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{lives: 10 * time.Millisecond}
		_, end := running(t, b, nil)
		time.Sleep(time.Hour)
		if n := len(b.tries()); n < 120 || n > 300 {
			t.Errorf("%d logins in an hour to a box that ends each at once, want one in 15 to 30 s", n)
		}
		const ms = time.Millisecond
		wantGaps(t, b.gaps()[3:], 2020*ms, 4020*ms, 8020*ms, 16020*ms, 30020*ms)

		const lives = 31 * time.Second
		b.mu.Lock()
		b.lives = lives
		b.mu.Unlock()
		time.Sleep(2 * time.Minute)
		n := len(b.tries())
		time.Sleep(2 * time.Minute)
		for _, gap := range b.gaps()[n-1:] {
			if gap != lives {
				t.Errorf("a new try %s after the last, want %s: at once after a connection that held", gap, lives)
			}
		}
		end()
	})
}

// After a loss the first try is at once; if it fails patience begins at the beginning.
func TestLinkLostForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, b := newFakeConn(), &box{err: errDown}
		l, end := running(t, b, first)
		time.Sleep(time.Minute)
		first.die()
		lost := time.Now()
		synctest.Wait()
		if len(b.tries()) != 1 || !b.tries()[0].Equal(lost) {
			t.Errorf("tries at %v, want one at %s", b.tries(), lost)
		}
		time.Sleep(10 * time.Minute)
		const ms = time.Millisecond
		wantGaps(t, b.gaps(), 250*ms, 500*ms, 1000*ms, 2000*ms)
		if st := l.Status(); !st.Since.Equal(lost) {
			t.Errorf("down since %s, want %s", st.Since, lost)
		}
		b.answer(nil)
		l.Poke("woke from sleep")
		synctest.Wait()
		if st := l.Status(); st.State != Up || st.Last == nil || st.Last.Reason != "woke from sleep" || st.Last.After != 10*time.Minute {
			t.Errorf("status %+v %+v, want it healed after 10 min because it woke from sleep", st, st.Last)
		}
		end()
	})
}

func TestLinkPoke(t *testing.T) {
	const ms = time.Millisecond
	t.Run("waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &box{err: errDown}
			l, end := running(t, b, nil)
			time.Sleep(time.Hour)
			n := len(b.tries())
			now := time.Now()
			l.Poke("a new address")
			synctest.Wait()
			if len(b.tries()) != n+1 || !b.tries()[n].Equal(now) {
				t.Errorf("%d tries after a poke, want one at once", len(b.tries())-n)
			}
			time.Sleep(time.Minute)
			wantGaps(t, b.gaps()[n:], 250*ms, 500*ms, 1000*ms)
			end()
		})
	})
	t.Run("dialing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &box{err: errDown, takes: 3 * time.Second}
			l, end := running(t, b, nil)
			time.Sleep(time.Hour)
			for l.Status().State != Connecting {
				time.Sleep(ms)
			}
			n := len(b.tries())
			l.Poke("a new address")
			time.Sleep(30 * time.Second)
			wantGaps(t, []time.Duration{b.gaps()[n-1] - b.takes}, 0)
			wantGaps(t, []time.Duration{b.gaps()[n] - b.takes, b.gaps()[n+1] - b.takes}, 250*ms, 500*ms)
			end()
		})
	})
	t.Run("up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			first, b := newFakeConn(), &box{err: errDown}
			l, end := running(t, b, first)
			l.Poke("woke from sleep")
			time.Sleep(time.Second)
			first.die() // it never held
			time.Sleep(time.Minute)
			wantGaps(t, append([]time.Duration{b.tries()[0].Sub(time.Now().Add(-time.Minute))}, b.gaps()...), 250*ms, 500*ms, 1000*ms)
			end()
			l.Poke("closed already")
			if st := l.Status(); st.State != Closed {
				t.Errorf("state %s after a poke at the end", st.State)
			}
		})
	})
}

// What needs a person stops it; a poke after the person did it goes on at once.
func TestLinkNeedsYou(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{err: errDown}
		l, end := running(t, b, nil)
		waiting := make(chan error)
		go func() {
			_, err := l.Get(t.Context())
			waiting <- err
		}()
		time.Sleep(time.Hour)
		stop := fmt.Errorf("dial box: %w", &ChangedHostKeyError{Host: "box"})
		b.answer(stop)
		err := <-waiting
		var got *ChangedHostKeyError
		if !errors.As(err, &got) {
			t.Errorf("Get of one who waits = %v, want %v", err, stop)
		}
		n := len(b.tries())
		time.Sleep(24 * time.Hour)
		if _, err := l.Get(t.Context()); !errors.As(err, &got) {
			t.Errorf("Get = %v, want the reason at once", err)
		}
		st := l.Status()
		if len(b.tries()) != n || st.State != NeedsYou || st.LastError != stop.Error() || !st.NextTry.IsZero() {
			t.Errorf("%d more tries, status %+v, want none and %s", len(b.tries())-n, st, NeedsYou)
		}
		l.Poke("retry") // and it is not right yet
		synctest.Wait()
		if len(b.tries()) != n+1 || l.Status().State != NeedsYou {
			t.Errorf("%d tries after a poke, state %s, want one and %s", len(b.tries())-n, l.Status().State, NeedsYou)
		}
		b.answer(nil)
		l.Poke("the key is trusted now")
		synctest.Wait()
		if c, err := l.Get(t.Context()); err != nil || c != Conn(b.logins[0]) {
			t.Errorf("after the poke Get = %v, %v", c, err)
		}
		end()
	})
}

// Who waits for the link makes it try every 0.4 s, without taking anything from its patience otherwise.
func TestLinkWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{err: errDown}
		l, end := running(t, b, nil)
		time.Sleep(10 * time.Minute)
		n := len(b.tries())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := l.Get(ctx)
		cancel()
		var down *DialError
		if !errors.As(err, &down) {
			t.Errorf("Get = %v, want %v in it", err, errDown)
		}
		if got := len(b.tries()) - n; got < 148 || got > 152 {
			t.Errorf("%d tries in the minute that somebody waited, want 150", got)
		}
		n = len(b.tries())
		time.Sleep(10 * time.Minute)
		wantGaps(t, b.gaps()[n:], 30*time.Second, 30*time.Second)

		b.answer(nil)
		start := time.Now()
		if _, err := l.Get(t.Context()); err != nil || time.Since(start) > time.Second {
			t.Errorf("Get = %v after %s, want a connection within 1 s", err, time.Since(start))
		}
		end()
	})
}

// Ten cuts in a row, and each time somebody wants the link: patience must not make them wait.
func TestLinkCutAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{takes: 50 * time.Millisecond}
		l, end := running(t, b, newFakeConn())
		for i := range 10 {
			start := time.Now()
			c, err := l.Get(t.Context())
			if err != nil || time.Since(start) > 1100*time.Millisecond {
				t.Errorf("cut %d: Get = %v after %s, want a connection within 1.1 s", i, err, time.Since(start))
			}
			time.Sleep(300 * time.Millisecond)
			c.(*fakeConn).die()
		}
		end()
	})
}

// A server that is too busy gets 5 s at least, and more each time, however many wait.
func TestLinkBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{err: fmt.Errorf("dial: %w", &DialError{Op: "banner", Addr: "box:22", Reason: "closed", TooBusy: true})}
		l, end := running(t, b, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		if _, err := l.Get(ctx); err == nil {
			t.Error("Get gives a connection")
		}
		cancel()
		gaps := b.gaps()
		wantGaps(t, gaps, 10*time.Second, 20*time.Second, 30*time.Second, 30*time.Second)
		if least := slices.Min(gaps); least < 5*time.Second {
			t.Errorf("a try after %s, want 5 s at least", least)
		}
		n := len(b.tries())
		l.Poke("a new address")
		synctest.Wait()
		if len(b.tries()) != n+1 {
			t.Errorf("%d tries after a poke, want one", len(b.tries())-n)
		}
		end()
	})
}

// It ends when its context does, wherever it stands, and leaves no connection open.
func TestLinkCloses(t *testing.T) {
	for name, b := range map[string]*box{
		"up":        {},
		"dialing":   {takes: time.Hour},
		"waiting":   {err: errDown},
		"needs you": {err: &AuthError{User: "me", Host: "box"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, end := running(t, b, nil)
				time.Sleep(time.Minute)
				before := l.Changed()
				end()
				select {
				case <-before:
				default:
					t.Error("nobody was told of the end")
				}
				if _, err := l.Get(t.Context()); !errors.Is(err, errLinkClosed) {
					t.Errorf("Get = %v, want %v", err, errLinkClosed)
				}
				if st := l.Status(); st.State != Closed || st.LastError != "" || !st.NextTry.IsZero() || !st.Since.Equal(time.Now()) {
					t.Errorf("status %+v", st)
				}
				for _, c := range b.logins {
					if !c.freed {
						t.Error("a connection is still open")
					}
				}
			})
		})
	}
	t.Run("before it ran", func(t *testing.T) {
		first := newFakeConn()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := NewLink((&box{}).dial, LinkOptions{First: first}).Run(ctx); !errors.Is(err, context.Canceled) || !first.freed {
			t.Errorf("Run = %v, first connection closed: %v", err, first.freed)
		}
	})
}

// A watcher sees each change, and finds the time of the next try with it.
func TestLinkChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, b := newFakeConn(), &box{err: errDown, takes: time.Millisecond}
		l, end := running(t, b, first)
		changed := l.Changed()
		next := func() LinkStatus {
			<-changed
			changed = l.Changed()
			return l.Status()
		}
		first.die()
		var got []State
		for range 5 {
			st := next()
			got = append(got, st.State)
			if (st.State == Waiting) == st.NextTry.IsZero() {
				t.Errorf("%s with the next try at %s", st.State, st.NextTry)
			}
		}
		b.answer(nil)
		for got[len(got)-1] != Up {
			got = append(got, next().State)
		}
		want := []State{Waiting, Connecting, Waiting, Connecting, Waiting, Connecting, Up}
		if !slices.Equal(got, want) {
			t.Errorf("states %v, want %v", got, want)
		}
		end()
	})
}
