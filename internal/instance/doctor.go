package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"rlca/probe"
	"rlca/remote"
	"rlca/tunnel"
)

// Check is one thing that rlca doctor looked at.
type Check struct {
	ID       string   `json:"id"`
	OK       bool     `json:"ok"` // severity is ok
	Severity Severity `json:"severity"`
	Detail   string   `json:"detail"`
	// Remedy is what a person can do, best a command to paste, one a line. Empty is nothing.
	Remedy string `json:"remedy"`
}

// Severity is how bad a check is.
type Severity string

const (
	Fine Severity = "ok"
	Warn Severity = "warn" // it works, and not as well as it could
	Fail Severity = "fail" // it does not work, or it is not safe
)

// Exam is what was found out about the whole path from the laptop's port to the model's memory. Here and Look find it
// out; Checks only judges it.
type Exam struct {
	Request Request
	// Status is what the supervisor says of the host; nil if it is not connected.
	Status *Status
	// Advise says what was seen beside an error's own words, and what a person can do. Nil knows nothing.
	Advise func(error) (facts, hints []string)

	// Of this machine.
	portErr error         // why the wanted port could not be opened; nil if it could be, or is ours
	leads   string        // the other connected host that has the port
	code    int           // of the answer to a question through the port that is ours; 0: none
	asked   time.Duration // how long that took
	askErr  error

	// Of the box.
	reachErr error // why it could not be reached; nil also before Look
	reached  bool
	target   *tunnel.Target
	rtt      time.Duration
	known    string // the file with the host keys, if there is only one
	survey   *Survey
	lookErr  error // how the survey ended
	serves   *remote.Serves
	askedErr error          // why serves is nil, for engine none
	held     *remote.Loaded // the wanted model, of a host that is not connected
	open     string         // the address under which the engine's port took a connection past the tunnel
	can      []string       // what the model can do, nil if that is not known
	stub     bool           // the model runs elsewhere
	orphans  []remote.Orphan
}

// NeedsHuman reports whether the path is broken where only a person can help: the host key, the login.
func (x *Exam) NeedsHuman() bool {
	if x.Status != nil && x.Status.State == string(tunnel.NeedsYou) {
		return true
	}
	return !x.linkUp() && (isHostKey(x.reachErr) || isLogin(x.reachErr))
}

// Checks judges what was found, in the order of the path. What lies behind a break is left out.
func (x *Exam) Checks() []Check {
	var c checks
	x.port(&c)
	x.link(&c)
	x.hostKey(&c)
	if !x.reached && !x.linkUp() {
		return c
	}
	x.box(&c)
	if x.engine(&c) {
		x.bind(&c)
		x.model(&c)
	} else {
		x.others(&c, 0)
	}
	x.leftovers(&c)
	x.memory(&c)
	x.disk(&c)
	return c
}

type checks []Check

