package probe

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestListeners(t *testing.T) {
	type want struct {
		addr    string
		port    int
		process string
		exposed bool
	}
	for name, c := range map[string]struct {
		section, text string
		want          []want
	}{
		"ss": {"listen", "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\nLISTEN 0 4096 127.0.0.1:11434 0.0.0.0:* users:((\"ollama\",pid=812,fd=3))\nLISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 128 [::]:22 [::]:*\nLISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*",
			[]want{{"127.0.0.1", 11434, "ollama", false}, {"0.0.0.0", 22, "", true}, {"::", 22, "", true}, {"127.0.0.53", 53, "", false}}},
		"ss without a header": {"listen", "LISTEN 0      4096               *:11434            *:*    users:((\"ollama\",pid=13152,fd=3))",
			[]want{{"*", 11434, "ollama", true}}},
		"netstat": {"listen", "Active Internet connections (only servers)\nProto Recv-Q Send-Q Local Address Foreign Address State PID/Program name\ntcp 0 0 127.0.0.1:8080 0.0.0.0:* LISTEN 77/llama-server\ntcp6 0 0 :::22 :::* LISTEN -\nudp 0 0 0.0.0.0:5353 0.0.0.0:* 442/avahi-daemon: r",
			[]want{{"127.0.0.1", 8080, "llama-server", false}, {"::", 22, "", true}}},
		"lsof": {"lsof", "p537\ncollama\nn*:11434\np9\ncsshd\nn[::1]:22", []want{{"*", 11434, "ollama", true}, {"::1", 22, "sshd", false}}},
		"kernel": {"proctcp", "   0: 0100007F:2CAA 00000000:0000 0A 0:0\n   1: 00000000:0016 00000000:0000 0A 0:0\n   2: 00000000000000000000000001000000:0050 0:0 0A 0:0",
			[]want{{"127.0.0.1", 11434, "", false}, {"0.0.0.0", 22, "", true}, {"::1", 80, "", false}}},
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", c.section, c.text)
		var got []want
		for _, l := range r.Listeners {
			p := ""
			if l.Process != nil {
				p = *l.Process
			}
			got = append(got, want{l.Address, l.Port, p, l.Exposed})
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestEngines(t *testing.T) {
	r := parse(t, "uname", "Linux 6.8 x86_64", "tools", "ollama /usr/local/bin/ollama\ncurl /usr/bin/curl\nsetsid /usr/bin/setsid",
		"procs", "self 0::/user.slice/user-1000.slice/session-3.scope\nproc 812 1 ollama serve 0::/system.slice/ollama.service\nproc 900 812 ollama runner 0::/system.slice/ollama.service\nunit active", "v_ollama", "ollama version is 0.32.9",
		"listen", "LISTEN 0 4096 *:11434 *:* users:((\"ollama\",pid=812,fd=3))\nLISTEN 0 4096 127.0.0.1:40123 0.0.0.0:* users:((\"ollama\",pid=900,fd=3))\nLISTEN 0 5 127.0.0.1:8080 0.0.0.0:* users:((\"java\",pid=1,fd=1))")
	if len(r.Engines) != 1 {
		t.Fatalf("engines %+v, want ollama alone", r.Engines)
	}
	e := r.Engines[0]
	if e.Name != "ollama" || str(e.Path) != "/usr/local/bin/ollama" || str(e.Version) != "0.32.9" || e.Running == nil || !*e.Running ||
		str(e.Address) != "*:11434" || e.Exposed == nil || !*e.Exposed || e.How != "system service" {
		t.Errorf("engine %+v", e)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "*:11434") {
		t.Errorf("warnings %q, want the exposed engine", r.Warnings)
	}
	// Nobody may see the owner: the port alone says that it may be one, and no more.
	r = parse(t, "uname", "Linux 6.8 x86_64", "listen", "LISTEN 0 4096 127.0.0.1:11434 0.0.0.0:*\nLISTEN 0 4096 127.0.0.1:8000 0.0.0.0:*")
	if len(r.Engines) != 1 || r.Engines[0].Running != nil || str(r.Engines[0].Address) != "127.0.0.1:11434" {
		t.Errorf("without an owner: %+v", r.Engines)
	}
	r = parse(t, "uname", "Linux 6.8 x86_64", "listen", "State Recv-Q Send-Q", "tools", "ollama /usr/bin/ollama", "v_ollama", "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.17.4")
	if e := r.Engine("ollama"); e == nil || e.Running == nil || *e.Running || str(e.Version) != "0.17.4" {
		t.Errorf("installed and idle: %+v", e)
	}
}

// What listens where is told by its own process; a port alone proves little.
func TestEngineOwners(t *testing.T) {
	const session = "self 0::/user.slice/user-1000.slice/session-3.scope\n"
	for name, c := range map[string]struct {
		tools, procs, listen string
		engine, address, how string
		running              string // true, false, null; "" if the engine must not be there
	}{
		"a hidden owner and a process": {"", session + "proc 812 1 ollama serve 0::/system.slice/ollama.service", "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:*",
			"ollama", "127.0.0.1:11434", "system service", "true"},
		"a user's service on its own port": {"", session + "proc 5 1 ollama serve 0::/user.slice/user-1000.slice/user@1000.service/app.slice/o.service", "LISTEN 0 9 127.0.0.1:4000 0.0.0.0:* users:((\"ollama\",pid=5,fd=3))",
			"ollama", "127.0.0.1:4000", "user service", "true"},
		"started by hand": {"", session + "proc 5 4 ollama serve 0::/user.slice/user-1000.slice/session-3.scope", "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:* users:((\"ollama\",pid=5,fd=3))",
			"ollama", "127.0.0.1:11434", "user process", "true"},
		"hidden processes, active unit": {"ollama /usr/bin/ollama", session + "unit active", "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:* users:((\"ollama\",pid=5,fd=3))",
			"ollama", "127.0.0.1:11434", "system service", "true"},
		"both families": {"", session, "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:* users:((\"ollama\",pid=5,fd=3))\nLISTEN 0 9 [::]:11434 [::]:* users:((\"ollama\",pid=5,fd=4))",
			"ollama", "[::]:11434", "", "true"},
		"a published port": {"", session, "LISTEN 0 9 0.0.0.0:11434 0.0.0.0:* users:((\"docker-proxy\",pid=5,fd=3))",
			"ollama", "0.0.0.0:11434", "in a container", "null"},
		"a client is no server": {"ollama /usr/bin/ollama", session + "proc 5 4 ollama run 0::/x", "LISTEN 0 9 0.0.0.0:22 0.0.0.0:*",
			"ollama", "null", "", "false"},
		"somebody's tunnel": {"ollama /usr/bin/ollama", session, "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:* users:((\"sshd\",pid=5,fd=3))",
			"ollama", "null", "", "false"},
		"no listeners could be read": {"ollama /usr/bin/ollama", session, "", "ollama", "null", "", "null"},
		"any python":                 {"", session, "LISTEN 0 9 127.0.0.1:8000 0.0.0.0:* users:((\"python3\",pid=5,fd=3))", "vllm", "", "", ""},
		"a container's 8080":         {"", session, "LISTEN 0 9 127.0.0.1:8080 0.0.0.0:* users:((\"docker-proxy\",pid=5,fd=3))", "llama-server", "", "", ""},
		"ollama's own llama-server":  {"", session + "proc 5 1 ollama serve 0::/x\nproc 6 5 llama-server --model 0::/x", "LISTEN 0 9 127.0.0.1:40000 0.0.0.0:* users:((\"llama-server\",pid=6,fd=3))", "llama-server", "", "", ""},
		"vllm in python": {"vllm /opt/v/bin/vllm\nvllm_version 0.11.0", session + "proc 5 4 vllm /opt/v/bin/vllm 0::/y", "LISTEN 0 9 127.0.0.1:8000 0.0.0.0:* users:((\"python3\",pid=5,fd=3))\nLISTEN 0 9 *:5555 *:* users:((\"python3\",pid=5,fd=9))",
			"vllm", "127.0.0.1:8000", "user process", "true"},
		"a Mac's app": {"", "self\nmac 88 1 /Applications/Ollama.app/Contents/Resources/ollama", "tcp4 0 0 127.0.0.1.11434 *.* LISTEN",
			"ollama", "127.0.0.1:11434", "desktop app", "true"},
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "tools", c.tools, "procs", c.procs, "listen", c.listen)
		e := r.Engine(c.engine)
		if c.running == "" {
			if e != nil {
				t.Errorf("%s: found %s: %+v", name, c.engine, e)
			}
			continue
		}
		if e == nil {
			t.Errorf("%s: no %s in %+v", name, c.engine, r.Engines)
			continue
		}
		running := "null"
		if e.Running != nil {
			running = fmt.Sprint(*e.Running)
		}
		if str(e.Address) != c.address || e.How != c.how || running != c.running {
			t.Errorf("%s: address %s, how %q, running %s, want %s, %q, %s", name, str(e.Address), e.How, running, c.address, c.how, c.running)
		}
	}
	r := parse(t, "uname", "Linux 6.8 x86_64", "listen", "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:*\nLISTEN 0 9 [::]:11434 [::]:*")
	if l := r.Listener(11434); l == nil || !l.Exposed || r.Listener(80) != nil {
		t.Errorf("Listener(11434) = %+v, Listener(80) = %+v", l, r.Listener(80))
	}
}
