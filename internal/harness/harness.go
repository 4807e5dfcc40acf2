package harness

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Tool is one program that rlca knows: how it is found, what it needs to be told, and in which dialect it speaks.
// Tools are values of a table and never change.
type Tool struct {
	// Name is the word of rlca launch, Title what people call the program.
	Name, Title string
	// Programs are the names of its executable, the usual one first. A generic tool has none: it stands for every client
	// of its kind.
	Programs []string
	// Package is its npm package, empty if it comes from elsewhere. Its package.json says the version.
	Package string
	// Install is a command that installs it, Node the oldest major version of Node that it takes, 0 if it needs none.
	Install string
	Node    int
	// Tested is the version whose settings were tried with real faults. Empty: they are from its documentation.
	Tested string
	// Dialect is what it speaks to the model.
	Dialect Dialect
	// Prompt is how many tokens its own words take before the user says anything, about; 0 is not known.
	Prompt int
	// FileOnly says that it takes its endpoint from its own file alone: it can be wired, not launched.
	FileOnly bool

	// env are variables as NAME=VALUE; quiet those that turn off statistics and looking for updates; guard those that keep
	// out what the folder that it opens would set or run. {base}, {key}, {model} and {context} stand for the endpoint's
	// values, {dir} for a private folder; a line whose value is not known is left out.
	env, quiet, guard []string
	// args and the like are arguments in the same words. The words of one string go together.
	args, quietArgs, guardArgs []string
	// unset are variables that would lead it elsewhere.
	unset []string
	// private are the files of the folder {dir}, which makes them for one launch.
	private func(e Endpoint) []PrivateFile
	// extra adds what no line can say.
	extra func(e Endpoint, o Options, s *Setup)
	// wired are its own files that wire edits.
	wired []wiredFile
}

// Options are what a user may choose about a Setup.
type Options struct {
	// TrustProject lets the folder that is opened set and run what it likes.
	TrustProject bool
	// Loud leaves statistics and looking for updates as the program has them.
	Loud bool
	// Dir is the private folder of this launch. Empty: there is none, and what needs one is left out.
	Dir string
	// Getenv is the environment, for NO_PROXY.
	Getenv func(string) string
}

// PrivateFile is a file that one launch gives a program, in a folder that goes when the program ends.
type PrivateFile struct {
	Name string // with slashes, below the folder
	Text []byte
}

// Setup is what one run of a program gets.
type Setup struct {
	Set   []Var
	Unset []string
	Args  []string
	Files []PrivateFile
}

// vendorKeys are the keys with which a request that went astray would be taken by a vendor, and paid for. A child
// of launch does not get them, nor the switches that lead Claude Code to a cloud.
var vendorKeys = append(claudeClouds[:len(claudeClouds):len(claudeClouds)],
	"OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_ORGANIZATION", "OPENAI_PROJECT", "OPENAI_PROJECT_ID", "CODEX_API_KEY", "CODEX_ACCESS_TOKEN",
	"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_IDENTITY_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_OAUTH_REFRESH_TOKEN",
	"ANTHROPIC_AWS_API_KEY", "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_AUTH_TOKEN",
	"OPENCODE_API_KEY", "OPENCODE_AUTH_CONTENT", "OPENCODE_CONSOLE_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "AZURE_OPENAI_API_KEY", "AZURE_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY",
	"GOOGLE_GENERATIVE_AI_API_KEY", "OPENROUTER_API_KEY", "DEEPSEEK_API_KEY", "DASHSCOPE_API_KEY", "BAILIAN_CODING_PLAN_API_KEY", "BAILIAN_TOKEN_PLAN_API_KEY",
	"MODELSCOPE_API_KEY", "MISTRAL_API_KEY", "CODESTRAL_API_KEY", "GROQ_API_KEY", "XAI_API_KEY", "TOGETHER_API_KEY", "FIREWORKS_API_KEY",
	"CEREBRAS_API_KEY", "COHERE_API_KEY", "PERPLEXITY_API_KEY", "MOONSHOT_API_KEY", "KIMI_API_KEY", "ZAI_API_KEY", "ZHIPU_API_KEY",
	"MINIMAX_API_KEY", "NVIDIA_API_KEY", "OLLAMA_API_KEY", "CONTINUE_API_KEY", "CLINE_API_KEY",
)

// Names are the words of all tools, in the table's order.
func Names() []string {
	var names []string
	for i := range tools {
		names = append(names, tools[i].Name)
	}
	return names
}

// UnknownError says that no tool has a name.
type UnknownError struct {
	Name string
	// Near are the tools that may have been meant, All all of them.
	Near, All []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("rlca does not know the harness %q", e.Name)
}

