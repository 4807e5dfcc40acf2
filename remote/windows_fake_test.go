package remote

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
)

// windowsBodies are the scripts by their names.
var windowsBodies = map[string]string{
	"facts": windowsFacts, "launch": windowsLaunch, "alive": windowsAlive, "log": windowsLog, "disk": windowsDisk, "remember": windowsRemember,
	"forget-copy": windowsForget, "tasks": windowsTasks, "kill": windowsKill, "forget": windowsForgetRecord, "memory": windowsMemory, "settle": windowsSettle,
}

// windowsBox is a box that runs Windows, made up: it knows the scripts by their names and does what they would.
type windowsBox struct {
	t *testing.T

	path, how, mode string
	denied          bool                     // CIM is for administrators
	netstat         bool                     // Get-NetTCPConnection says nothing
	refuses         string                   // what it prints instead of running scripts
	garble          func(out []byte) []byte  // what becomes of each output
	after           func(name string) error  // how a script ends that has done its work: a link may be lost then
	born            func(b *windowsBox) bool // what becomes of a server that is started; false is that it dies
	disk            map[string]string        // manifests and blobs of the models folder, by path

	mu      sync.Mutex // guards what follows
	next    int        // process number
	clock   int64      // milliseconds
	all     []task
	ports   map[string]windowsPort // by address of the box
	rec     map[string]any         // ollama.json
	log     []string
	derived []string
	deaf    map[int]bool // processes that do not end
	ran     []string     // names of scripts
	env     map[string]string
}

// windowsPort is a listener of the box.
type windowsPort struct {
	pid  int
	real string // where it listens in this process
}

func newWindowsBox(t *testing.T) *windowsBox {
	return &windowsBox{t: t, path: `C:\Users\Ann O'Neil\AppData\Local\Programs\Ollama\ollama.exe`, next: 100, clock: 63_000_000_000_000, ports: map[string]windowsPort{}, deaf: map[int]bool{}}
}

// engine drives its Ollama.
func (b *windowsBox) engine(address string) *Ollama {
	o := NewOllama(b.box(), address)
	o.poll, o.limit = 10*time.Millisecond, 5*time.Second
	return o
}

func (b *windowsBox) box() Box {
	return Box{Log: testLog(b.t), PowerShell: b.run, Dial: b.dial, Run: func(context.Context, string) ([]byte, error) {
		b.t.Error("a shell's script was sent to a Windows box")
		return nil, errors.New("'exec' is not recognized as an internal or external command")
	}}
}

func (b *windowsBox) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	b.mu.Lock()
	p, ok := b.ports[addr]
	if _, port, _ := net.SplitHostPort(addr); !ok {
		p, ok = b.ports["0.0.0.0:"+port]
	}
	b.mu.Unlock()
	if !ok {
		return nil, errors.New("connection refused")
	}
	return new(net.Dialer).DialContext(ctx, network, p.real)
}

// spawn makes a process.
func (b *windowsBox) spawn(parent int, name, words string) int {
	b.next++
	b.clock += 10
	b.all = append(b.all, task{pid: b.next, parent: parent, born: b.clock, bytes: 1 << 30, name: name, words: words})
	return b.next
}

// listen has a process serve on an address of the box.
func (b *windowsBox) listen(addr string, pid int, h http.Handler) {
	s := httptest.NewServer(h)
	b.t.Cleanup(s.Close)
	b.ports[addr] = windowsPort{pid, strings.TrimPrefix(s.URL, "http://")}
}

// app is a desktop app that serves f.
func (b *windowsBox) app(addr string, f http.Handler) {
	b.how = "Windows desktop app"
	b.listen(addr, b.spawn(b.spawn(1, "ollama_app.exe", "ollama app.exe"), "ollama.exe", `"C:\ollama.exe" serve`), f)
}

func (b *windowsBox) find(pid int) *task {
	if i := slices.IndexFunc(b.all, func(p task) bool { return p.pid == pid }); i >= 0 {
		return &b.all[i]
	}
	return nil
}

// end is the end of a process. A shell ends with the program that it waits for.
func (b *windowsBox) end(pid int) {
	p := b.find(pid)
	if p == nil || b.deaf[pid] {
		return
	}
	parent := p.parent
	b.all = slices.DeleteFunc(b.all, func(q task) bool { return q.pid == pid })
	for addr, port := range b.ports {
		if port.pid == pid {
			delete(b.ports, addr)
		}
	}
	if up := b.find(parent); up != nil && up.name == "cmd.exe" {
		b.end(parent)
	}
}

