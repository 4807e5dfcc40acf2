package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("the link is down")

// engine is a program behind a switch that does with each connection what a test says.
type engine struct {
	ln     net.Listener
	up     atomic.Bool
	dialed atomic.Int64
	// lossy makes an end of the connection look as one of a link that is lost.
	lossy atomic.Bool
}

func newEngine(t testing.TB, serve func(c *net.TCPConn, r *bufio.Reader)) *engine {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{ln: ln}
	e.up.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn), bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return e
}

func (e *engine) Dial(ctx context.Context, _ net.Addr) (net.Conn, error) {
	if !e.up.Load() {
		return nil, errDown
	}
	e.dialed.Add(1)
	c, err := new(net.Dialer).DialContext(ctx, "tcp", e.ln.Addr().String())
	if err != nil {
		return nil, err
	}
	return &lossy{c.(*net.TCPConn), e}, nil
}

type lossy struct {
	*net.TCPConn
	e *engine
}

func (l *lossy) Read(b []byte) (int, error) {
	n, err := l.TCPConn.Read(b)
	if err == io.EOF && l.e.lossy.Load() {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// served starts a gateway and returns its address. It ends with the test, and wants nobody left behind.
func served(t testing.TB, g *Gateway) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the gateway does not end")
		}
		if s := g.Stats(); s.Open != 0 || s.Held != 0 || g.ahead.Load() != 0 || len(g.idle) != 0 {
			t.Errorf("after the end %+v, %d bytes ahead, %d idle, want none", s, g.ahead.Load(), len(g.idle))
		}
	})
	return ln.Addr().String()
}

func call(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// post is a request of a harness.
func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

const get = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"

// readAnswer reads one answer to a request of that method.
func readAnswer(t testing.TB, r *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("the answer's body: %v after %q", err, body)
	}
	return resp, string(body)
}

// serveHTTP answers each request with its method, path and body, as chunks if it is asked for /chunked.
func serveHTTP(c *net.TCPConn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		text := fmt.Sprintf("%s %s %d %s", req.Method, req.URL.Path, len(body), req.Trailer.Get("X-Sum"))
		if len(body) < 100 {
			text += string(body)
		}
		if req.URL.Path == "/chunked" {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n%x;a=b\r\n%s\r\n0\r\nX-Sum: 7\r\n\r\n", len(text), text)
			continue
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for range 2000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within 10 s: %s", what)
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) || err != nil && strings.Contains(err.Error(), "forcibly closed")
}

func TestBytesAreTheCallers(t *testing.T) {
	t.Parallel()
	request := "POST /v1/chat/completions?x=%41&y HTTP/1.1\r\nhOST: LocalHost:1\r\nx-Odd:   two  blanks \t\r\nACCEPT: */*\r\nAccept: text/html\r\nContent-Length: 5\r\nX-Empty:\r\n\r\nhello"
	answer := "HTTP/1.1 299 Odd Reason\r\nx-lower: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length:  3 \r\n\r\nyes"
	got := make(chan string, 1)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		b := make([]byte, len(request))
		io.ReadFull(r, b)
		got <- string(b)
		io.WriteString(c, answer)
		io.Copy(io.Discard, r)
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	send(t, c, request)
	if g := <-got; g != request {
		t.Errorf("the engine got\n%q, want\n%q", g, request)
	}
	b := make([]byte, len(answer))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != answer {
		t.Errorf("the caller got\n%q, %v, want\n%q", b, err, answer)
	}
}

func TestRequestsInTurn(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serveHTTP)
	g := &Gateway{Dial: e.Dial}
	c := call(t, served(t, g))
	r := bufio.NewReader(c)
	// All at once, which is how pipelining looks; with and without bodies, counted and in chunks.
	send(t, c, get+post("/v1/messages", "one")+
		"POST /chunked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;x=\"y\"\r\ntwo\r\n00a\r\n0123456789\r\n0\r\nX-Sum: 9 \r\n\r\n"+
		"\r\n"+get)
	for _, want := range []string{"GET /v1/models 0 ", "POST /v1/messages 3 one", "POST /chunked 13 9two0123456789", "GET /v1/models 0 "} {
		resp, body := readAnswer(t, r, "GET")
		if body != want {
			t.Errorf("answered %q, want %q", body, want)
		}
		if strings.Contains(want, "chunked") && resp.Trailer.Get("X-Sum") != "7" {
			t.Errorf("the trailer is %v", resp.Trailer)
		}
	}
	// And one after the other.
	for i := range 20 {
		send(t, c, post("/api/chat", strconv.Itoa(i)))
		if _, body := readAnswer(t, r, "POST"); !strings.HasSuffix(body, strconv.Itoa(i)) {
			t.Errorf("the %d. answer is %q", i, body)
		}
	}
	if n := e.dialed.Load(); n != 1 {
		t.Errorf("%d connections to the engine for one caller, want 1", n)
	}
	if s := g.Stats(); s.Served != 24 || s.Reset+s.Failed+s.Refused != 0 {
		t.Errorf("counted %+v, want 24 served", s)
	}
}

