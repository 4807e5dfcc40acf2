package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/instance"
	"rlca/internal/peer"
	"rlca/remote"
	"rlca/remote/remotetest"
)

// These tests drive the real engines as a user does: the program rlca, OpenSSH's sshd, one engine at a time.

// engineBox is this machine as a box with an account of its own.
type engineBox struct {
	t      *testing.T
	sshd   *peer.SSHD
	home   string
	engine string // the name in the profile
	addr   string // where the engine is wanted
}

// newEngineBox starts an sshd whose sessions have a home of their own, the program's folder on their PATH, and more
// environment.
func newEngineBox(t *testing.T, engine, program string, env ...string) *engineBox {
	t.Helper()
	return engineBoxOf(t, func(extra string) *peer.SSHD { return peer.StartSSHD(t, extra) }, engine, program, env...)
}

// engineBoxOf does so where start starts an sshd with one more line.
func engineBoxOf(t *testing.T, start func(extra string) *peer.SSHD, engine, program string, env ...string) *engineBox {
	t.Helper()
	b := &engineBox{t: t, home: t.TempDir(), engine: engine, addr: fmt.Sprintf("127.0.0.1:%d", remotetest.FreePort(t))}
	b.sshd = start("SetEnv HOME=" + b.home + " OMP_NUM_THREADS=1 LLAMA_ARG_THREADS=1 PATH=" + filepath.Dir(program) + ":/usr/bin:/bin:/usr/sbin " + strings.Join(env, " "))
	return b
}

// user is a laptop with a profile "box" for the box, and where its port is.
type user struct {
	*laptop
	url string
}

// user makes a laptop whose profile wants a model.
func (b *engineBox) user(model string, tokens int) *user {
	b.t.Helper()
	u := &user{laptop: newLaptop(b.t), url: fmt.Sprintf("127.0.0.1:%d", remotetest.FreePort(b.t))}
	u.write("box", fmt.Sprintf("host = \"box\"\n[engine]\nname = %q\naddress = %q\n[model]\nname = %q\ncontext = %d\n[forward]\nlisten = %q\n", b.engine, b.addr, model, tokens, u.url))
	u.url = "http://" + u.url
	return u
}

// supervisor is the process in the background of a laptop.
func (u *user) supervisor() int {
	u.t.Helper()
	found := processes(func(cmd, _ string) bool { return strings.Contains(cmd, "supervisor\x00--state-dir\x00"+u.run+"\x00") })
	if len(found) != 1 {
		u.t.Fatalf("supervisors of the laptop: %v", found)
	}
	return found[0]
}

func (b *engineBox) args(args ...string) []string {
	return append([]string{"-F", b.sshd.Config}, args...)
}

// connect is rlca connect that has to succeed. It returns what it said.
func (b *engineBox) connect(u *user, flags ...string) string {
	b.t.Helper()
	_, said := u.must(b.args(append([]string{"connect", "box"}, flags...)...)...)
	if !strings.Contains(said, "ready\n") {
		b.t.Fatalf("connect does not say that it is ready:\n%s", said)
	}
	return said
}

// answers asks for a token through a laptop's port.
func (b *engineBox) answers(u *user, model string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if _, err := remote.Answer(ctx, u.url, "", model); err != nil {
		b.t.Fatalf("a completion through the port of %s: %v", u.run, err)
	}
}

// both connects two laptops at the same time: one starts the engine, and each has a tunnel to it.
func (b *engineBox) both(model string, tokens int, users ...*user) (pid int) {
	b.t.Helper()
	said := make([]string, len(users))
	var wg sync.WaitGroup
	for i, u := range users {
		wg.Go(func() {
			_, text, code := u.rlca(b.args("connect", "box")...)
			if said[i] = text; code != 0 {
				b.t.Errorf("connect of laptop %d: exit %d\n%s", i, code, text)
			}
		})
	}
	wg.Wait()
	if b.t.Failed() {
		b.t.FailNow()
	}
	for i, u := range users {
		if !strings.Contains(said[i], "on "+b.addr+", started by rlca") {
			b.t.Errorf("laptop %d says:\n%s", i, said[i])
		}
		b.answers(u, model)
		h := b.status(u)
		if h.Model.Context != tokens || h.Engine.Address != b.addr || h.Engine.BoundLoopback == nil || !*h.Engine.BoundLoopback {
			b.t.Errorf("laptop %d has %+v, %+v, want a context of %d", i, h.Engine, h.Model, tokens)
		}
	}
	if n := launches(users...); n != 1 {
		b.t.Errorf("%d starts of two laptops at once, want 1", n)
	}
	return b.pid()
}

