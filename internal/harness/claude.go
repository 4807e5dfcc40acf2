package harness

import "strings"

// claudeEnv is what Claude Code needs, from its environment or from the same words in its settings.
var claudeEnv = []string{
	"ANTHROPIC_BASE_URL={base}", "ANTHROPIC_AUTH_TOKEN={key}", "ANTHROPIC_API_KEY=", "ANTHROPIC_MODEL={model}",
	"ANTHROPIC_DEFAULT_OPUS_MODEL={model}", "ANTHROPIC_DEFAULT_SONNET_MODEL={model}", "ANTHROPIC_DEFAULT_HAIKU_MODEL={model}",
	"ANTHROPIC_DEFAULT_FABLE_MODEL={model}", "CLAUDE_CODE_SUBAGENT_MODEL={model}",
	// It takes an unknown model for one of a million tokens, and compacts too late.
	"CLAUDE_CODE_MAX_CONTEXT_TOKENS={context}",
	// A header that changes with each request makes the engine read the whole prompt anew.
	"CLAUDE_CODE_ATTRIBUTION_HEADER=0",
	"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS=1",
	// Alone API_TIMEOUT_MS does not lift the 360 s that it waits for a first byte.
	"API_FORCE_IDLE_TIMEOUT=0", "API_TIMEOUT_MS=1800000",
}

// claudeQuiet is on with any value, 0 too.
var claudeQuiet = []string{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1"}

// claudeClouds lead it to the models that a cloud sells, whatever its base URL says. In its settings an empty value goes
// before the one of the shell; a launch does not pass them on.
var claudeClouds = []string{
	"CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_ANTHROPIC_AWS",
	"CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
}

var claudeFile = wiredFile{
	place: place{env: "CLAUDE_CONFIG_DIR", home: ".claude", name: "settings.json"},
	kind:  jsonFile,
	sets: func(e Endpoint, loud bool) []setting {
		fill := e.filler("")
		var list []setting
		lines := claudeEnv
		if !loud {
			lines = append(lines[:len(lines):len(lines)], claudeQuiet...)
		}
		for _, line := range lines {
			name, value, _ := strings.Cut(line, "=")
			if value, ok := fill(value); ok {
				list = append(list, set(value, "env", name))
			}
		}
		for _, name := range claudeClouds {
			list = append(list, set("", "env", name))
		}
		return list
	},
}
