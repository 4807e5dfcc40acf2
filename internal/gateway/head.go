package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Bounds of the head of a request.
const (
	maxHead   = 1 << 20
	maxFields = 1000 // a field costs more memory than its bytes
)

// head is the head of a request.
type head struct {
	raw     []byte        // as the caller sent it
	req     *http.Request // as net/http reads it; its body is not there
	length  int64         // of the body; -1 means chunked
	expect  bool          // the caller waits for 100 Continue before it sends the body
	upgrade bool          // it asks for another protocol
}

// replayable reports whether asking twice is the same as asking once (RFC 9110 §9.2.1), and all of it is still here.
func (h *head) replayable() bool {
	return h.length == 0 && !h.upgrade && (h.req.Method == http.MethodGet || h.req.Method == http.MethodHead)
}

// refusal is why a request is not passed on, and what it is answered.
type refusal struct {
	status     int
	kind, code string // of the error in the body
	message    string
}

func (r *refusal) Error() string { return r.message }

func bad(format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, "invalid_request_error", "bad_request", "this is no request that can be passed on: " + fmt.Sprintf(format, args...)}
}

func tooLarge(why string) *refusal {
	return &refusal{http.StatusRequestHeaderFieldsTooLarge, "invalid_request_error", "head_too_large", "the head of the request is too large: " + why}
}

// headEnd finds the end of the head of a request, byte by byte. It is as strict as RFC 9112 lets a server be: what two
// programs could read in two ways is refused, so that the box never sees a request that nobody checked.
type headEnd struct {
	length int // of the line so far
	lines  int
	blank  int // empty lines before the first
	cr     bool
}

// feed takes what comes. It returns how many bytes belong to the head, and of those how many come before it.
func (e *headEnd) feed(p []byte) (n, before int, done bool, err error) {
	for i, c := range p {
		switch {
		case c == 0:
			return 0, 0, false, bad("a NUL byte in the head")
		case e.cr && c != '\n':
			return 0, 0, false, bad("a carriage return alone in the head")
		case c == '\r':
			if e.cr = true; e.lines == 0 && e.length == 0 {
				before = i + 1
			}
		case c == '\n' && !e.cr:
			return 0, 0, false, bad("a line feed alone in the head")
		case c == '\n':
			e.cr = false
			if e.length > 0 {
				if e.lines++; e.lines > maxFields+1 {
					return 0, 0, false, tooLarge(fmt.Sprintf("more than %d fields", maxFields))
				}
				e.length = 0
				continue
			}
			if e.lines > 0 {
				return i + 1, before, true, nil
			}
			if e.blank++; e.blank > 2 { // RFC 9112 §2.2 lets one pass
				return 0, 0, false, bad("empty lines in place of a request")
			}
			before = i + 1
		case e.length == 0 && (c == ' ' || c == '\t'):
			return 0, 0, false, bad("a line of the head that begins with a blank")
		default:
			e.length++
		}
	}
	return len(p), before, false, nil
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// parseHead reads a whole head. Its error is a *refusal.
func parseHead(raw []byte) (*head, error) {
	lengths, codings, hosts, err := checkLines(raw)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(raw, []byte("\r\n"))
	method, rest, _ := strings.Cut(string(line), " ")
	_, proto, _ := strings.Cut(rest, " ")
	switch {
	case proto != "HTTP/1.1" && proto != "HTTP/1.0":
		return nil, &refusal{http.StatusHTTPVersionNotSupported, "invalid_request_error", "http_version",
			"rlca speaks HTTP/1.1 and HTTP/1.0 here, without TLS: use a base URL that begins with http://"}
	case method == http.MethodConnect:
		return nil, &refusal{http.StatusMethodNotAllowed, "invalid_request_error", "not_a_proxy",
			"this port is no proxy: take it out of HTTP_PROXY and HTTPS_PROXY and use it as a base URL"}
	case lengths > 0 && codings > 0:
		return nil, bad("both Content-Length and Transfer-Encoding")
	case lengths > 1:
		return nil, bad("more than one Content-Length")
	case codings > 1 || codings == 1 && proto == "HTTP/1.0":
		return nil, bad("a Transfer-Encoding that is not plainly chunked")
	case hosts > 1 || hosts == 0 && proto == "HTTP/1.1":
		return nil, bad("%d Host lines", hosts)
	}
	src := bytes.NewReader(raw)
	r := readers.Get().(*bufio.Reader)
	r.Reset(src)
	defer func() {
		r.Reset(nil)
		readers.Put(r)
	}()
	req, err := http.ReadRequest(r)
	if err != nil {
		if in := (*url.Error)(nil); errors.As(err, &in) {
			err = in.Err // the target may have a secret in its query
		}
		return nil, bad("%s", clean(err.Error()))
	}
	if r.Buffered() != 0 || src.Len() != 0 {
		return nil, bad("a head that ends twice")
	}
	h := &head{raw: raw, req: req, length: req.ContentLength}
	req.Body = nil // it would read from what is reused
	h.expect = hasToken(req.Header["Expect"], "100-continue")
	h.upgrade = req.Header.Get("Upgrade") != "" && hasToken(req.Header["Connection"], "upgrade")
	return h, nil
}

// checkLines looks at the field lines as they are, before a parser tidies them, and counts those that say where the
// request ends and whom it is for.
func checkLines(raw []byte) (lengths, codings, hosts int, err error) {
	_, rest, _ := bytes.Cut(raw, []byte("\r\n"))
	for len(rest) > 2 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			return 0, 0, 0, bad("a line of the head that is no field")
		}
		for _, c := range value {
			if c < ' ' && c != '\t' || c == 0x7f {
				return 0, 0, 0, bad("a control character in the field %s", name)
			}
		}
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			lengths++
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			codings++
		case bytes.EqualFold(name, []byte("Host")):
			hosts++
		}
	}
	return lengths, codings, hosts, nil
}

