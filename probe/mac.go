package probe

import (
	"cmp"
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
			s[strings.TrimSpace(key)] = strings.TrimSpace(val)
		}
	}
	name, version := "macOS", ""
	for line := range strings.SplitSeq(a.text("sw_vers"), "\n") {
		key, val, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "ProductVersion" {
			version = strings.TrimSpace(val)
		}
	}
	r.OSName = strings.TrimSpace(name + " " + version)
	r.Product, r.CPU = s["hw.model"], s["machdep.cpu.brand_string"]
	if n := num(s["hw.ncpu"]); n != nil {
		r.Cores = ptr(int(*n))
	}
	apple := s["hw.optional.arm64"] == "1" || strings.HasPrefix(r.CPU, "Apple") || r.Arch == "arm64"
	if apple && s["sysctl.proc_translated"] == "1" {
		r.Arch = "arm64"
	}
	mem := &r.Memory
	mem.TotalBytes = num(s["hw.memsize"])
	r.macSwap(s["vm.swapusage"])
	mem.AvailableBytes, mem.FreeBytes = vmStat(a.text("vm_stat"))
	if !apple {
		if mem.TotalBytes == nil {
			return
		}
		r.pool("host", HostPool, "", mem.TotalBytes, mem.AvailableBytes)
		return
	}
	if s["kern.hv_vmm_present"] == "1" {
		r.pool("host", HostPool, "", mem.TotalBytes, mem.AvailableBytes)
		r.warn("this Mac is a virtual machine: engines cannot use the GPU")
		return
	}
	p := r.pool("unified", Unified, "Apple", mem.TotalBytes, mem.AvailableBytes)
	if p.BudgetBytes != nil {
		if limit, how := wiredLimit(*mem.TotalBytes, s); limit < *p.BudgetBytes {
			p.BudgetBytes, p.How = &limit, how
		}
	}
	r.Accelerators = append(r.Accelerators, Accelerator{Vendor: "Apple", Name: cmp.Or(r.CPU, "Apple GPU"), Index: ptr(0), Pool: ptr(p.ID), State: "ok"})
}

// wiredLimit is how much of a Mac's memory its GPU may hold. Unless it was set by hand, macOS does not tell it to a
// shell: two thirds up to 36 GiB and three quarters above is the least that was measured on any macOS.
func wiredLimit(total int64, s map[string]string) (int64, string) {
	for _, key := range []string{"iogpu.wired_limit_mb", "debug.iogpu.wired_limit"} {
		if n := num(s[key]); n != nil && *n > 0 && *n < 1<<40 {
			return min(*n*mib, total), "wired limit set by hand"
		}
	}
	if total <= 36*giB {
		return total / 3 * 2, "wired limit, estimated: 2/3"
	}
	return total / 4 * 3, "wired limit, estimated: 3/4"
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
	if size == 0 || size > 1<<20 {
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
