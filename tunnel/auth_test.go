package tunnel

import (
	"bytes"
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
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"rlca/internal/peer"
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

	s.set(func() { s.change = wantsPassword("sesame", true) })
	target.NoPassword = true
	err = login(t, new(Dialer), target)
	if !errors.As(err, &e) || strings.Join(e.Methods, ",") != "password" || err.Error() != "box takes no keys of me@box, only password: password is off in ssh_config" {
		t.Errorf("a server that takes passwords only: %v, methods %v", err, e.Methods)
	}
	s.set(func() { s.change = wantsPassword("sesame", false) })
	target.IdentityFiles = []string{mine}
	if err := login(t, new(Dialer), target); !as[*AuthError](err) || !strings.HasPrefix(err.Error(), "box accepts none of the keys of me@box (it takes password or publickey): ") {
		t.Errorf("a server that takes passwords besides: %v", err)
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

// wantsPassword makes a server that has one password. only says that it takes no keys.
func wantsPassword(password string, only bool) func(*ssh.ServerConfig) {
	return func(c *ssh.ServerConfig) {
		if only {
			c.PublicKeyCallback = nil
		}
		c.PasswordCallback = takes(password)
	}
}

func takes(password string) func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
	return func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
		if string(p) != password {
			return nil, errors.New("no")
		}
		return nil, nil
	}
}

// asks makes a server of rounds: each is what it says, and then pairs of a prompt and the right answer. A prompt that
// begins with + may be seen.
func asks(rounds ...[]string) func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	return func(_ ssh.ConnMetadata, challenge ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		for _, r := range rounds {
			var prompts, want []string
			var echos []bool
			for i := 1; i < len(r); i += 2 {
				p, echo := strings.CutPrefix(r[i], "+")
				prompts, echos, want = append(prompts, p), append(echos, echo), append(want, r[i+1])
			}
			if got, err := challenge("", r[0], prompts, echos); err != nil || !slices.Equal(got, want) {
				return nil, errors.New("no")
			}
		}
		return nil, nil
	}
}

// person answers questions by their prompt, "password" for that method, and remembers them. Of several answers each
// try gets the next one; after the last there is none.
type person struct {
	answers map[string][]string
	asked   []string
	said    []string
}

func (p *person) secret(_ context.Context, q Question) (string, error) {
	name := q.Prompt
	if q.Kind == "password" {
		name = "password"
	}
	p.asked = append(p.asked, fmt.Sprintf("%s %d.%d %v", name, q.Round, q.Try, q.Echo))
	p.said = append(p.said, q.Instruction)
	if a := p.answers[name]; q.User == "me" && q.Host == "box" && q.Try <= len(a) {
		return a[q.Try-1], nil
	}
	return "", errors.New("nobody")
}

// refusals are the logins that a server says no to.
type refusals struct {
	mu   sync.Mutex // guards what follows
	list []string
}

func (r *refusals) log(_ ssh.ConnMetadata, method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && method != "none" {
		r.list = append(r.list, method)
	}
}

func (r *refusals) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.list = nil }()
	return strings.Join(r.list, " ")
}

