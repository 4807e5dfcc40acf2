package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Ollama drives one Ollama on one box. It is safe for concurrent use.
type Ollama struct {
	box     Box
	log     *slog.Logger
	address string        // the wanted address, empty to find or choose
	places  []string      // folders to look for programs in, beside PATH
	port    int           // where Ollama listens by itself
	poll    time.Duration // how often what lasts is asked about

	mu   sync.Mutex // guards what follows
	kept journal    // what was done and not taken back
}

var _ Engine = (*Ollama)(nil)

// NewOllama drives the Ollama on a box. An address, "127.0.0.1:11434", is where it listens or must listen; empty
// means that it is found, or chosen when one is started.
func NewOllama(box Box, address string) *Ollama {
	o := &Ollama{box: box, log: box.Log, address: address, places: places, port: 11434, poll: time.Second}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o *Ollama) api(addr string) *api { return newAPI(o.box.Dial, addr) }

// Find looks at the wanted address, else at the server that rlca started earlier, else at Ollama's own port.
func (o *Ollama) Find(ctx context.Context) (*Server, error) {
	f, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	s, foreign, err := o.find(ctx, f, o.address)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, f.absent(o, foreign)
	}
	if list, err := o.api(s.Address).ps(ctx); err == nil && len(list) > 0 {
		s.Model = loadedOf(list[0], baseOf(list[0].Name))
	}
	return s, nil
}

// absent is the error for a box on which nothing was found.
func (f *facts) absent(o *Ollama, foreign string) error {
	if f.path != "" {
		return &NotRunningError{Engine: "Ollama", Path: f.path}
	}
	tried := "no ollama program on its PATH, and none answers on " + cmp.Or(o.address, o.own())
	if foreign != "" {
		tried += "; what listens on " + foreign + " is something else"
	}
	return &NotInstalledError{Engine: "Ollama", Tried: tried}
}

// find returns the server that answers, or nil. foreign is an address where something else does.
func (o *Ollama) find(ctx context.Context, f *facts, wanted string) (s *Server, foreignAddr string, err error) {
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
		places = []string{f.ours.address, o.own()}
	default:
		places = []string{o.own()}
	}
	for _, addr := range slices.Compact(places) {
		id := o.fingerprint(ctx, addr)
		if err := ctx.Err(); err != nil {
			return nil, "", fmt.Errorf("look for Ollama on %s: %w", addr, err)
		}
		switch id.who {
		case ollama:
			return o.server(f, addr, id.version), foreignAddr, nil
		case foreign:
			if wanted != "" {
				return nil, "", &ForeignError{Engine: "Ollama", Address: addr, Said: id.said}
			}
			foreignAddr = addr
			o.log.Info("something else listens", "address", addr, "said", id.said)
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

// own is where Ollama listens by itself.
func (o *Ollama) own() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port)) }

// server describes the one that answers on addr.
func (o *Ollama) server(f *facts, addr, version string) *Server {
	s := &Server{Engine: "Ollama", Version: version, Address: addr, Adopted: true}
	if f.alive && f.ours.address == addr {
		s.Adopted, s.PID = false, f.ours.pid
	} else if portOf(addr) == uint16(o.port) {
		s.How = f.how
	}
	s.LoopbackBound, s.Exposed = f.bound(portOf(addr))
	return s
}

func portOf(addr string) uint16 {
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	return uint16(n)
}

// Ensure finds a server or starts one, and makes it serve the model with its context.
func (o *Ollama) Ensure(ctx context.Context, plan Plan, progress func(Progress)) (*Server, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if plan.Address == "" {
		plan.Address = o.address
	}
	var j journal // of this Ensure alone: an earlier one may serve somebody
	s, err := o.ensure(ctx, &j, plan, progress)
	if err == nil {
		o.keep(j)
		return s, nil
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	undone, rest := o.takeBack(undoCtx, j)
	o.keep(rest)
	o.log.Info("ensure ended", "err", err, "undone", undone)
	return nil, err
}

func (o *Ollama) ensure(ctx context.Context, j *journal, plan Plan, progress func(Progress)) (*Server, error) {
	s, f, err := o.serve(ctx, j, plan, progress)
	if err != nil {
		return nil, err
	}
	told := *s
	progress(Progress{Step: StepServing, Text: s.Title() + " on " + s.Address + ", " + s.Origin(), Server: &told})
	if s.Model, err = o.model(ctx, j, f, s, plan, progress); err != nil {
		return nil, err
	}
	if len(j.derived) > 0 {
		s.Added = j.derived[0].name
	}
	return s, nil
}

// serve finds a server that answers, waits for one that is just being started, or starts one.
func (o *Ollama) serve(ctx context.Context, j *journal, plan Plan, progress func(Progress)) (*Server, *facts, error) {
	for try := 0; ; try++ {
		f, err := o.look(ctx)
		if err != nil {
			return nil, nil, err
		}
		s, foreign, err := o.find(ctx, f, plan.Address)
		if err == nil && s != nil && s.Adopted {
			// Another laptop may have started it since we looked: then it is no stranger's.
			if f, err = o.look(ctx); err == nil {
				s = o.server(f, s.Address, s.Version)
			}
		}
		if err != nil || s != nil {
			return s, f, err
		}
		if f.alive && plan.Address != "" && plan.Address != f.ours.address {
			return nil, nil, fmt.Errorf("start Ollama on %s: rlca already runs one on %s on this box: stop that first", plan.Address, f.ours.address)
		}
		if f.path == "" {
			return nil, nil, f.absent(o, foreign)
		}
		s, err = o.start(ctx, j, f, plan, progress)
		if errors.Is(err, errOther) && try < 3 {
			continue // another laptop was starting one and gave up
		}
		return s, f, err
	}
}

// Loaded asks the server what it holds of s.Model now.
func (o *Ollama) Loaded(ctx context.Context, s *Server) (Loaded, error) {
	l, err := o.api(s.Address).loaded(ctx, s.Model.Name, s.Model.Base, s.Model.Digest)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask %s what it has loaded: %w", s.Title(), err)
	}
	return l, nil
}

// loaded finds a model in /api/ps. Two names of one model share its place in memory, so the name may be the other one.
func (a *api) loaded(ctx context.Context, name, base, digest string) (Loaded, error) {
	list, err := a.ps(ctx)
	if err != nil {
		return Loaded{}, err
	}
	found := Loaded{Name: name, Base: base, Digest: digest}
	for _, r := range list {
		if sameName(r.Name, name) || digest != "" && r.Digest == digest {
			l := loadedOf(r, base)
			l.Name = name
			return l, nil
		}
	}
	return found, nil
}

func loadedOf(r running, base string) Loaded {
	return Loaded{Name: r.Name, Base: base, Digest: r.Digest, Context: r.Context, SizeBytes: r.Size, VRAMBytes: r.VRAM}
}
