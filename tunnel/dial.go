package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxHops bounds a chain of jumps.
const maxHops = 8

// limits are how long things may take. The zero value of a field is the one of normally.
type limits struct {
	handshake  time.Duration // from the banner to an accepted host key
	login      time.Duration // from there, without the time that a person takes
	open       time.Duration // a channel, and the start of a command
	probeAfter time.Duration // silence after which the other side is asked whether it lives
	probeLimit time.Duration // for any byte after that
}

var normally = limits{handshake: 15 * time.Second, login: 30 * time.Second, open: 10 * time.Second, probeAfter: 15 * time.Second, probeLimit: 7 * time.Second}

// Dialer makes connections to targets. It never prompts: an unknown key is an *UnknownHostKeyError. One dialer may
// be used by several goroutines, and is best kept for all dials to a target: it remembers how its jumps resolve.
type Dialer struct {
	// AcceptNew takes and writes the key of a host that has none in known_hosts, unless ssh_config says
	// StrictHostKeyChecking yes.
	AcceptNew bool
	// AgentSocket is the agent's address if ssh_config names none. Empty means $SSH_AUTH_SOCK.
	AgentSocket string
	// Passphrase opens an encrypted key; nil means that nobody can be asked. The file is that of PassphraseError.
	Passphrase func(ctx context.Context, file string) ([]byte, error)
	// Options resolve the hosts of a ProxyJump.
	Options Options
	Log     *slog.Logger

	limits limits // for tests

	mu    sync.Mutex // guards what follows
	jumps map[string]*Target
}

func (d *Dialer) log() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}

// Dial connects and logs in. The connection watches itself from then on, see Client. Errors are *DialError, those of
// Final, or ctx's own.
func (d *Dialer) Dial(ctx context.Context, t *Target) (*Client, error) {
	return d.dial(ctx, t, nil)
}

// dial reaches a target; path are the targets that wait for this one.
func (d *Dialer) dial(ctx context.Context, t *Target, path []string) (*Client, error) {
	start := time.Now()
	conn, via, err := d.reach(ctx, t, path)
	if err != nil {
		return nil, err
	}
	c, err := d.login(ctx, t, conn, via)
	if err != nil {
		if via != nil {
			via.Close()
		}
		conn.Close()
		return nil, err
	}
	d.log().Debug("connected", "host", t.Host, "addr", t.Addr(), "server", c.ServerVersion(), "rtt", c.RTT(), "after", time.Since(start))
	return c, nil
}

// reach makes the connection under SSH: through jumps, through a command, or straight.
func (d *Dialer) reach(ctx context.Context, t *Target, path []string) (conn net.Conn, via *Client, err error) {
	switch {
	case len(t.Jumps) > 0:
		if via, err = d.jump(ctx, t, append(slices.Clip(path), t.User+"@"+t.Addr())); err != nil {
			return nil, nil, err
		}
		conn, err = via.Dial(ctx, "tcp", t.Addr())
		if err == nil {
			return conn, via, nil
		}
		via.Close()
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		// not wrapped: a refusal here is not one of the target's
		return nil, nil, &DialError{Op: "connect", Addr: t.Addr(), Reason: "through " + via.target.Host + ": " + reason(err)}
	case t.ProxyCommand != "":
		conn, err = proxy(ctx, t, d.log())
	default:
		conn, err = connect(ctx, t)
	}
	return conn, nil, err
}

// jump reaches the last host before the target.
func (d *Dialer) jump(ctx context.Context, t *Target, path []string) (*Client, error) {
	last, rest := t.Jumps[len(t.Jumps)-1], t.Jumps[:len(t.Jumps)-1]
	hop, err := d.resolve(ctx, last)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 { // only the first of a chain goes by its own ProxyJump
		hop.Jumps, hop.ProxyCommand = rest, ""
	}
	if name := hop.User + "@" + hop.Addr(); slices.Contains(path, name) || len(path) > maxHops {
		return nil, &ConfigError{Host: t.Host, Msg: "ProxyJump goes in a circle: " + strings.Join(append(path, name), ", then ")}
	}
	c, err := d.dial(ctx, hop, path)
	if err != nil {
		return nil, fmt.Errorf("jump over %s: %w", hop.Host, err)
	}
	return c, nil
}

// resolve resolves a jump, once: `ssh -G` is slow, and a link dials again and again.
func (d *Dialer) resolve(ctx context.Context, host string) (*Target, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.jumps[host]
	if t == nil {
		o := d.Options
		o.User, o.Port, o.Identity, o.Jump = "", 0, nil, nil // these are the target's
		var err error
		if t, err = Resolve(ctx, host, o); err != nil {
			return nil, err
		}
		if d.jumps == nil {
			d.jumps = map[string]*Target{}
		}
		d.jumps[host] = t
	}
	hop := *t
	return &hop, nil
}

// connect makes the TCP connection. Names are looked up anew each time.
func connect(ctx context.Context, t *Target) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout:         t.connectLimit(),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control:         func(_, _ string, c syscall.RawConn) error { return c.Control(setTimeouts) },
	}
	network := "tcp"
	switch t.AddressFamily {
	case "inet":
		network = "tcp4"
	case "inet6":
		network = "tcp6"
	}
	if t.BindAddress != "" {
		ip, err := net.ResolveIPAddr("ip", t.BindAddress)
		if err != nil {
			return nil, &ConfigError{Host: t.Host, Msg: "BindAddress " + clean(t.BindAddress) + " is no address of this machine"}
		}
		dialer.LocalAddr = &net.TCPAddr{IP: ip.IP, Zone: ip.Zone}
	}
	conn, err := dialer.DialContext(ctx, network, t.Addr())
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e := &DialError{Op: "connect", Addr: t.Addr(), Err: err, Reason: reason(err)}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		e.Op, e.Addr = "resolve", t.HostName
	case isTimeout(err):
		e.Reason = fmt.Sprintf("no answer within %s", t.connectLimit())
	}
	return nil, e
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// lim are the limits that hold.
func (d *Dialer) lim() limits {
	l := d.limits
	for _, f := range []struct{ of, normal *time.Duration }{
		{&l.handshake, &normally.handshake}, {&l.login, &normally.login}, {&l.open, &normally.open},
		{&l.probeAfter, &normally.probeAfter}, {&l.probeLimit, &normally.probeLimit},
	} {
		if *f.of == 0 {
			*f.of = *f.normal
		}
	}
	return l
}
