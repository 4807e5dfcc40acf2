package probe

import (
	"encoding/json"
	"net"
	"slices"
	"strconv"
	"strings"
)

// kind is an engine that we know, with the port that it uses unless it is told otherwise.
type kind struct {
	name string
	port int
	own  bool // the port is nobody else's: a listener whose owner cannot be seen may be this engine
}

var kinds = []kind{{"ollama", 11434, true}, {"vllm", 8000, false}, {"llama-server", 8080, false}}

// process is an engine that runs, as its own files in /proc or a Mac's ps tell it.
type process struct {
	pid, parent int
	name, arg   string // arg is the first argument: serve, runner
	how         string
}

// serves says whether an Ollama is the server, and no client or runner of it. A Mac does not tell the argument.
func (p process) serves() bool {
	return p.name != "ollama" || p.arg == "" || p.arg == "serve" || p.arg == "start"
}

// engines puts together what is installed, what runs and what listens. Ollama's own runners listen on ports of their
// own and are no engines.
func (r *Report) engines(a *answer) {
	paths := map[string]string{}
	for line := range strings.SplitSeq(a.text("tools"), "\n") {
		if name, path, ok := strings.Cut(line, " "); ok && path != "" {
			paths[name] = path
		}
	}
	_, r.Setsid = paths["setsid"]
	_, r.Curl = paths["curl"]
	running, service := processes(a.text("procs"))
	var boxes []container
	for _, name := range []string{"docker", "podman"} {
		for _, c := range containers(a.text(name)) {
			c.from = name
			boxes = append(boxes, c)
		}
	}
	heard := r.heard(a)
	for _, k := range kinds {
		e := Engine{Name: k.name, Path: value(paths[k.name])}
		if k.name == "vllm" {
			e.Version = value(paths["vllm_version"])
		}
		e.From = by("tools", e.Path, e.Version)
		if k.name == "ollama" {
			e.Version = ollamaVersion(a.text("v_ollama"))
			e.From = origin(e.From, by("v_ollama", e.Version))
		}
		var mine []process
		for _, p := range running {
			if p.name == k.name && p.serves() && !slices.ContainsFunc(running, func(o process) bool { return o.pid == p.parent && o.name == "ollama" }) {
				mine = append(mine, p)
			}
		}
		if len(mine) > 0 {
			e.From = origin(e.From, "procs")
		}
		owned := r.place(&e, k, mine)
		inside := e.How == inContainer || !owned && len(mine) == 0
		for _, p := range mine {
			inside = inside || p.how == inContainer
		}
		for _, c := range boxes {
			if c.engine != k.name || !inside {
				continue
			}
			e.Running, e.How, e.From = ptr(true), inContainer, origin(e.From, c.from)
			if e.Version == nil {
				e.Version = value(c.version)
			}
			if e.Address == nil && c.port != 0 { // the kernel may lead the port in without a listener
				e.Address, e.Exposed = ptr(net.JoinHostPort(c.host, strconv.Itoa(c.port))), ptr(exposed(c.host))
			}
		}
		switch {
		case e.Running != nil:
		case owned || len(mine) > 0:
			e.Running = ptr(true)
		case e.Address == nil && heard != "":
			e.Running, e.From = ptr(false), origin(e.From, heard)
		}
		if e.Running != nil && *e.Running {
			for _, p := range mine {
				if e.How == "" || e.How == userProcess {
					e.How = p.how
				}
			}
			if e.How == "" && k.name == "ollama" && service {
				e.How, e.From = systemService, origin(e.From, "procs")
			}
		}
		if e.Path != nil || e.Address != nil || e.Running != nil && *e.Running {
			r.Engines = append(r.Engines, e)
		}
	}
}

// heard is the From of a port being nobody's. It is empty if the listeners could not be read at all.
func (r *Report) heard(a *answer) (from string) {
	for _, l := range r.Listeners {
		from = origin(from, l.From)
	}
	if a.text("listen") != "" {
		from = origin(from, "listen")
	}
	if a.sections["proctcp"].rc == 0 && a.has("proctcp") {
		from = origin(from, "proctcp")
	}
	return from
}

