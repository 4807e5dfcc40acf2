//go:build linux || darwin

package tunnel

import (
	"context"
	"os"
	"time"
)

// A source is where the system tells its news.
type source struct {
	// file is read for them, one message or some at a time. It must be one that the Go poller can wait for.
	file *os.File
	// heard judges what a read gave: whether it is news, and whether that was the last (fatal is not nil).
	heard func(message []byte, err error) (news bool, fatal error)
}

// newSource takes over fd, which must not block. It closes it where it fails.
func newSource(fd int, name string, heard func([]byte, error) (bool, error)) (source, error) {
	f := os.NewFile(uintptr(fd), name)
	// Only a file in the poller has deadlines, and without one a read could not be ended.
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		f.Close()
		return source{}, err
	}
	return source{f, heard}, nil
}

// listen rings for all news until the source fails or ctx ends; then it closes the source. It reports whether
// anything was read.
func (s source) listen(ctx context.Context, news bell) (useful bool) {
	defer s.file.Close()
	stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 32<<10) // no message of Linux' netlink is larger; the type of one that is cut is still read
	for {
		n, err := s.file.Read(buf)
		if ctx.Err() != nil {
			return useful
		}
		is, fatal := s.heard(buf[:n], err)
		if is {
			news.ring()
		}
		if fatal != nil {
			return useful
		}
		useful = true
	}
}

// watch listens to the source that open opens, and opens it again if it fails, until ctx ends.
func watch(ctx context.Context, open func() (source, error), news bell) {
	pause, missed := minSourcePause, false
	for {
		if s, err := open(); err == nil {
			if missed {
				news.ring() // nobody listened for a while
			}
			if s.listen(ctx, news) {
				pause = minSourcePause
			}
		}
		if !rest(ctx, pause) {
			return
		}
		pause, missed = min(2*pause, maxSourcePause), true
	}
}
