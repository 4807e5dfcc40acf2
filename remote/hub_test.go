package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// hubBytes are n bytes that look like nothing.
func hubBytes(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// checkpointFiles are a repository as they are: two parts of weights, and what others have beside them.
func checkpointFiles(size int) []remotetest.HubFile {
	return []remotetest.HubFile{
		{Name: ".gitattributes", Data: []byte("x")}, {Name: "README.md", Data: []byte("# x")},
		{Name: "config.json", Data: []byte(`{"model_type":"qwen3"}`)},
		{Name: "tokenizer.json", Data: hubBytes(40_000, 9), Large: true},
		{Name: "chat_template.jinja", Data: []byte("{{ x }}")}, {Name: "empty.txt"},
		{Name: "model.safetensors.index.json", Data: []byte(`{"metadata":{"total_size":1}}`)},
		{Name: "model-00001-of-00002.safetensors", Data: hubBytes(size, 1), Large: true},
		{Name: "model-00002-of-00002.safetensors", Data: hubBytes(size/2, 2), Large: true},
		{Name: "consolidated.safetensors", Data: hubBytes(999, 3), Large: true},
		{Name: "pytorch_model.bin", Data: hubBytes(999, 4), Large: true},
		{Name: "onnx/model.onnx", Data: hubBytes(999, 5), Large: true}, {Name: "onnx/config.json", Data: []byte("{}")},
		{Name: "original/model.safetensors", Data: hubBytes(999, 6), Large: true},
		{Name: "1_Pooling/config.json", Data: []byte(`{"pool":1}`)},
		{Name: "it's a [set] & 100%.json", Data: []byte(`{"odd":1}`)},
		{Name: "same.json", Data: []byte(`{"odd":1}`)}, // the same bytes, and one place in the cache
	}
}

var checkpointNames = []string{
	"1_Pooling/config.json", "chat_template.jinja", "config.json", "empty.txt", "it's a [set] & 100%.json", "model-00001-of-00002.safetensors",
	"model-00002-of-00002.safetensors", "model.safetensors.index.json", "same.json", "tokenizer.json",
}

// hubBox is an account that knows the hub, and a fetcher for it that asks often.
func hubBox(t testing.TB, hub *remotetest.Hub) (*remotetest.Account, *fetcher) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a box has a POSIX shell")
	}
	peer.Need(t, "curl")
	acc := remotetest.NewAccount(t)
	acc.Env = []string{"HF_ENDPOINT=" + hub.URL}
	f := hubFetcher(t, acc)
	t.Cleanup(func() {
		if _, err := f.stopRepos(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
		hubLeft(t, acc)
	})
	return acc, f
}

func hubFetcher(t testing.TB, acc *remotetest.Account) *fetcher {
	f := newFetcher(newHost(Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}))
	f.poll, f.places = 50*time.Millisecond, nil
	return f
}

// hubLeft says what a download left that has ended.
func hubLeft(t testing.TB, acc *remotetest.Account) {
	t.Helper()
	if left := marked(t, acc); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if files, _ := filepath.Glob(filepath.Join(acc.Home, ".rlca/*")); len(files) > 0 {
		t.Errorf("left %v", files)
	}
}

// hubPython3 gives an account a python3, if it has none.
func hubPython3(t testing.TB, acc *remotetest.Account) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(python, "-c", "import sys; print(sys.executable)").Output(); err == nil {
		python = strings.TrimSpace(string(out)) // itself, where the first is a script
	}
	for _, dir := range strings.Split(acc.Path, ":") {
		if there(filepath.Join(dir, "python3")) {
			return
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(python, filepath.Join(dir, "python3")); err != nil {
		t.Fatal(err)
	}
	acc.Path += ":" + dir
}

func hubFolder(acc *remotetest.Account) string {
	return filepath.Join(acc.Home, ".cache/huggingface/hub/models--org--name")
}

// hubSum is what has to come, each thing once.
func hubSum(files []remotetest.HubFile) (n int64) {
	once := map[string]bool{}
	for _, f := range files {
		if slices.Contains(checkpointNames, f.Name) && !once[string(f.Data)] {
			once[string(f.Data)] = true
			n += int64(len(f.Data))
		}
	}
	return n
}

// hubWhole looks that the snapshot has these files and no others, with the bytes of the hub, and that nothing is unfinished.
func hubWhole(t testing.TB, folder string, files []remotetest.HubFile, names []string) {
	t.Helper()
	snap := filepath.Join(folder, "snapshots", remotetest.Commit)
	var have []string
	filepath.WalkDir(snap, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(snap, path)
			have = append(have, name)
			if link, err := os.Readlink(path); err != nil || filepath.IsAbs(link) {
				t.Errorf("%s leads to %q, %v", name, link, err)
			}
		}
		return nil
	})
	if !slices.Equal(have, names) {
		t.Errorf("the snapshot has %q, want %q", have, names)
	}
	for _, f := range files {
		if !slices.Contains(names, f.Name) {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(snap, f.Name)); err != nil || !bytes.Equal(b, f.Data) {
			t.Errorf("%s has %d bytes, %v, want the %d of the hub", f.Name, len(b), err, len(f.Data))
		}
	}
	if rest, _ := filepath.Glob(filepath.Join(folder, "blobs/*.incomplete")); len(rest) > 0 {
		t.Errorf("unfinished: %v", rest)
	}
	if ref, err := os.ReadFile(filepath.Join(folder, "refs/main")); err != nil || string(ref) != remotetest.Commit {
		t.Errorf("refs/main is %q, %v", ref, err)
	}
}

