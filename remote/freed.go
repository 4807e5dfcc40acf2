package remote

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// freedLimit is how long memory may take to come back once its processes are gone: drivers let go a moment later.
const freedLimit = 3 * time.Second

// holding is what processes hold, and what the box has left beside it.
type holding struct {
	// pids are the processes that are there, held what only their end gives back, gpu what they hold on NVIDIA GPUs, by
	// number, all in bytes.
	pids []string
	held int64
	gpu  map[int]int64
	// available is what the box says that it could give, free what NVIDIA GPUs have free. -1 is not known: macOS does not
	// tell, and a GPU that shares the system's memory has none of its own.
	available, free int64
}

func (h holding) onGPU() (n int64) {
	for _, b := range h.gpu {
		n += b
	}
	return n
}

// holdingScript measures the processes of a record, or those that are named. Those in a container are another account's,
// which may not be asked whether they live, but show it.
const holdingScript = heldScript + `
name=%s all=%s
if [ -n "$name" ]; then record "$name" && all=$(family "$M" "$P"; mine && echo "$P"; inmates "$name" "$M"); all=$(echo "$all" | sort -u); fi
for p in $all; do { lives "$p" || grep -qs '^RssAnon' "/proc/$p/status"; } && say held "$p $(held "$p")"; done
grep '^MemAvailable:' /proc/meminfo 2>/dev/null | while read -r k v u; do say available "$v"; done
cards
command -v nvidia-smi >/dev/null 2>&1 && $brief nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits 2>/dev/null | while read -r l; do say free "$l"; done
`

// holding measures what the processes of a record hold. With pids it measures those.
func (h *host) holding(ctx context.Context, job string, pids []string) (holding, error) {
	var a *answer
	var err error
	if h.windows() {
		a, err = h.holdingWindows(ctx, job, pids)
	} else {
		a, err = h.script(ctx, fmt.Sprintf(holdingScript, quote(job), quote(strings.Join(pids, " "))))
	}
	if err != nil {
		return holding{}, fmt.Errorf("measure the memory of the box: %w", err)
	}
	m := holding{gpu: map[int]int64{}, available: -1, free: -1}
	cards := cardsOf(a)
	for _, line := range a.lines["held"] {
		pid, kib, _ := strings.Cut(line, " ")
		n, _ := strconv.ParseInt(kib, 10, 43)
		m.pids, m.held = append(m.pids, pid), m.held+n<<10
	}
	for _, pid := range append(m.pids, pids...) { // a driver may still list one that is gone
		if p, err := strconv.Atoi(pid); err == nil && cards[p] > 0 {
			m.gpu[p] = cards[p]
		}
	}
	if n, err := strconv.ParseInt(a.get("available"), 10, 43); err == nil {
		m.available = n << 10
	}
	for _, line := range a.lines["free"] {
		n, err := strconv.ParseInt(line, 10, 43)
		if err != nil {
			m.free = -1
			break
		}
		m.free = max(m.free, 0) + n<<20
	}
	return m, nil
}

// freed says in words how much memory came back since before, when its processes were there. warning is set if it did not.
func (h *host) freed(ctx context.Context, before holding) (words, warning string) {
	if before.held+before.onGPU() == 0 {
		return "", ""
	}
	for deadline := time.Now().Add(freedLimit); ; {
		after, err := h.holding(ctx, "", before.pids)
		if err != nil {
			return "", "whether its memory came back is not known: " + err.Error()
		}
		words, warning, all := cameBack(before, after)
		if all || time.Now().After(deadline) {
			h.log.Info("memory came back", "held", before.held, "gpu", before.onGPU(), "available", after.available-before.available, "missing", warning != "")
			return words, warning
		}
		select {
		case <-ctx.Done():
			return words, ""
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// slack is how much less may come back than was held before it is worth a warning: others on the box take and give, too.
const slack = 1 << 30

// tiny is what cannot be seen to come back: it is lost in what a box takes and gives all the time.
const tiny = 64 << 20

// cameBack compares two measurements. all is true if nothing needs to be waited for any more.
func cameBack(before, after holding) (words, warning string, all bool) {
	held, gpu := before.held, before.onGPU()
	if before.free < 0 || after.free < 0 { // one memory for both, or nobody knows
		held, gpu = held+gpu, 0
	}
	all = len(after.pids) == 0 && len(after.gpu) == 0
	var parts, lost []string
	account := func(held, before, after int64, where string) {
		part := "it held " + gib(held) + where
		if before < 0 || after < 0 || held < tiny {
			parts = append(parts, part)
			return
		}
		back := after - before
		if enough := back >= held-held/10; enough { // more is somebody else's
			parts = append(parts, part+", all of it is free again")
		} else {
			parts, all = append(parts, fmt.Sprintf("%s, and %s more are free now", part, gib(max(0, back)))), false
		}
		if missing := held - back; missing > slack && missing > held/2 {
			lost = append(lost, fmt.Sprintf("of the %s that it held%s only %s came back", gib(held), where, gib(max(0, back))))
		}
	}
	if gpu > 0 {
		account(gpu, before.free, after.free, " on the GPU")
	}
	if held > 0 {
		account(held, before.available, after.available, "")
	}
	for pid, n := range after.gpu {
		lost = append(lost, fmt.Sprintf("the GPU's driver still counts %s for process %d", gib(n), pid))
	}
	if len(lost) > 0 {
		warning = strings.Join(lost, ", and ") + ": something else took it meanwhile, or the driver does not let go; nvidia-smi and free -m on the box show what holds it"
	}
	return strings.Join(parts, "; "), warning, all
}
