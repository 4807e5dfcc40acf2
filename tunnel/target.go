package tunnel

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Target is where to dial, and how. Lists are in order of preference.
type Target struct {
	Host     string // as asked for
	HostName string
	User     string
	Port     int

	IdentityFiles    []string
	CertificateFiles []string
	IdentityAgent    string // a socket; empty means the agent of the environment; "none" means no agent
	IdentitiesOnly   bool

	// PreferredAuthentications are the methods of the login in the order to try them. Empty means OpenSSH's own order.
	PreferredAuthentications []string
	// NoPublicKey, NoKbdInteractive and NoPassword are ssh_config's PubkeyAuthentication no, and so on.
	NoPublicKey, NoKbdInteractive, NoPassword bool
	// PasswordPrompts is how often a login may be tried with something that a person typed. 0 means 3, less means never.
	PasswordPrompts int

	Jumps         []string // the hosts between, nearest first
	ProxyCommand  string   // as written, with its tokens
	AddressFamily string   // inet, inet6; empty and any mean both
	BindAddress   string

	HostKeyAlias          string
	UserKnownHostsFiles   []string
	GlobalKnownHostsFiles []string
	RevokedHostKeys       string // a file of keys that no host may show; empty means none
	StrictHostKeyChecking string // ask, yes, accept-new, no
	HashKnownHosts        bool
	NoHostAuthLocalhost   bool // a loopback address needs no known key

	// What only the user's own ssh can do.
	KnownHostsCommand string
	PKCS11Provider    string
	GSSAPI            bool // it may log in with a Kerberos ticket

	ConnectTimeout      time.Duration // of the TCP connection and the banner; 0 means 10 s
	ServerAliveInterval time.Duration // 0 means that the link's own probes are enough
	ServerAliveCountMax int

	// Algorithms as ssh_config names them; a first word that begins with +, - or ^ changes our own list. Empty
	// means our own list.
	HostKeyAlgorithms        []string
	KexAlgorithms            []string
	Ciphers                  []string
	MACs                     []string
	PubkeyAcceptedAlgorithms []string

	Source   string            // openssh or builtin: who read the configuration
	From     map[string]string // where a value came from, by its name in Resolved
	Warnings []string
}

// Addr is host:port.
func (t *Target) Addr() string { return net.JoinHostPort(t.HostName, strconv.Itoa(t.Port)) }

// connectLimit is ConnectTimeout, or 10 s: OpenSSH would wait for as long as TCP does, over two minutes.
func (t *Target) connectLimit() time.Duration {
	if t.ConnectTimeout > 0 {
		return t.ConnectTimeout
	}
	return 10 * time.Second
}

// knownName is the name that known_hosts has this target under.
func (t *Target) knownName() string {
	if t.HostKeyAlias != "" {
		return strings.ToLower(t.HostKeyAlias)
	}
	return withPort(strings.ToLower(t.HostName), t.Port)
}

// withPort is a host as known_hosts writes it: "spark", or "[spark]:2222" if the port is not SSH's own.
func withPort(host string, port int) string {
	if port == 22 {
		return host
	}
	return "[" + host + "]:" + strconv.Itoa(port)
}

// Resolved is the answer of rlca profile show --resolved --json: values as `ssh -G` prints them, with ~ and tokens
// expanded. A time of 0 means that nothing was configured.
type Resolved struct {
	Host                  string   `json:"host"`
	Hostname              string   `json:"hostname"`
	User                  string   `json:"user"`
	Port                  int      `json:"port"`
	IdentityFiles         []string `json:"identity_files"`
	CertificateFiles      []string `json:"certificate_files"`
	IdentityAgent         string   `json:"identity_agent"`
	Jumps                 []string `json:"jumps"`
	ProxyCommand          string   `json:"proxy_command"`
	HostKeyAlias          string   `json:"host_key_alias"`
	UserKnownHostsFiles   []string `json:"user_known_hosts_files"`
	GlobalKnownHostsFiles []string `json:"global_known_hosts_files"`
	StrictHostKeyChecking string   `json:"strict_host_key_checking"` // ask, accept-new, true, false
	ConnectTimeoutS       int      `json:"connect_timeout_s"`
	ServerAliveIntervalS  int      `json:"server_alive_interval_s"`
	ServerAliveCountMax   int      `json:"server_alive_count_max"`
	Source                string   `json:"source"`
	Warnings              []string `json:"warnings"`
	// From says of each field above, by its JSON name, where its value came from: "profile or command line",
	// "ssh -G", "~/.ssh/config:12" or "default".
	From map[string]string `json:"from"`
}

