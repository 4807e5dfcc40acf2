package probe

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestContainers(t *testing.T) {
	for line, want := range map[string]string{
		"ollama/ollama:0.12.1 0.0.0.0:11434->11434/tcp, [::]:11434->11434/tcp":                                      "ollama 0.0.0.0:11434 0.12.1",
		"ollama/ollama 127.0.0.1:3000->11434/tcp":                                                                   "ollama 127.0.0.1:3000 ",
		"docker.io/ollama/ollama:latest :::11434->11434/tcp":                                                        "ollama :::11434 ",
		"f3cd  registry.example:5000/ollama/ollama:rocm  ollama serve  2 days ago  Up  0.0.0.0:11434->11434/tcp  a": "ollama 0.0.0.0:11434 ",
		"vllm/vllm-openai@sha256:0011 0.0.0.0:9000->9000/tcp, 0.0.0.0:8001->8000/tcp":                               "vllm 0.0.0.0:8001 ",
		"vllm/vllm-openai:v0.11.0 ":                                                                                 "vllm :0 0.11.0",
		"ghcr.io/ggml-org/llama.cpp:server-cuda 0.0.0.0:8080-8082->8080-8082/tcp":                                   "llama-server 0.0.0.0:8080 ",
		"ollama/ollama:latest 127.0.0.1:11434->11434/tcp, 10.0.0.2:11434->11434/tcp":                                "ollama 10.0.0.2:11434 ",
		"ollama/ollama:latest 0.0.0.0:99999->11434/tcp":                                                             "ollama :0 ",
		"open-webui/open-webui:ollama 0.0.0.0:3000->8080/tcp":                                                       "",
		"ollama 0.0.0.0:11434->11434/tcp":                                                                           "",
		"permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock":      "",
		"": "",
	} {
		got := ""
		if c := containers(line); len(c) > 0 {
			got = fmt.Sprintf("%s %s:%d %s", c[0].engine, c[0].host, c[0].port, c[0].version)
		}
		if got != want {
			t.Errorf("containers(%q) = %q, want %q", line, got, want)
		}
	}
}

