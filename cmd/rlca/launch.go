package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/harness"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
)

// toward are the flags that say where a harness is to be led; launch and wire share them.
type toward struct {
	host, model string
	loud, yes   bool
}

func (o *toward) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.host, "host", "", "`HOST`: one that is connected, or a profile, which is connected then (default: the only one that is connected)")
	f.StringVar(&o.model, "model", "", "`MODEL` to ask for (default: the one that is loaded)")
	f.BoolVar(&o.loud, "no-quiet", false, "leave the harness's statistics and its looking for updates as they are")
	f.BoolVar(&o.yes, "yes", false, "do not ask")
}

func (a *app) launchCmd() *cobra.Command {
	var o toward
	var trust bool
	c := &cobra.Command{
		Use: "launch HARNESS [-- ARGS]", Short: "run a coding harness with the model of a box, for this process only", Args: cobra.MinimumNArgs(1),
		Long: `launch runs a harness so that it uses the model of a connected box. It is set for this one process; none of your
files is written. Keys of vendors are not passed on, and what the folder that it is started in
would set or run is left out unless you trust it. The exit code is the harness's own.

HARNESS is ` + strings.Join(harness.Names(), ", ") + `.
With openai and anthropic the first of ARGS is the program to run.`,
		ValidArgs: harness.Names(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash > 1 || dash < 0 && len(args) > 1 {
				return usagef("%q: what is for the harness comes after --: rlca launch %s -- %s", args[1], args[0], strings.Join(args[1:], " "))
			}
			return a.launch(args[0], args[1:], o, trust)
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&trust, "trust-project", false, "let the folder set and run what it likes: its settings, hooks, plugins and MCP servers")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usagef("%v; what is for the harness comes after --", err)
	})
	return c
}

// launch finds the program before anything is dialed, and starts it when all that can be known beforehand is right.
func (a *app) launch(name string, args []string, o toward, trust bool) error {
	tool, err := harness.Find(name)
	if err != nil {
		return err
	}
	if tool.FileOnly {
		return usagef("%s takes its endpoint from its own settings alone: rlca wire %s", tool.Title, tool.Name)
	}
	program, args, err := a.program(tool, args)
	if err != nil {
		return err
	}
	h, e, err := a.endpointFor(tool, o)
	if err != nil {
		return err
	}
	if why := tool.Leaves(args); why != "" {
		a.talk.say("warning: %s", why)
	}
	opts := harness.Options{TrustProject: trust, Loud: o.loud, Getenv: a.getenv}
	if tool.NeedsDir() {
		if opts.Dir, err = os.MkdirTemp("", "rlca-launch-"); err != nil {
			return fmt.Errorf("make a folder for the settings of %s: %w", tool.Title, err)
		}
		defer os.RemoveAll(opts.Dir)
	}
	setup := tool.Setup(e, opts)
	if err := writeFiles(opts.Dir, setup.Files); err != nil {
		return err
	}
	environ := setup.Environ(os.Environ())
	if !program.InPath { // what it starts itself lies beside it: node, above all
		environ = append(environ, "PATH="+filepath.Dir(program.Path)+string(os.PathListSeparator)+a.getenv("PATH"))
	}
	if !tool.Generic() {
		tool.ReadVersion(a.ctx, &program, environ)
	}
	a.talk.say("%-7s %s", "model", a.launchLine(tool, program, h, e, setup.Dropped(os.Environ())))
	return a.child(program.Path, append(setup.Args, args...), environ)
}

// program is what will run. For a generic tool it is the first of the arguments.
func (a *app) program(tool *harness.Tool, args []string) (harness.Program, []string, error) {
	if !tool.Generic() {
		p, err := tool.Locate(a.getenv)
		return p, args, err
	}
	if len(args) == 0 {
		return harness.Program{}, nil, usagef("%s is %s: name the program after --", tool.Name, tool.Title)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return harness.Program{}, nil, fmt.Errorf("launch %s: %w", args[0], err)
	}
	return harness.Program{Path: path, InPath: true}, args[1:], nil
}

