package probe

import (
	"cmp"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// card is one GPU of AMD's or Intel's, as the kernel's files or its maker's tools tell it. Numbers are bytes; nil is
// not known.
type card struct {
	vendor, device string // PCI ids as in "1002", "744c"; empty if not known
	class          string // "30000" is a VGA card, "120000" a processing accelerator
	bus            string // "0000:03:00.0"
	module         string // the kernel's driver that holds it: amdgpu, i915, xe, vfio-pci; empty means none
	name, version  string // version is the driver's
	gfx            string // "gfx1151"
	index          *int

	vram, vramUsed *int64 // of an integrated GPU: what the firmware took out of RAM for it
	gtt, gttUsed   *int64 // RAM that the card may reach; of a discrete card it is no memory of its own
	files, own     bool   // the kernel's files of its memory were read; there are some that no integrated GPU has
	apu            bool   // a log or a tool says that it is integrated
	asleep         bool

	from, sized string // sized is the From of vram and gtt
}

// cards reads the cards of a section.
func (a *answer) cards(name string, read func(text string) []card) []card {
	cards := read(a.text(name))
	for i := range cards {
		cards[i].from, cards[i].sized = name, by(name, cards[i].vram, cards[i].gtt)
	}
	return cards
}

// free is what is left of the card's own memory.
func (c card) free() *int64 { return less(c.vram, c.vramUsed) }

func less(total, used *int64) *int64 {
	if total == nil || used == nil {
		return nil
	}
	return ptr(max(0, *total-*used))
}

// size reads a number of bytes that a memory may have, up to 64 TiB.
func size(s string) *int64 {
	s, _, _ = strings.Cut(strings.TrimSpace(s), " ") // "103079215104 (96 GiB)"
	if n := num(s); n != nil && *n <= 1<<46 {
		return n
	}
	return nil
}

// pathLine is "PATH:VALUE", as grep -H prints it. The slots of PCI devices have colons of their own.
var pathLine = regexp.MustCompile(`^(/sys/(?:bus/pci/devices/[0-9A-Fa-f:.]+/)?[^:\s]+):\s*(.*)$`)

// files goes through the lines of files, each with its path: "PATH:VALUE" in every line, or "==> PATH <==" above them.
func files(text string) iter.Seq2[string, string] {
	return func(yield func(path, line string) bool) {
		path := ""
		for line := range strings.SplitSeq(text, "\n") {
			line = strings.TrimSpace(line)
			if head, ok := strings.CutPrefix(line, "==> "); ok {
				path = strings.TrimSuffix(head, " <==")
				continue
			}
			file := path
			if m := pathLine.FindStringSubmatch(line); m != nil {
				file, line = m[1], m[2]
			}
			if file != "" && line != "" && !yield(file, line) {
				return
			}
		}
	}
}

// device finds a card in a path, and which of its files the path is.
var device = regexp.MustCompile(`^/sys/(?:bus/pci/devices/([0-9A-Fa-f:.]+)|class/drm/card\d+)/(?:device/)?(\S+)$`)

// readPCI reads the kernel's files of display and compute cards, which need no permission and wake no card.
func readPCI(text string) []card {
	var cards []card
	at := map[string]int{}
	for path, line := range files(text) {
		m := device.FindStringSubmatch(path)
		if m == nil {
			continue
		}
		key := strings.TrimSuffix(path, m[2])
		if _, ok := at[key]; !ok {
			if len(cards) >= maxGPUs {
				continue
			}
			at[key] = len(cards)
			cards = append(cards, card{bus: m[1]})
		}
		c := &cards[at[key]]
		switch m[2] {
		case "uevent":
			c.uevent(line)
		case "vendor":
			c.vendor = cmp.Or(c.vendor, strings.TrimPrefix(line, "0x"))
		case "device":
			c.device = cmp.Or(c.device, strings.TrimPrefix(line, "0x"))
		case "mem_info_vram_total": // amdgpu's alone
			c.vendor, c.files, c.vram = cmp.Or(c.vendor, "1002"), true, size(line)
		case "mem_info_vram_used":
			c.vramUsed = size(line)
		case "mem_info_gtt_total":
			c.gtt = size(line)
		case "mem_info_gtt_used":
			c.gttUsed = size(line)
		case "mem_info_vram_vendor", "board_info":
			c.own = true
		case "product_name", "name":
			c.name = cmp.Or(marketName(line), c.name)
		case "power/runtime_status":
			c.asleep = line == "suspended"
		default:
			switch n := size(line); {
			case n == nil:
			case strings.HasSuffix(m[2], "lmem_total_bytes"): // i915's, by the card's other name
				c.vram = n
			case strings.HasSuffix(m[2], "physical_vram_size_bytes"): // xe's, one for each tile
				if c.vram != nil {
					*n = min(*n+*c.vram, 1<<46)
				}
				c.vram = n
			}
		}
	}
	return cards
}

func (c *card) uevent(line string) {
	key, val, _ := strings.Cut(line, "=")
	switch key {
	case "DRIVER":
		c.module = val
	case "PCI_CLASS":
		c.class = val
	case "PCI_ID":
		vendor, device, _ := strings.Cut(strings.ToLower(val), ":")
		c.vendor, c.device = vendor, device
	case "PCI_SLOT_NAME":
		c.bus = val
	}
}

// marketName is the name that a card is sold under, where the list of PCI ids has it in brackets after the chip's:
// "Navi 48 [Radeon RX 9070/9070 XT]". Words that stand for no name give an empty one.
func marketName(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.Index(s, "["); i > 0 && strings.HasSuffix(s, "]") && i+2 < len(s) {
		s = s[i+1 : len(s)-1]
	}
	if placeholder(s) || strings.HasPrefix(s, "0x") {
		return ""
	}
	return s
}

// pciLine is a line of lspci -nnD: slot, class, maker, name and ids.
var pciLine = regexp.MustCompile(`^([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]) [^[]*\[(0300|0302|0380|1200)\]: (.*) \[([0-9a-f]{4}):([0-9a-f]{4})\]`)

// makers are what the list of PCI ids calls them, in front of a card's name.
var makers = []string{"Intel Corporation ", "Advanced Micro Devices, Inc. [AMD/ATI] ", "NVIDIA Corporation "}

// readLspci reads the display and compute cards of lspci -nnD.
func readLspci(text string) []card {
	var cards []card
	for line := range strings.SplitSeq(text, "\n") {
		m := pciLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || len(cards) >= maxGPUs {
			continue
		}
		name := m[3]
		for _, maker := range makers {
			name = strings.TrimPrefix(name, maker)
		}
		cards = append(cards, card{bus: m[1], class: strings.TrimPrefix(m[2], "0") + "00", name: marketName(name), vendor: m[4], device: m[5]})
	}
	return cards
}

// sysCards are the cards that the kernel knows, with names from wherever there are some.
func sysCards(a *answer) []card {
	cards := a.cards("gpus", readPCI)
	for _, l := range a.cards("lspci", readLspci) {
		i := slices.IndexFunc(cards, func(c card) bool { return strings.EqualFold(c.bus, l.bus) })
		switch {
		case i >= 0 && cards[i].name == "" && l.name != "":
			cards[i].name, cards[i].from = l.name, origin(cards[i].from, l.from)
		case i >= 0:
		case len(cards) < maxGPUs:
			l.module = "?" // lspci -nnD does not tell it
			cards = append(cards, l)
		}
	}
	return cards
}

// denied says whether this login may not open the device file of that name, or one whose name begins so. It reports
// false where there is none.
func denied(text, name string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if f, ok := strings.CutPrefix(strings.TrimSpace(line), "denied "); ok && strings.HasPrefix(f, name) {
			return true
		}
	}
	return false
}

