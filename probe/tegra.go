package probe

import (
	"cmp"
	"regexp"
	"strings"
)

// What the tools of a Jetson say of it: readers for an answer that has their sections. The script does not ask them:
// tegrastats runs until it is stopped, jetson_release is a Python program of somebody else's, and wherever they are,
// /proc/meminfo, /etc/nv_tegra_release and the device tree tell the same or more.
var (
	tegraRAM   = regexp.MustCompile(`\bRAM (\d+)/(\d+)MB\b`)
	tegraSwap  = regexp.MustCompile(`\bSWAP (\d+)/(\d+)MB\b`)
	tegraBoard = regexp.MustCompile(`(?m)^[^\w\n]*(\w.*?) - Jet[Pp]ack\b.*\[L4T \d`)
)

// tegra notes what they say of the board. Its memory is read where nothing else tells it.
func (r *Report) tegra(a *answer) {
	board := jetsonRelease(a.text("jetson_release"))
	if board != "" {
		r.jetson = origin(r.jetson, "jetson_release")
	}
	if tegrastats(a.text("tegrastats"))["MemTotal"] != 0 {
		r.jetson = origin(r.jetson, "tegrastats")
	}
	if r.jetson != "" && r.Product != "" {
		r.jetson = origin("os", r.jetson)
	}
	r.Product = cmp.Or(r.Product, board)
}

// tegrastats reads a line of tegrastats into the names of meminfo; of several the last one counts. "lfb 25x4MB" is the
// largest free block, and not what is free.
func tegrastats(text string) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.SplitSeq(text, "\n") {
		if used, total := tegraPair(tegraRAM, line); total != nil {
			m["MemTotal"], m["MemAvailable"] = *total, *total-*used
		}
		if used, total := tegraPair(tegraSwap, line); total != nil {
			m["SwapTotal"], m["SwapFree"] = *total, *total-*used
		}
	}
	return m
}

// tegraPair reads "USED/TOTALMB". Both are nil where it is missing or cannot be.
func tegraPair(re *regexp.Regexp, line string) (used, total *int64) {
	w := re.FindStringSubmatch(line)
	if w == nil {
		return nil, nil
	}
	used, total = mibOf(w[1]), mibOf(w[2])
	if used == nil || total == nil || *used > *total {
		return nil, nil
	}
	return used, total
}

// jetsonRelease reads the first line of jetson_release, "NVIDIA Jetson … - Jetpack 6.0 [L4T 36.3.0]", and returns the
// board's name.
func jetsonRelease(text string) string {
	if w := tegraBoard.FindStringSubmatch(text); w != nil {
		return w[1]
	}
	return ""
}
