package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// writer makes up files as users and programs have them. The same seed makes the same ones.
type writer struct {
	*rand.Rand
	words    []string // keys that a tool sets are among them
	nl, unit string
	comments bool
	trailing bool
	lines    bool
}

func (g *writer) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g *writer) style() {
	g.nl, g.unit = g.pick("\n", "\n", "\r\n"), g.pick("  ", "    ", "\t", "")
	g.comments, g.trailing, g.lines = g.IntN(2) == 0, g.IntN(3) == 0, g.IntN(4) > 0
}

// gap is what may stand between two tokens of JSON.
func (g *writer) gap() string {
	if g.comments && g.IntN(5) == 0 {
		return g.pick(" /* c */ ", " // c, { \" ]"+g.nl, "/* a\r\nb */", "//"+g.nl)
	}
	return g.pick("", "", " ", "  ")
}

func (g *writer) json(depth int, indent string) string {
	open, close := "{", "}"
	switch n := g.IntN(10); {
	case depth > 0 && n > 5 || depth > 4:
		return g.pick(`"x"`, `"http://a//b"`, `"\"\\"`, "1", "-2.5e3", "true", "null", `"é\ud83d\ude00"`, `"# >>> rlca wire "`)
	case depth > 0 && n == 5:
		open, close = "[", "]"
	}
	var parts []string
	seen := map[string]bool{}
	for range g.IntN(5) {
		part := ""
		if open == "{" {
			key := g.pick(g.words...)
			var plain string
			json.Unmarshal([]byte(key), &plain)
			if seen[plain] {
				continue
			}
			seen[plain] = true
			part = key + g.gap() + ":" + g.gap()
		}
		parts = append(parts, part+g.json(depth+1, indent+g.unit))
	}
	out := open
	for i, p := range parts {
		if g.lines {
			out += g.nl + indent + g.unit
		}
		out += p
		if i < len(parts)-1 || g.trailing {
			out += g.gap() + ","
		}
		out += g.gap()
	}
	if g.lines {
		out += g.nl + indent
	}
	return out + close
}

// keysOf are the words of a JSON file's settings, and odd ones.
func keysOf(w *wiredFile) []string {
	words := []string{`"a"`, `"a.b"`, `"a/b"`, `"caf\u00e9"`, `"c\/d"`, `""`, `"\"q\""`}
	for _, s := range w.sets(spark, false) {
		for _, k := range s.path {
			words = append(words, quoted(k))
		}
		top := s.path[0] // written in another way
		words = append(words, quoted(top), fmt.Sprintf(`"\u%04x%s"`, top[0], top[1:]))
	}
	return words
}

var tomlTop = []string{
	"model = \"gpt-5\" # mine", "model = '''\nx\n# >>> rlca wire codex: rlca unwire codex takes this out >>>\nmodel = \"m\"\n# <<< rlca <<<\n#rlca# y'''", "\"model\" = 'a'",
	"approval_policy = \"never\"", "notice = \"\"\"\n[features]\nmodel = \"n\\\"\"\"\n# <<< rlca <<<\n#rlca# z\n\"\"\"\"", "web_search = \"live\"", "\tmodel_provider='openai'",
	"features.plugins = true", "analytics.x = 1", "otel = { exporter = \"none\" }", "list = [\n  [1, 2], # c\n  [\"]\"],\n]", "model_providers.mine = { name = \"m\" }", "# a comment", "", "d = 2020-01-01",
	"check_for_update_on_startup = true", "a.\"b.c\".d = 1",
}

var tomlTables = []string{
	"[analytics]\nenabled = true", "[features] # f\nweb = [\n  1,\n]\nplugins = true", "[ features ]", "[model_providers.other]\nname = \"o\"\nbase_url = \"u\"", "[[hooks]]\nmodel = \"h\"\n[[hooks]]\nenabled = true",
	"[projects.\"/a [b]\"]\ntrust_level = \"trusted\"", "[profiles.a]\nmodel = \"o3\"\nweb_search = \"live\"", "[mcp_servers.a]\ncommand = \"a\"\nargs = [\"x\"]", "[otel.exporter.x]\ny = \"\"", "[tui]\n\n# last", "[features.deep]\nx = 1",
}

