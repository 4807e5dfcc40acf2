package supervisor

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// A log file is turned over at maxLog bytes; keptLogs older ones are kept.
const (
	maxLog   = 5 << 20
	keptLogs = 2
)

// logFile is a log that does not grow for ever. It opens its file with the first line, 0600.
type logFile struct {
	path string

	mu   sync.Mutex // guards what follows
	f    *os.File
	size int64
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil || l.size+int64(len(p)) > maxLog {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// open opens the file, after turning over one that is full.
func (l *logFile) open() error {
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
	if info, err := os.Stat(l.path); err == nil && info.Size() > maxLog/2 {
		for i := keptLogs; i > 0; i-- {
			from := l.path
			if i > 1 {
				from = numbered(l.path, i-1)
			}
			os.Rename(from, numbered(l.path, i)) // an older log that is not there is not missed
		}
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, info.Size()
	return nil
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

func numbered(path string, n int) string { return path + "." + string(rune('0'+n)) }

// newLog returns a logger that writes one line of text for each record.
func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
