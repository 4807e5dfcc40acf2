package remotetest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// chatTemplate ends a prompt with the one token that chooses the answer, as Template does, after what was said.
const chatTemplate = `{%- set ns = namespace(next='<|plain|>') -%}
{%- for m in messages %}{{ m.role }}: {{ m.content if m.content is string else m.content | tojson }}
{% endfor %}
{%- for t in tools or [] %}{% if t.function.name == 'bash' %}{% set ns.next = '<|bash|>' %}{% elif t.function.name == 'Bash' %}{% set ns.next = '<|Bash|>' %}{% endif %}{% endfor %}
{%- if messages[-1].role == 'tool' %}{% set ns.next = '<|result|>' %}{% endif %}
{{- ns.next }}`

// checkpointAnswers are the mind of the scripted checkpoint: after the token, these pieces, then the end. No two pieces
// are the same. Calls are as Hermes and Qwen write them.
var checkpointAnswers = []struct {
	after  string
	pieces []string
}{
	{"<|plain|>", []string{"Hello from", " the scripted model."}},
	{"<|result|>", []string{"All done", " after the tool."}},
	{"<|bash|>", []string{"<tool_call>\n", `{"name": "bash", `, `"arguments": `, `{"command": "echo rlca-tool-ok"}`, "}\n</tool_call>"}},
	{"<|Bash|>", []string{"<tool_call>", "\n{", `"name": "Bash", "arguments": {`, `"command": "echo rlca-tool-ok"`, "}}\n", "</tool_call>"}},
}

// CheckpointContext is the number of tokens that the scripted checkpoint was made for.
const CheckpointContext = 65536

