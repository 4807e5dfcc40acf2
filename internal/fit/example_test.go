package fit_test

import (
	"fmt"

	"rlca/internal/fit"
)

// The examples of docs/fit.md. TestDocument compares the document with this file.

func ExamplePlainWeights() {
	// 30 billion parameters of 4 bits: 30e9 × 4 / 8.
	fmt.Println(fit.PlainWeights(30, 4).GB(), "GB")
	// Of a mixture of experts all parameters count: 235 billion, not the active 22.
	fmt.Println(fit.PlainWeights(235, 4).GB(), "GB")
	// Output:
	// 15 GB
	// 117.5 GB
}

func ExampleCheck_weights() {
	// 30.532 billion × 4.85 bits / 8. The published file has 18556689568 bytes.
	m, _ := fit.Find("qwen3-coder:30b")
	r, _ := fit.Check(fit.Ask{Model: m, Quant: "Q4_K_S", Context: 4096}) // 4.58 bits; no file of it is in the catalog
	fmt.Printf("%d bytes from %s ± %g\n", int64(*r.Weights), r.Source, *r.ErrorBand)

	m.Files = nil // as if the catalog had none
	r, _ = fit.Check(fit.Ask{Model: m, Quant: "Q4_K_M", Context: 4096})
	fmt.Printf("%d bytes from %s ± %g\n", int64(*r.Weights), r.Source, *r.ErrorBand)

	file := fit.Bytes(18556689568)
	r, _ = fit.Check(fit.Ask{Model: m, Quant: "Q4_K_M", Context: 4096, WeightsBytes: &file})
	fmt.Printf("%d bytes from %s ± %g\n", int64(*r.Weights), r.Source, *r.ErrorBand)
	// Output:
	// 17479570000 bytes from params ± 0.02
	// 18510025000 bytes from params ± 0.02
	// 18556689568 bytes from file ± 0.01
}

func ExampleSafetensorsWeights() {
	// 151936 words × 4096 numbers, twice, stay in 16 bits; the rest has 4.22:
	// 2 × 1.2447e9 + (8.191e9 - 1.2447e9) × 4.22 / 8.
	m := fit.Model{ParamsB: 8.191, Vocab: 151936, Hidden: 4096}
	w, band, _ := fit.SafetensorsWeights(m, "AWQ")
	fmt.Printf("%.2f GB ± %.0f %%\n", w.GB(), 100*band)
	// Output:
	// 6.15 GB ± 5 %
}

func ExampleCheck_cache() {
	// Every layer remembers every token:
	// 48 layers × 65536 cells × 4 heads × (128 + 128) × 2 bytes.
	m, _ := fit.Find("qwen3-coder:30b")
	r, _ := fit.Check(fit.Ask{Model: m, Context: 65536})
	fmt.Println("f16: ", *r.KV, "or", int64(*r.KVPerToken), "bytes a token")

	// q8_0 stores 32 elements in 34 bytes, q4_0 in 18.
	r, _ = fit.Check(fit.Ask{Model: m, Context: 65536, KVType: "q8_0/q4_0"})
	fmt.Println("q8_0/q4_0:", *r.KV, "or", int64(*r.KVPerToken), "bytes a token")
	// Output:
	// f16:  6.0 GiB or 98304 bytes a token
	// q8_0/q4_0: 2.4 GiB or 39936 bytes a token
}

func ExampleCheck_latent() {
	// MLA: one row of 512 + 64 elements for all heads, keys only:
	// 61 layers × 32768 cells × 576 × 2 bytes.
	m, _ := fit.Find("deepseek-r1:671b")
	r, _ := fit.Check(fit.Ask{Model: m, Context: 32768})
	fmt.Println(int64(*r.KV)>>20, "MiB")
	// Output:
	// 2196 MiB
}

