package instance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"rlca/remote"
	"rlca/tunnel"
)

const (
	// lookLimit is how long a doctor looks at the box.
	lookLimit = 35 * time.Second
	// showLimit is how long it asks the engine about one model.
	showLimit = 3 * time.Second
)

// Here looks at this machine: whose the port is, and whether it answers. others are the hosts that are connected.
func (x *Exam) Here(ctx context.Context, others []Status) {
	listen := x.listen()
	if x.Status != nil {
		if !filepath.IsAbs(listen) {
			x.askPort(ctx, listen)
		}
		return
	}
	for _, o := range others {
		if o.Forward.Listen == listen && o.Forward.Mode != "direct" {
			x.leads = o.Name
			return
		}
	}
	ls, err := tunnel.Listen(expandHome(listen))
	for _, l := range ls {
		l.Close()
	}
	x.portErr = err
}

// askPort asks for anything through the port. No proxy is used, and every answer counts.
func (x *Exam) askPort(ctx context.Context, listen string) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	start := time.Now()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+listen+"/", nil)
	if err != nil {
		x.askErr = err
		return
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		x.askErr = err
		if ctx.Err() != nil {
			x.askErr = context.DeadlineExceeded
		}
		return
	}
	resp.Body.Close()
	x.code, x.asked = resp.StatusCode, time.Since(start)
}

// Missed notes why the box could not be reached.
func (x *Exam) Missed(ctx context.Context, err error) {
	x.reachErr = err
	if t, err := Resolve(ctx, x.Request); err == nil && !x.local() {
		x.target, x.known = t, knownFile(t)
	}
}

// Look looks at the box, and starts nothing there.
func (x *Exam) Look(ctx context.Context, r *Reached, emit func(Event)) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	x.reached, x.target = true, r.Target
	if r.Client != nil {
		x.rtt, x.known = r.Client.RTT(), knownFile(r.Target)
	}
	log := slog.New(slog.DiscardHandler)
	req := x.served()
	x.survey, x.lookErr = Look(ctx, req, r, log, emit)
	s := x.survey
	if s == nil {
		return
	}
	box := boxOf(r.Far, log)
	x.orphans, _ = remote.Orphans(ctx, box) // what could not be looked for is not there
	addr := ""
	if x.none() {
		addr = s.Address
		x.serves, x.askedErr = remote.Describe(ctx, box, addr)
	} else if s.Running != nil {
		addr = s.Running.Address
		x.hold(ctx)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if _, port, err := net.SplitHostPort(addr); err == nil {
		wg.Go(func() { x.open = openFromHere(ctx, r.Target, port) })
	}
	if s.Running != nil && s.kind == engineOllama {
		wg.Go(func() { x.can, x.stub = shown(ctx, r.Far, addr, cmp.Or(s.Plan.Model, req.Profile.Model.Name)) })
	}
}

// served is the request with what is really served laid over it: a connected host may have been given flags.
func (x *Exam) served() Request {
	req := x.Request
	st := x.Status
	if st == nil {
		return req
	}
	p := &req.Profile
	switch e := st.Engine; {
	case e != nil:
		p.Engine.Name, p.Engine.Address = kindOf(e.Name), e.Address
	case st.State == "up":
		p.Engine.Name = "none"
	}
	if m := st.Model; m != nil && m.Name != "" {
		p.Model.Name = m.Name
		if i := strings.LastIndex(m.Name, "-rlca"); i > 0 { // a copy with a context of its own
			p.Model.Name = m.Name[:i]
		}
	}
	return req
}

// hold asks the engine how it holds the model that would be served.
func (x *Exam) hold(ctx context.Context) {
	s := x.survey
	name := s.Plan.Model
	if name == "" || name == "auto" {
		return
	}
	if m := s.Running.Model; sameModel(name, m.Name, m.Base) {
		x.held = &m
		return
	}
	if s.kind != engineOllama {
		return // it serves one model
	}
	srv := *s.Running
	srv.Model = remote.Loaded{Name: name, Base: name}
	if m, err := s.Engine.Loaded(ctx, &srv); err == nil {
		x.held = &m
	}
}

// shown asks Ollama what a model can do, nil if it does not tell, and whether it runs elsewhere.
func shown(ctx context.Context, far Far, addr, model string) (can []string, stub bool) {
	ctx, cancel := context.WithTimeout(ctx, showLimit)
	defer cancel()
	body, err := json.Marshal(map[string]string{"model": model})
	if err != nil {
		return nil, false
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/api/show", bytes.NewReader(body))
	if err != nil {
		return nil, false
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return far.Dial(ctx, "tcp", addr)
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, false
	}
	defer resp.Body.Close()
	var said struct {
		Capabilities []string `json:"capabilities"`
		RemoteHost   string   `json:"remote_host"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&said) != nil {
		return nil, false
	}
	return said.Capabilities, said.RemoteHost != ""
}

// knownFile is the file with the known host keys, if there is only one.
func knownFile(t *tunnel.Target) string {
	var found []string
	for _, files := range [][]string{t.UserKnownHostsFiles, t.GlobalKnownHostsFiles} {
		for _, f := range files {
			if info, err := os.Stat(f); err == nil && info.Size() > 0 {
				found = append(found, f)
			}
		}
	}
	if len(found) != 1 {
		return ""
	}
	if home, err := os.UserHomeDir(); err == nil {
		if rest, ok := strings.CutPrefix(found[0], home+string(filepath.Separator)); ok {
			return "~/" + filepath.ToSlash(rest)
		}
	}
	return found[0]
}
