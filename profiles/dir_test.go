package profiles

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

func TestConfigDir(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	abs := filepath.Join(here, "somewhere")
	home := filepath.Join(here, "home")
	tests := []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"RLCA_CONFIG_DIR": abs, "XDG_CONFIG_HOME": home, "HOME": home}, abs},
		{map[string]string{"RLCA_CONFIG_DIR": "somewhere"}, abs},
		{map[string]string{"XDG_CONFIG_HOME": abs, "HOME": home}, filepath.Join(abs, "rlca")},
	}
	if runtime.GOOS == "linux" {
		tests = append(tests, []struct {
			env  map[string]string
			want string
		}{
			{map[string]string{"XDG_CONFIG_HOME": "relative", "HOME": home}, filepath.Join(home, ".config", "rlca")},
			{map[string]string{"HOME": home}, filepath.Join(home, ".config", "rlca")},
		}...)
		if got, err := ConfigDir(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "HOME is not set") {
			t.Errorf("ConfigDir without HOME = %q, %v, want an error that says so", got, err)
		}
	}
	for _, test := range tests {
		if got, err := ConfigDir(func(k string) string { return test.env[k] }); err != nil || got != test.want {
			t.Errorf("ConfigDir(%v) = %q, %v, want %q", test.env, got, err, test.want)
		}
	}
	t.Setenv("RLCA_CONFIG_DIR", abs)
	if got, err := ConfigDir(nil); err != nil || got != abs {
		t.Errorf("ConfigDir(nil) = %q, %v, want %q", got, err, abs)
	}
}

func TestLoadNotFound(t *testing.T) {
	nowhere := Dir(filepath.Join(t.TempDir(), "not", "there"))
	d := newDir(t, map[string]string{"spark-box.toml": `host = "a"`, "attic.toml": `host = "b"`, "broken.toml": "", ".spark-bix.toml": ""})
	for _, test := range []struct {
		dir  Dir
		name string
		near []string
	}{{nowhere, "spark", nil}, {d, "sprak-box", []string{"spark-box"}}, {d, "Attic2", []string{"attic"}}, {d, "elsewhere", nil}} {
		for verb, do := range map[string]func(string) error{
			"Load":   func(name string) error { _, err := test.dir.Load(name); return err },
			"Read":   func(name string) error { _, err := test.dir.Read(name); return err },
			"Remove": test.dir.Remove,
		} {
			want := &NotFoundError{Name: test.name, Dir: string(test.dir), Near: test.near}
			var got *NotFoundError
			err := do(test.name)
			if !errors.As(err, &got) || !reflect.DeepEqual(got, want) {
				t.Errorf("%s(%s) is %#v, want %#v", verb, test.name, err, want)
			}
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s(%s) is not of fs.ErrNotExist: %v", verb, test.name, err)
			}
		}
	}
	if got, want := (&NotFoundError{Name: "x", Dir: "/d"}).Error(), "no profile x in /d"; got != want {
		t.Errorf("the error reads %q, want %q", got, want)
	}
}

