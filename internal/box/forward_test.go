package box

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// serve lets handle have each connection to a listener of a test's own, and returns its address.
func serve(t *testing.T, network, addr string, handle func(halfCloser)) string {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(halfCloser))
			}()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String()
}

// echo answers only when the whole question has been heard: it needs the half close.
func echo(t *testing.T, network, addr string) string {
	return serve(t, network, addr, func(c halfCloser) {
		if data, err := io.ReadAll(c); err == nil {
			c.Write(data)
		}
	})
}

// through says something to an address behind the box, and returns the whole answer.
func through(c *ssh.Client, network, addr, text string) (string, error) {
	conn, err := c.DialContext(context.Background(), network, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return "", err
	}
	out, err := io.ReadAll(conn)
	return string(out), err
}

func TestForward(t *testing.T) {
	c := login(t, start(t, Options{}))
	addr := echo(t, "tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(addr)
	dir, err := os.MkdirTemp("", "rlca") // t.TempDir is too long for a socket's name on macOS
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	big := strings.Repeat("0123456789abcdef", 1<<17) // more than a channel's window
	for _, x := range []struct{ network, addr, text string }{
		{"tcp", addr, "hello"}, {"tcp", "localhost:" + port, "hello"}, {"tcp", addr, ""}, {"tcp", addr, big},
		{"unix", echo(t, "unix", filepath.Join(dir, "s")), "hello"},
	} {
		if got, err := through(c, x.network, x.addr, x.text); got != x.text || err != nil {
			t.Errorf("%s %s: %d bytes, %v, want %d", x.network, x.addr, len(got), err, len(x.text))
		}
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	for _, x := range []struct {
		network, addr, want string
		reason              ssh.RejectionReason
	}{
		{"tcp", closed, "Connection refused", ssh.ConnectionFailed},
		{"tcp", "192.0.2.1:80", "only loopback", ssh.Prohibited},
		{"tcp", "0.0.0.0:" + port, "only loopback", ssh.Prohibited},
		{"tcp", "example.org:80", "only loopback", ssh.Prohibited},
		{"tcp", "127.0.0.1:0", "no port", ssh.ConnectionFailed},
		{"unix", filepath.Join(dir, "none"), "no such file", ssh.ConnectionFailed},
	} {
		_, err := c.Dial(x.network, x.addr)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) || refused.Reason != x.reason || !strings.Contains(refused.Message, x.want) {
			t.Errorf("%s %s: %v, want %v %q", x.network, x.addr, err, x.reason, x.want)
		}
	}
	var refused *ssh.OpenChannelError
	if _, err := login(t, start(t, Options{NoForward: true})).Dial("tcp", addr); !errors.As(err, &refused) || refused.Reason != ssh.Prohibited {
		t.Errorf("a box without forwards: %v", err)
	}
	if _, _, err := c.OpenChannel("x11", nil); !errors.As(err, &refused) || refused.Reason != ssh.UnknownChannelType {
		t.Errorf("another kind of channel: %v", err)
	}
	if _, _, err := c.SendRequest("tcpip-forward", true, ssh.Marshal(&struct {
		Host string
		Port uint32
	}{"0.0.0.0", 0})); err != nil {
		t.Error(err)
	}
	if _, err := c.Listen("tcp", "0.0.0.0:0"); err == nil {
		t.Error("it listens for others")
	}
}

// TestForwardEnds checks every way in which one end can leave the other.
func TestForwardEnds(t *testing.T) {
	b := start(t, Options{})
	c := login(t, b)
	got := make(chan []byte, 1) // what the far end heard until its connection ended
	hear := func(c halfCloser) {
		data, _ := io.ReadAll(c)
		got <- data
	}
	wait := func(what string, want int) {
		t.Helper()
		select {
		case data := <-got:
			if len(data) != want {
				t.Errorf("%s: the far end heard %d bytes, want %d", what, len(data), want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the far end was not told", what)
		}
	}
	dial := func(addr string) net.Conn {
		t.Helper()
		conn, err := c.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}

	conn := dial(serve(t, "tcp", "127.0.0.1:0", hear))
	if _, err := conn.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wait("the client closed", 1<<20)

	// A far end that talks on to nobody is closed, too.
	talks := serve(t, "tcp", "127.0.0.1:0", func(c halfCloser) {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				got <- nil
				return
			}
		}
	})
	dial(talks).Close()
	wait("the client closed without reading", 0)

	conn = dial(serve(t, "tcp", "127.0.0.1:0", func(c halfCloser) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		hear(c)
	}))
	if data, err := io.ReadAll(conn); string(data) != "bye" || err != nil {
		t.Errorf("the far end closed one direction: %q, %v", data, err)
	}
	if _, err := io.WriteString(conn, "not yet"); err != nil {
		t.Errorf("after that the other direction: %v", err)
	}
	conn.Close()
	wait("after its own half close", len("not yet"))

	conn = dial(serve(t, "tcp", "127.0.0.1:0", func(c halfCloser) {
		io.ReadFull(c, make([]byte, 1))
		reset(c.(*net.TCPConn))
	}))
	conn.Write([]byte("x"))
	if data, err := io.ReadAll(conn); len(data) != 0 || err != nil {
		t.Errorf("the far end reset: %q, %v", data, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := conn.Write([]byte("x")); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Error("after a reset the channel stays open")
			break
		}
	}

	conn = dial(serve(t, "tcp", "127.0.0.1:0", hear))
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	b.Cut()
	wait("the link was cut", 1)
	ends(t, c)
}

func TestCutWhileStreaming(t *testing.T) {
	b := start(t, Options{})
	c := login(t, b)
	addr := serve(t, "tcp", "127.0.0.1:0", func(c halfCloser) {
		for {
			if _, err := io.WriteString(c, "data: token\n\n"); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	conn, err := c.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 200)); err != nil {
		t.Fatal(err)
	}
	if n := b.Cut(); n != 1 {
		t.Errorf("Cut() = %d", n)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(io.Discard, conn)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream goes on")
	}
}

func FuzzDestination(f *testing.F) {
	for _, host := range []string{"127.0.0.1", "localhost", "::1", "10.0.0.1", "", "127.0.0.1%lo", "::ffff:127.0.0.1"} {
		f.Add(false, ssh.Marshal(&struct {
			Host       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{host, 80, "127.0.0.1", 1}))
	}
	f.Add(true, ssh.Marshal(&struct {
		Path, Reserved string
		Port           uint32
	}{Path: "/tmp/s"}))
	f.Add(false, []byte{0, 0, 0, 200, 1})
	f.Fuzz(func(t *testing.T, stream bool, payload []byte) {
		kind := map[bool]string{false: "direct-tcpip", true: "direct-streamlocal@openssh.com"}[stream]
		network, addrs, err := destination(kind, payload)
		if err != nil {
			return
		}
		if want := map[bool]string{false: "tcp", true: "unix"}[stream]; network != want || len(addrs) == 0 {
			t.Fatalf("%q leads to %s %q", payload, network, addrs)
		}
		for _, a := range addrs {
			if network == "unix" {
				continue
			}
			ap, err := net.ResolveTCPAddr("tcp", a)
			if err != nil || !ap.IP.IsLoopback() || ap.Port == 0 {
				t.Errorf("%q leads to %q, %v", payload, a, err)
			}
		}
	})
}