// A container that runs makes its engine run; what runs beside it on the host comes first.
func TestContainerEngines(t *testing.T) {
	const ps = "ollama/ollama:0.12.1 0.0.0.0:11434->11434/tcp"
	for name, c := range map[string]struct{ procs, listen, docker, want string }{
		"a proxy":               {"", "LISTEN 0 9 0.0.0.0:11434 0.0.0.0:* users:((\"docker-proxy\",pid=5,fd=3))", ps, "true 0.0.0.0:11434 in a container 0.12.1"},
		"a hidden proxy":        {"", "LISTEN 0 9 0.0.0.0:11434 0.0.0.0:*", ps, "true 0.0.0.0:11434 in a container 0.12.1"},
		"no proxy":              {"", "LISTEN 0 9 0.0.0.0:22 0.0.0.0:*", ps, "true 0.0.0.0:11434 in a container 0.12.1"},
		"its process":           {"proc 7 1 ollama serve 0::/system.slice/docker-00ff.scope", "LISTEN 0 9 0.0.0.0:22 0.0.0.0:*", ps, "true 0.0.0.0:11434 in a container 0.12.1"},
		"podman's port":         {"", "LISTEN 0 9 *:11434 *:* users:((\"pasta.avx2\",pid=5,fd=3))\nLISTEN 0 9 *:22 *:*", "docker.io/" + ps, "true *:11434 in a container 0.12.1"},
		"the host's own":        {"proc 7 1 ollama serve 0::/system.slice/ollama.service", "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:* users:((\"ollama\",pid=7,fd=3))", strings.Replace(ps, ":11434->", ":3000->", 1), "true 127.0.0.1:11434 system service null"},
		"the docker group only": {"", "LISTEN 0 9 0.0.0.0:11434 0.0.0.0:* users:((\"docker-proxy\",pid=5,fd=3))", "permission denied while trying to connect", "null 0.0.0.0:11434 in a container null"},
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "procs", "self 0::/user.slice\n"+c.procs, "listen", c.listen, "docker", c.docker)
		e := r.Engine("ollama")
		if e == nil {
			t.Errorf("%s: no engine", name)
			continue
		}
		running := "null"
		if e.Running != nil {
			running = fmt.Sprint(*e.Running)
		}
		if got := fmt.Sprintf("%s %s %s %s", running, str(e.Address), e.How, str(e.Version)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Rows of tools that leave something out.
func TestListenerRows(t *testing.T) {
	for line, want := range map[string]string{
		"tcp   0  0 0.0.0.0:8000   0.0.0.0:*":                                       "0.0.0.0:8000  true",
		"tcp   0  0 127.0.0.1:8000 0.0.0.0:*   812/python3":                         "127.0.0.1:8000 python3 false",
		"tcp6  0  0 :::8000        :::*        -":                                   ":::8000  true",
		"tcp   0  0 10.0.0.2:8000  10.0.0.9:5000":                                   "",
		"tcp   0  0 10.0.0.2:8000  10.0.0.9:5000  ESTABLISHED 812/python3":          "",
		"tcp   0  0 0.0.0.0:8000   0.0.0.0:*   CLOSE":                               "",
		"tcp   0  0 0.0.0.0:22     0.0.0.0:*   LISTEN 447/sshd: /usr/sbin":          "0.0.0.0:22 sshd true",
		"tcp   0  0 0.0.0.0:80     0.0.0.0:*   LISTEN 5/nginx: master process":      "0.0.0.0:80 nginx true",
		"udp   0  0 0.0.0.0:8000   0.0.0.0:*   442/avahi-daemon: r":                 "",
		"tcp   LISTEN 0 128 [::1]:8000 [::]:* users:((\"sshd\",pid=3,fd=9))":        "::1:8000 sshd false",
		"LISTEN 0 128 [::ffff:127.0.0.1]:8000 *:*":                                  "::ffff:127.0.0.1:8000  false",
		"LISTEN 0 128 [fe80::1%eth0]:8000 [::]:*":                                   "fe80::1:8000  true",
		"LISTEN 0 128 100.64.0.7:8000 0.0.0.0:*":                                    "100.64.0.7:8000  true",
		"unix  2 [ ACC ] STREAM LISTENING 13851 1/systemd /run/a:80":                "",
		"  TCP    [::1]:1234   [::]:0   ESCUCHANDO   77":                            "::1:1234  false",
		"  TCP    127.0.0.1:1234   0.0.0.0:0":                                       "127.0.0.1:1234  false",
		"  UDP    0.0.0.0:1234   *:*   77":                                          "",
		"tcp46      0      0  *.8000                 *.*                    LISTEN": "*:8000  true",
		"tcp4       0      0  *.8000                 *.*                    CLOSED": "",
		"ollama  537 me 4u IPv6 0xf3ef 0t0 TCP *:11434 (LISTEN)":                    "",
		"LISTEN": "",
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "listen", line)
		if got := rowOf(r); got != want {
			t.Errorf("listen %q: %q, want %q", line, got, want)
		}
	}
	for line, want := range map[string]string{
		"ollama  537 me 4u IPv6 0xf3ef 0t0 TCP *:11434 (LISTEN)":                   "*:11434 ollama true",
		"node\\x20x 5 me 4u IPv4 0xf3ef 0t0 TCP 127.0.0.1:3000 (LISTEN)":           "127.0.0.1:3000 node x false",
		"podman 12 me 4u IPv6 0xf3ef 0t0 TCP [::1]:8080 (LISTEN)":                  "::1:8080 podman false",
		"curl 12 me 4u IPv4 0xf3ef 0t0 TCP 127.0.0.1:1->127.0.0.1:2 (ESTABLISHED)": "",
		"COMMAND PID USER FD TYPE DEVICE SIZE/OFF NODE NAME":                       "",
		"(LISTEN)": "",
	} {
		r := parse(t, "uname", "Darwin 24.0 arm64", "lsof", line)
		if got := rowOf(r); got != want {
			t.Errorf("lsof %q: %q, want %q", line, got, want)
		}
	}
}

func rowOf(r *Report) string {
	if len(r.Listeners) == 0 {
		return ""
	}
	l, process := r.Listeners[0], ""
	if l.Process != nil {
		process = *l.Process
	}
	return fmt.Sprintf("%s:%d %s %v", l.Address, l.Port, process, l.Exposed)
}

func TestFree(t *testing.T) {
	const procps = "               total        used        free      shared  buff/cache   available\nMem:        16000000     4000000     1000000       10000    11000000    11500000\nSwap:        2000000      500000     1500000"
	for text, want := range map[string][4]int64{ // total, available, swap and what of it is used, in KiB
		procps: {16000000, 11500000, 2000000, 500000},
		"total used free shared buff/cache available\nMem: 7.5Gi 2Gi 512Mi 0B 5Gi 5.25Gi\nSwap: 0B 0B 0B":                                                                                                {7864320, 5505024, 0, 0},
		"             total       used       free     shared    buffers     cached\nMem:       1000000     900000     100000          0      20000     300000\n-/+ buffers/cache:     580000     420000": {1000000, 420000, -1, -1},
		"total used free\nMem: 99999999999999999 x y": {-1, -1, -1, -1},
		"Mem: 5 5 5": {-1, -1, -1, -1},
		"total used free\nMem: -5 NaN Inf\nMem: 9Ei 1Zi 1e300": {-1, -1, -1, -1},
		"free: not found": {-1, -1, -1, -1},
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo/1", "cat: /proc/meminfo: Input/output error", "free", text)
		m := r.Memory
		got := [4]int64{}
		for i, p := range []*int64{m.TotalBytes, m.AvailableBytes, m.SwapTotalBytes, m.SwapUsedBytes} {
			if got[i] = -1; p != nil {
				got[i] = *p / 1024
			}
		}
		if got != want {
			t.Errorf("free %q: %d, want %d", text, got, want)
		}
	}
	// Where both are there the kernel's own counts.
	if r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", "MemTotal: 1048576 kB", "free", procps); bytesOf(r.Memory.TotalBytes) != giB || r.Memory.AvailableBytes != nil {
		t.Errorf("both: %+v", r.Memory)
	}
}

