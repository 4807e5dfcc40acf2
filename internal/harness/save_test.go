//go:build unix

package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const claudeSettings = ".claude/settings.json"

// What is no plain file is not opened: a pipe would be waited for, and a device replaced.
func TestWireNoFile(t *testing.T) {
	t.Parallel()
	for what, make := range map[string]func(path string) error{
		"a pipe": func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a device": func(path string) error {
			return os.Symlink(os.DevNull, path)
		},
		"a folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"a loop":   func(path string) error { return os.Symlink(filepath.Base(path), path) },
	} {
		dir, getenv := home(t, map[string]string{".claude/x": ""})
		if err := make(filepath.Join(dir, claudeSettings)); err != nil {
			t.Fatal(err)
		}
		if _, err := tool(t, "claude").Wire(spark, false, getenv); err == nil {
			t.Errorf("wire of %s: no error", what)
		}
		if _, err := tool(t, "claude").Unwire(getenv); err == nil {
			t.Errorf("unwire of %s: no error", what)
		}
	}
}

// A file with two names would be two files after a wire.
func TestWireHardLink(t *testing.T) {
	t.Parallel()
	dir, getenv := home(t, map[string]string{claudeSettings: "{}\n"})
	path, other := filepath.Join(dir, claudeSettings), filepath.Join(dir, "other")
	if err := os.Link(path, other); err != nil {
		t.Skip(err)
	}
	edits, err := tool(t, "claude").Wire(spark, false, getenv)
	if err != nil {
		t.Fatal(err)
	}
	if err := edits[0].Save(); err == nil || !strings.Contains(err.Error(), "2 names") {
		t.Errorf("wire of a file with two names: %v", err)
	}
	if now := files(t, dir); len(now) != 2 || now[claudeSettings] != "{}\n" {
		t.Errorf("after a refusal: %q", now)
	}
	// One that got its second name since is unwired all the same.
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	save(t, edits, nil)
	if err := os.Link(path, other); err != nil {
		t.Fatal(err)
	}
	edits, err = tool(t, "claude").Unwire(getenv)
	save(t, edits, err)
	if got := read(t, path); got != "{}\n" {
		t.Errorf("after unwire: %q", got)
	}
}

// Links to links, relative ones and into other folders, stay, and what stands beside the file stands beside the first.
func TestWireChainOfLinks(t *testing.T) {
	t.Parallel()
	dir, getenv := home(t, map[string]string{".config/goose/x": "", "dot/files/goose.yaml": "GOOSE_PROVIDER: openai"})
	path := filepath.Join(dir, ".config/goose/config.yaml")
	if err := errors.Join(os.Symlink("files/goose.yaml", filepath.Join(dir, "dot/one")), os.Symlink("../../dot/one", path)); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	edits, err := tool(t, "goose").Wire(spark, false, getenv)
	save(t, edits, err)
	if got := read(t, filepath.Join(dir, "dot/files/goose.yaml")); !strings.Contains(got, "qwen3-coder") {
		t.Errorf("behind the links: %q", got)
	}
	edits, err = tool(t, "goose").Unwire(getenv)
	save(t, edits, err)
	if now := files(t, dir); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("after unwire: %q", now)
	}
	for name, want := range map[string]string{path: "../../dot/one", filepath.Join(dir, "dot/one"): "files/goose.yaml"} {
		if to, err := os.Readlink(name); err != nil || to != want {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
	}
}

// A file stays its owner's, whoever wires it.
func TestWireKeepsOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may give files away")
	}
	dir, getenv := home(t, map[string]string{claudeSettings: "{}\n"})
	path := filepath.Join(dir, claudeSettings)
	if err := os.Chown(path, 12345, 54321); err != nil {
		t.Skip(err)
	}
	edits, err := tool(t, "claude").Wire(spark, false, getenv)
	save(t, edits, err)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 12345 || st.Gid != 54321 {
		t.Errorf("the file belongs to %d:%d", st.Uid, st.Gid)
	}
}

