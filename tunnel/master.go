package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Limits of a control master.
const (
	masterLogin = 20 * time.Second // for the login, after ConnectTimeout
	masterPoll  = 20 * time.Millisecond
	masterEnd   = 2 * time.Second

	// maxControlPath is what fits everywhere: 104 bytes with the final zero on macOS and the BSDs, 108 on Linux. ssh
	// binds to the path and 17 characters more, and renames it then.
	maxControlPath = 104 - 1 - 17
)

// master is a control master: the user's own ssh, logged in, that we started and that ends with us. It is for what our
// own client cannot do: GSSAPI, PKCS#11, key files on a token, odd key exchanges. Any number of connections go through
// it, in proxy mode, where they speak SSH without encryption over its socket.
//
// No connection may send a global request, such as a keepalive: ssh closes it then (channels.c:
// channel_proxy_downstream). ssh itself watches the server; check asks whether the connection lives.
type master struct {
	host   string
	user   string
	cmd    *exec.Cmd
	dir    string // holds the socket and nothing else
	socket string
	errs   *capped
	log    *slog.Logger
	done   chan struct{} // closed when ssh has ended, and what it started, and all it said has been read
}

// masterOptions are how to start a master. The user's ssh_config says what they do not.
type masterOptions struct {
	Program    string // path of ssh
	Host       string // as asked for, so that ssh_config applies
	User       string
	Port       int
	ConfigFile string   // as ssh -F
	Identity   []string // key files, tried before those of ssh_config
	Jump       []string // "none" goes straight, whatever ssh_config says
	// StrictHostKeyChecking lies over ssh_config's. Nobody is there to answer ask: it refuses.
	StrictHostKeyChecking string
	ConnectTimeout        time.Duration // zero means 10 s
	Dir                   string        // a folder for the socket, best a short one; empty means /tmp
}

// masterFor is how the user's ssh reaches a target. o is what the target was resolved with.
func masterFor(t *Target, o Options, acceptNew bool) (masterOptions, error) {
	program, err := findSSH(o.OpenSSH)
	if err == nil && program == "" {
		err = errors.New("there is no ssh program")
	}
	if err != nil {
		return masterOptions{}, &ConfigError{Host: t.Host, Msg: err.Error()}
	}
	const typed = "profile or command line" // the rest ssh finds by itself, as it did for the target
	m := masterOptions{Program: program, Host: t.Host, ConfigFile: o.ConfigFile, ConnectTimeout: t.connectLimit()}
	if t.From["user"] == typed {
		m.User = t.User
	}
	if t.From["port"] == typed {
		m.Port = t.Port
	}
	if t.From["identity_files"] == typed {
		m.Identity = t.IdentityFiles
	}
	if t.From["jumps"] == typed {
		if m.Jump = t.Jumps; len(m.Jump) == 0 {
			m.Jump = []string{"none"}
		}
	}
	switch strict := t.StrictHostKeyChecking; {
	case acceptNew && strict != "yes":
		m.StrictHostKeyChecking = "accept-new"
	case strict == "no":
		m.StrictHostKeyChecking = "ask" // our own client takes no unknown key either
	}
	return m, nil
}

// masterSettings are the words to ssh that make it a master, and nothing but a master, whatever ssh_config says.
func masterSettings() []string {
	return []string{
		// -M would turn this yes into an ask.
		"ControlMaster=yes", "ControlPersist=no", "ForkAfterAuthentication=no",
		"ServerAliveInterval=5", "ServerAliveCountMax=2", "TCPKeepAlive=yes",
		"ClearAllForwardings=yes", "ExitOnForwardFailure=no", "ForwardAgent=no", "ForwardX11=no", "Tunnel=no",
		"PermitLocalCommand=no", "RemoteCommand=none", "RequestTTY=no",
		"BatchMode=yes", // nobody may be there to answer
		"LogLevel=INFO", // below it, ssh keeps to itself why there is no common algorithm
	}
}

// args are the arguments of ssh. settings come first: the first word on a matter wins.
func (o *masterOptions) args(socket string, settings []string) []string {
	// In ControlPath a % begins a token.
	args := []string{"-N", "-S", strings.ReplaceAll(socket, "%", "%%")}
	if o.ConfigFile != "" {
		args = append(args, "-F", o.ConfigFile)
	}
	settings = append(slices.Clip(settings), fmt.Sprintf("ConnectTimeout=%d", max(1, (o.connectLimit()+time.Second-1)/time.Second)))
	if o.StrictHostKeyChecking != "" {
		settings = append(settings, "StrictHostKeyChecking="+o.StrictHostKeyChecking)
	}
	if len(o.Identity) > 0 {
		settings = append(settings, "IdentitiesOnly=yes")
	}
	for _, s := range settings {
		args = append(args, "-o", s)
	}
	if o.User != "" {
		args = append(args, "-l", o.User)
	}
	if o.Port != 0 {
		args = append(args, "-p", strconv.Itoa(o.Port))
	}
	for _, file := range o.Identity {
		args = append(args, "-i", file)
	}
	if len(o.Jump) > 0 {
		args = append(args, "-J", strings.Join(o.Jump, ","))
	}
	return append(args, "--", o.Host)
}

