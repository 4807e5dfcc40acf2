package probe

import (
	"slices"
	"strings"
	"testing"
)

// GB10: [N/A] means one memory for all, of the size of RAM; what is free is MemAvailable, and swap never counts.
func TestUnified(t *testing.T) {
	r := parse(t, "uname", uname, "os", release, "cpu", "cores 20\nmodel Cortex-A725\nmodel Cortex-X925", "meminfo", mem120,
		"fields", fields, "nv_csv", "0, GPU-1b, [N/A], [N/A], [N/A], 580.173.02, 12.1, [N/A], ATS, NVIDIA GB10")
	if len(r.Pools) != 1 || r.Pools[0].Kind != Unified {
		t.Fatalf("pools %+v, want one unified", r.Pools)
	}
	p := r.Pools[0]
	total, avail := int64(125500000)*1024, int64(113500000)*1024
	if bytesOf(p.TotalBytes) != total || bytesOf(p.FreeBytes) != avail || bytesOf(p.BudgetBytes) != avail-total/100*6 {
		t.Errorf("pool %d total, %d free, %d budget, want %d, %d, %d", bytesOf(p.TotalBytes), bytesOf(p.FreeBytes), bytesOf(p.BudgetBytes), total, avail, avail-total/100*6)
	}
	a := r.Accelerators[0]
	if a.Name != "NVIDIA GB10" || str(a.Compute) != "12.1" || str(a.Driver) != "580.173.02" || a.State != "ok" || str(a.Pool) != "unified" {
		t.Errorf("accelerator %+v", a)
	}
	if got, want := r.Summary(), "NVIDIA GB10, 119.7 GiB unified, 108.2 free · Ubuntu 24.04, aarch64"; got != want {
		t.Errorf("Summary() = %q, want %q", got, want)
	}
	if r.Product != "NVIDIA DGX Spark" || r.Kernel != "Linux 6.14" || r.Cores == nil || *r.Cores != 20 || r.CPU != "Cortex-A725 + Cortex-X925" {
		t.Errorf("product %q, kernel %q, cores %v, CPU %q", r.Product, r.Kernel, r.Cores, r.CPU)
	}
	if got, want := p.Describe(), "unified: 119.7 GiB, 108.2 free (MemAvailable), 101.1 for a model (6 GiB or 6 % kept for the system)"; got != want {
		t.Errorf("Describe() = %q, want %q", got, want)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "page cache") {
		t.Errorf("warnings %q, want one about the page cache", r.Warnings)
	}
}

func TestDiscrete(t *testing.T) {
	rows := "0, GPU-a, 24576, 300, 23900, 575.51.02, 8.6, [N/A], None, NVIDIA GeForce RTX 3090\n1, GPU-b, 24576, 20000, 4300, 575.51.02, 8.6, [N/A], None, NVIDIA GeForce RTX 3090, Founders"
	r := parse(t, "uname", "Linux 6.1.0-18-amd64 x86_64", "meminfo", mem120, "fields", fields, "nv_csv", rows)
	if len(r.Pools) != 3 || r.Pools[0].Kind != Dedicated || r.Pools[2].Kind != HostPool {
		t.Fatalf("pools %+v, want two dedicated and the host's", r.Pools)
	}
	if best := r.Best(); best.ID != "gpu0" || bytesOf(best.BudgetBytes) != 23900*mib-giB {
		t.Errorf("Best() = %+v, want gpu0 with 23900 MiB - 1 GiB", best)
	}
	if r.Accelerators[1].Name != "NVIDIA GeForce RTX 3090, Founders" {
		t.Errorf("a name with a comma became %q", r.Accelerators[1].Name)
	}
	// GH200 says ATS and has memory of its own: the number decides, not the mode.
	r = parse(t, "uname", "Linux 6.8 aarch64", "meminfo", mem120, "fields", fields, "nv_csv", "0, GPU-a, 97871, 3, 97000, 550.90, 9.0, Disabled, ATS, NVIDIA GH200 480GB")
	if r.Pools[0].Kind != Dedicated || bytesOf(r.Pools[0].TotalBytes) != 97871*mib {
		t.Errorf("GH200: %+v", r.Pools[0])
	}
	// The memory of a card that is split cannot be used as a whole.
	r = parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "fields", fields, "nv_csv", "0, GPU-a, 81559, 3, 81000, 590.48, 9.0, Enabled, None, NVIDIA H100 80GB HBM3")
	if len(r.Pools) != 1 || r.Pools[0].Kind != HostPool || len(r.Warnings) == 0 {
		t.Errorf("MIG: pools %+v, warnings %q", r.Pools, r.Warnings)
	}
}

