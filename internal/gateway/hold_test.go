package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// line is one end of a connection in memory, which can be ended one way and reset, and runs on a test's clock.
type line struct {
	net.Conn // what is read, and where it is written for the other side
	out      net.Conn
	peer     *line
	linger   atomic.Bool
	reset    atomic.Bool
}

func newLine() (a, b *line) {
	ab, ba := net.Pipe()
	cd, dc := net.Pipe()
	a, b = &line{Conn: ab, out: cd}, &line{Conn: dc, out: ba}
	a.peer, b.peer = b, a
	return a, b
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err == io.EOF && l.reset.Load() {
		err = syscall.ECONNRESET
	}
	return n, err
}

func (l *line) Write(p []byte) (int, error) { return l.out.Write(p) }
func (l *line) CloseWrite() error           { return l.out.Close() }

func (l *line) SetLinger(int) error {
	l.linger.Store(true)
	return nil
}

func (l *line) SetWriteDeadline(t time.Time) error { return l.out.SetWriteDeadline(t) }
func (l *line) SetDeadline(t time.Time) error      { l.out.SetDeadline(t); return l.Conn.SetDeadline(t) }

func (l *line) Close() error {
	if l.linger.Load() {
		l.peer.reset.Store(true)
	}
	l.out.Close()
	return l.Conn.Close()
}

// lines is a listener in memory.
type lines struct {
	calls  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *lines) Accept() (net.Conn, error) {
	select {
	case c := <-l.calls:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *lines) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *lines) Addr() net.Addr { return &net.TCPAddr{} }

// world is a gateway on a test's clock, and the box behind it.
type world struct {
	t     *testing.T
	g     *Gateway
	ls    *lines
	err   atomic.Pointer[error] // what Dial says; nil is that it is up
	dials atomic.Int64
	asked atomic.Int64 // bytes that the engine got
	serve func(c net.Conn, r *bufio.Reader)
	wg    sync.WaitGroup
}

// within runs a test in a world where Dial says err.
func within(t *testing.T, g *Gateway, err error, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, g: g, ls: &lines{calls: make(chan net.Conn), closed: make(chan struct{})}}
		w.say(err)
		w.serve = func(c net.Conn, r *bufio.Reader) {
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				n, err := io.Copy(io.Discard, req.Body)
				if err != nil {
					return
				}
				text := fmt.Sprintf("%s %d", req.Method, n)
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			}
		}
		if g.Dial == nil {
			g.Dial = w.dial
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.wg.Go(func() { g.Serve(ctx, w.ls) })
		test(w)
		cancel()
		w.wg.Wait()
		if s := g.Stats(); s.Open != 0 || s.Held != 0 || g.ahead.Load() != 0 {
			t.Errorf("after the end %+v, %d bytes ahead, want none", s, g.ahead.Load())
		}
	})
}

func (w *world) say(err error) {
	if err == nil {
		w.err.Store(nil)
		return
	}
	w.err.Store(&err)
}

func (w *world) dial(ctx context.Context, _ net.Addr) (net.Conn, error) {
	w.dials.Add(1)
	if err := w.err.Load(); err != nil {
		return nil, *err
	}
	near, far := newLine()
	w.wg.Go(func() {
		defer far.Close()
		w.serve(far, bufio.NewReader(io.TeeReader(far, counter{&w.asked})))
	})
	return near, nil
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

func (w *world) call() *line {
	near, far := newLine()
	w.ls.calls <- far
	w.t.Cleanup(func() { near.Close() })
	return near
}

// ask sends a request, and gives its answer and how long that took.
func (w *world) ask(request, method string) (resp *http.Response, body string, took time.Duration) {
	start := time.Now()
	c := w.call()
	defer c.Close()
	sent := make(chan bool)
	go func() { io.WriteString(c, request); close(sent) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		w.t.Errorf("%.20q: no answer after %s: %v", request, time.Since(start), err)
		return &http.Response{Header: http.Header{}}, "", 0
	}
	took = time.Since(start)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Errorf("%.20q: the body of the answer: %v", request, err)
	}
	<-sent
	return resp, string(b), took
}

