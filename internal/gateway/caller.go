package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	headLimit  = 10 * time.Second // from the first byte of a head to its last
	leaveAfter = time.Second      // how long the far side may take to let go of a caller that has ended
	keepHead   = 16 << 10         // of the memory for heads, between two requests
)

// caller is one connection to the local port. It asks one thing after the other, and has one connection to the far side
// at a time.
//
//	rests → asks → waits for the far side → is answered → rests
//	                ↓ too long                ↓ cut
//	               503                      reset
type caller struct {
	g    *Gateway
	conn net.Conn
	in   *inbox

	far     *far // nil between two requests, or kept for the next
	head    []byte
	spare   int64 // of the budget, for an absurd head
	unseen  bool  // it may have left while it was held
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	dialing  context.CancelCauseFunc
	held     bool
	carrying net.Conn // to be closed when the caller breaks off, so that the engine stops
}

func newCaller(g *Gateway, conn net.Conn) *caller {
	c := &caller{g: g, conn: conn}
	c.in = newInbox(conn, &g.ahead, c.over)
	go c.in.run()
	return c
}

// over is told by the reader that the caller has ended its side, or broke off.
func (c *caller) over(err error) {
	c.mu.Lock()
	carrying := c.carrying
	switch {
	case err == io.EOF:
		carrying = nil
		if c.held {
			c.dialing(errHalf)
		}
	case c.dialing != nil:
		c.dialing(errGone)
	}
	c.mu.Unlock()
	if carrying != nil {
		carrying.Close()
	}
}

// serve takes a caller from accept to its end.
func (c *caller) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { rst(c.conn) })
	defer stop()
	defer c.leave()
	for {
		h, err := c.next(ctx)
		var no *refusal
		switch {
		case errors.As(err, &no):
			c.refuse(ctx, nil, no)
			return
		case err == io.EOF, err == errLost:
			c.conn.Close()
			return
		case err != nil:
			rst(c.conn)
			return
		}
		if no = c.g.guard(h); no != nil {
			c.refuse(ctx, h, no)
			return
		}
		if !c.exchange(ctx, h) {
			return
		}
	}
}

// turnAway tells a caller that there are too many.
func (c *caller) turnAway(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { rst(c.conn) })
	defer stop()
	defer c.leave()
	r, after := c.g.say(&unreachable{cause: errTooMany})
	c.answer(ctx, nil, r, after)
}

// leave lets everything go. What hangs in the far side is left behind, until that or the link ends.
func (c *caller) leave() {
	c.conn.Close()
	c.drop()
	c.in.close()
	<-c.in.done
	c.in.free()
	c.unspare()
	quiet := make(chan struct{})
	go func() {
		c.running.Wait()
		close(quiet)
	}()
	limit := time.NewTimer(leaveAfter)
	defer limit.Stop()
	select {
	case <-quiet:
	case <-limit.C:
	}
}

func (c *caller) refuse(ctx context.Context, h *head, r *refusal) {
	after := 0
	c.g.count(func(s *Stats) {
		if r.status == http.StatusServiceUnavailable { // there is no room
			after = retrySoon
			s.Failed++
		} else {
			s.Refused++
		}
	})
	c.g.log().Info("request refused", "status", r.status, "why", r.message)
	c.answer(ctx, h, r, after)
}

func (c *caller) unspare() {
	c.g.ahead.Add(-c.spare)
	c.spare = 0
}

var errLost = errors.New("the link was lost")

