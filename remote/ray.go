package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Node is one box of a cluster.
type Node struct {
	// Name is what the user calls it.
	Name string
	Box  Box
	// Floor is how much memory must stay available on it, in bytes, as in Plan. 0 is no watch.
	Floor int64
}

// Cluster drives one vLLM that works on several boxes, held together by Ray. The API is on the first box, the head, and
// on its loopback. It is safe for concurrent use.
//
// Between the boxes it cannot be loopback: Ray listens on every address of each box, on ports that Ring names before
// anything is started, and asks for a token that only these boxes have; that it does ask is tried before a worker
// joins. vLLM's own connections between the boxes are neither encrypted nor asked for anything, so the boxes must share
// a private network.
//
// All boxes must have the same vLLM, Ray and Python, and the model at the same place. rlca starts its own Ray, on ports
// of its own, and never runs `ray stop`, which ends everybody's.
type Cluster struct {
	*VLLM // on the head
	nodes []*node
	joins time.Duration // how long they may take to see each other

	mu   sync.Mutex // guards what follows
	ring *Ring      // the last one that was chosen
	kept []raised   // Rays that were started and not taken back
}

var (
	_ Engine  = (*Cluster)(nil)
	_ program = (*Cluster)(nil)
)

// node is a box of a cluster, asked as one that could serve by itself.
type node struct {
	name  string
	floor int64
	*VLLM
}

// raised is a Ray that was started.
type raised struct {
	node *node
	mark string
}

const (
	rayJob = "ray"
	rayLog = "ray.log"
	// rayLimit is how long one Ray may take to start. It took 7 to 20 s on two busy cores.
	rayLimit = 3 * time.Minute
	// joinLimit is how long the boxes may take to see each other.
	joinLimit = time.Minute
	// rayToken is the first version that can ask for a token (docs.ray.io, Ray token authentication).
	rayToken = "2.52.0"
)

// NewCluster drives vLLM on the boxes, the head first. address is as NewVLLM has it, on the head.
func NewCluster(nodes []Node, address string) *Cluster {
	c := &Cluster{joins: joinLimit}
	for _, n := range nodes {
		c.nodes = append(c.nodes, &node{name: n.Name, floor: n.Floor, VLLM: NewVLLM(n.Box, "")})
	}
	c.nodes[0].VLLM = NewVLLM(nodes[0].Box, address)
	c.VLLM = c.nodes[0].VLLM
	c.VLLM.self = c
	return c
}

// command is vllm serve on the head, over the boxes of the ring.
func (c *Cluster) command(ctx context.Context, f *facts, plan Plan, addr string) (job, error) {
	c.mu.Lock()
	r := c.ring
	c.mu.Unlock()
	if r == nil {
		return job{}, errors.New("start vLLM on several boxes: none were looked at")
	}
	j, err := c.VLLM.command(ctx, f, plan, addr)
	if err != nil {
		return job{}, err
	}
	j.env = append(j.env, append(r.env(r.seats[0]), "RAY_ADDRESS="+r.head)...)
	j.argv = append(j.argv, "--distributed-executor-backend", "ray")
	j.stall = 3 * vllmStall // what its workers write and read is not counted
	return j, nil
}

// Ensure brings up Ray on each box where it is not up, and then does what VLLM does.
func (c *Cluster) Ensure(ctx context.Context, plan Plan, progress func(Progress)) (*Server, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	var fresh []raised
	s, err := c.together(ctx, plan, progress, &fresh)
	if err == nil {
		c.keepRays(fresh)
		return s, nil
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	_, rest := c.end(undoCtx, fresh)
	c.keepRays(rest)
	return nil, err
}

// keepRays remembers Rays that were started. A box has one: a later one took the place of an earlier.
func (c *Cluster) keepRays(list []raised) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range list {
		c.kept = append(slices.DeleteFunc(c.kept, func(k raised) bool { return k.node == r.node }), r)
	}
}

