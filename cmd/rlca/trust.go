package main

import (
	"errors"

	"github.com/spf13/cobra"

	"rlca/internal/instance"
	"rlca/tunnel"
)

func (a *app) trustCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "trust HOST", Short: "look at a box's host key and write it to known_hosts", Args: cobra.ExactArgs(1),
		Long: `trust shows the fingerprint of a host key that is not known yet and writes it to known_hosts after a yes.
A key that has changed is never replaced by it.`,
		RunE: func(_ *cobra.Command, args []string) error {
			req, err := a.request(args[0])
			if err != nil {
				return err
			}
			if req.Profile.Host == instance.Local {
				return usagef("local is this machine: it has no host key")
			}
			r, err := instance.Reach(a.ctx, req, nil, quiet)
			if err == nil {
				defer r.Close()
			}
			var unknown *tunnel.UnknownHostKeyError
			if !errors.As(err, &unknown) {
				var auth *tunnel.AuthError
				var phrase *tunnel.PassphraseError
				var secret *tunnel.SecretError
				if err == nil || errors.As(err, &auth) || errors.As(err, &phrase) || errors.As(err, &secret) { // these come after the host key was accepted
					a.talk.say("the host key of %s is known already", args[0])
					return nil
				}
				return err
			}
			a.talk.say("the host key of %s: %s %s", unknown.Host, unknown.KeyType, unknown.Fingerprint)
			if !yes && !a.yes("is that the box's key? It will be written to "+unknown.File) {
				return err
			}
			if err := tunnel.Trust(unknown); err != nil {
				return err
			}
			a.talk.say("%s is known now, in %s", unknown.Host, unknown.File)
			if client, err := a.client(); err == nil {
				client.Poke(a.ctx, req.Name) // a link that waits for this goes on at once; none may be there
			}
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask: the fingerprint was compared elsewhere")
	return c
}
