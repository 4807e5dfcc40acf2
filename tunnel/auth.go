package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxKeys is how many keys are offered: sshd cuts off after six attempts, others later.
const maxKeys = 32

// offer is one key to try.
type offer struct {
	name string // as AuthError.Tried shows it
	// key is nil if it has to be opened first, because nobody knows its public half.
	key  ssh.AlgorithmSigner
	file *keyFile
}

// keyring is one login: it picks the methods, and collects the keys in OpenSSH's order (sshconnect2.c: pubkey_prepare)
// and hands them out one by one: with several in one method, a key that fails to sign ends the others' chances.
type keyring struct {
	ctx    context.Context
	target *Target
	dialer *Dialer
	// human runs what may wait for a person; the clock of the login stands still meanwhile.
	human func(func())
	// broken reports that the connection has ended: what the handshake then takes for a no is none. Nil means never.
	broken func() bool

	ready   bool
	agent   *agentConn
	offers  []offer
	next    int
	used    map[string]bool
	tried   []string
	notes   []string
	methods []string         // what the server said that it takes, the last time
	right   []string         // what it took already, and wants more
	locked  *PassphraseError // an encrypted key that the server may take, and that nobody opened
	talk    talk
}

// callback hands out one method per attempt, and in publickey one key. The handshake calls it, one call at a time.
func (k *keyring) callback(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	if len(c.AllowedMethods) == 0 || k.broken != nil && k.broken() {
		return nil, nil // there was no answer, or no use in one: the handshake knows why
	}
	k.methods, k.right = cleaned(c.AllowedMethods), cleaned(c.PartialSuccessMethods)
	k.settle(c.PartialSuccessMethods)
	if k.talk.stop != nil {
		return nil, k.talk.stop
	}
	for _, method := range k.target.loginMethods() {
		if !slices.Contains(c.AllowedMethods, method) {
			continue
		}
		var m ssh.AuthMethod
		switch method {
		case methodKey:
			m = k.publicKey()
		case methodAsks:
			m = k.interactive()
		case methodPassword:
			m = k.password()
		}
		if m != nil {
			k.dialer.log().Debug("login", "host", k.target.Host, "method", method)
			return m, nil
		}
	}
	return nil, k.refused()
}

func cleaned(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = clean(w)
	}
	return out
}

// publicKey is the next key, nil if there is no more.
func (k *keyring) publicKey() ssh.AuthMethod {
	if !k.ready {
		k.ready = true
		k.human(k.collect)
	}
	for k.next < len(k.offers) {
		o := k.offers[k.next]
		k.next++
		key := o.key
		if key == nil {
			var err error
			if key, err = o.file.open(k.ask); err != nil {
				k.failed(o.name, err)
				continue
			}
		}
		limited, err := k.modern(key)
		if err != nil {
			continue // ssh_config does not accept the type
		}
		k.tried = append(k.tried, o.name)
		return ssh.PublicKeys(&patient{limited, k, o.name})
	}
	if k.locked != nil && k.talk.need == nil {
		k.talk.need = k.locked
	}
	return nil
}

// refused is the end of the login. The server may have ended it in place of an answer to the last attempt.
func (k *keyring) refused() error {
	if a := k.talk.last; a != nil && len(a.answers) > 0 {
		k.settle(nil)
		return k.talk.wrong
	}
	switch {
	case k.talk.need != nil:
		return k.talk.need
	case k.talk.wrong != nil:
		return k.talk.wrong
	case k.locked != nil && len(k.right) == 0:
		return k.locked
	}
	return k.denied()
}

// denied says what was tried in vain, and what ssh_config kept us from trying.
func (k *keyring) denied() error {
	for _, m := range []string{methodKey, methodAsks, methodPassword} {
		if slices.Contains(k.methods, m) && !slices.Contains(k.target.loginMethods(), m) {
			k.notes = append(k.notes, m+" is off in ssh_config")
		}
	}
	return &AuthError{User: k.target.User, Host: k.target.Host, Tried: k.tried, Methods: k.methods, Right: k.right, Notes: k.notes}
}

// failed notes why a key could not be used.
func (k *keyring) failed(name string, err error) {
	var locked *PassphraseError
	if errors.As(err, &locked) {
		if k.locked == nil || locked.Wrong {
			k.locked = locked
		}
		return
	}
	k.notes = append(k.notes, name+": "+clean(err.Error()))
}

// ask is the dialer's question for a passphrase.
func (k *keyring) ask(path string) (phrase []byte, err error) {
	if k.dialer.Passphrase == nil {
		return nil, &PassphraseError{File: path}
	}
	k.human(func() { phrase, err = k.dialer.Passphrase(k.ctx, path) })
	return phrase, err
}

// close ends the conversation with the agent.
func (k *keyring) close() {
	if k.agent != nil {
		k.agent.close()
	}
}

