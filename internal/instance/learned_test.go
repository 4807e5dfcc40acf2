package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
	"rlca/tunnel"
)

func TestLedger(t *testing.T) {
	l := ledger(filepath.Join(t.TempDir(), "state", "loads.json"))
	if got, err := l.loads("a"); err != nil || got != nil {
		t.Fatalf("of a file that is not there: %v, %v", got, err)
	}
	var wg sync.WaitGroup
	for box := range 4 {
		for n := range maxLoads + 3 {
			wg.Go(func() {
				if err := l.add(fmt.Sprint("box", box), fit.Load{Model: fmt.Sprint("m", n), Context: 1 + n}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	got, err := l.loads("box2")
	if err != nil || len(got) != maxLoads {
		t.Fatalf("%d loads, %v", len(got), err)
	}
	if i, err := os.Stat(string(l)); err != nil || i.Mode().Perm()&0o077 != 0 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(string(l)), ".loads-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	for n := range maxBoxes + 5 {
		if err := l.add(fmt.Sprint("more", n), fit.Load{}); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := l.read(); err != nil || len(all) != maxBoxes || all[maxBoxes-1].Box != fmt.Sprint("more", maxBoxes+4) {
		t.Errorf("%d boxes, %v", len(all), err)
	}
	// One that somebody broke is named and left as it is.
	if err := os.WriteFile(string(l), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.loads("a"); err == nil || !strings.Contains(err.Error(), string(l)) {
		t.Errorf("a broken file: %v", err)
	}
	if err := l.add("a", fit.Load{}); err == nil {
		t.Error("a load was added to a broken file")
	}
	if text, _ := os.ReadFile(string(l)); string(text) != "[{" {
		t.Errorf("the broken file is now %q", text)
	}
	if err := ledger("").add("a", fit.Load{}); err != nil {
		t.Error(err)
	}
}

func TestBoxName(t *testing.T) {
	for want, target := range map[string]*tunnel.Target{
		"local":                 nil,
		"spark":                 {HostKeyAlias: "spark", HostName: "10.0.0.7", Port: 22},
		"10.0.0.7:22":           {HostName: "10.0.0.7", Port: 22, User: "me"},
		"bastion localhost:222": {HostName: "localhost", Port: 222, Jumps: []string{"bastion"}},
	} {
		if got := boxName(target); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// twoCards is a box with two cards of one maker and one of another.
func twoCards() *probe.Report {
	const gib = int64(1) << 30
	card := func(id, vendor string, budget int64) (probe.Pool, probe.Accelerator) {
		return probe.Pool{ID: id, Kind: probe.Dedicated, TotalBytes: ptr(24 * gib), FreeBytes: ptr(budget + gib), BudgetBytes: ptr(budget)}, probe.Accelerator{Vendor: vendor, Pool: ptr(id), State: "ok"}
	}
	r := &probe.Report{OS: "linux"}
	for _, c := range []struct {
		id, vendor string
		budget     int64
	}{{"gpu0", "NVIDIA", 22 * gib}, {"gpu1", "NVIDIA", 20 * gib}, {"gpu2", "AMD", 8 * gib}} {
		p, a := card(c.id, c.vendor, c.budget)
		r.Pools, r.Accelerators = append(r.Pools, p), append(r.Accelerators, a)
	}
	return r
}

func TestBudget(t *testing.T) {
	const gib = fit.Bytes(1) << 30
	s := &Survey{Report: twoCards()}
	if got := s.cards(); len(got) != 2 || got[0] != 22*gib || got[1] != 20*gib {
		t.Errorf("cards %v", got)
	}
	if got := s.budget(); got == nil || *got != 42*gib {
		t.Errorf("budget %v", got)
	}
	s.Report.Pools[1].Kind = probe.Partition
	if got := s.cards(); got != nil {
		t.Errorf("a card and a slice of another: %v", got)
	}
	if got := s.budget(); got == nil || *got != 22*gib {
		t.Errorf("budget beside a slice %v", got)
	}
	s.Report = &probe.Report{}
	if s.cards() != nil || s.budget() != nil {
		t.Error("a box of which nothing is known has a budget")
	}
}

func TestRepacks(t *testing.T) {
	amx := &probe.Report{OS: "linux", AMX: true, Pools: []probe.Pool{{ID: "host", Kind: probe.HostPool}}}
	gpu := twoCards()
	gpu.AMX = true
	for name, c := range map[string]struct {
		s    Survey
		want bool
	}{
		"a release":              {Survey{Report: amx, Running: &remote.Server{Version: "0.31.0"}}, true},
		"from source":            {Survey{Report: amx, Running: &remote.Server{Version: "0.17.4", FromSource: true}}, false},
		"from source, not run":   {Survey{Report: amx, idle: "0.17.4"}, false},
		"a release that is idle": {Survey{Report: amx}, true},
		"on a GPU":               {Survey{Report: gpu}, false},
		"without AMX":            {Survey{Report: &probe.Report{Pools: amx.Pools}}, false},
	} {
		if got := c.s.repacks(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What a load took is compared with what is predicted without any correction, and teaches the next prediction.
func TestLoad(t *testing.T) {
	req := Request{}
	req.Profile.Model.Context, req.Profile.Model.Parallel = 32768, 1
	m, err := fit.Find("qwen3-coder:30b")
	if err != nil {
		t.Fatal(err)
	}
	s := &Survey{Report: twoCards(), Running: &remote.Server{Version: "0.31.0"}, chosen: fit.Candidate{Model: m, Quant: "Q4_K_M"}}
	r, err := fit.Check(s.ask(s.chosen, req, s.budget()))
	if err != nil || !r.Verdict.OK() || r.Correction != nil {
		t.Fatalf("%+v, %v", r, err)
	}
	said := remote.Buffers{Weights: int64(*r.Weights), KV: int64(*r.KV), Compute: int64(*r.Compute) * 3 / 2}
	took := said.Total() + 600<<20
	server := &remote.Server{Model: remote.Loaded{Context: 32768}}
	load, ok := s.load(req, server, said, &took)
	if !ok || load.Actual.Reserve == nil || *load.Actual.Reserve != 600<<20 || load.Version != "0.31.0" || !load.GPU {
		t.Fatalf("%+v, %v", load, ok)
	}
	s.loads = []fit.Load{load}
	again, err := fit.Check(s.ask(s.chosen, req, s.budget()))
	if err != nil || again.Correction == nil || *again.Compute != fit.Bytes(said.Compute) || *again.Reserve != 600<<20 {
		t.Fatalf("corrected: %+v, %v", again, err)
	}
	// The correction is not learned upon itself.
	if load, _ = s.load(req, server, said, &took); load.Predicted.Compute != *r.Compute {
		t.Errorf("predicted %v after a correction, %v before", load.Predicted.Compute, *r.Compute)
	}
	// Another context than was loaded says nothing.
	server.Model.Context = 4096
	if _, ok := s.load(req, server, said, &took); ok {
		t.Error("a log of another context was taken")
	}
}

// The context that nobody asked for is cut to the model's own limit; one that somebody asked for is an error beyond it.
func TestCheckContext(t *testing.T) {
	m, err := fit.Find("qwen3:8b") // 40960 tokens
	if err != nil {
		t.Fatal(err)
	}
	if r, err := check(fit.Ask{Model: m, Context: profiles.Default().Model.Context}); err != nil || r.Context != 40960 {
		t.Errorf("the default: %d tokens, %v", r.Context, err)
	}
	var beyond *fit.ContextError
	if _, err := check(fit.Ask{Model: m, Context: 50000}); !errors.As(err, &beyond) || beyond.Limit != 40960 {
		t.Errorf("50000 tokens: %v", err)
	}
}

// The settings of an Ollama that rlca starts change its cache; those of another are not known.
func TestCacheSettings(t *testing.T) {
	req := Request{}
	req.Profile.Engine.Args = []string{"--verbose", "OLLAMA_KV_CACHE_TYPE=q8_0", "OLLAMA_FLASH_ATTENTION=0"}
	for name, c := range map[string]struct {
		s       Survey
		asked   string
		kv      string
		noFlash bool
	}{
		"to be started": {Survey{}, "", "q8_0", true},
		"started":       {Survey{Running: &remote.Server{}}, "", "q8_0", true},
		"adopted":       {Survey{Running: &remote.Server{Adopted: true}}, "", "", false},
		"asked for":     {Survey{}, "q4_0", "q4_0", true},
	} {
		req.KVType = c.asked
		if kv, noFlash := c.s.cacheSettings(req); kv != c.kv || noFlash != c.noFlash {
			t.Errorf("%s: %q, %v; want %q, %v", name, kv, noFlash, c.kv, c.noFlash)
		}
	}
}
