package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Dialect is an API in which a program talks to a model.
type Dialect string

// The dialects, by the path to which they post.
const (
	Chat       Dialect = "/v1/chat/completions"
	Responses  Dialect = "/v1/responses"
	Messages   Dialect = "/v1/messages"
	OllamaChat Dialect = "/api/chat"
)

// since says, by an engine's name in small letters, from which version on an engine has a dialect. Empty: always; an engine that is not here, or a dialect
// that is not among its, is not known.
//
// Ollama: its release notes. vLLM: pull requests 20504 (July 2025) and 27882 (November 2025). llama-server: pull
// requests 18486 (January 2026) and 17570 (November 2025); it does not tell its build reliably, so that only asking helps.
var since = map[string]map[Dialect]string{
	"ollama":       {Chat: "", Responses: "0.13.3", Messages: "0.14.0", OllamaChat: ""},
	"vllm":         {Chat: "", Responses: "0.10.0", Messages: "0.11.1"},
	"llama-server": {Chat: "", Responses: "a build of January 2026", Messages: "a build of November 2025"},
}

// never are dialects that an engine will not have.
var never = map[string][]Dialect{"vllm": {OllamaChat}, "llama-server": {OllamaChat}}

// DialectError says that an engine does not speak what a program speaks.
type DialectError struct {
	Title   string // of the program
	Dialect Dialect
	Engine  string
	Version string // may be empty
	// Since is the first version that has it, empty if none is known; Never says that none will have it.
	Since string
	Never bool
	// Others are tools that speak what every engine speaks.
	Others []string
}

func (e *DialectError) Error() string {
	engine := strings.TrimSpace(e.Engine + " " + e.Version)
	if engine == "" {
		engine = "what answers at the port"
	}
	return fmt.Sprintf("%s speaks %s, and %s does not have it", e.Title, e.Dialect, engine)
}

// Speaks says whether an engine of a version has the tool's dialect, as far as its version tells: known is false where
// only asking helps.
func (t *Tool) Speaks(engine, version string) (ok, known bool) {
	engine = strings.ToLower(engine)
	if slices.Contains(never[engine], t.Dialect) {
		return false, true
	}
	from, listed := since[engine][t.Dialect]
	switch {
	case !listed:
		return false, false
	case from == "":
		return true, true
	}
	have, need := parseVersion(version), parseVersion(from)
	if have == nil || need == nil || slices.Max(have) == 0 { // 0.0.0 is a build of one's own
		return false, false
	}
	return slices.Compare(have, need) >= 0, true
}

// Lacks is the error for an engine that does not have the tool's dialect.
func (t *Tool) Lacks(engine, version string) *DialectError {
	key := strings.ToLower(engine)
	e := &DialectError{Title: t.Title, Dialect: t.Dialect, Engine: engine, Version: version, Since: since[key][t.Dialect]}
	e.Never = slices.Contains(never[key], t.Dialect)
	for i := range tools {
		if o := &tools[i]; o.Dialect == Chat && !o.Generic() {
			e.Others = append(e.Others, o.Name)
		}
	}
	return e
}

// parseVersion reads the numbers of a version, nil if it begins with none. What follows them is left out.
func parseVersion(s string) []int {
	s = strings.TrimPrefix(strings.TrimSpace(s), "v")
	var out []int
	for _, f := range strings.SplitN(s, ".", 4) {
		end := 0
		for end < len(f) && f[end] >= '0' && f[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(f[:end])
		if err != nil {
			break
		}
		out = append(out, n)
		if end < len(f) {
			break
		}
	}
	return out
}

// askLimit is how long asking an engine for a dialect may take. While the link is down nobody answers.
const askLimit = 3 * time.Second

// Ask asks the endpoint whether it has the tool's dialect, with a request that no engine can take for one: half a
// JSON object. Where nobody answers in time it is an error, and not known.
func (t *Tool) Ask(ctx context.Context, e Endpoint) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.base()+string(t.Dialect), strings.NewReader("{"))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+e.key())
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: the port is here
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return false, nil
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return false, fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return true, nil
}
