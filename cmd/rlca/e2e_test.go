package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/internal/supervisor"
	"rlca/remote/remotetest"
)

// program builds rlca once for the tests that run it as a user does.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rlca-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "rlca")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	return path, nil
})

// laptop is a user's side: a home, profiles and a state folder of its own.
type laptop struct {
	t    testing.TB
	path string
	env  []string
	run  string
	dir  string
	// limit is how long one command may take, two minutes if zero.
	limit time.Duration
}

func newLaptop(t testing.TB) *laptop {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "rlca") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l := &laptop{t: t, path: path, run: run, dir: dir}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "RLCA_") && !strings.HasPrefix(kv, "XDG_RUNTIME_DIR=") && !strings.HasPrefix(kv, "SSH_AUTH_SOCK=") {
			l.env = append(l.env, kv)
		}
	}
	l.env = append(l.env, "RLCA_STATE_DIR="+run, "RLCA_CONFIG_DIR="+filepath.Join(dir, "config"), "NO_COLOR=1")
	t.Cleanup(func() {
		c := &supervisor.Client{Paths: supervisor.Paths{State: run, Run: filepath.Join(run, "run")}}
		if st, err := c.Status(context.Background()); err == nil {
			for _, h := range st.Hosts {
				c.Disconnect(context.Background(), h.Name, supervisor.StopAlways)
			}
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(run, "logs", "*"))
			for _, f := range logs {
				text, _ := os.ReadFile(f)
				t.Logf("%s:\n%s", f, text)
			}
		}
		os.RemoveAll(run)
	})
	return l
}

