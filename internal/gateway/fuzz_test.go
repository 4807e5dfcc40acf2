package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// asked are the requests that we would pass on, as they are in b, up to the first that we refuse, and the bytes that we
// would pass on for them.
func asked(g *Gateway, b []byte) (all []string, passed []byte) {
	for len(b) > 0 {
		var end headEnd
		n, before, done, err := end.feed(b)
		if err != nil || !done || n > maxHead {
			break
		}
		h, err := parseHead(b[before:n])
		if err != nil || g.guard(h) != nil {
			break
		}
		if h.req.Header.Get("Expect") != "" || h.req.RequestURI == "*" {
			break // the other server answers these by itself
		}
		passed = append(passed, b[before:n]...)
		b = b[n:]
		body := newFrame(h.length, maxRequestTrailer)
		var data []byte
		n, err = body.feed(b, func(p []byte) { data = append(data, p...) })
		if err != nil {
			break
		}
		passed = append(passed, b[:n]...)
		if !body.done() {
			break
		}
		all = append(all, fmt.Sprintf("%s %s %q", h.req.Method, h.req.RequestURI, data))
		b = b[n:]
		if h.req.Close || strings.Contains(strings.ToLower(h.req.Header.Get("Connection")), "close") {
			break // net/http reads that word more freely
		}
	}
	return all, passed
}

// said is a connection that says something and hears nothing.
type said struct {
	net.Conn
	r io.Reader
}

func (s *said) Read(p []byte) (int, error)       { return s.r.Read(p) }
func (s *said) Write(p []byte) (int, error)      { return len(p), nil }
func (s *said) Close() error                     { return nil }
func (s *said) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *said) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *said) SetDeadline(time.Time) error      { return nil }
func (s *said) SetReadDeadline(time.Time) error  { return nil }
func (s *said) SetWriteDeadline(time.Time) error { return nil }

// once is a listener with one connection.
type once struct {
	c    chan net.Conn
	over chan struct{}
}

func (o *once) Accept() (net.Conn, error) {
	select {
	case c := <-o.c:
		return c, nil
	case <-o.over:
		return nil, net.ErrClosed
	}
}
func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

// heard are the requests that net/http's server finds in b.
func heard(b []byte) (all []string) {
	var mu sync.Mutex
	l := &once{make(chan net.Conn, 1), make(chan struct{})}
	l.c <- &said{r: bytes.NewReader(b)}
	s := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			data, err := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				all = append(all, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, data))
			} else {
				all = append(all, "cut: "+err.Error())
			}
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(l.over)
			}
		},
	}
	s.Serve(l)
	mu.Lock()
	defer mu.Unlock()
	return all
}

// FuzzRequests: whatever we pass on is, for another server, the requests that we take it for.
func FuzzRequests(f *testing.F) {
	const h = "Host: localhost\r\n"
	for _, s := range []string{
		get, get + get, post("/v1/messages", "hello") + get, "\r\n" + get,
		"POST / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + get,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 5\r\nConnection: close\r\n\r\nhello" + get,
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n" + get,
		"POST / HTTP/1.1\r\n" + h + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\n" + h + "Content-Length : 4\r\nContent-Length: 0\r\n\r\nGET ",
		"GET / HTTP/1.1\r\n" + h + "X: a\r\n b\r\n\r\n", "GET http://localhost/ HTTP/1.1\r\n" + h + "\r\n",
		"GET / HTTP/1.1\r\n" + h + "Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "GET / HTTP/1.1\nHost: localhost\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &Gateway{}
		ours, passed := asked(g, b)
		theirs := heard(passed)
		for i, o := range ours {
			if i >= len(theirs) || theirs[i] != o {
				if i < len(theirs) && strings.Contains(theirs[i], "too much non-data") {
					return
				}
				t.Fatalf("the %d. request is %s for us, and net/http has %q", i, o, theirs)
			}
		}
		if len(theirs) > len(ours) && !strings.HasPrefix(theirs[len(ours)], "cut: ") {
			t.Fatalf("net/http has %q, and %d of them are requests for us", theirs, len(ours))
		}
		// And in pieces it is the same.
		for _, n := range []int{1, 3} {
			if got := pieces(g, b, n); len(got) != len(ours) {
				t.Fatalf("in pieces of %d there are %d requests, want %d", n, len(got), len(ours))
			}
		}
	})
}

