package tunnel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"rlca/internal/peer"
)

// needKeygen is the ssh-keygen that lies beside ssh.
func needKeygen(t testing.TB) string {
	t.Helper()
	keygen := filepath.Join(filepath.Dir(peer.Need(t, "ssh")), "ssh-keygen")
	if _, err := os.Stat(keygen); err != nil {
		t.Skip("no ssh-keygen beside ssh")
	}
	return keygen
}

// krlString is a string of bytes with its length before it.
func krlString(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// krlPart is a section, or a part of one: its kind, and what is in it.
func krlPart(kind byte, data ...[]byte) []byte {
	return append([]byte{kind}, krlString(slices.Concat(data...))...)
}

// krlOf is a list with these sections.
func krlOf(sections ...[]byte) []byte {
	head := append([]byte(krlMagic), 0, 0, 0, 1)
	head = append(head, make([]byte, 3*8)...)
	return slices.Concat(head, krlString(nil), krlString([]byte("a comment")), slices.Concat(sections...))
}

// krlCerts is a section on the certificates of an authority; nil means all.
func krlCerts(ca ssh.PublicKey, parts ...[]byte) []byte {
	var blob []byte
	if ca != nil {
		blob = ca.Marshal()
	}
	return krlPart(krlCertificates, krlString(blob), krlString(nil), slices.Concat(parts...))
}

func krlInts(n ...uint64) (b []byte) {
	for _, n := range n {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// krlKinds are the kinds of sections and parts in a list.
func krlKinds(t *testing.T, list []byte) map[byte]bool {
	t.Helper()
	kinds := map[byte]bool{}
	r := &krlReader{rest: list}
	r.bytes(8 + 4 + 3*8)
	r.string()
	r.string()
	for r.more() {
		kind, sect := r.byte(), r.section()
		kinds[kind] = true
		if kind == krlCertificates {
			sect.string()
			sect.string()
			for sect.more() {
				kinds[sect.byte()] = true
				sect.section()
			}
		}
	}
	if r.err != nil {
		t.Fatalf("the list cannot be taken apart: %v", r.err)
	}
	return kinds
}

// TestKRLAgainstKeygen lets ssh-keygen write lists, and asks it and us about the same keys.
func TestKRLAgainstKeygen(t *testing.T) {
	keygen := needKeygen(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := newSigner(t).PublicKey(), ecdsaSigner(t).PublicKey()
	c := parse(t, rsaText)
	ca, ca2 := newSigner(t), ecdsaSigner(t)
	subjects := map[string]ssh.PublicKey{"a": a, "b": b, "c": c, "ca": ca.PublicKey(), "ca2": ca2.PublicKey()}
	for _, signer := range []ssh.Signer{ca, ca2} {
		name := map[bool]string{true: "ca", false: "ca2"}[signer == ca]
		for _, serial := range []uint64{0, 1, 5, 6, 9, 10, 15, 20, 21, 101, 102, 103, 299, 300, 1 << 40, 1<<64 - 1} {
			id := fmt.Sprintf("host-%d", serial)
			subjects[fmt.Sprintf("%s-%d", name, serial)] = certFor(t, signer, newSigner(t).PublicKey(), func(c *ssh.Certificate) { c.Serial, c.KeyId = serial, id }, "box")
		}
	}
	subjects["ca-a"] = certFor(t, ca, a, func(c *ssh.Certificate) { c.Serial = 77 }, "box")
	var names, files []string
	for name := range subjects {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		files = append(files, write(name+".pub", keyText(subjects[name])+"\n"))
	}
	file := func(name string) string { return filepath.Join(dir, name+".pub") }

	odd := ""
	for n := 101; n < 400; n += 2 {
		odd += fmt.Sprintf("serial: %d\n", n)
	}
	spread := ""
	for n := uint64(1); n < 1<<50; n *= 32 {
		spread += fmt.Sprintf("serial: %d\n", n)
	}
	sum := sha256.Sum256(b.Marshal())
	seen := map[byte]bool{}
	for name, l := range map[string][]struct {
		ca   string   // -s; none means every authority
		spec string   // as ssh-keygen reads it
		args []string // or files of keys and certificates
	}{
		"empty":              {{}},
		"a key file":         {{args: []string{file("a")}}},
		"two of three":       {{args: []string{file("b"), file("c")}}},
		"a certificate":      {{ca: "ca", args: []string{file("ca-5")}}},
		"without a serial":   {{ca: "ca", args: []string{file("ca-0")}}},
		"an authority":       {{args: []string{file("ca")}}},
		"key":                {{spec: "key: " + keyText(a) + "\n# not this one: " + keyText(b) + "\n"}},
		"sha1":               {{spec: "sha1: " + keyText(a) + "\nsha1: " + keyText(c)}},
		"sha256":             {{spec: "sha256: " + keyText(a) + "\nsha256: " + keyText(ca2.PublicKey())}},
		"hash":               {{spec: "hash: SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])}},
		"serial":             {{ca: "ca", spec: "serial: 5\n"}},
		"serials":            {{ca: "ca", spec: "serial: 5\nserial: 10\nserial: 1099511627776\nserial: 18446744073709551615\n"}},
		"serials far apart":  {{ca: "ca", spec: spread}},
		"range":              {{ca: "ca2", spec: "serial: 10-20\n"}},
		"all serials":        {{ca: "ca", spec: "serial: 1-18446744073709551615\n"}},
		"bitmap":             {{ca: "ca", spec: odd}},
		"bitmap and range":   {{ca: "ca", spec: odd + "serial: 5-10\nserial: 1000-1099511627776\n"}},
		"id":                 {{ca: "ca", spec: "id: host-5\nid: host-0\n"}},
		"id of all":          {{ca: "none", spec: "id: host-5\nid: host-0\nid: host-1\n"}},
		"serial of all":      {{ca: "none", spec: "serial: 5-6\n" + odd}},
		"two authorities":    {{ca: "ca", spec: "serial: 5\nid: host-300\n"}, {ca: "ca2", spec: odd}, {ca: "none", spec: "id: host-9\n"}},
		"everything at once": {{ca: "ca", spec: odd + "serial: 5-9\nserial: 20\nid: host-0\nkey: " + keyText(b) + "\nsha1: " + keyText(c) + "\nsha256: " + keyText(a) + "\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "krl")
			for i, step := range l {
				args := []string{"-q", "-k", "-f", list}
				if i > 0 {
					args = append(args, "-u")
				}
				switch step.ca {
				case "":
				case "none":
					args = append(args, "-s", "none")
				default:
					args = append(args, "-s", file(step.ca))
				}
				if step.spec != "" {
					args = append(args, writeFile(t, "spec", step.spec))
				}
				if out, err := exec.Command(keygen, append(args, step.args...)...).CombinedOutput(); err != nil {
					t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
				}
			}
			data, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			for kind := range krlKinds(t, data) {
				seen[kind] = true
			}
			k, err := parseKRL(data)
			if err != nil {
				t.Fatalf("parseKRL: %v", err)
			}
			out, _ := exec.Command(keygen, append([]string{"-Q", "-f", list}, files...)...).CombinedOutput()
			revoked := 0
			for i, name := range names {
				want := ""
				for line := range strings.Lines(string(out)) {
					if strings.HasPrefix(line, files[i]) {
						want = strings.TrimSpace(line[strings.LastIndex(line, ": ")+2:])
					}
				}
				got := "ok"
				if k.find(subjects[name]) != nil {
					got = "REVOKED"
					revoked++
				}
				if got != want {
					t.Errorf("%s: ssh-keygen says %q, we say %q", name, want, got)
				}
			}
			if (revoked == 0) != (name == "empty") {
				t.Errorf("%d of %d keys are revoked", revoked, len(names))
			}
		})
	}
	for _, kind := range []byte{krlCertificates, krlKeys, krlSHA1, krlSHA256, krlSerials, krlSerialRange, krlSerialBitmap, krlKeyIDs} {
		if !seen[kind] {
			t.Errorf("no list had a section of kind 0x%02x", kind)
		}
	}
}

// krlTable are lists that can be read and lists that cannot. since is the minor version of OpenSSH 9 that says the
// same; 99 means that none does.
func krlTable(t testing.TB) map[string]struct {
	list  []byte
	want  string // of the error; empty means that there is none
	since int
} {
	key, ca := newSigner(t).PublicKey(), newSigner(t).PublicKey()
	type row = struct {
		list  []byte
		want  string
		since int
	}
	ext := func(critical byte) [][]byte {
		return [][]byte{krlString([]byte("new\x1b@example.com")), {critical}, krlString([]byte("x"))}
	}
	bits := func(lo uint64, bitmap ...byte) []byte {
		return krlOf(krlCerts(ca, krlPart(krlSerialBitmap, krlInts(lo), krlString(bitmap))))
	}
	short := krlString([]byte(ssh.KeyAlgoED25519))
	return map[string]row{
		"empty":                       {krlOf(), "", 0},
		"only the magic":              {[]byte(krlMagic), "cut short", 0},
		"another format":              {append([]byte(krlMagic), krlOf()[8:11]...), "cut short", 0},
		"format 2":                    {slices.Concat([]byte(krlMagic), []byte{0, 0, 0, 2}, krlOf()[12:]), "format 2", 0},
		"a zero in the comment":       {slices.Concat(krlOf()[:40], krlString([]byte("a\x00b"))), "damaged", 0},
		"a zero ends the comment":     {slices.Concat(krlOf()[:40], krlString([]byte("ab\x00"))), "", 0},
		"keys":                        {krlOf(krlPart(krlKeys, krlString(key.Marshal()), krlString(nil))), "", 0},
		"no keys":                     {krlOf(krlPart(krlKeys)), "", 0},
		"half a key":                  {krlOf(krlPart(krlKeys, krlString(key.Marshal())[:20])), "cut short", 0},
		"a huge length":               {krlOf(krlPart(krlKeys, []byte{0xff, 0xff, 0xff, 0xff})), "cut short", 0},
		"a huge section":              {append(krlOf(), krlKeys, 0xff, 0xff, 0xff, 0xff, 0), "cut short", 0},
		"a section without a length":  {append(krlOf(), krlKeys, 0), "cut short", 0},
		"a hash":                      {krlOf(krlPart(krlSHA1, krlString(make([]byte, sha1.Size))), krlPart(krlSHA256, krlString(make([]byte, sha256.Size)))), "", 0},
		"a short hash":                {krlOf(krlPart(krlSHA1, krlString(make([]byte, sha1.Size-1)))), "damaged", 0},
		"a long hash":                 {krlOf(krlPart(krlSHA256, krlString(make([]byte, sha256.Size+1)))), "damaged", 0},
		"an unknown section":          {krlOf(krlPart(9)), "section 9,", 0},
		"a signature":                 {krlOf(krlPart(krlSignature, key.Marshal()), krlString([]byte("signature"))), "signed", 99},
		"an extension":                {krlOf(krlPart(krlExtension, ext(0)...)), "", 4},
		"a critical extension":        {krlOf(krlPart(krlExtension, ext(1)...)), `"new@example.com"`, 0},
		"critical, as any number":     {krlOf(krlPart(krlExtension, ext(0x80)...)), `"new@example.com"`, 0},
		"more than an extension":      {krlOf(krlPart(krlExtension, append(ext(0), []byte{0})...)), "damaged", 0},
		"half an extension":           {krlOf(krlPart(krlExtension, ext(0)[:2]...)), "cut short", 0},
		"certificates":                {krlOf(krlCerts(ca), krlCerts(nil)), "", 0},
		"certificates, no authority":  {krlOf(krlPart(krlCertificates)), "cut short", 0},
		"certificates, half a header": {krlOf(krlPart(krlCertificates, krlString(nil))), "cut short", 0},
		"a damaged authority":         {krlOf(krlPart(krlCertificates, krlString(short), krlString(nil))), "authority", 0},
		"an authority of tomorrow":    {krlOf(krlPart(krlCertificates, krlString(krlString([]byte("ssh-what"))), krlString(nil), krlPart(krlSerials, krlInts(1)))), "", 99},
		"serials":                     {krlOf(krlCerts(ca, krlPart(krlSerials, krlInts(1, 2, 1<<64-1)))), "", 0},
		"no serials":                  {krlOf(krlCerts(ca, krlPart(krlSerials))), "", 0},
		"half a serial":               {krlOf(krlCerts(ca, krlPart(krlSerials, krlInts(1, 2)[:12]))), "cut short", 0},
		"serial 0":                    {krlOf(krlCerts(ca, krlPart(krlSerials, krlInts(1, 0)))), "damaged", 0},
		"a range":                     {krlOf(krlCerts(ca, krlPart(krlSerialRange, krlInts(1, 1)))), "", 0},
		"a range from 0":              {krlOf(krlCerts(ca, krlPart(krlSerialRange, krlInts(0, 1)))), "damaged", 0},
		"a range backwards":           {krlOf(krlCerts(ca, krlPart(krlSerialRange, krlInts(2, 1)))), "damaged", 0},
		"half a range":                {krlOf(krlCerts(ca, krlPart(krlSerialRange, krlInts(2)))), "cut short", 0},
		"more than a range":           {krlOf(krlCerts(ca, krlPart(krlSerialRange, krlInts(1, 2, 3)))), "damaged", 0},
		"a bitmap":                    {bits(0, 0, 0xfe), "", 0},
		"a bitmap with 0":             {bits(0, 1), "damaged", 0},
		"an empty bitmap":             {bits(5), "", 0},
		"a bitmap of zeros":           {bits(5, 0, 0, 0), "", 0},
		"a negative bitmap":           {bits(5, 0x80), "damaged", 0},
		"a bitmap to the last":        {bits(1<<64-8, 0, 0x80), "", 0},
		"a bitmap beyond the last":    {bits(1<<64-7, 0, 0x80), "damaged", 0},
		"the largest bitmap":          {bits(1, append([]byte{0, 0xff}, make([]byte, maxBitmap-1)...)...), "", 0},
		"too large a bitmap":          {bits(1, append([]byte{1}, make([]byte, maxBitmap)...)...), "damaged", 0},
		"a bitmap without a number":   {krlOf(krlCerts(ca, krlPart(krlSerialBitmap, krlInts(1)))), "cut short", 0},
		"ids":                         {krlOf(krlCerts(ca, krlPart(krlKeyIDs, krlString([]byte("x")), krlString(nil)))), "", 0},
		"a zero in an id":             {krlOf(krlCerts(ca, krlPart(krlKeyIDs, krlString([]byte("x\x00y"))))), "damaged", 0},
		"a certificate extension":     {krlOf(krlCerts(ca, krlPart(krlCertExtension, ext(0)...))), "", 4},
		"a critical one":              {krlOf(krlCerts(ca, krlPart(krlCertExtension, ext(1)...))), `"new@example.com"`, 0},
		"an unknown part":             {krlOf(krlCerts(ca, krlPart(0x24))), "section 0x24 on", 0},
		"an error after the key":      {krlOf(krlPart(krlKeys, krlString(key.Marshal())), krlPart(9)), "section 9,", 0},
	}
}

func TestKRLTable(t *testing.T) {
	for name, c := range krlTable(t) {
		_, err := parseKRL(c.list)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: parseKRL = %v, want %q", name, err, c.want)
		}
		if err != nil && clean(err.Error()) != err.Error() {
			t.Errorf("%s: the error has control characters: %q", name, err)
		}
	}
}

// TestKRLDamage holds parseKRL against ssh-keygen, on the lists of the table and on what is left of a list when it is
// cut or a byte of it changes.
func TestKRLDamage(t *testing.T) {
	keygen := needKeygen(t)
	if testing.Short() {
		t.Skip("runs ssh-keygen hundreds of times")
	}
	version, _ := exec.Command(peer.Need(t, "ssh"), "-V").CombinedOutput()
	var major, minor int
	fmt.Sscanf(string(version), "OpenSSH_%d.%d", &major, &minor)
	if major > 9 {
		minor = 90
	}
	pub := writeFile(t, "key.pub", keyText(newSigner(t).PublicKey())+"\n")
	file := filepath.Join(t.TempDir(), "krl")
	keygenReads := func(list []byte) bool {
		os.WriteFile(file, list, 0o600)
		err := exec.Command(keygen, "-Q", "-f", file, pub).Run()
		var exit *exec.ExitError
		return err == nil || errors.As(err, &exit) && exit.ExitCode() == 1 // 1 is revoked
	}
	for name, c := range krlTable(t) {
		if minor < c.since {
			continue
		}
		if want := keygenReads(c.list); want != (c.want == "") {
			t.Errorf("%s: ssh-keygen reads it: %v", name, want)
		}
	}
	ca := newSigner(t).PublicKey()
	list := krlOf(
		krlCerts(ca, krlPart(krlSerials, krlInts(1, 7)), krlPart(krlSerialRange, krlInts(10, 20)), krlPart(krlSerialBitmap, krlInts(100), krlString([]byte{0x55, 0x55})), krlPart(krlKeyIDs, krlString([]byte("id")))),
		krlPart(krlSHA256, krlString(make([]byte, 32))), krlPart(krlSHA1, krlString(make([]byte, 20))), krlPart(krlKeys, krlString([]byte("key"))))
	authority := bytes.Index(list, ca.Marshal())
	check := func(what string, list []byte) {
		if _, err := parseKRL(list); (err == nil) != keygenReads(list) {
			t.Errorf("%s: we say %v, ssh-keygen reads it: %v", what, err, err != nil)
		}
	}
	for n := 8; n < len(list); n++ {
		check(fmt.Sprintf("the first %d of %d bytes", n, len(list)), list[:n])
		if n >= authority && n < authority+len(ca.Marshal()) {
			continue // what makes a key is the library's to say
		}
		changed := slices.Clone(list)
		b := make([]byte, 1)
		rand.Read(b)
		changed[n] = b[0]
		if minor < 4 && (b[0] == krlExtension || b[0] == krlCertExtension) || b[0] == krlSignature {
			continue
		}
		check(fmt.Sprintf("byte %d is %#x", n, b[0]), changed)
	}
}

func TestRevokedHostKeysBinary(t *testing.T) {
	ca, key := newSigner(t), newSigner(t).PublicKey()
	cert := certFor(t, ca, key, func(c *ssh.Certificate) { c.Serial, c.KeyId = 7, "box 7" }, "spark")
	known := writeFile(t, "kh", "@cert-authority spark "+keyText(ca.PublicKey())+"\nspark "+keyText(key))
	sum := sha1.Sum(key.Marshal())
	for name, c := range map[string]struct {
		list      []byte
		key, cert ssh.PublicKey // what is revoked when the host shows this; nil means that it is accepted
	}{
		"nothing":         {krlOf(), nil, nil},
		"another key":     {krlOf(krlPart(krlKeys, krlString(newSigner(t).PublicKey().Marshal()))), nil, nil},
		"the key":         {krlOf(krlPart(krlKeys, krlString(key.Marshal()))), key, cert},
		"its hash":        {krlOf(krlPart(krlSHA1, krlString(sum[:]))), key, cert},
		"the authority":   {krlOf(krlPart(krlKeys, krlString(ca.PublicKey().Marshal()))), nil, ca.PublicKey()},
		"the serial":      {krlOf(krlCerts(ca.PublicKey(), krlPart(krlSerials, krlInts(7)))), nil, cert},
		"of another":      {krlOf(krlCerts(newSigner(t).PublicKey(), krlPart(krlSerials, krlInts(7)))), nil, nil},
		"the id, for all": {krlOf(krlCerts(nil, krlPart(krlKeyIDs, krlString([]byte("box 7"))))), nil, cert},
		"a zero after it": {krlOf(krlCerts(nil, krlPart(krlKeyIDs, krlString([]byte("box 7\x00"))))), nil, cert},
	} {
		file := writeFile(t, "krl", string(c.list))
		h, err := newHostKeys(&Target{Host: "spark", HostName: "spark", Port: 22, UserKnownHostsFiles: []string{known}, RevokedHostKeys: file}, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, shown := range []ssh.PublicKey{key, cert} {
			want := []ssh.PublicKey{c.key, c.cert}[i]
			err := h.judge(shown)
			var revoked *RevokedHostKeyError
			switch {
			case want == nil && err != nil:
				t.Errorf("%s: judge(%s) = %v, want it accepted", name, shown.Type(), err)
			case want != nil && (!errors.As(err, &revoked) || revoked.File != file || revoked.Line != 0 || revoked.Host != "spark" || revoked.Fingerprint != ssh.FingerprintSHA256(want) || !Final(err)):
				t.Errorf("%s: judge(%s) = %#v, want %s revoked in %s", name, shown.Type(), err, ssh.FingerprintSHA256(want), file)
			}
		}
	}
}

func TestDialRevokedBinary(t *testing.T) {
	s := new(server).start(t)
	target := s.target(t)
	target.RevokedHostKeys = writeFile(t, "krl", string(krlOf(krlPart(krlKeys, krlString(s.keys[0].PublicKey().Marshal())))))
	if _, err := new(Dialer).Dial(t.Context(), target); !as[*RevokedHostKeyError](err) || !Final(err) {
		t.Errorf("Dial = %v, want a RevokedHostKeyError", err)
	}
	target.RevokedHostKeys = writeFile(t, "krl", string(krlOf()[:20]))
	if _, err := new(Dialer).Dial(t.Context(), target); !as[*ConfigError](err) || !strings.Contains(err.Error(), "krl: the key revocation list is cut short") {
		t.Errorf("Dial = %v, want a ConfigError that names the file", err)
	}
}

// TestRevokedTextDifferential asks ssh itself, list by list, whether it would log in.
func TestRevokedTextDifferential(t *testing.T) {
	program := peer.Need(t, "ssh")
	if testing.Short() {
		t.Skip("runs ssh a dozen times")
	}
	s := peer.StartSSHD(t)
	data, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	cert := certFor(t, newSigner(t), parse(t, key), nil, "x")
	for name, text := range map[string]string{
		"empty":              "",
		"comments and blank": "# x\n\n   \n\t# y\n",
		"the key":            "KEY\n",
		"no newline":         "KEY",
		"a comment after it": "# x\n  KEY root@box\n",
		"another key":        "OTHER\n" + rsaText + "\n" + ecdsaText + "\n",
		"crlf":               "OTHER\r\nKEY\r\n",
		"junk":               "junk\n",
		"junk, a second":     "OTHER\njunk junk\n",
		"junk, then the key": "junk\nKEY\n",
		"a damaged key":      "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==\n",
		"the wrong type":     "ssh-rsa " + strings.Fields(key)[1] + "\n",
		"a host before it":   "box OTHER\n",
		"a marker before it": "@revoked * OTHER\n",
		"options before it":  "no-pty OTHER\n",
		"a certificate":      keyText(cert) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, "revoked", strings.NewReplacer("KEY", key, "OTHER", keyText(newSigner(t).PublicKey())).Replace(text))
			out, err := exec.Command(program, "-F", s.Config, "-o", "RevokedHostKeys="+file, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "box", "true").CombinedOutput()
			want := "ok"
			switch {
			case err == nil:
			case strings.Contains(string(out), "revoked by file"):
				want = "revoked"
			case strings.Contains(string(out), "Error checking host key"):
				want = "unreadable"
			default:
				t.Fatalf("ssh: %v\n%s", err, out)
			}
			target := resolveBox(t, s, "none")
			target.RevokedHostKeys = file
			c, err := new(Dialer).Dial(t.Context(), target)
			got := fmt.Sprint(err)
			switch {
			case err == nil:
				got = "ok"
				c.Close()
			case as[*RevokedHostKeyError](err):
				got = "revoked"
			case as[*ConfigError](err):
				got = "unreadable"
			}
			if got != want {
				t.Errorf("ssh says %s, we say %s\n%s", want, got, out)
			}
		})
	}
}

// TestRevokedHere asks ssh what NoHostAuthenticationForLocalhost leaves of a revoked key: RevokedHostKeys counts, what
// known_hosts says does not.
func TestRevokedHere(t *testing.T) {
	program := peer.Need(t, "ssh")
	s := peer.StartSSHD(t)
	data, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	binary := krlOf(krlPart(krlKeys, krlString(parse(t, key).Marshal())))
	for name, c := range map[string]struct{ known, revoked string }{
		"unknown":                {"", ""},
		"changed":                {"* " + keyText(newSigner(t).PublicKey()), ""},
		"revoked in known_hosts": {"@revoked * " + key, ""},
		"revoked as text":        {"", key},
		"revoked in binary":      {"* " + key, string(binary)},
	} {
		known, revoked := writeFile(t, "kh", c.known+"\n"), writeFile(t, "revoked", c.revoked)
		out, err := exec.Command(program, "-F", s.Config, "-o", "NoHostAuthenticationForLocalhost=yes", "-o", "UserKnownHostsFile="+known, "-o", "RevokedHostKeys="+revoked,
			"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "box", "true").CombinedOutput()
		want := err == nil
		if !want && !strings.Contains(string(out), "revoked by file") {
			t.Fatalf("%s: ssh: %v\n%s", name, err, out)
		}
		target := resolveBox(t, s, "none")
		target.NoHostAuthLocalhost, target.UserKnownHostsFiles, target.RevokedHostKeys = true, []string{known}, revoked
		if err := login(t, new(Dialer), target); (err == nil) != want || err != nil && !as[*RevokedHostKeyError](err) {
			t.Errorf("%s: ssh logs in: %v; Dial = %v", name, want, err)
		}
	}
}

// TestRevokedUnknownType has a key of a type that only a newer OpenSSH knows: the rest of the list stands.
func TestRevokedUnknownType(t *testing.T) {
	key := newSigner(t).PublicKey()
	tomorrow := base64.StdEncoding.EncodeToString(krlString([]byte("ssh-mldsa44-ed25519@openssh.com")))
	file := writeFile(t, "revoked", "ssh-mldsa44-ed25519@openssh.com "+tomorrow+"\n"+keyText(key)+"\n")
	k, _, err := readRevoked(file)
	if err != nil || len(k) != 1 || k[0].line != 2 || !sameKey(k[0].key, key) {
		t.Errorf("readRevoked = %+v, %v, want the second line", k, err)
	}
}
