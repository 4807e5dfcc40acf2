package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// These tests drive the real Ollama, one at a time, in an account of its own.

// realBox is an account whose PATH has the real Ollama, and an Ollama value for it, away from the usual port.
func realBox(t *testing.T) (*remotetest.Account, *Ollama) {
	t.Helper()
	program := peer.Need(t, "ollama")
	alone(t)
	bin := t.TempDir()
	if err := os.Symlink(program, filepath.Join(bin, "ollama")); err != nil {
		t.Skip(err)
	}
	acc := remotetest.NewAccount(t, bin)
	acc.Env = []string{"OMP_NUM_THREADS=1"}
	o := testOllama(t, acc, remotetest.FreePort(t))
	t.Cleanup(func() {
		if _, err := o.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
	})
	return acc, o
}

// testOllama drives the Ollama of an account whose own port is port.
func testOllama(t testing.TB, acc *remotetest.Account, port int) *Ollama {
	o := NewOllama(Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}, "")
	o.places, o.port, o.poll = nil, port, 100*time.Millisecond
	return o
}

// marked lists the processes of this machine that carry a mark of ours and the home of acc.
func marked(t testing.TB, acc *remotetest.Account) []string {
	t.Helper()
	var out []string
	for _, pid := range processes() {
		f := "/proc/" + pid + "/environ"
		env, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(env), "RLCA_OWNER=") && strings.Contains(string(env), "HOME="+acc.Home+"\x00") {
			out = append(out, f)
		}
	}
	return out
}

// processes are the numbers of those of this machine, none where there is no /proc.
func processes() (pids []string) {
	names, _ := os.ReadDir("/proc")
	for _, n := range names {
		if strings.Trim(n.Name(), "0123456789") == "" {
			pids = append(pids, n.Name())
		}
	}
	return pids
}

// chat asks for an answer as a harness does.
func chat(t testing.TB, url, model string) {
	t.Helper()
	if d, err := Answer(t.Context(), url, "", model); err != nil || d <= 0 {
		t.Fatalf("Answer(%s, %s) = %v, %v", url, model, d, err)
	}
}

