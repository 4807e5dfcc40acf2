//go:build unix

package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rlca/remote/remotetest"
)

// containerBox is an account without a vllm program, with a client of containers and the scripted model.
func containerBox(t *testing.T, client string) (*remotetest.Account, *VLLM) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("vLLM is for Linux")
	}
	bin := t.TempDir()
	acc := remotetest.NewAccount(t)
	acc.Path = bin + ":" + without(t, acc.Path, "docker", "podman", "vllm")
	installClient(client)(t, bin)
	scriptedCheckpoint(t, acc, nil)
	v := testVLLM(t, acc, remotetest.FreePort(t), "")
	t.Cleanup(func() {
		os.Remove(filepath.Join(acc.Home, "boxes", "ill"))
		if _, err := v.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
		nothingLeft(t, acc)
	})
	return acc, v
}

// argvOf is the command line of a process.
func argvOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimRight(string(text), "\x00"), "\x00", " ")
}

func TestVLLMContainer(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"docker", "podman"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			acc, v := containerBox(t, client)
			fall(t, acc, "late")
			var idle *NotRunningError
			if _, err := v.Find(t.Context()); !errors.As(err, &idle) || idle.Path != client+" image vllm/vllm-openai:v0.32.0" || idle.Version != "0.32.0" {
				t.Errorf("Find = %v, %+v", err, idle)
			}
			acc.Env = append(acc.Env, "HF_TOKEN=hf_secret")
			var said []string
			s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo, Context: 8192, Floor: gibi, Env: []string{"VLLM_LOGGING_LEVEL=INFO"}}, func(p Progress) { said = append(said, p.Step+" "+p.Text) })
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "load vLLM: ") }) {
				t.Errorf("progress %q", said)
			}
			if s.LoopbackBound == nil || !*s.LoopbackBound || len(s.Warnings) > 0 || s.Model.SizeBytes != 4<<30 {
				t.Errorf("Ensure = %+v", s)
			}
			if err := CallTool(t.Context(), "http://"+s.Address, "", s.Model.Name); err != nil {
				t.Errorf("CallTool = %v", err)
			}
			hub := filepath.Join(acc.Home, ".cache/huggingface/hub")
			argv := argvOf(t, s.PID)
			all := boxes(acc.Home)
			if len(all) != 1 || all[0].Labels["rlca.owner"] == "" {
				t.Fatalf("containers %+v", all)
			}
			mark := all[0].Labels["rlca.owner"]
			for _, want := range []string{
				"/" + client + " run --rm --pull=never --name rlca-vllm-" + strings.TrimPrefix(mark, "rlca") + " --label rlca.owner=" + mark + " -p " + s.Address + ":8000 --shm-size 10g ",
				" --mount type=bind,source=" + hub + ",target=" + hub + ",readonly ",
				" -e HF_HUB_OFFLINE -e HF_HUB_CACHE -e VLLM_LOGGING_LEVEL ", " --oom-score-adj 900 ",
				" vllm/vllm-openai:v0.32.0 rlca/scripted --host 0.0.0.0 --port 8000 --served-model-name scripted rlca/scripted --max-model-len 8192 ",
			} {
				if !strings.Contains(argv+" ", want) {
					t.Errorf("it runs as %q, which lacks %q", argv, want)
				}
			}
			for _, never := range []string{"host ", "hf_secret", "HF_TOKEN", "restart", "privileged", "docker.sock"} {
				if strings.Contains(strings.ReplaceAll(argv, "--host 0.0.0.0", ""), never) {
					t.Errorf("it runs as %q, with %q", argv, never)
				}
			}
			if strings.Contains(argv, "label=disable") != (client == "podman") {
				t.Errorf("it runs as %q", argv)
			}
			if env := all[0].Env; !slices.Contains(env, "HF_HUB_CACHE="+hub) || !slices.Contains(env, "HF_HUB_OFFLINE=1") {
				t.Errorf("its environment is %q", env)
			}
			if adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.PID)); err != nil || strings.TrimSpace(string(adj)) != "0" {
				t.Errorf("the kernel would end the client: %s, %v", adj, err)
			}
			if info, err := os.Stat(filepath.Join(acc.Home, ".rlca", "vllm.container")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("vllm.container: %v, %v", info, err)
			}
			if a, err := v.script(t.Context(), `say vital "$(vital vllm)"; say none "$(vital ollama)"`); err != nil || a.get("vital") == "" || a.get("none") != "" {
				t.Errorf("signs of life %q, %q, %v", a.get("vital"), a.get("none"), err)
			}
			did, err := v.Stop(t.Context())
			if err != nil || len(did) == 0 || !strings.HasPrefix(did[0], "stopped vLLM on "+s.Address) {
				t.Errorf("Stop = %v, %v", did, err)
			}
			if goesOn(all[0].PID) {
				t.Error("the container's process goes on")
			}
			nothingLeft(t, acc)
			if removed, err := v.Uninstall(t.Context()); err != nil || !slices.Equal(removed, []string{"removed what vLLM had compiled in containers (" + client + " volume rlca-vllm-cache)"}) {
				t.Errorf("Uninstall = %v, %v", removed, err)
			}
		})
	}
}

