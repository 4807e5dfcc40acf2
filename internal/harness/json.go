package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParseError says where a file is not what it should be. Nothing of such a file is changed.
type ParseError struct {
	Path string
	Line int
	Text string
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Text)
}

// node is a value in a JSON text: where it stands, and what is in it.
type node struct {
	start, end int
	kind       byte // '{', '[', '"', or 'v' for numbers, true, false and null
	members    []jsonMember
	items      []*node
	// last is where the text of the last thing inside ends, a comment too, or the opening bracket; note says that it is a
	// comment, comma that a comma stands behind the last value.
	last        int
	note, comma bool
}

type jsonMember struct {
	key      string
	keyStart int
	value    *node
}

func (n *node) find(key string) *jsonMember {
	for i := range n.members {
		if n.members[i].key == key {
			return &n.members[i]
		}
	}
	return nil
}

// bom is the mark that some editors of Windows put first.
var bom = []byte("\xef\xbb\xbf")

// parseJSON reads a JSON text with comments and trailing commas, which these programs allow in their files. A file
// without a value is an empty object: root is nil.
func parseJSON(text []byte) (root *node, err error) {
	p := &jsonParser{text: text}
	if bytes.HasPrefix(text, bom) {
		p.at = len(bom)
	}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*ParseError)
			if !ok {
				panic(r)
			}
			root, err = nil, e
		}
	}()
	if !utf8.Valid(text) {
		p.fail("it is not UTF-8")
	}
	p.space()
	if p.at == len(text) {
		return nil, nil
	}
	root = p.value(0)
	p.space()
	if p.at < len(text) {
		p.fail("something follows the end of the value")
	}
	return root, nil
}

type jsonParser struct {
	text []byte
	at   int
}

func (p *jsonParser) fail(format string, args ...any) {
	panic(&ParseError{Line: 1 + bytes.Count(p.text[:min(p.at, len(p.text))], []byte("\n")), Text: fmt.Sprintf(format, args...)})
}

// space skips white space and comments, and returns where the last comment ends, or -1.
func (p *jsonParser) space() (comment int) {
	comment = -1
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			p.at++
		case bytes.HasPrefix(p.text[p.at:], []byte("//")):
			n := bytes.IndexByte(p.text[p.at:], '\n')
			if n < 0 {
				n = len(p.text) - p.at
			}
			p.at += n
			comment = p.at
			if p.text[comment-1] == '\r' {
				comment--
			}
			if bytes.IndexByte(p.text[p.at-n:comment], '\r') >= 0 { // where it ends is another matter for each program
				p.at -= n
				p.fail("a comment has a carriage return in it")
			}
		case bytes.HasPrefix(p.text[p.at:], []byte("/*")):
			n := bytes.Index(p.text[p.at+2:], []byte("*/"))
			if n < 0 {
				p.fail("a comment has no end")
			}
			p.at += n + 4
			comment = p.at
		default:
			return comment
		}
	}
	return comment
}

func (p *jsonParser) next() byte {
	if p.at == len(p.text) {
		p.fail("the file ends in the middle")
	}
	return p.text[p.at]
}

const jsonDepth = 200

func (p *jsonParser) value(depth int) *node {
	if depth > jsonDepth {
		p.fail("it is nested more than %d deep", jsonDepth)
	}
	n := &node{start: p.at, kind: p.next()}
	switch n.kind {
	case '{', '[':
		p.inside(n, depth)
	case '"':
		p.str()
	default:
		n.kind = 'v'
		for p.at < len(p.text) && !strings.ContainsRune(" \t\r\n,]}/", rune(p.text[p.at])) {
			p.at++
		}
		if word := p.text[n.start:p.at]; !json.Valid(word) {
			p.at = n.start
			p.fail("%q is no value of JSON", clip(word))
		}
	}
	n.end = p.at
	return n
}

func (p *jsonParser) inside(n *node, depth int) {
	closing := byte('}')
	if n.kind == '[' {
		closing = ']'
	}
	p.at++
	n.last = p.at
	for {
		if c := p.space(); c > n.last {
			n.last, n.note = c, true
		}
		if p.next() == closing {
			p.at++
			return
		}
		if len(n.members)+len(n.items) > 0 && !n.comma {
			p.fail("a comma is missing")
		}
		if n.kind == '{' {
			m := jsonMember{keyStart: p.at}
			if p.next() != '"' {
				p.fail("a key in quotes should be here, not %q", clip(p.text[p.at:]))
			}
			m.key = p.str()
			if n.find(m.key) != nil {
				p.fail("the key %q is there twice", m.key)
			}
			p.space()
			if p.next() != ':' {
				p.fail("a colon should follow the key %q", m.key)
			}
			p.at++
			p.space()
			m.value = p.value(depth + 1)
			n.members = append(n.members, m)
		} else {
			n.items = append(n.items, p.value(depth+1))
		}
		n.last, n.note, n.comma = p.at, false, false
		if c := p.space(); c > n.last {
			n.last, n.note = c, true
		}
		if p.next() == ',' {
			p.at++
			n.last, n.note, n.comma = p.at, false, true
		}
	}
}

