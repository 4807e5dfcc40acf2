package box

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// engine starts the built-in engine for the time of a test, and returns what asks it.
func engine(t *testing.T) func(method, path, body string) (*http.Response, string) {
	t.Helper()
	e, err := StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	return func(method, path, body string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+e.Addr()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(data)
	}
}

// at is the value at a path of a JSON text: "models.0.name".
func at(t *testing.T, text, path string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("no JSON: %q: %v", text, err)
	}
	for _, key := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[key]
		case []any:
			if key != "0" || len(x) == 0 {
				return nil
			}
			v = x[0]
		default:
			return nil
		}
	}
	return v
}

const (
	ask    = `"model":"rlca-demo:builtin","messages":[{"role":"system","content":"what is 1 + 1?"},{"role":"user","content":"what is 2 + 2?"}]`
	answer = "(the built-in demo engine, not a model) 2 + 2 = 4"
)

func TestEngine(t *testing.T) {
	call := engine(t)
	if resp, body := call("GET", "/", ""); resp.StatusCode != 200 || body != "Ollama is running" {
		t.Errorf("GET / = %s, %q", resp.Status, body)
	}
	if resp, body := call("HEAD", "/", ""); resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD / = %s, %q", resp.Status, body)
	}
	for _, x := range []struct {
		method, path, body string
		status             int
		key                string
		want               any
	}{
		{"GET", "/api/version", "", 200, "version", "0.0.0"},
		{"GET", "/api/tags", "", 200, "models.0.name", "rlca-demo:builtin"},
		{"GET", "/api/tags", "", 200, "models.0.details.quantization_level", "Q8_0"},
		{"GET", "/api/ps", "", 200, "models.0.context_length", 65536.0},
		{"GET", "/api/ps", "", 200, "models.0.size_vram", 0.0},
		{"POST", "/api/show", `{"model":"rlca-demo:builtin"}`, 200, "capabilities.0", "completion"},
		{"POST", "/api/show", `{"name":"rlca-demo:builtin"}`, 200, "details.family", "rlca-demo"},
		{"POST", "/api/show", `{"model":"other"}`, 404, "error", `model "other" not found, try pulling it first`},
		{"POST", "/api/show", `{`, 400, "error", "read the request: unexpected EOF"},
		{"POST", "/api/generate", `{"model":"rlca-demo:builtin"}`, 200, "done_reason", "load"},
		{"POST", "/api/generate", `{"model":"rlca-demo:builtin","keep_alive":-1}`, 200, "response", ""},
		{"POST", "/api/generate", `{"model":"rlca-demo:builtin","keep_alive":0}`, 200, "done_reason", "unload"},
		{"POST", "/api/generate", `{"model":"rlca-demo:builtin","prompt":"what is 2 + 2?"}`, 200, "response", answer},
		{"POST", "/api/generate", `{"model":"other"}`, 404, "error", `model "other" not found, try pulling it first`},
		{"GET", "/v1/models", "", 200, "data.0.id", "rlca-demo:builtin"},
		{"POST", "/v1/chat/completions", `{` + ask + `}`, 200, "choices.0.message.content", answer},
		{"POST", "/v1/chat/completions", `{` + ask + `}`, 200, "choices.0.finish_reason", "stop"},
		{"POST", "/v1/chat/completions", `{` + ask + `}`, 200, "usage.prompt_tokens", 10.0},
		{"POST", "/v1/chat/completions", `{"model":"rlca-demo:builtin","messages":[]}`, 400, "error.message", "no messages in the request"},
		{"POST", "/v1/chat/completions", `{"model":"other","messages":[{"role":"user","content":"x"}]}`, 404, "error.type", "not_found_error"},
		{"POST", "/v1/messages", `{"max_tokens":9,` + ask + `}`, 200, "content.0.text", answer},
		{"POST", "/v1/messages", `{"max_tokens":9,` + ask + `}`, 200, "stop_reason", "end_turn"},
		{"POST", "/v1/messages", `{"model":"rlca-demo:builtin","messages":[{"role":"user","content":[{"type":"image"},{"type":"text","text":"what is 2 + 2?"}]}]}`, 200, "content.0.text", answer},
		{"POST", "/v1/messages", `{"model":"other","messages":[{"role":"user","content":"x"}]}`, 404, "error.type", "not_found_error"},
		{"POST", "/v1/messages", `{"model":"rlca-demo:builtin","messages":[{"role":"user","content":7}]}`, 400, "type", "error"},
	} {
		resp, body := call(x.method, x.path, x.body)
		if got := at(t, body, x.key); resp.StatusCode != x.status || got != x.want {
			t.Errorf("%s %s %s = %s, %s: %v, want %d, %v", x.method, x.path, x.body, resp.Status, x.key, got, x.status, x.want)
		}
	}
	if resp, _ := call("POST", "/api/pull", `{}`); resp.StatusCode != 404 {
		t.Errorf("POST /api/pull = %s", resp.Status)
	}
}

