package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"rlca/probe"
)

// windowsAnswer is what a Windows box prints when it is probed.
const windowsAnswer = `
@@rlca-windows begin uname
Windows 10.0.26100.0 AMD64

@@rlca-windows end uname rc=0

@@rlca-windows begin win
name Windows 10 Pro
build 26100

@@rlca-windows end win rc=0

@@rlca-windows begin mem
total 34359738368
avail 21474836480

@@rlca-windows end mem rc=0

@@rlca-windows done
`

// windowsServer calls itself OpenSSH for Windows, has cmd for a shell, and answers the probe. It notes what it is asked
// to run, and what stands on the standard input of that.
type windowsServer struct {
	server

	notes    sync.Mutex // guards what follows
	ran      []string
	sessions int
	refused  int // as many sessions are refused at first
}

func newWindowsServer(t *testing.T, refused int) *windowsServer {
	w := &windowsServer{refused: refused}
	w.change = func(c *ssh.ServerConfig) { c.ServerVersion = "SSH-2.0-OpenSSH_for_Windows_9.5" }
	w.refuse = func(kind string) (ssh.RejectionReason, string, bool) {
		w.notes.Lock()
		defer w.notes.Unlock()
		w.sessions++
		return ssh.ResourceShortage, "open failed", kind == "session" && w.sessions <= w.refused
	}
	w.exec = func(ch ssh.Channel, command string) int {
		in, _ := io.ReadAll(ch)
		w.notes.Lock()
		w.ran = append(w.ran, command+string(in))
		w.notes.Unlock()
		if command == probe.WindowsCommand() {
			io.WriteString(ch, strings.ReplaceAll(windowsAnswer, "\n", "\r\n"))
			return 0
		}
		word, _, _ := strings.Cut(command, " ")
		fmt.Fprintf(ch.Stderr(), "'%s' is not recognized as an internal or external command,\r\noperable program or batch file.\r\n", word)
		return 1
	}
	w.start(t)
	return w
}

// A Windows box is probed by one command; that the first command after the login is refused harms nothing.
func TestProbeWindows(t *testing.T) {
	for _, refused := range []int{0, 1} {
		s := newWindowsServer(t, refused)
		c := s.dial(t, new(Dialer))
		<-c.warm
		if got := c.ServerVersion(); got != "OpenSSH_for_Windows_9.5" || !probe.IsWindows(got) {
			t.Errorf("ServerVersion = %q", got)
		}
		r, err := probe.Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if r.OS != "windows" || r.OSName != "Windows 11 Pro" || r.Memory.TotalBytes == nil || *r.Memory.TotalBytes != 32<<30 || len(r.Warnings) != 0 {
			t.Errorf("probe.Run = %+v", r)
		}
		s.notes.Lock()
		if !slices.Equal(s.ran, []string{probe.WindowsCommand()}) || s.sessions != 2 {
			t.Errorf("ran %.80q in %d sessions, want the probe alone, with nothing on its input, after the first command", s.ran, s.sessions)
		}
		s.notes.Unlock()
	}
	var none *NoShellError
	if _, err := newWindowsServer(t, 0).dial(t, new(Dialer)).Run(t.Context(), "echo hello"); !errors.As(err, &none) || !strings.HasPrefix(none.Said, "'exec' is not recognized") {
		t.Errorf("Run = %v, want a NoShellError", err)
	}
}

// A box may be Windows: probe asks a Client by Command then.
var _ probe.WindowsRunner = (*Client)(nil)

func TestCommand(t *testing.T) {
	hang := make(chan struct{})
	s := &server{exec: func(ch ssh.Channel, command string) int {
		switch command {
		case "good":
			in, err := io.ReadAll(ch)
			fmt.Fprintf(ch, "in %d %v\r\n", len(in), err)
			return 0
		case "bad":
			io.WriteString(ch, "part")
			io.WriteString(ch.Stderr(), "no \x1b[31mway\r\n")
			return 7
		case "endless":
			for {
				if _, err := ch.Write(make([]byte, 1<<16)); err != nil {
					return -1
				}
			}
		}
		fmt.Fprint(ch, "before")
		<-hang
		return -1
	}}
	s.start(t)
	t.Cleanup(func() { close(hang) })
	c := s.dial(t, new(Dialer))
	if out, err := c.Command(t.Context(), "good"); string(out) != "in 0 <nil>\r\n" || err != nil {
		t.Errorf("Command = %q, %v", out, err)
	}
	var exit *ExitError
	if out, err := c.Command(t.Context(), "bad"); string(out) != "part" || !errors.As(err, &exit) || exit.Code != 7 || exit.Stderr != "no [31mway" {
		t.Errorf("Command = %q, %v; want an ExitError with 7", out, err)
	}
	if out, err := c.Command(t.Context(), "endless"); len(out) != maxOutput || err == nil || !strings.Contains(err.Error(), "more than 4 MiB") {
		t.Errorf("Command = %d bytes, %v; want the limit", len(out), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if out, err := c.Command(ctx, "hang"); string(out) != "before" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Command = %q, %v; want the end of ctx", out, err)
	}
	time.AfterFunc(200*time.Millisecond, s.cut)
	if out, err := c.Command(t.Context(), "hang"); string(out) != "before" || err == nil || as[*ExitError](err) || as[*NoShellError](err) {
		t.Errorf("Command = %q, %v; want why the link ended", out, err)
	}
	s = (&server{refuse: func(kind string) (ssh.RejectionReason, string, bool) {
		return ssh.Prohibited, "no sessions here", kind == "session"
	}}).start(t)
	if out, err := s.dial(t, new(Dialer)).Command(t.Context(), "good"); out != nil || !as[*NoShellError](err) {
		t.Errorf("Command = %q, %v; want a NoShellError", out, err)
	}
}
