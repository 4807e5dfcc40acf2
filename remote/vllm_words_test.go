package remote

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestVLLMArgs(t *testing.T) {
	src := &Source{Path: "/data/hub/models--Qwen--Qwen3-Coder-30B-A3B-Instruct/snapshots/abc", Config: []byte(`{"model_type":"qwen3_moe"}`)}
	const repo = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
	for _, c := range []struct {
		plan    Plan
		version string
		want    string // of the arguments, between those that are always there
	}{
		{Plan{Context: 65536}, "0.32.0", "--max-model-len 65536 --max-num-seqs 8 --enable-auto-tool-choice --tool-call-parser qwen3_coder"},
		{Plan{}, "0.32.0", "--max-model-len auto --max-num-seqs 8 --enable-auto-tool-choice --tool-call-parser qwen3_coder"},
		{Plan{}, "", "--max-num-seqs 8 --enable-auto-tool-choice --tool-call-parser qwen3_coder"},
		{Plan{Context: 4096, Parallel: 12, Utilization: 0.5, Tensor: 2}, "0.9.2", "--max-model-len 4096 --max-num-seqs 12 --gpu-memory-utilization 0.5 --tensor-parallel-size 2"},
		{Plan{Context: 4096, Parallel: 12, Unified: true}, "0.32.0", "--max-model-len 4096 --max-num-seqs 8 --gpu-memory-utilization 0.8 --enable-auto-tool-choice --tool-call-parser qwen3_coder"},
		{Plan{Context: 4096, Unified: true, Utilization: 0.85}, "0.32.0", "--max-model-len 4096 --max-num-seqs 8 --gpu-memory-utilization 0.85 --enable-auto-tool-choice --tool-call-parser qwen3_coder"},
	} {
		c.plan.Model = repo
		argv, env, err := vllmArgs(c.plan, src, "127.0.0.1:8001", c.version)
		if err != nil {
			t.Fatal(err)
		}
		const before, after = "serve " + repo + " --host 127.0.0.1 --port 8001 --served-model-name Qwen3-Coder-30B-A3B-Instruct " + repo + " ", ` --allowed-origins ["http://localhost"]`
		if got := strings.Join(argv, " "); got != before+c.want+after {
			t.Errorf("%+v with %q:\n%s\nwant\n%s", c.plan, c.version, got, before+c.want+after)
		}
		for _, e := range []string{"HF_HUB_CACHE=/data/hub", "HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1"} {
			if !slices.Contains(env, e) {
				t.Errorf("the environment %v lacks %s", env, e)
			}
		}
	}

	plan := Plan{Model: repo, Context: 4096, Args: []string{"--tool-call-parser=mine", "--enable-auto-tool-choice", "A=b"}, Env: []string{"C=d"}}
	argv, env, err := vllmArgs(plan, src, "[::1]:8001", "0.32.0")
	if got := strings.Join(argv, " "); err != nil || strings.Contains(got, "qwen3_coder") || !strings.HasSuffix(got, "--tool-call-parser=mine --enable-auto-tool-choice") || !strings.Contains(got, "--host ::1") {
		t.Errorf("with a parser of its own: %s, %v", got, err)
	}
	if !slices.Equal(env[len(env)-2:], []string{"C=d", "A=b"}) {
		t.Errorf("the environment is %v", env)
	}
	for _, arg := range []string{"--host=0.0.0.0", "--host", "--ho", "--port", "--served_model_name=x", "--api-key=k", "--uds", "--max-model-len=1", "--ssl-certfile=x", "--config=x", "VLLM_API_KEY=x", "RLCA_OWNER=x"} {
		if _, _, err := vllmArgs(Plan{Model: repo, Args: []string{arg}}, src, "127.0.0.1:8001", ""); err == nil || !strings.Contains(err.Error(), "rlca sets") {
			t.Errorf("%s was taken: %v", arg, err)
		}
	}
	for _, arg := range []string{"--config-format=mistral", "--kv-cache-dtype=fp8", "--enforce-eager", "-O3", "VLLM_LOGGING_LEVEL=DEBUG"} {
		if _, _, err := vllmArgs(Plan{Model: repo, Args: []string{arg}}, src, "127.0.0.1:8001", ""); err != nil {
			t.Errorf("%s was not taken: %v", arg, err)
		}
	}
	if _, _, err := vllmArgs(Plan{Model: repo, Unified: true, Args: []string{"--kv_cache_memory_bytes=8G"}}, src, "127.0.0.1:8001", ""); err == nil {
		t.Error("a cache without a limit was taken on unified memory")
	}
}

