package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"rlca/internal/peer"
)

// masterTo are the options for a real sshd.
func masterTo(t *testing.T, s *peer.SSHD) masterOptions {
	t.Helper()
	return masterOptions{Program: peer.Need(t, "ssh"), Host: "box", ConfigFile: s.Config, Dir: shortDir(t)}
}

// shortDir is a folder for a socket: that of t.TempDir may be too long.
func shortDir(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("ssh has no control master here")
	}
	dir, err := os.MkdirTemp("/tmp", "rlca-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start starts a master that ends with the test.
func (o masterOptions) start(t *testing.T) *master {
	t.Helper()
	m, err := startMaster(t.Context(), o, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("startMaster: %v", err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// refusal starts a master that cannot be, and checks that nothing is left of it.
func (o masterOptions) refusal(t *testing.T) error {
	t.Helper()
	m, err := startMaster(t.Context(), o, slog.New(slog.DiscardHandler))
	if err == nil {
		m.Close()
		t.Fatal("startMaster = nil, want an error")
	}
	if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
		t.Errorf("left in its folder: %v", left)
	}
	return err
}

// through is a connection through a master, which ends with the test.
func through(t *testing.T, m *master) *ssh.Client {
	t.Helper()
	sc, chans, reqs, err := m.connect(t.Context())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	c := ssh.NewClient(sc, chans, reqs)
	t.Cleanup(func() {
		c.Close()
		c.Wait()
	})
	return c
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	waitFor(t, func() bool {
		out, _ := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
		state := strings.TrimSpace(string(out))
		return state == "" || state[0] == 'Z'
	})
}

func TestMaster(t *testing.T) {
	s := peer.StartSSHD(t)
	o := masterTo(t, s)
	m := o.start(t)
	c := through(t, m)

	conn, err := c.Dial("tcp", echo(t, "tcp", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	sent := random(1 << 20)
	go func() {
		conn.Write(sent)
		conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(conn); !bytes.Equal(got, sent) || err != nil {
		t.Errorf("echo = %d bytes, %v", len(got), err)
	}
	conn.Close()

	socket := filepath.Join(shortDir(t), "echo")
	if conn, err = c.Dial("unix", echo(t, "unix", socket)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "by name")
	conn.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "by name" || err != nil {
		t.Errorf("echo on a socket = %q, %v", got, err)
	}
	conn.Close()

	if _, err := c.Dial("tcp", "127.0.0.1:1"); !as[*ssh.OpenChannelError](err) {
		t.Errorf("a closed port: %v", err)
	}
	session, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	session.Stdin = strings.NewReader("a b\n")
	if out, err := session.Output("cat; exit 3"); string(out) != "a b\n" || err == nil || !strings.Contains(err.Error(), "status 3") {
		t.Errorf("exec = %q, %v", out, err)
	}
	if err := m.check(t.Context(), c.Conn); err != nil {
		t.Errorf("check = %v", err)
	}

	through(t, m).Close() // the others stay
	if err := m.check(t.Context(), c.Conn); err != nil || m.said() != "" {
		t.Errorf("check = %v, said %q", err, m.said())
	}
	if info, err := os.Stat(m.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the socket: %v, %v", info, err)
	}

	start := time.Now()
	if err := m.Close(); err != nil || time.Since(start) > time.Second {
		t.Errorf("Close = %v after %v", err, time.Since(start))
	}
	if err := m.Close(); err != nil {
		t.Errorf("a second Close = %v", err)
	}
	c.Wait()
	if err := m.check(t.Context(), c.Conn); err == nil {
		t.Error("check works after Close")
	}
	if _, _, _, err := m.connect(t.Context()); err == nil {
		t.Error("connect works after Close")
	}
	if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
		t.Errorf("left in its folder: %v", left)
	}
	gone(t, m.cmd.Process.Pid)
}

// TestMasterKeepalive pins the trap: a global request through a master ends the connection.
func TestMasterKeepalive(t *testing.T) {
	m := masterTo(t, peer.StartSSHD(t)).start(t)
	c := through(t, m)
	if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err == nil {
		t.Log("this ssh passes a keepalive on")
	}
	if err := m.check(t.Context(), through(t, m).Conn); err != nil {
		t.Errorf("the master itself: %v", err)
	}
}

func TestMasterKilled(t *testing.T) {
	s := peer.StartSSHD(t)
	for name, end := range map[string]func(m *master){
		"killed":         func(m *master) { m.cmd.Process.Kill() },
		"server is gone": func(*master) { s.KillConnections() },
	} {
		t.Run(name, func(t *testing.T) {
			o := masterTo(t, s)
			m := o.start(t)
			c := through(t, m)
			start := time.Now()
			end(m)
			c.Wait()
			select {
			case <-m.ended():
			case <-time.After(2 * time.Second):
				t.Fatal("the master has not ended")
			}
			if time.Since(start) > 5*time.Second {
				t.Errorf("the connection ends after %v", time.Since(start))
			}
			if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
				t.Errorf("left in its folder: %v", left)
			}
			t.Logf("said %q", m.said())
		})
	}
}

// TestMasterCheck asks a server that has stopped to answer.
func TestMasterCheck(t *testing.T) {
	m := masterTo(t, peer.StartSSHD(t)).start(t)
	c := through(t, m)
	stop := exec.Command("kill", "-STOP", strconv.Itoa(m.cmd.Process.Pid))
	if err := stop.Run(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.check(ctx, c.Conn); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("check = %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, _, err := m.connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connect = %v", err)
	}
	start := time.Now()
	if err := m.Close(); err != nil || time.Since(start) > time.Second {
		t.Errorf("Close of a stopped ssh = %v after %v", err, time.Since(start))
	}
}

// TestMasterForbids checks a box that allows nothing: it answers, and that counts.
func TestMasterForbids(t *testing.T) {
	m := masterTo(t, peer.StartSSHD(t, "AllowTcpForwarding no", "MaxSessions 0")).start(t)
	if err := m.check(t.Context(), through(t, m).Conn); err != nil {
		t.Errorf("check = %v", err)
	}
}

func TestMasterRefused(t *testing.T) {
	s := peer.StartSSHD(t)
	config, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	with := func(lines string) string { return writeFile(t, "config", lines+"\n"+string(config)) }
	wrong, _ := writeKey(t, "")
	empty := writeFile(t, "empty", "")
	changed := writeFile(t, "changed", fmt.Sprintf("[127.0.0.1]:%s %s\n", s.Port, keyText(newSigner(t).PublicKey())))

	o := masterTo(t, s)
	o.ConfigFile = writeFile(t, "config", strings.ReplaceAll(string(config), s.Key, wrong))
	var auth *AuthError
	if err := o.refusal(t); !errors.As(err, &auth) || auth.User != s.User || auth.Host != "box" || !reflect.DeepEqual(auth.Methods, []string{"publickey"}) || !Final(err) {
		t.Errorf("the wrong key: %#v", err)
	}

	o.ConfigFile = with("UserKnownHostsFile " + empty)
	for _, strict := range []string{"", "ask", "yes"} {
		o.StrictHostKeyChecking = strict
		var unknown *OpenSSHError
		if err := o.refusal(t); !errors.As(err, &unknown) || unknown.Host != "box" || !strings.HasSuffix(unknown.Said, "Host key verification failed.") {
			t.Errorf("an unknown host, strict %q: %#v", strict, err)
		}
	}
	if text, _ := os.ReadFile(empty); len(text) > 0 {
		t.Errorf("ssh wrote %q", text)
	}
	o.ConfigFile, o.StrictHostKeyChecking = with("UserKnownHostsFile "+changed), ""
	if err := o.refusal(t); !as[*OpenSSHError](err) || !strings.Contains(err.Error(), "has changed") || strings.Contains(err.Error(), "@@") {
		t.Errorf("a changed key: %v", err)
	}
	o.ConfigFile = with("NoSuchOption yes")
	if err := o.refusal(t); !as[*ConfigError](err) || !strings.Contains(err.Error(), "line 1: Bad configuration option") {
		t.Errorf("a bad configuration: %v", err)
	}
	o.ConfigFile = with("KexAlgorithms diffie-hellman-group1-sha1")
	var dial *DialError
	if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != "handshake" || dial.Busy() || Final(err) {
		t.Errorf("nothing in common: %#v", err)
	}
	for _, c := range []struct{ config, op, says string }{
		{"HostName 127.0.0.1\nPort 1", "connect", "refused"},
		{"HostName nowhere.invalid", "resolve", ""},
		{"ProxyCommand sh -c 'echo down >&2; sleep 0.1'", "connect", "down"},
		{"ProxyCommand false", "connect", "without a connection"},
	} {
		o.ConfigFile = with(c.config)
		if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != c.op || !strings.Contains(dial.Reason, c.says) || Final(err) {
			t.Errorf("%s: %#v", c.config, err)
		}
	}
	o.Program = "/nowhere/ssh"
	if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != "login" {
		t.Errorf("no program: %#v", err)
	}
}

// TestMasterRefusedByPort dials what is no box at all, and one that is too busy.
func TestMasterRefusedByPort(t *testing.T) {
	program := peer.Need(t, "ssh")
	for text, busy := range map[string]bool{"": true, "Not allowed at this time\r\n": true, "\x00\x01\x02\r\n": false} {
		o := masterOptions{Program: program, Host: "127.0.0.1", Port: answering(t, text, false).Port, ConfigFile: "none", Dir: shortDir(t)}
		var dial *DialError
		if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != "banner" || dial.Busy() != busy {
			t.Errorf("a server that says %q: %#v", text, err)
		}
	}
}

// TestMasterJump refuses and accepts at a jump.
func TestMasterJump(t *testing.T) {
	s, hop := peer.StartSSHD(t), peer.StartSSHD(t)
	box, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(hop.Config)
	if err != nil {
		t.Fatal(err)
	}
	wrong, _ := writeKey(t, "")
	good := strings.ReplaceAll(string(config), "Host box", "Host hop")
	o := masterTo(t, s)
	o.Jump = []string{"hop"}
	o.ConfigFile = writeFile(t, "config", string(box)+good)
	m := o.start(t)
	if err := m.check(t.Context(), through(t, m).Conn); err != nil {
		t.Errorf("check over a jump: %v", err)
	}
	m.Close()

	o.ConfigFile = writeFile(t, "config", string(box)+strings.ReplaceAll(good, hop.Key, wrong))
	var auth *AuthError
	if err := o.refusal(t); !errors.As(err, &auth) || auth.Host != "127.0.0.1" || auth.User != hop.User {
		t.Errorf("the wrong key for the jump: %#v", err)
	}
	o.ConfigFile = writeFile(t, "config", string(box)+strings.ReplaceAll(good, hop.KnownHosts, os.DevNull))
	if err := o.refusal(t); !as[*OpenSSHError](err) {
		t.Errorf("an unknown jump: %#v", err)
	}
	o.ConfigFile = writeFile(t, "config", string(box)+strings.ReplaceAll(good, "Port "+hop.Port, "Port 1"))
	var dial *DialError
	if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != "connect" || dial.Addr != "127.0.0.1:1" {
		t.Errorf("a closed jump: %#v", err)
	}
	o.ConfigFile = writeFile(t, "config", strings.ReplaceAll(string(box), "Port "+s.Port, "Port 1")+good)
	if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != "connect" || !strings.Contains(dial.Reason, "refused") {
		t.Errorf("a closed box behind a jump: %#v", err)
	}
	o.Jump, o.ConfigFile = []string{"none"}, writeFile(t, "config", "ProxyJump hop\n"+string(box))
	o.start(t)
}

// TestMasterConfig lays what would break a master into ssh_config.
func TestMasterConfig(t *testing.T) {
	s := peer.StartSSHD(t)
	config, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	mark := filepath.Join(dir, "local")
	o := masterTo(t, s)
	o.Dir = filepath.Join(dir, "100%h")
	os.Mkdir(o.Dir, 0o700)
	o.ConfigFile = writeFile(t, "config", strings.Join([]string{
		"ControlMaster auto", "ControlPersist yes", "ControlPath " + filepath.Join(dir, "theirs"), "RequestTTY force", "LocalForward 127.0.0.1:1 127.0.0.1:1",
		"ExitOnForwardFailure yes", "PermitLocalCommand yes", "LocalCommand touch " + mark, "LogLevel DEBUG", "IgnoreUnknown ForkAfter*",
		"ForkAfterAuthentication yes", "",
	}, "\n")+strings.Replace(string(config), "Host box\n", "Host box\n  RemoteCommand false\n", 1))
	m := o.start(t)
	if err := m.check(t.Context(), through(t, m).Conn); err != nil {
		t.Errorf("check = %v", err)
	}
	if m.said() != "" {
		t.Errorf("it says %q", m.said())
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("it left marks: %v", left)
	}
	m.Close()
	gone(t, m.cmd.Process.Pid)
}

// TestMasterScripts starts programs that are no ssh.
func TestMasterScripts(t *testing.T) {
	o := masterOptions{Host: "box", Dir: shortDir(t)}
	var dial *DialError
	for script, says := range map[string]string{
		"exit 0": "without a word: exit status 0",
		"echo not ssh; head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo \"\033[31mno\033[0m\" >&2; exit 3": "[31mno[0m",
		"kill -9 $$": "signal: killed",
		"trap '' TERM; sleep 60 & echo left >&2; exit 1": "left",
	} {
		o.Program = fakeSSH(t, script+"\n")
		start := time.Now()
		if err := o.refusal(t); !errors.As(err, &dial) || dial.Op != "login" || !strings.HasSuffix(dial.Reason, says) || Final(err) {
			t.Errorf("%s: %#v", script, err)
		}
		if time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v", script, time.Since(start))
		}
	}
	o.Program = fakeSSH(t, `for a; do case $a in ForkAfterAuthentication=*) echo "command-line: line 0: Bad configuration option: forkafterauthentication" >&2; exit 255;; esac; done; echo "$# words" >&2; exit 1`)
	if err := o.refusal(t); !errors.As(err, &dial) || !strings.HasSuffix(dial.Reason, " words") {
		t.Errorf("an old ssh: %#v", err)
	}
	o.Program = fakeSSH(t, "echo 'command-line: line 0: Bad configuration option: nosuch' >&2; exit 255")
	if err := o.refusal(t); !as[*ConfigError](err) {
		t.Errorf("a strange ssh: %#v", err)
	}
}

// TestMasterHangs starts programs that never get there.
func TestMasterHangs(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	for name, script := range map[string]string{
		"hangs":           "sleep 60 & echo $! > " + pidFile + "; echo waiting >&2; wait",
		"ignores signals": "trap '' TERM INT HUP; echo waiting >&2; while :; do sleep 1; done",
		"its own group":   "setsid sleep 60 & echo $! > " + pidFile + "; echo waiting >&2; wait",
	} {
		t.Run(name, func(t *testing.T) {
			o := masterOptions{Program: fakeSSH(t, script+"\n"), Host: "box", Dir: shortDir(t)}
			if _, err := exec.LookPath("setsid"); err != nil && name == "its own group" {
				t.Skip(err)
			}
			m, err := spawnMaster(o, masterSettings(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { return m.said() != "" })
			var dial *DialError
			if err := m.ready(t.Context(), 100*time.Millisecond); !errors.As(err, &dial) || dial.Op != "login" || !strings.Contains(dial.Reason, "within 100ms: waiting") {
				t.Errorf("ready = %#v", err)
			}
			start := time.Now()
			if err := m.Close(); err != nil || time.Since(start) > 2*time.Second {
				t.Errorf("Close = %v after %v", err, time.Since(start))
			}
			gone(t, m.cmd.Process.Pid)
			if text, _ := os.ReadFile(pidFile); len(text) > 0 {
				os.Remove(pidFile)
				pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
				if p, err := os.FindProcess(pid); err == nil && name == "its own group" {
					p.Kill() // beyond our reach, and its pipe keeps nobody waiting
				}
				gone(t, pid)
			}
		})
	}
}

// TestMasterCancelled ends the context in the middle: before the login, and while the socket does not answer.
func TestMasterCancelled(t *testing.T) {
	program := peer.Need(t, "ssh")
	for name, o := range map[string]masterOptions{
		"a server that says nothing": {Program: program, Host: "127.0.0.1", Port: answering(t, "", true).Port, ConfigFile: "none"},
		"a script":                   {Program: fakeSSH(t, "sleep 60\n"), Host: "box"},
	} {
		o.Dir = shortDir(t)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start := time.Now()
		m, err := startMaster(ctx, o, slog.New(slog.DiscardHandler))
		if m != nil || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
		if left, _ := os.ReadDir(o.Dir); len(left) > 0 {
			t.Errorf("%s: left in its folder: %v", name, left)
		}
	}
}

// TestMasterSocket has something else behind the socket.
func TestMasterSocket(t *testing.T) {
	hello := func(words ...uint32) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(4*len(words)))
		for _, w := range words {
			b = binary.BigEndian.AppendUint32(b, w)
		}
		return b
	}
	for name, c := range map[string]struct {
		answer []byte
		keep   bool
		says   string
	}{
		"closes":        {nil, false, "the socket of ssh: "},
		"says nothing":  {nil, true, "does not get there within 200ms"},
		"garbage":       {[]byte("HTTP/1.1 400\r\n\r\n"), true, "the socket of ssh: "},
		"no proxy mode": {slices.Concat(hello(1, 4), hello(0x80000003, 0, 0)), true, "the socket of ssh: "}, // before OpenSSH 7.4
	} {
		t.Run(name, func(t *testing.T) {
			o := masterOptions{Program: fakeSSH(t, "sleep 60\n"), Host: "box", Dir: shortDir(t)}
			m, err := spawnMaster(o, masterSettings(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			ln, err := net.Listen("unix", m.socket)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go func() {
				defer close(served)
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					conn.Write(c.answer)
					if c.keep {
						io.Copy(io.Discard, conn)
					}
					conn.Close()
				}
			}()
			defer func() { ln.Close(); <-served }()
			limit := 10 * time.Second
			if name == "says nothing" {
				limit = 200 * time.Millisecond
			}
			if err := m.ready(t.Context(), limit); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("ready = %v, want %q", err, c.says)
			}
		})
	}
}

// TestMasterOrphan kills the process that has a master, which is this test once more.
func TestMasterOrphan(t *testing.T) {
	if config := os.Getenv("RLCA_TEST_ORPHAN"); config != "" {
		m, err := startMaster(context.Background(), masterOptions{Program: peer.Need(t, "ssh"), Host: "box", ConfigFile: config}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("pid", m.cmd.Process.Pid, m.dir)
		time.Sleep(time.Minute)
		return
	}
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a process with the one that started it")
	}
	s := peer.StartSSHD(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestMasterOrphan$", "-test.v")
	cmd.Env = append(os.Environ(), "RLCA_TEST_ORPHAN="+s.Config)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var dir string
	for dir == "" {
		var line string
		if _, err := fmt.Fscanln(out, &line, &pid, &dir); err == io.EOF {
			t.Fatal("it started no master")
		}
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd.Process.Kill()
	cmd.Wait()
	gone(t, pid)
	if _, err := net.Dial("unix", filepath.Join(dir, "s")); err == nil {
		t.Error("its socket still answers")
	}
}

// TestMasterInstead reaches a box with which our own client has no key exchange in common.
func TestMasterInstead(t *testing.T) {
	s := peer.StartSSHD(t, "KexAlgorithms sntrup761x25519-sha512@openssh.com")
	program := peer.Need(t, "ssh")
	options := Options{ConfigFile: s.Config, OpenSSH: program, Home: t.TempDir()}
	target, err := Resolve(t.Context(), "box", options)
	if err != nil {
		t.Fatal(err)
	}
	_, err = new(Dialer).dial(t.Context(), target, nil)
	why, cannot := nativeCannot(err)
	if !cannot || Final(err) || !strings.Contains(why, "key exchange") || !strings.Contains(why, "sntrup761") {
		t.Fatalf("nativeCannot(%v) = %q, %v", err, why, cannot)
	}
	o, err := masterFor(target, options, false)
	if err != nil {
		t.Fatal(err)
	}
	o.Dir = shortDir(t)
	m := o.start(t)
	conn, err := through(t, m).Dial("tcp", echo(t, "tcp", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	ping(t, conn)
	conn.Close()
}

func TestNativeCannot(t *testing.T) {
	lacks := func(change func(*Target)) error {
		target := &Target{Host: "box"}
		change(target)
		_, err := algorithms(target)
		return err
	}
	for _, err := range []error{
		lacks(func(t *Target) { t.KexAlgorithms = []string{"sntrup761x25519-sha512@openssh.com"} }),
		lacks(func(t *Target) { t.Ciphers = []string{"nosuch"} }),
		lacks(func(t *Target) { t.MACs = []string{"umac-64@openssh.com"} }),
		fmt.Errorf("jump over hop: %w", lacks(func(t *Target) { t.HostKeyAlgorithms = []string{"ssh-xmss@openssh.com"} })),
		&DialError{Op: "handshake", Err: fmt.Errorf("ssh: %w", &ssh.AlgorithmNegotiationError{What: "cipher"})},
	} {
		if why, cannot := nativeCannot(err); !cannot || why == "" {
			t.Errorf("nativeCannot(%v) = %q, %v", err, why, cannot)
		}
	}
	for _, err := range []error{
		nil, io.EOF, context.Canceled, &AuthError{Notes: []string{"none of the keys is built in: "}}, &UnknownHostKeyError{}, &ChangedHostKeyError{}, &RevokedHostKeyError{},
		&PassphraseError{}, &ConfigError{Msg: "ProxyJump goes in a circle"}, &DialError{Op: "connect", Reason: "no common algorithm"}, &OpenSSHError{},
	} {
		if why, cannot := nativeCannot(err); cannot {
			t.Errorf("nativeCannot(%v) = %q, %v", err, why, cannot)
		}
	}
}

func TestMasterFor(t *testing.T) {
	program := fakeSSH(t, "echo hostname 10.0.0.7; echo user them; echo port 2222; echo identityfile ~/.ssh/id; echo proxyjump hop; echo stricthostkeychecking $STRICT\n")
	for _, c := range []struct {
		host, strict string
		accept       bool
		o            Options
		want         masterOptions
	}{
		{host: "box", want: masterOptions{}},
		{host: "me@box:23", want: masterOptions{User: "me", Port: 23}},
		{host: "box", o: Options{User: "me", Identity: []string{"/k"}, Jump: []string{"a,b"}}, want: masterOptions{User: "me", Identity: []string{"/k"}, Jump: []string{"a", "b"}}},
		{host: "box", o: Options{Jump: []string{"none"}}, want: masterOptions{Jump: []string{"none"}}},
		{host: "box", strict: "false", want: masterOptions{StrictHostKeyChecking: "ask"}},
		{host: "box", strict: "accept-new", want: masterOptions{}},
		{host: "box", strict: "ask", accept: true, want: masterOptions{StrictHostKeyChecking: "accept-new"}},
		{host: "box", strict: "true", accept: true, want: masterOptions{}},
	} {
		t.Setenv("STRICT", c.strict)
		c.o.OpenSSH, c.o.ConfigFile = program, "none"
		target, err := Resolve(t.Context(), c.host, c.o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := masterFor(target, c.o, c.accept)
		c.want.Program, c.want.Host, c.want.ConfigFile, c.want.ConnectTimeout = program, "box", "none", 10*time.Second
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("masterFor(%s, %+v) = %+v, %v, want %+v", c.host, c.o, got, err, c.want)
		}
	}
	if _, err := masterFor(&Target{Host: "box"}, Options{OpenSSH: "none"}, false); !as[*ConfigError](err) {
		t.Errorf("without a program: %v", err)
	}
}

func TestMasterArgs(t *testing.T) {
	o := masterOptions{Host: "box", User: "me", Port: 23, ConfigFile: "/c", Identity: []string{"/k"}, Jump: []string{"a", "b"}, StrictHostKeyChecking: "ask", ConnectTimeout: 1500 * time.Millisecond}
	got := strings.Join(o.args("/a%b/s", []string{"X=y"}), " ")
	want := "-N -S /a%%b/s -F /c -o X=y -o ConnectTimeout=2 -o StrictHostKeyChecking=ask -o IdentitiesOnly=yes -l me -p 23 -i /k -J a,b -- box"
	if got != want {
		t.Errorf("args = %s, want %s", got, want)
	}
}

func TestControlDir(t *testing.T) {
	short := shortDir(t)
	long := filepath.Join(short, strings.Repeat("x", maxControlPath-len(short)-len("//m1234567890/s")))
	odd := filepath.Join(short, "${HOME}")
	for _, dir := range []string{long, long + "x", odd} {
		os.Mkdir(dir, 0o700)
	}
	for under, want := range map[string]string{short: short, long: long, long + "x": "/tmp", odd: "/tmp", "": "/tmp"} {
		dir, err := controlDir(under)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(dir) != want || len(dir+"/s") > maxControlPath {
			t.Errorf("controlDir(%s) = %s, want it in %s", under, dir, want)
		}
		os.RemoveAll(dir)
	}
	if dir, err := controlDir(filepath.Join(short, "nowhere")); err == nil {
		t.Errorf("controlDir = %s, want an error", dir)
	}
}
