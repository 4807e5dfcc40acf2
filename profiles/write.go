package profiles

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Save writes a profile as a short file: host, and what differs from the defaults, each with a comment. What was in
// the file before is replaced, comments included. A profile that Load would refuse is not written; the error is then
// a Problems without lines.
//
// The file is there whole or not at all, whatever happens meanwhile: it is written beside its place, brought to the
// disk, then renamed. The folder is made with mode 0700 if it is not there, the file with 0600.
func (d Dir) Save(name string, p *Profile) error {
	if err := CheckName(name); err != nil {
		return err
	}
	text := render(p)
	if _, err := Parse(name+suffix, text); err != nil {
		var bad Problems
		if errors.As(err, &bad) {
			for _, one := range bad {
				one.Line = 0 // nobody has seen that text
			}
		}
		return err
	}
	return d.put(name, text)
}

// Write writes a profile's text as it is, comments and all, after the same checks as Load's, and as Save does.
func (d Dir) Write(name string, text []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := Parse(name+suffix, text); err != nil {
		return err
	}
	return d.put(name, text)
}

func (d Dir) put(name string, text []byte) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("make the folder of profiles %s: %w", d, cause(err))
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return fmt.Errorf("write profile %s in %s: %w", name, d, cause(err))
	}
	defer root.Close()
	if err := d.checkLink(root, name+suffix); err != nil {
		return fmt.Errorf("write profile %s: %w", name, err)
	}
	err = replace(root, name+suffix, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("write profile %s in %s: %w", name, d, cause(err))
	}
	return nil
}

// replace puts a new file in the place of file, once fill has written all of it. On any error file is as it was.
func replace(root *os.Root, file string, fill func(io.Writer) error) (err error) {
	tmp := "." + file + "." + rand.Text()
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // a second time does no harm, and Windows removes no open file
			root.Remove(tmp)
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	// Windows says "access denied" in this case, which helps nobody.
	if info, err := root.Lstat(file); err == nil && info.IsDir() {
		return &fs.PathError{Op: "rename", Path: file, Err: errors.New(file + " is a folder")}
	}
	if err := root.Rename(tmp, file); err != nil {
		return err
	}
	syncDir(root)
	return nil
}
