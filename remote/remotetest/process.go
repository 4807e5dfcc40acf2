package remotetest

import (
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// process is a server that a test runs. It is stopped when the test ends.
type process struct {
	// PID is its process.
	PID int

	cmd  *exec.Cmd
	done chan struct{}
}

// startProcess starts cmd and waits until url answers 200. said is what it has printed so far, for a test that fails.
func startProcess(t testing.TB, cmd *exec.Cmd, name, url string, said func() string) process {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	p := process{PID: cmd.Process.Pid, cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			text := said()
			t.Logf("%s said:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	for deadline := time.Now().Add(60 * time.Second); ; {
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK { // 503 while it loads
				return p
			}
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended at once, %v: %s", name, cmd.ProcessState, said())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready on %s", name, url)
		}
	}
}

// Stop ends it. Once is enough.
func (p process) Stop() {
	p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended, or that this system has no such signal
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}
