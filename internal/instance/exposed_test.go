package instance

import (
	"strings"
	"testing"

	"rlca/remote"
	"rlca/tunnel"
)

func TestExposure(t *testing.T) {
	private := &remote.Server{Engine: "Ollama", Address: "127.0.0.1:11434", How: "system service"}
	open := &remote.Server{Engine: "Ollama", Address: "127.0.0.1:11434", How: "system service", Exposed: []string{"*:11434"}}
	for name, c := range map[string]struct {
		s       *remote.Server
		reached string
		says    []string // nothing: no warning
	}{
		"private":              {private, "", nil},
		"listens everywhere":   {open, "", []string{"listens on *:11434: open to its network without a password", "systemctl edit ollama"}},
		"and a way in":         {open, "10.0.0.7:11434", []string{"*:11434, and 10.0.0.7:11434 took a connection from here, past the tunnel"}},
		"private, but reached": {private, "10.0.0.7:11434", []string{"something on the box opens the port of Ollama to its network"}},
	} {
		got := exposureText(c.s, c.reached)
		if (got == "") != (c.says == nil) {
			t.Errorf("%s: %q", name, got)
		}
		for _, s := range c.says {
			if !strings.Contains(got, s) {
				t.Errorf("%s: %q, want %q in it", name, got, s)
			}
		}
	}
}

// A box that is this machine, or behind another host, is not dialed.
func TestOpenFromHere(t *testing.T) {
	for _, target := range []*tunnel.Target{nil, {HostName: "127.0.0.1"}, {HostName: "localhost"}, {HostName: "192.0.2.1", Jumps: []string{"bastion"}}, {HostName: "192.0.2.1", ProxyCommand: "nc %h %p"}} {
		if got := openFromHere(t.Context(), target, "1"); got != "" {
			t.Errorf("%+v: reached %s", target, got)
		}
	}
}
