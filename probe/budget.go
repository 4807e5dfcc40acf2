package probe

import "slices"

const (
	mib = int64(1) << 20
	giB = int64(1) << 30
)

// budget is what a model may take of a pool: what is free, less a margin that the system or the driver needs. All
// rules stand here and nowhere else; a percentage is of the pool's total, and the larger of two margins counts.
//
//	dedicated, partition  1 GiB or 3 %: the CUDA context, the allocator, a desktop
//	unified, NVIDIA       6 GiB or 6 %: running out freezes the whole machine, not only the engine
//	unified, Jetson       1 GiB or 10 %: the same on boards of 8 to 128 GiB
//	unified, AMD, Intel   4 GiB or 5 %, and never more than the GPU may reach (pci.go)
//	unified, Apple        2 GiB, and never more than the wired limit (mac.go)
//	host                  2 GiB or 10 %
//
// The budget is nil if the total or what is free is not known.
func budget(kind, vendor string, total, free *int64) (*int64, string) {
	if total == nil || free == nil {
		return nil, ""
	}
	floor, percent, how := giB, int64(3), "1 GiB or 3 % kept for the driver"
	switch {
	case kind == Unified && vendor == "NVIDIA":
		floor, percent, how = 6*giB, 6, "6 GiB or 6 % kept for the system"
	case kind == Unified && vendor == jetson:
		floor, percent, how = giB, 10, "1 GiB or 10 % kept for the system"
	case kind == Unified && (vendor == "AMD" || vendor == "Intel"):
		floor, percent, how = 4*giB, 5, "4 GiB or 5 % kept for the system"
	case kind == Unified:
		floor, percent, how = 2*giB, 0, "2 GiB kept for the system"
	case kind == HostPool:
		floor, percent, how = 2*giB, 10, "2 GiB or 10 % kept for the system"
	}
	b := max(0, *free-max(floor, *total/100*percent))
	return &b, how
}

// jetson is the vendor of a unified pool on a Tegra board, where NVIDIA alone means GB10 and its kin.
const jetson = "NVIDIA Jetson"

func (r *Report) pool(id, kind, vendor string, total, free *int64) *Pool {
	b, how := budget(kind, vendor, total, free)
	p := Pool{ID: id, Kind: kind, TotalBytes: total, FreeBytes: free, BudgetBytes: b, How: how}
	switch {
	case r.OS != "linux" || free == nil || kind != Unified && kind != HostPool:
	case kind == HostPool && r.Memory.CgroupLimitBytes != nil:
		p.FreeFrom = "control group"
	case r.sized == "tegrastats":
		p.FreeFrom = "tegrastats"
	default:
		p.FreeFrom = "MemAvailable"
	}
	r.Pools = append(r.Pools, p)
	return &r.Pools[len(r.Pools)-1]
}

// closing adds the warnings that need the whole report.
func (r *Report) closing() {
	swapped := giB
	if total := r.Memory.TotalBytes; total != nil && r.OS == "darwin" { // where a little swap is always in use
		swapped = max(swapped, *total/16)
	}
	if s := r.Memory.SwapUsedBytes; s != nil && *s > swapped {
		r.warn("%s GiB of swap are in use: the box is or was short of memory", gib(s))
	}
	if p := r.Best(); p != nil && p.Kind == Unified && r.OS == "linux" && r.heldBy(p, "NVIDIA") {
		if f := r.Memory.FreeBytes; f != nil && p.FreeBytes != nil && *p.FreeBytes-*f > 16*giB {
			r.warn("%s GiB are page cache: vLLM counts them as used; on the box: sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'", gib(ptr(*p.FreeBytes-*f)))
		}
	}
	for _, e := range r.Engines {
		if e.Exposed != nil && *e.Exposed && e.Address != nil {
			open := "open to the network"
			if e.Name == "ollama" { // the others may have been given a key
				open += " without a password"
			}
			r.warn("%s listens on %s, %s", e.Name, *e.Address, open)
		}
	}
}

// heldBy says whether a GPU of that vendor has a pool.
func (r *Report) heldBy(p *Pool, vendor string) bool {
	return slices.ContainsFunc(r.Accelerators, func(a Accelerator) bool { return a.Vendor == vendor && a.Pool != nil && *a.Pool == p.ID })
}
