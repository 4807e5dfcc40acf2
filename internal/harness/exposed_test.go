//go:build unix

package harness

import (
	"errors"
	"os"
	"path/filepath"
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
