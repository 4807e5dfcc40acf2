package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
)

// Price is what rlca fit HOST answers. For Ollama it is what Look says. Other engines are priced without being started:
// a file or a folder on the box, a repository in the box's cache of Hugging Face, else the catalog; with engine none it
// is what serves at the engine's address now.
type Price struct {
	*fit.Result
	VLLM *fit.VLLMResult // set for vLLM; Result is its own
}

// Value is what the answer is as JSON.
func (p Price) Value() any {
	if p.VLLM != nil {
		return p.VLLM
	}
	return p.Result
}

// Ask prices one model on one box, and starts nothing.
func Ask(ctx context.Context, req Request, r *Reached, log *slog.Logger) (Price, error) {
	switch req.Profile.Engine.Name {
	case "auto", engineOllama:
		s, err := Look(ctx, req, r, log, func(Event) {})
		var short *fit.ShortfallError
		switch {
		case errors.As(err, &short):
			return Price{Result: &short.Result}, nil
		case err != nil:
			return Price{}, err
		}
		return Price{Result: s.Fit}, nil
	}
	report, err := Probe(ctx, r.Far, func(Event) {})
	if err != nil {
		return Price{}, err
	}
	catalog, err := fit.LoadCatalog(req.Catalog)
	if err != nil {
		return Price{}, err
	}
	s := &Survey{Far: r.Far, Box: r.Box, Report: report, catalog: catalog, kind: req.Profile.Engine.Name}
	s.box = boxOf(r.Far, log)
	if err := s.measureWorkers(ctx, r, func(Event) {}); err != nil {
		return Price{}, err
	}
	if s.kind == "none" {
		return s.served(ctx, req)
	}
	if req.Profile.Model.Name == "auto" {
		return Price{}, fmt.Errorf("fit of %s: auto chooses for Ollama only: name a model with --model", req.Profile.Engine.Name)
	}
	// By their names, too, files can be asked for; the engine itself need not be there.
	s.Files, err = engines[s.kind].drive(s.box, req.Profile.Engine.Address).Inventory(ctx)
	if err != nil {
		log.Info("models on the box", "err", err)
	}
	c, err := s.lies(ctx, req.Profile.Model.Name)
	if err != nil {
		return Price{}, err
	}
	if req.Quant != "" && c.WeightsBytes == nil {
		c.Quant = req.Quant
	}
	if s.kind == engineVLLM {
		return s.vllm(c, req)
	}
	res, err := check(s.ask(c, req, s.budget()))
	return Price{Result: &res}, err
}

const (
	// headFirst holds the architecture, which stands before the vocabulary.
	headFirst = 256 << 10
	// headWhole holds the words of a vocabulary of 262k too, behind which the sizes of all tensors stand. They are worth
	// reading where the rest of a file beside its tensors may be more than a thousandth of it.
	headWhole    = 32 << 20
	worthReading = 8 << 30
)

// lies finds a model by a name that may be a file or a folder on the box, or a repository, else one of the catalog.
func (s *Survey) lies(ctx context.Context, name string) (fit.Candidate, error) {
	for _, f := range s.Files {
		if f.Path != "" && sameModel(f.Name, name) {
			c, err := s.file(ctx, f.Path)
			c = s.known(c, name)
			c.Model.Tag = name
			return c, err
		}
	}
	isPath := strings.HasPrefix(name, "/") || strings.HasPrefix(name, "~/")
	if isPath || strings.Count(name, "/") == 1 {
		c, err := s.file(ctx, name)
		var missing *remote.ModelMissingError
		if err == nil || isPath || !errors.As(err, &missing) {
			return c, err
		}
	}
	m, err := s.catalog.Find(name)
	return fit.Candidate{Model: m, Quant: fit.QuantIn(name)}, err
}

// file reads what a model's file on the box says of itself, or the configuration of a folder.
func (s *Survey) file(ctx context.Context, name string) (fit.Candidate, error) {
	src, err := remote.ReadModel(ctx, s.box, name, headFirst)
	if err != nil {
		return fit.Candidate{}, err
	}
	var c fit.Candidate
	if src.Format == "gguf" {
		whole := true
		c, whole, err = fit.FromGGUF(src.Head, fit.Bytes(src.Bytes))
		if err == nil && !whole && src.Bytes < worthReading {
			if more, err2 := remote.ReadModel(ctx, s.box, src.Path, headWhole); err2 == nil {
				c, _, err = fit.FromGGUF(more.Head, fit.Bytes(src.Bytes))
			}
		}
	} else {
		c, err = fit.FromConfig(src.Config, src.Index, fit.Bytes(src.Bytes))
	}
	if err != nil {
		return c, fmt.Errorf("read %s on the box: %w", src.Path, err)
	}
	c.OnBox = true
	return s.known(c, name), nil
}

// known adds what the catalog knows of a model and its file does not say.
func (s *Survey) known(c fit.Candidate, name string) fit.Candidate {
	label := name
	if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "~/") {
		label = path.Base(name)
	}
	m, err := s.catalog.Find(label)
	if err != nil {
		c.Model.Tag = cmp.Or(c.Model.Tag, label)
		return c
	}
	if c.Model.Kind == "" || c.Model.Kind == fit.KindUnknown {
		c.Model = m
	}
	c.Model.Tag, c.Model.Tools = label, m.Tools
	if m.Coder != "" {
		c.Model.Coder = m.Coder
	}
	return c
}

