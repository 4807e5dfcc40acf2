package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/remote/remotetest"
)

// kind is an engine under the contract. Its siblings are more rows of kinds.
type kind struct {
	name string
	// program is what install puts into a folder of the PATH.
	program string
	install func(t *testing.T, dir string)
	// engine drives it on a box whose engine's own port is port. With address it must be there.
	engine func(t testing.TB, acc *remotetest.Account, port int, address string) Engine
	// seed puts a model into the account and returns its name.
	seed func(t *testing.T, acc *remotetest.Account, e Engine) string
	// ill makes the program do what the fake one can; nil for a real one.
	ill func(t *testing.T, acc *remotetest.Account, how string)
	// env is more environment of the account.
	env []string
	// says is what stands in its log once it serves.
	says string
	// loads is true for an engine that loads its model before it answers: the steps are told in that order.
	loads bool
	// plain is true for one whose list of models tells nothing of their weights.
	plain bool
	// vague is true for one that does not tell what a model takes.
	vague bool
	// named is the name that it serves a model under. Nil is the model's own.
	named func(model string) string
}

// installSelf puts the test binary into a folder under the name of a program that TestMain then plays.
func installSelf(program string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		self, err := os.Executable()
		if err != nil {
			t.Skip(err)
		}
		if err := os.Symlink(self, filepath.Join(dir, program)); err != nil {
			t.Skip(err)
		}
	}
}

// installPeer puts a real program into a folder. Without it the test is skipped.
func installPeer(program string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		if err := os.Symlink(peer.Need(t, program), filepath.Join(dir, program)); err != nil {
			t.Skip(err)
		}
	}
}

// fall writes how a fake program is ill.
func fall(t *testing.T, acc *remotetest.Account, how string) {
	write(t, filepath.Join(acc.Home, "fake"), how)
}

// scriptedBlob puts the scripted model into the account's models as Ollama has them, without an Ollama.
func scriptedBlob(t *testing.T, acc *remotetest.Account, _ Engine) string {
	t.Helper()
	models := filepath.Join(acc.Home, ".ollama", "models")
	made := filepath.Join(t.TempDir(), "scripted.gguf")
	if err := remotetest.WriteScripted(made); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(file))
	write(t, filepath.Join(models, "blobs", "sha256-"+digest), string(file))
	write(t, filepath.Join(models, "manifests", hub, "library", "scripted", "latest"), fmt.Sprintf(
		`{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":%d,"digest":"sha256:%s"}]}`, len(file), digest))
	return "scripted"
}

var kinds = []kind{
	{
		name: "ollama/fake", program: "ollama", install: installSelf("ollama"), engine: ollamaEngine, ill: fall, says: "Listening on",
		seed: func(t *testing.T, acc *remotetest.Account, _ Engine) string {
			write(t, filepath.Join(acc.Home, ".ollama/models/scripted:latest"), "")
			return "scripted"
		},
	},
	{
		name: "ollama/real", program: "ollama", install: installPeer("ollama"), engine: ollamaEngine, says: "Listening on",
		seed: func(t *testing.T, acc *remotetest.Account, e Engine) string {
			seed(t, e.(*Ollama), acc)
			return "scripted"
		},
	},
	{
		name: "llama-server/fake", program: "llama-server", install: installSelf("llama-server"), engine: llamaEngine, ill: fall,
		says: "listening on", loads: true, plain: true, seed: scriptedBlob,
	},
	{
		name: "llama-server/real", program: "llama-server", install: installPeer("llama-server"), engine: llamaEngine,
		says: "listening on", loads: true, plain: true, env: []string{"LLAMA_ARG_THREADS=1"},
		seed: func(t *testing.T, acc *remotetest.Account, _ Engine) string { return smolInHub(t, acc) },
	},
}