func (b *windowsBox) alive() bool {
	if b.rec == nil {
		return false
	}
	p := b.find(int(b.rec["pid"].(float64)))
	return p != nil && strconv.FormatInt(p.born, 10) == b.rec["born"]
}

func (b *windowsBox) count(script string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.ran {
		if s == script {
			n++
		}
	}
	return n
}

var (
	firstLine  = regexp.MustCompile(`^# rlca ([a-z-]+)\n\$tag='(rlca[0-9a-f]{24})'\n`)
	wordsParts = regexp.MustCompile(`FromBase64String\('([A-Za-z0-9+/]*=*)'\)`)
)

// run is Box.PowerShell.
func (b *windowsBox) run(ctx context.Context, script string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	first, words := firstLine.FindStringSubmatch(script), wordsParts.FindStringSubmatch(script)
	if first == nil || words == nil {
		b.t.Errorf("not a script of ours: %.300s", script)
		return nil, errors.New("no script")
	}
	name, tag := first[1], first[2]
	// All but the words is constant: no word of a user is in the code.
	if want := fmt.Sprintf(windowsPrelude, name, tag, words[1]) + windowsBodies[name] + windowsEnd; script != want || windowsBodies[name] == "" {
		b.t.Errorf("script %s is not its own text: %s", name, script)
	}
	if n := len(script)*2*4/3 + 60; n > 8000 {
		b.t.Errorf("the command of %s has %d characters", name, n)
	}
	text, err := base64.StdEncoding.DecodeString(words[1])
	var a map[string]any
	if err != nil || json.Unmarshal(text, &a) != nil {
		b.t.Errorf("the words of %s are no JSON: %q", name, text)
	}
	b.ran = append(b.ran, name)
	var out strings.Builder
	raw := func(s string) { out.WriteString(s) }
	say := func(k string, v any) { fmt.Fprintf(&out, "\n%s %s=%v\n", tag, k, v) }
	switch {
	case b.refuses != "":
		return []byte(b.refuses), errors.New("it ended with 1")
	case b.mode != "":
		return []byte("\r\n\r\n" + tag + " mode=" + b.mode + "\r\n\r\n"), nil
	}
	say("begin", 1)
	if err := b.do(name, a, say, raw, tag); err != nil {
		say("error", err)
		if errors.Is(err, errCIM) {
			say("code", "AccessDenied")
		}
	}
	said := []byte(out.String())
	if b.after != nil {
		if err := b.after(name); err != nil {
			return said, err
		}
	}
	said = append(said, "\n"+tag+" end=1\n"...)
	if b.garble != nil {
		said = b.garble(said)
	}
	return said, nil
}

// cimError is what CIM says to an account without rights.
type cimError struct{}

func (cimError) Error() string { return "Access denied " }

var errCIM cimError

