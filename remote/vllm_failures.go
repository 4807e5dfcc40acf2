package remote

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// failure is a way in which vLLM does not come up.
type failure struct {
	// text is what it writes.
	text *regexp.Regexp
	// class is a StartError's.
	class string
	// means says to a person what it is, remedy what can be done besides a shorter context, if one is known; $1 is the first
	// group of text, and so on.
	means, remedy string
}

// What helps where memory is short.
const (
	roomier      = "a smaller quantization of the model, or more of the memory: [engine] args = [\"--gpu-memory-utilization=0.95\"]"
	smallerShare = "[engine] args = [\"--gpu-memory-utilization=0.7\"]"
)

// failures are the texts of real failures. Those of a group named tokens are the longest context that would do.
var failures = sync.OnceValue(func() []failure {
	return []failure{
		// Memory.
		{regexp.MustCompile(`larger than the available KV cache memory .*estimated maximum model length is (?P<tokens>\d+)`), "context",
			"the memory that is left for its cache holds no request of the wanted length", roomier},
		{regexp.MustCompile(`max seq len \(\d+\) is larger than the maximum number of tokens that can be stored in KV cache \((?P<tokens>\d+)\)`), "context",
			"the memory that is left for its cache holds no request of the wanted length", roomier},
		{regexp.MustCompile(`larger than the available KV cache memory|Cannot auto-fit max_model_len`), "memory",
			"no memory is left for its cache", roomier},
		{regexp.MustCompile(`No available memory for the cache blocks`), "memory",
			"weights and buffers leave no memory for its cache", roomier},
		{regexp.MustCompile(`Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than desired`), "busy",
			"only $1 of $2 GiB of the GPU are free, which is less than it may take", "end what else holds the GPU's memory (nvidia-smi lists it; an idle Ollama model: ollama stop MODEL), or give vLLM less: " + smallerShare},
		{regexp.MustCompile(`Available memory on node \d+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than desired CPU memory`), "busy",
			"only $1 of $2 GiB of memory are free, which is less than it may take", "end what else holds memory, or give vLLM less: " + smallerShare},
		{regexp.MustCompile(`Error in memory profiling`), "race",
			"memory became free while it measured how much there is", "wait until what was just ended is gone, and try again"},
		{regexp.MustCompile(`(?i)CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|HIP out of memory|cudaErrorMemoryAllocation|can't allocate memory|Cannot allocate memory`), "memory",
			"memory ran out", "a shorter context, a smaller quantization, or less of the memory for it: " + smallerShare + "; if it was while graphs were captured: [engine] args = [\"--enforce-eager\"]"},
		{regexp.MustCompile(`(?i)kernel: .*(?:out of memory|oom-kill|killed process)|exitcode:? -?9\b|exit code:? -9\b`), "memory",
			"the box ran out of memory, and its kernel ended vLLM", "a smaller model or a shorter context; end what else holds memory there"},

		// The model.
		{regexp.MustCompile(`User-specified max_model_len \(\d+\) is greater than the derived max_model_len \((?:[a-z_]+=)?(?P<tokens>\d+)`), "context",
			"the model was made for a context of at most $1", ""},
		{regexp.MustCompile(`Model architectures \['?([^'\]]*)'?[^\]]*\] (?:are not supported|failed to be inspected)`), "version",
			"this vLLM does not know $1", "a newer vLLM on the box"},
		{regexp.MustCompile("model type `([^`]+)` but Transformers does not recognize this architecture"), "version",
			"this vLLM does not know models of the kind $1", "a newer vLLM on the box"},
		{regexp.MustCompile(`trust_remote_code=True|requires you to execute the configuration file`), "trust",
			"the model brings Python code of its own, which would run on the box", "only if you trust who made it: [engine] args = [\"--trust-remote-code\"]"},
		{regexp.MustCompile(`GatedRepoError|Cannot access gated repo`), "model",
			"the model is only given to those who have agreed to its terms", "agree to them on its page on Hugging Face, and give the box the token of that account"},
		{regexp.MustCompile(`HFValidationError: Repo id must`), "model",
			"there is no such folder on the box, and it is no name of a repository", "check the model's path"},
		{regexp.MustCompile(`LocalEntryNotFoundError|OfflineModeIsEnabled|Cannot find an appropriate cached snapshot|We couldn't connect to '?https://huggingface\.co`), "model",
			"files of the model lack on the box", "download it again: what is there is kept"},
		{regexp.MustCompile(`HarmonyError: error downloading or loading vocab file`), "model",
			"the vocabulary of gpt-oss is not on the box, and it is not to be fetched while it starts", "put o200k_base.tiktoken and cl100k_base.tiktoken into a folder there, and: [engine] args = [\"TIKTOKEN_ENCODINGS_BASE=/that/folder\"]"},
		{regexp.MustCompile(`SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeaderDeserialization`), "model",
			"a file of its weights is broken", "remove it on the box and download it again"},
		{regexp.MustCompile(`does not appear to have a file named|No such file or directory: '[^']*\.(?:safetensors|json)'|Cannot find any model weights`), "model",
			"files of the model lack on the box", "download it again: what is there is kept"},

		// The GPU, its driver, and what this vLLM was built for.
		{regexp.MustCompile(`Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver`), "driver",
			"it finds no GPU", "does nvidia-smi work for this account on the box? a container needs --gpus all; without a GPU: the CPU build of vLLM"},
		{regexp.MustCompile(`no kernel image is available for execution on the device|No supported CUDA architectures found for major versions`), "build",
			"this build of vLLM has no code for the GPU", "a newer vLLM, built for CUDA 13"},
		{regexp.MustCompile(`ptxas fatal .*Value '(sm_\w+)' is not defined`), "build",
			"its compiler is older than the GPU, $1", "[engine] args = [\"TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas\"], or a newer vLLM"},
		{regexp.MustCompile(`Failed to open: \S*\.cuh|This kernel only supports sm\d+`), "build",
			"this build of vLLM lacks kernels for the GPU", "a newer vLLM, built for CUDA 13"},
		{regexp.MustCompile(`(lib(?:cu|nv|rocm|hip)\w*\.so[.\d]*): cannot open shared object file`), "install",
			"its build and the CUDA on the box do not match: there is no $1", "install vLLM anew, in an environment of its own"},
		{regexp.MustCompile(`unsupported toolchain|CUDA driver version is insufficient|NVIDIA driver on your system is too old`), "driver",
			"the GPU's driver is older than this vLLM needs", "a newer driver on the box, 580 or later for CUDA 13, or a vLLM built for CUDA 12.9"},
		{regexp.MustCompile(`Bfloat16 is only supported on GPUs`), "build",
			"the GPU cannot compute with bfloat16", "[engine] args = [\"--dtype=half\"]"},
		{regexp.MustCompile(`self\.graph\.replay\(\)|cudaGraphLaunch|CUDA error: operation not permitted when stream is capturing`), "graphs",
			"it broke off with its graphs", "without them: [engine] args = [\"--enforce-eager\"]"},

		// What it was told.
		{regexp.MustCompile(`invalid tool call parser: (\S+)|tool (?:call )?parser:? '?(\w+)'? (?:not found|is not)`), "parser",
			"this vLLM has no parser of calls named $1$2", "a newer vLLM on the box, or another parser: [engine] args = [\"--tool-call-parser=NAME\"]"},
		{regexp.MustCompile(`invalid reasoning parser: (\S+)|[Rr]easoning parser:? '?(\w+)'? (?:not found|is not)`), "parser",
			"this vLLM has no parser of thoughts named $1$2", "a newer vLLM on the box, or another parser: [engine] args = [\"--reasoning-parser=NAME\"]"},
		{regexp.MustCompile(`error: unrecognized arguments: (.+)`), "arguments",
			"it does not know $1", "correct [engine] args in the profile, or a newer vLLM on the box"},
		{regexp.MustCompile(`^(?:vllm|api_server\.py)[\w. ]*: error: (.+)`), "arguments",
			"its arguments are wrong: $1", "correct [engine] args in the profile"},
		{regexp.MustCompile(`attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)`), "arguments",
			"a model with $1 attention heads cannot be shared by $2 GPUs", "a number of GPUs that divides them"},
		{regexp.MustCompile(`World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)|Tensor parallel size \((\d+)\) exceeds available GPUs \((\d+)\)`), "arguments",
			"it is to use $1$3 GPUs, and sees $2$4", "fewer GPUs, or join the other boxes first"},
		{regexp.MustCompile(`(?i)address already in use`), "port", "its port is taken", "another one: [engine] address"},

		// Several processes, and the box.
		{regexp.MustCompile(`RPC call to \w+ timed out`), "worker",
			"one of its workers no longer answers, mostly because memory is short", "start it smaller: a shorter context, less of the memory: " + smallerShare},
		{regexp.MustCompile(`Timed out waiting for engine core processes to start`), "slow",
			"loading took longer than vLLM itself waits", "give it more time: [engine] args = [\"VLLM_ENGINE_READY_TIMEOUT_S=3600\"]"},
		{regexp.MustCompile(`No available node types can fulfill resource request|current platform \w+ does not support ray`), "cluster",
			"the boxes do not work as one", "ray status on the box; VLLM_HOST_IP must be each box's own address"},
		{regexp.MustCompile(`NCCL error|unhandled system error|ibv_reg_mr`), "cluster",
			"its processes cannot reach each other", "[engine] args = [\"NCCL_DEBUG=INFO\"] says more; locked memory must be unlimited: ulimit -l"},
		{regexp.MustCompile(`No space left on device`), "disk", "a disk of the box is full", "free space there: df -h"},
		{regexp.MustCompile(`PermissionError: .*'([^']+)'`), "permission", "this account may not use $1", "make it this account's on the box"},
	}
})

