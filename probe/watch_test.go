package probe

import (
	"bufio"
	"os/exec"
	"testing"
	"time"
)

func TestParseWatch(t *testing.T) {
	const mac = "Mach Virtual Memory Statistics: (page size of 16384 bytes);Pages free:  100000.;Pages active: 200000.;Pages inactive: 50000.;Pages speculative: 1000.;Pages wired down: 9.;Pages purgeable: 10.;File-backed pages: 40000.;vm.swapusage: total = 2048.00M  used = 1024.00M  free = 1024.00M  (encrypted);hw.memsize: 17179869184;"
	for line, want := range map[string]struct {
		ok                     bool
		total, avail, used     int64
		hasAvailable, hasSwaps bool
	}{
		"MemTotal:1000 MemAvailable:400 SwapTotal:100 SwapFree:90 ": {true, 1000 << 10, 400 << 10, 10 << 10, true, true},
		"MemTotal:1000 MemAvailable:400 ":                           {true, 1000 << 10, 400 << 10, 0, true, false},
		"MemTotal:1000 MemAvailable:400 SwapTotal:1 SwapFree:90 ":   {true, 1000 << 10, 400 << 10, 0, true, false},
		mac:                                     {true, 16 << 30, 0, 1 << 30, true, true},
		"":                                      {},
		"hello from motd":                       {},
		"MemAvailable:":                         {},
		"MemAvailable:-1 ":                      {},
		";;;;":                                  {},
		"MemAvailable:99999999999999999999999 ": {},
	} {
		s, ok := ParseWatch(line)
		if ok != want.ok || (s.AvailableBytes != nil) != want.hasAvailable || (s.SwapUsedBytes != nil) != want.hasSwaps {
			t.Errorf("ParseWatch(%.60q) = %+v, %v", line, s, ok)
			continue
		}
		if !ok {
			continue
		}
		if *s.TotalBytes != want.total || want.avail != 0 && *s.AvailableBytes != want.avail || want.hasSwaps && *s.SwapUsedBytes != want.used {
			t.Errorf("ParseWatch(%.60q) = total %d, available %d", line, *s.TotalBytes, *s.AvailableBytes)
		}
	}
}

func FuzzParseWatch(f *testing.F) {
	f.Add("MemTotal:1000 MemAvailable:400 SwapTotal:100 SwapFree:90 ")
	f.Add("(page size of 16384 bytes);Pages free: 1.;vm.swapusage: total = 1.00M used = 1.00M;hw.memsize: 1;")
	f.Fuzz(func(t *testing.T, line string) {
		if s, ok := ParseWatch(line); ok && *s.AvailableBytes < 0 {
			t.Errorf("%d bytes are available", *s.AvailableBytes)
		}
	})
}

// The script itself, on this machine.
func TestWatchScript(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", WatchScript)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer func() { cmd.Process.Kill(); out.Close(); cmd.Wait() }()
	line := make(chan string, 1)
	go func() {
		s, _ := bufio.NewReader(out).ReadString('\n')
		line <- s
	}()
	select {
	case s := <-line:
		if sample, ok := ParseWatch(s); !ok || sample.TotalBytes == nil || *sample.TotalBytes < 1<<20 {
			t.Errorf("%q: %+v, %v", s, sample, ok)
		}
	case <-time.After(10 * time.Second):
		t.Error("no line")
	}
}
