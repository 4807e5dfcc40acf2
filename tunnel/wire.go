package tunnel

import (
	"bufio"
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wire is the connection under SSH. It notes when bytes were last read: the only proof that the other side lives.
type wire struct {
	net.Conn
	in    *bufio.Reader // SSH reads its banner byte by byte
	start time.Time

	last  atomic.Int64 // of the last successful read, since start; the clock stands still while the machine sleeps
	count atomic.Int64 // bytes read
	waits atomic.Bool  // somebody waits for the next write
	gone  chan struct{}
	once  sync.Once
	first func() // called with the first bytes

	mu    sync.Mutex // guards what follows
	head  []byte     // the first bytes, to tell what answered
	wrote []func()   // called after the next write
}

// wireBuffer is read at once where there is as much; it saves system calls on a stream.
const wireBuffer = 64 << 10

func newWire(c net.Conn, first func()) *wire {
	w := &wire{Conn: c, start: time.Now(), gone: make(chan struct{}), first: first}
	w.in = bufio.NewReaderSize(raw{w}, wireBuffer)
	return w
}

func (w *wire) Read(p []byte) (int, error) { return w.in.Read(p) }

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if w.waits.Load() {
		w.mu.Lock()
		wrote := w.wrote
		w.wrote = nil
		w.waits.Store(false)
		w.mu.Unlock()
		for _, f := range wrote {
			f()
		}
	}
	return n, err
}

// afterWrite calls f after the next write has ended.
func (w *wire) afterWrite(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote = append(w.wrote, f)
	w.waits.Store(true)
}

// raw reads from the connection itself.
type raw struct{ w *wire }

func (r raw) Read(p []byte) (int, error) {
	w := r.w
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.last.Store(int64(time.Since(w.start)))
		if w.count.Add(int64(n)) == int64(n) {
			w.mu.Lock()
			w.head = append(w.head, p[:min(n, 256)]...)
			w.mu.Unlock()
			w.first()
		}
	}
	if err != nil {
		w.once.Do(func() { close(w.gone) })
	}
	return n, err
}

// Close ends the connection, and every read and write on it.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.gone) })
	return w.Conn.Close()
}

// broken reports whether the connection has ended.
func (w *wire) broken() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// silence is how long nothing was read.
func (w *wire) silence() time.Duration { return time.Since(w.start) - time.Duration(w.last.Load()) }

// greeting is the first line that was read, and whether it is that of an SSH server.
func (w *wire) greeting() (line string, isSSH bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, _, _ := bytes.Cut(w.head, []byte("\n"))
	return clean(string(first)), bytes.HasPrefix(w.head, []byte("SSH-")) || bytes.Contains(w.head, []byte("\nSSH-"))
}

// deadline calls end when its time is up. It stands still while a person is asked.
type deadline struct {
	end func()

	mu     sync.Mutex // guards what follows
	timer  *time.Timer
	until  time.Time
	left   time.Duration // while it stands still
	still  int
	over   bool   // stopped for good
	missed string // what was waited for when the time was up
}

func newDeadline(d time.Duration, what string, end func()) *deadline {
	t := &deadline{end: end}
	t.set(d, what)
	return t
}

// set starts the time anew, for what is waited for now.
func (t *deadline) set(d time.Duration, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.missed != "" {
		return // a later key exchange of a connection that is up
	}
	if t.timer != nil {
		t.timer.Stop()
	}
	t.until, t.left = time.Now().Add(d), d
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		t.mu.Lock()
		hit := t.timer == timer && t.still == 0 && !t.over
		if hit {
			t.missed = what
		}
		t.mu.Unlock()
		if hit {
			t.end()
		}
	})
	t.timer = timer
	if t.still > 0 {
		timer.Stop()
	}
}

// pause runs f with the clock standing still.
func (t *deadline) pause(f func()) {
	t.mu.Lock()
	if t.still++; t.still == 1 {
		t.timer.Stop()
		t.left = time.Until(t.until)
	}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		if t.still--; t.still == 0 && !t.over {
			t.until = time.Now().Add(t.left)
			t.timer.Reset(max(t.left, 0))
		}
		t.mu.Unlock()
	}()
	f()
}

// stop ends the clock. It returns what was waited for if the time was up before.
func (t *deadline) stop() (missed string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	t.timer.Stop()
	return t.missed
}
