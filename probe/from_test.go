package probe

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkFrom fails on a From that names a section which the output has not, and on facts without one.
func checkFrom(t *testing.T, key string, out []byte) {
	t.Helper()
	a, _ := read(nonce, out)
	r, err := Parse(nonce, out)
	if err != nil {
		t.Errorf("%s: %v", key, err)
		return
	}
	check := func(what, from string, facts bool) {
		if facts && from == "" {
			t.Errorf("%s: %s has facts that are from nowhere", key, what)
		}
		for _, name := range strings.Fields(from) {
			if !a.has(name) {
				t.Errorf("%s: %s is from %q: the output has no section %s", key, what, from, name)
			}
		}
	}
	m := r.Memory
	check("the memory", m.From, by("x", m.TotalBytes, m.AvailableBytes, m.FreeBytes, m.SwapTotalBytes, m.SwapUsedBytes, m.CgroupLimitBytes) != "")
	for _, p := range r.Pools {
		check("pool "+p.ID, p.From, by("x", p.TotalBytes, p.FreeBytes) != "")
	}
	for _, acc := range r.Accelerators {
		check("accelerator "+acc.Name, acc.From, true)
	}
	for _, e := range r.Engines {
		check("engine "+e.Name, e.From, true)
	}
	for _, l := range r.Listeners {
		check("listener "+l.Address, l.From, true)
	}
	for _, d := range r.Disk {
		check("disk "+d.Path, d.From, true)
	}
}

// Every fact names the sections that it came from, and none but those of the output.
func TestFrom(t *testing.T) {
	answers, err := filepath.Glob("testdata/*/answer.txt")
	if err != nil || len(answers) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range answers {
		out, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		checkFrom(t, file, out)
	}
	f, err := os.Open(filepath.Join(corpusDir(), "INDEX.csv"))
	if err != nil {
		t.Log("no corpus here: ", err)
		return
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, cells := range rows[1:] {
		row := map[string]string{}
		for i, name := range rows[0] {
			row[name] = cells[i]
		}
		key := row["case"] + "/" + row["section"]
		text, err := os.ReadFile(filepath.Join(corpusDir(), key+".txt"))
		if err != nil {
			t.Error(err)
			continue
		}
		if sections := asSections(row, string(text)); sections != nil {
			checkFrom(t, key, printed(sections...))
		}
	}
}

// Facts of several sections name them all, and a section that added nothing is not named.
func TestFromSeveral(t *testing.T) {
	const linux = "Linux 6.14 x86_64"
	card := sysfs("0000:03:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_ID=1002:7340")
	tool := strings.ReplaceAll(smiLayouts["JSON of 6"], "83", "03")
	for name, c := range map[string]struct {
		sections []string
		want     string // of the memory; the pools; the accelerators; the engines
	}{
		"a slice": {[]string{"meminfo", mem120, "fields", "index,uuid,memory.total,memory.free,name", "nv_csv", "0, GPU-a, 40960, 40000, NVIDIA A100",
			"nv_list", "GPU 0: NVIDIA A100 (UUID: GPU-a)\n  MIG 1g.5gb Device 0: (UUID: MIG-b)",
			"nv_table", "|  0  NVIDIA A100  On  | 00000000:00:09.0 Off | On |\n|  0  7  0  0  |  26MiB / 4864MiB  | 60 |"},
			"meminfo; nv_table, meminfo; nv_csv, nv_csv nv_table nv_list; "},
		"no driver's memory":       {[]string{"nv_csv/9", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "nvproc", "model NVIDIA T4", "nv_version", "DRIVER version: 580.1"}, "; ; nv_csv nvproc nv_version; "},
		"a size of a tool's":       {[]string{"meminfo", mem120, "gpus", card, "lspci", "0000:03:00.0 VGA [0300]: X [1002:7340]", "amd_smi", tool}, "meminfo; amd_smi, meminfo; gpus lspci amd_smi; "},
		"a tool that adds nothing": {[]string{"gpus", card + sysfs("0000:03:00.0", "mem_info_vram_total:1073741824"), "lspci", "", "rocm_smi", "GPU[0] : Card Series: N/A", "dmesg", "amdgpu: 1024M of VRAM memory ready"}, "; gpus; gpus rocm_smi; "},
		"used of nothing":          {[]string{"gpus", "/sys/module/x:1", "rocm_smi", "GPU[0] : VRAM Total Used Memory (B): 5"}, "; ; rocm_smi; "},
		"a limit":                  {[]string{"meminfo", mem120, "cgroup", "memory.max 8589934592 0 0 /a"}, "meminfo cgroup; meminfo cgroup; ; "},
		"one memory":               {[]string{"meminfo", mem120, "cgroup", "memory.max 8589934592 0 0 /a", "os", "==> /etc/nv_tegra_release\n# R36"}, "meminfo cgroup; meminfo; os; "},
		"an engine": {[]string{"tools", "ollama /bin/ollama\nvllm /bin/vllm", "v_ollama", "ollama version is 1", "procs", "proc 7 1 ollama serve 0::/x",
			"listen", "LISTEN 0 9 127.0.0.1:11434 0.0.0.0:*", "docker", "x/y 1"}, "; ; ; tools v_ollama procs listen, tools listen"},
	} {
		r := parse(t, append([]string{"uname", linux}, c.sections...)...)
		var pools, gpus, engines []string
		for _, p := range r.Pools {
			pools = append(pools, p.From)
		}
		for _, acc := range r.Accelerators {
			gpus = append(gpus, acc.From)
		}
		for _, e := range r.Engines {
			engines = append(engines, e.From)
		}
		got := strings.Join([]string{r.Memory.From, strings.Join(pools, ", "), strings.Join(gpus, ", "), strings.Join(engines, ", ")}, "; ")
		if got != c.want {
			t.Errorf("%s: from %q, want %q", name, got, c.want)
		}
	}
}
