package harness

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func value(vars []Var, name string) string {
	i := slices.IndexFunc(vars, func(v Var) bool { return v.Name == name })
	if i < 0 {
		return "(absent)"
	}
	return vars[i].Value
}

func TestEnv(t *testing.T) {
	env := map[string]string{"no_proxy": "10.0.0.0/8, localhost"}
	vars := Endpoint{BaseURL: "http://127.0.0.1:11434/", Model: "qwen3-coder:30b"}.Env(func(k string) string { return env[k] })
	for name, want := range map[string]string{
		"OPENAI_BASE_URL":      "http://127.0.0.1:11434/v1",
		"ANTHROPIC_BASE_URL":   "http://127.0.0.1:11434",
		"OPENAI_API_KEY":       "rlca",
		"ANTHROPIC_AUTH_TOKEN": "rlca",
		"OPENAI_MODEL":         "qwen3-coder:30b",
		"ANTHROPIC_MODEL":      "qwen3-coder:30b",
		"NO_PROXY":             "10.0.0.0/8,localhost,127.0.0.1,::1",
		"no_proxy":             "10.0.0.0/8,localhost,127.0.0.1,::1",
	} {
		if got := value(vars, name); got != want {
			t.Errorf("Env: %s = %q, want %q", name, got, want)
		}
	}
	bare := Endpoint{BaseURL: "http://127.0.0.1:1"}.Env(func(string) string { return "" })
	if got := value(bare, "OPENAI_MODEL"); got != "(absent)" {
		t.Errorf("without a model Env sets OPENAI_MODEL to %q", got)
	}
}

// nasty has every character that one of the shells treats as special.
const nasty = `it's $HOME "x" \n \' ; echo !boo & (y)`

func TestShell(t *testing.T) {
	vars := []Var{{"RLCA_T", nasty}}
	for shell, want := range map[string]string{
		"sh":         `export RLCA_T='it'\''s $HOME "x" \n \'\'' ; echo !boo & (y)'` + "\n",
		"fish":       `set -gx RLCA_T 'it\'s $HOME "x" \\n \\\' ; echo !boo & (y)'` + "\n",
		"powershell": `$env:RLCA_T = 'it''s $HOME "x" \n \'' ; echo !boo & (y)'` + "\n",
	} {
		got, err := Shell(shell, vars)
		if err != nil || got != want {
			t.Errorf("Shell(%q) = %q, %v, want %q", shell, got, err, want)
		}
	}
	if _, err := Shell("cmd", vars); err == nil || !strings.Contains(err.Error(), "sh, fish, powershell") {
		t.Errorf("Shell(cmd) = %v, want an error that lists the shells", err)
	}
}

// What a real shell reads back is what was meant.
func TestShellForReal(t *testing.T) {
	for _, shell := range []string{"sh", "bash", "zsh", "fish"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // sh is everywhere but on Windows; the others are a bonus
		}
		lines, err := Shell(shell, []Var{{"RLCA_T", nasty}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(path, "-c", lines+`printf %s "$RLCA_T"`).Output()
		if err != nil || string(out) != nasty {
			t.Errorf("%s read back %q, %v, want %q", shell, out, err, nasty)
		}
	}
}

func TestShellUnset(t *testing.T) {
	for shell, want := range map[string]string{"sh": "unset A_B\n", "fish": "set -e A_B\n", "powershell": "Remove-Item -ErrorAction Ignore Env:A_B\n"} {
		if got, err := Shell(shell, nil, "A_B"); err != nil || got != want {
			t.Errorf("Shell(%q) = %q, %v, want %q", shell, got, err, want)
		}
	}
}

func TestProxied(t *testing.T) {
	for _, c := range []struct {
		proxy, no string
		want      bool
	}{{"", "", false}, {"http://p", "", true}, {"http://p", "corp", true}, {"http://p", "corp, 127.0.0.1", false}, {"http://p", "*", false}} {
		env := map[string]string{"http_proxy": c.proxy, "NO_PROXY": c.no}
		if got := Proxied(func(k string) string { return env[k] }); got != c.want {
			t.Errorf("Proxied(%q, %q) = %v", c.proxy, c.no, got)
		}
	}
}