// seed puts the scripted model into the account's models, through a server that is ended again.
func seed(t *testing.T, o *Ollama, acc *remotetest.Account) {
	t.Helper()
	s, _, err := o.serve(t.Context(), &journal{}, Plan{}, func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := remotetest.CreateScripted(t.Context(), "http://"+s.Address, "scripted"); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A server that is killed leaves its runner behind, with all the memory: Stop finds it by its mark.
func TestRealOrphan(t *testing.T) {
	t.Parallel()
	acc, o := realBox(t)
	seed(t, o, acc)
	s, err := o.Ensure(t.Context(), Plan{Model: "scripted", Context: 4096}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(s.PID)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	for range 250 {
		if len(marked(t, acc)) == 1 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if left := marked(t, acc); len(left) != 1 {
		t.Skipf("the runner did not outlive its server: %v", left)
	}
	if did, err := o.Stop(t.Context()); err != nil || len(did) != 1 || !strings.Contains(did[0], "left behind") {
		t.Errorf("Stop = %v, %v", did, err)
	}
	nothingLeft(t, acc)
}

func TestRealDerive(t *testing.T) {
	t.Parallel()
	alone(t)
	real := remotetest.StartOllama(t)
	ctx := t.Context()
	if err := remotetest.CreateScripted(ctx, real.URL, "scripted"); err != nil {
		t.Fatal(err)
	}
	acc := remotetest.NewAccount(t)
	o := testOllama(t, acc, int(portOf(real.Address)))
	plan := Plan{Model: "scripted", Context: 16384, MayDerive: true}
	s, err := o.Ensure(ctx, plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	const name = "scripted:latest-rlca16k"
	if !s.Adopted || s.Fresh || s.Added != name || s.Model.Name != name || s.Model.Base != "scripted:latest" || s.Model.Context != 16384 {
		t.Fatalf("Ensure gave %+v", s)
	}
	chat(t, real.URL, s.Model.Name)
	if l, err := o.Loaded(ctx, s); err != nil || l.Context != 16384 {
		t.Errorf("after a request, Loaded = %+v, %v", l, err)
	}
	if show, err := o.api(real.Address).show(ctx, name); err != nil || show.parameter("num_thread") != 1 || show.parameter("num_ctx") != 16384 {
		t.Errorf("the copy has parameters %q, %v: want the base's own, too", show.Parameters, err)
	}
	if files, err := o.Inventory(ctx); err != nil || len(files) != 1 || files[0].Name != "scripted:latest" {
		t.Errorf("Inventory = %+v, %v: want the base only", files, err)
	}
	// Another laptop uses the copy that is there, and does not make it its own.
	other := testOllama(t, acc, o.port)
	again, err := other.Ensure(ctx, plan, nil)
	if err != nil || again.Model.Name != name || again.Added != "" {
		t.Fatalf("the second Ensure gave %+v, %v", again, err)
	}
	if got, err := o.Find(ctx); err != nil || got.Model.Name != name || got.Model.Base != "scripted:latest" {
		t.Errorf("Find = %+v, %v", got, err)
	}
	did, err := other.Stop(ctx)
	if err != nil || !slices.Contains(did, "removed "+name) {
		t.Errorf("Stop = %v, %v", did, err)
	}
	tags, err := o.api(real.Address).tags(ctx)
	if err != nil || len(tags) != 1 || tags[0].Name != "scripted:latest" {
		t.Errorf("after Stop the server has %+v, %v", tags, err)
	}
	if _, err := os.Stat(filepath.Join(acc.Home, ".rlca")); err == nil {
		t.Error("Stop left ~/.rlca")
	}
	if out, err := exec.Command("kill", "-0", fmt.Sprint(real.PID)).CombinedOutput(); err != nil {
		t.Errorf("the adopted server is gone: %s", out)
	}
	// What is derived with the model's own limit asks for no more than that.
	plan.Context, plan.MayDerive = 1_000_000, false
	if s, err = o.Ensure(ctx, plan, nil); err != nil || s.Model.Context == 0 || s.Model.Context > 131072 {
		t.Errorf("Ensure with too much context = %+v, %v", s, err)
	}
	if undone := o.Undo(ctx, s); !slices.Contains(undone, "unloaded scripted:latest") {
		t.Errorf("Undo = %v", undone)
	}
}

func TestRealPull(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"curl", "held"} {
		t.Run(way, func(t *testing.T) {
			acc, o := realBox(t)
			if way == "held" {
				acc.Path = withoutCurl(t, acc.Path)
			} else {
				peer.Need(t, "curl")
			}
			reg := remotetest.StartRegistry(t)
			reg.Throttle(800_000)
			plan := Plan{Model: reg.Model, Context: 4096, MayPull: true}

			// Cut in the middle: what came is kept.
			ctx, cancel := context.WithCancel(t.Context())
			var seen int64
			_, err := o.Ensure(ctx, plan, func(p Progress) {
				if p.Step == StepPull && p.Done > 300_000 {
					seen = p.Done
					cancel()
				}
			})
			cancel()
			var stopped *PullStoppedError
			if !errors.As(err, &stopped) || !errors.Is(err, context.Canceled) || stopped.Running || stopped.Done < seen || seen == 0 {
				t.Fatalf("a cancelled pull: %v (%+v)", err, stopped)
			}
			if left := marked(t, acc); len(left) > 0 {
				t.Fatalf("a cancelled Ensure left %v", left)
			}
			if _, err := os.Stat(filepath.Join(acc.Home, ".rlca")); err == nil {
				t.Fatal("a cancelled Ensure left ~/.rlca")
			}

			// Again: it resumes, through an outage of the registry, and the bar never goes back.
			var last int64
			var total int64
			went := false
			s, err := o.Ensure(t.Context(), plan, func(p Progress) {
				if p.Step != StepPull {
					return
				}
				if p.Done < last {
					t.Errorf("the bar went back from %d to %d", last, p.Done)
				}
				last, total = p.Done, max(total, p.Total)
				if p.Done > reg.Size/2 && !went {
					went = true
					reg.Away(true)
					time.AfterFunc(500*time.Millisecond, func() { reg.Away(false); reg.Throttle(0) })
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if !went || total < reg.Size {
				t.Errorf("went away %v, total %d of %d", went, total, reg.Size)
			}
			resumed := false
			for _, r := range reg.Ranges() {
				resumed = resumed || !strings.HasPrefix(r, "bytes=0-")
			}
			if !resumed {
				t.Errorf("every download began anew: %v", reg.Ranges())
			}
			chat(t, "http://"+s.Address, s.Model.Name)
			if pulls, _ := filepath.Glob(filepath.Join(acc.Home, ".rlca", "pull-*")); len(pulls) > 0 {
				t.Errorf("the pull left %v", pulls)
			}
		})
	}
}

func withoutCurl(t *testing.T, path string) string { return without(t, path, "curl") }

// without is a PATH with every program of path but some.
func without(t *testing.T, path string, lacks ...string) string {
	t.Helper()
	var system, dirs []string
	flush := func() {
		if len(system) > 0 {
			dirs = append(dirs, mirrors.of(t, system, lacks))
		}
		system = nil
	}
	for _, d := range strings.Split(path, ":") {
		if slices.Contains([]string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"}, d) {
			system = append(system, d)
			continue
		}
		flush()
		own := t.TempDir()
		if err := mirror(own, []string{d}, lacks); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, own)
	}
	flush()
	return strings.Join(dirs, ":")
}

// mirrors are the folders of the system without some programs: thousands of links, so tests share them, and change nothing there.
var mirrors mirrored

type mirrored struct {
	mu   sync.Mutex // guards what follows
	made map[string]string
}

// of returns the folder that has what is in dirs, but not what it lacks.
func (m *mirrored) of(t testing.TB, dirs, lacks []string) string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	key := strings.Join(dirs, ":") + " " + strings.Join(lacks, " ")
	if m.made[key] == "" {
		dir, err := os.MkdirTemp("", "rlca-mirror-")
		if err == nil {
			err = errors.Join(os.Chmod(dir, 0o755), mirror(dir, dirs, lacks))
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.made == nil {
			m.made = map[string]string{}
		}
		m.made[key] = dir
	}
	return m.made[key]
}

// mirror links into a folder what is in others; the first of a name wins.
func mirror(dir string, from, lacks []string) error {
	seen := map[string]bool{}
	for _, name := range lacks {
		seen[name] = true
	}
	for _, d := range from {
		files, _ := os.ReadDir(d)
		for _, f := range files {
			if seen[f.Name()] {
				continue
			}
			seen[f.Name()] = true
			if err := os.Symlink(filepath.Join(d, f.Name()), filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestRealPullErrors(t *testing.T) {
	t.Parallel()
	acc, o := realBox(t)
	reg := remotetest.StartRegistry(t)
	s, _, err := o.serve(t.Context(), &journal{}, Plan{}, func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		status int
		text   string
		model  string
		class  string
	}{
		{"no such model", http.StatusNotFound, "", "", "name"},
		{"old engine", http.StatusPreconditionFailed, "The model you are attempting to pull requires a newer version of Ollama.", "", "version"},
		{"private", http.StatusUnauthorized, "", "", "auth"},
		{"no registry", 0, "", fmt.Sprintf("127.0.0.1:%d/a/b", remotetest.FreePort(t)), "network"},
		{"no name", 0, "", "a b:c", "name"},
	} {
		for _, way := range []string{"curl", "held"} {
			t.Run(c.name+"/"+way, func(t *testing.T) {
				reg.Refuse(c.status, c.text)
				model := c.model
				if model == "" {
					model = reg.Model
				}
				f := &facts{curl: "curl"}
				if way == "held" {
					f.curl = ""
				}
				o.poll = 20 * time.Millisecond
				err := o.pull(t.Context(), &journal{}, f, s.Address, model, func(Progress) {})
				var pull *PullError
				if !errors.As(err, &pull) || pull.Class != c.class {
					t.Errorf("pull = %v, want class %s", err, c.class)
				}
			})
		}
	}
	if pulls, _ := filepath.Glob(filepath.Join(acc.Home, ".rlca", "pull-*")); len(pulls) > 0 {
		t.Errorf("the pulls left %v", pulls)
	}
}