// A container that is somebody else's is used as it is, and goes on.
func TestVLLMContainerAdopted(t *testing.T) {
	t.Parallel()
	acc, v := containerBox(t, "docker")
	addr := fmt.Sprintf("127.0.0.1:%d", v.port)
	theirs := exec.Command(filepath.Join(strings.Split(acc.Path, ":")[0], "docker"), "run", "--name", "theirs", "--label", "rlca.owner=rlcaofsomebodyelse", "-p", addr+":8000",
		"vllm/vllm-openai:v0.32.0", "org/Served-7B", "--host", "0.0.0.0", "--port", "8000", "--served-model-name", "served", "--max-model-len", "4096")
	theirs.Env = []string{"HOME=" + acc.Home, remotetest.AtOnce}
	if err := theirs.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, b := range boxes(acc.Home) {
			syscall.Kill(-b.PID, syscall.SIGKILL)
		}
		theirs.Wait()
	}()
	soon(t, "their server answers", func() bool { return v.fingerprint(t.Context(), addr).who == itself })
	s, err := v.Ensure(t.Context(), Plan{Model: "org/Served-7B"}, nil)
	if err != nil || !s.Adopted || s.How != "container" || s.Model.Name != "served" {
		t.Fatalf("Ensure = %+v, %v", s, err)
	}
	if did, err := v.Stop(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	if len(boxes(acc.Home)) != 1 || v.fingerprint(t.Context(), addr).who != itself {
		t.Error("their container was touched")
	}
}

// A client that is killed leaves its container. That is no server of anybody's: it is ended by its mark, and no other is.
func TestVLLMContainerOrphan(t *testing.T) {
	t.Parallel()
	acc, v := containerBox(t, "docker")
	s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mine := boxes(acc.Home)[0]
	stranger := mine
	stranger.Name, stranger.ID, stranger.Labels = "theirs", strings.Repeat("b", 64), map[string]string{"rlca.owner": mine.Labels["rlca.owner"] + "x"}
	write(t, filepath.Join(acc.Home, "boxes", "theirs.row"), stranger.ID[:12]+" "+stranger.Labels["rlca.owner"]+" vllm/vllm-openai:v0.32.0 127.0.0.1:1->8000/tcp\n")
	text := fmt.Sprintf(`{"ID":%q,"Name":"theirs","Image":"vllm/vllm-openai:v0.32.0","Host":"127.0.0.1:1","Labels":{"rlca.owner":%q}}`, stranger.ID, stranger.Labels["rlca.owner"])
	write(t, filepath.Join(acc.Home, "boxes", "theirs.json"), text)
	syscall.Kill(s.PID, syscall.SIGKILL)
	soon(t, "the client is gone", func() bool { return !goesOn(s.PID) })
	if !goesOn(mine.PID) {
		t.Fatal("the container went with its client")
	}
	var idle *NotRunningError
	if _, err := v.Find(t.Context()); !errors.As(err, &idle) {
		t.Errorf("Find = %v", err)
	}
	var said []string
	wanted := testVLLM(t, acc, v.port, s.Address)
	again, err := wanted.Ensure(t.Context(), Plan{Model: scriptedRepo}, func(p Progress) { said = append(said, p.Text) })
	if err != nil || !again.Fresh || again.Address != s.Address || again.PID == s.PID || !slices.Contains(said, "ending the container on "+s.Address+" that an earlier start has left") {
		t.Errorf("Ensure = %+v, %v, progress %q", again, err, said)
	}
	if goesOn(mine.PID) {
		t.Error("the container of the dead client was left")
	}
	syscall.Kill(again.PID, syscall.SIGKILL)
	soon(t, "the client is gone", func() bool { return !goesOn(again.PID) })
	if did, err := v.Stop(t.Context()); err != nil || len(did) == 0 || !strings.HasPrefix(did[0], "stopped what a dead vLLM on "+s.Address+" had left behind") {
		t.Errorf("Stop = %v, %v", did, err)
	}
	nothingLeft(t, acc)
	if all := boxes(acc.Home); len(all) != 1 || all[0].Name != "theirs" {
		t.Errorf("containers %+v, want theirs", all)
	}
}

