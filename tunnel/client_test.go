package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func needShell(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs /bin/sh")
	}
}

func TestRun(t *testing.T) {
	needShell(t)
	c := new(server).start(t).dial(t, new(Dialer))
	for script, want := range map[string]string{
		"echo hello":                    "hello\n",
		"":                              "",
		"printf 'it'\\''s $HOME !x'":    "it's $HOME !x",
		"echo out; echo err >&2":        "out\n",
		"cat <<'X'\nraw $a\nX\n":        "raw $a\n",
		"head -c 1000000 /dev/zero":     string(make([]byte, 1000000)),
		"sleep 30 & echo started":       "started\n", // something keeps the output open
		"(sleep 0.2; echo late) & wait": "late\n",
	} {
		start := time.Now()
		out, err := c.Run(t.Context(), script)
		if string(out) != want || err != nil || time.Since(start) > 5*time.Second {
			t.Errorf("Run(%q) = %d bytes %.40q, %v after %v; want %d bytes", script, len(out), out, err, time.Since(start), len(want))
		}
	}
}

func TestRunExit(t *testing.T) {
	needShell(t)
	c := new(server).start(t).dial(t, new(Dialer))
	out, err := c.Run(t.Context(), "echo part; printf 'bad \\033[31mthing\\nsecond line' >&2; exit 3")
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "bad [31mthing second line" || string(out) != "part\n" {
		t.Errorf("Run = %q, %v", out, err)
	}
	// a script of which a command is missing is not a box without a shell
	if _, err = c.Run(t.Context(), "no-such-command"); !errors.As(err, &exit) || exit.Code != 127 || !strings.Contains(exit.Stderr, "not found") {
		t.Errorf("Run = %v, want an ExitError with 127", err)
	}
	if _, err = c.Run(t.Context(), "yes end | head -c 300000 >&2; echo the end >&2; exit 1"); !errors.As(err, &exit) || !strings.HasSuffix(exit.Stderr, "the end") || len(exit.Stderr) > 520 {
		t.Errorf("Run = %v, want the end of what it said", err)
	}
	if out, err = c.Run(t.Context(), "yes"); err == nil || !strings.Contains(err.Error(), "more than 4 MiB") || len(out) != maxOutput {
		t.Errorf("Run = %d bytes, %v; want the limit", len(out), err)
	}
}

func TestRunNoShell(t *testing.T) {
	for name, s := range map[string]*server{
		"not found": {exec: func(ch ssh.Channel, _ string) int {
			io.WriteString(ch.Stderr(), "sh: 1: exec: /bin/sh: not found\r\n")
			return 127
		}},
		"nologin": {exec: func(ch ssh.Channel, _ string) int {
			io.WriteString(ch, "This account is currently not available.\n")
			return 1
		}},
		"a command of its own": {exec: func(ch ssh.Channel, _ string) int { return 0 }},
		"no sessions": {refuse: func(kind string) (ssh.RejectionReason, string, bool) {
			return ssh.Prohibited, "no sessions here", kind == "session"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.start(t).dial(t, new(Dialer))
			_, err := c.Run(t.Context(), "echo hello")
			if !as[*NoShellError](err) || Final(err) {
				t.Errorf("Run = %v, want a NoShellError", err)
			}
		})
	}
}

func TestRunOneSessionAtATime(t *testing.T) {
	needShell(t)
	var mu sync.Mutex
	open := 0
	s := new(server)
	s.refuse = func(kind string) (ssh.RejectionReason, string, bool) {
		mu.Lock()
		defer mu.Unlock()
		open++
		return ssh.ResourceShortage, "open failed", open == 2 // the one after the first, while that is not over
	}
	c := s.start(t).dial(t, new(Dialer))
	if out, err := c.Run(t.Context(), "echo hello"); string(out) != "hello\n" || err != nil {
		t.Errorf("Run = %q, %v", out, err)
	}
}

