package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// adopted is an account on whose usual port f answers.
func adopted(t *testing.T, f *fakeOllama) (*remotetest.Account, *Ollama) {
	acc := remotetest.NewAccount(t)
	o := testOllama(t, acc, int(portOf(f.start(t))))
	o.poll = 10 * time.Millisecond
	return acc, o
}

func TestContextOfAnAdoptedServer(t *testing.T) {
	t.Parallel()
	spill := func(context int) float64 { return min(1, 40000/float64(context)) }
	for _, c := range []struct {
		name   string
		fake   func(f *fakeOllama)
		plan   Plan
		model  string // what is asked for in the end
		tokens int
		loads  int
	}{
		{"its own does", func(f *fakeOllama) { f.context = 65536 }, Plan{Context: 65536, MayDerive: true}, "m:8b", 65536, 1},
		{"more than wanted does, on the GPU", func(f *fakeOllama) { f.context = 131072 }, Plan{Context: 65536, MayDerive: true}, "m:8b", 131072, 1},
		{"so much that it spills", func(f *fakeOllama) { f.context, f.vram = 131072, spill }, Plan{Context: 32768, MayDerive: true}, "m:8b-rlca32k", 32768, 2},
		{"too small", nil, Plan{Context: 65536, MayDerive: true}, "m:8b-rlca64k", 65536, 2},
		{"too small, and no copy is allowed", nil, Plan{Context: 65536}, "m:8b", 4096, 1},
		{"an odd number", nil, Plan{Context: 50000, MayDerive: true}, "m:8b-rlca50000", 50000, 2},
		{"no wish", nil, Plan{MayDerive: true}, "m:8b", 4096, 1},
		{"too old to tell", func(f *fakeOllama) { f.old = true }, Plan{Context: 65536, MayDerive: true}, "m:8b", 0, 1},
		{"no model gives more than it was trained with", func(f *fakeOllama) { f.models["m:8b"].trained = 4096 }, Plan{Context: 65536, MayDerive: true}, "m:8b", 4096, 1},
		{"the model's own parameter", func(f *fakeOllama) { f.context, f.models["m:8b"].numCtx = 65536, 2048 }, Plan{Context: 65536, MayDerive: true}, "m:8b-rlca64k", 65536, 2},
		{"a copy of somebody else", func(f *fakeOllama) { f.models["m:8b-rlca64k"] = &fakeModel{numCtx: 65536, trained: 131072} }, Plan{Context: 65536, MayDerive: true}, "m:8b-rlca64k", 65536, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake("m:8b", "other:latest")
			if c.fake != nil {
				c.fake(f)
			}
			before := len(f.models)
			acc, o := adopted(t, f)
			c.plan.Model = "M:8b"
			s, err := o.Ensure(t.Context(), c.plan, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !s.Adopted || s.Model.Name != c.model || s.Model.Context != c.tokens || s.Model.Base != "m:8b" || f.loads != c.loads {
				t.Errorf("Ensure = %+v after %d loads, want %s with %d after %d", s.Model, f.loads, c.model, c.tokens, c.loads)
			}
			if !slices.Equal(f.loaded, []string{c.model}) {
				t.Errorf("in memory: %v", f.loaded)
			}
			if (s.Added != "") != (len(f.models) > before) {
				t.Errorf("Added %q, models before %d, now %d", s.Added, before, len(f.models))
			}
			// The second time the copy is taken at once.
			again, err := testOllama(t, acc, o.port).Ensure(t.Context(), c.plan, nil)
			if err != nil || again.Model.Name != c.model || again.Added != "" {
				t.Errorf("the second Ensure = %+v, %v", again, err)
			}
			if undone := o.Undo(t.Context(), s); len(undone) != 1 {
				t.Errorf("Undo = %v", undone)
			}
			if len(f.models) != before || len(f.loaded) > 0 {
				t.Errorf("after Undo the server has %d models of %d, in memory %v", len(f.models), before, f.loaded)
			}
			nothingLeft(t, acc)
		})
	}
}