func ollamaEngine(t testing.TB, acc *remotetest.Account, port int, address string) Engine {
	o := testOllama(t, acc, port)
	o.address = address
	return o
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeProgram writes a program. A child of this process that was made meanwhile would have its file open for writing for a
// moment, and until then it could not be run.
func writeProgram(t *testing.T, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	write(t, path, text)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestContract is what every engine keeps.
func TestContract(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			if k.ill == nil {
				alone(t)
			}
			run := func(name string, f func(t *testing.T)) {
				t.Run(name, func(t *testing.T) {
					if k.ill != nil {
						t.Parallel()
					}
					f(t)
				})
			}
			box := func(t *testing.T) (*remotetest.Account, int, Engine) {
				bin := t.TempDir()
				acc := remotetest.NewAccount(t, bin)
				acc.Env = append([]string{"OMP_NUM_THREADS=1"}, k.env...)
				k.install(t, bin)
				port := remotetest.FreePort(t)
				e := k.engine(t, acc, port, "")
				t.Cleanup(func() {
					if _, err := e.Stop(context.WithoutCancel(t.Context())); err != nil {
						t.Errorf("stop at the end: %v", err)
					}
					nothingLeft(t, acc)
				})
				return acc, port, e
			}
			run("life", func(t *testing.T) { acc, port, e := box(t); k.life(t, acc, port, e) })
			run("not installed", func(t *testing.T) {
				acc := remotetest.NewAccount(t)
				for _, d := range strings.Split(acc.Path, ":") {
					if _, err := os.Stat(filepath.Join(d, k.program)); err == nil {
						t.Skipf("it is installed: %s", d)
					}
				}
				e := k.engine(t, acc, remotetest.FreePort(t), "")
				var absent *NotInstalledError
				if _, err := e.Find(t.Context()); !errors.As(err, &absent) {
					t.Errorf("Find = %v", err)
				}
				if _, err := e.Ensure(t.Context(), Plan{Model: "m"}, nil); !errors.As(err, &absent) {
					t.Errorf("Ensure = %v", err)
				}
				if files, err := e.Inventory(t.Context()); err != nil || len(files) > 0 {
					t.Errorf("Inventory = %v, %v", files, err)
				}
				if did, err := e.Stop(t.Context()); err != nil || len(did) > 0 {
					t.Errorf("Stop = %v, %v", did, err)
				}
				nothingLeft(t, acc)
			})
			run("missing model", func(t *testing.T) {
				acc, _, e := box(t)
				var missing *ModelMissingError
				if _, err := e.Ensure(t.Context(), Plan{Model: "scripted"}, nil); !errors.As(err, &missing) || missing.Model != "scripted" {
					t.Errorf("Ensure = %v", err)
				}
				nothingLeft(t, acc)
			})
			run("foreign", func(t *testing.T) { acc, port, e := box(t); k.foreign(t, acc, port, e) })
			run("two laptops at once", func(t *testing.T) {
				acc, port, e := box(t)
				model := k.seed(t, acc, e)
				var wg sync.WaitGroup
				servers := make([]*Server, 3)
				for i := range servers {
					wg.Go(func() {
						s, err := k.engine(t, acc, port, "").Ensure(t.Context(), Plan{Model: model, Context: 4096}, nil)
						if err != nil {
							t.Errorf("laptop %d: %v", i, err)
							return
						}
						servers[i] = s
					})
				}
				wg.Wait()
				if t.Failed() {
					return
				}
				fresh := 0
				for _, s := range servers {
					if s.PID != servers[0].PID || s.Adopted {
						t.Errorf("a server is %+v, the first %+v", s, servers[0])
					}
					if s.Fresh {
						fresh++
					}
				}
				if fresh != 1 {
					t.Errorf("%d of 3 started the server", fresh)
				}
			})
			if k.ill != nil {
				run("ill", func(t *testing.T) { k.illness(t, box) })
			}
		})
	}
}

// nothingLeft checks that no process of ours and no file of ours is left.
func nothingLeft(t testing.TB, acc *remotetest.Account) {
	t.Helper()
	if left := marked(t, acc); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if files, err := filepath.Glob(filepath.Join(acc.Home, ".rlca", "*")); err != nil || len(files) > 0 {
		t.Errorf("files are left: %v", files)
	}
	if _, err := os.Stat(filepath.Join(acc.Home, ".rlca")); err == nil {
		t.Error("~/.rlca is left")
	}
	if files, err := filepath.Glob(filepath.Join(acc.Home, "boxes", "rlca-*.json")); err != nil || len(files) > 0 {
		t.Errorf("containers are left: %v", files)
	}
}