// next waits for a request and reads its head. Its error is io.EOF if the caller has said all, errLost if the far side
// of an idle caller was lost, *refusal, or why the caller broke off.
func (c *caller) next(ctx context.Context) (*head, error) {
	if err := c.idle(ctx); err != nil {
		return nil, err
	}
	limit := time.NewTimer(headLimit)
	defer limit.Stop()
	c.unspare()
	if cap(c.head) > keepHead {
		c.head = nil
	}
	c.head = c.head[:0]
	var end headEnd
	for {
		p, err := c.in.peek()
		if len(p) == 0 && err != nil {
			return nil, err
		}
		n, before, done, err := end.feed(p)
		if err != nil {
			return nil, err
		}
		c.head = append(c.head, p[before:n]...)
		c.in.advance(n)
		switch size := len(c.head); {
		case size > maxHead:
			return nil, tooLarge("more than 1 MiB")
		case size > freeBlocks*blockSize && c.spare == 0:
			if !take(&c.g.ahead, maxHead) {
				return nil, &refusal{http.StatusServiceUnavailable, "overloaded_error", "too_many", "rlca: too many requests with large heads"}
			}
			c.spare = maxHead
		}
		if done {
			return parseHead(c.head)
		}
		if n > 0 {
			continue
		}
		select {
		case <-c.in.news:
		case <-limit.C:
			return nil, &refusal{http.StatusRequestTimeout, "invalid_request_error", "head_too_slow", "the head of the request did not come within 10 s"}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// idle waits until the caller begins to ask.
func (c *caller) idle(ctx context.Context) error {
	wake := c.g.rest(c)
	defer wake()
	retire := time.NewTimer(reuseFor)
	defer retire.Stop()
	for {
		if p, err := c.in.peek(); len(p) > 0 || err != nil {
			return err
		}
		var ended chan struct{}
		if c.far != nil {
			ended = c.far.ended
		}
		select {
		case <-c.in.news:
		case <-ended:
			// An engine closes what was idle for long: the next request gets another connection. But with the link an idle
			// caller goes, so that nobody who keeps it in a pool believes in it. Its last answer was whole: a reset could
			// overtake the end of that.
			if c.far.err != nil && c.far.err != errUnasked {
				return errLost
			}
			c.drop()
		case <-retire.C:
			c.drop()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// outcome is what became of a request.
type outcome int

const (
	kept    outcome = iota // answered, and the caller may ask again
	closed                 // answered, and no more
	cut                    // the answer is not whole
	left                   // the caller broke off
	stale                  // the connection had ended before it took the request: another one may
	garbage                // no answer, but something else
	broken                 // the body of the request is malformed
)

// exchange takes a request to the far side and its answer back. It reports whether the caller may ask again; if not it
// has been ended.
func (c *caller) exchange(ctx context.Context, h *head) bool {
	x := &Exchange{Method: h.req.Method, Path: h.req.URL.Path, Start: time.Now(), Metered: metered(h.req)}
	for again := false; ; again = true {
		f, reused, err := c.reach(ctx, h)
		if err != nil {
			c.fail(ctx, h, err)
			return false
		}
		if !again {
			c.g.count(func(s *Stats) { s.Served++ })
		}
		p := &passage{method: h.req.Method, upgrade: h.upgrade, x: x, reached: time.Now(), whole: make(chan struct{}), switched: make(chan struct{})}
		if x.Metered {
			p.use = newUsage(x)
		}
		x.Held = p.reached.Sub(x.Start)
		how := stale
		if f.begin(p) {
			how = c.carry(ctx, f, p, h, reused)
		}
		if how == stale {
			c.drop()
			if reused || !again {
				continue
			}
			how = cut
		}
		c.sum(x, p, f, how)
		switch how {
		case kept:
			f.rested = time.Now()
			return true
		case closed:
			c.drop()
			c.part(ctx)
		case garbage:
			c.answer(ctx, h, &refusal{http.StatusBadGateway, "api_error", "no_http", "rlca: " + clean(f.err.Error()) + "; see the port in: rlca status"}, 0)
		case broken:
			c.refuse(ctx, h, bad("a malformed chunk in the body"))
		default:
			rst(c.conn)
		}
		return false
	}
}

// sum ends the account of a request.
func (c *caller) sum(x *Exchange, p *passage, f *far, how outcome) {
	x.Took = time.Since(p.reached)
	x.Cut, x.Left = how == cut || how == garbage, how == left
	over := how == kept || how == closed
	if !over {
		over = f.hangUp()
	}
	if x.Cut {
		c.g.count(func(s *Stats) { s.Reset++ })
		err := errors.New("the answer ended too soon")
		if isClosed(f.ended) && f.err != nil {
			err = f.err
		}
		c.g.log().Info("caller reset", "path", x.Path, "err", err)
	}
	if !over { // the rest is still being written
		x = &Exchange{Method: x.Method, Path: x.Path, Start: x.Start, Held: x.Held, Took: x.Took, Cut: x.Cut, Left: x.Left}
	} else if p.use != nil {
		p.use.sum(p.reached)
		p.use.free()
	}
	if c.g.Observe != nil {
		c.g.Observe(*x)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// fail ends a caller whose request did not get through.
func (c *caller) fail(ctx context.Context, h *head, err error) {
	var u *unreachable
	switch {
	case errors.As(err, &u):
	case err == errTooMany || err == errHalf: // who has ended its side may still listen
		u = &unreachable{cause: err}
	case err == errGone:
		c.g.count(func(s *Stats) { s.Left++ })
		c.g.log().Debug("caller gone", "err", err)
		rst(c.conn)
		return
	default: // the end of everything
		c.g.count(func(s *Stats) { s.Failed++ })
		rst(c.conn)
		return
	}
	c.g.count(func(s *Stats) {
		if err == errHalf {
			s.Left++
		} else {
			s.Failed++
		}
	})
	r, after := c.g.say(u)
	c.g.log().Info("request answered by rlca", "status", r.status, "path", h.req.URL.Path, "err", err)
	c.answer(ctx, h, r, after)
}

// carry sends a request and waits for its answer, which the far side's own goroutine passes on.
func (c *caller) carry(ctx context.Context, f *far, p *passage, h *head, reused bool) outcome {
	body := newFrame(h.length, maxRequestTrailer)
	out := h.raw // what is to be written
	var ask func([]byte)
	if p.use != nil {
		ask = p.use.request.feed
	}
	wrote, stuck, ended := false, false, false
	whole := p.whole
	var slow <-chan time.Time
	for {
		switch {
		case whole != nil:
		case p.last || h.req.Close || stuck || ended || h.expect && !p.goOn && !body.done():
			return closed
		case body.done():
			return kept
		}
		if piece, end := c.in.peek(); !stuck && (len(out) > 0 || !body.done() && len(piece) > 0) {
			before := body
			n, err := body.feed(piece, nil)
			if err != nil {
				return c.broken(f, p)
			}
			if c.unseen && body.done() {
				if c.unseen = false; c.gone() {
					return left
				}
			}
			if len(out) > 0 {
				out = append(out, piece[:n]...) // one packet for most requests
			} else {
				out = piece[:n]
			}
			m, err := f.conn.Write(out)
			if err != nil && reused && !wrote && m == 0 {
				if f.hangUp() && !p.passed {
					return stale // none of it has left
				}
				return cut // what the engine said as it closed is taken for the answer
			}
			before.feed(piece[:n], func(data []byte) {
				p.x.RequestBytes += int64(len(data))
				if ask != nil {
					ask(data)
				}
			})
			c.in.advance(n)
			wrote, out = true, nil
			if err != nil { // it may have answered nevertheless: too large, not found
				stuck, slow = true, time.After(drainLimit)
			}
			continue
		} else if len(piece) == 0 && end == io.EOF && !ended && !stuck {
			closeWrite(f.conn) // as the caller did
			ended = true
		}
		if err := c.in.ended(); err != nil && err != io.EOF {
			return left
		}
		select {
		case <-whole:
			whole = nil
		case <-p.switched:
			return c.splice(ctx, f)
		case <-f.ended:
			if !isClosed(p.whole) {
				return c.lost(f, p, h, reused)
			}
			whole, stuck = nil, !body.done()
		case <-c.in.news:
		case <-slow:
			return cut
		case <-ctx.Done():
			return cut
		}
	}
}

// gone looks once more whether the caller is there before the engine gets the last of its request: all of it has been
// read by now, and its end would come next.
func (c *caller) gone() bool {
	limit := time.NewTimer(lastLook)
	defer limit.Stop()
	for c.in.ended() == nil {
		select {
		case <-c.in.news:
		case <-limit.C:
			return false
		}
	}
	return true
}

// lost tells what it means that the far side has ended.
func (c *caller) lost(f *far, p *passage, h *head, reused bool) outcome {
	gone := c.in.ended()
	switch {
	case gone != nil && gone != io.EOF, f.err == errCaller:
		return left
	case errors.Is(f.err, errGarbage) && !p.passed:
		return garbage
	case reused && p.got == 0 && h.replayable():
		return stale // it had been closed as idle, or was lost; what changes nothing may be asked again (RFC 9112 §9.3.1)
	}
	return cut
}

// broken ends a request whose body cannot be read. The far side has not had all of it, and will not do it.
func (c *caller) broken(f *far, p *passage) outcome {
	if f.hangUp() && !p.passed {
		return broken
	}
	return cut
}

// splice passes on what the caller says, until both sides have ended.
func (c *caller) splice(ctx context.Context, f *far) outcome {
	sent := false
	for over := false; ; {
		piece, end := c.in.peek()
		switch {
		case len(piece) > 0:
			if _, err := f.conn.Write(piece); err != nil {
				return cut
			}
			c.in.advance(len(piece))
			continue
		case end == io.EOF && !sent:
			sent = true
			closeWrite(f.conn)
		case end != nil && end != io.EOF:
			return left
		}
		if over && sent {
			return closed
		}
		ended := f.ended
		if over {
			ended = nil
		}
		select {
		case <-ended:
			if f.err == errCaller {
				return left
			}
			if f.err != nil {
				return cut
			}
			over = true
		case <-c.in.news:
		case <-ctx.Done():
			return cut
		}
	}
}
