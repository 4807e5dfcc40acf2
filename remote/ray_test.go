//go:build unix

package remote

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rlca/remote/remotetest"
)

// fakeCluster are two boxes, spark-1 and spark-2, with the fakes of vLLM and Ray, the scripted model, a private network
// that they share and one that they do not.
type fakeCluster struct {
	dir   string
	boxes []*remotetest.Account
	port  int
	model string
	// before is asked before each script of a box.
	before func(box int, script string) error
}

func newFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("clusters are for Linux")
	}
	f := &fakeCluster{dir: t.TempDir(), port: remotetest.FreePort(t)}
	f.model = filepath.Join(f.dir, "model") // one place on all boxes
	if err := remotetest.WriteCheckpoint(f.model); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		env := t.TempDir()
		bin := filepath.Join(env, "bin")
		if err := os.Mkdir(bin, 0o700); err != nil {
			t.Fatal(err)
		}
		installSelf("vllm")(t, bin)
		installSelf("ray")(t, bin)
		writeProgram(t, filepath.Join(bin, "ip"), fmt.Sprintf("#!/bin/sh\necho '1: lo    inet 127.0.0.1/8 scope host lo'\necho '2: eth0    inet 192.168.%d.7/24 brd 192.168.1.255 scope global eth0'\n"+
			"echo '3: docker0    inet 172.17.0.%d/16 scope global docker0'\necho '4: fast%d    inet 10.99.7.%d/24 scope global fast%[2]d'\n", i, i+1, i+1, i+1))
		acc := remotetest.NewAccount(t, bin)
		acc.Env = []string{"FAKE_RAY=" + f.dir, fmt.Sprintf("FAKE_NODE=spark-%d", i+1)}
		f.boxes = append(f.boxes, acc)
		f.versions(t, i, "0.32.0", "2.60.0")
	}
	t.Cleanup(func() {
		if did, err := f.cluster(t).Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v, %v", did, err)
		}
		for _, b := range f.boxes {
			nothingLeft(t, b)
		}
	})
	return f
}

// bin is where the programs of a box are.
func (f *fakeCluster) bin(i int) string {
	bin, _, _ := strings.Cut(f.boxes[i].Path, ":")
	return bin
}

