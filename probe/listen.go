package probe

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// listen reads the listeners: ss, netstat of Linux or BSD, lsof, or the kernel's own table. Only the local address is
// judged.
func (r *Report) listen(a *answer) {
	var l Listener
	name := ""
	for line := range strings.SplitSeq(a.text("lsof"), "\n") {
		if line == "" {
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
				r.addListener(host, port, name, l.pid)
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
				r.addListener(host, port, "", 0)
			}
		}
	}
}

// socketLine reads a row of ss -ltnp, netstat -ltnp or a Mac's netstat -an: the local address is the first word that
// is one. A Mac writes 127.0.0.1.11434.
func (r *Report) socketLine(line string) {
	w := strings.Fields(line)
	if !slices.Contains(w, "LISTEN") {
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
		process, pid := "", 0
		rest := strings.Join(w[i+1:], " ")
		if _, after, ok := strings.Cut(rest, `users:(("`); ok {
			process, after, _ = strings.Cut(after, `"`)
			after, _, _ = strings.Cut(strings.TrimPrefix(after, ",pid="), ",")
			pid, _ = strconv.Atoi(after)
		} else if _, owner, ok := strings.Cut(rest, " LISTEN "); ok { // 812/ollama
			before, after, _ := strings.Cut(owner, "/")
			pid, _ = strconv.Atoi(before)
			process = strings.TrimSuffix(after, ":")
		}
		r.addListener(host, port, process, pid)
		return
	}
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

func (r *Report) addListener(host string, port int, process string, pid int) {
	if len(r.Listeners) >= maxRows || slices.ContainsFunc(r.Listeners, func(o Listener) bool { return o.Address == host && o.Port == port }) {
		return
	}
	l := Listener{Address: host, Port: port, Exposed: exposed(host), pid: pid}
	if process != "" {
		l.Process = &process
	}
	r.Listeners = append(r.Listeners, l)
}
