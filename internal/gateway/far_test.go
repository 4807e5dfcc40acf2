package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestUpgradeRefused: who asks for another protocol and does not get it goes on in this one, and is guarded.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serveHTTP)
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	const ask = "GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	send(t, c, ask+ask+post("/api/chat", "1")+strings.Replace(get, "localhost", "evil.example", 1))
	r := bufio.NewReader(c)
	for _, want := range []string{"GET /v1/responses 0 ", "GET /v1/responses 0 ", "POST /api/chat 1 1"} {
		if resp, body := readAnswer(t, r, "GET"); resp.StatusCode != 200 || body != want {
			t.Errorf("answered %d %q, want 200 %q", resp.StatusCode, body, want)
		}
	}
	if resp, body := readAnswer(t, r, "GET"); resp.StatusCode != 403 {
		t.Errorf("another host is answered %d %s, want 403", resp.StatusCode, body)
	}
}

// TestAnswerBeforeBody: an answer may come before the request's body has been sent, and another request with the rest of
// that.
func TestAnswerBeforeBody(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"counted": "Content-Length: 4\r\n\r\nbody",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					if got, err := io.ReadAll(req.Body); err != nil || string(got) != "body" {
						t.Errorf("the engine got %q, %v", got, err)
					}
				}
			})
			c := call(t, served(t, &Gateway{Dial: e.Dial}))
			r := bufio.NewReader(c)
			fields, rest, _ := strings.Cut(body, "\r\n\r\n")
			head := "POST / HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n\r\n"
			send(t, c, head)
			for _, next := range []string{rest + head, rest + head, rest} {
				if resp, body := readAnswer(t, r, "POST"); resp.StatusCode != 200 || body != "ok" {
					t.Errorf("answered %d %q", resp.StatusCode, body)
				}
				send(t, c, next)
			}
			c.CloseWrite()
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("after all of them %v, want an end", err)
			}
			if n := e.dialed.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// TestBodyRefused: an engine that has stopped to read is heard, if what it has to say comes in time.
func TestBodyRefused(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
	for after, want := range map[time.Duration]bool{0: true, time.Second: true, time.Minute: false} {
		within(t, &Gateway{}, nil, func(w *world) {
			w.serve = func(c net.Conn, r *bufio.Reader) {
				http.ReadRequest(r)
				c.(*line).Conn.Close() // whoever writes to it fails
				time.Sleep(after)
				io.WriteString(c, answer)
			}
			c := w.call()
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Hour))
			go io.WriteString(c, post("/v1/messages", strings.Repeat("x", 1<<20)))
			got, err := io.ReadAll(c)
			if want && (err != nil || string(got) != answer) {
				t.Errorf("after %s the caller reads %q, %v, want the answer", after, got, err)
			} else if !want && (err == nil || len(got) > 0) {
				t.Errorf("after %s the caller reads %q, %v, want a reset", after, got, err)
			}
		})
	}
}

// dying is a connection to an engine that gives up as it is written to for the second time.
type dying struct {
	*line
	writes int
	dies   func()
}

func (d *dying) Write(p []byte) (int, error) {
	if d.writes++; d.writes == 2 {
		d.dies()
		return 0, io.ErrClosedPipe
	}
	return d.line.Write(p)
}

