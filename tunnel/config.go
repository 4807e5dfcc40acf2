package tunnel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kevinburke/ssh_config"
)

// Limits of a configuration that we read ourselves. OpenSSH has the first one too.
const (
	maxInclude = 16
	maxFiles   = 512
	maxConfig  = 4 << 20
)

// readConfig says what `ssh -G` would say, without an ssh program: the first value of a keyword wins, and key files
// add up. A Match block that only ssh can judge is left out with a warning; it never fails the file.
func readConfig(host, userName string, port int, o Options) (*Target, error) {
	f := &filter{home: o.Home, host: host, user: userName, localUser: localUser()}
	for pass := range 2 {
		f.final = pass == 1
		if err := f.files(o.ConfigFile); err != nil {
			return nil, &ConfigError{Host: host, Msg: err.Error()}
		}
		if !f.wantsFinal { // as ssh: Match final and Match canonical are judged in a second pass, over the first's values
			break
		}
	}
	t := &Target{Source: "builtin", HostName: host, From: map[string]string{}, Warnings: f.warnings}
	if f.hostName != "" {
		t.HostName = f.hostName
	}
	if err := t.take(f); err != nil {
		return nil, &ConfigError{Host: host, Msg: err.Error()}
	}
	t.defaults()
	return t, nil
}

// ConfigHosts are the names that the ssh_config files have a Host line for, in the order of the lines. Patterns are none, nor
// is what stands in files that only the lines of a certain host include. What cannot be read names none.
func ConfigHosts(o Options) []string {
	home := o.Home
	if home == "" {
		home, _ = os.UserHomeDir()
	}
	f := &filter{home: home, localUser: localUser()}
	f.files(o.ConfigFile)
	return f.hosts
}

// take hands the plain text to the library and takes the values from what it read.
func (t *Target) take(f *filter) error {
	cfg, err := ssh_config.DecodeBytes([]byte(f.text.String()))
	if err != nil {
		return fmt.Errorf("read ssh_config: %s", clean(err.Error()))
	}
	seen := map[string]bool{}
	for _, h := range cfg.Hosts {
		for _, n := range h.Nodes {
			kv, ok := n.(*ssh_config.KV)
			if !ok {
				continue
			}
			key := strings.ToLower(kv.Key)
			if now, ok := olderName[key]; ok {
				key = now
			}
			raw, err := strconv.Unquote(`"` + kv.Value + `"`)
			if err != nil || key == "hostname" || seen[key] && key != "identityfile" && key != "certificatefile" {
				continue
			}
			if key == "proxyjump" && seen["proxycommand"] || key == "proxycommand" && len(t.Jumps) > 0 {
				continue // whichever of the two comes first; a ProxyCommand none ends the search, a ProxyJump none does not
			}
			from := ""
			if line := kv.Pos().Line - 1; line >= 0 && line < len(f.from) {
				from = f.from[line]
			}
			args := []string{raw}
			if key != "proxycommand" && key != "knownhostscommand" { // a command keeps its quotes: a shell will read them
				args, err = splitArgs(raw)
			}
			problem := ""
			if err != nil {
				problem = err.Error()
			} else {
				problem = t.set(key, args)
			}
			if problem != "" {
				return fmt.Errorf("%s: %s %q %s", from, kv.Key, clean(raw), problem)
			}
			name := resolvedName[key]
			if name != "" && t.From[name] == "" {
				t.From[name] = from
			}
			seen[key] = true
		}
	}
	if f.hostNameFrom != "" {
		t.From["hostname"] = f.hostNameFrom
	}
	return nil
}

// defaults are OpenSSH's own, for what no file said.
func (t *Target) defaults() {
	fill := func(name string, list *[]string, vals ...string) {
		if *list == nil && t.From[name] == "" {
			*list, t.From[name] = vals, "default"
		}
	}
	fill("identity_files", &t.IdentityFiles, defaultIdentities()...)
	fill("user_known_hosts_files", &t.UserKnownHostsFiles, "~/.ssh/known_hosts", "~/.ssh/known_hosts2")
	fill("global_known_hosts_files", &t.GlobalKnownHostsFiles, filepath.Join(systemDir(), "ssh_known_hosts"), filepath.Join(systemDir(), "ssh_known_hosts2"))
	for _, k := range resolvedKeys {
		if t.From[k] == "" {
			t.From[k] = "default"
		}
	}
}

// filter makes of ssh_config's files a text that the library can read: only the lines that apply to one host, in
// order, with includes in their place. It decides on Host and Match itself, because the library fails the whole file
// on most kinds of Match, knows no ? and no second pass, and cuts values at a #. Each line of the text is a keyword
// and, as a Go string without its quotes, the value.
type filter struct {
	home      string
	host      string // as asked for
	user      string // as asked for; ssh_config's own once it is known
	localUser string
	final     bool // the second pass

	text       strings.Builder
	from       []string // file:line of each line of text
	warnings   []string
	wantsFinal bool
	hosts      []string // the names of the Host lines

	hostName     string // the first HostName, with its tokens expanded
	hostNameFrom string
	depth        int
	count        int
}

