package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/internal/peer"
	"rlca/internal/supervisor"
	"rlca/remote"
	"rlca/remote/remotetest"
)

// How far a prediction may be from what the engine says that it allocated, relative. Weights and cache are arithmetic;
// the buffers follow formulas that were measured on the engines that make peers builds, and are rougher on others. Logs
// round. A process holds no more than was predicted and a little, and less while it has not touched all that it has.
const (
	exact    = 0.001
	measured = 0.03
	rough    = 0.25
	rounding = fit.MiB / 100
	beyond   = 0.10
)

// A real model in real engines: what rlca predicts against what the engine logs, part by part, at two contexts, and
// against what its process holds.
func TestRealFit(t *testing.T) {
	model := peer.Need(t, peer.Model)
	peer.Need(t, "sshd")
	t.Run("ollama", func(t *testing.T) {
		ollama := peer.Need(t, "ollama")
		o := remotetest.StartOllama(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := remotetest.Create(ctx, o.URL, "smollm2:135m", model, map[string]any{"parameters": map[string]any{"num_thread": 1}}); err != nil {
			t.Fatal(err)
		}
		o.Stop()
		for _, tokens := range []int{2048, 8192} {
			t.Run(strconv.Itoa(tokens), func(t *testing.T) { fitOllama(t, ollama, o.Models, tokens) })
		}
	})
	t.Run("llama-server", func(t *testing.T) {
		for _, tokens := range []int{2048, 8192} {
			t.Run(strconv.Itoa(tokens), func(t *testing.T) { fitLlamaServer(t, model, tokens) })
		}
	})
}

// fitOllama has rlca start Ollama on the box. A laptop that has not seen the load predicts it: nothing is corrected.
func fitOllama(t *testing.T, ollama, models string, tokens int) {
	home := t.TempDir()
	sshd := peer.StartSSHD(t, "SetEnv HOME="+home+" OLLAMA_MODELS="+models+" OMP_NUM_THREADS=1 PATH="+filepath.Dir(ollama)+":/usr/bin:/bin:/usr/sbin")
	l, fresh := newLaptop(t), newLaptop(t)
	engine, listen := remotetest.FreePort(t), remotetest.FreePort(t)
	for _, l := range []*laptop{l, fresh} {
		l.write("box", fmt.Sprintf("host = \"box\"\n[engine]\naddress = \"127.0.0.1:%d\"\n[forward]\nlisten = \"127.0.0.1:%d\"\n", engine, listen))
	}
	wanted := []string{"-F", sshd.Config, "--model", "smollm2:135m", "--context", strconv.Itoa(tokens)}

	l.must(append(wanted, "connect", "box", "--yes")...)
	h := connected(t, l, func(h instance.Status) bool { return h.Memory != nil && h.Memory.Engine != nil }) // read once it is ready
	p := predicted(t, fresh, append(wanted, "fit", "box"))
	if h.Model.Context != tokens {
		t.Errorf("the model has a context of %d, want %d", h.Model.Context, tokens)
	}
	if m := h.Memory; m.PredictedBytes == nil {
		t.Error("connect did not predict")
	} else if *m.PredictedBytes != int64(*p.Total) {
		t.Errorf("before the load connect predicted %d bytes, now it is %d", *m.PredictedBytes, *p.Total)
	}
	said := h.Memory.Engine
	held := resident(func(cmd, env []byte) bool {
		return bytes.Contains(env, []byte("HOME="+home+"\x00")) && bytes.Contains(cmd, []byte("\x00runner\x00"))
	})
	band := rough
	if h.Engine.Version == "0.17.4" {
		band = measured
	}
	compare(t, strings.TrimSpace("Ollama "+h.Engine.Version), band, p, remote.Buffers{
		Weights: said.WeightsBytes, KV: said.KVBytes, State: said.StateBytes, Compute: said.ComputeBytes,
	}, held)
	l.must("disconnect", "--stop-engine")
	nothingLeft(t, l, home, engine, listen)
}

// fitLlamaServer predicts for a llama-server that somebody runs on the box.
func fitLlamaServer(t *testing.T, model string, tokens int) {
	s := remotetest.StartLlamaServer(t, model, "-c", strconv.Itoa(tokens))
	home := t.TempDir()
	sshd := peer.StartSSHD(t, "SetEnv HOME="+home+" PATH=/usr/bin:/bin:/usr/sbin")
	l := newLaptop(t)
	listen := remotetest.FreePort(t)
	l.write("box", fmt.Sprintf("host = \"box\"\n[engine]\nname = \"none\"\naddress = %q\n[forward]\nlisten = \"127.0.0.1:%d\"\n", s.Address, listen))
	l.must("-F", sshd.Config, "connect", "box")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := remote.Answer(ctx, fmt.Sprintf("http://127.0.0.1:%d", listen), "", "smollm2"); err != nil {
		t.Fatalf("a completion through the tunnel: %v", err)
	}
	log, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	said, ok := remote.ParseBuffers(string(log))
	if !ok {
		t.Fatalf("the log does not say what was allocated:\n%s", log)
	}
	held := resident(func(cmd, _ []byte) bool {
		return bytes.Contains(cmd, []byte(s.Address[strings.LastIndexByte(s.Address, ':')+1:]+"\x00-m\x00"))
	})

	// What the arithmetic alone says of the file, then what rlca says of what it finds on the box.
	name, band := strings.TrimSpace("llama-server "+s.Build), rough
	if n, _ := strconv.Atoi(strings.TrimPrefix(s.Build, "b")); n >= 11434 {
		band = measured
	}
	compare(t, name+" by the file alone", band, fromFile(t, model, tokens, s.Build), said, held)
	p := predicted(t, l, []string{"-F", sshd.Config, "fit", "box"})
	if p.Context != tokens {
		t.Errorf("fit found a context of %d, want %d", p.Context, tokens)
	}
	compare(t, name, band, p, said, held)
	connected(t, l, func(h instance.Status) bool {
		return h.Memory != nil && h.Memory.PredictedBytes != nil && *h.Memory.PredictedBytes == int64(*p.Total)
	})
	l.must("disconnect")
	if _, err := remote.Answer(ctx, s.URL, "", "smollm2"); err != nil {
		t.Errorf("the llama-server that rlca did not start, after disconnect: %v", err)
	}
}

// predicted is what a fit on the laptop answers.
func predicted(t *testing.T, l *laptop, args []string) fit.Result {
	t.Helper()
	out, _ := l.must(append(args, "--json")...)
	var r fit.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
	if r.Weights == nil || r.KV == nil || r.State == nil || r.Compute == nil || r.Reserve == nil || r.Total == nil || r.Correction != nil {
		t.Fatalf("the prediction lacks a part, or was corrected:\n%s", out)
	}
	return r
}

// fromFile is the prediction for a llama-server on a CPU, from the model's file alone.
func fromFile(t *testing.T, path string, tokens int, build string) fit.Result {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c, whole, err := fit.FromGGUF(data, fit.Bytes(len(data)))
	if err != nil || !whole {
		t.Fatalf("the header of %s: whole %v, %v", path, whole, err)
	}
	r, err := fit.Check(fit.Ask{Model: c.Model, Quant: c.Quant, WeightsBytes: c.WeightsBytes, Context: tokens, Engine: "llama-server", EngineVersion: build})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// connected is the status of the one host of a laptop, once it has what is waited for.
func connected(t *testing.T, l *laptop, has func(instance.Status) bool) instance.Status {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, _ := l.must("status", "--json")
		var st supervisor.Status
		if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Hosts) != 1 {
			t.Fatalf("%d hosts, %v in:\n%s", len(st.Hosts), err, out)
		}
		if has(st.Hosts[0]) {
			return st.Hosts[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("the status does not have what is waited for:\n%s", out)
		}
	}
}

// compare prints a prediction beside what the engine says and what its process holds, and holds it to the bands.
func compare(t *testing.T, engine string, band float64, p fit.Result, said remote.Buffers, held fit.Bytes) {
	t.Helper()
	line := fmt.Sprintf("real fit: %s, SmolLM2-135M at %d:", engine, p.Context)
	for _, part := range []struct {
		name      string
		predicted fit.Bytes
		said      int64
		band      float64
	}{
		{"weights", sum(p.Weights, p.Repack, p.Tied), said.Weights, exact},
		{"KV", *p.KV, said.KV, exact},
		{"state", *p.State, said.State, exact},
		{"compute", *p.Compute, said.Compute, band},
	} {
		said := fit.Bytes(part.said)
		if part.predicted == 0 && said == 0 {
			continue
		}
		line += fmt.Sprintf(" %s %.2f of %.2f MiB (%s),", part.name, mib(part.predicted), mib(said), off(part.predicted, said))
		if d := part.predicted - said; float64(max(d, -d)) > part.band*float64(said)+float64(rounding) {
			t.Errorf("%s at %d: %s is predicted as %d bytes, the engine says %d (%s), want within %.1f %%",
				engine, p.Context, part.name, part.predicted, said, off(part.predicted, said), 100*part.band)
		}
	}
	if float64(held) > float64(*p.Total)*(1+beyond) {
		t.Errorf("%s at %d: %d bytes are predicted, and its process holds %d", engine, p.Context, *p.Total, held)
	}
	t.Logf("%s process %.0f of %.0f MiB (%s)", line, mib(*p.Total), mib(held), off(*p.Total, held))
}

func sum(parts ...*fit.Bytes) (total fit.Bytes) {
	for _, p := range parts {
		if p != nil {
			total += *p
		}
	}
	return total
}

func mib(b fit.Bytes) float64 { return float64(b) / float64(fit.MiB) }

// off is by how much a prediction misses.
func off(predicted, real fit.Bytes) string {
	if real == 0 {
		return "not known"
	}
	return fmt.Sprintf("%+.2f %%", 100*(float64(predicted)/float64(real)-1))
}

// resident is the memory that processes of this machine hold, pages of mapped files included: those whose command and
// environment, words that end with a zero byte, are of the kind. 0 where there is no /proc.
func resident(kind func(cmd, env []byte) bool) (total fit.Bytes) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, f := range folders {
		cmd, err1 := os.ReadFile(filepath.Join(f, "cmdline"))
		env, err2 := os.ReadFile(filepath.Join(f, "environ"))
		if err1 != nil || err2 != nil || !kind(cmd, env) {
			continue
		}
		statm, _ := os.ReadFile(filepath.Join(f, "statm")) // pages: of the address space, of those in memory, …
		if words := strings.Fields(string(statm)); len(words) > 1 {
			pages, _ := strconv.Atoi(words[1])
			total += fit.Bytes(pages * os.Getpagesize())
		}
	}
	return total
}
