package box

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"rlca/internal/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start starts a box for the time of a test.
func start(t *testing.T, o Options) *Box {
	t.Helper()
	b, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func dialAs(b *Box, user string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", b.Addr(), &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: ssh.FixedHostKey(b.HostKey()), Timeout: 10 * time.Second})
}

// login connects to a box that asks for nothing, for the time of a test.
func login(t *testing.T, b *Box) *ssh.Client {
	t.Helper()
	c, err := dialAs(b, "me")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// signer makes a key.
func signer(t *testing.T) ssh.Signer {
	t.Helper()
	path, _, err := NewClientKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return readKey(t, path)
}

func readKey(t *testing.T, path string) ssh.Signer {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAuth(t *testing.T) {
	path, pub, err := NewClientKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	known, other := ssh.PublicKeys(readKey(t, path)), ssh.PublicKeys(signer(t))
	keys := Options{User: "me", AuthorizedKeys: []PublicKey{pub}}
	both := keys
	both.Password = "open sesame"
	for _, c := range []struct {
		name string
		o    Options
		user string
		auth ssh.AuthMethod
		in   bool
	}{
		{"anybody", Options{}, "you", nil, true},
		{"one user, no key", Options{User: "me"}, "me", nil, true},
		{"another user", Options{User: "me"}, "you", nil, false},
		{"key", keys, "me", known, true},
		{"another key", keys, "me", other, false},
		{"another user with the key", keys, "you", known, false},
		{"no key", keys, "me", nil, false},
		{"nobody's key", Options{AuthorizedKeys: []PublicKey{}}, "me", known, false},
		{"password", both, "me", ssh.Password("open sesame"), true},
		{"another password", both, "me", ssh.Password("open barley"), false},
		{"another user with the password", both, "you", ssh.Password("open sesame"), false},
		{"key instead of password", both, "me", known, true},
		{"password that is not asked for", keys, "me", ssh.Password(""), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var auth []ssh.AuthMethod
			if c.auth != nil {
				auth = append(auth, c.auth)
			}
			client, err := dialAs(start(t, c.o), c.user, auth...)
			if client != nil {
				defer client.Close()
			}
			if (err == nil) != c.in {
				t.Errorf("login: %v, want in: %v", err, c.in)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	b := start(t, Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(file, []byte(b.KnownHostsLine()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check, err := knownhosts.New(file)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ClientConfig{User: "me", HostKeyCallback: check, Timeout: 10 * time.Second}
	c, err := ssh.Dial("tcp", b.Addr(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.SetHostKey(signer(t))
	var changed *knownhosts.KeyError
	if _, err := ssh.Dial("tcp", b.Addr(), config); !errors.As(err, &changed) || len(changed.Want) != 1 {
		t.Errorf("with another host key: %v", err)
	}
	if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("the old connection: %v", err)
	}
	want := signer(t)
	if got := start(t, Options{HostKey: want}).HostKey(); string(got.Marshal()) != string(want.PublicKey().Marshal()) {
		t.Error("it does not have the host key that it was given")
	}

	path, pub, err := NewClientKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := readKey(t, path).PublicKey(); string(got.Marshal()) != string(pub.Marshal()) {
		t.Error("the file has another key than was said")
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%s is %v, %v", path, info.Mode(), err)
	}
	if _, _, err := NewClientKey(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
}

func TestStartElsewhere(t *testing.T) {
	for addr, want := range map[string]string{
		"0.0.0.0:0": "loopback alone", ":0": "loopback alone", "192.0.2.1:0": "loopback alone", "localhost:0": "loopback alone", "x": "missing port",
	} {
		if b, err := Start(Options{Addr: addr}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start on %q: %v, want %q", addr, err, want)
			if b != nil {
				b.Close()
			}
		}
	}
	b := start(t, Options{})
	if _, err := Start(Options{Addr: b.Addr()}); err == nil || !strings.Contains(err.Error(), b.Addr()) {
		t.Errorf("Start on a taken port: %v", err)
	}
	addr := b.Addr()
	b.Close()
	if got := start(t, Options{Addr: addr}).Addr(); got != addr {
		t.Errorf("Start again on %s gave %s", addr, got)
	}
}

// ends waits for a connection to be noticed as gone.
func ends(t *testing.T, c *ssh.Client) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still up")
		c.Close()
		<-done
	}
}

func TestCutAndPause(t *testing.T) {
	b := start(t, Options{})
	one, two := login(t, b), login(t, b)
	b.Pause()
	if c, err := dialAs(b, "me"); err == nil {
		c.Close()
		t.Error("a paused box lets in")
	}
	if _, _, err := one.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("Pause touched a connection that was up: %v", err)
	}
	if n := b.Cut(); n != 2 {
		t.Errorf("Cut() = %d, want 2", n)
	}
	ends(t, one)
	ends(t, two)
	b.Resume()
	three := login(t, b)
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	ends(t, three)
	if n := b.Cut(); n != 0 {
		t.Errorf("after Close, Cut() = %d", n)
	}
	if c, err := net.Dial("tcp", b.Addr()); err == nil {
		c.Close()
		t.Error("after Close, it listens")
	}
}

func TestMute(t *testing.T) {
	b := start(t, Options{Mute: true})
	c, err := net.Dial("tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "SSH-2.0-test\r\n")
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	var timeout net.Error
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("it said %d bytes, %v", n, err)
	}
	b.Cut()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("after Cut: %v", err)
	}
}

func TestManyConnections(t *testing.T) {
	needShell(t)
	b := start(t, Options{})
	addr := echo(t, "tcp", "127.0.0.1:0")
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			c, err := dialAs(b, "me")
			if err != nil {
				t.Errorf("login %d: %v", i, err)
				return
			}
			defer c.Close()
			want := fmt.Sprintf("hello %d", i)
			if out, err := run(c, "cat", want); out != want || err != nil {
				t.Errorf("cat printed %q, %v, want %q", out, err, want)
			}
			if got, err := through(c, "tcp", addr, want); got != want || err != nil {
				t.Errorf("echo said %q, %v, want %q", got, err, want)
			}
		})
	}
	wg.Wait()
}

func TestTooMany(t *testing.T) {
	b := start(t, Options{})
	c := login(t, b)
	for i := range maxChannels {
		if _, err := c.NewSession(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	var refused *ssh.OpenChannelError
	if _, err := c.NewSession(); !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
		t.Errorf("one session too many: %v", err)
	}
	for i := range maxConns - 1 {
		conn, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err != nil { // the banner: it is let in
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if c, err := dialAs(b, "me"); err == nil {
		c.Close()
		t.Error("one connection too many is let in")
	}
}

// TestOpenSSH has OpenSSH's own client do what rlca does.
func TestOpenSSH(t *testing.T) {
	needShell(t)
	program := peer.Need(t, "ssh")
	dir := t.TempDir()
	key, pub, err := NewClientKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, Options{User: "me", AuthorizedKeys: []PublicKey{pub}, Banner: "be kind\n"})
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(b.KnownHostsLine()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh := func(args ...string) *exec.Cmd {
		return exec.Command(program, append([]string{
			"-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "UserKnownHostsFile=" + known,
			"-o", "GlobalKnownHostsFile=none", "-i", key, "-p", b.Port(), "me@127.0.0.1",
		}, args...)...)
	}
	var stderr strings.Builder
	cmd := ssh("exec /bin/sh -s")
	cmd.Stdin, cmd.Stderr = strings.NewReader("echo one\necho two >&2\nexit 7\n"), &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if string(out) != "one\n" || stderr.String() != "be kind\ntwo\n" || !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("ssh printed %q and %q, %v", out, stderr.String(), err)
	}
	cmd = ssh("-W", echo(t, "tcp", "127.0.0.1:0"))
	cmd.Args = append(cmd.Args[:len(cmd.Args)-3], cmd.Args[len(cmd.Args)-2], cmd.Args[len(cmd.Args)-1], "me@127.0.0.1") // options come first
	cmd.Stdin = strings.NewReader("through ssh")
	if out, err := cmd.Output(); string(out) != "through ssh" || err != nil {
		t.Errorf("ssh -W printed %q, %v", out, err)
	}
}
