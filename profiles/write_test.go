package profiles

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestSaveLoad(t *testing.T) {
	alone := Default()
	alone.Host = "h"
	tidy := full()
	for name, p := range map[string]Profile{"full": full(), "alone": alone} {
		d := Dir(filepath.Join(t.TempDir(), "rlca", "profiles"))
		if err := d.Save(name, &p); err != nil {
			t.Fatal(err)
		}
		got, err := d.Load(name)
		if err != nil {
			text, _ := d.Read(name)
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(*got, p) {
			t.Errorf("%s was saved as %+v\nand loaded as %+v", name, p, *got)
		}
		first, _ := d.Read(name)
		if err := d.Save(name, got); err != nil {
			t.Fatal(err)
		}
		if again, _ := d.Read(name); !bytes.Equal(first, again) {
			t.Errorf("saved again it is\n%s\nbefore it was\n%s", again, first)
		}
		if runtime.GOOS != "windows" {
			path, _ := d.Path(name)
			for file, want := range map[string]os.FileMode{path: 0o600, string(d): 0o700, filepath.Dir(string(d)): 0o700} {
				if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
					t.Errorf("mode of %s is %v, %v, want %v", file, info.Mode().Perm(), err, want)
				}
			}
		}
	}
	if !reflect.DeepEqual(tidy, full()) {
		t.Error("Save changed the profile")
	}
}

func TestSaveText(t *testing.T) {
	p := Default()
	p.Host, p.User, p.Port = "spark-box", "me", 2222
	p.Jump = []string{}
	p.Model.Context = 0
	p.Forward.Hold = Duration(90e9)
	p.Forward.Also = []Also{"127.0.0.1:3000:localhost:3000", "127.0.0.1:8888:localhost:8888", "127.0.0.1:9999:a:9999"}
	want := `# What is not here has its default: rlca's docs/profiles.md has every key.
host = "spark-box"             # ssh_config alias, name or address
user = "me"                    # in place of what ssh_config says
port = 2222                    # in place of what ssh_config says

[model]
context = 0                    # tokens per request; 0 = the most that fits

[forward]
hold = "90s"                   # how long a request waits for the link
also = [
  "127.0.0.1:3000:localhost:3000",
  "127.0.0.1:8888:localhost:8888",
  "127.0.0.1:9999:a:9999",
] # further ports, LISTEN:PORT:HOST:PORT
`
	if got := string(render(&p)); got != want {
		t.Errorf("a saved profile reads\n%s\nwant\n%s", got, want)
	}
}

// Save refuses what Load would refuse, and says which field it is; no line, for nobody has seen the text.
func TestSaveRefuses(t *testing.T) {
	d := newDir(t, map[string]string{"spark.toml": `host = "old"`})
	for want, edit := range map[string]func(*Profile){
		"spark.toml: host must not be empty": func(p *Profile) { p.Host = "" },
		"spark.toml: forward.listen must be a loopback address (127.0.0.1, [::1] or localhost), not \"0.0.0.0\": rlca never listens to anyone but you": func(p *Profile) { p.Forward.Listen = "0.0.0.0:1" },
		"spark.toml: model.parallel must be 1 or more, not 0":                               func(p *Profile) { p.Model.Parallel = 0 },
		"spark.toml: forward.hold must be longer than nothing, not \"0s\"":                  func(p *Profile) { p.Forward.Hold = 0 },
		"spark.toml: invalid TOML: invalid UTF-8 character in basic string":                 func(p *Profile) { p.Model.Name = "a\xff" },
		"spark.toml: user must not contain spaces or control characters, as \"a\\nb\" does": func(p *Profile) { p.User = "a\nb" },
		"spark.toml: port must be from 1 to 65535, not -1":                                  func(p *Profile) { p.Port = -1 },
	} {
		p := Default()
		p.Host = "h"
		edit(&p)
		var bad Problems
		if err := d.Save("spark", &p); !errors.As(err, &bad) || err.Error() != want {
			t.Errorf("Save is %v\nwant %s", err, want)
		}
	}
	if err := d.Write("spark", []byte("hots = 1\n")); err == nil || !strings.HasPrefix(err.Error(), "spark.toml:1: ") {
		t.Errorf("Write of a wrong text: %v, want its problems", err)
	}
	if p, err := d.Load("spark"); err != nil || p.Host != "old" {
		t.Errorf("after all that the profile is %v, %v, want the old one", p, err)
	}
	if got := files(t, d); len(got) != 1 {
		t.Errorf("the folder has %v, want the profile alone", got)
	}
}

