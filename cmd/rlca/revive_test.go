package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rlca/internal/peer"
	"rlca/internal/supervisor"
)

// An engine that rlca started and that is killed while the link is up: the first caller is held, which is how it is
// found out, and answered once the engine is there again. In mode tcp it is reset, and later ones are answered.
func TestEngineComesBack(t *testing.T) {
	for _, mode := range []string{"http", "tcp"} {
		t.Run(mode, func(t *testing.T) { engineComesBack(t, mode) })
	}
}

func engineComesBack(t *testing.T, mode string) {
	peer.Need(t, "sshd")
	ollama := peer.Need(t, "ollama")
	b := newEngineBox(t, "ollama", ollama, "OLLAMA_MODELS="+models(t))
	u := b.user("scripted", 4096)
	file := filepath.Join(u.dir, "config", "profiles", "box.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	u.write("box", string(text)+fmt.Sprintf("mode = %q\n", mode))
	b.connect(u)
	if got := chatOnce(t, u.url); got != scriptedSays {
		t.Fatalf("the model says %q", got)
	}
	first := b.pid()
	kill9(t, first)
	time.Sleep(500 * time.Millisecond) // a request on a connection whose end is not known here yet is cut: it may have been read
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		text, err := ask(ctx, u.url, "scripted", "hello")
		if err == nil && text == scriptedSays {
			break
		}
		if mode == "http" {
			t.Errorf("the first caller gets %q, %v", text, err)
		}
		if ctx.Err() != nil {
			t.Fatalf("it does not come back: %q, %v", text, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("back after %s", time.Since(start))
	if second := b.pid(); second == first || second == 0 {
		t.Errorf("process %d after %d", second, first)
	}
	eventually(t, "the status has nothing to say of it any more", func() bool { // it answers before all is looked at
		var st supervisor.Status
		out, _ := u.must("status", "--json")
		return json.Unmarshal([]byte(out), &st) == nil && st.Hosts[0].LastError == "" && st.Hosts[0].Link.Reconnects == 0
	})
	logs, _ := u.must("logs", "box")
	if !strings.Contains(logs, "has ended") {
		t.Errorf("the log does not tell it:\n%s", logs)
	}
	u.must(b.args("disconnect", "box", "--stop-engine")...)
	nothingLeft(t, u.laptop, b.home)
}

// One that the memory watchdog has ended is named and not started again.
func TestWatchdogIsTold(t *testing.T) {
	peer.Need(t, "sshd")
	ollama := peer.Need(t, "ollama")
	b := newEngineBox(t, "ollama", ollama, "OLLAMA_MODELS="+models(t))
	u := b.user("scripted", 4096)
	b.connect(u)
	pid := b.pid()
	addLine(t, filepath.Join(b.home, ".rlca", "ollama.log"), fmt.Sprintf("rlca: watchdog: only 812 MiB of the 4096 MiB that must stay were left, ended process %d\n", pid))
	kill9(t, pid)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var st supervisor.Status
	eventually(t, "the status tells of the watchdog", func() bool {
		// One that finds its connection from before reset is no sign yet; one that is refused is.
		if text, err := ask(ctx, u.url, "scripted", "hello"); err == nil {
			t.Fatalf("a killed engine says %q", text)
		}
		out, _ := u.must("status", "--json")
		return json.Unmarshal([]byte(out), &st) == nil && strings.Contains(st.Hosts[0].LastError, "the memory watchdog on the box ended it: 812 MiB were left, 4.0 GiB must stay")
	})
	if text, err := ask(ctx, u.url, "scripted", "hello"); err == nil {
		t.Errorf("it was started again, and says %q", text)
	}
	b.sshd.KillConnections() // nor when the link comes back
	eventually(t, "the link is back, and the status tells of the watchdog still", func() bool {
		out, _ := u.must("status", "--json")
		return json.Unmarshal([]byte(out), &st) == nil && st.Hosts[0].Link.Reconnects == 1 && st.Hosts[0].Link.State == "up"
	})
	for range 10 { // what it would do then it would do at once
		if text, err := ask(ctx, u.url, "scripted", "hello"); err == nil {
			t.Fatalf("it was started again when the link came back, and says %q", text)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if out, _ := u.must("status", "--json"); !strings.Contains(out, "the memory watchdog on the box ended it") {
		t.Errorf("status: %s", out)
	}
	u.must(b.args("disconnect", "box", "--stop-engine")...)
	nothingLeft(t, u.laptop, b.home)
}

func addLine(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
