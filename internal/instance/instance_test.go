package instance

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rlca/internal/box"
	"rlca/profiles"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0 s", 0: "0.0 s", 400 * time.Millisecond: "0.4 s", 9949 * time.Millisecond: "9.9 s", 41 * time.Second: "41 s",
		130 * time.Second: "2 min 10 s", 2 * time.Minute: "2 min", 41 * time.Minute: "41 min", 134 * time.Minute: "2 h 14 min", 51 * time.Hour: "2 d 3 h",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestSamePort(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"127.0.0.1:11434", "localhost:11434"}: true,
		{"[::1]:80", "127.0.0.1:80"}:           true,
		{"0.0.0.0:80", "127.0.0.1:80"}:         true,
		{"127.0.0.1:80", "127.0.0.1:81"}:       false,
		{"10.0.0.1:80", "127.0.0.1:80"}:        false,
	} {
		if got := samePort(pair[0], pair[1]); got != want {
			t.Errorf("samePort(%s, %s) = %v", pair[0], pair[1], got)
		}
	}
}

// request is for a box that lets anybody in, reached without any file of the user's.
func request(t *testing.T, b *box.Box) Request {
	t.Helper()
	p := profiles.Default()
	p.Host, p.Forward.Listen, p.Model.Context = "me@"+b.Addr(), "127.0.0.1:0", 4096
	return Request{Name: "box", Profile: p, OpenSSH: "none", SSHConfig: "none", AgentSocket: "none", AcceptNew: true}
}

// slowEngine is an Ollama whose model never finishes loading.
func slowEngine(t *testing.T) (addr string, loading chan struct{}) {
	t.Helper()
	engine, err := box.StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	loading = make(chan struct{}, 8)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/generate" {
			io.Copy(io.Discard, r.Body) // a server notices that its caller left only once it has read all
			loading <- struct{}{}
			<-r.Context().Done()
			return
		}
		u := *r.URL
		u.Scheme, u.Host = "http", engine.Addr()
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, u.String(), r.Body)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		buf := make([]byte, 64<<10)
		for {
			n, err := resp.Body.Read(buf)
			w.Write(buf[:n])
			if err != nil {
				return
			}
		}
	})}
	go srv.Serve(ln)
	t.Cleanup(func() {
		srv.Close()
		engine.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return ln.Addr().String(), loading
}

// Ctrl-C while the model loads: the port is closed, the walk says where it was, and what was there before is left.
func TestCancelWhileLoading(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	b, err := box.Start(box.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	addr, loading := slowEngine(t)
	req := request(t, b)
	req.Profile.Engine.Address, req.Profile.Model.Name = addr, "rlca-demo:builtin"
	i := New(req, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- i.Run(ctx, func(Event) {}, func() { t.Error("ready without a model") })
	}()
	select {
	case <-loading:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(20 * time.Second):
		t.Fatal("it does not come to the load")
	}
	listen := i.Status(context.Background()).Forward.Listen
	// The port is open already, and holds its callers.
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatalf("the port refuses while the model loads: %v", err)
	}
	c.Close()
	cancel()
	err = <-ended
	cancelled, ok := err.(*CancelledError)
	if !ok || len(cancelled.Undone) != 0 || len(cancelled.Left) != 1 || !strings.Contains(cancelled.Left[0], "adopted") {
		t.Errorf("Run = %v (%T) %+v, want a *CancelledError that leaves the adopted engine", err, err, cancelled)
	}
	if c, err := net.Dial("tcp", listen); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

// The whole walk against the embedded box, a cut, and the end.
func TestRun(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	b, err := box.Start(box.Options{Noise: "hello from the login shell\n"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	engine, err := box.StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	req := request(t, b)
	req.Profile.Engine.Address, req.Profile.Model.Name = engine.Addr(), engine.Model()
	i := New(req, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var steps []string
	ready := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- i.Run(ctx, func(e Event) {
			if e.Done {
				steps = append(steps, string(e.Step))
			}
		}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(steps), "[link probe fit engine model port]"; got != want {
		t.Errorf("steps %s, want %s", got, want)
	}
	get := func() error {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + i.Status(ctx).Forward.Listen + "/api/version")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	b.Pause()
	b.Cut()
	time.AfterFunc(300*time.Millisecond, b.Resume)
	if err := get(); err != nil {
		t.Errorf("a request while the link is cut: %v", err)
	}
	st := i.Status(ctx)
	if st.State != "up" || st.Link.Reconnects != 1 || st.Forward.Failed != 0 || st.Reconnect == nil {
		t.Errorf("status after the cut: %+v %+v", st, st.Link)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v after an end in order", err)
	}
}