// TestAnswersOfAllKinds has answers whose ends are told in every way, each followed by another request if that can be.
func TestAnswersOfAllKinds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request, answer string
		ends            bool // the engine closes after it
	}{
		"head":         {"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n", false},
		"head chunked": {"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		"204":          {get, "HTTP/1.1 204 No Content\r\n\r\n", false},
		"304":          {get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false},
		"empty":        {get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		"early hints":  {get, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false},
		"chunked":      {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", false},
		"until close":  {get, "HTTP/1.1 200 OK\r\n\r\nall of it", true},
		"1.0":          {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nall of it", true},
		"1.0 kept":     {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", false},
		"close":        {get, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", true},
		"asked close":  {"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true},
		"bare lf":      {get, "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", false},
		"head 304":     {"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 17\r\n\r\n", false},
		"204 counted":  {get, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false},
		"204 chunked":  {get, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		"304 chunked":  {get, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		"205":          {get, "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", false},
		"continue":     {get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false},
		"hint of 199":  {get, "HTTP/1.1 199 Odd\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false},
		"lengths":      {get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok", false},
		"trailers":     {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0001;a=\"b\"\r\nx\r\n000;y\r\nA: b\r\nC:\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, test.answer)
					if test.ends {
						return
					}
				}
			})
			c := call(t, served(t, &Gateway{Dial: e.Dial}))
			for range 2 {
				send(t, c, test.request)
				got := make([]byte, len(test.answer))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != test.answer {
					t.Fatalf("answered %q, %v, want %q", got, err, test.answer)
				}
				if test.ends {
					if n, err := c.Read(got); n != 0 || err != io.EOF {
						t.Errorf("after the answer %d bytes, %v, want a clean end", n, err)
					}
					return
				}
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.URL.Path == "/no" {
				io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
				continue
			}
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	})
	addr := served(t, &Gateway{Dial: e.Dial})
	head := " HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	c := call(t, addr)
	r := bufio.NewReader(c)
	for range 2 {
		send(t, c, "POST /yes"+head)
		if resp, _ := readAnswer(t, r, "POST"); resp.StatusCode != 100 {
			t.Fatalf("answered %d, want 100", resp.StatusCode)
		}
		send(t, c, "body")
		if resp, body := readAnswer(t, r, "POST"); resp.StatusCode != 200 || body != "body" {
			t.Errorf("answered %d %q, want 200 body", resp.StatusCode, body)
		}
	}
	// Whoever is told no may send the body or not: no other request can follow on that connection.
	send(t, c, "POST /no"+head)
	if resp, body := readAnswer(t, r, "POST"); resp.StatusCode != 413 || body != "no" {
		t.Errorf("answered %d %q, want 413 no", resp.StatusCode, body)
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after 413 %v, want an end", err)
	}
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst")
		io.Copy(c, r)
		io.WriteString(c, "last")
		c.CloseWrite()
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	send(t, c, "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nGET / HTTP/1.1 is no request here\x00\n")
	c.CloseWrite()
	got, err := io.ReadAll(c)
	want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirstGET / HTTP/1.1 is no request here\x00\nlast"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// TestTokensFlow has each piece of a stream read before the next one is sent.
func TestTokensFlow(t *testing.T) {
	t.Parallel()
	next := make(chan bool)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 5 {
			<-next
			io.WriteString(c, "9\r\ndata: 1\n\n\r\n")
		}
		<-next
		io.WriteString(c, "0\r\n\r\n")
		io.Copy(io.Discard, r)
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	send(t, c, post("/v1/chat/completions", "{}"))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		next <- true
		b := make([]byte, 9)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "data: 1\n\n" {
			t.Fatalf("the %d. piece is %q, %v", i, b, err)
		}
	}
	close(next)
	if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end %v", err)
	}
}

func TestLargeBodies(t *testing.T) { // not beside others: it looks at the process
	const size = 64 << 20
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, req.Body)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
			io.CopyN(c, zeros{}, n)
		}
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", size)
		io.CopyN(c, zeros{}, size)
	}()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	runtime.ReadMemStats(&after)
	if n != size || err != nil {
		t.Errorf("%d bytes came back, %v, want %d", n, err, size)
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 8<<20 {
		t.Errorf("the process took %d MiB from the system meanwhile", grown>>20)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestLargeHeads(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serveHTTP)
	addr := served(t, &Gateway{Dial: e.Dial})
	const begin, end = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Big: ", "\r\n\r\n"
	for size, want := range map[int]int{900 << 10: 200, maxHead: 200, maxHead + 1: 431, 4 << 20: 431} {
		c := call(t, addr)
		go io.WriteString(c, begin+strings.Repeat("x", size-len(begin+end))+end)
		resp, _ := readAnswer(t, bufio.NewReader(c), "GET")
		if resp.StatusCode != want {
			t.Errorf("a head of %d bytes is answered %d, want %d", size, resp.StatusCode, want)
		}
	}
	for fields, want := range map[int]int{maxFields: 200, maxFields + 1: 431, 200000: 431} {
		c := call(t, addr)
		go io.WriteString(c, "GET / HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat("X: 1\r\n", fields-1)+"\r\n")
		if resp, _ := readAnswer(t, bufio.NewReader(c), "GET"); resp.StatusCode != want {
			t.Errorf("%d fields are answered %d, want %d", fields, resp.StatusCode, want)
		}
	}
}

// TestHalfClose has callers that end their side with the request, as nc does.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		for range 2 {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if req.URL.Path == "/last" {
				_, err = r.ReadByte() // the end comes before the answer
				ended <- err
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	send(t, c, get+post("/last", "x"))
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if want := strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 2); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if err := <-ended; err != io.EOF {
		t.Errorf("the engine reads %v after the request, want the caller's end", err)
	}
}

// recorded are answers as engines give them.
var recorded = map[string]string{
	"json":    "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: Thu, 26 Nov 2026 04:00:00 GMT\r\nContent-Length: 63\r\n\r\n" + `{"model":"tiny","message":{"content":"yes"},"done":true,"xy":12}`[:63],
	"chunked": "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n1d\r\n{\"message\":{\"content\":\"a\"}}\n\n\r\nf\r\n{\"done\":true}\n\n\r\n0\r\n\r\n",
	"sse":     "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n8\r\ndata: a\n\r\n1\r\n\n\r\n0e\r\ndata: [DONE]\n\n\r\n0\r\nX-Sum: 1\r\n\r\n",
	"hints":   "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nfail",
	"nothing": "HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
}

// TestCutAtEveryByte ends the engine's connection within an answer: by a lost link and by an engine that dies. The
// caller has to see an error, and nothing may have been answered in the place of what is missing.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	for name, answer := range recorded {
		for _, lost := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s lost=%v", name, lost), func(t *testing.T) {
				t.Parallel()
				var at atomic.Int64
				e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					io.WriteString(c, answer[:at.Load()])
				})
				e.lossy.Store(lost)
				var mu sync.Mutex
				var seen []Exchange
				g := &Gateway{Dial: e.Dial, Observe: func(x Exchange) { mu.Lock(); seen = append(seen, x); mu.Unlock() }}
				addr := served(t, g)
				for n := range len(answer) + 1 {
					at.Store(int64(n))
					c := call(t, addr)
					send(t, c, strings.Replace(post("/v1/chat/completions", `{"model":"tiny"}`), "Host", "Connection: close\r\nHost", 1))
					got, err := io.ReadAll(c)
					if !strings.HasPrefix(answer[:n], string(got)) {
						t.Fatalf("cut at %d the caller reads %q of %q", n, got, answer[:n])
					}
					if whole := n == len(answer); whole != (err == nil) || whole && string(got) != answer {
						t.Fatalf("cut at %d of %d the caller reads %q and %v", n, len(answer), got, err)
					} else if !whole && !isReset(err) {
						t.Fatalf("cut at %d the caller reads %v, want a reset", n, err)
					}
				}
				mu.Lock()
				defer mu.Unlock()
				cuts := 0
				for _, x := range seen {
					if x.Cut {
						cuts++
					}
				}
				if s := g.Stats(); int(s.Reset) != len(answer) || cuts != len(answer) || int(s.Served) != len(answer)+1 {
					t.Errorf("counted %+v and %d cut, want %d", s, cuts, len(answer))
				}
			})
		}
	}
}

