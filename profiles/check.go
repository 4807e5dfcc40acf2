package profiles

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The checks take one text of a profile and say what is wrong with it, as the end of a sentence that the key
// begins: "must be …".

var errEmpty = errors.New("must not be empty")

// oneOf checks a text against the only words that are allowed.
func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		list := strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
		return fmt.Errorf("must be %s, not %s%s", list, shown(s), didYouMean(s, words))
	}
}

// checkHost takes what OpenSSH takes as a host (valid_hostname in its ssh.c): the text ends up in %h of the user's
// own ProxyCommand, which a shell runs.
func checkHost(s string) error {
	if s == "" {
		return errEmpty
	}
	return checkWord(s, "'`\"$\\;&<>|(){}")
}

// checkUser takes what OpenSSH takes as a user (valid_ruser), for the same reason: %r. A backslash separates the
// domain of a Windows account, and such a name may have a space in it.
func checkUser(s string) error {
	if s == "" {
		return errors.New("must not be empty: leave the key out to use what ssh_config says")
	}
	if strings.HasSuffix(s, `\`) || strings.Contains(s, " -") {
		return fmt.Errorf(`must not contain " -" nor end with a backslash, as %s does`, shown(s))
	}
	return checkWord(strings.ReplaceAll(s, " ", "_"), "'`\";&<>|(){}")
}

func checkJump(s string) error {
	if err := checkHost(s); err != nil {
		return err
	}
	if strings.Contains(s, ",") {
		return errors.New(`must be one host: write several as ["first", "second"]`)
	}
	return nil
}

// checkWord refuses what could be an option, a second word or a piece of shell.
func checkWord(s, forbidden string) error {
	if s[0] == '-' {
		return fmt.Errorf("must not begin with \"-\", as %s does", shown(s))
	}
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			return fmt.Errorf("must not contain spaces or control characters, as %s does", shown(s))
		}
		if strings.ContainsRune(forbidden, r) {
			return fmt.Errorf("must not contain %q, as %s does", string(r), shown(s))
		}
	}
	return nil
}

// checkText takes any text in one line.
func checkText(s string) error {
	if s == "" {
		return errEmpty
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("must not contain control characters, as %s does", shown(s))
	}
	return nil
}

// checkModel takes a name, a repository or a path, but nothing that an engine would read as an option.
func checkModel(s string) error {
	if s == "" {
		return errors.New(`must not be empty: "auto" lets rlca choose`)
	}
	if s[0] == '-' {
		return fmt.Errorf("must not begin with \"-\", as %s does", shown(s))
	}
	return checkText(s)
}

// checkArg takes anything that an argument of a program can be.
func checkArg(s string) error {
	if strings.ContainsRune(s, 0) {
		return errors.New("must not contain a zero byte")
	}
	return nil
}

func checkKeepAlive(s string) error {
	if _, err := strconv.ParseInt(s, 10, 32); err == nil {
		return nil
	}
	if _, err := time.ParseDuration(s); err == nil {
		return nil
	}
	return fmt.Errorf(`must be seconds, a duration as "30m", or "-1" for ever, not %s`, shown(s))
}

func checkHold(s string) error {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil && isDigits(s):
		return fmt.Errorf("needs a unit: write %q", s+"s")
	case err != nil:
		return fmt.Errorf(`must be a duration as "100s" or "2m", not %s`, shown(s))
	case d <= 0:
		return fmt.Errorf("must be longer than nothing, not %s", shown(s))
	case d > time.Hour:
		return fmt.Errorf("must be at most 1h, not %s", shown(s))
	}
	return nil
}

// checkWorker takes the name of a profile.
func checkWorker(s string) error {
	var bad *NameError
	if errors.As(CheckName(s), &bad) {
		return fmt.Errorf("must be the name of another profile; %s %s", shown(s), bad.Reason)
	}
	return nil
}

// checkEngineAddress takes an address on the box, or nothing.
func checkEngineAddress(s string) error {
	if s == "" {
		return nil
	}
	return checkAddress(s)
}

// checkAddress takes host:port.
func checkAddress(s string) error {
	_, _, err := splitAddress(s)
	return err
}

