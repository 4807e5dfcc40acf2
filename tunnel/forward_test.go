package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// farSide is a server behind a switch.
type farSide struct {
	ln     net.Listener
	up     atomic.Bool
	dialed atomic.Int64
}

func newFarSide(t *testing.T, serve func(*net.TCPConn)) *farSide {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &farSide{ln: ln}
	f.up.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return f
}

func (f *farSide) Dial(ctx context.Context, _ net.Addr) (net.Conn, error) {
	if !f.up.Load() {
		return nil, errDown
	}
	f.dialed.Add(1)
	return new(net.Dialer).DialContext(ctx, "tcp", f.ln.Addr().String())
}

func echoTCP(c *net.TCPConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// served starts a forward and returns its local address, and what ends it.
func served(t *testing.T, f *Forward) (addr string, end func()) {
	t.Helper()
	ls, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, ls...) }()
	end = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the forward does not end")
		}
		if s := f.Stats(); s.Open != 0 || s.Held != 0 {
			t.Errorf("after the end %+v, want nobody open or held", s)
		}
	})
	t.Cleanup(end)
	return ls[0].Addr().String(), end
}

func call(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it did not come to that within 10 s")
}

// exchange sends want, ends its side, and wants it all back.
func exchange(t *testing.T, c *net.TCPConn, want []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came back, same: %v, %v", len(got), len(want), bytes.Equal(got, want), err)
	}
	if err := <-sent; err != nil {
		t.Errorf("send: %v", err)
	}
}

// ping sends a word and wants it back.
func ping(t *testing.T, c net.Conn) {
	t.Helper()
	got := make([]byte, 5)
	c.Write([]byte("hello"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q came back, %v, want hello", got, err)
	}
}

// wantReset reads until the end and wants an error, never a clean end that looks like an answer.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.ReadAll(c); !isReset(err) {
		t.Errorf("the caller reads %v, want a reset", err)
	}
}

func isReset(err error) bool {
	const windows = syscall.Errno(10054) // WSAECONNRESET
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, windows)
}

// wantResetAtOnce calls and wants to be reset. That can be so soon that it is the dial that fails.
func wantResetAtOnce(t *testing.T, addr string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		wantReset(t, c)
	} else if !isReset(err) {
		t.Errorf("the caller gets %v, want a reset", err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Bytes go both ways unchanged, an end of one direction leaves the other open, and two hundred at once are no crowd:
// a far side that takes its time to answer holds nobody.
func TestForwardEcho(t *testing.T) {
	far := newFarSide(t, echoTCP)
	f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		time.Sleep(100 * time.Millisecond)
		return far.Dial(ctx, nil)
	}}
	addr, _ := served(t, f)
	var wg sync.WaitGroup
	for range 200 {
		c := call(t, addr)
		wg.Go(func() { exchange(t, c, random(100_000)) })
	}
	wg.Wait()
	waitFor(t, func() bool { return f.Stats().Open == 0 })
	if s := f.Stats(); s.Served != 200 || s.Reset != 0 || s.Failed != 0 || s.Left != 0 {
		t.Errorf("stats %+v, want 200 served", s)
	}
}

// A caller is held while the far side is down. What it sent meanwhile arrives in order, also if that is more than is
// read ahead, and it is answered when the far side is back.
func TestForwardHolds(t *testing.T) {
	far := newFarSide(t, echoTCP)
	far.up.Store(false)
	f := &Forward{Dial: far.Dial}
	addr, _ := served(t, f)
	var wg sync.WaitGroup
	for _, n := range []int{0, 1, heldBuffer - 1, heldBuffer, heldBuffer + 1, 3 << 20} {
		c := call(t, addr)
		wg.Go(func() { exchange(t, c, random(n)) })
	}
	waitFor(t, func() bool { return f.Stats().Held == 6 })
	time.Sleep(100 * time.Millisecond)
	if s := f.Stats(); s.OldestHeld < 100*time.Millisecond || s.Open != 6 || s.Served != 0 {
		t.Errorf("stats %+v, want 6 held for 100 ms", s)
	}
	far.up.Store(true)
	wg.Wait()
	if s := f.Stats(); s.Served != 6 || s.Held != 0 || s.OldestHeld != 0 {
		t.Errorf("stats %+v, want 6 served", s)
	}
}

