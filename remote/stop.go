package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Stop ends the server that rlca started on the box, its downloads, and removes the copies of names that it made.
func (o *Ollama) Stop(ctx context.Context) ([]string, error) {
	f, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	loaded := o.kept.loaded
	o.kept = journal{}
	o.mu.Unlock()
	var did []string
	var errs []error
	for _, name := range f.pulls {
		ended, err := o.halt(ctx, name, "", pullFiles(name)...)
		if err != nil {
			errs = append(errs, err)
		} else if ended.pid != 0 {
			did = append(did, "stopped a download, what came is kept")
		}
		did = append(did, ended.did()...)
	}
	for _, m := range loaded {
		if f.alive && m.address == f.ours.address {
			continue // goes with the server
		}
		if o.api(m.address).unload(ctx, m.name) == nil {
			did = append(did, "unloaded "+m.name)
		}
	}
	for _, m := range f.derived {
		if err := o.removeDerived(ctx, m); err != nil {
			errs = append(errs, err)
			continue
		}
		did = append(did, "removed "+m.name)
	}
	ended, err := o.stopOurs(ctx, f)
	return append(did, ended...), errors.Join(append(errs, err)...)
}

// remember writes a derived model into the list on the box, before it is made.
func (o *Ollama) remember(ctx context.Context, m copied) error {
	if strings.ContainsAny(m.name+m.address, " \n") {
		return fmt.Errorf("remember %q on the box: not a name", m.name)
	}
	if o.windows() {
		_, err := o.powershell(ctx, "remember", windowsRemember, map[string]any{"line": m.address + " " + m.name})
		return err
	}
	a, err := o.script(ctx, fmt.Sprintf(`
why=$(umask 077; { mkdir -p "$D" && chmod 700 "$D" && { grep -qxF %[1]s "$D/derived" 2>/dev/null || echo %[1]s >> "$D/derived"; }; } 2>&1) || say error "$why"
`, quote(m.address+" "+m.name)))
	if err != nil {
		return err
	}
	if why := a.get("error"); why != "" {
		return fmt.Errorf("write ~/.rlca/derived on the box: %s", why)
	}
	return nil
}

// removeDerived deletes a copy that we made and forgets it.
func (o *Ollama) removeDerived(ctx context.Context, m copied) error {
	a := o.api(m.address)
	_ = a.unload(ctx, m.name) // it may not be loaded
	if err := a.remove(ctx, m.name); err != nil {
		return fmt.Errorf("remove %s, which rlca made: %w", m.name, err)
	}
	if o.windows() {
		_, err := o.powershell(ctx, "forget-copy", windowsForget, map[string]any{"line": m.address + " " + m.name})
		return err
	}
	_, err := o.script(ctx, fmt.Sprintf(`
[ -f "$D/derived" ] || return
grep -vxF %s "$D/derived" > "$D/derived.new"; mv -f "$D/derived.new" "$D/derived"
[ -s "$D/derived" ] || rm -f "$D/derived"
`, quote(m.address+" "+m.name))+tidyScript)
	return err
}
