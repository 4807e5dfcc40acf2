// Package instance is one box, brought up and kept up: it is the only room that knows the order of the steps.
//
// Data goes one way: profile, dial, probe, fit, plan, serve, forward. The first five are Reach and Survey, and they
// start nothing; rlca plan ends there. Run does them and then the rest, and keeps the result until it is told to
// stop: the local port stays open all the while, whatever happens to the link. A Run that does not get to "ready"
// undoes what it started.
package instance

import (
	"fmt"
	"strings"
	"time"

	"rlca/profiles"
)

// Local is the host's name that means this machine: the same walk without SSH.
const Local = "local"

// Request is what connect was asked for: the profile with the flags laid over it, and what the terminal that asked
// knows. It crosses the supervisor's socket as JSON.
type Request struct {
	// Name is how the host is called in status: the profile's name, or what was typed.
	Name string `json:"name"`
	// HasProfile says that Profile was read from a file.
	HasProfile bool             `json:"has_profile"`
	Profile    profiles.Profile `json:"profile"`
	// Quant is the quantization wanted, as "Q4_K_M". Empty means what the model's name brings.
	Quant string `json:"quant,omitempty"`
	// MayPull is a yes to downloading the model on the box.
	MayPull bool `json:"may_pull"`
	// Force starts a model that does not fit.
	Force bool `json:"force"`
	// Forced says that the word was typed that unified memory asks for beside Force.
	Forced bool `json:"forced"`
	// AcceptNew takes the key of a host that has none in known_hosts. A changed key is refused all the same.
	AcceptNew bool `json:"accept_new"`

	SSHConfig   string            `json:"ssh_config,omitempty"`   // -F
	OpenSSH     string            `json:"openssh,omitempty"`      // $RLCA_OPENSSH
	AgentSocket string            `json:"agent_socket,omitempty"` // $SSH_AUTH_SOCK of the terminal
	Passphrases map[string]string `json:"passphrases,omitempty"`  // key file → passphrase; kept in memory only
}

// Event is one line of the walk. Done is false while the step still runs; such a line may be rewritten.
type Event struct {
	Step Step   `json:"step"`
	Text string `json:"text"`
	// Note is the word in the right column: a time, "fits", "ready".
	Note string `json:"note,omitempty"`
	Done bool   `json:"done"`
}

// Step names a line of the walk. StepNote is for what a person should know beside the steps.
type Step string

const (
	StepLink   Step = "link"
	StepProbe  Step = "probe"
	StepFit    Step = "fit"
	StepEngine Step = "engine"
	StepModel  Step = "model"
	StepPort   Step = "port"
	StepNote   Step = "note"
)

// CancelledError says that the walk was stopped before it was ready, and what became of what it had started.
type CancelledError struct {
	// At is the step that was stopped.
	At Step `json:"at"`
	// Undone and Left say in words what was taken back and what goes on running on the box.
	Undone []string `json:"undone"`
	Left   []string `json:"left"`
}

func (e *CancelledError) Error() string {
	at := ""
	if e.At != "" {
		at = " at the step " + string(e.At)
	}
	if len(e.Undone) == 0 {
		return "stopped" + at + ", nothing was left behind"
	}
	return "stopped" + at + ", undone: " + strings.Join(e.Undone, ", ")
}

// took says how long a step was, as "0.3 s".
func took(since time.Time) string { return Span(time.Since(since)) }

// Span writes a duration as people say it: "0.4 s", "41 s", "2 min 10 s", "3 h 4 min", "2 d 3 h".
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0 s"
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute-time.Second/2:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 10*time.Minute:
		d = d.Round(time.Second)
		if d%time.Minute == 0 {
			return fmt.Sprintf("%d min", d/time.Minute)
		}
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}