// collect finds the keys and puts them in order: what CertificateFile names; keys of the agent that an IdentityFile
// names; other keys of the agent, unless IdentitiesOnly; key files. A certificate beside a key goes before it.
func (k *keyring) collect() {
	k.used = map[string]bool{}
	held := k.agentKeys()
	var files []*keyFile
	for _, path := range k.target.IdentityFiles {
		f, err := readKeyFile(path, k.ask)
		if err != nil {
			k.notes = append(k.notes, short(path)+": "+err.Error())
		}
		if f != nil {
			files = append(files, f)
		}
	}
	holder := func(pub ssh.PublicKey) (ssh.AlgorithmSigner, string) {
		for _, a := range held {
			if sameKey(a.pub, pub) {
				return a.signer, " (agent)"
			}
		}
		for _, f := range files {
			if f.pub != nil && f.key != nil && sameKey(f.pub, pub) {
				return f.key, ""
			}
		}
		return nil, ""
	}
	for _, path := range k.target.CertificateFiles {
		cert := readCert(path)
		if cert == nil {
			k.notes = append(k.notes, short(path)+": not a certificate of a user")
			continue
		}
		if key, where := holder(cert.Key); key != nil {
			k.addCert(short(path), where, cert, key)
		}
	}
	beside := func(f *keyFile) *ssh.Certificate {
		if len(k.target.CertificateFiles) > 0 {
			return nil
		}
		return readCert(f.path + "-cert.pub")
	}
	named := map[string]bool{}
	for _, a := range held {
		for _, f := range files {
			cert := beside(f)
			if f.pub != nil && sameKey(f.pub, a.pub) {
				named[string(a.pub.Marshal())] = true
				if cert != nil && sameKey(cert.Key, a.pub) {
					k.addCert(short(f.path), " (agent)", cert, a.signer)
				}
				k.add(short(f.path)+" (agent)", a.signer)
			} else if cert != nil && sameKey(cert, a.pub) {
				named[string(a.pub.Marshal())] = true
				k.add(short(f.path)+" (certificate, agent)", a.signer)
			}
		}
	}
	if !k.target.IdentitiesOnly {
		for _, a := range held {
			if named[string(a.pub.Marshal())] {
				continue
			}
			name := a.comment
			if name == "" {
				name = shortType(a.pub.Type()) + " key"
			}
			k.add(name+" (agent)", a.signer)
		}
	}
	for _, f := range files {
		if cert := beside(f); cert != nil && f.key != nil && sameKey(cert.Key, f.pub) {
			k.addCert(short(f.path), "", cert, f.key)
		}
		switch {
		case f.key != nil:
			k.add(short(f.path), f.key)
		case f.locked && len(k.offers) < maxKeys:
			k.offers = append(k.offers, offer{name: short(f.path), file: f})
		}
	}
}

// add offers a key, once.
func (k *keyring) add(name string, key ssh.AlgorithmSigner) {
	id := string(key.PublicKey().Marshal())
	if k.used[id] || len(k.offers) >= maxKeys {
		return
	}
	k.used[id] = true
	k.offers = append(k.offers, offer{name: name, key: key})
}

// addCert offers a certificate, with the key that it is for.
func (k *keyring) addCert(name, where string, cert *ssh.Certificate, key ssh.AlgorithmSigner) {
	if until := cert.ValidBefore; until != ssh.CertTimeInfinity && int64(until) < time.Now().Unix() {
		k.notes = append(k.notes, fmt.Sprintf("%s: its certificate ended on %s", name, time.Unix(int64(until), 0).Format(time.DateOnly)))
	}
	s, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		return
	}
	if as, ok := s.(ssh.AlgorithmSigner); ok {
		what := " (certificate)"
		if where != "" {
			what = " (certificate, agent)"
		}
		k.add(name+what, as)
	}
}

// agentKeys lists what the agent has. An agent that does not answer is a note, not an error.
func (k *keyring) agentKeys() []agentKey {
	addr, inherited := agentAddress(k.target.IdentityAgent, k.dialer.AgentSocket)
	if addr == "" {
		return nil
	}
	a, err := openAgent(k.ctx, addr)
	if err != nil {
		if !inherited || k.dialer.AgentSocket != "" {
			k.notes = append(k.notes, "the agent at "+short(addr)+": "+reason(err))
		}
		return nil
	}
	k.agent = a
	keys, err := a.keys(k.ctx)
	if err != nil {
		k.notes = append(k.notes, "the agent at "+short(addr)+": "+clean(err.Error()))
	}
	return keys
}

// modern limits a key to the signatures that ssh_config accepts. Without its word, RSA signs with SHA-2 only, as in
// OpenSSH since 8.8.
func (k *keyring) modern(key ssh.AlgorithmSigner) (ssh.AlgorithmSigner, error) {
	keyType := key.PublicKey().Type()
	isCert := withoutCert(keyType) != keyType
	var accepted []string
	for _, a := range applyList(acceptedSignatures, k.target.PubkeyAcceptedAlgorithms) {
		if bare := withoutCert(a); isCert == (bare != a) {
			accepted = append(accepted, bare)
		}
	}
	plain := plainType(keyType)
	can := []string{plain}
	if plain == ssh.KeyAlgoRSA {
		can = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA}
	}
	can = slices.DeleteFunc(can, func(a string) bool { return !slices.Contains(accepted, a) })
	if len(can) == 0 {
		return nil, fmt.Errorf("no signature of %s is accepted", keyType)
	}
	return ssh.NewSignerWithAlgorithms(key, can)
}

// patient is a signer whose failure is noted; the handshake goes on to the next key.
type patient struct {
	ssh.AlgorithmSigner
	ring *keyring
	name string
}

func (p *patient) Algorithms() []string {
	return p.AlgorithmSigner.(ssh.MultiAlgorithmSigner).Algorithms()
}

func (p *patient) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	p.ring.human(func() { sig, err = p.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm) })
	if err != nil {
		p.ring.failed(p.name, err)
	}
	return sig, err
}

// short writes a path with ~ for the user's home.
func short(path string) string {
	home, _ := os.UserHomeDir()
	return shorten(path, home)
}
