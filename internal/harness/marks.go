package harness

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// In TOML and YAML, what wire adds stands between two marks, and a line of the user's that would contradict it is kept
// as a comment. Both can be taken back from the text alone.
const (
	markOpen  = "# >>> rlca wire "
	markClose = "# <<< rlca <<<"
	off       = "#rlca# "

	madeFile  = " (it made this file)"
	endedLine = " (it ended the line above)"
)

func itoa(n int) string { return strconv.Itoa(n) }

// table is a table of TOML with its entries.
type table struct {
	name    string
	entries []entry
}

// marked is a text with comments, in lines.
type marked struct {
	tool  string
	nl    string
	lines []string // each with its end
}

func newMarked(tool string, text []byte) (m *marked, mark string) {
	if bytes.HasPrefix(text, bom) {
		mark, text = string(bom), text[len(bom):]
	}
	m = &marked{tool: tool, nl: newline(text)}
	for line := range bytes.Lines(text) {
		m.lines = append(m.lines, string(line))
	}
	return m, mark
}

func (m *marked) text() string { return strings.Join(m.lines, "") }

// block is what is put in as one piece.
func (m *marked) block(indent, note string, lines []string) []string {
	out := []string{indent + markOpen + m.tool + ": rlca unwire " + m.tool + " takes this out" + note + " >>>" + m.nl}
	for _, l := range lines {
		out = append(out, indent+l+m.nl)
	}
	return append(out, indent+markClose+m.nl)
}

// append puts a block behind the last line.
func (m *marked) append(lines []string, note string) {
	if n := len(m.lines); n > 0 && !strings.HasSuffix(m.lines[n-1], "\n") {
		m.lines[n-1] += m.nl
		note += endedLine
	}
	m.lines = append(m.lines, m.block("", note, lines)...)
}

// unmark takes everything that is marked out again.
func unmark(text []byte) (out []byte, was, made bool, err error) {
	m, mark := newMarked("", text)
	var kept []string
	join, since := "", 0 // what ended the line above, if nothing follows; since is where a block began
	for i := 0; i < len(m.lines); i++ {
		line := m.lines[i]
		trimmed := strings.TrimLeft(line, " \t")
		switch {
		case strings.HasPrefix(trimmed, markOpen):
			was, since = true, i+1
			made = made || strings.Contains(line, madeFile)
			join = ""
			if strings.Contains(line, endedLine) {
				join = newline([]byte(line))
			}
			for i++; i < len(m.lines) && !strings.HasPrefix(strings.TrimLeft(m.lines[i], " \t"), markClose); i++ {
			}
			if i == len(m.lines) {
				return nil, true, made, &ParseError{Line: since, Text: "the block that rlca wrote has lost its last line, " + markClose}
			}
		case strings.HasPrefix(line, off):
			was, join = true, ""
			kept = append(kept, strings.TrimPrefix(line, off))
		default:
			join = ""
			kept = append(kept, line)
		}
	}
	if n := len(kept); join != "" && n > 0 {
		kept[n-1] = strings.TrimSuffix(kept[n-1], join)
	}
	return []byte(mark + strings.Join(kept, "")), was, made, nil
}

