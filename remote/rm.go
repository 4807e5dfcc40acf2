package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RemoveError says that a model was not removed. It is on the box as it was.
type RemoveError struct {
	Model string `json:"model"`
	// Class is missing, loaded, used (by processes of another engine), pulling, shared, link, denied, or other.
	Class string `json:"class"`
	Text  string `json:"text"`
	// Near are names that resemble a missing one.
	Near []string `json:"near"`
}

func (e *RemoveError) Error() string {
	return fmt.Sprintf("remove %s from the box: %s", e.Model, e.Text)
}

// removeLimit is how long the files of a model may take to be removed.
const removeLimit = 5 * time.Minute

// CachedRepo is a repository in the account's cache of the Hugging Face hub on a box.
type CachedRepo struct {
	// Name is "org/name", Path its folder.
	Name, Path string
	// Bytes is what it takes on the disk.
	Bytes int64
}

// FindRepo finds a repository in the cache of the hub. One that is not there, or must not be removed because it is in
// use, is a *RemoveError.
func FindRepo(ctx context.Context, box Box, name string) (*CachedRepo, error) {
	r, _, err := removeFrom(ctx, newHost(box), name, false)
	return r, err
}

// RemoveRepo removes a repository from the cache of the hub: its folder, and nothing outside of the cache. It returns how
// many bytes that gave back. All that FindRepo refuses is looked at again right before.
func RemoveRepo(ctx context.Context, box Box, name string) (freed int64, err error) {
	_, freed, err = removeFrom(ctx, newHost(box), name, true)
	return freed, err
}

// lookRepo looks at a repository of the cache and whether it may be removed. folder and name are set ahead of it.
//
// The folder has to lie in the cache itself: a link leads to a place that the cache does not own. What counts as in use
// is what has a file of it open or mapped, or its name as an argument, and a download of rlca's that runs.
const lookRepo = hubCache + `
find_hub
real=$(cd "$hub" 2>/dev/null && pwd -P) || { say missing 1; return; }
repo=$real/$folder
if [ -L "$repo" ] || [ -L "$repo/blobs" ] || [ -L "$repo/snapshots" ]; then frame link; printf '%s' "$repo"; return; fi
[ -d "$repo" ] || { say missing 1; return; }
[ "$(cd "$repo" 2>/dev/null && pwd -P)" = "$repo" ] && [ -d "$repo/snapshots" ] || { say odd 1; return; }
frame path; printf '%s' "$repo"
say du "$(du -sk "$repo" 2>/dev/null | { read -r k r; echo "$k"; })"
# Files with other names elsewhere give nothing back.
sum=0; sum=$(find "$repo" -type f -links 1 -exec du -k {} + 2>/dev/null | { while read -r k r; do sum=$((sum+k)); done; echo $sum; })
say own "$sum"
for f in "$D"/hub-*.pid; do
  n=${f##*/} n=${n%.pid}
  [ -e "$f" ] && record "$n" && mine && grep -q "^cache .*/$folder\$" "$D/$n.list" 2>/dev/null && { say pulling 1; return; }
done
find "$real" -path "$repo" -prune -o -type l -exec ls -ld {} + 2>/dev/null | grep -F "/$folder/" | sed -n 's/.*\/models--\([^/]*\)\/snapshots\/.* -> .*/\1/p' | head -n 1 | while read -r o; do say shared "$o"; done
# On this machine the rlca that asks has the name among its arguments, too.
user() {
  c=$(cat "/proc/$1/comm" 2>/dev/null) || c=$(ps -o comm= -p "$1" 2>/dev/null)
  case $c in rlca|*/rlca) ;; *) say user "$1 $c";; esac
}
named() { tr '\0' '\n' | grep -qE "(^|=)$name(:[A-Za-z0-9._-]*)?\$|/$folder(/|\$)"; }
if [ -r /proc/self/environ ]; then
  { grep -lF "/$folder/" /proc/[0-9]*/maps 2>/dev/null | cut -d/ -f3
  ls -l /proc/[0-9]*/fd 2>/dev/null | while read -r l; do case $l in /proc/*) p=${l#/proc/} p=${p%%/*};; *"/$folder/"*) echo "$p";; esac; done
  if printf 'a\0b\n' | grep -qF b; then list=$(grep -lF "${folder#models--}
$name" /proc/[0-9]*/cmdline 2>/dev/null); else list=$(ls -d /proc/[0-9]*/cmdline); fi
  for f in $list; do named < "$f" 2>/dev/null && { p=${f#/proc/}; echo "${p%%/*}"; }; done
  } 2>/dev/null | sort -u | while read -r p; do [ "$p" = $$ ] || ! lives "$p" || user "$p"; done
else
  ps -axww -o pid= -o args= 2>/dev/null | while read -r p a; do
    case " $a " in *" models rm "*) ;; *" $name "*|*"=$name "*|*" $name:"*|*"=$name:"*|*"/$folder/"*) [ "$p" = $$ ] || user "$p";; esac
  done
fi
say looked 1
`

