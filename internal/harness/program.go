package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Program is a tool as it is installed here.
type Program struct {
	Path string
	// Version is what it says of itself, empty if it does not.
	Version string
	// InPath is false where it was found in a place that PATH does not have: its own folder has to be added for what it
	// starts itself.
	InPath bool
}

// NotInstalledError says that a tool is not on this machine.
type NotInstalledError struct {
	Title, Program, Install string
	Node                    int // the oldest Node that it takes, 0 if none
}

func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("%s is not installed: no %s in PATH, nor where its installers put it", e.Title, e.Program)
}

// dirs are where installers put programs besides PATH, ~ being the user's home.
var dirs = []string{
	"~/.local/bin", "~/.claude/local", "~/.opencode/bin", "~/.bun/bin", "~/.npm-global/bin", "~/.volta/bin", "~/.cargo/bin",
	"/usr/local/bin", "/opt/homebrew/bin", "/home/linuxbrew/.linuxbrew/bin", "~/.nvm/versions/node/*/bin",
	"~/.local/share/fnm/node-versions/*/installation/bin", "~/.local/share/mise/shims", "~/.asdf/shims",
}

// Locate finds the tool's program in PATH or where installers put it, or is a *NotInstalledError.
func (t *Tool) Locate(getenv func(string) string) (Program, error) {
	var inPath []string
	for _, dir := range filepath.SplitList(getenv("PATH")) {
		if filepath.IsAbs(dir) { // never from the folder that is opened
			inPath = append(inPath, dir)
		}
	}
	for i, dir := range append(inPath, elsewhere(getenv)...) {
		for _, name := range t.Programs {
			if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return Program{Path: path, InPath: i < len(inPath)}, nil
			}
		}
	}
	return Program{}, &NotInstalledError{Title: t.Title, Program: t.Programs[0], Install: t.Install, Node: t.Node}
}

func elsewhere(getenv func(string) string) []string {
	var out []string
	if runtime.GOOS == "windows" {
		for _, d := range []string{"${APPDATA}/npm", "${LOCALAPPDATA}/Programs", "${USERPROFILE}/.local/bin", "${LOCALAPPDATA}/Volta/bin"} {
			out = append(out, filepath.FromSlash(os.Expand(d, getenv)))
		}
		return out
	}
	home := getenv("HOME")
	for _, d := range dirs {
		if rest, ok := strings.CutPrefix(d, "~"); ok {
			if home == "" {
				continue
			}
			d = home + rest
		}
		if !strings.Contains(d, "*") {
			out = append(out, d)
			continue
		}
		found, _ := filepath.Glob(d)
		slices.Reverse(found) // the newest Node first, nearly always
		out = append(out, found...)
	}
	return out
}

// versionLimit is how long a program may take to say its version.
const versionLimit = 5 * time.Second

var versionText = regexp.MustCompile(`\b\d+\.\d+(?:\.\d+)?(?:[-+][0-9A-Za-z.-]+)?\b`)

// ReadVersion learns which version a program is: from its package, else by asking it, for five seconds at most.
func (t *Tool) ReadVersion(ctx context.Context, p *Program, environ []string) {
	if p.Version = t.packageVersion(p.Path); p.Version != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, versionLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Path, "--version")
	cmd.Env, cmd.WaitDelay = environ, time.Second
	var out limited
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.Run() == nil {
		p.Version = versionText.FindString(out.String())
	}
}

// packageVersion reads the package.json above a program that npm installed.
func (t *Tool) packageVersion(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil || t.Package == "" {
		return ""
	}
	for dir := filepath.Dir(real); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "package.json"))
		if err != nil {
			continue
		}
		var p struct{ Name, Version string }
		if json.Unmarshal(text, &p) == nil && p.Name == t.Package {
			return p.Version
		}
	}
	return ""
}

// limited keeps the first 4 KiB of what is written.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), 4096-min(4096, l.Len()))])
	return len(p), nil
}
