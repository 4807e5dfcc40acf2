package probe

import (
	"fmt"
	"strings"
	"testing"
)

// String writes a card in one line: number, name, memory in MiB, target, driver, slot.
func (c card) String() string {
	index := "-"
	if c.index != nil {
		index = fmt.Sprint(*c.index)
	}
	s := fmt.Sprintf("%s %q %s/%s %s %s %s", index, c.name, inMiB(c.vram), inMiB(c.vramUsed), c.gfx, c.version, c.bus)
	if c.asleep {
		s += " asleep"
	}
	return strings.Join(strings.Fields(s), " ")
}

func wantCards(t *testing.T, what string, got []card, want ...string) {
	t.Helper()
	var lines []string
	for _, c := range got {
		lines = append(lines, c.String())
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\ngot  %q\nwant %q", what, lines, want)
	}
}

// rocmLayouts are what rocm-smi has printed for a 16 GiB card over the years, each with its traps.
var rocmLayouts = map[string]struct{ text, want string }{
	"JSON of 6": {"\nWARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status\n\n" +
		`{"card0": {"Device Name": "Navi 21 [Radeon RX 6800]", "Device ID": "0x73bf", "PCI Bus": "0000:2D:00.0", "VRAM Total Memory (B)": "17163091968", "VRAM Total Used Memory (B)": "1073741824", "Card Series": "N/A", "GFX Version": "gfx1030"}, "system": {"Driver version": "6.7.0"}}`,
		`0 "Navi 21 [Radeon RX 6800]" 16368/1024 gfx1030 6.7.0 0000:2D:00.0`},
	"JSON of 5":     {`{"card0": {"GPU ID": "0x73bf", "VRAM Total Memory (B)": "17163091968", "VRAM Total Used Memory (B)": "1048576", "Card series": "Radeon RX 6800"}, "system": {"Driver version": "5.18.2"}}`, `0 "Radeon RX 6800" 16368/1 5.18.2`},
	"JSON, no name": {`{"card0": {"Card series": "0x1002", "VRAM Total Memory (B)": "N/A"}}`, `0 "" null/null`},
	"csv":           {"device,VRAM Total Memory (B),VRAM Total Used Memory (B),Card Series,Card Model,GFX Version\ncard0,17163091968,0,AMD Radeon RX 6800,0x73bf,gfx1030\ncut,off\n", `0 "AMD Radeon RX 6800" 16368/0 gfx1030`},
	"lines":         {"==== Memory ====\nGPU[0]\t\t: VRAM Total Memory (B): 17163091968\nGPU[0]\t\t: VRAM Total Used Memory (B): 2097152\nGPU[0]\t\t: Card Series: \t\tAMD Radeon RX 6800\nGPU[0]\t\t: GFX Version: \t\tgfx1030\n==== End ====", `0 "AMD Radeon RX 6800" 16368/2 gfx1030`},
	"table":         {"Device  Node  VRAM Total Memory (B)  VRAM Total Used Memory (B)\n0       1     17163091968            2097152\n====", `0 "" 16368/2`},
	"table, names":  {"Device  Card Series       Card Model\n0       Radeon RX 6800    0x73bf\n", `0 "Radeon RX 6800" null/null`},
	"asleep":        {"WARNING: AMD GPU device(s) is/are in a low-power state.\nDevice  Node  IDs              Temp  Perf     VRAM%\n        (DID,     GUID)  (Edge)\n====\n0       1     0x73bf,   42634  N/A   unknown  0%\n", `0 "" null/null asleep`},
	"no driver":     {"cat: /sys/module/amdgpu/initstate: No such file or directory\nERROR:root:Driver not initialized (amdgpu not found in modules)", ""},
	"cut":           {`{"card0": {"VRAM Total Memory (B)": "17163`, ""},
}

func TestROCm(t *testing.T) {
	for name, c := range rocmLayouts {
		var want []string
		if c.want != "" {
			want = []string{c.want}
		}
		wantCards(t, name, readROCm(c.text), want...)
	}
	wantCards(t, "card10 comes after card2", readROCm(`{"card10": {"Card Series": "c"}, "card2": {"Card Series": "b"}, "card0": {"Card Series": "a"}}`),
		`0 "a" null/null`, `2 "b" null/null`, `10 "c" null/null`)
}