func (b *engineBox) status(u *user) instance.Status {
	b.t.Helper()
	return connected(b.t, u.laptop, func(h instance.Status) bool { return h.Engine != nil && h.Model != nil })
}

// pid is the process of the engine's record.
func (b *engineBox) pid() int {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.home, ".rlca", b.engine+".pid"))
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err2 := strconv.Atoi(first)
	if err != nil || err2 != nil {
		b.t.Fatalf("the record of the engine: %q, %v", text, err)
	}
	return pid
}

// launches counts the starts of an engine in the logs of laptops.
func launches(users ...*user) (n int) {
	for _, u := range users {
		text, _ := os.ReadFile(filepath.Join(u.run, "logs", "host-box.log"))
		n += bytes.Count(text, []byte("msg=launched"))
	}
	return n
}

// processes are those of this machine whose command line and environment are of a kind.
func processes(kind func(cmd, env string) bool) (pids []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, f := range folders {
		cmd, err1 := os.ReadFile(filepath.Join(f, "cmdline"))
		env, err2 := os.ReadFile(filepath.Join(f, "environ"))
		pid, err3 := strconv.Atoi(filepath.Base(f))
		if err1 == nil && err2 == nil && err3 == nil && len(cmd) > 0 && kind(string(cmd), string(env)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// marked are the processes that rlca started on the box.
func (b *engineBox) marked() []int {
	return processes(func(_, env string) bool {
		return strings.Contains(env, "HOME="+b.home+"\x00") && strings.Contains(env, "RLCA_OWNER=rlca")
	})
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}

// kill9 ends a process without a chance to say goodbye, and waits until it is gone.
func kill9(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatalf("kill process %d: %v", pid, err)
	}
	eventually(t, "the end of a killed process", func() bool { return !alive(pid) })
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// lose kills the supervisor of a laptop, and shows that the next connect adopts the engine that it left.
func (b *engineBox) lose(u, other *user, model string, flags ...string) {
	b.t.Helper()
	pid, started := b.pid(), launches(u, other)
	kill9(b.t, u.supervisor())
	eventually(b.t, "the end of a dead supervisor's port", func() bool { // it has threads, which end one after the other
		conn, err := net.Dial("tcp", strings.TrimPrefix(u.url, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if !alive(pid) {
		b.t.Fatal("the engine died with the supervisor")
	}
	if other != nil {
		b.answers(other, model)
	}
	if said := b.connect(u, flags...); !strings.Contains(said, "on "+b.addr+", started by rlca") {
		b.t.Errorf("connect after the supervisor was killed says:\n%s", said)
	}
	b.answers(u, model)
	if n := launches(u, other); b.pid() != pid || n != started {
		b.t.Errorf("after the supervisor was killed the engine is process %d, it was %d, after %d starts", b.pid(), pid, n-started)
	}
}

// realModels is the folder of an Ollama's models with SmolLM2 in it.
func realModels(t *testing.T) (folder string) {
	t.Helper()
	smol := peer.Need(t, peer.Model)
	o := remotetest.StartOllama(t)
	defer o.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := remotetest.Create(ctx, o.URL, "smollm2:135m", smol, map[string]any{"parameters": map[string]any{"num_thread": 1}}); err != nil {
		t.Fatal(err)
	}
	return o.Models
}

// held is what a stop says of memory: what was measured before, and after.
var held = regexp.MustCompile(`: it held (\d+\.\d) MiB, (all of it is free again|and \d+\.\d [KM]iB more are free now)\n`)

// keeps shows that a laptop which is not the only one does not stop the engine without a yes.
func (b *engineBox) keeps(users ...*user) {
	b.t.Helper()
	for _, u := range users {
		_, said, code := u.rlca("disconnect", "--stop-engine")
		if code != exitHuman || !strings.Contains(said, "another laptop has connected to it") || !alive(b.pid()) {
			b.t.Errorf("disconnect --stop-engine from one of two laptops: exit %d, the engine lives: %v\n%s", code, alive(b.pid()), said)
		}
	}
}

// stop ends the engine from one laptop, reads how much it held, and shows that nothing is left.
func (b *engineBox) stop(u *user, least float64) {
	b.t.Helper()
	_, said := u.must("disconnect", "--stop-engine")
	m := held.FindStringSubmatch(said)
	if m == nil || strings.Contains(said, "warning") {
		b.t.Fatalf("disconnect --stop-engine does not say what came back:\n%s", said)
	}
	b.t.Logf("stop: %s", strings.TrimSpace(said))
	if n, _ := strconv.ParseFloat(m[1], 64); n < least {
		b.t.Errorf("it held %s MiB, want at least %.0f", m[1], least)
	}
	if left := b.marked(); len(left) > 0 {
		b.t.Errorf("processes are left: %v", left)
	}
	_, port, _ := net.SplitHostPort(b.addr)
	n, _ := strconv.Atoi(port)
	nothingLeft(b.t, u.laptop, b.home, n)
}

// interrupt begins a connect, and stops it with Ctrl-C once a moment has come. It returns what was said.
func (b *engineBox) interrupt(u *user, moment func() bool, flags ...string) string {
	b.t.Helper()
	return b.fails(u, moment, func(p *os.Process) { p.Signal(os.Interrupt) }, flags...)
}

// fails begins a connect, and does to it what makes it end once a moment has come. It returns what was said.
func (b *engineBox) fails(u *user, moment func() bool, blow func(*os.Process), flags ...string) string {
	b.t.Helper()
	cmd := exec.Command(u.path, b.args(append([]string{"connect", "box"}, flags...)...)...)
	cmd.Env, cmd.Dir = u.env, u.dir
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); !moment() && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	blow(cmd.Process)
	if err := cmd.Wait(); err == nil {
		b.t.Fatalf("a connect that was stopped ended well:\n%s", said.String())
	}
	return said.String()
}

// remnants is the size of what lies below a folder of the box and matches, as far as it is on the disk.
func remnants(pattern string) (n int64) {
	files, _ := filepath.Glob(pattern)
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			n += info.Size()
		}
	}
	return n
}

func TestRealOllamaOverSSH(t *testing.T) {
	peer.Need(t, "sshd")
	program := peer.Need(t, "ollama")
	t.Run("life", func(t *testing.T) {
		b := newEngineBox(t, "ollama", program, "OLLAMA_MODELS="+realModels(t))
		const model = "smollm2:135m"
		first, second := b.user(model, 8192), b.user(model, 8192)
		pid := b.both(model, 8192, first, second)
		b.keeps(first, second)
		b.lose(first, second, model)

		// The engine is killed while nobody is connected who would notice: its runner stays, with the memory. The doctor names
		// it and leaves it.
		first.must("disconnect")
		second.must("disconnect")
		kill9(t, pid)
		left := b.marked()
		if len(left) != 1 {
			t.Fatalf("after the engine was killed %v are left, want its runner", left)
		}
		runner := fmt.Sprintf("process %d (ollama runner, ", left[0])
		out, _, _ := second.rlca(b.args("doctor", "box")...)
		if !strings.Contains(out, runner) || !strings.Contains(out, "rlca disconnect box --stop-engine ends it") {
			t.Errorf("doctor says:\n%s", out)
		}
		if !alive(left[0]) {
			t.Error("doctor ended it")
		}
		said := b.connect(first)
		if !strings.Contains(said, "rlca: note    ending what a dead Ollama of rlca's left on the box: "+runner) {
			t.Errorf("connect says:\n%s", said)
		}
		if alive(left[0]) || b.pid() == pid {
			t.Errorf("the old runner lives: %v, the engine is process %d, it was %d", alive(left[0]), b.pid(), pid)
		}
		b.answers(first, model)
		b.connect(second)
		b.answers(second, model)
		if out, _, _ := second.rlca(b.args("doctor", "box")...); strings.Contains(out, runner) {
			t.Errorf("doctor says:\n%s", out)
		}
		second.must("disconnect")
		b.stop(first, 180) // its cache alone
	})
	t.Run("pull, cut and resumed", func(t *testing.T) {
		folder := t.TempDir()
		b := newEngineBox(t, "ollama", program, "OLLAMA_MODELS="+folder)
		reg := remotetest.StartRegistry(t)
		reg.Throttle(int(reg.Size / 6))
		u := b.user(reg.Model, 4096)
		said := b.interrupt(u, func() bool {
			if len(reg.Ranges()) == 0 {
				return false
			}
			time.Sleep(time.Second) // a sixth of it
			return true
		}, "--yes")
		if !strings.Contains(said, "stopped at the step model, undone: stopped the download, ") || !strings.Contains(said, " are kept") {
			t.Errorf("a pull that was cut says:\n%s", said)
		}
		if n := remnants(filepath.Join(folder, "blobs", "*-partial*")); n == 0 {
			t.Error("nothing of what came was kept")
		}
		if left := b.marked(); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
		cut := len(reg.Ranges())
		// Again, and the supervisor is killed: the pull is the box's own and goes on.
		said = b.fails(u, func() bool {
			if len(reg.Ranges()) == cut {
				return false
			}
			time.Sleep(500 * time.Millisecond)
			return true
		}, func(*os.Process) { kill9(t, u.supervisor()) }, "--yes")
		if !strings.Contains(said, "supervisor ended in the middle") || !alive(b.pid()) {
			t.Errorf("a pull whose supervisor was killed says:\n%s", said)
		}
		// The next connect follows it, through a connection that dies, too.
		killed := make(chan int)
		go func() {
			time.Sleep(1200 * time.Millisecond)
			killed <- b.sshd.KillConnections()
			reg.Throttle(0)
		}()
		said = b.connect(u, "--yes")
		if n := <-killed; n == 0 || !strings.Contains(said, "started by rlca") || launches(u) != 2 {
			t.Errorf("%d connections were killed, after %d starts connect says:\n%s", n, launches(u), said)
		}
		for _, r := range reg.Ranges()[cut:] {
			if strings.HasPrefix(r, "bytes=0-") {
				t.Errorf("the download began anew: %v", reg.Ranges())
			}
		}
		b.answers(u, reg.Model)
		u.must("disconnect", "--stop-engine")
		nothingLeft(t, u.laptop, b.home)
	})
	t.Run("adopted and exposed", func(t *testing.T) {
		b := newEngineBox(t, "ollama", program)
		_, port, _ := net.SplitHostPort(b.addr)
		foreign := exec.Command(program, "serve")
		foreign.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin", "OLLAMA_HOST=0.0.0.0:" + port, "OLLAMA_NO_CLOUD=1", "OMP_NUM_THREADS=1", "OLLAMA_NUM_PARALLEL=1"}
		if err := foreign.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			foreign.Wait()
			close(ended)
		}()
		defer func() {
			foreign.Process.Signal(os.Interrupt) // it ends its runners, too
			<-ended
		}()
		eventually(t, "a foreign Ollama", func() bool {
			resp, err := http.Get("http://" + b.addr + "/api/version")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
		if err := remotetest.CreateScripted(t.Context(), "http://"+b.addr, "scripted"); err != nil {
			t.Fatal(err)
		}
		u := b.user("scripted", 16384)
		said := b.connect(u)
		for _, want := range []string{
			"on " + b.addr + ", adopted", "loaded as scripted:latest-rlca16k, 16k context",
			"listens on *:" + port + ": open to its network without a password. To close it: start it with OLLAMA_HOST=127.0.0.1:" + port,
		} {
			if !strings.Contains(said, want) {
				t.Errorf("connect to a foreign Ollama does not say %q:\n%s", want, said)
			}
		}
		if h := b.status(u); h.Model.Context != 16384 || h.Engine.BoundLoopback == nil || *h.Engine.BoundLoopback {
			t.Errorf("status: %+v, %+v", h.Engine, h.Model)
		}
		out, _, code := u.rlca(b.args("doctor", "box")...)
		if code != exitFailed || !strings.Contains(out, "fail   bind      Ollama on box listens on every interface (*:"+port+")") || !strings.Contains(out, "→ start it with OLLAMA_HOST=127.0.0.1:"+port) {
			t.Errorf("doctor of an exposed Ollama: exit %d\n%s", code, out)
		}
		b.answers(u, "scripted:latest-rlca16k")
		if _, said := u.must("disconnect", "--stop-engine"); !strings.Contains(said, "removed scripted:latest-rlca16k") || strings.Contains(said, "stopped Ollama") {
			t.Errorf("disconnect --stop-engine of an adopted Ollama says:\n%s", said)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if text, err := ask(ctx, "http://"+b.addr, "scripted", "hello"); err != nil || text != scriptedSays || !alive(foreign.Process.Pid) {
			t.Errorf("the adopted Ollama after disconnect --stop-engine: %q, %v", text, err)
		}
		if _, err := ask(ctx, "http://"+b.addr, "scripted:latest-rlca16k", "hello"); err == nil {
			t.Error("the copy that was made is still there")
		}
		nothingLeft(t, u.laptop, b.home)

		// It is killed: what it leaves is named with the command that ends it, and neither doctor nor connect touch it.
		kill9(t, foreign.Process.Pid)
		left := processes(func(cmd, env string) bool {
			return strings.Contains(env, "OLLAMA_HOST=0.0.0.0:"+port+"\x00") && strings.Contains(cmd, "runner\x00")
		})
		if len(left) != 1 {
			t.Fatalf("after the foreign engine was killed %v are left, want its runner", left)
		}
		defer kill9(t, left[0])
		out, _, _ = u.rlca(b.args("doctor", "box")...)
		if want := fmt.Sprintf("process %d (ollama runner, ", left[0]); adoptsAll() &&
			(!strings.Contains(out, want) || !strings.Contains(out, "is left of an Ollama that is gone; rlca did not start it") || !strings.Contains(out, fmt.Sprintf("on the box: kill %d\n", left[0]))) {
			t.Errorf("doctor does not name %s:\n%s", want, out)
		}
		if _, said, code := u.rlca(b.args("connect", "box")...); code == 0 || strings.Contains(said, "ending what") || !alive(left[0]) {
			t.Errorf("connect beside it: exit %d, it lives: %v\n%s", code, alive(left[0]), said)
		}
	})
}

// adoptsAll reports whether a process whose parent died becomes a child of the first process of this machine, as on a box.
func adoptsAll() bool {
	out, err := exec.Command("/bin/sh", "-c", "sleep 5 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		return false
	}
	pid := strings.TrimSpace(string(out))
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	first, _ := os.ReadFile("/proc/1/cmdline")
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	return len(f) > 1 && f[1] == "1" && !strings.Contains(string(first), "python")
}

func TestRealLlamaServerOverSSH(t *testing.T) {
	peer.Need(t, "sshd")
	program := peer.Need(t, "llama-server")
	smol := peer.Need(t, peer.Model)
	t.Run("download, cut and resumed, and life", func(t *testing.T) {
		peer.Need(t, "curl")
		weights, err := os.ReadFile(smol)
		if err != nil {
			t.Fatal(err)
		}
		hub := remotetest.StartHub(t, "rlca/smol", remotetest.HubFile{Name: "smol-Q4_1.gguf", Data: weights, Large: true})
		hub.Throttle(len(weights) / 4)
		b := newEngineBox(t, "llama-server", program, "HF_ENDPOINT="+hub.URL)
		const model = "rlca/smol:Q4_1"
		first, second := b.user(model, 1024), b.user(model, 1024)
		parts := filepath.Join(b.home, ".cache", "huggingface", "hub", "models--rlca--smol", "blobs", "*")

		if _, said, code := first.rlca(b.args("connect", "box")...); code != exitHuman || !strings.Contains(said, "is not on the box") {
			t.Errorf("connect without a yes: exit %d\n%s", code, said)
		}
		said := b.interrupt(first, func() bool { return remnants(parts) > int64(len(weights)/4) }, "--yes")
		came := remnants(parts)
		if !strings.Contains(said, "stopped at the step model, undone: stopped the download, ") || came < int64(len(weights)/4) || came >= int64(len(weights)) {
			t.Errorf("a download that was cut left %d of %d bytes and says:\n%s", came, len(weights), said)
		}
		hub.Throttle(0)
		cut := len(hub.Ranges())
		hub.Cut(10 << 20) // and the hub breaks off once
		b.connect(first, "--yes")
		ranges := hub.Ranges()[cut:]
		if len(ranges) < 2 || ranges[0] == "" || ranges[0] == "bytes=0-" || ranges[1] == "" {
			t.Errorf("it was gone on with the ranges %q", ranges)
		}
		b.answers(first, model)
		first.must("disconnect", "--stop-engine")
		nothingLeft(t, first.laptop, b.home)
		for _, u := range []*user{first, second} {
			os.Remove(filepath.Join(u.run, "logs", "host-box.log"))
		}

		pid := b.both(model, 1024, first, second)
		b.keeps(first, second)
		b.lose(second, first, model)

		// One wants another context: whichever started it, it is not taken from the other without a yes.
		second.must("disconnect")
		_, said, code := second.rlca(b.args("connect", "box", "--context", "4096")...)
		if code != exitHuman || !strings.Contains(said, "serves "+model+" with a context of 1024, and another laptop has connected to it: to serve ") ||
			!strings.Contains(said, "rlca: hint: or take it away from whoever uses it: --yes") {
			t.Errorf("connect with another context: exit %d\n%s", code, said)
		}
		b.answers(first, model)
		if b.pid() != pid {
			t.Errorf("the engine is process %d, it was %d", b.pid(), pid)
		}
		b.connect(second, "--context", "4096", "--yes")
		if h := b.status(second); h.Model.Context != 4096 || b.pid() == pid {
			t.Errorf("after a yes the context is %d, the engine process %d, it was %d", h.Model.Context, b.pid(), pid)
		}
		b.answers(first, model) // its tunnel leads there, too
		// When links come back each laptop looks after its engine, and takes none away.
		pid = b.pid()
		b.sshd.KillConnections()
		eventually(t, "the first laptop's look at the engine", func() bool {
			text, _ := os.ReadFile(filepath.Join(first.run, "logs", "host-box.log"))
			return bytes.Contains(text, []byte("engine after the link came back")) && bytes.Contains(text, []byte("another laptop has connected to it"))
		})
		b.answers(first, model)
		b.answers(second, model)
		if b.pid() != pid {
			t.Errorf("after the links came back the engine is process %d, it was %d", b.pid(), pid)
		}

		// It is killed, and started anew by the next connect.
		pid = b.pid()
		kill9(t, pid)
		if left := b.marked(); len(left) > 0 {
			t.Errorf("after the engine was killed %v are left", left)
		}
		first.must("disconnect")
		second.must("disconnect")
		b.connect(second, "--context", "4096")
		if b.pid() == pid {
			t.Error("a dead engine is said to serve")
		}
		b.answers(second, model)
		b.stop(second, 50)
	})
	t.Run("adopted and exposed", func(t *testing.T) {
		foreign := remotetest.StartLlamaServer(t, smol, "-c", "1024", "--host", "0.0.0.0", "--alias", "theirs")
		b := newEngineBox(t, "llama-server", program)
		b.addr = foreign.Address
		_, port, _ := net.SplitHostPort(b.addr)
		u := b.user("theirs", 1024)
		said := b.connect(u)
		for _, want := range []string{
			"on " + b.addr + ", adopted", "1k context", "listens on 0.0.0.0:" + port + ": open to its network", "To close it: start it with --host 127.0.0.1",
		} {
			if !strings.Contains(said, want) {
				t.Errorf("connect to a foreign llama-server does not say %q:\n%s", want, said)
			}
		}
		if h := b.status(u); h.Model.Context != 1024 || h.Engine.BoundLoopback == nil || *h.Engine.BoundLoopback {
			t.Errorf("status: %+v, %+v", h.Engine, h.Model)
		}
		b.answers(u, "theirs")
		if _, said := u.must("disconnect", "--stop-engine"); strings.Contains(said, "stopped llama-server") {
			t.Errorf("disconnect --stop-engine of an adopted llama-server says:\n%s", said)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := remote.Answer(ctx, foreign.URL, "", "theirs"); err != nil || !alive(foreign.PID) {
			t.Errorf("the adopted llama-server after disconnect --stop-engine: %v", err)
		}
		nothingLeft(t, u.laptop, b.home)
	})
}
