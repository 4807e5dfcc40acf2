package probe

import (
	"encoding/json"
	"strings"
)

// macGPU is one GPU as system_profiler tells it.
type macGPU struct {
	vendor, name string
	vram         *int64 // bytes of its own, or at most of the CPU's; nil for Apple's, which share all of it
	shared       bool   // it has no memory of its own
}

// displays reads system_profiler SPDisplaysDataType: JSON, or the text of systems before macOS 10.15. Only the keys of
// the JSON are the same in every language; the names of screens, which stand below their GPU, are left out. With
// SPHardwareDataType there comes how much memory is installed.
func displays(text string) (cards []macGPU, installed *int64) {
	if i := strings.IndexByte(text, '{'); i >= 0 {
		return displaysJSON(text[i:])
	}
	chapter := ""
	for line := range strings.SplitSeq(text, "\n") {
		key, val, ok := strings.Cut(strings.TrimSpace(line), ":")
		val = strings.TrimSpace(val)
		if ok && val == "" && !strings.HasPrefix(line, " ") {
			chapter = key
		}
		if !ok || val == "" {
			continue
		}
		if chapter == "Hardware" && key == "Memory" {
			installed = macSize(val)
		}
		if key == "Chipset Model" && len(cards) < maxGPUs {
			cards = append(cards, macGPU{name: val, shared: true})
		}
		if len(cards) == 0 {
			continue
		}
		switch c := &cards[len(cards)-1]; {
		case key == "Vendor":
			c.vendor, _, _ = strings.Cut(val, " (")
		case strings.HasPrefix(key, "VRAM"):
			c.vram, c.shared = macSize(val), strings.Contains(key, "Dynamic")
		}
	}
	return cards, installed
}

func displaysJSON(text string) (cards []macGPU, installed *int64) {
	var doc struct {
		Hardware []struct {
			Memory string `json:"physical_memory"`
		} `json:"SPHardwareDataType"`
		Displays []struct {
			Model  string `json:"sppci_model"`
			Name   string `json:"_name"`
			Vendor string `json:"spdisplays_vendor"`
			VRAM   string `json:"spdisplays_vram"`
			Shared string `json:"spdisplays_vram_shared"`
		} `json:"SPDisplaysDataType"`
	}
	if json.NewDecoder(strings.NewReader(text)).Decode(&doc) != nil { // cut off, or a notice after all
		return nil, nil
	}
	for _, h := range doc.Hardware {
		installed = macSize(h.Memory)
	}
	for _, d := range doc.Displays {
		name := d.Model // _name may be a key word: kHW_AppleM1Item
		if name == "" {
			name = d.Name
		}
		if name == "" || len(cards) >= maxGPUs {
			continue
		}
		c := macGPU{name: clean(name), vram: macSize(d.VRAM), shared: d.VRAM == ""}
		if d.Shared != "" {
			c.vram, c.shared = macSize(d.Shared), true
		}
		for _, v := range []string{"Apple", "Intel", "AMD", "NVIDIA"} {
			if strings.Contains(strings.ToUpper(d.Vendor+" "+name), strings.ToUpper(v)) {
				c.vendor = v
				break
			}
		}
		cards = append(cards, c)
	}
	return cards, installed
}

// macSize reads "16 GB" and "1536 MB", by which a Mac means GiB and MiB, in bytes.
func macSize(s string) *int64 {
	w := strings.Fields(s)
	if len(w) < 2 {
		return nil
	}
	n := num(w[0])
	unit := map[string]int64{"MB": mib, "GB": giB, "TB": giB << 10}[w[1]]
	if n == nil || unit == 0 || *n > 1<<20 {
		return nil
	}
	return ptr(*n * unit)
}
