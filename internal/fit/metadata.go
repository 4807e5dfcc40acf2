package fit

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// FromMetadata reads the shape of a model from the key-value pairs of a GGUF
// file, as Ollama's /api/show gives them in model_info. An architecture whose
// cache is not understood, or whose lists the engine left out, gives a Model of
// KindUnknown; only a missing or absurd general.architecture or block_count is
// an error.
func FromMetadata(info map[string]any) (Model, error) {
	arch, _ := info["general.architecture"].(string)
	arch = clean(arch)
	if arch == "" {
		return Model{}, fmt.Errorf("metadata of a model: general.architecture is missing")
	}
	md := metadata{info, arch}
	name, _ := info["general.name"].(string)
	if name == "" {
		name, _ = info["general.basename"].(string)
	}
	m := Model{
		Name: clean(name), Arch: arch, Source: "metadata", Kind: KindFull,
		ParamsB: float64(md.global("general.parameter_count")) / 1e9,
		Layers:  md.num("block_count"),
		Hidden:  md.num("embedding_length"),
		Heads:   md.num("attention.head_count"),
		HeadK:   md.num("attention.key_length"),
		HeadV:   md.num("attention.value_length"),
		Context: md.num("context_length"),
		Vocab:   md.num("vocab_size"),
	}
	if m.Vocab == 0 {
		if tokens, ok := info["tokenizer.ggml.tokens"].([]any); ok {
			m.Vocab = len(tokens)
		}
	}
	if lower := strings.ToLower(m.Name); strings.Contains(lower, "coder") || strings.Contains(lower, "devstral") {
		m.Coder = "yes"
	}
	if m.Layers <= 0 || m.Layers > 1<<16 {
		return Model{}, fmt.Errorf("metadata of a model: %s.block_count is missing or out of range", arch)
	}
	m.ExpertFF = md.num("expert_feed_forward_length")
	m.FF = md.feedForward(m.ExpertFF)
	if m.HeadK == 0 && m.Heads > 0 && m.Hidden > 0 {
		m.HeadK = m.Hidden / m.Heads
	}
	if m.HeadV == 0 {
		m.HeadV = m.HeadK
	}
	md.layers(&m)
	if err := m.check(); err != nil {
		return Model{}, fmt.Errorf("metadata of %s: %w", m.Label(), err)
	}
	return m, nil
}

// compressed are architectures whose cache has parts that no simple formula
// gives: an indexer, compressed tokens, or states of another kind.
var compressed = map[string]bool{
	"deepseek4": true, "deepseek32": true, "glm-dsa": true, "lfm2": true, "lfm2moe": true,
	"rwkv6": true, "rwkv7": true, "mamba": true, "mamba2": true, "falcon-h1": true, "plamo2": true, "kimi-linear": true,
}

// patterns say that of so many layers the last caches everything and the others
// a window, where the file does not say (llama.cpp src/llama-model.cpp).
var patterns = map[string]int{
	"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "gptoss": 2, "cohere2": 4, "llama4": 4,
}

