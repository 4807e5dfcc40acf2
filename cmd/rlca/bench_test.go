//go:build bench

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rlca/internal/box"
	"rlca/internal/peer"
	"rlca/internal/supervisor"
	"rlca/remote/remotetest"
)

// TestBench measures beside ssh and autossh, interleaved in one run, and prints medians and ratios. It judges
// nothing. make bench runs it.
func TestBench(t *testing.T) {
	ssh := peer.Need(t, "ssh")
	runs := 5
	if n, err := strconv.Atoi(os.Getenv("RLCA_BENCH_RUNS")); err == nil && n > 0 {
		runs = n
	}
	sshd := peer.StartSSHD(t)
	far := benchFar(t)
	engine, err := box.StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()

	l := newLaptop(t)
	ours := remotetest.FreePort(t)
	l.write("spark", fmt.Sprintf("host = \"box\"\n[engine]\nname = \"none\"\naddress = %q\n[forward]\nlisten = \"127.0.0.1:%d\"\nmode = \"tcp\"\n", far, ours))
	l.must("-F", sshd.Config, "connect", "spark")
	defer l.rlca("disconnect", "spark")

	theirs := map[string]int{"ssh -L": remotetest.FreePort(t)}
	started := map[string]*exec.Cmd{}
	start := func(name string, cmd *exec.Cmd) {
		started[name] = cmd
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		for range 100 {
			if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", theirs[name])); err == nil {
				c.Close()
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("%s did not open its port", name)
	}
	start("ssh -L", exec.Command(ssh, "-F", sshd.Config, "-N", "-L", fmt.Sprintf("127.0.0.1:%d:%s", theirs["ssh -L"], far), "box"))
	if autossh, ok := peer.Find("autossh"); ok {
		theirs["autossh"] = remotetest.FreePort(t)
		cmd := exec.Command(autossh, "-M", "0", "-F", sshd.Config, "-N", "-L", fmt.Sprintf("127.0.0.1:%d:%s", theirs["autossh"], far), "box")
		start("autossh", cmd)
	}
	ports := map[string]int{"rlca": ours}
	names := []string{"rlca"}
	for n, p := range theirs {
		ports[n] = p
		names = append(names, n)
	}
	slices.Sort(names[1:])

	t.Run("idle", func(t *testing.T) {
		const watch = 20 * time.Second
		time.Sleep(2 * time.Second)
		pids := map[string][]int{"rlca": running(t, l.path)}
		for n, cmd := range started {
			pids[n] = append([]int{cmd.Process.Pid}, children(cmd.Process.Pid)...)
		}
		before := map[string]float64{}
		for n, p := range pids {
			before[n] = cpuTime(t, p)
		}
		time.Sleep(watch)
		rss, pss, cpu := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for n, p := range pids {
			rss[n] = []float64{kib(t, p, "Rss:") / 1024}
			pss[n] = []float64{kib(t, p, "Pss:") / 1024}
			cpu[n] = []float64{(cpuTime(t, p) - before[n]) / watch.Seconds() * 100}
		}
		table(t, "memory with one idle forward, resident", "MiB", names, rss)
		table(t, "the same, shared pages divided by who shares them", "MiB", names, pss)
		table(t, fmt.Sprintf("processor while idle for %s", watch), "% of one core", names, cpu)
	})
	t.Run("throughput", func(t *testing.T) {
		got := map[string][]float64{}
		for range runs {
			for _, n := range names {
				got[n] = append(got[n], download(t, ports[n], 256<<20))
			}
		}
		table(t, "forward, 256 MiB from the box", "MiB/s", names, got)
	})
	t.Run("round trip", func(t *testing.T) {
		got := map[string][]float64{}
		for range runs {
			for _, n := range names {
				got[n] = append(got[n], pingPong(t, ports[n], 500))
			}
		}
		table(t, "200 bytes there and back, median of 500", "ms", names, got)
	})
	// The HTTP face of the port, which is what a profile has if it says nothing, beside the raw forward and ssh.
	web := remotetest.FreePort(t)
	l.write("web", fmt.Sprintf("host = \"box\"\n[engine]\nname = \"none\"\naddress = %q\n[forward]\nlisten = \"127.0.0.1:%d\"\n", far, web))
	l.must("-F", sshd.Config, "connect", "web")
	t.Run("tokens", func(t *testing.T) {
		_, farPort, _ := net.SplitHostPort(far)
		direct, _ := strconv.Atoi(farPort)
		ways := map[string]int{"rlca, mode tcp": ours, "rlca, mode http": web, "ssh -L": theirs["ssh -L"], "no forward": direct}
		kinds := []string{"rlca, mode tcp", "rlca, mode http", "ssh -L", "no forward"}
		half, one, many, beat := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range runs {
			for _, n := range kinds {
				half[n] = append(half[n], percentile(tokens(t, ways[n], 1, 200, 5*time.Millisecond, false), 50))
				one[n] = append(one[n], percentile(tokens(t, ways[n], 1, 100, 20*time.Millisecond, false), 99))
				many[n] = append(many[n], percentile(tokens(t, ways[n], 64, 100, 20*time.Millisecond, false), 99))
				beat[n] = append(beat[n], percentile(tokens(t, ways[n], 64, 100, 20*time.Millisecond, true), 99))
			}
		}
		table(t, "a token under way, p50 of one stream", "ms", kinds, half)
		table(t, "a token under way, p99 of one stream of 50 tokens/s", "ms", kinds, one)
		table(t, "the same, 64 streams at once", "ms", kinds, many)
		table(t, "the same, 64 streams that tick at the same moments", "ms", kinds, beat)
	})
	t.Run("held", func(t *testing.T) {
		var got []float64
		for range runs {
			before := kib(t, running(t, l.path), "Rss:")
			sshd.Stop()
			var wg sync.WaitGroup
			body := strings.Repeat("x", 60<<10)
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
			for range 256 {
				wg.Go(func() {
					resp, err := c.Post(fmt.Sprintf("http://127.0.0.1:%d/echo", web), "application/json", strings.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if n, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != 200 || n != int64(len(body)) {
						t.Errorf("a held caller gets %d, %d bytes, %v", resp.StatusCode, n, err)
					}
				})
			}
			for held := 0; held < 256; time.Sleep(50 * time.Millisecond) {
				var st supervisor.Status
				out, _ := l.must("status", "web", "--json")
				if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Hosts) != 1 {
					t.Fatalf("status: %v: %s", err, out)
				}
				held = st.Hosts[0].Forward.Held
			}
			got = append(got, (kib(t, running(t, l.path), "Rss:")-before)/1024)
			sshd.Start()
			wg.Wait()
			time.Sleep(time.Second)
		}
		table(t, "memory of 256 held callers with 60 KiB each", "MiB", []string{"rlca, mode http"}, map[string][]float64{"rlca, mode http": got})
	})
	l.must("disconnect", "web")
	l.must("disconnect", "spark")

	t.Run("connect", func(t *testing.T) {
		got := map[string][]float64{}
		l.write("warm", fmt.Sprintf("host = \"box\"\n[engine]\naddress = %q\n[model]\nname = %q\ncontext = 4096\n[forward]\nlisten = \"127.0.0.1:%d\"\n", engine.Addr(), engine.Model(), ours))
		l.write("bare", fmt.Sprintf("host = \"box\"\n[engine]\nname = \"none\"\naddress = %q\n[forward]\nlisten = \"127.0.0.1:%d\"\n", far, ours))
		kinds := []string{"ssh HOST true", "rlca connect", "rlca connect, engine none"}
		for range runs {
			got[kinds[0]] = append(got[kinds[0]], timed(t, func() {
				if out, err := exec.Command(ssh, "-F", sshd.Config, "box", "true").CombinedOutput(); err != nil {
					t.Fatalf("ssh: %v: %s", err, out)
				}
			}))
			for n, profile := range []string{"warm", "bare"} {
				k := kinds[n+1]
				got[k] = append(got[k], timed(t, func() { l.must("-F", sshd.Config, "connect", profile) }))
				l.must("disconnect", profile)
			}
		}
		table(t, "from nothing to ready, engine and model warm", "ms", kinds, got)
	})
	t.Run("ask", func(t *testing.T) {
		got := map[string][]float64{}
		kinds := []string{"rlca fit, offline", "ssh HOST true", "rlca probe HOST"}
		for range runs {
			got[kinds[0]] = append(got[kinds[0]], timed(t, func() { l.must("fit", "--memory", "32GB", "--model", "qwen3-coder:30b", "--context", "64k", "--json") }))
			got[kinds[1]] = append(got[kinds[1]], timed(t, func() {
				if out, err := exec.Command(ssh, "-F", sshd.Config, "box", "true").CombinedOutput(); err != nil {
					t.Fatalf("ssh: %v: %s", err, out)
				}
			}))
			got[kinds[2]] = append(got[kinds[2]], timed(t, func() { l.must("-F", sshd.Config, "probe", "box") }))
		}
		table(t, "one answer, the process included", "ms", kinds, got)
	})
	t.Run("heal", func(t *testing.T) {
		l.must("-F", sshd.Config, "connect", "spark")
		var got []float64
		for range runs {
			time.Sleep(1200 * time.Millisecond)
			sshd.KillConnections()
			got = append(got, timed(t, func() { pingPong(t, ours, 1) }))
		}
		table(t, "next answer after the connection was killed", "ms", []string{"rlca"}, map[string][]float64{"rlca": got})
	})
}

// running are the processes of a program.
func running(t *testing.T, program string) (pids []int) {
	t.Helper()
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if path, err := os.Readlink(exe); err == nil && path == program {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(exe)))
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Skipf("no process of %s in /proc", program)
	}
	return pids
}

