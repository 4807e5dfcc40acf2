package tunnel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// maxSocket is how long the path of a socket may be: macOS has room for 104 bytes with the NUL, Linux for 108.
const maxSocket = 103

// socketProbe bounds the question whether somebody still listens on a socket.
const socketProbe = time.Second

// listenSocket opens a unix socket that only this user can reach. A socket that is left over from a process that is
// gone is replaced; one that somebody listens on is a *PortTakenError, and any other file is left alone.
func listenSocket(path string) (net.Listener, error) {
	bad := func(err error) error { return fmt.Errorf("listen on %s: %w", path, bare(err)) }
	if len(path) > maxSocket {
		return nil, bad(fmt.Errorf("the path is longer than %d bytes", maxSocket))
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, bad(err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, bad(errors.New("there is a file with that name, and it is no socket"))
	default:
		c, err := net.DialTimeout("unix", path, socketProbe)
		if err == nil {
			c.Close()
			return nil, &PortTakenError{Addr: path}
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, bad(unwrapNet(err))
		}
	}
	// It is made where nobody else can reach it and then moved, so that it is never open to others, not for a moment.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".r")
	if err != nil {
		return nil, bad(err)
	}
	defer os.Remove(dir)
	tmp := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, bad(unwrapNet(err))
	}
	l.SetUnlinkOnClose(false)
	s := &socket{UnixListener: l, path: path}
	if err = os.Chmod(tmp, 0o600); err == nil {
		if s.made, err = os.Lstat(tmp); err == nil {
			err = os.Rename(tmp, path)
		}
	}
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, bad(err)
	}
	return s, nil
}

// socket is a listener that takes its file away at the end.
type socket struct {
	*net.UnixListener
	path string
	made fs.FileInfo
	once sync.Once
}

func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

func (s *socket) Close() error {
	s.once.Do(func() {
		if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.made) { // somebody else may have it by now
			os.Remove(s.path)
		}
	})
	return s.UnixListener.Close()
}
