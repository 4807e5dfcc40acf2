package probe

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// cmd.exe takes 8191 characters, with its own name and the quotes around ours, and no word may need a quote in any shell.
func TestWindowsCommand(t *testing.T) {
	c := WindowsCommand()
	if len(c) > 8000 || !regexp.MustCompile(`^powershell -NoProfile -NonInteractive -EncodedCommand [A-Za-z0-9+/]+=*$`).MatchString(c) {
		t.Errorf("%d characters: %.80s", len(c), c)
	}
	raw, err := base64.StdEncoding.DecodeString(c[strings.LastIndexByte(c, ' ')+1:])
	if err != nil || len(raw)%2 != 0 {
		t.Fatalf("not UTF-16 in base64: %d bytes, %v", len(raw), err)
	}
	var b strings.Builder
	for i := 0; i < len(raw); i += 2 {
		if raw[i+1] != 0 || raw[i] > '~' {
			t.Fatalf("byte %d: the script is not all ASCII", i)
		}
		b.WriteByte(raw[i])
	}
	if b.String() != windowsScript || c != WindowsCommand() {
		t.Error("the command is not the script, or not constant")
	}
	// No shell is there to try it: at least all that is opened is closed.
	for _, pair := range []string{"{}", "()", "[]", `""`, "''"} {
		open, closed := strings.Count(windowsScript, pair[:1]), strings.Count(windowsScript, pair[1:])
		if open != closed || pair[0] == pair[1] && open%2 != 0 {
			t.Errorf("%q: %d and %d", pair, open, closed)
		}
	}
	if !strings.Contains(windowsScript, "@@"+windowsNonce+"'") || strings.Contains(windowsScript, "\t") {
		t.Error("the script's mark is not ours, or it has tabs")
	}
}

func TestIsWindows(t *testing.T) {
	for version, want := range map[string]bool{
		"OpenSSH_for_Windows_9.5": true, "OpenSSH_for_Windows_8.1": true, "9.31 FlowSsh: Bitvise SSH Server (WinSSHD) 9.31": true,
		"OpenSSH_9.6p1 Ubuntu-3ubuntu13.5": false, "dropbear_2022.83": false, "": false,
	} {
		if got := IsWindows(version); got != want {
			t.Errorf("IsWindows(%q) = %v", version, got)
		}
	}
}

// windowsBox is a far side that runs Windows, or calls itself so.
type windowsBox struct {
	version, out string
	err          error
	ran          *[]string
}

func (w windowsBox) ServerVersion() string { return w.version }

func (w windowsBox) Run(context.Context, string) ([]byte, error) {
	*w.ran = append(*w.ran, "sh")
	return nil, errors.New("no /bin/sh here")
}

func (w windowsBox) Command(_ context.Context, command string) ([]byte, error) {
	*w.ran = append(*w.ran, command)
	return []byte(w.out), w.err
}

func TestRunWindows(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "windows-rtx4070", "answer.txt"))
	if err != nil {
		t.Fatal(err)
	}
	out := strings.ReplaceAll(string(text), "@@"+nonce, "@@"+windowsNonce)
	var ran []string
	r, err := Run(t.Context(), windowsBox{"OpenSSH_for_Windows_9.5", out, nil, &ran})
	if err != nil || r.OS != "windows" || len(r.Warnings) != 0 || !slices.Equal(ran, []string{WindowsCommand()}) {
		t.Fatalf("Run = %+v, %v; ran %.60q", r, err, ran)
	}
	ran = nil
	r, err = Run(t.Context(), windowsBox{"OpenSSH_for_Windows_9.5", out[:len(out)/2], errors.New("cut off"), &ran})
	if err != nil || r.Memory.TotalBytes == nil || !slices.Contains(r.Warnings, "the probe ended early: cut off") || !strings.Contains(strings.Join(r.Warnings, "\n"), "ends in the section listen") {
		t.Errorf("half an answer: %+v, %v", r, err)
	}
	var none *NoAnswerError
	_, err = Run(t.Context(), windowsBox{"OpenSSH_for_Windows_9.5", "'powershell' is not recognized as an internal or external command,\r\n", errors.New("exit 1"), &ran})
	if !errors.As(err, &none) || !strings.HasPrefix(none.Output, "'powershell' is not") {
		t.Errorf("without PowerShell: %v", err)
	}
	ran = nil
	if _, err = Run(t.Context(), windowsBox{"OpenSSH_9.6", out, nil, &ran}); err == nil || !slices.Equal(ran, []string{"sh"}) {
		t.Errorf("a Linux box: %v; ran %.60q", err, ran)
	}
}

