package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a laptop, which is this process, and a box, and the network between them.
type Lab struct {
	t        testing.TB
	box      *box
	files    []*os.File // the devices
	flows    *flows
	toBox    *way
	toLaptop *way

	mu    sync.Mutex
	ended bool
	open  []io.Closer // listeners in the box and their connections
}

// live says whether there is a lab: the laptop has room for one.
var live struct {
	sync.Mutex
	by string // the test that made it
}

// New makes a lab for the time of a test: the network is quick and loses nothing. There is one lab at a time, so
// that tests with one do not run in parallel. Without root on Linux the test is skipped, or fails if CI=true.
func New(t testing.TB) *Lab {
	t.Helper()
	if refusal != "" {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no network lab, and CI must have one: %s", refusal)
		}
		t.Skipf("no network lab: %s", refusal)
	}
	if !entered {
		t.Fatal("the network lab is only there if TestMain calls netlab.Main")
	}
	live.Lock()
	by := live.by
	if by == "" {
		live.by = t.Name()
	}
	live.Unlock()
	if by != "" {
		t.Fatalf("make a network lab: there is still that of %s", by)
	}
	l := &Lab{t: t, flows: &flows{gone: map[flow]bool{}}}
	t.Cleanup(l.close)
	if err := l.start(); err != nil {
		t.Fatalf("make a network lab: %v", err)
	}
	return l
}

func (l *Lab) start() error {
	var err error
	if l.box, err = newBox(); err != nil {
		return err
	}
	// Both devices exist before one is configured, and the ways before there are packets.
	tun := func() error {
		f, err := openTUN()
		if err == nil {
			l.files = append(l.files, f)
		}
		return err
	}
	if err := tun(); err != nil {
		return err
	}
	if err := l.box.do(tun); err != nil {
		return fmt.Errorf("in the box: %w", err)
	}
	if l.toBox, err = startWay(l.files[0], l.files[1], true, l.flows); err != nil {
		return err
	}
	if l.toLaptop, err = startWay(l.files[1], l.files[0], false, l.flows); err != nil {
		return err
	}
	if err := configure(LaptopAddr, "fd50::1"); err != nil {
		return err
	}
	err = l.box.do(func() error {
		if err := loopback(); err != nil {
			return err
		}
		return configure(BoxAddr, "fd50::2")
	})
	if err != nil {
		return fmt.Errorf("in the box: %w", err)
	}
	return nil
}

// close ends the lab and whatever still runs in the box.
func (l *Lab) close() {
	l.mu.Lock()
	l.ended = true
	for _, c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	if l.box != nil {
		if err := l.box.killAll(); err != nil {
			l.t.Error(err)
		}
	}
	for _, f := range l.files {
		f.Close()
	}
	for _, w := range []*way{l.toBox, l.toLaptop} {
		if w != nil {
			w.close()
		}
	}
	if l.box != nil {
		l.box.close()
	}
	live.Lock()
	live.by = ""
	live.Unlock()
}

// Delay is how long a packet takes from now on, in either direction. It is 0 at first. Packets stay in order, even
// if it becomes shorter.
func (l *Lab) Delay(oneWay time.Duration) {
	l.toBox.setDelay(oneWay)
	l.toLaptop.setDelay(oneWay)
}

// Hole begins or ends a black hole: every packet is lost without a word, both ways, also those on the way.
func (l *Lab) Hole(on bool) {
	l.toBox.setHole(on)
	l.toLaptop.setHole(on)
}

// Forget is a NAT that forgot: packets of the TCP connections that there are now are lost, both ways, also those on
// the way. New connections pass, also if their ports are those of an old one.
func (l *Lab) Forget() { l.forget(true) }

// Remember lets the connections that Forget hid pass again.
func (l *Lab) Remember() { l.forget(false) }

