package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
)

func TestPriceVLLM(t *testing.T) {
	const gib = int64(1) << 30
	catalog, err := fit.LoadCatalog("")
	if err != nil {
		t.Fatal(err)
	}
	spark := &probe.Report{
		OS: "linux", Pools: []probe.Pool{{ID: "unified", Kind: probe.Unified, TotalBytes: ptr(120 * gib), FreeBytes: ptr(110 * gib), BudgetBytes: ptr(102 * gib)}},
		Accelerators: []probe.Accelerator{{Vendor: "NVIDIA", Pool: ptr("unified"), State: "ok"}},
	}
	for name, c := range map[string]struct {
		report      *probe.Report
		model       string
		quant       string
		context     int
		verdict     fit.Verdict // empty: an error that has says
		utilization float64
		says        string
	}{
		"one card will do":        {twoCards(), "qwen3:8b", "", 16384, fit.Fits, 0.92, ""},
		"two cards for one model": {twoCards(), "qwen3:14b", "", 16384, fit.Fits, 0.87, "one of 2 GPUs"}, // one has 21 of 24 GiB free
		"too large for both":      {twoCards(), "qwen3:32b", "", 16384, fit.No, 0.87, ""},
		"unified":                 {spark, "qwen3:32b", "FP8", 32768, fit.Fits, 0.85, ""},
		"the default context":     {spark, "qwen3:8b", "", profiles.Default().Model.Context, fit.Fits, 0.85, ""},
		"no GPU":                  {&probe.Report{Pools: []probe.Pool{{ID: "host", Kind: probe.HostPool, TotalBytes: ptr(gib)}}}, "qwen3:8b", "", 4096, "", 0, "no GPU whose memory is known"},
		"beyond the model":        {spark, "qwen3:8b", "", 50000, "", 0, "its own limit is 40k"},
		"no such checkpoint":      {spark, "qwen3:8b", "Q4_K_M", 4096, "", 0, "want BF16, FP8"},
	} {
		s := &Survey{Report: c.report, catalog: catalog}
		m, err := catalog.Find(c.model)
		if err != nil {
			t.Fatal(err)
		}
		req := Request{}
		req.Profile.Model.Context = c.context
		p, err := s.vllm(fit.Candidate{Model: m, Quant: c.quant}, req)
		if c.verdict == "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
			}
			continue
		}
		if err != nil || p.Verdict != c.verdict || p.VLLM.Utilization != c.utilization || !strings.Contains(strings.Join(p.Notes, "\n"), c.says) {
			t.Errorf("%s: %+v, %v; want %s at %v", name, p.VLLM, err, c.verdict, c.utilization)
		}
	}
}

// llamaBox is a box on which a llama-server answers, and where no file can be read.
func llamaBox(t *testing.T, build string, slots int) remote.Box {
	t.Helper()
	mux := http.NewServeMux()
	say := func(path string, v any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) })
	}
	say("/v1/models", map[string]any{"data": []any{map[string]any{
		"id": "qwen3-8b", "owned_by": "llamacpp",
		"meta": map[string]any{"n_params": 8190735360, "size": 5027783488, "n_ctx_train": 40960, "n_embd": 4096, "n_vocab": 151936},
	}}})
	say("/props", map[string]any{
		"model_path": "/models/qwen3.gguf", "total_slots": slots, "build_info": build,
		"default_generation_settings": map[string]any{"n_ctx": 8192},
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return remote.Box{
		Run: func(context.Context, string) ([]byte, error) { return nil, errors.New("no shell here") },
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

// What a llama-server serves is priced from what it tells, where its file cannot be read.
func TestPriceServed(t *testing.T) {
	catalog, err := fit.LoadCatalog("")
	if err != nil {
		t.Fatal(err)
	}
	s := &Survey{Report: &probe.Report{Pools: []probe.Pool{{ID: "host", Kind: probe.HostPool}}}, catalog: catalog}
	req := Request{Profile: profiles.Default()}
	for _, slots := range []int{1, 4} {
		s.box = llamaBox(t, "b11434-7e4c0a9", slots)
		p, err := s.served(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		m, err := catalog.Find("qwen3-8b")
		if err != nil {
			t.Fatal(err)
		}
		size := fit.Bytes(5027783488)
		want, err := fit.Check(fit.Ask{Model: m, Context: 8192, Parallel: slots, WeightsBytes: &size, Engine: engineLlama, EngineVersion: "b11434"})
		if err != nil || p.Total == nil || *p.Total != *want.Total || p.Context != 8192 || p.Source != fit.FromAPI || p.Verdict != "" {
			t.Errorf("%d slots: %+v, %v; want %+v", slots, p.Result, err, want)
		}
		if told := fmt.Sprint(p.Notes); strings.Contains(told, "each slot") != (slots > 1) {
			t.Errorf("%d slots: notes %s", slots, told)
		}
	}
}

// Nothing is downloaded for a server that has its model, wherever that lies.
func TestFetchWhatIsServed(t *testing.T) {
	i := New(Request{MayPull: true}, slog.New(slog.DiscardHandler))
	s := &Survey{kind: engineVLLM, kept: true, Plan: remote.Plan{Model: "org/name"}}
	s.box.Run = func(context.Context, string) ([]byte, error) {
		t.Error("a script was run")
		return nil, errors.New("no")
	}
	if err := i.fetch(t.Context(), s, func(Event) {}); err != nil {
		t.Error(err)
	}
	s.kept = false
	s.box.Run = func(context.Context, string) ([]byte, error) { return nil, errors.New("no shell here") }
	if err := i.fetch(t.Context(), s, func(Event) {}); err == nil {
		t.Error("one that is not served was not fetched")
	}
}
