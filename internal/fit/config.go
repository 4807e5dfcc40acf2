package fit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// configLimit is more than any config.json has.
const configLimit = 4 << 20

// FromConfig reads a model from the config.json of its Hugging Face repository.
// index is model.safetensors.index.json, or its beginning, or nil if there is
// none; files is the size of all *.safetensors together, 0 if it is not known.
// The weights are the total that the index tells, else files. The model has no
// name: the file does not tell one that can be trusted.
//
// A cache that is not understood gives a Model of KindUnknown. What is no JSON,
// names no layers, or has numbers that no model has, is an error. Numbers that
// are written as text count as missing.
func FromConfig(config, index []byte, files Bytes) (Candidate, error) {
	if len(config) > configLimit {
		return Candidate{}, fmt.Errorf("config.json: %d bytes are too many", len(config))
	}
	var all map[string]any
	if err := json.Unmarshal(plainJSON(config), &all); err != nil {
		return Candidate{}, fmt.Errorf("config.json: %w", err)
	}
	cf := hfConfig{all, all}
	for _, key := range []string{"text_config", "language_config", "llm_config"} {
		if text, ok := all[key].(map[string]any); ok {
			cf.text = text
			break
		}
	}
	m, err := cf.model()
	if err != nil {
		return Candidate{}, err
	}
	c := Candidate{Model: m, Quant: cf.quant(), OnBox: true}
	total, params := readIndex(index)
	if total <= 0 {
		total = max(files, 0)
	}
	if total > 0 {
		c.WeightsBytes, c.WeightsSource = &total, FromFile
	}
	if c.Model.ParamsB = params; params == 0 {
		c.Model.ParamsB = m.paramsOf(total, c.Quant, cf.tied())
	}
	if err := c.Model.check(); err != nil {
		return Candidate{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// hfConfig is a config.json: all of it, and the part on the language model, which
// is the same unless there are others beside it.
type hfConfig struct{ all, text map[string]any }

// hfArchs names the GGUF architecture of a model_type, where that is not the
// same with no underscores.
var hfArchs = map[string]string{
	"qwen2": "qwen2", "qwen2_moe": "qwen2moe", "qwen2_vl": "qwen2vl", "qwen2_5_vl": "qwen2vl",
	"qwen3": "qwen3", "qwen3_moe": "qwen3moe", "qwen3_vl": "qwen3vl", "qwen3_vl_moe": "qwen3vlmoe", "qwen3_next": "qwen3next",
	"qwen3_5": "qwen35", "qwen3_5_moe": "qwen35moe",
	"llama": "llama", "mistral": "llama", "mixtral": "llama", "llama4": "llama4", "mistral3": "mistral3", "ministral3": "mistral3",
	"gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3", "gemma3n": "gemma3n", "gemma4": "gemma4", "gemma4_unified": "gemma4",
	"gpt_oss": "gpt-oss", "phi3": "phi3", "granite": "granite", "granitemoehybrid": "granitehybrid", "nemotron_h": "nemotron_h",
	"deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "kimi_k2": "deepseek2", "glm4_moe_lite": "deepseek2",
	"deepseek_v32": "deepseek32", "deepseek_v4": "deepseek4", "glm_moe_dsa": "glm-dsa",
	"glm4": "glm4", "glm4_moe": "glm4moe", "glm4v_moe": "glm4moe", "minimax_m2": "minimax-m2",
	"seed_oss": "seed_oss", "smollm3": "smollm3", "starcoder2": "starcoder2", "cohere2": "cohere2", "step3p5": "step35", "step3p7": "step35",
	"lfm2": "lfm2", "lfm2_moe": "lfm2moe", "falcon_h1": "falcon-h1", "kimi_linear": "kimi-linear", "mamba2": "mamba2", "mamba": "mamba",
}

// arch is the architecture by its GGUF name. A word for the whole, "mistral3",
// says more than that for its text.
func (cf hfConfig) arch() string {
	var name string
	for _, in := range []map[string]any{cf.all, cf.text} {
		word, _ := in["model_type"].(string)
		word = strings.TrimSuffix(clean(word), "_text")
		if a := hfArchs[word]; a != "" {
			if a == "nemotron_h" && cf.num("n_routed_experts") > 0 {
				a = "nemotron_h_moe"
			}
			return a
		}
		if word != "" {
			name = strings.ReplaceAll(word, "_", "")
		}
	}
	return name
}

func (cf hfConfig) raw(key string) any {
	if v := cf.text[key]; v != nil {
		return v
	}
	return cf.all[key]
}

// num reads the first of these keys that is a number; 0 if there is none, -1 if
// it is below zero.
func (cf hfConfig) num(keys ...string) int {
	for _, k := range keys {
		if n := whole(cf.raw(k)); n != 0 {
			return n
		}
	}
	return 0
}

func (cf hfConfig) flag(key string) bool { b, _ := cf.raw(key).(bool); return b }

// words reads a list of texts; nil if there is none.
func (cf hfConfig) words(keys ...string) []string {
	for _, k := range keys {
		list, _ := cf.raw(k).([]any)
		var out []string
		for _, v := range list {
			s, _ := v.(string)
			out = append(out, s)
		}
		if out != nil {
			return out
		}
	}
	return nil
}

func (cf hfConfig) tied() bool {
	if b, ok := cf.raw("tie_word_embeddings").(bool); ok {
		return b
	}
	return tiedArchs[cf.arch()]
}

func (cf hfConfig) model() (Model, error) {
	m := Model{
		Arch: cf.arch(), Source: "config.json", Kind: KindFull,
		Layers:  cf.num("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
		Hidden:  cf.num("hidden_size", "n_embd", "d_model"),
		Heads:   cf.num("num_attention_heads", "n_head", "n_heads"),
		KVHeads: cf.num("num_key_value_heads", "num_attention_groups", "multi_query_group_num", "n_head_kv"),
		HeadK:   cf.num("head_dim", "attention_head_dim", "kv_channels"),
		Vocab:   cf.num("vocab_size", "padded_vocab_size"),
		Context: cf.context(),
	}
	if m.Layers <= 0 || m.Layers > 1<<16 {
		return Model{}, errors.New("config.json: num_hidden_layers is missing or out of range: no language model")
	}
	if m.Arch == "gemma3" { // what its files leave to the program
		m.Heads, m.KVHeads = cmpNonZero(m.Heads, 8), cmpNonZero(m.KVHeads, 4)
		m.HeadK, m.Vocab, m.Context = cmpNonZero(m.HeadK, 256), cmpNonZero(m.Vocab, 262208), cmpNonZero(m.Context, 128<<10)
	}
	if m.KVHeads == 0 && cf.raw("num_key_value_heads") == nil {
		m.KVHeads = m.Heads
	}
	if m.HeadK == 0 && m.Heads > 0 && m.Hidden > 0 {
		m.HeadK = m.Hidden / m.Heads
	}
	m.HeadV = m.HeadK
	m.FF, m.ExpertFF = cf.feedForward()
	if err := m.check(); err != nil {
		return Model{}, fmt.Errorf("config.json: %w", err)
	}
	if !cf.layers(&m) || m.KVHeads <= 0 || m.HeadK <= 0 {
		m.Kind = KindUnknown
		m.FullLayers, m.SWALayers, m.Window, m.SWAKVHeads, m.SWAHead, m.StateLayers = 0, 0, 0, 0, 0, 0
	}
	return m, nil
}

// context is the model's own limit. YaRN stretches what the model was trained
// with; some files tell only the latter.
func (cf hfConfig) context() int {
	n := cf.num("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		rope, _ := cf.raw(key).(map[string]any)
		kind, _ := rope["rope_type"].(string)
		if kind == "" {
			kind, _ = rope["type"].(string)
		}
		factor, _ := rope["factor"].(float64)
		if kind == "yarn" && factor > 1 && factor < 1<<12 {
			n = max(n, whole(float64(whole(rope["original_max_position_embeddings"]))*factor))
		}
	}
	return n
}

// expertOnly are the model types whose intermediate_size is that of an expert.
var expertOnly = map[string]bool{"mixtral": true, "gpt_oss": true, "minimax_m2": true, "llama4": true, "granitemoehybrid": true, "granitemoe": true}

// feedForward gives the widest feed-forward row for one token, of a dense layer
// or of all experts in use, and that of one expert.
func (cf hfConfig) feedForward() (ff, expert int) {
	dense := cf.num("intermediate_size", "ffn_hidden_size", "n_inner")
	kind, _ := cf.text["model_type"].(string)
	used := cf.num("num_experts_per_tok", "experts_per_token", "num_experts_per_token", "top_k_experts", "moe_top_k")
	expert = cf.num("moe_intermediate_size", "expert_ffn_hidden_size")
	if expert == 0 && used > 0 && expertOnly[strings.TrimSuffix(kind, "_text")] {
		expert, dense = dense, 0
	}
	if used <= 0 || expert <= 0 || cf.num("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts") < 0 {
		return max(dense, 0), 0
	}
	shared := cf.num("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size")
	switch {
	case shared > 0:
	case cf.arch() == "llama4":
		shared = expert
	default:
		shared = int(mul(expert, max(cf.num("n_shared_experts", "num_shared_experts"), 0)))
	}
	ff = add2(max(shared, 0), 1, expert, used)
	switch {
	case cf.flag("enable_moe_block"): // gemma4: dense and experts side by side
		ff = int(add(Bytes(ff), Bytes(max(dense, 0))))
	case cf.num("first_k_dense_replace") > 0 || cf.arch() == "llama4":
		ff = max(ff, dense, cf.num("intermediate_size_mlp"))
	default:
		if list, _ := cf.raw("mlp_only_layers").([]any); len(list) > 0 || cf.num("decoder_sparse_step") > 1 {
			ff = max(ff, dense)
		}
	}
	return ff, expert
}

// layers fills in the cache of each layer; false is one that is not understood.
func (cf hfConfig) layers(m *Model) bool {
	if compressed[m.Arch] || m.Arch == "gemma3n" || cf.num("index_topk") != 0 || cf.raw("linear_attn_config") != nil || cf.raw("block_configs") != nil {
		return false
	}
	if rank := cf.num("kv_lora_rank"); rank != 0 {
		rope := cf.num("qk_rope_head_dim")
		if m.Arch != "deepseek2" || rank < 0 || rope <= 0 || rank+rope > 1<<16 {
			return false
		}
		m.Kind, m.KVHeads, m.HeadK, m.HeadV, m.FullLayers = KindMLA, 1, rank+rope, 0, m.Layers
		return true
	}
	kinds, ok := cf.kinds(m)
	if !ok {
		return false
	}
	cached := m.Layers - max(cf.num("num_kv_shared_layers"), 0)
	if cached <= 0 {
		return false
	}
	for _, k := range kinds[:cached] {
		switch k {
		case fullLayer:
			m.FullLayers++
		case windowLayer:
			m.SWALayers++
		case stateLayer:
			m.StateLayers++
		}
	}
	if m.SWALayers > 0 {
		m.Window = cf.num("sliding_window", "sliding_window_size", "attention_chunk_size")
		m.SWAKVHeads, m.SWAHead = m.KVHeads, m.HeadK
		if n := cf.num("num_global_key_value_heads"); n > 0 { // gemma4: the layers that cache all have other heads
			m.KVHeads = n
		}
		if n := cf.num("global_head_dim"); n > 0 {
			m.HeadK, m.HeadV = n, n
		}
		if o, ok := cf.raw("attention_other_setting").(map[string]any); ok { // step3p5
			m.SWAKVHeads = cmpNonZero(whole(o["num_attention_groups"]), m.SWAKVHeads)
			m.SWAHead = cmpNonZero(whole(o["head_dim"]), m.SWAHead)
		}
	}
	switch {
	case m.FullLayers == 0 || m.SWALayers > 0 && m.StateLayers > 0:
		return false
	case m.SWALayers > 0:
		m.Kind = KindSWA
		return m.Window > 0
	case m.StateLayers > 0:
		m.Kind = KindHybrid
		return cf.state(m)
	}
	return true
}

// state fills in the recurrent state: of delta nets, and of Mamba 2.
func (cf hfConfig) state(m *Model) bool {
	if heads := cf.num("linear_num_value_heads"); heads > 0 {
		m.StateConv = cf.num("linear_conv_kernel_dim")
		m.StateInner = int(mul(heads, max(cf.num("linear_value_head_dim"), 0)))
		m.StateSize, m.StateGroups = cf.num("linear_key_head_dim"), cf.num("linear_num_key_heads")
		return m.stateKnown()
	}
	m.StateConv = cf.num("mamba_d_conv", "conv_kernel")
	m.StateInner = int(mul(max(cf.num("mamba_n_heads", "mamba_num_heads"), 0), max(cf.num("mamba_d_head", "mamba_head_dim"), 0)))
	if m.StateInner == 0 {
		m.StateInner = int(mul(max(cf.num("mamba_expand", "expand"), 0), m.Hidden))
	}
	m.StateSize, m.StateGroups = cf.num("mamba_d_state", "ssm_state_size"), cf.num("mamba_n_groups", "n_groups")
	return m.stateKnown()
}

// layerKind is how one layer remembers the context.
type layerKind byte

const (
	fullLayer   layerKind = iota
	windowLayer           // the last tokens only
	stateLayer            // a state of fixed size
	noLayer               // nothing: experts or feed-forward alone
)

// layerWords are the words that files have for kinds of layers.
var layerWords = map[string]layerKind{
	"full_attention": fullLayer, "attention": fullLayer, "*": fullLayer,
	"sliding_attention": windowLayer, "chunked_attention": windowLayer,
	"linear_attention": stateLayer, "mamba": stateLayer, "M": stateLayer,
	"moe": noLayer, "mlp": noLayer, "E": noLayer, "-": noLayer,
}

// kinds gives the kind of each layer, by a list, a pattern or an interval. A
// window that no layer is known to have is counted as none, which is an upper
// bound. False is a list that is not understood, or a state of no known kind.
func (cf hfConfig) kinds(m *Model) ([]layerKind, bool) {
	words := cf.words("layer_types", "layers_block_type")
	if pattern, _ := cf.raw("hybrid_override_pattern").(string); words == nil && pattern != "" {
		words = strings.Split(pattern, "")
	}
	out := make([]layerKind, m.Layers)
	if words != nil {
		if len(words) < m.Layers {
			return nil, false
		}
		for i := range out {
			k, ok := layerWords[words[i]]
			if !ok {
				return nil, false
			}
			if k == windowLayer && cf.num("sliding_window", "sliding_window_size", "attention_chunk_size") == 0 {
				k = fullLayer
			}
			out[i] = k
		}
		return out, true
	}
	if n := cmpNonZero(cf.num("full_attention_interval"), intervals[m.Arch]); n > 1 {
		for i := range out {
			if (i+1)%n != 0 {
				out[i] = stateLayer
			}
		}
		return out, true
	}
	for key := range cf.text {
		for _, sign := range []string{"mamba_", "ssm_", "linear_num_", "conv_L", "rwkv"} {
			if strings.HasPrefix(key, sign) {
				return nil, false
			}
		}
	}
	if list, _ := cf.raw("attn_type_list").([]any); len(list) > 0 { // minimax: 1 is attention, 0 is linear
		for _, v := range list {
			if whole(v) != 1 {
				return nil, false
			}
		}
	}
	every := cmpNonZero(cf.num("sliding_window_pattern", "_sliding_window_pattern", "no_rope_layer_interval"), patterns[m.Arch])
	used, told := cf.raw("use_sliding_window").(bool)
	switch {
	case cf.num("sliding_window", "attention_chunk_size") <= 0 || told && !used:
	case told && cf.raw("max_window_layers") != nil: // qwen2: from that layer on
		for i := max(cf.num("max_window_layers"), 0); i < len(out); i++ {
			out[i] = windowLayer
		}
	case every > 1:
		for i := range out {
			if i%every < every-1 {
				out[i] = windowLayer
			}
		}
	}
	return out, true
}

// quant is the type of the weights. Empty means that it is not known.
func (cf hfConfig) quant() string {
	for _, key := range []string{"quantization_config", "compression_config", "quantization"} {
		if q, ok := cf.raw(key).(map[string]any); ok {
			return hfQuant(q)
		}
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		s, _ := cf.raw(key).(string)
		switch strings.TrimPrefix(s, "torch.") {
		case "bfloat16":
			return "BF16"
		case "float16", "half":
			return "F16"
		case "float32", "float":
			return "F32"
		}
	}
	return ""
}

// hfQuant names a quantization_config as the tables do.
func hfQuant(q map[string]any) string {
	text := func(key string) string { s, _ := q[key].(string); return strings.ToLower(s) }
	method := text("quant_method")
	says := func(words ...string) bool {
		for _, w := range words {
			for _, in := range []string{method, text("format"), text("quant_algo"), text("mode"), text("fmt")} {
				if strings.Contains(in, w) {
					return true
				}
			}
		}
		return false
	}
	width := cmpNonZero(whole(q["bits"]), whole(q["w_bit"]))
	groups, _ := q["config_groups"].(map[string]any)
	float := false
	for _, g := range groups {
		g, _ := g.(map[string]any)
		if w, ok := g["weights"].(map[string]any); ok {
			width = max(width, whole(w["num_bits"])) // of a mixture the widest
			kind, _ := w["type"].(string)
			float = float || kind == "float"
		}
	}
	four, _ := q["load_in_4bit"].(bool)
	eight, _ := q["load_in_8bit"].(bool)
	switch {
	case says("mixed"):
		return ""
	case says("mxfp4"):
		return "MXFP4"
	case says("nvfp4") || float && width == 4:
		return "NVFP4"
	case says("fp8", "e4m3") || float && width == 8:
		return "FP8"
	case says("awq") && (width == 4 || width == 0):
		return "AWQ"
	case says("gptq") && (width == 4 || width == 0):
		return "GPTQ"
	case four:
		return "INT4"
	case eight:
		return "INT8"
	case method == "" && width > 0 && q["group_size"] != nil: // MLX
		return fmt.Sprintf("%dBIT", width)
	case width == 4 || width == 8:
		return fmt.Sprintf("INT%d", width)
	}
	return ""
}

// paramsOf is how many billion parameters weights of this size and type have:
// SafetensorsWeights turned round. 0 where the type says too little.
func (m Model) paramsOf(size Bytes, quant string, tied bool) float64 {
	var width float64
	kept := Bytes(m.Vocab) * Bytes(m.Hidden) // in 16 bits
	if !tied {
		kept *= 2
	}
	switch quant {
	case "BF16", "F16":
		return size.GB() / 2
	case "F32":
		return size.GB() / 4
	case "FP8", "INT8":
		width = 8.08
	case "AWQ", "GPTQ", "INT4":
		width = 4.22
	case "MXFP4":
		width, kept = 4.25, Bytes(m.besideExperts()*1e9)
		if kept == 0 {
			return 0
		}
	default:
		return 0
	}
	if rest := size - 2*kept; rest > 0 {
		return kept.GB() + rest.GB()*8/width
	}
	return 0
}

// readIndex gives what an index tells of all its files: bytes, and parameters in
// billions. 0 is not told. The text may end anywhere behind that.
func readIndex(index []byte) (total Bytes, params float64) {
	d := json.NewDecoder(bytes.NewReader(plainJSON(index)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return 0, 0
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return 0, 0
		}
		if key != "metadata" {
			var skip json.RawMessage
			if d.Decode(&skip) != nil {
				return 0, 0
			}
			continue
		}
		var said map[string]any
		if err := d.Decode(&said); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0
		}
		params = float64(whole64(said["total_parameters"])) / 1e9
		if params >= 1e6 {
			params = 0
		}
		return Bytes(whole64(said["total_size"])), params
	}
	return 0, 0
}

// plainJSON replaces the numbers that Python writes and JSON does not know, NaN
// and Infinity, by null.
func plainJSON(text []byte) []byte {
	if !bytes.Contains(text, []byte("Infinity")) && !bytes.Contains(text, []byte("NaN")) {
		return text
	}
	var out []byte
	quoted := false
next:
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(text):
			out = append(out, c)
			i++
		case !quoted:
			for _, word := range []string{"-Infinity", "Infinity", "NaN"} {
				if bytes.HasPrefix(text[i:], []byte(word)) {
					out = append(out, "null"...)
					i += len(word) - 1
					continue next
				}
			}
		}
		out = append(out, text[i])
	}
	return out
}
