package gateway

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const maxReplyHead = 1 << 20

var (
	errCaller  = errors.New("the caller takes no more")
	errUnasked = errors.New("the far side speaks unasked")
)

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }} // an SSH packet holds as much

// far is a connection to the engine. One goroutine reads it, and is the only one that writes to the caller meanwhile.
type far struct {
	conn   net.Conn
	era    uint64    // of the gateway's Renew
	rested time.Time // since when it carries nothing; used by the caller's goroutine only
	ended  chan struct{}
	err    error // why it ended; nil is a clean end. Read it after ended.

	mu  sync.Mutex // guards what follows
	now *passage   // the request whose answer is awaited
	end bool
}

// passage is one request on its way, and its answer.
type passage struct {
	method   string
	upgrade  bool
	x        *Exchange
	use      *usage // nil if nobody wants to know
	reached  time.Time
	whole    chan struct{} // closed when the answer is complete
	switched chan struct{} // closed when both sides speak another protocol from now on

	// What follows is the far side's until whole is closed, or far.ended.
	head    []byte // of the answer, until it has all come
	inBody  bool
	raw     bool
	body    frame
	reply   *reply
	got     int64 // bytes from the far side
	passed  bool  // some were passed on
	last    bool  // the connection is good for no other request
	goOn    bool  // 100 Continue came
	pieceAt time.Time
}

// begin says whose answer comes next. It is false if the far side has ended.
func (f *far) begin(p *passage) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end {
		return false
	}
	f.now = p
	return true
}

func (f *far) current() *passage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// hangUp closes the connection, and reports whether its goroutine has ended: what that knows may be read only then.
func (f *far) hangUp() bool {
	f.conn.Close()
	limit := time.NewTimer(leaveAfter)
	defer limit.Stop()
	select {
	case <-f.ended:
		return true
	case <-limit.C:
		return false
	}
}

// run passes on what the far side says, until it ends.
func (f *far) run(local net.Conn) {
	err, raw := f.pass(local)
	f.mu.Lock()
	f.err, f.end = err, true
	f.mu.Unlock()
	if raw && err == nil {
		closeWrite(local) // the caller may have more to say
	} else {
		f.conn.Close() // so that nobody waits in a write to it
	}
	close(f.ended)
}

func (f *far) pass(local net.Conn) (err error, raw bool) {
	b := buffers.Get().(*[32 << 10]byte)
	defer func() {
		clear(b[:])
		buffers.Put(b)
	}()
	for {
		n, err := f.conn.Read(b[:])
		p := f.current()
		if n > 0 {
			if p == nil {
				return errUnasked, false
			}
			over, bad := p.take(local, b[:n])
			if bad != nil {
				return bad, false
			}
			if over {
				f.mu.Lock()
				f.now = nil
				f.mu.Unlock()
				close(p.whole)
				if p.last {
					return nil, false
				}
				p = nil
			}
		}
		switch {
		case err == io.EOF:
			if p != nil && p.inBody && p.body.state == frameUntilClose {
				p.last = true
				f.mu.Lock()
				f.now = nil
				f.mu.Unlock()
				close(p.whole)
			}
			return nil, p != nil && p.raw
		case err != nil:
			return err, false
		}
	}
}

// take passes on a piece of the answer, in one write and before anything else is done with it. It reports whether the
// answer is whole with that.
func (p *passage) take(local net.Conn, b []byte) (whole bool, err error) {
	at := time.Now()
	p.got += int64(len(b))
	if p.raw {
		return false, p.write(local, b)
	}
	out, rest := b, 0 // rest is where the body begins in out
	if !p.inBody {
		if len(p.head) > 0 {
			p.head = append(p.head, b...)
			out = p.head
		}
		if rest, err = p.heads(out); err != nil {
			return false, err
		}
		if !p.inBody && !p.raw {
			if len(out)-rest > maxReplyHead {
				return false, errGarbage
			}
			if rest > 0 {
				err = p.write(local, out[:rest])
			}
			if len(p.head) == 0 || rest > 0 {
				p.head = append(make([]byte, 0, len(out)-rest+512), out[rest:]...)
			}
			return false, err
		}
		p.head = nil
		if p.raw {
			err = p.write(local, out)
			close(p.switched)
			return false, err
		}
	}
	before := p.body // as it was, to read the data once more when it is passed on
	n, err := p.body.feed(out[rest:], nil)
	if err == nil && rest+n > 0 {
		err = p.write(local, out[:rest+n])
	}
	p.measure(out[rest:rest+n], before, at)
	if err != nil {
		return false, err
	}
	whole = p.body.done()
	if whole && (rest+n < len(out) || p.reply.close) {
		p.last = true
	}
	return whole, nil
}

// heads reads what heads of answers are in b, and returns where the last of them ends: answers of 1xx come before the
// one that counts.
func (p *passage) heads(b []byte) (end int, err error) {
	for {
		if rest := b[end:]; len(rest) > 0 && !looksLikeHTTP(rest) {
			return 0, errGarbage
		}
		n := replyEnd(b[end:])
		if n == 0 {
			return end, nil
		}
		if p.reply, err = parseReply(b[end:end+n], p.method); err != nil {
			return 0, err
		}
		end += n
		switch {
		case p.reply.status == 101 && !p.upgrade:
			return 0, errGarbage
		case p.reply.status == 101:
			p.raw = true
		case p.reply.status == 100:
			p.goOn = true
			continue
		case p.reply.status < 200:
			continue
		default:
			p.inBody = true
			p.body = newFrame(p.reply.length, maxReplyTrailer)
			if p.use != nil && !p.reply.encoded {
				p.use.shape = shapeOf(p.reply.kind)
			}
		}
		p.x.Status = p.reply.status
		return end, nil
	}
}

func looksLikeHTTP(b []byte) bool {
	const begin = "HTTP/1."
	n := min(len(b), len(begin))
	return string(b[:n]) == begin[:n]
}

func (p *passage) write(local net.Conn, b []byte) error {
	p.passed = true
	if _, err := local.Write(b); err != nil {
		return errCaller
	}
	return nil
}

// measure reads a piece of the body that was passed on.
func (p *passage) measure(b []byte, before frame, at time.Time) {
	p.pieceAt = at
	before.feed(b, func(data []byte) {
		if p.x.ReplyBytes == 0 && len(data) > 0 {
			p.x.FirstByte = at.Sub(p.reached)
		}
		p.x.ReplyBytes += int64(len(data))
		if p.use != nil {
			p.use.take(data, at)
		}
	})
}
