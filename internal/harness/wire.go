package harness

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Suffixes of what stands beside a file that is wired.
const (
	backupSuffix = ".rlca-backup" // the file as it was before the first change
	recordSuffix = ".rlca-wired"  // of JSON, which has no room for marks: what was set, and what was there before
)

type fileKind int

const (
	jsonFile fileKind = iota // JSON, with the comments and trailing commas that these programs allow
	tomlFile
	yamlFile
)

// place is where a program keeps a file.
type place struct {
	env  string // a variable that names the folder
	home string // the folder below the user's home, with slashes
	name string // the file, with slashes
	// or are other names of the file; where both are there, what such a one says goes before what name says.
	or []string
	// windows is the whole path on Windows, if it is another there; ${NAME} is a variable.
	windows string
}

// wiredFile is a file of a program that wire edits.
type wiredFile struct {
	place place
	kind  fileKind
	// sets are the settings of a JSON file.
	sets func(e Endpoint, loud bool) []setting
	// lines are those of a TOML or YAML file, fresh what a new file has besides.
	lines func(e Endpoint, loud bool) (top []entry, tables []table)
	fresh []entry
	// item is a new item at the head of a YAML list.
	item func(e Endpoint) (list string, lines []string)
}

// NotWiredError says that there is nothing of rlca's to take out.
type NotWiredError struct {
	Title string
	Paths []string
	// Backup is a copy of the file from before it was wired: the program has written the file anew, without the marks.
	Backup string
}

func (e *NotWiredError) Error() string {
	return fmt.Sprintf("%s is not wired: nothing of rlca is in %s", e.Title, strings.Join(e.Paths, " or "))
}

// ExposedError says that a file would hold the port's token, and that other users of this machine can read it.
type ExposedError struct {
	Title, Path string
}

func (e *ExposedError) Error() string {
	return fmt.Sprintf("wire %s: other users of this machine can read %s, and it would hold the port's token", e.Title, e.Path)
}

// Edit is what becomes of one file. Nothing is written before Save.
type Edit struct {
	// Path is the file as the program names it; it may be a symbolic link, which stays.
	Path string
	// Before and After are its bytes; nil: there is no such file.
	Before, After []byte
	// Left are the settings that somebody has changed since they were wired, and that unwire leaves.
	Left []string

	undo   bool
	again  bool   // something of rlca's is in Before: the copy beside it is older, and right
	record []byte // what is to stand beside it
}

// Changed reports whether Save would change the file.
func (e *Edit) Changed() bool {
	return !bytes.Equal(e.Before, e.After) || (e.Before == nil) != (e.After == nil)
}

