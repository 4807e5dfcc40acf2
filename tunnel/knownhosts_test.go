package tunnel

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"crypto/rand"
	"golang.org/x/crypto/ssh"

	"rlca/internal/peer"
)

// line is a key as known_hosts writes it, after the names.
func keyText(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }

func hashed(name string) string {
	salt := make([]byte, 20)
	for {
		rand.Read(salt)
		s := "|1|" + base64.StdEncoding.EncodeToString(salt) + "|" + base64.StdEncoding.EncodeToString(hashName(salt, name))
		// The tables put keys in place of words in capitals, which must not stand in the hash by chance.
		if !strings.Contains(s, "KEY") && !strings.Contains(s, "CA") && !strings.Contains(s, "OTHER") && !strings.Contains(s, "CERT") {
			return s
		}
	}
}

func TestNamesHost(t *testing.T) {
	for _, c := range []struct {
		field, name string
		want        bool
	}{
		{"spark", "spark", true},
		{"SPARK", "spark", true},
		{"spark,10.0.0.7", "10.0.0.7", true},
		{"spark", "spark2", false},
		{"*.local", "spark.local", true},
		{"sp?rk", "spark", true},
		{"spark?", "spark", false},
		{"*,!spark", "spark", false},
		{"!spark,*", "spark", false},
		{"*,!spark", "other", true},
		{"!spark", "other", false},
		{"[spark]:2222", "[spark]:2222", true},
		{"[*]:2222", "[spark]:2222", true},
		{"[spark]:2222", "spark", false},
		{hashed("spark"), "spark", true},
		{hashed("[spark]:2222"), "[spark]:2222", true},
		{hashed("other"), "spark", false},
		{"|2|x|y", "spark", false},
		{"|1|!!|y", "spark", false},
		{"|1|", "spark", false},
		{"|", "spark", false},
		{"", "spark", false},
		{",", "spark", false},
	} {
		if got := namesHost(c.field, c.name); got != c.want {
			t.Errorf("namesHost(%q, %q) = %v, want %v", c.field, c.name, got, c.want)
		}
	}
}

