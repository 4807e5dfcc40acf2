package instance

import (
	"errors"
	"strings"
	"testing"

	"rlca/internal/fit"
	"rlca/remote"
)

// The doctor names what dead engines left, with a remedy: rlca ends its own, and of others a person gets the command.
func TestDoctorNamesOrphans(t *testing.T) {
	t.Parallel()
	x := healthy()
	x.orphans = []remote.Orphan{
		{PID: 4242, Name: "ollama runner", Engine: "Ollama", Bytes: 3 << 29, Ours: true},
		{PID: 77, Name: "VLLM::EngineCore", Engine: "vLLM", Bytes: 1 << 30, VRAMBytes: 20 << 30, Another: true},
	}
	var got []Check
	for _, c := range x.Checks() {
		if c.ID == "orphan" {
			got = append(got, c)
		}
	}
	want := []Check{
		{"orphan", false, Warn, "process 4242 (ollama runner, 1.5 GiB) is left of an Ollama that rlca started and that is gone",
			"rlca disconnect attic --stop-engine ends it, and so does the next rlca connect attic"},
		{"orphan", false, Warn, "process 77 (VLLM::EngineCore, 1.0 GiB, 20.0 GiB on the GPU) is left of a vLLM that is gone; rlca did not start it", "if nobody needs it, on the box: sudo kill 77"},
	}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Connect speaks of others' leftovers where memory is short, and only there.
func TestOrphansWhenShort(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		s    *Survey
		err  error
		want bool
	}{
		"fits":               {&Survey{Fit: &fit.Result{Verdict: fit.Fits}}, nil, false},
		"tight":              {&Survey{Fit: &fit.Result{Verdict: fit.Tight}}, nil, true},
		"does not fit":       {&Survey{Fit: &fit.Result{Verdict: fit.No}}, &fit.ShortfallError{}, true},
		"no engine":          {&Survey{}, nil, false},
		"the probe ended it": {nil, errors.New("no"), false},
	} {
		if got := short(c.s, c.err); got != c.want {
			t.Errorf("%s: short = %v", name, got)
		}
	}
	var said []string
	tellOrphans([]remote.Orphan{{PID: 77, Name: "ollama runner", Engine: "Ollama", Bytes: 2 << 30}}, func(e Event) { said = append(said, string(e.Step)+" "+e.Text) })
	if want := "note warning: process 77 (ollama runner, 2.0 GiB) is left of an Ollama that is gone, and rlca did not start it; to end it, on the box: kill 77"; strings.Join(said, "\n") != want {
		t.Errorf("said %q, want %q", said, want)
	}
}
