package remotetest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestScriptedIsAlwaysTheSame(t *testing.T) {
	dir := t.TempDir()
	var first []byte
	for _, name := range []string{"a", "b"} {
		path := filepath.Join(dir, name)
		if err := WriteScripted(path); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, data) {
			t.Error("two runs gave two files")
		}
		first = data
	}
	if made, err := scripted(); err != nil || !bytes.Equal(made, first) {
		t.Errorf("made anew it is another, %v", err)
	}
	texts, kinds, next := vocabulary()
	seen := map[string]bool{}
	for _, text := range texts {
		if seen[text] {
			t.Errorf("two tokens are %q: the engine would abort", text)
		}
		seen[text] = true
	}
	if len(kinds) != len(texts) || len(next) == 0 {
		t.Errorf("%d tokens, %d kinds, %d transitions", len(texts), len(kinds), len(next))
	}
	if !bytes.HasPrefix(first, []byte("GGUF\x03\x00\x00\x00")) {
		t.Errorf("the file begins with %q", first[:8])
	}
}

// What the real engine makes of it.
func TestScriptedAnswers(t *testing.T) {
	o := StartOllama(t)
	if err := CreateScripted(t.Context(), o.URL, "scripted"); err != nil {
		t.Fatal(err)
	}
	const tools = `,"tools":[{"type":"function","function":{"name":"bash","description":"d","parameters":{"type":"object","properties":{"command":{"type":"string"}}}}}]`
	for _, c := range []struct{ name, messages, tools, content, call string }{
		{"plain", `{"role":"user","content":"hi"}`, "", Hello, ""},
		{"tool", `{"role":"user","content":"hi"}`, tools, "", "bash"},
		{"after the tool", `{"role":"user","content":"hi"},{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"bash","arguments":"{}"}}]},{"role":"tool","tool_call_id":"1","content":"ok"}`, tools, AfterTool, ""},
	} {
		resp, err := http.Post(o.URL+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"scripted","messages":[`+c.messages+`]`+c.tools+`}`))
		if err != nil {
			t.Fatal(err)
		}
		var reply struct {
			Choices []struct {
				Message struct {
					Content string `json:"content"`
					Calls   []struct {
						Function struct{ Name, Arguments string } `json:"function"`
					} `json:"tool_calls"`
				} `json:"message"`
			} `json:"choices"`
		}
		err = json.NewDecoder(resp.Body).Decode(&reply)
		resp.Body.Close()
		if err != nil || len(reply.Choices) != 1 {
			t.Fatalf("%s: %+v, %v", c.name, reply, err)
		}
		m := reply.Choices[0].Message
		call := ""
		if len(m.Calls) == 1 {
			call = m.Calls[0].Function.Name
		}
		if m.Content != c.content || call != c.call {
			t.Errorf("%s: got %q and a call of %q, want %q and %q", c.name, m.Content, call, c.content, c.call)
		}
	}
}