func message(t *testing.T, body string) (code, text string) {
	t.Helper()
	var b struct {
		Type  string
		Error struct{ Type, Code, Message string }
	}
	if err := json.Unmarshal([]byte(body), &b); err != nil || b.Type != "error" || b.Error.Type == "" {
		t.Errorf("the body is %q, %v", body, err)
	}
	return b.Error.Code, b.Error.Message
}

func TestHeldUntilTheLinkIsBack(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, errDown, func(w *world) {
		start := time.Now()
		time.AfterFunc(30*time.Second, func() { w.say(nil) })
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				body := strings.Repeat("x", i*30<<10)
				resp, got, took := w.ask(post("/v1/messages", body), "POST")
				if want := fmt.Sprintf("POST %d", len(body)); resp.StatusCode != 200 || got != want {
					t.Errorf("answered %d %q, want 200 %q", resp.StatusCode, got, want)
				}
				if late := took - 30*time.Second; late < 0 || late > 500*time.Millisecond {
					t.Errorf("answered %s after the link was back", late)
				}
			})
		}
		time.Sleep(20 * time.Second)
		if s := w.g.Stats(); s.Held != 20 || s.OldestHeld < 19*time.Second || s.Served != 0 {
			t.Errorf("after %s %+v, want 20 held", time.Since(start), s)
		}
		wg.Wait()
		if s := w.g.Stats(); s.Held != 0 || s.Served != 20 {
			t.Errorf("at the end %+v, want 20 served", s)
		}
	})
}

// TestHeldInDial has a Dial that waits by itself, as that of a link does.
func TestHeldInDial(t *testing.T) {
	t.Parallel()
	up := make(chan struct{})
	g := &Gateway{}
	within(t, g, nil, func(w *world) {
		up = make(chan struct{})
		w.g.Dial = func(ctx context.Context, from net.Addr) (net.Conn, error) {
			select {
			case <-up:
				return w.dial(ctx, from)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		late := make(chan bool)
		go func() {
			resp, _, took := w.ask(get, "GET")
			if resp.StatusCode != 503 || took != 10*time.Second {
				t.Errorf("a probe is answered %d after %s, want 503 after 10 s", resp.StatusCode, took)
			}
			close(late)
		}()
		<-late
		time.AfterFunc(90*time.Second, func() { close(up) })
		if resp, _, took := w.ask(post("/api/chat", "{}"), "POST"); resp.StatusCode != 200 || took != 90*time.Second {
			t.Errorf("answered %d after %s, want 200 after 90 s", resp.StatusCode, took)
		}
	})
}

func TestHeldTooLong(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 26, 14, 3, 0, 0, time.Local)
	g := &Gateway{State: func() State {
		return State{Host: "spark", Since: since, NextTry: time.Now().Add(4 * time.Second), Cause: "dial tcp 10.0.0.7:22:\n i/o timeout\x1b[31m"}
	}}
	within(t, g, errDown, func(w *world) {
		for request, hold := range map[string]time.Duration{
			post("/v1/chat/completions", "{}"):               100 * time.Second,
			post("/v1/messages", strings.Repeat("x", 3<<20)): 100 * time.Second, // drained, so that it hears the answer
			get: 10 * time.Second,
			"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n": 10 * time.Second,
		} {
			method, _, _ := strings.Cut(request, " ")
			resp, body, took := w.ask(request, method)
			if resp.StatusCode != 503 || took < hold || took > hold+time.Second {
				t.Errorf("%s is answered %d after %s, want 503 after %s", method, resp.StatusCode, took, hold)
			}
			if !resp.Close || resp.Header.Get("Retry-After") != "2" || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s is answered with %v, close %v", method, resp.Header, resp.Close)
			}
			if method == "HEAD" {
				if body != "" || resp.ContentLength < 10 {
					t.Errorf("HEAD has a body %q, length %d", body, resp.ContentLength)
				}
				continue
			}
			code, text := message(t, body)
			want := "rlca: link to spark is down, reconnecting (since 14:03, next try in 4 s): dial tcp 10.0.0.7:22: i/o timeout[31m"
			if code != "tunnel_down" || text != want {
				t.Errorf("the message is %s %q, want tunnel_down %q", code, text, want)
			}
		}
		if w.asked.Load() != 0 {
			t.Errorf("the engine got %d bytes", w.asked.Load())
		}
	})
}

