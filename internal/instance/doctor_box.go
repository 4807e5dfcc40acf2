package instance

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"rlca/probe"
	"rlca/remote"
	"rlca/tunnel"
)

// box judges what the box is, and what the probe warns of.
func (x *Exam) box(c *checks) {
	r := x.report()
	switch {
	case !x.reached:
		c.err(x, "box", Warn, x.reachErr, "not looked at anew: ")
		return
	case r == nil:
		c.err(x, "box", Fail, x.lookErr, "")
		return
	}
	c.add("box", Fine, "", "%s", r.Summary())
	best := r.Best()
	idle := best == nil || best.Kind == probe.HostPool // no GPU can be used
	for _, w := range r.Warnings {
		detail, remedy := cutRemedy(w)
		switch {
		case isExposure(r, w): // bind says it
		case strings.Contains(w, "are page cache") && r.Engine("vllm") == nil: // it takes away from vLLM alone
		case strings.Contains(w, "is asleep:"), strings.Contains(w, "is estimated:"):
			c.add("box", Fine, "", "%s", w)
		case idle && remedy != "" && len(r.Accelerators) > 0:
			c.add("box", Fail, remedy, "%s", detail)
		default:
			if remedy == "" && strings.Contains(w, "swap") {
				remedy = "stop what else takes memory on the box, or take a smaller model: rlca models " + x.Request.Name
			}
			c.add("box", Warn, remedy, "%s", detail)
		}
	}
}

// isExposure reports whether a warning of the probe is that an engine is open to the network.
func isExposure(r *probe.Report, warning string) bool {
	return slices.ContainsFunc(r.Engines, func(e probe.Engine) bool {
		return e.Exposed != nil && *e.Exposed && strings.HasPrefix(warning, e.Name+" listens on ")
	})
}

// remedies are how the part of a probe's warning begins that says what to do.
var remedies = []string{"reboot ", "add it to ", "install ", "a container must be started ", "on the box: ", "sudo "}

// cutRemedy parts a warning of the probe into what is wrong and what to do.
func cutRemedy(w string) (detail, remedy string) {
	for i, r := range w {
		if r != ':' && r != ';' || !strings.HasPrefix(w[i+1:], " ") {
			continue
		}
		for _, begin := range remedies {
			if strings.HasPrefix(w[i+2:], begin) {
				return w[:i], w[i+2:]
			}
		}
	}
	return w, ""
}

// server is the engine that answers: as it was found now, else as the supervisor last saw it. Nil is none.
func (x *Exam) server() *remote.Server {
	if x.survey != nil {
		return x.survey.Running
	}
	if x.Status == nil || x.Status.Engine == nil {
		return nil
	}
	e := x.Status.Engine
	return &remote.Server{Engine: e.Name, Version: e.Version, Address: e.Address, LoopbackBound: e.BoundLoopback, Adopted: !strings.HasPrefix(e.Origin, "started by rlca")}
}

// engine judges what serves. It is false if there is nothing whose bind, model and context could be judged.
func (x *Exam) engine(c *checks) bool {
	s := x.survey
	switch {
	case s == nil:
		if srv := x.server(); srv != nil {
			c.add("engine", Fine, "", "%s on %s, %s", srv.Title(), srv.Address, x.Status.Engine.Origin)
			return true
		}
		return false
	case x.none():
		return x.anyEngine(c)
	case s.Running != nil && x.findErr() != nil:
		c.err(x, "engine", Warn, x.findErr(), s.Running.Title()+" on "+s.Running.Address+": ")
		return true
	case s.Running != nil:
		c.add("engine", Fine, "", "%s on %s, %s", s.Running.Title(), s.Running.Address, s.Running.Origin())
		return true
	}
	var foreign *remote.ForeignError
	switch err := x.findErr(); {
	case errors.As(err, &foreign):
		who := ""
		if name := x.holder(foreign.Address); name != "" {
			who = " (" + name + ")"
		}
		c.add("engine", Fail, "stop it on the box, or give [engine] address in the profile another port\nif it is what shall serve: "+x.again("--engine none"), "%s%s", err, who)
		return false
	case err != nil:
		c.err(x, "engine", Fail, err, "")
		return false
	}
	about := ""
	if v := s.version(); v != "" {
		about = " " + v
	}
	if name := x.holder(noneAddress); name != "" && name != "ollama" {
		about += ", " + noneAddress + " is held by " + name
	}
	if x.Status != nil && x.Status.State != "connecting" {
		c.add("engine", Fail, x.again(""), "%s%s is installed on the box, and does not run any more", s.EngineName, about)
	} else {
		c.add("engine", Fine, "", "%s%s is installed on the box, connect starts it", s.EngineName, about)
	}
	if x.Status == nil {
		x.model(c)
	}
	return false
}

// findErr is why the survey did not come to choosing a model.
func (x *Exam) findErr() error {
	if x.survey.Plan.Model == "" {
		return x.lookErr
	}
	return nil
}

// none reports that no engine is wanted, only the link and the port.
func (x *Exam) none() bool {
	return x.survey != nil && x.survey.Engine == nil && x.survey.Address != ""
}

