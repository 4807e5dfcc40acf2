//go:build unix

package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rlca/remote/remotetest"
)

func init() {
	fakePrograms["docker"], fakePrograms["podman"], fakePrograms["containerd-shim"] = fakeDocker, fakeDocker, fakeShim
	kinds = append(kinds, kind{
		name: "vllm/docker", program: "docker", install: installClient("docker"), engine: vllmEngine, ill: fall,
		says: "Application startup complete", loads: true, plain: true, named: alias, seed: scriptedCheckpoint,
	})
}

// quickClient is the half of the fake client that answers at once: a start of the test binary takes long on a busy machine.
const quickClient = `#!/bin/sh
B=$HOME/boxes S=$(dirname "$0")/.self/$(basename "$0")
ill=; [ -f "$B/ill" ] && read -r ill < "$B/ill"
case $ill in ''|'run '*) ;; *) exec "$S" "$@";; esac
said() { if [ -f "$B/images" ]; then cat "$B/images"; echo; else echo 'vllm/vllm-openai:v0.32.0|platform linux ARCH|entry ["vllm","serve"]|env PATH=/bin'; fi; }
case "$1 $2" in
"--version "*) case $0 in */podman) echo "podman version 4.3.1";; *) echo "Docker version 28.2.2, build e6534b4";; esac;;
"version --format") cat "$B/daemon" 2>/dev/null || echo 28.2.2;;
"ps -aq") cat "$B"/*.row 2>/dev/null | while read -r id label rest; do [ "label=rlca.owner=$label" = "$4" ] && echo "$id"; done; :;;
"ps "*) cat "$B"/*.row 2>/dev/null | cut -d' ' -f3-; :;;
"images "*) said | cut -d'|' -f1;;
"image inspect") said | while IFS= read -r l; do case $l in "$5|"*) echo "$l" | cut -d'|' -f2- | tr '|' '\n';; esac; done;;
*) exec "$S" "$@";;
esac
`

// installClient puts the fake client into a folder.
func installClient(client string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		writeProgram(t, filepath.Join(dir, client), strings.Replace(quickClient, "ARCH", runtime.GOARCH, 1))
		if err := os.Mkdir(filepath.Join(dir, ".self"), 0o755); err != nil {
			t.Fatal(err)
		}
		installSelf(client)(t, filepath.Join(dir, ".self"))
	}
}

// box is what the fake daemon keeps of a container, in ~/boxes.
type box struct {
	ID, Name, Image, Host string
	Labels                map[string]string
	Args, Env             []string
	PID                   int
}

func boxFile(name string) string { return filepath.Join(os.Getenv("HOME"), "boxes", name) }

func (b *box) save() {
	text, _ := json.Marshal(b)
	os.MkdirAll(boxFile(""), 0o755)
	os.WriteFile(boxFile(b.Name+".row"), fmt.Appendf(nil, "%s %s %s %s->8000/tcp\n", b.ID[:12], b.Labels["rlca.owner"], b.Image, b.Host), 0o644)
	os.WriteFile(boxFile(b.Name+".new"), text, 0o644)
	os.Rename(boxFile(b.Name+".new"), boxFile(b.Name+".json"))
}

// boxes are the containers of the fake daemon of a home.
func boxes(home string) (list []box) {
	files, _ := filepath.Glob(filepath.Join(home, "boxes", "*.json"))
	for _, f := range files {
		var b box
		if text, err := os.ReadFile(f); err == nil && json.Unmarshal(text, &b) == nil {
			list = append(list, b)
		}
	}
	return list
}

// fakeDocker is the client, as docker and as podman. Each container has a shim that outlives the client, keeps its port and
// forgets it when it ends. The words are Docker's 28.2 and Podman's 4.3. "ill" in ~/boxes says how it is: "hang", or "STATUS TEXT"
// for all commands, or "run STATUS TEXT" for that one. "images" has one image in each line, and what is told of it after a |.
func fakeDocker(args []string) {
	end := func(status int, text string) {
		fmt.Fprintln(os.Stderr, text)
		os.Exit(status)
	}
	line, _ := os.ReadFile(boxFile("ill"))
	ill := strings.TrimSpace(string(line))
	if rest, ok := strings.CutPrefix(ill, "run "); ok {
		ill = ""
		if args[0] == "run" {
			ill = rest
		}
	}
	switch word, text, _ := strings.Cut(ill, " "); word {
	case "":
	case "hang":
		time.Sleep(time.Minute)
	default:
		status, _ := strconv.Atoi(word)
		end(status, text)
	}
	home := os.Getenv("HOME")
	named := func(words []string) (found []box) {
		for _, b := range boxes(home) {
			if slices.Contains(words, b.ID[:12]) || slices.Contains(words, b.Name) {
				found = append(found, b)
			}
		}
		if len(found) == 0 {
			end(1, "Error response from daemon: No such container: "+words[len(words)-1])
		}
		return found
	}
	switch args[0] {
	case "inspect":
		fmt.Println(named(args)[0].PID)
	case "stop":
		for _, b := range named(args) {
			limit, _ := strconv.Atoi(args[2])
			b.end(syscall.SIGTERM, time.Duration(limit)*time.Second)
		}
	case "kill", "rm":
		for _, b := range named(args) {
			b.end(syscall.SIGKILL, 0)
		}
	case "volume":
		if err := os.Remove(boxFile("volume")); err != nil {
			end(1, "Error response from daemon: get "+args[2]+": no such volume")
		}
		fmt.Println(args[2])
	case "run":
		os.Exit(fakeRun(args[1:]))
	default:
		end(1, "docker: '"+args[0]+"' is not a docker command.")
	}
}

