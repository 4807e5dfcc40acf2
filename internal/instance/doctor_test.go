package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"rlca/internal/box"
	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
	"rlca/tunnel"
)

// gpuBox is what a probe says of a box with one card.
func gpuBox() *probe.Report {
	return &probe.Report{
		OS: "linux", OSName: "Ubuntu 24.04",
		Memory:       probe.Memory{TotalBytes: ptr(int64(64 << 30)), AvailableBytes: ptr(int64(50 << 30)), SwapUsedBytes: ptr(int64(0))},
		Pools:        []probe.Pool{{ID: "gpu0", Kind: probe.Dedicated, TotalBytes: ptr(int64(24 << 30)), FreeBytes: ptr(int64(20 << 30)), BudgetBytes: ptr(int64(19 << 30))}},
		Accelerators: []probe.Accelerator{{Name: "NVIDIA RTX 4090", State: "ok", Pool: ptr("gpu0")}},
		Disk:         []probe.Disk{{Path: "/", FreeBytes: ptr(int64(1 << 30))}, {Path: "/home/me", FreeBytes: ptr(int64(300 << 30))}},
	}
}

// healthy is an exam of a connected host on which nothing is wrong.
func healthy() *Exam {
	p := profiles.Default()
	p.Host = "attic"
	rtt := 11.0
	total, limit := fit.Bytes(22<<30), 262144
	srv := &remote.Server{Engine: "Ollama", Version: "0.32.9", Address: "127.0.0.1:11434", Adopted: true, How: "system service", LoopbackBound: ptr(true)}
	return &Exam{
		Request: Request{Name: "attic", Profile: p},
		Status: &Status{
			Name: "attic", State: "up", Since: time.Now(),
			Forward: ForwardStatus{Listen: "127.0.0.1:11435", Mode: "tcp"},
			Link:    &LinkStatus{State: "up", Since: time.Now(), RTTms: &rtt},
			Engine:  &EngineStatus{Name: "Ollama", Version: "0.32.9", Address: "127.0.0.1:11434", BoundLoopback: ptr(true), Origin: "adopted (system service)"},
			Model:   &ModelStatus{Name: "qwen3-coder:30b", Context: 65536, SizeBytes: 21 << 30, VRAMBytes: 21 << 30},
			Memory:  &MemoryStatus{ModelBytes: ptr(int64(21 << 30)), PredictedBytes: ptr(int64(22 << 30))},
		},
		code: 200, asked: 4 * time.Millisecond, reached: true, known: "~/.ssh/known_hosts",
		target: &tunnel.Target{Host: "attic", HostName: "attic", User: "me", Port: 22},
		survey: &Survey{
			Report: gpuBox(), Engine: remote.NewOllama(remote.Box{}, ""), EngineName: "Ollama", Running: srv, OnBox: true,
			Plan: remote.Plan{Model: "qwen3-coder:30b", Context: 65536}, Fit: &fit.Result{Model: "qwen3-coder:30b", Context: 65536, Total: &total, ModelLimit: &limit, Verdict: fit.Fits},
		},
		can: []string{"completion", "tools"},
	}
}

// apart is healthy for a host that is not connected.
func apart() *Exam {
	x := healthy()
	x.Status, x.code = nil, 0
	x.Request.Profile.Forward.Listen = "127.0.0.1:11434"
	x.held = &remote.Loaded{Name: "qwen3-coder:30b", Context: 65536, SizeBytes: 21 << 30, VRAMBytes: 21 << 30}
	return x
}

// broken is an exam of a host that could not be reached.
func broken(err error) *Exam {
	x := apart()
	x.reached, x.survey, x.held, x.reachErr = false, nil, nil, err
	return x
}