func TestEngineStreams(t *testing.T) {
	call := engine(t)
	resp, body := call("POST", "/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true},`+ask+`}`)
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("Content-Type: %s", kind)
	}
	events := strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
	said := ""
	for i, e := range events {
		data, ok := strings.CutPrefix(e, "data: ")
		if !ok {
			t.Fatalf("event %q", e)
		}
		finish := any(nil)
		switch i {
		case len(events) - 1:
			if data != "[DONE]" {
				t.Errorf("the stream ends with %q", data)
			}
			continue
		case len(events) - 2:
			if at(t, data, "usage.total_tokens") != 22.0 || at(t, data, "choices.0") != nil {
				t.Errorf("usage: %s", data)
			}
			continue
		case len(events) - 3:
			finish = "stop"
		}
		if got := at(t, data, "choices.0.finish_reason"); got != finish {
			t.Errorf("event %d of %d has finish_reason %v, want %v", i, len(events), got, finish)
		}
		said += at(t, data, "choices.0.delta.content").(string)
	}
	if said != answer {
		t.Errorf("it streamed %q", said)
	}

	_, body = call("POST", "/v1/messages", `{"stream":true,`+ask+`}`)
	said = ""
	var kinds []string
	for s := bufio.NewScanner(strings.NewReader(body)); s.Scan(); {
		kind, ok := strings.CutPrefix(s.Text(), "event: ")
		if !ok {
			continue
		}
		s.Scan()
		data := strings.TrimPrefix(s.Text(), "data: ")
		if got := at(t, data, "type"); got != kind {
			t.Errorf("event %s has type %v", kind, got)
		}
		switch kind {
		case "content_block_delta":
			said += at(t, data, "delta.text").(string)
		case "message_delta":
			if got := at(t, data, "delta.stop_reason"); got != "end_turn" {
				t.Errorf("stop_reason %v", got)
			}
		}
		if len(kinds) == 0 || kinds[len(kinds)-1] != kind {
			kinds = append(kinds, kind)
		}
	}
	if said != answer {
		t.Errorf("it streamed %q", said)
	}
	if got, want := strings.Join(kinds, " "), "message_start content_block_start content_block_delta content_block_stop message_delta message_stop"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestHostCheck(t *testing.T) {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"localhost:1": true, "LOCALHOST": true, "127.0.0.2": true, "[::1]:80": true, "[::1]": true, "foo.local": true, "foo.internal:80": true,
		"a.localhost": true, "10.1.2.3": true, "0.0.0.0:1": true, "": true, name: true,
		"evil.example": false, "8.8.8.8": false, "localhost.evil.example": false, "xlocal": false,
	} {
		if got := localHost(host); got != want {
			t.Errorf("localHost(%q) = %v, want %v", host, got, want)
		}
	}
	e, err := StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	req, err := http.NewRequest("GET", "http://"+e.Addr()+"/api/tags", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || len(body) != 0 || err != nil {
		t.Errorf("another host: %s, %q, %v", resp.Status, body, err)
	}
}

func TestAnswer(t *testing.T) {
	for question, want := range map[string]string{
		"what is 2 + 2?":                     "2 + 2 = 4",
		"What's 7*6":                         "7 * 6 = 42",
		"Please tell me: what is -3 - -5 ?":  "-3 - -5 = 2",
		"2+2":                                "2 + 2 = 4",
		"what is 6 x 7?":                     "6 * 7 = 42",
		"what is 12 / 4?":                    "12 / 4 = 3",
		"what is 7 / 2?":                     "7 / 2 = 3, remainder 1",
		"what is 1 / 0?":                     "nothing can be divided by 0",
		"what is 999999999 × 999999999?":     "999999999 * 999999999 = 999999998000000001",
		"hello":                              "sums of two numbers",
		"":                                   "sums of two numbers",
		"released on 2026-01-02":             "sums of two numbers",
		"what is 2 + 2 in the file main.go?": "sums of two numbers",
	} {
		got := reckon(question)
		if !strings.HasPrefix(got, "(the built-in demo engine, not a model) ") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", question, got, want)
		}
	}
}

func FuzzChat(f *testing.F) {
	f.Add(`{"model":"rlca-demo:builtin","messages":[{"role":"user","content":"what is 2 + 2?"}]}`)
	f.Add(`{"messages":[{"role":"user","content":[{"type":"text","text":"2 / 0"}]}],"stream":true}`)
	f.Add(`{"messages":[{"content":null}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		var in chat
		if json.Unmarshal([]byte(body), &in) != nil {
			return
		}
		for _, m := range in.Messages {
			if got := reckon(string(m.Content)); !strings.HasPrefix(got, "(the built-in demo engine, not a model) ") {
				t.Errorf("%q is answered %q", m.Content, got)
			}
		}
	})
}
