package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"rlca/remote/remotetest"
)

// What such servers answer, by path. Those of LM Studio come with 200 for paths that it does not have, too.
const (
	studioList = `{"object":"list","data":[{"id":"qwen/qwen3-coder-30b","object":"model","owned_by":"organization_owner"},
		{"id":"smol","object":"model","owned_by":"organization_owner"},{"id":"text-embedding-nomic-embed-text-v1.5","object":"model","owned_by":"organization_owner"}]}`
	studioOwn = `{"object":"list","data":[{"id":"qwen/qwen3-coder-30b","object":"model","type":"llm","publisher":"qwen","arch":"qwen3moe","compatibility_type":"gguf","quantization":"Q4_K_M",
		"state":"loaded","max_context_length":262144,"loaded_context_length":4096},
		{"id":"smol","object":"model","type":"llm","arch":"llama","quantization":"Q8_0","state":"not-loaded","max_context_length":8192},
		{"id":"text-embedding-nomic-embed-text-v1.5","object":"model","type":"embeddings","state":"not-loaded","max_context_length":2048}]}`
	studioElse   = `{"error":"Unexpected endpoint or method. (GET /x). Returning 200 anyway"}`
	sglangModels = `{"object":"list","data":[{"id":"coder","object":"model","created":1,"owned_by":"sglang","root":"coder","max_model_len":40960}]}`
	oneModel     = `{"object":"list","data":[{"id":"m","object":"model","created":1}]}`
)

// openAIEngine drives such a server where it listens.
func openAIEngine(t testing.TB, acc *remotetest.Account, address string) *OpenAI {
	e := NewOpenAI(Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}, address)
	e.host.places = nil
	return e
}

