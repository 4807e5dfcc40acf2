package instance

import (
	"context"
	"time"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/remote"
)

// reconcileLimit bounds the look into the engine's log, and at the box.
const reconcileLimit = 30 * time.Second

// reconcile compares what was predicted with what the engine's log and the box's memory say, to be shown side by side,
// and notes it for the next time. Only the log of an engine that rlca started is about this model for certain.
func (i *Instance) reconcile(ctx context.Context) {
	i.mu.Lock()
	s, server := i.survey, i.server
	i.mu.Unlock()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reconcileLimit)
	defer cancel()
	if s.Engine == nil {
		i.priceServed(ctx, s)
		return
	}
	if server == nil || s.Fit == nil {
		return
	}
	took := s.took(ctx)
	var said *remote.Buffers
	if !server.Adopted {
		text, err := s.Engine.Log(ctx)
		if b, ok := remote.ParseBuffers(text); err == nil && ok {
			said = &b
		} else {
			i.log.Debug("the engine's log does not say what was allocated", "err", err)
		}
	}
	i.mu.Lock()
	i.took, i.said = took, said
	i.mu.Unlock()
	args := []any{"model", server.Model.Name, "context", server.Model.Context}
	if t := s.Fit.Total; t != nil {
		args = append(args, "predicted", int64(*t))
	}
	if took != nil {
		args = append(args, "box", *took)
	}
	if said != nil {
		args = append(args, "engine", said.Total(), "weights", said.Weights, "kv", said.KV, "state", said.State, "compute", said.Compute)
	}
	i.log.Info("memory of the load", args...)
	if said == nil {
		return
	}
	load, ok := s.load(i.req, server, *said, took)
	if !ok {
		return
	}
	if err := ledger(i.req.Loads).add(s.Box, load); err != nil {
		i.log.Warn("corrections", "err", err)
	}
}

// priceServed predicts what the model takes that somebody else serves at the address of engine none, if rlca can tell.
func (i *Instance) priceServed(ctx context.Context, s *Survey) {
	alone := *s // pricing an Ollama finds an engine, and none was wanted
	alone.box = boxOf(s.Far, i.log)
	p, err := alone.served(ctx, i.req)
	if err != nil {
		i.log.Info("what is served is not priced", "address", s.Address, "err", err)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.priced = p.Result
}

// load is what a load took beside what is predicted for it without a correction, and whether that can teach anything.
func (s *Survey) load(req Request, server *remote.Server, said remote.Buffers, took *int64) (fit.Load, bool) {
	ask := s.ask(s.chosen, req, s.budget())
	ask.Correction = nil
	if server.Model.Context > 0 {
		ask.Context = server.Model.Context
	}
	r, err := fit.Check(ask)
	if err != nil || r.KV == nil {
		return fit.Load{}, false
	}
	l := fit.Load{
		At: time.Now().UTC().Truncate(time.Second), Engine: s.priced(), Version: s.version(), GPU: s.gpu(),
		Model: r.Model, Quant: r.Quant, Context: r.Context, Parallel: r.Parallel,
		Predicted: fit.Parts{Weights: *r.Weights, KV: *r.KV, State: *r.State, Compute: *r.Compute, Reserve: r.Reserve},
		Actual:    fit.Parts{Weights: fit.Bytes(said.Weights), KV: fit.Bytes(said.KV), State: fit.Bytes(said.State), Compute: fit.Bytes(said.Compute)},
	}
	for _, more := range []*fit.Bytes{r.Repack, r.Tied} { // an engine's log counts copies as weights
		if more != nil {
			l.Predicted.Weights += *more
		}
	}
	// A GPU's own memory holds nothing else that comes and goes with a model.
	if p := s.Report.Best(); took != nil && p != nil && p.Kind == probe.Dedicated && *took >= said.Total() {
		rest := fit.Bytes(*took - said.Total())
		l.Actual.Reserve = &rest
	}
	return l, l.Plausible()
}

// took is by how much the box's free memory fell since the survey; nil if that is not known, or if the model was
// loaded before.
func (s *Survey) took(ctx context.Context) *int64 {
	if s.Running != nil && s.Running.Model.Name != "" {
		return nil
	}
	before := s.free(s.Report)
	if before == nil {
		return nil
	}
	report, err := probe.Run(ctx, s.Far)
	if err != nil {
		return nil
	}
	after := s.free(report)
	if after == nil || *after > *before {
		return nil
	}
	n := *before - *after
	return &n
}

// free is what is free in the pools that the model can go to.
func (s *Survey) free(r *probe.Report) *int64 {
	best := s.Report.Best()
	if best == nil {
		return nil
	}
	var sum *int64
	for _, p := range r.Pools {
		if p.ID != best.ID && (p.Kind != probe.Dedicated || best.Kind != probe.Dedicated) {
			continue
		}
		if p.FreeBytes == nil {
			return nil
		}
		n := *p.FreeBytes
		if sum != nil {
			n += *sum
		}
		sum = &n
	}
	return sum
}
