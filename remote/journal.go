package remote

import (
	"context"
	"maps"
	"slices"
)

// journal is what was done on the box and can be taken back.
type journal struct {
	started *record           // the server
	pulls   map[string]string // our downloads: name of the record → mark
	derived []copied
	loaded  []copied // models that were not in memory before
}

// copied is a model on a server.
type copied struct{ address, name string }

// join adds what another journal says.
func (j *journal) join(k journal) {
	if k.started != nil {
		j.started = k.started
	}
	for name, mark := range k.pulls {
		j.pulling(name, mark)
	}
	j.derived = append(j.derived, k.derived...)
	j.loaded = append(j.loaded, k.loaded...)
}

func (j *journal) pulling(name, mark string) {
	if j.pulls == nil {
		j.pulls = map[string]string{}
	}
	j.pulls[name] = mark
}

// unload forgets that a model was loaded, and reports whether it was.
func (j *journal) unload(m copied) bool {
	n := len(j.loaded)
	j.loaded = slices.DeleteFunc(j.loaded, func(l copied) bool { return l == m })
	return len(j.loaded) < n
}

// takeBack undoes a journal. It returns what was undone, in words, and what could not be.
func (o *Ollama) takeBack(ctx context.Context, j journal) (undone []string, rest journal) {
	failed := func(what string, err error) { o.log.Warn("not undone", "what", what, "err", err) }
	for _, name := range slices.Sorted(maps.Keys(j.pulls)) {
		if _, err := o.halt(ctx, name, j.pulls[name], pullFiles(name)...); err != nil {
			failed("download", err)
			rest.pulling(name, j.pulls[name])
			continue
		}
		undone = append(undone, "stopped the download, what came is kept")
	}
	for _, m := range j.loaded {
		if j.started != nil && j.started.address == m.address || slices.Contains(j.derived, m) {
			continue // goes with the server, or with the copy
		}
		if err := o.api(m.address).unload(ctx, m.name); err != nil {
			failed("load of "+m.name, err)
			rest.loaded = append(rest.loaded, m)
			continue
		}
		undone = append(undone, "unloaded "+m.name)
	}
	for _, m := range j.derived {
		if err := o.removeDerived(ctx, m); err != nil {
			failed("copy "+m.name, err)
			rest.derived = append(rest.derived, m)
			continue
		}
		undone = append(undone, "removed "+m.name)
	}
	ended, started := o.endStarted(ctx, j.started)
	rest.started = started
	return append(undone, ended...), rest
}
