package probe

import (
	"slices"
	"strings"
)

// arcIDs begin the PCI ids of the GPUs in Intel's processors that run models: those of Meteor Lake-H, Arrow Lake-H,
// Lunar Lake and Panther Lake. Others are no faster than the cores beside them. The ids stand in the kernel's
// include/drm/intel/pciids.h.
var arcIDs = []string{"7d55", "7dd5", "7d51", "7dd1", "64", "b0"}

// inside says whether Intel's GPU is the one in the processor, which has the same slot in every box.
func (c card) inside() bool { return strings.HasSuffix(c.bus, ":00:02.0") }

// intel adds Intel's cards, and reports whether the host's memory is one of theirs. A card's own memory stands in the
// kernel's files only with some drivers, and what is free of it nowhere that a login may look.
func (r *Report) intel(a *answer, cards []card) (unified bool) {
	alone := len(r.Accelerators) == 0 && !slices.ContainsFunc(cards, func(c card) bool { return strings.HasPrefix(c.class, "3") && !c.inside() })
	for _, c := range cards {
		if len(r.Accelerators) >= maxGPUs {
			break
		}
		if c.class != "" && !strings.HasPrefix(c.class, "3") || c.inside() && !(alone && c.arc()) {
			continue // an NPU; or a GPU for a screen, which a better one stands beside
		}
		if c.module != "i915" && c.module != "xe" && c.module != "?" {
			r.undriven("Intel", "a kernel with xe or i915", c)
			continue
		}
		acc := c.accelerator("Intel")
		acc.Driver = nil
		if denied(a.text("gpus"), "/dev/dri/renderD") {
			acc.State, acc.From = "no-permission", origin(acc.From, "gpus")
			r.warn("this login may not use %s: add it to the groups render and video (on the box: sudo usermod -aG render,video \"$USER\"), then log in again", acc.Name)
		}
		switch {
		case acc.State != "ok" && !service(a):
			r.Accelerators = append(r.Accelerators, acc)
		case c.inside():
			// Mesa's Vulkan driver gives out three quarters of RAM (anv_physical_device_init_heaps).
			var limit *int64
			if all := r.Memory.TotalBytes; all != nil {
				limit = ptr(*all / 4 * 3)
			}
			r.addShared(acc, "", r.Memory.TotalBytes, limit, "3/4 of memory for the GPU")
			unified = true
		default:
			if c.vram == nil || *c.vram == 0 {
				if acc.State == "ok" {
					acc.State = "unknown"
				}
				r.warn("%s does not tell its memory: the kernel's files have no size of it", acc.Name)
			}
			r.addDedicated(acc, c)
		}
	}
	return unified
}

func (c card) arc() bool {
	for _, id := range arcIDs {
		if strings.HasPrefix(c.device, id) {
			return true
		}
	}
	return strings.Contains(c.name, "Arc")
}