var yamlParts = []string{
	"model: sonnet # c", "model:\n  sonnet", "'model': \"a: b\"", "name: mine", "version: 1.0.0", "schema: v1", "read:\n  - a\n  # c\n\n  - b", "lint-cmd: |\n  # >>> rlca wire aider: rlca unwire aider takes this out >>>\n  x\n\n  #rlca# y",
	"openai-api-base: >-\n    a\n\n    b", "rules:\n- a\n- |\n  models:\n    # <<< rlca <<<", "GOOSE_PROVIDER: anthropic", "GOOSE_MODEL: 'it''s'", "extensions:\n  developer: {enabled: true}", "# a comment", "", "x.y: [a, b]", "k/l: *no",
	"models:\n  - name: gpt\n    provider: openai", "models:\n- name: x\n  model: y", "models:\n     # odd\n     -\n       name: z", "models: # none yet", "models:", "OLLAMA_HOST: \"h\"", "check-update: true   ",
}

// file makes up a text for one of a tool's files.
func (g *writer) file(w *wiredFile) string {
	g.style()
	if g.IntN(12) == 0 {
		return g.pick("", "\n", " \t\r\n ", "\xef\xbb\xbf", "# c", "// c", "null", "[]", "---\n")
	}
	var parts []string
	mark, end := g.pick("", "", "", "\xef\xbb\xbf"), g.pick("", g.nl, g.nl, g.nl+g.nl)
	switch w.kind {
	case jsonFile:
		g.words = keysOf(w)
		return mark + g.gap() + g.json(0, "") + g.gap() + end
	case tomlFile:
		for range g.IntN(6) {
			parts = append(parts, g.pick(tomlTop...))
		}
		for range g.IntN(5) {
			parts = append(parts, g.pick(tomlTables...))
		}
	default:
		for range g.IntN(7) {
			parts = append(parts, g.pick(yamlParts...))
		}
	}
	return mark + strings.ReplaceAll(strings.Join(parts, "\n"), "\n", g.nl) + end
}

// rounds is how many files are made up for each of a tool's.
const rounds = 25

// eachFile calls f with every file that wire edits, and the same seeds each time.
func eachFile(t *testing.T, f func(t *testing.T, h *Tool, w *wiredFile, g *writer, round int)) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths of the table are those of Unix")
	}
	for i := range tools {
		for k := range tools[i].wired {
			h, w := &tools[i], &tools[i].wired[k]
			t.Run(h.Name+" "+filepath.Base(w.place.name), func(t *testing.T) {
				t.Parallel()
				for round := range rounds {
					f(t, h, w, &writer{Rand: rand.New(rand.NewPCG(uint64(i*10+k), uint64(round)))}, round)
					if t.Failed() {
						t.Fatalf("round %d", round)
					}
				}
			})
		}
	}
}

