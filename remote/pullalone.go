package remote

import (
	"context"
	"errors"
	"fmt"
)

// Pull downloads a model on the box, or what is new of one that is there, and loads nothing. An Ollama that does not run
// is started for it and stopped again. need is about how many bytes it takes, 0 if that is not known: where the disk has
// less, the error is a *PullError before anything is downloaded. When ctx ends it is a *PullStoppedError, and the next
// Pull goes on from what came.
func (o *Ollama) Pull(ctx context.Context, model string, need int64, progress func(Progress)) (*ModelFile, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	var j journal
	m, err := o.pullAlone(ctx, &j, model, need, progress)
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	var stopped *PullStoppedError
	if errors.As(err, &stopped) && stopped.Running {
		return nil, err // a server that it needs is not stopped
	}
	_, rest := o.takeBack(undoCtx, j)
	o.keep(rest)
	return m, err
}

func (o *Ollama) pullAlone(ctx context.Context, j *journal, model string, need int64, progress func(Progress)) (*ModelFile, error) {
	s, f, err := o.serve(ctx, j, Plan{Model: model, Address: o.address, MayPull: true}, progress)
	if err != nil {
		return nil, err
	}
	told := *s
	progress(Progress{Step: StepServing, Text: s.Title() + " on " + s.Address + ", " + s.Origin(), Server: &told})
	tags, err := o.api(s.Address).tags(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the models of %s: %w", s.Title(), err)
	}
	if need > 0 && findTag(tags, model) == nil {
		free, partial, err := o.room(ctx, f)
		if err != nil {
			return nil, err
		}
		if free >= 0 && need > free+partial {
			return nil, &PullError{Model: model, Class: "space", Need: need - partial, Have: free, Text: fmt.Sprintf("it takes about %s, and the disk of the models has %s free", gib(need), gib(free))}
		}
	}
	if err := o.pull(ctx, j, f, s.Address, model, progress); err != nil {
		return nil, err
	}
	if tags, err = o.api(s.Address).tags(ctx); err != nil {
		return nil, fmt.Errorf("list the models of %s: %w", s.Title(), err)
	}
	t := findTag(tags, model)
	if t == nil {
		return nil, &PullError{Model: model, Class: "other", Text: s.Title() + " says that it is done, and does not list the model"}
	}
	return &ModelFile{Name: t.Name, Digest: t.Digest, Bytes: t.Size, Quant: known(t.Details.Quant), Family: clean(t.Details.Family)}, nil
}
