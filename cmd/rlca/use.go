package main

import (
	"github.com/spf13/cobra"
)

func (a *app) useCmd() *cobra.Command {
	var port int
	var asJSON bool
	c := &cobra.Command{
		Use: "use HOST", Short: "point the local port at another connected box, from the next request on", Args: cobra.ExactArgs(1),
		Long: `use makes the local port lead to HOST, which must be connected: the port 11434 if a connected host has it,
else that of the host that was connected first. No request is refused or cut: what is under way ends where it began.
The port leads back when it is pointed at its own host, or when HOST is disconnected.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if port < 0 || port > 65535 {
				return usagef("--port %d: a port is 1 to 65535", port)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			a.host = args[0]
			used, err := client.Use(a.ctx, a.host, port)
			if err != nil {
				return err
			}
			if asJSON {
				return a.json(used)
			}
			a.talk.say("http://%s leads to %s from the next request on", used.Listen, used.Host)
			return nil
		},
	}
	c.Flags().IntVar(&port, "port", 0, "the local `PORT` of a connected host, if not 11434")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}
