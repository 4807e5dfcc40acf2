package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rlca/internal/instance"
	"rlca/tunnel"
)

// Limits of a doctor's steps, besides those of the exam: all of it ends within a minute, without the time in which a
// person is asked.
const (
	doctorStatus = 5 * time.Second
	doctorReach  = 12 * time.Second
)

func (a *app) doctorCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor [HOST]", Short: "the whole path from the port to the model's memory, each trouble with a remedy; exit 1 if something fails", Args: cobra.MaximumNArgs(1),
		Long: `doctor looks at every part of the path, in its order: the port on this machine, the link, the host key, the box,
the engine and who can reach it, the model, its context, where it lies, what it takes, and the disks. It changes nothing.

HOST need not be connected. Without HOST it is the only one that is.`,
		RunE: func(_ *cobra.Command, args []string) error {
			host, err := a.onlyHost(args)
			if err != nil {
				return err
			}
			req, err := a.request(host)
			if err != nil {
				return err
			}
			x, err := a.examine(req)
			if err != nil {
				return err
			}
			return a.tell(x, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// examine gathers what there is to know of the path to a host.
func (a *app) examine(req instance.Request) (*instance.Exam, error) {
	x := &instance.Exam{Request: req, Advise: func(err error) (facts, hints []string) {
		adv := adviseOn(err)
		if len(adv.hints) == 0 {
			return adv.facts, adv.plain
		}
		return adv.facts, adv.hints
	}}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(a.ctx, doctorStatus)
	st, err := client.Status(ctx)
	cancel()
	if err != nil {
		return nil, err
	}
	var others []instance.Status
	for _, h := range st.Hosts {
		if h.Name == req.Name {
			x.Status = &h
		} else {
			others = append(others, h)
		}
	}
	x.Here(a.ctx, others)
	waits := func(e instance.Event) { // what is waited for shows on a terminal, and goes again
		if !e.Done {
			a.talk.step(e)
		}
	}
	defer a.talk.calm()
	r, err := a.arrive(&req, waits)
	if a.ctx.Err() != nil {
		return nil, errors.New("stopped")
	}
	if err != nil {
		x.Missed(a.ctx, err)
		return x, nil
	}
	defer r.Close()
	x.Look(a.ctx, r, waits)
	return x, nil
}

// arrive dials a host. It asks for what a login needs, and for nothing that would be written down.
func (a *app) arrive(req *instance.Request, emit func(instance.Event)) (*instance.Reached, error) {
	for {
		ctx, cancel := context.WithTimeout(a.ctx, doctorReach)
		r, err := instance.Reach(ctx, *req, nil, emit)
		cancel()
		var phrase *tunnel.PassphraseError
		var secret *tunnel.SecretError
		if err == nil || !errors.As(err, &phrase) && !errors.As(err, &secret) {
			return r, err
		}
		if again, _ := a.human(req, err); !again {
			return nil, err
		}
	}
}

// tell writes the checks, and ends with the exit code that they mean.
func (a *app) tell(x *instance.Exam, asJSON bool) error {
	checks := x.Checks()
	if asJSON {
		answer := struct {
			Host   string           `json:"host"`
			Checks []instance.Check `json:"checks"`
		}{x.Request.Name, checks}
		if err := a.json(answer); err != nil {
			return err
		}
	} else {
		paint := func(word string) string { return word }
		if isTerminal(a.out) {
			paint = a.talk.paint
		}
		showChecks(a.out, checks, paint)
	}
	failed := slices.ContainsFunc(checks, func(c instance.Check) bool { return c.Severity == instance.Fail })
	switch {
	case failed && x.NeedsHuman():
		return &silent{code: exitHuman}
	case failed:
		return &silent{code: exitFailed}
	}
	return nil
}

// calm takes back a line that was to be rewritten.
func (t *talk) calm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
}

func showChecks(w io.Writer, checks []instance.Check, paint func(string) string) {
	todo := 0
	for _, c := range checks {
		word := string(c.Severity)
		id := strings.ReplaceAll(c.ID, "-", " ")
		fmt.Fprintf(w, "%s%s %-9s %s\n", paint(word), strings.Repeat(" ", 6-len(word)), id, c.Detail)
		if c.Severity != instance.Fine {
			todo++
		}
		mark := "→"
		for line := range strings.Lines(c.Remedy) {
			fmt.Fprintf(w, "%17s%s %s\n", "", mark, strings.TrimSuffix(line, "\n"))
			mark = " "
		}
	}
	if !slices.ContainsFunc(checks, func(c instance.Check) bool { return c.ID == "box" }) {
		fmt.Fprintln(w, "the box was not looked at: the way to it comes first")
	}
	switch todo {
	case 0:
		fmt.Fprintln(w, "nothing to do")
	case 1:
		fmt.Fprintln(w, "1 thing to do")
	default:
		fmt.Fprintf(w, "%d things to do\n", todo)
	}
}
