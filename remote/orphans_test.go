package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A dead engine's child is found by its mark, named, and ended; one that lives is no orphan's parent.
func TestOrphans(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only /proc shows the mark of a child")
	}
	acc, v := fakeVLLMBox(t)
	ours := func() (list []Orphan) {
		t.Helper()
		all, err := Orphans(t.Context(), v.box)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if o.Ours {
				list = append(list, o)
			}
		}
		return list
	}
	s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if list := ours(); len(list) > 0 {
		t.Errorf("beside a server that lives there are orphans: %v", list)
	}
	kill9(t, s.PID)
	var list []Orphan
	for deadline := time.Now().Add(5 * time.Second); len(list) == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		list = ours()
	}
	if len(list) != 1 || list[0].Engine != "vLLM" || list[0].Bytes < 1<<20 || fmt.Sprint(list[0].PID) != session(s.PID)[0] || list[0].Name != "vllm" {
		t.Fatalf("Orphans = %+v, in the session are %v", list, session(s.PID))
	}
	if text := list[0].String(); !strings.HasPrefix(text, fmt.Sprintf("process %d (vllm, ", list[0].PID)) || !strings.HasSuffix(text, " MiB)") {
		t.Errorf("it is called %q", text)
	}
	// A list that is old does not end what was started since.
	old := list[0]
	old.mark = nonce()
	if err := EndOrphans(t.Context(), v.box, []Orphan{old}); err != nil || len(session(s.PID)) != 1 {
		t.Errorf("EndOrphans of another mark = %v, left %v", err, session(s.PID))
	}
	stranger := list[0]
	stranger.Ours = false
	if err := EndOrphans(t.Context(), v.box, []Orphan{stranger}); err != nil || len(session(s.PID)) != 1 {
		t.Errorf("EndOrphans of a stranger = %v, left %v", err, session(s.PID))
	}
	if err := EndOrphans(t.Context(), v.box, list); err != nil {
		t.Error(err)
	}
	if left := session(s.PID); len(left) > 0 {
		t.Errorf("EndOrphans left %v", left)
	}
	if list := ours(); len(list) > 0 {
		t.Errorf("after it there are %v", list)
	}
	nothingLeft(t, acc)
}

// What is left of an engine that rlca did not start is named with the command that ends it, and lives.
func TestForeignOrphans(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the parents of processes are read from /proc")
	}
	_, v := fakeVLLMBox(t)
	program := filepath.Join(t.TempDir(), "ollama")
	writeProgram(t, program, "#!/bin/sh\nwhile :; do sleep 0.1; done\n")
	out, err := exec.Command("/bin/sh", "-c", `"$0" runner --model /x --port 1 </dev/null >/dev/null 2>&1 & echo $!`, program).Output()
	pid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil || pid == 0 {
		t.Fatal(err, string(out))
	}
	defer kill9(t, pid)
	child := exec.Command(program, "runner", "--model", "/y", "--port", "2") // its parent is this test
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { child.Process.Kill(); child.Wait() }()
	var found *Orphan
	for deadline := time.Now().Add(5 * time.Second); found == nil && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		list, err := Orphans(t.Context(), v.box)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			if o.PID == child.Process.Pid {
				t.Errorf("a runner with a parent is called an orphan: %+v", o)
			}
			if o.PID == pid {
				found = &o
			}
		}
	}
	if found == nil {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		t.Skipf("an orphan here does not become a child of the first process: %s", stat)
	}
	if found.Ours || found.Another || found.Engine != "Ollama" || found.Name != "ollama runner" || found.Bytes == 0 || found.Command() != fmt.Sprintf("kill %d", pid) {
		t.Errorf("found %+v, to be ended by %q", *found, found.Command())
	}
	if found.Another = true; found.Command() != fmt.Sprintf("sudo kill %d", pid) {
		t.Errorf("another account's is ended by %q", found.Command())
	}
	if err := EndOrphans(t.Context(), v.box, []Orphan{*found}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// kill9 ends a process of this machine as the kernel does when memory is out: it has no time to end its children.
func kill9(t testing.TB, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Errorf("kill process %d: %v", pid, err)
	}
}