func TestVLLMNames(t *testing.T) {
	for in, want := range map[string]string{
		"Qwen/Qwen3-8B": "Qwen3-8B", "/data/my model/": "my-model", "~/m": "m", "/x/hub/models--Qwen--Qwen3-8B/snapshots/0a": "Qwen3-8B", "/..": "model",
	} {
		if got := alias(in); got != want {
			t.Errorf("alias(%q) = %q, want %q", in, got, want)
		}
	}
	for _, c := range []struct {
		version, min string
		want         bool
	}{
		{"0.32.0+cpu", "0.17.0", true}, {"0.9.2", "0.10.0", false}, {"0.19.1", "0.19.1", true}, {"0.19.1rc1", "0.19.1", true}, {"0.19", "0.19.1", false},
		{"", "9.0", true}, {"0.1.dev1+g7f41d34", "0.20.0", true}, {"1.0.0", "0.99.0", true}, {"v0.32.0", "0.32.0", true},
	} {
		if got := atLeast(c.version, c.min); got != c.want {
			t.Errorf("atLeast(%q, %q) = %v", c.version, c.min, got)
		}
	}
}

// The form of each row.
func TestVLLMFamilies(t *testing.T) {
	tools := strings.Fields(`apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 dots ernie45 functiongemma gemma4 gigachat3
		glm45 glm47 granite granite-20b-fc granite4 hermes hunyuan_a13b hy_v3 inkling internlm jamba kimi_k2 kimi_k3 lfm2 ling3 llama3_json llama4_json llama4_pythonic
		longcat mimo minicpm5 minimax_m2 minimax_m3 mistral muse_glimmer olmo3 openai phi4_mini_json poolside_v1 pythonic qwen3_coder qwen3_xml seed_oss step3 step3p5 xlam`)
	thoughts := strings.Fields(`cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 ernie45 gemma4 glm45 glm47 granite holo2 hunyuan_a13b hy_v3 inkling
		kimi_k2 kimi_k3 ling3 mimo minimax_m2 minimax_m2_append_think minimax_m3 mistral muse_glimmer nemotron_v3 olmo3 openai_gptoss poolside_v1 qwen3 seed_oss step3 step3p5`)
	version := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	seen := map[string]bool{}
	for _, f := range families() {
		switch {
		case f.name == "" || seen[f.name]:
			t.Errorf("%+v has no name of its own", f)
		case len(f.types) == 0 && f.repo == nil:
			t.Errorf("%s matches everything", f.name)
		case f.tool != "" && !slices.Contains(tools, f.tool):
			t.Errorf("%s: vLLM has no tool parser %q", f.name, f.tool)
		case f.reasoning != "" && !slices.Contains(thoughts, f.reasoning):
			t.Errorf("%s: vLLM has no reasoning parser %q", f.name, f.reasoning)
		case f.since != "" && !version.MatchString(f.since):
			t.Errorf("%s: %q is no version", f.name, f.since)
		}
		seen[f.name] = true
	}
}

