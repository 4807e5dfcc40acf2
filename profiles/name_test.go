package profiles

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, good := range []string{
		"spark", "spark-box", "Spark_2", "_x", "7", "10.0.0.7", "box.lan", "a-", "console", "com", "com10", "lpt", "com1x",
		"nulls", "locals", "demo2", "x.con", "toml", strings.Repeat("a", 64),
	} {
		if err := CheckName(good); err != nil {
			t.Errorf("CheckName(%q) = %v, want nil", good, err)
		}
	}
	for bad, reason := range map[string]string{
		"":                      "must not be empty",
		strings.Repeat("a", 65): "must not be longer than 64 letters",
		"../x":                  `may have letters, digits, ".", "_" and "-" only`,
		"a/b":                   `may have letters, digits, ".", "_" and "-" only`,
		`a\b`:                   `may have letters, digits, ".", "_" and "-" only`,
		"c:x":                   `may have letters, digits, ".", "_" and "-" only`,
		"me@spark":              `may have letters, digits, ".", "_" and "-" only`,
		"a b":                   `may have letters, digits, ".", "_" and "-" only`,
		"a\x00":                 `may have letters, digits, ".", "_" and "-" only`,
		"größe":                 `may have letters, digits, ".", "_" and "-" only`,
		".hidden":               `must not begin with "." or "-"`,
		"..":                    `must not begin with "." or "-"`,
		"-F":                    `must not begin with "." or "-"`,
		"a..b":                  `must not have ".." in it or "." at its end`,
		"a.":                    `must not have ".." in it or "." at its end`,
		"local":                 "is reserved: it means this machine",
		"Local":                 "is reserved: it means this machine",
		"demo":                  "is reserved: it means the box of rlca demo",
		"spark.toml":            "must not end in .toml: the file's name gets that by itself",
		"con":                   "is a device on Windows",
		"CON":                   "is a device on Windows",
		"nul.box":               "is a device on Windows",
		"aux":                   "is a device on Windows",
		"prn":                   "is a device on Windows",
		"Com1":                  "is a device on Windows",
		"lpt9.x.y":              "is a device on Windows",
	} {
		var got *NameError
		if err := CheckName(bad); !errors.As(err, &got) || got.Reason != reason || got.Name != bad {
			t.Errorf("CheckName(%q) = %v, want a NameError: %s", bad, err, reason)
		}
	}
	if got, want := CheckName("a/\x1b").Error(), `profile name "a/\x1b" may have letters, digits, ".", "_" and "-" only`; got != want {
		t.Errorf("the error reads %s, want %s", got, want)
	}
}

// Whatever CheckName takes is one file right in the folder.
func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"spark", "..", "../x", "a/b", `a\b`, "c:", "con", "a\x00", "a.b", "~", "$HOME", "a:stream"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, err := Dir("/folder").Path(name)
		if err != nil {
			return
		}
		if dir, file := filepath.Split(path); filepath.Clean(dir) != filepath.Clean("/folder") || file != name+".toml" || !filepath.IsLocal(file) ||
			strings.ContainsAny(file, `/\:`) {
			t.Errorf("Path(%q) = %q, which is not a file of the folder", name, path)
		}
	})
}

func FuzzAlso(f *testing.F) {
	for _, s := range []string{"127.0.0.1:3000:localhost:3000", "[::1]:3000:[fd00::2]:80", "3000:localhost:3000", "[]:1:[]:1", ":::", "[::1]:1:a:1]", "~/a.sock:/run/b.sock", "127.0.0.1:1:/run/b.sock", "/a:h:1", "/a:[::1]:1", "/a:/b:/c", "~/:/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		listen, target, err := Also(s).Split()
		if err != nil {
			return
		}
		if listen+":"+target != s {
			t.Errorf("Also(%q).Split() = %q, %q, which is something else", s, listen, target)
		}
		if isSocket(listen) {
			return
		}
		if err := checkListen(listen); err != nil {
			t.Errorf("Also(%q).Split() listens on %q: %v", s, listen, err)
		}
	})
}

func TestNear(t *testing.T) {
	boxes := []string{"spark-box", "spark-2", "attic", "gpu", "port", "mode"}
	for in, want := range map[string][]string{
		"spark-bxo":                   {"spark-box", "spark-2"},
		"spark":                       {"spark-box", "spark-2"},
		"SPARK-2":                     {"spark-2"},
		"atic":                        {"attic"},
		"gpus":                        {"gpu"},
		"prot":                        {"port"},
		"modle":                       {"mode"},
		"xyz":                         nil,
		"":                            nil,
		strings.Repeat("spark", 1000): nil,
	} {
		if got := near(in, boxes); !reflect.DeepEqual(got, want) {
			t.Errorf("near(%.20q) = %q, want %q", in, got, want)
		}
	}
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"abc", "axc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
