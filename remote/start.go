package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// portsToTry is how many ports from the engine's own on may be taken.
	portsToTry = 20
)

// errOther says that a server, which another laptop was starting, went away while we waited for it.
var errOther = errors.New("the server that was being started went away")

// errTaken says that the port was taken at the last moment.
var errTaken = errors.New("address already in use")

// start starts a server on the wanted address, or on the first free port from the engine's own on.
func (s *service) start(ctx context.Context, j *journal, f *facts, plan Plan, progress func(Progress)) (*Server, error) {
	addrs, err := s.candidates(plan.Address)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if f.busy(portOf(addr)) {
			continue
		}
		if conn, err := s.dialBriefly(ctx, addr); err == nil {
			conn.Close()
			continue
		}
		command, err := s.self.command(ctx, f, plan, addr)
		if err != nil {
			return nil, err
		}
		command.floor, command.laptop = plan.Floor, plan.Laptop
		progress(Progress{Step: StepEngine, Text: "starting " + s.title + " on " + addr})
		started, err := s.startOn(ctx, j, addr, command, progress)
		if errors.Is(err, errTaken) && len(addrs) > 1 {
			s.log.Info("port was taken meanwhile", "address", addr)
			continue
		}
		return started, err
	}
	if plan.Address != "" {
		return nil, &ForeignError{Engine: s.title, Address: plan.Address}
	}
	return nil, &StartError{Engine: s.title, Address: addrs[0], Reason: fmt.Sprintf("this and the next %d ports are taken", len(addrs)-1)}
}

// candidates are the addresses on which a server may be started. Only loopback will do.
func (s *service) candidates(wanted string) ([]string, error) {
	if wanted != "" {
		host, _, _ := net.SplitHostPort(wanted)
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("start %s on %s: not a loopback address, and rlca opens nothing to the network", s.title, wanted)
		}
		return []string{wanted}, nil
	}
	var list []string
	for p := s.port; p < s.port+portsToTry; p++ {
		list = append(list, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	return list, nil
}

// command is ollama serve.
func (o *Ollama) command(ctx context.Context, f *facts, plan Plan, addr string) (job, error) {
	models := ""
	if !o.windows() { // where a server has the environment of its account, and so the same folder
		models = o.modelsFor(ctx, f, plan)
	}
	env, args, err := serverEnv(plan, models)
	if err != nil {
		return job{}, err
	}
	return job{env: append([]string{"OLLAMA_HOST=" + addr}, env...), argv: append([]string{f.path, "serve"}, args...)}, nil
}

// serverEnv is the environment of a server that we start, without its address. What the plan adds cannot undo what
// keeps the server private.
func serverEnv(plan Plan, models string) (env, args []string, err error) {
	extra, args := plan.splitArgs()
	for _, e := range extra {
		name, _, _ := strings.Cut(e, "=")
		if !isAssignment(e) || slices.Contains([]string{"OLLAMA_HOST", "OLLAMA_NO_CLOUD", "RLCA_OWNER"}, name) {
			return nil, nil, fmt.Errorf("start Ollama with %s: rlca sets %s itself", e, name)
		}
	}
	keep := plan.KeepAlive
	if keep == "" {
		keep = "-1"
	}
	env = append(env, "OLLAMA_NOPRUNE=1", "OLLAMA_NO_CLOUD=1", "OLLAMA_KEEP_ALIVE="+keep, "OLLAMA_LOAD_TIMEOUT=20m")
	if plan.Context > 0 {
		env = append(env, "OLLAMA_CONTEXT_LENGTH="+strconv.Itoa(plan.Context))
	}
	if plan.Parallel > 0 {
		env = append(env, "OLLAMA_NUM_PARALLEL="+strconv.Itoa(plan.Parallel))
	}
	if models != "" {
		env = append(env, "OLLAMA_MODELS="+models)
	}
	return append(env, extra...), args, nil
}

// modelsFor is the models folder that the server gets: the account's, unless only the folder of a system service has
// the model and can be read. A server of this account would not see it otherwise.
func (o *Ollama) modelsFor(ctx context.Context, f *facts, plan Plan) string {
	files, err := o.onDisk(ctx, f)
	if err != nil {
		return f.models
	}
	for _, m := range files {
		if sameName(m.Name, plan.Model) {
			return m.dir
		}
	}
	return f.models
}

// startOn launches the server and waits until it answers.
func (s *service) startOn(ctx context.Context, j *journal, addr string, command job, progress func(Progress)) (*Server, error) {
	mark := markFor(command.laptop)
	j.started = &record{mark: mark, address: addr} // before it is: a cut can come at any time
	command.name, command.address, command.log = s.job, addr, s.logFile()
	l, err := s.launch(ctx, mark, command)
	if err != nil {
		return nil, &StartError{Engine: s.title, Address: addr, Reason: "it was not launched", Err: err}
	}
	if !l.ours {
		j.started, addr = nil, l.address
	} else {
		s.log.Info("launched", "engine", s.job, "address", addr, "pid", l.pid, "unit", l.unit)
	}
	if l.lingers != "" {
		progress(Progress{Step: StepEngine, Text: "lingering is on for " + l.lingers + " now, so that " + s.title + " outlives the login; it goes off again when it is stopped"})
	}
	l.job, l.progress = command, progress
	version, err := s.await(ctx, addr, l)
	if err != nil {
		return nil, s.giveUp(ctx, j, l, addr, err)
	}
	// The port may answer because somebody else took it in the meantime: ours must still be there.
	again, err := s.self.look(ctx)
	if err != nil {
		return nil, err
	}
	if !again.alive || again.ours.mark != l.mark {
		return nil, s.giveUp(ctx, j, l, addr, errDied)
	}
	started := s.self.server(ctx, again, addr, version)
	started.Fresh = l.ours
	if l.fleeting != "" {
		started.Warnings = append(started.Warnings, s.title+" "+l.fleeting)
	}
	if len(started.Exposed) > 0 && l.ours {
		return nil, &StartError{Engine: s.title, Address: addr, Reason: "it listens on " + strings.Join(started.Exposed, ", ") + " although it was told not to"}
	}
	return started, nil
}

// errDied says that the process ended.
var errDied = errors.New("it ended at once")

// await waits until the server answers. It ends early when the process is gone, or stands still. A launch without a mark
// is somebody else's, of whose process nothing is known.
func (s *service) await(ctx context.Context, addr string, l *launched) (version string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit, fmt.Errorf("no answer within %s", s.limit))
	defer cancel()
	asked, moved := time.Now(), time.Now()
	var sign string
	var told Progress
	if l.job.loading != nil {
		if told = l.job.loading(nil); told.Step != "" {
			l.progress(told)
		}
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, s.poll) {
		id := s.self.fingerprint(ctx, addr)
		switch {
		case id.who == itself:
			return id.version, nil
		case l.mark == "" && id.who != loading && ctx.Err() == nil:
			return "", errDied
		}
		// Whether the process is there costs a round trip, so it is asked less often.
		if l.mark != "" && time.Since(asked) >= s.poll {
			p, err := s.pulseOf(ctx, l)
			if err == nil && !p.alive {
				return "", errDied
			}
			asked = time.Now()
			if err == nil && l.job.loading != nil {
				if now := l.job.loading(p.lines); now.Step != "" && now != told {
					l.progress(now)
					told = now
				}
			}
			if err != nil || p.sign != sign {
				sign, moved = p.sign, asked
			}
			if stall := l.job.stall; stall > 0 && time.Since(moved) > stall {
				return "", fmt.Errorf("it stands still: for %s it has written, read and taken nothing", stall)
			}
		}
		select {
		case <-ctx.Done():
			err := context.Cause(ctx)
			if id.err != nil {
				err = fmt.Errorf("%w; last: %w", err, id.err)
			}
			return "", err
		case <-time.After(wait):
		}
	}
}

