package fit

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func coder(t *testing.T) Model {
	t.Helper()
	m, err := Find("qwen3-coder:30b")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The screen of `rlca fit`, by hand: 17.3 + 12.0 + buffers + 0.5.
func TestCheck(t *testing.T) {
	budget := scale(GiB, 101.2)
	size := Bytes(18556689568)
	r, err := Check(Ask{Model: coder(t), Quant: "Q4_K_M", Context: 131072, WeightsBytes: &size, Budget: &budget, GPU: true, EngineVersion: "0.32.9"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Weights.String() != "17.3 GiB" || r.KV.String() != "12.0 GiB" || *r.KVPerToken != 98304 || *r.State != 0 || r.Reserve.String() != "0.5 GiB" {
		t.Errorf("Check = weights %v, KV %v (%v a token), state %v, reserve %v", r.Weights, r.KV, *r.KVPerToken, r.State, r.Reserve)
	}
	if r.Total.GiB() < 30.2 || r.Total.GiB() > 31.2 || r.Verdict != Fits || *r.MaxContext != 262144 || r.Source != FromFile || *r.ErrorBand != 0.01 {
		t.Errorf("Check = total %v, %q up to %d, from %q ± %v", r.Total, r.Verdict, *r.MaxContext, r.Source, *r.ErrorBand)
	}
	if sum := *r.Weights + *r.KV + *r.State + *r.Compute + *r.Reserve; sum != *r.Total {
		t.Errorf("parts sum up to %d, total is %d", sum, *r.Total)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		need, budget Bytes
		want         Verdict
	}{
		{94, 100, Fits}, {95, 100, Fits}, {96, 100, Tight}, {100, 100, Tight}, {101, 100, No}, {1, 0, No},
	} {
		if got := verdict(c.need, &c.budget); got != c.want {
			t.Errorf("verdict(%d of %d) = %q, want %q", c.need, c.budget, got, c.want)
		}
	}
}

func TestContextZero(t *testing.T) {
	m := coder(t)
	for _, c := range []struct {
		gib  float64
		want func(Result) bool
		says string
	}{
		{120, func(r Result) bool { return r.Context == 262144 && r.Verdict == Fits }, "its own limit, fits"},
		{25, func(r Result) bool { return r.Context > 65536 && r.Context < 81920 && r.Verdict == Tight }, "some 70k, tight"},
		{16, func(r Result) bool { return *r.MaxContext == 0 && r.Verdict == No && r.Total.GiB() > 17 }, "no, and what the least needs"},
	} {
		budget := scale(GiB, c.gib)
		r, err := Check(Ask{Model: m, Budget: &budget, GPU: true})
		if err != nil || !c.want(r) {
			t.Errorf("Check(the most in %v GiB) = %d tokens, %q, %v, %v, want %s", c.gib, r.Context, r.Verdict, r.Total, err, c.says)
		}
	}
	r, err := Check(Ask{Model: m})
	if err != nil || r.Context != 262144 || r.Verdict != "" || r.MaxContext != nil {
		t.Errorf("Check without a budget = %d tokens, %q, %v, want the model's own limit and no verdict", r.Context, r.Verdict, err)
	}
	m.Context = 0
	if _, err := Check(Ask{Model: m}); err == nil {
		t.Error("Check without budget, context and limit gave no error")
	}
}

func TestCheckErrors(t *testing.T) {
	m, below, none := coder(t), Bytes(-1), Bytes(0)
	for _, c := range []struct {
		ask  Ask
		says string
	}{
		{Ask{Model: m, Context: -1}, "context -1"},
		{Ask{Model: m, Context: 262145}, "its own limit is 256k"},
		{Ask{Model: m, Parallel: -1}, "parallel -1"},
		{Ask{Model: m, Devices: -1}, "devices -1"},
		{Ask{Model: m, UBatch: -1}, "ubatch -1"},
		{Ask{Model: m, Budget: &below}, "budget of -1"},
		{Ask{Model: m, WeightsBytes: &none}, "weights of 0"},
		{Ask{Model: m, Quant: "Q9_Z"}, `quantization "Q9_Z"`},
		{Ask{Model: m, Engine: "vllm"}, `engine "vllm"`},
		{Ask{Model: Model{Name: "x", Kind: KindFull}}, "weights of x"},
		{Ask{Model: Model{Name: "x", ParamsB: -1}}, "out of range"},
		{Ask{Model: Model{Name: "x", ParamsB: 1, Layers: 1 << 40}}, "out of range"},
	} {
		if _, err := Check(c.ask); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Check: %v, want an error that says %q", err, c.says)
		}
	}
	_, err := Check(Ask{Model: m, Context: 300000})
	var far *ContextError
	if !errors.As(err, &far) || far.Limit != 262144 || far.Want != 300000 {
		t.Errorf("Check over the limit: %v, want a *ContextError", err)
	}
}

func TestUnknownCache(t *testing.T) {
	m, err := Find("deepseek-v4-flash")
	if err != nil {
		t.Fatal(err)
	}
	budget := 200 * GiB
	r, err := Check(Ask{Model: m, Context: 65536, Budget: &budget, GPU: true})
	if err != nil || r.KV != nil || r.MaxContext != nil || *r.ErrorBand < 0.3 || r.Verdict != No || len(r.Notes) == 0 {
		t.Errorf("Check(%s) = KV %v, %q ± %v, notes %q, %v, want the plain rule", m.Label(), r.KV, r.Verdict, r.ErrorBand, r.Notes, err)
	}
	if got, want := *r.Total, scale(*r.Weights, 1/0.65); got != want {
		t.Errorf("Check(%s) = total %v, want weights / 0.65 = %v", m.Label(), got, want)
	}
}

func TestResultJSON(t *testing.T) {
	keys := func(r Result) map[string]any {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	r, err := Check(Ask{Model: coder(t), Context: 65536})
	if err != nil {
		t.Fatal(err)
	}
	got := keys(r)
	for _, k := range strings.Fields("model quant context parallel weights_bytes kv_bytes state_bytes compute_bytes reserve_bytes total_bytes budget_bytes verdict max_context source error_band") {
		v, ok := got[k]
		if unknown := k == "budget_bytes" || k == "verdict" || k == "max_context"; !ok || (v == nil) != unknown {
			t.Errorf("%s = %v, present %v; null only without a budget", k, v, ok)
		}
	}
	if got["source"] != "catalog" || got["kv_bytes"] != float64(6<<30) {
		t.Errorf("source %v, kv_bytes %v, want catalog and %d", got["source"], got["kv_bytes"], 6<<30)
	}
	if empty := keys(Result{}); empty["kv_bytes"] != nil || empty["source"] != nil {
		t.Errorf("what is not known is %v and %v, want null", empty["kv_bytes"], empty["source"])
	}
}

// Every model of the catalog, at random settings: need grows with the context,
// nothing is below zero, and the longest context that fits is really that.
func TestProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	kvs := []string{"f16", "q8_0", "q4_0", "q8_0/f16"}
	for _, m := range Catalog() {
		for range 20 {
			ask := Ask{Model: m, GPU: rnd.IntN(2) == 0, Parallel: 1 + rnd.IntN(4), Devices: 1 + rnd.IntN(3), KVType: kvs[rnd.IntN(len(kvs))],
				EngineVersion: []string{"", "0.17.4", "0.0.0", "0.31.0"}[rnd.IntN(4)], Unified: rnd.IntN(4) == 0, NoFlash: rnd.IntN(4) == 0}
			grows(t, ask)
			least, err := Check(func() Ask { a := ask; a.Context = 256; return a }())
			if err != nil {
				t.Fatal(err)
			}
			budget := *least.Total + Bytes(rnd.Int64N(int64(64*GiB)))
			ask.Budget = &budget
			mostFits(t, ask)
		}
	}
}

func grows(t *testing.T, ask Ask) {
	t.Helper()
	var last Bytes
	for ctx := 1; ctx <= ask.Model.Context; ctx = ctx*2 + 77 {
		ask.Context = ctx
		r, err := Check(ask)
		if err != nil {
			t.Fatalf("Check(%s at %d): %v", ask.Model.Label(), ctx, err)
		}
		if *r.Total < last || *r.Total < *r.Weights || *r.Weights <= 0 {
			t.Errorf("Check(%s at %d) = %d, less than %d at a shorter context", ask.Model.Label(), ctx, *r.Total, last)
		}
		last = *r.Total
	}
}

func mostFits(t *testing.T, ask Ask) {
	t.Helper()
	r, err := Check(ask)
	if err != nil {
		t.Fatalf("Check(%s): %v", ask.Model.Label(), err)
	}
	if r.MaxContext == nil {
		return // its cache is not known
	}
	most := *r.MaxContext
	ask.Context = most
	if r, err = Check(ask); most == 0 || err != nil || !r.Verdict.OK() {
		t.Errorf("Check(%s at its most, %d, in %v) = %q, %v", ask.Model.Label(), most, ask.Budget, r.Verdict, err)
	}
	if ask.Context += contextStep; ask.Context > ask.Model.Context {
		return
	}
	if r, err = Check(ask); err != nil || r.Verdict.OK() {
		t.Errorf("Check(%s at 256 more than its most, %d, in %v) = %q, %v, want no", ask.Model.Label(), ask.Context, ask.Budget, r.Verdict, err)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(48, 2048, 6144, 4, 128, 262144, 30.5, 65536, 1, int64(32<<30), "q8_0", "0.30.0", true)
	f.Add(1<<16, 1<<28, 1<<28, 1<<16, 1<<16, 1<<28, 1e5, 1<<24, 4096, int64(1)<<62, "f32", "", false)
	f.Fuzz(func(t *testing.T, layers, hidden, ff, kvHeads, head, limit int, params float64, ctx, parallel int, budget int64, kv, version string, gpu bool) {
		b := Bytes(budget)
		m := Model{Kind: KindFull, Layers: layers, Hidden: hidden, FF: ff, KVHeads: kvHeads, HeadK: head, HeadV: head, Context: limit, ParamsB: params, Vocab: hidden}
		ask := Ask{Model: m, Context: ctx, Parallel: parallel, Budget: &b, KVType: kv, EngineVersion: version, GPU: gpu, Devices: parallel,
			Unified: layers%2 == 1, FullWindow: layers%3 == 1, NoFlash: layers%5 == 1}
		if head%2 == 1 {
			ask.Devices, ask.Cards = 0, []Bytes{b / 3, b - b/3}
		}
		r, err := Check(ask)
		if err != nil {
			return
		}
		for _, part := range []*Bytes{r.Weights, r.KV, r.State, r.Compute, r.Reserve, r.Total} {
			if part != nil && (*part < 0 || *part > *r.Total) {
				t.Errorf("Check(%+v) has a part of %d bytes of %d", m, *part, *r.Total)
			}
		}
		if r.Verdict.OK() && *r.Total > b {
			t.Errorf("Check(%+v) = %q with %d of %d", m, r.Verdict, *r.Total, b)
		}
	})
}