// pieces are the ends of the requests that are found when b comes in pieces of n bytes.
func pieces(g *Gateway, b []byte, n int) (ends []int) {
	var end headEnd
	var raw []byte
	var h *head
	var body frame
	for at := 0; at < len(b); {
		p := b[at:min(len(b), at+n)]
		if h == nil {
			k, before, done, err := end.feed(p)
			if err != nil {
				return ends
			}
			raw = append(raw, p[before:k]...)
			at += k
			if !done {
				continue
			}
			if h, err = parseHead(raw); err != nil || g.guard(h) != nil || h.req.Header.Get("Expect") != "" || h.req.RequestURI == "*" {
				return ends
			}
			body = newFrame(h.length, maxRequestTrailer)
		} else {
			k, err := body.feed(p, nil)
			if err != nil {
				return ends
			}
			at += k
		}
		if body.done() {
			ends = append(ends, at)
			if h.req.Close || strings.Contains(strings.ToLower(h.req.Header.Get("Connection")), "close") {
				return ends
			}
			h, raw, end = nil, nil, headEnd{}
		}
	}
	return ends
}

// sink is a caller that reads everything.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) { return s.Buffer.Write(p) }
func (s *sink) Read(p []byte) (int, error)  { return 0, io.EOF }

// FuzzAnswers: an answer that we take for whole is whole for net/http's client, and the other way round, with the same
// bytes, in pieces of any size.
func FuzzAnswers(f *testing.F) {
	for _, s := range recorded {
		f.Add([]byte(s), false, uint8(3))
	}
	f.Add([]byte("HTTP/1.1 200 OK\n\nuntil close"), false, uint8(200))
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), true, uint8(1))
	f.Add([]byte("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), true, uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, isHead bool, n uint8) {
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		take := func(n int) (out []byte, whole bool, p *passage, err error) {
			p = &passage{method: method, x: new(Exchange), whole: make(chan struct{}), switched: make(chan struct{})}
			p.use = newUsage(p.x)
			var s sink
			for at := 0; at < len(b) && !whole && err == nil; at += n {
				whole, err = p.take(&s, b[at:min(len(b), at+n)])
			}
			return s.Bytes(), whole, p, err
		}
		out, whole, p, err := take(len(b) + 1)
		if !bytes.HasPrefix(b, out) {
			t.Fatalf("passed on is %q of %q", out, b)
		}
		out2, whole2, p2, err2 := take(int(n) + 1)
		p.x.FirstByte, p2.x.FirstByte = 0, 0
		if whole != whole2 || (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(out, out2) || err == nil && *p.x != *p2.x {
			t.Fatalf("in pieces of %d: %q %v %v %+v, want %q %v %v %+v", n+1, out2, whole2, err2, p2.x, out, whole, err, p.x)
		}
		// What net/http makes of it.
		src := bytes.NewReader(b)
		r := bufio.NewReader(src)
		var resp *http.Response
		var theirs error
		for {
			if resp, theirs = http.ReadResponse(r, &http.Request{Method: method}); theirs != nil || resp.StatusCode >= 200 || resp.StatusCode == 101 {
				break
			}
		}
		if theirs == nil {
			_, theirs = io.Copy(io.Discard, resp.Body)
		}
		used := len(b) - src.Len() - r.Buffered()
		if whole && (theirs != nil || used != len(out)) {
			if theirs != nil && strings.Contains(theirs.Error(), "trailer") || theirs != nil && strings.Contains(theirs.Error(), "non-data") {
				return
			}
			t.Fatalf("whole for us with %d bytes, and for net/http with %d: %v", len(out), used, theirs)
		}
		if !whole && err == nil && theirs == nil && !p.raw && !(p.inBody && p.body.state == frameUntilClose) {
			t.Fatalf("whole for net/http with %d of %d bytes, and not for us", used, len(b))
		}
	})
}

// FuzzUsage: what is told does not depend on the pieces, and JSON is read to its end.
func FuzzUsage(f *testing.F) {
	for _, s := range streams {
		if len(s.body) < 10000 {
			f.Add([]byte(s.body), uint8(s.shape-shapeWhole), uint8(5))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, shape, n uint8) {
		whole, split := readIn(1+shapeNone+gatewayShape(shape), string(b), len(b)+1), readIn(1+shapeNone+gatewayShape(shape), string(b), int(n)+1)
		if whole != split {
			t.Fatalf("in pieces of %d:\n%+v, want\n%+v", n+1, split, whole)
		}
		if json.Valid(b) && bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) < maxDepth {
			u := newUsage(new(Exchange))
			u.reply.feed(b)
			if u.reply.state == scanBad || u.reply.open() {
				t.Fatalf("valid JSON ends in state %d at depth %d", u.reply.state, u.reply.depth)
			}
			u.free()
		}
	})
}

func gatewayShape(n uint8) shape { return shape(n % 3) }
