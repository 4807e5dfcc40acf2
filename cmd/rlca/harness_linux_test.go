package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rlca/internal/netlab"
	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// These tests run the real harnesses as a user does: rlca launch, OpenSSH's sshd, a real Ollama with the scripted model.
// The laptop and the box are network namespaces with a network between them that the test can break, and with nothing
// else: a name server notes who asks for what.

// harnessRun is how one of them is run without a person.
type harnessRun struct {
	name string
	// say are the arguments for a question, tool those for work with its shell.
	say, tool []string
	// retry is how long it waits after an answer that broke off before it asks again, measured against a server that
	// drops its connection in the middle.
	retry time.Duration
}

var harnessRuns = []harnessRun{
	{"qwen", []string{"-p", "Say hello"}, []string{"-y", "-p", "Use your shell"}, 1600 * time.Millisecond},
	{"codex", []string{"exec", "--skip-git-repo-check", "Say hello"}, []string{"exec", "-s", "workspace-write", "Use your shell"}, 300 * time.Millisecond},
	{"claude", []string{"-p", "Say hello"}, []string{"--allowedTools", "Bash", "-p", "Use your shell"}, 600 * time.Millisecond},
	{"opencode", []string{"run", "Say hello"}, []string{"run", "--auto", "Use your shell"}, 2400 * time.Millisecond},
}

// fault is what happens to the link or the engine while a harness asks.
type fault struct {
	name string
	// down is how long the box is away when the question is put.
	down time.Duration
	// cut is done in the middle of the answer.
	cut func(*harnessLab)
}

var faults = []fault{
	{name: "link down 5 s before the request", down: 5 * time.Second},
	{name: "link down 30 s", down: 30 * time.Second},
	{name: "link cut in the middle of the answer", cut: func(l *harnessLab) { l.box.sshd.KillConnections() }},
	{name: "black hole for 40 s from the middle of the answer on", cut: (*harnessLab).hole},
	{name: "engine restarted in the middle of the answer", cut: (*harnessLab).restart},
}

// long is an outage longer than a caller is held. All harnesses go through the same one.
const long = 130 * time.Second

