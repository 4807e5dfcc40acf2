package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

var spark = Endpoint{BaseURL: "http://127.0.0.1:11434", Model: "qwen3-coder:30b", Context: 65536}

// home is a home with files in it, and the environment that leads there.
func home(t *testing.T, files map[string]string) (dir string, getenv func(string) string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func(k string) string {
		return map[string]string{"HOME": dir, "APPDATA": filepath.Join(dir, ".config"), "LOCALAPPDATA": filepath.Join(dir, ".config")}[k]
	}
}

func tool(t *testing.T, name string) *Tool {
	t.Helper()
	found, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func save(t *testing.T, edits []*Edit, err error) []*Edit {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		if err := e.Save(); err != nil {
			t.Fatal(err)
		}
	}
	return edits
}

// files are all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// before are files as users have them: each is wired, wired again, and unwired, and must have its very bytes.
var before = map[string][]string{
	"claude .claude/settings.json": {
		"", "{}", "{ }\n", "{\n}\n", "\xef\xbb\xbf{\r\n\t\"model\": \"opus\"\r\n}\r\n", `{"a":1}`, `{"env":{"ANTHROPIC_MODEL":"x","FOO":"bar"}}`,
		"{\n    \"permissions\": {\n        \"allow\": [\"Bash(ls:*)\"]\n    },\n    \"env\": {\n        \"FOO\": \"bar\" // mine\n    }\n}",
		"{\n  \"env\": {}, // nothing\n}\n", "// only a comment\n{\n  // and one here\n}\n", "{\"env\": {\n\"A\": \"b\",\n}}",
	},
	"qwen .qwen/settings.json": {
		"", "{\n  \"modelProviders\": {\n    \"openai\": [\n      {\"id\": \"gpt\", \"envKey\": \"X\"}\n    ]\n  },\n  \"security\": {\"auth\": {\"selectedType\": \"qwen-oauth\"}}\n}\n",
		"{\"modelProviders\": {\"openai\": []}, \"model\": {\"name\": \"a\\u00e9\"}}\n",
	},
	"codex .codex/config.toml": {
		"", "\n", "model = \"gpt-5\"\n", "# mine\nmodel = \"gpt-5\" # good\r\nmodel_provider = 'openai'\r\n\r\n[tui]\r\nnotifications = true",
		"notice = \"\"\"\nmodel = \"not this\"\n\"\"\"\nmodel = '''\nx\n'''\n[analytics]\nenabled = true\n[profiles.a]\nmodel = \"o3\"",
		"[model_providers.other]\nname = \"o\"\n\n[features] # some\nplugins = true\nweb = [\n  1,\n  2,\n]\n[projects.\"/a b\"]\ntrust_level = \"trusted\"\n",
		"\xef\xbb\xbfapproval_policy = \"on-request\"\notel = { exporter = \"none\" }\n", "analytics.enabled = true",
	},
	"opencode .config/opencode/opencode.json": {
		"", "{\n\t\"$schema\": \"https://opencode.ai/config.json\",\n\t\"provider\": {\n\t\t\"rlca\": {\"npm\": \"mine\"},\n\t},\n}\n",
	},
	"opencode .config/opencode/opencode.jsonc": {"{\n  // mine\n  \"model\": \"a/b\", /* c */\n}\n"},
	"pi .pi/agent/models.json":                 {"", "{\"providers\": {\"x\": {\"models\": []}}}"},
	"continue .continue/config.yaml": {
		"", "name: mine\nversion: 1.0.0\nschema: v1\nmodels:\n  - name: gpt\n    provider: openai\nrules:\n- a\n", "# c\nname: mine\r\nmodels:\r\n- name: x\r\n  model: y\r\n",
		"name: mine\nversion: 1.0.0", "models: # none yet\n",
	},
	"cline .cline/data/settings/providers.json": {"", "{\"version\":1,\"lastUsedProvider\":\"anthropic\",\"providers\":{\"anthropic\":{\"settings\":{\"apiKey\":\"secret\"}}}}"},
	"aider .aider.conf.yml": {
		"", "model: sonnet\nread:\n  - CONVENTIONS.md\n  # c\nauto-commits: false", "---\n## a\nopenai-api-base: 'x'\nlint-cmd: |\n  a\n\n  b\n",
	},
	"goose .config/goose/config.yaml": {"", "GOOSE_PROVIDER: anthropic\nextensions:\n  developer:\n    enabled: true\n"},
	"crush .config/crush/crush.json":  {"", "{\n  \"$schema\": \"https://charm.land/crush.json\",\n  \"options\": {\n    \"tui\": {\"compact_mode\": true}\n  }\n}\n"},
	"zed .config/zed/settings.json": {
		"", "// Zed settings\n//\n{\n  \"theme\": \"One Dark\",\n  // models\n  \"language_models\": {\n    \"ollama\": {\n      \"api_url\": \"http://localhost:11434\", // local\n    },\n  },\n  \"agent\": {\n    \"default_model\": {\"provider\": \"zed.dev\", \"model\": \"x\"},\n  },\n}\n",
	},
}

