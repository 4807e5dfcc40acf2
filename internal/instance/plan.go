package instance

import (
	"context"
	"fmt"
	"strings"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/remote"
)

// Intent is what connect would do: the answer of rlca plan --json.
type Intent struct {
	Host   string        `json:"host"`
	Probe  *probe.Report `json:"probe"`
	Fit    *fit.Result   `json:"fit"`
	Engine string        `json:"engine"`
	// Action is adopt, start or none.
	Action string `json:"action"`
	Model  string `json:"model"`
	// Pull says that the model would be downloaded on the box, after a yes.
	Pull    bool         `json:"pull"`
	Context int          `json:"context"`
	Listen  string       `json:"listen"`
	Steps   []IntentStep `json:"steps"`
	// Commands are those that would make one engine of several boxes, each with its box before it. Null for one box.
	Commands []string `json:"commands"`
}

// IntentStep is one step that would be taken, in words.
type IntentStep struct {
	Step Step   `json:"step"`
	Does string `json:"does"`
}

// Intent says what connect would do now.
func (s *Survey) Intent(ctx context.Context, req Request) Intent {
	in := Intent{Host: req.Name, Probe: s.Report, Fit: s.Fit, Engine: "none", Action: "none", Listen: req.Profile.Forward.Listen}
	add := func(step Step, format string, args ...any) {
		in.Steps = append(in.Steps, IntentStep{step, fmt.Sprintf(format, args...)})
	}
	if s.Engine == nil {
		add(StepEngine, "nothing: the port leads to %s on the box", s.Address)
		add(StepPort, "listen on %s", in.Listen)
		return in
	}
	in.Engine, in.Model, in.Context, in.Pull = strings.ToLower(s.EngineName), s.Plan.Model, s.Plan.Context, !s.OnBox
	if r := s.Running; r != nil {
		in.Action = "adopt"
		add(StepEngine, "adopt %s on %s, %s", r.Title(), r.Address, r.Origin())
	} else {
		in.Action = "start"
		addr := s.Plan.Address
		switch {
		case addr != "":
		case s.kind == engineOllama:
			addr = "127.0.0.1:11434, or the next free port"
		default:
			addr = "a free port of its loopback"
		}
		add(StepEngine, "start %s on %s with %s context", s.EngineName, addr, fit.Tokens(s.Plan.Context))
	}
	if c, ok := s.Engine.(*remote.Cluster); ok && s.ring != nil {
		for _, text := range s.ring.Opens() {
			add(StepEngine, "%s", text)
		}
		in.Commands = c.Commands(ctx, s.ring, s.Plan, s.Plan.Address)
		for _, text := range in.Commands {
			add(StepEngine, "%s", text)
		}
	}
	if in.Pull {
		size := ""
		if s.Fit.Weights != nil {
			size = ", about " + s.Fit.Weights.String()
		}
		add(StepModel, "download %s on the box%s, after a yes", s.Plan.Model, size)
	}
	if s.kind == engineOpenAI {
		add(StepModel, "take %s as it is served there", s.Plan.Model)
	} else if in.Action == "adopt" && s.kind == engineOllama {
		add(StepModel, "load %s; if the engine gives it less than %s, add a copy of its name with that context and take it back at disconnect", s.Plan.Model, fit.Tokens(s.Plan.Context))
	} else {
		add(StepModel, "load %s", s.Plan.Model)
	}
	add(StepPort, "listen on %s and ask for one token through it", in.Listen)
	return in
}

// Ranked lists what is on the box and what could be pulled, best first. It is empty where the memory is not known.
func (s *Survey) Ranked(req Request) []fit.Ranked {
	budget := s.budget()
	if budget == nil {
		return []fit.Ranked{}
	}
	return fit.Rank(s.ask(fit.Candidate{}, req, budget), req.Profile.Model.MinBits, s.Candidates())
}
