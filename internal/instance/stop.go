package instance

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"

	"rlca/remote"
)

// StopEngine reaches a host that is not connected, and stops what rlca started there earlier. What another laptop may be
// using is a *remote.InUseError, and stays, unless req.MayReplace says that it is meant.
func StopEngine(ctx context.Context, req Request, log *slog.Logger) ([]string, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	req = req.Kept()
	r, err := reach(ctx, req, log, func(Event) {})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var did []string
	var errs []error
	for _, w := range req.Workers { // one that is away does not keep the others
		worker, err := reachWorker(ctx, req, w, log, func(Event) {})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.Workers = append(r.Workers, worker)
	}
	box := boxOf(r.Far, log)
	var drives []remote.Engine
	for _, name := range slices.Sorted(maps.Keys(engines)) { // whichever it was that time
		if box.PowerShell != nil && name != engineOllama {
			continue // the only one that is started on Windows
		}
		e := engines[name].drive(box, req.Profile.Engine.Address)
		if name == engineVLLM && len(req.Workers) > 0 {
			e = clusterOf(req, r, log, nil)
		}
		if !req.MayReplace {
			var busy *remote.InUseError
			if err := e.InUse(ctx, req.Laptop); errors.As(err, &busy) {
				return nil, err
			}
		}
		drives = append(drives, e)
	}
	for _, e := range drives {
		stopped, err := e.Stop(ctx)
		did, errs = append(did, stopped...), append(errs, err)
	}
	return did, errors.Join(errs...)
}
