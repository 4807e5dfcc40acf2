package harness

// The files of the tools that need no file of source of their own: what a launch gives them, and what wire sets.

func piProvider(e Endpoint) object {
	model := object{{"id", e.Model}}
	if e.Context > 0 {
		model = append(model, member{"contextWindow", e.Context})
	}
	return object{
		{"baseUrl", e.base() + "/v1"}, {"api", "openai-completions"}, {"apiKey", e.key()}, {"models", []any{model}},
	}
}

func piModels(e Endpoint) []PrivateFile {
	return []PrivateFile{{"models.json", []byte(compact(object{{"providers", object{{"rlca", piProvider(e)}}}}) + "\n")}}
}

var piModelsFile = wiredFile{
	place: place{env: "PI_CODING_AGENT_DIR", home: ".pi/agent", name: "models.json"},
	kind:  jsonFile,
	sets: func(e Endpoint, _ bool) []setting {
		return []setting{set(piProvider(e), "providers", "rlca")}
	},
}

var piSettingsFile = wiredFile{
	place: place{env: "PI_CODING_AGENT_DIR", home: ".pi/agent", name: "settings.json"},
	kind:  jsonFile,
	sets: func(e Endpoint, _ bool) []setting {
		return []setting{set("rlca", "defaultProvider"), set(e.Model, "defaultModel")}
	},
}

// continueModel is the item of a list of models, each line without its indentation.
func continueModel(e Endpoint) []string {
	return []string{
		"- name: rlca",
		"  provider: openai",
		"  model: " + quoted(e.Model),
		"  apiBase: " + quoted(e.base()+"/v1"),
		"  apiKey: " + quoted(e.key()),
		"  roles: [chat, edit, apply]",
	}
}

func continueConfig(e Endpoint) []PrivateFile {
	text := "name: rlca\nversion: 1.0.0\nschema: v1\nmodels:\n"
	for _, line := range continueModel(e) {
		text += "  " + line + "\n"
	}
	return []PrivateFile{{"config.yaml", []byte(text)}}
}

var continueFile = wiredFile{
	place: place{home: ".continue", name: "config.yaml"},
	kind:  yamlFile,
	fresh: []entry{{"name", "rlca"}, {"version", "1.0.0"}, {"schema", "v1"}},
	item:  func(e Endpoint) (list string, lines []string) { return "models", continueModel(e) },
}

func clineSettings(e Endpoint) object {
	return object{{"provider", "ollama"}, {"model", e.Model}, {"baseUrl", e.base()}}
}

func clineProviders(e Endpoint) []PrivateFile {
	return []PrivateFile{{"settings/providers.json", []byte(compact(object{
		{"version", 1}, {"lastUsedProvider", "ollama"},
		{"providers", object{{"ollama", object{
			{"settings", clineSettings(e)}, {"tokenSource", "manual"}, {"updatedAt", "2026-01-01T00:00:00.000Z"},
		}}}},
	}) + "\n")}}
}

var clineFile = wiredFile{
	place: place{env: "CLINE_DATA_DIR", home: ".cline/data", name: "settings/providers.json"},
	kind:  jsonFile,
	sets: func(e Endpoint, _ bool) []setting {
		return []setting{
			set(1, "version"), set("ollama", "lastUsedProvider"),
			set(clineSettings(e), "providers", "ollama", "settings"),
			set("manual", "providers", "ollama", "tokenSource"),
			set("2026-01-01T00:00:00.000Z", "providers", "ollama", "updatedAt"),
		}
	},
}

func crushProvider(e Endpoint) object {
	model := object{{"id", e.Model}, {"name", e.Model}}
	if e.Context > 0 {
		model = append(model, member{"context_window", e.Context}, member{"default_max_tokens", min(32768, e.Context/2)})
	}
	return object{{"name", "rlca"}, {"type", "openai-compat"}, {"base_url", e.base() + "/v1"}, {"api_key", e.key()}, {"models", []any{model}}}
}

