package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
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
	retired    time.Duration // silence of a connection that only keeps its streams, and whose TCP has limits of its own
}

var normally = limits{
	handshake: 15 * time.Second, login: 30 * time.Second, open: 10 * time.Second,
	probeAfter: 15 * time.Second, probeLimit: 7 * time.Second, retired: 150 * time.Second,
}

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
	// Secret answers a question of a server's login; nil means that nobody can be asked. An error, of any kind, means
	// that there is no answer, and the dial ends with a *SecretError.
	Secret func(ctx context.Context, q Question) (string, error)
	// Options resolve the hosts of a ProxyJump.
	Options Options
	Log     *slog.Logger

	limits limits // for tests

	mu      sync.Mutex // guards what follows
	jumps   map[string]*Target
	good    map[string]netip.Addr // host:port of a target → where it was reached last
	masters map[string]string     // host:port of a target → why the user's own ssh has to take it there
}

func (d *Dialer) log() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}

// Dial connects and logs in. The connection watches itself from then on, see Client. What our own client cannot do is
// left to the user's own ssh, if there is one, never a refusal. Errors are *DialError, those of Final, or ctx's own.
func (d *Dialer) Dial(ctx context.Context, t *Target) (*Client, error) {
	if why := d.viaSSH(t); why != "" {
		return d.throughSSH(ctx, t, why, nil)
	}
	c, err := d.dial(ctx, t, nil)
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	why, cannot := nativeCannot(err)
	if !cannot {
		why = t.unlocks(err)
	}
	if why != "" {
		return d.throughSSH(ctx, t, why, err)
	}
	return nil, err
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
	d.remember(t, conn)
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
		conn, err = d.connect(ctx, t)
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

// lim are the limits that hold.
func (d *Dialer) lim() limits {
	l := d.limits
	for _, f := range []struct{ of, normal *time.Duration }{
		{&l.handshake, &normally.handshake}, {&l.login, &normally.login}, {&l.open, &normally.open},
		{&l.probeAfter, &normally.probeAfter}, {&l.probeLimit, &normally.probeLimit}, {&l.retired, &normally.retired},
	} {
		if *f.of == 0 {
			*f.of = *f.normal
		}
	}
	return l
}