func (p *jsonParser) str() string {
	start := p.at
	for p.at++; p.at < len(p.text); p.at++ {
		switch p.text[p.at] {
		case '\\':
			p.at++
		case '\n':
			p.fail("a string has no end")
		case '"':
			p.at++
			var s string
			if err := json.Unmarshal(p.text[start:p.at], &s); err != nil {
				p.fail("a string is not as JSON has it")
			}
			return s
		}
	}
	p.at = start
	p.fail("a string has no end")
	return ""
}

func clip(b []byte) string {
	if len(b) > 20 {
		b = b[:20]
	}
	if i := bytes.IndexAny(b, "\r\n"); i >= 0 {
		b = b[:i]
	}
	return strings.ToValidUTF8(string(b), "")
}

// setting is one value that a file is to have: at a path of keys, or as a new item of the list there.
type setting struct {
	path  []string
	value any
	item  bool
}

func set(value any, path ...string) setting { return setting{path: path, value: value} }
func add(value any, path ...string) setting { return setting{path: path, value: value, item: true} }

// splice is one change of a text: Old stood at At, New stands there now. Undone from the last to the first they give
// back the very bytes.
type splice struct {
	At  int    `json:"at"`
	Old string `json:"old"`
	New string `json:"new"`
}

// change is what became of a setting, for an undo in a file that others have changed since.
type change struct {
	Path []string `json:"path"`
	// Made is how many keys of the path were there before.
	Made int `json:"made"`
	// Item says that Now is an item of the list at Path.
	Item bool `json:"item,omitempty"`
	// Was is the text that was there, empty if there was none; Now is what was set, without white space.
	Was string `json:"was"`
	Now string `json:"now"`
}

// jsonEdit is a JSON text under work.
type jsonEdit struct {
	text    []byte
	splices []splice
	changes []change
}

func (j *jsonEdit) splice(at, end int, insert string) {
	j.splices = append(j.splices, splice{at, string(j.text[at:end]), insert})
	j.text = append(append(append([]byte(nil), j.text[:at]...), insert...), j.text[end:]...)
}

// apply makes a file have a setting. What is there already is left.
func (j *jsonEdit) apply(s setting) error {
	root, err := parseJSON(j.text)
	if err != nil {
		return err
	}
	if root == nil {
		at, nl := len(j.text), j.newline()
		start := "{}" + nl
		if rest := bytes.TrimPrefix(j.text, bom); len(rest) > 0 && !bytes.HasSuffix(rest, []byte("\n")) {
			start = nl + start // the file ends with a comment
		}
		j.splice(at, at, start)
		root, err = parseJSON(j.text)
		if err != nil {
			return err
		}
	}
	c := change{Path: s.path, Item: s.item, Now: compact(s.value)}
	here := root
	for i, key := range s.path {
		if here.kind != '{' {
			return j.errorAt(here, "%s is no object, and %s should be in it", strings.Join(s.path[:i], "."), key)
		}
		m := here.find(key)
		if m == nil {
			c.Made = i
			value := s.value
			if s.item {
				value = []any{value}
			}
			for k := len(s.path) - 1; k > i; k-- {
				value = object{{s.path[k], value}}
			}
			j.insert(here, quoted(key)+":", value)
			j.changes = append(j.changes, c)
			return nil
		}
		here = m.value
	}
	c.Made = len(s.path)
	if s.item {
		if here.kind != '[' {
			return j.errorAt(here, "%s is no list", strings.Join(s.path, "."))
		}
		for _, it := range here.items {
			if sameJSON(plain(j.text[it.start:it.end]), c.Now) {
				return nil
			}
		}
		j.insert(here, "", s.value)
		j.changes = append(j.changes, c)
		return nil
	}
	c.Was = string(j.text[here.start:here.end])
	if sameJSON(plain([]byte(c.Was)), c.Now) {
		return nil
	}
	indent := ""
	if j.inLines(root) {
		indent = j.indentAt(here.start)
	}
	j.splice(here.start, here.end, j.render(s.value, indent, j.inLines(root)))
	j.changes = append(j.changes, c)
	return nil
}

