package probe

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The two ways in which files are printed say the same, and slots have colons of their own.
func TestReadPCI(t *testing.T) {
	want := `- "Radeon RX 9070/9070 XT" 16304/256 0000:c1:00.0`
	wantCards(t, "grep -H", readPCI(sysfs("0000:c1:00.0", "uevent:PCI_SLOT_NAME=0000:c1:00.0", "mem_info_vram_total:17095983104", "mem_info_vram_used:268435456", "name:Navi 48 [Radeon RX 9070/9070 XT]", "mem_info_gtt_total:not a number")), want)
	wantCards(t, "head -v", readPCI("==> /sys/class/drm/card1/device/uevent <==\nPCI_SLOT_NAME=0000:c1:00.0\n\n==> /sys/class/drm/card1/device/mem_info_vram_total <==\n17095983104\n==> /sys/class/drm/card1/device/mem_info_vram_used\n268435456\n==> /sys/class/drm/card1/device/name\nNavi 48 [Radeon RX 9070/9070 XT]\n"), want)
	wantCards(t, "nonsense", readPCI("/sys/bus/pci/devices/x:1\nuevent:DRIVER=a\n==> \n1\n/sys/:\n"))
}

func TestLspci(t *testing.T) {
	text := `0000:00:00.0 Host bridge [0600]: Intel Corporation Device [8086:1234]
0000:03:00.0 VGA compatible controller [0300]: Advanced Micro Devices, Inc. [AMD/ATI] Navi 31 [Radeon RX 7900 XT/7900 XTX] [1002:744c] (rev c8)
0000:83:00.0 Processing accelerators [1200]: Advanced Micro Devices, Inc. [AMD/ATI] Aldebaran/MI200 [Instinct MI210] [1002:740f] (rev 02)
0000:00:02.0 VGA compatible controller [0300]: Intel Corporation Meteor Lake-P [Intel Arc Graphics] [8086:7d55] (rev 08)
`
	wantCards(t, "lspci -nnD", readLspci(text), `- "Radeon RX 7900 XT/7900 XTX" null/null 0000:03:00.0`, `- "Instinct MI210" null/null 0000:83:00.0`, `- "Intel Arc Graphics" null/null 0000:00:02.0`)
	a, _ := read(nonce, printed("gpus", sysfs("0000:03:00.0", "uevent:PCI_ID=1002:744C", "uevent:PCI_SLOT_NAME=0000:03:00.0", "mem_info_vram_total:1048576"), "lspci", strings.SplitAfter(text, "\n")[1]))
	wantCards(t, "a name for a card that is known", sysCards(a), `- "Radeon RX 7900 XT/7900 XTX" 1/null 0000:03:00.0`)
}

// moved is this machine with the files of another one.
type moved struct {
	shell
	root string
}

func (m moved) Run(ctx context.Context, script string) ([]byte, error) {
	script = strings.NewReplacer("/sys/bus/", m.root+"/sys/bus/", "/sys/class/kfd/", m.root+"/sys/class/kfd/", "/sys/module/", m.root+"/sys/module/",
		"/usr/share/", m.root+"/usr/share/", "/dev/kfd", m.root+"/dev/kfd", "/dev/dri/", m.root+"/dev/dri/", "have nvidia-smi", "false").Replace(script)
	out, err := m.shell.Run(ctx, script)
	return []byte(strings.ReplaceAll(string(out), m.root, "")), err
}

