//go:build unix

package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rlca/remote/remotetest"
)

const (
	mebi = 1 << 20
	gibi = 1 << 30
)

// meter is an account whose memory is what a file of the test says.
type meter struct {
	*remotetest.Account
	file string
	// edits are more replacements in each script, old and new in turn.
	edits []string
}

func newMeter(t *testing.T, dirs ...string) *meter {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the watch reads /proc")
	}
	m := &meter{Account: remotetest.NewAccount(t, dirs...), file: filepath.Join(t.TempDir(), "meminfo")}
	m.left(t, 8*gibi)
	return m
}

// left sets how many bytes are available.
func (m *meter) left(t *testing.T, n int64) {
	t.Helper()
	write(t, m.file+".new", fmt.Sprintf("MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:   %8d kB\nBuffers:               1 kB\n", n>>10))
	if err := os.Rename(m.file+".new", m.file); err != nil {
		t.Fatal(err)
	}
}

func (m *meter) Run(ctx context.Context, script string) ([]byte, error) {
	return m.Account.Run(ctx, strings.NewReplacer(append([]string{"/proc/meminfo", m.file}, m.edits...)...).Replace(script))
}

func (m *meter) host(t *testing.T) *host {
	h := newHost(Box{Run: m.Run, Dial: m.Dial, Log: testLog(t)})
	h.places = nil
	return &h
}

// ollama is a fake Ollama with one model on that box, and what drives it.
func (m *meter) ollama(t *testing.T) *Ollama {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "ollama")); err != nil {
		t.Skip(err)
	}
	m.Path = bin + ":" + m.Path
	write(t, filepath.Join(m.Home, ".ollama/models/scripted:latest"), "")
	o := testOllama(t, m.Account, remotetest.FreePort(t))
	o.box.Run = m.Run
	t.Cleanup(func() {
		if _, err := o.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
		nothingLeft(t, m.Account)
	})
	return o
}

// watches are those of marked that are a watch, and engines the others.
func watches(t testing.TB, acc *remotetest.Account) (watches, engines []string) {
	t.Helper()
	for _, f := range marked(t, acc) {
		if env, err := os.ReadFile(f); err == nil && strings.Contains(string(env), "RLCA_OWNER=watch") {
			watches = append(watches, filepath.Dir(f))
		} else if err == nil {
			engines = append(engines, filepath.Dir(f))
		}
	}
	return watches, engines
}

// soon waits for something that is to become true.
func soon(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("after 30 s still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// goesOn reports whether a process is there, and not only waiting to be reaped.
func goesOn(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
	return !strings.HasPrefix(state, " Z") && !strings.HasPrefix(state, " X")
}

// bystander is a process of the account that rlca has nothing to do with, although it carries a mark of another launch.
func bystander(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	cmd.Env = append(os.Environ(), "RLCA_OWNER=rlcaofsomebodyelse")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if !goesOn(cmd.Process.Pid) {
			t.Error("the bystander was ended")
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// The watch ends the process, its group and who left it, and nobody else, whichever shell the box has.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	type way struct {
		name  string
		shell string   // stands in for /bin/sh
		lacks []string // programs that the box has not
		bare  bool     // nothing but busybox
	}
	ways := []way{{name: "as it is"}, {name: "no bash", lacks: []string{"bash"}}, {name: "no setsid", lacks: []string{"setsid"}},
		{name: "no setsid, no perl", lacks: []string{"setsid", "perl"}}}
	for _, sh := range []string{"dash", "zsh", "mksh", "busybox"} {
		if path, err := exec.LookPath(sh); err == nil {
			ways = append(ways, way{name: sh, shell: path, lacks: []string{"bash"}, bare: sh == "busybox"})
		}
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			m := newMeter(t)
			if w.bare {
				bin := t.TempDir()
				if out, err := exec.Command(w.shell, "--install", "-s", bin).CombinedOutput(); err != nil {
					t.Skipf("busybox --install: %v: %s", err, out)
				}
				m.Path = bin
			}
			m.Path = without(t, m.Path, w.lacks...)
			if w.shell != "" {
				sh := filepath.Join(t.TempDir(), "sh")
				if err := os.Symlink(w.shell, sh); err != nil {
					t.Fatal(err)
				}
				m.Shell, m.edits = sh, []string{"/bin/sh", sh}
			}
			bystander(t)
			h := m.host(t)
			mark := nonce()
			apart := "setsid"
			if slices.Contains(w.lacks, "setsid") {
				apart = ""
			}
			l, err := h.launch(t.Context(), mark, job{name: "engine", log: "engine.log", floor: 4 * gibi,
				argv: []string{"/bin/sh", "-c", apart + " sleep 300 & sleep 300 & echo hello; wait"}})
			if err != nil || !l.ours || l.pid == 0 {
				t.Fatalf("launch = %+v, %v", l, err)
			}
			t.Cleanup(func() {
				if _, err := h.halt(context.WithoutCancel(t.Context()), "engine", "", "engine.log"); err != nil {
					t.Error(err)
				}
				nothingLeft(t, m.Account)
			})
			soon(t, "three processes and their watch", func() bool {
				ws, es := watches(t, m.Account)
				return len(ws) == 1 && len(es) == 3
			})
			for range 15 { // it stays quiet while there is enough
				time.Sleep(100 * time.Millisecond)
				if ok, lines, err := h.alive(t.Context(), "engine", mark, "engine.log", 0); err != nil || !ok {
					t.Fatalf("alive = %v, %q, %v", ok, lines, err)
				}
			}
			m.left(t, 3*gibi)
			took := soon(t, "the process is gone", func() bool { return !goesOn(l.pid) })
			ok, lines, err := h.alive(t.Context(), "engine", mark, "engine.log", 0)
			if err != nil || ok {
				t.Fatalf("alive = %v, %v", ok, err)
			}
			if text, ok := watchdogSaid(lines); !ok || text != "the memory watchdog on the box ended it: 3.0 GiB were left, 4.0 GiB must stay" {
				t.Errorf("the log %q says %q", lines, text)
			}
			soon(t, "all that carry the mark are gone, and the watch", func() bool { return len(marked(t, m.Account)) == 0 })
			t.Logf("gone after %v", took)
		})
	}
}

