package remote

// containersScript are the shell functions about the container of a job, for the prelude. What containerScript wrote, NAME's
// .container, has the client's program and the container's name; without it there is none, and nobody is asked. They have
// no percent sign, because the prelude is a format.
const containersScript = `# boxed NAME MARK: ids are the containers that were started for NAME with MARK, C is the client. 1 is that it does not tell; why says so
boxed() {
  ids= why= C=
  { read -r C < "$D/$1.container"; } 2>/dev/null
  [ -n "$C" ] && [ -n "$2" ] || { C=; return 0; }
  why=$(timeout 4 "$C" ps -aq --filter "label=` + containerLabel + `=$2" 2>&1) || { why="$C ps: $(echo "$why" | tail -n 1)"; return 1; }
  ids=$(echo "$why" | grep -E '^[0-9a-f]{12,64}$' | tr '\n' ' ') why=
}
# unbox NAME MARK: removes those that still are there. 1 is that some stay, or that nobody tells; why says so
unbox() {
  [ -f "$D/$1.container" ] || return 0
  boxed "$1" "$2" || return 1
  [ -z "$ids" ] || { timeout 5 "$C" rm -f $ids >/dev/null 2>&1; boxed "$1" "$2" || return 1; }
  [ -z "$ids" ] || { why="container $ids"; return 1; }
  rm -f "$D/$1.container"
}
# inmates NAME MARK: the processes in them. Their environments are not for us to read, their cgroups are
inmates() {
  boxed "$1" "$2" && for i in $ids; do grep -lF "$i" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3; done
}
# vital NAME: what changes while a container gets on, as its cgroup tells: memory, what was read. The time, where none tells
vital() {
  c= n=
  { read -r c; read -r n; } 2>/dev/null < "$D/$1.container"
  [ -n "$c" ] || return
  i=$(timeout 4 "$c" inspect --format '{{.State.Pid}}' "$n" 2>/dev/null)
  case $i in ''|0|*[!0-9]*) return;; esac
  v=$({ while IFS=: read -r x k g; do
    case $k in '') cat "/sys/fs/cgroup$g/memory.current" "/sys/fs/cgroup$g/io.stat";; memory) cat "/sys/fs/cgroup/memory$g/memory.usage_in_bytes";; esac
  done < "/proc/$i/cgroup" | tr '\n' ' '; } 2>/dev/null)
  echo "${v:-$(date)}"
}
`