// Write keeps the text, byte for byte.
func TestWriteRead(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "profiles"))
	text := "\xef\xbb\xbf# my own words\r\nhost   =   'h'\r\n"
	if err := d.Write("spark", []byte(text)); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Read("spark"); err != nil || string(got) != text {
		t.Errorf("Read is %q, %v, want %q", got, err, text)
	}
}

// Whatever goes wrong on the way, the old file is there and nothing else.
func TestFailedWriteLeavesTheOldFile(t *testing.T) {
	const old = `host = "old"`
	d := newDir(t, map[string]string{"spark.toml": old})
	if err := os.Mkdir(filepath.Join(string(d), "folder.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	full := errors.New("no space left on device")
	for what, do := range map[string]func() error{
		"half written": func() error {
			return replace(root, "spark.toml", func(w io.Writer) error {
				io.WriteString(w, `host = "ne`)
				return full
			})
		},
		"closed before its time": func() error {
			return replace(root, "spark.toml", func(w io.Writer) error { return w.(io.Closer).Close() })
		},
		"onto a folder": func() error { return d.Write("folder", []byte(`host = "new"`)) },
	} {
		if err := do(); err == nil {
			t.Errorf("%s: no error", what)
		}
		if got, err := d.Read("spark"); err != nil || string(got) != old {
			t.Errorf("%s: the profile is %q, %v, want %q", what, got, err, old)
		}
		if got, want := files(t, d), []string{"folder.toml", "spark.toml"}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the folder has %v, want %v", what, got, want)
		}
	}
	want := "write profile folder in " + string(d) + ": folder.toml is a folder"
	if err := d.Write("folder", []byte(`host = "new"`)); err == nil || err.Error() != want {
		t.Errorf("Write onto a folder: %v, want %s", err, want)
	}
}

// A process that was killed in the middle leaves a hidden file, which is in nobody's way.
func TestLeftoverIsIgnored(t *testing.T) {
	d := newDir(t, map[string]string{"spark.toml": `host = "old"`, ".spark.toml.ABC": `host = "ne`})
	if err := d.Write("spark", []byte(`host = "new"`)); err != nil {
		t.Fatal(err)
	}
	list, err := d.List()
	if err != nil || len(list) != 1 || list[0].Profile == nil || list[0].Profile.Host != "new" {
		t.Errorf("List() = %+v, %v, want the new profile alone", list, err)
	}
}

func TestUnwritableFolder(t *testing.T) {
	top := t.TempDir()
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := Default()
	p.Host = "h"
	d := Dir(filepath.Join(file, "profiles"))
	if err := d.Save("spark", &p); err == nil || !strings.HasPrefix(err.Error(), "make the folder of profiles "+string(d)+": ") {
		t.Errorf("Save below a file: %v, want that the folder cannot be made", err)
	}

	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to this user")
	}
	d = newDir(t, map[string]string{"spark.toml": `host = "old"`})
	if err := os.Chmod(string(d), 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(string(d), 0o700)
	want := "write profile spark in " + string(d) + ": permission denied"
	if err := d.Save("spark", &p); err == nil || err.Error() != want || !errors.Is(err, os.ErrPermission) {
		t.Errorf("Save to a folder without leave: %v, want %s", err, want)
	}
	if p, err := d.Load("spark"); err != nil || p.Host != "old" {
		t.Errorf("after that the profile is %v, %v, want the old one", p, err)
	}
}

// Who reads while others write sees one whole profile, old or new.
func TestWritersAndReaders(t *testing.T) {
	d := newDir(t, map[string]string{"spark.toml": "host = \"h0\"\n"})
	pad := strings.Repeat("# as long as two pages of memory\n", 300)
	var writers, reader sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		writers.Go(func() {
			for range 10 {
				if err := d.Write("spark", []byte(pad+"host = \"h\"\n")); err != nil && runtime.GOOS != "windows" {
					t.Errorf("Write: %v", err)
				}
			}
		})
	}
	reader.Go(func() {
		for n := 0; ; n++ {
			if _, err := d.Load("spark"); err != nil && runtime.GOOS != "windows" {
				t.Errorf("Load: %v", err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	writers.Wait()
	close(done)
	reader.Wait()
	if got := files(t, d); len(got) != 1 {
		t.Errorf("the folder has %v, want the profile alone", got)
	}
}
