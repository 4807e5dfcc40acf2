package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"rlca/internal/fit"
	"rlca/internal/harness"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
	"rlca/profiles"
	"rlca/remote"
	"rlca/tunnel"
)

// Exit codes, as the README lists them.
const (
	exitFailed = 1
	exitUsage  = 2
	exitNoFit  = 3
	exitHuman  = 5
)

// advice is what is said of an error besides its own words.
type advice struct {
	code  int
	facts []string // at most two lines of what was seen
	hints []string // what can be done, best as a command to paste
	plain []string // whole lines in place of hints
}

// fail says what went wrong and what to do, and returns the exit code.
func (a *app) fail(err error) int {
	adv := adviseOn(err)
	var said *silent
	if errors.As(err, &said) {
		return adv.code
	}
	lines := strings.Split(err.Error(), "\n")
	var none *instance.CancelledError
	if errors.As(err, &none) {
		a.talk.say("%s", lines[0])
	} else {
		a.talk.say("error: %s", lines[0])
	}
	for _, l := range lines[1:] { // several problems of one file
		a.talk.say("error: %s", l)
	}
	for _, f := range adv.facts {
		a.talk.fact(f)
	}
	for _, p := range adv.plain {
		a.talk.say("%s", a.named(p))
	}
	for _, h := range adv.hints {
		a.talk.say("hint: %s", a.named(h))
	}
	return adv.code
}

var verbOfHost = regexp.MustCompile(`(rlca [a-z]+(?: [a-z]+)?) HOST\b`)

// named puts the host that this is about into a command to paste. To ssh a profile may be no name, so that is left.
func (a *app) named(hint string) string {
	if a.host == "" {
		return hint
	}
	return verbOfHost.ReplaceAllString(hint, "${1} "+strings.ReplaceAll(a.host, "$", "$$"))
}

