package fit

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Kind is how the layers of a model remember the context.
type Kind string

const (
	KindFull    Kind = "full"    // every layer caches every token
	KindSWA     Kind = "swa"     // some layers cache only a sliding window
	KindHybrid  Kind = "hybrid"  // some layers have a state of fixed size instead
	KindMLA     Kind = "mla"     // one compressed row for each token and layer
	KindUnknown Kind = "unknown" // the cache cannot be computed
)

// Model is what memory use depends on: a catalog entry, or what FromMetadata
// read from an engine or a file. A zero number is not known.
type Model struct {
	Name string `json:"name"`           // short name, "qwen3-coder-30b"
	Tag  string `json:"tag,omitempty"`  // Ollama tag
	Repo string `json:"repo,omitempty"` // Hugging Face repository
	Arch string `json:"arch,omitempty"` // GGUF architecture

	ParamsB float64 `json:"params_b,omitempty"` // all parameters, in billions
	ActiveB float64 `json:"active_b,omitempty"` // those used for one token

	Kind     Kind `json:"kind"`
	Layers   int  `json:"layers,omitempty"`
	Hidden   int  `json:"hidden,omitempty"`    // embedding length
	FF       int  `json:"ff,omitempty"`        // feed-forward length; of a mixture, of all experts used for one token
	ExpertFF int  `json:"expert_ff,omitempty"` // of one expert
	Heads    int  `json:"heads,omitempty"`
	KVHeads  int  `json:"kv_heads,omitempty"`
	HeadK    int  `json:"head_k,omitempty"` // length of a key
	HeadV    int  `json:"head_v,omitempty"` // length of a value; 0 for MLA, which caches keys only
	Vocab    int  `json:"vocab,omitempty"`
	Context  int  `json:"context,omitempty"` // the model's own limit in tokens

	FullLayers int `json:"full_layers,omitempty"` // layers that cache every token

	SWALayers  int `json:"swa_layers,omitempty"`
	Window     int `json:"swa_window,omitempty"` // in tokens
	SWAKVHeads int `json:"swa_kv_heads,omitempty"`
	SWAHead    int `json:"swa_head,omitempty"`

	StateLayers int `json:"state_layers,omitempty"` // recurrent layers
	StateConv   int `json:"state_conv,omitempty"`
	StateInner  int `json:"state_inner,omitempty"`
	StateSize   int `json:"state_size,omitempty"`
	StateGroups int `json:"state_groups,omitempty"`

	Coder string `json:"coder,omitempty"` // "yes", "agentic" (general, made for agents), "no"; empty: not known
	Tools string `json:"tools,omitempty"` // calls tools: "yes", "no"; empty: not verified

	Files   map[string]Bytes `json:"files,omitempty"` // sizes of published files, by quantization
	Source  string           `json:"source,omitempty"`
	Checked string           `json:"checked,omitempty"` // where tag and tools were checked

	groups []kvGroup // layers that differ, from metadata; nil: as the fields above say
}

// Label is what the model is called: its Ollama tag, its repository, its name.
func (m Model) Label() string {
	for _, s := range []string{m.Tag, m.Name, m.Repo, m.Arch} {
		if s != "" {
			return s
		}
	}
	return "model"
}

// DefaultQuant is the quantization that one gets without asking for one.
func (m Model) DefaultQuant() string {
	switch {
	case m.Arch == "gpt-oss" || m.Arch == "gptoss":
		return "MXFP4"
	}
	return "Q4_K_M"
}

// check refuses numbers that no model has: a header may lie.
func (m Model) check() error {
	small := []int{m.Layers, m.Heads, m.KVHeads, m.HeadK, m.HeadV, m.FullLayers, m.SWALayers, m.SWAKVHeads,
		m.SWAHead, m.StateLayers, m.StateConv, m.StateGroups}
	large := []int{m.Hidden, m.FF, m.ExpertFF, m.Vocab, m.Context, m.Window, m.StateInner, m.StateSize}
	for _, n := range small {
		if n < 0 || n > 1<<16 {
			return fmt.Errorf("%d is out of range", n)
		}
	}
	for _, n := range large {
		if n < 0 || n > 1<<28 {
			return fmt.Errorf("%d is out of range", n)
		}
	}
	for _, g := range m.groups {
		if g.layers < 0 || g.layers > 1<<16 || g.k < 0 || g.k > 1<<28 || g.v < 0 || g.v > 1<<28 {
			return fmt.Errorf("%d layers of %d + %d are out of range", g.layers, g.k, g.v)
		}
	}
	if !(m.ParamsB >= 0 && m.ParamsB < 1e6) {
		return fmt.Errorf("%v billion parameters are out of range", m.ParamsB)
	}
	return nil
}

// kvGroup is a number of layers that cache alike: k and v elements a token.
type kvGroup struct {
	layers, k, v int
	window       bool // only a sliding window of tokens
}

// kvGroups gives the layers that have a cache, and false if that is not known.
func (m Model) kvGroups() ([]kvGroup, bool) {
	if m.Kind == KindUnknown {
		return nil, false
	}
	if m.groups != nil {
		return m.groups, true
	}
	if m.KVHeads <= 0 || m.HeadK <= 0 {
		return nil, false
	}
	full := m.FullLayers
	if full == 0 && m.Kind != KindSWA && m.Kind != KindHybrid {
		full = m.Layers
	}
	if full <= 0 {
		return nil, false
	}
	out := []kvGroup{{layers: full, k: m.KVHeads * m.HeadK, v: m.KVHeads * m.HeadV}}
	if m.Kind == KindSWA {
		if m.SWALayers <= 0 || m.Window <= 0 || m.SWAKVHeads <= 0 || m.SWAHead <= 0 {
			return nil, false
		}
		n := m.SWAKVHeads * m.SWAHead
		out = append(out, kvGroup{layers: m.SWALayers, k: n, v: n, window: true})
	}
	return out, true
}

// stateKnown reports whether the recurrent state can be computed; a model
// without one has a known state of 0.
func (m Model) stateKnown() bool {
	return m.Kind != KindHybrid ||
		m.StateLayers > 0 && m.StateConv > 0 && m.StateInner > 0 && m.StateSize > 0 && m.StateGroups > 0
}

// addGroup counts one more layer of its kind.
func addGroup(groups []kvGroup, g kvGroup) []kvGroup {
	i := slices.IndexFunc(groups, func(o kvGroup) bool { return o.k == g.k && o.v == g.v && o.window == g.window })
	if i < 0 {
		return append(groups, g)
	}
	groups[i].layers += g.layers
	return groups
}

// clean strips what must not reach a terminal from a text of the far side.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s))
}