func TestHarnesses(t *testing.T) {
	if os.Getenv("RLCA_TEST_HARNESSES") == "" {
		t.Skip("it takes minutes: make test-harnesses")
	}
	root := filepath.Join(peer.Dir(), "harnesses")
	if _, err := os.Stat(filepath.Join(root, "rlca-complete")); err != nil {
		t.Skip("the harnesses are missing: .ci/peers-harnesses install")
	}
	if os.Geteuid() != 0 {
		t.Skip("a network namespace of its own needs root")
	}
	lab := netlab.New(t) // first: it makes sure that what is mounted below is mounted here only
	names := isolate(t)
	l := newHarnessLab(t, lab, root)
	var report [][]string
	plain := map[string]*ran{} // a run without a fault
	for _, run := range harnessRuns {
		row := []string{run.name, l.version(run.name)}
		t.Run(run.name, func(t *testing.T) {
			r := l.launch(t, run, "talker", run.say)
			r.answered(t, remotetest.Hello)
			row = append(row, "yes, "+seconds(r.took))
			plain[run.name] = r
			r = l.launch(t, run, "worker", run.tool)
			r.answered(t, remotetest.AfterTool)
			if text, err := os.ReadFile(filepath.Join(r.dir, remotetest.ToolFile)); err != nil || string(text) != "hi\n" {
				t.Errorf("%s did not run its tool: %q, %v\n%s", run.name, text, err, r)
			}
			row = append(row, "yes, "+seconds(r.took))
			for _, f := range faults {
				if os.Getenv("RLCA_HARNESS_REPORT") == "" && f.name != faults[2].name { // one for each run of CI
					continue
				}
				back, r := l.fault(t, run, f, plain[run.name])
				r.answered(t, remotetest.Hello)
				row = append(row, seconds(back))
			}
		})
		report = append(report, row)
	}
	if os.Getenv("RLCA_HARNESS_REPORT") != "" {
		t.Run("long", func(t *testing.T) {
			for i, back := range l.long(t, plain) {
				report[i] = append(report[i], seconds(back))
			}
		})
	}
	if asked := names.all(); len(asked) > 0 {
		t.Errorf("names were looked up outside: %q", asked)
	}
	for _, run := range harnessRuns {
		t.Run("wired "+run.name, func(t *testing.T) { l.wired(t, run) })
	}
	if path := os.Getenv("RLCA_HARNESS_REPORT"); path != "" && !t.Failed() {
		writeReport(t, path, report)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// isolate makes the resolver of this laptop one that knows no name, and notes who asks for what.
func isolate(t *testing.T) *nameServer {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	etc, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	bindOver(t, conf, etc)
	c, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := &nameServer{}
	go s.serve(c)
	return s
}

// nameServer notes every name that it is asked for, and knows none.
type nameServer struct {
	mu    sync.Mutex // guards asked
	asked map[string]int
}

func (s *nameServer) serve(c net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		name, end := question(buf[:n])
		if name == "" {
			continue
		}
		s.mu.Lock()
		if s.asked == nil {
			s.asked = map[string]int{}
		}
		s.asked[name]++
		s.mu.Unlock()
		answer := append(append([]byte(nil), buf[:2]...), 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0) // a response: no such name
		c.WriteTo(append(answer, buf[12:end]...), from)
	}
}

// question reads the name of a query, and where its question ends.
func question(q []byte) (name string, end int) {
	if len(q) < 12 {
		return "", 0
	}
	var labels []string
	for at := 12; at < len(q); {
		n := int(q[at])
		if n == 0 && at+5 <= len(q) {
			return strings.Join(labels, "."), at + 5 // its type and class
		}
		if n == 0 || at+1+n > len(q) {
			return "", 0
		}
		labels = append(labels, string(q[at+1:at+1+n]))
		at += 1 + n
	}
	return "", 0
}

func (s *nameServer) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for name, n := range s.asked {
		out = append(out, fmt.Sprintf("%s (%d)", name, n))
	}
	slices.Sort(out)
	return out
}

// harnessLab is a box with an engine that can be stopped in the middle of an answer, and a laptop that is connected.
type harnessLab struct {
	t     *testing.T
	net   *netlab.Lab
	box   *engineBox
	user  *user
	relay *relay
	root  string // of the harnesses
	home  string // of the user of the harnesses

	models string
	ollama *remotetest.Ollama
}

func newHarnessLab(t *testing.T, lab *netlab.Lab, root string) *harnessLab {
	t.Helper()
	l := &harnessLab{t: t, net: lab, root: root}
	l.ollama = remotetest.StartOllama(t)
	l.models = l.ollama.Models
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := remotetest.CreateForHarnesses(ctx, l.ollama.URL); err != nil {
		t.Fatal(err)
	}
	ln, err := l.net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.relay = startRelay(t, ln, l.ollama.Address)
	l.box = engineBoxOf(t, func(extra string) *peer.SSHD { return l.net.StartSSHD(extra) }, "ollama", peer.Need(t, "ollama"))
	l.box.addr = l.relay.addr
	l.user = l.box.user("talker", 65536)
	// Codex CLI does not run its helpers from below the folder of temporary files.
	cache, err := os.UserCacheDir()
	if err == nil {
		err = os.MkdirAll(cache, 0o700)
	}
	if err == nil {
		l.home, err = os.MkdirTemp(cache, "rlca-test-home-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.endHarnesses()
		os.RemoveAll(l.home)
	})
	l.box.connect(l.user)
	return l
}

