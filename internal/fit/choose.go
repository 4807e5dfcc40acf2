package fit

import (
	"cmp"
	"fmt"
	"slices"
)

// Candidate is a model that could be served.
type Candidate struct {
	Model Model
	Quant string
	OnBox bool // it need not be pulled

	// WeightsBytes and WeightsSource are as in Ask.
	WeightsBytes  *Bytes
	WeightsSource Source
}

// Pullable gives the models of the catalog that Ollama can pull, each in the
// quantization that its tag stands for.
func Pullable() []Candidate {
	var out []Candidate
	for _, m := range Catalog() {
		if m.Tag != "" {
			out = append(out, Candidate{Model: m, Quant: m.DefaultQuant()})
		}
	}
	return out
}

// ask is base for this candidate.
func (c Candidate) ask(base Ask) Ask {
	base.Model, base.Quant = c.Model, c.Quant
	base.WeightsBytes, base.WeightsSource = c.WeightsBytes, c.WeightsSource
	return base
}

// class orders what is good for code: 0 is best. A coder that is not known to
// call tools is of little use to a harness, but is still a coder.
func (c Candidate) class() int {
	switch {
	case c.Model.Coder == "yes" && c.Model.Tools == "yes":
		return 0
	case c.Model.Coder == "yes":
		return 1
	case c.Model.Coder == "agentic":
		return 2
	}
	return 3
}

// nominal gives the bits in the name of the candidate's quantization; of an
// unknown one, those that its size and parameters come to.
func (c Candidate) nominal() (int, bool) {
	quant := cmp.Or(c.Quant, c.Model.DefaultQuant())
	if n, ok := NominalBits(quant); ok {
		return n, true
	}
	if c.WeightsBytes == nil || c.Model.ParamsB <= 0 {
		return 0, false
	}
	return int(float64(*c.WeightsBytes) * 8 / (c.Model.ParamsB * 1e9)), true
}

// better orders candidates: coders first, then by all their parameters; of one
// model what is on the box, then the smaller and so faster file.
func better(a, b Candidate) int {
	here := func(c Candidate) int {
		if c.OnBox {
			return 0
		}
		return 1
	}
	bits := func(c Candidate) int { n, _ := c.nominal(); return n }
	return cmp.Or(
		cmp.Compare(a.class(), b.class()),
		cmp.Compare(b.Model.ParamsB, a.Model.ParamsB),
		cmp.Compare(here(a), here(b)),
		cmp.Compare(bits(a), bits(b)),
		cmp.Compare(a.Model.Label(), b.Model.Label()),
		cmp.Compare(a.Quant, b.Quant),
	)
}

// PassedOver is a candidate that was not chosen, and why.
type PassedOver struct {
	Model  string `json:"model"`
	Quant  string `json:"quant"`
	Reason string `json:"reason"`
}

// Choice is what auto picked.
type Choice struct {
	Result
	Candidate Candidate    `json:"-"`
	Passed    []PassedOver `json:"passed_over"` // larger or better ones that were not taken
}

// leastContext is what a coding agent cannot do without; it is asked for where
// the context is left to us.
const leastContext = 32 << 10

// Choose picks the largest coder of at least minBits that fits with the wanted
// context; models for agents, then others, only where no coder fits. Everything
// but the model comes from want, whose Budget must be known. A context of 0
// means the most that fits, but at least 32k. If none fits, the error is a
// *ShortfallError of the one that came nearest.
func Choose(want Ask, minBits int, candidates []Candidate) (*Choice, error) {
	if want.Budget == nil {
		return nil, fmt.Errorf("choose a model: the memory of the machine is not known")
	}
	sorted := slices.Clone(candidates)
	slices.SortStableFunc(sorted, better)
	var passed []PassedOver
	var nearest *Result
	for i, c := range sorted {
		r, reason := try(c, want, minBits)
		if reason == "" {
			for _, o := range sorted[i+1:] {
				if _, why := try(o, want, minBits); why == "" && o.Model.ParamsB > c.Model.ParamsB {
					passed = append(passed, PassedOver{o.Model.Label(), o.Quant, notCoder(o)})
				}
			}
			return &Choice{Result: r, Candidate: c, Passed: passed}, nil
		}
		passed = append(passed, PassedOver{c.Model.Label(), cmp.Or(normalQuant(c.Quant), c.Model.DefaultQuant()), reason})
		if r.Total != nil && (nearest == nil || *r.Total < *nearest.Total) {
			nearest = &r
		}
	}
	short := &ShortfallError{Passed: passed, Instead: Instead(want, minBits, candidates)}
	if nearest != nil {
		short.Result = *nearest
	}
	short.Result.Budget = want.Budget
	return nil, short
}

func notCoder(c Candidate) string {
	if c.Model.Coder == "yes" {
		return "it is not known to call tools"
	}
	return "it fits, but is not made for code"
}

