package remote

import (
	"bytes"
	"encoding/json"
	"strings"
)

// pullStream reads the lines that Ollama writes during a pull, in pieces of any size, over several attempts.
//
// A layer tells its total and how much of it came; layers come one after another. "completed" is missing while it is
// 0, and may shrink when a part has to be fetched again. Errors come as lines inside a success.
type pullStream struct {
	rest   []byte           // an unfinished line
	layers map[string]layer // by digest
	best   int64            // the most that was ever done: a bar does not go back

	// phase is the last status that is not about a layer: "pulling manifest", "verifying sha256 digest".
	phase string
	// success is true once the model is there.
	success bool
	// failure is the last error line, until something better comes.
	failure string
	// ended is true when the loop on the box has given up; code is the last exit status of its curl.
	ended bool
	code  int
}

type layer struct{ done, total int64 }

// pullLineLimit bounds a line; longer ones are no progress of Ollama's.
const pullLineLimit = 64 << 10

// add reads the next piece.
func (p *pullStream) add(b []byte) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			break
		}
		p.line(line)
		p.rest = rest
	}
	if len(p.rest) > pullLineLimit {
		p.rest = nil
	}
}

// flush reads a last line that has no end.
func (p *pullStream) flush() {
	p.line(p.rest)
	p.rest = nil
}

func (p *pullStream) line(b []byte) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return
	}
	var l struct {
		Status    string          `json:"status"`
		Digest    string          `json:"digest"`
		Total     int64           `json:"total"`
		Completed int64           `json:"completed"`
		Error     json.RawMessage `json:"error"`
		Loop      string          `json:"rlca"`
		Code      int             `json:"code"`
	}
	if json.Unmarshal(b, &l) != nil {
		return
	}
	switch {
	case l.Loop != "":
		p.code = l.Code
		p.ended = l.Loop == "end"
	case len(l.Error) > 0 && string(l.Error) != "null":
		p.failure = errorText(b)
	case l.Status == "success":
		p.success = true
	case l.Digest != "" && l.Total > 0:
		p.failure = ""
		if p.layers == nil {
			p.layers = map[string]layer{}
		}
		if len(p.layers) < 1000 || p.layers[l.Digest].total > 0 {
			p.layers[l.Digest] = layer{min(max(l.Completed, 0), l.Total), l.Total}
		}
		p.phase = ""
	case l.Status != "":
		p.phase = clean(l.Status)
	}
}

// sum is how many bytes of how many have come, over all layers that were told so far.
func (p *pullStream) sum() (done, total int64) {
	for _, l := range p.layers {
		if total+l.total < total {
			return p.best, total // a sum beyond any disk
		}
		done += l.done
		total += l.total
	}
	p.best = max(p.best, done)
	return min(p.best, total), total
}

// endings are the error texts after which another try is of no use, by what they mean. The loop on the box stops at
// them too.
var endings = []struct{ class, text string }{
	{"name", "file does not exist"},
	{"name", "invalid model name"},
	{"name", "invalid model path"},
	{"version", "manifest: 412"},
	{"version", "requires a newer version"},
	{"format", "sharded GGUF"},
	{"format", "requires MLX"},
	{"auth", "unauthorized"},
	{"auth", "access denied"},
	{"auth", "manifest: 401"},
	{"auth", "manifest: 403"},
	{"auth", "realm host"},
	{"space", "no space left"},
	{"space", "not enough space"},
	{"space", "disk quota exceeded"},
	{"permission", "permission denied"},
	{"tls", "insecure protocol http"},
	{"tls", "x509:"},
	{"tls", "first record does not look like a TLS handshake"},
}

// passing are the error texts of a network that is away, which may come back.
var passing = []string{
	"no such host", "connection refused", "connection reset", "i/o timeout", "network is unreachable", "no route to host",
	"max retries exceeded", "server misbehaving", "tls handshake timeout", "context deadline exceeded", "eof", "stalled", "temporary failure",
}

// classify says what an error text means. final means that another try is of no use.
func classify(text string) (class string, final bool) {
	low := strings.ToLower(text)
	for _, e := range endings {
		if strings.Contains(low, strings.ToLower(e.text)) {
			return e.class, true
		}
	}
	for _, w := range passing {
		if strings.Contains(low, w) {
			return "network", false
		}
	}
	return "other", false
}