// rlca runs one command and returns its streams and exit code.
func (l *laptop) rlca(args ...string) (stdout, stderr string, code int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(l.limit, 2*time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, l.path, args...)
	cmd.Env, cmd.Dir = l.env, l.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs one command that has to succeed.
func (l *laptop) must(args ...string) (stdout, stderr string) {
	l.t.Helper()
	stdout, stderr, code := l.rlca(args...)
	if code != 0 {
		l.t.Fatalf("rlca %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout, stderr
}

func (l *laptop) write(name, text string) {
	l.t.Helper()
	dir := filepath.Join(l.dir, "config", "profiles")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// models is the folder of models with the scripted one in it, and a home for the box.
func models(t testing.TB) (folder string) {
	t.Helper()
	o := remotetest.StartOllama(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := remotetest.CreateScripted(ctx, o.URL, "scripted"); err != nil {
		t.Fatal(err)
	}
	o.Stop()
	return o.Models
}

const scriptedSays = "Hello from the scripted model."

func chatOnce(t testing.TB, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	text, err := ask(ctx, url, "scripted", "hello")
	if err != nil {
		t.Fatalf("chat on %s: %v", url, err)
	}
	return text
}

// The main job on real parts: OpenSSH's sshd, a real Ollama, a completion through the tunnel, a killed connection,
// and nothing left behind.
func TestConnectOnRealParts(t *testing.T) {
	peer.Need(t, "sshd")
	ollama := peer.Need(t, "ollama")
	folder := models(t)
	home := t.TempDir()
	sshd := peer.StartSSHD(t, "SetEnv HOME="+home+" OLLAMA_MODELS="+folder+" OMP_NUM_THREADS=1 PATH="+filepath.Dir(ollama)+":/usr/bin:/bin:/usr/sbin")
	l := newLaptop(t)
	engine := remotetest.FreePort(t)
	listen := remotetest.FreePort(t)
	url := "http://127.0.0.1:" + strconv.Itoa(listen)
	l.write("spark", "host = \"box\"\n[model]\nname = \"scripted\"\ncontext = 8192\n[engine]\naddress = \"127.0.0.1:"+strconv.Itoa(engine)+
		"\"\n[forward]\nlisten = \"127.0.0.1:"+strconv.Itoa(listen)+"\"\n")

	_, said := l.must("-F", sshd.Config, "connect", "spark")
	for _, want := range []string{"rlca: link    ", "rlca: probe   ", "rlca: fit     scripted", "started by rlca", "8k context", "ready\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("connect does not say %q:\n%s", want, said)
		}
	}
	if got := chatOnce(t, url); got != scriptedSays {
		t.Errorf("through the tunnel the model says %q, want %q", got, scriptedSays)
	}

	// Ten times: the server's side of the connection is killed, and the next request is answered on the same port.
	var slowest time.Duration
	for n := range 10 {
		if sshd.KillConnections() == 0 {
			t.Fatal("there is no connection to kill")
		}
		start := time.Now()
		if got := chatOnce(t, url); got != scriptedSays {
			t.Errorf("after kill %d the model says %q", n+1, got)
		}
		slowest = max(slowest, time.Since(start))
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("10 kills: the slowest next answer came after %.2f s", slowest.Seconds())
	if slowest > 3*time.Second {
		t.Errorf("the slowest answer after a kill took %s, want at most 3 s", slowest)
	}
	var st supervisor.Status
	out, _ := l.must("status", "--json")
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	h := st.Hosts[0]
	if h.Link.Reconnects != 10 || h.Forward.Failed != 0 || h.Engine.BoundLoopback == nil || !*h.Engine.BoundLoopback || h.Model.Context != 8192 {
		t.Errorf("status after 10 kills: %s", out)
	}
	if text, _ := l.must("logs", "spark", "--engine"); !strings.Contains(text, "Listening on 127.0.0.1") {
		t.Errorf("the engine's log has no line about its address:\n%s", text)
	}

	_, said = l.must("disconnect", "--stop-engine")
	if !strings.Contains(said, "stopped") {
		t.Errorf("disconnect --stop-engine says:\n%s", said)
	}
	nothingLeft(t, l, home, engine, listen)
}

// nothingLeft looks for a process of ours, a listener, a socket and files on the box.
func nothingLeft(t *testing.T, l *laptop, home string, ports ...int) {
	t.Helper()
	for _, p := range ports {
		if c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p)); err == nil {
			c.Close()
			t.Errorf("something still listens on %d", p)
		}
	}
	environ, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range environ {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte("HOME="+home+"\x00")) && bytes.Contains(text, []byte("RLCA_OWNER=")) {
			cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			t.Errorf("a process of the engine is left: %s %q", f, cmd)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(home, ".rlca", "*")); len(left) > 0 {
		t.Errorf("files are left on the box: %v", left)
	}
	socket := filepath.Join(l.run, "run", "rlca.sock")
	for range 100 { // the supervisor ends by itself a moment after its last host
		if _, err := os.Stat(socket); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the supervisor's socket is left")
}

// On the box itself: the same walk without SSH, and nothing forwarded when the port is already right.
func TestConnectLocalOnRealOllama(t *testing.T) {
	o := remotetest.StartOllama(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := remotetest.CreateScripted(ctx, o.URL, "scripted"); err != nil {
		t.Fatal(err)
	}
	l := newLaptop(t)
	l.env = append(l.env, "HOME="+t.TempDir())
	l.write("here", "host = \"local\"\n[model]\nname = \"scripted\"\ncontext = 16384\n[engine]\naddress = \""+o.Address+"\"\n[forward]\nlisten = \""+o.Address+"\"\n")

	out, said := l.must("connect", "here", "--json")
	if !strings.Contains(said, "16k context") || !strings.Contains(said, "nothing to forward") {
		t.Errorf("connect local says:\n%s", said)
	}
	if !strings.Contains(out, `"mode": "direct"`) {
		t.Errorf("status of local:\n%s", out)
	}
	if got := chatOnce(t, o.URL); got != scriptedSays {
		t.Errorf("the model says %q", got)
	}
	// The context that was set holds for requests that do not name one, and is taken back at the end.
	var st supervisor.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatal(err)
	}
	model := st.Hosts[0].Model
	if model.Context != 16384 {
		t.Errorf("the model has %d tokens, want 16384", model.Context)
	}
	l.must("disconnect", "here", "--stop-engine")
	if text, err := ask(ctx, o.URL, "scripted", "hello"); err != nil || text != scriptedSays {
		t.Errorf("the adopted Ollama after disconnect --stop-engine: %q, %v", text, err)
	}
	if model.Name != "scripted" && model.Name != "scripted:latest" {
		if text, err := ask(ctx, o.URL, model.Name, "hello"); err == nil {
			t.Errorf("the name %s that was added is still there: %q", model.Name, text)
		}
	}
}

// A model that is not on the box: nothing is downloaded without a yes; with it the box pulls, and then serves.
func TestConnectPulls(t *testing.T) {
	peer.Need(t, "sshd")
	ollama := peer.Need(t, "ollama")
	registry := remotetest.StartRegistry(t)
	home := t.TempDir()
	sshd := peer.StartSSHD(t, "SetEnv HOME="+home+" OLLAMA_MODELS="+t.TempDir()+" OMP_NUM_THREADS=1 PATH="+filepath.Dir(ollama)+":/usr/bin:/bin:/usr/sbin")
	l := newLaptop(t)
	engine, listen := remotetest.FreePort(t), remotetest.FreePort(t)
	l.write("spark", "host = \"box\"\n[model]\nname = \""+registry.Model+"\"\ncontext = 4096\n[engine]\naddress = \"127.0.0.1:"+strconv.Itoa(engine)+
		"\"\n[forward]\nlisten = \"127.0.0.1:"+strconv.Itoa(listen)+"\"\n")
	_, said, code := l.rlca("-F", sshd.Config, "connect", "spark")
	if code != exitHuman || !strings.Contains(said, "is not on the box") || !strings.Contains(said, "--yes") {
		t.Errorf("connect without a yes: exit %d\n%s", code, said)
	}
	nothingLeft(t, l, home, engine, listen)
	_, said = l.must("-F", sshd.Config, "connect", "spark", "--yes")
	if !strings.Contains(said, "ready\n") {
		t.Errorf("connect --yes says:\n%s", said)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if text, err := ask(ctx, "http://127.0.0.1:"+strconv.Itoa(listen), registry.Model, "hello"); err != nil || text == "" {
		t.Errorf("the pulled model says %q, %v", text, err)
	}
	l.must("disconnect", "spark", "--stop-engine")
	nothingLeft(t, l, home, engine, listen)

	// A name that the registry does not have ends with its own words, and leaves nothing.
	_, said, code = l.rlca("-F", sshd.Config, "connect", "spark", "--yes", "--model", registry.Model+"-nope")
	if code != exitFailed || !strings.Contains(said, "file does not exist") {
		t.Errorf("connect to a model that does not exist: exit %d\n%s", code, said)
	}
	nothingLeft(t, l, home, engine, listen)
}
