package tunnel

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// FuzzKRL reads any bytes as a key revocation list: no panic, no more memory than a few times the list, and a list
// that was taken can be asked about anything.
func FuzzKRL(f *testing.F) {
	for _, row := range krlTable(f) {
		f.Add(row.list, uint64(7), "id")
	}
	ca, key := parse(f, ecdsaText), parse(f, rsaText)
	f.Add(krlOf(
		krlCerts(ca, krlPart(krlSerials, krlInts(1, 7)), krlPart(krlSerialRange, krlInts(10, 20)), krlPart(krlSerialBitmap, krlInts(100), krlString([]byte{0x55, 0x55})), krlPart(krlKeyIDs, krlString([]byte("id")))),
		krlCerts(nil, krlPart(krlKeyIDs, krlString([]byte("x\x00")))),
		krlPart(krlKeys, krlString(key.Marshal()))), uint64(100), "x")
	f.Fuzz(func(t *testing.T, list []byte, serial uint64, id string) {
		before := slices.Clone(list)
		var m1, m2 runtime.MemStats
		runtime.ReadMemStats(&m1)
		k, err := parseKRL(list)
		runtime.ReadMemStats(&m2)
		if used := m2.TotalAlloc - m1.TotalAlloc; used > 1<<20+uint64(len(list))*100 {
			t.Errorf("%d bytes take %d bytes to read", len(list), used)
		}
		if err != nil {
			if !printable(err.Error()) {
				t.Errorf("the error is not fit for a terminal: %q", err)
			}
			return
		}
		cert := &ssh.Certificate{Key: key, SignatureKey: ca, Serial: serial, KeyId: id}
		k.find(key)
		hit := k.find(cert)
		if _, err := k.scan(newSought(cert)); err != nil {
			t.Errorf("a list that was taken cannot be read: %v", err)
		}
		if plain := k.find(key); plain != nil && hit == nil {
			t.Error("a key is revoked, and its certificate is not")
		}
		if !bytes.Equal(list, before) {
			t.Error("the list was changed")
		}
	})
}

// FuzzRevoked reads any text as a RevokedHostKeys file: a line is a key that is revoked, nothing, or an error.
func FuzzRevoked(f *testing.F) {
	f.Add("# x\n\n" + rsaText + "\n" + ecdsaText + " comment\r\n")
	f.Add("ssh-what AAAACHNzaC13aGF0\n")
	f.Add("ssh-ed25519 AAAA")
	f.Add("* ssh-rsa AAAA\n\x00")
	f.Add(krlMagic)
	f.Fuzz(func(t *testing.T, text string) {
		k, _, err := parseRevoked("/revoked", []byte(text))
		if err != nil {
			if k != nil || !printable(err.Error()) {
				t.Errorf("%d keys and the error %q", len(k), err)
			}
			return
		}
		for _, l := range k {
			if l.key == nil || l.line < 1 || l.line > strings.Count(text, "\n")+1 {
				t.Errorf("parseRevoked gave %+v", l)
			}
		}
	})
}

