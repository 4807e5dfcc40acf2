package instance

import (
	"cmp"
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"rlca/internal/gateway"
	"rlca/tunnel"
)

// face is the local port: of HTTP, or of bytes.
type face interface {
	Serve(ctx context.Context, ls ...net.Listener) error
}

const modeHTTP = "http"

// newFace is the port of the profile's mode. The caller holds no lock.
func (i *Instance) newFace() face {
	hold := i.req.Profile.Forward.Hold.Duration()
	if i.req.Profile.Forward.Mode != modeHTTP {
		f := &tunnel.Forward{Dial: i.dialEngine, Refused: refused, Hold: hold, Log: i.log}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.forward = f
		return f
	}
	meter := &gateway.Meter{
		Context: func() int { return i.behind().context() },
		Same:    func(asked, answered string) bool { return i.behind().sameModel(asked, answered) },
		Log:     i.log,
	}
	g := &gateway.Gateway{
		Dial: i.dialEngine, Classify: classify, State: func() gateway.State { return i.behind().way() }, Hold: hold, Log: i.log,
		Observe: meter.Observe, Token: i.req.Token, InferenceOnly: i.req.Profile.Forward.Allow == "inference",
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.gateway, i.meter = g, meter
	return g
}

// Divert makes the port of this host lead to the engine of another one, from the next request on; nil is its own again.
// In mode tcp it is from the next connection on. It is false where the engine itself has the port.
func (i *Instance) Divert(to *Instance) bool {
	if to == i {
		to = nil
	}
	i.mu.Lock()
	direct := i.direct
	if !direct {
		i.leads = to
	}
	g := i.gateway
	i.mu.Unlock()
	if g != nil {
		g.Renew()
	}
	return !direct
}

// behind is the host whose engine stands behind the port.
func (i *Instance) behind() *Instance {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.leads != nil {
		return i.leads
	}
	return i
}

// Listen is where the port is, once that is known.
func (i *Instance) Listen() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.listen
}

// classify says what a caller of the port is told of an error of dialEngine.
func classify(err error) gateway.Verdict {
	var no *tunnel.RefusedError
	switch {
	case errors.As(err, &no) && no.Prohibited, tunnel.Final(err):
		return gateway.Human
	case errors.As(err, &no), errors.Is(err, syscall.ECONNREFUSED):
		return gateway.Closed
	}
	return gateway.Wait
}

// sameModel reports whether two names are of the model that is served: by the name that was asked for, by what it was made
// of, or by its file.
func (i *Instance) sameModel(asked, answered string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == nil {
		return false
	}
	ours := func(name string) bool { return sameModel(name, i.server.Model.Name, i.server.Model.Base) }
	return ours(asked) && ours(answered)
}

// context is how many tokens a request may have, 0 if that is not known.
func (i *Instance) context() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == nil {
		return 0
	}
	return i.server.Model.Context
}

// way is how the way to the box stands, for a caller that waits.
func (i *Instance) way() gateway.State {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := gateway.State{Host: i.req.Name, Since: i.since}
	if i.readyAt.IsZero() {
		s.Doing = "being connected"
		if i.doing != "" {
			s.Doing = "not ready yet: " + i.doing
		}
	}
	if i.link == nil {
		return s
	}
	if l := i.link.Status(); l.State != tunnel.Up {
		s.Doing, s.Since, s.NextTry, s.Cause = "", l.Since, l.NextTry, l.LastError
	}
	return s
}

// traffic says how the port fares. The caller holds mu.
func (i *Instance) traffic(st *ForwardStatus) {
	switch {
	case i.gateway != nil:
		s := i.gateway.Stats()
		st.Mode, st.Open, st.Held, st.HeldSince = modeHTTP, s.Open, s.Held, s.OldestHeld.Seconds()
		st.Served, st.Reset, st.Failed, st.Refused = s.Served, s.Reset, s.Failed, s.Refused
	case i.forward != nil:
		s := i.forward.Stats()
		st.Open, st.Held, st.HeldSince = s.Open, s.Held, s.OldestHeld.Seconds()
		st.Served, st.Reset, st.Failed = s.Served, s.Reset, s.Failed
	}
}

// MeterStatus is how the model answered through the port in the last five minutes. Zero is not known.
type MeterStatus struct {
	Requests         int     `json:"requests"`
	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	FirstTokenS      float64 `json:"first_token_s"`
	TokensPerSecond  float64 `json:"tokens_per_second"`
	// Context is how many tokens a request may have, Used those of the last prompt and its answer.
	Context int `json:"context"`
	Used    int `json:"used"`
	// At is when the last request began.
	At       time.Time         `json:"at"`
	Warnings []gateway.Warning `json:"warnings"`
}

// metered is nil before the first answer of a model. The caller holds no lock: the meter asks for the context.
func (i *Instance) metered() *MeterStatus {
	i.mu.Lock()
	meter := i.meter
	i.mu.Unlock()
	if meter == nil {
		return nil
	}
	r := meter.Reading()
	if r.Last == nil {
		return nil
	}
	return &MeterStatus{
		Requests: r.Requests, PromptTokens: r.PromptTokens, CompletionTokens: r.CompletionTokens, FirstTokenS: r.FirstToken.Seconds(), TokensPerSecond: r.TokensPerSecond,
		Context: cmp.Or(r.Context, r.Last.AskedContext), Used: r.Used, At: r.Last.Start, Warnings: r.Warnings,
	}
}