// TestCutUntilClose: an answer that lasts until the connection ends is whole only if the link was not lost.
func TestCutUntilClose(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhalf of it")
	})
	e.lossy.Store(true)
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	send(t, c, get)
	if _, err := io.ReadAll(c); !isReset(err) {
		t.Errorf("the caller reads %v, want a reset", err)
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"ssh":       "SSH-2.0-OpenSSH_9.2\r\n",
		"http 2":    "HTTP/2.0 200 OK\r\n\r\n",
		"no number": "HTTP/1.1 abc OK\r\nContent-Length: 1\r\n\r\nx",
		"field":     "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
		"lengths":   "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
		"negative":  "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxy",
		"both":      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"gzip":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
		"unasked":   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"zeros":     "\x00\x00\x00",
		"blank":     "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"icy":       "ICY 200 OK\r\n\r\n",
		"lower":     "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"status 99": "HTTP/1.1 099 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"long":      "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
		"page":      "<html>no</html>\r\n\r\n",
		"hint":      "HTTP/1.1 103 Early Hints\r\n\r\nSSH-2.0-OpenSSH_9.2\r\n",
		"coded":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
		"codings":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"absurd":    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"endless":   "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 200000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				http.ReadRequest(r)
				io.WriteString(c, answer)
				io.Copy(io.Discard, r)
			})
			c := call(t, served(t, &Gateway{Dial: e.Dial}))
			send(t, c, get)
			resp, body := readAnswer(t, bufio.NewReader(c), "GET")
			if resp.StatusCode != 502 || !strings.Contains(body, "does not speak HTTP") {
				t.Errorf("answered %d %s, want 502", resp.StatusCode, body)
			}
		})
	}
	// Once a part of the answer is with the caller, only a reset is left.
	for name, answer := range map[string]string{
		"chunk size": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n",
		"chunk end":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				http.ReadRequest(r)
				io.WriteString(c, answer)
				io.Copy(io.Discard, r)
			})
			c := call(t, served(t, &Gateway{Dial: e.Dial}))
			send(t, c, get)
			if got, err := io.ReadAll(c); !isReset(err) {
				t.Errorf("read %q, %v, want a reset", got, err)
			}
		})
	}
}

