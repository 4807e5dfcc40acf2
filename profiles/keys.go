package profiles

import (
	"fmt"
	"slices"
	"strings"
)

// kind is the type of a key's value.
type kind int

const (
	kindText   kind = iota // a string
	kindNumber             // an integer
	kindList               // an array of strings
)

// String names the kind with its article, for messages.
func (k kind) String() string {
	switch k {
	case kindNumber:
		return "a number"
	case kindList:
		return "a list of strings"
	}
	return "a string"
}

// key is one key of a profile: where it stands, what it holds, and which values are good.
type key struct {
	section string // empty at the top of the file
	name    string
	kind    kind
	note    string // the comment that Save writes behind it

	// at returns a pointer to the field: *string, *int, *Duration, *[]string or *[]Also.
	at func(*Profile) any

	check    func(string) error // of a text, or of each text of a list
	min, max int                // of a number
	example  string             // as it would be written, for those who wrote the wrong type
}

// label names the key as messages do: "model.context".
func (k *key) label() string {
	if k.section == "" {
		return k.name
	}
	return k.section + "." + k.name
}

const maxNumber = 1<<31 - 1

// keys lists every key in the order of the file.
func keys() []*key {
	return []*key{
		{section: "", name: "host", kind: kindText, note: "ssh_config alias, name or address",
			at: func(p *Profile) any { return &p.Host }, check: checkHost, example: `"spark-box"`},
		{section: "", name: "user", kind: kindText, note: "in place of what ssh_config says",
			at: func(p *Profile) any { return &p.User }, check: checkUser, example: `"me"`},
		{section: "", name: "port", kind: kindNumber, note: "in place of what ssh_config says",
			at: func(p *Profile) any { return &p.Port }, min: 1, max: 65535, example: "22"},
		{section: "", name: "identity", kind: kindList, note: "private key files",
			at: func(p *Profile) any { return &p.Identity }, check: checkText, example: `["~/.ssh/id_ed25519"]`},
		{section: "", name: "jump", kind: kindList, note: "hosts to go through, the first one first",
			at: func(p *Profile) any { return &p.Jump }, check: checkJump, example: `["bastion"]`},

		{section: "model", name: "name", kind: kindText, note: "auto, an Ollama tag, a Hugging Face repo, a path on the box",
			at: func(p *Profile) any { return &p.Model.Name }, check: checkModel, example: `"auto"`},
		{section: "model", name: "context", kind: kindNumber, note: "tokens per request; 0 = the most that fits",
			at: func(p *Profile) any { return &p.Model.Context }, min: 0, max: maxNumber, example: "65536"},
		{section: "model", name: "parallel", kind: kindNumber, note: "requests at once, each with the whole context",
			at: func(p *Profile) any { return &p.Model.Parallel }, min: 1, max: maxNumber, example: "1"},
		{section: "model", name: "min_bits", kind: kindNumber, note: "auto chooses no coarser quantization",
			at: func(p *Profile) any { return &p.Model.MinBits }, min: 1, max: 16, example: "4"},

		{section: "engine", name: "name", kind: kindText, note: "ollama, vllm, llama-server, none or auto",
			at:    func(p *Profile) any { return &p.Engine.Name },
			check: oneOf("ollama", "vllm", "llama-server", "none", "auto"), example: `"auto"`},
		{section: "engine", name: "install", kind: kindText, note: "never or ask",
			at: func(p *Profile) any { return &p.Engine.Install }, check: oneOf("never", "ask"), example: `"ask"`},
		{section: "engine", name: "address", kind: kindText, note: "where it listens on the box",
			at: func(p *Profile) any { return &p.Engine.Address }, check: checkEngineAddress, example: `"127.0.0.1:11434"`},
		{section: "engine", name: "keep_alive", kind: kindText, note: "how long the model stays loaded; -1 = for ever",
			at: func(p *Profile) any { return &p.Engine.KeepAlive }, check: checkKeepAlive, example: `"-1"`},
		{section: "engine", name: "args", kind: kindList, note: "given to the engine as they are",
			at: func(p *Profile) any { return &p.Engine.Args }, check: checkArg, example: `["--verbose"]`},

		{section: "forward", name: "listen", kind: kindText, note: "the port on this machine",
			at: func(p *Profile) any { return &p.Forward.Listen }, check: checkListen, example: `"127.0.0.1:11434"`},
		{section: "forward", name: "mode", kind: kindText, note: "http or tcp",
			at: func(p *Profile) any { return &p.Forward.Mode }, check: oneOf("http", "tcp"), example: `"http"`},
		{section: "forward", name: "token", kind: kindText, note: "none, or own: requests have to show a secret",
			at: func(p *Profile) any { return &p.Forward.Token }, check: oneOf("none", "own"), example: `"none"`},
		{section: "forward", name: "allow", kind: kindText, note: "all or inference",
			at: func(p *Profile) any { return &p.Forward.Allow }, check: oneOf("all", "inference"), example: `"all"`},
		{section: "forward", name: "hold", kind: kindText, note: "how long a request waits for the link",
			at: func(p *Profile) any { return &p.Forward.Hold }, check: checkHold, example: `"100s"`},
		{section: "forward", name: "also", kind: kindList, note: "further ports, LISTEN:PORT:HOST:PORT",
			at:    func(p *Profile) any { return &p.Forward.Also },
			check: checkAlso, example: `["127.0.0.1:3000:localhost:3000"]`},

		{section: "cluster", name: "workers", kind: kindList, note: "other profiles, their boxes work as one",
			at: func(p *Profile) any { return &p.Cluster.Workers }, check: checkWorker, example: `["spark-2"]`},
	}
}

// vocabulary answers what keys there are, and what an unknown one may have been meant to be.
type vocabulary []*key

// find returns the key of a section, or nil.
func (v vocabulary) find(section, name string) *key {
	for _, k := range v {
		if k.section == section && k.name == name {
			return k
		}
	}
	return nil
}

// sections lists the named ones, in the order of the file.
func (v vocabulary) sections() []string {
	var out []string
	for _, k := range v {
		if k.section != "" && !slices.Contains(out, k.section) {
			out = append(out, k.section)
		}
	}
	return out
}

// names lists what may stand in a section; at the top that includes the sections.
func (v vocabulary) names(section string) []string {
	var out []string
	for _, k := range v {
		if k.section == section {
			out = append(out, k.name)
		}
	}
	if section == "" {
		out = append(out, v.sections()...)
	}
	return out
}

// adviseKey is the end of a message about an unknown key: where it belongs, or what it may have been meant to be.
func (v vocabulary) adviseKey(section, name string) string {
	if section != "" && slices.Contains(v.sections(), name) {
		return ": [" + name + "] is a section of its own"
	}
	if homes := v.homes(name, section); len(homes) > 0 {
		return ": it belongs " + strings.Join(homes, " or ")
	}
	if hint := didYouMean(name, v.names(section)); hint != "" {
		return hint
	}
	for _, k := range v {
		if k.section != section && len(near(name, []string{k.name})) > 0 {
			return fmt.Sprintf(", did you mean %q %s?", k.name, home(k.section))
		}
	}
	return ""
}

// homes says in which other sections a key of that name is known.
func (v vocabulary) homes(name, but string) []string {
	var out []string
	for _, k := range v {
		if k.name == name && k.section != but {
			out = append(out, home(k.section))
		}
	}
	return out
}

func home(section string) string {
	if section == "" {
		return "at the top, before the first section"
	}
	return "in [" + section + "]"
}
