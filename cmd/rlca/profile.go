package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rlca/internal/instance"
	"rlca/profiles"
	"rlca/tunnel"
)

func (a *app) profileCmd() *cobra.Command {
	c := &cobra.Command{Use: "profile", Short: "one file for each box: add, list, show, edit, remove",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.AddCommand(a.profileAdd(), a.profileList(), a.profileShow(), a.profileEdit(), a.profileRemove())
	return c
}

func (a *app) profileAdd() *cobra.Command {
	var model, engine, listen string
	var context int
	c := &cobra.Command{
		Use: "add NAME [HOST]", Short: "write a profile; HOST is an ssh_config alias, a name or user@host[:port], by default NAME",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, host := args[0], args[0]
			if len(args) == 2 {
				host = args[1]
			}
			p, err := profileFor(host)
			if err != nil {
				return usagef("%v", err)
			}
			set := cmd.Flags().Changed
			if set("model") {
				p.Model.Name = model
			}
			if set("engine") {
				p.Engine.Name = engine
			}
			if set("listen") {
				p.Forward.Listen = listen
			}
			if set("context") {
				p.Model.Context = context
			}
			return a.addProfile(name, p)
		},
	}
	f := c.Flags()
	f.StringVar(&model, "model", "", "`MODEL` to serve (default auto)")
	f.StringVar(&engine, "engine", "", "`ENGINE`: auto, ollama, llama-server, vllm or none")
	f.StringVar(&listen, "listen", "", "local `ADDRESS` of the port (default 127.0.0.1:11434)")
	f.IntVar(&context, "context", 0, "`TOKENS` per request; 0 is the most that fits")
	return c
}

// profileFor is a profile for user@host[:port] as typed.
func profileFor(host string) (*profiles.Profile, error) {
	p := profiles.Default()
	user, name, port, err := tunnel.SplitHost(host)
	if err != nil {
		return nil, err
	}
	p.Host, p.User = name, user
	if port != 0 {
		p.Port = port
	}
	return &p, nil
}

func (a *app) addProfile(name string, p *profiles.Profile) error {
	dir, err := a.profiles()
	if err != nil {
		return err
	}
	path, err := dir.Path(name)
	if err != nil {
		return usagef("%v", err)
	}
	if _, err := os.Stat(path); err == nil {
		return usagef("profile %s is there already: %s; change it with rlca profile edit %s", name, path, name)
	}
	if err := dir.Save(name, p); err != nil {
		return err
	}
	a.talk.say("profile %s is in %s", name, path)
	return nil
}

