package remotetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Account is this machine as a box: scripts run here, in a home of their own, with a PATH of their own.
type Account struct {
	Home string
	// Path is the PATH of the scripts.
	Path string
	// Env is more environment, NAME=value.
	Env []string
	// Shell is the shell that runs the scripts. Empty is /bin/sh.
	Shell string
}

// NewAccount makes an account with an empty home. Programs are found in dirs, then where the system has its own.
// The test is skipped where there is no POSIX shell.
func NewAccount(t testing.TB, dirs ...string) *Account {
	t.Helper()
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("no /bin/sh here")
	}
	return &Account{Home: t.TempDir(), Path: strings.Join(append(dirs, "/usr/bin", "/bin", "/usr/sbin", "/sbin"), ":")}
}

// Run feeds script to the shell, as a session on a box does. What the script leaves running goes on.
func (a *Account) Run(ctx context.Context, script string) ([]byte, error) {
	shell := a.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	cmd := exec.CommandContext(ctx, shell, "-s")
	cmd.Env = append([]string{"HOME=" + a.Home, "PATH=" + a.Path, "SHELL=/bin/sh", "USER=rlca"}, a.Env...)
	cmd.Stdin = strings.NewReader(script)
	cmd.WaitDelay = 3 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		return out.Bytes(), fmt.Errorf("the script left a file of its session open: %w", err)
	}
	if ctx.Err() != nil {
		return out.Bytes(), ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.Bytes(), err
}

// Dial dials from this machine.
func (a *Account) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// FreePort returns a port of 127.0.0.1 that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
