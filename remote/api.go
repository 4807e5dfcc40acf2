package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Limits of one request to the engine.
const (
	bodyLimit = 16 << 20
	askLimit  = 15 * time.Second
	loadLimit = 30 * time.Minute
)

// api is Ollama's own HTTP API on one address of the box.
type api struct {
	addr string
	http *http.Client
}

// statusError is an answer of the engine that is an error.
type statusError struct {
	Code int
	Text string
}

func (e *statusError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("it answered %d without a word", e.Code)
	}
	return fmt.Sprintf("it answered %d: %s", e.Code, e.Text)
}

// newAPI dials each request anew: a connection kept through a lost link is a trap.
func newAPI(dial func(ctx context.Context, network, addr string) (net.Conn, error), addr string) *api {
	return &api{addr: addr, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "tcp", addr) },
		DisableKeepAlives: true, DisableCompression: true,
	}}}
}

// send makes one request and returns the answer if it is a success; the caller closes its body.
func (a *api) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.addr+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, &statusError{resp.StatusCode, errorText(text)}
	}
	return resp, nil
}

// call makes one request within limit and decodes its answer into out. An error inside a success counts as one.
func (a *api) call(ctx context.Context, limit time.Duration, method, path string, body, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := a.send(ctx, method, path, body)
	if err != nil {
		return fmt.Errorf("%s %s on %s: %w", method, path, a.addr, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit))
	if err != nil {
		return fmt.Errorf("%s %s on %s: %w", method, path, a.addr, err)
	}
	var said struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &said) == nil && len(said.Error) > 0 && string(said.Error) != "null" {
		return fmt.Errorf("%s %s on %s: %w", method, path, a.addr, &statusError{resp.StatusCode, errorText(text)})
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s on %s: its answer is no JSON: %q", method, path, a.addr, clean(string(text[:min(len(text), 2*textLimit)])))
	}
	return nil
}

// errorText finds the words in an error body: {"error":"…"}, {"error":{"message":"…"}}, or plain text.
func errorText(body []byte) string {
	var said struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &said) == nil && len(said.Error) > 0 {
		var s string
		if json.Unmarshal(said.Error, &s) == nil && s != "" {
			return clean(s)
		}
		var nested struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(said.Error, &nested) == nil && nested.Message != "" {
			return clean(nested.Message)
		}
	}
	return clean(string(body))
}

// tag is one row of /api/tags.
type tag struct {
	Name       string `json:"name"`
	Size       int64  `json:"size"`
	Digest     string `json:"digest"`
	RemoteHost string `json:"remote_host"` // set for a stub of a model that runs elsewhere
	Details    struct {
		Family string `json:"family"`
		Quant  string `json:"quantization_level"`
	} `json:"details"`
}

func (a *api) tags(ctx context.Context) ([]tag, error) {
	var out struct {
		Models []tag `json:"models"`
	}
	err := a.call(ctx, askLimit, "GET", "/api/tags", nil, &out)
	for i := range out.Models {
		out.Models[i].Name = clean(out.Models[i].Name)
	}
	return out.Models, err
}

// running is one row of /api/ps.
type running struct {
	Name    string `json:"name"`
	Digest  string `json:"digest"`
	Size    int64  `json:"size"`
	VRAM    int64  `json:"size_vram"`
	Context int    `json:"context_length"`
}

// ps lists what is loaded, what stays longest first.
func (a *api) ps(ctx context.Context) ([]running, error) {
	var out struct {
		Models []running `json:"models"`
	}
	err := a.call(ctx, askLimit, "GET", "/api/ps", nil, &out)
	for i := range out.Models {
		out.Models[i].Name = clean(out.Models[i].Name)
	}
	return out.Models, err
}

// shown is the part of /api/show that is used.
type shown struct {
	Info       map[string]any `json:"model_info"`
	Parameters string         `json:"parameters"`

	// Parts is the list of tensors. Ollama tells it without "verbose", which would add every token of the vocabulary.
	Parts json.RawMessage `json:"tensors"`
}

// tensorMost is more than any model has.
const tensorMost = 1 << 16

// tensors reads the list of tensors. Nil is none, or one that is not as it should be: a part of it would be no use.
func (s shown) tensors() []Tensor {
	var list []struct {
		Type  string   `json:"type"`
		Shape []uint64 `json:"shape"`
	}
	if json.Unmarshal(s.Parts, &list) != nil || len(list) > tensorMost {
		return nil
	}
	var out []Tensor
	for _, t := range list {
		if len(t.Shape) > 8 {
			return nil
		}
		out = append(out, Tensor{Type: clean(t.Type), Shape: t.Shape})
	}
	return out
}

func (a *api) show(ctx context.Context, model string) (shown, error) {
	var out shown
	err := a.call(ctx, askLimit, "POST", "/api/show", map[string]any{"model": model}, &out)
	return out, err
}

// trained is the context that the model was trained with, 0 if it is not told.
func (s shown) trained() int {
	arch, _ := s.Info["general.architecture"].(string)
	n, _ := s.Info[arch+".context_length"].(float64)
	return int(n)
}

// load brings a model into memory; keep is how long it stays when idle.
func (a *api) load(ctx context.Context, model string, keep any) error {
	body := map[string]any{"model": model, "stream": false}
	if keep != nil {
		body["keep_alive"] = keep
	}
	return a.call(ctx, loadLimit, "POST", "/api/generate", body, nil)
}

func (a *api) unload(ctx context.Context, model string) error {
	return a.call(ctx, askLimit, "POST", "/api/generate", map[string]any{"model": model, "keep_alive": 0, "stream": false}, nil)
}

// derive makes name, the model base with another context.
func (a *api) derive(ctx context.Context, name, base string, context int) error {
	return a.call(ctx, time.Minute, "POST", "/api/create", map[string]any{
		"model": name, "from": base, "parameters": map[string]any{"num_ctx": context}, "stream": false,
	}, nil)
}

// remove deletes a model; one that is not there is fine.
func (a *api) remove(ctx context.Context, name string) error {
	err := a.call(ctx, askLimit, "DELETE", "/api/delete", map[string]any{"model": name}, nil)
	var status *statusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil
	}
	return err
}

// keepAlive writes a profile's word as Ollama's JSON wants it: seconds as a number, a duration as text. Nil for a
// word that would unload the model at once.
func keepAlive(s string) any {
	if s == "" {
		s = "-1"
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n == 0 {
			return nil
		}
		return n
	}
	if d, err := time.ParseDuration(s); err == nil && d == 0 {
		return nil
	}
	return s
}
