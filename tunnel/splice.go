package tunnel

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// spliced is a caller that has its far side.
type spliced struct {
	local, far net.Conn

	once sync.Once
	over chan struct{} // closed by end
	cut  bool          // not by the caller
}

// leaveAfter is how long the far side may take to let go of a caller that has ended. What still hangs in it is left
// behind then, until the far side or the link ends.
const leaveAfter = time.Second

// end closes both sides at once; the caller sees a reset. Cut says that it was not the caller who ended it. Only the
// first end counts.
func (s *spliced) end(cut bool) {
	s.once.Do(func() {
		s.cut = cut
		rst(s.local)
		s.far.Close()
		close(s.over)
	})
}

// splice copies both ways until both sides have ended, or one breaks, or ctx ends. It reports whether the caller was
// cut.
func splice(ctx context.Context, local, far net.Conn, sent ahead) (cut bool) {
	s := &spliced{local: local, far: far, over: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { s.end(true) })
	done := make(chan struct{}, 2)
	go func() { s.up(sent); done <- struct{}{} }()
	go func() { s.down(); done <- struct{}{} }()
	var leave <-chan time.Time
	over := s.over
	for left := 2; left > 0; {
		select {
		case <-done:
			left--
		case <-over:
			over, leave = nil, time.After(leaveAfter)
		case <-leave:
			left = 0
		}
	}
	stop()
	s.once.Do(func() {
		local.Close()
		far.Close()
	})
	return s.cut
}

// up takes what the caller says to the far side, what was read ahead first.
func (s *spliced) up(sent ahead) {
	if len(sent.bytes) > 0 {
		if _, err := s.far.Write(sent.bytes); err != nil {
			s.end(true)
			return
		}
	}
	if !sent.eof {
		if read, write := pump(s.far, s.local); read != nil || write != nil {
			s.end(write != nil)
			return
		}
	}
	closeWrite(s.far)
}

// down takes what the far side says to the caller.
func (s *spliced) down() {
	if read, write := pump(s.local, s.far); read != nil || write != nil {
		s.end(read != nil)
		return
	}
	closeWrite(s.local)
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }} // an SSH packet holds as much

// pump writes what it reads, at once, until the end of file. It is the only writer of dst. It tells a failure to read
// from one to write: which side broke decides whose doing it was.
func pump(dst io.Writer, src io.Reader) (read, write error) {
	b := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(b)
	for {
		n, err := src.Read(b[:])
		if n > 0 {
			if _, err := dst.Write(b[:n]); err != nil {
				return nil, err
			}
			moved(n)
		}
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}

// closeWrite passes an end of file on. A connection that cannot end one direction alone ends both.
func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
		return
	}
	c.Close()
}