// launchLine is the one line that says what runs with what.
func (a *app) launchLine(tool *harness.Tool, p harness.Program, h instance.Status, e harness.Endpoint, dropped []string) string {
	line := e.Model
	if line == "" {
		line = "whatever is asked for"
	}
	line += " on " + h.Name
	if e.Context > 0 {
		line += ", " + fit.Tokens(e.Context) + " context"
	}
	if !tool.Generic() {
		line += ", for " + tool.Title
		switch {
		case p.Version == "":
		case tool.Tested == "":
			line += " " + p.Version + " (not tried with rlca)"
		case p.Version == tool.Tested:
			line += " " + p.Version
		default:
			line += " " + p.Version + " (tried: " + tool.Tested + ")"
		}
	}
	if len(dropped) > 0 {
		line += "; without " + strings.Join(dropped, ", ")
	}
	return line
}

func writeFiles(dir string, files []harness.PrivateFile) error {
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// child runs a program with this terminal, and ends as it ends. Ctrl-C is the program's: the terminal sends it
// to both, and rlca goes on waiting.
func (a *app) child(path string, args, environ []string) error {
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = a.in, a.out, a.talk.w, environ
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == os.Interrupt && isTerminal(a.in) {
				continue
			}
			cmd.Process.Signal(s) // it may have ended
		case err := <-done:
			return exitOf(path, err)
		}
	}
}

// exitOf makes the end of a program rlca's own: its code, or 128 and the signal that killed it, as a shell has it.
func exitOf(path string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("run %s: %w", path, err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &silent{128 + int(status.Signal())}
	}
	return &silent{exit.ExitCode()}
}

// endpointFor is what a harness is led to, with everything checked that would else be an error in its window.
func (a *app) endpointFor(tool *harness.Tool, o toward) (instance.Status, harness.Endpoint, error) {
	h, err := a.connected(o)
	if err != nil {
		return h, harness.Endpoint{}, err
	}
	e, err := a.endpoint(h)
	if err != nil {
		return h, e, err
	}
	if err := a.chooseModel(h, &e, o.model); err != nil {
		return h, e, err
	}
	if harness.Cloud(e.Model) {
		err := a.sure(o.yes, e.Model+" is run by Ollama's own service: every prompt would leave your machines",
			"take a model of the box, or say that it is meant: --yes")
		if err != nil {
			return h, e, err
		}
	}
	if err := a.speaks(tool, h, e); err != nil {
		return h, e, err
	}
	return h, e, a.roomy(tool, h, e, o.yes)
}

// connected is the host that is meant. A profile that is not connected is connected first.
func (a *app) connected(o toward) (instance.Status, error) {
	var args []string
	if o.host != "" {
		args = []string{o.host}
	}
	host, err := a.onlyHost(args)
	if err != nil {
		return instance.Status{}, err
	}
	st, err := a.hosts([]string{host})
	var offline *supervisor.NotConnectedError
	if errors.As(err, &offline) || errors.Is(err, supervisor.ErrNotRunning) {
		req, reqErr := a.request(host)
		if reqErr != nil {
			return instance.Status{}, reqErr
		}
		if !req.HasProfile {
			return instance.Status{}, &supervisor.NotConnectedError{Host: host}
		}
		if err := a.withWorkers(&req); err != nil {
			return instance.Status{}, err
		}
		req.MayPull = o.yes
		if err := a.connect(req, false, false); err != nil {
			return instance.Status{}, err
		}
		st, err = a.hosts([]string{host})
	}
	if err != nil {
		return instance.Status{}, err
	}
	return st.Hosts[0], nil
}

// chooseModel sets the model that was asked for, or the one that is there.
func (a *app) chooseModel(h instance.Status, e *harness.Endpoint, want string) error {
	if want == "" && e.Model != "" {
		return nil
	}
	if want == "" && h.Engine != nil {
		return fmt.Errorf("%s is not ready yet, its model is not known", h.Name)
	}
	served, err := a.served(*e)
	switch {
	case want != "" && want == e.Model:
	case want != "" && (err != nil || len(served) == 0 || slices.Contains(served, want) || slices.Contains(served, want+":latest")):
		e.Model, e.Context = want, 0 // while the link is down nobody can say more
	case want != "":
		return &usageError{fmt.Errorf("%s does not serve %s; it serves %s", h.Name, want, strings.Join(served, ", "))}
	case len(served) == 1:
		e.Model = served[0]
	case err != nil:
		return usagef("which model %s serves is not known: name it with --model", h.Name)
	default:
		return usagef("%s serves several models, name one with --model: %s", h.Name, strings.Join(served, ", "))
	}
	return nil
}