func TestWireAndBack(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths of the table are those of Unix")
	}
	t.Parallel()
	seen := map[string]bool{}
	for key, texts := range before {
		name, file, _ := strings.Cut(key, " ")
		seen[name] = true
		h := tool(t, name)
		for _, text := range texts {
			for _, there := range []bool{true, false} {
				start := map[string]string{}
				if there {
					start[file] = text
				} else if text != "" {
					continue
				}
				dir, getenv := home(t, start)
				edits, err := h.Wire(spark, false, getenv)
				save(t, edits, err)
				wired := files(t, dir)
				if !strings.Contains(wired[file], "qwen3-coder:30b") || !strings.Contains(wired[file]+wired[".pi/agent/models.json"], "127.0.0.1:11434") {
					t.Errorf("%s of %q says after wire:\n%s", file, text, wired[file])
				}
				valid(t, file, wired[file])
				if crlf, lf := strings.Count(text, "\r\n"), strings.Count(text, "\n"); crlf > 0 && crlf == lf {
					if a, b := strings.Count(wired[file], "\r\n"), strings.Count(wired[file], "\n"); a != b {
						t.Errorf("%s of %q has lines of two kinds after wire: %q", file, text, wired[file])
					}
				}
				edits, err = h.Wire(spark, false, getenv)
				for _, e := range save(t, edits, err) {
					if e.Changed() {
						t.Errorf("a second wire of %q changes it:\n%s", text, e.Diff())
					}
				}
				// Another model, and back to this one: nothing is left of the first.
				edits, err = h.Wire(Endpoint{BaseURL: "http://127.0.0.1:11500", Model: "other"}, true, getenv)
				save(t, edits, err)
				if now := files(t, dir); strings.Contains(now[file], "qwen3-coder") {
					t.Errorf("%s of %q still has the first model:\n%s", file, text, now[file])
				}
				edits, err = h.Wire(spark, false, getenv)
				save(t, edits, err)
				if now := files(t, dir); now[file] != wired[file] {
					t.Errorf("%s of %q after another model:\n%q\nwant\n%q", file, text, now[file], wired[file])
				}
				edits, err = h.Unwire(getenv)
				save(t, edits, err)
				if now := files(t, dir); len(now) != len(start) || there && now[file] != text {
					t.Errorf("%s of %q after unwire: %q", file, text, now)
				}
			}
		}
	}
	for i := range tools {
		if h := &tools[i]; h.Wirable() != seen[h.Name] {
			t.Errorf("%s can be wired: %v, and the table has it: %v", h.Name, h.Wirable(), seen[h.Name])
		}
	}
}

// valid reads a file as the program would.
func valid(t *testing.T, file, text string) {
	t.Helper()
	switch filepath.Ext(file) {
	case ".toml":
		var v map[string]any
		if err := toml.Unmarshal([]byte(strings.TrimPrefix(text, string(bom))), &v); err != nil {
			t.Errorf("%s is no TOML: %v\n%s", file, err, text)
			return
		}
		for key, want := range map[string]any{
			"model": "qwen3-coder:30b", "model_provider": "rlca", "model_context_window": int64(65536), "model_providers.rlca.base_url": "http://127.0.0.1:11434/v1",
		} {
			if got := lookup(v, key); got != want {
				t.Errorf("%s: %s = %v, want %v\n%s", file, key, got, want, text)
			}
		}
	case ".json", ".jsonc":
		if _, err := parseJSON([]byte(text)); err != nil {
			t.Errorf("%s is no JSON: %v\n%s", file, err, text)
		}
		if !json.Valid([]byte(plain([]byte(text)))) {
			t.Errorf("%s is no JSON without its comments: %s", file, plain([]byte(text)))
		}
	}
}

