package remote

import (
	"context"
	"path"
	"slices"
	"strings"
)

// facts is what one script finds out about the box before anything is done.
type facts struct {
	home, path, curl string
	// models is the folder that a server of this account would use, as its environment or its shell files say.
	models string
	// how says how a server that is not ours is run, empty if unknown.
	how string
	// ours is the record of a server that we started; alive if it still is that server.
	ours  record
	alive bool
	// pulls are the names of our downloads that run or ran.
	pulls []string
	// derived are the models that we made on servers that we adopted.
	derived []copied

	// vllm is what VLLM finds out besides.
	vllm vllmFacts

	listenersKnown bool
	listeners      []listener
}

// record is what launch writes about a process that it starts.
type record struct {
	pid           int
	mark, address string
}

const factsScript = `
say home "$HOME"
say path "$(command -v ollama)"
say curl "$(command -v curl)"
say models "$OLLAMA_MODELS"
for f in .profile .bash_profile .bashrc .zshenv .zprofile .zshrc; do
  [ -r "$HOME/$f" ] && sed -n 's/^[[:space:]]*\(export[[:space:]][[:space:]]*\)\{0,1\}OLLAMA_MODELS=//p' "$HOME/$f" 2>/dev/null
done | while read -r v; do say rcmodels "$v"; done
if record ollama; then say pid "$P"; say mark "$M"; say address "$A"; mine && say alive 1; fi
for f in "$D"/pull-*.pid; do [ -e "$f" ] && { f=${f##*/}; say pull "${f%.pid}"; }; done
[ -r "$D/derived" ] && while read -r a m; do say derived "$a $m"; done < "$D/derived"
brief=; command -v timeout >/dev/null 2>&1 && brief="timeout 3"
if command -v systemctl >/dev/null 2>&1 && [ "$($brief systemctl is-active ollama 2>/dev/null)" = active ]; then say how "system service"
elif [ "$(uname -s)" = Darwin ] && ps -axo comm= 2>/dev/null | grep -q 'Ollama.app/Contents/MacOS'; then say how "desktop app"; fi
` + listenersScript

// look runs the script.
func (o *Ollama) look(ctx context.Context) (*facts, error) {
	if o.windows() {
		return o.lookWindows(ctx)
	}
	a, err := o.script(ctx, factsScript)
	if err != nil {
		return nil, err
	}
	f := &facts{home: a.get("home"), path: a.get("path"), curl: a.get("curl"), how: a.get("how"), pulls: a.lines["pull"]}
	f.models = modelsFolder(f.home, a.get("models"), a.lines["rcmodels"])
	f.ours = record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}
	f.alive = a.get("alive") != ""
	for _, d := range a.lines["derived"] {
		if addr, name, ok := strings.Cut(d, " "); ok {
			f.derived = append(f.derived, copied{addr, name})
		}
	}
	f.listenersKnown, f.listeners = parseListeners(a)
	return f, nil
}

// modelsFolder is where a server of this account keeps its models: its environment says it, else the last plain
// assignment in a shell file, which a bare SSH command does not read. Ollama's own default comes last.
func modelsFolder(home, env string, rc []string) string {
	if env != "" {
		return env
	}
	for _, v := range slices.Backward(rc) {
		v = strings.TrimSpace(v)
		switch {
		case strings.HasPrefix(v, `"`):
			v, _, _ = strings.Cut(v[1:], `"`)
		case strings.HasPrefix(v, `'`):
			v, _, _ = strings.Cut(v[1:], `'`)
		default:
			v, _, _ = strings.Cut(v, " ")
			v, _, _ = strings.Cut(v, ";")
		}
		for _, h := range []string{"~/", "$HOME/", "${HOME}/"} {
			if rest, ok := strings.CutPrefix(v, h); ok {
				v = path.Join(home, rest)
			}
		}
		if strings.HasPrefix(v, "/") && !strings.ContainsAny(v, "$`*?\\") {
			return v
		}
	}
	return path.Join(home, ".ollama", "models")
}
