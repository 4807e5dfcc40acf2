package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Limits of one script on the box.
const (
	scriptLimit = 30 * time.Second
	undoLimit   = 20 * time.Second
)

// quote makes s one word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// nonce is a word that no noise on the box contains by accident.
func nonce() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return "rlca" + hex.EncodeToString(b[:])
}

// born is the shell function that tells processes with one number apart: the clock ticks at which PID started.
const born = `born() {
  if [ -r "/proc/$1/stat" ]; then sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
  else ps -o lstart= -p "$1" 2>/dev/null | tr -s ' ' _; fi
}
`

// lives is the shell function that says whether PID is there, and not only waiting to be reaped.
const lives = `lives() {
  kill -0 "$1" 2>/dev/null || return 1
  if [ -r "/proc/$1/stat" ]; then case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in Z*|X*|'') return 1;; esac
  else case $(ps -o stat= -p "$1" 2>/dev/null) in Z*|'') return 1;; esac; fi
}
`

// family is the shell function that lists, of MARK and PID, every process that carries the mark; where environments cannot
// be read, the process group. The grep of busybox sees nothing behind the first zero byte.
//
// A program that changes its name, as vLLM's processes do, writes over the beginning of its environment: one that does not
// begin as an environment counts if it is of the session of PID. While a session has members its number is given to no
// process; where PID is one that was born at another time than B, nothing counts.
const family = `carries() { { tr '\0' '\n' < "$1" | grep -qF "RLCA_OWNER=$2"; } 2>/dev/null; }
blank() { [ -r "/proc/$1/environ" ] || return 1; case $({ tr '\0' '\n' < "/proc/$1/environ" | sed -n 1p; } 2>/dev/null) in *=*) return 1;; esac; }
renamed() {
  [ -n "$1" ] && { ! lives "$1" || [ "$(born "$1")" = "$B" ]; } || return 0
  grep -lE "\) [A-Za-z] [0-9]+ $1 $1 " /proc/[0-9]*/stat 2>/dev/null | while IFS=/ read -r a b p c; do blank "$p" && echo "/proc/$p/environ"; done
}
family() {
  if [ -r /proc/self/environ ]; then
    { if printf 'a\0b\n' | grep -qF b; then grep -lF "RLCA_OWNER=$1" /proc/[0-9]*/environ 2>/dev/null
    else for f in /proc/[0-9]*/environ; do carries "$f" "$1" && echo "$f"; done; fi; renamed "$2"; } | cut -d/ -f3
  else ps -axo pid=,pgid= 2>/dev/null | while read -r p g; do [ "$g" = "$2" ] && echo "$p"; done; fi | while read -r p; do lives "$p" && echo "$p"; done
}
`

