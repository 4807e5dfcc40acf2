package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// login does the SSH handshake, with a clock outside it that closes the connection.
func (d *Dialer) login(ctx context.Context, t *Target, conn net.Conn, via *Client) (*Client, error) {
	lim := d.lim()
	hosts, err := newHostKeys(t, d.AcceptNew)
	if err != nil {
		return nil, err
	}
	algos, err := algorithms(t)
	if err != nil {
		return nil, err
	}
	hangUp := func() {
		if via != nil { // closing the channel alone would ask a hop that may be dead
			via.wire.Close()
		}
		conn.Close()
	}
	clock := newDeadline(t.connectLimit(), "banner", hangUp)
	defer context.AfterFunc(ctx, hangUp)()
	w := newWire(conn, func() { clock.set(lim.handshake, "handshake") })
	ring := &keyring{ctx: ctx, target: t, dialer: d, human: clock.pause, broken: w.broken}
	defer ring.close()

	var keyErr, authErr error // what our own callbacks said: the handshake wraps it in its words
	config := &ssh.ClientConfig{
		User: t.User, ClientVersion: "SSH-2.0-rlca", HostKeyAlgorithms: hosts.algorithms(algos.HostKeys),
		HostKeyCallback: func(name string, addr net.Addr, key ssh.PublicKey) error {
			if err := hosts.check(name, addr, key); err != nil {
				keyErr = err
				return err
			}
			clock.set(lim.login, "login")
			return nil
		},
		AuthCallback: func(c *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			m, err := ring.callback(c)
			authErr = err
			return m, err
		},
	}
	config.KeyExchanges, config.Ciphers, config.MACs = algos.KeyExchanges, algos.Ciphers, algos.MACs

	sc, chans, reqs, err := ssh.NewClientConn(w, t.Addr(), config)
	missed := clock.stop()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err == nil:
	case keyErr != nil && Final(keyErr):
		err = keyErr
	case keyErr != nil:
		err = &DialError{Op: "handshake", Addr: t.Addr(), Reason: clean(keyErr.Error()), Err: keyErr}
	case authErr != nil:
		err = authErr
	default:
		err = loginError(t, w, hosts.done(), ring, missed, err)
	}
	if err != nil {
		if sc != nil {
			go ssh.DiscardRequests(reqs)
			hangUp()
		}
		return nil, err
	}
	return newClient(ctx, d, t, w, via, nil, sc, chans, reqs)
}

// loginError says in our words where the handshake ended. keyDone says that the host key was accepted, missed what
// was waited for when the time was up.
func loginError(t *Target, w *wire, keyDone bool, ring *keyring, missed string, err error) error {
	e := &DialError{Op: "handshake", Addr: t.Addr(), Err: err, Reason: reason(err)}
	if keyDone {
		e.Op = "login"
	}
	closed := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	line, isSSH := w.greeting()
	said, proxied := "", false
	if p, ok := w.Conn.(*proxyConn); ok {
		said, proxied = p.said(), true
	}
	switch {
	case missed == "banner":
		e.Op, e.Reason = "banner", fmt.Sprintf("the server says nothing for %s", t.connectLimit())
	case missed != "":
		e.Reason = "no end of the " + missed + " in time"
	case !isSSH && w.count.Load() == 0 && proxied:
		e.Op, e.Reason = "connect", "the ProxyCommand ended without a connection"
		if said != "" {
			e.Reason = "the ProxyCommand ended: " + said
		}
	case !isSSH && w.count.Load() == 0 && closed:
		e.Op, e.TooBusy = "banner", true
		e.Reason = "the server closed before it said who it is: it is too busy, or it keeps us out for a while"
	case !isSSH && w.count.Load() > 0:
		e.Op, e.Reason = "banner", "what answers there is no SSH server"
		if line != "" {
			e.Reason = fmt.Sprintf("what answers there is no SSH server, it says %q", line)
		}
		e.TooBusy = strings.Contains(line, "MaxStartups") || strings.Contains(line, "Not allowed at this time")
	case keyDone && strings.Contains(err.Error(), "ssh: unable to authenticate"): // it said no, and nothing is left to try
		return ring.refused()
	case keyDone && strings.Contains(err.Error(), "disconnect, reason 2") && len(ring.tried) > 0:
		ring.notes = append(ring.notes, "the box ended the login: "+e.Reason) // too many keys, for one
		return ring.refused()
	case closed:
		e.Reason = "the server closed the connection"
	}
	return e
}

// reason is what an error of a network call says, without the call and the address: they are said elsewhere.
func reason(err error) string {
	var dns *net.DNSError
	var sys syscall.Errno
	var refused *RefusedError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &dns):
		return "the name service does not answer: " + clean(dns.Err)
	case errors.As(err, &refused):
		return refused.Reason
	case errors.As(err, &sys):
		return sys.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "closed by the other side"
	}
	s := clean(unwrapNet(err).Error())
	for _, p := range []string{"ssh: handshake failed: ", "ssh: "} {
		s = strings.TrimPrefix(s, p)
	}
	return s
}

// unwrapNet takes the operation and the addresses off an error of package net.
func unwrapNet(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
