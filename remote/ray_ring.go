package remote

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ring is how the boxes of a cluster would work together, chosen and not yet started.
type Ring struct {
	seats []*seat
	// head is where the head's Ray listens, as HOST:PORT; base is the first of the ports.
	head string
	base int

	extra       []string      // of the user's own environment
	token, room string        // known when Ray is started
	limit       time.Duration // how long the boxes may take to see each other
}

// seat is one box of a ring.
type seat struct {
	*node
	f *facts
	// ray is the program; the versions are empty where they are not known.
	ray, rayVersion, python string
	// up says that a Ray that rlca started runs; joins is the head that it belongs to, mark its own.
	up          bool
	joins, mark string
	links       []netLink
	// iface and addr are what it talks to the others by.
	iface string
	addr  netip.Addr
}

// netLink is a network interface with an IPv4 address.
type netLink struct {
	name   string
	prefix netip.Prefix
	// mbits is its speed in Mbit/s, 0 if it does not tell; rdma says that it can write into the other box's memory.
	mbits int
	rdma  bool
}

// rayScript looks for Ray beside the interpreter of vLLM, whose folder it gets, and at the networks of the box.
const rayScript = `
bin=%[1]s
for r in "$bin/ray" "$(command -v ray 2>/dev/null)"; do case $r in /*) [ -x "$r" ] && { say ray "$r"; break; };; esac; r=; done
for i in "${bin%%/bin}"/lib/python3*/site-packages/ray-[0-9]*.dist-info "${r%%/bin/*}"/lib/python3*/site-packages/ray-[0-9]*.dist-info; do
  [ -d "$i" ] && { say python "$(echo "$i" | sed 's/.*\/lib\/python\([0-9.]*\)\/.*/\1/')"; i=${i##*/}; i=${i%%.dist-info}; say rayversion "${i#ray-}"; break; }
done
if record ray; then say rayaddress "$A"; say raymark "$M"; mine && say rayup 1; fi
{ ip -o -4 addr show up 2>/dev/null || ip -o -4 addr show 2>/dev/null; } | while read -r n i f a rest; do
  i=${i%%%%@*}; s=$(cat "/sys/class/net/$i/speed" 2>/dev/null); [ -d "/sys/class/net/$i/device/infiniband" ] && d=1 || d=0
  say link "$i $a ${s:-0} $d"
done
`

// sit looks at one box.
func (n *node) sit(ctx context.Context) (*seat, error) {
	blind := func(err error) error {
		return &ClusterError{Node: n.name, Reason: "it could not be looked at", Err: err}
	}
	f, err := n.look(ctx)
	if err != nil {
		return nil, blind(err)
	}
	a, err := n.script(ctx, fmt.Sprintf(rayScript, quote(f.vllm.bin)))
	if err != nil {
		return nil, blind(err)
	}
	s := &seat{node: n, f: f, ray: a.get("ray"), rayVersion: a.get("rayversion"), python: a.get("python"), up: a.get("rayup") != ""}
	if s.up {
		s.joins, s.mark = a.get("rayaddress"), a.get("raymark")
	}
	for _, l := range a.lines["link"] {
		var link netLink
		var prefix string
		var rdma int
		if n, _ := fmt.Sscan(l, &link.name, &prefix, &link.mbits, &rdma); n < 2 {
			continue
		}
		if link.prefix, err = netip.ParsePrefix(prefix); err != nil || link.prefix.Addr().IsLoopback() {
			continue
		}
		link.mbits, link.rdma = max(0, link.mbits), rdma == 1
		s.links = append(s.links, link)
	}
	return s, nil
}

