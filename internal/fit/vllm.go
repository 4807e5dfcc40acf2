package fit

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// VLLMCache is what the size of vLLM's cache depends on. All sizes are those of
// one GPU.
type VLLMCache struct {
	Model Model

	// Context is --max-model-len. 0 means the model's own limit.
	Context int

	// Tensor is --tensor-parallel-size; 0 means 1.
	Tensor int

	// DecodeContext is --decode-context-parallel-size, which parts the tokens
	// of a cache that all ranks would else hold alike; 0 means 1.
	DecodeContext int

	// KVType is --kv-cache-dtype: "auto", "bf16", "fp8", "fp8_e4m3",
	// "fp8_e5m2", "int8_per_token_head", "nvfp4" or "fp8_ds_mla". Empty means auto.
	KVType string

	// Drafts is how many tokens the model's own draft head writes ahead; 0
	// means that it is not loaded.
	Drafts int

	// NoPrefixCache says that prefixes are not kept (--no-enable-prefix-caching).
	NoPrefixCache bool

	// Batched is --max-num-batched-tokens; 0 means 2048.
	Batched int
}

// VLLMCapacity is what a cache of a given size holds.
type VLLMCapacity struct {
	Block       int     `json:"block"`              // tokens of a block
	Page        Bytes   `json:"page_bytes"`         // of one block in one layer, on one GPU
	Blocks      int     `json:"blocks"`             // in the whole cache
	PerRequest  int     `json:"blocks_per_request"` // what a request of Context tokens needs
	Tokens      int     `json:"tokens"`             // as vLLM prints "KV cache size"
	Concurrency float64 `json:"concurrency"`        // requests of Context tokens at once
	MaxContext  int     `json:"max_context"`        // the longest request that finds room; no more than the model's limit

	pool Bytes // of one block in all layers
}

// vllmBlock is the tokens of a block where nothing asks for larger ones.
const vllmBlock = 16

// vllmKV is how a cache stores an element: bits, and bytes for each head and
// token of a scale beside it.
type vllmKV struct {
	bits   float64
	scales int
	mla    int // bytes of a whole MLA row; 0: as many as the bits say
}

// Element sizes from vLLM v1/kv_cache_interface.py: nvfp4 has a scale of a byte
// for 16 elements, and a per-token head two of 4 bytes, for key and value.
var vllmKVs = map[string]vllmKV{
	"": {bits: 16}, "auto": {bits: 16}, "bf16": {bits: 16}, "bfloat16": {bits: 16}, "f16": {bits: 16}, "fp16": {bits: 16}, "float16": {bits: 16},
	"fp8": {bits: 8}, "fp8_e4m3": {bits: 8}, "fp8_e5m2": {bits: 8},
	"int8_per_token_head": {bits: 8, scales: 8}, "fp8_per_token_head": {bits: 8, scales: 8}, "int8_pth": {bits: 8, scales: 8},
	"nvfp4":      {bits: 4.5},
	"fp8_ds_mla": {bits: 8, mla: 656},
}

// vllmLayers are the layers of one kind.
type vllmLayers struct {
	n     int
	token Bytes // bytes of one token in one layer, on one GPU
}

// shape is the cache of a model as vLLM sees it.
type vllmShape struct {
	full, window vllmLayers
	states       int   // recurrent layers
	state        Bytes // of one of them, for one request
}

