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

	"rlca/internal/fit"
	"rlca/internal/gateway"
	"rlca/probe"
	"rlca/remote"
	"rlca/tunnel"
)

const (
	// undoLimit is how long undoing on the box may take after ctx has ended.
	undoLimit = 20 * time.Second
	// toolLimit is how long a model may take over a call of a tool; what a slow one does is not known then.
	toolLimit = 20 * time.Second
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
	fresh   bool             // this Run started the engine
	stopped bool             // and it was stopped again
	doing   string           // in words, until it is ready
	forward *tunnel.Forward  // of mode tcp
	gateway *gateway.Gateway // of mode http, and its meter
	meter   *gateway.Meter
	leads   *Instance // whose engine the port leads to; nil is its own
	also    []*tunnel.Forward
	listen  string // the local address, once it is known
	direct  bool   // nothing is forwarded: the engine itself listens where it should
	addr    string // the engine's address on the far side
	lastErr error
	priced  *fit.Result     // for engine none, what the model that is served there takes; nil if nobody can tell
	took    *int64          // by how much the load made the box's free memory less; nil if nobody knows
	said    *remote.Buffers // what the engine says that it allocated; nil if it does not
	sample  *probe.Sample   // the box's memory now; nil if nobody knows
	// swapFirst is the swap in use at the first look; scarce says that the memory comes to its end.
	swapFirst *int64
	scarce    string
	bound     chan struct{} // closed when addr is known

	suspect chan struct{} // gets a word when the engine has refused a caller
}

// New returns an instance that has not started.
func New(req Request, log *slog.Logger) *Instance {
	return &Instance{req: req, log: log, since: time.Now(), bound: make(chan struct{}), suspect: make(chan struct{}, 1), listen: req.Profile.Forward.Listen}
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
		i.step, i.doing = e.Step, e.Text
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
			var pull *remote.PullStoppedError
			if errors.As(err, &pull) && !pull.Running {
				kept := "what came is kept"
				if pull.Done > 0 {
					kept = fmt.Sprintf("%s of %s are kept", fit.Bytes(pull.Done), fit.Bytes(pull.Total))
				}
				undone = append([]string{"stopped the download, " + kept}, undone...)
			}
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
	i.keep(life, wg, reached)
	others := i.endOrphans(ctx, reached.Far, emit)
	survey, err := Look(ctx, i.req, reached, i.log, emit)
	if short(survey, err) {
		tellOrphans(others, emit)
	}
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
	open := make(chan string, 1)
	go func() { open <- i.exposure(ctx, reached.Target) }()
	if err := i.answer(ctx, survey, emit); err != nil {
		return err
	}
	if text := <-open; text != "" {
		emit(Event{Step: StepNote, Text: text, Done: true})
	}
	i.portLine(emit)
	wg.Go(func() { i.reconcile(life) })
	if i.link != nil {
		wg.Go(func() { i.attend(life) })
		wg.Go(func() { i.watch(life) })
	}
	wg.Go(func() { i.tend(life, survey) })
	return nil
}

// keep hands the connection to a link that keeps one up from now on, and over which the far side is reached.
func (i *Instance) keep(ctx context.Context, wg *sync.WaitGroup, r *Reached) {
	if r.Client != nil {
		link := tunnel.NewLink(r.Redial, tunnel.LinkOptions{First: r.Client, Final: tunnel.Final, Senses: tunnel.SystemSenses(), Online: r.Online, Log: i.log})
		i.mu.Lock()
		i.link = link
		i.mu.Unlock()
		wg.Go(func() { link.Run(ctx) })
		r.Far = linked{link: link, version: r.Client.ServerVersion()}
	}
	i.mu.Lock()
	i.far = r.Far
	i.mu.Unlock()
	for _, w := range r.Workers {
		if w.Client == nil {
			continue
		}
		link := tunnel.NewLink(w.Redial, tunnel.LinkOptions{First: w.Client, Final: tunnel.Final, Senses: tunnel.SystemSenses(), Online: w.Online, Log: i.log.With("worker", w.Name)})
		wg.Go(func() { link.Run(ctx) })
		w.Far = linked{link: link, version: w.Client.ServerVersion()}
	}
}

