package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// State is where a Link stands.
//
//	Connecting ───→ Up
//	    ↑ ↓ failed   │ lost
//	  Waiting ←──────┘
//	Connecting → NeedsYou, when only a person can help; a Poke leaves it
//	any → Closed, for good
type State string

const (
	Connecting State = "connecting"
	Up         State = "up"
	Waiting    State = "waiting"
	NeedsYou   State = "needs you"
	Closed     State = "closed"
)

// Conn is one live connection to the far side; *Client is one. Close may be called more than once.
type Conn interface {
	Done() <-chan struct{}
	Err() error
	Close() error
	RTT() time.Duration
}

// LinkOptions say how a Link behaves.
type LinkOptions struct {
	// First is a connection that is up already; nil means that Run dials the first one too.
	First Conn
	// Final reports errors that no retry can help. Nil means that there are none.
	Final func(error) bool
	Log   *slog.Logger // nil discards
}

// Link keeps one connection up.
type Link struct {
	dial  func(context.Context) (Conn, error)
	first Conn
	final func(error) bool
	log   *slog.Logger
	wake  chan struct{} // one token: poked or waiters has changed

	mu      sync.Mutex // guards what follows
	state   State
	since   time.Time // since when it is up, or since when it is not
	conn    Conn      // nil unless Up
	cause   error     // why the link is not up; nil while it is
	next    time.Time // the next try; zero unless Waiting
	poked   string    // why somebody wants a try at once; empty if nobody does
	waiters int       // how many calls of Get wait
	was     bool      // it has been up before
	why     string    // what ended the last connection, or the poke that came since
	count   int       // reconnects
	last    *Healed
	changed chan struct{} // closed and renewed with every change
}

// Healed is the last reconnect.
type Healed struct {
	At time.Time
	// After is how long the link was down.
	After time.Duration
	// Reason is that of the last Poke while it was down, as "woke from sleep"; else what ended the connection.
	Reason string
}

// LinkStatus is what a Link tells of itself.
type LinkStatus struct {
	State State
	// Since is when the link came up, or when it was lost, however many tries ago that is.
	Since      time.Time
	RTT        time.Duration // of the last probe; 0 unless up
	Reconnects int
	LastError  string    // why it is not up; empty while it is
	NextTry    time.Time // zero unless waiting
	Last       *Healed   // nil before the first reconnect
}

// NewLink returns a link that Run will keep up with dial. Dial has to end by itself, and when its context does.
func NewLink(dial func(context.Context) (Conn, error), o LinkOptions) *Link {
	l := &Link{dial: dial, first: o.First, final: o.Final, log: o.Log, wake: make(chan struct{}, 1), state: Connecting, since: time.Now(), changed: make(chan struct{})}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.final == nil {
		l.final = func(error) bool { return false }
	}
	if o.First != nil {
		l.state, l.conn, l.was = Up, o.First, true
	}
	return l
}

// Run dials, holds, and dials again, for ever, until ctx ends. What only a person can help makes it wait for a Poke.
// It closes the connection before it returns. It is called once.
func (l *Link) Run(ctx context.Context) error {
	if l.first != nil {
		defer l.first.Close() // also when ctx ends before there was a loop
	}
	retry := newPatience()
	conn := l.first
	for ctx.Err() == nil {
		held, err := l.once(ctx, conn)
		conn = nil
		if ctx.Err() != nil {
			break
		}
		wait := time.Duration(0)
		switch {
		case held:
			retry.anew()
		case !l.final(err):
			wait = retry.next(err)
		}
		if l.pause(ctx, wait, err) {
			retry.anew()
		}
	}
	l.enter(Closed, nil, nil)
	return ctx.Err()
}

var errEnded = errors.New("the connection ended")