func TestRunEnds(t *testing.T) {
	hang := make(chan struct{})
	s := &server{exec: func(ch ssh.Channel, _ string) int {
		fmt.Fprint(ch, "before")
		<-hang
		return -1
	}}
	s.start(t)
	t.Cleanup(func() { close(hang) })
	c := s.dial(t, new(Dialer))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	out, err := c.Run(ctx, "anything")
	if !errors.Is(err, context.DeadlineExceeded) || string(out) != "before" || time.Since(start) > 2*time.Second {
		t.Errorf("Run = %q, %v after %v; want the end of ctx", out, err, time.Since(start))
	}
	// the link is cut while a script runs
	time.AfterFunc(200*time.Millisecond, s.cut)
	out, err = c.Run(t.Context(), "anything")
	if err == nil || string(out) != "before" || as[*ExitError](err) || as[*NoShellError](err) {
		t.Errorf("Run = %q, %v; want why the link ended", out, err)
	}
	if _, err := c.Run(t.Context(), "anything"); err == nil {
		t.Error("Run works on a connection that has ended")
	}
}

func TestRunSignal(t *testing.T) {
	s := &server{exec: func(ch ssh.Channel, _ string) int {
		in := make([]byte, 100)
		n, _ := io.ReadAtLeast(ch, in, 40)
		mark := strings.TrimPrefix(strings.SplitN(string(in[:n]), " >&2", 2)[0], "echo ")
		fmt.Fprintln(ch.Stderr(), mark)
		ch.SendRequest("exit-signal", false, ssh.Marshal(&struct {
			Signal    string
			Dumped    bool
			Msg, Lang string
		}{"KILL\x1b", false, "", ""}))
		return -1
	}}
	c := s.start(t).dial(t, new(Dialer))
	var exit *ExitError
	if _, err := c.Run(t.Context(), "anything"); !errors.As(err, &exit) || exit.Signal != "KILL" || exit.Code != -1 {
		t.Errorf("Run = %v, want the signal", err)
	}
}

// echo is a server that sends back what it reads, and ends its direction after the other one.
func echo(t *testing.T, network, addr string) string {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx := t.Context()
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestClientDial(t *testing.T) {
	c := new(server).start(t).dial(t, new(Dialer))
	addrs := map[string]string{"tcp": echo(t, "tcp", "127.0.0.1:0")}
	if runtime.GOOS != "windows" {
		dir, err := os.MkdirTemp("", "unix")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		addrs["unix"] = echo(t, "unix", filepath.Join(dir, "s"))
	}
	for network, addr := range addrs {
		conn, err := c.Dial(t.Context(), network, addr)
		if err != nil {
			t.Fatalf("Dial(%s, %s): %v", network, addr, err)
		}
		if conn.RemoteAddr().String() != addr || conn.RemoteAddr().Network() != network {
			t.Errorf("RemoteAddr = %v", conn.RemoteAddr())
		}
		want := bytes.Repeat([]byte("half close "), 1<<17)
		go func() {
			conn.Write(want)
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(conn) // a clean end, after our half
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", network, len(got), err, len(want))
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the second Close = %v", err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close = %v", err)
		}
	}
	for _, bad := range [][2]string{{"udp", "127.0.0.1:1"}, {"tcp", "127.0.0.1"}, {"tcp", "127.0.0.1:x"}, {"tcp", ":1"}, {"tcp", "h:0"}, {"tcp", "h:70000"}} {
		if _, err := c.Dial(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("Dial(%q) worked", bad)
		}
	}
}

func TestClientDialRefused(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	s := new(server).start(t)
	c := s.dial(t, new(Dialer))
	_, err = c.Dial(t.Context(), "tcp", closed.Addr().String())
	var e *RefusedError
	if !errors.As(err, &e) || e.Prohibited || e.Reason != "connection refused" || e.Addr != closed.Addr().String() {
		t.Errorf("a closed port: %+v", err)
	}
	s.set(func() {
		s.refuse = func(kind string) (ssh.RejectionReason, string, bool) {
			return ssh.Prohibited, "open failed", kind == "direct-tcpip"
		}
	})
	if _, err = c.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.As(err, &e) || !e.Prohibited || !strings.Contains(err.Error(), "does not allow it") {
		t.Errorf("forwarding is forbidden: %v", err)
	}
	if c.Err() != nil {
		t.Errorf("a refusal has ended the link: %v", c.Err())
	}
}