// isToken reports whether b is a token of RFC 9110 §5.6.2, as the name of a field has to be.
func isToken(b []byte) bool {
	for _, c := range b {
		if 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return len(b) > 0
}

// hasToken looks for a word in a list of comma separated lists.
func hasToken(lists []string, word string) bool {
	for _, list := range lists {
		for w := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(w), word) {
				return true
			}
		}
	}
	return false
}

// reply is the head of an answer.
type reply struct {
	status  int
	length  int64 // of the body; -1 means chunked, -2 until the connection ends
	close   bool  // the engine will not take another request
	kind    string
	encoded bool // the body is compressed
}

// errGarbage is the far side's: what it says is no answer to a request.
var errGarbage = errors.New("what answers there does not speak HTTP")

// replyEnd is the length of the head of an answer, or 0 if it has not all come. It is as lenient as net/http's client:
// what the engine says is passed on as it is.
func replyEnd(b []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		from += i + 1
		switch rest := b[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// parseReply reads a whole head of an answer to a request of that method. Its error wraps errGarbage.
func parseReply(raw []byte, method string) (*reply, error) {
	src := bytes.NewReader(raw)
	r := readers.Get().(*bufio.Reader)
	r.Reset(src)
	defer func() {
		r.Reset(nil)
		readers.Put(r)
	}()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", errGarbage, clean(err.Error()))
	}
	if r.Buffered() != 0 || src.Len() != 0 || resp.ProtoMajor != 1 || resp.StatusCode < 100 {
		return nil, fmt.Errorf("%w: a head that cannot be read", errGarbage)
	}
	if resp.TransferEncoding != nil && countReplyLengths(raw) > 0 {
		return nil, fmt.Errorf("%w: both Content-Length and Transfer-Encoding", errGarbage)
	}
	p := &reply{status: resp.StatusCode, length: resp.ContentLength, close: resp.Close}
	p.kind, _, _ = strings.Cut(resp.Header.Get("Content-Type"), ";")
	p.kind = strings.ToLower(strings.TrimSpace(p.kind))
	p.encoded = resp.Header.Get("Content-Encoding") != ""
	switch {
	case method == http.MethodHead || p.status < 200 || p.status == http.StatusNoContent || p.status == http.StatusNotModified:
		p.length = 0
	case resp.TransferEncoding != nil:
		p.length = -1
	case p.length < 0:
		p.length, p.close = -2, true
	}
	return p, nil
}

func countReplyLengths(raw []byte) (n int) {
	for line := range bytes.Lines(raw) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(bytes.TrimSpace(name), []byte("Content-Length")) {
			n++
		}
	}
	return n
}
