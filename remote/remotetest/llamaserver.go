package remotetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rlca/internal/peer"
)

// LlamaServer is a real llama-server, private to a test.
type LlamaServer struct {
	// Address is where it answers, "127.0.0.1:PORT"; URL is the same with the scheme.
	URL, Address string
	// Log is the file of all that it says.
	Log string
	// Build is its build, "b11434"; empty if it does not know: it was built without one.
	Build string

	process
}

// StartLlamaServer starts the real llama-server with a GGUF file, one request at a time on one thread, and further
// arguments as given. Its log says what it allocates. It is stopped when the test ends. Without it the test is skipped.
func StartLlamaServer(t testing.TB, model string, args ...string) *LlamaServer {
	t.Helper()
	program := peer.Need(t, "llama-server")
	dir := t.TempDir()
	s := &LlamaServer{Address: fmt.Sprintf("127.0.0.1:%d", FreePort(t)), Log: filepath.Join(dir, "llama-server.log")}
	s.URL = "http://" + s.Address
	env := []string{"HOME=" + dir, "PATH=/usr/bin:/bin"}
	said, err := os.Create(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	version := exec.Command(program, "--version")
	version.Env = env
	if out, err := version.CombinedOutput(); err == nil {
		s.Build = build(string(out))
	}
	host, port, _ := strings.Cut(s.Address, ":")
	cmd := exec.Command(program, append([]string{"--host", host, "--port", port, "-m", model, "-np", "1", "-t", "1", "-lv", "4"}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, said, said
	s.process = startProcess(t, cmd, "llama-server", s.URL+"/health", func() string {
		text, _ := os.ReadFile(s.Log)
		return string(text)
	})
	return s
}

// build reads "version: 0.6.0-dev (build 11434, commit unknown)", or "version: 6014 (abcdef)" of older ones.
func build(version string) string {
	_, rest, _ := strings.Cut(version, "version: ")
	if _, after, ok := strings.Cut(rest, "(build "); ok {
		rest = after
	}
	var n int
	if _, err := fmt.Sscanf(rest, "%d", &n); err != nil || n <= 1 {
		return ""
	}
	return fmt.Sprintf("b%d", n)
}
