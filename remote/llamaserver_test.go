package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

func llamaEngine(t testing.TB, acc *remotetest.Account, port int, address string) Engine {
	e := testLlama(t, acc, port)
	e.address = address
	return e
}

// testLlama drives the llama-server of an account whose own port is port.
func testLlama(t testing.TB, acc *remotetest.Account, port int) *LlamaServer {
	e := NewLlamaServer(Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}, "")
	e.places, e.port, e.also, e.poll = nil, port, nil, 100*time.Millisecond
	return e
}

// fakeBox is an account with the fake program, and the engine on it. Whatever was started is ended with the test.
func fakeBox(t *testing.T) (*remotetest.Account, *LlamaServer) {
	bin := t.TempDir()
	installSelf("llama-server")(t, bin)
	acc := remotetest.NewAccount(t, bin)
	e := testLlama(t, acc, remotetest.FreePort(t))
	t.Cleanup(func() {
		if _, err := e.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
		nothingLeft(t, acc)
	})
	return acc, e
}

// smolInHub links the real small model into the account's cache of the Hugging Face hub.
func smolInHub(t *testing.T, acc *remotetest.Account) string {
	t.Helper()
	repo := filepath.Join(acc.Home, ".cache/huggingface/hub/models--HuggingFaceTB--SmolLM2-135M-GGUF")
	write(t, filepath.Join(repo, "refs/main"), "abc")
	at := filepath.Join(repo, "snapshots/abc")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(peer.Need(t, peer.Model), filepath.Join(at, "smollm2-q4_1.gguf")); err != nil && !os.IsExist(err) {
		t.Skip(err)
	}
	return "HuggingFaceTB/SmolLM2-135M-GGUF"
}

