package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
	"rlca/tunnel"
)

func (a *app) statusCmd() *cobra.Command {
	var watch, asJSON bool
	c := &cobra.Command{
		Use: "status [HOST]", Short: "how every connected host stands; exit 1 if HOST is not connected", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if watch && asJSON {
				return usagef("--watch and --json do not go together")
			}
			if watch && a.talk.tty {
				return a.watch(args)
			}
			st, err := a.hosts(args)
			if err != nil {
				return err
			}
			if asJSON {
				return a.json(st)
			}
			if len(st.Hosts) == 0 {
				a.talk.say("nothing is connected")
				a.talk.say("hint: rlca connect HOST")
				return nil
			}
			fmt.Fprint(a.out, screen(st, a.talk.paint))
			return nil
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, "live, once a second, until Ctrl-C")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// hosts asks the supervisor, and keeps the host that was named.
func (a *app) hosts(args []string) (supervisor.Status, error) {
	client, err := a.client()
	if err != nil {
		return supervisor.Status{}, err
	}
	st, err := client.Status(a.ctx)
	if err != nil || len(args) == 0 {
		return st, err
	}
	for _, h := range st.Hosts {
		if h.Name == args[0] {
			return supervisor.Status{Hosts: []instance.Status{h}}, nil
		}
	}
	a.host = args[0]
	return st, &supervisor.NotConnectedError{Host: a.host}
}

// watch draws the screen again and again, on the terminal's other page, which is left as it was found.
func (a *app) watch(args []string) error {
	fmt.Fprint(a.out, "\x1b[?1049h\x1b[?25l")
	defer fmt.Fprint(a.out, "\x1b[?25h\x1b[?1049l")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	defer signal.Stop(stop)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		text := "nothing is connected\n"
		st, err := a.hosts(args)
		if err != nil {
			text = err.Error() + "\n"
		} else if len(st.Hosts) > 0 {
			text = screen(st, a.talk.paint)
		}
		fmt.Fprint(a.out, "\x1b[H"+strings.ReplaceAll(text, "\n", "\x1b[K\n")+"\x1b[J\nCtrl-C leaves, the connection stays\x1b[K")
		select {
		case <-tick.C:
		case <-stop:
			return nil
		case <-a.ctx.Done():
			return nil
		}
	}
}

// screen is the text of status: worst news first.
func screen(st supervisor.Status, paint func(string) string) string {
	var b strings.Builder
	for n, h := range st.Hosts {
		if n > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  %s\n", h.Name, headline(h, paint))
		row := func(key, left, right string) {
			if right == "" {
				fmt.Fprintf(&b, "  %-8s %s\n", key, left)
				return
			}
			fmt.Fprintf(&b, "  %-8s %-27s %s\n", key, left, right)
		}
		row("port", "http://"+h.Forward.Listen, traffic(h.Forward))
		if f := h.Forward; f.Token || f.Allow == "inference" {
			row("", strings.Join(kept(f), " · "), "")
		}
		if to := h.Forward.LeadsTo; to != "" {
			row("", "leads to "+to+" now", "back: rlca use "+h.Name)
		}
		if e := h.Engine; e != nil {
			row("engine", titled(e.Name, e.Version), bind(e)+" · "+e.Origin)
		}
		if m := h.Model; m != nil {
			row("model", strings.TrimSpace(m.Name+" "+m.Quant), fit.Tokens(m.Context)+" context")
		}
		if m := h.Meter; m != nil {
			if s := speed(m); s != "" {
				row("speed", s, "")
			}
			for _, w := range m.Warnings {
				row("trouble", w.Message, "")
			}
		}
		if m := h.Memory; m != nil {
			if s := memoryLine(m); s != "" {
				row("memory", s, "")
			}
			if m.Correction != nil {
				row("", "the prediction is "+m.Correction.String(), "")
			}
			if m.Warning != "" {
				row("trouble", m.Warning, "")
			}
		}
		if h.State == "up" && h.LastError != "" {
			row("trouble", h.LastError, "")
		}
	}
	return b.String()
}

