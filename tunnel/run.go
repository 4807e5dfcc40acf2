package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// What is kept of a script's output, and how long its last bytes may lag behind its end.
const (
	maxOutput = 4 << 20
	maxErrors = 64 << 10
	settle    = time.Second // of silence: sshd tells the status before the last output
	settleAll = time.Minute
)

// Run feeds a script to `exec /bin/sh -s` on the far side and returns its standard output, at most 4 MiB. The
// command is a constant that every login shell understands; the script and its arguments travel on standard input.
// It returns when the script has ended, even if something that it started still holds the output open. The end of
// ctx closes the session. What a login shell prints by itself stands before the output.
//
// Errors: *ExitError for a script that ends with another code than 0; *NoShellError if there is no /bin/sh for us;
// ctx's own; that of a connection that ended. The output that had come is returned with them.
func (c *Client) Run(ctx context.Context, script string) ([]byte, error) {
	return output(c.script(ctx, script, nil))
}

// Command runs one command on the far side, with nothing on its standard input, and returns its standard output, at most
// 4 MiB. The login shell there, which may be cmd or PowerShell, takes the line apart: it has to be the same words to
// each, and must hold no secret. The end and the errors are those of Run; *NoShellError is for a server that runs no
// commands.
func (c *Client) Command(ctx context.Context, command string) ([]byte, error) {
	return output(c.run(ctx, command, "", "", nil))
}

// output is what a command printed. There is no session if it could not be started.
func output(s *session, err error) ([]byte, error) {
	if s == nil {
		return nil, err
	}
	return s.out.bytes(), err
}

// maxLine bounds a line of Follow; the rest of a longer one is left out.
const maxLine = 4 << 10

// Follow feeds a script to the far side as Run does, and calls line with each line of its output, without the end of
// the line, as it comes. It returns when the script ends, or ctx, which closes the session.
func (c *Client) Follow(ctx context.Context, script string, line func(string)) error {
	_, err := c.script(ctx, script, &lines{each: line})
	return err
}

// lines is a writer that cuts what it gets into lines.
type lines struct {
	each func(string)
	part []byte
}

func (l *lines) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		text, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := maxLine - len(l.part); room > 0 {
			l.part = append(l.part, text[:min(len(text), room)]...)
		}
		if ended {
			l.each(string(l.part))
			l.part = l.part[:0]
		}
		rest = after
	}
	return len(p), nil
}

// script runs a script with /bin/sh. The session is nil if it could not be started.
func (c *Client) script(ctx context.Context, script string, to io.Writer) (*session, error) {
	mark := "rlca-sh-" + rand.Text() // the shell's first word: without it, nothing of the script was run
	return c.run(ctx, bareShell, "echo "+mark+" >&2\n"+script, mark+"\n", to)
}

// bareShell is the one command that scripts are fed to.
const bareShell = "exec /bin/sh -s"

// run runs a command with an input. The session is nil if it could not be started. mark, if there is one, is what a
// shell that reads the input prints on its standard error; it is cut out of that.
func (c *Client) run(ctx context.Context, command, input, mark string, to io.Writer) (*session, error) {
	var s *session
	var err error
	if command == bareShell && to == nil {
		s = c.takeFirst(ctx)
	}
	if s == nil {
		s, err = c.command(ctx, command, to)
	}
	var open *ssh.OpenChannelError
	if errors.As(err, &open) { // the server may allow one session at a time, and the first one is ours
		c.letFirst(ctx)
		s, err = c.command(ctx, command, to)
	}
	if errors.As(err, &open) {
		said := clean(open.Message)
		if said == "" {
			said = "the server opens no sessions"
		}
		return nil, &NoShellError{Host: c.target.Host, Said: said}
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	if mark != "" {
		s.errs.skip(mark)
	}
	go func() {
		io.WriteString(s.ch, input)
		s.ch.CloseWrite()
	}()
	return s, c.judge(s.wait(ctx), s, mark)
}

// judge says what the end of a command means.
func (c *Client) judge(err error, s *session, mark string) error {
	said := clean(tail(string(s.errs.bytes()), 480))
	var exit *ExitError
	switch {
	case s.out.full():
		return fmt.Errorf("run a command on %s: it printed more than %d MiB", c.target.Host, maxOutput>>20)
	case err != nil && !errors.As(err, &exit):
		return err
	case mark != "" && !s.errs.skipped(): // not even the first line was run
		if said == "" && exit != nil {
			said = fmt.Sprintf("`exec /bin/sh -s` ended with %d", exit.Code)
		}
		return &NoShellError{Host: c.target.Host, Said: said}
	case exit != nil:
		exit.Stderr = said
		return exit
	}
	return nil
}

func tail(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[len(s)-n:], "")
	}
	return s
}

// firstWaits is how long the first shell of a connection waits for a script.
const firstWaits = time.Second

