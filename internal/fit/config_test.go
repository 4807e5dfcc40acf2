package fit

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// configs are the config.json of public models, as far as memory depends on
// them, by the name that the catalog has.
var configs = map[string]string{
	"qwen3-8b": `{"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","head_dim":128,"hidden_size":4096,"intermediate_size":12288,"max_position_embeddings":40960,
		"max_window_layers":36,"num_attention_heads":32,"num_hidden_layers":36,"num_key_value_heads":8,"rope_scaling":null,"sliding_window":null,"tie_word_embeddings":false,
		"torch_dtype":"bfloat16","use_sliding_window":false,"vocab_size":151936}`,
	"qwen3-30b": `{"model_type":"qwen3_moe","decoder_sparse_step":1,"head_dim":128,"hidden_size":2048,"intermediate_size":6144,"max_position_embeddings":262144,"max_window_layers":48,
		"mlp_only_layers":[],"moe_intermediate_size":768,"num_attention_heads":32,"num_experts":128,"num_experts_per_tok":8,"num_hidden_layers":48,"num_key_value_heads":4,
		"sliding_window":null,"tie_word_embeddings":false,"torch_dtype":"bfloat16","use_sliding_window":false,"vocab_size":151936}`,
	"qwen2.5-coder-32b": `{"model_type":"qwen2","hidden_size":5120,"intermediate_size":27648,"max_position_embeddings":32768,"max_window_layers":70,"num_attention_heads":40,
		"num_hidden_layers":64,"num_key_value_heads":8,"sliding_window":131072,"torch_dtype":"bfloat16","use_sliding_window":false,"vocab_size":152064}`,
	"llama3.1-8b": `{"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"max_position_embeddings":131072,"num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":8,
		"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192,"rope_type":"llama3"},"torch_dtype":"bfloat16","vocab_size":128256}`,
	"gemma3-27b": `{"architectures":["Gemma3ForConditionalGeneration"],"model_type":"gemma3","torch_dtype":"bfloat16","text_config":{"head_dim":128,"hidden_size":5376,"intermediate_size":21504,
		"model_type":"gemma3_text","num_attention_heads":32,"num_hidden_layers":62,"num_key_value_heads":16,"rope_scaling":{"factor":8.0,"rope_type":"linear"},"sliding_window":1024},
		"vision_config":{"hidden_size":1152,"num_hidden_layers":27,"num_attention_heads":16}}`,
	"gemma3-12b": `{"model_type":"gemma3","text_config":{"hidden_size":3840,"intermediate_size":15360,"model_type":"gemma3_text","num_attention_heads":16,"num_hidden_layers":48,
		"num_key_value_heads":8,"sliding_window":1024}}`,
	"gemma4-31b": `{"model_type":"gemma4","text_config":{"model_type":"gemma4_text","global_head_dim":512,"head_dim":256,"hidden_size":5376,"intermediate_size":21504,"num_attention_heads":32,
		"num_global_key_value_heads":4,"num_hidden_layers":60,"num_key_value_heads":16,"num_kv_shared_layers":0,"sliding_window":1024,"max_position_embeddings":262144,"vocab_size":262144,
		"layer_types":` + words(60, func(i int) string { return kindOf(i%6 == 5, "full_attention", "sliding_attention") }) + `}}`,
	"gemma4-26b": `{"model_type":"gemma4","text_config":{"model_type":"gemma4_text","enable_moe_block":true,"global_head_dim":512,"head_dim":256,"hidden_size":2816,"intermediate_size":2112,
		"moe_intermediate_size":704,"num_experts":128,"top_k_experts":8,"num_attention_heads":16,"num_global_key_value_heads":2,"num_hidden_layers":30,"num_key_value_heads":8,
		"sliding_window":1024,"max_position_embeddings":262144,"vocab_size":262144,
		"layer_types":` + words(30, func(i int) string { return kindOf(i%6 == 5, "full_attention", "sliding_attention") }) + `}}`,
	"gpt-oss-20b": `{"model_type":"gpt_oss","head_dim":64,"hidden_size":2880,"initial_context_length":4096,"intermediate_size":2880,"experts_per_token":4,"num_experts_per_tok":4,"num_local_experts":32,
		"max_position_embeddings":131072,"num_attention_heads":64,"num_hidden_layers":24,"num_key_value_heads":8,"sliding_window":128,"vocab_size":201088,"tie_word_embeddings":false,
		"rope_scaling":{"factor":32.0,"original_max_position_embeddings":4096,"rope_type":"yarn","truncate":false},"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["model.embed_tokens"]},
		"layer_types":` + words(24, func(i int) string { return kindOf(i%2 == 1, "full_attention", "sliding_attention") }) + `}`,
	"deepseek-v3.1": `{"model_type":"deepseek_v3","first_k_dense_replace":3,"hidden_size":7168,"intermediate_size":18432,"kv_lora_rank":512,"max_position_embeddings":163840,"moe_intermediate_size":2048,
		"n_routed_experts":256,"n_shared_experts":1,"num_attention_heads":128,"num_experts_per_tok":8,"num_hidden_layers":61,"num_key_value_heads":128,"num_nextn_predict_layers":1,"q_lora_rank":1536,
		"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,"rope_scaling":{"factor":40,"original_max_position_embeddings":4096,"type":"yarn"},"vocab_size":129280,"torch_dtype":"bfloat16",
		"quantization_config":{"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8","weight_block_size":[128,128]}}`,
	"glm-4.7-flash": `{"model_type":"glm4_moe_lite","num_hidden_layers":47,"hidden_size":2048,"num_attention_heads":20,"num_key_value_heads":20,"head_dim":64,"intermediate_size":10240,"vocab_size":154880,
		"max_position_embeddings":202752,"n_routed_experts":64,"n_shared_experts":1,"num_experts_per_tok":4,"moe_intermediate_size":1536,"first_k_dense_replace":1,"kv_lora_rank":512,"qk_rope_head_dim":64}`,
	"qwen3-next-80b": `{"model_type":"qwen3_next","decoder_sparse_step":1,"full_attention_interval":4,"head_dim":256,"hidden_size":2048,"intermediate_size":5120,"linear_conv_kernel_dim":4,"linear_key_head_dim":128,
		"linear_num_key_heads":16,"linear_num_value_heads":32,"linear_value_head_dim":128,"max_position_embeddings":262144,"mlp_only_layers":[],"moe_intermediate_size":512,"num_attention_heads":16,"num_experts":512,
		"num_experts_per_tok":10,"num_hidden_layers":48,"num_key_value_heads":2,"shared_expert_intermediate_size":512,"vocab_size":151936,"torch_dtype":"bfloat16"}`,
	"qwen3.5-397b": `{"model_type":"qwen3_5_moe","tie_word_embeddings":false,"text_config":{"dtype":"bfloat16","full_attention_interval":4,"head_dim":256,"hidden_size":4096,"linear_conv_kernel_dim":4,
		"linear_key_head_dim":128,"linear_num_key_heads":16,"linear_num_value_heads":64,"linear_value_head_dim":128,"max_position_embeddings":262144,"mlp_only_layers":[],"model_type":"qwen3_5_moe_text",
		"moe_intermediate_size":1024,"mtp_num_hidden_layers":1,"num_attention_heads":32,"num_experts":512,"num_experts_per_tok":10,"num_hidden_layers":60,"num_key_value_heads":2,
		"shared_expert_intermediate_size":1024,"vocab_size":248320,
		"layer_types":` + words(60, func(i int) string { return kindOf(i%4 == 3, "full_attention", "linear_attention") }) + `},"vision_config":{"depth":27,"hidden_size":1152}}`,
	"glm-4.5-air": `{"model_type":"glm4_moe","first_k_dense_replace":1,"head_dim":128,"hidden_size":4096,"intermediate_size":10944,"max_position_embeddings":131072,"moe_intermediate_size":1408,
		"n_routed_experts":128,"n_shared_experts":1,"num_attention_heads":96,"num_experts_per_tok":8,"num_hidden_layers":46,"num_key_value_heads":8,"num_nextn_predict_layers":1,"vocab_size":151552}`,
	"minimax-m2": `{"model_type":"minimax_m2","attn_type_list":[` + strings.Repeat("1,", 61) + `1],"head_dim":128,"hidden_size":3072,"intermediate_size":1536,"max_position_embeddings":196608,"num_attention_heads":48,
		"num_experts_per_tok":8,"num_hidden_layers":62,"num_key_value_heads":8,"num_local_experts":256,"vocab_size":200064,"quantization_config":{"fmt":"float8_e4m3fn","quant_method":"fp8"}}`,
	"llama4-scout": `{"model_type":"llama4","text_config":{"model_type":"llama4_text","attention_chunk_size":8192,"head_dim":128,"hidden_size":5120,"intermediate_size":8192,"intermediate_size_mlp":16384,
		"max_position_embeddings":10485760,"num_attention_heads":40,"num_experts_per_tok":1,"num_hidden_layers":48,"num_key_value_heads":8,"num_local_experts":16,"vocab_size":202048}}`,
	"mixtral-8x22b": `{"model_type":"mixtral","hidden_size":6144,"intermediate_size":16384,"max_position_embeddings":65536,"num_attention_heads":48,"num_experts_per_tok":2,"num_hidden_layers":56,
		"num_key_value_heads":8,"num_local_experts":8,"sliding_window":null,"vocab_size":32768}`,
	"ministral-3-8b": `{"model_type":"mistral3","text_config":{"model_type":"ministral3","head_dim":128,"hidden_size":4096,"intermediate_size":14336,"max_position_embeddings":262144,"num_attention_heads":32,
		"num_hidden_layers":34,"num_key_value_heads":8,"rope_parameters":{"factor":16.0,"original_max_position_embeddings":16384,"rope_type":"yarn"},"sliding_window":null,"vocab_size":131072}}`,
	"nemotron-3-nano-30b": `{"model_type":"nemotron_h","conv_kernel":4,"expand":2,"head_dim":128,"hidden_size":2688,"hybrid_override_pattern":"MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
		"intermediate_size":1856,"mamba_head_dim":64,"mamba_num_heads":64,"max_position_embeddings":262144,"moe_intermediate_size":1856,"n_groups":8,"n_routed_experts":128,"num_attention_heads":32,
		"num_experts_per_tok":6,"num_hidden_layers":52,"num_key_value_heads":2,"ssm_state_size":128,"vocab_size":131072,"n_shared_experts":1,"moe_shared_expert_intermediate_size":3712,"time_step_limit":[0.0,Infinity]}`,
	"step-3.5-flash": `{"model_type":"step3p5","hidden_size":4096,"num_hidden_layers":45,"num_attention_heads":64,"num_attention_groups":8,"head_dim":128,"sliding_window":512,"max_position_embeddings":262144,
		"vocab_size":128896,"attention_other_setting":{"attention_type":"sliding_attention","num_attention_heads":96,"num_attention_groups":8,"head_dim":128},
		"layer_types":` + words(48, func(i int) string { return kindOf(i%4 == 0, "full_attention", "sliding_attention") }) + `}`,
}

