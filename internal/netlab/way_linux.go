package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	queueLimit = 4096              // packets on the way in one direction
	headerLen  = 10                // struct virtio_net_hdr
	packetMax  = 1 << 16           // the longest packet with its header, rounded up
	classMin   = 11                // the smallest buffer has 1<<classMin bytes
	classes    = 16 - classMin + 2 // one for each power of two up to 1<<17
)

// way is one direction of the network: it reads packets from a device and writes each to the other one when its time
// has come, in order.
type way struct {
	from, to *os.File
	out      bool // from the laptop to the box
	flows    *flows
	clock    *clock
	wg       sync.WaitGroup

	mu      sync.Mutex // held while a packet is delivered: after a change none passes that should not
	pending sync.Cond  // the queue is not empty any more, or closed
	closed  bool
	delay   time.Duration
	hole    bool
	last    time.Time // when the newest packet is due
	queue   [queueLimit]packet
	head, n int
	free    [classes][][]byte
	passed  int64
}

// packet is one on the way.
type packet struct {
	data []byte // with its header
	due  time.Time
	info info
}

// startWay starts a direction. It ends with close.
func startWay(from, to *os.File, out bool, f *flows) (*way, error) {
	c, err := newClock()
	if err != nil {
		return nil, err
	}
	w := &way{from: from, to: to, out: out, flows: f, clock: c}
	w.pending.L = &w.mu
	w.wg.Go(w.read)
	w.wg.Go(w.deliver)
	return w, nil
}

// close ends the direction; its devices are closed before.
func (w *way) close() {
	w.mu.Lock()
	w.closed = true
	w.pending.Broadcast()
	w.mu.Unlock()
	w.clock.wake()
	w.wg.Wait()
}

func (w *way) read() {
	buf := make([]byte, packetMax)
	for {
		n, err := w.from.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n <= headerLen {
			time.Sleep(time.Millisecond) // never seen; at least no busy loop
			continue
		}
		now := time.Now() // before the lock, for which it may have to wait
		in := parse(buf[:n], w.out)
		if in.multicast { // the kernel's own, which no test sent
			continue
		}
		w.mu.Lock()
		w.take(buf[:n], in, now)
		w.mu.Unlock()
	}
}

// take lets a packet into the network. mu is held.
func (w *way) take(data []byte, in info, now time.Time) {
	if w.hole || w.n == queueLimit || !w.flows.enter(in) {
		return
	}
	if w.n == 0 && w.delay == 0 {
		w.write(data, in)
		return
	}
	due := now.Add(w.delay)
	if due.Before(w.last) { // the delay is shorter now, but nobody overtakes
		due = w.last
	}
	w.last = due
	w.queue[(w.head+w.n)%queueLimit] = packet{append(w.buffer(len(data)), data...), due, in}
	w.n++
	if w.n == 1 {
		w.pending.Signal()
	}
}

// deliver writes the packets of the queue when they are due.
func (w *way) deliver() {
	defer w.clock.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed {
		if w.n == 0 {
			w.pending.Wait()
			continue
		}
		p := w.queue[w.head]
		if wait := time.Until(p.due); wait > 0 {
			w.mu.Unlock()
			w.clock.sleep(wait)
			w.mu.Lock()
			continue // the queue may be another one
		}
		if w.flows.pass(p.info) {
			w.write(p.data, p.info)
		}
		w.drop()
		w.mu.Unlock() // reading is not kept waiting by a long queue
		w.mu.Lock()
	}
}

// drop takes the first packet off the queue. mu is held.
func (w *way) drop() {
	p := &w.queue[w.head]
	c := class(cap(p.data))
	w.free[c] = append(w.free[c], p.data[:0])
	p.data = nil
	w.head, w.n = (w.head+1)%queueLimit, w.n-1
}

// write gives a packet to the device. One that is down takes none: the packet is lost. mu is held.
func (w *way) write(data []byte, in info) {
	if _, err := w.to.Write(data); err == nil {
		w.passed += in.segments
	}
}

