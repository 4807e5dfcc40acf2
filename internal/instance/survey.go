package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
)

// Survey is what is known before anything is started: what the box has, what runs there, what fits, and so what
// connect would do.
type Survey struct {
	Far    Far
	Box    string // as Reached.Box
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
	// Warnings are what a person should know of the choice.
	Warnings []fit.Warning

	// Workers are the reports of the other boxes of a cluster, by their place in the request.
	Workers []*probe.Report
	ring    *remote.Ring // how they would work together; nil for one box

	kind    string // of the engine: engineOllama and so on
	box     remote.Box
	loading bool // a server answers, and loads its model
	kept    bool // of an engine that serves files: what it serves is taken as it is
	catalog *fit.List
	loads   []fit.Load               // earlier ones on this box
	heads   map[string]fit.Candidate // by the names of Files, what their files say of themselves
	chosen  fit.Candidate
	idle    string // version of an engine that does not run, empty if not known
	Plan    remote.Plan
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
func Look(ctx context.Context, req Request, r *Reached, log *slog.Logger, emit func(Event)) (*Survey, error) {
	report, err := Probe(ctx, r.Far, emit)
	if err != nil {
		return nil, err
	}
	catalog, err := fit.LoadCatalog(req.Catalog)
	if err != nil {
		return nil, err
	}
	s := &Survey{Far: r.Far, Box: r.Box, Report: report, catalog: catalog}
	if err := s.measureWorkers(ctx, r, emit); err != nil {
		return nil, err
	}
	if s.loads, err = ledger(req.Loads).loads(r.Box); err != nil {
		emit(Event{Step: StepNote, Text: "warning: " + err.Error(), Done: true}) // the fit does without
	}
	if len(r.Workers) > 0 {
		err = s.findCluster(ctx, req, r, log)
	} else {
		err = s.find(ctx, req, log)
	}
	if err != nil {
		return s, err
	}
	if s.Engine == nil {
		return s, nil
	}
	if err := s.choose(ctx, req); err != nil {
		return s, err
	}
	if err := s.joinUp(ctx); err != nil {
		return s, err
	}
	f := s.Fit
	text := fitLine(f)
	if s.kind == engineOpenAI {
		text = f.Model + ": taken as " + s.EngineName + " serves it"
	}
	emit(Event{Step: StepFit, Text: text, Note: s.verdictWord(), Done: true})
	for _, line := range passedOver(s.Passed) {
		emit(Event{Step: StepNote, Text: "passed over " + line, Done: true})
	}
	for _, w := range s.Warnings {
		emit(Event{Step: StepNote, Text: "warning: " + w.Text, Done: true})
	}
	return s, nil
}

// passedOver says what was not taken, and why: one line for each sort of reason. All of them are in Passed.
func passedOver(list []fit.PassedOver) []string {
	var order []fit.Why
	of := map[fit.Why][]fit.PassedOver{}
	for _, p := range list {
		if of[p.Why] == nil {
			order = append(order, p.Why)
		}
		of[p.Why] = append(of[p.Why], p)
	}
	rest := map[fit.Why]string{
		fit.TooLarge: "that do not fit", fit.TooShort: "with too short a context", fit.TooCoarse: "with too few bits",
		fit.Unpriced: "of which that is not known", fit.LessApt: "that fit and are less good for code",
	}
	var lines []string
	for _, why := range order {
		line := of[why][0].String()
		if n := len(of[why]) - 1; n > 0 {
			line += fmt.Sprintf("; and %d more %s", n, rest[why])
		}
		lines = append(lines, line)
	}
	return lines
}

// noneAddress is where the port leads if nothing else is said.
const noneAddress = "127.0.0.1:11434"

// Engines as the profile and internal/fit write them.
const (
	engineOllama = "ollama"
	engineLlama  = "llama-server"
	engineVLLM   = "vllm"
)

// engines are those that can be started or adopted.
var engines = map[string]struct {
	title string
	drive func(box remote.Box, address string) remote.Engine
}{
	engineOllama: {"Ollama", func(b remote.Box, a string) remote.Engine { return remote.NewOllama(b, a) }},
	engineLlama:  {"llama-server", func(b remote.Box, a string) remote.Engine { return remote.NewLlamaServer(b, a) }},
	engineVLLM:   {"vLLM", func(b remote.Box, a string) remote.Engine { return remote.NewVLLM(b, a) }},
	engineOpenAI: {"OpenAI-compatible server", func(b remote.Box, a string) remote.Engine { return remote.NewOpenAI(b, a) }},
}

// find says which engine it will be, whether it runs, and which models are there.
func (s *Survey) find(ctx context.Context, req Request, log *slog.Logger) error {
	p := req.Profile
	s.kind = p.Engine.Name
	switch {
	case s.kind == "none":
		s.Address = cmp.Or(p.Engine.Address, noneAddress)
		return nil
	case s.kind == "auto":
		s.kind, p.Engine.Address = s.autoEngine(ctx, boxOf(s.Far, log), p.Engine.Address)
	}
	e, ok := engines[s.kind]
	switch {
	case !ok:
		return fmt.Errorf("engine %s is none that rlca knows", s.kind)
	case s.Report.OS == "windows" && s.kind == engineVLLM:
		return fmt.Errorf("find vLLM on %s: it does not run on Windows itself: set it up in WSL2, with an SSH server there, and connect to that as to any Linux; with --engine none the port leads to what serves there", req.Name)
	case s.Report.OS == "windows" && s.kind != engineOllama:
		return fmt.Errorf("find %s on %s: on Windows rlca starts and adopts Ollama alone; with --engine none the port leads to what serves there", e.title, req.Name)
	}
	s.box = boxOf(s.Far, log)
	s.Engine, s.EngineName = e.drive(s.box, p.Engine.Address), e.title
	return s.meet(ctx, req)
}

// meet looks what the engine does now, and which models there are.
func (s *Survey) meet(ctx context.Context, req Request) (err error) {
	s.Running, err = s.Engine.Find(ctx)
	if err != nil {
		var idle *remote.NotRunningError
		var busy *remote.LoadingError
		switch {
		case errors.As(err, &idle):
			s.idle = idle.Version
		case errors.As(err, &busy):
			s.loading = true // Ensure waits for it
		default:
			return err
		}
	}
	if r := s.Running; r != nil && r.Adopted && r.How == "" {
		r.How = s.how(r.Address)
	}
	if s.kind == engineOpenAI && s.Running != nil {
		s.EngineName = s.Running.Engine
	}
	s.Files, err = s.Engine.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("list the models on %s: %w", req.Name, err)
	}
	if s.kind != engineVLLM { // whose folders are read when one is named
		s.readHeads(ctx)
	}
	return nil
}

