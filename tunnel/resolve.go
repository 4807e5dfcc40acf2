package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Options is what the profile and the flags lay over ssh_config. A zero value leaves ssh_config's own.
type Options struct {
	// ConfigFile is as ssh -F: a file, or "none". Empty means the user's and the system's own.
	ConfigFile string
	// OpenSSH is the program that `ssh -G` is asked of; "none" acts as if there were none; empty looks in PATH.
	OpenSSH  string
	User     string
	Port     int
	Identity []string // key files, in place of ssh_config's; no other keys are offered then
	Jump     []string
	Home     string // where ~/.ssh is; empty means the user's own
	Log      *slog.Logger
}

// Resolve says where a host leads: it asks the user's own `ssh -G`, and reads ssh_config itself where there is no
// ssh program. The host is an alias, a name, an address, user@host[:port] or ssh://…; what it says itself beats the
// options, and they beat ssh_config. Nothing is dialed. Errors are *ConfigError, or ctx's own.
func Resolve(ctx context.Context, host string, o Options) (*Target, error) {
	userName, name, port, err := SplitHost(host)
	if err != nil {
		return nil, &ConfigError{Host: clean(host), Msg: err.Error()}
	}
	if userName == "" {
		userName = o.User
	}
	if port == 0 {
		port = o.Port
	}
	if userName != "" {
		if err := checkUser(userName); err != nil {
			return nil, &ConfigError{Host: name, Msg: err.Error()}
		}
	}
	if port < 0 || port > 65535 {
		return nil, &ConfigError{Host: name, Msg: fmt.Sprintf("port %d is not 1 to 65535", port)}
	}
	program, err := findSSH(o.OpenSSH)
	if err != nil {
		return nil, &ConfigError{Host: name, Msg: err.Error()}
	}
	var t *Target
	if program != "" {
		t, err = askSSH(ctx, program, name, userName, port, o)
	}
	if err == nil && t == nil { // there is no ssh, or one that is too old to be asked
		if o.Home == "" {
			if o.Home, err = os.UserHomeDir(); err != nil {
				return nil, &ConfigError{Host: name, Msg: "find ~/.ssh: " + err.Error()}
			}
		}
		t, err = readConfig(name, userName, port, o)
	}
	if err != nil {
		return nil, err
	}
	t.Host = name
	if err := t.finish(o, userName, port); err != nil {
		return nil, &ConfigError{Host: name, Msg: err.Error()}
	}
	if o.Log != nil {
		o.Log.Debug("resolved", "host", name, "to", t.Addr(), "user", t.User, "by", t.Source)
		for _, w := range t.Warnings {
			o.Log.Warn("ssh_config", "host", name, "warning", w)
		}
	}
	return t, nil
}

// finish lays the profile and what was typed over ssh_config's values, fills in what nobody said, and expands.
func (t *Target) finish(o Options, userName string, port int) error {
	const ours = "profile or command line"
	if userName != "" {
		t.User, t.From["user"] = userName, ours
	}
	if port != 0 {
		t.Port, t.From["port"] = port, ours
	}
	if len(o.Identity) > 0 {
		t.IdentityFiles, t.IdentitiesOnly, t.From["identity_files"] = append([]string(nil), o.Identity...), true, ours
	}
	if len(o.Jump) > 0 {
		t.Jumps, t.ProxyCommand, t.From["jumps"] = nil, "", ours
		for _, j := range o.Jump {
			for _, one := range strings.Split(j, ",") {
				if one != "" && !strings.EqualFold(one, "none") {
					t.Jumps = append(t.Jumps, one)
				}
			}
		}
	}
	if t.User == "" {
		t.User, t.From["user"] = localUser(), "default"
	}
	if t.Port == 0 {
		t.Port, t.From["port"] = 22, "default"
	}
	if t.StrictHostKeyChecking == "" {
		t.StrictHostKeyChecking = "ask"
	}
	if t.From["server_alive_count_max"] == "default" && t.ServerAliveCountMax == 0 {
		t.ServerAliveCountMax = 3
	}
	t.HostName = strings.ToLower(t.HostName)
	if err := checkHost(t.HostName); err != nil {
		return err
	}
	if err := checkUser(t.User); err != nil {
		return err
	}
	for _, j := range t.Jumps {
		if _, _, _, err := SplitHost(j); err != nil {
			return fmt.Errorf("ProxyJump %w", err)
		}
	}
	t.expand(o)
	return nil
}

// localUser is the name of who runs this, without a Windows domain.
func localUser() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name[strings.LastIndexByte(name, '\\')+1:]
}

// SplitHost takes apart what a user writes for a host: a name, user@name, user@name:port, [::1]:port, ssh://…
// A port of 0 means that none was written.
func SplitHost(s string) (userName, host string, port int, err error) {
	bad := func(err error) (string, string, int, error) {
		return "", "", 0, fmt.Errorf("%q: %w", clean(s), err)
	}
	rest, isURL := strings.CutPrefix(s, "ssh://")
	if isURL {
		rest = strings.TrimSuffix(rest, "/")
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		userName, rest = rest[:i], rest[i+1:]
		if isURL {
			if userName, err = url.PathUnescape(userName); err != nil {
				return bad(err)
			}
		}
		if err := checkUser(userName); err != nil {
			return bad(err)
		}
	}
	host = rest
	switch {
	case strings.HasPrefix(rest, "["):
		name, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return bad(fmt.Errorf("the bracket of the address is not closed"))
		}
		host = name
		if after != "" {
			p, ok := strings.CutPrefix(after, ":")
			if !ok {
				return bad(fmt.Errorf("only :PORT may follow the address"))
			}
			port, err = parsePort(p)
		}
	case strings.Count(rest, ":") == 1: // more colons are an IPv6 address without brackets
		var p string
		host, p, _ = strings.Cut(rest, ":")
		port, err = parsePort(p)
	}
	if err != nil {
		return bad(err)
	}
	if err := checkHost(host); err != nil {
		return bad(err)
	}
	return userName, host, port, nil
}

func parsePort(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %q is not 1 to 65535", clean(s))
	}
	return n, nil
}

// checkHost refuses what OpenSSH refuses too (ssh.c: valid_hostname): an option, or what a shell takes for more than
// a word. A slash is refused besides: it is a mistyped address.
func checkHost(s string) error { return checkWord("host", s, "'`\"$\\;&<>|(){},/@") }

// checkUser is the same for a user (ssh.c: valid_ruser); DOMAIN\name and names with spaces exist.
func checkUser(s string) error {
	if err := checkWord("user", strings.ReplaceAll(s, " ", "_"), "'`\";&<>|(){}"); err != nil {
		return err
	}
	if strings.Contains(s, " -") || strings.HasSuffix(s, `\`) {
		return fmt.Errorf("the user %q may be taken for an option", clean(s))
	}
	return nil
}

func checkWord(what, s, not string) error {
	switch {
	case s == "":
		return fmt.Errorf("the %s is empty", what)
	case s[0] == '-':
		return fmt.Errorf("the %s begins with a dash", what)
	case len(s) > 255:
		return fmt.Errorf("the %s is too long", what)
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(not, r) {
			return fmt.Errorf("the %s has the character %q", what, r)
		}
	}
	return nil
}

// defaultIdentities are the key files that OpenSSH looks for, in its order.
func defaultIdentities() []string {
	return []string{"~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ecdsa_sk", "~/.ssh/id_ed25519", "~/.ssh/id_ed25519_sk"}
}

// systemDir is where the system's own ssh_config and known hosts are.
func systemDir() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramData"), "ssh")
	}
	return "/etc/ssh"
}
