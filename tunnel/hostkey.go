package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// hostKeys judges the keys that one target shows during one connection, by OpenSSH's rules (sshconnect.c:
// check_host_key). It asks nobody.
type hostKeys struct {
	target    *Target
	acceptNew bool
	known     known
	plain     known // under the name without its port: OpenSSH falls back to it
	revoked   known // the file RevokedHostKeys, for every host
	krl       krl   // the same, if it is a binary list

	mu       sync.Mutex // guards what follows
	accepted []byte     // the key of this connection: a later key exchange must show the same one
}

func newHostKeys(t *Target, acceptNew bool) (*hostKeys, error) {
	h := &hostKeys{target: t, acceptNew: acceptNew && t.StrictHostKeyChecking != "yes" || t.StrictHostKeyChecking == "accept-new"}
	files := slices.Concat(t.UserKnownHostsFiles, t.GlobalKnownHostsFiles)
	h.known = readKnown(files, t.knownName())
	if bare := strings.ToLower(t.HostName); t.HostKeyAlias == "" && bare != t.knownName() {
		h.plain = readKnown(files, bare)
	}
	if file := t.RevokedHostKeys; file != "" {
		var err error
		if h.revoked, h.krl, err = readRevoked(file); err != nil {
			return nil, &ConfigError{Host: t.Host, Msg: "RevokedHostKeys: " + err.Error()}
		}
	}
	return h, nil
}

// maxRevoked bounds a RevokedHostKeys file, as OpenSSH does (sshbuf.h: SSHBUF_SIZE_MAX).
const maxRevoked = 128 << 20

// readRevoked reads a RevokedHostKeys file: one key a line, or a binary key revocation list. One that cannot be read
// or understood to its end is an error, as with OpenSSH (authfile.c: sshkey_check_revoked): a list that is ignored
// protects nobody. A key of a type that we do not know is passed over: no host can show it to us.
func readRevoked(file string) (known, krl, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRevoked+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxRevoked {
		return nil, nil, fmt.Errorf("%s is bigger than %d MiB", file, maxRevoked>>20)
	}
	return parseRevoked(file, data)
}

func parseRevoked(file string, data []byte) (known, krl, error) {
	if bytes.HasPrefix(data, []byte(krlMagic)) {
		list, err := parseKRL(data)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		return nil, list, nil
	}
	var k known
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		_, _, keyType, blob, ok := splitKnown(append([]byte("* "), line...))
		var head struct {
			Type string
			Rest []byte `ssh:"rest"`
		}
		if !ok || ssh.Unmarshal(blob, &head) != nil || head.Type != keyType {
			return nil, nil, fmt.Errorf("%s:%d: not a public key", file, n)
		}
		key, err := ssh.ParsePublicKey(blob)
		switch {
		case unknownType(err):
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("%s:%d: not a public key", file, n)
		}
		if cert, ok := key.(*ssh.Certificate); ok { // it stands for its key
			key = cert.Key
		}
		k = append(k, knownLine{file: file, line: n, marker: "@revoked", key: key})
	}
	return k, nil, nil
}

// algorithms orders what we offer as OpenSSH does (sshconnect2.c: order_hostkeyalgs): the types that are known
// first, the others after them, so that a host whose key changed its type is told apart from one that has no
// algorithm in common.
func (h *hostKeys) algorithms(offer []string) []string {
	lines := h.known
	if len(lines.with("")) == 0 {
		lines = h.plain
	}
	authority := len(h.known.with("@cert-authority"))+len(h.plain.with("@cert-authority")) > 0
	plainKnown := func(a string) bool {
		return slices.ContainsFunc(lines, func(l knownLine) bool { return l.marker == "" && l.key.Type() == plainType(a) })
	}
	if !authority && len(offer) > 0 && plainKnown(offer[0]) {
		return offer // the best one is known: nothing to prefer
	}
	var first, rest []string
	for _, a := range offer {
		if strings.Contains(a, "-cert-v01@") && authority || plainKnown(a) {
			first = append(first, a)
		} else {
			rest = append(rest, a)
		}
	}
	return append(first, rest...)
}

// plainType is the type of the key behind a signature algorithm, without a certificate around it.
func plainType(algorithm string) string {
	a := withoutCert(algorithm)
	if a == ssh.KeyAlgoRSASHA256 || a == ssh.KeyAlgoRSASHA512 {
		return ssh.KeyAlgoRSA
	}
	return a
}

// withoutCert is the algorithm that a certificate's algorithm signs with: "ssh-ed25519" of
// "ssh-ed25519-cert-v01@openssh.com".
func withoutCert(algorithm string) string {
	a, ok := strings.CutSuffix(algorithm, "-cert-v01@openssh.com")
	if ok && strings.HasPrefix(a, "sk-") {
		a += "@openssh.com"
	}
	return a
}

// done reports whether a key was accepted: the handshake has come that far.
func (h *hostKeys) done() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.accepted != nil
}

