package remote

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// hostile is text of a user that would do something if it stood in code, in a string of either kind, or in a shell.
const hostile = `'; Remove-Item C:\ -Recurse; "$(calc)" %PATH% & calc`

// No PowerShell is there to try the scripts: at least all that is opened is closed, and no name of the prelude is used for
// something else, in small letters or in capitals.
func TestWindowsScripts(t *testing.T) {
	t.Parallel()
	taken := strings.Fields("tag utf std dir arg lock")
	for name, body := range windowsBodies {
		all := fmt.Sprintf(windowsPrelude, name, "rlca0", "e30=") + body + windowsEnd
		for _, pair := range []string{"{}", "()", "[]", `""`, "''"} {
			text := strings.ReplaceAll(all, `[0-9a-f]`, "")
			if open, closed := strings.Count(text, pair[:1]), strings.Count(text, pair[1:]); open != closed || pair[0] == pair[1] && open%2 != 0 {
				t.Errorf("%s: %q: %d and %d", name, pair, open, closed)
			}
		}
		if strings.Contains(all, "\t") || strings.ContainsFunc(all, func(r rune) bool { return r > '~' }) {
			t.Errorf("%s: tabs, or not ASCII", name)
		}
		for _, v := range taken {
			for _, set := range []string{"$" + v + "=", "foreach($" + v + " ", "function " + v} {
				if strings.Contains(strings.ToLower(body), set) && !(v == "lock" && set == "$lock=") {
					t.Errorf("%s: %s", name, set)
				}
			}
		}
	}
}

func TestWindowsAdopts(t *testing.T) {
	t.Parallel()
	for name, garble := range map[string]func([]byte) []byte{
		"":       nil,
		"UTF-16": wide,
		"CLIXML": func(out []byte) []byte {
			return []byte("#< CLIXML\r\n" + strings.ReplaceAll(string(out), "\n", "\r\n") + `<Objs Version="1.1.0.1"><Obj S="progress" RefId="0"><T>x</T></Obj></Objs>`)
		},
	} {
		t.Run("output "+name, func(t *testing.T) {
			b := newWindowsBox(t)
			b.garble, b.denied, b.netstat = garble, true, true // as for an account without rights
			f := newFake("scripted:latest")
			b.app("127.0.0.1:11434", f)
			before := b.names()
			o := b.engine("")
			s, err := o.Find(t.Context())
			if err != nil || !s.Adopted || s.Origin() != "adopted (Windows desktop app)" || s.LoopbackBound == nil || !*s.LoopbackBound {
				t.Fatalf("Find = %+v, %v", s, err)
			}
			s, err = o.Ensure(t.Context(), Plan{Model: "scripted", Context: 32768, MayDerive: true}, nil)
			if err != nil || s.Fresh || s.Model.Context != 32768 || s.Added == "" || s.Model.Base != "scripted:latest" {
				t.Fatalf("Ensure = %+v, %v", s, err)
			}
			if want := []string{"127.0.0.1:11434 " + s.Added}; !slices.Equal(b.derived, want) {
				t.Errorf("remembered %q, want %q", b.derived, want)
			}
			list, err := o.Inventory(t.Context())
			if err != nil || len(list) != 1 || list[0].Name != "scripted:latest" || list[0].Info == nil {
				t.Errorf("Inventory = %+v, %v", list, err)
			}
			if l, err := o.Loaded(t.Context(), s); err != nil || l.Context != 32768 {
				t.Errorf("Loaded = %+v, %v", l, err)
			}
			did, err := b.engine("").Stop(t.Context()) // from another laptop
			if err != nil || !slices.Equal(did, []string{"removed " + s.Added}) || len(b.derived) != 0 || f.models[s.Added] != nil {
				t.Errorf("Stop = %q, %v; %q", did, err, b.derived)
			}
			if after := b.names(); !slices.Equal(before, after) || b.count("kill")+b.count("launch") > 0 {
				t.Errorf("before %q, after %q", before, after)
			}
		})
	}
}