// The scripts say the same on every box: other shells, no /proc, no tool.
func TestOrphansAnywhere(t *testing.T) {
	t.Parallel()
	for _, w := range []struct {
		name, shell, lacks string
		bare               bool // no /proc
	}{
		{"sh", "", "", false}, {"zsh", "/usr/bin/zsh", "", false}, {"busybox", "busybox", "", false}, {"no timeout", "", "timeout", false}, {"no /proc", "", "timeout setsid", true},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			acc, v := fakeVLLMBox(t)
			bin, _, _ := strings.Cut(acc.Path, ":")
			smi := filepath.Join(bin, "nvidia-smi")
			writeProgram(t, smi, `#!/bin/sh
free=5120
while read -r p m; do
  kill -0 ${p%,} || continue
  free=4096
  case $1 in *compute-apps*) echo $p $m;; esac
done 2>/dev/null <"$HOME/apps"
case $1 in *memory.free*) echo $free; echo 1024;; esac
`)
			hubShellOf(t, acc, w.shell)
			if acc.Path = bin + ":" + acc.Path; w.lacks != "" {
				acc.Path = without(t, acc.Path, strings.Fields(w.lacks)...)
			}
			if w.bare {
				v.box.Run = func(ctx context.Context, script string) ([]byte, error) {
					return acc.Run(ctx, strings.ReplaceAll(script, "/proc/", "/no-proc/"))
				}
			}
			s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
			if err != nil {
				t.Fatal(err)
			}
			core := slices.DeleteFunc(session(s.PID), func(p string) bool { return p == fmt.Sprint(s.PID) })
			if len(core) != 1 {
				t.Fatalf("beside the server runs %v", core)
			}
			write(t, filepath.Join(acc.Home, "apps"), core[0]+", 512\n"+core[0]+", 512\n")
			m, err := v.holding(t.Context(), "vllm", nil)
			if err != nil || len(m.pids) != 2 || m.held < 1<<20 || m.onGPU() != 1<<30 || m.free != 5<<30 || (m.available < 0) != w.bare {
				t.Errorf("holding = %+v, %v", m, err)
			}
			for _, script := range []string{orphansScript, fmt.Sprintf(holdingScript, "vllm", "''"), fmt.Sprintf(usersScript, "x", "y", 80), fmt.Sprintf(foundScript, "x", "y"), fmt.Sprintf(forgetScript, "x", "y"), detachScript + fmt.Sprintf(endOrphansScript, "vllm", "x")} {
				if a, err := v.script(t.Context(), script); err != nil || len(a.lines["noise"]) > 0 {
					t.Errorf("a script says %q, %v:\n%s", a.lines["noise"], err, script)
				}
			}
			users := func() int {
				a, err := v.script(t.Context(), fmt.Sprintf(usersScript, "vllm", "x", portOf(s.Address)))
				if err != nil {
					t.Fatal(err)
				}
				return a.int("users")
			}
			conn, err := net.Dial("tcp", s.Address)
			if err != nil {
				t.Fatal(err)
			}
			if n := users(); n != 1 {
				t.Errorf("%d are connected, want 1", n)
			}
			conn.Close()
			kill9(t, s.PID)
			var list []Orphan
			for deadline := time.Now().Add(5 * time.Second); len(list) == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				if list, err = Orphans(t.Context(), v.box); err != nil {
					t.Fatal(err)
				}
				list = slices.DeleteFunc(list, func(o Orphan) bool { return !o.Ours })
			}
			if len(list) != 1 || fmt.Sprint(list[0].PID) != core[0] || list[0].Bytes == 0 || list[0].VRAMBytes != 1<<30 {
				t.Fatalf("Orphans = %+v, want process %s", list, core[0])
			}
			did, err := v.Stop(t.Context())
			if err != nil || len(did) != 1 || !strings.Contains(did[0], "had left behind: it held 1.0 GiB on the GPU, all of it is free again") {
				t.Errorf("Stop = %q, %v", did, err)
			}
			if left := session(s.PID); len(left) > 0 {
				t.Errorf("Stop left %v", left)
			}
		})
	}
}

