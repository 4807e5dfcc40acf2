package remote

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
)

// On unified memory an engine that takes too much does not fail: it freezes the box, SSH included. So the watch over
// it runs on the box. It is a small shell beside the engine, in a session of its own, that the process starts just
// before it becomes the engine; it has a record of its own, NAME-watch.pid, and a mark of its own, "watch" before the
// engine's, so that no search for the engine finds it. It ends when the engine's process is gone.
//
// It can do what a shell without root can. It cannot lock itself into memory or lower its own oom_score_adj, so it
// raises the engine's: should the kernel be first, it takes the engine. It acts within two rounds, so a single
// allocation that takes all that is left in less than that goes past it.
//
// A container lives in a daemon and does not end with its client: for one, the blow that counts is the client's `kill`. That
// is a fork, made then and never before. Should the client be gone, nobody watches its container any more, and it is ended.

// guardScript is the part of becomeScript that starts the watch: $floor is KiB, $watch is watchScript, $apart what makes a
// session, $f the record of the process that this shell becomes.
const guardScript = `if [ -n "$floor" ]; then
  w=$(env "RLCA_OWNER=watch$RLCA_OWNER" $apart "$(command -v bash || echo /bin/sh)" -c "$watch" rlca-watch $$ "$(born $$)" "$RLCA_OWNER" "$floor" "${f%.pid}.container" >&2 & echo $!)
  [ -n "$w" ] && { echo "$w"; born "$w"; echo "watch$RLCA_OWNER"; echo "$floor"; } > "${f%.pid}-watch.pid" ||
    { echo "rlca: the memory watchdog could not be started"; exit 1; }
  { read -r o < /proc/$$/oom_score_adj && [ "$o" -lt 900 ] && echo 900 > /proc/$$/oom_score_adj; } 2>/dev/null
fi
`

// watchScript is the watch of process $1, born $2, with mark $3: $4 KiB must stay available. $5 is the record of its
// container, which need not be there. A round on Linux uses nothing but what is built into the shell, because a fork may not come back once memory is short; bash, where there
// is one, even sleeps without a fork, on a pipe that stays empty. The first blow and the word about it are built in, too;
// only then it looks for those that have left the group.
//
// macOS tells no such number, but how hard it is pressed: 4 is critical. That part has only been tried with a sysctl that
// is made up.
const watchScript = born + lives + family + `
P=$1 B=$2 M=$3 floor=$4 half=$(($4/2)) low=0 record=$5
pause() { sleep 0.5 2>/dev/null || sleep 1; }
case ${BASH_VERSION:-1.}:$SHELLOPTS in
[123].*|*posix*) ;;
*) eval 'exec 3<> <(:)' 2>/dev/null && pause() { read -r -t 0.2 x <&3; [ $? -gt 128 ] || sleep 1; };;
esac
there() {
  { read -r s < "/proc/$P/stat"; } 2>/dev/null || return 1
  set -- ${s##*") "}
  case $1 in Z|X|x) return 1;; esac
  [ "${20}" = "$B" ]
}
left() {
  while read -r k n u; do [ "$k" != MemAvailable: ] || return 0; done < /proc/meminfo
  return 1
}
word() { echo "rlca: watchdog: only $((n/1024)) MiB of the $((floor/1024)) MiB that must stay were left, ended process $P"; }
if [ ! -r /proc/meminfo ]; then
  half=0 floor=1 # 1 is fine, 0 is critical
  pause() { sleep 2; }
  there() { kill -0 "$P" 2>/dev/null && [ "$(born "$P")" = "$B" ]; }
  left() { n=$(sysctl -n kern.memorystatus_vm_pressure_level 2>/dev/null); case $n in 4) n=0;; [0-9]*) n=1;; *) return 1;; esac; }
  word() { echo "rlca: watchdog: memory pressure was critical, ended process $P"; }
fi
# boxed: client and box are the program and the name of the container of this mark. strike ends it: more than once, as it may
# just be starting
boxed() { client= box=; [ -r "$record" ] && { read -r client; read -r box; } 2>/dev/null < "$record"; case $box in *"-${M#rlca}") [ -n "$client" ];; *) false;; esac; }
strike() { s=0; while [ $s -lt 4 ]; do (unset RLCA_OWNER; exec timeout 5 "$client" kill "$box") >/dev/null 2>&1; s=$((s+1)); pause; done; }
left || { echo "rlca: watchdog: this box does not tell how much memory is left, nothing is watched"; exit 1; }
while there; do
  if ! left || [ "$n" -ge "$floor" ]; then low=0
  else
    low=$((low+1))
    if [ "$n" -lt "$half" ] || [ $low -ge 2 ]; then
      kill -KILL "-$P" 2>/dev/null
      kill -KILL "$P" 2>/dev/null
      word
      boxed && strike
      t=0
      while rest=$(family "$M" "$P"); [ -n "$rest" ] && [ $t -lt 20 ]; do kill -KILL $rest 2>/dev/null; t=$((t+1)); pause; done
      echo "rlca: watchdog: that was at $(date -u +%Y-%m-%dT%H:%M:%SZ)"
      exit 0
    fi
  fi
  pause
done
# Whoever ends both ends this watch, too.
pause; pause; pause
boxed && strike
`

// lastWordScript says what the watch of $name wrote into $log about process P, which is gone. A watch that is there may be
// about to.
const lastWordScript = `
p=$P t=0
record "$name-watch"
word() { grep "^rlca: watchdog: .*, ended process $p\$" "$log" 2>/dev/null; }
until word >/dev/null || ! mine || [ $t -ge 25 ]; do t=$((t+1)); nap; done
word | tail -n 1 | while read -r l; do say watchdog "$l"; done
`

var (
	watchdogLeft    = regexp.MustCompile(`^rlca: watchdog: only (\d+) MiB of the (\d+) MiB that must stay were left, ended process \d+$`)
	watchdogPressed = regexp.MustCompile(`^rlca: watchdog: memory pressure was critical, ended process \d+$`)
)

// watchdogSaid looks in lines of a log for the word of the watch, and says it to a person.
func watchdogSaid(lines []string) (text string, ok bool) {
	for _, line := range lines {
		if m := watchdogLeft.FindStringSubmatch(line); m != nil {
			return fmt.Sprintf("the memory watchdog on the box ended it: %s were left, %s must stay", mib(m[1]), mib(m[2])), true
		}
		if watchdogPressed.MatchString(line) {
			return "the memory watchdog on the box ended it: the system called its memory critical", true
		}
	}
	return "", false
}

// mib writes a number of MiB as people read it: "812 MiB", "4.0 GiB".
func mib(digits string) string {
	n, err := strconv.ParseInt(digits, 10, 44)
	if err != nil || n < 1024 {
		return digits + " MiB"
	}
	return gib(n << 20)
}

// overrun is the error of a server that a journal says was started and that the watch has ended since; otherwise err.
// It is for what fails after the start: a model that is loaded later.
func (s *service) overrun(ctx context.Context, r *record, err error) error {
	if r == nil {
		return err
	}
	if _, lines, aliveErr := s.alive(ctx, s.job, r.mark, s.logFile(), -1); aliveErr == nil {
		if text, ok := watchdogSaid(lines); ok {
			return &StartError{Engine: s.title, Address: r.address, Reason: text, Err: err}
		}
	}
	return err
}
