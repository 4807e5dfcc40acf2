package remote

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The words of a start, as vLLM 0.32.0 writes them on a GPU. A \r begins a line of a bar anew.
const fakeVLLMStart = `(APIServer pid=11) INFO 11-24 08:06:16 [api_utils.py:286] non-default args: {'model_tag': '%s', 'host': '127.0.0.1'}
(APIServer pid=11) WARNING 11-24 08:06:16 [system_utils.py:255] Found ulimit of 20000. This can cause fd limit errors like ` + "`OSError: [Errno 24] Too many open files`" + `.
(APIServer pid=11) INFO 11-24 08:06:17 [model.py:733] Resolved architecture: Qwen2ForCausalLM
(EngineCore pid=12) INFO 11-24 08:06:18 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='%[1]s'
(Worker pid=13) INFO 11-24 08:06:18 [gpu_model_runner.py:68] Starting to load model %[1]s...
Loading safetensors checkpoint shards:   0%% Completed | 0/3 [00:00<?, ?it/s]` + "\r" + `Loading safetensors checkpoint shards:  33%% Completed | 1/3 [00:01<00:02,  1.00it/s]
`

const fakeVLLMReady = `(Worker pid=13) INFO 11-24 08:06:20 [gpu_model_runner.py:90] Model loading took 1.50 GiB memory and 2.1 seconds
(Worker pid=13) INFO 11-24 08:06:21 [monitor.py:34] torch.compile took 12.00 s in total
(Worker pid=13) INFO 11-24 08:06:22 [gpu_worker.py:300] Available KV cache memory: 2.25 GiB
(EngineCore pid=12) INFO 11-24 08:06:22 [kv_cache_utils.py:2327] GPU KV cache size: 1,048,576 tokens
Capturing CUDA graphs (decode, FULL):   0%%|          | 0/11` + "\r" + `Capturing CUDA graphs (decode, FULL):  45%%|####      | 5/11
(Worker pid=13) INFO 11-24 08:06:24 [gpu_model_runner.py:700] Graph capturing finished in 2 secs, took 0.25 GiB
(EngineCore pid=12) INFO 11-24 08:06:24 [core.py:402] init engine (profile, create kv cache, warmup model) took 5.49 s
(APIServer pid=11) INFO 11-24 08:06:25 [entry.py:140] Starting vLLM server on http://%s
INFO:     Application startup complete.
`

// fakeVLLM is the test binary under the name vllm: `vllm serve MODEL …` with an engine process as its child, which carries no
// mark: the real one writes over the beginning of its environment when it changes its name. The file "fake" in its home says how it is ill.
func fakeVLLM(args []string) {
	if args[0] == "core" { // outlives its parent, as the real one does
		time.Sleep(time.Minute)
		return
	}
	noteCall("vllm", args)
	flags := map[string]string{}
	var names []string
	for i := 2; i < len(args); i++ {
		if args[i] == "--served-model-name" {
			for i++; !strings.HasPrefix(args[i], "--"); i++ {
				names = append(names, args[i])
			}
		}
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			flags[args[i]] = args[i+1]
		}
	}
	addr := net.JoinHostPort(flags["--host"], flags["--port"])
	illness, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), "fake"))
	word, arg, _ := strings.Cut(strings.TrimSpace(string(illness)), " ")
	switch word {
	case "dies":
		fmt.Fprintln(os.Stderr, "Error: \x1b[31mno compatible\x1b[0m GPUs, and \x07no hope")
		os.Exit(1)
	case "taken":
		if arg == flags["--port"] {
			fmt.Fprintln(os.Stderr, "OSError: [Errno 98] Address already in use")
			os.Exit(1)
		}
	case "mute":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	core := exec.Command(os.Args[0], "core")
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	core.Path, core.Env = self, []string{"VLLM::EngineCore", "A=b"}
	if err := core.Start(); err != nil {
		panic(err)
	}
	end := func(code int) {
		core.Process.Kill()
		core.Wait()
		os.Exit(code)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() { <-stop; end(0) }()

	fmt.Fprintf(os.Stderr, fakeVLLMStart, args[1])
	switch word {
	case "slow":
		time.Sleep(time.Minute)
	case "late":
		time.Sleep(time.Second)
	case "fails": // after a while, with the words of a file
		time.Sleep(200 * time.Millisecond)
		text, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), "text"))
		os.Stderr.Write(text)
		end(1)
	}
	time.Sleep(time.Second) // long enough to be seen
	fmt.Fprintf(os.Stderr, fakeVLLMReady, addr)
	context, err := strconv.Atoi(flags["--max-model-len"])
	if err != nil {
		context = 32768
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe(addr, fakeVLLMAPI(args[1], names, context)))
	end(1)
}

// fakeVLLMAPI speaks as much of vLLM's API as rlca uses.
func fakeVLLMAPI(root string, names []string, context int) http.Handler {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, v any) { json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { say(w, map[string]string{"version": "0.32.0"}) })
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		list := []any{}
		for _, n := range names {
			list = append(list, map[string]any{"id": n, "object": "model", "owned_by": "vllm", "root": root, "parent": nil, "max_model_len": context})
		}
		say(w, map[string]any{"object": "list", "data": list})
	})
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Model string            `json:"model"`
			Tools []json.RawMessage `json:"tools"`
		}
		json.NewDecoder(r.Body).Decode(&in)
		message := map[string]any{"role": "assistant", "content": "Hello."}
		if len(in.Tools) > 0 {
			message = map[string]any{"role": "assistant", "content": nil, "tool_calls": []any{map[string]any{"id": "1", "type": "function",
				"function": map[string]string{"name": "bash", "arguments": `{"command": "echo hi"}`}}}}
		}
		say(w, map[string]any{"model": in.Model, "choices": []any{map[string]any{"message": message, "finish_reason": "stop"}}})
	})
	return mux
}