func (c *checks) add(id string, s Severity, remedy, format string, args ...any) {
	*c = append(*c, Check{ID: id, OK: s == Fine, Severity: s, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

// err adds an error with what is known about it.
func (c *checks) err(x *Exam, id string, s Severity, err error, before string) {
	facts, hints := x.advise(err)
	detail := before + err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		detail = before + "no answer in time"
	}
	for _, f := range facts {
		detail += "; " + strings.Join(strings.Fields(f), " ")
	}
	c.add(id, s, strings.Join(hints, "\n"), "%s", strings.ReplaceAll(detail, "\n", "; "))
}

// advise puts the host's name where a hint has its place.
func (x *Exam) advise(err error) (facts, hints []string) {
	if x.Advise == nil {
		return nil, nil
	}
	facts, hints = x.Advise(err)
	hints = slices.Clone(hints)
	for i, h := range hints {
		hints[i] = strings.ReplaceAll(h, " HOST", " "+x.Request.Name)
	}
	return facts, hints
}

func (x *Exam) local() bool { return x.Request.Profile.Host == Local }

// linkUp reports whether the supervisor has a link that is up.
func (x *Exam) linkUp() bool {
	return x.Status != nil && x.Status.Link != nil && x.Status.Link.State == string(tunnel.Up)
}

func (x *Exam) listen() string {
	if x.Status != nil {
		return x.Status.Forward.Listen
	}
	return x.Request.Profile.Forward.Listen
}

func (x *Exam) report() *probe.Report {
	if x.survey == nil {
		return nil
	}
	return x.survey.Report
}

// again is how a connected host gets other settings.
func (x *Exam) again(flags string) string {
	connect := strings.TrimSpace("rlca connect " + x.Request.Name + " " + flags)
	if x.Status != nil {
		return "rlca disconnect " + x.Request.Name + " && " + connect
	}
	return connect
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

func isHostKey(err error) bool {
	return as[*tunnel.UnknownHostKeyError](err) || as[*tunnel.ChangedHostKeyError](err) || as[*tunnel.RevokedHostKeyError](err) || as[*tunnel.OpenSSHError](err)
}

func isLogin(err error) bool {
	return as[*tunnel.AuthError](err) || as[*tunnel.PassphraseError](err) || as[*tunnel.SecretError](err)
}

// port judges the laptop's end.
func (x *Exam) port(c *checks) {
	listen := x.listen()
	if x.Status != nil {
		x.ourPort(c, listen)
		return
	}
	other := "--port 11435"
	if _, port, err := net.SplitHostPort(listen); err == nil {
		if n, err := strconv.Atoi(port); err == nil && n > 0 && n < 65535 {
			other = fmt.Sprintf("--port %d", n+1)
		}
	}
	other = "rlca connect " + x.Request.Name + " " + other
	switch {
	case x.leads != "":
		c.add("port", Fail, "rlca disconnect "+x.leads+"\nor take another port: "+other, "%s leads to %s already", listen, x.leads)
	case x.portErr == nil && strings.HasSuffix(listen, ":0"):
		c.add("port", Fine, "", "any that is free")
	case x.portErr == nil:
		c.add("port", Fine, "", "%s is free", listen)
	case x.local() && x.survey != nil && x.survey.Running != nil && samePort(x.survey.Running.Address, listen):
		c.add("port", Fine, "", "%s is the engine's own, nothing is to be forwarded", listen)
	case as[*tunnel.PortTakenError](x.portErr):
		c.add("port", Fail, "stop what holds it\nor take another port: "+other, "%s", x.portErr)
	default:
		c.err(x, "port", Fail, x.portErr, "")
	}
}

// ourPort judges the port of a connected host, and what came back through it.
func (x *Exam) ourPort(c *checks, listen string) {
	ours := listen + " is ours"
	if x.Status.Forward.Mode == "direct" {
		ours = listen + " is the engine's own, nothing is forwarded"
	}
	down := x.Status.Link != nil && !x.linkUp()
	switch {
	case x.code >= 500:
		c.add("port", Warn, "rlca logs "+x.Request.Name+" --engine", "%s, but it answers with the status %d", ours, x.code)
	case x.code > 0:
		c.add("port", Fine, "", "%s, and answers in %s", ours, Away(x.asked))
	case x.askErr == nil:
		c.add("port", Fine, "", "%s", ours)
	case as[*net.OpError](x.askErr) && isDial(x.askErr):
		c.add("port", Fail, x.again(""), "%s should be ours, but nobody accepts there", listen)
	case down:
		c.add("port", Fine, "", "%s; callers wait until the link is back", ours)
	case x.Status.State == "connecting":
		c.add("port", Fine, "", "%s; callers wait until the engine is there", ours)
	case errors.Is(x.askErr, context.DeadlineExceeded):
		c.add("port", Warn, "rlca logs "+x.Request.Name+" --engine", "%s, but gives no answer within %s", ours, Span(askLimit))
	default:
		c.add("port", Fail, "rlca logs "+x.Request.Name, "%s, but it closes what it is asked: nothing answers behind it on the box", ours)
	}
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// link judges the way to the box, by the supervisor's link and by a dial of the doctor's own.
func (x *Exam) link(c *checks) {
	if x.local() {
		c.add("link", Fine, "", "this machine, no SSH")
		return
	}
	if x.Status != nil && x.Status.Link != nil {
		x.keptLink(c, x.Status.Link)
		return
	}
	switch err := x.reachErr; {
	case x.reached:
		c.add("link", Fine, "", "%s, %s away", x.where(), Away(x.rtt))
	case err == nil:
		c.add("link", Fail, "", "%s was not dialed", x.Request.Name)
	case isHostKey(err):
		c.add("link", Fine, "", "%s answers", x.where())
	default:
		c.err(x, "link", Fail, err, "")
	}
}

// keptLink judges a link that the supervisor keeps.
func (x *Exam) keptLink(c *checks, l *LinkStatus) {
	trouble := l.LastError
	if trouble == "" {
		trouble = "no connection"
	}
	trouble += " for " + Span(time.Since(l.Since))
	if l.NextTry != nil && time.Until(*l.NextTry) > 0 {
		trouble += ", next try in " + Span(time.Until(*l.NextTry))
	}
	_, hints := x.advise(x.reachErr)
	switch tunnel.State(l.State) {
	case tunnel.Up:
		var parts []string
		if l.RTTms != nil {
			parts = append(parts, Away(time.Duration(*l.RTTms*float64(time.Millisecond)))+" away")
		}
		parts = append(parts, "up "+Span(time.Since(l.Since)))
		switch l.Reconnects {
		case 0:
		case 1:
			parts = append(parts, "1 reconnect")
		default:
			parts = append(parts, fmt.Sprintf("%d reconnects", l.Reconnects))
		}
		c.add("link", Fine, "", "%s", strings.Join(parts, ", "))
	case tunnel.NeedsYou:
		if len(hints) == 0 || x.reached {
			hints = []string{"rlca connect " + x.Request.Name}
		}
		c.add("link", Fail, strings.Join(hints, "\n"), "needs you: %s", cmp.Or(l.LastError, "only a person can help"))
	case tunnel.Offline:
		c.add("link", Fail, "join a network: rlca dials again the moment that there is one", "this machine has no network")
	default:
		if x.reached {
			c.add("link", Warn, "nothing to do: it is tried again by itself, at once when something uses the port",
				"%s (%s), but a new connection gets through, %s away", l.State, trouble, Away(x.rtt))
			return
		}
		if len(hints) == 0 {
			hints = []string{"rlca logs " + x.Request.Name}
		}
		c.add("link", Fail, strings.Join(hints, "\n"), "%s: %s", l.State, trouble)
	}
}

// where is what was dialed.
func (x *Exam) where() string {
	if x.target == nil {
		return x.Request.Name
	}
	return x.target.User + "@" + x.target.Addr()
}

// hostKey judges the key of the box. A login that was come to proves that it is known.
func (x *Exam) hostKey(c *checks) {
	switch {
	case x.local():
	case isHostKey(x.reachErr):
		c.err(x, "host-key", Fail, x.reachErr, "")
	case x.reached, isLogin(x.reachErr), x.linkUp():
		where := ""
		if x.known != "" {
			where = ", in " + x.known
		}
		c.add("host-key", Fine, "", "known%s", where)
	}
}