// autoEngine is Ollama, unless another one answers where the profile says, or is the only one that runs. One that speaks
// OpenAI's API and is none that rlca starts is taken where the profile names its address, or where the box has no other.
// It returns the address where that is.
func (s *Survey) autoEngine(ctx context.Context, box remote.Box, address string) (name, where string) {
	if address != "" {
		if d, err := remote.Describe(ctx, box, address); err == nil && d.Engine != "Ollama" {
			return kindOf(d.Engine), address
		}
		return engineOllama, address
	}
	if s.Report.Engine(engineOllama) != nil {
		return engineOllama, ""
	}
	for _, name := range []string{engineVLLM, engineLlama} {
		e := s.Report.Engine(name)
		if e == nil || e.Running == nil || !*e.Running || e.Address == nil {
			continue
		}
		if d, err := remote.Describe(ctx, box, *e.Address); err == nil && d.Engine == name { // its workers listen, too
			return name, *e.Address
		}
	}
	if s.Report.Engine(engineVLLM) == nil && s.Report.Engine(engineLlama) == nil && s.Report.OS != "windows" {
		if other, err := remote.NewOpenAI(box, "").Find(ctx); err == nil {
			return engineOpenAI, other.Address
		}
	}
	return engineOllama, ""
}

// how says how the probe saw a server run.
func (s *Survey) how(addr string) string {
	for _, e := range s.Report.Engines {
		if e.Address != nil && *e.Address == addr {
			return e.How
		}
	}
	return ""
}

// Of models that no server tells of, so many files are read on the box, so many at a time.
const maxHeads, headsAtOnce = 16, 4

// readHeads reads the beginnings of the files of models that no server told about.
func (s *Survey) readHeads(ctx context.Context) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, headsAtOnce)
	s.heads = map[string]fit.Candidate{}
	read := 0
	for _, f := range s.Files {
		if f.Info != nil || f.Path == "" || read == maxHeads {
			continue
		}
		read++
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			c, err := s.file(ctx, f.Path)
			if err != nil {
				s.box.Log.Info("the file of a model", "model", f.Name, "err", err) // the catalog or the size will do
				return
			}
			mu.Lock()
			defer mu.Unlock()
			s.heads[f.Name] = c
		})
	}
	wg.Wait()
}