// TestLeavesWhileHeld: the box must not work for a caller that has gone.
func TestLeavesWhileHeld(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*line){
		"closes":        func(c *line) { c.Close() },
		"is reset":      func(c *line) { c.SetLinger(0); c.Close() },
		"ends its side": func(c *line) { c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within(t, &Gateway{}, errDown, func(w *world) {
				for i, size := range []int{10, 60 << 10, 900 << 10} {
					c := w.call()
					io.WriteString(c, post("/v1/chat/completions", strings.Repeat("x", size)))
					time.Sleep(time.Second)
					if s := w.g.Stats(); s.Held != 1 {
						t.Fatalf("%+v, want one held", s)
					}
					leave(c)
					if name == "ends its side" { // it may still listen
						resp, err := http.ReadResponse(bufio.NewReader(c), nil)
						if err != nil || resp.StatusCode != 503 {
							t.Errorf("answered %v, %v, want 503", resp, err)
						}
						c.Close()
					}
					synctest.Wait()
					if s := w.g.Stats(); s.Held != 0 || s.Open != 0 || s.Left != int64(i+1) {
						t.Errorf("at once after it left %+v, want nobody", s)
					}
				}
				w.say(nil)
				time.Sleep(time.Minute)
				if w.asked.Load() != 0 {
					t.Errorf("the engine got %d bytes of those who left", w.asked.Load())
				}
			})
		})
	}
}

// TestLeavesInDial: as above, in the moment in which the far side is there.
func TestLeavesInDial(t *testing.T) {
	t.Parallel()
	g := &Gateway{}
	within(t, g, nil, func(w *world) {
		var c *line
		w.g.Dial = func(ctx context.Context, from net.Addr) (net.Conn, error) {
			time.Sleep(time.Second)
			c.Close()
			synctest.Wait()
			return w.dial(ctx, from)
		}
		c = w.call()
		io.WriteString(c, post("/api/chat", "{}"))
		time.Sleep(time.Minute)
		if s := w.g.Stats(); w.asked.Load() != 0 || s.Left != 1 {
			t.Errorf("the engine got %d bytes; %+v", w.asked.Load(), s)
		}
	})
}

func TestNothingListens(t *testing.T) {
	t.Parallel()
	refused := errors.New("127.0.0.1:11434 on the box: connection refused")
	g := &Gateway{State: func() State { return State{Host: "spark"} }, Classify: func(err error) Verdict {
		if err == refused {
			return Closed
		}
		return Wait
	}}
	within(t, g, refused, func(w *world) {
		resp, body, took := w.ask(post("/api/chat", "{}"), "POST")
		code, text := message(t, body)
		if want := "rlca: link to spark is up, nothing listens there: 127.0.0.1:11434 on the box: connection refused"; resp.StatusCode != 503 || code != "engine_down" || text != want {
			t.Errorf("answered %d %s %q, want 503 engine_down %q", resp.StatusCode, code, text, want)
		}
		if resp.Header.Get("Retry-After") != "2" || took != 100*time.Second {
			t.Errorf("after %s, Retry-After %q, want 100 s and 2", took, resp.Header.Get("Retry-After"))
		}
		if n := w.dials.Load(); n < 99 || n > 101 {
			t.Errorf("%d dials in 100 s, want one a second", n)
		}
		time.AfterFunc(30*time.Second, func() { w.say(nil) })
		if resp, _, took := w.ask(post("/api/chat", "{}"), "POST"); resp.StatusCode != 200 || took > 31*time.Second {
			t.Errorf("with the engine back after 30 s answered %d after %s", resp.StatusCode, took)
		}
	})
}

