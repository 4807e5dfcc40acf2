package box

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func needShell(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the commands are those of a POSIX shell")
	}
}

// run runs a command with something on its stdin, and returns its stdout.
func run(c *ssh.Client, command, stdin string) (string, error) {
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	s.Stdin = strings.NewReader(stdin)
	out, err := s.Output(command)
	return string(out), err
}

// lives says whether a process runs; one that has ended but is not waited for does not.
func lives(pid int) bool {
	if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil {
		_, rest, _ := strings.Cut(string(stat), ") ")
		return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
	}
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}

// dies waits for a process to end.
func dies(t *testing.T, what string, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); lives(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s (pid %d) lives on", what, pid)
			kill(pid)
			return
		}
	}
}

func kill(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		p.Kill()
	}
}

// begin starts a command that prints process ids, and returns the first n of them.
func begin(t *testing.T, c *ssh.Client, command string, n int) (*ssh.Session, []int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(command); err != nil {
		t.Fatal(err)
	}
	var pids []int
	r := bufio.NewReader(out)
	for range n {
		line, err := r.ReadString('\n')
		pid, bad := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || bad != nil || pid <= 1 {
			t.Fatalf("%s printed %q, %v", command, line, err)
		}
		pids = append(pids, pid)
	}
	go io.Copy(io.Discard, r)
	return s, pids
}

func TestExec(t *testing.T) {
	needShell(t)
	dir := t.TempDir()
	c := login(t, start(t, Options{Dir: dir, Env: []string{"RLCA_TEST=yes"}}))
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		command, stdin, out, stderr string
		code                        int
		signal                      string
	}{
		{"exec /bin/sh -s", "echo hello\necho trouble >&2\nexit 3\n", "hello\n", "trouble\n", 3, ""},
		{"exec /bin/sh -s", "", "", "", 0, ""},
		{"cat", strings.Repeat("0123456789abcdef", 1<<18), strings.Repeat("0123456789abcdef", 1<<18), "", 0, ""},
		{"pwd -P; cd ~; pwd -P; echo $SHELL $RLCA_TEST", "", dir + "\n" + dir + "\n/bin/sh yes\n", "", 0, ""},
		{"echo 'it'\\''s'", "", "it's\n", "", 0, ""},
		{"echo last; kill -TERM $$", "", "last\n", "", 0, "TERM"},
		{"kill -KILL $$", "", "", "", 0, "KILL"},
		{"exit 255", "", "", "", 255, ""},
		{"true", strings.Repeat("nobody reads this\n", 1<<16), "", "", 0, ""},
		{"rlca-no-such-command 2>/dev/null", "", "", "", 127, ""},
		{"test -t 0 || test -t 1 || tty >/dev/null", "", "", "", 1, ""},
		{"ps -o pgid= -p $$ | tr -d ' ' | grep -qx $$", "", "", "", 0, ""},
	} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		s.Stderr, s.Stdin = &stderr, strings.NewReader(x.stdin)
		out, err := s.Output(x.command)
		var exit *ssh.ExitError
		code, signal := 0, ""
		if errors.As(err, &exit) {
			code, signal = exit.ExitStatus(), exit.Signal()
			if signal != "" {
				code = 0 // x/crypto's own idea of it
			}
		} else if err != nil && !errors.Is(err, io.EOF) { // stdin that nobody reads
			t.Errorf("%s: %v", x.command, err)
		}
		if string(out) != x.out || stderr.String() != x.stderr || code != x.code || signal != x.signal {
			t.Errorf("%s: %.100q, %.100q, %d %q, want %.100q, %.100q, %d %q", x.command, out, stderr.String(), code, signal, x.out, x.stderr, x.code, x.signal)
		}
		s.Close()
	}

	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("it says that it gave a terminal")
	}
	if err := s.Setenv("A", "b"); err == nil {
		t.Error("it says that it took a variable")
	}
	if err := s.Shell(); err == nil {
		t.Error("it says that it started an interactive shell")
	}
	if ok, err := s.SendRequest("exec", true, []byte{255, 255, 255, 255}); ok || err != nil {
		t.Errorf("a broken exec: %v, %v", ok, err)
	}
	if out, err := s.Output("echo still here"); string(out) != "still here\n" || err != nil {
		t.Errorf("after all that: %q, %v", out, err)
	}
}

