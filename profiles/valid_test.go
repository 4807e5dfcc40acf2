package profiles

import "testing"

func TestCheck(t *testing.T) {
	p := full()
	if err := p.Check(); err != nil {
		t.Errorf("Check of a good profile: %v", err)
	}
	p.Engine.Name, p.Model.Parallel = "olama", 0
	want := "model.parallel must be 1 or more, not 0\n" +
		`engine.name must be ollama, vllm, llama-server, none or auto, not "olama", did you mean "ollama"?`
	if err := p.Check(); err == nil || err.Error() != want {
		t.Errorf("Check is %v\nwant %s", err, want)
	}
}
