package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/remote"
)

// Survey is what is known before anything is started: what the box has, what runs there, what fits, and so what
// connect would do.
type Survey struct {
	Far    Far
	Report *probe.Report
	// Engine is nil for --engine none; Address is then where the port leads.
	Engine     remote.Engine
	EngineName string
	Address    string
	// Running is the engine that answers now, nil if none does.
	Running *remote.Server
	// Files are the models on the box.
	Files []remote.ModelFile
	// Fit is the answer for the chosen model, Passed what auto passed over. Both are empty for --engine none.
	Fit    *fit.Result
	Passed []fit.PassedOver
	// Loaded is how long Ensure took to load the model.
	Loaded time.Duration

	// OnBox says that the model need not be pulled.
	OnBox bool
	Plan  remote.Plan
}

// Probe measures the far side and tells emit.
func Probe(ctx context.Context, far Far, emit func(Event)) (*probe.Report, error) {
	start := time.Now()
	emit(Event{Step: StepProbe, Text: "measuring memory and what runs there"})
	r, err := probe.Run(ctx, far)
	if err != nil {
		return nil, err
	}
	emit(Event{Step: StepProbe, Text: r.Summary(), Note: took(start), Done: true})
	return r, nil
}

// Look does everything that starts nothing: probe, find the engine, choose the model, check that it fits. A model
// that does not fit is a *fit.ShortfallError unless the request forces it.
func Look(ctx context.Context, req Request, far Far, log *slog.Logger, emit func(Event)) (*Survey, error) {
	report, err := Probe(ctx, far, emit)
	if err != nil {
		return nil, err
	}
	s := &Survey{Far: far, Report: report}
	if err := s.find(ctx, req, log); err != nil {
		return s, err
	}
	if s.Engine == nil {
		return s, nil
	}
	if err := s.choose(req); err != nil {
		return s, err
	}
	f := s.Fit
	emit(Event{Step: StepFit, Text: fitLine(f), Note: s.verdictWord(), Done: true})
	for _, p := range s.Passed {
		emit(Event{Step: StepNote, Text: fmt.Sprintf("passed over %s %s: %s", p.Model, p.Quant, p.Reason), Done: true})
	}
	return s, nil
}

// Engines are the words of [engine] name that this version can start or adopt.
var Engines = []string{"auto", "ollama", "none"}

// find says which engine it will be, whether it runs, and which models are there.
func (s *Survey) find(ctx context.Context, req Request, log *slog.Logger) error {
	p := req.Profile
	switch p.Engine.Name {
	case "none":
		s.Address = p.Engine.Address
		if s.Address == "" {
			s.Address = "127.0.0.1:11434"
		}
		return nil
	case "auto", "ollama":
	default:
		return fmt.Errorf("engine %s is not built in yet: use ollama, or none with [engine] address", p.Engine.Name)
	}
	ollama := remote.NewOllama(remote.Box{Run: s.Far.Run, Dial: s.Far.Dial, Log: log}, p.Engine.Address)
	s.Engine, s.EngineName = ollama, "Ollama"
	var err error
	s.Running, err = ollama.Find(ctx)
	if err != nil {
		var idle *remote.NotRunningError
		if !errors.As(err, &idle) {
			return err
		}
	}
	s.Files, err = ollama.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("list the models on %s: %w", req.Name, err)
	}
	return nil
}

// choose picks the model and prices it.
func (s *Survey) choose(req Request) error {
	m := req.Profile.Model
	pool := s.Report.Best()
	var budget *fit.Bytes
	if pool != nil && pool.BudgetBytes != nil {
		b := fit.Bytes(*pool.BudgetBytes)
		budget = &b
	}
	s.Plan = remote.Plan{
		Model: m.Name, Context: m.Context, Parallel: m.Parallel, KeepAlive: req.Profile.Engine.KeepAlive,
		Address: req.Profile.Engine.Address, Args: req.Profile.Engine.Args, MayPull: req.MayPull, MayDerive: true,
	}
	if m.Name == "auto" {
		return s.auto(req, budget)
	}
	c, err := s.candidate(m.Name, req.Quant)
	var missing *remote.ModelMissingError
	if errors.As(err, &missing) && req.MayPull {
		// Neither on the box nor in the catalog: only the download can tell how big it is.
		s.Fit = &fit.Result{Model: m.Name, Quant: req.Quant, Context: m.Context, Budget: budget}
		return nil
	}
	if err != nil {
		return err
	}
	ask := s.ask(c, req, budget)
	r, err := fit.Check(ask)
	if err != nil {
		return err
	}
	s.take(c, r)
	return s.gate(req, budget)
}