func TestNeedsYou(t *testing.T) {
	t.Parallel()
	g := &Gateway{State: func() State { return State{Host: "spark"} }, Classify: func(error) Verdict { return Human }}
	within(t, g, errors.New("host key of spark has changed"), func(w *world) {
		resp, body, took := w.ask(post("/v1/responses", strings.Repeat("x", 2<<20)), "POST")
		code, text := message(t, body)
		if resp.StatusCode != 503 || took != 0 || resp.Header.Get("Retry-After") != "30" || code != "needs_you" || text != "rlca: spark needs you: host key of spark has changed; see: rlca status" {
			t.Errorf("answered %d after %s, Retry-After %s, %s %q", resp.StatusCode, took, resp.Header.Get("Retry-After"), code, text)
		}
	})
}

// TestNeedsYouAfterAll: who is held hears at once when only a person can help.
func TestNeedsYouAfterAll(t *testing.T) {
	t.Parallel()
	changed := errors.New("host key of spark has changed")
	g := &Gateway{Classify: func(err error) Verdict {
		if err == changed {
			return Human
		}
		return Wait
	}}
	within(t, g, errDown, func(w *world) {
		time.AfterFunc(30*time.Second, func() { w.say(changed) })
		request := strings.Replace(post("/api/chat", "{}"), "Host", "Origin: http://localhost:3000\r\nHost", 1)
		resp, _, took := w.ask(request, "POST")
		if resp.StatusCode != 503 || took < 30*time.Second || took > 31*time.Second {
			t.Errorf("answered %d after %s, want 503 after 30 s", resp.StatusCode, took)
		}
		if o := resp.Header.Get("Access-Control-Allow-Origin"); o != "http://localhost:3000" {
			t.Errorf("a page of this machine may not read it: %q", o)
		}
	})
}

func TestNotReadyYet(t *testing.T) {
	t.Parallel()
	g := &Gateway{Hold: time.Second, State: func() State { return State{Host: "spark", Doing: "loading qwen3:30b"} }}
	within(t, g, errDown, func(w *world) {
		_, body, took := w.ask(post("/api/chat", "{}"), "POST")
		if code, text := message(t, body); took != time.Second || code != "not_ready" || text != "rlca: spark is loading qwen3:30b" {
			t.Errorf("after %s %s %q", took, code, text)
		}
	})
}

// Test500AtOnce: those who are too many hear it at once, and the others are served.
func Test500AtOnce(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{MaxOpen: 450}, errDown, func(w *world) {
		var served, turned atomic.Int64
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				resp, body, took := w.ask(post("/v1/chat/completions", strings.Repeat("x", 100<<10)), "POST")
				switch resp.StatusCode {
				case 200:
					served.Add(1)
				case 503:
					turned.Add(1)
					if code, text := message(t, body); code != "too_many" || text != "rlca: too many requests wait for the box already" || took > time.Second {
						t.Errorf("after %s %s %q", took, code, text)
					}
				}
			})
		}
		time.Sleep(20 * time.Second)
		if s := w.g.Stats(); s.Held != 256 || s.Failed != 244 {
			t.Errorf("%+v, want 256 held and 244 told that they are too many", s)
		}
		if n := w.g.ahead.Load(); n > aheadBudget {
			t.Errorf("%d bytes are read ahead, want at most %d", n, aheadBudget)
		}
		w.say(nil)
		wg.Wait()
		if served.Load() != 256 || turned.Load() != 244 {
			t.Errorf("%d served and %d turned away, want 256 and 244", served.Load(), turned.Load())
		}
	})
}

// TestReadAhead: what a held caller may send before it has to wait, alone and among others.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, errDown, func(w *world) {
		const size = 3 << 20
		var sent atomic.Int64
		c := w.call()
		go func() {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3145728\r\n\r\n")
			for range size >> 10 {
				n, _ := c.Write(make([]byte, 1<<10))
				sent.Add(int64(n))
			}
		}()
		time.Sleep(30 * time.Second)
		if n := sent.Load(); n < 1<<20-blockSize || n > 1<<20 {
			t.Errorf("%d bytes are read of a caller that is held, want 1 MiB", n)
		}
		w.say(nil)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 || sent.Load() != size {
			t.Errorf("answered %v, %v, %d bytes sent, want 200 and %d", resp, err, sent.Load(), size)
		}
		c.Close()
	})
}

