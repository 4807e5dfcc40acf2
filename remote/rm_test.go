package remote

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// cachedRepo lays a repository into the account's cache as the hub's programs do, and returns its folder.
func cachedRepo(t *testing.T, acc *remotetest.Account, name string, size int) string {
	t.Helper()
	repo := filepath.Join(acc.Home, ".cache/huggingface/hub/models--"+strings.ReplaceAll(name, "/", "--"))
	write(t, filepath.Join(repo, "blobs/abc"), strings.Repeat("x", size))
	write(t, filepath.Join(repo, "refs/main"), "c0")
	snap := filepath.Join(repo, "snapshots/c0")
	if err := os.MkdirAll(snap, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../blobs/abc", filepath.Join(snap, "model.safetensors")); err != nil {
		t.Skip(err)
	}
	return repo
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func wantClass(t *testing.T, what string, err error, class string) {
	t.Helper()
	var e *RemoveError
	if !errors.As(err, &e) || e.Class != class {
		t.Errorf("%s: %v, want class %s", what, err, class)
	}
	if err != nil {
		checkClean(t, err.Error())
	}
}

// removeShells are those that a box may have.
var removeShells = []string{"", "/bin/bash", "/bin/zsh", "busybox"}

// removeBox is an account with one of them, and nothing but what that brings.
func removeBox(t *testing.T, shell string) *remotetest.Account {
	t.Helper()
	acc := remotetest.NewAccount(t)
	hubShellOf(t, acc, shell)
	if shell == "busybox" {
		program, _ := exec.LookPath(shell)
		if err := os.Symlink(program, filepath.Join(acc.Path, "du")); err != nil {
			t.Fatal(err)
		}
	}
	return acc
}

func TestRemoveRepo(t *testing.T) {
	t.Parallel()
	for _, shell := range removeShells {
		t.Run(shell, func(t *testing.T) { removesRepo(t, removeBox(t, shell)) })
	}
}

func removesRepo(t *testing.T, acc *remotetest.Account) {
	box := Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}
	name := "rlcatest/Gone-1.5"
	repo, other := cachedRepo(t, acc, name, 300<<10), cachedRepo(t, acc, name+"-FP8", 4096)
	locks := filepath.Join(filepath.Dir(repo), ".locks")
	write(t, filepath.Join(locks, filepath.Base(repo), "abc.lock"), "")
	write(t, filepath.Join(locks, filepath.Base(other), "abc.lock"), "")

	found, err := FindRepo(t.Context(), box, name)
	if err != nil || found.Path != repo || found.Bytes < 300<<10 || found.Name != name {
		t.Fatalf("FindRepo = %+v, %v", found, err)
	}
	if !there(repo) {
		t.Fatal("FindRepo removed it")
	}
	freed, err := RemoveRepo(t.Context(), box, name)
	if err != nil || freed < 300<<10 || freed > 400<<10 {
		t.Errorf("RemoveRepo = %d, %v", freed, err)
	}
	for _, gone := range []string{repo, filepath.Join(locks, filepath.Base(repo))} {
		if there(gone) {
			t.Errorf("%s is there", gone)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(repo), ".rlca-*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	for _, stays := range []string{filepath.Join(other, "snapshots/c0/model.safetensors"), filepath.Join(other, "blobs/abc"), filepath.Join(locks, filepath.Base(other))} {
		if !there(stays) {
			t.Errorf("%s is gone", stays)
		}
	}
	_, err = RemoveRepo(t.Context(), box, name)
	wantClass(t, "a second time", err, "missing")
	nothingLeft(t, acc)
}

// Names that lead elsewhere never reach the box.
func TestRemoveRepoNames(t *testing.T) {
	t.Parallel()
	box := Box{Run: nil} // a script would be a nil call
	for _, name := range []string{"", "name", "../..", "org/..", "org/../x", "org/name/deep", "/etc/passwd", "org/na me", "org--x/name", "org/a'b", "~/x", "org/name\n", "org/name:Q4_K_M"} {
		_, err := RemoveRepo(t.Context(), box, name)
		wantClass(t, name, err, "other")
		_, err = FindRepo(t.Context(), box, name)
		wantClass(t, name, err, "other")
	}
}

// A folder that is a link, that others lead into, or that is none of the hub's is left.
func TestRemoveRepoRefuses(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	box := Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}
	hub := filepath.Join(acc.Home, ".cache/huggingface/hub")

	_, err := RemoveRepo(t.Context(), box, "rlcatest/none")
	wantClass(t, "no cache at all", err, "missing")

	moved := cachedRepo(t, acc, "rlcatest/moved", 10)
	elsewhere := filepath.Join(acc.Home, "elsewhere")
	if err := os.Rename(moved, elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, moved); err != nil {
		t.Skip(err)
	}
	_, err = RemoveRepo(t.Context(), box, "rlcatest/moved")
	wantClass(t, "a link", err, "link")

	blobs := cachedRepo(t, acc, "rlcatest/blobs", 10)
	store := filepath.Join(acc.Home, "store")
	if err := os.Rename(filepath.Join(blobs, "blobs"), store); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(store, filepath.Join(blobs, "blobs")); err != nil {
		t.Fatal(err)
	}
	_, err = RemoveRepo(t.Context(), box, "rlcatest/blobs")
	wantClass(t, "blobs elsewhere", err, "link")

	shared, user := cachedRepo(t, acc, "rlcatest/shared", 10), cachedRepo(t, acc, "rlcatest/user", 10)
	if err := os.Symlink("../../../models--rlcatest--shared/blobs/abc", filepath.Join(user, "snapshots/c0/more.safetensors")); err != nil {
		t.Fatal(err)
	}
	_, err = RemoveRepo(t.Context(), box, "rlcatest/shared")
	wantClass(t, "shared", err, "shared")
	if err == nil || !strings.Contains(err.Error(), "rlcatest/user in the same cache has links into it") {
		t.Errorf("shared: %v", err)
	}

	write(t, filepath.Join(hub, "models--rlcatest--odd/notes.txt"), "mine")
	_, err = RemoveRepo(t.Context(), box, "rlcatest/odd")
	wantClass(t, "no repository", err, "other")

	for _, stays := range []string{filepath.Join(elsewhere, "blobs/abc"), filepath.Join(store, "abc"), filepath.Join(shared, "blobs/abc"), filepath.Join(hub, "models--rlcatest--odd/notes.txt")} {
		if !there(stays) {
			t.Errorf("%s is gone", stays)
		}
	}
	nothingLeft(t, acc)
}

