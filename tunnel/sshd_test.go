package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
)

// resolveBox resolves the box of a real sshd, by OpenSSH or by ourselves.
func resolveBox(t *testing.T, s *peer.SSHD, program string) *Target {
	t.Helper()
	target, err := Resolve(t.Context(), "box", Options{ConfigFile: s.Config, OpenSSH: program, Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func TestRealServer(t *testing.T) {
	s := peer.StartSSHD(t)
	programs := []string{"none"}
	if ssh, ok := peer.Find("ssh"); ok {
		programs = append(programs, ssh)
	}
	for _, program := range programs {
		c, err := new(Dialer).Dial(t.Context(), resolveBox(t, s, program))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.ServerVersion(), "OpenSSH") || c.RTT() <= 0 {
			t.Errorf("ServerVersion %q, RTT %v", c.ServerVersion(), c.RTT())
		}
		out, err := c.Run(t.Context(), "printf 'a b\\n'; echo \"$0\"; sleep 60 &")
		if !strings.HasPrefix(string(out), "a b\n") || err != nil {
			t.Errorf("Run = %q, %v", out, err)
		}
		var exit *ExitError
		if _, err := c.Run(t.Context(), "kill -TERM $$"); !errors.As(err, &exit) || exit.Signal != "TERM" {
			t.Errorf("Run = %v, want a signal", err)
		}
		big, err := c.Run(t.Context(), "head -c 3000000 /dev/zero")
		if len(big) != 3000000 || err != nil {
			t.Errorf("Run = %d bytes, %v", len(big), err)
		}
		conn, err := c.Dial(t.Context(), "tcp", echo(t, "tcp", "127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "through sshd")
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "through sshd" || err != nil {
			t.Errorf("echo = %q, %v", got, err)
		}
		conn.Close()
		var refused *RefusedError
		if _, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.As(err, &refused) || refused.Prohibited || !strings.Contains(refused.Reason, "refused") {
			t.Errorf("a closed port: %v", err)
		}
		if n := s.KillConnections(); n == 0 {
			t.Fatal("there is no connection to kill")
		}
		select {
		case <-c.Done():
		case <-time.After(5 * time.Second):
			t.Fatal("the connection outlives its server")
		}
		c.Close()
	}
}

func TestRealServerForbids(t *testing.T) {
	s := peer.StartSSHD(t, "AllowTcpForwarding no", "MaxSessions 0")
	c, err := new(Dialer).Dial(t.Context(), resolveBox(t, s, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var refused *RefusedError
	if _, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.As(err, &refused) || !refused.Prohibited {
		t.Errorf("Dial = %v, want a RefusedError by policy", err)
	}
	if _, err := c.Run(t.Context(), "true"); !as[*NoShellError](err) {
		t.Errorf("Run = %v, want a NoShellError", err)
	}
}

func TestRealServerForcedCommand(t *testing.T) {
	s := peer.StartSSHD(t, "ForceCommand echo no shell here", "MaxSessions 1")
	c, err := new(Dialer).Dial(t.Context(), resolveBox(t, s, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Run(t.Context(), "true"); !as[*NoShellError](err) {
		t.Errorf("Run = %v, want a NoShellError", err)
	}
}

func TestRealServerRefusesKey(t *testing.T) {
	s := peer.StartSSHD(t, "MaxAuthTries 2")
	target := resolveBox(t, s, "none")
	target.IdentityFiles = nil
	for range 4 {
		file, _ := writeKey(t, "")
		target.IdentityFiles = append(target.IdentityFiles, file)
	}
	_, err := new(Dialer).Dial(t.Context(), target)
	var auth *AuthError
	if !errors.As(err, &auth) || len(auth.Tried) == 0 || !strings.Contains(strings.Join(auth.Methods, ","), "publickey") {
		t.Errorf("Dial = %v, want an AuthError", err)
	}
	target.KexAlgorithms = []string{"diffie-hellman-group1-sha1"}
	var dial *DialError
	if _, err := (&Dialer{Options: Options{OpenSSH: "none"}}).Dial(t.Context(), target); !errors.As(err, &dial) || dial.Op != "handshake" || !strings.Contains(err.Error(), "no common algorithm") {
		t.Errorf("no key exchange in common: %v", err)
	}
}

// TestKnownHostsDifferential asks ssh itself, file by file, whether it knows the server.
func TestKnownHostsDifferential(t *testing.T) {
	program := peer.Need(t, "ssh")
	if testing.Short() {
		t.Skip("runs ssh two dozen times")
	}
	s := peer.StartSSHD(t)
	data, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(data[strings.IndexByte(string(data), ' ')+1:]))
	other := keyText(newSigner(t).PublicKey())
	host := "[127.0.0.1]:" + s.Port
	for name, known := range map[string]string{
		"known":             host + " KEY",
		"unknown":           "",
		"changed":           host + " OTHER",
		"other type":        host + " " + rsaText,
		"both":              host + " OTHER\n" + host + " KEY",
		"junk":              "junk\n" + host + "\n" + host + " KEY",
		"unknown type":      host + " ssh-mldsa44-ed25519@openssh.com AAAA\n" + host + " KEY",
		"only unknown":      host + " ssh-mldsa44-ed25519@openssh.com AAAA",
		"bad base64":        host + " ssh-ed25519 !!!\n" + host + " KEY",
		"unknown marker":    "@what " + host + " OTHER\n" + host + " KEY",
		"unknown hash":      "|2|a|b OTHER\n" + host + " KEY",
		"long comment":      "#" + strings.Repeat("x", 70000) + "\n" + host + " KEY",
		"crlf":              host + " KEY\r\n",
		"no newline":        host + " KEY",
		"hashed":            hashed(host) + " KEY",
		"portless":          "127.0.0.1 KEY",
		"portless differs":  "127.0.0.1 OTHER",
		"wildcard":          "[127.0.*]:* KEY",
		"negated":           "*,!" + host + " KEY",
		"revoked":           "@revoked " + host + " KEY",
		"revoked elsewhere": "@revoked other KEY\n" + host + " KEY",
		"leading space":     "   " + host + "   KEY",
		"tabs":              host + "\tKEY",
		"authority only":    "@cert-authority * KEY",
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, "kh", strings.NewReplacer("KEY", key, "OTHER", other).Replace(known)+map[bool]string{true: "", false: "\n"}[name == "no newline"])
			cmd := exec.Command(program, "-F", s.Config, "-o", "UserKnownHostsFile="+file, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "box", "true")
			out, err := cmd.CombinedOutput()
			want := "ok"
			switch said := string(out); {
			case err == nil:
			case strings.Contains(said, "REVOKED"):
				want = "revoked"
			case strings.Contains(said, "IDENTIFICATION HAS CHANGED"):
				want = "changed"
			case strings.Contains(said, "host key is known"), strings.Contains(said, "Host key verification failed"):
				want = "unknown"
			default:
				t.Fatalf("ssh: %v\n%s", err, out)
			}
			target := resolveBox(t, s, "none")
			target.UserKnownHostsFiles = []string{file}
			c, derr := new(Dialer).Dial(t.Context(), target)
			got := fmt.Sprint(derr)
			switch {
			case derr == nil:
				got = "ok"
				c.Close()
			case as[*UnknownHostKeyError](derr):
				got = "unknown"
			case as[*ChangedHostKeyError](derr):
				got = "changed"
			case as[*RevokedHostKeyError](derr):
				got = "revoked"
			}
			if got != want {
				t.Errorf("ssh says %s, we say %s\n%s", want, got, out)
			}
		})
	}
}

// An sshd that ends what is not used: the link comes back for whoever calls, and a stream that the server gives up is
// no reason to leave the link.
func TestRealServerTimeouts(t *testing.T) {
	s := peer.StartSSHD(t, "UnusedConnectionTimeout 2", "ChannelTimeout direct-tcpip=3")
	d, target := overSSHD(t, s, "")
	far := newFarSide(t, echoTCP)
	first, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	link := NewLink(func(ctx context.Context) (*Client, error) { return d.Dial(ctx, target) }, LinkOptions{First: first, Final: Final})
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); link.Run(ctx) }()
	defer func() { end(); <-done }()
	for i := range 3 {
		if i > 0 {
			time.Sleep(4 * time.Second) // nobody uses it, and it is closed
		}
		start := time.Now()
		c, err := link.Open(ctx, Opening{Network: "tcp", Addr: far.ln.Addr().String()})
		if err != nil || time.Since(start) > 5*time.Second {
			t.Fatalf("call %d: %v after %s", i, err, time.Since(start))
		}
		ping(t, c)
		if i == 0 {
			before := link.Status().Reconnects
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("an idle stream: %d, %v, want that the server ends it", n, err)
			}
			if after := link.Status(); after.Reconnects != before {
				t.Errorf("the end of a stream took the link along: %+v", after)
			}
		}
		c.Close()
	}
	if st := link.Status(); st.Reconnects == 0 {
		t.Errorf("%+v: the server did not close what is not used, this was no test", st)
	}
}

// A program on the far side that takes nothing keeps sshd from closing a channel: the connection lives on all the
// same.
func TestStalledFarSide(t *testing.T) {
	s := peer.StartSSHD(t)
	d := &Dialer{limits: limits{open: 300 * time.Millisecond, probeAfter: 200 * time.Millisecond}}
	c, err := d.Dial(t.Context(), resolveBox(t, s, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stop := make(chan struct{})
	far := newFarSide(t, func(*net.TCPConn) { <-stop })
	defer close(stop)
	conn, err := c.Dial(t.Context(), "tcp", far.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() {
		for {
			if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return
			}
		}
	}()
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	time.Sleep(time.Second)
	conn.Close() // sshd does not answer it before the program takes something
	select {
	case <-c.Done():
		t.Errorf("the connection has ended: %v", c.Err())
	case <-time.After(4 * time.Second):
	}
	again, err := c.Dial(t.Context(), "tcp", newFarSide(t, echoTCP).ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	ping(t, again)
	c.Close()
	for range 2 { // what hung ends with the connection at the latest
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Error("a read or a write goes on after the end of the connection")
		}
	}
}
