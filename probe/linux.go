package probe

import (
	"slices"
	"strconv"
	"strings"
)

func (r *Report) uname(text string) {
	w := strings.Fields(text)
	if len(w) < 3 {
		return
	}
	r.OS, r.Arch = strings.ToLower(w[0]), w[len(w)-1]
	version := strings.SplitN(w[1], ".", 3)
	r.Kernel = w[0] + " " + strings.Join(version[:min(2, len(version))], ".")
}

func num(s string) *int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 {
		return nil
	}
	return &n
}

func ptr[T any](v T) *T { return &v }

// meminfo reads "Name: 123 kB" lines of /proc/meminfo into bytes.
func meminfo(text string) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.SplitSeq(text, "\n") {
		key, val, ok := strings.Cut(line, ":")
		w := strings.Fields(val)
		if !ok || len(w) == 0 {
			continue
		}
		n, err := strconv.ParseInt(w[0], 10, 64)
		if err != nil || n < 0 || n > 1<<50 {
			continue
		}
		if len(w) > 1 && w[1] == "kB" {
			n *= 1024
		}
		m[strings.TrimSpace(key)] = n
	}
	return m
}

// freeTable reads what free prints, with the names of meminfo: for a box whose /proc/meminfo cannot be read, where
// busybox's free still asks the kernel. Its numbers are KiB, or have a unit: 7.6Gi, 543Mi, 0B.
func freeTable(text string) map[string]int64 {
	m := map[string]int64{}
	var head []string
	for line := range strings.SplitSeq(text, "\n") {
		w := strings.Fields(line)
		if len(w) > 2 && w[0] == "total" {
			head = w
			continue
		}
		if len(w) < 2 || head == nil || w[0] != "Mem:" && w[0] != "Swap:" {
			continue
		}
		for i, cell := range w[1:min(len(w), len(head)+1)] {
			n := freeSize(cell)
			key := map[string]string{"Mem:total": "MemTotal", "Mem:free": "MemFree", "Mem:available": "MemAvailable", "Mem:buffers": "Buffers",
				"Mem:cached": "Cached", "Mem:buff/cache": "Cached", "Swap:total": "SwapTotal", "Swap:free": "SwapFree"}[w[0]+head[i]]
			if n != nil && key != "" {
				m[key] = *n
			}
		}
	}
	return m
}