// open makes the local port, and the extra ones, and serves them until ctx ends.
func (i *Instance) open(ctx context.Context, wg *sync.WaitGroup) error {
	hold := i.req.Profile.Forward.Hold.Duration()
	ls, err := tunnel.Listen(i.req.Profile.Forward.Listen)
	if err != nil {
		return err
	}
	opened := [][]net.Listener{ls}
	var also []*tunnel.Forward
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
		ls, err := tunnel.Listen(expandHome(local))
		if err != nil {
			closeAll()
			return err
		}
		opened = append(opened, ls)
		also = append(also, &tunnel.Forward{
			Dial:    func(ctx context.Context, from net.Addr) (net.Conn, error) { return i.dialFar(ctx, from, far) },
			Refused: refused, Hold: hold, Log: i.log,
		})
	}
	main := i.newFace()
	i.mu.Lock()
	i.also, i.listen = also, ls[0].Addr().String()
	i.mu.Unlock()
	wg.Go(func() { main.Serve(ctx, ls...) })
	for n, f := range also {
		wg.Go(func() { f.Serve(ctx, opened[n+1]...) })
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

// dialEngine is what stands behind the local port: the engine of this host, or of the one that the port leads to.
func (i *Instance) dialEngine(ctx context.Context, from net.Addr) (net.Conn, error) {
	return i.behind().dialOwn(ctx, from)
}

// dialOwn dials the engine of this host. Until it is there it waits.
func (i *Instance) dialOwn(ctx context.Context, from net.Addr) (net.Conn, error) {
	select {
	case <-i.bound:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	i.mu.Lock()
	addr := i.addr
	i.mu.Unlock()
	conn, err := i.dialFar(ctx, from, addr)
	var no *tunnel.RefusedError
	if errors.As(err, &no) {
		select {
		case i.suspect <- struct{}{}:
		default: // it is looked at already
		}
	}
	return conn, err
}

func (i *Instance) dialFar(ctx context.Context, from net.Addr, addr string) (net.Conn, error) {
	i.mu.Lock()
	far, link := i.far, i.link
	i.mu.Unlock()
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	switch {
	case far == nil:
		return nil, errors.New("the link is not there yet")
	case link != nil:
		return link.Open(ctx, tunnel.Opening{Network: network, Addr: addr, From: from})
	}
	return far.Dial(ctx, network, addr)
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
	if err := i.fetch(ctx, s, emit); err != nil {
		return err
	}
	if s.ring != nil && s.Running == nil {
		for _, text := range s.ring.Opens() {
			emit(Event{Step: StepNote, Text: text, Done: true})
		}
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
	var missing *remote.ModelMissingError
	if errors.As(err, &missing) && missing.Bytes == 0 && s.Fit != nil && s.Fit.Weights != nil {
		missing.Bytes = int64(*s.Fit.Weights) // a download is little more than the weights
	}
	if err != nil {
		return err
	}
	if !told {
		emit(i.engineLine(server, start))
	}
	for _, w := range server.Warnings {
		emit(Event{Step: StepNote, Text: "warning: " + w, Done: true})
	}
	i.bind(server.Address)
	s.Loaded = time.Since(start)
	return nil
}

// fetch downloads the repository that an engine of files shall serve, if it is not on the box and that is allowed, and
// prices it anew: now its size is known.
func (i *Instance) fetch(ctx context.Context, s *Survey, emit func(Event)) error {
	repo, ok := repoOf(s.Plan.Model)
	if !ok || s.kind == engineOllama || s.OnBox || s.kept || !i.req.MayPull {
		return nil
	}
	start := time.Now()
	src, err := remote.FetchRepo(ctx, s.box, repo, func(p remote.Progress) { emit(Event{Step: StepModel, Text: p.Text}) })
	if err != nil {
		return err
	}
	emit(Event{Step: StepModel, Text: fmt.Sprintf("%s is on the box now, %s", s.Plan.Model, fit.Bytes(src.Bytes)), Note: took(start), Done: true})
	now := *s // a status may read the old one meanwhile
	if err := now.choose(ctx, i.req); err != nil {
		return err
	}
	i.mu.Lock()
	*s = now
	i.mu.Unlock()
	emit(Event{Step: StepFit, Text: fitLine(s.Fit), Note: s.verdictWord(), Done: true})
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
	first, err := remote.Answer(ctx, url, i.req.Token, model.Name)
	if err != nil {
		return fmt.Errorf("ask %s for one token through %s: %w", model.Name, url, err)
	}
	text := "loaded, " + s.contextWord(model.Context) + ", " + placement(model)
	if model.Name != model.Base && model.Base != "" {
		text = "loaded as " + model.Name + ", " + s.contextWord(model.Context) + ", " + placement(model)
	}
	emit(Event{Step: StepModel, Text: fmt.Sprintf("%s, answers in %s", text, Span(first)), Note: Span(s.Loaded + time.Since(start)), Done: true})
	if s.chosen.Model.Tools == "yes" { // harnesses work by calls of tools
		emit(Event{Step: StepModel, Text: model.Name + ": waiting for a call of a tool"})
		limited, cancel := context.WithTimeout(ctx, toolLimit)
		err := remote.CallTool(limited, url, i.req.Token, model.Name)
		cancel()
		var no *remote.ToolError
		if errors.As(err, &no) {
			emit(Event{Step: StepNote, Text: "warning: " + no.Error(), Done: true})
		}
		i.log.Info("a call of a tool", "model", model.Name, "err", err)
	}
	if want := s.Plan.Context; want > 0 && model.Context > 0 && model.Context < want {
		then := "long prompts will be cut without a word"
		if s.kind != engineOllama {
			then = "longer prompts will be refused"
		}
		emit(Event{Step: StepNote, Text: fmt.Sprintf("warning: the engine loaded the model with %d tokens, %d were wanted: %s", model.Context, want, then), Done: true})
	}
	return nil
}

// exposure is the warning for an engine that more than the box itself can reach: by the box's own table of listeners,
// and by trying its port past the tunnel, which must fail.
func (i *Instance) exposure(ctx context.Context, t *tunnel.Target) string {
	i.mu.Lock()
	server := i.server
	i.mu.Unlock()
	if server == nil {
		return ""
	}
	reached := ""
	if _, port, err := net.SplitHostPort(server.Address); err == nil {
		reached = openFromHere(ctx, t, port)
	}
	return exposureText(server, reached)
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
// the box was restarted, is started again. One that took too much memory is not.
func (i *Instance) attend(ctx context.Context) {
	i.mu.Lock()
	link, survey := i.link, i.survey
	i.mu.Unlock()
	healed := 0
	for {
		changed := link.Changed()
		// A quick loss and return may fall between two looks: only the count tells.
		if st := link.Status(); st.State == tunnel.Up && st.Reconnects != healed {
			healed = st.Reconnects
			if err := i.watchdogged(ctx, survey); err != nil {
				i.note(err)
			} else {
				i.note(i.revive(ctx, survey))
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Of an engine that is gone: how often one that works on several boxes is looked at, which stands still when a part of it
// ends, and how long after it was started again it is not started again once more.
const (
	tendEvery   = 15 * time.Second
	tendLimit   = 20 * time.Second
	reviveAgain = 10 * time.Minute
)

// fallible is an engine that can say why it is gone.
type fallible interface {
	Down(ctx context.Context) error
}

// tend looks after an engine that rlca started while the link is up: when a caller was refused, and in a cluster now and
// then. Why it is gone is said in the status. It is started again, unless that was not long ago or it took too
// much memory: then somebody has to look why.
func (i *Instance) tend(ctx context.Context, s *Survey) {
	engine, ok := s.Engine.(fallible)
	if !ok {
		return
	}
	var tick <-chan time.Time
	if _, several := s.Engine.(*remote.Cluster); several {
		t := time.NewTicker(tendEvery)
		defer t.Stop()
		tick = t.C
	}
	var revived time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-i.suspect:
		}
		asked, cancel := context.WithTimeout(ctx, tendLimit) // a link that is down is waited for
		down := engine.Down(asked)
		cancel()
		if down == nil || ctx.Err() != nil {
			continue
		}
		i.note(down)
		var ended *remote.EndedError
		if errors.As(down, &ended) && ended.Watchdog || time.Since(revived) < reviveAgain {
			continue
		}
		revived = time.Now()
		if err := i.revive(ctx, s); err != nil {
			i.note(fmt.Errorf("%w; to start it again failed: %w", down, err))
			continue
		}
		i.log.Info("the engine is back", "after", down)
		i.note(nil)
	}
}

// watchdogged is how the engine ended if the memory watchdog on the box ended it, else nil.
func (i *Instance) watchdogged(ctx context.Context, s *Survey) error {
	engine, ok := s.Engine.(fallible)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tendLimit)
	defer cancel()
	down := engine.Down(ctx)
	var ended *remote.EndedError
	if errors.As(down, &ended) && ended.Watchdog {
		return down
	}
	return nil
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
	plan := s.Plan
	plan.MayReplace = false // a yes was for the moment: what another laptop has started since is not taken from it
	again, err := s.Engine.Ensure(ctx, plan, func(remote.Progress) {})
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

// InUse says whether another laptop may be using the engine, as remote.Engine.InUse; nil where nobody is known to, or it
// cannot be asked.
func (i *Instance) InUse(ctx context.Context) *remote.InUseError {
	i.mu.Lock()
	s, server, link := i.survey, i.server, i.link
	i.mu.Unlock()
	if s == nil || s.Engine == nil || server == nil || server.Adopted || link != nil && link.Status().State != tunnel.Up {
		return nil
	}
	var busy *remote.InUseError
	errors.As(s.Engine.InUse(ctx, i.req.Laptop), &busy)
	return busy
}

// Forget notes on the box, if the link is up, that this laptop uses the engine no longer.
func (i *Instance) Forget(ctx context.Context) {
	i.mu.Lock()
	s, link := i.survey, i.link
	i.mu.Unlock()
	if s == nil || s.Engine == nil || link != nil && link.Status().State != tunnel.Up {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := s.Engine.Forget(ctx, i.req.Laptop); err != nil {
		i.log.Info("not noted on the box", "what", "that this laptop uses the engine no longer", "err", err)
	}
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
