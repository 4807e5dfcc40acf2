package remotetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// AtOnce is what a fake program, which is the test binary, needs in its environment to end when it ends: with the race
// detector it would stay for another second.
const AtOnce = "GORACE=atexit_sleep_ms=0"

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
	cmd.Env = append([]string{"HOME=" + a.Home, "PATH=" + a.Path, "SHELL=/bin/sh", "USER=rlca", AtOnce}, a.Env...)
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

// FreePort returns a port of 127.0.0.1 on which nothing listens. It and the 62 after it are the test's alone until it ends:
// no other call gets them, of no process of this machine. They lie below those that systems give to whoever asks for any.
func FreePort(t testing.TB) int {
	t.Helper()
	const first, blocks, block = 10000, 355, 64
	at := rand.IntN(blocks)
	for i := range blocks {
		port := first + (at+i)%blocks*block
		claim, err := listen(port + block - 1) // whoever has a block holds its last port
		if err != nil {
			continue
		}
		if idle(port, block-1) {
			t.Cleanup(func() { claim.Close() })
			return port
		}
		claim.Close()
	}
	t.Fatal("no free ports")
	return 0
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// idle reports whether nothing listens on n ports from port on.
func idle(port, n int) bool {
	for p := range n {
		l, err := listen(port + p)
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