func (j *jsonEdit) errorAt(n *node, format string, args ...any) error {
	return &ParseError{Line: 1 + bytes.Count(j.text[:n.start], []byte("\n")), Text: fmt.Sprintf(format, args...)}
}

// insert puts a value behind the last one of an object or a list, in its way of breaking lines.
func (j *jsonEdit) insert(in *node, key string, value any) {
	empty := len(in.members)+len(in.items) == 0
	lines := empty && j.text[in.start] == '{' || bytes.ContainsRune(j.text[in.start:in.end], '\n')
	outer := j.indentAt(in.start)
	inner := outer + j.unit()
	if !empty {
		starts, _ := in.bounds()
		first := starts[0]
		if lines = bytes.ContainsRune(j.text[in.start:first], '\n'); lines {
			inner = j.indentAt(first)
		}
	}
	lines = lines || in.note // what follows a comment on its line is part of it
	if key != "" && lines || key != "" && !j.tight() {
		key += " "
	}
	text := key + j.render(value, inner, lines)
	at := in.last
	if lines {
		text = j.newline() + inner + text
		if (empty || in.note) && !bytes.ContainsRune(j.text[at:in.end], '\n') {
			text += j.newline() + outer
		}
	} else if !empty && !j.tight() {
		text = " " + text
	}
	if !empty && !in.comma {
		end := in.lastValue()
		if end == at {
			text = "," + text
		} else { // a comment stands between
			j.splice(end, end, ",")
			at++
		}
	}
	j.splice(at, at, text)
}

func (n *node) lastValue() int {
	if len(n.members) > 0 {
		return n.members[len(n.members)-1].value.end
	}
	return n.items[len(n.items)-1].end
}

// newline is how the file ends its lines.
func (j *jsonEdit) newline() string { return newline(j.text) }