// intervals say that every so many layers attention is full, and the others
// are recurrent.
var intervals = map[string]int{"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}

// layers fills in the cache of each layer.
func (md metadata) layers(m *Model) {
	heads, ok := md.list("attention.head_count_kv", m.Layers)
	if !ok && !md.has("attention.head_count_kv") {
		heads, ok = md.list("attention.head_count", m.Layers) // no grouping: as many as query heads
	}
	if !ok || m.HeadK <= 0 || compressed[md.arch] {
		m.Kind = KindUnknown
		return
	}
	m.KVHeads = max(0, slices.Max(heads))
	cached := m.Layers - md.num("nextn_predict_layers") - md.num("attention.shared_kv_layers")
	if cached <= 0 || cached > m.Layers || md.arch == "gemma3n" {
		m.Kind = KindUnknown
		return
	}
	if md.num("attention.kv_lora_rank") > 0 && m.KVHeads == 1 {
		m.Kind, m.HeadV = KindMLA, 0 // keys only since January 2026 (ggml-org/llama.cpp#19067)
	}
	window, swa := md.window(m)
	if window < 0 {
		m.Kind = KindUnknown
		return
	}
	recurrent, ok := md.recurrent(heads)
	if !ok {
		m.Kind = KindUnknown
		return
	}
	swaK, swaV := cmpNonZero(md.num("attention.key_length_swa"), m.HeadK), cmpNonZero(md.num("attention.value_length_swa"), m.HeadV)
	for i := range cached {
		switch {
		case heads[i] < 0 || heads[i] > 1<<16:
			m.Kind = KindUnknown
			return
		case recurrent(i):
			m.StateLayers++
		case heads[i] == 0: // neither: a layer of experts only
		case window > 0 && swa(i):
			m.SWALayers++
			m.groups = addGroup(m.groups, kvGroup{1, heads[i] * swaK, heads[i] * swaV, true})
		default:
			m.FullLayers++
			m.groups = addGroup(m.groups, kvGroup{1, heads[i] * m.HeadK, heads[i] * m.HeadV, false})
		}
	}
	switch {
	case m.StateLayers > 0:
		m.Kind = KindHybrid
		m.StateConv, m.StateInner = md.num("ssm.conv_kernel"), md.num("ssm.inner_size")
		m.StateSize, m.StateGroups = md.num("ssm.state_size"), md.num("ssm.group_count")
	case m.SWALayers > 0:
		m.Kind, m.Window = KindSWA, window
	}
	if len(m.groups) == 0 {
		m.Kind = KindUnknown
	}
}

// window finds the sliding window and says which layers have it. A window of
// layers that are not known is counted as none, which is an upper bound; a list
// that was left out gives -1.
func (md metadata) window(m *Model) (int, func(int) bool) {
	w := md.num("attention.sliding_window")
	if md.arch == "llama4" {
		w = cmpNonZero(md.num("attention.chunk_size"), 8192)
	}
	if w <= 0 {
		return 0, nil
	}
	const key = "attention.sliding_window_pattern"
	if list, ok := md.raw(key).([]any); ok {
		if len(list) < m.Layers {
			return -1, nil
		}
		return w, func(i int) bool { b, _ := list[i].(bool); return b }
	}
	if md.has(key) && md.num(key) == 0 {
		return -1, nil
	}
	n := cmpNonZero(md.num(key), patterns[md.arch])
	if n < 2 {
		return 0, nil
	}
	return w, func(i int) bool { return i%n < n-1 }
}

// recurrent says which layers have a state instead of a cache, and false if
// the architecture has states that are not understood.
func (md metadata) recurrent(heads []int) (func(int) bool, bool) {
	if n := cmpNonZero(md.num("full_attention_interval"), intervals[md.arch]); n > 1 {
		return func(i int) bool { return (i+1)%n != 0 }, true
	}
	if !md.has("ssm.inner_size") {
		return func(int) bool { return false }, true
	}
	switch md.arch {
	case "nemotron_h", "nemotron_h_moe": // a layer is one of attention, state, experts
		ff, ok := md.list("feed_forward_length", len(heads))
		return func(i int) bool { return heads[i] == 0 && ff[i] == 0 }, ok
	case "granitehybrid", "jamba":
		return func(i int) bool { return heads[i] == 0 }, true
	}
	return nil, false
}

// feedForward is the widest feed-forward row for one token: of a dense layer,
// or of all experts in use.
func (md metadata) feedForward(expert int) int {
	dense := 0
	if list, ok := md.raw("feed_forward_length").([]any); ok {
		for _, v := range list {
			dense = max(dense, whole(v))
		}
	} else {
		dense = md.num("feed_forward_length")
	}
	used := md.num("expert_used_count")
	if expert <= 0 || used <= 0 {
		return max(dense, int(mul(max(dense, 0), max(used, 0)))) // some files give the length of an expert here
	}
	experts := add2(md.num("expert_shared_feed_forward_length"), 1, expert, used)
	if md.num("leading_dense_block_count") > 0 {
		return max(dense, experts)
	}
	return experts
}

// metadata reads keys of one architecture. What is absent or no number is 0.
type metadata struct {
	info map[string]any
	arch string
}

func (md metadata) raw(key string) any { return md.info[md.arch+"."+key] }

func (md metadata) has(key string) bool { _, ok := md.info[md.arch+"."+key]; return ok }

func (md metadata) global(key string) int { return whole(md.info[key]) }

// num reads a number; of a list its largest.
func (md metadata) num(key string) int {
	if list, ok := md.raw(key).([]any); ok {
		most := 0
		for _, v := range list {
			most = max(most, whole(v))
		}
		return most
	}
	return whole(md.raw(key))
}

// list reads one number for each of n layers; a single number is all of them.
func (md metadata) list(key string, n int) ([]int, bool) {
	out := make([]int, n)
	if list, ok := md.raw(key).([]any); ok {
		if len(list) < n {
			return nil, false // Ollama empties long lists unless asked to be verbose
		}
		for i := range out {
			out[i] = whole(list[i])
		}
		return out, true
	}
	one := whole(md.raw(key))
	for i := range out {
		out[i] = one
	}
	return out, one > 0
}

// whole reads a number that JSON or a GGUF reader may give in many types. What
// is none, or absurd, is 0; below zero is -1.
func whole(v any) int {
	var f float64
	switch v := v.(type) {
	case float64:
		f = v
	case float32:
		f = float64(v)
	case json.Number:
		f, _ = v.Float64()
	case int:
		f = float64(v)
	case int64:
		f = float64(v)
	case int32:
		f = float64(v)
	case uint64:
		f = float64(v)
	case uint32:
		f = float64(v)
	}
	switch {
	case math.IsNaN(f) || f > 1<<50:
		return 0
	case f < 0:
		return -1
	}
	return int(f)
}
