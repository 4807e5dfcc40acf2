package probe

import (
	"fmt"
	"strings"
)

// gib writes bytes as a number of GiB with one decimal.
func gib(n *int64) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprintf("%.1f", float64(*n)/(1<<30))
}

// Summary is the probe's line in connect: "NVIDIA GB10, 119.7 GiB unified, 108.2 free · Ubuntu 24.04, aarch64".
func (r *Report) Summary() string {
	s := "memory could not be read"
	if p := r.Best(); p != nil {
		s = fmt.Sprintf("%s, %s GiB%s, %s free", r.gpuNames(p), gib(p.TotalBytes), r.share(p), gib(p.FreeBytes))
	}
	var os []string
	for _, w := range []string{short(r.OSName), r.Arch} {
		if w != "" {
			os = append(os, w)
		}
	}
	if len(os) > 0 {
		s += " · " + strings.Join(os, ", ")
	}
	return s
}

// gpuNames says whose memory a pool is: "NVIDIA GeForce RTX 4090", "3 × NVIDIA GeForce RTX 3090", "no GPU".
func (r *Report) gpuNames(p *Pool) string {
	var names []string
	state := "" // of the first
	count := map[string]int{}
	for _, a := range r.Accelerators {
		if p.Kind == Partition && (a.Pool == nil || *a.Pool != p.ID) {
			continue
		}
		if a.Pool != nil && *a.Pool == HostPool { // a GPU for a screen
			continue
		}
		if len(names) == 0 {
			state = a.State
		}
		if count[a.Name]++; count[a.Name] == 1 {
			names = append(names, a.Name)
		}
	}
	for i, n := range names {
		if count[n] > 1 && p.Kind != Partition {
			names[i] = fmt.Sprintf("%d × %s", count[n], n)
		}
	}
	switch {
	case len(names) == 0:
		return "no GPU"
	case p.Kind == HostPool:
		return fmt.Sprintf("%s cannot be used (%s)", names[0], state)
	}
	return strings.Join(names, " + ")
}

// share says what kind of number the total is, where it is not simply one GPU's: " unified", " each".
func (r *Report) share(p *Pool) string {
	switch p.Kind {
	case Unified, Partition:
		return " " + p.Kind
	case HostPool:
		return ""
	}
	cards := 0
	for _, o := range r.Pools {
		if o.Kind == Dedicated {
			cards++
			if o.TotalBytes == nil || p.TotalBytes == nil || *o.TotalBytes != *p.TotalBytes {
				return " at most"
			}
		}
	}
	if cards > 1 {
		return " each"
	}
	return ""
}

// short cuts a system's version after its second number: "Ubuntu 24.04.3" is "Ubuntu 24.04".
func short(os string) string {
	w := strings.Fields(os)
	for i, v := range w {
		if p := strings.Split(v, "."); len(p) > 2 && num(p[0]) != nil {
			w[i] = p[0] + "." + p[1]
		}
	}
	return strings.Join(w, " ")
}

// Describe is a pool's line in rlca probe.
func (p Pool) Describe() string {
	s := fmt.Sprintf("%s: %s GiB, %s free", p.Kind, gib(p.TotalBytes), gib(p.FreeBytes))
	if p.FreeFrom != "" {
		s += " (" + p.FreeFrom + ")"
	}
	if p.BudgetBytes != nil {
		s += fmt.Sprintf(", %s for a model (%s)", gib(p.BudgetBytes), p.How)
	}
	return s
}
