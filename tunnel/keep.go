package tunnel

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// lookEvery is how often the suspend counter is read when nothing else makes it be read.
	lookEvery = time.Second
	// raceAfter is how long a connection that is suspected may take to answer before another one is dialed beside it.
	raceAfter = 300 * time.Millisecond
	// raceLeast is the time between two such dials: a server counts one that is given up as a stranger (sshd's
	// PerSourcePenalties: 1 s each).
	raceLeast = 5 * time.Second
	// settleNet is how long a change of the network is left to become the next one, as when an interface comes up.
	settleNet = 50 * time.Millisecond
	// maxDials bounds the dials that are under way at once: after a change of the network a new one is begun beside
	// the one from before it.
	maxDials = 2
	// maxRetired bounds the connections that are kept for their streams only.
	maxRetired = 4
)

var errEnded = errors.New("the connection ended")

// keeper is the loop of a Link: what only Run knows.
type keeper struct {
	*Link
	ctx   context.Context
	retry *patience
	wg    sync.WaitGroup // everything that moves

	cur     Conn // the connection, also while it is in doubt
	was     bool // there was one before it
	up      time.Time
	doubted time.Time          // since when it is in doubt; zero if it is not
	why     string             // what was noticed first of what ended it, or may have
	checked chan error         // the answer of the one in doubt
	uncheck context.CancelFunc // nobody waits for that answer any more
	raceAt  time.Time          // when to dial beside it; zero for never
	mere    bool               // and that on mere suspicion
	raced   time.Time          // the last time that this was done on mere suspicion
	retired []Conn             // those that only keep their streams

	dials   []*try
	dialed  chan *try
	began   time.Time // the last dial
	due     time.Time // the next one; zero for none
	beside  bool      // it does not wait for the one under way
	busy    bool      // the server asked for patience
	stopped bool      // only a person can help
	off     bool      // this machine has no network
	err     error     // of the last dial, or of the connection
	lostAt  time.Time // since when it is down, or was in doubt

	netAt time.Time // when to look at what has changed of the network; zero for nothing
}

// try is one dial.
type try struct {
	cancel context.CancelFunc
	stale  bool // nobody waits for it any more
	conn   Conn
	err    error
}

// Run dials, holds, and dials again, for ever, until ctx ends. What only a person can help makes it wait for a Poke.
// It closes the connection before it returns. It is called once.
func (l *Link) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	k := &keeper{Link: l, ctx: inner, retry: newPatience(), dialed: make(chan *try), cur: l.first, was: l.first != nil, up: time.Now(), lostAt: l.since}
	defer k.close()
	defer cancel()
	if k.cur == nil {
		k.due = time.Now()
	}
	if l.senses.Events != nil {
		k.wg.Go(func() { l.senses.Events(inner, func() { l.hear(func(s *said) { s.net = true }) }) })
	}
	clock := time.NewTimer(0)
	defer clock.Stop()
	for ctx.Err() == nil {
		clock.Reset(k.step())
		var done <-chan struct{}
		if k.cur != nil {
			done = k.cur.Done()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			k.lost()
		case t := <-k.dialed:
			k.landed(t)
		case err := <-k.checked:
			if err == nil {
				k.trust()
			}
			k.checked = nil // with an error its end is on its way
		case <-l.wake:
		case <-clock.C:
		}
		k.listen()
	}
	return ctx.Err()
}

// close ends everything, and tells who waits.
func (k *keeper) close() {
	for _, c := range append(k.retired, k.cur, k.first) {
		if c != nil {
			c.Close()
		}
	}
	k.cur = nil
	flown := make(chan struct{})
	go func() {
		k.wg.Wait()
		close(flown)
	}()
	for over := false; !over; {
		select {
		case t := <-k.dialed:
			if t.conn != nil {
				t.conn.Close()
			}
		case <-flown:
			over = true
		}
	}
	k.show(Closed, nil)
}

// step does what is due, shows how things stand, and says for how long there is nothing to do.
func (k *keeper) step() time.Duration {
	now := time.Now()
	if !k.netAt.IsZero() && !k.netAt.After(now) {
		k.network()
	}
	if !k.raceAt.IsZero() && !k.raceAt.After(now) {
		k.raceAt, k.due = time.Time{}, now
		if k.mere {
			k.raced = now
		}
	}
	k.mu.Lock()
	wanted := len(k.queue) > 0
	k.mu.Unlock()
	due := k.due
	if at := later(now, k.began.Add(k.wanted)); wanted && !k.busy && due.After(at) {
		due = at
	}
	if !due.IsZero() && !due.After(now) && (len(k.dials) == 0 || k.beside) {
		if k.off = !k.online(); k.off {
			due = now.Add(lookEvery)
		} else {
			k.begin()
			due = time.Time{}
		}
	}
	k.retired = slices.DeleteFunc(k.retired, func(c Conn) bool { return !alive(c) })
	k.tell(due)
	wait := lookEvery
	for _, at := range []time.Time{due, k.raceAt, k.netAt} {
		if !at.IsZero() && at.After(now) {
			wait = min(wait, at.Sub(now))
		}
	}
	return wait
}

