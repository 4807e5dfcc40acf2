package remote

import (
	"context"
	"fmt"
	"strings"
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
}

// launched is what became of a launch.
type launched struct {
	record
	// ours is false if a process of that name, by another launch, already runs.
	ours bool
	// logFrom is how long the log was before, in bytes.
	logFrom int
}

// launchScript starts a process in a session of its own, with none of our files open, and writes its record before
// it runs: whatever happens to this connection, the record is there. Under one lock, so that two laptops cannot both
// start one. What a dead process of the same name left behind, its children, is ended first: they carry its mark.
//
// The shell that writes the record becomes the process: the number stays, and so does the time of its birth.
const launchScript = `
name=%[1]s log=$D/%[2]s fresh=%[3]s
why=$(lock 2>&1) || { say error "$why"; return; }
trap unlock EXIT; trap 'unlock; exit 1' HUP INT TERM
if record $name && mine; then say pid "$P"; say mark "$M"; say address "$A"; unlock; return; fi
halt $name
umask_was=$(umask); umask 077
[ -z "$fresh" ] || rm -f "$log"
[ ! -f "$log" ] || [ "$(wc -c < "$log")" -lt 4194304 ] || mv -f "$log" "$log.old"
why=$({ : >> "$log"; } 2>&1) || { say error "$why"; unlock; return; }
say logfrom "$(($(wc -c < "$log")))"
umask "$umask_was"
apart=; command -v setsid >/dev/null 2>&1 && apart=setsid
[ -n "$apart" ] || { command -v perl >/dev/null 2>&1 && apart='perl -MPOSIX -e POSIX::setsid();exec(@ARGV)'; }
[ -n "$apart" ] || apart=nohup
env %[4]s $apart /bin/sh -c %[5]s rlca "$D/$name.pid" %[6]s %[7]s </dev/null >>"$log" 2>&1 &
t=0
until record $name && [ "$M" = %[8]s ]; do
  t=$((t+1)); [ $t -le 50 ] || { say error "its record was not written: $(tail -n 3 "$log" 2>/dev/null)"; break; }
  nap
done
[ -n "$P" ] && { say pid "$P"; say mark "$M"; say address "$A"; }
unlock
`

// becomeScript runs on the box as the new process: $1 is the record, $2 the address, the rest its command.
const becomeScript = born + `f=$1 a=$2; shift 2
u=$(umask); umask 077
{ echo $$; born $$; echo "$RLCA_OWNER"; echo "$a"; } > "$f.new" && mv -f "$f.new" "$f" || exit 1
umask "$u"
exec "$@"`

// launch starts a job on the box, or finds the one that runs under its name. mark is the word that it will carry.
func (o *Ollama) launch(ctx context.Context, mark string, j job) (*launched, error) {
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
	a, err := o.script(ctx, fmt.Sprintf(launchScript, quote(j.name), quote(j.log), quote(fresh), strings.Join(env, " "),
		quote(becomeScript), quote(j.address), strings.Join(argv, " "), quote(mark)))
	if err != nil {
		return nil, err
	}
	if why := a.get("error"); why != "" {
		return nil, fmt.Errorf("write to ~/.rlca on the box: %s", why)
	}
	l := &launched{record: record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}, logFrom: a.int("logfrom")}
	l.ours = l.mark == mark
	return l, nil
}

// alive asks whether the process of a record still runs; if it does not, it also reads the end of its log.
func (o *Ollama) alive(ctx context.Context, name, mark, log string, logFrom int) (bool, []string, error) {
	a, err := o.script(ctx, fmt.Sprintf(`
if record %s && [ "$M" = %s ] && mine; then say alive 1; return; fi
tail -c +%d "$D"/%s 2>/dev/null | tail -n 12 | cut -c 1-300 | while read -r l; do say log "$l"; done
`, quote(name), quote(mark), logFrom+1, quote(log)))
	if err != nil {
		return false, nil, err
	}
	return a.get("alive") != "", a.lines["log"], nil
}

// halt ends what the record of name started, if it carries mark (any, if empty), and removes its files.
// It reports what it ended; pid 0 means that there was nothing.
func (o *Ollama) halt(ctx context.Context, name, mark string, files ...string) (record, error) {
	body := fmt.Sprintf(haltScript, quote(name), quote(mark))
	for _, f := range files {
		body += `rm -f "$D"/` + quote(f) + "\n"
	}
	body += "[ -z \"$locked\" ] || unlock\n" + tidyScript
	a, err := o.script(ctx, body)
	if err != nil {
		return record{}, err
	}
	if s := a.get("survived"); s != "" {
		return record{}, fmt.Errorf("stop %s on the box: process %s does not end, not even by force", name, s)
	}
	return record{pid: a.int("haltpid"), address: a.get("haltaddress")}, nil
}

// haltScript waits for a launch that is under way, and for the record that it will have written.
const haltScript = `
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
