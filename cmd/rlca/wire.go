package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"rlca/internal/harness"
)

// wiring is the answer of wire and unwire as JSON.
type wiring struct {
	Harness string      `json:"harness"`
	Model   string      `json:"model,omitempty"`
	BaseURL string      `json:"base_url,omitempty"`
	DryRun  bool        `json:"dry_run"`
	Files   []wiredJSON `json:"files"`
}

type wiredJSON struct {
	Path    string   `json:"path"`
	Changed bool     `json:"changed"`
	Created bool     `json:"created"`
	Removed bool     `json:"removed"`
	Backup  *string  `json:"backup"`
	Left    []string `json:"left"`
	Diff    string   `json:"diff"`
}

func (a *app) wireCmd() *cobra.Command {
	var o toward
	var dry, asJSON bool
	c := &cobra.Command{
		Use: "wire HARNESS", Short: "write the endpoint into a harness's own settings, with a copy and an exact undo", Args: cobra.ExactArgs(1),
		Long: `wire edits the settings of a harness so that it uses the model of a connected box whenever it is started. What
it does not set stays byte for byte; beside the file lies FILE.rlca-backup, as it was before. rlca unwire
takes exactly that back.

HARNESS is ` + strings.Join(wirable(), ", ") + `.`,
		ValidArgs: wirable(),
		RunE: func(_ *cobra.Command, args []string) error {
			tool, err := wirableTool(args[0])
			if err != nil {
				return err
			}
			_, e, err := a.endpointFor(tool, o)
			if err != nil {
				return err
			}
			if e.Model == "" {
				return usagef("which model is not known: name it with --model")
			}
			edits, err := tool.Wire(e, o.loud, a.getenv)
			if err != nil {
				return err
			}
			if harness.Proxied(a.getenv) { // no settings can say this for the user's shell
				a.talk.say("warning: your shell names a proxy and not what goes past it: add 127.0.0.1 to NO_PROXY, or %s asks the proxy", tool.Title)
			}
			if err := a.edited(tool, edits, wiring{Harness: tool.Name, Model: e.Model, BaseURL: e.BaseURL, DryRun: dry}, asJSON); err != nil || dry || e.Token == "" {
				return err
			}
			a.talk.say("warning: what was written holds the port's token: keep it out of backups and repositories that others read")
			return nil
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&dry, "dry-run", false, "show what would change, and write nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "the answer as JSON")
	return c
}

func (a *app) unwireCmd() *cobra.Command {
	var dry, asJSON bool
	c := &cobra.Command{
		Use: "unwire HARNESS", Short: "take back what wire wrote, to the byte", Args: cobra.ExactArgs(1), ValidArgs: wirable(),
		RunE: func(_ *cobra.Command, args []string) error {
			tool, err := wirableTool(args[0])
			if err != nil {
				return err
			}
			edits, err := tool.Unwire(a.getenv)
			if err != nil {
				return err
			}
			return a.edited(tool, edits, wiring{Harness: tool.Name, DryRun: dry}, asJSON)
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "show what would change, and write nothing")
	c.Flags().BoolVar(&asJSON, "json", false, "the answer as JSON")
	return c
}

// wirable are the harnesses with settings that wire knows.
func wirable() []string {
	var out []string
	for _, n := range harness.Names() {
		if t, err := harness.Find(n); err == nil && t.Wirable() {
			out = append(out, n)
		}
	}
	return out
}

func wirableTool(name string) (*harness.Tool, error) {
	tool, err := harness.Find(name)
	if err != nil {
		return nil, err
	}
	if !tool.Wirable() {
		return nil, usagef("%s is %s and has no settings of its own: eval \"$(rlca env %s)\"", tool.Name, tool.Title, tool.Name)
	}
	return tool, nil
}

// edited shows or writes the changes, and says what was done to each file.
func (a *app) edited(tool *harness.Tool, edits []*harness.Edit, w wiring, asJSON bool) error {
	for _, e := range edits {
		f := wiredJSON{Path: e.Path, Changed: e.Changed(), Created: e.Before == nil && e.After != nil, Removed: e.Before != nil && e.After == nil, Left: e.Left, Diff: e.Diff()}
		if f.Left == nil {
			f.Left = []string{}
		}
		if w.DryRun {
			if !asJSON {
				fmt.Fprint(a.out, f.Diff)
			}
		} else if err := e.Save(); err != nil {
			return err
		}
		if b := e.Backup(); b != "" {
			f.Backup = &b
		}
		w.Files = append(w.Files, f)
		if w.DryRun {
			continue
		}
		a.sayEdited(tool, f, w.Model != "")
	}
	if asJSON {
		return a.json(w)
	}
	return nil
}

func (a *app) sayEdited(tool *harness.Tool, f wiredJSON, wired bool) {
	switch {
	case wired && !f.Changed:
		a.talk.say("%s: nothing to change", f.Path)
	case wired:
		line := f.Path + ": written"
		if f.Backup != nil {
			line += "; as it was: " + *f.Backup
		}
		a.talk.say("%s; undo: rlca unwire %s", line, tool.Name)
	case f.Removed:
		a.talk.say("%s: removed, rlca had made it", f.Path)
	case f.Backup == nil:
		a.talk.say("%s: as it was before", f.Path)
	default:
		a.talk.say("%s: what rlca wrote is out, other changes since stay; as it was before: %s", f.Path, *f.Backup)
	}
	for _, l := range f.Left {
		a.talk.say("warning: %s: %s is not as rlca wrote it, and stays", f.Path, l)
	}
}