// What cannot be told to be gone is not forgotten: another Stop finds it.
func TestVLLMContainerStays(t *testing.T) {
	t.Parallel()
	acc, v := containerBox(t, "docker")
	if _, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(acc.Home, "boxes", "ill"), "1 Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")
	if did, err := v.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "its container may still run") || !strings.Contains(err.Error(), "Cannot connect to the Docker daemon") {
		t.Errorf("Stop = %v, %v", did, err)
	}
	os.Remove(filepath.Join(acc.Home, "boxes", "ill"))
	if _, err := v.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop = %v", err)
	}
	nothingLeft(t, acc)
}

// The watch ends the container, too; and a container whose client is gone, because nobody watches that.
func TestWatchdogContainer(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	bin := t.TempDir()
	installClient("docker")(t, bin)
	m.Path = bin + ":" + without(t, m.Path, "docker", "podman", "vllm")
	scriptedCheckpoint(t, m.Account, nil)
	v := testVLLM(t, m.Account, remotetest.FreePort(t), "")
	v.box.Run = m.Run
	defer func() {
		if _, err := v.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		nothingLeft(t, m.Account)
	}()
	bystander(t)
	plan := Plan{Model: scriptedRepo, Floor: 4 * gibi}
	for _, how := range []string{"memory", "client"} {
		s, err := v.Ensure(t.Context(), plan, nil)
		if err != nil {
			t.Fatal(err)
		}
		pid := boxes(m.Home)[0].PID
		ws, _ := watches(t, m.Account)
		if len(ws) != 1 {
			t.Fatalf("watches %v", ws)
		}
		if how == "memory" {
			m.left(t, 3*gibi)
		} else {
			syscall.Kill(s.PID, syscall.SIGKILL)
		}
		took := soon(t, "the container is gone", func() bool { return !goesOn(pid) && len(boxes(m.Home)) == 0 })
		soon(t, "the watch is gone", func() bool { return len(marked(t, m.Account)) == 0 })
		t.Logf("%s: gone after %v", how, took)
		_, lines, err := v.alive(t.Context(), v.job, readMark(t, m.Account), v.logFile(), 0)
		if text, ok := watchdogSaid(lines); err != nil || ok != (how == "memory") || ok && text != "the memory watchdog on the box ended it: 3.0 GiB were left, 4.0 GiB must stay" {
			t.Errorf("%s: the log says %q, %v", how, text, err)
		}
		m.left(t, 8*gibi)
	}
}

// readMark is the mark in the record of vLLM.
func readMark(t *testing.T, acc *remotetest.Account) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(acc.Home, ".rlca", "vllm.pid"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")[2]
}

