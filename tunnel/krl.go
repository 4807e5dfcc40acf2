package tunnel

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/crypto/ssh"
)

// krlMagic begins a binary key revocation list.
const krlMagic = "SSHKRL\n\x00"

// The kinds of sections, and of the parts of a section on certificates (PROTOCOL.krl §1 and §2).
const (
	krlCertificates = 1
	krlKeys         = 2
	krlSHA1         = 3
	krlSignature    = 4
	krlSHA256       = 5
	krlExtension    = 255

	krlSerials       = 0x20
	krlSerialRange   = 0x21
	krlSerialBitmap  = 0x22
	krlKeyIDs        = 0x23
	krlCertExtension = 0x39
)

// maxBitmap bounds a bitmap of serials in bytes, as OpenSSH does (sshbuf.h: SSHBUF_MAX_BIGNUM).
const maxBitmap = 2048

var (
	errKRLShort = errors.New("the key revocation list is cut short")
	errKRLBad   = errors.New("the key revocation list is damaged")
)

// krl is a binary key revocation list, as ssh-keygen -k writes it (OpenSSH's PROTOCOL.krl). It is read anew for each
// key that is looked for, in place: a connection asks two times, and a bitmap or a range taken apart would be many
// times its size.
type krl []byte

// parseKRL takes a list if all of it is understood: a list of which a part is left out protects nobody.
func parseKRL(data []byte) (krl, error) {
	if _, err := krl(data).scan(nil); err != nil {
		return nil, err
	}
	return krl(data), nil
}

// find returns the key that the list revokes, or nil: the key itself, or the one that signed it if it is a
// certificate. A certificate is revoked with its key, by its serial and by its key ID.
func (k krl) find(key ssh.PublicKey) ssh.PublicKey {
	if k == nil {
		return nil
	}
	keys := []ssh.PublicKey{key}
	if cert, ok := key.(*ssh.Certificate); ok {
		keys = append(keys, cert.SignatureKey)
	}
	for _, key := range keys {
		if hit, err := k.scan(newSought(key)); hit || err != nil { // no error: parseKRL has read it all
			return key
		}
	}
	return nil
}

// sought is a key that is looked for in a list. A nil one is never found.
type sought struct {
	blob   []byte // without the certificate around it
	sha1   [sha1.Size]byte
	sha256 [sha256.Size]byte

	cert      *ssh.Certificate // nil for a plain key
	authority []byte
	id        []byte
}

func newSought(key ssh.PublicKey) *sought {
	s := new(sought)
	if cert, ok := key.(*ssh.Certificate); ok {
		s.cert, s.authority, s.id = cert, cert.SignatureKey.Marshal(), cString([]byte(cert.KeyId))
		key = cert.Key
	}
	s.blob = key.Marshal()
	s.sha1, s.sha256 = sha1.Sum(s.blob), sha256.Sum256(s.blob)
	return s
}

// scan reads the list from its beginning to its end and reports whether it revokes a key (krl.c: ssh_krl_from_blob).
func (k krl) scan(s *sought) (hit bool, err error) {
	r := krlReader{rest: k}
	if !bytes.HasPrefix(k, []byte(krlMagic)) {
		return false, errKRLBad
	}
	r.bytes(len(krlMagic))
	if v := r.uint32(); r.err == nil && v != 1 {
		return false, fmt.Errorf("the key revocation list has format %d, which is not known", v)
	}
	r.bytes(3 * 8) // its version, its date, and flags that mean nothing yet
	r.string()     // reserved
	r.text()       // a comment
	for r.more() {
		kind := r.byte()
		sect := r.section()
		switch kind {
		case krlCertificates:
			hit = sect.certificates(s) || hit
		case krlKeys:
			for sect.more() {
				blob := sect.string()
				hit = hit || s != nil && sect.err == nil && bytes.Equal(blob, s.blob)
			}
		case krlSHA1:
			for sect.more() {
				sum := sect.hash(sha1.Size)
				hit = hit || s != nil && bytes.Equal(sum, s.sha1[:])
			}
		case krlSHA256:
			for sect.more() {
				sum := sect.hash(sha256.Size)
				hit = hit || s != nil && bytes.Equal(sum, s.sha256[:])
			}
		case krlExtension:
			sect.extension()
		case krlSignature: // PROTOCOL.krl §6: OpenSSH refuses it since 9.4, and never wrote one
			sect.fail(errors.New("the key revocation list is signed, which is not supported"))
		default:
			sect.fail(fmt.Errorf("the key revocation list has a section %d, which is not known", kind))
		}
		r.end(sect)
	}
	return hit, r.err
}

