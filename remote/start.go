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

// What the server that we start is called on the box, in ~/.rlca.
const (
	serverJob = "ollama"
	serverLog = "ollama.log"
)

const (
	// startLimit is how long a started server may take to answer: it looks for GPUs first.
	startLimit = 90 * time.Second
	// portsToTry is how many ports from Ollama's own on may be taken.
	portsToTry = 20
)

// errOther says that a server, which another laptop was starting, went away while we waited for it.
var errOther = errors.New("the server that was being started went away")

// errTaken says that the port was taken at the last moment.
var errTaken = errors.New("address already in use")

// start starts a server on the wanted address, or on the first free port from Ollama's own on.
func (o *Ollama) start(ctx context.Context, j *journal, f *facts, plan Plan, progress func(Progress)) (*Server, error) {
	env, args, err := serverEnv(plan, o.modelsFor(ctx, f, plan))
	if err != nil {
		return nil, err
	}
	addrs, err := o.candidates(plan.Address)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if f.busy(portOf(addr)) {
			continue
		}
		if conn, err := o.dialBriefly(ctx, addr); err == nil {
			conn.Close()
			continue
		}
		progress(Progress{Step: StepEngine, Text: "starting Ollama on " + addr})
		s, err := o.startOn(ctx, j, f, addr, env, args)
		if errors.Is(err, errTaken) && len(addrs) > 1 {
			o.log.Info("port was taken meanwhile", "address", addr)
			continue
		}
		return s, err
	}
	if plan.Address != "" {
		return nil, &ForeignError{Engine: "Ollama", Address: plan.Address}
	}
	return nil, &StartError{Engine: "Ollama", Address: addrs[0], Reason: fmt.Sprintf("this and the next %d ports are taken", len(addrs)-1)}
}

func (o *Ollama) dialBriefly(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, fingerprintLimit)
	defer cancel()
	return o.box.Dial(ctx, "tcp", addr)
}

// candidates are the addresses on which a server may be started. Only loopback will do.
func (o *Ollama) candidates(wanted string) ([]string, error) {
	if wanted != "" {
		host, _, _ := net.SplitHostPort(wanted)
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("start Ollama on %s: not a loopback address, and rlca opens nothing to the network", wanted)
		}
		return []string{wanted}, nil
	}
	var list []string
	for p := o.port; p < o.port+portsToTry; p++ {
		list = append(list, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	return list, nil
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
func (o *Ollama) startOn(ctx context.Context, j *journal, f *facts, addr string, env, args []string) (*Server, error) {
	mark := nonce()
	j.started = &record{mark: mark, address: addr} // before it is: a cut can come at any time
	env = append([]string{"OLLAMA_HOST=" + addr}, env...)
	l, err := o.launch(ctx, mark, job{
		name: serverJob, address: addr, env: env, argv: append([]string{f.path, "serve"}, args...), log: serverLog,
	})
	if err != nil {
		return nil, &StartError{Engine: "Ollama", Address: addr, Reason: "it was not launched", Err: err}
	}
	if !l.ours {
		j.started, addr = nil, l.address
	} else {
		o.log.Info("launched", "engine", "ollama", "address", addr, "pid", l.pid)
	}
	version, err := o.await(ctx, addr, l)
	if err != nil {
		return nil, o.giveUp(ctx, j, l, addr, err)
	}
	// The port may answer because somebody else took it in the meantime: ours must still be there.
	again, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	if !again.alive || again.ours.mark != l.mark {
		return nil, o.giveUp(ctx, j, l, addr, errDied)
	}
	s := o.server(again, addr, version)
	s.Fresh = l.ours
	if len(s.Exposed) > 0 && l.ours {
		return nil, &StartError{Engine: "Ollama", Address: addr, Reason: "it listens on " + strings.Join(s.Exposed, ", ") + " although it was told not to"}
	}
	return s, nil
}

// errDied says that the process ended.
var errDied = errors.New("it ended at once")

// await waits until the server answers. It ends early when the process is gone.
func (o *Ollama) await(ctx context.Context, addr string, l *launched) (version string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no answer within %s", startLimit))
	defer cancel()
	asked := time.Now()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, o.poll) {
		id := o.fingerprint(ctx, addr)
		if id.who == ollama {
			return id.version, nil
		}
		// Whether the process is there costs a round trip, so it is asked less often.
		if time.Since(asked) >= o.poll {
			alive, _, err := o.alive(ctx, serverJob, l.mark, serverLog, l.logFrom)
			if err == nil && !alive {
				return "", errDied
			}
			asked = time.Now()
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

// giveUp takes back a start that came to nothing, and says why it did.
func (o *Ollama) giveUp(ctx context.Context, j *journal, l *launched, addr string, cause error) error {
	if !l.ours {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the Ollama that is being started on %s: %w", addr, ctx.Err())
		}
		if errors.Is(cause, errDied) {
			return errOther
		}
		return &StartError{Engine: "Ollama", Address: addr, Reason: "one that rlca started earlier runs there, but does not answer", Err: cause}
	}
	cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	_, lines, _ := o.alive(cleanCtx, serverJob, l.mark, serverLog, l.logFrom)
	_, *j = o.takeBack(cleanCtx, *j)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start Ollama on %s: %w", addr, err)
	}
	for _, line := range lines {
		if strings.Contains(line, "address already in use") || strings.Contains(line, "Only one usage of each socket address") {
			return &StartError{Engine: "Ollama", Address: addr, Reason: cause.Error(), Log: lines, Err: errTaken}
		}
	}
	return &StartError{Engine: "Ollama", Address: addr, Reason: cause.Error(), Log: lines}
}
