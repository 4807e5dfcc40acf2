package probe

import (
	"strconv"
	"strings"
)

// mac reads a Mac: one memory for CPU and GPU on Apple Silicon, whose share for the GPU is the wired limit.
func (r *Report) mac(a *answer) {
	s := map[string]string{}
	for line := range strings.SplitSeq(a.text("sysctl"), "\n") {
		key, val, ok := strings.Cut(line, ":")
		if !ok {
			key, val, ok = strings.Cut(line, " = ")
		}
		if ok {
			val, _, _ = strings.Cut(val, " #")
			if _, now, ok := strings.Cut(val, "->"); ok { // sysctl tells a change as "0 -> 114688"
				val = now
			}
			s[strings.TrimSpace(key)] = strings.TrimSpace(val)
		}
	}
	name, version := "macOS", ""
	for line := range strings.SplitSeq(a.text("sw_vers"), "\n") {
		if _, val, ok := strings.Cut(line, "ProductVersion:"); ok {
			version = strings.Fields(val + " x")[0]
		}
	}
	if version != "x" {
		name += " " + version
	}
	r.OSName = strings.TrimSpace(name)
	r.Product, r.CPU = s["hw.model"], s["machdep.cpu.brand_string"]
	if n := num(s["hw.ncpu"]); n != nil && *n > 0 && *n < 1<<20 {
		r.Cores = ptr(int(*n))
	}
	cards, installed := displays(a.text("displays"))
	// Under Rosetta the CPU calls itself "VirtualApple" and the machine x86_64.
	apple := s["hw.optional.arm64"] == "1" || strings.HasPrefix(r.CPU, "Apple") || strings.HasPrefix(r.CPU, "VirtualApple") || r.Arch == "arm64"
	if apple && s["sysctl.proc_translated"] == "1" {
		r.Arch = "arm64"
	}
	mem := &r.Memory
	from := "sysctl"
	if mem.TotalBytes = num(s["hw.memsize"]); mem.TotalBytes == nil || *mem.TotalBytes == 0 {
		mem.TotalBytes, from = installed, "displays"
	}
	r.macSwap(s["vm.swapusage"])
	mem.AvailableBytes, mem.FreeBytes = vmStat(a.text("vm_stat"))
	r.sized = origin(by(from, mem.TotalBytes), by("vm_stat", mem.AvailableBytes))
	mem.From = origin(r.sized, by("sysctl", mem.SwapTotalBytes, mem.SwapUsedBytes))
	if !apple {
		if mem.TotalBytes != nil {
			r.pool("host", HostPool, "", mem.TotalBytes, mem.AvailableBytes).From = r.sized
		}
		r.intelMac(cards)
		return
	}
	if s["kern.hv_vmm_present"] == "1" {
		r.pool("host", HostPool, "", mem.TotalBytes, mem.AvailableBytes).From = r.sized
		r.warn("this Mac is a virtual machine: engines cannot use the GPU")
		return
	}
	p := r.pool("unified", Unified, "Apple", mem.TotalBytes, mem.AvailableBytes)
	p.From = r.sized
	if p.BudgetBytes != nil {
		limit, how, measured := wiredLimit(*mem.TotalBytes, s)
		if limit < *p.BudgetBytes {
			p.BudgetBytes, p.How = &limit, how
			if !measured {
				r.warn("how much of its memory this Mac gives its GPU is estimated: %s GiB; sudo sysctl iogpu.wired_limit_mb=N on the Mac sets it", gib(&limit))
			}
		}
	}
	gpu, from := "Apple GPU", "uname"
	switch {
	case len(cards) > 0 && cards[0].vendor == "Apple" && cards[0].name != "":
		gpu, from = cards[0].name, "displays"
	case r.CPU != "":
		gpu, from = r.CPU, "sysctl"
	}
	r.Accelerators = append(r.Accelerators, Accelerator{Vendor: "Apple", Name: gpu, Index: ptr(0), Pool: ptr(p.ID), State: "ok", From: from})
}

// intelMac names the GPUs of an Intel Mac. No pool is made of them: Ollama uses the CPU alone there
// (docs.ollama.com/macos), and macOS tells no free memory of a GPU.
func (r *Report) intelMac(cards []macGPU) {
	for i, c := range cards {
		r.Accelerators = append(r.Accelerators, Accelerator{Vendor: c.vendor, Name: c.name, Index: ptr(i), State: "unknown", From: "displays"})
	}
	if len(cards) > 0 {
		r.warn("engines use the CPU alone on an Intel Mac, whatever its GPU")
	}
}

// wiredLimit is how much of a Mac's memory its GPU may hold, in bytes, and whether that is known. The setting is in MiB
// and 0 stands for macOS's own choice, which it does not tell a shell. Measured on Macs left alone: 2/3 of 16 to
// 32 GiB, 3/4 of 128 GiB, and up to 0.84 since macOS 26; the least of these is the estimate.
func wiredLimit(total int64, s map[string]string) (limit int64, how string, known bool) {
	for _, key := range []string{"iogpu.wired_limit_mb", "debug.iogpu.wired_limit"} { // the second up to macOS 13
		if n := num(s[key]); n != nil && *n > 0 && *n < 1<<40 {
			return min(*n*mib, total), "wired limit set by hand", true
		}
	}
	if total <= 36*giB {
		return total / 3 * 2, "wired limit, estimated: 2/3", false
	}
	return total / 4 * 3, "wired limit, estimated: 3/4", false
}

// macSwap reads "total = 2048.00M  used = 1024.50M  free = 1023.50M".
func (r *Report) macSwap(text string) {
	w := strings.Fields(text)
	for i := 0; i+2 < len(w); i++ {
		if w[i+1] != "=" {
			continue
		}
		f, err := strconv.ParseFloat(strings.Replace(strings.TrimSuffix(w[i+2], "M"), ",", ".", 1), 64)
		if err != nil || f < 0 || f > 1e9 {
			continue
		}
		switch w[i] {
		case "total":
			r.Memory.SwapTotalBytes = ptr(int64(f * float64(mib)))
		case "used":
			r.Memory.SwapUsedBytes = ptr(int64(f * float64(mib)))
		}
	}
}

// vmStat adds up the pages that can be had now. The page size is in the first line: 16384 on Apple Silicon.
func vmStat(text string) (avail, free *int64) {
	lines := strings.Split(text, "\n")
	size := int64(0)
	if _, after, ok := strings.Cut(lines[0], "page size of "); ok {
		if n := num(strings.Fields(after + " x")[0]); n != nil {
			size = *n
		}
	}
	if size < 1 || size > 1<<20 {
		return nil, nil
	}
	var sum int64
	for _, line := range lines[1:] {
		key, val, _ := strings.Cut(line, ":")
		n := num(strings.TrimSuffix(strings.TrimSpace(val), "."))
		if n == nil || *n > 1<<40 {
			continue
		}
		switch strings.Trim(key, `" `) {
		case "Pages free":
			free = ptr(*n * size)
			sum += *n * size
		case "Pages speculative", "Pages inactive", "Pages purgeable":
			sum += *n * size
		}
	}
	if free == nil {
		return nil, nil
	}
	return &sum, free
}
