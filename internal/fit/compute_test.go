package fit

import (
	"math"
	"testing"
)

var (
	smol = Model{Name: "SmolLM2-135M", Kind: KindFull, ParamsB: 0.135, Layers: 30, Hidden: 576, FF: 1536, KVHeads: 3, HeadK: 64, HeadV: 64, Context: 8192, Vocab: 49152}
	moe  = Model{Name: "synthetic qwen3moe", Kind: KindFull, ParamsB: 1, Layers: 2, Hidden: 512, FF: 8 * 256, KVHeads: 2, HeadK: 128, HeadV: 128, Context: 65536, Vocab: 49152}
)

// Compute buffers that engines printed.
func TestComputeLogs(t *testing.T) {
	find := func(name string) Model {
		m, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		ask    Ask
		mib    float64
		lo, hi float64 // allowed, relative
		source string
	}{
		{Ask{Model: smol, Context: 2048, Engine: "llama-server"}, 16.64, -0.01, 0.01, "llama-server b11434, CPU"},
		{Ask{Model: smol, Context: 8192, Parallel: 4, Engine: "llama-server"}, 22.64, -0.01, 0.01, "llama-server b11434, CPU: slots do not count"},
		{Ask{Model: smol, Context: 8192, Engine: "llama-server", UBatch: 64}, 2.83, -0.01, 0.01, "llama-server b11434, CPU"},
		{Ask{Model: moe, Context: 32768, Engine: "llama-server", UBatch: 1024}, 98.04, -0.01, 0.01, "llama-server b11434, CPU"},
		{Ask{Model: smol, Context: 2048, EngineVersion: "0.17.4"}, 98.25, -0.001, 0.001, "Ollama 0.17.4, CPU"},
		{Ask{Model: smol, Context: 2048, EngineVersion: "0.0.0"}, 98.25, -0.001, 0.001, "Ollama 0.17.4 from source calls itself 0.0.0"},
		{Ask{Model: find("qwen3:30b"), Context: 4096, EngineVersion: "0.17.4", GPU: true}, 304.75, -0.001, 0.001, "ik_llama.cpp pull_requests/370, CUDA"},
		{Ask{Model: find("qwen3:235b"), Context: 4096, EngineVersion: "0.17.4", GPU: true}, 312.75, -0.001, 0.001, "ik_llama.cpp discussions/357, CUDA"},
		// GPUs with newer builds: never below what was seen, with a cushion.
		{Ask{Model: find("qwen3.6:27b"), Context: 262144, GPU: true, KVType: "q8_0", Engine: "llama-server"}, 1360, 0, 0.25, "unsloth test_compute_buffer.py, CUDA"},
		{Ask{Model: find("gpt-oss:120b"), Context: 65536, Parallel: 4, GPU: true, EngineVersion: "0.30.1"}, 796, 0, 0.25, "ollama/ollama#16416, ROCm"},
	} {
		r, err := Check(c.ask)
		if err != nil {
			t.Errorf("Check(%s): %v", c.ask.Model.Label(), err)
			continue
		}
		got := float64(*r.Compute) / float64(MiB)
		if off := got/c.mib - 1; off < c.lo || off > c.hi {
			t.Errorf("Check(%s at %d, %s) has a compute buffer of %.2f MiB, want %.2f (%s): off by %.1f %%", c.ask.Model.Label(), c.ask.Context, r.ComputeRule, got, c.mib, c.source, off*100)
		}
	}
}

func TestBatch(t *testing.T) {
	m, err := Find("qwen3-coder:30b")
	if err != nil {
		t.Fatal(err)
	}
	room, snug := 100*GiB, 26*GiB
	for _, c := range []struct {
		ask  Ask
		want int
	}{
		{Ask{Context: 4096}, 512},
		{Ask{Context: 32768}, 1024},
		{Ask{Context: 65536}, 2048},
		{Ask{Context: 65536, Budget: &room}, 2048},
		{Ask{Context: 65536, Budget: &snug}, 512},
		{Ask{Context: 65536, EngineVersion: "0.17.4"}, 512},
		{Ask{Context: 65536, EngineVersion: "v0.32.9"}, 2048},
		{Ask{Context: 65536, Engine: "llama-server"}, 512},
		{Ask{Context: 65536, UBatch: 256, Budget: &snug}, 256},
	} {
		c.ask.Model, c.ask.GPU = m, true
		r, err := Check(c.ask)
		if err != nil || r.UBatch != c.want {
			t.Errorf("Check(%s %s at %d) has a batch of %d, %v, want %d", c.ask.Engine, c.ask.EngineVersion, c.ask.Context, r.UBatch, err, c.want)
		}
	}
}

func TestReserve(t *testing.T) {
	r, err := Check(Ask{Model: smol, Context: 2048, GPU: true, Devices: 2})
	if err != nil || *r.Reserve != GiB {
		t.Errorf("reserve of two GPUs = %v, %v, want 1.0 GiB", r.Reserve, err)
	}
	// RSS above the logged buffers was 33 MiB with 49k words.
	r, err = Check(Ask{Model: smol, Context: 2048})
	if got := float64(*r.Reserve) / float64(MiB); err != nil || math.Abs(got-34.6) > 0.1 {
		t.Errorf("reserve of a CPU = %.1f MiB, %v, want 34.6", got, err)
	}
	if r.Repack != nil {
		t.Errorf("repack without AMX = %v, want none", r.Repack)
	}
	r, err = Check(Ask{Model: smol, Context: 2048, Repack: true})
	if err != nil || r.Repack == nil || *r.Repack != *r.Weights || len(r.Notes) == 0 {
		t.Errorf("repack with AMX = %v, notes %q, %v, want the weights again", r.Repack, r.Notes, err)
	}
	if r, err = Check(Ask{Model: smol, Context: 2048, Repack: true, GPU: true}); err != nil || r.Repack != nil {
		t.Errorf("repack on a GPU = %v, %v, want none", r.Repack, err)
	}
}