// shape reads the layers of the model and refuses what is not understood.
func (c VLLMCache) shape() (vllmShape, error) {
	var s vllmShape
	m := c.Model
	if err := m.check(); err != nil {
		return s, fmt.Errorf("shape of %s: %w", m.Label(), err)
	}
	tp := max(c.Tensor, 1)
	switch {
	case c.Context < 0 || c.Tensor < 0 || c.DecodeContext < 0 || c.Drafts < 0 || c.Batched < 0:
		return s, fmt.Errorf("vLLM's cache of %s: a number below 0", m.Label())
	case c.Context > contextTop || tp > parallelTop || c.DecodeContext > tp || c.Drafts > 1<<10 || c.Batched > contextTop:
		return s, fmt.Errorf("vLLM's cache of %s: a number out of range", m.Label())
	case m.Context > 0 && c.Context > m.Context:
		return s, &ContextError{Model: m.Label(), Want: c.Context, Limit: m.Context}
	case m.Context == 0 && c.Context == 0:
		return s, fmt.Errorf("context of %s: its own limit is not known, so a number is needed", m.Label())
	}
	kv, ok := vllmKVs[strings.ToLower(clean(c.KVType))]
	if !ok {
		return s, fmt.Errorf("type of vLLM's cache %q: want auto, fp8, nvfp4 or another of its own", clean(c.KVType))
	}
	groups, ok := m.kvGroups()
	if !ok || !m.stateKnown() {
		return s, fmt.Errorf("vLLM's cache of %s: its architecture is not understood", m.Label())
	}
	for _, g := range groups {
		token, err := c.token(g, kv, tp)
		if err != nil {
			return s, err
		}
		if g.window {
			s.window = vllmLayers{s.window.n + g.layers, max(s.window.token, token)}
		} else {
			s.full = vllmLayers{s.full.n + g.layers, max(s.full.token, token)}
		}
	}
	if s.full.n == 0 {
		return s, fmt.Errorf("vLLM's cache of %s: no layer of it remembers everything", m.Label())
	}
	if c.Drafts > 0 {
		s.full.n++ // the draft head is a layer of its own
	}
	if m.Kind == KindHybrid {
		// conv in bf16, state in f32 (vLLM MambaSpec).
		conv := mul(m.StateConv-1+c.Drafts, add2(m.StateInner, 2, m.StateGroups, m.StateSize), 2)
		s.states, s.state = m.StateLayers, add(conv, mul(m.StateInner, m.StateSize, 4))/Bytes(tp)
	}
	return s, nil
}

// token is the bytes of one token in one layer on one GPU. Heads are dealt out
// to the GPUs; where there are fewer heads than GPUs each has one whole head. An
// MLA row belongs to all heads, so that every GPU has it all.
func (c VLLMCache) token(g kvGroup, kv vllmKV, tp int) (Bytes, error) {
	if c.Model.Kind == KindMLA {
		if kv.mla > 0 {
			return Bytes(kv.mla), nil
		}
		return scale(Bytes(g.k), kv.bits/8), nil
	}
	head := c.Model.HeadK
	if g.window && c.Model.SWAHead > 0 {
		head = c.Model.SWAHead
	}
	if kv.mla > 0 || head <= 0 || g.k%head != 0 {
		return 0, fmt.Errorf("vLLM's cache of %s as %s: not understood", c.Model.Label(), clean(c.KVType))
	}
	heads := g.k / head
	if heads%tp != 0 && tp%heads != 0 {
		return 0, fmt.Errorf("%s on %d GPUs: its %d KV heads cannot be dealt out evenly", c.Model.Label(), tp, heads)
	}
	mine := max(1, heads/tp)
	return add(scale(Bytes((g.k+g.v)/heads*mine), kv.bits/8), mul(kv.scales, mine)), nil
}