// endHarnesses ends what a harness left running: it is known by its home.
func (l *harnessLab) endHarnesses() {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range environs {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(append([]byte{0}, text...), []byte("\x00HOME="+l.home)) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
				l.t.Logf("still running: %d", pid)
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// restart stops the engine, which cuts its answers, and starts it again two seconds later.
func (l *harnessLab) restart() {
	l.relay.lead("")
	l.ollama.Stop()
	time.Sleep(2 * time.Second)
	l.ollama = remotetest.StartOllama(l.box.t, "OLLAMA_MODELS="+l.models)
	l.relay.lead(l.ollama.Address)
}

// hole loses every packet for a while, without a word to either side; the engine goes on answering meanwhile.
func (l *harnessLab) hole() {
	l.net.Hole(true)
	l.relay.disarm()
	time.Sleep(40 * time.Second)
	l.net.Hole(false)
}

func (l *harnessLab) version(name string) string {
	cmd := exec.Command(filepath.Join(l.root, "bin", name), "--version")
	cmd.Env = l.env()
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%s --version: %v", name, err)
	}
	for _, f := range strings.Fields(string(out)) {
		if f[0] >= '0' && f[0] <= '9' {
			return f
		}
	}
	l.t.Fatalf("%s --version: %q", name, out)
	return ""
}

func (l *harnessLab) env() []string {
	var env []string
	for _, kv := range l.user.env {
		if !strings.HasPrefix(kv, "HOME=") && !strings.HasPrefix(kv, "PWD=") && !strings.HasPrefix(kv, "PATH=") && !strings.HasPrefix(kv, "XDG_") {
			env = append(env, kv)
		}
	}
	return append(env, "HOME="+l.home, "PATH="+filepath.Join(l.root, "bin")+":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=dumb",
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9") // a proxy that takes all that is not told to go past it
}

// ran is what became of one run of a harness.
type ran struct {
	args      []string
	dir       string
	out, errs bytes.Buffer
	code      int
	start     time.Time
	took      time.Duration
	asks      time.Duration // from its start to the first event of an answer
}

// rest is what it takes from the first event of an answer to its end.
func (r *ran) rest() time.Duration { return r.took - r.asks }

func (r *ran) String() string {
	return fmt.Sprintf("%s: exit %d after %s\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, seconds(r.took), tail(r.out.String()), tail(r.errs.String()))
}

func tail(s string) string { return s[max(0, len(s)-6000):] }

func (r *ran) answered(t *testing.T, want string) {
	t.Helper()
	if n := strings.Count(r.out.String(), want); r.code != 0 || n != 1 {
		t.Errorf("%d answers %q, want one:\n%s", n, want, r)
	}
}

// launch runs a harness in a new repository, as rlca launch does for a user.
func (l *harnessLab) launch(t *testing.T, run harnessRun, model string, args []string) *ran {
	t.Helper()
	r := &ran{dir: filepath.Join(l.home, "repo-"+strings.ReplaceAll(t.Name()+"-"+model+strconv.FormatInt(time.Now().UnixNano(), 36), "/", "-"))}
	if out, err := exec.Command("git", "init", "-q", r.dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v: %s", err, out)
	}
	r.args = append([]string{"launch", run.name, "--model", model, "--yes", "--"}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.user.path, r.args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = append(l.env(), "PWD="+r.dir), r.dir, 5*time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = &r.out, &r.errs
	r.start = time.Now()
	first := l.relay.first()
	err := cmd.Run()
	r.took = time.Since(r.start)
	select {
	case at := <-first:
		r.asks = at.Sub(r.start)
	default:
		r.asks = r.took
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	r.code = cmd.ProcessState.ExitCode()
	return r
}

// ends is how long after the end of a fault a run may end: 2.5 s, what the harness itself waits before it asks again, and
// what a run without a fault takes from its answer on; where it had not asked yet, also what it takes until then.
func (run harnessRun) ends(plain *ran, down time.Duration) time.Duration {
	return 2500*time.Millisecond + run.retry + plain.rest() + max(0, plain.asks-down)
}

// fault runs a harness while a fault happens. back is how long after the end of the fault the run had ended.
func (l *harnessLab) fault(t *testing.T, run harnessRun, f fault, plain *ran) (back time.Duration, r *ran) {
	t.Helper()
	var ended atomic.Int64 // when the fault was over
	var wg sync.WaitGroup
	switch {
	case f.cut != nil:
		middle := l.relay.arm()
		wg.Go(func() {
			select {
			case <-middle:
				f.cut(l)
				ended.Store(time.Now().UnixNano())
				l.relay.disarm()
			case <-time.After(2 * time.Minute):
			}
		})
	default:
		l.box.sshd.Stop()
		wg.Go(func() {
			time.Sleep(f.down)
			l.box.sshd.Start()
			ended.Store(time.Now().UnixNano())
		})
	}
	r = l.launch(t, run, "talker", run.say)
	wg.Wait()
	if ended.Load() == 0 {
		t.Fatalf("%s never came: no answer was under way\n%s", f.name, r)
	}
	back = r.start.Add(r.took).Sub(time.Unix(0, ended.Load()))
	t.Logf("%s: it ended %s after the fault, %s in all", f.name, seconds(back), seconds(r.took))
	limit := run.ends(plain, f.down)
	if f.cut != nil { // it had asked
		limit = run.ends(plain, plain.asks)
	}
	if back > limit {
		t.Errorf("%s: it ended only %s after the fault, want %s at most", f.name, seconds(back), seconds(limit))
	}
	return back, r
}

// long runs all harnesses through one long outage, and says how long after it each had ended.
func (l *harnessLab) long(t *testing.T, plain map[string]*ran) (back []time.Duration) {
	l.box.sshd.Stop()
	runs := make([]*ran, len(harnessRuns))
	var wg sync.WaitGroup
	for i, run := range harnessRuns {
		wg.Go(func() { runs[i] = l.launch(t, run, "talker", run.say) })
	}
	time.Sleep(long)
	l.box.sshd.Start()
	up := time.Now()
	wg.Wait()
	for i, r := range runs {
		r.answered(t, remotetest.Hello)
		back = append(back, r.start.Add(r.took).Sub(up))
		t.Logf("%s: it ended %s after the link was back, %s in all", harnessRuns[i].name, seconds(back[i]), seconds(r.took))
		if limit := harnessRuns[i].ends(plain[harnessRuns[i].name], long) + 2*time.Second; back[i] > limit { // a Retry-After of the 503
			t.Errorf("%s: it ended only %s after the link was back, want %s at most", harnessRuns[i].name, seconds(back[i]), seconds(limit))
		}
	}
	return back
}

// wired runs a harness without launch, by the settings that rlca wire wrote, and has them taken back.
func (l *harnessLab) wired(t *testing.T, run harnessRun) {
	home := filepath.Join(l.home, "wired")
	dir := filepath.Join(home, "repo")
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v: %s", err, out)
	}
	var env []string
	for _, kv := range l.env() {
		if !strings.HasPrefix(kv, "HOME=") && !strings.Contains(kv, "_PROXY=") {
			env = append(env, kv)
		}
	}
	env = append(env, "HOME="+home, "PWD="+dir)
	do := func(path string, args ...string) *ran {
		r := &ran{args: append([]string{path}, args...), dir: dir, start: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env, cmd.Dir, cmd.WaitDelay = env, dir, 5*time.Second
		cmd.Stdout, cmd.Stderr = &r.out, &r.errs
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatal(err)
		}
		r.code, r.took = cmd.ProcessState.ExitCode(), time.Since(r.start)
		return r
	}
	if r := do(l.user.path, "wire", run.name, "--json"); r.code != 0 || !strings.Contains(r.out.String(), `"created": true`) {
		t.Fatalf("wire: %s", r)
	}
	do(filepath.Join(l.root, "bin", run.name), run.say...).answered(t, remotetest.Hello)
	if r := do(l.user.path, "unwire", run.name, "--json"); r.code != 0 || strings.Contains(r.out.String(), "127.0.0.1:11434") {
		t.Errorf("unwire: %s", r)
	}
	left := 0
	filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.Contains(path, ".rlca-") || strings.Contains(path, "settings.json") || strings.HasSuffix(path, "config.toml") || strings.HasSuffix(path, "opencode.json")) {
			text, _ := os.ReadFile(path)
			if bytes.Contains(text, []byte(l.user.url)) {
				left++
				t.Errorf("after unwire %s has the endpoint still:\n%s", path, text)
			}
		}
		return nil
	})
	if left == 0 {
		t.Logf("wired, it answered, and nothing of it is left")
	}
}

// relay stands before the engine, and can stop an answer in its middle.
type relay struct {
	addr string

	mu     sync.Mutex // guards what follows
	to     string     // empty: nobody listens
	middle chan struct{}
	wait   chan struct{}
	begun  chan time.Time // told of the next answer's first event
	conns  map[net.Conn]bool
}

func startRelay(t *testing.T, ln net.Listener, to string) *relay {
	r := &relay{addr: ln.Addr().String(), to: to, conns: map[net.Conn]bool{}}
	t.Cleanup(func() {
		ln.Close()
		r.lead("")
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

// lead makes another engine the one behind, or none: whoever is connected is cut.
func (r *relay) lead(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	if to == "" {
		for c := range r.conns {
			if t, ok := c.(*net.TCPConn); ok {
				t.SetLinger(0)
			}
			c.Close()
		}
	}
}

// arm stops the next streamed answer after its first event. The channel is closed then.
func (r *relay) arm() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.middle, r.wait = make(chan struct{}), make(chan struct{})
	return r.middle
}

// disarm lets the answer that was stopped go on. It may be called twice.
func (r *relay) disarm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wait != nil {
		close(r.wait)
		r.wait = nil
	}
}

// first is told when the next streamed answer begins.
func (r *relay) first() <-chan time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = make(chan time.Time, 1)
	return r.begun
}

func (r *relay) serve(c net.Conn) {
	r.mu.Lock()
	to := r.to
	r.conns[c] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.conns, c)
		r.mu.Unlock()
		c.Close()
	}()
	if to == "" {
		c.(*net.TCPConn).SetLinger(0)
		return
	}
	engine, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer engine.Close()
	go func() {
		io.Copy(engine, c)
		engine.(*net.TCPConn).CloseWrite()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := engine.Read(buf)
		if n > 0 {
			head := buf[:n]
			if at := bytes.Index(head, []byte("data: ")); at >= 0 {
				r.mu.Lock()
				middle, wait := r.middle, r.wait
				r.middle = nil
				if r.begun != nil {
					r.begun <- time.Now()
					r.begun = nil
				}
				r.mu.Unlock()
				if middle != nil { // the first event goes through, and then nothing
					end := at + cmp.Or(max(0, bytes.Index(head[at:], []byte("\n\n"))), len(head[at:]))
					c.Write(head[:min(end+2, n)])
					close(middle)
					<-wait
					head = head[min(end+2, n):]
				}
			}
			if _, err := c.Write(head); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// writeReport puts the table into a page, between its marks.
func writeReport(t *testing.T, path string, rows [][]string) {
	t.Helper()
	const begin, end = "<!-- make harness-report -->\n", "<!-- end -->\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	table := "| | version | an answer | a tool call |"
	for _, f := range faults {
		table += " " + f.name + " |"
	}
	table += " link down 130 s |\n|" + strings.Repeat("---|", 5+len(faults)) + "\n"
	for _, row := range rows {
		table += "| " + strings.Join(row, " | ") + " |\n"
	}
	if err := os.WriteFile(path, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
