package probe

import (
	"encoding/xml"
	"slices"
	"strconv"
	"strings"
)

// nvidiaLog is what we need of nvidia-smi -q -x, which tells the same with every driver since 2012. It is long: it is
// asked for where no query works.
type nvidiaLog struct {
	Driver string `xml:"driver_version"`
	GPUs   []struct {
		Bus     string   `xml:"id,attr"`
		Name    string   `xml:"product_name"`
		UUID    string   `xml:"uuid"`
		Memory  xmlUsage `xml:"fb_memory_usage"`
		MIG     string   `xml:"mig_mode>current_mig"`
		Devices []struct {
			Index    string   `xml:"index"`
			Instance string   `xml:"gpu_instance_id"`
			Memory   xmlUsage `xml:"fb_memory_usage"`
		} `xml:"mig_devices>mig_device"`
	} `xml:"gpu"`
}

type xmlUsage struct {
	Total string `xml:"total"` // "81920 MiB"
	Free  string `xml:"free"`
}

// readXML reads nvidia-smi -q -x. Of a text that is cut off the cards before the cut count.
func readXML(text string) []gpu {
	i := strings.Index(text, "<nvidia_smi_log>")
	if i < 0 {
		return nil
	}
	d := xml.NewDecoder(strings.NewReader(text[i:]))
	d.Strict = false
	var log nvidiaLog
	_ = d.Decode(&log) // it has filled in what came before the mistake
	var gpus []gpu
	for n, x := range log.GPUs[:min(len(log.GPUs), maxGPUs)] {
		memory, _, _ := strings.Cut(x.Memory.Total, " MiB")
		g := gpu{
			from: "nv_xml", index: strconv.Itoa(n), uuid: x.UUID, name: clean(x.Name), bus: x.Bus, driver: log.Driver, memory: memory,
			total: mibOf(x.Memory.Total), free: mibOf(x.Memory.Free), mig: x.MIG == "Enabled",
		}
		for _, s := range x.Devices[:min(len(x.Devices), maxGPUs)] {
			g.slices = append(g.slices, slice{from: "nv_xml", gpu: g.index, instance: atoi(s.Instance), device: atoi(s.Index), total: mibOf(s.Memory.Total), free: mibOf(s.Memory.Free)})
		}
		gpus = append(gpus, g)
	}
	return gpus
}

// readVersion finds the driver's version in nvidia-smi --version, which has called it KMD version since 610.
func readVersion(text string) *string {
	for line := range strings.SplitSeq(text, "\n") {
		key, val, ok := strings.Cut(line, ":")
		if k := strings.TrimSpace(key); ok && (k == "DRIVER version" || k == "KMD version") {
			if v := value(strings.TrimSpace(val)); v != nil && !strings.Contains(*v, "Deprecated") {
				return v
			}
		}
	}
	return nil
}

// chips are the GPUs that are built into boards and servers, with their compute capability as NVIDIA lists it
// (developer.nvidia.com/cuda-gpus), where the driver's own word is missing.
var chips = map[string]string{
	"H100": "9.0", "H200": "9.0", "GH200": "9.0", "B200": "10.0", "GB200": "10.0", "GB300": "10.3",
	"GB10": "12.1", "Orin": "8.7", "Thor": "11.0",
}

func chipOf(name string) *string {
	words := strings.Fields(name)
	if i := slices.IndexFunc(words, func(w string) bool { return chips[w] != "" }); i >= 0 {
		return ptr(chips[words[i]])
	}
	return nil
}
