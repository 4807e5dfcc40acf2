package supervisor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// maxSocketPath is the longest path that every system accepts for a unix socket: macOS has 104 bytes with the
// closing NUL, Linux 108. A longer one fails with a bare "invalid argument".
const maxSocketPath = 103

// Paths says where the supervisor of one user keeps its things. All folders are 0700, all files 0600.
type Paths struct {
	// State holds the logs, and what is worth keeping between two runs.
	State string
	// Run holds the lock and the socket.
	Run string
}

// FindPaths returns the paths for an environment: $RLCA_STATE_DIR if set, else $XDG_STATE_HOME/rlca or
// ~/.local/state/rlca with the socket in $XDG_RUNTIME_DIR/rlca. It creates nothing.
func FindPaths(getenv func(string) string) (Paths, error) {
	if dir := getenv("RLCA_STATE_DIR"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return Paths{}, fmt.Errorf("RLCA_STATE_DIR: %w", err)
		}
		return Paths{State: dir, Run: filepath.Join(dir, "run")}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return Paths{}, fmt.Errorf("no place for the state: %w; set RLCA_STATE_DIR", err)
	}
	p := Paths{State: filepath.Join(home, ".local", "state", "rlca")}
	if runtime.GOOS == "windows" {
		if dir := getenv("LOCALAPPDATA"); dir != "" {
			p.State = filepath.Join(dir, "rlca")
		}
	}
	if dir := getenv("XDG_STATE_HOME"); dir != "" {
		p.State = filepath.Join(dir, "rlca")
	}
	p.Run = filepath.Join(p.State, "run")
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" && filepath.IsAbs(dir) {
		if _, err := os.Stat(dir); err == nil {
			p.Run = filepath.Join(dir, "rlca")
		}
	}
	return p, nil
}

// Socket is the path of the supervisor's socket. Where the run folder's name is too long for a socket, it is a
// folder of a hashed name in the system's temporary folder; the folder is still checked to be ours alone.
func (p Paths) Socket() string {
	s := filepath.Join(p.Run, "rlca.sock")
	if len(s) <= maxSocketPath {
		return s
	}
	sum := sha256.Sum256([]byte(p.Run))
	return filepath.Join(os.TempDir(), fmt.Sprintf("rlca-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6])), "s")
}

// Lock is the path of the file that the running supervisor holds locked.
func (p Paths) Lock() string { return filepath.Join(p.Run, "rlca.lock") }

// Logs is the folder of the log files.
func (p Paths) Logs() string { return filepath.Join(p.State, "logs") }

// Log is the path of one host's log, or with an empty name of the supervisor's own.
func (p Paths) Log(host string) string {
	if host == "" {
		return filepath.Join(p.Logs(), "supervisor.log")
	}
	return filepath.Join(p.Logs(), "host-"+fileName(host)+".log")
}

// Loads is the path of the file of what loads took, by box.
func (p Paths) Loads() string { return filepath.Join(p.State, "loads.json") }

// fileName makes a file name of a host as the user typed it; what is not plain becomes '_' and a hash keeps it apart.
func fileName(host string) string {
	b := []byte(host)
	plain := true
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
		default:
			b[i], plain = '_', false
		}
	}
	if plain && len(b) <= 64 {
		return string(b)
	}
	sum := sha256.Sum256([]byte(host))
	return string(b[:min(len(b), 64)]) + "-" + hex.EncodeToString(sum[:4])
}

// Make creates the folders, or says why they cannot be used: not ours, not writable, open to others.
func (p Paths) Make() error {
	for _, dir := range []string{p.State, p.Logs(), p.Run, filepath.Dir(p.Socket())} {
		if err := privateDir(dir); err != nil {
			return &StateError{Dir: dir, Err: err}
		}
	}
	return nil
}

// StateError says that the state folder cannot be used.
type StateError struct {
	Dir string `json:"dir"`
	Err error  `json:"-"`
}

func (e *StateError) Error() string {
	if e.Err == nil {
		return "state folder " + e.Dir + " cannot be used"
	}
	var path *fs.PathError
	if errors.As(e.Err, &path) {
		return fmt.Sprintf("state folder %s cannot be used: %s %s: %v", e.Dir, path.Op, path.Path, path.Err)
	}
	return fmt.Sprintf("state folder %s cannot be used: %v", e.Dir, e.Err)
}

func (e *StateError) Unwrap() error { return e.Err }

// privateDir makes dir for us alone, and checks one that is there already.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("it is not a folder")
	}
	if err := owned(info); err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	probe, err := os.CreateTemp(dir, ".w-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