func (l *Lab) forget(gone bool) {
	for _, w := range []*way{l.toBox, l.toLaptop} { // no packet that was let through is just being delivered
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	l.flows.forget(gone)
}

// Packets are how many packets have arrived, as many as they would be on a wire with an MTU of 1500.
func (l *Lab) Packets() (toBox, toLaptop int64) { return l.toBox.count(), l.toLaptop.count() }

// Renumber gives the laptop another IPv4 address, say 10.50.0.9, in place of the one it has.
func (l *Lab) Renumber(addr string) {
	l.t.Helper()
	l.setAddr(addr)
}

// RemoveAddr takes the laptop's IPv4 address away, and with it the route to the box.
func (l *Lab) RemoveAddr() {
	l.t.Helper()
	l.setAddr("")
}

// AddAddr gives the laptop an IPv4 address after RemoveAddr.
func (l *Lab) AddAddr(addr string) {
	l.t.Helper()
	l.setAddr(addr)
}

func (l *Lab) setAddr(addr string) {
	l.t.Helper()
	if err := setAddr(addr); err != nil {
		l.t.Error(err)
	}
}

// LinkDown switches the laptop's device off: there is no route to the box.
func (l *Lab) LinkDown() {
	l.t.Helper()
	if err := setUp(device, false); err != nil {
		l.t.Error(err)
	}
}

// LinkUp switches it on again, with the addresses and the route that it had.
func (l *Lab) LinkUp() {
	l.t.Helper()
	err := setUp(device, true) // IPv4 addresses outlive this, IPv6 ones do not
	if err == nil {
		err = addAddr6("fd50::1")
	}
	if err != nil {
		l.t.Error(err)
	}
}

// Listen listens in the box. The listener works from anywhere. The end of the lab closes it and its connections: they
// would never hear that the laptop is gone.
func (l *Lab) Listen(network, addr string) (net.Listener, error) {
	var ln net.Listener
	err := l.box.do(func() (err error) {
		ln, err = new(net.ListenConfig).Listen(context.Background(), network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("in the box: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, ln)
	return &listener{ln, l}, nil
}

// listener notes its connections, for the end of the lab.
type listener struct {
	net.Listener
	l *Lab
}

func (ln *listener) Accept() (net.Conn, error) {
	c, err := ln.Listener.Accept()
	if err != nil {
		return nil, err
	}
	ln.l.mu.Lock()
	defer ln.l.mu.Unlock()
	if ln.l.ended {
		c.Close()
	}
	ln.l.open = append(ln.l.open, c)
	return c, nil
}

// Command is a command for Start. Its own methods Start, Run and Output would start it on the laptop. It is killed
// at the latest when the lab ends.
func (l *Lab) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// Start starts a command in the box. Its Wait is the caller's.
func (l *Lab) Start(cmd *exec.Cmd) error { return l.box.do(cmd.Start) }

// box is the second namespace: a thread that is in it.
type box struct {
	namespace string // its name under /proc
	work      chan func()
	quit      chan struct{}
	done      chan struct{} // closed when the thread ends
}

func newBox() (*box, error) {
	b := &box{work: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	ready := make(chan error)
	go b.run(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return b, nil
}

// run is the box's thread.
func (b *box) run(ready chan<- error) {
	runtime.LockOSThread() // for good: a thread of a goroutine that ends without an unlock ends too
	if unix.Gettid() == unix.Getpid() {
		// Not the main thread, which cannot end, and which is what /proc tells of this process. It is kept busy, so
		// that it is another one now.
		defer runtime.UnlockOSThread()
		go b.run(ready)
		<-b.done
		return
	}
	defer close(b.done)
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		b.namespace, err = os.Readlink("/proc/thread-self/ns/net")
	}
	if err != nil {
		ready <- fmt.Errorf("make a network namespace: %w", err)
		return
	}
	ready <- nil
	for {
		select {
		case f := <-b.work:
			f()
		case <-b.quit:
			return
		}
	}
}

// do runs f in the box.
func (b *box) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case b.work <- func() { result <- f() }:
		return <-result
	case <-b.done:
		return errors.New("the lab has ended")
	}
}

// close ends the thread, and with it the namespace.
func (b *box) close() {
	close(b.quit)
	<-b.done
}

// killAll kills what runs in the box, and waits until it is gone.
func (b *box) killAll() error {
	for range 400 {
		left := 0
		pids, err := os.ReadDir("/proc")
		if err != nil {
			return fmt.Errorf("look for what runs in the box: %w", err)
		}
		for _, e := range pids {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			// A zombie has none.
			if in, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && in == b.namespace {
				left++
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("kill process %d, which runs in the box: %w", pid, err)
				}
			}
		}
		if left == 0 {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("kill what runs in the box: it is still there after 2 s")
}
