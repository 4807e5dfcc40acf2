//go:build linux

package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rlca/remote/remotetest"
)

// managed is an account with a service manager and a logind that are scripts. Files of a folder say how they are, and
// what they have done.
type managed struct {
	*remotetest.Account
	dir string
	bin string
	// edits are replacements in each script, old and new in turn.
	edits []string
}

// The fakes. FAKE is the folder: "manager" and "logind" are how they are ill, "linger" is yes or no, "kill" what logind says
// of logins that end, "calls" what they were asked, "cgroup" that of the process that was launched.
const (
	fakeBusctl = `#!/bin/sh
echo "busctl $2 $XDG_RUNTIME_DIR $DBUS_SESSION_BUS_ADDRESS" >> $FAKE/calls
ill=$(cat $FAKE/manager 2>/dev/null)
[ "$1" = --user ] && [ "$ill" != down ] || { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
[ "$ill" != mute ] || exec sleep 300
[ "$2" = call ] || { echo 's "252"'; exit; }
for a; do case $a in *.scope) unit=$a; break;; esac; done
case $ill in
hangs) exec sleep 300;;
taken) echo "Call failed: Unit $unit was already loaded or has a fragment file." >&2; exit 1;;
esac
echo "$@" >> $FAKE/scopes
echo "0::/user.slice/user-1000.slice/user@1000.service/app.slice/$unit" > $FAKE/cgroup
[ "$ill" != late ] || { echo "Call failed: Connection timed out" >&2; exit 1; }
echo 'o "/org/freedesktop/systemd1/job/32"'
`
	fakeLoginctl = `#!/bin/sh
ill=$(cat $FAKE/logind 2>/dev/null)
case "$*" in
*Kill*) cat $FAKE/kill; exit;;
"show-user "*" -p Linger") [ "$ill" != mute ] || exec sleep 300; echo "Linger=$(cat $FAKE/linger)"; exit;;
esac
echo "loginctl $*" >> $FAKE/calls
case "$ill $2" in
"refuses "*|"keeps disable-linger") echo "Could not $2: Interactive authentication required." >&2; exit 1;;
"hangs "*) exec sleep 300;;
esac
case $2 in enable-linger) echo yes;; disable-linger) echo no;; esac > $FAKE/linger
`
	fakeGetent = `#!/bin/sh
echo "me:x:1000:1000::$(cat $FAKE/home):/bin/sh"
`
)

func newManaged(t *testing.T) *managed {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	m := &managed{Account: remotetest.NewAccount(t, bin), dir: dir, bin: bin}
	for name, text := range map[string]string{"busctl": fakeBusctl, "loginctl": fakeLoginctl, "getent": fakeGetent} {
		writeProgram(t, filepath.Join(bin, name), text)
	}
	run, err := os.MkdirTemp("", "rlca") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	bus, err := net.Listen("unix", filepath.Join(run, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	m.Env = []string{"FAKE=" + dir, "XDG_RUNTIME_DIR=" + run, "DBUS_SESSION_BUS_ADDRESS=unix:path=/of/a/desktop"}
	login := filepath.Join(dir, "login")
	write(t, login, "0::/user.slice/user-1000.slice/session-7.scope\n")
	m.edits = []string{"/proc/$$/cgroup", dir + "/cgroup", "/proc/$P/cgroup", dir + "/cgroup", "/proc/self/cgroup", login}
	m.set(t, "home", m.Home)
	m.set(t, "linger", "no")
	m.kills(t, "no", "")
	return m
}

// brief is for a box where something hangs: less time is given to it.
func (m *managed) brief() {
	m.edits = append(m.edits, "within 3 ", "within 1 ", "within 5 ", "within 1 ")
}

func (m *managed) set(t *testing.T, name, text string) {
	t.Helper()
	write(t, filepath.Join(m.dir, name), text+"\n")
}

// kills sets what logind does at a login's end, and for whom it does not.
func (m *managed) kills(t *testing.T, yes, exclude string) {
	t.Helper()
	m.set(t, "kill", "KillOnlyUsers=\nKillExcludeUsers="+exclude+"\nKillUserProcesses="+yes)
}

func (m *managed) Run(ctx context.Context, script string) ([]byte, error) {
	return m.Account.Run(ctx, strings.NewReplacer(m.edits...).Replace(script))
}

func (m *managed) host(t *testing.T) *host {
	h := newHost(Box{Run: m.Run, Dial: m.Dial, Log: testLog(t)})
	h.places = nil
	return &h
}

// said are the lines of a file of the fakes that hold what.
func (m *managed) said(t *testing.T, file, what string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if line != "" && strings.Contains(line, what) {
			lines = append(lines, line)
		}
	}
	return lines
}

func user(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Skip(err)
	}
	return strings.TrimSpace(string(out))
}

