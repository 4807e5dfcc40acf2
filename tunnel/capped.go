package tunnel

import (
	"bytes"
	"errors"
	"sync"
)

// capped keeps at most n bytes of what is written to it: the last ones if tail is set, and else the first ones, with
// an error for more.
type capped struct {
	n    int
	tail bool

	mu    sync.Mutex // guards what follows
	buf   []byte
	total int
	ended chan struct{} // made by over, closed when it is too much
	much  bool
	word  []byte // to be cut out of what comes, once
	cut   bool
}

var errTooMuch = errors.New("too much output")

func (w *capped) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total += len(p)
	w.buf = append(w.buf, p...)
	if w.word != nil && !w.cut {
		if i := bytes.Index(w.buf, w.word); i >= 0 {
			w.cut = true
			w.buf = append(w.buf[:i], w.buf[i+len(w.word):]...)
		}
	}
	if over := len(w.buf) - w.n; over > 0 {
		if !w.tail {
			w.buf = w.buf[:w.n]
			w.much = true
			if w.ended != nil {
				close(w.ended)
				w.ended = nil
			}
			return 0, errTooMuch
		}
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	return len(p), nil
}

func (w *capped) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.buf)
}

func (w *capped) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

func (w *capped) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.much
}

// over returns a channel that is closed when it is too much.
func (w *capped) over() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := make(chan struct{})
	if w.much {
		close(ended)
	} else {
		w.ended = ended
	}
	return ended
}

// skip cuts a word out of what comes.
func (w *capped) skip(word string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.word = []byte(word)
}

// skipped reports whether the word came.
func (w *capped) skipped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}
