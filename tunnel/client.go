package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxLate is how many channels may be without an answer beyond their limit before the connection counts as dead.
const maxLate = 16

// Client is one live connection. It closes itself when the other side is silent for too long; every call on it
// then ends. Its methods may be called by several goroutines.
type Client struct {
	target *Target
	wire   *wire
	ssh    ssh.Conn
	via    *Client // the hop before, which ends with this one
	master *master // the user's own ssh, if that carries it; it ends with this one too
	log    *slog.Logger
	limits limits

	rtt     atomic.Int64
	late    atomic.Int64  // channels that got no answer in time
	asking  chan struct{} // holds one token: a second request would only queue behind the first
	retired chan struct{} // closed when it takes no more

	warm       chan struct{} // closed when the first shell runs, or does not
	first      *session      // that shell, once warm is closed; nil if there is none
	firstTaken atomic.Bool

	done chan struct{}

	mu      sync.Mutex // guards what follows
	why     error      // the first reason for the end
	carried int        // streams and sessions that are open, or opening
	proof   *proof     // not asked yet; nil if nobody waits for one
}

func newClient(ctx context.Context, d *Dialer, t *Target, w *wire, via *Client, m *master, sc ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) (*Client, error) {
	c := &Client{
		target: t, wire: w, ssh: sc, via: via, master: m, log: d.log(), limits: d.lim(),
		asking: make(chan struct{}, 1), retired: make(chan struct{}), warm: make(chan struct{}), done: make(chan struct{}),
	}
	go ssh.DiscardRequests(reqs) // says no to each: that is an answer to a server's own probes
	go func() {
		for ch := range chans {
			ch.Reject(ssh.Prohibited, "not asked for")
		}
	}()
	go c.wait()
	go c.warmUp()
	if err := c.ping(ctx, c.limits.probeLimit); err != nil {
		err = c.ended(err) // a goodbye of the server says more
		c.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r := reason(err)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r = "no answer after the login"
		}
		return nil, &DialError{Op: "login", Addr: t.Addr(), Reason: r, Err: err}
	}
	// The first answer has the server's own start in it (50 ms of sshd's): the second one is the way there and back.
	c.ping(ctx, c.limits.probeLimit)
	go c.watch()
	return c, nil
}

// wait notes the end of the connection.
func (c *Client) wait() {
	ended := make(chan error, 1)
	go func() { ended <- c.ssh.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-c.wire.gone:
		// The library's Wait hangs if it gave up over one packet while more were on the way (handshakeTransport.Close
		// waits for readLoop, and that for somebody to take them). Everything on the connection has ended by then.
		select {
		case err = <-ended:
		case <-time.After(time.Second):
			err = errors.New("the connection broke off")
		}
	}
	c.fail(&DialError{Op: "link to", Addr: c.target.Addr(), Reason: reason(err), Err: err})
	c.wire.Close()
	if c.via != nil {
		c.via.Close()
	}
	if c.master != nil {
		c.master.Close()
	}
	c.log.Debug("disconnected", "host", c.target.Host, "why", c.cause())
	close(c.done)
}

// ping asks for a sign of life, and waits for the answer. While an earlier question is still open it only waits.
func (c *Client) ping(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, os.ErrDeadlineExceeded)
	defer cancel()
	var answer <-chan error
	select {
	case c.asking <- struct{}{}:
		answer = c.ask()
	default:
	}
	return c.await(ctx, answer)
}