func TestDoctorHealthy(t *testing.T) {
	for name, c := range map[string]struct {
		x    *Exam
		want string
	}{
		"connected":     {healthy(), "port link host-key box engine bind model context placement tools memory disk"},
		"not connected": {apart(), "port link host-key box engine bind model context placement tools memory disk"},
	} {
		var ids []string
		for _, k := range c.x.Checks() {
			if k.ID != "" {
				ids = append(ids, k.ID)
			}
			if !k.OK || k.Severity != Fine || k.Remedy != "" || k.Detail == "" {
				t.Errorf("%s: %+v", name, k)
			}
		}
		if got := strings.Join(ids, " "); got != c.want {
			t.Errorf("%s: checks are %s, want %s", name, got, c.want)
		}
		if c.x.NeedsHuman() {
			t.Errorf("%s: needs a human", name)
		}
	}
}

// Each trouble: what is changed of a healthy exam, and the check that it makes.
func TestDoctorTroubles(t *testing.T) {
	unknown := &tunnel.UnknownHostKeyError{Host: "attic"}
	refusedErr := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, c := range map[string]struct {
		x      *Exam
		change func(*Exam)
		check  string // id and severity
		detail string
		remedy string // in it; empty: none
	}{
		"free port":        {apart(), nil, "port ok", "127.0.0.1:11434 is free", ""},
		"any port":         {apart(), func(x *Exam) { x.Request.Profile.Forward.Listen = "127.0.0.1:0" }, "port ok", "any that is free", ""},
		"taken port":       {apart(), func(x *Exam) { x.portErr = &tunnel.PortTakenError{Addr: "127.0.0.1:11434", Holder: "ollama (pid 812)"} }, "port fail", "taken by ollama (pid 812)", "rlca connect attic --port 11435"},
		"another host's":   {apart(), func(x *Exam) { x.leads = "den" }, "port fail", "127.0.0.1:11434 leads to den already", "rlca disconnect den"},
		"no loopback":      {apart(), func(x *Exam) { x.portErr = errors.New("listen on 10.0.0.1:80: only addresses of loopback") }, "port fail", "only addresses of loopback", ""},
		"the local engine": {apart(), func(x *Exam) { x.Request.Profile.Host = Local; x.portErr = &tunnel.PortTakenError{} }, "port ok", "the engine's own", ""},
		"ours, direct":     {healthy(), func(x *Exam) { x.Status.Forward.Mode = "direct" }, "port ok", "nothing is forwarded", ""},
		"ours, dead":       {healthy(), func(x *Exam) { x.code, x.askErr = 0, refusedErr }, "port fail", "nobody accepts there", "rlca disconnect attic && rlca connect attic"},
		"ours, closed":     {healthy(), func(x *Exam) { x.code, x.askErr = 0, io.ErrUnexpectedEOF }, "port fail", "it closes what it is asked", "rlca logs attic"},
		"ours, slow":       {healthy(), func(x *Exam) { x.code, x.askErr = 0, context.DeadlineExceeded }, "port warn", "no answer within 2.0 s", "--engine"},
		"ours, 503":        {healthy(), func(x *Exam) { x.code = 503 }, "port warn", "the status 503", "rlca logs attic"},
		"ours, held": {healthy(), func(x *Exam) {
			x.code, x.askErr, x.Status.Link.State = 0, context.DeadlineExceeded, "waiting"
		}, "port ok", "callers wait until the link is back", ""},

		"name":         {broken(&tunnel.DialError{Op: "resolve", Addr: "attic", Reason: "no such host"}), nil, "link fail", "resolve attic: no such host", "hint for attic"},
		"timeout":      {broken(fmt.Errorf("dial: %w", context.DeadlineExceeded)), nil, "link fail", "no answer in time", ""},
		"login":        {broken(&tunnel.AuthError{User: "me", Host: "attic"}), nil, "link fail", "no key to log in to me@attic", ""},
		"key: link":    {broken(unknown), nil, "link ok", "me@attic:22 answers", ""},
		"key unknown":  {broken(unknown), nil, "host-key fail", "is not known; offered: X", "rlca trust attic"},
		"key at login": {broken(&tunnel.AuthError{}), nil, "host-key ok", "known, in ~/.ssh/known_hosts", ""},
		"offline":      {healthy(), func(x *Exam) { x.Status.Link.State = "offline" }, "link fail", "no network", "join a network"},
		"needs you": {healthy(), func(x *Exam) {
			x.Status.Link.State, x.Status.Link.LastError = "needs you", "the key has changed"
		}, "link fail", "needs you: the key has changed", "rlca connect attic"},
		"waiting": {broken(&tunnel.DialError{Op: "resolve"}), func(x *Exam) {
			next := time.Now().Add(11 * time.Second)
			x.Status = &Status{Link: &LinkStatus{State: "waiting", LastError: "no route to host", Since: time.Now().Add(-6 * time.Minute), NextTry: &next}}
		}, "link fail", "waiting: no route to host for 6 min, next try in 11 s", "hint for attic"},
		"healing": {healthy(), func(x *Exam) { x.Status.Link.State, x.Status.Link.LastError = "waiting", "reset" }, "link warn", "a new connection gets through", "nothing to do"},
		"up, but no second login": {healthy(), func(x *Exam) {
			x.reached, x.survey, x.reachErr = false, nil, &tunnel.SecretError{User: "me", Host: "attic", Questions: []tunnel.Question{{Kind: "password"}}}
		}, "box warn", "not looked at anew: attic asks for the password", ""},
		"and its engine": {healthy(), func(x *Exam) { x.reached, x.survey, x.reachErr = false, nil, &tunnel.SecretError{} }, "engine ok", "Ollama 0.32.9 on 127.0.0.1:11434, adopted (system service)", ""},

		"no shell": {apart(), func(x *Exam) { x.survey, x.lookErr = nil, &tunnel.NoShellError{Host: "attic"} }, "box fail", "run /bin/sh on attic", ""},
		"driver": {healthy(), func(x *Exam) {
			r := x.survey.Report
			r.Pools[0].Kind, r.Accelerators[0].State, r.Accelerators[0].Pool = probe.HostPool, "driver-mismatch", nil
			r.Warnings = []string{"the NVIDIA driver was updated without a reboot: engines that start now cannot use the GPU; reboot the box"}
		}, "box fail", "engines that start now cannot use the GPU", "reboot the box"},
		"swap": {healthy(), func(x *Exam) {
			x.survey.Report.Warnings = []string{"4.0 GiB of swap are in use: the box is or was short of memory"}
		}, "box warn", "4.0 GiB of swap", "rlca models attic"},
		"asleep": {healthy(), func(x *Exam) {
			x.survey.Report.Warnings = []string{"RX 9070 is asleep: it wakes when an engine uses it"}
		}, "box ok", "asleep", ""},
		"page cache, no vLLM": {healthy(), func(x *Exam) {
			x.survey.Report.Warnings = []string{"30.0 GiB are page cache: vLLM counts them as used; on the box: sudo x"}
		}, "box ok", "NVIDIA RTX 4090, 24.0 GiB, 20.0 free · Ubuntu 24.04", ""},
		"page cache, with vLLM": {healthy(), func(x *Exam) {
			x.survey.Report.Engines = []probe.Engine{{Name: "vllm"}}
			x.survey.Report.Warnings = []string{"30.0 GiB are page cache: vLLM counts them as used; on the box: sudo x"}
		}, "box warn", "vLLM counts them as used", "on the box: sudo x"},

		"not installed": {apart(), func(x *Exam) {
			x.survey.Running, x.survey.Plan, x.survey.Fit, x.lookErr = nil, remote.Plan{}, nil, &remote.NotInstalledError{Engine: "Ollama", Tried: "no ollama"}
		}, "engine fail", "there is no Ollama on the box", "hint for attic"},
		"installed": {apart(), func(x *Exam) { x.survey.Running, x.survey.idle = nil, "0.12.1" }, "engine ok", "Ollama 0.12.1 is installed on the box, connect starts it", ""},
		"gone":      {healthy(), func(x *Exam) { x.survey.Running = nil }, "engine fail", "does not run any more", "rlca disconnect attic && rlca connect attic"},
		"foreign": {apart(), func(x *Exam) {
			x.survey.Report.Listeners = []probe.Listener{{Address: "127.0.0.1", Port: 11434, Process: ptr("python3")}}
			x.survey.Running, x.survey.Plan, x.lookErr = nil, remote.Plan{}, &remote.ForeignError{Engine: "Ollama", Address: "127.0.0.1:11434"}
		}, "engine fail", "something else listens there (python3)", "rlca connect attic --engine none"},
		"inventory": {apart(), func(x *Exam) {
			x.survey.Plan, x.lookErr = remote.Plan{}, errors.New("list the models on attic: it answered 500")
		}, "engine warn", "Ollama 0.32.9 on 127.0.0.1:11434: list the models", ""},
		"none, llama-server": {apart(), func(x *Exam) {
			x.survey.Engine, x.survey.Running, x.survey.Address = nil, nil, "127.0.0.1:8080"
			x.serves = &remote.Serves{Engine: "llama-server", Version: "b11434", Model: "m", Context: 8192}
		}, "engine ok", "llama-server b11434 on 127.0.0.1:8080, the port leads there", ""},
		"none, its context": {apart(), func(x *Exam) {
			x.survey.Engine, x.survey.Running, x.survey.Address = nil, nil, "127.0.0.1:8080"
			x.serves = &remote.Serves{Engine: "llama-server", Model: "m", Context: 8192}
		}, "context warn", "8k tokens, coding harnesses need 64k: longer prompts are refused", "--context 65536"},
		"none, loading": {apart(), func(x *Exam) {
			x.survey.Engine, x.survey.Running, x.survey.Address, x.askedErr = nil, nil, "127.0.0.1:8080", &remote.LoadingError{Address: "127.0.0.1:8080", Text: "Loading model"}
		}, "engine warn", "Loading model", "wait"},
		"none, nothing": {apart(), func(x *Exam) {
			x.survey.Engine, x.survey.Running, x.survey.Address, x.askedErr = nil, nil, "127.0.0.1:8080", &tunnel.RefusedError{}
			x.survey.Report.Engines = []probe.Engine{{Name: "vllm", Address: ptr("127.0.0.1:8000"), Running: ptr(true)}}
		}, "engine fail", "nothing listens on 127.0.0.1:8080", "vllm runs on 127.0.0.1:8000"},

		"exposed service":   {healthy(), func(x *Exam) { expose(x, "*:11434") }, "bind fail", "Ollama on attic listens on every interface (*:11434) without a password", `sudo systemctl edit ollama`},
		"exposed app":       {healthy(), func(x *Exam) { expose(x, "0.0.0.0:11434"); x.survey.Running.How = "desktop app" }, "bind fail", "every interface (0.0.0.0:11434)", "Expose Ollama to the network"},
		"exposed container": {healthy(), func(x *Exam) { expose(x, "[::]:11434"); x.survey.Running.How = "in a container" }, "bind fail", "every interface", "127.0.0.1:11434:11434"},
		"exposed process":   {healthy(), func(x *Exam) { expose(x, "10.0.0.7:11434"); x.survey.Running.How = "user process" }, "bind fail", "listens on 10.0.0.7:11434 without", "OLLAMA_HOST=127.0.0.1:11434"},
		"exposed vLLM":      {healthy(), func(x *Exam) { expose(x, "0.0.0.0:8000"); x.survey.Running.Engine, x.survey.Running.How = "vLLM", "" }, "bind fail", ", open to its network", "--host 127.0.0.1"},
		"and reached":       {healthy(), func(x *Exam) { expose(x, "*:11434"); x.open = "10.0.0.7:11434" }, "bind fail", "10.0.0.7:11434 takes connections from here", "systemctl"},
		"private, reached":  {healthy(), func(x *Exam) { x.open = "10.0.0.7:11434" }, "bind fail", "past the tunnel, although Ollama listens on loopback only", "what opens port 11434"},
		"table unknown":     {healthy(), func(x *Exam) { x.survey.Running.LoopbackBound = nil }, "bind warn", "could not be read", "ss -ltn"},
		"table of the probe": {healthy(), func(x *Exam) {
			x.survey.Running.LoopbackBound = nil
			x.survey.Report.Listeners = []probe.Listener{{Address: "0.0.0.0", Port: 11434, Exposed: true}}
		}, "bind fail", "every interface (0.0.0.0:11434)", "systemctl"},
		"another engine": {healthy(), func(x *Exam) {
			x.survey.Report.Engines = []probe.Engine{{Name: "vllm", Address: ptr("0.0.0.0:8000"), Exposed: ptr(true)}}
			x.survey.Report.Warnings = []string{"vllm listens on 0.0.0.0:8000, open to the network"}
		}, "bind warn", "vllm on attic, beside this path, listens on every interface", "--host 127.0.0.1"},

		"cloud":      {healthy(), func(x *Exam) { x.stub = true }, "model fail", "prompts would leave the box", "rlca models attic"},
		"unloaded":   {healthy(), func(x *Exam) { x.Status.Model.SizeBytes = 0 }, "model ok", "not loaded now", ""},
		"deleted":    {healthy(), func(x *Exam) { x.Status.Model.SizeBytes, x.survey.OnBox = 0, false }, "model fail", "not on the box any more", "--yes"},
		"to be got":  {apart(), func(x *Exam) { x.held, x.survey.OnBox, x.survey.Fit.Weights = nil, false, ptr(fit.Bytes(17<<30)) }, "model warn", "not on the box: a download of 17.0 GiB", "rlca connect attic --model qwen3-coder:30b --yes"},
		"not loaded": {apart(), func(x *Exam) { x.held = &remote.Loaded{} }, "model ok", "connect loads it", ""},
		"no such model": {apart(), func(x *Exam) {
			x.held, x.survey.Fit, x.lookErr = nil, nil, &remote.ModelMissingError{Model: "qwen4", Near: []string{"qwen3"}}
		}, "model fail", "model qwen4 is not on the box", "hint for attic"},

		"cut":        {healthy(), func(x *Exam) { x.Status.Model.Context = 4096 }, "context warn", "loaded with 4k tokens, coding harnesses need 64k: longer prompts are cut without a word", "rlca disconnect attic && rlca connect attic --context 65536"},
		"cut, apart": {apart(), func(x *Exam) { x.held.Context = 4096 }, "context warn", "loaded with 4k tokens", "rlca connect attic --context 65536"},
		"own limit":  {healthy(), func(x *Exam) { x.Status.Model.Context, *x.survey.Fit.ModelLimit = 32768, 32768 }, "context warn", "32k tokens are the model's own limit", "rlca models attic"},
		"as asked":   {healthy(), func(x *Exam) { x.Status.Model.Context, x.Request.Profile.Model.Context = 8192, 8192 }, "context ok", "8k tokens", ""},
		"most":       {healthy(), func(x *Exam) { x.Status.Model.Context, x.Request.Profile.Model.Context = 40960, 0 }, "context ok", "the most that fits", ""},
		"not told":   {healthy(), func(x *Exam) { x.Status.Model.Context = 0 }, "context warn", "does not tell", "update"},
		"beyond": {apart(), func(x *Exam) {
			x.held, x.survey.Fit, x.lookErr = nil, nil, &fit.ContextError{Model: "m", Want: 131072, Limit: 65536}
		}, "context fail", "its own limit is 64k", "--context 65536"},
		"part on CPU": {healthy(), func(x *Exam) { x.Status.Model.VRAMBytes = 14 << 30 }, "placement warn", "33 % on the CPU", "rlca models attic"},
		"all on CPU":  {healthy(), func(x *Exam) { x.Status.Model.VRAMBytes = 0 }, "placement warn", "although the box has a GPU", "rlca logs attic --engine"},
		"no GPU": {healthy(), func(x *Exam) {
			x.Status.Model.VRAMBytes, x.survey.Report.Pools[0].Kind, x.survey.Report.Accelerators = 0, probe.HostPool, nil
		}, "placement ok", "on the CPU", ""},

		"no tools":       {healthy(), func(x *Exam) { x.can = []string{"completion"} }, "tools warn", "calls no tools", "rlca models attic"},
		"catalog: tools": {healthy(), func(x *Exam) { x.can, x.survey.chosen.Model.Tools = nil, "yes" }, "tools ok", "calls tools", ""},

		"scarce":  {healthy(), func(x *Exam) { x.Status.Memory.Warning = "the box swaps: 1.0 GiB more than when it was connected" }, "memory warn", "the box swaps", "rlca models attic"},
		"empty":   {apart(), func(x *Exam) { *x.survey.Report.Memory.AvailableBytes = 1 << 30 }, "memory warn", "only 1.0 GiB of memory are left", "rlca models attic"},
		"numbers": {healthy(), nil, "memory ok", "21.0 GiB the model (predicted 22.0 GiB) · 20.0 of 24.0 GiB free now", ""},
		"too big": {apart(), func(x *Exam) {
			x.held, x.survey.Running.Model = nil, remote.Loaded{}
			x.lookErr = &fit.ShortfallError{Result: *x.survey.Fit, Host: "attic"}
		}, "memory fail", "no model fits on attic", "hint for attic"},

		"full disk":  {healthy(), func(x *Exam) { *x.survey.Report.Disk[1].FreeBytes = 3 << 30 }, "disk warn", "only 3.0 GiB free in /home/me", "ollama rm"},
		"small root": {healthy(), nil, "disk ok", "/home/me 300.0 GiB free", ""},
	} {
		c.x.Advise = func(err error) (facts, hints []string) {
			switch {
			case as[*tunnel.UnknownHostKeyError](err):
				return []string{"offered:   X"}, []string{"rlca trust HOST"}
			case as[*tunnel.DialError](err), as[*remote.NotInstalledError](err), as[*remote.ModelMissingError](err), as[*fit.ShortfallError](err):
				return nil, []string{"hint for HOST"}
			}
			return nil, nil
		}
		if c.change != nil {
			c.change(c.x)
		}
		checks := c.x.Checks()
		found := false
		for _, k := range checks {
			if k.ID+" "+string(k.Severity) == c.check && strings.Contains(k.Detail, c.detail) {
				found = true
				if !strings.Contains(k.Remedy, c.remedy) || c.remedy == "" && k.Remedy != "" {
					t.Errorf("%s: the remedy is %q, want %q", name, k.Remedy, c.remedy)
				}
			}
			if k.OK != (k.Severity == Fine) || strings.ContainsAny(k.Detail, "\n") {
				t.Errorf("%s: %+v", name, k)
			}
		}
		if !found {
			t.Errorf("%s: no check %s that says %q in %+v", name, c.check, c.detail, checks)
		}
	}
}

