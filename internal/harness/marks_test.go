package harness

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const (
	codexHead = `# >>> rlca wire codex: rlca unwire codex takes this out >>>
model_provider = "rlca"
model = "qwen3-coder:30b"
model_context_window = 65536
web_search = "disabled"
analytics.enabled = false
otel.metrics_exporter = "none"
features.plugins = false
features.apps = false
`
	codexTail = `# >>> rlca wire codex: rlca unwire codex takes this out >>>
[model_providers.rlca]
name = "rlca"
base_url = "http://127.0.0.1:11434/v1"
wire_api = "responses"
stream_idle_timeout_ms = 1800000
`
	update = "check_for_update_on_startup = false\n"
	ended  = markClose + "\n"
)

// What Codex CLI 0.169.0 made of a wired config.toml, and what is left of it without rlca's lines.
func TestUnwireAfterCodex(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct{ now, want string }{
		"features enable, mcp add": {
			codexHead + "features.web_search_request = true\n" + update + ended + codexTail + "\n[mcp_servers.new]\ncommand = \"foo\"\n" + ended,
			"features.web_search_request = true\n\n[mcp_servers.new]\ncommand = \"foo\"\n",
		},
		"mcp remove of the first table": {
			codexHead + update + "\n[mcp_servers.b]\ncommand = \"b\"\n\n[projects.\"/x\"]\ntrust_level = \"trusted\"\n" + codexTail + ended,
			"\n[mcp_servers.b]\ncommand = \"b\"\n\n[projects.\"/x\"]\ntrust_level = \"trusted\"\n",
		},
		"mcp add before": {
			codexHead + update + ended + "\n[mcp_servers.new]\ncommand = \"foo\"\nname = \"model\"\n" + codexTail + ended,
			"\n[mcp_servers.new]\ncommand = \"foo\"\nname = \"model\"\n",
		},
		"the last table is gone, and the mark with it": {codexHead + update + ended + "a.b = 1\n" + codexTail, "a.b = 1\n"},
	} {
		out, was, _, err := codexFile.unmark([]byte(c.now))
		if err != nil || !was || string(out) != c.want {
			t.Errorf("%s: %q, %v, %v, want %q", what, out, was, err, c.want)
		}
	}
}

// Where a line cannot be told from rlca's, or would come to stand elsewhere, nothing is changed.
func TestUnwireRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		w          *wiredFile
		text, want string
	}{
		{&codexFile, "[a]\nx = 1\n" + codexTail + "request_max_retries = 4\n" + ended, "take it out first"},
		{&codexFile, "[a]\nx = 1\n" + codexTail + ended + "request_max_retries = 4\n", "leaves all else as it is"},
		{&continueFile, "models:\n  # >>> rlca wire continue: rlca unwire continue takes this out >>>\n  - name: rlca\n    model: m\n    contextLength: 5\n  # <<< rlca <<<\n", "take it out first"},
		{&aiderFile, "# >>> rlca wire aider: rlca unwire aider takes this out >>>\nmodel: m\na: 1\n# >>> rlca wire aider: rlca unwire aider takes this out >>>\nmodel: m\n# <<< rlca <<<\n", "has lost its last line"},
	} {
		_, _, _, err := c.w.unmark([]byte(c.text))
		var parse *ParseError
		if !errors.As(err, &parse) || !strings.Contains(parse.Text, c.want) {
			t.Errorf("unmark(%q): %v, want %s", c.text, err, c.want)
		}
	}
}

// The list that wire began stays if others have put their items into it, and what they put between the marks too.
func TestUnwireKeepsItems(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths of the table are those of Unix")
	}
	t.Parallel()
	const mine = "  - name: mine\n    provider: openai\n    roles:\n      - chat\n"
	for _, c := range []struct{ start, where, want string }{
		{"", "end", "models:\n" + mine},
		{"", "within", "models:\n" + mine},
		{"name: x\n", "end", "name: x\nmodels:\n" + mine},
		{"name: x", "within", "name: x\nmodels:\n" + mine},
		{"models:\n  - name: a\nname: x\n", "within", "models:\n" + mine + "  - name: a\nname: x\n"},
	} {
		start := map[string]string{}
		if c.start != "" {
			start[".continue/config.yaml"] = c.start
		}
		dir, getenv := home(t, start)
		edits, err := tool(t, "continue").Wire(spark, false, getenv)
		save(t, edits, err)
		path := filepath.Join(dir, ".continue", "config.yaml")
		text := read(t, path)
		if c.where == "end" {
			text += mine
		} else {
			i := strings.LastIndex(text[:strings.Index(text, markClose)], "\n") + 1
			text = text[:i] + mine + text[i:]
		}
		write(t, path, text)
		for range 2 { // wired again they stay too
			edits, err = tool(t, "continue").Wire(spark, false, getenv)
			save(t, edits, err)
		}
		edits, err = tool(t, "continue").Unwire(getenv)
		save(t, edits, err)
		if got, err := os.ReadFile(path); string(got) != c.want {
			t.Errorf("%q, an item %s: %q, %v, want %q", c.start, c.where, got, err, c.want)
		}
	}
}

// A key in one table is not taken for that of another, wherever the lines stand.
func TestWireTOMLTables(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"[mcp_servers.x]\nenabled = true\n[analytics]\nenabled = true\n",
		"notice = \"\"\"\n[analytics]\nenabled = true\n\"\"\"\n[analytics]\nenabled = true\n",
		"notify = [\n  [\"model = \"],\n  [\"x\"]\n]\nmodel = \"x\"\n",
		"features.x = true\n",
	} {
		ed := &Edit{Path: "f", Before: []byte(text)}
		if err := ed.wireLines("codex", ed.Before, false, &codexFile, spark, false); err != nil {
			t.Errorf("wire of %q: %v", text, err)
			continue
		}
		v, err := readTOML(string(ed.After))
		if err != nil || lookup(v, "analytics.enabled") != false || lookup(v, "features.plugins") != false || lookup(v, "model") != "qwen3-coder:30b" {
			t.Errorf("%q comes to %v\n%s", text, err, ed.After)
		}
		if back, _, _, err := codexFile.unmark(ed.After); err != nil || string(back) != text {
			t.Errorf("%q came back as %q, %v", text, back, err)
		}
	}
}
