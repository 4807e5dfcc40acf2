package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	heldAfter  = 250 * time.Millisecond // a far side that answers sooner held nobody
	probeHold  = 10 * time.Second       // of GET and HEAD
	retryFirst = 50 * time.Millisecond
	retryMost  = 500 * time.Millisecond
	pollClosed = time.Second
	lastLook   = 100 * time.Millisecond // for the end of a caller that had more to say than was read while it was held

	// reuseFor is how long a connection to the engine may lie idle between two requests of a caller and be used again.
	// A new one costs a round trip. An old one may hang in a link that has been replaced, as after a sleep, or meet the
	// engine as it closes what was idle: both cost seconds. Engines close after 5 s.
	reuseFor = 2 * time.Second
)

// reach gets a connection to the far side for a request: the one of the request before, or a new one. While that takes
// time the caller is held, and what it sends is read: one that gives up is noticed, and its request never sent.
// The error is errGone, errHalf, errTooMany, *unreachable, or that of ctx.
func (c *caller) reach(ctx context.Context, h *head) (f *far, reused bool, err error) {
	if c.usable() {
		return c.far, true, nil
	}
	c.drop()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	c.mu.Lock()
	c.dialing = end
	c.mu.Unlock()
	defer c.release()
	if gone := c.in.ended(); gone != nil && gone != io.EOF {
		return nil, false, errGone
	}
	start := time.Now()
	late := time.AfterFunc(heldAfter, func() { c.hold(start) })
	defer late.Stop()
	hold := orDefault(c.g.Hold, defaultHold)
	if m := h.req.Method; m == http.MethodGet || m == http.MethodHead {
		hold = min(hold, probeHold)
	}
	era := c.g.renewed.Load()
	conn, err := c.retry(ctx, hold, start)
	if err != nil {
		return nil, false, err
	}
	c.release()
	if ctx.Err() != nil { // at the last moment
		conn.Close()
		return nil, false, context.Cause(ctx)
	}
	c.far = &far{conn: conn, era: era, ended: make(chan struct{})}
	c.mu.Lock()
	c.carrying = conn
	c.mu.Unlock()
	if gone := c.in.ended(); gone != nil && gone != io.EOF { // before it was carried
		conn.Close()
		c.far = nil
		return nil, false, errGone
	}
	f = c.far
	c.running.Go(func() { f.run(c.conn) })
	return f, false, nil
}

// usable reports whether the connection of the request before can take another.
func (c *caller) usable() bool {
	f := c.far
	if f == nil || f.era != c.g.renewed.Load() {
		return false
	}
	if isClosed(f.ended) {
		return false
	}
	// By the wall: the other clock stands still while the laptop sleeps.
	idle := time.Now().Round(0).Sub(f.rested.Round(0))
	return idle >= 0 && idle < reuseFor
}

// drop lets the connection to the far side go.
func (c *caller) drop() {
	if c.far == nil {
		return
	}
	c.mu.Lock()
	c.carrying = nil
	c.mu.Unlock()
	c.far.conn.Close()
	c.far = nil
}

// retry dials until the far side is there, or will not be in time.
func (c *caller) retry(ctx context.Context, hold time.Duration, start time.Time) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, hold, errTooLong)
	defer cancel()
	u := &unreachable{cause: errTooLong}
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		conn, err := c.g.Dial(ctx, c.conn.RemoteAddr())
		if err == nil {
			return conn, nil
		}
		pause := wait
		if ctx.Err() == nil {
			u = &unreachable{cause: err}
			if c.g.Classify != nil {
				u.verdict = c.g.Classify(err)
			}
			switch u.verdict {
			case Human:
				return nil, u
			case Closed:
				pause = pollClosed
			}
			c.hold(start)
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != errTooLong {
				return nil, cause
			}
			return nil, u
		case <-time.After(pause):
		}
	}
}

// hold counts a caller among the held, or ends its wait: if they are too many, or if it has ended its side. That may
// mean that it only has said everything, but most have gone; and the box must not work for one that has.
func (c *caller) hold(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held || c.dialing == nil {
		return
	}
	switch {
	case c.in.ended() != nil:
		c.dialing(errHalf)
	case !c.g.holds(c, since):
		c.dialing(errTooMany)
	default:
		c.held = true
		c.in.readDeep(true)
	}
}

// holds counts a caller among the held, if there is room: the first to come are the first served.
func (g *Gateway) holds(c *caller, since time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.held) >= orDefault(g.MaxHeld, defaultHeld) {
		return false
	}
	if g.held == nil {
		g.held = map[*caller]time.Time{}
	}
	g.held[c] = since
	return true
}

// release ends the wait.
func (c *caller) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialing = nil
	if !c.held {
		return
	}
	c.held = false
	c.unseen = c.in.unread()
	c.in.readDeep(false)
	c.g.mu.Lock()
	delete(c.g.held, c)
	c.g.mu.Unlock()
}
