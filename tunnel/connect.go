package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	// nextAddr is how long one address of a host may keep the next one waiting (RFC 8305 §5).
	nextAddr = 250 * time.Millisecond
	// insist is how often a connection is begun anew while none is answered: TCP itself asks after 1, 3 and 7 s, and a
	// network that comes back in between would be missed for seconds.
	insist = 400 * time.Millisecond
	// maxAsking bounds the connections that are under way at once.
	maxAsking = 16
)

// connect makes the TCP connection. Names are looked up anew each time, and the address that let us in last is tried
// beside that: after a sleep the name service is often the last to come back.
func (d *Dialer) connect(ctx context.Context, t *Target) (net.Conn, error) {
	tcp, err := newConnector(t)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, t.connectLimit())
	defer cancel()
	conn, err := tcp.first(limit, d.lastGood(t))
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	e := &DialError{Op: "connect", Addr: t.Addr(), Err: err, Reason: reason(err)}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.Op, e.Addr = "resolve", t.HostName
	case errors.Is(err, errSilent) || isTimeout(err):
		e.Reason = fmt.Sprintf("no answer within %s", t.connectLimit())
	}
	return nil, e
}

// lastGood is the address under which the target was reached the last time.
func (d *Dialer) lastGood(t *Target) netip.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.good[t.Addr()]
}

// remember notes the address under which a target showed its host key.
func (d *Dialer) remember(t *Target, conn net.Conn) {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.good == nil {
		d.good = map[string]netip.Addr{}
	}
	d.good[t.Addr()] = a.AddrPort().Addr().Unmap()
}

// Online reports whether this machine has a network to dial the target over: a route to where it, or a host before
// it, was reached last, or to anywhere at all. Without one a dial is in vain.
func (d *Dialer) Online() bool {
	d.mu.Lock()
	known := make([]netip.Addr, 0, len(d.good)+2)
	for _, a := range d.good {
		known = append(known, a)
	}
	d.mu.Unlock()
	if len(known) == 0 {
		return true // a command, or nobody was reached yet
	}
	// any route out will do besides: the name may lead elsewhere by now (addresses of RFC 5737 and RFC 3849)
	for _, a := range append(known, netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.MustParseAddr("2001:db8::1")) {
		if routable(a) {
			return true
		}
	}
	return false
}

var errSilent = errors.New("no answer")

// connector makes one TCP connection to a host of several addresses.
type connector struct {
	host, port, family string
	dialer             net.Dialer
	lookup             func(ctx context.Context, family, host string) ([]netip.Addr, error)
	got                chan connected
}

type connected struct {
	conn net.Conn
	err  error
}

func newConnector(t *Target) (*connector, error) {
	_, port, _ := net.SplitHostPort(t.Addr())
	c := &connector{host: t.HostName, port: port, family: "ip", lookup: net.DefaultResolver.LookupNetIP, got: make(chan connected)}
	c.dialer = net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         func(_, _ string, c syscall.RawConn) error { return c.Control(setTimeouts) },
	}
	switch t.AddressFamily {
	case "inet":
		c.family = "ip4"
	case "inet6":
		c.family = "ip6"
	}
	if t.BindAddress != "" {
		ip, err := net.ResolveIPAddr(c.family, t.BindAddress)
		if err != nil {
			return nil, &ConfigError{Host: t.Host, Msg: "BindAddress " + clean(t.BindAddress) + " is no address of this machine"}
		}
		c.dialer.LocalAddr = &net.TCPAddr{IP: ip.IP, Zone: ip.Zone}
		c.family = "ip6"
		if ip.IP.To4() != nil {
			c.family = "ip4"
		}
	}
	return c, nil
}

// first returns the first connection that is answered, to any address of the host. good is the address of the last
// time, or not valid.
func (c *connector) first(ctx context.Context, good netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends those that lost
	names := make(chan []netip.Addr, 1)
	var noName error
	go func() {
		defer close(names)
		if list, err := c.lookup(ctx, c.family, c.host); err != nil {
			noName = err
		} else {
			names <- interleave(list)
		}
	}()

	var addrs []netip.Addr // of the host; the good one first
	if good.IsValid() {
		addrs = []netip.Addr{good}
	}
	next, asking := 0, 0
	var failed error
	var began time.Time
	begin := func() {
		if len(addrs) > 0 && asking < maxAsking {
			go c.ask(ctx, addrs[next%len(addrs)])
			next, asking, began = next+1, asking+1, time.Now()
		}
	}
	begin()
	clock := time.NewTicker(50 * time.Millisecond)
	defer clock.Stop()
	for {
		select {
		case list, ok := <-names:
			if !ok {
				names = nil
				break
			}
			for _, a := range list {
				if a.Unmap() != good {
					addrs = append(addrs, a.Unmap())
				}
			}
			if asking == 0 {
				begin()
			}
		case r := <-c.got:
			if r.err == nil {
				return r.conn, nil
			}
			// a dial that is out of time, by its own clock or by ours, was not refused
			if asking, failed = asking-1, r.err; ctx.Err() != nil || isTimeout(r.err) {
				failed = errSilent
			}
			if next < len(addrs) {
				begin()
			}
		case <-clock.C:
			switch since := time.Since(began); {
			case asking == 0:
			case next < len(addrs) && since >= nextAddr, since >= insist:
				begin()
			}
		case <-ctx.Done():
			if asking > 0 {
				return nil, errSilent
			}
		}
		if names != nil || asking > 0 || next < len(addrs) {
			continue
		}
		if noName != nil {
			return nil, noName
		}
		if failed == nil {
			failed = errSilent
		}
		return nil, failed
	}
}

// ask begins one connection. Nobody may want it any more when it is there.
func (c *connector) ask(ctx context.Context, a netip.Addr) {
	conn, err := c.dialer.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), c.port))
	select {
	case c.got <- connected{conn, err}:
	case <-ctx.Done():
		if err == nil {
			conn.Close()
		}
	}
}

// interleave puts the families of addresses in turn, the one that the system prefers first (RFC 8305 §4).
func interleave(list []netip.Addr) []netip.Addr {
	var first, second, out []netip.Addr
	for _, a := range list {
		if a.Unmap().Is4() == list[0].Unmap().Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
