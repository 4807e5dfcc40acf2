package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"rlca/internal/harness"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
)

func (a *app) envCmd() *cobra.Command {
	var shell string
	var asJSON bool
	c := &cobra.Command{
		Use: "env [HOST]", Short: `lines that point OpenAI- and Anthropic-style clients at the port: eval "$(rlca env)"`, Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			host, err := a.onlyHost(args)
			if err != nil {
				return err
			}
			st, err := a.hosts([]string{host})
			if err != nil {
				return err
			}
			h := st.Hosts[0]
			e := endpoint(h)
			if h.Engine != nil && e.Model == "" {
				return fmt.Errorf("%s is not ready yet, its model is not known", host)
			}
			vars := e.Env(a.getenv)
			if asJSON {
				env := map[string]string{}
				for _, v := range vars {
					env[v.Name] = v.Value
				}
				return a.json(map[string]any{"host": host, "base_url": e.BaseURL, "model": e.Model, "context": e.Context, "env": env})
			}
			text, err := harness.Shell(shell, vars)
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

// endpoint is what a client needs to know of a connected host.
func endpoint(h instance.Status) harness.Endpoint {
	e := harness.Endpoint{BaseURL: "http://" + h.Forward.Listen}
	if h.Model != nil {
		e.Model, e.Context = h.Model.Name, h.Model.Context
	}
	return e
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