func TestDisks(t *testing.T) {
	for text, want := range map[string][]string{
		"path /\n/dev/sda1 100 40 60 40% /": {"/ 60"},
		"path /\nFilesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 100 40 60 40% /": {"/ 60"},
		"path /home\n/dev/mapper/a-long-name-of-a-volume\n  100 40 60 40% /home":                       {"/home 60"},
		"path /a b\n//me@nas/my share 100 40 60 40% /a b\npath /c\nnone 0 0 0 - /c":                    {"/a b 60", "/c 0"},
		"path /\ndf: /: Permission denied\npath /b\n/dev/b ext4 100 40 70 40% /b 100%":                 {"/ null", "/b 70"},
		"path /\n/dev/disk1 200 80 120 40% 1507695 9223372036854775807 0% /":                           {"/ 120"},
		"path /":                    {"/ null"},
		"/dev/sda1 100 40 60 40% /": nil,
	} {
		r := &Report{}
		r.disks(text)
		var got []string
		for _, d := range r.Disk {
			free := "null"
			if d.FreeBytes != nil {
				free = fmt.Sprint(*d.FreeBytes / 1024)
			}
			got = append(got, d.Path+" "+free)
		}
		if !slices.Equal(got, want) {
			t.Errorf("disks(%q) = %q, want %q", text, got, want)
		}
	}
}

// The GPU's memory nodes of a superchip are no memory of the host; a box with another GPU has such nodes for memory of
// its own, and a control group's limit stands.
func TestGPUNodes(t *testing.T) {
	const mem = "MemTotal: 104857600 kB\nMemAvailable: 94371840 kB\nMemFree: 94371840 kB" // 100 and 90 GiB
	row := "0, GPU-a, 40960, 1, 40000, 580.1, 9.0, Disabled, ATS, "
	for name, c := range map[string]struct {
		gpu, cpu, cgroup string
		total, avail     int64
	}{
		"superchip":         {"NVIDIA GH200 480GB", "node 40000000 41943040\nnode 0 0", "", 60, 52},
		"GPU memory in use": {"NVIDIA GB200", "node 1048576 41943040", "", 60, 60},
		"another GPU":       {"NVIDIA L40S", "node 40000000 41943040", "", 100, 90},
		"nonsense":          {"NVIDIA GH200 480GB", "node 5 4\nnode x y\nnode 999999999 999999999\nnode -1 5", "", 100, 90},
		"a limit":           {"NVIDIA GH200 480GB", "node 40000000 41943040", "memory.max 34359738368 0 0 /a", 32, 32},
	} {
		r := parse(t, "uname", "Linux 6.8 aarch64", "meminfo", mem, "cpu", c.cpu, "cgroup", c.cgroup, "fields", fields, "nv_csv", row+c.gpu)
		p := r.Pools[len(r.Pools)-1]
		if total, avail := bytesOf(p.TotalBytes)/giB, (bytesOf(p.FreeBytes)+giB/2)/giB; p.Kind != HostPool || total != c.total || avail != c.avail {
			t.Errorf("%s: %+v: %d and %d GiB, want %d and %d", name, p, total, avail, c.total, c.avail)
		}
	}
}