// Check asks the other side for a sign of life, and returns nil when the answer is there. It is newer than the call:
// what was read before the machine slept proves nothing about now. It waits for as long as ctx and the connection
// last.
func (c *Client) Check(ctx context.Context) error {
	select {
	case c.asking <- struct{}{}:
	case <-c.done:
		return c.cause()
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.await(ctx, c.ask())
}

// ask sends one request that any server answers, be it with no. The caller has put a token into asking.
func (c *Client) ask() <-chan error {
	answer := make(chan error, 1)
	start := time.Now()
	go func() {
		var err error
		if c.master != nil { // which would end the connection for a request
			ctx, cancel := context.WithTimeout(context.Background(), c.limits.open)
			err = c.master.check(ctx, c.ssh)
			cancel()
		} else {
			_, _, err = c.ssh.SendRequest("keepalive@openssh.com", true, nil)
		}
		if err == nil {
			c.rtt.Store(int64(time.Since(start)))
		}
		<-c.asking
		answer <- err
	}()
	return answer
}

func (c *Client) await(ctx context.Context, answer <-chan error) error {
	select {
	case err := <-answer:
		return err
	case <-c.done:
		return c.cause()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// proof is a question that several wait for.
type proof struct {
	done chan struct{}
	err  error // set before done
}

// proves asks whether the connection lived until now, and takes a round trip for that, or two. When a connection ends,
// its channels read a clean end before anybody hears of the reason: only an answer that comes after such an end tells
// it from the other side's own word. Those who ask at once share the question.
func (c *Client) proves() bool {
	c.mu.Lock()
	p := c.proof
	if p == nil {
		p = &proof{done: make(chan struct{})}
		c.proof = p
		go func() {
			select {
			case c.asking <- struct{}{}:
				c.mu.Lock()
				c.proof = nil // who comes from now on needs a later answer
				c.mu.Unlock()
				p.err = c.await(context.Background(), c.ask())
			case <-c.done:
				p.err = c.cause()
			}
			close(p.done)
		}()
	}
	c.mu.Unlock()
	<-p.done
	return p.err == nil
}

// watch probes after silence, and ends the connection when no byte comes. An idle black hole is found within
// probeAfter and probeLimit, 22 s; one with data on the way sooner, by TCP itself.
func (c *Client) watch() {
	after, limit := c.patience()
	clock := time.NewTimer(after)
	defer clock.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-clock.C:
		}
		if silent := c.wire.silence(); silent < after {
			clock.Reset(after - silent)
			continue
		}
		before := c.wire.count.Load()
		err := c.ping(context.Background(), limit)
		if err != nil && c.wire.count.Load() == before && c.isRetired() && c.hasTimeouts() {
			err = c.ping(context.Background(), max(0, c.limits.retired-c.wire.silence()))
		}
		if err != nil && c.wire.count.Load() == before {
			c.fail(&DialError{Op: "link to", Addr: c.target.Addr(), Reason: fmt.Sprintf("silent for %s", c.wire.silence().Round(time.Second)), Err: os.ErrDeadlineExceeded})
			c.hangUp()
			return
		}
		clock.Reset(after)
	}
}

// patience is when to probe and how long to wait, by our own measure or ssh_config's ServerAlive, if that is stricter.
func (c *Client) patience() (after, limit time.Duration) {
	after, limit = c.limits.probeAfter, c.limits.probeLimit
	if every := c.target.ServerAliveInterval; every > 0 {
		after = min(after, every)
		if n := c.target.ServerAliveCountMax; n > 0 {
			limit = min(limit, every*time.Duration(min(n, 100)))
		}
	}
	return after, limit
}

// fail notes why the connection ends; the first reason counts.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why == nil {
		c.why = err
	}
}

func (c *Client) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// hangUp closes what is under SSH, the first hop first: a hop that is dead would take no goodbye.
func (c *Client) hangUp() {
	if c.via != nil {
		c.via.hangUp()
	}
	c.wire.Close()
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it lives. After Close it is net.ErrClosed.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.cause()
	default:
		return nil
	}
}

// Close ends the connection, and those that it goes through; whatever waits on it returns at once.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	c.hangUp()
	<-c.done
	return nil
}

// RTT is the round trip of the last probe; the first one is part of the dial.
func (c *Client) RTT() time.Duration { return time.Duration(c.rtt.Load()) }