func (o *masterOptions) connectLimit() time.Duration {
	return (&Target{ConnectTimeout: o.ConnectTimeout}).connectLimit()
}

// startMaster starts ssh and returns when it is logged in and its socket answers; ctx bounds only that. Errors are
// *OpenSSHError, *AuthError, *ConfigError, *DialError, or ctx's own.
func startMaster(ctx context.Context, o masterOptions, log *slog.Logger) (*master, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	settings := masterSettings()
	for {
		m, err := spawnMaster(o, settings, log)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if err = m.ready(ctx, o.connectLimit()+masterLogin); err == nil {
			log.Debug("control master up", "host", o.Host, "pid", m.cmd.Process.Pid, "after", time.Since(start))
			return m, nil
		}
		m.Close()
		// An old ssh does not know all of our words, and has nothing then that they would switch off.
		fewer := slices.DeleteFunc(slices.Clone(settings), m.unknown)
		if ctx.Err() != nil || len(fewer) == len(settings) {
			return nil, err
		}
		settings = fewer
	}
}

// spawnMaster starts ssh.
func spawnMaster(o masterOptions, settings []string, log *slog.Logger) (*master, error) {
	cmd := exec.Command(o.Program)
	if err := ownSession(cmd); err != nil {
		return nil, &ConfigError{Host: o.Host, Msg: err.Error()}
	}
	dir, err := controlDir(o.Dir)
	if err != nil {
		return nil, &ConfigError{Host: o.Host, Msg: "a folder for the socket of ssh: " + err.Error()}
	}
	m := &master{host: o.Host, user: o.User, cmd: cmd, dir: dir, socket: filepath.Join(dir, "s"), errs: &capped{n: 4 << 10, tail: true}, log: log, done: make(chan struct{})}
	cmd.Args = append(cmd.Args, o.args(m.socket, settings)...)
	// BatchMode does not reach the ssh of a ProxyJump, which would ask on its own.
	cmd.Env = append(os.Environ(), "SSH_ASKPASS_REQUIRE=never")
	errs, theirErrs, err := os.Pipe()
	if err == nil {
		cmd.Stderr = theirErrs
		started := make(chan error, 1)
		go m.run(errs, theirErrs, started)
		err = <-started
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, &DialError{Op: "login", Addr: o.Host, Reason: "start ssh: " + reason(err), Err: err}
	}
	return m, nil
}

// run is the life of ssh. Linux ends it with the thread that started it, so that thread stays with it.
func (m *master) run(errs, theirErrs *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer errs.Close()
	err := m.cmd.Start()
	theirErrs.Close()
	started <- err
	if err != nil {
		return
	}
	read := make(chan struct{})
	go func() {
		io.Copy(m.errs, errs)
		close(read)
	}()
	err = m.cmd.Wait()
	killGroup(m.cmd) // a ProxyCommand may have outlived it; its number is not given away so soon
	select {
	case <-read:
	case <-time.After(500 * time.Millisecond): // somebody left the group, and holds the pipe
		errs.Close()
		<-read
	}
	os.RemoveAll(m.dir)
	m.log.Debug("control master ended", "host", m.host, "err", err, "said", m.said())
	close(m.done)
}

// controlDir makes a private folder whose path is short enough for the socket.
func controlDir(under string) (string, error) {
	if under != "" {
		under, err := filepath.Abs(under)
		if err != nil {
			return "", err
		}
		const longest = "/m1234567890/s"
		// ssh would take ${ for a variable, and there is no way to write it otherwise.
		if len(under)+len(longest) <= maxControlPath && !strings.Contains(under, "${") {
			return os.MkdirTemp(under, "m")
		}
	}
	return os.MkdirTemp("/tmp", "rlca-m") // readable by us alone, whoever else writes there
}

