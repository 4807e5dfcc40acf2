package fit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
)

// gguf writes headers, also ones that no engine would. The zero value is an
// empty file of version 3.
type gguf struct {
	keys, tensors int
	pairs, infos  bytes.Buffer
	data          uint64
}

func put(b *bytes.Buffer, vs ...any) {
	for _, v := range vs {
		if s, ok := v.(string); ok {
			put(b, uint64(len(s)))
			b.WriteString(s)
			continue
		}
		binary.Write(b, binary.LittleEndian, v) // into memory: never fails
	}
}

// set writes a key. The type follows from v; of a list, from its first element.
func (g *gguf) set(key string, v any) *gguf {
	g.keys++
	put(&g.pairs, key)
	switch v := v.(type) {
	case string:
		put(&g.pairs, uint32(8), v)
	case int:
		put(&g.pairs, uint32(4), uint32(v))
	case int32:
		put(&g.pairs, uint32(5), v)
	case uint64:
		put(&g.pairs, uint32(10), v)
	case float32:
		put(&g.pairs, uint32(6), v)
	case bool:
		put(&g.pairs, uint32(7), v)
	case []bool:
		put(&g.pairs, uint32(9), uint32(7), uint64(len(v)))
		put(&g.pairs, v)
	case []int32:
		put(&g.pairs, uint32(9), uint32(5), uint64(len(v)))
		put(&g.pairs, v)
	case []string:
		put(&g.pairs, uint32(9), uint32(8), uint64(len(v)))
		for _, s := range v {
			put(&g.pairs, s)
		}
	case []byte: // as it is
		g.pairs.Write(v)
	}
	return g
}

// tensor adds a tensor behind the last one.
func (g *gguf) tensor(name string, id uint32, shape ...uint64) *gguf {
	g.tensors++
	put(&g.infos, name, uint32(len(shape)))
	for _, d := range shape {
		put(&g.infos, d)
	}
	put(&g.infos, id, g.data)
	for _, t := range tensorTypes {
		if size, ok := t.size(shape); ok && t.id == id {
			g.data += (uint64(size) + 31) / 32 * 32
		}
	}
	return g
}

// header is all before the weights, size that of the file.
func (g *gguf) header() (head []byte, size Bytes) {
	return g.raw(3, uint64(g.tensors), uint64(g.keys))
}

func (g *gguf) raw(version uint32, tensors, keys uint64) (head []byte, size Bytes) {
	var b bytes.Buffer
	b.WriteString("GGUF")
	put(&b, version, tensors, keys)
	b.Write(g.pairs.Bytes())
	b.Write(g.infos.Bytes())
	for b.Len()%32 != 0 {
		b.WriteByte(0)
	}
	return b.Bytes(), Bytes(b.Len()) + Bytes(g.data)
}

// arch begins a file with keys of an architecture.
func arch(name string, pairs ...any) *gguf {
	g := (&gguf{}).set("general.architecture", name).set("general.name", "Test 7B")
	for i := 0; i < len(pairs); i += 2 {
		g.set(name+"."+pairs[i].(string), pairs[i+1])
	}
	return g
}

// small is a file in which everything is told.
func small() *gguf {
	return arch("llama", "block_count", 2, "embedding_length", 512, "feed_forward_length", 1024, "context_length", 4096,
		"attention.head_count", 8, "attention.head_count_kv", 2, "attention.key_length", 64, "attention.value_length", 64).
		set("tokenizer.chat_template", strings.Repeat("{{ x }}", 200)).
		set("tokenizer.ggml.tokens", strings.Fields(strings.Repeat("token ", 400))).
		set("tokenizer.ggml.scores", make([]int32, 400)).
		set("general.file_type", 15).
		tensor("token_embd.weight", 14, 512, 400).tensor("output_norm.weight", 0, 512).
		tensor("blk.0.ffn_down.weight", 12, 1024, 512).tensor("blk.1.ffn_down.weight", 12, 1024, 512)
}

