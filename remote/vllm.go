package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// VLLM drives one vLLM on one box: a process that serves one model. It is safe for concurrent use.
type VLLM struct{ service }

var _ Engine = (*VLLM)(nil)

// NewVLLM drives the vLLM on a box. An address, "127.0.0.1:8000", is where it listens or must listen; empty means that
// it is found, or chosen when one is started.
//
// A plan's model is a folder on the box, or a Hugging Face repository that lies in the hub's cache of this account:
// nothing is downloaded here. A server of rlca's that serves another model, or with another context, is stopped and
// started anew; one that somebody else runs is taken only if it serves the model.
func NewVLLM(box Box, address string) *VLLM {
	v := &VLLM{service{host: newHost(box), title: "vLLM", job: "vllm", address: address, port: 8000, limit: vllmLimit, poll: 2 * time.Second}}
	v.self = v
	return v
}

// How long a start may take: in all, and without a sign of life.
const (
	vllmLimit = 30 * time.Minute
	vllmStall = 5 * time.Minute
)

// restarts is how often a server of ours is stopped because it serves something else: another laptop may want that.
const restarts = 2

// Find looks at the wanted address, else at the server that rlca started earlier, else at vLLM's own port. One that is
// still starting does not answer, so there is none.
func (v *VLLM) Find(ctx context.Context) (*Server, error) {
	f, err := v.look(ctx)
	if err != nil {
		return nil, err
	}
	s, foreign, err := v.find(ctx, f, v.address)
	switch {
	case err != nil:
		return nil, err
	case s == nil || f.leftBehind(s):
		return nil, v.absent(ctx, f, foreign)
	}
	if list, err := v.models(ctx, s.Address); err == nil && len(list) > 0 {
		s.Model = v.measured(ctx, s, list[0].loaded())
	}
	return s, nil
}

// absent is the error for a box on which nothing was found.
func (v *VLLM) absent(_ context.Context, f *facts, foreign string) error {
	if f.path != "" {
		return &NotRunningError{Engine: "vLLM", Path: f.path, Version: f.vllm.version}
	}
	tried := "no vllm program on its PATH, in ~/.rlca/vllm or in the usual environments, and none answers on " + cmp.Or(v.address, v.own())
	if foreign != "" {
		tried += "; what listens on " + foreign + " is something else"
	}
	for _, l := range f.vllm.lacking() {
		tried += "; " + l
	}
	return &NotInstalledError{Engine: "vLLM", Tried: tried}
}

// server describes the one that answers on addr.
func (v *VLLM) server(_ context.Context, f *facts, addr, version string) *Server {
	s := &Server{Engine: "vLLM", Version: version, Address: addr, Adopted: true}
	if f.alive && f.ours.address == addr {
		s.Adopted, s.PID = false, f.ours.pid
	} else {
		s.How = f.vllm.how(portOf(addr))
	}
	s.LoopbackBound, s.Exposed = f.bound(portOf(addr))
	return s
}