// expose opens the engine of an exam to the network.
func expose(x *Exam, addr string) {
	s := x.survey.Running
	_, port, _ := net.SplitHostPort(addr)
	s.Address, s.LoopbackBound, s.Exposed = "127.0.0.1:"+port, ptr(false), []string{addr}
}

// What lies behind a break is not judged, and a person is called only where only one can help.
func TestDoctorStops(t *testing.T) {
	for name, c := range map[string]struct {
		x     *Exam
		ids   string
		human bool
	}{
		"no way":       {broken(&tunnel.DialError{Op: "connect"}), "port link", false},
		"key":          {broken(&tunnel.ChangedHostKeyError{}), "port link host-key", true},
		"login":        {broken(&tunnel.PassphraseError{}), "port link host-key", true},
		"configured":   {broken(&tunnel.ConfigError{}), "port link", false},
		"never dialed": {broken(nil), "port link", false},
	} {
		var ids []string
		for _, k := range c.x.Checks() {
			ids = append(ids, k.ID)
		}
		if got := strings.Join(ids, " "); got != c.ids || c.x.NeedsHuman() != c.human {
			t.Errorf("%s: checks %s, human %v; want %s, %v", name, got, c.x.NeedsHuman(), c.ids, c.human)
		}
	}
	x := healthy() // a second login that is refused harms nobody
	x.reached, x.reachErr = false, &tunnel.SecretError{}
	if x.NeedsHuman() {
		t.Error("a link that is up needs a human")
	}
}

