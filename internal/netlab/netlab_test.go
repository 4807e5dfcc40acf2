package netlab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rlca/internal/netlab"
	"rlca/internal/peer"
)

func TestMain(m *testing.M) { netlab.Main(m) }

// echo is a server in the box that sends back what it gets. It returns its address.
func echo(t *testing.T, l *netlab.Lab) string {
	t.Helper()
	ln, err := l.Listen("tcp", net.JoinHostPort(netlab.BoxAddr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	// With a reset at the end, else it would bother the next lab.
	t.Cleanup(func() { c.(*net.TCPConn).SetLinger(0); c.Close() })
	return c
}

// ping sends a byte and waits for it.
func ping(c net.Conn, limit time.Duration) (time.Duration, error) {
	start := time.Now()
	if _, err := c.Write([]byte{1}); err != nil {
		return 0, err
	}
	return time.Since(start), pong(c, limit)
}

// pong waits for a byte.
func pong(c net.Conn, limit time.Duration) error {
	c.SetReadDeadline(time.Now().Add(limit))
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func mustPing(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := ping(c, 5*time.Second); err != nil {
		t.Fatalf("ping: %v", err)
	}
}

// mute checks that nothing comes back.
func mute(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := ping(c, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("ping: %v, want a timeout", err)
	}
}

func TestDelay(t *testing.T) {
	l := netlab.New(t)
	c := dial(t, echo(t, l))
	for _, way := range []time.Duration{0, 200 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		l.Delay(way)
		var all []time.Duration
		for range 15 {
			start := time.Now()
			mustPing(t, c)
			all = append(all, time.Since(start))
		}
		slices.Sort(all)
		t.Logf("%v each way: round trip min %v, median %v, max %v", way, all[0], all[7], all[14])
		if all[0] < 2*way {
			t.Errorf("%v each way: round trip in %v", way, all[0])
		}
		if way == 10*time.Millisecond && all[7] > 26*time.Millisecond {
			t.Errorf("%v each way: round trip in %v", way, all[7])
		}
	}
}

func TestHole(t *testing.T) {
	l := netlab.New(t)
	addr := echo(t, l)
	c := dial(t, addr)
	mustPing(t, c)
	l.Hole(true)
	before, _ := l.Packets()
	mute(t, c)
	if _, err := net.DialTimeout("tcp", addr, 100*time.Millisecond); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("dial into the hole: %v, want a timeout", err)
	}
	if after, _ := l.Packets(); after != before {
		t.Errorf("%d packets came out of the hole", after-before)
	}
	l.Hole(false)
	if err := pong(c, 5*time.Second); err != nil { // the byte of mute, again and again by TCP
		t.Fatalf("after the hole: %v", err)
	}
	mustPing(t, c)

	// What is on the way is lost too.
	l.Delay(150 * time.Millisecond)
	before, _ = l.Packets()
	c.Write([]byte{1})
	l.Hole(true)
	time.Sleep(200 * time.Millisecond)
	if after, _ := l.Packets(); after != before {
		t.Errorf("%d packets on the way survived the hole", after-before)
	}
	l.Hole(false)
	if err := pong(c, 5*time.Second); err != nil {
		t.Fatalf("after the hole: %v", err)
	}
}

func TestForget(t *testing.T) {
	l := netlab.New(t)
	addr := echo(t, l)
	old := dial(t, addr)
	mustPing(t, old)
	l.Forget()
	mute(t, old)
	mustPing(t, dial(t, addr))
	l.Remember()
	if err := pong(old, 5*time.Second); err != nil {
		t.Errorf("remembered: %v", err)
	}
}

func TestRenumber(t *testing.T) {
	l := netlab.New(t)
	addr := echo(t, l)
	old := dial(t, addr)
	mustPing(t, old)
	l.Renumber("10.50.0.9")
	fresh := dial(t, addr)
	mustPing(t, fresh)
	if host, _, _ := net.SplitHostPort(fresh.LocalAddr().String()); host != "10.50.0.9" {
		t.Errorf("dialled from %s", host)
	}
	mute(t, old)
	l.RemoveAddr()
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("dial without an address: %v", err)
	}
	l.AddAddr(netlab.LaptopAddr)
	if err := pong(old, 5*time.Second); err != nil {
		t.Errorf("the old connection, with its address again: %v", err)
	}
	mustPing(t, dial(t, addr))
}

func TestLink(t *testing.T) {
	l := netlab.New(t)
	addr := echo(t, l)
	old := dial(t, addr)
	for range 2 {
		l.LinkDown()
		if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("dial without a link: %v", err)
		}
		mute(t, old)
		l.LinkUp()
		mustPing(t, dial(t, addr))
		if err := pong(old, 5*time.Second); err != nil {
			t.Errorf("with the link again: %v", err)
		}
	}
}

