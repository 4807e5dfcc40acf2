//go:build unix

package harness

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// hold keeps other runs of rlca away from the files of a folder until it is released. Where a file system has no such
// locks there are none.
func hold(dir string) (release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}, nil // what is done there says what is wrong
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, errors.New("another rlca writes there: try again")
	}
	return func() { f.Close() }, nil
}

// names is how many hard links lead to a file.
func names(info fs.FileInfo) int {
	if info != nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			return int(st.Nlink)
		}
	}
	return 1
}

// own gives a new file to whom the one of info belongs, as far as this user may.
func own(f *os.File, info fs.FileInfo) {
	if info == nil {
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && f.Chown(int(st.Uid), int(st.Gid)) != nil {
		f.Chown(-1, int(st.Gid))
	}
}