// TestSpeaksAsItDies: an engine may end a connection that lay idle just as it is asked again. If nothing of
// what it said is with the caller, another connection is asked; if something is, the caller must not get two answers.
func TestSpeaksAsItDies(t *testing.T) {
	t.Parallel()
	const timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 2\r\n\r\nno"
	for name, test := range map[string]struct{ says, want string }{
		"nothing":    {"", "POST 2"},
		"408":        {timeout, ""},
		"408 closed": {strings.Replace(timeout, "Content", "Connection: close\r\nContent", 1), ""},
		"half":       {timeout[:30], "POST 2"},
		"garbage":    {"bye\r\n", "POST 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			within(t, &Gateway{}, nil, func(w *world) {
				die := make(chan bool)
				w.serve = func(c net.Conn, r *bufio.Reader) {
					for n := w.dials.Load(); ; n = 0 {
						req, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						io.Copy(io.Discard, req.Body)
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOST 2")
						if n == 1 {
							<-die
							io.WriteString(c, test.says)
							return
						}
					}
				}
				w.g.Dial = func(ctx context.Context, from net.Addr) (net.Conn, error) {
					c, err := w.dial(ctx, from)
					if w.dials.Load() > 1 {
						return c, err
					}
					return &dying{line: c.(*line), dies: func() { close(die); synctest.Wait() }}, err
				}
				c := w.call()
				defer c.Close()
				c.SetDeadline(time.Now().Add(time.Minute))
				r := bufio.NewReader(c)
				go io.WriteString(c, post("/api/chat", "{}")+post("/api/chat", "{}"))
				if _, body := readAnswer(t, r, "POST"); body != "POST 2" {
					t.Errorf("the first is answered %q", body)
				}
				if test.want != "" {
					if _, body := readAnswer(t, r, "POST"); body != test.want {
						t.Errorf("the second is answered %q, want %q", body, test.want)
					}
					return
				}
				got, err := io.ReadAll(r)
				if !strings.HasPrefix(test.says, string(got)) || err == nil || w.dials.Load() != 1 {
					t.Errorf("read %q, %v, after %d dials, want what it said and a reset", got, err, w.dials.Load())
				}
			})
		})
	}
}

// TestCutAtEveryByteOfTheSecond: as TestCutAtEveryByte, on a connection that had been used. Only a request that changes
// nothing, and only if no byte of an answer came, is asked again.
func TestCutAtEveryByteOfTheSecond(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for method, request := range map[string]string{"GET": get, "POST": post("/api/chat", "{}"), "DELETE": strings.Replace(get, "GET", "DELETE", 1)} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			var at atomic.Int64
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				for n := len(answer); ; n = int(at.Load()) {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					if io.WriteString(c, answer[:n]); n < len(answer) {
						return
					}
				}
			})
			addr := served(t, &Gateway{Dial: e.Dial})
			for n := range len(answer) {
				at.Store(int64(n))
				before := e.dialed.Load()
				c := call(t, addr)
				r := bufio.NewReader(c)
				send(t, c, request)
				readAnswer(t, r, method)
				send(t, c, request)
				dials := int64(1)
				if method == "GET" && n == 0 {
					dials = 2
					if _, body := readAnswer(t, r, method); body != "ok" {
						t.Errorf("asked again it is answered %q", body)
					}
				} else if got, err := io.ReadAll(r); !isReset(err) || !strings.HasPrefix(answer[:n], string(got)) {
					t.Errorf("cut at %d the caller reads %q, %v, want a reset", n, got, err)
				}
				if got := e.dialed.Load() - before; got != dials {
					t.Errorf("cut at %d there were %d connections, want %d", n, got, dials)
				}
				c.Close()
			}
		})
	}
}

// TestLinkLostResetsAll: with the link all callers go at once: those that are answered and those that wait for it.
func TestLinkLostResetsAll(t *testing.T) {
	t.Parallel()
	lose := make(chan bool)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		switch req.URL.Path {
		case "/stream":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
		case "/close":
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nx")
		case "/upgrade":
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nx")
		case "/continue":
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		<-lose
	})
	e.lossy.Store(true)
	g := &Gateway{Dial: e.Dial}
	addr := served(t, g)
	var all []*net.TCPConn
	for path, fields := range map[string]string{
		"/stream": "", "/close": "", "/silent": "", "/upgrade": "Connection: Upgrade\r\nUpgrade: x\r\n", "/continue": "Expect: 100-continue\r\nContent-Length: 4\r\n",
	} {
		c := call(t, addr)
		send(t, c, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, fields))
		if path != "/silent" {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
		all = append(all, c)
	}
	waitFor(t, "all are under way", func() bool { return g.Stats().Served == int64(len(all)) })
	close(lose)
	for _, c := range all {
		if got, err := io.ReadAll(c); !isReset(err) {
			t.Errorf("read %q, %v, want a reset", got, err)
		}
	}
}