// Of a box whose docker does not serve, the error says why and what to do.
func TestVLLMContainerLacks(t *testing.T) {
	t.Parallel()
	acc, v := containerBox(t, "docker")
	run := v.box.Run
	limit := "3"
	v.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		return run(ctx, strings.ReplaceAll(script, "timeout 3 ", "timeout "+limit+" "))
	}
	for _, c := range []struct{ name, ill, images, want string }{
		{"permission", `1 permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "http://x/v1.50/containers/json": dial unix /var/run/docker.sock: connect: permission denied`, "",
			"docker is there, but this account may not use it: sudo usermod -aG docker "},
		{"daemon", "1 Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", "", "its daemon does not run: sudo systemctl start docker"},
		{"hang", "hang", "", "docker is there, but does not answer"},
		{"other", "1 something \x1b[1melse", "", "docker is there, but fails: something else"},
		{"no image", "", "ubuntu:24.04|platform linux amd64", "docker has no image of vLLM, and rlca fetches none: docker pull docker.io/vllm/vllm-openai"},
		{"another processor", "", "vllm/vllm-openai:v1|platform linux riscv64", "image vllm/vllm-openai:v1 is for linux/riscv64"},
	} {
		os.Remove(filepath.Join(acc.Home, "boxes", "ill"))
		if limit = "3"; c.ill == "hang" {
			limit = "0.3"
		}
		if c.ill != "" {
			write(t, filepath.Join(acc.Home, "boxes", "ill"), c.ill)
		}
		os.Remove(filepath.Join(acc.Home, "boxes", "images"))
		if c.images != "" {
			write(t, filepath.Join(acc.Home, "boxes", "images"), c.images)
		}
		var absent *NotInstalledError
		if _, err := v.Find(t.Context()); !errors.As(err, &absent) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Find = %v, want %q", c.name, err, c.want)
		}
		if _, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil); !errors.As(err, &absent) {
			t.Errorf("%s: Ensure = %v", c.name, err)
		}
		nothingLeft(t, acc)
	}
	os.Remove(filepath.Join(acc.Home, "boxes", "images"))
}

// What docker says when it does not run the container comes to the user, with what helps.
func TestVLLMContainerRefused(t *testing.T) {
	t.Parallel()
	acc, v := containerBox(t, "docker")
	for _, c := range []struct{ ill, class, reason, remedy string }{
		{`run 125 docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]`, "driver", "docker cannot give a container the GPU (docker image vllm/vllm-openai:v0.32.0)", "nvidia-ctk runtime configure"},
		{`run 127 docker: Error response from daemon: OCI runtime create failed: runc create failed: unable to start container process: exec: "vllm": executable file not found in $PATH: unknown`, "install", "the image has no vllm program", "vllm/vllm-openai"},
		{`run 126 docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: something new: unknown`, "container", "docker did not run vllm/vllm-openai:v0.32.0", ""},
	} {
		write(t, filepath.Join(acc.Home, "boxes", "ill"), c.ill)
		var start *StartError
		_, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
		if !errors.As(err, &start) || start.Class != c.class || !strings.HasPrefix(start.Reason, c.reason) || !strings.Contains(start.Remedy, c.remedy) {
			t.Errorf("%s: %v, %+v", c.ill, err, start)
		}
		nothingLeft(t, acc)
	}
}

// A port that is taken at the last moment, by the words of docker-proxy: another is tried.
func TestVLLMContainerPort(t *testing.T) {
	t.Parallel()
	acc, v := containerBox(t, "docker")
	taken := false
	run := v.box.Run
	v.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		// Once the port was seen free, the first launch finds it taken.
		if strings.Contains(script, "settle") && !taken {
			taken = true
			write(t, filepath.Join(acc.Home, "fake"), fmt.Sprintf("taken %d", v.port))
		}
		return run(ctx, script)
	}
	s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
	if err != nil || int(portOf(s.Address)) == v.port {
		t.Errorf("Ensure = %+v, %v", s, err)
	}
}

