package fit

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func find(t *testing.T, name string) Model {
	t.Helper()
	m, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Tokens that vLLM printed, from the memory for the cache in the same log.
func TestVLLMTokens(t *testing.T) {
	qwen27, qwen35 := find(t, "qwen3.6:27b"), find(t, "Qwen/Qwen3.6-35B-A3B")
	gib := func(f float64) Bytes { return scale(GiB, f) }
	for _, c := range []struct {
		cache     VLLMCache
		available Bytes
		want      int
		within    float64 // relative; amounts in logs have two decimals
		source    string
	}{
		{VLLMCache{Model: find(t, "llama3.1:8b"), Context: 29000}, gib(2.89), 23648, 0.002, "vllm-project/vllm#10517"},
		{VLLMCache{Model: find(t, "kimi-k2.7-code"), Tensor: 8}, gib(46.8), 715072, 0.001, "vllm-project/recipes Kimi-K2-Think.md"},
		{VLLMCache{Model: find(t, "kimi-k2.7-code"), Tensor: 8, DecodeContext: 8}, gib(46.8), 5721088, 0.001, "vllm-project/recipes Kimi-K2-Think.md"},
		{VLLMCache{Model: qwen35, Context: 131072, KVType: "fp8"}, gib(6.01), 569878, 0, "noonghunna/club-3090#652"},
		{VLLMCache{Model: qwen35, Context: 131072, KVType: "fp8"}, gib(5.98), 567978, 0, "noonghunna/club-3090#612"},
		{VLLMCache{Model: qwen27, Context: 262144, Tensor: 2, KVType: "int8_per_token_head", Drafts: 4}, gib(11.10), 605495, 0, "noonghunna/club-3090 BENCHMARKS.md; 4 drafts are inferred"},
		{VLLMCache{Model: qwen27, Context: 262144, Tensor: 2, KVType: "fp8", Drafts: 3}, gib(11.05), 623873, 0.003, "noonghunna/club-3090#642"},
		{VLLMCache{Model: qwen27, Context: 122633, Tensor: 2, NoPrefixCache: true}, gib(3.86), 123399, 0, "vllm-project/vllm#49064; no prefix cache is inferred"},
		{VLLMCache{Model: find(t, "gemma4:31b"), Context: 262144, Tensor: 2, KVType: "int8_per_token_head", Batched: 4096}, 0, 0, 0, "nothing for the cache"},
	} {
		got, err := c.cache.Capacity(c.available)
		if err != nil || math.Abs(float64(got.Tokens-c.want)) > c.within*float64(c.want) {
			t.Errorf("Capacity(%s of %v) = %d tokens, %v, want %d (%s)", c.cache.Model.Label(), c.available, got.Tokens, err, c.want, c.source)
		}
	}
	// The refusal of 132000 tokens named what would fit; a page is 16 layers × 3.2 MB.
	got, err := VLLMCache{Model: qwen27, Context: 132000, Tensor: 2, NoPrefixCache: true}.Capacity(gib(3.86))
	if err != nil || got.Blocks != 161 || got.MaxContext != 123872 {
		t.Errorf("Capacity = %d blocks, up to %d tokens, %v, want 161 and 123872 (vllm-project/vllm#49064)", got.Blocks, got.MaxContext, err)
	}
}

func TestVLLMErrors(t *testing.T) {
	m := find(t, "llama3.1:8b")
	none, below := Bytes(0), []Bytes{-1}
	card := []Bytes{24 * GiB}
	for _, c := range []struct {
		ask  VLLMAsk
		says string
	}{
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}}, "memory of the GPU is not known"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m, Tensor: 2}, Total: card}, "on 2 GPUs"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: below}, "not below 0"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: card, Free: below}, "not below 0"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: card, Utilization: 1.1}, "utilization 1.1"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: card, Utilization: math.NaN()}, "utilization NaN"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: card, Seqs: -1}, "-1 sequences"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: card, WeightsBytes: &none}, "weights of 0"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m}, Total: card, Quant: "Q4_K_M"}, `quantization "Q4_K_M"`},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m, KVType: "q8_0"}, Total: card}, `cache "q8_0"`},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m, Context: -1}, Total: card}, "below 0"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m, Context: 1 << 20}, Total: card}, "its own limit is 128k"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: m, Tensor: 3}, Total: []Bytes{GiB, GiB, GiB}}, "8 KV heads cannot be dealt out evenly"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "deepseek-v4-flash")}, Total: card}, "not understood"},
		{VLLMAsk{VLLMCache: VLLMCache{Model: Model{Name: "x", Kind: KindFull, Hidden: 1, Layers: 1, KVHeads: 1, HeadK: 1, Context: 100}}, Total: card}, "weights of x"},
	} {
		if _, err := CheckVLLM(c.ask); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("CheckVLLM: %v, want an error that says %q", err, c.says)
		}
	}
	var far *ContextError
	if _, err := (VLLMCache{Model: m, Context: 1 << 20}).Capacity(GiB); !errors.As(err, &far) {
		t.Errorf("Capacity over the limit: %v, want a *ContextError", err)
	}
}

