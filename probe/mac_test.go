package probe

import (
	"fmt"
	"strings"
	"testing"
)

func TestDisplays(t *testing.T) {
	const text = `Hardware:

    Hardware Overview:

      Model Name: Mac mini
      Memory: 24 GB

Memory:

      Memory: 99 GB

Graphics/Displays:

    Intel Iris Plus Graphics 655:

      Chipset Model: Intel Iris Plus Graphics 655
      VRAM (Dynamic, Max): 1536 MB
      Vendor: Intel
      Displays:
        LG ULTRAFINE:
          Resolution: 3840 x 2160

    Radeon Pro 560:

      Chipset Model: AMD Radeon Pro 560
      VRAM (Total): 4 GB
      Vendor: AMD (0x1002)
`
	for name, c := range map[string]struct{ text, want string }{
		"text": {text, "Intel Intel Iris Plus Graphics 655 1536 true, AMD AMD Radeon Pro 560 4096 false, installed 24576"},
		"a key word for a name": {`{"SPDisplaysDataType":[{"_name":"kHW_AppleM2Item","sppci_model":"Apple M2","spdisplays_vendor":"sppci_vendor_Apple","spdisplays_ndrvs":[{"_name":"kHW_Screen"}]}]}`,
			"Apple Apple M2 null true, installed null"},
		"a notice before, and the memory": {"2026-01-02 system_profiler: notice\n{\"SPHardwareDataType\":[{\"physical_memory\":\"36 GB\"}],\"SPDisplaysDataType\":[]}", "installed 36864"},
		"cut off":                         {`{"SPDisplaysDataType":[{"_name":"Apple M2","sppci_mod`, "installed null"},
		"no JSON":                         {"system_profiler: unknown option -json", "installed null"},
		"other types":                     {`{"SPDisplaysDataType":[{"_name":7}]}`, "installed null"},
	} {
		var got []string
		cards, installed := displays(c.text)
		for _, g := range cards {
			got = append(got, fmt.Sprintf("%s %s %s %v", g.vendor, g.name, inMiB(g.vram), g.shared))
		}
		got = append(got, "installed "+inMiB(installed))
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

// The wired limit: set by hand, in the words of a change, above the memory, in an old macOS, and estimated, which the
// warning says where it is what bounds the budget.
func TestWiredLimit(t *testing.T) {
	stat := "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free: 2000000.\nPages inactive: 0."
	for _, c := range []struct {
		sysctl string
		budget int64 // in MiB
		warned bool
	}{
		{"iogpu.wired_limit_mb: 0", 32 << 10 * 2 / 3, true},
		{"iogpu.wired_limit_mb: 0          # the default", 32 << 10 * 2 / 3, true},
		{"sysctl: unknown oid 'iogpu.wired_limit_mb'", 32 << 10 * 2 / 3, true},
		{"iogpu.wired_limit_mb: 28672", 28672, false},
		{"iogpu.wired_limit_mb: 0 -> 20480", 20480, false},
		{"debug.iogpu.wired_limit: 16384", 16384, false},
		{"iogpu.wired_limit_mb: 999999", 2000000*16384/mib - 2048, false},
		{"iogpu.wired_limit_mb: -5", 32 << 10 * 2 / 3, true},
	} {
		r := parse(t, "uname", "Darwin 25.0.0 arm64", "sysctl", "hw.memsize: 34359738368\nmachdep.cpu.brand_string: Apple M2 Pro\n"+c.sysctl, "vm_stat", stat)
		p := r.Best()
		if c.budget == 32<<10*2/3 {
			c.budget = 34359738368 / 3 * 2 / mib
		}
		if p == nil || bytesOf(p.BudgetBytes)/mib != c.budget {
			t.Errorf("%s: pool %+v, want a budget of %d MiB", c.sysctl, p, c.budget)
		}
		warned := len(r.Warnings) == 1 && strings.Contains(r.Warnings[0], "estimated")
		if warned != c.warned || len(r.Warnings) > 1 {
			t.Errorf("%s: warnings %q", c.sysctl, r.Warnings)
		}
	}
}

func TestMacKinds(t *testing.T) {
	const m2 = `{"SPDisplaysDataType":[{"sppci_model":"Apple M2 Max","spdisplays_vendor":"sppci_vendor_Apple"}]}`
	// A shell under Rosetta.
	r := parse(t, "uname", "Darwin 23.0.0 x86_64", "sysctl", "hw.memsize: 34359738368\nmachdep.cpu.brand_string: VirtualApple @ 2.50GHz processor\nsysctl.proc_translated: 1", "displays", m2)
	if len(r.Accelerators) != 1 || r.Accelerators[0].Name != "Apple M2 Max" || r.Arch != "arm64" || r.Pools[0].Kind != Unified {
		t.Errorf("under Rosetta: %s, %+v, %+v", r.Arch, r.Accelerators, r.Pools)
	}
	r = parse(t, "uname", "Darwin 23.0.0 arm64", "sysctl", "hw.memsize: 8589934592\nkern.hv_vmm_present: 1", "sw_vers", "ProductVersion: 14.1   BuildVersion: 23B74")
	if len(r.Accelerators) != 0 || len(r.Pools) != 1 || r.Pools[0].Kind != HostPool || len(r.Warnings) != 1 || r.OSName != "macOS 14.1" {
		t.Errorf("a virtual Mac: %+v", r)
	}
	// Nothing but the system's name.
	r = parse(t, "uname", "Darwin 23.0.0 arm64")
	if p := r.Best(); p == nil || p.TotalBytes != nil || p.BudgetBytes != nil || r.OSName != "macOS" {
		t.Errorf("nothing known: %+v, %q", p, r.OSName)
	}
}

func TestVMStat(t *testing.T) {
	for text, want := range map[string][2]int64{
		"Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free: 10.\nPages active: 99.\nPages inactive: 4.\nPages speculative: 3.\nPages purgeable: 2.": {19 * 16384, 10 * 16384},
		"Mach Virtual Memory Statistics: (page size of 4096 bytes)\nPages free: 10.\n\"Translation faults\": 77.\nPages inactive: 5.":                                    {15 * 4096, 10 * 4096},
		"Mach Virtual Memory Statistics: (page size of 4096 bytes)\nPages inactive: 5.":                                                                                  {-1, -1},
		"Pages free: 10.":                         {-1, -1},
		"(page size of -1 bytes)\nPages free: 1.": {-1, -1},
		"(page size of ":                          {-1, -1},
		"":                                        {-1, -1},
	} {
		if avail, free := vmStat(text); bytesOf(avail) != want[0] || bytesOf(free) != want[1] {
			t.Errorf("vmStat(%q) = %d, %d, want %d", text, bytesOf(avail), bytesOf(free), want)
		}
	}
}
