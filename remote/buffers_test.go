package remote

import (
	"strings"
	"testing"
)

func TestParseBuffers(t *testing.T) {
	const mib = 1 << 20
	llama := `load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:   CPU_REPACK model buffer size =    20.00 MiB
llama_context:        CPU  output buffer size =     1.00 MiB
llama_kv_cache:        CPU KV buffer size =    12.00 MiB
llama_kv_cache: size =   12.00 MiB (  4096 cells,  30 layers,  1/1 seqs), K (f16):    6.00 MiB, V (f16):    6.00 MiB
llama_memory_recurrent:  CPU RS buffer size =     2.00 MiB
llama_context:        CPU compute buffer size =    30.00 MiB
`
	want := Buffers{Weights: 120 * mib, KV: 12 * mib, State: 2 * mib, Compute: 31 * mib}
	// llama-server b10434 -lv 4 on a CPU with AMX, where weights are packed anew and the graph was reserved twice.
	server := `0.00.007.215 I cmn  common_param: common_params_print_info: build 1 (7e4c0a9) with GNU 11.4.0 for Linux x86_64
0.00.097.698 I common_memory_breakdown_print: |   - Host               |                  152 =    92 +      45 +      15                |
0.00.105.540 I common_params_fit_impl: projected to use 152 MiB of host memory vs. 24105 MiB of total host memory
0.00.213.451 I load_tensors:   CPU_Mapped model buffer size =    92.00 MiB
0.00.213.470 I load_tensors:          AMX model buffer size =    95.00 MiB
0.00.214.878 I llama_context:        CPU  output buffer size =     0.50 MiB
0.00.214.971 I llama_kv_cache:        CPU KV buffer size =    45.00 MiB
0.00.247.100 I llama_kv_cache: size =   45.00 MiB (  2048 cells,  30 layers,  1/1 seqs), K (f16):   22.50 MiB, V (f16):   22.50 MiB
0.00.247.664 I sched_reserve:        CPU compute buffer size =    15.00 MiB
0.00.247.700 I sched_reserve: graph: nodes = 936, splits = 1, input objects = 4, input tensors = 6
0.00.290.120 I sched_reserve:        CPU compute buffer size =    15.50 MiB
0.00.503.472 I srv        update:  - cache state: 0 prompts, 0.000 MiB (limits: 8192.000 MiB, 2048 tokens, 8589934592 est)
`
	serverWant := Buffers{Weights: 187 * mib, KV: 45 * mib, Compute: 16 * mib}
	// A model with windows has two caches, and one that sees has a graph of its own.
	windows := `0.00.1 I load_tensors:   CPU_Mapped model buffer size =    92.00 MiB
0.00.2 I load_tensors:   CPU_REPACK model buffer size =    12.00 MiB
0.00.3 I llama_kv_cache:        CPU KV buffer size =     6.00 MiB
0.00.4 I llama_kv_cache:        CPU KV buffer size =    15.00 MiB
0.00.5 I sched_reserve:      CUDA0 compute buffer size =    20.00 MiB
0.00.6 I sched_reserve:        CPU compute buffer size =     4.00 MiB
0.00.7 I alloc_compute_meta:        CPU compute buffer size =    32.00 MiB
`
	windowsWant := Buffers{Weights: 104 * mib, KV: 21 * mib, Compute: 56 * mib, GPU: 20 * mib}
	own := `time=x level=INFO source=device.go:245 msg="model weights" device=CUDA0 size="1.5 GiB"
time=x level=INFO source=device.go:256 msg="kv cache" device=CUDA0 size="256.0 MiB"
time=x level=INFO source=device.go:267 msg="compute graph" device=CUDA0 size="64.0 MiB"
time=x level=INFO source=device.go:272 msg="total memory" size="1.8 GiB"
`
	ownWant := Buffers{Weights: 1536 * mib, KV: 256 * mib, Compute: 64 * mib, GPU: 1856 * mib}
	part := want
	part.GPU = 20 * mib
	// A GPU that reads what it needs in a buffer of the processor, and reserves its graph twice.
	cuda := `load_tensors:   CPU_Mapped model buffer size =   150.00 MiB
load_tensors:        CUDA0 model buffer size =  4000.00 MiB
llama_context:  CUDA_Host  output buffer size =     1.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   500.00 MiB
sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    20.00 MiB
sched_reserve:      CUDA0 compute buffer size =   200.00 MiB
`
	cudaWant := Buffers{Weights: 4150 * mib, KV: 500 * mib, Compute: 221 * mib, GPU: 4700 * mib}
	estimate := strings.SplitAfter(own, "\n")[0]
	for name, test := range map[string]struct {
		log  string
		want Buffers
		ok   bool
	}{
		"nothing":                    {"", Buffers{}, false},
		"llama.cpp":                  {llama, want, true},
		"two loads, the last counts": {strings.ReplaceAll(llama, "100.00", "900.00") + llama, want, true},
		"Ollama's own engine":        {own + own, ownWant, true},
		"Ollama around llama.cpp":    {estimate + llama, want, true},
		"llama.cpp before its own":   {llama + own, ownWant, true},
		"a GPU and the processor":    {strings.Replace(llama, "load_tensors:   CPU_REPACK", "load_tensors:        CUDA0", 1), part, true},
		"CUDA":                       {cuda, cudaWant, true},
		"llama-server":               {server, serverWant, true},
		"llama-server, again":        {windows + server, serverWant, true},
		"windows and eyes":           {server + windows, windowsWant, true},
		"nonsense":                   {"model buffer size = 9.9.9 MiB\nmodel buffer size = 99999999999999999999 GiB\n", Buffers{}, false},
	} {
		got, ok := ParseBuffers(test.log)
		if got != test.want || ok != test.ok {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, ok, test.want, test.ok)
		}
	}
	if want.Total() != 165*mib {
		t.Errorf("Total = %d", want.Total())
	}
}

func FuzzParseBuffers(f *testing.F) {
	f.Add("load_tensors: CPU model buffer size = 1.79 MiB\nllama_context: CPU compute buffer size = 26.51 MiB\n")
	f.Add(`msg="model weights" device=CPU size="405.2 MiB"`)
	f.Fuzz(func(t *testing.T, log string) {
		if b, ok := ParseBuffers(log); ok && (b.Weights <= 0 || b.KV < 0 || b.State < 0 || b.Compute < 0 || b.GPU > b.Total()) {
			t.Errorf("%+v", b)
		}
	})
}