func ExampleCheck_window() {
	// Gemma 3 270M: 3 layers remember everything, 15 a window of 512 tokens, each
	// token in 256 + 256 elements. Four requests of 2048 tokens, a batch of 512:
	// 4 × (3 × 2048 + 15 × (512 + 512)) × 512 × 2 bytes.
	m := fit.Model{Name: "gemma-3-270m", Kind: fit.KindSWA, ParamsB: 0.268, Layers: 18, Hidden: 640, FF: 2048, Vocab: 262144, KVHeads: 1, HeadK: 256, HeadV: 256,
		FullLayers: 3, SWALayers: 15, Window: 512, SWAKVHeads: 1, SWAHead: 256}
	a := fit.Ask{Model: m, Context: 2048, Parallel: 4, UBatch: 512, Engine: "llama-server"}
	r, _ := fit.Check(a)
	fmt.Println("each its own:", int64(*r.KV)>>20, "MiB")

	// One cache of 8192 tokens for all four, in which each has its window:
	// (3 × 8192 + 15 × (4 × 512 + 512)) × 512 × 2 bytes.
	a.Context, a.Unified = 8192, true
	r, _ = fit.Check(a)
	fmt.Println("shared:", float64(*r.KV)/float64(fit.MiB), "MiB")
	// Output:
	// each its own: 84 MiB
	// shared: 61.5 MiB
}

func ExampleCheck_state() {
	// Of Qwen3.6 27B 48 layers have a state in f32 instead of a cache:
	// 48 × ((4 - 1) × (6144 + 2 × 16 × 128) + 128 × 6144) × 4 bytes a request.
	m, _ := fit.Find("qwen3.6:27b")
	r, _ := fit.Check(fit.Ask{Model: m, Context: 4096, Parallel: 3})
	fmt.Printf("%.2f MiB for 3 requests\n", float64(*r.State)/float64(fit.MiB))
	// Output:
	// 448.88 MiB for 3 requests
}

func ExampleCheck_compute() {
	// SmolLM2 135M: rows of 1536 and 576, a context of 2048, a batch of 512:
	// 512 × (4 × (3 × 1536 + 5 × 576) + 2 × 2048 + 40).
	m := fit.Model{Name: "smollm2", Kind: fit.KindFull, ParamsB: 0.135, Layers: 30, Hidden: 576, FF: 1536, Heads: 9, KVHeads: 3, HeadK: 64, HeadV: 64, Vocab: 49152}
	a := fit.Ask{Model: m, Context: 2048, Engine: "llama-server", EngineVersion: "b11434"}
	for _, build := range []string{"b11434", "b5000"} { // the older one: 512 × 4 × (49152 + 2 × 576)
		a.EngineVersion = build
		r, _ := fit.Check(a)
		fmt.Printf("%s: %.2f MiB\n", build, float64(*r.Compute)/float64(fit.MiB))
	}
	a.Context, a.EngineVersion, a.NoFlash = 8192, "b11434", true // 512 × 4 × ((9 + 1) × 8192 + 6 × 576)
	r, _ := fit.Check(a)
	fmt.Printf("no flash attention: %.2f MiB\n", float64(*r.Compute)/float64(fit.MiB))
	// Output:
	// b11434: 16.64 MiB
	// b5000: 98.25 MiB
	// no flash attention: 166.75 MiB
}

func ExampleCheck_reserve() {
	m := fit.Model{Name: "smollm2", Kind: fit.KindFull, ParamsB: 0.135, Layers: 30, Hidden: 576, FF: 1536, KVHeads: 3, HeadK: 64, HeadV: 64, Vocab: 49152}
	// On a CPU: 25 MiB + 200 × 49152 bytes, and 4 × 49152 for the logits of a request.
	r, _ := fit.Check(fit.Ask{Model: m, Quant: "Q4_1", Context: 2048, Engine: "llama-server", Repack: true})
	fmt.Printf("CPU: %.1f MiB, and with AMX the weights again: %v\n", float64(*r.Reserve)/float64(fit.MiB), *r.Repack)
	// On GPUs: 0.5 GiB each.
	r, _ = fit.Check(fit.Ask{Model: m, Quant: "Q4_1", Context: 2048, Engine: "llama-server", GPU: true, Devices: 2})
	fmt.Println("two GPUs:", *r.Reserve)
	// Output:
	// CPU: 34.6 MiB, and with AMX the weights again: 82.1 MiB
	// two GPUs: 1.0 GiB
}

