package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Kinds of packets that the scripts read and write (RFC 4250 §4.1.2).
const (
	pktDisconnect     = 1
	pktIgnore         = 2
	pktDebug          = 4
	pktServiceAccept  = 6
	pktKexInit        = 20
	pktNewKeys        = 21
	pktKexReply       = 31
	pktAuthFailure    = 51
	pktAuthSuccess    = 52
	pktAuthBanner     = 53
	pktGlobalRequest  = 80
	pktRequestSuccess = 81
	pktRequestFailure = 82
	pktOpen           = 90
	pktOpenConfirm    = 91
	pktOpenFailure    = 92
	pktAdjust         = 93
	pktData           = 94
)

// script is one connection of a server that keeps to no rules: a test says packet by packet what it sends. It speaks
// curve25519-sha256 and AES-GCM only. Its methods end the goroutine when the connection is gone.
type script struct {
	net.Conn
	in      *bufio.Reader
	key     ssh.Signer
	open    func(c *script, id uint32) // answers the opening of a forward; nil refuses it
	version []byte                     // the client's
	init    [2][]byte                  // the first packet of the key exchange: the client's and ours
	point   []byte                     // the client's
	recv    *sealed                    // nil before there are keys
	send    *sealed
	failed  atomic.Int64 // requests and channels that the client has refused
}

// sealed is AES-GCM with a counter (RFC 5647 §7.1).
type sealed struct {
	cipher.AEAD
	nonce []byte
}

func (s *sealed) next() []byte {
	n := bytes.Clone(s.nonce)
	binary.BigEndian.PutUint64(s.nonce[4:], binary.BigEndian.Uint64(s.nonce[4:])+1)
	return n
}

// scripted is a server on which every connection goes by a script, and then is closed.
func scripted(t *testing.T, do func(*script)) *Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key := newSigner(t)
	ctx := t.Context()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				do(&script{Conn: conn, in: bufio.NewReader(conn), key: key})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	port := ln.Addr().(*net.TCPAddr).Port
	return &Target{
		Host: "box", HostName: "127.0.0.1", Port: port, User: "me", IdentityAgent: "none", ConnectTimeout: 500 * time.Millisecond,
		UserKnownHostsFiles: []string{writeFile(t, "kh", fmt.Sprintf("[127.0.0.1]:%d %s\n", port, keyText(key.PublicKey())))},
	}
}

// must ends the script after an error.
func (c *script) must(err error) {
	if err != nil {
		runtime.Goexit()
	}
}

// say writes text as it is.
func (c *script) say(text string) {
	_, err := io.WriteString(c.Conn, text)
	c.must(err)
}

// listen reads for as long as the client lives.
func (c *script) listen() { io.Copy(io.Discard, c.in) }

// packet makes a payload of a kind and its fields.
func packet(kind byte, fields ...any) []byte {
	p := []byte{kind}
	for _, f := range fields {
		switch f := f.(type) {
		case uint32:
			p = binary.BigEndian.AppendUint32(p, f)
		case string:
			p = append(p, krlString([]byte(f))...)
		case bool:
			p = append(p, map[bool]byte{true: 1}[f])
		case []byte:
			p = append(p, f...)
		}
	}
	return p
}

