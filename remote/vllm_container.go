package remote

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Where a box has no vllm program, but docker or podman and an image of vLLM, the server runs in a container of it. What
// is launched, recorded and watched is the client, `docker run` in the foreground: its output is the log. The container
// itself lives in a daemon and outlives a client that is killed, so it carries the mark as its label, and what ends the
// client ends it, too (containersScript, watchScript).
//
// It is given what it needs and no more: a port of the box's loopback, never the box's network; the model, to be read
// only; no token. Images are not fetched: at their size that is an installation, and the user's to decide.

const (
	// vllmInside is where vLLM listens in a container, whose network is its own.
	vllmInside = "0.0.0.0:8000"
	// vllmShared bounds the memory that its processes share, "10g is plenty"; Docker's own 64 MiB are too few. It is a limit
	// and takes nothing by itself. The box's own (--ipc=host) would keep what a killed vLLM leaves there.
	vllmShared = "10g"
	// vllmVolume keeps what vLLM has compiled; without it each start takes minutes longer. Uninstall removes it.
	vllmVolume = "rlca-vllm-cache"
	// containerLabel is the label that has the mark.
	containerLabel = "rlca.owner"
)

// vllmImage is an image of vLLM that the box has.
type vllmImage struct {
	// runs is "docker" or "podman", program where that is on the box.
	runs, program string
	// ref is "vllm/vllm-openai:v0.33.0".
	ref string
	// version is vLLM's, as far as the image tells it: NGC's tags have numbers of their own. Empty is not known.
	version string
	// cuda is the major version of the CUDA in it, 0 is not known.
	cuda int
	// platform is "linux/amd64", created a time that sorts as text. Empty is not known.
	platform, created string
	// entry is its entry point. Nil is none; known is false if it could not be read.
	entry []string
	known bool
}

// porous warns of a docker that lets others in: before 28 whoever is on a network of the box, one hop away, reaches a port
// that is published on 127.0.0.1 (moby/moby issue 45610). The address that they need to
// send to is the container's, which a direct dial of the box's does not try.
func (f vllmFacts) porous() string {
	if f.image == nil || f.image.runs != "docker" || f.daemon == "" || atLeast(f.daemon, "28.0.0") {
		return ""
	}
	return "docker " + f.daemon + " on the box lets others on the same network reach ports that it publishes on 127.0.0.1, vLLM's too: a docker of 28 or later does not"
}

// String names it for a person: "docker image vllm/vllm-openai:v0.33.0".
func (i *vllmImage) String() string { return i.runs + " image " + i.ref }

var (
	// tagVersion is vLLM's version in a tag: "v0.33.0-cu130", "rocm6.4.1_vllm_0.10.0_20250812", "0.8.6-r36.4.0".
	tagVersion = regexp.MustCompile(`(?:^|vllm[_-])v?(\d{1,2}\.\d+\.\d+(?:\.post\d+|rc\d+)?)`)
	// plainVersion is a version and nothing else, as an image's environment tells it.
	plainVersion = regexp.MustCompile(`^v?(\d{1,2}\.\d+\.\d+\S*)$`)
)

// readImage makes an image of what look's script said of it: "RUNS PROGRAM REF", and lines of its configuration.
func readImage(name string, lines []string) (*vllmImage, bool) {
	runs, rest, _ := strings.Cut(name, " ")
	program, ref, ok := strings.Cut(rest, " ")
	if !ok || strings.ContainsAny(ref, " \"'") {
		return nil, false
	}
	i := &vllmImage{runs: runs, program: program, ref: ref}
	told := map[string]string{}
	for _, l := range lines {
		key, value, _ := strings.Cut(l, " ")
		switch key {
		case "platform":
			i.platform = strings.Replace(value, " ", "/", 1)
		case "created":
			i.created = value
		case "entry":
			i.known = json.Unmarshal([]byte(value), &i.entry) == nil
		case "env", "label":
			k, v, _ := strings.Cut(value, "=")
			told[k] = v
		}
	}
	i.cuda = cudaMajor(told["CUDA_VERSION"])
	const label = "org.opencontainers.image."
	switch {
	case plainVersion.MatchString(told["VLLM_VERSION"]):
		i.version = plainVersion.FindStringSubmatch(told["VLLM_VERSION"])[1]
	case strings.Contains(strings.ToLower(told[label+"title"]+told[label+"source"]), "vllm") && plainVersion.MatchString(told[label+"version"]):
		// Without such a title the version is that of the image below, Ubuntu's.
		i.version = plainVersion.FindStringSubmatch(told[label+"version"])[1]
	case !strings.HasPrefix(ref, "nvcr.io/"):
		if m := tagVersion.FindStringSubmatch(i.tag()); m != nil {
			i.version = m[1]
		}
	}
	return i, true
}

