package remote

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
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
	goleak.VerifyTestMain(m)
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
