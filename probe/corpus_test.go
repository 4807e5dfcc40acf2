package probe

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// later are the captures that have facts which no reader of ours finds yet: by case and section, and by fact where it
// is one alone. Nothing may be added; what is taken off stays right.
var later = strings.Fields(`
	nvidia-rtx2080super-linux-595/nvidia-smi-version nvidia-rtx2080super-linux-610/nvidia-smi-version
	nvidia-rtx2080super-windows-610/nvidia-smi-version nvidia-h100-linux-590/nvidia-smi-version
	nvidia-h100-mig-linux-590/nvidia-smi-version nvidia-h200-mig-ci-linux-590/nvidia-smi-version nvidia-l40s-linux-595/nvidia-smi-version
	nvidia-h100-mig-linux-590/nvidia-smi-compute-apps-load
	nvidia-a100-sxm4-mig-xml-v12/nvidia-smi-q-x nvidia-tesla-t4-xml/nvidia-smi-q-x nvidia-gtx1070ti-xml-old-partial/nvidia-smi-q-x
	nvidia-unnamed-device-xml/nvidia-smi-q-x nvidia-tesla-p100-xml/nvidia-smi-q-x
	gb10-dgx-spark-full-of-vllm/free gh200-480gb-in-docker/free cpu-centos77-vm-4g/free container-lxc-ollama-exposed/free container-podman-ollama-exposed/free
	jetson-orin-nano-tegrastats/tegrastats jetson-agx-orin-jp72-tegrastats/tegrastats jetson-thor-580/jetson-release
	apple-m1-air-16g/system_profiler apple-m3-pro-displays-json/system_profiler-displays-json apple-m4-mini-16g/system_profiler-displays-json
	apple-128g-wired-limit-raised/sysctl-iogpu apple-intel-mbp-dual-gpu/system_profiler-displays
	windows-powershell-os-memory-16g/win32-operatingsystem windows-wmic-dual-gpu-4g-cap/wmic-videocontroller
	amd-rx6700xt-rocm612-json/rocm-smi-json amd-vega20-json/rocm-smi-json amd-mi100-rocm602-json/rocm-smi-json
	amd-mixed-mi50-generic-name-and-igpu/rocm-smi-meminfo-vram amd-mixed-mi50-generic-name-and-igpu/rocm-smi-productname
	amd-mi50-pair-tabular/rocm-smi-meminfo-vram amd-mi50-pair-tabular/rocm-smi-productname
	strix-halo-rocm-smi-csv-warning/rocm-smi-csv strix-halo-sysfs-96-plus-96/sysfs-mem-info strix-halo-dmesg-amd-ttm/dmesg-amdgpu
	strix-halo-dmesg-capped/dmesg-amdgpu amd-strixpoint-sysfs/sysfs-drm amd-phoenix-sysfs/sysfs-drm amd-rx580-sysfs-vendor-unknown/sysfs-drm
	amd-mi300a-amd-smi-static/amd-smi-static amd-smi-static-json-rocm6/amd-smi-static-json amd-smi-static-json-rocm7/amd-smi-static-json
	amd-rx7600-suspended-all-na/rocm-smi amd-rx9070-and-cpu-igpu/rocm-smi-productname
	gh200-480gb-in-docker/nvidia-smi:compute_cap
	intel-b580-xe-sysfs/sysfs-drm intel-a380-i915-sysfs/sysfs-drm intel-lunar-lake-lspci/lspci-nnD
`)

// factNames are the columns of the index that are checked.
var factNames = []string{"total_mib", "free_mib", "gpu_count", "gpu_name", "unified", "driver", "compute_cap"}