func (a *app) profileList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "the profiles there are", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.profiles()
			if err != nil {
				return err
			}
			list, err := dir.List()
			if err != nil {
				return err
			}
			type row struct {
				Name    string            `json:"name"`
				Profile *profiles.Profile `json:"profile"`
				Error   string            `json:"error,omitempty"`
			}
			rows := []row{}
			for _, e := range list {
				r := row{Name: e.Name, Profile: e.Profile}
				if e.Err != nil {
					r.Error = e.Err.Error()
				}
				rows = append(rows, r)
			}
			if asJSON {
				return a.json(map[string]any{"profiles": rows})
			}
			if len(rows) == 0 {
				a.talk.say("no profiles in %s", string(dir))
				a.talk.say("hint: rlca profile add NAME user@host")
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tHOST\tMODEL\tENGINE\tPORT")
			for _, r := range rows {
				if r.Profile == nil {
					fmt.Fprintf(w, "%s\tcannot be used: %s\n", r.Name, strings.Split(r.Error, "\n")[0])
					continue
				}
				p := r.Profile
				host := p.Host
				if p.User != "" {
					host = p.User + "@" + host
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name, host, p.Model.Name, p.Engine.Name, p.Forward.Listen)
			}
			return w.Flush()
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func (a *app) profileShow() *cobra.Command {
	var resolved, asJSON bool
	c := &cobra.Command{
		Use: "show HOST", Short: "a profile as it is written; --resolved: what would be dialed, without dialing", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if resolved {
				return a.showResolved(args[0], asJSON)
			}
			dir, err := a.profiles()
			if err != nil {
				return err
			}
			if asJSON {
				p, err := dir.Load(args[0])
				if err != nil {
					return err
				}
				return a.json(p)
			}
			text, err := dir.Read(args[0])
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		},
	}
	c.Flags().BoolVar(&resolved, "resolved", false, "what would be dialed, and where each value comes from")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func (a *app) showResolved(host string, asJSON bool) error {
	req, err := a.request(host)
	if err != nil {
		return err
	}
	if host == instance.Local {
		return usagef("local is this machine: nothing is dialed")
	}
	t, err := instance.Resolve(a.ctx, req)
	if err != nil {
		return err
	}
	r := t.Resolved()
	if asJSON {
		return a.json(r)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	row := func(key, field string, vals ...string) {
		v := strings.Join(vals, " ")
		if v == "" {
			v = "none"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", key, v, r.From[field])
	}
	row("host", "host", r.Host)
	row("hostname", "hostname", r.Hostname)
	row("user", "user", r.User)
	row("port", "port", fmt.Sprint(r.Port))
	row("identity files", "identity_files", r.IdentityFiles...)
	row("certificates", "certificate_files", r.CertificateFiles...)
	row("agent", "identity_agent", r.IdentityAgent)
	row("jumps", "jumps", r.Jumps...)
	row("proxy command", "proxy_command", r.ProxyCommand)
	row("host key alias", "host_key_alias", r.HostKeyAlias)
	row("known hosts", "user_known_hosts_files", r.UserKnownHostsFiles...)
	row("global known hosts", "global_known_hosts_files", r.GlobalKnownHostsFiles...)
	row("host key check", "strict_host_key_checking", r.StrictHostKeyChecking)
	row("connect timeout", "connect_timeout_s", (time.Duration(r.ConnectTimeoutS) * time.Second).String())
	row("read by", "", r.Source)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, warning := range r.Warnings {
		a.talk.say("warning: %s", warning)
	}
	return nil
}

func (a *app) profileEdit() *cobra.Command {
	return &cobra.Command{
		Use: "edit NAME", Short: "open a profile in $VISUAL or $EDITOR; it is written back only if it is right", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.profiles()
			if err != nil {
				return err
			}
			text, err := dir.Read(args[0])
			if err != nil {
				return err
			}
			tmp, err := os.MkdirTemp("", "rlca-edit-*")
			if err != nil {
				return err
			}
			file := filepath.Join(tmp, args[0]+".toml")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				return err
			}
			if err := a.edit(cmd, file); err != nil {
				os.RemoveAll(tmp)
				return err
			}
			after, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if string(after) == string(text) {
				a.talk.say("profile %s is as it was", args[0])
				return os.RemoveAll(tmp)
			}
			if err := dir.Write(args[0], after); err != nil {
				return fmt.Errorf("profile %s is not changed, your text is kept in %s: %w", args[0], file, err)
			}
			a.talk.say("profile %s is changed", args[0])
			return os.RemoveAll(tmp)
		},
	}
}

func (a *app) edit(cmd *cobra.Command, file string) error {
	editor := a.getenv("VISUAL")
	if editor == "" {
		editor = a.getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
		if runtime.GOOS == "windows" {
			editor = "notepad"
		}
	}
	words := strings.Fields(editor) // "code --wait" is common
	e := exec.CommandContext(cmd.Context(), words[0], append(words[1:], file)...)
	e.Stdin, e.Stdout, e.Stderr = a.in, a.out, a.talk.w
	if err := e.Run(); err != nil {
		return fmt.Errorf("editor %s: %w", editor, err)
	}
	return nil
}

func (a *app) profileRemove() *cobra.Command {
	return &cobra.Command{Use: "remove NAME", Short: "delete a profile", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.profiles()
			if err != nil {
				return err
			}
			if err := dir.Remove(args[0]); err != nil {
				return err
			}
			a.talk.say("profile %s is removed", args[0])
			return nil
		}}
}