// The warnings of every machine of the probe's own tests are told, and what they say to do stands apart.
func TestDoctorProbeWarnings(t *testing.T) {
	files, err := filepath.Glob("../../probe/testdata/*/report.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no reports: %v", err)
	}
	want := map[string]string{
		"server-driver-mismatch":       "fail reboot the box",
		"server-mi210-no-render-group": "fail add it to the groups render and video",
		"desktop-nouveau":              "fail install the NVIDIA driver",
		"desktop-rx9070-asleep":        "ok ",
		"jetson-orin-nano":             "warn ",
		"desktop-rtx4090":              "",
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var golden struct{ Report *probe.Report }
		if err := json.Unmarshal(text, &golden); err != nil || golden.Report == nil {
			t.Fatalf("%s: %v", file, err)
		}
		x := healthy()
		x.survey.Report = golden.Report
		name := filepath.Base(filepath.Dir(file))
		var c checks
		x.box(&c)
		got := ""
		for _, k := range c[1:] {
			t.Logf("%s: %s: %s → %s", name, k.Severity, k.Detail, k.Remedy)
			got += string(k.Severity) + " " + k.Remedy + "\n"
		}
		if w, ok := want[name]; ok && (!strings.HasPrefix(got, w) || w == "" && got != "") {
			t.Errorf("%s: %q, want it to begin with %q", name, got, w)
		}
	}
}