// together does the work of Ensure, and notes which Rays it has started.
func (c *Cluster) together(ctx context.Context, plan Plan, progress func(Progress), fresh *[]raised) (*Server, error) {
	progress(Progress{Step: StepEngine, Text: "looking at " + strings.Join(c.names(), ", ")})
	r, err := c.Ring(ctx, plan)
	if err != nil {
		return nil, err
	}
	if found, err := c.VLLM.Find(ctx); err == nil {
		switch {
		case found.Adopted: // whether it works on one box or on more is its owner's
			return c.VLLM.Ensure(ctx, plan, progress)
		case !r.whole():
			progress(Progress{Step: StepEngine, Text: "stopping vLLM on " + found.Address + ": " + r.missing()})
			if _, err := c.VLLM.Stop(ctx); err != nil {
				return nil, err
			}
		}
	}
	if err := c.spread(ctx, r, plan, progress); err != nil {
		return nil, err
	}
	if err := c.raise(ctx, r, progress, fresh); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.ring = r
	c.mu.Unlock()
	if plan.Tensor == 0 {
		plan.Tensor = len(r.seats)
	}
	s, err := c.VLLM.Ensure(ctx, plan, progress)
	if err != nil {
		return nil, c.explain(ctx, r, err)
	}
	return s, nil
}

// server describes the vLLM that answers on the head.
func (c *Cluster) server(ctx context.Context, f *facts, addr, version string) *Server {
	s := c.VLLM.server(ctx, f, addr, version)
	if !s.Adopted {
		s.Boxes = c.names()
	}
	return s
}

func (c *Cluster) names() (list []string) {
	for _, n := range c.nodes {
		list = append(list, n.name)
	}
	return list
}

// each does something on every box at once. Of several errors it returns the first box's.
func (c *Cluster) each(do func(i int, n *node) error) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = do(i, n) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// spread sees to it that each worker has the model where the head has it: vLLM tells its workers the head's place.
func (c *Cluster) spread(ctx context.Context, r *Ring, plan Plan, progress func(Progress)) error {
	model := plan.Model
	if len(model) > 1 {
		model = strings.TrimRight(model, "/")
	}
	src, err := c.source(ctx, model)
	if err != nil {
		return err
	}
	told, ended := make(chan Progress), make(chan error, 1)
	go func() {
		ended <- c.each(func(i int, n *node) error {
			if i == 0 {
				return nil
			}
			return n.hasLike(ctx, r.seats[0], src, model, plan.MayPull, func(p Progress) { told <- p })
		})
	}()
	for { // progress is told from the caller's goroutine
		select {
		case p := <-told:
			progress(p)
		case err := <-ended:
			return err
		}
	}
}

