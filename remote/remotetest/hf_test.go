package remotetest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// The checkpoint is the same each time, and its head says where each tensor lies.
func TestWriteCheckpoint(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := WriteCheckpoint(dir); err != nil {
			t.Fatal(err)
		}
	}
	anew, err := makeCheckpoint()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"} {
		one, err := os.ReadFile(filepath.Join(a, name))
		if err != nil {
			t.Fatal(err)
		}
		if two, err := os.ReadFile(filepath.Join(b, name)); err != nil || !bytes.Equal(one, two) || !bytes.Equal(one, anew[name]) {
			t.Errorf("%s is another each time, %v", name, err)
		}
	}
	file, err := os.ReadFile(filepath.Join(a, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	size := binary.LittleEndian.Uint64(file)
	var head map[string]struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets []int  `json:"data_offsets"`
	}
	if err := json.Unmarshal(file[8:8+size], &head); err != nil {
		t.Fatal(err)
	}
	delete(head, "__metadata__")
	total := 0
	for name, h := range head {
		n := 2
		for _, d := range h.Shape {
			n *= d
		}
		if h.DType != "BF16" || len(h.Offsets) != 2 || h.Offsets[1]-h.Offsets[0] != n {
			t.Errorf("%s is %+v", name, h)
		}
		total += n
	}
	if want := len(file) - 8 - int(size); total != want {
		t.Errorf("the tensors have %d bytes, the file %d", total, want)
	}
}
