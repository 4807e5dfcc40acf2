package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// emptyNetwork gives the test a network namespace of its own, with a loopback link that is down. It is one of the
// thread, which ends with the test.
func emptyNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // never unlocked, so nothing else gets the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespace: ", err)
	}
}

func runIP(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// noRings waits until nothing rings for a while.
func noRings(news bell) {
	for {
		select {
		case <-news:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

func TestSenseNetworkEvents(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip(err)
	}
	emptyNetwork(t)
	s, err := openRoutes() // here, because the thread of watch has the usual network
	if err != nil {
		t.Fatal(err)
	}
	news := newBell()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watch(ctx, func() (source, error) { return s, nil }, news)
	}()
	defer func() {
		cancel()
		<-done
		if err := s.file.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the socket was left open: %v", err)
		}
	}()
	for _, args := range [][]string{
		{"addr", "add", "127.9.9.9/32", "dev", "lo"},
		{"addr", "del", "127.9.9.9/32", "dev", "lo"},
		{"link", "set", "lo", "up"},
		{"-6", "addr", "add", "2001:db8::9/128", "dev", "lo"},
		{"route", "add", "192.0.2.0/24", "dev", "lo"},
		{"-6", "route", "add", "2001:db8:1::/48", "dev", "lo"},
		{"route", "del", "192.0.2.0/24", "dev", "lo"},
		{"link", "set", "lo", "down"},
	} {
		noRings(news)
		start := time.Now()
		runIP(t, args...)
		select {
		case <-news:
			t.Logf("%q: after %v, of which the command took some", args, time.Since(start))
		case <-time.After(500 * time.Millisecond):
			t.Errorf("%q: no hint", args)
		}
	}
	noRings(news)
	runIP(t, "addr", "show")
	select {
	case <-news:
		t.Error("a hint without a change")
	case <-time.After(50 * time.Millisecond):
	}
}

// TestSenseNetworkFlood has more messages than the socket holds.
func TestSenseNetworkFlood(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip(err)
	}
	emptyNetwork(t)
	s, err := openRoutes()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	for range 10 {
		runIP(t, "addr", "add", "127.9.9.9/32", "dev", "lo")
		runIP(t, "addr", "del", "127.9.9.9/32", "dev", "lo")
	}
	lost := false
	heard := s.heard
	s.heard = func(b []byte, err error) (bool, error) {
		lost = lost || errors.Is(err, unix.ENOBUFS)
		return heard(b, err)
	}
	news := newBell()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.listen(ctx, news)
	}()
	<-news
	noRings(news)
	runIP(t, "addr", "add", "127.9.9.9/32", "dev", "lo")
	select {
	case <-news:
	case <-time.After(500 * time.Millisecond):
		t.Error("no hint after the flood")
	}
	cancel()
	<-done
	if !lost {
		t.Error("nothing was lost, so nothing was tested")
	}
}

// TestSenseClockEvents moves the clock by a nanosecond, and back. Tests should not touch the clock of the machine
// without being told, so it wants to be.
func TestSenseClockEvents(t *testing.T) {
	if os.Getenv("RLCA_TEST_CLOCK") == "" {
		t.Skip("RLCA_TEST_CLOCK is not set")
	}
	ctx, cancel := context.WithCancel(t.Context())
	news := newBell()
	done := make(chan struct{})
	go func() {
		defer close(done)
		watch(ctx, openClock, news)
	}()
	for _, move := range []unix.Timeval{{Usec: 1}, {Sec: -1, Usec: 999_999_999}} {
		noRings(news)
		start := time.Now()
		if _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: move}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-news:
			t.Log("after ", time.Since(start))
		case <-time.After(500 * time.Millisecond):
			t.Error("no hint")
		}
	}
	noRings(news)
	cancel()
	<-done
}

