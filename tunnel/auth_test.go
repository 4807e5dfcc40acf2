package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func ecdsaSigner(t testing.TB) ssh.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// startAgent serves an agent on a socket. answer, if set, takes a connection in its place.
func startAgent(t *testing.T, keyring agent.Agent, answer func(net.Conn)) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("agents are pipes here")
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx := t.Context()
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				if answer != nil {
					answer(c)
					return
				}
				agent.ServeAgent(keyring, c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return path
}

// agentWith is an agent that holds new keys; it returns their public halves.
func agentWith(t *testing.T, n int) (agent.Agent, []ssh.PublicKey) {
	t.Helper()
	ring := agent.NewKeyring()
	var pubs []ssh.PublicKey
	for i := range n {
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: priv, Comment: fmt.Sprintf("key %d\x1b", i)}); err != nil {
			t.Fatal(err)
		}
		p, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		pubs = append(pubs, p)
	}
	return ring, pubs
}

// login dials, and closes the connection if there is one.
func login(t *testing.T, d *Dialer, target *Target) error {
	t.Helper()
	c, err := d.Dial(t.Context(), target)
	if err == nil {
		c.Close()
	}
	return err
}

func prints(keys ...ssh.PublicKey) string {
	var out []string
	for _, k := range keys {
		out = append(out, ssh.FingerprintSHA256(k))
	}
	return strings.Join(out, " ")
}

func TestAuthFile(t *testing.T) {
	file, pub := writeKey(t, "")
	s := (&server{allow: []ssh.PublicKey{pub}}).start(t)
	target := s.target(t)
	target.IdentityFiles = []string{"/no/such/key", file}
	if err := login(t, new(Dialer), target); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		os.Chmod(file, 0o644)
		err := login(t, new(Dialer), target)
		var e *AuthError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "mode 0644") || !strings.Contains(err.Error(), "chmod 600") || len(e.Tried) != 0 {
			t.Errorf("a key that others may read: %v", err)
		}
	}
}

func TestAuthRefused(t *testing.T) {
	mine, pub := writeKey(t, "")
	s := (&server{allow: []ssh.PublicKey{newSigner(t).PublicKey()}}).start(t)
	target := s.target(t)
	target.IdentityFiles = []string{mine}
	err := login(t, new(Dialer), target)
	var e *AuthError
	if !errors.As(err, &e) || !Final(err) {
		t.Fatalf("Dial = %v, want an AuthError", err)
	}
	if e.User != "me" || e.Host != "box" || len(e.Tried) != 1 || e.Tried[0] != short(mine) || strings.Join(e.Methods, ",") != "publickey" {
		t.Errorf("the facts are %+v", e)
	}
	if got := strings.Join(s.offered(), " "); got != prints(pub) {
		t.Errorf("offered %s, want %s", got, prints(pub))
	}
	target.IdentityFiles = nil
	if err := login(t, new(Dialer), target); !as[*AuthError](err) || !strings.Contains(err.Error(), "there is no key") {
		t.Errorf("no key at all: %v", err)
	}

	passwords := func(c *ssh.ServerConfig) {
		c.PublicKeyCallback = nil
		c.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, errors.New("no") }
	}
	s.set(func() { s.change = passwords })
	if err := login(t, new(Dialer), target); !errors.As(err, &e) || strings.Join(e.Methods, ",") != "password" || !strings.Contains(err.Error(), "takes no keys of me@box, only password") {
		t.Errorf("a server that takes passwords only: %v, methods %v", err, e.Methods)
	}
}

func TestAuthSecondFactor(t *testing.T) {
	file, pub := writeKey(t, "")
	s := &server{allow: []ssh.PublicKey{pub}}
	s.change = func(c *ssh.ServerConfig) {
		c.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, errors.New("no") }}}
		}
	}
	s.start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	if err := login(t, new(Dialer), target); !as[*AuthError](err) || !strings.Contains(err.Error(), "the key is right, but the box asks for password besides") {
		t.Errorf("a box that wants a password besides: %v", err)
	}
}

func TestAuthAgentOrder(t *testing.T) {
	ring, held := agentWith(t, 3)
	file, pub := writeKey(t, "")
	named := writeFile(t, "named.pub", keyText(held[1])) // IdentityFile of a key that only the agent has
	besides := filepath.Join(t.TempDir(), "id_agent")
	os.WriteFile(besides+".pub", []byte(keyText(held[2])+" comment\n"), 0o644)
	s := (&server{allow: []ssh.PublicKey{}}).start(t)
	target := s.target(t)
	target.IdentityAgent = startAgent(t, ring, nil)
	target.IdentityFiles = []string{file, named, besides}

	err := login(t, new(Dialer), target)
	if got, want := strings.Join(s.offered(), " "), prints(held[1], held[2], held[0], pub); got != want {
		t.Errorf("the order is %s, want the agent's named keys, its others, then files: %s", got, want)
	}
	var e *AuthError
	if !errors.As(err, &e) || strings.Contains(strings.Join(e.Tried, ""), "\x1b") || !strings.Contains(strings.Join(e.Tried, ", "), "key 0 (agent)") {
		t.Errorf("Tried = %q", e.Tried)
	}
	s.set(func() { s.asked = nil })
	target.IdentitiesOnly = true
	login(t, new(Dialer), target)
	if got, want := strings.Join(s.offered(), " "), prints(held[1], held[2], pub); got != want {
		t.Errorf("IdentitiesOnly: offered %s, want %s", got, want)
	}
}