// frame puts a payload into a packet (RFC 4253 §6).
func (c *script) frame(payload []byte) []byte {
	block, around := 8, 5
	if c.send != nil {
		block, around = 16, 1
	}
	padding := block - (len(payload)+around)%block
	if padding < 4 {
		padding += block
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	rest := append(append([]byte{byte(padding)}, payload...), make([]byte, padding)...)
	if c.send != nil {
		rest = c.send.Seal(nil, c.send.next(), rest, length)
	}
	return append(length, rest...)
}

func (c *script) put(kind byte, fields ...any) {
	_, err := c.Write(c.frame(packet(kind, fields...)))
	c.must(err)
}

// get reads the next packet.
func (c *script) get() []byte {
	length := make([]byte, 4)
	_, err := io.ReadFull(c.in, length)
	c.must(err)
	rest := make([]byte, min(binary.BigEndian.Uint32(length), 1<<20))
	if c.recv != nil {
		rest = append(rest, make([]byte, c.recv.Overhead())...)
	}
	_, err = io.ReadFull(c.in, rest)
	c.must(err)
	if c.recv != nil {
		rest, err = c.recv.Open(rest[:0], c.recv.next(), rest, length)
		c.must(err)
	}
	return rest[1 : len(rest)-int(rest[0])]
}

const scriptVersion = "SSH-2.0-Script"

// hello says and hears who is there.
func (c *script) hello() {
	c.say(scriptVersion + "\r\n")
	line, err := c.in.ReadBytes('\n')
	c.must(err)
	c.version = bytes.TrimRight(line, "\r\n")
}

// ourInit is our first packet of a key exchange.
func ourInit() []byte {
	const gcm, none = "aes128-gcm@openssh.com", "none"
	return packet(pktKexInit, make([]byte, 16), "curve25519-sha256", ssh.KeyAlgoED25519, gcm, gcm, "", "", none, none, "", "", false, uint32(0))
}

// begin exchanges the first packets of the key exchange.
func (c *script) begin() {
	c.hello()
	c.init[1] = ourInit()
	_, err := c.Write(c.frame(c.init[1]))
	c.must(err)
	c.init[0] = c.get()
}

// hear reads the client's half of the key exchange.
func (c *script) hear() {
	c.begin()
	p := c.get()
	c.point = p[5:]
}

// keys does the whole of it; change changes the reply.
func (c *script) keys(change func(key, point, sig []byte) (k, p, s []byte)) {
	c.hear()
	curve := ecdh.X25519()
	mine, err := curve.GenerateKey(rand.Reader)
	c.must(err)
	theirs, err := curve.NewPublicKey(c.point)
	c.must(err)
	shared, err := mine.ECDH(theirs)
	c.must(err)
	k := ssh.Marshal(&struct{ K *big.Int }{new(big.Int).SetBytes(shared)})
	key, point := c.key.PublicKey().Marshal(), mine.PublicKey().Bytes()
	h := sha256.New()
	for _, part := range [][]byte{c.version, []byte(scriptVersion), c.init[0], c.init[1], key, c.point, point} {
		h.Write(krlString(part))
	}
	h.Write(k)
	hash := h.Sum(nil)
	signature, err := c.key.Sign(rand.Reader, hash)
	c.must(err)
	sig := ssh.Marshal(signature)
	if change != nil {
		key, point, sig = change(key, point, sig)
	}
	c.put(pktKexReply, string(key), string(point), string(sig))
	c.put(pktNewKeys)
	for c.get()[0] != pktNewKeys {
	}
	derive := func(letter byte, n int) []byte {
		sum := sha256.Sum256(bytes.Join([][]byte{k, hash, {letter}, hash}, nil))
		return sum[:n]
	}
	seal := func(iv, key byte) *sealed {
		block, err := aes.NewCipher(derive(key, 16))
		c.must(err)
		gcm, err := cipher.NewGCM(block)
		c.must(err)
		return &sealed{gcm, derive(iv, 12)}
	}
	c.recv, c.send = seal('A', 'C'), seal('B', 'D')
}

// asked brings the client to the point where it asks to be let in.
func (c *script) asked() {
	c.keys(nil)
	c.get()
	c.put(pktServiceAccept, "ssh-userauth")
	c.get()
}

// login lets the client in.
func (c *script) login() {
	c.asked()
	c.put(pktAuthSuccess)
}

// serve answers what the client asks, for as long as it lives: requests and sessions with no.
func (c *script) serve() {
	for {
		p := c.get()
		switch p[0] {
		case pktGlobalRequest:
			if p[len(p)-1] == 1 { // it wants an answer
				c.put(pktRequestFailure)
			}
		case pktRequestFailure, pktOpenFailure:
			c.failed.Add(1)
		case pktOpen:
			var o struct {
				Kind string `sshtype:"90"`
				ID   uint32
				Rest []byte `ssh:"rest"`
			}
			c.must(ssh.Unmarshal(p, &o))
			if o.Kind == "session" || c.open == nil {
				c.put(pktOpenFailure, o.ID, uint32(1), "no \x1b[31msessions\r\n", "")
				continue
			}
			c.open(c, o.ID)
		}
	}
}

// confirm opens a channel.
func (c *script) confirm(id uint32) {
	c.put(pktOpenConfirm, id, uint32(7), uint32(1<<20), uint32(32<<10))
}

// impatient is a dialer with short limits.
func impatient() *Dialer {
	return &Dialer{limits: limits{handshake: 2 * time.Second, login: 2 * time.Second, open: 500 * time.Millisecond, probeAfter: 300 * time.Millisecond, probeLimit: 300 * time.Millisecond}}
}

// fitToShow checks what every error of a bad server has to be: soon, short, and without control characters.
func fitToShow(t *testing.T, err error, start time.Time) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	if text := err.Error(); !printable(text) || len(text) > 1000 {
		t.Errorf("the error is not fit for a terminal: %.2000q", text)
	}
}

// printable says that text has nothing in it that a terminal would take for an order.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) })
}

const evil = "\x1b[31m\x07\r\n\u202eevil\x00"