// life is the whole course: idle, started, found from elsewhere, adopted by others, asked, stopped.
func (k kind) life(t *testing.T, acc *remotetest.Account, port int, e Engine) {
	ctx := t.Context()
	var idle *NotRunningError
	if _, err := e.Find(ctx); !errors.As(err, &idle) || idle.Path == "" {
		t.Fatalf("Find on an idle box = %v", err)
	}
	model := k.seed(t, acc, e)
	named := model
	if k.named != nil {
		named = k.named(model)
	}

	var steps []string
	s, err := e.Ensure(ctx, Plan{Model: model, Context: 8192, Parallel: 1}, func(p Progress) {
		steps = append(steps, p.Step)
		if p.Text == "" {
			t.Errorf("no words at %s", p.Step)
		}
		if p.Step == StepServing && (p.Server == nil || p.Server.Address == "") {
			t.Errorf("serving without a server: %+v", p.Server)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Fresh || s.Adopted || s.PID == 0 || portOf(s.Address) != uint16(port) || s.Origin() != "started by rlca" {
		t.Errorf("Ensure = %+v", s)
	}
	if runtime.GOOS == "linux" && (s.LoopbackBound == nil || !*s.LoopbackBound || len(s.Exposed) > 0) {
		t.Errorf("bound to loopback: %v, exposed %v", s.LoopbackBound, s.Exposed)
	}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.PID)); err == nil {
		// After the name: state, parent, group, session. It must not die with the session that started it.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if f[2] != fmt.Sprint(s.PID) || f[3] != fmt.Sprint(s.PID) {
			t.Errorf("group and session %v, want its own, %d", f[2:4], s.PID)
		}
	}
	if m := s.Model; m.Context != 8192 || !sameName(m.Name, named) || m.Base != m.Name && m.Base != model || (m.SizeBytes == 0) != k.vague {
		t.Errorf("loaded %+v", m)
	}
	if i, j := slices.Index(steps, StepServing), slices.Index(steps, StepLoad); i < 0 || j < 0 || (j < i) != k.loads {
		t.Errorf("steps %v", steps)
	}
	if info, err := os.Stat(filepath.Join(acc.Home, ".rlca")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("~/.rlca: %v, %v", info, err)
	}
	if d, err := Answer(ctx, "http://"+s.Address, "", s.Model.Name); err != nil || d <= 0 {
		t.Fatalf("Answer = %v, %v", d, err)
	}
	if l, err := e.Loaded(ctx, s); err != nil || l.Context != 8192 || (l.SizeBytes == 0) != k.vague {
		t.Errorf("after a request, Loaded = %+v, %v", l, err)
	}

	// From another laptop: the same server, not a second one.
	other := k.engine(t, acc, port, "")
	again, err := other.Ensure(ctx, Plan{Model: model, Context: 8192}, nil)
	if err != nil || again.Fresh || again.Adopted || again.PID != s.PID || again.Address != s.Address {
		t.Fatalf("the second Ensure = %+v, %v", again, err)
	}
	if _, err := other.Ensure(ctx, Plan{Model: "no-such-model"}, nil); err == nil {
		t.Fatal("an unknown model was served")
	}
	if undone := other.Undo(ctx, again); len(undone) > 0 {
		t.Errorf("the second laptop undid %v, and had done nothing", undone)
	}
	if found, err := other.Find(ctx); err != nil || found.PID != s.PID || !sameName(found.Model.Name, named) {
		t.Errorf("Find = %+v, %v", found, err)
	}
	files, err := other.Inventory(ctx)
	if err != nil || len(files) != 1 || !sameName(files[0].Name, model) || (files[0].Info == nil) != k.plain || files[0].Bytes == 0 {
		t.Errorf("Inventory = %+v, %v", files, err)
	}
	if text, err := other.Log(ctx); err != nil || !strings.Contains(text, k.says) {
		t.Errorf("Log = %q, %v", text, err)
	}

	did, err := other.Stop(ctx)
	if err != nil || len(did) != 1 || !strings.Contains(did[0], s.Address) {
		t.Errorf("Stop = %v, %v", did, err)
	}
	nothingLeft(t, acc)
	if conn, err := net.Dial("tcp", s.Address); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
	if did, err := other.Stop(ctx); err != nil || len(did) > 0 {
		t.Errorf("a second Stop = %v, %v", did, err)
	}

	// Undo of the one who starts it does the same.
	if s, err = e.Ensure(ctx, Plan{Model: model}, nil); err != nil {
		t.Fatal(err)
	}
	if undone := e.Undo(ctx, s); len(undone) != 1 {
		t.Errorf("Undo = %v", undone)
	}
	nothingLeft(t, acc)
}

