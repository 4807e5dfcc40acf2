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
}

// engineRegime tells it from the engine. Ollama runs llama.cpp's own server
// since 0.30 (ollama/ollama 9db4bdbad); one built from source calls itself 0.0.0.
func engineRegime(engine, version string) (regime, error) {
	switch engine {
	case "llama-server":
		return regime{}, nil
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
	case p.regime.old:
		return "llama.cpp before 2026"
	case p.regime.both:
		return "llama.cpp, version not known"
	}
	return "mid-2026 llama.cpp"
}

// compute is the compute buffer for ctx tokens a request.
//
// Mid-2026 llama.cpp keeps three feed-forward and five hidden rows in f32, and
// the masks of the two kinds of cache in f16, each for one batch:
//
//	ubatch × (4 × (3·FF + 5·E) + 2 × (cells + window cells) + 40)
//
// On a CPU this is off by 0.3 % in the mean (44 logs of llama-server b11434,
// October 2026; 5.6 % for b10434). On a GPU it has not been measured: there it
// gets a cushion of a quarter, the masks are counted four times if several GPUs
// take turns, and a quantized cache is unpacked to f16 one layer at a time. Older builds keep the logits of a whole batch:
//
//	ubatch × 4 × (vocab + 2·E)
//
// and get the larger of the two, since Ollama then ran two engines.
func (p *pricer) compute(ctx, ub int) Bytes {
	m := p.model
	ff := m.FF
	if ff == 0 {
		ff = 6 * m.Hidden // above every model of the catalog but one, whose FF is known
	}
	masks, widest := 0, 0
	seen := map[bool]bool{}
	for _, g := range p.groups {
		cells := pad(ctx)
		if g.window {
			cells = windowCells(ctx, m.Window, ub)
		}
		if !seen[g.window] {
			seen[g.window] = true
			masks += cells
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
			need = add(need, mul(pad(ctx), widest, 2))
		}
		need = mul(int(need), p.devices) // each has a buffer of its own
	}
	if p.regime.old || p.regime.both {
		need = max(need, mul(ub, 4, m.Vocab+2*m.Hidden))
	}
	return need
}

// reserve is what the runtime itself takes. On a GPU: 0.5 GiB a device for the
// context and libraries (0.35 to 0.5 were seen; Ollama keeps 457 MiB, 512 on
// Metal). On a CPU: 25 MiB and 200 bytes a word of the vocabulary, and a row of
// logits a request, as processes measured beyond their logged buffers.
func (p *pricer) reserve() Bytes {
	if p.ask.GPU {
		return mul(int(GiB/2), p.devices)
	}
	return add(25*MiB, add(mul(200, p.model.Vocab), mul(p.parallel, 4, p.model.Vocab)))
}