func TestSlowHeads(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, nil, func(w *world) {
		silent := w.call()
		start := time.Now()
		c := w.call()
		go func() {
			for _, b := range []byte("GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n") {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 408 || time.Since(start) != 10*time.Second {
			t.Errorf("after %s answered %v, %v, want 408 after 10 s", time.Since(start), resp, err)
		}
		c.Close()
		time.Sleep(time.Hour) // one that says nothing costs nothing
		go io.WriteString(silent, get)
		if resp, err := http.ReadResponse(bufio.NewReader(silent), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("one that was silent for an hour is answered %v, %v", resp, err)
		}
		silent.Close()
	})
}

// TestOldConnections: one that lay idle is not trusted with a request.
func TestOldConnections(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, nil, func(w *world) {
		c := w.call()
		r := bufio.NewReader(c)
		for _, test := range []struct {
			idle  time.Duration
			dials int64
		}{{0, 1}, {time.Second, 1}, {3 * time.Second, 2}, {10 * time.Minute, 3}} {
			time.Sleep(test.idle)
			go io.WriteString(c, post("/api/chat", "{}"))
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			if n := w.dials.Load(); n != test.dials {
				t.Errorf("after %s %d connections, want %d", test.idle, n, test.dials)
			}
		}
		c.Close()
	})
}

// TestEndWhileHeld: the end of everything resets who waits, and nobody is asked any more.
func TestEndWhileHeld(t *testing.T) {
	t.Parallel()
	var c *line
	within(t, &Gateway{}, errDown, func(w *world) {
		c = w.call()
		io.WriteString(c, post("/api/chat", "{}"))
		time.Sleep(5 * time.Second)
		w.t.Cleanup(func() {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("it reads on")
			}
		})
	})
}

// TestExpectWhileHeld: a caller that waits for leave to send its body gets it from the box, or a 503 without having sent
// any of it.
func TestExpectWhileHeld(t *testing.T) {
	t.Parallel()
	const head = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	for name, test := range map[string]struct {
		back   time.Duration // the link; 0 is never
		engine string        // its answer to the head
		want   []int
		took   time.Duration
	}{
		"accepted": {30 * time.Second, "HTTP/1.1 100 Continue\r\n\r\n", []int{100, 200}, 30 * time.Second},
		"refused":  {30 * time.Second, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n", []int{417}, 30 * time.Second},
		"held":     {0, "", []int{503}, 100 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within(t, &Gateway{}, errDown, func(w *world) {
				w.serve = func(c net.Conn, r *bufio.Reader) {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, test.engine)
					if test.want[0] == 100 {
						body := make([]byte, 4)
						io.ReadFull(r, body)
						fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%s", body)
					}
					io.Copy(io.Discard, r)
				}
				if test.back > 0 {
					time.AfterFunc(test.back, func() { w.say(nil) })
				}
				start := time.Now()
				c := w.call()
				defer c.Close()
				c.SetDeadline(start.Add(time.Hour))
				io.WriteString(c, head)
				r := bufio.NewReader(c)
				for i, want := range test.want {
					resp, body := readAnswer(t, r, "POST")
					if resp.StatusCode != want {
						t.Errorf("answered %d %s, want %d", resp.StatusCode, body, want)
					}
					if took := time.Since(start); i == 0 && (took < test.took || took > test.took+time.Second) {
						t.Errorf("answered after %s, want %s", took, test.took)
					}
					if want == 100 {
						io.WriteString(c, "body")
					} else if want == 200 {
						if body != "body" {
							t.Errorf("answered %q", body)
						}
						c.Close()
						return
					}
				}
				// Whether a body is still to come is not known: no other request can.
				if _, err := r.ReadByte(); err != io.EOF {
					t.Errorf("after the answer %v, want an end", err)
				}
				if want := int64(len(head)); test.back > 0 && w.asked.Load() != want || test.back == 0 && w.asked.Load() != 0 {
					t.Errorf("the engine got %d bytes", w.asked.Load())
				}
			})
		})
	}
}

