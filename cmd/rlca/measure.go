package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

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

func (a *app) fitCmd() *cobra.Command {
	var w want
	var memory, kv string
	var params, bits float64
	c := &cobra.Command{
		Use: "fit [HOST]", Short: "does a model fit, and at which context; exit 3 if not", Args: cobra.MaximumNArgs(1),
		Long: `fit answers for a box (fit HOST --model M), or without one:

  rlca fit --memory 32GB --model qwen3-coder:30b --quant Q4_K_M --context 32768
  rlca fit --memory 32GB --params 30 --bits 4        the plain rule: parameters × bits / 8 against 65 %`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set := cmd.Flags().Changed
			if set("params") || set("bits") {
				if len(args) > 0 || !set("memory") || !set("params") || !set("bits") {
					return usagef("--params and --bits go together, with --memory and without HOST")
				}
				size, err := fit.ParseSize(memory)
				if err != nil {
					return usagef("--memory %s: %v", memory, err)
				}
				r, err := fit.PlainCheck(params, bits, size)
				if err != nil {
					return usagef("%v", err)
				}
				return a.answerFit(r, "", w.asJSON)
			}
			if len(args) == 0 {
				if !set("memory") || w.model == "" {
					return usagef("without HOST fit needs --memory and --model, or --memory, --params and --bits")
				}
				return a.fitOffline(cmd, w, memory, kv)
			}
			if set("memory") {
				return usagef("--memory is for fit without HOST: a box is measured")
			}
			req, err := a.wanted(cmd, args[0], w)
			if err != nil {
				return err
			}
			s, r, err := a.look(&req, quiet)
			if r != nil {
				defer r.Close()
			}
			var short *fit.ShortfallError
			if errors.As(err, &short) {
				return a.answerFit(short.Result, req.Name, w.asJSON)
			}
			if err != nil {
				return err
			}
			if s.Fit == nil {
				return usagef("engine none has no model to fit")
			}
			return a.answerFit(*s.Fit, req.Name, w.asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&memory, "memory", "", "`SIZE` that a model may use, as 32GB or 24GiB")
	f.StringVar(&w.model, "model", "", "`MODEL`: an Ollama tag or a name of the catalog")
	f.StringVar(&w.quant, "quant", "", "`QUANT`ization, as Q4_K_M")
	f.StringVar(&w.context, "context", "", "`TOKENS` per request; 0 is the most that fits")
	f.IntVar(&w.parallel, "parallel", 0, "`N` requests at once")
	f.StringVar(&kv, "kv", "", "`TYPE` of the KV cache: f16, q8_0, q4_0")
	f.Float64Var(&params, "params", 0, "parameters in billions, for the plain rule")
	f.Float64Var(&bits, "bits", 0, "bits per parameter, for the plain rule")
	f.BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	f.BoolVar(&w.asJSON, "json", false, "as JSON")
	return c
}

func (a *app) fitOffline(cmd *cobra.Command, w want, memory, kv string) error {
	size, err := fit.ParseSize(memory)
	if err != nil {
		return usagef("--memory %s: %v", memory, err)
	}
	m, err := fit.Find(w.model)
	if err != nil {
		return err
	}
	ask := fit.Ask{Model: m, Quant: w.quant, Parallel: w.parallel, KVType: kv, Budget: &size, GPU: true}
	if cmd.Flags().Changed("context") {
		if ask.Context, err = fit.ParseTokens(w.context); err != nil {
			return usagef("--context %s: %v", w.context, err)
		}
	}
	r, err := fit.Check(ask)
	if err != nil {
		return usagef("%v", err)
	}
	return a.answerFit(r, "", w.asJSON)
}

func (a *app) answerFit(r fit.Result, host string, asJSON bool) error {
	if asJSON {
		if err := a.json(r); err != nil {
			return err
		}
	} else {
		showFit(a.out, r)
	}
	if r.Verdict == fit.No {
		return &silent{code: exitNoFit}
	}
	return nil
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
			p := s.Intent(req)
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

func (a *app) modelsCmd() *cobra.Command {
	var w want
	c := &cobra.Command{
		Use: "models HOST", Short: "what is on the box and what would fit, best first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.wanted(cmd, args[0], w)
			if err != nil {
				return err
			}
			req.Profile.Model.Name = "auto"
			s, r, err := a.look(&req, quiet)
			if r != nil {
				defer r.Close()
			}
			var short *fit.ShortfallError
			if err != nil && !errors.As(err, &short) {
				return err
			}
			if s.Engine == nil {
				return usagef("engine none has no models of its own")
			}
			return a.showModels(s.Ranked(req), w.asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&w.context, "context", "", "`TOKENS` per request; 0 is the most that fits")
	f.BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	f.BoolVar(&w.asJSON, "json", false, "as JSON")
	return c
}

func (a *app) showModels(ranked []fit.Ranked, asJSON bool) error {
	if asJSON {
		return a.json(map[string]any{"models": ranked})
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "   MODEL\t\tSIZE\tCONTEXT\tTOTAL\tVERDICT")
	for _, r := range ranked {
		mark := "  "
		word := map[fit.Verdict]string{fit.Fits: "fits", fit.Tight: "tight", fit.No: "does not fit", "": "not known"}[r.Verdict]
		if r.Best {
			mark = "* "
			word += ", best here"
		}
		switch {
		case r.OnBox:
			word += ", on the box"
		case r.Verdict.OK():
			word += ", to be pulled"
		}
		context, total := "–", "–"
		if r.Verdict != fit.No {
			context = fit.Tokens(r.Context)
			if r.Total != nil {
				total = r.Total.String()
			}
		}
		size := "–"
		if r.Weights != nil {
			size = r.Weights.String()
		}
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\t%s\n", mark, r.Model, r.Quant, size, context, total, word)
	}
	return w.Flush()
}

// silent ends with a code and says nothing more: the answer is on stdout already.
type silent struct{ code int }

func (e *silent) Error() string { return "exit " + strconv.Itoa(e.code) }

// showFit writes the parts of an answer, one a line, and the total with the limit beside it.
func showFit(w io.Writer, r fit.Result) {
	row := func(key string, b *fit.Bytes, note string) {
		if b != nil && (*b > 0 || key == "weights") {
			fmt.Fprintf(w, "%-11s %-10s %s\n", key, b, note)
		}
	}
	from := map[fit.Source]string{fit.FromFile: "file on the box", fit.FromAPI: "told by the engine", fit.FromCatalog: "size of the published file",
		fit.FromParams: "from parameters × bits"}[r.Source]
	row("weights", r.Weights, from)
	kv := ""
	if r.KVPerToken != nil {
		kv = fmt.Sprintf("%d tokens × %d bytes, %s", r.Context*max(1, r.Parallel), int64(*r.KVPerToken), r.KVType)
	}
	row("KV cache", r.KV, kv)
	row("state", r.State, "recurrent layers")
	row("buffers", r.Compute, r.ComputeRule)
	row("repacked", r.Repack, "a second copy of the weights for this CPU")
	row("reserve", r.Reserve, "what the runtime takes for itself")
	if r.Total == nil {
		fmt.Fprintln(w, "total       not known")
		return
	}
	line := fmt.Sprintf("%-11s %s", "total", r.Total)
	if r.ErrorBand != nil {
		line += fmt.Sprintf(" ± %.0f %%", *r.ErrorBand*100)
	}
	if r.Budget != nil {
		line += fmt.Sprintf("   of %s: %s", r.Budget, verdictText(r))
	}
	fmt.Fprintln(w, line)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note        "+n)
	}
}

func verdictText(r fit.Result) string {
	word := map[fit.Verdict]string{fit.Fits: "fits", fit.Tight: "tight", fit.No: "does not fit"}[r.Verdict]
	switch {
	case r.MaxContext == nil:
	case *r.MaxContext == 0:
		word += ", at no context"
	case r.ModelLimit != nil && *r.MaxContext >= *r.ModelLimit:
		word += fmt.Sprintf(", up to the model's own limit of %d tokens", *r.ModelLimit)
	default:
		word += fmt.Sprintf(", up to %d tokens", *r.MaxContext)
	}
	return word
}
