package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// State is where a Link stands.
//
//	Connecting ───→ Up ←→ Up, but in doubt: callers wait
//	    ↑ ↓ failed   │ lost
//	  Waiting ←──────┘
//	Connecting → NeedsYou, when only a person can help; a Poke leaves it
//	Waiting ←→ Offline, while this machine has no network
//	any → Closed, for good
type State string

const (
	Connecting State = "connecting"
	Up         State = "up"
	Waiting    State = "waiting"
	Offline    State = "offline"
	NeedsYou   State = "needs you"
	Closed     State = "closed"
)

// Conn is one live connection to the far side; *Client is one. Close and Retire may be called more than once.
type Conn interface {
	Done() <-chan struct{}
	Err() error
	Close() error
	RTT() time.Duration
	// Open opens a connection on the far side.
	Open(ctx context.Context, o Opening) (net.Conn, error)
	// Check returns nil when the other side has answered a question newer than the call.
	Check(ctx context.Context) error
	// Silence is how long nothing was heard.
	Silence() time.Duration
	// LocalAddr is the address of this machine that it stands on; not valid if that cannot be told.
	LocalAddr() netip.Addr
	// Retire ends it when what it carries has ended.
	Retire()
}

// LinkOptions say how a Link behaves.
type LinkOptions struct {
	// First is a connection that is up already; nil means that Run dials the first one too.
	First Conn
	// Final reports errors that no retry can help. Nil means that there are none.
	Final func(error) bool
	// Senses tell of sleep and of changes of the network. The zero value tells of nothing.
	Senses Senses
	// Online reports whether there is a network to dial over. Nil means always.
	Online func() bool
	Log    *slog.Logger // nil discards
}

// Link keeps one connection up, and hands it to callers in the order in which they came.
type Link struct {
	dial   func(context.Context) (Conn, error)
	first  Conn
	final  func(error) bool
	senses Senses
	online func() bool
	log    *slog.Logger
	wake   chan struct{} // one token: the loop has to look at what follows
	wanted time.Duration // between tries while somebody waits

	mu      sync.Mutex // guards what follows
	state   State
	since   time.Time // since when it is up, or since when it is not
	conn    Conn      // for callers; nil while there is none that can be trusted
	moved   chan struct{}
	cause   error     // why the link is not up; nil while it is
	next    time.Time // the next try; zero unless Waiting
	queue   []*caller // who waits for a connection, in order
	tickets int       // given out so far
	giving  bool      // somebody hands the connection out to them
	count   int       // reconnects
	last    *Healed
	asleep  time.Duration // how long the machine had slept when it was looked at
	said    said
	changed chan struct{} // closed and renewed with every change
}

// said is what the loop has to hear.
type said struct {
	poke  string        // why somebody wants a try at once; empty if nobody does
	slept time.Duration // the machine has slept
	net   bool          // something of the network has changed
	slow  Conn          // a connection that did not answer a caller in time, and was silent meanwhile
}