// Servers that go wrong before the login is over: each is a DialError that says where.
func TestHostileDial(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*script)
		op   string
		want string
	}{
		"endless lines": {func(c *script) {
			for {
				c.say("hello\x1b[31m\r\n")
			}
		}, "banner", `it says "hello[31m"`},
		"an endless line": {func(c *script) {
			for {
				c.say(strings.Repeat("x", 64<<10))
			}
		}, "banner", "no SSH server"},
		"an endless version": {func(c *script) {
			c.say("SSH-2.0-")
			for {
				c.say(strings.Repeat("x", 64<<10))
			}
		}, "handshake", "overflow reading version"},
		"a drip": {func(c *script) {
			for {
				c.say("x")
				time.Sleep(20 * time.Millisecond)
			}
		}, "handshake", "no end of the handshake in time"},
		"closes after its first packet":     {func(c *script) { c.begin() }, "handshake", "closed"},
		"resets after its first packet":     {func(c *script) { c.begin(); c.Conn.(*net.TCPConn).SetLinger(0) }, "handshake", ""},
		"closes after our half of the keys": {func(c *script) { c.hear() }, "handshake", "closed"},
		"silent after our half of the keys": {func(c *script) { c.hear(); c.listen() }, "handshake", "no end of the handshake in time"},
		"a first packet cut short": {func(c *script) {
			c.hello()
			c.put(pktKexInit, "x")
			c.listen()
		}, "handshake", ""},
		"another packet first": {func(c *script) { c.hello(); c.put(pktAuthSuccess); c.listen() }, "handshake", ""},
		"a huge packet":        {func(c *script) { c.hello(); c.say("\x7f\xff\xff\xff\x04"); c.listen() }, "handshake", ""},
		"an empty packet":      {func(c *script) { c.hello(); c.say("\x00\x00\x00\x05\x04\x00\x00\x00\x00"); c.listen() }, "handshake", ""},
		"a wrong signature": {func(c *script) {
			c.keys(func(k, p, s []byte) ([]byte, []byte, []byte) { s[len(s)-1] ^= 1; return k, p, s })
		}, "handshake", ""},
		"a signature that is none": {func(c *script) {
			c.keys(func(k, p, s []byte) ([]byte, []byte, []byte) { return k, p, []byte("x") })
		}, "handshake", ""},
		"a key that is none": {func(c *script) {
			c.keys(func(k, p, s []byte) ([]byte, []byte, []byte) { return []byte(evil), p, s })
		}, "handshake", ""},
		"a point that is none": {func(c *script) {
			c.keys(func(k, p, s []byte) ([]byte, []byte, []byte) { return k, p[:31], s })
		}, "handshake", ""},
		"a point of zeros": {func(c *script) {
			c.keys(func(k, p, s []byte) ([]byte, []byte, []byte) { return k, make([]byte, 32), s })
		}, "handshake", ""},
		"says goodbye": {func(c *script) {
			c.begin()
			c.put(pktDisconnect, uint32(11), evil, "")
			c.listen()
		}, "handshake", "evil"},
		"closes after the keys": {func(c *script) { c.keys(nil) }, "login", "closed"},
		"silent after the keys": {func(c *script) { c.keys(nil); c.listen() }, "login", "no end of the login in time"},
		"nonsense after the keys": {func(c *script) {
			c.keys(nil)
			c.say(strings.Repeat("\x00\x00\x00\x20z", 100))
		}, "login", ""},
		"closes when asked": {func(c *script) { c.asked() }, "login", "closed"},
		"says goodbye when asked": {func(c *script) {
			c.asked()
			c.put(pktDisconnect, uint32(2), evil, "")
			c.listen()
		}, "login", "evil"},
		"endless banners": {func(c *script) {
			c.asked()
			for {
				c.put(pktAuthBanner, evil, "")
			}
		}, "login", "no end of the login in time"},
		"closes after the login": {func(c *script) {
			c.login()
			c.get()
		}, "login", ""},
		"silent after the login": {func(c *script) { c.login(); c.listen() }, "login", "no answer after the login"},
		"nonsense after the login": {func(c *script) {
			c.login()
			c.say(strings.Repeat("z", 1000))
			c.listen()
		}, "login", ""},
		"goodbye after the login": {func(c *script) {
			c.login()
			c.put(pktDisconnect, uint32(11), evil, "")
			c.listen()
		}, "login", ""},
	} {
		t.Run(name, func(t *testing.T) {
			target := scripted(t, c.do)
			start := time.Now()
			err := login(t, impatient(), target)
			fitToShow(t, err, start)
			var e *DialError
			if !errors.As(err, &e) || e.Op != c.op || !strings.Contains(err.Error(), c.want) || e.Busy() || Final(err) {
				t.Errorf("Dial = %v (%T), want a DialError of %s with %q", err, err, c.op, c.want)
			}
		})
	}
}

