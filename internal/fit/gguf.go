package fit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// GGUFError says what is wrong with the header of a GGUF file, or that it is
// no such file.
type GGUFError struct{ What string }

func (e *GGUFError) Error() string { return e.What }

func badGGUF(format string, args ...any) error {
	return &GGUFError{"header of a GGUF file: " + fmt.Sprintf(format, args...)}
}

// FromGGUF reads a model from the first bytes of its GGUF file, little endian,
// of version 2 or 3. head may be cut at any byte behind the first 24; size is
// that of the file, of all parts together if it is split, and 0 if it is not
// known.
//
// whole is true if head reached the end of the list of tensors: then the weights
// are their exact sum. Else they are size, which is an upper bound, or nil. That
// is so for a head that was cut, for the first part of several, which lists only
// its own tensors, and for tensors of a type that is not known. What head does
// not reach is not known: a cut before the end of the architecture's keys gives
// a Model of KindUnknown.
//
// A header that cannot be true is a *GGUFError, and so are tensors that come to
// more than size: such a file is not all there. Nothing is allocated by what a
// header says of itself.
func FromGGUF(head []byte, size Bytes) (c Candidate, whole bool, err error) {
	r := &ggufReader{head: head, size: max(size, 0), info: map[string]any{}, types: map[int]Bytes{}}
	if err := r.read(); err != nil && !errors.Is(err, errCut) {
		return Candidate{}, false, err
	}
	m, err := r.model()
	if err != nil {
		return Candidate{}, false, err
	}
	c = Candidate{Model: m, Quant: r.quant(), OnBox: true}
	whole = r.whole && !r.strange && whole64(r.info["split.count"]) <= 1
	switch {
	case whole:
		c.WeightsBytes, c.WeightsSource = &r.sum, FromFile
		if b := r.elements.GB(); c.Model.ParamsB == 0 && b < 1e6 {
			c.Model.ParamsB = b
		}
	case size > 0:
		c.WeightsBytes, c.WeightsSource = &size, FromFile
	}
	return c, whole, nil
}

// Limits of what a header may say. Real ones have some dozens of keys and some
// thousands of tensors.
const (
	ggufKeys    = 1 << 16
	ggufTensors = 1 << 20
	ggufDims    = 4
	ggufText    = 4096    // longer values are not kept: chat templates
	ggufList    = 4096    // nor longer lists: tokens
	ggufLists   = 1 << 16 // elements of all lists that are kept
)

// Types of values.
const (
	ggufBool, ggufString, ggufArray = 7, 8, 9
	ggufFloat32, ggufFloat64        = 6, 12
)

// ggufWidth is the size of a value of each type; 0 is none of fixed size.
var ggufWidth = [...]uint64{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}

// errCut says that head ended, as it may.
var errCut = errors.New("the header goes on")

// ggufReader goes through a header once.
type ggufReader struct {
	head []byte
	at   int
	size Bytes // 0: not known

	info     map[string]any
	kept     int  // elements of lists in info
	tokens   int  // in the vocabulary
	settled  bool // the keys of the architecture are complete
	whole    bool // the list of tensors is
	strange  bool // a tensor has a type that is not known
	sum      Bytes
	elements Bytes
	types    map[int]Bytes // bytes by index in tensorTypes
}

// take gives the next n bytes. errCut means that the file has them and head does
// not; a *GGUFError that the file cannot have them.
func (r *ggufReader) take(n uint64, what string) ([]byte, error) {
	if left := uint64(len(r.head) - r.at); n <= left {
		b := r.head[r.at : r.at+int(n)]
		r.at += int(n)
		return b, nil
	}
	top := uint64(r.size)
	if top == 0 {
		top = 1 << 50
	}
	if n > top || uint64(r.at)+n > top {
		return nil, badGGUF("%s has %d bytes, and the file ends before", what, n)
	}
	return nil, errCut
}

