package fit

import (
	"math"
	"testing"
)

func TestPlainWeights(t *testing.T) {
	for _, c := range []struct{ params, bits, gb float64 }{
		{30, 16, 60.0}, {30, 4, 15.0}, {235, 4, 117.5}, {8, 8, 8.0},
	} {
		if got := PlainWeights(c.params, c.bits).GB(); got != c.gb {
			t.Errorf("PlainWeights(%v, %v) = %v GB, want %v", c.params, c.bits, got, c.gb)
		}
	}
	if got := PlainWeights(235, 4); got <= 100*GB {
		t.Errorf("PlainWeights(235, 4) = %v, want over 100 GB", got)
	}
}

func TestPlainCheck(t *testing.T) {
	for _, c := range []struct {
		params, bits float64
		device       Bytes
		fits         bool
	}{
		{30, 4, 32 * GB, true}, {30, 4, 16 * GB, false}, {30, 16, 32 * GB, false},
		{235, 4, 64 * GB, false}, {235, 4, 128 * GB, false}, {235, 4, 192 * GB, true},
		{6.5, 8, 10 * GB, false}, // exactly 65 % is not below it
	} {
		r, err := PlainCheck(c.params, c.bits, c.device)
		if err != nil || r.Verdict.OK() != c.fits || r.Source != FromParams || r.KV != nil {
			t.Errorf("PlainCheck(%v, %v, %d) = %q from %q, %v, want fits %v", c.params, c.bits, c.device, r.Verdict, r.Source, err, c.fits)
		}
	}
	for _, c := range [][2]float64{{0, 4}, {-30, 4}, {30, 0}, {30, -1}, {math.NaN(), 4}, {30, math.NaN()}, {math.Inf(1), 4}} {
		if _, err := PlainCheck(c[0], c[1], 32*GB); err == nil {
			t.Errorf("PlainCheck(%v, %v) gave no error", c[0], c[1])
		}
	}
	if _, err := PlainCheck(30, 4, -1); err == nil {
		t.Error("PlainCheck of a device below 0 gave no error")
	}
}

// A mixture of experts counts all of its parameters: what is active does not
// change the weights.
func TestTotalParametersCount(t *testing.T) {
	m, err := Find("qwen3:235b")
	if err != nil {
		t.Fatal(err)
	}
	budget := 64 * GB
	r, err := Check(Ask{Model: m, Quant: "Q4_K_M", Context: 4096, Budget: &budget, GPU: true})
	if err != nil || r.Verdict != No || *r.Weights < 100*GB {
		t.Errorf("Check(qwen3:235b in 64 GB) = %q with weights %v, %v, want no with over 100 GB", r.Verdict, r.Weights, err)
	}
}

// Published files against parameters × effective bits; sizes as their makers
// list them.
func TestEffectiveBits(t *testing.T) {
	for _, c := range []struct {
		model, quant string
		want         Bytes
		band         float64
		source       string
	}{
		{"qwen3-coder:30b", "Q4_K_M", 18556689568, 0.02, "ggml-org/LlamaBarn Catalog.swift"},
		{"qwen3:30b", "Q8_0", 32483932576, 0.02, "ggml-org/LlamaBarn Catalog.swift"},
		{"qwen2.5-coder:32b", "Q4_K_M", 19.9e9, 0.02, "lemonade-sdk/lemonade server_models.json"},
		{"qwen3:32b", "Q8_0", 34.82e9, 0.02, "bartowski/Qwen_Qwen3-32B-GGUF"},
		{"deepseek-v3.1:671b", "Q4_K_M", 404424795750, 0.02, "lhl/strix-halo-testing"},
		{"qwen3-coder-next", "4BIT", 45644286500, 0.05, "exo-explore/exo, MLX"},
		{"gemma4:31b", "UD-Q4_K_XL", 18747532247, 0.15, "kyuz0/amd-strix-halo-toolboxes"},
	} {
		m, err := Find(c.model)
		if err != nil {
			t.Fatal(err)
		}
		m.Files = nil // the parameters, not the catalog's file
		r, err := Check(Ask{Model: m, Quant: c.quant, Context: 4096})
		if err != nil {
			t.Errorf("Check(%s %s): %v", c.model, c.quant, err)
			continue
		}
		off := math.Abs(float64(*r.Weights-c.want)) / float64(c.want)
		if off > c.band || *r.ErrorBand < off || r.Source != FromParams {
			t.Errorf("Check(%s %s) has weights %v, want %v (%s): off by %.1f %%, says ± %.0f %%", c.model, c.quant, r.Weights, c.want, c.source, off*100, *r.ErrorBand*100)
		}
	}
}

// Rows of 1408 do not fill blocks of 256, so the file is larger than its type says.
func TestOddExpertRows(t *testing.T) {
	m, err := Find("glm-4.5-air")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Check(Ask{Model: m, Quant: "q4_K_M", Context: 65536, GPU: true})
	if err != nil || r.Weights.String() != "67.9 GiB" {
		t.Errorf("Check(glm-4.5-air Q4_K_M) has weights %v, %v, want 67.9 GiB", r.Weights, err)
	}
}

func TestQuantNames(t *testing.T) {
	for in, want := range map[string]string{
		"qwen3:30b-a3b-q8_0": "Q8_0", "repo/model-GGUF:Q4_K_M": "Q4_K_M", "qwen3:30b": "", "q8_0": "",
		"gemma-4-31B-it-UD-Q4_K_XL": "UD-Q4_K_XL", "gpt-oss-20b-mxfp4": "MXFP4", "llama3.1:8b-instruct-fp16": "F16",
	} {
		if got := QuantIn(in); got != want {
			t.Errorf("QuantIn(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]int{"q4_K_M": 4, "IQ3_M": 3, "fp16": 16, "MXFP4": 4, "F32": 32} {
		if got, ok := NominalBits(in); got != want || !ok {
			t.Errorf("NominalBits(%q) = %d, %v, want %d", in, got, ok, want)
		}
	}
	if _, ok := NominalBits("Q9_Z"); ok {
		t.Error("NominalBits(Q9_Z) is known")
	}
}