func TestLoginAsks(t *testing.T) {
	password := func(c *ssh.ServerConfig) { c.PublicKeyCallback, c.PasswordCallback = nil, takes("sesame") }
	asking := func(rounds ...[]string) func(*ssh.ServerConfig) {
		return func(c *ssh.ServerConfig) { c.PublicKeyCallback, c.KeyboardInteractiveCallback = nil, asks(rounds...) }
	}
	both := func(c *ssh.ServerConfig) {
		password(c)
		c.KeyboardInteractiveCallback = asks([]string{"", "Password:", "sesame"})
	}
	empty := func(c *ssh.ServerConfig) {
		password(c)
		c.KeyboardInteractiveCallback = func(ssh.ConnMetadata, ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			return nil, errors.New("no such device")
		}
	}
	many := make([][]string, 11)
	for i := range many {
		many[i] = []string{"round"}
	}
	type answers = map[string][]string
	for name, c := range map[string]struct {
		change  func(*ssh.ServerConfig)
		answers answers
		target  func(*Target)
		want    string // the error; empty for a login
		asked   string // of the person
		refused string // by the server
	}{
		"password": {change: password, answers: answers{"password": {"sesame"}}, asked: "password 1.1 false"},
		"wrong password": {change: password, answers: answers{"password": {"barley", "barley"}}, want: "wrong: the password of me@box is not right",
			asked: "password 1.1 false, password 1.2 false", refused: "password"},
		"wrong password, no other": {change: password, answers: answers{"password": {"barley"}}, want: "wrong: the password of me@box is not right",
			asked: "password 1.1 false, password 1.2 false", refused: "password"},
		"wrong, then right": {change: password, answers: answers{"password": {"barley", "sesame"}}, asked: "password 1.1 false, password 1.2 false", refused: "password"},
		"too many": {change: password, answers: answers{"password": {"a", "b", "c", "sesame"}}, want: "wrong: the password of me@box is not right",
			asked: "password 1.1 false, password 1.2 false, password 1.3 false", refused: "password password password"},
		"one prompt": {change: password, answers: answers{"password": {"a", "sesame"}}, target: func(t *Target) { t.PasswordPrompts = 1 },
			want: "wrong: the password of me@box is not right", asked: "password 1.1 false", refused: "password"},
		"no prompts":  {change: password, answers: answers{"password": {"sesame"}}, target: func(t *Target) { t.PasswordPrompts = -1 }, want: "box takes no keys of me@box, only password: password is off in ssh_config"},
		"no password": {change: password, want: "box asks for the password of me@box", asked: "password 1.1 false"},
		"one question": {change: asking([]string{"", "Password:", "sesame"}), answers: answers{"Password:": {"sesame"}},
			asked: "Password: 1.1 false"},
		"wrong answer": {change: asking([]string{"", "Password:", "sesame"}), answers: answers{"Password:": {"barley", "barley"}},
			want: `wrong: box does not take what was answered for me@box to "Password:"`, asked: "Password: 1.1 false, Password: 1.2 false", refused: "keyboard-interactive"},
		"wrong, then another": {change: asking([]string{"", "Password:", "sesame"}), answers: answers{"Password:": {"barley", "sesame"}},
			asked: "Password: 1.1 false, Password: 1.2 false", refused: "keyboard-interactive"},
		"no answer": {change: asking([]string{"", "Password:", "sesame", "+Code:", "1"}), want: `box asks me@box for "Password:" and "Code:"`,
			asked: "Password: 1.1 false, Code: 2.1 true", refused: "keyboard-interactive"},
		"half an answer": {change: asking([]string{"", "Password:", "sesame", "Code:", "1"}), answers: answers{"Password:": {"sesame"}},
			want: `box asks me@box for "Code:"`, asked: "Password: 1.1 false, Code: 2.1 false", refused: "keyboard-interactive"},
		"two questions": {change: asking([]string{"", "Password:", "sesame", "+Code:", "1"}), answers: answers{"Password:": {"sesame"}, "Code:": {"1"}},
			asked: "Password: 1.1 false, Code: 2.1 true"},
		"two rounds": {change: asking([]string{"", "Password:", "sesame"}, []string{"", "Code:", "1"}), answers: answers{"Password:": {"sesame"}, "Code:": {"1"}},
			asked: "Password: 1.1 false, Code: 2.1 false"},
		"the second round is wrong": {change: asking([]string{"", "Password:", "sesame"}, []string{"", "Code:", "1"}), answers: answers{"Password:": {"sesame", "sesame"}, "Code:": {"2", "1"}},
			want:  `wrong: box does not take what was answered for me@box to "Password:" and "Code:"`,
			asked: "Password: 1.1 false, Code: 2.1 false, Password: 1.2 false", refused: "keyboard-interactive"},
		"only information": {change: asking([]string{"welcome"}, []string{"", "Password:", "sesame"}, []string{"bye"}), answers: answers{"Password:": {"sesame"}},
			asked: "Password: 1.1 false"},
		"both": {change: both, answers: answers{"Password:": {"barley"}, "password": {"sesame"}}, asked: "Password: 1.1 false, Password: 1.2 false, password 1.1 false", refused: "keyboard-interactive"},
		"both, the same": {change: both, answers: answers{"Password:": {"barley"}, "password": {"barley"}}, want: `wrong: box does not take what was answered for me@box to "Password:"`,
			asked: "Password: 1.1 false, Password: 1.2 false, password 1.1 false", refused: "keyboard-interactive"},
		"no devices": {change: empty, answers: answers{"password": {"sesame"}}, asked: "password 1.1 false", refused: "keyboard-interactive"},
		"order": {change: both, answers: answers{"Password:": {"sesame"}, "password": {"sesame"}}, asked: "password 1.1 false",
			target: func(t *Target) {
				t.PreferredAuthentications = []string{"gssapi-with-mic", "password", "keyboard-interactive"}
			}},
		"off": {change: both, answers: answers{"Password:": {"sesame"}, "password": {"sesame"}}, asked: "password 1.1 false",
			target: func(t *Target) { t.NoKbdInteractive = true }},
		"not preferred": {change: both, answers: answers{"Password:": {"sesame"}}, target: func(t *Target) { t.PreferredAuthentications = []string{"publickey"} },
			want: "box takes no keys of me@box, only password or keyboard-interactive: keyboard-interactive is off in ssh_config; password is off in ssh_config"},
		"too many questions": {change: asking([]string{"", "1", "", "2", "", "3", "", "4", "", "5", "", "6", "", "7", "", "8", "", "9", ""}),
			want: "box takes no keys of me@box, only keyboard-interactive: keyboard-interactive: the box asks too much", refused: "keyboard-interactive"},
		"too many rounds": {change: asking(many...),
			want: "box takes no keys of me@box, only keyboard-interactive: keyboard-interactive: the box asks too much", refused: "keyboard-interactive"},
	} {
		t.Run(name, func(t *testing.T) {
			var no refusals
			s := (&server{allow: []ssh.PublicKey{}, change: func(conf *ssh.ServerConfig) {
				conf.AuthLogCallback, conf.MaxAuthTries = no.log, 20
				c.change(conf)
			}}).start(t)
			target := s.target(t)
			if c.target != nil {
				c.target(target)
			}
			var log bytes.Buffer
			p := &person{answers: c.answers}
			err := login(t, &Dialer{Secret: p.secret, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, target)
			got := ""
			if err != nil {
				got = err.Error()
				var secret *SecretError
				if errors.As(err, &secret) && secret.Wrong {
					got = "wrong: " + got
				}
				if !Final(err) {
					t.Errorf("Dial = %v, which is not final", err)
				}
			}
			if got != c.want {
				t.Errorf("Dial = %q\nwant   %q", got, c.want)
			}
			if asked := strings.Join(p.asked, ", "); asked != c.asked {
				t.Errorf("asked %q\nwant  %q", asked, c.asked)
			}
			s.cut()
			s.ln.Close()
			s.wg.Wait()
			if refused := no.take(); refused != c.refused {
				t.Errorf("the server refused %q, want %q", refused, c.refused)
			}
			if all := log.String() + got; strings.Contains(all, "sesame") || strings.Contains(all, "barley") {
				t.Errorf("a secret is in the log or in the error: %s%s", &log, got)
			}
		})
	}
}

// TestLoginNobody is the dial of a background process: the question comes back, and the answer goes into the next dial.
func TestLoginNobody(t *testing.T) {
	key, pub := writeKey(t, "")
	s := (&server{allow: []ssh.PublicKey{}}).start(t)
	s.change = func(c *ssh.ServerConfig) {
		c.KeyboardInteractiveCallback = asks([]string{"\x1b[31mDuo\x1b[0m\r\nlogin"}, []string{"\u202eenter", "\x1b]0;x\x07Pass\x00word:\n ", "sesame", "+Code:", "1"})
	}
	target := s.target(t)
	target.IdentityFiles = []string{key}
	err := login(t, new(Dialer), target)
	var e *SecretError
	if !errors.As(err, &e) {
		t.Fatalf("Dial = %v, want a SecretError", err)
	}
	want := []Question{
		{User: "me", Host: "box", Addr: target.Addr(), Kind: "keyboard-interactive", Instruction: "[31mDuo[0m login enter", Prompt: "]0;xPassword:", Round: 1, Try: 1},
		{User: "me", Host: "box", Addr: target.Addr(), Kind: "keyboard-interactive", Instruction: "[31mDuo[0m login enter", Prompt: "Code:", Echo: true, Round: 2, Try: 1},
	}
	if !reflect.DeepEqual(e.Questions, want) || e.Wrong || len(e.Right) > 0 || !slices.Equal(e.Tried, []string{short(key)}) {
		t.Errorf("the facts are %+v\nwant questions %+v", e, want)
	}
	if strings.ContainsAny(err.Error(), "\x1b\x00\n\u202e") {
		t.Errorf("control characters in %q", err)
	}
	given := map[Question]string{e.Questions[0]: "sesame", e.Questions[1]: "1"}
	d := &Dialer{Secret: func(_ context.Context, q Question) (string, error) {
		if a, ok := given[q]; ok {
			return a, nil
		}
		return "", errors.New("nobody")
	}}
	if err := login(t, d, target); err != nil {
		t.Errorf("with the answers: %v", err)
	}
	s.set(func() { s.allow = []ssh.PublicKey{pub} })
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("a key that is let in: %v", err)
	}
}

