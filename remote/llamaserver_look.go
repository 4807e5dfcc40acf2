package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
)

const llamaScript = `
say home "$HOME"
say path "$(command -v llama-server)"
if record llama-server; then say pid "$P"; say mark "$M"; say address "$A"; mine && say alive 1; fi
` + listenersScript

// look runs the script.
func (e *LlamaServer) look(ctx context.Context) (*facts, error) {
	a, err := e.script(ctx, llamaScript)
	if err != nil {
		return nil, err
	}
	f := &facts{home: a.get("home"), path: a.get("path"), alive: a.get("alive") != ""}
	f.ours = record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}
	f.listenersKnown, f.listeners = parseListeners(a)
	return f, nil
}

// fingerprint finds out who listens. Many speak OpenAI's API and have a /health; only llama.cpp's server has /props
// with the settings of a generation, and owns its models by its own name. While it loads it answers nothing but that.
func (e *LlamaServer) fingerprint(ctx context.Context, addr string) identity {
	ctx, cancel := context.WithTimeout(ctx, fingerprintLimit)
	defer cancel()
	var connected atomic.Bool
	a := newAPI(func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := e.box.Dial(ctx, network, addr)
		if err == nil {
			connected.Store(true)
		}
		return conn, err
	}, addr)
	var body json.RawMessage
	err := a.call(ctx, fingerprintLimit/2, "GET", "/props", nil, &body)
	var status *statusError
	switch {
	case errors.As(err, &status):
		if status.Code == http.StatusServiceUnavailable && strings.HasPrefix(status.Text, "Loading model") {
			return identity{who: loading, said: status.Text}
		}
		return identity{who: foreign, said: cmp.Or(e.greeting(ctx, a), status.Text)}
	case err != nil && connected.Load() && busy(ctx, a):
		return identity{who: itself, version: fromSource}
	case err != nil && connected.Load():
		return identity{who: foreign, said: e.greeting(ctx, a)}
	case err != nil:
		return identity{err: err}
	}
	other := identity{who: foreign, said: clean(string(body[:min(len(body), 80)]))}
	models, err := a.ask(ctx, "/v1/models")
	if err != nil || !bytes.Contains(body, []byte(`"default_generation_settings"`)) {
		return other
	}
	s, err := readModels(models)
	if err != nil || s.Engine != "llama-server" {
		return other
	}
	s.readProps(body)
	return identity{who: itself, version: cmp.Or(llamaVersion(s.Version), fromSource)}
}