func TestVLLMContainerFailures(t *testing.T) {
	docker, podman := &vllmImage{runs: "docker", ref: "vllm/vllm-openai:v1"}, &vllmImage{runs: "podman", ref: "docker.io/vllm/vllm-openai:v1"}
	used := map[string]bool{}
	for _, c := range []struct {
		image       *vllmImage
		text, class string
		reason      string // begins so
	}{
		// Said by Docker 28.2 before a daemon 20.10, and by Podman 4.3, unless another source is named.
		{docker, `docker: permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Head "http://x/_ping": dial unix /var/run/docker.sock: connect: permission denied`, "permission", "this account may not use docker"},
		{docker, "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", "container", "docker's daemon does not run"},
		{docker, "docker: Error response from daemon: No such image: vllm/vllm-openai:v1", "container", "the image vllm/vllm-openai:v1 is no longer"},
		{podman, "Error: docker.io/vllm/vllm-openai:v1: image not known", "container", "the image docker.io/vllm/vllm-openai:v1 is no longer"},
		{docker, `docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]`, "driver", "docker cannot give a container the GPU"},
		{docker, "docker: Error response from daemon: Unknown runtime specified nvidia", "driver", "docker cannot give a container the GPU"},
		{podman, "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all", "driver", "podman does not know the GPU"},
		// The next two as reports of NVIDIA's toolkit have them.
		{docker, "docker: Error response from daemon: failed to create task for container: OCI runtime create failed: nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update your driver to a newer version: unknown", "driver", "the GPU's driver is older than the image needs: cuda>=13.0"},
		{docker, "docker: Error response from daemon: failed to create task for container: OCI runtime create failed: nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown", "driver", "the NVIDIA container toolkit could not set up the GPU: initialization error"},
		{docker, "docker: Error response from daemon: driver failed programming external connectivity on endpoint x (686946c3): Error starting userland proxy: listen tcp4 127.0.0.1:8000: bind: address already in use", "port", "its port is taken"},
		{docker, "docker: Error response from daemon: driver failed programming external connectivity on endpoint x (7f7ce151): Bind for 127.0.0.1:8000 failed: port is already allocated", "port", "its port is taken"},
		{docker, `docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /home/u/.cache/huggingface/hub`, "container", "its docker does not see /home/u/.cache"},
		{docker, `docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "vllm": executable file not found in $PATH: unknown`, "install", "the image has no vllm program"},
		{podman, "Error: crun: executable file `vllm` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found", "install", "the image has no vllm program"},
		{docker, "exec /usr/local/bin/vllm: exec format error", "build", "the image is for another kind of processor"},
		{podman, `Error: potentially insufficient UIDs or GIDs available in user namespace (requested 0:42 for /etc/shadow): Check /etc/subuid and /etc/subgid`, "permission", "podman has no range of users"},
		{docker, "docker: Error response from daemon: mkdir /var/lib/docker/overlay2/x: no space left on device", "disk", "a disk of the box is full"},
		{docker, `docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: "/etc": permission denied: unknown`, "container", "docker did not run vllm/vllm-openai:v1"},
		{podman, "Error: something that nobody knows", "container", "podman did not run docker.io/vllm/vllm-openai:v1"},
		// vLLM's own words stay vLLM's.
		{docker, "Error: something that nobody knows", "other", "it ended while it started"},
		{docker, "OSError: [Errno 28] No space left on device", "disk", "a disk of the box is full"},
		{docker, "RuntimeError: Failed to infer device type, please set", "driver", "it finds no GPU"},
	} {
		e := &StartError{Engine: "vLLM", Address: "a", Reason: errDied.Error(), Log: []string{"WARN[0000] a line before", clean(c.text), "", "Run 'docker run --help' for more information"}}
		if err := containerEnded(c.image)(e); err != error(e) || e.Class != c.class || !strings.HasPrefix(e.Reason, c.reason) || strings.Contains(e.Reason+e.Remedy, "$") {
			t.Errorf("%.120s:\n%s: %s, want %s: %s", c.text, e.Class, e.Reason, c.class, c.reason)
		}
		if (c.class == "port") != errors.Is(e, errTaken) || len(e.Log) != 1 {
			t.Errorf("%.120s: %v, log %q", c.text, e.Err, e.Log)
		}
		for _, f := range containerFailures() {
			if clientLine.MatchString(c.text) && f.text.MatchString(c.text) {
				used[f.means] = true
			}
		}
	}
	for _, f := range containerFailures() {
		if !used[f.means] {
			t.Errorf("no text for %s: %s", f.class, f.means)
		}
	}
}

