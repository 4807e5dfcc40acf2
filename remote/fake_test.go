package remote

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fakeOllama speaks as much of Ollama's API as rlca uses, and can be ill in every way that is known of the real one.
type fakeOllama struct {
	version  string // "0.30.1" if empty
	context  int    // the server's own context; 4096 if 0
	old      bool   // does not tell the context
	vram     func(context int) (share float64)
	slow     time.Duration // what a load takes
	loadFail string        // the text of a load that fails
	pull     []string      // the lines of a pull; after "success" the model is there

	mu      sync.Mutex // guards what follows
	models  map[string]*fakeModel
	loaded  []string
	loads   int
	asked   []string // method and path of each request
	aborted int      // loads whose caller went away
}

type fakeModel struct {
	numCtx, trained int
	remote          string
}

const fakeSize = 1 << 30

func newFake(names ...string) *fakeOllama {
	f := &fakeOllama{models: map[string]*fakeModel{}}
	for _, n := range names {
		f.models[n] = &fakeModel{trained: 131072}
	}
	return f
}

// start serves it in this process and returns its address.
func (f *fakeOllama) start(t testing.TB) string {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func (f *fakeOllama) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, a := range f.asked {
		if a == what {
			n++
		}
	}
	return n
}

func (f *fakeOllama) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model      string         `json:"model"`
		From       string         `json:"from"`
		KeepAlive  any            `json:"keep_alive"`
		Parameters map[string]int `json:"parameters"`
	}
	json.NewDecoder(r.Body).Decode(&in)
	if in.Model != "" {
		in.Model = canonical(in.Model)
	}
	f.mu.Lock()
	f.asked = append(f.asked, r.Method+" "+r.URL.Path)
	m := f.models[in.Model]
	f.mu.Unlock()
	say := func(v any) { json.NewEncoder(w).Encode(v) }
	fail := func(code int, format string, args ...any) {
		w.WriteHeader(code)
		say(map[string]string{"error": fmt.Sprintf(format, args...)})
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /":
		fmt.Fprint(w, "Ollama is running")
	case "GET /api/version":
		v := f.version
		if v == "" {
			v = "0.30.1"
		}
		say(map[string]string{"version": v})
	case "GET /api/tags":
		f.mu.Lock()
		defer f.mu.Unlock()
		list := []map[string]any{}
		for name, m := range f.models {
			list = append(list, map[string]any{"name": name, "size": fakeSize, "digest": "d-" + name, "remote_host": m.remote,
				"details": map[string]any{"family": "llama", "quantization_level": "Q4_K_M"}})
		}
		say(map[string]any{"models": list})
	case "GET /api/ps":
		f.mu.Lock()
		defer f.mu.Unlock()
		list := []map[string]any{}
		for _, name := range f.loaded {
			row := map[string]any{"name": name, "digest": "d-" + name, "size": fakeSize, "size_vram": fakeSize}
			if m := f.models[name]; m != nil {
				n := f.contextOf(m)
				if !f.old {
					row["context_length"] = n
				}
				if f.vram != nil {
					row["size_vram"] = int64(f.vram(n) * fakeSize)
				}
			}
			list = append(list, row)
		}
		say(map[string]any{"models": list})
	case "POST /api/show":
		if m == nil {
			fail(404, "model '%s' not found", in.Model)
			return
		}
		params := "stop    \"<|im_end|>\""
		if m.numCtx > 0 {
			params += fmt.Sprintf("\nnum_ctx    %d", m.numCtx)
		}
		say(map[string]any{"parameters": params, "model_info": map[string]any{"general.architecture": "llama", "llama.context_length": m.trained}})
	case "POST /api/generate":
		f.generate(w, r, in.Model, m, in.KeepAlive, fail, say)
	case "POST /v1/chat/completions":
		if m == nil {
			fail(404, "model %q not found, try pulling it first", in.Model)
			return
		}
		say(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"content": ""}, "finish_reason": "length"}}})
	case "POST /api/create":
		f.mu.Lock()
		defer f.mu.Unlock()
		base := f.models[canonical(in.From)]
		if base == nil {
			fail(404, "model '%s' not found", in.From)
			return
		}
		f.models[in.Model] = &fakeModel{numCtx: in.Parameters["num_ctx"], trained: base.trained}
		say(map[string]string{"status": "success"})
	case "DELETE /api/delete":
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.models[in.Model] == nil {
			fail(404, "model '%s' not found", in.Model)
			return
		}
		delete(f.models, in.Model)
	case "POST /api/pull":
		for _, line := range f.pull {
			fmt.Fprintln(w, line)
			w.(http.Flusher).Flush()
			if strings.Contains(line, `"success"`) {
				f.mu.Lock()
				f.models[in.Model] = &fakeModel{trained: 131072}
				f.mu.Unlock()
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func (f *fakeOllama) contextOf(m *fakeModel) int {
	n := m.numCtx
	if n == 0 {
		n = f.context
	}
	if n == 0 {
		n = 4096
	}
	return min(n, m.trained)
}

func (f *fakeOllama) generate(w http.ResponseWriter, r *http.Request, name string, m *fakeModel, keep any, fail func(int, string, ...any), say func(any)) {
	if m == nil {
		fail(404, "model '%s' not found", name)
		return
	}
	unload := func() {
		var rest []string
		for _, l := range f.loaded {
			if l != name {
				rest = append(rest, l)
			}
		}
		f.loaded = rest
	}
	if keep == float64(0) {
		f.mu.Lock()
		defer f.mu.Unlock()
		unload()
		say(map[string]any{"done": true, "done_reason": "unload"})
		return
	}
	if f.slow > 0 {
		select {
		case <-time.After(f.slow):
		case <-r.Context().Done():
			f.mu.Lock()
			f.aborted++
			f.mu.Unlock()
			return
		}
	}
	if f.loadFail != "" {
		fail(500, "%s", f.loadFail)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads++
	unload()
	f.loaded = append([]string{name}, f.loaded...)
	say(map[string]any{"done": true, "done_reason": "load"})
}

// illness is how a fake program is to be ill, by the file "fake" in its home.
func illness() (word, arg string) {
	text, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), "fake"))
	word, arg, _ = strings.Cut(strings.TrimSpace(string(text)), " ")
	return word, arg
}