func (v *VLLM) ensure(ctx context.Context, j *journal, plan Plan, progress func(Progress)) (*Server, error) {
	if len(plan.Model) > 1 {
		plan.Model = strings.TrimRight(plan.Model, "/")
	}
	again := false
	for try := 0; ; try++ {
		s, f, err := v.serve(ctx, j, plan, progress)
		var foreign *ForeignError
		if try < restarts && f != nil && (err == nil && f.leftBehind(s) || errors.As(err, &foreign) && f.vllm.left && foreign.Address == f.ours.address) {
			progress(Progress{Step: StepEngine, Text: "ending the container on " + f.ours.address + " that an earlier start has left"})
			if _, err := v.stopOurs(ctx, f); err != nil {
				return nil, err
			}
			continue
		}
		var start *StartError
		if errors.As(err, &start) && start.Class == "race" && !again {
			again = true
			progress(Progress{Step: StepEngine, Text: "starting vLLM once more: memory moved while it measured it"})
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err := v.models(ctx, s.Address)
		if err != nil {
			return nil, fmt.Errorf("ask %s what it serves: %w", s.Title(), err)
		}
		m := pick(list, plan.Model)
		if m == nil && strings.HasPrefix(plan.Model, "~") {
			if src, err := v.source(ctx, plan.Model); err == nil {
				m = pick(list, src.Path)
			}
		}
		if m != nil && (s.Adopted || plan.Context == 0 || m.Context == plan.Context) {
			s.Model = v.measured(ctx, s, m.loaded())
			v.noteUse(ctx, s, plan)
			if !s.Adopted {
				s.Warnings = append(s.Warnings, v.warnings(ctx, plan, s.Version)...)
				if w := f.vllm.porous(); w != "" {
					s.Warnings = append(s.Warnings, w)
				}
			}
			told := *s
			progress(Progress{Step: StepServing, Text: s.Title() + " on " + s.Address + ", " + s.Origin(), Server: &told})
			return s, nil
		}
		said := describeRows(list)
		if s.Adopted || s.Fresh || try >= restarts {
			return nil, &ServesOtherError{Engine: "vLLM", Address: s.Address, Serves: said, Want: plan.Model}
		}
		// Before a server is ended for it, the model must be there.
		if _, err := v.source(ctx, plan.Model); err != nil {
			return nil, err
		}
		f, err = v.look(ctx)
		if err != nil {
			return nil, err
		}
		if err := v.mayReplace(ctx, f.ours.mark, s.Address, said, plan); err != nil {
			return nil, err
		}
		progress(Progress{Step: StepEngine, Text: "stopping vLLM on " + s.Address + ", which serves " + said})
		if _, err := v.stopOurs(ctx, f); err != nil {
			return nil, err
		}
		j.started = nil
	}
}

// served is a row of /v1/models.
type served struct {
	ID      word   `json:"id"`
	Root    word   `json:"root"`
	Owner   word   `json:"owned_by"`
	Parent  word   `json:"parent"` // of an adapter
	Limit   count  `json:"max_model_len"`
	Context int    `json:"-"`
	name    string // ID, fit for a terminal
}

func (r *served) loaded() Loaded {
	return Loaded{Name: r.name, Base: cmp.Or(clean(r.Root.path()), r.name), Context: r.Context}
}

// models asks what a server serves.
func (v *VLLM) models(ctx context.Context, addr string) ([]served, error) {
	var said struct {
		Data []served `json:"data"`
	}
	if err := newAPI(v.box.Dial, addr).call(ctx, askLimit, "GET", "/v1/models", nil, &said); err != nil {
		return nil, err
	}
	for i := range said.Data {
		said.Data[i].name, said.Data[i].Context = clean(string(said.Data[i].ID)), said.Data[i].Limit.tokens()
	}
	return said.Data, nil
}

// pick finds the row of a model: by the name that is asked for, else by what it was made of. Of several names the
// first row's is the one that answers carry.
func pick(list []served, model string) *served {
	model = strings.TrimRight(model, "/")
	for i, r := range list {
		if root := strings.TrimRight(string(r.Root), "/"); r.name == model || root == model || repositoryOf(root) == model {
			if r.Parent == "" && list[0].Root == r.Root {
				return &list[0]
			}
			return &list[i]
		}
	}
	return nil
}

// describeRows says in words what a server serves.
func describeRows(list []served) string {
	var names []string
	for _, r := range list {
		root := clean(string(r.Root))
		switch {
		case len(names) == 3:
			return strings.Join(names, ", ") + ", …"
		case r.Parent == "" && len(names) > 0 && list[0].Root == r.Root:
			continue // another name of the first
		case root != "" && root != r.name:
			names = append(names, fmt.Sprintf("%s (%s) with a context of %d", r.name, root, r.Context))
		default:
			names = append(names, fmt.Sprintf("%s with a context of %d", r.name, r.Context))
		}
	}
	if len(names) == 0 {
		return "no model"
	}
	return strings.Join(names, ", ")
}

// snapshot is where the hub's cache keeps a repository.
var snapshot = regexp.MustCompile(`/models--([^/]+?)--([^/]+)/snapshots/[^/]+$`)

// repositoryOf is the name of the repository whose files lie in a folder of the hub's cache, empty for another folder.
func repositoryOf(folder string) string {
	m := snapshot.FindStringSubmatch(folder)
	if m == nil {
		return ""
	}
	return m[1] + "/" + m[2]
}

// alias is the name that a model is served under, without a slash: some harnesses cannot ask for one that has it.
func alias(model string) string {
	model = strings.TrimRight(model, "/")
	name := path.Base(cmp.Or(repositoryOf(model), model))
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._-", r):
			return r
		}
		return '-'
	}, name)
	if strings.Trim(name, ".-") == "" {
		return "model"
	}
	return name
}