// pulseOf asks how a launched process is doing, and no more than its job can use.
func (s *service) pulseOf(ctx context.Context, l *launched) (pulse, error) {
	if l.job.loading == nil {
		alive, lines, err := s.alive(ctx, s.job, l.mark, s.logFile(), l.logFrom)
		return pulse{alive: alive, lines: lines}, err
	}
	return s.pulse(ctx, s.job, l.mark, s.logFile(), l.logFrom, l.job.tail)
}

// ready waits for a server that answers and still loads its model, whoever started it. That it went away meanwhile is
// no error: the caller looks again.
func (s *service) ready(ctx context.Context, f *facts, addr string, progress func(Progress)) error {
	progress(Progress{Step: StepEngine, Text: "waiting for the " + s.title + " on " + addr + ", which loads its model"})
	l := &launched{}
	if f.alive && f.ours.address == addr {
		l.record = f.ours
	}
	_, err := s.await(ctx, addr, l)
	switch {
	case err == nil || errors.Is(err, errDied):
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("wait for %s on %s: %w", s.title, addr, ctx.Err())
	}
	return &StartError{Engine: s.title, Address: addr, Reason: "the one that runs there does not get ready", Err: err}
}

// giveUp takes back a start that came to nothing, and says why it did.
func (s *service) giveUp(ctx context.Context, j *journal, l *launched, addr string, cause error) error {
	if !l.ours {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the %s that is being started on %s: %w", s.title, addr, ctx.Err())
		}
		if errors.Is(cause, errDied) {
			return errOther
		}
		return &StartError{Engine: s.title, Address: addr, Reason: "one that rlca started earlier runs there, but does not answer", Err: cause}
	}
	cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	p, _ := s.pulseOf(cleanCtx, l)
	_, j.started = s.endStarted(cleanCtx, j.started)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s on %s: %w", s.title, addr, err)
	}
	if text, ok := watchdogSaid(p.lines); ok {
		return &StartError{Engine: s.title, Address: addr, Reason: text, Log: p.lines}
	}
	e := &StartError{Engine: s.title, Address: addr, Reason: cause.Error(), Log: p.lines}
	for _, line := range p.lines {
		if strings.Contains(line, "address already in use") || strings.Contains(line, "Only one usage of each socket address") ||
			strings.Contains(line, "couldn't bind HTTP server socket") {
			e.Err = errTaken
			return e
		}
	}
	if l.job.ended != nil {
		return l.job.ended(e)
	}
	return e
}
