//go:build unix

package tunnel

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// ownGroup puts a command into a process group of its own, which its end takes along.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if cmd.Cancel != nil { // it has a context
		cmd.Cancel = func() error { return killGroup(cmd) }
	}
}

func killGroup(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// shellCommand runs a line as ssh does: with the user's own shell, which it replaces.
func shellCommand(line string) *exec.Cmd {
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	return exec.Command(shell, "-c", "exec "+line)
}

// onlyOurs refuses a private key of ours that others may read, as OpenSSH does (authfile.c: sshkey_perm_ok).
func onlyOurs(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return bare(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Getuid() && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("open to others (mode %04o), so it is not used: chmod 600 %s", info.Mode().Perm(), short(path))
	}
	return nil
}

// onlyOwnerWrites reports whether nobody but us and root may write a file of ssh_config (readconf.c).
func onlyOwnerWrites(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || (st.Uid == 0 || int(st.Uid) == os.Getuid()) && info.Mode().Perm()&0o022 == 0
}
