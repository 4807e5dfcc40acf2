package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a gateway, where its fields say nothing else.
const (
	defaultHold = 100 * time.Second // under the 120 s after which the first harness gives up
	defaultHeld = 256
	defaultOpen = 512

	acceptPause = time.Second
	quietLimit  = 5 * time.Second        // how long Serve waits for its callers to end after ctx has
	idleFor     = 250 * time.Millisecond // after which a caller is not about to ask
	maxTurned   = 64                     // callers that are told at once that there are too many; the rest is reset
)

// Verdict is what an error of Dial means for who waits.
type Verdict int

const (
	// Wait: the way is not there, and may be any moment. The request is held, and Dial is tried again.
	Wait Verdict = iota
	// Closed: the box is there, and nothing listens. The request is held, and Dial is tried once a second.
	Closed
	// Human: only a person can help. The request is answered at once.
	Human
)

// State is how the way to the box stands, for the words of a 503. What is empty is left out.
type State struct {
	Host string // as the user calls it
	// Doing is what goes on while the link is up and the engine is not there yet, as "loading qwen3:30b". Empty means
	// that the link is down.
	Doing   string
	Since   time.Time
	NextTry time.Time // of the link
	Cause   string    // why the link is down
}

// Gateway serves HTTP on a local port and has it done on the far side. Serve starts it; the other methods may be called
// at any time.
type Gateway struct {
	// Dial opens a connection to the engine for a caller, and ends when its context does. It is tried again while the
	// caller is held. Callers that wait are served in the order in which Dial serves them.
	Dial func(ctx context.Context, from net.Addr) (net.Conn, error)
	// Classify says what an error of Dial means. Nil means Wait for all of them.
	Classify func(error) Verdict
	// State tells how the way to the box stands. Nil means that nothing is known. It must not block.
	State func() State
	// Hold is how long a request waits for the far side. Zero means 100 s. GET and HEAD wait 10 s at most: they are the
	// probes of programs that start.
	Hold time.Duration
	// MaxHeld and MaxOpen bound the requests that wait, and all callers. Zero means 256 and 512. One held more is
	// answered at once; for one open more the caller that has been idle for longest has to leave.
	MaxHeld, MaxOpen int

	// Hosts are names that a request may give as its Host, and Origins ("https://ui.example:8443") those of web pages
	// that may ask, besides the loopback ones.
	Hosts, Origins []string
	// Token, if set, has to come with every request, as Authorization: Bearer or x-api-key. The line that carries it is
	// taken out before the request is passed on: it is a secret of this machine, and the box may log what it gets.
	Token string
	// InferenceOnly lets through what asks a model or reads the state of the engine, and nothing that changes it.
	InferenceOnly bool

	// Observe is told of every request that reached the far side, when it is over. It must not block.
	Observe func(Exchange)
	Log     *slog.Logger // nil discards

	renewed atomic.Uint64 // how often Renew was called
	ahead   atomic.Int64  // bytes read further ahead of callers than each may by itself
	turned  atomic.Int64  // callers that are being told that there are too many

	mu    sync.Mutex // guards what follows
	stats Stats
	held  map[*caller]time.Time // since when
	idle  map[*caller]time.Time
}

// Stats counts callers and requests.
type Stats struct {
	// Open are the callers that are here now. Held is how many requests wait for the far side, and have for a while.
	Open, Held int
	OldestHeld time.Duration
	// Served are the requests that reached the far side. Reset of them were cut by the far side or a lost link.
	Served, Reset int64
	// Failed never reached it: held too long, too many, or a person is needed. Left gave up while they were held.
	Failed, Left int64
	// Refused were kept out: not well formed, from a web page, without the token, not for inference.
	Refused int64
}

// Stats says how the callers fare.
func (g *Gateway) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.stats
	s.Held = len(g.held)
	for _, since := range g.held {
		s.OldestHeld = max(s.OldestHeld, time.Since(since))
	}
	return s
}

// Renew makes every request that begins from now on dial anew, also those of callers that are here already. It is
// called when Dial leads elsewhere. Requests that are under way stay where they are.
func (g *Gateway) Renew() { g.renewed.Add(1) }

// Serve accepts callers on every listener until ctx ends. Then it resets those that are left, waits for them, closes
// the listeners, and returns.
func (g *Gateway) Serve(ctx context.Context, ls ...net.Listener) error {
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
		accepting.Go(func() { g.accept(ctx, l, &calling) })
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
		g.log().Warn("callers do not end", "open", g.Stats().Open)
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
func (g *Gateway) accept(ctx context.Context, l net.Listener, calling *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, net.ErrClosed)):
			return
		case err != nil:
			g.log().Warn("accept", "err", err) // too many open files: give them time to close
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		if g.enter() {
			calling.Go(func() {
				defer g.count(func(s *Stats) { s.Open-- })
				newCaller(g, conn).serve(ctx)
			})
			continue
		}
		g.log().Warn("caller turned away", "err", errTooMany)
		if g.turned.Add(1) > maxTurned {
			g.turned.Add(-1)
			rst(conn)
			continue
		}
		calling.Go(func() {
			defer g.turned.Add(-1)
			newCaller(g, conn).turnAway(ctx)
		})
	}
}

// enter counts a caller in, if there is room. If there is none, one that is idle makes it.
func (g *Gateway) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stats.Open >= orDefault(g.MaxOpen, defaultOpen) {
		var longest *caller
		for c, since := range g.idle {
			if time.Since(since) > idleFor && (longest == nil || since.Before(g.idle[longest])) {
				longest = c
			}
		}
		if longest == nil {
			g.stats.Failed++
			return false
		}
		delete(g.idle, longest)
		longest.conn.Close()
	}
	g.stats.Open++
	return true
}

// rest notes that a caller asks for nothing, until the function it returns is called.
func (g *Gateway) rest(c *caller) (wake func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle == nil {
		g.idle = map[*caller]time.Time{}
	}
	g.idle[c] = time.Now()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.idle, c)
	}
}

func (g *Gateway) count(change func(*Stats)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.stats)
}

func (g *Gateway) log() *slog.Logger {
	if g.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return g.Log
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

// closeWrite passes an end of file on. A connection that cannot end one direction alone ends both.
func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
		return
	}
	c.Close()
}