func TestPlacementIsReadBack(t *testing.T) {
	f := newFake("m:8b")
	f.vram = func(int) float64 { return 0.25 }
	_, o := adopted(t, f)
	s, err := o.Ensure(t.Context(), Plan{Model: "m:8b"}, nil)
	if err != nil || s.Model.SizeBytes != fakeSize || s.Model.VRAMBytes != fakeSize/4 {
		t.Errorf("Ensure = %+v, %v", s, err)
	}
}

func TestModelTrouble(t *testing.T) {
	f := newFake("qwen3-coder:30b", "qwen3:8b", "gemma3:27b")
	f.models["big:cloud"] = &fakeModel{remote: "https://example.com"}
	acc, o := adopted(t, f)

	var missing *ModelMissingError
	_, err := o.Ensure(t.Context(), Plan{Model: "qwen3-coder:480b"}, nil)
	if !errors.As(err, &missing) || len(missing.Near) != 3 || missing.Near[0] != "qwen3-coder:30b" || missing.Near[1] != "qwen3:8b" {
		t.Errorf("Ensure of a missing model = %v, near %v", err, missing)
	}
	if _, err := o.Ensure(t.Context(), Plan{Model: "big:cloud"}, nil); err == nil || !strings.Contains(err.Error(), "prompts would leave the box") {
		t.Errorf("Ensure of a stub = %v", err)
	}
	if files, err := o.Inventory(t.Context()); err != nil || len(files) != 3 {
		t.Errorf("Inventory = %v, %v: want no stub", files, err)
	}
	f.loadFail = "model requires more system memory (35.2 GiB) than is available (21.8 GiB)"
	var load *LoadError
	if _, err := o.Ensure(t.Context(), Plan{Model: "qwen3:8b"}, nil); !errors.As(err, &load) || !load.OutOfMemory || load.Model != "qwen3:8b" {
		t.Errorf("Ensure of a model too big = %v", err)
	}
	f.loadFail = "llama runner process has terminated: exit status 2"
	if _, err := o.Ensure(t.Context(), Plan{Model: "qwen3:8b"}, nil); !errors.As(err, &load) || load.OutOfMemory {
		t.Errorf("Ensure with a runner that crashes = %v", err)
	}
	if f.count("POST /api/pull") > 0 || f.count("POST /api/create") > 0 {
		t.Errorf("something was pulled or made: %v", f.asked)
	}
	nothingLeft(t, acc)
}

func TestLoadOutlivesALostLink(t *testing.T) {
	f := newFake("m:8b")
	f.slow = 150 * time.Millisecond
	_, o := adopted(t, f)
	var dials atomic.Int32
	dial := o.box.Dial
	o.box.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if n := dials.Add(1); err == nil && f.count("POST /api/show") > 0 && f.count("POST /api/generate") == 0 && n > 0 {
			if f.count("GET /api/ps") > 0 { // the load comes next: cut it in the middle
				time.AfterFunc(50*time.Millisecond, func() { conn.Close() })
			}
		}
		return conn, err
	}
	s, err := o.Ensure(t.Context(), Plan{Model: "m:8b"}, nil)
	if err != nil || f.count("POST /api/generate") != 2 || f.loads != 1 {
		t.Errorf("Ensure = %+v, %v after %d requests and %d loads", s, err, f.count("POST /api/generate"), f.loads)
	}
}

