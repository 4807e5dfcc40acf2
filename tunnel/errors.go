package tunnel

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// UnknownHostKeyError says that known_hosts has no key for a host. After a person's yes, Trust writes the key and
// the dial can be tried again.
type UnknownHostKeyError struct {
	Host        string `json:"host"`        // as asked for
	Address     string `json:"address"`     // host:port that was dialed
	Name        string `json:"name"`        // as known_hosts writes it: "spark" or "[spark]:2222"
	KeyType     string `json:"key_type"`    // "ED25519"
	Fingerprint string `json:"fingerprint"` // "SHA256:…"
	File        string `json:"file"`        // where Trust would write
	Key         string `json:"key"`         // "ssh-ed25519 AAAA…"
	Hash        bool   `json:"hash"`        // HashKnownHosts
	Strict      bool   `json:"strict"`      // StrictHostKeyChecking yes: do not even ask
}

func (e *UnknownHostKeyError) Error() string {
	s := fmt.Sprintf("the host key of %s is not known", e.Host)
	if e.Strict {
		s += ", and StrictHostKeyChecking is yes"
	}
	return s
}

// MayAsk reports whether a person may be asked: not if the user's ssh_config says StrictHostKeyChecking yes.
func (e *UnknownHostKeyError) MayAsk() bool { return !e.Strict }

// ChangedHostKeyError says that a host shows another key than the one that is known.
type ChangedHostKeyError struct {
	Host      string `json:"host"`
	Known     string `json:"known"`   // fingerprint in known_hosts
	Offered   string `json:"offered"` // fingerprint of the key that the host shows
	File      string `json:"file"`
	Line      int    `json:"line"`
	KeygenArg string `json:"keygen_arg"` // what ssh-keygen -R takes
}

func (e *ChangedHostKeyError) Error() string {
	return fmt.Sprintf("the host key of %s has changed", e.Host)
}

// RevokedHostKeyError says that the host shows a key that known_hosts marks @revoked, or that a file of RevokedHostKeys
// lists. Line is 0 in a binary list.
type RevokedHostKeyError struct {
	Host        string `json:"host"`
	Fingerprint string `json:"fingerprint"`
	File        string `json:"file"`
	Line        int    `json:"line"`
}

func (e *RevokedHostKeyError) Error() string {
	where := e.File
	if e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	return fmt.Sprintf("the host key %s of %s is revoked in %s", e.Fingerprint, e.Host, where)
}

// AuthError says that the host does not let us in, and that there is nothing more to try.
type AuthError struct {
	User    string   `json:"user"`
	Host    string   `json:"host"`
	Tried   []string `json:"tried"`   // keys, as "~/.ssh/id_ed25519", and methods in which something was answered
	Methods []string `json:"methods"` // what the host would take
	Right   []string `json:"right"`   // methods that it took, and that were not enough
	Notes   []string `json:"notes"`   // why a key or a method could not be used
}

func (e *AuthError) Error() string {
	takes := strings.Join(e.Methods, " or ")
	keys := len(e.Methods) == 0 || slices.Contains(e.Methods, methodKey)
	s := fmt.Sprintf("%s accepts none of the keys of %s@%s", e.Host, e.User, e.Host)
	switch {
	case len(e.Right) > 0:
		s = fmt.Sprintf("%s took %s of %s@%s, but asks for %s besides", e.Host, strings.Join(e.Right, " and "), e.User, e.Host, takes)
	case len(e.Tried) == 0 && !keys:
		s = fmt.Sprintf("%s takes no keys of %s@%s, only %s", e.Host, e.User, e.Host, takes)
	case len(e.Tried) == 0:
		s = fmt.Sprintf("there is no key to log in to %s@%s with", e.User, e.Host)
	}
	if len(e.Methods) > 1 && keys && len(e.Right) == 0 {
		s += " (it takes " + takes + ")"
	}
	if len(e.Notes) > 0 {
		s += ": " + strings.Join(e.Notes, "; ")
	}
	return s
}

// PassphraseError says that the only key that may fit is encrypted and not in the agent.
type PassphraseError struct {
	File  string `json:"file"`
	Wrong bool   `json:"wrong"` // a passphrase was given, and it is not the right one
}

