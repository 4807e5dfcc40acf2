package harness

// tools is what is known of each program. The versions under Tested were run headless against faults of every kind;
// what has none is from the program's documentation. Prompt is the size of a first request in bytes, by four.
var tools = []Tool{
	{
		Name: "qwen", Title: "Qwen Code", Programs: []string{"qwen"}, Package: "@qwen-code/qwen-code",
		Install: "npm install -g @qwen-code/qwen-code", Node: 22, Tested: "0.24.4", Dialect: Chat, Prompt: 16000,
		// Qwen Code waits 120 s for a first byte, and ends an answer after 900 s: a long prompt on a small box takes longer.
		env: []string{
			"OPENAI_BASE_URL={base}/v1", "OPENAI_API_KEY={key}", "OPENAI_MODEL={model}", "QWEN_CODE_API_TIMEOUT_MS=600000", "QWEN_STREAM_MAX_LIFETIME_MS=0",
		},
		args:  []string{"--auth-type openai", "--model {model}"},
		quiet: []string{"QWEN_USAGE_STATISTICS_ENABLED=0", "QWEN_CODE_SKIP_UPDATE_CHECK_ONCE=true"},
		guard: []string{"QWEN_CODE_SAFE_MODE=1"},
		wired: []wiredFile{qwenFile},
	},
	{
		Name: "codex", Title: "Codex CLI", Programs: []string{"codex"}, Package: "@openai/codex",
		Install: "npm install -g @openai/codex", Node: 16, Tested: "0.169.0", Dialect: Responses, Prompt: 10000,
		unset: []string{"OPENAI_BASE_URL", "CODEX_OSS_BASE_URL", "CODEX_OSS_PORT"},
		extra: codexArgs, // it takes nothing from the environment: OPENAI_BASE_URL is ignored
		wired: []wiredFile{codexFile},
	},
	{
		Name: "claude", Title: "Claude Code", Programs: []string{"claude"}, Package: "@anthropic-ai/claude-code",
		Install: "npm install -g @anthropic-ai/claude-code", Node: 22, Tested: "2.1.330", Dialect: Messages, Prompt: 12000,
		env:       append(claudeEnv[:len(claudeEnv):len(claudeEnv)], "CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST=1"), // with it a project cannot lead it elsewhere
		unset:     []string{"ANTHROPIC_UNIX_SOCKET", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_BETAS"},
		quiet:     claudeQuiet,
		guardArgs: []string{"--setting-sources user"},
		wired:     []wiredFile{claudeFile},
	},
	{
		Name: "opencode", Title: "OpenCode", Programs: []string{"opencode"}, Package: "opencode-ai",
		Install: "npm install -g opencode-ai", Tested: "1.18.33", Dialect: Chat, Prompt: 8000,
		unset: []string{"OPENCODE_CONFIG", "OPENCODE_CONFIG_DIR", "OPENCODE_PERMISSION"},
		quiet: []string{
			"OPENCODE_DISABLE_MODELS_FETCH=1", "OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_DEFAULT_PLUGINS=1", "OPENCODE_DISABLE_LSP_DOWNLOAD=1",
			"npm_config_offline=true",
		},
		guard: []string{"OPENCODE_DISABLE_PROJECT_CONFIG=1"},
		extra: opencodeConfig,
		wired: []wiredFile{opencodeFile},
	},
	{
		Name: "pi", Title: "pi", Programs: []string{"pi"}, Package: "@mariozechner/pi-coding-agent",
		Install: "npm install -g @mariozechner/pi-coding-agent", Node: 20, Tested: "0.73.1", Dialect: Chat, Prompt: 1400,
		env:       []string{"PI_CODING_AGENT_DIR={dir}"},
		args:      []string{"--provider rlca", "--model {model}"},
		quiet:     []string{"PI_OFFLINE=1", "PI_TELEMETRY=0"},
		guardArgs: []string{"--no-extensions"},
		private:   piModels,
		wired:     []wiredFile{piModelsFile, piSettingsFile},
	},
	{
		Name: "continue", Title: "Continue CLI", Programs: []string{"cn"}, Package: "@continuedev/cli",
		Install: "npm install -g @continuedev/cli", Node: 20, Tested: "1.5.47", Dialect: Chat, Prompt: 1400,
		args:    []string{"--config {dir}/config.yaml"},
		quiet:   []string{"CONTINUE_TELEMETRY_ENABLED=0"},
		private: continueConfig,
		wired:   []wiredFile{continueFile},
	},
	{
		Name: "cline", Title: "Cline CLI", Programs: []string{"cline"}, Package: "cline",
		Install: "npm install -g cline", Node: 20, Tested: "3.0.65", Dialect: OllamaChat, Prompt: 5500,
		env:     []string{"CLINE_DATA_DIR={dir}"},
		args:    []string{"-P ollama", "-m {model}"},
		private: clineProviders,
		wired:   []wiredFile{clineFile},
	},
	{
		Name: "aider", Title: "Aider", Programs: []string{"aider"},
		Install: "python3 -m pip install aider-install && aider-install", Dialect: Chat,
		env:       []string{"OPENAI_API_BASE={base}/v1", "OPENAI_API_KEY={key}", "AIDER_MODEL=openai/{model}"},
		quietArgs: []string{"--analytics-disable", "--no-check-update"},
		wired:     []wiredFile{aiderFile},
	},
	{
		Name: "goose", Title: "Goose", Programs: []string{"goose"},
		Install: "see https://block.github.io/goose/docs/getting-started/installation", Dialect: Chat,
		env:   []string{"GOOSE_PROVIDER=ollama", "OLLAMA_HOST={base}", "GOOSE_MODEL={model}", "GOOSE_CONTEXT_LIMIT={context}"},
		wired: []wiredFile{gooseFile},
	},
	{
		Name: "crush", Title: "Crush", Programs: []string{"crush"}, Package: "@charmland/crush",
		Install: "npm install -g @charmland/crush", Dialect: Chat,
		env:     []string{"CRUSH_GLOBAL_CONFIG={dir}"},
		quiet:   []string{"CRUSH_DISABLE_METRICS=1", "CRUSH_DISABLE_PROVIDER_AUTO_UPDATE=1"},
		private: crushConfig,
		wired:   []wiredFile{crushFile},
	},
	{
		Name: "zed", Title: "Zed", Programs: []string{"zed", "zeditor"},
		Install: "see https://zed.dev/download", Dialect: OllamaChat, FileOnly: true,
		wired: []wiredFile{zedFile},
	},
	{
		Name: "openai", Title: "any OpenAI-style client", Dialect: Chat,
		env: []string{"OPENAI_BASE_URL={base}/v1", "OPENAI_API_BASE={base}/v1", "OPENAI_API_KEY={key}", "OPENAI_MODEL={model}"},
	},
	{
		Name: "anthropic", Title: "any Anthropic-style client", Dialect: Messages,
		env: []string{"ANTHROPIC_BASE_URL={base}", "ANTHROPIC_AUTH_TOKEN={key}", "ANTHROPIC_MODEL={model}"},
	},
}
