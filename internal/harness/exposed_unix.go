//go:build unix

package harness

import (
	"os"
	"path/filepath"
	"syscall"
)

// exposed reports whether other users of this machine can read a file: its mode lets them, and so does that of each folder
// above it. A group whose number is the owner's is the owner's alone, as most systems make one for each user.
func exposed(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	file, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	others := info.Mode().Perm()&0o004 != 0
	group := info.Mode().Perm()&0o040 != 0 && file.Gid != file.Uid
	for others || group {
		dir := filepath.Dir(path)
		if dir == path {
			return true
		}
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		pass := info.Mode().Perm()&0o001 != 0
		others = others && pass
		if d, ok := info.Sys().(*syscall.Stat_t); ok && d.Gid == file.Gid {
			pass = info.Mode().Perm()&0o010 != 0
		}
		group = group && pass
		path = dir
	}
	return false
}
