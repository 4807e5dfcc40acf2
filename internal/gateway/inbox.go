package gateway

import (
	"net"
	"sync"
	"sync/atomic"
)

// How far is read ahead of what is taken. What nobody reads is felt by the caller, as it would be with a slow engine.
const (
	blockSize   = 16 << 10
	freeBlocks  = 4        // 64 KiB for each caller, whatever it does
	heldBlocks  = 64       // 1 MiB for one that is held, if the others leave as much
	aheadBudget = 10 << 20 // what all may have beyond their own 64 KiB
)

// block is a piece of what a caller sent. buf[r:w] waits to be taken; buf[w:] belongs to the reader.
type block struct {
	buf  [blockSize]byte
	r, w int
}

var blocks = sync.Pool{New: func() any { return new(block) }}

func (b *block) free() {
	clear(b.buf[:]) // it held somebody's prompt
	b.r, b.w = 0, 0
	blocks.Put(b)
}

// inbox reads what a caller sends, ahead of who takes it: one that breaks off is noticed whatever we wait for. One
// goroutine reads, another takes.
type inbox struct {
	conn   net.Conn
	budget *atomic.Int64 // what all callers have taken of aheadBudget
	over   func(error)   // called once, from the reader: the caller has ended its side, or broke off
	news   chan struct{} // bytes came, or the end
	room   chan struct{}
	done   chan struct{} // the reader has ended

	mu      sync.Mutex // guards what follows
	queue   []*block
	size    int  // bytes that wait
	extra   int  // blocks that count against the budget
	deep    bool // read on into the budget
	full    bool // the reader waits for room
	discard bool
	closed  bool
	err     error // io.EOF, or why nothing comes any more
}

func newInbox(conn net.Conn, budget *atomic.Int64, over func(error)) *inbox {
	return &inbox{conn: conn, budget: budget, over: over, news: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{})}
}

// run reads until the caller ends, breaks off, or close is called.
func (in *inbox) run() {
	defer close(in.done)
	for {
		b := in.space()
		if b == nil {
			return
		}
		n, err := in.conn.Read(b.buf[b.w:])
		in.mu.Lock()
		if !in.discard {
			b.w += n
			in.size += n
		}
		in.err = err
		in.mu.Unlock()
		signal(in.news)
		if err != nil {
			in.over(err)
			return
		}
	}
}

// space is a block with room to read into. It waits for one, and is nil when nothing is to be read any more.
func (in *inbox) space() *block {
	for {
		in.mu.Lock()
		b, closed := in.tail(), in.closed
		in.full = b == nil && !closed
		in.mu.Unlock()
		if closed {
			return nil
		}
		if b != nil {
			return b
		}
		<-in.room
	}
}

func (in *inbox) tail() *block {
	n := len(in.queue)
	if n > 0 && in.queue[n-1].w < blockSize {
		return in.queue[n-1]
	}
	switch {
	case n < freeBlocks:
	case !in.deep || n >= heldBlocks:
		return nil
	case !take(in.budget, blockSize):
		return nil
	default:
		in.extra++
	}
	in.queue = append(in.queue, blocks.Get().(*block))
	return in.queue[n]
}

// take takes bytes out of the budget, if it has as many.
func take(budget *atomic.Int64, n int64) bool {
	if budget.Add(n) <= aheadBudget {
		return true
	}
	budget.Add(-n)
	return false
}

// peek is the next piece that waits, and is good until advance. Without one it says why none will come, or nil if one
// may.
func (in *inbox) peek() ([]byte, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.size == 0 {
		return nil, in.err
	}
	b := in.queue[0]
	return b.buf[b.r:b.w], nil
}

// advance takes n bytes of what peek showed.
func (in *inbox) advance(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n == 0 || len(in.queue) == 0 {
		return
	}
	b := in.queue[0]
	b.r += n
	in.size -= n
	if b.r == blockSize {
		in.drop()
		signal(in.room)
	}
}

// drop lets the first block go.
func (in *inbox) drop() {
	in.queue[0].free()
	in.queue = append(in.queue[:0], in.queue[1:]...)
	if in.extra > 0 {
		in.extra--
		in.budget.Add(-blockSize)
	}
}

// ended is nil while the caller may say more, io.EOF when it has ended its side, and else why it broke off. What it
// said before may still wait.
func (in *inbox) ended() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

// unread reports whether the caller may have said more than was read. Then it may also have ended.
func (in *inbox) unread() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.full
}

// readDeep sets whether the caller's bytes are read on into what all callers share.
func (in *inbox) readDeep(on bool) {
	in.mu.Lock()
	in.deep = on
	in.mu.Unlock()
	signal(in.room)
}

// forget throws away what waits and what is still to come.
func (in *inbox) forget() {
	in.mu.Lock()
	in.discard = true
	for len(in.queue) > 1 { // the last one may be what is read into
		in.drop()
	}
	in.size = 0
	if len(in.queue) == 1 {
		in.queue[0].r = in.queue[0].w
		if in.queue[0].w == blockSize {
			in.drop()
		}
	}
	in.mu.Unlock()
	signal(in.room)
}

// close ends the reader, once its connection is closed.
func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	signal(in.room)
}

// free gives the memory back. The reader has ended.
func (in *inbox) free() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.queue) > 0 {
		in.drop()
	}
	in.size = 0
}

// signal wakes who waits, or will.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
