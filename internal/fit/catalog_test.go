package fit

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestCatalog(t *testing.T) {
	seen := map[string]string{}
	for _, m := range Catalog() {
		for _, n := range m.names() {
			if other := seen[n]; other != "" && other != m.Name {
				t.Errorf("%q is a name of %s and of %s", n, other, m.Name)
			}
			seen[n] = m.Name
		}
		if strings.Contains(m.Source+m.Checked, "memory") {
			t.Errorf("%s: facts from memory do not belong here", m.Name)
		}
		if (m.Tag != "") != strings.Contains(m.Checked, "tag: ") || (m.Tools != "") != strings.Contains(m.Checked, "tools: ") {
			t.Errorf("%s: tag %q and tools %q, but checked %q", m.Name, m.Tag, m.Tools, m.Checked)
		}
		if m.Coder == "" || m.Arch == "" || m.Repo == "" || m.ParamsB <= 0 || m.ActiveB <= 0 || m.ActiveB > m.ParamsB || m.Layers <= 0 || m.Hidden <= 0 || m.Vocab <= 0 || m.Context < 4096 {
			t.Errorf("%s: a fact is missing or absurd: %+v", m.Name, m)
		}
		if _, ok := m.kvGroups(); ok != (m.Kind != KindUnknown) || !m.stateKnown() {
			t.Errorf("%s: kind %q, but its cache is known: %v, its state: %v", m.Name, m.Kind, ok, m.stateKnown())
		}
		if cached := m.FullLayers + m.SWALayers + m.StateLayers; m.Kind == KindSWA && cached != m.Layers || cached > m.Layers {
			t.Errorf("%s: %d of %d layers are accounted for", m.Name, cached, m.Layers)
		}
	}
	for _, name := range strings.Fields(`qwen3-coder:30b qwen3-coder:480b qwen3-coder-next qwen2.5-coder:7b qwen2.5-coder:14b qwen2.5-coder:32b
		qwen3:8b qwen3:14b qwen3:32b qwen3:235b gpt-oss:20b gpt-oss:120b glm-4.5-air deepseek-v3.1:671b deepseek-r1:671b llama3.1:8b`) {
		if _, err := Find(name); err != nil {
			t.Error(err)
		}
	}
}

// The shape of a dense model adds up to its parameters, which holds the rows
// against each other: embeddings, attention and three feed-forward matrices.
func TestShapesAddUp(t *testing.T) {
	n := 0
	for _, m := range Catalog() {
		if m.Kind != KindFull || m.ActiveB != m.ParamsB || m.FF == 0 {
			continue
		}
		layer := 2*m.Hidden*m.Heads*m.HeadK + 2*m.Hidden*m.KVHeads*m.HeadK + 3*m.Hidden*m.FF
		best := math.Inf(1)
		for _, tied := range []int{1, 2} {
			got := float64(tied*m.Vocab*m.Hidden+m.Layers*layer) / 1e9
			best = min(best, math.Abs(got/m.ParamsB-1))
		}
		if best > 0.01 {
			t.Errorf("%s: its shape is %.1f %% off its %v B parameters", m.Name, best*100, m.ParamsB)
		}
		n++
	}
	if n < 8 {
		t.Errorf("only %d models were looked at", n)
	}
}

func TestFind(t *testing.T) {
	for in, want := range map[string]string{
		"qwen3-coder:30b": "qwen3-coder-30b", "QWEN3-CODER:30B": "qwen3-coder-30b", "Qwen/Qwen3-Coder-30B-A3B-Instruct": "qwen3-coder-30b",
		"qwen3-coder-30b-a3b-instruct": "qwen3-coder-30b", "glm-4.5-air": "glm-4.5-air", "zai-org/glm-4.5-air": "glm-4.5-air", "qwen3-coder-next:latest": "qwen3-coder-next",
		"qwen3:30b-a3b-q8_0": "qwen3-30b", " gpt-oss:120b ": "gpt-oss-120b", "hf.co/Qwen/Qwen3-8B": "qwen3-8b",
	} {
		if m, err := Find(in); err != nil || m.Name != want {
			t.Errorf("Find(%q) = %q, %v, want %q", in, m.Name, err, want)
		}
	}
	for in, near := range map[string]string{
		"qwen3-codr:30b": "qwen3-coder:30b", "qwen3-coder": "qwen3-coder:30b", "gpt-oss:20": "gpt-oss:20b", "qwen2.5-coder:3b": "qwen2.5-coder:7b",
		"deepseek-r1:70b": "deepseek-r1:671b", "zzzzzz": "", "": "",
	} {
		_, err := Find(in)
		var unknown *UnknownModelError
		if !errors.As(err, &unknown) || near != "" && !slices.Contains(unknown.Near, near) || near == "" && len(unknown.Near) > 0 {
			t.Errorf("Find(%q): %v, want near %q", in, err, near)
		}
	}
}

func TestCatalogIsTheCallers(t *testing.T) {
	a := Catalog()
	a[0].Name = "changed"
	for k := range a[0].Files {
		a[0].Files[k] = 1
	}
	if b := Catalog(); b[0].Name == "changed" || b[0].Files["Q4_K_M"] == 1 {
		t.Errorf("Catalog()[0] = %q with files %v, want it untouched", b[0].Name, b[0].Files)
	}
}

func TestParseCatalog(t *testing.T) {
	for text, says := range map[string]string{
		"":                                   "empty",
		"name,source\nx":                     "wrong number of fields",
		"name,source\nx,":                    "needs a name and a source",
		"name,wheels\nx,4":                   "wheels",
		"name,source,layers\nx,y,many":       `catalog:2: layers "many"`,
		"name,source,layers\nx,y,-1":         "out of range",
		"name,source,files\nx,y,Q4_K_M:none": "QUANT:BYTES",
		"name,source,params_b\nx,y,NaN":      "out of range",
	} {
		if _, err := parseCatalog(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("parseCatalog(%q): %v, want an error that says %q", text, err, says)
		}
	}
}

func FuzzParseCatalog(f *testing.F) {
	f.Add("name,source,layers,files\nx,y,3,Q8_0:5\n")
	f.Add(catalogCSV[:2000])
	f.Fuzz(func(t *testing.T, text string) {
		models, err := parseCatalog(text)
		for _, m := range models {
			if err == nil && (m.Name == "" || m.check() != nil) {
				t.Errorf("parseCatalog(%q) let %+v through", text, m)
			}
		}
	})
}

func FuzzFind(f *testing.F) {
	f.Add("qwen3-coder:30b")
	f.Add("\x00:\x1b")
	f.Fuzz(func(t *testing.T, name string) {
		if m, err := Find(name); err == nil && m.Name == "" {
			t.Errorf("Find(%q) gave a model without a name", name)
		}
	})
}
