package tunnel

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// socketDir is a folder whose path leaves room for a socket's name.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListenSocket(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := socketDir(t)
	path := filepath.Join(dir, "a.sock")
	ls, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v, want it closed to others", info, err)
	}
	if got := ls[0].Addr().String(); got != path {
		t.Errorf("Addr = %s, want %s", got, path)
	}
	var taken *PortTakenError
	if _, err := Listen(path); !errors.As(err, &taken) || !strings.Contains(err.Error(), "the socket "+path+" is taken") {
		t.Errorf("a second one: %v, want that it is taken", err)
	}
	f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			b := make([]byte, 4)
			n, _ := far.Read(b)
			far.Write(b[:n])
			far.Close()
		}()
		return near, nil
	}}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Serve(ctx, ls...) }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("ping"))
	b := make([]byte, 4)
	if _, err := c.Read(b); err != nil || string(b) != "ping" {
		t.Errorf("read %q, %v", b, err)
	}
	end()
	<-done
	left, _ := os.ReadDir(dir)
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestListenSocketInTheWay(t *testing.T) {
	dir := socketDir(t)
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	ls, err := Listen(stale)
	if err != nil {
		t.Fatalf("over one that is left from a dead process: %v", err)
	}
	os.Remove(stale)
	other, err := net.Listen("unix", stale) // somebody else's now
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ls[0].Close()
	if _, err := os.Lstat(stale); err != nil {
		t.Errorf("somebody else's socket was taken away: %v", err)
	}
	file := writeFile(t, "file", "precious")
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if text, _ := os.ReadFile(file); string(text) != "precious" {
		t.Errorf("the file has %q now", text)
	}
	if _, err := Listen(filepath.Join(dir, "no", "folder")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
	if _, err := Listen("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("a long path: %v", err)
	}
}