func TestCancelledLoadIsUnloaded(t *testing.T) {
	f := newFake("m:8b")
	f.slow = time.Minute
	acc, o := adopted(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := o.Ensure(ctx, Plan{Model: "m:8b"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ensure = %v", err)
	}
	nothingLeft(t, acc)
}

// Who imitates Ollama only in part, or says nothing, is foreign.
func TestFingerprint(t *testing.T) {
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	defer silent.Close()
	greets := func(version string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/":
				w.Write([]byte("Ollama is running"))
			case "/api/version":
				w.Write([]byte(version))
			default:
				http.NotFound(w, r)
			}
		}
	}
	acc := remotetest.NewAccount(t)
	o := testOllama(t, acc, 1)
	for _, c := range []struct {
		name, addr string
		want       identity
	}{
		{"ollama", serve(greets(`{"version":"0.32.9"}`)), identity{who: itself, version: "0.32.9"}},
		{"an emulator", serve(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				w.Write([]byte("Ollama is running"))
				return
			}
			http.NotFound(w, r)
		}), identity{who: foreign, said: "Ollama is running"}},
		{"no version", serve(greets(`{}`)), identity{who: foreign, said: "Ollama is running"}},
		{"a web server", serve(http.NotFound), identity{who: foreign, said: "404 page not found"}},
		{"closes at once", silent.Addr().String(), identity{who: foreign}},
	} {
		if got := o.fingerprint(t.Context(), c.addr); got != c.want {
			t.Errorf("%s: fingerprint = %+v, want %+v", c.name, got, c.want)
		}
	}
	free := net.JoinHostPort("127.0.0.1", "1")
	if got := o.fingerprint(t.Context(), free); got.who != nobody || got.err == nil {
		t.Errorf("fingerprint of a closed port = %+v", got)
	}
}

// A pull on a server that answers, with the loop on the box and without.
func TestPullOnAFake(t *testing.T) {
	t.Parallel()
	layer := `{"status":"pulling aa","digest":"sha256:aa","total":1000,"completed":1000}`
	for _, c := range []struct {
		name  string
		lines []string
		class string // empty is a success
	}{
		{"fine", []string{`{"status":"pulling manifest"}`, layer, `{"status":"success"}`}, ""},
		{"disk full", []string{layer, `{"error":"write /x: no space left on device"}`}, "space"},
		{"too old", []string{`{"error":"pull model manifest: 412: requires a newer version of Ollama"}`}, "version"},
		{"sharded", []string{`{"error":"400: this is a sharded GGUF. Ollama does not support this yet"}`}, "format"},
		{"no internet", []string{`{"error":"dial tcp: lookup registry on 127.0.0.53:53: no such host"}`}, "network"},
	} {
		for _, way := range []string{"curl", "held"} {
			if way == "curl" && c.name == "no internet" {
				continue // four attempts take the loop seven seconds; the real test has one
			}
			t.Run(c.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				f := newFake()
				f.pull = c.lines
				acc, o := adopted(t, f)
				if way == "held" {
					acc.Path = withoutCurl(t, acc.Path)
				}
				s, err := o.Ensure(t.Context(), Plan{Model: "new:1b", MayPull: true}, nil)
				if c.class == "" {
					if err != nil || s.Model.Name != "new:1b" {
						t.Errorf("Ensure = %+v, %v", s, err)
					}
					nothingLeft(t, acc)
					return
				}
				var pull *PullError
				if !errors.As(err, &pull) || pull.Class != c.class || pull.Model != "new:1b" {
					t.Errorf("Ensure = %v, want class %s", err, c.class)
				}
				nothingLeft(t, acc)
			})
		}
	}
}

// A disk so full that not even the last word of the loop can be written: the name of a file says it.
func TestPullLoopOnAFullDisk(t *testing.T) {
	curl := peer.Need(t, "curl")
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	f := newFake()
	f.pull = []string{`{"status":"pulling aa","digest":"sha256:aa","total":1000,"completed":10}`, `{"error":"write: no space left on device"}`}
	progress := filepath.Join(t.TempDir(), "pull-x.ndjson")
	write(t, progress, "")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf(loopScript, endingPattern(), barrenLimit, barrenAtFirst), "sh", progress, "http://"+f.start(t)+"/api/pull", `{"model":"m"}`)
	cmd.Env = []string{"PATH=" + filepath.Dir(curl) + ":/usr/bin:/bin"}
	cmd.Stdout = full
	if err := cmd.Run(); err == nil {
		t.Error("the loop thinks that it has succeeded")
	}
	if _, err := os.Stat(strings.TrimSuffix(progress, ".ndjson") + ".full"); err != nil {
		t.Error(err)
	}
}

