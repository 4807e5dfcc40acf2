package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of a forward, where its fields say nothing else.
const (
	defaultHold  = 100 * time.Second
	defaultHeld  = 64
	defaultOpen  = 256
	defaultGrace = 5 * time.Second

	acceptPause = time.Second
	quietLimit  = 5 * time.Second // how long Serve waits for its callers to end after ctx has
)

// Forward is a local port and what is behind it. It knows nothing of SSH: Dial reaches the far side, and may take
// its time. A caller that cannot be served yet is held, and what it sent is kept; one that cannot be served at all
// is reset, never closed in a way that looks like an answer. Serve starts it; the other methods may be called at any
// time.
type Forward struct {
	// Dial opens a connection to the far side for a caller, and ends when its context does. It is tried again while the
	// caller is held. Callers that wait are served in the order in which Dial serves them.
	Dial func(ctx context.Context, from net.Addr) (net.Conn, error)
	// Refused reports an error that means: the far side is there and would not. The caller is reset at once. Nil
	// means that there are none.
	Refused func(error) bool
	// Hold is how long a caller waits for the far side. Zero means 100 s.
	Hold time.Duration
	// MaxHeld and MaxOpen bound the callers that wait, and all callers. Zero means 64 and 256.
	MaxHeld, MaxOpen int
	Log              *slog.Logger // nil discards

	// grace is how long a held caller is kept that has ended its side: most have gone, but some only said all that they
	// have to say. Zero means 5 s.
	grace time.Duration

	mu    sync.Mutex // guards what follows
	stats ForwardStats
	held  map[*waiting]time.Time // since when
}

// ForwardStats counts callers.
type ForwardStats struct {
	// Open are here now. Held of them wait for the far side, and have for a while.
	Open, Held int
	OldestHeld time.Duration
	// Served reached the far side. Reset of them were cut by the far side or a lost link.
	Served, Reset int64
	// Failed never reached it: refused there, held too long, or too many. Left gave up while they were held.
	Failed, Left int64
}

// Stats says how the callers fare.
func (f *Forward) Stats() ForwardStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Held = len(f.held)
	for _, since := range f.held {
		s.OldestHeld = max(s.OldestHeld, time.Since(since))
	}
	return s
}

// Serve accepts callers on every listener until ctx ends. Then it resets those that are left, waits for them, closes
// the listeners, and returns.
func (f *Forward) Serve(ctx context.Context, ls ...net.Listener) error {
	defer func() {
		for _, l := range ls {
			l.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() {
		for _, l := range ls {
			wakeAccept(l)
		}
	})
	defer stop()
	var accepting, calling sync.WaitGroup
	for _, l := range ls {
		accepting.Go(func() { f.accept(ctx, l, &calling) })
	}
	accepting.Wait()
	quiet := make(chan struct{})
	go func() {
		calling.Wait()
		close(quiet)
	}()
	select {
	case <-quiet:
		return ctx.Err()
	case <-ctx.Done():
	}
	limit := time.NewTimer(quietLimit)
	defer limit.Stop()
	select {
	case <-quiet:
	case <-limit.C:
		f.log().Warn("callers do not end", "open", f.Stats().Open)
	}
	return ctx.Err()
}

// wakeAccept ends an Accept that waits. The listener stays open, so that nobody takes the port before we are done.
func wakeAccept(l net.Listener) {
	if d, ok := l.(interface{ SetDeadline(time.Time) error }); ok && d.SetDeadline(time.Unix(1, 0)) == nil {
		return
	}
	l.Close()
}

// accept gives each caller a goroutine of its own.
func (f *Forward) accept(ctx context.Context, l net.Listener, calling *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, net.ErrClosed)):
			return
		case err != nil:
			f.log().Warn("accept", "err", err) // too many open files: give them time to close
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		if !f.enter() {
			f.log().Warn("caller reset", "err", errTooMany)
			rst(conn)
			continue
		}
		calling.Go(func() {
			defer f.count(func(s *ForwardStats) { s.Open-- })
			f.serve(ctx, conn)
		})
	}
}

// enter counts a caller in, if there is room.
func (f *Forward) enter() (room bool) {
	f.count(func(s *ForwardStats) {
		if room = s.Open < orDefault(f.MaxOpen, defaultOpen); room {
			s.Open++
		} else {
			s.Failed++
		}
	})
	return room
}

func (f *Forward) count(change func(*ForwardStats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.stats)
}

// serve takes one caller from accept to its end.
func (f *Forward) serve(ctx context.Context, local net.Conn) {
	far, sent, err := f.reach(ctx, local)
	switch {
	case err == nil:
		f.count(func(s *ForwardStats) { s.Served++ })
		if splice(ctx, local, far, sent) {
			f.count(func(s *ForwardStats) { s.Reset++ })
		}
		return
	case errors.Is(err, errGone):
		f.count(func(s *ForwardStats) { s.Left++ })
		f.log().Debug("caller gone", "err", err)
	default:
		f.count(func(s *ForwardStats) { s.Failed++ })
		f.log().Info("caller reset", "err", err)
	}
	rst(local)
}

func (f *Forward) log() *slog.Logger {
	if f.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return f.Log
}

func orDefault[T int | time.Duration](n, def T) T {
	if n > 0 {
		return n
	}
	return def
}

// rst closes a connection so that the other side sees an error and not an end.
func rst(conn net.Conn) {
	if t, ok := conn.(interface{ SetLinger(int) error }); ok {
		t.SetLinger(0)
	}
	conn.Close()
}
