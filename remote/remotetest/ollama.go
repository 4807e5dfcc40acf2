package remotetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
	// PID is its process.
	PID int

	cmd  *exec.Cmd
	done chan struct{}
}

// StartOllama starts the real Ollama with a home, models and a port of its own, and more environment as given. It is
// stopped when the test ends. Without Ollama the test is skipped.
func StartOllama(t testing.TB, env ...string) *Ollama {
	t.Helper()
	program := peer.Need(t, "ollama")
	home := t.TempDir()
	o := &Ollama{Home: home, Models: filepath.Join(home, "models"), Address: fmt.Sprintf("127.0.0.1:%d", FreePort(t)), done: make(chan struct{})}
	o.URL = "http://" + o.Address
	o.cmd = exec.Command(program, "serve")
	o.cmd.Env = append([]string{
		"HOME=" + o.Home, "PATH=/usr/bin:/bin", "OLLAMA_HOST=" + o.Address, "OLLAMA_MODELS=" + o.Models, "OLLAMA_NO_CLOUD=1", "OLLAMA_NOPRUNE=1",
		"OLLAMA_NUM_PARALLEL=1", "OMP_NUM_THREADS=1",
	}, env...)
	var said bytes.Buffer
	o.cmd.Stdout, o.cmd.Stderr = &said, &said
	o.cmd.WaitDelay = 5 * time.Second
	if err := o.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	o.PID = o.cmd.Process.Pid
	go func() {
		o.cmd.Wait()
		close(o.done)
	}()
	t.Cleanup(func() {
		o.Stop()
		if t.Failed() {
			text := said.String()
			t.Logf("Ollama on %s said:\n%s", o.Address, text[max(0, len(text)-4000):])
		}
	})
	deadline := time.Now().Add(60 * time.Second)
	for {
		resp, err := http.Get(o.URL + "/api/version")
		if err == nil {
			resp.Body.Close()
			return o
		}
		select {
		case <-o.done:
			t.Fatalf("Ollama ended at once: %s", said.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("Ollama does not answer on %s", o.Address)
		}
	}
}

// Stop ends it. Once is enough.
func (o *Ollama) Stop() {
	o.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended, or that this system has no such signal
	select {
	case <-o.done:
	case <-time.After(10 * time.Second):
		o.cmd.Process.Kill()
		<-o.done
	}
}

// CreateScripted uploads the scripted model to the Ollama at baseURL and gives it a name.
func CreateScripted(ctx context.Context, baseURL, name string) error {
	dir, err := os.MkdirTemp("", "rlca-scripted-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "scripted.gguf")
	if err := WriteScripted(path); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if err := send(ctx, "POST", baseURL+"/api/blobs/"+digest, "application/octet-stream", data); err != nil {
		return fmt.Errorf("upload the scripted model: %w", err)
	}
	body, err := json.Marshal(map[string]any{
		"model": name, "files": map[string]string{"scripted.gguf": digest}, "template": Template, "stream": false,
		"parameters": map[string]any{"num_thread": 1, "temperature": 0},
	})
	if err != nil {
		return err
	}
	if err := send(ctx, "POST", baseURL+"/api/create", "application/json", body); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

func send(ctx context.Context, method, url, kind string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
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