// Capacity says what a cache of available bytes on each GPU holds: the "Available
// KV cache memory" of vLLM's log. The errors are those of Check.
//
// Where every layer remembers everything, by division:
//
//	tokens = ⌊available / (layers × 16 × token)⌋ × 16
//
// A model with recurrent layers has one pool of equal pages. A page is made so
// large that the state of a layer fills one, and layers of the two kinds share
// pages in groups (vLLM v1/core/kv_cache_utils.py, kv_cache_interface.py):
//
//	block  = ⌈state / (16 × token)⌉ × 16
//	blocks = ⌊available / (layers × block × token)⌋
//	need   = ⌈context / block⌉ + ⌈recurrent / layers⌉ × (m + drafts)
//	tokens = ⌊blocks / need × context⌋
//
// where layers are those that remember everything, and m is 2 with the prefix
// cache, else 1. Sliding windows work alike; theirs need
// ⌈(window - 1 + batched) / block⌉ + 1 pages.
func (c VLLMCache) Capacity(available Bytes) (VLLMCapacity, error) {
	s, err := c.shape()
	if err != nil {
		return VLLMCapacity{}, err
	}
	ctx, dcp := c.context(), max(c.DecodeContext, 1)
	out := VLLMCapacity{Block: vllmBlock}
	fixed := 0 // blocks of a request that do not grow with its context
	switch {
	case s.states > 0:
		m := 2
		if c.NoPrefixCache {
			m = 1
		}
		step := mul(vllmBlock, int(s.full.token))
		out.Block = int(min((s.state+step-1)/step, Bytes(contextTop))) * vllmBlock
		fixed = (s.states + s.full.n - 1) / s.full.n * (m + c.Drafts)
	case s.window.n > 0:
		block := vllmBlock // of the window; pages are equal, so the smaller token has the longer block
		out.Block, block = evenBlocks(s.full.token, s.window.token)
		pages := (c.Model.Window-1+cmpNonZero(c.Batched, 2048)+block-1)/block + 1
		fixed = (s.window.n + s.full.n - 1) / s.full.n * pages
	}
	out.Page = mul(out.Block, int(s.full.token))
	out.pool = mul(s.full.n, int(out.Page))
	out.PerRequest = (ctx+out.Block*dcp-1)/(out.Block*dcp) + fixed
	if available > 0 {
		out.Blocks = int(min(available/out.pool, math.MaxInt32))
	}
	if fixed == 0 {
		out.Tokens = int(mul(out.Blocks, out.Block, dcp))
	} else {
		out.Tokens = int(float64(out.Blocks) / float64(out.PerRequest) * float64(ctx))
	}
	out.Concurrency = float64(out.Blocks) / float64(out.PerRequest)
	if left := out.Blocks - fixed; left > 0 {
		out.MaxContext = int(min(mul(left, out.Block, dcp), contextTop))
		if c.Model.Context > 0 {
			out.MaxContext = min(out.MaxContext, c.Model.Context)
		}
	}
	return out, nil
}

// evenBlocks gives blocks of two kinds of layers such that their pages are alike.
func evenBlocks(full, window Bytes) (fullBlock, windowBlock int) {
	if full <= window {
		return vllmBlock * int(min((window+full-1)/full, 1<<16)), vllmBlock
	}
	return vllmBlock, vllmBlock * int(min((full+window-1)/window, 1<<16))
}

func (c VLLMCache) context() int { return cmpNonZero(c.Context, min(c.Model.Context, contextTop)) }

// Request is what one request of Context tokens needs on one GPU.
func (c VLLMCache) Request() (Bytes, error) {
	empty, err := c.Capacity(0)
	if err != nil {
		return 0, err
	}
	return mul(empty.PerRequest, int(empty.pool)), nil
}

// VLLMAsk is a question about vLLM: one model on equal shares of some GPUs.
type VLLMAsk struct {
	VLLMCache

	// Quant is the type of the checkpoint: "BF16", "FP8", "AWQ", "GPTQ",
	// "NVFP4", "MXFP4". Empty means BF16.
	Quant string

	// WeightsBytes and WeightsSource are as in Ask: of the whole model.
	WeightsBytes  *Bytes
	WeightsSource Source

	// Total and Free are the memory of each GPU; the smallest decides. Free may
	// be nil: then all is. There are as many as Tensor says.
	Total, Free []Bytes

	// Utilization is --gpu-memory-utilization. 0 means the most that passes
	// vLLM's check of what is free, at most 0.92, its default in 2026.
	Utilization float64

	// Seqs is --max-num-seqs. 0 means vLLM's default: 1024 on GPUs of 70 GiB or
	// more, else 256 (vLLM engine/arg_utils.py).
	Seqs int

	// Eager says that no graphs are captured (--enforce-eager).
	Eager bool

	// Old says that it is vLLM before 0.8, which took a whole request as one
	// batch and captured graphs outside of its budget.
	Old bool
}