func TestCards(t *testing.T) {
	t.Parallel()
	a := parseAnswer("n", []byte("n card=7, 512\nn card=7, 512\nn card=8, [N/A]\nn card=No devices were found\nn card=9,1\n"))
	if got := cardsOf(a); len(got) != 2 || got[7] != 1<<30 || got[9] != 1<<20 {
		t.Errorf("cardsOf = %v", got)
	}
}

func TestOrphanNames(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"/usr/local/bin/ollama runner --model /x": "ollama runner", "/usr/lib/ollama/llama-server --port 1": "llama-server",
		"VLLM::EngineCore": "VLLM::EngineCore", "VLLM::Worker_TP0": "VLLM::Worker_TP0", "": "without a name",
	} {
		if got := orphanName(args); got != want {
			t.Errorf("orphanName(%q) = %q, want %q", args, got, want)
		}
	}
}

// What came back is told with what was held, and what did not is a warning.
func TestCameBack(t *testing.T) {
	t.Parallel()
	const gb = 1 << 30
	gone := func(available, free int64) holding { return holding{available: available, free: free} }
	there := func(held, gpu, available, free int64) holding {
		h := holding{pids: []string{"7"}, held: held, available: available, free: free}
		if gpu > 0 {
			h.gpu = map[int]int64{7: gpu}
		}
		return h
	}
	for name, c := range map[string]struct {
		before, after holding
		words, warns  string
		all           bool
	}{
		"all of it":         {there(2*gb, 0, 4*gb, -1), gone(6*gb, -1), "it held 2.0 GiB, all of it is free again", "", true},
		"macOS":             {there(2*gb, 0, -1, -1), gone(-1, -1), "it held 2.0 GiB", "", true},
		"not yet":           {there(2*gb, 0, 4*gb, -1), there(2*gb, 0, 4*gb, -1), "it held 2.0 GiB, and 0.0 KiB more are free now", "of the 2.0 GiB that it held only 0.0 KiB came back", false},
		"nothing to see":    {there(20<<20, 0, 4*gb, -1), gone(3*gb, -1), "it held 20.0 MiB", "", true},
		"a little is noise": {there(gb/2, 0, 4*gb, -1), gone(4*gb, -1), "it held 512.0 MiB, and 0.0 KiB more are free now", "", false},
		"a GPU": {there(gb, 20*gb, 4*gb, 3*gb), gone(5*gb, 23*gb),
			"it held 20.0 GiB on the GPU, all of it is free again; it held 1.0 GiB, all of it is free again", "", true},
		"a GPU that does not let go": {there(gb, 20*gb, 4*gb, 3*gb), gone(5*gb, 4*gb), "it held 20.0 GiB on the GPU, and 1.0 GiB more are free now; it held 1.0 GiB, all of it is free again", "of the 20.0 GiB that it held on the GPU only 1.0 GiB came back", false},
		"unified":                    {there(gb, 60*gb, 10*gb, -1), gone(70*gb, -1), "it held 61.0 GiB, all of it is free again", "", true},
		"a process that the driver still counts": {there(gb, 20*gb, 4*gb, 3*gb), holding{available: 5 * gb, free: 23 * gb, gpu: map[int]int64{7: gb}},
			"all of it is free again", "the GPU's driver still counts 1.0 GiB for process 7", false},
	} {
		words, warning, all := cameBack(c.before, c.after)
		if !strings.Contains(words, c.words) || (warning == "") != (c.warns == "") || !strings.Contains(warning, c.warns) || all != c.all {
			t.Errorf("%s: %q, %q, %v", name, words, warning, all)
		}
	}
}

