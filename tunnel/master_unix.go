//go:build unix && !linux

package tunnel

import (
	"os/exec"
	"syscall"
)

// ownSession puts a command into a session of its own, without a terminal to ask on, and a process group with it. It
// outlives us if we are killed: there is no word for the system to prevent that here.
func ownSession(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return nil
}
