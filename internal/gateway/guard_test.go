package gateway

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// headOf reads the head of a request, which has to be well formed.
func headOf(t *testing.T, raw string) *head {
	t.Helper()
	h, err := parseHead([]byte(raw))
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return h
}

func TestGuard(t *testing.T) {
	t.Parallel()
	g := &Gateway{Hosts: []string{"host.docker.internal", "box.lan:8080"}, Origins: []string{"https://ui.example:8443/"}}
	for fields, want := range map[string]string{
		"Host: 127.0.0.1":                  "",
		"Host: 127.0.0.1:11434":            "",
		"Host: 127.8.9.1:1":                "",
		"Host: localhost:11434":            "",
		"Host: LOCALHOST":                  "",
		"Host: [::1]":                      "",
		"Host: [::1]:11434":                "",
		"Host: [::ffff:127.0.0.1]":         "",
		"Host: host.docker.internal":       "",
		"Host: host.docker.internal:11434": "",
		"Host: box.lan:8080":               "",
		"Host: box.lan:8081":               "host_not_allowed",
		"Host: evil.example":               "host_not_allowed",
		"Host: evil.example:11434":         "host_not_allowed",
		"Host: 127.0.0.1.evil.example":     "host_not_allowed",
		"Host: localhost.evil.example":     "host_not_allowed",
		"Host: 192.168.1.5:11434":          "host_not_allowed",
		"Host: 0.0.0.0:11434":              "host_not_allowed",
		"Host: [::]:11434":                 "host_not_allowed",
		"Host: ::1":                        "host_not_allowed",
		"Host: [127.0.0.1]":                "host_not_allowed",
		"Host: [::1%25lo]":                 "host_not_allowed",
		"Host: 127.0.0.1:":                 "host_not_allowed",
		"Host: 127.0.0.1:x":                "host_not_allowed",
		"Host: 127.0.0.1:99999":            "host_not_allowed",
		"Host: 127.0.0.1:80:80":            "host_not_allowed",
		"Host: evil.example@127.0.0.1":     "host_not_allowed",
		"Host: 127.0.0.1@evil.example":     "host_not_allowed",
		"Host: 127.0.0.1, evil.example":    "host_not_allowed",
		"Host: 2130706433":                 "host_not_allowed",
		"Host: [0:0:0:0:0:0:0:1]:1":        "",
		"Host: [::FFFF:7F00:1]":            "",
		"Host: localhost.":                 "host_not_allowed",
		"Host: 127.0.0.1.":                 "host_not_allowed",
		"Host: 127.0.0.1.:11434":           "host_not_allowed",
		"Host: evil.localhost":             "host_not_allowed",
		"Host: localhost.localdomain":      "host_not_allowed",
		"Host: localho\u017ft":             "host_not_allowed", // a long s, which is an s when case is ignored
		"Host: \u00a0localhost":            "host_not_allowed",
		"Host: 127.1":                      "host_not_allowed",
		"Host: 0":                          "host_not_allowed",
		"Host: 0177.0.0.1":                 "host_not_allowed",
		"Host: 0x7f.0.0.1":                 "host_not_allowed",
		"Host: [::127.0.0.1]":              "host_not_allowed",
		"Host: [::1":                       "host_not_allowed",
		"Host: ::1]":                       "host_not_allowed",
		"Host: [::1]:":                     "host_not_allowed",
		"Host: [::1].evil.example":         "host_not_allowed",
		"Host: [::1]evil.example:80":       "host_not_allowed",
		"Host: evil.example[::1]":          "host_not_allowed",
		"Host: 127.0.0.1:+80":              "host_not_allowed",
		"Host: 127.0.0.1:-1":               "host_not_allowed",
		"Host: 127.0.0.1:80/evil.example":  "host_not_allowed",
		"Host: 127.0.0.1/evil.example":     "host_not_allowed",
		"Host: 127.0.0.1#.evil.example":    "host_not_allowed",
		"Host: 127.0.0.1?.evil.example":    "host_not_allowed",
		"Host: 127.0.0.1\\.evil.example":   "host_not_allowed",
		"Host: 127.0.0.1 evil.example":     "host_not_allowed",
		"Host: http://127.0.0.1":           "host_not_allowed",
		"Host:":                            "host_not_allowed",

		"Host: localhost\r\nOrigin: http://localhost:3000":                                "",
		"Host: localhost\r\nOrigin: https://127.0.0.1":                                    "",
		"Host: localhost\r\nOrigin: http://[::1]:8080":                                    "",
		"Host: localhost\r\nOrigin: https://ui.example:8443":                              "",
		"Host: localhost\r\nOrigin: vscode-webview://1a2b3c":                              "",
		"Host: localhost\r\nOrigin: tauri://localhost":                                    "",
		"Host: localhost\r\nOrigin: https://ui.example":                                   "origin_not_allowed",
		"Host: localhost\r\nOrigin: https://evil.example":                                 "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost.evil.example":                        "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost@evil.example":                        "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://192.168.1.5":                                   "origin_not_allowed",
		"Host: localhost\r\nOrigin: null":                                                 "origin_not_allowed",
		"Host: localhost\r\nOrigin:":                                                      "origin_not_allowed",
		"Host: localhost\r\nOrigin: chrome-extension://abc":                               "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://e.example":         "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost.":                                    "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://evil.localhost":                                "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localho\u017ft":                                "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://0.0.0.0:11434":                                 "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://127.0.0.1.evil.example":                        "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://user@localhost":                                "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost http://e.example":                    "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost, http://e.example":                   "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://localhost\\@e.example":                         "origin_not_allowed",
		"Host: localhost\r\nOrigin: http://[::1%25lo]":                                    "origin_not_allowed",
		"Host: localhost\r\nOrigin: localhost":                                            "origin_not_allowed",
		"Host: localhost\r\nOrigin: file://":                                              "origin_not_allowed",
		"Host: localhost\r\nOrigin: null\r\nOrigin: http://localhost":                     "origin_not_allowed",
		"Host: localhost\r\nOrigin: null\r\nSec-Fetch-Site: same-origin":                  "origin_not_allowed",
		"Host: localhost\r\nSec-Fetch-Site: cross-site":                                   "origin_not_allowed",
		"Host: localhost\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site":    "origin_not_allowed",
		"Host: localhost\r\nSec-Fetch-Site: none":                                         "",
		"Host: localhost\r\nSec-Fetch-Site: same-site":                                    "",
		"Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://localhost:3000":  "", // one machine, two names
		"Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nOrigin: http://evil.example:80": "origin_not_allowed",
	} {
		got := ""
		if no := g.guard(headOf(t, "GET /v1/models HTTP/1.1\r\n"+fields+"\r\n\r\n")); no != nil {
			got = no.code
		}
		if got != want {
			t.Errorf("%q: %q, want %q", fields, got, want)
		}
	}
	for target, want := range map[string]string{
		"http://127.0.0.1:11434/v1/models": "",
		"http://evil.example/v1/models":    "host_not_allowed",
		"https://127.0.0.1/":               "host_not_allowed",
		"http://127.0.0.1@evil.example/":   "host_not_allowed",
		"ftp://localhost/":                 "host_not_allowed",
		"//evil.example/":                  "",
		"*":                                "",
		"http://localhost.evil.example/":   "host_not_allowed",
		"http://127.0.0.1:80@evil.example": "host_not_allowed",
		"HTTP://EVIL.EXAMPLE/":             "host_not_allowed",
		"http://0.0.0.0:11434/":            "host_not_allowed",
		"http://[::]/":                     "host_not_allowed",
		"http://[::1]:11434/":              "",
		"ws://localhost/":                  "host_not_allowed",
		"mailto:evil.example":              "host_not_allowed",
	} {
		got := ""
		if no := g.guard(headOf(t, "GET "+target+" HTTP/1.1\r\nHost: localhost\r\n\r\n")); no != nil {
			got = no.code
		}
		if got != want {
			t.Errorf("target %q: %q, want %q", target, got, want)
		}
	}
	if no := g.guard(headOf(t, "GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")); no == nil {
		t.Error("a host that the target hides is let through")
	}
	if no := g.guard(headOf(t, "GET http://evil.example/ HTTP/1.0\r\n\r\n")); no == nil {
		t.Error("a foreign target of HTTP/1.0 is let through")
	}
	if no := g.guard(headOf(t, "GET / HTTP/1.0\r\n\r\n")); no != nil {
		t.Errorf("HTTP/1.0 without a Host: %v", no)
	}
}