// scriptedFile writes the scripted model to a path below the account's home.
func scriptedFile(t *testing.T, acc *remotetest.Account, below string) string {
	t.Helper()
	file := filepath.Join(acc.Home, below)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := remotetest.WriteScripted(file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLlamaAliasAndVersion(t *testing.T) {
	for in, want := range map[string]string{
		"qwen3:8b": "qwen3:8b", "org/name:Q4_K_M": "org/name:Q4_K_M", "/models/My Model.gguf": "My Model", "~/m/big-Q8_0-00001-of-00003.gguf": "big-Q8_0",
		"/models/a,b.gguf": "a-b", "~/models/folder": "folder",
	} {
		if got := aliasOf(in); got != want {
			t.Errorf("aliasOf(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"b11549-unknown": "b11549", "b11434-7e4c0a9": "b11434", "b1-7e4c0a9": "7e4c0a9", "b0-unknown": "", "": "", "b6014": "b6014"} {
		if got := llamaVersion(in); got != want {
			t.Errorf("llamaVersion(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"version: 0.6.0-dev (build 11549, commit unknown)": "b11549", "version: 0.1.0-dev (build 1, commit 7e4c0a9)": "7e4c0a9",
		"version: 6014 (abcdef0)": "b6014", "version: nightly": "", "": "",
	} {
		if got := llamaBuild(in); got != want {
			t.Errorf("llamaBuild(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]int{"": 0, "-1": 0, "-5m": 0, "300": 300, "10m": 600, "0": 0, "soon": 0} {
		if got := seconds(in); got != want {
			t.Errorf("seconds(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestLlamaArgs(t *testing.T) {
	new := ability{flags: llamaFlags, trace: true}
	for name, c := range map[string]struct {
		plan Plan
		able ability
		want string
	}{
		"one that knows nothing new": {Plan{Model: "m"}, ability{}, "-m /f --alias m --host 127.0.0.1 --port 8081"},
		"an old one": {Plan{Model: "m", Context: 8192, Parallel: 2, Unified: true}, ability{flags: []string{"--no-webui", "--jinja"}},
			"-c 16384 -np 2 -m /f --alias m --host 127.0.0.1 --port 8081 --no-webui --jinja"},
		"a new one": {Plan{Model: "m", Context: 8192, Parallel: 1}, new,
			"-c 8192 -np 1 -m /f --alias m --host 127.0.0.1 --port 8081 -lv 4 --no-ui --jinja --offline --cors-origins localhost"},
		"all that it can": {Plan{Model: "m", Context: 4096, Parallel: 3, Unified: true, KeepAlive: "10m"}, new,
			"-c 12288 -np 3 --no-kv-unified -m /f --alias m --host 127.0.0.1 --port 8081 -lv 4 --no-ui --jinja --offline --cors-origins localhost --cache-ram 0 --sleep-idle-seconds 600"},
		"a context, and as many at once as it likes": {Plan{Model: "m", Context: 4096, KeepAlive: "-1"}, ability{}, "-c 4096 -m /f --alias m --host 127.0.0.1 --port 8081"},
	} {
		if got := strings.Join(llamaArgs(c.plan, c.able, "/f", "127.0.0.1:8081"), " "); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
	env, args, err := llamaExtra(Plan{Args: []string{"-t", "1", "LLAMA_ARG_THREADS=2", "--cache-type-k", "q8_0"}, Env: []string{"A=b"}})
	if err != nil || !slices.Equal(env, []string{"A=b", "LLAMA_ARG_THREADS=2"}) || !slices.Equal(args, []string{"-t", "1", "--cache-type-k", "q8_0"}) {
		t.Errorf("llamaExtra = %q, %q, %v", env, args, err)
	}
	for _, bad := range []string{"--host", "--api-key", "--api_key", "-m", "-c", "--parallel", "LLAMA_ARG_HOST=0.0.0.0", "LLAMA_API_KEY=x", "RLCA_OWNER=me"} {
		if _, _, err := llamaExtra(Plan{Args: []string{bad}}); err == nil || !strings.Contains(err.Error(), "rlca sets ") {
			t.Errorf("llamaExtra(%s) = %v", bad, err)
		}
	}
	if _, _, err := llamaExtra(Plan{Env: []string{"no assignment"}}); err == nil {
		t.Error("a word that is no assignment went into the environment")
	}
}

// What a start that fails wrote, as real ones do.
func TestLlamaFailures(t *testing.T) {
	for name, c := range map[string]struct {
		log, class, want string
	}{
		"KV cache": {"0.1 E ggml_aligned_malloc: insufficient memory (attempted to allocate 5760.00 MB)|0.1 E llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache|0.1 E srv    load_model: failed to load model, '/m.gguf'|0.1 E srv  llama_server: exiting due to model loading error",
			"memory", "start llama-server on 127.0.0.1:8080 of the box: memory ran out: load m: ggml_aligned_malloc: insufficient memory (attempted to allocate 5760.00 MB)"},
		"CUDA":   {"0.1 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating 40000.00 MiB on device 0: cudaMalloc failed: out of memory", "memory", "cudaMalloc failed"},
		"Vulkan": {"0.1 E ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "memory", "ErrorOutOfDeviceMemory"},
		"a warning before the cause": {"0.1 W ggml_cuda_host_malloc: failed to allocate 10.00 MiB of pinned memory: out of memory|0.1 W common_fit_params: failed to fit params to free device memory: n_gpu_layers already set by user|0.1 E llama_model_load: error loading model: check_tensor_dims: tensor 'x' has wrong shape",
			"model", "has wrong shape"},
		"an architecture": {"0.1 E llama_model_load: error loading model: unknown model architecture: 'newest'|0.1 E srv    load_model: failed to load model, '/m.gguf'", "version", "this llama-server does not know models of the kind newest"},
		"no GGUF":         {"0.1 E gguf_init_from_file_ptr: invalid magic characters: '????', expected 'GGUF'", "model", "broken"},
		"half a file":     {"0.1 E llama_model_load: error loading model: tensor 'blk.3.ffn_up.weight' data is not within the file bounds, model is corrupted or incomplete", "model", "not all of it is there"},
		"an argument":     {"error: invalid argument: --no-mmap", "arguments", "does not know the argument --no-mmap"},
		"a library":       {"/opt/llama-server: error while loading shared libraries: libcudart.so.13: cannot open shared object file", "install", "the library libcudart.so.13 lacks"},
		"the kernel":      {"0.1 I load|kernel: [1.0] Out of memory: Killed process 77 (llama-server) total-vm:1kB", "memory", "its kernel ended llama-server"},
		"another CPU":     {"0.1 I load|kernel: [1.0] traps: llama-server[77] trap invalid opcode ip:55 sp:7f error:0 in llama-server", "build", "built for another CPU"},
		"a crash":         {"0.1 I load|kernel: [1.0] llama-server[77]: segfault at 0 ip 55 sp 7f error 4", "build", "it crashed"},
		"no word":         {"0.1 I cmn  common_init_: warming up the model with an empty run - please wait ... (--no-warmup to disable)", "build", "it ended without a word"},
		"other words":     {"0.1 E srv  llama_server: exiting due to HTTP server error", "other", "it ended at once"},
	} {
		err := llamaEnded("m", &StartError{Engine: "llama-server", Address: "127.0.0.1:8080", Reason: errDied.Error(), Log: strings.Split(c.log, "|")})
		var start *StartError
		var load *LoadError
		if !errors.As(err, &start) || start.Class != c.class || !strings.Contains(err.Error(), c.want) || start.Remedy == "" && c.class != "other" && name != "a warning before the cause" {
			t.Errorf("%s: %v, class %q, remedy %q", name, err, start.Class, start.Remedy)
		}
		if errors.As(err, &load) != slices.Contains([]string{"memory", "model", "version"}, c.class) || load != nil && (load.Model != "m" || load.OutOfMemory != (c.class == "memory")) {
			t.Errorf("%s: as a load %+v", name, load)
		}
	}
}

func TestLlamaFingerprint(t *testing.T) {
	acc := remotetest.NewAccount(t)
	for name, c := range map[string]struct {
		bodies map[string]string
		who    finding
		said   string
	}{
		"itself":                          {map[string]string{"/v1/models": llamaModels, "/props": llamaProps}, itself, ""},
		"loading":                         {map[string]string{"/props": `503 {"error":{"message":"Loading model","type":"unavailable_error","code":503}}`}, loading, "Loading model"},
		"overloaded":                      {map[string]string{"/props": `503 no server is available`}, foreign, "no server is available"},
		"vLLM":                            {map[string]string{"/v1/models": vllmModels, "/version": `{"version":"0.32.0"}`, "/health": ""}, foreign, "File Not Found"},
		"Ollama":                          {map[string]string{"/": "Ollama is running", "/api/version": `{"version":"0.30.1"}`, "/v1/models": `{"data":[{"id":"m","owned_by":"library"}]}`}, foreign, "Ollama is running"},
		"wants a key":                     {map[string]string{"/v1/models": llamaModels, "/props": `401 {"error":{"message":"Invalid API Key"}}`}, foreign, "Invalid API Key"},
		"props of something else":         {map[string]string{"/props": `{"theme":"dark"}`, "/v1/models": llamaModels}, foreign, `{"theme":"dark"}`},
		"its props with another's models": {map[string]string{"/props": llamaProps, "/v1/models": vllmModels}, foreign, ""},
	} {
		id := testLlama(t, acc, 1).fingerprint(t.Context(), serving(t, c.bodies))
		if id.who != c.who || !strings.HasPrefix(id.said, c.said) {
			t.Errorf("%s: %+v", name, id)
		}
	}
	ollama := newFake("m").start(t)
	if id := testLlama(t, acc, 1).fingerprint(t.Context(), ollama); id.who != foreign || id.said != "Ollama is running" {
		t.Errorf("Ollama: %+v", id)
	}
	var taken *ForeignError
	if _, err := llamaEngine(t, acc, 1, ollama).Find(t.Context()); !errors.As(err, &taken) || taken.Said != "Ollama is running" {
		t.Errorf("Find on Ollama's address = %v", err)
	}
	f := newFakeLlama(map[string]string{"-m": "/m", "--alias": "m"})
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	addr := strings.TrimPrefix(s.URL, "http://")
	var busy *LoadingError
	if _, err := llamaEngine(t, acc, 1, addr).Find(t.Context()); !errors.As(err, &busy) || busy.Address != addr {
		t.Errorf("Find while it loads = %v", err)
	}
	// One that has no time for its /props, and one that has nothing to say of itself.
	for server, want := range map[string]finding{"llama.cpp": itself, "nginx": foreign} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Server", server)
		}))
		if id := testLlama(t, acc, 1).fingerprint(t.Context(), strings.TrimPrefix(s.URL, "http://")); id.who != want {
			t.Errorf("%s, mute but for its health: %+v", server, id)
		}
		s.Close()
	}
	// And the other way round.
	f.ready.Store(true)
	if id := testOllama(t, acc, 1).fingerprint(t.Context(), addr); id.who != foreign {
		t.Errorf("a llama-server, asked for an Ollama: %+v", id)
	}
}

// adoptedLlama is a llama-server of somebody else on the engine's own port.
func adoptedLlama(t *testing.T, model, alias string) (*remotetest.Account, *LlamaServer, *fakeLlama) {
	f := newFakeLlama(map[string]string{"-m": model, "--alias": alias, "-c": "8192", "-np": "2"})
	f.ready.Store(true)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	acc := remotetest.NewAccount(t)
	return acc, testLlama(t, acc, int(portOf(strings.TrimPrefix(s.URL, "http://")))), f
}

func TestLlamaAdoption(t *testing.T) {
	t.Parallel()
	acc, e, f := adoptedLlama(t, "", "coder")
	f.model = scriptedFile(t, acc, "models/coder-Q4_K_M.gguf")
	link := filepath.Join(acc.Home, "link.gguf")
	if err := os.Symlink(f.model, link); err != nil {
		t.Skip(err)
	}
	for _, model := range []string{"coder", "Coder", f.model, "~/models/coder-Q4_K_M.gguf", link} {
		s, err := e.Ensure(t.Context(), Plan{Model: model, Context: 65536}, nil)
		if err != nil || !s.Adopted || s.Fresh || s.Model.Name != "coder" || s.Model.Base != "coder" || s.Model.Context != 4096 || s.Version != "b11549" {
			t.Errorf("Ensure(%s) = %+v, %v", model, s, err)
		}
	}
	other := scriptedFile(t, acc, "models/other.gguf")
	for _, model := range []string{other, "no-such-model", "org/repo:Q4_K_M"} {
		var serves *ServesOtherError
		if _, err := e.Ensure(t.Context(), Plan{Model: model}, nil); !errors.As(err, &serves) || serves.Serves != "coder" || serves.Want != model {
			t.Errorf("Ensure(%s) = %v", model, err)
		}
	}
	// A file of which only the name is known.
	f.model, f.alias = "other.gguf", "x"
	if s, err := e.Ensure(t.Context(), Plan{Model: other}, nil); err != nil || !s.Adopted {
		t.Errorf("Ensure of a relative path = %+v, %v", s, err)
	}
	if did, err := e.Stop(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	nothingLeft(t, acc)
}

func TestLlamaWaitsForOneThatLoads(t *testing.T) {
	acc, e, f := adoptedLlama(t, "/m.gguf", "m")
	f.ready.Store(false)
	var said []string
	s, err := e.Ensure(t.Context(), Plan{Model: "m"}, func(p Progress) {
		said = append(said, p.Text)
		time.AfterFunc(100*time.Millisecond, func() { f.ready.Store(true) })
	})
	if err != nil || !s.Adopted || len(said) == 0 || !strings.Contains(said[0], "waiting for the llama-server") {
		t.Errorf("Ensure = %+v, %v, said %q", s, err, said)
	}
	nothingLeft(t, acc)
}

func TestLlamaFindsFiles(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	e := testLlama(t, acc, remotetest.FreePort(t))
	hubbed := func(repo, file string) string {
		dir := filepath.Join(acc.Home, ".cache/huggingface/hub/models--"+strings.ReplaceAll(repo, "/", "--"))
		write(t, filepath.Join(dir, "refs/main"), "abc")
		rel, _ := filepath.Rel(acc.Home, filepath.Join(dir, "snapshots/abc", file))
		return scriptedFile(t, acc, rel)
	}
	one := hubbed("org/one", "one-Q8_0.gguf")
	q4, q8 := hubbed("org/two", "two-Q4_K_M.gguf"), hubbed("org/two", "two-Q8_0.gguf")
	hubbed("org/two", "mmproj-two-f16.gguf")
	mine := scriptedFile(t, acc, "models/deep/mine-IQ4_XS.gguf")
	part := scriptedFile(t, acc, "models/big-Q4_0-00001-of-00002.gguf")
	scriptedFile(t, acc, "models/big-Q4_0-00002-of-00002.gguf")
	half := scriptedFile(t, acc, "elsewhere/half-00001-of-00002.gguf")
	write(t, filepath.Join(acc.Home, "models/text.gguf.txt"), "no")
	write(t, filepath.Join(acc.Home, "elsewhere/no.gguf"), "this is no model")
	write(t, filepath.Join(acc.Home, "tensors/config.json"), "{}")
	write(t, filepath.Join(acc.Home, "tensors/model.safetensors"), "x")
	scriptedBlob(t, acc, nil)
	whole, err := os.Stat(one)
	if err != nil {
		t.Fatal(err)
	}
	files, err := e.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, fmt.Sprintf("%s %d %s", strings.TrimPrefix(f.Name, acc.Home), f.Bytes/whole.Size(), f.Quant))
	}
	if want := []string{"/models/big-Q4_0-00001-of-00002.gguf 2 Q4_0", "/models/deep/mine-IQ4_XS.gguf 1 IQ4_XS", "org/one 1 Q8_0", "org/two:Q4_K_M 1 Q4_K_M", "org/two:Q8_0 1 Q8_0", "scripted:latest 1 "}; !slices.Equal(got, want) {
		t.Errorf("Inventory\n got %q\nwant %q", got, want)
	}
	for name, want := range map[string]string{
		"org/one": one, "org/two": q4, "org/two:Q8_0": q8, "hf.co/org/two:Q8_0": q8, "~/models/deep/mine-IQ4_XS.gguf": mine, part: part,
		"scripted": files[len(files)-1].Path, "Scripted:latest": files[len(files)-1].Path, "~/models/deep": mine,
	} {
		if m, err := e.file(t.Context(), name); err != nil || m.Path != want {
			t.Errorf("file(%s) = %+v, %v, want %s", name, m, err, want)
		}
	}
	for name, want := range map[string]string{
		half: "1 of its 2 files are not on the box", "~/elsewhere/no.gguf": "no GGUF file", "~/tensors": "loads GGUF files only",
	} {
		if _, err := e.file(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("file(%s) = %v, want %q", name, err, want)
		}
	}
	for _, name := range []string{"scriptd", "org/three", "~/models/none.gguf", "org/two:Q2_K"} {
		var missing *ModelMissingError
		if _, err := e.file(t.Context(), name); !errors.As(err, &missing) || missing.Model != name {
			t.Errorf("file(%s) = %v", name, err)
		} else if name == "scriptd" && (len(missing.Near) == 0 || missing.Near[0] != "scripted:latest") {
			t.Errorf("near %s are %q", name, missing.Near)
		}
	}
}

// Another model, another context, or more at once: ours is started anew. Nothing else makes it so.
func TestLlamaStartsOursAnew(t *testing.T) {
	t.Parallel()
	acc, e := fakeBox(t)
	first, second := scriptedFile(t, acc, "models/first.gguf"), scriptedFile(t, acc, "models/second.gguf")
	var pid int
	for _, c := range []struct {
		plan Plan
		anew bool
		note string
	}{
		{Plan{Model: first, Context: 8192}, true, ""},
		{Plan{Model: first, Context: 8192}, false, ""},
		{Plan{Model: first}, false, ""},
		{Plan{Model: "~/models/first.gguf"}, false, ""},
		{Plan{Model: second, Context: 8192}, true, "serves first"},
		{Plan{Model: second, Context: 16384}, true, "another context"},
		{Plan{Model: second, Context: 16384, Parallel: 4}, true, "to 1 at once"},
		{Plan{Model: second, Context: 16384, Parallel: 4}, false, ""},
		{Plan{Model: second, Context: 16384}, false, ""},
		{Plan{Model: second, Context: 300000}, true, "another context"}, // more than the model has: it gives less, and stays
		{Plan{Model: second, Context: 300000}, false, ""},
	} {
		var said []string
		s, err := e.Ensure(t.Context(), c.plan, func(p Progress) { said = append(said, p.Text) })
		if err != nil {
			t.Fatalf("Ensure(%+v) = %v", c.plan, err)
		}
		if s.Fresh != c.anew || s.Adopted || (s.PID != pid) != c.anew || !strings.Contains(strings.Join(said, "\n"), c.note) {
			t.Errorf("Ensure(%+v) = %+v, said %q", c.plan, s, said)
		}
		if c.plan.Context > 0 && c.plan.Context < 300000 && s.Model.Context != c.plan.Context {
			t.Errorf("Ensure(%+v) gave %d tokens", c.plan, s.Model.Context)
		}
		pid = s.PID
	}
	// A model that is not there costs nobody anything.
	var missing *ModelMissingError
	if _, err := e.Ensure(t.Context(), Plan{Model: "none"}, nil); !errors.As(err, &missing) {
		t.Errorf("Ensure = %v", err)
	}
	if s, err := e.Find(t.Context()); err != nil || s.PID != pid || s.Model.SizeBytes != 475<<20 || s.Model.VRAMBytes != 375<<20 {
		t.Errorf("Find = %+v, %v", s, err)
	}
}

func TestLlamaStartTrouble(t *testing.T) {
	t.Parallel()
	acc, e := fakeBox(t)
	model := scriptedFile(t, acc, "models/m.gguf")
	for _, c := range []struct {
		ill   string
		plan  Plan
		class string // empty if nothing was tried
		want  string
	}{
		{"cpu", Plan{}, "build", "built for another CPU"},
		{"crashes", Plan{}, "build", "it ended without a word"},
		{"says 0.1 E llama_model_load: error loading model: unknown model architecture: 'newest'", Plan{}, "version", "does not know models of the kind newest"},
		{"says 0.1 E ggml_aligned_malloc: insufficient memory (attempted to allocate 5760.00 MB)|0.1 E x: failed to allocate buffer for kv cache", Plan{}, "memory", "insufficient memory"},
		{"", Plan{Args: []string{"--no-mmap"}}, "arguments", "does not know the argument --no-mmap"},
		{"", Plan{Args: []string{"--host", "0.0.0.0"}}, "", "rlca sets --host itself"},
	} {
		fall(t, acc, c.ill)
		c.plan.Model = model
		_, err := e.Ensure(t.Context(), c.plan, nil)
		var start *StartError
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &start) != (c.class != "") || start != nil && start.Class != c.class {
			t.Errorf("ill with %q: %v", c.ill, err)
		}
		nothingLeft(t, acc)
	}
	fall(t, acc, "old")
	s, err := e.Ensure(t.Context(), Plan{Model: model, Context: 4096, Parallel: 2, Unified: true}, nil)
	if err != nil || s.Model.Context != 4096 {
		t.Errorf("Ensure with an old program = %+v, %v", s, err)
	}
	if _, err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	var idle *NotRunningError
	if _, err := e.Find(t.Context()); !errors.As(err, &idle) || idle.Version != "b4500" {
		t.Errorf("Find = %v", err)
	}
	// It stands still.
	fall(t, acc, "slow")
	if _, err := e.startOn(t.Context(), &journal{}, "127.0.0.1:"+fmt.Sprint(e.port), job{
		argv:    []string{"/bin/sh", "-c", "exec sleep 60"},
		loading: func([]string) Progress { return Progress{Step: StepLoad, Text: "x"} }, stall: 300 * time.Millisecond,
	}, func(Progress) {}); err == nil || !strings.Contains(err.Error(), "it stands still") {
		t.Errorf("startOn = %v", err)
	}
}

// The real one: a file for Ollama and for it, a foreign one that is adopted and never touched, one that others reach.
func TestRealLlamaServer(t *testing.T) {
	t.Parallel()
	alone(t)
	bin := t.TempDir()
	installPeer("llama-server")(t, bin)
	smol := peer.Need(t, peer.Model)
	acc := remotetest.NewAccount(t, bin)
	acc.Env = []string{"LLAMA_ARG_THREADS=1"}
	box := func(t *testing.T, port int) *LlamaServer {
		e := testLlama(t, acc, port)
		t.Cleanup(func() {
			if _, err := e.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("stop at the end: %v", err)
			}
			nothingLeft(t, acc)
		})
		return e
	}
	t.Run("two at once, then another context", func(t *testing.T) {
		e := box(t, remotetest.FreePort(t))
		plan := Plan{Model: smol, Context: 1024, Parallel: 2, Unified: true, Args: []string{"-ctk", "q8_0"}}
		s, err := e.Ensure(t.Context(), plan, nil)
		if err != nil || s.Model.Context != 1024 || s.Model.Name != "smollm2" || s.Model.SizeBytes < 100<<20 || s.Model.VRAMBytes != 0 {
			t.Fatalf("Ensure = %+v, %v", s, err)
		}
		chat(t, "http://"+s.Address, s.Model.Name)
		d, err := describe(t, s.Address)
		if err != nil || d.Slots != 2 || d.Context != 1024 {
			t.Errorf("it serves %+v, %v", d, err)
		}
		if log, err := e.Log(t.Context()); err != nil || !strings.Contains(log, "prompt cache is disabled") || strings.Contains(log, "Say yes") {
			t.Errorf("Log = %s, %v", log, err)
		}
		plan.Context = 1500 // no multiple of what it allocates by
		again, err := e.Ensure(t.Context(), plan, nil)
		if err != nil || !again.Fresh || again.PID == s.PID || again.Model.Context < 1500 || again.Model.Context > 1500+256 {
			t.Errorf("Ensure with another context = %+v, %v", again, err)
		}
		third, err := e.Ensure(t.Context(), plan, nil)
		if err != nil || third.PID != again.PID {
			t.Fatalf("Ensure again = %+v, %v", third, err)
		}
		p, err := os.FindProcess(third.PID)
		if err != nil {
			t.Fatal(err)
		}
		p.Kill()
		for range 50 { // until its port is closed
			if conn, err := acc.Dial(t.Context(), "tcp", third.Address); err != nil {
				break
			} else {
				conn.Close()
			}
			time.Sleep(20 * time.Millisecond)
		}
		if after, err := e.Ensure(t.Context(), plan, nil); err != nil || !after.Fresh || after.PID == third.PID {
			t.Errorf("Ensure after a kill = %+v, %v", after, err)
		}
	})
	t.Run("what it does not know, and half a file", func(t *testing.T) {
		e := box(t, remotetest.FreePort(t))
		var start *StartError
		if _, err := e.Ensure(t.Context(), Plan{Model: smol, Args: []string{"--no-such-thing"}}, nil); !errors.As(err, &start) || start.Class != "arguments" || !strings.Contains(start.Reason, "--no-such-thing") {
			t.Errorf("Ensure with a wrong argument = %v", err)
		}
		head, err := os.ReadFile(smol)
		if err != nil {
			t.Fatal(err)
		}
		half := filepath.Join(acc.Home, "half.gguf")
		write(t, half, string(head[:40<<20]))
		var load *LoadError
		if _, err := e.Ensure(t.Context(), Plan{Model: half}, nil); !errors.As(err, &load) || load.OutOfMemory || !strings.Contains(err.Error(), "not all of it is there") {
			t.Errorf("Ensure of half a file = %v", err)
		}
		// With less memory than it asks for: a limit on its own addresses, so that nothing else on this machine feels it.
		small := t.TempDir()
		writeProgram(t, filepath.Join(small, "llama-server"), "#!/bin/sh\nulimit -v 3000000\nexec "+quote(peer.Need(t, "llama-server"))+` "$@"`+"\n")
		path := acc.Path
		acc.Path = small + ":" + path
		defer func() { acc.Path = path }()
		if _, err := e.Ensure(t.Context(), Plan{Model: smol, Context: 8192, Parallel: 64}, nil); !errors.As(err, &load) || !load.OutOfMemory {
			t.Errorf("Ensure of more than there is = %v", err)
		}
	})
	t.Run("adopted", func(t *testing.T) {
		foreign := remotetest.StartLlamaServer(t, smol, "-c", "512", "--alias", "mine")
		e := box(t, int(portOf(foreign.Address)))
		s, err := e.Ensure(t.Context(), Plan{Model: smol, Context: 4096}, nil)
		if err != nil || !s.Adopted || s.Fresh || s.Model.Name != "mine" || s.Model.Context != 512 || s.PID != foreign.PID {
			t.Fatalf("Ensure = %+v, %v", s, err)
		}
		chat(t, foreign.URL, s.Model.Name)
		var serves *ServesOtherError
		if _, err := e.Ensure(t.Context(), Plan{Model: "other"}, nil); !errors.As(err, &serves) || serves.Serves != "mine" {
			t.Errorf("Ensure of another = %v", err)
		}
		if undone := e.Undo(t.Context(), s); len(undone) > 0 {
			t.Errorf("Undo = %v", undone)
		}
		if did, err := e.Stop(t.Context()); err != nil || len(did) > 0 {
			t.Errorf("Stop = %v, %v", did, err)
		}
		chat(t, foreign.URL, "mine")
	})
	t.Run("exposed", func(t *testing.T) {
		foreign := remotetest.StartLlamaServer(t, smol, "-c", "256", "--host", "0.0.0.0")
		s, err := box(t, int(portOf(foreign.Address))).Find(t.Context())
		foreign.Stop()
		if err != nil || !s.Adopted {
			t.Fatalf("Find = %+v, %v", s, err)
		}
		if s.LoopbackBound != nil && (*s.LoopbackBound || len(s.Exposed) != 1 || !strings.HasPrefix(s.Exposed[0], "0.0.0.0:")) {
			t.Errorf("Find = %+v", s)
		}
	})
}

// The scripts do on any box: other shells, no /proc, no timeout.
func TestLlamaScriptsAnywhere(t *testing.T) {
	t.Parallel()
	for _, w := range []struct {
		name, shell, lacks string
		bare               bool // no /proc
	}{
		{"bash", "/bin/bash", "", false}, {"zsh", "/usr/bin/zsh", "", false}, {"ksh", "/bin/ksh", "", false}, {"busybox", "busybox", "", false},
		{"no timeout", "", "timeout", false}, {"no timeout, no perl", "", "timeout perl", false}, {"no /proc", "", "timeout setsid netstat", true},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			acc, e := fakeBox(t)
			bin, _, _ := strings.Cut(acc.Path, ":")
			hubShellOf(t, acc, w.shell)
			if acc.Path = bin + ":" + acc.Path; w.lacks != "" {
				acc.Path = without(t, acc.Path, strings.Fields(w.lacks)...)
			}
			if w.bare {
				e.box.Run = func(ctx context.Context, script string) ([]byte, error) {
					return acc.Run(ctx, strings.ReplaceAll(script, "/proc/", "/no-proc/"))
				}
			}
			var idle *NotRunningError
			if _, err := e.Find(t.Context()); !errors.As(err, &idle) || idle.Version != "b11549" {
				t.Errorf("Find = %v", err)
			}
			model := scriptedFile(t, acc, "models/a b/scripted-F32.gguf")
			if files, err := e.Inventory(t.Context()); err != nil || len(files) != 1 || files[0].Name != model || files[0].Bytes == 0 || files[0].Quant != "F32" {
				t.Errorf("Inventory = %+v, %v", files, err)
			}
			s, err := e.Ensure(t.Context(), Plan{Model: model, Context: 4096, Parallel: 2}, nil)
			if err != nil || s.Model.Context != 4096 || s.Model.SizeBytes != 475<<20 {
				t.Fatalf("Ensure = %+v, %v", s, err)
			}
			if again, err := e.Ensure(t.Context(), Plan{Model: model, Context: 4096, Parallel: 2}, nil); err != nil || again.PID != s.PID {
				t.Errorf("Ensure again = %+v, %v", again, err)
			}
			fall(t, acc, "says 0.1 E gguf_init: invalid magic characters")
			var start *StartError
			if _, err := e.Ensure(t.Context(), Plan{Model: model, Context: 8192}, nil); !errors.As(err, &start) || start.Class != "model" {
				t.Errorf("Ensure of a broken file = %v", err)
			}
		})
	}
}
