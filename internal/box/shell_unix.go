//go:build unix

package box

import (
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func loginShell() (string, error) { return "/bin/sh", nil }

// own puts a command in a session and a process group of its own, as sshd does.
func own(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// killGroup ends a process group.
func killGroup(group int) { syscall.Kill(-group, syscall.SIGKILL) }

// groupLives says whether anybody is left in a process group. On macOS, a group of the dead alone is refused.
func groupLives(group int) bool { return syscall.Kill(-group, 0) == nil }

// exitSignal is the name of the signal that ended a process, as SSH writes it: "TERM". Empty if none did.
func exitSignal(state *os.ProcessState) string {
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		return ""
	}
	return strings.TrimPrefix(unix.SignalName(ws.Signal()), "SIG")
}
