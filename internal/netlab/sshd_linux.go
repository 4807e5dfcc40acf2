package netlab

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"rlca/internal/peer"
)

// StartSSHD starts a real sshd in the box for the time of the test; the laptop reaches it at BoxAddr. extra are lines
// for its sshd_config, as for peer.StartSSHD. Sessions are killed in the midst of what a shell does at its start: their
// HOME is an empty folder, and not the user's, unless extra has a SetEnv of its own.
func (l *Lab) StartSSHD(extra ...string) *peer.SSHD {
	l.t.Helper()
	place := peer.Place{Host: BoxAddr, Start: func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		return l.Start(cmd)
	}}
	return place.StartSSHD(l.t, append(extra, "SetEnv HOME="+l.t.TempDir())...)
}
