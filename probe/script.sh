N=@NONCE@
LC_ALL=C LANGUAGE=C; export LC_ALL LANGUAGE
unset CDPATH ENV BASH_ENV 2>/dev/null
umask 077; set +e
for d in /usr/local/bin /usr/bin /bin /usr/local/sbin /usr/sbin /sbin /opt/homebrew/bin /opt/local/bin /usr/local/cuda/bin \
  /usr/local/nvidia/bin /opt/rocm/bin /snap/bin /run/current-system/sw/bin "$HOME/.local/bin" "$HOME/bin" "$HOME/.venv/bin" \
  /Applications/Ollama.app/Contents/Resources /Applications/Docker.app/Contents/Resources/bin; do
  case ":$PATH:" in *":$d:"*) ;; *) [ -d "$d" ] && PATH="$PATH:$d" ;; esac
done
[ -d /usr/lib/wsl/lib ] && PATH="/usr/lib/wsl/lib:$PATH"
export PATH
have() { command -v "$1" >/dev/null 2>&1; }
# lim SECONDS COMMAND: a limit that needs no timeout program and never waits for a process stuck in a driver
lim() {
  s=$1; shift; "$@" </dev/null & p=$!; i=0
  while kill -0 "$p" 2>/dev/null; do
    [ "$i" -ge $((s * 10 + 10)) ] && { kill -9 "$p" 2>/dev/null; return 124; }
    w=0.1; [ "$i" -lt 10 ] && w=0.02
    sleep $w 2>/dev/null || { sleep 1; i=$((i + 9)); }
    i=$((i + 1))
  done
  wait "$p"
}
# sec NAME COMMAND: one section, no pipe around what may hang
sec() {
  n=$1; shift; printf '\n@@%s begin %s\n' "$N" "$n"
  "$@" </dev/null 2>&1; r=$?
  printf '\n@@%s end %s rc=%s\n' "$N" "$n" "$r"; return "$r"
}
show() { for f do [ -r "$f" ] && [ -f "$f" ] && { printf '==> %s\n' "$f"; head -c 4096 "$f" | tr -d '\000'; echo; }; done; :; }
cpu() {
  echo "cores $(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
  { lscpu || cat /proc/cpuinfo; } 2>/dev/null | sed -n 's/^[Mm]odel name[[:space:]]*:[[:space:]]*/model /p' | sort -u | head -n 4
  grep -m1 -ow amx_tile /proc/cpuinfo
  # memory nodes without a CPU: on a GH200 the GPU's
  for f in /sys/devices/system/node/node[0-9]*; do
    [ -r "$f/cpulist" ] && [ -z "$(cat "$f/cpulist")" ] && echo node $(sed -n 's/^.*Mem\(Free\|Total\): *\([0-9]*\) kB/\2/p' "$f/meminfo" | sort -n)
  done; :
}
# cg FOLDER LIMIT USED: a control group's limit, what is used of it, and what of that is file cache
cg() { [ -r "$1/$2" ] && echo "$2 $(cat "$1/$2") $(cat "$1/$3" 2>/dev/null || echo -) $(sed -n 's/^\(total_\)*inactive_file //p' "$1/memory.stat" 2>/dev/null | tail -n 1) $1"; }
# up ROOT GROUP LIMIT USED: a group's limits and those of all above it
up() { c=$2; while :; do cg "$1$c" "$3" "$4"; case $c in */*) c=${c%/*} ;; *) break ;; esac; done; }
cgroups() {
  r=/sys/fs/cgroup
  up $r "$(sed -n 's/^0:://p' /proc/self/cgroup)" memory.max memory.current
  up $r/memory "$(sed -n 's/^[0-9]*:\([^:]*,\)*memory\(,[^:]*\)*://p' /proc/self/cgroup)" memory.limit_in_bytes memory.usage_in_bytes; :
}
# gpus: what the kernel's files say of display and compute cards, and the list of PCI ids of their names; wakes none
gpus() {
  for p in $(grep -lE '^0x(03|12)' /sys/bus/pci/devices/*/class); do p=${p%/class}
    grep -H . $p/uevent $p/mem_info_* $p/board_info $p/product_name $p/power/runtime_status $p/tile*/physical_vram_size_bytes $p/drm/card*/lmem_total_bytes
    i=$(sed -n 's/^PCI_ID=//p' $p/uevent | tr A-F a-f)
    for f in /usr/share/hwdata/pci.ids /usr/share/misc/pci.ids; do
      sed -n "/^${i%:*} /,/^[0-9a-f]/s|^.${i#*:}  |$p/name:|p" $f && break; done
  done
  grep -HE '^(simd_count|gfx_target_version|domain|location_id) ' /sys/class/kfd/kfd/topology/nodes/*/properties
  grep -H . /sys/module/ttm/parameters/pages_limit /sys/module/amdgpu/version
  for f in /dev/kfd /dev/dri/renderD*; do [ -e $f ] && [ ! -w $f ] && echo "denied $f"; done
  [ -d /sys/module/amdgpu ] && [ ! -e /dev/kfd ] && echo "missing /dev/kfd"; :
} 2>/dev/null
amdlog() { dmesg | grep -E 'amdgpu.*(ATOM BIOS|VRAM:|Capping|memory ready)'; }
nvproc() {
  for f in /proc/driver/nvidia/gpus/*/information; do [ -r "$f" ] && sed -n 's/^Model:[[:space:]]*/model /p' "$f"; done
  sed -n 's/^NVRM version:.*Kernel Module[^0-9]*\([0-9.]*\).*/driver \1/p' /proc/driver/nvidia/version 2>/dev/null; :
}
disks() {
  for d in / /usr/share/ollama "$OLLAMA_MODELS" "$HOME" "$HOME/.ollama"; do
    [ -n "$d" ] && [ -d "$d" ] && { printf 'path %s\n' "$d"; df -Pk "$d" 2>/dev/null | tail -n 1; }
  done; :
}
tools() {
  for t in ollama vllm llama-server docker podman nvidia-smi systemctl launchctl curl setsid; do q=$(command -v $t 2>/dev/null) && echo "$t $q"; done
  # vllm's own --version loads all of torch; the folder beside its interpreter says the same
  q=$(command -v vllm) && q=$(head -n 1 "$q" | sed -n 's|^#! *\(/[^ ]*\)/bin/[^/]*$|\1|p') && for v in "$q"/lib/python3*/site-packages/vllm-*.dist-info; do
    [ -d "$v" ] && v=${v##*/vllm-} && echo "vllm_version ${v%.dist-info}"; done; :
}
# procs: engines that run, as "proc PID PARENT NAME FIRST-ARGUMENT CONTROL-GROUP"; no more of their arguments, which may hold keys
procs() {
  echo "self $(tail -n 1 /proc/self/cgroup 2>/dev/null)"
  for d in /proc/[0-9]*; do
    read -r c <"$d/comm" || continue
    case $c in ollama* | llama-server* | vllm* | VLLM* | python*) ;; *) continue ;; esac
    read -r x x x pp x <"$d/stat"
    set -- $(tr '\000 ' '\n_' <"$d/cmdline" | head -n 3)
    case $c in python*) case "$2 $3" in *vllm*) c=vllm ;; *) continue ;; esac ;; esac
    echo "proc ${d##*/} $pp $c ${2:--} $(tail -n 1 "$d/cgroup")"
  done 2>/dev/null
  have systemctl && echo "unit $(systemctl is-active ollama 2>/dev/null)"; :
}
macprocs() { ps -axo pid=,ppid=,comm= | grep -iE '/(ollama|llama-server|vllm)$|Ollama.app' | sed 's/^/mac /'; :; }
nv() { printf '\n@@%s fields %s\n' "$N" "$1"; sec nv_csv lim 10 nvidia-smi --query-gpu=$1 --format=csv,noheader,nounits; }
OS=$(uname -s)
sec uname uname -srm
if [ "$OS" = Darwin ]; then
  sec sysctl sysctl hw.memsize hw.pagesize hw.ncpu hw.model hw.optional.arm64 machdep.cpu.brand_string vm.swapusage iogpu.wired_limit_mb debug.iogpu.wired_limit sysctl.proc_translated kern.hv_vmm_present
  sec sw_vers sw_vers
  sec vm_stat vm_stat
  sec displays lim 10 system_profiler -json SPDisplaysDataType
  sec procs lim 5 macprocs