func TestAuthAgentAddress(t *testing.T) {
	ring, held := agentWith(t, 1)
	sock := startAgent(t, ring, nil)
	s := (&server{allow: held}).start(t)
	target := s.target(t)
	target.IdentityAgent = ""
	t.Setenv("SSH_AUTH_SOCK", "/no/such/socket")
	if err := login(t, &Dialer{AgentSocket: sock}, target); err != nil {
		t.Errorf("the dialer's socket: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", sock)
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("$SSH_AUTH_SOCK: %v", err)
	}
	target.IdentityAgent = "none"
	if err := login(t, new(Dialer), target); !as[*AuthError](err) {
		t.Errorf("IdentityAgent none: %v", err)
	}
	t.Setenv("OTHER_SOCK", sock)
	t.Setenv("SSH_AUTH_SOCK", "")
	target.IdentityAgent = "$OTHER_SOCK"
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("IdentityAgent $OTHER_SOCK: %v", err)
	}
	target.IdentityAgent = "/no/such/socket"
	if err := login(t, new(Dialer), target); !as[*AuthError](err) || !strings.Contains(err.Error(), "the agent at /no/such/socket: no such file") {
		t.Errorf("an agent that is not there: %v", err)
	}
}

// failing is an agent that lists keys and signs with some.
type failing struct {
	agent.ExtendedAgent
	bad ssh.PublicKey
}

func (f *failing) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if sameKey(key, f.bad) {
		return nil, errors.New("locked")
	}
	return f.ExtendedAgent.SignWithFlags(key, data, flags)
}

func (f *failing) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return f.SignWithFlags(key, data, 0)
}

func TestAuthSignerFails(t *testing.T) {
	ring, held := agentWith(t, 2)
	s := (&server{allow: held}).start(t)
	target := s.target(t)
	target.IdentityAgent = startAgent(t, &failing{ring.(agent.ExtendedAgent), held[0]}, nil)
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("the first key fails to sign, the second is good: %v", err)
	}
}

func TestAuthAgentHangs(t *testing.T) {
	t.Parallel()
	file, pub := writeKey(t, "")
	s := (&server{allow: []ssh.PublicKey{pub}}).start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	hang := func(c net.Conn) { c.Read(make([]byte, 1)); c.Read(make([]byte, 1<<16)); c.Read(make([]byte, 1)) }
	target.IdentityAgent = startAgent(t, nil, hang)
	start := time.Now()
	if err := login(t, new(Dialer), target); err != nil || time.Since(start) > 9*time.Second {
		t.Errorf("an agent that hangs: %v after %v, want the key file to be used", err, time.Since(start))
	}
	target.IdentityAgent = startAgent(t, nil, func(c net.Conn) { c.Read(make([]byte, 1)) })
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("an agent that dies: %v, want the key file to be used", err)
	}
	target.IdentityAgent = startAgent(t, nil, func(c net.Conn) { c.Write([]byte("\xff\xff\xff\xff garbage")) })
	target.IdentityFiles = nil
	if err := login(t, new(Dialer), target); !as[*AuthError](err) || !strings.Contains(err.Error(), "the agent at ") {
		t.Errorf("an agent that talks nonsense: %v", err)
	}
}