// auto lets the fit choose among what is on the box and what could be pulled.
func (s *Survey) auto(req Request, budget *fit.Bytes) error {
	if budget == nil {
		return errors.New("the memory of the box could not be measured, so auto cannot choose: name a model with --model")
	}
	list := s.Candidates()
	if c := s.loaded(list); c != nil {
		// A model that is loaded already has its memory: it is the one to keep.
		if r, err := fit.Check(s.ask(*c, req, nil)); err == nil {
			s.take(*c, r)
			return nil
		}
	}
	choice, err := fit.Choose(s.ask(fit.Candidate{}, req, budget), req.Profile.Model.MinBits, list)
	if err != nil {
		var short *fit.ShortfallError
		if errors.As(err, &short) {
			short.Host = req.Name
		}
		return err
	}
	s.take(choice.Candidate, choice.Result)
	s.Passed = choice.Passed
	return nil
}

// loaded is the candidate that the engine serves at this moment.
func (s *Survey) loaded(list []fit.Candidate) *fit.Candidate {
	if s.Running == nil || s.Running.Model.Name == "" {
		return nil
	}
	for _, c := range list {
		if c.OnBox && sameModel(c.Model.Tag, s.Running.Model.Base, s.Running.Model.Name) {
			return &c
		}
	}
	return nil
}

func sameModel(name string, others ...string) bool {
	for _, o := range others {
		if o != "" && tagged(o) == tagged(name) {
			return true
		}
	}
	return false
}

// tagged adds the tag that Ollama means when none is written.
func tagged(name string) string {
	if !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		return name + ":latest"
	}
	return name
}

// Candidates are the models of the box, and those of the catalog that can be pulled.
func (s *Survey) Candidates() []fit.Candidate {
	var list []fit.Candidate
	for _, f := range s.Files {
		list = append(list, onBox(f))
	}
	for _, c := range fit.Pullable() {
		if !slices.ContainsFunc(list, func(b fit.Candidate) bool { return sameModel(b.Model.Tag, c.Model.Tag) }) {
			list = append(list, c)
		}
	}
	return list
}

// onBox is a model file with what is known of it: the engine's own metadata, else the catalog.
func onBox(f remote.ModelFile) fit.Candidate {
	size := fit.Bytes(f.Bytes)
	c := fit.Candidate{Quant: f.Quant, OnBox: true, WeightsSource: fit.FromFile}
	if size > 0 {
		c.WeightsBytes = &size
	}
	known, err := fit.Find(f.Name)
	if err == nil {
		c.Model = known
	}
	if f.Info != nil {
		if m, err := fit.FromMetadata(f.Info); err == nil {
			if known.Coder != "" {
				m.Coder = known.Coder
			}
			m.Tools = known.Tools
			c.Model, c.WeightsSource = m, fit.FromAPI
		}
	}
	c.Model.Tag = f.Name
	return c
}

// candidate finds a model by the name that the user wrote: on the box, else in the catalog.
func (s *Survey) candidate(name, quant string) (fit.Candidate, error) {
	for _, f := range s.Files {
		if !sameModel(f.Name, name) {
			continue
		}
		if quant != "" && f.Quant != "" && !strings.EqualFold(quant, f.Quant) {
			return fit.Candidate{}, fmt.Errorf("%s is on the box as %s, not as %s: name the tag that has it", f.Name, f.Quant, quant)
		}
		return onBox(f), nil
	}
	m, err := fit.Find(name)
	if err == nil {
		if m.Tag == "" {
			return fit.Candidate{}, fmt.Errorf("%s is in the catalog, but Ollama has no tag for it: name one that it can pull", name)
		}
		if quant == "" {
			quant = fit.QuantIn(name)
		}
		if strings.Contains(name, ":") {
			m.Tag = name
		}
		return fit.Candidate{Model: m, Quant: quant}, nil
	}
	var near []string
	for _, f := range s.Files {
		near = append(near, f.Name)
	}
	return fit.Candidate{}, &remote.ModelMissingError{Model: name, Near: near}
}

