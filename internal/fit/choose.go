package fit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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

// Pullable gives those of the built-in catalog, as List.Pullable.
func Pullable() []Candidate { return (*List)(nil).Pullable() }

// Pullable gives the models of the catalog that Ollama can pull, each in the
// quantization that its tag stands for.
func (l *List) Pullable() []Candidate {
	var out []Candidate
	for _, e := range l.Entries() {
		if e.Tag != "" {
			out = append(out, Candidate{Model: e.Model, Quant: cmp.Or(e.Quant, e.DefaultQuant())})
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

// class orders what is good for code: 0 is best. Harnesses work by calls of
// tools, so a coder that is not known to make any comes after a model for
// agents that does, but before models that were made for neither.
func (c Candidate) class() int {
	coder, agent, tools := c.Model.Coder == "yes", c.Model.Coder == "agentic", c.Model.Tools == "yes"
	switch {
	case coder && tools:
		return 0
	case agent && tools:
		return 1
	case coder:
		return 2
	case agent:
		return 3
	case tools:
		return 4
	}
	return 5
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

// Why is the sort of reason for which a candidate was not chosen.
type Why string

const (
	TooLarge  Why = "too_large"  // it does not fit with the wanted context
	TooShort  Why = "too_short"  // its own limit is below the wanted context
	TooCoarse Why = "too_coarse" // its quantization has fewer bits than allowed
	Unpriced  Why = "unpriced"   // what it needs cannot be told
	LessApt   Why = "less_apt"   // it fits and is larger, but is less good for code
)

// PassedOver is a candidate that was not chosen, and why.
type PassedOver struct {
	Model  string `json:"model"`
	Quant  string `json:"quant"`
	Why    Why    `json:"why"`
	Reason string `json:"reason"`
}

// String is the line to print: "qwen3-coder:480b Q4_K_M: needs 287.4 GiB of …".
func (p PassedOver) String() string {
	return strings.TrimSpace(p.Model+" "+p.Quant) + ": " + p.Reason
}

// Choice is what auto picked.
type Choice struct {
	Result
	Candidate Candidate    `json:"-"`
	Passed    []PassedOver `json:"passed_over"` // larger or better ones that were not taken
	Warnings  []Warning    `json:"warnings,omitempty"`
}

// leastContext is what a coding agent cannot do without; it is asked for where
// the context is left to us.
const leastContext = 32 << 10

// Choose picks the largest coder of at least minBits that fits with the wanted
// context and calls tools. Where none fits it takes a model for agents, then a
// coder that is not known to call tools, then any other. Everything but the
// model comes from want, whose Budget must be known. A context of 0 means the
// most that fits, but at least 32k. If none fits, the error is a
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
		r, no := try(c, want, minBits)
		if no == nil {
			for _, o := range sorted[i+1:] {
				if o.Model.ParamsB <= c.Model.ParamsB {
					continue
				}
				if _, no := try(o, want, minBits); no == nil {
					passed = append(passed, o.passed(LessApt, "%s", lessApt(o)))
				}
			}
			return &Choice{Result: r, Candidate: c, Passed: passed, Warnings: Warnings(c, r, want, minBits, candidates)}, nil
		}
		passed = append(passed, *no)
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

func lessApt(c Candidate) string {
	switch c.Model.Coder {
	case "yes":
		return "it fits, but is not known to call tools"
	case "agentic":
		return "it fits, but is made for agents in general, not for code"
	}
	return "it fits, but is not made for code"
}

// passed says why c is not taken.
func (c Candidate) passed(why Why, format string, args ...any) PassedOver {
	quant := cmp.Or(normalQuant(c.Quant), c.Model.DefaultQuant())
	return PassedOver{Model: c.Model.Label(), Quant: quant, Why: why, Reason: fmt.Sprintf(format, args...)}
}

// try prices a candidate; no is nil if it can be taken. The result is empty if
// it could not be priced.
func try(c Candidate, want Ask, minBits int) (r Result, no *PassedOver) {
	not := func(why Why, format string, args ...any) *PassedOver {
		p := c.passed(why, format, args...)
		return &p
	}
	bits, ok := c.nominal()
	switch {
	case !ok && minBits > 0:
		return r, not(Unpriced, "its quantization is not known")
	case bits < minBits:
		return r, not(TooCoarse, "%d bits, below the %d that code needs", bits, minBits)
	}
	if limit := c.Model.Context; want.Context == 0 && limit > 0 && limit < leastContext {
		return r, not(TooShort, "its own limit is %s tokens, below %s", Tokens(limit), Tokens(leastContext))
	}
	r, err := Check(c.ask(want))
	if limit, ok := err.(*ContextError); ok {
		return r, not(TooShort, "its own limit is %s tokens", Tokens(limit.Limit))
	}
	switch {
	case err != nil:
		return Result{}, not(Unpriced, "%v", err)
	case !r.Verdict.OK():
		return r, not(TooLarge, "needs %s of %s at %s context", r.Total, r.Budget, Tokens(r.Context))
	case want.Context == 0 && r.Context != 0 && r.Context < leastContext:
		return r, not(TooLarge, "only %s tokens fit, below %s", Tokens(r.Context), Tokens(leastContext))
	}
	return r, nil
}

// Caution is the sort of a warning.
type Caution string

const (
	FewBits     Caution = "few_bits"     // below 4 bits a weight
	NotACoder   Caution = "not_a_coder"  // a general model, though a coder would fit
	NoTools     Caution = "no_tools"     // it is not known to call tools
	ShortWindow Caution = "short_window" // fewer than 64k tokens
)

// Warning is what the user should know of a model that is taken all the same.
type Warning struct {
	Caution Caution `json:"caution"`
	Text    string  `json:"text"`
}

func (w Warning) String() string { return w.Text }

const (
	leastBits  = 4        // below it, models write visibly worse code
	goodWindow = 64 << 10 // what Ollama's pages ask for with coding agents
)

// Warnings says what speaks against a model that auto took or the user named.
// The result r is that of its Check; want, minBits and candidates are as in
// Choose, to see whether a coder would have fitted in its place.
func Warnings(c Candidate, r Result, want Ask, minBits int, candidates []Candidate) []Warning {
	var out []Warning
	warn := func(kind Caution, format string, args ...any) {
		out = append(out, Warning{kind, c.Model.Label() + " " + fmt.Sprintf(format, args...)})
	}
	if bits, ok := c.nominal(); ok && bits < leastBits {
		warn(FewBits, "has %d bits a weight; below %d, code gets worse", bits, leastBits)
	}
	if c.Model.Coder != "yes" && want.Budget != nil {
		sorted := slices.Clone(candidates)
		slices.SortStableFunc(sorted, better)
		for _, o := range sorted {
			if o.Model.Coder != "yes" {
				continue
			}
			if _, no := try(o, want, minBits); no == nil {
				but := ""
				if o.Model.Tools != "yes" {
					but = ", but is not known to call tools"
				}
				warn(NotACoder, "is a general model; %s is made for code and fits%s", o.Model.Label(), but)
				break
			}
		}
	}
	switch c.Model.Tools {
	case "yes":
	case "no":
		warn(NoTools, "calls no tools, which harnesses work by")
	default:
		warn(NoTools, "is not known to call tools, which harnesses work by")
	}
	if r.Context > 0 && r.Context < goodWindow {
		warn(ShortWindow, "gets a window of %s tokens; coding agents want %s", Tokens(r.Context), Tokens(goodWindow))
	}
	return out
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
// that is less. First comes what Choose could take, the best for code on top,
// then what fits but has a reason against it, then what does not fit. A
// candidate that cannot be priced comes last, with the reason and no verdict.
func Rank(want Ask, minBits int, candidates []Candidate) []Ranked {
	sorted := slices.Clone(candidates)
	slices.SortStableFunc(sorted, better)
	out := make([]Ranked, 0, len(sorted))
	best := false
	for _, c := range sorted {
		reason := ""
		if want.Budget != nil {
			if _, no := try(c, want, minBits); no != nil {
				reason = no.Reason
			}
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
	order := func(l Ranked) int {
		switch {
		case l.Verdict == "":
			return 3
		case !l.Verdict.OK():
			return 2
		case l.Reason != "":
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b Ranked) int { return cmp.Compare(order(a), order(b)) })
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