// busy reports whether a llama-server is well and only has no time for /props: older ones answer that between two
// batches of a prompt.
func busy(ctx context.Context, a *api) bool {
	resp, err := a.send(ctx, "GET", "/health", nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.Header.Get("Server") == "llama.cpp"
}

// greeting is the beginning of what something that is no llama-server says to anybody.
func (e *LlamaServer) greeting(ctx context.Context, a *api) string {
	resp, err := a.send(ctx, "GET", "/", nil)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b := make([]byte, 80)
	n, _ := resp.Body.Read(b)
	return clean(string(b[:n]))
}

// llamaVersion makes "b11549" of "b11549-unknown", and leaves what names a commit, because its number may be made up.
func llamaVersion(build string) string {
	number, commit, _ := strings.Cut(build, "-")
	switch {
	case number == "b0" || number == "b1":
		return strings.TrimSuffix(strings.TrimPrefix(build, number+"-"), "unknown")
	case commit == "":
		return build
	}
	return number
}

// processScript finds the process behind a port, if this account may see it, and what runs it. Of several llama-servers
// on a box those of other accounts cannot be told apart. What is said of our own stands in its log: the buffers of the
// last load.
const processScript = `
port=%[1]s name=%[2]s log=$D/%[3]s
if [ -n "$name" ]; then
  grep -a -e 'buffer size' -e 'load_model: loading model' "$log" 2>/dev/null | tail -n 200 | cut -c 1-200 | while read -r l; do say log "$l"; done
  return
fi
[ -r /proc/net/tcp ] || return
inode=$(grep -h ":$port [0-9A-F]*:0000 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r n l r s q t m u o i x; do echo "$i"; done | head -n 1)
all= one=
for c in $(grep -lx llama-server /proc/[0-9]*/comm 2>/dev/null); do
  p=${c#/proc/} p=${p%%%%/comm}
  [ "$p" != %[4]d ] || continue
  all="$all $p"
  ls -l "/proc/$p/fd" 2>/dev/null | grep -qF "socket:[$inode]" && one=$p
done
set -- $all
[ -n "$one" ] || [ $# -ne 1 ] || one=$1
[ -n "$one" ] || return
say pid "$one"
case $(cat "/proc/$one/cgroup" 2>/dev/null) in
*docker*|*containerd*|*libpod*|*kubepods*|*/lxc*) say how container;;
*/ssh.service*|*/sshd.service*|*/cron*) ;;
*user@*.service/*.service*) say how "user service";;
*/system.slice/*.service*) say how "system service";;
esac
`

// server describes the one that answers on addr, with what it serves.
func (e *LlamaServer) server(ctx context.Context, f *facts, addr, version string) *Server {
	s := &Server{Engine: "llama-server", Version: version, Address: addr, Adopted: true}
	s.FromSource = version == fromSource
	if f.alive && f.ours.address == addr {
		s.Adopted, s.PID = false, f.ours.pid
	}
	s.LoopbackBound, s.Exposed = f.bound(portOf(addr))
	if d, err := e.serves(ctx, addr); err == nil {
		s.Model = Loaded{Name: d.Model, Base: d.Model, Context: d.Context}
	}
	e.see(ctx, f, s)
	return s
}

// see adds what the box knows of a server: of ours what it took, of another who runs it.
func (e *LlamaServer) see(ctx context.Context, f *facts, s *Server) {
	name := ""
	if !s.Adopted {
		name = e.job
	}
	a, err := e.script(ctx, fmt.Sprintf(processScript, fmt.Sprintf("%04X", portOf(s.Address)), quote(name), quote(e.logFile()), f.ours.pid))
	if err != nil {
		e.log.Debug("the process of the server", "address", s.Address, "err", err)
		return
	}
	if s.Adopted {
		s.PID, s.How = a.int("pid"), a.get("how")
		return
	}
	lines := a.lines["log"]
	for i, l := range slices.Backward(lines) {
		if strings.Contains(l, "load_model: loading model") {
			lines = lines[i:]
			break
		}
	}
	if b, ok := ParseBuffers(strings.Join(lines, "\n")); ok {
		s.Model.SizeBytes, s.Model.VRAMBytes = b.Total(), b.GPU
	}
}

// serves asks a server what it serves.
func (e *LlamaServer) serves(ctx context.Context, addr string) (*Serves, error) {
	a := newAPI(e.box.Dial, addr)
	body, err := a.ask(ctx, "/v1/models")
	if err != nil {
		return nil, err
	}
	s, err := readModels(body)
	if err != nil {
		return nil, err
	}
	if body, err = a.ask(ctx, "/props"); err != nil {
		return nil, err
	}
	s.readProps(body)
	return s, nil
}

// absent is the error for a box on which nothing was found.
func (e *LlamaServer) absent(ctx context.Context, f *facts, foreign string) error {
	if f.path != "" {
		b, _ := e.ability(ctx, f.path)
		return &NotRunningError{Engine: "llama-server", Path: f.path, Version: b.version}
	}
	tried := "no llama-server program on its PATH or where builds of llama.cpp lie, and none answers on " + cmp.Or(e.address, strings.Join(e.owns(), " or "))
	if foreign != "" {
		tried += "; what listens on " + foreign + " is something else"
	}
	return &NotInstalledError{Engine: "llama-server", Tried: tried}
}
