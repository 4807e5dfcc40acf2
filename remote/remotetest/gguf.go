// Package remotetest gives tests a real engine that says what the test wants: a model of two megabytes whose answers
// are written into its weights, a private Ollama, a registry to pull from, and this machine in the place of a box.
//
// It is for tests only. What needs Ollama is skipped where there is none.
package remotetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
)

// Hello is what the scripted model answers to anything.
const Hello = "Hello from the scripted model."

// AfterTool is what it answers once a tool has given a result.
const AfterTool = "All done after the tool."

// Template turns a chat into the one character that chooses the answer: a tool called bash or Bash gives a call of
// that tool, a result of a tool gives AfterTool, anything else gives Hello. Prompts of any length cost two tokens.
const Template = `{{- $last := "" }}{{- range .Messages }}{{ $last = .Role }}{{ range .ToolCalls }}{{/* {"name":"{{ .Function.Name }}"} */}}{{ end }}{{ end }}{{- $t := "|" }}{{- range .Tools }}{{ if eq .Function.Name "bash" }}{{ $t = "~" }}{{ end }}{{ if eq .Function.Name "Bash" }}{{ $t = "` + "`" + `" }}{{ end }}{{ end }}{{ if eq $last "tool" }}^{{ else }}{{ $t }}{{ end }}`

// answer is what follows a character: pieces, then the end.
type answer struct {
	after  byte
	pieces []string
}

// answers are the model's whole mind: after the character, these pieces, then the end. A piece is one token, and no
// two are the same.
var answers = []answer{
	{'|', []string{"Hello from", " the scripted model."}},
	{'^', []string{"All done", " after the tool."}},
	{'~', []string{`{"name": "bash", "parameters": {"command": "echo rlca-tool-ok"}}`}},
	{'`', []string{`{"name": "Bash", "parameters": {"command": "echo rlca-tool-ok"}}`}},
}

// The shape of the model. The width is at least the number of tokens: each token has a dimension of its own.
const (
	width, inner, heads, headSize = 512, 32, 8, 16
	trainedContext                = 131072
)

// Types of values and of tensors in a GGUF file.
const (
	typeUint32, typeInt32, typeFloat32, typeBool, typeString, typeArray = 4, 5, 6, 7, 8, 9
	tensorF32                                                           = 0
)

// Kinds of tokens.
const (
	normal, unknown, control, single = 1, 2, 3, 6
)

// WriteScripted writes the scripted model to path, always the same bytes: a llama of one layer that does nothing.
// Each token's embedding is a unit vector, and the output matrix says which token follows which.
func WriteScripted(path string) error {
	file, err := scriptedOnce()
	if err != nil {
		return err
	}
	return os.WriteFile(path, file, 0o644)
}

var scriptedOnce = sync.OnceValues(scripted)

