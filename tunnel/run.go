package tunnel

import (
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
	s, err := c.command(ctx, "exec /bin/sh -s")
	var open *ssh.OpenChannelError
	if errors.As(err, &open) { // the server may allow one session at a time, and the first one is ours
		select {
		case <-c.warm:
		case <-ctx.Done():
		}
		s, err = c.command(ctx, "exec /bin/sh -s")
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
	mark := "rlca-sh-" + rand.Text() // the shell's first word: without it, nothing of the script was run
	s.errs.skip(mark + "\n")
	go func() {
		io.WriteString(s.ch, "echo "+mark+" >&2\n"+script)
		s.ch.CloseWrite()
	}()
	err = s.wait(ctx)
	return s.out.bytes(), c.judge(err, s)
}

// judge says what the end of a script means.
func (c *Client) judge(err error, s *session) error {
	said := clean(tail(string(s.errs.bytes()), 480))
	var exit *ExitError
	switch {
	case s.out.full():
		return fmt.Errorf("run a script on %s: it printed more than %d MiB", c.target.Host, maxOutput>>20)
	case err != nil && !errors.As(err, &exit):
		return err
	case !s.errs.skipped(): // not even the first line was run
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

// warmUp runs one trivial command: sshd before OpenSSH 10.1 leaves Nagle's algorithm on until a connection has had a
// session, and tokens would come in lumps. A server without sessions is fine.
func (c *Client) warmUp() {
	defer close(c.warm)
	ctx, cancel := context.WithTimeout(context.Background(), c.limits.open)
	defer cancel()
	s, err := c.command(ctx, "exit 0")
	if err != nil {
		return
	}
	defer s.close()
	s.ch.CloseWrite()
	s.wait(ctx)
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

// command starts one. Nothing of it waits without a limit.
func (c *Client) command(ctx context.Context, line string) (*session, error) {
	ch, reqs, err := c.open(ctx, "session", nil)
	if err != nil {
		return nil, err
	}
	s := &session{c: c, ch: ch, out: &capped{n: maxOutput}, errs: &capped{n: maxErrors, tail: true}, end: make(chan error, 1), eof: make(chan struct{})}
	go s.status(reqs)
	go func() {
		var both sync.WaitGroup
		both.Go(func() { io.Copy(s.errs, ch.Stderr()) })
		io.Copy(s.out, ch) // ends early if it is too much
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

// close ends the session. On a link that hangs the goodbye waits; nobody waits for it.
func (s *session) close() { go s.ch.Close() }
