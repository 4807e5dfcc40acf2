package tunnel

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// holder names the process that listens where addr wants to, as "ollama (pid 812)"; empty if it cannot be told, as
// for a process of another user. It asks /proc on Linux, netstat on Windows, and lsof elsewhere.
func holder(addr netip.AddrPort) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	switch runtime.GOOS {
	case "linux":
		var sockets []string
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			text, err := os.ReadFile(table)
			if err == nil {
				sockets = append(sockets, readProcNet(string(text), addr)...)
			}
		}
		return ownerOf(sockets)
	case "windows":
		out, err := exec.CommandContext(ctx, "netstat", "-ano").Output()
		if err != nil {
			return ""
		}
		return readNetstat(string(out), addr)
	}
	// A program without the right to see all says so with its exit code and tells the rest.
	out, _ := exec.CommandContext(ctx, "lsof", "-nP", fmt.Sprintf("-iTCP:%d", addr.Port()), "-sTCP:LISTEN", "-F", "pcn").Output()
	return readLsof(string(out), addr)
}

// inTheWay reports whether a listener at has keeps want from being opened: it is at the same address, or at all.
func inTheWay(has, want netip.AddrPort) bool {
	a := has.Addr().Unmap()
	return has.Port() == want.Port() && (a == want.Addr() || a == netip.IPv6Unspecified() || a.IsUnspecified() && want.Addr().Is4())
}

// readProcNet finds listeners in the text of /proc/net/tcp or tcp6 (proc(5)), and names their sockets as
// /proc/PID/fd does: "socket:[4711]".
func readProcNet(text string, want netip.AddrPort) (sockets []string) {
	for line := range strings.Lines(text) {
		const local, state, inode, listening = 1, 3, 9, "0A"
		w := strings.Fields(line)
		if len(w) <= inode || w[state] != listening {
			continue
		}
		if has, ok := procAddr(w[local]); ok && inTheWay(has, want) {
			sockets = append(sockets, "socket:["+w[inode]+"]")
		}
	}
	return sockets
}

// procAddr reads "0100007F:2CAA": words of 32 bits in the order of the machine, and the port as a number.
func procAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	ip, err := hex.DecodeString(host)
	n, err2 := hex.DecodeString(port)
	if err != nil || err2 != nil || len(ip)%4 != 0 || len(n) != 2 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(ip); i += 4 {
		binary.BigEndian.PutUint32(ip[i:], binary.NativeEndian.Uint32(ip[i:]))
	}
	addr, ok := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(n)), ok
}

// ownerOf finds whose file descriptor a socket is.
func ownerOf(sockets []string) string {
	if len(sockets) == 0 {
		return ""
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			continue // gone, or another user's
		}
		for _, s := range sockets {
			if to == s {
				pid := strings.Split(fd, "/")[2]
				name, _ := os.ReadFile("/proc/" + pid + "/comm")
				return process(string(name), pid)
			}
		}
	}
	return ""
}

// readNetstat finds a listener in what netstat -ano prints on Windows, whose words for the state are in the user's
// language: a listener is the one without a port on the other side.
func readNetstat(text string, want netip.AddrPort) string {
	for line := range strings.Lines(text) {
		w := strings.Fields(line) // TCP, local address, foreign address, state, pid
		if len(w) < 5 || w[0] != "TCP" || !strings.HasSuffix(w[2], ":0") {
			continue
		}
		if has, err := netip.ParseAddrPort(w[1]); err == nil && inTheWay(has, want) {
			return process("", w[len(w)-1])
		}
	}
	return ""
}

// readLsof finds a listener in what lsof -F pcn prints: lines of a letter and a value, p and c for a process, and n
// for each of its sockets.
func readLsof(text string, want netip.AddrPort) string {
	var pid, name, found string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		switch value := line[1:]; line[0] {
		case 'p':
			pid, name = value, ""
		case 'c':
			name = value
		case 'n':
			all := strings.HasPrefix(value, "*:")
			if all {
				value = "[::]" + value[1:] // of which family it does not say
			}
			has, err := netip.ParseAddrPort(value)
			if err != nil || !inTheWay(has, want) {
				continue
			}
			if !all {
				return process(name, pid)
			}
			if found == "" {
				found = process(name, pid)
			}
		}
	}
	return found
}

func process(name, pid string) string {
	if name = clean(name); name == "" {
		return "pid " + clean(pid)
	}
	return fmt.Sprintf("%s (pid %s)", name, clean(pid))
}
