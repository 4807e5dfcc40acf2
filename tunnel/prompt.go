package tunnel

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// The methods of a login that rlca has, in OpenSSH's order.
const (
	methodKey      = "publickey"
	methodAsks     = "keyboard-interactive"
	methodPassword = "password"
)

// Limits of what a server may ask in one keyboard-interactive login, and how often a wrong answer may be followed by
// another one if ssh_config has no NumberOfPasswordPrompts.
const (
	maxPrompts     = 8 // at once
	maxRounds      = 10
	defaultPrompts = 3
)

// Question is what a server asks a person while it lets them in. Its texts are the server's, cleaned.
type Question struct {
	User        string `json:"user"`
	Host        string `json:"host"` // as asked for
	Addr        string `json:"addr"` // host:port: one name may have several servers, behind a jump or beside it
	Kind        string `json:"kind"` // password or keyboard-interactive
	Instruction string `json:"instruction"`
	Prompt      string `json:"prompt"` // empty for the kind password
	Echo        bool   `json:"echo"`   // the answer may be seen while it is typed
	// Round counts the questions of one login, from 1, over all methods that the server takes one after the other.
	Round int `json:"round"`
	// Try is 2 after a first answer that was not taken, and so on: only another answer is of use then.
	Try int `json:"try"`
}

// IsPassword reports whether the answer is the user's password, which is the same at the next login. What else is
// asked for, such as a code, or a new password, is not.
func (q Question) IsPassword() bool {
	if q.Kind == methodPassword {
		return true
	}
	prompt := strings.ToLower(q.Prompt)
	if q.Echo || !strings.Contains(prompt, "password") {
		return false
	}
	words := strings.FieldsFunc(prompt, func(r rune) bool { return !unicode.IsLetter(r) })
	for i, w := range words {
		once := w == "onetime" || w == "one" && i+1 < len(words) && words[i+1] == "time"
		if once || w == "otp" || w == "new" || w == "retype" {
			return false
		}
	}
	return true
}

// loginMethods are the methods that ssh_config allows, in the order to try them.
func (t *Target) loginMethods() []string {
	order := t.PreferredAuthentications
	if len(order) == 0 {
		order = []string{methodKey, methodAsks, methodPassword}
	}
	var out []string
	for _, m := range order {
		off, known := map[string]bool{
			methodKey:      t.NoPublicKey,
			methodAsks:     t.NoKbdInteractive || t.PasswordPrompts < 0,
			methodPassword: t.NoPassword || t.PasswordPrompts < 0,
		}[m]
		if known && !off {
			out = appendNew(out, m)
		}
	}
	return out
}

// attempt is one try of a method that asks a person.
type attempt struct {
	method    string
	questions []Question
	answers   []string
	first     int      // how many of them were the first round's
	ahead     []string // answers to the questions that the last attempt began with, gathered before it is tried again
	said      []string // by the server, since its last question
	rounds    int
}

// talk is what was asked and answered in one login. No answer is sent twice once the server did not take it: servers
// keep out who guesses.
type talk struct {
	last    *attempt        // handed to the handshake: nobody knows yet what became of it
	refused *attempt        // the last one of keyboard-interactive that was not taken
	bad     map[string]bool // answers that were not taken, as one key for each round
	tries   map[string]int  // that were not taken, by method
	deaf    bool            // keyboard-interactive was refused without a question
	unknown bool            // nobody knows the password, or another one

	wrong *SecretError // the last answers were not taken
	need  error        // what only a person can help with, the first of it
	stop  error        // ends the login at once
	right int          // methods that the server took
	taken int          // and what it asked in them
}

// settle says what became of the last attempt. right are the methods that the server has taken so far.
func (k *keyring) settle(right []string) {
	t := &k.talk
	a := t.last
	t.last = nil
	switch {
	case len(right) > t.right: // from here on something else is asked
		*t = talk{bad: t.bad, right: len(right), taken: t.taken}
		if a != nil {
			t.taken += len(a.questions)
		}
	case a == nil:
	case len(a.answers) == 0:
		t.deaf = true
		k.notes = append(k.notes, methodAsks+": refused without a question")
	default:
		if t.tries == nil {
			t.tries = map[string]int{}
		}
		if t.bad == nil {
			t.bad = map[string]bool{}
		}
		t.tries[a.method]++
		t.bad[together(a.answers[:a.first])] = true
		for i, q := range a.questions {
			if q.IsPassword() {
				t.bad[together(a.answers[i:i+1])] = true
			}
		}
		if a.method == methodAsks {
			t.refused = a
		}
		t.wrong = k.needs(a.questions, true)
	}
}

// together is a key for the answers of one round.
func together(answers []string) string { return fmt.Sprintf("%q", answers) }

// needs is the error that asks a person.
func (k *keyring) needs(q []Question, wrong bool) *SecretError {
	return &SecretError{User: k.target.User, Host: k.target.Host, Questions: q, Wrong: wrong, Right: k.right, Tried: k.tried}
}

