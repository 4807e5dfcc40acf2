package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Orphan is a process of an engine that is gone. It goes on holding its memory, and serves nobody.
type Orphan struct {
	PID int `json:"pid"`
	// Name is what it is: "ollama runner", "VLLM::EngineCore".
	Name string `json:"name"`
	// Engine is whose it was: "Ollama", "llama-server", "vLLM".
	Engine string `json:"engine"`
	// Bytes is the memory that only its end gives back: its own and what it shares with others, without files. VRAMBytes
	// is what it holds on NVIDIA GPUs. 0 is not known.
	Bytes     int64 `json:"bytes"`
	VRAMBytes int64 `json:"vram_bytes"`
	// Ours is true if it carries the mark of an engine that rlca started on this account.
	Ours bool `json:"ours"`
	// Another is true if it belongs to another account of the box.
	Another bool `json:"another"`

	job, mark string // of the record, if it is ours
	windows   bool
}

// String names it with its number and what it holds: "process 4242 (ollama runner, 1.2 GiB)".
func (o Orphan) String() string {
	s := fmt.Sprintf("process %d (%s", o.PID, o.Name)
	if o.Bytes > 0 {
		s += ", " + gib(o.Bytes)
	}
	if o.VRAMBytes > 0 {
		s += ", " + gib(o.VRAMBytes) + " on the GPU"
	}
	return s + ")"
}

// Command ends it. It is for a person to run on the box: rlca ends only what it started.
func (o Orphan) Command() string {
	if o.windows {
		return fmt.Sprintf("taskkill /F /PID %d", o.PID)
	}
	if o.Another {
		return fmt.Sprintf("sudo kill %d", o.PID)
	}
	return fmt.Sprintf("kill %d", o.PID)
}

// orphanTitles are the engines by the names of their records.
var orphanTitles = map[string]string{"ollama": "Ollama", "llama-server": "llama-server", "vllm": "vLLM"}

// heldScript is the shell function that says in KiB what only the end of process $1 gives back. The files that it has
// mapped, a model's too, give way by themselves.
const heldScript = `held() {
  if [ -r "/proc/$1/status" ]; then
    grep -E '^Rss(Anon|Shmem):' "/proc/$1/status" 2>/dev/null | { n=0; while read -r k v u; do n=$((n+v)); done; echo $n; }
  else ps -o rss= -p "$1" 2>/dev/null | tr -d ' '; fi
}
# cards: what processes hold on NVIDIA's GPUs, in MiB
cards() {
  command -v nvidia-smi >/dev/null 2>&1 || return
  brief=; command -v timeout >/dev/null 2>&1 && brief="timeout 5"
  $brief nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits 2>/dev/null | while read -r l; do say card "$l"; done
}
`

// orphansScript looks for two kinds. Ours carry the mark of a record whose process is gone. Of others only such are told
// that no engine runs alone, and whose parent is the system's first process: of a llama-server alone nobody knows whether
// it is one. Where the first process is the engine itself, as in a container, it is the parent of all.
const orphansScript = heldScript + `
seen=" " some=
row() { say orphan "$1 ${2:--} $3 $(held "$3") $4"; some=1; }
words() { if [ -r "/proc/$1/cmdline" ]; then tr '\000' ' ' < "/proc/$1/cmdline" 2>/dev/null; else ps -ww -o args= -p "$1" 2>/dev/null; fi | cut -c 1-300; }
for n in ollama llama-server vllm; do
  record "$n" && ! mine || continue
  for p in $(family "$M" "$P"); do seen="$seen$p "; row "$n" "$M" "$p" "$(words "$p")"; done
done
kind() { case $1 in *"ollama runner "*) k=ollama;; */ollama/*llama-server" "*) k=ollama;; VLLM::*) k=vllm;; *) return 1;; esac; }
stranger() {
  case $seen in *" $1 "*) return;; esac
  a=$(words "$1")
  kind "$a" && row "$k" "" "$1" "$a"
}
case $(words 1) in
*ollama*|*vllm*|*VLLM*|*python*) ;;
*)
  if [ -r /proc/self/stat ]; then
    for c in $(grep -lE '^(ollama|llama-server|VLLM::.*)$' /proc/[0-9]*/comm 2>/dev/null); do
      p=${c#/proc/} p=${p%/comm}
      q=$(sed 's/.*) //' "/proc/$p/stat" 2>/dev/null | cut -d' ' -f2)
      [ "$q" = 1 ] || case $(cat "/proc/$q/comm" 2>/dev/null) in systemd) ;; *) continue;; esac
      lives "$p" || continue
      stranger "$p"
      grep '^Uid:' "/proc/$p/status" 2>/dev/null | while read -r x u y; do [ "$u" = "$(id -u)" ] || say another "$p"; done
    done
  else
    for p in $(ps -axo pid=,ppid=,args= 2>/dev/null | while read -r p q a; do [ "$q" = 1 ] && kind "$a" && echo "$p"; done); do
      stranger "$p"
      u=$(ps -o uid= -p "$p" 2>/dev/null | tr -d ' '); [ "$u" = "$(id -u)" ] || say another "$p"
    done
  fi;;
esac
[ -z "$some" ] || cards
`