// end signals a container, and makes sure that it is gone.
func (b box) end(sig syscall.Signal, limit time.Duration) {
	gone := func() bool { _, err := os.Stat(boxFile(b.Name + ".json")); return errors.Is(err, os.ErrNotExist) }
	for start, told := time.Now(), false; !gone(); time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(boxFile(b.Name + ".json"))
		json.Unmarshal(text, &b) // it may only just have begun
		switch {
		case b.PID == 0:
		case !told:
			told = syscall.Kill(b.PID, sig) == nil
		case time.Since(start) > limit:
			syscall.Kill(-b.PID, syscall.SIGKILL)
		}
	}
}

// fakeRun is docker run in the foreground, up to the end of the container.
func fakeRun(args []string) int {
	b := box{ID: strings.TrimPrefix(nonce()+nonce()+nonce(), "rlca"), Labels: map[string]string{}}
	b.ID = strings.ReplaceAll(b.ID, "rlca", "")[:64]
	entry := []string{"vllm", "serve"}
	i := 0
	for ; strings.HasPrefix(args[i], "-"); i++ {
		switch flag := args[i]; flag {
		case "--rm", "--pull=never":
			continue
		case "--name":
			b.Name = args[i+1]
		case "--label":
			k, v, _ := strings.Cut(args[i+1], "=")
			b.Labels[k] = v
		case "-p":
			b.Host, _ = strings.CutSuffix(args[i+1], ":8000")
		case "-e":
			if k, _, ok := strings.Cut(args[i+1], "="); !ok {
				if v, ok := os.LookupEnv(k); ok {
					b.Env = append(b.Env, k+"="+v)
				}
			} else {
				b.Env = append(b.Env, args[i+1])
			}
		case "-v":
			os.MkdirAll(boxFile(""), 0o755)
			os.WriteFile(boxFile("volume"), nil, 0o644)
		case "--entrypoint":
			entry = []string{args[i+1]}
		case "--mount", "--shm-size", "--gpus", "--device", "--security-opt", "--oom-score-adj", "--runtime", "--group-add":
		default:
			fmt.Fprintln(os.Stderr, "unknown flag: "+flag)
			return 125
		}
		i++
	}
	b.Image = args[i]
	b.Args = append(entry, args[i+1:]...)
	b.save()
	shim := exec.Command("containerd-shim", b.Name)
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	shim.Path, shim.Err, shim.SysProcAttr = self, nil, ownSession()
	shim.Env = []string{"HOME=" + os.Getenv("HOME"), "PATH=/usr/bin:/bin", remotetest.AtOnce}
	shim.Stdout, shim.Stderr = os.Stdout, os.Stderr
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if err := shim.Start(); err != nil {
		panic(err)
	}
	go func() { // a client passes signals on, and stays
		for range stop {
			for _, c := range boxes(os.Getenv("HOME")) {
				if c.Name == b.Name && c.PID > 0 {
					syscall.Kill(c.PID, syscall.SIGTERM)
				}
			}
		}
	}()
	shim.Wait()
	return shim.ProcessState.ExitCode()
}

// fakeShim keeps the container that a client has named.
func fakeShim(args []string) {
	text, _ := os.ReadFile(boxFile(args[0] + ".json"))
	var b box
	if err := json.Unmarshal(text, &b); err != nil {
		panic(err)
	}
	end := func(status int) {
		os.Remove(boxFile(b.Name + ".row"))
		os.Remove(boxFile(b.Name + ".json"))
		os.Exit(status)
	}
	refuse := func(why string) {
		fmt.Fprintln(os.Stderr, "docker: Error response from daemon: driver failed programming external connectivity on endpoint "+b.Name+" (686946c3): "+why)
		end(125)
	}
	if ill, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), "fake")); strings.HasSuffix(b.Host, ":"+strings.TrimPrefix(strings.TrimSpace(string(ill)), "taken ")) {
		refuse("Bind for " + b.Host + " failed: port is already allocated")
	}
	port, err := net.Listen("tcp", b.Host)
	if err != nil {
		refuse("Error starting userland proxy: listen tcp4 " + b.Host + ": bind: address already in use")
	}
	// The network of a container is its own: here, another of the test's ports.
	inside := fmt.Sprintf("127.0.0.1:%d", portOf(b.Host)+portsToTry)
	argv := slices.Clone(b.Args)
	for i := range argv {
		switch argv[i] {
		case "--host":
			if argv[i+1] != "0.0.0.0" {
				panic("vLLM would listen on " + argv[i+1])
			}
			argv[i+1] = "127.0.0.1"
		case "--port":
			_, argv[i+1], _ = net.SplitHostPort(inside)
		}
	}
	if argv[0] != "vllm" {
		fmt.Fprintf(os.Stderr, "docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: %q: executable file not found in $PATH: unknown\n", argv[0])
		end(127)
	}
	cmd := exec.Command("/usr/local/bin/vllm", argv[1:]...)
	cmd.Path, _ = os.Executable()
	cmd.SysProcAttr = ownSession()
	cmd.Env = append([]string{"HOME=" + os.Getenv("HOME"), "PATH=/usr/bin:/bin", remotetest.AtOnce}, b.Env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	b.PID = cmd.Process.Pid
	b.save()
	go func() {
		for {
			c, err := port.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in, err := net.Dial("tcp", inside)
				if err != nil {
					return
				}
				defer in.Close()
				go io.Copy(in, c)
				io.Copy(c, in)
			}()
		}
	}()
	cmd.Wait()
	syscall.Kill(-b.PID, syscall.SIGKILL) // with its first process the others end
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		code = 137
	}
	end(code)
}
