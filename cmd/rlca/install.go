package main

import (
	"errors"
	"log/slog"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/remote"
)

// vllmOn drives the vLLM of a host that is reached. The caller closes the connection.
func (a *app) vllmOn(req *instance.Request) (*remote.VLLM, *instance.Reached, error) {
	r, err := a.reach(req, quiet)
	if err != nil {
		return nil, nil, err
	}
	box := remote.Box{Run: r.Run, Dial: r.Far.Dial, Log: slog.New(slog.DiscardHandler)}
	return remote.NewVLLM(box, req.Profile.Engine.Address), r, nil
}

// installVLLM shows what would install vLLM on a box that has none, and does it after a yes. Without one cause stands.
func (a *app) installVLLM(req *instance.Request, cause error) (again bool, _ error) {
	if !a.canAsk() {
		return false, cause
	}
	v, r, err := a.vllmOn(req)
	if err != nil {
		return false, err
	}
	defer r.Close()
	plan, err := v.PlanInstall(a.ctx)
	var no *remote.InstallError
	if errors.As(err, &no) {
		a.talk.say("rlca cannot install it there: %s", no.Text)
		return false, cause
	}
	if err != nil {
		return false, err
	}
	a.talk.say("there is no vLLM on %s. This would run there, without root:", req.Name)
	for _, c := range plan.Commands {
		a.talk.say("  %s", c)
	}
	room := ""
	if plan.Free > 0 {
		room = ", and " + fit.Bytes(plan.Free).String() + " are free"
	}
	a.talk.say("it takes about %s in %s%s; rlca disconnect %s --stop-engine --uninstall takes it back", fit.Bytes(plan.Need), plan.Folder, room, req.Name)
	if !a.yes("install it?") {
		return false, cause
	}
	if err := v.Install(a.ctx, func(p remote.Progress) { a.talk.step(instance.Event{Step: instance.StepEngine, Text: p.Text}) }); err != nil {
		return false, err
	}
	a.talk.step(instance.Event{Step: instance.StepEngine, Text: "vLLM is installed in " + plan.Folder, Done: true})
	return true, nil
}

// uninstall takes back what installVLLM put on a box.
func (a *app) uninstall(host string) error {
	req, err := a.request(host)
	if err != nil {
		return err
	}
	v, r, err := a.vllmOn(&req)
	if err != nil {
		return err
	}
	defer r.Close()
	removed, err := v.Uninstall(a.ctx)
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		a.talk.say("%s: rlca installed no engine there", host)
	}
	for _, s := range removed {
		a.talk.say("%s: %s", host, s)
	}
	return nil
}