// bar takes the words of a download and looks that it never goes back and is about the whole.
func bar(t *testing.T, each func(Progress)) func(Progress) {
	var last Progress
	return func(p Progress) {
		if p.Step != StepPull || p.Text == "" {
			t.Errorf("progress %+v", p)
		}
		if p.Total > 0 {
			if p.Done < last.Done || p.Done > p.Total || last.Total > 0 && p.Total != last.Total {
				t.Errorf("the bar went from %d of %d to %d of %d", last.Done, last.Total, p.Done, p.Total)
			}
			last = p
		}
		checkClean(t, p.Text)
		if each != nil {
			each(p)
		}
	}
}

// Every shell and every tool brings the whole repository, and ReadModel finds it.
func TestHubWhole(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(300_000)
	for _, c := range []struct{ name, shell, lacks string }{
		{"sh", "", ""}, {"dash", "/bin/dash", ""}, {"bash", "/bin/bash", ""}, {"zsh", "/usr/bin/zsh", ""}, {"ksh", "/bin/ksh", ""}, {"busybox", "busybox", ""},
		{"no curl", "", "curl"}, {"no sha256sum", "", "sha256sum"}, {"no setsid, gzip", "", "setsid gzip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hub := remotetest.StartHub(t, "org/name", files...)
			acc, f := hubBox(t, hub)
			if c.lacks != "" {
				acc.Path = without(t, acc.Path, strings.Fields(c.lacks)...)
			}
			if c.lacks == "curl" {
				hubPython3(t, acc)
			}
			hubShellOf(t, acc, c.shell)
			s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil))
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(hubFolder(acc), "snapshots", remotetest.Commit); s.Path != want || s.Format != "safetensors" || s.Bytes != 450_000 || s.Parts != 2 || s.Missing != 0 {
				t.Errorf("it is %+v, want %s with 450000 bytes", s, want)
			}
			hubWhole(t, hubFolder(acc), files, checkpointNames)
			if s, err := ReadModel(t.Context(), f.box, "org/name", 0); err != nil || s.Bytes != 450_000 {
				t.Errorf("ReadModel = %+v, %v", s, err)
			}
			hubLeft(t, acc)
			// Again: nothing is fetched.
			before := len(hub.Ranges())
			if _, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil)); err != nil {
				t.Error(err)
			}
			if got := hub.Ranges()[before:]; len(got) > 0 {
				t.Errorf("fetched again: %q", got)
			}
		})
	}
}

// hubShellOf makes an account run its scripts with another shell.
func hubShellOf(t testing.TB, acc *remotetest.Account, shell string) {
	t.Helper()
	if shell == "" {
		return
	}
	dir := t.TempDir()
	if shell == "busybox" {
		program, err := exec.LookPath("busybox")
		if err != nil {
			t.Skip(err)
		}
		shell = program
		for _, name := range strings.Fields("ls sed dd gzip head tail tr cat mkdir grep ps cut df find wc ln mv rm rmdir chmod sha256sum sleep date env setsid sh readlink id sort") {
			if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		curl, err := exec.LookPath("curl")
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(curl, filepath.Join(dir, "curl")); err != nil {
			t.Fatal(err)
		}
		acc.Path = dir
	}
	if _, err := os.Stat(shell); err != nil {
		t.Skip(err)
	}
	acc.Shell = filepath.Join(dir, "sh")
	if err := os.Symlink(shell, acc.Shell); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

// Whoever stops it keeps what came; the next one goes on, through a cut, an outage, and words of a hub that is overloaded.
func TestHubResume(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"curl", "python3"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			files := checkpointFiles(1_000_000)
			hub := remotetest.StartHub(t, "org/name", files...)
			acc, f := hubBox(t, hub)
			if way == "python3" {
				acc.Path = without(t, acc.Path, "curl")
				hubPython3(t, acc)
			}
			hub.Throttle(600_000)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var j journal
			_, err := f.fetch(ctx, &j, Repo{Name: "org/name"}, bar(t, func(p Progress) {
				if p.Done > 300_000 {
					if len(j.pulls) != 1 {
						t.Errorf("the journal has %v", j.pulls)
					}
					cancel()
				}
			}))
			var stopped *PullStoppedError
			if !errors.As(err, &stopped) || !errors.Is(err, context.Canceled) || stopped.Running || stopped.Done < 300_000 || stopped.Total != hubSum(files) || stopped.Model != "org/name" {
				t.Fatalf("a cancelled pull: %v (%+v)", err, stopped)
			}
			if len(j.pulls) > 0 {
				t.Errorf("the journal still has %v", j.pulls)
			}
			hubLeft(t, acc)
			if s, err := ReadModel(t.Context(), f.box, "org/name", 0); err == nil {
				t.Errorf("half a model is found: %+v", s)
			}

			before := len(hub.Ranges())
			hub.Refuse(503, 2, 0)
			hub.Cut(200_000)
			went := false
			var texts []string
			s, err := f.fetch(t.Context(), &j, Repo{Name: "org/name"}, bar(t, func(p Progress) {
				texts = append(texts, p.Text)
				if p.Done > 1_000_000 && !went {
					went = true
					hub.Away(true)
					time.AfterFunc(700*time.Millisecond, func() { hub.Away(false); hub.Throttle(0) })
				}
			}))
			if err != nil || s.Bytes != 1_500_000 {
				t.Fatalf("%+v, %v", s, err)
			}
			hubWhole(t, hubFolder(acc), files, checkpointNames)
			all := strings.Join(texts, "\n")
			for _, want := range []string{"trying again after: the hub answers 503", " of 1.5 MiB", "(on the box; safe to close the lid)"} {
				if !strings.Contains(all, want) {
					t.Errorf("progress never said %q:\n%s", want, all)
				}
			}
			resumed := 0
			for _, r := range hub.Ranges()[before:] {
				if r != "" && r != "bytes=0-" {
					resumed++
				}
			}
			if !went || resumed < 2 {
				t.Errorf("went away %v, ranges %q", went, hub.Ranges()[before:])
			}
		})
	}
}