func TestFromGGUF(t *testing.T) {
	head, size := small().header()
	c, whole, err := FromGGUF(head, size)
	if err != nil || !whole {
		t.Fatalf("FromGGUF = whole %v, %v, want true", whole, err)
	}
	want := Bytes(512*400/256*210 + 512*4 + 2*512*1024/256*144)
	if c.WeightsBytes == nil || *c.WeightsBytes != want || c.WeightsSource != FromFile || c.Quant != "Q4_K_M" || !c.OnBox {
		t.Errorf("weights %v from %q, quant %q, want %d from file, Q4_K_M", c.WeightsBytes, c.WeightsSource, c.Quant, want)
	}
	m := c.Model
	if m.Vocab != 400 || m.Layers != 2 || m.KVHeads != 2 || m.HeadK != 64 || m.Context != 4096 || m.Kind != KindFull || m.Name != "Test 7B" {
		t.Errorf("model %+v", m)
	}
	if want := float64(512*400+512+2*512*1024) / 1e9; math.Abs(m.ParamsB-want) > 1e-12 {
		t.Errorf("%v billion parameters, want %v", m.ParamsB, want)
	}
	if r, err := Check(Ask{Model: m, Quant: c.Quant, Context: 1024, WeightsBytes: c.WeightsBytes}); err != nil || r.KV == nil || *r.KV != 2*1024*2*(64+64)*2 {
		t.Errorf("Check = %+v, %v", r, err)
	}

	// The same by version 2, of which only the number differs.
	v2, _ := small().raw(2, 4, uint64(small().keys))
	if d, whole, err := FromGGUF(v2, size); err != nil || !whole || *d.WeightsBytes != want {
		t.Errorf("version 2: whole %v, %v", whole, err)
	}
	// A size that is not known is none that contradicts.
	if d, whole, err := FromGGUF(head, 0); err != nil || !whole || *d.WeightsBytes != want {
		t.Errorf("no size: whole %v, %v", whole, err)
	}
}

// A head that is cut at any byte gives what is known, and an upper bound.
func TestFromGGUFCut(t *testing.T) {
	head, size := small().header()
	tokens := bytes.Index(head, []byte("tokenizer.ggml.tokens"))
	end := bytes.LastIndex(head, []byte("blk.1.ffn_down.weight")) + len("blk.1.ffn_down.weight") + 4 + 2*8 + 4 + 8
	for n := range len(head) {
		c, whole, err := FromGGUF(head[:n], size)
		if n < 24 {
			if err == nil {
				t.Fatalf("%d bytes: no error", n)
			}
			continue
		}
		if err != nil || whole != (n >= end) {
			t.Fatalf("%d of %d bytes: whole %v, %v", n, end, whole, err)
		}
		if !whole && (c.WeightsBytes == nil || *c.WeightsBytes != size) {
			t.Fatalf("%d bytes: weights %v, want %d", n, c.WeightsBytes, size)
		}
		switch known := c.Model.Kind != KindUnknown; {
		case n < tokens-1600 && known:
			t.Fatalf("%d bytes: kind %q", n, c.Model.Kind)
		case n > tokens+100 && (!known || c.Model.Vocab != 400):
			t.Fatalf("%d bytes: kind %q, vocabulary %d", n, c.Model.Kind, c.Model.Vocab)
		}
	}
	if c, whole, err := FromGGUF(head[:200], 0); err != nil || whole || c.WeightsBytes != nil || c.Model.Arch != "llama" || c.Model.Name != "Test 7B" {
		t.Errorf("cut, no size: %+v, %v, %v", c, whole, err)
	}
}