func crushModels(e Endpoint) []setting {
	chosen := object{{"provider", "rlca"}, {"model", e.Model}}
	return []setting{set(crushProvider(e), "providers", "rlca"), set(chosen, "models", "large"), set(chosen, "models", "small")}
}

func crushConfig(e Endpoint) []PrivateFile {
	chosen := object{{"provider", "rlca"}, {"model", e.Model}}
	return []PrivateFile{{"crush.json", []byte(compact(object{
		{"providers", object{{"rlca", crushProvider(e)}}}, {"models", object{{"large", chosen}, {"small", chosen}}},
	}) + "\n")}}
}

var crushFile = wiredFile{
	place: place{env: "XDG_CONFIG_HOME", home: ".config", name: "crush/crush.json", windows: `${LOCALAPPDATA}/crush/crush.json`},
	kind:  jsonFile,
	sets: func(e Endpoint, loud bool) []setting {
		list := crushModels(e)
		if !loud {
			list = append(list, set(true, "options", "disable_metrics"), set(true, "options", "disable_provider_auto_update"))
		}
		return list
	},
}

var qwenFile = wiredFile{
	place: place{env: "QWEN_HOME", home: ".qwen", name: "settings.json"},
	kind:  jsonFile,
	sets: func(e Endpoint, loud bool) []setting {
		provider := object{{"id", e.Model}, {"name", "rlca"}, {"baseUrl", e.base() + "/v1"}, {"envKey", "RLCA_API_KEY"}}
		if e.Context > 0 {
			provider = append(provider, member{"generationConfig", object{{"contextWindowSize", e.Context}, {"timeout", 600000}}})
		}
		list := []setting{
			set(e.key(), "env", "RLCA_API_KEY"),
			add(provider, "modelProviders", "openai"),
			set("openai", "security", "auth", "selectedType"),
			set(e.Model, "model", "name"),
			set(e.base()+"/v1", "model", "baseUrl"), // of the providers of such a model, this one
		}
		if !loud {
			list = append(list, set(false, "privacy", "usageStatisticsEnabled"), set(false, "general", "enableAutoUpdate"))
		}
		return list
	},
}

var aiderFile = wiredFile{
	place: place{home: "", name: ".aider.conf.yml"},
	kind:  yamlFile,
	lines: func(e Endpoint, loud bool) ([]entry, []table) {
		list := []entry{
			{"model", quoted("openai/" + e.Model)}, {"openai-api-base", quoted(e.base() + "/v1")}, {"openai-api-key", quoted(e.key())},
		}
		if !loud {
			list = append(list, entry{"analytics", "false"}, entry{"check-update", "false"})
		}
		return list, nil
	},
}

var gooseFile = wiredFile{
	place: place{env: "XDG_CONFIG_HOME", home: ".config", name: "goose/config.yaml", windows: `${APPDATA}/Block/goose/config/config.yaml`},
	kind:  yamlFile,
	lines: func(e Endpoint, _ bool) ([]entry, []table) {
		list := []entry{{"GOOSE_PROVIDER", "ollama"}, {"OLLAMA_HOST", quoted(e.base())}, {"GOOSE_MODEL", quoted(e.Model)}}
		if e.Context > 0 {
			list = append(list, entry{"GOOSE_CONTEXT_LIMIT", itoa(e.Context)})
		}
		return list, nil
	},
}

var zedFile = wiredFile{
	place: place{env: "XDG_CONFIG_HOME", home: ".config", name: "zed/settings.json", windows: `${APPDATA}/Zed/settings.json`},
	kind:  jsonFile,
	sets: func(e Endpoint, loud bool) []setting {
		model := object{{"name", e.Model}, {"supports_tools", true}}
		if e.Context > 0 {
			model = append(model, member{"max_tokens", e.Context})
		}
		list := []setting{
			set(e.base(), "language_models", "ollama", "api_url"),
			add(model, "language_models", "ollama", "available_models"),
			set("ollama", "agent", "default_model", "provider"),
			set(e.Model, "agent", "default_model", "model"),
		}
		if !loud {
			list = append(list, set(false, "telemetry", "diagnostics"), set(false, "telemetry", "metrics"))
		}
		return list
	},
}