// checkListen takes host:port where host is this machine and nothing else.
func checkListen(s string) error {
	const why = "rlca never listens to anyone but you"
	if isDigits(s) {
		return fmt.Errorf("must be host:port: write %q", "127.0.0.1:"+s)
	}
	if host, port, err := net.SplitHostPort(s); err == nil && host == "" {
		return fmt.Errorf("must be a loopback address, and %s is every address of this machine; write %q: %s",
			shown(s), "127.0.0.1:"+port, why)
	}
	host, _, err := splitAddress(s)
	if err != nil {
		return err
	}
	if host == "localhost" {
		return nil
	}
	// A zone or an IPv4 address in IPv6 clothes is loopback too, but no client would write it.
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() && a.Zone() == "" && !a.Is4In6() {
		return nil
	}
	return fmt.Errorf("must be a loopback address (127.0.0.1, [::1] or localhost), not %s: %s", shown(host), why)
}

func checkAlso(s string) error {
	_, _, err := Also(s).Split()
	return err
}

// splitAddress takes host:port apart.
func splitAddress(s string) (host string, port int, err error) {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		rest, _, _ = strings.Cut(rest, "/")
		return "", 0, fmt.Errorf("must be host:port and no URL: write %s", shown(rest))
	}
	host, digits, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return "", 0, fmt.Errorf(`must be host:port, as "127.0.0.1:11434", not %s`, shown(s))
	}
	if strings.Contains(host, ":") {
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return "", 0, fmt.Errorf("must have an IPv6 address in its brackets, not %s", shown(host))
		}
	} else if strings.HasPrefix(s, "[") {
		return "", 0, fmt.Errorf("must have an IPv6 address in its brackets, not %s", shown(host))
	} else if err := checkHost(host); err != nil {
		return "", 0, err
	}
	if !isDigits(digits) {
		return "", 0, fmt.Errorf("must end with a port number, not %s", shown(digits))
	}
	port, err = strconv.Atoi(digits)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("must have a port from 1 to 65535, not %s", shown(digits))
	}
	return host, port, nil
}

// isSocket says that one end of a forward is the path of a unix socket.
func isSocket(s string) bool { return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "~/") }

// cutEnd cuts the first end off a forward: a path, or HOST:PORT, whose brackets stay on.
func cutEnd(s string) (end, rest string, ok bool) {
	n := strings.IndexByte(s, ':')
	if !isSocket(s) {
		if strings.HasPrefix(s, "[") {
			n = strings.IndexByte(s, ']') + 1
		}
		if n <= 0 || n >= len(s) || s[n] != ':' {
			return "", "", false
		}
		port, _, more := strings.Cut(s[n+1:], ":")
		if port == "" || strings.ContainsAny(port, "[]/") {
			return "", "", false
		}
		if n += 1 + len(port); !more {
			n = -1
		}
	}
	if n < 0 {
		return s, "", true
	}
	return s[:n], s[n+1:], n+1 < len(s)
}

// checkSocket takes the path of a unix socket. The box's is absolute: nobody there knows whose home ~ would be.
func checkSocket(s string, far bool) error {
	switch {
	case far && !strings.HasPrefix(s, "/"):
		return fmt.Errorf("must have the whole path of a socket on the box, not %s", shown(s))
	case strings.HasSuffix(s, "/"):
		return fmt.Errorf("must have the path of a socket, not of a folder: %s", shown(s))
	case len(s) > 100: // macOS takes 103 bytes, with ~ in full
		return fmt.Errorf("must have a path of at most 100 bytes for a socket, not %s", shown(s))
	case strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Errorf("must have no control characters in a path: %s", shown(s))
	}
	return nil
}

// alsoHint explains the two mistakes that people bring along from ssh -L.
func alsoHint(s string) string {
	switch n := strings.Count(s, ":"); {
	case n == 2 && isDigits(s[:strings.IndexByte(s, ':')]):
		return fmt.Sprintf("; write %q", "127.0.0.1:"+s)
	case n > 3 && !strings.HasPrefix(s, "["):
		return "; an IPv6 address stands in brackets, as [::1]"
	}
	return ""
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// shown quotes a text of a file for a message: no control characters, and no more than a line can hold.
func shown(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strconv.Quote(s)
}