// removeRepo removes it, after lookRepo has found nothing against that. It gets another name first, so that nobody finds
// half a model. folder is set ahead of it.
const removeRepo = hubCache + `
find_hub
real=$(cd "$hub" 2>/dev/null && pwd -P) && repo=$real/$folder && [ ! -L "$repo" ] && [ "$(cd "$repo" 2>/dev/null && pwd -P)" = "$repo" ] || { say missing 1; return; }
find "$real" -maxdepth 1 -name '.rlca-removed-*' -mmin +60 -exec rm -rf {} + 2>/dev/null
trash=$real/.rlca-removed-$N
why=$(mv "$repo" "$trash" 2>&1) || { say denied "$why"; return; }
why=$(rm -rf "$trash" 2>&1) || say left "$why"
[ -L "$real/.locks" ] || [ -L "$real/.locks/$folder" ] || rm -rf "$real/.locks/$folder"
say removed 1
`

// removeFrom finds a repository of the cache, and removes it if it shall.
func removeFrom(ctx context.Context, h host, name string, remove bool) (*CachedRepo, int64, error) {
	fail := func(class, format string, args ...any) (*CachedRepo, int64, error) {
		return nil, 0, &RemoveError{Model: clean(name), Class: class, Text: fmt.Sprintf(format, args...)}
	}
	want := Repo{Name: name, Revision: "main"}
	if err := want.check(); err != nil {
		return fail("other", "%v", err)
	}
	folder := "models--" + strings.ReplaceAll(name, "/", "--")
	begin := assign("folder", folder, "name", name) + `frame() { printf '\n%s raw:%s=*\n' "$N" "$1"; }` + "\n"
	a, err := h.scriptFor(ctx, removeLimit, begin+lookRepo)
	if err != nil {
		return nil, 0, err
	}
	repo := clean(string(a.raw["path"]))
	switch {
	case a.get("missing") != "":
		return fail("missing", "it is not in the account's cache of the hub there")
	case a.raw["link"] != nil:
		return fail("link", "%s, or a folder of it, is a link to another place, and only what lies in the cache is removed", clean(string(a.raw["link"])))
	case a.get("odd") != "":
		return fail("other", "its folder in the cache is not one that the hub's programs made")
	case a.get("pulling") != "":
		return fail("pulling", "a download of it runs there")
	case a.get("shared") != "":
		return fail("shared", "%s in the same cache has links into it", strings.Replace(a.get("shared"), "--", "/", 1))
	case len(a.lines["user"]) > 0:
		return fail("used", "it is in use there, by process %s", strings.Join(a.lines["user"], ", "))
	case a.get("looked") == "" || repo == "":
		return nil, 0, fmt.Errorf("look at %s in the cache of the box: the box said nothing of it: %s", clean(name), strings.Join(a.lines["noise"], " · "))
	}
	kib, _ := strconv.ParseInt(strings.TrimSpace(a.get("du")), 10, 50)
	own, _ := strconv.ParseInt(strings.TrimSpace(a.get("own")), 10, 50)
	found := &CachedRepo{Name: name, Path: repo, Bytes: kib << 10}
	if !remove {
		return found, 0, nil
	}
	a, err = h.scriptFor(ctx, removeLimit, assign("folder", folder)+removeRepo)
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("remove %s from the box: %w", clean(name), err)
	case a.get("missing") != "":
		return fail("missing", "it is not in the account's cache of the hub there any more")
	case a.get("denied") != "":
		return fail("denied", "%s", a.get("denied"))
	case a.get("left") != "":
		return fail("denied", "a part of it was left: %s", a.get("left"))
	case a.get("removed") == "":
		return nil, 0, fmt.Errorf("remove %s from the box: the box did not say that it is done: %s", clean(name), strings.Join(a.lines["noise"], " · "))
	}
	h.log.Info("removed", "model", name, "path", repo, "bytes", own<<10)
	return found, own << 10, nil
}

// Removable finds a model of Ollama's and refuses one that is loaded. What cannot be removed is a *RemoveError, and
// Ollama that does not run a *NotRunningError: only it knows which files other models share.
func (o *Ollama) Removable(ctx context.Context, model string) (*ModelFile, error) {
	m, _, _, err := o.removable(ctx, model)
	return m, err
}

