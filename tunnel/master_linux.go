package tunnel

import (
	"os/exec"
	"syscall"
)

// ownSession puts a command into a session of its own, without a terminal to ask on, and a process group with it. The
// command ends when the thread that started it does, however that ends.
func ownSession(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	return nil
}
