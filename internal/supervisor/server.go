// Package supervisor keeps the connections of one user in one background process, so that the terminal can be
// closed and the port stays.
//
// There is one supervisor for each state folder: it holds a lock for life and answers on a socket that only its
// owner can open. It starts with the first connect and ends by itself when the last host is disconnected; nothing
// is installed to run at login.
package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"rlca/internal/instance"
	"rlca/remote"
)

var errLocked = errors.New("another supervisor is running")

// Running reports whether err says that this state folder already has a supervisor.
func Running(err error) bool { return errors.Is(err, errLocked) }

// A supervisor without a host ends after idleLimit, and one that nobody ever called after startLimit.
const (
	idleLimit  = 500 * time.Millisecond
	startLimit = 10 * time.Second
	stopLimit  = 15 * time.Second
)

// VersionHeader names the version of the program on the other side of the socket.
const VersionHeader = "Rlca-Version"

// PortInUseError says that the wanted local port already leads to another connected host.
type PortInUseError struct {
	Listen string `json:"listen"`
	Host   string `json:"host"`
}

func (e *PortInUseError) Error() string {
	return fmt.Sprintf("port %s already leads to %s", e.Listen, e.Host)
}

// Server is the supervisor itself.
type Server struct {
	Paths   Paths
	Version string
	// Stay keeps the supervisor when it has no host.
	Stay bool

	log *slog.Logger

	mu    sync.Mutex // guards what follows
	hosts map[string]*held
	busy  int           // requests in flight
	quiet chan struct{} // one token: something has changed, look whether it is time to end
	ready chan struct{} // closed when the socket answers
}

// held is one host that is connected, or on its way.
type held struct {
	name   string
	since  time.Time
	listen string
	inst   *instance.Instance
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the instance has ended
	leads  string        // the host that its port leads to, empty for its own; guarded by the server's mu

	mu       sync.Mutex // guards what follows
	events   []instance.Event
	changed  chan struct{} // closed and renewed with every event, when ready, when done
	ready    bool
	err      error // set before done is closed
	watchers int
}

func (h *held) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.changed)
	h.changed = make(chan struct{})
}

// Run takes the lock and serves until ctx ends, or until the last host is gone. It returns an error for which
// Running is true if another supervisor has the lock.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Paths.Make(); err != nil {
		return err
	}
	lock, err := lockFile(s.Paths.Lock())
	if err != nil {
		if errors.Is(err, errLocked) {
			return err
		}
		return &StateError{Dir: s.Paths.Run, Err: err}
	}
	defer lock.Close()

	logs := &logFile{path: s.Paths.Log("")}
	defer logs.Close()
	s.log = newLog(logs)

	// We hold the lock, so a socket that is there is a dead one's.
	socket := s.Paths.Socket()
	os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return &StateError{Dir: s.Paths.Run, Err: err}
	}
	defer os.Remove(socket)
	if err := os.Chmod(socket, 0o600); err != nil {
		ln.Close()
		return &StateError{Dir: s.Paths.Run, Err: err}
	}

	s.mu.Lock()
	s.hosts = map[string]*held{}
	s.quiet = make(chan struct{}, 1)
	s.mu.Unlock()
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	close(s.readied())
	s.log.Info("supervisor up", "version", s.Version, "pid", os.Getpid())

	err = s.wait(ctx, served)

	end, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	s.closeAll(end)
	srv.Shutdown(end)
	srv.Close()
	s.log.Info("supervisor ends", "err", err)
	return err
}

// Ready is closed when the supervisor answers on its socket.
func (s *Server) Ready() <-chan struct{} { return s.readied() }

func (s *Server) readied() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready == nil {
		s.ready = make(chan struct{})
	}
	return s.ready
}

// wait returns when ctx ends or when there is nothing left to keep.
func (s *Server) wait(ctx context.Context, served <-chan error) error {
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-served:
			return fmt.Errorf("socket %s: %w", s.Paths.Socket(), err)
		case <-s.quiet:
			timer.Reset(idleLimit)
		case <-timer.C:
			s.mu.Lock()
			over := len(s.hosts) == 0 && s.busy == 0 && !s.Stay
			s.mu.Unlock()
			if over {
				return nil
			}
		}
	}
}

func (s *Server) stir() {
	select {
	case s.quiet <- struct{}{}:
	default:
	}
}

