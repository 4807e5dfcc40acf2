package profiles

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// place is where something was said: a line, and how.
type place struct {
	line int
	how  string
}

// checker goes through a file's statements and collects what is wrong with them.
type checker struct {
	file     string
	known    vocabulary
	problems Problems

	section string // the header that we are under
	skip    bool   // it is unknown, and so is all that follows

	sections map[string]place  // section → where it was opened, and how: header, inline or dotted
	set      map[string]int    // label of a key → the line that sets it
	strange  map[string]bool   // unknown sections that were reported
	texts    map[string]string // label of a key → its text, where that is good
	ports    map[int]place     // local port → the key that takes it
	also     []place           // entries of forward.also; how is the entry
}

func (c *checker) fail(line int, msg string) {
	c.problems = append(c.problems, &Problem{File: c.file, Line: line, Msg: msg})
}

func (c *checker) failf(line int, format string, args ...any) {
	c.fail(line, fmt.Sprintf(format, args...))
}

// statement takes the next one of the file.
func (c *checker) statement(s statement) {
	switch {
	case s.broken && s.header:
		c.skip = true // which section was meant?
	case s.broken:
		c.guess(s)
	case s.header:
		c.header(s)
	case !c.skip && c.section != "":
		c.assign(append([]string{c.section}, s.path...), s.line, s.value, "header")
	case !c.skip:
		c.assign(s.path, s.line, s.value, "dotted")
	}
}

// guess takes a key that stands in a line that cannot be read for set, so that nobody is told it were missing.
func (c *checker) guess(s statement) {
	name, _, _ := strings.Cut(s.text, "=")
	if k := c.known.find(c.section, strings.Trim(name, " \t\"'")); k != nil && !c.skip {
		c.set[k.label()] = s.line
	} else if c.section == "" && strings.HasPrefix(s.text, "host") {
		c.set["host"] = s.line
	}
}

func (c *checker) header(s statement) {
	name := s.path[0]
	c.section, c.skip = name, false
	switch {
	case c.known.find("", name) != nil:
		c.skip = true
		k := c.known.find("", name)
		c.failf(s.line, "%s is a key and no section: write %s = %s at the top of the file", name, name, k.example)
	case !c.isSection(name):
		c.skip = true
		c.strangeSection(strings.Join(s.path, "."), name, s.line)
	case len(s.path) > 1:
		c.skip = true
		c.failf(s.line, "unknown section [%s]: [%s] has none of its own", clean(strings.Join(s.path, ".")), name)
	case s.array:
		c.failf(s.line, "[[%s]] must be a single section: write [%s]", name, name)
		c.open(name, s.line, "header")
	default:
		c.open(name, s.line, "header")
	}
}

func (c *checker) isSection(name string) bool {
	return slices.Contains(c.known.sections(), name)
}

func (c *checker) strangeSection(path, name string, line int) {
	if c.strange[name] {
		return
	}
	c.strange[name] = true
	hint := ""
	if n := near(name, c.known.sections()); len(n) > 0 {
		hint = ", did you mean [" + n[0] + "]?"
	}
	c.failf(line, "unknown section [%s]%s", clean(path), hint)
}

// open notes that a section begins, and refuses a second beginning: TOML wants each in one piece. Only dotted keys
// may come one after the other.
func (c *checker) open(name string, line int, how string) {
	first, again := c.sections[name]
	if !again {
		c.sections[name] = place{line, how}
	} else if how != "dotted" || first.how != "dotted" {
		c.failf(line, "section [%s] is there twice, first on line %d", name, first.line)
	}
}

// assign takes one key = value; path begins with the section. How says in which manner the section is given.
func (c *checker) assign(path []string, line int, v value, how string) {
	name := path[0]
	switch {
	case len(path) == 1 && c.isSection(name):
		c.inline(name, line, v)
		return
	case len(path) == 1:
		c.field("", name, line, v)
		return
	case c.known.find("", name) != nil:
		k := c.known.find("", name)
		c.failf(line, "%s must be %s, not a table", name, k.kind)
		c.set[name] = line
		return
	case !c.isSection(name):
		c.strangeSection(name, name, line)
		return
	}
	if how == "dotted" {
		c.open(name, line, how)
	}
	if k := c.known.find(name, path[1]); k != nil && len(path) > 2 {
		c.failf(line, "%s must be %s, not a table", k.label(), k.kind)
		return
	}
	c.field(name, path[1], line, v)
}

// inline takes section = { key = value, … }.
func (c *checker) inline(name string, line int, v value) {
	if v.kind != unstable.InlineTable {
		first := c.known.names(name)[0]
		k := c.known.find(name, first)
		c.failf(line, "%s is a section, not %s: write [%s] and below it keys as %s = %s", name, kindOf(v), name, first, k.example)
		return
	}
	c.open(name, line, "inline")
	for _, s := range v.keys {
		c.assign(append([]string{name}, s.path...), s.line, s.value, "inline")
	}
}

// field takes one value for one key of a section.
func (c *checker) field(section, name string, line int, v value) {
	k := c.known.find(section, name)
	if k == nil {
		in := ""
		if section != "" {
			in = " in [" + section + "]"
		}
		c.failf(line, "unknown key %s%s%s", shown(name), in, c.known.adviseKey(section, name))
		return
	}
	if first := c.set[k.label()]; first != 0 {
		c.failf(line, "%s is set twice, first on line %d", k.label(), first)
	} else {
		c.set[k.label()] = line
	}
	switch k.kind {
	case kindText:
		c.text(k, v)
	case kindNumber:
		c.number(k, v)
	case kindList:
		c.list(k, v)
	}
}

