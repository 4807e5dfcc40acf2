package tunnel

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// expand puts in what stands for something else in file names: ~, the tokens of ssh_config(5) and ${VAR}. `ssh -G`
// has done it already for the known hosts and the agent, but not for key files.
func (t *Target) expand(o Options) {
	home := o.Home
	if home == "" { // ssh's ~ is the home of the user's account, whatever $HOME says
		if u, err := user.Current(); err == nil {
			home = u.HomeDir
		} else {
			home, _ = os.UserHomeDir()
		}
	}
	tokens := t.tokens(home)
	file := func(s string) string {
		s, problem := expandFile(s, home, tokens)
		if problem != "" {
			t.Warnings = appendNew(t.Warnings, problem)
		}
		return s
	}
	all := func(list []string) []string {
		out := []string{}
		for _, s := range list {
			out = appendNew(out, file(s))
		}
		return out
	}
	t.IdentityFiles = all(t.IdentityFiles)
	t.CertificateFiles = all(t.CertificateFiles)
	t.RevokedHostKeys = file(t.RevokedHostKeys)
	if t.Source != "builtin" {
		return
	}
	t.UserKnownHostsFiles = all(t.UserKnownHostsFiles)
	switch a := t.IdentityAgent; {
	case a == "", strings.EqualFold(a, "none"), a == "SSH_AUTH_SOCK":
	case a[0] == '$' && !strings.HasPrefix(a, "${"): // the name of a variable that holds the address, read at each dial
	default:
		t.IdentityAgent = file(a)
	}
}

// tokens are the percent tokens of ssh_config(5) that file names may have.
func (t *Target) tokens(home string) map[byte]string {
	local, _ := os.Hostname()
	short, _, _ := strings.Cut(local, ".")
	alias := t.HostKeyAlias
	if alias == "" {
		alias = t.Host
	}
	port, jumps := strconv.Itoa(t.Port), strings.Join(t.Jumps, ",")
	sum := sha1.Sum([]byte(local + t.HostName + port + t.User + jumps)) // %C is defined so
	return map[byte]string{
		'%': "%", 'd': home, 'h': t.HostName, 'i': strconv.Itoa(os.Getuid()), 'k': alias, 'L': short, 'l': local, 'j': jumps,
		'n': t.Host, 'p': port, 'r': t.User, 'u': localUser(), 'C': hex.EncodeToString(sum[:]),
	}
}

// proxyTokens puts a ProxyCommand's tokens in.
func (t *Target) proxyTokens(s string) (out, problem string) {
	all := t.tokens("")
	return expandTokens(s, map[byte]string{'%': "%", 'h': all['h'], 'k': all['k'], 'n': all['n'], 'p': all['p'], 'r': all['r']})
}

// expandFile expands one file name. What cannot be expanded stays as it is, with a word on the problem.
func expandFile(s, home string, tokens map[byte]string) (out, problem string) {
	name := s
	if rest, ok := strings.CutPrefix(s, "~"); ok {
		who, path, _ := strings.Cut(rest, "/")
		dir := home
		if who != "" {
			u, err := user.Lookup(who)
			if err != nil {
				return s, fmt.Sprintf("%s: there is no user %s", clean(s), clean(who))
			}
			dir = u.HomeDir
		}
		s = filepath.Join(dir, filepath.FromSlash(path))
	}
	if out, problem = expandTokens(s, tokens); problem != "" {
		return name, problem
	}
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(out, "${")
		b.WriteString(before)
		if !ok {
			return b.String(), ""
		}
		variable, after, ok := strings.Cut(rest, "}")
		val, set := os.LookupEnv(variable)
		if !ok || !set {
			return name, fmt.Sprintf("%s: the environment has no %s", clean(name), clean(variable))
		}
		b.WriteString(val)
		out = after
	}
}

// expandTokens puts percent tokens in, in one pass: what a token stands for is not looked through again.
func expandTokens(s string, tokens map[byte]string) (out, problem string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return s, fmt.Sprintf("%s: ends with a bare %%", clean(s))
		}
		val, ok := tokens[s[i]]
		if !ok {
			return s, fmt.Sprintf("%s: the token %%%s is not known", clean(s), clean(s[i:i+1]))
		}
		b.WriteString(val)
	}
	return b.String(), ""
}
