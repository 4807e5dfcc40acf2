package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// program is what one kind of engine adds to a service.
type program interface {
	// look finds out by one script what the box has of it.
	look(ctx context.Context) (*facts, error)
	// fingerprint finds out who listens on an address of the box.
	fingerprint(ctx context.Context, addr string) identity
	// server describes the one that answers on addr.
	server(ctx context.Context, f *facts, addr, version string) *Server
	// absent is the error for a box on which no server was found. foreign is an address where something else answers.
	absent(ctx context.Context, f *facts, foreign string) error
	// ensure does the work of Ensure, and writes into j what it does that can be taken back.
	ensure(ctx context.Context, j *journal, plan Plan, progress func(Progress)) (*Server, error)
	// takeBack undoes a journal. It returns what was undone, in words, and what could not be.
	takeBack(ctx context.Context, j journal) (undone []string, rest journal)
	// command is the process that serves a plan on addr.
	command(ctx context.Context, f *facts, plan Plan, addr string) (job, error)
}

// service is an engine that is one server process on a box: it is found, or started on a free port and awaited, and
// what was done is undone.
type service struct {
	host
	self program

	title   string        // as people write it
	job     string        // the name of its record in ~/.rlca; its log is that with .log
	address string        // the wanted address, empty to find or choose
	port    int           // where it listens by itself
	also    []int         // where other versions of it do
	limit   time.Duration // how long a start may take to answer
	poll    time.Duration // how often what lasts is asked about

	mu   sync.Mutex // guards what follows
	kept journal    // what was done and not taken back
}

// logFile is the name of its log in ~/.rlca.
func (s *service) logFile() string { return s.job + ".log" }