// warmUp starts a shell right after the login, for the first script, or for none: sshd before OpenSSH 10.1 leaves
// Nagle's algorithm on until a connection has had a session, and tokens would come in lumps; and sshd takes no script
// before a shell runs, so that a probe would cost a round trip more. A server without sessions or shell is fine.
func (c *Client) warmUp() {
	ctx, cancel := context.WithTimeout(context.Background(), c.limits.open)
	defer cancel()
	c.first, _ = c.command(ctx, bareShell, nil)
	close(c.warm)
	select {
	case <-c.done:
	case <-time.After(firstWaits):
	}
	ctx, cancel = context.WithTimeout(context.Background(), c.limits.open)
	defer cancel()
	c.letFirst(ctx)
}

// takeFirst gives the first shell, if nobody has it yet. It may still be on its way, and is sooner there than another.
func (c *Client) takeFirst(ctx context.Context) *session {
	if !c.firstTaken.CompareAndSwap(false, true) {
		return nil
	}
	select {
	case <-c.warm:
		return c.first
	case <-ctx.Done():
		go func() {
			if <-c.warm; c.first != nil {
				c.first.close()
			}
		}()
		return nil
	}
}

// letFirst ends the first shell, if nobody has it yet, and waits until it is gone.
func (c *Client) letFirst(ctx context.Context) {
	if first := c.takeFirst(ctx); first != nil {
		first.ch.CloseWrite()
		first.wait(ctx)
		first.close()
	}
}

// session is one command on the far side.
type session struct {
	c    *Client
	ch   ssh.Channel
	out  *capped
	errs *capped
	end  chan error    // the exit status, once; closed when none comes
	eof  chan struct{} // closed when both outputs have ended
}

// command starts one. Its output goes to a writer, or is kept if that is nil. Nothing of it waits without a limit.
func (c *Client) command(ctx context.Context, line string, to io.Writer) (*session, error) {
	ch, reqs, err := c.open(ctx, "session", nil, nil)
	if err != nil {
		return nil, err
	}
	s := &session{c: c, ch: ch, out: &capped{n: maxOutput}, errs: &capped{n: maxErrors, tail: true}, end: make(chan error, 1), eof: make(chan struct{})}
	go s.status(reqs)
	go func() {
		var both sync.WaitGroup
		both.Go(func() { io.Copy(s.errs, ch.Stderr()) })
		if to == nil {
			to = s.out
		}
		io.Copy(to, ch) // ends early if it is too much
		both.Wait()
		close(s.eof)
	}()
	type answer struct {
		ok  bool
		err error
	}
	started := make(chan answer, 1)
	go func() {
		ok, err := ch.SendRequest("exec", true, ssh.Marshal(&struct{ Command string }{line}))
		started <- answer{ok, err}
	}()
	clock := time.NewTimer(c.limits.open)
	defer clock.Stop()
	select {
	case a := <-started:
		switch {
		case a.err != nil:
			err = c.ended(a.err)
		case !a.ok:
			err = &NoShellError{Host: c.target.Host, Said: "the server runs no commands"}
		}
	case <-c.done:
		err = c.cause()
	case <-ctx.Done():
		err = ctx.Err()
	case <-clock.C:
		err = fmt.Errorf("start a command on %s: no answer within %s", c.target.Host, c.limits.open)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// status waits for the exit status.
func (s *session) status(reqs <-chan *ssh.Request) {
	defer close(s.end)
	sent := false
	for r := range reqs {
		var err error
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil && m.Status != 0 {
				err = &ExitError{Code: int(m.Status)}
			}
		case "exit-signal":
			var m struct {
				Signal     string
				CoreDumped bool
				Message    string
				Lang       string
			}
			ssh.Unmarshal(r.Payload, &m)
			err = &ExitError{Code: -1, Signal: clean(m.Signal)}
		default:
			if r.WantReply {
				r.Reply(false, nil)
			}
			continue
		}
		if !sent {
			sent = true
			s.end <- err
		}
	}
}

// wait waits for the end of the command and for the last of its output, which may come after its status.
func (s *session) wait(ctx context.Context) error {
	var err error
	var known bool
	select {
	case err, known = <-s.end:
	case <-s.out.over():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	if !known {
		return s.c.ended(fmt.Errorf("run a command on %s: it ended without a word", s.c.target.Host))
	}
	quiet := settle + s.c.RTT()
	last := time.NewTimer(settleAll)
	defer last.Stop()
	for {
		before := s.out.written()
		clock := time.NewTimer(quiet)
		select {
		case <-s.eof:
		case <-last.C:
		case <-ctx.Done():
		case <-clock.C:
			if s.out.written() != before {
				continue
			}
		}
		clock.Stop()
		return err
	}
}

// close ends the session, once. On a link that hangs the goodbye waits; nobody waits for it.
func (s *session) close() {
	go s.ch.Close()
	s.c.carry(-1)
}