// Under bash a round of the watch starts no process.
func TestWatchdogForksNothing(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("no bash here")
	}
	m := newMeter(t)
	h := m.host(t)
	if _, err := h.launch(t.Context(), nonce(), job{name: "engine", log: "engine.log", floor: gibi, argv: []string{"sleep", "300"}}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		h.halt(t.Context(), "engine", "", "engine.log")
		nothingLeft(t, m.Account)
	}()
	// What a process has used of children that it waited for: fields 16 and 17 of stat are their time, 11 their faults.
	children := func() string {
		ws, _ := watches(t, m.Account)
		if len(ws) != 1 {
			t.Fatalf("watches %v", ws)
		}
		stat, err := os.ReadFile(filepath.Join(ws[0], "stat"))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		return strings.Join([]string{f[8], f[10], f[13], f[14]}, " ")
	}
	before := children()
	soon(t, "the watch has begun its rounds", func() bool {
		last := before
		time.Sleep(time.Second)
		before = children()
		return before == last
	})
	time.Sleep(2 * time.Second)
	if after := children(); after != before {
		t.Errorf("what its children took went from %q to %q", before, after)
	}
}

// It is there with the engine and gone with it, and it is not the engine.
func TestWatchdogGoesWithTheEngine(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	o := m.ollama(t)
	plan := Plan{Model: "scripted", Floor: gibi}
	begin := func() *Server {
		t.Helper()
		s, err := o.Ensure(t.Context(), plan, nil)
		if err != nil || !s.Fresh {
			t.Fatalf("Ensure = %+v, %v", s, err)
		}
		ws, es := watches(t, m.Account)
		if len(ws) != 1 || len(es) != 1 || es[0] != fmt.Sprintf("/proc/%d", s.PID) {
			t.Fatalf("watches %v, engines %v, want one and %d", ws, es, s.PID)
		}
		for dir, want := range map[string]string{ws[0]: "", es[0]: "900"} {
			if got, err := os.ReadFile(filepath.Join(dir, "oom_score_adj")); err != nil || (strings.TrimSpace(string(got)) == "900") != (want == "900") {
				t.Errorf("%s/oom_score_adj = %s, %v", dir, got, err)
			}
		}
		if found, err := o.Find(t.Context()); err != nil || found.PID != s.PID || found.Adopted {
			t.Errorf("Find = %+v, %v", found, err)
		}
		return s
	}
	begin()
	if did, err := o.Stop(t.Context()); err != nil || len(did) != 1 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	nothingLeft(t, m.Account)

	s := begin()
	if undone := o.Undo(t.Context(), s); len(undone) != 1 {
		t.Errorf("Undo = %v", undone)
	}
	nothingLeft(t, m.Account)

	s = begin()
	syscall.Kill(s.PID, syscall.SIGKILL)
	soon(t, "the watch of a killed engine is gone", func() bool { return len(marked(t, m.Account)) == 0 })
	if did, err := o.Stop(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	nothingLeft(t, m.Account)

	// The next start ends what the one before it has left: here a watch that does not listen.
	s = begin()
	ws, _ := watches(t, m.Account)
	pid, _ := strconv.Atoi(filepath.Base(ws[0]))
	syscall.Kill(pid, syscall.SIGSTOP) // deaf to all but KILL
	syscall.Kill(s.PID, syscall.SIGKILL)
	soon(t, "the engine is gone", func() bool { return !goesOn(s.PID) })
	begin()
	if goesOn(pid) {
		t.Error("the watch of the dead engine was left")
	}

	plan.Floor = 0
	if _, err := o.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := o.Ensure(t.Context(), plan, nil); err != nil {
		t.Fatal(err)
	}
	if ws, es := watches(t, m.Account); len(ws) != 0 || len(es) != 1 {
		t.Errorf("without a floor: watches %v, engines %v", ws, es)
	}
}

// A start that is ended says by whom.
func TestWatchdogEndsAStart(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	o := m.ollama(t)
	write(t, filepath.Join(m.Home, "fake"), "mute")
	m.left(t, 812*mebi)
	var start *StartError
	_, err := o.Ensure(t.Context(), Plan{Model: "scripted", Floor: 4 * gibi}, nil)
	if !errors.As(err, &start) || start.Reason != "the memory watchdog on the box ended it: 812 MiB were left, 4.0 GiB must stay" {
		t.Errorf("Ensure = %v", err)
	}
	nothingLeft(t, m.Account)
}

// What fails later because the server was ended says so, too, and only then.
func TestWatchdogEndsAServer(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	o := m.ollama(t)
	s, err := o.Ensure(t.Context(), Plan{Model: "scripted", Floor: 4 * gibi}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the load broke off")
	if err := o.overrun(t.Context(), o.kept.started, cause); err != cause {
		t.Errorf("overrun of a server that runs = %v", err)
	}
	if err := o.overrun(t.Context(), nil, cause); err != cause {
		t.Errorf("overrun of nothing = %v", err)
	}
	m.left(t, gibi)
	soon(t, "the server is gone", func() bool { return !goesOn(s.PID) })
	var start *StartError
	if err := o.overrun(t.Context(), o.kept.started, cause); !errors.As(err, &start) || !errors.Is(err, cause) || !strings.Contains(start.Reason, "1.0 GiB were left") {
		t.Errorf("overrun = %v", err)
	}
	// The one after it must not be blamed for that.
	m.left(t, 8*gibi)
	if s, err = o.Ensure(t.Context(), Plan{Model: "scripted", Floor: 4 * gibi}, nil); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(s.PID, syscall.SIGKILL)
	soon(t, "the server is gone", func() bool { return !goesOn(s.PID) })
	if err := o.overrun(t.Context(), o.kept.started, cause); err != cause {
		t.Errorf("overrun of a server that somebody else killed = %v", err)
	}
}

// An engine that was adopted gets no watch.
func TestWatchdogLeavesTheAdopted(t *testing.T) {
	acc, o := adopted(t, newFake("m:8b"))
	if s, err := o.Ensure(t.Context(), Plan{Model: "m:8b", Floor: 1 << 50}, nil); err != nil || !s.Adopted {
		t.Errorf("Ensure = %+v, %v", s, err)
	}
	if left := marked(t, acc); len(left) > 0 {
		t.Errorf("there are %v", left)
	}
}

// A box without /proc, as a Mac is: sysctl says how hard memory is pressed.
func TestWatchdogByPressure(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	bin := t.TempDir()
	level := filepath.Join(bin, "level")
	write(t, level, "1\n")
	writeProgram(t, filepath.Join(bin, "sysctl"), "#!/bin/sh\n[ \"$*\" = '-n kern.memorystatus_vm_pressure_level' ] && cat "+level+"\n")
	m.Path = bin + ":" + m.Path
	m.edits = []string{"/proc/", "/no-proc/"}
	m.file = "/no-proc/meminfo"
	h := m.host(t)
	mark := nonce()
	l, err := h.launch(t.Context(), mark, job{name: "engine", log: "engine.log", floor: 4 * gibi, argv: []string{"/bin/sh", "-c", "sleep 300 & sleep 300"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := h.halt(t.Context(), "engine", "", "engine.log"); err != nil {
			t.Error(err)
		}
		nothingLeft(t, m.Account)
	}()
	time.Sleep(3 * time.Second)
	if ok, lines, err := h.alive(t.Context(), "engine", mark, "engine.log", 0); err != nil || !ok {
		t.Fatalf("alive = %v, %q, %v", ok, lines, err)
	}
	write(t, level, "4\n")
	soon(t, "the process is gone", func() bool { return !goesOn(l.pid) })
	_, lines, err := h.alive(t.Context(), "engine", mark, "engine.log", 0)
	if text, ok := watchdogSaid(lines); err != nil || !ok || !strings.Contains(text, "critical") {
		t.Errorf("the log %q says %q, %v", lines, text, err)
	}
	soon(t, "the watch is gone", func() bool { return len(marked(t, m.Account)) == 0 })
}

func TestWatchdogSaid(t *testing.T) {
	for line, want := range map[string]string{
		"rlca: watchdog: only 812 MiB of the 4096 MiB that must stay were left, ended process 4711":                 "the memory watchdog on the box ended it: 812 MiB were left, 4.0 GiB must stay",
		"rlca: watchdog: only 12000 MiB of the 99999999999999999999 MiB that must stay were left, ended process 47": "the memory watchdog on the box ended it: 11.7 GiB were left, 99999999999999999999 MiB must stay",
		"rlca: watchdog: memory pressure was critical, ended process 4711":                                          "the memory watchdog on the box ended it: the system called its memory critical",
		"rlca: watchdog: this box does not tell how much memory is left, nothing is watched":                        "",
		"time=now msg=\"rlca: watchdog: only 1 MiB\"":                                                               "",
		"": "",
	} {
		text, ok := watchdogSaid([]string{"a line before", line})
		if text != want || ok != (want != "") {
			t.Errorf("watchdogSaid(%q) = %q, %v, want %q", line, text, ok, want)
		}
	}
}

// hogEnv makes the test binary take memory: so many bytes, step by step.
const hogEnv = "RLCA_TEST_HOG"

// TestWatchdogHog is no test but the hog, in a process that the test after it starts.
func TestWatchdogHog(t *testing.T) {
	size, err := strconv.Atoi(os.Getenv(hogEnv))
	if err != nil {
		return // nobody has asked for it
	}
	const step = 20 * mebi
	for range min(size, gibi) / step {
		b, err := syscall.Mmap(-1, 0, step, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		time.Sleep(25 * time.Millisecond)
	}
	time.Sleep(5 * time.Minute)
}

// available is what this machine has left, in bytes.
func available(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	var n int64
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Skip(err)
	}
	return n << 10
}

// The real thing: memory that runs short, and a process that takes it.
func TestWatchdogOnRealMemory(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	if n := available(t); n < 3*gibi {
		t.Skipf("only %s are available", gib(n))
	}
	acc := remotetest.NewAccount(t)
	h := newHost(Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)})
	defer func() {
		if _, err := h.halt(t.Context(), "hog", "", "hog.log"); err != nil {
			t.Error(err)
		}
		nothingLeft(t, acc)
	}()
	bystander(t)
	for range 3 { // others on this machine may give back what the hog takes
		mark := nonce()
		floor := available(t) - 300*mebi
		l, err := h.launch(t.Context(), mark, job{name: "hog", log: "hog.log", fresh: true, floor: floor, env: []string{hogEnv + "=" + strconv.Itoa(700*mebi)},
			argv: []string{self, "-test.run=^TestWatchdogHog$"}})
		if err != nil {
			t.Fatal(err)
		}
		var crossed time.Time
		var low int64
		for start := time.Now(); goesOn(l.pid) && time.Since(start) < 20*time.Second; time.Sleep(2 * time.Millisecond) {
			if n := available(t); n < floor && crossed.IsZero() {
				crossed = time.Now()
			} else if n < floor {
				low = max(low, floor-n)
			}
		}
		if goesOn(l.pid) {
			if _, err := h.halt(t.Context(), "hog", mark, "hog.log"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		_, lines, err := h.alive(t.Context(), "hog", mark, "hog.log", 0)
		text, ok := watchdogSaid(lines)
		if err != nil || !ok {
			t.Fatalf("the log says %q, %v", lines, err)
		}
		t.Logf("%s; %v after the floor was crossed, at most %s below it", text, time.Since(crossed).Round(time.Millisecond), gib(low))
		return
	}
	t.Skip("three times this machine did not come to the floor")
}
