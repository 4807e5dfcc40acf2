package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestDial(t *testing.T) {
	s := new(server).start(t)
	c := s.dial(t, new(Dialer))
	if c.RTT() <= 0 || c.ServerVersion() == "" || c.Err() != nil {
		t.Errorf("RTT %v, version %q, Err %v", c.RTT(), c.ServerVersion(), c.Err())
	}
	c.Close()
	if err := c.Err(); err != net.ErrClosed {
		t.Errorf("Err after Close = %v, want net.ErrClosed", err)
	}
}

// answering is a server that greets with text, and hangs up after that unless it keeps the connection.
func answering(t *testing.T, text string, keep bool) *Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ctx := t.Context()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, text)
			if keep {
				context.AfterFunc(ctx, func() { c.Close() })
				continue
			}
			c.(*net.TCPConn).CloseWrite()
			go func() {
				io.Copy(io.Discard, c)
				c.Close()
			}()
		}
	}()
	return &Target{Host: "box", HostName: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port, User: "me", IdentityAgent: "none", ConnectTimeout: 300 * time.Millisecond}
}

func TestDialErrors(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	short := &Dialer{limits: limits{handshake: 300 * time.Millisecond}}
	for name, c := range map[string]struct {
		target *Target
		op     string
		want   string
		busy   bool
	}{
		"no such host": {&Target{HostName: "no-such-host.invalid", Port: 22, ConnectTimeout: 2 * time.Second}, "resolve", "no-such-host.invalid", false},
		"refused":      {&Target{HostName: "127.0.0.1", Port: closed.Addr().(*net.TCPAddr).Port}, "connect", "refused", false},
		"silent":       {answering(t, "", true), "banner", "says nothing for 300ms", false},
		"hangs up":     {answering(t, "", false), "banner", "too busy", true},
		"too many":     {answering(t, "Exceeded MaxStartups\r\n", false), "banner", `says "Exceeded MaxStartups"`, true},
		"a web server": {answering(t, "HTTP/1.1 400 Bad \x1b[31mRequest\r\n\r\n", false), "banner", `no SSH server, it says "HTTP/1.1 400 Bad [31mRequest"`, false},
		"garbage":      {answering(t, strings.Repeat("\x80\x01", 4000), false), "banner", "is no SSH server", false},
		"mid greeting": {answering(t, "SSH-2.0-Odd\r\n", false), "handshake", "closed the connection", false},
		"stalls":       {answering(t, "SSH-2.0-Odd\r\n", true), "handshake", "no end of the handshake in time", false},
		"nonsense":     {answering(t, "SSH-2.0-Odd\r\n"+strings.Repeat("zzzz", 100), false), "handshake", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := short.Dial(t.Context(), c.target)
			var e *DialError
			if !errors.As(err, &e) {
				t.Fatalf("Dial = %v, want a DialError", err)
			}
			if e.Op != c.op || !strings.Contains(err.Error(), c.want) || e.Busy() != c.busy || Final(err) {
				t.Errorf("Dial = %v (op %s, busy %v), want op %s, busy %v, %q", err, e.Op, e.Busy(), c.op, c.busy, c.want)
			}
			if clean(err.Error()) != err.Error() {
				t.Errorf("the error has control characters: %q", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestDialCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	target := answering(t, "SSH-2.0-Odd\r\n", true)
	target.ConnectTimeout = time.Minute
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	if _, err := new(Dialer).Dial(ctx, target); !errors.Is(err, context.Canceled) || time.Since(start) > 2*time.Second {
		t.Errorf("Dial = %v after %v, want the end of ctx", err, time.Since(start))
	}
}

func TestDialHostKey(t *testing.T) {
	s := new(server).start(t)
	target := s.target(t)
	file := filepath.Join(t.TempDir(), "kh")
	target.UserKnownHostsFiles = []string{file}
	d := new(Dialer)

	_, err := d.Dial(t.Context(), target)
	var unknown *UnknownHostKeyError
	if !errors.As(err, &unknown) || !Final(err) || !unknown.MayAsk() {
		t.Fatalf("Dial = %v, want an UnknownHostKeyError that may be asked about", err)
	}
	if want := ssh.FingerprintSHA256(s.keys[0].PublicKey()); unknown.Fingerprint != want || unknown.KeyType != "ED25519" || unknown.File != file || unknown.Host != "box" || unknown.Address != target.Addr() {
		t.Errorf("the facts are %+v", unknown)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the key was written unasked")
	}
	target.StrictHostKeyChecking = "no"
	if _, err := d.Dial(t.Context(), target); !as[*UnknownHostKeyError](err) {
		t.Errorf("StrictHostKeyChecking no: %v, want an UnknownHostKeyError", err)
	}
	target.StrictHostKeyChecking = "yes"
	_, err = (&Dialer{AcceptNew: true}).Dial(t.Context(), target)
	if !errors.As(err, &unknown) || unknown.MayAsk() || !strings.Contains(err.Error(), "StrictHostKeyChecking is yes") {
		t.Errorf("StrictHostKeyChecking yes: %v, want an UnknownHostKeyError that nobody is asked about", err)
	}

	target.StrictHostKeyChecking = "ask"
	if err := Trust(unknown); err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatalf("after Trust: %v", err)
	}
	c.Close()

	fresh := newSigner(t)
	s.set(func() { s.keys = []ssh.Signer{fresh} })
	_, err = (&Dialer{AcceptNew: true}).Dial(t.Context(), target)
	var changed *ChangedHostKeyError
	if !errors.As(err, &changed) || !Final(err) {
		t.Fatalf("Dial = %v, want a ChangedHostKeyError", err)
	}
	if changed.File != file || changed.Line != 1 || changed.Known != unknown.Fingerprint || changed.Offered != ssh.FingerprintSHA256(fresh.PublicKey()) ||
		changed.KeygenArg != fmt.Sprintf("'[127.0.0.1]:%d' -f %s", s.port(), shellWord(file)) {
		t.Errorf("the facts are %+v", changed)
	}
}

func TestDialAcceptNew(t *testing.T) {
	for name, c := range map[string]struct {
		strict string
		d      *Dialer
	}{"the dialer's": {"ask", &Dialer{AcceptNew: true}}, "ssh_config's": {"accept-new", new(Dialer)}} {
		t.Run(name, func(t *testing.T) {
			s := new(server).start(t)
			target := s.target(t)
			target.StrictHostKeyChecking = c.strict
			target.UserKnownHostsFiles = []string{filepath.Join(t.TempDir(), "kh")}
			for range 2 {
				client, err := c.d.Dial(t.Context(), target)
				if err != nil {
					t.Fatal(err)
				}
				client.Close()
			}
			data, _ := os.ReadFile(target.UserKnownHostsFiles[0])
			if lines := strings.Count(string(data), "\n"); lines != 1 || s.connections() != 2 {
				t.Errorf("%d lines and %d connections, want 1 and 2: %s", lines, s.connections(), data)
			}
			target.UserKnownHostsFiles = []string{os.DevNull}
			if _, err := c.d.Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "keeps nothing") {
				t.Errorf("a key that nobody keeps was accepted: %v", err)
			}
		})
	}
}

func TestDialPrefersKnownType(t *testing.T) {
	ed, ecdsa := newSigner(t), ecdsaSigner(t)
	s := (&server{keys: []ssh.Signer{ed, ecdsa}}).start(t)
	target := s.target(t)
	target.UserKnownHostsFiles = []string{writeFile(t, "kh", fmt.Sprintf("[127.0.0.1]:%d %s\n", s.port(), keyText(ecdsa.PublicKey())))}
	c, err := new(Dialer).Dial(t.Context(), target)
	if err != nil {
		t.Fatalf("only ecdsa is known, the server has ed25519 too: %v", err)
	}
	c.Close()
	// the type that was known is gone: a change, not a lack of common algorithms
	s.set(func() { s.keys = []ssh.Signer{ed} })
	if _, err := new(Dialer).Dial(t.Context(), target); !as[*ChangedHostKeyError](err) {
		t.Errorf("the type of the key changed: %v, want a ChangedHostKeyError", err)
	}
}

func TestDialCertificate(t *testing.T) {
	ca, key := newSigner(t), newSigner(t)
	withCert, err := ssh.NewCertSigner(certFor(t, ca, key.PublicKey(), nil, "127.0.0.1"), key)
	if err != nil {
		t.Fatal(err)
	}
	s := (&server{keys: []ssh.Signer{withCert, key}}).start(t)
	for name, known := range map[string]string{
		"authority":           "@cert-authority [127.0.0.1]:* " + keyText(ca.PublicKey()),
		"plain key":           "[127.0.0.1]:* " + keyText(key.PublicKey()),
		"other authority too": "@cert-authority * " + keyText(newSigner(t).PublicKey()) + "\n[127.0.0.1]:* " + keyText(key.PublicKey()),
	} {
		target := s.target(t)
		target.UserKnownHostsFiles = []string{writeFile(t, "kh", known)}
		c, err := new(Dialer).Dial(t.Context(), target)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.Close()
	}
}

// TestRekey makes many key exchanges: the key is accepted once, and a person is asked never.
func TestRekey(t *testing.T) {
	s := &server{change: func(c *ssh.ServerConfig) { c.RekeyThreshold = 64 << 10 }}
	s.exec = func(ch ssh.Channel, _ string) int {
		io.Copy(io.Discard, ch)
		ch.Write(make([]byte, 1<<20))
		return 0
	}
	s.start(t)
	target := s.target(t)
	c, err := new(Dialer).Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	os.Remove(target.UserKnownHostsFiles[0]) // nothing is looked up again
	out, _ := c.Run(t.Context(), "anything")
	if len(out) != 1<<20 || c.Err() != nil {
		t.Errorf("%d bytes, %v; want 1 MiB over many key exchanges", len(out), c.Err())
	}
}

func TestDialJump(t *testing.T) {
	inner, outer, first := new(server).start(t), new(server).start(t), new(server).start(t)
	known := writeFile(t, "kh", fmt.Sprintf("* %s\n* %s\n* %s\n", keyText(inner.keys[0].PublicKey()), keyText(outer.keys[0].PublicKey()), keyText(first.keys[0].PublicKey())))
	config := writeFile(t, "config", fmt.Sprintf(`Host *
 UserKnownHostsFile %s
 IdentityAgent none
 HostName 127.0.0.1
Host outer
 Port %d
 ProxyJump never
Host first
 Port %d
 User first-user
Host never
 Port 1
Host loop
 Port 1
 ProxyJump loop2
Host loop2
 Port 2
 ProxyJump loop
`, known, outer.port(), first.port()))
	d := &Dialer{Options: Options{ConfigFile: config, OpenSSH: "none", Home: t.TempDir(), User: "target-user", Port: 9, Jump: []string{"x"}}}
	target := inner.target(t)
	target.UserKnownHostsFiles = []string{known}
	target.Jumps = []string{"first", "outer"}
	c, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Run(t.Context(), "echo through")
	if string(out) != "through\n" || err != nil {
		t.Errorf("Run = %q, %v", out, err)
	}
	if first.connections() != 1 || outer.connections() != 1 || inner.connections() != 1 {
		t.Errorf("connections: %d, %d, %d; want one each", first.connections(), outer.connections(), inner.connections())
	}
	first.cut() // the end of the first hop is the end of all
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the connection outlives its hop")
	}
	if c.Err() == nil {
		t.Error("Err is nil after the end")
	}

	closed := *target
	closed.Port = 1
	_, err = d.Dial(t.Context(), &closed)
	var e *DialError
	if !errors.As(err, &e) || e.Op != "connect" || as[*RefusedError](err) || !strings.Contains(err.Error(), "through outer: connection refused") {
		t.Errorf("a closed port behind a jump: %v", err)
	}
	target.Jumps = []string{"loop"}
	if _, err := d.Dial(t.Context(), target); !as[*ConfigError](err) || !strings.Contains(err.Error(), "circle") {
		t.Errorf("a circle of jumps: %v", err)
	}
	target.Jumps = []string{"outer"}
	if _, err := d.Dial(t.Context(), target); !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "jump over outer: jump over never: ") {
		t.Errorf("the first hop goes by its own ProxyJump: %v", err)
	}
	target.Jumps = []string{"first"}
	fresh := newSigner(t)
	first.set(func() { first.keys = []ssh.Signer{fresh} })
	var changed *ChangedHostKeyError
	if _, err := d.Dial(t.Context(), target); !errors.As(err, &changed) || changed.Host != "first" || !Final(err) {
		t.Errorf("the key of a hop has changed: %v", err)
	}
}

