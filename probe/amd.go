package probe

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// integratedGPU is how much of a GPU there is in a processor.
type integratedGPU int

const (
	weak  integratedGPU = iota + 1 // a few units for a screen: no faster than the cores beside it
	fair                           // it runs models where there is no better card
	large                          // it is what the box was bought for, whatever else is plugged in
)

// The GPUs in AMD's processors by their PCI ids, and where no id is told by what they are called to compilers. The
// names stand in the kernel's amdgpu_discovery.c and in the list of PCI ids.
var (
	amdIDs = map[string]integratedGPU{
		"15dd": weak, "15d8": weak, "1636": weak, "1638": weak, "164c": weak, "15e7": weak, // Raven Ridge to Barcelo
		"163f": weak, "1435": weak, "164e": weak, "13c0": weak, "1506": weak, // Van Gogh, Raphael, Granite Ridge, Mendocino
		"164d": fair, "1681": fair, "15bf": fair, "15c8": fair, "1900": fair, "1901": fair, // Rembrandt, Phoenix, Hawk Point
		"150e": fair, "1114": fair, // Strix Point, Krackan Point
		"1586": large, "74a0": large, // Strix Halo, MI300A
	}
	amdGFX = map[string]integratedGPU{
		"gfx902": weak, "gfx909": weak, "gfx90c": weak, "gfx1033": weak, "gfx1036": weak, "gfx1037": weak,
		"gfx1035": fair, "gfx1103": fair, "gfx1150": fair, "gfx1152": fair, "gfx1153": fair, "gfx1151": large, "gfx940": large,
	}
)

// integrated says what a GPU in the processor is; 0 is a card with memory of its own. Cards tell who made their memory
// (even when they say "unknown") or what board they are, and GPUs in a processor have no such files.
func (c card) integrated() integratedGPU {
	switch {
	case amdIDs[c.device] != 0:
		return amdIDs[c.device]
	case c.hbm():
		return large
	case amdGFX[c.gfx] != 0:
		return amdGFX[c.gfx]
	case strings.Contains(c.name, " Processor"): // it gives the name of the processor for its own
		return weak
	case c.apu:
		return fair
	case c.device == "" && c.vram != nil && *c.vram <= 512*mib: // no card that ROCm lists has so little
		return weak
	case c.files && !c.own && !strings.HasPrefix(c.class, "12"):
		return fair
	}
	return 0
}

// hbm says whether a GPU and its cores share memory in the package, of which nothing is set aside: MI300A.
func (c card) hbm() bool { return c.device == "74a0" || strings.Contains(c.name, "MI300A") }

// readAMD puts together what the kernel's files say and what AMD's tools and the kernel's log add: names, versions,
// and memory where the files are hidden.
func readAMD(a *answer, cards []card) []card {
	for _, more := range [][]card{a.cards("amd_smi", readAMDSMI), a.cards("rocm_smi", readROCm), a.cards("dmesg", readAMDLog)} {
		if len(cards) == 0 {
			cards = more
			continue
		}
		for _, m := range more {
			i := slices.IndexFunc(cards, func(c card) bool { return c.bus != "" && strings.EqualFold(c.bus, m.bus) })
			if i < 0 && len(cards) == 1 && len(more) == 1 {
				i = 0
			}
			if i >= 0 {
				cards[i].add(m)
			}
		}
	}
	gfx, pages, version := readKernel(a.text("gpus"))
	for i := range cards {
		c := &cards[i]
		c.add(card{gfx: gfx[strings.ToLower(c.bus)], version: cmp.Or(c.version, version), from: "gpus"})
		if c.gtt != nil && pages != nil && *pages < *c.gtt {
			c.gtt, c.sized = pages, origin(c.sized, "gpus")
		}
	}
	return cards
}

// add takes from another source what is not known yet. A tool's name counts, unless it is the one that many chips have.
func (c *card) add(m card) {
	before := *c
	if m.name != "" && (c.name == "" || m.name != "AMD Radeon Graphics") {
		c.name = m.name
	}
	c.device, c.bus = cmp.Or(c.device, m.device), cmp.Or(c.bus, m.bus)
	c.version, c.gfx = cmp.Or(m.version, c.version), cmp.Or(c.gfx, m.gfx)
	if c.index == nil {
		c.index = m.index
	}
	if c.vram == nil && m.vram != nil {
		c.vram, c.vramUsed, c.sized = m.vram, m.vramUsed, origin(c.sized, m.from)
	}
	if c.gtt == nil && m.gtt != nil {
		c.gtt, c.gttUsed, c.sized = m.gtt, m.gttUsed, origin(c.sized, m.from)
	}
	c.apu, c.asleep = c.apu || m.apu, c.asleep || m.asleep
	if *c != before {
		c.from = origin(c.from, m.from)
	}
}

