package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHD is a private OpenSSH server on a free port, with keys of its own. It works as root and as a plain
// user, who then can log in as nobody else.
type SSHD struct {
	Addr       string // host:port
	Port       string
	User       string
	Key        string        // file of the client's private key
	HostKey    ssh.PublicKey // the server's own key
	KnownHosts string        // file that knows it
	Config     string        // an ssh_config with a Host "box" that leads here
	Log        string        // what sshd writes, at LogLevel VERBOSE

	t         testing.TB
	place     Place
	path, dir string
	extra     []string
	cmd       *exec.Cmd     // nil while it is stopped
	done      chan struct{} // closed when cmd has ended
}

// startLimit is how long sshd may take until it listens.
const startLimit = 20 * time.Second

// Place is where an sshd runs. The zero value is this machine, and its loopback.
type Place struct {
	Host  string                // the address that it listens on
	Start func(*exec.Cmd) error // starts a command there
}

// StartSSHD starts an sshd on this machine for the time of a test. extra are lines for its sshd_config; they win over
// its own lines, and what follows a Match among them is the last of the file. Without sshd the test is skipped.
func StartSSHD(t testing.TB, extra ...string) *SSHD { return Place{}.StartSSHD(t, extra...) }

// StartSSHD starts an sshd in a place.
func (p Place) StartSSHD(t testing.TB, extra ...string) *SSHD {
	t.Helper()
	if p.Host == "" {
		p.Host = "127.0.0.1"
	}
	if p.Start == nil {
		p.Start = (*exec.Cmd).Start
	}
	s := &SSHD{t: t, place: p, path: Need(t, "sshd"), dir: t.TempDir(), extra: extra}
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if u.Uid == "0" {
		os.MkdirAll("/run/sshd", 0o755) // root's sshd does not start without it; if this does not help, it says so
	}
	s.User, s.Log = u.Username, s.file("sshd.log")
	s.Key, s.KnownHosts, s.Config = s.file("id"), s.file("known_hosts"), s.file("ssh_config")
	s.HostKey = writeKey(t, s.file("host"))
	s.write("authorized", string(ssh.MarshalAuthorizedKey(writeKey(t, s.Key))))
	pam := map[bool]string{false: "no", true: "yes"}[u.Uid == "0" && locked(u.Username)]
	for try := 1; ; try++ { // somebody else may take the port before sshd does
		s.configure(freePort(t), pam)
		err := s.start()
		if err == nil {
			break
		}
		if try == 5 {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.Stop)
	return s
}

func (s *SSHD) file(name string) string { return filepath.Join(s.dir, name) }

func (s *SSHD) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// configure writes the server's and the client's configuration.
func (s *SSHD) configure(port, pam string) {
	s.t.Helper()
	s.Port, s.Addr = port, net.JoinHostPort(s.place.Host, port)
	s.write("known_hosts", fmt.Sprintf("[%s]:%s %s", s.place.Host, port, ssh.MarshalAuthorizedKey(s.HostKey)))
	s.write("ssh_config", fmt.Sprintf("Host box\n  HostName %s\n  Port %s\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n",
		s.place.Host, port, s.User, s.Key, s.KnownHosts))

	own := []string{
		"Port " + port, "ListenAddress " + s.place.Host, "HostKey " + s.file("host"), "AuthorizedKeysFile " + s.file("authorized"),
		"PidFile " + s.file("pid"), "StrictModes no", "PermitRootLogin yes", "UsePAM " + pam, "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "PrintMotd no", "MaxStartups 200", "LogLevel VERBOSE",
	}
	// Since 9.8 an address whose logins fail is kept out for a while: all tests come from the same one.
	const patient = "PerSourcePenalties no"
	s.write("sshd_config", compose(s.extra, append(own, patient)))
	if out, _ := exec.Command(s.path, "-t", "-f", s.file("sshd_config")).CombinedOutput(); strings.Contains(string(out), "option: PerSourcePenalties") {
		s.write("sshd_config", compose(s.extra, own))
	}
}

// compose is a sshd_config of lines. Its first word on a matter wins, and a Match reaches to the end of the file.
func compose(extra, own []string) string {
	match := len(extra)
	for i, line := range extra {
		if f := strings.Fields(line); len(f) > 0 && strings.EqualFold(f[0], "match") {
			match = i
			break
		}
	}
	lines := append(append(append([]string(nil), extra[:match]...), own...), extra[match:]...)
	return strings.Join(lines, "\n") + "\n"
}

// Start starts the server again, on the same port, after a Stop.
func (s *SSHD) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Restart stops the server and its connections, and starts it again.
func (s *SSHD) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// start starts sshd and waits until it listens: it then writes its pid file. To dial it would leave a mark in its log
// and in its count of strangers, and would not tell it from somebody else on that port.
func (s *SSHD) start() error {
	os.Remove(s.file("pid"))
	said, err := os.Create(s.file("said")) // a file: a session that outlives sshd must not keep Wait waiting
	if err != nil {
		return err
	}
	defer said.Close()
	cmd := exec.Command(s.path, "-D", "-f", s.file("sshd_config"), "-E", s.Log)
	cmd.Stdout, cmd.Stderr = said, said
	if err := s.place.Start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", s.path, err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	s.cmd, s.done = cmd, done
	limit := time.After(startLimit)
	for {
		if pid, _ := os.ReadFile(s.file("pid")); strings.TrimSpace(string(pid)) == fmt.Sprint(cmd.Process.Pid) {
			return nil
		}
		var why string
		select {
		case <-time.After(10 * time.Millisecond):
			continue
		case <-done:
			why = "it ended at once"
		case <-limit:
			why = fmt.Sprintf("it does not listen after %v", startLimit)
		}
		s.Stop()
		a, _ := os.ReadFile(said.Name())
		b, _ := os.ReadFile(s.Log)
		return fmt.Errorf("start %s on %s: %s: %s%s", s.path, s.Addr, why, a, b)
	}
}

// Stop ends the server, its connections and what these run. It may be called twice.
func (s *SSHD) Stop() {
	if s.cmd == nil {
		return
	}
	below := descendants(s.cmd.Process.Pid)
	s.cmd.Process.Kill()
	<-s.done
	for _, p := range below {
		kill(p.pid)
	}
	s.cmd = nil
}

// KillConnections kills the server's processes of live connections, and only those: commands that they run live on,
// without a connection, as they would on a real box. It returns how many connections there were, after they are gone.
func (s *SSHD) KillConnections() int {
	if s.cmd == nil {
		return 0
	}
	listener, n := s.cmd.Process.Pid, 0
	for _, p := range descendants(listener) {
		if !strings.HasPrefix(p.name, "sshd") { // sshd, and since 9.8 sshd-session and sshd-auth
			continue
		}
		if kill(p.pid) == nil && p.parent == listener {
			n++
		}
	}
	for range 200 { // a killed process keeps its sockets for a moment
		left := 0
		for _, p := range descendants(listener) {
			if p.parent == listener && strings.HasPrefix(p.name, "sshd") {
				left++
			}
		}
		if left == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return n
}

// locked says whether a user's password is locked, which sshd takes for a locked account unless PAM decides.
func locked(name string) bool {
	shadow, err := os.ReadFile("/etc/shadow")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(shadow)) {
		if f := strings.Split(line, ":"); len(f) > 1 && f[0] == name {
			return strings.HasPrefix(f[1], "!")
		}
	}
	return false
}

func writeKey(t testing.TB, path string) ssh.PublicKey {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "rlca test")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s.PublicKey()
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