// hasLike sees to it that a worker has a model where the head has it.
func (n *node) hasLike(ctx context.Context, head *seat, src *Source, model string, mayPull bool, progress func(Progress)) error {
	have, err := n.source(ctx, model)
	var missing *ModelMissingError
	if errors.As(err, &missing) && mayPull && repository.MatchString(model) {
		_, err = FetchRepo(ctx, n.box, Repo{Name: model}, func(p Progress) {
			p.Text = n.name + ": " + p.Text
			progress(p)
		})
		if err == nil {
			have, err = n.source(ctx, model)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", n.name, err)
	case have.Path != src.Path:
		return &ClusterError{Node: n.name, Reason: fmt.Sprintf("it has %s in %s, and %s has it in %s: vLLM looks for it at one place on all boxes", clean(model), have.Path, head.name, src.Path),
			Remedy: "put it in the same folder on each box, and name that folder with --model"}
	}
	return nil
}

// raise starts Ray on the boxes that lack it, and waits until the head sees all of them.
func (c *Cluster) raise(ctx context.Context, r *Ring, progress func(Progress), fresh *[]raised) error {
	if r.whole() {
		return nil
	}
	head := r.seats[0]
	for _, s := range r.seats[1:] {
		if !s.up || head.up {
			continue
		}
		// It waits for a head that is gone. By its mark: another laptop may be starting one by now.
		if _, err := s.endRay(ctx, s.mark); err != nil {
			return err
		}
		s.up = false
	}
	// The token and Ray's folder are the head's, whichever laptop made them.
	var err error
	r.token, r.room, err = head.share(ctx, nonce()+nonce(), "/tmp/"+nonce(), false)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	start := func(s *seat) error {
		if s.up {
			return nil
		}
		if s != head {
			if _, _, err := s.share(ctx, r.token, r.room, true); err != nil {
				return err
			}
		}
		mark := nonce()
		mu.Lock()
		*fresh = append(*fresh, raised{s.node, mark}) // before it is: a cut can come at any time
		mu.Unlock()
		l, err := s.launch(ctx, mark, r.job(s))
		if err != nil {
			return &ClusterError{Node: s.name, Reason: "Ray was not launched", Err: err}
		}
		if !l.ours && s == head {
			r.head, r.base = l.address, int(portOf(l.address)) // another laptop was faster
		}
		s.log.Info("launched", "engine", rayJob, "node", s.name, "pid", l.pid, "ours", l.ours)
		err = s.awaitRay(ctx)
		s.up, s.joins = err == nil, r.head
		return err
	}
	progress(Progress{Step: StepEngine, Text: "starting Ray on " + head.name})
	if !head.up {
		if err := start(head); err != nil {
			return err
		}
		if err := r.asks(ctx); err != nil {
			return err
		}
	}
	progress(Progress{Step: StepEngine, Text: "starting Ray on the other boxes"})
	if err := c.each(func(i int, _ *node) error { return start(r.seats[i]) }); err != nil {
		return err
	}
	progress(Progress{Step: StepEngine, Text: "waiting until the boxes see each other"})
	return r.joined(ctx)
}

// share puts the token of the cluster and the folder of Ray on a box. Unless force is set, what is there already stays
// and is returned.
func (n *node) share(ctx context.Context, token, room string, force bool) (string, string, error) {
	word := ""
	if force {
		word = "1"
	}
	a, err := n.script(ctx, fmt.Sprintf(shareScript, quote(token), quote(room), quote(word)))
	if err != nil {
		return "", "", &ClusterError{Node: n.name, Reason: "nothing could be written", Err: err}
	}
	if why := a.get("error"); why != "" {
		return "", "", &ClusterError{Node: n.name, Reason: why}
	}
	return a.get("token"), a.get("room"), nil
}

// shareScript: the folder is short because Ray makes sockets in it, whose names may have 107 bytes, and in /tmp because
// it must have one name on all boxes. Ray opens what it makes in there to everybody; the folder itself is not.
const shareScript = `
token=%[1]s room=%[2]s force=%[3]s
why=$(lock 2>&1) || { say error "$why"; return; }
trap unlock EXIT; trap 'unlock; exit 1' HUP INT TERM
u=$(umask); umask 077
keep() { [ -z "$force" ] && [ -s "$D/$1" ] || { printf '%%s\n' "$2" > "$D/$1.new" && mv -f "$D/$1.new" "$D/$1"; }; }
why=$({ keep ray.token "$token" && keep ray.room "$room"; } 2>&1) || { say error "$why"; unlock; return; }
read -r token < "$D/ray.token"; read -r room < "$D/ray.room"
mkdir "$room" 2>/dev/null || { [ -d "$room" ] && [ ! -L "$room" ] && [ -O "$room" ] && chmod 700 "$room"; } || { say error "$room is not ours"; unlock; return; }
umask "$u"
unlock
say token "$token"; say room "$room"
`

// awaitRay waits until a Ray that was launched, by whichever laptop, says that it runs.
func (s *seat) awaitRay(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, rayLimit, fmt.Errorf("it did not come up within %s", rayLimit))
	defer cancel()
	for {
		r, err := s.runs(ctx, rayJob, rayLog, "Ray runtime started")
		switch {
		case err == nil && !r.up:
			e := &ClusterError{Node: s.name, Reason: "Ray ended at once", Log: tail(r.said, 5)}
			if text, ok := watchdogSaid(r.said); ok {
				e.Reason = text
			}
			for _, f := range rayFailures {
				if f.line.MatchString(strings.Join(r.said, "\n")) {
					e.Reason, e.Remedy = f.reason, f.remedy
				}
			}
			return e
		case err == nil && r.seen:
			return nil
		}
		select {
		case <-ctx.Done():
			return &ClusterError{Node: s.name, Reason: "Ray does not get ready", Log: tail(r.said, 5), Err: cmp.Or(err, context.Cause(ctx))}
		case <-time.After(s.poll):
		}
	}
}

