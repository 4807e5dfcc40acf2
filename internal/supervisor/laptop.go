package supervisor

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Laptop is the name by which boxes tell this state folder from others: it is made at random, once, and says nothing of the
// machine, its user or its network.
func (p Paths) Laptop() (string, error) {
	if err := privateDir(p.State); err != nil {
		return "", &StateError{Dir: p.State, Err: err}
	}
	file := filepath.Join(p.State, "laptop")
	text, err := os.ReadFile(file)
	if name := strings.TrimSpace(string(text)); err == nil && isLaptop(name) {
		return name, nil
	}
	var b [4]byte
	rand.Read(b[:]) // never fails
	name := hex.EncodeToString(b[:])
	f, err := os.CreateTemp(p.State, ".laptop-*") // of mode 0600
	if err != nil {
		return "", &StateError{Dir: p.State, Err: err}
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(name + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return "", &StateError{Dir: p.State, Err: err}
	}
	// Of two that make one at the same time, the first one's stays; a file that holds none is replaced.
	if err := os.Link(f.Name(), file); err == nil {
		return name, nil
	} else if errors.Is(err, fs.ErrExist) {
		if text, err := os.ReadFile(file); err == nil && isLaptop(strings.TrimSpace(string(text))) {
			return strings.TrimSpace(string(text)), nil
		}
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return "", &StateError{Dir: p.State, Err: err}
	}
	return name, nil
}

func isLaptop(name string) bool {
	return len(name) == 8 && strings.Trim(name, "0123456789abcdef") == ""
}
