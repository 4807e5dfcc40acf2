package tunnel

import (
	"io/fs"
	"os/exec"
)

// ownGroup does nothing here: a killed command's children live on, and lose their pipes.
func ownGroup(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }

// shellCommand runs a line with the system's command interpreter, as ssh does here.
func shellCommand(line string) *exec.Cmd { return exec.Command("cmd.exe", "/c", line) }

// onlyOurs is left to the access lists of the file system.
func onlyOurs(string) error { return nil }

// onlyOwnerWrites is left to the access lists of the file system.
func onlyOwnerWrites(fs.FileInfo) bool { return true }
