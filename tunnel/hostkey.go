package tunnel

import (
	"bytes"
	"errors"
	"fmt"
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
		if h.revoked, err = readRevoked(file); err != nil {
			return nil, &ConfigError{Host: t.Host, Msg: "RevokedHostKeys: " + err.Error()}
		}
	}
	return h, nil
}

// readRevoked reads a RevokedHostKeys file: one key a line. Its binary form is refused, because a list that is
// ignored protects nobody; so is one that cannot be read, as OpenSSH does.
func readRevoked(file string) (known, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("SSHKRL\n")) {
		return nil, fmt.Errorf("%s is a binary key revocation list, which is not supported yet: list the keys as text", file)
	}
	var k known
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if key, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil {
			k = append(k, knownLine{file: file, line: n, marker: "@revoked", key: key})
		}
	}
	return k, nil
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
func (h *hostKeys) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.accepted != nil {
		if bytes.Equal(h.accepted, key.Marshal()) {
			return nil
		}
		return errors.New("the host showed another key in the middle of the connection")
	}
	err := h.judge(key)
	var unknown *UnknownHostKeyError
	if h.acceptNew && errors.As(err, &unknown) {
		err = Trust(unknown)
	}
	if err == nil {
		h.accepted = key.Marshal()
	}
	return err
}

func (h *hostKeys) judge(key ssh.PublicKey) error {
	if err := h.isRevoked(key); err != nil {
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

// isRevoked looks for a key, and for those inside a certificate, among the revoked ones.
func (h *hostKeys) isRevoked(key ssh.PublicKey) error {
	keys := []ssh.PublicKey{key}
	if cert, ok := key.(*ssh.Certificate); ok {
		keys = append(keys, cert.Key, cert.SignatureKey)
	}
	for _, set := range []known{h.known.with("@revoked"), h.plain.with("@revoked"), h.revoked} {
		for _, k := range keys {
			if l := set.find(k); l != nil {
				return &RevokedHostKeyError{Host: h.target.Host, Fingerprint: ssh.FingerprintSHA256(k), File: l.file, Line: l.line}
			}
		}
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
