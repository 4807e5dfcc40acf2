package remote

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"rlca/remote/remotetest"
)

// fakeUV makes an environment with a vllm in it, and says what uv says. A file "refuse" in its home makes it fail.
const fakeUV = `#!/bin/sh
case $1 in
venv) mkdir -p "$4/bin"; echo "Using CPython 3.12.9";;
pip)
  echo "Resolved 166 packages in 1.2s"
  [ ! -f "$HOME/slow" ] || sleep 60
  [ ! -f "$HOME/refuse" ] || { echo "error: no wheel of vllm for this platform"; exit 2; }
  d=${4%/bin/python}; mkdir -p "$d/lib/python3.12/site-packages/vllm-0.33.0.dist-info"
  printf '#!%s/bin/python\n' "$d" > "$d/bin/vllm"; chmod 755 "$d/bin/vllm"
  echo "Installed 166 packages in 3.4s";;
esac
`

func TestVLLMInstall(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("vLLM is for Linux")
	}
	bin := t.TempDir()
	acc := remotetest.NewAccount(t, bin)
	v := testVLLM(t, acc, 1, "")
	writeProgram(t, filepath.Join(bin, "uv"), fakeUV)
	ctx := t.Context()
	var fail *InstallError
	if _, err := os.Stat("/dev/nvidiactl"); err != nil {
		if _, err := v.PlanInstall(ctx); !errors.As(err, &fail) || !strings.Contains(err.Error(), "the box shows none") {
			t.Errorf("PlanInstall without a GPU = %v", err)
		}
	}
	// A box that shows a GPU and has room.
	run := v.box.Run
	v.box.Run = func(ctx context.Context, script string) ([]byte, error) {
		script = strings.Replace(script, "for f in /dev/nvidiactl ", `for f in "$HOME" `, 1)
		return run(ctx, strings.Replace(script, `$(df -Pk "$HOME" 2>/dev/null | tail -n 1 | { read -r a b c d e; echo "$d"; })`, "99999999", 1))
	}
	folder := filepath.Join(acc.Home, ".rlca", "vllm")
	plan, err := v.PlanInstall(ctx)
	want := []string{
		bin + "/uv venv --python 3.12 " + folder,
		bin + "/uv pip install --python " + folder + "/bin/python vllm --torch-backend=auto",
	}
	if err != nil || !slices.Equal(plan.Commands, want) || plan.Folder != folder || plan.Free != 99999999<<10 {
		t.Fatalf("PlanInstall = %+v, %v, want %q", plan, err, want)
	}

	write(t, filepath.Join(acc.Home, "refuse"), "")
	if err := v.Install(ctx, nil); !errors.As(err, &fail) || !strings.Contains(err.Error(), "no wheel of vllm") {
		t.Errorf("Install = %v", err)
	}
	nothingLeft(t, acc)
	os.Remove(filepath.Join(acc.Home, "refuse"))

	write(t, filepath.Join(acc.Home, "slow"), "")
	brief, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := v.Install(brief, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Install = %v", err)
	}
	nothingLeft(t, acc)
	os.Remove(filepath.Join(acc.Home, "slow"))

	var said []string
	if err := v.Install(ctx, func(p Progress) { said = append(said, p.Text) }); err != nil {
		t.Fatal(err)
	}
	if len(said) == 0 || said[0] != "installing vLLM in "+folder {
		t.Errorf("progress %q", said)
	}
	var idle *NotRunningError
	if _, err := v.Find(ctx); !errors.As(err, &idle) || idle.Version != "0.33.0" || idle.Path != folder+"/bin/vllm" {
		t.Errorf("Find = %v, %+v", err, idle)
	}
	if did, err := v.Stop(ctx); err != nil || len(did) > 0 {
		t.Errorf("Stop = %v, %v", did, err)
	}
	if did, err := v.Uninstall(ctx); err != nil || !slices.Equal(did, []string{"removed " + folder}) {
		t.Errorf("Uninstall = %v, %v", did, err)
	}
	nothingLeft(t, acc)
}