func TestDialProxyCommand(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a POSIX shell")
	}
	t.Setenv("SHELL", "/bin/sh")
	s := new(server).start(t)
	target := s.target(t)
	// this very program is the proxy
	t.Setenv("TUNNEL_TEST_PROXY", target.Addr())
	target.ProxyCommand = shellWord(os.Args[0]) + " -test.run='^TestProxyHelper$' %h %p %%"
	c, err := new(Dialer).Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.Run(t.Context(), "echo $((6*7))"); string(out) != "42\n" || err != nil {
		t.Errorf("Run = %q, %v", out, err)
	}
	c.Close()
	for name, want := range map[string]string{
		"echo no way out >&2; exit 1": "no way out",
		"true":                        "ended without a connection",
		"nc %z":                       "%z is not known",
		"sleep 60":                    "says nothing",
	} {
		target.ProxyCommand, target.ConnectTimeout = "sh -c '"+name+"'", 500*time.Millisecond
		start := time.Now()
		if _, err := new(Dialer).Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), want) || time.Since(start) > 4*time.Second {
			t.Errorf("ProxyCommand %q: %v after %v, want %q", name, err, time.Since(start), want)
		}
	}
}

// TestProxyHelper is the ProxyCommand of TestDialProxyCommand: it passes its input and output on.
func TestProxyHelper(t *testing.T) {
	addr := os.Getenv("TUNNEL_TEST_PROXY")
	if addr == "" || os.Args[len(os.Args)-1] != "%" {
		t.Skip("this is for TestDialProxyCommand")
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		os.Exit(1)
	}
	go func() {
		io.Copy(c, os.Stdin)
		os.Exit(0)
	}()
	io.Copy(os.Stdout, c)
	os.Exit(0)
}

