package harness

import (
	"bytes"
	"fmt"
	"strings"
)

// Diff shows how a file changes, as diff -u does.
func (e *Edit) Diff() string {
	if !e.Changed() {
		return ""
	}
	from, to := e.Path, e.Path
	if e.Before == nil {
		from = "/dev/null"
	}
	if e.After == nil {
		to = "/dev/null"
	}
	return fmt.Sprintf("--- %s\n+++ %s\n%s", from, to, hunks(splitLines(e.Before), splitLines(e.After)))
}

func splitLines(text []byte) []string {
	var out []string
	for l := range bytes.Lines(text) {
		out = append(out, string(l))
	}
	return out
}

// context is how many lines stand around a change.
const diffContext = 3

type diffLine struct {
	mark byte // ' ', '-' or '+'
	text string
}

func hunks(a, b []string) string {
	lines := compare(a, b)
	show := make([]bool, len(lines))
	for i, l := range lines {
		if l.mark != ' ' {
			for k := max(0, i-diffContext); k <= min(len(lines)-1, i+diffContext); k++ {
				show[k] = true
			}
		}
	}
	var out strings.Builder
	at := [2]int{1, 1} // the next line of either side
	for i := 0; i < len(lines); {
		end := i
		for end < len(lines) && show[end] {
			end++
		}
		if end == i {
			at[0], at[1] = at[0]+1, at[1]+1
			i++
			continue
		}
		var n [2]int
		var body strings.Builder
		for _, l := range lines[i:end] {
			if l.mark != '+' {
				n[0]++
			}
			if l.mark != '-' {
				n[1]++
			}
			body.WriteByte(l.mark)
			body.WriteString(strings.TrimRight(l.text, "\r\n"))
			body.WriteByte('\n')
			if !strings.HasSuffix(l.text, "\n") {
				body.WriteString("\\ No newline at end of file\n")
			}
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n%s", span(at[0], n[0]), span(at[1], n[1]), body.String())
		at[0], at[1] = at[0]+n[0], at[1]+n[1]
		i = end
	}
	return out.String()
}

func span(at, n int) string {
	if n == 0 {
		at--
	}
	return fmt.Sprintf("%d,%d", at, n)
}

// diffCells is how many pairs of lines are compared at most: a table of that size is made.
const diffCells = 1 << 22

// compare is the shortest way from a to b, of what differs between their common beginning and end.
func compare(a, b []string) []diffLine {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var out []diffLine
	for _, l := range a[:head] {
		out = append(out, diffLine{' ', l})
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	if len(x)*len(y) > diffCells { // all of it goes, and comes anew
		for _, l := range x {
			out = append(out, diffLine{'-', l})
		}
		for _, l := range y {
			out = append(out, diffLine{'+', l})
		}
		x, y = nil, nil
	}
	common := make([][]int, len(x)+1) // the longest common part of x[i:] and y[j:]
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = 1 + common[i+1][j+1]
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			out = append(out, diffLine{' ', x[i]})
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || common[i+1][j] >= common[i][j+1]):
			out = append(out, diffLine{'-', x[i]})
			i++
		default:
			out = append(out, diffLine{'+', y[j]})
			j++
		}
	}
	for _, l := range a[len(a)-tail:] {
		out = append(out, diffLine{' ', l})
	}
	return out
}
