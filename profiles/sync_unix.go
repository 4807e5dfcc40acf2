//go:build unix

package profiles

import "os"

// syncDir brings a rename to the disk. Some file systems cannot; the rename has happened all the same.
func syncDir(root *os.Root) {
	if f, err := root.Open("."); err == nil {
		f.Sync()
		f.Close()
	}
}
