package fit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxCatalog is how long the user's file may be, in bytes.
const maxCatalog = 1 << 20

// CatalogProblem is one thing that is wrong with the user's catalog.
type CatalogProblem struct {
	File string // its name without the folder
	Line int    // from 1; 0 if it is about the file as a whole
	Msg  string
}

func (p *CatalogProblem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Msg
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Msg)
}

// CatalogProblems is all that is wrong with it, by line. It is never empty.
type CatalogProblems []*CatalogProblem

// Error has one line for each problem.
func (p CatalogProblems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a *CatalogProblem: the first.
func (p CatalogProblems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, one := range p {
		errs[i] = one
	}
	return errs
}

// LoadCatalog gives the built-in catalog with the user's file over it. Without
// a path, or where there is no file, it is the built-in one alone. What is
// wrong with the file is a CatalogProblems.
func LoadCatalog(path string) (*List, error) {
	if path == "" {
		return builtin(), nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return builtin(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCatalog+1)) // the path may lead to anything
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return ParseCatalog(filepath.Base(path), text)
}

// ParseCatalog lays the text of a user's catalog over the built-in one. Each
// [[model]] either names a row of the built-in catalog, and changes what it
// sets, or is a new row. The error is a CatalogProblems and holds everything
// that is wrong, by line; file names the text in it.
func ParseCatalog(file string, text []byte) (*List, error) {
	o := &overlay{file: file, list: builtin().Entries()}
	if len(text) > maxCatalog {
		o.fail(0, "is longer than 1 MiB, which no catalog is")
		return nil, o.problems
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	o.read(text)
	for _, r := range o.rows {
		o.apply(r)
	}
	if len(o.problems) == 0 {
		// Whatever the rules of TOML forbid beyond what was looked at.
		var all any
		if err := toml.Unmarshal(text, &all); err != nil {
			line := 1
			var where *toml.DecodeError
			if errors.As(err, &where) {
				line, _ = where.Position()
			}
			o.fail(line, "invalid TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
		}
	}
	if len(o.problems) > 0 {
		slices.SortStableFunc(o.problems, func(a, b *CatalogProblem) int { return a.Line - b.Line })
		return nil, o.problems
	}
	return &List{entries: o.list}, nil
}

// overlay reads the user's file and lays it over a list.
type overlay struct {
	file     string
	problems CatalogProblems
	rows     []*overRow
	list     []Entry
	seen     map[string]int // name → the line of its [[model]]
}

// overRow is one [[model]].
type overRow struct {
	line int
	set  map[string]int // key → its line
	keys []overKey
}

// overKey is one value that was set, and is of the right type.
type overKey struct {
	name  string
	line  int
	value any // string, int, float64, map[string]Bytes
}

func (o *overlay) fail(line int, format string, args ...any) {
	o.problems = append(o.problems, &CatalogProblem{File: o.file, Line: line, Msg: fmt.Sprintf(format, args...)})
}

// read takes the file apart. A mistake in the syntax ends it: what follows
// could mean anything.
func (o *overlay) read(text []byte) {
	var p unstable.Parser
	p.Reset(text)
	row := (*overRow)(nil)
	line := func(n *unstable.Node, fallback int) int {
		if n.Raw.Length == 0 {
			return fallback
		}
		return p.Shape(n.Raw).Start.Line
	}
	for p.NextExpression() {
		n := p.Expression()
		path, at := keyPath(n, line)
		switch {
		case n.Kind == unstable.Comment:
		case n.Kind == unstable.ArrayTable && len(path) == 1 && path[0] == "model":
			row = &overRow{line: at, set: map[string]int{}}
			o.rows = append(o.rows, row)
		case n.Kind == unstable.Table && len(path) == 1 && path[0] == "model":
			o.fail(at, "[model] must be one of a list: write [[model]]")
			row = &overRow{line: at, set: map[string]int{"?": at}} // read on, for further mistakes
		case n.Kind == unstable.Table && len(path) == 2 && path[0] == "model" && path[1] == "files" && row != nil:
			o.fail(at, "write the files in the model itself: files = { Q4_K_M = 18556689568 }")
			row = &overRow{line: at, set: map[string]int{"?": at}}
		case n.Kind == unstable.Table || n.Kind == unstable.ArrayTable:
			o.fail(at, "unknown section [%s]: a catalog has [[model]] only", shorten(strings.Join(path, ".")))
			row = nil
		case n.Kind == unstable.KeyValue && row == nil:
			if len(o.rows) == 0 {
				o.fail(at, "%s stands before the first [[model]]", shorten(path[0]))
			}
		case n.Kind == unstable.KeyValue && row.set["?"] == 0:
			o.key(row, path, at, n.Value(), func(c *unstable.Node) ([]string, int) { return keyPath(c, line) })
		}
	}
	var bad *unstable.ParserError
	if errors.As(p.Error(), &bad) {
		at := p.Shape(p.Range(bad.Highlight)).Start.Line
		o.fail(at, "invalid TOML: %s; what follows was not read", bad.Message)
	}
}

// keyPath gives the parts of a node's key and its line.
func keyPath(n *unstable.Node, line func(*unstable.Node, int) int) (path []string, at int) {
	if n.Kind != unstable.KeyValue && n.Kind != unstable.Table && n.Kind != unstable.ArrayTable {
		return nil, 0
	}
	for it := n.Key(); it.Next(); {
		if at == 0 {
			at = line(it.Node(), 0)
		}
		path = append(path, string(it.Node().Data))
	}
	return path, at
}

// key takes one key of a row.
func (o *overlay) key(row *overRow, path []string, line int, v *unstable.Node, keyOf func(*unstable.Node) ([]string, int)) {
	name := path[0]
	var blank Entry
	field := blank.field(name)
	if field == nil || name == "checked" {
		hint := ""
		if n := nearKey(name); n != "" {
			hint = fmt.Sprintf(", did you mean %q?", n)
		}
		o.fail(line, "unknown key %q%s", shorten(name), hint)
		return
	}
	if first := row.set[name]; first != 0 {
		o.fail(line, "%s is set twice, first on line %d", name, first)
		return
	}
	row.set[name] = line
	if len(path) > 1 {
		o.fail(line, "%s has no keys of its own", name)
		return
	}
	k := overKey{name: name, line: line}
	switch field.(type) {
	case *string:
		if v.Kind != unstable.String {
			o.fail(line, "%s must be a text in quotes", name)
			return
		}
		text := string(v.Data)
		if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
			o.fail(line, "%s must not contain control characters", name)
			return
		}
		if msg := checkWord(name, text); msg != "" {
			o.fail(line, "%s %s", name, msg)
			return
		}
		k.value = text
		if name == "quant" {
			k.value = normalQuant(text)
		}
	case *int:
		n, err := wholeNumber(v)
		if err != nil || n > 1<<40 {
			o.fail(line, "%s must be a whole number from 0", name)
			return
		}
		k.value = int(n)
	case *float64:
		f, err := strconv.ParseFloat(strings.ReplaceAll(string(v.Data), "_", ""), 64)
		if v.Kind != unstable.Float && v.Kind != unstable.Integer || err != nil || !(f >= 0 && f < 1e6) {
			o.fail(line, "%s must be a number from 0", name)
			return
		}
		k.value = f
	case *map[string]Bytes:
		files, ok := o.files(line, v, keyOf)
		if !ok {
			return
		}
		k.value = files
	}
	row.keys = append(row.keys, k)
}

func (o *overlay) files(line int, v *unstable.Node, keyOf func(*unstable.Node) ([]string, int)) (map[string]Bytes, bool) {
	if v.Kind != unstable.InlineTable {
		o.fail(line, "files must be a table: { Q4_K_M = 18556689568 }, in bytes")
		return nil, false
	}
	out, ok := map[string]Bytes{}, true
	for it := v.Children(); it.Next(); {
		path, at := keyOf(it.Node())
		quant := normalQuant(strings.Join(path, "."))
		n, err := wholeNumber(it.Node().Value())
		switch {
		case quantTypes[quant].nominal == 0:
			o.fail(max(at, line), "files: quantization %q is not known", shorten(strings.Join(path, ".")))
			ok = false
		case err != nil || n <= 0:
			o.fail(max(at, line), "files: the size of %s must be a whole number of bytes", quant)
			ok = false
		}
		out[quant] = Bytes(n)
	}
	return out, ok
}

func wholeNumber(v *unstable.Node) (int64, error) {
	if v.Kind != unstable.Integer {
		return 0, errors.New("no whole number")
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(string(v.Data), "_", ""), 0, 64)
	if err == nil && n < 0 {
		err = errors.New("below 0")
	}
	return n, err
}

// checkWord says what is wrong with a text; empty if nothing.
func checkWord(key, text string) string {
	words := map[string][]string{
		"kind":  {string(KindFull), string(KindSWA), string(KindHybrid), string(KindMLA), string(KindUnknown)},
		"coder": {"yes", "agentic", "no"},
		"tools": {"yes", "no"},
		"tied":  {"yes", "no"},
	}[key]
	switch {
	case words != nil && !slices.Contains(words, text):
		return fmt.Sprintf("must be %s or %s, not %q", strings.Join(words[:len(words)-1], ", "), words[len(words)-1], shorten(text))
	case (key == "name" || key == "tag" || key == "repo") && (text == "" || text[0] == '-' || strings.ContainsFunc(text, unicode.IsSpace)):
		return "must be a name without spaces that does not begin with \"-\"" // an engine would read it as an option
	case key == "quant" && quantTypes[normalQuant(text)].nominal == 0:
		return fmt.Sprintf("%q is not known", shorten(text))
	}
	return ""
}

// apply lays a row over the list.
func (o *overlay) apply(row *overRow) {
	name := ""
	for _, k := range row.keys {
		if k.name == "name" {
			name = k.value.(string)
		}
	}
	if name == "" {
		if row.set["name"] == 0 {
			o.fail(row.line, "the model needs a name")
		}
		return
	}
	if o.seen == nil {
		o.seen = map[string]int{}
	}
	lower := strings.ToLower(name)
	if first := o.seen[lower]; first != 0 {
		o.fail(row.line, "model %s is there twice, first on line %d", name, first)
		return
	}
	o.seen[lower] = row.line

	i := slices.IndexFunc(o.list, func(e Entry) bool { return strings.ToLower(e.Name) == lower })
	isNew := i < 0
	e := Entry{Model: Model{Name: name, Source: fmt.Sprintf("%s:%d", o.file, row.line)}}
	if !isNew {
		e = o.list[i]
		name = e.Name
	}
	for _, k := range row.keys {
		switch p := e.field(k.name).(type) {
		case *string:
			*p = k.value.(string)
		case *int:
			*p = k.value.(int)
		case *float64:
			*p = k.value.(float64)
		case *map[string]Bytes:
			*p = maps.Clone(*p) // sizes of other quantizations stay
			if *p == nil {
				*p = map[string]Bytes{}
			}
			maps.Copy(*p, k.value.(map[string]Bytes))
		}
	}
	e.Name = name
	if row.set["layers"] != 0 && row.set["full_layers"] == 0 {
		e.FullLayers = 0 // as many as there are
	}
	if row.set["params_b"] != 0 && row.set["active_b"] == 0 && !isNew && o.list[i].ActiveB == o.list[i].ParamsB {
		e.ActiveB = 0 // all of them
	}
	if !isNew && row.set["source"] == 0 {
		e.Source += fmt.Sprintf("; %s:%d", o.file, row.line)
	}
	if e.Tied == "no" {
		e.Tied = ""
	}
	e.complete()
	if msg := e.missing(); msg != "" {
		o.fail(row.line, "model %s %s", name, msg)
		return
	}
	if err := e.check(); err != nil {
		o.fail(row.line, "model %s: %v", name, err)
		return
	}
	for _, other := range o.list {
		if strings.EqualFold(other.Name, name) {
			continue
		}
		for _, n := range e.names() {
			if slices.Contains(other.names(), n) {
				o.fail(row.line, "model %s: %q is a name of %s too", name, n, other.Name)
				return
			}
		}
	}
	if isNew {
		o.list = append(o.list, e)
	} else {
		o.list[i] = e
	}
}

// complete fills what a row may leave out.
func (e *Entry) complete() {
	if e.Kind == "" {
		e.Kind = KindUnknown
		if e.KVHeads > 0 && e.HeadK > 0 {
			e.Kind = KindFull
		}
	}
	if e.HeadV == 0 && e.Kind != KindMLA {
		e.HeadV = e.HeadK
	}
	if e.FullLayers == 0 && (e.Kind == KindFull || e.Kind == KindMLA) {
		e.FullLayers = e.Layers
	}
	if e.ActiveB == 0 {
		e.ActiveB = e.ParamsB
	}
}

// missing says what a row lacks to be priced; empty if nothing.
func (e Entry) missing() string {
	if e.ParamsB <= 0 && len(e.Files) == 0 {
		return "needs params_b, or files with their sizes"
	}
	if e.ActiveB > e.ParamsB {
		return fmt.Sprintf("has active_b %v, more than params_b %v", e.ActiveB, e.ParamsB)
	}
	_, ok := e.kvGroups()
	switch {
	case e.Kind == KindUnknown, ok && e.Hidden > 0 && e.stateKnown():
		return ""
	case e.Kind == KindSWA:
		return "of kind swa needs hidden, full_layers, kv_heads, head_k, swa_layers, swa_window, swa_kv_heads and swa_head"
	case e.Kind == KindHybrid:
		return "of kind hybrid needs hidden, full_layers, kv_heads, head_k, state_layers, conv, inner, state and groups"
	}
	return fmt.Sprintf("of kind %s needs hidden, layers, kv_heads and head_k", e.Kind)
}

// overrideKeys are what a [[model]] may set, in the order of docs/catalog.md.
var overrideKeys = []string{
	"name", "tag", "repo", "arch", "licence", "params_b", "active_b", "context", "coder", "tools", "quant", "files", "source",
	"kind", "layers", "hidden", "ff", "expert_ff", "heads", "kv_heads", "head_k", "head_v", "full_layers", "vocab", "tied",
	"swa_layers", "swa_window", "swa_kv_heads", "swa_head", "state_layers", "conv", "inner", "state", "groups",
	"experts", "experts_used", "dense_layers", "dense_ff", "q_rank", "kv_rank", "rope", "nope", "v_head", "band",
}

// nearKey gives the key that a mistyped one may have meant; empty for none.
func nearKey(name string) string {
	best, far := "", 3
	if len(name) > 40 {
		return ""
	}
	for _, k := range overrideKeys {
		if d := distance(strings.ToLower(name), k); d < far && d <= max(1, len(k)/3) {
			best, far = k, d
		}
	}
	return best
}

// shorten keeps a text of a file to what a line can hold.
func shorten(s string) string {
	s = clean(s)
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
