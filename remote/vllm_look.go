package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
)

// vllmFacts are what VLLM's look finds out beside what all engines have.
type vllmFacts struct {
	// version is the installed one, "0.32.0+cpu", by the folder that says so beside its interpreter: vLLM itself takes
	// ten seconds and more to tell. Empty is not known.
	version string
	// bin is the folder of its interpreter, where it finds the compilers that it runs.
	bin string
	// images are those of vLLM that docker and podman have, image the one that serves; only where there is no program.
	images []*vllmImage
	image  *vllmImage
	// bare are those of docker and podman that have none. troubles are those that do not work: their name, the status of
	// their end and the last that they said.
	bare, troubles []string
	// daemon is the version of docker's, empty if it is not known.
	daemon string
	// containers run vLLM, "IMAGE PORTS" each; service is true if a system service does.
	containers []string
	service    bool
	// left is true if a container that rlca started runs although its client is gone.
	left bool

	linux bool
	// arch is what uname says, user the account's name, gpu whose GPUs it has: gpuNVIDIA, gpuAMD, or empty. tegra is true for
	// a Jetson, gb10 for a DGX Spark and its kin.
	arch, user, gpu string
	tegra, gb10     bool
}

// Whose GPUs a box has.
const (
	gpuNVIDIA = "nvidia"
	gpuAMD    = "amd"
)

// vllmScript finds vLLM: on the PATH, where rlca puts it, in environments that people make.
const vllmScript = `
say home "$HOME"; say os "$(uname -s)"; say arch "$(uname -m)"; say user "$(id -un 2>/dev/null)"
v=
for p in "$(command -v vllm 2>/dev/null)" "$D/vllm/bin/vllm" "$HOME"/.venv*/bin/vllm "$HOME"/venv*/bin/vllm "$HOME"/vllm/.venv/bin/vllm "$HOME"/vllm/venv/bin/vllm \
  "$HOME"/vllm*/bin/vllm "$HOME"/.local/share/uv/tools/vllm/bin/vllm "$HOME"/*conda3/envs/*/bin/vllm "$HOME"/miniforge3/envs/*/bin/vllm /opt/vllm/bin/vllm /opt/vllm/.venv/bin/vllm; do
  case $p in
  "$D/vllm/"*) [ -f "$D/vllm/rlca-complete" ] || continue;;
  /*) ;;
  *) continue;;
  esac
  [ -x "$p" ] && [ ! -d "$p" ] && { v=$p; break; }
done
if [ -n "$v" ]; then
  say path "$v"
  real=$(readlink -f "$v" 2>/dev/null) && [ -n "$real" ] || real=$v
  # Its first line names its interpreter; where that would be too long, the second does.
  py=$(dd if="$v" bs=1024 count=1 2>/dev/null | tr -d '\000' | sed -n -e '1s/^#! *\(\/[^ ]*python[^ ]*\).*/\1/p' -e "2s/.*exec[' ]*\"\{0,1\}\(\/[^\"' ]*python[^\"' ]*\).*/\1/p" | head -n 1)
  [ -n "$py" ] && say bin "${py%/*}"
  for root in "${py%/bin/*}" "${real%/bin/*}" "${v%/bin/*}" "$HOME/.local" /usr/local; do
    [ -n "$root" ] || continue
    for i in "$root"/lib/python3*/site-packages/vllm-[0-9]*.dist-info "$root"/lib/python3*/dist-packages/vllm-[0-9]*.dist-info \
      "$root"/lib/python3*/site-packages/vllm_*-[0-9]*.dist-info; do
      [ -d "$i" ] && { i=${i##*/}; i=${i%.dist-info}; say version "${i##*-}"; break 2; }
    done
  done
fi
if record vllm; then
  say pid "$P"; say mark "$M"; say address "$A"
  if mine; then say alive 1; elif boxed vllm "$M" && [ -n "$ids" ]; then say left 1; fi
fi
if command -v timeout >/dev/null 2>&1; then
  k=0
  for c in docker podman; do
    p=$(command -v $c) || continue
    l=$(timeout 3 $c ps --format '{{.Image}} {{.Ports}}' 2>&1) || { say trouble "$c $? $(echo "$l" | tail -n 1)"; continue; }
    echo "$l" | grep -i vllm | head -n 5 | while read -r l; do say container "$l"; done
    [ -z "$v" ] || continue
    # The docker of some boxes is a podman.
    runs=docker; case $(timeout 3 $c --version 2>/dev/null) in podman*) runs=podman;; esac
    some=
    for i in $(timeout 5 $c images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep -E '(^|/)[^/]*vllm[^/]*$' | grep -v '<none>' | head -n 8); do
      k=$((k+1)) some=1
      say image "$runs $p $i"
      timeout 5 $c image inspect --format '` + imageFormat + `' "$i" 2>/dev/null | grep -E '^(platform|created|entry) |^env (VLLM|CUDA)_VERSION=|^label org\.opencontainers\.image\.(version|title|source)=' | while read -r l; do say about "$k $l"; done
    done
    if [ -z "$some" ]; then say bare "$c"
    elif [ $runs = docker ]; then say daemon "$(timeout 3 $c version --format '{{.Server.Version}}' 2>/dev/null)"; fi
  done
  command -v systemctl >/dev/null 2>&1 && [ "$(timeout 3 systemctl is-active vllm 2>/dev/null)" = active ] && say service 1
fi
` + gpuScript + listenersScript