// adviseOn is the one place that knows what a person can do about an error.
func adviseOn(err error) advice {
	var (
		usage     *usageError
		notFound  *profiles.NotFoundError
		cancelled *instance.CancelledError
		inUse     *supervisor.PortInUseError
		state     *supervisor.StateError
		unknown   *tunnel.UnknownHostKeyError
		changed   *tunnel.ChangedHostKeyError
		revoked   *tunnel.RevokedHostKeyError
		phrase    *tunnel.PassphraseError
		secret    *tunnel.SecretError
		openssh   *tunnel.OpenSSHError
		auth      *tunnel.AuthError
		config    *tunnel.ConfigError
		noShell   *tunnel.NoShellError
		refused   *tunnel.RefusedError
		taken     *tunnel.PortTakenError
		dial      *tunnel.DialError
		short     *fit.ShortfallError
		noModel   *fit.UnknownModelError
		install   *remote.NotInstalledError
		missing   *remote.ModelMissingError
		pull      *remote.PullError
		other     *remote.ServesOtherError
		remove    *remote.RemoveError
		unasked   *unaskedError
		idle      *remote.NotRunningError
		busy      *remote.InUseError
		cluster   *remote.ClusterError
		start     *remote.StartError
		offline   *supervisor.NotConnectedError
		noHarness *harness.UnknownError
		noProgram *harness.NotInstalledError
		dialect   *harness.DialectError
		unwired   *harness.NotWiredError
		parse     *harness.ParseError
		exposed   *harness.ExposedError
	)
	var said *silent
	switch {
	case errors.As(err, &said):
		return advice{code: said.code}
	case errors.As(err, &usage):
		return advice{code: exitUsage, hints: []string{"rlca --help lists the verbs, rlca VERB --help what one takes"}}
	case errors.As(err, &notFound):
		adv := advice{code: exitFailed}
		for _, n := range notFound.Near {
			adv.hints = append(adv.hints, "did you mean "+n+"?")
		}
		adv.hints = append(adv.hints, "rlca profile list")
		return adv
	case errors.As(err, &cancelled):
		adv := advice{code: exitFailed}
		for _, l := range cancelled.Left {
			adv.facts = append(adv.facts, "left as it is: "+l)
		}
		return adv
	case errors.As(err, &inUse):
		return advice{code: exitFailed, hints: []string{
			"rlca disconnect " + inUse.Host,
			"or give this host another port: --port 11435",
		}}
	case errors.As(err, &state):
		return advice{code: exitFailed, hints: []string{"make it yours and writable, or name another: --state-dir DIR or RLCA_STATE_DIR"}}
	case errors.As(err, &unknown):
		return advice{code: exitHuman,
			facts: []string{fmt.Sprintf("offered: %s %s", unknown.KeyType, unknown.Fingerprint)},
			hints: []string{
				"compare it with what the box says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
				"then: rlca trust " + unknown.Host + ", or connect with --accept-new",
			}}
	case errors.As(err, &changed):
		return advice{code: exitHuman,
			facts: []string{fmt.Sprintf("known: %s  %s:%d      offered: %s", changed.Known, changed.File, changed.Line, changed.Offered)},
			hints: []string{"if the box was reinstalled: ssh-keygen -R " + changed.KeygenArg + "; if not, somebody may be listening: do not connect"}}
	case errors.As(err, &revoked):
		return advice{code: exitHuman, hints: []string{"the key is marked @revoked: do not connect before the box has a new one"}}
	case errors.As(err, &phrase):
		return advice{code: exitHuman, hints: []string{"put the key into the agent: ssh-add " + phrase.File}}
	case errors.As(err, &openssh): // it will ask, or say more
		return advice{code: exitHuman, hints: []string{"log in once with ssh itself: ssh " + openssh.Host}}
	case errors.As(err, &secret):
		adv := advice{code: exitHuman, hints: []string{
			"on a terminal rlca asks for it: rlca connect HOST",
			fmt.Sprintf("or log in with a key: ssh-copy-id %s@%s", secret.User, secret.Host),
		}}
		if len(secret.Right) > 0 { // the key is there already
			adv.hints = adv.hints[:1]
		}
		if len(secret.Tried) > 0 && !secret.Wrong {
			adv.facts = append(adv.facts, "tried: "+strings.Join(secret.Tried, ", "))
		}
		return adv
	case errors.As(err, &auth):
		adv := advice{code: exitHuman}
		if len(auth.Tried) > 0 {
			adv.facts = append(adv.facts, "tried: "+strings.Join(auth.Tried, ", "))
		}
		if len(auth.Methods) > 0 {
			adv.facts = append(adv.facts, "the box takes: "+strings.Join(auth.Methods, ", "))
		}
		adv.hints = []string{
			fmt.Sprintf("see whether ssh gets in: ssh %s@%s true", auth.User, auth.Host),
			fmt.Sprintf("if it asks for a password: ssh-copy-id %s@%s", auth.User, auth.Host),
		}
		return adv
	case errors.As(err, &config):
		return advice{code: exitFailed, hints: []string{"rlca profile show HOST --resolved says what would be dialed"}}
	case errors.As(err, &noShell):
		return advice{code: exitFailed, hints: []string{"rlca needs a POSIX shell on the box: ssh HOST 'exec /bin/sh -s' </dev/null must end without a word"}}
	case errors.As(err, &taken):
		return advice{code: exitFailed, hints: []string{"choose another port: --port 11435", "or stop what holds it"}}
	case errors.As(err, &refused):
		if refused.Prohibited {
			return advice{code: exitFailed, hints: []string{"the box's sshd forbids forwarding: AllowTcpForwarding and PermitOpen in its sshd_config"}}
		}
		return advice{code: exitFailed, hints: []string{"nothing listens there on the box; rlca logs HOST --engine"}}
	case errors.As(err, &dial):
		return advice{code: exitFailed, hints: dialHints(dial)}
	case errors.As(err, &short):
		return shortfall(short)
	case errors.As(err, &noModel):
		adv := advice{code: exitFailed}
		if len(noModel.Near) > 0 {
			adv.hints = append(adv.hints, "did you mean "+strings.Join(noModel.Near, " or ")+"?")
		}
		adv.hints = append(adv.hints, "what would fit: rlca models HOST", "or by size: rlca fit --memory 32GB --params 30 --bits 4")
		return adv
	case errors.As(err, &install):
		how := map[string]string{
			"Ollama":                   "install it there: curl -fsSL https://ollama.com/install.sh | sh   (needs sudo; on a Mac: brew install ollama; on Windows, in PowerShell: irm https://ollama.com/install.ps1 | iex)",
			"llama-server":             "install it there: a release of llama.cpp, or on a Mac: brew install llama.cpp",
			"OpenAI-compatible server": "start it there, or have rlca start one: --engine ollama",
			"vLLM":                     "install it there: python3 -m venv ~/.rlca/vllm && ~/.rlca/vllm/bin/pip install vllm   (Linux, about 10 GB)",
		}[install.Engine]
		return advice{code: exitFailed, plain: []string{"nothing was changed on the box"}, hints: []string{
			how, "or serve with what is there: --engine none and [engine] address in the profile",
		}}
	case errors.As(err, &missing):
		adv := advice{code: exitHuman}
		if strings.HasPrefix(missing.Model, "/") || strings.HasPrefix(missing.Model, "~") { // a path: nobody has it to download
			adv.code = exitFailed
			if len(missing.Near) > 0 {
				adv.hints = append(adv.hints, "there are: "+strings.Join(missing.Near, ", "))
			}
			return adv
		}
		if len(missing.Known) > 0 {
			adv.hints = append(adv.hints, "did you mean "+strings.Join(missing.Known, " or ")+"?")
		}
		if len(missing.Near) > 0 {
			adv.hints = append(adv.hints, "on the box: "+strings.Join(missing.Near, ", "))
		}
		adv.hints = append(adv.hints, "to download it on the box"+sizeOf(missing)+": rlca connect HOST --model "+missing.Model+" --yes")
		return adv
	case errors.As(err, &pull):
		return advice{code: exitFailed, hints: pullHints(pull)}
	case errors.As(err, &remove):
		return advice{code: exitFailed, hints: removeHints(remove)}
	case errors.As(err, &unasked):
		return advice{code: exitHuman, hints: []string{unasked.hint}}
	case errors.As(err, &idle):
		return advice{code: exitFailed, hints: []string{"start it: rlca connect HOST, or on the box by its own means"}}
	case errors.As(err, &other):
		first, _, _ := strings.Cut(other.Serves, ", ") // of several
		return advice{code: exitFailed, hints: []string{"take what it serves: --model " + first, "or have rlca start another beside it: [engine] address = \"127.0.0.1:PORT\" in the profile"}}
	case errors.As(err, &busy) && busy.Want == "":
		return advice{code: exitHuman, hints: []string{"close the port alone: rlca disconnect HOST", "or take the engine away from whoever uses it: rlca disconnect HOST --stop-engine --yes"}}
	case errors.As(err, &busy):
		return advice{code: exitHuman, hints: []string{
			"take what it serves: --model and --context as it has them",
			"or take it away from whoever uses it: --yes",
		}}
	case errors.As(err, &cluster):
		if cluster.Remedy != "" {
			return advice{code: exitFailed, hints: []string{cluster.Remedy}}
		}
		return advice{code: exitFailed, hints: []string{"rlca logs HOST --engine", "rlca probe " + cluster.Node}}
	case errors.As(err, &start):
		return advice{code: exitFailed, hints: startHints(start)}
	case errors.As(err, &noHarness), errors.As(err, &noProgram), errors.As(err, &dialect), errors.As(err, &unwired), errors.As(err, &parse):
		return harnessAdvice(noHarness, noProgram, dialect, unwired)
	case errors.As(err, &exposed):
		return advice{code: exitFailed, hints: []string{"make it yours alone: chmod 600 " + exposed.Path, "or set it for one run, which writes no file: rlca launch HARNESS"}}
	case errors.As(err, &offline), errors.Is(err, supervisor.ErrNotRunning):
		return advice{code: exitFailed, hints: []string{"rlca connect HOST"}}
	}
	return advice{code: exitFailed}
}

