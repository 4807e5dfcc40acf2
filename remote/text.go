package remote

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// textLimit bounds what of a foreign text goes into an error or a log, in bytes.
const textLimit = 400

// clean makes text from the far side fit for a terminal: no escape sequences, no control characters, one line.
func clean(s string) string {
	s = dropEscapes(s)
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > textLimit {
		s = strings.ToValidUTF8(s[:textLimit], "") + "…"
	}
	return s
}

// dropEscapes removes ANSI control sequences: ESC [ … letter, and ESC with one character.
func dropEscapes(s string) string {
	if !strings.Contains(s, "\x1b") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\x1b' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i < len(s) && s[i] == '[' {
			for i++; i < len(s) && (s[i] < '@' || s[i] > '~'); i++ {
			}
		}
	}
	return b.String()
}

// gib writes bytes as people read them here: "17.3 GiB".
func gib(n int64) string {
	switch {
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// gibOf writes a part of a whole with one unit: "7.4 of 17.3 GiB".
func gibOf(done, total int64) string {
	whole := gib(total)
	unit := whole[strings.LastIndexByte(whole, ' ')+1:]
	div := map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
	return fmt.Sprintf("%.1f of %s", float64(done)/div, whole)
}

// left writes a rest of time roughly: "22 s", "2 min", "1 h 5 min".
func left(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return fmt.Sprintf("%d s", max(1, int(d.Seconds()+0.5)))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()+0.5))
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}
