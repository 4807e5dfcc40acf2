package harness

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

func TestFind(t *testing.T) {
	for name, want := range map[string]string{"claude": "claude", "Codex": "codex", "cn": "continue", "zeditor": "zed"} {
		if h, err := Find(name); err != nil || h.Name != want {
			t.Errorf("Find(%q) = %v, %v, want %s", name, h, err, want)
		}
	}
	for name, near := range map[string][]string{"cladue": {"claude"}, "code": {"codex"}, "qwen-code": {"qwen"}, "open": {"qwen", "opencode", "openai"}, "vim": nil} {
		_, err := Find(name)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || !slices.Equal(unknown.Near, near) {
			t.Errorf("Find(%q): %#v, want near %v", name, err, near)
		}
	}
}

func TestSetups(t *testing.T) {
	nothing := func(string) string { return "" }
	for i := range tools {
		h := &tools[i]
		if h.Title == "" || h.Dialect == "" || !h.Generic() && h.Install == "" {
			t.Errorf("%s lacks a title, a dialect or how to install it", h.Name)
		}
		s := h.Setup(spark, Options{Dir: "/d", Getenv: nothing})
		all := strings.Join(s.Args, "\n")
		names := map[string]bool{}
		for _, v := range s.Set {
			if names[v.Name] {
				t.Errorf("%s sets %s twice", h.Name, v.Name)
			}
			names[v.Name] = true
			all += "\n" + v.Value
		}
		for _, f := range s.Files {
			all += "\n" + string(f.Text)
			if filepath.Ext(f.Name) == ".json" && !json.Valid(f.Text) {
				t.Errorf("%s: %s is no JSON: %s", h.Name, f.Name, f.Text)
			}
		}
		if h.FileOnly {
			continue
		}
		if !strings.Contains(all, "http://127.0.0.1:11434") || !strings.Contains(all, "qwen3-coder:30b") || strings.ContainsAny(all, "<>") {
			t.Errorf("%s gets %s", h.Name, all)
		}
		for _, word := range []string{"{base}", "{key}", "{model}", "{context}", "{dir}"} {
			if strings.Contains(all, word) {
				t.Errorf("%s gets %s as it is", h.Name, word)
			}
		}
		if h.NeedsDir() != strings.Contains(all, "/d") && runtime.GOOS != "windows" {
			t.Errorf("%s needs a folder: %v, and gets %s", h.Name, h.NeedsDir(), all)
		}
		if got := value(s.Set, "NO_PROXY"); got != "127.0.0.1,localhost,::1" {
			t.Errorf("%s: NO_PROXY = %q", h.Name, got)
		}
		// What is not known is left out, not written as nothing.
		bare := h.Setup(Endpoint{BaseURL: "http://127.0.0.1:1"}, Options{Getenv: nothing})
		for _, v := range bare.Set {
			if v.Value == "" && v.Name != "ANTHROPIC_API_KEY" {
				t.Errorf("%s without a model sets %s to nothing", h.Name, v.Name)
			}
		}
		if slices.Contains(bare.Args, "--model") || slices.Contains(bare.Args, "-m") {
			t.Errorf("%s without a model has a flag without its word: %q", h.Name, bare.Args)
		}
	}
}

