package profiles

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page of the documentation is held to what the code does: each key has its row with its default, each example
// can be read, and the one with mistakes gets the messages that are printed below it.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (.*?) \\|").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]] = strings.Trim(m[2], "`")
	}
	standard := Default()
	for _, k := range keys() {
		want := literal(k.at(&standard))
		switch k.label() {
		case "host":
			want = "none"
		case "user", "port", "identity", "jump":
			want = "ssh_config's"
		}
		if got, ok := rows[k.label()]; !ok || got != want {
			t.Errorf("docs/profiles.md has for %s the default %q, want %q", k.label(), got, want)
		}
		delete(rows, k.label())
	}
	for label := range rows {
		t.Errorf("docs/profiles.md has a row for %s, which is no key", label)
	}

	blocks := regexp.MustCompile("(?s)```(toml|text)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	bad := ""
	for _, b := range blocks {
		kind, text := b[1], b[2]
		switch {
		case kind == "text":
			if want := strings.TrimSpace(text); bad != want {
				t.Errorf("the mistakes in docs/profiles.md get\n%s\nwant\n%s", bad, want)
			}
		case strings.Contains(text, "with mistakes"):
			_, err := Parse("spark.toml", []byte(text))
			if err == nil {
				t.Fatal("the example with mistakes has none")
			}
			bad = err.Error()
		default:
			if _, err := Parse("spark.toml", []byte(text)); err != nil {
				t.Errorf("an example of docs/profiles.md cannot be read: %v\n%s", err, text)
			}
		}
	}
	if len(blocks) != 4 {
		t.Errorf("docs/profiles.md has %d examples, want 4", len(blocks))
	}
}
