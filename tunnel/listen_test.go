package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		l.Close()
	}
}

func TestListenRefuses(t *testing.T) {
	for addr, word := range map[string]string{
		"0.0.0.0:0":         "only addresses of loopback",
		":0":                "only addresses of loopback",
		"[::]:0":            "only addresses of loopback",
		"192.0.2.1:0":       "only addresses of loopback",
		"example.com:0":     "only addresses of loopback",
		"":                  "missing port",
		"127.0.0.1":         "missing port",
		"127.0.0.1:":        "not a port",
		"127.0.0.1:http":    "not a port",
		"127.0.0.1:-1":      "not a port",
		"127.0.0.1:65536":   "not a port",
		"127.0.0.1:1:1":     "too many colons",
		"[::ffff:0.0.0.0]:": "only addresses of loopback",
	} {
		ls, err := Listen(addr)
		closeAll(ls)
		if err == nil || !strings.Contains(err.Error(), word) || !strings.HasPrefix(err.Error(), "listen on "+addr) {
			t.Errorf("Listen(%q) = %v, want an error with %q", addr, err, word)
		}
	}
}

func TestListen(t *testing.T) {
	six := hasLoopback6()
	for addr, want := range map[string][]string{
		"127.0.0.1:0":          {"127.0.0.1", "::1"},
		"localhost:0":          {"127.0.0.1", "::1"},
		"[::ffff:127.0.0.1]:0": {"127.0.0.1", "::1"},
		"[::1]:0":              {"::1"},
	} {
		if !six {
			want = slices.DeleteFunc(want, func(s string) bool { return s == "::1" })
		}
		if len(want) == 0 {
			continue
		}
		ls, err := Listen(addr)
		if err != nil {
			t.Errorf("Listen(%q) = %v", addr, err)
			continue
		}
		var got []string
		for _, l := range ls {
			a := l.Addr().(*net.TCPAddr)
			got = append(got, a.IP.String())
			if a.Port != ls[0].Addr().(*net.TCPAddr).Port {
				t.Errorf("Listen(%q) opened different ports: %v and %v", addr, ls[0].Addr(), a)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("Listen(%q) opened %v, want %v", addr, got, want)
		}
		closeAll(ls)
	}
}

// A port that somebody has is an error that names the address and, where it can be told, the holder; nothing stays
// open.
func TestListenTaken(t *testing.T) {
	for _, has := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", has)
		if err != nil {
			t.Logf("%s: %v", has, err)
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port
		at := fmt.Sprintf("127.0.0.1:%d", port)
		if has == "[::1]:0" {
			at = fmt.Sprintf("[::1]:%d", port)
		}
		if has == "0.0.0.0:0" && runtime.GOOS != "linux" {
			l.Close()
			continue // elsewhere one address may be opened beside all of them
		}
		_, err = Listen(fmt.Sprintf("127.0.0.1:%d", port))
		var taken *PortTakenError
		if !errors.As(err, &taken) || taken.Addr != at {
			t.Errorf("Listen while %s is taken: %v, want a *PortTakenError of %s", l.Addr(), err, at)
		} else if us := fmt.Sprintf("(pid %d)", os.Getpid()); runtime.GOOS == "linux" && !strings.HasSuffix(err.Error(), us) {
			t.Errorf("Listen while %s is taken: %v, want this process %s named", l.Addr(), err, us)
		}
		l.Close()
		if ls, err := Listen(fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			t.Errorf("after it is free again: %v: something stayed open", err)
		} else {
			closeAll(ls)
		}
	}
}

func TestInTheWay(t *testing.T) {
	for _, c := range []struct {
		has, want string
		in        bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"127.0.0.1:80", "[::1]:80", false},
		{"127.0.0.2:80", "127.0.0.1:80", false},
		{"0.0.0.0:80", "127.0.0.1:80", true},
		{"0.0.0.0:80", "[::1]:80", false},
		{"[::]:80", "127.0.0.1:80", true},
		{"[::]:80", "[::1]:80", true},
		{"[::ffff:127.0.0.1]:80", "127.0.0.1:80", true},
		{"[::1]:80", "127.0.0.1:80", false},
	} {
		if got := inTheWay(netip.MustParseAddrPort(c.has), netip.MustParseAddrPort(c.want)); got != c.in {
			t.Errorf("inTheWay(%s, %s) = %v, want %v", c.has, c.want, got, c.in)
		}
	}
}

// What the system tells of its listeners.
const (
	procNet = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5001 1 0000000000000000 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5002 1 0000000000000000 100 0 0 10 0
   2: 0100007F:2CAA 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 5003 1 0000000000000000 20 4 30 10 -1
`
	procNet6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:2CAA 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 6001 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 6002 1 0000000000000000 100 0 0 10 0
`
	lsofText = "p812\ncollama\nf3\nn127.0.0.1:11434\np900\ncnode\nf20\nn[::1]:11434\nf21\nn*:3000\np901\ncnginx\nf6\nn127.0.0.1:3000\n"

	netstatText = "\r\nAktive Verbindungen\r\n\r\n  Proto  Lokale Adresse         Remoteadresse          Status           PID\r\n" +
		"  TCP    127.0.0.1:11434        0.0.0.0:0              ABHÖREN         4321\r\n" +
		"  TCP    127.0.0.1:11434        127.0.0.1:50000        HERGESTELLT     9999\r\n" +
		"  TCP    0.0.0.0:22             0.0.0.0:0              ABHÖREN         1200\r\n" +
		"  TCP    [::1]:11434            [::]:0                 ABHÖREN         4322\r\n" +
		"  UDP    127.0.0.1:11434        *:*                                    77\r\n"
)

func TestHolderTables(t *testing.T) {
	for _, c := range []struct{ want, proc, lsof, netstat string }{
		{"127.0.0.1:11434", "socket:[5001]", "ollama (pid 812)", "pid 4321"},
		{"[::1]:11434", "socket:[6001]", "node (pid 900)", "pid 4322"},
		{"127.0.0.1:22", "socket:[5002] socket:[6002]", "", "pid 1200"},
		{"[::1]:22", "socket:[6002]", "", ""},
		{"127.0.0.1:3000", "", "nginx (pid 901)", ""},
		{"[::1]:3000", "", "node (pid 900)", ""},
		{"127.0.0.1:1", "", "", ""},
	} {
		want := netip.MustParseAddrPort(c.want)
		if runtime.GOARCH != "s390x" && runtime.GOARCH != "ppc64" { // the table is of a machine of the other order
			if got := strings.Join(append(readProcNet(procNet, want), readProcNet(procNet6, want)...), " "); got != c.proc {
				t.Errorf("readProcNet for %s = %q, want %q", want, got, c.proc)
			}
		}
		if got := readLsof(lsofText, want); got != c.lsof {
			t.Errorf("readLsof for %s = %q, want %q", want, got, c.lsof)
		}
		if got := readNetstat(netstatText, want); got != c.netstat {
			t.Errorf("readNetstat for %s = %q, want %q", want, got, c.netstat)
		}
	}
}

func FuzzHolderTables(f *testing.F) {
	for _, text := range []string{procNet, procNet6, lsofText, netstatText, "n", "p\nc\nn*:", "TCP a b:0 c d"} {
		f.Add(text)
	}
	want := netip.MustParseAddrPort("127.0.0.1:11434")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range []string{strings.Join(readProcNet(text, want), " "), readLsof(text, want), readNetstat(text, want)} {
			if strings.ContainsAny(s, "\x1b\r\n\x00") && !strings.HasPrefix(s, "socket:") {
				t.Errorf("%q is not fit for a terminal", s)
			}
		}
	})
}
