package remotetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
)

// Ollama is a real one, private to a test.
type Ollama struct {
	// URL is where it answers: "http://127.0.0.1:PORT"; Address is the same without the scheme.
	URL, Address string
	// Home is its HOME, Models its models folder.
	Home, Models string

	process
}

// StartOllama starts the real Ollama with a home, models and a port of its own, and more environment as given. It is
// stopped when the test ends. Without Ollama the test is skipped.
func StartOllama(t testing.TB, env ...string) *Ollama {
	t.Helper()
	program := peer.Need(t, "ollama")
	home := t.TempDir()
	o := &Ollama{Home: home, Models: filepath.Join(home, "models"), Address: fmt.Sprintf("127.0.0.1:%d", FreePort(t))}
	o.URL = "http://" + o.Address
	cmd := exec.Command(program, "serve")
	cmd.Env = append([]string{
		"HOME=" + o.Home, "PATH=/usr/bin:/bin", "OLLAMA_HOST=" + o.Address, "OLLAMA_MODELS=" + o.Models, "OLLAMA_NO_CLOUD=1", "OLLAMA_NOPRUNE=1",
		"OLLAMA_NUM_PARALLEL=1", "OMP_NUM_THREADS=1",
	}, env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = 5 * time.Second
	o.process = startProcess(t, cmd, "Ollama", o.URL+"/api/version", said.String)
	return o
}

// CreateScripted uploads the scripted model to the Ollama at baseURL and gives it a name.
func CreateScripted(ctx context.Context, baseURL, name string) error {
	return createWith(ctx, baseURL, name, Template)
}

// Create uploads the GGUF file at path to the Ollama at baseURL and gives it a name; more is what else the request to
// create it says.
func Create(ctx context.Context, baseURL, name, path string, more map[string]any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	file := filepath.Base(path)
	if err := send(ctx, "POST", baseURL+"/api/blobs/"+digest, "application/octet-stream", f); err != nil {
		return fmt.Errorf("upload %s: %w", file, err)
	}
	ask := map[string]any{"model": name, "files": map[string]string{file: digest}, "stream": false}
	maps.Copy(ask, more)
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	if err := send(ctx, "POST", baseURL+"/api/create", "application/json", bytes.NewReader(body)); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

func send(ctx context.Context, method, url, kind string, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 || strings.Contains(string(text), `"error"`) {
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}
