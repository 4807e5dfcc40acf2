package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rlca/internal/instance"
	"rlca/internal/peer"
	"rlca/remote"
	"rlca/remote/remotetest"
)

// A real llama-server through a real sshd: started with a file of the box, found by a second laptop, started anew with
// another context, and gone at the end.
func TestConnectLlamaServer(t *testing.T) {
	program := peer.Need(t, "llama-server")
	model := peer.Need(t, peer.Model)
	peer.Need(t, "sshd")
	home := t.TempDir()
	file := filepath.Join(home, "models", "smollm2.gguf")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(model, file); err != nil {
		t.Fatal(err)
	}
	sshd := peer.StartSSHD(t, "SetEnv HOME="+home+" PATH="+filepath.Dir(program)+":/usr/bin:/bin:/usr/sbin")
	engine := remotetest.FreePort(t)
	connect := func(l *laptop, tokens int, flags ...string) instance.Status {
		t.Helper()
		listen := remotetest.FreePort(t)
		l.write("box", fmt.Sprintf("host = \"box\"\n[engine]\nname = \"llama-server\"\naddress = \"127.0.0.1:%d\"\nargs = [\"-t\", \"1\"]\n[model]\nname = \"~/models/smollm2.gguf\"\ncontext = %d\n[forward]\nlisten = \"127.0.0.1:%d\"\n",
			engine, tokens, listen))
		l.must(append([]string{"-F", sshd.Config, "connect", "box"}, flags...)...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := remote.Answer(ctx, fmt.Sprintf("http://127.0.0.1:%d", listen), "", "smollm2"); err != nil {
			t.Fatalf("a completion through the tunnel: %v", err)
		}
		return connected(t, l, func(h instance.Status) bool { return h.Memory != nil && h.Memory.Engine != nil })
	}
	first, second := newLaptop(t), newLaptop(t)
	h := connect(first, 2048)
	if h.Engine.Name != "llama-server" || h.Engine.Origin != "started by rlca" || h.Engine.BoundLoopback == nil || !*h.Engine.BoundLoopback || h.Model.Context != 2048 {
		t.Errorf("the engine is %+v with %+v", h.Engine, h.Model)
	}
	again := connect(second, 2048)
	if again.Engine.Address != h.Engine.Address || again.Engine.Origin != "started by rlca" {
		t.Errorf("the second laptop found %+v", again.Engine)
	}
	second.must("disconnect", "box")
	if h = connect(second, 4096, "--yes"); h.Model.Context != 4096 {
		t.Errorf("after another context was wanted: %+v", h.Model)
	}
	first.must("disconnect", "box")
	out, errs := second.must("disconnect", "--stop-engine")
	if !strings.Contains(out+errs, "stopped llama-server on 127.0.0.1:") {
		t.Errorf("disconnect said %q", out+errs)
	}
	if files, _ := filepath.Glob(filepath.Join(home, ".rlca", "*")); len(files) > 0 {
		t.Errorf("left on the box: %q", files)
	}
}
