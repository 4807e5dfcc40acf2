package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote"
	"rlca/remote/remotetest"
)

const vllmRepo = "rlca/scripted"

// vllmBox is a box that has vLLM on its PATH and the scripted model in its cache.
func vllmBox(t *testing.T) *engineBox {
	t.Helper()
	if os.Getenv("RLCA_TEST_VLLM") == "" {
		t.Skip("it takes minutes: make test-vllm")
	}
	if _, err := os.Stat(filepath.Join(peer.Dir(), "vllm", "rlca-complete")); err != nil {
		t.Skip("vLLM is missing: .ci/peers-vllm install")
	}
	bin := t.TempDir()
	program := filepath.Join(bin, "vllm")
	if err := os.Symlink(filepath.Join(peer.Dir(), "vllm", "bin", "vllm"), program); err != nil {
		t.Skip(err)
	}
	b := newEngineBox(t, "vllm", program)
	const commit = "0123456789abcdef0123456789abcdef01234567"
	repo := filepath.Join(b.home, ".cache/huggingface/hub/models--rlca--scripted")
	if err := remotetest.WriteCheckpoint(filepath.Join(repo, "snapshots", commit)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(repo, "refs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(repo, "refs", "main"), []byte(commit), 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

// serves is a laptop whose profile wants the scripted model of vLLM, with more arguments: it starts fast on a CPU, and
// takes little memory.
func (b *engineBox) serves(tokens int, args ...string) *user {
	b.t.Helper()
	u := b.user(vllmRepo, tokens)
	u.limit = 6 * time.Minute
	args = append([]string{"--dtype=bfloat16", "--enforce-eager", "VLLM_CPU_OMP_THREADS_BIND=nobind"}, args...)
	_, listen, _ := strings.Cut(u.url, "//")
	u.write("box", fmt.Sprintf("host = \"box\"\n[engine]\naddress = %q\nargs = [\"%s\"]\n[model]\nname = %q\ncontext = %d\n[forward]\nlisten = %q\n", b.addr, strings.Join(args, `", "`), vllmRepo, tokens, listen))
	return u
}

// cores lists the processes of the account's vLLM, with the names that they give themselves: by their environment, and
// those that write over it with such a name, by the log that they have open.
func (b *engineBox) cores() (left []string) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, f := range folders {
		env, _ := os.ReadFile(filepath.Join(f, "environ"))
		out, _ := os.Readlink(filepath.Join(f, "fd", "2"))
		if strings.Contains(string(env), "RLCA_OWNER=") && strings.Contains(string(env), "HOME="+b.home+"\x00") || strings.HasPrefix(out, b.home+"/") {
			name, _ := os.ReadFile(filepath.Join(f, "comm"))
			left = append(left, filepath.Base(f)+" "+strings.TrimSpace(string(name)))
		}
	}
	return left
}

func (b *engineBox) empty(u *user) {
	b.t.Helper()
	if left := b.cores(); len(left) > 0 {
		b.t.Errorf("processes are left: %q", left)
	}
	nothingLeft(b.t, u.laptop, b.home)
}

// A real vLLM on a CPU over a real sshd, with a model whose answers are written into its weights: connected to, asked,
// killed, stopped, and what is said when it does not come up.
func TestRealVLLM(t *testing.T) {
	b := vllmBox(t)
	small := "VLLM_CPU_KVCACHE_SPACE=1"
	connect := func(t *testing.T, u *user) (said string, code int) {
		t.Helper()
		start := time.Now()
		_, said, code = u.rlca(b.args("connect", "box", "--engine", "vllm")...)
		t.Logf("connect took %.1f s, exit %d:\n%s", time.Since(start).Seconds(), code, said)
		return said, code
	}

	t.Run("life", func(t *testing.T) {
		u := b.serves(8192, small)
		said, code := connect(t, u)
		if code != 0 || !strings.Contains(said, "vLLM 0.32.0 on "+b.addr+", started by rlca") || strings.Contains(said, "warning") {
			t.Fatal("it is not served as it should be")
		}
		if m := b.status(u).Model; m.Name != "scripted" || m.Context != 8192 || m.SizeBytes < 1<<30 || m.VRAMBytes != 0 {
			t.Errorf("it serves %+v", m)
		}
		if e := b.status(u).Engine; e.BoundLoopback == nil || !*e.BoundLoopback || e.Address != b.addr {
			t.Errorf("the engine: %+v", e)
		}
		if got := chatOnce(t, u.url); got != scriptedSays {
			t.Errorf("the model says %q", got)
		}
		if err := remote.CallTool(t.Context(), u.url, "", "scripted"); err != nil {
			t.Errorf("a call of a tool: %v", err)
		}
		if text, _ := u.must("logs", "box", "--engine"); !strings.Contains(text, "Application startup complete") {
			t.Errorf("the engine's log:\n%s", text)
		}
		pid := b.pid()
		other := b.serves(8192, small)
		if said, code := connect(t, other); code != 0 || !strings.Contains(said, "started by rlca") || b.pid() != pid {
			t.Error("a second laptop does not take the one that runs")
		}
		if got := chatOnce(t, other.url); got != scriptedSays {
			t.Errorf("to the second laptop the model says %q", got)
		}
		other.must("disconnect", "box")
		u.must("disconnect", "box")

		// The API process is killed: its engine stays with all the memory, and a stop ends that, too.
		kill9(t, pid)
		time.Sleep(time.Second)
		left := b.cores()
		t.Logf("a kill leaves %q", left)
		if !strings.Contains(strings.Join(left, " "), "VLLM::EngineCor") {
			t.Error("the engine did not outlive its server")
		}
		out, _, _ := u.rlca(b.args("doctor", "box")...)
		t.Logf("doctor:\n%s", out)
		if !strings.Contains(out, "VLLM::EngineCor") {
			t.Error("doctor does not name the engine without its server")
		}
		start := time.Now()
		_, said = u.must(b.args("disconnect", "box", "--stop-engine")...)
		t.Logf("stop took %s:\n%s", time.Since(start), said)
		if !strings.Contains(said, "had left behind: it held ") {
			t.Error("a stop does not say what it ended")
		}
		b.empty(u)
	})

	for name, c := range map[string]struct {
		tokens int
		args   []string
		want   []string
	}{
		"a parser that it does not have": {8192, []string{small, "--enable-auto-tool-choice", "--tool-call-parser=nosuch"}, []string{"no parser of calls named nosuch", "--tool-call-parser=NAME"}},
		"longer than the model":          {99999, []string{small}, []string{"65536"}},
		"longer than the cache":          {65536, []string{"--kv-cache-memory-bytes=8M"}, []string{"holds no request of the wanted length", "--context 7168"}},
		"an unknown argument":            {8192, []string{small, "--nosuch"}, []string{"does not know --nosuch"}},
	} {
		t.Run(name, func(t *testing.T) {
			u := b.serves(c.tokens, c.args...)
			said, code := connect(t, u)
			if code != exitFailed {
				t.Errorf("exit %d", code)
			}
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("connect does not say %q", want)
				}
			}
			b.empty(u)
		})
	}

	launchedNow := func() bool {
		info, err := os.Stat(filepath.Join(b.home, ".rlca", "vllm.log"))
		return err == nil && info.Size() > 0
	}
	t.Run("port taken meanwhile", func(t *testing.T) {
		u := b.serves(8192, small)
		var l net.Listener
		said := b.fails(u, launchedNow, func(*os.Process) {
			var err error
			if l, err = net.Listen("tcp", b.addr); err != nil {
				t.Error(err)
			}
		}, "--engine", "vllm")
		if l != nil {
			l.Close()
		}
		t.Log(said)
		if !strings.Contains(said, "address already in use") && !strings.Contains(said, "its port is taken") {
			t.Error("connect does not say that the port is taken")
		}
		b.empty(u)
	})

	// A TERM while it starts is lost on vLLM: what does not go by itself is ended by force.
	t.Run("Ctrl-C while it starts", func(t *testing.T) {
		u := b.serves(8192, small)
		var at time.Time
		said := b.fails(u, func() bool {
			text, _ := os.ReadFile(filepath.Join(b.home, ".rlca", "vllm.log"))
			return strings.Contains(string(text), "Initializing a V1 LLM engine")
		}, func(p *os.Process) {
			at = time.Now()
			p.Signal(os.Interrupt)
		}, "--engine", "vllm")
		t.Logf("ended after %s:\n%s", time.Since(at), said)
		if !strings.Contains(said, "nothing was left behind") {
			t.Error("connect does not say that nothing was left")
		}
		b.empty(u)
	})
}
