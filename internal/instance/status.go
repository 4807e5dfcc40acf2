package instance

import (
	"context"
	"time"

	"rlca/internal/fit"
	"rlca/tunnel"
)

// Status is one host in the answer of rlca status --json. What is not known is null.
type Status struct {
	Name string `json:"name"`
	// State is up, connecting, waiting, "needs you" or closed.
	State     string        `json:"state"`
	Since     time.Time     `json:"since"`
	Link      *LinkStatus   `json:"link"`
	Engine    *EngineStatus `json:"engine"`
	Model     *ModelStatus  `json:"model"`
	Forward   ForwardStatus `json:"forward"`
	Memory    *MemoryStatus `json:"memory"`
	Reconnect *Reconnect    `json:"last_reconnect"`
	// Meter is null before the model has answered through the port, and in mode tcp.
	Meter *MeterStatus `json:"meter"`
	// Local is true for this machine: there is no link.
	Local bool `json:"local"`
	// SSHConfig is the -F FILE that the host was connected with, empty if there was none.
	SSHConfig string `json:"ssh_config"`
	LastError string `json:"last_error"`
}

// Reconnect is the last time that the link came back.
type Reconnect struct {
	At time.Time `json:"at"`
	// After is how long the link was down, in seconds.
	After  float64 `json:"after_s"`
	Reason string  `json:"reason"`
}

// LinkStatus is where the SSH link stands.
type LinkStatus struct {
	State      string     `json:"state"`
	Since      time.Time  `json:"since"`
	RTTms      *float64   `json:"rtt_ms"`
	Reconnects int        `json:"reconnects"`
	LastError  string     `json:"last_error"`
	NextTry    *time.Time `json:"next_try"`
}

// EngineStatus is what serves on the box.
type EngineStatus struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Address string `json:"address"`
	// BoundLoopback is null when the box's listeners could not be read.
	BoundLoopback *bool  `json:"bound_loopback"`
	Origin        string `json:"origin"`
}

// ModelStatus is the model as the engine last told it.
type ModelStatus struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	Quant     string `json:"quant"`
	Context   int    `json:"context"`
	SizeBytes int64  `json:"size_bytes"`
	VRAMBytes int64  `json:"vram_bytes"`
}

// ForwardStatus is the local port.
type ForwardStatus struct {
	Listen string `json:"listen"`
	Mode   string `json:"mode"`
	// Token says that requests have to show a secret; Allow is "all" or "inference".
	Token bool   `json:"token"`
	Allow string `json:"allow"`
	// LeadsTo is the other host that the port leads to; empty is its own.
	LeadsTo string `json:"leads_to"`
	Open    int    `json:"open"`
	Held    int    `json:"held"`
	// HeldSince is how long the oldest caller has been held, in seconds.
	HeldSince float64 `json:"held_s"`
	Served    int64   `json:"served"`
	Reset     int64   `json:"reset"`
	Failed    int64   `json:"failed"`
	// Refused were kept out of the HTTP port: from a web page, or not well formed.
	Refused int64 `json:"refused"`
}

// MemoryStatus is what the fit predicted, what the probe found when the host was connected, and what is left now, in
// bytes.
type MemoryStatus struct {
	PredictedBytes *int64 `json:"predicted_bytes"`
	ModelBytes     *int64 `json:"model_bytes"`
	TotalBytes     *int64 `json:"total_bytes"`
	FreeBytes      *int64 `json:"free_bytes"`
	SwapUsedBytes  *int64 `json:"swap_used_bytes"` // now, if it is watched
	// AvailableBytes is what the box's system can still give, sampled every 10 s; null while that is not known.
	AvailableBytes *int64 `json:"available_bytes"`
	// Engine is what an engine that rlca started says in its log that it allocated; null if it does not say.
	Engine *EngineMemory `json:"engine"`
	// TookBytes is by how much the load made the box's free memory less; null if the model was loaded before. Of weights
	// that are mapped from a file a CPU's memory shows nothing.
	TookBytes *int64 `json:"took_bytes"`
	// Correction is what earlier loads on this box have changed in the prediction; null if nothing.
	Correction *fit.Correction `json:"correction"`
	// Warning says that the box's memory comes to its end.
	Warning string `json:"warning"`
}