// readKernel reads the compute targets of KFD's nodes by PCI slot, the most that all graphics drivers together may take
// of RAM, in bytes, and the version of an amdgpu that did not come with the kernel.
func readKernel(text string) (gfx map[string]string, limit *int64, version string) {
	nodes := map[string]map[string]int64{}
	for path, line := range files(text) {
		switch {
		case strings.HasPrefix(path, "/sys/class/kfd/") && len(nodes) < maxRows:
			key, val, _ := strings.Cut(line, " ")
			if n := num(val); n != nil {
				if nodes[path] == nil {
					nodes[path] = map[string]int64{}
				}
				nodes[path][key] = *n
			}
		case path == "/sys/module/ttm/parameters/pages_limit":
			if n := num(line); n != nil && *n > 0 && *n < 1<<34 {
				limit = ptr(*n * 4096)
			}
		case path == "/sys/module/amdgpu/version":
			version = line
		}
	}
	gfx = map[string]string{}
	for _, n := range nodes {
		if at := n["location_id"]; n["gfx_target_version"] > 0 && n["simd_count"] > 0 { // a node without is a processor
			slot := fmt.Sprintf("%04x:%02x:%02x.%x", n["domain"], at>>8&0xff, at>>3&0x1f, at&7)
			gfx[slot] = gfxName(n["gfx_target_version"])
		}
	}
	return gfx, limit, version
}

// gfxName writes 110501 as gfx1151 and 90010 as gfx90a: two decimal digits each, the last two parts in hexadecimal.
func gfxName(v int64) string { return fmt.Sprintf("gfx%d%x%x", v/10000, v/100%100, v%100) }

// amd adds AMD's cards, and reports whether the host's memory is one of theirs.
func (r *Report) amd(a *answer, cards []card) (unified bool) {
	// A small GPU in the processor runs no models beside a card.
	alone := len(r.Accelerators) == 0 && !slices.ContainsFunc(cards, func(c card) bool { return c.integrated() == 0 })
	side := func(c card) bool { kind := c.integrated(); return kind == weak || kind == fair && !alone }
	shut := ""
	if slices.ContainsFunc(cards, func(c card) bool { return !side(c) }) {
		shut = r.amdShut(a)
	}
	for _, c := range cards {
		if len(r.Accelerators) >= maxGPUs {
			break
		}
		known := c.vram != nil && *c.vram > 0 || c.gtt != nil && *c.gtt > 0
		if !known && c.module != "amdgpu" && !c.files && c.index == nil && c.module != "?" {
			r.undriven("AMD", "a kernel with amdgpu", c)
			continue
		}
		acc := c.accelerator("AMD")
		kind := c.integrated()
		if _, gpu, ok := strings.Cut(r.CPU, " w/ "); ok && kind != 0 { // "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S"
			acc.Name, acc.From = strings.Join(strings.Fields(gpu), " "), origin(acc.From, "cpu")
		}
		switch {
		case side(c):
			if r.Memory.TotalBytes != nil {
				acc.Pool = ptr("host")
			}
			r.Accelerators = append(r.Accelerators, acc)
			continue
		case shut != "":
			acc.State, acc.From = "no-permission", origin(acc.From, shut)
		case c.asleep:
			acc.State = "asleep"
			r.warn("%s is asleep: it wakes when an engine uses it", acc.Name)
		}
		switch {
		case shut != "" && !service(a):
			r.Accelerators = append(r.Accelerators, acc)
		case kind != 0 && c.hbm():
			total, from := c.vram, c.sized
			if r.Memory.TotalBytes != nil {
				total, from = r.Memory.TotalBytes, ""
			}
			r.addShared(acc, from, total, nil, "")
			unified = true
		case kind != 0 && known:
			unified = r.addAPU(acc, c) || unified
		default:
			if !known && acc.State == "ok" {
				acc.State = "unknown"
				r.warn("%s does not tell its memory", acc.Name)
			}
			r.addDedicated(acc, c)
		}
	}
	return unified
}

