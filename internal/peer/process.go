package peer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// process is one process of this machine.
type process struct {
	pid, parent int
	name        string
}

// Descendants are the numbers of the processes below pid that still run, children before their own children.
func Descendants(pid int) (pids []int) {
	for _, p := range descendants(pid) {
		pids = append(pids, p.pid)
	}
	return pids
}

// descendants are the processes below pid that still run, children before their own children.
func descendants(pid int) []process {
	children := map[int][]process{}
	for _, p := range processes() {
		children[p.parent] = append(children[p.parent], p)
	}
	var out []process
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		out = append(out, queue[0])
		queue = append(queue, children[queue[0].pid]...)
	}
	return out
}

// processes are all that run, from /proc, or from ps where there is none.
func processes() []process {
	var out []process
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		if p, ok := parseStat(string(text)); ok {
			out = append(out, p)
		}
	}
	if len(stats) > 0 {
		return out
	}
	text, _ := exec.Command("ps", "-A", "-o", "pid=,ppid=,state=,comm=").Output()
	for line := range strings.Lines(string(text)) {
		if p, ok := parsePs(line); ok {
			out = append(out, p)
		}
	}
	return out
}

// parseStat reads /proc/PID/stat: "PID (NAME) STATE PARENT …", where NAME may hold spaces and brackets (proc(5)).
// A process that has ended and waits for its parent does not count.
func parseStat(text string) (process, bool) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	f := strings.Fields(text[end+1:])
	if len(f) < 2 {
		return process{}, false
	}
	return newProcess(strings.TrimSpace(text[:open]), f[1], f[0], text[open+1:end])
}

// parsePs reads a line "PID PARENT STATE PATH" of ps.
func parsePs(line string) (process, bool) {
	f := strings.Fields(line)
	if len(f) < 4 {
		return process{}, false
	}
	return newProcess(f[0], f[1], f[2], filepath.Base(strings.TrimSuffix(strings.Join(f[3:], " "), ":")))
}

func newProcess(pid, parent, state, name string) (process, bool) {
	p := process{name: name}
	var err1, err2 error
	p.pid, err1 = strconv.Atoi(pid)
	p.parent, err2 = strconv.Atoi(parent)
	return p, err1 == nil && err2 == nil && p.pid > 0 && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

func kill(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}
