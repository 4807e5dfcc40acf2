package tunnel

import (
	"errors"
	"strings"
)

// match judges a Match line with what can be judged without a shell: all, host, originalhost, user, localuser,
// final, canonical. If the answer hangs on anything else, the block is left out with a warning.
func (f *filter) match(val, from string) bool {
	args, err := splitArgs(val)
	if err != nil || len(args) == 0 {
		f.warn("%s: \"Match %s\" cannot be read, its block is left out", from, clean(val))
		return false
	}
	applies, unknown := true, ""
	for i := 0; i < len(args); i++ {
		word, arg, given := strings.Cut(args[i], "=")
		word, not := strings.CutPrefix(strings.ToLower(word), "!")
		next := func() string { // the argument of this criterion
			if !given && i+1 < len(args) {
				i++
				return args[i]
			}
			return arg
		}
		hit := false
		switch word {
		case "all":
			hit = true
		case "final", "canonical":
			f.wantsFinal = f.wantsFinal || word == "final"
			hit = f.final
		case "host":
			name := f.host
			if f.hostName != "" {
				name = f.hostName
			}
			hit = listMatches(next(), strings.ToLower(name))
		case "originalhost":
			hit = listMatches(next(), strings.ToLower(f.host))
		case "user":
			name := f.user
			if name == "" {
				name = f.localUser
			}
			hit = patternList(next(), name)
		case "localuser":
			hit = patternList(next(), f.localUser)
		case "exec", "localnetwork", "tagged", "version", "sessiontype", "command":
			if next(); unknown == "" {
				unknown = word
			}
			continue
		default: // its argument, if it has one, comes next and is as little known
			if unknown == "" {
				unknown = word
			}
			continue
		}
		if hit == not {
			applies = false
		}
	}
	if applies && unknown != "" {
		f.warn("%s: the block \"Match %s\" is left out: only ssh itself can judge %q", from, clean(val), clean(unknown))
		return false
	}
	return applies
}

// hostMatches judges a Host line: one pattern a word, upper and lower case differ, a ! that matches ends it.
func hostMatches(patterns []string, host string) bool {
	hit := false
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		if wildcard(p, host) {
			if not {
				return false
			}
			hit = true
		}
	}
	return hit
}

// listMatches judges a list of patterns with commas against a name in lower case, as known_hosts and Match host
// write it.
func listMatches(list, name string) bool { return patternList(strings.ToLower(list), name) }

// patternList judges a list of patterns with commas. A ! that matches ends it.
func patternList(list, s string) bool { return hostMatches(strings.Split(list, ","), s) }

// wildcard matches * and ? as OpenSSH does (match.c: match_pattern), in time that a hostile pattern cannot stretch.
func wildcard(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// keyword splits a line of ssh_config into its keyword and the rest: spaces, tabs and at most one = between them.
// A line without both, or whose keyword is no word, has none.
func keyword(raw string) (key, val string) {
	s := strings.Trim(raw, " \t\r\n\f\ufeff\x00")
	i := 0
	for i < len(s) && (s[i]|0x20 >= 'a' && s[i]|0x20 <= 'z' || s[i] >= '0' && s[i] <= '9') {
		i++
	}
	if i == 0 || i == len(s) || !strings.ContainsRune(" \t=\"", rune(s[i])) {
		return "", ""
	}
	key, val = s[:i], strings.TrimLeft(s[i:], " \t")
	if rest, ok := strings.CutPrefix(val, "="); ok {
		val = strings.TrimLeft(rest, " \t")
	}
	return key, val
}

var errQuotes = errors.New("has a quote that is not closed")

// splitArgs splits a value into its arguments as OpenSSH does (misc.c: argv_split): single and double quotes, a
// backslash before a quote, a backslash or a space, and a comment from a # that begins an argument.
func splitArgs(s string) ([]string, error) {
	var args []string
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' || s[i] == '\t' {
			continue
		}
		if s[i] == '#' {
			break
		}
		var b strings.Builder
		quote := byte(0)
		for ; i < len(s); i++ {
			c := s[i]
			if c == '\\' && i+1 < len(s) {
				if n := s[i+1]; n == '\'' || n == '"' || n == '\\' || n == ' ' && quote == 0 {
					b.WriteByte(n)
					i++
					continue
				}
			}
			if quote == 0 && (c == ' ' || c == '\t') {
				break
			}
			switch {
			case quote == 0 && (c == '"' || c == '\''):
				quote = c
			case c == quote && quote != 0:
				quote = 0
			default:
				b.WriteByte(c)
			}
		}
		if quote != 0 {
			return nil, errQuotes
		}
		args = append(args, b.String())
	}
	return args, nil
}
