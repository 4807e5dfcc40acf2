package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// writeProgram writes something that can be called, and returns its path.
func writeProgram(t *testing.T, dir, name string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	dir, path := t.TempDir(), t.TempDir()
	built := writeProgram(t, dir, "rlca-built")
	writeProgram(t, path, "rlca-built")
	installed := writeProgram(t, path, "rlca-installed")
	if err := os.WriteFile(filepath.Join(dir, "rlca.gguf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", path)
	for _, c := range []struct{ dir, name, want string }{
		{dir, "rlca-built", built}, // what was built wins
		{dir, "rlca-installed", installed},
		{"", "rlca-installed", installed},
		{filepath.Join(dir, "none"), "rlca-installed", installed},
		{dir, "rlca-neither", ""},
		{dir, "rlca.gguf", filepath.Join(dir, "rlca.gguf")}, // a file, not a program
		{path, "rlca.gguf", ""},
		{"", "rlca.gguf", ""},
	} {
		if got, ok := find(c.dir, c.name); got != c.want || ok != (c.want != "") {
			t.Errorf("find(%q, %q) = %q, %v, want %q", c.dir, c.name, got, ok, c.want)
		}
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(built, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, _ := find(dir, "rlca-built"); got != filepath.Join(path, "rlca-built") {
			t.Errorf("a file that cannot be called was found: %q", got)
		}
	}
}

func TestDir(t *testing.T) {
	for _, c := range []struct{ peers, cache, home, want string }{
		{"/p", "/c", "/h", "/p"},
		{"", "/c", "/h", filepath.Join("/c", "rlca", "peers")},
		{"", "", "/h", filepath.Join("/h", ".cache", "rlca", "peers")},
		{"", "", "", ""},
	} {
		t.Setenv("RLCA_PEERS", c.peers)
		t.Setenv("XDG_CACHE_HOME", c.cache)
		t.Setenv("HOME", c.home)
		t.Setenv("USERPROFILE", c.home) // Windows' name for it
		if got := Dir(); got != c.want {
			t.Errorf("with %+v Dir() = %q", c, got)
		}
	}
}

// fakeTB notes how a test would have ended.
type fakeTB struct {
	testing.TB
	skipped, failed string
}

func (f *fakeTB) Helper() {}
func (f *fakeTB) Skipf(format string, args ...any) {
	f.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (f *fakeTB) Fatalf(format string, args ...any) {
	f.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestNeed(t *testing.T) {
	saved := peerDir
	t.Cleanup(func() { peerDir = saved })
	dir := t.TempDir()
	peerDir = ""
	t.Setenv("PATH", dir)
	for _, c := range []struct {
		ci, name string
		want     fakeTB
	}{
		{"", "rlca-no-such-peer", fakeTB{skipped: "rlca-no-such-peer is missing: make peers"}},
		{"true", "rlca-no-such-peer", fakeTB{failed: "rlca-no-such-peer is missing, and CI must have it: make peers"}},
		{"true", Model, fakeTB{failed: Model + " is missing, and CI must have it: make peers"}},
		{"true", "llama-server", fakeTB{skipped: "llama-server is missing: make peers builds it where it can"}},
	} {
		t.Setenv("CI", c.ci)
		var f fakeTB
		done := make(chan struct{})
		go func() {
			defer close(done)
			Need(&f, c.name)
		}()
		<-done
		if f != c.want {
			t.Errorf("%s with CI=%q: skipped %q, failed %q", c.name, c.ci, f.skipped, f.failed)
		}
	}
	name := "rlca-here"
	if want, got := writeProgram(t, dir, name), Need(t, name); got != want {
		t.Errorf("Need = %q, want %q", got, want)
	}
}

func TestMissing(t *testing.T) {
	missing := Missing()
	for _, p := range Known() {
		if _, ok := Find(p.Name); ok == slices.Contains(missing, p.Name) {
			t.Errorf("%s: found %v, missing %v", p.Name, ok, missing)
		}
	}
	for _, p := range append(Known(), Optional()...) {
		if !strings.HasSuffix(p.For, ".") {
			t.Errorf("%s: %q is no sentence", p.Name, p.For)
		}
	}
}

func TestParseStat(t *testing.T) {
	for text, want := range map[string]process{
		"12 (sshd) S 7 12 12 0 -1": {12, 7, "sshd"},
		"13 (a b) c) R 1 13 13":    {13, 1, "a b) c"},
		"14 (sshd) Z 7 12":         {},
		"(x":                       {},
		"15 (x":                    {},
		"16 (x) S":                 {},
		"a (x) S 1":                {},
		"":                         {},
	} {
		got, ok := parseStat(text)
		if ok != (want.pid != 0) || ok && got != want {
			t.Errorf("parseStat(%q) = %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for line, want := range map[string]process{
		"  12     7 S    /usr/sbin/sshd\n": {12, 7, "sshd"},
		"  12     7 Ss   sshd: me\n":       {12, 7, "sshd: me"},
		"  14     7 Z    (sshd)\n":         {},
		"12 7 S":                           {},
	} {
		got, ok := parsePs(line)
		if ok != (want.pid != 0) || ok && got != want {
			t.Errorf("parsePs(%q) = %+v, %v, want %+v", line, got, ok, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("12 (sshd) S 7 12 12 0 -1")
	f.Add("  12 7 S /usr/sbin/sshd: me")
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) (process, bool){parseStat, parsePs} {
			if p, ok := parse(text); ok && p.pid <= 0 {
				t.Errorf("%q became %+v", text, p)
			}
		}
	})
}

func TestCompose(t *testing.T) {
	got := compose([]string{"MaxAuthTries 2", "match user x", "  ForceCommand y"}, []string{"Port 1", "MaxAuthTries 6"})
	want := "MaxAuthTries 2\nPort 1\nMaxAuthTries 6\nmatch user x\n  ForceCommand y\n"
	if got != want {
		t.Errorf("compose = %q, want %q", got, want)
	}
}
