package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"syscall"
)

// PortTakenError says that somebody else listens on the wanted local port.
type PortTakenError struct {
	Addr   string `json:"addr"`
	Holder string `json:"holder"` // as "ollama (pid 812)"; empty if it cannot be told
}

func (e *PortTakenError) Error() string {
	s := "local port " + e.Addr + " is taken"
	if filepath.IsAbs(e.Addr) {
		s = "the socket " + e.Addr + " is taken"
	}
	if e.Holder != "" {
		s += " by " + e.Holder
	}
	return s
}

// Listen opens a local port, on loopback only. For 127.0.0.1 and localhost it opens the same port on [::1] too, if
// the machine has it, because clients that look up "localhost" may try that first. Port 0 is any that is free on
// both. A port that somebody else has is a *PortTakenError, and nothing is left open. An address that is an absolute
// path is that of a unix socket, which only this user can reach.
func Listen(addr string) ([]net.Listener, error) {
	if filepath.IsAbs(addr) {
		l, err := listenSocket(addr)
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("listen on %s: only addresses of loopback, the port is for nobody but you", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %q is not a port", addr, port)
	}
	want := netip.AddrPortFrom(ip.Unmap().WithZone(""), uint16(n))
	for try := 1; ; try++ {
		first, err := listen(want)
		if err != nil {
			return nil, err
		}
		if want.Addr().String() != "127.0.0.1" || !hasLoopback6() {
			return []net.Listener{first}, nil
		}
		got := first.Addr().(*net.TCPAddr).AddrPort().Port()
		second, err := listen(netip.AddrPortFrom(netip.IPv6Loopback(), got))
		if err == nil {
			return []net.Listener{first, second}, nil
		}
		first.Close()
		if n != 0 || try == 10 {
			return nil, err
		}
	}
}

func listen(addr netip.AddrPort) (net.Listener, error) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	switch {
	case err == nil:
		return l, nil
	case isInUse(err):
		return nil, &PortTakenError{Addr: addr.String(), Holder: holder(addr)}
	}
	return nil, fmt.Errorf("listen on %s: %w", addr, unwrapNet(err))
}

func isInUse(err error) bool {
	const windows = syscall.Errno(10048) // WSAEADDRINUSE: there EADDRINUSE is a number of its own
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, windows)
}

// hasLoopback6 says whether this machine has [::1].
func hasLoopback6() bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(net.IPv6loopback) {
			return true
		}
	}
	return false
}
