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
	"runtime"
	"strings"
	"time"

	"rlca/probe"
	"rlca/remote"
	"rlca/tunnel"
)

// Far is the far side of an instance: a box over SSH, or this machine.
type Far interface {
	Run(ctx context.Context, script string) ([]byte, error)
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// All three are asked in their own way if they run Windows.
var _, _, _ probe.WindowsRunner = here{}, linked{}, (*tunnel.Client)(nil)

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

// ServerVersion and Command make this machine a probe.WindowsRunner.
func (here) ServerVersion() string {
	if runtime.GOOS == "windows" {
		return "this machine, for_Windows"
	}
	return ""
}

// Command runs a command of plain words.
func (here) Command(ctx context.Context, command string) ([]byte, error) {
	words := strings.Fields(command)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

func (here) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// commandLimit is the longest command that is sent to a Windows box: cmd takes 8191 characters, with its own name.
const commandLimit = 8000

// boxOf is a far side as remote needs it.
func boxOf(far Far, log *slog.Logger) remote.Box {
	box := remote.Box{Run: far.Run, Dial: far.Dial, Log: log}
	w, ok := far.(probe.WindowsRunner)
	if !ok || !probe.IsWindows(w.ServerVersion()) {
		return box
	}
	box.PowerShell = func(ctx context.Context, script string) ([]byte, error) {
		command := probe.PowerShell(script)
		if len(command) > commandLimit {
			return nil, fmt.Errorf("the command has %d characters, and Windows takes %d: fewer or shorter [engine] args", len(command), commandLimit)
		}
		return w.Command(ctx, command)
	}
	return box
}

// linked is the box through a link: each call uses the connection that is up, and waits for one while there is none.
type linked struct {
	link    *tunnel.Link
	version string // of the SSH server at first
}

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

// ServerVersion and Command make a box a probe.WindowsRunner.
func (l linked) ServerVersion() string { return l.version }

func (l linked) Command(ctx context.Context, command string) ([]byte, error) {
	c, err := l.client(ctx)
	if err != nil {
		return nil, err
	}
	return c.Command(ctx, command)
}

func (l linked) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return l.link.Open(ctx, tunnel.Opening{Network: network, Addr: addr})
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
	// Box tells boxes apart, whatever the profile is called.
	Box string
	// Target and Client are nil for this machine.
	Target *tunnel.Target
	Client *tunnel.Client
	// Dial makes one more connection to the same target.
	Redial func(ctx context.Context) (*tunnel.Client, error)
	// Online reports whether this machine has a network to do that over.
	Online func() bool
	// Workers are the other boxes of a cluster, Name what each is called; empty for the box itself.
	Workers []*Reached
	Name    string
}

// Close ends the connections, if there are any.
func (r *Reached) Close() error {
	for _, w := range r.Workers {
		w.Close()
	}
	if r.Client == nil {
		return nil
	}
	return r.Client.Close()
}

// Reach dials the host of a request, or takes this machine, then the workers that it has, and tells emit.
func Reach(ctx context.Context, req Request, log *slog.Logger, emit func(Event)) (*Reached, error) {
	req = req.Kept() // what is said for one box is known for all
	r, err := reach(ctx, req, log, emit)
	if err != nil {
		return nil, err
	}
	for _, w := range req.Workers { // one after the other: each may have to ask a person
		worker, err := reachWorker(ctx, req, w, log, emit)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.Workers = append(r.Workers, worker)
	}
	return r, nil
}

func reachWorker(ctx context.Context, req Request, w Worker, log *slog.Logger, emit func(Event)) (*Reached, error) {
	req.Name, req.Profile, req.Workers = w.Name, w.Profile, nil
	r, err := reach(ctx, req, log, func(e Event) {
		e.Text = w.Name + ": " + e.Text
		emit(e)
	})
	if err != nil {
		return nil, fmt.Errorf("reach %s for [cluster]: %w", w.Name, err)
	}
	r.Name = w.Name
	return r, nil
}

func reach(ctx context.Context, req Request, log *slog.Logger, emit func(Event)) (*Reached, error) {
	start := time.Now()
	if req.Profile.Host == Local {
		emit(Event{Step: StepLink, Text: "this machine, no SSH", Note: took(start), Done: true})
		return &Reached{Far: here{}, Box: boxName(nil)}, nil
	}
	emit(Event{Step: StepLink, Text: "dialing " + req.Profile.Host})
	target, err := tunnel.Resolve(ctx, req.Profile.Host, req.options(log))
	if err != nil {
		return nil, err
	}
	said := req.Kept().memory
	d := &tunnel.Dialer{
		AcceptNew: req.AcceptNew, AgentSocket: req.AgentSocket, Options: req.options(log), Log: log,
		Passphrase: said.passphrase, Secret: said.secret,
	}
	redial := func(ctx context.Context) (*tunnel.Client, error) {
		client, err := d.Dial(ctx, target)
		said.after(err)
		return client, err
	}
	client, err := redial(ctx)
	if err != nil {
		return nil, err
	}
	emit(Event{Step: StepLink, Text: fmt.Sprintf("%s@%s, %s away", target.User, target.Addr(), Away(client.RTT())), Note: took(start), Done: true})
	return &Reached{Far: client, Box: boxName(target), Target: target, Client: client, Redial: redial, Online: d.Online}, nil
}

// Away writes a round trip as "4 ms" or "0.3 ms".
func Away(rtt time.Duration) string {
	ms := rtt.Seconds() * 1000
	if ms < 1 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
