package fit

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestCatalog(t *testing.T) {
	seen, tags := map[string]string{}, map[string]string{}
	all := (*List)(nil).Entries()
	for _, m := range all {
		for _, n := range m.names() {
			if other := seen[n]; other != "" && other != m.Name {
				t.Errorf("%q is a name of %s and of %s", n, other, m.Name)
			}
			seen[n] = m.Name
		}
		if other := tags[m.Tag]; m.Tag != "" && other != "" {
			t.Errorf("tag %s is that of %s and of %s", m.Tag, other, m.Name)
		}
		tags[m.Tag] = m.Name
		if len(m.Source) < 10 || strings.Contains(m.Source+m.Checked, "memory") {
			t.Errorf("%s: source %q; facts from memory do not belong here", m.Name, m.Source)
		}
		if m.Licence == "" {
			t.Errorf("%s has no licence", m.Name)
		}
		if (m.Tag != "") != strings.Contains(m.Checked, "tag: ") || (m.Tools != "") != strings.Contains(m.Checked, "tools: ") {
			t.Errorf("%s: tag %q and tools %q, but checked %q", m.Name, m.Tag, m.Tools, m.Checked)
		}
		for field, word := range map[string]string{"coder": m.Coder, "tools": m.Tools, "tied": m.Tied, "kind": string(m.Kind), "quant": m.Quant} {
			if word != "" && checkWord(field, word) != "" {
				t.Errorf("%s: %s %s", m.Name, field, checkWord(field, word))
			}
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
		if m.Kind == KindMLA && (m.HeadK != m.KVRank+m.RopeDim || m.KVHeads != 1 || m.HeadV != 0) {
			t.Errorf("%s: a row of %d, want rank %d and rotated part %d", m.Name, m.HeadK, m.KVRank, m.RopeDim)
		}
		if m.missing() != "" {
			t.Errorf("%s %s", m.Name, m.missing())
		}
	}
	if len(all) < 60 {
		t.Errorf("%d models, want 60 or more", len(all))
	}
	for _, name := range strings.Fields(`qwen3-coder:30b qwen3-coder:480b qwen3-coder-next qwen2.5-coder:0.5b qwen2.5-coder:1.5b qwen2.5-coder:3b qwen2.5-coder:7b
		qwen2.5-coder:14b qwen2.5-coder:32b qwen3:8b qwen3:14b qwen3:32b qwen3:235b gpt-oss:20b gpt-oss:120b glm-4.5-air deepseek-v3.1:671b deepseek-r1:671b
		llama3.1:8b devstral:24b devstral-small-2:24b codestral:22b deepseek-coder:6.7b deepseek-coder-v2:16b starcoder2:15b granite-code:8b codellama:13b
		seed-coder-8b laguna-xs.2 kimi-k2.7-code minimax-m2.7 glm-4.6 gemma3:12b phi4:14b mistral:7b qwen3.5:4b smollm2-135m qwen3.8:27b`) {
		if _, err := Find(name); err != nil {
			t.Error(err)
		}
	}
}

// shape counts the parameters, in billions, that follow from the numbers of a
// row: embeddings, attention or recurrence, feed-forward. Norms and biases are
// left out. False means that the row has too few numbers.
func shape(e Entry) (billions float64, ok bool) {
	h, l := e.Hidden, e.Layers
	if e.FF == 0 || strings.HasPrefix(e.Arch, "nemotron") || e.Arch == "step35" { // two matrices an expert; heads that differ by layer
		return 0, false
	}
	attention := func(kvHeads, head, gate int) int { return gate*h*e.Heads*head + 2*h*kvHeads*head + e.Heads*head*h }
	total := 2 * e.Vocab * h
	if e.Tied == "yes" {
		total = e.Vocab * h
	}
	switch {
	case e.KVRank > 0:
		query := h * e.Heads * (e.RopeDim + e.NopeDim)
		if e.QRank > 0 {
			query = e.QRank * (h + e.Heads*(e.RopeDim+e.NopeDim))
		}
		total += l * (query + h*(e.KVRank+e.RopeDim) + e.KVRank*e.Heads*(e.NopeDim+e.ValueDim) + e.Heads*e.ValueDim*h)
	case e.Kind == KindFull:
		total += l * attention(e.KVHeads, e.HeadK, 1)
	case e.Kind == KindSWA:
		total += e.FullLayers*attention(e.KVHeads, e.HeadK, 1) + e.SWALayers*attention(e.SWAKVHeads, e.SWAHead, 1)
	case e.Kind == KindHybrid: // gated delta net, with a gate on the attention too
		key := e.StateGroups * e.StateSize
		linear := h*(2*key+2*e.StateInner) + 2*h*(e.StateInner/e.StateSize) + e.StateInner*h + (2*key+e.StateInner)*e.StateConv
		total += e.FullLayers*attention(e.KVHeads, e.HeadK, 2) + e.StateLayers*linear
	default:
		return 0, false
	}
	if e.Experts > 0 {
		shared := e.FF - e.ExpertsUsed*e.ExpertFF
		total += (l-e.DenseLayers)*h*(3*(e.Experts*e.ExpertFF+shared)+e.Experts) + e.DenseLayers*3*h*e.DenseFF
	} else {
		matrices := 3
		if e.Arch == "starcoder2" {
			matrices = 2
		}
		total += l * matrices * h * e.FF
	}
	return float64(total) / 1e9, true
}

// Every row's shape adds up to its parameters, which holds its numbers against
// each other: within 1 %, or the band that the row states for a vision tower or
// a layer for drafts that its parameters count too.
func TestShapesAddUp(t *testing.T) {
	without := strings.Fields(`north-mini-code mellum2-12b muse-glimmer-30b qwen3.5-2b qwen3.5-4b qwen3.5-9b deepseek-v4-flash nemotron-3-nano-30b nemotron-3-super-120b
		nemotron-nano-9b-v2 step-3.5-flash`)
	n := 0
	for _, e := range (*List)(nil).Entries() {
		got, ok := shape(e)
		if ok == slices.Contains(without, e.Name) {
			t.Errorf("%s: its shape can be added up: %v", e.Name, ok)
		}
		if !ok {
			continue
		}
		n++
		band := cmp.Or(e.Band, 0.01)
		if off := got/e.ParamsB - 1; math.Abs(off) > band {
			t.Errorf("%s: its shape comes to %.3f B, %+.1f %% off its %v B parameters, more than ± %v %%", e.Name, got, off*100, e.ParamsB, band*100)
		}
		if e.Band > 0.12 {
			t.Errorf("%s: a band of %v proves nothing", e.Name, e.Band)
		}
	}
	if n < 100 {
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
		"qwen3-codr:30b": "qwen3-coder:30b", "qwen3-coder": "qwen3-coder:30b", "gpt-oss:20": "gpt-oss:20b", "qwen2.5-coder:13b": "qwen2.5-coder:14b",
		"deepseek-r1:72b": "deepseek-r1:70b", "devstrall:24b": "devstral:24b", "gpt-oss": "gpt-oss:20b", "zzzzzz": "", "": "",
	} {
		_, err := Find(in)
		var unknown *UnknownModelError
		if !errors.As(err, &unknown) || near != "" && !slices.Contains(unknown.Near, near) || near == "" && len(unknown.Near) > 0 || len(unknown.Near) > 3 {
			t.Errorf("Find(%q): %v, want near %q", in, err, near)
		}
	}
}

// The likeliest name comes first.
func TestNear(t *testing.T) {
	for in, want := range map[string]string{
		"qwen3-coder:30": "qwen3-coder:30b", "qwen3-coder": "qwen3-coder:30b", "lama3.1:8b": "llama3.1:8b", "qwen2.5-coder:13b": "qwen2.5-coder:14b",
		"QWEN3-CODR:480B": "qwen3-coder:480b", "devstral-smal-2:24b": "devstral-small-2:24b",
	} {
		if got := Near(in); len(got) == 0 || got[0] != want {
			t.Errorf("Near(%q) = %q, want %s first", in, got, want)
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
		"name,source,experts_used\nx,y,3":    "3 experts of 0 are used",
		"name,source,band\nx,y,1":            "out of range",
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
