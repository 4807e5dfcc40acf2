package probe

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// readAMDSMI reads amd-smi static: JSON, a list up to ROCm 6 and an object with it since 7, or text in steps.
func readAMDSMI(text string) []card {
	var cards []card
	for _, kv := range append(smiJSON(text), smiText(text)...) {
		if len(cards) >= maxGPUs {
			break
		}
		c := card{
			vendor: "1002", index: indexOf(kv["gpu"]), bus: kv["bus.bdf"], gfx: told(kv["asic.target_graphics_version"]),
			name: cmp.Or(told(kv["asic.market_name"]), told(kv["board.product_name"])), device: deviceID(kv["asic.device_id"]),
			version: cmp.Or(told(kv["driver.version"]), told(kv["driver.driver_version"])),
		}
		c.vram = smiSize(kv["vram.size"])
		cards = append(cards, c)
	}
	return cards
}

// told is what a tool says, or empty if that stands for nothing.
func told(s string) string {
	if s = strings.TrimSpace(s); placeholder(s) || s == "None" || s == "unknown" || strings.HasPrefix(s, "0x") {
		return ""
	}
	return s
}

// deviceID reads "0x744c"; a name in its place is none.
func deviceID(s string) string {
	id, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(s)), "0x")
	if !ok || len(id) > 4 {
		return ""
	}
	return fmt.Sprintf("%04s", id)
}

// smiSize reads "196592 MB": their MB are MiB. So is a number without a unit.
func smiSize(s string) *int64 {
	val, unit, _ := strings.Cut(s, " ")
	n := num(val)
	switch {
	case n == nil || *n > 1<<26:
		return nil
	case unit == "GB":
		return ptr(*n * giB)
	}
	return ptr(*n * mib)
}

// readJSON reads the first object or list that begins a line: tools print warnings above, some in brackets. What stands
// behind it does not count.
func readJSON(text string, v any) bool {
	tries := 0
	for i := 0; i < len(text) && tries < 10; {
		line, _, _ := strings.Cut(text[i:], "\n")
		if t := strings.TrimSpace(line); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") {
			if tries++; json.NewDecoder(strings.NewReader(text[i:])).Decode(v) == nil {
				return true
			}
		}
		i += len(line) + 1
	}
	return false
}

func smiJSON(text string) []map[string]string {
	var all any
	if !readJSON(text, &all) {
		return nil
	}
	if o, ok := all.(map[string]any); ok {
		all = o["gpu_data"]
	}
	list, _ := all.([]any)
	var cards []map[string]string
	for _, one := range list {
		if o, ok := one.(map[string]any); ok {
			kv := map[string]string{}
			flatten(kv, "", o)
			cards = append(cards, kv)
		}
	}
	return cards
}

// flatten writes {"vram": {"size": {"value": 1, "unit": "MB"}}} as vram.size = "1 MB". Keys change their case between
// releases.
func flatten(kv map[string]string, at string, o map[string]any) {
	for key, val := range o {
		name := at + strings.ToLower(key)
		sub, ok := val.(map[string]any)
		switch {
		case !ok:
			kv[name] = jsonWord(val)
		case sub["value"] != nil:
			kv[name] = strings.TrimSpace(jsonWord(sub["value"]) + " " + jsonWord(sub["unit"]))
		default:
			flatten(kv, name+".", sub)
		}
	}
}

func jsonWord(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return fmt.Sprintf("%.0f", v)
	}
	return ""
}

// smiText reads blocks of "GPU: 0", each with sections of four blanks and their values of eight.
func smiText(text string) []map[string]string {
	var cards []map[string]string
	part := ""
	for line := range strings.SplitSeq(text, "\n") {
		key, val, ok := strings.Cut(strings.TrimSpace(line), ":")
		key, val = strings.ToLower(key), strings.TrimSpace(val)
		depth := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case !ok || len(cards) >= maxGPUs && depth == 0:
		case depth == 0 && key == "gpu":
			cards, part = append(cards, map[string]string{"gpu": val}), ""
		case len(cards) == 0:
		case depth == 4:
			part = key
		case depth == 8 && part != "":
			cards[len(cards)-1][part+"."+key] = val
		}
	}
	return cards
}

