package remote

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// hub is the registry that Ollama means when a name has none. It is never written in names, but in paths.
const hub = "registry.ollama.ai"

// canonical writes a model's name in full, as a key: lower case, with its tag, without the parts that are implied.
func canonical(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	name = strings.TrimPrefix(name, "https://")
	name = strings.TrimPrefix(name, hub+"/")
	name = strings.TrimPrefix(name, "library/")
	if !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		name += ":latest"
	}
	return name
}

func sameName(a, b string) bool { return canonical(a) == canonical(b) }

// derivedName is the name of a copy of base with a context of its own: "qwen3-coder:30b-rlca64k".
func derivedName(base string, context int) string {
	if !strings.Contains(base[strings.LastIndexByte(base, '/')+1:], ":") {
		base += ":latest"
	}
	if context%1024 == 0 {
		return fmt.Sprintf("%s-rlca%dk", base, context/1024)
	}
	return fmt.Sprintf("%s-rlca%d", base, context)
}

// baseOf is the name that derivedName was given, or name itself.
func baseOf(name string) string {
	i := strings.LastIndex(name, "-rlca")
	if i < 0 {
		return name
	}
	digits := strings.TrimSuffix(name[i+len("-rlca"):], "k")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return name
	}
	return name[:i]
}

// insecureHost reports whether a model's name leads to a registry on a loopback address, which has no TLS.
func insecureHost(name string) bool {
	host, _, ok := strings.Cut(name, "/")
	if !ok {
		return false
	}
	if ap, err := netip.ParseAddrPort(host); err == nil {
		return ap.Addr().IsLoopback()
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// near lists the names that resemble want, best first, at most five.
func near(want string, names []string) []string {
	want = canonical(want)
	type scored struct {
		name  string
		score int
	}
	var list []scored
	for _, n := range names {
		list = append(list, scored{n, resemblance(want, canonical(n))})
	}
	slices.SortStableFunc(list, func(a, b scored) int { return b.score - a.score })
	var out []string
	for _, s := range list[:min(len(list), 5)] {
		out = append(out, s.name)
	}
	return out
}

// resemblance counts the pairs of neighbouring letters that two names share; a common model part counts most.
func resemblance(a, b string) int {
	score := 0
	if ma, mb := modelPart(a), modelPart(b); ma == mb {
		score += 100
	} else if strings.HasPrefix(mb, ma) || strings.HasPrefix(ma, mb) {
		score += 50
	}
	pairs := map[string]int{}
	for i := 0; i+2 <= len(a); i++ {
		pairs[a[i:i+2]]++
	}
	for i := 0; i+2 <= len(b); i++ {
		if pairs[b[i:i+2]] > 0 {
			pairs[b[i:i+2]]--
			score++
		}
	}
	return score
}

func modelPart(name string) string {
	model, _, _ := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
	return model
}