// The caches that are easily counted wrong, from headers: compressed rows, layers
// of experts alone, windows.
func TestFromGGUFCaches(t *testing.T) {
	const pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
	kv, ff := make([]int32, len(pattern)), make([]int32, len(pattern))
	for i, c := range pattern {
		switch c {
		case '*':
			kv[i] = 2
		case 'E':
			ff[i] = 1856
		}
	}
	swa, swaKV := make([]bool, 60), make([]int32, 60)
	for i := range swa {
		swa[i] = i%6 != 5
		swaKV[i] = map[bool]int32{true: 16, false: 4}[swa[i]]
	}
	for _, c := range []struct {
		name string
		g    *gguf
		ctx  int
		want float64 // MiB of cache and state
	}{
		{"DeepSeek-V3", arch("deepseek2", "block_count", 61, "embedding_length", 7168, "attention.head_count", 128, "attention.head_count_kv", 1,
			"attention.key_length", 576, "attention.value_length", 512, "attention.key_length_mla", 192, "attention.value_length_mla", 128,
			"attention.kv_lora_rank", 512, "context_length", 163840), 16384, 1098},
		{"Qwen3-30B-A3B", arch("qwen3moe", "block_count", 48, "embedding_length", 2048, "attention.head_count", 32, "attention.head_count_kv", 4,
			"attention.key_length", 128, "attention.value_length", 128, "expert_feed_forward_length", 768, "expert_used_count", 8, "context_length", 262144), 32768, 3072},
		{"Nemotron-3-Nano", arch("nemotron_h_moe", "block_count", 52, "embedding_length", 2688, "attention.head_count", 32, "attention.head_count_kv", kv,
			"feed_forward_length", ff, "attention.key_length", 128, "attention.value_length", 128, "ssm.conv_kernel", 4, "ssm.inner_size", 4096,
			"ssm.state_size", 128, "ssm.group_count", 8, "context_length", 1<<20), 131072, 815.6},
		{"gemma-3-27b", arch("gemma3", "block_count", 62, "embedding_length", 5376, "attention.head_count", 32, "attention.head_count_kv", 16,
			"attention.key_length", 128, "attention.value_length", 128, "attention.sliding_window", 1024, "context_length", 131072), 32768, 3184},
		{"Gemma-4-31B", arch("gemma4", "block_count", 60, "embedding_length", 5376, "attention.head_count", 32, "attention.head_count_kv", swaKV,
			"attention.key_length", 512, "attention.value_length", 512, "attention.key_length_swa", 256, "attention.value_length_swa", 256,
			"attention.sliding_window", 1024, "attention.sliding_window_pattern", swa, "context_length", 262144), 131072, 11440},
		{"gpt-oss-20b", arch("gpt-oss", "block_count", 24, "embedding_length", 2880, "attention.head_count", 64, "attention.head_count_kv", 8,
			"attention.key_length", 64, "attention.value_length", 64, "attention.sliding_window", 128, "context_length", 131072), 131072, 3090},
	} {
		head, size := c.g.tensor("token_embd.weight", 0, 64).header()
		got, whole, err := FromGGUF(head, size)
		if err != nil || !whole {
			t.Errorf("%s: whole %v, %v", c.name, whole, err)
			continue
		}
		r, err := Check(Ask{Model: got.Model, Context: c.ctx, Engine: "llama-server", UBatch: 512, WeightsBytes: got.WeightsBytes})
		if err != nil || r.KV == nil || r.State == nil {
			t.Errorf("%s: Check = %+v, %v", c.name, r, err)
			continue
		}
		if mib := float64(*r.KV+*r.State) / float64(MiB); math.Abs(mib-c.want) > 0.1 {
			t.Errorf("%s at %d: %.2f MiB, want %v", c.name, c.ctx, mib, c.want)
		}
	}
}

