package remote

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// vllmNeeds is about what an installation of vLLM takes on a disk: the packages, and their archives on the way.
const vllmNeeds = 16 << 30

// InstallPlan is what an installation of vLLM would do on a box. It needs no root, and all of it lies in one folder.
type InstallPlan struct {
	// Commands are what runs there, in their order, as one would type them.
	Commands []string `json:"commands"`
	// Folder is where it goes. Need is about how many bytes it takes, Free how many are free there; 0 is not known.
	Folder string `json:"folder"`
	Need   int64  `json:"need_bytes"`
	Free   int64  `json:"free_bytes"`

	words []string // what is substituted in the script
}

// InstallError says that an engine cannot be installed on a box, or that the installation came to nothing.
type InstallError struct {
	Engine string `json:"engine"`
	// Text says why, Log are the last lines that the installer wrote.
	Text string   `json:"text"`
	Log  []string `json:"log"`
}

func (e *InstallError) Error() string {
	s := fmt.Sprintf("install %s on the box: %s", e.Engine, e.Text)
	if n := len(e.Log); n > 0 {
		s += ": " + strings.Join(e.Log[max(0, n-3):], " · ")
	}
	return s
}

const installFactsScript = `
say home "$HOME"; say os "$(uname -s)"; say arch "$(uname -m)"
for p in "$(command -v uv 2>/dev/null)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do [ -n "$p" ] && [ -x "$p" ] && { say uv "$p"; break; }; done
for p in python3.12 python3 python3.13 python3.11 python3.10; do
  "$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 15))' 2>/dev/null && { say python "$(command -v $p)"; break; }
done
for f in /dev/nvidiactl /dev/nvidia0 /dev/dxg /dev/nvgpu /dev/nvhost-gpu; do [ -e "$f" ] && { say gpu "$f"; break; }; done
say free "$(df -Pk "$HOME" 2>/dev/null | tail -n 1 | { read -r a b c d e; echo "$d"; })"
`

// PlanInstall says what Install would do. A box that vLLM is not for is an *InstallError.
func (v *VLLM) PlanInstall(ctx context.Context) (*InstallPlan, error) {
	a, err := v.script(ctx, installFactsScript)
	if err != nil {
		return nil, err
	}
	p := &InstallPlan{Folder: a.get("home") + "/.rlca/vllm", Need: vllmNeeds}
	if kib, err := strconv.ParseInt(a.get("free"), 10, 52); err == nil && kib > 0 {
		p.Free = kib << 10
	}
	fail := func(format string, args ...any) (*InstallPlan, error) {
		return nil, &InstallError{Engine: "vLLM", Text: fmt.Sprintf(format, args...)}
	}
	uv, python := a.get("uv"), a.get("python")
	switch {
	case a.get("os") != "Linux":
		return fail("it is for Linux, and the box runs %s", a.get("os"))
	case a.get("arch") != "x86_64" && a.get("arch") != "aarch64":
		return fail("there are no packages of it for %s", a.get("arch"))
	case a.get("gpu") == "":
		return fail("its packages are for NVIDIA's GPUs, and the box shows none")
	case p.Free > 0 && p.Free < p.Need:
		return fail("%s has %s free, and about %s are needed", a.get("home"), gib(p.Free), gib(p.Need))
	case uv != "":
		p.words = []string{uv, "venv", "--python", "3.12", p.Folder, "&&", uv, "pip", "install", "--python", p.Folder + "/bin/python", "vllm", "--torch-backend=auto"}
	case python != "":
		p.words = []string{python, "-m", "venv", p.Folder, "&&", p.Folder + "/bin/python", "-m", "pip", "install", "--progress-bar", "off", "vllm"}
	default:
		return fail("it needs uv, or Python 3.10 to 3.14 with venv: curl -LsSf https://astral.sh/uv/install.sh | sh, or apt-get install python3-venv")
	}
	for line := range strings.SplitSeq(p.line(plainWord), " && ") {
		p.Commands = append(p.Commands, line)
	}
	return p, nil
}

