package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// Dial opens a connection from the far side to an address there: network is "tcp", with host:port, or "unix", with a
// path. The connection has CloseWrite. Its deadlines are hard: one that passes closes it. A link that is lost ends
// its reads with io.ErrUnexpectedEOF, never with a clean end; a reset behind the server cannot be told from one. A read
// or a write that hangs ends after Close when the server closes too, which waits for a program there that takes
// nothing, or with the connection.
//
// Errors: *RefusedError if the far side would not; *DialError if it does not answer within 10 s; ctx's own; that of a
// connection that ended.
func (c *Client) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return c.Open(ctx, Opening{Network: network, Addr: addr})
}

// Opening is a connection that is wanted on the far side.
type Opening struct {
	Network, Addr string // as for Client.Dial
	// From is who wants it: the far side's SSH server may log it. Nil means nobody in particular.
	From net.Addr

	sent func() // called when the request has left, or never will
}

// Open is Dial, for somebody.
func (c *Client) Open(ctx context.Context, o Opening) (net.Conn, error) {
	network, addr := o.Network, o.Addr
	kind, payload, err := channelFor(o)
	if err != nil {
		return nil, err
	}
	ch, reqs, err := c.open(ctx, kind, payload, o.sent)
	var open *ssh.OpenChannelError
	if errors.As(err, &open) {
		return nil, refusal(addr, open)
	}
	if err != nil {
		return nil, err
	}
	go ssh.DiscardRequests(reqs)
	return &stream{ch: ch, client: c, addr: farAddr{network, addr}}, nil
}

// refusal says why a channel was not opened. OpenSSH says "open failed" for "Connection refused" and the like.
func refusal(addr string, open *ssh.OpenChannelError) *RefusedError {
	said := clean(open.Message)
	if said != "" { // "Connection refused"
		_, n := utf8.DecodeRuneInString(said)
		said = strings.ToLower(said[:n]) + said[n:]
	}
	e := &RefusedError{Addr: addr, Reason: said}
	switch open.Reason {
	case ssh.Prohibited:
		e.Prohibited = true
		e.Reason = "the box's SSH server does not allow it"
	case ssh.UnknownChannelType:
		e.Prohibited = true
		e.Reason = "the box's SSH server cannot do it"
	case ssh.ResourceShortage:
		e.Reason = "the box's SSH server has no room for more"
	default:
		if e.Reason == "" || e.Reason == "open failed" {
			e.Reason = "connection refused"
		}
	}
	return e
}

// channelFor is the kind and the payload of a channel to an address (RFC 4254 §7.2, OpenSSH's PROTOCOL §2.4). Without
// an originator it gives what `ssh -W` gives.
func channelFor(o Opening) (kind string, payload []byte, err error) {
	switch o.Network {
	case "unix":
		return "direct-streamlocal@openssh.com", ssh.Marshal(&struct {
			Path, Reserved string
			Port           uint32
		}{Path: o.Addr}), nil
	case "tcp", "tcp4", "tcp6":
	default:
		return "", nil, net.UnknownNetworkError(o.Network)
	}
	host, port, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return "", nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", nil, &net.AddrError{Err: "bad port", Addr: o.Addr}
	}
	if host == "" {
		return "", nil, &net.AddrError{Err: "no host", Addr: o.Addr}
	}
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 65535)
	if a, ok := o.From.(*net.TCPAddr); ok && a != nil {
		from = a.AddrPort()
	}
	return "direct-tcpip", ssh.Marshal(&struct {
		Host       string
		Port       uint32
		Originator string
		OrigPort   uint32
	}{host, uint32(n), from.Addr().Unmap().WithZone("").String(), uint32(from.Port())}), nil
}

// stream is a channel as a net.Conn.
type stream struct {
	ch     ssh.Channel
	client *Client
	addr   farAddr

	writing sync.Mutex // held by Write and CloseWrite, which the library does not allow at once

	mu     sync.Mutex // guards what follows
	closed bool
	read   *time.Timer
	write  *time.Timer
	late   bool // a deadline has passed
}

// CloseWriter is what a connection has that can end one direction.
var _ interface{ CloseWrite() error } = (*stream)(nil)

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ch.Read(p)
	if err == nil {
		return n, nil
	}
	s.mu.Lock()
	late, closed := s.late, s.closed
	s.mu.Unlock()
	switch {
	case late:
		return n, os.ErrDeadlineExceeded
	case closed:
		return n, net.ErrClosed
	case err == io.EOF && !s.client.proves():
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	n, err := s.ch.Write(p)
	return n, s.writeErr(err)
}

// CloseWrite ends our direction; the other one stays open.
func (s *stream) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.writeErr(s.ch.CloseWrite())
}

func (s *stream) writeErr(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.late:
		return os.ErrDeadlineExceeded
	case s.closed:
		return net.ErrClosed
	case err == io.EOF: // the library's word for a channel that the other side closed
		return io.ErrClosedPipe
	}
	return err
}

// Close closes both directions. On a link that hangs it does not wait for its goodbye to leave.
func (s *stream) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	for _, t := range []*time.Timer{s.read, s.write} {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	s.hangUp()
	s.client.carry(-1)
	return nil
}

func (s *stream) hangUp() {
	sent := make(chan struct{})
	go func() {
		s.ch.Close()
		close(sent)
	}()
	select {
	case <-sent:
	case <-time.After(100 * time.Millisecond):
	}
}

func (s *stream) LocalAddr() net.Addr  { return s.client.wire.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr { return s.addr }

// farAddr is an address on the far side.
type farAddr struct{ network, addr string }

func (a farAddr) Network() string { return a.network }
func (a farAddr) String() string  { return a.addr }

func (s *stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

func (s *stream) SetReadDeadline(t time.Time) error  { return s.setTimer(&s.read, t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.setTimer(&s.write, t) }

func (s *stream) setTimer(timer **time.Timer, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if t.IsZero() {
		return nil
	}
	var mine *time.Timer
	mine = time.AfterFunc(time.Until(t), func() {
		s.mu.Lock()
		hit := *timer == mine && !s.closed
		s.late = s.late || hit
		s.mu.Unlock()
		if hit {
			s.hangUp()
		}
	})
	*timer = mine
	return nil
}
