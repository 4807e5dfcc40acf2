package probe

import (
	"fmt"
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

func (r *Report) linux(a *answer) {
	r.osRelease(a.text("os"))
	r.cpu(a.text("cpu"))
	m := meminfo(a.text("meminfo"))
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
	total, avail := r.cgroup(a.text("cgroup"))
	unified := r.nvidia(a)
	r.otherGPUs(a.text("gpus"))
	if unified {
		if r.Memory.CgroupLimitBytes != nil {
			r.warn("this login may use %s GiB of memory, less than the machine has: an engine that it starts is stopped beyond that", gib(r.Memory.CgroupLimitBytes))
		}
		return
	}
	if total != nil {
		r.pool("host", HostPool, "", total, avail)
	}
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

// otherGPUs names the GPUs of other makers by their PCI ids, "card VENDOR DEVICE SLOT". Their memory is not read yet,
// so they give no pool.
func (r *Report) otherGPUs(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		w := strings.Fields(line)
		if len(w) < 4 || w[0] != "card" || len(r.Accelerators) >= maxGPUs {
			continue
		}
		var vendor string
		switch {
		case w[1] == "0x1002":
			vendor = "AMD"
		case w[1] == "0x8086" && !strings.HasSuffix(w[3], ":00:02.0"): // that slot is the one in the CPU
			vendor = "Intel"
		default:
			continue
		}
		name := fmt.Sprintf("%s GPU %s", vendor, strings.TrimPrefix(w[2], "0x"))
		r.Accelerators = append(r.Accelerators, Accelerator{Vendor: vendor, Name: name, Bus: &w[3], State: "unknown"})
		r.warn("%s: the memory of GPUs by %s is not read yet, so the box counts as one without a GPU", name, vendor)
	}
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
			r.jetson = r.jetson || strings.HasPrefix(line, "# R")
		case strings.HasSuffix(file, "device-tree/model"):
			r.Product = line
			r.jetson = r.jetson || strings.Contains(line, "Jetson")
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

// disks reads pairs of "path P" and a line of df -Pk.
func (r *Report) disks(text string) {
	path := ""
	for line := range strings.SplitSeq(text, "\n") {
		if p, ok := strings.CutPrefix(line, "path "); ok {
			path = p
			continue
		}
		w := strings.Fields(line)
		if path == "" || len(w) < 6 {
			continue
		}
		if len(r.Disk) >= maxRows {
			break
		}
		d := Disk{Path: path}
		// From the right: the device's name may have spaces, the mount point seldom has.
		for i := len(w) - 1; i >= 3; i-- {
			if strings.HasSuffix(w[i], "%") {
				if n := num(w[i-1]); n != nil && *n < 1<<53 {
					d.FreeBytes = ptr(*n * 1024)
				}
				break
			}
		}
		r.Disk = append(r.Disk, d)
		path = ""
	}
}