// rayFailures are what Ray says when it does not start, tried with 2.60.
var rayFailures = []struct {
	line           *regexp.Regexp
	reason, remedy string
}{
	{regexp.MustCompile(`Timed out while waiting for GCS|Failed to connect to GCS|failed to connect to the GCS`), "it does not reach the head",
		"do the boxes have a way to each other on that network, and does a firewall let Ray's ports through?"},
	{regexp.MustCompile(`InvalidAuthToken|AuthenticationError`), "the head refuses its token", "rlca disconnect HOST --stop-engine, then connect again"},
	{regexp.MustCompile(`(?i)version mismatch`), "its Ray or Python has another version than the head's", "install the same versions on all boxes"},
	{regexp.MustCompile(`(?i)address already in use|Failed to bind`), "one of Ray's ports is taken", "connect again: other ports are chosen"},
	{regexp.MustCompile(`No space left on device`), "its disk is full", "make room in /tmp and /dev/shm on that box"},
}

// asks makes sure that Ray refuses whoever lacks the token, before a worker joins: what it is told it runs.
func (r *Ring) asks(ctx context.Context) error {
	head := r.seats[0]
	a, err := head.script(ctx, fmt.Sprintf(statusScript, quote(head.ray), quote(r.head), "RAY_AUTH_TOKEN=none "))
	if err != nil {
		return &ClusterError{Node: head.name, Reason: "whether Ray asks for its token could not be tried", Err: err}
	}
	if said := strings.Join(a.lines["said"], "\n"); !strings.Contains(said, "AuthenticationError") && !strings.Contains(said, "InvalidAuthToken") {
		return &ClusterError{Node: head.name, Reason: "Ray let somebody in who had the wrong token, so it was ended again", Log: tail(a.lines["said"], 5),
			Remedy: "is RAY_AUTH_MODE set in that account's environment or in Ray's settings there?"}
	}
	return nil
}

// statusScript asks the head who is there. It takes seconds: the program is big.
const statusScript = `
brief=; command -v timeout >/dev/null 2>&1 && brief="timeout 20"
env RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$D/ray.token" %[3]s$brief %[1]s status --address %[2]s 2>&1 | tail -n 60 | cut -c 1-300 | while IFS= read -r l; do say said "$l"; done
`

// activeNode is a box in the answer of ray status, between "Active:" and "Pending:".
var activeNode = regexp.MustCompile(`^\s*\d+ node_`)

// joined waits until the head sees every box.
func (r *Ring) joined(ctx context.Context) error {
	head := r.seats[0]
	for start := time.Now(); ; {
		a, err := head.script(ctx, fmt.Sprintf(statusScript, quote(head.ray), quote(r.head), "")) // has a limit of its own
		seen := 0
		if err == nil {
			seen = activeNodes(a.lines["said"])
		}
		if seen >= len(r.seats) {
			return nil
		}
		if time.Since(start) > r.limit || ctx.Err() != nil {
			e := &ClusterError{Node: head.name, Reason: fmt.Sprintf("Ray there sees %d of %d boxes after %s", seen, len(r.seats), r.limit), Err: err,
				Remedy: "do the boxes have a way to each other on that network, and does a firewall let Ray's ports through?"}
			if a != nil {
				e.Log = tail(a.lines["said"], 12)
			}
			return e
		}
		select {
		case <-ctx.Done():
		case <-time.After(head.poll):
		}
	}
}

