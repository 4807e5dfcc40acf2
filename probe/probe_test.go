package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const nonce = "n0nce"

// printed is what a box prints: pairs of a section's name and its text. A name of "fields" is the csv's mark.
func printed(sections ...string) []byte {
	var b strings.Builder
	b.WriteString("Welcome to the box\r\n\x1b[1mLast login: never\x1b[0m\n")
	for i := 0; i+1 < len(sections); i += 2 {
		if sections[i] == "fields" {
			b.WriteString("\n@@" + nonce + " fields " + sections[i+1] + "\n")
			continue
		}
		name, rc, _ := strings.Cut(sections[i], "/")
		if rc == "" {
			rc = "0"
		}
		b.WriteString("\n@@" + nonce + " begin " + name + "\n" + sections[i+1] + "\n\n@@" + nonce + " end " + name + " rc=" + rc + "\n")
	}
	b.WriteString("\n@@" + nonce + " done\n")
	return []byte(b.String())
}

const (
	uname   = "Linux 6.14.0-1013-nvidia aarch64"
	release = "==> /etc/os-release\nPRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\n==> /sys/class/dmi/id/sys_vendor\nNVIDIA\n\n==> /sys/class/dmi/id/product_name\nNVIDIA_DGX_Spark\n"
	mem120  = "MemTotal:       125500000 kB\nMemFree:        20000000 kB\nMemAvailable:   113500000 kB\nBuffers: 1 kB\nCached: 90000000 kB\nSwapTotal:      16777212 kB\nSwapFree:       16777212 kB"
	fields  = "index,uuid,memory.total,memory.used,memory.free,driver_version,compute_cap,mig.mode.current,addressing_mode,name"
)

