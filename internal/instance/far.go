package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"rlca/tunnel"
)

// Far is the far side of an instance: a box over SSH, or this machine.
type Far interface {
	Run(ctx context.Context, script string) ([]byte, error)
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// here is this machine as the far side.
type here struct{}

// Run feeds the script to /bin/sh on its standard input, as the link does on a box.
func (here) Run(ctx context.Context, script string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-s")
	cmd.Stdin = strings.NewReader(script)
	cmd.WaitDelay = 2 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		return out.Bytes(), ctx.Err()
	}
	if errors.Is(err, exec.ErrWaitDelay) { // a child of the script holds its output open
		err = nil
	}
	if err != nil {
		said := strings.TrimSpace(errs.String())
		return out.Bytes(), fmt.Errorf("run a script on this machine: %w: %s", err, said)
	}
	return out.Bytes(), nil
}

func (here) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// linked is the box through a link: each call uses the connection that is up, and waits for one while there is none.
type linked struct{ link *tunnel.Link }

func (l linked) client(ctx context.Context) (*tunnel.Client, error) {
	conn, err := l.link.Get(ctx)
	if err != nil {
		return nil, err
	}
	return conn.(*tunnel.Client), nil
}

func (l linked) Run(ctx context.Context, script string) ([]byte, error) {
	c, err := l.client(ctx)
	if err != nil {
		return nil, err
	}
	return c.Run(ctx, script)
}

func (l linked) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := l.client(ctx)
	if err != nil {
		return nil, err
	}
	return c.Dial(ctx, network, addr)
}

// Resolve says what would be dialed for a request, without dialing.
func Resolve(ctx context.Context, req Request) (*tunnel.Target, error) {
	return tunnel.Resolve(ctx, req.Profile.Host, req.options(nil))
}

func (r Request) options(log *slog.Logger) tunnel.Options {
	o := tunnel.Options{
		ConfigFile: r.SSHConfig, OpenSSH: r.OpenSSH, Log: log,
		User: r.Profile.User, Port: r.Profile.Port, Jump: r.Profile.Jump,
	}
	for _, f := range r.Profile.Identity {
		o.Identity = append(o.Identity, expandHome(f))
	}
	return o
}

func expandHome(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return home + "/" + rest
		}
	}
	return path
}

// Reached is a far side that answers.
type Reached struct {
	Far
	// Target and Client are nil for this machine.
	Target *tunnel.Target
	Client *tunnel.Client
	// Dial makes one more connection to the same target.
	Redial func(ctx context.Context) (*tunnel.Client, error)
}

// Close ends the connection, if there is one.
func (r *Reached) Close() error {
	if r.Client == nil {
		return nil
	}
	return r.Client.Close()
}

// Reach dials the host of a request, or takes this machine, and tells emit.
func Reach(ctx context.Context, req Request, log *slog.Logger, emit func(Event)) (*Reached, error) {
	start := time.Now()
	if req.Profile.Host == Local {
		emit(Event{Step: StepLink, Text: "this machine, no SSH", Note: took(start), Done: true})
		return &Reached{Far: here{}}, nil
	}
	emit(Event{Step: StepLink, Text: "dialing " + req.Profile.Host})
	target, err := tunnel.Resolve(ctx, req.Profile.Host, req.options(log))
	if err != nil {
		return nil, err
	}
	d := &tunnel.Dialer{AcceptNew: req.AcceptNew, AgentSocket: req.AgentSocket, Options: req.options(log), Log: log}
	if len(req.Passphrases) > 0 {
		d.Passphrase = func(_ context.Context, file string) ([]byte, error) {
			if p, ok := req.Passphrases[file]; ok {
				return []byte(p), nil
			}
			return nil, &tunnel.PassphraseError{File: file}
		}
	}
	redial := func(ctx context.Context) (*tunnel.Client, error) { return d.Dial(ctx, target) }
	client, err := redial(ctx)
	if err != nil {
		return nil, err
	}
	emit(Event{Step: StepLink, Text: fmt.Sprintf("%s@%s, %s away", target.User, target.Addr(), Away(client.RTT())), Note: took(start), Done: true})
	return &Reached{Far: client, Target: target, Client: client, Redial: redial}, nil
}

// Away writes a round trip as "4 ms" or "0.3 ms".
func Away(rtt time.Duration) string {
	ms := rtt.Seconds() * 1000
	if ms < 1 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