// A server that somebody else may be using is not taken away without a yes.
func TestMayReplace(t *testing.T) {
	t.Parallel()
	acc, e := fakeBox(t)
	model := scriptedFile(t, acc, "models/m.gguf")
	const me, you = "0123abcd", "89ef4567"
	plan := Plan{Model: model, Context: 4096, Laptop: me}
	s, err := e.Ensure(t.Context(), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := e.look(t.Context())
	if err != nil || !f.alive || laptopOf(f.ours.mark) != me {
		t.Fatalf("look = %+v, %v", f, err)
	}
	var busy *InUseError

	// Another laptop: it has the same model and context without a question, and anything else only with a yes.
	again := plan
	again.Laptop = you
	if other, err := e.Ensure(t.Context(), again, nil); err != nil || other.PID != s.PID {
		t.Errorf("Ensure of the same by another laptop = %+v, %v", other, err)
	}
	again.Context = 8192
	_, err = e.Ensure(t.Context(), again, nil)
	if !errors.As(err, &busy) || !busy.Other || busy.Connections != 0 || busy.Serves != "m with a context of 4096" || busy.Want != model {
		t.Fatalf("Ensure by another laptop = %v (%+v)", err, busy)
	}
	if want := "the llama-server on " + s.Address + " of the box serves m with a context of 4096, and another laptop has connected to it: to serve " + model + " it would have to be started anew"; err.Error() != want {
		t.Errorf("it says %q, want %q", err, want)
	}
	if now, err := e.Find(t.Context()); err != nil || now.PID != s.PID {
		t.Errorf("after that Find = %+v, %v", now, err)
	}

	// The one that started it, while somebody is connected.
	conn, err := net.Dial("tcp", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	plan.Context = 8192
	if _, err = e.Ensure(t.Context(), plan, nil); !errors.As(err, &busy) || !busy.Other || busy.Connections != 1 || busy.Users() != "1 connection to it is open, another laptop has connected to it" {
		t.Errorf("Ensure while it is used = %v (%+v)", err, busy)
	}
	conn.Close()

	// The other one has found it above, and may be idle. A new one is nobody's but the one's who starts it.
	if _, err = e.Ensure(t.Context(), plan, nil); !errors.As(err, &busy) || !busy.Other || busy.Connections != 0 {
		t.Errorf("Ensure while another laptop may be idle = %v", err)
	}
	plan.MayReplace = true
	if next, err := e.Ensure(t.Context(), plan, nil); err != nil || !next.Fresh || next.Model.Context != 8192 {
		t.Errorf("Ensure with a yes = %+v, %v", next, err)
	}
	plan.MayReplace, plan.Context = false, 4096
	next, err := e.Ensure(t.Context(), plan, nil)
	if err != nil || !next.Fresh || next.Model.Context != 4096 {
		t.Errorf("Ensure when nobody uses it = %+v, %v", next, err)
	}
	plan.Laptop, plan.Context, plan.MayReplace = you, 8192, true
	if last, err := e.Ensure(t.Context(), plan, nil); err != nil || !last.Fresh || last.Model.Context != 8192 {
		t.Errorf("Ensure with a yes = %+v, %v", last, err)
	}
}

// vLLM keeps the same rule.
func TestMayReplaceVLLM(t *testing.T) {
	t.Parallel()
	_, v := fakeVLLMBox(t)
	plan := Plan{Model: scriptedRepo, Context: 4096, Laptop: "0123abcd"}
	s, err := v.Ensure(t.Context(), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan.Laptop, plan.Context = "89ef4567", 8192
	var busy *InUseError
	if _, err := v.Ensure(t.Context(), plan, nil); !errors.As(err, &busy) || !busy.Other || !strings.Contains(busy.Serves, "context of 4096") {
		t.Errorf("Ensure by another laptop = %v", err)
	}
	if now, err := v.Find(t.Context()); err != nil || now.PID != s.PID {
		t.Errorf("after that Find = %+v, %v", now, err)
	}
	plan.MayReplace = true
	if last, err := v.Ensure(t.Context(), plan, nil); err != nil || !last.Fresh || last.PID == s.PID {
		t.Errorf("Ensure with a yes = %+v, %v", last, err)
	}
}

func TestMarks(t *testing.T) {
	t.Parallel()
	for laptop, want := range map[string]string{"": "", "0123abcd": "0123abcd", "bbbb": "bbbb", "me@home": "", "by": ""} {
		mark := markFor(laptop)
		if got := laptopOf(mark); got != want || strings.Trim(mark, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("markFor(%q) = %q, of %q", laptop, mark, got)
		}
	}
}