// files reads what ssh would read.
func (f *filter) files(configFile string) error {
	switch configFile {
	case "none":
		return nil
	case "":
		if err := f.file(filepath.Join(f.home, ".ssh", "config"), true, true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := f.file(filepath.Join(systemDir(), "ssh_config"), false, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return f.file(configFile, true, false)
}

// file adds one file. ours says that relative includes are of ~/.ssh, private that nobody else may write the file.
func (f *filter) file(path string, ours, private bool) error {
	if f.depth >= maxInclude {
		return fmt.Errorf("%s: includes are nested deeper than %d", f.short(path), maxInclude)
	}
	if f.count++; f.count > maxFiles {
		return fmt.Errorf("%s: more than %d files are included", f.short(path), maxFiles)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read ssh_config: %w", err)
	}
	defer file.Close()
	if private {
		if info, err := file.Stat(); err == nil && !onlyOwnerWrites(info) {
			return fmt.Errorf("%s: others may write this file, so ssh does not trust it: chmod go-w %s", f.short(path), f.short(path))
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return fmt.Errorf("read ssh_config: %w", err)
	}
	if len(data) > maxConfig || f.text.Len() > maxConfig {
		return fmt.Errorf("%s: the configuration is bigger than %d MiB", f.short(path), maxConfig>>20)
	}
	f.depth++
	defer func() { f.depth-- }()
	return f.parse(path, string(data), ours)
}

// parse adds the lines of one file that apply.
func (f *filter) parse(path, data string, ours bool) error {
	applies := true
	for n, raw := range strings.Split(data, "\n") {
		key, val := keyword(raw)
		if key == "" {
			continue
		}
		from := fmt.Sprintf("%s:%d", f.short(path), n+1)
		switch strings.ToLower(key) {
		case "host":
			args, err := splitArgs(val)
			if err != nil {
				f.warn("%s: Host %s: %v", from, clean(val), err)
			}
			applies = err == nil && hostMatches(args, f.host)
			for _, name := range args {
				if !strings.ContainsAny(name, "*?!") && name != "" && clean(name) == name {
					f.hosts = appendNew(f.hosts, name)
				}
			}
		case "match":
			applies = f.match(val, from)
		case "include":
			if !applies {
				continue
			}
			args, err := splitArgs(val)
			if err != nil {
				f.warn("%s: Include %s: %v", from, clean(val), err)
			}
			for _, pattern := range args {
				if err := f.include(pattern, from, ours); err != nil {
					return err
				}
			}
		default:
			if applies {
				f.line(key, val, from)
			}
		}
	}
	return nil
}

// line adds one line to the text.
func (f *filter) line(key, val, from string) {
	switch strings.ToLower(key) {
	case "hostname":
		if args, err := splitArgs(val); err == nil && len(args) > 0 && f.hostName == "" {
			f.hostName, f.hostNameFrom = strings.NewReplacer("%%", "%", "%h", f.host).Replace(args[0]), from
		}
	case "user":
		if args, err := splitArgs(val); err == nil && len(args) > 0 && f.user == "" {
			f.user = args[0]
		}
	}
	quoted := strconv.QuoteToASCII(val)
	fmt.Fprintf(&f.text, "%s %s\n", key, strings.ReplaceAll(quoted, "#", `\x23`))
	f.from = append(f.from, from)
}

// include adds the files that a pattern names, in order. Those that are not there are left out, as ssh does.
func (f *filter) include(pattern, from string, ours bool) error {
	dir := systemDir()
	if ours {
		dir = filepath.Join(f.home, ".ssh")
	}
	if rest, ok := strings.CutPrefix(pattern, "~/"); ok {
		pattern = filepath.Join(f.home, rest)
	} else if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(dir, pattern)
	}
	files, err := filepath.Glob(pattern) // sorted
	if err != nil {
		f.warn("%s: Include %s: %v", from, clean(pattern), err)
	}
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			continue
		}
		if err := f.file(path, ours, true); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				f.warn("%s: %v", from, err)
				continue
			}
			return err
		}
	}
	return nil
}

// warn notes what was left out, once: the second pass would say it again.
func (f *filter) warn(format string, args ...any) {
	f.warnings = appendNew(f.warnings, fmt.Sprintf(format, args...))
}

func (f *filter) short(path string) string { return shorten(path, f.home) }

// shorten writes a path with ~ for the home folder.
func shorten(path, home string) string {
	if rest, ok := strings.CutPrefix(path, home+string(filepath.Separator)); ok && home != "" {
		return "~/" + filepath.ToSlash(rest)
	}
	return path
}