func TestForwardResets(t *testing.T) {
	t.Run("held too long", func(t *testing.T) {
		far := newFarSide(t, echoTCP)
		far.up.Store(false)
		for name, dial := range map[string]func(context.Context, net.Addr) (net.Conn, error){
			"fails": far.Dial,
			"hangs": func(ctx context.Context, _ net.Addr) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		} {
			f := &Forward{Dial: dial, Hold: 200 * time.Millisecond}
			addr, _ := served(t, f)
			silent, asked := call(t, addr), call(t, addr)
			asked.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			wantReset(t, silent)
			wantReset(t, asked)
			waitFor(t, func() bool { return f.Stats().Open == 0 })
			if s := f.Stats(); s.Failed != 2 || s.Served != 0 || s.Held != 0 {
				t.Errorf("the dial %s: stats %+v, want two failed", name, s)
			}
		}
	})
	t.Run("refused by the far side", func(t *testing.T) {
		var dials atomic.Int64
		f := &Forward{
			Dial: func(context.Context, net.Addr) (net.Conn, error) {
				dials.Add(1)
				return nil, &RefusedError{Addr: "localhost:11434", Reason: "refused"}
			},
			Refused: as[*RefusedError],
		}
		addr, _ := served(t, f)
		start := time.Now()
		wantResetAtOnce(t, addr)
		if time.Since(start) > 2*time.Second || dials.Load() != 1 {
			t.Errorf("reset after %s and %d dials, want at once after one", time.Since(start), dials.Load())
		}
	})
	t.Run("the far side breaks in the middle", func(t *testing.T) {
		far := newFarSide(t, func(c *net.TCPConn) {
			c.Write([]byte("HTTP/1.1 200 OK\r\n"))
			time.Sleep(50 * time.Millisecond)
			c.SetLinger(0)
		})
		f := &Forward{Dial: far.Dial}
		addr, _ := served(t, f)
		wantReset(t, call(t, addr))
		waitFor(t, func() bool { s := f.Stats(); return s.Reset == 1 && s.Open == 0 })
	})
	t.Run("too many wait", func(t *testing.T) {
		far := newFarSide(t, echoTCP)
		far.up.Store(false)
		f := &Forward{Dial: far.Dial, MaxHeld: 2}
		addr, _ := served(t, f)
		first, second := call(t, addr), call(t, addr)
		waitFor(t, func() bool { return f.Stats().Held == 2 })
		wantResetAtOnce(t, addr)
		far.up.Store(true)
		ping(t, first) // who came first is served
		ping(t, second)
	})
	t.Run("too many at once", func(t *testing.T) {
		far := newFarSide(t, echoTCP)
		f := &Forward{Dial: far.Dial, MaxOpen: 2}
		addr, _ := served(t, f)
		first, second := call(t, addr), call(t, addr)
		ping(t, first)
		ping(t, second)
		wantResetAtOnce(t, addr)
		first.Close()
		waitFor(t, func() bool { return f.Stats().Open == 1 })
		ping(t, call(t, addr))
		if s := f.Stats(); s.Served != 3 || s.Failed != 1 || s.Reset != 0 {
			t.Errorf("stats %+v, want 3 served and 1 failed", s)
		}
	})
	t.Run("the end of the forward", func(t *testing.T) {
		far := newFarSide(t, echoTCP)
		f := &Forward{Dial: far.Dial}
		addr, end := served(t, f)
		talking := call(t, addr)
		ping(t, talking)
		far.up.Store(false)
		held := call(t, addr)
		waitFor(t, func() bool { return f.Stats().Held == 1 })
		end()
		wantReset(t, talking)
		wantReset(t, held)
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Error("the port is still open after the end")
		}
	})
}

// slowClose is a far side on a dead link: its Close takes its time.
type slowClose struct{ net.Conn }

func (c slowClose) Close() error {
	time.Sleep(100 * time.Millisecond)
	return c.Conn.Close()
}

func (c slowClose) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// A caller who gives up while it is held is dropped: its request never reaches the box. That is so for a caller that
// breaks off, and for one that closes, which looks like one that only has said all.
func TestForwardCallerGone(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){
		"breaks off":      func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"closes":          func(c *net.TCPConn) { c.Close() },
		"closes silently": func(c *net.TCPConn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			far := newFarSide(t, echoTCP)
			far.up.Store(false)
			f := &Forward{Dial: far.Dial, grace: 200 * time.Millisecond}
			addr, _ := served(t, f)
			c := call(t, addr)
			if name != "closes silently" {
				c.Write([]byte("POST / HTTP/1.1\r\n\r\n"))
			}
			waitFor(t, func() bool { return f.Stats().Held == 1 })
			leave(c)
			waitFor(t, func() bool { return f.Stats().Open == 0 })
			far.up.Store(true)
			time.Sleep(50 * time.Millisecond)
			s := f.Stats()
			if n := far.dialed.Load(); n != 0 || s.Left != 1 || s.Failed != 0 || s.Served != 0 {
				t.Errorf("%d dials for a caller who is gone, stats %+v, want none and one left", n, s)
			}
		})
	}
}