// Find returns the tool of a name, which may also be that of its program, or an *UnknownError.
func Find(name string) (*Tool, error) {
	lower := strings.ToLower(name)
	for i := range tools {
		if t := &tools[i]; t.Name == lower || slices.Contains(t.Programs, lower) {
			return t, nil
		}
	}
	e := &UnknownError{Name: name, All: Names()}
	for _, n := range e.All {
		if distance(lower, n) <= min(2, max(1, len(n)/2)) || len(lower) > 2 && (strings.HasPrefix(n, lower) || strings.HasPrefix(lower, n)) {
			e.Near = append(e.Near, n)
		}
	}
	return nil, e
}

// distance is how many letters must be added, left out or changed to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// Generic reports whether the tool stands for every client of its kind.
func (t *Tool) Generic() bool { return len(t.Programs) == 0 }

// ByEnv reports whether variables alone lead the program to the endpoint, without arguments and files.
func (t *Tool) ByEnv() bool { return t.private == nil && !t.FileOnly && t.Name != "codex" }

// NeedsDir reports whether a launch has to give the program a private folder.
func (t *Tool) NeedsDir() bool { return t.private != nil }

// Setup is what a run of the tool gets, so that it finds the endpoint and nothing else.
func (t *Tool) Setup(e Endpoint, o Options) Setup {
	var s Setup
	fill := e.filler(o.Dir)
	set := func(lines []string) {
		for _, line := range lines {
			name, value, _ := strings.Cut(line, "=")
			if value, ok := fill(value); ok {
				s.Set = append(s.Set, Var{name, value})
			}
		}
	}
	args := func(groups []string) {
		for _, g := range groups {
			var words []string
			for _, w := range strings.Fields(g) { // split first: a model's name may have anything in it
				w, ok := fill(w)
				if !ok {
					words = nil
					break
				}
				words = append(words, w)
			}
			s.Args = append(s.Args, words...)
		}
	}
	set(t.env)
	args(t.args)
	if !o.Loud {
		set(t.quiet)
		args(t.quietArgs)
	}
	if !o.TrustProject {
		set(t.guard)
		args(t.guardArgs)
	}
	if t.private != nil && o.Dir != "" {
		s.Files = t.private(e)
	}
	if t.extra != nil {
		t.extra(e, o, &s)
	}
	s.Set = append(s.Set, proxyVars(o.Getenv)...)
	for _, name := range t.unset {
		if !slices.ContainsFunc(s.Set, func(v Var) bool { return v.Name == name }) {
			s.Unset = append(s.Unset, name)
		}
	}
	return s
}

// filler replaces the words in braces; ok is false when one of them is not known.
func (e Endpoint) filler(dir string) func(string) (string, bool) {
	values := map[string]string{"{base}": e.base(), "{key}": e.key(), "{model}": e.Model, "{context}": "", "{dir}": dir}
	if e.Context > 0 {
		values["{context}"] = strconv.Itoa(e.Context)
	}
	return func(text string) (string, bool) {
		var pairs []string
		for word, value := range values {
			if value == "" && strings.Contains(text, word) {
				return "", false
			}
			pairs = append(pairs, word, value)
		}
		if strings.Contains(text, "{dir}/") {
			text = filepath.FromSlash(text)
		}
		return strings.NewReplacer(pairs...).Replace(text), true
	}
}

// Environ is the environment of a child: what it would inherit, without vendors' keys and what leads elsewhere, and
// with what the setup sets.
func (s Setup) Environ(inherited []string) []string {
	drop := map[string]bool{}
	for _, name := range append(slices.Clone(vendorKeys), s.Unset...) {
		drop[name] = true
	}
	for _, v := range s.Set {
		drop[v.Name] = true
	}
	var out []string
	for _, kv := range inherited {
		if name, _, _ := strings.Cut(kv, "="); !drop[name] {
			out = append(out, kv)
		}
	}
	for _, v := range s.Set {
		out = append(out, v.Name+"="+v.Value)
	}
	return out
}

// Dropped are the vendors' keys that are in an environment and that a child does not get: names alone.
func (s Setup) Dropped(inherited []string) []string {
	var names []string
	for _, kv := range inherited {
		name, value, _ := strings.Cut(kv, "=")
		if value != "" && slices.Contains(vendorKeys, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Cloud reports whether a model of that name runs at a vendor, whatever engine is asked: Ollama passes such requests
// on to its own service.
func Cloud(model string) bool {
	return strings.HasSuffix(model, ":cloud") || strings.HasSuffix(model, "-cloud")
}

// Leaves says what in a tool's arguments makes its work leave the user's machines; empty if nothing.
func (t *Tool) Leaves(args []string) string {
	if t.Name != "codex" {
		return ""
	}
	for _, a := range args {
		if a == "--search" || strings.HasPrefix(strings.ReplaceAll(a, " ", ""), "web_search=") && !strings.Contains(a, "disabled") {
			return "web_search: through Ollama the searches are made by Ollama's own service"
		}
	}
	return ""
}
