package instance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/box"
)

// The port moves to another host between two requests of callers that keep their connection: none is refused or cut, and
// an answer that is under way ends where it began.
func TestDivert(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	var slow sync.WaitGroup
	release := make(chan struct{})
	up := func(name string) *Instance {
		b, err := box.Start(box.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, name)
			if r.URL.Path == "/slow" {
				w.(http.Flusher).Flush()
				<-release
				fmt.Fprint(w, " to the end")
			}
		}))
		t.Cleanup(srv.Close)
		req := request(t, b)
		req.Name, req.Profile.Engine.Name, req.Profile.Engine.Address = name, "none", strings.TrimPrefix(srv.URL, "http://")
		i := New(req, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(context.Background())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- i.Run(ctx, func(Event) {}, func() { close(ready) }) }()
		t.Cleanup(func() { cancel(); <-ended })
		select {
		case <-ready:
		case err := <-ended:
			ended <- err
			t.Fatal(err)
		case <-time.After(30 * time.Second):
			t.Fatal("it does not get ready")
		}
		return i
	}
	a, b := up("a"), up("b")
	caller, err := net.Dial("tcp", a.Listen())
	if err != nil {
		t.Fatal(err)
	}
	defer caller.Close()
	read := bufio.NewReader(caller)
	ask := func() string {
		t.Helper()
		fmt.Fprintf(caller, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", a.Listen())
		resp, err := http.ReadResponse(read, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	began, told := make(chan struct{}), ""
	slow.Go(func() {
		resp, err := http.Get("http://" + a.Listen() + "/slow")
		if err != nil {
			told = err.Error()
			close(began)
			return
		}
		defer resp.Body.Close()
		close(began)
		text, err := io.ReadAll(resp.Body)
		told = fmt.Sprint(string(text), err)
	})
	<-began
	for n, step := range []struct {
		to   *Instance
		want string
	}{{nil, "a"}, {b, "b"}, {b, "b"}, {a, "a"}, {b, "b"}, {nil, "a"}} {
		if n > 0 && !a.Divert(step.to) {
			t.Fatal("Divert is false")
		}
		if got := ask(); got != step.want {
			t.Errorf("step %d: %q answers, want %q", n, got, step.want)
		}
	}
	a.Divert(b)
	if st := a.Status(t.Context()); st.Forward.LeadsTo != "b" || st.Forward.Failed != 0 || st.Forward.Reset != 0 {
		t.Errorf("status: %+v", st.Forward)
	}
	close(release)
	slow.Wait()
	if told != "a to the end<nil>" {
		t.Errorf("the answer under way: %s", told)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
