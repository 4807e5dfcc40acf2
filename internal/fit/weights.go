package fit

import (
	"fmt"
	"math"
	"strings"
)

// Source says where the size of the weights came from. Empty is null in JSON.
type Source string

const (
	FromFile    Source = "file"    // the file on the box
	FromAPI     Source = "api"     // what the engine told
	FromCatalog Source = "catalog" // a published file of this model and type
	FromParams  Source = "params"  // parameters × bits
)

// MarshalJSON writes the source, or null if there is none.
func (s Source) MarshalJSON() ([]byte, error) { return Verdict(s).MarshalJSON() }

// quantType is a kind of file. bits are those of a whole file, in which
// embeddings and output are kept at higher precision.
type quantType struct {
	nominal int     // bits in the name; what min_bits is compared with
	bits    float64 // effective bits of each parameter
	band    float64 // relative error of bits
	kQuant  bool    // blocks of 256: see Model.bits
}

// Effective bits, from published files and llama-bench logs (GGUF and
// MLX: mean error 2.5 % over 67 files).
var quantTypes = map[string]quantType{
	"F32":  {32, 32, 0.02, false},
	"F16":  {16, 16, 0.02, false},
	"BF16": {16, 16, 0.02, false},
	"FP8":  {8, 8.1, 0.03, false},
	"Q8_0": {8, 8.5, 0.02, false},

	"Q6_K":   {6, 6.56, 0.02, true},
	"Q6_K_L": {6, 6.65, 0.02, true},
	"Q5_K_M": {5, 5.68, 0.02, true},
	"Q5_K_S": {5, 5.52, 0.02, true},
	"Q5_1":   {5, 6.0, 0.02, false},
	"Q5_0":   {5, 5.6, 0.02, false},
	"Q4_K_M": {4, 4.85, 0.02, true},
	"Q4_K_S": {4, 4.58, 0.02, true},
	"Q4_1":   {4, 5.1, 0.02, false},
	"Q4_0":   {4, 4.6, 0.02, false},
	"IQ4_XS": {4, 4.32, 0.02, true},
	"IQ4_NL": {4, 4.55, 0.02, false},
	"Q3_K_L": {3, 4.27, 0.03, true},
	"Q3_K_M": {3, 3.9, 0.03, true},
	"Q3_K_S": {3, 3.5, 0.03, true},
	"IQ3_M":  {3, 3.7, 0.05, true},
	"Q2_K_S": {2, 3.0, 0.10, true},
	"Q2_K":   {2, 3.35, 0.10, true},
	"IQ2_M":  {2, 2.7, 0.05, true},
	"IQ1_M":  {1, 1.8, 0.05, true},

	// As llama.cpp's quantize names them in its help; a file is a little more.
	"IQ3_S":   {3, 3.44, 0.10, true},
	"IQ3_XS":  {3, 3.3, 0.10, true},
	"IQ3_XXS": {3, 3.06, 0.10, true},
	"IQ2_S":   {2, 2.5, 0.10, true},
	"IQ2_XS":  {2, 2.31, 0.15, true},
	"IQ2_XXS": {2, 2.06, 0.15, true},
	"IQ1_S":   {1, 1.56, 0.15, true},
	"TQ1_0":   {1, 1.69, 0.15, true},
	"TQ2_0":   {2, 2.06, 0.15, true},

	"MXFP4":     {4, 4.63, 0.15, false}, // experts only: see mxfp4Bits
	"MXFP4_MOE": {4, 4.63, 0.15, false},
	"MXFP4-Q8":  {4, 4.63, 0.15, false},
	"MXFP4+F16": {4, 5.27, 0.15, false},
	"NVFP4":     {4, 4.5, 0.30, false}, // most checkpoints mix in FP8 and bf16
	"AWQ":       {4, 4.25, 0.05, false},
	"GPTQ":      {4, 4.25, 0.05, false},

	"3BIT": {3, 3.5, 0.05, false}, // MLX, groups of 64
	"4BIT": {4, 4.5, 0.05, false},
	"5BIT": {5, 5.5, 0.05, false},
	"6BIT": {6, 6.5, 0.05, false},
	"8BIT": {8, 8.5, 0.05, false},

	"UD-IQ2_XXS": {2, 2.3, 0.15, false},
	"UD-IQ3_XXS": {3, 3.2, 0.15, false},
	"UD-Q2_K_XL": {2, 2.9, 0.15, false},
	"UD-Q3_K_XL": {3, 3.8, 0.15, false},
	"UD-Q6_K":    {6, 6.7, 0.15, false},
	"UD-Q3_K_S":  {3, 3.28, 0.15, false},
	"UD-Q4_K_XL": {4, 5.05, 0.15, false},
	"UD-Q5_K_XL": {5, 6.0, 0.15, false},
	"UD-Q6_K_XL": {6, 6.8, 0.15, false},
	"UD-Q8_K_XL": {8, 9.5, 0.15, false},
}

// normalQuant writes a quantization as the tables do: "q4_K_M" as "Q4_K_M".
func normalQuant(s string) string {
	s = strings.ToUpper(clean(s))
	switch s {
	case "FP16":
		return "F16"
	case "FP32":
		return "F32"
	case "UNKNOWN":
		return ""
	}
	return s
}

// NominalBits gives the bits that a quantization has in its name, 4 for
// Q4_K_M, and false if it is not known.
func NominalBits(quant string) (int, bool) {
	q, ok := quantTypes[normalQuant(quant)]
	return q.nominal, ok
}

