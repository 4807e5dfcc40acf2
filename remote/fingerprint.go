package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// fingerprintLimit is how long a listener may take to say who it is.
const fingerprintLimit = 8 * time.Second

// finding is what a fingerprint says about an address.
type finding int

const (
	nobody  finding = iota // nothing accepts a connection
	foreign                // something else answers, or nothing sensible
	itself
	loading // itself, and its model is not loaded yet; said is what it says
)

// identity is who listens on an address of the box.
type identity struct {
	who finding
	// version is what the engine tells, said the beginning of a foreign answer.
	version, said string
	// err is why nothing could be dialed.
	err error
}

// fingerprint finds out who listens. Others imitate parts of Ollama's API, but not its greeting together with its
// version.
func (o *Ollama) fingerprint(ctx context.Context, addr string) identity {
	ctx, cancel := context.WithTimeout(ctx, fingerprintLimit)
	defer cancel()
	var connected atomic.Bool
	a := newAPI(func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := o.box.Dial(ctx, network, addr)
		if err == nil {
			connected.Store(true)
		}
		return conn, err
	}, addr)
	resp, err := a.send(ctx, "GET", "/", nil)
	var status *statusError
	switch {
	case errors.As(err, &status):
		return identity{who: foreign, said: status.Text}
	case err != nil && connected.Load():
		return identity{who: foreign}
	case err != nil:
		return identity{err: err}
	}
	greeting, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	resp.Body.Close()
	var v struct {
		Version string `json:"version"`
	}
	if strings.TrimSpace(string(greeting)) != "Ollama is running" || a.call(ctx, fingerprintLimit, "GET", "/api/version", nil, &v) != nil || v.Version == "" {
		return identity{who: foreign, said: clean(string(greeting[:min(len(greeting), 80)]))}
	}
	return identity{who: itself, version: clean(v.Version)}
}