// TestMoreThanAnAnswer: what the engine says beyond its answer is not passed on, nor taken for the next one.
func TestMoreThanAnAnswer(t *testing.T) {
	t.Parallel()
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	head := strings.Replace(get, "GET", "HEAD", 1)
	for name, test := range map[string]struct{ request, answer string }{
		"counted":     {get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
		"chunked":     {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"},
		"head":        {head, "HTTP/1.1 200 OK\r\nContent-Length: 49\r\n\r\n"},
		"204 counted": {get, "HTTP/1.1 204 No Content\r\nContent-Length: 49\r\n\r\n"},
		"204 chunked": {get, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"304":         {get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 49\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				http.ReadRequest(r)
				io.WriteString(c, test.answer+evil)
				io.Copy(io.Discard, r)
			})
			c := call(t, served(t, &Gateway{Dial: e.Dial}))
			send(t, c, test.request+test.request)
			if got, err := io.ReadAll(c); err != nil || string(got) != test.answer {
				t.Errorf("got %q, %v, want %q", got, err, test.answer)
			}
		})
	}
}

// TestEngineClosesIdle: a caller may keep its connection for as long as it likes, whatever the engine does.
func TestEngineClosesIdle(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	r := bufio.NewReader(c)
	for i := range 20 {
		send(t, c, get)
		if _, body := readAnswer(t, r, "GET"); body != "ok" {
			t.Errorf("the %d. answer is %q", i, body)
		}
	}
	if n := e.dialed.Load(); n != 20 {
		t.Errorf("%d connections, want 20", n)
	}
}

