package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"rlca/internal/instance"
)

// ErrNotRunning says that there is no supervisor, so no host is connected.
var ErrNotRunning = errors.New("nothing is connected")

// NotConnectedError says that the supervisor has no such host.
type NotConnectedError struct{ Host string }

func (e *NotConnectedError) Error() string { return e.Host + " is not connected" }

// Client talks to the supervisor of one state folder.
type Client struct {
	Paths   Paths
	Version string
	// Command starts a supervisor in the background: the program and its arguments. Empty means that Connect
	// does not start one.
	Command []string
}

func (c *Client) http() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Paths.Socket())
		},
	}}
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://rlca"+path+"?"+query.Encode(), r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http().Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" && ctx.Err() == nil {
			return nil, ErrNotRunning
		}
		return nil, fmt.Errorf("supervisor: %w", err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		if resp.StatusCode == http.StatusNotFound {
			return nil, &NotConnectedError{Host: query.Get("host")}
		}
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp, nil
}

// Status returns what every host is doing. Without a supervisor there are no hosts, and that is no error.
func (c *Client) Status(ctx context.Context) (Status, error) {
	st := Status{Hosts: []instance.Status{}}
	resp, err := c.do(ctx, "GET", "/v1/status", nil, nil)
	if errors.Is(err, ErrNotRunning) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		return st, fmt.Errorf("supervisor: status: %w", err)
	}
	return st, nil
}

// Connect asks for a host, starts a supervisor if there is none, and hands each event to emit until the host is
// ready. already says that it was connected before. An end of ctx stops the walk and undoes it; the error is then
// an *instance.CancelledError.
func (c *Client) Connect(ctx context.Context, req instance.Request, emit func(instance.Event)) (st *instance.Status, already bool, err error) {
	// The stream outlives ctx, because the supervisor reports on it what was undone.
	stream, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	resp, err := c.open(stream, ctx, req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	stop := context.AfterFunc(ctx, func() {
		if r, err := c.do(stream, "POST", "/v1/cancel", url.Values{"host": {req.Name}}, nil); err == nil {
			r.Body.Close()
		}
		time.AfterFunc(stopLimit, cancel)
	})
	defer stop()
	d := json.NewDecoder(resp.Body)
	for {
		var r reply
		if err := d.Decode(&r); err != nil {
			if ctx.Err() != nil {
				return nil, false, &instance.CancelledError{}
			}
			return nil, false, fmt.Errorf("supervisor ended in the middle: %w; see rlca logs", err)
		}
		switch {
		case r.Error != nil:
			return nil, false, r.Error.err()
		case r.Status != nil:
			return r.Status, r.Already, nil
		case r.Event != nil:
			emit(*r.Event)
		}
	}
}

// open posts the connect, and starts the supervisor when nobody answers. A supervisor that is just ending gives one
// more try.
func (c *Client) open(stream, ctx context.Context, req instance.Request) (*http.Response, error) {
	var last error
	for range 3 {
		resp, err := c.do(stream, "POST", "/v1/connect", nil, req)
		if err == nil {
			if v := resp.Header.Get(VersionHeader); v != c.Version {
				resp.Body.Close()
				return nil, fmt.Errorf("the supervisor that runs is rlca %s, this is %s: rlca disconnect everything first, or use that version", v, c.Version)
			}
			return resp, nil
		}
		last = err
		if !errors.Is(err, ErrNotRunning) && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := c.start(ctx); err != nil {
			return nil, err
		}
	}
	return nil, last
}

// start brings up a supervisor in the background and waits until it answers.
func (c *Client) start(ctx context.Context) error {
	if len(c.Command) == 0 {
		return ErrNotRunning
	}
	if err := c.Paths.Make(); err != nil {
		return err
	}
	errs, err := os.CreateTemp(c.Paths.Run, "start-*")
	if err != nil {
		return &StateError{Dir: c.Paths.Run, Err: err}
	}
	defer os.Remove(errs.Name())
	defer errs.Close()
	cmd := exec.Command(c.Command[0], c.Command[1:]...)
	cmd.Stderr = errs
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	limit := time.After(10 * time.Second)
	for {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", c.Paths.Socket()); err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			return &instance.CancelledError{}
		case err := <-exited:
			if err == nil { // somebody else's took the lock: wait for that one's socket
				exited = nil
				continue
			}
			said, _ := os.ReadFile(errs.Name())
			return fmt.Errorf("the supervisor did not start: %w: %s", err, strings.TrimSpace(string(said)))
		case <-limit:
			return fmt.Errorf("the supervisor did not answer within 10 s; see %s", c.Paths.Log(""))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Stop says what becomes of an engine at a disconnect.
type Stop int

const (
	LeaveEngine Stop = iota // it goes on running
	StopIfIdle              // it is stopped if rlca started it, unless another laptop may be using it
	StopAlways              // it is stopped if rlca started it
)

// Disconnect closes a host's port and link. stop says what becomes of the engine that rlca started; with StopIfIdle, what another
// laptop may be using is a *remote.InUseError, and nothing is closed.
func (c *Client) Disconnect(ctx context.Context, host string, stop Stop) (*Closed, error) {
	q := url.Values{"host": {host}}
	if stop != LeaveEngine {
		q.Set("stop_engine", "true")
	}
	if stop == StopAlways {
		q.Set("yes", "true")
	}
	resp, err := c.do(ctx, "POST", "/v1/disconnect", q, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var closed Closed
	if err := json.NewDecoder(resp.Body).Decode(&closed); err != nil {
		return nil, fmt.Errorf("supervisor: disconnect %s: %w", host, err)
	}
	if closed.InUse != nil {
		return nil, closed.InUse
	}
	return &closed, nil
}

// Use makes the local port lead to a host that is connected, from the next request on. port is its number, 0 the usual one.
func (c *Client) Use(ctx context.Context, host string, port int) (*Used, error) {
	q := url.Values{"host": {host}}
	if port > 0 {
		q.Set("port", strconv.Itoa(port))
	}
	resp, err := c.do(ctx, "POST", "/v1/use", q, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var used Used
	if err := json.NewDecoder(resp.Body).Decode(&used); err != nil {
		return nil, fmt.Errorf("supervisor: use %s: %w", host, err)
	}
	return &used, nil
}

// Poke makes a host's link try again at once, also after it stopped for a human.
func (c *Client) Poke(ctx context.Context, host string) error {
	resp, err := c.do(ctx, "POST", "/v1/poke", url.Values{"host": {host}}, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// EngineLog returns the end of the engine's log on the box.
func (c *Client) EngineLog(ctx context.Context, host string) (string, error) {
	resp, err := c.do(ctx, "GET", "/v1/engine-log", url.Values{"host": {host}}, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(text), err
}
