package tunnel

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"
)

func systemAsleep(tb testing.TB) func() time.Duration {
	asleep := SystemSenses().Asleep
	if asleep == nil {
		tb.Skip("this system does not tell")
	}
	return asleep
}

func TestSenseAsleepStandsStillAwake(t *testing.T) {
	limit := 5 * time.Millisecond
	if runtime.GOOS == "windows" {
		limit = 40 * time.Millisecond // two steps of its tick count, and some
	}
	asleep := systemAsleep(t)
	before := asleep()
	time.Sleep(200 * time.Millisecond)
	if moved := asleep() - before; moved < 0 || moved >= limit {
		t.Errorf("asleep moved by %v while awake", moved)
	}
}

func TestSenseAsleepOnlyGrows(t *testing.T) {
	asleep := systemAsleep(t)
	stop := time.Now().Add(200 * time.Millisecond)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for last := asleep(); time.Now().Before(stop); {
				now := asleep()
				if now < last {
					t.Errorf("asleep went back from %v to %v", last, now)
					return
				}
				last = now
			}
		})
	}
	wg.Wait()
}

// TestSenseSleepClock has a machine on which threads wait and which sleeps, at any place between two reads.
func TestSenseSleepClock(t *testing.T) {
	var awake, slept time.Duration
	var wait, nap []time.Duration // what comes before the next reads
	step := func() {
		awake += time.Microsecond
		if len(wait) > 0 {
			awake, wait = awake+wait[0], wait[1:]
		}
		if len(nap) > 0 {
			slept, nap = slept+nap[0], nap[1:]
		}
	}
	const head = -time.Hour // a time namespace may have the clocks start anywhere
	clock := newSleepClock(
		func() time.Duration { step(); return head + awake + slept },
		func() time.Duration { step(); return awake },
	)
	check := func(what string, least, most time.Duration) {
		t.Helper()
		if got := clock.asleep(); got < least-time.Millisecond || got > most+time.Millisecond {
			t.Errorf("%s: asleep %v, want %v to %v", what, got, least, most)
		}
	}
	check("at first", 0, 0)
	for i := range 4 {
		wait = make([]time.Duration, i+1)
		wait[i] = 5 * time.Second
		check("a wait", 0, 0)
	}
	wait = []time.Duration{0, time.Second, time.Second, time.Second, time.Second, time.Second, time.Second}
	check("many waits", 0, 0)
	for i := range 4 {
		before := slept
		nap = make([]time.Duration, i+1)
		nap[i] = time.Minute
		check("a nap meanwhile", before, before+time.Minute)
		nap = nil
		if slept == before { // it was to come after the last read
			slept += time.Minute
		}
		check("after it", slept, slept)
	}

	wait = nil
	for range 1000 {
		wait = append(wait, time.Second)
	}
	check("nothing but waits", slept, slept)
}

func TestSenseEventsEnd(t *testing.T) {
	events := SystemSenses().Events
	if events == nil {
		t.Skip("this system does not tell")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		events(ctx, func() {})
	}()
	time.Sleep(20 * time.Millisecond)
	cancel()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Fatal("still at it")
	}
	events(ctx, func() {}) // returns at once
}

func TestSenseBell(t *testing.T) {
	news := newBell()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	news.ring()
	news.heed(ctx, func() {
		calls++
		switch calls {
		case 1: // many rings during a call are one more call
			for range 10 {
				news.ring()
			}
		case 2:
			cancel()
		}
	})
	if calls != 2 {
		t.Errorf("%d calls, want 2", calls)
	}
}

func TestSenseHasLocal(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]bool{
		"127.0.0.1": true, "127.1.2.3": true, "::1": true, "::ffff:127.0.0.1": true,
		"203.0.113.9": false, "2001:db8::9": false,
	}
	for _, a := range addrs {
		cases[a.(*net.IPNet).IP.String()] = true
	}
	for text, want := range cases {
		if got, err := hasLocal(netip.MustParseAddr(text)); got != want || err != nil {
			t.Errorf("hasLocal(%s) = %t, %v, want %t", text, got, err, want)
		}
	}
	if got, err := hasLocal(netip.Addr{}); got || err != nil {
		t.Errorf("no address: %t, %v", got, err)
	}
}

func TestSenseRoutable(t *testing.T) {
	if !routable(netip.MustParseAddr("127.0.0.1")) {
		t.Error("no route to 127.0.0.1")
	}
}

// routeSocketMessage is one as macOS sends it: its start, and a body that is not looked at.
func routeSocketMessage(kind byte, size int) []byte {
	b := make([]byte, size)
	binary.NativeEndian.PutUint16(b, uint16(size))
	b[2], b[3] = 5, kind
	return b
}

func TestSenseRouteSocketNews(t *testing.T) {
	get, losing, newAddr := routeSocketMessage(4, 92), routeSocketMessage(5, 92), routeSocketMessage(0xc, 20)
	cases := []struct {
		name string
		b    []byte
		want bool
	}{
		{"nothing", nil, false},
		{"a cut start", newAddr[:3], false},
		{"an address", newAddr, true},
		{"a cut address", newAddr[:4], true},
		{"a link", routeSocketMessage(0xe, 112), true},
		{"a route", routeSocketMessage(1, 92), true},
		{"others", append(get, losing...), false},
		{"others, then an address", append(append(get[:92:92], losing...), newAddr...), true},
		{"a length of nothing", []byte{0, 0, 5, 4, 0, 0, 5, 0xc}, false},
	}
	for _, c := range cases {
		if got := routeSocketNews(c.b); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func FuzzRouteSocketMessages(f *testing.F) {
	f.Add([]byte{})
	f.Add(routeSocketMessage(4, 92))
	f.Add(append(routeSocketMessage(4, 92), routeSocketMessage(0xd, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) { routeSocketNews(b) })
}

func BenchmarkSenseAsleep(b *testing.B) {
	asleep := systemAsleep(b)
	b.ReportAllocs()
	for b.Loop() {
		asleep()
	}
}

func BenchmarkSenseHasLocal(b *testing.B) {
	for b.Loop() {
		hasLocal(netip.MustParseAddr("203.0.113.9"))
	}
}

func BenchmarkSenseRoutable(b *testing.B) {
	for b.Loop() {
		routable(netip.MustParseAddr("127.0.0.1"))
	}
}