// Another laptop follows the download that runs; when it goes, or loses its link, the download does not.
func TestHubFollow(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(1_500_000)
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	hub.Throttle(500_000)
	var wg sync.WaitGroup
	defer wg.Wait()
	under := make(chan struct{})
	first := make(chan error, 1)
	wg.Go(func() {
		told := false
		_, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, func(p Progress) {
			if p.Done > 100_000 && !told {
				told = true
				close(under)
			}
		}))
		if !told {
			close(under)
		}
		first <- err
	})
	<-under
	asked := hub.Asked()

	// One that leaves.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var j journal
	_, err := hubFetcher(t, acc).fetch(ctx, &j, Repo{Name: "org/name"}, bar(t, func(p Progress) {
		if p.Done > 200_000 {
			cancel()
		}
	}))
	var stopped *PullStoppedError
	if !errors.As(err, &stopped) || !stopped.Running || stopped.Done == 0 || len(j.pulls) > 0 {
		t.Fatalf("a follower that leaves: %v (%+v)", err, stopped)
	}
	// One whose link is lost.
	cut := hubFetcher(t, acc)
	down := errors.New("the link is down")
	scripts := 0
	cut.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		if scripts++; scripts > 3 {
			return nil, down
		}
		return acc.Run(ctx, script)
	}
	if _, err := cut.fetch(t.Context(), &j, Repo{Name: "org/name"}, bar(t, nil)); !errors.Is(err, down) || errors.As(err, new(*PullError)) {
		t.Errorf("a follower without a link: %v", err)
	}
	if n := len(marked(t, acc)); n == 0 && runtime.GOOS == "linux" {
		t.Fatal("the download ended with its followers")
	}
	// One that stays, through a link that comes and goes.
	stays := hubFetcher(t, acc)
	flaky := 0
	stays.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		if flaky++; flaky%3 == 2 {
			return nil, down
		}
		return acc.Run(ctx, script)
	}
	hub.Throttle(0)
	if s, err := stays.fetch(t.Context(), &j, Repo{Name: "org/name"}, bar(t, nil)); err != nil && !errors.Is(err, down) || err == nil && s.Bytes != 2_250_000 {
		t.Errorf("one that stays: %+v, %v", s, err)
	}
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	if n := hub.Asked(); n > asked+2 { // at most once more for each that came too late
		t.Errorf("the hub was asked %d times", n)
	}
	hubWhole(t, hubFolder(acc), files, checkpointNames)
}

// The link is lost once, at any script, before it ran or after: nobody notices, and nothing is fetched twice.
func TestHubLostOnce(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 5; at++ {
		for _, ran := range []bool{false, true} {
			t.Run(fmt.Sprintf("script %d, ran %t", at, ran), func(t *testing.T) {
				t.Parallel()
				files := checkpointFiles(300_000)
				hub := remotetest.StartHub(t, "org/name", files...)
				acc, f := hubBox(t, hub)
				scripts := 0
				f.box.Run = func(ctx context.Context, script string) ([]byte, error) {
					if scripts++; scripts != at {
						return acc.Run(ctx, script)
					}
					if ran {
						out, err := acc.Run(ctx, script)
						if err != nil {
							return out, err
						}
						if at == 3 { // the launch: let it end before it is asked for again
							for range 200 {
								if len(marked(t, acc)) == 0 {
									break
								}
								time.Sleep(50 * time.Millisecond)
							}
						}
					}
					return nil, errors.New("the link is lost")
				}
				s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil))
				if err != nil || s.Bytes != 450_000 || scripts < at {
					t.Fatalf("%+v, %v after %d scripts", s, err, scripts)
				}
				hubWhole(t, hubFolder(acc), files, checkpointNames)
				if n := len(hub.Ranges()); n != 3 {
					t.Errorf("%d transfers of 3 large files", n)
				}
				hubLeft(t, acc)
			})
		}
	}
}

