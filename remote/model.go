package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// loadTries is how often a load is begun anew after its connection was lost: Ollama gives up a load that nobody
// waits for.
const loadTries = 5

// model makes the server hold the model with the context of the plan, and reads back what it holds.
func (o *Ollama) model(ctx context.Context, j *journal, f *facts, s *Server, plan Plan, progress func(Progress)) (Loaded, error) {
	a := o.api(s.Address)
	progress(Progress{Step: StepModel, Text: "looking for " + plan.Model})
	t, tags, err := o.have(ctx, j, f, s, plan, progress)
	if err != nil {
		return Loaded{}, err
	}
	if t.RemoteHost != "" {
		return Loaded{}, fmt.Errorf("use %s on the box: it runs at %s, prompts would leave the box", t.Name, clean(t.RemoteHost))
	}
	show, err := a.show(ctx, t.Name)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask about %s: %w", t.Name, err)
	}
	want := plan.Context
	if n := show.trained(); n > 0 && want > n {
		want = n // no server gives more than the model was trained with
	}
	// A copy that an earlier connect made is taken at once: loading the base first would only throw it out.
	if copied := derivedName(t.Name, want); want > 0 && plan.MayDerive && f.made(s.Address, copied) {
		if d := findTag(tags, copied); d != nil {
			l, err := o.load(ctx, j, s.Address, *d, t.Name, plan, progress)
			if err != nil || !l.unfit(want) {
				return l, err
			}
		}
	}
	l, err := o.load(ctx, j, s.Address, *t, t.Name, plan, progress)
	if err != nil || want <= 0 || !plan.MayDerive || !l.unfit(want) {
		return l, err
	}
	o.log.Info("the server's own context does not do", "model", t.Name, "context", l.Context, "wanted", want)
	progress(Progress{Step: StepModel, Text: fmt.Sprintf("giving %s a context of %d tokens instead of %d", t.Name, want, l.Context)})
	d, err := o.derive(ctx, j, s.Address, *t, tags, want)
	if err != nil {
		return Loaded{}, err
	}
	if j.unload(copied{s.Address, t.Name}) {
		if err := a.unload(ctx, t.Name); err != nil {
			o.log.Warn("the base stays loaded", "model", t.Name, "err", err)
		}
	}
	return o.load(ctx, j, s.Address, *d, t.Name, plan, progress)
}

// unfit reports whether another context would be better: this one is too small, or so big that the model has spilled
// out of the GPU.
func (l Loaded) unfit(want int) bool {
	if l.Context == 0 {
		return false // too old to tell
	}
	return l.Context < want || l.Context > want && l.VRAMBytes > 0 && l.VRAMBytes < l.SizeBytes
}

// have finds the model on the server, and pulls it if it is missing and that is allowed.
func (o *Ollama) have(ctx context.Context, j *journal, f *facts, s *Server, plan Plan, progress func(Progress)) (*tag, []tag, error) {
	a := o.api(s.Address)
	for pulled := false; ; pulled = true {
		tags, err := a.tags(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("list the models of %s: %w", s.Title(), err)
		}
		if t := findTag(tags, plan.Model); t != nil {
			return t, tags, nil
		}
		if !plan.MayPull || pulled {
			var names []string
			for _, t := range tags {
				if t.RemoteHost == "" {
					names = append(names, t.Name)
				}
			}
			return nil, nil, &ModelMissingError{Model: plan.Model, Near: near(plan.Model, names)}
		}
		if err := o.pull(ctx, j, f, s.Address, plan.Model, progress); err != nil {
			return nil, nil, err
		}
	}
}

func findTag(tags []tag, name string) *tag {
	i := slices.IndexFunc(tags, func(t tag) bool { return sameName(t.Name, name) })
	if i < 0 {
		return nil
	}
	return &tags[i]
}

// made reports whether the list on the box says that a derived model is ours.
func (f *facts) made(addr, name string) bool {
	return slices.ContainsFunc(f.derived, func(d copied) bool { return d.address == addr && sameName(d.name, name) })
}

// derive makes the copy of a model with another context. One that exists is used if it has that context, whoever
// made it; only those that we make are remembered, and so removed.
func (o *Ollama) derive(ctx context.Context, j *journal, addr string, base tag, tags []tag, want int) (*tag, error) {
	a := o.api(addr)
	name := derivedName(base.Name, want)
	if t := findTag(tags, name); t != nil {
		show, err := a.show(ctx, t.Name)
		if err != nil {
			return nil, fmt.Errorf("ask about %s: %w", t.Name, err)
		}
		if show.parameter("num_ctx") == want {
			return t, nil
		}
		return nil, fmt.Errorf("make %s with a context of %d: a model of that name exists, with another context", name, want)
	}
	m := copied{addr, name}
	if err := o.remember(ctx, m); err != nil {
		return nil, err
	}
	j.derived = append(j.derived, m)
	if err := a.derive(ctx, name, base.Name, want); err != nil {
		return nil, fmt.Errorf("make %s with a context of %d: %w", name, want, err)
	}
	tags, err := a.tags(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the models: %w", err)
	}
	t := findTag(tags, name)
	if t == nil {
		return nil, fmt.Errorf("make %s with a context of %d: the server said yes, but does not have it", name, want)
	}
	return t, nil
}

// parameter reads a number from the text of a model's parameters: "num_ctx    65536" on a line of its own.
func (s shown) parameter(name string) int {
	for line := range strings.Lines(s.Parameters) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// load brings a model into memory and reads back how. It tells what it waits for.
func (o *Ollama) load(ctx context.Context, j *journal, addr string, t tag, base string, plan Plan, progress func(Progress)) (Loaded, error) {
	a := o.api(addr)
	before, err := a.loaded(ctx, t.Name, base, t.Digest)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask what is loaded: %w", err)
	}
	if before.SizeBytes == 0 {
		j.loaded = append(j.loaded, copied{addr, t.Name})
	}
	size := ""
	if t.Size > 0 {
		size = ", " + gib(t.Size)
	}
	progress(Progress{Step: StepLoad, Total: t.Size, Text: "loading " + t.Name + size})
	start := time.Now()
	for try := 1; ; try++ {
		err := o.loadOnce(ctx, a, t.Name, keepAlive(plan.KeepAlive), func() {
			progress(Progress{Step: StepLoad, Total: t.Size, Text: fmt.Sprintf("loading %s%s for %s: the first time it is read from disk", t.Name, size, left(time.Since(start)))})
		})
		var status *statusError
		switch {
		case err == nil:
			l, err := a.loaded(ctx, t.Name, base, t.Digest)
			if err != nil {
				return Loaded{}, fmt.Errorf("ask what is loaded: %w", err)
			}
			return l, nil
		case ctx.Err() != nil:
			return Loaded{}, fmt.Errorf("load %s: %w", t.Name, ctx.Err())
		case errors.As(err, &status):
			return Loaded{}, loadError(t.Name, status.Text)
		case try >= loadTries:
			return Loaded{}, fmt.Errorf("load %s: %w", t.Name, err)
		}
		o.log.Warn("load broke off, begun again", "model", t.Name, "err", err)
		select {
		case <-ctx.Done():
			return Loaded{}, fmt.Errorf("load %s: %w", t.Name, ctx.Err())
		case <-time.After(o.poll):
		}
	}
}

// loadOnce waits for one load and calls tell every ten polls meanwhile.
func (o *Ollama) loadOnce(ctx context.Context, a *api, name string, keep any, tell func()) error {
	done := make(chan error, 1)
	go func() { done <- a.load(ctx, name, keep) }()
	tick := time.NewTicker(10 * o.poll)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			tell()
		}
	}
}