// The sets that were run, word by word.
func TestExactSets(t *testing.T) {
	odd := Endpoint{BaseURL: "http://127.0.0.1:11434", Model: `hf.co/a/b c"d:Q4`, Context: 32768, Token: "t-1"}
	o := Options{Getenv: func(k string) string { return map[string]string{"NO_PROXY": "corp"}[k] }}

	s := tool(t, "claude").Setup(odd, o)
	for name, want := range map[string]string{
		"ANTHROPIC_BASE_URL": "http://127.0.0.1:11434", "ANTHROPIC_AUTH_TOKEN": "t-1", "ANTHROPIC_API_KEY": "", "ANTHROPIC_MODEL": odd.Model,
		"ANTHROPIC_DEFAULT_HAIKU_MODEL": odd.Model, "ANTHROPIC_DEFAULT_FABLE_MODEL": odd.Model, "CLAUDE_CODE_SUBAGENT_MODEL": odd.Model, "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "32768",
		"CLAUDE_CODE_ATTRIBUTION_HEADER": "0", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "API_FORCE_IDLE_TIMEOUT": "0",
		"CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST": "1", "NO_PROXY": "corp,127.0.0.1,localhost,::1",
	} {
		if got := value(s.Set, name); got != want {
			t.Errorf("claude: %s = %q, want %q", name, got, want)
		}
	}
	if want := []string{"--setting-sources", "user"}; !slices.Equal(s.Args, want) {
		t.Errorf("claude: args %q, want %q", s.Args, want)
	}
	trusting := tool(t, "claude").Setup(odd, Options{TrustProject: true, Loud: true, Getenv: o.Getenv})
	if len(trusting.Args) != 0 || value(trusting.Set, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC") != "(absent)" {
		t.Errorf("claude, loud and trusting: %q %v", trusting.Args, trusting.Set)
	}

	s = tool(t, "qwen").Setup(odd, o)
	if want := []string{"--auth-type", "openai", "--model", odd.Model}; !slices.Equal(s.Args, want) || value(s.Set, "QWEN_CODE_SAFE_MODE") != "1" || value(s.Set, "QWEN_CODE_SKIP_UPDATE_CHECK_ONCE") != "true" {
		t.Errorf("qwen: %q %v", s.Args, s.Set)
	}

	s = tool(t, "codex").Setup(odd, o)
	var lines []string
	for i := 0; i < len(s.Args); i += 2 {
		if s.Args[i] != "-c" {
			t.Fatalf("codex: args %q", s.Args)
		}
		lines = append(lines, s.Args[i+1])
	}
	var conf map[string]any
	if err := toml.Unmarshal([]byte(strings.Join(lines, "\n")), &conf); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"model": odd.Model, "model_provider": "rlca", "model_providers.rlca.base_url": "http://127.0.0.1:11434/v1", "model_providers.rlca.wire_api": "responses",
		"model_providers.rlca.env_key": "RLCA_TOKEN", "model_context_window": int64(32768), "web_search": "disabled", "analytics.enabled": false,
		"otel.metrics_exporter": "none", "features.daemon_auto_start": false, "check_for_update_on_startup": false, "shell_environment_policy.inherit": "core",
	} {
		if got := lookup(conf, key); got != want {
			t.Errorf("codex: %s = %v, want %v", key, got, want)
		}
	}
	if got := value(s.Set, "RLCA_TOKEN"); got != "t-1" || strings.Contains(strings.Join(s.Args, " "), "t-1") {
		t.Errorf("codex: the token is %q, args %q", got, s.Args)
	}
	if !slices.Contains(s.Unset, "OPENAI_BASE_URL") {
		t.Errorf("codex: unset %q", s.Unset)
	}

	s = tool(t, "opencode").Setup(odd, o)
	var oc struct {
		Model      string            `json:"model"`
		Small      string            `json:"small_model"`
		Enabled    []string          `json:"enabled_providers"`
		Share      string            `json:"share"`
		Permission map[string]string `json:"permission"`
		Provider   map[string]struct {
			Options struct{ BaseURL, APIKey string } `json:"options"`
			Models  map[string]struct {
				Limit struct{ Context, Output int } `json:"limit"`
			} `json:"models"`
		} `json:"provider"`
	}
	if err := json.Unmarshal([]byte(value(s.Set, "OPENCODE_CONFIG_CONTENT")), &oc); err != nil {
		t.Fatal(err)
	}
	p := oc.Provider["rlca"]
	if oc.Model != "rlca/"+odd.Model || oc.Small != oc.Model || oc.Share != "disabled" || oc.Permission["bash"] != "ask" || p.Options.BaseURL != "http://127.0.0.1:11434/v1" ||
		p.Options.APIKey != "t-1" || p.Models[odd.Model].Limit.Context != 32768 || p.Models[odd.Model].Limit.Output != 16384 {
		t.Errorf("opencode: %+v", oc)
	}
}

func TestEnviron(t *testing.T) {
	inherited := []string{"PATH=/bin", "OPENAI_API_KEY=sk-real", "ANTHROPIC_API_KEY=sk-real", "OPENAI_BASE_URL=https://x", "GROQ_API_KEY=", "no_proxy=a", "HOME=/h"}
	s := tool(t, "codex").Setup(spark, Options{Getenv: func(k string) string {
		for _, kv := range inherited {
			if v, ok := strings.CutPrefix(kv, k+"="); ok {
				return v
			}
		}
		return ""
	}})
	got := s.Environ(inherited)
	want := []string{"PATH=/bin", "HOME=/h", "NO_PROXY=a,127.0.0.1,localhost,::1", "no_proxy=a,127.0.0.1,localhost,::1"}
	if !slices.Equal(got, want) {
		t.Errorf("Environ() = %q, want %q", got, want)
	}
	for _, name := range claudeClouds { // these lead it elsewhere whatever its base URL
		if got := tool(t, "claude").Setup(spark, Options{}).Environ([]string{name + "=1", "PATH=/bin"}); slices.Contains(got, name+"=1") {
			t.Errorf("a launch passes %s on", name)
		}
	}
	if got := s.Dropped(inherited); !slices.Equal(got, []string{"ANTHROPIC_API_KEY", "OPENAI_API_KEY"}) {
		t.Errorf("Dropped() = %q", got)
	}
}