// TestReplay: a connection that ends with nothing answered is forgiven once, to a request that changes nothing and was
// not the first on it. A prompt is never sent twice.
func TestReplay(t *testing.T) {
	t.Parallel()
	var prompts, gets atomic.Int64
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		for first := true; ; first = false {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if req.Method == "POST" {
				prompts.Add(1)
			} else {
				gets.Add(1)
			}
			if !first {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	addr := served(t, &Gateway{Dial: e.Dial})
	c := call(t, addr)
	r := bufio.NewReader(c)
	for range 3 {
		send(t, c, get)
		if _, body := readAnswer(t, r, "GET"); body != "ok" {
			t.Errorf("answered %q", body)
		}
	}
	if gets.Load() < 4 {
		t.Errorf("the engine saw %d requests: none was on a connection that ended", gets.Load())
	}
	c = call(t, addr)
	send(t, c, post("/api/chat", "1"))
	readAnswer(t, bufio.NewReader(c), "POST")
	send(t, c, post("/api/chat", "2"))
	if _, err := io.ReadAll(c); !isReset(err) {
		t.Errorf("a prompt that was taken and not answered ends with %v, want a reset", err)
	}
	if prompts.Load() != 2 {
		t.Errorf("the engine got %d prompts, want 2", prompts.Load())
	}
}

// TestEarlyAnswer: an engine that will not have a body says so before it has all come.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
	heard := make(chan bool)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, answer)
		c.CloseWrite()
		select {
		case <-heard:
		case <-t.Context().Done():
		}
	})
	addr := served(t, &Gateway{Dial: e.Dial})
	for range 3 {
		c := call(t, addr)
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, post("/v1/messages", strings.Repeat("x", 6<<20)))
			sent <- err
		}()
		if err := <-sent; err != nil { // it is not reset while it sends, so that even who sends first hears
			t.Errorf("send: %v", err)
		}
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != answer {
			t.Errorf("got %q, %v, want %q", got, err, answer)
		}
		heard <- true
	}
}

// TestCallerLeaves: the engine hears at once of a caller that breaks off, and need not work on.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*net.TCPConn){
		"close": func(c *net.TCPConn) { c.Close() },
		"reset": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gone := make(chan error, 1)
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				req, _ := http.ReadRequest(r)
				io.Copy(io.Discard, req.Body)
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
				_, err := r.ReadByte()
				gone <- err
			})
			done := make(chan Exchange, 1)
			c := call(t, served(t, &Gateway{Dial: e.Dial, Observe: func(x Exchange) { done <- x }}))
			send(t, c, post("/v1/messages", "{}"))
			if _, err := bufio.NewReader(c).ReadString('x'); err != nil {
				t.Fatal(err)
			}
			leave(c)
			select {
			case err := <-gone:
				if err == nil {
					t.Error("the engine reads more")
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the engine works on for nobody")
			}
			if x := <-done; name == "reset" && (!x.Left || x.Cut) {
				t.Errorf("observed %+v, want that it left", x)
			}
		})
	}
}

// TestIdleEndsWithLink: a caller that rests on a link that is lost is closed, so that it is not believed in.
func TestIdleEndsWithLink(t *testing.T) {
	t.Parallel()
	lose := make(chan bool)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		<-lose
	})
	e.lossy.Store(true)
	c := call(t, served(t, &Gateway{Dial: e.Dial}))
	send(t, c, get)
	r := bufio.NewReader(c)
	readAnswer(t, r, "GET")
	close(lose)
	if _, err := r.ReadByte(); err == nil {
		t.Error("it reads more")
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serveHTTP)
	g := &Gateway{Dial: e.Dial}
	c := call(t, served(t, g))
	r := bufio.NewReader(c)
	for i := range 3 {
		send(t, c, get)
		readAnswer(t, r, "GET")
		if n := e.dialed.Load(); n != int64(i+1) {
			t.Errorf("%d connections after %d requests", n, i+1)
		}
		g.Renew()
	}
}

// TestIdleMakesRoom: callers that ask for nothing do not keep others out.
func TestIdleMakesRoom(t *testing.T) {
	t.Parallel()
	e := newEngine(t, serveHTTP)
	g := &Gateway{Dial: e.Dial, MaxOpen: 4}
	addr := served(t, g)
	first := call(t, addr)
	waitFor(t, "the first rests", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.idle) == 1
	})
	for range 3 {
		c := call(t, addr)
		send(t, c, get)
		readAnswer(t, bufio.NewReader(c), "GET")
	}
	time.Sleep(idleFor + 50*time.Millisecond)
	c := call(t, addr)
	send(t, c, get)
	readAnswer(t, bufio.NewReader(c), "GET")
	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the one that was idle for longest reads %v, want its end", err)
	}
}