// activeNodes counts the boxes in the answer of ray status.
func activeNodes(said []string) (n int) {
	active := false
	for _, l := range said {
		switch word := strings.TrimSpace(l); {
		case word == "Active:":
			active = true
		case strings.HasSuffix(word, ":"):
			active = false
		case active && activeNode.MatchString(l):
			n++
		}
	}
	return n
}

func tail(list []string, n int) []string { return list[max(0, len(list)-n):] }

// rayDeath is what the head's log says of a worker that is gone.
var rayDeath = regexp.MustCompile(`A worker died or was killed.*Worker IP address: ([0-9a-fA-F.:]+) `)

// explain adds to a failed start which box it was.
func (c *Cluster) explain(ctx context.Context, r *Ring, err error) error {
	var start *StartError
	if !errors.As(err, &start) || ctx.Err() != nil {
		return err
	}
	if down := c.down(ctx, r, start.Log); down != nil {
		down.Err = err
		return down
	}
	return err
}

// Down says which box of the cluster it was, a *ClusterError, if it stands still because a part of it is gone. Where
// only vLLM itself is gone it is an *EndedError. Nil is that it is whole, or that nobody knows.
func (c *Cluster) Down(ctx context.Context) error {
	c.mu.Lock()
	r := c.ring
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	gone := c.VLLM.Down(ctx)
	if gone == nil && c.whole(ctx) {
		return nil
	}
	text, err := c.Log(ctx)
	if err != nil {
		return gone
	}
	if e := c.down(ctx, r, strings.Split(text, "\n")); e != nil {
		return e
	}
	return gone
}

// whole asks every box whether its Ray runs. One that cannot be asked counts as whole: its link is another matter.
func (c *Cluster) whole(ctx context.Context) bool {
	return c.each(func(_ int, n *node) error {
		if r, err := n.runs(ctx, rayJob, rayLog, ""); err == nil && !r.up {
			return errDied
		}
		return nil
	}) == nil
}

func (c *Cluster) down(ctx context.Context, r *Ring, log []string) *ClusterError {
	var dead []*ClusterError
	_ = c.each(func(i int, n *node) error {
		ray, err := n.runs(ctx, rayJob, rayLog, "")
		if err == nil && !ray.up {
			c.mu.Lock()
			defer c.mu.Unlock()
			e := &ClusterError{Node: n.name, Reason: "its Ray has ended", Log: tail(ray.said, 3)}
			if text, ok := watchdogSaid(ray.said); ok {
				e.Reason = text
			}
			dead = append(dead, e)
		}
		return nil
	})
	// When the head's is gone, the workers' end, too.
	slices.SortFunc(dead, func(a, b *ClusterError) int {
		return cmp.Compare(slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == a.Node }), slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == b.Node }))
	})
	if len(dead) > 0 {
		return dead[0]
	}
	for _, l := range slices.Backward(log) {
		m := rayDeath.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		for _, s := range r.seats {
			if s.addr.String() == m[1] {
				return &ClusterError{Node: s.name, Reason: "the part of vLLM that worked there has ended", Remedy: "was it memory? rlca probe " + s.name}
			}
		}
	}
	return nil
}

// endRay ends the Ray of a box, if it carries mark (any, if empty), and takes away what it needed.
func (n *node) endRay(ctx context.Context, mark string) (did bool, _ error) {
	ended, err := n.halt(ctx, rayJob, mark, rayLog, rayLog+".old")
	if err == nil {
		_, err = n.script(ctx, clearScript)
	}
	if err != nil {
		return false, &ClusterError{Node: n.name, Reason: "its Ray was not ended", Err: err}
	}
	if ended.pid != 0 {
		n.log.Info("stopped", "engine", rayJob, "node", n.name, "pid", ended.pid)
	}
	return ended.pid != 0, nil
}