func TestVLLMImages(t *testing.T) {
	read := func(ref string, about ...string) *vllmImage {
		i, ok := readImage("docker /usr/bin/docker "+ref, about)
		if !ok {
			t.Fatalf("%s is no image", ref)
		}
		return i
	}
	for _, c := range []struct {
		ref     string
		about   []string
		version string
		cuda    int
	}{
		{"vllm/vllm-openai:v0.33.0", []string{"env CUDA_VERSION=13.0.1", "label org.opencontainers.image.version=22.04"}, "0.33.0", 13},
		{"vllm/vllm-openai:v0.19.0-cu130", nil, "0.19.0", 0},
		{"vllm/vllm-openai:v0.28.0rc2", nil, "0.28.0rc2", 0},
		{"vllm/vllm-openai:latest", []string{"env CUDA_VERSION=12.9.1"}, "", 12},
		{"vllm/vllm-openai:nightly-8f7e", []string{"env VLLM_VERSION=0.33.1.dev12+g8f7e"}, "0.33.1.dev12+g8f7e", 0},
		{"vllm/vllm-openai:gemma4-cu130", nil, "", 0},
		{"nvcr.io/nvidia/vllm:26.05.post1-py3", []string{"env CUDA_VERSION=13.1.0.036"}, "", 13},
		{"nvcr.io/nvidia/vllm:25.12.1-py3", nil, "", 0}, // NGC's number, not vLLM's
		{"rocm/vllm:rocm6.4.1_vllm_0.10.0_20250812", nil, "0.10.0", 0},
		{"dustynv/vllm:0.8.6-r36.4.0-cu128-24.04", nil, "0.8.6", 0},
		{"ghcr.io/me/vllm:main", []string{"label org.opencontainers.image.title=vLLM", "label org.opencontainers.image.version=v0.30.1", "env CUDA_VERSION=130"}, "0.30.1", 13},
		{"localhost:5000/vllm:latest", []string{"env VLLM_VERSION=main"}, "", 0},
	} {
		if i := read(c.ref, c.about...); i.version != c.version || i.cuda != c.cuda {
			t.Errorf("%s: version %q, CUDA %d, want %q, %d", c.ref, i.version, i.cuda, c.version, c.cuda)
		}
	}
	for _, name := range []string{"", "docker", "docker /usr/bin/docker", "docker /usr/bin/docker a b"} {
		if i, ok := readImage(name, nil); ok {
			t.Errorf("readImage(%q) = %+v", name, i)
		}
	}

	amd64 := "platform linux amd64"
	for _, c := range []struct {
		name   string
		facts  vllmFacts
		images []*vllmImage
		want   string
		unfit  string
	}{
		{"the newest version", vllmFacts{arch: "x86_64"}, []*vllmImage{read("vllm/vllm-openai:latest", "created 2026-11-01"), read("vllm/vllm-openai:v0.9.2"), read("vllm/vllm-openai:v0.33.0"), read("vllm/vllm-openai:nightly")}, "vllm/vllm-openai:v0.33.0", ""},
		{"no version, then a nightly", vllmFacts{arch: "x86_64"}, []*vllmImage{read("vllm/vllm-openai:nightly", "created 2026-11-20"), read("nvcr.io/nvidia/vllm:26.04-py3", "created 2026-04-20"), read("nvcr.io/nvidia/vllm:26.05-py3", "created 2026-05-20")}, "nvcr.io/nvidia/vllm:26.05-py3", ""},
		{"a nightly that tells its version", vllmFacts{arch: "x86_64"}, []*vllmImage{read("vllm/vllm-openai:nightly", "env VLLM_VERSION=0.34.0"), read("vllm/vllm-openai:v0.33.0")}, "vllm/vllm-openai:v0.33.0", ""},
		{"another processor", vllmFacts{arch: "aarch64"}, []*vllmImage{read("vllm/vllm-openai:v0.33.0", amd64), read("vllm/vllm-openai:v0.32.0", "platform linux arm64")}, "vllm/vllm-openai:v0.32.0", "vllm/vllm-openai:v0.33.0 is for linux/amd64"},
		{"a GB10", vllmFacts{arch: "aarch64", gpu: gpuNVIDIA, gb10: true}, []*vllmImage{read("vllm/vllm-openai:v0.33.0", "env CUDA_VERSION=12.9.1"), read("nvcr.io/nvidia/vllm:26.05-py3", "env CUDA_VERSION=13.1.0")}, "nvcr.io/nvidia/vllm:26.05-py3", "vllm/vllm-openai:v0.33.0 has CUDA 12, and a GB10 needs 13"},
		{"NVIDIA", vllmFacts{gpu: gpuNVIDIA}, []*vllmImage{read("rocm/vllm:latest"), read("me/vllm-cpu:v0.40.0"), read("vllm/vllm-openai:latest")}, "vllm/vllm-openai:latest", "rocm/vllm:latest is for AMD's GPUs"},
		{"AMD", vllmFacts{gpu: gpuAMD}, []*vllmImage{read("vllm/vllm-openai:v0.33.0", "env CUDA_VERSION=13.0.1"), read("rocm/vllm:latest")}, "rocm/vllm:latest", "vllm/vllm-openai:v0.33.0 is for NVIDIA's GPUs"},
	} {
		c.facts.images = c.images
		best, unfit := pickImage(&c.facts)
		if best == nil || best.ref != c.want || strings.Join(unfit, "; ") != c.unfit {
			t.Errorf("%s: %+v, unfit %q, want %s, %q", c.name, best, unfit, c.want, c.unfit)
		}
	}
	if best, _ := pickImage(&vllmFacts{}); best != nil {
		t.Errorf("of none: %+v", best)
	}

	for entry, want := range map[string]string{
		`["vllm","serve"]`:                                      "r m --port 8000",
		`["/usr/local/bin/vllm","serve"]`:                       "r m --port 8000",
		`["python3","-m","vllm.entrypoints.openai.api_server"]`: "--entrypoint vllm r serve m --port 8000",
		`["/opt/nvidia/nvidia_entrypoint.sh"]`:                  "r vllm serve m --port 8000",
		`null`:                                                  "r vllm serve m --port 8000",
		`["/bin/bash","-c"]`:                                    "--entrypoint vllm r serve m --port 8000",
		`["` + strings.Repeat("x", 500) + `…`:                   "--entrypoint vllm r serve m --port 8000",
	} {
		if got := strings.Join(read("r", "entry "+entry).serve([]string{"serve", "m", "--port", "8000"}), " "); got != want {
			t.Errorf("%.60s: %s, want %s", entry, got, want)
		}
	}
}