// served are the models that the endpoint lists.
func (a *app) served(e harness.Endpoint) ([]string, error) {
	ctx, cancel := context.WithTimeout(a.ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.BaseURL+"/v1/models", nil)
	if err != nil {
		return nil, err
	}
	if e.Token != "" {
		req.Header.Set("Authorization", "Bearer "+e.Token)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 4<<20)).Decode(&list); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range list.Data {
		names = append(names, m.ID)
	}
	return names, nil
}

// speaks fails if the engine does not have the harness's dialect. While nobody can be asked, it goes on.
func (a *app) speaks(tool *harness.Tool, h instance.Status, e harness.Endpoint) error {
	engine, version := "", ""
	if h.Engine != nil {
		engine, version = h.Engine.Name, h.Engine.Version
	}
	ok, known := tool.Speaks(engine, version)
	if !known {
		if h.Link != nil && h.Link.State != "up" {
			return nil
		}
		var err error
		if ok, err = tool.Ask(a.ctx, e); err != nil {
			return nil
		}
	}
	if !ok {
		return tool.Lacks(engine, version)
	}
	return nil
}

// roomy asks before a start with a context that the harness's own prompt fills.
func (a *app) roomy(tool *harness.Tool, h instance.Status, e harness.Endpoint, yes bool) error {
	if e.Context == 0 || e.Context >= 2*tool.Prompt {
		return nil
	}
	text := fmt.Sprintf("%s has a context of %s, and %s's own prompt takes about %dk of it", h.Name, fit.Tokens(e.Context), tool.Title, tool.Prompt/1000)
	hint := "connect with more: rlca connect " + h.Name + " --context 64k"
	if e.Context > tool.Prompt {
		a.talk.say("warning: %s", text)
		a.talk.say("hint: %s", hint)
		return nil
	}
	return a.sure(yes, text, hint+", or start it all the same: --yes")
}

// sure asks whether something is meant; without a yes, or somebody to ask, it is an error.
func (a *app) sure(yes bool, text, hint string) error {
	if yes {
		a.talk.say("warning: %s", text)
		return nil
	}
	if a.canAsk() {
		a.talk.say("%s", text)
		if a.yes("go on all the same?") {
			return nil
		}
	}
	return &unaskedError{text, hint}
}

// harnessAdvice is what can be done about a harness that is not known, not there, not understood or not wired. The one
// that is not nil is the error; with none of them a file could not be read.
func harnessAdvice(unknown *harness.UnknownError, missing *harness.NotInstalledError, dialect *harness.DialectError, unwired *harness.NotWiredError) advice {
	adv := advice{code: exitFailed}
	switch {
	case unknown != nil:
		adv.code = exitUsage
		if len(unknown.Near) > 0 {
			adv.hints = append(adv.hints, "did you mean "+strings.Join(unknown.Near, " or ")+"?")
		}
		adv.hints = append(adv.hints, "rlca knows "+strings.Join(unknown.All, ", "))
	case missing != nil:
		how := "install it: " + missing.Install
		if missing.Node >= 22 {
			how += fmt.Sprintf("   (with Node %d or later: with an older one npm takes an old version without a word)", missing.Node)
		}
		adv.hints = append(adv.hints, how)
	case dialect != nil:
		if dialect.Since != "" {
			adv.hints = append(adv.hints, "it is there since "+strings.TrimSpace(dialect.Engine+" "+dialect.Since)+": update it on the box")
		}
		adv.hints = append(adv.hints, "or take one that speaks "+string(harness.Chat)+": "+strings.Join(dialect.Others, ", "))
	case unwired != nil:
		if unwired.Backup != "" {
			adv.hints = append(adv.hints, "it was wired once, and the file was written anew since; as it was before: "+unwired.Backup)
		}
	default:
		adv.hints = append(adv.hints, "nothing was changed; mend the file, or set the harness for one run: rlca launch HARNESS")
	}
	return adv
}
