package probe

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// nowhere are facts of the index that their capture does not hold, not in any other word either: no reader can find
// them, and what is read has to be null. Nothing may be added that stands in its capture.
var nowhere = map[string]bool{
	"nvidia-gtx1070ti-xml-old-partial/nvidia-smi-q-x:driver": true, // an XML without driver_version
}

// factNames are the columns of the index that are checked.
var factNames = []string{"total_mib", "free_mib", "gpu_count", "gpu_name", "unified", "driver", "compute_cap"}

func corpusDir() string {
	return cmp.Or(os.Getenv("RLCA_PROBE_CORPUS"), filepath.Join("..", "..", "shared", "probe-corpus"))
}

// Outputs of many real machines, each with the facts that it holds, where a folder of them is at hand:
// $RLCA_PROBE_CORPUS, or ../shared/probe-corpus beside the checkout.
func TestCorpus(t *testing.T) {
	dir := corpusDir()
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
	left := maps.Clone(nowhere)
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
				if facts == 0 {
					continue
				}
				text, err := os.ReadFile(filepath.Join(dir, key+".txt"))
				if err != nil {
					t.Error(err)
					continue
				}
				for _, fact := range factNames {
					one := key + ":" + fact
					if !left[one] {
						continue
					}
					delete(left, one)
					if strings.Contains(string(text), row[fact]) {
						t.Errorf("%s: %s stands in the capture: take it off the list", one, row[fact])
					}
					row[fact] = "null"
					right-- // it is checked, and not counted
				}
				right += checkFacts(t, row, string(text))
			}
		})
	}
	for key := range left {
		t.Errorf("%s is not in the corpus: take it off the list", key)
	}
	if right != all-len(nowhere) {
		t.Errorf("%d facts of %d are right, and %d are nowhere", right, all, len(nowhere))
	}
	t.Logf("corpus: %d facts right of %d in %d cases", right, all, len(order))
}

// asSections makes a capture into the section that our script would have printed it in.
func asSections(row map[string]string, text string) []string {
	if list := hostSections(row, text); list != nil {
		return list
	}
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
	case section == "nvidia-smi-q-x":
		return append(list, "nv_csv/2", "", "nv_xml", text)
	case section == "nvidia-smi-version":
		return append(list, "nv_csv/9", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "nv_version", text)
	case strings.HasPrefix(section, "rocm-smi"):
		return append(list, "rocm_smi", text)
	case strings.HasPrefix(section, "amd-smi"):
		return append(list, "amd_smi", text)
	case strings.HasPrefix(section, "sysfs-"):
		return append(list, "gpus", text)
	case section == "dmesg-amdgpu":
		return append(list, "dmesg", text)
	case section == "lspci-nnD":
		return append(list, "lspci", text)
	case section == "meminfo", section == "vm_stat":
		return append(list, section, text)
	case section == "sysctl-memsize":
		return append(list, "sysctl", "hw.memsize: "+text)
	case strings.HasPrefix(section, "sysctl"):
		return append(list, "sysctl", text)
	case section == "nvidia-smi-compute-apps-load":
		return append(list, "nv_apps", text)
	case section == "tegrastats":
		return append(list, section, text)
	case section == "jetson-release":
		return append(list, "jetson_release", text)
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
	amd := readAMD(a, ofVendor(sysCards(a), "1002"))
	var total, free, names, drivers, computes, shared []string
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
		case p == nil && acc.Vendor == "AMD" && count < len(amd): // beside a better card: its own memory is read, and given to nobody
			total, free = append(total, inMiB(amd[count].vram)), append(free, inMiB(amd[count].free()))
		case p != nil:
			total, free = append(total, inMiB(p.TotalBytes)), append(free, inMiB(p.FreeBytes))
		case count < len(cards): // a card in slices: its own memory is read, and given to nobody
			total, free = append(total, inMiB(cards[count].total)), append(free, inMiB(cards[count].free))
		}
		kind := "no"
		if p != nil && p.Kind == Unified || p == nil && acc.Vendor == "AMD" && count < len(amd) && amd[count].integrated() != 0 {
			kind = "yes"
		}
		shared = append(shared, kind)
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
	if u := same(shared); len(u) > 1 {
		unified = strings.Join(u, ";")
	}
	computes = slices.DeleteFunc(computes, func(s string) bool { return s == "null" }) // of two cards the capture tells one
	hostFacts(row, a, r, &total, &unified)
	got := map[string]string{
		"total_mib": strings.Join(total, ";"), "free_mib": strings.Join(free, ";"), "gpu_count": strconv.Itoa(count), "gpu_name": strings.Join(same(names), ";"),
		"unified": unified, "driver": strings.Join(same(drivers), ";"), "compute_cap": strings.Join(same(computes), ";"),
	}
	for _, fact := range factNames {
		want := plain(row[fact])
		if want == "" {
			continue
		}
		switch ok := got[fact] == want; {
		case ok:
		case fact == "gpu_name" && strings.HasSuffix(got[fact], "...") && strings.HasPrefix(want, strings.TrimSuffix(got[fact], "...")): // the table shortens
		case (fact == "free_mib" || strings.Contains(want, "+")) && near(got[fact], sum(want)):
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