func TestSpeaks(t *testing.T) {
	for _, c := range []struct {
		tool, engine, version string
		ok, known             bool
	}{
		{"claude", "Ollama", "0.13.5", false, true}, {"claude", "Ollama", "0.14.0", true, true}, {"claude", "Ollama", "0.14.0-rc1", true, true},
		{"codex", "Ollama", "0.13.3", true, true}, {"codex", "Ollama", "0.13.2", false, true}, {"codex", "Ollama", "0.0.0", false, false},
		{"codex", "Ollama", "", false, false}, {"qwen", "Ollama", "0.1", true, true}, {"cline", "vLLM", "1.0", false, true},
		{"claude", "vLLM", "0.11.0", false, true}, {"claude", "vLLM", "0.32.0+cpu", true, true}, {"claude", "llama-server", "b1-7e4c0a9", false, false},
		{"claude", "mlx_lm.server", "", false, false},
	} {
		if ok, known := tool(t, c.tool).Speaks(c.engine, c.version); ok != c.ok || known != c.known {
			t.Errorf("%s with %s %s: %v, %v, want %v, %v", c.tool, c.engine, c.version, ok, known, c.ok, c.known)
		}
	}
	e := tool(t, "claude").Lacks("Ollama", "0.13.5")
	if e.Error() != "Claude Code speaks /v1/messages, and Ollama 0.13.5 does not have it" || e.Since != "0.14.0" || !slices.Contains(e.Others, "qwen") {
		t.Errorf("%v, %+v", e, e)
	}
}

func TestAsk(t *testing.T) {
	status := http.StatusBadRequest
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/messages" || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer rlca" {
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	h := tool(t, "claude")
	for code, want := range map[int]bool{400: true, 422: true, 500: true, 404: false, 405: false} {
		status = code
		if ok, err := h.Ask(t.Context(), Endpoint{BaseURL: srv.URL}); ok != want || err != nil {
			t.Errorf("status %d: %v, %v, want %v", code, ok, err, want)
		}
	}
	status = http.StatusServiceUnavailable
	if _, err := h.Ask(t.Context(), Endpoint{BaseURL: srv.URL}); err == nil {
		t.Error("a 503 is taken for an answer")
	}
}

func TestLocate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the programs are scripts of a POSIX shell")
	}
	dir := t.TempDir()
	script := func(path, text string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	script("bin/claude", "echo '2.1.330 (Claude Code)'")
	script("lib/node_modules/@openai/codex/bin/codex.js", "echo never")
	script(".nvm/versions/node/v22.1.0/bin/qwen", "exec sleep 60")
	os.WriteFile(filepath.Join(dir, "lib/node_modules/@openai/codex/package.json"), []byte(`{"name":"@openai/codex","version":"0.169.0"}`), 0o644)
	os.Symlink("../lib/node_modules/@openai/codex/bin/codex.js", filepath.Join(dir, "bin", "codex"))
	getenv := func(k string) string {
		return map[string]string{"HOME": dir, "PATH": ".:" + filepath.Join(dir, "bin") + ":/usr/bin:/bin"}[k]
	}
	for _, c := range []struct {
		name, path, version string
		inPath              bool
	}{
		{"claude", "bin/claude", "2.1.330", true},
		{"codex", "bin/codex", "0.169.0", true},
	} {
		h := tool(t, c.name)
		p, err := h.Locate(getenv)
		if err != nil || p.Path != filepath.Join(dir, c.path) || p.InPath != c.inPath {
			t.Errorf("%s: %+v, %v", c.name, p, err)
			continue
		}
		if h.ReadVersion(t.Context(), &p, []string{"PATH=/usr/bin:/bin"}); p.Version != c.version {
			t.Errorf("%s: version %q, want %q", c.name, p.Version, c.version)
		}
	}
	p, err := tool(t, "qwen").Locate(getenv)
	if err != nil || p.InPath || p.Path != filepath.Join(dir, ".nvm/versions/node/v22.1.0/bin/qwen") {
		t.Errorf("qwen beside PATH: %+v, %v", p, err)
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	tool(t, "qwen").ReadVersion(ctx, &p, []string{"PATH=/usr/bin:/bin"})
	if took := time.Since(start); p.Version != "" || took > versionLimit {
		t.Errorf("a program that says nothing: %q after %v", p.Version, took)
	}
	var none *NotInstalledError
	if _, err := tool(t, "goose").Locate(getenv); !errors.As(err, &none) || none.Program != "goose" || none.Install == "" {
		t.Errorf("goose: %v", err)
	}
}

func TestCloud(t *testing.T) {
	for name, want := range map[string]bool{"qwen3-coder:480b-cloud": true, "kimi-k2:cloud": true, "cloud:7b": false, "qwen3:8b": false} {
		if Cloud(name) != want {
			t.Errorf("Cloud(%q) = %v", name, !want)
		}
	}
	c := tool(t, "codex")
	for _, args := range [][]string{{"--search"}, {"-c", `web_search = "live"`}} {
		if c.Leaves(args) == "" {
			t.Errorf("codex %q leaves nothing", args)
		}
	}
	if c.Leaves([]string{"-c", `web_search="disabled"`}) != "" || tool(t, "qwen").Leaves([]string{"--search"}) != "" {
		t.Error("what stays is said to leave")
	}
}
