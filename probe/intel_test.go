package probe

import (
	"strings"
	"testing"
)

func TestIntel(t *testing.T) {
	i915 := sysfs("0000:03:00.0", "uevent:DRIVER=i915", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=8086:56A0", "name:DG2 [Arc A770]")
	lunar := sysfs("0000:00:02.0", "uevent:DRIVER=xe", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=8086:64A0", "name:Lunar Lake [Intel Arc Graphics 130V / 140V]")
	uhd := sysfs("0000:00:02.0", "uevent:DRIVER=i915", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=8086:4680")
	for name, c := range map[string]struct{ gpus, want, warning string }{
		"a card that tells nothing":  {i915, "Arc A770 unknown null", "does not tell its memory"},
		"i915 with a size":           {i915 + "/sys/bus/pci/devices/0000:03:00.0/drm/card1/lmem_total_bytes:17179869184", "Arc A770 ok gpu0 16384", ""},
		"xe with two tiles":          {strings.Replace(i915, "i915", "xe", 1) + sysfs("0000:03:00.0", "tile0/physical_vram_size_bytes:8589934592", "tile1/physical_vram_size_bytes:8589934592"), "Arc A770 ok gpu0 16384", ""},
		"Lunar Lake":                 {lunar, "Intel Arc Graphics 130V / 140V ok unified 122558", ""},
		"Lunar Lake, not allowed":    {lunar + "denied /dev/dri/renderD128", "Intel Arc Graphics 130V / 140V no-permission null", "usermod"},
		"Lunar Lake beside a card":   {lunar + i915, "Arc A770 unknown null", "does not tell"},
		"a GPU for a screen":         {uhd, "", ""},
		"a network processor":        {sysfs("0000:00:0b.0", "uevent:DRIVER=intel_vpu", "uevent:PCI_CLASS=120000", "uevent:PCI_ID=8086:643E"), "", ""},
		"without a driver":           {sysfs("0000:03:00.0", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=8086:E20B"), "Intel GPU e20b unknown null", "has no driver"},
		"an NVIDIA card with no use": {sysfs("0000:01:00.0", "uevent:DRIVER=nouveau", "uevent:PCI_CLASS=30000", "uevent:PCI_ID=10DE:2531"), "NVIDIA GPU 2531 unknown null", "nouveau"},
	} {
		r := parse(t, "uname", "Linux 6.14 x86_64", "meminfo", mem120, "gpus", c.gpus)
		var got []string
		for _, a := range r.Accelerators {
			s := a.Name + " " + a.State + " " + str(a.Pool)
			for _, p := range r.Pools {
				if p.ID == str(a.Pool) {
					s += " " + inMiB(p.TotalBytes)
				}
			}
			got = append(got, s)
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
		if said := strings.Join(r.Warnings, "\n"); c.warning == "" && said != "" || !strings.Contains(said, c.warning) {
			t.Errorf("%s: warnings %q, want %q", name, r.Warnings, c.warning)
		}
	}
	// Three quarters of RAM is the most that the GPU is given.
	r := parse(t, "uname", "Linux 6.14 x86_64", "meminfo", mem120, "gpus", lunar)
	if p, limit := r.Best(), int64(125500000)*1024/4*3; bytesOf(p.FreeBytes) != limit || bytesOf(p.BudgetBytes) != limit-giB {
		t.Errorf("Lunar Lake: %+v", p)
	}
}