func TestSmuggling(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		io.Copy(io.Discard, r)
	})
	g := &Gateway{Dial: e.Dial}
	addr := served(t, g)
	const h = "Host: localhost\r\n"
	n := 0
	for request, want := range map[string]int{
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n":          400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n":                   400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nContent-Length: 4\r\n\r\n":                   400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4, 4\r\n\r\n":                                     400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: +4\r\n\r\n":                                       400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 0x4\r\n\r\n":                                      400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: -1\r\n\r\n":                                       400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length:\r\n\r\n":                                          400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 99999999999999999999\r\n\r\n":                     400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length : 4\r\n\r\n":                                       400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: identity\r\n\r\n":                              400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: gzip, chunked\r\n\r\n":                         400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: \x0bchunked\r\n\r\n":                           400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n":       400,
		"POST / HTTP/1.0\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n":                               400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4;\r\n\r\n":                                       400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 1e1\r\n\r\n":                                      400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4 4\r\n\r\n":                                      400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 9223372036854775808\r\n\r\n":                      400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\n\t5\r\n\r\n":                                 400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding\t: chunked\r\n\r\n":        400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\n\r\n":            400,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n":    400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding:\r\n chunked\r\n\r\n":                           400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked, identity\r\n\r\n":                     400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked, chunked\r\n\r\n":                      400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked;q=1\r\n\r\n":                           400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: \"chunked\"\r\n\r\n":                           400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: xchunked\r\n\r\n":                              400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding:\r\n\r\n":                                       400,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n":    400,
		"GET / HTTP/1.1\r\n" + h + "X: a\r\n b\r\n\r\n":                                                400,
		"GET / HTTP/1.1\r\n X: a\r\n" + h + "\r\n":                                                     400,
		"GET / HTTP/1.1\n" + h + "\r\n":                                                                400,
		"GET / HTTP/1.1\r\nHost: localhost\n\r\n":                                                      400,
		"GET / HTTP/1.1\r\nX: a\rb\r\n" + h + "\r\n":                                                   400,
		"GET / HTTP/1.1\r\nX: a\x00b\r\n" + h + "\r\n":                                                 400,
		"GET / HTTP/1.1\r\nX: a\x01b\r\n" + h + "\r\n":                                                 400,
		"GET / HTTP/1.1\r\n: a\r\n" + h + "\r\n":                                                       400,
		"GET / HTTP/1.1\r\nX\x80: a\r\n" + h + "\r\n":                                                  400,
		"GET / HTTP/1.1\r\nX\r\n" + h + "\r\n":                                                         400,
		"GET / HTTP/1.1\r\n\r\n":                                                                       400,
		"GET / HTTP/1.1\r\n" + h + h + "\r\n":                                                          400,
		"GET /\r\n\r\n":                                                                                505,
		"GET / HTTP/2.0\r\n" + h + "\r\n":                                                              505,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                             505,
		"GET / http/1.1\r\n" + h + "\r\n":                                                              505,
		"GET  / HTTP/1.1\r\n" + h + "\r\n":                                                             505,
		"GET /a b HTTP/1.1\r\n" + h + "\r\n":                                                           505,
		"G(T / HTTP/1.1\r\n" + h + "\r\n":                                                              400,
		"GET no-slash HTTP/1.1\r\n" + h + "\r\n":                                                       400,
		"GET\t/\tHTTP/1.1\r\n" + h + "\r\n":                                                            505,
		"GET / HTTP/1.1 \r\n" + h + "\r\n":                                                             505,
		"GET / HTTP/1.10\r\n" + h + "\r\n":                                                             505,
		"GET / HTTP/01.1\r\n" + h + "\r\n":                                                             505,
		"GET /\x7f HTTP/1.1\r\n" + h + "\r\n":                                                          400,
		"GET / HTTP/1.1\r\r\n" + h + "\r\n":                                                            400,
		"GET / HTTP/1.1\r\n" + h + "\r\r\n":                                                            400,
		"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n":                                                   400,
		"GET / HTTP/1.1\r\nHost\r\n\r\n":                                                               400,
		"GET / HTTP/1.1\r\n" + h + "hOST: evil.example\r\n\r\n":                                        400,
		" GET / HTTP/1.1\r\n" + h + "\r\n":                                                             400,
		"\r\n\r\n\r\n\r\n":                                                                             400,
		"\x16\x03\x01\x02\x00\x01\x00":                                                                 400, // TLS
		"CONNECT example.com:443 HTTP/1.1\r\n" + h + "\r\n":                                            405,
	} {
		c := call(t, addr)
		send(t, c, request+"GET /smuggled HTTP/1.1\r\n"+h+"\r\n")
		r := bufio.NewReader(c)
		resp, body := readAnswer(t, r, "GET")
		if resp.StatusCode != want || !resp.Close {
			t.Errorf("%q is answered %d, close %v, %s, want %d and a close", request, resp.StatusCode, resp.Close, body, want)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%q: after the answer %v, want an end", request, err)
		}
		n++
	}
	if e.dialed.Load() != 0 {
		t.Errorf("the engine was dialed %d times", e.dialed.Load())
	}
	if s := g.Stats(); int(s.Refused) != n {
		t.Errorf("counted %+v, want %d refused", s, n)
	}
}