// tag is what stands behind the last colon of its name.
func (i *vllmImage) tag() string {
	name := i.ref[strings.LastIndexByte(i.ref, '/')+1:]
	_, tag, _ := strings.Cut(name, ":")
	return tag
}

// cudaMajor reads "13.0.1", or "130" as some write it.
func cudaMajor(version string) int {
	major, _, dotted := strings.Cut(version, ".")
	n, err := strconv.Atoi(major)
	switch {
	case err != nil || n < 0:
		return 0
	case !dotted && n >= 100:
		return n / 10
	}
	return n
}

// unfit says why an image cannot serve on a box, empty if it may.
func (i *vllmImage) unfit(f *vllmFacts) string {
	arch := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[f.arch]
	rocm := strings.Contains(i.ref, "rocm")
	switch {
	case i.platform != "" && arch != "" && i.platform != "linux/"+arch:
		return "is for " + i.platform
	case f.gpu == gpuNVIDIA && rocm:
		return "is for AMD's GPUs"
	case f.gpu == gpuAMD && !rocm && i.cuda > 0:
		return "is for NVIDIA's GPUs"
	case f.gb10 && i.cuda > 0 && i.cuda < 13:
		return fmt.Sprintf("has CUDA %d, and a GB10 needs 13", i.cuda)
	}
	return ""
}

// pickImage chooses the image that serves: of those that suit the box the one with the newest vLLM, and only then those that
// do not tell theirs, the youngest first, a nightly last. unfit are the others, with the reason.
func pickImage(f *vllmFacts) (best *vllmImage, unfit []string) {
	rank := func(i *vllmImage) int {
		switch {
		case f.gpu != "" && strings.Contains(i.ref, "cpu"):
			return 3
		case strings.Contains(i.tag(), "nightly"):
			return 2
		case i.version == "":
			return 1
		}
		return 0
	}
	newer := func(a, b *vllmImage) int {
		x, y := numbers(a.version), numbers(b.version)
		return cmp.Or(rank(a)-rank(b), slices.Compare(y[:], x[:]), strings.Compare(b.created, a.created))
	}
	for _, i := range f.images {
		if why := i.unfit(f); why != "" {
			unfit = append(unfit, i.ref+" "+why)
		} else if best == nil || newer(i, best) < 0 {
			best = i
		}
	}
	return best, unfit
}

// volumeScript removes what vLLM has compiled in containers.
const volumeScript = `
if command -v timeout >/dev/null 2>&1; then
  for c in docker podman; do
    command -v $c >/dev/null 2>&1 && timeout 5 $c volume rm ` + vllmVolume + ` >/dev/null 2>&1 && say removed "what vLLM had compiled in containers ($c volume ` + vllmVolume + `)"
  done
fi
`

// containerScript becomes `docker run`: $1 is its record in ~/.rlca, $2 the program, the rest its arguments. The record has
// the program and the container's name, for those who end it. A client takes no memory: of it and its container the
// kernel, should it have to choose, ends the container.
const containerScript = `f=$HOME/.rlca/$1.container c=$2 n=rlca-$1-${RLCA_OWNER#rlca}; shift 2
u=$(umask); umask 077
{ echo "$c"; echo "$n"; } > "$f" || exit 1
umask "$u"
{ echo 0 > /proc/$$/oom_score_adj; } 2>/dev/null
exec "$c" run --rm --pull=never --name "$n" --label "` + containerLabel + `=$RLCA_OWNER" "$@"`