// anyEngine judges what serves at the address of engine none.
func (x *Exam) anyEngine(c *checks) bool {
	addr := x.survey.Address
	if d := x.serves; d != nil {
		name := cmp.Or(d.Engine, "an engine that speaks OpenAI's API")
		if d.Version != "" && d.Version != "0.0.0" {
			name += " " + d.Version
		}
		c.add("engine", Fine, "", "%s on %s, the port leads there", name, addr)
		return true
	}
	err := x.askedErr
	var loading *remote.LoadingError
	switch {
	case err == nil:
		return false
	case errors.As(err, &loading):
		c.add("engine", Warn, "wait until it has loaded its model", "%s", err)
	case as[*tunnel.RefusedError](err) || isDial(err):
		remedy := "start it there, or name where it listens in the profile: [engine] address"
		if r := x.report(); r != nil {
			for _, e := range r.Engines {
				if e.Address != nil && e.Running != nil && *e.Running {
					remedy += "\n" + e.Name + " runs on " + *e.Address
				}
			}
		}
		c.add("engine", Fail, remedy, "nothing listens on %s of the box, where the port leads", addr)
		return false
	default:
		c.add("engine", Warn, "if that is the wrong place: [engine] address in the profile", "%s", err)
	}
	return true
}

// holder names the process that listens on the port of an address of the box, if it can be told.
func (x *Exam) holder(addr string) string {
	l := x.listener(addr)
	if l == nil || l.Process == nil {
		return ""
	}
	return *l.Process
}

func (x *Exam) listener(addr string) *probe.Listener {
	_, port, err := net.SplitHostPort(addr)
	n, err2 := strconv.Atoi(port)
	if r := x.report(); r != nil && err == nil && err2 == nil {
		return r.Listener(n)
	}
	return nil
}

// bind judges who can reach the engine: by the box's table of listeners, and by a dial past the tunnel.
func (x *Exam) bind(c *checks) {
	srv := x.server()
	if x.none() {
		srv = &remote.Server{Engine: "what serves there", Address: x.survey.Address}
		if x.serves != nil {
			srv.Engine = cmp.Or(x.serves.Engine, srv.Engine)
		}
		if r := x.report(); r != nil {
			srv.How = x.survey.how(srv.Address)
		}
	}
	if srv == nil {
		return
	}
	_, port, _ := net.SplitHostPort(srv.Address)
	n, _ := strconv.Atoi(port)
	where, loopback := srv.Exposed, srv.LoopbackBound
	if r := x.report(); r != nil && loopback == nil {
		for _, l := range r.Listeners {
			if l.Port != n {
				continue
			}
			only := loopback == nil || *loopback
			if l.Exposed {
				where, only = append(where, net.JoinHostPort(l.Address, port)), false
			}
			loopback = &only
		}
	}
	private := " without a password"
	if srv.Engine != "Ollama" {
		private = ", open to its network" // others may have been given a key
	}
	switch past := x.open; {
	case loopback != nil && !*loopback:
		detail := fmt.Sprintf("%s on %s listens on %s%s", srv.Engine, x.Request.Name, everywhere(where), private)
		if past != "" {
			detail += "; " + past + " takes connections from here"
		}
		c.add("bind", Fail, srv.Remedy(), "%s", detail)
	case past != "":
		c.add("bind", Fail, "on the box, look for what opens port "+port+": a container's -p, socat, a forward of ssh -g, a rule of the firewall",
			"%s takes connections from here, past the tunnel, although %s listens on loopback only", past, srv.Engine)
	case loopback != nil:
		c.add("bind", Fine, "", "loopback only")
	default:
		c.add("bind", Warn, "look on the box: ss -ltn, on a Mac netstat -an; port "+port+" should be on 127.0.0.1 alone", "who can reach port %s could not be read on the box", port)
	}
	x.others(c, n)
}

// everywhere says where something listens that others can reach.
func everywhere(where []string) string {
	list := strings.Join(where, ", ")
	for _, w := range where {
		host, _, err := net.SplitHostPort(w)
		if ip := net.ParseIP(host); err == nil && (host == "*" || ip != nil && ip.IsUnspecified()) {
			return "every interface (" + list + ")"
		}
	}
	return cmp.Or(list, "more than loopback")
}

// others warns of engines beside the path that are open to the network. but is the port of the one on it.
func (x *Exam) others(c *checks, but int) {
	r := x.report()
	if r == nil {
		return
	}
	for _, e := range r.Engines {
		if e.Exposed == nil || !*e.Exposed || e.Address == nil {
			continue
		}
		_, port, _ := net.SplitHostPort(*e.Address)
		if n, _ := strconv.Atoi(port); n == but && but != 0 {
			continue
		}
		s := remote.Server{Engine: e.Name, Address: *e.Address, How: e.How}
		if e.Name == engineOllama {
			s.Engine = "Ollama"
		}
		c.add("bind", Warn, s.Remedy(), "%s on %s, beside this path, listens on %s, open to its network", s.Engine, x.Request.Name, everywhere([]string{*e.Address}))
	}
}