// TestStreamCut cuts the link in the middle of a stream: its end is not a clean one.
func TestStreamCut(t *testing.T) {
	for name, cut := range map[string]func(*server, *Client){
		"the server": func(s *server, _ *Client) { s.cut() },
		"we":         func(_ *server, c *Client) { c.Close() },
	} {
		s := new(server).start(t)
		c := s.dial(t, new(Dialer))
		conn, err := c.Dial(t.Context(), "tcp", echo(t, "tcp", "127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "partial")
		buf := make([]byte, 7)
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { cut(s, c) })
		if n, err := conn.Read(buf); err == nil || err == io.EOF {
			t.Errorf("%s cuts: Read = %d, %v; want an error that is no clean end", name, n, err)
		}
		if _, err := conn.Write(buf); err == nil {
			t.Errorf("%s cuts: Write works", name)
		}
		if _, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil || as[*RefusedError](err) {
			t.Errorf("%s cuts: Dial = %v, want why the link ended", name, err)
		}
		conn.Close()
	}
}

func TestStreamDeadline(t *testing.T) {
	c := new(server).start(t).dial(t, new(Dialer))
	addr := echo(t, "tcp", "127.0.0.1:0")
	dial := func() net.Conn {
		conn, err := c.Dial(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := dial()
	conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
	start := time.Now()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("Read = %v after %v, want the deadline", err, time.Since(start))
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write = %v, want the deadline", err)
	}
	conn = dial()
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	conn.SetDeadline(time.Time{}) // taken back
	time.Sleep(200 * time.Millisecond)
	io.WriteString(conn, "still")
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Errorf("a deadline that was taken back: %v", err)
	}
}

// TestHTTP uses the client as the dialer of net/http, as the rooms above do.
func TestHTTP(t *testing.T) {
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	}))
	defer far.Close()
	c := new(server).start(t).dial(t, new(Dialer))
	tr := &http.Transport{DialContext: c.Dial}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	for i := range 20 {
		want := strings.Repeat(fmt.Sprint(i), 10000)
		resp, err := hc.Post(far.URL, "text/plain", strings.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(got) != want {
			t.Fatalf("%d: %d bytes, %v", i, len(got), err)
		}
	}
	hc.Timeout = 200 * time.Millisecond
	if _, err := hc.Get(far.URL + "/slow"); err == nil {
		t.Error("a slow answer came in time")
	}
}

// hole is a TCP proxy that can be made to swallow everything, as a network does that is gone.
type hole struct {
	addr *net.TCPAddr

	mu   sync.Mutex // guards what follows
	open chan struct{}
}