// try prices a candidate; the reason is empty if it can be taken.
func try(c Candidate, want Ask, minBits int) (r Result, reason string) {
	bits, ok := c.nominal()
	switch {
	case !ok && minBits > 0:
		return r, "its quantization is not known"
	case bits < minBits:
		return r, fmt.Sprintf("%d bits, below the %d that code needs", bits, minBits)
	}
	if limit := c.Model.Context; want.Context == 0 && limit > 0 && limit < leastContext {
		return r, fmt.Sprintf("its own limit is %s tokens, below %s", Tokens(limit), Tokens(leastContext))
	}
	r, err := Check(c.ask(want))
	if limit, ok := err.(*ContextError); ok {
		return r, fmt.Sprintf("its own limit is %s tokens", Tokens(limit.Limit))
	}
	switch {
	case err != nil:
		return Result{}, err.Error()
	case !r.Verdict.OK():
		return r, fmt.Sprintf("needs %s of %s at %s context", r.Total, r.Budget, Tokens(r.Context))
	case want.Context == 0 && r.Context != 0 && r.Context < leastContext:
		return r, fmt.Sprintf("only %s tokens fit, below %s", Tokens(r.Context), Tokens(leastContext))
	}
	return r, ""
}

// Ranked is one line of a list of models.
type Ranked struct {
	Result
	Candidate Candidate `json:"-"`
	OnBox     bool      `json:"on_box"`
	Best      bool      `json:"best"` // what Choose would take
	Reason    string    `json:"reason,omitempty"`
}

// Rank prices every candidate at the wanted context, or at its own limit if
// that is less, and puts what fits first, the best for code on top. A candidate
// that cannot be priced comes last, with the reason and no verdict.
func Rank(want Ask, minBits int, candidates []Candidate) []Ranked {
	sorted := slices.Clone(candidates)
	slices.SortStableFunc(sorted, better)
	out := make([]Ranked, 0, len(sorted))
	best := false
	for _, c := range sorted {
		_, reason := try(c, want, minBits)
		if want.Budget == nil {
			reason = ""
		}
		ask := c.ask(want)
		if limit := c.Model.Context; limit > 0 {
			ask.Context = min(ask.Context, limit)
		}
		line := Ranked{Candidate: c, OnBox: c.OnBox, Reason: reason}
		r, err := Check(ask)
		if err != nil {
			r = Result{Model: c.Model.Label(), Quant: normalQuant(c.Quant), Budget: want.Budget}
			line.Reason = err.Error()
		}
		line.Result = r
		if reason == "" && err == nil && r.Verdict.OK() && !best {
			line.Best, best = true, true
		}
		out = append(out, line)
	}
	order := map[Verdict]int{Fits: 0, Tight: 0, No: 1, "": 2}
	slices.SortStableFunc(out, func(a, b Ranked) int { return cmp.Compare(order[a.Verdict], order[b.Verdict]) })
	return out
}

// Instead gives what does fit, best first and at most three: at the wanted
// context, else at the next shorter power of two that fits, down to 8k.
func Instead(want Ask, minBits int, candidates []Candidate) []Result {
	sorted := slices.Clone(candidates)
	slices.SortStableFunc(sorted, better)
	var out []Result
	seen := map[string]bool{}
	for _, c := range sorted {
		bits, ok := c.nominal()
		if !ok || bits < minBits || seen[c.Model.Label()] {
			continue
		}
		if r, ok := shorter(c.ask(want)); ok {
			out, seen[c.Model.Label()] = append(out, r), true
		}
		if len(out) == 3 {
			break
		}
	}
	return out
}

func shorter(a Ask) (Result, bool) {
	for ctx := cmp.Or(a.Context, 64<<10); ctx >= 8<<10; ctx = floorPower(ctx - 1) {
		a.Context = ctx
		if r, err := Check(a); err == nil && r.Verdict.OK() {
			return r, true
		}
	}
	return Result{}, false
}

// floorPower is the largest power of two that is at most n.
func floorPower(n int) int {
	p := 1
	for p*2 <= n {
		p *= 2
	}
	return p
}

// ShortfallError says that a model, or every candidate, does not fit. It is
// what exit code 3 is for.
type ShortfallError struct {
	Result           // the one that was asked for, or that came nearest
	Host    string   // where; may be empty
	Instead []Result // what fits there, best first
	Passed  []PassedOver
}

func (e *ShortfallError) Error() string {
	where := ""
	if e.Host != "" {
		where = " on " + e.Host
	}
	if e.Total == nil || e.Result.Budget == nil {
		return "no model fits" + where
	}
	at := ""
	if e.Context > 0 {
		at = fmt.Sprintf(" at %s context", Tokens(e.Context))
	}
	return fmt.Sprintf("%s does not fit%s: needs %s%s, %s can be used", e.Result.Model, where, e.Total, at, e.Result.Budget)
}
