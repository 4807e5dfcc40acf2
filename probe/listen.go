package probe

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// listen reads the listeners: ss, netstat of Linux, BSD or Windows, lsof, or the kernel's own table. Only the local
// address is judged: a firewall may close what is open here.
func (r *Report) listen(a *answer) {
	var l Listener
	name := ""
	for line := range strings.SplitSeq(a.text("lsof"), "\n") {
		if line == "" {
			continue
		}
		if strings.Contains(line, "(LISTEN)") { // without -F
			r.lsofLine(line)
			continue
		}
		switch line[0] {
		case 'p':
			l.pid, _ = strconv.Atoi(line[1:])
			name = ""
		case 'c':
			name = line[1:]
		case 'n':
			if host, port, ok := splitAddr(line[1:], ':'); ok {
				r.addListener("lsof", host, port, name, l.pid)
			}
		}
	}
	for line := range strings.SplitSeq(a.text("listen"), "\n") {
		r.socketLine(line)
	}
	for line := range strings.SplitSeq(a.text("proctcp"), "\n") {
		w := strings.Fields(line)
		if len(w) > 3 && w[3] == "0A" {
			if host, port, ok := hexAddr(w[1]); ok {
				r.addListener("proctcp", host, port, "", 0)
			}
		}
	}
	if r.OS == "windows" { // netstat tells the number alone
		running, _ := processes(a.text("procs"))
		for i := range r.Listeners {
			l := &r.Listeners[i]
			j := slices.IndexFunc(running, func(p process) bool { return p.pid == l.pid })
			if l.pid != 0 && l.Process == nil && j >= 0 {
				l.Process, l.From = &running[j].name, origin(l.From, "procs")
			}
		}
	}
}

// lsofLine reads "ollama 537 me 4u IPv6 0xf3ef 0t0 TCP *:11434 (LISTEN)".
func (r *Report) lsofLine(line string) {
	w := strings.Fields(line)
	i := slices.Index(w, "(LISTEN)")
	if i < 3 {
		return
	}
	if host, port, ok := splitAddr(w[i-1], ':'); ok {
		pid, _ := strconv.Atoi(w[1])
		r.addListener("lsof", host, port, strings.ReplaceAll(w[0], `\x20`, " "), pid)
	}
}

// socketLine reads a row of ss -ltnp, netstat -ltnp, a Mac's netstat -an or netstat -ano of Windows: the local address
// is the first word that is one. A Mac writes 127.0.0.1.11434.
func (r *Report) socketLine(line string) {
	w := strings.Fields(line)
	if len(w) < 3 {
		return
	}
	for i, word := range w {
		host, port, ok := splitAddr(word, ':')
		if !ok && w[len(w)-1] == "LISTEN" {
			host, port, ok = splitAddr(word, '.')
		}
		if !ok {
			continue
		}
		process, pid, ok := owner(w, i)
		if ok {
			r.addListener("listen", host, port, process, pid)
		}
		return
	}
}

// owner reads what stands behind the local address, the word i: the other address, a state, and who it is. The state
// is LISTEN, a word of Windows' language, or missing; then only a TCP row whose other address is nobody's listens.
func owner(w []string, i int) (process string, pid int, ok bool) {
	rest := w[i+1:]
	if slices.Contains(w, "LISTEN") {
		line := strings.Join(rest, " ")
		if _, after, ok := strings.Cut(line, `users:(("`); ok {
			process, after, _ = strings.Cut(after, `"`)
			after, _, _ = strings.Cut(strings.TrimPrefix(after, ",pid="), ",")
			pid, _ = strconv.Atoi(after)
		} else if _, after, ok := strings.Cut(line, "LISTEN "); ok { // 812/ollama
			process, pid = program(after)
		}
		return process, pid, true
	}
	if !strings.HasPrefix(strings.ToLower(w[0]), "tcp") || len(rest) == 0 {
		return "", 0, false
	}
	switch other, after := rest[0], rest[1:]; {
	case other == "0.0.0.0:0", other == "[::]:0": // Windows
		if len(after) > 0 {
			pid, _ = strconv.Atoi(after[len(after)-1])
		}
		return "", max(0, pid), true
	case !strings.HasSuffix(other, ":*"):
		return "", 0, false
	case len(after) == 0, after[0] == "-":
		return "", 0, true
	case strings.Contains(after[0], "/"):
		process, pid = program(strings.Join(after, " "))
		return process, pid, true
	}
	return "", 0, false
}

// program takes "812/ollama" and "447/sshd: /usr/sbin" apart.
func program(s string) (name string, pid int) {
	before, after, _ := strings.Cut(s, "/")
	pid, _ = strconv.Atoi(before)
	name, _, _ = strings.Cut(after, ": ")
	return strings.TrimSuffix(strings.TrimSpace(name), ":"), max(0, pid)
}

// splitAddr takes 127.0.0.1:11434, *:22, [::1]:80, :::22, 127.0.0.53%lo:53 apart at the last colon, or dot.
func splitAddr(s string, sep byte) (host string, port int, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return "", 0, false
	}
	port, err := strconv.Atoi(s[i+1:])
	if err != nil || port < 1 || port > 65535 {
		return "", 0, false
	}
	host, _, _ = strings.Cut(s[:i], "%")
	host = strings.Trim(host, "[]")
	if host != "*" {
		if _, err := netip.ParseAddr(host); err != nil {
			return "", 0, false
		}
	}
	return host, port, true
}

// hexAddr reads the kernel's form: bytes of each 32-bit word in the machine's order, the port in hex.
func hexAddr(s string) (host string, port int, ok bool) {
	h, p, found := strings.Cut(s, ":")
	raw, err := hex.DecodeString(h)
	n, err2 := strconv.ParseUint(p, 16, 16)
	if !found || err != nil || err2 != nil || n == 0 || len(raw) != 4 && len(raw) != 16 {
		return "", 0, false
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	return net.IP(raw).String(), int(n), true
}

func exposed(host string) bool {
	a, err := netip.ParseAddr(host)
	return err != nil || !a.Unmap().IsLoopback()
}

func (r *Report) addListener(from, host string, port int, process string, pid int) {
	if len(r.Listeners) >= maxRows || slices.ContainsFunc(r.Listeners, func(o Listener) bool { return o.Address == host && o.Port == port }) {
		return
	}
	l := Listener{Address: host, Port: port, Exposed: exposed(host), From: from, pid: pid}
	if process != "" {
		l.Process = &process
	}
	r.Listeners = append(r.Listeners, l)
}
