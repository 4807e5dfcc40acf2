package profiles

import (
	"fmt"
	"slices"
	"strings"
)

// near returns those words that word may have been meant to be, the likeliest first, at most three.
func near(word string, words []string) []string {
	if len(word) > maxName { // no known word is so long
		return nil
	}
	type hit struct {
		word string
		far  int
	}
	var hits []hit
	lower := strings.ToLower(word)
	for _, w := range words {
		wl := strings.ToLower(w)
		d := distance(lower, wl)
		if d > 1 && len(lower) >= 3 && (strings.HasPrefix(wl, lower) || strings.HasPrefix(lower, wl) && len(wl) >= 3) {
			d = 2 // a beginning, or one word too many: worse than a slip of the finger, better than two
		}
		if d <= max(1, min(3, len(lower)/3)) || d == 2 && len(lower) >= 4 {
			hits = append(hits, hit{w, d})
		}
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return a.far - b.far })
	var out []string
	for _, h := range hits[:min(3, len(hits))] {
		out = append(out, h.word)
	}
	return out
}

// didYouMean is the end of a message about word; empty if nothing is near.
func didYouMean(word string, words []string) string {
	if n := near(word, words); len(n) > 0 {
		return fmt.Sprintf(", did you mean %q?", n[0])
	}
	return ""
}

// distance counts the letters to insert, delete, replace or swap with their neighbour to make b of a
// (optimal string alignment). Both are taken as bytes.
func distance(a, b string) int {
	before := make([]int, len(b)+1) // two rows up
	above := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