// source reads of a model on the box what tells how to serve it.
func (v *VLLM) source(ctx context.Context, model string) (*Source, error) {
	folder := strings.HasPrefix(model, "/") || strings.HasPrefix(model, "~")
	if !folder && !repository.MatchString(model) {
		return nil, fmt.Errorf("vLLM serves a Hugging Face repository, org/name, or a folder on the box: %w", v.missing(ctx, model))
	}
	src, err := ReadModel(ctx, v.box, model, 0)
	var missing *ModelMissingError
	switch {
	case errors.As(err, &missing) && !folder:
		return nil, v.missing(ctx, model)
	case err != nil:
		return nil, err
	case src.Format != "safetensors":
		return nil, fmt.Errorf("serve %s with vLLM: it is a %s file, and vLLM wants a folder with config.json and *.safetensors: Ollama and llama-server serve it", clean(model), strings.ToUpper(src.Format))
	case src.Missing > 0 && !folder:
		return nil, fmt.Errorf("%d of its %d files lack: %w", src.Missing, src.Parts, &ModelMissingError{Model: model})
	case src.Missing > 0:
		return nil, fmt.Errorf("serve %s with vLLM: %d of its %d files lack", clean(model), src.Missing, src.Parts)
	}
	return src, nil
}

// missing is the error for a model that is not on the box, with those that are.
func (v *VLLM) missing(ctx context.Context, model string) error {
	e := &ModelMissingError{Model: model}
	if list, err := v.cached(ctx); err == nil {
		var names []string
		for _, m := range list {
			names = append(names, m.Name)
		}
		e.Near = near(model, names)
	}
	return e
}

// Loaded asks the server what it serves now.
func (v *VLLM) Loaded(ctx context.Context, s *Server) (Loaded, error) {
	list, err := v.models(ctx, s.Address)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask %s what it serves: %w", s.Title(), err)
	}
	m := pick(list, cmp.Or(s.Model.Base, s.Model.Name))
	if m == nil {
		m = pick(list, s.Model.Name)
	}
	if m == nil {
		return Loaded{Name: s.Model.Name, Base: s.Model.Base}, nil
	}
	return v.measured(ctx, s, m.loaded()), nil
}

// Stop ends the server that rlca started on the box, with its workers, also those that outlived it.
func (v *VLLM) Stop(ctx context.Context) ([]string, error) { return v.stopAll(ctx) }

// vllmLogScript prints the end of the log: of the server that we started, else of a system service.
const vllmLogScript = `
f=$D/%s
if [ -r "$f" ]; then tail -n 400 "$f" | tr '\r' '\n'
elif command -v journalctl >/dev/null 2>&1; then journalctl --no-pager -q -o cat -u vllm -n 400 2>/dev/null; fi | tail -n 400 | cut -c 1-2000 | while IFS= read -r l; do say log "$l"; done
`

// Log returns the end of the server's log.
func (v *VLLM) Log(ctx context.Context) (string, error) {
	a, err := v.script(ctx, fmt.Sprintf(vllmLogScript, quote(v.logFile())))
	if err != nil {
		return "", fmt.Errorf("read the engine's log: %w", err)
	}
	if len(a.lines["log"]) == 0 {
		return "", nil
	}
	return strings.Join(a.lines["log"], "\n") + "\n", nil
}
