package profiles

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a profile's text.
type Problem struct {
	File string // its name without the folder, as "spark.toml"
	Line int    // from 1; 0 if it is about the file as a whole
	Msg  string
}

func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Msg
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Msg)
}

// Problems is all that is wrong with a profile's text, by line. It is never empty.
type Problems []*Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a *Problem: the first.
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, one := range p {
		errs[i] = one
	}
	return errs
}

// sorted returns p by line, and by the order of finding within one.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b *Problem) int { return a.Line - b.Line })
	return p
}