// prelude are the functions that the scripts share. D is our folder on the box, N the nonce before each line of an
// answer; %[2]s are more folders to look for programs in, because the PATH of an SSH command is often poor.
const prelude = `LC_ALL=C; export LC_ALL
N=%[1]s
[ -n "$HOME" ] || HOME=$(cd ~ 2>/dev/null && pwd); export HOME
D=$HOME/.rlca
for d in %[2]s; do case $d in "~/"*) d=$HOME/${d#"~/"};; esac; case :$PATH: in *":$d:"*) ;; *) [ -d "$d" ] && PATH=$PATH:$d;; esac; done; export PATH
say() { printf '\n%%s %%s=%%s\n' "$N" "$1" "$2"; }
nap() { sleep 0.1 2>/dev/null || sleep 1; }
` + born + lives + family + containersScript + `# record NAME: reads what launch wrote: P pid, B born, M mark, A address
record() {
  P= B= M= A=
  [ -r "$D/$1.pid" ] && { read -r P; read -r B; read -r M; read -r A; } 2>/dev/null < "$D/$1.pid"
  case $P in ''|*[!0-9]*) P=; return 1;; esac
  case $M in ''|*[!0-9a-z]*) P=; return 1;; esac
}
# mine: the process of the record still is the one that we started
mine() {
  [ -n "$P" ] && lives "$P" && [ "$(born "$P")" = "$B" ] || return 1
  [ ! -r "/proc/$P/environ" ] || carries "/proc/$P/environ" "$M" || blank "$P"
}
# lock: waits for the one lock of this account, and takes it over from a process that is gone. It is a link that leads
# nowhere: made in one step, together with the name of its holder. Says why it could not be had.
holder() { ls -ld "$D/lock" 2>/dev/null | sed -n 's/.* -> //p'; }
lock() {
  u=$(umask); umask 077
  mkdir -p "$D" 2>&1 && chmod 700 "$D" 2>&1 || return 1
  me=$$,$(born $$) t=0 e=0
  until why=$(ln -s "$me" "$D/lock" 2>&1); do
    h=$(holder)
    # One at a time may take it over, and only if the dead one still holds it.
    if [ -n "$h" ] && { ! lives "${h%%%%,*}" || [ "$(born "${h%%%%,*}")" != "${h#*,}" ]; } && mkdir "$D/lock.over" 2>/dev/null; then
      [ "$(holder)" != "$h" ] || rm -f "$D/lock"
      rmdir "$D/lock.over"
    else
      find "$D/lock.over" -prune -mmin +1 -exec rmdir {} \; 2>/dev/null
      nap
    fi
    # No holder at all is normal for a moment, and else a disk that is full or not ours.
    if [ -n "$h" ]; then e=0; else e=$((e+1)); [ $e -le 20 ] || { echo "$why"; return 1; }; fi
    t=$((t+1)); [ $t -le 150 ] || { echo "process ${h%%%%,*} holds $D/lock"; return 1; }
  done
  umask "$u"
}
unlock() { trap - EXIT HUP INT TERM; case $(holder) in $$,*) rm -f "$D/lock";; esac; }
# unwatch NAME MARK: ends the watch of NAME, of MARK if one is given
unwatch() {
  record "$1-watch" || { rm -f "$D/$1-watch.pid"; return; }
  [ -z "$2" ] || [ "$M" = "watch$2" ] || return
  t=0
  while mine && [ $t -lt 50 ]; do kill -s KILL "$P" 2>/dev/null; t=$((t+1)); nap; done
  rm -f "$D/$1-watch.pid"
}
# halt NAME MARK: ends what launch started under NAME, with MARK if one is given: the process, its group, and all that
# carry the mark. A child that its dead parent left behind counts. Its watch goes last.
halt() {
  record "$1" || { M=$2; [ -n "$M" ] || { unwatch "$1"; return 0; }; }
  [ -z "$2" ] || [ "$2" = "$M" ] || return 0
  # A container first: its client ends with it.
  stays=; boxed "$1" "$M"
  [ -z "$ids" ] || { say haltpid "$P"; say haltaddress "$A"; timeout 11 "$C" stop -t 7 $ids >/dev/null 2>&1; }
  all=$(family "$M" "$P"; mine && echo "$P")
  if [ -n "$all" ]; then
    say haltpid "$P"; say haltaddress "$A"
    mine && [ "$(ps -o pgid= -p "$P" 2>/dev/null | tr -d ' ')" = "$P" ] && kill -s TERM -- "-$P" 2>/dev/null
    kill -s TERM $all 2>/dev/null
    # By the clock, because a round takes long on a busy box; by rounds, in case the clock is set meanwhile.
    t=0 from=$(date +%%s) s=0 rest=$all
    while [ -n "$rest" ] && [ $t -lt 100 ] && [ $s -lt 12 ]; do
      nap
      t=$((t+1)) s=$(($(date +%%s)-from))
      [ $t -lt 70 ] && [ $s -lt 7 ] || kill -s KILL $rest 2>/dev/null
      # Asked anew each time: a number may go to somebody else's process. One that is ending has no environment left.
      rest=$(family "$M" "$P"; lives "$P" && [ "$(born "$P")" = "$B" ] && echo "$P")
    done
    [ -z "$rest" ] || { stays=$rest; say survived "$(echo $rest)"; return; }
  fi
  unbox "$1" "$M" || { stays=$why; say stillboxed "$why"; return; }
  rm -f "$D/$1.pid" "$D/$1.pid.new" "$D/$1.users"
  unwatch "$1" "$2"
}
`

// places are where engines lie that the PATH of a bare shell often lacks.
var places = []string{
	"/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin", "~/.local/bin", "~/bin", "/snap/bin", "/usr/local/ollama/bin", "~/.nix-profile/bin",
	"/run/current-system/sw/bin", "/Applications/Ollama.app/Contents/Resources", "~/Applications/Ollama.app/Contents/Resources",
}

