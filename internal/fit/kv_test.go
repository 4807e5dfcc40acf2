package fit

import (
	"math"
	"testing"
)

// Bytes of f16 cache for one token, as published by others.
func TestKVPerToken(t *testing.T) {
	for _, c := range []struct {
		model  string
		want   Bytes
		source string
	}{
		{"qwen3-coder:30b", 98304, "ggml-org/LlamaBarn Catalog.swift"},
		{"gpt-oss:20b", 24576, "ggml-org/LlamaBarn Catalog.swift"},
		{"gpt-oss:120b", 36864, "ggml-org/LlamaBarn Catalog.swift"},
		{"gemma3:27b", 81920, "ggml-org/LlamaBarn Catalog.swift"},
		{"gemma3:12b", 65536, "ggml-org/LlamaBarn Catalog.swift"},
		{"qwen3:14b", 163840, "LMCache/LMCache#1739"},
		{"llama3.1:8b", 131072, "vllm-project/vllm#10517"},
		{"qwen3.6:27b", 65536, "llama.cpp, 16 of 64 layers"},
		{"deepseek-v3.1:671b", 70272, "ikawrakow/ik_llama.cpp#258, MLA"},
	} {
		m, err := Find(c.model)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Check(Ask{Model: m, Context: 4096})
		if err != nil || r.KVPerToken == nil || *r.KVPerToken != c.want {
			t.Errorf("Check(%s) has %v bytes a token, %v, want %d (%s)", c.model, r.KVPerToken, err, c.want, c.source)
		}
	}
}

// Whole caches as engines printed them in their logs.
func TestKVLogs(t *testing.T) {
	small := Model{Name: "gemma3-270m", Kind: KindSWA, ParamsB: 0.27, Layers: 18, Hidden: 640, FF: 2048, KVHeads: 1, HeadK: 256, HeadV: 256,
		FullLayers: 3, SWALayers: 15, Window: 512, SWAKVHeads: 1, SWAHead: 256, Context: 32768, Vocab: 262144}
	find := func(name string) Model {
		m, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		model         Model
		ctx, parallel int
		kv            string
		ubatch        int
		mib           float64
		source        string
	}{
		{find("qwen3:235b"), 32768, 1, "f16", 512, 6016, "ik_llama.cpp discussions/357"},
		{find("qwen3:235b"), 32768, 1, "q8_0", 512, 3196, "ik_llama.cpp discussions/357"},
		{find("qwen3:30b"), 32768, 1, "f16", 512, 3072, "ik_llama.cpp pull_requests/370"},
		{find("qwen3:32b"), 8192, 1, "f16", 512, 2048, "ik_llama.cpp discussions/397"},
		{find("deepseek-r1:671b"), 32768, 1, "f16", 512, 2196, "ik_llama.cpp discussions/258"},
		{find("deepseek-r1:671b"), 65536, 1, "q8_0", 512, 2333.25, "ik_llama.cpp discussions/258"},
		{find("llama3.1:8b"), 1024, 1, "iq4_nl/f16", 512, 82, "ik_llama.cpp issues/103"},
		{small, 8192, 1, "f16", 512, 39, "unsloth test_kv_cache_estimation.py"},
		{small, 2048, 4, "f16", 512, 84, "unsloth test_kv_cache_estimation.py"},
		{small, 8192, 4, "f16", 512, 156, "llama-server b11434"},
		{small, 32768, 4, "q8_0", 512, 235.88, "llama-server b11434"},
	} {
		r, err := Check(Ask{Model: c.model, Context: c.ctx, Parallel: c.parallel, KVType: c.kv, UBatch: c.ubatch})
		if err != nil {
			t.Errorf("Check(%s): %v", c.model.Label(), err)
			continue
		}
		if got := float64(*r.KV) / float64(MiB); math.Abs(got-c.mib) > 0.01 {
			t.Errorf("Check(%s at %d × %d, %s) has a cache of %.2f MiB, want %.2f (%s)", c.model.Label(), c.ctx, c.parallel, c.kv, got, c.mib, c.source)
		}
	}
}

func TestState(t *testing.T) {
	for _, c := range []struct {
		model    string
		parallel int
		mib      float64
		source   string
	}{
		{"qwen3.6:27b", 1, 149.62, "ggml-org/llama.cpp#23792"},
		{"qwen3.6:27b", 2, 299.25, "ggml-org/llama.cpp#23792"},
		{"qwen3.6:27b", 3, 448.88, "ggml-org/llama.cpp#23792"},
		{"nemotron-3-nano:30b", 1, 47.62, "ollama/ollama#17692"},
		{"qwen3-coder:30b", 4, 0, "no recurrent layer"},
	} {
		m, err := Find(c.model)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Check(Ask{Model: m, Context: 4096, Parallel: c.parallel})
		if err != nil || r.State == nil {
			t.Errorf("Check(%s): state %v, %v", c.model, r.State, err)
			continue
		}
		if got := float64(*r.State) / float64(MiB); math.Abs(got-c.mib) > 0.01 {
			t.Errorf("Check(%s × %d) has a state of %.2f MiB, want %.2f (%s)", c.model, c.parallel, got, c.mib, c.source)
		}
	}
}

func TestKVTypes(t *testing.T) {
	for in, want := range map[string]string{"": "f16", "F16": "f16", "q8_0": "q8_0", "q8_0/q4_0": "q8_0/q4_0"} {
		r, err := Check(Ask{Model: Catalog()[0], Context: 256, KVType: in})
		if err != nil || r.KVType != want {
			t.Errorf("Check with KV type %q = %q, %v, want %q", in, r.KVType, err, want)
		}
	}
	for _, in := range []string{"q3_0", "/x", "f16/f16/f16"} {
		if _, err := Check(Ask{Model: Catalog()[0], Context: 256, KVType: in}); err == nil {
			t.Errorf("Check with KV type %q gave no error", in)
		}
	}
}
