package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hostSections makes a capture of a Mac's, Windows' or a container's into our script's sections, or returns nil if it
// is none of them.
func hostSections(row map[string]string, text string) []string {
	const (
		apple   = "Darwin 24.0.0 arm64"
		windows = "Windows 10.0.19045 AMD64"
	)
	switch section := row["section"]; {
	case section == "free":
		list := []string{"uname", "Linux 6.8.0 x86_64", "meminfo/1", "cat: /proc/meminfo: No such file or directory", "free", text}
		if row["unified"] == "yes" { // which its memory alone cannot tell
			table, err := os.ReadFile(filepath.Join(corpusDir(), row["case"], "nvidia-smi.txt"))
			if err == nil {
				list = append(list, "nv_table", string(table))
			}
		}
		return list
	case section == "sysctl-iogpu" && row["total_mib"] != "": // the limit shows where there is more memory than that
		return []string{"uname", apple, "sysctl", "hw.memsize: 137438953472\n" + text,
			"vm_stat", "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free: 8388608."}
	case strings.HasPrefix(section, "system_profiler") && strings.Contains(row["hardware"], "Intel"):
		return []string{"uname", "Darwin 18.0.0 x86_64", "displays", text}
	case strings.HasPrefix(section, "system_profiler"):
		return []string{"uname", apple, "displays", text}
	case section == "win32-operatingsystem":
		return []string{"uname", windows, "cim_os", text}
	case section == "wmic-videocontroller":
		return []string{"uname", windows, "cim_gpu", text}
	case section == "netstat-ano":
		return []string{"uname", windows, "listen", text}
	case section == "lsof":
		return []string{"uname", apple, "lsof", text}
	case strings.HasPrefix(section, "ss-"), strings.HasPrefix(section, "netstat"):
		return []string{"uname", "Linux 6.8.0 x86_64", "listen", text}
	case section == "podman-ps":
		return []string{"uname", "Linux 6.8.0 x86_64", "podman", text}
	case section == "ollama-version":
		return []string{"uname", "Linux 6.8.0 x86_64", "v_ollama", text, "listen", "LISTEN 0 9 0.0.0.0:11434 0.0.0.0:*"}
	}
	return nil
}

// hostFacts takes what the index calls a GPU's memory, or its being unified, from where it is read: a GPU that gets no
// pool has it in the reader alone.
func hostFacts(row map[string]string, a *answer, r *Report, total *[]string, unified *string) {
	switch section := row["section"]; {
	case section == "sysctl-iogpu":
		*total = []string{inMiB(r.Best().BudgetBytes)}
	case section == "system_profiler-displays":
		var each []string
		*total = nil
		cards, _ := displays(a.text("displays"))
		for _, c := range cards {
			*total, each = append(*total, inMiB(c.vram)), append(each, yes(c.shared))
		}
		*unified = strings.Join(each, ";")
	case section == "wmic-videocontroller":
		var each []string
		*total = nil
		for _, c := range windowsGPUs(a.text("cim_gpu"), "") {
			*total, each = append(*total, inMiB(c.vram)), append(each, yes(c.integrated))
		}
		*unified = strings.Join(each, ";")
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// plain is a fact of the index without its remarks: "~" for a number that was rounded, "dynamic", and a number that is
// not to be trusted, which is not known to us.
func plain(fact string) string {
	parts := strings.Split(fact, ";")
	for i, p := range parts {
		if strings.Contains(p, "do not trust") {
			p = "null"
		}
		parts[i] = strings.TrimSuffix(strings.TrimPrefix(p, "~"), " dynamic")
	}
	return strings.Join(parts, ";")
}

// What listens, how openly, and what is an engine: the index tells it in words.
func TestCorpusListeners(t *testing.T) {
	if _, err := os.Stat(corpusDir()); err != nil {
		t.Skip("no corpus here: ", err)
	}
	const open, local = "open", "local"
	for key, want := range map[string][]string{
		"container-lxc-ollama-exposed/ss-ltnp": {"127.0.0.1:25 master local", "127.0.0.53:53 systemd-resolve local", "0.0.0.0:22 sshd open", "127.0.0.54:53 systemd-resolve local",
			"::1:25 master local", "*:11434 ollama open", ":::22 sshd open", "engine ollama true *:11434 null"},
		"container-podman-ollama-exposed/ss-ltnp":        {"0.0.0.0:11434 null open", "engine ollama null 0.0.0.0:11434 null"},
		"container-podman-ollama-exposed/podman-ps":      {"engine ollama true 0.0.0.0:11434 null"},
		"container-podman-ollama-exposed/ollama-version": {"0.0.0.0:11434 null open", "engine ollama null 0.0.0.0:11434 0.12.1"},
		"listen-sshd-reverse-forward/ss-tulnp":           {"0.0.0.0:11434 sshd open", ":::11434 sshd open"},
		"listen-ollama-star-no-header/ss-tlnp":           {"*:11434 ollama open", "engine ollama true *:11434 null"},
		"listen-macos-lsof-ollama/lsof":                  {"*:11434 ollama open", "engine ollama true *:11434 null"},
		"listen-netstat-no-state/netstat":                nil,
		"windows-netstat-ano-engines/netstat-ano":        {"0.0.0.0:11434 null open", "127.0.0.1:1234 null local", ":::8080 null open", "engine ollama null 0.0.0.0:11434 null"},
		"cpu-centos77-vm-4g/netstat-lnp":                 {"127.0.0.1:25 master local", "0.0.0.0:22 sshd open", "::1:25 master local", ":::22 sshd open"},
	} {
		text, err := os.ReadFile(filepath.Join(corpusDir(), key+".txt"))
		if err != nil {
			t.Error(err)
			continue
		}
		name, section, _ := strings.Cut(key, "/")
		r, err := Parse(nonce, printed(hostSections(map[string]string{"case": name, "section": section}, string(text))...))
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		var got []string
		for _, l := range r.Listeners {
			how := map[bool]string{true: open, false: local}[l.Exposed]
			got = append(got, fmt.Sprintf("%s:%d %s %s", l.Address, l.Port, str(l.Process), how))
		}
		for _, e := range r.Engines {
			running := "null"
			if e.Running != nil {
				running = fmt.Sprint(*e.Running)
			}
			got = append(got, fmt.Sprintf("engine %s %s %s %s", e.Name, running, str(e.Address), str(e.Version)))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", key, got, want)
		}
	}
}

// The room on a disk, in KiB, by the row of df that a folder is on.
func TestCorpusDisks(t *testing.T) {
	for key, want := range map[string]map[string]int64{
		"cpu-centos77-vm-4g/df":        {"/": 16005876, "/boot": 800736},
		"apple-intel-i5-sysctl/df":     {"/": 660310352 / 2, "/home": 0, "/Volumes/user0": 5195725928 / 2},
		"cpu-df-wrapped-and-swapon/df": {"/": 4571556, "/proc": 0},
	} {
		text, err := os.ReadFile(filepath.Join(corpusDir(), key+".txt"))
		if err != nil {
			t.Skip("no corpus here: ", err)
		}
		head, _, _ := strings.Cut(string(text), "\n")
		for line := range strings.SplitSeq(string(text), "\n") {
			free, ok := want[line[strings.LastIndexByte(line, ' ')+1:]]
			if !ok {
				continue
			}
			r := &Report{}
			r.disks("path /x\n" + head + "\n" + line)
			if len(r.Disk) != 1 || bytesOf(r.Disk[0].FreeBytes) != free*1024 {
				t.Errorf("%s: %q: %+v, want %d KiB", key, line, r.Disk, free)
			}
		}
	}
}