// What a program or a person changed since stays, and what wire set goes.
func TestUnwireAfterChanges(t *testing.T) {
	t.Parallel()
	h := tool(t, "claude")
	dir, getenv := home(t, map[string]string{".claude/settings.json": "{\n  \"env\": {\n    \"ANTHROPIC_MODEL\": \"opus\"\n  }\n}\n"})
	edits, err := h.Wire(spark, false, getenv)
	save(t, edits, err)
	path := filepath.Join(dir, ".claude", "settings.json")
	text, _ := os.ReadFile(path)
	// The program writes the file anew, in its own way, with more in it, and one of ours is another.
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	v["theme"] = "dark"
	env := v["env"].(map[string]any)
	env["MINE"] = "1"
	env["API_TIMEOUT_MS"] = "5"
	text, _ = json.Marshal(v)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	edits, err = h.Unwire(getenv)
	save(t, edits, err)
	if got := edits[0].Left; len(got) != 1 || got[0] != "env.API_TIMEOUT_MS" {
		t.Errorf("left: %v", got)
	}
	text, _ = os.ReadFile(path)
	if want := `{"env":{"ANTHROPIC_MODEL":"opus","API_TIMEOUT_MS":"5","MINE":"1"},"theme":"dark"}`; string(text) != want {
		t.Errorf("after unwire %s\nwant %s", text, want)
	}
	if edits[0].Backup() == "" {
		t.Error("the copy is gone, and the file is not as it was")
	}

	// Objects and lists that wire made go with what was in them; a comment keeps them.
	for _, c := range []struct{ more, want string }{{`"x": 1`, "{\n  \"x\": 1\n}\n"}, {`"x": [1, 2,], // c`, "{\n  \"x\": [1, 2,] // c\n}\n"}} {
		q := tool(t, "qwen")
		dir, getenv = home(t, map[string]string{".qwen/settings.json": "{\n}\n"})
		edits, err = q.Wire(spark, false, getenv)
		save(t, edits, err)
		path = filepath.Join(dir, ".qwen", "settings.json")
		text, _ = os.ReadFile(path)
		comma := ","
		if strings.Contains(c.more, "//") {
			comma = ""
		}
		text = bytes.Replace(text, []byte("{\n"), []byte("{\n  "+c.more+comma+"\n"), 1)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		edits, err = q.Unwire(getenv)
		save(t, edits, err)
		if text, _ = os.ReadFile(path); string(text) != c.want {
			t.Errorf("after unwire %q, want %q", text, c.want)
		}
	}

	// Marked blocks: lines below stay where they are.
	c := tool(t, "codex")
	dir, getenv = home(t, map[string]string{".codex/config.toml": "model = \"a\""})
	edits, err = c.Wire(spark, false, getenv)
	save(t, edits, err)
	path = filepath.Join(dir, ".codex", "config.toml")
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString("[mine]\nx = 1\n")
	f.Close()
	edits, err = c.Unwire(getenv)
	save(t, edits, err)
	if text, _ = os.ReadFile(path); string(text) != "model = \"a\"\n[mine]\nx = 1\n" {
		t.Errorf("after unwire %q", text)
	}
}

