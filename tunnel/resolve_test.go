package tunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
)

func TestSplitHost(t *testing.T) {
	for in, want := range map[string]string{
		"spark":                    "//spark/0",
		"me@spark":                 "/me/spark/0",
		"me@spark:2222":            "/me/spark/2222",
		"spark:2222":               "//spark/2222",
		"::1":                      "//::1/0",
		"fe80::1%eth0":             "//fe80::1%eth0/0",
		"[::1]:22":                 "//::1/22",
		"[::1]":                    "//::1/0",
		"me@[fe80::1%eth0]:2200":   "/me/fe80::1%eth0/2200",
		"ssh://spark":              "//spark/0",
		"ssh://me@spark:22/":       "/me/spark/22",
		"ssh://me%40corp@spark":    "/me@corp/spark/0",
		"me@corp@spark":            "/me@corp/spark/0",
		`CORP\me@spark`:            `/CORP\me/spark/0`,
		"":                         "host is empty",
		"me@":                      "host is empty",
		"@spark":                   "user is empty",
		"-oProxyCommand=x":         "begins with a dash",
		"-l@spark":                 "begins with a dash",
		"spark;reboot":             "character ';'",
		"$(reboot)":                "character '$'",
		"a b":                      "character ' '",
		"spark:0":                  "is not 1 to 65535",
		"spark:65536":              "is not 1 to 65535",
		"spark:":                   "is not 1 to 65535",
		"[::1":                     "bracket",
		"[::1]22":                  "only :PORT",
		"me -l@spark":              "taken for an option",
		"spark/../x":               "character '/'",
		strings.Repeat("a", 300):   "too long",
		"ssh://me%zz@spark":        "escape",
		"spark\x1b[31m":            "character '\\x1b'",
		"a\u00a0b" + "\n":          "character",
		"user`id`@spark":           "character '`'",
		"2001:db8::5":              "//2001:db8::5/0",
		"me@2001:db8::5":           "/me/2001:db8::5/0",
		"spark-box.local.":         "//spark-box.local./0",
		"ssh://[2001:db8::5]:2222": "//2001:db8::5/2222",
	} {
		user, host, port, err := SplitHost(in)
		got := fmt.Sprintf("/%s/%s/%d", user, host, port)
		if err != nil {
			if got = err.Error(); strings.HasPrefix(want, "/") || !strings.Contains(got, want) {
				t.Errorf("SplitHost(%q): error %q, want %s", in, got, want)
			}
			if strings.ContainsAny(got, "\x1b\n") {
				t.Errorf("SplitHost(%q): the error has control characters: %q", in, got)
			}
			continue
		}
		if got != want {
			t.Errorf("SplitHost(%q) = %s, want %s", in, got, want)
		}
	}
}

func FuzzSplitHost(f *testing.F) {
	for _, s := range []string{"me@spark:22", "[::1]:22", "ssh://a%40b@c", "::1", "a@b@c:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		user, host, port, err := SplitHost(s)
		if err != nil {
			return
		}
		if host == "" || host[0] == '-' || strings.ContainsAny(host, " \t\r\n;$`'\"") || port < 0 || port > 65535 || strings.HasPrefix(user, "-") {
			t.Errorf("SplitHost(%q) = %q, %q, %d", s, user, host, port)
		}
	})
}

func TestParseTime(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"30": 30 * time.Second, "30s": 30 * time.Second, "1m": time.Minute, "1h30m": 90 * time.Minute, "1D": 24 * time.Hour, "1w": 7 * 24 * time.Hour,
		"0": 0, "": 0, "2000000000w": 364 * 24 * time.Hour, "x": -1, "5x": -1, "-1": -1, "1.5s": -1, "99999999999": -1,
	} {
		got, ok := parseTime(in)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("parseTime(%q) = %v, want %v", in, got, want)
		}
	}
}

// resolveIn resolves with a config file of its own and a home folder that is empty but for files.
func resolveIn(t *testing.T, host, config string, o Options) (*Target, error) {
	t.Helper()
	o.ConfigFile = writeFile(t, "config", config)
	if o.Home == "" {
		o.Home = t.TempDir()
	}
	if o.OpenSSH == "" {
		o.OpenSSH = "none"
	}
	return Resolve(t.Context(), host, o)
}