// Orphans finds what engines that are gone have left running on the box: those of rlca's, and those of others. What holds
// most comes first. It ends nothing.
func Orphans(ctx context.Context, box Box) ([]Orphan, error) {
	h := newHost(box)
	if h.windows() {
		return h.orphansWindows(ctx)
	}
	a, err := h.script(ctx, orphansScript)
	if err != nil {
		return nil, fmt.Errorf("look for what dead engines left running: %w", err)
	}
	cards := cardsOf(a)
	var list []Orphan
	for _, line := range a.lines["orphan"] {
		f := strings.SplitN(line, " ", 5)
		if len(f) < 5 {
			continue
		}
		pid, err := strconv.Atoi(f[2])
		if err != nil || pid <= 1 {
			continue
		}
		kib, _ := strconv.ParseInt(f[3], 10, 43)
		o := Orphan{
			PID: pid, Name: orphanName(f[4]), Engine: orphanTitles[f[0]], Bytes: kib << 10, VRAMBytes: cards[pid],
			Another: slices.Contains(a.lines["another"], f[2]), job: f[0],
		}
		if f[1] != "-" {
			o.Ours, o.mark = true, f[1]
		}
		list = append(list, o)
	}
	slices.SortStableFunc(list, func(a, b Orphan) int { return cmp.Compare(b.Bytes+b.VRAMBytes, a.Bytes+a.VRAMBytes) })
	return list, nil
}

// cardsOf reads what nvidia-smi said of processes: bytes by number. What it does not know it calls [N/A].
func cardsOf(a *answer) map[int]int64 {
	held := map[int]int64{}
	for _, line := range a.lines["card"] {
		pid, mib, _ := strings.Cut(line, ",")
		p, err1 := strconv.Atoi(strings.TrimSpace(pid))
		m, err2 := strconv.ParseInt(strings.TrimSpace(mib), 10, 43)
		if err1 == nil && err2 == nil {
			held[p] += m << 20 // one on several GPUs has a line for each
		}
	}
	return held
}

// orphanName makes a name of the words that a process was started with.
func orphanName(args string) string {
	words := strings.Fields(args)
	if len(words) == 0 {
		return "without a name"
	}
	switch i := slices.Index(words, "runner"); {
	case strings.HasPrefix(words[0], "VLLM::"):
		return words[0]
	case i > 0:
		return path.Base(words[i-1]) + " runner"
	}
	return path.Base(words[0])
}

// endOrphansScript looks again under the lock: only what belongs to the same record, whose process is still gone, is ended.
const endOrphansScript = detachScript + `
name=%s mark=%s
[ -d "$D" ] || return
why=$(lock 2>&1) || { say error "$why"; return; }
trap unlock EXIT; trap 'unlock; exit 1' HUP INT TERM
record "$name" && [ "$M" = "$mark" ] && ! mine && [ -n "$(family "$M" "$P")" ] && {
  halt "$name" "$mark"
  record "$name" || rm -f "$D/$name.log" "$D/$name.log.old"
}
unlinger
unlock
` + tidyScript

// EndOrphans ends those of a list that are ours, as Stop ends an engine. Others are left as they are.
func EndOrphans(ctx context.Context, box Box, list []Orphan) error {
	h := newHost(box)
	if h.windows() {
		return h.endOrphansWindows(ctx, list)
	}
	done := map[string]bool{}
	var errs []error
	for _, o := range list {
		if !o.Ours || done[o.mark] {
			continue
		}
		done[o.mark] = true
		a, err := h.script(ctx, fmt.Sprintf(endOrphansScript, quote(o.job), quote(o.mark)))
		switch why := ""; {
		case err != nil:
			errs = append(errs, err)
		case a.get("error") != "" || a.get("survived") != "":
			if why = a.get("error"); why == "" {
				why = "process " + a.get("survived") + " does not end, not even by force"
			}
			errs = append(errs, fmt.Errorf("end what a dead %s left behind: %s", cmp.Or(o.Engine, o.job), why))
		case a.get("haltpid") != "":
			h.log.Info("ended what a dead engine left behind", "engine", o.job, "pid", o.PID, "lingering", lingerWords(a))
		}
	}
	return errors.Join(errs...)
}
