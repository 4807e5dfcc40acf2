package instance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"rlca/remote"
	"rlca/tunnel"
)

// openLimit is how long a port may take that should not answer at all: a box's firewall drops in silence.
const openLimit = time.Second

// openFromHere is the address under which a port of the box takes a connection from this machine, past the tunnel; empty
// if it does not. Behind another host, and where the box has an address of this machine, that cannot be tried.
func openFromHere(ctx context.Context, t *tunnel.Target, port string) string {
	if t == nil || len(t.Jumps) > 0 || t.ProxyCommand != "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", t.HostName)
	if err != nil {
		return ""
	}
	mine := map[netip.Addr]bool{}
	if list, err := net.InterfaceAddrs(); err == nil {
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				mine[p.Addr().Unmap()] = true
			}
		}
	}
	for _, a := range addrs {
		if a = a.Unmap(); a.IsLoopback() || mine[a] {
			continue
		}
		addr := net.JoinHostPort(a.String(), port)
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr); err == nil {
			conn.Close()
			return addr
		}
	}
	return ""
}

// exposureText is the warning for a server that more than the box itself can reach, and empty for one that is private.
// reached is the address under which this machine got through to its port, if it did.
func exposureText(s *remote.Server, reached string) string {
	where := strings.Join(s.Exposed, ", ")
	switch {
	case where == "" && reached == "":
		return ""
	case where == "":
		return fmt.Sprintf("warning: %s took a connection from here, past the tunnel: something on the box opens the port of %s to its network", reached, s.Engine)
	case reached != "":
		where += ", and " + reached + " took a connection from here, past the tunnel"
	}
	return fmt.Sprintf("warning: %s on the box listens on %s: open to its network without a password. To close it: %s", s.Engine, where, s.Remedy())
}