func TestLoginSecondFactor(t *testing.T) {
	file, _ := writeKey(t, "")
	key := func(next ssh.ServerAuthCallbacks) func(*ssh.ServerConfig) {
		return func(c *ssh.ServerConfig) {
			c.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				return nil, &ssh.PartialSuccessError{Next: next}
			}
		}
	}
	s := (&server{allow: []ssh.PublicKey{}}).start(t)
	target := s.target(t)
	target.IdentityFiles = []string{file}
	try := func(change func(*ssh.ServerConfig), answers map[string][]string, want, asked string) {
		t.Helper()
		s.set(func() { s.change = change })
		p := &person{answers: answers}
		err := login(t, &Dialer{Secret: p.secret}, target)
		if err == nil && want != "" || err != nil && err.Error() != want {
			t.Errorf("Dial = %v, want %s", err, want)
		}
		if got := strings.Join(p.asked, ", "); got != asked {
			t.Errorf("asked %q, want %q", got, asked)
		}
	}
	password := key(ssh.ServerAuthCallbacks{PasswordCallback: takes("sesame")})
	try(password, map[string][]string{"password": {"sesame"}}, "", "password 1.1 false")
	try(password, nil, "box asks for the password of me@box besides publickey", "password 1.1 false")
	code := key(ssh.ServerAuthCallbacks{KeyboardInteractiveCallback: asks([]string{"", "Verification code:", "1"})})
	try(code, map[string][]string{"Verification code:": {"1"}}, "", "Verification code: 1.1 false")
	try(code, nil, `box asks me@box for "Verification code:" besides publickey`, "Verification code: 1.1 false")
	// a password, and then a code: the count of the questions goes on
	three := func(c *ssh.ServerConfig) {
		c.PublicKeyCallback = nil
		c.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			if string(p) != "sesame" {
				return nil, errors.New("no")
			}
			return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{KeyboardInteractiveCallback: asks([]string{"", "Code:", "1"})}}
		}
	}
	try(three, map[string][]string{"password": {"barley", "sesame"}, "Code:": {"1"}}, "", "password 1.1 false, password 1.2 false, Code: 2.1 false")

	target.NoPassword = true
	try(password, nil, "box took publickey of me@box, but asks for password besides: password is off in ssh_config", "")
	target.NoPassword, target.NoPublicKey = false, true
	try(password, nil, "there is no key to log in to me@box with: publickey is off in ssh_config", "")
}

