package instance

import (
	"context"
	"log/slog"

	"rlca/remote"
)

// StopEngine reaches a host that is not connected, and stops what rlca started there earlier.
func StopEngine(ctx context.Context, req Request, log *slog.Logger) ([]string, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r, err := Reach(ctx, req, log, func(Event) {})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	engine := remote.NewOllama(remote.Box{Run: r.Run, Dial: r.Far.Dial, Log: log}, req.Profile.Engine.Address)
	return engine.Stop(ctx)
}