func TestWindowsStarts(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	other := b.spawn(1, "ollama.exe", `ollama runner --model y`) // somebody's; its parent is older
	b.spawn(1, "cmd.exe", `cmd.exe /c "set RLCA_OWNER=rlca00&x"`)
	o := b.engine("")
	var idle *NotRunningError
	if _, err := o.Find(t.Context()); !errors.As(err, &idle) || idle.Path != b.path {
		t.Fatalf("Find = %v", err)
	}
	var steps []string
	s, err := o.Ensure(t.Context(), Plan{Model: "scripted", Context: 16384, Laptop: "abcd", Env: []string{"OLLAMA_X=" + hostile}}, func(p Progress) { steps = append(steps, p.Text) })
	if err != nil {
		t.Fatal(err)
	}
	if s.Adopted || !s.Fresh || s.Address != "127.0.0.1:11434" || s.Model.Context != 16384 || s.PID != int(b.rec["pid"].(float64)) || s.LoopbackBound == nil || !*s.LoopbackBound {
		t.Errorf("Ensure = %+v", s)
	}
	want := map[string]string{
		"OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_CONTEXT_LENGTH": "16384", "OLLAMA_X": hostile, "OLLAMA_NO_CLOUD": "1", "OLLAMA_KEEP_ALIVE": "-1",
		"OLLAMA_NOPRUNE": "1", "OLLAMA_LOAD_TIMEOUT": "20m", "RLCA_OWNER": b.rec["mark"].(string),
	}
	if !maps.Equal(b.env, want) || laptopOf(b.env["RLCA_OWNER"]) != "abcd" {
		t.Errorf("environment %q", b.env)
	}
	if text := strings.Join(steps, " · "); !strings.Contains(text, "starting Ollama on 127.0.0.1:11434") {
		t.Errorf("told: %s", text)
	}
	// Another laptop finds it, and starts none.
	again, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
	if err != nil || again.Adopted || again.Fresh || again.PID != s.PID || b.count("launch") != 1 {
		t.Errorf("Ensure of another laptop = %+v, %v", again, err)
	}
	if text, err := o.Log(t.Context()); err != nil || text != "Listening on 127.0.0.1:11434\n" {
		t.Errorf("Log = %q, %v", text, err)
	}
	did, err := b.engine("").Stop(t.Context())
	if err != nil || len(did) != 1 || !strings.HasPrefix(did[0], "stopped Ollama on 127.0.0.1:11434: it held 3.0 GiB, all of it is free again") {
		t.Errorf("Stop = %q, %v", did, err)
	}
	if got := b.names(); !slices.Equal(got, []string{"ollama.exe", "cmd.exe"}) || b.find(other) == nil || b.rec != nil || b.log != nil {
		t.Errorf("left: %q, record %v, log %q", got, b.rec, b.log)
	}
	if did, err := b.engine("").Stop(t.Context()); err != nil || len(did) != 0 {
		t.Errorf("second Stop = %q, %v", did, err)
	}
}

