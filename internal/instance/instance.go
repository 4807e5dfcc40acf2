package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"rlca/remote"
	"rlca/tunnel"
)

// Limits of what is done after ctx has ended: undoing on the box, and letting callers go.
const (
	undoLimit  = 20 * time.Second
	closeLimit = 5 * time.Second
)

// Instance is one host that is connected, or on its way.
//
//	Run: reach → survey → serve → answer → ready … until ctx ends
type Instance struct {
	req   Request
	log   *slog.Logger
	since time.Time

	mu      sync.Mutex // guards what follows
	step    Step       // where the walk is; empty when it is ready
	readyAt time.Time
	link    *tunnel.Link
	far     Far
	survey  *Survey
	server  *remote.Server
	fresh   bool // this Run started the engine
	stopped bool // and it was stopped again
	forward *tunnel.Forward
	also    []*tunnel.Forward
	listen  string // the local address, once it is known
	direct  bool   // nothing is forwarded: the engine itself listens where it should
	addr    string // the engine's address on the far side
	lastErr error
	bound   chan struct{} // closed when addr is known
}

// New returns an instance that has not started.
func New(req Request, log *slog.Logger) *Instance {
	return &Instance{req: req, log: log, since: time.Now(), bound: make(chan struct{}), listen: req.Profile.Forward.Listen}
}

func (i *Instance) isLocal() bool { return i.req.Profile.Host == Local }

// Run walks the steps, tells emit of each, calls ready when the first token has come through the port, and then
// keeps everything up until ctx ends. It closes what it opened before it returns. If it returns before ready,
// it has also undone what it started on the box, and an end of ctx is a *CancelledError that says so.
func (i *Instance) Run(ctx context.Context, emit func(Event), ready func()) error {
	// The link and the port outlive ctx by what it takes to undo: the box has to be told.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup // everything that moves
	defer wg.Wait()
	defer end()

	told := emit
	emit = func(e Event) {
		i.mu.Lock()
		i.step = e.Step
		i.mu.Unlock()
		if e.Done {
			i.log.Info("step", "step", e.Step, "text", e.Text, "note", e.Note)
		}
		told(e)
	}

	err := i.up(ctx, life, &wg, emit)
	if err != nil {
		undone, left := i.undo()
		if ctx.Err() != nil {
			err = &CancelledError{At: i.at(), Undone: undone, Left: left}
		}
		i.log.Error("connect ended", "err", err)
		return err
	}
	i.mu.Lock()
	i.step, i.readyAt = "", time.Now()
	i.mu.Unlock()
	i.log.Info("ready", "listen", i.listen)
	ready()
	<-ctx.Done()
	i.log.Info("closing")
	return nil
}

func (i *Instance) at() Step {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.step
}

// up does the steps in their order.
func (i *Instance) up(ctx, life context.Context, wg *sync.WaitGroup, emit func(Event)) error {
	// The port comes first: one that is taken is known before anything is touched on the box, and from here on
	// callers are held instead of refused. On this machine the engine itself may be what listens there.
	if !i.isLocal() {
		if err := i.open(life, wg); err != nil {
			return err
		}
	}
	reached, err := Reach(ctx, i.req, i.log, emit)
	if err != nil {
		return err
	}
	far := i.keep(life, wg, reached)
	survey, err := Look(ctx, i.req, far, i.log, emit)
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.survey = survey
	i.mu.Unlock()
	if err := i.serve(ctx, survey, emit); err != nil {
		return err
	}
	if i.isLocal() {
		if err := i.openLocal(life, wg); err != nil {
			return err
		}
	}
	if err := i.answer(ctx, survey, emit); err != nil {
		return err
	}
	i.portLine(emit)
	if i.link != nil {
		wg.Go(func() { i.attend(life) })
	}
	return nil
}