// TestBadChunks: a body that cannot be read is not passed on to its end.
func TestBadChunks(t *testing.T) {
	t.Parallel()
	got := make(chan []byte, 1)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		b, _ := io.ReadAll(r)
		got <- b
	})
	addr := served(t, &Gateway{Dial: e.Dial})
	for _, chunks := range []string{
		"g\r\n", "\r\n", "-1\r\n", "+1\r\n", "0x1\r\n", "1 1\r\n", "1 ;x\r\n", "fffffffffffffffff\r\n", "1\nx\r\n0\r\n\r\n", "1\r\nxx\r\n",
		"1\r\nx\n0\r\n\r\n", "1;a\x00\r\n", "1\r\rx", "0\r\nno colon\r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX: y\n\r\n",
		"1;a\nb\r\n", "1;a\rb\r\n", "1\rx", "0000000000000001\r\n", ";a\r\n", " 1\r\n", "\t1\r\n", "1\r\nx\r\r\n", "1\r\nx0\r\n\r\n", "1_0\r\n", "0\r\n\n",
		"0\r\nX\x00: y\r\n", "0\r\nX: y\x01\r\n", "0\r\nX : y\r\n", "0\r\n: y\r\n", "0\r\nX: y\r\r\n",
		"1;" + strings.Repeat("x", 5000) + "\r\n", "0\r\nX: " + strings.Repeat("y", 5000) + "\r\n\r\n",
	} {
		c := call(t, addr)
		send(t, c, "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
		send(t, c, chunks)
		resp, _ := readAnswer(t, bufio.NewReader(c), "POST")
		if resp.StatusCode != 400 {
			t.Errorf("%.40q is answered %d, want 400", chunks, resp.StatusCode)
		}
		if b := <-got; bytes.Contains(b, []byte("0\r\n\r\n")) {
			t.Errorf("%.40q: the engine got a whole body: %q", chunks, b)
		}
	}
}

// TestLeavesAtEveryByte ends a caller within its request: the engine must never have a whole one.
func TestLeavesAtEveryByte(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"counted": post("/api/chat", `{"model":"m"}`),
		"chunked": "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var whole, parts atomic.Int64
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err == nil {
					_, err = io.Copy(io.Discard, req.Body)
				}
				if parts.Add(1); err == nil {
					whole.Add(1)
				}
			})
			g := &Gateway{Dial: e.Dial}
			addr := served(t, g)
			for n := range len(request) {
				for _, reset := range []bool{false, true} {
					c := call(t, addr)
					send(t, c, request[:n])
					if reset {
						c.SetLinger(0)
					}
					c.Close()
				}
			}
			last := call(t, addr) // accepted after all of them
			send(t, last, request)
			waitFor(t, "the last one's whole request", func() bool { return whole.Load() > 0 })
			last.Close()
			waitFor(t, "all have left", func() bool { return g.Stats().Open == 0 && parts.Load() == e.dialed.Load() })
			if whole.Load() > 1 || parts.Load() < 2 {
				t.Errorf("the engine got %d whole requests and %d in all, want that of the last and some", whole.Load(), parts.Load())
			}
		})
	}
}