// What a process has open, or was started with, is in use.
func TestRemoveRepoInUse(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"", "busybox"} {
		t.Run(shell, func(t *testing.T) { refusesUsed(t, removeBox(t, shell)) })
	}
}

func refusesUsed(t *testing.T, acc *remotetest.Account) {
	box := Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}
	for name, start := range map[string]func(repo string) *exec.Cmd{
		"rlcatest/argument": func(string) *exec.Cmd {
			return exec.Command("/bin/sh", "-c", "read x", "vllm", "serve", "rlcatest/argument")
		},
		"rlcatest/flag": func(string) *exec.Cmd {
			return exec.Command("/bin/sh", "-c", "read x", "server", "--model=rlcatest/flag:Q4_K_M")
		},
		"rlcatest/path": func(repo string) *exec.Cmd {
			return exec.Command("/bin/sh", "-c", "read x", "server", "-m", repo+"/snapshots/c0/model.safetensors")
		},
		"rlcatest/open": func(repo string) *exec.Cmd {
			if runtime.GOOS != "linux" {
				return nil
			}
			return exec.Command("/bin/sh", "-c", `exec 3<"$1"; read x`, "server", filepath.Join(acc.Home, "link"))
		},
	} {
		repo := cachedRepo(t, acc, name, 10)
		if name == "rlcatest/open" { // by a way that has not its name in it
			if err := os.Symlink(filepath.Join(repo, "blobs/abc"), filepath.Join(acc.Home, "link")); err != nil {
				t.Fatal(err)
			}
		}
		cmd := start(repo)
		if cmd == nil {
			continue
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if name == "rlcatest/open" { // until the shell has opened it
			for range 200 {
				list, _ := exec.Command("/bin/sh", "-c", "ls -l /proc/$1/fd", "x", strconv.Itoa(cmd.Process.Pid)).Output()
				if strings.Contains(string(list), "/blobs/abc") {
					break
				}
			}
		}
		_, err = RemoveRepo(t.Context(), box, name)
		wantClass(t, name, err, "used")
		if err == nil || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)+" sh") {
			t.Errorf("%s: %v", name, err)
		}
		if !there(filepath.Join(repo, "blobs/abc")) {
			t.Errorf("%s is gone", name)
		}
		in.Close()
		cmd.Wait()
		if _, err = RemoveRepo(t.Context(), box, name); err != nil {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
}

