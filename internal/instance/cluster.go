package instance

import (
	"context"
	"fmt"
	"log/slog"

	"rlca/probe"
	"rlca/remote"
)

// measureWorkers probes the other boxes of a cluster.
func (s *Survey) measureWorkers(ctx context.Context, r *Reached, emit func(Event)) error {
	for _, w := range r.Workers {
		report, err := Probe(ctx, w.Far, func(e Event) {
			e.Text = w.Name + ": " + e.Text
			emit(e)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", w.Name, err)
		}
		s.Workers = append(s.Workers, report)
	}
	return nil
}

// findCluster says what runs on the boxes of a cluster, which only vLLM can make one engine of.
func (s *Survey) findCluster(ctx context.Context, req Request, r *Reached, log *slog.Logger) error {
	if name := req.Profile.Engine.Name; name != "auto" && name != engineVLLM {
		return fmt.Errorf("join several boxes for %s: only vLLM works on several boxes, not %s: take --engine vllm, or a profile without [cluster]", req.Name, name)
	}
	s.kind = engineVLLM
	s.Engine, s.EngineName = clusterOf(req, r, log, s), engines[engineVLLM].title
	s.box = boxOf(r.Far, log)
	return s.meet(ctx, req)
}

// clusterOf drives the boxes of a request. s may be nil: then nothing is known of their memory.
func clusterOf(req Request, r *Reached, log *slog.Logger, s *Survey) *remote.Cluster {
	nodes := []remote.Node{{Name: req.Name, Box: boxOf(r.Far, log)}}
	if s != nil {
		nodes[0].Floor = floor(s.Report)
	}
	for i, w := range r.Workers {
		n := remote.Node{Name: w.Name, Box: boxOf(w.Far, log)}
		if s != nil {
			n.Floor = floor(s.Workers[i])
		}
		nodes = append(nodes, n)
	}
	return remote.NewCluster(nodes, req.Profile.Engine.Address)
}

// joinUp says how the boxes of a cluster would work together. One that runs already is left as it is.
func (s *Survey) joinUp(ctx context.Context) (err error) {
	c, ok := s.Engine.(*remote.Cluster)
	if !ok || s.Running != nil && s.Running.Adopted {
		return nil
	}
	if s.Plan.Tensor == 0 { // of boxes without a GPU each counts once
		s.Plan.Tensor = 1 + len(s.Workers)
	}
	s.ring, err = c.Ring(ctx, s.Plan)
	return err
}

// floor is how much memory must stay available on a box whose GPU shares it; 0 on others, where only the engine would
// suffer.
func floor(r *probe.Report) int64 {
	p := r.Best()
	if p == nil || p.Kind != probe.Unified || p.TotalBytes == nil {
		return 0
	}
	return min(floorMost, *p.TotalBytes/scarcePart)
}
