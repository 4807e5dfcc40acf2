package remote

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// job is a process that is to outlive the connection.
type job struct {
	// name is that of its record in ~/.rlca on the box: NAME.pid. One process per name.
	name string
	// address is kept in the record.
	address string
	env     []string // NAME=value
	argv    []string
	// log is the file in ~/.rlca that takes its output. fresh empties it first.
	log   string
	fresh bool
	// floor is how much memory must stay available while it runs, in bytes. 0 is no watch over that.
	floor int64
	// laptop is Plan.Laptop.
	laptop string

	// For a server that loads its model before it answers; without them its start is awaited in silence.
	//
	// loading understands the end of its log while it comes up, and says how far it is; a zero Step says nothing. It is
	// called once without lines when the process was launched.
	loading func(lines []string) Progress
	// ended makes of a start that came to nothing the error that says why. It may return e itself.
	ended func(e *StartError) error
	// tail is how many of the last lines of its log may say why it came to nothing. 0 is 60.
	tail int
	// stall is how long it may stand still: no log, no more memory, nothing read. 0 is for ever.
	stall time.Duration
}

// launched is what became of a launch.
type launched struct {
	record
	// ours is false if a process of that name, by another launch, already runs.
	ours bool
	// logFrom is how long the log was before, in bytes.
	logFrom int
	// unit is the scope of the box's service manager that took it, empty if it only has a session of its own. lingers is the
	// account for which lingering was turned on, and fleeting says that a login's end will end it. Both may be empty.
	unit, lingers, fleeting string
	// job is what was to be launched, progress the one to tell how far it is. Both may be zero.
	job      job
	progress func(Progress)
}

// launchScript starts a process in a session of its own, with none of our files open, and writes its record before
// it runs: whatever happens to this connection, the record is there. Under one lock, so that two laptops cannot both
// start one. What a dead process of the same name left behind, its children, is ended first: they carry its mark.
//
// The shell that writes the record becomes the process: the number stays, and so does the time of its birth. What takes it
// out of the cgroup of this login is told in detach.go.
const launchScript = detachScript + `
name=%[1]s log=$D/%[2]s fresh=%[3]s
why=$(lock 2>&1) || { say error "$why"; return; }
trap unlock EXIT; trap 'unlock; exit 1' HUP INT TERM
if record $name && mine; then say pid "$P"; say mark "$M"; say address "$A"; unlock; return; fi
halt $name; [ -z "$stays" ] || { unlock; return; }
umask_was=$(umask); umask 077
[ -z "$fresh" ] || rm -f "$log"
[ ! -f "$log" ] || [ "$(wc -c < "$log")" -lt 4194304 ] || mv -f "$log" "$log.old"
why=$({ : >> "$log"; } 2>&1) || { say error "$why"; unlock; return; }
say logfrom "$(($(wc -c < "$log")))"
umask "$umask_was"
apart=; command -v setsid >/dev/null 2>&1 && apart=setsid
[ -n "$apart" ] || { command -v perl >/dev/null 2>&1 && apart='perl -MPOSIX -e POSIX::setsid();exec(@ARGV)'; }
[ -n "$apart" ] || apart=nohup
settle %[10]s
env %[4]s $apart /bin/sh -c %[5]s rlca "$D/$name.pid" %[6]s %[9]s "$apart" "$unit" "$runtime" %[7]s </dev/null >>"$log" 2>&1 &
t=0
until record $name && [ "$M" = %[8]s ]; do
  t=$((t+1)); [ $t -le 100 ] || { say error "its record was not written: $(tail -n 3 "$log" 2>/dev/null)"; break; }
  nap
done
if [ -n "$P" ]; then say pid "$P"; say mark "$M"; say address "$A"; settled; else unlinger; fi
unlock
`

// becomeScript runs on the box as the new process: $1 is the record, $2 the address, $3 and $4 the floor and its watch, $5
// what makes a session, $6 and $7 the scope to join and where its manager is, the rest its command. It joins before it has
// any children: the watch is one.
const becomeScript = born + withinScript + `f=$1 a=$2 floor=$3 watch=$4 apart=$5 unit=$6 runtime=$7; shift 7
` + joinScript + `u=$(umask); umask 077
{ echo $$; born $$; echo "$RLCA_OWNER"; echo "$a"; } > "$f.new" && mv -f "$f.new" "$f" || exit 1
` + guardScript + `umask "$u"
exec "$@"`

// launch starts a job on the box, or finds the one that runs under its name. mark is the word that it will carry.
func (h *host) launch(ctx context.Context, mark string, j job) (*launched, error) {
	if h.windows() {
		return h.launchWindows(ctx, mark, j)
	}
	env := []string{quote("RLCA_OWNER=" + mark)}
	for _, e := range j.env {
		env = append(env, quote(e))
	}
	var argv []string
	for _, a := range j.argv {
		argv = append(argv, quote(a))
	}
	fresh := ""
	if j.fresh {
		fresh = "1"
	}
	floor, watch := "", ""
	if j.floor > 0 {
		floor, watch = strconv.FormatInt(max(1, j.floor>>10), 10), watchScript
	}
	a, err := h.script(ctx, fmt.Sprintf(launchScript, quote(j.name), quote(j.log), quote(fresh), strings.Join(env, " "),
		quote(becomeScript), quote(j.address), strings.Join(argv, " "), quote(mark), quote(floor)+" "+quote(watch), quote(unitName(j.name, mark))))
	if err != nil {
		return nil, err
	}
	if why := a.get("error"); why != "" {
		return nil, fmt.Errorf("write to ~/.rlca on the box: %s", why)
	}
	if s := a.get("survived"); s != "" {
		return nil, fmt.Errorf("end what an earlier start has left: process %s does not end, not even by force", s)
	}
	if why := a.get("stillboxed"); why != "" {
		return nil, fmt.Errorf("end what an earlier start has left: its container may still run: %s", why)
	}
	l := &launched{record: record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}, logFrom: a.int("logfrom")}
	l.ours = l.mark == mark
	l.unit, l.lingers, l.fleeting = a.get("unit"), a.get("lingers"), fleeting(a)
	h.log.Debug("detached", "job", j.name, "unit", l.unit, "lingers", l.lingers, "fleeting", l.fleeting)
	return l, nil
}

