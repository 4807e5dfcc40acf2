package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/profiles"
	"rlca/remote"
	"rlca/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// paths are short ones: a socket's path has a limit.
func paths(t *testing.T) Paths {
	t.Helper()
	dir, err := os.MkdirTemp("", "rlca")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Paths{State: dir, Run: filepath.Join(dir, "run")}
}

func TestFindPaths(t *testing.T) {
	run := t.TempDir()
	env := map[string]string{"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": run}
	p, err := FindPaths(func(k string) string { return env[k] })
	if err != nil || p.State != filepath.Join("/s", "rlca") || p.Run != filepath.Join(run, "rlca") {
		t.Errorf("FindPaths = %+v, %v", p, err)
	}
	env["RLCA_STATE_DIR"] = "/own"
	if p, err = FindPaths(func(k string) string { return env[k] }); err != nil || p.Run != filepath.Join(p.State, "run") || !strings.HasSuffix(p.State, "own") {
		t.Errorf("with RLCA_STATE_DIR FindPaths = %+v, %v", p, err)
	}
	long := Paths{Run: "/" + strings.Repeat("x", 200)}
	if s := long.Socket(); len(s) > maxSocketPath {
		t.Errorf("the socket's path has %d bytes: %s", len(s), s)
	}
	for _, host := range []string{"spark", "me@spark:22", "../../etc/passwd", strings.Repeat("y", 300), "a b", "a_b"} {
		if f := p.Log(host); filepath.Dir(f) != p.Logs() || len(filepath.Base(f)) > 100 {
			t.Errorf("Log(%q) = %s, which leads out of %s", host, f, p.Logs())
		}
	}
	if p.Log("a b") == p.Log("a_b") {
		t.Error("two hosts have one log")
	}
}

