package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/remote"
)

func (a *app) modelsCmd() *cobra.Command {
	var w want
	c := &cobra.Command{
		Use: "models HOST", Short: "what is on the box and what would fit, best first; models pull, models rm", Args: cobra.ExactArgs(1),
		Long: `models lists what is on the box and what would fit there, best first. models pull downloads a model on
the box, models rm removes one.

A host of the name pull or rm is reached by: rlca models -- pull`,
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
	f.StringVar(&w.engine, "engine", "", "`ENGINE` whose models they are: auto, ollama, llama-server or vllm")
	f.BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	f.BoolVar(&w.asJSON, "json", false, "as JSON")
	c.AddCommand(a.modelsPullCmd(), a.modelsRmCmd())
	return c
}

// careFlags are those of the verbs that care for the models of a box.
func (w *want) careFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&w.engine, "engine", "", "`ENGINE` that it is for: ollama, llama-server or vllm; else its name and what the box has decide")
	f.BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	f.BoolVar(&w.asJSON, "json", false, "as JSON")
}

// care is a host that is reached, and the request for one model there.
func (a *app) care(c *cobra.Command, w want, args []string) (*instance.Request, *instance.Reached, error) {
	req, err := a.wanted(c, args[0], w)
	if err != nil {
		return nil, nil, err
	}
	req.Profile.Model.Name = args[1]
	if c.Flags().Changed("engine") && w.engine == "none" {
		return nil, nil, usagef("--engine none has no models of its own")
	}
	r, err := a.reach(&req, a.talk.step)
	return &req, r, err
}

func (a *app) modelsPullCmd() *cobra.Command {
	var w want
	c := &cobra.Command{
		Use: "pull HOST MODEL", Short: "download a model on the box, for later", Args: cobra.ExactArgs(2),
		Long: `models pull downloads MODEL on the box: a tag of Ollama, by Ollama itself, or a repository of Hugging Face,
org/name or org/name:Q4_K_M, into the cache of the account there. Nothing is loaded, and no port is opened.
The download runs on the box; a link that is lost does not end it. What came stays, and the next pull goes on.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, r, err := a.care(cmd, w, args)
			if err != nil {
				return err
			}
			defer r.Close()
			done, err := instance.Pull(a.ctx, *req, r, slog.New(slog.DiscardHandler), a.talk.step, func(*fit.ShortfallError) bool {
				return w.yes || a.yes("it does not fit "+req.Name+" now; download it all the same?")
			})
			var stopped *remote.PullStoppedError
			if errors.As(err, &stopped) {
				a.saidStopped(args, stopped)
				return &silent{exitFailed}
			}
			if err != nil {
				return err
			}
			if w.asJSON {
				return a.json(done)
			}
			return nil
		},
	}
	w.careFlags(c)
	c.Flags().StringVar(&w.context, "context", "", "`TOKENS` per request that it has to fit with")
	c.Flags().BoolVar(&w.yes, "yes", false, "download a model, too, that does not fit the box")
	return c
}

// saidStopped says what became of a download that was left.
func (a *app) saidStopped(args []string, e *remote.PullStoppedError) {
	at := ""
	if e.Total > 0 {
		at = fmt.Sprintf(" at %s of %s", fit.Bytes(e.Done), fit.Bytes(e.Total))
	}
	if e.Running {
		a.talk.say("the download of %s goes on, on the box%s", e.Model, at)
		a.talk.say("hint: see how far it is: rlca models pull %s %s", args[0], args[1])
		return
	}
	a.talk.say("stopped the download of %s%s; what came stays on the box", e.Model, at)
	a.talk.say("hint: go on from there: rlca models pull %s %s", args[0], args[1])
}

func (a *app) modelsRmCmd() *cobra.Command {
	var w want
	c := &cobra.Command{
		Use: "rm HOST MODEL", Short: "remove a model from the box", Args: cobra.ExactArgs(2),
		Long: `models rm removes MODEL from the box after a yes: one of Ollama's by Ollama itself, a repository of Hugging
Face from the cache of the account there. One that is loaded, or that a connected host uses, is not removed, and no
other file is.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, r, err := a.care(cmd, w, args)
			if err != nil {
				return err
			}
			defer r.Close()
			gone, err := instance.FindRemoval(a.ctx, *req, r, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if user := a.userOf(r, gone.Model); user != "" {
				return &remote.RemoveError{Model: gone.Model, Class: "connected", Text: user + " is connected and uses it"}
			}
			what := fmt.Sprintf("%s of %s, %s", gone.Model, gone.Engine, fit.Bytes(gone.Bytes))
			if !w.yes {
				if !a.canAsk() {
					return &unaskedError{fmt.Sprintf("remove %s from %s: nobody can be asked whether that is meant", what, req.Name), "say it beforehand: --yes"}
				}
				if gone.Path != "" {
					a.talk.say("it lies in %s", gone.Path)
				}
				if !a.yes("remove " + what + ", from " + req.Name + "?") {
					return errors.New("nothing was removed")
				}
			}
			if err := gone.Remove(a.ctx); err != nil {
				return err
			}
			freed := "how much that freed could not be measured"
			if gone.FreedBytes != nil {
				freed = fit.Bytes(*gone.FreedBytes).String() + " freed"
			}
			a.talk.say("removed %s from %s, %s", gone.Model, req.Name, freed)
			if w.asJSON {
				return a.json(gone)
			}
			return nil
		},
	}
	w.careFlags(c)
	c.Flags().BoolVar(&w.yes, "yes", false, "ask nothing")
	return c
}

// userOf is a connected host that leads to the same box and serves the model, empty if there is none.
func (a *app) userOf(r *instance.Reached, model string) string {
	client, err := a.client()
	if err != nil {
		return ""
	}
	st, err := client.Status(a.ctx)
	if err != nil {
		return "" // nothing is connected
	}
	for _, h := range st.Hosts {
		if h.Model == nil || !servesModel(h.Model.Name, model) {
			continue
		}
		if req, err := a.request(h.Name); err == nil && r.SameBox(a.ctx, req) {
			return h.Name
		}
	}
	return ""
}

// servesModel reports whether a served name is that of a model, or of a copy of it with a context of its own, or of a file
// of its repository.
func servesModel(served, model string) bool {
	served, _, _ = strings.Cut(served, "-rlca")
	repo, _, _ := strings.Cut(served, ":")
	return strings.EqualFold(served, model) || strings.Contains(model, "/") && strings.EqualFold(repo, model) || strings.EqualFold(served+":latest", model)
}

// unaskedError says that a question was to be put, and nobody is there: exit 5.
type unaskedError struct{ text, hint string }

func (e *unaskedError) Error() string { return e.text }

// removeHints are what can be done about a model that was not removed.
func removeHints(e *remote.RemoveError) []string {
	switch e.Class {
	case "missing":
		if len(e.Near) > 0 {
			return []string{"on the box: " + strings.Join(e.Near, ", ")}
		}
		return []string{"rlca models HOST says what is on the box"}
	case "loaded", "connected":
		return []string{"close what uses it: rlca disconnect HOST --stop-engine; or on the box: ollama stop " + e.Model}
	case "used":
		return []string{"end what uses it there, then try again"}
	case "pulling":
		return []string{"wait until it has come, or stop it where it was begun"}
	}
	return nil
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
			if r.Context > 0 {
				context = fit.Tokens(r.Context)
			}
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
