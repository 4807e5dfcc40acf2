package box

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// leaveTime is what a command that has ended leaves to its children to get away to a session of their own.
const leaveTime = time.Second

// session runs one command, and ends with its channel.
func (b *Box) session(ctx context.Context, nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	commands := make(chan string, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel() // the client has closed the channel, or is gone
		defer close(commands)
		taken := false
		for r := range reqs {
			var p struct{ Command string }
			ok := r.Type == "exec" && !taken && ssh.Unmarshal(r.Payload, &p) == nil
			if r.WantReply {
				r.Reply(ok, nil)
			}
			if ok {
				taken = true
				commands <- p.Command
			}
		}
	})
	if command, ok := <-commands; ok {
		b.log.Debug("command", "command", command)
		b.exec(ctx, &wg, ch, command)
	}
	ch.CloseWrite()
	ch.Close()
	wg.Wait()
}

// exec runs a command as sshd does: through the login shell, in a session of its own. The answer to how it ended is
// sent at once; the output ends when nobody can write to it any more, which may be later. When ctx ends, so does the
// command and its process group; what is left of that group after the command's own end has leaveTime.
//
// What reads from the client ends with the channel only, and is left to wg.
func (b *Box) exec(ctx context.Context, wg *sync.WaitGroup, ch ssh.Channel, command string) {
	if b.opts.NoShell {
		io.WriteString(ch.Stderr(), "sh: 1: exec: /bin/sh: not found\n")
		sendStatus(ch, 127)
		return
	}
	io.WriteString(ch, b.opts.Noise)
	p, err := b.start(command)
	if err != nil {
		fmt.Fprintln(ch.Stderr(), err)
		sendStatus(ch, 127)
		return
	}
	defer context.AfterFunc(ctx, p.close)()
	wg.Go(func() {
		io.Copy(p.stdin, ch)
		p.stdin.Close()
	})
	var output sync.WaitGroup
	output.Go(func() { io.Copy(ch, p.stdout) })
	output.Go(func() { io.Copy(ch.Stderr(), p.stderr) })

	ended := make(chan struct{})
	go func() {
		p.cmd.Wait() // how it ended is in ProcessState
		close(ended)
	}()
	select {
	case <-ended:
		if name := exitSignal(p.cmd.ProcessState); name != "" {
			sendSignal(ch, name)
		} else {
			sendStatus(ch, p.cmd.ProcessState.ExitCode())
		}
		b.wg.Go(func() { sweep(p.cmd.Process.Pid) })
	case <-ctx.Done():
		killGroup(p.cmd.Process.Pid)
		<-ended
	}
	output.Wait()
	p.close()
}

// running is a command and our ends of its pipes.
type running struct {
	cmd                   *exec.Cmd
	stdin, stdout, stderr *os.File
}

// start starts a command with pipes of our own: those of os/exec end with the command, though others may still write.
func (b *Box) start(command string) (*running, error) {
	shell := b.opts.Shell
	if shell == "" {
		var err error
		if shell, err = loginShell(); err != nil {
			return nil, err
		}
	}
	p := &running{cmd: exec.Command(shell, "-c", command)}
	own(p.cmd)
	p.cmd.Dir, p.cmd.Env = b.opts.Dir, append(os.Environ(), "SHELL="+shell)
	if b.opts.Dir != "" {
		p.cmd.Env = append(p.cmd.Env, "HOME="+b.opts.Dir)
	}
	p.cmd.Env = append(p.cmd.Env, b.opts.Env...)

	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	errR, errW, err3 := os.Pipe()
	p.stdin, p.stdout, p.stderr = inW, outR, errR
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inR, outW, errW
	defer func() { // a nil file only says that it is one
		inR.Close()
		outW.Close()
		errW.Close()
	}()
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			p.close()
			return nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// close closes our ends, which ends the copying on them.
func (p *running) close() {
	p.stdin.Close()
	p.stdout.Close()
	p.stderr.Close()
}

// sweep ends what is left of a process group whose leader has ended. It looks often, and no more once the group is
// empty: its number may then be somebody else's.
func sweep(group int) {
	for end := time.Now().Add(leaveTime); groupLives(group); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			killGroup(group)
			return
		}
	}
}

// sendStatus and sendSignal say how a command ended (RFC 4254 §6.10).
func sendStatus(ch ssh.Channel, code int) {
	ch.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func sendSignal(ch ssh.Channel, name string) {
	ch.SendRequest("exit-signal", false, ssh.Marshal(&struct {
		Name            string
		CoreDumped      bool
		Error, Language string
	}{Name: name}))
}