// buffer is an empty one for n bytes. mu is held.
func (w *way) buffer(n int) []byte {
	c := class(n)
	if free := w.free[c]; len(free) > 0 {
		w.free[c] = free[:len(free)-1]
		return free[len(free)-1]
	}
	return make([]byte, 0, 1<<(classMin+c))
}

// class is the index of the smallest power of two that holds n bytes.
func class(n int) int { return max(bits.Len(uint(n-1))-classMin, 0) }

// setDelay is what packets take from now on.
func (w *way) setDelay(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = d
}

// setHole begins or ends a black hole.
func (w *way) setHole(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hole = on
	for on && w.n > 0 {
		w.drop()
	}
}

// count is how many packets have arrived.
func (w *way) count() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed
}

// info is what the network knows of a packet.
type info struct {
	flow      flow
	tcp       bool
	syn       bool // it opens a connection
	multicast bool
	segments  int64 // as many packets it would be on a wire
}

// flow is a TCP connection.
type flow struct {
	laptop, box         [16]byte
	laptopPort, boxPort uint16
}

// parse reads a packet that follows its virtio header. out says that the laptop sent it.
func parse(data []byte, out bool) info {
	in := info{segments: 1}
	p := data[headerLen:]
	var src, dst [16]byte
	var start int // of the TCP header
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		copy(src[:], p[12:16])
		copy(dst[:], p[16:20])
		in.tcp, in.multicast = p[9] == unix.IPPROTO_TCP, dst[0] >= 224
		start = int(p[0]&15) * 4
	case len(p) >= 40 && p[0]>>4 == 6:
		copy(src[:], p[8:24])
		copy(dst[:], p[24:40])
		in.tcp, in.multicast = p[6] == unix.IPPROTO_TCP, dst[0] == 0xff
		start = 40
	}
	if !in.tcp || len(p) < start+20 {
		in.tcp = false
		return in
	}
	tcp := p[start:]
	from, to := binary.BigEndian.Uint16(tcp), binary.BigEndian.Uint16(tcp[2:])
	in.flow = flow{src, dst, from, to}
	if !out {
		in.flow = flow{dst, src, to, from}
	}
	const syn, ack = 2, 16
	in.syn = tcp[13]&(syn|ack) == syn
	if size := int(binary.NativeEndian.Uint16(data[4:])); data[1] != 0 && size > 0 { // gso_type, gso_size
		if payload := len(tcp) - int(tcp[12]>>4)*4; payload > size {
			in.segments = int64((payload + size - 1) / size)
		}
	}
	return in
}

// flows are the TCP connections that the network has seen, as a NAT knows them.
type flows struct {
	mu   sync.Mutex
	gone map[flow]bool // whether it was forgotten
}

// enter notes the flow of a new packet, and says whether it may pass.
func (f *flows) enter(in info) bool {
	if !in.tcp {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gone, known := f.gone[in.flow]; known && !in.syn {
		return !gone
	}
	f.gone[in.flow] = false // new, or a new one on the same ports
	return true
}

// pass says whether a packet on the way may still pass.
func (f *flows) pass(in info) bool {
	if !in.tcp {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.gone[in.flow]
}

// forget forgets all flows, or remembers them.
func (f *flows) forget(gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.gone {
		f.gone[k] = gone
	}
}

// clock sleeps more exactly than time.Timer, which is up to a millisecond late in an idle process: epoll counts
// milliseconds.
type clock struct {
	fd int
	f  *os.File // owns fd
}

func newClock() (*clock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	return &clock{fd, os.NewFile(uintptr(fd), "timerfd")}, nil
}

// sleep returns after d, or at once when the clock was woken. Only one goroutine may sleep, and it closes the clock.
func (c *clock) sleep(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}
	if err := unix.TimerfdSettime(c.fd, 0, &spec, nil); err != nil {
		time.Sleep(d)
		return
	}
	var ticks [8]byte
	c.f.Read(ticks[:])
}

// wake ends this sleep and all later ones.
func (c *clock) wake() { c.f.SetReadDeadline(time.Unix(1, 0)) }

func (c *clock) close() { c.f.Close() }