// What a server says while it keeps us out is shown, so it is cleaned; and one that never comes to a decision is left.
func TestHostileAuth(t *testing.T) {
	file, _ := writeKey(t, "")
	for name, c := range map[string]struct {
		do   func(*script)
		want func(error) bool
		text string
	}{
		"methods with control characters": {func(c *script) {
			c.asked()
			c.put(pktAuthFailure, "pass"+evil+",publickey", false)
			for {
				c.get()
				c.put(pktAuthFailure, "pass"+evil+",publickey", false)
			}
		}, as[*AuthError], "accepts none of the keys"},
		"only methods with control characters": {func(c *script) {
			c.asked()
			c.put(pktAuthFailure, evil, false)
			c.listen()
		}, as[*AuthError], "takes no keys"},
		"always half a success": {func(c *script) {
			c.asked()
			for {
				c.put(pktAuthFailure, "publickey,"+evil, true)
				c.get()
			}
		}, as[*AuthError], ""},
		"closes when a key is offered": {func(c *script) {
			c.asked()
			c.put(pktAuthFailure, "publickey", false)
			c.get()
		}, as[*DialError], "login"},
		"silent when a key is offered": {func(c *script) {
			c.asked()
			c.put(pktAuthFailure, "publickey", false)
			c.listen()
		}, as[*DialError], "no end of the login in time"},
		"methods cut short": {func(c *script) { c.asked(); c.put(pktAuthFailure, uint32(1<<30)); c.listen() }, as[*DialError], "login"},
		"thousands of methods": {func(c *script) {
			c.asked()
			c.put(pktAuthFailure, strings.Repeat("publickey"+evil+",", 2000), false)
			c.listen()
		}, as[*AuthError], ""},
	} {
		t.Run(name, func(t *testing.T) {
			target := scripted(t, c.do)
			target.IdentityFiles = []string{file}
			start := time.Now()
			err := login(t, impatient(), target)
			if err == nil || !c.want(err) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("Dial = %v (%T), want another error with %q", err, err, c.text)
			}
			var e *AuthError
			if text := err.Error(); !printable(text) || time.Since(start) > 4*time.Second || errors.As(err, &e) && !printable(strings.Join(append(e.Methods, e.Notes...), "")) {
				t.Errorf("after %v an error with control characters: %q", time.Since(start), text)
			}
		})
	}
}