func (s *Server) closeAll(ctx context.Context) {
	s.mu.Lock()
	var all []*held
	for _, h := range s.hosts {
		all = append(all, h)
	}
	s.mu.Unlock()
	for _, h := range all {
		h.cancel(context.Canceled)
	}
	for _, h := range all {
		select {
		case <-h.done:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/connect", s.connect)
	mux.HandleFunc("POST /v1/cancel", s.cancel)
	mux.HandleFunc("POST /v1/disconnect", s.disconnect)
	mux.HandleFunc("POST /v1/poke", s.poke)
	mux.HandleFunc("POST /v1/use", s.use)
	mux.HandleFunc("GET /v1/engine-log", s.engineLog)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.busy++
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			s.busy--
			s.mu.Unlock()
			s.stir()
		}()
		w.Header().Set(VersionHeader, s.Version)
		mux.ServeHTTP(w, r)
	})
}

// Status is the answer of rlca status --json.
type Status struct {
	Hosts []instance.Status `json:"hosts"`
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	var all []*held
	for _, h := range s.hosts {
		all = append(all, h)
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *held) int { return strings.Compare(a.name, b.name) })
	st := Status{Hosts: make([]instance.Status, len(all))}
	var wg sync.WaitGroup
	for i, h := range all {
		wg.Go(func() { st.Hosts[i] = h.inst.Status(r.Context()) })
	}
	wg.Wait()
	send(w, st)
}

func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	var req instance.Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&req); err != nil || req.Name == "" {
		http.Error(w, "the request cannot be read", http.StatusBadRequest)
		return
	}
	h, fresh, err := s.hold(req)
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w).Flush
	if err != nil {
		out.Encode(reply{Error: toWire(err)})
		return
	}
	h.mu.Lock()
	already := !fresh && h.ready
	h.watchers++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.watchers--
		left := h.watchers == 0 && !h.ready
		h.mu.Unlock()
		if left { // whoever waited for it is gone
			h.cancel(context.Canceled)
			<-h.done
		}
	}()
	if already { // it may wait for a person, and here is one
		if err := h.inst.Again(r.Context(), req); err != nil {
			out.Encode(reply{Error: toWire(err)})
			return
		}
	}
	for sent := 0; ; {
		h.mu.Lock()
		events, ready, changed := h.events[sent:], h.ready, h.changed
		h.mu.Unlock()
		if !already {
			for i := range events {
				out.Encode(reply{Event: &events[i]})
			}
		}
		sent += len(events)
		if ready {
			st := h.inst.Status(r.Context())
			out.Encode(reply{Status: &st, Already: already})
			return
		}
		flush()
		select {
		case <-changed:
		case <-h.done:
			err := h.err
			if err == nil {
				err = errors.New("disconnected by another command")
			}
			out.Encode(reply{Error: toWire(err)})
			return
		case <-r.Context().Done():
			return
		}
	}
}

// hold returns the host's entry, and starts it if there is none.
func (s *Server) hold(req instance.Request) (h *held, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[req.Name]; h != nil {
		return h, false, nil
	}
	listen := req.Profile.Forward.Listen
	for _, other := range s.hosts {
		if other.listen == listen && !strings.HasSuffix(listen, ":0") {
			return nil, false, &PortInUseError{Listen: listen, Host: other.name}
		}
	}
	logs := &logFile{path: s.Paths.Log(req.Name)}
	log := newLog(logs)
	ctx, cancel := context.WithCancelCause(context.Background())
	h = &held{
		name: req.Name, listen: listen, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{}),
		inst: instance.New(req.Kept(), log), since: time.Now(),
	}
	s.hosts[req.Name] = h
	s.log.Info("host connects", "host", req.Name)
	go func() {
		defer logs.Close()
		err := h.inst.Run(ctx,
			func(e instance.Event) { h.update(func() { h.events = append(h.events, e) }) },
			func() { h.update(func() { h.ready = true }) })
		s.log.Info("host ended", "host", req.Name, "err", err)
		s.mu.Lock()
		delete(s.hosts, req.Name)
		for _, other := range s.hosts { // a port that led here leads to its own box again
			if other.leads == h.name {
				other.leads = ""
				other.inst.Divert(nil)
			}
		}
		s.mu.Unlock()
		h.mu.Lock()
		h.err = err
		h.mu.Unlock()
		close(h.done)
		cancel(nil)
		s.stir()
	}()
	return h, true, nil
}

