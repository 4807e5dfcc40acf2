package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// twoNodes are two network namespaces, each with an sshd and a home, joined by a network of their own besides the ones
// that lead here. Their processes see each other and share /dev/shm: vLLM on CPUs wants that of its parts.
type twoNodes struct {
	t     *testing.T
	names [2]string
	homes [2]string
	sshd  [2]*peer.SSHD
}

func newTwoNodes(t *testing.T, path string) *twoNodes {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces are root's")
	}
	n := &twoNodes{t: t}
	id := strconv.Itoa(os.Getpid() % 10000)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	for i, letter := range []string{"a", "b"} {
		n.names[i], n.homes[i] = "rlca-"+letter+id, t.TempDir()
		ip("netns", "add", n.names[i])
		t.Cleanup(func() { exec.Command("ip", "netns", "del", n.names[i]).Run() })
		ip("-n", n.names[i], "link", "set", "lo", "up")
		ip("link", "add", "rl"+letter+id, "type", "veth", "peer", "name", "eth0", "netns", n.names[i])
		t.Cleanup(func() { exec.Command("ip", "link", "del", "rl"+letter+id).Run() })
		ip("addr", "add", fmt.Sprintf("10.98.%d.1/24", i+1), "dev", "rl"+letter+id)
		ip("link", "set", "rl"+letter+id, "up")
		ip("-n", n.names[i], "addr", "add", fmt.Sprintf("10.98.%d.2/24", i+1), "dev", "eth0")
		ip("-n", n.names[i], "link", "set", "eth0", "up")
	}
	ip("link", "add", "cable-a", "netns", n.names[0], "type", "veth", "peer", "name", "cable-b", "netns", n.names[1])
	for i, letter := range []string{"a", "b"} {
		ip("-n", n.names[i], "addr", "add", fmt.Sprintf("10.99.7.%d/24", i+1), "dev", "cable-"+letter)
		ip("-n", n.names[i], "link", "set", "cable-"+letter, "up")
		place := peer.Place{Host: fmt.Sprintf("10.98.%d.2", i+1), Start: func(cmd *exec.Cmd) error {
			cmd.Args = append([]string{"ip", "netns", "exec", n.names[i]}, cmd.Args...)
			var err error
			if cmd.Path, err = exec.LookPath("ip"); err != nil {
				return err
			}
			return cmd.Start()
		}}
		n.sshd[i] = place.StartSSHD(t, "SetEnv HOME="+n.homes[i]+" PATH="+path+":/usr/sbin:/usr/bin:/sbin:/bin")
	}
	return n
}

// processes lists what runs in a node, but sshd and what it runs for a moment, with the names that they give themselves.
func (n *twoNodes) processes(i int) (list []string) {
	out, err := exec.Command("ip", "netns", "pids", n.names[i]).Output()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(out)) {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		words := strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")
		if strings.Contains(words, "ray") || strings.Contains(words, "vllm") || strings.Contains(words, "VLLM") {
			list = append(list, pid+" "+words)
		}
	}
	return list
}