func parse(t *testing.T, sections ...string) *Report {
	t.Helper()
	r, err := Parse(nonce, printed(sections...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func bytesOf(p *int64) int64 {
	if p == nil {
		return -1
	}
	return *p
}

func str(p *string) string {
	if p == nil {
		return "null"
	}
	return *p
}

func TestMac(t *testing.T) {
	sys := "hw.memsize: 137438953472\nhw.pagesize: 16384\nhw.ncpu: 16\nhw.model: Mac16,6\nhw.optional.arm64: 1\nmachdep.cpu.brand_string: Apple M4 Max\nvm.swapusage: total = 2048.00M  used = 1024.50M  free = 1023.50M  (encrypted)\niogpu.wired_limit_mb: 0"
	stat := "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:                             5000000.\nPages active:                            100000.\nPages inactive:                          1000000.\nPages speculative:                        500000.\nPages purgeable:                           10000."
	r := parse(t, "uname", "Darwin 25.1.0 arm64", "sysctl", sys, "sw_vers", "ProductName:\t\tmacOS\nProductVersion:\t\t26.1", "vm_stat", stat)
	p := r.Best()
	if p == nil || p.Kind != Unified || bytesOf(p.TotalBytes) != 128*giB || bytesOf(p.FreeBytes) != 6510000*16384 {
		t.Fatalf("pool %+v", p)
	}
	if bytesOf(p.BudgetBytes) != 96*giB || !strings.Contains(p.How, "estimated") {
		t.Errorf("budget %s GiB (%s), want 96.0, estimated", gib(p.BudgetBytes), p.How)
	}
	if got, want := r.Summary(), "Apple M4 Max, 128.0 GiB unified, 99.3 free · macOS 26.1, arm64"; got != want {
		t.Errorf("Summary() = %q, want %q", got, want)
	}
	set := parse(t, "uname", "Darwin 25.1.0 arm64", "sysctl", strings.Replace(sys, "iogpu.wired_limit_mb: 0", "iogpu.wired_limit_mb: 65536", 1), "vm_stat", stat)
	if p := set.Best(); bytesOf(p.BudgetBytes) != 64*giB || !strings.Contains(p.How, "by hand") {
		t.Errorf("with a limit set by hand: %s GiB (%s)", gib(p.BudgetBytes), p.How)
	}
	intel := parse(t, "uname", "Darwin 18.0 x86_64", "sysctl", "hw.memsize: 17179869184\nmachdep.cpu.brand_string: Intel(R) Core(TM) i5\n", "vm_stat", "Mach Virtual Memory Statistics: (page size of 4096 bytes)\nPages free: 100.\n")
	if p := intel.Best(); p.Kind != HostPool || bytesOf(p.FreeBytes) != 409600 {
		t.Errorf("Intel: %+v", p)
	}
}

func TestHost(t *testing.T) {
	// A kernel without MemAvailable.
	r := parse(t, "uname", "Linux 3.10.0 x86_64", "meminfo", "MemTotal: 4036680 kB\nMemFree: 3547792 kB\nBuffers: 4288 kB\nCached: 298624 kB\nSwapTotal: 2097148 kB\nSwapFree: 97148 kB")
	if got := bytesOf(r.Memory.AvailableBytes); got != (3547792+4288+298624)*1024 {
		t.Errorf("available %d", got)
	}
	if bytesOf(r.Memory.SwapUsedBytes) != 2000000*1024 || len(r.Warnings) == 0 {
		t.Errorf("swap used %d, warnings %q", bytesOf(r.Memory.SwapUsedBytes), r.Warnings)
	}
	// A container's limit is the host pool's size.
	r = parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "cgroup", "memory.max max 5 0 /sys/fs/cgroup\nmemory.max 8589934592 1610612736 536870912 /sys/fs/cgroup/user.slice")
	if p := r.Best(); bytesOf(p.TotalBytes) != 8*giB || bytesOf(p.FreeBytes) != 7*giB || bytesOf(p.BudgetBytes) != 5*giB {
		t.Errorf("limited to 8 GiB: %+v", p)
	}
	r = parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "cgroup", "memory.limit_in_bytes 9223372036854771712 1 1 /x\nmemory.max max 1 1 /y")
	if r.Memory.CgroupLimitBytes != nil {
		t.Errorf("no limit became %d", *r.Memory.CgroupLimitBytes)
	}
	// Nothing readable is null, never 0.
	r = parse(t, "uname", "Linux 6.8 x86_64")
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"total_bytes":null`, `"pools":[]`, `"accelerators":[]`, `"warnings":[]`, `"cores":null`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("nothing readable: no %s in %s", want, out)
		}
	}
}

// Output cut at any byte is a report or a plain error, never a panic, and what came before the cut stands.
func TestCut(t *testing.T) {
	whole := printed("uname", uname, "os", release, "meminfo", mem120, "fields", fields, "nv_csv", "0, GPU-1b, [N/A], [N/A], [N/A], 580.1, 12.1, [N/A], ATS, NVIDIA GB10")
	at := bytes.Index(whole, []byte("@@"+nonce+" end meminfo"))
	for n := range whole {
		r, err := Parse(nonce, whole[:n])
		var none *NoAnswerError
		if err != nil && !errors.As(err, &none) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if n > at && bytesOf(r.Memory.TotalBytes) != 125500000*1024 {
			t.Fatalf("cut at %d: the memory that came is lost", n)
		}
	}
	_, err := Parse(nonce, []byte("\x1b[31mThis account is currently not available.\x1b[0m\r\n"))
	if err == nil || err.Error() != "probe: the box did not run the script, it said: This account is currently not available." {
		t.Errorf("a box that does not let us: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	answers, err := filepath.Glob("testdata/*/answer.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range answers {
		out, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(out)
	}
	f.Add(printed("uname", uname, "os", release, "cpu", "cores 20", "meminfo", mem120, "gpus", "/sys/bus/pci/devices/0000:03:00.0/uevent:PCI_ID=1002:744C", "cgroup", "memory.max 1 1 1 /", "fields", fields, "nv_csv", "0, a, 1, 1, 1, 1, 1, 1, 1, x"))
	f.Add(printed("uname", "Darwin 1 arm64", "sysctl", "hw.memsize: 1", "vm_stat", "(page size of 16384 bytes)\nPages free: 1.", "disk", "path /\n/dev/sda1 1 1 1 1% /"))
	f.Add(printed("uname", "Linux 1 x", "listen", "tcp 0 0 *:1 x", "lsof", "p1\nn*:1", "proctcp", "0: 0:0 0:0 0A", "tools", "ollama /x", "procs", "proc 1 1 ollama serve 0::/x.service\nmac 1 1 /Ollama.app/ollama", "nv_table", "| 0 A On | 00000000:01:00.0 Off |\n| 1MiB / 2MiB |\n| 0 1 0 0 | 1MiB / 2MiB |", "nv_list", "GPU 0: A (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-1)"))
	f.Add(printed("uname", "Linux 1 x", "meminfo", mem120, "gpus", sysfs("0000:c1:00.0", "uevent:PCI_ID=1002:1586", "mem_info_vram_total:1", "mem_info_gtt_total:9", "mem_info_gtt_used:1"), "rocm_smi", rocmLayouts["lines"].text, "amd_smi", smiLayouts["text"], "dmesg", amdLogs["a card"][0], "nv_csv/2", "", "nv_xml", xmlLog, "lspci", "0000:00:02.0 VGA [0300]: Intel Corporation Arc [8086:64a0]"))
	f.Fuzz(func(t *testing.T, out []byte) {
		r, err := Parse(nonce, out)
		if err != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		checkFrom(t, "the report", out)
		for _, p := range r.Pools {
			if p.BudgetBytes != nil && *p.BudgetBytes < 0 {
				t.Errorf("a budget below zero: %+v", p)
			}
		}
		if strings.ContainsAny(r.Summary(), "\x1b\x00\n\r") {
			t.Errorf("control characters in %q", r.Summary())
		}
	})
}

// spoken is a far side that prints something and ends with an error.
type spoken struct {
	out string
	err error
}

func (s spoken) Run(_ context.Context, script string) ([]byte, error) {
	_, nonce, _ := strings.Cut(script, "N=")
	nonce, _, _ = strings.Cut(nonce, "\n")
	return []byte(strings.ReplaceAll(s.out, "NONCE", nonce)), s.err
}

func TestRun(t *testing.T) {
	lost := errors.New("the connection is gone")
	part := "motd\n@@NONCE begin uname\nLinux 6.8.0 x86_64\n\n@@NONCE end uname rc=0\n\n@@NONCE begin meminfo\nMemTotal: 1048576 kB\nMemAv"
	r, err := Run(t.Context(), spoken{part, lost})
	if err != nil {
		t.Fatal(err)
	}
	if bytesOf(r.Memory.TotalBytes) != giB || r.Memory.AvailableBytes != nil || len(r.Warnings) != 2 ||
		!strings.Contains(r.Warnings[0], "in the section meminfo") || !strings.Contains(r.Warnings[1], "the connection is gone") {
		t.Errorf("half an answer: %+v, warnings %q", r.Memory, r.Warnings)
	}
	var none *NoAnswerError
	_, err = Run(t.Context(), spoken{"\x1b]0;title\x07\x1b[31mThis account is currently\x1b[0m not available.\r\n", lost})
	if !errors.As(err, &none) || none.Output != "This account is currently not available." || !errors.Is(err, lost) {
		t.Errorf("an account that is closed: %#v", err)
	}
	if _, err = Run(t.Context(), spoken{"", lost}); errors.As(err, &none) || !errors.Is(err, lost) {
		t.Errorf("nothing but an error: %#v", err)
	}
	if _, err = Run(t.Context(), spoken{"", nil}); !errors.As(err, &none) || none.Output != "" {
		t.Errorf("nothing at all: %#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Run(ctx, spoken{part, context.Canceled}); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

func TestSummary(t *testing.T) {
	card := "%d, GPU-%d, %d, 300, %d, 575.51.02, 8.6, [N/A], None, %s\n"
	for name, c := range map[string]struct{ rows, gpus, want string }{
		"two of a kind":                {fmt.Sprintf(card+card, 0, 0, 24576, 24000, "RTX 3090", 1, 1, 24576, 100, "RTX 3090"), "", "2 × RTX 3090, 24.0 GiB each, 23.4 free · x86_64"},
		"unequal":                      {fmt.Sprintf(card+card, 0, 0, 4096, 4000, "T1000", 1, 1, 16384, 16000, "V100"), "", "T1000 + V100, 16.0 GiB at most, 15.6 free · x86_64"},
		"none":                         {"", "", "no GPU, 119.7 GiB, 108.2 free · x86_64"},
		"integrated":                   {"", "/sys/bus/pci/devices/0000:00:02.0/uevent:PCI_ID=8086:3E9B\n/sys/bus/pci/devices/0000:00:02.0/uevent:DRIVER=i915", "no GPU, 119.7 GiB, 108.2 free · x86_64"},
		"another maker":                {"", "/sys/bus/pci/devices/0000:03:00.0/uevent:PCI_ID=1002:744C", "AMD GPU 744c cannot be used (unknown), 119.7 GiB, 108.2 free · x86_64"},
		"two of another maker":         {"", "/sys/bus/pci/devices/0000:03:00.0/uevent:PCI_ID=1002:744C\n/sys/bus/pci/devices/0000:04:00.0/uevent:PCI_ID=1002:744C", "2 × AMD GPU 744c cannot be used (unknown), 119.7 GiB, 108.2 free · x86_64"},
		"a PC's card without a number": {"0, GPU-0, [N/A], [N/A], [N/A], 390.1, [N/A], [N/A], None, Quadro 600", "", "Quadro 600 cannot be used (unknown), 119.7 GiB, 108.2 free · x86_64"},
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "gpus", c.gpus, "fields", fields, "nv_csv", c.rows)
		if got := r.Summary(); got != c.want {
			t.Errorf("%s: Summary() = %q, want %q", name, got, c.want)
		}
	}
}

func TestCgroup(t *testing.T) {
	total, avail := 64*giB, 50*giB
	for text, want := range map[string][2]int64{
		"memory.max max 1 1 /sys/fs/cgroup":                                                          {64, 50},
		"memory.limit_in_bytes 9223372036854771712 1 1 /x":                                           {64, 50},
		"memory.max 17179869184 4294967296 0 /a":                                                     {16, 12},
		"memory.max 17179869184 4294967296 2147483648 /a":                                            {16, 14},
		"memory.max 17179869184 - /a":                                                                {16, 16},
		"memory.max 8589934592 0 0 /a/b\nmemory.max 17179869184 17179869184 0 /a":                    {8, 0}, // the outer group is full
		"memory.max 17179869184 99999999999 0 /a":                                                    {16, 0},
		"memory.max\nmemory.max x y z\nmemory.high 1 1 1 /a\nmemory.limit_in_bytes 4294967296 0 0 /": {4, 4},
	} {
		r := &Report{Memory: Memory{TotalBytes: &total, AvailableBytes: &avail}}
		gotTotal, gotAvail := r.cgroup(text)
		if *gotTotal != want[0]*giB || *gotAvail != want[1]*giB {
			t.Errorf("cgroup(%q) = %s, %s GiB, want %d, %d", text, gib(gotTotal), gib(gotAvail), want[0], want[1])
		}
	}
}

// A box that prints without end costs little time and makes no endless report.
func TestFlood(t *testing.T) {
	for section, line := range map[string]string{
		"nv_csv":   "0, GPU-%d, 1, 1, 1, 1, 1, Enabled, None, x%[1]d\n",
		"nv_table": "|   0  X%d  On  |   00000000:00:09.0 Off | On |\n|  0    2   0   0  |   26MiB / 40448MiB    | 60 |\n",
		"nv_list":  "GPU 0: X (UUID: GPU-%d)\n  MIG 1g.10gb Device 0: (UUID: MIG-0)\n",
		"listen":   "LISTEN 0 9 127.0.0.%d:11434 0.0.0.0:* users:((\"ollama\",pid=%[1]d,fd=3))\n",
		"procs":    "proc %d 1 ollama serve 0::/x\n",
		"gpus":     "/sys/bus/pci/devices/0000:%d:00.0/uevent:PCI_ID=1002:744C\n",
		"rocm_smi": "GPU[%d] : Card Series: X\n",
		"amd_smi":  "GPU: %d\n",
		"lspci":    "0000:03:%02x.0 VGA compatible controller [0300]: X [1002:744c]\n",
		"nv_xml":   "<nvidia_smi_log><gpu id=\"%d\">",
		"dmesg":    "amdgpu: %dM of GTT memory ready.\n",
		"disk":     "path /%d\n/dev/a 1 1 1 1%% /\n",
		"cgroup":   "memory.max %d 1 1 /a\n",
		"lsof":     "p%d\ncollama\nn127.0.0.1:%[1]d\n",
		"meminfo":  "Mem%d: 1 kB\n",
	} {
		var b strings.Builder
		for i := 0; b.Len() < 2<<20; i++ {
			fmt.Fprintf(&b, line, i)
		}
		start := time.Now()
		r := parse(t, "uname", "Linux 6.8 x86_64", "fields", fields, section, b.String(), "nv_table", b.String(), "nv_list", b.String())
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v", section, took)
		}
		for what, n := range map[string]int{"accelerators": len(r.Accelerators), "pools": len(r.Pools), "listeners": len(r.Listeners), "engines": len(r.Engines), "disk": len(r.Disk), "warnings": len(r.Warnings)} {
			if n > 2*maxRows {
				t.Errorf("%s: %d %s", section, n, what)
			}
		}
	}
}
