package profiles

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A statement is one section header or one key = value of a file.
type statement struct {
	header bool     // [path]
	array  bool     // [[path]]
	path   []string // as written: sections before it are not part of it
	line   int
	value  value

	// broken says that the line could not be read. Only header, line and text, which is the whole line, are set then.
	broken bool
	text   string
}

// A value is what stands behind a key.
type value struct {
	kind  unstable.Kind
	text  string // a string without its quotes, anything else as written
	line  int
	items []value     // of an array
	keys  []statement // of an inline table
}

// maxBroken is how many unreadable lines are reported before a file is taken for something else than TOML.
const maxBroken = 20

// reader turns a text into statements. The TOML library stops at the first mistake; reader goes on behind the line
// if the mistake cannot reach beyond it, so that a person sees all of them at once.
type reader struct {
	text  []byte
	lines []int // the offset at which each line begins
	fail  func(line int, msg string)

	parser unstable.Parser
	base   int // the offset in text at which the parser's own text begins
}

// read returns the statements of text and reports what it cannot read to fail. Not whole means that reading was
// given up before the end.
func read(text []byte, fail func(line int, msg string)) (list []statement, whole bool) {
	r := &reader{text: text, lines: []int{0}, fail: fail}
	for i, b := range text {
		if b == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	for broken := 0; ; broken++ {
		r.parser.Reset(text[r.base:])
		end := r.base // of the last good statement
		for r.parser.NextExpression() {
			s, last := r.statement(r.parser.Expression())
			list, end = append(list, s), last
		}
		var bad *unstable.ParserError
		if !errors.As(r.parser.Error(), &bad) {
			return list, true
		}
		at := r.lineAt(int(r.parser.Range(bad.Highlight).Offset))
		from := r.begin(end)
		msg := "invalid TOML: " + bad.Message
		first := r.line(from)
		switch {
		case from < at:
			r.failf(at, "%s, in what begins on line %d; what follows was not read", msg, from)
			return list, false
		case strings.Contains(first, `"""`) || strings.Contains(first, "'''") || open(first):
			r.fail(at, msg+"; what follows was not read")
			return list, false
		case broken == maxBroken:
			r.failf(at, "is this TOML? there were %d lines before this one that are not; what follows was not read", maxBroken)
			return list, false
		}
		r.fail(at, msg+remedy(first, bad.Message))
		list = append(list, statement{broken: true, text: first, line: at, header: strings.HasPrefix(first, "[")})
		if at == len(r.lines) {
			return list, true
		}
		r.base = r.lines[at]
	}
}

// open reports a line with a bracket or brace that it does not close: what is inside goes on below.
func open(line string) bool {
	line, _, _ = strings.Cut(line, "#")
	_, val, _ := strings.Cut(line, "=")
	return strings.Count(val, "[") > strings.Count(val, "]") || strings.Count(val, "{") > strings.Count(val, "}")
}

// remedy explains the mistakes that those make who do not know TOML.
func remedy(line, msg string) string {
	_, val, ok := strings.Cut(line, "=")
	switch {
	case strings.Contains(msg, "escape"):
		return `; a backslash is written \\, or the text stands in 'single quotes'`
	case strings.Contains(msg, "strings cannot have new lines"):
		return "; the closing quote is missing"
	case ok && strings.TrimSpace(val) == "":
		return "; a value is missing"
	case ok && !strings.ContainsAny(val, `"'`) && (strings.HasPrefix(msg, "unexpected") || strings.HasPrefix(msg, "expected")):
		return `; a text stands in "quotes"`
	}
	return ""
}

// statement converts a node of the parser, and says at which offset of the text it ends. Node and parser are of no
// use after the next expression, so everything is copied.
func (r *reader) statement(n *unstable.Node) (s statement, end int) {
	s.header, s.array = n.Kind != unstable.KeyValue, n.Kind == unstable.ArrayTable
	for it := n.Key(); it.Next(); {
		k := it.Node()
		end = r.base + int(k.Raw.Offset+k.Raw.Length)
		if s.line == 0 {
			s.line = r.lineAt(int(k.Raw.Offset))
		}
		s.path = append(s.path, string(k.Data))
	}
	if !s.header {
		end = r.base + int(n.Raw.Offset+n.Raw.Length)
		s.value = r.value(n.Value(), s.line)
	}
	return s, end
}

// value converts a node; line is taken for those that do not know where they stand.
func (r *reader) value(n *unstable.Node, line int) value {
	v := value{kind: n.Kind, text: string(n.Data), line: line}
	if n.Raw.Length > 0 {
		v.line = r.lineAt(int(n.Raw.Offset))
	}
	for it := n.Children(); it.Next(); {
		if n.Kind == unstable.InlineTable {
			s, _ := r.statement(it.Node())
			v.keys = append(v.keys, s)
		} else {
			v.items = append(v.items, r.value(it.Node(), v.line))
		}
	}
	return v
}

// lineAt returns the line, from 1, of an offset in the parser's text.
func (r *reader) lineAt(offset int) int {
	return sort.SearchInts(r.lines, r.base+offset+1)
}

// line returns the text of a line, from 1, without the spaces around it.
func (r *reader) line(n int) string {
	end := len(r.text)
	if n < len(r.lines) {
		end = r.lines[n]
	}
	return string(bytes.TrimSpace(r.text[r.lines[n-1]:end]))
}

// begin returns the line of the first statement behind an offset: what ends there may be followed by a comment, and
// by empty lines and lines of comment.
func (r *reader) begin(end int) int {
	n, _ := slices.BinarySearch(r.lines, end+1)
	if end > r.lines[n-1] { // the rest of the line in which a good statement ended
		rest := string(bytes.TrimLeft(r.text[end:], " \t]"))
		if rest != "" && !strings.ContainsRune("#\r\n", rune(rest[0])) {
			return n
		}
		n++
	}
	for ; n < len(r.lines); n++ {
		if l := r.line(n); l != "" && l[0] != '#' {
			return n
		}
	}
	return min(n, len(r.lines))
}

func (r *reader) failf(line int, format string, args ...any) {
	r.fail(line, fmt.Sprintf(format, args...))
}