// record is what stands beside a wired JSON file.
type record struct {
	By      string   `json:"by"`
	Tool    string   `json:"harness"`
	SHA256  string   `json:"sha256"` // of the file as it was written
	Base    string   `json:"base"`   // of the file without it, empty if there was none
	Created bool     `json:"created"`
	Splices []splice `json:"splices"`
	Changes []change `json:"changes"`
	// Previous is what stood here before: its text is still in the file if this wire was cut short.
	Previous *record `json:"previous,omitempty"`
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// Wirable reports whether the tool has files that wire knows.
func (t *Tool) Wirable() bool { return len(t.wired) > 0 }

// Wire works out how the tool's own files have to change so that it uses the endpoint from now on. What was wired before
// is taken out first, so that a second Wire only brings it up to date. A file that cannot be read as what it
// should be is a *ParseError, one that others can read and that would hold a token an *ExposedError; nothing is changed then.
func (t *Tool) Wire(e Endpoint, loud bool, getenv func(string) string) ([]*Edit, error) {
	var edits []*Edit
	for i := range t.wired {
		w := &t.wired[i]
		ed, err := t.open(w, getenv)
		if err != nil {
			return nil, err
		}
		base, made, err := ed.unwired(w)
		if err != nil {
			return nil, err
		}
		ed.again = !bytes.Equal(base, ed.Before)
		if e.Token != "" && exposed(ed.Path) {
			return nil, &ExposedError{t.Title, ed.Path}
		}
		if w.kind == jsonFile {
			err = ed.wireJSON(t.Name, base, made, w.sets(e, loud))
		} else {
			err = ed.wireLines(t.Name, base, made, w, e, loud)
		}
		if err != nil {
			return nil, inFile(err, ed.Path)
		}
		edits = append(edits, ed)
	}
	return edits, nil
}

// unwired is what the file is without anything of rlca's, and whether rlca made it.
func (ed *Edit) unwired(w *wiredFile) (base []byte, made bool, err error) {
	if ed.Before == nil {
		return nil, true, nil
	}
	u := &Edit{Path: ed.Path, Before: ed.Before}
	was, err := u.unwire(w)
	if err != nil {
		return nil, false, err
	}
	if !was {
		return ed.Before, false, nil
	}
	return u.After, u.After == nil, nil
}

func (ed *Edit) wireJSON(tool string, base []byte, made bool, sets []setting) (err error) {
	j := &jsonEdit{text: append([]byte{}, base...)}
	for _, s := range sets {
		if err := j.apply(s); err != nil {
			return err
		}
	}
	ed.After = j.text
	if len(j.splices) == 0 && !made { // it says all of it already, in the user's own words
		ed.After = base
		return nil
	}
	r := record{
		By: `rlca wire; "rlca unwire ` + tool + `" reads it`, Tool: tool, SHA256: sum(j.text), Created: made, Splices: j.splices, Changes: j.changes,
	}
	if !made {
		r.Base = sum(base)
	}
	if ed.again {
		if r.Previous, err = ed.readRecord(); err != nil {
			return err
		}
		if r.Previous != nil {
			r.Previous.Previous = nil
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	ed.record = append(text, '\n')
	return err
}

func (ed *Edit) wireLines(tool string, base []byte, made bool, w *wiredFile, e Endpoint, loud bool) (err error) {
	var top []entry
	var tables []table
	if w.lines != nil {
		top, tables = w.lines(e, loud)
	}
	if made {
		top = append(append([]entry(nil), w.fresh...), top...)
	}
	if w.kind == tomlFile {
		ed.After, err = wireTOML(tool, base, made, top, tables)
		return err
	}
	list, item := "", []string(nil)
	if w.item != nil {
		list, item = w.item(e)
	}
	ed.After, err = wireYAML(tool, base, made, top, list, item)
	return err
}

// Unwire works out how to take back what Wire did. The files get the very bytes that they had, and those that wire made
// are removed; in a file that was changed since, only what wire set goes. Without anything to take back it is a
// *NotWiredError.
func (t *Tool) Unwire(getenv func(string) string) ([]*Edit, error) {
	var edits []*Edit
	none := &NotWiredError{Title: t.Title}
	for i := range t.wired {
		w := &t.wired[i]
		ed, err := t.open(w, getenv)
		if err != nil {
			return nil, err
		}
		none.Paths = append(none.Paths, ed.Path)
		was, err := ed.unwire(w)
		if err != nil {
			return nil, err
		}
		if was {
			edits = append(edits, ed)
		} else if b := ed.Backup(); b != "" {
			none.Backup = b
		}
	}
	if len(edits) == 0 {
		return nil, none
	}
	return edits, nil
}

func (ed *Edit) unwire(w *wiredFile) (was bool, err error) {
	ed.undo, ed.After = true, ed.Before
	if w.kind == jsonFile {
		return ed.unwireJSON()
	}
	if ed.Before == nil {
		return false, nil
	}
	text, was, made, err := w.unmark(ed.Before)
	if err != nil {
		return false, inFile(err, ed.Path)
	}
	ed.After = text
	if made && len(bytes.TrimSpace(text)) == 0 {
		ed.After = nil
	}
	return was, nil
}

// readRecord reads what stands beside a JSON file, nil if nothing does.
func (ed *Edit) readRecord() (*record, error) {
	text, err := os.ReadFile(ed.Path + recordSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what rlca wrote into %s: %w", ed.Path, err)
	}
	r := new(record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read what rlca wrote into %s: %s is not as rlca wrote it: %w", ed.Path, ed.Path+recordSuffix, err)
	}
	return r, nil
}

func (ed *Edit) unwireJSON() (was bool, err error) {
	r, err := ed.readRecord()
	if r == nil || err != nil {
		return false, err
	}
	if ed.Before == nil {
		return true, nil // the file is gone, the record goes too
	}
	now := sum(ed.Before)
	for p := r; p != nil; p = p.Previous {
		if now == p.SHA256 {
			return true, ed.takeBack(p)
		}
	}
	if now == r.Base {
		return true, nil // a wire that was cut short, or an unwire, or the copy was put back by hand
	}
	best := -1
	for p := r; p != nil; p = p.Previous { // of a wire that was cut short, none of its settings is there
		j, left := &jsonEdit{text: ed.Before}, []string(nil)
		for _, c := range slices.Backward(p.Changes) {
			ok, err := j.undo(c)
			if err != nil {
				return false, inFile(err, ed.Path)
			}
			if !ok {
				left = append(left, strings.Join(c.Path, "."))
			}
		}
		if n := len(p.Changes) - len(left); n > best {
			best, ed.After, ed.Left = n, j.text, left
			if root, err := parseJSON(j.text); p.Created && err == nil && (root == nil || len(root.members) == 0 && root.last == root.start+1) {
				ed.After = nil
			}
		}
	}
	return true, nil
}

// takeBack undoes every splice in the text as it was written.
func (ed *Edit) takeBack(r *record) error {
	out := ed.Before
	for _, s := range slices.Backward(r.Splices) {
		if s.At < 0 || s.At+len(s.New) > len(out) || string(out[s.At:s.At+len(s.New)]) != s.New {
			return fmt.Errorf("take back what rlca wrote into %s: %s does not belong to it", ed.Path, ed.Path+recordSuffix)
		}
		out = append(append(append([]byte{}, out[:s.At]...), s.Old...), out[s.At+len(s.New):]...)
	}
	ed.After = out
	if r.Created {
		ed.After = nil
	}
	return nil
}

func inFile(err error, path string) error {
	var e *ParseError
	if errors.As(err, &e) && e.Path == "" {
		e.Path = path
	}
	return err
}

// open finds and reads a file; one that is not there is empty.
func (t *Tool) open(w *wiredFile, getenv func(string) string) (*Edit, error) {
	path, err := w.place.path(getenv)
	if err != nil {
		return nil, fmt.Errorf("find the settings of %s: %w", t.Title, err)
	}
	ed := &Edit{Path: path}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // a pipe would be waited for, a device replaced
		return nil, fmt.Errorf("read the settings of %s: %s is no file", t.Title, path)
	}
	ed.Before, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("read the settings of %s: %s is a symbolic link that leads nowhere: make the file that it names, or remove it", t.Title, path)
		}
		return ed, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings of %s: %w", t.Title, err)
	}
	if ed.Before == nil {
		ed.Before = []byte{}
	}
	return ed, nil
}