func TestFromGGUFTypes(t *testing.T) {
	for id, want := range map[uint32]string{12: "Q4_K_M", 8: "Q8_0", 30: "BF16", 39: "MXFP4", 4: "MXFP4", 22: "IQ2_S", 15: ""} {
		head, size := arch("llama", "block_count", 1).tensor("a", id, 256, 64).tensor("b", 0, 8).header()
		if c, whole, err := FromGGUF(head, size); err != nil || !whole || c.Quant != want {
			t.Errorf("type %d: quant %q, whole %v, %v, want %q", id, c.Quant, whole, err, want)
		}
	}
	// Of a fork's types neither size nor quantization are known, but the file's size is.
	head, size := arch("llama", "block_count", 1).tensor("a", 137, 256, 64).tensor("b", 0, 8).header()
	if c, whole, err := FromGGUF(head, size+10000); err != nil || whole || *c.WeightsBytes != size+10000 || c.Quant != "" {
		t.Errorf("type 137: %+v, %v, %v", c, whole, err)
	}
	// The first part of a split file lists its own tensors only.
	head, _ = small().set("split.count", 3).header()
	if c, whole, err := FromGGUF(head, 50*GiB); err != nil || whole || *c.WeightsBytes != 50*GiB || c.Model.Kind != KindFull {
		t.Errorf("split: %+v, %v, %v", c, whole, err)
	}
	head, _ = arch("llama", "block_count", 1).set("split.count", 3).header()
	if _, whole, err := FromGGUF(head, 50*GiB); err != nil || whole {
		t.Errorf("split, no tensors in the first part: whole %v, %v", whole, err)
	}
}