// resolvedKeys are the values that From speaks of.
var resolvedKeys = []string{"hostname", "user", "port", "identity_files", "certificate_files", "identity_agent", "jumps", "proxy_command",
	"host_key_alias", "user_known_hosts_files", "global_known_hosts_files", "strict_host_key_checking", "connect_timeout_s",
	"server_alive_interval_s", "server_alive_count_max"}

// resolvedName maps a keyword of ssh_config to its name in Resolved.
var resolvedName = map[string]string{
	"hostname": "hostname", "user": "user", "port": "port", "identityfile": "identity_files", "certificatefile": "certificate_files",
	"identityagent": "identity_agent", "proxyjump": "jumps", "proxycommand": "proxy_command", "hostkeyalias": "host_key_alias",
	"userknownhostsfile": "user_known_hosts_files", "globalknownhostsfile": "global_known_hosts_files",
	"stricthostkeychecking": "strict_host_key_checking", "connecttimeout": "connect_timeout_s",
	"serveraliveinterval": "server_alive_interval_s", "serveralivecountmax": "server_alive_count_max",
}

// Resolved gives the target as others may read it: lists are never null.
func (t *Target) Resolved() Resolved {
	list := func(s []string) []string { return append([]string{}, s...) }
	strict := t.StrictHostKeyChecking
	switch strict {
	case "yes":
		strict = "true"
	case "no":
		strict = "false"
	}
	proxy := t.ProxyCommand
	if proxy != "" {
		proxy, _ = t.proxyTokens(proxy)
	}
	return Resolved{
		Host: t.Host, Hostname: t.HostName, User: t.User, Port: t.Port,
		IdentityFiles: list(t.IdentityFiles), CertificateFiles: list(t.CertificateFiles), IdentityAgent: t.IdentityAgent,
		Jumps: list(t.Jumps), ProxyCommand: proxy, HostKeyAlias: t.HostKeyAlias,
		UserKnownHostsFiles: list(t.UserKnownHostsFiles), GlobalKnownHostsFiles: list(t.GlobalKnownHostsFiles),
		StrictHostKeyChecking: strict, ConnectTimeoutS: int(t.ConnectTimeout / time.Second),
		ServerAliveIntervalS: int(t.ServerAliveInterval / time.Second), ServerAliveCountMax: t.ServerAliveCountMax,
		Source: t.Source, Warnings: list(t.Warnings), From: t.From,
	}
}

