package fit

import "testing"

func FuzzFromGGUF(f *testing.F) {
	head, size := small().header()
	f.Add(head, int64(size))
	f.Add(head[:400], int64(0))
	f.Add([]byte("GGUF\x03\x00\x00\x00"), int64(1))
	head, size = arch("gemma4", "block_count", 3, "embedding_length", 64, "attention.head_count", 4, "attention.head_count_kv", []int32{1, 2, 1},
		"attention.sliding_window", 8, "attention.sliding_window_pattern", []bool{true, false, true}).tensor("a", 39, 64).header()
	f.Add(head, int64(size))
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		c, whole, err := FromGGUF(head, Bytes(size))
		if err != nil {
			return
		}
		if whole && c.WeightsBytes == nil || c.WeightsBytes != nil && (*c.WeightsBytes <= 0 && !whole || size > 0 && *c.WeightsBytes > Bytes(size)) {
			t.Errorf("weights %v of %d, whole %v", c.WeightsBytes, size, whole)
		}
		priced(t, c)
	})
}

func FuzzFromConfig(f *testing.F) {
	for _, text := range configs {
		f.Add([]byte(text), []byte(`{"metadata":{"total_size":16381470720}}`), int64(0))
	}
	f.Add([]byte(`{"num_hidden_layers":NaN,"text_config":{}}`), []byte(`{"weight_map":{}`), int64(5))
	f.Fuzz(func(t *testing.T, config, index []byte, files int64) {
		if c, err := FromConfig(config, index, Bytes(files)); err == nil {
			if c.WeightsBytes != nil && *c.WeightsBytes <= 0 {
				t.Errorf("weights %v", *c.WeightsBytes)
			}
			priced(t, c)
		}
	})
}

// priced checks that a model that was read can be priced.
func priced(t *testing.T, c Candidate) {
	t.Helper()
	r, err := Check(Ask{Model: c.Model, Quant: c.Quant, Context: 512, WeightsBytes: c.WeightsBytes, Parallel: 2, GPU: true})
	if err == nil && (*r.Total < 0 || r.KV != nil && (*r.KV < 0 || *r.State < 0)) {
		t.Errorf("Check of %+v = total %d, KV %v", c, *r.Total, r.KV)
	}
}
