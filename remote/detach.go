package remote

import (
	"fmt"
	"strings"
)

// Where a login's end ends all that the login has started (KillUserProcesses=yes of systemd-logind), a session of its own
// is not enough: the process has to leave the login's cgroup. So a process that is to last asks the account's own service
// manager, before it writes its record, to take it into a scope unit, rlca-NAME-MARK.scope. The manager starts nothing: it
// moves a process that runs, with its number, its environment and its files as they are. If it does not answer, or refuses,
// the process goes on in its session. Nothing has to be taken back, and nothing can start twice.
//
// The manager itself ends with the account's last login, unless lingering is on. Where logins end what they have started and
// logind lets the account turn it on for itself, that is done: it is written to ~/.rlca/linger first, and turned off again
// when nothing runs any more that rlca started. Where logins end nothing, a session of its own is enough.

// withinScript is the shell function that runs COMMAND for SECONDS at most: a manager or a bus that hangs must not hang us.
const withinScript = lives + `within() {
  within=$1; shift
  if command -v timeout >/dev/null 2>&1; then timeout -s KILL "$within" "$@"; return; fi
  "$@" &
  child=$! within=$((within*10))
  while lives "$child" && [ $within -gt 0 ]; do within=$((within-1)); sleep 0.1 2>/dev/null || sleep 1; done
  kill -s KILL "$child" 2>/dev/null
  wait "$child" 2>/dev/null
}
managed() ( unset DBUS_SESSION_BUS_ADDRESS; XDG_RUNTIME_DIR=$runtime; export XDG_RUNTIME_DIR
  within 3 busctl --user "$@" )
systemd='org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager'
`

// joinScript is the part of becomeScript that asks the manager: $unit is the name of the scope, empty for none, $runtime the
// folder of the manager's bus. What it says to that goes into the log. Delegate keeps systemd from ending the engine because the
// kernel, short of memory, has ended one of its children.
const joinScript = `if [ -n "$unit" ]; then
  managed call $systemd StartTransientUnit 'ssa(sv)a(sa(sv))' "$unit" fail 4 PIDs au 1 $$ Description s "${unit%.scope}, started by rlca" \
    CollectMode s inactive-or-failed Delegate b true 0 2>&1 >/dev/null | sed 's/^/rlca: service manager: /'
  t=0
  until grep -qF "/$unit" /proc/$$/cgroup || [ $t -ge 10 ]; do t=$((t+1)); sleep 0.1 2>/dev/null || sleep 1; done
fi
`

