package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestCloseIsTheEnd: what follows a request that is the last of its connection is no request.
func TestCloseIsTheEnd(t *testing.T) {
	t.Parallel()
	for _, first := range []string{
		"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
		"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Close\r\n\r\n",
		"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
		"GET /last HTTP/1.0\r\n\r\n",
	} {
		heard := make(chan string, 1)
		e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
			var all strings.Builder
			serveHTTP(c, bufio.NewReader(io.TeeReader(r, &all)))
			heard <- all.String()
		})
		c := call(t, served(t, &Gateway{Dial: e.Dial}))
		send(t, c, first+get)
		r := bufio.NewReader(c)
		if _, body := readAnswer(t, r, "GET"); body != "GET /last 0 " {
			t.Errorf("%q is answered %q", first, body)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%q: after the answer %v, want an end", first, err)
		}
		if got := <-heard; got != first {
			t.Errorf("the engine heard %q, want %q", got, first)
		}
	}
}

// TestExpectIsFound: as net/http's server we find in a list that a caller waits for leave. If it gets none, what it says
// next may be another request, and no body.
func TestExpectIsFound(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]bool{
		"100-continue": true, "100-Continue": true, "x, 100-continue": true, "100-continue,x": true, "x\r\nExpect: 100-continue": true,
		"100": false, "": false, "100-continued": false,
	} {
		h := headOf(t, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: "+field+"\r\n\r\n")
		if h.expect != want {
			t.Errorf("Expect: %q is found %v, want %v", field, h.expect, want)
		}
	}
}

// TestRefusalsTellNoSecret: what is logged of a request that is refused has nothing of its query or its fields.
func TestRefusalsTellNoSecret(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		"GET /v1/%zz?key=s3cret HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET no-slash?key=s3cret HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET http://[::1?key=s3cret HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /?key=s3cret HTTP/3\r\nHost: localhost\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization : s3cret\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: s3cret\x01\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: localhost\r\ns3cret\r\n\r\n",
	} {
		_, err := parseHead([]byte(raw))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

// TestLeavesWithAnAnswer: the engine's connection goes with the caller, whatever that had said last.
func TestLeavesWithAnAnswer(t *testing.T) {
	t.Parallel()
	within(t, &Gateway{}, nil, func(w *world) {
		for _, after := range []string{"", "\r\n", "GET /half", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"} {
			c := w.call()
			go io.WriteString(c, get+after)
			if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 200 {
				t.Errorf("answered %v, %v", resp, err)
			}
			c.Close()
			time.Sleep(time.Second)
			if s := w.g.Stats(); s.Open != 0 {
				t.Errorf("after %q it left, and %+v", after, s)
			}
		}
	})
}
