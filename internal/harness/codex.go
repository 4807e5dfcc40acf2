package harness

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// codexProvider are the keys of Codex CLI that lead it to the endpoint. Its values are TOML.
func codexProvider(e Endpoint) []entry {
	const at = "model_providers.rlca."
	list := []entry{
		{"model_provider", quoted("rlca")},
		{at + "name", quoted("rlca")},
		{at + "base_url", quoted(e.base() + "/v1")},
		{at + "wire_api", quoted("responses")},
		// It gives up an answer after 300 s without a word, which a long prompt may take.
		{at + "stream_idle_timeout_ms", "1800000"},
	}
	if e.Model != "" {
		list = append(list, entry{"model", quoted(e.Model)})
	}
	if e.Context > 0 {
		list = append(list, entry{"model_context_window", strconv.Itoa(e.Context)})
	}
	// Through Ollama a web search is made by Ollama's own service.
	return append(list, entry{"web_search", quoted("disabled")})
}

// codexQuiet turns off statistics, looking for updates, and what is fetched from elsewhere.
var codexQuiet = []entry{
	{"analytics.enabled", "false"}, {"otel.metrics_exporter", `"none"`}, {"features.plugins", "false"}, {"features.apps", "false"},
	{"check_for_update_on_startup", "false"},
}

// codexArgs says all of it in arguments. The model is a setting too: -m before a subcommand is not for that.
func codexArgs(e Endpoint, o Options, s *Setup) {
	list := codexProvider(e)
	if e.Token != "" { // arguments can be seen by all users of the machine
		list = append(list, entry{"model_providers.rlca.env_key", quoted("RLCA_TOKEN")})
		s.Set = append(s.Set, Var{"RLCA_TOKEN", e.Token})
	}
	if !o.Loud {
		list = append(list, codexQuiet...)
	}
	list = append(list,
		entry{"features.daemon_auto_start", "false"}, // a daemon would outlive the launch, with its endpoint
		entry{"shell_environment_policy.inherit", quoted("core")},
	)
	for _, kv := range list {
		s.Args = append(s.Args, "-c", kv.key+"="+kv.value)
	}
}

// entry is a dotted key and its value as it is written.
type entry struct{ key, value string }

// quoted is a string as JSON and TOML, and YAML too, write it.
func quoted(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(s) // a string always can be
	return strings.TrimSuffix(b.String(), "\n")
}

var codexFile = wiredFile{
	place: place{env: "CODEX_HOME", home: ".codex", name: "config.toml"},
	kind:  tomlFile,
	lines: func(e Endpoint, loud bool) (top []entry, tables []table) {
		provider := table{name: "model_providers.rlca"}
		if e.Token != "" {
			provider.entries = append(provider.entries, entry{"experimental_bearer_token", quoted(e.Token)})
		}
		for _, kv := range codexProvider(e) {
			if key, ok := strings.CutPrefix(kv.key, provider.name+"."); ok {
				provider.entries = append(provider.entries, entry{key, kv.value})
			} else {
				top = append(top, kv)
			}
		}
		if !loud {
			top = append(top, codexQuiet...)
		}
		return top, []table{provider}
	},
}