// oneFile is a tool that has one file alone, in a folder that is there.
func oneFile(t *testing.T, h *Tool, w *wiredFile) (one *Tool, path string, getenv func(string) string) {
	t.Helper()
	one = &Tool{Name: h.Name, Title: h.Title, wired: []wiredFile{*w}}
	dir := t.TempDir()
	getenv = func(k string) string { return map[string]string{"HOME": dir}[k] }
	path, err := w.place.path(getenv)
	if err != nil || os.MkdirAll(filepath.Dir(path), 0o755) != nil {
		t.Fatal(err)
	}
	return one, path, getenv
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whatever the file is, and whatever is wired in whatever order: unwire gives back its very bytes, and nothing stays beside it.
func TestAnyFileAndBack(t *testing.T) {
	t.Parallel()
	eachFile(t, func(t *testing.T, h *Tool, w *wiredFile, g *writer, round int) {
		h, path, getenv := oneFile(t, h, w)
		text := g.file(w)
		write(t, path, text)
		for range 1 + g.IntN(3) {
			e, loud := spark, g.IntN(3) == 0
			if g.IntN(2) == 0 {
				e = Endpoint{BaseURL: "http://127.0.0.1:11500", Model: g.pick("other", `o"d\d`, "a/b.c:d"), Token: g.pick("", "t")}
				os.Chmod(path, 0o600)
			}
			edits, err := h.Wire(e, loud, getenv)
			var parse *ParseError
			if errors.As(err, &parse) {
				break
			}
			save(t, edits, err)
		}
		edits, err := h.Unwire(getenv)
		var none *NotWiredError
		if !errors.As(err, &none) {
			save(t, edits, err)
		}
		if now := files(t, filepath.Dir(path)); len(now) != 1 || now[filepath.Base(path)] != text {
			t.Errorf("%q came back as %q", text, now)
		}
	})
}

// cutShort are the states in which a Save that was cut short leaves a folder: some of its steps are done, in their order.
func cutShort(before, after map[string]string, steps []string) []map[string]string {
	var out []map[string]string
	for n := 0; n <= len(steps); n++ {
		state := maps.Clone(before)
		for _, name := range steps[:n] {
			if text, ok := after[name]; ok {
				state[name] = text
			} else {
				delete(state, name)
			}
		}
		out = append(out, state)
	}
	return out
}

// Cut off at any step, a wire or an unwire can be taken back, or done again.
func TestCutShort(t *testing.T) {
	t.Parallel()
	other := Endpoint{BaseURL: "http://127.0.0.1:11500", Model: "other"}
	eachFile(t, func(t *testing.T, h *Tool, w *wiredFile, g *writer, round int) {
		if round%5 > 0 {
			return
		}
		h, path, getenv := oneFile(t, h, w)
		base, dir := filepath.Base(path), filepath.Dir(path)
		text, there := g.file(w), g.IntN(4) > 0
		put := func(state map[string]string) {
			for name := range files(t, dir) {
				os.Remove(filepath.Join(dir, name))
			}
			for name, text := range state {
				write(t, filepath.Join(dir, name), text)
			}
		}
		first := map[string]string{}
		if there {
			first[base] = text
		}
		put(first)
		edits, err := h.Wire(spark, false, getenv)
		if err != nil || !edits[0].Changed() {
			return
		}
		save(t, edits, err)
		wired := files(t, dir)
		edits, err = h.Wire(other, true, getenv)
		save(t, edits, err)
		again := files(t, dir)
		edits, err = h.Unwire(getenv)
		save(t, edits, err)
		last := files(t, dir)

		forward := []string{base + backupSuffix, base + recordSuffix, base}
		states := slices.Concat(cutShort(first, wired, forward), cutShort(wired, again, forward),
			cutShort(again, last, []string{base, base + recordSuffix, base + backupSuffix}))
		for _, state := range states {
			put(state)
			check := func(what string) {
				t.Helper()
				edits, err := h.Unwire(getenv)
				var none *NotWiredError
				if !errors.As(err, &none) {
					save(t, edits, err)
				}
				if err == nil && len(edits[0].Left) > 0 {
					t.Errorf("%s leaves %v in %q", what, edits[0].Left, state)
				}
				if now := files(t, dir); now[base] != text && there || !there && len(now) > 0 || now[base+recordSuffix] != "" {
					t.Errorf("%s of %q comes to %q, want %q", what, state, now, text)
				}
			}
			check("unwire")
			put(state)
			edits, err := h.Wire(other, true, getenv)
			save(t, edits, err)
			if now := files(t, dir); now[base] != again[base] {
				t.Errorf("wire of %q comes to %q, want %q", state, now, again[base])
			}
			check("wire and unwire")
		}
	})
}

// value reads JSON with comments.
func decoded(t *testing.T, text []byte) any {
	t.Helper()
	if root, err := parseJSON(text); err != nil {
		t.Fatalf("%q: %v", text, err)
	} else if root == nil {
		return map[string]any{}
	}
	var v any
	if err := json.Unmarshal([]byte(plain(text)), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// solid leaves out objects and lists in which nothing is.
func solid(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if e = solid(e); e != nil {
				out[k] = e
			}
		}
		if len(out) > 0 {
			return out
		}
		return nil
	case []any:
		var out []any
		for _, e := range v {
			out = append(out, solid(e))
		}
		if len(out) > 0 {
			return out
		}
		return nil
	case nil:
		return "null"
	}
	return v
}

// takenOut does to values what undo does to their text.
func takenOut(v any, c change) any {
	root, ok := v.(map[string]any)
	if !ok {
		return v
	}
	here := root
	for _, k := range c.Path[:len(c.Path)-1] {
		if here, ok = here[k].(map[string]any); !ok {
			return v
		}
	}
	var now, was any
	json.Unmarshal([]byte(c.Now), &now)
	leaf := c.Path[len(c.Path)-1]
	switch have, there := here[leaf]; {
	case !there:
	case c.Item:
		if list, ok := have.([]any); ok {
			if i := slices.IndexFunc(list, func(e any) bool { return reflect.DeepEqual(e, now) }); i >= 0 {
				here[leaf] = slices.Delete(slices.Clone(list), i, i+1)
			}
		}
	case !reflect.DeepEqual(have, now):
	case c.Was == "":
		delete(here, leaf)
	default:
		json.Unmarshal([]byte(plain([]byte(c.Was))), &was)
		here[leaf] = was
	}
	return v
}

// changed is a JSON text after a person or a program has been at it.
func (g *writer) changed(t *testing.T, text []byte, n int) []byte {
	root, err := parseJSON(text)
	if err != nil || root == nil {
		t.Fatalf("%q: %v", text, err)
	}
	var objects []*node
	var members []jsonMember
	var walk func(n *node)
	walk = func(n *node) {
		if n.kind == '{' {
			objects = append(objects, n)
		}
		for _, m := range n.members {
			members = append(members, m)
			walk(m.value)
		}
		for _, it := range n.items {
			walk(it)
		}
	}
	walk(root)
	in := objects[g.IntN(len(objects))]
	put := func(at, end int, s string) []byte { return slices.Concat(text[:at], []byte(s), text[end:]) }
	switch g.IntN(7) {
	case 0: // written anew
		out, _ := json.Marshal(decoded(t, text))
		return out
	case 1:
		out, _ := json.MarshalIndent(decoded(t, text), "", "\t")
		return append(out, '\n')
	case 2:
		return put(root.start+1, root.start+1, fmt.Sprintf("/* mine%d */", n))
	case 3:
		if len(members) > 0 {
			m := members[g.IntN(len(members))]
			return put(m.value.start, m.value.end, `"changed"`)
		}
	case 4:
		if len(in.members) > 0 {
			j := &jsonEdit{text: text}
			j.remove(in, g.IntN(len(in.members)))
			return j.text
		}
	case 5: // at the end, with a comma before it
		if len(in.members) > 0 && !in.comma {
			return put(in.lastValue(), in.lastValue(), fmt.Sprintf(",\n  \"new%d\": [1] // mine%d\n", n, n))
		}
	}
	comma := ","
	if len(in.members) == 0 {
		comma = ""
	}
	return put(in.start+1, in.start+1, fmt.Sprintf("\n\"new%d\": {\"x\": null}%s", n, comma))
}

// Of a JSON file that has been changed since, what wire set goes, what was there comes back, and all else stays.
func TestChangedJSON(t *testing.T) {
	t.Parallel()
	eachFile(t, func(t *testing.T, h *Tool, w *wiredFile, g *writer, round int) {
		if w.kind != jsonFile {
			return
		}
		h, path, getenv := oneFile(t, h, w)
		text := g.file(w)
		write(t, path, text)
		edits, err := h.Wire(spark, false, getenv)
		if err != nil || edits[0].record == nil {
			return
		}
		save(t, edits, err)
		now := []byte(read(t, path))
		for n := range 1 + g.IntN(3) {
			now = g.changed(t, now, n)
		}
		write(t, path, string(now))
		var r record
		if err := json.Unmarshal(edits[0].record, &r); err != nil {
			t.Fatal(err)
		}
		want := decoded(t, now)
		for _, c := range slices.Backward(r.Changes) {
			want = takenOut(want, c)
		}
		edits, err = h.Unwire(getenv)
		save(t, edits, err)
		back := []byte(read(t, path))
		if got := decoded(t, back); !reflect.DeepEqual(solid(got), solid(want)) {
			t.Errorf("%q, changed to\n%s\ncomes to\n%s\nwant %v", text, now, back, want)
		}
		if a, b := bytes.Count(now, []byte("/* mine")), bytes.Count(back, []byte("/* mine")); a != b {
			t.Errorf("%q, changed to\n%s\nhas lost a comment:\n%s", text, now, back)
		}
		// And again, over what is there now.
		again, err := h.Wire(spark, false, getenv)
		var parse *ParseError
		if errors.As(err, &parse) {
			return
		}
		save(t, again, err)
		edits, err = h.Unwire(getenv)
		var none *NotWiredError
		if !errors.As(err, &none) {
			save(t, edits, err)
		}
		if got := read(t, path); got != string(back) {
			t.Errorf("%q came back as %q", back, got)
		}
	})
}

// within reports whether all lines of a text that say something are in another, in their order.
func within(part, whole string) bool {
	lines := strings.Split(strings.ReplaceAll(whole, "\r", ""), "\n")
	for _, l := range strings.Split(strings.ReplaceAll(part, "\r", ""), "\n") {
		if strings.TrimSpace(l) == "" {
			continue
		}
		i := slices.Index(lines, l)
		if i < 0 {
			return false
		}
		lines = lines[i+1:]
	}
	return true
}

// Of a file with marks that has been changed since, in the blocks too, every line that wire did not write stays.
func TestChangedMarks(t *testing.T) {
	t.Parallel()
	eachFile(t, func(t *testing.T, h *Tool, w *wiredFile, g *writer, round int) {
		if w.kind == jsonFile {
			return
		}
		h, path, getenv := oneFile(t, h, w)
		text := g.file(w)
		write(t, path, text)
		edits, err := h.Wire(spark, false, getenv)
		if err != nil {
			return
		}
		save(t, edits, err)
		m, mark := newMarked("", []byte(read(t, path)))
		var mine []string
		for n := range 1 + g.IntN(3) {
			sep, at := " = ", g.IntN(len(m.lines)+1)
			if w.kind == yamlFile {
				sep = ": "
			}
			line := fmt.Sprintf("mine%d%s%d", n, sep, n)
			switch g.IntN(5) {
			case 0:
				at = len(m.lines)
			case 1:
				line = fmt.Sprintf("# mine%d", n)
			case 2:
				if w.kind == tomlFile {
					line = fmt.Sprintf("[mine%d]"+m.nl+"model = \"mine\"", n)
				}
			case 3: // a mark goes with what stood below it
				text, _ := m.inValues()
				if i := slices.Index(m.lines, markClose+m.nl); i >= 0 && !text[i] && w.kind == tomlFile {
					m.lines = slices.Delete(m.lines, i, i+1)
				}
				continue
			}
			if at == len(m.lines) && at > 0 && !strings.HasSuffix(m.lines[at-1], "\n") {
				continue
			}
			try := slices.Insert(slices.Clone(m.lines), at, line+m.nl)
			if w.kind == tomlFile {
				was, _ := readTOML(m.text())
				if now, err := readTOML(strings.Join(try, "")); err != nil || reflect.DeepEqual(was, now) != (line[0] == '#') {
					continue // it came into a string, or is there already
				}
			} else if at < len(m.lines) && strings.ContainsAny(m.lines[at][:1], " -\r\n") {
				continue // it came into the value of another
			}
			m.lines = try
			mine = append(mine, line)
		}
		now := m.text()
		write(t, path, mark+now)
		edits, err = h.Unwire(getenv)
		var parse *ParseError
		if errors.As(err, &parse) {
			return // it cannot be told apart, and nothing is changed
		}
		save(t, edits, err)
		back := ""
		if edits[0].After != nil {
			back = read(t, path)
		}
		if !within(strings.TrimPrefix(text, mark), strings.TrimPrefix(back, mark)) {
			t.Errorf("%q, changed to\n%s\nhas lost a line of it:\n%s", text, now, back)
		}
		for _, l := range mine {
			if !within(l, strings.TrimPrefix(back, mark)) {
				t.Errorf("%q, changed to\n%s\nhas lost %q:\n%s", text, now, l, back)
			}
		}
		if slices.ContainsFunc(strings.Split(back, "\n"), func(l string) bool { return strings.HasPrefix(l, "model_provider = \"rlca\"") }) {
			t.Errorf("%q, changed to\n%s\nstill has what rlca wrote:\n%s", text, now, back)
		}
	})
}