// Laptops that begin at once get one download.
func TestHubTwo(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(400_000)
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, _ := hubBox(t, hub)
	hub.Throttle(300_000)
	var wg sync.WaitGroup
	for range 4 {
		f := hubFetcher(t, acc)
		wg.Go(func() {
			if s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil)); err != nil || s.Bytes != 600_000 {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
	wg.Wait()
	hubWhole(t, hubFolder(acc), files, checkpointNames)
	if n := len(hub.Ranges()); n != 3 {
		t.Errorf("%d transfers of 3 large files", n)
	}
}

// The link is lost for good: the download goes on and ends by itself, and the next one finds all of it.
func TestHubAlone(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(600_000)
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	hub.Throttle(600_000)
	down := errors.New("the link is down")
	lost := false
	f.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		if lost {
			return nil, down
		}
		return acc.Run(ctx, script)
	}
	var j journal
	if _, err := f.fetch(t.Context(), &j, Repo{Name: "org/name"}, bar(t, func(p Progress) { lost = lost || p.Done > 50_000 })); !errors.Is(err, down) || len(j.pulls) != 1 {
		t.Fatalf("without a link: %v, journal %v", err, j.pulls)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(hubFolder(acc), "refs/main")); err == nil && len(marked(t, acc)) == 0 {
			break
		}
	}
	hubWhole(t, hubFolder(acc), files, checkpointNames)
	lost = false
	if s, err := f.fetch(t.Context(), &j, Repo{Name: "org/name"}, bar(t, nil)); err != nil || s.Bytes != 900_000 {
		t.Errorf("the next one: %+v, %v", s, err)
	}
	// Stop from any laptop ends one that runs.
	hub.SetFiles(checkpointFiles(5_000_000)...)
	os.RemoveAll(hubFolder(acc))
	hub.Throttle(200_000)
	lost = false
	if _, err := f.fetch(t.Context(), &j, Repo{Name: "org/name"}, func(p Progress) { lost = lost || p.Done > 50_000 }); !errors.Is(err, down) {
		t.Fatalf("without a link: %v", err)
	}
	if did, err := hubFetcher(t, acc).stopRepos(t.Context()); err != nil || !slices.Equal(did, []string{"stopped a download, what came is kept"}) {
		t.Errorf("stopRepos = %q, %v", did, err)
	}
	lost = false
	hubLeft(t, acc)
	if rest, _ := filepath.Glob(filepath.Join(hubFolder(acc), "blobs/*.incomplete")); len(rest) == 0 {
		t.Error("what came was not kept")
	}
}