func (r *ggufReader) uint32(what string) (uint32, error) {
	b, err := r.take(4, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (r *ggufReader) uint64(what string) (uint64, error) {
	b, err := r.take(8, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (r *ggufReader) text(what string) ([]byte, error) {
	n, err := r.uint64(what)
	if err != nil {
		return nil, err
	}
	return r.take(n, what)
}

func (r *ggufReader) read() error {
	const magic = "GGUF"
	if n := min(len(r.head), len(magic)); string(r.head[:n]) != magic[:n] {
		return &GGUFError{fmt.Sprintf("not a GGUF file: it begins with %q", r.head[:n])}
	}
	if len(r.head) < 24 {
		return badGGUF("only %d bytes of it were read", len(r.head))
	}
	r.at = len(magic)
	version, _ := r.uint32("")
	switch {
	case version == 1:
		return badGGUF("version 1 is not read; today's engines do not either")
	case version != 2 && version != 3 && bits.ReverseBytes32(version) <= 3:
		return badGGUF("it is big endian, which is not read")
	case version != 2 && version != 3:
		return badGGUF("version %d is not known", version)
	}
	tensors, _ := r.uint64("")
	keys, _ := r.uint64("")
	// The least that a key and a tensor take.
	if err := r.plausible(keys, ggufKeys, 13, "keys"); err != nil {
		return err
	}
	if err := r.plausible(tensors, ggufTensors, 24, "tensors"); err != nil {
		return err
	}
	for range keys {
		if err := r.pair(); err != nil {
			return err
		}
	}
	r.settled = true
	if tensors == 0 && whole64(r.info["split.count"]) <= 1 {
		return badGGUF("it has no tensors: a vocabulary alone, or no model at all")
	}
	return r.tensors(int(tensors))
}

// plausible refuses a number of things that the file has no room for.
func (r *ggufReader) plausible(n, most, each uint64, things string) error {
	if n > most || r.size > 0 && n*each > uint64(r.size) {
		return badGGUF("it says that it has %d %s", n, things)
	}
	return nil
}

// pair reads a key and its value.
func (r *ggufReader) pair() error {
	b, err := r.text("a key")
	if err != nil {
		return err
	}
	if len(b) > ggufText {
		return badGGUF("a key of %d bytes", len(b))
	}
	key := string(b)
	if arch, _ := r.info["general.architecture"].(string); arch != "" && strings.HasPrefix(key, "tokenizer.") {
		_, known := r.info[arch+".block_count"]
		r.settled = r.settled || known // the tokenizer comes after the architecture, or both are sorted
	}
	kind, err := r.uint32(clean(key))
	if err != nil {
		return err
	}
	v, err := r.value(kind, key)
	if err != nil {
		return err
	}
	if v != nil {
		r.info[key] = v
	}
	return nil
}

// value reads a value as JSON would give it. Nil is one that is not kept.
func (r *ggufReader) value(kind uint32, key string) (any, error) {
	what := clean(key)
	switch {
	case kind == ggufString:
		b, err := r.text(what)
		if err != nil || len(b) > ggufText {
			return nil, err
		}
		return string(b), nil
	case kind == ggufArray:
		return r.list(key)
	case kind >= uint32(len(ggufWidth)):
		return nil, badGGUF("%s has a value of type %d, which is not known", what, kind)
	}
	b, err := r.take(ggufWidth[kind], what)
	if err != nil {
		return nil, err
	}
	return ggufNumber(kind, b), nil
}

func (r *ggufReader) list(key string) (any, error) {
	what := clean(key)
	kind, err := r.uint32(what)
	if err != nil {
		return nil, err
	}
	n, err := r.uint64(what)
	if err != nil {
		return nil, err
	}
	if key == "tokenizer.ggml.tokens" {
		r.tokens = int(min(n, math.MaxInt32)) // told before the tokens, which head may not reach
	}
	switch {
	case kind == ggufArray:
		return nil, badGGUF("%s is a list of lists", what)
	case kind == ggufString:
		if n > math.MaxInt64/8 {
			return nil, badGGUF("%s is a list of %d texts", what, n)
		}
		for range n { // each takes bytes of head, or ends it
			if _, err := r.text(what); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case kind >= uint32(len(ggufWidth)):
		return nil, badGGUF("%s is a list of type %d, which is not known", what, kind)
	}
	width := ggufWidth[kind]
	if n > math.MaxInt64/width {
		return nil, badGGUF("%s is a list of %d numbers", what, n)
	}
	b, err := r.take(n*width, what)
	if err != nil {
		return nil, err
	}
	if n > ggufList || r.kept+int(n) > ggufLists {
		return []any{}, nil // there, but not known
	}
	r.kept += int(n)
	out := make([]any, n)
	for i := range out {
		out[i] = ggufNumber(kind, b[uint64(i)*width:])
	}
	return out, nil
}

// ggufNumber reads a value of fixed size.
func ggufNumber(kind uint32, b []byte) any {
	le := binary.LittleEndian
	switch kind {
	case 0:
		return float64(b[0])
	case 1:
		return float64(int8(b[0]))
	case 2:
		return float64(le.Uint16(b))
	case 3:
		return float64(int16(le.Uint16(b)))
	case 4:
		return float64(le.Uint32(b))
	case 5:
		return float64(int32(le.Uint32(b)))
	case ggufFloat32:
		return float64(math.Float32frombits(le.Uint32(b)))
	case ggufBool:
		return b[0] != 0
	case 10:
		return float64(le.Uint64(b))
	case 11:
		return float64(int64(le.Uint64(b)))
	case ggufFloat64:
		return math.Float64frombits(le.Uint64(b))
	}
	return nil
}

// tensors reads the list of tensors and adds up what they weigh.
func (r *ggufReader) tensors(n int) error {
	var end Bytes // of the tensor that lies farthest behind
	for range n {
		b, err := r.text("the name of a tensor")
		if err != nil {
			return err
		}
		name := clean(string(b[:min(len(b), 64)]))
		dims, err := r.uint32(name)
		if err != nil {
			return err
		}
		if dims > ggufDims {
			return badGGUF("tensor %s has %d dimensions", name, dims)
		}
		var shape [ggufDims]uint64
		for i := range dims {
			if shape[i], err = r.uint64(name); err != nil {
				return err
			}
		}
		kind, err := r.uint32(name)
		if err != nil {
			return err
		}
		offset, err := r.uint64(name)
		if err != nil {
			return err
		}
		elements, ok := product(shape[:dims])
		if !ok {
			return badGGUF("tensor %s is said to be %v large", name, shape[:dims])
		}
		r.elements = add(r.elements, elements)
		i := slices.IndexFunc(tensorTypes, func(t tensorType) bool { return t.id == kind })
		var size Bytes
		if i >= 0 {
			size, ok = tensorTypes[i].size(shape[:dims])
		}
		if i < 0 || !ok {
			r.strange = true
			continue
		}
		if offset > math.MaxInt64/2 {
			return badGGUF("tensor %s is said to begin at byte %d", name, offset)
		}
		end = max(end, add(Bytes(offset), size))
		r.types[i] = add(r.types[i], size)
		r.sum = add(r.sum, size)
	}
	align := cmpNonZero(whole64(r.info["general.alignment"]), 32)
	start := (r.at + align - 1) / align * align
	need := max(add(end, Bytes(start)), r.sum)
	if r.size > 0 && need > r.size {
		return badGGUF("its tensors come to %d bytes, and the file has %d: it is not all there", need, r.size)
	}
	if n > 0 && r.sum == 0 && !r.strange {
		return badGGUF("its %d tensors are empty", n)
	}
	r.whole = true
	return nil
}

// model is what the keys say of the model.
func (r *ggufReader) model() (Model, error) {
	arch, _ := r.info["general.architecture"].(string)
	_, blocks := r.info[arch+".block_count"]
	if !r.settled && (arch == "" || !blocks) {
		name, _ := r.info["general.name"].(string)
		return Model{Name: clean(name), Arch: clean(arch), Source: "metadata", Kind: KindUnknown}, nil
	}
	if _, told := r.info[arch+".vocab_size"]; !told && r.tokens > 0 {
		r.info[arch+".vocab_size"] = float64(r.tokens)
	}
	m, err := FromMetadata(r.info)
	if !r.settled {
		m.Kind, m.groups = KindUnknown, nil // what decides about the cache may be missing
	}
	return m, err
}

// quant is the type of the file, else that of most of its bytes. Empty means
// that neither is known.
func (r *ggufReader) quant() string {
	if v, told := r.info["general.file_type"]; told {
		const guessed = 1024 // a flag that llama.cpp sets in memory
		if name, ok := ggufFileTypes[whole64(v)&^guessed]; ok {
			return name
		}
	}
	if !r.whole || r.strange {
		return ""
	}
	most, name := Bytes(0), ""
	for i, t := range tensorTypes { // in their order: one answer for one file
		if r.types[i] > most {
			most, name = r.types[i], t.name
		}
	}
	switch name {
	case "Q3_K", "Q4_K", "Q5_K":
		return name + "_M"
	}
	if _, ok := quantTypes[name]; !ok {
		return ""
	}
	return name
}

// whole64 reads a number; what is none is 0.
func whole64(v any) int { return max(whole(v), 0) }

// ggufFileTypes are the names of general.file_type (llama.cpp include/llama.h,
// enum llama_ftype); 4 is what Ollama writes for gpt-oss.
var ggufFileTypes = map[int]string{
	0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "MXFP4", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
	10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
	19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
	28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
}

// tensorType is how a tensor is stored: bytes for a block of elements.
type tensorType struct {
	name         string
	id           uint32 // in a GGUF file
	block, bytes uint64
}

// tensorTypes are those of ggml (ggml.h, ggml-common.h). 4 was Q4_2, which no
// GGUF file has; Ollama's own files of gpt-oss mean MXFP4.
var tensorTypes = []tensorType{
	{"F32", 0, 1, 4}, {"F16", 1, 1, 2}, {"BF16", 30, 1, 2}, {"F64", 28, 1, 8},
	{"I8", 24, 1, 1}, {"I16", 25, 1, 2}, {"I32", 26, 1, 4}, {"I64", 27, 1, 8},
	{"Q4_0", 2, 32, 18}, {"Q4_1", 3, 32, 20}, {"Q5_0", 6, 32, 22}, {"Q5_1", 7, 32, 24}, {"Q8_0", 8, 32, 34}, {"Q8_1", 9, 32, 36},
	{"Q2_K", 10, 256, 84}, {"Q3_K", 11, 256, 110}, {"Q4_K", 12, 256, 144}, {"Q5_K", 13, 256, 176}, {"Q6_K", 14, 256, 210}, {"Q8_K", 15, 256, 292},
	{"IQ2_XXS", 16, 256, 66}, {"IQ2_XS", 17, 256, 74}, {"IQ3_XXS", 18, 256, 98}, {"IQ1_S", 19, 256, 50}, {"IQ4_NL", 20, 32, 18},
	{"IQ3_S", 21, 256, 110}, {"IQ2_S", 22, 256, 82}, {"IQ4_XS", 23, 256, 136}, {"IQ1_M", 29, 256, 56},
	{"TQ1_0", 34, 256, 54}, {"TQ2_0", 35, 256, 66}, {"MXFP4", 39, 32, 17}, {"MXFP4", 4, 32, 17}, {"NVFP4", 40, 64, 36},
}

// TensorBytes is what a tensor of this type and shape weighs; the first number
// of the shape is the length of a row. typ is ggml's name, "Q4_K", as a GGUF
// file and Ollama's /api/show have it. False is a type that is not known, or a
// shape that no tensor of it has.
func TensorBytes(typ string, shape []uint64) (Bytes, bool) {
	typ = strings.ToUpper(clean(typ))
	i := slices.IndexFunc(tensorTypes, func(t tensorType) bool { return t.name == typ })
	if i < 0 {
		return 0, false
	}
	return tensorTypes[i].size(shape)
}

func (t tensorType) size(shape []uint64) (Bytes, bool) {
	n, ok := product(shape)
	if !ok || len(shape) > 0 && shape[0]%t.block != 0 || len(shape) == 0 && t.block > 1 {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(n)/t.block, t.bytes)
	return Bytes(lo), hi == 0 && lo <= math.MaxInt64
}

// product multiplies, and gives false for what no memory could hold.
func product(shape []uint64) (Bytes, bool) {
	n := uint64(1)
	for _, d := range shape {
		hi, lo := bits.Mul64(n, d)
		if hi != 0 || lo > math.MaxInt64 {
			return 0, false
		}
		n = lo
	}
	return Bytes(n), true
}
