package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	log    *slog.Logger
	limits limits

	rtt     atomic.Int64
	late    atomic.Int64  // channels that got no answer in time
	pinging chan struct{} // holds one token: a second request would only queue behind the first
	warm    chan struct{} // closed when the first session is over

	done chan struct{}

	mu  sync.Mutex // guards what follows
	why error      // the first reason for the end
}

func newClient(ctx context.Context, d *Dialer, t *Target, w *wire, via *Client, sc ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) (*Client, error) {
	c := &Client{
		target: t, wire: w, ssh: sc, via: via, log: d.log(), limits: d.lim(),
		pinging: make(chan struct{}, 1), warm: make(chan struct{}), done: make(chan struct{}),
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
	err := c.ssh.Wait()
	c.fail(&DialError{Op: "link to", Addr: c.target.Addr(), Reason: reason(err), Err: err})
	c.wire.Close()
	if c.via != nil {
		c.via.Close()
	}
	c.log.Debug("disconnected", "host", c.target.Host, "why", c.cause())
	close(c.done)
}

// ping sends one request that any server answers, be it with no, and waits for the answer. While an earlier one is
// still open it only waits.
func (c *Client) ping(ctx context.Context, limit time.Duration) error {
	answer := make(chan error, 1)
	select {
	case c.pinging <- struct{}{}:
		start := time.Now()
		go func() {
			_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
			if err == nil {
				c.rtt.Store(int64(time.Since(start)))
			}
			<-c.pinging
			answer <- err
		}()
	default:
	}
	clock := time.NewTimer(limit)
	defer clock.Stop()
	select {
	case err := <-answer:
		return err
	case <-clock.C:
		return os.ErrDeadlineExceeded
	case <-c.done:
		return c.cause()
	case <-ctx.Done():
		return ctx.Err()
	}
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
		if err := c.ping(context.Background(), limit); err != nil && c.wire.count.Load() == before {
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
	return clean(strings.TrimPrefix(string(c.ssh.ServerVersion()), "SSH-2.0-"))
}

// open opens a channel within a limit. If the answer comes later, the channel is closed again.
func (c *Client) open(ctx context.Context, kind string, payload []byte) (ssh.Channel, <-chan *ssh.Request, error) {
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
	var err error
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