// own is where the engine listens by itself.
func (s *service) own() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// owns are all addresses where versions of the engine listen by themselves.
func (s *service) owns() []string {
	list := []string{s.own()}
	for _, p := range s.also {
		list = append(list, net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
	}
	return list
}

func portOf(addr string) uint16 {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// find returns the server that answers, or nil: on the wanted address, else where rlca started one earlier, else where
// the engine listens by itself. foreignAddr is an address where something else does. One that still loads its model is
// a *LoadingError.
func (s *service) find(ctx context.Context, f *facts, wanted string) (found *Server, foreignAddr string, err error) {
	var places []string
	switch {
	case wanted != "":
		if _, err := netip.ParseAddrPort(wanted); err != nil {
			if _, _, err := net.SplitHostPort(wanted); err != nil {
				return nil, "", fmt.Errorf("engine address %q: %w", wanted, err)
			}
		}
		places = []string{wanted}
	case f.alive:
		places = append([]string{f.ours.address}, s.owns()...)
	default:
		places = s.owns()
	}
	for _, addr := range slices.Compact(places) {
		id := s.self.fingerprint(ctx, addr)
		if err := ctx.Err(); err != nil {
			return nil, "", fmt.Errorf("look for %s on %s: %w", s.title, addr, err)
		}
		switch id.who {
		case itself:
			return s.self.server(ctx, f, addr, id.version), foreignAddr, nil
		case foreign:
			if f.alive && f.ours.address == addr {
				continue // ours, in a container: its port is open before it answers
			}
			if wanted != "" {
				return nil, "", &ForeignError{Engine: s.title, Address: addr, Said: id.said}
			}
			foreignAddr = addr
			s.log.Info("something else listens", "address", addr, "said", id.said)
		case loading:
			return nil, foreignAddr, &LoadingError{Address: addr, Text: id.said}
		case nobody:
			if p := portOf(addr); f.busy(p) && !f.refuses(addr) {
				return nil, "", fmt.Errorf("dial %s on the box, where something listens: %w", addr, id.err)
			}
		}
	}
	return nil, foreignAddr, nil
}

// refuses reports whether the listeners on the port of addr are all on other addresses than addr.
func (f *facts) refuses(addr string) bool {
	want, err := netip.ParseAddrPort(addr)
	if err != nil {
		return false
	}
	for _, l := range f.listeners {
		if l.port == want.Port() && (l.addr.IsUnspecified() || l.addr.Unmap() == want.Addr().Unmap()) {
			return false
		}
	}
	return true
}

// serve finds a server that answers, waits for one that is just being started, or starts one.
func (s *service) serve(ctx context.Context, j *journal, plan Plan, progress func(Progress)) (*Server, *facts, error) {
	for try := 0; ; try++ {
		f, err := s.self.look(ctx)
		if err != nil {
			return nil, nil, err
		}
		found, foreign, err := s.find(ctx, f, plan.Address)
		var busy *LoadingError
		if errors.As(err, &busy) {
			if err := s.ready(ctx, f, busy.Address, progress); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err == nil && found != nil && found.Adopted {
			// Another laptop may have started it since we looked: then it is no stranger's.
			if f, err = s.self.look(ctx); err == nil {
				version := found.Version
				if found.FromSource {
					version = fromSource
				}
				found = s.self.server(ctx, f, found.Address, version)
			}
		}
		if err != nil || found != nil {
			return found, f, err
		}
		if f.alive && plan.Address != "" && plan.Address != f.ours.address {
			return nil, nil, fmt.Errorf("start %s on %s: rlca already runs one on %s on this box: stop that first", s.title, plan.Address, f.ours.address)
		}
		if f.path == "" {
			return nil, nil, s.self.absent(ctx, f, foreign)
		}
		found, err = s.start(ctx, j, f, plan, progress)
		if errors.Is(err, errOther) && try < 3 {
			continue // another laptop was starting one and gave up
		}
		return found, f, err
	}
}

// Ensure finds a server or starts one that serves the model with its context.
func (s *service) Ensure(ctx context.Context, plan Plan, progress func(Progress)) (*Server, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if plan.Address == "" {
		plan.Address = s.address
	}
	var j journal // of this Ensure alone: an earlier one may serve somebody
	server, err := s.self.ensure(ctx, &j, plan, progress)
	if err == nil {
		s.keep(j)
		return server, nil
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	err = s.overrun(undoCtx, j.started, err)
	undone, rest := s.self.takeBack(undoCtx, j)
	s.keep(rest)
	s.log.Info("ensure ended", "err", err, "undone", undone)
	return nil, err
}

// Undo takes back what Ensures of this value did. What cannot be reached stays in the journal for another Undo.
func (s *service) Undo(ctx context.Context, _ *Server) []string {
	s.mu.Lock()
	j := s.kept
	s.kept = journal{}
	s.mu.Unlock()
	undone, rest := s.self.takeBack(ctx, j)
	s.keep(rest)
	return undone
}

func (s *service) keep(j journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept.join(j)
}

// takeBack is for engines that do nothing else than to start a server.
func (s *service) takeBack(ctx context.Context, j journal) (undone []string, rest journal) {
	undone, rest.started = s.endStarted(ctx, j.started)
	return undone, rest
}

// endStarted ends the server that a journal says was started. It returns what was undone, in words, and the record that
// could not be.
func (s *service) endStarted(ctx context.Context, r *record) (undone []string, rest *record) {
	if r == nil {
		return nil, nil
	}
	ended, err := s.halt(ctx, s.job, r.mark, s.logFile(), s.logFile()+".old")
	switch {
	case err != nil:
		s.log.Warn("not undone", "what", "server on "+r.address, "err", err)
		return nil, r
	case ended.address != "":
		undone = append(undone, fmt.Sprintf("stopped %s on %s", s.title, r.address))
	}
	return append(undone, ended.did()...), nil
}

// stopAll is the Stop of an engine that serves files: what rlca started, and its downloads.
func (s *service) stopAll(ctx context.Context) ([]string, error) {
	f, err := s.self.look(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.kept = journal{}
	s.mu.Unlock()
	did, err := s.stopOurs(ctx, f)
	ended, err2 := s.stopRepos(ctx)
	return append(did, ended...), errors.Join(err, err2)
}

// stopOurs ends the server that rlca started, from whichever laptop, and says in words what that was.
func (s *service) stopOurs(ctx context.Context, f *facts) (did []string, err error) {
	if f.ours.mark == "" {
		return nil, nil
	}
	held, err := s.holding(ctx, s.job, nil)
	if err != nil {
		s.log.Info("what it holds is not known", "engine", s.job, "err", err)
	}
	ended, err := s.halt(ctx, s.job, "", s.logFile(), s.logFile()+".old")
	if err != nil || ended.pid == 0 {
		return ended.did(), err
	}
	s.log.Info("stopped", "engine", s.job, "address", f.ours.address, "pid", ended.pid)
	if s.stillOpen(ctx, f.ours.address) {
		return nil, fmt.Errorf("stop %s on %s: its process has ended, but the port still answers", s.title, f.ours.address)
	}
	what := "stopped " + s.title + " on " + f.ours.address
	if !f.alive {
		what = "stopped what a dead " + s.title + " on " + f.ours.address + " had left behind"
	}
	words, warning := s.freed(ctx, held)
	if words != "" {
		what += ": " + words
	}
	did = []string{what}
	if warning != "" {
		did = append(did, "warning: "+warning)
	}
	return append(did, ended.did()...), nil
}

// stillOpen reports whether a port that should be closed still takes connections after two seconds.
func (s *service) stillOpen(ctx context.Context, addr string) bool {
	for range 10 {
		conn, err := s.dialBriefly(ctx, addr)
		if err != nil {
			return false
		}
		conn.Close()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(200 * time.Millisecond):
		}
	}
	return true
}

func (h *host) dialBriefly(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, fingerprintLimit)
	defer cancel()
	return h.box.Dial(ctx, "tcp", addr)
}