// keep hands the connection to a link that keeps one up from now on.
func (i *Instance) keep(ctx context.Context, wg *sync.WaitGroup, r *Reached) Far {
	var far Far = r.Far
	if r.Client != nil {
		link := tunnel.NewLink(func(ctx context.Context) (tunnel.Conn, error) {
			c, err := r.Redial(ctx)
			if err != nil {
				return nil, err // never a typed nil
			}
			return c, nil
		}, tunnel.LinkOptions{First: r.Client, Final: tunnel.Final, Log: i.log})
		i.mu.Lock()
		i.link = link
		i.mu.Unlock()
		wg.Go(func() { link.Run(ctx) })
		far = linked{link}
	}
	i.mu.Lock()
	i.far = far
	i.mu.Unlock()
	return far
}

// open makes the local port, and the extra ones, and serves them until ctx ends.
func (i *Instance) open(ctx context.Context, wg *sync.WaitGroup) error {
	hold := i.req.Profile.Forward.Hold.Duration()
	main := &tunnel.Forward{Dial: i.dialEngine, Refused: refused, Hold: hold, Log: i.log}
	ls, err := tunnel.Listen(i.req.Profile.Forward.Listen)
	if err != nil {
		return err
	}
	opened := [][]net.Listener{ls}
	forwards := []*tunnel.Forward{main}
	closeAll := func() {
		for _, ls := range opened {
			for _, l := range ls {
				l.Close()
			}
		}
	}
	for _, spec := range i.req.Profile.Forward.Also {
		local, far, err := spec.Split()
		if err != nil {
			closeAll()
			return err
		}
		ls, err := tunnel.Listen(local)
		if err != nil {
			closeAll()
			return err
		}
		opened = append(opened, ls)
		forwards = append(forwards, &tunnel.Forward{
			Dial:    func(ctx context.Context) (net.Conn, error) { return i.dialFar(ctx, far) },
			Refused: refused, Hold: hold, Log: i.log,
		})
	}
	i.mu.Lock()
	i.forward, i.also = main, forwards[1:]
	i.listen = ls[0].Addr().String()
	i.mu.Unlock()
	for n, f := range forwards {
		wg.Go(func() { f.Serve(ctx, opened[n]...) })
	}
	return nil
}

// openLocal forwards on this machine only if the engine does not listen on the wanted port itself.
func (i *Instance) openLocal(ctx context.Context, wg *sync.WaitGroup) error {
	if samePort(i.addr, i.req.Profile.Forward.Listen) {
		i.mu.Lock()
		i.direct = true
		i.mu.Unlock()
		return nil
	}
	return i.open(ctx, wg)
}

func samePort(a, b string) bool {
	ha, pa, err1 := net.SplitHostPort(a)
	hb, pb, err2 := net.SplitHostPort(b)
	loop := func(h string) bool {
		ip := net.ParseIP(h)
		return h == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
	}
	return err1 == nil && err2 == nil && pa == pb && loop(ha) && loop(hb)
}

// refused are the errors for which no caller is held: nothing listens on the far side, or only a person can help.
func refused(err error) bool {
	var r *tunnel.RefusedError
	return errors.As(err, &r) || tunnel.Final(err)
}