// A token opens what is closed to others, wherever it comes from, and is seen by the hub alone.
func TestHubToken(t *testing.T) {
	t.Parallel()
	const secret, own = "hf_SecretOfTheTest0123456789", "hf_OfTheAccount"
	files := checkpointFiles(200_000)
	write := func(t *testing.T, acc *remotetest.Account, name, text string) {
		tree(t, acc, map[string][]byte{name: []byte(text)})
	}
	for _, c := range []struct {
		name, given string
		prepare     func(t *testing.T, acc *remotetest.Account)
		class, says string // empty is success
		open        bool
	}{
		{name: "none", class: "auth", says: "accept it on https://huggingface.co/org/name, then give a token"},
		{name: "given", given: secret},
		{name: "wrong", given: "hf_wrong", class: "auth", says: "accept the licence on https://huggingface.co/org/name"},
		{name: "wrong, open", given: "hf_wrong", open: true},
		{name: "environment", prepare: func(t *testing.T, acc *remotetest.Account) { acc.Env = append(acc.Env, "HF_TOKEN="+own) }},
		{name: "login", prepare: func(t *testing.T, acc *remotetest.Account) { write(t, acc, ".cache/huggingface/token", own) }},
		{name: "moved login", prepare: func(t *testing.T, acc *remotetest.Account) {
			write(t, acc, ".bashrc", "export HF_HOME=$HOME/hf\n")
			write(t, acc, "hf/token", own+"\n")
		}},
		{name: "shell file", prepare: func(t *testing.T, acc *remotetest.Account) { write(t, acc, ".bashrc", "export HF_TOKEN="+own+"\n") }},
		{name: "python3", given: secret, prepare: func(t *testing.T, acc *remotetest.Account) {
			acc.Path = without(t, acc.Path, "curl")
			hubPython3(t, acc)
		}},
		{name: "old curl", given: secret, class: "auth", prepare: func(t *testing.T, acc *remotetest.Account) {
			dir := t.TempDir()
			curl := peer.Need(t, "curl")
			script := "#!/bin/sh\n[ \"$1\" != --version ] || { echo 'curl 7.29.0 (x86_64) libcurl/7.29.0'; exit; }\nexec " + curl + ` "$@"` + "\n"
			writeProgram(t, filepath.Join(dir, "curl"), script)
			acc.Path = dir + ":" + acc.Path
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hub := remotetest.StartHub(t, "org/name", files...)
			gate := own
			if c.given != "" {
				gate = secret
			}
			hub.Gate(gate, c.open)
			acc, f := hubBox(t, hub)
			if c.prepare != nil {
				c.prepare(t, acc)
			}
			if c.name == "given" { // nothing is told to curl in its arguments, or by its environment
				dir := t.TempDir()
				script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >> \"$HOME/told\"; env >> \"$HOME/told\"\nexec " + peer.Need(t, "curl") + ` "$@"` + "\n"
				writeProgram(t, filepath.Join(dir, "curl"), script)
				acc.Path = dir + ":" + acc.Path
			}
			log := &lockedBuffer{}
			f.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			hub.Throttle(150_000)
			want := Repo{Name: "org/name", Token: func() (string, error) { return c.given, nil }}
			seen := 0
			s, err := f.fetch(t.Context(), &journal{}, want, bar(t, func(p Progress) {
				if p.Done == 0 {
					return
				}
				seen++
				if c.given != secret {
					return
				}
				for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ", filepath.Join(acc.Home, ".rlca/*")} {
					names, _ := filepath.Glob(pattern)
					for _, name := range names {
						if b, _ := os.ReadFile(name); bytes.Contains(b, []byte(secret)) && !strings.HasPrefix(name, fmt.Sprintf("/proc/%d/", os.Getpid())) {
							t.Errorf("the token is in %s", name)
						}
					}
				}
			}))
			granted, stolen := hub.Tokens()
			if len(stolen) > 0 {
				t.Errorf("the token came to another host: %q", stolen)
			}
			if strings.Contains(log.String(), secret) {
				t.Error("the token is in the log")
			}
			if told, err := os.ReadFile(filepath.Join(acc.Home, "told")); c.name == "given" && (err != nil || bytes.Contains(told, []byte(secret)) || !bytes.Contains(told, []byte("/resolve/"))) {
				t.Errorf("curl was told of the token, %v", err)
			}
			if c.class != "" {
				var pull *PullError
				if !errors.As(err, &pull) || pull.Class != c.class || !strings.Contains(pull.Text, c.says) || strings.Contains(err.Error(), secret) {
					t.Errorf("%+v, %v, want class %s that says %q", s, err, c.class, c.says)
				}
				if c.name == "old curl" && len(granted) > 0 {
					t.Errorf("an old curl was given the token")
				}
				return
			}
			if err != nil || s.Bytes != 300_000 || seen == 0 {
				t.Fatalf("%+v, %v, %d words", s, err, seen)
			}
			if !c.open && (len(granted) == 0 || slices.ContainsFunc(granted, func(s string) bool { return s != gate })) {
				t.Errorf("the hub was given %q", granted)
			}
		})
	}
}

// The file of a token is the account's alone, and gone once the job has begun, also if it never does.
func TestHubTokenFile(t *testing.T) {
	t.Parallel()
	hub := remotetest.StartHub(t, "org/name", checkpointFiles(1000)...)
	acc, f := hubBox(t, hub)
	down := errors.New("the link is down")
	scripts := 0
	f.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		if scripts++; scripts < 3 || scripts >= 3+lostLimit { // the launch, each time that it is tried
			return acc.Run(ctx, script)
		}
		files, _ := filepath.Glob(filepath.Join(acc.Home, ".rlca/*.key"))
		if len(files) != 1 {
			t.Errorf("before the launch: %v", files)
		}
		for _, name := range files {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
		}
		return nil, down
	}
	if _, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name", Token: func() (string, error) { return "hf_x", nil }}, bar(t, nil)); !errors.Is(err, down) {
		t.Error(err)
	}
	hubLeft(t, acc)
	for _, token := range []string{"a b", "a\"b", "a'b", "a\nb", strings.Repeat("x", 501)} {
		_, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name", Token: func() (string, error) { return token, nil }}, bar(t, nil))
		if err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if _, err := FetchRepo(t.Context(), f.box, Repo{Name: "org/name", Token: func() (string, error) { return "", down }}, nil); !errors.Is(err, down) {
		t.Errorf("no token to be had: %v", err)
	}
}

// What no other try will change ends at once and says what it is.
func TestHubErrors(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(5000)
	for _, c := range []struct {
		name        string
		want        Repo
		prepare     func(t *testing.T, hub *remotetest.Hub, acc *remotetest.Account)
		class, says string
	}{
		{"no repository", Repo{Name: "org/none"}, nil, "name", "no such repository, or it is private"},
		{"no revision", Repo{Name: "org/name", Revision: "v9"}, nil, "name", "no revision v9"},
		{"refused", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) { hub.Refuse(403, 99, 0) }, "auth", "the hub refuses (403)"},
		{"odd answer", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) { hub.Refuse(451, 99, 0) }, "other", "451"},
		{"no weights", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) {
			hub.SetFiles(remotetest.HubFile{Name: "config.json", Data: []byte("{}")}, remotetest.HubFile{Name: "pytorch_model.bin", Data: []byte("x")})
		}, "format", "neither safetensors"},
		{"no such quant", Repo{Name: "org/name", Quant: "Q2_K"}, nil, "format", "no GGUF files"},
		{"not https", Repo{Name: "org/name"}, func(t *testing.T, _ *remotetest.Hub, acc *remotetest.Account) {
			acc.Env = []string{"HF_ENDPOINT=http://hub.example"}
		}, "other", "speaks https"},
		{"looks like loopback", Repo{Name: "org/name"}, func(t *testing.T, _ *remotetest.Hub, acc *remotetest.Account) {
			acc.Env = []string{"HF_ENDPOINT=http://127.0.0.1:80@hub.example"}
		}, "other", "speaks https"},
		{"no tool", Repo{Name: "org/name"}, func(t *testing.T, _ *remotetest.Hub, acc *remotetest.Account) {
			acc.Path = without(t, acc.Path, "curl", "python3")
		}, "other", "neither curl nor python3"},
		{"full, before", Repo{Name: "org/name"}, func(t *testing.T, _ *remotetest.Hub, acc *remotetest.Account) {
			dir := t.TempDir()
			script := "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\necho '/dev/my disk 1000 995 5 100% /my disk'\n"
			writeProgram(t, filepath.Join(dir, "df"), script)
			acc.Path = dir + ":" + acc.Path
		}, "space", "it needs 46.5 KiB on the disk of"},
		{"in the way", Repo{Name: "org/name"}, func(t *testing.T, _ *remotetest.Hub, acc *remotetest.Account) {
			tree(t, acc, map[string][]byte{".cache/huggingface": []byte("a file")})
		}, "permission", ""},
		{"larger than said", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) {
			lies := slices.Clone(files)
			lies[7].Size = 4000
			hub.SetFiles(lies...)
		}, "other", "the hub says 4000"},
		{"much larger than said", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) {
			lies := slices.Clone(files)
			lies[7].Size, lies[7].Data = 4000, hubBytes(8<<20, 1)
			hub.SetFiles(lies...)
		}, "other", "the hub says 4000"},
		{"smaller than said", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) {
			lies := slices.Clone(files)
			lies[7].Size = 6000
			hub.SetFiles(lies...)
		}, "other", "and the hub says 6000"},
		{"other checksum", Repo{Name: "org/name"}, func(t *testing.T, hub *remotetest.Hub, _ *remotetest.Account) {
			lies := slices.Clone(files)
			lies[7].Sum = strings.Repeat("ab", 32)
			hub.SetFiles(lies...)
		}, "other", "another checksum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hub := remotetest.StartHub(t, "org/name", files...)
			acc, f := hubBox(t, hub)
			if c.prepare != nil {
				c.prepare(t, hub, acc)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			s, err := f.fetch(ctx, &journal{}, c.want, bar(t, nil))
			var pull *PullError
			if !errors.As(err, &pull) || pull.Class != c.class || !strings.Contains(pull.Text, c.says) || pull.Model != c.want.Name+map[bool]string{true: ":" + c.want.Quant}[c.want.Quant != ""] {
				t.Errorf("%+v, %v, want class %s that says %q", s, err, c.class, c.says)
			}
			if err != nil {
				checkClean(t, err.Error())
			}
			if c.class == "space" && (pull.Need <= 40_000 || pull.Have != 5<<10) {
				t.Errorf("%+v", pull)
			}
			if snaps, _ := filepath.Glob(filepath.Join(hubFolder(acc), "snapshots/*")); len(snaps) > 0 {
				t.Errorf("half a model has a name: %v", snaps)
			}
			hubLeft(t, acc)
		})
	}
}

// A disk that fills under way is told as such, and what came is kept.
func TestHubFull(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("a small disk needs root and Linux")
	}
	files := checkpointFiles(3 << 20)
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("mount: %s", out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", disk).Run() })
	acc.Env = append(acc.Env, "HF_HOME="+disk)
	var pull *PullError
	_, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil))
	if !errors.As(err, &pull) || pull.Class != "space" || pull.Need < 4<<20 || pull.Have > 4<<20 || pull.Have == 0 {
		t.Errorf("known before: %v (%+v)", err, pull)
	}
	// Now df knows nothing.
	dir := t.TempDir()
	writeProgram(t, filepath.Join(dir, "df"), "#!/bin/sh\nexit 1\n")
	acc.Path = dir + ":" + acc.Path
	_, err = f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil))
	if !errors.As(err, &pull) || pull.Class != "space" {
		t.Errorf("under way: %v (%+v)", err, pull)
	}
	hubLeft(t, acc)
	if rest, _ := filepath.Glob(filepath.Join(disk, "hub/models--org--name/blobs/*.incomplete")); len(rest) == 0 {
		t.Error("what came was not kept")
	}
}

// Of a GGUF repository only the files of the quantization come, all its parts.
func TestHubQuants(t *testing.T) {
	t.Parallel()
	g := func(name string, n int) remotetest.HubFile {
		return remotetest.HubFile{Name: name, Data: ggufBytes(n), Large: true}
	}
	files := []remotetest.HubFile{
		{Name: "config.json", Data: []byte("{}")}, g("x-Q8_0.gguf", 8000), g("x-Q4_K_M.gguf", 4000), g("x-IQ4_K_M.gguf", 4100), g("mmproj-x-Q4_K_M.gguf", 99), g("other.imatrix", 50),
		g("BF16/x-BF16-00001-of-00003.gguf", 100), g("BF16/x-BF16-00002-of-00003.gguf", 200), g("BF16/x-BF16-00003-of-00003.gguf", 300),
		g("F16/x-F16-00001-of-00002.gguf", 100),
	}
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	for _, c := range []struct {
		quant, path string
		size        int64
		names       []string
		class, says string
	}{
		{quant: "Q8_0", path: "x-Q8_0.gguf", size: 8000, names: []string{"x-Q8_0.gguf"}},
		{quant: "", path: "x-Q4_K_M.gguf", size: 4000, names: []string{"x-Q4_K_M.gguf"}},
		{quant: "q4_k_m", path: "x-Q4_K_M.gguf", size: 4000, names: []string{"x-Q4_K_M.gguf"}},
		{quant: "bf16", path: "BF16/x-BF16-00001-of-00003.gguf", size: 600, names: []string{"BF16/x-BF16-00001-of-00003.gguf", "BF16/x-BF16-00002-of-00003.gguf", "BF16/x-BF16-00003-of-00003.gguf"}},
		{quant: "Q2_K", class: "name", says: "there is no Q2_K, but x-IQ4_K_M.gguf, x-Q4_K_M.gguf, x-Q8_0.gguf"},
		{quant: "F16", class: "format", says: "the hub has 1 of its 2 parts"},
	} {
		os.RemoveAll(hubFolder(acc))
		s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name", Quant: c.quant}, bar(t, nil))
		if c.class != "" {
			var pull *PullError
			if !errors.As(err, &pull) || pull.Class != c.class || !strings.Contains(pull.Text, c.says) {
				t.Errorf("%s: %+v, %v, want class %s that says %q", c.quant, s, err, c.class, c.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.quant, err)
			continue
		}
		snap := filepath.Join(hubFolder(acc), "snapshots", remotetest.Commit)
		if s.Path != filepath.Join(snap, c.path) || s.Format != "gguf" || s.Bytes != c.size || s.Parts != len(c.names) || s.Missing != 0 {
			t.Errorf("%s: %+v", c.quant, s)
		}
		hubWhole(t, hubFolder(acc), files, c.names)
		if again, err := ReadModel(t.Context(), f.box, Repo{Name: "org/name", Quant: c.quant}.String(), 0); err != nil || again.Path != s.Path {
			t.Errorf("%s: ReadModel = %+v, %v", c.quant, again, err)
		}
	}
}

// A hub that is away is no reason not to use what is there; without that it is waited for.
func TestHubAway(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(1000)
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	hub.Away(true)
	var texts []string
	s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, func(p Progress) {
		if texts = append(texts, p.Text); len(texts) == 4 {
			hub.Away(false)
		}
	}))
	if err != nil || s.Bytes != 1500 || !strings.Contains(texts[1], "pulling org/name: trying again after: ") {
		t.Fatalf("%+v, %v, %q", s, err, texts)
	}
	hub.Away(true)
	if s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil)); err != nil || s.Bytes != 1500 {
		t.Errorf("what is there: %+v, %v", s, err)
	}
	os.RemoveAll(hubFolder(acc))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var stopped *PullStoppedError
	if _, err := f.fetch(ctx, &journal{}, Repo{Name: "org/name"}, bar(t, nil)); !errors.As(err, &stopped) || stopped.Running || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is away: %v", err)
	}
	// It says how long to wait, and is obeyed.
	hub.Away(false)
	for what, refuse := range map[string]func(status, times, wait int){"the list": hub.Refuse, "files": hub.RefuseFiles} {
		os.RemoveAll(hubFolder(acc))
		refuse(429, 1, 2)
		start := time.Now()
		said := false
		_, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, func(p Progress) { said = said || strings.Contains(p.Text, "asks for patience (429)") }))
		if err != nil || time.Since(start) < 2*time.Second || !said {
			t.Errorf("429 for %s: %v in %s, said %v", what, err, time.Since(start), said)
		}
	}
}

// A transfer that stands still is begun again from where it is; a hub that knows no ranges sends all again.
func TestHubStall(t *testing.T) {
	t.Parallel()
	files := checkpointFiles(400_000)
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	f.stall = 2 * time.Second
	hub.Hold(true)
	held := time.AfterFunc(time.Second, func() { hub.Hold(false) })
	defer held.Stop()
	if s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil)); err != nil || s.Bytes != 600_000 {
		t.Fatalf("%+v, %v", s, err)
	}
	hubWhole(t, hubFolder(acc), files, checkpointNames)

	os.RemoveAll(hubFolder(acc))
	hub.Plain()
	hub.Cut(100_000)
	if s, err := f.fetch(t.Context(), &journal{}, Repo{Name: "org/name"}, bar(t, nil)); err != nil || s.Bytes != 600_000 {
		t.Fatalf("without ranges: %+v, %v", s, err)
	}
	hubWhole(t, hubFolder(acc), files, checkpointNames)
}

// Names that would lead out of the cache, and other lies of a list, are refused before anything is written.
func TestHubHostile(t *testing.T) {
	sha := strings.Repeat("0a", 32)
	commit := remotetest.Commit
	facts := func(listing string) *hubFacts {
		return &hubFacts{cache: "/c", endpoint: "https://h", proto: "https", listing: []byte(listing), free: -1}
	}
	file := func(name, rest string) string { return fmt.Sprintf(`{"rfilename":%q,%s}`, name, rest) }
	good := `"size":5,"blobId":"` + commit + `"`
	list := func(files ...string) string {
		return `{"sha":"` + commit + `","siblings":[` + strings.Join(append(files, file("config.json", `"size":6,"blobId":"`+strings.Repeat("1", 40)+`"`), file("model.safetensors", `"size":7,"lfs":{"oid":"sha256:`+sha+`"}`)), ",") + `]}`
	}
	for name, listing := range map[string]string{
		"above": list(file("../../../.bashrc.txt", good)), "above, inside": list(file("a/../../x.json", good)), "absolute": list(file("/etc/x.txt", good)),
		"dots": list(file("...json/../x.json", good)), "double": list(file("a//x.json", good)), "dot": list(file("./x.json", good)), "line": list(file("a\nlink 1 x.json", good)),
		"escape": list(file("a\x1b[2Jx.json", good)), "backslash": list(file(`..\..\x.json`, good)), "space at an end": list(file("a /x.json", good)),
		"bidi": list(`{"rfilename":"a\u202ex.json",` + good + `}`), "long": list(file(strings.Repeat("x", 300)+".json", good)), "longer": list(file(strings.Repeat("x/", 600)+"a.json", good)),
		"no size": list(file("x.json", `"blobId":"`+commit+`"`)), "negative": list(file("x.json", `"size":-1,"blobId":"`+commit+`"`)), "huge": list(file("x.json", `"size":17592186044417,"blobId":"`+commit+`"`)),
		"etag": list(file("x.json", `"size":5,"blobId":"../x"`)), "no etag": list(file("x.json", `"size":5`)), "short": list(file("x.json", `"size":5,"lfs":{"sha256":"`+commit+`"}`)),
		"two sizes": list(file("x.json", good), file("y.json", `"size":6,"blobId":"`+commit+`"`)),
		"commit":    `{"sha":"../../x","siblings":[]}`, "no commit": `{}`, "no list": `<html>`, "empty": ``, "a list": `[]`,
	} {
		text, err := Repo{Name: "org/name", Revision: "main"}.plan(facts(listing))
		var pull *PullError
		if !errors.As(err, &pull) || pull.Class != "other" {
			t.Errorf("%s: %q, %v, want a refusal", name, text, err)
			continue
		}
		checkClean(t, err.Error())
	}
	var many []string
	for i := range filesMost {
		many = append(many, file(fmt.Sprintf("x%d.json", i), good))
	}
	if _, err := (Repo{Name: "org/name"}).plan(facts(list(many...))); err == nil || !strings.Contains(err.Error(), "2002 files") {
		t.Errorf("too many: %v", err)
	}
	text, err := Repo{Name: "org/name", Revision: "main"}.plan(facts(list(file("a b/ü'%.json", good))))
	if err != nil || !strings.Contains(text, "\nblob 5 "+commit+" - 2048 a%20b/%C3%BC%27%25.json\n") || !strings.Contains(text, "\nlink 5 "+commit+" a b/ü'%.json\n") || !strings.Contains(text, "\nblob 7 "+sha+" all:"+sha+" 2048 model.safetensors\n") {
		t.Errorf("plan = %v:\n%s", err, text)
	}
	for _, r := range []Repo{
		{Name: ""}, {Name: "x"}, {Name: "a/b/c"}, {Name: "../x"}, {Name: "a/.."}, {Name: "a/b\n"}, {Name: "a/b'"}, {Name: "a--b/c"}, {Name: "a/b", Quant: "Q4'"}, {Name: "a/b", Quant: "../x"},
		{Name: "a/b", Revision: "../x"}, {Name: "a/b", Revision: "/x"}, {Name: "a/b", Revision: "a//b"}, {Name: "a/b", Revision: "a b"}, {Name: "a/b", Revision: "-x"},
	} {
		if s, err := FetchRepo(t.Context(), Box{Run: func(context.Context, string) ([]byte, error) { t.Error("a script ran"); return nil, nil }}, r, nil); err == nil {
			t.Errorf("%+v: %+v", r, s)
		}
	}
}

func TestHubFreeOf(t *testing.T) {
	for line, want := range map[string]int64{
		"/dev/nvme0n1p2 959786032 512 123 35% /":             123 << 10,
		"map auto_home 0 0 0 100% /System/Volumes/Data/home": 0,
		"//nas/a 5% share 100 40 60 40% /mnt/a b":            60 << 10,
		"df: no such": -1, "": -1, "a b c 40% /": -1, "x 1 2 -3 40% /": -1,
	} {
		if got := freeOf(line); got != want {
			t.Errorf("freeOf(%q) = %d, want %d", line, got, want)
		}
	}
}

func FuzzHubPlan(f *testing.F) {
	f.Add([]byte(`{"sha":"`+remotetest.Commit+`","siblings":[{"rfilename":"config.json","size":5,"blobId":"`+remotetest.Commit+`"},{"rfilename":"model.safetensors","size":7,"lfs":{"sha256":"`+strings.Repeat("0a", 32)+`"}}]}`), "")
	f.Add([]byte(`{"sha":"`+remotetest.Commit+`","siblings":[{"rfilename":"x-Q4_K_M.gguf","size":7,"lfs":{"sha256":"`+strings.Repeat("0a", 32)+`"}}]}`), "Q4_K_M")
	f.Fuzz(func(t *testing.T, listing []byte, quant string) {
		text, err := Repo{Name: "org/name", Quant: quant, Revision: "main"}.plan(&hubFacts{cache: "/c", endpoint: "https://h", proto: "https", listing: listing, free: 1 << 40})
		if err != nil {
			return
		}
		for line := range strings.Lines(text) {
			if name, ok := strings.CutPrefix(line, "link "); ok {
				name = strings.SplitN(strings.TrimSuffix(name, "\n"), " ", 3)[2]
				if at := path.Join("/c/snapshots/x", name); !strings.HasPrefix(at, "/c/snapshots/x/") || strings.ContainsAny(name, "\x00\x1b") {
					t.Fatalf("%q leads to %s", name, at)
				}
			}
		}
	})
}

func FuzzHubStream(f *testing.F) {
	f.Add([]byte("cache /c\nblob 10 aa all:aa 5 x\nhave aa\nagain aa 503 2 x\nend auth 401 GatedRepo x\nsuccess\n"), []byte("-rw-r--r-- 1 0 0 5 Jan 1 00:00 /c/blobs/aa.hub-1.incomplete\n"))
	f.Fuzz(func(t *testing.T, log, parts []byte) {
		p := newHubStream("", 0)
		var best int64
		for i := 0; i < len(log); i += 100 {
			p.add(log[i:min(len(log), i+100)])
			p.parts(partsOf(parts, "hub-1"))
			done, total := p.sum()
			if done < 0 || done > total || total >= best && done < min(best, total) {
				t.Fatalf("%d of %d after %d", done, total, best)
			}
			best = done
			checkClean(t, strings.ToValidUTF8(p.progress("m", &rate{}, time.Unix(0, 0), "").Text, ""))
		}
	})
}

// What is read of a hub's list is what the hub writes.
func TestHubListing(t *testing.T) {
	commit, files, err := readListing([]byte(`{"_id":"6","id":"org/name","sha":"` + remotetest.Commit + `","gated":"manual","siblings":[
		{"rfilename":".gitattributes","blobId":"a6344aac8c09253b3b630fb776ae94478aa0275b","size":1519},
		{"rfilename":"model.safetensors","blobId":"` + remotetest.Commit + `","size":4000000000,"lfs":{"sha256":"` + strings.Repeat("0b", 32) + `","size":4000000000,"pointerSize":135}}]}`))
	want := []hubFile{{".gitattributes", "a6344aac8c09253b3b630fb776ae94478aa0275b", false, 1519}, {"model.safetensors", strings.Repeat("0b", 32), true, 4000000000}}
	if err != nil || commit != remotetest.Commit || !slices.Equal(files, want) {
		t.Errorf("readListing = %q, %+v, %v", commit, files, err)
	}
	if b, err := json.Marshal(&PullError{Need: 1, Have: 2}); err != nil || !bytes.Contains(b, []byte(`"need":1,"have":2`)) {
		t.Errorf("%s, %v", b, err)
	}
}
