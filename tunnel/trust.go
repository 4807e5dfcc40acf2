package tunnel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Trust writes the key of an unknown host to the first file of UserKnownHostsFile, after a person's yes. It only ever
// appends, and only once.
func Trust(e *UnknownHostKeyError) error {
	if err := trust(e); err != nil {
		return fmt.Errorf("write the host key of %s: %w", e.Host, err)
	}
	return nil
}

func trust(e *UnknownHostKeyError) error {
	if e.File == "" {
		return errors.New("ssh_config says UserKnownHostsFile none, so there is no file for it")
	}
	bare := e.Name
	if inner, ok := strings.CutPrefix(bare, "["); ok {
		bare, _, _ = strings.Cut(inner, "]:")
	}
	// OpenSSH writes no such names either: they would be patterns, or another field. Line breaks cannot get here.
	if bare == "" || strings.ContainsAny(bare, "@?*#[]|'\"\\, \t\r\n") || strings.ContainsAny(e.Key, "\r\n") {
		return fmt.Errorf("the name %q cannot stand in known_hosts", clean(e.Name))
	}
	info, err := os.Stat(e.File)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%s keeps nothing: set UserKnownHostsFile to a file for this host", e.File)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(e.File), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(e.File, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, maxKnownHosts))
	if err != nil {
		return err
	}
	_, _, _, blob, ok := splitKnown([]byte(e.Name + " " + e.Key))
	if !ok {
		return fmt.Errorf("the key %q cannot be read", clean(e.Key))
	}
	for _, l := range parseKnown(e.File, old, e.Name) {
		if l.marker == "" && bytes.Equal(l.key.Marshal(), blob) {
			return nil // somebody else was faster
		}
	}
	name := e.Name
	if e.Hash {
		salt := make([]byte, sha1.Size)
		rand.Read(salt) // never fails
		name = "|1|" + base64.StdEncoding.EncodeToString(salt) + "|" + base64.StdEncoding.EncodeToString(hashName(salt, e.Name))
	}
	line := name + " " + e.Key + "\n"
	if len(old) > 0 && old[len(old)-1] != '\n' {
		line = "\n" + line
	}
	if _, err := f.WriteString(line); err != nil { // one write, so that two writers do not mix their lines
		return err
	}
	return f.Close()
}