func (p place) path(getenv func(string) string) (string, error) {
	if p.windows != "" && runtime.GOOS == "windows" {
		return filepath.FromSlash(os.Expand(p.windows, getenv)), nil
	}
	folder := ""
	if p.env != "" {
		folder = getenv(p.env)
	}
	if folder == "" {
		home := getenv("HOME")
		if home == "" {
			home = getenv("USERPROFILE")
		}
		if home == "" {
			return "", errors.New("neither HOME nor USERPROFILE is set")
		}
		folder = filepath.Join(home, filepath.FromSlash(p.home))
	}
	path := filepath.Join(folder, filepath.FromSlash(p.name))
	for _, suffix := range []string{recordSuffix, ""} { // the one that is wired, else the one that is there
		for _, name := range p.or {
			other := filepath.Join(folder, filepath.FromSlash(name))
			if _, err := os.Lstat(other + suffix); err == nil {
				return other, nil
			}
		}
		if _, err := os.Lstat(path + suffix); err == nil {
			return path, nil
		}
	}
	return path, nil
}

// Save writes the file, and what stands beside it. A link keeps leading where it led, a mode stays; the new text takes the
// old one's place in one step, or not at all. A file that is not as it was when the edit was worked out is left alone.
func (e *Edit) Save() error {
	what := "wire " + e.Path
	if e.undo {
		what = "unwire " + e.Path
	} else if !e.Changed() {
		return nil
	} else if err := os.MkdirAll(filepath.Dir(e.Path), 0o700); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	release, err := hold(filepath.Dir(e.Path))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer release()
	if e.undo {
		err = e.saveUndo()
	} else {
		err = e.save()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (e *Edit) save() error {
	target, info, err := e.target()
	if err != nil {
		return err
	}
	if n := names(info); n > 1 {
		return fmt.Errorf("the file has %d names (hard links), and rlca would part them: make a copy of it, and put that in its place", n)
	}
	putBack := func() {}
	if e.Before != nil && !e.again {
		if putBack, err = e.keepCopy(); err != nil {
			return fmt.Errorf("keep a copy first: %w", err)
		}
	}
	rec := e.Path + recordSuffix
	old, oldErr := os.ReadFile(rec)
	if e.record != nil {
		err = replace(rec, e.record, 0o600, nil)
		if err != nil {
			err = fmt.Errorf("note what was there: %w", err)
		}
	}
	if err == nil {
		if err = e.put(target, info); err == nil {
			if e.record == nil { // it says all of it in the user's own words
				os.Remove(rec)
			}
			return nil
		}
		switch {
		case e.record == nil:
		case oldErr != nil:
			os.Remove(rec)
		default:
			replace(rec, old, 0o600, nil) // where it fails too: the new one knows what the old one said
		}
	}
	putBack()
	return err
}

// put makes the file say After, if it still says Before.
func (e *Edit) put(target string, info fs.FileInfo) error {
	now, err := os.ReadFile(e.Path)
	if gone := errors.Is(err, fs.ErrNotExist); gone != (e.Before == nil) || err == nil && !bytes.Equal(now, e.Before) {
		return errors.New("something else has written the file in the meantime: try again")
	} else if err != nil && !gone {
		return err
	}
	if !e.Changed() {
		return nil
	}
	if e.After == nil {
		return os.Remove(e.Path)
	}
	mode := fs.FileMode(0o600)
	if info != nil {
		mode = info.Mode().Perm()
	}
	return replace(target, e.After, mode, info)
}

// keepCopy puts the file as it is beside it. A copy from an earlier time that says something else is not lost: it gets
// a number. What it did can be put back.
func (e *Edit) keepCopy() (putBack func(), err error) {
	backup := e.Path + backupSuffix
	old, err := os.ReadFile(backup)
	if err == nil && bytes.Equal(old, e.Before) {
		return func() {}, nil
	}
	putBack = func() { os.Remove(backup) }
	if err == nil {
		older := ""
		for n := 1; ; n++ {
			older = backup + "." + itoa(n)
			if _, err := os.Lstat(older); errors.Is(err, fs.ErrNotExist) {
				break
			} else if err != nil {
				return nil, err
			}
		}
		if err := os.Rename(backup, older); err != nil {
			return nil, err
		}
		putBack = func() { os.Rename(older, backup) }
	}
	if err := replace(backup, e.Before, 0o600, nil); err != nil {
		putBack()
		return nil, err
	}
	return putBack, nil
}

func (e *Edit) saveUndo() error {
	target, info, err := e.target()
	if err != nil {
		return err
	}
	if err := e.put(target, info); err != nil {
		return err
	}
	if err := os.Remove(e.Path + recordSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	backup := e.Path + backupSuffix
	if old, err := os.ReadFile(backup); err == nil && e.After != nil && bytes.Equal(old, e.After) { // the copy says nothing new
		os.Remove(backup)
	}
	return nil
}

// Backup is the copy from before the file was wired, if there is one still.
func (e *Edit) Backup() string {
	backup := ""
	for n := 0; ; n++ {
		one := e.Path + backupSuffix
		if n > 0 {
			one += "." + itoa(n)
		}
		if _, err := os.Lstat(one); err == nil {
			if backup = one; n == 0 {
				return backup
			}
		} else if n > 0 {
			return backup
		}
	}
}

// target is the file behind the links, nil if there is none; it must be one that may be written.
func (e *Edit) target() (string, fs.FileInfo, error) {
	if e.Before == nil {
		return e.Path, nil, nil
	}
	path, err := filepath.EvalSymlinks(e.Path)
	if err != nil {
		return "", nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // a file that is read-only on purpose stays as it is
	if err != nil {
		return "", nil, err
	}
	return path, info, f.Close()
}

// replace writes a file beside its goal and renames it. It belongs to whom the one of info does.
func replace(path string, text []byte, mode fs.FileMode, info fs.FileInfo) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".rlca-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil && runtime.GOOS != "windows" {
		own(f, info)
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil { // a file that is noted must be there after a power cut too
		dir.Sync()
		dir.Close()
	}
	return nil
}
