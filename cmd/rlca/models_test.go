package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"rlca/remote/remotetest"
)

// scriptTB is a script as far as helpers of tests need one.
type scriptTB struct {
	testing.TB
	ts *testscript.TestScript
}

func (t scriptTB) Helper()           {}
func (t scriptTB) Cleanup(f func())  { t.ts.Defer(f) }
func (t scriptTB) Fatal(args ...any) { t.ts.Fatalf("%s", fmt.Sprint(args...)) }

// hubCmd: "hub [RATE]" starts a Hugging Face hub with the repository rlcatest/tiny of 200 kB, which the account of the box
// then knows; RATE is how many bytes a second it brings.
func hubCmd(ts *testscript.TestScript, _ bool, args []string) {
	hub := remotetest.StartHub(scriptTB{ts: ts}, "rlcatest/tiny",
		remotetest.HubFile{Name: "config.json", Data: []byte(`{"model_type":"qwen3"}`)},
		remotetest.HubFile{Name: "model.safetensors", Data: []byte(strings.Repeat("x", 200_000)), Large: true})
	if len(args) > 0 {
		rate, err := strconv.Atoi(args[0])
		ts.Check(err)
		hub.Throttle(rate)
	}
	appendTo(ts, filepath.Join(ts.Getenv("HOME"), ".profile"), "export HF_ENDPOINT="+hub.URL+"\n")
}

// storeCmd: "store MODEL…" starts an Ollama that can download and remove, with these models, the first of them loaded for
// ever and no other, and sets STORE to its address. A download of slow:1b never ends.
func storeCmd(ts *testscript.TestScript, _ bool, models []string) {
	var mu sync.Mutex
	row := func(name string) map[string]any {
		return map[string]any{"name": name, "model": name, "size": 3 << 20, "digest": name}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Model string }
		json.NewDecoder(r.Body).Decode(&in)
		mu.Lock()
		defer mu.Unlock()
		switch r.Method + " " + r.URL.Path {
		case "GET /":
			fmt.Fprint(w, "Ollama is running")
		case "GET /api/version":
			fmt.Fprint(w, `{"version":"0.30.1"}`)
		case "GET /api/tags":
			rows := []any{}
			for _, m := range models {
				rows = append(rows, row(m))
			}
			json.NewEncoder(w).Encode(map[string]any{"models": rows})
		case "GET /api/ps":
			json.NewEncoder(w).Encode(map[string]any{"models": []any{row(models[0])}})
		case "POST /api/show":
			fmt.Fprint(w, `{"model_info":{}}`)
		case "POST /api/generate":
			fmt.Fprint(w, `{"done":true}`)
		case "POST /v1/chat/completions":
			fmt.Fprint(w, `{"choices":[{"message":{"role":"assistant","content":"yes"},"finish_reason":"length"}]}`)
		case "DELETE /api/delete":
			i := slices.Index(models, in.Model)
			if i < 0 {
				w.WriteHeader(404)
				return
			}
			models = slices.Delete(models, i, i+1)
		case "POST /api/pull":
			fmt.Fprintln(w, `{"status":"pulling manifest"}`)
			fmt.Fprintln(w, `{"status":"pulling abc","digest":"sha256:abc","total":2097152,"completed":1048576}`)
			w.(http.Flusher).Flush()
			switch in.Model {
			case "slow:1b":
				mu.Unlock()
				<-r.Context().Done()
				mu.Lock()
				return
			case "none:1b":
				fmt.Fprintln(w, `{"error":"pull model manifest: file does not exist"}`)
				return
			}
			models = append(models, in.Model)
			fmt.Fprintln(w, `{"status":"success"}`)
		default:
			http.NotFound(w, r)
		}
	}))
	ts.Defer(func() { s.CloseClientConnections(); s.Close() })
	ts.Setenv("STORE", strings.TrimPrefix(s.URL, "http://"))
}

// studioCmd: "studio" starts an LM Studio that loads its two models on demand, and sets STUDIO to its address.
func studioCmd(ts *testscript.TestScript, _ bool, _ []string) {
	var mu sync.Mutex
	loaded := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Model string }
		json.NewDecoder(r.Body).Decode(&in)
		mu.Lock()
		defer mu.Unlock()
		var rows []any
		for _, id := range []string{"qwen/qwen3-coder-30b", "smol"} {
			m := map[string]any{"id": id, "object": "model", "owned_by": "organization_owner", "type": "llm", "state": "not-loaded", "max_context_length": 262144}
			if id == loaded {
				m["state"], m["loaded_context_length"] = "loaded", 4096
			}
			rows = append(rows, m)
		}
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/models", "GET /api/v0/models":
			json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": rows})
		case "POST /v1/chat/completions":
			loaded = in.Model
			fmt.Fprint(w, `{"choices":[{"message":{"role":"assistant","content":"yes"},"finish_reason":"length"}]}`)
		default: // it answers 200 to all that it does not have
			fmt.Fprintf(w, `{"error":"Unexpected endpoint or method. (%s %s). Returning 200 anyway"}`, r.Method, r.URL.Path)
		}
	}))
	ts.Defer(s.Close)
	ts.Setenv("STUDIO", strings.TrimPrefix(s.URL, "http://"))
}