// clearScript takes away the token and the folder, unless another Ray of ours needs them by now.
const clearScript = `
record ray && return
room=; [ -r "$D/ray.room" ] && read -r room < "$D/ray.room"
case $room in /tmp/rlca*[!0-9a-z]*) ;; /tmp/rlca*) [ -d "$room" ] && [ ! -L "$room" ] && [ -O "$room" ] && rm -rf "$room";; esac
rm -f "$D/ray.room" "$D/ray.token"
` + tidyScript

// end ends Rays that were started, the workers' first. It returns in words what was ended, and what could not be.
func (c *Cluster) end(ctx context.Context, list []raised) (did []string, rest []raised) {
	slices.SortStableFunc(list, func(a, b raised) int { return cmp.Compare(isHead(c, a), isHead(c, b)) })
	for _, b := range list {
		switch ended, err := b.node.endRay(ctx, b.mark); {
		case err != nil:
			c.log.Warn("not undone", "what", "Ray on "+b.node.name, "err", err)
			rest = append(rest, b)
		case ended:
			did = append(did, "stopped Ray on "+b.node.name)
		}
	}
	return did, rest
}

func isHead(c *Cluster, b raised) int {
	if b.node == c.nodes[0] {
		return 1
	}
	return 0
}

// Undo takes back what Ensures of this value did, on all boxes.
func (c *Cluster) Undo(ctx context.Context, s *Server) []string {
	did := c.VLLM.Undo(ctx, s)
	c.mu.Lock()
	list := c.kept
	c.kept = nil
	c.mu.Unlock()
	more, rest := c.end(ctx, list)
	c.keepRays(rest)
	return append(did, more...)
}

// Stop ends vLLM and Ray on every box, as far as rlca started them. One that cannot be reached does not keep the others.
func (c *Cluster) Stop(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	c.kept = nil
	c.mu.Unlock()
	did, err := c.VLLM.Stop(ctx)
	stopped := make([]string, len(c.nodes))
	errs := make([]error, len(c.nodes))
	_ = c.each(func(i int, n *node) error {
		var ended bool
		if ended, errs[i] = n.endRay(ctx, ""); ended {
			stopped[i] = "stopped Ray on " + n.name
		}
		return nil
	})
	for _, s := range stopped {
		if s != "" {
			did = append(did, s)
		}
	}
	return did, errors.Join(append([]error{err}, errs...)...)
}

// ClusterError says what is wrong with one box of a cluster.
type ClusterError struct {
	// Node is the box, Reason what is wrong with it; Log are the last lines that it wrote.
	Node   string   `json:"node"`
	Reason string   `json:"reason"`
	Log    []string `json:"log"`
	// Remedy says what the user can do, empty if that is not known.
	Remedy string `json:"remedy"`
	Err    error  `json:"-"`
}

func (e *ClusterError) Error() string {
	s := fmt.Sprintf("%s, one of the boxes that shall work as one: %s", e.Node, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	} else if n := len(e.Log); n > 0 {
		s += ": " + strings.Join(tail(e.Log, 3), " · ")
	}
	return s
}

func (e *ClusterError) Unwrap() error { return e.Err }

// typed writes a command as one could type it: an environment, then words.
func typed(env, argv []string) string {
	var words []string
	for _, w := range append(slices.Clone(env), argv...) {
		if w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./:,@~%") != "" {
			w = quote(w)
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

// storeBytes is how much of a box Ray's own store may take, in bytes: vLLM sends nothing by it. Below 75 MB Ray refuses.
const storeBytes = 256 << 20

func number(flag string, n int) string { return flag + "=" + strconv.Itoa(n) }
