// Package peer finds the real programs that tests run against, and a real model, and starts a private sshd.
//
// A test that needs a peer which this machine does not have is skipped with a word; with CI=true it fails instead,
// so that nothing is left out in silence.
package peer

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Peer is a real program that tests run against, or a file that such a program reads.
type Peer struct {
	Name string
	For  string // what it is for, one sentence
}

// Known are all peers, in the order in which `make peers` names them.
func Known() []Peer {
	return []Peer{
		{"ssh", "OpenSSH's client says what ssh_config and known_hosts mean, and is measured beside our forward."},
		{"sshd", "OpenSSH's server is the box that login, sessions and forwards have to work with."},
		{"ollama", "Ollama is the engine that is found, started, loaded, asked and stopped."},
		{"autossh", "autossh is measured beside our link."},
		{"fish", "fish is a login shell that is not POSIX and greets."},
		{"curl", "curl is what a box pulls a model with when it has it."},
		{"tcsh", "tcsh is a login shell of the csh family, with quoting of its own."},
		{"zsh", "zsh is a login shell that many have, and macOS's own."},
		{"busybox", "busybox has the shell and the tools of small systems."},
		{"chromium-headless-shell", "Chromium is the browser whose pages must not get at the port."},
		{Model, "SmolLM2-135M is a real model, small enough for every machine: what it takes is compared with what was predicted."},
	}
}

// Model is the peer that is a model: SmolLM2-135M-Instruct, Q4_1, as a GGUF file.
const Model = "smollm2.gguf"

// Optional are peers that not every machine can have. Without them a test is skipped, with CI=true too, and the last
// line of `make test` says so.
func Optional() []Peer {
	return []Peer{
		{"llama-server", "llama-server is llama.cpp's own engine, whose log is compared with what was predicted."},
	}
}

// Dir is where peers that were built lie: $RLCA_PEERS, else rlca/peers in the user's cache folder, which is
// $XDG_CACHE_HOME or ~/.cache on every system, as in .ci/peers. Empty if there is none.
func Dir() string {
	if d := os.Getenv("RLCA_PEERS"); d != "" {
		return d
	}
	if d := os.Getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "rlca", "peers")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".cache", "rlca", "peers")
}

// peerDir is read once, before a test changes HOME.
var peerDir = Dir()

// Find returns the path of a peer: from Dir, else, if it is a program, from PATH, else from /usr/sbin.
func Find(name string) (string, bool) { return find(peerDir, name) }

func find(dir, name string) (string, bool) {
	if strings.HasSuffix(name, ".gguf") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); dir == "" || err != nil || !info.Mode().IsRegular() {
			return "", false
		}
		return path, true
	}
	var places []string
	if dir != "" {
		places = append(places, filepath.Join(dir, name))
	}
	for _, p := range append(places, name, filepath.Join("/usr/sbin", name)) {
		// sshd runs only if it is called by its absolute path.
		if found, err := exec.LookPath(p); err == nil && filepath.IsAbs(found) {
			return found, true
		}
	}
	return "", false
}

// Need returns the path of a peer. Without it the test is skipped, or fails if CI=true and the peer is not optional.
func Need(t testing.TB, name string) string {
	t.Helper()
	p, ok := Find(name)
	switch {
	case ok:
	case slices.ContainsFunc(Optional(), func(p Peer) bool { return p.Name == name }):
		t.Skipf("%s is missing: make peers builds it where it can", name)
	default:
		missing(t, name+" is missing")
	}
	return p
}

// missing skips a test, or fails it if CI=true.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, and CI must have it: make peers", what)
	}
	t.Skipf("%s: make peers", what)
}

// Missing are the names of the known peers that this machine does not have.
func Missing() []string {
	var out []string
	for _, p := range Known() {
		if _, ok := Find(p.Name); !ok {
			out = append(out, p.Name)
		}
	}
	return out
}