// Healed is the last reconnect.
type Healed struct {
	At time.Time
	// After is how long the link was down, or in doubt.
	After time.Duration
	// Reason is what was noticed first, as "woke from sleep", or what ended the connection.
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
func NewLink[C Conn](dial func(context.Context) (C, error), o LinkOptions) *Link {
	l := &Link{
		dial: func(ctx context.Context) (Conn, error) {
			c, err := dial(ctx)
			if err != nil {
				return nil, err // never a nil with a type
			}
			return c, nil
		},
		first: o.First, final: o.Final, senses: o.Senses, online: o.Online, log: o.Log, wake: make(chan struct{}, 1), wanted: wantedWait,
		state: Connecting, since: time.Now(), moved: make(chan struct{}), changed: make(chan struct{}),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.final == nil {
		l.final = func(error) bool { return false }
	}
	if l.online == nil {
		l.online = func() bool { return true }
	}
	if l.senses.Asleep != nil {
		l.asleep = l.senses.Asleep()
	}
	if o.First != nil {
		l.state, l.conn = Up, o.First
	}
	return l
}

var (
	errLinkClosed = errors.New("the link is closed")
	errMoved      = errors.New("there is a newer connection")
)

// caller waits for a connection.
type caller struct {
	ticket int           // its place
	got    chan given    // capacity 1
	sent   chan struct{} // closed when the next one may go
}

type given struct {
	conn Conn
	err  error
}

// Get returns the live connection. It waits while there is none, and meanwhile the link tries every 0.4 s.
// It returns the cause at once when only a person can help, and an error when the link is closed.
func (l *Link) Get(ctx context.Context) (Conn, error) {
	conn, sent, err := l.get(ctx, new(int))
	sent()
	return conn, err
}

// get is Get for a caller who says when the next one may go, and who keeps its place if it has to come again.
func (l *Link) get(ctx context.Context, ticket *int) (conn Conn, sent func(), err error) {
	c := &caller{got: make(chan given, 1), sent: make(chan struct{})}
	sent = sync.OnceFunc(func() { close(c.sent) })
	l.mu.Lock()
	if *ticket == 0 {
		l.tickets++
		*ticket = l.tickets
	}
	c.ticket = *ticket
	l.lookAsleep()
	switch {
	case l.state == NeedsYou:
		err = l.cause
	case l.state == Closed:
		err = errLinkClosed
	case alive(l.conn) && len(l.queue) == 0:
		conn = l.conn
	default:
		i, _ := slices.BinarySearchFunc(l.queue, c.ticket, func(o *caller, t int) int { return o.ticket - t })
		l.queue = slices.Insert(l.queue, i, c)
		l.nudge()
	}
	l.mu.Unlock()
	if conn != nil || err != nil {
		return conn, sent, err
	}
	select {
	case g := <-c.got:
		return g.conn, sent, g.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = slices.DeleteFunc(l.queue, func(o *caller) bool { return o == c })
	if l.cause != nil {
		return nil, sent, fmt.Errorf("the link is down: %w", l.cause)
	}
	return nil, sent, ctx.Err()
}

// Open opens a connection on the far side through whatever connection is up, as Conn.Open does. It waits while there
// is none, and begins anew on the next one if the connection is lost or left before it has answered. One that does not
// answer in good time is doubted: it may hang in a network that forgot it.
func (l *Link) Open(ctx context.Context, o Opening) (net.Conn, error) {
	ticket := 0
	for {
		conn, sent, err := l.get(ctx, &ticket)
		if err != nil {
			return nil, err
		}
		o.sent = sent
		far, err := l.open(ctx, conn, o)
		sent()
		if err == nil || ctx.Err() != nil || alive(conn) && !errors.Is(err, errMoved) {
			return far, err
		}
	}
}

func (l *Link) open(ctx context.Context, conn Conn, o Opening) (net.Conn, error) {
	start, wait := time.Now(), slow(conn)
	clock := time.AfterFunc(wait, func() {
		if conn.Silence() >= time.Since(start)-wait/10 {
			l.hear(func(s *said) { s.slow = conn })
		}
	})
	defer clock.Stop()
	l.mu.Lock()
	moved := l.moved
	if l.conn != conn { // it has left already
		moved = make(chan struct{})
		close(moved)
	}
	l.mu.Unlock()
	open, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-moved:
			cancel(errMoved)
		case <-stop:
		}
	}()
	far, err := conn.Open(open, o)
	if err != nil && ctx.Err() == nil && context.Cause(open) == errMoved {
		err = errMoved
	}
	return far, err
}

// slow is when an answer of the other side is overdue.
func slow(c Conn) time.Duration { return min(max(300*time.Millisecond, 4*c.RTT()), 2*time.Second) }

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

// hand gives the connection to those who wait, one after the other: the request of one leaves before the next one is
// told. The caller holds the mutex.
func (l *Link) hand() {
	if l.giving || l.conn == nil || len(l.queue) == 0 {
		return
	}
	l.giving = true
	go func() {
		clock := time.NewTimer(0)
		defer clock.Stop()
		for {
			l.mu.Lock()
			if !alive(l.conn) || len(l.queue) == 0 {
				l.giving = false
				l.mu.Unlock()
				return
			}
			c := l.queue[0]
			l.queue = l.queue[1:]
			c.got <- given{conn: l.conn}
			l.mu.Unlock()
			clock.Reset(handLimit)
			select {
			case <-c.sent:
			case <-clock.C:
			}
		}
	}()
}

// handLimit is how long one caller may keep the next one waiting.
const handLimit = 5 * time.Millisecond

// Poke makes the link try now, with fresh patience, also if it stopped for a person. Reason says why. While a try is
// under way the next one follows at once if it fails; a link that is up does nothing.
func (l *Link) Poke(reason string) {
	if reason == "" {
		reason = "poked"
	}
	l.hear(func(s *said) { s.poke = reason })
}

// hear tells the loop something.
func (l *Link) hear(what func(*said)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what(&l.said)
	l.nudge()
}

// nudge makes the loop look.
func (l *Link) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// lookAsleep notices that the machine has slept. Nobody gets a connection from before that until it has answered.
// The caller holds the mutex.
func (l *Link) lookAsleep() {
	if l.senses.Asleep == nil {
		return
	}
	now := l.senses.Asleep()
	if now-l.asleep < sleptLeast {
		return
	}
	l.said.slept += now - l.asleep
	l.asleep = now
	l.conn = nil // the loop knows it
	l.nudge()
}

// sleptLeast is the shortest sleep that counts. The counter is exact, but a clock chip may count whole seconds.
const sleptLeast = 500 * time.Millisecond

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
	if l.conn != nil && l.state == Up {
		st.RTT = l.conn.RTT()
	}
	if l.cause != nil && l.state != Up {
		st.LastError = l.cause.Error()
	}
	return st
}