// Somebody else has launched one in the moment between our look and our launch.
func TestWindowsSecondOfTwo(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	first := b.engine("")
	s, err := first.Ensure(t.Context(), Plan{Model: "scripted"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.engine("").launch(t.Context(), "rlca1", job{name: "ollama", address: "127.0.0.1:11435", argv: []string{b.path, "serve"}, log: "ollama.log"})
	if err != nil || l.ours || l.address != s.Address || l.pid != s.PID {
		t.Errorf("launch = %+v, %v", l, err)
	}
	// What the second one would undo is not the first one's.
	if _, err := b.engine("").halt(t.Context(), "ollama", "rlca1", "ollama.log"); err != nil || !b.alive() || b.rec == nil {
		t.Errorf("halt of another mark: %v, record %v", err, b.rec)
	}
	if did := first.Undo(t.Context(), s); len(did) == 0 || b.alive() {
		t.Errorf("Undo = %q", did)
	}
}

func TestWindowsPorts(t *testing.T) {
	t.Parallel()
	stranger := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "something else") })
	t.Run("a stranger's", func(t *testing.T) {
		t.Parallel()
		b := newWindowsBox(t)
		pid := b.spawn(1, "node.exe", "")
		b.listen("127.0.0.1:11434", pid, stranger)
		s, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
		if err != nil || s.Address != "127.0.0.1:11435" || b.find(pid) == nil {
			t.Errorf("Ensure = %+v, %v", s, err)
		}
		var foreign *ForeignError
		if _, err := newIdle(t, b).Ensure(t.Context(), Plan{Model: "scripted", Address: "127.0.0.1:11434"}, nil); !errors.As(err, &foreign) || foreign.Said != "something else" {
			t.Errorf("Ensure there = %v", err)
		}
	})
	t.Run("taken at the last moment", func(t *testing.T) {
		t.Parallel()
		b := newWindowsBox(t)
		b.born = func(b *windowsBox) bool {
			if strings.HasSuffix(b.env["OLLAMA_HOST"], ":11434") {
				b.log = []string{"Error: listen tcp 127.0.0.1:11434: bind: Only one usage of each socket address (protocol/network address/port) is normally permitted."}
				return false
			}
			return true
		}
		s, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
		if err != nil || s.Address != "127.0.0.1:11435" {
			t.Errorf("Ensure = %+v, %v", s, err)
		}
	})
	t.Run("taken by one that answers like it", func(t *testing.T) {
		t.Parallel()
		b := newWindowsBox(t)
		pid := 0
		b.born = func(b *windowsBox) bool {
			pid = b.spawn(1, "proxy.exe", "")
			b.listen("127.0.0.1:11434", pid, newFake("scripted:latest"))
			return true
		}
		var start *StartError
		if _, err := b.engine("127.0.0.1:11434").Ensure(t.Context(), Plan{Model: "scripted"}, nil); !errors.As(err, &start) {
			t.Errorf("Ensure = %v", err)
		}
		if got := b.names(); !slices.Equal(got, []string{"proxy.exe"}) {
			t.Errorf("left: %q", got)
		}
	})
	t.Run("open to the network", func(t *testing.T) {
		t.Parallel()
		b := newWindowsBox(t)
		b.app("0.0.0.0:11434", newFake("scripted:latest"))
		s, err := b.engine("").Find(t.Context())
		if err != nil || s.LoopbackBound == nil || *s.LoopbackBound || !slices.Equal(s.Exposed, []string{"0.0.0.0:11434"}) {
			t.Fatalf("Find = %+v, %v", s, err)
		}
		if r := s.Remedy(); !strings.Contains(r, "Expose Ollama to the network") || !strings.Contains(r, "remove OLLAMA_HOST from the account's environment variables") {
			t.Errorf("Remedy = %s", r)
		}
		service := &Server{Engine: "Ollama", Address: "127.0.0.1:11434", How: "Windows service"}
		if r := service.Remedy(); !strings.Contains(r, "OLLAMA_HOST=127.0.0.1:11434") || strings.Contains(r, "systemctl") {
			t.Errorf("Remedy of a service = %s", r)
		}
	})
	t.Run("ours is open although told not to", func(t *testing.T) {
		t.Parallel()
		b := newWindowsBox(t)
		b.born = func(b *windowsBox) bool {
			b.listen("0.0.0.0:11434", b.next, newFake("scripted:latest"))
			return true
		}
		var start *StartError
		if _, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil); !errors.As(err, &start) || !strings.Contains(start.Reason, "0.0.0.0:11434") {
			t.Errorf("Ensure = %v", err)
		}
		if got := b.names(); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	})
}

// newIdle ends what rlca has started on the box, and drives it.
func newIdle(t *testing.T, b *windowsBox) *Ollama {
	t.Helper()
	if _, err := b.engine("").Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b.engine("")
}

func TestWindowsIll(t *testing.T) {
	t.Parallel()
	ensure := func(t *testing.T, b *windowsBox, plan Plan) error {
		plan.Model = "scripted"
		_, err := b.engine("").Ensure(t.Context(), plan, nil)
		if err == nil {
			t.Fatal("Ensure went well")
		}
		return err
	}
	for name, c := range map[string]struct {
		ill  func(b *windowsBox)
		plan Plan
		says []string
	}{
		"dies": {func(b *windowsBox) {
			b.born = func(b *windowsBox) bool {
				b.log = append(b.log, "Error: \x1b[31mno compatible\x1b[0m GPUs, and \x07no hope")
				return false
			}
		}, Plan{}, []string{"start Ollama on 127.0.0.1:11434", "no compatible GPUs, and no hope"}},
		"no rights":     {func(b *windowsBox) { b.denied = true }, Plan{}, []string{"Access denied", "only an administrator's account", "start Ollama there by hand"}},
		"a policy":      {func(b *windowsBox) { b.mode = "ConstrainedLanguage" }, Plan{}, []string{"ConstrainedLanguage", "--engine none"}},
		"no PowerShell": {func(b *windowsBox) { b.refuses = "This program is blocked by group policy.\r\n" }, Plan{}, []string{"run PowerShell on the box", "it ended with 1"}},
		"arguments":     {func(*windowsBox) {}, Plan{Args: []string{"--verbose"}}, []string{"may only be NAME=value", "--verbose"}},
		"not installed": {func(b *windowsBox) { b.path = "" }, Plan{}, []string{"there is no Ollama on the box"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newWindowsBox(t)
			c.ill(b)
			err := ensure(t, b, c.plan)
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v: want %q in it", err, s)
				}
			}
			if got := b.names(); len(got) != 0 || b.rec != nil {
				t.Errorf("left: %q, %v", got, b.rec)
			}
			if b.count("launch") > 0 && b.count("forget") == 0 {
				t.Error("the folder of the record was left")
			}
		})
	}
	t.Run("says something else", func(t *testing.T) {
		t.Parallel()
		h := newHost(Box{PowerShell: func(context.Context, string) ([]byte, error) {
			return []byte("#< CLIXML\r\n<Objs><S S=\"Error\">Cannot be loaded because running scripts is disabled_x000D__x000A_</S></Objs>"), nil
		}})
		_, err := h.powershell(t.Context(), "facts", windowsFacts, nil)
		if err == nil || !strings.Contains(err.Error(), `it said "Cannot be loaded because running scripts is disabled"`) {
			t.Errorf("%v", err)
		}
	})
	t.Run("does not end", func(t *testing.T) {
		t.Parallel()
		b := newWindowsBox(t)
		o := b.engine("")
		s, err := o.Ensure(t.Context(), Plan{Model: "scripted"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.deaf[s.PID] = true
		if _, err := o.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "does not end, not even by force") || !strings.Contains(err.Error(), "Access is denied") || b.rec == nil {
			t.Errorf("Stop = %v, record %v", err, b.rec)
		}
	})
}