// TestPipelinedWhileHeld: what a held caller asks next waits behind the first, and falls with it.
func TestPipelinedWhileHeld(t *testing.T) {
	t.Parallel()
	request := post("/v1/messages", strings.Repeat("x", 40<<10)) + get + post("/api/chat", "{}")
	within(t, &Gateway{}, errDown, func(w *world) {
		time.AfterFunc(30*time.Second, func() { w.say(nil) })
		c := w.call()
		c.SetDeadline(time.Now().Add(time.Hour))
		go io.WriteString(c, request)
		r := bufio.NewReader(c)
		for _, want := range []string{"POST 40960", "GET 0", "POST 2"} {
			if resp, body := readAnswer(t, r, "GET"); resp.StatusCode != 200 || body != want {
				t.Errorf("answered %d %q, want 200 %q", resp.StatusCode, body, want)
			}
		}
		c.Close()
	})
	within(t, &Gateway{}, errDown, func(w *world) {
		c := w.call()
		c.SetDeadline(time.Now().Add(time.Hour))
		go io.WriteString(c, request)
		r := bufio.NewReader(c)
		if resp, body := readAnswer(t, r, "POST"); resp.StatusCode != 503 {
			t.Errorf("answered %d %s, want 503", resp.StatusCode, body)
		}
		w.say(nil)
		if _, err := r.ReadByte(); err != io.EOF || w.asked.Load() != 0 {
			t.Errorf("after the 503 %v, and the engine got %d bytes, want an end and none", err, w.asked.Load())
		}
		c.Close()
	})
}

// TestLargeHeadsHeld: absurd heads share what there is for them, and who is too many is told to come again.
func TestLargeHeadsHeld(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, errDown, func(w *world) {
		request := strings.Replace(post("/api/chat", "{}"), "Host", "X-Big: "+strings.Repeat("x", 900<<10)+"\r\nHost", 1)
		var served, turned atomic.Int64
		var wg sync.WaitGroup
		for range 14 {
			wg.Go(func() {
				switch resp, body, took := w.ask(request, "POST"); resp.StatusCode {
				case 200:
					served.Add(1)
				case 503:
					turned.Add(1)
					if code, _ := message(t, body); code != "too_many" || resp.Header.Get("Retry-After") != "2" || !resp.Close || took != 0 {
						t.Errorf("after %s answered %v %s", took, resp.Header, body)
					}
				}
			})
		}
		time.Sleep(20 * time.Second)
		if s, n := w.g.Stats(), w.g.ahead.Load(); s.Held != 10 || s.Failed != 4 || s.Refused != 0 || n > aheadBudget {
			t.Errorf("%+v, and %d bytes of the budget, want 10 held and 4 failed", s, n)
		}
		w.say(nil)
		wg.Wait()
		if served.Load() != 10 || turned.Load() != 4 {
			t.Errorf("%d served and %d turned away, want 10 and 4", served.Load(), turned.Load())
		}
	})
}

// TestSlowHeadsMakeRoom: callers that never come to an end of their heads keep others out for as long as one may take, and
// the others are told so.
func TestSlowHeadsMakeRoom(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{MaxOpen: 4}, nil, func(w *world) {
		var wg sync.WaitGroup
		for range 4 {
			c := w.call()
			wg.Go(func() {
				defer c.Close()
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n")
				if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 408 || !resp.Close {
					t.Errorf("answered %v, %v, want 408", resp, err)
				}
			})
		}
		time.Sleep(5 * time.Second)
		resp, body, took := w.ask(get, "GET")
		if code, _ := message(t, body); resp.StatusCode != 503 || code != "too_many" || resp.Header.Get("Retry-After") != "2" || took != 0 {
			t.Errorf("one more is answered %d after %s, %s", resp.StatusCode, took, body)
		}
		wg.Wait()
		time.Sleep(time.Second)
		if resp, _, took := w.ask(get, "GET"); resp.StatusCode != 200 || took != 0 {
			t.Errorf("when they are gone answered %d after %s", resp.StatusCode, took)
		}
	})
}

