package fit

import (
	"encoding/json"
	"strings"
	"testing"
)

// info decodes metadata the way it arrives from /api/show.
func info(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func list(n int, f func(i int) any) string {
	s := make([]any, n)
	for i := range s {
		s[i] = f(i)
	}
	b, _ := json.Marshal(s)
	return string(b)
}

func TestFromMetadata(t *testing.T) {
	gemma4KV := list(60, func(i int) any { return map[bool]int{true: 4, false: 16}[i%6 == 5] })
	gemma4SWA := list(60, func(i int) any { return i%6 != 5 })
	const nemotron = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
	nemotronKV := list(52, func(i int) any { return map[bool]int{true: 2, false: 0}[nemotron[i] == '*'] })
	nemotronFF := list(52, func(i int) any { return map[bool]int{true: 1856, false: 0}[nemotron[i] == 'E'] })
	for _, c := range []struct {
		name, text string
		kind       Kind
		perToken   Bytes // 0: not known
		state      Bytes
		ff         int
	}{
		{"qwen3moe", `{"general.architecture":"qwen3moe","general.parameter_count":30532122624,"general.name":"Qwen3 Coder 30B","qwen3moe.block_count":48,
			"qwen3moe.context_length":262144,"qwen3moe.embedding_length":2048,"qwen3moe.feed_forward_length":5472,"qwen3moe.expert_feed_forward_length":768,
			"qwen3moe.expert_used_count":8,"qwen3moe.attention.head_count":32,"qwen3moe.attention.head_count_kv":4,"qwen3moe.attention.key_length":128,
			"qwen3moe.attention.value_length":128,"tokenizer.ggml.tokens":null}`, KindFull, 98304, 0, 6144},
		{"llama without key_length", `{"general.architecture":"llama","llama.block_count":30,"llama.embedding_length":576,"llama.feed_forward_length":1536,
			"llama.attention.head_count":9,"llama.attention.head_count_kv":3,"llama.context_length":8192,"llama.vocab_size":49152}`, KindFull, 30 * 3 * 128 * 2, 0, 1536},
		{"no grouping", `{"general.architecture":"llama","llama.block_count":2,"llama.embedding_length":512,"llama.attention.head_count":8}`, KindFull, 2 * 512 * 2 * 2, 0, 0},
		{"gemma3, pattern not given", `{"general.architecture":"gemma3","gemma3.block_count":62,"gemma3.embedding_length":5376,"gemma3.attention.head_count":32,
			"gemma3.attention.head_count_kv":16,"gemma3.attention.key_length":128,"gemma3.attention.value_length":128,"gemma3.attention.sliding_window":1024}`, KindSWA, 81920, 0, 0},
		{"gemma4, per layer", `{"general.architecture":"gemma4","gemma4.block_count":60,"gemma4.embedding_length":5376,"gemma4.attention.head_count":32,
			"gemma4.attention.head_count_kv":` + gemma4KV + `,"gemma4.attention.key_length":512,"gemma4.attention.value_length":512,"gemma4.attention.key_length_swa":256,
			"gemma4.attention.value_length_swa":256,"gemma4.attention.sliding_window":1024,"gemma4.attention.sliding_window_pattern":` + gemma4SWA + `}`, KindSWA, 81920, 0, 0},
		{"gpt-oss", `{"general.architecture":"gptoss","gptoss.block_count":24,"gptoss.embedding_length":2880,"gptoss.attention.head_count":64,"gptoss.attention.head_count_kv":8,
			"gptoss.attention.key_length":64,"gptoss.attention.value_length":64,"gptoss.attention.sliding_window":128,"gptoss.feed_forward_length":2880,"gptoss.expert_used_count":4}`, KindSWA, 24576, 0, 11520},
		{"deepseek2, MLA", `{"general.architecture":"deepseek2","deepseek2.block_count":61,"deepseek2.embedding_length":7168,"deepseek2.attention.head_count":128,
			"deepseek2.attention.head_count_kv":1,"deepseek2.attention.key_length":576,"deepseek2.attention.value_length":512,"deepseek2.attention.kv_lora_rank":512}`, KindMLA, 70272, 0, 0},
		{"deepseek2, without MLA", `{"general.architecture":"deepseek2","deepseek2.block_count":61,"deepseek2.embedding_length":7168,"deepseek2.attention.head_count":128,
			"deepseek2.attention.head_count_kv":128,"deepseek2.attention.key_length":192,"deepseek2.attention.value_length":128,"deepseek2.attention.kv_lora_rank":512}`, KindFull, 2440 << 20 / 512, 0, 0},
		{"qwen35, hybrid", `{"general.architecture":"qwen35","qwen35.block_count":64,"qwen35.embedding_length":5120,"qwen35.attention.head_count":24,"qwen35.attention.head_count_kv":4,
			"qwen35.attention.key_length":256,"qwen35.attention.value_length":256,"qwen35.full_attention_interval":4,"qwen35.ssm.conv_kernel":4,"qwen35.ssm.inner_size":6144,
			"qwen35.ssm.state_size":128,"qwen35.ssm.group_count":16}`, KindHybrid, 65536, 156893184, 0},
		{"nemotron, experts alone", `{"general.architecture":"nemotron_h_moe","nemotron_h_moe.block_count":52,"nemotron_h_moe.embedding_length":2688,"nemotron_h_moe.attention.head_count":32,
			"nemotron_h_moe.attention.head_count_kv":` + nemotronKV + `,"nemotron_h_moe.feed_forward_length":` + nemotronFF + `,"nemotron_h_moe.attention.key_length":128,
			"nemotron_h_moe.attention.value_length":128,"nemotron_h_moe.ssm.conv_kernel":4,"nemotron_h_moe.ssm.inner_size":4096,"nemotron_h_moe.ssm.state_size":128,"nemotron_h_moe.ssm.group_count":8}`,
			KindHybrid, 6144, 49930240, 1856},
		{"glm4moe with a block for drafts", `{"general.architecture":"glm4moe","glm4moe.block_count":47,"glm4moe.nextn_predict_layers":1,"glm4moe.embedding_length":4096,
			"glm4moe.attention.head_count":96,"glm4moe.attention.head_count_kv":8,"glm4moe.attention.key_length":128,"glm4moe.attention.value_length":128}`, KindFull, 188416, 0, 0},
		{"lists left out", `{"general.architecture":"gemma4","gemma4.block_count":60,"gemma4.embedding_length":5376,"gemma4.attention.head_count":32,
			"gemma4.attention.head_count_kv":[],"gemma4.attention.key_length":512}`, KindUnknown, 0, 0, 0},
		{"states of another kind", `{"general.architecture":"falcon-h1","falcon-h1.block_count":4,"falcon-h1.embedding_length":512,"falcon-h1.attention.head_count":8,"falcon-h1.ssm.inner_size":1024}`, KindUnknown, 0, 0, 0},
		{"a window of layers not known", `{"general.architecture":"newthing","newthing.block_count":10,"newthing.embedding_length":512,"newthing.attention.head_count":8,
			"newthing.attention.head_count_kv":8,"newthing.attention.sliding_window":512}`, KindFull, 10 * 512 * 2 * 2, 0, 0},
	} {
		m, err := FromMetadata(info(t, c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if m.Kind != c.kind || m.FF != c.ff {
			t.Errorf("%s: kind %q with FF %d, want %q with %d", c.name, m.Kind, m.FF, c.kind, c.ff)
		}
		size := GiB
		r, err := Check(Ask{Model: m, Context: 512, WeightsBytes: &size, WeightsSource: FromAPI})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if c.perToken == 0 {
			if r.KV != nil {
				t.Errorf("%s: KV %v, want nil", c.name, r.KV)
			}
			continue
		}
		if r.KVPerToken == nil || *r.KVPerToken != c.perToken || *r.State != c.state || r.Source != FromAPI {
			t.Errorf("%s: %v bytes a token, state %v from %q, want %d and %d from api", c.name, r.KVPerToken, r.State, r.Source, c.perToken, c.state)
		}
	}
}

// What metadata and the catalog say of one model gives one answer.
func TestMetadataMeetsCatalog(t *testing.T) {
	want := coder(t)
	got, err := FromMetadata(info(t, `{"general.architecture":"qwen3moe","general.parameter_count":30532000000,"general.name":"Qwen3-Coder-30B-A3B-Instruct",
		"qwen3moe.block_count":48,"qwen3moe.context_length":262144,"qwen3moe.embedding_length":2048,"qwen3moe.expert_feed_forward_length":768,"qwen3moe.expert_used_count":8,
		"qwen3moe.attention.head_count":32,"qwen3moe.attention.head_count_kv":4,"qwen3moe.attention.key_length":128,"qwen3moe.attention.value_length":128,"qwen3moe.vocab_size":151936}`))
	if err != nil || got.Coder != "yes" {
		t.Fatalf("FromMetadata = coder %q, %v, want yes", got.Coder, err)
	}
	size := Bytes(18556689568)
	a, errA := Check(Ask{Model: want, Context: 65536, GPU: true, WeightsBytes: &size})
	b, errB := Check(Ask{Model: got, Context: 65536, GPU: true, WeightsBytes: &size})
	if errA != nil || errB != nil || *a.Total != *b.Total {
		t.Errorf("catalog: %v, %v; metadata: %v, %v", a.Total, errA, b.Total, errB)
	}
}

func TestFromMetadataErrors(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:                               "general.architecture is missing",
		`{"general.architecture":"llama"}`: "block_count is missing",
		`{"general.architecture":"llama","llama.block_count":-4}`:                                                                "block_count is missing",
		`{"general.architecture":"llama","llama.block_count":1e9}`:                                                               "block_count is missing",
		`{"general.architecture":"llama","llama.block_count":4,"llama.embedding_length":1e15,"llama.attention.head_count":1}`:    "out of range",
		`{"general.architecture":"llama","llama.block_count":4,"llama.embedding_length":64,"llama.vocab_size":-1}`:               "out of range",
		`{"general.architecture":"llama","llama.block_count":4,"llama.feed_forward_length":1e12,"llama.expert_used_count":1e12}`: "out of range",
		"{\"general.architecture\":\"\\u001b[31m\\u0007x\",\"general.name\":\"a\\nb\",\"block_count\":1}":                        "[31mx.block_count",
	} {
		_, err := FromMetadata(info(t, text))
		if err == nil || !strings.Contains(err.Error(), says) || strings.ContainsAny(err.Error(), "\x1b\x07\n") {
			t.Errorf("FromMetadata(%s): %v, want an error that says %q and no control characters", text, err, says)
		}
	}
}

func FuzzFromMetadata(f *testing.F) {
	f.Add([]byte(`{"general.architecture":"a","a.block_count":4,"a.attention.head_count_kv":[1,0,2,3],"a.attention.key_length":64,"a.embedding_length":64}`), 1024)
	f.Add([]byte(`{"general.architecture":"gemma3","gemma3.block_count":6,"gemma3.attention.head_count":4,"gemma3.embedding_length":64,"gemma3.attention.sliding_window":512}`), 0)
	f.Add([]byte(`{"general.architecture":"qwen35","qwen35.block_count":9,"qwen35.attention.head_count":4,"qwen35.embedding_length":64,"qwen35.ssm.conv_kernel":1e9}`), 7)
	f.Fuzz(func(t *testing.T, text []byte, ctx int) {
		var m map[string]any
		if json.Unmarshal(text, &m) != nil {
			return
		}
		model, err := FromMetadata(m)
		if err != nil {
			return
		}
		budget, size := 64*GiB, 10*GiB
		r, err := Check(Ask{Model: model, Context: ctx, Budget: &budget, WeightsBytes: &size, Parallel: 2, GPU: true})
		if err == nil && (*r.Total < size || r.KV != nil && *r.KV < 0) {
			t.Errorf("Check of %s = total %d, KV %v", text, *r.Total, r.KV)
		}
	})
}