// TestPreflight: a page from elsewhere is told no before it asks, and one of this machine is left to the engine.
func TestPreflight(t *testing.T) {
	t.Parallel()
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 204 No Content\r\nAccess-Control-Allow-Origin: *\r\n\r\n")
		}
	})
	addr := served(t, &Gateway{Dial: e.Dial, Token: "secret", InferenceOnly: true})
	for origin, want := range map[string]int{"https://evil.example": 403, "http://localhost:3000": 204} {
		c := call(t, addr)
		send(t, c, "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nOrigin: "+origin+"\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n\r\n")
		resp, body := readAnswer(t, bufio.NewReader(c), "OPTIONS")
		if resp.StatusCode != want {
			t.Errorf("from %s answered %d %s, want %d", origin, resp.StatusCode, body, want)
		}
		if want == 403 && (resp.Header.Get("Access-Control-Allow-Origin") != "" || !strings.Contains(body, "evil.example")) {
			t.Errorf("answered %v %s", resp.Header, body)
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	g := &Gateway{Token: "s3cret"}
	const begin, end = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n", "Accept: */*\r\nContent-Length: 0\r\n\r\n"
	for fields, want := range map[string]string{
		"Authorization: Bearer s3cret\r\n":                               "",
		"authorization:bearer  s3cret \r\n":                              "",
		"x-api-key: s3cret\r\n":                                          "",
		"X-Api-Key: s3cret\r\nAuthorization: Bearer the-engines-own\r\n": "Authorization: Bearer the-engines-own\r\n",
		"X-Api-Key: s3cret\r\nAuthorization: Bearer s3cret\r\n":          "",
		"":                                  "refused",
		"Authorization: Bearer s3cre\r\n":   "refused",
		"Authorization: Bearer s3cret2\r\n": "refused",
		"Authorization: s3cret\r\n":         "refused",
		"Authorization: Basic s3cret\r\n":   "refused",
		"x-api-key:\r\n":                    "refused",
		"Cookie: x-api-key=s3cret\r\n":      "refused",
		"AUTHORIZATION: BEARER s3cret\r\n":  "",
		"Authorization: Bearer wrong\r\nAuthorization: Bearer s3cret\r\n": "Authorization: Bearer wrong\r\n",
		"Authorization: Bearer s3cret\r\nAuthorization: Bearer wrong\r\n": "Authorization: Bearer wrong\r\n",
		"x-api-key: s3cret\r\nx-api-key: s3cret\r\n":                      "",
		"Authorization: Bearer S3CRET\r\n":                                "refused",
		"Authorization: Bearer\r\n":                                       "refused",
		"Authorization: Bearer s3cret, Bearer wrong\r\n":                  "refused",
		"Authorization: Bearer wrong s3cret\r\n":                          "refused",
		"Authorization: Token s3cret\r\n":                                 "refused",
		"Proxy-Authorization: Bearer s3cret\r\n":                          "refused",
		"x-api-key: Bearer s3cret\r\n":                                    "refused",
		"x-api-key: wrong, s3cret\r\n":                                    "refused",
		"x-api-keys: s3cret\r\n":                                          "refused",
	} {
		h := headOf(t, begin+fields+end)
		no := g.guard(h)
		switch {
		case (no != nil) != (want == "refused"):
			t.Errorf("%q: %v, want %q", fields, no, want)
		case no != nil && (no.status != 401 || strings.Contains(no.message, "s3cret")):
			t.Errorf("%q: %d %s", fields, no.status, no.message)
		case no == nil && string(h.raw) != begin+want+end:
			t.Errorf("%q: passed on is %q", fields, h.raw)
		}
	}
	for _, target := range []string{"/?token=s3cret", "/?x-api-key=s3cret", "/?Authorization=Bearer%20s3cret", "http://Bearer:s3cret@localhost/", "/s3cret"} {
		if no := g.guard(headOf(t, "GET "+target+" HTTP/1.1\r\nHost: localhost\r\n\r\n")); no == nil || no.status != 401 {
			t.Errorf("target %s: %v, want 401", target, no)
		}
	}
	h := headOf(t, begin+"Authorization: Bearer x\r\n"+end)
	if no := (&Gateway{}).guard(h); no != nil || !bytes.Contains(h.raw, []byte("Bearer x")) {
		t.Errorf("without a token: %v, %q", no, h.raw)
	}
}

func TestInferenceOnly(t *testing.T) {
	t.Parallel()
	g := &Gateway{InferenceOnly: true}
	for request, want := range map[string]bool{
		"POST /v1/chat/completions": true, "POST /v1/messages?beta=true": true, "POST /v1/responses": true, "GET /v1/models": true,
		"POST /v1/messages/count_tokens": true, "GET /v1/models/Qwen%2FQwen3-Coder": true, "POST /v1/embeddings": true, "GET /v1/responses": true,
		"POST /api/chat": true, "POST /api/generate": true, "POST /api/embed": true, "POST /api/embeddings": true, "POST /api/show": true,
		"GET /api/tags": true, "GET /api/ps": true, "GET /api/version": true, "GET /health": true, "GET /props": true, "GET /metrics": true,
		"HEAD /": true, "GET /": true, "HEAD /api/hello": true, "POST /tokenize": true,

		"POST /api/pull": false, "POST /api/push": false, "POST /api/create": false, "DELETE /api/delete": false, "POST /api/copy": false,
		"POST /api/blobs/sha256:1": false, "HEAD /api/blobs/sha256:1": false, "POST /props": false, "POST /slots/0": false, "POST /models/load": false,
		"POST /v1/load_lora_adapter": false, "DELETE /v1/models/x": false, "DELETE /v1/responses/x": false, "POST /sleep": false, "GET /docs": false,
		"POST /v1/../api/pull": false, "POST /v1/%2e%2e/api/pull": false, "POST /v1/%252e%252e/api/pull": false, "POST //api/chat": false,
		"POST /v1/..%2fapi/pull": false, "POST /v1/..%5capi/pull": false, "POST /v1/;/../api/pull": false, "POST /API/CHAT": false, "OPTIONS *": false,
		"GET /api/chat": false, "POST /v1/models": false,
		// vLLM's server cuts a target at #, and its router takes a line feed at the end for nothing.
		"POST /v1/load_lora_adapter#": false, "POST /v1/load_lora_adapter#/x": false, "POST /v1/load_lora_adapter%23": false,
		"POST /v1/load_lora_adapter%0A": false, "POST /v1/load_lora_adapter%0d%0a": false, "POST /v1/load_lora_adapter%00": false,
		"POST /v1/load_lora_adapter%3F": false, "POST /v1/%6coad_lora_adapter": false, "POST /v1/load_lora_adapter/": false,
		"POST /v1/./load_lora_adapter": false, "POST /v1//load_lora_adapter": false, "POST /v1/x/../load_lora_adapter": false,
		"POST http://localhost/v1/load_lora_adapter": false, "POST http://localhost/api/pull": false, "POST http://localhost/api/chat": true,
		"POST http:/api/pull": false, "POST http:api/pull": false, "POST http://localhost": false, "POST /v1": false, "POST /v1/": false,
		"POST /V1/chat/completions": false, "POST /v1/chat/completions/": false, "POST /api/chat/": false, "POST /api/chat?/../pull": true,
		"POST /api/pull?/api/chat": false, "POST /api/chat%2f..%2fpull": false, "POST /api%2Fpull": false, "post /v1/chat/completions": false,
		"PUT /v1/chat/completions": false, "PATCH /v1/models/x": false, "OPTIONS /api/pull": false, "POST /api/tags": false, "TRACE /": false,
	} {
		if no := g.guard(headOf(t, request+" HTTP/1.1\r\nHost: localhost\r\n\r\n")); (no == nil) != want {
			t.Errorf("%s: %v, want let through: %v", request, no, want)
		}
	}
	for upgrade, want := range map[string]bool{"websocket": true, "WebSocket": true, "h2c": false, "h2c, websocket": false, "websocket\r\nUpgrade: h2c": false} {
		if no := g.guard(headOf(t, "GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: "+upgrade+"\r\n\r\n")); (no == nil) != want {
			t.Errorf("an upgrade to %q: %v, want let through: %v", upgrade, no, want)
		}
	}
}

// TestGuardLive: the answer of the guard is an answer, also to who has much to send, and the engine hears nothing.
func TestGuardLive(t *testing.T) {
	t.Parallel()
	g := &Gateway{InferenceOnly: true, Dial: func(context.Context, net.Addr) (net.Conn, error) { t.Error("dialed"); return nil, errDown }}
	addr := served(t, g)
	for request, want := range map[string]string{
		strings.Replace(post("/v1/chat/completions", strings.Repeat("x", 4<<20)), "127.0.0.1", "evil.example", 1): `requests for the host \"evil.example:11434\" are not answered here: use the base URL http://127.0.0.1`,
		post("/api/pull", `{"model":"x"}`): `POST \"/api/pull\" is not let through: this port is for inference only`,
	} {
		c := call(t, addr)
		go io.WriteString(c, request)
		resp, body := readAnswer(t, bufio.NewReader(c), "POST")
		if resp.StatusCode != 403 || !strings.Contains(body, want) || !resp.Close {
			t.Errorf("answered %d %s, want 403 %s", resp.StatusCode, body, want)
		}
	}
	if s := g.Stats(); s.Refused != 2 {
		t.Errorf("counted %+v, want 2 refused", s)
	}
}

// TestGuardEachRequest: what the first request of a caller had does not count for those behind it.
func TestGuardEachRequest(t *testing.T) {
	t.Parallel()
	const ok = "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nx-api-key: s3cret\r\nContent-Length: 2\r\n\r\n{}"
	for name, test := range map[string]struct {
		second string
		want   int
	}{
		"no token":      {post("/v1/messages", "{}"), 401},
		"other path":    {strings.Replace(ok, "/v1/messages", "/api/pull", 1), 403},
		"other host":    {strings.Replace(ok, "localhost", "evil.example", 1), 403},
		"from a page":   {strings.Replace(ok, "Host", "Origin: https://evil.example\r\nHost", 1), 403},
		"not a request": {"x" + ok[1:16] + "\n\n" + ok, 400},
		"two lengths":   {strings.Replace(ok, "Host", "Content-Length: 2\r\nHost", 1), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			heard := make(chan string, 1)
			e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
				var all bytes.Buffer
				serveHTTP(c, bufio.NewReader(io.TeeReader(r, &all)))
				heard <- all.String()
			})
			c := call(t, served(t, &Gateway{Dial: e.Dial, Token: "s3cret", InferenceOnly: true}))
			send(t, c, ok+test.second)
			r := bufio.NewReader(c)
			if resp, body := readAnswer(t, r, "POST"); resp.StatusCode != 200 || body != "POST /v1/messages 2 {}" {
				t.Errorf("the first is answered %d %s", resp.StatusCode, body)
			}
			if resp, body := readAnswer(t, r, "POST"); resp.StatusCode != test.want || !resp.Close {
				t.Errorf("the second is answered %d %s, want %d", resp.StatusCode, body, test.want)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("after that %v, want an end", err)
			}
			c.Close()
			if got, want := <-heard, strings.Replace(ok, "x-api-key: s3cret\r\n", "", 1); got != want {
				t.Errorf("the engine heard %q, want %q", got, want)
			}
		})
	}
}
