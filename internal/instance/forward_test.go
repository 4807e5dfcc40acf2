package instance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"rlca/internal/box"
	"rlca/profiles"
)

// Every further forward leads where it should, with a unix socket at either end or at both, also after the link was
// cut, and leaves no socket behind.
func TestAlso(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("paths of sockets begin with /")
	}
	b, err := box.Start(box.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	dir, err := os.MkdirTemp("", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	say := func(network, addr string) string { // a server in the box that says who it is
		ln, err := net.Listen(network, addr)
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
				fmt.Fprintf(c, "%s\n", ln.Addr())
				c.Close()
			}
		}()
		return ln.Addr().String()
	}
	farPort, farSocket := say("tcp", "127.0.0.1:0"), say("unix", filepath.Join(dir, "far"))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().String()
	free.Close()

	req := request(t, b)
	req.Profile.Engine.Name = "none"
	near := filepath.Join(dir, "near")
	for _, end := range [][2]string{{near + "1", farPort}, {near + "2", farSocket}, {port, farSocket}} {
		req.Profile.Forward.Also = append(req.Profile.Forward.Also, profiles.Also(end[0]+":"+end[1]))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- New(req, slog.New(slog.DiscardHandler)).Run(ctx, func(Event) {}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	for _, when := range []string{"at first", "after a cut"} {
		for _, c := range []struct{ network, addr, want string }{{"unix", near + "1", farPort}, {"unix", near + "2", farSocket}, {"tcp", port, farSocket}} {
			conn, err := net.Dial(c.network, c.addr)
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			got, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil && err != io.EOF || got != c.want+"\n" {
				t.Errorf("%s: %s leads to %q, %v, want %s", when, c.addr, got, err, c.want)
			}
			conn.Close()
		}
		b.Cut()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(near + "*"); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}