func TestParseKnown(t *testing.T) {
	a, b := newSigner(t).PublicKey(), newSigner(t).PublicKey()
	text := strings.Join([]string{
		"# a comment",
		"",
		"junk",
		"spark",
		"spark ssh-ed25519",
		"spark ssh-ed25519 !!!not-base64",
		"spark ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte("short")),
		"spark ssh-mldsa44-ed25519@openssh.com " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x04what")),
		"spark 1024 35 123456789012345678901234567890",   // SSH 1
		"spark ssh-rsa " + strings.Fields(keyText(a))[1], // the type does not fit the key
		"@unknown-marker spark " + keyText(b),
		"|2|abc|def " + keyText(b),
		"#" + strings.Repeat("x", 200<<10),
		"@revoked\tspark\t" + keyText(b) + "\r",
		"  @cert-authority  spark  " + keyText(b),
		"spark " + keyText(a) + " a comment with spaces",
	}, "\n") // no newline at the end
	got := parseKnown("kh", []byte(text), "spark")
	want := known{{"kh", 14, "@revoked", b}, {"kh", 15, "@cert-authority", b}, {"kh", 16, "", a}}
	if len(got) != len(want) {
		t.Fatalf("parseKnown found %d lines, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if got[i].line != want[i].line || got[i].marker != want[i].marker || !sameKey(got[i].key, want[i].key) {
			t.Errorf("line %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
	if k := readKnown([]string{"/no/such/file", t.TempDir()}, "spark"); len(k) != 0 {
		t.Errorf("a missing file and a folder gave %v", k)
	}
}

func FuzzParseKnown(f *testing.F) {
	_, pub := writeKey(f, "")
	f.Add([]byte("spark "+keyText(pub)+"\n"), "spark")
	f.Add([]byte("@revoked *,!x "+keyText(pub)), "y")
	f.Add([]byte("|1|2gKJ6s7RZlRzDqHdhBnSu7rTjPA=|xWD0s1wHd8gr2zQGrzRkqnHkKPw= ssh-ed25519 AAAA"), "[h]:1")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		for _, l := range parseKnown("f", data, name) {
			if l.key == nil || l.line < 1 {
				t.Errorf("parseKnown gave %+v", l)
			}
		}
	})
}

// certFor signs a key as a host's certificate.
func certFor(t testing.TB, ca ssh.Signer, key ssh.PublicKey, change func(*ssh.Certificate), principals ...string) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
	if change != nil {
		change(c)
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestJudge is the table of what OpenSSH accepts, measured against ssh 9.2.
func TestJudge(t *testing.T) {
	key, other, ca, ca2 := newSigner(t), newSigner(t).PublicKey(), newSigner(t), newSigner(t)
	pub := key.PublicKey()
	cert := certFor(t, ca, pub, nil, "spark")
	for name, c := range map[string]struct {
		known string
		port  int
		alias string
		key   ssh.PublicKey // what the host shows; nil is the plain key
		want  string        // ok, unknown, changed, revoked
	}{
		"known":                      {known: "spark KEY", want: "ok"},
		"unknown":                    {known: "other KEY", want: "unknown"},
		"changed":                    {known: "spark OTHER", want: "changed"},
		"one of two":                 {known: "spark OTHER\nspark KEY", want: "ok"},
		"upper case":                 {known: "SPARK KEY", want: "ok"},
		"hashed":                     {known: hashed("spark") + " KEY", want: "ok"},
		"hashed port":                {known: hashed("[spark]:2222") + " KEY", port: 2222, want: "ok"},
		"junk around":                {known: "junk\nspark ssh-what AAAA\nspark KEY", want: "ok"},
		"port":                       {known: "[spark]:2222 KEY", port: 2222, want: "ok"},
		"port, other port known":     {known: "[spark]:2223 KEY", port: 2222, want: "unknown"},
		"port falls back":            {known: "spark KEY", port: 2222, want: "ok"},
		"port, plain one differs":    {known: "spark OTHER", port: 2222, want: "unknown"},
		"port changed":               {known: "[spark]:2222 OTHER\nspark KEY", port: 2222, want: "changed"},
		"negated":                    {known: "*,!spark KEY", want: "unknown"},
		"wildcard":                   {known: "sp* KEY", want: "ok"},
		"alias":                      {known: "al KEY", alias: "Al", port: 2222, want: "ok"},
		"alias, not the name":        {known: "spark KEY", alias: "al", want: "unknown"},
		"revoked":                    {known: "@revoked spark KEY\nspark KEY", want: "revoked"},
		"revoked for another host":   {known: "@revoked other KEY\nspark KEY", want: "ok"},
		"revoked everywhere":         {known: "@revoked * KEY", want: "revoked"},
		"revoked, portless":          {known: "@revoked spark KEY", port: 2222, want: "revoked"},
		"authority":                  {known: "@cert-authority spark CA", key: cert, want: "ok"},
		"authority, portless":        {known: "@cert-authority spark CA", port: 2222, key: cert, want: "ok"},
		"authority of another host":  {known: "@cert-authority other CA", key: cert, want: "unknown"},
		"other authority, plain key": {known: "@cert-authority * CA2\nspark KEY", key: cert, want: "ok"},
		"no authority, plain key":    {known: "spark KEY", key: cert, want: "ok"},
		"no authority, changed":      {known: "spark OTHER", key: cert, want: "changed"},
		"authority, plain offered":   {known: "@cert-authority spark CA", want: "unknown"},
		"authority as a key":         {known: "spark CA", key: cert, want: "changed"},
		"revoked authority":          {known: "@cert-authority spark CA\n@revoked * CA", key: cert, want: "revoked"},
		"revoked key inside":         {known: "@cert-authority spark CA\n@revoked spark KEY", key: cert, want: "revoked"},
		"wrong principal":            {known: "@cert-authority spark CA", key: certFor(t, ca, pub, nil, "other"), want: "unknown"},
		"wildcard principal":         {known: "@cert-authority spark CA", key: certFor(t, ca, pub, nil, "x", "sp*"), want: "ok"},
		"expired":                    {known: "@cert-authority spark CA", key: certFor(t, ca, pub, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Unix() - 60) }, "spark"), want: "unknown"},
		"not yet":                    {known: "@cert-authority spark CA", key: certFor(t, ca, pub, func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Unix() + 3600) }, "spark"), want: "unknown"},
		"a user's certificate":       {known: "@cert-authority spark CA", key: certFor(t, ca, pub, func(c *ssh.Certificate) { c.CertType = ssh.UserCert }, "spark"), want: "unknown"},
		"critical option":            {known: "@cert-authority spark CA", key: certFor(t, ca, pub, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x": "y"} }, "spark"), want: "unknown"},
		"signed by another":          {known: "@cert-authority spark CA", key: certFor(t, ca2, pub, nil, "spark"), want: "unknown"},
		"expired, plain key known":   {known: "@cert-authority spark CA\nspark KEY", key: certFor(t, ca, pub, func(c *ssh.Certificate) { c.ValidBefore = 1 }, "spark"), want: "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.NewReplacer("KEY", keyText(pub), "OTHER", keyText(other), "CA2", keyText(ca2.PublicKey()), "CA", keyText(ca.PublicKey())).Replace(c.known)
			if c.port == 0 {
				c.port = 22
			}
			if c.key == nil {
				c.key = pub
			}
			target := &Target{Host: "spark", HostName: "Spark", Port: c.port, HostKeyAlias: c.alias, UserKnownHostsFiles: []string{"/no/such", writeFile(t, "kh", text)}}
			h, err := newHostKeys(target, false)
			if err != nil {
				t.Fatal(err)
			}
			got := "ok"
			switch err := h.judge(c.key); {
			case as[*UnknownHostKeyError](err):
				got = "unknown"
			case as[*ChangedHostKeyError](err):
				got = "changed"
			case as[*RevokedHostKeyError](err):
				got = "revoked"
			case err != nil:
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("judge = %s, want %s", got, c.want)
			}
		})
	}
}

