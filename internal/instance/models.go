package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"rlca/internal/fit"
	"rlca/remote"
	"rlca/tunnel"
)

// Pulled is a model that a download has brought onto a box.
type Pulled struct {
	Model  string `json:"model"`
	Engine string `json:"engine"`
	// Path is where a repository lies; of Ollama's models it is empty.
	Path string `json:"path"`
	// Bytes is what it takes on the disk.
	Bytes int64 `json:"bytes"`
	// Fit is what it would need with the profile's context; nil if that is not known.
	Fit *fit.Result `json:"fit"`
}

// Pull downloads a model on a box, by the way of the engine that would serve it, and starts nothing but an Ollama that
// has to be there for it. It goes on over a link that is lost meanwhile. A model that does not fit is a
// *fit.ShortfallError, unless agree says that it is wanted all the same. When ctx ends the error is a
// *remote.PullStoppedError.
func Pull(ctx context.Context, req Request, r *Reached, log *slog.Logger, emit func(Event), agree func(*fit.ShortfallError) bool) (*Pulled, error) {
	done, err := pullOn(ctx, req, r, log, emit, agree)
	var stopped *remote.PullStoppedError
	if err != nil && ctx.Err() != nil && !errors.As(err, &stopped) { // before there was a download to stop
		err = &remote.PullStoppedError{Model: req.Profile.Model.Name, Err: err}
	}
	return done, err
}

func pullOn(ctx context.Context, req Request, r *Reached, log *slog.Logger, emit func(Event), agree func(*fit.ShortfallError) bool) (*Pulled, error) {
	r, end := r.lasting(ctx, log)
	defer end()
	report, err := Probe(ctx, r.Far, emit)
	if err != nil {
		return nil, err
	}
	catalog, err := fit.LoadCatalog(req.Catalog)
	if err != nil {
		return nil, err
	}
	s := &Survey{Far: r.Far, Box: r.Box, Report: report, catalog: catalog}
	s.box = boxOf(r.Far, log)
	name := req.Profile.Model.Name
	if s.kind, err = s.keeper(req); err != nil {
		return nil, err
	}
	if report.OS == "windows" && s.kind != engineOllama {
		return nil, fmt.Errorf("pull %s on %s: on Windows rlca downloads Ollama's models alone: name an Ollama tag, or --engine ollama", name, req.Name)
	}
	req.Profile.Engine.Name, req.MayPull = s.kind, true
	err = s.pricePull(ctx, req, log)
	var short *fit.ShortfallError
	if err != nil && !errors.As(err, &short) {
		return nil, err
	}
	if s.Fit != nil && s.Fit.Total != nil {
		emit(Event{Step: StepFit, Text: fitLine(s.Fit), Note: word(s.Fit.Verdict), Done: true})
	}
	if short != nil && !agree(short) {
		return nil, short
	}
	start := time.Now()
	done := &Pulled{Model: name, Engine: engines[s.kind].title, Fit: s.Fit}
	tell := func(p remote.Progress) {
		if p.Step == remote.StepServing {
			emit(Event{Step: StepEngine, Text: p.Text, Done: true})
			return
		}
		emit(Event{Step: StepModel, Text: p.Text})
	}
	if s.kind == engineOllama {
		var need int64
		if s.Fit != nil && s.Fit.Weights != nil {
			need = int64(*s.Fit.Weights)
		}
		m, err := remote.NewOllama(s.box, req.Profile.Engine.Address).Pull(ctx, cmp.Or(s.Plan.Model, name), need, tell)
		if err != nil {
			return nil, err
		}
		done.Model, done.Bytes = m.Name, m.Bytes
	} else {
		repo, _ := repoOf(name)
		src, err := remote.FetchRepo(ctx, s.box, repo, tell)
		if err != nil {
			return nil, err
		}
		done.Path, done.Bytes = src.Path, src.Bytes
	}
	emit(Event{Step: StepModel, Text: fmt.Sprintf("%s is on the box, %s", done.Model, fit.Bytes(done.Bytes)), Note: took(start), Done: true})
	return done, nil
}