func TestAlgorithms(t *testing.T) {
	a, err := algorithms(&Target{})
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]string{a.KeyExchanges, a.Ciphers, a.MACs, a.HostKeys} {
		for _, s := range list {
			if strings.Contains(s, "sha1") || strings.Contains(s, "dss") || strings.Contains(s, "cbc") || strings.HasPrefix(s, "ssh-rsa") {
				t.Errorf("our own list has %s", s)
			}
		}
	}
	for name, c := range map[string]struct {
		target Target
		want   string
	}{
		"unknown ones are left out": {Target{KexAlgorithms: []string{"sntrup761x25519-sha512", "curve25519-sha256"}}, "curve25519-sha256"},
		"only unknown":              {Target{Ciphers: []string{"what"}}, "error"},
		"added":                     {Target{KexAlgorithms: []string{"+diffie-hellman-group14-sha1"}}, strings.Join(append(a.KeyExchanges, "diffie-hellman-group14-sha1"), ",")},
		"taken away":                {Target{KexAlgorithms: []string{"-*", "x"}}, "error"},
	} {
		got, err := algorithms(&c.target)
		s := strings.Join(got.KeyExchanges, ",")
		if err != nil {
			if s = "error"; !as[*ConfigError](err) {
				t.Errorf("%s: %v, want a ConfigError", name, err)
			}
		}
		if s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
	if got := applyList([]string{"a", "b"}, []string{"^b", "c"}); strings.Join(got, ",") != "b,c,a" {
		t.Errorf("^b,c over a,b = %v", got)
	}
}