// Where a process goes, what is turned on for it and off again, and what is said, by what the box has.
func TestDetach(t *testing.T) {
	t.Parallel()
	me := user(t)
	off := "turned lingering of " + me + " off again"
	for _, c := range []struct {
		name            string
		manager, logind string // how they are ill
		linger          string // "no" if empty
		kill, exclude   string // KillUserProcesses, "no" if empty, and for whom not
		edits           []string
		lacks           []string
		home            string // the account's, if not that of the login

		unit  bool     // it has a scope
		calls []string // what else than questions logind was asked
		warns string   // how the warning begins
		why   string   // what is in it
		did   string   // what the halt says
		after string   // lingering afterwards, as before if empty
	}{
		{name: "lingers", linger: "yes", unit: true},
		{name: "logins end nothing"},
		{name: "turned on, logins kill", kill: "yes", unit: true, calls: []string{"enable", "disable"}, did: off},
		{name: "not turned off", logind: "keeps", kill: "yes", unit: true, calls: []string{"enable", "disable"}, after: "yes",
			did: "lingering of " + me + ", which rlca had turned on, could not be turned off (Could not disable-linger: Interactive authentication required.); on the box: loginctl disable-linger " + me},
		{name: "refused, logins kill", logind: "refuses", kill: "yes", unit: true, calls: []string{"enable"}, warns: "ends when the last login",
			why: "lingering could not be turned on: Could not enable-linger: Interactive authentication required.; on the box: sudo loginctl enable-linger " + me},
		{name: "logins kill others", kill: "yes", exclude: "root " + me},
		{name: "no login of logind's", logind: "refuses", kill: "yes", edits: []string{"/session-", "/sitting-"}},
		{name: "logind hangs on it", logind: "hangs", kill: "yes", unit: true, calls: []string{"enable"}, warns: "ends when the last login", why: "logind does not answer"},
		{name: "logind is mute", logind: "mute"},
		{name: "no manager", manager: "down"},
		{name: "no manager, logins kill", manager: "down", kill: "yes", warns: "ends when this login", why: "the service manager of this account does not answer"},
		{name: "the manager is mute", manager: "mute", linger: "yes"},
		{name: "the manager hangs", manager: "hangs", linger: "yes"},
		{name: "the manager hangs, no timeout", manager: "hangs", linger: "yes", lacks: []string{"timeout"}, kill: "yes", warns: "ends when this login", why: "did not take it"},
		{name: "the name is taken", manager: "taken", linger: "yes"},
		{name: "the name is taken, logins kill", manager: "taken", linger: "yes", kill: "yes", warns: "ends when this login", why: "did not take it"},
		{name: "it fails after it did it", manager: "late", linger: "yes", unit: true},
		{name: "no busctl", lacks: []string{"busctl"}, linger: "yes"},
		{name: "another home", home: "/home/me", linger: "yes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newManaged(t)
			m.edits = append(c.edits, m.edits...)
			if slices.ContainsFunc([]string{"mute", "hangs"}, func(ill string) bool { return ill == c.manager || ill == c.logind }) {
				m.brief()
			}
			if c.linger == "" {
				c.linger = "no"
			}
			m.set(t, "manager", c.manager)
			m.set(t, "logind", c.logind)
			m.set(t, "linger", c.linger)
			if c.kill != "" {
				m.kills(t, c.kill, c.exclude)
			}
			if c.home != "" {
				m.set(t, "home", c.home)
			}
			if len(c.lacks) > 0 {
				m.Path = without(t, m.Path, c.lacks...)
			}
			h := m.host(t)
			mark := nonce()
			l, err := h.launch(t.Context(), mark, job{name: "engine", log: "engine.log", address: "127.0.0.1:1", floor: 1, env: []string{"SECRET=it's one"}, argv: []string{"sleep", "300"}})
			if err != nil || !l.ours || !goesOn(l.pid) {
				t.Fatalf("launch = %+v, %v", l, err)
			}
			if want := unitName("engine", mark); c.unit != (l.unit == want) || !c.unit && l.unit != "" {
				t.Errorf("unit %q, want %q: %v", l.unit, want, c.unit)
			}
			if !strings.HasPrefix(l.fleeting, c.warns) || c.warns == "" && l.fleeting != "" || !strings.Contains(l.fleeting, c.why) {
				t.Errorf("it is said that it %q, want %q and %q", l.fleeting, c.warns, c.why)
			}
			if (l.lingers != "") != (c.did != "") {
				t.Errorf("lingering was turned on for %q", l.lingers)
			}
			for _, line := range m.said(t, "scopes", "") {
				if !strings.Contains(line, fmt.Sprintf("PIDs au 1 %d ", l.pid)) || strings.Contains(line, "one") {
					t.Errorf("the manager was told %q of process %d", line, l.pid)
				}
			}
			for _, line := range m.said(t, "calls", "busctl") {
				if strings.Contains(line, "desktop") {
					t.Errorf("another bus was asked: %s", line)
				}
			}
			// The record, the mark and the log are as they always were.
			if ok, _, err := h.alive(t.Context(), "engine", mark, "engine.log", 0); err != nil || !ok {
				t.Errorf("alive = %v, %v", ok, err)
			}
			soon(t, "it and its watch run", func() bool {
				ws, es := watches(t, m.Account)
				return len(ws) == 1 && len(es) == 1
			})
			if info, err := os.Stat(filepath.Join(m.Home, ".rlca", "engine.log")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("log: %v, %v", info, err)
			}
			ended, err := h.halt(t.Context(), "engine", mark, "engine.log")
			if err != nil || ended.pid != l.pid || ended.linger != c.did {
				t.Errorf("halt = %+v, %v, want %q", ended, err, c.did)
			}
			var calls []string
			for _, line := range m.said(t, "calls", "loginctl") {
				calls = append(calls, strings.TrimSuffix(strings.Fields(line)[2], "-linger"))
				if !strings.Contains(line, "--no-ask-password") || !strings.HasSuffix(line, "-linger "+me) {
					t.Errorf("logind was asked %q", line)
				}
			}
			if !slices.Equal(calls, c.calls) {
				t.Errorf("logind was asked to %v, want %v", calls, c.calls)
			}
			if c.after == "" {
				c.after = c.linger
			}
			if now := m.said(t, "linger", ""); !slices.Equal(now, []string{c.after}) {
				t.Errorf("lingering is %v, want %s", now, c.after)
			}
			if c.logind == "keeps" { // what could not be turned off is tried again
				m.set(t, "logind", "")
				if ended, err = h.halt(t.Context(), "engine", "", "engine.log"); err != nil || ended.linger != off {
					t.Errorf("the next halt = %+v, %v", ended, err)
				}
			}
			nothingLeft(t, m.Account)
		})
	}
}