// Where the file cannot be written, all is as it was, and what was wired before can still be taken back.
func TestWireThatFails(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 250) // no room for the name of the file that would take its place
	dir, getenv := home(t, map[string]string{".claude/x": "", long: "{}"})
	path, target := filepath.Join(dir, claudeSettings), filepath.Join(dir, long)
	if err := os.Symlink("../"+long, path); err != nil {
		t.Fatal(err)
	}
	fails := func(e Endpoint) {
		t.Helper()
		before := files(t, dir)
		edits, err := tool(t, "claude").Wire(e, false, getenv)
		if err != nil {
			t.Fatal(err)
		}
		if err := edits[0].Save(); !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Fatalf("wire that cannot be: %v", err)
		}
		if now := files(t, dir); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("after a wire that failed: %q, want %q", now, before)
		}
	}
	fails(spark)
	write(t, path+backupSuffix, "an older copy") // stays under its name
	fails(spark)
	if err := os.Remove(path + backupSuffix); err != nil {
		t.Fatal(err)
	}

	if err := errors.Join(os.Rename(target, filepath.Join(dir, "short")), os.Remove(path), os.Symlink("../short", path)); err != nil {
		t.Fatal(err)
	}
	edits, err := tool(t, "claude").Wire(spark, false, getenv)
	save(t, edits, err)
	if err := errors.Join(os.Rename(filepath.Join(dir, "short"), target), os.Remove(path), os.Symlink("../"+long, path)); err != nil {
		t.Fatal(err)
	}
	fails(Endpoint{BaseURL: "http://127.0.0.1:11500", Model: "other"})
	edits, err = tool(t, "claude").Unwire(getenv)
	if err != nil || string(edits[0].After) != "{}" {
		t.Errorf("unwire after a wire that failed: %v", err)
	}
}

// A file that somebody writes between the reading and the saving is left alone.
func TestSaveAfterAnother(t *testing.T) {
	t.Parallel()
	h := tool(t, "claude")
	for _, start := range []map[string]string{{claudeSettings: "{}\n"}, nil} {
		dir, getenv := home(t, start)
		path := filepath.Join(dir, claudeSettings)
		edits, err := h.Wire(spark, false, getenv)
		if err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(filepath.Dir(path), 0o700)
		write(t, path, "{\"mine\": 1}")
		if err := edits[0].Save(); err == nil {
			t.Error("wire over what another wrote: no error")
		}
		if now := files(t, dir); len(now) != 1 || now[claudeSettings] != "{\"mine\": 1}" {
			t.Errorf("after a refusal: %q", now)
		}
		edits, err = h.Wire(spark, false, getenv)
		save(t, edits, err)
		edits, err = h.Unwire(getenv)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, "{\"mine\": 2}")
		if err := edits[0].Save(); err == nil || read(t, path) != "{\"mine\": 2}" {
			t.Errorf("unwire over what another wrote: %v, %q", err, read(t, path))
		}
	}
}

// Two at once: one of them wins, and what it wrote can be taken back.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"claude", "codex", "goose"} {
		h := tool(t, name)
		dir, getenv := home(t, nil)
		path, err := h.wired[0].place.path(getenv)
		if err != nil || os.MkdirAll(filepath.Dir(path), 0o700) != nil {
			t.Fatal(err)
		}
		text := map[fileKind]string{jsonFile: "{\"model\": \"mine\"}", tomlFile: "model = \"mine\"", yamlFile: "GOOSE_MODEL: mine"}[h.wired[0].kind]
		write(t, path, text)
		for round := range 8 {
			var group sync.WaitGroup
			for n := range 4 {
				group.Go(func() {
					edits, err := h.Wire(Endpoint{BaseURL: "http://127.0.0.1:11434", Model: fmt.Sprint("model", n)}, n%2 == 0, getenv)
					if err == nil {
						edits[0].Save() // who comes too late is told so
					}
				})
			}
			group.Wait()
			edits, err := h.Unwire(getenv)
			save(t, edits, err)
			rel, _ := filepath.Rel(dir, path)
			if now := files(t, dir); now[rel] != text || len(now) != 1 || len(edits[0].Left) > 0 {
				t.Fatalf("%s, round %d: %q, left %v", name, round, now, edits[0].Left)
			}
		}
	}
}

