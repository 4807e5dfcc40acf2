package remote

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"
)

// Ollama drives one Ollama on one box. It is safe for concurrent use.
type Ollama struct{ service }

var _ Engine = (*Ollama)(nil)

// NewOllama drives the Ollama on a box. An address, "127.0.0.1:11434", is where it listens or must listen; empty
// means that it is found, or chosen when one is started.
func NewOllama(box Box, address string) *Ollama {
	o := &Ollama{service{host: newHost(box), title: "Ollama", job: "ollama", address: address, port: 11434, limit: 90 * time.Second, poll: time.Second}}
	o.self = o
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
		return nil, o.absent(ctx, f, foreign)
	}
	if list, err := o.api(s.Address).ps(ctx); err == nil && len(list) > 0 {
		s.Model = loadedOf(list[0], baseOf(list[0].Name))
	}
	return s, nil
}

// absent is the error for a box on which nothing was found.
func (o *Ollama) absent(ctx context.Context, f *facts, foreign string) error {
	if f.path != "" {
		return &NotRunningError{Engine: "Ollama", Path: f.path, Version: o.built(ctx, f.path)}
	}
	tried := "no ollama program on its PATH, and none answers on " + cmp.Or(o.address, o.own())
	if foreign != "" {
		tried += "; what listens on " + foreign + " is something else"
	}
	return &NotInstalledError{Engine: "Ollama", Tried: tried}
}

// server describes the one that answers on addr.
func (o *Ollama) server(ctx context.Context, f *facts, addr, version string) *Server {
	s := &Server{Engine: "Ollama", Version: version, Address: addr, Adopted: true}
	if version == fromSource {
		s.FromSource = true
		if v := o.built(ctx, f.path); v != "" {
			s.Version = v
		}
	}
	if f.alive && f.ours.address == addr {
		s.Adopted, s.PID = false, f.ours.pid
	} else if portOf(addr) == uint16(o.port) {
		s.How = f.how
	}
	s.LoopbackBound, s.Exposed = f.bound(portOf(addr))
	return s
}

// fromSource is what a build from source calls itself.
const fromSource = "0.0.0"

// builtScript finds the version that Go writes into a program made by go install.
const builtScript = `[ -r %[1]s ] && say version "$(grep -aom1 'github\.com/ollama/ollama.v[0-9][0-9.]*' %[1]s 2>/dev/null)"`

// built is the version that the program at path was built of, empty if it is not known.
func (o *Ollama) built(ctx context.Context, path string) string {
	if path == "" {
		return ""
	}
	a, err := o.script(ctx, fmt.Sprintf(builtScript, quote(path)))
	if err != nil {
		return ""
	}
	s := a.get("version")
	return s[strings.LastIndexByte(s, 'v')+1:]
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
	o.noteUse(ctx, s, plan)
	return s, nil
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
