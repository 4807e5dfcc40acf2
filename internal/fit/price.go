package fit

import (
	"fmt"
	"slices"
	"strings"
)

// pricer is an Ask that was understood: everything but the context is settled.
type pricer struct {
	ask      Ask
	model    Model
	quant    string
	weights  Bytes
	source   Source
	band     float64
	notes    []string
	groups   []kvGroup // nil: the cache of this model is not known
	kvK, kvV kvType
	parallel int
	devices  int
	regime   regime
}

func newPricer(a Ask) (*pricer, error) {
	p := &pricer{ask: a, model: a.Model, parallel: max(a.Parallel, 1), devices: max(a.Devices, len(a.Cards), 1)}
	switch {
	case a.Context < 0:
		return nil, fmt.Errorf("context %d: a number of tokens is not below 0", a.Context)
	case a.Parallel < 0 || a.Parallel > parallelTop:
		return nil, fmt.Errorf("parallel %d: from 1 to %d", a.Parallel, parallelTop)
	case a.Devices < 0 || a.Devices > parallelTop:
		return nil, fmt.Errorf("devices %d: from 1 to %d", a.Devices, parallelTop)
	case a.UBatch < 0 || a.UBatch > contextTop:
		return nil, fmt.Errorf("ubatch %d: from 1 to %d", a.UBatch, contextTop)
	case len(a.Cards) > parallelTop || a.Devices > 0 && len(a.Cards) > 0 && a.Devices != len(a.Cards):
		return nil, fmt.Errorf("%d devices, and the memory of %d of them: want one for each", a.Devices, len(a.Cards))
	case slices.ContainsFunc(a.Cards, func(b Bytes) bool { return b < 0 }):
		return nil, fmt.Errorf("memory of the GPUs %v: it is not below 0", a.Cards)
	case a.Budget != nil && *a.Budget < 0:
		return nil, fmt.Errorf("budget of %d bytes: it is not below 0", *a.Budget)
	case a.WeightsBytes != nil && *a.WeightsBytes <= 0:
		return nil, fmt.Errorf("weights of %d bytes: they are more than 0", *a.WeightsBytes)
	case a.Context > p.limit():
		return nil, &ContextError{Model: a.Model.Label(), Want: a.Context, Limit: p.limit()}
	}
	if err := a.Correction.check(); err != nil {
		return nil, err
	}
	if err := a.Model.check(); err != nil {
		return nil, fmt.Errorf("shape of %s: %w", a.Model.Label(), err)
	}
	if a.Budget == nil && len(a.Cards) > 0 {
		var sum Bytes
		for _, card := range a.Cards {
			sum = add(sum, card)
		}
		p.ask.Budget = &sum
	}
	var err error
	if p.kvK, p.kvV, err = parseKVTypes(a.KVType); err != nil {
		return nil, err
	}
	if a.NoFlash && p.kvV.quantized() {
		p.kvV = kvTypes[0] // without flash attention values cannot be quantized
	}
	if p.regime, err = engineRegime(a.Engine, a.EngineVersion); err != nil {
		return nil, err
	}
	if p.regime.old && a.Engine != "llama-server" && ownEngine[a.Model.Arch] {
		p.regime = regime{own: true}
	}
	if err := p.weigh(); err != nil {
		return nil, err
	}
	if g, ok := a.Model.kvGroups(); ok && a.Model.stateKnown() && a.Model.Hidden > 0 {
		p.groups = g
		if a.Model.Kind == KindMLA {
			p.band = max(p.band, 0.05) // compute logs of MLA models are off
		}
	}
	return p, nil
}

// limit is the longest context that may be asked for.
func (p *pricer) limit() int {
	if p.model.Context > 0 {
		return min(p.model.Context, contextTop)
	}
	return contextTop
}

// result is the part of the answer that does not depend on the context.
func (p *pricer) result() Result {
	r := Result{
		Model: p.model.Label(), Quant: p.quant, Parallel: p.parallel,
		Weights: &p.weights, Budget: p.ask.Budget, Source: p.source, ErrorBand: &p.band,
		KVType: p.kvK.name, Notes: p.notes,
	}
	if p.kvV != p.kvK {
		r.KVType += "/" + p.kvV.name
	}
	if p.model.Context > 0 {
		r.ModelLimit = &p.model.Context
	}
	if p.model.ParamsB > 0 {
		r.ParamsB = &p.model.ParamsB
	}
	if p.model.ActiveB > 0 {
		r.ActiveB = &p.model.ActiveB
	}
	return r
}