// A copy is never lost to a later one: a program that writes its file anew drops the marks, and the first copy is then all
// that says what was there.
func TestCopiesStay(t *testing.T) {
	t.Parallel()
	h := tool(t, "goose")
	const file = ".config/goose/config.yaml"
	dir, getenv := home(t, map[string]string{file: "GOOSE_PROVIDER: anthropic # mine\n"})
	path := filepath.Join(dir, file)
	for range 3 {
		edits, err := h.Wire(spark, false, getenv)
		save(t, edits, err)
		write(t, path, "GOOSE_MODEL: qwen3-coder:30b\nGOOSE_PROVIDER: ollama\n")
	}
	if got := read(t, path+backupSuffix+".1"); got != "GOOSE_PROVIDER: anthropic # mine\n" {
		t.Errorf("the first copy says %q", got)
	}
	if now := files(t, dir); len(now) != 3 {
		t.Errorf("there are %q", now)
	}
	edits, err := h.Wire(spark, false, getenv)
	save(t, edits, err)
	edits, err = h.Unwire(getenv)
	save(t, edits, err)
	if got := edits[0].Backup(); got != path+backupSuffix+".1" {
		t.Errorf("the copy that is left is %q", got)
	}
}

// The file that is wired is the one that the program reads, and says what leads it to the endpoint and nowhere else.
func TestWireWhatIsRead(t *testing.T) {
	t.Parallel()
	const one, two = ".config/opencode/opencode.jsonc", ".config/opencode/opencode.json"
	dir, getenv := home(t, map[string]string{one: "{}", two: "{}"})
	edits, err := tool(t, "opencode").Wire(spark, false, getenv)
	save(t, edits, err)
	if now := files(t, dir); now[two] != "{}" || !strings.Contains(now[one], spark.Model) { // OpenCode reads this one last
		t.Errorf("of both files: %q", now)
	}

	dir, _ = home(t, map[string]string{"elsewhere/settings.json": `{"model": {"name": "a", "baseUrl": "http://b"}}`})
	getenv = func(k string) string {
		return map[string]string{"HOME": dir, "QWEN_HOME": filepath.Join(dir, "elsewhere")}[k]
	}
	edits, err = tool(t, "qwen").Wire(spark, false, getenv)
	save(t, edits, err)
	v := decoded(t, []byte(read(t, filepath.Join(dir, "elsewhere/settings.json"))))
	if got := lookup(v, "model.baseUrl"); got != spark.BaseURL+"/v1" {
		t.Errorf("qwen: model.baseUrl = %v", got)
	}

	dir, getenv = home(t, map[string]string{claudeSettings: `{"env": {"CLAUDE_CODE_USE_BEDROCK": "1"}}`})
	edits, err = tool(t, "claude").Wire(spark, false, getenv)
	save(t, edits, err)
	v = decoded(t, []byte(read(t, filepath.Join(dir, claudeSettings))))
	for _, name := range claudeClouds {
		if got := lookup(v, "env."+name); got != "" {
			t.Errorf("claude: %s = %v", name, got)
		}
	}
}

// Of the names that a file may have it is the wired one that is unwired.
func TestUnwireOtherName(t *testing.T) {
	t.Parallel()
	const one, two = ".config/opencode/opencode.jsonc", ".config/opencode/opencode.json"
	for there, later := range map[string]string{one: two, two: one} {
		dir, getenv := home(t, map[string]string{there: "{} // mine"})
		edits, err := tool(t, "opencode").Wire(spark, false, getenv)
		save(t, edits, err)
		write(t, filepath.Join(dir, later), "{}")
		edits, err = tool(t, "opencode").Unwire(getenv)
		save(t, edits, err)
		if now := files(t, dir); now[there] != "{} // mine" || now[later] != "{}" || len(now) != 2 {
			t.Errorf("after unwire: %q", now)
		}
	}
}
