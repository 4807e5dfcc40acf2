package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// guard says why a request is not let through; nil lets it. Most engines answer whoever reaches them, so that any page
// in the user's browser could use them, and read the answers by giving its own name the address 127.0.0.1. Such a page
// cannot choose its Origin, its Sec-Fetch-Site or its Host.
func (g *Gateway) guard(h *head) *refusal {
	req := h.req
	// A target in absolute form overrules the Host line (RFC 9112 §3.2.2), and not every server knows that.
	for _, name := range []string{req.Host, hostLine(h.raw)} {
		if name == "" && !req.ProtoAtLeast(1, 1) {
			continue // no browser does that
		}
		if !g.allowsHost(name) {
			return forbidden("host_not_allowed", "requests for the host "+quoted(name)+" are not answered here: use the base URL http://127.0.0.1 with this port")
		}
	}
	if s := req.URL.Scheme; s != "" && s != "http" {
		return forbidden("host_not_allowed", "requests for "+quoted(s+"://")+" are not answered here: this port is no proxy")
	}
	origins := req.Header["Origin"]
	for _, o := range origins {
		if !g.allowsOrigin(o) {
			return forbidden("origin_not_allowed", "web pages from "+quoted(o)+" may not use this model; only those from this machine may")
		}
	}
	// A page of this machine at another name of it is cross-site too; of that one the Origin tells.
	if len(origins) == 0 && slices.Contains(req.Header["Sec-Fetch-Site"], "cross-site") {
		return forbidden("origin_not_allowed", "web pages from elsewhere may not use this model; only those from this machine may")
	}
	preflight := req.Method == http.MethodOptions && len(origins) > 0 && req.Header.Get("Access-Control-Request-Method") != ""
	if g.Token != "" && !preflight && !g.takeToken(h) {
		return &refusal{http.StatusUnauthorized, "authentication_error", "token_missing",
			"this port needs a token, as Authorization: Bearer or x-api-key: rlca env and rlca launch set it"}
	}
	if g.InferenceOnly && !preflight && !inference(req) {
		return forbidden("path_not_allowed", req.Method+" "+quoted(req.URL.Path)+" is not let through: this port is for inference only")
	}
	return nil
}

func forbidden(code, message string) *refusal {
	return &refusal{http.StatusForbidden, "permission_error", code, message}
}

func quoted(s string) string {
	if s = clean(s); len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + "…"
	}
	return strconv.Quote(s)
}

// hostLine is the Host line, which net/http drops where the target names a host.
func hostLine(raw []byte) string {
	for line := range bytes.Lines(raw) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Host")) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// allowsHost takes loopback addresses and their name, with any port or none: a page that gave its own name such an
// address still asks for its own name.
func (g *Gateway) allowsHost(s string) bool {
	host, port := s, ""
	if i := strings.IndexByte(s, ']'); i >= 0 { // an IPv6 address has colons of its own
		host, port = s[:i+1], s[i+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i:]
	}
	if port != "" {
		if _, err := strconv.ParseUint(strings.TrimPrefix(port, ":"), 10, 16); err != nil || port[0] != ':' {
			return false
		}
	}
	if isLoopback(host) {
		return true
	}
	for _, allowed := range g.Hosts {
		if strings.EqualFold(host, allowed) || strings.EqualFold(s, allowed) {
			return true
		}
	}
	return false
}

func isLoopback(host string) bool {
	if strings.ToLower(host) == "localhost" { // EqualFold would take a long s for an s
		return true
	}
	inner, v6 := strings.CutPrefix(host, "[")
	ip, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
	return err == nil && ip.Zone() == "" && ip.Is6() == v6 && strings.HasSuffix(host, "]") == v6 && ip.Unmap().IsLoopback()
}

// appSchemes are of programs that show pages of their own, as Ollama knows them. No page from the web has such an Origin.
var appSchemes = []string{"app", "tauri", "vscode-file", "vscode-webview"}

func (g *Gateway) allowsOrigin(s string) bool {
	for _, allowed := range g.Origins {
		if strings.EqualFold(s, strings.TrimSuffix(allowed, "/")) {
			return true
		}
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "":
		return false
	case u.Scheme == "http" || u.Scheme == "https":
		return isLoopback(strings.TrimSuffix(u.Host, portOf(u)))
	}
	return slices.Contains(appSchemes, u.Scheme)
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return ":" + p
	}
	return ""
}

// takeToken reports whether the request has the token, and takes the lines that carry it out of what is passed on.
func (g *Gateway) takeToken(h *head) (has bool) {
	want := sha256.Sum256([]byte(g.Token))
	kept := make([]byte, 0, len(h.raw))
	for line := range bytes.Lines(h.raw) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		key := bytes.EqualFold(name, []byte("x-api-key"))
		if bytes.EqualFold(name, []byte("Authorization")) {
			scheme, token, ok := bytes.Cut(value, []byte(" "))
			key, value = ok && bytes.EqualFold(scheme, []byte("Bearer")), bytes.TrimSpace(token)
		}
		if got := sha256.Sum256(value); key && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			has = true
			continue
		}
		kept = append(kept, line...)
	}
	h.raw = kept
	return has
}

// What Ollama, vLLM and llama-server have for inference, and what only reads. Under /v1/ are the APIs of OpenAI and
// Anthropic.
var (
	asking = []string{"/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show",
		"/tokenize", "/detokenize", "/apply-template", "/completion", "/completions", "/chat/completions", "/infill",
		"/embedding", "/embeddings", "/rerank", "/reranking"}
	reading = []string{"/", "/health", "/ping", "/version", "/props", "/slots", "/metrics", "/models", "/api/tags", "/api/ps",
		"/api/version", "/api/hello", "/v1/models"}
	changing = []string{"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
)

func inference(req *http.Request) bool {
	p := req.URL.Path
	// What an engine might read as another path than we do is not let through: vLLM's ends at a "#", and a line feed at
	// its end is none of it. A model's name may have a slash, as %2F.
	if path.Clean(p) != p || strings.ContainsAny(p, `%\;#?`) || strings.ContainsFunc(p, unicode.IsControl) {
		return false
	}
	if up := req.Header.Values("Upgrade"); len(up) > 0 && !(len(up) == 1 && strings.EqualFold(up[0], "websocket")) {
		return false // whatever came after it, as requests of HTTP/2, would not be looked at
	}
	reads := req.Method == http.MethodGet || req.Method == http.MethodHead
	switch {
	case slices.Contains(changing, p):
		return false
	case slices.Contains(reading, p) || strings.HasPrefix(p, "/v1/models/"):
		return reads
	case strings.HasPrefix(p, "/v1/"):
		return reads || req.Method == http.MethodPost
	}
	return slices.Contains(asking, p) && req.Method == http.MethodPost
}