func headline(h instance.Status, paint func(string) string) string {
	parts := []string{paint(h.State) + " " + ago(h.Since)}
	if h.State != "up" {
		parts[0] = paint(h.State)
		if h.LastError != "" {
			parts = append(parts, h.LastError+" for "+ago(h.Since))
		} else {
			parts = append(parts, "for "+ago(h.Since))
		}
		if h.State == string(tunnel.NeedsYou) {
			parts = append(parts, "then: rlca connect "+h.Name)
		}
		if h.Link != nil && h.Link.NextTry != nil {
			parts = append(parts, "next try in "+instance.Span(time.Until(*h.Link.NextTry)))
		}
		return strings.Join(parts, " · ")
	}
	if h.Local {
		return strings.Join(append(parts, "this machine"), " · ")
	}
	if l := h.Link; l != nil {
		if l.RTTms != nil {
			parts = append(parts, instance.Away(time.Duration(*l.RTTms*float64(time.Millisecond))))
		}
		if l.Reconnects > 0 {
			s := fmt.Sprintf("%d reconnects", l.Reconnects)
			if l.Reconnects == 1 {
				s = "1 reconnect"
			}
			if r := h.Reconnect; r != nil {
				s += fmt.Sprintf(", the last %s ago (back in %s)", ago(r.At), instance.Span(time.Duration(r.After*float64(time.Second))))
			}
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " · ")
}

func traffic(f instance.ForwardStatus) string {
	if f.Mode == "direct" {
		return "the engine's own port"
	}
	held := fmt.Sprintf("%d held", f.Held)
	if f.Held > 0 {
		held += " for " + instance.Span(time.Duration(f.HeldSince*float64(time.Second)))
	}
	line := fmt.Sprintf("%d connections now · %s · %d served · %d refused", f.Open, held, f.Served, f.Failed)
	if f.Reset > 0 {
		line += fmt.Sprintf(" · %d cut", f.Reset)
	}
	if f.Refused > 0 {
		line += fmt.Sprintf(" · %d kept out", f.Refused)
	}
	return line
}

// speed says how the model answered lately.
func speed(m *instance.MeterStatus) string {
	var parts []string
	if m.TokensPerSecond > 0 {
		parts = append(parts, fmt.Sprintf("%.3g tokens/s", m.TokensPerSecond))
	}
	if m.FirstTokenS > 0 {
		parts = append(parts, "first token in "+instance.Span(time.Duration(m.FirstTokenS*float64(time.Second))))
	}
	if m.Used > 0 && m.Context > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s tokens of context used", m.Used, fit.Tokens(m.Context)))
	}
	return strings.Join(parts, " · ")
}

// titled is an engine with its version. A build from source calls itself 0.0.0, which says nothing.
func titled(name, version string) string {
	if version == "" || version == "0.0.0" {
		return name
	}
	return name + " " + version
}

func bind(e *instance.EngineStatus) string {
	switch {
	case e.BoundLoopback == nil:
		return "bind not known"
	case *e.BoundLoopback:
		return "loopback only"
	}
	return "open to the box's network"
}

func memoryLine(m *instance.MemoryStatus) string {
	var parts []string
	if m.ModelBytes != nil {
		s := fmt.Sprintf("%s the model", fit.Bytes(*m.ModelBytes))
		if m.PredictedBytes != nil {
			s += fmt.Sprintf(" (predicted %s", fit.Bytes(*m.PredictedBytes))
			if m.Engine != nil {
				s += fmt.Sprintf(", the engine's log says %s", fit.Bytes(m.Engine.TotalBytes))
			}
			if m.TookBytes != nil {
				s += fmt.Sprintf(", the box has %s less", fit.Bytes(*m.TookBytes))
			}
			s += ")"
		}
		parts = append(parts, s)
	}
	if m.FreeBytes != nil && m.TotalBytes != nil {
		parts = append(parts, fmt.Sprintf("%.1f of %s were free before", fit.Bytes(*m.FreeBytes).GiB(), fit.Bytes(*m.TotalBytes)))
	}
	if m.AvailableBytes != nil {
		parts = append(parts, fmt.Sprintf("%.1f left now", fit.Bytes(*m.AvailableBytes).GiB()))
	}
	if m.SwapUsedBytes != nil {
		parts = append(parts, "swap "+swap(*m.SwapUsedBytes))
	}
	return strings.Join(parts, " · ")
}

func swap(n int64) string {
	if n == 0 {
		return "0"
	}
	return fit.Bytes(n).String()
}

// kept says what a port asks for or keeps out beside web pages.
func kept(f instance.ForwardStatus) (words []string) {
	if f.Token {
		words = append(words, "asks for a token (rlca env)")
	}
	if f.Allow == "inference" {
		words = append(words, "inference only")
	}
	return words
}
