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

// markLine is an opening mark as wire writes it, without its indentation.
var markLine = regexp.MustCompile(`^` + markOpen + `[a-z]+: rlca unwire [a-z]+ takes this out(?:` + regexp.QuoteMeta(madeFile) + `)?(?:` + regexp.QuoteMeta(endedLine) + `)? >>>$`)

// unmark takes everything that is marked out again. What others have put between the marks stays: Codex CLI adds its
// own settings there, and a mark goes with a table that it takes out.
func (w *wiredFile) unmark(text []byte) (out []byte, was, made bool, err error) {
	m, mark := newMarked("", text)
	b := w.block()
	inside := make([]bool, len(m.lines))
	if w.kind == tomlFile {
		inside, _ = m.inValues()
	}
	var kept []string
	join, since := "", 0 // what ended the line above, if nothing follows; since is the line of the mark of this block, 0 outside of one
	part := ""           // the key at the left edge of YAML under which a line stands
	lost := func() error {
		return &ParseError{Line: since, Text: "the block that rlca wrote has lost its last line, " + markClose}
	}
	for i, line := range m.lines {
		trimmed := strings.TrimSpace(line)
		if f := yamlKey.FindStringSubmatch(strings.TrimRight(line, " \t\r\n")); f != nil {
			part = f[1] + f[2] + f[3]
		}
		indented := line != "" && (line[0] == ' ' || line[0] == '\t')
		switch {
		case inside[i]:
			join = ""
			kept = append(kept, line)
			continue
		case markLine.MatchString(trimmed) && (!indented || part == b.list && b.list != ""):
			if since > 0 && w.kind == yamlFile {
				return nil, true, made, lost()
			}
			was, since, join = true, i+1, ""
			made = made || strings.Contains(line, madeFile)
			if strings.Contains(line, endedLine) {
				join = newline([]byte(line))
			}
			b.begin(line, m.closed(i, inside))
			continue
		case since > 0 && strings.HasPrefix(trimmed, markClose):
			since = 0
			continue
		case strings.HasPrefix(line, off) || trimmed == strings.TrimSpace(off) && !indented:
			was, join = true, ""
			kept = append(kept, strings.TrimPrefix(strings.TrimPrefix(line, strings.TrimSpace(off)), " "))
			continue
		case since > 0:
			ours, err := b.claims(line)
			if err != nil {
				return nil, true, made, &ParseError{Line: i + 1, Text: err.Error()}
			}
			if ours && trimmed == b.list+":" { // the list stays if another item of it does
				b.head, b.at = line, len(kept)
			}
			if ours {
				continue
			}
		}
		join = ""
		if b.head != "" && trimmed != "" && trimmed[0] != '#' {
			if indented || trimmed[0] == '-' {
				kept = slices.Insert(kept, b.at, b.head)
			}
			b.head = ""
		}
		kept = append(kept, line)
	}
	if since > 0 && w.kind == yamlFile {
		return nil, true, made, lost()
	}
	if n := len(kept); join != "" && n > 0 {
		kept[n-1] = strings.TrimSuffix(kept[n-1], join)
	}
	rest := strings.Join(kept, "")
	if w.kind == tomlFile && was {
		if before, err := readTOML(m.text()); err == nil {
			after, err := readTOML(rest)
			if err != nil || !reflect.DeepEqual(b.others(before), b.others(after)) {
				return nil, true, made, &ParseError{Line: 1, Text: "rlca found no way to take out what it wrote that leaves all else as it is: a line that it did not write stands in or below " + strings.Join(b.tables, " or ")}
			}
		}
	}
	return []byte(mark + rest), was, made, nil
}

// closed reports whether the block that begins on a line has its last line.
func (m *marked) closed(at int, inside []bool) bool {
	for i := at + 1; i < len(m.lines); i++ {
		l := strings.TrimSpace(m.lines[i])
		if last := strings.HasPrefix(l, markClose); !inside[i] && (last || markLine.MatchString(l)) {
			return last
		}
	}
	return false
}

