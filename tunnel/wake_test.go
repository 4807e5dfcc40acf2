package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// machine is a laptop that sleeps and changes its network when it is told to.
type machine struct {
	asleep atomic.Int64
	hints  chan struct{}
	off    atomic.Bool
}

func newMachine() *machine { return &machine{hints: make(chan struct{})} }

func (m *machine) senses() Senses {
	return Senses{
		Asleep: func() time.Duration { return time.Duration(m.asleep.Load()) },
		Events: func(ctx context.Context, hint func()) {
			for {
				select {
				case <-m.hints:
					hint()
				case <-ctx.Done():
					return
				}
			}
		},
	}
}

// sleep is a sleep of which nobody is told.
func (m *machine) sleep(d time.Duration) { m.asleep.Add(int64(d)) }

// event is news of the network.
func (m *machine) event() { m.hints <- struct{}{} }

// on starts a link on the machine in a bubble.
func (m *machine) on(t *testing.T, b *box, first Conn) (l *Link, end func()) {
	t.Helper()
	l = NewLink(b.dial, LinkOptions{First: first, Final: Final, Senses: m.senses(), Online: func() bool { return !m.off.Load() }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	synctest.Wait()
	return l, func() {
		cancel()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("Run does not return when its context ends")
		}
	}
}

func (c *fakeConn) isRetired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// After a sleep new callers go to a second connection, which is dialed the moment that the first of them comes, and
// the old one is neither waited for nor closed.
func TestLinkWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 300 * time.Millisecond}
		l, end := m.on(t, b, first)
		time.Sleep(10*time.Minute + 300*time.Millisecond)
		first.goDeaf()
		m.sleep(40 * time.Second)
		woke := time.Now()
		c, err := l.Get(t.Context())
		if err != nil || c != Conn(b.logins[0]) || time.Since(woke) != b.takes {
			t.Errorf("after a sleep Get = %v, %v after %s, want the new connection after one login", c, err, time.Since(woke))
		}
		if first.freed || !first.isRetired() {
			t.Errorf("the old connection: closed %v, retired %v, want it to keep its streams", first.freed, first.isRetired())
		}
		st := l.Status()
		if st.State != Up || st.Reconnects != 1 || st.Last.Reason != "woke from sleep" || st.Last.After != b.takes {
			t.Errorf("status %+v %+v", st, st.Last)
		}
		first.die() // proved dead: of no consequence
		synctest.Wait()
		if c2, err := l.Get(t.Context()); err != nil || c2 != c || l.Status().State != Up {
			t.Errorf("after the end of the old one: %v, %v, %s", c2, err, l.Status().State)
		}
		end()
	})
}

// Nobody calls: the sleep is noticed within a second all the same.
func TestLinkWakesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 3 * time.Second}
		l, end := m.on(t, b, first)
		time.Sleep(time.Hour)
		first.goDeaf()
		m.sleep(time.Hour)
		time.Sleep(lookEvery + 10*time.Millisecond)
		if st := l.Status(); len(b.tries()) != 1 || st.State != Connecting || st.LastError != "woke from sleep" {
			t.Errorf("%d dials, status %+v, want one under way", len(b.tries()), st)
		}
		time.Sleep(3 * time.Second)
		if st := l.Status(); st.State != Up || st.Reconnects != 1 {
			t.Errorf("status %+v", st)
		}
		end()
	})
}

// The old connection answers first: callers get it, and the dial is given up.
func TestLinkWakesUnharmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 300 * time.Millisecond}
		l, end := m.on(t, b, first)
		time.Sleep(time.Minute)
		deaf := first.goDeaf()
		m.sleep(time.Minute)
		woke := time.Now()
		time.AfterFunc(20*time.Millisecond, func() { close(deaf) })
		c, err := l.Get(t.Context())
		if err != nil || c != Conn(first) || time.Since(woke) != 20*time.Millisecond {
			t.Errorf("Get = %v, %v after %s, want the old one after 20 ms", c, err, time.Since(woke))
		}
		time.Sleep(time.Minute)
		if st := l.Status(); st.State != Up || st.Reconnects != 0 || len(b.logins) != 0 || first.isRetired() || st.LastError != "" {
			t.Errorf("status %+v, %d logins", st, len(b.logins))
		}
		end()
	})
}

