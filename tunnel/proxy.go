package tunnel

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// proxy runs a ProxyCommand, whose input and output are the connection.
func proxy(ctx context.Context, t *Target, log *slog.Logger) (net.Conn, error) {
	line, problem := t.proxyTokens(t.ProxyCommand)
	if problem != "" {
		return nil, &ConfigError{Host: t.Host, Msg: "ProxyCommand " + problem}
	}
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, &DialError{Op: "connect", Addr: t.Addr(), Reason: "start the ProxyCommand: " + reason(err), Err: err}
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		theirIn.Close()
		in.Close()
		return nil, &DialError{Op: "connect", Addr: t.Addr(), Reason: "start the ProxyCommand: " + reason(err), Err: err}
	}
	cmd := shellCommand(line)
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	errs := &capped{n: 4 << 10, tail: true}
	cmd.Stderr = errs
	cmd.WaitDelay = time.Second
	ownGroup(cmd)
	err = cmd.Start()
	theirIn.Close()
	theirOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, &DialError{Op: "connect", Addr: t.Addr(), Reason: "start the ProxyCommand: " + clean(err.Error()), Err: err}
	}
	p := &proxyConn{cmd: cmd, in: in, out: out, errs: errs, ended: make(chan struct{}), addr: farAddr{"tcp", t.Addr()}}
	go func() {
		err := cmd.Wait()
		log.Debug("proxy command ended", "host", t.Host, "err", err, "said", clean(string(errs.bytes())))
		close(p.ended)
	}()
	return p, nil
}

// proxyConn is a running ProxyCommand as a net.Conn. Its deadlines do nothing: those who use it close it.
type proxyConn struct {
	cmd   *exec.Cmd
	in    *os.File
	out   *os.File
	errs  *capped
	ended chan struct{}
	addr  farAddr
	once  sync.Once
}

func (p *proxyConn) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *proxyConn) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close ends the command and everything that it started.
func (p *proxyConn) Close() error {
	p.once.Do(func() {
		p.in.Close()
		select {
		case <-p.ended: // its number may be somebody else's by now
		default:
			killGroup(p.cmd)
		}
		p.out.Close()
		<-p.ended // WaitDelay bounds it
	})
	return nil
}

// said is what the command printed on its standard error. It waits a moment for its end.
func (p *proxyConn) said() string {
	select {
	case <-p.ended:
	case <-time.After(500 * time.Millisecond):
	}
	return strings.TrimSpace(clean(string(p.errs.bytes())))
}

func (p *proxyConn) LocalAddr() net.Addr              { return farAddr{"pipe", "ProxyCommand"} }
func (p *proxyConn) RemoteAddr() net.Addr             { return p.addr }
func (p *proxyConn) SetDeadline(time.Time) error      { return nil }
func (p *proxyConn) SetReadDeadline(time.Time) error  { return nil }
func (p *proxyConn) SetWriteDeadline(time.Time) error { return nil }
