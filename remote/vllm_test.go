package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"rlca/remote/remotetest"
)

func init() {
	fakePrograms["vllm"] = fakeVLLM
	kinds = append(kinds, kind{
		name: "vllm/fake", program: "vllm", install: installSelf("vllm"), engine: vllmEngine, ill: fall,
		says: "Application startup complete", loads: true, plain: true, named: alias, seed: scriptedCheckpoint,
	})
}

func vllmEngine(t testing.TB, acc *remotetest.Account, port int, address string) Engine {
	return testVLLM(t, acc, port, address)
}

// testVLLM drives the vLLM of an account whose own port is port.
func testVLLM(t testing.TB, acc *remotetest.Account, port int, address string) *VLLM {
	v := NewVLLM(Box{Run: acc.Run, Dial: acc.Dial, Log: testLog(t)}, address)
	v.places, v.port, v.poll = nil, port, 100*time.Millisecond
	return v
}

const scriptedRepo = "rlca/scripted"

// scriptedCheckpoint puts the scripted model into the account's cache of the hub.
func scriptedCheckpoint(t *testing.T, acc *remotetest.Account, _ Engine) string {
	t.Helper()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	repo := filepath.Join(acc.Home, ".cache/huggingface/hub/models--rlca--scripted")
	if err := remotetest.WriteCheckpoint(filepath.Join(repo, "snapshots", commit)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(repo, "refs", "main"), commit)
	return scriptedRepo
}

// fakeVLLMBox is an account with the fake vLLM and the scripted model.
func fakeVLLMBox(t *testing.T) (*remotetest.Account, *VLLM) {
	t.Helper()
	bin := t.TempDir()
	acc := remotetest.NewAccount(t, bin)
	installSelf("vllm")(t, bin)
	scriptedCheckpoint(t, acc, nil)
	v := testVLLM(t, acc, remotetest.FreePort(t), "")
	t.Cleanup(func() {
		if _, err := v.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("stop at the end: %v", err)
		}
		nothingLeft(t, acc)
	})
	return acc, v
}

func TestVLLMStart(t *testing.T) {
	t.Parallel()
	acc, v := fakeVLLMBox(t)
	fall(t, acc, "late")
	ctx := t.Context()
	var said []string
	s, err := v.Ensure(ctx, Plan{Model: scriptedRepo, Context: 8192}, func(p Progress) { said = append(said, p.Step+" "+p.Text) })
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"engine starting vLLM on " + s.Address, "engine vLLM: importing its libraries", "load vLLM: loading weights 33 %", "serving vLLM 0.32.0 on " + s.Address + ", started by rlca"} {
		if !slices.Contains(said, want) {
			t.Errorf("progress %q lacks %q", said, want)
		}
	}
	if len(s.Warnings) > 0 {
		t.Errorf("warnings of a known model: %v", s.Warnings)
	}
	if m := s.Model; m.Name != "scripted" || m.Base != scriptedRepo || m.SizeBytes != 4<<30 || m.VRAMBytes != m.SizeBytes {
		t.Errorf("loaded %+v, want 1.5 + 2.25 + 0.25 GiB", m)
	}
	if err := CallTool(ctx, "http://"+s.Address, "", s.Model.Name); err != nil {
		t.Errorf("CallTool = %v", err)
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID))
	if runtime.GOOS == "linux" && (err != nil || !strings.Contains(string(argv), "\x00--enable-auto-tool-choice\x00--tool-call-parser\x00hermes\x00")) {
		t.Errorf("it runs as %q, %v", argv, err)
	}

	// Another context is another process; the same model by its folder is not.
	t.Run("other context", func(t *testing.T) {
		other := testVLLM(t, acc, v.port, "")
		again, err := other.Ensure(ctx, Plan{Model: scriptedRepo, Context: 4096}, nil)
		if err != nil || !again.Fresh || again.PID == s.PID || again.Model.Context != 4096 {
			t.Fatalf("Ensure = %+v, %v", again, err)
		}
		s = again
	})
	t.Run("a folder", func(t *testing.T) {
		folder := filepath.Join(acc.Home, "Models", "my model")
		if err := remotetest.WriteCheckpoint(folder); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{folder, "~/Models/my model/"} {
			again, err := v.Ensure(ctx, Plan{Model: name, Context: 4096}, nil)
			if err != nil || again.Model.Name != "my-model" || again.Model.Base != folder {
				t.Fatalf("Ensure %s = %+v, %v", name, again, err)
			}
			if again.Fresh != (name == folder) {
				t.Errorf("Ensure %s: fresh %v", name, again.Fresh)
			}
		}
		if err := os.RemoveAll(filepath.Dir(folder)); err != nil {
			t.Fatal(err)
		}
	})
}

