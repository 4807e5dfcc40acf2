package probe

import (
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// A Windows box has no /bin/sh. It is asked by one constant command, which cmd, PowerShell and bash take as the same
// words: nothing of it is quoted. cmd takes 8191 characters, so the script is short and its reasons stand here.
//
// An account that is no administrator's may not use CIM over SSH ("Access denied", PowerShell/Win32-OpenSSH#2077), so
// memory comes from .NET, which asks GlobalMemoryStatusEx, and GPUs come from the registry; CIM adds the page files,
// and tells which of the registry's GPUs are still there. netstat and nvidia-smi need no rights. What may hang is last.
//
//go:embed windows.ps1
var windowsScript string

// windowsNonce stands in the marks of the Windows script: PowerShell without a profile prints nothing of its own.
const windowsNonce = "rlca-windows"

// WindowsRunner is a Runner whose far side may be Windows: Command runs a command there, without a shell of our own and
// with nothing on its standard input, and returns its standard output.
type WindowsRunner interface {
	Runner
	// ServerVersion is what the SSH server calls itself: "OpenSSH_for_Windows_9.5".
	ServerVersion() string
	Command(ctx context.Context, command string) ([]byte, error)
}

// IsWindows says whether an SSH server of that name runs on Windows. The one inside of WSL is Linux's.
func IsWindows(serverVersion string) bool {
	v := strings.ToLower(serverVersion)
	return strings.Contains(v, "for_windows") || strings.Contains(v, "winsshd")
}

// WindowsCommand is the command that probes a Windows box. ParseWindows reads what it prints.
func WindowsCommand() string { return PowerShell(strings.ReplaceAll(windowsScript, "\r\n", "\n")) }

// PowerShell is the command that runs a script on a Windows box, the same words to cmd, PowerShell and bash. cmd takes no
// more than 8191 characters of it, about 3000 of the script.
func PowerShell(script string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(script)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return "powershell -NoProfile -NonInteractive -EncodedCommand " + base64.StdEncoding.EncodeToString(b)
}

// ParseWindows makes a report of what WindowsCommand printed, as Parse does.
func ParseWindows(out []byte) (*Report, error) { return Parse(windowsNonce, out) }

// winGPU is one graphics adapter that is a PCI device.
type winGPU struct {
	vendor, name, driver string
	vram                 *int64 // bytes of its own, or set aside for it; nil if not known
	integrated           bool   // it has the CPU's memory
	from, sized          string // sized is the From of vram
}

// windows reads a Windows box. Windows tells nobody how much of a GPU's memory is free; nvidia-smi does.
func (r *Report) windows(a *answer) {
	r.windowsNames(a.text("win"))
	r.windowsMemory(a)
	r.nvidia(a)
	if m := r.Memory; m.TotalBytes != nil {
		r.pool("host", HostPool, "", m.TotalBytes, m.AvailableBytes).From = r.sized
	}
	nvidia, works := len(r.Accelerators) > 0, slices.ContainsFunc(r.Accelerators, func(a Accelerator) bool { return a.Pool != nil })
	for _, g := range windowsGPUs(a.text("cim_gpu"), a.text("gpureg")) {
		if g.vendor == "NVIDIA" && nvidia || g.integrated && works || len(r.Accelerators) >= maxGPUs {
			continue
		}
		acc := Accelerator{Vendor: g.vendor, Name: g.name, Driver: value(g.driver), State: "unknown", From: g.from}
		if !g.integrated && g.vram != nil {
			id := "gpu" + strconv.Itoa(len(r.Accelerators))
			r.pool(id, Dedicated, g.vendor, g.vram, nil).From = g.sized
			acc.Pool = &id
		}
		if !g.integrated {
			r.warn("how much memory of %s is free cannot be read on Windows", g.name)
		}
		r.Accelerators = append(r.Accelerators, acc)
	}
	for line := range strings.SplitSeq(a.text("drives"), "\n") {
		w := strings.Fields(line)
		if len(w) == 3 && w[0] == "drive" && len(r.Disk) < maxRows {
			r.Disk = append(r.Disk, Disk{Path: w[2], FreeBytes: num(w[1]), From: "drives"})
		}
	}
}

func (r *Report) windowsNames(text string) {
	if arch, ok := map[string]string{"AMD64": "x86_64", "ARM64": "aarch64"}[r.Arch]; ok {
		r.Arch = arch
	}
	s := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		key, val, _ := strings.Cut(line, " ")
		s[key] = strings.Join(strings.Fields(val), " ")
	}
	r.OSName, r.CPU = s["name"], s["cpu"]
	if p := s["product"]; !strings.HasSuffix(p, "System Product Name") && !strings.Contains(p, "To Be Filled") { // of a board that nobody named
		r.Product = p
	}
	if build := num(s["build"]); build != nil && *build >= 22000 { // the registry of Windows 11 still says 10
		r.OSName = strings.Replace(r.OSName, "Windows 10", "Windows 11", 1)
	}
	r.OSName = strings.TrimSpace(r.OSName + " " + s["release"])
	if n := num(s["cores"]); n != nil && *n > 0 && *n < 1<<20 {
		r.Cores = ptr(int(*n))
	}
}