func TestVLLMContainerFlags(t *testing.T) {
	const begin = "-p 127.0.0.1:8003:8000 --shm-size 10g -v rlca-vllm-cache:/root/.cache/vllm"
	docker, podman := &vllmImage{runs: "docker", ref: "r"}, &vllmImage{runs: "podman", ref: "r"}
	for _, c := range []struct {
		name   string
		facts  vllmFacts
		plan   Plan
		addr   string
		mounts []string
		env    []string
		want   string
		client []string
	}{
		{"no GPU", vllmFacts{image: docker}, Plan{}, "127.0.0.1:8003", []string{"/m"}, []string{"A=1"}, begin + " --mount type=bind,source=/m,target=/m,readonly -e A", []string{"A=1"}},
		{"odd names", vllmFacts{image: docker}, Plan{}, "127.0.0.1:8003", []string{`/a b,"c"`}, nil, begin + ` --mount type=bind,"source=/a b,""c""","target=/a b,""c""",readonly`, nil},
		{"NVIDIA", vllmFacts{image: docker, gpu: gpuNVIDIA}, Plan{Floor: 1}, "127.0.0.1:8003", nil, nil, begin + " --gpus all --oom-score-adj 900", nil},
		{"a Jetson", vllmFacts{image: docker, gpu: gpuNVIDIA, tegra: true}, Plan{}, "127.0.0.1:8003", nil, nil, begin + " --runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all", nil},
		{"podman", vllmFacts{image: podman, gpu: gpuNVIDIA}, Plan{}, "127.0.0.1:8003", nil, nil, begin + " --device nvidia.com/gpu=all --security-opt label=disable", nil},
		{"AMD", vllmFacts{image: docker, gpu: gpuAMD}, Plan{}, "127.0.0.1:8003", nil, nil, begin + " --device /dev/kfd --device /dev/dri", nil},
		{"AMD, podman", vllmFacts{image: podman, gpu: gpuAMD}, Plan{}, "127.0.0.1:8003", nil, nil, begin + " --device /dev/kfd --device /dev/dri --group-add keep-groups --security-opt label=disable", nil},
		{"IPv6", vllmFacts{image: docker}, Plan{}, "[::1]:8003", nil, nil, strings.Replace(begin, "127.0.0.1", "[::1]", 1), nil},
		{"what would change the client", vllmFacts{image: docker}, Plan{}, "127.0.0.1:8003", nil, []string{"DOCKER_HOST=x", "HF_TOKEN=secret", "PATH=/y"}, begin + " -e DOCKER_HOST=x -e HF_TOKEN -e PATH=/y", []string{"HF_TOKEN=secret"}},
	} {
		flags, client := containerFlags(&c.facts, c.plan, c.addr, c.mounts, c.env)
		if got := strings.Join(flags, " "); got != c.want || !slices.Equal(client, c.client) {
			t.Errorf("%s:\n%s, %q\nwant\n%s, %q", c.name, got, client, c.want, c.client)
		}
	}
}

