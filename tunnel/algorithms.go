package tunnel

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// hostKeyOrder is OpenSSH's own (myproposal.h), as far as it is built in, without SHA-1 and DSA.
var hostKeyOrder = []string{
	ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// acceptedSignatures are what our own keys may sign with.
var acceptedSignatures = append([]string{
	ssh.KeyAlgoSKED25519, ssh.CertAlgoSKED25519v01, ssh.KeyAlgoSKECDSA256, ssh.CertAlgoSKECDSA256v01,
}, hostKeyOrder...)

// algorithms chooses what is offered to a server: everything that is built in and not broken, or what ssh_config
// asks for of what is built in.
func algorithms(t *Target) (ssh.Algorithms, error) {
	good, weak := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	var a ssh.Algorithms
	for _, l := range []struct {
		what            string
		to              *[]string
		ours, can, want []string
	}{
		{"KexAlgorithms", &a.KeyExchanges, good.KeyExchanges, slices.Concat(good.KeyExchanges, weak.KeyExchanges, []string{"curve25519-sha256@libssh.org"}), t.KexAlgorithms},
		{"Ciphers", &a.Ciphers, good.Ciphers, slices.Concat(good.Ciphers, weak.Ciphers), t.Ciphers},
		{"MACs", &a.MACs, withoutSHA1(good.MACs), slices.Concat(good.MACs, weak.MACs), t.MACs},
		{"HostKeyAlgorithms", &a.HostKeys, hostKeyOrder, slices.Concat(good.HostKeys, weak.HostKeys), t.HostKeyAlgorithms},
	} {
		list := slices.DeleteFunc(slices.Clone(applyList(l.ours, l.want)), func(s string) bool { return !slices.Contains(l.can, s) })
		if len(list) == 0 {
			return a, &ConfigError{Host: t.Host, Msg: fmt.Sprintf("none of the %s of ssh_config is built in: %s", l.what, clean(strings.Join(l.want, ",")))}
		}
		*l.to = list
	}
	a.Ciphers = fastFirst(a.Ciphers)
	return a, nil
}

func withoutSHA1(list []string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return strings.Contains(s, "sha1") })
}

// applyList reads a list as ssh_config(5) describes it: +a,b adds, -a,b takes away, ^a,b puts in front, and anything
// else stands in place of our own.
func applyList(ours, want []string) []string {
	if len(want) == 0 || want[0] == "" {
		return ours
	}
	rest := append([]string{want[0][1:]}, want[1:]...)
	switch want[0][0] {
	case '+':
		return unique(slices.Concat(ours, rest))
	case '^':
		return unique(slices.Concat(rest, ours))
	case '-':
		return slices.DeleteFunc(slices.Clone(ours), func(s string) bool { return hostMatches(rest, s) })
	}
	return want
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		out = appendNew(out, s)
	}
	return out
}

// fastFirst puts AES-GCM before ChaCha20 in OpenSSH's default list if this machine computes AES in hardware: there it
// moves twice as many bytes a second. A list that somebody wrote is left as it is.
func fastFirst(ciphers []string) []string {
	if len(ciphers) < 6 || ciphers[0] != ssh.CipherChaCha20Poly1305 || !hardwareAES() {
		return ciphers
	}
	var fast, rest []string
	for _, c := range ciphers {
		if c == ssh.CipherAES128GCM || c == ssh.CipherAES256GCM {
			fast = append(fast, c)
		} else {
			rest = append(rest, c)
		}
	}
	return append(fast, rest...)
}

func hardwareAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	}
	return false
}