// versions says what is installed on a box. Empty is nothing.
func (f *fakeCluster) versions(t *testing.T, i int, vllm, ray string) {
	t.Helper()
	site := filepath.Join(filepath.Dir(f.bin(i)), "lib", "python3.11", "site-packages")
	os.RemoveAll(site)
	for name, v := range map[string]string{"vllm": vllm, "ray": ray} {
		if v == "" {
			os.Remove(filepath.Join(f.bin(i), name))
			continue
		}
		if err := os.MkdirAll(filepath.Join(site, name+"-"+v+".dist-info"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// cluster drives the boxes, as one laptop does.
func (f *fakeCluster) cluster(t *testing.T) *Cluster {
	var nodes []Node
	for i, acc := range f.boxes {
		run := func(ctx context.Context, script string) ([]byte, error) {
			if f.before != nil {
				if err := f.before(i, script); err != nil {
					return nil, err
				}
			}
			return acc.Run(ctx, script)
		}
		nodes = append(nodes, Node{Name: fmt.Sprintf("spark-%d", i+1), Box: Box{Run: run, Dial: acc.Dial, Log: testLog(t)}})
	}
	c := NewCluster(nodes, "")
	c.joins = 2 * time.Second
	for _, n := range c.nodes {
		n.places, n.port, n.poll = nil, f.port, 50*time.Millisecond
	}
	return c
}

func TestClusterStart(t *testing.T) {
	t.Parallel()
	f := newFakeCluster(t)
	c := f.cluster(t)
	plan := Plan{Model: f.model, Context: 8192, Tensor: 2}
	r, err := c.Ring(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	opens := strings.Join(r.Opens(), "\n")
	for _, want := range []string{"spark-1 10.99.7.1 (fast1), spark-2 10.99.7.2 (fast2)", "ports 6379 to 6387 and 6400 to 6499", "asks for a token", "without encryption"} {
		if !strings.Contains(opens, want) {
			t.Errorf("Opens lacks %q:\n%s", want, opens)
		}
	}
	planned := c.Commands(t.Context(), r, plan, "")
	if _, err := os.Stat(filepath.Join(f.dir, "calls")); err == nil {
		t.Fatal("a plan ran something")
	}

	var said []string
	s, err := c.Ensure(t.Context(), plan, func(p Progress) { said = append(said, p.Text) })
	if err != nil {
		t.Fatal(err)
	}
	if s.Adopted || !s.Fresh || s.Model.Context != 8192 || !strings.HasPrefix(s.Address, "127.0.0.1:") {
		t.Errorf("Ensure = %+v", s)
	}
	for _, want := range []string{"looking at spark-1, spark-2", "starting Ray on spark-1", "starting Ray on the other boxes", "waiting until the boxes see each other", "starting vLLM on " + s.Address} {
		if !slices.Contains(said, want) {
			t.Errorf("progress %q lacks %q", said, want)
		}
	}

	// The order: the head, a try with a wrong token, the worker, who is there, vLLM.
	calls := fakeCalls(t, f.dir)
	var order []string
	for _, call := range calls {
		order = append(order, call.Node+" "+call.Program+" "+call.Args[0]+" "+call.Env["RAY_AUTH_TOKEN"])
	}
	for len(order) > 5 && order[3] == order[4] { // asked more than once
		order = slices.Delete(order, 3, 4)
		calls = slices.Delete(calls, 3, 4)
	}
	if want := []string{"spark-1 ray start ", "spark-1 ray status none", "spark-2 ray start ", "spark-1 ray status ", "spark-1 vllm serve "}; !slices.Equal(order, want) {
		t.Fatalf("ran %q, want %q", order, want)
	}
	head, worker, serve := calls[0], calls[2], calls[4]
	token, err := os.ReadFile(filepath.Join(f.boxes[0].Home, ".rlca", "ray.token"))
	if err != nil || len(token) < 32 {
		t.Fatalf("token %q, %v", token, err)
	}
	for i, acc := range f.boxes {
		info, err := os.Stat(filepath.Join(acc.Home, ".rlca", "ray.token"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("token on box %d: %v, %v", i+1, info, err)
		}
	}
	for _, call := range calls {
		all := fmt.Sprint(call.Args, call.Env)
		if strings.Contains(all, strings.TrimSpace(string(token))) {
			t.Errorf("the token is in the arguments or the environment of %s on %s", call.Program, call.Node)
		}
	}
	for _, c := range []struct {
		call fakeCall
		args []string
		env  map[string]string
	}{
		{head, []string{"--head", "--block", "--node-ip-address=10.99.7.1", "--port=6379", "--node-manager-port=6380", "--object-manager-port=6381", "--ray-client-server-port=6382",
			"--min-worker-port=6400", "--max-worker-port=6499", "--include-dashboard=false", "--disable-usage-stats"},
			map[string]string{"VLLM_HOST_IP": "10.99.7.1", "GLOO_SOCKET_IFNAME": "fast1", "NCCL_SOCKET_IFNAME": "=fast1,fast2", "RAY_AUTH_MODE": "token", "AUTOSCALER_METRIC_PORT": "6387"}},
		{worker, []string{"--address=10.99.7.1:6379", "--block", "--node-ip-address=10.99.7.2"},
			map[string]string{"VLLM_HOST_IP": "10.99.7.2", "GLOO_SOCKET_IFNAME": "fast2", "NCCL_SOCKET_IFNAME": "=fast1,fast2", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}},
		{serve, []string{"serve", f.model, "--host", "127.0.0.1", "--tensor-parallel-size", "2", "--distributed-executor-backend", "ray"},
			map[string]string{"VLLM_HOST_IP": "10.99.7.1", "GLOO_SOCKET_IFNAME": "fast1", "RAY_ADDRESS": "10.99.7.1:6379", "RAY_AUTH_MODE": "token"}},
	} {
		for _, a := range c.args {
			if !slices.Contains(c.call.Args, a) {
				t.Errorf("%s on %s has %q, lacks %q", c.call.Program, c.call.Node, c.call.Args, a)
			}
		}
		for name, want := range c.env {
			if got := c.call.Env[name]; got != want {
				t.Errorf("%s on %s has %s=%q, want %q", c.call.Program, c.call.Node, name, got, want)
			}
		}
	}
	// What was planned is what was run.
	for i, call := range []fakeCall{head, worker, serve} {
		shown := planned[i]
		for _, a := range call.Args {
			if strings.HasPrefix(a, "--temp-dir=") || strings.HasPrefix(a, "[") {
				continue // the folder is drawn by lot; a list is quoted
			}
			if !strings.Contains(shown, a) {
				t.Errorf("planned %q, and ran %q", shown, a)
			}
		}
	}
	room := ""
	for _, a := range head.Args {
		if v, ok := strings.CutPrefix(a, "--temp-dir="); ok {
			room = filepath.Dir(v)
		}
	}
	if info, err := os.Stat(room); err != nil || info.Mode().Perm() != 0o700 || !strings.HasPrefix(room, "/tmp/rlca") {
		t.Errorf("Ray's folder %s: %v, %v", room, info, err)
	}

	// Another laptop finds it whole and starts nothing.
	other := f.cluster(t)
	again, err := other.Ensure(t.Context(), plan, nil)
	if err != nil || again.Fresh || again.Adopted || again.PID != s.PID {
		t.Errorf("Ensure from elsewhere = %+v, %v", again, err)
	}
	if n := len(fakeCalls(t, f.dir)); n > len(calls)+8 { // ray status may have been asked more than once
		t.Errorf("Ensure from elsewhere ran something: %d calls, %d before", n, len(calls))
	}
	if down := other.Down(t.Context()); down != nil {
		t.Errorf("Down of a whole cluster = %v", down)
	}
	// A part that ends is named.
	pid := record1(t, f.boxes[1], "ray")
	syscall.Kill(pid, syscall.SIGKILL)
	waitGone(t, pid)
	var down *ClusterError
	if err := other.Down(t.Context()); !errors.As(err, &down) || down.Node != "spark-2" || !strings.Contains(down.Error(), "its Ray has ended") {
		t.Errorf("Down = %v", err)
	}
	did, err := c.Stop(t.Context())
	if err != nil || len(did) != 2 || !strings.HasPrefix(did[0], "stopped vLLM on "+s.Address) || did[1] != "stopped Ray on spark-1" {
		t.Errorf("Stop = %q, %v", did, err)
	}
	if _, err := os.Stat(room); err == nil {
		t.Errorf("%s is left", room)
	}
}

// record1 is the process of a record on a box.
func record1(t *testing.T, acc *remotetest.Account, name string) (pid int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(acc.Home, ".rlca", name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Fatalf("process %d does not end", pid)
}

// Two laptops at once: each box has one Ray, and there is one vLLM.
func TestClusterTwice(t *testing.T) {
	t.Parallel()
	f := newFakeCluster(t)
	plan := Plan{Model: f.model, Tensor: 2}
	var servers [2]*Server
	var errs [2]error
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() { servers[i], errs[i] = f.cluster(t).Ensure(t.Context(), plan, nil) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if servers[0].PID != servers[1].PID || servers[0].Fresh == servers[1].Fresh || servers[0].Adopted || servers[1].Adopted {
		t.Errorf("two servers: %+v, %+v", servers[0], servers[1])
	}
	starts := map[string]int{}
	for _, c := range fakeCalls(t, f.dir) {
		starts[c.Node+" "+c.Program+" "+c.Args[0]]++
	}
	if starts["spark-1 ray start"] != 1 || starts["spark-2 ray start"] != 1 || starts["spark-1 vllm serve"] != 1 {
		t.Errorf("starts: %v", starts)
	}
}

// A worker that is gone is started again, with the head left as it is; vLLM is started anew.
func TestClusterHeals(t *testing.T) {
	t.Parallel()
	f := newFakeCluster(t)
	c := f.cluster(t)
	plan := Plan{Model: f.model, Tensor: 2}
	s, err := c.Ensure(t.Context(), plan, nil)
	if err != nil {
		t.Fatal(err)
	}
	head, worker := record1(t, f.boxes[0], "ray"), record1(t, f.boxes[1], "ray")
	syscall.Kill(worker, syscall.SIGKILL)
	waitGone(t, worker)
	again, err := c.Ensure(t.Context(), plan, nil)
	if err != nil || !again.Fresh || again.PID == s.PID {
		t.Fatalf("Ensure = %+v, %v", again, err)
	}
	if record1(t, f.boxes[0], "ray") != head || record1(t, f.boxes[1], "ray") == worker {
		t.Error("the head was started anew, or the worker was not")
	}
	if did := c.Undo(t.Context(), again); len(did) != 3 || did[1] != "stopped Ray on spark-2" || did[2] != "stopped Ray on spark-1" {
		t.Errorf("Undo = %q", did)
	}
	for _, b := range f.boxes {
		nothingLeft(t, b)
	}
}

func TestClusterFails(t *testing.T) {
	t.Parallel()
	const late = "ray.exceptions.RpcError: Timed out while waiting for GCS to become available."
	for name, c := range map[string]struct {
		ill  func(t *testing.T, f *fakeCluster)
		want []string
	}{
		"other vLLM": {func(t *testing.T, f *fakeCluster) { f.versions(t, 1, "0.31.0", "2.60.0") }, []string{"spark-2, one of the boxes", "it has vLLM 0.31.0, and spark-1 has 0.32.0"}},
		"other Ray":  {func(t *testing.T, f *fakeCluster) { f.versions(t, 1, "0.32.0", "2.59.1") }, []string{"spark-2", "it has Ray 2.59.1, and spark-1 has 2.60.0"}},
		"old Ray": {func(t *testing.T, f *fakeCluster) {
			f.versions(t, 0, "0.32.0", "2.51.9")
			f.versions(t, 1, "0.32.0", "2.51.9")
		},
			[]string{"spark-1", "cannot ask for a token, which came with 2.52.0"}},
		"no Ray":  {func(t *testing.T, f *fakeCluster) { f.versions(t, 1, "0.32.0", "") }, []string{"spark-2", "there is no Ray beside its vLLM"}},
		"no vLLM": {func(t *testing.T, f *fakeCluster) { f.versions(t, 1, "", "2.60.0") }, []string{"spark-2", "there is no vLLM on it"}},
		"no network": {func(t *testing.T, f *fakeCluster) {
			writeProgram(t, filepath.Join(f.bin(1), "ip"), "#!/bin/sh\necho '2: eth0    inet 192.168.9.7/24 scope global eth0'\n")
		}, []string{"shares no private network", "spark-2 has eth0 192.168.9.7/24"}},
		"no model": {func(t *testing.T, f *fakeCluster) { f.model = "org/model"; f.lend(t, 0) }, []string{"spark-2: model org/model is not on the box"}},
		"model elsewhere": {func(t *testing.T, f *fakeCluster) {
			f.model = "~/model"
			for _, b := range f.boxes {
				if err := remotetest.WriteCheckpoint(filepath.Join(b.Home, "model")); err != nil {
					t.Fatal(err)
				}
			}
		}, []string{"spark-2", "vLLM looks for it at one place on all boxes"}},
		"head dies":      {sick(0, "dies OSError: [Errno 28] No space left on device"), []string{"spark-1", "its disk is full"}},
		"worker dies":    {sick(1, "dies RuntimeError: something new"), []string{"spark-2", "Ray ended at once: ", "something new"}},
		"worker is shut": {sick(1, "dies "+late), []string{"spark-2", "it does not reach the head"}},
		"open to all":    {sick(0, "open"), []string{"spark-1", "let somebody in who had the wrong token, so it was ended again"}},
		"never joins":    {sick(1, "apart"), []string{"spark-1", "Ray there sees 1 of 2 boxes"}},
		"vLLM fails": {func(t *testing.T, f *fakeCluster) {
			fall(t, f.boxes[0], "fails")
			write(t, filepath.Join(f.boxes[0].Home, "text"), "ValueError: current platform cpu does not support ray.\n")
		}, []string{"start vLLM on", "the boxes do not work as one"}},
		"a part of vLLM ends": {func(t *testing.T, f *fakeCluster) {
			fall(t, f.boxes[0], "fails")
			write(t, filepath.Join(f.boxes[0].Home, "text"), "\x1b[33m(raylet)\x1b[0m A worker died or was killed while executing a task by an unexpected system error. Lease ID: 02 Worker IP address: 10.99.7.2 Worker port: 6402 Worker PID: 401\n"+
				"(EngineCore pid=28422) ERROR 11-26 03:41:09 [ray_executor_v2.py:522] RayWorkerProc rank=[1] died unexpectedly, shutting down executor.\n")
		}, []string{"spark-2", "the part of vLLM that worked there has ended"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeCluster(t)
			c.ill(t, f)
			s, err := f.cluster(t).Ensure(t.Context(), Plan{Model: f.model, Tensor: 2}, nil)
			if err == nil {
				t.Fatalf("Ensure = %+v", s)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Ensure = %v, lacks %q", err, want)
				}
			}
			for _, b := range f.boxes {
				nothingLeft(t, b)
			}
		})
	}
}

// sick makes the fake Ray of a box ill.
func sick(box int, how string) func(t *testing.T, f *fakeCluster) {
	return func(t *testing.T, f *fakeCluster) { write(t, filepath.Join(f.boxes[box].Home, "fake-ray"), how) }
}

// lend puts the model as a repository into the cache of one box.
func (f *fakeCluster) lend(t *testing.T, box int) {
	t.Helper()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	repo := filepath.Join(f.boxes[box].Home, ".cache/huggingface/hub/models--org--model")
	if err := remotetest.WriteCheckpoint(filepath.Join(repo, "snapshots", commit)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(repo, "refs", "main"), commit)
}

// A box that is lost for a moment, at whichever script, ends the start, is named or does no harm, and leaves nothing.
func TestClusterCut(t *testing.T) {
	if testing.Short() {
		t.Skip("as many starts as a start has scripts")
	}
	t.Parallel()
	for box := range 2 {
		t.Run(fmt.Sprintf("box %d", box+1), func(t *testing.T) {
			t.Parallel()
			cut, asked := clusterCut(t, box, math.MaxInt32)
			if cut || asked < 5 {
				t.Errorf("it was asked %d times only", asked)
			}
			for at := 1; at <= asked; at++ {
				t.Run(fmt.Sprintf("script %d", at), func(t *testing.T) {
					t.Parallel()
					for n, cut := at, true; cut; n++ {
						if cut, _ = clusterCut(t, box, n); n < asked {
							return // the last one goes on: a start may take more scripts than the first did
						}
					}
				})
			}
		})
	}
}

// clusterCut starts a cluster, with a box cut off at one of its scripts, and reports whether it came to that. asked is how
// often the box was asked.
func clusterCut(t *testing.T, box, at int) (cut bool, asked int) {
	t.Helper()
	lost := errors.New("the box is gone")
	f := newFakeCluster(t)
	var n atomic.Int32
	f.before = func(b int, _ string) error {
		if b == box && int(n.Add(1)) == at {
			return lost
		}
		return nil
	}
	c := f.cluster(t)
	s, err := c.Ensure(t.Context(), Plan{Model: f.model, Tensor: 2}, nil)
	f.before = nil
	asked = int(n.Load())
	if asked < at { // it came up with fewer
		if err != nil {
			t.Errorf("box %d, never cut: %v", box+1, err)
		}
		return false, asked
	}
	if err != nil {
		if !errors.Is(err, lost) {
			t.Errorf("box %d cut at script %d: %v", box+1, at, err)
		}
		for _, b := range f.boxes {
			nothingLeft(t, b)
		}
	} else if s == nil {
		t.Errorf("box %d cut at script %d: neither a server nor an error", box+1, at)
	}
	if _, err := c.Stop(t.Context()); err != nil {
		t.Errorf("box %d cut at script %d: Stop = %v", box+1, at, err)
	}
	return true, asked
}

func TestRingMeets(t *testing.T) {
	link := func(name, prefix string, mbits int, rdma bool) netLink {
		return netLink{name: name, prefix: netip.MustParsePrefix(prefix), mbits: mbits, rdma: rdma}
	}
	for name, c := range map[string]struct {
		wish          string
		head, other   []netLink
		want, wantErr string
	}{
		"the fastest": {"", []netLink{link("eth0", "192.168.1.7/24", 1000, false), link("enp1", "10.0.0.1/30", 200000, false)},
			[]netLink{link("eth0", "192.168.1.8/24", 1000, false), link("enp2", "10.0.0.2/30", 200000, false)}, "enp1 10.0.0.1, enp2 10.0.0.2", ""},
		"the one with memory": {"", []netLink{link("eth0", "192.168.1.7/24", 10000, false), link("enp1", "169.254.3.1/16", 0, true)},
			[]netLink{link("eth0", "192.168.1.8/24", 10000, false), link("enp1", "169.254.3.2/16", 0, true)}, "enp1 169.254.3.1, enp1 169.254.3.2", ""},
		"the wished one": {"192.168.1.7", []netLink{link("eth0", "192.168.1.7/24", 1000, false), link("enp1", "10.0.0.1/30", 200000, false)},
			[]netLink{link("eth0", "192.168.1.8/24", 1000, false), link("enp2", "10.0.0.2/30", 200000, false)}, "eth0 192.168.1.7, eth0 192.168.1.8", ""},
		"a public one": {"", []netLink{link("eth0", "203.0.113.7/24", 1000, false)}, []netLink{link("eth0", "203.0.113.8/24", 1000, false)}, "", "shares no private network"},
		"containers":   {"", []netLink{link("docker0", "172.17.0.1/16", 10000, false)}, []netLink{link("docker0", "172.17.0.2/16", 10000, false)}, "", "shares no private network"},
		"one address":  {"", []netLink{link("br0", "10.0.0.1/24", 10000, false)}, []netLink{link("br0", "10.0.0.1/24", 10000, false)}, "", "shares no private network"},
		"a wish that is nowhere": {"10.1.1.1", []netLink{link("eth0", "192.168.1.7/24", 1000, false)}, []netLink{link("eth0", "192.168.1.8/24", 1000, false)}, "",
			"the others have no address on the network of 10.1.1.1"},
	} {
		r := &Ring{seats: []*seat{{node: &node{name: "a"}, links: c.head}, {node: &node{name: "b"}, links: c.other}}}
		err := r.meet(c.wish)
		if c.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%s: %v, want %q", name, err, c.wantErr)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := fmt.Sprintf("%s %s, %s %s", r.seats[0].iface, r.seats[0].addr, r.seats[1].iface, r.seats[1].addr); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestRingPorts(t *testing.T) {
	busy := func(ports ...uint16) *seat {
		s := &seat{node: &node{name: "x"}, f: &facts{}}
		for _, p := range ports {
			s.f.listeners = append(s.f.listeners, listener{addr: netip.MustParseAddr("0.0.0.0"), port: p})
		}
		return s
	}
	for want, seats := range map[int][]*seat{
		6379: {busy(22, 8000), busy(6378)},
		6579: {busy(6379), busy()},
		6979: {busy(6499, 6800), busy(6580)},
	} {
		r := &Ring{seats: seats}
		if err := r.ports(); err != nil || r.base != want {
			t.Errorf("ports = %d, %v, want %d", r.base, err, want)
		}
	}
}