// Ring looks at every box and says how they would work together. Nothing is started. A *ClusterError names the box that
// keeps them from it.
func (c *Cluster) Ring(ctx context.Context, plan Plan) (*Ring, error) {
	r := &Ring{seats: make([]*seat, len(c.nodes)), limit: c.joins}
	err := c.each(func(i int, n *node) error {
		s, err := n.sit(ctx)
		r.seats[i] = s
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := r.alike(); err != nil {
		return nil, err
	}
	wish := ""
	env, _ := plan.splitArgs()
	for _, e := range env {
		switch name, value, _ := strings.Cut(e, "="); name {
		case "VLLM_HOST_IP":
			wish = value
		case "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RLCA_OWNER":
			return nil, fmt.Errorf("start Ray with %s: rlca sets %s itself", name, name)
		default:
			r.extra = append(r.extra, e)
		}
	}
	head := r.seats[0]
	if head.up {
		host, _, _ := strings.Cut(head.joins, ":")
		wish = cmp.Or(host, wish)
	}
	if err := r.meet(wish); err != nil {
		return nil, err
	}
	if head.up {
		r.head, r.base = head.joins, int(portOf(head.joins))
	} else {
		if err := r.ports(); err != nil {
			return nil, err
		}
		r.head = netip.AddrPortFrom(head.addr, uint16(r.base)).String()
	}
	for _, s := range r.seats[1:] {
		if s.up && head.up && s.joins != r.head {
			return nil, &ClusterError{Node: s.name, Reason: "it works for another head already, " + s.joins, Remedy: "rlca disconnect HOST --stop-engine for that one"}
		}
	}
	return r, nil
}

// alike makes sure that the boxes have the same programs: Ray and vLLM speak to themselves only.
func (r *Ring) alike() error {
	head := r.seats[0]
	for _, s := range r.seats {
		bad := &ClusterError{Node: s.name}
		lib := "the environment of vLLM"
		if s.f.vllm.bin != "" {
			lib = s.f.vllm.bin
		}
		differ := func(what, here, there, pip string) *ClusterError {
			bad.Reason = fmt.Sprintf("it has %s %s, and %s has %s", what, here, head.name, there)
			bad.Remedy = fmt.Sprintf("on %s: %s/pip install '%s==%s'", s.name, lib, pip, there)
			return bad
		}
		switch {
		case !s.f.vllm.linux:
			bad.Reason = "Ray's clusters are for Linux"
			return bad
		case s.f.vllm.image != nil, s.f.path == "" && len(s.f.vllm.images) > 0:
			bad.Reason = "it has vLLM in a container only, and rlca joins boxes that have the program itself"
			bad.Remedy = "install the same vLLM on each: rlca connect " + s.name + " --engine vllm"
			return bad
		case s.f.path == "":
			bad.Reason, bad.Remedy = "there is no vLLM on it", "install it: rlca connect "+s.name+" --engine vllm"
			return bad
		case s.ray == "":
			bad.Reason, bad.Remedy = "there is no Ray beside its vLLM", fmt.Sprintf("on %s: %s/pip install ray", s.name, lib)
			return bad
		case s.rayVersion == "" || !atLeast(s.rayVersion, rayToken):
			bad.Reason = fmt.Sprintf("its Ray %s cannot ask for a token, which came with %s: whoever reaches it could run anything there", cmp.Or(s.rayVersion, "of unknown version"), rayToken)
			bad.Remedy = fmt.Sprintf("on each box: %s/pip install -U ray", lib)
			return bad
		case s.f.vllm.version != head.f.vllm.version:
			return differ("vLLM", cmp.Or(s.f.vllm.version, "of unknown version"), cmp.Or(head.f.vllm.version, "one of unknown version"), "vllm")
		case s.rayVersion != head.rayVersion:
			return differ("Ray", s.rayVersion, head.rayVersion, "ray")
		case s.python != head.python:
			bad.Reason = fmt.Sprintf("its vLLM runs on Python %s, and that of %s on %s", s.python, head.name, head.python)
			bad.Remedy = "Ray wants one version of Python on all boxes"
			return bad
		}
	}
	return nil
}

// notShared are beginnings of names of interfaces that lead to containers and virtual machines, or through somebody
// else's network.
var notShared = []string{"docker", "br-", "virbr", "cni", "flannel", "lxc", "lxd", "podman", "tailscale", "wg", "tun", "zt"}

// meet chooses the network that all boxes share: a private one, and of several the one that can write into the other
// box's memory, then the fastest. wish is an address of the head that must be taken, empty for any.
func (r *Ring) meet(wish string) error {
	head := r.seats[0]
	var best []netLink // one of each box
	better := func(a, b netLink) bool {
		if a.rdma != b.rdma {
			return a.rdma
		}
		return a.mbits > b.mbits
	}
	for _, h := range head.links {
		if !h.usable(wish) {
			continue
		}
		all := []netLink{h}
		for _, s := range r.seats[1:] {
			i := slices.IndexFunc(s.links, func(l netLink) bool {
				return l.prefix.Masked() == h.prefix.Masked() && l.prefix.Addr() != h.prefix.Addr() && l.usable("")
			})
			if i < 0 {
				break
			}
			all = append(all, s.links[i])
		}
		if len(all) == len(r.seats) && (best == nil || better(h, best[0])) {
			best = all
		}
	}
	if best == nil {
		var have []string
		for _, s := range r.seats {
			var list []string
			for _, l := range s.links {
				list = append(list, l.name+" "+l.prefix.String())
			}
			have = append(have, s.name+" has "+cmp.Or(strings.Join(list, ", "), "none"))
		}
		reason := "it shares no private network with the others"
		if wish != "" {
			reason = "the others have no address on the network of " + wish
		}
		return &ClusterError{Node: head.name, Reason: reason + ": " + strings.Join(have, "; "),
			Remedy: "give the ports of the cable between them addresses of one private network; another one than rlca would choose is named by [engine] args = [\"VLLM_HOST_IP=ADDRESS OF THE HEAD\"]"}
	}
	for i, s := range r.seats {
		s.iface, s.addr = best[i].name, best[i].prefix.Addr()
	}
	return nil
}

// usable reports whether Ray may use an interface. A wish overrules all but the address.
func (l netLink) usable(wish string) bool {
	a := l.prefix.Addr()
	if wish != "" {
		return a.String() == wish
	}
	return (a.IsPrivate() || a.IsLinkLocalUnicast()) && !slices.ContainsFunc(notShared, func(p string) bool { return strings.HasPrefix(l.name, p) })
}

// Ray's ports, counted from the base. All are named, so that a firewall can be told, and none is left to chance.
const (
	portHead      = 0 // of the head alone
	portNode      = 1
	portObjects   = 2
	portClient    = 3 // of the head alone
	portAgent     = 4
	portAgentRPC  = 5
	portEnv       = 6
	portMetrics   = 7
	portMonitor   = 8 // of the head alone
	portWorkers   = 21
	portLast      = 120
	firstRayPort  = 6379 // Ray's own
	nextRayPorts  = 200
	tryOfRayPorts = 10
)

// ports chooses the first ports that are free on every box.
func (r *Ring) ports() error {
	for try := range tryOfRayPorts {
		r.base = firstRayPort + try*nextRayPorts
		if !slices.ContainsFunc(r.seats, func(s *seat) bool {
			return slices.ContainsFunc(s.f.listeners, func(l listener) bool {
				return int(l.port) >= r.base && int(l.port) <= r.base+portLast && !s.up
			})
		}) {
			return nil
		}
	}
	return &ClusterError{Node: r.seats[0].name, Reason: fmt.Sprintf("no row of %d free ports from %d on", portLast+1, firstRayPort)}
}

// whole reports whether a Ray of ours runs on every box.
func (r *Ring) whole() bool {
	return !slices.ContainsFunc(r.seats, func(s *seat) bool { return !s.up || s.joins != r.head })
}

// missing says in words which boxes lack their Ray.
func (r *Ring) missing() string {
	var list []string
	for _, s := range r.seats {
		if !s.up {
			list = append(list, s.name)
		}
	}
	return "Ray does not run on " + strings.Join(list, ", ")
}

// env is the environment of Ray and of vLLM on a box. It has no secret: the token is in a file.
func (r *Ring) env(s *seat) []string {
	home := s.f.home + "/.rlca"
	var names []string
	for _, t := range r.seats {
		if !slices.Contains(names, t.iface) {
			names = append(names, t.iface)
		}
	}
	return append([]string{
		"RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=" + home + "/ray.token", "RAY_USAGE_STATS_ENABLED=0",
		"RAY_memory_monitor_refresh_ms=0", // it kills at 95 % of the memory, which a model may well take; our watch is beside it
		number("AUTOSCALER_METRIC_PORT", r.base+portMonitor),
		"VLLM_HOST_IP=" + s.addr.String(), "GLOO_SOCKET_IFNAME=" + s.iface, "TP_SOCKET_IFNAME=" + s.iface,
		// vLLM gives its workers the head's, so all names stand in it.
		"NCCL_SOCKET_IFNAME==" + strings.Join(names, ","),
		"VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1", "HF_HUB_OFFLINE=1",
	}, r.extra...)
}

// argv is ray start on a box. It stays in the foreground, so that its processes are of its session.
func (r *Ring) argv(s *seat) []string {
	port := func(flag string, n int) string { return number(flag, r.base+n) }
	argv := []string{s.ray, "start", "--block", "--disable-usage-stats", "--node-ip-address=" + s.addr.String(), "--num-cpus=1", "--object-store-memory=" + strconv.Itoa(storeBytes),
		port("--node-manager-port", portNode), port("--object-manager-port", portObjects), port("--dashboard-agent-listen-port", portAgent),
		port("--dashboard-agent-grpc-port", portAgentRPC), port("--runtime-env-agent-port", portEnv), port("--metrics-export-port", portMetrics),
		port("--min-worker-port", portWorkers), port("--max-worker-port", portLast)}
	if s != r.seats[0] {
		return append(argv, "--address="+r.head)
	}
	return append(argv, "--head", port("--port", portHead), port("--ray-client-server-port", portClient), "--include-dashboard=false", "--temp-dir="+cmp.Or(r.room, "/tmp/rlca…")+"/ray")
}

// job is ray start on a box.
func (r *Ring) job(s *seat) job {
	argv := r.argv(s)
	if bin := s.f.vllm.bin; bin != "" {
		argv = append([]string{"/bin/sh", "-c", inPath, "rlca", bin}, argv...)
	}
	return job{name: rayJob, address: r.head, env: r.env(s), argv: argv, log: rayLog, fresh: true, floor: s.floor}
}

// Opens says in words what listens on other addresses than loopback once it runs.
func (r *Ring) Opens() []string {
	var on []string
	for _, s := range r.seats {
		on = append(on, fmt.Sprintf("%s %s (%s)", s.name, s.addr, s.iface))
	}
	return []string{
		"the boxes work together over " + strings.Join(on, ", "),
		fmt.Sprintf("Ray listens there on ports %d to %d and %d to %d, on every address of each box, and asks for a token that only they have", r.base, r.base+portMonitor, r.base+portWorkers, r.base+portLast),
		"vLLM's own connections between them are on random ports, without encryption and without a password: that network must be private",
	}
}

// Commands are what would be run, in their order, each with the name of its box before it.
func (c *Cluster) Commands(ctx context.Context, r *Ring, plan Plan, addr string) []string {
	var list []string
	for _, s := range r.seats {
		if !s.up {
			list = append(list, s.name+": "+typed(r.env(s), r.argv(s)))
		}
	}
	head := r.seats[0]
	c.mu.Lock()
	c.ring = r
	c.mu.Unlock()
	if plan.Tensor == 0 {
		plan.Tensor = len(r.seats)
	}
	j, err := c.command(ctx, head.f, plan, cmp.Or(addr, c.own()))
	if err != nil { // the model is not there yet
		return append(list, fmt.Sprintf("%s: %s serve %s … --distributed-executor-backend ray --tensor-parallel-size %d", head.name, head.f.path, clean(plan.Model), plan.Tensor))
	}
	argv := j.argv
	if i := slices.Index(argv, head.f.path); i > 0 { // without the shell that puts its folder before the PATH
		argv = argv[i:]
	}
	return append(list, head.name+": "+typed(j.env, argv))
}