// ask is the question for one candidate under a request.
func (s *Survey) ask(c fit.Candidate, req Request, budget *fit.Bytes) fit.Ask {
	m := req.Profile.Model
	return fit.Ask{
		Model: c.Model, Quant: c.Quant, Context: m.Context, Parallel: m.Parallel,
		WeightsBytes: c.WeightsBytes, WeightsSource: c.WeightsSource, Budget: budget, GPU: s.gpu(), Engine: "ollama", EngineVersion: s.version(),
	}
}

// version is that of the engine that runs; empty counts as the newest.
func (s *Survey) version() string {
	if s.Running == nil || s.Running.Version == "0.0.0" {
		return ""
	}
	return s.Running.Version
}

func (s *Survey) gpu() bool {
	p := s.Report.Best()
	return p != nil && p.Kind != "host"
}

func (s *Survey) take(c fit.Candidate, r fit.Result) {
	s.Fit, s.OnBox = &r, c.OnBox
	s.Plan.Model = c.Model.Tag
	if s.Plan.Context == 0 {
		s.Plan.Context = r.Context
	}
}

// gate refuses a model that does not fit, unless it is loaded already or the request forces it.
func (s *Survey) gate(req Request, budget *fit.Bytes) error {
	if s.Fit.Verdict != fit.No || req.Forced || s.Running != nil && sameModel(s.Plan.Model, s.Running.Model.Base, s.Running.Model.Name) {
		return nil
	}
	if req.Force && !s.unified() {
		return nil
	}
	short := &fit.ShortfallError{Result: *s.Fit, Host: req.Name}
	if budget != nil {
		short.Instead = fit.Instead(s.ask(fit.Candidate{}, req, budget), req.Profile.Model.MinBits, s.Candidates())
	}
	return short
}

func (s *Survey) unified() bool {
	p := s.Report.Best()
	return p != nil && p.Kind == "unified"
}

func (s *Survey) verdictWord() string {
	switch s.Fit.Verdict {
	case fit.Fits, fit.Tight:
		return string(s.Fit.Verdict)
	case fit.No:
		if s.Running != nil {
			return "loaded already"
		}
		return "forced"
	}
	return "not known"
}

// contextWord writes a context, or that of the plan where the engine did not tell one.
func (s *Survey) contextWord(n int) string {
	if n == 0 {
		return "context not told"
	}
	return fit.Tokens(n) + " context"
}

func (s *Survey) memory() *MemoryStatus {
	m := &MemoryStatus{}
	if s.Fit != nil && s.Fit.Total != nil {
		n := int64(*s.Fit.Total)
		m.PredictedBytes = &n
	}
	if p := s.Report.Best(); p != nil {
		m.TotalBytes, m.FreeBytes = p.TotalBytes, p.FreeBytes
	}
	m.SwapUsedBytes = s.Report.Memory.SwapUsedBytes
	return m
}

// fitLine says what a model needs, with the limit beside it.
func fitLine(f *fit.Result) string {
	line := strings.TrimSpace(f.Model + " " + f.Quant)
	if f.Context > 0 {
		line += " at " + fit.Tokens(f.Context) + " context"
	}
	switch {
	case f.Total == nil:
		return line + ": what it needs is not known before it is on the box"
	case f.Budget == nil:
		return fmt.Sprintf("%s needs %s", line, f.Total)
	}
	if f.Total.GiB() < 0.1 { // such a small one has another unit
		return fmt.Sprintf("%s needs %s of %s", line, f.Total, f.Budget)
	}
	return fmt.Sprintf("%s needs %.1f of %s", line, f.Total.GiB(), f.Budget)
}