// foreign holds the engine's own port with something else: it is never touched, and a wanted address is an error.
func (k kind) foreign(t *testing.T, acc *remotetest.Account, port int, e Engine) {
	requests := 0
	var mu sync.Mutex
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Skip(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		if r.Method != "GET" {
			t.Errorf("the foreign server was asked %s %s", r.Method, r.URL)
		}
		fmt.Fprint(w, "I am \x1b[1msomething\x1b[0m else")
	})}}
	srv.Start()
	defer srv.Close()

	wanted := k.engine(t, acc, port, fmt.Sprintf("127.0.0.1:%d", port))
	var taken *ForeignError
	if _, err := wanted.Ensure(t.Context(), Plan{Model: "m"}, nil); !errors.As(err, &taken) || taken.Said != "I am something else" {
		t.Errorf("Ensure on a foreign address = %v", err)
	}
	model := k.seed(t, acc, e)
	s, err := e.Ensure(t.Context(), Plan{Model: model}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Fresh || portOf(s.Address) == uint16(port) {
		t.Errorf("Ensure beside a foreign server = %+v", s)
	}
	found, err := k.engine(t, acc, port, "").Find(t.Context())
	if err != nil || found.Address != s.Address || found.Adopted {
		t.Errorf("Find = %+v, %v", found, err)
	}
	if _, err := e.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatalf("the foreign server is gone: %v", err)
	}
	resp.Body.Close()
}

// illness has a program that does not come up, or hangs.
func (k kind) illness(t *testing.T, box func(t *testing.T) (*remotetest.Account, int, Engine)) {
	t.Run("dies", func(t *testing.T) {
		t.Parallel()
		acc, _, e := box(t)
		model := k.seed(t, acc, e)
		k.ill(t, acc, "dies")
		var start *StartError
		_, err := e.Ensure(t.Context(), Plan{Model: model}, nil)
		if !errors.As(err, &start) || !strings.Contains(err.Error(), "no compatible GPUs, and no hope") {
			t.Errorf("Ensure = %v", err)
		}
		nothingLeft(t, acc)
	})
	t.Run("port taken at the last moment", func(t *testing.T) {
		t.Parallel()
		acc, port, e := box(t)
		model := k.seed(t, acc, e)
		k.ill(t, acc, fmt.Sprintf("taken %d", port))
		s, err := e.Ensure(t.Context(), Plan{Model: model}, nil)
		if err != nil || portOf(s.Address) == uint16(port) {
			t.Errorf("Ensure = %+v, %v", s, err)
		}
	})
	t.Run("cancelled while it starts, deaf to TERM", func(t *testing.T) {
		t.Parallel()
		acc, _, e := box(t)
		model := k.seed(t, acc, e)
		k.ill(t, acc, "mute")
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := e.Ensure(ctx, Plan{Model: model}, func(p Progress) {
			if p.Step == StepEngine {
				time.AfterFunc(400*time.Millisecond, cancel)
			}
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("Ensure = %v", err)
		}
		nothingLeft(t, acc)
	})
	t.Run("cancelled while it loads", func(t *testing.T) {
		t.Parallel()
		acc, _, e := box(t)
		model := k.seed(t, acc, e)
		k.ill(t, acc, "slow")
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := e.Ensure(ctx, Plan{Model: model}, func(p Progress) {
			if p.Step == StepLoad {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("Ensure = %v", err)
		}
		cancel()
		nothingLeft(t, acc)
	})
	t.Run("killed, and started again", func(t *testing.T) {
		t.Parallel()
		acc, port, e := box(t)
		model := k.seed(t, acc, e)
		s, err := e.Ensure(t.Context(), Plan{Model: model}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := os.FindProcess(s.PID)
		if err != nil {
			t.Fatal(err)
		}
		p.Kill()
		var idle *NotRunningError
		for range 50 { // until its port is closed
			if _, err = e.Find(t.Context()); errors.As(err, &idle) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if idle == nil {
			t.Fatalf("Find after a kill = %v", err)
		}
		again, err := k.engine(t, acc, port, "").Ensure(t.Context(), Plan{Model: model}, nil)
		if err != nil || !again.Fresh || again.PID == s.PID {
			t.Errorf("Ensure after a kill = %+v, %v", again, err)
		}
	})
}
