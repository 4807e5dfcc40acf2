package probe

import (
	"fmt"
	"strings"
	"testing"
)

const apps = `timestamp, gpu_name, gpu_bus_id, gpu_serial, gpu_uuid, pid, process_name, used_gpu_memory [MiB]
2025/03/04 05:06:07.008, NVIDIA A40, 00000000:21:00.0, [N/A], GPU-a, 101, /opt/serve, 1000 MiB
2025/03/04 05:06:07.008, NVIDIA A40, 00000000:41:00.0, [N/A], GPU-b, 102, python3, -c, import x, 24 MiB
2025/03/04 05:06:07.008, NVIDIA A40, 00000000:21:00.0, [N/A], GPU-a, 103, ./bench, 500 MiB
`

// The cards that processes compute on, each once, whatever the columns are.
func TestApps(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"two cards":       {apps, "NVIDIA A40 GPU-a 1500, NVIDIA A40 GPU-b 24"},
		"by bus":          {"pid, gpu_bus_id, used_memory [MiB]\n7, 00000000:01:00.0, 12 MiB\n8, 00000000:01:00.0, 13 MiB\n9, 00000000:02:00.0, 1 MiB", " 00000000:01:00.0 25,  00000000:02:00.0 1"},
		"not told":        {"gpu_name, gpu_uuid, pid, process_name, used_gpu_memory [MiB]\nNVIDIA T4, GPU-c, 7, a, [N/A]", "NVIDIA T4 GPU-c null"},
		"no unit":         {"gpu_uuid, process_name, used_gpu_memory [MiB]\nGPU-c, gpu_uuid, 8", " GPU-c 8"},
		"which card":      {"gpu_name, gpu_uuid, pid\nNVIDIA T4, [N/A], 7", ""},
		"header alone":    {"gpu_uuid, pid, process_name, used_gpu_memory [MiB]", ""},
		"without header":  {"3150, python3, 218\n6330, worker, 96073", ""},
		"cut off":         {apps[:len(apps)-50], "NVIDIA A40 GPU-a 1000, NVIDIA A40 GPU-b 24"},
		"a surplus comma": {"gpu_uuid, pid\nGPU-c, 1, 2", ""},
		"an error":        {"No devices were found", ""},
	} {
		var got []string
		for _, g := range readApps(c.text) {
			id := g.uuid
			if id == "" {
				id = g.bus
			}
			got = append(got, fmt.Sprintf("%s %s %s", g.name, id, inMiB(g.held)))
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}

// Cards that only their processes tell of have no pool, on no kind of machine: how much memory they have is not known.
func TestAppsAlone(t *testing.T) {
	for _, arch := range []string{"x86_64", "aarch64"} {
		r := parse(t, "uname", "Linux 6.8 "+arch, "meminfo", mem120, "nv_apps", apps)
		if len(r.Accelerators) != 2 || r.Accelerators[1].State != "unknown" || r.Accelerators[1].Pool != nil || str(r.Accelerators[0].Bus) != "00000000:21:00.0" ||
			len(r.Pools) != 1 || r.Best().Kind != HostPool || !strings.Contains(strings.Join(r.Warnings, "\n"), "the processes on it hold 1.5 GiB") {
			t.Errorf("%s: %+v", arch, r)
		}
	}
	r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "fields", "index,uuid,memory.total,memory.free,name", "nv_csv", "0, GPU-a, 46068, 45000, NVIDIA A40", "nv_apps", apps)
	if len(r.Accelerators) != 1 || bytesOf(r.Best().FreeBytes) != 45000*mib || len(r.Warnings) != 0 {
		t.Errorf("beside the cards' own rows: %+v", r)
	}
}