// otherGPUs adds the cards that nvidia-smi does not tell: AMD's, Intel's, and NVIDIA's own without a driver. It
// reports whether the host's memory is one of theirs.
func (r *Report) otherGPUs(a *answer) (unified bool) {
	cards := sysCards(a)
	unified = r.amd(a, readAMD(a, ofVendor(cards, "1002")))
	unified = r.intel(a, ofVendor(cards, "8086")) || unified
	if !slices.ContainsFunc(r.Accelerators, func(acc Accelerator) bool { return acc.Vendor == "NVIDIA" }) && !a.has("nv_csv") {
		for _, c := range ofVendor(cards, "10de") {
			if c.module != "nvidia" && c.module != "?" && len(r.Accelerators) < maxGPUs {
				r.undriven("NVIDIA", "the NVIDIA driver", c)
			}
		}
	}
	for i := range r.Accelerators { // of two integrated GPUs one may have made the host's memory its own
		if acc := &r.Accelerators[i]; unified && acc.Pool != nil && *acc.Pool == "host" {
			acc.Pool = ptr("unified")
		}
	}
	return unified
}

func ofVendor(cards []card, vendor string) []card {
	var some []card
	for _, c := range cards {
		if c.vendor == vendor {
			some = append(some, c)
		}
	}
	return some
}

// undriven adds a card that no driver of use holds.
func (r *Report) undriven(vendor, want string, c card) {
	acc := c.accelerator(vendor)
	acc.State = "unknown"
	r.Accelerators = append(r.Accelerators, acc)
	switch c.module {
	case "vfio-pci":
		r.warn("%s is set aside for a virtual machine: it cannot be used here", acc.Name)
	case "":
		r.warn("%s has no driver: install %s, or start a kernel that has it", acc.Name, want)
	default:
		r.warn("%s is driven by %s, which runs no models: install %s", acc.Name, c.module, want)
	}
}

func (c card) accelerator(vendor string) Accelerator {
	name := cmp.Or(c.name, strings.TrimSpace(vendor+" GPU "+c.device))
	acc := Accelerator{Vendor: vendor, Name: name, Index: c.index, Driver: value(c.version), Compute: value(c.gfx), State: "ok", From: c.from}
	acc.Bus = value(c.bus)
	return acc
}

// addDedicated adds a card that has memory of its own.
func (r *Report) addDedicated(acc Accelerator, c card) {
	if c.vram != nil && *c.vram > 0 {
		id := "gpu" + strconv.Itoa(len(r.Accelerators))
		r.pool(id, Dedicated, acc.Vendor, c.vram, c.free()).From = c.sized
		acc.Pool = &id
	}
	r.Accelerators = append(r.Accelerators, acc)
}

// addShared adds an integrated GPU, whose memory is the host's. Of that it may take limit bytes and no more, how says
// why; nil is no limit. From is of what the host does not tell.
func (r *Report) addShared(acc Accelerator, from string, total, limit *int64, how string) {
	if !slices.ContainsFunc(r.Pools, func(p Pool) bool { return p.Kind == Unified }) {
		avail := r.Memory.AvailableBytes
		if avail == nil {
			avail = limit
		}
		p := r.pool("unified", Unified, acc.Vendor, total, avail)
		p.From = origin(from, r.sized)
		if limit != nil && avail != nil {
			if *limit < *avail || r.Memory.AvailableBytes == nil {
				p.FreeBytes, p.FreeFrom = limit, ""
			}
			if room := max(0, *limit-giB); p.BudgetBytes != nil && room < *p.BudgetBytes {
				p.BudgetBytes, p.How = &room, how+", less 1 GiB for the driver"
			}
		}
	}
	acc.Pool = ptr("unified")
	r.Accelerators = append(r.Accelerators, acc)
}
