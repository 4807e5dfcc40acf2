package remote

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// listener is one address on which the box accepts TCP. Any interface is the zero address, "*" when both families.
type listener struct {
	addr netip.Addr
	port uint16
}

func (l listener) loopback() bool { return l.addr.Unmap().IsLoopback() }

func (l listener) String() string {
	host := l.addr.Unmap().String()
	if l.addr.IsUnspecified() && l.addr.Is6() {
		host = "*"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(l.port)))
}

// listenersScript needs no rights and no tool of the network on Linux; elsewhere netstat lists the sockets of all
// users, lsof only ours. A shell reads /proc byte by byte, which takes seconds where it is long: grep goes first.
const listenersScript = `
if [ -r /proc/net/tcp ]; then
  say listeners proc
  for f in /proc/net/tcp /proc/net/tcp6; do
    grep ' 0A ' $f 2>/dev/null | while read -r x l y s z; do [ "$s" = 0A ] && say listen "$l"; done
  done
elif command -v netstat >/dev/null 2>&1; then
  say listeners netstat
  netstat -an 2>/dev/null | grep LISTEN | while read -r l; do say listen "$l"; done
elif command -v lsof >/dev/null 2>&1; then
  say listeners lsof
  lsof -nP -iTCP -sTCP:LISTEN 2>/dev/null | grep LISTEN | while read -r l; do say listen "$l"; done
fi
`

// parseListeners reads what listenersScript said. known is false if the box has no way to tell.
func parseListeners(a *answer) (known bool, list []listener) {
	kind := a.get("listeners")
	for _, line := range a.lines["listen"] {
		l, ok := parseListener(kind, line)
		if ok {
			list = append(list, l)
		}
	}
	return kind != "", list
}

func parseListener(kind, line string) (listener, bool) {
	switch kind {
	case "proc":
		return parseProc(line)
	case "netstat": // tcp4 0 0 127.0.0.1.11434 *.* LISTEN
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[0], "tcp") || f[5] != "LISTEN" {
			return listener{}, false
		}
		sep := strings.LastIndexAny(f[3], ".:")
		if sep < 0 {
			return listener{}, false
		}
		return hostPort(f[3][:sep], f[3][sep+1:], strings.Contains(f[0], "6"))
	case "lsof": // ollama 123 me 5u IPv4 0x1 0t0 TCP 127.0.0.1:11434 (LISTEN)
		f := strings.Fields(line)
		for i, w := range f {
			if w == "TCP" && i+1 < len(f) {
				sep := strings.LastIndexByte(f[i+1], ':')
				if sep < 0 {
					return listener{}, false
				}
				return hostPort(f[i+1][:sep], f[i+1][sep+1:], strings.Contains(line, "IPv6"))
			}
		}
	}
	return listener{}, false
}

func hostPort(host, port string, six bool) (listener, bool) {
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return listener{}, false
	}
	host = strings.Trim(host, "[]")
	if host == "*" {
		host = "0.0.0.0"
		if six {
			host = "::"
		}
	}
	host, _, _ = strings.Cut(host, "%")
	addr, err := netip.ParseAddr(host)
	return listener{addr, uint16(p)}, err == nil
}

// parseProc reads an address of /proc/net/tcp: 32-bit words in the byte order of the machine, then the port.
// All machines that serve models are little endian.
func parseProc(s string) (listener, bool) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	raw, err2 := hex.DecodeString(host)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return listener{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return listener{addr, uint16(p)}, ok
}

// bound says who can reach a port: nil if unknown, else whether only loopback does, and the open addresses.
func (f *facts) bound(port uint16) (loopback *bool, exposed []string) {
	if !f.listenersKnown {
		return nil, nil
	}
	found := false
	for _, l := range f.listeners {
		if l.port != port {
			continue
		}
		found = true
		if !l.loopback() {
			exposed = append(exposed, l.String())
		}
	}
	if !found {
		return nil, nil // it answered, so the table does not show everything
	}
	only := len(exposed) == 0
	return &only, exposed
}

// busy reports whether the table shows a listener on port.
func (f *facts) busy(port uint16) bool {
	for _, l := range f.listeners {
		if l.port == port {
			return true
		}
	}
	return false
}
