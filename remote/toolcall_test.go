package remote

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCallTool(t *testing.T) {
	for name, c := range map[string]struct {
		code     int
		body     string
		says     string // of the error; empty: none
		tool     bool   // it is a *ToolError
		noParser bool
	}{
		"a call":          {200, `{"choices":[{"finish_reason":"tool_calls","message":{"content":null,"tool_calls":[{"function":{"name":"bash"}}]}}]}`, "", false, false},
		"cut in thoughts": {200, `{"choices":[{"finish_reason":"length","message":{"content":"Let me think"}}]}`, "", false, false},
		"in words":        {200, `{"choices":[{"finish_reason":"stop","message":{"content":"You could run \u001b[1mecho hi."}}]}`, `it answered in words: "You could run echo hi."`, true, false},
		"as text":         {200, `{"choices":[{"finish_reason":"stop","message":{"content":"<tool_call>{\"name\":\"bash\"}</tool_call>"}}]}`, "came as text", true, true},
		"vLLM, no parser": {400, `{"error":{"message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"}}`, "--tool-call-parser", true, true},
		"Ollama, none":    {400, `{"error":{"message":"registry.ollama.ai/library/m:latest does not support tools"}}`, "does not support tools", true, false},
		"engine dead":     {500, `{"error":{"message":"EngineCore encountered an issue."}}`, "EngineCore", false, false},
		"no JSON":         {200, `<html>`, "no JSON", false, false},
		"no choices":      {200, `{}`, "no choices", false, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			in, _ := io.ReadAll(r.Body)
			var asked struct {
				Model string `json:"model"`
				Tools []any  `json:"tools"`
			}
			if json.Unmarshal(in, &asked) != nil || asked.Model != "m" || len(asked.Tools) != 1 || r.URL.Path != "/v1/chat/completions" {
				t.Errorf("%s: asked %s %s", name, r.URL.Path, in)
			}
			w.WriteHeader(c.code)
			io.WriteString(w, c.body)
		}))
		err := CallTool(t.Context(), srv.URL, "", "m")
		srv.Close()
		var tool *ToolError
		switch {
		case c.says == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || !strings.Contains(err.Error(), c.says) || errors.As(err, &tool) != c.tool || c.tool && tool.NoParser != c.noParser:
			t.Errorf("%s: %v (%T), want a ToolError %v, no parser %v, that says %q", name, err, err, c.tool, c.noParser, c.says)
		}
	}
}

func TestRemedy(t *testing.T) {
	for want, s := range map[string]Server{
		`Environment="OLLAMA_HOST=127.0.0.1:11434"`: {Engine: "Ollama", Address: "127.0.0.1:11434", How: "system service"},
		"app's settings":             {Engine: "Ollama", Address: "127.0.0.1:11434", How: "desktop app"},
		"-p 127.0.0.1:8000:8000":     {Engine: "vLLM", Address: "127.0.0.1:8000", How: "in a container"},
		"--host 127.0.0.1":           {Engine: "llama-server", Address: "127.0.0.1:8080"},
		"OLLAMA_HOST=127.0.0.1:9999": {Engine: "Ollama", Address: "127.0.0.1:9999"},
	} {
		if got := s.Remedy(); !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q in it", s, got, want)
		}
	}
}
