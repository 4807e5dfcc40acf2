//go:build unix

package profiles

import (
	"path/filepath"
	"syscall"
	"testing"
)

// A pipe would keep its reader waiting for ever.
func TestPipeIsNotOpened(t *testing.T) {
	d := newDir(t, nil)
	if err := syscall.Mkfifo(filepath.Join(string(d), "pipe.toml"), 0o600); err != nil {
		t.Skipf("no pipes here: %v", err)
	}
	if _, err := d.Load("pipe"); err == nil || err.Error() != "read profile pipe: pipe.toml is no file but a pipe" {
		t.Errorf("Load of a pipe: %v, want that it is one", err)
	}
}
