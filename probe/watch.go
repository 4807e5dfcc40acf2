package probe

import "strings"

// WatchScript prints one line every 10 s, for ever, of what ParseWatch reads: less than 1 KiB each. It ends when nobody
// reads it any more.
const WatchScript = `if [ -r /proc/meminfo ]; then
	look() { awk '/^(MemTotal|MemAvailable|SwapTotal|SwapFree):/ { printf "%s%s ", $1, $2 } END { print "" }' /proc/meminfo; }
else
	look() { { vm_stat; sysctl vm.swapusage hw.memsize; } 2>/dev/null | tr '\n' ';'; echo; }
fi
while look; do sleep 10 || exit; done
`

// Sample is the memory of a box at one moment, in bytes. What is not known is nil.
type Sample struct {
	TotalBytes, AvailableBytes, SwapTotalBytes, SwapUsedBytes *int64
}

// ParseWatch reads a line of WatchScript. It is false for anything else.
func ParseWatch(line string) (Sample, bool) {
	var s Sample
	if strings.Contains(line, ";") { // a Mac
		var r Report
		text := strings.ReplaceAll(line, ";", "\n")
		s.AvailableBytes, _ = vmStat(text)
		for l := range strings.SplitSeq(text, "\n") {
			if val, ok := strings.CutPrefix(l, "vm.swapusage:"); ok {
				r.macSwap(val)
			}
			if val, ok := strings.CutPrefix(l, "hw.memsize:"); ok {
				s.TotalBytes = num(strings.TrimSpace(val))
			}
		}
		s.SwapTotalBytes, s.SwapUsedBytes = r.Memory.SwapTotalBytes, r.Memory.SwapUsedBytes
		return s, s.AvailableBytes != nil
	}
	var swapFree *int64
	for _, f := range strings.Fields(line) {
		key, val, _ := strings.Cut(f, ":")
		n := num(val)
		if n == nil || *n < 0 || *n > 1<<40 { // in KiB
			continue
		}
		bytes := ptr(*n << 10)
		switch key {
		case "MemTotal":
			s.TotalBytes = bytes
		case "MemAvailable":
			s.AvailableBytes = bytes
		case "SwapTotal":
			s.SwapTotalBytes = bytes
		case "SwapFree":
			swapFree = bytes
		}
	}
	if s.SwapTotalBytes != nil && swapFree != nil && *swapFree <= *s.SwapTotalBytes {
		s.SwapUsedBytes = ptr(*s.SwapTotalBytes - *swapFree)
	}
	return s, s.AvailableBytes != nil
}