func TestVLLMParsers(t *testing.T) {
	for _, c := range []struct {
		model, kind     string
		tool, reasoning string
	}{
		{"Qwen/Qwen3-30B-A3B", "qwen3_moe", "hermes", "qwen3"},
		{"Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3_moe", "hermes", ""},
		{"Qwen/Qwen3-30B-A3B-Thinking-2507-FP8", "qwen3_moe", "hermes", "qwen3"},
		{"Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_moe", "qwen3_coder", ""},
		{"Qwen/Qwen3-Coder-Next", "qwen3_next", "qwen3_coder", ""},
		{"Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3_next", "hermes", ""},
		{"Qwen/Qwen3.6-35B-A3B", "qwen3_5_moe", "qwen3_coder", "qwen3"},
		{"Qwen/Qwen2.5-Coder-32B-Instruct", "qwen2", "hermes", ""},
		{"Qwen/QwQ-32B", "qwen2", "hermes", "deepseek_r1"},
		{"deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen2", "", "deepseek_r1"},
		{"deepseek-ai/DeepSeek-R1-0528", "deepseek_v3", "deepseek_v3", "deepseek_r1"},
		{"deepseek-ai/DeepSeek-V3.1", "deepseek_v3", "deepseek_v31", "deepseek_v3"},
		{"openai/gpt-oss-120b", "gpt_oss", "openai", "openai_gptoss"},
		{"zai-org/GLM-4.5-Air", "glm4_moe", "glm45", "glm45"},
		{"zai-org/GLM-4.7-FP8", "glm4_moe", "glm47", "glm45"},
		{"zai-org/GLM-5", "glm_moe_dsa", "glm47", "glm45"},
		{"moonshotai/Kimi-K2-Thinking", "kimi_k2", "kimi_k2", "kimi_k2"},
		{"moonshotai/Kimi-K2-Instruct", "deepseek_v3", "kimi_k2", ""},
		{"meta-llama/Llama-3.3-70B-Instruct", "llama", "llama3_json", ""},
		{"NousResearch/Hermes-3-Llama-3.1-8B", "llama", "hermes", ""},
		{"mistralai/Devstral-Small-2-24B-Instruct-2512", "mistral3", "mistral", ""},
		{"google/gemma-4-31b-it", "gemma4", "gemma4", "gemma4"},
		{"google/functiongemma-270m-it", "gemma3_text", "functiongemma", ""},
		{"nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4", "nemotron_h", "qwen3_xml", "nemotron_v3"},
		{"ibm-granite/granite-4.0-h-small", "granitemoehybrid", "granite4", ""},
		{"MiniMaxAI/MiniMax-M2.1", "minimax_m2", "minimax_m2", "minimax_m2"},
		{"/data/models/Qwen3-Coder-30B/", "qwen3_moe", "qwen3_coder", ""},
		{"/x/hub/models--zai-org--GLM-4.7/snapshots/abc", "glm4_moe", "glm47", "glm45"},
	} {
		p := parsersOf([]byte(`{"model_type":"`+c.kind+`"}`), c.model, "0.32.0")
		if p.Tool != c.tool || p.Reasoning != c.reasoning || (p.Warning == "") != (c.tool != "") {
			t.Errorf("%s: %+v, want %q and %q", c.model, p, c.tool, c.reasoning)
		}
	}
	for _, c := range []struct{ config, model, version, want string }{
		{`{"model_type":"novel","architectures":["NovelForCausalLM"]}`, "org/novel", "0.32.0", `models of the kind "novel"`},
		{`{"architectures":["NovelForCausalLM"]}`, "org/novel", "", `models of the kind "NovelForCausalLM"`},
		{`no JSON`, "org/novel", "", `models of the kind "unknown"`},
		{`{"model_type":"gemma3"}`, "google/gemma-3-27b-it", "", "vLLM cannot read calls of Gemma 3"},
		{`{"model_type":"gemma4"}`, "google/gemma-4-31b-it", "0.12.0", "vLLM 0.12.0 is too old for Gemma 4, which needs 0.19.1"},
	} {
		p := parsersOf([]byte(c.config), c.model, c.version)
		if p.Tool != "" || p.Reasoning != "" || !strings.HasPrefix(p.Warning, strings.TrimPrefix(c.want, "")) && !strings.Contains(p.Warning, c.want) || !strings.Contains(p.Warning, "no calls of tools") {
			t.Errorf("%s with %s: %+v, want %q", c.model, c.version, p, c.want)
		}
	}
	if p := parsersOf([]byte(`{"model_type":"wrapper","text_config":{"model_type":"qwen3_5_moe"}}`), "org/m", ""); p.Tool != "qwen3_coder" {
		t.Errorf("by the text's configuration: %+v", p)
	}
}