// mlxServing is mlx_lm.server, which is known by the header of Python's own web server.
func mlxServing(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "BaseHTTP/0.6 Python/3.12.4")
		switch r.URL.Path {
		case "/health":
			fmt.Fprint(w, `{"status": "ok"}`)
		case "/v1/models":
			fmt.Fprint(w, `{"object":"list","data":[{"id":"mlx-community/a","object":"model","created":1},{"id":"mlx-community/b","object":"model","created":1}]}`)
		default:
			w.WriteHeader(404)
			fmt.Fprint(w, "Not Found")
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestOpenAIKnows(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	for name, c := range map[string]struct {
		bodies  map[string]string
		title   string
		model   string
		context int
	}{
		"LM Studio": {map[string]string{"/": studioElse, "/props": studioElse, "/version": studioElse, "/api/version": studioElse, "/v1/models": studioList, "/api/v0/models": studioOwn},
			"LM Studio", "qwen/qwen3-coder-30b", 4096},
		"SGLang":               {map[string]string{"/v1/models": sglangModels, "/server_info": `{"version":"0.5.15","max_total_num_tokens":20480,"max_req_input_len":20474}`}, "SGLang 0.5.15", "coder", 20480},
		"SGLang with all room": {map[string]string{"/v1/models": sglangModels, "/get_server_info": `{"version":"0.4.9","max_total_num_tokens":900000}`, "/api/tags": `{"models":[]}`}, "SGLang 0.4.9", "coder", 40960},
		"TGI": {map[string]string{"/v1/models": `{"object":"list","data":[{"id":"org/m","object":"model","created":0,"owned_by":"org/m"}]}`,
			"/info": `{"model_id":"org/m","max_concurrent_requests":128,"max_input_tokens":4095,"max_total_tokens":4096,"router":"text-generation-router","version":"2.0.4"}`}, "TGI 2.0.4", "org/m", 4096},
		"TensorRT-LLM": {map[string]string{"/v1/models": `{"data":[{"id":"m","owned_by":"tensorrt_llm"}]}`, "/version": `{"version":"1.3.0rc13"}`, "/health": ""}, "TensorRT-LLM 1.3.0rc13", "m", 0},
		"oMLX":         {map[string]string{"/v1/models": `{"data":[{"id":"m","owned_by":"omlx","max_model_len":32768}]}`}, "oMLX", "m", 32768},
		"MLX-VLM":      {map[string]string{"/v1/models": oneModel, "/health": `{"status":"healthy"}`, "/openapi.json": `{"openapi":"3.1.0","info":{"title":"MLX-VLM Inference API","version":"0.4.1"}}`}, "MLX-VLM 0.4.1", "m", 0},
		"KoboldCpp": {map[string]string{"/v1/models": `{"data":[{"id":"koboldcpp/m","owned_by":"koboldcpp","root":"koboldcpp"}]}`, "/api/extra/version": `{"result":"KoboldCpp","version":"1.98"}`,
			"/api/extra/true_max_context_length": `{"value":8192}`}, "KoboldCpp 1.98", "koboldcpp/m", 8192},
		"TabbyAPI": {map[string]string{"/v1/models": `{"data":[{"id":"a","owned_by":"tabbyAPI"},{"id":"b","owned_by":"tabbyAPI"}]}`, "/v1/model": `{"id":"b","owned_by":"tabbyAPI","parameters":{"max_seq_len":32768}}`}, "TabbyAPI", "b", 32768},
		"text-generation-webui": {map[string]string{"/v1/models": `{"data":[{"id":"m","object":"model","created":0,"owned_by":"user"}]}`, "/v1/internal/model/info": `{"model_name":"m","lora_names":[]}`},
			"text-generation-webui", "m", 0},
		"one that says no name":       {map[string]string{"/v1/models": oneModel, "/info": `{"name":"x"}`, "/openapi.json": `{"info":{"title":"x"}}`}, "OpenAI-compatible server", "m", 0},
		"several, and none is loaded": {map[string]string{"/v1/models": `{"data":[{"id":"a"},{"id":"b"}]}`}, "OpenAI-compatible server", "", 0},
		"numbers and names that are none": {map[string]string{"/v1/models": `{"data":[{"id":"m\u001b[31m","owned_by":"koboldcpp"}]}`, "/api/extra/version": `{"version":7}`, "/api/extra/true_max_context_length": `{"value":-1}`},
			"KoboldCpp", "m", 0},
	} {
		s, err := openAIEngine(t, acc, serving(t, c.bodies)).Find(t.Context())
		if err != nil || s.Title() != c.title || s.Model.Name != c.model || s.Model.Context != c.context || !s.Adopted || s.Fresh {
			t.Errorf("%s: %+v, %v, want %s with %q and %d tokens", name, s, err, c.title, c.model, c.context)
		}
	}
	s, err := openAIEngine(t, acc, mlxServing(t)).Find(t.Context())
	if err != nil || s.Title() != "mlx_lm.server" || s.Model.Name != "" {
		t.Errorf("mlx_lm.server: %+v, %v", s, err)
	}
}

// What is none of its kind is told by name, and nothing is done to it.
func TestOpenAIForeign(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	for name, c := range map[string]struct{ addr, says string }{
		"llama-server": {serving(t, map[string]string{"/v1/models": llamaModels, "/props": llamaProps}), `says "llama-server"`},
		"vLLM":         {serving(t, map[string]string{"/v1/models": vllmModels, "/version": `{"version":"0.32.0"}`}), `says "vllm"`},
		"Ollama":       {newFake("m").start(t), `says "Ollama"`},
		"a page":       {serving(t, map[string]string{"/": "hello"}), "something else listens there"},
	} {
		_, err := openAIEngine(t, acc, c.addr).Find(t.Context())
		var foreign *ForeignError
		if !errors.As(err, &foreign) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if files, err := openAIEngine(t, acc, c.addr).Inventory(t.Context()); err != nil || len(files) > 0 {
			t.Errorf("%s: Inventory = %v, %v", name, files, err)
		}
	}
	var loading *LoadingError
	if _, err := openAIEngine(t, acc, serving(t, map[string]string{"/v1/models": "503 not yet"})).Find(t.Context()); !errors.As(err, &loading) {
		t.Errorf("one that loads: %v", err)
	}
	if _, err := openAIEngine(t, acc, serving(t, map[string]string{"/v1/models": `401 {"error":"Invalid API key"}`})).Find(t.Context()); err == nil || !strings.Contains(err.Error(), "wants a key") {
		t.Errorf("one that wants a key: %v", err)
	}
}

// The rows of the contract that an engine has which starts nothing.
func TestContractOpenAI(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	nobody := fmt.Sprintf("127.0.0.1:%d", remotetest.FreePort(t))
	idle := openAIEngine(t, acc, nobody)
	var absent *NotInstalledError
	if _, err := idle.Find(t.Context()); !errors.As(err, &absent) || !strings.Contains(err.Error(), nobody) || !strings.Contains(err.Error(), "have rlca start Ollama, llama-server or vLLM") {
		t.Errorf("Find = %v", err)
	}
	if _, err := idle.Ensure(t.Context(), Plan{Model: "m"}, nil); !errors.As(err, &absent) {
		t.Errorf("Ensure = %v", err)
	}
	if files, err := idle.Inventory(t.Context()); err != nil || len(files) > 0 {
		t.Errorf("Inventory = %v, %v", files, err)
	}
	bad := openAIEngine(t, acc, "nowhere")
	if _, err := bad.Find(t.Context()); err == nil || !strings.Contains(err.Error(), `engine address "nowhere"`) {
		t.Errorf("Find at no address = %v", err)
	}

	addr := serving(t, map[string]string{"/v1/models": studioList, "/api/v0/models": studioOwn})
	e := openAIEngine(t, acc, addr)
	var steps []string
	s, err := e.Ensure(t.Context(), Plan{Model: "qwen/qwen3-coder-30b", Context: 65536}, func(p Progress) {
		steps = append(steps, p.Step)
		if p.Text == "" {
			t.Errorf("no words at %s", p.Step)
		}
		if p.Step == StepServing && (p.Server == nil || p.Server.Address != addr) {
			t.Errorf("serving without a server: %+v", p.Server)
		}
	})
	if err != nil || !s.Adopted || s.Fresh || s.Origin() != "adopted" || s.Model.Name != "qwen/qwen3-coder-30b" || s.Model.Context != 4096 || !slices.Equal(steps, []string{StepServing}) {
		t.Fatalf("Ensure = %+v, %v after %v", s, err, steps)
	}
	if want := "LM Studio gives qwen/qwen3-coder-30b 4096 tokens of context; for 65536: on the box: lms load qwen/qwen3-coder-30b --context-length 65536"; !slices.Equal(s.Warnings, []string{want}) {
		t.Errorf("warnings %q", s.Warnings)
	}
	if l, err := e.Loaded(t.Context(), s); err != nil || l.Name != s.Model.Name || l.Context != 4096 {
		t.Errorf("Loaded = %+v, %v", l, err)
	}
	files, err := e.Inventory(t.Context())
	if err != nil || len(files) != 2 || files[0].Name != "qwen/qwen3-coder-30b" || files[0].Quant != "Q4_K_M" || files[0].Family != "qwen3moe" {
		t.Errorf("Inventory = %+v, %v", files, err)
	}
	var other *ServesOtherError
	if _, err := e.Ensure(t.Context(), Plan{Model: "qwen3-coder"}, nil); !errors.As(err, &other) || !strings.HasPrefix(other.Serves, "qwen/qwen3-coder-30b") || other.Engine != "LM Studio" {
		t.Errorf("Ensure of another model = %v", err)
	}
	if undone := e.Undo(t.Context(), s); len(undone) > 0 {
		t.Errorf("Undo = %v", undone)
	}
	if did, err := e.Stop(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	if text, err := e.Log(t.Context()); err != nil || text != "" {
		t.Errorf("Log = %q, %v", text, err)
	}
	nothingLeft(t, acc)
}

// studio is an LM Studio that loads its models on demand, with 4096 tokens.
type studio struct {
	mu     sync.Mutex
	loaded map[string]bool
	asked  []string
	refuse string
}

func (f *studio) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.Path)
	say := func(v any) { json.NewEncoder(w).Encode(v) }
	var rows, own []any
	for _, id := range []string{"big", "smol"} {
		rows = append(rows, map[string]any{"id": id, "object": "model", "owned_by": "organization_owner"})
		row := map[string]any{"id": id, "type": "llm", "state": "not-loaded", "max_context_length": 32768}
		if f.loaded[id] {
			row["state"], row["loaded_context_length"] = "loaded", 4096
		}
		own = append(own, row)
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/models":
		say(map[string]any{"object": "list", "data": rows})
	case "GET /api/v0/models":
		say(map[string]any{"object": "list", "data": own})
	case "POST /v1/chat/completions":
		var ask struct{ Model string }
		json.NewDecoder(r.Body).Decode(&ask)
		if f.refuse != "" {
			w.WriteHeader(400)
			say(map[string]any{"error": map[string]string{"message": f.refuse}})
			return
		}
		f.loaded[ask.Model] = true
		say(map[string]any{"choices": []any{map[string]any{"message": map[string]string{"content": "yes"}}}})
	default:
		say(map[string]string{"error": fmt.Sprintf("Unexpected endpoint or method. (%s %s). Returning 200 anyway", r.Method, r.URL.Path)})
	}
}