// check is the callback of the key exchange, after the server has proved that the key is its own. It runs again
// with every new key exchange of the connection.
func (h *hostKeys) check(_ string, at net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.accepted != nil {
		if bytes.Equal(h.accepted, key.Marshal()) {
			return nil
		}
		return errors.New("the host showed another key in the middle of the connection")
	}
	var err error
	if h.isHere(at) {
		err = h.isRevoked(key, h.revoked) // what known_hosts says does not matter
	} else {
		err = h.judge(key)
	}
	var unknown *UnknownHostKeyError
	if h.acceptNew && errors.As(err, &unknown) {
		err = Trust(unknown)
	}
	if err == nil {
		h.accepted = key.Marshal()
	}
	return err
}

// isHere reports whether ssh_config wants no check because the host is this machine (NoHostAuthenticationForLocalhost;
// sshconnect.c: verify_host_key, check_host_key).
func (h *hostKeys) isHere(at net.Addr) bool {
	a, ok := at.(*net.TCPAddr)
	return ok && h.target.NoHostAuthLocalhost && h.target.HostKeyAlias == "" && a.IP.IsLoopback()
}

func (h *hostKeys) judge(key ssh.PublicKey) error {
	if err := h.isRevoked(key, h.known.with("@revoked"), h.plain.with("@revoked"), h.revoked); err != nil {
		return err
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		if h.vouched(cert) {
			return nil
		}
		key = cert.Key // without an authority that vouches, the plain key decides
	}
	keys := h.known.with("")
	if keys.find(key) != nil {
		return nil
	}
	if len(keys) > 0 {
		return h.changed(keys, key)
	}
	if h.plain.with("").find(key) != nil {
		return nil
	}
	return h.unknown(key)
}

// isRevoked looks for a key, and for those inside a certificate, among revoked ones and in the key revocation list.
func (h *hostKeys) isRevoked(key ssh.PublicKey, sets ...known) error {
	keys := []ssh.PublicKey{key}
	if cert, ok := key.(*ssh.Certificate); ok {
		keys = append(keys, cert.Key, cert.SignatureKey)
	}
	for _, set := range sets {
		for _, k := range keys {
			if l := set.find(k); l != nil {
				return &RevokedHostKeyError{Host: h.target.Host, Fingerprint: ssh.FingerprintSHA256(k), File: l.file, Line: l.line}
			}
		}
	}
	if k := h.krl.find(key); k != nil {
		return &RevokedHostKeyError{Host: h.target.Host, Fingerprint: ssh.FingerprintSHA256(k), File: h.target.RevokedHostKeys}
	}
	return nil
}

// vouched says whether a certificate is good for this host and signed by an authority that known_hosts names for it.
// A signature with SHA-1 does not count, as in OpenSSH's CASignatureAlgorithms.
func (h *hostKeys) vouched(cert *ssh.Certificate) bool {
	authority := h.known.with("@cert-authority").find(cert.SignatureKey)
	if authority == nil {
		authority = h.plain.with("@cert-authority").find(cert.SignatureKey)
	}
	if authority == nil || cert.CertType != ssh.HostCert || cert.Signature == nil || cert.Signature.Format == ssh.KeyAlgoRSA {
		return false
	}
	name := h.target.HostKeyAlias
	if name == "" {
		name = h.target.HostName
	}
	name = strings.ToLower(name)
	i := slices.IndexFunc(cert.ValidPrincipals, func(p string) bool { return wildcard(strings.ToLower(p), name) })
	return i >= 0 && new(ssh.CertChecker).CheckCert(cert.ValidPrincipals[i], cert) == nil
}

func (h *hostKeys) changed(keys known, key ssh.PublicKey) error {
	was := keys[0]
	for _, l := range keys { // best the one of the same type
		if l.key.Type() == key.Type() {
			was = l
			break
		}
	}
	return &ChangedHostKeyError{
		Host: h.target.Host, Known: ssh.FingerprintSHA256(was.key), Offered: ssh.FingerprintSHA256(key),
		File: was.file, Line: was.line, KeygenArg: keygenArg(h.target.knownName(), was.file),
	}
}

// keygenArg is what to give to ssh-keygen -R, ready to paste into a shell.
func keygenArg(name, file string) string {
	arg := shellWord(name)
	if home, err := os.UserHomeDir(); err != nil || file != filepath.Join(home, ".ssh", "known_hosts") {
		arg += " -f " + shellWord(file)
	}
	return arg
}

// shellWord quotes a word for a POSIX shell if it has to be.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("@%+=:,./_-", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (h *hostKeys) unknown(key ssh.PublicKey) error {
	e := &UnknownHostKeyError{
		Host: h.target.Host, Address: h.target.Addr(), Name: h.target.knownName(), KeyType: shortType(key.Type()), Fingerprint: ssh.FingerprintSHA256(key),
		Key: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), Hash: h.target.HashKnownHosts,
		Strict: h.target.StrictHostKeyChecking == "yes",
	}
	if len(h.target.UserKnownHostsFiles) > 0 {
		e.File = h.target.UserKnownHostsFiles[0]
	}
	return e
}

// shortType is how people call a type of key: "ED25519".
func shortType(t string) string {
	switch {
	case t == ssh.KeyAlgoRSA:
		return "RSA"
	case strings.HasPrefix(t, "ecdsa-"):
		return "ECDSA"
	case strings.HasPrefix(t, "ssh-"):
		return strings.ToUpper(strings.TrimPrefix(t, "ssh-"))
	}
	return t
}
