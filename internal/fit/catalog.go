package fit

import (
	"cmp"
	_ "embed"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// catalog.csv holds public models: their shape, the sizes of published files,
// and for each row where its facts were read and where its tag and its ability
// to call tools were checked. What could not be checked is empty.
//
//go:embed catalog.csv
var catalogCSV string

// builtin is the list of catalog.csv.
var builtin = sync.OnceValue(func() *List {
	entries, err := parseCatalog(catalogCSV)
	if err != nil {
		panic("fit: " + err.Error()) // a test reads the same file
	}
	return &List{entries: entries}
})

// Facts are what the catalog knows of a model besides what its memory use
// depends on. A zero number is not known.
type Facts struct {
	// Licence is its SPDX name where it has one, else the name it goes by;
	// "other" is one with terms of its own. Those of several hosts differ.
	Licence string `json:"licence,omitempty"`

	// Quant is what the Ollama tag stands for, where that is not DefaultQuant.
	Quant string `json:"tag_quant,omitempty"`

	// Tied says that the embeddings are the output matrix too: "yes". Empty:
	// the file has both.
	Tied string `json:"tied_embeddings,omitempty"`

	Experts     int `json:"experts,omitempty"`      // routed ones in a layer
	ExpertsUsed int `json:"experts_used,omitempty"` // of those, for one token
	DenseLayers int `json:"dense_layers,omitempty"` // layers of a mixture without experts
	DenseFF     int `json:"dense_ff,omitempty"`     // feed-forward length of those

	// Multi-head latent attention: ranks of the compressed query (0: it is not
	// compressed) and of the compressed row, lengths of a key's rotated and
	// plain part, and of a value.
	QRank    int `json:"q_rank,omitempty"`
	KVRank   int `json:"kv_rank,omitempty"`
	RopeDim  int `json:"rope_dim,omitempty"`
	NopeDim  int `json:"nope_dim,omitempty"`
	ValueDim int `json:"value_dim,omitempty"`

	// Band is how far, relative, the parameters that follow from the shape may
	// be from ParamsB, which counts what is no part of the shape too: a vision
	// tower, layers for drafts. 0 means 0.01.
	Band float64 `json:"params_band,omitempty"`
}

// Entry is a row of a catalog.
type Entry struct {
	Model
	Facts
}

// List is a catalog: the built-in one, or that with the user's rows over it
// (LoadCatalog). A nil List is the built-in one. It never changes, and may be
// used by several goroutines.
type List struct{ entries []Entry }

func (l *List) rows() []Entry {
	if l == nil {
		return builtin().entries
	}
	return l.entries
}

// Entries gives the rows in their order: coders, then models made for agents,
// then others, then new ones of the user's. The slice is the caller's.
func (l *List) Entries() []Entry {
	out := slices.Clone(l.rows())
	for i := range out {
		out[i].Files = maps.Clone(out[i].Files)
	}
	return out
}

// Models gives the models of the rows. The slice is the caller's.
func (l *List) Models() []Model {
	var out []Model
	for _, e := range l.Entries() {
		out = append(out, e.Model)
	}
	return out
}

// Catalog gives the models of the built-in catalog.
func Catalog() []Model { return (*List)(nil).Models() }

// UnknownModelError says that a name is not in the catalog.
type UnknownModelError struct {
	Name string
	Near []string // known names that look alike, best first
}

func (e *UnknownModelError) Error() string {
	if len(e.Near) == 0 {
		return fmt.Sprintf("model %q is not in the catalog", e.Name)
	}
	return fmt.Sprintf("model %q is not in the catalog; near it: %s", e.Name, strings.Join(e.Near, ", "))
}

// Find looks a model up in the built-in catalog, as List.Find.
func Find(name string) (Model, error) { return (*List)(nil).Find(name) }

// Find looks a model up by its Ollama tag, its short name or its Hugging Face
// repository, upper and lower case alike. A tag may go on after a dash
// ("qwen3:30b-a3b-q8_0"): what it says of the quantization is QuantIn's. The
// error is an *UnknownModelError.
func (l *List) Find(name string) (Model, error) {
	e, err := l.Entry(name)
	return e.Model, err
}

// Entry looks a row up by the same names as Find. The error is an
// *UnknownModelError.
func (l *List) Entry(name string) (Entry, error) {
	key := lookup(name)
	if key == "" {
		return Entry{}, &UnknownModelError{Name: clean(name)}
	}
	for _, e := range l.Entries() {
		if slices.Contains(e.names(), key) {
			return e, nil
		}
	}
	for _, e := range l.Entries() {
		tag := strings.ToLower(e.Tag)
		if strings.Contains(tag, ":") && strings.HasPrefix(key, tag+"-") {
			return e, nil
		}
	}
	return Entry{}, &UnknownModelError{Name: clean(name), Near: l.Near(name)}
}

// lookup is a name as names gives them.
func lookup(name string) string {
	key := strings.ToLower(clean(name))
	return strings.TrimSuffix(strings.TrimPrefix(key, "hf.co/"), ":latest")
}

// names are what a model may be asked for by, in lower case.
func (m Model) names() []string {
	out := []string{strings.ToLower(m.Name)}
	if m.Tag != "" {
		out = append(out, strings.ToLower(m.Tag))
	}
	if m.Repo != "" {
		repo := strings.ToLower(m.Repo)
		out = append(out, repo, repo[strings.LastIndex(repo, "/")+1:])
	}
	return out
}

// Near gives up to three models of the built-in catalog, as List.Near.
func Near(name string) []string { return (*List)(nil).Near(name) }

// Near gives up to three labels that a mistyped name may have meant, the
// likeliest first: a slip of the finger, else the same family in another size.
func (l *List) Near(name string) []string {
	type hit struct {
		label    string
		far, raw int
	}
	name = lookup(name)
	if len(name) > 200 {
		name = name[:200]
	}
	if name == "" {
		return nil
	}
	var hits []hit
	for _, e := range l.rows() {
		best := hit{label: e.Label(), far: 1 << 20}
		for _, n := range e.names() {
			raw := distance(name, n)
			far := raw
			if family, _, _ := strings.Cut(n, ":"); strings.HasPrefix(n, name) || family == strings.Split(name, ":")[0] {
				far = min(far, 2) // a family without a size, or with a size that does not exist
			}
			if far <= max(2, len(n)/3) && (far < best.far || far == best.far && raw < best.raw) {
				best.far, best.raw = far, raw
			}
		}
		if best.far < 1<<20 {
			hits = append(hits, best)
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.raw, b.raw)) })
	var out []string
	for _, h := range hits[:min(3, len(hits))] {
		out = append(out, h.label)
	}
	return out
}