// ready waits until the socket answers.
func (m *master) ready(ctx context.Context, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(masterPoll)
	defer tick.Stop()
	for {
		select {
		case <-m.done:
			return m.refused()
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return m.silent(limit)
		case <-tick.C:
		}
		if _, err := os.Lstat(m.socket); err != nil {
			continue // it is there after the login
		}
		sc, chans, reqs, err := m.connect(limited)
		switch {
		case err == nil:
			go ssh.DiscardRequests(reqs)
			sc.Close()
			for range chans {
			}
			return nil
		case limited.Err() != nil:
			continue
		}
		select {
		case <-m.done:
			return m.refused()
		case <-time.After(time.Second):
			return &DialError{Op: "login", Addr: m.host, Reason: "the socket of ssh: " + reason(err), Err: err}
		case <-limited.Done():
		}
	}
}

func (m *master) silent(limit time.Duration) error {
	e := &DialError{Op: "login", Addr: m.host, Reason: fmt.Sprintf("ssh does not get there within %s", limit), Err: os.ErrDeadlineExceeded}
	if said := m.said(); said != "" {
		e.Reason += ": " + said
	}
	return e
}

// connect makes a connection through the master; ctx bounds only that. Closing it leaves the master up.
func (m *master) connect(ctx context.Context) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	conn, err := m.dial(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	return m.handshake(ctx, conn)
}

// dial connects to the socket, without a handshake.
func (m *master) dial(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", m.socket)
}

