package fit

import (
	"errors"
	"strings"
	"testing"
)

func want(gib float64, ctx int) Ask {
	b := scale(GiB, gib)
	return Ask{Context: ctx, Budget: &b, GPU: true}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		gib           float64
		ctx, bits     int
		model, passed string // passed: words of one reason
	}{
		{400, 65536, 4, "qwen3-coder:480b", "deepseek-v3.1:671b"},
		{101.2, 65536, 4, "qwen3-coder-next", "qwen3-coder:480b"},
		{27, 65536, 4, "qwen3-coder:30b", "needs"},
		{27, 32768, 4, "qwen3-coder:30b", "needs"},
		{22, 65536, 4, "glm-4.7-flash", "its own limit is 32k"}, // no coder fits
		{22, 32768, 4, "qwen3-coder:30b", ""},
		{13, 32768, 4, "qwen2.5-coder:7b", ""},
		{27, 0, 4, "qwen3-coder:30b", ""},
	} {
		got, err := Choose(want(c.gib, c.ctx), c.bits, Pullable())
		if err != nil || got.Model != c.model || !got.Verdict.OK() {
			t.Errorf("Choose(%v GiB, %d tokens) = %+v, %v, want %s", c.gib, c.ctx, got, err, c.model)
			continue
		}
		var all []string
		for _, p := range got.Passed {
			all = append(all, p.Model+" "+p.Reason)
			if p.Reason == "" || p.Model == got.Model && p.Quant == got.Quant {
				t.Errorf("Choose(%v GiB) passed %+v over", c.gib, p)
			}
		}
		if !strings.Contains(strings.Join(all, "\n"), c.passed) {
			t.Errorf("Choose(%v GiB) passed over %q, want %q in it", c.gib, all, c.passed)
		}
	}
}

func TestChooseQuant(t *testing.T) {
	m := coder(t)
	here := Candidate{Model: m, Quant: "Q8_0", OnBox: true}
	low, four := Candidate{Model: m, Quant: "Q3_K_M", OnBox: true}, Candidate{Model: m, Quant: "Q4_K_M"}
	strange := Candidate{Model: m, Quant: "Q9_Z"}
	for _, c := range []struct {
		name       string
		candidates []Candidate
		gib        float64
		bits       int
		want       string
	}{
		{"what is on the box first", []Candidate{four, here}, 60, 4, "Q8_0"},
		{"too large on the box", []Candidate{here, four}, 27, 4, "Q4_K_M"},
		{"too few bits on the box", []Candidate{low, four}, 60, 4, "Q4_K_M"},
		{"few bits allowed", []Candidate{low, four}, 60, 3, "Q3_K_M"},
		{"not known", []Candidate{strange, four}, 60, 4, "Q4_K_M"},
		{"more bits wanted", []Candidate{four, here}, 60, 8, "Q8_0"},
	} {
		got, err := Choose(want(c.gib, 65536), c.bits, c.candidates)
		if err != nil || got.Quant != c.want || got.Candidate.Quant != c.want {
			t.Errorf("%s: Choose = %+v, %v, want %s", c.name, got, err, c.want)
		}
	}
}

func TestShortfall(t *testing.T) {
	_, err := Choose(want(4, 65536), 4, Pullable())
	var short *ShortfallError
	if !errors.As(err, &short) || short.Total == nil || len(short.Passed) == 0 || len(short.Instead) != 0 {
		t.Fatalf("Choose in 4 GiB: %+v, want a *ShortfallError", err)
	}
	m, _ := Find("qwen3-coder:480b")
	ask := want(21.9, 65536)
	ask.Model = m
	r, err := Check(ask)
	if err != nil || r.Verdict != No {
		t.Fatalf("Check = %q, %v, want no", r.Verdict, err)
	}
	short = &ShortfallError{Result: r, Host: "attic", Instead: Instead(ask, 4, Pullable())}
	if got := short.Error(); !strings.HasPrefix(got, "qwen3-coder:480b does not fit on attic: needs 28") || !strings.HasSuffix(got, " at 64k context, 21.9 GiB can be used") {
		t.Errorf("Error() = %q", got)
	}
	if r.Weights.String() != "271.1 GiB" || r.KV.String() != "15.5 GiB" || r.Source != FromParams || *r.ErrorBand != 0.02 || !strings.Contains(strings.Join(r.Notes, ""), "all 480.2B parameters, not the 35B") {
		t.Errorf("Check = weights %v, KV %v from %q ± %v, notes %q", r.Weights, r.KV, r.Source, *r.ErrorBand, r.Notes)
	}
	if len(short.Instead) != 3 || short.Instead[0].Model != "qwen3-coder:30b" || short.Instead[0].Context != 32768 || !short.Instead[0].Verdict.OK() {
		t.Errorf("Instead = %+v, want qwen3-coder:30b at 32k first", short.Instead)
	}
	if _, err := Choose(Ask{}, 4, Pullable()); err == nil {
		t.Error("Choose without a budget gave no error")
	}
	if _, err := Choose(want(100, 0), 4, nil); !errors.As(err, &short) || short.Error() != "no model fits" {
		t.Errorf("Choose among none: %v, want a *ShortfallError", err)
	}
}

func TestRank(t *testing.T) {
	bad := Candidate{Model: Model{Name: "mystery", Kind: KindUnknown}, Quant: "Q4_K_M", OnBox: true}
	lines := Rank(want(101.2, 65536), 4, append(Pullable(), bad))
	if len(lines) != len(Pullable())+1 {
		t.Fatalf("Rank gave %d lines, want one for each candidate", len(lines))
	}
	best, last := 0, 0
	for i, l := range lines {
		order := map[Verdict]int{Fits: 0, Tight: 0, No: 1, "": 2}[l.Verdict]
		if order < last {
			t.Errorf("Rank: %s, %q, stands below what fits less", l.Result.Model, l.Verdict)
		}
		last = order
		if l.Best {
			best++
			if i != 0 || l.Result.Model != "qwen3-coder-next" {
				t.Errorf("Rank: line %d, %s, is the best", i, l.Result.Model)
			}
		}
		if limit := l.Candidate.Model.Context; limit > 0 && l.Context > limit {
			t.Errorf("Rank: %s at %d, over its own limit of %d", l.Result.Model, l.Context, limit)
		}
	}
	if best != 1 {
		t.Errorf("Rank has %d best lines, want 1", best)
	}
	if l := lines[len(lines)-1]; l.Result.Model != "mystery" || l.Verdict != "" || l.Reason == "" || !l.OnBox {
		t.Errorf("Rank: last line %+v, want mystery with a reason", l)
	}
	for _, l := range Rank(Ask{Context: 4096}, 4, Pullable()) {
		if l.Verdict != "" || l.Best || l.Total == nil {
			t.Errorf("Rank without a budget: %s is %q", l.Result.Model, l.Verdict)
		}
	}
}
