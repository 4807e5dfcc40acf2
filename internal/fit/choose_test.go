package fit

import (
	"errors"
	"slices"
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
		{27, 65536, 4, "laguna-xs.2", "needs"},
		{27, 0, 4, "laguna-xs.2", ""},
		{20, 65536, 4, "gpt-oss:20b", "qwen3.6:27b"}, // no coder with tools fits
		{16, 32768, 4, "gpt-oss:20b", "glm-4.7-flash"},
		{10, 32768, 4, "yi-coder:9b", "qwen2.5-coder:14b"}, // nor a model for agents
		{6.5, 32768, 4, "qwen2.5-coder:3b", ""},
	} {
		got, err := Choose(want(c.gib, c.ctx), c.bits, Pullable())
		if err != nil || got.Model != c.model || !got.Verdict.OK() {
			t.Errorf("Choose(%v GiB, %d tokens) = %+v, %v, want %s", c.gib, c.ctx, got, err, c.model)
			continue
		}
		var all []string
		for _, p := range got.Passed {
			all = append(all, p.String())
			if p.Reason == "" || p.Why == "" || p.Quant == "" || p.Model == got.Model && p.Quant == got.Quant {
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
	_, err := Choose(want(0.5, 65536), 4, Pullable())
	var short *ShortfallError
	if !errors.As(err, &short) || short.Total == nil || len(short.Passed) == 0 || len(short.Instead) != 0 {
		t.Fatalf("Choose in 0.5 GiB: %+v, want a *ShortfallError", err)
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
	if len(short.Instead) != 3 || short.Instead[0].Model != "laguna-xs.2" || short.Instead[0].Context != 32768 || !short.Instead[0].Verdict.OK() {
		t.Errorf("Instead = %+v, want laguna-xs.2 at 32k first", short.Instead)
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

// dedicated and unified are what a probe leaves of a machine with so many GiB.
func dedicated(gib float64) float64 { return gib - max(1, 0.03*gib) }
func unified(gib float64) float64   { return gib - 6 - 0.05*gib }

// What auto takes on the boxes that people have, with the window that agents
// want and with the shortest that will do.
func TestChooseBoxes(t *testing.T) {
	for _, c := range []struct {
		box        string
		gib        float64
		at64, at32 string // empty: nothing fits; "-": too close to tell
	}{
		{"8 GB card", dedicated(8), "qwen3.5:4b", "-"},
		{"12 GB card", dedicated(12), "qwen3.5:9b", "yi-coder:9b"},
		{"16 GB card", dedicated(16), "yi-coder:9b", "gpt-oss:20b"},
		{"24 GB card", dedicated(24), "laguna-xs.2", "laguna-xs.2"},
		{"32 GB card", dedicated(32), "laguna-xs.2", "laguna-xs.2"},
		{"48 GB card", dedicated(48), "laguna-xs.2", "-"},
		{"80 GB card", dedicated(80), "qwen3-coder-next", "qwen3-coder-next"},
		{"96 GB card", dedicated(96), "qwen3-coder-next", "qwen3-coder-next"},
		{"8 GB unified", unified(8), "", "qwen2.5-coder:0.5b"},
		{"16 GB unified", unified(16), "qwen3.5:9b", "yi-coder:9b"},
		{"24 GB unified", unified(24), "gpt-oss:20b", "gpt-oss:20b"},
		{"32 GB unified", unified(32), "laguna-xs.2", "laguna-xs.2"},
		{"48 GB unified", unified(48), "laguna-xs.2", "laguna-xs.2"},
		{"96 GB unified", unified(96), "qwen3-coder-next", "qwen3-coder-next"},
		{"128 GB unified", unified(128), "qwen3-coder-next", "qwen3-coder-next"},
	} {
		for ctx, model := range map[int]string{65536: c.at64, 32768: c.at32} {
			if model == "-" {
				continue
			}
			got, err := Choose(want(c.gib, ctx), 4, Pullable())
			name := ""
			if err == nil {
				name = got.Model
			}
			if name != model {
				t.Errorf("%s, %d tokens: %q (%v), want %q", c.box, ctx, name, err, model)
			}
			var cautions []Caution
			if err == nil {
				for _, w := range got.Warnings {
					cautions = append(cautions, w.Caution)
				}
				if short := ctx < 65536; short != slices.Contains(cautions, ShortWindow) {
					t.Errorf("%s, %d tokens: warnings %v", c.box, ctx, got.Warnings)
				}
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	find := func(name string) Model {
		m, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, c := range []struct {
		model, quant string
		gib          float64
		ctx          int
		want         []Caution
		says         string
	}{
		{"qwen3-coder:30b", "Q4_K_M", 30, 65536, nil, ""},
		{"qwen3-coder:30b", "Q3_K_M", 30, 65536, []Caution{FewBits}, "qwen3-coder:30b has 3 bits a weight"},
		{"qwen3-coder:30b", "Q4_K_M", 30, 32768, []Caution{ShortWindow}, "gets a window of 32k tokens"},
		{"qwen3.6:27b", "Q4_K_M", 30, 65536, []Caution{NotACoder}, "is a general model; laguna-xs.2 is made for code and fits"},
		{"qwen3.6:27b", "Q4_K_M", 21, 65536, []Caution{NotACoder}, "but is not known to call tools"},
		{"qwen3:0.6b", "Q8_0", 0.6, 32768, []Caution{ShortWindow}, ""},
		{"qwen2.5-coder:7b", "Q4_K_M", 30, 32768, []Caution{NoTools, ShortWindow}, "calls no tools"},
		{"yi-coder:9b", "Q4_K_M", 30, 65536, []Caution{NoTools}, "is not known to call tools"},
	} {
		cand := Candidate{Model: find(c.model), Quant: c.quant}
		ask := want(c.gib, c.ctx)
		r, err := Check(cand.ask(ask))
		if err != nil {
			t.Fatal(err)
		}
		var got []Caution
		var text []string
		for _, w := range Warnings(cand, r, ask, 4, Pullable()) {
			got, text = append(got, w.Caution), append(text, w.String())
		}
		if !slices.Equal(got, c.want) || !strings.Contains(strings.Join(text, "\n"), c.says) {
			t.Errorf("%s %s at %d in %v GiB: %q, want %v and %q", c.model, c.quant, c.ctx, c.gib, text, c.want, c.says)
		}
	}
}
