// Package profiles keeps what the user wants of each box: one small TOML file per box, in one folder.
//
// A profile is read strictly. A key that rlca does not know, a value of the wrong type, an address that would open
// the port to others: each is an error with file and line, all of a file's problems at once. Everything but host has
// a default, so a file with that one line is a good profile. Files are written whole or not at all, and a profile's
// name can never lead out of the folder.
//
// The package reads and writes files and nothing else: what a profile says becomes a plan elsewhere.
package profiles

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Profile is what the user wants of one box. Start from Default: the zero value asks for a context of 0, an engine
// without a name and so on, and Save refuses it.
type Profile struct {
	// Host is an ssh_config alias, a name or an address. It is the one field that must be set.
	Host string `toml:"host" json:"host"`
	// User, Port, Identity and Jump override what ssh_config says. Zero leaves it to ssh_config.
	User string `toml:"user" json:"user,omitempty"`
	Port int    `toml:"port" json:"port,omitempty"`
	// Identity lists private key files as written, "~" not yet expanded.
	Identity []string `toml:"identity" json:"identity,omitempty"`
	// Jump lists the hosts to go through, the first one first, each as [user@]host[:port].
	Jump []string `toml:"jump" json:"jump,omitempty"`

	Model   Model   `toml:"model" json:"model"`
	Engine  Engine  `toml:"engine" json:"engine"`
	Forward Forward `toml:"forward" json:"forward"`
	Cluster Cluster `toml:"cluster" json:"cluster"`
}

// Model is what to serve.
type Model struct {
	// Name is "auto", an Ollama tag, a Hugging Face repository or a path on the box.
	Name string `toml:"name" json:"name"`
	// Context is in tokens per request. 0 means the most that fits, up to the model's own limit.
	Context int `toml:"context" json:"context"`
	// Parallel is how many requests are served at once, each with the full Context.
	Parallel int `toml:"parallel" json:"parallel"`
	// MinBits is the coarsest quantization that "auto" may choose, in bits per weight.
	MinBits int `toml:"min_bits" json:"min_bits"`
}

// Engine is the program that serves the model on the box.
type Engine struct {
	// Name is "ollama", "vllm", "llama-server", "none" or "auto". None keeps only the link and the port.
	Name string `toml:"name" json:"name"`
	// Install says whether an engine may be installed after a question: "never" or "ask".
	Install string `toml:"install" json:"install"`
	// Address is where the engine listens on the box, as host:port. Empty means found or chosen.
	Address string `toml:"address" json:"address"`
	// KeepAlive is how long the model stays loaded without requests, in Ollama's words: seconds, a duration, or
	// a negative number for ever.
	KeepAlive string `toml:"keep_alive" json:"keep_alive"`
	// Args are given to the engine as they are, after rlca's own.
	Args []string `toml:"args" json:"args,omitempty"`
}

// Forward is the port on the laptop.
type Forward struct {
	// Listen is a loopback address, as host:port.
	Listen string `toml:"listen" json:"listen"`
	// Mode is "http" or "tcp".
	Mode string `toml:"mode" json:"mode"`
	// Token is "none", or "own": every request has to show a secret that rlca made for this port.
	Token string `toml:"token" json:"token"`
	// Allow is "all", or "inference": nothing that changes what is on the box.
	Allow string `toml:"allow" json:"allow"`
	// Hold is how long a request waits for a link that is down.
	Hold Duration `toml:"hold" json:"hold"`
	// Also are further ports, forwarded as they are.
	Also []Also `toml:"also" json:"also,omitempty"`
}

// Cluster makes one engine of several boxes.
type Cluster struct {
	// Workers are the names of the other boxes' profiles.
	Workers []string `toml:"workers" json:"workers,omitempty"`
}

// Default returns the profile of which every file is an edit: all but Host is set.
func Default() Profile {
	return Profile{
		Model: Model{
			Name:     "auto",
			Context:  65536, // what coding harnesses need; 4096 cuts their first prompt
			Parallel: 1,
			MinBits:  4, // below it, code gets visibly worse
		},
		Engine: Engine{
			Name:      "auto",
			Install:   "ask",
			KeepAlive: "-1", // for ever: loading a big model takes minutes
		},
		Forward: Forward{
			Listen: "127.0.0.1:11434", // Ollama's own, so clients need no change
			Mode:   "http",
			Token:  "none",
			Allow:  "all",
			Hold:   Duration(100 * time.Second), // Qwen-Code gives up after 120 s
		},
	}
}

// Duration is a length of time, written as "100s" or "2m" in files and in JSON.
type Duration time.Duration

// Duration returns d as the standard library's type.
func (d Duration) Duration() time.Duration { return time.Duration(d) }

// String writes d as people write it in a file: "100s", not "1m40s", and "2m", not "2m0s".
func (d Duration) String() string {
	t := time.Duration(d)
	if 0 < t && t < time.Hour && t%time.Second == 0 && t%time.Minute != 0 {
		return strconv.Itoa(int(t/time.Second)) + "s"
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes d as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Also is one more forward, written LISTEN:PORT:HOST:PORT. LISTEN is a loopback address of the laptop, HOST a name or
// address as the box sees it; IPv6 addresses stand in brackets: "[::1]:3000:[fd00::2]:3000". In place of LISTEN:PORT
// and of HOST:PORT there may be the path of a unix socket: "~/box.sock:/run/docker.sock".
type Also string

// Split returns the two ends, each as host:port or as a path, which begins with "/" or "~/". It refuses what Parse
// refuses.
func (a Also) Split() (listen, target string, err error) {
	listen, target, ok := cutEnd(string(a))
	if !ok || target == "" || !isSocket(target) && !isHostPort(target) {
		return "", "", fmt.Errorf("must be LISTEN:PORT:HOST:PORT, as \"127.0.0.1:3000:localhost:3000\", not %s%s", shown(string(a)), alsoHint(string(a)))
	}
	if isSocket(listen) {
		err = checkSocket(listen, false)
	} else {
		err = checkListen(listen)
	}
	if err != nil {
		return "", "", err
	}
	if isSocket(target) {
		if strings.Contains(target, ":") {
			return "", "", fmt.Errorf("must have no colon in the path of a socket, not %s", shown(target))
		}
		err = checkSocket(target, true)
	} else {
		err = checkAddress(target)
	}
	if err != nil {
		return "", "", err
	}
	return listen, target, nil
}

// isHostPort says that s is one end, with nothing behind it.
func isHostPort(s string) bool {
	end, _, ok := cutEnd(s)
	return ok && end == s
}