// tell shows where the link stands.
func (k *keeper) tell(due time.Time) {
	cause := k.err
	if cause == nil && !k.doubted.IsZero() {
		cause = errors.New(k.why)
	}
	switch {
	case k.stopped:
		k.show(NeedsYou, cause)
	case len(k.dials) > 0:
		k.show(Connecting, cause)
	case k.cur != nil && due.IsZero():
		k.show(Up, nil)
	case k.off:
		k.show(Offline, errOffline)
	default:
		k.showNext(Waiting, cause, due)
	}
}

var errOffline = errors.New("this machine has no network")

func (k *keeper) show(s State, cause error) { k.showNext(s, cause, time.Time{}) }

// showNext is the one place where the state changes.
func (k *keeper) showNext(s State, cause error, next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next, k.cause = next, cause
	if s == NeedsYou || s == Closed {
		err := cause
		if s == Closed {
			err = errLinkClosed
		}
		for _, c := range k.queue {
			c.got <- given{err: err}
		}
		k.queue = nil
	}
	if s == k.state {
		return
	}
	switch {
	case s == Up:
		k.since = k.up
	case s == Closed:
		k.since, k.conn = time.Now(), nil
	case k.state == Up:
		k.since = k.lostAt
	}
	k.state = s
	close(k.changed)
	k.changed = make(chan struct{})
}

// listen takes what was said since.
func (k *keeper) listen() {
	k.mu.Lock()
	k.lookAsleep()
	s := k.said
	k.said = said{}
	k.mu.Unlock()
	if s.slept > 0 {
		k.woke(s.slept)
	}
	if s.net && k.netAt.IsZero() {
		k.netAt = time.Now().Add(settleNet)
	}
	if s.slow != nil && s.slow == k.cur {
		k.doubt("it did not answer in time", unanswered)
	}
	if s.poke != "" && (!alive(k.cur) || !k.doubted.IsZero()) {
		k.log.Debug("link poked", "reason", s.poke)
		k.why, k.stopped, k.busy = s.poke, false, false
		k.anew()
	}
}

// anew makes the next try happen at once, with fresh patience; one under way is not disturbed.
func (k *keeper) anew() {
	k.retry.anew()
	k.due, k.beside = time.Now(), false
}

// woke is told that the machine has slept. What was dialed before is stale, and what was up may be: its server may be
// silent for a minute although the connection lives. So another one is dialed at once, new callers wait for the
// first of the two that answers, and the streams of the old one go on.
func (k *keeper) woke(slept time.Duration) {
	const why = "woke from sleep"
	k.log.Info(why, "slept", slept.Round(time.Second))
	k.drop(k.dials...)
	switch {
	case k.cur != nil:
		k.settle()
		k.doubt(why, certain)
	case !k.stopped:
		k.why, k.busy = why, false
		k.anew()
	}
}

// network looks at what a change of the network did.
func (k *keeper) network() {
	k.netAt = time.Time{}
	const why = "the network has changed"
	switch {
	case k.cur != nil:
		if a := k.cur.LocalAddr(); a.IsValid() {
			if has, err := hasLocal(a); err == nil && !has {
				k.doubt("the address of this machine has changed", certain)
				return
			}
		}
		k.doubt(why, changed)
	case k.stopped || k.busy:
	case len(k.dials) == 0:
		k.why = why
		k.anew()
	case time.Since(k.began) > raceAfter: // it may have begun on the network that was
		if len(k.dials) == maxDials {
			k.drop(k.dials[0])
		}
		k.anew()
		k.beside = true
	}
}

// doubtful is how much speaks against a connection.
type doubtful int

const (
	changed    doubtful = iota // something has changed: ask it, and dial beside it if it does not answer soon
	unanswered                 // it was asked by a caller already: dial at once, but not too often
	certain                    // dial at once
)

