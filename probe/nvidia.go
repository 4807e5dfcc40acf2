package probe

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// gpu is one card as NVIDIA's tools tell it. Texts are as printed, numbers are bytes; nil is not known.
type gpu struct {
	index, uuid, name, bus, driver, compute string
	memory                                  string // the cell of memory.total: a number or the reason why there is none
	total, free                             *int64
	held                                    *int64 // by processes, where they alone tell of the card
	mig                                     bool   // split into slices; its own memory cannot be used
	slices                                  []slice
	from                                    string
}

// slice is one MIG device. Devices of one instance share its memory.
type slice struct {
	gpu              string // the card's index
	instance, device int
	total, free      *int64
	profile, uuid    string // "1g.10gb", "MIG-…"; empty if not known
	from, named      string // named is the From of profile and uuid
}

// nvidia reads what nvidia-smi and the driver say. It reports whether the machine has unified memory, so that the
// host's pool is the GPU's.
//
// A memory.total that is no number means unified memory, not no GPU and not 0; the addressing mode does not tell it
// (GH200 says ATS and has memory of its own). Errors come on standard output with the NVML code as exit code.
func (r *Report) nvidia(a *answer) (unified bool) {
	for _, g := range readGPUs(a) {
		unified = r.addGPU(g) || unified
	}
	csv := a.sections["nv_csv"]
	for _, name := range []string{"nv_csv", "nv_table"} {
		for line := range strings.SplitSeq(a.text(name), "\n") {
			r.nvidiaTrouble(name, line, csv.rc, a.text("nvproc"))
		}
	}
	if csv.rc == 124 {
		r.noMemory("unknown", "nv_csv", a.text("nvproc"))
		r.warn("nvidia-smi does not answer: the driver hangs")
	}
	if rc := csv.rc; rc > 6 && rc < 124 && len(r.Accelerators)+len(r.Warnings) == 0 { // a code of NVML's that no text of ours explains
		r.noMemory("unknown", "nv_csv", a.text("nvproc"))
		said, _, _ := strings.Cut(csv.text, "\n")
		r.warn("nvidia-smi fails with code %d: %s", rc, said[:min(len(said), 200)])
	}
	switch model := modelOf(a.text("nvproc")); {
	case len(r.Accelerators) > 0:
	case r.jetson != "": // up to JetPack 5 there is no nvidia-smi
		unified = r.addGPU(gpu{name: cmp.Or(r.Product, "NVIDIA Jetson"), from: r.jetson})
	case model != "" && !a.has("nv_csv"):
		r.noMemory("unknown", "nvproc", a.text("nvproc"))
		r.warn("an NVIDIA driver is loaded, but there is no nvidia-smi: the memory of %s is not known", model)
	}
	driver := readVersion(a.text("nv_version"))
	for i := range r.Accelerators {
		if acc := &r.Accelerators[i]; acc.Driver == nil {
			acc.Driver, acc.From = driver, origin(acc.From, by("nv_version", driver))
		}
	}
	return unified
}

// readGPUs takes the cards from the csv query, else from the XML, from the table, from the list, or from the processes
// on them, and adds the slices, whose sizes stand in the table and whose names stand in the list.
func readGPUs(a *answer) []gpu {
	table, parts := readTable(a.text("nv_table"))
	list, named := readList(a.text("nv_list"))
	gpus := readCSV(a.text("nv_csv"), a.fields)
	if len(gpus) == 0 {
		if gpus = readXML(a.text("nv_xml")); slices.ContainsFunc(gpus, func(g gpu) bool { return len(g.slices) > 0 }) {
			parts = nil // the table has the same ones
		}
	}
	if len(gpus) == 0 {
		gpus = table
	}
	if len(gpus) == 0 {
		gpus = list
	}
	if len(gpus) == 0 {
		gpus = readApps(a.text("nv_apps"))
	}
	for _, s := range parts {
		i := slices.IndexFunc(gpus, func(g gpu) bool { return g.index == s.gpu })
		if i < 0 {
			continue
		}
		for _, n := range named {
			if n.gpu == s.gpu && n.device == s.device {
				s.profile, s.uuid, s.named = n.profile, n.uuid, n.from
			}
		}
		gpus[i].mig, gpus[i].slices = true, append(gpus[i].slices, s)
	}
	return gpus
}

