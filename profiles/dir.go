package profiles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// suffix is the end of a profile's file name.
const suffix = ".toml"

// Dir is the folder of the profiles, one file NAME.toml for each. It need not exist: then there are none, and Save
// makes it. The folder itself may be a link; a link in it that leads out of it is refused.
type Dir string

// NotFoundError says that there is no profile of that name. It is fs.ErrNotExist to errors.Is.
type NotFoundError struct {
	Name string
	Dir  string
	Near []string // names that there are and that may have been meant, the likeliest first
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no profile %s in %s", e.Name, e.Dir)
}

// Is makes the error one of "does not exist".
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// Entry is one file of the folder: a profile, or the reason why it is none.
type Entry struct {
	Name    string
	Profile *Profile // nil if Err is set
	Err     error
}

// ConfigDir returns rlca's own folder for what the user writes; the profiles are in its subfolder "profiles". It is
// $RLCA_CONFIG_DIR, else $XDG_CONFIG_HOME/rlca, else ~/.config/rlca on Linux and the system's own place elsewhere.
// A relative $XDG_CONFIG_HOME is ignored, as its specification says. Nil getenv means os.Getenv.
func ConfigDir(getenv func(string) string) (string, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	if dir := getenv("RLCA_CONFIG_DIR"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("RLCA_CONFIG_DIR %s: %w", dir, err)
		}
		return abs, nil
	}
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "rlca"), nil
	}
	if runtime.GOOS == "linux" {
		home := getenv("HOME")
		if home == "" {
			return "", errors.New("find the folder of the profiles: HOME is not set, nor RLCA_CONFIG_DIR")
		}
		return filepath.Join(home, ".config", "rlca"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the folder of the profiles: %w; RLCA_CONFIG_DIR can name one", err)
	}
	return filepath.Join(dir, "rlca"), nil
}

// Path returns where the profile of that name is or would be. The error is a *NameError.
func (d Dir) Path(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	return filepath.Join(string(d), name+suffix), nil
}

// Load reads one profile. The error is a *NameError, a *NotFoundError, a Problems, or what the system said.
func (d Dir) Load(name string) (*Profile, error) {
	text, err := d.Read(name)
	if err != nil {
		return nil, err
	}
	return Parse(name+suffix, text)
}

// Read returns a profile's text as it is, right or wrong, for an editor.
func (d Dir) Read(name string) ([]byte, error) {
	root, err := d.look(name)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	text, err := d.read(root, name+suffix)
	if err != nil {
		return nil, fmt.Errorf("read profile %s: %w", name, err)
	}
	return text, nil
}

// List returns every profile by name. A file that is none has its error in its entry and does not hide the others;
// a folder that does not exist is empty.
func (d Dir) List() ([]Entry, error) {
	root, err := os.OpenRoot(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list profiles in %s: %w", d, cause(err))
	}
	defer root.Close()
	names, err := names(root)
	if err != nil {
		return nil, fmt.Errorf("list profiles in %s: %w", d, cause(err))
	}
	list := make([]Entry, len(names))
	for i, name := range names {
		e := &list[i]
		e.Name = name
		if e.Err = CheckName(name); e.Err != nil {
			e.Name = clean(name)
			continue
		}
		text, err := d.read(root, name+suffix)
		if err != nil {
			e.Err = fmt.Errorf("read profile %s: %w", name, err)
			continue
		}
		e.Profile, e.Err = Parse(name+suffix, text)
	}
	return list, nil
}

// Remove deletes a profile. Of a link it deletes the link.
func (d Dir) Remove(name string) error {
	root, err := d.look(name)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Lstat(name + suffix); err == nil && info.IsDir() {
		return fmt.Errorf("remove profile %s: %s%s is a folder", name, name, suffix)
	}
	if err := root.Remove(name + suffix); err != nil {
		return fmt.Errorf("remove profile %s in %s: %w", name, d, cause(err))
	}
	return nil
}

// look opens the folder in which the profile is, which it checks.
func (d Dir) look(name string) (*os.Root, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{Name: name, Dir: string(d)}
	}
	if err != nil {
		return nil, fmt.Errorf("open the folder of profiles %s: %w", d, cause(err))
	}
	_, err = root.Lstat(name + suffix)
	if err == nil {
		return root, nil
	}
	defer root.Close()
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for profile %s in %s: %w", name, d, cause(err))
	}
	all, _ := names(root) // only for the suggestion
	return nil, &NotFoundError{Name: name, Dir: string(d), Near: near(name, all)}
}

// names lists the files that are meant as profiles, right or wrong. Hidden ones are not: editors and Save put their
// unfinished work there.
func names(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, file := range all {
		if name, ok := strings.CutSuffix(file, suffix); ok && !strings.HasPrefix(file, ".") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// read returns the text of one file of the folder. It never waits: what is no plain file is not opened.
func (d Dir) read(root *os.Root, file string) ([]byte, error) {
	if err := d.checkLink(root, file); err != nil {
		return nil, err
	}
	info, err := root.Stat(file)
	if err != nil {
		return nil, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file but %s", file, kindOfFile(info.Mode()))
	}
	f, err := root.Open(file)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1)) // Parse refuses what is longer
	if err != nil {
		return nil, cause(err)
	}
	return text, nil
}

// checkLink says what is wrong with a file that is a link, if it is one.
func (d Dir) checkLink(root *os.Root, file string) error {
	info, err := root.Lstat(file)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	if _, err = root.Stat(file); err == nil {
		return nil
	}
	to, _ := root.Readlink(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is a link to %s, which is not there", file, clean(to))
	}
	// os.Root tells only in words that a link leads out; absolute links it refuses wherever they lead.
	return fmt.Errorf("%s is a link to %s, and links must not lead out of %s (%w)", file, clean(to), d, cause(err))
}

func kindOfFile(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// cause is what the system said, without the operation and the path: our own messages have better ones.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