// A caller who leaves in the middle of an answer is not one that was cut, and the far side hears of it.
func TestForwardCallerLeaves(t *testing.T) {
	ended := make(chan error, 1)
	far := newFarSide(t, func(c *net.TCPConn) {
		for {
			if _, err := c.Write([]byte("data: token\n\n")); err != nil {
				ended <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	f := &Forward{Dial: far.Dial}
	addr, _ := served(t, f)
	c := call(t, addr)
	io.ReadFull(c, make([]byte, 100))
	c.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the far side goes on for a caller who has left")
	}
	waitFor(t, func() bool { return f.Stats().Open == 0 })
	if s := f.Stats(); s.Served != 1 || s.Reset != 0 || s.Failed != 0 {
		t.Errorf("stats %+v, want one served and none reset", s)
	}
}

// A caller who never reads holds up nobody else.
func TestForwardStalled(t *testing.T) {
	far := newFarSide(t, echoTCP)
	f := &Forward{Dial: far.Dial}
	addr, _ := served(t, f)
	for range 5 {
		stalled := call(t, addr)
		stalled.SetDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			if _, err := stalled.Write(make([]byte, 64<<10)); err != nil {
				break
			}
		}
	}
	start := time.Now()
	ping(t, call(t, addr))
	if d := time.Since(start); d > time.Second {
		t.Errorf("beside stalled callers a word took %s", d)
	}
}

// Each write of the far side is passed on as it comes: no timer gathers tokens.
func TestForwardTokens(t *testing.T) {
	next := make(chan struct{})
	far := newFarSide(t, func(c *net.TCPConn) {
		for range next {
			c.Write([]byte("token"))
		}
	})
	f := &Forward{Dial: far.Dial}
	addr, _ := served(t, f)
	c := call(t, addr)
	got := make([]byte, 64)
	for range 20 {
		next <- struct{}{}
		if n, err := c.Read(got); err != nil || string(got[:n]) != "token" {
			t.Fatalf("read %q, %v, want one token", got[:n], err)
		}
	}
	close(next)
	if n, err := c.Read(got); n != 0 || err != io.EOF {
		t.Errorf("at the end read %d bytes, %v, want %v", n, err, io.EOF)
	}
}

// wholeOnly is a far side that cannot end one direction alone.
type wholeOnly struct{ net.Conn }

// Where one direction cannot end alone, the end of the caller's ends both, and its answer is cut, not short.
func TestForwardNoHalfClose(t *testing.T) {
	far := newFarSide(t, echoTCP)
	f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		c, err := far.Dial(ctx, nil)
		return wholeOnly{c}, err
	}}
	addr, _ := served(t, f)
	c := call(t, addr)
	ping(t, c)
	c.CloseWrite()
	wantReset(t, c)
}

// An end amid callers that come, dial and talk leaves none of them behind.
func TestForwardEndsAnytime(t *testing.T) {
	far := newFarSide(t, echoTCP)
	for range 30 {
		f := &Forward{Dial: far.Dial}
		addr, end := served(t, f)
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						return
					}
					c.Write([]byte("hello"))
					_, err = io.ReadFull(c, make([]byte, 5))
					c.Close()
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		end()
		callers.Wait()
	}
}

// scriptedListener hands out what the test says.
type scriptedListener struct {
	accepts chan any // a net.Conn or an error
	closed  chan struct{}
	once    sync.Once
}

func (l *scriptedListener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case a := <-l.accepts:
		if c, ok := a.(net.Conn); ok {
			return c, nil
		}
		return nil, a.(error)
	}
}
func (l *scriptedListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *scriptedListener) Addr() net.Addr { return &net.TCPAddr{} }

// When there are no more file descriptors it pauses for a second and goes on.
func TestForwardAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &scriptedListener{accepts: make(chan any), closed: make(chan struct{})}
		near, far := net.Pipe()
		f := &Forward{Dial: func(context.Context, net.Addr) (net.Conn, error) { return far, nil }}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Serve(ctx, l) }()
		start := time.Now()
		for range 3 {
			l.accepts <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		caller, local := net.Pipe()
		l.accepts <- local
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("after three failures the next caller is taken after %s, want 3 s", d)
		}
		go caller.Write([]byte("hello"))
		got := make([]byte, 5)
		if _, err := io.ReadFull(near, got); err != nil || string(got) != "hello" {
			t.Errorf("the far side reads %q, %v", got, err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v, want %v", err, context.Canceled)
		}
	})
}

// A caller that does not end delays the end for 5 s and no more.
func TestForwardEndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &scriptedListener{accepts: make(chan any), closed: make(chan struct{})}
		free := make(chan struct{})
		f := &Forward{Dial: func(context.Context, net.Addr) (net.Conn, error) { <-free; return nil, errDown }}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Serve(ctx, l) }()
		_, local := net.Pipe()
		l.accepts <- local
		synctest.Wait()
		start := time.Now()
		cancel()
		<-done
		if d := time.Since(start); d != quietLimit {
			t.Errorf("Serve returns after %s, want %s", d, quietLimit)
		}
		close(free)
	})
}

// The listener outlives the callers: nobody else can take the port before the last has ended.
func TestForwardClosesPortLast(t *testing.T) {
	far := newFarSide(t, echoTCP)
	f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		c, err := far.Dial(ctx, nil)
		if err != nil {
			return nil, err
		}
		return slowClose{c}, nil
	}}
	addr, end := served(t, f)
	c := call(t, addr)
	ping(t, c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
	}()
	wantReset(t, c) // its far side still has 100 ms to go
	if ls, err := Listen(addr); err == nil {
		for _, l := range ls {
			l.Close()
		}
		if f.Stats().Open > 0 {
			t.Error("the port was free while a caller was still there")
		}
	}
	<-ended
}
