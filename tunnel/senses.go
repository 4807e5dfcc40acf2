package tunnel

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// Senses are how a Link learns what happens to the machine. A nil field is a sense that is not there.
type Senses struct {
	// Asleep is how long the machine has been suspended in all, since some fixed moment. It only grows. It is a
	// difference of clocks that nobody sets, so neither NTP nor a busy CPU moves it by more than some 20 ms.
	Asleep func() time.Duration

	// Events calls hint whenever the machine may have woken, or an address, a route or a link has changed, and
	// returns when ctx ends. It makes one call at a time; news that come meanwhile make one more. It never gives up:
	// where the system's source fails, it is opened again after a pause.
	Events func(ctx context.Context, hint func())
}

// SystemSenses are this machine's own.
func SystemSenses() Senses { return systemSenses() }

// hasLocal reports whether addr is on some interface of this machine now. A loopback address always is. The zone of
// addr is not looked at. An error is one of listing the interfaces.
func hasLocal(addr netip.Addr) (has bool, err error) {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() {
		return true, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		on, ok := netip.AddrFromSlice(n.IP)
		return ok && on.Unmap() == addr
	}), nil
}

// noNetwork are the errors of a connect that mean that there is no way to the address. Windows has its own numbers
// (winsock2.h: WSAENETDOWN, WSAENETUNREACH, WSAEHOSTUNREACH, WSAEADDRNOTAVAIL, WSAEAFNOSUPPORT), which package syscall does not match
// with the names. No other system has errors so high.
var noNetwork = []syscall.Errno{
	syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT,
	10050, 10051, 10065, 10049, 10047,
}

// routable reports whether this machine has a route to addr now. It connects a UDP socket, which sends nothing. In
// doubt it says yes, so that whoever asks tries.
func routable(addr netip.Addr) bool {
	const discard = 9 // some port; it gets nothing
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, discard)))
	if err == nil {
		conn.Close()
		return true
	}
	var number syscall.Errno
	return !errors.As(err, &number) || !slices.Contains(noNetwork, number)
}

// A sleepClock tells how long the machine was suspended, from two clocks that differ in nothing else. Neither may be
// one that can be set.
type sleepClock struct {
	all, awake func() time.Duration // all runs on in sleep, awake does not
	start      time.Duration        // what all was ahead when this clock was made
	most       atomic.Int64         // the largest result so far, in nanoseconds
}

func newSleepClock(all, awake func() time.Duration) *sleepClock {
	c := &sleepClock{all: all, awake: awake}
	c.start = c.ahead()
	return c
}

// clockSlack is what two reads of clocks, one right after the other, may be apart.
const clockSlack = time.Millisecond

// asleep is how long the machine slept since newSleepClock. It never goes back.
func (c *sleepClock) asleep() time.Duration {
	for {
		most := c.most.Load()
		all := c.all() // read first, see ahead
		if all-c.awake()-c.start <= time.Duration(most)+clockSlack {
			return time.Duration(most) // nearly always, and at the price of two reads
		}
		now := c.ahead() - c.start
		if c.most.CompareAndSwap(most, max(most, int64(now))) {
			return max(time.Duration(most), now)
		}
	}
}

// ahead is how far all is ahead of awake. The two are read one after the other, and a thread can be kept waiting in
// between. Awake is read last: so a wait makes the result too small and is never taken for sleep. It is read first
// too: where the reads took long they are made again, or the next good ones would look like sleep.
func (c *sleepClock) ahead() time.Duration {
	const tries = 20
	least := time.Duration(math.MinInt64)
	for range tries {
		before := c.awake()
		all := c.all()
		after := c.awake()
		least = max(least, all-after)
		if after-before < clockSlack {
			break
		}
	}
	return least
}

// A bell carries the fact that there is news, and nothing about it. It has room for one ring; more are the same.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

// ring never blocks.
func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// heed calls hint for what rings, until ctx ends.
func (b bell) heed(ctx context.Context, hint func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b:
			hint()
		}
	}
}

// How long a source of the system's news that failed is left alone: at first, and at most.
const (
	minSourcePause = time.Second
	maxSourcePause = time.Minute
)

// rest waits for d; it reports false if ctx ends.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