// dialEngine is what stands behind the local port. Until the engine is there it waits.
func (i *Instance) dialEngine(ctx context.Context) (net.Conn, error) {
	select {
	case <-i.bound:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	i.mu.Lock()
	addr := i.addr
	i.mu.Unlock()
	return i.dialFar(ctx, addr)
}

func (i *Instance) dialFar(ctx context.Context, addr string) (net.Conn, error) {
	i.mu.Lock()
	far := i.far
	i.mu.Unlock()
	if far == nil {
		return nil, errors.New("the link is not there yet")
	}
	return far.Dial(ctx, "tcp", addr)
}

// serve makes the engine serve the model, or finds that it does.
func (i *Instance) serve(ctx context.Context, s *Survey, emit func(Event)) error {
	if s.Engine == nil { // --engine none
		i.bind(s.Address)
		note := ""
		conn, err := s.Far.Dial(ctx, "tcp", s.Address)
		if err == nil {
			conn.Close()
		} else {
			note = ", nothing listens there yet"
		}
		emit(Event{Step: StepEngine, Text: "none wanted, the port leads to " + s.Address + note, Done: true})
		return nil
	}
	start := time.Now()
	emit(Event{Step: StepEngine, Text: "looking for " + s.EngineName})
	told := false
	server, err := s.Engine.Ensure(ctx, s.Plan, func(p remote.Progress) {
		if p.Step == remote.StepServing {
			i.serving(p.Server)
			emit(i.engineLine(p.Server, start))
			told, start = true, time.Now()
			return
		}
		step := StepModel
		if p.Step == remote.StepEngine {
			step = StepEngine
		}
		emit(Event{Step: step, Text: p.Text})
	})
	if server != nil {
		i.serving(server)
	}
	if err != nil {
		return err
	}
	if !told {
		emit(i.engineLine(server, start))
	}
	if exposed := server.Exposed; len(exposed) > 0 {
		emit(Event{Step: StepNote, Text: fmt.Sprintf("warning: %s on the box listens on %s, open to its network without a password", server.Engine, strings.Join(exposed, ", ")), Done: true})
	}
	i.bind(server.Address)
	s.Loaded = time.Since(start)
	return nil
}

// serving remembers what runs on the box, so that a walk that stops half way can undo it.
func (i *Instance) serving(s *remote.Server) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.server = s
	i.fresh = i.fresh || s.Fresh
}

func (i *Instance) bind(addr string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.addr == "" {
		close(i.bound)
	}
	i.addr = addr
}

func (i *Instance) engineLine(s *remote.Server, start time.Time) Event {
	return Event{Step: StepEngine, Text: fmt.Sprintf("%s on %s, %s", s.Title(), s.Address, s.Origin()), Note: took(start), Done: true}
}

// answer asks for one real token through the local port.
func (i *Instance) answer(ctx context.Context, s *Survey, emit func(Event)) error {
	if s.Engine == nil {
		return nil
	}
	start := time.Now()
	i.mu.Lock()
	server, url := i.server, "http://"+i.listen
	i.mu.Unlock()
	model := server.Model
	emit(Event{Step: StepModel, Text: model.Name + ": waiting for the first token through the port"})
	first, err := remote.Answer(ctx, url, model.Name)
	if err != nil {
		return fmt.Errorf("ask %s for one token through %s: %w", model.Name, url, err)
	}
	text := "loaded, " + s.contextWord(model.Context) + ", " + placement(model)
	if model.Name != model.Base && model.Base != "" {
		text = "loaded as " + model.Name + ", " + s.contextWord(model.Context) + ", " + placement(model)
	}
	emit(Event{Step: StepModel, Text: fmt.Sprintf("%s, answers in %s", text, Span(first)), Note: Span(s.Loaded + time.Since(start)), Done: true})
	if want := s.Plan.Context; want > 0 && model.Context > 0 && model.Context < want {
		emit(Event{Step: StepNote, Text: fmt.Sprintf("warning: the engine loaded the model with %d tokens, %d were wanted: long prompts will be cut without a word", model.Context, want), Done: true})
	}
	return nil
}

// placement says in words where the model lies.
func placement(m remote.Loaded) string {
	switch {
	case m.SizeBytes <= 0:
		return "placement unknown"
	case m.VRAMBytes >= m.SizeBytes:
		return "all on the GPU"
	case m.VRAMBytes == 0:
		return "on the CPU"
	}
	return fmt.Sprintf("%d %% on the GPU, the rest on the CPU: slow", m.VRAMBytes*100/m.SizeBytes)
}