// cost is what one context needs.
type cost struct {
	kv, state, compute, reserve, repack, tied, total Bytes
	ubatch                                           int
}

// price says what ctx tokens for each request need. Ollama lowers its batch
// when memory is short, so with a budget the largest batch that it would still
// take is used (ollama server/sched.go generationBatchFits).
func (p *pricer) price(ctx int) cost {
	batches := p.regime.batches(p.ask.UBatch, ctx)
	for _, ub := range batches[:len(batches)-1] {
		c := p.priceBatch(ctx, ub)
		if p.ask.Budget == nil {
			return c
		}
		share := 0.75
		if ub >= 2048 {
			share = 0.60
		}
		if p.fits(c) && float64(add(p.weights, c.kv)) <= share*float64(*p.ask.Budget) {
			return c
		}
	}
	return p.priceBatch(ctx, batches[len(batches)-1])
}

func (p *pricer) priceBatch(ctx, ub int) cost {
	c := cost{ubatch: ub}
	cells := p.cells(ctx, ub)
	c.kv = kvBytes(p.groups, cells, p.kvK, p.kvV, !p.ask.NoFlash)
	c.state = p.model.stateBytes(p.parallel)
	c.compute = p.compute(cells, ub)
	c.reserve = p.reserve()
	if fix := p.ask.Correction; fix != nil {
		c.compute = scale(c.compute, fix.Compute)
		if fix.Reserve != nil {
			c.reserve = *fix.Reserve
		}
	}
	if !p.ask.GPU && p.ask.Repack {
		c.repack = p.weights
	}
	if p.regime.own {
		c.tied = p.model.tiedBytes(p.quant)
	}
	for _, b := range []Bytes{p.weights, c.kv, c.state, c.compute, c.reserve, c.repack, c.tied} {
		c.total = add(c.total, b)
	}
	return c
}

// maxContext is the longest context that fits in the budget, a multiple of 256 or
// top itself; 0 if none does. Need grows with the context, so it can be halved.
func (p *pricer) maxContext(top int) int {
	fits := func(steps int) bool { // with the smallest batch, which the engine falls back to
		ctx := min(steps*contextStep, top)
		b := p.regime.batches(p.ask.UBatch, ctx)
		return p.fits(p.priceBatch(ctx, b[len(b)-1]))
	}
	lo, hi := 0, (top+contextStep-1)/contextStep
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if fits(mid) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return min(lo*contextStep, top)
}

// weigh finds the size of the weights: what was read, the catalog's file, else
// parameters × effective bits.
func (p *pricer) weigh() error {
	a := p.ask
	p.quant = normalQuant(a.Quant)
	if p.quant == "" && a.WeightsBytes == nil {
		p.quant = a.Model.DefaultQuant()
	}
	if a.WeightsBytes != nil {
		p.weights, p.source, p.band = *a.WeightsBytes, a.WeightsSource, 0.01
		if p.source == "" {
			p.source = FromFile
		}
		return nil
	}
	if b, ok := a.Model.Files[p.quant]; ok {
		p.weights, p.source, p.band = b, FromCatalog, 0.02
		return nil
	}
	if a.Model.ParamsB <= 0 {
		return fmt.Errorf("weights of %s: neither a size nor a number of parameters is known", a.Model.Label())
	}
	bits, band, err := p.model.bits(p.quant)
	if err != nil {
		return err
	}
	p.weights, p.source, p.band = PlainWeights(a.Model.ParamsB, bits), FromParams, band
	if a.Model.ActiveB > 0 && a.Model.ActiveB < a.Model.ParamsB {
		p.notes = append(p.notes, fmt.Sprintf("counts all %s parameters, not the %s active ones", billions(a.Model.ParamsB), billions(a.Model.ActiveB)))
	}
	if strings.HasPrefix(p.quant, "UD-") {
		p.notes = append(p.notes, "UD quantizations mix types: the size of the file is the only exact one")
	}
	return nil
}

func billions(b float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", b), ".0") + "B"
}