// once dials, unless conn is up already, and holds the connection until it or ctx ends. It reports whether it was one
// that held, and not one that dies right after the login.
func (l *Link) once(ctx context.Context, conn Conn) (held bool, err error) {
	if conn == nil {
		l.enter(Connecting, nil, nil)
		if conn, err = l.dial(ctx); err != nil {
			return false, err
		}
	}
	defer conn.Close()
	start := time.Now()
	l.enter(Up, conn, nil)
	select {
	case <-conn.Done():
		if err = conn.Err(); err == nil {
			err = errEnded
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	return time.Since(start) >= heldFor, err
}

// pause waits before the next try: for the clock, for a poke, or for a person if err needs one. It reports whether it
// was poked.
func (l *Link) pause(ctx context.Context, wait time.Duration, err error) bool {
	start := time.Now()
	clock := time.NewTimer(wait)
	defer clock.Stop()
	due := clock.C
	if l.final(err) {
		due = nil // no clock helps
		l.enter(NeedsYou, nil, err)
	} else {
		l.plan(start.Add(wait))
		l.enter(Waiting, nil, err)
	}
	for {
		poked, waiters := l.heed()
		if poked {
			return true
		}
		if due != nil && waiters > 0 && !isBusy(err) {
			at := start.Add(min(wait, wantedWait))
			l.plan(at)
			clock.Reset(time.Until(at))
		}
		select {
		case <-due:
			return false
		case <-l.wake:
		case <-ctx.Done():
			return false
		}
	}
}

// plan says when the next try will be.
func (l *Link) plan(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = at
}

// heed takes the poke that waits, and counts who waits for the link.
func (l *Link) heed() (poked bool, waiters int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if poked = l.poked != ""; poked {
		l.why, l.poked = l.poked, ""
	}
	return poked, l.waiters
}

// enter is the one place where the state changes. A try does not know its cause of failing yet: the last one stays in
// sight.
func (l *Link) enter(s State, conn Conn, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, since, now := l.state, l.since, time.Now()
	if was == Up != (s == Up) || s == Closed {
		l.since = now
	}
	if was == Up && s != Up {
		l.why = fmt.Sprint(cause)
	}
	if s != Waiting {
		l.next = time.Time{}
	}
	if s != Connecting {
		l.cause = cause
	}
	if s == Up && l.poked != "" {
		l.why, l.poked = l.poked, ""
	}
	l.state, l.conn = s, conn
	switch {
	case s == Up && was != Up && l.was:
		l.count++
		l.last = &Healed{At: now, After: now.Sub(since), Reason: l.why}
		l.log.Info("link up again", "after", now.Sub(since).Round(time.Millisecond), "reason", l.why)
	case s == Up && was != Up:
		l.log.Info("link up")
	case s == NeedsYou:
		l.log.Error("link needs a human", "err", cause)
	case was == Up && s != Closed:
		l.log.Warn("link lost", "err", cause)
	case s == Waiting:
		l.log.Debug("link still down", "err", cause)
	}
	l.was = l.was || s == Up
	close(l.changed)
	l.changed = make(chan struct{})
}

var errLinkClosed = errors.New("the link is closed")

// Get returns the live connection. It waits while there is none, and meanwhile the link tries once a second at least.
// It returns the cause at once when only a person can help, and an error when the link is closed.
func (l *Link) Get(ctx context.Context) (Conn, error) {
	waits := false
	defer func() {
		if waits {
			l.mu.Lock()
			l.waiters--
			l.mu.Unlock()
		}
	}()
	for {
		l.mu.Lock()
		conn, state, cause, changed := l.conn, l.state, l.cause, l.changed
		if !waits && state != NeedsYou && state != Closed && !alive(conn) {
			waits = true
			l.waiters++
			l.nudge()
		}
		l.mu.Unlock()
		switch {
		case state == NeedsYou:
			return nil, cause
		case state == Closed:
			return nil, errLinkClosed
		case alive(conn):
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if cause != nil {
				return nil, fmt.Errorf("the link is down: %w", cause)
			}
			return nil, ctx.Err()
		}
	}
}

// alive reports whether there is a connection that has not ended. Run may not have seen its end yet.
func alive(c Conn) bool {
	if c == nil {
		return false
	}
	select {
	case <-c.Done():
		return false
	default:
		return true
	}
}

// Poke makes the link try now, with fresh patience, also if it stopped for a person. Reason says what has happened,
// as "woke from sleep". While a try is under way the next one follows at once if it fails; a link that is up does
// nothing.
func (l *Link) Poke(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == Closed || l.state == Up && alive(l.conn) {
		return
	}
	l.log.Debug("link poked", "reason", reason)
	if reason == "" {
		reason = "poked"
	}
	l.poked = reason
	l.nudge()
}

// nudge makes a pause look again.
func (l *Link) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Changed returns a channel that is closed with the next change of the state.
func (l *Link) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Status says how the link stands.
func (l *Link) Status() LinkStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := LinkStatus{State: l.state, Since: l.since, Reconnects: l.count, NextTry: l.next, Last: l.last}
	if l.conn != nil {
		st.RTT = l.conn.RTT()
	}
	if l.cause != nil {
		st.LastError = l.cause.Error()
	}
	return st
}
