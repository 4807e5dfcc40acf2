package tunnel

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestMatchWarns has blocks that only ssh itself can judge: they are left out with a warning, and the rest stands.
func TestMatchWarns(t *testing.T) {
	for name, c := range map[string]struct {
		config   string
		port     int
		warnings string
	}{
		"exec":               {"Match exec \"test -f /x\"\n Port 1\nMatch all\n Port 2\n", 2, `config:1: the block "Match exec "test -f /x"" is left out: only ssh itself can judge "exec"`},
		"exec, other host":   {"Match host other exec x\n Port 1\nHost *\n Port 2\n", 2, ""},
		"localnetwork":       {"Match localnetwork 10.0.0.0/8\n Port 1\nHost *\n Port 2\n", 2, `judge "localnetwork"`},
		"tagged":             {"Match tagged x\n Port 1\n", 22, `judge "tagged"`},
		"of tomorrow":        {"Match weather rain\n Port 1\n", 22, `judge "weather"`},
		"open quote":         {"Match host \"x\n Port 1\nHost *\n Port 2\n", 2, "cannot be read"},
		"nothing":            {"Match\n Port 1\n", 1, ""}, // no keyword without a value
		"Fedora's":           {"Match final all\n Include /etc/crypto-policies/back-ends/no-such\n GSSAPIAuthentication yes\n", 22, ""},
		"once":               {"Match exec x\n Port 1\nMatch final all\n Port 2\n", 2, `config:1: the block "Match exec x"`},
		"control characters": {"Match \x1b[31m x\n Port 1\n", 22, `"Match [31m x"`},
		"unknown keywords":   {"FooBar baz\nHost spark\n Strange=1\n Port 2\n=\n\"\n", 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolveIn(t, "spark", c.config, Options{})
			if err != nil {
				t.Fatal(err)
			}
			w := strings.Join(got.Warnings, "\n")
			if got.Port != c.port || !strings.Contains(w, c.warnings) || (c.warnings == "") != (w == "") || strings.Count(w, "left out") > 1 {
				t.Errorf("port %d, warnings %q; want %d, %q", got.Port, w, c.port, c.warnings)
			}
			if strings.ContainsRune(w, '\x1b') {
				t.Errorf("the warnings have control characters: %q", w)
			}
		})
	}
}

func TestInclude(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(home, ".ssh", name)
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config", "Include conf.d/*.conf \"with space\" ~/.ssh/more missing\nHost spark\n IdentityFile ~/own\n Port 1\n")
	write("conf.d/10.conf", "Host spark\n User ten\n IdentityFile ~/ten\n")
	write("conf.d/20.conf", "Host spark\n User twenty\n IdentityFile ~/twenty\n")
	write("conf.d/folder.conf/x", "")
	write("with space", "Host spark\n Port 5\n")
	write("more", "HostKeyAlias more\n")
	got, err := Resolve(t.Context(), "spark", Options{OpenSSH: "none", Home: home})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(home, "ten"), filepath.Join(home, "twenty"), filepath.Join(home, "own")}
	if got.User != "ten" || got.Port != 5 || got.HostKeyAlias != "more" || !reflect.DeepEqual(got.IdentityFiles, want) {
		t.Errorf("user %s, port %d, alias %s, keys %v", got.User, got.Port, got.HostKeyAlias, got.IdentityFiles)
	}
	if f := got.From["user"]; f != "~/.ssh/conf.d/10.conf:2" {
		t.Errorf("From[user] = %s", f)
	}
}

func TestSplitArgs(t *testing.T) {
	for in, want := range map[string][]string{
		"a b\tc":          {"a", "b", "c"},
		`"a b" 'c d'`:     {"a b", "c d"},
		`a\ b \"c\" d\\e`: {"a b", `"c"`, `d\e`},
		`a"b c"d`:         {"ab cd"},
		"a #b c":          {"a"},
		"a#b":             {"a#b"},
		`"#a"`:            {"#a"},
		`C:\Users\x`:      {`C:\Users\x`},
		"":                nil,
		`""`:              {""},
		`"open`:           {"error"},
		`it's`:            {"error"},
	} {
		got, err := splitArgs(in)
		if err != nil {
			got = []string{"error"}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("splitArgs(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestKeyword(t *testing.T) {
	for in, want := range map[string][2]string{
		"Port 22":          {"Port", "22"},
		"\tPort=22\r":      {"Port", "22"},
		"Port = 22 ":       {"Port", "22"},
		"Port == 22":       {"Port", "= 22"},
		"Host\"a b\"":      {"Host", "\"a b\""},
		"\ufeffPort 1":     {"Port", "1"},
		"# Port 1":         {"", ""},
		"Port":             {"", ""},
		"=":                {"", ""},
		"P\x00rt 1":        {"", ""},
		"User a # comment": {"User", "a # comment"},
	} {
		if key, val := keyword(in); key != want[0] || val != want[1] {
			t.Errorf("keyword(%q) = %q, %q; want %q", in, key, val, want)
		}
	}
}

func TestExpand(t *testing.T) {
	t.Setenv("TUNNEL_DIR", "/env%h")
	os.Unsetenv("TUNNEL_NONE")
	target := &Target{Host: "spark", HostName: "spark.local", Port: 2222, User: "me", HostKeyAlias: "al"}
	tokens := target.tokens("/home/x")
	for in, want := range map[string]string{
		"~/.ssh/%r@%h:%p":   "/home/x/.ssh/me@spark.local:2222",
		"~":                 "/home/x",
		"%d/%n-%k-%%h":      "/home/x/spark-al-%h",
		"${TUNNEL_DIR}/k":   "/env%h/k", // what a variable holds is not looked through again
		"/a/${TUNNEL_NONE}": "problem",
		"/a/${OPEN":         "problem",
		"/a/%z":             "problem",
		"/a/%":              "problem",
		"~no-such-user-x/":  "problem",
		"/plain":            "/plain",
		"":                  "",
	} {
		got, problem := expandFile(in, "/home/x", tokens)
		if problem != "" {
			if got != in {
				t.Errorf("expandFile(%q) has a problem and gives %q", in, got)
			}
			got = "problem"
		}
		if filepath.ToSlash(got) != want {
			t.Errorf("expandFile(%q) = %q (%s), want %q", in, got, problem, want)
		}
	}
}

// FuzzConfig reads any text as ssh_config: no panic, no hang, and nothing that a shell or ssh would stumble over.
func FuzzConfig(f *testing.F) {
	for _, c := range differential {
		f.Add(c, "foo")
	}
	f.Add("=\n\"\n=x\nHost\nMatch\nInclude\n", "a")
	f.Add("Match host a,!b final exec x\nHostName %%%h%\nPort =\"1\"\n", "A")
	f.Fuzz(func(t *testing.T, config, host string) {
		if strings.Contains(strings.ToLower(config), "include") {
			return // files of this machine are none of its business
		}
		fl := &filter{home: "/h", host: host, localUser: "me"}
		for pass := range 2 {
			fl.final = pass == 1
			if err := fl.parse("/h/config", config, true); err != nil {
				return
			}
		}
		target := &Target{HostName: host, From: map[string]string{}, Source: "builtin"}
		if fl.hostName != "" {
			target.HostName = fl.hostName
		}
		if err := target.take(fl); err != nil {
			return
		}
		target.Host = host
		target.defaults()
		if target.finish(Options{Home: "/h"}, "", 0) == nil && (target.HostName == "" || target.HostName[0] == '-' || target.Port < 1 || target.Port > 65535) {
			t.Errorf("%q leads to %q port %d", config, target.HostName, target.Port)
		}
		target.Resolved()
	})
}