func TestMake(t *testing.T) {
	p := paths(t)
	if err := p.Make(); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		os.Chmod(p.Run, 0o755)
		if err := p.Make(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(p.Run); err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o700 {
			t.Errorf("the run folder has mode %v, want 0700", info.Mode())
		}
		os.RemoveAll(p.Run)
		if err := os.Symlink(t.TempDir(), p.Run); err != nil {
			t.Fatal(err)
		}
		var state *StateError
		if err := p.Make(); !errors.As(err, &state) {
			t.Errorf("Make with a link in place of the folder: %v, want a *StateError", err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	var state *StateError
	if err := (Paths{State: filepath.Join(file, "state"), Run: file}).Make(); !errors.As(err, &state) || !strings.Contains(err.Error(), "cannot be used") {
		t.Errorf("Make below a file: %v, want a *StateError", err)
	}
}

// Of several that start at once one stays, the others say that it runs; a dead one's socket is no obstacle.
func TestOneSupervisor(t *testing.T) {
	p := paths(t)
	if err := p.Make(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Socket(), []byte("stale"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	ended := make(chan error, 5)
	for range 5 {
		wg.Go(func() { ended <- (&Server{Paths: p, Version: "1", Stay: true}).Run(ctx) })
	}
	for range 4 {
		if err := <-ended; !Running(err) {
			t.Errorf("a second supervisor ended with %v, want the word that one runs", err)
		}
	}
	c := &Client{Paths: p, Version: "1"}
	for range 200 { // the one that stays may still be opening its socket
		if conn, err := net.Dial("unix", p.Socket()); err == nil {
			conn.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	st, err := c.Status(ctx)
	if err != nil || len(st.Hosts) != 0 {
		t.Errorf("Status = %+v, %v, want no hosts", st, err)
	}
	if runtime.GOOS != "windows" {
		if info, err := os.Stat(p.Socket()); err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("the socket has mode %v, want 0600", info.Mode())
		}
	}
	var none *NotConnectedError
	if _, err := c.Disconnect(ctx, "spark", LeaveEngine); !errors.As(err, &none) || none.Host != "spark" {
		t.Errorf("Disconnect of an unknown host: %v", err)
	}
	old := &Client{Paths: p, Version: "2"}
	if _, _, err := old.Connect(ctx, request("x", 1), func(instance.Event) {}); err == nil || !strings.Contains(err.Error(), "the supervisor that runs is rlca 1, this is 2") {
		t.Errorf("Connect of another version: %v", err)
	}
	cancel()
	<-ended
	wg.Wait()
	if _, err := os.Stat(p.Socket()); err == nil {
		t.Error("the socket is left behind")
	}
	if _, _, err := c.Connect(context.Background(), request("x", 1), func(instance.Event) {}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Connect without a supervisor: %v", err)
	}
}

// request leads to a port of loopback where nobody is.
func request(name string, port int) instance.Request {
	p := profiles.Default()
	p.Host, p.Forward.Listen, p.Engine.Name = fmt.Sprintf("me@127.0.0.1:%d", port), "127.0.0.1:0", "none"
	return instance.Request{Name: name, Profile: p, OpenSSH: "none", SSHConfig: "none", AgentSocket: "none"}
}

// A connect that fails brings its typed error over the socket, and leaves nothing; the supervisor then ends by itself.
func TestConnectFails(t *testing.T) {
	p := paths(t)
	s := &Server{Paths: p, Version: "1"}
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background()) }()
	<-s.Ready()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	c := &Client{Paths: p, Version: "1"}
	var events []instance.Event
	_, _, err = c.Connect(context.Background(), request("spark", port), func(e instance.Event) { events = append(events, e) })
	var dial *tunnel.DialError
	if !errors.As(err, &dial) || dial.Op != "connect" || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Connect = %v (%T), want a *tunnel.DialError of connect", err, err)
	}
	if len(events) == 0 || events[0].Step != instance.StepLink {
		t.Errorf("events %+v, want the link first", events)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the supervisor ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the supervisor does not end without a host")
	}
}

// Every error that somebody decides by is found again on the other side, with its facts and its words.
func TestWire(t *testing.T) {
	total := fit.Bytes(1 << 30)
	for _, e := range []error{
		&instance.CancelledError{At: instance.StepModel, Undone: []string{"x"}},
		&PortInUseError{Listen: "127.0.0.1:1", Host: "spark"},
		&StateError{Dir: "/x", Err: errors.New("full")},
		&tunnel.UnknownHostKeyError{Host: "spark", Fingerprint: "SHA256:x", File: "/k", Key: "ssh-ed25519 A"},
		&tunnel.ChangedHostKeyError{Host: "spark", File: "/k", Line: 14},
		&tunnel.AuthError{User: "me", Host: "spark", Tried: []string{"k"}},
		&tunnel.OpenSSHError{Host: "spark", Said: "Host key verification failed."},
		&tunnel.SecretError{User: "me", Host: "spark", Questions: []tunnel.Question{{User: "me", Host: "spark", Kind: "password", Round: 1, Try: 1}}},
		&tunnel.PassphraseError{File: "/k"},
		&tunnel.ConfigError{Host: "spark", Msg: "bad"},
		&tunnel.NoShellError{Host: "spark"},
		&tunnel.RefusedError{Addr: "a", Reason: "r", Prohibited: true},
		&tunnel.PortTakenError{Addr: "127.0.0.1:1", Holder: "ollama (pid 1)"},
		&tunnel.DialError{Op: "connect", Addr: "a", Reason: "refused", TooBusy: true},
		&fit.ShortfallError{Result: fit.Result{Model: "m", Total: &total, Budget: &total}, Host: "spark"},
		&fit.UnknownModelError{Name: "m", Near: []string{"n"}},
		&remote.NotInstalledError{Engine: "Ollama"},
		&remote.ModelMissingError{Model: "m", Near: []string{"n"}},
		&remote.PullError{Model: "m", Class: "space", Text: "no space left"},
	} {
		wrapped := fmt.Errorf("connect spark: %w", e)
		got := toWire(wrapped).err()
		if got.Error() != wrapped.Error() {
			t.Errorf("%T: the words became %q, want %q", e, got, wrapped)
		}
		inner := errors.Unwrap(got)
		if inner == nil || fmt.Sprintf("%T", inner) != fmt.Sprintf("%T", e) {
			t.Errorf("%T came back as %T", e, inner)
			continue
		}
		if _, isState := e.(*StateError); !isState && inner.Error() != e.Error() {
			t.Errorf("%T lost facts: %q, want %q", e, inner, e)
		}
	}
	if got := toWire(errors.New("plain")).err(); got.Error() != "plain" || errors.Unwrap(got) != nil {
		t.Errorf("a plain error became %v", got)
	}
}

func TestLogTurnsOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "x.log")
	l := &logFile{path: path}
	line := bytes.Repeat([]byte("x"), 1<<20)
	for range 20 {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != keptLogs+1 {
		t.Errorf("%d files, want %d", len(files), keptLogs+1)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxLog || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d bytes, mode %v, %v", f, info.Size(), info.Mode(), err)
		}
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	if err := Tail(context.Background(), path, false, io.Discard); err == nil || !strings.Contains(err.Error(), "no log yet") {
		t.Errorf("Tail of nothing: %v", err)
	}
	var all strings.Builder
	for n := range 500 {
		fmt.Fprintf(&all, "line %d\n", n)
	}
	if err := os.WriteFile(path, []byte(all.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Tail(context.Background(), path, false, &out); err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(out.String(), "\n"); got[0] != "line 300" || len(got) != tailLines+1 {
		t.Errorf("Tail begins with %q and has %d lines, want the last %d", got[0], len(got)-1, tailLines)
	}
	// It follows into a new file when the old one is turned over.
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Tail(ctx, path, true, w); w.Close() }()
	seen := make(chan bool, 1)
	go func() {
		text := make([]byte, 64<<10)
		var got string
		for {
			n, err := r.Read(text)
			got += string(text[:n])
			if strings.Contains(got, "after the turn") {
				seen <- true
				io.Copy(io.Discard, r)
				return
			}
			if err != nil {
				seen <- false
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	os.Rename(path, path+".1")
	os.WriteFile(path, []byte("after the turn\n"), 0o600)
	select {
	case ok := <-seen:
		if !ok {
			t.Error("the line in the new file was not shown")
		}
	case <-time.After(10 * time.Second):
		t.Error("the new file was not followed")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