// served prices what serves at the engine's address now. It has its memory already, so that there is no verdict.
func (s *Survey) served(ctx context.Context, req Request) (Price, error) {
	addr := req.Profile.Engine.Address
	if addr == "" {
		addr = noneAddress
	}
	d, err := remote.Describe(ctx, s.box, addr)
	if err != nil {
		return Price{}, err
	}
	if req.Profile.Model.Context == 0 || req.Profile.Model.Name == "auto" {
		req.Profile.Model.Context = d.Context
	}
	switch d.Engine {
	case "Ollama":
		req.Profile.Engine.Name, req.Profile.Engine.Address = engineOllama, addr
		if err := s.find(ctx, req, s.box.Log); err != nil {
			return Price{}, err
		}
		err := s.choose(ctx, req)
		var short *fit.ShortfallError
		if errors.As(err, &short) {
			return Price{Result: &short.Result}, nil
		}
		return Price{Result: s.Fit}, err
	case engineLlama:
		s.kind = engineLlama
		c := s.loadedFile(ctx, d)
		ask := s.ask(c, req, nil)
		build, _, _ := strings.Cut(d.Version, "-") // "b11434-7e4c0a9"
		ask.Cards, ask.EngineVersion, ask.Correction = nil, build, nil
		ask.Repack, ask.Parallel = false, max(1, d.Slots)
		r, err := check(ask)
		if err == nil && s.Report.AMX && !s.gpu() {
			r.Notes = append(r.Notes, "this CPU has AMX: a llama-server that was built for it keeps the weights twice, which is not counted here")
		}
		if err == nil && d.Slots > 1 {
			r.Notes = append(r.Notes, "a cache of its own for each slot: with one for all of them it is less")
		}
		return Price{Result: &r}, err
	case engineVLLM:
		c, err := s.lies(ctx, d.Path)
		if err != nil {
			return Price{}, err
		}
		return s.vllm(c, req)
	}
	return Price{}, fmt.Errorf("what serves on %s of the box is none of the engines that rlca can price", addr)
}

// loadedFile is the model that a llama-server has loaded: by its file, else by what the server tells of it.
func (s *Survey) loadedFile(ctx context.Context, d *remote.Serves) fit.Candidate {
	if d.Path != "" {
		c, err := s.file(ctx, d.Path)
		if err == nil {
			return c
		}
		s.box.Log.Info("the file of what is served", "path", d.Path, "err", err)
	}
	c := fit.Candidate{OnBox: true, WeightsSource: fit.FromAPI, Quant: fit.QuantIn(strings.TrimSuffix(d.Model, ".gguf"))}
	c.Model = fit.Model{Name: d.Model, Kind: fit.KindUnknown, ParamsB: float64(d.Params) / 1e9, Hidden: d.Embedding, Vocab: d.Vocab, Context: d.ContextTrain}
	if d.WeightsBytes > 0 {
		n := fit.Bytes(d.WeightsBytes)
		c.WeightsBytes = &n
	}
	return s.known(c, d.Model)
}

var errNoGPU = errors.New("fit of vLLM: no GPU whose memory is known, and vLLM on a CPU is not priced")

// gpusOf are the memories of a box's GPUs, without those of which it is not known; none where vLLM would use the CPU.
func gpusOf(r *probe.Report) (total, free []fit.Bytes) {
	best := r.Best()
	if best == nil || best.TotalBytes == nil || best.Kind == probe.HostPool {
		return nil, nil
	}
	for _, p := range r.Pools {
		if p.ID == best.ID || best.Kind == probe.Dedicated && p.Kind == probe.Dedicated {
			if p.TotalBytes != nil && p.FreeBytes != nil {
				total, free = append(total, fit.Bytes(*p.TotalBytes)), append(free, fit.Bytes(*p.FreeBytes))
			}
		}
	}
	return total, free
}

// vllm prices a checkpoint on as few of the box's GPUs as will do, in powers of two.
func (s *Survey) vllm(c fit.Candidate, req Request) (Price, error) {
	best := s.Report.Best()
	total, free := gpusOf(s.Report)
	if len(total) == 0 {
		return Price{}, errNoGPU
	}
	ask := fit.VLLMAsk{
		VLLMCache: fit.VLLMCache{Model: c.Model, Context: req.Profile.Model.Context, KVType: req.KVType},
		Quant:     c.Quant, WeightsBytes: c.WeightsBytes, WeightsSource: c.WeightsSource, Utilization: req.Utilization,
	}
	if best.Kind == probe.Unified && req.Utilization == 0 && best.BudgetBytes != nil { // the system lives there too
		ask.Utilization = float64(100**best.BudgetBytes / *best.TotalBytes) / 100
	}
	least := 1
	if len(s.Workers) > 0 { // all of them, or it would not take a cluster
		for _, r := range s.Workers {
			t, f := gpusOf(r)
			total, free = append(total, t...), append(free, f...)
		}
		least = len(total)
	}
	var answer Price
	var refused error
	for n := least; n <= len(total); n *= 2 {
		ask.Tensor, ask.Total, ask.Free = n, total[:n], free[:n]
		r, err := fit.CheckVLLM(ask)
		var beyond *fit.ContextError
		if errors.As(err, &beyond) && ask.Context == profiles.Default().Model.Context {
			ask.Context = beyond.Limit
			r, err = fit.CheckVLLM(ask)
		}
		if err != nil {
			refused = err // the next number may deal out the heads
			continue
		}
		answer = Price{Result: &r.Result, VLLM: &r}
		if r.Verdict.OK() {
			break
		}
	}
	if answer.Result == nil {
		return answer, refused
	}
	return answer, nil
}
