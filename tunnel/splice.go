package tunnel

import (
	"context"
	"io"
	"net"
	"sync"
)

// spliced is a caller that has its far side.
type spliced struct {
	local, far net.Conn

	once sync.Once
	cut  bool // not by the caller
}

// end closes both sides at once; the caller sees a reset. Cut says that it was not the caller who ended it. Only the
// first end counts.
func (s *spliced) end(cut bool) {
	s.once.Do(func() {
		s.cut = cut
		rst(s.local)
		s.far.Close()
	})
}

// splice copies both ways until both sides have ended, or one breaks, or ctx ends. It reports whether the caller was
// cut.
func (f *Forward) splice(ctx context.Context, local, far net.Conn, sent ahead) (cut bool) {
	s := &spliced{local: local, far: far}
	f.mu.Lock()
	if f.spliced == nil {
		f.spliced = map[*spliced]struct{}{}
	}
	f.spliced[s] = struct{}{}
	f.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { s.end(true) })
	var both sync.WaitGroup
	both.Go(func() { s.up(sent) })
	both.Go(func() { s.down() })
	both.Wait()
	stop()
	f.mu.Lock()
	delete(f.spliced, s)
	f.mu.Unlock()
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