// readCSV reads the rows of nvidia-smi --query-gpu. The names of the columns are those that were asked for, or the
// header row's where one was printed.
func readCSV(text, fields string) []gpu {
	var gpus []gpu
	for line := range strings.SplitSeq(text, "\n") {
		if fields == "" && strings.Contains(line, "uuid") {
			fields = line
			continue
		}
		row := csvRow(line, strings.Split(fields, ","))
		if row == nil || len(gpus) >= maxGPUs {
			continue
		}
		g := gpu{
			from: "nv_csv", index: row["index"], uuid: row["uuid"], name: row["name"], bus: row["pci.bus_id"], driver: row["driver_version"],
			compute: row["compute_cap"], memory: row["memory.total"], total: mibOf(row["memory.total"]), free: mibOf(row["memory.free"]),
		}
		g.mig = strings.EqualFold(row["mig.mode.current"], "Enabled")
		gpus = append(gpus, g)
	}
	return gpus
}

// csvRow takes one row apart. The name is last in our queries and may have commas of its own.
func csvRow(line string, fields []string) map[string]string {
	parts := strings.SplitN(line, ",", len(fields))
	if len(fields) < 2 || len(parts) != len(fields) {
		return nil
	}
	row := map[string]string{}
	for i, f := range fields {
		f, _, _ = strings.Cut(strings.TrimSpace(f), " ") // "memory.total [MiB]"
		row[f] = strings.TrimSpace(parts[i])
	}
	if num(row["index"]) == nil && !placeholder(row["index"]) || row["name"]+row["uuid"] == "" {
		return nil
	}
	return row
}

// placeholder reports the words that stand for no value.
func placeholder(s string) bool {
	switch strings.Trim(s, "[]") {
	case "", "N/A", "Not Supported", "Unknown Error", "GPU is lost", "GPU requires reset", "Insufficient Permissions":
		return true
	}
	return strings.Contains(s, "deprecated")
}

func value(s string) *string {
	if placeholder(s) {
		return nil
	}
	return &s
}

// mibOf reads a number of MiB, with or without its unit.
func mibOf(s string) *int64 {
	n := num(strings.TrimSuffix(s, "MiB"))
	if n == nil || *n > 1<<30 {
		return nil
	}
	return ptr(*n * mib)
}

// addGPU adds a card with its pool, and reports whether that is the unified one.
func (r *Report) addGPU(g gpu) (unified bool) {
	acc := Accelerator{
		Vendor: "NVIDIA", Name: cmp.Or(g.name, "NVIDIA GPU"), UUID: value(g.uuid), Bus: value(g.bus),
		Driver: value(g.driver), Compute: value(g.compute), State: "ok", From: g.from,
	}
	if acc.Compute == nil {
		acc.Compute = chipOf(g.name)
	}
	if n := num(g.index); n != nil && *n < 1<<20 {
		acc.Index = ptr(int(*n))
	}
	switch {
	case strings.Contains(g.memory, "lost"):
		acc.State = "lost"
		r.warn("%s is lost: reboot the box", acc.Name)
	case strings.Contains(g.memory, "requires reset"):
		acc.State = "lost"
		r.warn("%s must be reset: reboot the box, or on it: sudo nvidia-smi --gpu-reset", acc.Name)
	case strings.Contains(g.memory, "Permission"):
		acc.State = "no-permission"
		r.warn("%s does not tell its memory: this login has no permission", acc.Name)
	case g.held != nil:
		acc.State = "unknown"
		r.warn("%s does not tell its memory; the processes on it hold %s GiB", acc.Name, gib(g.held))
	case strings.Contains(g.memory, "Unknown Error"):
		acc.State = "unknown"
		r.warn("%s does not tell its memory: unknown error", acc.Name)
	case g.mig:
		// The card's memory as a whole is nobody's: its slices are.
		r.Accelerators = append(r.Accelerators, acc)
		r.addSlices(g, acc)
		return false
	case r.isUnified(g):
		vendor := "NVIDIA"
		if r.jetson != "" || strings.Contains(g.name, "Orin") || strings.Contains(g.name, "Thor") {
			vendor = jetson
		}
		if !slices.ContainsFunc(r.Pools, func(p Pool) bool { return p.Kind == Unified }) {
			r.pool("unified", Unified, vendor, r.Memory.TotalBytes, r.Memory.AvailableBytes).From = r.sized
		}
		acc.Pool, unified = ptr("unified"), true
	case g.total != nil && *g.total > 0:
		id := fmt.Sprintf("gpu%d", len(r.Accelerators))
		r.pool(id, Dedicated, "NVIDIA", g.total, g.free).From = g.from
		acc.Pool = &id
	default:
		acc.State = "unknown"
		r.warn("%s does not tell its memory", acc.Name)
	}
	r.Accelerators = append(r.Accelerators, acc)
	return unified
}

