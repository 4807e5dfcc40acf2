// Package instance is one box, brought up and kept up: it is the only room that knows the order of the steps.
//
// Data goes one way: profile, dial, probe, fit, plan, serve, forward. The first five are Reach and Survey, and they
// start nothing; rlca plan ends there. Run does them and then the rest, and keeps the result until it is told to
// stop: the local port stays open all the while, whatever happens to the link. A Run that does not get to "ready"
// undoes what it started.
package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"rlca/profiles"
	"rlca/tunnel"
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
	// Workers are the other boxes that [cluster] of Profile makes one engine of, in its order.
	Workers []Worker `json:"workers,omitempty"`
	// Quant is the quantization wanted, as "Q4_K_M". Empty means what the model's name brings.
	Quant string `json:"quant,omitempty"`
	// KVType is the type of the KV cache that a fit asks about, as "q8_0". Empty means what the engine's settings say.
	KVType string `json:"kv_type,omitempty"`
	// Utilization is the share of a GPU that a fit gives vLLM. 0 means as much as vLLM takes by itself.
	Utilization float64 `json:"utilization,omitempty"`
	// MayPull is a yes to downloading the model on the box.
	MayPull bool `json:"may_pull"`
	// MayReplace is a yes to starting an engine of rlca's anew that somebody else may be using.
	MayReplace bool `json:"may_replace"`
	// Laptop is a random name of this machine, by which the boxes tell who started an engine. Empty says nothing.
	Laptop string `json:"laptop,omitempty"`
	// Token is what requests at the local port have to show, empty if they need nothing. As Passphrases.
	Token string `json:"token,omitempty"`
	// Force starts a model that does not fit.
	Force bool `json:"force"`
	// Forced says that the word was typed that unified memory asks for beside Force.
	Forced bool `json:"forced"`
	// AcceptNew takes the key of a host that has none in known_hosts. A changed key is refused all the same.
	AcceptNew bool `json:"accept_new"`

	Loads       string            `json:"loads,omitempty"`        // the file of what earlier loads took; empty means that none is kept
	Catalog     string            `json:"catalog,omitempty"`      // a file of the user's that adds to the model catalog; it may not be there
	SSHConfig   string            `json:"ssh_config,omitempty"`   // -F
	OpenSSH     string            `json:"openssh,omitempty"`      // $RLCA_OPENSSH
	AgentSocket string            `json:"agent_socket,omitempty"` // $SSH_AUTH_SOCK of the terminal
	Passphrases map[string]string `json:"passphrases,omitempty"`  // key file → passphrase; kept in memory only
	Secrets     []Answer          `json:"secrets,omitempty"`      // as Passphrases

	memory *memory // of the process that keeps the host; nil in a request on its way
}

// Worker is one more box of a cluster: a profile of which only how to reach the box counts.
type Worker struct {
	Name    string           `json:"name"`
	Profile profiles.Profile `json:"profile"`
}

// Answer is what a person said to a question of the box's login. It goes into no file, no log and no status.
type Answer struct {
	Question tunnel.Question `json:"question"`
	Text     string          `json:"text"`
}

// to reports whether an answer is to this question. Its wording counts and its place, not what the box says around it.
func (a Answer) to(q tunnel.Question) bool {
	p := a.Question
	return p.User == q.User && p.Host == q.Host && p.Addr == q.Addr && p.Kind == q.Kind && p.Prompt == q.Prompt && p.Round == q.Round
}

// Say lays down an answer. It is false if the same was said before: a box keeps out who is wrong too often.
func (r *Request) Say(q tunnel.Question, text string) bool {
	for i, a := range r.Secrets {
		if a.to(q) {
			r.Secrets[i].Text = text
			return a.Text != text
		}
	}
	r.Secrets = append(r.Secrets, Answer{Question: q, Text: text})
	return true
}

// Spend forgets the answers that are good for one login: a code that was sent is of no use any more.
func (r *Request) Spend() { r.Secrets = lasting(r.Secrets) }

func lasting(all []Answer) []Answer {
	var keep []Answer
	for _, a := range all {
		if a.Question.IsPassword() {
			keep = append(keep, a)
		}
	}
	return keep
}

// Kept is the request with a place for what is said later on.
func (r Request) Kept() Request {
	if r.memory == nil {
		r.memory = &memory{phrases: map[string]string{}}
		r.memory.add(r)
	}
	return r
}

// maxCut is how many logins in a row a box may break off after an answer, before that counts as a no.
const maxCut = 3

// memory is what a person said for the logins of one host: passphrases and passwords for as long as the host is kept,
// so that a laptop that wakes up heals by itself; codes for one login.
type memory struct {
	mu      sync.Mutex // guards what follows
	phrases map[string]string
	answers []Answer
	used    bool // an answer was given in this login
	cut     int  // logins in a row that the box broke off after an answer
}

// add takes over what a request says.
func (m *memory) add(req Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(m.phrases, req.Passphrases)
	for _, a := range req.Secrets {
		m.drop(a.Question)
		m.answers = append(m.answers, a)
	}
}

func (m *memory) drop(q tunnel.Question) {
	m.answers = slices.DeleteFunc(m.answers, func(a Answer) bool { return a.to(q) })
}

var errNoAnswer = errors.New("nobody has answered")

// secret is the Dialer's Secret.
func (m *memory) secret(_ context.Context, q tunnel.Question) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.answers, func(a Answer) bool { return a.to(q) })
	if i < 0 || q.Try > 1 { // there is only one answer to each question
		return "", errNoAnswer
	}
	text := m.answers[i].Text
	if !q.IsPassword() {
		m.drop(q)
	}
	m.used = true
	return text, nil
}

// passphrase is the Dialer's Passphrase.
func (m *memory) passphrase(_ context.Context, file string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.phrases[file]; ok {
		return []byte(p), nil
	}
	return nil, &tunnel.PassphraseError{File: file}
}

// after forgets what is of no use once a login has ended with err: a wrong answer is never given again by itself.
func (m *memory) after(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := m.used
	m.used = false
	var secret *tunnel.SecretError
	var dial *tunnel.DialError
	switch {
	case err == nil:
		m.answers, m.cut = lasting(m.answers), 0
	case errors.As(err, &secret) && secret.Wrong:
		for _, q := range secret.Questions {
			m.drop(q)
		}
	case used && errors.As(err, &dial) && dial.Op == "login" && (errors.Is(dial.Err, io.EOF) || strings.HasPrefix(dial.Reason, "disconnect, ")):
		if m.cut++; m.cut >= maxCut {
			m.answers = nil
		}
	}
}

// Again gives an instance whose link waits for a person what the person said, and makes it try at once. The error is
// why the link still needs one; it is nil if the link did not wait, or waits for the network now. The instance was made
// with a request that is Kept.
func (i *Instance) Again(ctx context.Context, req Request) error {
	i.mu.Lock()
	link := i.link
	i.mu.Unlock()
	if link == nil || link.Status().State != tunnel.NeedsYou {
		return nil
	}
	i.req.memory.add(req)
	changed := link.Changed()
	link.Poke("asked to")
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		changed = link.Changed()
		switch link.Status().State {
		case tunnel.Connecting:
		case tunnel.NeedsYou:
			_, err := link.Get(ctx)
			return err
		default:
			return nil
		}
	}
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