// Whichever shell the box has, with and without a program that keeps time.
func TestDetachShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"dash", "bash", "zsh", "mksh", "ksh", "busybox"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		for _, timeout := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, timeout %v", shell, timeout), func(t *testing.T) {
				t.Parallel()
				m := newManaged(t)
				sh := filepath.Join(t.TempDir(), "sh")
				if err := os.Symlink(path, sh); err != nil {
					t.Fatal(err)
				}
				m.Shell, m.edits = sh, append(m.edits, "/bin/sh", sh)
				if shell == "busybox" {
					bin := t.TempDir()
					if out, err := exec.Command(path, "--install", "-s", bin).CombinedOutput(); err != nil {
						t.Skipf("busybox --install: %v: %s", err, out)
					}
					m.Path = m.bin + ":" + bin
				}
				if !timeout {
					m.Path = without(t, m.Path, "timeout")
				}
				m.kills(t, "yes", "")
				h := m.host(t)
				begin := func(unit, lingers bool, warns string) {
					t.Helper()
					l, err := h.launch(t.Context(), nonce(), job{name: "engine", log: "engine.log", floor: 1, argv: []string{"sleep", "300"}})
					if err != nil || (l.unit != "") != unit || (l.lingers != "") != lingers || !strings.HasPrefix(l.fleeting, warns) || warns == "" && l.fleeting != "" {
						t.Errorf("launch = %+v, %v", l, err)
					}
					if ended, err := h.halt(t.Context(), "engine", "", "engine.log"); err != nil || ended.pid != l.pid || (ended.linger != "") != lingers {
						t.Errorf("halt = %+v, %v", ended, err)
					}
					soon(t, "the last sleep of a watch without bash is over", func() bool { return len(marked(t, m.Account)) == 0 })
					nothingLeft(t, m.Account)
				}
				begin(true, true, "")
				m.set(t, "logind", "refuses")
				begin(true, false, "ends when the last login")
				m.set(t, "linger", "yes")
				m.set(t, "manager", "hangs")
				m.brief()
				begin(false, false, "ends when this login")
			})
		}
	}
}