// A dial that was under way when the lid closed is given up for a new one.
func TestLinkSleepsWhileDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b := newMachine(), &box{takes: 10 * time.Second}
		l, end := m.on(t, b, nil)
		time.Sleep(time.Second)
		b.takes = 100 * time.Millisecond
		m.sleep(time.Hour)
		woke := time.Now()
		if _, err := l.Get(t.Context()); err != nil || time.Since(woke) != b.takes {
			t.Errorf("Get = %v after %s, want a connection after %s", err, time.Since(woke), b.takes)
		}
		end()
	})
}

// The network is late after the sleep: the dials go on, and whatever answers first is it.
func TestLinkWakesBeforeNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 100 * time.Millisecond, err: errDown}
		l, end := m.on(t, b, first)
		time.Sleep(time.Minute)
		first.goDeaf()
		m.off.Store(true)
		m.sleep(time.Minute)
		time.Sleep(3 * time.Second)
		if st := l.Status(); st.State != Offline || len(b.tries()) != 0 || st.LastError == "" {
			t.Errorf("status %+v after %d tries, want offline, and no dial", st, len(b.tries()))
		}
		m.off.Store(false)
		b.answer(nil)
		back := time.Now()
		m.event()
		if _, err := l.Get(t.Context()); err != nil || time.Since(back) > 200*time.Millisecond {
			t.Errorf("Get = %v after %s, want a connection at once when the network is back", err, time.Since(back))
		}
		end()
	})
}

// Its address is gone: nothing tells a connection so. Callers go to a new one at once, streams stay.
func TestLinkRenumbered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 100 * time.Millisecond}
		first.local = netip.MustParseAddr("203.0.113.9") // RFC 5737: nobody has it
		l, end := m.on(t, b, first)
		time.Sleep(time.Minute)
		first.goDeaf()
		m.event()
		synctest.Wait()
		gone := time.Now()
		time.Sleep(settleNet + time.Millisecond)
		c, err := l.Get(t.Context())
		if err != nil || c == Conn(first) || time.Since(gone) > settleNet+b.takes+time.Millisecond {
			t.Errorf("Get = %v, %v after %s", c, err, time.Since(gone))
		}
		if first.freed || !first.isRetired() || l.Status().Last.Reason != "the address of this machine has changed" {
			t.Errorf("the old one: closed %v, retired %v; %+v", first.freed, first.isRetired(), l.Status().Last)
		}
		end()
	})
}

// Something of the network has changed: the connection is asked, and only if it does not answer another one is dialed.
func TestLinkSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 100 * time.Millisecond}
		l, end := m.on(t, b, first)
		time.Sleep(time.Minute)
		for range 20 {
			m.event()
			time.Sleep(100 * time.Millisecond)
		}
		if st := l.Status(); len(b.tries()) != 0 || st.State != Up || st.Reconnects != 0 {
			t.Errorf("a connection that answers: %d dials, %+v", len(b.tries()), st)
		}
		deaf := first.goDeaf()
		m.event()
		start := time.Now()
		time.Sleep(settleNet + time.Millisecond)
		c, err := l.Get(t.Context())
		if err != nil || c == Conn(first) || time.Since(start) > settleNet+raceAfter+b.takes {
			t.Errorf("Get = %v, %v after %s, want another connection after %s", c, err, time.Since(start), settleNet+raceAfter+b.takes)
		}
		close(deaf)
		synctest.Wait()
		if l.Status().State != Up {
			t.Error("the old one answers late, and that counts")
		}
		// a storm of news while nothing answers: a server takes each dial that is given up for a stranger
		second := b.logins[0]
		b.answer(errDown)
		second.goDeaf()
		n := len(b.tries())
		time.Sleep(time.Minute)
		for range 40 {
			m.event()
			time.Sleep(100 * time.Millisecond)
		}
		if got := len(b.tries()) - n; got < 2 || got > 12 {
			t.Errorf("%d dials in 4 s of news", got)
		}
		end()
	})
}

