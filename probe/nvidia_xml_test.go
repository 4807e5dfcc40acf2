package probe

import (
	"strings"
	"testing"
)

const xmlLog = `<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v11.dtd">
<nvidia_smi_log>
	<driver_version>535.129.03</driver_version>
	<gpu id="00000000:17:00.0">
		<product_name>NVIDIA A30</product_name>
		<mig_mode><current_mig>Disabled</current_mig></mig_mode>
		<mig_devices>None</mig_devices>
		<uuid>GPU-a</uuid>
		<fb_memory_usage><total>24576 MiB</total><reserved>260 MiB</reserved><used>0 MiB</used><free>24315 MiB</free></fb_memory_usage>
		<bar1_memory_usage><total>32768 MiB</total><free>32767 MiB</free></bar1_memory_usage>
	</gpu>
	<gpu id="00000000:65:00.0">
		<product_name>NVIDIA A30</product_name>
		<mig_mode><current_mig>Enabled</current_mig></mig_mode>
		<mig_devices><mig_device><index>0</index><gpu_instance_id>3</gpu_instance_id><fb_memory_usage><total>5952 MiB</total><free>5946 MiB</free></fb_memory_usage></mig_device></mig_devices>
		<uuid>GPU-b</uuid>
		<fb_memory_usage><total>24576 MiB</total><free>24000 MiB</free></fb_memory_usage>
	</gpu>
</nvidia_smi_log>`

// Where no query works the XML says it all, and of half of it the first half counts.
func TestXML(t *testing.T) {
	r := parse(t, "uname", "Linux 5.4 x86_64", "meminfo", mem120, "fields", fields, "nv_csv/2", `Field "x" is not a valid field to query.`, "nv_xml", xmlLog)
	if len(r.Accelerators) != 3 || len(r.Pools) != 3 || r.Pools[1].Kind != Partition || bytesOf(r.Pools[1].TotalBytes) != 5952*mib || bytesOf(r.Pools[0].FreeBytes) != 24315*mib {
		t.Fatalf("pools %+v, accelerators %+v", r.Pools, r.Accelerators)
	}
	if a := r.Accelerators[0]; a.Name != "NVIDIA A30" || str(a.Driver) != "535.129.03" || str(a.UUID) != "GPU-a" || str(a.Bus) != "00000000:17:00.0" {
		t.Errorf("%+v", a)
	}
	half := xmlLog[:strings.Index(xmlLog, "\t<gpu id=\"00000000:65")]
	if g := readXML(half); len(g) != 1 || bytesOf(g[0].total) != 24576*mib {
		t.Errorf("half of it: %+v", g)
	}
}

func TestVersion(t *testing.T) {
	for text, want := range map[string]string{
		"NVIDIA-SMI version  : 590.48.01\nNVML version        : 590.48\nDRIVER version      : 590.48.01":                          "590.48.01",
		"DRIVER version      : Deprecated, see \"KMD version\" instead\nKMD version         : 610.57.04\nCUDA UMD version    : 1": "610.57.04",
		"Failed to initialize NVML: Driver/library version mismatch":                                                              "null",
	} {
		if got := str(readVersion(text)); got != want {
			t.Errorf("readVersion(%q) = %s, want %s", text, got, want)
		}
	}
}

// Every code that nvidia-smi ends with has a state, and words that say what to do.
func TestCodes(t *testing.T) {
	for text, c := range map[string]struct{ rc, state, warning string }{
		"NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed": {"12", "unknown", "install"},
		"Unable to determine the device handle for GPU0: 0000:05:00.0: GPU requires reset":                                                       {"16", "lost", "reboot"},
		"GPU requires reset": {"16", "lost", "gpu-reset"},
		"Timeout":            {"10", "unknown", "code 10: Timeout"},
		"0, GPU-a, [GPU requires reset], [N/A], [N/A], 590, 8.9, [N/A], None, NVIDIA L40S":                             {"0", "lost", "reset"},
		"WARNING: infoROM is corrupted at gpu 0000:01:00.0\n0, GPU-a, 8192, 1, 8000, 590, 8.9, [N/A], None, NVIDIA L4": {"14", "ok", "infoROM"},
	} {
		r := parse(t, "uname", "Linux 6.8 x86_64", "meminfo", mem120, "fields", fields, "nv_csv/"+c.rc, text, "nv_version", "DRIVER version : 590.48")
		if len(r.Accelerators) != 1 || r.Accelerators[0].State != c.state || !strings.Contains(strings.Join(r.Warnings, "\n"), c.warning) || r.Accelerators[0].Driver == nil {
			t.Errorf("%q: %+v, warnings %q, want %s and %q", text, r.Accelerators, r.Warnings, c.state, c.warning)
		}
	}
}

func FuzzXML(f *testing.F) {
	f.Add(xmlLog)
	f.Add("DRIVER version : 590.48.01")
	f.Fuzz(func(t *testing.T, text string) {
		if n := len(readXML(text)); n > maxGPUs {
			t.Errorf("%d cards", n)
		}
		readVersion(text)
	})
}