// certificates reads a section on the certificates of one authority, or of all if it names none
// (krl.c: parse_revoked_certs).
func (r *krlReader) certificates(s *sought) (hit bool) {
	authority := r.string()
	r.string() // reserved
	if r.err != nil {
		return false
	}
	if len(authority) > 0 {
		switch key, err := ssh.ParsePublicKey(authority); {
		case unknownType(err): // no certificate of such an authority is good for us anyway
		case err != nil:
			r.fail(errors.New("the key revocation list has the key of an authority that cannot be read"))
			return false
		default:
			authority = key.Marshal()
		}
	}
	if s != nil && (s.cert == nil || len(authority) > 0 && !bytes.Equal(authority, s.authority)) {
		s = nil // read only
	}
	for r.more() {
		kind := r.byte()
		part := r.section()
		switch kind {
		case krlSerials:
			for part.more() {
				serial := part.uint64()
				hit = part.serials(s, serial, serial) || hit
			}
		case krlSerialRange:
			hit = part.serials(s, part.uint64(), part.uint64()) || hit
		case krlSerialBitmap:
			hit = part.bitmap(s) || hit
		case krlKeyIDs:
			for part.more() {
				id := part.text()
				hit = hit || s != nil && part.err == nil && bytes.Equal(id, s.id)
			}
		case krlCertExtension:
			part.extension()
		default:
			part.fail(fmt.Errorf("the key revocation list has a section 0x%02x on certificates, which is not known", kind))
		}
		r.end(part)
	}
	return hit && r.err == nil
}

// serials reports whether a serial is from lo to hi. 0 is what an authority writes that does not number its
// certificates: it cannot be revoked.
func (r *krlReader) serials(s *sought, lo, hi uint64) bool {
	if r.err == nil && (lo == 0 || lo > hi) {
		r.fail(errKRLBad)
	}
	return r.err == nil && s != nil && s.cert.Serial >= lo && s.cert.Serial <= hi
}

// bitmap reads a bitmap of serials: bit n stands for lo+n.
func (r *krlReader) bitmap(s *sought) bool {
	lo := r.uint64()
	m := r.string()
	if r.err != nil {
		return false
	}
	if len(m) > 0 && m[0] >= 0x80 { // a negative number
		r.fail(errKRLBad)
		return false
	}
	m = bytes.TrimLeft(m, "\x00")
	if len(m) == 0 {
		return false
	}
	last := uint64(len(m)-1)*8 + uint64(bits.Len8(m[0])) - 1
	if len(m) > maxBitmap || lo+last < lo || lo == 0 && m[len(m)-1]&1 != 0 {
		r.fail(errKRLBad)
		return false
	}
	if s == nil || s.cert.Serial < lo || s.cert.Serial-lo > last {
		return false
	}
	n := s.cert.Serial - lo
	return m[len(m)-1-int(n/8)]>>(n%8)&1 != 0
}

// unknownType says that a public key was not read because its type is none of ours: the library has no error of its
// own for that.
func unknownType(err error) bool {
	return err != nil && strings.Contains(err.Error(), "unknown key algorithm")
}

// extension passes one over, unless it says that it must be understood: none is known.
func (r *krlReader) extension() {
	name := r.text()
	critical := r.byte()
	r.string()
	if r.err == nil && critical != 0 {
		r.fail(fmt.Errorf("the key revocation list needs the extension %q, which is not known", clean(string(name))))
	}
}

// krlReader takes a list apart from the front. After an error it reads nothing more.
type krlReader struct {
	rest []byte
	err  error
}

func (r *krlReader) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *krlReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// end takes over how the reading of a section went. One that has something left was not understood.
func (r *krlReader) end(sect *krlReader) {
	switch {
	case sect.err != nil:
		r.fail(sect.err)
	case len(sect.rest) > 0:
		r.fail(errKRLBad)
	}
}

// bytes are the next n, or nil.
func (r *krlReader) bytes(n int) []byte {
	if r.err == nil && n > len(r.rest) {
		r.err = errKRLShort
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *krlReader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *krlReader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *krlReader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// string is a string of bytes with its length before it.
func (r *krlReader) string() []byte {
	n := r.uint32()
	if r.err == nil && uint64(n) > uint64(len(r.rest)) {
		r.err = errKRLShort
	}
	if r.err != nil {
		return nil
	}
	return r.bytes(int(n))
}

// text is a string of C: a zero may only be its last byte (sshbuf-getput-basic.c: sshbuf_get_cstring).
func (r *krlReader) text() []byte {
	b := r.string()
	t := cString(b)
	if len(t)+1 < len(b) {
		r.fail(errKRLBad)
	}
	return t
}

// cString ends at the first zero.
func cString(b []byte) []byte {
	t, _, _ := bytes.Cut(b, []byte{0})
	return t
}

// hash is a string of a fixed length, or nil.
func (r *krlReader) hash(size int) []byte {
	b := r.string()
	if r.err == nil && len(b) != size {
		r.fail(errKRLBad)
	}
	if r.err != nil {
		return nil
	}
	return b
}

// section is a string with more in it.
func (r *krlReader) section() *krlReader {
	b := r.string()
	return &krlReader{rest: b, err: r.err}
}