// Servers that go wrong on a connection that is up: it ends, says why, and so does the call that is on the way.
func TestHostileLink(t *testing.T) {
	for name, c := range map[string]struct {
		open func(c *script, id uint32) // what the opening of a forward does
		want string
	}{
		"closes":            {func(c *script, _ uint32) { c.Close() }, "closed by the other side"},
		"resets":            {func(c *script, _ uint32) { c.Conn.(*net.TCPConn).SetLinger(0); c.Close() }, ""},
		"says goodbye":      {func(c *script, _ uint32) { c.put(pktDisconnect, uint32(11), evil, "") }, "evil"},
		"a long goodbye":    {func(c *script, _ uint32) { c.put(pktDisconnect, uint32(11), strings.Repeat(evil, 3000), "") }, "evil"},
		"a huge packet":     {func(c *script, _ uint32) { c.say("\xff\xff\xff\xf0") }, ""},
		"a packet of 0":     {func(c *script, _ uint32) { c.say("\x00\x00\x00\x00" + strings.Repeat("\x00", 16)) }, ""},
		"a changed packet":  {func(c *script, _ uint32) { f := c.frame(packet(pktIgnore, "x")); f[9] ^= 1; c.say(string(f)) }, ""},
		"an empty payload":  {func(c *script, _ uint32) { c.say(string(c.frame(nil))) }, ""},
		"an unknown packet": {func(c *script, _ uint32) { c.put(200, uint32(12345)) }, ""},
		"a login, again":    {func(c *script, _ uint32) { c.put(pktAuthSuccess) }, ""},
		"a window beyond 4 GiB": {func(c *script, id uint32) {
			c.confirm(id)
			c.put(pktAdjust, id, uint32(1<<32-1))
			c.put(pktAdjust, id, uint32(1<<32-1))
		}, "window"},
		"more than the window": {func(c *script, id uint32) {
			c.confirm(id)
			for range 2<<20/(32<<10) + 1 { // the library's window, and one more
				c.put(pktData, id, strings.Repeat("x", 32<<10))
			}
		}, ""},
		"more than a packet": {func(c *script, id uint32) { c.confirm(id); c.put(pktData, id, strings.Repeat("x", 200<<10)) }, ""},
		"a lying length":     {func(c *script, id uint32) { c.confirm(id); c.put(pktData, id, uint32(1<<31), []byte("x")) }, ""},
		"data for nobody":    {func(c *script, _ uint32) { c.put(pktData, uint32(12345), "x") }, "invalid channel"},
		"data cut short":     {func(c *script, _ uint32) { c.put(pktData, []byte{0}) }, ""},
		"opens it twice":     {func(c *script, id uint32) { c.confirm(id); c.confirm(id) }, ""},
		"no packets allowed": {func(c *script, id uint32) { c.put(pktOpenConfirm, id, uint32(7), uint32(1), uint32(0)) }, ""},
		"half an answer":     {func(c *script, id uint32) { c.put(pktOpenConfirm, id) }, ""},
		"new keys cut short": {func(c *script, _ uint32) { c.put(pktKexInit, "x") }, ""},
		"new keys, and silence": {func(c *script, _ uint32) {
			c.say(string(c.frame(ourInit())))
			c.listen()
		}, "silent for"},
		"silence": {func(c *script, _ uint32) { c.listen() }, "silent for"},
		"asks and never listens": {func(c *script, _ uint32) {
			c.Conn.(*net.TCPConn).SetReadBuffer(1) // full soon
			for {
				c.put(pktGlobalRequest, "x", true)
			}
		}, "silent for"},
	} {
		t.Run(name, func(t *testing.T) {
			target := scripted(t, func(s *script) {
				s.open = c.open
				s.login()
				s.serve()
			})
			client, err := impatient().Dial(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			start := time.Now()
			conn, err := client.Dial(t.Context(), "tcp", "127.0.0.1:1")
			select {
			case <-client.Done():
			case <-time.After(10 * time.Second):
				t.Fatalf("the connection does not end; Dial = %v", err)
			}
			if err == nil { // it was opened before it went wrong
				if _, err = io.Copy(io.Discard, conn); err == nil {
					t.Error("the stream has a clean end")
				}
				conn.Close()
			}
			fitToShow(t, err, start)
			fitToShow(t, client.Err(), start)
			var e *DialError
			if err := client.Err(); !errors.As(err, &e) || e.Op != "link to" || !strings.Contains(err.Error(), c.want) || Final(err) {
				t.Errorf("Err = %v (%T), want a DialError of the link with %q", err, err, c.want)
			}
			if _, err := client.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil || as[*RefusedError](err) {
				t.Errorf("Dial on a dead connection = %v", err)
			}
		})
	}
}

// TestHostileTalksOn has a server that goes wrong and talks on. The library gives up then with packets in hand, and its
// Close and Wait never return (handshakeTransport.Close waits for readLoop, and that for somebody to take its packet):
// ours have to. It runs in a process of its own, because of what the library leaves behind.
func TestHostileTalksOn(t *testing.T) {
	const child = "TUNNEL_TEST_TALKS_ON"
	if os.Getenv(child) == "" {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHostileTalksOn$")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	die := func(format string, args ...any) {
		fmt.Printf(format+"\n", args...)
		os.Exit(1)
	}
	target := scripted(t, func(s *script) {
		s.open = func(c *script, id uint32) {
			c.confirm(id)
			wrong := c.frame(packet(pktOpenConfirm, id)) // a second answer, cut short
			for range 100 {
				wrong = append(wrong, c.frame(packet(pktGlobalRequest, "x", false))...)
			}
			c.say(string(wrong))
			c.listen()
		}
		s.login()
		s.serve()
	})
	client, err := impatient().Dial(t.Context(), target)
	if err != nil {
		die("Dial: %v", err)
	}
	conn, err := client.Dial(t.Context(), "tcp", "127.0.0.1:1")
	if err == nil {
		io.Copy(io.Discard, conn)
	}
	select {
	case <-client.Done():
	case <-time.After(5 * time.Second):
		die("the connection does not end")
	}
	if err := client.Err(); !as[*DialError](err) || !printable(err.Error()) {
		die("Err = %v, want a DialError", err)
	}
	closed := make(chan struct{})
	go func() {
		client.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		die("Close does not return")
	}
	os.Exit(0)
}

// What only wastes our time leaves the connection as it is: every request is answered with no, and forwards go on.
func TestHostileFloods(t *testing.T) {
	const many = 5000
	for name, c := range map[string]struct {
		flood   func(*script)
		refused int64 // how many answers of ours the server must see
	}{
		"requests": {func(c *script) {
			for range many {
				c.put(pktGlobalRequest, evil, true, evil)
			}
		}, many},
		"requests without an answer": {func(c *script) {
			for range many {
				c.put(pktGlobalRequest, "tcpip-forward", false, evil)
			}
		}, 0},
		"channels": {func(c *script) {
			for i := range uint32(many) {
				c.put(pktOpen, []string{"session", "x11", "forwarded-tcpip", evil}[i%4], i, uint32(1<<20), uint32(32<<10), []byte(evil))
			}
		}, many},
		"channels that take nothing": {func(c *script) {
			for i := range uint32(many) {
				c.put(pktOpen, "session", i, uint32(0), uint32(0))
			}
		}, many},
		"answers that nobody asked for": {func(c *script) {
			for range many {
				c.put(pktRequestSuccess, evil)
			}
		}, 0},
		"words to ignore": {func(c *script) {
			for range many {
				c.put(pktIgnore, strings.Repeat(evil, 100))
				c.put(pktDebug, true, evil, "")
			}
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			server := make(chan *script, 1)
			target := scripted(t, func(s *script) {
				var flood sync.Once
				s.open = func(s *script, id uint32) { // the first forward sets it off
					flood.Do(func() { c.flood(s) })
					s.put(pktOpenFailure, id, uint32(2), evil+" refused", "")
				}
				server <- s
				s.login()
				s.serve()
			})
			d := impatient()
			d.limits.open = 10 * time.Second
			client, err := d.Dial(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			for range 2 {
				var refused *RefusedError
				if _, err := client.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.As(err, &refused) || !printable(err.Error()) {
					t.Errorf("Dial = %v, want a RefusedError without control characters", err)
				}
			}
			s := <-server
			waitFor(t, func() bool { return s.failed.Load() == c.refused })
			if client.Err() != nil {
				t.Errorf("the connection has ended: %v", client.Err())
			}
		})
	}
}

// A server that opens a channel and never says another word of it, not even that it is closed: a caller is let go all
// the same, and the connection lives.
func TestHostileStream(t *testing.T) {
	target := scripted(t, func(s *script) {
		s.open = (*script).confirm
		s.login()
		s.serve()
	})
	client, err := impatient().Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) { return client.Dial(ctx, "tcp", "127.0.0.1:1") }}
	local, _ := served(t, f)
	for range 3 {
		c := call(t, local)
		waitFor(t, func() bool { return f.Stats().Open == 1 })
		time.Sleep(200 * time.Millisecond)
		c.SetLinger(0)
		c.Close()
		start := time.Now()
		for f.Stats().Open != 0 {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("a caller is kept after it has gone: %+v", f.Stats())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if client.Err() != nil {
		t.Errorf("the connection has ended: %v", client.Err())
	}
}

// counted counts the key exchanges of a server. After change it signs with another key.
type counted struct {
	ssh.Signer
	other ssh.Signer

	exchanges atomic.Int64
	changed   atomic.Bool
}

func (c *counted) signer() ssh.Signer {
	if c.changed.Load() {
		return c.other
	}
	return c.Signer
}

func (c *counted) PublicKey() ssh.PublicKey { return c.signer().PublicKey() }

func (c *counted) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	c.exchanges.Add(1)
	return c.signer().Sign(rand, data)
}

// A server that wants new keys after every MiB: nothing of a stream is lost, doubled or out of order.
func TestHostileRekey(t *testing.T) {
	const size = 32 << 20
	key := &counted{Signer: newSigner(t)}
	s := (&server{keys: []ssh.Signer{key}, change: func(c *ssh.ServerConfig) { c.RekeyThreshold = 1 << 20 }}).start(t)
	client := s.dial(t, new(Dialer))
	conn, err := client.Dial(t.Context(), "tcp", echo(t, "tcp", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	want := random(1 << 20)
	sent := make(chan error, 1)
	go func() {
		for i := range size >> 20 {
			want := append([]byte{byte(i)}, want[1:]...) // each is another
			if _, err := conn.Write(want); err != nil {
				sent <- err
				return
			}
		}
		sent <- conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got := make([]byte, 1<<20)
	for i := range size >> 20 {
		if n, err := io.ReadFull(conn, got); err != nil || got[0] != byte(i) || !bytes.Equal(got[1:], want[1:]) {
			t.Fatalf("MiB %d: %d bytes, %v, begins with %d; want it as it was sent", i, n, err, got[0])
		}
	}
	if n, err := conn.Read(got); n != 0 || err != io.EOF {
		t.Errorf("after the last byte: %d, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("send: %v", err)
	}
	if n := key.exchanges.Load(); n < 10 { // not one for each MiB: data goes on while the keys are being made
		t.Errorf("%d key exchanges over %d MiB, want ten at least", n, size>>20)
	}
}

// A server that shows another key in the middle of a connection is cut off, and the next dial judges that key.
func TestHostileRekeyOtherKey(t *testing.T) {
	key := &counted{Signer: newSigner(t), other: newSigner(t)}
	s := (&server{keys: []ssh.Signer{key}, change: func(c *ssh.ServerConfig) { c.RekeyThreshold = 64 << 10 }}).start(t)
	target := s.target(t)
	client, err := new(Dialer).Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := client.Dial(t.Context(), "tcp", echo(t, "tcp", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	key.changed.Store(true)
	start := time.Now()
	go conn.Write(make([]byte, 8<<20))
	io.Copy(io.Discard, conn)
	select {
	case <-client.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the connection does not end")
	}
	fitToShow(t, client.Err(), start)
	if err := client.Err(); !as[*DialError](err) || !strings.Contains(err.Error(), "another key in the middle") || Final(err) {
		t.Errorf("Err = %v, want a DialError that says why", err)
	}
	if err := login(t, new(Dialer), target); !as[*ChangedHostKeyError](err) {
		t.Errorf("the next Dial = %v, want a ChangedHostKeyError", err)
	}
}

// A key that is good for forwards only: they work, and a script is told that there is no shell.
func TestHostileForwardsOnly(t *testing.T) {
	s := &server{refuse: func(kind string) (ssh.RejectionReason, string, bool) { return ssh.Prohibited, evil, kind == "session" }}
	client := s.start(t).dial(t, new(Dialer))
	var shell *NoShellError
	if _, err := client.Run(t.Context(), "true"); !errors.As(err, &shell) || !printable(err.Error()) || Final(err) {
		t.Errorf("Run = %v, want a NoShellError", err)
	}
	addr := echo(t, "tcp", "127.0.0.1:0")
	f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) { return client.Dial(ctx, "tcp", addr) }}
	local, _ := served(t, f)
	exchange(t, call(t, local), random(1<<20))
	if client.Err() != nil {
		t.Errorf("the connection has ended: %v", client.Err())
	}
}

// agentRequest reads one request to an agent.
func agentRequest(c net.Conn) {
	length := make([]byte, 4)
	if _, err := io.ReadFull(c, length); err == nil {
		io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(length)))
	}
}

// Agents that go wrong before they have told their keys: the key file is used, soon.
func TestHostileAgentList(t *testing.T) {
	const identities = 12 // SSH_AGENT_IDENTITIES_ANSWER
	file, pub := writeKey(t, "")
	s := (&server{allow: []ssh.PublicKey{pub}}).start(t)
	for name, answer := range map[string][]byte{
		"dies in the middle":      packet(identities, uint32(2), "half")[:7],
		"a huge number of keys":   packet(identities, uint32(1<<32-1)),
		"many keys that are none": packet(identities, uint32(1<<20)),
		"keys of garbage":         packet(identities, uint32(2), evil, evil, evil, evil),
		"another answer":          packet(200, evil),
		"nothing":                 {},
		"no":                      packet(5),
	} {
		t.Run(name, func(t *testing.T) {
			target := s.target(t)
			target.IdentityAgent = startAgent(t, nil, func(c net.Conn) {
				agentRequest(c)
				length := len(answer)
				if name == "dies in the middle" {
					length = 1000
				}
				c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(length)), answer...))
				if name != "dies in the middle" {
					io.Copy(io.Discard, c)
				}
			})
			start := time.Now()
			if err := login(t, new(Dialer), target); !as[*AuthError](err) || !printable(err.Error()) || time.Since(start) > 2*time.Second {
				t.Errorf("without a key file: %v after %v, want an AuthError", err, time.Since(start))
			}
			target.IdentityFiles = []string{file}
			if err := login(t, new(Dialer), target); err != nil || time.Since(start) > 4*time.Second {
				t.Errorf("with a key file: %v after %v", err, time.Since(start))
			}
		})
	}
}

