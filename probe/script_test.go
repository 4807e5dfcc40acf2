package probe

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
)

// shell is this machine as the far side: the script is run as sshd runs it, through a login shell.
type shell struct {
	login []string // the login shell and what comes before its -c; nil means sh itself
	sh    []string // what runs the script, if not /bin/sh -s
	env   []string
	edit  func(string) string // of the script
	errs  *bytes.Buffer
}

func (s shell) Run(ctx context.Context, script string) ([]byte, error) {
	args := s.sh
	if args == nil {
		args = []string{"/bin/sh", "-s"}
	}
	if s.login != nil {
		args = append(slices.Clone(s.login), "-c", "exec "+strings.Join(args, " "))
	}
	if s.edit != nil {
		script = s.edit(script)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.WaitDelay = time.Second // what a killed tool has started may hold the output
	if s.errs != nil {
		cmd.Stderr = s.errs
	}
	return cmd.Output()
}

func needShell(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("no /bin/sh here")
	}
}

// whole checks that a report of this machine has what every machine has.
func whole(t *testing.T, r *Report, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if r.OS == "" || r.Arch == "" || r.OSName == "" || r.Cores == nil || r.Memory.TotalBytes == nil || r.Memory.AvailableBytes == nil || r.Best() == nil || len(r.Disk) == 0 || r.Disk[0].FreeBytes == nil {
		t.Errorf("the report lacks what every machine has: %+v", r)
	}
	for _, w := range r.Warnings {
		if strings.Contains(w, "answer ends") || strings.Contains(w, "ended early") {
			t.Errorf("warning %q", w)
		}
	}
}

func TestScriptSize(t *testing.T) {
	if n := len(Script(nonce)); n > 8<<10 {
		t.Errorf("the script has %d bytes, want at most 8192", n)
	}
	if strings.Contains(script, "\r") || strings.Contains(script, "sudo") {
		t.Error("the script has a carriage return or the word sudo")
	}
}

// The real probe of this machine, by every shell that may stand behind /bin/sh.
func TestScriptShells(t *testing.T) {
	needShell(t)
	shells := [][]string{{"sh"}, {"dash"}, {"bash"}, {"bash", "--posix"}, {"busybox", "ash"}, {"zsh", "--emulate", "sh"}, {"ksh"}, {"mksh"}}
	for _, sh := range shells {
		path, err := exec.LookPath(sh[0])
		if err != nil {
			continue
		}
		t.Run(strings.Join(sh, " "), func(t *testing.T) {
			var errs bytes.Buffer
			start := time.Now()
			r, err := Run(t.Context(), shell{sh: append(append([]string{path}, sh[1:]...), "-s"), errs: &errs})
			whole(t, r, err)
			if errs.Len() > 0 {
				t.Errorf("stderr %q", errs.String())
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			} else {
				t.Logf("%v: %s", took.Round(time.Millisecond), r.Summary())
			}
		})
	}
}

