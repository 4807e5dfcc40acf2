package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"rlca/internal/box"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// shape lists every key of a JSON value with the kind of its value, sorted: what others may rely on. Lists are told by
// all their elements, and maps of names by their keys.
func shape(v any, at string, out map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			shape(e, at+"."+k, out)
		}
	case []any:
		out[at+"[]"] = true
		for _, e := range v {
			shape(e, at+"[]", out)
		}
	default:
		out[at] = true
	}
}

// The names of fields in every JSON that others may rely on are held by testdata/json: fields may be added there,
// none may go.
func TestJSON(t *testing.T) {
	dir := t.TempDir()
	key, pub, err := box.NewClientKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := box.Start(box.Options{User: "me", AuthorizedKeys: []box.PublicKey{pub}, Env: []string{"HOME=" + dir}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	engine, err := box.StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	known := filepath.Join(dir, "known_hosts")
	config := filepath.Join(dir, "ssh_config")
	for file, text := range map[string]string{
		known: b.KnownHostsLine() + "\n",
		config: fmt.Sprintf("Host box\n  HostName %s\n  Port %s\n  User me\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile none\n",
			b.Host(), b.Port(), key, known),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := newLaptop(t)
	l.env = append(l.env, "RLCA_OPENSSH=none")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	l.write("spark", fmt.Sprintf("host = \"box\"\n[engine]\naddress = %q\n[model]\nname = %q\ncontext = 4096\n[forward]\nlisten = \"127.0.0.1:%s\"\n",
		engine.Addr(), engine.Model(), strconv.Itoa(port)))
	l.must("-F", config, "connect", "spark")
	defer l.rlca("disconnect", "spark")
	for name, args := range map[string][]string{
		"probe":    {"probe", "spark"},
		"fit":      {"fit", "spark"},
		"plan":     {"plan", "spark"},
		"status":   {"status"},
		"env":      {"env"},
		"resolved": {"profile", "show", "spark", "--resolved"},
		"models":   {"models", "spark"},
		"doctor":   {"doctor", "spark"},
	} {
		out, _ := l.must(append(append([]string{"-F", config}, args...), "--json")...)
		var v any
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Errorf("rlca %s --json: %v\n%s", strings.Join(args, " "), err, out)
			continue
		}
		got := map[string]bool{}
		shape(v, "", got)
		file := filepath.Join("testdata", "json", name+".txt")
		if *update {
			var keys []string
			for k := range got {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(strings.Join(keys, "\n")+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range strings.Fields(string(want)) {
			parent, _, list := strings.Cut(k, "[].")
			if list && got[parent+"[]"] && !hasUnder(got, parent+"[].") {
				continue // an empty list on this machine
			}
			if !got[k] && !hasUnder(got, k+".") && !hasUnder(got, k+"[]") {
				t.Errorf("rlca %s --json has no %s any more", name, k)
			}
		}
	}
}

func hasUnder(keys map[string]bool, prefix string) bool {
	for k := range keys {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}