// wireTOML sets entries before the first table, or in the table that is there already, and adds tables at the end.
func wireTOML(tool string, text []byte, made bool, top []entry, tables []table) ([]byte, error) {
	m, mark := newMarked(tool, text)
	before, err := readTOML(m.text())
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if lookup(before, t.name) != nil {
			return nil, &ParseError{Line: m.lineOf(regexp.MustCompile(regexp.QuoteMeta(t.name))), Text: "there is a " + t.name + " that rlca did not write: rename it first"}
		}
	}
	rest := before // without what is set
	var head []string
	under := map[string][]string{} // entries of tables that the file has
	var names []string
	for _, kv := range top {
		parent, leaf := "", kv.key
		if i := strings.LastIndexByte(kv.key, '.'); i >= 0 {
			parent, leaf = kv.key[:i], kv.key[i+1:]
		}
		here := parent != "" && lookup(before, parent) != nil
		if here && m.header(parent) < 0 {
			continue // written in another way than [table]: the user's own setting stays
		}
		if lookup(before, kv.key) != nil {
			rest = without(rest, strings.Split(kv.key, "."))
			if err := m.disable(leaf, rest); err != nil {
				return nil, err
			}
		}
		if here {
			if under[parent] == nil {
				names = append(names, parent)
			}
			under[parent] = append(under[parent], leaf+" = "+kv.value)
		} else {
			head = append(head, kv.key+" = "+kv.value)
		}
	}
	for _, name := range names {
		at := m.header(name) + 1
		if !strings.HasSuffix(m.lines[at-1], "\n") {
			return nil, &ParseError{Line: at, Text: "the table [" + name + "] is empty and its line has no end"}
		}
		m.lines = slices.Insert(m.lines, at, m.block("", "", under[name])...)
	}
	note := ""
	if made {
		note = madeFile
	}
	m.lines = append(m.block("", note, head), m.lines...)
	var tail []string
	for _, t := range tables {
		tail = append(tail, "["+t.name+"]")
		for _, kv := range t.entries {
			tail = append(tail, kv.key+" = "+kv.value)
		}
	}
	if len(tail) > 0 {
		m.append(tail, "")
	}
	// What was written must read back, and all else must be as it was.
	after, err := readTOML(m.text())
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if lookup(after, t.name) == nil {
			return nil, &ParseError{Line: 1, Text: "rlca found no place for [" + t.name + "]"}
		}
	}
	for _, kv := range top {
		after = without(after, strings.Split(kv.key, "."))
		rest = without(rest, strings.Split(kv.key, "."))
	}
	for _, t := range tables {
		after = without(after, strings.Split(t.name, "."))
	}
	if !reflect.DeepEqual(empty(after), empty(rest)) {
		return nil, &ParseError{Line: 1, Text: "rlca found no way to set " + top[0].key + " that leaves all else as it is"}
	}
	return []byte(mark + m.text()), nil
}

func readTOML(text string) (map[string]any, error) {
	v := map[string]any{}
	if err := toml.Unmarshal([]byte(text), &v); err != nil {
		e := &ParseError{Line: 1, Text: strings.TrimPrefix(err.Error(), "toml: ")}
		var at *toml.DecodeError
		if errors.As(err, &at) {
			e.Line, _ = at.Position()
		}
		return nil, e
	}
	return v, nil
}

func lookup(v any, key string) any {
	for _, k := range strings.Split(key, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// without is a copy that lacks one key.
func without(m map[string]any, path []string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		if k == path[0] {
			if len(path) == 1 {
				continue
			}
			if sub, ok := v.(map[string]any); ok {
				v = without(sub, path[1:])
			}
		}
		out[k] = v
	}
	return out
}

// empty drops tables in which nothing is: a header alone says nothing.
func empty(m map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		if sub, ok := v.(map[string]any); ok {
			if sub = empty(sub); len(sub) == 0 {
				continue
			}
			v = sub
		}
		out[k] = v
	}
	return out
}

// disable makes a comment of the lines that give a key, found by trying: without them the file must say want.
func (m *marked) disable(key string, want map[string]any) error {
	line := regexp.MustCompile(`^\s*["']?` + regexp.QuoteMeta(key) + `["']?\s*=`)
	for i := range m.lines {
		if !line.MatchString(m.lines[i]) {
			continue
		}
		for j := i; j < min(len(m.lines), i+200); j++ {
			try := slices.Clone(m.lines)
			for k := i; k <= j; k++ {
				try[k] = off + try[k]
			}
			got, err := readTOML(strings.Join(try, ""))
			if err == nil && reflect.DeepEqual(empty(got), empty(want)) {
				m.lines = try
				return nil
			}
		}
	}
	return &ParseError{Line: m.lineOf(regexp.MustCompile(regexp.QuoteMeta(key))), Text: "rlca cannot set " + key + " beside the one that is there: put it on a line of its own"}
}

// lineOf is the number of the first line that has something, 1 if none has.
func (m *marked) lineOf(re *regexp.Regexp) int {
	for i, l := range m.lines {
		if re.MatchString(l) {
			return i + 1
		}
	}
	return 1
}

// header is the line of [name], -1 without one.
func (m *marked) header(name string) int {
	re := regexp.MustCompile(`^\s*\[\s*` + regexp.QuoteMeta(name) + `\s*\]\s*(#.*)?$`)
	for i, l := range m.lines {
		if re.MatchString(strings.TrimRight(l, "\r\n")) {
			return i
		}
	}
	return -1
}

// yamlKey is a key at the left edge of a YAML mapping.
var yamlKey = regexp.MustCompile(`^(?:"([^"\\]+)"|'([^']+)'|([A-Za-z0-9_.$][^\s:#]*))[ \t]*:(?:[ \t]+(.*))?$`)

