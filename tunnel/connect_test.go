//go:build unix

package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"
)

// silentAddr is an address of loopback that takes no connections and says so to nobody: its backlog is full.
func silentAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 2}}); err != nil {
		t.Skip(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Skip(err)
	}
	name, _ := syscall.Getsockname(fd)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 20 {
		c, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Skip("it does not fill up")
	return at
}

// connecting makes a connector whose name has addresses, after a time; a port of its own, too.
func connecting(t *testing.T, port uint16, after time.Duration, err error, addrs ...string) *connector {
	t.Helper()
	c, e := newConnector(&Target{Host: "box", HostName: "box", Port: int(port)})
	if e != nil {
		t.Fatal(e)
	}
	c.lookup = func(ctx context.Context, _, _ string) (list []netip.Addr, _ error) {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return nil, &net.DNSError{Err: "timeout", Name: "box", IsTimeout: true}
		}
		for _, a := range addrs {
			list = append(list, netip.MustParseAddr(a))
		}
		return list, err
	}
	return c
}

func TestConnect(t *testing.T) {
	far := newFarSide(t, echoTCP)
	open := far.ln.Addr().(*net.TCPAddr).AddrPort().Port()
	full := silentAddr(t)
	listens, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", full.Port())) // beside the hole
	if err != nil {
		t.Fatal(err)
	}
	defer listens.Close()
	nobody := &net.DNSError{Err: "no such host", Name: "box", IsNotFound: true}
	const slow = 5 * time.Second
	for _, test := range []struct {
		name     string
		c        *connector
		good     string
		within   time.Duration
		want     string // the address that it ends at
		wantsErr error
	}{
		{"one address", connecting(t, open, 0, nil, "127.0.0.1"), "", time.Second, "127.0.0.1", nil},
		{"the first one refuses", connecting(t, open, 0, nil, "127.0.0.3", "127.0.0.1"), "", time.Second, "127.0.0.1", nil},
		{"the first one is silent", connecting(t, full.Port(), 0, nil, "127.0.0.2", "127.0.0.1"), "", nextAddr + time.Second, "127.0.0.1", nil},
		{"the name service hangs, the last address is good", connecting(t, open, slow, nil, "127.0.0.3"), "127.0.0.1", time.Second, "127.0.0.1", nil},
		{"the name is gone, the last address is good", connecting(t, open, 0, nobody), "127.0.0.1", time.Second, "127.0.0.1", nil},
		{"the last address is silent, the name has another", connecting(t, full.Port(), 0, nil, "127.0.0.1"), "127.0.0.2", nextAddr + time.Second, "127.0.0.1", nil},
		{"the last address refuses, the name is gone", connecting(t, open, 0, nobody), "127.0.0.3", time.Second, "", nobody},
		{"all refuse", connecting(t, open, 0, nil, "127.0.0.3", "127.0.0.4"), "", time.Second, "", syscall.ECONNREFUSED},
		{"no name", connecting(t, open, 0, nobody), "", time.Second, "", nobody},
		{"all are silent", connecting(t, full.Port(), 0, nil, "127.0.0.2"), "", 3 * time.Second, "", errSilent},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			var good netip.Addr
			if test.good != "" {
				good = netip.MustParseAddr(test.good)
			}
			start := time.Now()
			conn, err := test.c.first(ctx, good)
			if took := time.Since(start); took > test.within {
				t.Errorf("it took %s", took)
			}
			if conn != nil {
				defer conn.Close()
				if got := conn.RemoteAddr().(*net.TCPAddr).IP.String(); got != test.want {
					t.Errorf("connected to %s, want %s", got, test.want)
				}
			}
			if !errors.Is(err, test.wantsErr) {
				t.Errorf("err = %v, want %v", err, test.wantsErr)
			}
		})
	}
}

func TestInterleave(t *testing.T) {
	var list []netip.Addr
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "192.0.2.1", "2001:db8::3", "192.0.2.2"} {
		list = append(list, netip.MustParseAddr(a))
	}
	got := interleave(list)
	want := []netip.Addr{list[0], list[2], list[1], list[4], list[3]}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := interleave(nil); len(got) != 0 {
		t.Errorf("%v of nothing", got)
	}
}

// The address that let us in is remembered for the next dial, and only after the host has shown its key.
func TestLastGood(t *testing.T) {
	s := (&server{}).start(t)
	target, d := s.target(t), &Dialer{}
	wrong := *target
	wrong.UserKnownHostsFiles = nil
	if _, err := d.Dial(t.Context(), &wrong); err == nil || d.lastGood(target).IsValid() {
		t.Errorf("after %v the address is %s", err, d.lastGood(target))
	}
	c, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := d.lastGood(target); got != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("lastGood = %s", got)
	}
	if !d.Online() {
		t.Error("loopback is always there")
	}
	target.HostName = "nosuch.invalid"
	d.good[target.Addr()] = netip.MustParseAddr("127.0.0.1")
	target.HostKeyAlias = fmt.Sprintf("[127.0.0.1]:%d", target.Port)
	if c, err = d.Dial(t.Context(), target); err != nil {
		t.Fatalf("a name that does not resolve any more: %v", err)
	}
	c.Close()
}
