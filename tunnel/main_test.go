package tunnel

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the library's agent talks there
	goleak.VerifyTestMain(m)
}

// server is a small SSH server of our own, for what no real one does on request.
type server struct {
	t    *testing.T
	ln   net.Listener
	keys []ssh.Signer
	// allow are the keys that may log in; nil means that nobody is asked for one.
	allow []ssh.PublicKey
	// exec answers a command in place of a real shell. The code is sent as exit-status, unless it is negative.
	exec func(ch ssh.Channel, command string) int
	// refuse answers the opening of a channel; nil means that it is opened.
	refuse func(kind string) (ssh.RejectionReason, string, bool)
	// change changes the server's configuration.
	change func(*ssh.ServerConfig)
	// mute answers no requests: keepalives, channels.
	mute chan struct{}

	wg sync.WaitGroup

	mu    sync.Mutex // guards what follows
	conns map[net.Conn]bool
	asked []string // fingerprints of the keys that clients offered, in order
	count int      // connections
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// set changes the server between two connections.
func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// start brings the server up on a free port; it ends with the test.
func (s *server) start(t *testing.T) *server {
	t.Helper()
	s.t = t
	if len(s.keys) == 0 {
		s.keys = []ssh.Signer{newSigner(t)}
	}
	s.conns = map[net.Conn]bool{}
	var err error
	if s.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(func() {
		for {
			c, err := s.ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.count++
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		s.ln.Close()
		s.cut()
		s.wg.Wait()
	})
	return s
}

// cut closes every connection.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *server) port() int { return s.ln.Addr().(*net.TCPAddr).Port }

// offered are the keys that clients showed so far.
func (s *server) offered() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func (s *server) serve(raw net.Conn) {
	defer raw.Close()
	s.mu.Lock()
	allow, keys, change := s.allow, s.keys, s.change
	s.mu.Unlock()
	config := &ssh.ServerConfig{NoClientAuth: allow == nil}
	if allow != nil {
		config.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			s.mu.Lock()
			s.asked = append(s.asked, ssh.FingerprintSHA256(key))
			s.mu.Unlock()
			for _, k := range allow {
				if sameKey(k, key) {
					return nil, nil
				}
			}
			return nil, fmt.Errorf("not this one")
		}
	}
	for _, k := range keys {
		config.AddHostKey(k)
	}
	if change != nil {
		change(config)
	}
	conn, chans, reqs, err := ssh.NewServerConn(raw, config)
	if err != nil {
		return
	}
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for r := range reqs {
			if s.muted() {
				continue
			}
			r.Reply(false, nil)
		}
	})
	for ch := range chans {
		if s.muted() {
			continue
		}
		s.mu.Lock()
		refuse := s.refuse
		s.mu.Unlock()
		if refuse != nil {
			if reason, text, no := refuse(ch.ChannelType()); no {
				ch.Reject(reason, text)
				continue
			}
		}
		wg.Go(func() { s.channel(ch) })
	}
}

func (s *server) muted() bool {
	select {
	case <-s.mute:
		return s.mute != nil
	default:
		return false
	}
}

func (s *server) channel(n ssh.NewChannel) {
	switch n.ChannelType() {
	case "session":
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		defer ch.Close()
		for r := range reqs {
			if r.Type != "exec" {
				r.Reply(false, nil)
				continue
			}
			var p struct{ Command string }
			ssh.Unmarshal(r.Payload, &p)
			r.Reply(true, nil)
			go ssh.DiscardRequests(reqs)
			do := s.exec
			if do == nil || p.Command == "exit 0" {
				do = shell
			}
			if code := do(ch, p.Command); code >= 0 {
				ch.SendRequest("exit-status", false, ssh.Marshal(&struct{ Code uint32 }{uint32(code)}))
			}
			return
		}
	case "direct-tcpip", "direct-streamlocal@openssh.com":
		network, addr := "tcp", ""
		if n.ChannelType() == "direct-tcpip" {
			var p struct {
				Host string
				Port uint32
				From string
				FP   uint32
			}
			ssh.Unmarshal(n.ExtraData(), &p)
			addr = net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
		} else {
			var p struct {
				Path, Reserved string
				Zero           uint32
			}
			ssh.Unmarshal(n.ExtraData(), &p)
			network, addr = "unix", p.Path
		}
		far, err := net.Dial(network, addr)
		if err != nil {
			n.Reject(ssh.ConnectionFailed, "Connection refused")
			return
		}
		defer far.Close()
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		defer ch.Close()
		go ssh.DiscardRequests(reqs)
		var both sync.WaitGroup
		both.Go(func() {
			io.Copy(far, ch)
			far.(interface{ CloseWrite() error }).CloseWrite()
		})
		io.Copy(ch, far)
		ch.CloseWrite()
		both.Wait()
	default:
		n.Reject(ssh.UnknownChannelType, "not here")
	}
}

// shell runs a command with /bin/sh, as sshd would.
func shell(ch ssh.Channel, command string) int {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	cmd.WaitDelay = 100 * time.Millisecond
	in, _ := cmd.StdinPipe()
	if cmd.Start() != nil {
		return 127
	}
	go func() {
		io.Copy(in, ch)
		in.Close()
	}()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// knows is a known_hosts file that knows the server's keys, as "[127.0.0.1]:port".
func (s *server) knows(t *testing.T) string {
	t.Helper()
	text := ""
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if _, isCert := k.PublicKey().(*ssh.Certificate); !isCert {
			text += fmt.Sprintf("[127.0.0.1]:%d %s", s.port(), ssh.MarshalAuthorizedKey(k.PublicKey()))
		}
	}
	return writeFile(t, "known_hosts", text)
}

// target is the server as a target that knows its key.
func (s *server) target(t *testing.T) *Target {
	return &Target{
		Host: "box", HostName: "127.0.0.1", Port: s.port(), User: "me", IdentityAgent: "none", StrictHostKeyChecking: "ask",
		UserKnownHostsFiles: []string{s.knows(t)}, ConnectTimeout: 5 * time.Second,
	}
}

// dial connects to the server; the client ends with the test.
func (s *server) dial(t *testing.T, d *Dialer) *Client {
	t.Helper()
	c, err := d.Dial(t.Context(), s.target(t))
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// writeFile writes a file of a test's own, readable by us alone.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeKey writes a private key and its public half, and returns the path and the public key.
func writeKey(t testing.TB, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(priv, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(priv, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "id", string(pem.EncodeToMemory(block)))
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return path, signer.PublicKey()
}
