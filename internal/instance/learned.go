package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"rlca/internal/fit"
	"rlca/tunnel"
)

// What is kept of loads: of one box, and boxes.
const (
	maxLoads = 32
	maxBoxes = 200
)

// ledger is the file of the loads that were seen, by box: what the corrections of the fit are made of.
type ledger string

// boxLoads are the loads on one box, the last one at the end.
type boxLoads struct {
	Box   string     `json:"box"`
	Loads []fit.Load `json:"loads"`
}

// ledgerMu guards the files: one supervisor writes for all of its hosts.
var ledgerMu sync.Mutex

// boxName tells boxes apart, whatever the profile is called: by where they are dialed.
func boxName(t *tunnel.Target) string {
	if t == nil {
		return Local
	}
	if t.HostKeyAlias != "" {
		return t.HostKeyAlias
	}
	return strings.Join(append(slices.Clone(t.Jumps), t.Addr()), " ")
}

func (l ledger) read() ([]boxLoads, error) {
	if l == "" {
		return nil, nil
	}
	text, err := os.ReadFile(string(l))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what earlier loads took: %w", err)
	}
	var all []boxLoads
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read what earlier loads took: %s: %w; remove it, it is written anew", l, err)
	}
	return all, nil
}

// loads are those of one box.
func (l ledger) loads(box string) ([]fit.Load, error) {
	ledgerMu.Lock()
	defer ledgerMu.Unlock()
	all, err := l.read()
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if b.Box == box {
			return b.Loads, nil
		}
	}
	return nil, nil
}

// add notes a load. The file is replaced at once or not at all; one that cannot be read is left.
func (l ledger) add(box string, load fit.Load) error {
	if l == "" {
		return nil
	}
	ledgerMu.Lock()
	defer ledgerMu.Unlock()
	all, err := l.read()
	if err != nil {
		return err
	}
	mine := boxLoads{Box: box}
	if i := slices.IndexFunc(all, func(b boxLoads) bool { return b.Box == box }); i >= 0 {
		mine = all[i]
		all = slices.Delete(all, i, i+1)
	}
	mine.Loads = append(mine.Loads, load)
	mine.Loads = mine.Loads[max(0, len(mine.Loads)-maxLoads):]
	all = append(all, mine) // the box that was used last comes last
	all = all[max(0, len(all)-maxBoxes):]
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := l.replace(append(text, '\n')); err != nil {
		return fmt.Errorf("note what a load took: %w", err)
	}
	return nil
}

func (l ledger) replace(text []byte) error {
	dir := filepath.Dir(string(l))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".loads-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), string(l))
}
