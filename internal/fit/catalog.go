package fit

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"sort"
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

var catalog = sync.OnceValue(func() []Model {
	models, err := parseCatalog(catalogCSV)
	if err != nil {
		panic("fit: " + err.Error()) // a test reads the same file
	}
	return models
})

// Catalog gives the known models, in the order of the file. The slice is the
// caller's.
func Catalog() []Model {
	out := slices.Clone(catalog())
	for i := range out {
		out[i].Files = maps.Clone(out[i].Files)
	}
	return out
}

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

// Find looks a model up by its Ollama tag, its short name or its Hugging Face
// repository, upper and lower case alike. A tag may go on after a dash
// ("qwen3:30b-a3b-q8_0"): what it says of the quantization is QuantIn's. The
// error is an *UnknownModelError.
func Find(name string) (Model, error) {
	key := strings.ToLower(clean(name))
	key = strings.TrimSuffix(strings.TrimPrefix(key, "hf.co/"), ":latest")
	if key == "" {
		return Model{}, &UnknownModelError{Name: clean(name)}
	}
	for _, m := range Catalog() {
		if slices.Contains(m.names(), key) {
			return m, nil
		}
	}
	for _, m := range Catalog() {
		tag := strings.ToLower(m.Tag)
		if strings.Contains(tag, ":") && strings.HasPrefix(key, tag+"-") {
			return m, nil
		}
	}
	return Model{}, &UnknownModelError{Name: clean(name), Near: near(key)}
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

// near gives up to three labels that look like name.
func near(name string) []string {
	type hit struct {
		label string
		far   int
	}
	if len(name) > 200 {
		name = name[:200]
	}
	var hits []hit
	for _, m := range Catalog() {
		best := 1 << 20
		for _, n := range m.names() {
			d := distance(name, n)
			if family, _, _ := strings.Cut(n, ":"); strings.HasPrefix(n, name) || family == strings.Split(name, ":")[0] {
				d = min(d, 2) // a family without a size, or with a size that does not exist
			}
			if d <= max(2, len(n)/3) {
				best = min(best, d)
			}
		}
		if best < 1<<20 {
			hits = append(hits, hit{m.Label(), best})
		}
	}
	sort.SliceStable(hits, func(i, j int) bool { return hits[i].far < hits[j].far })
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
func parseCatalog(text string) ([]Model, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("catalog: it is empty")
	}
	var out []Model
	for i, cells := range rows[1:] {
		m, err := parseRow(rows[0], cells)
		if err != nil {
			return nil, fmt.Errorf("catalog:%d: %w", i+2, err)
		}
		out = append(out, m)
	}
	return out, nil
}

func parseRow(columns, cells []string) (Model, error) {
	var m Model
	texts := map[string]*string{
		"name": &m.Name, "tag": &m.Tag, "repo": &m.Repo, "arch": &m.Arch, "kind": (*string)(&m.Kind),
		"coder": &m.Coder, "tools": &m.Tools, "source": &m.Source, "checked": &m.Checked,
	}
	floats := map[string]*float64{"params_b": &m.ParamsB, "active_b": &m.ActiveB}
	ints := map[string]*int{
		"layers": &m.Layers, "hidden": &m.Hidden, "ff": &m.FF, "expert_ff": &m.ExpertFF,
		"heads": &m.Heads, "kv_heads": &m.KVHeads, "head_k": &m.HeadK, "head_v": &m.HeadV, "full_layers": &m.FullLayers,
		"swa_layers": &m.SWALayers, "swa_window": &m.Window, "swa_kv_heads": &m.SWAKVHeads, "swa_head": &m.SWAHead,
		"state_layers": &m.StateLayers, "conv": &m.StateConv, "inner": &m.StateInner, "state": &m.StateSize, "groups": &m.StateGroups,
		"context": &m.Context, "vocab": &m.Vocab,
	}
	for i, col := range columns {
		v := cells[i]
		if v == "" {
			continue
		}
		var err error
		switch {
		case texts[col] != nil:
			*texts[col] = v
		case floats[col] != nil:
			*floats[col], err = strconv.ParseFloat(v, 64)
		case ints[col] != nil:
			*ints[col], err = strconv.Atoi(v)
		case col == "files":
			m.Files, err = parseFiles(v)
		default:
			err = fmt.Errorf("unknown column")
		}
		if err != nil {
			return m, fmt.Errorf("%s %q: %w", col, v, err)
		}
	}
	if m.Name == "" || m.Source == "" {
		return m, fmt.Errorf("a model needs a name and a source")
	}
	return m, m.check()
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
