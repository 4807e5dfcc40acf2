package box

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// serve speaks SSH on one connection until it ends, and all that it started with it.
func (b *Box) serve(conn net.Conn) {
	if b.opts.Mute {
		io.Copy(io.Discard, conn)
		return
	}
	conn.SetDeadline(time.Now().Add(loginLimit))
	sc, chans, reqs, err := ssh.NewServerConn(conn, b.config())
	if err != nil {
		b.log.Debug("no login", "from", conn.RemoteAddr(), "err", err)
		return
	}
	conn.SetDeadline(time.Time{})
	b.log.Debug("login", "from", conn.RemoteAddr(), "user", sc.User())

	ctx, cancel := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { // any answer to a keepalive is proof of life
		for r := range reqs {
			if r.WantReply {
				r.Reply(r.Type == "keepalive@openssh.com", nil)
			}
		}
	})
	room := make(chan struct{}, maxChannels)
	for ch := range chans {
		select {
		case room <- struct{}{}:
			wg.Go(func() {
				defer func() { <-room }()
				b.channel(ctx, ch)
			})
		default:
			ch.Reject(ssh.ResourceShortage, "too many channels")
		}
	}
	cancel()
	sc.Close()
	wg.Wait()
}

// config says who is let in.
func (b *Box) config() *ssh.ServerConfig {
	o := b.opts
	c := &ssh.ServerConfig{ServerVersion: "SSH-2.0-rlca-box"}
	c.AddHostKey(b.signer())
	if o.Banner != "" {
		c.BannerCallback = func(ssh.ConnMetadata) string { return o.Banner }
	}
	user := func(m ssh.ConnMetadata) error {
		if o.User != "" && m.User() != o.User {
			return errors.New("no such user")
		}
		return nil
	}
	if o.AuthorizedKeys == nil && o.Password == "" {
		c.NoClientAuth = true
		c.NoClientAuthCallback = func(m ssh.ConnMetadata) (*ssh.Permissions, error) { return nil, user(m) }
		return c
	}
	if o.AuthorizedKeys != nil {
		c.PublicKeyCallback = func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, k := range o.AuthorizedKeys {
				if bytes.Equal(k.Marshal(), key.Marshal()) {
					return nil, user(m)
				}
			}
			return nil, errors.New("the key is not known here")
		}
	}
	if o.Code != "" {
		c.KeyboardInteractiveCallback = func(m ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			got, err := ask("", "", []string{"Password:", "Code:"}, []bool{false, true})
			if err != nil || len(got) != 2 || subtle.ConstantTimeCompare([]byte(got[0]+got[1]), []byte(o.Password+o.Code)) != 1 {
				return nil, errors.New("the password or the code is wrong")
			}
			return nil, user(m)
		}
		return c
	}
	if o.Password != "" {
		c.PasswordCallback = func(m ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if subtle.ConstantTimeCompare(password, []byte(o.Password)) != 1 {
				return nil, errors.New("the password is wrong")
			}
			return nil, user(m)
		}
	}
	return c
}

// channel serves one channel until it ends, or ctx, which is the connection's.
func (b *Box) channel(ctx context.Context, ch ssh.NewChannel) {
	switch kind := ch.ChannelType(); kind {
	case "session":
		if b.opts.NoSession {
			ch.Reject(ssh.Prohibited, "no sessions here")
			return
		}
		b.session(ctx, ch)
	case "direct-tcpip", "direct-streamlocal@openssh.com":
		if b.opts.NoForward {
			ch.Reject(ssh.Prohibited, "administratively prohibited")
			return
		}
		b.forward(ctx, ch)
	default:
		ch.Reject(ssh.UnknownChannelType, "not here")
	}
}