// line is the plan as one line of a shell.
func (p *InstallPlan) line(word func(string) string) string {
	var words []string
	for _, w := range p.words {
		if w != "&&" {
			w = word(w)
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// plainWord quotes a word for a shell only if it must be.
func plainWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=-") == "" {
		return s
	}
	return quote(s)
}

// The job of an installation, and the file that says that it is complete.
const (
	installJob      = "vllm-install"
	installComplete = "rlca-complete"
)

// Install installs vLLM into ~/.rlca/vllm, where it is found from then on. It runs on the box and outlives the link; one
// that runs already is followed. When ctx ends it is stopped; what was fetched is used by the next one. The caller has
// asked the user.
func (v *VLLM) Install(ctx context.Context, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	plan, err := v.PlanInstall(ctx)
	if err != nil {
		return err
	}
	body := "rm -rf " + quote(plan.Folder) + " && " + plan.line(quote) + " && : > " + quote(plan.Folder+"/"+installComplete)
	mark := nonce()
	progress(Progress{Step: StepEngine, Text: "installing vLLM in " + plan.Folder})
	l, err := v.launch(ctx, mark, job{
		name: installJob, log: installJob + ".log", fresh: true, argv: []string{"/bin/sh", "-c", body},
		env: []string{"UV_NO_PROGRESS=1", "PIP_NO_INPUT=1", "PIP_DISABLE_PIP_VERSION_CHECK=1"},
	})
	if err != nil {
		return &InstallError{Engine: "vLLM", Text: err.Error()}
	}
	v.log.Info("installing", "engine", v.job, "pid", l.pid, "ours", l.ours)
	lines, err := v.follow(ctx, l, progress)
	if err != nil { // only a context that ended
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if _, err := v.endInstall(clean, l.mark); err != nil {
			v.log.Warn("not undone", "what", "installation of vLLM", "err", err)
		}
		return fmt.Errorf("install vLLM on the box: %w", err)
	}
	whole, err := v.endInstall(ctx, l.mark)
	if err == nil && !whole {
		err = &InstallError{Engine: "vLLM", Text: "its installer ended half way", Log: lines}
	}
	return err
}

// follow tells of an installation until its process has ended, and returns the end of its log.
func (v *VLLM) follow(ctx context.Context, l *launched, progress func(Progress)) (lines []string, err error) {
	told := ""
	for {
		p, err := v.pulse(ctx, installJob, l.mark, installJob+".log", 0, 12)
		if err == nil && !p.alive {
			return p.lines, nil
		}
		if n := len(p.lines); n > 0 && p.lines[n-1] != told {
			told = p.lines[n-1]
			progress(Progress{Step: StepEngine, Text: "installing vLLM: " + told})
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(v.poll):
		}
	}
}

// endInstall ends an installation with a mark, any if that is empty, and removes what it left if it is not complete.
func (v *VLLM) endInstall(ctx context.Context, mark string) (complete bool, err error) {
	if _, err := v.halt(ctx, installJob, mark, installJob+".log"); err != nil {
		return false, err
	}
	a, err := v.script(ctx, `if [ -f "$D/vllm/`+installComplete+`" ]; then say complete 1
elif record `+installJob+`; then :; else rm -rf "$D/vllm"; fi
`+tidyScript)
	if err != nil {
		return false, err
	}
	return a.get("complete") != "", nil
}

// Uninstall removes what Install put on the box, and says in words what that was. A vLLM that rlca runs must be stopped
// before.
func (v *VLLM) Uninstall(ctx context.Context) ([]string, error) {
	f, err := v.look(ctx)
	if err != nil {
		return nil, err
	}
	if f.alive {
		return nil, fmt.Errorf("remove vLLM from the box: it runs on %s: stop it first", f.ours.address)
	}
	if _, err := v.halt(ctx, installJob, "", installJob+".log"); err != nil {
		return nil, err
	}
	a, err := v.script(ctx, `[ ! -d "$D/vllm" ] || { rm -rf "$D/vllm" && say removed "$D/vllm"; }
`+volumeScript+tidyScript)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, r := range a.lines["removed"] {
		removed = append(removed, "removed "+r)
	}
	return removed, nil
}
