package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
)

// portFar is a box on whose port 1234 something listens; scripts find that out, and nothing else.
type portFar struct{ leads string }

func (f portFar) Run(_ context.Context, script string) ([]byte, error) {
	_, rest, _ := strings.Cut(script, "\nN=")
	n, _, _ := strings.Cut(rest, "\n")
	return []byte(strings.ReplaceAll("\nN begin=1\nN listeners=proc\nN listen=0100007F:04D2\nN end=1\n", "N ", n+" ")), nil
}

func (f portFar) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if addr != "127.0.0.1:1234" {
		return nil, fmt.Errorf("dial %s: refused", addr)
	}
	return new(net.Dialer).DialContext(ctx, network, f.leads)
}

// studioSurvey is a survey of a box where an LM Studio answers with these models, and what else the probe found.
func studioSurvey(t *testing.T, models string, engines ...probe.Engine) *Survey {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/models", "/api/v0/models":
			fmt.Fprintf(w, `{"data":[%s]}`, models)
		default:
			fmt.Fprint(w, `{"error":"Unexpected endpoint or method. Returning 200 anyway"}`)
		}
	}))
	t.Cleanup(s.Close)
	catalog, err := fit.LoadCatalog("")
	if err != nil {
		t.Fatal(err)
	}
	return &Survey{Far: portFar{strings.TrimPrefix(s.URL, "http://")}, Report: &probe.Report{OS: "linux", Engines: engines}, catalog: catalog}
}

func engineAt(name, addr string) probe.Engine {
	yes := true
	return probe.Engine{Name: name, Running: &yes, Address: &addr}
}

const twoModels = `{"id":"big-coder","type":"llm","state":"not-loaded","max_context_length":32768},{"id":"smol","type":"llm","state":"loaded","max_context_length":8192,"loaded_context_length":4096}`

// auto takes a server that rlca does not start where the box has none of the others, or where the profile leads there.
func TestAutoAdopts(t *testing.T) {
	t.Parallel()
	path := "/usr/bin/llama-server"
	for name, c := range map[string]struct {
		engines []probe.Engine
		address string
		kind    string
		where   string
	}{
		"alone":                     {nil, "", engineOpenAI, "127.0.0.1:1234"},
		"its address":               {[]probe.Engine{engineAt("ollama", "127.0.0.1:11434")}, "127.0.0.1:1234", engineOpenAI, "127.0.0.1:1234"},
		"beside an Ollama":          {[]probe.Engine{engineAt("ollama", "127.0.0.1:11434")}, "", engineOllama, ""},
		"beside a llama-server":     {[]probe.Engine{{Name: "llama-server", Path: &path}}, "", engineOllama, ""},
		"an address with nobody":    {nil, "127.0.0.1:9", engineOllama, "127.0.0.1:9"},
		"a vLLM that is not itself": {[]probe.Engine{engineAt("vllm", "127.0.0.1:1234")}, "", engineOllama, ""},
	} {
		s := studioSurvey(t, twoModels, c.engines...)
		kind, where := s.autoEngine(t.Context(), remote.Box{Run: s.Far.Run, Dial: s.Far.Dial}, c.address)
		if kind != c.kind || where != c.where {
			t.Errorf("%s: %s at %q, want %s at %q", name, kind, where, c.kind, c.where)
		}
	}
}

func TestChooseOffered(t *testing.T) {
	t.Parallel()
	look := func(models, model string, context int) (*Survey, error) {
		s := studioSurvey(t, models)
		req := Request{Name: "den", Profile: profiles.Default()}
		req.Profile.Model.Name, req.Profile.Model.Context = model, context
		if err := s.find(t.Context(), req, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		return s, s.choose(t.Context(), req)
	}
	s, err := look(twoModels, "auto", 65536)
	if err != nil || s.EngineName != "LM Studio" || s.Plan.Model != "smol" || s.Plan.Context != 65536 || s.Fit.Context != 4096 || s.Fit.Verdict != "" || !s.OnBox || !s.kept {
		t.Errorf("auto: %+v, %+v, %v", s.Plan, s.Fit, err)
	}
	if s, err = look(twoModels, "big-coder", 0); err != nil || s.Plan.Model != "big-coder" {
		t.Errorf("by name: %+v, %v", s.Plan, err)
	}
	if n := len(s.Candidates()); n != 2 {
		t.Errorf("%d candidates: the catalog's cannot be downloaded there", n)
	}
	var other *remote.ServesOtherError
	if _, err = look(twoModels, "coder", 0); !errors.As(err, &other) || other.Serves != "big-coder, smol" {
		t.Errorf("a name that is near: %v", err)
	}
	if _, err = look(strings.Replace(twoModels, `"loaded"`, `"not-loaded"`, 1), "auto", 0); err == nil || !strings.Contains(err.Error(), "name one with --model: big-coder, smol") {
		t.Errorf("nothing loaded: %v", err)
	}
	if _, err = look("", "auto", 0); err == nil || !strings.Contains(err.Error(), "it has no model loaded") {
		t.Errorf("no models: %v", err)
	}
}

func TestKeeper(t *testing.T) {
	t.Parallel()
	ollama, vllm, llama := engineAt("ollama", "a"), engineAt("vllm", "b"), engineAt("llama-server", "c")
	for _, c := range []struct {
		has          []probe.Engine
		engine, name string
		want         string
	}{
		{nil, "auto", "qwen3:8b", engineOllama},
		{nil, "auto", "org/name", engineVLLM},
		{nil, "auto", "org/name:Q4_K_M", engineLlama},
		{nil, "auto", "org/name-GGUF", engineLlama},
		{[]probe.Engine{ollama}, "auto", "user/model:8b", engineOllama},
		{[]probe.Engine{ollama, vllm}, "auto", "org/name", engineVLLM},
		{[]probe.Engine{ollama, llama}, "auto", "org/name", engineLlama},
		{[]probe.Engine{ollama, vllm}, "auto", "hf.co/org/name:Q4_K_M", engineOllama},
		{[]probe.Engine{vllm}, "ollama", "org/name", engineOllama},
		{[]probe.Engine{ollama}, "llama-server", "org/name", engineLlama},
		{nil, "vllm", "qwen3:8b", ""},
		{nil, "auto", "/etc/passwd", ""},
		{nil, "auto", "auto", ""},
		{nil, "auto", "a b", ""},
	} {
		s := &Survey{Report: &probe.Report{Engines: c.has}}
		req := Request{Profile: profiles.Default()}
		req.Profile.Engine.Name, req.Profile.Model.Name = c.engine, c.name
		if got, err := s.keeper(req); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s for %s on a box with %d engines: %q, %v, want %q", c.name, c.engine, len(c.has), got, err, c.want)
		}
	}
}
