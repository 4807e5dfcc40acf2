package box

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// KnownHostsLine is what known_hosts has to say of a server at addr, host:port, with a key; without a line break.
func KnownHostsLine(addr string, key ssh.PublicKey) string {
	return knownhosts.Line([]string{addr}, key)
}

// NewClientKey writes an OpenSSH private key for a client into dir, as id_ed25519, readable by its owner alone.
func NewClientKey(dir string) (path string, pub PublicKey, err error) {
	path = filepath.Join(dir, "id_ed25519")
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, fmt.Errorf("make a key for %s: %w", path, err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "rlca")
	if err != nil {
		return "", nil, fmt.Errorf("make a key for %s: %w", path, err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		return "", nil, fmt.Errorf("make a key for %s: %w", path, err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", nil, err
	}
	return path, signer.PublicKey(), nil
}