// imageFormat is what is asked about an image, as docker's and podman's templates both have it.
const imageFormat = `platform {{.Os}} {{.Architecture}}
created {{.Created}}
entry {{json .Config.Entrypoint}}
{{range .Config.Env}}env {{.}}
{{end}}{{range $k, $v := .Config.Labels}}label {{$k}}={{$v}}
{{end}}`

// gpuScript says whose GPUs a box shows.
const gpuScript = `
for f in /dev/nvidiactl /dev/nvidia0 /dev/dxg /dev/nvgpu /dev/nvhost-gpu; do [ -e "$f" ] && { say gpu nvidia; break; }; done
[ -e /dev/kfd ] && say gpu amd
{ [ -e /etc/nv_tegra_release ] || grep -qs nvidia,tegra /proc/device-tree/compatible; } && say tegra 1
grep -qs GB10 /proc/driver/nvidia/gpus/*/information && say gb10 1
`

// look runs the script.
func (v *VLLM) look(ctx context.Context) (*facts, error) {
	a, err := v.script(ctx, vllmScript)
	if err != nil {
		return nil, err
	}
	f := &facts{home: a.get("home"), path: a.get("path"), alive: a.get("alive") != ""}
	f.ours = record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}
	f.listenersKnown, f.listeners = parseListeners(a)
	f.vllm = vllmFacts{
		version: a.get("version"), bin: a.get("bin"), containers: a.lines["container"], service: a.get("service") != "",
		bare: a.lines["bare"], daemon: a.get("daemon"), troubles: a.lines["trouble"], left: a.get("left") != "",
		linux: a.get("os") == "Linux", arch: a.get("arch"), user: a.get("user"), gpu: a.get("gpu"), tegra: a.get("tegra") != "", gb10: a.get("gb10") != "",
	}
	for k, name := range a.lines["image"] {
		var about []string
		for _, l := range a.lines["about"] {
			if l, ok := strings.CutPrefix(l, strconv.Itoa(k+1)+" "); ok {
				about = append(about, l)
			}
		}
		if i, ok := readImage(name, about); ok {
			f.vllm.images = append(f.vllm.images, i)
		}
	}
	if i, _ := pickImage(&f.vllm); i != nil && f.path == "" && f.vllm.linux {
		f.path, f.vllm.version, f.vllm.image = i.String(), i.version, i
	}
	return f, nil
}

// how says how somebody else's server on a port is run.
func (f vllmFacts) how(port uint16) string {
	for _, c := range f.containers {
		// One with the network of the box publishes no port.
		if _, ports, _ := strings.Cut(c, " "); strings.Contains(ports, fmt.Sprintf(":%d->", port)) || strings.TrimSpace(ports) == "" {
			return "container"
		}
	}
	if f.service {
		return "system service"
	}
	return ""
}

// fingerprint finds out who listens. Others have a /version, too, and TensorRT-LLM's looks the same; the owner of the
// models tells vLLM. A port that takes a connection proves nothing: before a container answers, its proxy does.
func (v *VLLM) fingerprint(ctx context.Context, addr string) identity {
	ctx, cancel := context.WithTimeout(ctx, fingerprintLimit)
	defer cancel()
	var connected atomic.Bool
	a := newAPI(func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := v.box.Dial(ctx, network, addr)
		if err == nil {
			connected.Store(true)
		}
		return conn, err
	}, addr)
	var version struct {
		Version string `json:"version"`
	}
	var status *statusError
	err := a.call(ctx, fingerprintLimit, "GET", "/version", nil, &version)
	if err != nil && !connected.Load() {
		return identity{err: err}
	}
	if err == nil && version.Version != "" {
		list, err := v.models(ctx, addr)
		switch {
		case err == nil && len(list) > 0 && list[0].Owner == "vllm":
			return identity{who: itself, version: clean(version.Version)}
		case errors.As(err, &status):
			return identity{who: foreign, said: status.Text}
		case err == nil && len(list) > 0:
			return identity{who: foreign, said: clean("a model of " + string(list[0].Owner))}
		}
		return identity{who: foreign, said: clean("version " + version.Version)}
	}
	return identity{who: foreign, said: greeting(ctx, a)}
}

// greeting is the beginning of what a stranger says to anybody.
func greeting(ctx context.Context, a *api) string {
	resp, err := a.send(ctx, "GET", "/", nil)
	var status *statusError
	switch {
	case errors.As(err, &status):
		return status.Text
	case err != nil:
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 80))
	return clean(string(text))
}