func ExampleCheck_ownEngine() {
	// Until 0.30 Ollama ran Gemma in an engine of its own, which keeps embeddings
	// that serve as output a second time: 262144 words × 640 / 32 × 34 bytes.
	m := fit.Model{Name: "gemma-3-270m", Arch: "gemma3", Kind: fit.KindSWA, ParamsB: 0.268, Layers: 18, Hidden: 640, FF: 2048, Vocab: 262144, KVHeads: 1, HeadK: 256, HeadV: 256,
		FullLayers: 3, SWALayers: 15, Window: 512, SWAKVHeads: 1, SWAHead: 256}
	tensors := fit.Bytes(246587904)
	r, _ := fit.Check(fit.Ask{Model: m, Quant: "Q4_K_M", WeightsBytes: &tensors, Context: 8192, Parallel: 4, Engine: "ollama", EngineVersion: "0.17.4"})
	fmt.Printf("weights %.1f MiB\n", float64(*r.Weights+*r.Tied)/float64(fit.MiB)) // its log: 405.2
	// The cache is shared, and a window keeps a token more:
	// (3 × 4 × 8192 + 15 × 2816) × 512 × 2 bytes, where 4 × 513 + 512 is rounded up to 2816.
	fmt.Printf("cache %.2f MiB\n", float64(*r.KV)/float64(fit.MiB)) // its log: 137.2
	// Output:
	// weights 405.2 MiB
	// cache 137.25 MiB
}

func ExampleCheck_verdict() {
	m, _ := fit.Find("qwen3-coder:30b")
	for _, gib := range []fit.Bytes{32, 26, 20, 16} {
		budget := gib * fit.GiB
		r, _ := fit.Check(fit.Ask{Model: m, Context: 32768, Budget: &budget, GPU: true, Engine: "llama-server"})
		fmt.Printf("%v of %v: %s, at most %d tokens\n", *r.Total, budget, r.Verdict, *r.MaxContext)
	}
	// Output:
	// 20.9 GiB of 32.0 GiB: fits, at most 152320 tokens
	// 20.9 GiB of 26.0 GiB: fits, at most 87808 tokens
	// 20.9 GiB of 20.0 GiB: no, at most 23040 tokens
	// 20.9 GiB of 16.0 GiB: no, at most 0 tokens
}

func ExampleCheck_cards() {
	m, _ := fit.Find("qwen3-coder:30b")
	a := fit.Ask{Model: m, Context: 32768, GPU: true, Engine: "llama-server", Cards: []fit.Bytes{24 * fit.GiB, 8 * fit.GiB}}
	r, _ := fit.Check(a)
	fmt.Printf("24 + 8 GiB: %s, layers %v\n", r.Verdict, r.Layers)
	// Thirty-two cards of 1 GiB have as much, but none holds its buffers and a layer.
	a.Cards = make([]fit.Bytes, 32)
	for i := range a.Cards {
		a.Cards[i] = fit.GiB
	}
	r, _ = fit.Check(a)
	fmt.Printf("32 × 1 GiB: %s\n", r.Verdict)
	// Output:
	// 24 + 8 GiB: fits, layers [37 12]
	// 32 × 1 GiB: no
}

func ExampleVLLMCache_Capacity() {
	// Llama 3.1 8B in 16 bits, 3.81 GiB for the cache:
	// ⌊3.81 × 2^30 / (32 layers × 16 × 8 heads × 256 × 2)⌋ × 16.
	m, _ := fit.Find("llama3.1:8b")
	available, _ := fit.ParseSize("3.81GiB")
	c, _ := fit.VLLMCache{Model: m, Context: 20000}.Capacity(available)
	fmt.Println(c.Tokens, "tokens") // the log, from an amount not rounded: 31232
	// Output:
	// 31200 tokens
}

func ExampleVLLMCache_Capacity_hybrid() {
	// Qwen3.6 35B: 10 layers of 2 heads × 512 bytes in fp8 remember everything, 30
	// have a state of 3 × 8192 × 2 + 4096 × 128 × 4 = 2146304 bytes.
	m, _ := fit.Find("Qwen/Qwen3.6-35B-A3B")
	available, _ := fit.ParseSize("6.01GiB")
	c, _ := fit.VLLMCache{Model: m, Context: 131072, KVType: "fp8"}.Capacity(available)
	fmt.Println(c.Block, "tokens a block")                           // ⌈2146304 / (16 × 1024)⌉ × 16
	fmt.Println(c.Blocks, "blocks")                                  // ⌊6.01 × 2^30 / (10 × 2096 × 1024)⌋
	fmt.Println(c.PerRequest, "of them a request")                   // ⌈131072 / 2096⌉ + 30 / 10 × 2
	fmt.Println(c.Tokens, "tokens")                                  // ⌊300 / 69 × 131072⌋, as in its log
	fmt.Printf("%.2f requests of the whole length\n", c.Concurrency) // 300 / 69
	// Output:
	// 2096 tokens a block
	// 300 blocks
	// 69 of them a request
	// 569878 tokens
	// 4.35 requests of the whole length
}