// A real box whose engine listens on every interface: the table of its listeners tells, and so does the doctor.
func TestDoctorExposed(t *testing.T) {
	engine, err := box.StartEngine(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", engine.Addr())
				if err != nil {
					return
				}
				defer out.Close()
				go io.Copy(out, in)
				io.Copy(in, out)
			}()
		}
	}()
	defer func() { ln.Close(); <-done }()
	b, err := box.Start(box.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	req := trusting(t, request(t, b))
	req.Profile.Model.Name, req.Profile.Engine.Name, req.Profile.Engine.Address = engine.Model(), engineOllama, "127.0.0.1:"+port
	x := &Exam{Request: req}
	x.Here(t.Context(), nil)
	r, err := Reach(t.Context(), req, nil, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x.Look(t.Context(), r, func(Event) {})
	found := false
	for _, k := range x.Checks() {
		t.Logf("%s %s: %s → %s", k.Severity, k.ID, k.Detail, k.Remedy)
		found = found || k.ID == "bind" && k.Severity == Fail && strings.Contains(k.Detail, "every interface (0.0.0.0:"+port+") without a password") && strings.Contains(k.Remedy, "OLLAMA_HOST=127.0.0.1:"+port)
	}
	if !found {
		t.Error("it is not told that the engine is open to the network")
	}
}

// A box on which nothing ends holds nobody.
func TestDoctorHangs(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the box's shell is a POSIX script")
	}
	shell := filepath.Join(t.TempDir(), "shell")
	if err := os.WriteFile(shell, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := box.Start(box.Options{Shell: shell})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	req := trusting(t, request(t, b))
	r, err := Reach(t.Context(), req, nil, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	x := &Exam{Request: req}
	x.Look(ctx, r, func(Event) {})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	checks := x.Checks()
	if last := checks[len(checks)-1]; last.ID != "box" || last.Severity != Fail || last.Detail != "no answer in time" {
		t.Errorf("the last check is %+v", last)
	}
}

// trusting is a request that takes the box's key into a file of the test's own.
func trusting(t *testing.T, req Request) Request {
	t.Helper()
	dir := t.TempDir()
	req.SSHConfig = filepath.Join(dir, "config")
	text := "UserKnownHostsFile " + filepath.Join(dir, "known_hosts") + "\nGlobalKnownHostsFile none\n"
	if err := os.WriteFile(req.SSHConfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return req
}
