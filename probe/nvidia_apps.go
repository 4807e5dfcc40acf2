package probe

import (
	"slices"
	"strings"
)

// readApps reads nvidia-smi --query-compute-apps with its header: the cards that processes compute on, each with what
// those hold of it. It is a reader for an answer that has this section alone; the scripts ask for the cards themselves,
// which tell more. Without a header the columns are anybody's guess.
func readApps(text string) (gpus []gpu) {
	var fields []string
	for line := range strings.SplitSeq(text, "\n") {
		cells := strings.Split(line, ",")
		if fields == nil && (strings.Contains(line, "gpu_uuid") || strings.Contains(line, "gpu_bus_id")) {
			for _, c := range cells {
				name, _, _ := strings.Cut(strings.TrimSpace(c), " ") // "used_gpu_memory [MiB]"
				fields = append(fields, name)
			}
			continue
		}
		process := slices.Index(fields, "process_name")
		extra := len(cells) - len(fields) // commas in the process's name
		if extra < 0 || extra > 0 && process < 0 {
			continue
		}
		cell := func(name string) string {
			i := slices.Index(fields, name)
			if i < 0 {
				return ""
			}
			if i > process {
				i += extra
			}
			return strings.TrimSpace(cells[i])
		}
		g := gpu{from: "nv_apps", name: cell("gpu_name"), uuid: cell("gpu_uuid"), bus: cell("gpu_bus_id"), memory: "Unknown Error"}
		if placeholder(g.uuid) && placeholder(g.bus) {
			continue
		}
		i := slices.IndexFunc(gpus, func(o gpu) bool { return o.uuid == g.uuid && o.bus == g.bus })
		if i < 0 {
			if len(gpus) >= maxGPUs {
				continue
			}
			gpus, i = append(gpus, g), len(gpus)
		}
		used := mibOf(cell("used_gpu_memory"))
		if used == nil {
			used = mibOf(cell("used_memory"))
		}
		if used != nil {
			held := *used
			if gpus[i].held != nil {
				held = min(held+*gpus[i].held, 1<<50)
			}
			gpus[i].held = &held
		}
	}
	return gpus
}