func (b *windowsBox) do(name string, a map[string]any, say func(string, any), raw func(string), tag string) error {
	text := func(key string) string { s, _ := a[key].(string); return s }
	record := func(keys ...string) {
		for _, k := range keys {
			if b.rec != nil {
				say(k, b.rec[k])
			}
		}
	}
	switch name {
	case "facts":
		say("home", `C:\Users\Ann O'Neil`)
		say("path", b.path)
		say("models", "")
		if b.how != "" {
			say("how", b.how)
		}
		record("pid", "mark", "address")
		if b.alive() {
			say("alive", 1)
		}
		for _, l := range b.derived {
			say("derived", l)
		}
		kind := "net"
		if b.netstat {
			kind = "netstat"
		}
		say("listeners", kind)
		for addr, p := range b.ports {
			host, port, _ := net.SplitHostPort(addr)
			if b.netstat && strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			say("listen", fmt.Sprintf("%s %s %d %s", host, port, p.pid, strings.TrimSuffix(b.find(p.pid).name, ".exe")))
		}
	case "launch":
		return b.launch(a, say, record)
	case "alive":
		if b.alive() && b.rec["mark"] == a["mark"] {
			say("alive", 1)
			return nil
		}
		if from := a["from"].(float64); from >= 0 {
			for _, l := range b.log {
				say("log", l)
			}
		}
	case "log":
		for _, l := range b.log {
			say("log", l)
		}
	case "disk":
		for k, d := range a["dirs"].([]any) {
			if d != `C:\Users\Ann O'Neil\.ollama\models` || b.disk == nil {
				continue
			}
			say(fmt.Sprintf("dir%d", k+1), d)
			i := 0
			for path, manifest := range b.disk {
				i++
				say("file", fmt.Sprintf("%d %d %s", k+1, i, path))
				raw(fmt.Sprintf("\n%s raw:m%d.%d=*\n%s\n", tag, k+1, i, base64.StdEncoding.EncodeToString([]byte(manifest))))
				raw(fmt.Sprintf("\n%s raw:c%d.%d=*\n%s\n", tag, k+1, i, base64.StdEncoding.EncodeToString([]byte(`{"file_type":"Q4_K_M","model_family":"llama"}`))))
			}
		}
	case "remember":
		if !slices.Contains(b.derived, text("line")) {
			b.derived = append(b.derived, text("line"))
		}
	case "forget-copy":
		b.derived = slices.DeleteFunc(b.derived, func(l string) bool { return l == text("line") })
	case "tasks":
		record("pid", "born", "mark", "address")
		if b.rec == nil && text("mark") == "" && a["any"] != true {
			return nil
		}
		if b.denied {
			return errCIM
		}
		say("task", "0 0 0 8192 System_Idle_Process ")
		say("task", "4 0 0 8192 System ")
		for _, p := range b.all {
			say("task", fmt.Sprintf("%d %d %d %d %s %s", p.pid, p.parent, p.born, p.bytes, p.name, p.words))
		}
	case "kill":
		for _, q := range a["list"].([]any) {
			q := q.(map[string]any)
			pid := int(q["pid"].(float64))
			if p := b.find(pid); p != nil && strconv.FormatInt(p.born, 10) == q["born"] {
				if b.deaf[pid] {
					say("failed", fmt.Sprintf("%d: Access is denied", pid))
				}
				b.end(pid)
			}
		}
	case "forget":
		if b.rec == nil || text("mark") == "" || b.rec["mark"] == a["mark"] {
			b.rec = nil
			if a["files"] != nil {
				b.log = nil
			}
		}
	case "settle":
		if b.rec != nil && b.rec["mark"] == a["mark"] {
			b.rec["pid"], b.rec["born"] = a["pid"], a["born"]
		}
	case "memory":
		held := int64(0)
		for _, p := range b.all {
			held += p.bytes
		}
		say("available", (64<<30-held)>>10)
	}
	return nil
}

// launch is what windowsLaunch does.
func (b *windowsBox) launch(a map[string]any, say func(string, any), record func(...string)) error {
	if b.rec != nil {
		if b.alive() {
			record("pid", "mark", "address")
		} else {
			say("stale", 1)
		}
		return nil
	}
	say("logfrom", 0)
	if b.denied {
		return errCIM
	}
	b.env = map[string]string{}
	for _, e := range a["env"].([]any) {
		k, v, _ := strings.Cut(e.(string), "=")
		b.env[k] = v
	}
	mark := a["mark"].(string)
	b.env["RLCA_OWNER"] = mark
	shell := b.spawn(1, "cmd.exe", `cmd.exe /d /s /c "set RLCA_OWNER=`+mark+`&"%RLCA_EXE%" serve >>"%RLCA_LOG%" 2>&1"`)
	pid := b.spawn(shell, "ollama.exe", `"`+a["path"].(string)+`" serve`)
	b.rec = map[string]any{"pid": float64(shell), "born": strconv.FormatInt(b.find(shell).born, 10), "mark": mark, "address": a["address"]}
	b.log = append(b.log, "Listening on "+b.env["OLLAMA_HOST"])
	if b.born != nil && !b.born(b) {
		b.end(pid)
	} else {
		f := newFake("scripted:latest")
		fmt.Sscan(b.env["OLLAMA_CONTEXT_LENGTH"], &f.context)
		if _, open := b.ports[b.env["OLLAMA_HOST"]]; !open {
			b.listen(b.env["OLLAMA_HOST"], pid, f)
		}
		b.spawn(pid, "ollama.exe", `"C:\ollama.exe" runner --model x --port 50123`)
	}
	record("pid", "mark", "address")
	return nil
}

// names are the programs that run, in order.
func (b *windowsBox) names() (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.all {
		list = append(list, p.name)
	}
	return list
}

// wide is text as Windows programs print it that print UTF-16.
func wide(out []byte) []byte {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(strings.ReplaceAll(string(out), "\n", "\r\n"))) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
