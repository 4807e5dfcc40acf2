//go:build unix

package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// owned says whether a folder belongs to the user who runs rlca.
func owned(info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Getuid() {
		return fmt.Errorf("it belongs to uid %d, not to us (uid %d)", st.Uid, os.Getuid())
	}
	return nil
}

// lockFile takes the lock for the life of the process; errLocked means that another process has it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, err
	}
	return f, nil
}

// detach makes cmd outlive the terminal that it was started from. Whatever this process was handed beyond its three
// streams stays here: whoever waits for the end of such a file must not have to wait for the supervisor's.
func detach(cmd *exec.Cmd) {
	for fd := 3; fd < 256; fd++ {
		syscall.CloseOnExec(fd) // an error means that there is no such file
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}
