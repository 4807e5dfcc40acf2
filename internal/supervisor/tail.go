package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// tailLines is how many lines of a log are shown.
const tailLines = 200

// Tail writes the end of a log file to w, and with follow goes on as lines come until ctx ends. A file that is
// turned over is followed into the new one.
func Tail(ctx context.Context, path string, follow bool, w io.Writer) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !follow {
		return fmt.Errorf("there is no log yet: %s", path)
	}
	if err == nil {
		if err := lastLines(f, w); err != nil {
			f.Close()
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	if !follow {
		return f.Close()
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if f != nil {
			if _, err := io.Copy(w, f); err != nil {
				f.Close()
				return err
			}
			if turned(f, path) {
				f.Close()
				f = nil
			}
		}
		if f == nil {
			if next, err := os.Open(path); err == nil {
				f = next
				continue
			}
		}
		select {
		case <-ctx.Done():
			if f != nil {
				return f.Close()
			}
			return nil
		case <-tick.C:
		}
	}
}

// turned reports whether path is by now another file than f.
func turned(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return true
	}
	b, err := os.Stat(path)
	return err != nil || !os.SameFile(a, b)
}

// lastLines copies the last lines of f to w and leaves f at its end.
func lastLines(f *os.File, w io.Writer) error {
	const most = 64 << 10
	info, err := f.Stat()
	if err != nil {
		return err
	}
	start := max(0, info.Size()-most)
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if start > 0 { // the first line is not whole
		if n := bytes.IndexByte(text, '\n'); n >= 0 {
			text = text[n+1:]
		}
	}
	cut := len(text)
	for range tailLines + 1 {
		n := bytes.LastIndexByte(text[:cut], '\n')
		if n < 0 {
			cut = -1
			break
		}
		cut = n
	}
	_, err = w.Write(text[cut+1:])
	return err
}