// EngineMemory is what an engine allocated for the model, in bytes.
type EngineMemory struct {
	WeightsBytes int64 `json:"weights_bytes"`
	KVBytes      int64 `json:"kv_bytes"`
	StateBytes   int64 `json:"state_bytes"`
	ComputeBytes int64 `json:"compute_bytes"`
	TotalBytes   int64 `json:"total_bytes"`
}

// askLimit is how long a status waits for the engine's own word.
const askLimit = 2 * time.Second

// Status says how the host stands. With the link up it asks the engine what it has loaded, for at most two seconds.
func (i *Instance) Status(ctx context.Context) Status {
	i.refresh(ctx)
	metered := i.metered()
	i.mu.Lock()
	defer i.mu.Unlock()
	st := Status{Name: i.req.Name, State: "connecting", Since: i.since, Local: i.isLocal(), SSHConfig: i.req.SSHConfig, Forward: ForwardStatus{
		Listen: i.listen, Mode: "tcp", Token: i.req.Token != "", Allow: i.req.Profile.Forward.Allow,
	}}
	if !i.readyAt.IsZero() {
		st.State, st.Since = "up", i.readyAt
	}
	if i.direct {
		st.Forward.Listen, st.Forward.Mode, st.Forward.Token, st.Forward.Allow = i.addr, "direct", false, "all"
	}
	if i.link != nil {
		l := i.link.Status()
		ls := &LinkStatus{State: string(l.State), Since: l.Since, Reconnects: l.Reconnects, LastError: l.LastError}
		if l.State == tunnel.Up {
			ms := l.RTT.Seconds() * 1000
			ls.RTTms = &ms
		}
		if !l.NextTry.IsZero() {
			ls.NextTry = &l.NextTry
		}
		st.Link, st.LastError = ls, l.LastError
		if h := l.Last; h != nil {
			st.Reconnect = &Reconnect{At: h.At, After: h.After.Seconds(), Reason: h.Reason}
		}
		if !i.readyAt.IsZero() && l.State != tunnel.Up {
			st.State = string(l.State)
			st.Since = l.Since
		}
	}
	if i.lastErr != nil {
		st.LastError = i.lastErr.Error()
	}
	i.traffic(&st.Forward)
	if i.leads != nil {
		st.Forward.LeadsTo = i.leads.req.Name
	}
	st.Meter = metered
	if s := i.server; s != nil {
		st.Engine = &EngineStatus{Name: s.Engine, Version: s.Version, Address: s.Address, BoundLoopback: s.LoopbackBound, Origin: s.Origin()}
		m := s.Model
		st.Model = &ModelStatus{Name: m.Name, Digest: m.Digest, Context: m.Context, SizeBytes: m.SizeBytes, VRAMBytes: m.VRAMBytes}
	}
	if s := i.survey; s != nil {
		st.Memory = s.memory()
		if b := i.said; b != nil {
			st.Memory.Engine = &EngineMemory{WeightsBytes: b.Weights, KVBytes: b.KV, StateBytes: b.State, ComputeBytes: b.Compute, TotalBytes: b.Total()}
		}
		if r := i.priced; r != nil && r.Total != nil {
			n := int64(*r.Total)
			st.Memory.PredictedBytes = &n
		}
		st.Memory.TookBytes = i.took
		if now := i.sample; now != nil {
			st.Memory.AvailableBytes, st.Memory.SwapUsedBytes, st.Memory.Warning = now.AvailableBytes, now.SwapUsedBytes, i.scarce
		}
		if st.Model != nil {
			if s.Fit != nil {
				st.Model.Quant = s.Fit.Quant
			}
			if st.Model.SizeBytes > 0 {
				size := st.Model.SizeBytes
				st.Memory.ModelBytes = &size
			}
		}
	}
	return st
}

// refresh asks the engine what it has loaded now, if the link is up.
func (i *Instance) refresh(ctx context.Context) {
	i.mu.Lock()
	s, server, link, ready := i.survey, i.server, i.link, !i.readyAt.IsZero()
	i.mu.Unlock()
	if !ready || s == nil || s.Engine == nil || server == nil || link != nil && link.Status().State != tunnel.Up {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	loaded, err := s.Engine.Loaded(ctx, server)
	if err != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == server {
		now := *server
		now.Model = loaded
		i.server = &now
	}
}