// place finds the address of an engine among the listeners, and reports whether its owner is known to be the engine.
// The usual port comes first, else the lowest: engines have ports of their own between their parts. Of several
// addresses with that port the one that is open to the network counts.
func (r *Report) place(e *Engine, k kind, mine []process) (owned bool) {
	port := 0
	var found []Listener
	for _, l := range r.Listeners {
		owner := ""
		if l.Process != nil {
			owner = *l.Process
		}
		sure := l.pid != 0 && slices.ContainsFunc(mine, func(p process) bool { return p.pid == l.pid })
		usual := l.Port == k.port
		switch {
		case sure, usual && named(owner, k.name):
		case usual && owner == "" && (k.own || len(mine) > 0):
		case usual && k.own && publishes(owner):
		default:
			continue
		}
		found = append(found, l)
		if port == 0 || usual || port != k.port && l.Port < port {
			port = l.Port
		}
	}
	for _, l := range found {
		if l.Port != port {
			continue
		}
		e.From = origin(e.From, l.From)
		if l.Process != nil {
			owned = owned || !publishes(*l.Process)
			if publishes(*l.Process) {
				e.How = inContainer
			}
			if *l.Process == wslRelay {
				e.How = inWSL
			}
		}
		if e.Address == nil || l.Exposed && !*e.Exposed {
			e.Address, e.Exposed = ptr(net.JoinHostPort(l.Address, strconv.Itoa(l.Port))), ptr(l.Exposed)
		}
	}
	return owned
}

// named says whether a process of that name is the engine itself. A plain python is not: it may be anything.
func named(process, engine string) bool {
	return process == engine || engine == "vllm" && strings.HasPrefix(strings.ToLower(process), "vllm") ||
		engine == "ollama" && (process == "Ollama" || strings.HasPrefix(process, "ollama-"))
}

// publishes says whether a process hands a container's port to the outside.
func publishes(process string) bool {
	switch process {
	case wslRelay, "docker-proxy", "rootlesskit", "rootlessport", "pasta", "pasta.avx2", "slirp4netns", "conmon", "com.docker.backend", "com.docker.backe":
		return true
	}
	return false
}

// How an engine was started, as Engine.How tells it.
const (
	systemService = "system service"
	userService   = "user service"
	userProcess   = "user process"
	desktopApp    = "desktop app"
	inContainer   = "in a container"
	inWSL         = "in WSL"
)

// wslRelay hands a port of WSL to Windows.
const wslRelay = "wslrelay"

// processes reads "proc PID PARENT NAME FIRST-ARGUMENT CONTROL-GROUP", a Mac's "mac PID PARENT PATH", "win PID NAME" of
// Windows, the probe's own "self CONTROL-GROUP" and "unit STATE", which says whether a system service named ollama is
// active.
func processes(text string) (list []process, service bool) {
	self, app := "", false
	for line := range strings.SplitSeq(text, "\n") {
		w := strings.Fields(line)
		if len(w) < 2 || len(list) >= maxRows {
			continue
		}
		switch w[0] {
		case "self":
			self = w[1]
		case "unit":
			service = w[1] == "active"
		case "win":
			p := process{name: strings.ToLower(strings.Join(w[2:], " ")), how: userProcess}
			if p.pid, _ = strconv.Atoi(w[1]); p.name == "ollama app" { // it sits beside the clock and starts the server
				app = true
				continue
			}
			list = append(list, p)
		case "proc", "mac":
			if len(w) < 4 {
				continue
			}
			p := process{how: userProcess}
			p.pid, _ = strconv.Atoi(w[1])
			p.parent, _ = strconv.Atoi(w[2])
			if w[0] == "mac" {
				path := strings.Join(w[3:], " ")
				p.name = strings.ToLower(path[strings.LastIndexByte(path, '/')+1:])
				if strings.Contains(path, ".app/") {
					p.how = desktopApp
				}
			} else {
				p.name = w[3]
				if len(w) > 4 {
					p.arg = w[4]
				}
				if len(w) > 5 && w[5] != self {
					p.how = unitOf(w[5])
				}
			}
			for _, k := range kinds {
				if named(p.name, k.name) {
					p.name = k.name
				}
			}
			list = append(list, p)
		}
	}
	for i := range list {
		if app && list[i].name == "ollama" {
			list[i].how = desktopApp
		}
	}
	return list, service
}

// unitOf reads a control group: "0::/system.slice/ollama.service", "0::/user.slice/…/user@1000.service/app.slice/x.service".
func unitOf(group string) string {
	unit := group[strings.LastIndexByte(group, '/')+1:]
	switch {
	case strings.Contains(group, "docker"), strings.Contains(group, "libpod"), strings.Contains(group, "kubepods"), strings.Contains(group, "containerd"), strings.Contains(group, "/lxc"):
		return inContainer
	case !strings.HasSuffix(unit, ".service"), strings.HasPrefix(unit, "ssh"), strings.HasPrefix(unit, "cron"):
		return userProcess
	case strings.Contains(group, "/user@"):
		return userService
	}
	return systemService
}

// ollamaVersion reads what ollama --version says, or the server's {"version":"0.12.1"}.
func ollamaVersion(text string) *string {
	for line := range strings.SplitSeq(text, "\n") {
		var answer struct{ Version string }
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &answer) == nil && answer.Version != "" {
			return &answer.Version
		}
		for _, before := range []string{"ollama version is ", "client version is "} {
			if _, v, ok := strings.Cut(line, before); ok {
				if v = strings.TrimSpace(v); v != "" {
					return &v
				}
			}
		}
	}
	return nil
}