// Lingering stays on as long as anything runs that rlca started, and what is dead does not keep it on.
func TestDetachLingersForAll(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	m.kills(t, "yes", "")
	h := m.host(t)
	start := func(name string) *launched {
		t.Helper()
		l, err := h.launch(t.Context(), nonce(), job{name: name, log: name + ".log", argv: []string{"sleep", "300"}})
		if err != nil || l.unit == "" {
			t.Fatalf("launch %s = %+v, %v", name, l, err)
		}
		return l
	}
	stop := func(name, want string) {
		t.Helper()
		if ended, err := h.halt(t.Context(), name, "", name+".log"); err != nil || ended.linger != want {
			t.Errorf("halt %s = %+v, %v, want %q", name, ended, err, want)
		}
	}
	off := "turned lingering of " + user(t) + " off again"
	if l := start("one"); l.lingers == "" {
		t.Error("lingering was not turned on")
	}
	if l := start("two"); l.lingers != "" {
		t.Error("lingering was turned on twice")
	}
	stop("one", "")
	stop("two", off)
	nothingLeft(t, m.Account)

	dead := start("one")
	start("two")
	syscall.Kill(dead.pid, syscall.SIGKILL)
	soon(t, "it is dead", func() bool { return !goesOn(dead.pid) })
	stop("two", off)
	if l := start("one"); l.lingers == "" { // over the record of the dead
		t.Error("lingering was not turned on")
	}
	m.set(t, "linger", "no") // somebody else has turned it off
	stop("one", "")
	nothingLeft(t, m.Account)

	// What a dead one has left behind may be the last.
	l, err := h.launch(t.Context(), nonce(), job{name: "ollama", log: "ollama.log", argv: []string{"/bin/sh", "-c", "setsid sleep 300 & echo $! && wait"}})
	if err != nil || l.lingers == "" {
		t.Fatalf("launch = %+v, %v", l, err)
	}
	soon(t, "its child runs", func() bool { return len(marked(t, m.Account)) == 2 })
	syscall.Kill(l.pid, syscall.SIGKILL)
	soon(t, "it is dead", func() bool { return !goesOn(l.pid) })
	box := Box{Run: m.Run, Dial: m.Dial, Log: testLog(t)}
	list, err := Orphans(t.Context(), box)
	list = slices.DeleteFunc(list, func(o Orphan) bool { return !o.Ours })
	if err != nil || len(list) != 1 {
		t.Fatalf("Orphans = %v, %v", list, err)
	}
	if err := EndOrphans(t.Context(), box, list); err != nil {
		t.Error(err)
	}
	if now := m.said(t, "linger", ""); !slices.Equal(now, []string{"no"}) {
		t.Errorf("lingering is %v", now)
	}
	nothingLeft(t, m.Account)
}