// What two sources tell of the adapters: the registry all sizes and old cards, CIM the present ones and 4 GiB at most.
func TestWindowsGPUs(t *testing.T) {
	const (
		rx    = "Name : AMD Radeon RX 7900 XTX\nDriverVersion : 32.0.1\nAdapterRAM : 4293918720\nPNPDeviceID : PCI\\VEN_1002&DEV_744C\n"
		arcs  = "Name : Intel(R) Arc(TM) A770 Graphics\nAdapterRAM : 2147479552\nPNPDeviceID : PCI\\VEN_8086&DEV_56A0\n\nName : Intel(R) Arc(TM) 140V GPU (16GB)\nAdapterRAM : 2147479552\nPNPDeviceID : PCI\\VEN_8086&DEV_64A0\n"
		other = "Name : Microsoft Basic Display Adapter\nPNPDeviceID : PCI\\VEN_1234&DEV_1111\n\nName : Virtual Screen\nPNPDeviceID : ROOT\\DISPLAY\\0000\n"
		store = "AMD Radeon RX 7900 XTX|32.0.1|25753026560||PCI\\VEN_1002&DEV_744C&SUBSYS_1\nNVIDIA GeForce GTX 970|1.2|4294967296||PCI\\VEN_10DE&DEV_13C2\n"
	)
	for name, c := range map[string]struct{ cim, registry, want string }{
		"both":                        {rx, store, "AMD Radeon RX 7900 XTX 24560 false"},
		"CIM alone":                   {rx, "", "AMD Radeon RX 7900 XTX null false"},
		"denied":                      {"Get-CimInstance : Access denied ", store, "AMD Radeon RX 7900 XTX 24560 false, NVIDIA GeForce GTX 970 4096 false"},
		"two alike":                   {rx + "\n" + rx, store + store, "AMD Radeon RX 7900 XTX 24560 false, AMD Radeon RX 7900 XTX 24560 false"},
		"Arc, the card and the CPU's": {arcs, "", "Intel(R) Arc(TM) A770 Graphics 2047 false, Intel(R) Arc(TM) 140V GPU (16GB) 2047 true"},
		"no GPU":                      {other, "Microsoft Remote Display Adapter|1|||\n|||||\nx|y", ""},
		"bytes":                       {"", "AMD Radeon 780M Graphics|1|0 0 0 128 0 0 0 0|| pci\\ven_1002\nAMD Radeon(TM) R7 Graphics|1||0 0 0 64|PCI\\VEN_1002&DEV_1", "AMD Radeon(TM) R7 Graphics 1024 true"},
		"bad bytes":                   {"", "AMD Radeon RX 580|1|0 0 0 256||PCI\\VEN_1002\nAMD Radeon RX 590|1|-5|0 0|PCI\\VEN_1002", "AMD Radeon RX 580 null false, AMD Radeon RX 590 null false"},
		"wmic":                        {"AdapterRAM=1073741824\nName=Intel(R) UHD Graphics\nPNPDeviceID=PCI\\VEN_8086&amp;DEV_9BC8\n", "", "Intel(R) UHD Graphics 1024 true"},
	} {
		var got []string
		for _, g := range windowsGPUs(c.cim, c.registry) {
			got = append(got, fmt.Sprintf("%s %s %v", g.name, inMiB(g.vram), g.integrated))
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
}

// A card whose free memory nobody tells has a pool without a budget, and the host's memory counts.
func TestWindowsAMD(t *testing.T) {
	r := parse(t, "uname", "Windows 10.0.22631.0 AMD64", "win", "name Windows 10 Home\nbuild 22631\nproduct To Be Filled By O.E.M.", "mem", "total 34359738368\navail 17179869184",
		"gpureg", "AMD Radeon RX 7800 XT|1|17163091968||PCI\\VEN_1002&DEV_747E")
	p := r.Best()
	if p == nil || p.Kind != HostPool || len(r.Pools) != 2 || bytesOf(r.Pools[1].TotalBytes) != 17163091968 || r.Pools[1].FreeBytes != nil || r.Pools[1].BudgetBytes != nil ||
		len(r.Warnings) != 1 || r.OSName != "Windows 11 Home" || r.Product != "" {
		t.Errorf("%+v", r)
	}
	// CIM may be all there is; a box that tells nothing has nothing.
	r = parse(t, "uname", "Windows 10.0.19045.0 AMD64", "mem", "New-Object : cannot find the type", "cim_os", "TotalVisibleMemorySize : 8388608\nFreePhysicalMemory     : 4194304")
	if bytesOf(r.Memory.TotalBytes) != 8*giB || bytesOf(r.Memory.AvailableBytes) != 4*giB || r.Memory.SwapTotalBytes != nil {
		t.Errorf("CIM's memory: %+v", r.Memory)
	}
	if r = parse(t, "uname", "Windows 10.0.19045.0 ARM64"); len(r.Pools) != 0 || r.Arch != "aarch64" {
		t.Errorf("nothing: %+v", r)
	}
}

func TestWindowsEngines(t *testing.T) {
	const head = "  Proto  Local Address          Foreign Address        State           PID\n"
	for name, c := range map[string]struct{ procs, listen, want string }{
		"the app":   {"win 8 ollama app\nwin 9 ollama", head + "  TCP    127.0.0.1:11434   0.0.0.0:0   LISTENING   9", "true 127.0.0.1:11434 desktop app"},
		"by hand":   {"win 9 ollama", head + "  TCP    0.0.0.0:11434   0.0.0.0:0   LISTENING   9", "true 0.0.0.0:11434 user process"},
		"Docker":    {"win 9 com.docker.backend", head + "  TCP    0.0.0.0:11434   0.0.0.0:0   LISTENING   9", "null 0.0.0.0:11434 in a container"},
		"WSL":       {"win 9 wslrelay", head + "  TCP    127.0.0.1:11434   0.0.0.0:0   LISTENING   9", "null 127.0.0.1:11434 in WSL"},
		"a client":  {"", head + "  TCP    127.0.0.1:50000   127.0.0.1:11434   ESTABLISHED   9", "none"},
		"not heard": {"", head + "  TCP    127.0.0.1:11434   127.0.0.1:50000   ESTABLISHED   9", "none"},
	} {
		r := parse(t, "uname", "Windows 10.0.22631.0 AMD64", "procs", c.procs, "listen", c.listen)
		got := "none"
		if e := r.Engine("ollama"); e != nil {
			running := "null"
			if e.Running != nil {
				running = fmt.Sprint(*e.Running)
			}
			got = running + " " + str(e.Address) + " " + e.How
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