// handshake begins proxy mode on a connection of dial, or one around it. It closes it if that fails.
func (m *master) handshake(ctx context.Context, conn net.Conn) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	sc, chans, reqs, err := ssh.NewControlClientConn(conn)
	if stop() && err == nil {
		return sc, chans, reqs, nil
	}
	conn.Close()
	if err == nil {
		go ssh.DiscardRequests(reqs)
		for range chans {
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return nil, nil, nil, err
}

// check asks whether the server answers on a connection of connect: it opens a session and closes it again. Any answer
// will do. Without one until ctx ends, the request stays open until the connection ends.
func (m *master) check(ctx context.Context, sc ssh.Conn) error {
	answer := make(chan error, 1)
	go func() {
		ch, reqs, err := sc.OpenChannel("session", nil)
		if err == nil {
			go ssh.DiscardRequests(reqs)
			ch.Close()
		}
		if as[*ssh.OpenChannelError](err) {
			err = nil
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended is closed when ssh has ended. Its connections have ended too then.
func (m *master) ended() <-chan struct{} { return m.done }

// Close ends ssh and what it started, and with it all connections.
func (m *master) Close() error {
	select {
	case <-m.done: // its number may be somebody else's by now
		return nil
	default:
		killGroup(m.cmd)
	}
	select {
	case <-m.done:
		return nil
	case <-time.After(masterEnd):
		os.RemoveAll(m.dir)
		return fmt.Errorf("ssh, process %d, does not end", m.cmd.Process.Pid)
	}
}

// lines are the last things that ssh printed on its standard error, cleaned, without the frame of a warning.
func (m *master) lines() []string {
	var keep []string
	for line := range strings.Lines(string(m.errs.bytes())) {
		if line = clean(line); line != "" && !strings.HasPrefix(line, "@") && !strings.HasPrefix(line, "Pseudo-terminal") {
			keep = append(keep, line)
		}
	}
	return keep
}

// said is the end of what ssh printed on its standard error.
func (m *master) said() string {
	lines := m.lines()
	first, size := len(lines), 0
	for first > 0 && (size == 0 || size+len(lines[first-1]) < 400) {
		first--
		size += len(lines[first]) + len("; ")
	}
	return strings.Join(lines[first:], "; ")
}

// unknown reports whether ssh ended because it does not know a setting of ours.
func (m *master) unknown(setting string) bool {
	key, _, _ := strings.Cut(setting, "=")
	return slices.ContainsFunc(m.lines(), func(line string) bool {
		word, ok := strings.CutPrefix(line, "command-line: line 0: Bad configuration option: ")
		return ok && strings.EqualFold(word, key)
	})
}

// What ssh says when it ends, line by line.
var (
	sshDenied   = regexp.MustCompile(`^(?:(.*)@(\S+): )?Permission denied \((.*)\)\.?$`)
	sshKeys     = regexp.MustCompile(`^Warning: Identity file|^Load key|^sign_and_send_pubkey|(?i)signing failed|agent|pkcs11|provider`)
	sshResolve  = regexp.MustCompile(`Could not resolve hostname (.*?): (.*)$`)
	sshConnect  = regexp.MustCompile(`connect to host (\S+) port (\d+): (.*)$`)
	sshHostKey  = regexp.MustCompile(`Host key verification failed|host key is known for|REMOTE HOST IDENTIFICATION|has changed and you have requested|(?i)host key.* revoked`)
	sshConfig   = regexp.MustCompile(`^terminating, \d+ bad configuration|Bad owner or permissions|Can't open user config|: Bad configuration option|^Invalid -J`)
	sshNoCommon = regexp.MustCompile(`^Unable to negotiate|no matching .* found`)
	sshBanner   = regexp.MustCompile(`timed out during banner exchange|^banner exchange: |^(?:kex|ssh)_exchange_identification: `)
	sshClosed   = regexp.MustCompile(`Connection closed by|reset by|Broken pipe`)
	// UNKNOWN is the other end of a ProxyCommand; a jump is one too.
	sshProxied = regexp.MustCompile(`UNKNOWN port 65535`)
)

// refused says in our words why ssh ended before it was logged in.
func (m *master) refused() error {
	lines, said := m.lines(), m.said()
	find := func(re *regexp.Regexp) (found []string, last bool) {
		for i, line := range slices.Backward(lines) {
			if found := re.FindStringSubmatch(line); found != nil {
				return found, i == len(lines)-1
			}
		}
		return nil, false
	}
	has := func(re *regexp.Regexp) bool { return slices.ContainsFunc(lines, re.MatchString) }
	if has(sshHostKey) {
		return &OpenSSHError{Host: m.host, Said: said}
	}
	if f, last := find(sshDenied); f != nil {
		e := &AuthError{User: f[1], Host: m.host, Methods: strings.Split(f[3], ",")}
		if !last { // a jump refuses, and that ends the ssh that goes through it
			e.Host = f[2]
		} else if m.user != "" {
			e.User = m.user
		}
		if slices.Contains(e.Methods, "publickey") {
			e.Tried = []string{"what ssh has"}
		}
		for _, line := range lines {
			if sshKeys.MatchString(line) {
				e.Notes = append(e.Notes, line)
			}
		}
		return e
	}
	if f, _ := find(sshResolve); f != nil {
		return &DialError{Op: "resolve", Addr: f[1], Reason: f[2]}
	}
	if f, _ := find(sshConnect); f != nil {
		return &DialError{Op: "connect", Addr: net.JoinHostPort(f[1], f[2]), Reason: f[3]}
	}
	e := &DialError{Op: "login", Addr: m.host, Reason: said}
	switch {
	case has(sshConfig):
		return &ConfigError{Host: m.host, Msg: said}
	case has(sshNoCommon):
		e.Op = "handshake"
	case has(sshProxied):
		rest := slices.DeleteFunc(lines, func(line string) bool { return sshProxied.MatchString(line) || sshBanner.MatchString(line) })
		e.Op, e.Reason = "connect", "the ProxyCommand or the jump ended without a connection"
		if len(rest) > 0 {
			e.Reason = clean(strings.Join(rest, "; "))
		}
	case has(sshBanner) && has(sshClosed):
		e.Op, e.TooBusy = "banner", true
		e.Reason = "the server closed before it said who it is: it is too busy, or it keeps us out for a while"
	case has(sshBanner):
		e.Op = "banner"
	case said == "":
		e.Reason = "ssh ended without a word: " + m.cmd.ProcessState.String()
	}
	return e
}

// OpenSSHError says that the user's own ssh does not trust the key of a host, the target's or a jump's. A person has
// to look, best with that ssh; no retry can help.
type OpenSSHError struct {
	Host string `json:"host"` // the target
	Said string `json:"said"` // by ssh, cleaned
}

func (e *OpenSSHError) Error() string { return fmt.Sprintf("ssh to %s: %s", e.Host, e.Said) }

// nativeCannot reports whether a dial of our own client ended because of what it lacks, so that the user's ssh may get
// further, and says what that is. It never does so for a refusal of a host key or a login.
func nativeCannot(err error) (why string, cannot bool) {
	var none *ssh.AlgorithmNegotiationError
	if errors.As(err, &none) {
		theirs := slices.DeleteFunc(slices.Clone(none.RequestedAlgorithms), func(a string) bool { // marks, no algorithms
			return strings.HasPrefix(a, "kex-strict-") || strings.HasPrefix(a, "ext-info-")
		})
		return fmt.Sprintf("our own client has no %s of the box's: %s", none.What, clean(strings.Join(theirs, ","))), true
	}
	var config *ConfigError
	if errors.As(err, &config) && strings.HasPrefix(config.Msg, "none of the ") && strings.Contains(config.Msg, " is built in: ") {
		return config.Msg, true
	}
	return "", false
}