// A model that LM Studio loads on demand is loaded by one token, and its context is read back.
func TestOpenAIOnDemand(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	f := &studio{loaded: map[string]bool{}}
	server := httptest.NewServer(f)
	defer server.Close()
	e := openAIEngine(t, acc, strings.TrimPrefix(server.URL, "http://"))
	if s, err := e.Find(t.Context()); err != nil || s.Model.Name != "" {
		t.Fatalf("Find with nothing loaded = %+v, %v", s, err)
	}
	said := ""
	s, err := e.Ensure(t.Context(), Plan{Model: "smol", Context: 16384}, func(p Progress) {
		if p.Step == StepLoad {
			said = p.Text
		}
	})
	if err != nil || s.Model.Context != 4096 || said != "loading smol: LM Studio does so at the first token" {
		t.Fatalf("Ensure = %+v, %v, said %q", s, err, said)
	}
	if len(s.Warnings) != 2 || !strings.Contains(s.Warnings[0], "loads smol on demand") || !strings.Contains(s.Warnings[1], "lms load smol --context-length 16384") {
		t.Errorf("warnings %q", s.Warnings)
	}
	if found, err := e.Find(t.Context()); err != nil || found.Model.Name != "smol" {
		t.Errorf("Find afterwards = %+v, %v", found, err)
	}
	for _, ask := range f.asked {
		if !strings.HasPrefix(ask, "GET ") && ask != "POST /v1/chat/completions" {
			t.Errorf("it was asked %s", ask)
		}
	}
	f.refuse = "Model loading was stopped due to insufficient system resources. Out of memory."
	var load *LoadError
	if _, err := e.Ensure(t.Context(), Plan{Model: "big"}, nil); !errors.As(err, &load) || !load.OutOfMemory {
		t.Errorf("a load that fails: %v", err)
	}
	nothingLeft(t, acc)
}