func TestVLLMPhases(t *testing.T) {
	log := strings.NewReplacer("%%", "%", "%[1]s", "m", "%s", "m", "\r", "\n").Replace(fakeVLLMStart + fakeVLLMReady)
	cpu, err := os.ReadFile("testdata/vllm/cpu-0.32.0.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, log string
		want      []string
	}{
		{"a GPU", log, []string{
			"engine vLLM: reading its arguments", "engine vLLM: reading the model's configuration", "engine vLLM: starting its engine", "load vLLM: loading weights",
			"load vLLM: loading weights 0 %", "load vLLM: loading weights 33 %", "load vLLM: weights are loaded", "load vLLM: compiled", "load vLLM: laying out the cache",
			"load vLLM: capturing graphs 0 %", "load vLLM: capturing graphs 45 %", "load vLLM: graphs are captured", "load vLLM: engine is ready", "load vLLM: opening its port",
		}},
		{"a CPU", string(cpu), []string{
			"engine vLLM: importing its libraries", "engine vLLM: reading its arguments", "engine vLLM: reading the model's configuration", "engine vLLM: starting its engine",
			"load vLLM: loading weights", "load vLLM: loading weights 0 %", "load vLLM: loading weights 100 %", "load vLLM: weights are loaded",
			"load vLLM: laying out the cache", "load vLLM: engine is ready", "load vLLM: opening its port",
		}},
	} {
		next := vllmPhases()
		var got []string
		for line := range strings.Lines(c.log) {
			if p := next([]string{clean(line)}); p.Step != "" {
				got = append(got, p.Step+" "+p.Text)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// Every text by which vLLM is known to end, with what comes before and after it.
func TestVLLMFailures(t *testing.T) {
	const before = "(APIServer pid=1) WARNING 11-24 08:06:16 [system_utils.py:255] This can cause fd limit errors like `OSError: [Errno 24] Too many open files`\n" +
		"(EngineCore pid=2) ERROR 11-24 08:07:00 [core.py:1000] EngineCore failed to start.\n(EngineCore pid=2) ERROR 11-24 08:07:00 [core.py:1000] Traceback (most recent call last):\n"
	const after = "\nRuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
	used := map[string]bool{}
	for _, c := range []struct {
		text, class string
		reason      string // begins so
		context     int
	}{
		{"ValueError: To serve at least one request with the model's max seq len (65536), (0.03 GiB KV cache is needed, which is larger than the available KV cache memory (0.01 GiB). Based on the available memory, the estimated maximum model length is 16256. Try", "context", "the memory that is left", 15360},
		{"ValueError: To serve at least one request with the model's max seq len (65536), (8 GiB KV cache is needed, which is larger than the available KV cache memory (0.01 GiB). Based on the available memory, the estimated maximum model length is 512. Try", "memory", "the memory that is left", 0},
		{"ValueError: To serve at least one request with the model's max seq len (65536), 8 GiB KV cache is needed, which is larger than the available KV cache memory (0.01 GiB). Try", "memory", "no memory is left", 0},
		{"ValueError: The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (20480). Try", "context", "the memory that is left", 20480},
		{"ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. Try increasing `gpu_memory_utilization`.", "memory", "no memory is left", 0},
		{"ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.", "memory", "weights and buffers", 0},
		{"ValueError: Free memory on device cuda:0 (10.5/23.6 GiB) on startup is less than desired GPU memory utilization (0.92, 21.7 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.", "busy", "only 10.5 of 23.6 GiB of the GPU", 0},
		{"ValueError: Available memory on node 0 (14.45/16.21 GiB) on startup is less than desired CPU memory utilization (0.99, 16.05 GiB). On the CPU backend, the", "busy", "only 14.45 of 16.21 GiB of memory", 0},
		{"AssertionError: Error in memory profiling. Initial free memory 10, current free memory 12. This happens when other processes sharing the same container release GPU memory while vLLM is profiling", "race", "memory became free", 0},
		{"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of", "memory", "memory ran out", 0},
		{"RuntimeError: Worker failed with error exitcode -9", "memory", "the box ran out", 0},
		{"kernel: [ 123.4] Out of memory: Killed process 17 (VLLM::EngineCor)", "memory", "the box ran out", 0},
		{"  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len (max_position_embeddings=65536.0 or model_max_length=None in model's config.json). To allow", "context", "the model was made for a context of at most 65536", 65536},
		{"ValueError: Model architectures ['NovelForCausalLM'] are not supported for now. Supported architectures: dict_keys(['A'])", "version", "this vLLM does not know NovelForCausalLM", 0},
		{"ValueError: Model architectures ['NovelForCausalLM'] failed to be inspected. Please check the logs for more details.", "version", "this vLLM does not know NovelForCausalLM", 0},
		{"ValueError: The checkpoint you are trying to load has model type `novel` but Transformers does not recognize this architecture.", "version", "this vLLM does not know models of the kind novel", 0},
		{"ValueError: The repository x contains custom code which must be executed to correctly load the model. Please pass the argument `trust_remote_code=True` to allow custom code to be run.", "trust", "the model brings", 0},
		{"huggingface_hub.errors.GatedRepoError: 401 Client Error.", "model", "the model is only given", 0},
		{"huggingface_hub.errors.HFValidationError: Repo id must use alphanumeric chars, '-', '_' or '.': './nosuch'.", "model", "there is no such folder", 0},
		{"huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the specified revision on the local disk and outgoing traffic has been disabled.", "model", "files of the model lack", 0},
		{"openai_harmony.HarmonyError: error downloading or loading vocab file: failed to download or load vocab file", "model", "the vocabulary of gpt-oss", 0},
		{"safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "model", "a file of its weights", 0},
		{"OSError: ./m does not appear to have a file named preprocessor_config.json", "model", "files of the model lack", 0},
		{"RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging", "driver", "it finds no GPU", 0},
		{"torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device", "build", "this build of vLLM has no code", 0},
		{"RuntimeError: No supported CUDA architectures found for major versions [10].", "build", "this build of vLLM has no code", 0},
		{"ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'", "build", "its compiler is older than the GPU, sm_121a", 0},
		{"RuntimeError: Failed to open: /usr/deep_gemm/include/sm121_fp8_mqa_logits.cuh", "build", "this build of vLLM lacks kernels", 0},
		{"ImportError: libcudart.so.12: cannot open shared object file: No such file or directory", "install", "its build and the CUDA on the box do not match: there is no libcudart.so.12", 0},
		{"RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.", "driver", "the GPU's driver", 0},
		{"RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "driver", "the GPU's driver", 0},
		{"ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.", "build", "the GPU cannot", 0},
		{"    self.graph.replay()", "graphs", "it broke off", 0},
		{"KeyError: 'invalid tool call parser: nosuch (chose from { apertus,xlam })'", "parser", "this vLLM has no parser of calls named nosuch", 0},
		{"KeyError: 'invalid reasoning parser: nosuch (chose from { granite,qwen3 })'", "parser", "this vLLM has no parser of thoughts named nosuch", 0},
		{"vllm: error: unrecognized arguments: --nosuch", "arguments", "it does not know --nosuch", 0},
		{"vllm serve: error: argument --max-num-seqs: invalid int value: 'x'", "arguments", "its arguments are wrong: argument --max-num-seqs", 0},
		{"ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4).", "arguments", "a model with 14", 0},
		{"  Value error, World size (2) is larger than the number of available GPUs (1) in this node.", "arguments", "it is to use 2 GPUs, and sees 1", 0},
		{"OSError: [Errno 98] Address already in use", "port", "its port is taken", 0},
		{"TimeoutError: RPC call to sample_tokens timed out.", "worker", "one of its workers", 0},
		{"TimeoutError: Timed out waiting for engine core processes to start. This is often caused by slow weight loading for large models. Waited 600s", "slow", "loading took longer", 0},
		{"ValueError: current platform cpu does not support ray.", "cluster", "the boxes do not work as one", 0},
		{"RuntimeError: NCCL error in: ../csrc: unhandled system error", "cluster", "its processes cannot", 0},
		{"OSError: [Errno 28] No space left on device", "disk", "a disk of the box is full", 0},
		{"PermissionError: [Errno 13] Permission denied: '/root/.cache/vllm'", "permission", "this account may not use /root/.cache/vllm", 0},
		{"ModuleNotFoundError: No module named 'vllm'", "install", "its installation is broken", 0},
		{"KeyError: 'layers.0.mlp.experts.w2_weight'", "other", "it ended while it started", 0},
		{"", "other", "its engine ended without a word", 0},
	} {
		var lines []string
		for l := range strings.Lines(before + c.text + after) {
			lines = append(lines, clean(l))
		}
		e := &StartError{Engine: "vLLM", Address: "a", Reason: errDied.Error(), Log: lines}
		if err := vllmEnded(e); err != error(e) || e.Class != c.class || !strings.HasPrefix(e.Reason, c.reason) || e.Context != c.context {
			t.Errorf("%.90s:\n%s: %s (context %d)\nwant %s: %s (context %d)", c.text, e.Class, e.Reason, e.Context, c.class, c.reason, c.context)
		}
		if len(e.Log) != 1 || strings.Contains(e.Reason+e.Remedy, "$") || e.Class != "other" && e.Remedy == "" && e.Context == 0 {
			t.Errorf("%.90s: log %q, remedy %q", c.text, e.Log, e.Remedy)
		}
		for _, f := range failures() {
			if f.text.MatchString(strings.TrimSpace(c.text)) {
				used[f.means] = true
			}
		}
	}
	for _, f := range failures() {
		if !used[f.means] {
			t.Errorf("no text for %s: %s", f.class, f.means)
		}
	}
}

func TestVLLMTook(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name           string
		lines          []string
		weights, cache int64
		gpu            bool
	}{
		{"a GPU, started twice", []string{"non-default args: ", "Model loading took 99 GiB", "non-default args: ", "Model loading took 1.50 GiB", "Available KV cache memory: 2.25 GiB", "Graph capturing finished in 2 secs, took 0.25 GiB"}, 3 * gib / 2, 5 * gib / 2, true},
		{"two GPUs", []string{"non-default args: ", "'tensor_parallel_size': 2", "Model loading took 1.50 GiB", "Available KV cache memory: 2.00 GiB"}, 3 * gib, 4 * gib, true},
		{"a CPU", []string{"non-default args: ", "(1.0/12.59) GiB for KV cache on node 0"}, 0, gib, false},
		{"nothing", nil, 0, 0, false},
	} {
		if w, k, gpu := vllmTook(c.lines); w != c.weights || k != c.cache || gpu != c.gpu {
			t.Errorf("%s: %d, %d, %v", c.name, w, k, gpu)
		}
	}
}

// Whatever a log or a config.json says, nothing panics, and what is told is fit for a terminal.
func FuzzVLLMWords(f *testing.F) {
	f.Add(fakeVLLMStart+fakeVLLMReady, `{"model_type":"qwen3"}`)
	f.Add("(EngineCore pid=1) ERROR 11-24 08:07:00 [core.py:1] ValueError: estimated maximum model length is 99999999999999999999", `{"model_type":[]}`)
	f.Fuzz(func(t *testing.T, log, config string) {
		next := vllmPhases()
		var lines []string
		for line := range strings.Lines(log) {
			lines = append(lines, clean(line))
			if p := next(lines[len(lines)-1:]); p.Text != clean(p.Text) {
				t.Errorf("progress %q", p.Text)
			}
		}
		vllmEnded(&StartError{Log: lines})
		vllmTook(lines)
		if p := parsersOf([]byte(config), log, config); p.Warning != "" && strings.ContainsAny(p.Warning, "\x1b\n") {
			t.Errorf("warning %q", p.Warning)
		}
	})
}
