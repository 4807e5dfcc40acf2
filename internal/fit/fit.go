// Package fit answers one question: does this model fit in that machine, and
// at which context?
//
// It is arithmetic only, but for the one file in which a user may add models to
// the catalog: it dials no hosts, so every answer can be checked by hand. Each answer
// says where its weights came from and how far off it may be; what is not known
// is nil, never 0. Sizes are bytes; GB (1e9) and GiB (2^30) are never mixed.
package fit

import (
	"fmt"
	"math"
	"slices"
)

// Verdict says whether a model fits. Empty means that it is not known, and is
// null in JSON.
type Verdict string

const (
	Fits  Verdict = "fits"
	Tight Verdict = "tight" // fits, with less than 5 % of the budget to spare
	No    Verdict = "no"
)

// OK reports whether the model may be started.
func (v Verdict) OK() bool { return v == Fits || v == Tight }

// MarshalJSON writes the verdict, or null if it is not known.
func (v Verdict) MarshalJSON() ([]byte, error) {
	if v == "" {
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, "%q", string(v)), nil
}

// Ask is a question: one model on one machine.
type Ask struct {
	Model Model

	// Quant is the file type, "Q4_K_M". Empty means the model's usual one.
	Quant string

	// Context is how many tokens one request may have. 0 means the most that
	// fits, up to the model's own limit.
	Context int

	// Parallel is how many requests run at once, each with Context tokens of
	// its own. 0 means 1.
	Parallel int

	// WeightsBytes is the size of the weights if it was read, from a file or an
	// engine. Nil means the catalog's size, else parameters × effective bits.
	WeightsBytes *Bytes

	// WeightsSource says where WeightsBytes came from: FromFile or FromAPI.
	// Empty means FromFile.
	WeightsSource Source

	// KVType is the type of the KV cache, "f16", "q8_0", …, or two of them
	// "K/V". Empty means f16.
	KVType string

	// Budget is what the machine can give. Nil means that it is not known;
	// then there is no verdict.
	Budget *Bytes

	GPU     bool // the model runs on a GPU or on unified memory
	Devices int  // number of GPUs it is split over; 0 means as many as Cards, else 1

	// Cards is what each of several GPUs can give. Whole layers must then find
	// room on each; Budget may be nil, and means their sum. Ollama takes one of
	// them alone where a model of the wanted context has room there, and else
	// all (ollama server/sched.go); llama-server takes all.
	Cards []Bytes

	// Repack says that the CPU has AMX and the engine may repack: llama.cpp
	// then holds the weights twice. Only looked at without a GPU.
	Repack bool

	// Engine is "ollama" or "llama-server"; empty means ollama.
	// EngineVersion is its version, of llama-server its build, "b11434"; empty
	// means the newest.
	Engine, EngineVersion string

	// UBatch is the physical batch in tokens. 0 means the engine's own choice.
	UBatch int

	Unified    bool // all requests share one cache of Context tokens: --kv-unified
	FullWindow bool // sliding windows are cached whole: --swa-full
	NoFlash    bool // flash attention is off

	// Correction is what loads on the same box have taught; nil if there were none.
	Correction *Correction
}

// Result is the answer. It is the "fit" of the JSON that others may rely on.
type Result struct {
	Model       string   `json:"model"`
	Quant       string   `json:"quant"`
	Context     int      `json:"context"`
	Parallel    int      `json:"parallel"`
	Weights     *Bytes   `json:"weights_bytes"`
	KV          *Bytes   `json:"kv_bytes"`
	State       *Bytes   `json:"state_bytes"`
	Compute     *Bytes   `json:"compute_bytes"`
	Reserve     *Bytes   `json:"reserve_bytes"`
	Repack      *Bytes   `json:"repack_bytes,omitempty"` // second copy of the weights on a CPU with AMX
	Tied        *Bytes   `json:"tied_bytes,omitempty"`   // second copy of the embeddings in Ollama's own engine
	Total       *Bytes   `json:"total_bytes"`
	Budget      *Bytes   `json:"budget_bytes"`
	Verdict     Verdict  `json:"verdict"`
	MaxContext  *int     `json:"max_context"` // 0: not even the shortest context fits
	Source      Source   `json:"source"`
	ErrorBand   *float64 `json:"error_band"` // relative: 0.02 is ± 2 %
	KVType      string   `json:"kv_type"`
	KVPerToken  *Bytes   `json:"kv_bytes_per_token"` // of the layers that grow with the context
	ModelLimit  *int     `json:"model_context"`      // the model's own limit
	ParamsB     *float64 `json:"params_b"`
	ActiveB     *float64 `json:"active_b"`
	UBatch      int      `json:"ubatch,omitempty"`
	ComputeRule string   `json:"compute_rule,omitempty"`
	Layers      []int    `json:"layers_per_device,omitempty"` // of several GPUs; the output counts as a layer
	Notes       []string `json:"notes,omitempty"`

	// Correction was applied to compute_bytes and reserve_bytes.
	Correction *Correction `json:"correction,omitempty"`
}