// Outputs of many real machines, each with the facts that it holds, where a folder of them is at hand:
// $RLCA_PROBE_CORPUS, or ../shared/probe-corpus beside the checkout.
func TestCorpus(t *testing.T) {
	dir := cmp.Or(os.Getenv("RLCA_PROBE_CORPUS"), filepath.Join("..", "..", "shared", "probe-corpus"))
	f, err := os.Open(filepath.Join(dir, "INDEX.csv"))
	if err != nil && os.Getenv("RLCA_PROBE_CORPUS") == "" {
		t.Skip("no corpus here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("read the index: %d rows, %v", len(rows), err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	left := map[string]bool{}
	for _, key := range later {
		left[key] = true
	}
	var order []string
	cases := map[string][]map[string]string{}
	for _, cells := range rows[1:] {
		row := map[string]string{}
		for name, i := range column {
			row[name] = cells[i]
		}
		if cases[row["case"]] == nil {
			order = append(order, row["case"])
		}
		cases[row["case"]] = append(cases[row["case"]], row)
	}
	right, all := 0, 0
	for _, name := range order {
		t.Run(name, func(t *testing.T) {
			for _, row := range cases[name] {
				key := name + "/" + row["section"]
				facts := 0
				for _, fact := range factNames {
					if row[fact] != "" {
						facts++
					}
				}
				all += facts
				if left[key] {
					delete(left, key)
					continue
				}
				if facts == 0 {
					continue
				}
				text, err := os.ReadFile(filepath.Join(dir, key+".txt"))
				if err != nil {
					t.Error(err)
					continue
				}
				for _, fact := range factNames {
					if one := key + ":" + fact; left[one] {
						row[fact] = ""
						delete(left, one)
					}
				}
				right += checkFacts(t, row, string(text))
			}
		})
	}
	for key := range left {
		t.Errorf("%s is not in the corpus: take it off the list", key)
	}
	t.Logf("corpus: %d facts right of %d in %d cases", right, all, len(order))
}

// asSections makes a capture into the section that our script would have printed it in.
func asSections(row map[string]string, text string) []string {
	section := row["section"]
	uname := "Linux 6.8.0 "
	if strings.HasPrefix(row["case"], "apple-") {
		uname = "Darwin 24.0.0 arm64"
		if strings.Contains(row["hardware"], "Intel") {
			uname = "Darwin 18.0.0 x86_64"
		}
	}
	list := []string{"uname", uname}
	switch {
	case section == "nvidia-smi" && strings.Contains(text, "+---"):
		return append(list, "nv_table", text)
	case section == "nvidia-smi":
		return append(list, "nv_csv/9", text)
	case section == "nvidia-smi-query-gpu-all":
		return append(list, "nv_csv", text)
	case section == "nvidia-smi-query-gpu", section == "docker-then-query":
		return append(list, "fields", fieldsOf(row, text), "nv_csv", text)
	case section == "nvidia-smi-L":
		return append(list, "nv_list", text)
	case section == "meminfo", section == "vm_stat":
		return append(list, section, text)
	case section == "sysctl-memsize":
		return append(list, "sysctl", "hw.memsize: "+text)
	case strings.HasPrefix(section, "sysctl"):
		return append(list, "sysctl", text)
	case section == "device-tree-model":
		return append(list, "os", "==> /proc/device-tree/model\n"+text)
	case section == "nv_tegra_release":
		return append(list, "os", "==> /etc/nv_tegra_release\n"+text)
	}
	return nil
}

// fieldsOf are the columns of a query without a header row: those of its command, or of the words beside it.
func fieldsOf(row map[string]string, text string) string {
	_, fields, ok := strings.Cut(row["command"], "--query-gpu=")
	fields, _, _ = strings.Cut(fields, " ")
	switch {
	case !ok:
		return ""
	case strings.HasPrefix(fields, "<"):
		_, fields, _ = strings.Cut(row["other_facts"], "the first 3: ")
		fields = strings.ReplaceAll(fields, " ", "")
		fallthrough
	case strings.HasSuffix(fields, "..."):
		line, _, _ := strings.Cut(text, "\n")
		fields = strings.TrimSuffix(fields, ",...")
		for i := strings.Count(fields, ","); i < strings.Count(line, ","); i++ {
			fields += ",x" + strconv.Itoa(i)
		}
	}
	return fields
}

// checkFacts compares what is read of one capture with the facts that it holds, and returns how many are right.
func checkFacts(t *testing.T, row map[string]string, text string) (right int) {
	key := row["case"] + "/" + row["section"]
	sections := asSections(row, text)
	if sections == nil {
		t.Errorf("%s: no reader", key)
		return 0
	}
	out := printed(sections...)
	r, err := Parse(nonce, out)
	if err != nil {
		t.Errorf("%s: %v", key, err)
		return 0
	}
	a, _ := read(nonce, out)
	cards := readGPUs(a)
	var total, free, names, drivers, computes []string
	count := 0
	for _, acc := range r.Accelerators {
		var p *Pool
		for i := range r.Pools {
			if acc.Pool != nil && r.Pools[i].ID == *acc.Pool {
				p = &r.Pools[i]
			}
		}
		switch {
		case p != nil && p.Kind == Partition:
			continue
		case p != nil:
			total, free = append(total, inMiB(p.TotalBytes)), append(free, inMiB(p.FreeBytes))
		case count < len(cards): // a card in slices: its own memory is read, and given to nobody
			total, free = append(total, inMiB(cards[count].total)), append(free, inMiB(cards[count].free))
		}
		count++
		names, drivers, computes = append(names, acc.Name), append(drivers, str(acc.Driver)), append(computes, str(acc.Compute))
	}
	if row["gpu_count"] == "" && row["gpu_name"] == "" { // a machine's memory
		total, free = []string{inMiB(r.Memory.TotalBytes)}, []string{inMiB(r.Memory.AvailableBytes)}
	}
	unified := "no"
	for _, p := range r.Pools {
		if p.Kind == Unified {
			unified = "yes"
		}
	}
	got := map[string]string{
		"total_mib": strings.Join(total, ";"), "free_mib": strings.Join(free, ";"), "gpu_count": strconv.Itoa(count), "gpu_name": strings.Join(same(names), ";"),
		"unified": unified, "driver": strings.Join(same(drivers), ";"), "compute_cap": strings.Join(same(computes), ";"),
	}
	for _, fact := range factNames {
		want := row[fact]
		if want == "" {
			continue
		}
		switch ok := got[fact] == want; {
		case ok:
		case fact == "gpu_name" && strings.HasSuffix(got[fact], "...") && strings.HasPrefix(want, strings.TrimSuffix(got[fact], "...")): // the table shortens
		case fact == "free_mib" && near(got[fact], sum(want)):
		default:
			t.Errorf("%s: %s is %q, want %q", key, fact, got[fact], want)
			continue
		}
		right++
	}
	return right
}

func inMiB(n *int64) string {
	if n == nil {
		return "null"
	}
	return fmt.Sprint(*n / mib)
}

// same makes one of words that are all the same.
func same(words []string) []string {
	for _, w := range words {
		if w != words[0] {
			return words
		}
	}
	return words[:min(1, len(words))]
}

var numbers = regexp.MustCompile(`\d+`)

// sum adds the numbers of "12 free; 30 inactive".
func sum(s string) (n int) {
	s, _, _ = strings.Cut(s, "(")
	for _, w := range numbers.FindAllString(s, -1) {
		v, _ := strconv.Atoi(w)
		n += v
	}
	return n
}

// near allows what rounding each addend down to a MiB costs.
func near(got string, want int) bool {
	n, err := strconv.Atoi(got)
	return err == nil && n >= want && n <= want+4
}