// mayTry reports whether ssh_config allows one more try of a method.
func (k *keyring) mayTry(method string) bool {
	most := k.target.PasswordPrompts
	if most == 0 {
		most = defaultPrompts
	}
	return k.talk.tries[method] < most
}

// answer asks whoever can be asked.
func (k *keyring) answer(q Question) (answer string, ok bool) {
	if k.dialer.Secret == nil {
		return "", false
	}
	var err error
	k.human(func() { answer, err = k.dialer.Secret(k.ctx, q) })
	return answer, err == nil
}

// question says whose a question is, and which: before are those of the same attempt that came before it.
func (k *keyring) question(q Question, before int) Question {
	q.User, q.Host, q.Addr = k.target.User, k.target.Host, k.target.Addr()
	q.Round, q.Try = k.talk.taken+before+1, k.talk.tries[q.Kind]+1
	return q
}

// password tries the method password, if there is one that was not tried; nothing is sent for one that is not known.
func (k *keyring) password() ssh.AuthMethod {
	t := &k.talk
	if t.unknown {
		return nil
	}
	if !k.mayTry(methodPassword) {
		k.stuck(t.wrong)
		return nil
	}
	q := k.question(Question{Kind: methodPassword}, 0)
	answer, ok := k.answer(q)
	if again := ok && t.bad[together([]string{answer})]; again || !ok {
		t.unknown = true
		if t.wrong != nil {
			k.stuck(t.wrong)
		} else {
			k.stuck(k.needs([]Question{q}, again))
		}
		return nil
	}
	t.last = &attempt{method: methodPassword, questions: []Question{q}, answers: []string{answer}, first: 1}
	k.tried = appendNew(k.tried, methodPassword)
	return ssh.Password(answer)
}

// stuck notes that a person is needed. Other methods that need none may still let us in.
func (k *keyring) stuck(err *SecretError) {
	if k.talk.need == nil {
		k.talk.need = err
	}
}

// interactive tries keyboard-interactive. What it asks is known only once it has begun, so it is not begun if a person
// is needed anyway, and after wrong answers only if there are others to what it asked first.
func (k *keyring) interactive() ssh.AuthMethod {
	t := &k.talk
	if t.need != nil || t.deaf {
		return nil
	}
	a := &attempt{method: methodAsks}
	if t.refused != nil && !k.otherwise(a) {
		k.stuck(t.wrong)
		return nil
	}
	t.last = a
	return ssh.KeyboardInteractive(func(name, instruction string, prompts []string, echos []bool) ([]string, error) {
		a.said = append(a.said, name, instruction)
		answers, err := k.round(a, prompts, echos)
		if err != nil {
			t.stop = err // the handshake would try the next method
		}
		return answers, err
	})
}

// otherwise gathers other answers to what the last attempt began with.
func (k *keyring) otherwise(a *attempt) bool {
	last := k.talk.refused
	if !k.mayTry(methodAsks) {
		return false
	}
	for i, q := range last.questions[:last.first] {
		answer, ok := k.answer(k.question(q, i))
		if !ok {
			return false
		}
		a.ahead = append(a.ahead, answer)
	}
	return !k.talk.bad[together(a.ahead)]
}

// round answers the questions that a server asks at once. It may also only say something, and ask nothing.
func (k *keyring) round(a *attempt, prompts []string, echos []bool) ([]string, error) {
	if a.rounds++; a.rounds > maxRounds || len(prompts) > maxPrompts {
		k.notes = append(k.notes, methodAsks+": the box asks too much")
		return nil, k.denied()
	}
	if len(prompts) == 0 {
		return nil, nil
	}
	said, ahead := clean(strings.Join(a.said, " ")), a.ahead
	a.said, a.ahead = nil, nil
	if len(ahead) > 0 && !k.sameQuestions(prompts) {
		ahead = nil
	}
	var questions, open []Question
	var answers []string
	for i, p := range prompts {
		q := k.question(Question{Kind: methodAsks, Instruction: said, Prompt: clean(p), Echo: echos[i]}, len(a.questions)+i)
		answer, ok := "", len(ahead) > 0
		if ok {
			answer = ahead[i]
		} else if answer, ok = k.answer(q); !ok {
			open = append(open, q)
		}
		questions, answers = append(questions, q), append(answers, answer)
	}
	switch {
	case len(open) > 0:
		return nil, k.needs(open, false)
	case a.first == 0 && k.talk.bad[together(answers)]:
		return nil, k.needs(questions, true)
	case a.first == 0:
		a.first = len(questions)
	}
	a.questions, a.answers = append(a.questions, questions...), append(a.answers, answers...)
	k.tried = appendNew(k.tried, methodAsks)
	return answers, nil
}

// sameQuestions reports whether a server begins with the questions that it began with before.
func (k *keyring) sameQuestions(prompts []string) bool {
	r := k.talk.refused
	return slices.EqualFunc(prompts, r.questions[:r.first], func(p string, q Question) bool { return clean(p) == q.Prompt })
}