func TestFromGGUFErrors(t *testing.T) {
	key := func(b ...any) []byte { var w bytes.Buffer; put(&w, b...); return w.Bytes() }
	big := uint64(1) << 60
	file := func(g *gguf) []byte { head, _ := g.header(); return head }
	counts := func(tensors, keys uint64) []byte { head, _ := small().raw(3, tensors, keys); return head }
	far := arch("llama", "block_count", 1)
	far.data = math.MaxUint64 - 5
	far.tensor("a", 0, 8)
	version := func(v uint32) []byte { head, _ := small().raw(v, 1, 1); return head }
	for name, c := range map[string]struct {
		head []byte
		says string
	}{
		"empty":             {nil, "only 0 bytes"},
		"html":              {[]byte("<!doctype html><html></html>"), `not a GGUF file: it begins with "<!do"`},
		"escape":            {[]byte("\x1b[2Jxxxxxxxxxxxxxxxxxxxxxxxx"), `\x1b[2`},
		"version 1":         {version(1), "version 1"},
		"big endian":        {version(3 << 24), "big endian"},
		"version 77":        {version(77), "version 77"},
		"keys":              {counts(1, big), "1152921504606846976 keys"},
		"tensors":           {counts(big, uint64(small().keys)), "1152921504606846976 tensors"},
		"no tensors":        {file(arch("llama", "block_count", 1)), "no tensors"},
		"empty tensors":     {file(arch("llama", "block_count", 1).tensor("a", 0, 0)), "are empty"},
		"long key":          {file(&gguf{keys: 1, pairs: *bytes.NewBuffer(key(big, "x"))}), "a key has 1152921504606846976 bytes"},
		"long text":         {file((&gguf{}).set("general.architecture", key(uint32(8), big))), "general.architecture has 1152921504606846976 bytes"},
		"many numbers":      {file((&gguf{}).set("a.b", key(uint32(9), uint32(4), big*8))), "list of 9223372036854775808 numbers"},
		"many texts":        {file((&gguf{}).set("a.b", key(uint32(9), uint32(8), big*8))), "list of 9223372036854775808 texts"},
		"lists of lists":    {file((&gguf{}).set("a.b", key(uint32(9), uint32(9), uint64(1)))), "a list of lists"},
		"type of value":     {file((&gguf{}).set("a.b", key(uint32(13)))), "type 13"},
		"type of list":      {file((&gguf{}).set("a.b", key(uint32(9), uint32(99), uint64(1)))), "type 99"},
		"no architecture":   {file((&gguf{}).set("general.name", "x").tensor("a", 0, 8)), "general.architecture is missing"},
		"blocks below zero": {file(arch("llama", "block_count", int32(-1)).tensor("a", 0, 8)), "block_count is missing or out of range"},
		"blocks":            {file(arch("llama", "block_count", 1<<31).tensor("a", 0, 8)), "block_count is missing or out of range"},
		"width":             {file(arch("llama", "block_count", 1, "embedding_length", uint64(1)<<49, "attention.head_count", 1).tensor("a", 0, 8)), "out of range"},
		"dimensions":        {file(arch("llama", "block_count", 1).tensor("a", 0, 1, 1, 1, 1, 1)), "5 dimensions"},
		"shape":             {file(arch("llama", "block_count", 1).tensor("a\x1b[31mb", 0, big, big)), "tensor a[31mb is said to be"},
		"offset":            {file(far), "begin at byte"},
	} {
		size := max(Bytes(len(c.head)), 4096) + 1<<20
		_, _, err := FromGGUF(c.head, size)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
	// A file that ends before its tensors do was not downloaded to its end.
	head, size := small().header()
	for _, less := range []Bytes{1, size - Bytes(len(head))} {
		var bad *GGUFError
		if _, _, err := FromGGUF(head, size-less); !errors.As(err, &bad) || !strings.Contains(bad.What, "not all there") {
			t.Errorf("%d bytes too short: %v", less, err)
		}
	}
	// And one that ends within its header even less so.
	if _, _, err := FromGGUF(head[:300], 300); err == nil {
		t.Error("a file of 300 bytes that goes on: no error")
	}
}

func TestTensorBytes(t *testing.T) {
	for _, c := range []struct {
		typ   string
		shape []uint64
		want  Bytes
		ok    bool
	}{
		{"F32", []uint64{5}, 20, true}, {"f16", []uint64{3, 5}, 30, true}, {"Q4_K", []uint64{256, 2}, 288, true},
		{"Q8_0", []uint64{32, 10, 2}, 680, true}, {"MXFP4", []uint64{2880, 2880, 32}, 2880 / 32 * 17 * 2880 * 32, true},
		{"F32", nil, 4, true}, {"Q4_K", nil, 0, false}, {"Q4_K", []uint64{100}, 0, false}, {"F32", []uint64{0}, 0, true},
		{"unknown", []uint64{32}, 0, false}, {"", []uint64{32}, 0, false},
		{"F32", []uint64{1 << 62, 1}, 0, false}, {"I8", []uint64{1 << 62, 1 << 62}, 0, false}, {"I8", []uint64{math.MaxUint64}, 0, false},
	} {
		if got, ok := TensorBytes(c.typ, c.shape); ok != c.ok || ok && got != c.want {
			t.Errorf("TensorBytes(%q, %v) = %d, %v, want %d, %v", c.typ, c.shape, got, ok, c.want, c.ok)
		}
	}
	// Each name is one that has its bits: what a file of that type takes is a little more.
	for _, typ := range tensorTypes {
		if q, ok := quantTypes[typ.name]; ok {
			if per := float64(typ.bytes*8) / float64(typ.block); math.Abs(per-q.bits) > 0.8 {
				t.Errorf("%s: %v bits a weight, and %v in a file", typ.name, per, q.bits)
			}
		}
	}
	for _, name := range ggufFileTypes {
		if _, ok := quantTypes[name]; !ok {
			t.Errorf("file type %s: its bits are not known", name)
		}
	}
}

// A header cannot make us allocate more than it is long.
func TestFromGGUFAllocates(t *testing.T) {
	g := arch("llama", "block_count", 1)
	for i := range 2000 {
		g.set(fmt.Sprintf("k%d", i), make([]int32, 200))
	}
	head, size := g.tensor("a", 0, 8).header()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, _, err := FromGGUF(head, size); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	got := after.TotalAlloc - before.TotalAlloc
	if most := uint64(3 * len(head)); got > most { // each number of four bytes is kept as one of 24
		t.Errorf("%d bytes for a header of %d, want at most %d", got, len(head), most)
	}
}