// choose picks the model and prices it.
func (s *Survey) choose(ctx context.Context, req Request) error {
	m := req.Profile.Model
	budget := s.budget()
	s.Plan = remote.Plan{
		Model: m.Name, Context: m.Context, Parallel: m.Parallel, KeepAlive: req.Profile.Engine.KeepAlive,
		Address: req.Profile.Engine.Address, Args: req.Profile.Engine.Args, MayPull: req.MayPull, MayDerive: true,
		MayReplace: req.MayReplace, Laptop: req.Laptop,
		Unified: s.unified(), Floor: floor(s.Report),
	}
	switch s.kind {
	case engineOllama:
	case engineOpenAI:
		return s.chooseOffered(req)
	default:
		return s.chooseFile(ctx, req)
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
	r, err := check(ask)
	if err != nil {
		return err
	}
	s.take(c, r)
	for _, w := range fit.Warnings(c, r, ask, m.MinBits, s.Candidates()) {
		// What was asked for by name is not argued with; only what its name does not tell is told.
		switch {
		case w.Caution == fit.FewBits, w.Caution == fit.ShortWindow && r.Context < m.Context:
		case w.Caution == fit.NotACoder && c.Model.Coder == "no", w.Caution == fit.NoTools && c.Model.Tools == "no":
		default:
			continue
		}
		s.Warnings = append(s.Warnings, w)
	}
	return s.gate(req, budget, s.Running != nil && sameModel(s.Plan.Model, s.Running.Model.Base, s.Running.Model.Name))
}

// chooseFile picks the model of an engine that serves one file or folder: the one that is named, or the one that it
// serves already.
func (s *Survey) chooseFile(ctx context.Context, req Request) error {
	name := req.Profile.Model.Name
	if name == "auto" && (s.Running == nil || s.Running.Model.Name == "") {
		return s.chooseOnBox(req)
	}
	if name == "auto" {
		name = cmp.Or(s.Running.Model.Base, s.Running.Model.Name)
	}
	serves := s.Running != nil && (name == s.Running.Model.Base || name == s.Running.Model.Name)
	c, err := s.lies(ctx, name)
	if err != nil && !serves {
		var unknown *fit.UnknownModelError
		if !errors.As(err, &unknown) {
			return err
		}
		if _, ok := repoOf(name); !ok || !req.MayPull {
			return &remote.ModelMissingError{Model: name, Known: unknown.Near}
		}
		// Only the download can tell how big it is: it is priced after that.
		s.Fit, s.Plan.Model = &fit.Result{Model: name, Quant: req.Quant, Context: req.Profile.Model.Context, Budget: s.budget()}, name
		return nil
	}
	budget := s.budget()
	s.kept = s.loading || serves && (s.Running.Adopted || req.Profile.Model.Context <= s.Running.Model.Context)
	switch {
	case s.kept:
		budget = nil // it has its memory
	case serves && budget != nil:
		*budget += fit.Bytes(s.Running.Model.SizeBytes) // given back when ours is started anew
	}
	var r fit.Result
	switch {
	case err != nil: // somebody else's, of a model that nobody knows here
		r = fit.Result{Model: name, Context: s.Running.Model.Context}
	case s.kind == engineVLLM:
		p, err := s.vllm(c, req)
		if errors.Is(err, errNoGPU) { // it may serve all the same, and nobody can tell what it takes
			r = fit.Result{Model: c.Model.Label(), Quant: c.Quant, Context: req.Profile.Model.Context, Weights: c.WeightsBytes}
			break
		}
		if err != nil {
			return err
		}
		r, s.Plan.Utilization, s.Plan.Tensor = *p.Result, p.VLLM.Utilization, p.VLLM.Tensor
		if s.kept {
			r.Verdict = ""
		}
	default:
		if r, err = check(s.ask(c, req, budget)); err != nil {
			return err
		}
	}
	s.take(c, r)
	s.Plan.Model = name
	return s.gate(req, budget, s.kept)
}

// repoOf reads the name of a repository of Hugging Face, "org/name" or "org/name:Q4_K_M".
func repoOf(name string) (remote.Repo, bool) {
	where, quant, _ := strings.Cut(name, ":")
	org, rest, ok := strings.Cut(where, "/")
	return remote.Repo{Name: where, Quant: quant}, ok && org != "" && org != "~" && rest != "" && !strings.Contains(rest, "/")
}

// chooseOnBox lets the fit choose among the files on the box.
func (s *Survey) chooseOnBox(req Request) error {
	var list []fit.Candidate
	for _, f := range s.Files {
		if c, ok := s.heads[f.Name]; ok {
			c = s.known(c, f.Name)
			c.Model.Tag = f.Name
			list = append(list, c)
		}
	}
	budget := s.budget()
	switch {
	case len(list) == 0:
		return fmt.Errorf("choose a model for %s: auto found none on the box: name a file or a repository there with --model", s.EngineName)
	case budget == nil:
		return errors.New("the memory of the box could not be measured, so auto cannot choose: name a model with --model")
	}
	want := s.ask(fit.Candidate{}, req, budget)
	if longest := slices.MaxFunc(list, func(a, b fit.Candidate) int { return cmp.Compare(a.Model.Context, b.Model.Context) }); longest.Model.Context > 0 {
		want.Context = min(want.Context, longest.Model.Context) // nobody downloads another one here
	}
	choice, err := fit.Choose(want, req.Profile.Model.MinBits, list)
	if err != nil {
		return err
	}
	s.take(choice.Candidate, choice.Result)
	s.Passed, s.Warnings = choice.Passed, choice.Warnings
	return nil
}

// check prices an ask. The profile's own default context is as much as harnesses need, and a model whose limit is below
// it gets its limit; a context that somebody asked for is not changed.
func check(ask fit.Ask) (fit.Result, error) {
	r, err := fit.Check(ask)
	var beyond *fit.ContextError
	if errors.As(err, &beyond) && ask.Context == profiles.Default().Model.Context {
		ask.Context = beyond.Limit
		return fit.Check(ask)
	}
	return r, err
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
	s.Passed, s.Warnings = choice.Passed, choice.Warnings
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

// Candidates are the models of the box, and those of the catalog that can be pulled there.
func (s *Survey) Candidates() []fit.Candidate {
	var list []fit.Candidate
	for _, f := range s.Files {
		list = append(list, s.onBox(f))
	}
	if s.kind == engineOpenAI {
		return list // nothing is downloaded there
	}
	for _, c := range s.catalog.Pullable() {
		if !slices.ContainsFunc(list, func(b fit.Candidate) bool { return sameModel(b.Model.Tag, c.Model.Tag) }) {
			list = append(list, c)
		}
	}
	return list
}

// onBox is a model file with what is known of it: the engine's own metadata, else the catalog.
func (s *Survey) onBox(f remote.ModelFile) fit.Candidate {
	size := fit.Bytes(f.Bytes)
	c := fit.Candidate{Quant: f.Quant, OnBox: true, WeightsSource: fit.FromFile}
	if size > 0 {
		c.WeightsBytes = &size
	}
	if head, ok := s.heads[f.Name]; ok {
		c.Model, c.WeightsBytes = head.Model, head.WeightsBytes
		c.Quant = cmp.Or(c.Quant, head.Quant)
	} else if m, err := fit.FromMetadata(f.Info); f.Info != nil && err == nil {
		c.Model, c.WeightsSource = m, fit.FromAPI
		if exact, ok := tensorBytes(f.Tensors); ok && exact <= size {
			c.WeightsBytes = &exact // the file has a vocabulary besides
		}
	}
	c = s.known(c, f.Name)
	c.Model.Tag = f.Name
	return c
}

// tensorBytes is the size of all tensors together; false if one is of a type that is not known, or there is none.
func tensorBytes(list []remote.Tensor) (sum fit.Bytes, ok bool) {
	for _, t := range list {
		n, known := fit.TensorBytes(t.Type, t.Shape)
		if !known {
			return 0, false
		}
		sum += n
	}
	return sum, sum > 0
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
		return s.onBox(f), nil
	}
	m, err := s.catalog.Find(name)
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
	return fit.Candidate{}, &remote.ModelMissingError{Model: name, Near: near, Known: s.catalog.Near(name)}
}

// ask is the question for one candidate under a request.
func (s *Survey) ask(c fit.Candidate, req Request, budget *fit.Bytes) fit.Ask {
	m := req.Profile.Model
	kv, noFlash := s.cacheSettings(req)
	return fit.Ask{
		KVType: kv, NoFlash: noFlash,
		Model: c.Model, Quant: c.Quant, Context: m.Context, Parallel: m.Parallel,
		WeightsBytes: c.WeightsBytes, WeightsSource: c.WeightsSource, Budget: budget, GPU: s.gpu(), Engine: s.priced(), EngineVersion: s.version(),
		Cards: s.cards(), Repack: s.repacks(), Correction: fit.Learn(s.loads, s.priced(), s.version(), s.gpu()),
	}
}

// cacheSettings is how the profile's settings of an Ollama that rlca starts change its cache. What somebody else's has
// cannot be read; its default takes the most.
func (s *Survey) cacheSettings(req Request) (kv string, noFlash bool) {
	if s.Running == nil || !s.Running.Adopted {
		for _, a := range req.Profile.Engine.Args {
			switch name, value, _ := strings.Cut(a, "="); name {
			case "OLLAMA_KV_CACHE_TYPE":
				kv = value
			case "OLLAMA_FLASH_ATTENTION":
				on, err := strconv.ParseBool(value)
				noFlash = err == nil && !on
			}
		}
	}
	return cmp.Or(req.KVType, kv), noFlash
}

// priced is the engine by whose rules a model is priced.
func (s *Survey) priced() string {
	if s.kind == engineLlama {
		return engineLlama
	}
	return engineOllama
}

// version is that of the engine that runs or would be started. Empty is not known, and counts as the newest.
func (s *Survey) version() string {
	if s.Running != nil {
		return s.Running.Version
	}
	if e := s.Report.Engine(s.kind); s.idle == "" && e != nil && e.Version != nil {
		return *e.Version
	}
	return s.idle
}

// repacks reports whether the engine may keep a second copy of the weights for a CPU with AMX. A release of Ollama has
// code for such a CPU; one built from source has what its compiler was told, which is none by default. Of a llama-server
// nobody knows.
func (s *Survey) repacks() bool {
	source := s.idle != "" || s.Running != nil && s.Running.FromSource
	return s.Report.AMX && !s.gpu() && (s.kind == engineLlama || !source)
}

// budget is what the box can give a model; nil if it is not known.
func (s *Survey) budget() *fit.Bytes {
	cards := s.cards()
	if len(cards) > 0 {
		var sum fit.Bytes
		for _, c := range cards {
			sum += c
		}
		return &sum
	}
	p := s.Report.Best()
	if p == nil || p.BudgetBytes == nil {
		return nil
	}
	b := fit.Bytes(*p.BudgetBytes)
	return &b
}

// cards is what each of several GPUs of one maker can give; nil if there is one, or none. Slices of a GPU do not work
// together.
func (s *Survey) cards() []fit.Bytes {
	best := s.Report.Best()
	if best == nil || best.Kind != probe.Dedicated {
		return nil
	}
	makers := map[string]string{}
	for _, a := range s.Report.Accelerators {
		if a.Pool != nil {
			makers[*a.Pool] = a.Vendor
		}
	}
	var cards []fit.Bytes
	for _, p := range s.Report.Pools {
		if p.Kind == probe.Dedicated && makers[p.ID] == makers[best.ID] && p.BudgetBytes != nil {
			cards = append(cards, fit.Bytes(*p.BudgetBytes))
		}
	}
	if len(cards) < 2 {
		return nil
	}
	return cards
}

func (s *Survey) gpu() bool {
	p := s.Report.Best()
	return p != nil && p.Kind != "host"
}

func (s *Survey) take(c fit.Candidate, r fit.Result) {
	s.Fit, s.OnBox, s.chosen = &r, c.OnBox, c
	s.Plan.Model = c.Model.Tag
	if s.Plan.Context == 0 || r.Context > 0 && r.Context < s.Plan.Context {
		s.Plan.Context = r.Context
	}
}

// gate refuses a model that does not fit, unless it is loaded already and kept, or the request forces it.
func (s *Survey) gate(req Request, budget *fit.Bytes, kept bool) error {
	if s.Fit.Verdict != fit.No || req.Forced || kept {
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

// floorMost is how much memory of a box must stay available at most; it freezes soon after.
const floorMost = 4 << 30

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
		m.Correction = s.Fit.Correction
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
	case f.Total == nil && f.Weights != nil:
		return fmt.Sprintf("%s: weights of %s, what else it needs is not known", line, f.Weights)
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