func (e *PassphraseError) Error() string {
	if e.Wrong {
		return "the passphrase of " + e.File + " is not right"
	}
	return "the key " + e.File + " is encrypted and not in the agent"
}

// SecretError says that the host asks for what only a person knows, and that there is no answer, or not the right one.
type SecretError struct {
	User      string     `json:"user"`
	Host      string     `json:"host"`
	Questions []Question `json:"questions"` // what is asked together; at least one
	Wrong     bool       `json:"wrong"`     // they were answered, and the host did not take it
	Right     []string   `json:"right"`     // methods that the host took already, and that were not enough
	Tried     []string   `json:"tried"`     // as in AuthError
}

func (e *SecretError) Error() string {
	var asks []string
	password := true // asked for in no words of the host's own
	for _, q := range e.Questions {
		password = password && q.Kind == methodPassword
		asks = append(asks, strconv.Quote(q.Prompt))
	}
	who := e.User + "@" + e.Host
	switch {
	case e.Wrong && password:
		return "the password of " + who + " is not right"
	case e.Wrong:
		return fmt.Sprintf("%s does not take what was answered for %s to %s", e.Host, who, strings.Join(asks, " and "))
	}
	s := fmt.Sprintf("%s asks for the password of %s", e.Host, who)
	if !password {
		s = fmt.Sprintf("%s asks %s for %s", e.Host, who, strings.Join(asks, " and "))
	}
	if len(e.Right) > 0 {
		s += " besides " + strings.Join(e.Right, " and ")
	}
	return s
}

// ConfigError says that the configuration does not lead to a host.
type ConfigError struct {
	Host string `json:"host"`
	Msg  string `json:"msg"`
}

func (e *ConfigError) Error() string { return fmt.Sprintf("where %s leads: %s", e.Host, e.Msg) }

// DialError says at which step a dial ended: Op is resolve, connect, banner, handshake or login. It is also why a
// connection that was up has ended; Op is "link to" then.
type DialError struct {
	Op     string `json:"op"`
	Addr   string `json:"addr"`
	Reason string `json:"reason"`
	// TooBusy says that the server closed before its banner: it has too many half-open logins, or a penalty for us.
	TooBusy bool  `json:"busy"`
	Err     error `json:"-"`
}

func (e *DialError) Error() string { return fmt.Sprintf("%s %s: %s", e.Op, e.Addr, e.Reason) }
func (e *DialError) Unwrap() error { return e.Err }

// Busy asks for more patience than a plain network error.
func (e *DialError) Busy() bool { return e.TooBusy }

// ExitError says that a script ended with another code than 0.
type ExitError struct {
	Code   int    `json:"code"`   // -1 if a signal ended it
	Signal string `json:"signal"` // "KILL", if a signal ended it
	Stderr string `json:"stderr"` // cleaned, its end
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("the script ended with %d", e.Code)
	if e.Signal != "" {
		s = "the script was ended by signal " + e.Signal
	}
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// NoShellError says that the host does not run `exec /bin/sh -s` for us.
type NoShellError struct {
	Host string `json:"host"`
	Said string `json:"said"`
}

func (e *NoShellError) Error() string {
	s := "run /bin/sh on " + e.Host + ": the box does not let us"
	if e.Said != "" {
		s += ": " + e.Said
	}
	return s
}

// RefusedError says that the far side would not open a connection to an address of its own. The link is fine.
type RefusedError struct {
	Addr       string `json:"addr"`
	Reason     string `json:"reason"`
	Prohibited bool   `json:"prohibited"` // by the server's policy, not because nothing listens
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s on the box: %s", e.Addr, e.Reason) }

// Final reports whether no retry can help: the host key, the login and the configuration need a person.
func Final(err error) bool {
	for _, is := range []func(error) bool{
		as[*UnknownHostKeyError], as[*ChangedHostKeyError], as[*RevokedHostKeyError],
		as[*AuthError], as[*PassphraseError], as[*OpenSSHError], as[*SecretError], as[*ConfigError],
	} {
		if is(err) {
			return true
		}
	}
	return false
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// clean makes text of the far side fit for a terminal: no control characters, one line, not too long.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}
