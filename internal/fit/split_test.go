package fit

import (
	"slices"
	"strings"
	"testing"
)

func TestCards(t *testing.T) {
	m := coder(t) // 48 layers, 17.3 GiB of weights
	for _, c := range []struct {
		cards  []Bytes
		ok     bool
		layers []int // nil: not looked at
	}{
		{[]Bytes{16 * GiB, 16 * GiB}, true, nil},
		{[]Bytes{12 * GiB, 12 * GiB}, true, nil},
		{[]Bytes{10 * GiB, 10 * GiB}, false, nil},
		{[]Bytes{24 * GiB, 8 * GiB}, true, []int{37, 12}},
		{[]Bytes{30 * GiB, 0}, true, []int{49, 0}}, // a card that is full is no harm
		{[]Bytes{30 * GiB}, true, []int{49}},
	} {
		r, err := Check(Ask{Model: m, Context: 32768, GPU: true, Engine: "llama-server", Cards: c.cards})
		if err != nil || r.Verdict.OK() != c.ok || c.layers != nil && !slices.Equal(r.Layers, c.layers) {
			t.Errorf("Check on %v = %q with layers %v, %v, want ok %v with %v", c.cards, r.Verdict, r.Layers, err, c.ok, c.layers)
		}
		if c.ok && r.MaxContext != nil && *r.MaxContext < 32768 {
			t.Errorf("Check on %v fits 32768 tokens, but at most %d", c.cards, *r.MaxContext)
		}
	}
	// The longest context keeps to whole layers too.
	a := Ask{Model: m, GPU: true, Engine: "llama-server", Cards: []Bytes{12 * GiB, 12 * GiB}}
	r, err := Check(a)
	if err != nil || r.Layers == nil || *r.MaxContext == 0 {
		t.Fatalf("Check(the most on two cards) = %d tokens, layers %v, %v", *r.MaxContext, r.Layers, err)
	}
	a.Context = *r.MaxContext + contextStep
	if r, err = Check(a); err != nil || r.Verdict.OK() {
		t.Errorf("Check of 256 tokens more than the most on two cards = %q, %v, want no", r.Verdict, err)
	}
	for says, a := range map[string]Ask{
		"3 devices, and the memory of 2": {Model: m, Cards: []Bytes{1, 1}, Devices: 3},
		"is not below 0":                 {Model: m, Cards: []Bytes{-1}},
	} {
		if _, err := Check(a); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Check on %v: %v, want an error that says %q", a.Cards, err, says)
		}
	}
}

func TestRegime(t *testing.T) {
	for _, c := range []struct {
		engine, version string
		want            regime
	}{
		{"llama-server", "", regime{}},
		{"llama-server", "b11434", regime{}},
		{"llama-server", "10434", regime{}},
		{"llama-server", "b9000", regime{both: true}},
		{"llama-server", "b5000", regime{old: true}},
		{"llama-server", "b1-7e4c0a9", regime{}}, // built from source: not a number of llama.cpp's
		{"llama-server", "1", regime{}},
		{"ollama", "0.17.4", regime{old: true}},
		{"", "0.30.0", regime{growing: true}},
	} {
		if got, err := engineRegime(c.engine, c.version); err != nil || got != c.want {
			t.Errorf("engineRegime(%q, %q) = %+v, %v, want %+v", c.engine, c.version, got, err, c.want)
		}
	}
}

// Every text of a question: none may panic, and what is understood stays so.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"llama-server", "b11434", "v0.17.4", "q8_0/q4_0", "UD-Q4_K_XL", "repo/model-GGUF:Q4_K_M", "\x1b[31m", "fp8_ds_mla"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if q := QuantIn(s); q != "" {
			if _, ok := NominalBits(q); !ok {
				t.Errorf("QuantIn(%q) = %q, which has no bits", s, q)
			}
		}
		if k, v, err := parseKVTypes(s); err == nil && (k.bytes <= 0 || v.block <= 0) {
			t.Errorf("parseKVTypes(%q) = %+v, %+v", s, k, v)
		}
		_, errA := engineRegime(s, s)
		_, errB := engineRegime("ollama", s)
		_, errC := engineRegime("llama-server", s)
		_, _, errD := SafetensorsWeights(Model{Name: s, ParamsB: 1}, s)
		for _, err := range []error{errA, errB, errC, errD} {
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\x07\n") {
				t.Errorf("%q gives an error with control characters", s)
			}
		}
	})
}

// Ollama takes one GPU where that is enough, and needs one context and one compute buffer then.
func TestOneCard(t *testing.T) {
	m := coder(t) // 17.3 GiB of weights
	for _, c := range []struct {
		cards  []Bytes
		ctx    int
		budget Bytes
		split  bool
	}{
		{[]Bytes{24 * GiB, 23 * GiB}, 16384, 24 * GiB, false},
		{[]Bytes{24 * GiB, 23 * GiB}, 131072, 47 * GiB, true},
		{[]Bytes{16 * GiB, 16 * GiB}, 16384, 32 * GiB, true},
	} {
		a := Ask{Model: m, Context: c.ctx, GPU: true, Cards: c.cards, EngineVersion: "0.31.0"}
		r, err := Check(a)
		if err != nil || !r.Verdict.OK() || *r.Budget != c.budget || (r.Layers != nil) != c.split {
			t.Errorf("Check of %d tokens on %v = %q of %v, layers %v, %v", c.ctx, c.cards, r.Verdict, r.Budget, r.Layers, err)
		}
		a.Engine, a.EngineVersion = "llama-server", ""
		if r, err := Check(a); err != nil || r.Layers == nil {
			t.Errorf("llama-server on %v: layers %v, %v, want a split", c.cards, r.Layers, err)
		}
	}
}
