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
	return random(p.State, "laptop", 4)
}

// Token is the secret that the local port of a host asks for, if its profile says so: made at random once, and kept for as
// long as the state folder is.
func (p Paths) Token(host string) (string, error) {
	if err := privateDir(p.State); err != nil {
		return "", &StateError{Dir: p.State, Err: err}
	}
	return random(filepath.Join(p.State, "tokens"), fileName(host), 32)
}

// random reads a word of n random bytes, in hexadecimal, from a file of a folder, or makes one there.
func random(dir, name string, n int) (string, error) {
	if err := privateDir(dir); err != nil {
		return "", &StateError{Dir: dir, Err: err}
	}
	file := filepath.Join(dir, name)
	read := func() (string, bool) {
		text, err := os.ReadFile(file)
		word := strings.TrimSpace(string(text))
		return word, err == nil && len(word) == 2*n && strings.Trim(word, "0123456789abcdef") == ""
	}
	if word, ok := read(); ok {
		return word, nil
	}
	b := make([]byte, n)
	rand.Read(b) // never fails
	word := hex.EncodeToString(b)
	f, err := os.CreateTemp(dir, ".random-*") // of mode 0600
	if err != nil {
		return "", &StateError{Dir: dir, Err: err}
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(word + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return "", &StateError{Dir: dir, Err: err}
	}
	// Of two that make one at the same time, the first one's stays; a file that holds none is replaced.
	if err := os.Link(f.Name(), file); err == nil {
		return word, nil
	} else if errors.Is(err, fs.ErrExist) {
		if word, ok := read(); ok {
			return word, nil
		}
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return "", &StateError{Dir: dir, Err: err}
	}
	return word, nil
}