// addSlices gives each instance a pool of its own, and each of its devices a line.
func (r *Report) addSlices(g gpu, card Accelerator) {
	if len(g.slices) == 0 {
		r.warn("%s is in MIG mode and shows no slices: nothing can run on it", card.Name)
	}
	parent := len(r.Accelerators) - 1
	seen := map[string]bool{}
	for _, s := range g.slices {
		id := fmt.Sprintf("gpu%d/gi%d", parent, s.instance)
		if !seen[id] {
			seen[id] = true
			r.pool(id, Partition, "NVIDIA", s.total, s.free).From = s.from
		}
		r.Accelerators = append(r.Accelerators, Accelerator{
			Vendor: "NVIDIA", Name: strings.TrimSpace(card.Name + " MIG " + s.profile), Index: ptr(s.device),
			UUID: value(s.uuid), Bus: card.Bus, Driver: card.Driver, Compute: card.Compute, Pool: &id, State: "ok", From: origin(card.From, s.from, s.named),
		})
	}
}

// isUnified: no number (GB10, Jetson), 0, or about the whole of RAM. A card in a PC that tells no number is not.
func (r *Report) isUnified(g gpu) bool {
	integrated := r.jetson != "" || strings.Contains(g.name, "GB10") || strings.Contains(g.name, "Orin") || strings.Contains(g.name, "Thor")
	if g.total == nil || *g.total == 0 {
		return integrated || r.Arch != "x86_64"
	}
	all := r.Memory.TotalBytes
	return integrated && all != nil && *g.total >= *all/10*9
}

// nvidiaTrouble turns what nvidia-smi says in place of rows into a state.
func (r *Report) nvidiaTrouble(from, line string, rc int, nvproc string) {
	switch {
	case strings.TrimSpace(line) == "":
	case strings.Contains(line, "Driver/library version mismatch"):
		r.noMemory("driver-mismatch", from, nvproc)
		r.warn("the NVIDIA driver was updated without a reboot: engines that start now cannot use the GPU; reboot the box")
	case strings.Contains(line, "Unable to determine the device handle") && len(r.Accelerators) < maxGPUs:
		_, which, _ := strings.Cut(line, "for GPU ")
		which, _, _ = strings.Cut(which, ": ")
		r.Accelerators = append(r.Accelerators, Accelerator{Vendor: "NVIDIA", Name: strings.TrimSpace("NVIDIA GPU " + which), Bus: value(which), State: "lost", From: from})
		r.warn("a GPU is lost: reboot the box")
	case strings.Contains(line, "couldn't communicate with the NVIDIA driver"), strings.Contains(line, "Driver Not Loaded"):
		r.noMemory("unknown", from, nvproc)
		r.warn("nvidia-smi cannot reach its driver: it is not loaded (a new kernel, Secure Boot)")
	case strings.Contains(line, "couldn't find libnvidia-ml"):
		r.noMemory("unknown", from, nvproc)
		r.warn("nvidia-smi does not find its library libnvidia-ml.so: install the NVIDIA driver anew; a container must be started with --gpus all")
	case strings.Contains(line, "infoROM is corrupted"): // the numbers are printed all the same
		r.warn("a GPU's infoROM is corrupted: it works, and may lose its settings")
	case strings.Contains(line, "requires reset") && !strings.Contains(line, ","):
		r.noMemory("lost", from, nvproc)
		r.warn("a GPU must be reset: reboot the box, or on it: sudo nvidia-smi --gpu-reset")
	case strings.Contains(line, "No devices were found"):
		r.warn("nvidia-smi sees no GPU: none is there, or none was given to this container")
	case len(r.Accelerators) > 0 || strings.HasPrefix(line, "|"):
	case strings.Contains(line, "Insufficient Permissions"), rc == 4, rc == 17:
		r.noMemory("no-permission", from, nvproc)
		r.warn("nvidia-smi may not look at the GPU: %s", line)
	}
}

// noMemory adds the card that the driver names, without a pool, unless cards are known already. From is of the state.
func (r *Report) noMemory(state, from, nvproc string) {
	if model, driver := modelOf(nvproc), driverOf(nvproc); len(r.Accelerators) == 0 {
		r.Accelerators = append(r.Accelerators, Accelerator{
			Vendor: "NVIDIA", Name: cmp.Or(model, "NVIDIA GPU"), Driver: driver, State: state, From: origin(from, by("nvproc", value(model), driver)),
		})
	}
}

// modelOf is the first "model NAME" of the driver's own files, driverOf their "driver VERSION".
func modelOf(nvproc string) string {
	for line := range strings.SplitSeq(nvproc, "\n") {
		if m, ok := strings.CutPrefix(line, "model "); ok {
			return strings.TrimSpace(m)
		}
	}
	return ""
}

func driverOf(nvproc string) *string {
	for line := range strings.SplitSeq(nvproc, "\n") {
		if d, ok := strings.CutPrefix(line, "driver "); ok {
			return value(strings.TrimSpace(d))
		}
	}
	return nil
}