// A name that is none never gets as far as the disk.
func TestNamesStayInTheFolder(t *testing.T) {
	top := t.TempDir()
	d := Dir(filepath.Join(top, "profiles"))
	if err := os.Mkdir(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(top, "x.toml")
	if err := os.WriteFile(outside, []byte(`host = "h"`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := Default()
	p.Host = "h"
	for _, name := range []string{"../x", "..", "", "a/../../x", outside, strings.TrimSuffix(outside, ".toml"), `..\x`, "local", "con"} {
		for verb, do := range map[string]func() error{
			"Load":   func() error { _, err := d.Load(name); return err },
			"Read":   func() error { _, err := d.Read(name); return err },
			"Path":   func() error { _, err := d.Path(name); return err },
			"Save":   func() error { return d.Save(name, &p) },
			"Write":  func() error { return d.Write(name, []byte(`host = "i"`)) },
			"Remove": func() error { return d.Remove(name) },
		} {
			var bad *NameError
			if err := do(); !errors.As(err, &bad) {
				t.Errorf("%s(%q) = %v, want a NameError", verb, name, err)
			}
		}
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != `host = "h"` {
		t.Errorf("the file outside is now %q, %v", got, err)
	}
	if left := files(t, d); len(left) > 0 {
		t.Errorf("the folder has %v, want nothing", left)
	}
}

func TestList(t *testing.T) {
	d := newDir(t, map[string]string{
		"spark.toml": `host = "a"`, "attic.toml": "hst = \"b\"\n", "Zoo.toml": `host = "z"`, "with space.toml": `host = "c"`, "local.toml": `host = "d"`,
		".spark.toml.X": "half", ".hidden.toml": "", "notes.txt": "", "spark.toml~": "", "toml": "",
	})
	if err := os.Mkdir(filepath.Join(string(d), "folder.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		if (e.Profile == nil) == (e.Err == nil) {
			t.Errorf("entry %s has profile %v and error %v, want one of them", e.Name, e.Profile, e.Err)
		}
		if e.Err != nil {
			got = append(got, e.Name+": "+strings.Split(e.Err.Error(), "\n")[0])
		} else {
			got = append(got, e.Name+" at "+e.Profile.Host)
		}
	}
	want := []string{
		"Zoo at z",
		`attic: attic.toml:1: unknown key "hst", did you mean "host"?`,
		"folder: read profile folder: folder.toml is no file but a folder",
		`local: profile name "local" is reserved: it means this machine`,
		"spark at a",
		`with space: profile name "with space" may have letters, digits, ".", "_" and "-" only`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("List() is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	if list, err := Dir(filepath.Join(string(d), "none")).List(); err != nil || len(list) != 0 {
		t.Errorf("List() of a folder that is not there = %v, %v, want nothing", list, err)
	}
	_, err = Dir(filepath.Join(string(d), "spark.toml")).List()
	if err == nil || !strings.HasPrefix(err.Error(), "list profiles in ") {
		t.Errorf("List() of a file: %v, want an error", err)
	}
}

func TestRemove(t *testing.T) {
	d := newDir(t, map[string]string{"spark.toml": "broken, and yet to be removed", "attic.toml": ""})
	if err := d.Remove("spark"); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, d), []string{"attic.toml"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the folder has %v, want %v", got, want)
	}
	if err := os.Mkdir(filepath.Join(string(d), "folder.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("folder"); err == nil || err.Error() != "remove profile folder: folder.toml is a folder" {
		t.Errorf("Remove of a folder: %v, want that it is one", err)
	}
}

func TestLinks(t *testing.T) {
	d := newDir(t, map[string]string{"base.toml": `host = "base"`})
	outside := filepath.Join(t.TempDir(), "outside.toml")
	if err := os.WriteFile(outside, []byte(`host = "evil"`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"inside": "base.toml", "dangling": "nothing.toml", "absolute": outside, "up": "../../../../../../../etc/hostname", "loop": "loop.toml",
		"home": filepath.Join(string(d), "base.toml"),
	} {
		if err := os.Symlink(to, filepath.Join(string(d), name+".toml")); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	if p, err := d.Load("inside"); err != nil || p.Host != "base" {
		t.Errorf("Load through a link in the folder = %v, %v, want base", p, err)
	}
	for name, want := range map[string]string{
		"absolute": "links must not lead out of", "up": "links must not lead out of", "home": "links must not lead out of",
		"dangling": "dangling.toml is a link to nothing.toml, which is not there", "loop": "loop.toml is a link to loop.toml",
	} {
		if _, err := d.Load(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v, want %q", name, err, want)
		}
		if err := d.Write(name, []byte(`host = "h"`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Write(%s) = %v, want %q", name, err, want)
		}
	}
	if err := d.Remove("absolute"); err != nil {
		t.Errorf("Remove of a link: %v", err)
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != `host = "evil"` {
		t.Errorf("the file outside is %q, %v, want it as it was", got, err)
	}

	// The folder itself may be a link.
	link := filepath.Join(t.TempDir(), "profiles")
	if err := os.Symlink(string(d), link); err != nil {
		t.Fatal(err)
	}
	if p, err := Dir(link).Load("base"); err != nil || p.Host != "base" {
		t.Errorf("Load from a folder that is a link = %v, %v, want base", p, err)
	}
	if err := Dir(link).Write("new", []byte(`host = "n"`)); err != nil {
		t.Errorf("Write to a folder that is a link: %v", err)
	}
	if p, err := d.Load("new"); err != nil || p.Host != "n" {
		t.Errorf("Load of what was written through a link = %v, %v, want n", p, err)
	}
}

func TestLoadBigFile(t *testing.T) {
	d := newDir(t, map[string]string{"big.toml": "host = \"h\"\n" + strings.Repeat("# and so on\n", maxSize/10)})
	if _, err := d.Load("big"); err == nil || err.Error() != "big.toml: is longer than 1 MiB, which no profile is" {
		t.Errorf("Load of a big file: %v, want that it is too long", err)
	}
}

// newDir makes a folder of profiles.
func newDir(t *testing.T, texts map[string]string) Dir {
	t.Helper()
	d := t.TempDir()
	for file, text := range texts {
		if err := os.WriteFile(filepath.Join(d, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Dir(d)
}

// files lists all that is in the folder, hidden or not.
func files(t *testing.T, d Dir) []string {
	t.Helper()
	all, err := os.ReadDir(string(d))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}