// inValues says of each line of TOML whether it begins within a string, and whether within any value of several lines.
func (m *marked) inValues() (text, value []bool) {
	text, value = make([]bool, len(m.lines)), make([]bool, len(m.lines))
	end, depth := "", 0 // of the string that we are in; of lists
	for i, l := range m.lines {
		if len(end) == 1 {
			end = "" // it cannot go on here
		}
		text[i], value[i] = end != "", end != "" || depth > 0
		header := !value[i] && strings.HasPrefix(strings.TrimLeft(l, " \t"), "[")
		for k := 0; k < len(l); {
			switch {
			case end == "" && l[k] == '#':
				k = len(l)
			case end == "" && (l[k] == '"' || l[k] == '\''):
				if end = l[k : k+1]; strings.HasPrefix(l[k:], strings.Repeat(end, 3)) {
					end = strings.Repeat(end, 3)
				}
				k += len(end)
			case end != "" && end[0] == '"' && l[k] == '\\':
				k += 2
			case end != "" && strings.HasPrefix(l[k:], end):
				k += len(end)
				for len(end) == 3 && k < len(l) && l[k] == end[0] { // up to two more are part of it
					k++
				}
				end = ""
			case end == "" && !header && (l[k] == '[' || l[k] == '{'):
				depth++
				k++
			case end == "" && !header && (l[k] == ']' || l[k] == '}'):
				depth--
				k++
			default:
				k++
			}
		}
	}
	return text, value
}

// block tells the lines that wire wrote from those that somebody else put between its marks.
type block struct {
	kind   fileKind
	top    []string            // the keys that wire sets
	keys   map[string][]string // those that it writes below a header of its own, and in place, below ""
	tables []string            // of TOML: the tables that it adds
	list   string              // of YAML: the key of the list, and the lines of its item
	item   []string

	table   string // of TOML: the header of wire's that we are below
	foreign bool   // what stands here belongs to what another put in
	open    bool   // it has lost its last line: then its keys come in their order, and what is out of it is another's
	next    int    // in keys, if it is open
	indent  string // of the mark
	head    string // the line of the list, if wire wrote it, and where it stood
	at      int
}

// block has whatever wire may write into the file.
func (w *wiredFile) block() *block {
	b := &block{kind: w.kind, keys: map[string][]string{}}
	e := Endpoint{BaseURL: "-", Model: "-", Context: 1, Token: "-"}
	var top []entry
	var tables []table
	if w.lines != nil {
		top, tables = w.lines(e, false)
	}
	for _, kv := range append(top, w.fresh...) {
		b.top = append(b.top, kv.key)
		b.keys[""] = append(b.keys[""], kv.key)
		if i := strings.LastIndexByte(kv.key, '.'); i >= 0 { // where the table is there
			b.keys[""] = append(b.keys[""], kv.key[i+1:])
		}
	}
	for _, t := range tables {
		b.tables = append(b.tables, t.name)
		for _, kv := range t.entries {
			b.keys[t.name] = append(b.keys[t.name], kv.key)
		}
	}
	if w.item != nil {
		b.list, b.item = w.item(e)
	}
	return b
}

func (b *block) begin(mark string, closed bool) {
	b.table, b.foreign, b.head, b.open, b.next = "", false, "", !closed, 0
	b.indent = mark[:len(mark)-len(strings.TrimLeft(mark, " \t"))]
}

// others are the settings of TOML that are not wire's.
func (b *block) others(all map[string]any) map[string]any {
	for _, key := range slices.Concat(b.top, b.tables) {
		all = without(all, strings.Split(key, "."))
	}
	return empty(all)
}

var tomlHeader = regexp.MustCompile(`^\[(.*)\]\s*(?:#.*)?$`)

var errWithin = errors.New("rlca did not write this line, and it belongs to what rlca wrote: take it out first")

