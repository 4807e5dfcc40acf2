package box

import (
	"errors"
	"os"
	"os/exec"
)

// loginShell is a POSIX shell, which Windows does not have of its own.
func loginShell() (string, error) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return "", errors.New("this box runs POSIX scripts and found no sh on PATH; Git for Windows brings one")
	}
	return sh, nil
}

// Windows has no process groups in this sense: a command ends alone, and its children with their pipes.
func own(*exec.Cmd) {}

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		p.Kill()
	}
}

func groupLives(int) bool { return false }

func exitSignal(*os.ProcessState) string { return "" }