// What happens in the box stays there, and it has a loopback of its own.
func TestBox(t *testing.T) {
	l := netlab.New(t)
	ln, err := l.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if c, err := net.Dial("tcp", ln.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial the box's 127.0.0.1: %v %v", c, err)
	}
	own, err := net.Listen("tcp", ln.Addr().String())
	if err != nil {
		t.Errorf("the same port on the laptop: %v", err)
	} else {
		own.Close()
	}
	sleeper := l.Command("sleep", "1000")
	if err := l.Start(sleeper); err != nil {
		t.Fatal(err)
	}
	name := func(pid int) string {
		s, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return s
	}
	if in := name(sleeper.Process.Pid); in == "" || in == name(os.Getpid()) {
		t.Errorf("the command is in %q, the laptop in %q", in, name(os.Getpid()))
	}
	t.Run("IPv6", func(t *testing.T) {
		ln, err := l.Listen("tcp", "[fd50::2]:0")
		if err != nil {
			t.Skip(err)
		}
		defer ln.Close()
		dial(t, ln.Addr().String())
	})
	sleeper.Process.Kill()
	sleeper.Wait()
}

func TestSSHD(t *testing.T) {
	program := peer.Need(t, "ssh")
	l := netlab.New(t)
	s := l.StartSSHD()
	l.Delay(10 * time.Millisecond)
	run := func(command string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, "-F", s.Config, "box", command).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh box %s: %v: %s", command, err, out)
		}
		return string(out)
	}
	start := time.Now()
	run("true")
	t.Logf("ssh box true at 20 ms: %v", time.Since(start))
	if got := run("echo $SSH_CONNECTION"); !strings.HasPrefix(got, netlab.LaptopAddr+" ") || !strings.Contains(got, " "+netlab.BoxAddr+" "+s.Port) {
		t.Errorf("connected by %q", got)
	}
	home := strings.TrimSuffix(run("echo $HOME"), "\n")
	if left, err := os.ReadDir(home); err != nil || len(left) != 0 || home == os.Getenv("HOME") {
		t.Errorf("HOME is %q, %v, %v, want an empty folder of the lab's", home, left, err)
	}

	// A command outlives its connection, but not the lab.
	live := exec.Command(program, "-F", s.Config, "box", "echo here; exec sleep 1000")
	out, err := live.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if n := s.KillConnections(); n != 1 {
		t.Errorf("killed %d connections", n)
	}
	if err := live.Wait(); err == nil {
		t.Error("ssh ended well without a connection")
	}
	s.Restart()
	run("true")
	s.Stop()
	if _, err := net.DialTimeout("tcp", s.Addr, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a stopped sshd: %v", err)
	}
	s.Start()
	run("true")
}

func TestThroughput(t *testing.T) {
	l := netlab.New(t)
	for _, way := range []time.Duration{0, 5 * time.Millisecond} {
		l.Delay(way)
		for _, size := range []int{128 << 20, 32 << 10} {
			ln, err := l.Listen("tcp", net.JoinHostPort(netlab.BoxAddr, "0"))
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if c, err := ln.Accept(); err == nil {
					io.Copy(c, io.LimitReader(zero{}, int64(size)))
					c.Close()
				}
			}()
			_, before := l.Packets()
			start := time.Now()
			c := dial(t, ln.Addr().String())
			n, err := io.Copy(io.Discard, c)
			if err != nil || n != int64(size) {
				t.Fatalf("got %d of %d: %v", n, size, err)
			}
			took := time.Since(start)
			_, after := l.Packets()
			t.Logf("%v each way: %d KB in %v, %.0f MB/s, %d packets", way, size>>10, took, float64(size)/1e6/took.Seconds(), after-before)
			if after-before < int64(size)/1460 {
				t.Errorf("%d packets for %d bytes", after-before, size)
			}
			ln.Close()
		}
	}
}

// zero is endless.
type zero struct{}

func (zero) Read(p []byte) (int, error) { return len(p), nil }

// Nothing is left of a lab: no goroutine, no file, no process.
func TestLeaks(t *testing.T) {

	count := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	before := 0
	for i := range 4 {
		inner := &cleaner{TB: t}
		l := netlab.New(inner)
		l.Delay(time.Second)
		net.DialTimeout("tcp", net.JoinHostPort(netlab.BoxAddr, "1"), 20*time.Millisecond) // it is on the way
		sleeper := l.Command("sleep", "1000")
		if err := l.Start(sleeper); err != nil {
			t.Fatal(err)
		}
		inner.clean()
		if err := sleeper.Wait(); err == nil {
			t.Error("the command in the box ended well")
		}
		goleak.VerifyNone(t)
		if n := count(); i == 0 {
			before = n
		} else if n > before {
			t.Errorf("%d files open, %d before", n, before)
		}
	}
}

// cleaner is a test that can be cleaned up before its end.
type cleaner struct {
	testing.TB
	todo []func()
}

func (c *cleaner) Cleanup(f func()) { c.todo = append(c.todo, f) }

func (c *cleaner) clean() {
	for _, f := range slices.Backward(c.todo) {
		f()
	}
	c.todo = nil
}
