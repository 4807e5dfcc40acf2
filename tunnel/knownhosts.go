package tunnel

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxKnownHosts bounds one file; a hundred thousand lines fit.
const maxKnownHosts = 64 << 20

// knownLine is one line of known_hosts that is about our host.
type knownLine struct {
	file   string
	line   int
	marker string // "", "@cert-authority", "@revoked"
	key    ssh.PublicKey
}

// known is what the known_hosts files say of one name.
type known []knownLine

// readKnown reads what files say of a name in lower case. As with OpenSSH, a file that is not there or cannot be read
// is empty, and a line that cannot be read, or whose key or marker is of a kind that we do not know, is passed over:
// nothing in a file can hide what the rest of it says.
func readKnown(files []string, name string) known {
	var k known
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(f, maxKnownHosts))
		f.Close()
		if err == nil {
			k = append(k, parseKnown(file, data, name)...)
		}
	}
	return k
}

// parseKnown finds the lines of one file that are about a name.
func parseKnown(file string, data []byte, name string) known {
	var k known
	n := 0
	for line := range bytes.Lines(data) {
		n++
		marker, hosts, keyType, blob, ok := splitKnown(line)
		if !ok || !namesHost(hosts, name) {
			continue
		}
		key, err := ssh.ParsePublicKey(blob)
		if err != nil || key.Type() != keyType {
			continue
		}
		k = append(k, knownLine{file: file, line: n, marker: marker, key: key})
	}
	return k
}

// splitKnown takes one line apart: [marker] hosts type base64 [comment].
func splitKnown(line []byte) (marker, hosts, keyType string, blob []byte, ok bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' {
		return
	}
	field := func() string {
		end := bytes.IndexAny(line, " \t")
		if end < 0 {
			end = len(line)
		}
		f := string(line[:end])
		line = bytes.TrimLeft(line[end:], " \t")
		return f
	}
	if line[0] == '@' {
		marker = field()
		if marker != "@cert-authority" && marker != "@revoked" {
			return
		}
	}
	hosts, keyType = field(), field()
	blob, err := base64.StdEncoding.DecodeString(field())
	return marker, hosts, keyType, blob, err == nil && len(blob) > 0
}

// namesHost matches the first field of a line: patterns with wildcards and negation, or one hashed name.
func namesHost(field, name string) bool {
	if !strings.HasPrefix(field, "|") {
		return listMatches(field, name)
	}
	parts := strings.Split(field, "|") // "", "1", salt, hash
	if len(parts) != 4 || parts[1] != "1" {
		return false
	}
	salt, err1 := base64.StdEncoding.DecodeString(parts[2])
	want, err2 := base64.StdEncoding.DecodeString(parts[3])
	return err1 == nil && err2 == nil && len(salt) == sha1.Size && hmac.Equal(hashName(salt, name), want)
}

// hashName hides a name as HashKnownHosts does (hostfile.c: host_hash). The format chose the hash.
func hashName(salt []byte, name string) []byte {
	h := hmac.New(sha1.New, salt)
	h.Write([]byte(name))
	return h.Sum(nil)
}

// with are the lines that have a marker.
func (k known) with(marker string) known {
	return slices.DeleteFunc(slices.Clone(k), func(l knownLine) bool { return l.marker != marker })
}

// find returns the line that has a key, or nil.
func (k known) find(key ssh.PublicKey) *knownLine {
	for i := range k {
		if sameKey(k[i].key, key) {
			return &k[i]
		}
	}
	return nil
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