func newHole(t *testing.T, to int) *hole {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{addr: ln.Addr().(*net.TCPAddr), open: make(chan struct{})}
	close(h.open)
	ctx := t.Context()
	var wg sync.WaitGroup
	copyTo := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			h.mu.Lock()
			open := h.open
			h.mu.Unlock()
			select {
			case <-open:
			case <-ctx.Done():
				return
			}
			if n > 0 {
				dst.Write(buf[:n])
			}
			if err != nil {
				dst.Close()
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				a.Close()
				continue
			}
			context.AfterFunc(ctx, func() { a.Close(); b.Close() })
			wg.Go(func() { copyTo(a, b) })
			wg.Go(func() { copyTo(b, a) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return h
}

func (h *hole) pause() {
	h.mu.Lock()
	h.open = make(chan struct{})
	h.mu.Unlock()
}

func (h *hole) resume() {
	h.mu.Lock()
	close(h.open)
	h.mu.Unlock()
}

func TestBlackHole(t *testing.T) {
	s := new(server).start(t)
	h := newHole(t, s.port())
	target := s.target(t)
	target.Port, target.HostKeyAlias = h.addr.Port, "alias"
	target.UserKnownHostsFiles = []string{writeFile(t, "kh", "alias "+keyText(s.keys[0].PublicKey()))}
	d := &Dialer{limits: limits{probeAfter: 200 * time.Millisecond, probeLimit: 200 * time.Millisecond}}
	c, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := c.Dial(t.Context(), "tcp", echo(t, "tcp", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	before := c.RTT()
	time.Sleep(700 * time.Millisecond) // probes keep a silent connection
	if c.Err() != nil {
		t.Fatalf("a silent connection that lives was ended: %v", c.Err())
	}
	if c.RTT() == before {
		t.Error("the probes do not measure the round trip")
	}
	h.pause()
	start := time.Now()
	// everything that waits on the link ends with it
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("Read = %v, want an error", err)
		}
	})
	wg.Go(func() {
		for {
			if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	wg.Go(func() {
		if _, err := c.Run(t.Context(), "echo"); err == nil {
			t.Error("Run worked")
		}
	})
	wg.Go(func() {
		if _, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil || as[*RefusedError](err) {
			t.Errorf("Dial = %v", err)
		}
	})
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("a black hole is not found")
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	wg.Wait()
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "silent for") {
		t.Errorf("Err = %v", err)
	}
}

// TestBriefSilence pauses the network for less than the limit: the connection lives.
func TestBriefSilence(t *testing.T) {
	s := new(server).start(t)
	h := newHole(t, s.port())
	target := s.target(t)
	target.Port, target.HostKeyAlias = h.addr.Port, "alias"
	target.UserKnownHostsFiles = []string{writeFile(t, "kh", "alias "+keyText(s.keys[0].PublicKey()))}
	d := &Dialer{limits: limits{probeAfter: 100 * time.Millisecond, probeLimit: 2 * time.Second}}
	c, err := d.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h.pause()
	time.Sleep(600 * time.Millisecond)
	h.resume()
	time.Sleep(300 * time.Millisecond)
	if c.Err() != nil {
		t.Errorf("the connection has ended: %v", c.Err())
	}
}

// TestNoAnswers has a server that lives and answers no more: calls end by their own limits, and the probe ends it all.
func TestNoAnswers(t *testing.T) {
	s := &server{mute: make(chan struct{})}
	s.start(t)
	d := &Dialer{limits: limits{open: 200 * time.Millisecond, probeAfter: time.Minute}}
	c := s.dial(t, d)
	c.letFirst(t.Context())
	close(s.mute)
	start := time.Now()
	_, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1")
	if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("Dial = %v after %v", err, time.Since(start))
	}
	if _, err := c.Run(t.Context(), "echo"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Run = %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v, want the end of ctx", err)
	}
	if c.Err() != nil {
		t.Fatalf("one call without an answer ended the link: %v", c.Err())
	}
	var wg sync.WaitGroup
	for range maxLate + 2 {
		wg.Go(func() { c.Dial(t.Context(), "tcp", "127.0.0.1:1") })
	}
	wg.Wait()
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Error("many calls without an answer did not end the link")
	}
}

func TestPatience(t *testing.T) {
	for _, c := range []struct {
		every        time.Duration
		count        int
		after, limit time.Duration
	}{
		{0, 3, 15 * time.Second, 7 * time.Second},
		{60 * time.Second, 3, 15 * time.Second, 7 * time.Second},
		{5 * time.Second, 3, 5 * time.Second, 7 * time.Second},
		{2 * time.Second, 1, 2 * time.Second, 2 * time.Second},
		{2 * time.Second, 0, 2 * time.Second, 7 * time.Second},
	} {
		client := &Client{target: &Target{ServerAliveInterval: c.every, ServerAliveCountMax: c.count}, limits: normally}
		if after, limit := client.patience(); after != c.after || limit != c.limit {
			t.Errorf("ServerAlive %v × %d: %v, %v; want %v, %v", c.every, c.count, after, limit, c.after, c.limit)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                          "plain",
		"two\r\n lines\t":                "two lines",
		"\x1b[31mred\x07\x00":            "[31mred",
		"bidi \u202egnp.exe":             "bidi gnp.exe",
		"bad \xff\xfe utf":               "bad utf",
		"c1 \u009b31m":                   "c1 31m",
		strings.Repeat("ü", 10000):       strings.Repeat("ü", 250) + "…",
		"x" + strings.Repeat("ü", 10000): "x" + strings.Repeat("ü", 249) + "…",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%.40q) = %.60q, want %.60q", in, got, want)
		}
	}
}

// Follow tells each line as it comes, whole, and ends with its context.
func TestFollow(t *testing.T) {
	c := (&server{}).start(t).dial(t, &Dialer{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- c.Follow(ctx, "printf 'one\\nt'; sleep 0.2; echo wo; head -c 10000 /dev/zero | tr '\\0' x; echo; echo end; sleep 3\n", func(s string) { got <- s })
	}()
	start := time.Now()
	for _, want := range []string{"one", "two", strings.Repeat("x", maxLine), "end"} {
		select {
		case s := <-got:
			if s != want {
				t.Errorf("line %.20q, want %.20q", s, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no line %.20q", want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || time.Since(start) > 10*time.Second {
		t.Errorf("Follow = %v after %s", err, time.Since(start))
	}
	if err := c.Follow(t.Context(), "echo a\nexit 3\n", func(string) {}); !as[*ExitError](err) {
		t.Errorf("Follow of a script that fails = %v", err)
	}
}