// inContainer is the job that serves a plan from an image.
func (v *VLLM) inContainer(ctx context.Context, f *facts, plan Plan, src *Source, addr string) (job, error) {
	image := f.vllm.image
	argv, env, err := vllmArgs(plan, src, vllmInside, image.version)
	if err != nil {
		return job{}, err
	}
	env = append([]string{"GLOO_SOCKET_IFNAME=lo"}, env...)
	mounts, err := v.mounts(ctx, src, append(argv, env...))
	if err != nil {
		return job{}, fmt.Errorf("find out which files of the box %s needs: %w", image.ref, err)
	}
	flags, env := containerFlags(&f.vllm, plan, addr, mounts, env)
	argv = slices.Concat([]string{"/bin/sh", "-c", containerScript, "rlca", v.job, image.program}, flags, image.serve(argv))
	return job{env: env, argv: argv, tail: 600, stall: vllmStall, loading: vllmPhases(), ended: containerEnded(image)}, nil
}

// serve is the image and the command in it. argv begins with "serve".
func (i *vllmImage) serve(argv []string) []string {
	switch n := len(i.entry); {
	case n >= 2 && path.Base(i.entry[n-2]) == "vllm" && i.entry[n-1] == "serve":
		return append([]string{i.ref}, argv[1:]...)
	case i.known && n == 0, n > 0 && strings.Contains(i.entry[0], "nvidia_entrypoint"): // NGC's prepares the driver's libraries
		return append([]string{i.ref, "vllm"}, argv...)
	}
	return append([]string{"--entrypoint", "vllm", i.ref}, argv...)
}

// clientEnv are variables that would change the client, and so cannot be handed to a container through its environment.
var clientEnv = regexp.MustCompile(`^(?:DOCKER_|CONTAINER|PODMAN_|LD_|GO|XDG_|PATH$|HOME$|TMPDIR$)`)

// containerFlags are the flags of `docker run`, up to the image, and the environment of the client. Variables go by their
// names alone: a value may be a secret, and a command line is read by all.
func containerFlags(f *vllmFacts, plan Plan, addr string, mounts, env []string) (flags, client []string) {
	image := f.image
	_, inside, _ := net.SplitHostPort(vllmInside)
	host := "127.0.0.1"
	if strings.HasPrefix(addr, "[") {
		host = "[::1]"
	}
	flags = []string{"-p", fmt.Sprintf("%s:%d:%s", host, portOf(addr), inside), "--shm-size", vllmShared, "-v", vllmVolume + ":/root/.cache/vllm"}
	for _, m := range mounts {
		flags = append(flags, "--mount", "type=bind,"+field("source="+m)+","+field("target="+m)+",readonly")
	}
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if clientEnv.MatchString(name) {
			flags = append(flags, "-e", e)
			continue
		}
		flags, client = append(flags, "-e", name), append(client, e)
	}
	switch {
	case f.gpu == gpuNVIDIA && f.tegra && image.runs == "docker":
		flags = append(flags, "--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
	case f.gpu == gpuNVIDIA && image.runs == "docker":
		flags = append(flags, "--gpus", "all")
	case f.gpu == gpuNVIDIA:
		flags = append(flags, "--device", "nvidia.com/gpu=all")
	case f.gpu == gpuAMD:
		flags = append(flags, "--device", "/dev/kfd", "--device", "/dev/dri")
		if image.runs == "podman" {
			flags = append(flags, "--group-add", "keep-groups")
		}
	}
	if image.runs == "podman" { // where SELinux is on, it could not read the model; its labels are not ours to change
		flags = append(flags, "--security-opt", "label=disable")
	}
	if plan.Floor > 0 { // as guardScript does for a process
		flags = append(flags, "--oom-score-adj", "900")
	}
	return flags, client
}