func (i *Instance) portLine(emit func(Event)) {
	i.mu.Lock()
	url, direct := "http://"+i.listen, i.direct
	if direct {
		url = "http://" + i.addr
	}
	i.mu.Unlock()
	text := url + " is yours and stays open"
	if direct {
		text = url + " is the engine's own port, nothing to forward"
	}
	emit(Event{Step: StepPort, Text: text, Note: "ready", Done: true})
}

// undo takes back what this Run started on the box, on a time of its own, because ctx has ended. What was there
// before is left.
func (i *Instance) undo() (undone, left []string) {
	i.mu.Lock()
	s, server, fresh := i.survey, i.server, i.fresh
	i.mu.Unlock()
	if s == nil || s.Engine == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	undone = s.Engine.Undo(ctx, server) // also a download or a load that was under way
	if server != nil && !fresh {
		left = []string{fmt.Sprintf("%s on %s, %s", server.Title(), server.Address, server.Origin())}
	}
	return undone, left
}

// attend looks after the engine each time the link has come back: one that rlca started and that is gone, because
// the box was restarted, is started again.
func (i *Instance) attend(ctx context.Context) {
	i.mu.Lock()
	link, survey := i.link, i.survey
	i.mu.Unlock()
	lost, healed := false, 0
	for {
		changed := link.Changed()
		st := link.Status()
		// A quick loss and return may fall between two looks: the count of reconnects tells it too. Its callers have
		// ended with their connection; a reset now would hit those on the new one.
		down, again := st.State != tunnel.Up, st.Reconnects != healed
		if down && !lost {
			i.reset()
		}
		if again && !down {
			i.note(i.revive(ctx, survey))
		}
		lost = down
		if !down {
			healed = st.Reconnects
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// reset ends the callers whose far side went with the link: each sees an error at once.
func (i *Instance) reset() {
	i.mu.Lock()
	forwards := append([]*tunnel.Forward{i.forward}, i.also...)
	i.mu.Unlock()
	for _, f := range forwards {
		f.Reset()
	}
}

func (i *Instance) note(err error) {
	if err != nil {
		i.log.Warn("engine after the link came back", "err", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lastErr = err
}

func (i *Instance) revive(ctx context.Context, s *Survey) error {
	if s.Engine == nil {
		return nil
	}
	i.mu.Lock()
	server := i.server
	i.mu.Unlock()
	if server.Adopted {
		return nil // not ours: it comes back by itself, or its owner brings it back
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	again, err := s.Engine.Ensure(ctx, s.Plan, func(remote.Progress) {})
	if err != nil {
		return err
	}
	i.serving(again)
	i.bind(again.Address)
	return nil
}

// Poke makes the link try again at once.
func (i *Instance) Poke(reason string) {
	i.mu.Lock()
	link := i.link
	i.mu.Unlock()
	if link != nil {
		link.Poke(reason)
	}
}

// StopEngine stops the engine on the box if rlca started it, takes back what it added to one that it adopted, and
// says in words what that was.
func (i *Instance) StopEngine(ctx context.Context) ([]string, error) {
	i.mu.Lock()
	s, server := i.survey, i.server
	i.mu.Unlock()
	if s == nil || s.Engine == nil || server == nil {
		return nil, nil
	}
	stopped, err := s.Engine.Stop(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stopped = err == nil && !server.Adopted
	return stopped, err
}

// EngineLog returns the end of the engine's log on the box.
func (i *Instance) EngineLog(ctx context.Context) (string, error) {
	i.mu.Lock()
	s := i.survey
	i.mu.Unlock()
	if s == nil || s.Engine == nil {
		return "", errors.New("there is no engine of which rlca knows a log")
	}
	return s.Engine.Log(ctx)
}

// Leaves says in words what goes on running on the box when the port is closed now.
func (i *Instance) Leaves() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == nil || i.stopped {
		return nil
	}
	return []string{fmt.Sprintf("%s on %s, %s, with %s", i.server.Title(), i.server.Address, i.server.Origin(), i.server.Model.Name)}
}