// The layouts of rocm-smi for people.
var (
	rocmBlock = regexp.MustCompile(`^GPU\[(\d{1,4})\]\s*:\s*(\S.*?):\s+(\S.*)$`)
	columns   = regexp.MustCompile(`\s{2,}`)
)

// readROCm reads rocm-smi in all its layouts: JSON, csv, lines of "GPU[0] : KEY: VALUE", and tables. A warning above
// says that cards sleep: their readings are missing then.
func readROCm(text string) []card {
	var cards []card
	sleeping := strings.Contains(text, "low-power state")
	for _, kv := range rocmRows(text) {
		if len(cards) >= maxGPUs {
			break
		}
		c := card{
			vendor: "1002", index: indexOf(kv["#"]), bus: told(kv["pci bus"]), gfx: told(kv["gfx version"]), version: told(kv["driver version"]),
			name:   cmp.Or(told(kv["card series"]), told(kv["device name"])),
			device: cmp.Or(deviceID(kv["device id"]), deviceID(kv["gpu id"]), deviceID(kv["card model"])),
			vram:   size(kv["vram total memory (b)"]), vramUsed: size(kv["vram total used memory (b)"]),
			gtt: size(kv["gtt total memory (b)"]), gttUsed: size(kv["gtt total used memory (b)"]),
		}
		c.asleep = sleeping && kv["perf"] == "unknown"
		cards = append(cards, c)
	}
	return cards
}

// rocmRows are the cards with their values by the names of them, in small letters; "#" is the card's number.
func rocmRows(text string) []map[string]string {
	var all map[string]map[string]any
	if readJSON(text, &all) {
		return rocmJSON(all)
	}
	var rows []map[string]string
	at := map[string]int{}
	row := func(number string) map[string]string {
		i, ok := at[number]
		if !ok {
			if len(rows) >= maxGPUs {
				return map[string]string{}
			}
			i, at[number] = len(rows), len(rows)
			rows = append(rows, map[string]string{"#": number})
		}
		return rows[i]
	}
	var head []string
	csv := false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if m := rocmBlock.FindStringSubmatch(line); m != nil {
			row(m[1])[strings.ToLower(m[2])] = m[3]
			continue
		}
		lower := strings.ToLower(line)
		switch {
		case strings.HasPrefix(lower, "device,"):
			head, csv = strings.Split(lower, ","), true
		case strings.HasPrefix(lower, "device "):
			head, csv = columns.Split(lower, -1), false
		case head == nil:
		case csv:
			if cells := strings.Split(line, ","); len(cells) == len(head) {
				kv := row(strings.TrimPrefix(cells[0], "card"))
				for i, key := range head[1:] {
					kv[key] = cells[i+1]
				}
			}
		case line != "" && line[0] >= '0' && line[0] <= '9':
			cells := columns.Split(line, -1)
			kv := row(cells[0])
			if slices.Contains(head, "ids") { // the table of all readings: two ids in one column, which a card asleep has too
				if len(cells) > 2 {
					kv["device id"] = strings.TrimSuffix(cells[2], ",")
				}
				if slices.Contains(cells, "unknown") {
					kv["perf"] = "unknown"
				}
				continue
			}
			for i, key := range head {
				if i > 0 && i < len(cells) {
					kv[key] = cells[i]
				}
			}
		}
	}
	return rows
}

// rocmJSON reads {"card0": {…}, "system": {…}}: the last is no card, and has the driver's version.
func rocmJSON(all map[string]map[string]any) []map[string]string {
	var rows []map[string]string
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int { return cmp.Or(len(a)-len(b), cmp.Compare(a, b)) }) // card2 before card10
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "card")
		if !ok || len(rows) >= maxGPUs {
			continue
		}
		kv := map[string]string{"#": number}
		for key, val := range all[name] {
			kv[strings.ToLower(key)] = jsonWord(val)
		}
		if v := jsonWord(all["system"]["Driver version"]); v != "" {
			kv["driver version"] = v
		}
		rows = append(rows, kv)
	}
	return rows
}
