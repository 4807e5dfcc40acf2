// Package box is an embedded SSH box: a small SSH server in this process that runs commands on this machine and
// forwards to its loopback. rlca demo connects to it, and so do tests, which can also make it misbehave.
//
// It listens on loopback alone, lets in only the keys that it was given, and opens connections to loopback only. What
// it starts ends with it, except processes that left for a session of their own, as an engine does that is meant to
// stay.
//
// Beside it lies Engine, which stands in for an Ollama where there is none.
package box

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// What a box bears at once: nobody who connects can make it take more.
const (
	maxConns    = 256 // connections
	maxChannels = 256 // channels of one connection
	loginLimit  = 30 * time.Second
)

// PublicKey is a key that may log in.
type PublicKey = ssh.PublicKey

// Options say what kind of box it is. The zero value lets anybody in and behaves well.
type Options struct {
	// Addr is where it listens, an address of loopback; empty means a free port of 127.0.0.1.
	Addr string
	// User may log in; empty means any.
	User string
	// AuthorizedKeys and Password let in; nil and empty mean that nothing is asked for.
	AuthorizedKeys []PublicKey
	Password       string
	Code           string // asked for beside the password, by keyboard-interactive
	// HostKey is the box's own; nil means a fresh one.
	HostKey ssh.Signer
	// Shell is the login shell, called with -c; empty means /bin/sh, on Windows the sh on PATH.
	Shell string
	// Dir is where commands run and their HOME; empty means the process's own. Env is added to their environment.
	Dir string
	Env []string

	// Banner is shown before the login. Noise is printed before every command's output, as a talkative login shell does.
	Banner, Noise string
	// NoShell answers every command as a box without sh; NoSession refuses sessions; NoForward refuses forwards.
	NoShell, NoSession, NoForward bool
	// Mute accepts connections and says nothing.
	Mute bool
	// Log hears of logins and commands, at Debug. Nil means nobody does.
	Log *slog.Logger
}

// Box is a running box.
type Box struct {
	opts Options
	log  *slog.Logger
	ln   net.Listener
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup // everything that it started

	mu     sync.Mutex // guards what follows
	key    ssh.Signer
	conns  map[*net.TCPConn]struct{}
	paused bool
	closed bool
}

// Start brings up a box. It runs until Close.
func Start(o Options) (*Box, error) {
	b := &Box{opts: o, log: o.Log, key: o.HostKey, conns: map[*net.TCPConn]struct{}{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.key == nil {
		_, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a host key: %w", err)
		}
		if b.key, err = ssh.NewSignerFromKey(priv); err != nil {
			return nil, fmt.Errorf("make a host key: %w", err)
		}
	}
	addr := o.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if host, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("start a box: %w", err)
	} else if !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("start a box on %s: it listens on loopback alone", addr)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("start a box: %w", err)
	}
	b.ln = ln
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.wg.Go(b.accept)
	return b, nil
}

// Addr is host:port; Host and Port are its parts.
func (b *Box) Addr() string { return b.ln.Addr().String() }
func (b *Box) Host() string { h, _, _ := net.SplitHostPort(b.Addr()); return h }
func (b *Box) Port() string { _, p, _ := net.SplitHostPort(b.Addr()); return p }

// HostKey is the box's own public key.
func (b *Box) HostKey() ssh.PublicKey { return b.signer().PublicKey() }

// SetHostKey gives the box another key, which connections see that come from now on.
func (b *Box) SetHostKey(key ssh.Signer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.key = key
}

func (b *Box) signer() ssh.Signer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.key
}

// KnownHostsLine is what known_hosts has to say of this box, without a line break.
func (b *Box) KnownHostsLine() string { return KnownHostsLine(b.Addr(), b.HostKey()) }

// Cut resets every connection at once and returns how many there were.
func (b *Box) Cut() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		reset(c)
	}
	return len(b.conns)
}

// Pause resets every new connection at once, until Resume. The port stays the box's, and so do connections that are up.
func (b *Box) Pause()  { b.setPaused(true) }
func (b *Box) Resume() { b.setPaused(false) }

func (b *Box) setPaused(v bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = v
}

// Close ends every connection and every command, and waits for all of it. Processes that left their session live on.
// It may be called twice.
func (b *Box) Close() error {
	b.mu.Lock()
	again := b.closed
	b.closed = true
	b.mu.Unlock()
	var err error
	if !again {
		b.stop()
		err = b.ln.Close()
		b.Cut()
	}
	b.wg.Wait()
	return err
}

func (b *Box) accept() {
	for {
		c, err := b.ln.Accept()
		if b.ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return
		}
		if err != nil { // no file is left to open, say: it passes
			b.log.Warn("accept", "err", err)
			select {
			case <-b.ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		conn := c.(*net.TCPConn)
		if !b.admit(conn) {
			reset(conn)
			continue
		}
		b.wg.Go(func() {
			defer b.forget(conn)
			b.serve(conn)
		})
	}
}

func (b *Box) admit(c *net.TCPConn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paused || b.closed || len(b.conns) >= maxConns {
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *Box) forget(c *net.TCPConn) {
	c.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
}

// reset closes a connection so that its other end notices at once: with RST, not FIN.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
