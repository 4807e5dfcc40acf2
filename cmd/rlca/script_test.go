package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rlca/internal/box"
	"rlca/internal/netlab"
	"rlca/internal/supervisor"
)

func TestMain(m *testing.M) {
	if os.Getenv("RLCA_TEST_HARNESSES") != "" && filepath.Base(os.Args[0]) != "rlca" {
		netlab.Enter()
	}
	testscript.Main(m, map[string]func(){"rlca": main})
}

// TestScripts runs the real program against embedded boxes, in scripts that read like the README. Each script has a
// home, profiles and a state folder of its own, and no ssh program: the configuration is read by rlca itself.
func TestScripts(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the scripts use a POSIX shell as the box's")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
				return err
			}
			run, err := os.MkdirTemp("", "rlca") // a socket's path must be short
			if err != nil {
				return err
			}
			e.Defer(func() { // a script that failed leaves its supervisor
				for _, dir := range []string{"run", "rlca"} { // below a state folder, or a runtime folder
					c := &supervisor.Client{Paths: supervisor.Paths{State: run, Run: filepath.Join(run, dir)}}
					if st, err := c.Status(context.Background()); err == nil {
						for _, h := range st.Hosts {
							c.Disconnect(context.Background(), h.Name, supervisor.LeaveEngine)
						}
					}
				}
				os.RemoveAll(run)
			})
			e.Vars = append(e.Vars, "HOME="+home, "RLCA_CONFIG_DIR="+filepath.Join(e.WorkDir, "config"), "RLCA_STATE_DIR="+run,
				"RLCA_OPENSSH=none", "SSH_AUTH_SOCK=", "NO_COLOR=1", "XDG_RUNTIME_DIR=", "CONFIG="+filepath.Join(home, ".ssh", "config"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"box": boxCmd, "engine": engineCmd, "freeport": freePortCmd, "hold": holdCmd, "chat": chatCmd,
			"hub": hubCmd, "store": storeCmd, "studio": studioCmd,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "ollama" { // one that a box on this machine would find
				c, err := net.Dial("tcp", "127.0.0.1:11434")
				if err == nil {
					c.Close()
					return true, nil
				}
				for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/bin", "/opt/homebrew/bin", "/snap/bin", "/Applications/Ollama.app/Contents/Resources") {
					if _, err := os.Stat(filepath.Join(dir, "ollama")); err == nil {
						return true, nil
					}
				}
				return false, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

var mu sync.Mutex // guards boxes: scripts run side by side

// boxes are the boxes of a script by name.
var boxes = map[*testscript.TestScript]map[string]*box.Box{}

// boxCmd: "box start NAME [FLAG…]" starts an embedded box, and an ssh_config entry that leads to it; "box cut NAME",
// "box pause NAME", "box resume NAME". Flags: unknown (its key is in no known_hosts), changed (another key is),
// nokey (ours is not let in), noise, noshell, noforward, mute.
func boxCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: box start|cut|pause|resume NAME [FLAG...]")
	}
	name := args[1]
	mu.Lock()
	defer mu.Unlock()
	if args[0] != "start" {
		b := boxes[ts][name]
		if b == nil {
			ts.Fatalf("no box %s", name)
		}
		map[string]func(){"cut": func() { b.Cut() }, "pause": b.Pause, "resume": b.Resume}[args[0]]()
		return
	}
	home := ts.Getenv("HOME")
	dir := filepath.Join(home, ".ssh", name)
	ts.Check(os.MkdirAll(dir, 0o700))
	key, pub, err := box.NewClientKey(dir)
	ts.Check(err)
	o := box.Options{User: "me", AuthorizedKeys: []box.PublicKey{pub}, Dir: home, Env: []string{"HOME=" + home}}
	known := true
	changed := false
	for _, flag := range args[2:] {
		switch flag {
		case "unknown":
			known = false
		case "changed":
			changed = true
		case "nokey":
			o.AuthorizedKeys = []box.PublicKey{}
		case "noise":
			o.Noise = "Welcome to the box!\nLast login: never\n\x1b[31mconda activated\x1b[0m\n"
		case "noshell":
			o.NoShell = true
		case "noforward":
			o.NoForward = true
		case "mute":
			o.Mute = true
		default:
			ts.Fatalf("unknown flag %s", flag)
		}
	}
	b, err := box.Start(o)
	ts.Check(err)
	ts.Defer(func() { b.Close() })
	if boxes[ts] == nil {
		boxes[ts] = map[string]*box.Box{}
	}
	boxes[ts][name] = b
	line := b.KnownHostsLine()
	if changed {
		other, err := box.Start(box.Options{})
		ts.Check(err)
		other.Close()
		line = strings.Replace(other.KnownHostsLine(), other.Port(), b.Port(), 1)
	}
	if known {
		appendTo(ts, filepath.Join(home, ".ssh", "known_hosts"), line+"\n")
	}
	appendTo(ts, filepath.Join(home, ".ssh", "config"), fmt.Sprintf(
		"Host %s\n  HostName 127.0.0.1\n  Port %s\n  User me\n  IdentityFile %s\n  IdentitiesOnly yes\n", name, b.Port(), key))
	ts.Setenv("PORT_"+name, b.Port())
}

func appendTo(ts *testscript.TestScript, file, text string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = f.WriteString(text)
	ts.Check(err)
	ts.Check(f.Close())
}

// engineCmd starts the built-in engine and sets ENGINE to its address.
func engineCmd(ts *testscript.TestScript, _ bool, _ []string) {
	e, err := box.StartEngine(nil)
	ts.Check(err)
	ts.Defer(func() { e.Close() })
	ts.Setenv("ENGINE", e.Addr())
	ts.Setenv("MODEL", e.Model())
}

// freePortCmd sets the variables to ports that are free.
func freePortCmd(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		ts.Setenv(name, port)
	}
}

// holdCmd listens on a port that is then taken, and sets the variable to it.
func holdCmd(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ts.Setenv(args[0], port)
}

// chatCmd: "chat PORT TEXT" asks a question through the port, and fails unless the answer has TEXT in it.
func chatCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: chat PORT TEXT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	answer, err := ask(ctx, "http://127.0.0.1:"+args[0], "rlca-demo:builtin", "what is 2 + 2?")
	if neg {
		if err == nil {
			ts.Fatalf("chat was answered: %s", answer)
		}
		return
	}
	ts.Check(err)
	if !strings.Contains(answer, args[1]) {
		ts.Fatalf("chat answered %q, want %q in it", answer, args[1])
	}
}