// signs is an agent that does something else when it is asked to sign.
type signs struct {
	agent.ExtendedAgent
	do func() error
}

func (s *signs) SignWithFlags(ssh.PublicKey, []byte, agent.SignatureFlags) (*ssh.Signature, error) {
	if err := s.do(); err != nil {
		return nil, err
	}
	return &ssh.Signature{Format: evil, Blob: []byte(evil)}, nil
}

func (s *signs) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return s.SignWithFlags(key, data, 0)
}

// Agents that go wrong when they are asked to sign: the next key is used.
func TestHostileAgentSign(t *testing.T) {
	ring, held := agentWith(t, 1)
	file, pub := writeKey(t, "")
	s := (&server{allow: append(held, pub)}).start(t)
	var conn net.Conn
	for name, do := range map[string]func() error{
		"refuses":                func() error { return errors.New("locked") },
		"dies":                   func() error { conn.Close(); return errors.New("dead") },
		"a signature of its own": func() error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			target := s.target(t)
			target.IdentityAgent = startAgent(t, nil, func(c net.Conn) {
				conn = c
				agent.ServeAgent(&signs{ring.(agent.ExtendedAgent), do}, c)
			})
			start := time.Now()
			err := login(t, new(Dialer), target)
			if err == nil || !printable(err.Error()) || time.Since(start) > 4*time.Second {
				t.Errorf("without a key file: %v after %v", err, time.Since(start))
			}
			if name != "a signature of its own" && !as[*AuthError](err) {
				t.Errorf("without a key file: %v (%T), want an AuthError", err, err)
			}
			target.IdentityFiles = []string{file}
			if err := login(t, new(Dialer), target); err != nil {
				t.Errorf("with a key file: %v", err)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		over := t.Context().Done()
		target := s.target(t)
		target.IdentityAgent = startAgent(t, nil, func(c net.Conn) {
			agent.ServeAgent(&signs{ring.(agent.ExtendedAgent), func() error { <-over; return errors.New("late") }}, c)
		})
		start := time.Now()
		if _, err := new(Dialer).Dial(ctx, target); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
			t.Errorf("Dial = %v after %v, want the end of ctx", err, time.Since(start))
		}
		a, err := openAgent(t.Context(), target.IdentityAgent)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		err = a.within(t.Context(), 100*time.Millisecond, func() error {
			_, err := a.client.SignWithFlags(held[0], []byte("x"), 0)
			return err
		})
		if !errors.Is(err, errSlowAgent) {
			t.Errorf("a signature within 100 ms: %v, want %v", err, errSlowAgent)
		}
	})
}

