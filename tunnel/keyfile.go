package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"
)

// maxKeyFile is more than any key file has.
const maxKeyFile = 1 << 20

// keyFile is what an IdentityFile has for us.
type keyFile struct {
	path string
	pub  ssh.PublicKey       // nil if only the passphrase shows it
	key  ssh.AlgorithmSigner // nil if there is no private half, or it cannot be used
	// locked says that key is nil, or asks, because the private half is encrypted.
	locked bool
}

// unlock opens an encrypted key: it asks whoever can be asked.
type unlock func(path string) ([]byte, error)

// readKeyFile reads an IdentityFile. A nil file is one that is not there at all, as most of OpenSSH's defaults. A
// file may be of use although there is an error: an agent may hold the private half.
func readKeyFile(path string, ask unlock) (*keyFile, error) {
	k := &keyFile{path: path, pub: readPublic(path + ".pub")}
	data, err := readSmall(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if k.pub == nil {
			return nil, nil
		}
		return k, nil
	case err != nil:
		return k, err
	}
	if pub := parsePublic(data); pub != nil { // IdentityFile may name the public half
		k.pub = pub
		return k, nil
	}
	if err := onlyOurs(path); err != nil {
		return k, err
	}
	key, err := ssh.ParsePrivateKey(data)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		k.locked = true
		if missing.PublicKey != nil {
			k.pub = missing.PublicKey
		}
		if k.pub != nil { // the server is asked first whether it wants this key at all
			k.key = &lockedKey{path: path, data: data, pub: k.pub, ask: ask}
		}
		return k, nil
	case err != nil:
		return k, errors.New(clean(err.Error()))
	}
	as, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return k, fmt.Errorf("keys of type %s are not supported", clean(key.PublicKey().Type()))
	}
	k.pub, k.key = key.PublicKey(), as
	return k, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(data) > maxKeyFile {
		return nil, errors.New("too big for a key")
	}
	return data, nil
}

// bare takes the operation and the path off an error of package os.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func readPublic(path string) ssh.PublicKey {
	data, err := readSmall(path)
	if err != nil {
		return nil
	}
	return parsePublic(data)
}

// parsePublic reads the first line of a .pub file; nil if it is none.
func parsePublic(data []byte) ssh.PublicKey {
	line, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	if bytes.HasPrefix(line, []byte("-----")) {
		return nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil
	}
	return pub
}

// readCert reads a user certificate; nil if the file has none.
func readCert(path string) *ssh.Certificate {
	cert, ok := readPublic(path).(*ssh.Certificate)
	if !ok || cert.CertType != ssh.UserCert {
		return nil
	}
	return cert
}

// open is open for a key whose public half only the passphrase shows.
func (k *keyFile) open(ask unlock) (ssh.AlgorithmSigner, error) {
	data, err := readSmall(k.path)
	if err != nil {
		return nil, err
	}
	return decrypt(k.path, data, ask)
}

func decrypt(path string, data []byte, ask unlock) (ssh.AlgorithmSigner, error) {
	phrase, err := ask(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKeyWithPassphrase(data, phrase)
	if err != nil {
		return nil, &PassphraseError{File: path, Wrong: true}
	}
	as, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("keys of type %s are not supported", clean(key.PublicKey().Type()))
	}
	return as, nil
}

// lockedKey asks for the passphrase when a signature is wanted: only then is it known that the server takes the key.
type lockedKey struct {
	path string
	data []byte
	pub  ssh.PublicKey
	ask  unlock

	mu   sync.Mutex // guards what follows
	open ssh.AlgorithmSigner
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.pub }

func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil {
		open, err := decrypt(k.path, k.data, k.ask)
		if err != nil {
			return nil, err
		}
		k.open = open
	}
	return k.open.SignWithAlgorithm(rand, data, algorithm)
}
