package probe

import (
	"strings"
	"testing"
)

// Lines of tegrastats, of old boards and new ones.
func TestTegrastats(t *testing.T) {
	const rest = " CPU [5%@1190,off,off] GR3D_FREQ 0% cpu@41.5C VDD_IN 5012mW/5012mW"
	for line, want := range map[string]string{
		"01-02-2025 03:04:05 RAM 1200/7500MB (lfb 12x4MB) SWAP 300/3750MB (cached 20MB)" + rest: "7500 6300 3750 3450",
		"02-03-2026 04:05:06 RAM 30100/62800MB (lfb 3x2MB)" + rest:                              "62800 32700 0 0",
		"RAM 900/3956MB (lfb 40x4MB) IRAM 0/252kB(lfb 252kB)" + rest:                            "3956 3056 0 0",
		"RAM 1/2MB\nRAM 5/9MB SWAP 0/0MB":                                                       "9 4 0 0",
		"RAM 9/5MB (lfb 1x4MB)":                                                                 "0 0 0 0", // cannot be
		"RAM 1/99999999999999999999MB":                                                          "0 0 0 0",
		"RAM 1200/75":                                                                           "0 0 0 0", // cut off
		"bash: tegrastats: not found":                                                           "0 0 0 0",
	} {
		m := tegrastats(line)
		var got []string
		for _, key := range []string{"MemTotal", "MemAvailable", "SwapTotal", "SwapFree"} {
			got = append(got, inMiB(ptr(m[key])))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("tegrastats(%q) = %s, want %s", line, s, want)
		}
	}
}

// A board whose /proc/meminfo cannot be read has what tegrastats tells; where it can be read, that counts.
func TestTegraMemory(t *testing.T) {
	const line = "RAM 1200/7500MB (lfb 12x4MB) SWAP 300/3750MB (cached 20MB)"
	r := parse(t, "uname", "Linux 5.15 aarch64", "meminfo/1", "cat: /proc/meminfo: Permission denied", "tegrastats", line)
	p := r.Best()
	if len(r.Pools) != 1 || p.Kind != Unified || bytesOf(p.TotalBytes) != 7500*mib || bytesOf(p.FreeBytes) != 6300*mib || p.FreeFrom != "tegrastats" ||
		bytesOf(p.BudgetBytes) != 6300*mib-giB || r.Memory.FreeBytes != nil || bytesOf(r.Memory.SwapUsedBytes) != 300*mib {
		t.Errorf("pools %+v, memory %+v", r.Pools, r.Memory)
	}
	if len(r.Accelerators) != 1 || r.Accelerators[0].Name != "NVIDIA Jetson" || str(r.Accelerators[0].Pool) != "unified" {
		t.Errorf("accelerators %+v", r.Accelerators)
	}
	r = parse(t, "uname", "Linux 5.15 aarch64", "meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB", "tegrastats", line)
	if p := r.Best(); p.Kind != Unified || bytesOf(p.FreeBytes) != 4000000*1024 || p.FreeFrom != "MemAvailable" || r.Memory.SwapTotalBytes != nil {
		t.Errorf("with /proc/meminfo: %+v, %+v", p, r.Memory)
	}
	r = parse(t, "uname", "Linux 5.15 aarch64", "meminfo", mem120, "tegrastats/127", "bash: tegrastats: command not found")
	if p := r.Best(); p.Kind != HostPool {
		t.Errorf("no tegrastats: %+v", p)
	}
}

func TestJetsonRelease(t *testing.T) {
	for text, want := range map[string]string{
		"NVIDIA Jetson Orin NX Developer Kit - Jetpack 6.1 [L4T 36.4.0]\nSerial Number: [s|XX CLICK TO READ XXX]": "NVIDIA Jetson Orin NX Developer Kit",
		" - NVIDIA Jetson Nano (Developer Kit Version)\n   * Jetpack 4.5 [L4T 32.5.0]":                            "", // of old: the board is not beside it
		" * NVIDIA Jetson AGX Xavier - JetPack 5.1 [L4T 35.2.1]":                                                  "NVIDIA Jetson AGX Xavier",
		"NVIDIA Jetson Orin NX - Jetpack UNKNOWN [L4T N/A]":                                                       "",
		"bash: jetson_release: command not found":                                                                 "",
	} {
		if got := jetsonRelease(text); got != want {
			t.Errorf("jetsonRelease(%q) = %q, want %q", text, got, want)
		}
	}
	r := parse(t, "uname", "Linux 6.8 aarch64", "meminfo", mem120, "jetson_release", "\x1b[1mNVIDIA Jetson AGX Orin Developer Kit - Jetpack 6.0 [L4T 36.3.0]\x1b[0m")
	if p := r.Best(); p.Kind != Unified || r.Product != "NVIDIA Jetson AGX Orin Developer Kit" || len(r.Accelerators) != 1 || r.Accelerators[0].Name != r.Product ||
		str(r.Accelerators[0].Compute) != "8.7" {
		t.Errorf("pool %+v, product %q, accelerators %+v", p, r.Product, r.Accelerators)
	}
}
