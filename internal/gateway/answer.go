package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
)

const (
	retrySoon   = 2  // s: the held caller is told to come back
	retryPerson = 30 // s
	writeLimit  = 5 * time.Second
	drainLimit  = 10 * time.Second // how long a caller may take to hear an answer that came before it had said all
)

var (
	errTooMany = errors.New("too many requests wait already")
	errTooLong = errors.New("held too long")
	errGone    = errors.New("the caller left while it was held")
	errHalf    = errors.New("the caller ended its side while it was held")
)

// unreachable is why a request did not reach the far side.
type unreachable struct {
	verdict Verdict
	cause   error // the last error of Dial, or one of ours
}

func (u *unreachable) Error() string { return u.cause.Error() }
func (u *unreachable) Unwrap() error { return u.cause }

// say puts why a request does not get through into words. Harnesses print them as they are.
func (g *Gateway) say(u *unreachable) (r *refusal, retryAfter int) {
	s := State{}
	if g.State != nil {
		s = g.State()
	}
	host := clean(s.Host)
	if host == "" {
		host = "the box"
	}
	r = &refusal{status: http.StatusServiceUnavailable, kind: "api_error"}
	switch {
	case errors.Is(u.cause, errTooMany):
		r.code, r.message = "too_many", "rlca: too many requests wait for "+host+" already"
		r.kind = "overloaded_error"
	case u.verdict == Human:
		r.code, r.message = "needs_you", fmt.Sprintf("rlca: %s needs you: %s; see: rlca status", host, clean(u.cause.Error()))
		return r, retryPerson
	case u.verdict == Closed:
		r.code, r.message = "engine_down", fmt.Sprintf("rlca: link to %s is up, nothing listens there: %s", host, clean(u.cause.Error()))
	case s.Doing != "":
		r.code, r.message = "not_ready", "rlca: "+host+" is "+clean(s.Doing)+since(s)
	default:
		r.code, r.message = "tunnel_down", "rlca: link to "+host+" is down, reconnecting"+since(s)
		if s.Cause != "" {
			r.message += ": " + clean(s.Cause)
		}
	}
	return r, retrySoon
}

// since is " (since 14:03, next try in 4 s)", or as much of it as is known.
func since(s State) string {
	var known []string
	if !s.Since.IsZero() {
		known = append(known, "since "+s.Since.Local().Format("15:04"))
	}
	if d := time.Until(s.NextTry); !s.NextTry.IsZero() && d > 0 {
		known = append(known, fmt.Sprintf("next try in %d s", int(d.Round(time.Second).Seconds())))
	}
	if len(known) == 0 {
		return ""
	}
	return " (" + strings.Join(known, ", ") + ")"
}

// answer ends a caller with an answer of our own. Its body has the shape of Anthropic's API, and OpenAI's is in it.
func (c *caller) answer(ctx context.Context, h *head, r *refusal, retryAfter int) {
	type fault struct {
		Type    string `json:"type"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(struct {
		Type  string `json:"type"`
		Error fault  `json:"error"`
	}{"error", fault{r.kind, r.code, r.message}})
	if err != nil {
		rst(c.conn)
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n", r.status, http.StatusText(r.status), len(body)+1)
	if retryAfter > 0 {
		fmt.Fprintf(&b, "Retry-After: %d\r\n", retryAfter)
	}
	switch r.status {
	case http.StatusUnauthorized:
		b.WriteString("WWW-Authenticate: Bearer\r\n")
	case http.StatusMethodNotAllowed:
		b.WriteString("Allow: GET, HEAD, POST\r\n")
	}
	if h != nil && len(h.req.Header["Origin"]) == 1 && r.status >= http.StatusInternalServerError {
		// A page that may ask may read why not.
		fmt.Fprintf(&b, "Access-Control-Allow-Origin: %s\r\nVary: Origin\r\n", h.req.Header.Get("Origin"))
	}
	b.WriteString("\r\n")
	if h == nil || h.req.Method != http.MethodHead {
		b.Write(body)
		b.WriteByte('\n')
	}
	c.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := c.conn.Write(b.Bytes()); err != nil {
		rst(c.conn)
		return
	}
	c.part(ctx)
}

// part ends a caller that has its answer, and lets it say what it had begun to say: a connection that is closed with
// bytes unread is reset, and a reset can overtake the answer.
func (c *caller) part(ctx context.Context) {
	c.in.forget()
	closeWrite(c.conn)
	limit := time.NewTimer(drainLimit)
	defer limit.Stop()
	select {
	case <-c.in.done:
	case <-limit.C:
	case <-ctx.Done():
	}
	c.conn.Close()
}

// clean makes a text from elsewhere fit for a terminal: no control characters, one line, not too long.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}