func word(v fit.Verdict) string {
	return map[fit.Verdict]string{fit.Fits: "fits", fit.Tight: "tight", fit.No: "does not fit", "": "not known"}[v]
}

// keeper is the engine that a model is pulled for: the one that is named; else by the shape of the model's name Ollama, or
// one that serves repositories of Hugging Face. "org/name" can be both: then what the box has decides.
func (s *Survey) keeper(req Request) (string, error) {
	name, kind := req.Profile.Model.Name, req.Profile.Engine.Name
	repo, isRepo := repoOf(name)
	for _, c := range name {
		if c <= ' ' {
			return "", fmt.Errorf("pull %q: a model's name has no blanks", name)
		}
	}
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "~") || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("pull %s: a path is no model that could be downloaded: name an Ollama tag or a repository of Hugging Face, org/name", name)
	}
	if name == "auto" || name == "" {
		return "", errors.New("pull a model: name it; rlca models HOST says what would fit")
	}
	files := engineVLLM
	if repo.Quant != "" || strings.Contains(strings.ToLower(name), "gguf") || s.Report.Engine(engineVLLM) == nil && s.Report.Engine(engineLlama) != nil {
		files = engineLlama
	}
	switch {
	case kind == engineOllama:
		return kind, nil
	case kind == engineVLLM || kind == engineLlama:
		if !isRepo {
			return "", fmt.Errorf("pull %s for %s: it is no repository of Hugging Face, org/name or org/name:Q4_K_M; of Ollama: --engine ollama", name, kind)
		}
		return kind, nil
	case !isRepo:
		return engineOllama, nil
	case s.Report.Engine(engineVLLM) != nil || s.Report.Engine(engineLlama) != nil:
		return files, nil
	case s.Report.Engine(engineOllama) != nil:
		return engineOllama, nil
	}
	return files, nil
}

// pricePull says what a model would need that is not loaded: a *fit.ShortfallError if that is more than the box has.
// Where nobody knows before it is there, Fit has no total.
func (s *Survey) pricePull(ctx context.Context, req Request, log *slog.Logger) error {
	if s.kind == engineOllama {
		if err := s.find(ctx, req, log); err != nil {
			return err
		}
		return s.choose(ctx, req)
	}
	name := req.Profile.Model.Name
	c, err := s.lies(ctx, name)
	if err != nil { // the download will tell
		return nil
	}
	var r fit.Result
	if s.kind == engineVLLM {
		p, err := s.vllm(c, req)
		if err != nil {
			return nil
		}
		r = *p.Result
	} else if r, err = check(s.ask(c, req, s.budget())); err != nil {
		return nil
	}
	s.Fit = &r
	if r.Verdict == fit.No {
		return &fit.ShortfallError{Result: r, Host: req.Name}
	}
	return nil
}

