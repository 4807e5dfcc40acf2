package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rlca/internal/harness"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
)

func (a *app) envCmd() *cobra.Command {
	var shell string
	var asJSON bool
	c := &cobra.Command{
		Use: "env [HOST] [HARNESS]", Short: `lines that point OpenAI- and Anthropic-style clients, or one harness, at the port: eval "$(rlca env)"`, Args: cobra.MaximumNArgs(2),
		Long: `env prints the lines that point a shell's OpenAI- and Anthropic-style clients at the port. With the name of a harness it prints
all that this one wants to know, and takes away what would lead it elsewhere.

HARNESS is ` + strings.Join(byEnv(), ", ") + `.`,
		RunE: func(_ *cobra.Command, args []string) error {
			args, tool, err := a.hostAndTool(args)
			if err != nil {
				return err
			}
			host, err := a.onlyHost(args)
			if err != nil {
				return err
			}
			st, err := a.hosts([]string{host})
			if err != nil {
				return err
			}
			h := st.Hosts[0]
			e, err := a.endpoint(h)
			if err != nil {
				return err
			}
			if h.Engine != nil && e.Model == "" {
				return fmt.Errorf("%s is not ready yet, its model is not known", host)
			}
			setup := harness.Setup{Set: e.Env(a.getenv)}
			if tool != nil {
				if err := a.speaks(tool, h, e); err != nil {
					return err
				}
				setup = tool.Setup(e, harness.Options{Getenv: a.getenv})
			}
			if asJSON {
				env := map[string]string{}
				for _, v := range setup.Set {
					env[v.Name] = v.Value
				}
				answer := map[string]any{"host": host, "base_url": e.BaseURL, "model": e.Model, "context": e.Context, "env": env}
				if tool != nil {
					answer["harness"], answer["unset"], answer["args"] = tool.Name, append([]string{}, setup.Unset...), append([]string{}, setup.Args...)
				}
				return a.json(answer)
			}
			text, err := harness.Shell(shell, setup.Set, setup.Unset...)
			if err != nil {
				return &usageError{err}
			}
			fmt.Fprint(a.out, text)
			return nil
		},
	}
	c.Flags().StringVar(&shell, "shell", "sh", "`SHELL`: sh, fish or powershell")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// hostAndTool tells the names of hosts and of harnesses apart; a host that is connected under the name of a harness wins.
func (a *app) hostAndTool(args []string) (host []string, tool *harness.Tool, err error) {
	for _, arg := range args {
		t, notFound := harness.Find(arg)
		if notFound != nil || tool != nil {
			host = append(host, arg)
			continue
		}
		if _, err := a.hosts([]string{arg}); err == nil && len(host) == 0 {
			host = append(host, arg)
			continue
		}
		if tool = t; !tool.ByEnv() {
			return nil, nil, usagef("variables do not lead %s to the port: rlca launch %s, or rlca wire %s", t.Title, t.Name, t.Name)
		}
	}
	if len(host) > 1 {
		return nil, nil, usagef("%s is no harness: %s", host[1], strings.Join(byEnv(), ", "))
	}
	return host, tool, nil
}

// byEnv are the harnesses that variables lead to the port.
func byEnv() []string {
	var out []string
	for _, n := range harness.Names() {
		if t, err := harness.Find(n); err == nil && t.ByEnv() {
			out = append(out, n)
		}
	}
	return out
}

// endpoint is what a client needs to know of a connected host.
func (a *app) endpoint(h instance.Status) (harness.Endpoint, error) {
	e := harness.Endpoint{BaseURL: "http://" + h.Forward.Listen}
	if h.Model != nil {
		e.Model, e.Context = h.Model.Name, h.Model.Context
	}
	if h.Forward.Token {
		p, err := a.paths()
		if err != nil {
			return e, err
		}
		if e.Token, err = p.Token(h.Name); err != nil {
			return e, err
		}
	}
	return e, nil
}

func (a *app) logsCmd() *cobra.Command {
	var follow, engine bool
	c := &cobra.Command{
		Use: "logs [HOST]", Short: "what rlca did; --engine: the engine's log on the box", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := a.paths()
			if err != nil {
				return err
			}
			if engine {
				if follow {
					return usagef("-f and --engine do not go together yet")
				}
				host, err := a.onlyHost(args)
				if err != nil {
					return err
				}
				client, err := a.client()
				if err != nil {
					return err
				}
				text, err := client.EngineLog(cmd.Context(), host)
				if err != nil {
					return err
				}
				fmt.Fprint(a.out, text)
				return nil
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return supervisor.Tail(cmd.Context(), p.Log(name), follow, a.out)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as lines come, until Ctrl-C")
	c.Flags().BoolVar(&engine, "engine", false, "the engine's own log, from the box")
	return c
}