// Without an address only ports are asked that the box's table of listeners shows.
func TestOpenAIPorts(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	addr := serving(t, map[string]string{"/v1/models": sglangModels})
	e := openAIEngine(t, acc, "")
	e.ports = []int{remotetest.FreePort(t), int(portOf(addr))}
	s, err := e.Find(t.Context())
	if err != nil || s.Address != addr || s.Engine != "SGLang" {
		t.Errorf("Find = %+v, %v", s, err)
	}
	e.ports = e.ports[:1]
	var absent *NotInstalledError
	if _, err := e.Find(t.Context()); !errors.As(err, &absent) || !strings.Contains(err.Error(), "rlca adopts such a server and starts none") {
		t.Errorf("Find where nobody listens = %v", err)
	}
}

func TestOpenAIRemedy(t *testing.T) {
	for _, c := range []struct {
		s    Server
		want string
	}{
		{Server{Engine: "LM Studio", Address: "127.0.0.1:1234"}, "Serve on Local Network"},
		{Server{Engine: "SGLang", Address: "127.0.0.1:30000"}, "start it with --host 127.0.0.1"},
		{Server{Engine: "TGI", Address: "127.0.0.1:3000"}, "--hostname 127.0.0.1"},
		{Server{Engine: "TGI", Address: "127.0.0.1:8080", How: "in a container"}, "-p 127.0.0.1:8080:8080"},
		{Server{Engine: openAITitle, Address: "127.0.0.1:8080"}, "listen on 127.0.0.1 alone"},
	} {
		if got := c.s.Remedy(); !strings.Contains(got, c.want) {
			t.Errorf("Remedy of %+v = %q", c.s, got)
		}
	}
}