// field is one field of the comma-separated list that --mount is.
func field(s string) string {
	if !strings.ContainsAny(s, ",\"") {
		return s
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	w.Write([]string{s}) // never fails into memory
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// mountsScript says which folders of the box a model needs, root first, and which of some paths are there: %[1]s is root,
// %[2]s the folder with its files, %[3]s are the paths. A file may be a link that leads out of its folder.
const mountsScript = `
root=%[1]s dir=%[2]s
say mount "$root"
out() { case $1 in "$root"|"$root"/*|'') ;; *) say mount "$1";; esac; }
case $dir in */models--*/snapshots/*) out "$(readlink -f "${dir%%%%/snapshots/*}" 2>/dev/null)";; esac
for f in "$dir"/*; do [ -L "$f" ] && t=$(readlink -f "$f" 2>/dev/null) && out "${t%%/*}"; done
for p in %[3]s; do [ -e "$p" ] && say mount "$p"; done
`

// systemPath is a path that means the image's own files.
var systemPath = regexp.MustCompile(`^/(?:usr|bin|sbin|lib|lib64|etc|proc|sys|dev|run|opt)?(?:/|$)`)

// writable are variables that name a folder for vLLM to write in: that is one of the container's own.
var writable = regexp.MustCompile(`CACHE|TMP|TEMP|LOG`)

// mounts are the files and folders of the box that a container needs, each at its own path: those of the model, and what
// words of its command and its environment name.
func (v *VLLM) mounts(ctx context.Context, src *Source, words []string) ([]string, error) {
	root := strings.TrimRight(src.Path, "/")
	if i := strings.LastIndex(root, "/models--"); i > 0 {
		root = root[:i] // the hub's cache: its files are links within it
	}
	var paths []string
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		switch {
		case ok && isAssignment(w) && writable.MatchString(name):
			continue
		case ok:
			w = value
		}
		if strings.HasPrefix(w, "/") && !systemPath.MatchString(w) {
			paths = append(paths, quote(w))
		}
	}
	a, err := v.script(ctx, fmt.Sprintf(mountsScript, quote(root), quote(src.Path), strings.Join(paths, " ")))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, m := range a.lines["mount"] {
		m = path.Clean(m)
		inside := slices.ContainsFunc(list, func(l string) bool { return m == l || strings.HasPrefix(m, l+"/") })
		if !inside && strings.HasPrefix(m, "/") && m != "/" {
			list = append(list, m)
		}
	}
	return list, nil
}

// leftBehind reports whether a server is the container of a start of ours whose client is gone: nobody watches it.
func (f *facts) leftBehind(s *Server) bool {
	return f.vllm.left && s != nil && s.Adopted && s.Address == f.ours.address
}

// lacking says what of containers a box without a vLLM has, and what lacks, in clauses. Empty is that it has neither docker
// nor podman.
func (f *vllmFacts) lacking() (list []string) {
	for _, t := range f.troubles {
		runs, said, _ := strings.Cut(t, " ")
		status, words, _ := strings.Cut(said, " ")
		switch {
		case status == "124" || status == "143":
			list = append(list, runs+" is there, but does not answer: see whether `"+runs+" ps` does on the box")
		case strings.Contains(words, "permission denied"):
			list = append(list, fmt.Sprintf("%s is there, but this account may not use it: sudo usermod -aG docker %s, and log in anew", runs, cmp.Or(f.user, "USER")))
		case strings.Contains(words, "Cannot connect") || strings.Contains(words, "daemon running?"):
			list = append(list, runs+" is there, but its daemon does not run: sudo systemctl start docker")
		default:
			list = append(list, runs+" is there, but fails: "+cmp.Or(words, "it says nothing"))
		}
	}
	for _, runs := range f.bare {
		list = append(list, runs+" has no image of vLLM, and rlca fetches none: "+runs+" pull docker.io/vllm/vllm-openai")
	}
	_, unfit := pickImage(f)
	for _, u := range unfit {
		list = append(list, "image "+u)
	}
	return list
}

// containerFailures are the texts of docker and podman when a container does not come up.
var containerFailures = sync.OnceValue(func() []failure {
	return []failure{
		{regexp.MustCompile(`permission denied while trying to connect to the [Dd]ocker (?:daemon socket|API)`), "permission",
			"this account may not use docker", "sudo usermod -aG docker USER, and log in anew"},
		{regexp.MustCompile(`Cannot connect to the Docker daemon|error during connect: `), "container",
			"docker's daemon does not run", "sudo systemctl start docker"},
		{regexp.MustCompile(`No such image: (\S+)|(\S+): image not known|Unable to find image '([^']+)'`), "container",
			"the image $1$2$3 is no longer on the box", "fetch it there: docker pull IMAGE"},
		{regexp.MustCompile(`could not select device driver "(?:cdi)?" with capabilities|[Uu]nknown (?:or invalid )?runtime (?:name|specified)`), "driver",
			"docker cannot give a container the GPU", "install the NVIDIA container toolkit on the box, then: sudo nvidia-ctk runtime configure --runtime=docker, and sudo systemctl restart docker"},
		{regexp.MustCompile(`unresolvable CDI devices|CDI device injection failed|stat nvidia\.com/gpu=`), "driver",
			"podman does not know the GPU", "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, on the box"},
		{regexp.MustCompile(`unsatisfied condition: (cuda\s*>=\s*[\d.]+)`), "driver",
			"the GPU's driver is older than the image needs: $1", "a newer driver on the box, 580 or later for CUDA 13, or an image made for an older CUDA"},
		{regexp.MustCompile(`nvidia-container-cli: (.+)`), "driver",
			"the NVIDIA container toolkit could not set up the GPU: $1", "does nvidia-smi work on the box? sudo systemctl restart docker may help after an update of the driver"},
		{regexp.MustCompile(`(?i)port is already allocated|address already in use|failed to bind port`), "port",
			"its port is taken", "another one: [engine] address"},
		{regexp.MustCompile(`bind source path does not exist: (\S+)|statfs (\S+): no such file`), "container",
			"its docker does not see $1$2", "a docker of snap, or one in a machine of its own, sees only some folders: put the model where it looks, or install Docker's own packages"},
		{regexp.MustCompile(`exec: "?vllm"?: executable file not found|executable file .vllm. not found`), "install",
			"the image has no vllm program", "an image of vLLM that has one: vllm/vllm-openai"},
		{regexp.MustCompile(`exec format error`), "build",
			"the image is for another kind of processor", "the image for this box's: docker pull IMAGE there"},
		{regexp.MustCompile(`insufficient UIDs or GIDs|newuidmap|/etc/subuid`), "permission",
			"podman has no range of users for this account", "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER, then: podman system migrate"},
		{regexp.MustCompile(`(?i)no space left on device`), "disk", "a disk of the box is full", "free space there: df -h; docker system df"},
	}
})

// clientLine is a line of docker or podman about a container that does not run. What vLLM writes comes without.
var clientLine = regexp.MustCompile(`^(?:docker: |Error: |Unable to find image |Cannot connect to the Docker daemon|permission denied while trying to connect)|Error response from daemon: |OCI runtime |exec format error`)

// containerEnded finds out why a start from an image came to nothing: by the client's words, where those are known, else
// by vLLM's, else by the client's as they are.
func containerEnded(image *vllmImage) func(e *StartError) error {
	return func(e *StartError) error {
		last := ""
		for _, line := range e.Log {
			words := strings.TrimSpace(line)
			if !clientLine.MatchString(words) {
				continue
			}
			if image.runs == "podman" || !strings.HasPrefix(words, "Error: ") {
				last = words
			}
			for _, f := range containerFailures() {
				m := f.text.FindStringSubmatchIndex(words)
				if m == nil {
					continue
				}
				fill := func(text string) string { return string(f.text.ExpandString(nil, text, words, m)) }
				e.Class, e.Reason, e.Remedy, e.Log = f.class, fill(f.means)+" ("+image.String()+")", fill(f.remedy), []string{words}
				if f.class == "port" {
					e.Err = errTaken
				}
				return e
			}
		}
		err := vllmEnded(e)
		if e.Class == "other" && last != "" {
			e.Class, e.Reason, e.Log = "container", image.runs+" did not run "+image.ref, []string{last}
		}
		return err
	}
}
