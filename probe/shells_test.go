package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/tunnel"
)

// sshBox is this machine behind a real sshd, with a home and a PATH of its own: every session goes through a door, a
// program that stands for the login shell.
type sshBox struct {
	*tunnel.Client
	door, home, tools string
	edit              *strings.Replacer // of the script, nil for none
}

func (b *sshBox) Run(ctx context.Context, script string) ([]byte, error) {
	if b.edit != nil {
		script = b.edit.Replace(script)
	}
	return b.Client.Run(ctx, script)
}

func newSSHBox(t *testing.T) *sshBox {
	t.Helper()
	needShell(t)
	dir := t.TempDir()
	b := &sshBox{door: filepath.Join(dir, "door"), home: filepath.Join(dir, "home"), tools: filepath.Join(dir, "tools")}
	for _, d := range []string{b.home, b.tools} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.open(t, "exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")
	s := peer.StartSSHD(t, "ForceCommand "+b.door)
	target, err := tunnel.Resolve(t.Context(), "box", tunnel.Options{ConfigFile: s.Config, OpenSSH: "none", Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if b.Client, err = new(tunnel.Dialer).Dial(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// open says what the door does with a session.
func (b *sshBox) open(t *testing.T, text string) {
	t.Helper()
	// Without SHLVL a bash takes itself for the first shell of a session, and reads its .bashrc.
	text = fmt.Sprintf("#!/bin/sh\nexport HOME='%s' PATH='%s:/usr/bin:/bin:/usr/sbin:/sbin'\nunset SHLVL XDG_CONFIG_HOME ZDOTDIR\n%s\n", b.home, b.tools, text)
	// A new file, renamed: the old one may run.
	if err := errors.Join(os.WriteFile(b.door+".new", []byte(text), 0o755), os.Rename(b.door+".new", b.door)); err != nil {
		t.Fatal(err)
	}
}

// put makes the tools on the PATH anew, by name and text of a shell script.
func (b *sshBox) put(t *testing.T, tools map[string]string) {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(b.tools, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		os.Remove(f)
	}
	for name, text := range tools {
		if err := os.WriteFile(filepath.Join(b.tools, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// scriptShells are what may stand behind /bin/sh: dash of Debian, bash of Fedora and of old Macs, ash of Alpine, zsh and
// the ksh kin of the rest. It returns the words that run a script on standard input, or nothing if the shell is missing.
func scriptShells(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name, args := range map[string]string{"dash": "-s", "bash": "--posix -s", "busybox": "ash -s", "zsh": "--emulate sh -s", "ksh": "-s", "mksh": "-s"} {
		if path, err := exec.LookPath(name); err == nil {
			found[name] = path + " " + args
		} else {
			t.Logf("%s is missing: left out", name)
		}
	}
	return found
}

const smiRow = "0, GPU-1, 24564, 400, 23900, 550.54.14, 00000000:01:00.0, 8.9, [N/A], None, NVIDIA GeForce RTX 4090"

// The real script over a real sshd, by every shell, on boxes whose tools behave and misbehave. What the tools spoil is
// their own section; the machine's memory and disks are always there.
func TestShellTools(t *testing.T) {
	b := newSSHBox(t)
	if _, err := os.Stat("/usr/lib/wsl/lib"); err == nil {
		t.Skip("under WSL nvidia-smi has a folder of its own")
	}
	b.edit = strings.NewReplacer(" | vllm* | VLLM* | python*) ;; *) continue", ") ;; *) continue", // those of other tests on this machine
		"lim 15 ", "lim 1 ", "lim 10 ", "lim 1 ", "lim 6 ", "lim 1 ", "lim 5 docker", "lim 1 docker", "lim 4 ", "lim 1 ")
	wide := func(s string) string { // UTF-16 with its mark, as Windows programs print it
		var b strings.Builder
		b.WriteString(`printf '\377\376`)
		for _, c := range s {
			if c == '\'' || c == '\\' || c == '%' {
				panic("needs a quote")
			}
			b.WriteString(string(c) + `\000`)
		}
		return b.String() + `\n\000'`
	}
	gpu := func(r *Report) string {
		if len(r.Accelerators) != 1 || r.Accelerators[0].Name != "NVIDIA GeForce RTX 4090" || r.Best() == nil || bytesOf(r.Best().TotalBytes) != 24564*mib || r.Accelerators[0].State != "ok" {
			return fmt.Sprintf("accelerators %+v", r.Accelerators)
		}
		return ""
	}
	version := func(want string) func(*Report) string {
		return func(r *Report) string {
			if e := r.Engine("ollama"); e == nil || e.Path == nil || str(e.Version) != want {
				return fmt.Sprintf("engine %+v, want version %s", e, want)
			}
			return gpu(r)
		}
	}
	echo := func(s string) string { return "echo '" + s + "'" }
	const said = "ollama version is 0.32.9"
	boxes := map[string]struct {
		tools map[string]string
		check func(*Report) string
	}{
		"answer": {map[string]string{"nvidia-smi": echo(smiRow), "ollama": echo(said), "docker": "echo vllm/vllm-openai:v0.11.0 127.0.0.1:8000-\\>8000/tcp"}, func(r *Report) string {
			// This machine may run others, of other tests.
			if !slices.ContainsFunc(r.Engines, func(e Engine) bool {
				return e.Name == "vllm" && e.How == inContainer && str(e.Address) == "127.0.0.1:8000" && str(e.Version) == "0.11.0"
			}) {
				return fmt.Sprintf("engines %+v", r.Engines)
			}
			return version("0.32.9")(r)
		}},
		"NULs":                 {map[string]string{"nvidia-smi": "printf '\\000" + strings.ReplaceAll(smiRow, " RTX", "\\000 RTX\\000") + "\\000\\n'", "ollama": "printf 'ollama\\000 version is 0.32.9\\000'"}, version("0.32.9")},
		"ANSI":                 {map[string]string{"nvidia-smi": "printf '\\033[1;32m" + strings.ReplaceAll(smiRow, " RTX", "\\033[0m RTX") + "\\033[K\\r\\n'", "ollama": "printf '\\033]0;title\\007\\033[31mollama version is \\033[1m0.32.9\\033[0m\\n'"}, version("0.32.9")},
		"UTF-16":               {map[string]string{"nvidia-smi": wide(smiRow), "ollama": wide(said)}, version("0.32.9")},
		"broken UTF-8":         {map[string]string{"nvidia-smi": "printf '" + smiRow + "\\377\\n'", "ollama": "printf '\\200\\201" + said + "\\303\\n'"}, version("0.32.9")},
		"standard input eaten": {map[string]string{"nvidia-smi": "cat >/dev/null; " + echo(smiRow), "ollama": "while read -r x; do :; done; " + echo(said)}, version("0.32.9")},
		"marks of their own":   {map[string]string{"nvidia-smi": "echo '@@ begin uname'; echo '@@0 done'; " + echo(smiRow), "ollama": "echo '@@x end v_ollama rc=0'; " + echo(said)}, version("0.32.9")},
		"fail": {map[string]string{"nvidia-smi": "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "ollama": "echo 'Segmentation fault' >&2; kill -SEGV $$", "docker": "echo 'permission denied' >&2; exit 1", "ss": "exit 1", "netstat": "exit 127"}, func(r *Report) string {
			if len(r.Accelerators) != 1 || r.Accelerators[0].State != "driver-mismatch" || len(r.Listeners) == 0 {
				return fmt.Sprintf("accelerators %+v, listeners %+v", r.Accelerators, r.Listeners)
			}
			if e := r.Engine("ollama"); e == nil || e.Path == nil || e.Version != nil {
				return fmt.Sprintf("engine %+v", e)
			}
			return ""
		}},
		"hang": {map[string]string{"nvidia-smi": "echo '" + smiRow[:30] + "'; exec sleep 30", "ollama": "trap '' TERM; sleep 30", "docker": "sleep 30 & sleep 30"}, func(r *Report) string {
			if len(r.Accelerators) != 1 || r.Accelerators[0].State != "unknown" || !strings.Contains(strings.Join(r.Warnings, "\n"), "hangs") {
				return fmt.Sprintf("accelerators %+v, warnings %q", r.Accelerators, r.Warnings)
			}
			return ""
		}},
		"megabytes": {map[string]string{"nvidia-smi": echo(smiRow) + "; yes 'and so on and on' | head -c 3000000"}, func(r *Report) string {
			if !strings.Contains(strings.Join(r.Warnings, "\n"), "the probe's answer ends in the section nv_csv") {
				return fmt.Sprintf("warnings %q", r.Warnings)
			}
			return gpu(r)
		}},
		"more than is taken": {map[string]string{"nvidia-smi": echo(smiRow) + "; yes 'and so on and on' | head -c 9000000"}, func(r *Report) string {
			if !strings.Contains(strings.Join(r.Warnings, "\n"), "ended early") {
				return fmt.Sprintf("warnings %q", r.Warnings)
			}
			return gpu(r)
		}},
		"one endless line": {map[string]string{"nvidia-smi": echo(smiRow), "ollama": "head -c 2000000 /dev/zero | tr '\\000' x"}, gpu},
	}
	for shell, words := range scriptShells(t) {
		// The words that tunnel sends, but for the shell behind them.
		b.open(t, "case $SSH_ORIGINAL_COMMAND in 'exec /bin/sh -s') exec "+words+" ;; *) exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\" ;; esac")
		for name, c := range boxes {
			t.Run(shell+"/"+name, func(t *testing.T) {
				b.put(t, c.tools)
				start := time.Now()
				r, err := Run(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > 30*time.Second {
					t.Errorf("took %v", took)
				}
				if bad := c.check(r); bad != "" {
					t.Error(bad)
				}
				sound(t, r)
				if r.OS == "" || r.Memory.TotalBytes == nil || r.Memory.AvailableBytes == nil || r.Cores == nil || len(r.Disk) == 0 || r.Disk[0].FreeBytes == nil {
					t.Errorf("the machine's own facts are missing: %+v", r)
				}
			})
		}
	}
}

// The same script behind login shells that are not POSIX, and whose start-up files print, over a real sshd.
func TestShellLogins(t *testing.T) {
	b := newSSHBox(t)
	b.put(t, map[string]string{"nvidia-smi": "echo '" + smiRow + "'"})
	const noise = "echo '@@ begin uname'; echo 'Linux 0 vax'; printf '\\033[1mhello\\033[0m\\n'\n"
	for file, text := range map[string]string{".bashrc": noise, ".zshenv": noise, ".tcshrc": "echo '@@ welcome'\n", ".config/fish/config.fish": "echo '@@ welcome'\n", ".kshrc": noise} {
		file = filepath.Join(b.home, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"dash", "bash", "zsh", "fish", "tcsh", "ksh", "nu"} {
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
			b.open(t, "export SHELL="+login+"\nexec "+login+" -c \"$SSH_ORIGINAL_COMMAND\"")
			r, err := Run(t.Context(), b)
			whole(t, r, err)
			if len(r.Accelerators) != 1 || r.Arch == "vax" {
				t.Errorf("accelerators %+v, arch %s", r.Accelerators, r.Arch)
			}
		})
	}
	// Accounts that run nothing of ours, or talk and hang up.
	for text, want := range map[string]string{
		"echo This account is currently not available.; exit 1":     "This account is currently not available.",
		"printf '\\033[31mno\\000 shell\\033[0m\\r\\n' >&2; exit 2": "no shell",
		"exec /bin/true": "",
	} {
		b.open(t, text)
		r, err := Run(t.Context(), b)
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\x00\x1b\r") {
			t.Errorf("%s: %+v, %v, want an error with %q", text, r, err, want)
		}
	}
}

// sound checks what holds for every report, of whatever it was made: it can be written, shows no control characters,
// has no number below zero, no budget above what is free, and no address that is none.
func sound(t *testing.T, r *Report) {
	t.Helper()
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	if strings.ContainsAny(r.Summary()+strings.Join(r.Warnings, ""), "\x1b\x00\n\r") {
		t.Errorf("control characters in %q, %q", r.Summary(), r.Warnings)
	}
	for _, p := range r.Pools {
		if bytesOf(p.TotalBytes) < -1 || bytesOf(p.FreeBytes) < -1 || p.BudgetBytes != nil && (*p.BudgetBytes < 0 || p.FreeBytes == nil || *p.BudgetBytes > *p.FreeBytes) {
			t.Errorf("pool %s: total %d, free %d, budget %d", p.ID, bytesOf(p.TotalBytes), bytesOf(p.FreeBytes), bytesOf(p.BudgetBytes))
		}
	}
	for _, d := range r.Disk {
		if bytesOf(d.FreeBytes) < -1 {
			t.Errorf("disk %+v", d)
		}
	}
	for _, e := range r.Engines {
		if (e.Address == nil) != (e.Exposed == nil) {
			t.Errorf("engine %s: address %s, exposed %v", e.Name, str(e.Address), e.Exposed)
		}
		if e.Address != nil {
			if _, _, err := net.SplitHostPort(*e.Address); err != nil {
				t.Errorf("engine %s: %v", e.Name, err)
			}
		}
	}
}

// answers are the fixtures: what whole machines print.
func answers(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*/answer.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	all := map[string][]byte{}
	for _, f := range files {
		out, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(filepath.Dir(f))] = out
	}
	return all
}

// The answer of every machine, cut anywhere: a report or a plain error, and of the sections that came whole each
// fact stands.
func TestCutAnswers(t *testing.T) {
	const step = 3 // no mark and no number is that regular
	for name, out := range answers(t) {
		whole, err := Parse(nonce, out)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		memory, disk := len(out), len(out)
		for _, section := range []string{"meminfo", "sysctl", "mem"} {
			if i := bytes.Index(out, []byte("end "+section+" rc=")); i >= 0 {
				memory = i
			}
		}
		for _, section := range []string{"disk", "drives"} {
			if i := bytes.Index(out, []byte("end "+section+" rc=")); i >= 0 {
				disk = i
			}
		}
		for n := 0; n < len(out); n += step {
			r, err := Parse(nonce, out[:n])
			var none *NoAnswerError
			switch {
			case errors.As(err, &none):
				continue
			case err != nil:
				t.Fatalf("%s cut at %d: %v", name, n, err)
			}
			sound(t, r)
			if n > memory && bytesOf(r.Memory.TotalBytes) != bytesOf(whole.Memory.TotalBytes) {
				t.Errorf("%s cut at %d: total memory %d, want %d", name, n, bytesOf(r.Memory.TotalBytes), bytesOf(whole.Memory.TotalBytes))
			}
			if n > disk && len(r.Disk) != len(whole.Disk) {
				t.Errorf("%s cut at %d: %d disks, want %d", name, n, len(r.Disk), len(whole.Disk))
			}
			if t.Failed() {
				break
			}
		}
	}
}

// An answer that is cut, and in which something is changed.
func FuzzCut(f *testing.F) {
	all := answers(f)
	names := slices.Sorted(maps.Keys(all))
	for i := range names {
		f.Add(uint8(i), uint16(1<<15), uint16(1200), "\x00")
		f.Add(uint8(i), uint16(1500), uint16(700), "-9223372036854775808")
		f.Add(uint8(i), uint16(1<<15), uint16(40), "\n@@n0nce begin disk\npath /\n")
	}
	f.Fuzz(func(t *testing.T, which uint8, cut, at uint16, text string) {
		out := all[names[int(which)%len(names)]]
		out = out[:min(int(cut), len(out))]
		i := min(int(at), len(out))
		if r, err := Parse(nonce, slices.Concat(out[:i], []byte(text), out[i:])); err == nil {
			sound(t, r)
		}
	})
}

// The readers that take one section, given anything.
func FuzzSections(f *testing.F) {
	f.Add("Name : x\nAdapterRAM : 4293918720\nPNPDeviceID : PCI\\VEN_1002")
	f.Add("AMD|1|0 0 0 0 4 0 0 0||PCI\\VEN_1002")
	f.Add(`{"SPDisplaysDataType":[{"sppci_model":"x","spdisplays_vram":"4 GB"}]}`)
	f.Add("Hardware:\n Memory: 16 GB\nGraphics:\n Chipset Model: x\n VRAM (Total): 2 GB")
	f.Add("total used free\nMem: 7.6Gi 0B 9Ti")
	f.Add("ollama/ollama:1.2 0.0.0.0:1-2->1-2/tcp")
	f.Add("path /\n/dev/x 1 1 1 1% /")
	f.Add("tcp 0 0 1.2.3.4:5 0.0.0.0:* 6/x: y")
	f.Add("x 1 (LISTEN)\np5\ncx\nn*:1")
	f.Add("RAM 1/2MB (lfb 1x4MB) SWAP 3/4MB (cached 1MB)")
	f.Add("NVIDIA Jetson x - Jetpack 6.0 [L4T 36.3.0]")
	f.Add(apps)
	f.Fuzz(func(t *testing.T, text string) {
		for _, system := range []string{"Linux 6.8 x86_64", "Darwin 24.0 arm64", "Darwin 18.0 x86_64", "Windows 10.0 AMD64"} {
			sections := []string{"uname", system}
			for _, name := range []string{"cim_os", "cim_gpu", "gpureg", "win", "mem", "drives", "displays", "free", "docker", "disk", "listen", "lsof", "sysctl", "vm_stat", "cgroup", "cpu", "procs", "v_ollama", "tegrastats", "jetson_release", "nv_apps"} {
				sections = append(sections, name, text)
			}
			r, err := Parse(nonce, printed(sections...))
			if err != nil {
				t.Fatal(err)
			}
			sound(t, r)
		}
	})
}