// detachScript are the shell functions of a launch and of a halt. It has no percent sign: it is part of formats.
const detachScript = withinScript + `
# lingering: yes or no, empty if logind does not say
lingering() { within 3 loginctl show-user "$(id -u)" -p Linger 2>/dev/null | sed -n 's/^Linger=//p'; }
# killing: a login's end ends what the login has started. No session of logind's, no end.
killing() {
  grep -q '/session-[^/]*\.scope' /proc/self/cgroup 2>/dev/null && command -v loginctl >/dev/null 2>&1 || return 1
  k=$(within 3 loginctl show-user -p KillUserProcesses -p KillOnlyUsers -p KillExcludeUsers 2>/dev/null)
  u=$(id -un)
  case $k in *KillUserProcesses=yes*) ;; *) return 1;; esac
  only=$(echo "$k" | sed -n 's/^KillOnlyUsers=//p')
  case " $only " in "  "|*" $u "*) ;; *) return 1;; esac
  case " $(echo "$k" | sed -n 's/^KillExcludeUsers=//p') " in *" $u "*) return 1;; esac
}
# manager: sets runtime to where the account's service manager answers. A home that is not the account's is a try, and
# the account's manager stays out of it.
manager() {
  runtime=
  command -v busctl >/dev/null 2>&1 && command -v loginctl >/dev/null 2>&1 || return 1
  home=$(getent passwd "$(id -u)" 2>/dev/null | cut -d: -f6)
  case $HOME/ in "$home"|"$home/") ;; *) return 1;; esac
  [ -n "$home" ] || return 1
  runtime=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}
  [ -S "$runtime/bus" ] && managed get-property $systemd Version >/dev/null 2>&1 || { runtime=; return 1; }
}
# settle UNIT: sets unit to UNIT if that is where the process of a launch lasts longest, and fleeting to why it may not last
settle() {
  unit= fleeting=
  manager || { fleeting="the service manager of this account does not answer"; return; }
  case $(lingering) in
  yes) unit=$1; return;;
  no) killing || return;;
  *) fleeting="logind does not answer"; return;;
  esac
  (umask 077; id -un > "$D/linger") 2>/dev/null || { fleeting="$D/linger could not be written"; return; }
  fleeting=$(within 5 loginctl --no-ask-password enable-linger "$(id -un)" 2>&1)
  e=$?
  if [ "$(lingering)" = yes ]; then unit=$1 fleeting=; say lingers "$(id -un)"; return; fi
  # A call that took too long may still be carried out.
  if [ $e -eq 137 ]; then fleeting=; else rm -f "$D/linger"; fi
  fleeting="lingering could not be turned on: $(echo ${fleeting:-logind does not answer})"
  unit=$1 # until the last login ends, not this one
}
# settled: says what became of that for process P
settled() {
  case $unit in
  '') ;;
  *) if grep -qF "/$unit" "/proc/$P/cgroup" 2>/dev/null; then
      say unit "$unit"
      [ -z "$fleeting" ] || { say user "$(id -un)"; say fleeting "last $fleeting"; }
      return
    fi
    fleeting="the service manager of this account did not take it";;
  esac
  killing || return
  say user "$(id -un)"
  say fleeting "this $fleeting"
}
# unlinger: turns lingering off if rlca turned it on and nothing runs any more that a launch has started
unlinger() {
  [ -f "$D/linger" ] || return
  for f in "$D"/*.pid; do
    case $f in *-watch.pid) continue;; esac
    if record "$(basename "$f" .pid)" && [ -n "$(family "$M" "$P")$(mine && echo "$P")" ]; then return; fi
  done
  if [ "$(lingering)" = no ]; then rm -f "$D/linger"; return; fi
  why=$(within 5 loginctl --no-ask-password disable-linger "$(id -un)" 2>&1)
  [ $? -ne 137 ] || why=
  if [ "$(lingering)" != yes ]; then say lingeroff "$(id -un)"; rm -f "$D/linger"; return; fi
  say user "$(id -un)"; say lingerstays "$(echo ${why:-logind does not answer})"
}
`

// unitName is the scope of a job: another for each launch, so that what is left of an earlier one is not in its way.
func unitName(name, mark string) string {
	short := strings.TrimPrefix(mark, "rlca")
	return fmt.Sprintf("rlca-%s-%s.scope", name, short[:min(8, len(short))])
}

// fleeting says of a process that a login's end will end it, empty if it lasts: "ends when …".
func fleeting(a *answer) string {
	which, why, ok := strings.Cut(a.get("fleeting"), " ")
	if !ok {
		return ""
	}
	return fmt.Sprintf("ends when %s login of %s on the box ends: KillUserProcesses=yes there, and %s; on the box: sudo loginctl enable-linger %[2]s",
		map[string]string{"last": "the last", "this": "this"}[which], a.get("user"), why)
}

// halted is what became of a halt.
type halted struct {
	// record is what was ended. Its pid is 0 if there was nothing.
	record
	// linger says in words what became of the lingering that rlca had turned on. Empty if nothing did.
	linger string
}

// did is what a halt did besides, for a Stop to say.
func (e halted) did() []string {
	if e.linger == "" {
		return nil
	}
	return []string{e.linger}
}

// lingerWords says what unlinger did.
func lingerWords(a *answer) string {
	if user := a.get("lingeroff"); user != "" {
		return "turned lingering of " + user + " off again"
	}
	if why := a.get("lingerstays"); why != "" {
		return fmt.Sprintf("lingering of %s, which rlca had turned on, could not be turned off (%s); on the box: loginctl disable-linger %[1]s", a.get("user"), why)
	}
	return ""
}