func dialHints(e *tunnel.DialError) []string {
	switch e.Op {
	case "resolve":
		return []string{"is the name right, and is the network up? rlca profile show HOST --resolved says what would be dialed"}
	case "connect":
		return []string{"is the box on, and does sshd run there? rlca profile show HOST --resolved says what would be dialed"}
	case "banner", "handshake":
		return []string{"something answers, but not as an SSH server that lets us in: try ssh -v HOST true"}
	}
	return nil
}

// startHints are what can be done about an engine that did not come up.
func startHints(e *remote.StartError) []string {
	var hints []string
	if e.Context > 0 {
		hints = append(hints, fmt.Sprintf("a context that fits: --context %d", e.Context))
	}
	if e.Remedy != "" {
		hints = append(hints, e.Remedy)
	}
	if len(hints) == 0 {
		hints = append(hints, "rlca logs HOST --engine")
	}
	return hints
}

func pullHints(e *remote.PullError) []string {
	switch e.Class {
	case "name":
		return []string{"there is no such model or tag; what would fit: rlca models HOST"}
	case "version":
		return []string{"the box's Ollama is too old for this model: update it there"}
	case "space":
		if e.Need > 0 {
			return []string{fmt.Sprintf("it takes %s more on the box's disk, and %s are free: make room there, or set HF_HOME to a bigger disk", fit.Bytes(e.Need), fit.Bytes(e.Have))}
		}
		return []string{"free space on the box (ollama list, ollama rm MODEL), or move OLLAMA_MODELS to a bigger disk; what was downloaded is kept"}
	case "network":
		return []string{"the box could not reach where the model is published: check its network, DNS and HTTPS_PROXY; what was downloaded is kept"}
	case "auth":
		return []string{"the registry refused the box: the model may be private or its name wrong",
			"for a model of Hugging Face: accept its licence on its page, then log in on the box: hf auth login"}
	}
	return nil
}