// What nvidia-smi says in place of rows; the texts are NVML's own.
func TestTroubles(t *testing.T) {
	for text, want := range map[string]string{
		"Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.173":                                                       "driver-mismatch",
		"Unable to determine the device handle for GPU 0000:05:00.0: GPU is lost.  Reboot the system to recover this GPU":                                 "lost",
		"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.": "unknown",
		"Insufficient Permissions": "no-permission",
		"No devices were found":    "(none)",
		"[Unknown Error], GPU-a, [Unknown Error], [Unknown Error], [Unknown Error], 590, 8.9, [N/A], None, NVIDIA L40S": "unknown",
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "fields", fields, "nv_csv/9", text)
		state := "(none)"
		if len(r.Accelerators) > 0 {
			state = r.Accelerators[0].State
		}
		if state != want || len(r.Warnings) == 0 {
			t.Errorf("%q: state %s, warnings %q, want %s and a warning", text, state, r.Warnings, want)
		}
		if b := r.Best(); b == nil || b.Kind != HostPool {
			t.Errorf("%q: Best() = %+v, want the host's pool", text, b)
		}
	}
	hang := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "fields", fields, "nv_csv/124", "")
	if len(hang.Warnings) == 0 || !strings.Contains(hang.Warnings[0], "hangs") || hang.Accelerators[0].State != "unknown" {
		t.Errorf("a hanging nvidia-smi: %+v %q", hang.Accelerators, hang.Warnings)
	}
}

// Slices of a GPU: each instance is a pool of its own, two devices of one instance share it, and the card is none.
func TestMIG(t *testing.T) {
	table := `| NVIDIA-SMI 590.48.01   Driver Version: 590.48.01   CUDA Version: 13.1     |
|   0  NVIDIA H200                    On  |   00000000:83:00.0 Off |                   On |
| N/A   28C    P0             78W /  700W |      55MiB / 143771MiB |     N/A      Default |
|                                         |                        |              Enabled |
| MIG devices:                                                                            |
|  0    2   0   0  |              22MiB / 71424MiB    | 16      0 |  3   0    3    0    3 |
|                  |               0MiB / 59237MiB    |           |                       |
|  0    2   1   1  |              22MiB / 71424MiB    | 32      0 |  3   0    3    0    3 |
|  0    9   0   2  |              16MiB / 16384MiB    | 16      0 |  1   0    1    0    1 |
`
	list := "GPU 0: NVIDIA H200 (UUID: GPU-0)\n  MIG 1c.3g.71gb  Device  0: (UUID: MIG-a)\n  MIG 2c.3g.71gb  Device  1: (UUID: MIG-b)\n  MIG 1g.18gb     Device  2: (UUID: MIG-c)\n"
	r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "fields", fields,
		"nv_csv", "0, GPU-0, 143771, 55, 143103, 590.48.01, 9.0, Enabled, None, NVIDIA H200", "nv_list", list, "nv_table", table)
	var got []string
	for _, a := range r.Accelerators {
		got = append(got, a.Name+" "+str(a.UUID)+" "+str(a.Pool))
	}
	want := []string{"NVIDIA H200 GPU-0 null", "NVIDIA H200 MIG 1c.3g.71gb MIG-a gpu0/gi2", "NVIDIA H200 MIG 2c.3g.71gb MIG-b gpu0/gi2", "NVIDIA H200 MIG 1g.18gb MIG-c gpu0/gi9"}
	if !slices.Equal(got, want) {
		t.Errorf("accelerators %q, want %q", got, want)
	}
	if len(r.Pools) != 3 || r.Pools[0].Kind != Partition || bytesOf(r.Pools[0].TotalBytes) != 71424*mib || bytesOf(r.Pools[0].FreeBytes) != 71402*mib || r.Pools[2].Kind != HostPool {
		t.Errorf("pools %+v, want two slices and the host", r.Pools)
	}
	if got, want := r.Summary(), "NVIDIA H200 MIG 1c.3g.71gb + NVIDIA H200 MIG 2c.3g.71gb, 69.8 GiB partition, 69.7 free · x86_64"; got != want {
		t.Errorf("Summary() = %q, want %q", got, want)
	}
}

// Boards of NVIDIA's have one memory, with nvidia-smi or without.
func TestJetson(t *testing.T) {
	mem := "MemTotal: 8000000 kB\nMemFree: 100 kB\nMemAvailable: 4000000 kB"
	board := "==> /etc/nv_tegra_release\n# R36 (release), REVISION: 4.7\n==> /proc/device-tree/model\nNVIDIA Jetson Orin Nano Developer Kit\n"
	for name, csv := range map[string][]string{
		"JetPack 5": nil,
		"JetPack 6": {"fields", "name,memory.total,memory.free", "nv_csv", "Orin (nvgpu), [N/A], [N/A]"},
	} {
		r := parse(t, append([]string{"uname", "Linux 5.15 aarch64", "os", board, "meminfo", mem}, csv...)...)
		p := r.Best()
		if len(r.Pools) != 1 || p.Kind != Unified || bytesOf(p.FreeBytes) != 4000000*1024 || bytesOf(p.BudgetBytes) != 4000000*1024-giB || len(r.Accelerators) != 1 {
			t.Errorf("%s: pools %+v, accelerators %+v", name, r.Pools, r.Accelerators)
		}
	}
}