var smiLayouts = map[string]string{
	"JSON of 6": `[{"gpu": 0, "asic": {"market_name": "AMD Instinct MI210", "device_id": "0x740f", "target_graphics_version": "gfx90a"}, "bus": {"bdf": "0000:83:00.0"}, "vram": {"type": "HBM2", "size": {"value": 65520, "unit": "MB"}}, "driver": {"name": "amdgpu", "version": "6.10.5"}}]`,
	"JSON of 7": "[warning] one core is offline\n" + `{"gpu_data": [{"gpu": 0, "ASIC": {"MARKET_NAME": "AMD Instinct MI210", "TARGET_GRAPHICS_VERSION": "gfx90a"}, "bus": {"bdf": "0000:83:00.0"}, "vram": {"size": {"value": 65520}}, "driver": {"NAME": "amdgpu", "VERSION": "6.10.5"}}]}` + "\ngoodbye",
	"text":      "GPU: 0\n    ASIC:\n        MARKET_NAME: AMD Instinct MI210\n        TARGET_GRAPHICS_VERSION: gfx90a\n    BUS:\n        BDF: 0000:83:00.0\n    DRIVER:\n        VERSION: 6.10.5\n    VRAM:\n        SIZE: 65520 MB\n    CACHE_INFO:\n        CACHE_0:\n            SIZE: 1 MB\n",
}

func TestAMDSMI(t *testing.T) {
	for name, text := range smiLayouts {
		wantCards(t, name, readAMDSMI(text), `0 "AMD Instinct MI210" 65520/null gfx90a 6.10.5 0000:83:00.0`)
	}
	wantCards(t, "nothing known", readAMDSMI(`[{"gpu": 3, "asic": "N/A", "vram": {"size": "N/A"}, "driver": {"version": "N/A"}}]`), `3 "" null/null`)
	wantCards(t, "an error", readAMDSMI("ERROR: amdgpu not found"))
}

var amdLogs = map[string][2]string{
	"a card":      {"[1.0] amdgpu 0000:03:00.0: amdgpu: VRAM: 16368M 0x0 - 0x1 (16368M used)\n[1.0] [drm] amdgpu: 16368M of VRAM memory ready\n[1.0] [drm] amdgpu: 31000M of GTT memory ready.", "16368 31000 0 0000:03:00.0"},
	"Strix Halo":  {"amdgpu: ATOM BIOS: 113-STRXLGEN-001\namdgpu: 512M of VRAM memory ready\namdgpu: 64000M of GTT memory ready.", "512 64000 2 "},
	"capped":      {"amdgpu: Capping GTT to 96000M to not exceed available system memory\namdgpu: 96000M of GTT memory ready.", "null 96000 2 "},
	"two of them": {"amdgpu 0000:03:00.0: amdgpu: 8176M of VRAM memory ready\namdgpu 0000:03:00.0: amdgpu: 7000M of GTT memory ready.\namdgpu 0000:06:00.0: amdgpu: 4080M of VRAM memory ready\namdgpu 0000:06:00.0: amdgpu: 7000M of GTT memory ready.", "8176 7000 0 0000:03:00.0;4080 7000 0 0000:06:00.0"},
	"not allowed": {"dmesg: read kernel buffer failed: Operation not permitted", ""},
}

func TestAMDLog(t *testing.T) {
	for name, c := range amdLogs {
		var got []string
		for _, l := range readAMDLog(c[0]) {
			got = append(got, fmt.Sprintf("%s %s %d %s", inMiB(l.vram), inMiB(l.gtt), l.integrated(), l.bus))
		}
		if s := strings.Join(got, ";"); s != c[1] {
			t.Errorf("%s: %q, want %q", name, s, c[1])
		}
	}
}

// sysfs writes the files of one PCI device as grep -H does.
func sysfs(slot string, values ...string) string {
	var b strings.Builder
	for _, v := range values {
		b.WriteString("/sys/bus/pci/devices/" + slot + "/" + v + "\n")
	}
	return b.String()
}

