package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/harness"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
	"rlca/profiles"
	"rlca/remote"
	"rlca/tunnel"
)

// want are the flags that say what to serve; connect and plan share them.
type want struct {
	model, quant, context, engine string
	parallel                      int
	port                          int
	yes, acceptNew, force, asJSON bool
}

func (w *want) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&w.model, "model", "", "`MODEL` to serve: auto, an Ollama tag, a file on the box, a repository of Hugging Face")
	f.StringVar(&w.quant, "quant", "", "`QUANT`ization, as Q4_K_M")
	f.StringVar(&w.context, "context", "", "`TOKENS` per request, as 65536 or 64k; 0 is the most that fits")
	f.IntVar(&w.parallel, "parallel", 0, "`N` requests at once")
	f.StringVar(&w.engine, "engine", "", "`ENGINE`: auto, ollama, llama-server, vllm, or none for the link and the port alone")
	f.IntVar(&w.port, "port", 0, "local `PORT` on 127.0.0.1")
	f.BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	f.BoolVar(&w.asJSON, "json", false, "the answer as JSON")
}

// wanted is the request for a host with the flags laid over it.
func (a *app) wanted(c *cobra.Command, host string, w want) (instance.Request, error) {
	req, err := a.request(host)
	if err != nil {
		return req, err
	}
	if err := w.lay(c, &req); err != nil {
		return req, err
	}
	return req, a.withWorkers(&req)
}

// lay puts the flags that were given over the profile.
func (w *want) lay(c *cobra.Command, req *instance.Request) error {
	set, p := c.Flags().Changed, &req.Profile
	if set("model") {
		p.Model.Name = w.model
	}
	if set("context") {
		n, err := fit.ParseTokens(w.context)
		if err != nil {
			return usagef("--context %s: %v", w.context, err)
		}
		p.Model.Context = n
	}
	if set("parallel") {
		p.Model.Parallel = w.parallel
	}
	if set("engine") {
		p.Engine.Name = w.engine
	}
	if set("port") {
		if w.port < 0 || w.port > 65535 {
			return usagef("--port %d: a port is 1 to 65535", w.port)
		}
		p.Forward.Listen = fmt.Sprintf("127.0.0.1:%d", w.port)
	}
	req.Quant, req.MayPull, req.Force, req.AcceptNew = w.quant, w.yes, w.force, w.acceptNew
	req.MayReplace = w.yes
	check := *p // what the profile's own rules do not have: user@host as it was typed, and port 0 for any that is free
	check.Host = "host"
	if w.port == 0 && set("port") {
		check.Forward.Listen = profiles.Default().Forward.Listen
	}
	if err := check.Check(); err != nil {
		return usagef("%v", err)
	}
	return nil
}