// shortfall shows what does not fit, and what does.
func shortfall(e *fit.ShortfallError) advice {
	adv := advice{code: exitNoFit}
	if parts := parts(e.Result); parts != "" {
		adv.facts = append(adv.facts, parts)
	}
	host := e.Host
	if host == "" {
		host = "HOST"
	}
	for i, r := range e.Instead {
		if i == 2 {
			break
		}
		line := fmt.Sprintf("fits instead: %s %s at %s context", r.Model, r.Quant, fit.Tokens(r.Context))
		if r.Total != nil {
			line += fmt.Sprintf(" (%s, %s)", r.Total, r.Verdict)
		}
		adv.plain = append(adv.plain, line+" · rlca models "+host)
	}
	if len(e.Instead) == 0 {
		adv.hints = append(adv.hints, "see what fits: rlca models "+host, "or shorten the context: --context 8192")
	}
	return adv
}

// parts says what a need is made of.
func parts(r fit.Result) string {
	if r.Weights == nil {
		return ""
	}
	s := fmt.Sprintf("weights %.1f", r.Weights.GiB())
	var about []string
	if r.Quant != "" {
		about = append(about, r.Quant)
	}
	if r.Source == fit.FromParams {
		about = append(about, "from parameters")
	}
	if r.ErrorBand != nil {
		about = append(about, fmt.Sprintf("± %.0f %%", *r.ErrorBand*100))
	}
	if len(about) > 0 {
		s += " (" + strings.Join(about, ", ") + ")"
	}
	if r.KV != nil {
		s += fmt.Sprintf(" + KV cache %.1f", r.KV.GiB())
	}
	if r.State != nil && *r.State > 0 {
		s += fmt.Sprintf(" + state %.1f", r.State.GiB())
	}
	if r.Compute != nil {
		s += fmt.Sprintf(" + buffers %.1f", r.Compute.GiB())
	}
	if r.ParamsB != nil && r.ActiveB != nil && *r.ActiveB < *r.ParamsB {
		s += fmt.Sprintf("; it counts all %.0fB parameters, not the %.0fB active ones", *r.ParamsB, *r.ActiveB)
	}
	return s
}
