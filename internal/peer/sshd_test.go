package peer

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// login connects as the server's user and checks its host key.
func login(t *testing.T, s *SSHD) *ssh.Client {
	t.Helper()
	data, err := os.ReadFile(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", s.Addr, &ssh.ClientConfig{
		User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(s.HostKey), Timeout: 10 * time.Second,
	})
	if err != nil {
		log, _ := os.ReadFile(s.Log)
		t.Fatalf("login: %v\n%s", err, log)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// run runs a command that is expected to work.
func run(t *testing.T, c *ssh.Client, command string) string {
	t.Helper()
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	out, err := session.Output(command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSpace(string(out))
}

func TestSSHD(t *testing.T) {
	s := StartSSHD(t)
	other := StartSSHD(t)
	c, bystander := login(t, s), login(t, other)
	if got := run(t, c, "id -un"); got != s.User {
		t.Errorf("id -un = %q, want %q", got, s.User)
	}
	if listening := listeners(t, other.Port); len(listening) != 1 {
		t.Errorf("it listens on %q, want on 127.0.0.1 alone", listening)
	}

	if n := s.KillConnections(); n != 1 {
		t.Errorf("KillConnections() = %d, want 1", n)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c.Wait()
	}()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection was not killed")
	}
	if n := s.KillConnections(); n != 0 {
		t.Errorf("a second KillConnections() = %d", n)
	}
	run(t, bystander, "true") // another sshd is left alone
	run(t, login(t, s), "true")
	run(t, login(t, s), "true")
	if n := s.KillConnections(); n != 2 {
		t.Errorf("KillConnections() = %d, want 2", n)
	}

	port := s.Port
	s.Restart()
	if s.Port != port {
		t.Errorf("after Restart it is on port %s, not %s", s.Port, port)
	}
	c = login(t, s)
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start("echo $$; exec sleep 600"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 16)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(line[:n]))
	s.Stop()
	s.Stop()
	if conn, err := net.Dial("tcp", s.Addr); err == nil {
		conn.Close()
		t.Error("it still listens after Stop")
	}
	for range 200 {
		if !running(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the command %s outlives Stop", pid)
}

func running(pid string) bool {
	for _, p := range processes() {
		if pid == strconv.Itoa(p.pid) {
			return true
		}
	}
	return false
}

// listeners are the addresses of this machine, loopback or not, at which a port answers.
func listeners(t *testing.T, port string) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(ip.IP.String(), port), time.Second); err == nil {
			c.Close()
			out = append(out, ip.IP.String())
		}
	}
	return out
}

// TestSSHDExtra checks that lines of a test win, and that OpenSSH's own client gets in by the ssh_config.
func TestSSHDExtra(t *testing.T) {
	s := StartSSHD(t, "LogLevel QUIET", "AllowTcpForwarding no", "Match all", "  ForceCommand echo forced")
	c := login(t, s)
	if got := run(t, c, "true"); got != "forced" {
		t.Errorf("the forced command printed %q", got)
	}
	if conn, err := c.Dial("tcp", s.Addr); err == nil {
		conn.Close()
		t.Error("it forwards, in spite of AllowTcpForwarding no")
	} else if !strings.Contains(err.Error(), "prohibited") {
		t.Error(err)
	}
	if log, err := os.ReadFile(s.Log); err != nil || len(log) != 0 {
		t.Errorf("a quiet server wrote %q, %v", log, err)
	}
	program := Need(t, "ssh")
	cmd := exec.Command(program, "-F", s.Config, "-o", "BatchMode=yes", "box", "true")
	cmd.Stdin = strings.NewReader("")
	if out, err := cmd.CombinedOutput(); string(out) != "forced\n" || err != nil {
		t.Errorf("ssh box printed %q, %v", out, err)
	}
}

// TestSSHDPortTaken checks that a server which cannot have its port says so, and is not taken for its holder.
func TestSSHDPortTaken(t *testing.T) {
	s := StartSSHD(t)
	s.Stop()
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		t.Skip(err) // somebody else was quicker
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "SSH-2.0-holder\r\n")
			c.Close()
		}
	}()
	if err := s.start(); err == nil || !strings.Contains(err.Error(), "it ended at once") || !strings.Contains(err.Error(), s.Addr) {
		t.Errorf("start on a taken port: %v", err)
	}
	if s.cmd != nil {
		t.Error("it believes that it runs")
	}
}