// A download of rlca's that runs is not pulled away under.
func TestRemoveRepoWhilePulled(t *testing.T) {
	t.Parallel()
	files := []remotetest.HubFile{{Name: "config.json", Data: []byte(`{"model_type":"qwen3"}`)}, {Name: "model.safetensors", Data: hubBytes(50_000, 1), Large: true}}
	hub := remotetest.StartHub(t, "org/name", files...)
	acc, f := hubBox(t, hub)
	hub.Hold(true)
	j := &journal{}
	if _, err := f.begin(t.Context(), j, Repo{Name: "org/name", Revision: "main"}, "", func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	box := Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}
	// The list is put in its place by the download itself, a moment later.
	var err error
	for range 100 {
		if _, err = FindRepo(t.Context(), box, "org/name"); err != nil {
			break
		}
	}
	wantClass(t, "while it comes", err, "pulling")
}

func TestOllamaRemove(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	f := newFake("small:1b", "big:70b", "big:70b-rlca8k")
	f.loaded = []string{"big:70b-rlca8k"}
	addr := f.start(t)
	o := testOllama(t, acc, 1)
	o.address = addr

	_, err := o.Removable(t.Context(), "big:70b")
	wantClass(t, "loaded as a copy", err, "loaded")
	_, err = o.Remove(t.Context(), "smal:1b")
	wantClass(t, "no such model", err, "missing")
	var gone *RemoveError
	if !errors.As(err, &gone) || len(gone.Near) == 0 || gone.Near[0] != "small:1b" {
		t.Errorf("near: %+v", gone)
	}
	m, err := o.Removable(t.Context(), "small:1b")
	if err != nil || m.Name != "small:1b" {
		t.Fatalf("Removable = %+v, %v", m, err)
	}
	if _, err := o.Remove(t.Context(), "small:1b"); err != nil {
		t.Fatal(err)
	}
	_, err = o.Removable(t.Context(), "small:1b")
	wantClass(t, "a second time", err, "missing")

	bare := testOllama(t, remotetest.NewAccount(t), remotetest.FreePort(t))
	var absent *NotInstalledError
	if _, err := bare.Removable(t.Context(), "small:1b"); !errors.As(err, &absent) && err == nil {
		t.Errorf("without an Ollama: %v", err)
	}
}

// A pull without a connect: the model is there afterwards, and nothing is loaded.
func TestOllamaPullAlone(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	f := newFake()
	f.pull = []string{`{"status":"pulling manifest"}`, `{"status":"pulling abc","digest":"sha256:abc","total":1000,"completed":1000}`, `{"status":"success"}`}
	o := testOllama(t, acc, 1)
	o.address = f.start(t)
	m, err := o.Pull(t.Context(), "new:1b", 1, nil)
	if err != nil || m.Name != "new:1b" || f.loads != 0 {
		t.Fatalf("Pull = %+v, %v, %d loads", m, err, f.loads)
	}
	var full *PullError
	if _, err := o.Pull(t.Context(), "huge:1b", 1<<60, nil); !errors.As(err, &full) || full.Class != "space" || full.Need == 0 {
		t.Errorf("Pull of what the disk has no room for = %v", err)
	}
	nothingLeft(t, acc)
}