func TestResolveOverlay(t *testing.T) {
	home := t.TempDir()
	config := "# mine\nHost spark\n  HostName Spark.Local\n  Port 2200\n  User alice\n  IdentityFile ~/.ssh/%r_key\n  ProxyJump bastion\n"
	got, err := resolveIn(t, "spark", config, Options{Home: home})
	if err != nil {
		t.Fatal(err)
	}
	file := func(n int) string {
		return fmt.Sprintf("%s:%d", got.From["user"][:strings.LastIndexByte(got.From["user"], ':')], n)
	}
	if !strings.HasSuffix(got.From["user"], "config:5") {
		t.Errorf("From[user] = %q, want …config:5", got.From["user"])
	}
	want := &Target{
		Host: "spark", HostName: "spark.local", User: "alice", Port: 2200, IdentityFiles: []string{filepath.Join(home, ".ssh", "alice_key")}, CertificateFiles: []string{},
		Jumps: []string{"bastion"}, UserKnownHostsFiles: []string{filepath.Join(home, ".ssh", "known_hosts"), filepath.Join(home, ".ssh", "known_hosts2")},
		GlobalKnownHostsFiles: []string{filepath.Join(systemDir(), "ssh_known_hosts"), filepath.Join(systemDir(), "ssh_known_hosts2")},
		StrictHostKeyChecking: "ask", ServerAliveCountMax: 3, Source: "builtin",
		From: map[string]string{
			"hostname": file(3), "port": file(4), "user": file(5), "identity_files": file(6), "jumps": file(7),
			"certificate_files": "default", "identity_agent": "default", "proxy_command": "default", "host_key_alias": "default",
			"user_known_hosts_files": "default", "global_known_hosts_files": "default", "strict_host_key_checking": "default",
			"connect_timeout_s": "default", "server_alive_interval_s": "default", "server_alive_count_max": "default",
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Resolve:\n got %+v\nwant %+v", got, want)
	}

	// what was typed beats the profile, and the profile beats ssh_config
	got, err = resolveIn(t, "bob@spark:23", config, Options{User: "carol", Port: 24, Identity: []string{"/k"}, Jump: []string{"x,y", "z"}})
	if err != nil {
		t.Fatal(err)
	}
	if got.User != "bob" || got.Port != 23 || !reflect.DeepEqual(got.IdentityFiles, []string{"/k"}) || !got.IdentitiesOnly || !reflect.DeepEqual(got.Jumps, []string{"x", "y", "z"}) {
		t.Errorf("bob@spark:23 over carol:24 gave %s port %d keys %v jumps %v", got.User, got.Port, got.IdentityFiles, got.Jumps)
	}
	if f := got.From["user"]; f != "profile or command line" {
		t.Errorf("From[user] = %q", f)
	}
	if got, _ = resolveIn(t, "spark", config, Options{User: "carol", Jump: []string{"none"}}); got.User != "carol" || len(got.Jumps) != 0 {
		t.Errorf("the profile's user carol and jump none gave %s %v", got.User, got.Jumps)
	}
}

func TestResolvedJSON(t *testing.T) {
	got, err := resolveIn(t, "spark", "StrictHostKeyChecking off\nProxyCommand nc %h %p\nConnectTimeout 1m\n", Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(got.Resolved())
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	json.Unmarshal(data, &m)
	for _, key := range strings.Fields("host hostname user port identity_files certificate_files identity_agent jumps proxy_command host_key_alias " +
		"user_known_hosts_files global_known_hosts_files strict_host_key_checking connect_timeout_s server_alive_interval_s server_alive_count_max source warnings from") {
		if v, ok := m[key]; !ok || v == nil {
			t.Errorf("%s is %v in %s", key, v, data)
		}
		delete(m, key)
	}
	if len(m) > 0 {
		t.Errorf("fields that nobody knows of: %v", m)
	}
	r := got.Resolved()
	if r.StrictHostKeyChecking != "false" || r.ProxyCommand != "nc spark 22" || r.ConnectTimeoutS != 60 || r.Source != "builtin" {
		t.Errorf("Resolved() = %+v", r)
	}
}

func TestResolveBad(t *testing.T) {
	for name, c := range map[string]struct{ host, config, want string }{
		"bad port":        {"spark", "Host *\n Port 22x\n", `config:2: Port "22x" is not a port`},
		"bad time":        {"spark", "ConnectTimeout soon", `ConnectTimeout "soon" is not a time`},
		"open quote":      {"spark", "IdentityFile \"~/x\n", "quote that is not closed"},
		"dash":            {"-oX=y", "", "begins with a dash"},
		"bad hostname":    {"spark", "HostName -oX", "begins with a dash"},
		"bad user":        {"spark", "User \"a;b\"", "character ';'"},
		"bad jump":        {"spark", "ProxyJump a,-oX", "begins with a dash"},
		"strict":          {"spark", "StrictHostKeyChecking maybe", "is not yes, no"},
		"endless include": {"spark", "Include INCLUDE", "includes are nested deeper"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "config")
			os.WriteFile(file, []byte(strings.ReplaceAll(c.config, "INCLUDE", file)), 0o600)
			_, err := Resolve(t.Context(), c.host, Options{ConfigFile: file, OpenSSH: "none", Home: dir})
			var config *ConfigError
			if !errors.As(err, &config) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Resolve = %v, want a ConfigError with %q", err, c.want)
			}
		})
	}
	if _, err := Resolve(t.Context(), "spark", Options{ConfigFile: "/no/such/file", OpenSSH: "none", Home: t.TempDir()}); !Final(err) {
		t.Errorf("a missing -F file: %v, want a ConfigError", err)
	}
	if _, err := Resolve(t.Context(), "spark", Options{OpenSSH: "/no/such/ssh"}); !Final(err) {
		t.Errorf("a missing ssh program: %v, want a ConfigError", err)
	}
}

func TestResolvePermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no such modes here")
	}
	home := t.TempDir()
	os.MkdirAll(filepath.Join(home, ".ssh"), 0o700)
	file := filepath.Join(home, ".ssh", "config")
	os.WriteFile(file, []byte("Port 2200\n"), 0o600)
	os.Chmod(file, 0o666)
	_, err := Resolve(t.Context(), "spark", Options{OpenSSH: "none", Home: home})
	if !Final(err) || !strings.Contains(err.Error(), "chmod go-w ~/.ssh/config") {
		t.Errorf("a config that others may write: %v", err)
	}
	os.Chmod(file, 0o644)
	got, err := Resolve(t.Context(), "spark", Options{OpenSSH: "none", Home: home})
	if err != nil || got.Port != 2200 || got.From["port"] != "~/.ssh/config:1" {
		t.Errorf("Resolve = %+v, %v", got, err)
	}
}

// fakeSSH is a program that behaves as a script says.
func fakeSSH(t *testing.T, script string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no scripts here")
	}
	path := writeFile(t, "ssh", "#!/bin/sh\n"+script)
	os.Chmod(path, 0o700)
	return path
}

func TestAskSSH(t *testing.T) {
	got, err := resolveIn(t, "me@spark:23", "", Options{OpenSSH: fakeSSH(t, `
echo "args $*" >&2
case "$*" in "-G -F "*" -l me -p 23 -- spark") ;; *) exit 9;; esac
echo "hostname 10.0.0.7"; echo "port 23"; echo "identityfile ~/.ssh/%h"; echo "stricthostkeychecking true"; echo "userknownhostsfile /a b/kh /c"; echo "connecttimeout none"
`), Home: "/home/x"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Source != "openssh" || got.HostName != "10.0.0.7" || got.User != "me" || got.IdentityFiles[0] != "/home/x/.ssh/10.0.0.7" ||
		got.StrictHostKeyChecking != "yes" || !reflect.DeepEqual(got.UserKnownHostsFiles, []string{"/a b/kh", "/c"}) || got.From["hostname"] != "ssh -G" {
		t.Errorf("Resolve = %+v", got)
	}
	_, err = resolveIn(t, "spark", "", Options{OpenSSH: fakeSSH(t, `echo "/x line 3: Bad configuration option: foo" >&2; echo "Pseudo-terminal will not be" >&2; exit 255`)})
	if !Final(err) || !strings.Contains(err.Error(), "/x line 3: Bad configuration option: foo") || strings.Contains(err.Error(), "Pseudo") {
		t.Errorf("ssh's own words: %v", err)
	}
	if got, err = resolveIn(t, "spark", "Port 2201", Options{OpenSSH: fakeSSH(t, `echo "ssh: unknown option -- G" >&2; exit 255`)}); err != nil || got.Source != "builtin" || got.Port != 2201 {
		t.Errorf("an old ssh: %+v, %v; want the builtin reader", got, err)
	}
}

func TestAskSSHHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the limit of 5 s")
	}
	t.Parallel()
	start := time.Now()
	_, err := resolveIn(t, "spark", "", Options{OpenSSH: fakeSSH(t, "sleep 60 & sleep 60\n")})
	if !Final(err) || !strings.Contains(err.Error(), "Match exec") || time.Since(start) > 9*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestSplitFiles(t *testing.T) {
	there := func(paths ...string) func(string) bool {
		return func(s string) bool { return strings.Contains("|"+strings.Join(paths, "|")+"|", "|"+s+"|") }
	}
	for _, c := range []struct {
		in    string
		there func(string) bool
		want  []string
	}{
		{"/a /b", there(), []string{"/a", "/b"}},
		{"/Users/J Doe/.ssh/kh /Users/J Doe/.ssh/kh2", there(), []string{"/Users/J Doe/.ssh/kh", "/Users/J Doe/.ssh/kh2"}},
		{"/a /b", there("/a /b"), []string{"/a /b"}},
		{`C:\Users\J Doe\kh C:\x`, there(), []string{`C:\Users\J Doe\kh`, `C:\x`}},
		{`"/a b" /c`, there(), []string{"/a b", "/c"}},
		{"kh1 kh2", there("kh2"), []string{"kh1", "kh2"}},
		{"none", there(), []string{"none"}},
		{"", there(), nil},
	} {
		if got := splitFiles(c.in, c.there); !reflect.DeepEqual(got, c.want) {
			t.Errorf("splitFiles(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzParseDump(f *testing.F) {
	f.Add("hostname spark\nport 22\nidentityfile ~/x\nuserknownhostsfile /a b /c\n")
	f.Add("port 99999999999999\nconnecttimeout -1\nproxyjump ,\nciphers\n\n \x00")
	f.Fuzz(func(t *testing.T, s string) {
		target := parseDump("host", []byte(s))
		target.finish(Options{Home: "/h"}, "me", 0)
		target.Resolved()
		algorithms(target)
	})
}

// TestConfigDifferential holds the builtin reader against `ssh -G`, config by config.
func TestConfigDifferential(t *testing.T) {
	program := peer.Need(t, "ssh")
	for name, config := range differential {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			os.WriteFile(filepath.Join(dir, "more"), []byte("Host foo\n Port 4001\nHost *\n User included\n"), 0o600)
			os.WriteFile(filepath.Join(dir, "more2"), []byte("IdentityFile ~/second\n"), 0o600)
			file := filepath.Join(dir, "config")
			os.WriteFile(file, []byte(strings.ReplaceAll(config, "DIR", dir)), 0o600)
			hosts := []string{"foo", "FOO", "foobar", "u1@foo", "other.example.com", "foo:77"}
			for _, host := range hosts {
				want, werr := Resolve(t.Context(), host, Options{ConfigFile: file, OpenSSH: program})
				home := homeOf(t)
				got, gerr := Resolve(t.Context(), host, Options{ConfigFile: file, OpenSSH: "none", Home: home})
				if (werr == nil) != (gerr == nil) {
					t.Errorf("%s: ssh says %v, we say %v", host, werr, gerr)
					continue
				}
				if werr != nil {
					continue
				}
				w, g := want.Resolved(), got.Resolved()
				w.IdentityFiles, g.IdentityFiles = common(w.IdentityFiles), common(g.IdentityFiles)
				w.From, g.From, w.Source, g.Source, w.Warnings, g.Warnings = nil, nil, "", "", nil, nil
				if !reflect.DeepEqual(w, g) {
					t.Errorf("%s:\n ssh %+v\nours %+v", host, w, g)
				}
				if want.IdentitiesOnly != got.IdentitiesOnly || want.HashKnownHosts != got.HashKnownHosts || want.BindAddress != got.BindAddress || want.NoHostAuthLocalhost != got.NoHostAuthLocalhost || want.KnownHostsCommand != got.KnownHostsCommand || want.PKCS11Provider != got.PKCS11Provider {
					t.Errorf("%s: ssh %v %v %q, ours %v %v %q", host, want.IdentitiesOnly, want.HashKnownHosts, want.BindAddress, got.IdentitiesOnly, got.HashKnownHosts, got.BindAddress)
				}
			}
		})
	}
}

// homeOf is the home folder that ssh takes for its own: that of the account.
func homeOf(t *testing.T) string {
	t.Helper()
	target := &Target{Source: "openssh", IdentityFiles: []string{"~/x"}, HostName: "h", Host: "h"}
	target.expand(Options{})
	return filepath.Dir(target.IdentityFiles[0])
}

// common leaves out default keys of types that only some versions of OpenSSH look for.
func common(files []string) []string {
	out := []string{}
	for _, f := range files {
		if !strings.HasSuffix(f, "id_xmss") && !strings.HasSuffix(f, "id_dsa") {
			out = append(out, f)
		}
	}
	return out
}

var differential = map[string]string{
	"empty":             "",
	"first wins":        "Host foo\n Port 1\nHost *\n Port 2\n User late\n",
	"globals first":     "Port 5\nHost foo\n Port 6\n",
	"several patterns":  "Host bar foo\n Port 1\nHost *.example.com\n Port 2\n",
	"comma in Host":     "Host foo,bar\n Port 1\n",
	"negation":          "Host * !foo\n Port 1\n",
	"negation first":    "Host !foo *\n Port 1\n",
	"question mark":     "Host fo?\n Port 1\nHost foo?\n Port 2\n",
	"case":              "Host FOO\n Port 1\n",
	"tabs and equals":   "Host\tfoo\n\tPort = 7\n\tUser=x\n",
	"quoted host":       "Host \"foo\" bar\n Port 1\n",
	"trailing comment":  "Host foo # bar\n Port 1 # the port\n User a#b\n",
	"crlf":              "Host foo\r\n Port 9\r\n User crlf\r\n",
	"hostname tokens":   "HostName %h.example.com\n",
	"hostname upper":    "HostName Foo.Example.COM\n",
	"identity tokens":   "IdentityFile ~/.ssh/%r@%h-%n-%p-%%\nIdentityFile %d/k\nCertificateFile \"~/a b-cert.pub\"\n",
	"identity adds":     "Host foo\n IdentityFile ~/a\nHost *\n IdentityFile ~/b\n IdentityFile ~/a\n",
	"known hosts":       "UserKnownHostsFile ~/.ssh/%h ~/b\nGlobalKnownHostsFile /etc/x\n",
	"known hosts none":  "UserKnownHostsFile none\nGlobalKnownHostsFile none\n",
	"jump then command": "ProxyJump a,me@b:2222\nProxyCommand nc %h %p\n",
	"command then jump": "ProxyCommand nc -X 5 %h %p # not a comment\nProxyJump a\n",
	"command none":      "Host foo\n ProxyCommand none\nHost *\n ProxyJump j\n",
	"jump none":         "Host foo\n ProxyJump none\nHost *\n ProxyCommand nc %h %p\n",
	"match all":         "Match all\n Port 3\n",
	"match host":        "Host foo\n HostName real\nMatch host real\n Port 3\nMatch host foo\n User no\n",
	"match host list":   "Match host bar,foo*,!foobar\n Port 3\n",
	"match original":    "Host foo\n HostName real\nMatch originalhost foo\n Port 3\n",
	"match user":        "Match user u1\n Port 3\nMatch !user u1\n Port 4\n",
	"match user set":    "User u1\nMatch user u1\n Port 3\n",
	"match localuser":   "Match localuser nobody-here\n Port 3\nMatch !localuser nobody-here\n Port 4\n",
	"match two":         "Match host foo user u1\n Port 3\n",
	"match negated":     "Match !host foo\n Port 3\n",
	"match final":       "Match final all\n Port 3\n User f\nHost foo\n Port 8\n",
	"match final host":  "Match final host real\n Port 3\nHost foo\n HostName real\n",
	"match canonical":   "Match canonical\n Port 3\n",
	"match exec no":     "Match host never exec true\n Port 3\n",
	"include":           "Include DIR/more\nHost *\n Port 4002\n User outer\n",
	"include in host":   "Host foo\n Include DIR/more*\n Port 4003\nHost *\n User after\n",
	"include none":      "Include DIR/nothing*\nPort 4004\n",
	"times":             "ServerAliveInterval 1m\nServerAliveCountMax 5\nConnectTimeout 1h1s\n",
	"only ssh can":      "KnownHostsCommand /bin/true %H\nPKCS11Provider /usr/lib/x.so\nNoHostAuthenticationForLocalhost yes\n",
	"strict yes":        "StrictHostKeyChecking yes\nHashKnownHosts yes\nIdentitiesOnly yes\nHostKeyAlias al\n",
	"strict accept-new": "StrictHostKeyChecking accept-new\n",
	"strict off":        "StrictHostKeyChecking off\nBindAddress 127.0.0.1\nAddressFamily inet\n",
	"agent":             "IdentityAgent ~/%r.sock\n",
	"agent none":        "IdentityAgent none\n",
	"agent variable":    "IdentityAgent $OTHER_SOCK\n",
	"bad port":          "Port 22x\n",
	"jump none twice":   "Host foo\n ProxyJump none\nHost *\n ProxyJump j\n",
	"escapes":           "User a\\ b\nIdentityFile \"/x \\\"y\\\"\"\n",
	"service name":      "Port ssh\n",
	"blank match block": "Match host foo\nMatch all\n Port 3\n",
}