// The same behind login shells that are not POSIX, whose start-up files print.
func TestScriptLoginShells(t *testing.T) {
	needShell(t)
	home := t.TempDir()
	for file, text := range map[string]string{
		".bashrc":                  "echo '@@ welcome'; printf '\\033[1mhello\\033[0m\\n'\n",
		".zshenv":                  "echo '@@ welcome'\n",
		".tcshrc":                  "echo '@@ welcome'\n",
		".config/fish/config.fish": "echo '@@ welcome'\n",
	} {
		file = filepath.Join(home, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "bash", "zsh", "ksh", "fish", "tcsh"} {
		t.Run(name, func(t *testing.T) {
			var login string
			if name == "fish" || name == "tcsh" {
				login = peer.Need(t, name)
			} else {
				path, err := exec.LookPath(name)
				if err != nil {
					t.Skip(name + " is missing")
				}
				login = path
			}
			r, err := Run(t.Context(), shell{login: []string{login}, env: []string{"HOME=" + home, "BASH_ENV=" + home + "/.bashrc", "XDG_CONFIG_HOME="}})
			whole(t, r, err)
		})
	}
}

// tool puts a program of that name on the PATH in front of everything else.
func tool(t *testing.T, name, text string) (env []string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
}

// Tools that answer, are too old, fail, talk too much and hang. Each costs its own limit and nothing else.
func TestScriptTools(t *testing.T) {
	needShell(t)
	if _, err := os.Stat("/usr/lib/wsl/lib"); err == nil {
		t.Skip("under WSL nvidia-smi has a folder of its own")
	}
	quick := func(s string) string {
		return strings.NewReplacer("lim 10 nvidia-smi", "lim 1 nvidia-smi", "lim 4 ollama", "lim 1 ollama").Replace(s)
	}
	for name, c := range map[string]struct {
		tool, text string
		check      func(*Report) string
	}{
		"answers": {"nvidia-smi", `echo "0, GPU-a, 24564, 400, 23900, 550.54.14, 00000000:01:00.0, 8.9, [N/A], None, NVIDIA GeForce RTX 4090"`, func(r *Report) string {
			if p := r.Best(); p.Kind != Dedicated || bytesOf(p.TotalBytes) != 24564*mib || len(r.Accelerators) != 1 || r.Accelerators[0].State != "ok" {
				return fmt.Sprintf("%+v, %+v", p, r.Accelerators)
			}
			return ""
		}},
		"too old for three queries": {"nvidia-smi", `case "$1" in *compute_cap* | *mig*) echo "Field \"x\" is not a valid field to query."; echo; exit 2 ;; esac
echo "0, GPU-a, 4096, 40, 4000, 418.43, 00000000:01:00.0, GeForce GTX 1050"`, func(r *Report) string {
			if p := r.Best(); p.Kind != Dedicated || r.Accelerators[0].Name != "GeForce GTX 1050" || str(r.Accelerators[0].Driver) != "418.43" {
				return fmt.Sprintf("%+v, %+v", p, r.Accelerators)
			}
			return ""
		}},
		"knows no query": {"nvidia-smi", `[ -n "$1" ] && { [ "$1" = -L ] || exit 2; echo "GPU 0: Tesla K80 (UUID: GPU-a)"; exit; }
echo "| NVIDIA-SMI 340.10     Driver Version: 340.10         |"
echo "|   0  Tesla K80           Off  | 0000:05:00.0     Off |                    0 |"
echo "| N/A   36C    P8    27W / 149W |     55MiB / 11519MiB |      0%      Default |"`, func(r *Report) string {
			if p := r.Best(); p.Kind != Dedicated || bytesOf(p.TotalBytes) != 11519*mib || r.Accelerators[0].Name != "Tesla K80" {
				return fmt.Sprintf("%+v, %+v", p, r.Accelerators)
			}
			return ""
		}},
		"fails": {"nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", func(r *Report) string {
			if len(r.Accelerators) != 1 || r.Accelerators[0].State != "driver-mismatch" {
				return fmt.Sprintf("%+v", r.Accelerators)
			}
			return ""
		}},
		"hangs": {"nvidia-smi", "exec sleep 60", func(r *Report) string {
			if len(r.Accelerators) != 1 || r.Accelerators[0].State != "unknown" || !slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, "hangs") }) {
				return fmt.Sprintf("%+v, %q", r.Accelerators, r.Warnings)
			}
			return ""
		}},
		"an ollama that hangs": {"ollama", "sleep 60", func(r *Report) string {
			if e := r.Engine("ollama"); e == nil || e.Path == nil || e.Version != nil {
				return fmt.Sprintf("%+v", e)
			}
			return ""
		}},
		"eats standard input": {"ollama", "cat >/dev/null; echo ollama version is 0.32.9", func(r *Report) string {
			if e := r.Engine("ollama"); e == nil || str(e.Version) != "0.32.9" {
				return fmt.Sprintf("%+v", e)
			}
			return ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			r, err := Run(t.Context(), shell{env: tool(t, c.tool, c.text), edit: quick})
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if err != nil {
				t.Fatal(err)
			}
			if bad := c.check(r); bad != "" {
				t.Error(bad)
			}
			if r.Memory.TotalBytes == nil || len(r.Disk) == 0 {
				t.Errorf("the rest is missing: memory %+v, disk %+v", r.Memory, r.Disk)
			}
		})
	}
}

// A box without any listing tool still has the kernel's own table.
func TestScriptKernelTable(t *testing.T) {
	needShell(t)
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("no /proc/net/tcp here")
	}
	edit := func(s string) string {
		return strings.NewReplacer("have ss", "false", "have netstat", "false").Replace(s)
	}
	before, err := Run(t.Context(), shell{})
	whole(t, before, err)
	r, err := Run(t.Context(), shell{edit: edit})
	whole(t, r, err)
	after, err := Run(t.Context(), shell{})
	whole(t, after, err)
	for _, l := range before.Listeners {
		got, still := r.Listener(l.Port), after.Listener(l.Port)
		if still == nil { // others come and go
			continue
		}
		if got == nil || got.Exposed != still.Exposed {
			t.Errorf("the kernel's table has %+v for port %d, want as in %+v", got, l.Port, still)
		}
	}
}
