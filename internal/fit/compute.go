package fit

import (
	"fmt"
	"strconv"
	"strings"
)

// regime is how an engine sizes its compute buffer and its batch.
type regime struct {
	old     bool // logits of a whole batch are kept: llama.cpp to early 2026
	both    bool // the version does not say: the larger of the two
	growing bool // the batch grows with the context: Ollama 0.30 and later
	own     bool // Ollama's own engine, which computes like mid-2026 llama.cpp
}

// engineRegime tells it from the engine. Ollama runs llama.cpp's own server
// since 0.30 (ollama/ollama 9db4bdbad); one built from source calls itself 0.0.0.
func engineRegime(engine, version string) (regime, error) {
	switch engine {
	case "llama-server":
		return buildRegime(version), nil
	case "", "ollama":
	default:
		return regime{}, fmt.Errorf("engine %q: memory is computed for ollama and llama-server", clean(engine))
	}
	version = strings.TrimPrefix(clean(version), "v")
	if version == "" {
		return regime{growing: true}, nil
	}
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	switch {
	case errA != nil || errB != nil || a == 0 && b == 0:
		return regime{both: true, growing: true}, nil
	case a == 0 && b < 30:
		return regime{old: true}, nil
	}
	return regime{growing: true}, nil
}

// The builds between which llama-server stopped to keep the logits of a whole
// batch: it still did early in 2026, and b10434 of August 2026 does not. Numbers
// below 1000 are no build numbers: builds from source count from 1.
const (
	firstBuild = 1000
	oldBuild   = 8000
	newBuild   = 10434
)

// buildRegime reads a build, "b10434" or "10434". One that is not known is new.
func buildRegime(version string) regime {
	n, err := strconv.Atoi(strings.TrimPrefix(clean(version), "b"))
	switch {
	case err != nil || n < firstBuild || n >= newBuild:
		return regime{}
	case n < oldBuild:
		return regime{old: true}
	}
	return regime{both: true}
}

// ownEngine are the architectures that Ollama ran in an engine of its own, before
// it changed to llama-server in 0.30 (ollama v0.17.4 fs/ggml/ggml.go
// OllamaEngineRequired).
var ownEngine = map[string]bool{
	"deepseek2": true, "gemma3": true, "gemma3n": true, "gptoss": true, "gpt-oss": true, "llama4": true, "mistral3": true,
	"nemotron_h": true, "nemotron_h_moe": true, "olmo3": true, "qwen3": true, "qwen3moe": true, "qwen35": true,
	"qwen35moe": true, "qwen3next": true, "qwen3vl": true, "qwen3vlmoe": true, "glm4moelite": true, "lfm2": true, "lfm2moe": true,
}

// batches gives the physical batches that the engine may take for ctx tokens,
// the one that it would like first (ollama server/sched.go
// generationBatchForContext; elsewhere 512).
func (r regime) batches(fixed, ctx int) []int {
	switch {
	case fixed > 0:
		return []int{fixed}
	case r.growing && ctx > 32768:
		return []int{2048, 1024, 512}
	case r.growing && ctx > 4096:
		return []int{1024, 512}
	}
	return []int{512}
}

// rule names the formula for the compute buffer.
func (p *pricer) rule() string {
	switch {
	case p.ask.NoFlash:
		return "no flash attention"
	case p.regime.own:
		return "Ollama's own engine"
	case p.regime.old:
		return "llama.cpp before 2026"
	case p.regime.both:
		return "llama.cpp, version not known"
	}
	return "mid-2026 llama.cpp"
}

// compute is the compute buffer of all devices.
//
// Mid-2026 llama.cpp keeps three feed-forward and five hidden rows in f32, and
// the masks of the two kinds of cache in f16, each for one batch:
//
//	ubatch × (4 × (3·FF + 5·E) + 2 × (cells + window cells) + 40)
//
// On a CPU this is off by 0.3 % in the mean (44 logs of llama-server b11434,
// October 2026; 5.6 % for b10434). On a GPU it has not been measured: there it
// gets a cushion of a quarter, the masks are counted four times if several GPUs
// take turns, and a quantized cache is unpacked to f16 one layer at a time.
// Older builds keep the logits of a whole batch:
//
//	ubatch × 4 × (vocab + 2·E)
//
// Without flash attention every head has scores for the whole context (checked
// on two models and one log of a 32B model, 0.2 to 4.6 % off):
//
//	ubatch × 4 × ((heads + 1) × cells + 6·E)
func (p *pricer) compute(c cells, ub int) Bytes {
	m := p.model
	ff := m.FF
	if ff == 0 {
		ff = 6 * m.Hidden // above every model of the catalog but one, whose FF is known
	}
	masks, widest := 0, 0
	seen := map[bool]bool{}
	for _, g := range p.groups {
		if !seen[g.window] {
			seen[g.window] = true
			masks += c.of(g)
		}
		if !g.window {
			widest = max(widest, g.k+g.v)
		}
	}
	if p.ask.GPU && p.devices > 1 {
		masks *= 4
	}
	need := mul(ub, 4*(3*ff+5*m.Hidden)+2*masks+40)
	if p.ask.GPU {
		need = scale(need, 1.25)
		if p.kvK.quantized() || p.kvV.quantized() {
			need = add(need, mul(c.full, widest, 2))
		}
		need = mul(int(need), p.devices) // each has a buffer of its own
	}
	if p.regime.old || p.regime.both || p.regime.own && p.ask.GPU { // the last was measured on a CPU only
		need = max(need, mul(ub, 4, m.Vocab+2*m.Hidden))
	}
	return max(need, p.scores(c, ub))
}

// scores is the compute buffer without flash attention, else 0.
func (p *pricer) scores(c cells, ub int) Bytes {
	if !p.ask.NoFlash {
		return 0
	}
	heads := cmpNonZero(p.model.Heads, p.model.Hidden/64)
	return mul(ub, 4, add2(6*p.model.Hidden, 1, heads+1, c.full))
}

// reserve is what the runtime itself takes. On a GPU: 0.5 GiB a device for the
// context and libraries (0.35 to 0.5 were seen; Ollama keeps 457 MiB, 512 on
// Metal). On a CPU: 25 MiB and 200 bytes a word of the vocabulary, and a row of
// logits a request, as processes measured beyond their logged buffers.
func (p *pricer) reserve() Bytes {
	if p.ask.GPU {
		return mul(int(GiB/2), p.devices)
	}
	return add(add(25*MiB, mul(200, p.model.Vocab)), p.output())
}

// output is the buffer of results in the memory of the host: a row of logits in
// f32 for each request, exact in every log.
func (p *pricer) output() Bytes { return mul(p.parallel, 4, p.model.Vocab) }
