package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	heldAfter  = 250 * time.Millisecond // a far side that answers sooner held nobody
	heldBuffer = 64 << 10               // what is read ahead of a caller that waits
	retryFirst = 50 * time.Millisecond
	retryMost  = 500 * time.Millisecond
)

var (
	errGone    = errors.New("the caller left while it was held")
	errTooLong = errors.New("held too long")
	errTooMany = errors.New("too many callers")
)

// ahead is what a caller sent before it had its far side.
type ahead struct {
	bytes []byte
	eof   bool // and it ended its side with that
}

// waiting is a caller whose far side is not there yet.
type waiting struct {
	end  context.CancelCauseFunc
	over bool // it waits no more; guarded by the forward's mutex
}

// reach gets the far side of a caller, and holds the caller while that takes time. What the caller sends meanwhile is
// read ahead, so that one that gives up is noticed, and its request never reaches the far side.
func (f *Forward) reach(ctx context.Context, local net.Conn) (net.Conn, ahead, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	stop := readAhead(local, orDefault(f.grace, defaultGrace), func() { end(errGone) })
	far, err := f.retry(ctx, local.RemoteAddr(), &waiting{end: end})
	sent := stop()
	if err == nil && ctx.Err() != nil { // at the last moment
		far.Close()
		err = context.Cause(ctx)
	}
	return far, sent, err
}

// retry dials until the far side is there, or will not be.
func (f *Forward) retry(ctx context.Context, from net.Addr, w *waiting) (net.Conn, error) {
	defer f.release(w)
	ctx, cancel := context.WithTimeoutCause(ctx, orDefault(f.Hold, defaultHold), errTooLong)
	defer cancel()
	start := time.Now()
	late := time.AfterFunc(heldAfter, func() { f.hold(w, start) })
	defer late.Stop()
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		far, err := f.Dial(ctx, from)
		if err == nil {
			return far, nil
		}
		if f.Refused != nil && f.Refused(err) {
			return nil, err
		}
		f.hold(w, start)
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != errTooLong {
				return nil, cause
			}
			return nil, fmt.Errorf("%w: %w", errTooLong, err)
		case <-time.After(wait):
		}
	}
}

// hold counts a caller among the held, or ends it if they are too many: the first to come are the first served.
func (f *Forward) hold(w *waiting, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, counted := f.held[w]; counted || w.over {
		return
	}
	if len(f.held) >= orDefault(f.MaxHeld, defaultHeld) {
		w.end(errTooMany)
		return
	}
	if f.held == nil {
		f.held = map[*waiting]time.Time{}
	}
	f.held[w] = since
}

func (f *Forward) release(w *waiting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.over = true
	delete(f.held, w)
}

// readAhead reads what the caller sends, until the buffer is full or stop is called, which returns it. It calls gone
// when the caller breaks off. An end of file alone may mean that it only has said everything, or that it has closed:
// that is not told apart until something is sent to it, so it counts as gone after a grace.
func readAhead(local net.Conn, grace time.Duration, gone func()) (stop func() ahead) {
	var got ahead
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		got.bytes = make([]byte, 0, 4<<10)
		for len(got.bytes) < heldBuffer { // full: the caller feels it, as it would with a slow far side
			if len(got.bytes) == cap(got.bytes) {
				got.bytes = append(make([]byte, 0, 4*cap(got.bytes)), got.bytes...)
			}
			n, err := local.Read(got.bytes[len(got.bytes):cap(got.bytes)])
			got.bytes = got.bytes[:len(got.bytes)+n]
			if err == nil {
				continue
			}
			got.eof = err == io.EOF
			if !got.eof {
				grace = 0
			}
			select {
			case <-stopped: // first: it may be stop that broke the read
				return
			default:
			}
			select {
			case <-stopped:
			case <-time.After(grace):
				gone()
			}
			return
		}
	}()
	return func() ahead {
		close(stopped)
		local.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
		<-done
		local.SetReadDeadline(time.Time{})
		return got
	}
}
