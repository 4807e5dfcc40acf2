package fit

import (
	"math"
	"strings"
	"testing"
	"time"
)

// taken is a load of the model at 32k whose compute buffer was factor times what is computed.
func taken(t *testing.T, factor float64, change func(*Load)) Load {
	t.Helper()
	r, err := Check(Ask{Model: coder(t), Context: 32768, GPU: true, EngineVersion: "0.31.0"})
	if err != nil {
		t.Fatal(err)
	}
	p := Parts{Weights: *r.Weights, KV: *r.KV, State: *r.State, Compute: *r.Compute, Reserve: r.Reserve}
	a := p
	a.Compute, a.Reserve = scale(p.Compute, factor), nil
	l := Load{At: time.Unix(1e9, 0), Engine: "ollama", Version: "0.31.0", GPU: true, Model: "qwen3-coder:30b", Context: 32768, Parallel: 1, Predicted: p, Actual: a}
	if change != nil {
		change(&l)
	}
	return l
}

func TestLearn(t *testing.T) {
	took := 700 * MiB
	for name, c := range map[string]struct {
		loads   []Load
		factor  float64 // 0: nothing is learned
		reserve *Bytes
	}{
		"none":                  {nil, 0, nil},
		"as computed":           {[]Load{taken(t, 1.01, nil)}, 0, nil},
		"one":                   {[]Load{taken(t, 1.5, nil)}, 1.5, nil},
		"the median of three":   {[]Load{taken(t, 1.5, nil), taken(t, 1.1, nil), taken(t, 3, nil)}, 1.5, nil},
		"the upper one of two":  {[]Load{taken(t, 0.5, nil), taken(t, 0.9, nil)}, 0.9, nil},
		"another version":       {[]Load{taken(t, 2, func(l *Load) { l.Version = "0.17.4" })}, 0, nil},
		"on the CPU":            {[]Load{taken(t, 2, func(l *Load) { l.GPU = false })}, 0, nil},
		"of another engine":     {[]Load{taken(t, 2, func(l *Load) { l.Engine = "llama-server" })}, 0, nil},
		"of another model":      {[]Load{taken(t, 2, func(l *Load) { l.Actual.Weights /= 2 })}, 0, nil},
		"of another context":    {[]Load{taken(t, 2, func(l *Load) { l.Actual.KV *= 2 })}, 0, nil},
		"beyond belief":         {[]Load{taken(t, 1000, nil)}, factorTop, nil},
		"with a reserve":        {[]Load{taken(t, 1, func(l *Load) { l.Actual.Reserve = &took })}, 1, &took},
		"no compute buffer":     {[]Load{taken(t, 0, nil)}, 0, nil},
		"only the last eight":   {append([]Load{taken(t, 4, nil), taken(t, 4, nil)}, loads(t, 8, 1.2)...), 1.2, nil},
		"weights a little more": {[]Load{taken(t, 1.3, func(l *Load) { l.Actual.Weights = scale(l.Actual.Weights, 1.02) })}, 1.3, nil},
	} {
		got := Learn(c.loads, "ollama", "0.31.0", true)
		if c.factor == 0 {
			if got != nil {
				t.Errorf("%s: %+v, want nothing", name, got)
			}
			continue
		}
		if got == nil || math.Abs(got.Compute-c.factor) > 1e-6 || (got.Reserve == nil) != (c.reserve == nil) || got.Reserve != nil && *got.Reserve != *c.reserve {
			t.Errorf("%s: %+v, want a factor of %v and a reserve of %v", name, got, c.factor, c.reserve)
		}
	}
}

func loads(t *testing.T, n int, factor float64) (list []Load) {
	for range n {
		list = append(list, taken(t, factor, nil))
	}
	return list
}

// A correction changes the compute buffer and the reserve, the total, the verdict and the longest context, and says so.
func TestCorrection(t *testing.T) {
	budget := 24 * GiB
	a := Ask{Model: coder(t), Context: 32768, GPU: true, EngineVersion: "0.31.0", Budget: &budget}
	before, err := Check(a)
	if err != nil {
		t.Fatal(err)
	}
	reserve := 900 * MiB
	a.Correction = &Correction{Compute: 1.5, Reserve: &reserve, Loads: 3}
	after, err := Check(a)
	if err != nil {
		t.Fatal(err)
	}
	if *after.Compute != scale(*before.Compute, 1.5) || *after.Reserve != reserve {
		t.Errorf("compute %v, reserve %v", after.Compute, after.Reserve)
	}
	if want := *before.Total - *before.Compute - *before.Reserve + *after.Compute + reserve; *after.Total != want {
		t.Errorf("total %v, want %v", after.Total, want)
	}
	if *after.MaxContext >= *before.MaxContext {
		t.Errorf("at most %d tokens, %d before", *after.MaxContext, *before.MaxContext)
	}
	note := "corrected by what 3 loads on this box took: compute buffer × 1.50, reserve 0.9 GiB"
	if got := strings.Join(after.Notes, "\n"); after.Correction != a.Correction || !strings.Contains(got, note) {
		t.Errorf("notes %q, want %q", got, note)
	}
	below := Bytes(-1)
	for _, c := range []Correction{{Compute: 0}, {Compute: math.NaN()}, {Compute: 5}, {Compute: 1, Reserve: &below}} {
		a.Correction = &c
		if _, err := Check(a); err == nil {
			t.Errorf("Check with %+v: no error", c)
		}
	}
}
