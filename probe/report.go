package probe

import (
	"fmt"
	"slices"
)

// Report is what a box has. Its JSON is what rlca probe --json prints; null means not known.
//
// A From names the sections of the script's output that the facts beside it were read from, with a blank between them:
// "nv_csv", "meminfo cgroup". It is empty where nothing is known. What is said of the machine as a whole has none:
// it comes from one section on each system. That is uname for OS, Arch and Kernel (sysctl for the Arch of a Mac whose
// login shell runs under Rosetta), tools for Setsid and Curl, cpu for AMX, and for the others:
//
//	         OSName   Product                  CPU, Cores
//	linux    os       os, else jetson_release  cpu
//	darwin   sw_vers  sysctl                   sysctl
//	windows  win      win                      win
type Report struct {
	Host         string        `json:"host"`
	OS           string        `json:"os"`   // linux, darwin, windows; empty if not known
	Arch         string        `json:"arch"` // as uname -m
	Memory       Memory        `json:"memory"`
	Pools        []Pool        `json:"pools"`
	Accelerators []Accelerator `json:"accelerators"`
	Engines      []Engine      `json:"engines"`
	Listeners    []Listener    `json:"listeners"`
	Disk         []Disk        `json:"disk"`
	Warnings     []string      `json:"warnings"`

	OSName  string `json:"os_name"` // "Ubuntu 24.04.3"
	Kernel  string `json:"kernel"`  // "Linux 6.14"
	Product string `json:"product"` // "NVIDIA DGX Spark"
	CPU     string `json:"cpu"`
	Cores   *int   `json:"cores"`
	AMX     bool   `json:"amx"` // the CPU has AMX: llama.cpp may keep the weights twice
	Setsid  bool   `json:"setsid"`
	Curl    bool   `json:"curl"`

	jetson string // the sections that tell of a Tegra board, whose GPU has no memory of its own, whatever nvidia-smi says; empty if it is none
	sized  string // the From of Memory.TotalBytes and Memory.AvailableBytes alone
}

// What is kept of a box that prints without end: rows of one kind, and GPUs or slices of them.
const (
	maxRows = 1000
	maxGPUs = 128
)

// Memory is the host's own memory in bytes. Swap is told, and never counted.
type Memory struct {
	TotalBytes       *int64 `json:"total_bytes"`
	AvailableBytes   *int64 `json:"available_bytes"`
	FreeBytes        *int64 `json:"free_bytes"` // MemFree: what some engines take for all there is
	SwapTotalBytes   *int64 `json:"swap_total_bytes"`
	SwapUsedBytes    *int64 `json:"swap_used_bytes"`
	CgroupLimitBytes *int64 `json:"cgroup_limit_bytes"`
	From             string `json:"from"`
}

// Kinds of pools.
const (
	Dedicated = "dedicated" // a GPU's own memory
	Unified   = "unified"   // one memory for CPU and GPU
	Partition = "partition" // a slice of a GPU
	HostPool  = "host"      // the CPU's memory
)

// Pool is one physical memory that a model could go to. Two devices on one pool do not add up.
type Pool struct {
	ID          string `json:"id"`
	Kind        string `json:"kind"`
	TotalBytes  *int64 `json:"total_bytes"`
	FreeBytes   *int64 `json:"free_bytes"`
	FreeFrom    string `json:"free_from"`    // which figure of the system free_bytes is, where there are several: MemAvailable, tegrastats, control group
	BudgetBytes *int64 `json:"budget_bytes"` // what a model may take of it
	How         string `json:"how"`          // the rule that made the budget
	From        string `json:"from"`         // of total_bytes and free_bytes
}

// Accelerator is one GPU. State is ok, lost, driver-mismatch, no-permission, asleep or unknown. A Pool of "host" is that
// of a GPU in the processor which is there for a screen: models run on the cores, or on the card beside it.
type Accelerator struct {
	Vendor  string  `json:"vendor"`
	Name    string  `json:"name"`
	Index   *int    `json:"index"`
	UUID    *string `json:"uuid"`
	Bus     *string `json:"bus"` // its PCI address, as the tool that knows it writes it
	Driver  *string `json:"driver"`
	Compute *string `json:"compute"`
	Pool    *string `json:"pool"`
	State   string  `json:"state"`
	From    string  `json:"from"` // of all but the pool, which has its own
}

// Engine is an engine that is installed or running. Running is nil where it cannot be told.
type Engine struct {
	Name    string  `json:"name"`
	Path    *string `json:"path"`
	Version *string `json:"version"`
	Running *bool   `json:"running"`
	Address *string `json:"address"`
	Exposed *bool   `json:"exposed"`
	How     string  `json:"how"` // "system service", "user service", "user process", "desktop app", "in a container", "in WSL"; empty if not known
	From    string  `json:"from"`
}

// Listener is one TCP port that something listens on. Exposed means on another address than loopback.
type Listener struct {
	Address string  `json:"address"`
	Port    int     `json:"port"`
	Process *string `json:"process"` // nil if it is another user's and we may not see it
	Exposed bool    `json:"exposed"`
	From    string  `json:"from"`

	pid int // 0 if not known
}

// Disk is a folder that matters and the room on its disk.
type Disk struct {
	Path      string `json:"path"`
	FreeBytes *int64 `json:"free_bytes"`
	From      string `json:"from"`
}

func (r *Report) warn(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(r.Warnings, s) {
		r.Warnings = append(r.Warnings, s)
	}
}

// Best is the pool that a model would go to: the accelerators' one with the biggest budget, else the host's.
func (r *Report) Best() *Pool {
	var best *Pool
	for i := range r.Pools {
		p := &r.Pools[i]
		switch {
		case best == nil:
			best = p
		case (p.Kind == HostPool) != (best.Kind == HostPool):
			if best.Kind == HostPool && p.BudgetBytes != nil {
				best = p
			}
		case p.BudgetBytes != nil && (best.BudgetBytes == nil || *p.BudgetBytes > *best.BudgetBytes):
			best = p
		}
	}
	return best
}

// Listener returns who listens on a port, or nil. Of several the one that is open to the network counts.
func (r *Report) Listener(port int) *Listener {
	var found *Listener
	for i := range r.Listeners {
		if l := &r.Listeners[i]; l.Port == port && (found == nil || l.Exposed && !found.Exposed) {
			found = l
		}
	}
	return found
}

// Engine returns an engine by name, or nil.
func (r *Report) Engine(name string) *Engine {
	for i := range r.Engines {
		if r.Engines[i].Name == name {
			return &r.Engines[i]
		}
	}
	return nil
}