// TestLoginKeyFirst has keys that do not help, and a password that does.
func TestLoginKeyFirst(t *testing.T) {
	ring, held := agentWith(t, 1)
	locked, pub := writeKey(t, "sesame")
	s := (&server{allow: held}).start(t)
	s.change = func(c *ssh.ServerConfig) { c.PasswordCallback = takes("open") }
	target := s.target(t)
	target.IdentityAgent = startAgent(t, &failing{ring.(agent.ExtendedAgent), held[0]}, nil)
	p := &person{answers: map[string][]string{"password": {"open"}}}
	if err := login(t, &Dialer{Secret: p.secret}, target); err != nil {
		t.Errorf("an agent that does not sign: %v, want the password to be used", err)
	}
	s.set(func() { s.allow = []ssh.PublicKey{pub} })
	target.IdentityAgent, target.IdentityFiles = "none", []string{locked}
	if err := login(t, new(Dialer), target); !as[*PassphraseError](err) {
		t.Errorf("a locked key and no password: %v, want a PassphraseError", err)
	}
	if err := login(t, &Dialer{Secret: p.secret}, target); err != nil {
		t.Errorf("a locked key and a password: %v", err)
	}
	// keys need nobody: a password that is preferred and not known is not the end
	open, pub := writeKey(t, "")
	s.set(func() { s.allow = []ssh.PublicKey{pub} })
	target.IdentityFiles, target.PreferredAuthentications = []string{open}, []string{"password", "publickey"}
	if err := login(t, new(Dialer), target); err != nil {
		t.Errorf("a password that nobody knows before a key that is good: %v", err)
	}
}