// lasting is the same box over a link that is kept up until end is called, also after ctx has ended: what was begun there
// has to be ended.
func (r *Reached) lasting(ctx context.Context, log *slog.Logger) (_ *Reached, end func()) {
	if r.Client == nil {
		return r, func() {}
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	link := tunnel.NewLink(r.Redial, tunnel.LinkOptions{First: r.Client, Final: tunnel.Final, Senses: tunnel.SystemSenses(), Online: r.Online, Log: log})
	var wg sync.WaitGroup
	wg.Go(func() { link.Run(life) })
	over := *r
	over.Far = linked{link: link, version: r.Client.ServerVersion()}
	return &over, func() { cancel(); wg.Wait() }
}

// Removal is a model on a box that can be removed.
type Removal struct {
	Model  string `json:"model"`
	Engine string `json:"engine"`
	// Path is the folder of a repository; of Ollama's models it is empty.
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	// FreedBytes is what the box's disk got back; null before, and where it could not be measured.
	FreedBytes *int64 `json:"freed_bytes"`

	remove func(ctx context.Context) (int64, error)
}

// hubTitle is where repositories lie that no engine has of its own.
const hubTitle = "the cache of Hugging Face"

// FindRemoval finds the model that shall be removed: one of Ollama's, or a repository in the cache of Hugging Face.
// Nothing is changed. What must not be removed is a *remote.RemoveError.
func FindRemoval(ctx context.Context, req Request, r *Reached, log *slog.Logger) (*Removal, error) {
	box := boxOf(r.Far, log)
	name, kind := req.Profile.Model.Name, req.Profile.Engine.Name
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "~") || strings.HasPrefix(name, ".") || strings.Contains(name, "..") {
		return nil, &remote.RemoveError{Model: name, Class: "other", Text: "a file is its owner's to remove: only a model of Ollama's and a repository in the cache of Hugging Face are"}
	}
	repo, isRepo := repoOf(name)
	var hub, ollama *Removal
	var hubErr, ollamaErr error
	if kind != engineOllama {
		switch {
		case box.PowerShell != nil:
			hubErr = &remote.RemoveError{Model: name, Class: "missing", Text: "on Windows only Ollama's models are removed"}
		case !isRepo:
			hubErr = &remote.RemoveError{Model: name, Class: "missing", Text: "it is no repository of Hugging Face, org/name"}
		default:
			var found *remote.CachedRepo
			if found, hubErr = remote.FindRepo(ctx, box, repo.Name); hubErr == nil && repo.Quant != "" {
				hubErr = &remote.RemoveError{Model: name, Class: "other", Text: "a repository is removed as a whole: name it " + repo.Name}
			}
			if hubErr == nil {
				hub = &Removal{Model: found.Name, Engine: hubTitle, Path: found.Path, Bytes: found.Bytes,
					remove: func(ctx context.Context) (int64, error) { return remote.RemoveRepo(ctx, box, found.Name) }}
			}
		}
	}
	if kind != engineVLLM && kind != engineLlama {
		o := remote.NewOllama(box, req.Profile.Engine.Address)
		var m *remote.ModelFile
		if m, ollamaErr = o.Removable(ctx, name); ollamaErr == nil {
			ollama = &Removal{Model: m.Name, Engine: "Ollama", Bytes: m.Bytes, remove: func(ctx context.Context) (int64, error) { return o.Remove(ctx, m.Name) }}
		}
	}
	switch {
	case hub != nil && ollama != nil:
		return nil, &remote.RemoveError{Model: name, Class: "other", Text: "Ollama has one of that name, and " + hubTitle + ", too: say which with --engine ollama or --engine vllm"}
	case hub != nil && !missing(ollamaErr):
		return nil, ollamaErr
	case hub != nil:
		return hub, nil
	case ollama != nil && kind != engineOllama && isRepo && !missing(hubErr):
		return nil, hubErr
	case ollama != nil:
		return ollama, nil
	case ollamaErr == nil, isRepo && !missing(hubErr), isRepo && errors.As(ollamaErr, new(*remote.NotInstalledError)):
		return nil, hubErr
	}
	return nil, cmp.Or(ollamaErr, hubErr)
}

// missing reports that a model is not where it was looked for, or that there is no such place.
func missing(err error) bool {
	var gone *remote.RemoveError
	if errors.As(err, &gone) {
		return gone.Class == "missing"
	}
	return err == nil || errors.As(err, new(*remote.NotInstalledError)) || errors.As(err, new(*remote.NotRunningError)) || errors.As(err, new(*remote.ForeignError))
}

// Remove removes it, and says how much that gave back.
func (m *Removal) Remove(ctx context.Context) error {
	freed, err := m.remove(ctx)
	if err == nil && freed >= 0 {
		m.FreedBytes = &freed
	}
	return err
}

// SameBox reports whether a request leads to the box that was reached.
func (r *Reached) SameBox(ctx context.Context, req Request) bool {
	if req.Profile.Host == Local {
		return r.Box == Local
	}
	t, err := Resolve(ctx, req)
	return err == nil && boxName(t) == r.Box
}
