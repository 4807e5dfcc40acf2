package harness

// object is a JSON object as it is written: its members in their order.
type object []member

type member struct {
	key   string
	value any // object, []any, string, int, bool
}

// opencodeProvider is the endpoint as OpenCode wants it.
func opencodeProvider(e Endpoint) object {
	provider := object{
		{"npm", "@ai-sdk/openai-compatible"},
		{"name", "rlca"},
		{"options", object{{"baseURL", e.base() + "/v1"}, {"apiKey", e.key()}}},
	}
	if e.Model != "" {
		model := object{{"name", e.Model}}
		if e.Context > 0 { // without a limit it never compacts
			model = append(model, member{"limit", object{{"context", e.Context}, {"output", min(32768, e.Context/2)}}})
		}
		provider = append(provider, member{"models", object{{e.Model, model}}})
	}
	return provider
}

// opencodeConfig is a whole configuration in one variable: no file is needed. Titles are made by the small model, which
// would else be a vendor's.
func opencodeConfig(e Endpoint, o Options, s *Setup) {
	var c object
	if e.Model != "" {
		c = append(c, member{"model", "rlca/" + e.Model}, member{"small_model", "rlca/" + e.Model})
	}
	c = append(c, member{"enabled_providers", []any{"rlca"}})
	if !o.Loud {
		c = append(c, member{"share", "disabled"}, member{"autoupdate", false})
	}
	if !o.TrustProject { // its own default is to run nearly everything unasked
		c = append(c, member{"permission", object{
			{"*", "ask"}, {"bash", "ask"}, {"edit", "ask"}, {"external_directory", "deny"}, {"webfetch", "ask"},
		}})
	}
	c = append(c, member{"provider", object{{"rlca", opencodeProvider(e)}}})
	s.Set = append(s.Set, Var{"OPENCODE_CONFIG_CONTENT", compact(c)})
}

var opencodeFile = wiredFile{
	place: place{env: "XDG_CONFIG_HOME", home: ".config", name: "opencode/opencode.json", or: []string{"opencode/opencode.jsonc"}},
	kind:  jsonFile,
	sets: func(e Endpoint, loud bool) []setting {
		list := []setting{
			set("rlca/"+e.Model, "model"),
			set("rlca/"+e.Model, "small_model"),
			set(opencodeProvider(e), "provider", "rlca"),
		}
		if !loud {
			list = append(list, set("disabled", "share"), set(false, "autoupdate"))
		}
		return list
	},
}