// The script's own walk through control groups and memory nodes, in trees as containers and slices have them.
func TestScriptTrees(t *testing.T) {
	needShell(t)
	if _, err := os.Stat("/proc/meminfo"); err != nil {
		t.Skip("no /proc here")
	}
	const limit = "268435456" // 256 MiB: less than any machine has
	for name, c := range map[string]struct {
		group string
		files map[string]string
		want  [2]int64 // limit and what is free of it, in MiB
	}{
		"v2, a slice above": {"0::/user.slice/user-1000.slice/session-3.scope", map[string]string{
			"cg/user.slice/user-1000.slice/session-3.scope/memory.max": "max", "cg/user.slice/user-1000.slice/memory.max": limit, "cg/user.slice/memory.max": "max",
			"cg/user.slice/user-1000.slice/memory.current": "134217728", "cg/user.slice/user-1000.slice/memory.stat": "anon 5\ninactive_file 67108864\nactive_file 7"}, [2]int64{256, 192}},
		"v2, a container":                 {"0::/", map[string]string{"cg/memory.max": limit, "cg/memory.current": "67108864"}, [2]int64{256, 192}},
		"v2, a group that cannot be seen": {"0::/../../docker/00ff", map[string]string{"cg/memory.max": limit}, [2]int64{256, 256}},
		"v1, a container": {"11:cpu,cpuacct:/docker/00ff\n5:memory:/docker/00ff\n0::/x", map[string]string{"cg/memory/memory.limit_in_bytes": limit, "cg/memory/memory.usage_in_bytes": "134217728",
			"cg/memory/memory.stat": "inactive_file 4096\ntotal_inactive_file 33554432"}, [2]int64{256, 160}},
		"v1, a slice above": {"4:hugetlb,memory:/user.slice/user-1.slice", map[string]string{"cg/memory/user.slice/memory.limit_in_bytes": limit, "cg/memory/user.slice/memory.usage_in_bytes": "0",
			"cg/memory/user.slice/user-1.slice/memory.limit_in_bytes": "9223372036854771712", "cg/memory/memory.limit_in_bytes": "9223372036854771712"}, [2]int64{256, 256}},
		"none": {"0::/", nil, [2]int64{-1, -1}},
	} {
		dir := t.TempDir()
		files := map[string]string{"group": c.group, "node/node0/cpulist": "0-71", "node/node0/meminfo": "Node 0 MemTotal: 500 kB", "node/node1/cpulist": "", "node/node1/meminfo": "Node 1 MemTotal:       2000 kB\nNode 1 MemFree:        1500 kB\nNode 1 MemUsed:         500 kB"}
		maps.Copy(files, c.files)
		for file, text := range files {
			file = filepath.Join(dir, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text+"\n"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		edit := strings.NewReplacer("/sys/fs/cgroup", dir+"/cg", "/proc/self/cgroup", dir+"/group", "/sys/devices/system/node", dir+"/node")
		out, err := shell{edit: edit.Replace}.Run(t.Context(), Script(nonce))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, m := range regexp.MustCompile(`@@\S+ begin (\S+)\n[^@]*@@\S+ (.*)`).FindAllStringSubmatch(string(out), -1) {
			if !strings.HasPrefix(m[2], "end "+m[1]+" rc=") { // a variable of a section's own may hide the name
				t.Errorf("%s: section %s ends with %q", name, m[1], m[2])
			}
		}
		a, _ := read(nonce, out)
		r, err := Parse(nonce, out)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := [2]int64{-1, -1}
		if l := r.Memory.CgroupLimitBytes; l != nil {
			got[0] = *l / mib
			for _, p := range r.Pools {
				if p.Kind == HostPool && p.FreeBytes != nil {
					got[1] = *p.FreeBytes / mib
				}
			}
		}
		if got != c.want {
			t.Errorf("%s: limit and free %d MiB, want %d; cgroup %q", name, got, c.want, a.text("cgroup"))
		}
		if !strings.HasSuffix(a.text("cpu"), "node 1500 2000") || strings.Contains(a.text("cpu"), "node 500") {
			t.Errorf("%s: nodes: %q", name, a.text("cpu"))
		}
	}
}