// TestTooManyToBeTold: of those for whom there is no room only so many are told so, and the others reset.
func TestTooManyToBeTold(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{MaxOpen: 1}, errDown, func(w *world) {
		c := w.call()
		defer c.Close()
		io.WriteString(c, post("/api/chat", "{}"))
		var told, reset atomic.Int64
		var wg sync.WaitGroup
		for range maxTurned + 10 {
			c := w.call()
			wg.Go(func() {
				defer c.Close()
				time.Sleep(time.Second) // all are here before the first leaves
				if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && resp.StatusCode == 503 {
					told.Add(1)
				} else if err != nil {
					reset.Add(1)
				}
			})
		}
		wg.Wait()
		if told.Load() != maxTurned || reset.Load() != 10 {
			t.Errorf("%d are told and %d reset, want %d and 10", told.Load(), reset.Load(), maxTurned)
		}
		if s := w.g.Stats(); s.Held != 1 || s.Failed != maxTurned+10 {
			t.Errorf("%+v, want one held and %d failed", s, maxTurned+10)
		}
	})
}

// TestDiesWhileItIsRead: a caller that dies with a body that is too long to be read ahead is noticed when it is served,
// and the engine has not got its whole request.
func TestDiesWhileItIsRead(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, errDown, func(w *world) {
		c := w.call()
		go io.WriteString(c, post("/v1/messages", strings.Repeat("x", 3<<20)))
		time.Sleep(20 * time.Second)
		c.SetLinger(0)
		c.Close()
		time.AfterFunc(10*time.Second, func() { w.say(nil) })
		time.Sleep(time.Minute)
		if s, n := w.g.Stats(), w.asked.Load(); s.Open != 0 || n > 1<<20 {
			t.Errorf("%+v, and the engine got %d bytes, want nobody and not the whole", s, n)
		}
	})
}

// stored is a caller whose words its system takes before anybody reads them, as a kernel does.
type stored struct {
	*line
	mu   sync.Mutex
	news *sync.Cond
	buf  bytes.Buffer
	err  error
}

func (s *stored) run() {
	b := make([]byte, 32<<10)
	for {
		n, err := s.line.Read(b)
		s.mu.Lock()
		s.buf.Write(b[:n])
		s.err = err
		s.mu.Unlock()
		s.news.Signal()
		if err != nil {
			return
		}
	}
}

func (s *stored) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.buf.Len() == 0 && s.err == nil {
		s.news.Wait()
	}
	if s.buf.Len() == 0 {
		return 0, s.err
	}
	return s.buf.Read(p)
}

// TestLeavesUnread: of a caller with more to say than is read ahead nobody sees at once that it has left. The engine does
// not get its whole request nevertheless.
func TestLeavesUnread(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"counted": post("/v1/messages", strings.Repeat("x", 2<<20)),
		"chunked": "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n" + strings.Repeat("x", 2<<20) + "\r\n0\r\n\r\n",
	} {
		for _, leaves := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s leaves=%v", name, leaves), func(t *testing.T) {
				t.Parallel()
				within(t, &Gateway{}, errDown, func(w *world) {
					var whole atomic.Int64
					w.serve = func(c net.Conn, r *bufio.Reader) {
						req, err := http.ReadRequest(r)
						if err == nil {
							_, err = io.Copy(io.Discard, req.Body)
						}
						if err == nil {
							whole.Add(1)
							io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
						}
					}
					c, far := newLine()
					s := &stored{line: far}
					s.news = sync.NewCond(&s.mu)
					w.wg.Go(s.run)
					w.ls.calls <- s
					io.WriteString(c, request) // all of it
					time.Sleep(20 * time.Second)
					if s := w.g.Stats(); s.Held != 1 {
						t.Errorf("%+v, want one held", s)
					}
					if leaves {
						c.Close()
					}
					w.say(nil)
					if !leaves {
						if _, body := readAnswer(t, bufio.NewReader(c), "POST"); body != "ok" {
							t.Errorf("answered %q", body)
						}
						c.Close()
					}
					time.Sleep(time.Minute)
					if s := w.g.Stats(); (whole.Load() == 0) != leaves || s.Open != 0 || w.dials.Load() < 2 {
						t.Errorf("the engine got %d whole requests; %+v", whole.Load(), s)
					}
				})
			})
		}
	}
}
