package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rlca/internal/box"
)

// terminal opens a new pseudo terminal: what a person has, and what a program has.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { person.Close() })
	c, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	c.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// reads waits until a terminal shows a text.
func reads(t *testing.T, f *os.File, seen *bytes.Buffer, want string) {
	t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), want) {
		f.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := f.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("the terminal never shows %q: %v\n%s", want, err, seen)
		}
	}
}

// Ctrl-C is the harness's: it decides what becomes of it, and rlca ends as it ends. What was made for it is gone then.
func TestLaunchOnATerminal(t *testing.T) {
	t.Parallel()
	engine, err := box.StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { engine.Close() })
	l := newLaptop(t)
	bin := t.TempDir()
	l.env = append(l.env, "HOME="+t.TempDir(), "TMPDIR="+t.TempDir(), "PATH="+bin+":/usr/bin:/bin")
	l.write("here", fmt.Sprintf("host = \"local\"\n[model]\nname = %q\n[engine]\naddress = %q\n[forward]\nlisten = %q\n", engine.Model(), engine.Addr(), engine.Addr()))
	l.must("connect", "here")
	script := "#!/bin/sh\n[ \"$1\" = --version ] && exit\ntest -t 0 && test -t 1 && test -t 2 && echo a terminal\n" +
		"trap 'n=x$n; echo interrupted $n' INT\ntest -d \"$PI_CODING_AGENT_DIR\" && echo started\n" +
		"while [ \"$n\" != xx ]; do sleep 0.02; done\nexit 9\n"
	if err := os.WriteFile(filepath.Join(bin, "pi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	person, program := terminal(t)
	cmd := exec.Command(l.path, "launch", "pi")
	cmd.Env, cmd.Dir = l.env, l.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	reads(t, person, &seen, "started")
	if !strings.Contains(seen.String(), "a terminal") {
		t.Errorf("the harness has no terminal:\n%s", &seen)
	}
	for _, want := range []string{"interrupted x\r", "interrupted xx\r"} {
		if _, err := person.Write([]byte{3}); err != nil {
			t.Fatal(err)
		}
		reads(t, person, &seen, want)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("rlca ended with %d, the harness with 9:\n%s", code, &seen)
	}
	if left, _ := filepath.Glob(filepath.Join(l.env[len(l.env)-2][len("TMPDIR="):], "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
