package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"rlca/internal/instance"
	"rlca/internal/supervisor"
	"rlca/profiles"
)

// app is what every verb has: the streams, the environment and the global flags.
type app struct {
	ctx    context.Context
	in     io.Reader
	out    io.Writer
	talk   *talk
	getenv func(string) string
	tty    *os.File // the terminal, once a question needs it
	host   string   // whom it is about, once that is known

	sshConfig string // -F
	configDir string // --config-dir
	stateDir  string // --state-dir
}

// usageError is a wrong use of a verb: exit 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rlca",
		Short: "a model on a bigger box, as if it ran on this laptop",
		Long: `rlca makes a model on a bigger box feel local. rlca connect HOST dials the box over SSH,
measures its memory, works out which coder fits, starts or adopts Ollama on the box's own
localhost, and keeps 127.0.0.1:11434 on this laptop open, through sleep and lost networks.

Try it without a box: rlca demo`,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%q is not a verb of rlca", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	f := root.PersistentFlags()
	f.StringVarP(&a.sshConfig, "ssh-config", "F", "", "use this ssh_config `FILE`, as ssh -F does (none: no file)")
	f.StringVar(&a.configDir, "config-dir", "", "`DIR` of the profiles (default $RLCA_CONFIG_DIR, or the system's own place)")
	f.StringVar(&a.stateDir, "state-dir", "", "`DIR` of sockets and logs (default $RLCA_STATE_DIR, or the system's own place)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		a.connectCmd(), a.disconnectCmd(), a.statusCmd(),
		a.probeCmd(), a.fitCmd(), a.planCmd(), a.modelsCmd(),
		a.envCmd(), a.launchCmd(), a.wireCmd(), a.unwireCmd(), a.useCmd(), a.logsCmd(), a.doctorCmd(), a.trustCmd(), a.profileCmd(),
		a.demoCmd(), a.versionCmd(), a.supervisorCmd(),
	)
	a.completions(root)
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// wrapArgs makes a wrong number of arguments a usage error that shows the usage line.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	if check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef("%s; usage: %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "which rlca this is", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(a.out, "rlca", version) },
	}
}

// profiles returns the folder of the profiles.
func (a *app) profiles() (profiles.Dir, error) {
	dir := a.configDir
	if dir == "" {
		var err error
		if dir, err = profiles.ConfigDir(a.getenv); err != nil {
			return "", err
		}
	}
	return profiles.Dir(filepath.Join(dir, "profiles")), nil
}

// catalog is the user's own file of models; it need not be there.
func (a *app) catalog() string {
	dir, err := a.profiles()
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(string(dir)), "catalog.toml")
}

func (a *app) paths() (supervisor.Paths, error) {
	if a.stateDir == "" {
		return supervisor.FindPaths(a.getenv)
	}
	return supervisor.FindPaths(func(k string) string {
		if k == "RLCA_STATE_DIR" {
			return a.stateDir
		}
		return a.getenv(k)
	})
}

// client returns the way to the supervisor of this user and state folder.
func (a *app) client() (*supervisor.Client, error) {
	p, err := a.paths()
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find rlca itself: %w", err)
	}
	command := []string{exe, "supervisor"}
	if a.stateDir != "" || a.getenv("RLCA_STATE_DIR") != "" { // else it finds the same folders itself, one of which is not below the other
		command = append(command, "--state-dir", p.State)
	}
	return &supervisor.Client{Paths: p, Version: version, Command: command}, nil
}

// supervisorCmd is what connect starts in the background. It is not for people.
func (a *app) supervisorCmd() *cobra.Command {
	return &cobra.Command{
		Use: "supervisor", Hidden: true, Args: cobra.NoArgs, Short: "the background process that connect starts",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := a.paths()
			if err != nil {
				return err
			}
			s := &supervisor.Server{Paths: p, Version: version}
			if err := s.Run(cmd.Context()); err != nil && !supervisor.Running(err) && cmd.Context().Err() == nil {
				return err
			}
			return nil
		},
	}
}

// request turns a host as typed into what is wanted of it: a profile of that name, or the defaults.
func (a *app) request(host string) (instance.Request, error) {
	req := instance.Request{
		Name: host, Profile: profiles.Default(), Catalog: a.catalog(),
		SSHConfig: a.sshConfig, OpenSSH: a.getenv("RLCA_OPENSSH"), AgentSocket: a.getenv("SSH_AUTH_SOCK"),
	}
	if p, err := a.paths(); err == nil {
		req.Loads = p.Loads()
	}
	if a.sshConfig != "" && a.sshConfig != "none" {
		abs, err := filepath.Abs(a.sshConfig)
		if err != nil {
			return req, err
		}
		if _, err := os.Stat(abs); err != nil {
			return req, usagef("-F %s: %v", a.sshConfig, err)
		}
		req.SSHConfig = abs
	}
	if st, err := a.hosts([]string{host}); err == nil && a.sshConfig == "" { // as it was connected
		req.SSHConfig = st.Hosts[0].SSHConfig
	}
	if host == "" || strings.HasPrefix(host, "-") {
		return req, usagef("%q is no host: give a profile, a name of ssh_config, user@host[:port] or local", host)
	}
	req.Profile.Host, a.host = host, host
	if host == instance.Local {
		return req, nil
	}
	dir, err := a.profiles()
	if err != nil {
		return req, err
	}
	if profiles.CheckName(host) != nil {
		return req, nil // user@host, host:port, …: never a profile
	}
	p, err := dir.Load(host)
	var none *profiles.NotFoundError
	if errors.As(err, &none) {
		return req, nil
	}
	if err != nil {
		return req, err
	}
	req.Profile, req.HasProfile = *p, true
	return req, nil
}

// withWorkers adds to a request the boxes that its profile's [cluster] names.
func (a *app) withWorkers(req *instance.Request) error {
	if len(req.Profile.Cluster.Workers) == 0 {
		return nil
	}
	dir, err := a.profiles()
	if err != nil {
		return err
	}
	for _, name := range req.Profile.Cluster.Workers {
		p, err := dir.Load(name)
		var none *profiles.NotFoundError
		switch {
		case errors.As(err, &none):
			return usagef("[cluster] of %s names %s, and there is no such profile: rlca profile add %s HOST", req.Name, name, name)
		case err != nil:
			return err
		case name == req.Name || p.Host == req.Profile.Host && p.User == req.Profile.User && p.Port == req.Profile.Port:
			return usagef("[cluster] of %s names %s, which is the same box", req.Name, name)
		}
		req.Workers = append(req.Workers, instance.Worker{Name: name, Profile: *p})
	}
	return nil
}

// json writes the answer of a --json flag.
func (a *app) json(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// onlyHost returns the host that a verb without HOST means: the only one that is connected.
func (a *app) onlyHost(args []string) (string, error) {
	if len(args) > 0 {
		a.host = args[0]
		return a.host, nil
	}
	c, err := a.client()
	if err != nil {
		return "", err
	}
	st, err := c.Status(a.ctx)
	if err != nil {
		return "", err
	}
	switch len(st.Hosts) {
	case 0:
		return "", supervisor.ErrNotRunning
	case 1:
		a.host = st.Hosts[0].Name
		return a.host, nil
	}
	var names []string
	for _, h := range st.Hosts {
		names = append(names, h.Name)
	}
	return "", usagef("several hosts are connected, name one: %s", strings.Join(names, ", "))
}
