package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"rlca/internal/instance"
)

// noteColumn is where the right-hand word of a step stands: text of 68 columns after "rlca: " and the step's name.
const textWidth = 68

// talk is what rlca says on stderr. On a terminal a running step is rewritten in place; elsewhere each step is
// one plain line when it is done.
type talk struct {
	w     io.Writer
	tty   bool
	color bool
	width int

	mu   sync.Mutex // guards what follows
	open bool       // a line without its end stands on the terminal
}

func newTalk(w io.Writer) *talk {
	t := &talk{w: w, width: 100}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.tty = true
		t.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
			t.width = w
		}
	}
	return t
}

// say writes one line.
func (t *talk) say(format string, args ...any) { t.line("rlca: " + fmt.Sprintf(format, args...)) }

// fact writes a line that belongs to the one above.
func (t *talk) fact(s string) { t.line("      " + s) }

func (t *talk) line(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	fmt.Fprintln(t.w, s)
}

func (t *talk) clear() {
	if t.open {
		fmt.Fprint(t.w, "\r\x1b[K")
		t.open = false
	}
}

// step shows an event of a walk.
func (t *talk) step(e instance.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !e.Done && !t.tty {
		return
	}
	text := fmt.Sprintf("rlca: %-7s %s", e.Step, e.Text)
	if e.Note != "" {
		pad := 14 + textWidth - utf8.RuneCountInString(text)
		if t.tty { // leave room for the note on a narrow terminal
			pad = min(pad, t.width-1-utf8.RuneCountInString(text)-utf8.RuneCountInString(e.Note))
		}
		text += strings.Repeat(" ", max(2, pad)) + t.paint(e.Note)
	}
	t.clear()
	if e.Done {
		fmt.Fprintln(t.w, text)
		return
	}
	if r := []rune(text); len(r) >= t.width {
		text = string(r[:t.width-1])
	}
	fmt.Fprint(t.w, text)
	t.open = true
}

// paint colours the words of state, and only those.
func (t *talk) paint(word string) string {
	if !t.color {
		return word
	}
	code := ""
	switch word {
	case "fits", "ready", "up", "ok":
		code = "32"
	case "tight", "waiting", "connecting", "offline", "warn":
		code = "33"
	case "does not fit", "needs you", "fail":
		code = "31"
	default:
		return word
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

// canAsk reports whether a person is there to answer: standard input is a terminal, and so is where a question shows.
func (a *app) canAsk() bool { return isTerminal(a.in) && a.where() != nil }

// where is the stream on which a question shows: stderr, or the terminal itself where stderr leads into a file.
func (a *app) where() io.Writer {
	if a.talk.tty {
		return a.talk.w
	}
	if a.tty == nil {
		if f, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
			a.tty = f
		}
	}
	if a.tty == nil {
		return nil
	}
	return a.tty
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// ask puts a question that is answered with a word; it is false when nobody can be asked.
func (a *app) ask(question string) (answer string, ok bool) {
	if !a.canAsk() {
		return "", false
	}
	a.talk.mu.Lock()
	a.talk.clear()
	fmt.Fprint(a.where(), "rlca: "+question+" ")
	a.talk.mu.Unlock()
	got := make(chan string, 1)
	go func() { // ends with the program: a read of a terminal cannot be taken back
		line, err := bufio.NewReader(a.in).ReadString('\n')
		if err != nil && line == "" {
			close(got)
			return
		}
		got <- strings.TrimSpace(line)
	}()
	select {
	case s, ok := <-got:
		return s, ok
	case <-a.ctx.Done():
		fmt.Fprintln(a.where())
		return "", false
	}
}

// yes asks a question that is answered with y or n.
func (a *app) yes(question string) bool {
	s, ok := a.ask(question + " [y/N]")
	s = strings.ToLower(s)
	return ok && (s == "y" || s == "yes")
}

// secret asks for something that must not be seen; nil when nobody can be asked.
func (a *app) secret(question string) []byte {
	f, isFile := a.in.(*os.File)
	if !isFile || !a.canAsk() {
		return nil
	}
	a.talk.mu.Lock()
	defer a.talk.mu.Unlock()
	a.talk.clear()
	fmt.Fprint(a.where(), "rlca: "+question+" ")
	defer fmt.Fprintln(a.where())
	b, err := term.ReadPassword(int(f.Fd()))
	if err != nil {
		return nil
	}
	return b
}

// ago says how long ago something was, as "41 min" or "2 h 14 min".
func ago(t time.Time) string { return instance.Span(time.Since(t)) }
