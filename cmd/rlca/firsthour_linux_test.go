package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rlca/internal/netlab"
	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// firstHour are the commands of the README between its marks, one a line.
func firstHour(t *testing.T, readme string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(readme, "<!-- make first-hour -->\n```sh\n")
	block, _, ok2 := strings.Cut(rest, "```\n")
	if !ok || !ok2 {
		t.Fatal("the README has no commands between its marks")
	}
	var out []string
	for line := range strings.Lines(block) {
		command, _, _ := strings.Cut(line, "   #")
		if command = strings.TrimSpace(command); command != "" {
			out = append(out, command)
		}
	}
	return out
}

// What a person types in their first hour is in the README, and no more than that is needed: from a clone to a file that
// a harness wrote on the word of the box's model. The box is a network away and has an Ollama that does not run yet; the
// home is fresh but for what `ssh spark` needs. Modules and packages come from this machine's caches: there is no internet.
func TestFirstHour(t *testing.T) {
	if os.Getenv("RLCA_TEST_HARNESSES") == "" {
		t.Skip("it takes a minute: make first-hour")
	}
	root := filepath.Join(peer.Dir(), "harnesses")
	if _, err := os.Stat(filepath.Join(root, "npm-cache")); err != nil {
		t.Skip("npm's cache is missing: .ci/peers-harnesses install")
	}
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of its own needs root")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := firstHour(t, string(readme))
	n := len(commands)
	for _, c := range commands {
		n += strings.Count(c, "&&") + strings.Count(c, ";")
	}
	if n == 0 || n >= 10 {
		t.Errorf("%d commands, want fewer than ten:\n%s", n, strings.Join(commands, "\n"))
	}

	p := newPerson(t, root)
	script := "set -e\n"
	for _, c := range commands {
		script += "echo \"$ \"" + quoted(c) + "\n" + c + "\n"
	}
	file := filepath.Join(p.home, "first-hour.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := p.run(t, 10*time.Minute, "bash", file)
	t.Logf("\n%s", out)
	if err != nil {
		t.Fatalf("the commands of the README: %v", err)
	}
	if !strings.HasSuffix(out, "\nhi\n") || strings.Count(out, remotetest.AfterTool) != 1 {
		t.Errorf("no file of the model's: want %q once, and hi at the end", remotetest.AfterTool)
	}
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// person is somebody with a fresh home, and a box that `ssh spark` leads to.
type person struct {
	home string
	env  []string
}

func newPerson(t *testing.T, root string) *person {
	t.Helper()
	lab := netlab.New(t) // first: it makes sure that what is mounted below is mounted here only
	lab.Delay(2 * time.Millisecond)
	names := isolate(t)
	t.Cleanup(func() {
		if asked := names.all(); len(asked) > 0 {
			t.Errorf("names were looked up outside: %q", asked)
		}
	})
	p := &person{home: t.TempDir()}
	moveHome(t, p.home)

	// The models lie on the box; an engine of the test puts one there and ends.
	ollama := remotetest.StartOllama(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := remotetest.CreateWorker(ctx, ollama.URL, "qwen3-coder:30b"); err != nil {
		t.Fatal(err)
	}
	ollama.Stop()
	boxHome := t.TempDir()
	sshd := lab.StartSSHD("SetEnv HOME=" + boxHome + " OMP_NUM_THREADS=1 OLLAMA_MODELS=" + ollama.Models +
		" PATH=" + filepath.Dir(peer.Need(t, "ollama")) + ":/usr/bin:/bin:/usr/sbin")

	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(p.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config, err := os.ReadFile(sshd.Config)
	if err != nil {
		t.Fatal(err)
	}
	put(".ssh/config", strings.Replace(string(config), "Host box\n", "Host spark\n", 1))
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	put(".gitconfig", "[safe]\n\tdirectory = *\n")
	if err := os.Symlink(source, filepath.Join(p.home, "URL")); err != nil { // the README's word for the address of the repository
		t.Fatal(err)
	}
	runtimeDir, err := os.MkdirTemp("", "rlca") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.run(t, time.Minute, filepath.Join(p.home, "rlca", "bin", "rlca"), "disconnect", "--stop-engine")
		os.RemoveAll(runtimeDir)
		exec.Command("chmod", "-R", "u+w", p.home).Run()
	})
	goEnv := func(name string) string {
		text, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatalf("go env %s: %v", name, err)
		}
		return strings.TrimSpace(string(text))
	}
	registry := exec.Command(filepath.Join(root, "bin", "npm"), "config", "get", "registry") // its cache goes by the address
	registry.Env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"))
	address, err := registry.Output()
	if err != nil {
		t.Fatalf("npm config get registry: %v", err)
	}
	p.env = []string{
		"HOME=" + p.home, "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "TERM=dumb", "LANG=C.UTF-8", "XDG_RUNTIME_DIR=" + runtimeDir,
		"PATH=" + strings.Join([]string{filepath.Join(p.home, ".local", "bin"), filepath.Join(root, "bin"), filepath.Join(goEnv("GOROOT"), "bin"), "/usr/local/bin:/usr/bin:/bin"}, ":"),
		"GOMODCACHE=" + goEnv("GOMODCACHE"), "GOCACHE=" + goEnv("GOCACHE"), "GOPROXY=off", "GOFLAGS=", "GOTOOLCHAIN=local",
		"npm_config_cache=" + filepath.Join(root, "npm-cache"), "npm_config_offline=true", "npm_config_update_notifier=false", "npm_config_audit=false",
		"npm_config_registry=" + strings.TrimSpace(string(address)), "npm_config_prefix=" + filepath.Join(p.home, ".local"),
	}
	if out, err := p.run(t, time.Minute, "ssh", "-o", "BatchMode=yes", "spark", "true"); err != nil {
		t.Fatalf("ssh spark true: %v\n%s", err, out)
	}
	return p
}

// run runs a command as the person, in the home.
func (p *person) run(t *testing.T, limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/env", append([]string{name}, args...)...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(p.env, "PWD="+p.home), p.home, 5*time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// moveHome makes a folder the home that the user database names, as ssh believes only that. Only this test sees it.
func moveHome(t *testing.T, home string) {
	t.Helper()
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	moved := false
	for i, line := range lines {
		if f := strings.Split(line, ":"); len(f) == 7 && f[2] == fmt.Sprint(os.Getuid()) {
			f[5] = home
			lines[i], moved = strings.Join(f, ":"), true
		}
	}
	if !moved {
		t.Fatalf("/etc/passwd has no user %d", os.Getuid())
	}
	file := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	bindOver(t, file, "/etc/passwd")
}

// bindOver puts a file in the place of another one, for what runs in this namespace and until the test ends.
func bindOver(t *testing.T, file, over string) {
	t.Helper()
	err := unix.Mount(file, over, "", unix.MS_BIND, "")
	if err != nil {
		t.Fatalf("put %s in the place of %s: %v", file, over, err)
	}
	t.Cleanup(func() { unix.Unmount(over, unix.MNT_DETACH) })
}