// A connection that does not answer a caller is left for one that does; the caller goes along and notices only the
// time that it took.
func TestLinkOpenHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 100 * time.Millisecond}
		l, end := m.on(t, b, first)
		time.Sleep(time.Minute)
		first.goDeaf()
		start := time.Now()
		c, err := l.Open(t.Context(), Opening{Addr: "a"})
		if err != nil || time.Since(start) != 400*time.Millisecond {
			t.Fatalf("Open = %v after %s, want a connection after 400 ms", err, time.Since(start))
		}
		c.Close()
		if !slices.Equal(first.opened, []string{"a"}) || !slices.Equal(b.logins[0].opened, []string{"a"}) {
			t.Errorf("asked %v and %v", first.opened, b.logins[0].opened)
		}
		if first.freed || !first.isRetired() {
			t.Error("the old connection did not keep its streams")
		}
		end()
	})
}

// A far side that takes its time is not the link's fault: bytes come.
func TestLinkOpenSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{}
		first.takes = 5 * time.Second
		l, end := m.on(t, b, first)
		c, err := l.Open(t.Context(), Opening{Addr: "a"})
		if err != nil || len(b.tries()) != 0 {
			t.Fatalf("Open = %v with %d dials", err, len(b.tries()))
		}
		c.Close()
		end()
	})
}

// Those who wait are served in the order in which they came, also when the link is lost again in between.
func TestLinkInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &box{takes: time.Second}
		l, end := running(t, b, nil)
		var wg sync.WaitGroup
		var want []string
		for i := range 200 {
			name := fmt.Sprint(i)
			want = append(want, name)
			wg.Go(func() {
				c, err := l.Open(t.Context(), Opening{Addr: name})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				c.Close()
			})
			synctest.Wait()
		}
		wg.Wait()
		if got := b.logins[0].opened; !slices.Equal(got, want) {
			t.Errorf("served in the order %v", got)
		}
		// Asked, and lost before there was an answer: all go on to the next one, in the same order.
		b.logins[0].goDeaf()
		want = want[:50]
		for _, name := range want {
			wg.Go(func() {
				c, err := l.Open(t.Context(), Opening{Addr: name})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				c.Close()
			})
			synctest.Wait()
		}
		b.logins[0].die()
		wg.Wait()
		if got := b.logins[1].opened; !slices.Equal(got, want) {
			t.Errorf("served in the order %v after a loss", got)
		}
		end()
	})
}

// A login that is refused after a sleep, while the old connection still lives: a person is told, and the old one is
// used again once it answers.
func TestLinkWakesLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, first, b := newMachine(), newFakeConn(), &box{takes: 100 * time.Millisecond, err: &AuthError{User: "me", Host: "box"}}
		l, end := m.on(t, b, first)
		deaf := first.goDeaf()
		m.sleep(time.Minute)
		_, err := l.Get(t.Context())
		var auth *AuthError
		if !errors.As(err, &auth) || l.Status().State != NeedsYou {
			t.Errorf("Get = %v, state %s", err, l.Status().State)
		}
		close(deaf)
		synctest.Wait()
		if c, err := l.Get(t.Context()); c != Conn(first) || err != nil {
			t.Errorf("Get = %v, %v, want the old connection", c, err)
		}
		if n := len(b.tries()); n != 1 {
			t.Errorf("%d logins, want one: servers ban", n)
		}
		end()
	})
}

// News of the network do not hurry a server that is too busy, nor one that keeps us out.
func TestLinkBusyWhateverHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b := newMachine(), &box{err: &DialError{Op: "banner", TooBusy: true}}
		_, end := m.on(t, b, nil)
		for range 100 {
			m.event()
			time.Sleep(200 * time.Millisecond)
		}
		if least := slices.Min(b.gaps()); least < busyLeast {
			t.Errorf("a try after %s", least)
		}
		end()
	})
}