// Starts that were logged.
func TestCheckVLLM(t *testing.T) {
	spark, sparkFree := scale(GiB, 121.63), scale(GiB, 101.7)
	h100, card := scale(GiB, 79.1), scale(GiB, 31.4)
	nvfp4 := scale(GiB, 24.6)
	for _, c := range []struct {
		name string
		ask  VLLMAsk
		ok   bool
		why  string
	}{
		{"Nemotron Super on a Spark at 0.92, vllm-project/recipes#632", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "nemotron-3-super-120b"), Context: 131072}, Quant: "NVFP4",
			Total: []Bytes{spark}, Free: []Bytes{sparkFree}, Utilization: 0.92}, false, "are free"},
		{"the same where the utilization is left to us and the sequences are few", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "nemotron-3-super-120b"), Context: 131072}, Quant: "NVFP4",
			Total: []Bytes{spark}, Free: []Bytes{sparkFree}, Seqs: 8}, true, ""},
		{"gpt-oss 120B on an H100, vllm-project/vllm#23278", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "gpt-oss:120b")}, Quant: "MXFP4", Total: []Bytes{h100}, Utilization: 0.9}, false, "one request"},
		{"Qwen3.6 27B with 1024 sequences, kaito-project/kaito#2319", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "qwen3.6:27b")}, Quant: "FP8", Total: []Bytes{h100}}, false, "--max-num-seqs 1024"},
		{"Qwen3 Coder 30B in FP8 on a 5090, vllm-project/vllm#41695", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "qwen3-coder:30b"), Context: 16384}, Quant: "FP8", Total: []Bytes{card}, Utilization: 0.95}, false, ""},
		{"27B NVFP4 with graphs on a 5090, vllm-project/recipes Qwen3.8-27B.yaml", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "qwen3.6:27b"), Context: 32768, KVType: "fp8"}, WeightsBytes: &nvfp4, Quant: "NVFP4",
			Total: []Bytes{card}, Seqs: 4}, false, "one request"},
		{"the same without graphs", VLLMAsk{VLLMCache: VLLMCache{Model: find(t, "qwen3.6:27b"), Context: 32768, KVType: "fp8"}, WeightsBytes: &nvfp4, Quant: "NVFP4",
			Total: []Bytes{card}, Seqs: 4, Eager: true}, true, ""},
	} {
		r, err := CheckVLLM(c.ask)
		if err != nil || r.Verdict.OK() != c.ok || !strings.Contains(r.Why, c.why) {
			t.Errorf("%s: %q because %q, %v, want %v because %q", c.name, r.Verdict, r.Why, err, c.ok, c.why)
		}
		if sum := *r.Weights + *r.KV + *r.Compute + *r.Reserve; err == nil && sum != *r.Total {
			t.Errorf("%s: parts sum up to %d, total is %d", c.name, sum, *r.Total)
		}
	}
	// Cards that are not alike: the smallest decides for all.
	m := find(t, "llama3.1:8b")
	a, errA := CheckVLLM(VLLMAsk{VLLMCache: VLLMCache{Model: m, Tensor: 2, Context: 8192}, Total: []Bytes{24 * GiB, 80 * GiB}})
	b, errB := CheckVLLM(VLLMAsk{VLLMCache: VLLMCache{Model: m, Tensor: 2, Context: 8192}, Total: []Bytes{24 * GiB, 24 * GiB}})
	if errA != nil || errB != nil || a.Available != b.Available || *a.Weights != (*b.Weights) || a.Utilization != 0.92 {
		t.Errorf("CheckVLLM of 24 + 80 GiB has %v for the cache, %v, of 24 + 24 GiB %v, %v, want the same", a.Available, errA, b.Available, errB)
	}
}

func FuzzVLLM(f *testing.F) {
	f.Add(32, 4096, 14336, 8, 128, 131072, 8.03, 20000, 1, 0, 2048, int64(24<<30), 0.9, "auto", "BF16", int64(0))
	f.Add(1<<16, 1<<28, 1<<28, 1<<16, 1<<16, 1<<28, 1e5, 1<<24, 8, 4, 1<<20, int64(1)<<62, 1.0, "fp8", "FP8", int64(1)<<62)
	f.Fuzz(func(t *testing.T, layers, hidden, ff, heads, head, limit int, params float64, ctx, tensor, drafts, batched int, memory int64, util float64, kv, quant string, available int64) {
		tensor = max(-1, tensor%64)
		m := Model{Kind: KindFull, Layers: layers, Hidden: hidden, FF: ff, KVHeads: heads, HeadK: head, HeadV: head, Context: limit, ParamsB: params, Vocab: hidden}
		switch layers % 4 {
		case 1:
			m.Kind, m.FullLayers, m.SWALayers, m.Window, m.SWAKVHeads, m.SWAHead = KindSWA, layers, layers, head, heads, head
		case 2:
			m.Kind, m.FullLayers, m.StateLayers, m.StateConv, m.StateInner, m.StateSize, m.StateGroups = KindHybrid, layers, layers, 4, ff, head, heads
		case 3:
			m.Kind, m.KVHeads, m.HeadV = KindMLA, 1, 0
		}
		a := VLLMAsk{VLLMCache: VLLMCache{Model: m, Context: ctx, Tensor: tensor, KVType: kv, Drafts: drafts, Batched: batched}, Quant: quant, Utilization: util}
		if c, err := a.Capacity(Bytes(available)); err == nil && (c.Tokens < 0 || c.Blocks < 0 || c.MaxContext < 0 || c.PerRequest <= 0) {
			t.Errorf("Capacity(%+v of %d) = %+v", m, available, c)
		}
		for range max(1, tensor) {
			a.Total = append(a.Total, Bytes(memory))
		}
		r, err := CheckVLLM(a)
		if err == nil && (r.Verdict.OK() && *r.Total > *r.Budget || *r.Total < 0 || *r.KV < 0) {
			t.Errorf("CheckVLLM(%+v) = %+v", a, r)
		}
	})
}