func words(n int, f func(i int) string) string { return list(n, func(i int) any { return f(i) }) }

func kindOf(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// What a config.json says of a model is what the catalog says of it.
func TestConfigMeetsCatalog(t *testing.T) {
	for name, text := range configs {
		want, err := (*List)(nil).Find(name)
		if err != nil || want.Name != name {
			t.Errorf("the catalog has no %s: %q, %v", name, want.Name, err)
			continue
		}
		c, err := FromConfig([]byte(text), nil, 0)
		if err != nil || c.WeightsBytes != nil || !c.OnBox {
			t.Errorf("%s: %+v, %v", name, c, err)
			continue
		}
		got := c.Model
		fields := func(m Model) string {
			return fmt.Sprint(m.Arch, m.Kind, m.Layers, m.Hidden, m.Heads, m.KVHeads, m.HeadK, m.HeadV, m.Context, m.Vocab, m.ExpertFF, m.FullLayers,
				m.SWALayers, m.Window, m.SWAKVHeads, m.SWAHead, m.StateLayers, m.StateConv, m.StateInner, m.StateSize, m.StateGroups)
		}
		if g, w := fields(got), fields(want); g != w {
			t.Errorf("%s:\n got %s\nwant %s", name, g, w)
		}
		// Of these the catalog leaves the wider dense layer out, and takes the shared expert for one like the others.
		if got.FF != want.FF && name != "glm-4.7-flash" && name != "nemotron-3-nano-30b" {
			t.Errorf("%s: FF %d, want %d", name, got.FF, want.FF)
		}
		size := GiB
		a, errA := Check(Ask{Model: got, Context: 32768, WeightsBytes: &size, Parallel: 2})
		b, errB := Check(Ask{Model: want, Context: 32768, WeightsBytes: &size, Parallel: 2})
		if errA != nil || errB != nil || a.KV == nil || b.KV == nil || *a.KV != *b.KV || *a.State != *b.State || *a.KVPerToken != *b.KVPerToken {
			t.Errorf("%s: KV %v, %v, want %v, %v", name, a.KV, errA, b.KV, errB)
		}
	}
}

func TestConfigWeights(t *testing.T) {
	index := func(s string) []byte {
		return []byte(`{"metadata":{` + s + `},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"`)
	}
	for _, c := range []struct {
		name, quant string
		config      string
		index       []byte
		files, want Bytes
		params      float64
	}{
		{"the index tells it", "BF16", configs["qwen3-8b"], index(`"total_size":16381470720`), 16381517000, 16381470720, 8.19},
		{"and the parameters", "BF16", configs["qwen3-8b"], index(`"total_parameters":8190735360,"total_size":1.638147072e10`), 0, 16381470720, 8.190735360},
		{"only the files are known", "BF16", configs["qwen3-8b"], nil, 16381517000, 16381517000, 8.19},
		{"the index says nothing", "BF16", configs["qwen3-8b"], []byte(`{"weight_map":{},"metadata":{}}`), 5e9, 5e9, 2.5},
		{"the index is broken", "BF16", configs["qwen3-8b"], []byte(`{"weight_map":[`), 5e9, 5e9, 2.5},
		{"the index lies", "BF16", configs["qwen3-8b"], index(`"total_size":-1,"total_parameters":1e300`), 5e9, 5e9, 2.5},
		{"mxfp4", "MXFP4", configs["gpt-oss-20b"], index(`"total_size":13761264768`), 0, 13761264768, 20.91},
		{"fp8", "FP8", configs["deepseek-v3.1"], index(`"total_size":688586727753`), 0, 688586727753, 680},
		{"parameters that cannot be told", "NVFP4", strings.Replace(configs["qwen3-8b"], "{", `{"quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4"},`, 1), nil, 6e9, 6e9, 0},
		{"nothing is known", "BF16", configs["qwen3-8b"], nil, -5, 0, 0},
	} {
		got, err := FromConfig([]byte(c.config), c.index, c.files)
		if err != nil || got.Quant != c.quant || (got.WeightsBytes == nil) != (c.want == 0) || c.want > 0 && (*got.WeightsBytes != c.want || got.WeightsSource != FromFile) {
			t.Errorf("%s: %v of %q in %q, %v, want %d in %q", c.name, got.WeightsBytes, got.WeightsSource, got.Quant, err, c.want, c.quant)
		}
		if math.Abs(got.Model.ParamsB-c.params) > 0.02*c.params {
			t.Errorf("%s: %v billion parameters, want %v", c.name, got.Model.ParamsB, c.params)
		}
	}
}

func TestConfigQuant(t *testing.T) {
	for text, want := range map[string]string{
		`"torch_dtype":"bfloat16"`:                                                                    "BF16",
		`"dtype":"float16"`:                                                                           "F16",
		`"torch_dtype":"torch.float32"`:                                                               "F32",
		`"torch_dtype":"auto"`:                                                                        "",
		`"torch_dtype":7`:                                                                             "",
		`"quantization_config":{}`:                                                                    "",
		`"quantization_config":"fp8"`:                                                                 "",
		`"quantization_config":{"bits":"4"}`:                                                          "",
		`"quantization_config":{"bits":1e300}`:                                                        "",
		`"quantization":{"bits":4}`:                                                                   "INT4",
		`"quantization_config":{"quant_method":"fp8"}`:                                                "FP8",
		`"quantization_config":{"quant_method":"fbgemm_fp8"}`:                                         "FP8",
		`"quantization_config":{"quant_method":"awq","bits":4,"group_size":128}`:                      "AWQ",
		`"quantization_config":{"quant_method":"gptq","bits":4,"group_size":128}`:                     "GPTQ",
		`"quantization_config":{"quant_method":"gptq","bits":8,"group_size":128}`:                     "INT8",
		`"quantization_config":{"quant_method":"mxfp4"}`:                                              "MXFP4",
		`"quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4"}`:                      "NVFP4",
		`"quantization_config":{"quant_method":"modelopt","quant_algo":"FP8"}`:                        "FP8",
		`"quantization_config":{"quant_method":"modelopt","quant_algo":"MIXED_PRECISION"}`:            "",
		`"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}`:                   "INT4",
		`"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true}`:                   "INT8",
		`"quantization_config":{"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized"}`: "NVFP4",
		`"quantization_config":{"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"group_0":{"weights":{"num_bits":8,"type":"float"}}}}`: "FP8",
		`"quantization_config":{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"weights":{"num_bits":4,"type":"int"}}}}`:    "INT4",
		`"quantization_config":{"quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"group_0":{"weights":{"num_bits":8,"type":"int"}}}}`:     "INT8",
		`"quantization":{"group_size":64,"bits":4}`:                "4BIT",
		`"quantization":{"group_size":64,"bits":6}`:                "6BIT",
		`"quantization":{"group_size":32,"bits":4,"mode":"mxfp4"}`: "MXFP4",
	} {
		c, err := FromConfig([]byte(`{"num_hidden_layers":2,`+text+`}`), nil, 0)
		if err != nil || c.Quant != want {
			t.Errorf("%s: %q, %v, want %q", text, c.Quant, err, want)
		}
	}
}

func TestConfigKinds(t *testing.T) {
	const base = `{"num_hidden_layers":4,"hidden_size":512,"num_attention_heads":8,`
	for text, want := range map[string]Kind{
		`"model_type":"newthing"}`:                      KindFull,
		`"model_type":"newthing","sliding_window":512}`: KindFull, // an upper bound
		`"model_type":"qwen2","use_sliding_window":true,"sliding_window":512,"max_window_layers":2}`:                       KindSWA,
		`"model_type":"qwen2","use_sliding_window":true,"sliding_window":512,"max_window_layers":4}`:                       KindFull,
		`"layer_types":["full_attention","sliding_attention","full_attention","sliding_attention"],"sliding_window":null}`: KindFull,
		`"layer_types":["full_attention","conv","full_attention","conv"]}`:                                                 KindUnknown,
		`"layer_types":["full_attention"]}`: KindUnknown,
		`"layer_types":[1,2,3,4]}`:          KindUnknown,
		`"layer_types":["mamba","mamba","mamba","attention"],"mamba_d_conv":4,"mamba_d_state":128,"mamba_expand":2,"mamba_n_groups":1,"mamba_d_head":64,"mamba_n_heads":16}`: KindHybrid,
		`"layers_block_type":["mamba","moe","mamba","attention"],"conv_kernel":4,"ssm_state_size":128,"expand":2,"n_groups":8}`:                                              KindHybrid,
		`"layer_types":["mamba","mamba","mamba","attention"]}`:                                    KindUnknown,
		`"layer_types":["mamba","mamba","mamba","mamba"]}`:                                        KindUnknown,
		`"model_type":"falcon_h1","mamba_d_state":128}`:                                           KindUnknown,
		`"model_type":"deepseek_v32","kv_lora_rank":512,"qk_rope_head_dim":64,"index_topk":2048}`: KindUnknown,
		`"model_type":"deepseek_v3","kv_lora_rank":512}`:                                          KindUnknown,
		`"model_type":"minicpm3","kv_lora_rank":256,"qk_rope_head_dim":32}`:                       KindUnknown,
		`"model_type":"gemma3n"}`:                                                                 KindUnknown,
		`"attn_type_list":[1,0,0,1]}`:                                                             KindUnknown,
		`"num_key_value_heads":[1,2,3,4]}`:                                                        KindUnknown,
		`"num_key_value_heads":"8"}`:                                                              KindUnknown,
		`"num_kv_shared_layers":4}`:                                                               KindUnknown,
		`"num_attention_heads":0}`:                                                                KindUnknown,
	} {
		c, err := FromConfig([]byte(base+text), nil, 0)
		if err != nil || c.Model.Kind != want {
			t.Errorf("%s: kind %q, %v, want %q", text, c.Model.Kind, err, want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for text, says := range map[string]string{
		``:                                   "config.json: ",
		`[]`:                                 "config.json: ",
		`null`:                               "num_hidden_layers is missing",
		`{`:                                  "config.json: ",
		`{"a":` + strings.Repeat("[", 20000): "config.json: ",
		`{}`:                                 "num_hidden_layers is missing",
		`{"num_hidden_layers":"36"}`:         "num_hidden_layers is missing",
		`{"num_hidden_layers":-3}`:           "num_hidden_layers is missing",
		`{"num_hidden_layers":1e9}`:          "num_hidden_layers is missing",
		`{"num_hidden_layers":NaN}`:          "num_hidden_layers is missing",
		`{"num_hidden_layers":2,"hidden_size":-1}`:                                                        "out of range",
		`{"num_hidden_layers":2,"hidden_size":1e12}`:                                                      "out of range",
		`{"num_hidden_layers":2,"moe_intermediate_size":1e14,"num_experts_per_tok":1e14,"num_experts":9}`: "out of range",
		`{"num_hidden_layers":2,"layer_types":["mamba","attention"],"hidden_size":8,"num_attention_heads":1,"mamba_d_conv":4,"mamba_expand":1e14,"mamba_d_state":1,"mamba_n_groups":1}`: "out of range",
		strings.Repeat(" ", configLimit+1): "too many",
	} {
		_, err := FromConfig([]byte(text), nil, 0)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("FromConfig(%.80s): %v, want an error that says %q", text, err, says)
		}
	}
}

func TestPlainJSON(t *testing.T) {
	for in, want := range map[string]string{
		`{"a":NaN,"b":[-Infinity,Infinity]}`: `{"a":null,"b":[null,null]}`,
		`{"NaN":"Infinity \" NaN","b":1}`:    `{"NaN":"Infinity \" NaN","b":1}`,
		`"NaN`:                               `"NaN`,
		`"NaN\`:                              `"NaN\`,
		`NaNNaN`:                             `nullnull`,
	} {
		if got := string(plainJSON([]byte(in))); got != want {
			t.Errorf("plainJSON(%s) = %s, want %s", in, got, want)
		}
	}
}