// doubt keeps new callers from the connection until it has answered. It may still be the first to do so.
func (k *keeper) doubt(why string, how doubtful) {
	if !alive(k.cur) {
		return // its end is on its way
	}
	now := time.Now()
	race := now
	switch how {
	case changed:
		race = later(now.Add(raceAfter), k.raced.Add(raceLeast))
	case unanswered:
		race = later(now, k.raced.Add(raceLeast))
	}
	if !k.doubted.IsZero() {
		if how == certain {
			k.drop(k.dials...) // they may stand on the address that is gone
		}
		if len(k.dials) == 0 && (k.raceAt.IsZero() && k.due.IsZero() || race.Before(k.raceAt)) {
			k.raceAt, k.mere = race, how != certain
		}
		return
	}
	k.log.Debug("link in doubt", "why", why)
	k.doubted, k.lostAt, k.why, k.err = now, now, why, nil
	k.raceAt, k.mere = race, how != certain
	k.mu.Lock()
	k.conn = nil
	k.mu.Unlock()
	ctx, cancel := context.WithCancel(k.ctx)
	cur, checked := k.cur, make(chan error, 1)
	k.checked, k.uncheck = checked, cancel
	k.wg.Go(func() {
		defer cancel()
		checked <- cur.Check(ctx)
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle ends the doubt, one way or the other.
func (k *keeper) settle() {
	if k.uncheck != nil {
		k.uncheck()
	}
	k.checked, k.uncheck = nil, nil
	k.doubted, k.raceAt = time.Time{}, time.Time{}
}

// trust is told that the connection in doubt has answered.
func (k *keeper) trust() {
	k.log.Debug("link answers", "doubted", k.why, "after", time.Since(k.doubted))
	k.settle()
	k.drop(k.dials...)
	k.due, k.err, k.stopped, k.busy = time.Time{}, nil, false, false
	k.give(false)
}

// lost is told that the connection has ended.
func (k *keeper) lost() {
	err := k.cur.Err()
	if err == nil {
		err = errEnded
	}
	k.cur.Close()
	if k.doubted.IsZero() {
		k.why, k.lostAt = err.Error(), time.Now()
	}
	k.settle()
	if k.cur, k.err = nil, err; !k.stopped && len(k.dials) == 0 {
		if time.Since(k.up) >= heldFor {
			k.anew()
		} else if k.due.IsZero() {
			k.due = time.Now().Add(k.retry.next(err))
		}
	}
	k.log.Warn("link lost", "err", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conn = nil
	k.leave()
}

// leave tells those whose request is under way that the connection is not the one for them any more. The caller holds
// the mutex.
func (k *keeper) leave() {
	close(k.moved)
	k.moved = make(chan struct{})
}

// begin dials.
func (k *keeper) begin() {
	ctx, cancel := context.WithCancel(k.ctx)
	t := &try{cancel: cancel}
	k.dials = append(k.dials, t)
	k.began, k.due, k.raceAt, k.beside = time.Now(), time.Time{}, time.Time{}, false
	k.wg.Go(func() {
		defer cancel()
		t.conn, t.err = k.dial(ctx)
		k.dialed <- t
	})
}

// drop gives up dials.
func (k *keeper) drop(dials ...*try) {
	for _, t := range dials {
		t.stale = true
		t.cancel()
	}
	k.dials = slices.DeleteFunc(k.dials, func(t *try) bool { return t.stale })
}

// landed is told how a dial ended.
func (k *keeper) landed(t *try) {
	if t.stale {
		if t.conn != nil { // it came when nobody wanted it any more
			k.wg.Go(func() { t.conn.Close() })
		}
		return
	}
	k.drop(t)
	if t.err == nil {
		k.arrived(t.conn)
		return
	}
	k.err = t.err
	switch {
	case k.final(t.err):
		k.drop(k.dials...)
		k.stopped, k.due = true, time.Time{}
		k.log.Error("link needs a human", "err", t.err)
	case len(k.dials) == 0 && k.due.IsZero():
		k.busy = isBusy(t.err)
		k.due = time.Now().Add(k.retry.next(t.err))
		k.log.Debug("link still down", "err", t.err)
	}
}

// arrived puts a new connection in the place of the old one, which keeps its streams if it still lives.
func (k *keeper) arrived(conn Conn) {
	if k.cur != nil {
		k.cur.Retire()
		if k.retired = append(k.retired, k.cur); len(k.retired) > maxRetired {
			oldest := k.retired[0]
			k.retired = k.retired[1:]
			k.wg.Go(func() { oldest.Close() })
		}
	}
	k.settle()
	k.drop(k.dials...)
	k.cur, k.up = conn, time.Now()
	k.due, k.err, k.stopped, k.busy, k.off = time.Time{}, nil, false, false, false
	k.give(true)
}

// give lets callers have the connection; fresh says that it is another one than before.
func (k *keeper) give(fresh bool) {
	k.tell(time.Time{})
	k.mu.Lock()
	defer k.mu.Unlock()
	if fresh {
		k.leave()
		if k.was {
			k.count++
			k.last = &Healed{At: k.up, After: k.up.Sub(k.lostAt), Reason: k.why}
			k.log.Info("link up again", "after", k.last.After.Round(time.Millisecond), "reason", k.why)
		} else {
			k.log.Info("link up")
		}
		k.was = true
	}
	if k.Link.said.slept > 0 {
		return // it is from before a sleep that the loop is about to hear of
	}
	k.conn = k.cur
	k.hand()
}