// ContextError says that the wanted context is beyond the model's own limit.
type ContextError struct {
	Model       string
	Want, Limit int
}

func (e *ContextError) Error() string {
	return fmt.Sprintf("context of %s tokens for %s: its own limit is %s", Tokens(e.Want), e.Model, Tokens(e.Limit))
}

const (
	contextStep = 256     // llama.cpp pads every cache to 256 cells
	contextTop  = 1 << 24 // no model goes further; guards against headers that lie
	parallelTop = 1 << 12
	tightShare  = 0.05
)

// Check answers one question. A model whose cache is not understood is priced
// with the plain rule: weights / 0.65, and KV is nil. It returns a
// *ContextError for a context over the model's own limit, and other errors for
// numbers below zero, an unknown quantization, KV type or engine, and weights
// of which nothing is known.
func Check(a Ask) (Result, error) {
	if len(a.Cards) > 1 && a.Devices == 0 && a.Context > 0 && a.Engine != "llama-server" {
		alone := a
		widest := slices.Max(a.Cards)
		alone.Cards, alone.Budget, alone.Devices = nil, &widest, 1
		if r, err := Check(alone); err == nil && r.Verdict.OK() {
			return r, nil
		}
	}
	p, err := newPricer(a)
	if err != nil {
		return Result{}, err
	}
	a = p.ask
	r := p.result()
	if p.groups == nil {
		return p.unknownKV(r), nil
	}
	ctx := a.Context
	top := p.limit()
	if a.Budget != nil {
		most := p.maxContext(top)
		r.MaxContext = &most
		if ctx == 0 {
			ctx = most
		}
		if ctx == 0 { // nothing fits: price the least
			ctx = min(contextStep, top)
		}
	}
	if ctx == 0 {
		if p.model.Context == 0 {
			return Result{}, fmt.Errorf("context of %s: its own limit is not known, so a number is needed", r.Model)
		}
		ctx = top
	}
	c := p.price(ctx)
	r.Context = ctx
	r.KV, r.State, r.Compute, r.Reserve, r.Total = &c.kv, &c.state, &c.compute, &c.reserve, &c.total
	r.UBatch, r.ComputeRule = c.ubatch, p.rule()
	if c.repack > 0 {
		r.Repack = &c.repack
		r.Notes = append(r.Notes, "a CPU with AMX gets a second, repacked copy of the weights; --no-repack avoids it")
	}
	if c.tied > 0 {
		r.Tied = &c.tied
		r.Notes = append(r.Notes, "Ollama's own engine keeps a second copy of embeddings that serve as output too")
	}
	if r.Correction = p.ask.Correction; r.Correction != nil {
		r.Notes = append(r.Notes, r.Correction.String())
	}
	per := kvPerToken(p.groups, p.kvK, p.kvV)
	r.KVPerToken = &per
	r.Verdict = verdict(c.total, a.Budget)
	if len(a.Cards) > 0 {
		if r.Layers = p.split(c); r.Layers == nil && r.Verdict.OK() {
			r.Verdict = No
			r.Notes = append(r.Notes, "the GPUs have room enough together, but not for whole layers on each")
		}
	}
	return r, nil
}

// verdict compares a need with a budget.
func verdict(need Bytes, budget *Bytes) Verdict {
	switch {
	case budget == nil:
		return ""
	case need > *budget:
		return No
	case float64(need) > float64(*budget)*(1-tightShare):
		return Tight
	}
	return Fits
}

// unknownKV prices a model of which only the weights are known.
func (p *pricer) unknownKV(r Result) Result {
	total := scale(p.weights, 1/(1-headroom))
	r.Context, r.Total = p.ask.Context, &total
	band := 0.30
	r.ErrorBand = &band
	r.Verdict = verdict(total, p.ask.Budget)
	r.Notes = append(r.Notes, "the KV cache of this architecture is not known: 35 % of the memory is kept free for it; after the load, compare with what the engine reports")
	return r
}

// scale multiplies and saturates.
func scale(b Bytes, f float64) Bytes {
	x := math.Ceil(float64(b) * f)
	if x >= math.MaxInt64 {
		return math.MaxInt64
	}
	return Bytes(x)
}