func children(pid int) (pids []int) {
	out, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(out)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// kib sums a line of smaps_rollup over processes.
func kib(t *testing.T, pids []int, line string) (sum float64) {
	t.Helper()
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			if f := strings.Fields(l); len(f) == 3 && f[0] == line {
				n, _ := strconv.ParseFloat(f[1], 64)
				sum += n
			}
		}
	}
	return sum
}

// cpuTime is how long processes have run, in seconds, from the scheduler's own count in nanoseconds.
func cpuTime(t *testing.T, pids []int) (sum float64) {
	t.Helper()
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if f := strings.Fields(string(text)); err == nil && len(f) > 0 {
				n, _ := strconv.ParseFloat(f[0], 64)
				sum += n / 1e9
			}
		}
	}
	return sum
}

// benchFar is a server on the box: it sends as many bytes as it is asked for, and echoes on "echo".
func benchFar(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	block := make([]byte, 1<<20)
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for n > 0 {
			k := min(n, len(block))
			if _, err := w.Write(block[:k]); err != nil {
				return
			}
			n -= k
		}
	})
	mux.HandleFunc("GET /tokens", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		n, _ := strconv.Atoi(q.Get("n"))
		ns, _ := strconv.ParseInt(q.Get("gap"), 10, 64)
		gap := time.Duration(ns)
		next := time.Now().Add(rand.N(gap))
		if q.Get("beat") != "" {
			next = time.Now().Truncate(gap).Add(5 * gap)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w)
		for range n {
			next = next.Add(gap)
			time.Sleep(time.Until(next))
			fmt.Fprintf(w, "data: {\"at\":%d,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n", time.Now().UnixNano())
			if flush.Flush() != nil {
				return
			}
		}
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	srv := &http.Server{Handler: mux}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

func download(t *testing.T, port, n int) float64 {
	start := time.Now()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/bytes?n=%d", port, n))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.Copy(io.Discard, resp.Body)
	if err != nil || got != int64(n) {
		t.Fatalf("%d of %d bytes, %v", got, n, err)
	}
	return float64(n) / (1 << 20) / time.Since(start).Seconds()
}

// tokens reads streams of n tokens each, and gives how long each token was under way, in ms. With beat all streams tick at the
// same moments.
func tokens(t *testing.T, port, streams, n int, gap time.Duration, beat bool) (all []float64) {
	t.Helper()
	url := fmt.Sprintf("http://127.0.0.1:%d/tokens?n=%d&gap=%d", port, n, gap)
	if beat {
		url += "&beat=1"
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	var mu sync.Mutex // guards all
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			resp, err := c.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			var mine []float64
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() {
				if _, rest, ok := strings.Cut(lines.Text(), `"at":`); ok {
					var at int64
					fmt.Sscan(rest[:strings.IndexByte(rest, ',')], &at)
					mine = append(mine, float64(time.Since(time.Unix(0, at)).Nanoseconds())/1e6)
				}
			}
			if len(mine) != n {
				t.Errorf("%d of %d tokens, %v", len(mine), n, lines.Err())
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	return all
}

func percentile(v []float64, percent int) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[(len(v)-1)*percent/100]
}

// pingPong gives the median round trip of 200 bytes on one connection, in ms.
func pingPong(t *testing.T, port, n int) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer c.CloseIdleConnections()
	var all []float64
	for range n {
		req, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://127.0.0.1:%d/echo", port), strings.NewReader(strings.Repeat("x", 200)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, timed(t, func() {
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}))
	}
	return median(all)
}

func timed(t *testing.T, f func()) float64 {
	t.Helper()
	start := time.Now()
	f()
	return float64(time.Since(start).Microseconds()) / 1000
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func table(t *testing.T, what, unit string, names []string, got map[string][]float64) {
	fmt.Printf("\n%s, %s, %d runs in turn\n", what, unit, len(got[names[0]]))
	base := median(got[names[0]])
	for _, n := range names {
		fmt.Printf("  %-28s median %9.2f   min %9.2f   max %9.2f   ratio to %s %.2f\n", n, median(got[n]), slices.Min(got[n]), slices.Max(got[n]), names[0], median(got[n])/base)
	}
}