// The script reads the kernel's files of two cards, and their names from the list of PCI ids, whatever the shell.
func TestScriptCards(t *testing.T) {
	needShell(t)
	if runtime.GOOS != "linux" {
		t.Skip("the files are Linux's")
	}
	root := t.TempDir()
	card := "/sys/bus/pci/devices/0000:c3:00.0/"
	for file, text := range map[string]string{
		card + "class":                                   "0x038000\n",
		card + "uevent":                                  "DRIVER=amdgpu\nPCI_CLASS=38000\nPCI_ID=1002:1586\nPCI_SLOT_NAME=0000:c3:00.0\n",
		card + "mem_info_vram_total":                     "536870912\n",
		card + "mem_info_vram_used":                      "10000000\n",
		card + "mem_info_gtt_total":                      "1073741824\n",
		card + "mem_info_gtt_used":                       "0\n",
		card + "power/runtime_status":                    "active\n",
		"/sys/bus/pci/devices/0000:04:00.0/class":        "0x030000\n",
		"/sys/bus/pci/devices/0000:04:00.0/uevent":       "DRIVER=xe\nPCI_CLASS=30000\nPCI_ID=8086:E20B\nPCI_SLOT_NAME=0000:04:00.0\n",
		"/sys/bus/pci/devices/0000:00:1f.3/class":        "0x040300\n",
		"/sys/bus/pci/devices/0000:00:1f.3/uevent":       "PCI_ID=1002:1586\n",
		"/sys/class/kfd/kfd/topology/nodes/1/properties": "cpu_cores_count 0\nsimd_count 80\ngfx_target_version 110501\nlocation_id 49920\ndomain 0\n",
		"/sys/module/amdgpu/version":                     "6.14.5\n",
		"/dev/kfd":                                       "",
		"/usr/share/misc/pci.ids":                        "1001  Kolter Electronic\n\t1586  Another\n1002  Advanced Micro Devices, Inc. [AMD/ATI]\n\t1585  Before\n\t1586  Strix Halo [Radeon 8060S]\n\t\t1002 1586  A board\n1003  ULSI Systems\n8086  Intel Corporation\n\te20b  Battlemage G21 [Arc B580]\n",
	} {
		file = filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Run(t.Context(), moved{shell: shell{}, root: root})
	whole(t, r, err)
	var got []string
	for _, a := range r.Accelerators {
		got = append(got, a.Name+" "+str(a.Bus)+" "+str(a.Driver)+" "+str(a.Compute)+" "+str(a.Pool))
	}
	want := "Radeon 8060S 0000:c3:00.0 6.14.5 gfx1151 unified; Arc B580 0000:04:00.0 null null null"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("accelerators %q, want %q", s, want)
	}
}

// A tool that fails or hangs leaves the word to the other one.
func TestScriptAMDTools(t *testing.T) {
	needShell(t)
	edit := func(s string) string {
		return strings.NewReplacer("lim 10 amd-smi", "lim 1 amd-smi", "/sys/bus/", "/none/", "have lspci", "false").Replace(s)
	}
	rocm := "echo 'WARNING: AMD GPU device(s) is/are in a low-power state'; echo; echo '" + `{"card0": {"Card Series": "AMD Instinct MI100", "VRAM Total Memory (B)": "34342961152", "VRAM Total Used Memory (B)": "0"}}` + "'"
	for name, text := range map[string]string{"fails": "echo 'ERROR: no amdgpu' >&2; exit 1", "hangs": "exec sleep 60", "is missing": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := tool(t, "rocm-smi", rocm)
			if text != "" {
				dir, _, _ := strings.Cut(strings.TrimPrefix(env[0], "PATH="), ":")
				if err := os.WriteFile(filepath.Join(dir, "amd-smi"), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			r, err := Run(t.Context(), shell{env: env, edit: edit})
			whole(t, r, err)
			if len(r.Accelerators) != 1 || r.Accelerators[0].Name != "AMD Instinct MI100" || bytesOf(r.Best().TotalBytes) != 34342961152 {
				t.Errorf("accelerators %+v, pools %+v", r.Accelerators, r.Pools)
			}
		})
	}
}

func FuzzPCI(f *testing.F) {
	f.Add(sysfs("0000:03:00.0", "uevent:DRIVER=amdgpu", "uevent:PCI_ID=1002:73BF", "mem_info_vram_total:17163091968", "tile0/physical_vram_size_bytes:1"))
	f.Add("==> /sys/class/drm/card1/device/mem_info_gtt_total <==\n1 (1 B)\n")
	f.Add("/sys/class/kfd/kfd/topology/nodes/1/properties:gfx_target_version 110501\n/sys/class/kfd/kfd/topology/nodes/1/properties:simd_count 1\n/sys/module/ttm/parameters/pages_limit:1")
	f.Fuzz(func(t *testing.T, text string) {
		sane(t, readPCI(text))
		readKernel(text)
	})
}

func FuzzLspci(f *testing.F) {
	f.Add("0000:00:02.0 VGA compatible controller [0300]: Intel Corporation Meteor Lake-P [Intel Arc Graphics] [8086:7d55] (rev 08)")
	f.Fuzz(func(t *testing.T, text string) { sane(t, readLspci(text)) })
}