// An Ollama that does not run is started for a pull, and is gone afterwards; also after one that came to nothing.
func TestOllamaPullStarts(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	installSelf("ollama")(t, bin)
	acc := remotetest.NewAccount(t, bin)
	o := testOllama(t, acc, remotetest.FreePort(t))
	fall(t, acc, `pulls {"error":"pull model manifest: file does not exist"}`)
	said := false
	var none *PullError
	_, err := o.Pull(t.Context(), "new:1b", 0, func(p Progress) { said = said || p.Step == StepServing && p.Server.Fresh })
	if !errors.As(err, &none) || none.Class != "name" || !said {
		t.Errorf("Pull = %v, told of a fresh server: %v", err, said)
	}
	nothingLeft(t, acc)
	ctx, cancel := context.WithCancel(t.Context())
	fall(t, acc, `pulls {"status":"pulling abc","digest":"sha256:abc","total":1000,"completed":10}`)
	var stopped *PullStoppedError
	_, err = o.Pull(ctx, "new:1b", 0, func(p Progress) {
		if p.Step == StepPull && p.Total > 0 {
			cancel()
		}
	})
	if !errors.As(err, &stopped) || stopped.Running || stopped.Done != 10 {
		t.Errorf("a pull that was left = %v, %+v", err, stopped)
	}
	nothingLeft(t, acc)
}

// With a real Ollama, that does not run at first: a pull that is left and goes on, then a removal that is refused while the
// model is loaded.
func TestRealPullAndRemove(t *testing.T) {
	t.Parallel()
	acc, o := realBox(t)
	peer.Need(t, "curl")
	reg := remotetest.StartRegistry(t)
	reg.Throttle(800_000)
	ctx, cancel := context.WithCancel(t.Context())
	var stopped *PullStoppedError
	_, err := o.Pull(ctx, reg.Model, reg.Size, func(p Progress) {
		if p.Step == StepPull && p.Done > 300_000 {
			cancel()
		}
	})
	if !errors.As(err, &stopped) || stopped.Running || stopped.Done < 300_000 {
		t.Fatalf("a pull that was left: %v (%+v)", err, stopped)
	}
	nothingLeft(t, acc)
	reg.Throttle(0)
	m, err := o.Pull(t.Context(), reg.Model, reg.Size, nil)
	if err != nil || m.Name == "" || m.Bytes < reg.Size/2 {
		t.Fatalf("Pull = %+v, %v", m, err)
	}
	if !slices.ContainsFunc(reg.Ranges(), func(r string) bool { return !strings.HasPrefix(r, "bytes=0-") }) {
		t.Errorf("it began anew: %v", reg.Ranges())
	}
	nothingLeft(t, acc)
	var idle *NotRunningError
	if _, err := o.Remove(t.Context(), reg.Model); !errors.As(err, &idle) {
		t.Errorf("Remove without a server = %v", err)
	}

	s, err := o.Ensure(t.Context(), Plan{Model: reg.Model, Context: 2048, KeepAlive: "-1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = o.Remove(t.Context(), reg.Model)
	wantClass(t, "loaded", err, "loaded")
	if err := o.api(s.Address).unload(t.Context(), s.Model.Name); err != nil {
		t.Fatal(err)
	}
	for range 100 { // it is unloaded a moment later
		if _, err = o.Removable(t.Context(), reg.Model); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	blobs := filepath.Join(acc.Home, ".ollama/models/blobs")
	before, _ := os.ReadDir(blobs)
	freed, err := o.Remove(t.Context(), reg.Model)
	after, _ := os.ReadDir(blobs)
	if err != nil || freed > m.Bytes || len(before) == 0 || len(after) > 0 {
		t.Errorf("Remove = %d, %v; %d files before, %d after", freed, err, len(before), len(after))
	}
	t.Logf("freed %d of %d bytes", freed, m.Bytes)
}