// yamlPart is a key of the outermost mapping with its lines, from and up to.
type yamlPart struct {
	key, value string
	from, to   int
}

// yamlParts cuts a YAML file into the keys of its outermost mapping. It is no YAML reader: what is not plainly such a
// mapping, in one document, is an error, so that nothing is edited that rlca does not understand.
func (m *marked) yamlParts() ([]yamlPart, error) {
	var parts []yamlPart
	fail := func(i int, format string, args ...any) error {
		return &ParseError{Line: i + 1, Text: fmt.Sprintf(format, args...)}
	}
	for i, raw := range m.lines {
		line := strings.TrimRight(raw, " \t\r\n")
		switch {
		case line == "" || strings.HasPrefix(line, "#") || line == "---" && len(parts) == 0:
		case strings.HasPrefix(line, "---") || line == "...":
			return nil, fail(i, "it is more than one YAML document")
		case line[0] == '\t':
			return nil, fail(i, "a tab begins the line, which YAML does not allow")
		case line[0] == ' ' || line[0] == '-' && (len(line) == 1 || line[1] == ' '):
			if len(parts) == 0 {
				return nil, fail(i, "it is no mapping of keys to values")
			}
			last := &parts[len(parts)-1]
			if line[0] == '-' && last.value != "" && !strings.HasPrefix(last.value, "#") {
				return nil, fail(i, "a list item has no key above it")
			}
			last.to = i + 1
		default:
			f := yamlKey.FindStringSubmatch(line)
			if f == nil {
				return nil, fail(i, "it is no plain mapping of keys to values")
			}
			key := f[1] + f[2] + f[3]
			if slices.ContainsFunc(parts, func(p yamlPart) bool { return p.key == key }) {
				return nil, fail(i, "the key %s is there twice", key)
			}
			parts = append(parts, yamlPart{key, f[4], i, i + 1})
		}
	}
	for _, p := range parts { // what opens must close
		if p.value == "" {
			continue
		}
		closing, ok := map[byte]string{'"': `"`, '\'': `'`, '[': `]`, '{': `}`}[p.value[0]]
		if !ok {
			continue
		}
		whole := p.value
		for _, l := range m.lines[p.from+1 : p.to] {
			whole += "\n" + l
		}
		if !strings.Contains(whole[1:], closing) {
			return nil, fail(p.from, "the value of %s has no end", p.key)
		}
	}
	return parts, nil
}

// wireYAML sets keys of the outermost mapping, and puts an item at the head of the list of one.
func wireYAML(tool string, text []byte, made bool, top []entry, list string, item []string) ([]byte, error) {
	m, mark := newMarked(tool, text)
	parts, err := m.yamlParts()
	if err != nil {
		return nil, err
	}
	var tail []string
	for _, kv := range top {
		tail = append(tail, kv.key+": "+kv.value)
	}
	at, indent := -1, ""
	for _, p := range parts {
		if p.key == list && list != "" {
			if p.value != "" && !strings.HasPrefix(p.value, "#") {
				return nil, &ParseError{Line: p.from + 1, Text: list + " is no list of lines that begin with a dash"}
			}
			at, indent = p.from+1, "  "
			for _, l := range m.lines[p.from+1 : p.to] {
				if dash := strings.TrimLeft(l, " "); strings.HasPrefix(dash, "-") {
					indent = l[:len(l)-len(dash)]
					break
				}
			}
			if !strings.HasSuffix(m.lines[p.from], "\n") {
				return nil, &ParseError{Line: p.from + 1, Text: list + " is empty and its line has no end"}
			}
		}
		if slices.ContainsFunc(top, func(kv entry) bool { return kv.key == p.key }) {
			for i := p.from; i < p.to; i++ {
				m.lines[i] = off + m.lines[i]
			}
		}
	}
	switch {
	case list == "":
	case at >= 0:
		m.lines = slices.Insert(m.lines, at, m.block(indent, "", item)...)
	default:
		tail = append(tail, list+":")
		for _, l := range item {
			tail = append(tail, "  "+l)
		}
	}
	note := ""
	if made {
		note = madeFile
	}
	if len(tail) > 0 {
		m.append(tail, note)
	}
	if _, err := m.yamlParts(); err != nil {
		return nil, err
	}
	return []byte(mark + m.text()), nil
}