// addAPU adds a GPU in a processor, and reports whether its memory is the host's.
//
// The firmware takes a part of RAM away from the system for it (the carve-out), and the kernel lets it reach a part of
// what is left (GTT). ROCm uses the larger of the two and never both (apu_prefer_gtt in the kernel's amdgpu_ttm.c): a
// carve-out of that size is a memory of its own, else the host's memory is the GPU's, up to GTT's limit.
func (r *Report) addAPU(acc Accelerator, c card) (unified bool) {
	gtt := c.gtt
	if all := r.Memory.TotalBytes; gtt != nil && all != nil {
		gtt = ptr(min(*gtt, *all))
	}
	if c.vram != nil && (gtt == nil || *gtt <= *c.vram) {
		p := r.pool("unified", Unified, acc.Vendor, c.vram, c.free())
		p.FreeFrom, p.From = "", c.sized
		p.BudgetBytes, p.How = budget(Dedicated, acc.Vendor, c.vram, c.free())
		acc.Pool = ptr("unified")
		r.Accelerators = append(r.Accelerators, acc)
		return false
	}
	total := *gtt
	if c.vram != nil {
		total += *c.vram
	}
	limit := less(gtt, c.gttUsed)
	if limit == nil && r.Memory.AvailableBytes != nil {
		limit = gtt
	}
	r.addShared(acc, c.sized, &total, limit, "GTT limit of "+gib(gtt)+" GiB")
	return true
}

// amdShut is the From of this login not being allowed to use AMD's cards, with a warning of what to do. It is empty if
// the login may.
func (r *Report) amdShut(a *answer) (from string) {
	text := a.text("gpus")
	if denied(text, "/dev/kfd") {
		from = "gpus"
	}
	for _, name := range []string{"amd_smi", "rocm_smi"} {
		said := a.text(name)
		if strings.Contains(said, "missing the following required groups") || strings.Contains(said, "/dev/kfd") && strings.Contains(said, "Permission denied") {
			from = origin(from, name)
		}
	}
	switch {
	case from != "":
		r.warn("this login may not use the AMD GPU: add it to the groups render and video (on the box: sudo usermod -aG render,video \"$USER\"), then log in again")
	case strings.Contains(text, "missing /dev/kfd"):
		from = "gpus"
		r.warn("/dev/kfd is missing: a container must be started with --device /dev/kfd --device /dev/dri; elsewhere the driver did not start")
	}
	return from
}

// service reports whether Ollama runs as a system service, which has groups of its own.
func service(a *answer) bool {
	return slices.Contains(strings.Split(a.text("procs"), "\n"), "unit active")
}

// readAMDLog reads what amdgpu writes to the kernel's log when it starts, for kernels whose files tell no sizes:
// "1024M of VRAM memory ready", "128000M of GTT memory ready". Lines without a slot belong to the last one.
func readAMDLog(text string) []card {
	var cards []card
	bus, chip := "", false
	last := func(room bool) *card { // the card that a line of sizes belongs to
		if n := len(cards); n > 0 && !room {
			return &cards[n-1]
		}
		if len(cards) >= maxGPUs {
			return &card{}
		}
		cards = append(cards, card{vendor: "1002", module: "amdgpu", bus: bus, apu: chip})
		chip = false
		return &cards[len(cards)-1]
	}
	for line := range strings.SplitSeq(text, "\n") {
		_, after, ok := strings.Cut(line, "amdgpu ")
		if slot, _, found := strings.Cut(after, ": "); ok && found && strings.Count(slot, ":") == 2 {
			bus = slot
		}
		chip = chip || strings.Contains(line, "ATOM BIOS: 113-STRX") || strings.Contains(line, "Capping GTT")
		before, what, ok := strings.Cut(line, "M of ")
		n := num(before[strings.LastIndexByte(before, ' ')+1:])
		if !ok || n == nil || *n >= 1<<26 {
			continue
		}
		switch {
		case strings.HasPrefix(what, "VRAM memory ready"):
			last(true).vram = ptr(*n * mib)
		case strings.HasPrefix(what, "GTT memory ready"):
			c := last(len(cards) == 0 || cards[len(cards)-1].gtt != nil)
			c.gtt = ptr(*n * mib)
		}
	}
	return cards
}

// indexOf is a card's number in a tool's list.
func indexOf(s string) *int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n >= 1<<20 {
		return nil
	}
	return &n
}
