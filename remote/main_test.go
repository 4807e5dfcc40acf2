package remote

import (
	"bytes"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// fakePrograms are what this binary plays when it is called by their names.
var fakePrograms = map[string]func(args []string){"ollama": fakeProgram, "llama-server": fakeLlamaServer}

func TestMain(m *testing.M) {
	if play := fakePrograms[filepath.Base(os.Args[0])]; play != nil {
		play(os.Args[1:])
		return
	}
	// Most tests wait most of the time, so more run at once than there are processors, unless -parallel says otherwise.
	flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, dir := range mirrors.made {
			os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// realEngine is held by the one test that drives a real engine.
var realEngine sync.Mutex

// alone makes a test the only one that drives a real engine, until it ends.
func alone(t testing.TB) {
	t.Helper()
	realEngine.Lock()
	t.Cleanup(realEngine.Unlock)
}

// testLog shows what is logged if the test fails.
func testLog(t testing.TB) *slog.Logger {
	b := &lockedBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("log:\n" + b.String())
		}
	})
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
