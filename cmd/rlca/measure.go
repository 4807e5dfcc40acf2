package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/probe"
)

// quiet is an emit for verbs whose answer is on stdout.
func quiet(instance.Event) {}

// reach dials a host for one of the reading verbs, asking what only a person can say.
func (a *app) reach(req *instance.Request, emit func(instance.Event)) (*instance.Reached, error) {
	for {
		r, err := instance.Reach(a.ctx, *req, slog.New(slog.DiscardHandler), emit)
		if err == nil {
			return r, nil
		}
		again, err := a.human(req, err)
		if err != nil {
			return nil, err
		}
		if !again {
			return nil, errors.New("not connected")
		}
	}
}

func (a *app) probeCmd() *cobra.Command {
	var w want
	c := &cobra.Command{
		Use: "probe HOST", Short: "what the box has: memory, GPUs, engines, listeners, disks", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			req, err := a.request(args[0])
			if err != nil {
				return err
			}
			req.AcceptNew = w.acceptNew
			r, err := a.reach(&req, quiet)
			if err != nil {
				return err
			}
			defer r.Close()
			report, err := instance.Probe(a.ctx, r, quiet)
			if err != nil {
				return err
			}
			report.Host = req.Name
			if w.asJSON {
				return a.json(report)
			}
			return showProbe(a.out, report)
		},
	}
	c.Flags().BoolVar(&w.asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	return c
}

func showProbe(w io.Writer, r *probe.Report) error {
	row := func(key string, parts ...string) {
		parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
		fmt.Fprintf(w, "%-9s %s\n", key, strings.Join(parts, " · "))
	}
	cores := ""
	if r.Cores != nil {
		cores = fmt.Sprintf("%d cores", *r.Cores)
	}
	row("host", r.Host, r.Product, r.OSName, strings.TrimSpace(r.Kernel+" "+r.Arch), cores)
	for _, p := range r.Pools {
		row("memory", p.Describe())
	}
	for n, g := range r.Accelerators {
		shares := ""
		if g.Pool != nil {
			for _, p := range r.Pools {
				if p.ID == *g.Pool && p.Kind == "unified" {
					shares = "shares the pool above"
				}
			}
		}
		state := ""
		if g.State != "ok" {
			state = g.State
		}
		row(fmt.Sprintf("gpu %d", n), g.Name, prefixed("driver ", g.Driver), prefixed("compute ", g.Compute), shares, state)
	}
	key := "engines"
	for _, e := range r.Engines {
		where := ""
		if e.Address != nil {
			where = *e.Address
		}
		row(key, titled(e.Name, text(e.Version)), where, e.How, text(e.Path))
		key = ""
	}
	if len(r.Engines) == 0 {
		row(key, "none found")
	}
	var exposed []string
	for _, l := range r.Listeners {
		if l.Exposed && text(l.Process) != "sshd" { // that is how we came in
			exposed = append(exposed, strings.TrimSpace(fmt.Sprintf("%s:%d %s", l.Address, l.Port, text(l.Process))))
		}
	}
	if len(exposed) == 0 {
		row("exposed", "nothing listens beyond loopback")
	} else {
		row("exposed", exposed...)
	}
	var disks []string
	told := map[int64]bool{} // folders on one disk have the same room
	for _, d := range r.Disk {
		if d.FreeBytes != nil && !told[*d.FreeBytes] {
			told[*d.FreeBytes] = true
			disks = append(disks, fmt.Sprintf("%s %s free", d.Path, fit.Bytes(*d.FreeBytes)))
		}
	}
	row("disk", disks...)
	if len(r.Warnings) == 0 {
		row("warnings", "none")
	}
	for _, warning := range r.Warnings {
		row("warning", warning)
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func prefixed(prefix string, s *string) string {
	if s == nil {
		return ""
	}
	return prefix + *s
}

// look surveys a host for one of the reading verbs.
func (a *app) look(req *instance.Request, emit func(instance.Event)) (*instance.Survey, *instance.Reached, error) {
	r, err := a.reach(req, emit)
	if err != nil {
		return nil, nil, err
	}
	s, err := instance.Look(a.ctx, *req, r, slog.New(slog.DiscardHandler), emit)
	return s, r, err
}

func (a *app) planCmd() *cobra.Command {
	var w want
	c := &cobra.Command{
		Use: "plan HOST", Short: "what connect would do, step by step; nothing is started", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.wanted(cmd, args[0], w)
			if err != nil {
				return err
			}
			s, r, err := a.look(&req, a.talk.step)
			if r != nil {
				defer r.Close()
			}
			if err != nil {
				return err
			}
			p := s.Intent(a.ctx, req)
			if w.asJSON {
				return a.json(p)
			}
			for _, step := range p.Steps {
				fmt.Fprintf(a.out, "%-9s %s\n", step.Step, step.Does)
			}
			return nil
		},
	}
	w.flags(c)
	c.Flags().BoolVar(&w.force, "force", false, "plan a model that does not fit")
	return c
}

// silent ends with a code and says nothing more: the answer is on stdout already.
type silent struct{ code int }

func (e *silent) Error() string { return "exit " + strconv.Itoa(e.code) }