else
  sec os show /etc/os-release /proc/sys/kernel/osrelease /etc/nv_tegra_release /proc/device-tree/model /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name
  sec cpu cpu
  sec meminfo cat /proc/meminfo || sec free free
  sec cgroup cgroups
  sec gpus lim 5 gpus
  ls /usr/share/*/pci.ids >/dev/null 2>&1 || { have lspci && sec lspci lim 5 lspci -nnD; }
  [ -d /sys/module/amdgpu ] && ! ls /sys/bus/pci/devices/*/mem_info_vram_total >/dev/null 2>&1 && sec dmesg lim 3 amdlog
  sec nvproc nvproc
  sec procs lim 5 procs
fi
sec tools tools
sec disk lim 5 disks
if [ "$OS" = Darwin ]; then
  sec lsof lim 10 lsof -nP -iTCP -sTCP:LISTEN -F pcn
  sec listen lim 5 netstat -an -p tcp
elif have ss && sec listen lim 5 ss -ltnp; then :
elif have netstat && sec listen lim 5 netstat -ltnp; then :
else sec proctcp sh -c 'cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep " 0A "; :'; fi
if have nvidia-smi; then
  C=index,uuid,memory.total,memory.used,memory.free,driver_version,pci.bus_id
  for q in $C,compute_cap,mig.mode.current,addressing_mode,name $C,compute_cap,mig.mode.current,name $C,mig.mode.current,name $C,name; do
    nv $q; r=$?
    [ $r = 2 ] || break
  done
  case $r in 0 | 124) ;; 2) sec nv_xml lim 10 nvidia-smi -q -x ;; *) sec nv_version lim 5 nvidia-smi --version ;; esac
  # slices of a GPU are in the table alone; it also stands in for a query that no field list suits
  if [ $r = 2 ] || ls -d /proc/driver/nvidia/capabilities/gpu*/mig/gi* >/dev/null 2>&1; then
    sec nv_list lim 10 nvidia-smi -L
    sec nv_table lim 10 nvidia-smi
  fi
fi
have amd-smi && sec amd_smi lim 10 amd-smi static --asic --vram --bus --driver --json ||
  { have rocm-smi && sec rocm_smi lim 10 rocm-smi --showproductname --showmeminfo vram gtt --showbus --showdriverversion --json; }
if have ollama; then sec v_ollama lim 4 ollama --version
elif have curl; then sec v_ollama lim 4 curl -qsm 3 --noproxy '*' http://127.0.0.1:11434/api/version; fi
# podman's first call in a home makes folders there
have docker && sec docker lim 5 docker ps --format '{{.Image}} {{.Ports}}'
have podman && [ -d "$HOME/.local/share/containers/storage" ] && sec podman lim 5 podman ps --format '{{.Image}} {{.Ports}}'
printf '\n@@%s done\n' "$N"