// alive asks whether the process of a record still runs; if it does not, it also reads the end of its log, from logFrom on,
// and the word of the watch that ended it. A negative logFrom reads that word only.
func (h *host) alive(ctx context.Context, name, mark, log string, logFrom int) (bool, []string, error) {
	if h.windows() {
		return h.aliveWindows(ctx, name, mark, log, logFrom)
	}
	a, err := h.script(ctx, fmt.Sprintf(`
name=%[1]s log=$D/%[2]s
if record "$name" && [ "$M" = %[3]s ]; then
if mine; then say alive 1; return; fi`+lastWordScript+`fi
[ %[4]d -gt 0 ] || return
tail -c +%[4]d "$log" 2>/dev/null | tail -n 12 | cut -c 1-300 | while read -r l; do say log "$l"; done
`, quote(name), quote(log), quote(mark), logFrom+1))
	if err != nil {
		return false, nil, err
	}
	lines := a.lines["log"]
	if w := a.get("watchdog"); w != "" && !slices.Contains(lines, w) {
		lines = append(lines, w)
	}
	return a.get("alive") != "", lines, nil
}

// pulse is how a process that comes up is doing.
type pulse struct {
	alive bool
	// sign changes while it gets on: the length of its log, and of it and its children the memory and what they have read.
	sign string
	// lines are the end of its log; of a process that is gone more of it, and what the kernel says of its end.
	lines []string
}

// pulseScript reads the kernel's words, too, where this account may: of a crash an engine writes nothing itself.
const pulseScript = `
name=%[1]s log=$D/%[3]s n=%[5]d k=
if record "$name" && [ "$M" = %[2]s ]; then
  k=$P
  if mine; then
    n=%[6]d k=
    say alive 1
    say sign "$(($(wc -c < "$log"))) $(for p in $(family "$M" "$P"); do ps -o rss= -p "$p"; sed -n 's/^r[a-z_]*: //p' "/proc/$p/io"; done 2>/dev/null | tr '\n' ' ')$(vital "$name")"
  else` + lastWordScript + `
  fi
fi
tail -c +%[4]d "$log" 2>/dev/null | tr '\r' '\n' | tail -n $n | cut -c 1-390 | while read -r l; do say log "$l"; done
[ -z "$k" ] || dmesg 2>/dev/null | tail -n 300 | grep -E "(\[| process )$k(\]| \()" | tail -n 2 | while read -r l; do say log "kernel: $l"; done
`

// pulse asks how a process of a record is doing. tail is how many lines of the log of one that is gone are wanted.
func (h *host) pulse(ctx context.Context, name, mark, log string, logFrom, tail int) (pulse, error) {
	a, err := h.script(ctx, fmt.Sprintf(pulseScript, quote(name), quote(mark), quote(log), logFrom+1, cmp.Or(tail, 60), max(8, tail/15)))
	if err != nil {
		return pulse{}, err
	}
	p := pulse{alive: a.get("alive") != "", sign: a.get("sign"), lines: a.lines["log"]}
	if w := a.get("watchdog"); w != "" && !slices.Contains(p.lines, w) {
		p.lines = append(p.lines, w)
	}
	return p, nil
}

// halt ends what the record of name started, if it carries mark (any, if empty), and removes its files.
// It reports what it ended; pid 0 means that there was nothing.
func (h *host) halt(ctx context.Context, name, mark string, files ...string) (halted, error) {
	if h.windows() {
		return h.haltWindows(ctx, name, mark, files...)
	}
	body := fmt.Sprintf(haltScript, quote(name), quote(mark))
	for _, f := range files {
		body += `rm -f "$D"/` + quote(f) + "\n"
	}
	body += "[ -z \"$locked\" ] || { unlinger; unlock; }\n" + tidyScript
	a, err := h.script(ctx, body)
	if err != nil {
		return halted{}, err
	}
	if s := a.get("survived"); s != "" {
		return halted{}, fmt.Errorf("stop %s on the box: process %s does not end, not even by force", name, s)
	}
	if s := a.get("stillboxed"); s != "" {
		return halted{}, fmt.Errorf("stop %s on the box: its container may still run: %s", name, s)
	}
	ended := halted{record: record{pid: a.int("haltpid"), address: a.get("haltaddress")}, linger: lingerWords(a)}
	if ended.linger != "" {
		h.log.Info("lingering", "what", ended.linger)
	}
	return ended, nil
}

// haltScript waits for a launch that is under way, and for the record that it will have written.
const haltScript = detachScript + `
name=%s mark=%s
[ -d "$D" ] || return
lock >/dev/null 2>&1 && { trap unlock EXIT; trap 'unlock; exit 1' HUP INT TERM; locked=1; } || locked=
if [ -n "$mark" ]; then
  t=0; until record $name || [ $t -ge 5 ]; do t=$((t+1)); nap; done
  if record $name && [ "$M" != "$mark" ]; then [ -z "$locked" ] || unlock; return; fi
fi
halt $name "$mark"
`

// tidyScript removes our folder if nothing is left in it.
const tidyScript = `rmdir "$D" 2>/dev/null; :`