func TestWireRefuses(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths of the table are those of Unix")
	}
	t.Parallel()
	for _, c := range []struct {
		name, file, text string
		line             int
		want             string
	}{
		{"claude", ".claude/settings.json", "{\n  \"a\": 1\n  \"b\": 2\n}", 3, "a comma is missing"},
		{"claude", ".claude/settings.json", "{\n  \"a\": 1,\n\n  \"a\": 2\n}", 4, `"a" is there twice`},
		{"claude", ".claude/settings.json", "{\n\"a\": tru\n}", 2, `"tru" is no value`},
		{"claude", ".claude/settings.json", "[1]", 1, "is no object"},
		{"claude", ".claude/settings.json", "{\"env\":\n 5}", 2, "env is no object"},
		{"claude", ".claude/settings.json", "{\"env\": \"x\ny\"}", 1, "a string has no end"},
		{"claude", ".claude/settings.json", "{} x", 1, "follows the end"},
		{"claude", ".claude/settings.json", "{\n /* ", 2, "a comment has no end"},
		{"claude", ".claude/settings.json", "{\n\"a\":", 2, "ends in the middle"},
		{"claude", ".claude/settings.json", "\xff\xfe{\x00}\x00", 1, "not UTF-8"},
		{"claude", ".claude/settings.json", strings.Repeat(`{"a":`, 300), 1, "nested more than"},
		{"qwen", ".qwen/settings.json", "{\"modelProviders\": {\"openai\": {}}}", 1, "is no list"},
		{"codex", ".codex/config.toml", "a = 1\nb = \n", 2, ""},
		{"codex", ".codex/config.toml", "a = 1\n[model_providers.rlca]\nname = \"x\"\n", 2, "rlca did not write"},
		{"aider", ".aider.conf.yml", "# >>> rlca wire aider: rlca unwire aider takes this out >>>\nmodel: m\n", 1, "has lost its last line"},
		{"aider", ".aider.conf.yml", "a: 1\n\tb: 2\n", 2, "a tab begins"},
		{"aider", ".aider.conf.yml", "a: 1\n---\nb: 2\n", 2, "more than one YAML document"},
		{"aider", ".aider.conf.yml", "- a\n", 1, "no mapping"},
		{"aider", ".aider.conf.yml", "{a: 1}\n", 1, "no plain mapping"},
		{"aider", ".aider.conf.yml", "a: 1\na: 2\n", 2, "twice"},
		{"aider", ".aider.conf.yml", "a: \"1\nb: 2\n", 1, "has no end"},
		{"continue", ".continue/config.yaml", "models: []\n", 1, "is no list of lines"},
		{"continue", ".continue/config.yaml", "a: 1\nmodels:", 2, "has no end"},
		{"continue", ".continue/config.yaml", "models:\n  # c\n  gpt: {}\n", 3, "is no list of lines"},
		{"continue", ".continue/config.yaml", "models:\n  [a, b]\n", 2, "is no list of lines"},
		{"continue", ".continue/config.yaml", "models:\n  -name: x\n", 2, "is no list of lines"},
		{"aider", ".aider.conf.yml", "read: [a]\nmodel: &m sonnet\nweak-model: *m\n", 2, "the anchor &m"},
		{"claude", ".claude/settings.json", "{ // c\r \"env\": {}\n}", 1, "a carriage return"},
	} {
		dir, getenv := home(t, map[string]string{c.file: c.text})
		_, err := tool(t, c.name).Wire(spark, false, getenv)
		var parse *ParseError
		if !errors.As(err, &parse) || parse.Line != c.line || !strings.Contains(parse.Text, c.want) || parse.Path != filepath.Join(dir, c.file) {
			t.Errorf("wire %s with %q: %v, want line %d: %s", c.name, c.text, err, c.line, c.want)
		}
		if now := files(t, dir); len(now) != 1 || now[c.file] != c.text {
			t.Errorf("after a refusal: %q", now)
		}
	}
}

func TestWireKeepsLinksAndModes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes and links of Unix")
	}
	t.Parallel()
	h := tool(t, "claude")
	dir, getenv := home(t, map[string]string{"dotfiles/claude.json": "{}\n"})
	real, link := filepath.Join(dir, "dotfiles", "claude.json"), filepath.Join(dir, ".claude", "settings.json")
	if err := errors.Join(os.Chmod(real, 0o640), os.Mkdir(filepath.Dir(link), 0o700), os.Symlink("../dotfiles/claude.json", link)); err != nil {
		t.Fatal(err)
	}
	edits, err := h.Wire(spark, false, getenv)
	save(t, edits, err)
	check := func() {
		t.Helper()
		if to, err := os.Readlink(link); err != nil || to != "../dotfiles/claude.json" {
			t.Errorf("the link leads to %q, %v", to, err)
		}
		if info, err := os.Stat(real); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("the mode is %v, %v", info.Mode(), err)
		}
	}
	check()
	for _, name := range []string{link + backupSuffix, link + recordSuffix} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	edits, err = h.Unwire(getenv)
	save(t, edits, err)
	check()

	if err := os.Remove(real); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wire(spark, false, getenv); err == nil || !strings.Contains(err.Error(), "leads nowhere") {
		t.Errorf("wire through a link that leads nowhere: %v", err)
	}
	if _, err := h.Unwire(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "neither HOME") {
		t.Errorf("without a home: %v", err)
	}
}