// claims reports whether wire wrote a line between its marks. It is an error where another's cannot be told apart.
func (b *block) claims(line string) (bool, error) {
	trimmed := strings.TrimSpace(line)
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case trimmed == "" || trimmed[0] == '#':
		return false, nil
	case b.kind == tomlFile:
		if f := tomlHeader.FindStringSubmatch(trimmed); f != nil {
			b.table = strings.TrimSpace(f[1])
			b.foreign, b.next = !slices.Contains(b.tables, b.table), 0
			return !b.foreign, nil
		}
		key, _, _ := strings.Cut(trimmed, "=")
		i := slices.Index(b.keys[b.table], strings.TrimSpace(key))
		ours := !b.foreign && i >= 0 && (!b.open || i >= b.next)
		if ours {
			b.next = i + 1
		}
		if !ours && !b.foreign && b.table != "" {
			return false, errWithin
		}
		return ours, nil
	}
	key, _, _ := strings.Cut(trimmed, ":")
	dash := trimmed == "-" || strings.HasPrefix(trimmed, "- ")
	switch {
	case dash && (indent == b.indent || indent == b.indent+"  "):
		b.foreign = len(b.item) == 0 || trimmed != b.item[0]
		return !b.foreign, nil
	case indent == "" && !dash:
		b.foreign = !slices.Contains(b.keys[""], key) && (b.list == "" || trimmed != b.list+":")
		return !b.foreign, nil
	case b.foreign:
		return false, nil
	case slices.ContainsFunc(b.item, func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), key+":") }):
		return true, nil
	}
	return false, errWithin
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
			if _, err := readTOML(kv.key + " = " + kv.value + "\n" + m.text()); err != nil {
				continue // it cannot stand beside what is there: the user's own setting stays
			}
			here = false
		}
		if lookup(before, kv.key) != nil {
			rest = without(rest, strings.Split(kv.key, "."))
			header := ""
			if here {
				header = parent
			}
			if err := m.disable(header, leaf, rest); err != nil {
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

// disable makes a comment of the lines that give a key below a header, or above all of them: without them the file must
// say want.
func (m *marked) disable(header, key string, want map[string]any) error {
	line := regexp.MustCompile(`^\s*["']?` + regexp.QuoteMeta(key) + `["']?\s*=`)
	_, inside := m.inValues()
	from := 0
	if header != "" {
		from = m.header(header) + 1
	}
	for i := from; i < len(m.lines); i++ {
		switch {
		case inside[i]:
			continue
		case strings.HasPrefix(strings.TrimLeft(m.lines[i], " \t"), "["):
			i = len(m.lines) // the next table
			continue
		case !line.MatchString(m.lines[i]):
			continue
		}
		try := slices.Clone(m.lines)
		for k := i; k == i || k < len(try) && inside[k]; k++ {
			try[k] = off + try[k]
		}
		if got, err := readTOML(strings.Join(try, "")); err == nil && reflect.DeepEqual(empty(got), empty(want)) {
			m.lines = try
			return nil
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
	_, inside := m.inValues()
	for i, l := range m.lines {
		if !inside[i] && re.MatchString(strings.TrimRight(l, "\r\n")) {
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
			for i, l := range m.lines[p.from+1 : p.to] {
				first := strings.TrimSpace(l)
				if first == "" || first[0] == '#' {
					continue
				}
				if first != "-" && !strings.HasPrefix(first, "- ") {
					return nil, &ParseError{Line: p.from + 2 + i, Text: list + " is no list of lines that begin with a dash"}
				}
				indent = l[:len(l)-len(strings.TrimLeft(l, " "))]
				break
			}
			if !strings.HasSuffix(m.lines[p.from], "\n") {
				return nil, &ParseError{Line: p.from + 1, Text: list + " is empty and its line has no end"}
			}
		}
		if slices.ContainsFunc(top, func(kv entry) bool { return kv.key == p.key }) {
			for i := p.from; i < p.to; i++ {
				if name := m.anchored(i, p); name != "" {
					return nil, &ParseError{Line: i + 1, Text: "the anchor &" + name + " is used elsewhere: put it where rlca sets nothing"}
				}
			}
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

var (
	yamlAnchor = regexp.MustCompile(`(?:^|[\s\[{,])&([^\s,\[\]{}]+)`)
	yamlAlias  = regexp.MustCompile(`\*([^\s,\[\]{}]+)`)
)

// anchored is the anchor on a line of a part that something outside of it uses, empty if there is none.
func (m *marked) anchored(line int, p yamlPart) string {
	for _, anchor := range yamlAnchor.FindAllStringSubmatch(m.lines[line], -1) {
		for i, l := range m.lines {
			for _, alias := range yamlAlias.FindAllStringSubmatch(l, -1) {
				if (i < p.from || i >= p.to) && !strings.HasPrefix(l, off) && alias[1] == anchor[1] {
					return anchor[1]
				}
			}
		}
	}
	return ""
}
