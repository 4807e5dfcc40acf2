package remote

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"rlca/remote/remotetest"
)

// An engine that is ready to use, by the answers it gives.
const (
	llamaModels = `{"models":[{"name":"smol","model":"smol","capabilities":["completion"]}],"object":"list","data":[{"id":"smol","object":"model","created":1,"owned_by":"llamacpp",
		"meta":{"vocab_type":2,"n_vocab":49152,"n_ctx":2048,"n_ctx_train":8192,"n_embd":576,"n_params":134515008,"size":96576768,"ftype":"Q4_1"}}]}`
	llamaProps = `{"default_generation_settings":{"id":0,"n_ctx":2048,"params":{"n_predict":-1}},"total_slots":4,"model_alias":"smol","model_path":"/models/My Smol.gguf",
		"build_info":"b11434-unknown","chat_template_caps":{"supports_tools":false},"is_sleeping":false}`
	vllmModels = `{"object":"list","data":[{"id":"coder","object":"model","created":1,"owned_by":"vllm","root":"Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8","parent":null,"max_model_len":65536,
		"permission":[{"id":"modelperm-1","allow_view":true}]},{"id":"adapter","owned_by":"vllm","parent":"coder"}]}`
)

// serving answers with these bodies by path, anything else with 404. A body that begins with a number has that status.
func serving(t *testing.T, bodies map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.Path]
		if !ok {
			w.WriteHeader(404)
			fmt.Fprint(w, `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`)
			return
		}
		var code int
		if n, _ := fmt.Sscanf(body, "%d ", &code); n == 1 {
			w.WriteHeader(code)
			body = body[4:]
		}
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func describe(t *testing.T, addr string) (*Serves, error) {
	t.Helper()
	return Describe(t.Context(), Box{Dial: new(remotetest.Account).Dial, Log: testLog(t)}, addr)
}

func TestDescribe(t *testing.T) {
	smol := Serves{Engine: "llama-server", Version: "b11434-unknown", Model: "smol", Path: "/models/My Smol.gguf", WeightsBytes: 96576768, Params: 134515008,
		Context: 2048, ContextTrain: 8192, Slots: 4, Vocab: 49152, Embedding: 576}
	bare := smol
	bare.Version, bare.Path, bare.Slots = "", "", 0
	for name, c := range map[string]struct {
		bodies map[string]string
		want   Serves
	}{
		"llama-server":                   {map[string]string{"/v1/models": llamaModels, "/props": llamaProps}, smol},
		"llama-server with its web page": {map[string]string{"/": "<!doctype html><html>", "/v1/models": llamaModels, "/props": llamaProps}, smol},
		"props want a key":               {map[string]string{"/v1/models": llamaModels, "/props": `401 {"error":{"message":"Invalid API Key"}}`}, bare},
		"props are broken":               {map[string]string{"/v1/models": llamaModels, "/props": `{"total_slots":`}, bare},
		"of several the loaded one": {map[string]string{"/v1/models": `{"data":[{"id":"a","owned_by":"llamacpp","status":{"value":"unloaded"}},{"id":"b","owned_by":"llamacpp","status":{"value":"loaded"}}]}`},
			Serves{Engine: "llama-server", Model: "b"}},
		"vLLM": {map[string]string{"/v1/models": vllmModels, "/version": `{"version":"0.32.0"}`},
			Serves{Engine: "vllm", Version: "0.32.0", Model: "coder", Path: "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", Context: 65536}},
		"vLLM without a version": {map[string]string{"/v1/models": vllmModels},
			Serves{Engine: "vllm", Model: "coder", Path: "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", Context: 65536}},
		"SGLang": {map[string]string{"/v1/models": `{"data":[{"id":"m","owned_by":"sglang","root":"m","max_model_len":32768}]}`, "/version": `{"version":"1"}`},
			Serves{Engine: "SGLang", Model: "m", Path: "m", Context: 32768}},
		"one that says only a name": {map[string]string{"/v1/models": `{"data":[{"id":"m"}]}`}, Serves{Model: "m"}},
		"absurd numbers, and no numbers": {map[string]string{"/v1/models": `{"data":[{"id":"m\u001b[31m","owned_by":7,"root":"/a\nb","status":"ready","max_model_len":"many","meta":
			{"n_params":-1,"size":1e30,"n_ctx":1e12,"n_ctx_train":null,"n_embd":[],"n_vocab":512}}]}`}, Serves{Model: "m", Vocab: 512}},
	} {
		got, err := describe(t, serving(t, c.bodies))
		if err != nil || *got != c.want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", name, got, err, c.want)
		}
	}
}

func TestDescribeOllama(t *testing.T) {
	f := newFake("a:1b")
	f.loaded = []string{"a:1b"}
	if got, err := describe(t, f.start(t)); err != nil || *got != (Serves{Engine: "Ollama", Version: "0.30.1", Model: "a:1b", Context: 4096}) {
		t.Errorf("Describe = %+v, %v", got, err)
	}
}

func TestDescribeErrors(t *testing.T) {
	t.Parallel()
	var loading *LoadingError
	addr := serving(t, map[string]string{"/v1/models": `503 {"error":{"message":"Loading model","type":"unavailable_error","code":503}}`})
	if _, err := describe(t, addr); !errors.As(err, &loading) || loading.Address != addr || loading.Text != "Loading model" {
		t.Errorf("loading: %v", err)
	}
	for says, models := range map[string]string{
		"no JSON":                 "<!doctype html><html>\x1b[2J",
		"answer is no JSON":       llamaModels[:200],
		"another than OpenAI's":   `{"data":"none"}`,
		"it has no model":         `{"data":[]}`,
		"it answered 401: no key": `401 {"error":"no key"}`,
		"it answered 404":         `404 `,
		"it answered 500":         `500 <html>`,
		"its answer is no JSON: ": `{"data":[` + strings.Repeat(`{"id":"m"},`, bodyLimit/11+1) + `{"id":"m"}]}`,
	} {
		_, err := describe(t, serving(t, map[string]string{"/v1/models": models}))
		if err == nil || !strings.Contains(err.Error(), says) || len(err.Error()) > 2*textLimit {
			t.Errorf("%.60q: %v, want an error that says %q", models, err, says)
		}
		if err != nil {
			checkClean(t, err.Error())
		}
	}
	if _, err := describe(t, fmt.Sprintf("127.0.0.1:%d", remotetest.FreePort(t))); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody there: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "SSH-2.0-x\r\n")
			conn.Close()
		}
	}()
	if _, err := describe(t, l.Addr().String()); err == nil {
		t.Error("something that is no HTTP: no error")
	}
	l.Close()
	<-done
}

func FuzzServes(f *testing.F) {
	f.Add([]byte(llamaModels), []byte(llamaProps))
	f.Add([]byte(vllmModels), []byte(`{"version":"0.32.0"}`))
	f.Add([]byte(`{"data":[{"meta":{"n_ctx":-1e9},"status":1}]}`), []byte(`{"model_path":"\u0000"}`))
	f.Fuzz(func(t *testing.T, models, more []byte) {
		s, err := readModels(models)
		if err != nil {
			checkClean(t, err.Error())
			return
		}
		s.readProps(more)
		s.readVersion(more)
		checkClean(t, s.Model+s.Path+s.Version)
		if s.WeightsBytes < 0 || s.Params < 0 || s.Context < 0 || s.ContextTrain < 0 || s.Slots < 0 || s.Vocab < 0 || s.Embedding < 0 {
			t.Fatalf("%+v", s)
		}
	})
}