// WriteCheckpoint writes the scripted model as a checkpoint of Hugging Face, as vLLM reads it, into the folder dir:
// Qwen2 with two layers that do nothing, 4 MB of weights, always the same bytes. It answers Hello, calls a tool named
// bash or Bash if it is given one, and says AfterTool to a result.
func WriteCheckpoint(dir string) error {
	files, err := checkpointOnce()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var checkpointOnce = sync.OnceValues(makeCheckpoint)

// makeCheckpoint makes the files of the scripted checkpoint, by their names.
func makeCheckpoint() (map[string][]byte, error) {
	const (
		vocabulary, inner, layers   = 512, 32, 2
		heads, kvHeads, headSize    = 8, 2, 64 // heads × headSize is the width, and each token has a dimension of its own
		unknownID, beginID, finalID = 0, 1, 2
	)
	special := []string{"<unk>", "<s>", "<|im_end|>"}
	for _, a := range checkpointAnswers {
		special = append(special, a.after)
	}
	letters := byteLetters()
	ids := map[string]int{}
	add := func(token string) int {
		if _, twice := ids[token]; !twice {
			ids[token] = len(ids)
		}
		return ids[token]
	}
	for _, s := range special {
		add(s)
	}
	for _, r := range letters {
		add(string(r))
	}
	next := map[int]int{}
	for _, a := range checkpointAnswers {
		at := ids[a.after]
		for _, p := range a.pieces {
			var token strings.Builder
			for _, b := range []byte(p) {
				token.WriteRune(letters[b])
			}
			next[at] = add(token.String())
			at = next[at]
		}
		next[at] = finalID
	}
	if len(ids) > vocabulary {
		return nil, fmt.Errorf("the scripted checkpoint has %d tokens, and room for %d", len(ids), vocabulary)
	}
	for len(ids) < vocabulary {
		add(fmt.Sprintf("<|free%d|>", len(ids)))
	}

	type object = map[string]any
	var added []object
	for i, s := range special {
		added = append(added, object{"id": i, "content": s, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
	}
	bytewise := func(prefix, regex bool) object {
		return object{"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex}
	}
	files := map[string]object{
		"config.json": {
			"architectures": []string{"Qwen2ForCausalLM"}, "model_type": "qwen2", "hidden_size": vocabulary, "intermediate_size": inner,
			"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kvHeads, "vocab_size": vocabulary, "hidden_act": "silu",
			"max_position_embeddings": CheckpointContext, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
			"use_sliding_window": false, "torch_dtype": "bfloat16", "bos_token_id": beginID, "eos_token_id": finalID,
		},
		"generation_config.json": {"bos_token_id": beginID, "eos_token_id": finalID, "do_sample": false, "temperature": 0.0},
		"tokenizer_config.json": {
			"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[beginID], "eos_token": special[finalID], "unk_token": special[unknownID],
			"chat_template": chatTemplate, "clean_up_tokenization_spaces": false,
		},
		"tokenizer.json": {
			"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil,
			"pre_tokenizer": bytewise(false, false), "post_processor": nil, "decoder": bytewise(true, true),
			"model": object{
				"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
				"fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids, "merges": []string{},
			},
		},
	}
	made := map[string][]byte{}
	for name, o := range files {
		text, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		made[name] = text
	}

	var w checkpoint
	const width = vocabulary
	w.tensor("model.embed_tokens.weight", func(row, col int) bool { return row == col }, vocabulary, width)
	w.tensor("lm_head.weight", func(row, col int) bool { to, ok := next[col]; return ok && to == row }, vocabulary, width)
	ones := func(_, _ int) bool { return true }
	zeros := func(_, _ int) bool { return false }
	w.tensor("model.norm.weight", ones, width)
	for l := range layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		w.tensor(at+"input_layernorm.weight", ones, width)
		w.tensor(at+"post_attention_layernorm.weight", ones, width)
		for _, part := range []struct {
			name string
			rows int
		}{{"q", width}, {"k", kvHeads * headSize}, {"v", kvHeads * headSize}} {
			w.tensor(at+"self_attn."+part.name+"_proj.weight", zeros, part.rows, width)
			w.tensor(at+"self_attn."+part.name+"_proj.bias", zeros, part.rows)
		}
		w.tensor(at+"self_attn.o_proj.weight", zeros, width, width)
		w.tensor(at+"mlp.gate_proj.weight", zeros, inner, width)
		w.tensor(at+"mlp.up_proj.weight", zeros, inner, width)
		w.tensor(at+"mlp.down_proj.weight", zeros, width, inner)
	}
	weights, err := w.file()
	made["model.safetensors"] = weights
	return made, err
}

// byteLetters are the letters that byte-level tokenizers, from GPT-2 on, write for the 256 bytes: printable ones as they
// are, the others from U+0100 on.
func byteLetters() [256]rune {
	var letters [256]rune
	other := rune(0x100)
	for b := range 256 {
		switch {
		case b >= '!' && b <= '~', b >= 0xa1 && b <= 0xac, b >= 0xae:
			letters[b] = rune(b)
		default:
			letters[b] = other
			other++
		}
	}
	return letters
}

// checkpoint is a safetensors file under work; all its numbers are bfloat16, and 0 or 1.
type checkpoint struct {
	head map[string]any
	data bytes.Buffer
}

// tensor adds one of rows and columns, or of one dimension, whose column is then 0.
func (c *checkpoint) tensor(name string, one func(row, col int) bool, shape ...int) {
	from, cols := c.data.Len(), 1
	if len(shape) > 1 {
		cols = shape[1]
	}
	for row := range shape[0] {
		for col := range cols {
			if one(row, col) {
				c.data.Write([]byte{0x80, 0x3f})
			} else {
				c.data.Write([]byte{0, 0})
			}
		}
	}
	if c.head == nil {
		c.head = map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	}
	c.head[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int{from, c.data.Len()}}
}

// file is the length of the head, the head, and the data.
func (c *checkpoint) file() ([]byte, error) {
	head, err := json.Marshal(c.head)
	if err != nil {
		return nil, err
	}
	head = append(head, bytes.Repeat([]byte(" "), (8-len(head)%8)%8)...)
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	return append(append(file, head...), c.data.Bytes()...), nil
}