// A model that is not there ends no server of ours.
func TestVLLMMissing(t *testing.T) {
	t.Parallel()
	acc, v := fakeVLLMBox(t)
	s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(acc.Home, "half")
	write(t, filepath.Join(folder, "config.json"), `{"model_type":"qwen2"}`)
	write(t, filepath.Join(folder, "model-00001-of-00002.safetensors"), "half")
	gguf := filepath.Join(acc.Home, "m.gguf")
	if err := remotetest.WriteScripted(gguf); err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{
		"org/nowhere": "model org/nowhere is not on the box",
		"qwen3:30b":   "vLLM serves a Hugging Face repository",
		"/nowhere":    "model /nowhere is not on the box",
		folder:        "1 of its 2 files lack",
		gguf:          "it is a GGUF file",
	} {
		_, err := v.Ensure(t.Context(), Plan{Model: model}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Ensure %s = %v, want %q", model, err, want)
		}
	}
	var missing *ModelMissingError
	if _, err := v.Ensure(t.Context(), Plan{Model: "rlca/script"}, nil); !errors.As(err, &missing) || !slices.Equal(missing.Near, []string{scriptedRepo}) {
		t.Errorf("Ensure = %v, near %+v", err, missing)
	}
	if found, err := v.Find(t.Context()); err != nil || found.PID != s.PID {
		t.Errorf("Find = %+v, %v", found, err)
	}
}

func TestVLLMAdopted(t *testing.T) {
	acc := remotetest.NewAccount(t)
	srv := httptest.NewServer(fakeVLLMAPI("org/Served-7B", []string{"served", "org/Served-7B"}, 16384))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	v := testVLLM(t, acc, int(portOf(addr)), "")
	for _, name := range []string{"served", "org/Served-7B"} {
		s, err := v.Ensure(t.Context(), Plan{Model: name, Context: 65536}, nil)
		if err != nil || !s.Adopted || s.Fresh || s.Address != addr || s.Version != "0.32.0" {
			t.Fatalf("Ensure %s = %+v, %v", name, s, err)
		}
		if want := (Loaded{Name: "served", Base: "org/Served-7B", Context: 16384}); s.Model != want {
			t.Errorf("Ensure %s serves %+v, want %+v", name, s.Model, want)
		}
	}
	var other *ServesOtherError
	if _, err := v.Ensure(t.Context(), Plan{Model: "org/Wanted"}, nil); !errors.As(err, &other) || other.Want != "org/Wanted" ||
		other.Serves != "served (org/Served-7B) with a context of 16384" {
		t.Errorf("Ensure of another model = %v", err)
	}
	if did, err := v.Stop(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	if files, err := v.Inventory(t.Context()); err != nil || len(files) != 1 || files[0].Name != "org/Served-7B" {
		t.Errorf("Inventory = %+v, %v", files, err)
	}
}

// Others that have a /version, or models of their own.
func TestVLLMFingerprint(t *testing.T) {
	acc := remotetest.NewAccount(t)
	answers := func(list map[string]string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, ok := list[r.URL.Path]
			if !ok {
				w.WriteHeader(http.StatusNotFound)
			}
			io.WriteString(w, text)
		}))
		t.Cleanup(srv.Close)
		return strings.TrimPrefix(srv.URL, "http://")
	}
	models := func(owner string) string { return `{"data":[{"id":"m","owned_by":"` + owner + `"}]}` }
	for name, c := range map[string]struct {
		says map[string]string
		who  finding
		said string
	}{
		"vLLM":                 {map[string]string{"/version": `{"version":"0.32.0"}`, "/v1/models": models("vllm")}, itself, ""},
		"TensorRT-LLM":         {map[string]string{"/version": `{"version":"1.3.0"}`, "/v1/models": models("tensorrt_llm")}, foreign, "a model of tensorrt_llm"},
		"llama-server":         {map[string]string{"/": "<html>", "/v1/models": models("llamacpp")}, foreign, "<html>"},
		"one that wants a key": {map[string]string{"/version": `{"version":"0.32.0"}`}, foreign, ""},
		"a web server":         {map[string]string{"/": "hello", "/version": "hello"}, foreign, "hello"},
	} {
		if id := testVLLM(t, acc, 1, "").fingerprint(t.Context(), answers(c.says)); id.who != c.who || id.said != c.said {
			t.Errorf("%s: %+v, want %v %q", name, id, c.who, c.said)
		}
	}
	if id := testVLLM(t, acc, 1, "").fingerprint(t.Context(), fmt.Sprintf("127.0.0.1:%d", remotetest.FreePort(t))); id.who != nobody || id.err == nil {
		t.Errorf("a closed port: %+v", id)
	}
}