func (o *Ollama) removable(ctx context.Context, model string) (*ModelFile, *facts, *Server, error) {
	f, err := o.look(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	s, foreign, err := o.find(ctx, f, o.address)
	if err != nil {
		return nil, nil, nil, err
	}
	if s == nil {
		return nil, nil, nil, o.absent(ctx, f, foreign)
	}
	tags, err := o.api(s.Address).tags(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("list the models of %s: %w", s.Title(), err)
	}
	t := findTag(tags, model)
	if t == nil {
		var names []string
		for _, t := range tags {
			names = append(names, t.Name)
		}
		return nil, nil, nil, &RemoveError{Model: clean(model), Class: "missing", Text: s.Title() + " there has no such model", Near: near(model, names)}
	}
	loaded, err := o.api(s.Address).ps(ctx)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("ask %s what is loaded: %w", s.Title(), err)
	}
	for _, r := range loaded {
		if sameName(r.Name, t.Name) || sameName(baseOf(r.Name), t.Name) || t.Digest != "" && r.Digest == t.Digest {
			return nil, nil, nil, &RemoveError{Model: t.Name, Class: "loaded", Text: s.Title() + " has it loaded, as " + r.Name}
		}
	}
	if slices.ContainsFunc(f.pulls, func(job string) bool { return job == pullJob(t.Name) }) {
		return nil, nil, nil, &RemoveError{Model: t.Name, Class: "pulling", Text: "a download of it runs there"}
	}
	return &ModelFile{Name: t.Name, Digest: t.Digest, Bytes: t.Size, Quant: known(t.Details.Quant), Family: clean(t.Details.Family)}, f, s, nil
}

// Remove removes a model by Ollama's own API, with the copies of its name that rlca made. It returns how many bytes the
// disk of its models has more, -1 if that cannot be told.
func (o *Ollama) Remove(ctx context.Context, model string) (freed int64, err error) {
	m, f, s, err := o.removable(ctx, model)
	if err != nil {
		return -1, err
	}
	before, _, err := o.room(ctx, f)
	if err != nil {
		return -1, err
	}
	for _, d := range f.derived {
		if d.address == s.Address && sameName(baseOf(d.name), m.Name) {
			if err := o.removeDerived(ctx, d); err != nil {
				return -1, err
			}
		}
	}
	err = o.api(s.Address).call(ctx, removeLimit, "DELETE", "/api/delete", map[string]any{"model": m.Name}, nil)
	var status *statusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusNotFound:
		return -1, &RemoveError{Model: m.Name, Class: "missing", Text: s.Title() + " there does not have it any more"}
	case errors.As(err, &status):
		return -1, &RemoveError{Model: m.Name, Class: "other", Text: s.Title() + " says: " + status.Text}
	case err != nil:
		return -1, fmt.Errorf("remove %s from the box: %w", m.Name, err)
	}
	o.log.Info("removed", "model", m.Name, "bytes", m.Bytes)
	after, _, err := o.room(ctx, f)
	if err != nil || before < 0 || after < 0 {
		return -1, nil
	}
	return max(0, min(after-before, m.Bytes)), nil // others write to that disk, too
}

// roomScript says what the disk of a models folder has free: of the first folder that is there.
const roomScript = `
for p in %s; do
  while [ -n "$p" ] && [ ! -d "$p" ]; do p=${p%%/*}; done
  [ -n "$p" ] && [ "$p" != / ] || continue
  say df "$(df -Pk "$p" 2>/dev/null | tail -n 1)"; say where "$p"
  say partial "$(find "$p/blobs" -name '*-partial*' -type f -exec du -k {} + 2>/dev/null | { s=0; while read -r k r; do s=$((s+k)); done; echo $s; })"
  return
done
`

// room is how many bytes the disk of Ollama's models has free, and how many of unfinished downloads lie there already. A
// free of -1 is not known.
func (o *Ollama) room(ctx context.Context, f *facts) (free, partial int64, err error) {
	if o.windows() {
		return -1, 0, nil
	}
	dirs := quote(f.models)
	if f.how == "system service" && !f.alive {
		dirs = quote("/usr/share/ollama/.ollama/models") + " " + quote("/var/lib/ollama") + " " + dirs
	}
	a, err := o.script(ctx, fmt.Sprintf(roomScript, dirs))
	if err != nil {
		return -1, 0, fmt.Errorf("ask how much room the box has: %w", err)
	}
	kib, _ := strconv.ParseInt(strings.TrimSpace(a.get("partial")), 10, 50)
	return freeOf(a.get("df")), kib << 10, nil
}