// An agent that is restarted between two dials, with other keys, is asked anew.
func TestHostileAgentRestarts(t *testing.T) {
	first, held := agentWith(t, 1)
	second, held2 := agentWith(t, 1)
	s := (&server{allow: held}).start(t)
	target := s.target(t)
	now := atomic.Pointer[agent.Agent]{}
	now.Store(&first)
	var conns atomic.Int64
	target.IdentityAgent = startAgent(t, nil, func(c net.Conn) {
		conns.Add(1)
		agent.ServeAgent(*now.Load(), c)
	})
	d := new(Dialer)
	if err := login(t, d, target); err != nil {
		t.Fatal(err)
	}
	now.Store(&second)
	if err := login(t, d, target); !as[*AuthError](err) {
		t.Errorf("with the new agent's key: %v, want an AuthError", err)
	}
	s.set(func() { s.allow = held2 })
	if err := login(t, d, target); err != nil || conns.Load() != 3 {
		t.Errorf("with the new agent's key, which the server takes now: %v, %d conversations", err, conns.Load())
	}
}

// Callers of a forward, over one real connection.
func TestHostileCallers(t *testing.T) {
	client := new(server).start(t).dial(t, new(Dialer))
	through := func(t *testing.T, addr string) (*Forward, string) {
		f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) { return client.Dial(ctx, "tcp", addr) }, Refused: as[*RefusedError]}
		local, _ := served(t, f)
		return f, local
	}
	echoes := echo(t, "tcp", "127.0.0.1:0")

	t.Run("never reads", func(t *testing.T) {
		var sent atomic.Int64
		source := newFarSide(t, func(c *net.TCPConn) {
			block := make([]byte, 64<<10)
			for {
				n, err := c.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		_, local := through(t, source.ln.Addr().String())
		_, beside := through(t, echoes)
		idle := call(t, local)
		before := int64(-1)
		waitFor(t, func() bool { // until nothing moves any more
			n := sent.Load()
			still := n == before && n > 0
			before = n
			time.Sleep(200 * time.Millisecond)
			return still
		})
		if n := sent.Load(); n > 64<<20 {
			t.Errorf("%d MiB were taken for a caller that reads none", n>>20)
		}
		start := time.Now()
		ping(t, call(t, beside))
		if d := time.Since(start); d > time.Second {
			t.Errorf("beside it a word took %v", d)
		}
		idle.Close()
	})
	t.Run("half closes at once", func(t *testing.T) {
		_, local := through(t, echoes)
		for range 20 {
			exchange(t, call(t, local), nil)
		}
	})
	t.Run("a byte at a time", func(t *testing.T) {
		_, local := through(t, echoes)
		c := call(t, local)
		want := random(500)
		go func() {
			for i := range want {
				c.Write(want[i : i+1])
				time.Sleep(time.Millisecond)
			}
			c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v, want the %d that were sent", len(got), err, len(want))
		}
	})
	t.Run("resets at once", func(t *testing.T) {
		f, local := through(t, echoes)
		for range 100 {
			c, err := net.Dial("tcp", local)
			if err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		ping(t, call(t, local))
		waitFor(t, func() bool { return f.Stats().Open == 1 })
	})
	t.Run("300 at once", func(t *testing.T) {
		f := &Forward{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) { return client.Dial(ctx, "tcp", echoes) }, MaxHeld: 300} // a machine under load holds some
		local, _ := served(t, f)
		var answers, resets atomic.Int64
		all := make(chan struct{})
		var here, done sync.WaitGroup
		for range 300 {
			here.Add(1)
			done.Go(func() {
				answered := sync.OnceFunc(here.Done)
				defer answered()
				c, err := net.Dial("tcp", local)
				if err == nil {
					defer c.Close()
					c.SetDeadline(time.Now().Add(20 * time.Second))
					if _, err = c.Write([]byte("hello")); err == nil { // who is told of the reset here is told no second time
						_, err = io.ReadFull(c, make([]byte, 5))
					}
				}
				if err != nil {
					if !isReset(err) && !errors.Is(err, syscall.EPIPE) {
						t.Errorf("a caller gets %v, want an answer or a reset", err)
					}
					resets.Add(1)
					return
				}
				answers.Add(1)
				answered()
				<-all // it stays until everybody has an answer
			})
		}
		here.Wait()
		if answers.Load() != defaultOpen || resets.Load() != 300-defaultOpen {
			t.Errorf("%d were served and %d reset, want %d and %d", answers.Load(), resets.Load(), defaultOpen, 300-defaultOpen)
		}
		close(all)
		done.Wait()
		waitFor(t, func() bool { return f.Stats().Open == 0 })
		ping(t, call(t, local))
	})
	if client.Err() != nil {
		t.Errorf("the connection has ended: %v", client.Err())
	}
}
