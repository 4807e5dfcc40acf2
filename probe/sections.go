package probe

import (
	"fmt"
	"slices"
	"strings"
)

// section is what one command printed.
type section struct {
	text string
	rc   int // of the command; 124 if it was stopped at its limit, -1 if the end mark is missing, so the text is cut
}

// answer is the script's output, taken apart at its marks.
type answer struct {
	sections map[string]section
	fields   string // of the last csv query
	last     string // the section that began last
	done     bool   // the script came to its end
}

func (a *answer) text(name string) string { return a.sections[name].text }

func (a *answer) has(name string) bool { _, ok := a.sections[name]; return ok }

// by is the name of a section that told one of these facts. It is empty if the section told none of them.
func by[T any](section string, facts ...*T) string {
	if slices.ContainsFunc(facts, func(f *T) bool { return f != nil }) {
		return section
	}
	return ""
}

// origin joins the names of sections into a From: each once, in order.
func origin(names ...string) string {
	var list []string
	for _, name := range strings.Fields(strings.Join(names, " ")) {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return strings.Join(list, " ")
}

// read cuts the output at the marks. What stands before the first one is a login shell's noise. Of a name that comes
// twice the last one counts, except that a later one that is empty does not hide an earlier one. It reports whether
// there was a mark at all.
func read(nonce string, out []byte) (*answer, bool) {
	mark := "@@" + nonce + " "
	a := &answer{sections: map[string]section{}}
	var name string
	var lines []string
	flush := func(rc int) {
		if name != "" {
			s := section{text: strings.TrimSpace(strings.Join(lines, "\n")), rc: rc}
			if old, ok := a.sections[name]; !ok || s.text != "" || old.text == "" {
				a.sections[name] = s
			}
		}
		name, lines = "", nil
	}
	for line := range strings.SplitSeq(string(out[:min(len(out), maxOutput)]), "\n") {
		line = cleanLine(line)
		rest, ok := strings.CutPrefix(line, mark)
		if !ok {
			if name != "" {
				lines = append(lines, line)
			}
			continue
		}
		w := strings.Fields(rest)
		switch {
		case len(w) >= 2 && w[0] == "begin":
			flush(-1)
			name, a.last = w[1], w[1]
		case len(w) >= 3 && w[0] == "end":
			rc := -1
			fmt.Sscanf(w[2], "rc=%d", &rc)
			flush(rc)
		case len(w) == 2 && w[0] == "fields":
			a.fields = w[1]
		case len(w) == 1 && w[0] == "done":
			a.done = true
		}
	}
	flush(-1)
	return a, a.last != ""
}
