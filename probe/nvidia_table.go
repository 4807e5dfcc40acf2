package probe

import (
	"regexp"
	"strconv"
	"strings"
)

// The table of plain nvidia-smi is for people: it shortens names and tells no free memory. It is read for the slices
// of a GPU, which no query tells, and where no query works.
var (
	tableHead  = regexp.MustCompile(`(?:Driver|KMD) Version: *([0-9][0-9.]*)`)
	tableGPU   = regexp.MustCompile(`^\| *(\d{1,4}) +(\S.*?) +(?:On|Off|N/A|WDDM|TCC|MCDM) *\| *([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]|N/A)\b`)
	tableUsage = regexp.MustCompile(`\| *(\d+)MiB */ *(\d+)MiB *\|`)
	tableMIG   = regexp.MustCompile(`^\| +(\d{1,4}) +(\d{1,4}) +(\d{1,4}) +(\d{1,4}) *\| *(\d+)MiB */ *(\d+)MiB *\|`)
	listGPU    = regexp.MustCompile(`^GPU (\d{1,4}): (.+) \(UUID: (GPU-[^)]*)\)`)
	listMIG    = regexp.MustCompile(`^ *MIG (\S+) +Device +(\d{1,4}): \(UUID: (MIG-[^)]*)\)`)
)

// readTable reads the table: each card has a row of its name, a row of its memory and a row of its MIG mode.
func readTable(text string) (gpus []gpu, parts []slice) {
	driver := ""
	for line := range strings.SplitSeq(text, "\n") {
		if len(gpus) >= maxGPUs || len(parts) >= maxGPUs || strings.Contains(line, "Processes:") {
			break
		}
		if m := tableHead.FindStringSubmatch(line); m != nil {
			driver = m[1]
			continue
		}
		if m := tableGPU.FindStringSubmatch(line); m != nil {
			gpus = append(gpus, gpu{from: "nv_table", index: m[1], name: m[2], bus: m[3], driver: driver})
			continue
		}
		if m := tableMIG.FindStringSubmatch(line); m != nil {
			s := slice{from: "nv_table", gpu: m[1], instance: atoi(m[2]), device: atoi(m[4])}
			if s.total = mibOf(m[6]); s.total != nil {
				if used := mibOf(m[5]); used != nil {
					s.free = ptr(max(0, *s.total-*used))
				}
			}
			parts = append(parts, s)
			continue
		}
		if len(gpus) == 0 {
			continue
		}
		g := &gpus[len(gpus)-1]
		switch m := tableUsage.FindStringSubmatch(line); {
		case m != nil && g.memory == "":
			g.memory, g.total = m[2], mibOf(m[2])
			if used := mibOf(m[1]); used != nil && g.total != nil {
				g.free = ptr(max(0, *g.total-*used))
			}
		case strings.Contains(line, "| Not Supported "):
			g.memory = "Not Supported"
		case strings.HasSuffix(strings.TrimRight(line, " |"), " Enabled"):
			g.mig = true
		}
	}
	return gpus, parts
}

// readList reads nvidia-smi -L: the cards, and under each its slices with their names.
func readList(text string) (gpus []gpu, parts []slice) {
	for line := range strings.SplitSeq(text, "\n") {
		if len(gpus) >= maxGPUs || len(parts) >= maxGPUs {
			break
		}
		if m := listGPU.FindStringSubmatch(line); m != nil {
			gpus = append(gpus, gpu{from: "nv_list", index: m[1], name: m[2], uuid: m[3], memory: "Unknown Error"})
		} else if m := listMIG.FindStringSubmatch(line); m != nil && len(gpus) > 0 {
			gpus[len(gpus)-1].mig = true
			parts = append(parts, slice{from: "nv_list", gpu: gpus[len(gpus)-1].index, device: atoi(m[2]), profile: m[1], uuid: m[3]})
		}
	}
	return gpus, parts
}

// atoi reads what a pattern has found to be a short number.
func atoi(s string) int { n, _ := strconv.Atoi(s); return n }