func TestRevokedHostKeys(t *testing.T) {
	key := newSigner(t).PublicKey()
	target := &Target{Host: "spark", HostName: "spark", Port: 22, UserKnownHostsFiles: []string{writeFile(t, "kh", "spark "+keyText(key))}}
	target.RevokedHostKeys = writeFile(t, "revoked", "# gone\n"+keyText(key)+"\n")
	h, err := newHostKeys(target, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.judge(key); !as[*RevokedHostKeyError](err) || !strings.Contains(err.Error(), "revoked:2") {
		t.Errorf("judge = %v, want a RevokedHostKeyError", err)
	}
	target.RevokedHostKeys = writeFile(t, "krl", "SSHKRL\n\x00binary")
	if _, err := newHostKeys(target, false); !as[*ConfigError](err) {
		t.Errorf("a binary list: %v, want a ConfigError", err)
	}
	target.RevokedHostKeys = "/no/such/file"
	if _, err := newHostKeys(target, false); !as[*ConfigError](err) {
		t.Errorf("a missing list: %v, want a ConfigError", err)
	}
}

func TestHostKeyOrder(t *testing.T) {
	ed := newSigner(t).PublicKey()
	rsa, ecdsa := parse(t, rsaText), parse(t, ecdsaText)
	for name, c := range map[string]struct {
		known string
		port  int
		want  string // the first that is offered
		all   bool   // the list is as it was
	}{
		"nothing known":        {want: ssh.CertAlgoED25519v01, all: true},
		"the best known":       {known: "spark " + keyText(ed), want: ssh.CertAlgoED25519v01, all: true},
		"ecdsa known":          {known: "spark " + keyText(ecdsa), want: ssh.CertAlgoECDSA256v01},
		"rsa known":            {known: "spark " + keyText(rsa), want: ssh.CertAlgoRSASHA512v01},
		"rsa known, portless":  {known: "spark " + keyText(rsa), port: 2222, want: ssh.CertAlgoRSASHA512v01},
		"authority":            {known: "@cert-authority spark " + keyText(rsa), want: ssh.CertAlgoED25519v01, all: true},
		"authority, ecdsa":     {known: "@cert-authority spark " + keyText(rsa) + "\nspark " + keyText(ecdsa), want: ssh.CertAlgoED25519v01},
		"revoked says nothing": {known: "@revoked spark " + keyText(rsa), want: ssh.CertAlgoED25519v01, all: true},
	} {
		if c.port == 0 {
			c.port = 22
		}
		h, err := newHostKeys(&Target{HostName: "spark", Port: c.port, UserKnownHostsFiles: []string{writeFile(t, "kh", c.known)}}, false)
		if err != nil {
			t.Fatal(err)
		}
		got := h.algorithms(hostKeyOrder)
		if got[0] != c.want || len(got) != len(hostKeyOrder) {
			t.Errorf("%s: algorithms = %v, want %s first and none lost", name, got, c.want)
		}
		if same := strings.Join(got, ",") == strings.Join(hostKeyOrder, ","); same != c.all {
			t.Errorf("%s: the order is unchanged: %v, want %v: %v", name, same, c.all, got)
		}
	}
}

func parse(t testing.TB, text string) ssh.PublicKey {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestTrust(t *testing.T) {
	key := newSigner(t).PublicKey()
	file := filepath.Join(t.TempDir(), "new", "known_hosts")
	e := &UnknownHostKeyError{Host: "spark", Name: "[spark.local]:2222", File: file, Key: keyText(key)}
	for range 2 { // the second time it is there already
		if err := Trust(e); err != nil {
			t.Fatal(err)
		}
	}
	data, _ := os.ReadFile(file)
	if want := "[spark.local]:2222 " + keyText(key) + "\n"; string(data) != want {
		t.Errorf("Trust wrote %q, want %q", data, want)
	}
	if runtime.GOOS != "windows" {
		f, _ := os.Stat(file)
		d, _ := os.Stat(filepath.Dir(file))
		if f.Mode().Perm() != 0o600 || d.Mode().Perm() != 0o700 {
			t.Errorf("modes are %v and %v, want 0600 and 0700", f.Mode(), d.Mode())
		}
	}
	os.WriteFile(file, []byte("# no newline"), 0o600)
	e.Hash, e.Name = true, "spark"
	if err := Trust(e); err != nil {
		t.Fatal(err)
	}
	data, _ = os.ReadFile(file)
	first, second, _ := strings.Cut(string(data), "\n")
	if first != "# no newline" || !strings.HasPrefix(second, "|1|") || strings.Contains(second, "spark") {
		t.Errorf("Trust wrote %q", data)
	}
	if len(parseKnown(file, data, "spark")) != 1 {
		t.Errorf("the hashed line is not read back: %q", data)
	}
	for _, bad := range []*UnknownHostKeyError{
		{Name: "spark", Key: keyText(key)},
		{Name: "spark", Key: keyText(key), File: os.DevNull},
		{Name: "spark", Key: "ssh-ed25519 !", File: file},
		{Name: "spark", Key: keyText(key) + "\nevil " + keyText(key), File: file},
		{Name: "sp*rk", Key: keyText(key), File: file},
		{Name: "a,b", Key: keyText(key), File: file},
		{Name: "", Key: keyText(key), File: file},
		{Name: "spark", Key: keyText(key), File: filepath.Join(file, "below", "a file")},
	} {
		if err := Trust(bad); err == nil {
			t.Errorf("Trust(%+v) wrote it", bad)
		}
	}
	if after, _ := os.ReadFile(file); string(after) != string(data) {
		t.Errorf("a refusal has changed the file: %q", after)
	}
}

// TestTrustAgainstKeygen lets OpenSSH itself find what Trust wrote.
func TestTrustAgainstKeygen(t *testing.T) {
	keygen := filepath.Join(filepath.Dir(peer.Need(t, "ssh")), "ssh-keygen")
	if _, err := os.Stat(keygen); err != nil {
		t.Skip("no ssh-keygen beside ssh")
	}
	key := newSigner(t).PublicKey()
	file := filepath.Join(t.TempDir(), "kh")
	for _, name := range []string{"plain.example", "[ported.example]:2222"} {
		for _, hash := range []bool{false, true} {
			e := &UnknownHostKeyError{Name: name, File: file, Key: keyText(key), Hash: hash}
			if hash {
				e.Name = strings.Replace(name, "example", "hashed", 1)
			}
			if err := Trust(e); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(keygen, "-F", e.Name, "-f", file).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "found: line") {
				t.Errorf("ssh-keygen -F %s: %v\n%s", e.Name, err, out)
			}
		}
	}
}

func TestKeygenArg(t *testing.T) {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Skip(err)
	}
	own := filepath.Join(home, ".ssh", "known_hosts")
	for _, c := range []struct{ name, file, want string }{
		{"spark", own, "spark"},
		{"[spark]:2222", own, "'[spark]:2222'"},
		{"spark", "/x y/kh", "spark -f '/x y/kh'"},
		{"it's", own, `'it'\''s'`},
	} {
		if got := keygenArg(c.name, c.file); got != c.want {
			t.Errorf("keygenArg(%q, %q) = %s, want %s", c.name, c.file, got, c.want)
		}
	}
}

// Public keys of types that take long to make.
const (
	rsaText   = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCmv6xUQB0iDuS+M9e2jTihKo2Be7ycqWdD4DTbdMCHHyeZDroXFcF115OcVNdUQ0Y21CpTJCiakP94YPb9dAFbOZ+F3rDeLtvyShuviVhk1SF0mMY9espvQnG7t/oHrbe5XdMzgUuo/Kz3vkKbTFONMV+JmoXuLzWPVfF1H+bSjsLWc88qAy9RlaHnpHhfTmobS2y60y8XxqpXbLqUECmg3uVRRuyjmsjj3grzUi3WbEhtZ+8O0PoPxmLByYa0gLo92P/6am1zZ9cf6xLaVIQ51JLD58L83Zwc2IcuUQUaIgX7+K6UDq2UPcCeSu/fOajlZll0edJ/tt+vqy46zR6f"
	ecdsaText = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBP5+XGOeDVToSQBosOw1Br0yCKtxvq7QkbZxBSgUAd3cn1dDfbV/yMDjMX0pCNjInWqvCz3J48wSGf//akAK0fs="
)