// FuzzGreeting lets a server say anything at first: what is shown of it is one line that a terminal takes.
func FuzzGreeting(f *testing.F) {
	for _, s := range []string{
		"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "Exceeded MaxStartups\r\n", "Not allowed at this time\r\n", "HTTP/1.1 400 Bad\x1b[31m Request\r\n\r\n",
		"hello\nSSH-2.0-x\r\n", "\n\n\n", "\xff\xfe\u202e\u009b31m\n", "SSH-", "\nSSH-", strings.Repeat("ü", 300),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		w := &wire{head: said}
		line, isSSH := w.greeting()
		if !printable(line) || len(line) > 520 {
			t.Errorf("greeting = %q", line)
		}
		if isSSH && !bytes.Contains(said, []byte("SSH-")) || !isSSH && bytes.HasPrefix(said, []byte("SSH-")) {
			t.Errorf("%q is SSH: %v", said, isSSH)
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "two\r\n lines\t", "\x1b[31mred\x07\x00", "bidi \u202e", "\xff\xfe", "\u009b31m", strings.Repeat("ü", 10000), "x" + strings.Repeat("ü", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !printable(got) || !utf8.ValidString(got) || len(got) > 500+len("…") {
			t.Errorf("clean(%q) = %q", s, got)
		}
		if len(got) <= 500 && clean(got) != got {
			t.Errorf("clean(clean(%q)) = %q, want %q", s, clean(got), got)
		}
	})
}

// FuzzRefusal lets a server refuse a channel in any words.
func FuzzRefusal(f *testing.F) {
	for _, s := range []string{"Connection refused", "open failed", "", "\x1b[31mno\r\n", "\xff", "É"} {
		f.Add(uint32(2), s)
	}
	f.Add(uint32(1), "administratively prohibited")
	f.Fuzz(func(t *testing.T, why uint32, said string) {
		e := refusal("127.0.0.1:1", &ssh.OpenChannelError{Reason: ssh.RejectionReason(why), Message: said})
		if e.Reason == "" || !printable(e.Error()) || !utf8.ValidString(e.Error()) {
			t.Errorf("refusal(%d, %q) = %q", why, said, e)
		}
	})
}

// FuzzTokens takes what stands in a configuration apart: arguments, times, patterns, file names with tokens.
func FuzzTokens(f *testing.F) {
	for _, s := range [][2]string{
		{`a "b c" 'd' \e # f`, "spark"}, {"1h30m", "x"}, {"***?*!a,b", "aaab"}, {"~/%h/%%/${HOME}/${", "y"}, {"~nobody-here/x", ""}, {"%", "%"}, {"|1|", "\x00"},
	} {
		f.Add(s[0], s[1])
	}
	tokens := map[byte]string{'%': "%", 'h': "host"}
	f.Fuzz(func(t *testing.T, s, name string) {
		if args, err := splitArgs(s); err == nil && len(strings.Join(args, "")) > len(s) {
			t.Errorf("splitArgs(%q) = %q", s, args)
		}
		if d, ok := parseTime(s); ok && d < 0 {
			t.Errorf("parseTime(%q) = %v", s, d)
		}
		if !wildcard("*", name) || wildcard("*"+s, name) != wildcard("**"+s, name) || !strings.ContainsAny(s, "*?") && wildcard(s, name) != (s == name) {
			t.Errorf("wildcard is wrong about %q and %q", s, name)
		}
		namesHost(s, name)
		patternList(s, name)
		keyword(s)
		if !strings.HasPrefix(s, "~") || strings.HasPrefix(s, "~/") { // other users' homes are none of its business
			if out, problem := expandFile(s, "/h", tokens); problem != "" && (out != s || !printable(problem)) {
				t.Errorf("expandFile(%q) = %q, %q", s, out, problem)
			}
		}
		splitFiles(s, func(string) bool { return strings.HasSuffix(s, name) })
	})
}

// FuzzKeyFile reads any text as an IdentityFile with a public half and a certificate beside it.
func FuzzKeyFile(f *testing.F) {
	for _, phrase := range []string{"", "sesame"} {
		file, pub := writeKey(f, phrase)
		data, err := readSmall(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte(keyText(pub)+"\n"), []byte(""))
	}
	f.Add([]byte(rsaText), []byte(ecdsaText), []byte("ssh-rsa-cert-v01@openssh.com AAAA"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"), []byte("x"), []byte("\x00"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, key, pub, cert []byte) {
		path := filepath.Join(dir, "id")
		for name, data := range map[string][]byte{path: key, path + ".pub": pub, path + "-cert.pub": cert} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		readCert(path + "-cert.pub")
		asked := errors.New("nobody is here")
		k, err := readKeyFile(path, func(string) ([]byte, error) { return nil, asked })
		if err != nil && !printable(err.Error()) {
			t.Errorf("the error is not fit for a terminal: %q", err)
		}
		if k == nil {
			t.Fatal("a file that is there is nil")
		}
		if k.key != nil && !sameKey(k.key.PublicKey(), k.pub) {
			t.Errorf("two keys: %s and %s", keyText(k.key.PublicKey()), keyText(k.pub))
		}
	})
}