// A container gets the model, where its links lead, and what its arguments name; nothing of the system's.
func TestVLLMContainerMounts(t *testing.T) {
	t.Parallel()
	acc := remotetest.NewAccount(t)
	v := testVLLM(t, acc, 1, "")
	home, err := filepath.EvalSymlinks(acc.Home)
	if err != nil {
		t.Fatal(err)
	}
	scriptedCheckpoint(t, acc, nil)
	hub := filepath.Join(home, ".cache/huggingface/hub")
	snapshot := filepath.Join(hub, "models--rlca--scripted/snapshots/0123456789abcdef0123456789abcdef01234567")
	folder := filepath.Join(home, "my model")
	write(t, filepath.Join(folder, "config.json"), "{}")
	write(t, filepath.Join(home, "store", "w.safetensors"), "w")
	write(t, filepath.Join(home, "chat.jinja"), "c")
	moved := filepath.Join(home, "hub2")
	write(t, filepath.Join(home, "disk", "models--a--b", "snapshots", "1", "config.json"), "{}")
	if err := errors.Join(os.Symlink(filepath.Join(home, "store", "w.safetensors"), filepath.Join(folder, "w.safetensors")), os.Mkdir(moved, 0o755),
		os.Symlink(filepath.Join(home, "disk", "models--a--b"), filepath.Join(moved, "models--a--b"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		words []string
		want  []string
	}{
		{snapshot, []string{"serve", "HF_HUB_CACHE=" + hub}, []string{hub}},
		{folder, []string{folder, "--chat-template", filepath.Join(home, "chat.jinja"), "--x=" + filepath.Join(home, "nowhere"), "VLLM_CACHE_ROOT=" + home, "TRITON_PTXAS_PATH=/usr/bin/env", "/"},
			[]string{folder, filepath.Join(home, "store"), filepath.Join(home, "chat.jinja")}},
		{filepath.Join(moved, "models--a--b/snapshots/1"), nil, []string{moved, filepath.Join(home, "disk", "models--a--b")}},
	} {
		if got, err := v.mounts(t.Context(), &Source{Path: c.path}, c.words); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v, want %q", c.path, got, err, c.want)
		}
	}
}

// A docker that lets in whoever is on the box's network comes with a warning.
func TestVLLMPorousDocker(t *testing.T) {
	docker, podman := &vllmImage{runs: "docker"}, &vllmImage{runs: "podman"}
	for _, c := range []struct {
		f    vllmFacts
		want bool
	}{
		{vllmFacts{image: docker, daemon: "27.5.1"}, true},
		{vllmFacts{image: docker, daemon: "20.10.24+dfsg1"}, true},
		{vllmFacts{image: docker, daemon: "28.0.0"}, false},
		{vllmFacts{image: docker, daemon: "29.1.2"}, false},
		{vllmFacts{image: docker}, false},
		{vllmFacts{image: podman, daemon: "4.3.1"}, false},
		{vllmFacts{daemon: "27.5.1"}, false},
	} {
		if got := c.f.porous(); (got != "") != c.want || c.want && !strings.Contains(got, "docker "+c.f.daemon) {
			t.Errorf("%+v: %q", c.f, got)
		}
	}
}