// TestLoginCutOff has a server that ends the login in place of an answer.
func TestLoginCutOff(t *testing.T) {
	s := (&server{allow: []ssh.PublicKey{}}).start(t)
	s.change = func(c *ssh.ServerConfig) {
		wantsPassword("sesame", true)(c)
		c.MaxAuthTries = 1
	}
	p := &person{answers: map[string][]string{"password": {"barley", "sesame"}}}
	err := login(t, &Dialer{Secret: p.secret}, s.target(t))
	var e *SecretError
	if !errors.As(err, &e) || !e.Wrong || len(p.asked) != 1 {
		t.Errorf("Dial = %v after %q, want a SecretError after one", err, p.asked)
	}
}

func TestLoginIsPassword(t *testing.T) {
	for prompt, want := range map[string]bool{
		"Password:": true, "me@newton's password:": true, "(current) UNIX PASSWORD: ": true, "Verification code:": false, "": false,
		"One-time password (OATH) for `me':": false, "OTP or password:": false, "New password:": false, "Retype password:": false, "PIN:": false,
	} {
		if got := (Question{Kind: "keyboard-interactive", Prompt: prompt}).IsPassword(); got != want {
			t.Errorf("%q: IsPassword = %v", prompt, got)
		}
	}
	if (Question{Kind: "keyboard-interactive", Prompt: "Password:", Echo: true}).IsPassword() || !(Question{Kind: "password"}).IsPassword() {
		t.Error("the echo and the kind do not count")
	}
}