func TestAuthPassphrase(t *testing.T) {
	file, pub := writeKey(t, "sesame")
	s := (&server{allow: []ssh.PublicKey{}}).start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	asked := 0
	answer := "sesame"
	d := &Dialer{Passphrase: func(_ context.Context, path string) ([]byte, error) {
		asked++
		if path != file {
			t.Errorf("asked for %s, want %s", path, file)
		}
		return []byte(answer), nil
	}}
	if err := login(t, d, target); !as[*AuthError](err) || asked != 0 {
		t.Errorf("a key that the server does not want: %v, asked %d times", err, asked)
	}
	s.set(func() { s.allow = []ssh.PublicKey{pub} })
	if err := login(t, d, target); err != nil || asked != 1 {
		t.Errorf("the right passphrase: %v, asked %d times", err, asked)
	}
	answer = "wrong"
	err := login(t, d, target)
	var e *PassphraseError
	if !errors.As(err, &e) || !e.Wrong || e.File != file || !Final(err) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if err := login(t, new(Dialer), target); !errors.As(err, &e) || e.Wrong || e.File != file {
		t.Errorf("nobody to ask: %v, want a PassphraseError", err)
	}
	d.Passphrase = func(_ context.Context, path string) ([]byte, error) { return nil, &PassphraseError{File: path} }
	if err := login(t, d, target); !errors.As(err, &e) || e.Wrong {
		t.Errorf("nobody answers: %v, want a PassphraseError", err)
	}
	other, pub2 := writeKey(t, "")
	s.set(func() { s.allow = []ssh.PublicKey{pub2} })
	target.IdentityFiles = []string{file, other}
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("an encrypted key and a good one: %v", err)
	}
	// a person may take longer than the login
	s.set(func() { s.allow = []ssh.PublicKey{pub} })
	slow := &Dialer{limits: limits{login: 200 * time.Millisecond}, Passphrase: func(context.Context, string) ([]byte, error) {
		time.Sleep(500 * time.Millisecond)
		return []byte("sesame"), nil
	}}
	if err := login(t, slow, target); err != nil {
		t.Errorf("a slow person: %v", err)
	}
}

func TestAuthOldEncryptedKey(t *testing.T) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalECPrivateKey(priv)
	//lint:ignore SA1019 such files exist
	block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte("old"), x509.PEMCipherAES128)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, "old", string(pem.EncodeToMemory(block)))
	signer, _ := ssh.NewSignerFromKey(priv)
	s := (&server{allow: []ssh.PublicKey{signer.PublicKey()}}).start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	if err := login(t, new(Dialer), target); !as[*PassphraseError](err) {
		t.Errorf("Dial = %v, want a PassphraseError", err)
	}
	d := &Dialer{Passphrase: func(context.Context, string) ([]byte, error) { return []byte("old"), nil }}
	if err := login(t, d, target); err != nil {
		t.Error(err)
	}
}

func TestAuthCertificate(t *testing.T) {
	ca := newSigner(t)
	file, pub := writeKey(t, "")
	cert := func(key ssh.PublicKey, before uint64) string {
		c := &ssh.Certificate{Key: key, CertType: ssh.UserCert, ValidPrincipals: []string{"me"}, ValidBefore: before}
		if err := c.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		return keyText(c)
	}
	s := &server{}
	s.change = func(c *ssh.ServerConfig) {
		checker := &ssh.CertChecker{IsUserAuthority: func(k ssh.PublicKey) bool { return sameKey(k, ca.PublicKey()) }}
		c.PublicKeyCallback = func(m ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) { return checker.Authenticate(m, k) }
		c.NoClientAuth = false
	}
	s.start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	if err := login(t, new(Dialer), target); !as[*AuthError](err) {
		t.Fatalf("without a certificate: %v", err)
	}
	os.WriteFile(file+"-cert.pub", []byte(cert(pub, ssh.CertTimeInfinity)), 0o600)
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("a certificate beside the key: %v", err)
	}
	os.Remove(file + "-cert.pub")

	ring, held := agentWith(t, 1)
	target.IdentityAgent = startAgent(t, ring, nil)
	target.CertificateFiles = []string{writeFile(t, "c.pub", cert(held[0], ssh.CertTimeInfinity))}
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("CertificateFile for a key of the agent: %v", err)
	}
	target.IdentityAgent = "none"
	target.CertificateFiles = []string{writeFile(t, "c.pub", cert(pub, uint64(time.Now().Unix()-90000))), "/no/such"}
	err := login(t, new(Dialer), target)
	if !as[*AuthError](err) || !strings.Contains(err.Error(), "its certificate ended on 20") || !strings.Contains(err.Error(), "/no/such: not a certificate") {
		t.Errorf("an old certificate: %v", err)
	}
}

func TestAuthRSA(t *testing.T) {
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := ssh.MarshalPrivateKey(priv, "")
	file := writeFile(t, "rsa", string(pem.EncodeToMemory(block)))
	signer, _ := ssh.NewSignerFromKey(priv)
	s := &server{allow: []ssh.PublicKey{signer.PublicKey()}}
	s.change = func(c *ssh.ServerConfig) {
		c.PublicKeyAuthAlgorithms = []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoED25519}
	}
	s.start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("RSA with SHA-256: %v", err)
	}
	s.set(func() {
		s.change = func(c *ssh.ServerConfig) { c.PublicKeyAuthAlgorithms = []string{ssh.KeyAlgoRSA} }
	})
	if err := login(t, new(Dialer), target); !as[*AuthError](err) {
		t.Errorf("a server with SHA-1 only: %v, want an AuthError", err)
	}
	target.PubkeyAcceptedAlgorithms = []string{"+ssh-rsa"}
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("a server with SHA-1 only, and a user who wants it: %v", err)
	}
}