// answer is what a script said: values by key, in order, and raw bytes by key.
type answer struct {
	lines map[string][]string
	raw   map[string][]byte
}

// get is the first value of key, without control characters.
func (a *answer) get(key string) string {
	if v := a.lines[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (a *answer) int(key string) int {
	n, err := strconv.Atoi(strings.TrimSpace(a.get(key)))
	if err != nil {
		return 0
	}
	return n
}

// host is the machine that engines run on, and how scripts run there.
type host struct {
	box    Box
	log    *slog.Logger
	places []string // folders to look for programs in, beside PATH
}

func newHost(box Box) host {
	h := host{box: box, log: box.Log, places: places}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

func (h *host) script(ctx context.Context, body string) (*answer, error) {
	return h.scriptFor(ctx, scriptLimit, body)
}

// scriptFor runs body on the box and reads the lines that it says. body sees an empty standard input. What body writes
// without say is kept under the key "noise" for error texts.
func (h *host) scriptFor(ctx context.Context, limit time.Duration, body string) (*answer, error) {
	if h.windows() {
		return nil, errNoShell
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n := nonce()
	var dirs []string
	for _, d := range h.places {
		dirs = append(dirs, quote(d))
	}
	// The shell reads all of a group before it runs any of it, so a cut connection never runs half a script.
	text := "{\n" + fmt.Sprintf(prelude, n, strings.Join(dirs, " ")) + "say begin 1\nbody() {\n" + body + "\n}\nbody\nsay end 1\n} </dev/null 2>&1\nexit 0\n"
	start := time.Now()
	out, err := h.box.Run(ctx, text)
	h.log.Debug("script", "after", time.Since(start), "bytes", len(out), "err", err)
	a := parseAnswer(n, out)
	if a.get("end") != "" {
		return a, nil // whatever the exit status of a shell full of noise was
	}
	switch {
	case err != nil:
		return nil, &unheardError{fmt.Errorf("run a script on the box: %w", err)}
	case a.get("begin") == "":
		return nil, fmt.Errorf("run a script on the box: it has no POSIX shell that answers; it said %q", clean(string(out[:min(len(out), textLimit)])))
	}
	return nil, &unheardError{fmt.Errorf("run a script on the box: it ended half way: %s", strings.Join(a.lines["noise"], " · "))}
}

// unheardError says that a script ran to no end that was heard: not at all, or in part, or its answer was lost with the link.
type unheardError struct{ error }

func (e *unheardError) Unwrap() error { return e.error }

// lasting calls do, whose scripts may be run twice, until the box was heard or has not been lostLimit times in a row: the
// link may have gone, and the next script waits for it.
func (h *host) lasting(ctx context.Context, pause time.Duration, do func() error) error {
	for lost := 1; ; lost++ {
		err := do()
		if !errors.As(err, new(*unheardError)) || lost >= lostLimit {
			return err
		}
		h.log.Debug("no word from the box, once more", "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// parseAnswer reads the output of a script with this nonce. Any input is fine; what is not ours is noise.
func parseAnswer(nonce string, out []byte) *answer {
	a := &answer{lines: map[string][]string{}, raw: map[string][]byte{}}
	for len(out) > 0 {
		line, rest, _ := bytes.Cut(out, []byte("\n"))
		out = rest
		word, ok := bytes.CutPrefix(line, []byte(nonce+" "))
		if !ok {
			if s := clean(string(line)); s != "" && len(a.lines["noise"]) < 20 {
				a.lines["noise"] = append(a.lines["noise"], s)
			}
			continue
		}
		key, value, _ := strings.Cut(string(word), "=")
		if name, ok := strings.CutPrefix(key, "raw:"); ok && value == "*" { // the bytes follow, up to the next line of ours
			end := bytes.Index(out, []byte("\n"+nonce+" "))
			if end < 0 {
				continue
			}
			a.raw[name] = append([]byte(nil), out[:end]...)
			out = out[end+1:]
			continue
		} else if ok { // value is a length, the bytes follow
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil || n < 0 || n > len(out) {
				continue
			}
			a.raw[name] = append([]byte(nil), out[:n]...)
			out = out[n:]
			continue
		}
		a.lines[key] = append(a.lines[key], clean(value))
	}
	return a
}