func TestSenseSourceThatFails(t *testing.T) {
	t.Parallel() // it waits for seconds
	opened := new(atomic.Int32)
	news := newBell()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(done)
		watch(ctx, func() (source, error) {
			if opened.Add(1) == 2 {
				return source{}, unix.EMFILE
			}
			r, w, err := os.Pipe()
			if err != nil {
				return source{}, err
			}
			w.Close() // the read ends with EOF
			return source{r, func(b []byte, err error) (bool, error) { return false, err }}, nil
		}, news)
	}()
	<-news // it was opened again
	if n, took := opened.Load(), time.Since(start); n != 3 || took < 3*minSourcePause {
		t.Errorf("opened %d times in %v", n, took)
	}
	cancel()
	<-done
}

func TestSenseEventsLeaveNothingOpen(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	events := SystemSenses().Events
	once := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		events(ctx, func() {})
	}
	once() // the poller itself stays open
	before := count()
	for range 20 {
		once()
	}
	if after := count(); after > before {
		t.Errorf("%d files open, %d before", after, before)
	}
}

func TestSenseNotRoutable(t *testing.T) {
	emptyNetwork(t)
	for _, text := range []string{"10.1.2.3", "127.0.0.1", "2001:db8::1"} {
		if routable(netip.MustParseAddr(text)) {
			t.Errorf("a route to %s in an empty network", text)
		}
	}
}

// netlinkMessage is one with a body, and what fills it up to the next.
func netlinkMessage(kind uint16, body ...byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body)+3)
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	b = append(b, body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// linkBody is that of a link with attributes of these types.
func linkBody(types ...uint16) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	for _, kind := range types {
		b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+1)
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, 7, 0, 0, 0)
	}
	return b
}

func TestSenseRouteNews(t *testing.T) {
	addr := netlinkMessage(unix.RTM_NEWADDR, make([]byte, 20)...)
	other := netlinkMessage(unix.RTM_NEWNEIGH, make([]byte, 13)...)
	scan := netlinkMessage(unix.RTM_NEWLINK, linkBody(unix.IFLA_IFNAME, unix.IFLA_WIRELESS)...)
	long := netlinkMessage(unix.RTM_NEWNEIGH)
	binary.NativeEndian.PutUint32(long, 0xffffffff)
	short := netlinkMessage(unix.RTM_NEWNEIGH)
	binary.NativeEndian.PutUint32(short, 0)
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	cases := []struct {
		name string
		b    []byte
		want bool
	}{
		{"nothing", nil, false},
		{"a cut header", addr[:15], false},
		{"an address", addr, true},
		{"a cut address", addr[:16], true},
		{"an address gone", netlinkMessage(unix.RTM_DELADDR), true},
		{"a route", netlinkMessage(unix.RTM_NEWROUTE), true},
		{"a route gone", netlinkMessage(unix.RTM_DELROUTE), true},
		{"a link", netlinkMessage(unix.RTM_NEWLINK, linkBody(unix.IFLA_IFNAME, unix.IFLA_MTU)...), true},
		{"a link gone", netlinkMessage(unix.RTM_DELLINK, linkBody()...), true},
		{"a link without a body", netlinkMessage(unix.RTM_NEWLINK), true},
		{"a scan", scan, false},
		{"a scan, then an address", join(scan, addr), true},
		{"a neighbour", other, false},
		{"a neighbour, then an address", join(other, addr), true},
		{"a length beyond the end", join(long, addr), false},
		{"a length of nothing", join(short, addr), false},
	}
	for _, c := range cases {
		if got := routeNews(c.b); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func FuzzRouteMessages(f *testing.F) {
	f.Add([]byte{})
	f.Add(netlinkMessage(unix.RTM_NEWNEIGH, 1, 2, 3))
	f.Add(netlinkMessage(unix.RTM_NEWLINK, linkBody(unix.IFLA_IFNAME, unix.IFLA_WIRELESS)...))
	f.Add(append(netlinkMessage(unix.RTM_NEWNEIGH), netlinkMessage(unix.RTM_NEWLINK, linkBody(unix.IFLA_MTU)...)...))
	f.Fuzz(func(t *testing.T, b []byte) { routeNews(b) })
}