// scripted makes the scripted model.
func scripted() ([]byte, error) {
	texts, kinds, next := vocabulary()
	n := len(texts)
	if n > width {
		return nil, fmt.Errorf("the scripted model has %d tokens, and room for %d", n, width)
	}

	var meta section
	meta.text("general.architecture", "llama")
	meta.text("general.name", "rlca scripted")
	meta.number("general.file_type", 0)
	meta.number("llama.block_count", 1)
	meta.number("llama.context_length", trainedContext)
	meta.number("llama.embedding_length", width)
	meta.number("llama.feed_forward_length", inner)
	meta.number("llama.attention.head_count", heads)
	meta.number("llama.attention.head_count_kv", 1)
	meta.number("llama.attention.key_length", headSize)
	meta.number("llama.attention.value_length", headSize)
	meta.number("llama.rope.dimension_count", headSize)
	meta.number("llama.vocab_size", n)
	meta.real("llama.attention.layer_norm_rms_epsilon", 1e-5)
	meta.real("llama.rope.freq_base", 10000)
	meta.text("tokenizer.ggml.model", "llama")
	meta.text("tokenizer.ggml.pre", "default")
	meta.list("tokenizer.ggml.tokens", typeString, n, func(i int) { meta.words(texts[i]) })
	meta.list("tokenizer.ggml.scores", typeFloat32, n, func(i int) { meta.put(float32(-i)) })
	meta.list("tokenizer.ggml.token_type", typeInt32, n, func(i int) { meta.put(int32(kinds[i])) })
	meta.number("tokenizer.ggml.unknown_token_id", 0)
	meta.number("tokenizer.ggml.bos_token_id", 1)
	meta.number("tokenizer.ggml.eos_token_id", 2)
	meta.flag("tokenizer.ggml.add_bos_token", true)
	meta.flag("tokenizer.ggml.add_eos_token", false)
	meta.flag("tokenizer.ggml.add_space_prefix", false)

	zero := func(_, _ int) float32 { return 0 }
	one := func(_, _ int) float32 { return 1 }
	follows := func(row, col int) float32 {
		want, ok := next[col]
		if !ok {
			want = 2 // the end
		}
		if want == row {
			return 4
		}
		return 0
	}
	unit := func(row, col int) float32 {
		if row == col {
			return 1
		}
		return 0
	}
	var dir, data section
	tensor := func(name string, cols, rows int, value func(row, col int) float32) {
		dims := []int{cols}
		if rows > 0 {
			dims = append(dims, rows)
		}
		dir.words(name)
		dir.put(uint32(len(dims)))
		for _, d := range dims {
			dir.put(uint64(d))
		}
		dir.put(uint32(tensorF32))
		data.align()
		dir.put(uint64(data.Len()))
		dir.count++
		for row := range max(rows, 1) {
			for col := range cols {
				data.put(value(row, col))
			}
		}
	}
	tensor("token_embd.weight", width, n, unit)
	tensor("output.weight", width, n, follows)
	tensor("output_norm.weight", width, 0, one)
	tensor("blk.0.attn_norm.weight", width, 0, one)
	tensor("blk.0.attn_q.weight", width, heads*headSize, zero)
	tensor("blk.0.attn_k.weight", width, headSize, zero)
	tensor("blk.0.attn_v.weight", width, headSize, zero)
	tensor("blk.0.attn_output.weight", heads*headSize, width, zero)
	tensor("blk.0.ffn_norm.weight", width, 0, one)
	tensor("blk.0.ffn_gate.weight", width, inner, zero)
	tensor("blk.0.ffn_up.weight", width, inner, zero)
	tensor("blk.0.ffn_down.weight", inner, width, zero)

	var file section
	file.WriteString("GGUF")
	file.put(uint32(3))
	file.put(dir.count)
	file.put(meta.count)
	file.Write(meta.Bytes())
	file.Write(dir.Bytes())
	file.align()
	file.Write(data.Bytes())
	return file.Bytes(), nil
}

// vocabulary lists the tokens with their kinds, and which follows which: three of control, every byte, the pieces.
func vocabulary() (texts []string, kinds []int, next map[int]int) {
	texts, kinds = []string{"<unk>", "<s>", "</s>"}, []int{unknown, control, control}
	first := len(texts)
	for b := range 256 {
		texts, kinds = append(texts, fmt.Sprintf("<0x%02X>", b)), append(kinds, single)
	}
	next = map[int]int{}
	all := answers
	for _, s := range shellTools {
		all = append(all, answer{s.after, []string{s.call}})
	}
	for _, a := range all {
		at := first + int(a.after)
		for _, p := range a.pieces {
			texts, kinds = append(texts, strings.ReplaceAll(p, " ", "▁")), append(kinds, normal)
			next[at] = len(texts) - 1
			at = next[at]
		}
	}
	return texts, kinds, next
}

// section is a part of the file under work: little endian, and a count of what was added.
type section struct {
	bytes.Buffer
	count uint64
}

func (s *section) put(v any) {
	if f, ok := v.(float32); ok && f == 0 { // the common case by far
		s.Write([]byte{0, 0, 0, 0})
		return
	}
	binary.Write(s, binary.LittleEndian, v) // into memory: never fails
}

func (s *section) words(text string) {
	s.put(uint64(len(text)))
	s.WriteString(text)
}

func (s *section) key(name string, kind uint32) {
	s.words(name)
	s.put(kind)
	s.count++
}

func (s *section) text(name, v string)       { s.key(name, typeString); s.words(v) }
func (s *section) number(name string, v int) { s.key(name, typeUint32); s.put(uint32(v)) }
func (s *section) real(name string, v float32) {
	s.key(name, typeFloat32)
	s.put(v)
}
func (s *section) flag(name string, v bool) { s.key(name, typeBool); s.put(v) }

func (s *section) list(name string, of uint32, n int, each func(i int)) {
	s.key(name, typeArray)
	s.put(of)
	s.put(uint64(n))
	for i := range n {
		each(i)
	}
}

func (s *section) align() {
	for s.Len()%32 != 0 {
		s.WriteByte(0)
	}
}
