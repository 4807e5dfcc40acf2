// Package harness knows the programs on the laptop that talk to the model: what each has to be told so that it
// finds the local port, and in which words.
//
// A Setup is for one run of a program and touches nothing of the user's. A Wiring changes the program's own files, and
// takes every byte of that back. The key that is handed out is a placeholder, because the port is open to its owner
// alone; a real vendor key is never read and never passed on.
package harness

import (
	"fmt"
	"strings"
)

// Key is the placeholder that stands where a client insists on a key. Ollama ignores it.
const Key = "rlca"

// local are the names that must never go through a proxy. With HTTP_PROXY set and no NO_PROXY, Claude Code,
// Qwen-Code, Codex CLI and OpenCode send every request to the proxy and none to the port.
var local = []string{"127.0.0.1", "localhost", "::1"}

// Endpoint is what a client needs to reach the model.
type Endpoint struct {
	// BaseURL is the local port without a path, as "http://127.0.0.1:11434".
	BaseURL string
	// Model is the name that the engine answers to. Empty means that the client has to choose one.
	Model string
	// Context is how many tokens one request may have. Zero means unknown.
	Context int
	// Token is what the port wants to be shown. Empty means that it asks for nothing, and Key stands in its place.
	Token string
}

func (e Endpoint) base() string { return strings.TrimRight(e.BaseURL, "/") }

func (e Endpoint) key() string {
	if e.Token != "" {
		return e.Token
	}
	return Key
}

// Var is one variable of the environment.
type Var struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Env returns the variables for OpenAI- and Anthropic-style clients, in a fixed order. The names that a proxy must
// leave alone are added to what getenv says of NO_PROXY, which is kept.
func (e Endpoint) Env(getenv func(string) string) []Var {
	vars := []Var{
		{"OPENAI_BASE_URL", e.base() + "/v1"},
		{"OPENAI_API_KEY", e.key()},
		{"ANTHROPIC_BASE_URL", e.base()},
		{"ANTHROPIC_AUTH_TOKEN", e.key()},
	}
	if e.Model != "" {
		vars = append(vars, Var{"OPENAI_MODEL", e.Model}, Var{"ANTHROPIC_MODEL", e.Model})
	}
	return append(vars, proxyVars(getenv)...)
}

// proxyVars are both names of NO_PROXY, with what they say now and the local names.
func proxyVars(getenv func(string) string) []Var {
	no := ""
	if getenv != nil {
		if no = getenv("NO_PROXY"); no == "" {
			no = getenv("no_proxy")
		}
	}
	no = noProxy(no)
	return []Var{{"NO_PROXY", no}, {"no_proxy", no}}
}

// Proxied reports whether a program with this environment would send what is meant for the port to a proxy.
func Proxied(getenv func(string) string) bool {
	for _, no := range strings.Split(getenv("NO_PROXY")+","+getenv("no_proxy"), ",") {
		if no = strings.TrimSpace(no); no == local[0] || no == "*" {
			return false
		}
	}
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		if getenv(name) != "" {
			return true
		}
	}
	return false
}

// noProxy adds the local names to a list that may have some of them already.
func noProxy(have string) string {
	var list []string
	seen := map[string]bool{}
	for _, n := range append(strings.Split(have, ","), local...) {
		if n = strings.TrimSpace(n); n != "" && !seen[n] {
			seen[n] = true
			list = append(list, n)
		}
	}
	return strings.Join(list, ",")
}

// Shells are the words that Shell knows.
var Shells = []string{"sh", "fish", "powershell"}

// Shell writes the lines that set vars in the named shell: "sh" (also bash and zsh), "fish" or "powershell", and that
// take away the variables of the names in unset.
func Shell(name string, vars []Var, unset ...string) (string, error) {
	var line func(Var) string
	var without string
	switch name {
	case "sh", "bash", "zsh":
		without = "unset %s\n"
		line = func(v Var) string { return "export " + v.Name + "='" + strings.ReplaceAll(v.Value, "'", `'\''`) + "'" }
	case "fish":
		without = "set -e %s\n"
		line = func(v Var) string {
			return "set -gx " + v.Name + " '" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v.Value) + "'"
		}
	case "powershell", "pwsh":
		without = "Remove-Item -ErrorAction Ignore Env:%s\n"
		line = func(v Var) string { return "$env:" + v.Name + " = '" + strings.ReplaceAll(v.Value, "'", "''") + "'" }
	default:
		return "", fmt.Errorf("shell %q is not known: one of %s", name, strings.Join(Shells, ", "))
	}
	var b strings.Builder
	for _, n := range unset {
		fmt.Fprintf(&b, without, n)
	}
	for _, v := range vars {
		b.WriteString(line(v))
		b.WriteByte('\n')
	}
	return b.String(), nil
}