func TestShells(t *testing.T) {
	needShell(t)
	for _, x := range []struct {
		o           Options
		out, stderr string
		code        int
	}{
		{Options{Noise: "Welcome!\n"}, "Welcome!\nhello\n", "", 0},
		{Options{NoShell: true}, "", "/bin/sh: not found", 127},
		{Options{Shell: "/rlca/no/such/shell"}, "", "/rlca/no/such/shell: no such file", 127},
		{Options{Shell: "/bin/echo"}, "-c exec /bin/sh -s\n", "", 0},
	} {
		s, err := login(t, start(t, x.o)).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		s.Stderr, s.Stdin = &stderr, strings.NewReader("echo hello")
		out, err := s.Output("exec /bin/sh -s")
		code := 0
		var exit *ssh.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitStatus()
		}
		if string(out) != x.out || !strings.Contains(stderr.String(), x.stderr) || code != x.code {
			t.Errorf("%+v: %q, %q, %d, want %q, %q, %d", x.o, out, stderr.String(), code, x.out, x.stderr, x.code)
		}
	}
	var refused *ssh.OpenChannelError
	if _, err := login(t, start(t, Options{NoSession: true})).NewSession(); !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
		t.Errorf("a box without sessions: %v", err)
	}
}

// TestCutEndsCommands checks that what a connection runs ends with it, and what left its session does not.
func TestCutEndsCommands(t *testing.T) {
	needShell(t)
	for name, end := range map[string]func(*Box, *ssh.Client, *ssh.Session){
		"cut":     func(b *Box, _ *ssh.Client, _ *ssh.Session) { b.Cut() },
		"close":   func(b *Box, _ *ssh.Client, _ *ssh.Session) { b.Close() },
		"client":  func(_ *Box, c *ssh.Client, _ *ssh.Session) { c.Close() },
		"session": func(_ *Box, _ *ssh.Client, s *ssh.Session) { s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, Options{})
			c := login(t, b)
			s, pids := begin(t, c, "echo $$; sleep 600 & echo $!; while :; do echo 1; done", 2)
			end(b, c, s)
			dies(t, "the command", pids[0])
			dies(t, "its child", pids[1])
			if name != "session" {
				ends(t, c)
			}
		})
	}
}

func TestDetached(t *testing.T) {
	needShell(t)
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("this machine has no setsid")
	}
	b := start(t, Options{})
	c := login(t, b)
	out, err := run(c, "exec /bin/sh -s", `
setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!
nohup sleep 600 </dev/null >/dev/null 2>&1 & echo $!
`)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(out)
	if len(f) != 2 {
		t.Fatalf("it printed %q", out)
	}
	apart, _ := strconv.Atoi(f[0])
	background, _ := strconv.Atoi(f[1])
	defer kill(apart)
	dies(t, "a process that did not leave", background)
	if _, err := run(c, "true", ""); err != nil { // the connection is well
		t.Error(err)
	}
	b.Close()
	if !lives(apart) {
		t.Error("a process that left with setsid was ended")
	}
}

// TestHeldOutput checks that the end of a command is told at once, although a child holds its output, as sshd does it.
func TestHeldOutput(t *testing.T) {
	needShell(t)
	c := login(t, start(t, Options{}))
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(&struct{ Command string }{"sleep 600 & echo $!; exit 4"})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	line, err := bufio.NewReader(ch).ReadString('\n')
	pid, bad := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || bad != nil {
		t.Fatalf("it printed %q, %v", line, err)
	}
	select {
	case r := <-reqs:
		if r == nil || r.Type != "exit-status" || string(r.Payload) != "\x00\x00\x00\x04" {
			t.Errorf("it said %+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not say how the command ended")
	}
	ch.Close()
	dies(t, "the child", pid)
}