func ExampleCheckVLLM() {
	// Llama 3.1 8B on an RTX 3090 of 23.58 GiB, as an old vLLM logged it:
	// 0.90 × 23.58 - 8.03e9 × 2 - 20000 × 6 × (14336 + 4096) - 0.35 GiB.
	m, _ := fit.Find("llama3.1:8b")
	total, _ := fit.ParseSize("23.58GiB")
	a := fit.VLLMAsk{VLLMCache: fit.VLLMCache{Model: m, Context: 20000}, Total: []fit.Bytes{total}, Utilization: 0.9, Old: true}
	r, _ := fit.CheckVLLM(a)
	fmt.Printf("20000 tokens: %.2f GiB for the cache, one request %.2f GiB: %s\n", r.Available.GiB(), r.KV.GiB(), r.Verdict) // the log: 3.81
	a.Context = 29000
	r, _ = fit.CheckVLLM(a)
	fmt.Printf("29000 tokens: %.2f GiB for the cache, one request %.2f GiB: %s\n", r.Available.GiB(), r.KV.GiB(), r.Verdict) // the log: 2.89
	// Output:
	// 20000 tokens: 3.86 GiB for the cache, one request 2.44 GiB: fits
	// 29000 tokens: 2.93 GiB for the cache, one request 3.54 GiB: no
}

func ExampleCheckVLLM_spark() {
	// On a DGX Spark 101.7 of 121.63 GiB are free: vLLM refuses the 0.92 it would
	// take by itself, so rlca names the most that passes, 0.83.
	m, _ := fit.Find("qwen3-coder:30b")
	total, _ := fit.ParseSize("121.63GiB")
	free, _ := fit.ParseSize("101.7GiB")
	a := fit.VLLMAsk{VLLMCache: fit.VLLMCache{Model: m, Context: 65536}, Quant: "FP8", Total: []fit.Bytes{total}, Free: []fit.Bytes{free}}
	r, _ := fit.CheckVLLM(a)
	fmt.Println(r.Utilization, r.Verdict)
	a.Utilization = 0.92
	r, _ = fit.CheckVLLM(a)
	fmt.Println(r.Utilization, r.Verdict, "-", r.Why)
	// Output:
	// 0.83 fits
	// 0.92 no - 101.7 GiB are free, less than 0.92 × 121.6 GiB
}

func ExampleLearn() {
	m, _ := fit.Find("qwen3-coder:30b")
	ask := fit.Ask{Model: m, Context: 32768, GPU: true, EngineVersion: "0.31.0"}
	r, _ := fit.Check(ask)
	fmt.Println("computed:", int64(*r.Compute), "bytes")

	// Three loads on this box, whose logs had 1.2, 1.5 and 1.3 times the buffer.
	var loads []fit.Load
	for _, factor := range []float64{1.2, 1.5, 1.3} {
		computed := fit.Parts{Weights: *r.Weights, KV: *r.KV, Compute: *r.Compute}
		logged := computed
		logged.Compute = fit.Bytes(factor * float64(*r.Compute))
		loads = append(loads, fit.Load{Engine: "ollama", Version: "0.31.0", GPU: true, Predicted: computed, Actual: logged})
	}
	ask.Correction = fit.Learn(loads, "ollama", "0.31.0", true)
	r, _ = fit.Check(ask)
	fmt.Println("corrected:", int64(*r.Compute), "bytes")
	fmt.Println(r.Notes[len(r.Notes)-1])
	// Output:
	// computed: 230737920 bytes
	// corrected: 299959296 bytes
	// corrected by what 3 loads on this box took: compute buffer × 1.30
}
