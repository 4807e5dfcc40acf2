package supervisor

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// A state folder has one name, whoever asks first, and another folder has another one.
func TestLaptop(t *testing.T) {
	t.Parallel()
	p := Paths{State: filepath.Join(t.TempDir(), "state")}
	names := make([]string, 8)
	var wg sync.WaitGroup
	for i := range names {
		wg.Go(func() {
			var err error
			if names[i], err = p.Laptop(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, n := range names {
		if n != names[0] || len(n) != 8 {
			t.Errorf("Laptop = %q, the first %q", n, names[0])
		}
	}
	file := filepath.Join(p.State, "laptop")
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if files, _ := os.ReadDir(p.State); len(files) != 1 {
		t.Errorf("left in the folder: %v", files)
	}
	other, err := Paths{State: t.TempDir()}.Laptop()
	if err != nil || other == names[0] {
		t.Errorf("another folder's Laptop = %q, %v", other, err)
	}
	if err := os.WriteFile(file, []byte("me@home\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Laptop(); err != nil || len(n) != 8 {
		t.Errorf("after the file was broken, Laptop = %q, %v", n, err)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	p := Paths{State: t.TempDir()}
	one, err := p.Token("spark")
	if err != nil || len(one) != 64 {
		t.Fatalf("Token = %q, %v", one, err)
	}
	if again, err := p.Token("spark"); err != nil || again != one {
		t.Errorf("a second time Token = %q, %v", again, err)
	}
	if other, err := p.Token("me@spark:22/../x"); err != nil || other == one {
		t.Errorf("of another host Token = %q, %v", other, err)
	}
	files, err := os.ReadDir(filepath.Join(p.State, "tokens"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
}