func (a *app) connectCmd() *cobra.Command {
	var w want
	var foreground bool
	c := &cobra.Command{
		Use: "connect HOST", Short: "the main job: from an SSH login to a model on 127.0.0.1", Args: cobra.ExactArgs(1),
		Long: `connect dials HOST, measures its memory, works out which model fits, starts or adopts the engine
there, and opens a local port that leads to it and stays open until rlca disconnect.

HOST is a profile, a name of ssh_config, user@host[:port], or local: this machine, without SSH.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := a.wanted(cmd, args[0], w)
			if err != nil {
				return err
			}
			return a.connect(req, foreground, w.asJSON)
		},
	}
	w.flags(c)
	c.Flags().BoolVar(&w.yes, "yes", false, "download the model on the box if it is not there, and start an engine of rlca's anew although somebody else may use it")
	c.Flags().BoolVar(&w.force, "force", false, "start a model that does not fit")
	c.Flags().BoolVar(&foreground, "foreground", false, "stay in this terminal until Ctrl-C")
	return c
}

// connect asks the supervisor, and asks the user what only a user can say, until the host is ready.
func (a *app) connect(req instance.Request, foreground, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if req.Laptop, err = client.Paths.Laptop(); err != nil {
		return err
	}
	if req.Profile.Forward.Token == "own" {
		if req.Token, err = client.Paths.Token(req.Name); err != nil {
			return err
		}
	}
	ended := make(chan error, 1)
	if foreground {
		stop, err := a.inProcess(client, ended)
		if err != nil {
			return err
		}
		defer stop()
	}
	var st *instance.Status
	var already bool
	for {
		st, already, err = client.Connect(a.ctx, req, a.talk.step)
		if err == nil {
			break
		}
		again, err := a.human(&req, err)
		if err != nil {
			return err
		}
		if !again {
			return errors.New("not connected")
		}
	}
	url := "http://" + st.Forward.Listen
	if already {
		a.talk.say("already connected for %s: %s", ago(st.Since), url)
	} else {
		a.after(req)
	}
	if asJSON {
		if err := a.json(supervisor.Status{Hosts: []instance.Status{*st}}); err != nil {
			return err
		}
	}
	if !foreground {
		return nil
	}
	a.talk.say("Ctrl-C closes the port")
	select {
	case <-a.ctx.Done():
	case err := <-ended:
		return err
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), 20*time.Second)
	defer cancel()
	closed, err := client.Disconnect(end, req.Name, supervisor.LeaveEngine)
	if err != nil {
		return err
	}
	a.sayClosed(closed)
	return nil
}

// inProcess runs a supervisor in this process unless one runs already.
func (a *app) inProcess(c *supervisor.Client, ended chan<- error) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(a.ctx))
	done := make(chan struct{})
	s := &supervisor.Server{Paths: c.Paths, Version: version, Stay: true}
	failed := make(chan error, 1)
	go func() {
		defer close(done)
		err := s.Run(ctx)
		if supervisor.Running(err) {
			failed <- nil
			return
		}
		failed <- err
		if ctx.Err() == nil {
			ended <- err
		}
	}()
	select { // it answers at once, or it says at once why not
	case err = <-failed:
	case <-s.Ready():
	}
	return func() { cancel(); <-done }, err
}

// after is what is said below the last line of the walk.
func (a *app) after(req instance.Request) {
	next := append(a.installed(), "eval \"$(rlca env "+req.Name+")\"", "rlca status", "rlca disconnect "+req.Name)
	if a.talk.tty {
		a.talk.line("")
		a.talk.line("next: " + strings.Join(next, " · "))
	}
	if req.HasProfile || req.Profile.Host == instance.Local || !strings.ContainsAny(req.Name, "@:") {
		return
	}
	name := profileName(req.Name)
	if dir, err := a.profiles(); err == nil {
		if _, err := dir.Read(name); err == nil {
			return
		}
	}
	if a.talk.tty && a.yes("keep this as profile "+name+"?") {
		if p, err := profileFor(req.Name); err == nil {
			if err := a.addProfile(name, p); err != nil {
				a.talk.say("the profile was not written: %v", err)
			}
		}
		return
	}
	a.talk.say("hint: keep it as a profile: rlca profile add %s %s", name, req.Name)
}

// installed is how to start a harness that this machine has, if it has one.
func (a *app) installed() []string {
	for _, name := range harness.Names() {
		if t, err := harness.Find(name); err == nil && !t.Generic() && !t.FileOnly {
			if _, err := t.Locate(a.getenv); err == nil {
				return []string{"rlca launch " + name}
			}
		}
	}
	return nil
}

// profileName makes a profile's name of user@host:port.
func profileName(host string) string {
	_, name, _, err := tunnel.SplitHost(host)
	if err != nil {
		return "box"
	}
	if first, _, ok := strings.Cut(name, "."); ok && profiles.CheckName(first) == nil && !strings.ContainsAny(first[:1], "0123456789") {
		name = first
	}
	if profiles.CheckName(name) != nil {
		return "box"
	}
	return name
}

// human asks what err needs a person for. again says that the request now has the answer; without a terminal, or
// with a no, the error stands.
func (a *app) human(req *instance.Request, err error) (again bool, _ error) {
	var unknown *tunnel.UnknownHostKeyError
	var phrase *tunnel.PassphraseError
	var secret *tunnel.SecretError
	var missing *remote.ModelMissingError
	var short *fit.ShortfallError
	var none *remote.NotInstalledError
	var busy *remote.InUseError
	if !errors.As(err, &secret) {
		req.Spend() // whatever it was, the login is over
	}
	switch {
	case secret != nil:
		if !a.answer(req, secret) {
			return false, err
		}
		return true, nil
	case errors.As(err, &unknown) && unknown.MayAsk():
		if !a.canAsk() {
			return false, err
		}
		a.talk.say("the host key of %s is not known: %s %s", unknown.Host, unknown.KeyType, unknown.Fingerprint)
		if !a.yes("is that the box's key? It will be written to " + unknown.File) {
			return false, err
		}
		return true, tunnel.Trust(unknown)
	case errors.As(err, &phrase):
		p := a.secret("passphrase of " + phrase.File + ":")
		if len(p) == 0 {
			return false, err
		}
		if req.Passphrases == nil {
			req.Passphrases = map[string]string{}
		}
		if req.Passphrases[phrase.File] == string(p) {
			return false, err
		}
		req.Passphrases[phrase.File] = string(p)
		return true, nil
	case errors.As(err, &none) && none.Engine == "vLLM" && req.Profile.Engine.Install == "ask":
		return a.installVLLM(req, err)
	case errors.As(err, &missing) && !req.MayPull:
		if len(missing.Known) > 0 {
			a.talk.say("rlca knows no %s; did you mean %s?", missing.Model, strings.Join(missing.Known, " or "))
		}
		if !a.yes(missing.Model + " is not on the box" + sizeOf(missing) + ": download it there?") {
			return false, err
		}
		req.MayPull = true
		return true, nil
	case errors.As(err, &busy) && !req.MayReplace:
		if !a.canAsk() {
			return false, err
		}
		a.talk.say("%s on %s of the box serves %s, and %s", busy.Engine, busy.Address, busy.Serves, busy.Users())
		if !a.yes("start it anew with " + busy.Want + "? Whoever uses it loses it") {
			return false, err
		}
		req.MayReplace = true
		return true, nil
	case errors.As(err, &short) && req.Force && !req.Forced:
		a.talk.say("%v", err)
		a.talk.say("on unified memory a start that is too big can freeze the whole box, SSH included")
		if s, ok := a.ask("type force to start it all the same:"); !ok || s != "force" {
			return false, err
		}
		req.Forced = true
		return true, nil
	}
	return false, err
}

// answer asks what the box asks. It is false when nobody can be asked, or nothing new is said.
func (a *app) answer(req *instance.Request, e *tunnel.SecretError) bool {
	if !a.canAsk() {
		return false
	}
	if e.Wrong {
		a.talk.say("%v", e)
	}
	fresh := false
	for i, q := range e.Questions {
		if q.Instruction != "" && i == 0 {
			a.talk.say("%s says: %s", q.Host, q.Instruction)
		}
		text, ok := a.answerOne(q)
		if !ok {
			return false
		}
		fresh = req.Say(q, text) || fresh
	}
	return fresh
}

// answerOne puts one question, with the name of who asks before the box's own words.
func (a *app) answerOne(q tunnel.Question) (text string, ok bool) {
	question := "(" + q.User + "@" + q.Host + ") " + q.Prompt
	if q.Prompt == "" {
		question = "password of " + q.User + "@" + q.Host + ":"
	}
	if q.Echo {
		return a.ask(question)
	}
	b := a.secret(question)
	return string(b), len(b) > 0
}

func sizeOf(m *remote.ModelMissingError) string {
	if m.Bytes <= 0 {
		return ""
	}
	return fmt.Sprintf(" (about %s)", fit.Bytes(m.Bytes))
}

func (a *app) disconnectCmd() *cobra.Command {
	var stopEngine, uninstall, yes bool
	c := &cobra.Command{
		Use: "disconnect [HOST]", Short: "close the port and the link; --stop-engine also stops the engine if rlca started it", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) (failed error) {
			if yes && !stopEngine {
				return usagef("--yes goes with --stop-engine: closing the port needs none")
			}
			if uninstall && !stopEngine {
				return usagef("--uninstall goes with --stop-engine: an engine that runs cannot be removed")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			host, err := a.onlyHost(args)
			if err != nil {
				return err
			}
			if uninstall {
				defer func() {
					if failed == nil {
						failed = a.uninstall(host)
					}
				}()
			}
			stop := supervisor.LeaveEngine
			switch {
			case stopEngine && yes:
				stop = supervisor.StopAlways
			case stopEngine:
				stop = supervisor.StopIfIdle
			}
			closed, err := client.Disconnect(a.ctx, host, stop)
			if a.takeAway(err) {
				yes = true
				closed, err = client.Disconnect(a.ctx, host, supervisor.StopAlways)
			}
			var gone *supervisor.NotConnectedError
			if stopEngine && (errors.As(err, &gone) || errors.Is(err, supervisor.ErrNotRunning)) {
				return a.stopEngine(host, yes) // the port is closed already, the engine may still run
			}
			if err != nil {
				return err
			}
			a.sayClosed(closed)
			if closed.Error != "" {
				return errors.New("the engine on " + host + " was not stopped: " + closed.Error)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&stopEngine, "stop-engine", false, "also stop the engine on the box, if rlca started it")
	c.Flags().BoolVar(&yes, "yes", false, "stop it although another laptop may be using it")
	c.Flags().BoolVar(&uninstall, "uninstall", false, "with --stop-engine: also remove the vLLM that rlca installed there")
	return c
}

func (a *app) sayClosed(c *supervisor.Closed) {
	a.talk.say("%s: the port is closed", c.Host)
	for _, s := range c.Stopped {
		a.talk.say("%s: %s", c.Host, s)
	}
	for _, l := range c.Left {
		a.talk.say("%s: still running: %s", c.Host, l)
	}
}

// takeAway asks about an engine that another laptop may be using, if that is the error.
func (a *app) takeAway(err error) bool {
	var busy *remote.InUseError
	if !errors.As(err, &busy) || !a.canAsk() {
		return false
	}
	return a.yes(busy.Engine + " on " + busy.Address + " of the box: " + busy.Users() + ". Stop it all the same?")
}

// stopEngine reaches a host that is not connected, to stop what rlca started there earlier.
func (a *app) stopEngine(host string, yes bool) error {
	req, err := a.request(host)
	if err != nil {
		return err
	}
	if err := a.withWorkers(&req); err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	if req.Laptop, err = client.Paths.Laptop(); err != nil {
		return err
	}
	req.MayReplace = yes
	stopped, err := instance.StopEngine(a.ctx, req, nil)
	if a.takeAway(err) {
		req.MayReplace = true
		stopped, err = instance.StopEngine(a.ctx, req, nil)
	}
	for _, s := range stopped {
		a.talk.say("%s: %s", host, s)
	}
	if err == nil && len(stopped) == 0 {
		a.talk.say("%s: nothing there was started by rlca", host)
	}
	return err
}