// plugin lets vLLM's CPU build take part in a Ray cluster: it has no word for what Ray counts, so that it takes GPUs, which
// RAY_OVERRIDE_RESOURCES makes up.
func plugin(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"rlca_cpu_ray.py":                           "def register():\n    return 'rlca_cpu_ray_platform.Platform'\n",
		"rlca_cpu_ray_platform.py":                  "from vllm.platforms.cpu import CpuPlatform\n\n\nclass Platform(CpuPlatform):\n    ray_device_key = 'GPU'\n",
		"rlca_cpu_ray-0.dist-info/METADATA":         "Metadata-Version: 2.1\nName: rlca-cpu-ray\nVersion: 0\n",
		"rlca_cpu_ray-0.dist-info/entry_points.txt": "[vllm.platform_plugins]\nrlca_cpu_ray = rlca_cpu_ray:register\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Two boxes as one: a real head and a real worker of Ray in two network namespaces, a real vLLM over both, started from two
// profiles by one connect.
func TestRealRay(t *testing.T) {
	if os.Getenv("RLCA_TEST_VLLM") == "" {
		t.Skip("it takes minutes: make test-vllm")
	}
	venv := filepath.Join(peer.Dir(), "vllm")
	for _, f := range []string{"rlca-complete", "bin/ray"} {
		if _, err := os.Stat(filepath.Join(venv, f)); err != nil {
			t.Skip("vLLM or Ray is missing: .ci/peers-vllm install")
		}
	}
	n := newTwoNodes(t, filepath.Join(venv, "bin"))
	model := filepath.Join(t.TempDir(), "scripted")
	if err := remotetest.WriteCheckpoint(model); err != nil {
		t.Fatal(err)
	}
	l := newLaptop(t)
	port := remotetest.FreePort(t)
	profile := func(i int) string {
		return fmt.Sprintf("host = %q\nuser = %q\nport = %s\nidentity = [%q]\n", fmt.Sprintf("10.98.%d.2", i+1), n.sshd[i].User, n.sshd[i].Port, n.sshd[i].Key)
	}
	l.write("spark-2", profile(1))
	l.write("spark-1", profile(0)+fmt.Sprintf(`
[model]
name = %q
context = 4096
[engine]
name = "vllm"
args = ["--dtype=bfloat16", "--enforce-eager", "VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", 'RAY_OVERRIDE_RESOURCES={"GPU":1}', "PYTHONPATH=%s"]
[forward]
listen = "127.0.0.1:%d"
[cluster]
workers = ["spark-2"]
`, model, plugin(t), port))
	known := filepath.Join(l.dir, "known_hosts")
	var keys []byte
	for _, s := range n.sshd {
		text, err := os.ReadFile(s.KnownHosts)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, append(text, '\n')...)
	}
	config := filepath.Join(l.dir, "ssh_config")
	for name, text := range map[string]string{known: string(keys), config: "Host *\n  UserKnownHostsFile " + known + "\n  GlobalKnownHostsFile /dev/null\n  IdentityAgent none\n  IdentitiesOnly yes\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	// The plan shows every command, and runs none.
	out, _ := l.must("-F", config, "plan", "spark-1")
	for _, want := range []string{"spark-1 10.99.7.1 (cable-a), spark-2 10.99.7.2 (cable-b)", "spark-1: RAY_AUTH_MODE=token", "ray start --block", "spark-2: RAY_AUTH_MODE=token", "--address=10.99.7.1:6379",
		"--distributed-executor-backend ray", "--tensor-parallel-size 2", "on every address of each box"} {
		if !strings.Contains(out, want) {
			t.Errorf("plan lacks %q:\n%s", want, out)
		}
	}
	for i := range 2 {
		if left := n.processes(i); len(left) > 0 {
			t.Errorf("plan started %q", left)
		}
	}

	start := time.Now()
	cmd := exec.Command(l.path, "-F", config, "connect", "spark-1")
	cmd.Env, cmd.Dir = l.env, l.dir
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("connect after %s: %v\n%s", time.Since(start), err, said.String())
	}
	t.Logf("connect took %s:\n%s", time.Since(start), said.String())
	t.Cleanup(func() { l.rlca("-F", config, "disconnect", "spark-1", "--stop-engine") })

	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	complete := func(t *testing.T) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		start := time.Now()
		text, err := ask(ctx, url, "scripted", "hello")
		if err != nil || text != scriptedSays {
			t.Fatalf("chat = %q, %v", text, err)
		}
		t.Logf("an answer in %s", time.Since(start))
	}
	complete(t)
	worker := 0
	for i := range 2 {
		list := n.processes(i)
		at := slices.IndexFunc(list, func(s string) bool { return strings.Contains(s, "ray::RayWorkerProc") })
		if at < 0 {
			t.Fatalf("spark-%d has no part of vLLM: %q", i+1, list)
		}
		if i == 1 {
			worker, _ = strconv.Atoi(strings.Fields(list[at])[0])
		}
	}
	// The API is on the head's loopback and nowhere else.
	sockets, err := exec.Command("ip", "netns", "exec", n.names[0], "ss", "-ltnH").Output()
	if err != nil {
		t.Fatal(err)
	}
	var status struct {
		Hosts []struct {
			Engine struct {
				Address string `json:"address"`
			} `json:"engine"`
			LastError string `json:"last_error"`
		} `json:"hosts"`
	}
	read := func() {
		out, _ := l.must("status", "--json")
		if err := json.Unmarshal([]byte(out), &status); err != nil || len(status.Hosts) != 1 {
			t.Fatalf("status: %v\n%s", err, out)
		}
	}
	read()
	_, api, _ := strings.Cut(status.Hosts[0].Engine.Address, ":")
	for line := range strings.Lines(string(sockets)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[3], ":"+api) && f[3] != "127.0.0.1:"+api {
			t.Errorf("the API listens on %s", f[3])
		}
	}
	// Whoever has no token is turned away by Ray.
	stranger := exec.Command("ip", "netns", "exec", n.names[1], "env", "HOME="+n.homes[1], "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=guess", filepath.Join(venv, "bin", "ray"), "status", "--address", "10.99.7.1:6379")
	if out, err := stranger.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("InvalidAuthToken")) {
		t.Errorf("ray status with a wrong token: %v\n%s", err, out)
	}

	// A part that is killed is named, and the whole comes back.
	syscall.Kill(worker, syscall.SIGKILL)
	start = time.Now()
	for !strings.Contains(status.Hosts[0].LastError, "spark-2") {
		if time.Since(start) > time.Minute {
			t.Fatalf("nobody names spark-2: %q", status.Hosts[0].LastError)
		}
		time.Sleep(time.Second)
		read()
	}
	t.Logf("after %s: %s", time.Since(start), status.Hosts[0].LastError)
	for {
		if resp, err := http.Get(url + "/health"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Since(start) > 5*time.Minute {
			t.Fatal("it does not come back")
		}
		time.Sleep(2 * time.Second)
	}
	t.Logf("it is back after %s", time.Since(start))
	complete(t)

	start = time.Now()
	_, errs := l.must("-F", config, "disconnect", "spark-1", "--stop-engine")
	t.Logf("disconnect took %s:\n%s", time.Since(start), errs)
	for i := range 2 {
		if !strings.Contains(errs, fmt.Sprintf("stopped Ray on spark-%d", i+1)) {
			t.Errorf("disconnect does not say that Ray on spark-%d was stopped:\n%s", i+1, errs)
		}
		if left := n.processes(i); len(left) > 0 {
			t.Errorf("spark-%d still runs %q", i+1, left)
		}
		if files, _ := filepath.Glob(filepath.Join(n.homes[i], ".rlca", "*")); len(files) > 0 {
			t.Errorf("spark-%d still has %q", i+1, files)
		}
	}
}