// The connection goes after the server was made and before that was said.
func TestWindowsLinkLost(t *testing.T) {
	t.Parallel()
	lost := errors.New("the connection was lost")
	b := newWindowsBox(t)
	away := true
	b.after = func(name string) error {
		if name == "launch" || away && (name == "tasks" || name == "kill") && slices.Contains(b.ran, "launch") {
			return lost
		}
		return nil
	}
	o := b.engine("")
	if _, err := o.Ensure(t.Context(), Plan{Model: "scripted"}, nil); !errors.Is(err, lost) {
		t.Fatalf("Ensure = %v", err)
	}
	if !b.alive() {
		t.Fatal("it was undone without a link")
	}
	away = false
	if did := o.Undo(t.Context(), nil); !slices.Equal(did, []string{"stopped Ollama on 127.0.0.1:11434"}) || len(b.names()) != 0 || b.rec != nil {
		t.Errorf("Undo = %q; left %q, %v", did, b.names(), b.rec)
	}
}

func TestWindowsCancelled(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.engine("").Ensure(ctx, Plan{Model: "scripted"}, func(p Progress) {
		if p.Step == StepLoad {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || len(b.names()) != 0 || b.rec != nil {
		t.Errorf("Ensure = %v; left %q, %v", err, b.names(), b.rec)
	}
}

// The server is gone; its number is another program's now, with children of its own.
func TestWindowsNumberUsedAgain(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	s, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.end(s.PID)
	b.clock += 1000
	b.all = append(b.all, task{pid: s.PID, parent: 1, born: b.clock, name: "ollama.exe", words: "ollama serve"})
	b.spawn(s.PID, "ollama.exe", "ollama runner --model theirs")
	before, err := Orphans(t.Context(), b.box())
	if err != nil || len(before) != 1 || !before[0].Ours || before[0].Name != "ollama runner" || before[0].Bytes != 1<<30 {
		t.Errorf("Orphans = %+v, %v", before, err)
	}
	did, err := b.engine("").Stop(t.Context())
	if err != nil || len(did) != 1 || !strings.HasPrefix(did[0], "stopped what a dead Ollama on 127.0.0.1:11434 had left behind") {
		t.Errorf("Stop = %q, %v", did, err)
	}
	if b.find(s.PID) == nil || len(b.names()) != 2 || b.rec != nil {
		t.Errorf("left: %+v, record %v", b.all, b.rec)
	}
}

func TestWindowsOrphans(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	b.app("127.0.0.1:11500", newFake()) // with a runner of its own
	b.spawn(b.next, "ollama.exe", "ollama runner --model app's")
	theirs := b.spawn(99, "ollama_llama_server.exe", "ollama_llama_server.exe --port 5")
	b.find(theirs).bytes = 4 << 30
	b.spawn(99, "llama-server.exe", `C:\llama.cpp\llama-server.exe -m x`) // nobody knows whether it is one
	s, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := Orphans(t.Context(), b.box()); err != nil || len(list) != 1 || list[0].PID != theirs || list[0].Ours || list[0].Command() != fmt.Sprintf("taskkill /F /PID %d", theirs) {
		t.Errorf("Orphans beside a server that runs = %+v, %v", list, err)
	}
	b.end(s.PID)
	list, err := Orphans(t.Context(), b.box())
	if err != nil || len(list) != 2 || list[0].Ours || !list[1].Ours {
		t.Fatalf("Orphans = %+v, %v", list, err)
	}
	if err := EndOrphans(t.Context(), b.box(), list); err != nil || b.find(list[1].PID) != nil || b.find(theirs) == nil || b.rec != nil {
		t.Errorf("EndOrphans: %v; left %+v", err, b.all)
	}
	// A launch does the same by itself.
	s, err = b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := len(b.names())
	b.end(s.PID)
	again, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil)
	if err != nil || !again.Fresh || len(b.names()) != n {
		t.Errorf("Ensure after a death = %+v, %v; %q", again, err, b.names())
	}
}

func TestWindowsDisk(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	b.disk = map[string]string{
		hub + "/library/qwen3/8b": `{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":123,"digest":"sha256:` + strings.Repeat("ab", 32) + `"}]}`,
		"odd":                     "{",
	}
	list, err := b.engine("").Inventory(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "qwen3:8b" || list[0].Bytes != 123 || list[0].Quant != "Q4_K_M" || list[0].Path != "" {
		t.Errorf("Inventory = %+v, %v", list, err)
	}
	b.disk = nil
	if list, err := b.engine("").Inventory(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("Inventory of nothing = %+v, %v", list, err)
	}
}

// A download is held through the link, and says so.
func TestWindowsPull(t *testing.T) {
	t.Parallel()
	b := newWindowsBox(t)
	f := newFake()
	f.pull = []string{`{"status":"pulling x","digest":"sha256:1","total":100,"completed":50}`, `{"status":"success"}`}
	b.app("127.0.0.1:11434", f)
	var missing *ModelMissingError
	if _, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted"}, nil); !errors.As(err, &missing) {
		t.Errorf("Ensure without a yes = %v", err)
	}
	s, err := b.engine("").Ensure(t.Context(), Plan{Model: "scripted", MayPull: true}, nil)
	if err != nil || s.Model.Name != "scripted:latest" || f.count("POST /api/pull") != 1 {
		t.Errorf("Ensure = %+v, %v", s, err)
	}
	if b.count("launch") != 0 {
		t.Error("something was launched")
	}
}

func TestWindowsFamily(t *testing.T) {
	t.Parallel()
	shell := task{pid: 10, parent: 5, born: 100, name: "cmd.exe", words: `cmd.exe /d /s /c "set RLCA_OWNER=rlcam1&x"`}
	server := task{pid: 11, parent: 10, born: 101, name: "ollama.exe"}
	runner := task{pid: 12, parent: 11, born: 102, name: "ollama.exe", words: "runner"}
	console := task{pid: 13, parent: 10, born: 101, name: "conhost.exe"}
	older := task{pid: 14, parent: 11, born: 50, name: "ollama.exe"}
	longer := task{pid: 15, parent: 5, born: 100, name: "cmd.exe", words: `cmd.exe /d /s /c "set RLCA_OWNER=rlcam1by77&x"`}
	other := task{pid: 11, parent: 1, born: 500, name: "chrome.exe"}
	rec := record{pid: 11, mark: "rlcam1", address: "127.0.0.1:11434"}
	for name, c := range map[string]struct {
		t    tasks
		mark string
		want []int
	}{
		"all of it":                        {tasks{rec, 101, []task{older, longer, console, runner, server, shell}}, "", []int{10, 11, 12}},
		"by the mark alone":                {tasks{record{}, 0, []task{server, runner, shell}}, "rlcam1", []int{10, 11, 12}},
		"before the record has a number":   {tasks{record{0, "rlcam1", ""}, 0, []task{server, shell}}, "", []int{10, 11}},
		"another mark than the record's":   {tasks{rec, 101, []task{server}}, "rlcam2", nil},
		"only the runner is left":          {tasks{rec, 101, []task{runner, older}}, "", []int{12}},
		"its number is another's":          {tasks{rec, 101, []task{other, runner, {pid: 16, parent: 11, born: 501, name: "ollama.exe"}}}, "", []int{12}},
		"a dead server's other children":   {tasks{rec, 101, []task{{pid: 17, parent: 11, born: 103, name: "notepad.exe"}}}, "", nil},
		"nothing was ever started":         {tasks{all: []task{server, runner}}, "", nil},
		"a time of birth that is not told": {tasks{rec, 101, []task{{pid: 11, parent: 1, name: "ollama.exe"}}}, "", nil},
	} {
		var got []int
		for _, p := range c.t.family(c.mark) {
			got = append(got, p.pid)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestPlainText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", "a\r\nb\n": "a\nb\n", string(wide([]byte("né\n"))): "né\n", "\xff\xfea\x00b\x00c": "ab", "\x00": "",
	} {
		if got := string(plainText([]byte(in))); got != want {
			t.Errorf("plainText(%q) = %q, want %q", in, got, want)
		}
	}
}