// set takes the value of one keyword, in lower case, as its arguments. It returns what is wrong with the value.
func (t *Target) set(key string, args []string) (problem string) {
	if len(args) == 0 || args[0] == "" {
		return "has no value"
	}
	if now, ok := olderName[key]; ok {
		key = now
	}
	val := args[0]
	orNone := val
	if strings.EqualFold(val, "none") {
		orNone = ""
	}
	switch key {
	case "hostname":
		t.HostName = val
	case "user":
		t.User = val
	case "port":
		n, err := strconv.Atoi(val)
		if err != nil {
			n, err = net.LookupPort("tcp", val)
		}
		if err != nil || n < 1 || n > 65535 {
			return "is not a port"
		}
		t.Port = n
	case "identityfile":
		t.IdentityFiles = appendNew(t.IdentityFiles, orNone)
	case "certificatefile":
		t.CertificateFiles = appendNew(t.CertificateFiles, orNone)
	case "identityagent":
		t.IdentityAgent = val
	case "identitiesonly":
		t.IdentitiesOnly = isYes(val)
	case "preferredauthentications":
		t.PreferredAuthentications = strings.Split(val, ",")
	case "pubkeyauthentication":
		return setNo(&t.NoPublicKey, val, "unbound", "host-bound")
	case "kbdinteractiveauthentication":
		return setNo(&t.NoKbdInteractive, val)
	case "passwordauthentication":
		return setNo(&t.NoPassword, val)
	case "numberofpasswordprompts":
		n, err := strconv.Atoi(val)
		if err != nil || n < 0 {
			return "is not a number"
		}
		if t.PasswordPrompts = n; n == 0 {
			t.PasswordPrompts = -1
		}
	case "proxyjump":
		if orNone != "" {
			t.Jumps = strings.Split(val, ",")
		}
	case "proxycommand":
		t.ProxyCommand = orNone
	case "addressfamily":
		t.AddressFamily = strings.ToLower(val)
	case "bindaddress":
		t.BindAddress = val
	case "hostkeyalias":
		t.HostKeyAlias = val
	case "userknownhostsfile":
		t.UserKnownHostsFiles = withoutNone(args)
	case "globalknownhostsfile":
		t.GlobalKnownHostsFiles = withoutNone(args)
	case "revokedhostkeys":
		t.RevokedHostKeys = orNone
	case "stricthostkeychecking":
		switch v := strings.ToLower(val); v {
		case "true", "yes":
			t.StrictHostKeyChecking = "yes"
		case "false", "no", "off":
			t.StrictHostKeyChecking = "no"
		case "ask", "accept-new":
			t.StrictHostKeyChecking = v
		default:
			return "is not yes, no, ask or accept-new"
		}
	case "hashknownhosts":
		t.HashKnownHosts = isYes(val)
	case "connecttimeout":
		return setTime(&t.ConnectTimeout, orNone)
	case "serveraliveinterval":
		return setTime(&t.ServerAliveInterval, orNone)
	case "serveralivecountmax":
		n, err := strconv.Atoi(val)
		if err != nil || n < 0 {
			return "is not a number"
		}
		t.ServerAliveCountMax = n
	case "nohostauthenticationforlocalhost":
		t.NoHostAuthLocalhost = isYes(val)
	case "knownhostscommand":
		t.KnownHostsCommand = orNone
	case "pkcs11provider":
		t.PKCS11Provider = orNone
	case "gssapiauthentication":
		t.GSSAPI = isYes(val)
	case "hostkeyalgorithms":
		t.HostKeyAlgorithms = strings.Split(val, ",")
	case "kexalgorithms":
		t.KexAlgorithms = strings.Split(val, ",")
	case "ciphers":
		t.Ciphers = strings.Split(val, ",")
	case "macs":
		t.MACs = strings.Split(val, ",")
	case "pubkeyacceptedalgorithms":
		t.PubkeyAcceptedAlgorithms = strings.Split(val, ",")
	}
	return ""
}

func isYes(s string) bool { return strings.EqualFold(s, "yes") || strings.EqualFold(s, "true") }

// setNo takes a switch that is on unless somebody says no. also are further words for on.
func setNo(off *bool, s string, also ...string) (problem string) {
	switch s = strings.ToLower(s); {
	case s == "no" || s == "false":
		*off = true
	case s == "yes" || s == "true" || slices.Contains(also, s):
		*off = false
	default:
		return "is not yes or no"
	}
	return ""
}

// olderName maps the old names of a keyword to the one that it has now.
var olderName = map[string]string{
	"challengeresponseauthentication": "kbdinteractiveauthentication", "skeyauthentication": "kbdinteractiveauthentication",
	"tisauthentication": "kbdinteractiveauthentication", "dsaauthentication": "pubkeyauthentication",
	"pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// withoutNone makes an empty list of "none"; it is not nil, so that no default fills it.
func withoutNone(args []string) []string {
	if len(args) == 1 && strings.EqualFold(args[0], "none") {
		return []string{}
	}
	return args
}

func setTime(d *time.Duration, s string) (problem string) {
	if s == "" {
		*d = 0
		return ""
	}
	v, ok := parseTime(s)
	if !ok {
		return "is not a time"
	}
	*d = v
	return ""
}

// parseTime reads a time as sshd_config(5) describes it: 30, 30s, 1m, 1h30m, 2d, 1w.
func parseTime(s string) (time.Duration, bool) {
	const most = 365 * 24 * time.Hour // no limit that anybody means is longer
	var sum time.Duration
	for s != "" {
		i := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		n, err := strconv.ParseInt(s[:i], 10, 32)
		if err != nil {
			return 0, false
		}
		unit := time.Second
		if i < len(s) {
			switch s[i] | 0x20 {
			case 's':
			case 'm':
				unit = time.Minute
			case 'h':
				unit = time.Hour
			case 'd':
				unit = 24 * time.Hour
			case 'w':
				unit = 7 * 24 * time.Hour
			default:
				return 0, false
			}
			i++
		}
		sum += time.Duration(min(n, int64(most/unit))) * unit
		s = s[i:]
	}
	return min(sum, most), true
}