// cancel stops a connect that is under way; the connect itself reports what was undone.
func (s *Server) cancel(w http.ResponseWriter, r *http.Request) {
	if h := s.find(r.URL.Query().Get("host")); h != nil {
		h.mu.Lock()
		ready := h.ready
		h.mu.Unlock()
		if !ready {
			h.cancel(context.Canceled)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) poke(w http.ResponseWriter, r *http.Request) {
	if h := s.find(r.URL.Query().Get("host")); h != nil {
		h.inst.Poke("asked to")
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) find(name string) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[name]
}

// Closed says what became of one host after a disconnect.
type Closed struct {
	Host string `json:"host"`
	// Stopped says what was stopped on the box, in words. Empty: nothing was.
	Stopped []string `json:"stopped"`
	// Left says what goes on running there.
	Left []string `json:"left"`
	// Error is why the engine could not be stopped; the port is closed all the same.
	Error string `json:"error,omitempty"`
	// InUse is set if another laptop may be using the engine that was to be stopped: then nothing was closed.
	InUse *remote.InUseError `json:"in_use,omitempty"`
}

func (s *Server) disconnect(w http.ResponseWriter, r *http.Request) {
	h := s.find(r.URL.Query().Get("host"))
	if h == nil {
		http.Error(w, "not connected", http.StatusNotFound)
		return
	}
	c := Closed{Host: h.name, Stopped: []string{}, Left: []string{}}
	q := r.URL.Query()
	if q.Get("stop_engine") != "true" {
		h.inst.Forget(r.Context())
	} else {
		if q.Get("yes") != "true" {
			if c.InUse = h.inst.InUse(r.Context()); c.InUse != nil {
				send(w, c)
				return
			}
		}
		stopped, err := h.inst.StopEngine(r.Context())
		c.Stopped = append(c.Stopped, stopped...)
		if err != nil {
			c.Error = err.Error()
		}
	}
	c.Left = append(c.Left, h.inst.Leaves()...)
	h.cancel(context.Canceled)
	<-h.done
	send(w, c)
}

// Used says which port leads where after a use.
type Used struct {
	Listen string `json:"listen"`
	// Owner is the host that opened the port, Host the one that it leads to now.
	Owner string `json:"owner"`
	Host  string `json:"host"`
}

// usualPort is the one that programs look for a local model on.
const usualPort = "11434"

// use makes a port lead to another host: the one of the number that is given, else the usual one, else that of the host that
// was connected first.
func (s *Server) use(w http.ResponseWriter, r *http.Request) {
	name, port := r.URL.Query().Get("host"), r.URL.Query().Get("port")
	s.mu.Lock()
	defer s.mu.Unlock()
	to := s.hosts[name]
	if to == nil {
		http.Error(w, "not connected", http.StatusNotFound)
		return
	}
	owner := s.owner(cmp.Or(port, usualPort))
	if owner == nil && port == "" {
		for _, h := range s.hosts {
			if owner == nil || h.since.Before(owner.since) {
				owner = h
			}
		}
	}
	if owner == nil {
		http.Error(w, "no host that is connected has the port "+port, http.StatusConflict)
		return
	}
	if !owner.inst.Divert(to.inst) {
		http.Error(w, "the port of "+owner.name+" is its engine's own, and rlca cannot point it elsewhere", http.StatusConflict)
		return
	}
	owner.leads = ""
	if to != owner {
		owner.leads = to.name
	}
	s.log.Info("port", "listen", owner.inst.Listen(), "leads to", to.name)
	send(w, Used{Listen: owner.inst.Listen(), Owner: owner.name, Host: to.name})
}

// owner is the host whose port has a number.
func (s *Server) owner(port string) *held {
	for _, h := range s.hosts {
		if _, p, err := net.SplitHostPort(h.inst.Listen()); err == nil && p == port {
			return h
		}
	}
	return nil
}

func (s *Server) engineLog(w http.ResponseWriter, r *http.Request) {
	h := s.find(r.URL.Query().Get("host"))
	if h == nil {
		http.Error(w, "not connected", http.StatusNotFound)
		return
	}
	text, err := h.inst.EngineLog(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Write([]byte(text))
}

func send(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