// freeSize reads a cell of free in bytes.
func freeSize(s string) *int64 {
	digits := strings.TrimRight(s, "BKMGTPEi")
	f, err := strconv.ParseFloat(digits, 64)
	shift, ok := map[string]int{"": 10, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[s[len(digits):]]
	if err != nil || !ok || !(f >= 0 && f < 1<<40) || f*float64(int64(1)<<shift) > 1<<50 {
		return nil
	}
	return ptr(int64(f * float64(int64(1)<<shift)))
}

func (r *Report) linux(a *answer) {
	r.osRelease(a.text("os"))
	r.tegra(a)
	r.cpu(a.text("cpu"))
	m, from := meminfo(a.text("meminfo")), "meminfo"
	if m["MemTotal"] == 0 {
		m, from = freeTable(a.text("free")), "free"
	}
	if m["MemTotal"] == 0 {
		m, from = tegrastats(a.text("tegrastats")), "tegrastats"
	}
	get := func(key string) *int64 {
		if n, ok := m[key]; ok {
			return &n
		}
		return nil
	}
	mem := &r.Memory
	mem.TotalBytes, mem.AvailableBytes, mem.FreeBytes = get("MemTotal"), get("MemAvailable"), get("MemFree")
	if mem.AvailableBytes == nil && mem.FreeBytes != nil { // kernels before 3.14
		mem.AvailableBytes = ptr(*mem.FreeBytes + m["Buffers"] + m["Cached"])
	}
	mem.SwapTotalBytes = get("SwapTotal")
	if free := get("SwapFree"); free != nil && mem.SwapTotalBytes != nil {
		mem.SwapUsedBytes = ptr(max(0, *mem.SwapTotalBytes-*free))
	}
	r.sized = by(from, mem.TotalBytes, mem.AvailableBytes)
	mem.From = by(from, mem.TotalBytes, mem.AvailableBytes, mem.SwapTotalBytes)
	total, avail := r.cgroup(a.text("cgroup"))
	unified := r.nvidia(a)
	unified = r.otherGPUs(a) || unified
	if unified {
		if r.Memory.CgroupLimitBytes != nil {
			r.warn("this login may use %s GiB of memory, less than the machine has: an engine that it starts is stopped beyond that", gib(r.Memory.CgroupLimitBytes))
		}
		return
	}
	rest, avail := r.withoutGPUNodes(a.text("cpu"), total, avail)
	from = origin(r.sized, by("cgroup", mem.CgroupLimitBytes))
	if rest != total {
		from = origin(from, "cpu")
	}
	if rest != nil {
		r.pool("host", HostPool, "", rest, avail).From = from
	}
}

// withoutGPUNodes takes the memory of a GH200's or GB200's GPU out of the host's: Linux counts it in MemTotal, as
// memory nodes without a CPU, "node FREE TOTAL" in kB. It is the GPU's pool already. Of other machines such nodes are
// memory of the host on a bus of its own.
func (r *Report) withoutGPUNodes(text string, total, avail *int64) (*int64, *int64) {
	superchip := slices.ContainsFunc(r.Accelerators, func(a Accelerator) bool {
		return strings.Contains(a.Name, "GH200") || strings.Contains(a.Name, "GB200") || strings.Contains(a.Name, "GB300")
	})
	if !superchip || total == nil {
		return total, avail
	}
	var all, free int64
	for line := range strings.SplitSeq(text, "\n") {
		w := strings.Fields(line)
		if len(w) != 3 || w[0] != "node" {
			continue
		}
		if f, t := num(w[1]), num(w[2]); f != nil && t != nil && *f <= *t && *t < 1<<40 {
			all, free = all+*t*1024, free+*f*1024
		}
	}
	// Under a control group's limit that is smaller than the rest, the limit stands.
	machine := r.Memory.TotalBytes
	if all <= 0 || machine == nil || all >= *machine {
		return total, avail
	}
	total = ptr(min(*total, *machine-all))
	if avail != nil {
		avail = ptr(max(0, min(*avail, *total, *r.Memory.AvailableBytes-free)))
	}
	return total, avail
}

// cpu reads "cores N", "model NAME" (one line for each kind of core) and the flags that matter.
func (r *Report) cpu(text string) {
	var models []string
	for line := range strings.SplitSeq(text, "\n") {
		key, val, _ := strings.Cut(line, " ")
		val = strings.TrimSpace(val)
		switch key {
		case "cores":
			if n := num(val); n != nil && *n > 0 && *n < 1<<20 {
				r.Cores = ptr(int(*n))
			}
		case "model":
			if val != "" && val != "-" {
				models = append(models, val)
			}
		case "amx_tile":
			r.AMX = true
		}
	}
	r.CPU = strings.Join(models, " + ")
}

// cgroup applies the tightest limit that the login is under, and returns what is then there and free. Each line is
// "FILE LIMIT USED CACHE FOLDER"; file cache that is not in use can be had again.
func (r *Report) cgroup(text string) (total, avail *int64) {
	total, avail = r.Memory.TotalBytes, r.Memory.AvailableBytes
	if total == nil {
		return total, avail
	}
	for line := range strings.SplitSeq(text, "\n") {
		w := strings.Fields(line)
		if len(w) < 2 || w[0] != "memory.max" && w[0] != "memory.limit_in_bytes" {
			continue
		}
		limit := num(w[1])
		if limit == nil || *limit >= *r.Memory.TotalBytes { // "max", or the huge number that means none
			continue
		}
		if *limit < *total {
			total, r.Memory.CgroupLimitBytes = limit, limit
			r.Memory.From = origin(r.Memory.From, "cgroup")
		}
		room := *limit
		if len(w) > 2 {
			if used := num(w[2]); used != nil {
				room -= *used
			}
		}
		if len(w) > 3 {
			if cache := num(w[3]); cache != nil {
				room += *cache
			}
		}
		if avail != nil {
			avail = ptr(min(*avail, max(0, min(room, *limit))))
		}
	}
	return total, avail
}

func (r *Report) osRelease(text string) {
	file, vendor := "", ""
	for line := range strings.SplitSeq(text, "\n") {
		if f, ok := strings.CutPrefix(line, "==> "); ok {
			file = f
			continue
		}
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		switch {
		case strings.HasSuffix(file, "os-release"):
			if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				r.OSName = strings.Trim(v, `"'`)
				for _, cut := range []string{" LTS", " GNU/Linux", " ("} {
					if i := strings.Index(r.OSName, cut); i > 0 {
						if cut == " GNU/Linux" {
							r.OSName = strings.Replace(r.OSName, cut, "", 1)
							continue
						}
						r.OSName = r.OSName[:i]
					}
				}
			}
		case strings.HasSuffix(file, "osrelease"):
			if strings.Contains(strings.ToLower(line), "microsoft") {
				r.OSName += " on WSL"
			}
		case strings.HasSuffix(file, "nv_tegra_release"):
			if strings.HasPrefix(line, "# R") {
				r.jetson = "os"
			}
		case strings.HasSuffix(file, "device-tree/model"):
			r.Product = line
			if strings.Contains(line, "Jetson") {
				r.jetson = "os"
			}
		case strings.HasSuffix(file, "sys_vendor"):
			vendor = line
		case strings.HasSuffix(file, "product_name"):
			if r.Product == "" && line != "System Product Name" && line != "To Be Filled By O.E.M." {
				r.Product = strings.ReplaceAll(line, "_", " ")
				if vendor != "" && !strings.Contains(strings.ToLower(r.Product), strings.ToLower(strings.Fields(vendor)[0])) {
					r.Product = vendor + " " + r.Product
				}
			}
		}
	}
}