// QuantIn finds the quantization at the end of a name such as
// "qwen3:30b-a3b-q8_0" or "repo/model-GGUF:Q4_K_M". Empty means none.
func QuantIn(name string) string {
	name = normalQuant(name)
	for i := range len(name) {
		if i > 0 && name[i-1] != '-' && name[i-1] != ':' {
			continue
		}
		q := normalQuant(name[i:])
		if _, ok := quantTypes[q]; ok && i > 0 {
			return q
		}
	}
	return ""
}

// bits gives the effective bits of each parameter of this model in quant, and
// their relative error.
//
// K quantizations work on rows of 256. Where the inner size of an expert is no
// multiple of it (1408 in GLM-4.5-Air), llama.cpp stores the down projections,
// about a third of the weights, in types of 32: Q4_K becomes Q5_0, Q6_K becomes
// Q8_0. That is what lifts GLM-4.5-Air in Q4_K_M from 62 to 68 GiB.
func (m Model) bits(quant string) (bits, band float64, err error) {
	q, ok := quantTypes[quant]
	if !ok {
		return 0, 0, fmt.Errorf("quantization %q: its bits are not known; a file size is needed", quant)
	}
	if rest := m.besideExperts(); strings.HasPrefix(quant, "MXFP4") && rest > 0 && m.ParamsB > rest {
		other := 8.5
		if quant == "MXFP4+F16" {
			other = 16
		}
		return (4.25*(m.ParamsB-rest) + other*rest) / m.ParamsB, 0.05, nil
	}
	if quant == "Q2_K" && m.ExpertFF > 0 && m.ExpertFF%256 == 0 {
		// Of the three matrices of an expert two are Q2_K and one Q3_K; the rest,
		// which lifts small files to 3.35, weighs little in a mixture.
		return (2*2.625 + 3.4375) / 3, 0.08, nil
	}
	if row := cmpNonZero(m.ExpertFF, m.FF); q.kQuant && row%256 != 0 {
		more := 0.43
		if q.nominal == 6 {
			more = 0.62
		}
		return q.bits + more, max(q.band, 0.05), nil
	}
	return q.bits, q.band, nil
}

// besideExperts is the billions of parameters of a mixture that are no expert's:
// embeddings, output and attention. MXFP4 files keep them in Q8_0, or in F16,
// and only the experts in blocks of 4.25 bits: 4.33 bits in all for gpt-oss 120B
// and 4.62 for 20B, where the files have 4.34 and 4.63. 0 means not known.
func (m Model) besideExperts() float64 {
	if m.ExpertFF == 0 || m.Kind != KindFull && m.Kind != KindSWA {
		return 0
	}
	attention := mul(m.Layers, m.Hidden, m.HeadK, 2*(m.Heads+m.KVHeads))
	return add(mul(2, m.Vocab, m.Hidden), attention).GB()
}

func cmpNonZero(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// tiedArchs are the architectures whose embeddings serve as output too.
var tiedArchs = map[string]bool{"gemma": true, "gemma2": true, "gemma3": true, "gemma3n": true, "gemma4": true, "cohere2": true, "command-r": true}

// tiedBytes is the size of embeddings that serve as output too. As such they
// are Q6_K, or Q8_0 where rows are no multiple of 256, in any quantized file
// (llama.cpp src/llama-quant.cpp). 0 where they do not.
func (m Model) tiedBytes(quant string) Bytes {
	if !tiedArchs[m.Arch] {
		return 0
	}
	switch {
	case quant == "F32":
		return mul(m.Vocab, m.Hidden, 4)
	case quant == "F16" || quant == "BF16":
		return mul(m.Vocab, m.Hidden, 2)
	case m.Hidden%256 == 0 && quant != "Q8_0":
		return mul(m.Vocab, m.Hidden/256, 210)
	}
	return mul(m.Vocab, (m.Hidden+31)/32, 34)
}

// headroom is the share of a device that the plain rule leaves free.
const headroom = 0.35

// PlainWeights is the plain rule: parameters × bits / 8. 30 (billion) at 4 bits
// is 15.0 GB. Of a mixture of experts all parameters count, not the active ones.
func PlainWeights(paramsB, bits float64) Bytes {
	b := math.Round(paramsB * 1e9 * bits / 8)
	if b >= math.MaxInt64 {
		return math.MaxInt64
	}
	return Bytes(b)
}

// PlainCheck is the last resort, for a model of which only the size is known:
// it fits if its weights are below 65 % of the device. It is low by 10 to 30 %
// on the weights of real files, which the 35 % left free must pay for too.
func PlainCheck(paramsB, bits float64, device Bytes) (Result, error) {
	switch {
	case !(paramsB > 0 && paramsB < 1e6):
		return Result{}, fmt.Errorf("%v billion parameters: want more than 0 and less than a million", paramsB)
	case !(bits > 0 && bits <= 64):
		return Result{}, fmt.Errorf("%v bits: want more than 0 and at most 64", bits)
	case device < 0:
		return Result{}, fmt.Errorf("memory of %d bytes: it is not below 0", device)
	}
	w := PlainWeights(paramsB, bits)
	total := scale(w, 1/(1-headroom))
	band := 0.30
	r := Result{
		Model: billions(paramsB), Quant: fmt.Sprintf("%g bits", bits), Parallel: 1,
		Weights: &w, Total: &total, Budget: &device, Verdict: verdict(total, &device),
		Source: FromParams, ErrorBand: &band, ParamsB: &paramsB,
		Notes: []string{"plain rule: parameters × bits / 8, and 35 % of the memory left free; the context is not looked at"},
	}
	if !(float64(w) < float64(device)*(1-headroom)) {
		r.Verdict = No
	}
	return r, nil
}