// What the API process leaves behind when it is killed is ended by Stop.
func TestVLLMOrphan(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only /proc shows the mark of a child")
	}
	acc, v := fakeVLLMBox(t)
	s, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(s.PID)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	for deadline := time.Now().Add(5 * time.Second); len(marked(t, acc))+len(session(s.PID)) > 1 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	if left := session(s.PID); len(left) != 1 {
		t.Fatalf("after a kill there are %v, want the engine's process", left)
	}
	if did, err := v.Stop(t.Context()); err != nil || len(did) != 1 || !strings.Contains(did[0], "left behind") {
		t.Errorf("Stop = %v, %v", did, err)
	}
	if left := session(s.PID); len(left) > 0 {
		t.Errorf("Stop left %v", left)
	}
	nothingLeft(t, acc)

	// The session of a number that another process has now is not ours.
	f, err := v.look(t.Context())
	if err != nil || f.alive {
		t.Fatalf("look = %+v, %v", f, err)
	}
	stranger := exec.Command("/bin/sh", "-c", "exec env -i sleep 30")
	stranger.SysProcAttr = ownSession()
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stranger.Process.Kill(); stranger.Wait() }()
	time.Sleep(100 * time.Millisecond)
	write(t, filepath.Join(acc.Home, ".rlca", "vllm.pid"), fmt.Sprintf("%d\n1\n%s\n127.0.0.1:8000\n", stranger.Process.Pid, nonce()))
	if did, err := v.Stop(t.Context()); err != nil || len(did) > 0 {
		t.Errorf("Stop with the number of a stranger = %v, %v", did, err)
	}
	if len(session(stranger.Process.Pid)) != 1 {
		t.Error("a stranger was ended")
	}
}

// session lists the processes of a session, zombies left out.
func session(id int) (pids []string) {
	for _, pid := range processes() {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		if w := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); w[0] != "Z" && w[3] == fmt.Sprint(id) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// One that writes nothing and does nothing is not waited for.
func TestVLLMStall(t *testing.T) {
	t.Parallel()
	acc, v := fakeVLLMBox(t)
	fall(t, acc, "slow")
	l := v.self
	v.self = stalling{v}
	defer func() { v.self = l }()
	var start *StartError
	if _, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo}, nil); !errors.As(err, &start) || !strings.Contains(start.Reason, "stands still") {
		t.Errorf("Ensure = %v", err)
	}
	nothingLeft(t, acc)
}

// stalling has little patience.
type stalling struct{ *VLLM }

func (s stalling) command(ctx context.Context, f *facts, plan Plan, addr string) (job, error) {
	j, err := s.VLLM.command(ctx, f, plan, addr)
	j.stall = time.Second
	return j, err
}

// A start that dies with each of the known texts, and the watch over it.
func TestVLLMDies(t *testing.T) {
	t.Parallel()
	acc, v := fakeVLLMBox(t)
	fall(t, acc, "fails")
	write(t, filepath.Join(acc.Home, "text"), `(EngineCore pid=12) ERROR 11-24 08:07:00 [core.py:1000] EngineCore failed to start.
(EngineCore pid=12) ERROR 11-24 08:07:00 [core.py:1000] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-24 08:07:00 [core.py:1000]   File "core.py", line 1, in run
(EngineCore pid=12) ERROR 11-24 08:07:00 [core.py:1000] ValueError: To serve at least one request with the model's max seq len (65536), (0.03 GiB KV cache is needed, which is larger than the available KV cache memory (0.01 GiB). Based on the available memory, the estimated maximum model length is 16999. Try increasing `+"`gpu_memory_utilization`"+`
(APIServer pid=11) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
`)
	var start *StartError
	_, err := v.Ensure(t.Context(), Plan{Model: scriptedRepo, Context: 65536}, nil)
	if !errors.As(err, &start) || start.Class != "context" || start.Context != 16384 {
		t.Errorf("Ensure = %v, %+v", err, start)
	}
	nothingLeft(t, acc)

	write(t, filepath.Join(acc.Home, "text"), "AssertionError: Error in memory profiling. Initial free memory 1, current free memory 2.\n")
	starts := 0
	_, err = v.Ensure(t.Context(), Plan{Model: scriptedRepo}, func(p Progress) {
		if strings.HasPrefix(p.Text, "starting vLLM on 127") {
			starts++
		}
	})
	if !errors.As(err, &start) || start.Class != "race" || starts != 2 {
		t.Errorf("Ensure = %v after %d starts, want 2", err, starts)
	}
}

func TestVLLMVersion(t *testing.T) {
	t.Parallel()
	acc, v := fakeVLLMBox(t)
	if f, err := v.look(t.Context()); err != nil || f.path == "" || f.vllm.version != "" {
		t.Errorf("look = %+v, %v", f, err)
	}
	venv := filepath.Join(acc.Home, ".rlca", "vllm")
	write(t, filepath.Join(venv, "lib/python3.12/site-packages/vllm-0.31.2+cu130.dist-info/METADATA"), "")
	for name, head := range map[string]string{
		"short": "#!" + venv + "/bin/python\n",
		"long":  "#!/bin/sh\n'''exec' \"" + venv + "/bin/python3\" \"$0\" \"$@\"\n' '''\n",
	} {
		dir := t.TempDir()
		writeProgram(t, filepath.Join(dir, "vllm"), head+"import vllm\n")
		box := *acc
		box.Path = dir + ":" + acc.Path
		f, err := testVLLM(t, &box, 1, "").look(t.Context())
		if err != nil || f.vllm.version != "0.31.2+cu130" || f.vllm.bin != venv+"/bin" {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(acc.Home, ".rlca")); err != nil {
		t.Fatal(err)
	}
}
