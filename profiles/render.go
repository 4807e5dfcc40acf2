package profiles

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// render writes a profile as a person would: what differs from the defaults, in the order of the documentation, each
// key with a word about it.
func render(p *Profile) []byte {
	var b strings.Builder
	b.WriteString("# What is not here has its default: rlca's docs/profiles.md has every key.\n")
	standard := Default()
	section := ""
	for _, k := range keys() {
		v, d := k.at(p), k.at(&standard)
		if k.name != "host" && same(v, d) {
			continue
		}
		if k.section != section {
			section = k.section
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		fmt.Fprintf(&b, "%-30s # %s\n", k.name+" = "+literal(v), k.note)
	}
	return []byte(b.String())
}

// same compares two fields; no list and an empty one are the same.
func same(a, b any) bool {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	if va.Kind() == reflect.Slice && va.Len() == 0 && vb.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(va.Interface(), vb.Interface())
}

// literal is a field in TOML.
func literal(field any) string {
	switch f := field.(type) {
	case *string:
		return quote(*f)
	case *int:
		return strconv.Itoa(*f)
	case *Duration:
		return quote(f.String())
	case *[]string:
		return array(*f)
	case *[]Also:
		return array(*f)
	}
	panic(fmt.Sprintf("profiles: no literal of a %T", field))
}

// array puts a list on one line, or on one line for each if it is long.
func array[S ~string](list []S) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = quote(string(s))
	}
	if line := "[" + strings.Join(words, ", ") + "]"; len(line) < 80 {
		return line
	}
	return "[\n  " + strings.Join(words, ",\n  ") + ",\n]"
}

// quote writes a basic string of TOML, which knows fewer escapes than Go.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == utf8.RuneError && s[i] != "\uFFFD"[0]:
			b.WriteByte(s[i]) // no UTF-8: left for Parse to refuse
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsControl(r):
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