// VLLMResult is the answer. The sizes of Result are those of one GPU: Compute is
// the peak of activations, Reserve what CUDA, NCCL and the graphs take, KV what
// one request of Context tokens needs, and Budget is utilization × total.
type VLLMResult struct {
	Result
	Cache       VLLMCapacity `json:"cache"`
	Utilization float64      `json:"utilization"`
	Available   Bytes        `json:"available_kv_bytes"` // as in vLLM's log; below 0 if the weights alone are too much
	Seqs        int          `json:"max_num_seqs"`
	Tensor      int          `json:"tensor_parallel_size"`
	Why         string       `json:"why,omitempty"` // what vLLM refuses, if the verdict is no
}

const (
	vllmUtilization = 0.92
	vllmLargeGPU    = 70 * GiB // vLLM gives these larger batches
	vllmBand        = 0.10     // of the whole; activations and graphs differ that much
)

// CheckVLLM says whether vLLM would start. It takes all of its budget whatever
// the model, so the question is whether what the weights leave holds one request
// of the wanted context, and whether vLLM's own checks at the start pass.
//
//	available = utilization × total - weights/GPUs - activations - CUDA - graphs
//
// Activations are the larger of one batch in a dense layer in 16 bits, which two
// logs of a Llama 8B give to the digit (vllm-project/vllm#10517: 2.07 and 2.99
// GiB), and six copies of the logits of all sequences in f32, which sampling
// takes (5.68 GiB where vllm-project/vllm#50722 has 5.66):
//
//	batched × 2 × 3 × (FF + E)     sequences × 4 × 6 × vocab
//
// and at least 1.5 GiB. CUDA takes 0.35 GiB, and with several GPUs NCCL 0.55 GiB
// and 0.3 GiB for each further one. Graphs take 1.5 GiB; where the version says
// that they lie outside of the budget, they must find room in the rest.
func CheckVLLM(a VLLMAsk) (VLLMResult, error) {
	s, err := a.settle()
	if err != nil {
		return VLLMResult{}, err
	}
	r := VLLMResult{Result: s.result(a), Utilization: s.util, Seqs: s.seqs, Tensor: max(a.Tensor, 1)}
	a.Batched = s.batched
	r.Available = *r.Budget - *r.Weights - *r.Compute - *r.Reserve
	if r.Cache, err = a.Capacity(max(0, r.Available)); err != nil {
		return VLLMResult{}, err
	}
	kv := mul(r.Cache.PerRequest, int(r.Cache.pool))
	total := add(add(*r.Weights, kv), add(*r.Compute, *r.Reserve))
	r.KV, r.Total, r.Context = &kv, &total, a.context()
	most := r.Cache.MaxContext
	r.MaxContext = &most
	r.Verdict = verdict(total, r.Budget)
	// The check of the sequences needs most of the cache, so it must pass even if
	// activations and the rest are twice what is computed: on two large GPUs they
	// were for models that read images (vllm-project/recipes#831 has 939 blocks,
	// kaito-project/kaito#2319 614).
	sure := int(max(0, r.Available-*r.Compute-*r.Reserve) / r.Cache.pool)
	switch outside := s.graphs * Bytes(btoi(a.Old)); {
	case s.free < *r.Budget:
		r.Verdict, r.Why = No, fmt.Sprintf("%s are free, less than %.2f × %s", s.free, s.util, s.total)
	case !r.Verdict.OK():
		r.Why = fmt.Sprintf("%s for the cache, and one request of %s tokens needs %s", max(0, r.Available), Tokens(r.Context), kv)
	case s.total-*r.Budget < outside:
		r.Verdict, r.Why = No, fmt.Sprintf("graphs are captured outside of the budget, which leaves %s of them %s", s.total-*r.Budget, outside)
	case a.Model.Kind == KindHybrid && sure < s.seqs:
		r.Verdict, r.Why = No, fmt.Sprintf("%d blocks are sure, fewer than --max-num-seqs %d", sure, s.seqs)
	}
	return r, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// vllmSettled is a VLLMAsk of which every default is filled in.
type vllmSettled struct {
	total, free, weights, act, reserve, graphs Bytes
	util, band                                 float64
	seqs, batched                              int
	source                                     Source
	quant                                      string
	notes                                      []string
}

func (a VLLMAsk) settle() (s vllmSettled, err error) {
	tp := max(a.Tensor, 1)
	switch {
	case len(a.Total) == 0:
		return s, fmt.Errorf("vLLM: the memory of the GPU is not known")
	case len(a.Total) != tp || a.Free != nil && len(a.Free) != tp:
		return s, fmt.Errorf("vLLM on %d GPUs: the memory of %d and what is free on %d are known", tp, len(a.Total), len(a.Free))
	case slices.Min(a.Total) <= 0 || a.Free != nil && slices.Min(a.Free) < 0:
		return s, fmt.Errorf("vLLM: memory of the GPUs %v, free %v: it is not below 0", a.Total, a.Free)
	case !(a.Utilization >= 0 && a.Utilization <= 1):
		return s, fmt.Errorf("vLLM: utilization %v: more than 0 and at most 1", a.Utilization)
	case a.Seqs < 0 || a.Seqs > 1<<16:
		return s, fmt.Errorf("vLLM: %d sequences: from 1 to %d", a.Seqs, 1<<16)
	case a.WeightsBytes != nil && *a.WeightsBytes <= 0:
		return s, fmt.Errorf("weights of %d bytes: they are more than 0", *a.WeightsBytes)
	case a.Model.Hidden <= 0:
		return s, fmt.Errorf("vLLM: the shape of %s is not known", a.Model.Label())
	}
	if _, err = a.shape(); err != nil {
		return s, err
	}
	s.total = slices.Min(a.Total) // the smallest card bounds all of them
	s.free = s.total
	if a.Free != nil {
		s.free = slices.Min(a.Free)
	}
	s.seqs, s.batched = 256, 2048
	if s.total >= vllmLargeGPU {
		s.seqs, s.batched = 1024, 8192
	}
	if a.Old {
		s.seqs, s.batched = 256, max(2048, a.context())
	}
	s.seqs, s.batched = cmpNonZero(a.Seqs, s.seqs), cmpNonZero(a.Batched, s.batched)
	if s.util = a.Utilization; s.util == 0 {
		s.util = min(vllmUtilization, math.Floor(100*float64(s.free)/float64(s.total))/100)
	}
	whole, err := s.weigh(a)
	if err != nil {
		return s, err
	}
	s.weights = (whole + Bytes(tp) - 1) / Bytes(tp)
	ff := cmpNonZero(a.Model.FF, 4*a.Model.Hidden)
	s.act = max(mul(s.batched, 6, ff+a.Model.Hidden), mul(s.seqs, 24, a.Model.Vocab), 3*GiB/2)
	s.reserve = scale(GiB, 0.35)
	if tp > 1 {
		s.reserve = add(s.reserve, scale(GiB, 0.55+0.3*float64(tp-1)))
	}
	if !a.Eager {
		s.graphs = 3 * GiB / 2
		if !a.Old {
			s.reserve = add(s.reserve, s.graphs)
		}
	}
	return s, nil
}

// weigh gives the bytes of all weights.
func (s *vllmSettled) weigh(a VLLMAsk) (Bytes, error) {
	s.quant = cmpString(normalQuant(a.Quant), "BF16")
	if a.WeightsBytes != nil {
		s.source, s.band = a.WeightsSource, vllmBand
		if s.source == "" {
			s.source = FromFile
		}
		return *a.WeightsBytes, nil
	}
	s.source = FromParams
	w, band, err := SafetensorsWeights(a.Model, s.quant)
	if err == nil && band > vllmBand {
		s.notes = append(s.notes, "most checkpoints of this type mix in larger ones: read the size of the files")
	}
	s.band = max(band, vllmBand)
	return w, err
}

func cmpString(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (s vllmSettled) result(a VLLMAsk) Result {
	budget := scale(s.total, s.util)
	var state Bytes
	r := Result{
		Model: a.Model.Label(), Quant: s.quant, Parallel: 1, KVType: cmpString(clean(a.KVType), "auto"),
		Weights: &s.weights, State: &state, Compute: &s.act, Reserve: &s.reserve, Budget: &budget,
		Source: s.source, ErrorBand: &s.band, Notes: s.notes, ComputeRule: "activations of one batch",
	}
	if n := max(a.Tensor, 1); n > 1 {
		r.Notes = append(r.Notes, fmt.Sprintf("all sizes are those of one of %d GPUs, over which the weights are parted", n))
	}
	if a.Model.Kind == KindHybrid {
		r.Notes = append(r.Notes, "the state of recurrent layers lies in the pages of the cache and is counted there")
	}
	if a.Model.Context > 0 {
		r.ModelLimit = &a.Model.Context
	}
	if a.Model.ParamsB > 0 {
		r.ParamsB = &a.Model.ParamsB
	}
	return r
}

// SafetensorsWeights is the size of a checkpoint as transformers, vLLM and
// SGLang load it, and its relative error. Embeddings and output stay in 16 bits,
// the rest is quantized:
//
//	2 × embeddings + (parameters - embeddings) × bits / 8
//
// The bits are those of Qwen's published figures (QwenLM/Qwen3
// speed_benchmark.md: FP8 8.04 to 8.11, AWQ 4.20 to 4.25). MXFP4 is gpt-oss as
// vLLM holds it, padded for its kernels: 64.4 and 66.0 GiB were logged for 116.8
// billion parameters (vllm-project/vllm#33155, #23278).
func SafetensorsWeights(m Model, quant string) (Bytes, float64, error) {
	if !(m.ParamsB > 0 && m.ParamsB < 1e6) || m.Vocab < 0 || m.Hidden < 0 {
		return 0, 0, fmt.Errorf("weights of %s: neither a size nor a number of parameters is known", m.Label())
	}
	var bits, band float64
	switch normalQuant(quant) {
	case "", "BF16", "F16":
		return PlainWeights(m.ParamsB, 16), 0.02, nil
	case "F32":
		return PlainWeights(m.ParamsB, 32), 0.02, nil
	case "MXFP4":
		return PlainWeights(m.ParamsB, 4.8), 0.05, nil
	case "FP8":
		bits, band = 8.08, 0.03
	case "AWQ", "GPTQ", "INT4", "AWQ-INT4":
		bits, band = 4.22, 0.05
	case "NVFP4":
		bits, band = 4.5, 0.30
	case "INT8":
		bits, band = 8.1, 0.05
	default:
		return 0, 0, fmt.Errorf("quantization %q of a checkpoint: want BF16, FP8, AWQ, GPTQ, NVFP4 or MXFP4", clean(quant))
	}
	embed := mul(m.Vocab, m.Hidden)
	if !tiedArchs[m.Arch] {
		embed = mul(2, int(embed))
	}
	embed = min(embed, Bytes(m.ParamsB*1e9))
	rest := m.ParamsB - float64(embed)/1e9
	return add(mul(2, int(embed)), PlainWeights(rest, bits)), band, nil
}
