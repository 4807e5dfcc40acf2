package box

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// dialLimit is how long the far end of a forward may take to answer.
const dialLimit = 10 * time.Second

var errNotLoopback = errors.New("only loopback is forwarded to")

// forward joins a channel with a connection to where it wants to go.
func (b *Box) forward(ctx context.Context, nc ssh.NewChannel) {
	network, addrs, err := destination(nc.ChannelType(), nc.ExtraData())
	if errors.Is(err, errNotLoopback) {
		nc.Reject(ssh.Prohibited, err.Error())
		return
	}
	var far halfCloser
	if err == nil {
		far, err = dial(ctx, network, addrs)
	}
	if err != nil {
		why := err.Error()
		if errors.Is(err, syscall.ECONNREFUSED) {
			why = "Connection refused" // sshd's own words
		}
		nc.Reject(ssh.ConnectionFailed, why)
		return
	}
	defer far.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { far.Close() })()
	join(ch, reqs, far)
}

// destination is where a channel wants to go: one address, or more that are tried in turn. The payloads are those of
// RFC 4254 §7.2 and of OpenSSH's PROTOCOL §2.4.
func destination(kind string, payload []byte) (network string, addrs []string, err error) {
	if kind == "direct-streamlocal@openssh.com" {
		var p struct {
			Path, Reserved string
			Port           uint32
		}
		if err := ssh.Unmarshal(payload, &p); err != nil {
			return "", nil, fmt.Errorf("read the request: %w", err)
		}
		return "unix", []string{p.Path}, nil
	}
	var p struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(payload, &p); err != nil {
		return "", nil, fmt.Errorf("read the request: %w", err)
	}
	if p.Port == 0 || p.Port > 65535 {
		return "", nil, fmt.Errorf("%d is no port", p.Port)
	}
	port := strconv.Itoa(int(p.Port))
	if p.Host == "localhost" { // by number: what the name means elsewhere is not our business
		return "tcp", []string{"127.0.0.1:" + port, "[::1]:" + port}, nil
	}
	ip := net.ParseIP(p.Host)
	if !ip.IsLoopback() {
		return "", nil, errNotLoopback
	}
	return "tcp", []string{net.JoinHostPort(ip.String(), port)}, nil
}

// halfCloser is a connection whose one direction can end before the other.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func dial(ctx context.Context, network string, addrs []string) (halfCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	var first error
	for _, a := range addrs {
		c, err := new(net.Dialer).DialContext(ctx, network, a)
		if err == nil {
			return c.(halfCloser), nil // *net.TCPConn or *net.UnixConn
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// join copies both ways until both have ended, one of them broke, or far was closed.
func join(ch ssh.Channel, reqs <-chan *ssh.Request, far halfCloser) {
	var wg sync.WaitGroup
	up := make(chan struct{})
	wg.Go(func() {
		defer close(up)
		if _, err := io.Copy(far, ch); err != nil {
			io.Copy(io.Discard, ch) // far reads no more; what it still says is passed on
		}
		far.CloseWrite()
	})
	wg.Go(func() {
		ssh.DiscardRequests(reqs) // until the client has closed the channel, or is gone
		<-up                      // what it sent before that is delivered
		far.Close()
	})
	_, err := io.Copy(ch, far)
	ch.CloseWrite()
	if err == nil {
		<-up // the client may have more to say
	}
	ch.Close()
	wg.Wait()
}