// What a login may do with a card of AMD's, and what the card may do with memory.
func TestAMD(t *testing.T) {
	rx := sysfs("0000:03:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=1002:73BF", "mem_info_vram_total:17163091968", "mem_info_vram_used:1073741824", "mem_info_gtt_total:33000000000", "mem_info_vram_vendor:unknown")
	apu := sysfs("0000:c1:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_CLASS=38000", "uevent:PCI_ID=1002:150E", "mem_info_vram_total:536870912", "mem_info_vram_used:500000000", "mem_info_gtt_total:68719476736", "mem_info_gtt_used:1073741824")
	carved := strings.Replace(apu, "mem_info_vram_total:536870912", "mem_info_vram_total:68719476736", 1)
	small := sysfs("0000:12:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=1002:164E", "mem_info_vram_total:536870912", "mem_info_vram_used:0", "mem_info_gtt_total:33000000000")
	old := sysfs("0000:03:00.0", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=1002:6819")
	guest := sysfs("0000:03:00.0", "uevent:DRIVER=vfio-pci", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=1002:73BF")
	const x86 = "Linux 6.14 x86_64"
	for name, c := range map[string]struct {
		gpus, more, text string
		state, pool      string
		kind             string
		budget           int64 // MiB of the best pool
		warning          string
	}{
		"a card":                     {gpus: rx, state: "ok", pool: "gpu0", kind: Dedicated, budget: 16368 - 1024 - 1024},
		"asleep":                     {gpus: rx + sysfs("0000:03:00.0", "power/runtime_status:suspended"), state: "asleep", pool: "gpu0", kind: Dedicated, budget: 16368 - 1024 - 1024, warning: "asleep"},
		"not in the group":           {gpus: rx + "denied /dev/kfd", state: "no-permission", pool: "null", kind: HostPool, budget: -1, warning: "usermod -aG render,video"},
		"only the service is":        {gpus: rx + "denied /dev/kfd", more: "procs", text: "unit active", state: "no-permission", pool: "gpu0", kind: Dedicated, budget: 16368 - 1024 - 1024, warning: "usermod"},
		"the tool says so":           {gpus: rx, more: "amd_smi/1", text: "User is missing the following required groups: render. Please add user to these groups.", state: "no-permission", pool: "null", kind: HostPool, budget: -1, warning: "render"},
		"a container without it":     {gpus: rx + "missing /dev/kfd", state: "no-permission", pool: "null", kind: HostPool, budget: -1, warning: "--device /dev/kfd"},
		"no driver":                  {gpus: old, state: "unknown", pool: "null", kind: HostPool, budget: -1, warning: "has no driver"},
		"given to a virtual machine": {gpus: guest, state: "unknown", pool: "null", kind: HostPool, budget: -1, warning: "virtual machine"},
		"GTT":                        {gpus: apu, state: "ok", pool: "unified", kind: Unified, budget: 65536 - 1024 - 1024},
		"GTT beyond the pages":       {gpus: apu + "/sys/module/ttm/parameters/pages_limit:8388608", state: "ok", pool: "unified", kind: Unified, budget: 32768 - 1024 - 1024},
		"GTT, its use not told":      {gpus: strings.Replace(apu, "mem_info_gtt_used", "x", 1), state: "ok", pool: "unified", kind: Unified, budget: 65536 - 1024},
		"a carve-out":                {gpus: carved, state: "ok", pool: "unified", kind: Unified, budget: (68719476736-500000000)/mib - 1966},
		"for a screen":               {gpus: small, state: "ok", pool: "host", kind: HostPool, budget: -1},
		"for a screen, not allowed":  {gpus: small + "denied /dev/kfd", state: "ok", pool: "host", kind: HostPool, budget: -1},
		"sizes in the log alone":     {gpus: sysfs("0000:03:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_ID=1002:7340"), more: "dmesg", text: amdLogs["a card"][0], state: "ok", pool: "gpu0", kind: Dedicated, budget: -1},
		"no sizes":                   {gpus: sysfs("0000:03:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_ID=1002:7340"), state: "unknown", pool: "null", kind: HostPool, budget: -1, warning: "does not tell its memory"},
	} {
		r := parse(t, "uname", x86, "meminfo", mem120, "gpus", c.gpus, c.more, c.text)
		if len(r.Accelerators) != 1 {
			t.Errorf("%s: accelerators %+v", name, r.Accelerators)
			continue
		}
		a, p := r.Accelerators[0], r.Best()
		if a.State != c.state || str(a.Pool) != c.pool || p.Kind != c.kind {
			t.Errorf("%s: state %s, pool %s, the best one %s, want %s, %s, %s", name, a.State, str(a.Pool), p.Kind, c.state, c.pool, c.kind)
		}
		if got := bytesOf(p.BudgetBytes) / mib; c.budget >= 0 && (got < c.budget-1 || got > c.budget+1) {
			t.Errorf("%s: budget %d MiB (%s), want %d", name, got, p.How, c.budget)
		}
		if said := strings.Join(r.Warnings, "\n"); c.warning == "" && said != "" || !strings.Contains(said, c.warning) {
			t.Errorf("%s: warnings %q, want %q", name, r.Warnings, c.warning)
		}
	}
	// Beside a card the processor's GPU takes nothing; what the box was bought for keeps its own.
	r := parse(t, "uname", x86, "meminfo", mem120, "gpus", rx+apu)
	if len(r.Pools) != 2 || r.Best().ID != "gpu0" || str(r.Accelerators[1].Pool) != "host" {
		t.Errorf("a card and Strix Point: pools %+v, accelerators %+v", r.Pools, r.Accelerators)
	}
	r = parse(t, "uname", x86, "meminfo", mem120, "gpus", rx+strings.Replace(apu, "150E", "1586", 1))
	if len(r.Pools) != 2 || r.Best().Kind != Unified || r.Pools[0].ID != "gpu0" {
		t.Errorf("a card and Strix Halo: pools %+v", r.Pools)
	}
}

func TestGFXName(t *testing.T) {
	for v, want := range map[int64]string{90010: "gfx90a", 90402: "gfx942", 100301: "gfx1031", 110501: "gfx1151", 120001: "gfx1201"} {
		if got := gfxName(v); got != want {
			t.Errorf("gfxName(%d) = %s, want %s", v, got, want)
		}
	}
	gfx, limit, version := readKernel("==> /sys/class/kfd/kfd/topology/nodes/1/properties <==\nsimd_count 80\ngfx_target_version 90402\nlocation_id 2568\ndomain 1\n\n/sys/module/ttm/parameters/pages_limit:1024\n/sys/module/amdgpu/version:6.12.12\n/sys/class/kfd/kfd/topology/nodes/0/properties:simd_count 0")
	if gfx["0001:0a:01.0"] != "gfx942" || bytesOf(limit) != 4*mib || version != "6.12.12" || len(gfx) != 1 {
		t.Errorf("readKernel: %v, %d, %q", gfx, bytesOf(limit), version)
	}
}

// sane fails on numbers that no parser may give.
func sane(t *testing.T, cards []card) {
	if len(cards) > maxGPUs {
		t.Errorf("%d cards", len(cards))
	}
	for _, c := range cards {
		for _, n := range []*int64{c.vram, c.vramUsed, c.gtt, c.gttUsed, c.free()} {
			if n != nil && (*n < 0 || *n > 1<<57) {
				t.Errorf("%d bytes: %v", *n, c)
			}
		}
		c.integrated()
	}
}

func FuzzROCm(f *testing.F) {
	for _, c := range rocmLayouts {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) { sane(t, readROCm(text)) })
}

func FuzzAMDSMI(f *testing.F) {
	for _, text := range smiLayouts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { sane(t, readAMDSMI(text)) })
}

func FuzzAMDLog(f *testing.F) {
	for _, c := range amdLogs {
		f.Add(c[0])
	}
	f.Fuzz(func(t *testing.T, text string) { sane(t, readAMDLog(text)) })
}