func (c *checker) text(k *key, v value) {
	if v.kind != unstable.String {
		hint := ""
		if v.kind == unstable.Integer || v.kind == unstable.Float {
			hint = ": write " + k.name + " = " + quoted(k, v.text)
		}
		c.failf(v.line, "%s must be a string, not %s%s", k.label(), kindOf(v), hint)
		return
	}
	if err := k.check(v.text); err != nil {
		c.failf(v.line, "%s %v", k.label(), err)
		return
	}
	c.texts[k.label()] = v.text
	if k.label() == "forward.listen" {
		c.ports[portOf(v.text)] = place{v.line, k.label()}
	}
}

// quoted turns a number into the text that was meant.
func quoted(k *key, digits string) string {
	s := strconv.Quote(digits)
	if k.label() == "forward.hold" && isDigits(digits) {
		s = strconv.Quote(digits + "s")
	}
	return s
}

func (c *checker) number(k *key, v value) {
	if v.kind == unstable.Float {
		c.failf(v.line, "%s must be a whole number, not %s", k.label(), clean(v.text))
		return
	}
	if v.kind != unstable.Integer {
		c.failf(v.line, "%s must be a number, not %s", k.label(), kindOf(v))
		return
	}
	n, err := strconv.ParseInt(v.text, 0, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange): // what this reader does not know, the decoder does
	case k.max != maxNumber && (err != nil || n < int64(k.min) || n > int64(k.max)):
		c.failf(v.line, "%s must be from %d to %d, not %s", k.label(), k.min, k.max, clean(v.text))
	case err == nil && n < int64(k.min) || err != nil && strings.HasPrefix(v.text, "-"):
		c.failf(v.line, "%s must be %d or more, not %s", k.label(), k.min, clean(v.text))
	case err != nil || n > maxNumber:
		c.failf(v.line, "%s must be at most %d, not %s", k.label(), maxNumber, clean(v.text))
	}
}

func (c *checker) list(k *key, v value) {
	if v.kind != unstable.Array {
		c.failf(v.line, "%s must be a list of strings, not %s: write %s = %s", k.label(), kindOf(v), k.name, asList(k, v))
		return
	}
	seen := map[string]bool{}
	for i, item := range v.items {
		label := k.label()
		if len(v.items) > 1 {
			label = fmt.Sprintf("%s, entry %d,", label, i+1)
		}
		if item.kind != unstable.String {
			c.failf(item.line, "%s must be a string, not %s", label, kindOf(item))
			continue
		}
		if err := k.check(item.text); err != nil {
			c.failf(item.line, "%s %v", label, err)
			continue
		}
		switch k.label() {
		case "forward.also":
			c.also = append(c.also, place{item.line, item.text})
		case "cluster.workers":
			if item.text == strings.TrimSuffix(filepath.Base(c.file), suffix) {
				c.failf(item.line, "%s must be the name of another profile, not this one's", label)
			} else if seen[item.text] {
				c.failf(item.line, "%s is the same as one before it: %s", label, shown(item.text))
			}
			seen[item.text] = true
		}
	}
}

// asList shows how what was written looks as a list.
func asList(k *key, v value) string {
	if v.kind == unstable.String {
		return "[" + shown(v.text) + "]"
	}
	return k.example
}

// checkGuard refuses what only the HTTP port can do where the port passes bytes.
func (c *checker) checkGuard() {
	if c.texts["forward.mode"] != "tcp" {
		return
	}
	for label, off := range map[string]string{"forward.token": "none", "forward.allow": "all"} {
		if text := c.texts[label]; text != "" && text != off {
			c.failf(c.set[label], "%s = %s needs forward.mode = \"http\": \"tcp\" passes bytes and reads none of them", label, shown(text))
		}
	}
}

// checkPorts refuses two listeners on one local port, whatever their addresses: 127.0.0.1 and [::1] are one door to
// those who dial localhost. A file that says nothing of forward.listen takes the default's.
func (c *checker) checkPorts() {
	if c.set["forward.listen"] == 0 {
		c.ports[portOf(Default().Forward.Listen)] = place{0, "forward.listen"}
	}
	for _, a := range c.also {
		local, _, _ := Also(a.how).Split()
		if isSocket(local) {
			continue
		}
		port := portOf(local)
		first, taken := c.ports[port]
		if !taken {
			c.ports[port] = place{a.line, "forward.also"}
			continue
		}
		where := "by default"
		if first.line != 0 {
			where = fmt.Sprintf("on line %d", first.line)
		}
		c.failf(a.line, "forward.also listens on port %d, which %s has already %s", port, first.how, where)
	}
}

// portOf returns the port of an address that was checked, or 0.
func portOf(address string) int {
	_, port, _ := splitAddress(address)
	return port
}

// kindOf names what a value is, with its article.
func kindOf(v value) string {
	switch v.kind {
	case unstable.String:
		return "a string"
	case unstable.Integer, unstable.Float:
		return "a number"
	case unstable.Bool:
		return v.text // true or false
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}

// clean is a text of a file for a message, without control characters and quotes.
func clean(s string) string {
	s = shown(s)
	return s[1 : len(s)-1]
}