// A second laptop looks on while the first one's pull runs; when it leaves, the pull goes on, and it can come back.
func TestPullIsShared(t *testing.T) {
	t.Parallel()
	peer.Need(t, "curl")
	acc, o := realBox(t)
	reg := remotetest.StartRegistry(t)
	reg.Throttle(400_000)
	s, _, err := o.serve(t.Context(), &journal{}, Plan{}, func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	f, err := o.look(t.Context())
	if err != nil || f.curl == "" {
		t.Fatalf("the box has no curl: %v", err)
	}
	first := make(chan error, 1)
	begun := make(chan struct{})
	var once atomic.Bool
	go func() {
		first <- o.pull(t.Context(), &journal{}, f, s.Address, reg.Model, func(p Progress) {
			if p.Done > 100_000 && once.CompareAndSwap(false, true) {
				close(begun)
			}
		})
	}()
	select {
	case <-begun:
	case err := <-first:
		t.Fatalf("the first pull ended: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	other := testOllama(t, acc, o.port)
	var j journal
	err = other.pull(ctx, &j, f, s.Address, reg.Model, func(p Progress) {
		if p.Done > 200_000 {
			cancel()
		}
	})
	cancel()
	var stopped *PullStoppedError
	if !errors.As(err, &stopped) || !stopped.Running || len(j.pulls) > 0 {
		t.Errorf("the second laptop's pull = %v, journal %v", err, j.pulls)
	}
	reg.Throttle(0)
	if err := <-first; err != nil {
		t.Errorf("the first pull = %v", err)
	}
	for _, r := range reg.Ranges() {
		if !strings.HasPrefix(r, "bytes=0-") {
			t.Errorf("the weights were asked for again: %v", reg.Ranges())
		}
	}
	if files, _ := filepath.Glob(filepath.Join(acc.Home, ".rlca", "pull-*")); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

// The scripts must do on any box: other shells, noise around them, no /proc, no setsid, no perl.
func TestScriptsAnywhere(t *testing.T) {
	t.Parallel()
	type way struct {
		name  string
		shell string
		lacks []string
		edit  func(string) string
		noise bool
	}
	ways := []way{
		{name: "noise", noise: true},
		{name: "no setsid", lacks: []string{"setsid"}},
		{name: "no setsid, no perl", lacks: []string{"setsid", "perl"}},
		{name: "no /proc", edit: func(s string) string { return strings.ReplaceAll(s, "/proc/", "/no-proc/") }, lacks: []string{"setsid", "netstat"}},
	}
	for _, sh := range []string{"/bin/dash", "/bin/bash", "/bin/zsh", "/usr/bin/zsh", "/bin/ksh", "/usr/bin/ksh", "/bin/mksh"} {
		if _, err := os.Stat(sh); err == nil {
			ways = append(ways, way{name: sh, shell: sh})
		}
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			bin := t.TempDir()
			acc := remotetest.NewAccount(t, bin)
			kinds[0].install(t, bin)
			if acc.Shell = w.shell; filepath.Base(w.shell) == "zsh" { // as /bin/sh it goes by that name, and is another shell
				acc.Shell = filepath.Join(t.TempDir(), "sh")
				if err := os.Symlink(w.shell, acc.Shell); err != nil {
					t.Fatal(err)
				}
			}
			if len(w.lacks) > 0 {
				acc.Path = without(t, acc.Path, w.lacks...)
			}
			o := testOllama(t, acc, remotetest.FreePort(t))
			o.box.Run = func(ctx context.Context, script string) ([]byte, error) {
				if w.edit != nil {
					script = w.edit(script)
				}
				out, err := acc.Run(ctx, script)
				if w.noise {
					out = append([]byte("Welcome to the box!\r\n\x1b]0;title\x07*** 3 updates"), append(out, "logout\n"...)...)
					err = errors.New("exit status 1")
				}
				return out, err
			}
			model := kinds[0].seed(t, acc, o)
			s, err := o.Ensure(t.Context(), Plan{Model: model, Context: 8192}, nil)
			if err != nil {
				t.Fatal(err)
			}
			other := testOllama(t, acc, o.port)
			other.box.Run = o.box.Run
			again, err := other.Find(t.Context())
			if err != nil || again.PID != s.PID || again.Adopted {
				t.Errorf("Find = %+v, %v", again, err)
			}
			if did, err := o.Stop(t.Context()); err != nil || len(did) != 1 {
				t.Errorf("Stop = %v, %v", did, err)
			}
			nothingLeft(t, acc)
		})
	}
	t.Run("no shell", func(t *testing.T) {
		t.Parallel()
		o := NewOllama(Box{Run: func(context.Context, string) ([]byte, error) {
			return []byte("This account is currently not available.\n"), nil
		}}, "")
		if _, err := o.Find(t.Context()); err == nil || !strings.Contains(err.Error(), "not available") {
			t.Errorf("Find = %v", err)
		}
	})
	t.Run("home cannot be written", func(t *testing.T) {
		t.Parallel()
		bin := t.TempDir()
		acc := remotetest.NewAccount(t, bin)
		kinds[0].install(t, bin)
		write(t, filepath.Join(acc.Home, ".rlca"), "a file where a folder should be")
		o := testOllama(t, acc, remotetest.FreePort(t))
		var start *StartError
		if _, err := o.Ensure(t.Context(), Plan{Model: "m"}, nil); !errors.As(err, &start) || !strings.Contains(err.Error(), "~/.rlca") {
			t.Errorf("Ensure = %v", err)
		}
		if left := marked(t, acc); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	t.Run("a lock that a dead process holds", func(t *testing.T) {
		t.Parallel()
		bin := t.TempDir()
		acc := remotetest.NewAccount(t, bin)
		kinds[0].install(t, bin)
		write(t, filepath.Join(acc.Home, ".rlca/x"), "")
		os.Remove(filepath.Join(acc.Home, ".rlca/x"))
		if err := os.Symlink(fmt.Sprintf("%d,12345678901", os.Getpid()), filepath.Join(acc.Home, ".rlca/lock")); err != nil { // the number lives, but was born at another time
			t.Fatal(err)
		}
		o := testOllama(t, acc, remotetest.FreePort(t))
		model := kinds[0].seed(t, acc, o)
		if _, err := o.Ensure(t.Context(), Plan{Model: model}, nil); err != nil {
			t.Errorf("Ensure = %v", err)
		}
		if _, err := o.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		nothingLeft(t, acc)
	})
}

// The lock lets one script in at a time, also when its holders die.
func TestLock(t *testing.T) {
	acc := remotetest.NewAccount(t)
	o := testOllama(t, acc, 1)
	write(t, filepath.Join(acc.Home, ".rlca/n"), "0\n")
	var wg sync.WaitGroup
	const laptops, rounds = 6, 4
	for i := range laptops {
		wg.Go(func() {
			for r := range rounds {
				if i == 0 {
					if r < 2 { // dies with the lock in its hand
						acc.Run(t.Context(), fmt.Sprintf(prelude, "NN", "")+`lock; kill -9 $$`)
					}
					continue
				}
				a, err := o.script(t.Context(), `
why=$(lock 2>&1) || { say error "$why"; return; }
n=$(cat "$D/n"); nap; echo $((n+1)) > "$D/n"
unlock`)
				if err != nil || a.get("error") != "" {
					t.Errorf("laptop %d: %v %s", i, err, a.get("error"))
				}
			}
		})
	}
	wg.Wait()
	if n, err := os.ReadFile(filepath.Join(acc.Home, ".rlca/n")); err != nil || strings.TrimSpace(string(n)) != fmt.Sprint((laptops-1)*rounds) {
		t.Errorf("counted %s, want %d: two were in at once", n, (laptops-1)*rounds)
	}
}
