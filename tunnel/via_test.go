package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
)

// overSSHD is a target and a dialer for a real sshd, as a user's configuration would make them.
func overSSHD(t *testing.T, s *peer.SSHD, lines string) (*Dialer, *Target) {
	t.Helper()
	config, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{ConfigFile: writeFile(t, "config", string(config)+lines), OpenSSH: peer.Need(t, "ssh")}
	target, err := Resolve(t.Context(), "box", o)
	if err != nil {
		t.Fatal(err)
	}
	return &Dialer{Options: o}, target
}

// A server with none of our key exchanges is reached through the user's own ssh: forwards, commands and probes work as
// ever, and it heals.
func TestThroughSSH(t *testing.T) {
	s := peer.StartSSHD(t, "KexAlgorithms sntrup761x25519-sha512@openssh.com")
	far := newFarSide(t, echoTCP)
	d, target := overSSHD(t, s, "")
	first, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if first.master == nil || first.RTT() <= 0 || first.ServerVersion() == "" {
		t.Errorf("not through ssh: %v, rtt %s, version %q", first.master, first.RTT(), first.ServerVersion())
	}
	if out, err := first.Run(t.Context(), "echo $((6*7))"); err != nil || !strings.HasSuffix(string(out), "42\n") {
		t.Errorf("Run = %q, %v", out, err)
	}
	if err := first.Check(t.Context()); err != nil {
		t.Errorf("Check = %v", err)
	}
	link := NewLink(func(ctx context.Context) (*Client, error) { return d.Dial(ctx, target) }, LinkOptions{First: first, Final: Final})
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); link.Run(ctx) }()
	defer func() { end(); <-done }()
	echo := func() {
		t.Helper()
		limit, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		c, err := link.Open(limit, Opening{Network: "tcp", Addr: far.ln.Addr().String()})
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		defer c.Close()
		c.Write([]byte("ping"))
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
			t.Errorf("read %q, %v", b, err)
		}
	}
	echo()
	var refused *RefusedError
	if _, err := link.Open(ctx, Opening{Network: "tcp", Addr: "127.0.0.1:1"}); !errors.As(err, &refused) {
		t.Errorf("a port where nobody listens: %v", err)
	}
	s.KillConnections()
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for { // a caller may still get through to the connection that is ending
		changed := link.Changed()
		if link.Status().Reconnects > 0 {
			break
		}
		select {
		case <-changed:
		case <-limit.Done():
			t.Fatalf("the link did not come back: %+v", link.Status())
		}
	}
	echo()
	if st := link.Status(); st.Reconnects != 1 {
		t.Errorf("status %+v", st)
	}
}

// Without an ssh program the reason is our own client's.
func TestThroughSSHWithout(t *testing.T) {
	s := peer.StartSSHD(t, "KexAlgorithms sntrup761x25519-sha512@openssh.com")
	d, target := overSSHD(t, s, "")
	d.Options.OpenSSH = "none"
	_, err := d.Dial(t.Context(), target)
	var dial *DialError
	if !errors.As(err, &dial) || dial.Op != "handshake" {
		t.Errorf("Dial = %v, want the handshake's error", err)
	}
	target.KnownHostsCommand = "/bin/true"
	if _, err := d.Dial(t.Context(), target); !as[*ConfigError](err) || !strings.Contains(err.Error(), "KnownHostsCommand") {
		t.Errorf("Dial = %v, want that KnownHostsCommand needs ssh", err)
	}
}

// KnownHostsCommand names the keys: only ssh can ask it.
func TestKnownHostsCommand(t *testing.T) {
	s := peer.StartSSHD(t)
	known, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	command := writeFile(t, "known.sh", fmt.Sprintf("#!/bin/sh\ncat <<'E'\n%sE\n", known))
	os.Chmod(command, 0o755)
	config, _ := os.ReadFile(s.Config)
	text := strings.ReplaceAll(string(config), s.KnownHosts, "/dev/null") + "  KnownHostsCommand " + command + "\n"
	o := Options{ConfigFile: writeFile(t, "config", text), OpenSSH: peer.Need(t, "ssh")}
	target, err := Resolve(t.Context(), "box", o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&Dialer{Options: o}).Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.master == nil {
		t.Error("it was not ssh that checked the key")
	}
}

// A refusal is not tried again with ssh.
func TestThroughSSHNotForRefusals(t *testing.T) {
	s := peer.StartSSHD(t)
	d, target := overSSHD(t, s, "")
	target.IdentityFiles = []string{func() string { p, _ := writeKey(t, ""); return p }()}
	_, err := d.Dial(t.Context(), target)
	if !as[*AuthError](err) {
		t.Errorf("Dial = %v", err)
	}
	log, _ := os.ReadFile(s.Log)
	if n := strings.Count(string(log), "Connection from"); n != 1 {
		t.Errorf("%d connections, want one", n)
	}
}

// NoHostAuthenticationForLocalhost: a host on loopback needs no known key.
func TestNoHostAuthLocalhost(t *testing.T) {
	s := (&server{}).start(t)
	target := s.target(t)
	target.UserKnownHostsFiles = nil
	if _, err := (&Dialer{}).Dial(t.Context(), target); !as[*UnknownHostKeyError](err) {
		t.Fatalf("Dial = %v", err)
	}
	target.NoHostAuthLocalhost = true
	c, err := (&Dialer{}).Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	target.HostKeyAlias = "box"
	if _, err := (&Dialer{}).Dial(t.Context(), target); !as[*UnknownHostKeyError](err) {
		t.Errorf("with an alias Dial = %v", err)
	}
}