func TestNotWired(t *testing.T) {
	t.Parallel()
	dir, getenv := home(t, map[string]string{".config/goose/config.yaml": "a: 1\n", ".config/goose/config.yaml.rlca-backup": "b: 1\n"})
	_, err := tool(t, "goose").Unwire(getenv)
	var none *NotWiredError
	if runtime.GOOS != "windows" && (!errors.As(err, &none) || none.Backup != filepath.Join(dir, ".config", "goose", "config.yaml.rlca-backup")) {
		t.Errorf("unwire of what is not wired: %#v", err)
	}
	_, getenv = home(t, nil)
	if _, err = tool(t, "claude").Unwire(getenv); !errors.As(err, &none) {
		t.Errorf("unwire without a file: %v", err)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	e := Edit{Path: "f", Before: []byte("1\n2\n3\n4\n5\n6\n7\n8\n9"), After: []byte("1\n2\n3\n4\nx\n6\n7\n8\n9\n10\n")}
	want := "--- f\n+++ f\n@@ -2,8 +2,9 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n-9\n\\ No newline at end of file\n+9\n+10\n"
	if got := e.Diff(); got != want {
		t.Errorf("Diff() = %q, want %q", got, want)
	}
	long := strings.Repeat("x\ny\n", 5000)
	e = Edit{Path: "f", Before: []byte("1\n" + long + "2\n"), After: []byte("3\n" + long + "4\n")} // takes no time, and no room
	if got := e.Diff(); !strings.HasPrefix(got, "--- f\n+++ f\n@@ -1,10002 +1,10002 @@\n-1\n-x\n") || strings.Count(got, "\n") != 3+2*10002 {
		t.Errorf("Diff() of long texts has %d lines", strings.Count(got, "\n"))
	}
	e = Edit{Path: "f", After: []byte("a\n")}
	if got, want := e.Diff(), "--- /dev/null\n+++ f\n@@ -0,0 +1,1 @@\n+a\n"; got != want {
		t.Errorf("Diff() = %q, want %q", got, want)
	}
}

// Whatever is in a file: it is refused, or wired to something that can be read and undone to its very bytes.
func FuzzWire(f *testing.F) {
	for key, texts := range before {
		for _, text := range texts {
			f.Add(key[strings.IndexByte(key, '.'):], []byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, ext string, text []byte) {
		var h *Tool
		switch {
		case strings.HasSuffix(ext, ".toml"):
			h = tool(t, "codex")
		case strings.HasSuffix(ext, ".yaml"):
			h = tool(t, "continue")
		case strings.HasSuffix(ext, ".yml"):
			h = tool(t, "aider")
		case strings.Contains(ext, "qwen"):
			h = tool(t, "qwen")
		default:
			h = tool(t, "zed")
		}
		if bytes.Contains(text, []byte("rlca")) || len(text) > 4096 {
			return // its own marks in a user's hand are another matter
		}
		w := &h.wired[0]
		ed := &Edit{Path: "f", Before: append([]byte{}, text...)}
		var err error
		if w.kind == jsonFile {
			err = ed.wireJSON(h.Name, ed.Before, false, w.sets(spark, false))
		} else {
			err = ed.wireLines(h.Name, ed.Before, false, w, spark, false)
		}
		if err != nil {
			return
		}
		var back []byte
		if w.kind == jsonFile {
			if _, err := parseJSON(ed.After); err != nil || json.Valid(text) && !json.Valid(ed.After) {
				t.Fatalf("%q was wired to %q: %v", text, ed.After, err)
			}
			var r record
			if ed.record != nil {
				if err := json.Unmarshal(ed.record, &r); err != nil {
					t.Fatal(err)
				}
			}
			back = ed.After
			for i := len(r.Splices) - 1; i >= 0; i-- {
				s := r.Splices[i]
				back = append(append(append([]byte{}, back[:s.At]...), s.Old...), back[s.At+len(s.New):]...)
			}
			// Change by change it comes to a file that says the same.
			j := &jsonEdit{text: ed.After}
			for i := len(r.Changes) - 1; i >= 0; i-- {
				if ok, err := j.undo(r.Changes[i]); !ok || err != nil {
					t.Fatalf("undo %+v in %q: %v, %v", r.Changes[i], j.text, ok, err)
				}
			}
			was := plain(text)
			if root, _ := parseJSON(text); root == nil {
				was = "{}"
			}
			if got := plain(j.text); got != was {
				t.Fatalf("%q, change by change, came back as %q", text, j.text)
			}
		} else if back, _, _, err = w.unmark(ed.After); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(back, text) {
			t.Fatalf("%q came back as %q by way of %q", text, back, ed.After)
		}
	})
}