// Two laptops at once: one process, one scope.
func TestDetachTwice(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	m.kills(t, "yes", "")
	h := m.host(t)
	var all [4]*launched
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() {
			var err error
			if all[i], err = h.launch(t.Context(), nonce(), job{name: "engine", log: "engine.log", argv: []string{"sleep", "300"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	ours := 0
	for _, l := range all {
		if l != nil && l.ours {
			ours++
		}
	}
	if n := m.said(t, "scopes", "StartTransientUnit"); ours != 1 || len(n) != 1 {
		t.Errorf("%d started it, scopes %q", ours, n)
	}
	if _, err := h.halt(t.Context(), "engine", "", "engine.log"); err != nil {
		t.Error(err)
	}
	nothingLeft(t, m.Account)
}

// What an engine's user is told.
func TestDetachWords(t *testing.T) {
	t.Parallel()
	m := newManaged(t)
	m.kills(t, "yes", "")
	installSelf("ollama")(t, m.bin)
	write(t, filepath.Join(m.Home, ".ollama/models/scripted:latest"), "")
	o := testOllama(t, m.Account, remotetest.FreePort(t))
	o.box.Run = m.Run
	me := user(t)
	var told []string
	plan := Plan{Model: "scripted"}
	s, err := o.Ensure(t.Context(), plan, func(p Progress) { told = append(told, p.Text) })
	if err != nil || len(s.Warnings) > 0 {
		t.Fatalf("Ensure = %+v, %v", s, err)
	}
	if want := "lingering is on for " + me + " now, so that Ollama outlives the login; it goes off again when it is stopped"; !slices.Contains(told, want) {
		t.Errorf("progress %q does not say %q", told, want)
	}
	if did, err := o.Stop(t.Context()); err != nil || len(did) != 2 || did[1] != "turned lingering of "+me+" off again" {
		t.Errorf("Stop = %q, %v", did, err)
	}
	nothingLeft(t, m.Account)

	m.set(t, "logind", "refuses")
	m.kills(t, "yes", "root-of-another")
	s, err = o.Ensure(t.Context(), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "Ollama ends when the last login of " + me + " on the box ends: KillUserProcesses=yes there, and lingering could not be turned on: " +
		"Could not enable-linger: Interactive authentication required.; on the box: sudo loginctl enable-linger " + me
	if !slices.Equal(s.Warnings, []string{want}) {
		t.Errorf("warnings %q, want %q", s.Warnings, want)
	}
	if undone := o.Undo(t.Context(), s); len(undone) != 1 {
		t.Errorf("Undo = %q", undone)
	}
	nothingLeft(t, m.Account)
}

func TestUnitName(t *testing.T) {
	t.Parallel()
	for mark, want := range map[string]string{
		"rlca0123456789abcdef01234567": "rlca-ollama-01234567.scope", "rlca0123456789abcdef01234567byabcdef": "rlca-ollama-01234567.scope", "x": "rlca-ollama-x.scope",
	} {
		if got := unitName("ollama", mark); got != want {
			t.Errorf("unitName(ollama, %q) = %s, want %s", mark, got, want)
		}
	}
}

// userManager is a service manager of this account that the test starts, with a bus of its own, below a cgroup of its own.
// It returns its XDG_RUNTIME_DIR.
func userManager(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a service manager of its own needs root, to get a cgroup")
	}
	systemd, units := "", ""
	for _, d := range []string{"/usr/lib/systemd", "/lib/systemd"} {
		if _, err := os.Stat(d + "/systemd"); err == nil {
			systemd, units = d+"/systemd", d+"/user"
		}
	}
	for _, name := range []string{"unshare", "dbus-daemon", "busctl", "systemctl"} {
		if _, err := exec.LookPath(name); err != nil || systemd == "" {
			t.Skip("no systemd with a user's bus here (packages systemd, dbus-user-session)")
		}
	}
	dir, err := os.MkdirTemp("", "rlca")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	// No unit but those of a bus, so that nothing else of this machine starts.
	write(t, filepath.Join(dir, "units/default.target"), "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=dbus.socket\n")
	for _, u := range []string{"basic.target", "sockets.target", "paths.target", "timers.target", "shutdown.target", "exit.target", "systemd-exit.service",
		"app.slice", "session.slice", "dbus.socket", "dbus.service"} {
		if err := os.Symlink(filepath.Join(units, u), filepath.Join(dir, "units", u)); err != nil {
			t.Fatal(err)
		}
	}
	// It runs only where it finds that the system was booted by systemd: so much is pretended to it, and to it alone.
	begin := `
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system || exit 3
for d in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  [ -w $d/cgroup.procs ] && mkdir -p $d/$1 && echo $$ > $d/$1/cgroup.procs && some=1
done 2>/dev/null
[ -n "$some" ] || exit 4
exec env -i HOME="$2" PATH="$PATH" XDG_RUNTIME_DIR="$2/run" SYSTEMD_UNIT_PATH="$2/units" SYSTEMD_LOG_TARGET=console "$3" --user
`
	group := "rlca-test-" + filepath.Base(dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("unshare", "-m", "sh", "-c", begin, "sh", group, dir, systemd)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // it ends its units
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-done
			t.Error("the service manager had to be killed")
		}
		for _, d := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
			var groups []string
			filepath.WalkDir(filepath.Join(d, group), func(path string, e os.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					groups = append(groups, path)
				}
				return nil
			})
			for _, g := range slices.Backward(groups) {
				syscall.Rmdir(g)
			}
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ask := exec.Command("busctl", "--user", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "Version")
		ask.Env = []string{"XDG_RUNTIME_DIR=" + run}
		out, err := ask.CombinedOutput()
		if err == nil {
			t.Logf("systemd %s", strings.TrimSpace(string(out)))
			return run
		}
		over := time.Now().After(deadline)
		select {
		case <-done:
			over = true
		default:
		}
		if over {
			text, _ := os.ReadFile(log.Name())
			t.Skipf("no service manager comes up here: %s, %s", out, text)
		}
	}
}

// The real thing: a service manager takes a process, with its watch, into a scope, which goes with it. Only logind is a
// script: that of this machine is left alone.
func TestDetachUnderSystemd(t *testing.T) {
	t.Parallel()
	run := userManager(t)
	m := newManaged(t)
	os.Remove(filepath.Join(m.bin, "busctl"))
	m.edits = nil
	m.Env = []string{"FAKE=" + m.dir, "XDG_RUNTIME_DIR=" + run}
	m.set(t, "linger", "yes")
	systemctl := func(args ...string) string {
		cmd := exec.Command("systemctl", append([]string{"--user"}, args...)...)
		cmd.Env = []string{"XDG_RUNTIME_DIR=" + run}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	h := m.host(t)
	bystander(t)
	start := func() *launched {
		t.Helper()
		mark := nonce()
		begin := time.Now()
		l, err := h.launch(t.Context(), mark, job{name: "engine", log: "engine.log", floor: 1, env: []string{"SECRET=hush"},
			argv: []string{"/bin/sh", "-c", "setsid sleep 300 & sleep 300 & wait"}})
		took := time.Since(begin)
		if err != nil || l.unit != unitName("engine", mark) {
			text, _ := os.ReadFile(filepath.Join(m.Home, ".rlca", "engine.log"))
			t.Fatalf("launch = %+v, %v; log %s", l, err, text)
		}
		soon(t, "three processes and their watch", func() bool {
			ws, es := watches(t, m.Account)
			return len(ws) == 1 && len(es) == 3
		})
		ws, es := watches(t, m.Account)
		for _, p := range append(ws, es...) {
			if group, err := os.ReadFile(p + "/cgroup"); err != nil || !strings.Contains(string(group), "/"+l.unit+"\n") {
				t.Errorf("cgroups of %s: %s, %v", p, group, err)
			}
		}
		if list := systemctl("list-units", "--type=scope"); !strings.Contains(list, l.unit) {
			t.Errorf("units: %s", list)
		}
		if shown := systemctl("show", l.unit); strings.Contains(shown, "hush") || !strings.Contains(shown, "ActiveState=active") {
			t.Errorf("shown: %s", shown)
		}
		if ok, _, err := h.alive(t.Context(), "engine", mark, "engine.log", 0); err != nil || !ok {
			t.Errorf("alive = %v, %v", ok, err)
		}
		t.Logf("launched after %v", took)
		return l
	}
	gone := func(l *launched) {
		t.Helper()
		soon(t, "the unit is gone", func() bool { return !strings.Contains(systemctl("list-units", "--all"), l.unit) })
	}
	halt := func(l *launched) {
		t.Helper()
		if ended, err := h.halt(t.Context(), "engine", "", "engine.log"); err != nil || ended.pid != l.pid {
			t.Errorf("halt = %+v, %v", ended, err)
		}
		nothingLeft(t, m.Account)
		gone(l)
	}
	halt(start())

	// What a killed one has left is found by its mark and does not block the next start.
	l := start()
	syscall.Kill(l.pid, syscall.SIGKILL)
	soon(t, "it is dead", func() bool { return !goesOn(l.pid) })
	next := start()
	gone(l)
	halt(next)

	// The manager may end it, too: that is its user's right.
	l = start()
	systemctl("stop", l.unit)
	soon(t, "all are gone", func() bool { return len(marked(t, m.Account)) == 0 })
	if _, err := h.halt(t.Context(), "engine", "", "engine.log"); err != nil {
		t.Error(err)
	}
	nothingLeft(t, m.Account)
	gone(l)
}