// windowsMemory reads "total BYTES" and "avail BYTES", else CIM's numbers, which are KiB.
func (r *Report) windowsMemory(a *answer) {
	mem := &r.Memory
	for line := range strings.SplitSeq(a.text("mem"), "\n") {
		key, val, _ := strings.Cut(line, " ")
		switch n := num(val); {
		case n == nil || *n == 0 || *n > 1<<50:
		case key == "total":
			mem.TotalBytes = n
		case key == "avail":
			mem.AvailableBytes = n
		}
	}
	total, avail := "mem", "mem"
	for _, o := range records(a.text("cim_os")) {
		kib := func(key string) *int64 {
			n := num(o[key])
			if n == nil || *n > 1<<40 {
				return nil
			}
			return ptr(*n * 1024)
		}
		if mem.TotalBytes == nil {
			mem.TotalBytes, total = kib("TotalVisibleMemorySize"), "cim_os"
		}
		if mem.AvailableBytes == nil {
			mem.AvailableBytes, avail = kib("FreePhysicalMemory"), "cim_os"
		}
		mem.SwapTotalBytes = kib("SizeStoredInPagingFiles")
		if free := kib("FreeSpaceInPagingFiles"); free != nil && mem.SwapTotalBytes != nil {
			mem.SwapUsedBytes = ptr(max(0, *mem.SwapTotalBytes-*free))
		}
	}
	r.sized = origin(by(total, mem.TotalBytes), by(avail, mem.AvailableBytes))
	mem.From = origin(r.sized, by("cim_os", mem.SwapTotalBytes, mem.SwapUsedBytes))
}

var record = regexp.MustCompile(`^([A-Za-z]+)\s*(?: :|=)\s?(.*)$`)

// records reads lists: "Name : value" of Format-List, "Name=value" of wmic. A name that comes again begins the next
// one: both have empty lines in other places too.
func records(text string) (list []map[string]string) {
	var rec map[string]string
	for line := range strings.SplitSeq(text, "\n") {
		m := record.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if _, again := rec[m[1]]; rec == nil || again {
			if len(list) >= maxGPUs {
				break
			}
			rec = map[string]string{}
			list = append(list, rec)
		}
		rec[m[1]] = strings.TrimSpace(m[2])
	}
	return list
}

// adapterCap is the most that AdapterRAM can tell: a GPU that has it may have any amount.
const adapterCap = 4293918720

// windowsGPUs puts together CIM's adapters, which are there but tell at most 4 GiB, and the registry's, which tell all
// but stay when a card has gone: "NAME|DRIVER|QWORD|DWORD|PCI ID". Adapters that are no PCI device are screens of
// remote desktops and the like.
func windowsGPUs(cim, registry string) (cards []winGPU) {
	var stored []winGPU
	for line := range strings.SplitSeq(registry, "\n") {
		w := strings.Split(line, "|")
		if len(w) != 5 || len(stored) >= maxGPUs {
			continue
		}
		if g := newWinGPU("gpureg", w[0], w[1], w[4]); g != nil {
			if g.vram = registrySize(w[2]); g.vram == nil {
				g.vram = registrySize(w[3])
			}
			stored = append(stored, *g)
		}
	}
	for _, c := range records(cim) {
		g := newWinGPU("cim_gpu", c["Name"], c["DriverVersion"], c["PNPDeviceID"])
		if g == nil {
			continue
		}
		if n := num(c["AdapterRAM"]); n != nil && *n > 0 && *n < adapterCap {
			g.vram = n
		}
		if i := slices.IndexFunc(stored, func(o winGPU) bool { return o.name == g.name }); i >= 0 {
			if stored[i].vram != nil {
				g.vram, g.sized = stored[i].vram, stored[i].sized
			}
			stored = slices.Delete(stored, i, i+1)
		}
		cards = append(cards, *g)
	}
	if len(cards) == 0 { // CIM was denied
		return stored
	}
	return cards
}

// arc are Intel's cards, A770 and B580: the graphics of its CPUs are called Arc 140V, or Arc alone.
var arc = regexp.MustCompile(`Arc.* (?:Pro )?[AB]\d{2,3}`)

// newWinGPU returns nil for an adapter that is no GPU of the three makers.
func newWinGPU(from, name, driver, id string) *winGPU {
	g := &winGPU{name: strings.TrimSpace(name), driver: strings.TrimSpace(driver), from: from, sized: from}
	id = strings.ToUpper(id)
	switch {
	case g.name == "" || strings.HasPrefix(g.name, "Microsoft "):
		return nil
	case strings.HasPrefix(id, `PCI\VEN_10DE`):
		g.vendor = "NVIDIA"
	case strings.HasPrefix(id, `PCI\VEN_1002`): // "AMD Radeon 780M Graphics" is in the CPU, "AMD Radeon RX 7600" is not
		g.vendor, g.integrated = "AMD", strings.HasSuffix(g.name, "Graphics")
	case strings.HasPrefix(id, `PCI\VEN_8086`):
		g.vendor, g.integrated = "Intel", !arc.MatchString(g.name)
	default:
		return nil
	}
	return g
}

// registrySize reads a number of bytes, or the bytes of that number as PowerShell prints them, lowest first: drivers
// store both.
func registrySize(s string) *int64 {
	w := strings.Fields(s)
	n := int64(0)
	switch {
	case len(w) == 1:
		if v := num(w[0]); v != nil {
			n = *v
		}
	case len(w) == 4 || len(w) == 8:
		for i, b := range w {
			v, err := strconv.ParseUint(b, 10, 8)
			if err != nil {
				return nil
			}
			n |= int64(v) << (8 * i)
		}
	}
	if n <= 0 || n > 1<<50 {
		return nil
	}
	return &n
}