// TestConfigLogin holds the builtin reader's methods against those of `ssh -G`.
func TestConfigLogin(t *testing.T) {
	program := peer.Need(t, "ssh")
	for _, c := range []struct{ config, want string }{
		{"", "[publickey keyboard-interactive password] 0"},
		{"PreferredAuthentications password,gssapi-with-mic,publickey\nPreferredAuthentications x", "[password publickey] 0"},
		{"PreferredAuthentications foo", "[] 0"},
		{"PasswordAuthentication no\nPasswordAuthentication yes", "[publickey keyboard-interactive] 0"},
		{"KbdInteractiveAuthentication no", "[publickey password] 0"},
		{"ChallengeResponseAuthentication NO\nKbdInteractiveAuthentication yes", "[publickey password] 0"},
		{"KbdInteractiveAuthentication yes\nSkeyAuthentication no", "[publickey keyboard-interactive password] 0"},
		{"PubkeyAuthentication false", "[keyboard-interactive password] 0"},
		{"PubkeyAuthentication unbound", "[publickey keyboard-interactive password] 0"},
		{"NumberOfPasswordPrompts 1\nNumberOfPasswordPrompts 2", "[publickey keyboard-interactive password] 1"},
		{"NumberOfPasswordPrompts 0", "[publickey] -1"},
		{"PasswordAuthentication maybe", "refused"},
		{"PubkeyAuthentication on", "refused"},
		{"KbdInteractiveAuthentication unbound", "refused"},
		{"NumberOfPasswordPrompts 3x", "refused"},
		{"NumberOfPasswordPrompts -1", "refused"},
		{"Host other\nPasswordAuthentication no\nHost spark\nPreferredAuthentications password", "[password] 0"},
	} {
		for _, by := range []string{program, "none"} {
			got := "refused"
			if target, err := resolveIn(t, "spark", c.config, Options{OpenSSH: by}); err == nil {
				prompts := target.PasswordPrompts
				if prompts == defaultPrompts { // ssh says so without being told
					prompts = 0
				}
				got = fmt.Sprint(target.loginMethods(), prompts)
			}
			if got != c.want {
				t.Errorf("%q by %s: %s, want %s", c.config, by, got, c.want)
			}
		}
	}
}

// TestLoginSSHD asks OpenSSH's own server: it wants a password after the key. No account's real one is needed.
func TestLoginSSHD(t *testing.T) {
	s := peer.StartSSHD(t, "PasswordAuthentication yes", "AuthenticationMethods publickey,password")
	target, err := Resolve(t.Context(), "box", Options{ConfigFile: s.Config, OpenSSH: "none"})
	if err != nil {
		t.Fatal(err)
	}
	var e *SecretError
	if err := login(t, new(Dialer), target); !errors.As(err, &e) || e.Wrong || !slices.Equal(e.Right, []string{"publickey"}) {
		t.Errorf("Dial = %v, want to be asked for the password besides the key", err)
	}
	d := &Dialer{Secret: func(context.Context, Question) (string, error) { return "not the password of anybody", nil }}
	if err := login(t, d, target); !errors.As(err, &e) || !e.Wrong {
		t.Errorf("Dial = %v, want the password to be wrong", err)
	}
	log, err := os.ReadFile(s.Log)
	if n := bytes.Count(log, []byte("Failed password")); err != nil || n != 1 {
		t.Errorf("the server saw %d wrong passwords, want 1: %v\n%s", n, err, log)
	}
}

// A connection that breaks after an answer says nothing about the answer: the next try may give it again.
func TestLoginBreaks(t *testing.T) {
	s := (&server{allow: []ssh.PublicKey{}}).start(t)
	cut := func() error { s.cut(); return errors.New("no") }
	for name, change := range map[string]func(*ssh.ServerConfig){
		"password": func(c *ssh.ServerConfig) {
			c.PublicKeyCallback = nil
			c.PasswordCallback = func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return nil, cut() }
		},
		"keyboard-interactive": func(c *ssh.ServerConfig) {
			c.PublicKeyCallback = nil
			c.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				ask("", "", []string{"Password:"}, []bool{false})
				return nil, cut()
			}
		},
		"in the middle": func(c *ssh.ServerConfig) {
			c.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, cut() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.change = change })
			target := s.target(t)
			key, _ := writeKey(t, "")
			target.IdentityFiles = []string{key}
			err := login(t, &Dialer{Secret: func(context.Context, Question) (string, error) { return "sesame", nil }}, target)
			if !as[*DialError](err) || Final(err) {
				t.Errorf("Dial = %v (%T), want a DialError", err, err)
			}
		})
	}
}