func newline(text []byte) string {
	if i := bytes.IndexByte(text, '\n'); i > 0 && text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// inLines reports whether the file is broken into lines, or all on one.
func (j *jsonEdit) inLines(root *node) bool {
	return bytes.ContainsRune(j.text[root.start:root.end], '\n')
}

// tight reports whether no space follows a colon in the file.
func (j *jsonEdit) tight() bool {
	return bytes.Contains(j.text, []byte(`":`)) && !bytes.Contains(j.text, []byte(`": `))
}

// indentAt is the white space that the line of a place begins with.
func (j *jsonEdit) indentAt(at int) string {
	start := bytes.LastIndexByte(j.text[:at], '\n') + 1
	if start == 0 && bytes.HasPrefix(j.text, bom) {
		start = len(bom)
	}
	end := start
	for end < len(j.text) && (j.text[end] == ' ' || j.text[end] == '\t') {
		end++
	}
	return string(j.text[start:end])
}

// unit is one step of the file's indentation, two spaces if it has none.
func (j *jsonEdit) unit() string {
	root, err := parseJSON(j.text)
	if err == nil && root != nil && len(root.members) > 0 {
		first := root.members[0].keyStart
		if bytes.ContainsRune(j.text[root.start:first], '\n') {
			if u := strings.TrimPrefix(j.indentAt(first), j.indentAt(root.start)); u != "" {
				return u
			}
		}
	}
	return "  "
}

// render writes a value: in lines below an indentation, or all on one.
func (j *jsonEdit) render(value any, indent string, lines bool) string {
	if !lines {
		text := compact(value)
		if j.tight() {
			return text
		}
		return spaced(value)
	}
	return renderLines(value, indent, j.unit(), j.newline())
}

func renderLines(value any, indent, unit, nl string) string {
	inner := indent + unit
	switch v := value.(type) {
	case object:
		if len(v) == 0 {
			return "{}"
		}
		var parts []string
		for _, m := range v {
			parts = append(parts, nl+inner+quoted(m.key)+": "+renderLines(m.value, inner, unit, nl))
		}
		return "{" + strings.Join(parts, ",") + nl + indent + "}"
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		var parts []string
		for _, it := range v {
			parts = append(parts, nl+inner+renderLines(it, inner, unit, nl))
		}
		return "[" + strings.Join(parts, ",") + nl + indent + "]"
	}
	return compact(value)
}

func spaced(value any) string  { return oneLine(value, ", ", ": ") }
func compact(value any) string { return oneLine(value, ",", ":") }

func oneLine(value any, comma, colon string) string {
	switch v := value.(type) {
	case object:
		var parts []string
		for _, m := range v {
			parts = append(parts, quoted(m.key)+colon+oneLine(m.value, comma, colon))
		}
		return "{" + strings.Join(parts, comma) + "}"
	case []any:
		var parts []string
		for _, it := range v {
			parts = append(parts, oneLine(it, comma, colon))
		}
		return "[" + strings.Join(parts, comma) + "]"
	case string:
		return quoted(v)
	case int:
		return strconv.Itoa(v)
	case bool:
		return strconv.FormatBool(v)
	}
	panic(fmt.Sprintf("a value of type %T in the table of harnesses", value))
}

// plain is a JSON text without white space and comments, its strings written in one way.
func plain(text []byte) string {
	root, err := parseJSON(text)
	if err != nil || root == nil {
		return string(text)
	}
	return root.plain(text)
}

func (n *node) plain(text []byte) string {
	var parts []string
	switch n.kind {
	case '{':
		for _, m := range n.members {
			parts = append(parts, quoted(m.key)+":"+m.value.plain(text))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case '[':
		for _, it := range n.items {
			parts = append(parts, it.plain(text))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case '"':
		var s string
		json.Unmarshal(text[n.start:n.end], &s)
		return quoted(s)
	}
	return string(text[n.start:n.end])
}

// undo takes one change back in a file that others have changed since. It reports whether what was set is still there.
func (j *jsonEdit) undo(c change) (was bool, err error) {
	root, err := parseJSON(j.text)
	if err != nil || root == nil {
		return false, err
	}
	chain := []*node{root} // the values along the path
	for _, key := range c.Path {
		here := chain[len(chain)-1]
		m := here.find(key)
		if here.kind != '{' || m == nil {
			return false, nil
		}
		chain = append(chain, m.value)
	}
	last := chain[len(chain)-1]
	if c.Item {
		for i, it := range last.items {
			if sameJSON(plain(j.text[it.start:it.end]), c.Now) {
				j.remove(last, i)
				return true, j.prune(c)
			}
		}
		return false, nil
	}
	if !sameJSON(plain(j.text[last.start:last.end]), c.Now) {
		return false, nil
	}
	if c.Was != "" {
		j.splice(last.start, last.end, c.Was)
		return true, nil
	}
	parent := chain[len(chain)-2]
	for i := range parent.members {
		if parent.members[i].value == last {
			j.remove(parent, i)
		}
	}
	return true, j.prune(c)
}

// sameJSON compares two plain texts whatever the order of keys.
func sameJSON(a, b string) bool {
	if a == b {
		return true
	}
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

// remove takes the i-th member or item out, with one comma and the white space before it.
func (j *jsonEdit) remove(in *node, i int) {
	starts, ends := in.bounds()
	start, end := starts[i], ends[i]
	comma := func(from, to int) int { // a comma outside of comments
		p := &jsonParser{text: j.text[:to], at: from}
		p.space()
		if p.at < to && j.text[p.at] == ',' {
			return p.at
		}
		return -1
	}
	if at := comma(end, in.end); at >= 0 {
		j.splice(at, at+1, "")
	} else if i > 0 {
		if at := comma(ends[i-1], start); at >= 0 {
			j.splice(at, at+1, "")
			start, end = start-1, end-1
		}
	}
	blank := func(at int) bool { return strings.IndexByte(" \t\r\n", j.text[at]) >= 0 }
	first := start
	for first > 0 && blank(first-1) {
		first--
	}
	rest := end
	for rest < len(j.text) && (j.text[rest] == ' ' || j.text[rest] == '\t') {
		rest++
	}
	switch {
	case len(starts) == 1 && first == in.start+1: // nothing is left: {}
		for end < len(j.text) && blank(end) {
			end++
		}
		start = first
	case rest < len(j.text) && (j.text[rest] == '\r' || j.text[rest] == '\n'): // a line of its own
		start = first
	}
	j.splice(start, end, "")
}

func (n *node) bounds() (starts, ends []int) {
	for _, m := range n.members {
		starts, ends = append(starts, m.keyStart), append(ends, m.value.end)
	}
	for _, it := range n.items {
		starts, ends = append(starts, it.start), append(ends, it.end)
	}
	return starts, ends
}

// prune takes out the objects and lists that were made for a change and are empty now.
func (j *jsonEdit) prune(c change) error {
	depth := len(c.Path) - 1
	if c.Item {
		depth = len(c.Path)
	}
	for ; depth > c.Made; depth-- {
		root, err := parseJSON(j.text)
		if err != nil || root == nil {
			return err
		}
		parent, here := (*node)(nil), root
		for _, key := range c.Path[:depth] {
			m := here.find(key)
			if m == nil {
				return nil
			}
			parent, here = here, m.value
		}
		if len(here.members)+len(here.items) > 0 || here.last != here.start+1 { // a comment counts
			return nil
		}
		for i := range parent.members {
			if parent.members[i].value == here {
				j.remove(parent, i)
				break
			}
		}
	}
	return nil
}