// fakeProgram is the test binary under the name ollama: `ollama serve` with the environment that rlca gives it.
func fakeProgram(args []string) {
	if len(args) == 0 || args[0] != "serve" {
		os.Exit(1)
	}
	addr := os.Getenv("OLLAMA_HOST")
	word, arg := illness()
	switch word {
	case "dies":
		fmt.Fprintln(os.Stderr, "Error: \x1b[31mno compatible\x1b[0m GPUs, and \x07no hope")
		os.Exit(1)
	case "taken":
		if strings.HasSuffix(addr, ":"+arg) {
			fmt.Fprintf(os.Stderr, "Error: listen tcp %s: bind: address already in use\n", addr)
			os.Exit(1)
		}
	case "mute":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	f := newFake()
	files, _ := os.ReadDir(os.Getenv("OLLAMA_MODELS"))
	for _, m := range files {
		f.models[m.Name()] = &fakeModel{trained: 131072}
	}
	switch word {
	case "slow":
		f.slow = time.Minute
	case "pulls":
		f.pull = []string{arg}
	}
	fmt.Sscan(os.Getenv("OLLAMA_CONTEXT_LENGTH"), &f.context)
	fmt.Println("Listening on", addr)
	fmt.Println("Error:", http.ListenAndServe(addr, f))
	os.Exit(1)
}

// fakeLlamaServer is the test binary under the name llama-server: as much of b11549 as rlca uses.
func fakeLlamaServer(args []string) {
	word, arg := illness()
	old := word == "old" // of before there was a choice of levels
	switch {
	case len(args) == 1 && args[0] == "--version":
		if word == "cpu" {
			die("ILL")
		}
		if old {
			fmt.Fprintln(os.Stderr, "version: 4500 (abcdef0)")
			return
		}
		fmt.Fprintln(os.Stderr, "version: 0.6.0-dev (build 11549, commit unknown)\nbuilt with GNU 12.2.0 for Linux x86_64")
		return
	case len(args) == 1 && args[0] == "--help":
		if old {
			fmt.Println("--no-webui   Disable the Web UI\n--jinja   use jinja template for chat (default: disabled)\n-lv N")
			return
		}
		fmt.Println("- 4: trace (more info)\n-cram, --cache-ram N\n-kvu,  --kv-unified, -no-kvu, --no-kv-unified\n--cors-origins ORIGINS\n--offline   Offline mode\n" +
			"--ui,  --webui, --no-ui, --no-webui\n--jinja, --no-jinja\n--sleep-idle-seconds SECONDS")
		return
	}
	got := map[string]string{}
	for i := 0; i < len(args); i++ {
		known := "-c -np -m --alias --host --port"
		switch a := args[i]; {
		case strings.Contains("--jinja --no-webui", a), !old && strings.Contains("--no-kv-unified --no-ui --offline", a):
		case (strings.Contains(known, a) || !old && strings.Contains("-lv --cors-origins --cache-ram --sleep-idle-seconds -ctk", a)) && i+1 < len(args):
			got[a] = args[i+1]
			i++
		default:
			fmt.Printf("error: invalid argument: %s\n", a)
			os.Exit(1)
		}
	}
	switch word {
	case "dies":
		fmt.Fprintln(os.Stderr, "Error: \x1b[31mno compatible\x1b[0m GPUs, and \x07no hope")
		os.Exit(1)
	case "taken":
		if got["--port"] == arg {
			fmt.Printf("0.00.1 E srv          init: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: %s\n0.00.1 E srv  llama_server: exiting due to HTTP server error\n", arg)
			os.Exit(1)
		}
	case "mute":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	load := time.Duration(0)
	if word == "slow" {
		load = time.Minute
	}
	f := newFakeLlama(got)
	fmt.Printf("0.00.1 I srv    load_model: loading model '%s'\n0.00.2 I load_tensors: loading model tensors, this can take a while...\n", got["-m"])
	if word == "says" {
		fmt.Println(strings.ReplaceAll(arg, "|", "\n"))
		os.Exit(1)
	}
	fmt.Print("0.00.3 I load_tensors:   CPU_Mapped model buffer size =   100.00 MiB\n0.00.3 I load_tensors:        CUDA0 model buffer size =   300.00 MiB\n" +
		"0.00.4 I llama_kv_cache:      CUDA0 KV buffer size =    50.00 MiB\n0.00.5 I sched_reserve:      CUDA0 compute buffer size =    25.00 MiB\n" +
		"0.00.6 I cmn  common_init_: warming up the model with an empty run - please wait ... (--no-warmup to disable)\n")
	if word == "crashes" {
		die("SEGV")
	}
	time.AfterFunc(load, func() {
		fmt.Printf("0.00.9 I srv  llama_server: listening on http://%s:%s\n", got["--host"], got["--port"])
		f.ready.Store(true)
	})
	fmt.Println("Error:", http.ListenAndServe(got["--host"]+":"+got["--port"], f))
	os.Exit(1)
}

// die ends this process as a signal does, without a word: a shell takes its place, because Go would say something.
func die(signal string) {
	err := syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -" + signal + " $$"}, os.Environ())
	fmt.Println("Error:", err)
	os.Exit(1)
}

// fakeLlama speaks as much of llama-server's API as rlca uses.
type fakeLlama struct {
	ready          atomic.Bool
	model, alias   string
	context, slots int // of one slot
	build          string
}

// newFakeLlama is one that was started with these arguments.
func newFakeLlama(args map[string]string) *fakeLlama {
	f := &fakeLlama{model: args["-m"], alias: args["--alias"], slots: 4, build: "b11549-unknown"}
	fmt.Sscan(args["-np"], &f.slots)
	f.context = 131072
	if fmt.Sscan(args["-c"], &f.context); args["-np"] != "" {
		f.context /= f.slots
	}
	return f
}

func (f *fakeLlama) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "llama.cpp")
	say := func(v any) { json.NewEncoder(w).Encode(v) }
	fail := func(code int, kind, text string) {
		w.WriteHeader(code)
		say(map[string]any{"error": map[string]any{"message": text, "type": kind, "code": code}})
	}
	if !f.ready.Load() {
		fail(503, "unavailable_error", "Loading model")
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /health":
		say(map[string]string{"status": "ok"})
	case "GET /props":
		say(map[string]any{"default_generation_settings": map[string]any{"n_ctx": f.context}, "total_slots": f.slots, "model_alias": f.alias, "model_path": f.model, "build_info": f.build})
	case "GET /v1/models":
		say(map[string]any{"object": "list", "data": []any{map[string]any{"id": f.alias, "owned_by": "llamacpp", "meta": map[string]any{"n_ctx": f.context, "n_ctx_train": 131072, "size": fakeSize}}}})
	case "POST /v1/chat/completions":
		say(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"content": "yes"}, "finish_reason": "length"}}})
	default:
		fail(404, "not_found_error", "File Not Found")
	}
}
