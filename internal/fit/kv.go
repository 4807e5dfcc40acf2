package fit

import (
	"fmt"
	"slices"
	"strings"
)

// kvType is how an element of the cache is stored: bytes for a block of
// elements (llama.cpp ggml.c).
type kvType struct {
	name         string
	block, bytes int
}

var kvTypes = []kvType{
	{"f16", 1, 2}, {"bf16", 1, 2}, {"f32", 1, 4},
	{"q8_0", 32, 34}, {"q5_1", 32, 24}, {"q5_0", 32, 22},
	{"q4_1", 32, 20}, {"q4_0", 32, 18}, {"iq4_nl", 32, 18},
}

// row gives the bytes of n elements; the last block is filled up.
func (t kvType) row(n int) Bytes {
	return mul((n+t.block-1)/t.block, t.bytes)
}

func (t kvType) quantized() bool { return t.block > 1 }

// parseKVTypes reads "q8_0", or "q8_0/q4_0" for keys and values. Empty is f16.
func parseKVTypes(s string) (k, v kvType, err error) {
	ks, vs, two := strings.Cut(strings.ToLower(s), "/")
	if !two {
		vs = ks
	}
	if k, err = parseKVType(ks); err != nil {
		return k, v, err
	}
	v, err = parseKVType(vs)
	return k, v, err
}

func parseKVType(s string) (kvType, error) {
	if s == "" {
		return kvTypes[0], nil
	}
	i := slices.IndexFunc(kvTypes, func(t kvType) bool { return t.name == s })
	if i < 0 {
		return kvType{}, fmt.Errorf("type of the KV cache %q: want f16, q8_0, q4_0 or another of llama.cpp's", clean(s))
	}
	return kvTypes[i], nil
}

// pad rounds up to the 256 cells that llama.cpp works with.
func pad(n int) int { return (n + contextStep - 1) / contextStep * contextStep }

// cells is the size of a cache: of the layers that remember everything and of
// those with a sliding window, and how many such caches there are.
type cells struct {
	full, window, streams int
}

// cells says how an engine lays out its cache for ctx tokens a request.
//
//   - llama.cpp gives every request a cache of its own; a window needs one batch
//     more than its length, and never more than the context
//     (src/llama-kv-cache.cpp, llama-kv-cache-iswa.cpp).
//   - With --kv-unified all requests share one cache of ctx tokens, in which
//     each has its window.
//   - Ollama's own engine shares one cache of parallel × ctx tokens; with more
//     than one request a window keeps one token more (ollama kvcache/causal.go).
//   - With --swa-full a window is no smaller than the rest.
func (p *pricer) cells(ctx, ub int) cells {
	window := p.model.Window
	c := cells{full: pad(ctx), streams: p.parallel}
	switch {
	case p.regime.own:
		c = cells{full: pad(int(mul(ctx, p.parallel))), streams: 1}
		if p.parallel > 1 {
			window++
		}
		c.window = c.full
		if window < ctx {
			c.window = pad(window*p.parallel + ub)
		}
	case p.ask.Unified:
		c.streams = 1
		c.window = pad(min(c.full, window*p.parallel+ub))
	default:
		c.window = pad(min(c.full, window+ub))
	}
	if p.ask.FullWindow {
		c.window = c.full
	}
	return c
}

// of gives the cells of a layer.
func (c cells) of(g kvGroup) int {
	if g.window {
		return c.window
	}
	return c.full
}

// kvBytes is the KV cache (llama.cpp src/llama-kv-cache.cpp):
//
//	layers × streams × cells × (row of keys + row of values)
//
// Without flash attention llama.cpp turns the values round and gives every
// layer as many of them as the widest has.
func kvBytes(groups []kvGroup, c cells, k, v kvType, flash bool) Bytes {
	widest := 0
	for _, g := range groups {
		widest = max(widest, g.v)
	}
	var sum Bytes
	for _, g := range groups {
		if !flash {
			g.v = widest
		}
		sum = add(sum, mul(g.layers, c.streams, c.of(g), int(add(k.row(g.k), v.row(g.v)))))
	}
	return sum
}

// kvPerToken is what one more token costs in the layers that remember it all.
func kvPerToken(groups []kvGroup, k, v kvType) Bytes {
	var sum Bytes
	for _, g := range groups {
		if !g.window {
			sum = add(sum, mul(g.layers, int(add(k.row(g.k), v.row(g.v)))))
		}
	}
	return sum
}

// stateBytes is the state of the recurrent layers, f32, one for each request
// (llama.cpp src/llama-hparams.cpp n_embd_r and n_embd_s).
func (m Model) stateBytes(parallel int) Bytes {
	if m.Kind != KindHybrid {
		return 0
	}
	r := mul(m.StateConv-1, add2(m.StateInner, 2, m.StateGroups, m.StateSize))
	s := mul(m.StateSize, m.StateInner)
	return mul(m.StateLayers, int(add(r, s)), 4, parallel)
}

// add2 is a + n·x·y in an int, saturated.
func add2(a, n, x, y int) int { return int(add(Bytes(a), mul(n, x, y))) }