// ServerVersion is what the server calls itself, as "OpenSSH_9.2p1 Debian-2".
func (c *Client) ServerVersion() string {
	if c.master != nil {
		return "through ssh" // which keeps it to itself
	}
	return clean(strings.TrimPrefix(string(c.ssh.ServerVersion()), "SSH-2.0-"))
}

// LocalAddr is the address of this machine that the connection uses, or that of its first hop. It is not valid where
// a command makes the connection.
func (c *Client) LocalAddr() netip.Addr {
	if c.via != nil {
		return c.via.LocalAddr()
	}
	if a, ok := c.wire.LocalAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// hasTimeouts reports whether TCP ends the connection when the other side's machine acknowledges nothing: then silence
// alone proves nothing.
func (c *Client) hasTimeouts() bool { return c.LocalAddr().IsValid() && userTimeouts }

// Silence is how long nothing was read. Time that the machine sleeps counts on Windows only.
func (c *Client) Silence() time.Duration { return c.wire.silence() }

// Retire ends the connection when the last stream and the last command on it have ended. Nobody should begin another.
// A retired connection is given up later than one in use: after a sleep the server's TCP is silent for up to two
// minutes although it lives (RFC 6298 §5.5, tcp_retransmit_timer's TCP_RTO_MAX of 120 s).
func (c *Client) Retire() {
	c.mu.Lock()
	again := c.isRetired()
	if !again {
		close(c.retired)
	}
	idle := c.carried == 0
	c.mu.Unlock()
	if idle && !again {
		go c.Close()
	}
}

func (c *Client) isRetired() bool {
	select {
	case <-c.retired:
		return true
	default:
		return false
	}
}

// carry counts what the connection carries.
func (c *Client) carry(n int) {
	c.mu.Lock()
	c.carried += n
	over := c.carried == 0 && c.isRetired()
	c.mu.Unlock()
	if over {
		go c.Close()
	}
}

// open opens a channel within a limit. If the answer comes later, the channel is closed again. Sent, if it is not nil,
// is called once when the request has left, or never will. The caller owes a carry(-1) for a channel that it got.
func (c *Client) open(ctx context.Context, kind string, payload []byte, sent func()) (_ ssh.Channel, _ <-chan *ssh.Request, err error) {
	c.carry(1)
	defer func() {
		if err != nil {
			c.carry(-1)
		}
	}()
	if sent != nil {
		sent = sync.OnceFunc(sent)
		defer sent()
		c.wire.afterWrite(sent)
	}
	type result struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	got := make(chan result, 1)
	go func() {
		ch, reqs, err := c.ssh.OpenChannel(kind, payload)
		got <- result{ch, reqs, err}
	}()
	clock := time.NewTimer(c.limits.open)
	defer clock.Stop()
	slow := false
	select {
	case r := <-got:
		if r.err != nil {
			return nil, nil, c.ended(r.err)
		}
		return r.ch, r.reqs, nil
	case <-c.done:
		err = c.cause()
	case <-ctx.Done():
		err = ctx.Err()
	case <-clock.C:
		slow = true
		err = &DialError{Op: "link to", Addr: c.target.Addr(), Reason: fmt.Sprintf("no answer within %s", c.limits.open), Err: os.ErrDeadlineExceeded}
		if c.late.Add(1) > maxLate {
			c.fail(err)
			c.hangUp()
		}
	}
	go func() {
		r := <-got // an answer, or the end of the connection
		if slow {
			c.late.Add(-1)
		}
		if r.err == nil {
			go ssh.DiscardRequests(r.reqs)
			r.ch.Close()
		}
	}()
	return nil, nil, err
}

// ended prefers the reason why the connection ended, if it did, to what a call on it says: the news of the end may
// be a moment behind.
func (c *Client) ended(err error) error {
	var open *ssh.OpenChannelError
	if errors.As(err, &open) {
		return err
	}
	select {
	case <-c.done:
		return c.cause()
	case <-time.After(50 * time.Millisecond):
		return err
	}
}