// Errors that are none of these: a line of Python's, the one that only says that another process failed, and what an
// installation in pieces says.
var (
	pythonError  = regexp.MustCompile(`^(?:[\w.]+\.)?\w*(?:Error|Exception)\b: .`)
	plainError   = regexp.MustCompile(`(?i)^(?:fatal|error)\b:? .`)
	genericError = regexp.MustCompile(`Engine core initialization failed|See root cause above|WorkerProc initialization failed|See stack trace`)
	brokenError  = regexp.MustCompile(`^(?:ModuleNotFoundError|ImportError|[\w.]*PackageNotFoundError)|bad interpreter|: not found$`)
)

// vllmEnded finds out by the end of the log why a start came to nothing: the first line that is known, else the first
// that looks like an error. The last ones only say that something failed.
func vllmEnded(e *StartError) error {
	if e.Reason == errDied.Error() {
		e.Reason = "it ended while it started" // which may take minutes
	}
	var first, generic string
	for _, line := range e.Log {
		level, words := splitLine(line)
		words = strings.TrimSpace(words)
		if words == "" || level != "" && level != "ERROR" && level != "CRITICAL" {
			continue
		}
		for _, f := range failures() {
			m := f.text.FindStringSubmatchIndex(words)
			if m == nil {
				continue
			}
			fill := func(text string) string { return string(f.text.ExpandString(nil, text, words, m)) }
			e.Class, e.Log = f.class, []string{words}
			if i := f.text.SubexpIndex("tokens"); i > 0 && m[2*i] >= 0 {
				n, err := strconv.Atoi(words[m[2*i]:m[2*i+1]])
				n -= n % 1024
				if err != nil || n == 0 { // not even that much
					e.Class = "memory"
				} else {
					e.Context = n
				}
			}
			e.Reason, e.Remedy = fill(f.means), fill(f.remedy)
			if f.class == "port" {
				e.Err = errTaken
			}
			return e
		}
		switch {
		case genericError.MatchString(words):
			generic = words
		case first == "" && (pythonError.MatchString(words) || plainError.MatchString(words) || brokenError.MatchString(words)):
			first = words
		}
	}
	switch {
	case first != "" && brokenError.MatchString(first):
		e.Class, e.Reason, e.Remedy, e.Log = "install", "its installation is broken", "install vLLM anew, in an environment of its own", []string{first}
	case first != "":
		e.Class, e.Log = "other", []string{first}
	case generic != "":
		e.Class, e.Log = "other", []string{generic}
		e.Reason = "its engine ended without a word, which is mostly memory"
		e.Remedy = "a shorter context, or less of the memory: " + smallerShare + "; if memory stays taken on the box, restart it"
	default:
		e.Class = "other"
		e.Log = slices.DeleteFunc(e.Log, func(l string) bool { return strings.TrimSpace(l) == "" })
		e.Log = e.Log[max(0, len(e.Log)-12):]
	}
	return e
}