// distance is Levenshtein's: letters to change, add or drop.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}

// parseCatalog reads a catalog with a line of column names.
func parseCatalog(text string) ([]Entry, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("catalog: it is empty")
	}
	var out []Entry
	for i, cells := range rows[1:] {
		e, err := parseRow(rows[0], cells)
		if err != nil {
			return nil, fmt.Errorf("catalog:%d: %w", i+2, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// field gives where the column of this name is kept: a *string, an *int, a
// *float64, the files, or nil for a column that does not exist. The names are
// those of catalog.csv and the keys of the user's file.
func (e *Entry) field(column string) any {
	switch column {
	case "name":
		return &e.Name
	case "tag":
		return &e.Tag
	case "repo":
		return &e.Repo
	case "arch":
		return &e.Arch
	case "params_b":
		return &e.ParamsB
	case "active_b":
		return &e.ActiveB
	case "layers":
		return &e.Layers
	case "hidden":
		return &e.Hidden
	case "ff":
		return &e.FF
	case "expert_ff":
		return &e.ExpertFF
	case "heads":
		return &e.Heads
	case "kv_heads":
		return &e.KVHeads
	case "head_k":
		return &e.HeadK
	case "head_v":
		return &e.HeadV
	case "kind":
		return (*string)(&e.Kind)
	case "full_layers":
		return &e.FullLayers
	case "swa_layers":
		return &e.SWALayers
	case "swa_window":
		return &e.Window
	case "swa_kv_heads":
		return &e.SWAKVHeads
	case "swa_head":
		return &e.SWAHead
	case "state_layers":
		return &e.StateLayers
	case "conv":
		return &e.StateConv
	case "inner":
		return &e.StateInner
	case "state":
		return &e.StateSize
	case "groups":
		return &e.StateGroups
	case "context":
		return &e.Context
	case "vocab":
		return &e.Vocab
	case "licence":
		return &e.Licence
	case "tied":
		return &e.Tied
	case "experts":
		return &e.Experts
	case "experts_used":
		return &e.ExpertsUsed
	case "dense_layers":
		return &e.DenseLayers
	case "dense_ff":
		return &e.DenseFF
	case "q_rank":
		return &e.QRank
	case "kv_rank":
		return &e.KVRank
	case "rope":
		return &e.RopeDim
	case "nope":
		return &e.NopeDim
	case "v_head":
		return &e.ValueDim
	case "band":
		return &e.Band
	case "quant":
		return &e.Quant
	case "coder":
		return &e.Coder
	case "tools":
		return &e.Tools
	case "files":
		return &e.Files
	case "source":
		return &e.Source
	case "checked":
		return &e.Checked
	}
	return nil
}

func parseRow(columns, cells []string) (Entry, error) {
	var e Entry
	for i, col := range columns {
		v := cells[i]
		if v == "" {
			continue
		}
		var err error
		switch p := e.field(col).(type) {
		case *string:
			*p = v
		case *float64:
			*p, err = strconv.ParseFloat(v, 64)
		case *int:
			*p, err = strconv.Atoi(v)
		case *map[string]Bytes:
			*p, err = parseFiles(v)
		default:
			err = fmt.Errorf("unknown column")
		}
		if err != nil {
			return e, fmt.Errorf("%s %q: %w", col, v, err)
		}
	}
	if e.Name == "" || e.Source == "" {
		return e, fmt.Errorf("a model needs a name and a source")
	}
	return e, e.check()
}

// check refuses numbers that no model has, in shape and facts.
func (e Entry) check() error {
	for _, n := range []int{e.Experts, e.ExpertsUsed, e.DenseLayers, e.QRank, e.KVRank, e.RopeDim, e.NopeDim, e.ValueDim} {
		if n < 0 || n > 1<<16 {
			return fmt.Errorf("%d is out of range", n)
		}
	}
	switch {
	case e.DenseFF < 0 || e.DenseFF > 1<<28:
		return fmt.Errorf("%d is out of range", e.DenseFF)
	case e.ExpertsUsed > e.Experts:
		return fmt.Errorf("%d experts of %d are used", e.ExpertsUsed, e.Experts)
	case !(e.Band >= 0 && e.Band < 1):
		return fmt.Errorf("band %v is out of range", e.Band)
	}
	return e.Model.check()
}

// parseFiles reads "Q4_K_M:18556689568 Q8_0:…".
func parseFiles(s string) (map[string]Bytes, error) {
	out := map[string]Bytes{}
	for _, f := range strings.Fields(s) {
		quant, size, _ := strings.Cut(f, ":")
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n <= 0 || quantTypes[quant].nominal == 0 {
			return nil, fmt.Errorf("file %q: want QUANT:BYTES", f)
		}
		out[quant] = Bytes(n)
	}
	return out, nil
}
