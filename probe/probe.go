// Package probe finds out what a box has: its memory and who may use it, its GPUs, the engines that are installed
// or running, what listens and how openly, and how much room its disks have.
//
// It is one script in one round trip. The box only prints raw facts between marks; every judgement is made here,
// where it can be tested. A fact that could not be read is nil, never 0. Nothing is installed, nothing is changed,
// nothing runs as root.
package probe

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limit is how long a probe may take; what has arrived by then counts.
const Limit = 45 * time.Second

// maxOutput is what is read of a box that prints without end.
const maxOutput = 1 << 20

//go:embed script.sh
var script string

// Runner feeds a script to /bin/sh on the far side and returns its standard output.
type Runner interface {
	Run(ctx context.Context, script string) ([]byte, error)
}

// Script is what is sent, with its marks made of nonce.
func Script(nonce string) string { return strings.Replace(script, "@NONCE@", nonce, 1) }

// Run probes the far side. A partial answer is an answer, with a warning that says where it ends. None at all is a
// *NoAnswerError, or the runner's own error where the far side said nothing. A Runner that is a WindowsRunner is asked
// by a command where its SSH server is one for Windows.
func Run(ctx context.Context, r Runner) (*Report, error) {
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	nonce := hex.EncodeToString(b[:])
	limited, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	var out []byte
	var err error
	if w, ok := r.(WindowsRunner); ok && IsWindows(w.ServerVersion()) {
		nonce = windowsNonce
		out, err = w.Command(limited, WindowsCommand())
	} else {
		out, err = r.Run(limited, Script(nonce))
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	report, parseErr := Parse(nonce, out)
	var none *NoAnswerError
	switch {
	case errors.As(parseErr, &none) && err != nil:
		if none.Output == "" {
			return nil, fmt.Errorf("probe: %w", err)
		}
		none.Err = err
		return nil, none
	case parseErr != nil:
		return nil, parseErr
	case err != nil:
		report.warn("the probe ended early: %s", clean(err.Error()))
	}
	return report, nil
}

// NoAnswerError says that what came back has none of the script's marks: the login shell does something else.
type NoAnswerError struct {
	Output string `json:"output"` // the first lines, cleaned; empty if nothing was printed
	Err    error  `json:"-"`      // how the command ended; nil if it ended well
}

func (e *NoAnswerError) Error() string {
	if e.Output == "" {
		return "probe: the box printed nothing; its login shell may block commands"
	}
	return "probe: the box did not run the script, it said: " + e.Output
}

func (e *NoAnswerError) Unwrap() error { return e.Err }

// Parse makes a report of what the script printed. It takes output that is cut at any byte; only output without a
// single mark is a *NoAnswerError.
func Parse(nonce string, out []byte) (*Report, error) {
	a, ok := read(nonce, out)
	if !ok {
		text := clean(string(out[:min(len(out), 2000)]))
		return nil, &NoAnswerError{Output: strings.ToValidUTF8(text[:min(len(text), 300)], "")}
	}
	r := &Report{Pools: []Pool{}, Accelerators: []Accelerator{}, Engines: []Engine{}, Listeners: []Listener{}, Disk: []Disk{}, Warnings: []string{}}
	r.uname(a.text("uname"))
	switch r.OS {
	case "darwin":
		r.mac(a)
	case "windows":
		r.windows(a)
	default:
		r.linux(a)
	}
	r.listen(a)
	r.engines(a)
	r.disks(a.text("disk"))
	r.closing()
	if !a.done {
		r.warn("the probe's answer ends in the section %s: what would have come after it is not known", a.last)
	}
	return r, nil
}
