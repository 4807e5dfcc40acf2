package probe

import (
	"regexp"
	"strings"
	"unicode"
)

// escapes are the terminal's sequences: CSI, OSC and its kin up to their end, and the short ones.
var escapes = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]?|[\\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[ -/]*[0-~]?)")

// cleanLine takes out what would move the cursor or turn the text around: escape sequences, control and format
// characters, broken UTF-8; but not tabs.
func cleanLine(s string) string {
	if strings.ContainsRune(s, 0x1b) {
		s = escapes.ReplaceAllString(s, "")
	}
	return strings.Map(func(r rune) rune {
		if r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar) {
			return -1
		}
		return r
	}, s)
}

// clean makes one line of text that is fit for a terminal.
func clean(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = cleanLine(lines[i])
	}
	return strings.Join(strings.Fields(strings.Join(lines, " ")), " ")
}