// disks reads pairs of "path P" and what df -Pk says of it. A df that knows no -P breaks the row behind a long device
// name; then the second half is enough.
func (r *Report) disks(text string) {
	path, unit := "", int64(1024)
	for line := range strings.SplitSeq(text, "\n") {
		if p, ok := strings.CutPrefix(line, "path "); ok {
			if path != "" && len(r.Disk) < maxRows { // df said nothing of the one before
				r.Disk = append(r.Disk, Disk{Path: path, From: "disk"})
			}
			path, unit = p, 1024
			continue
		}
		if strings.Contains(line, "512-blocks") { // a Mac's, without -k
			unit = 512
		}
		if path == "" || len(r.Disk) >= maxRows {
			continue
		}
		if room := dfRoom(line); room != nil {
			r.Disk = append(r.Disk, Disk{Path: path, FreeBytes: ptr(*room * unit), From: "disk"})
			path = ""
		}
	}
	if path != "" && len(r.Disk) < maxRows {
		r.Disk = append(r.Disk, Disk{Path: path, From: "disk"})
	}
}

// dfRoom is the number before the percentage, with two more before it: a device and a mount point may have spaces, and
// the percentage of a file system without a size is "-".
func dfRoom(line string) *int64 {
	w := strings.Fields(line)
	for i := 3; i < len(w); i++ {
		if w[i] != "-" && !strings.HasSuffix(w[i], "%") || num(w[i-2]) == nil || num(w[i-3]) == nil {
			continue
		}
		if n := num(w[i-1]); n != nil && *n < 1<<53 {
			return n
		}
	}
	return nil
}
