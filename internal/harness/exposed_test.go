//go:build unix

package harness

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A token goes into no settings that others of the machine can read; without one they may be as open as they like.
func TestWireExposed(t *testing.T) {
	home := t.TempDir()
	for dir := home; dir != filepath.Clean(os.TempDir()) && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Skipf("open the way to a file: %v", err)
		}
	}
	file := filepath.Join(home, ".qwen", "settings.json")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !exposed(file) {
		t.Skip("the folder of temporary files is nobody else's to read")
	}
	tool, err := Find("qwen")
	if err != nil {
		t.Fatal(err)
	}
	getenv := func(k string) string { return map[string]string{"HOME": home}[k] }
	wire := func(token string) error {
		_, err := tool.Wire(Endpoint{BaseURL: "http://127.0.0.1:11434", Model: "m", Token: token}, false, getenv)
		return err
	}
	var e *ExposedError
	if err := wire("secret"); !errors.As(err, &e) || e.Path != file {
		t.Errorf("with a token: %v, want an ExposedError of %s", err, file)
	}
	if err := wire(""); err != nil {
		t.Errorf("without a token: %v", err)
	}
	for path, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700, home: 0o700} {
		old, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := wire("secret"); err != nil {
			t.Errorf("with %s at %o: %v", path, mode, err)
		}
		if err := os.Chmod(path, old.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWireWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 { // who may write everywhere
		asNobody(t)
		return
	}
	h := tool(t, "claude")
	for _, lock := range []string{".claude/settings.json", ".claude"} {
		dir, getenv := home(t, map[string]string{".claude/settings.json": "{}\n"})
		path := filepath.Join(dir, lock)
		info, _ := os.Stat(path)
		os.Chmod(path, info.Mode().Perm()&^0o222)
		t.Cleanup(func() { os.Chmod(path, 0o700) })
		edits, err := h.Wire(spark, false, getenv)
		if err != nil {
			t.Fatal(err)
		}
		if err := edits[0].Save(); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("wire without permission on %s: %v", lock, err)
		}
		if now := files(t, dir); len(now) != 1 || now[".claude/settings.json"] != "{}\n" {
			t.Errorf("after a refusal: %q", now)
		}
	}
}

// asNobody runs a test of this program once more, as a user who may do nothing.
func asNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	dir, err := os.MkdirTemp("", "rlca-nobody-") // t.TempDir is nobody else's to look into
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "test"), program, 0o755)
	}
	if err == nil {
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "test"), "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Dir, cmd.Env = dir, []string{"TMPDIR=" + dir, "HOME=" + dir, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}
