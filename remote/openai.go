package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// OpenAI drives a server of somebody else's that speaks OpenAI's API and is none that rlca starts: LM Studio, SGLang, an
// MLX server, TGI and others. It adopts: nothing is started, stopped or written on the box. It is safe for concurrent use.
type OpenAI struct {
	host
	address string
	ports   []int
}

var _ Engine = (*OpenAI)(nil)

// openAITitle is what a server is called that does not tell its name.
const openAITitle = "OpenAI-compatible server"

// openAIPorts are where such servers listen by themselves: LM Studio; SGLang; mlx_lm.server, MLX-VLM, TGI, LocalAI;
// TensorRT-LLM and oMLX; TensorRT-LLM on a DGX Spark; Jan; TabbyAPI and text-generation-webui; KoboldCpp; TGI.
var openAIPorts = []int{1234, 30000, 8080, 8000, 8355, 1337, 5000, 5001, 3000, 80}

// NewOpenAI drives such a server on a box. An address, "127.0.0.1:1234", is where it listens; empty means that it is
// found on a port of openAIPorts that is open.
func NewOpenAI(box Box, address string) *OpenAI {
	return &OpenAI{host: newHost(box), address: address, ports: openAIPorts}
}

// openAIScript adds to the listeners which ports lead into containers, and on a Mac the version of LM Studio, which its
// API does not tell.
const openAIScript = listenersScript + `
if command -v timeout >/dev/null 2>&1; then
  for c in docker podman; do
    command -v $c >/dev/null 2>&1 && timeout 3 $c ps --format '{{.Ports}}' 2>/dev/null | head -n 100 | while read -r l; do say ports "$l"; done
  done
fi
f="/Applications/LM Studio.app/Contents/Info.plist"
[ ! -r "$f" ] || say studio "$(sed -n '/CFBundleShortVersionString/{n;s/.*<string>\([0-9A-Za-z.+-]*\)<.*/\1/p;}' "$f")"
`

// openAIFacts is what that finds out.
type openAIFacts struct {
	facts
	containers []string // what they publish: "0.0.0.0:8080->80/tcp"
	studio     string
}

func (e *OpenAI) look(ctx context.Context) (*openAIFacts, error) {
	a, err := e.script(ctx, openAIScript)
	if err != nil {
		return nil, err
	}
	f := &openAIFacts{containers: a.lines["ports"], studio: a.get("studio")}
	f.listenersKnown, f.listeners = parseListeners(a)
	return f, nil
}

// candidates are the addresses to ask: the wanted one, else those of the ports that the table of listeners shows open. Where
// there is no table all are tried.
func (e *OpenAI) candidates(f *openAIFacts) []string {
	if e.address != "" {
		return []string{e.address}
	}
	var list []string
	for _, p := range e.ports {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
		switch {
		case !f.listenersKnown:
			list = append(list, addr)
		case f.busy(uint16(p)):
			if l := f.onlyElsewhere(uint16(p)); l.IsValid() {
				addr = netip.AddrPortFrom(l, uint16(p)).String()
			}
			list = append(list, addr)
		}
	}
	return list
}

// onlyElsewhere is an address of a port that is not open on 127.0.0.1; the zero address if it is.
func (f *facts) onlyElsewhere(port uint16) (addr netip.Addr) {
	for _, l := range f.listeners {
		switch {
		case l.port != port:
		case l.addr.IsUnspecified(), l.addr.Unmap() == netip.AddrFrom4([4]byte{127, 0, 0, 1}):
			return netip.Addr{}
		default:
			addr = l.addr.Unmap()
		}
	}
	return addr
}

// find returns the first server that answers and what it said. A *LoadingError is one that will, on the wanted address.
func (e *OpenAI) find(ctx context.Context) (*Server, *heard, error) {
	if e.address != "" {
		if _, _, err := net.SplitHostPort(e.address); err != nil {
			return nil, nil, fmt.Errorf("engine address %q: %w", e.address, err)
		}
	}
	f, err := e.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	asked := e.candidates(f)
	if e.address == "" { // what is mute there is nobody's wish
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, fingerprintLimit)
		defer cancel()
	}
	var wg sync.WaitGroup
	said := make([]*heard, len(asked))
	errs := make([]error, len(asked))
	for i, addr := range asked {
		wg.Go(func() { said[i], errs[i] = hear(ctx, e.box, addr) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, nil, fmt.Errorf("look for an %s on %s: %w", openAITitle, strings.Join(asked, " or "), err)
	}
	for i, addr := range asked {
		h, err := said[i], errs[i]
		if err == nil && !h.ofAnother() {
			return e.server(f, addr, h), h, nil
		}
		if e.address == "" {
			e.log.Debug("no "+openAITitle, "address", addr, "err", err)
			continue
		}
		var loading *LoadingError
		var status *statusError
		switch {
		case errors.As(err, &loading):
			return nil, nil, loading
		case err == nil:
			return nil, nil, &ForeignError{Engine: "an " + openAITitle, Address: addr, Said: h.Engine}
		case errors.As(err, &status) && (status.Code == http.StatusUnauthorized || status.Code == http.StatusForbidden):
			return nil, nil, fmt.Errorf("adopt the server on %s of the box: it wants a key for its list of models, and rlca sends none: %s. Switch its key off while it listens on the loopback alone", addr, status)
		case errors.As(err, &status), f.busy(portOf(addr)) && !f.refuses(addr):
			return nil, nil, &ForeignError{Engine: "an " + openAITitle, Address: addr, Said: clean(err.Error())}
		}
	}
	return nil, nil, &NotInstalledError{Engine: openAITitle, Tried: e.tried(asked)}
}

// tried says where nothing was found, and that it has to be started by somebody else.
func (e *OpenAI) tried(asked []string) string {
	where := "none answers on " + strings.Join(asked, " or ")
	if len(asked) == 0 {
		var ports []string
		for _, p := range e.ports {
			ports = append(ports, strconv.Itoa(p))
		}
		where = "nothing listens on the ports " + strings.Join(ports, ", ")
	}
	return where + ". rlca adopts such a server and starts none: start it there, or have rlca start Ollama, llama-server or vLLM"
}

// ofAnother reports whether the server is one that rlca drives in another way.
func (h *heard) ofAnother() bool {
	return h.Engine == "Ollama" || h.Engine == "llama-server" || h.Engine == "vllm"
}

// server describes the one that answers on addr.
func (e *OpenAI) server(f *openAIFacts, addr string, h *heard) *Server {
	s := &Server{Engine: cmp.Or(h.Engine, openAITitle), Version: h.Version, Address: addr, Adopted: true}
	if h.Engine == "LM Studio" {
		s.Version = f.studio
	}
	if slices.ContainsFunc(f.containers, func(ports string) bool { return strings.Contains(ports, fmt.Sprintf(":%d->", portOf(addr))) }) {
		s.How = "in a container"
	}
	s.LoopbackBound, s.Exposed = f.bound(portOf(addr))
	if o := h.first(); o != nil {
		s.Model = o.asLoaded()
	}
	return s
}

// first is the model that a server answers with if nobody names one: the loaded one, or the only one. Nil where there are
// several and nobody knows.
func (h *heard) first() *offer {
	for i := range h.offers {
		if h.offers[i].loaded {
			return &h.offers[i]
		}
	}
	if len(h.offers) == 1 {
		return &h.offers[0]
	}
	return nil
}

func (o *offer) asLoaded() Loaded { return Loaded{Name: o.name, Base: o.name, Context: o.context} }

// named finds a model by the name that was written; these servers take no other.
func (h *heard) named(name string) *offer {
	for i := range h.offers {
		if h.offers[i].name == name {
			return &h.offers[i]
		}
	}
	for i := range h.offers {
		if sameName(h.offers[i].name, name) {
			return &h.offers[i]
		}
	}
	return nil
}

// names are those of all models, what is loaded first.
func (h *heard) names() []string {
	var list, rest []string
	for _, o := range h.offers {
		if o.loaded {
			list = append(list, o.name)
		} else {
			rest = append(rest, o.name)
		}
	}
	return append(list, rest...)
}

// Find looks at the wanted address, else at the ports of openAIPorts that are open on the box. One that has not loaded
// its model yet is a *LoadingError.
func (e *OpenAI) Find(ctx context.Context) (*Server, error) {
	s, _, err := e.find(ctx)
	return s, err
}

// Ensure finds the server, and the wanted model among those that it offers. One that is loaded on demand is loaded by one
// token, because only then the server tells with how many tokens of context.
func (e *OpenAI) Ensure(ctx context.Context, plan Plan, progress func(Progress)) (*Server, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if plan.Address != "" && e.address == "" {
		e = &OpenAI{host: e.host, address: plan.Address, ports: e.ports}
	}
	s, h, err := e.find(ctx)
	if err != nil {
		return nil, err
	}
	told := *s
	progress(Progress{Step: StepServing, Text: s.Title() + " on " + s.Address + ", " + s.Origin(), Server: &told})
	o := h.named(plan.Model)
	switch {
	case len(h.offers) == 0:
		return nil, fmt.Errorf("use %s on %s of the box: it has no model loaded: load one there, or have it load them on demand", s.Title(), s.Address)
	case o == nil:
		return nil, &ServesOtherError{Engine: s.Engine, Address: s.Address, Serves: strings.Join(near(plan.Model, h.names()), ", "), Want: plan.Model}
	}
	if o.told && !o.loaded {
		progress(Progress{Step: StepLoad, Text: "loading " + o.name + ": " + s.Engine + " does so at the first token"})
		s.Warnings = append(s.Warnings, fmt.Sprintf("%s loads %s on demand: it may unload it when it is idle, and the next request then waits for the load", s.Engine, o.name))
		if o, err = e.load(ctx, s.Address, o.name); err != nil {
			return nil, err
		}
	}
	s.Model = o.asLoaded()
	if w := s.short(o, plan.Context); w != "" {
		s.Warnings = append(s.Warnings, w)
	}
	return s, nil
}

// load asks a model for one token, and then the server what became of it.
func (e *OpenAI) load(ctx context.Context, addr, name string) (*offer, error) {
	err := newAPI(e.box.Dial, addr).call(ctx, loadLimit, "POST", "/v1/chat/completions", map[string]any{
		"model": name, "max_tokens": 1, "stream": false, "messages": []map[string]string{{"role": "user", "content": "Say yes."}},
	}, nil)
	var status *statusError
	switch {
	case errors.As(err, &status):
		return nil, loadError(name, status.Text)
	case err != nil:
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	h, err := hear(ctx, e.box, addr)
	if err != nil {
		return nil, fmt.Errorf("ask the server on %s what it has loaded: %w", addr, err)
	}
	if o := h.named(name); o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("load %s: the server on %s answered with it, and does not list it any more", name, addr)
}

// short says how a model gets more context than it has, where that is known.
func (s *Server) short(o *offer, want int) string {
	if want == 0 || o.context == 0 || o.context >= want {
		return ""
	}
	if o.train > 0 {
		want = min(want, o.train)
	}
	more := map[string]string{
		"LM Studio": fmt.Sprintf("on the box: lms load %s --context-length %d", o.name, want),
		"SGLang":    fmt.Sprintf("start it with --context-length %d, and with room for so many tokens", want),
		"TGI":       fmt.Sprintf("start it with --max-total-tokens %d", want),
		"KoboldCpp": fmt.Sprintf("start it with --contextsize %d", want),
		"TabbyAPI":  fmt.Sprintf("set max_seq_len: %d in its config.yml", want),
	}[s.Engine]
	if more == "" || want <= o.context {
		return ""
	}
	return fmt.Sprintf("%s gives %s %d tokens of context; for %d: %s", s.Engine, o.name, o.context, want, more)
}

// Inventory lists the models that the server would answer with. Nothing but their names is known of most.
func (e *OpenAI) Inventory(ctx context.Context) ([]ModelFile, error) {
	_, h, err := e.find(ctx)
	var absent *NotInstalledError
	var foreign *ForeignError
	var loading *LoadingError
	switch {
	case errors.As(err, &absent), errors.As(err, &foreign), errors.As(err, &loading):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var list []ModelFile
	for _, name := range h.names() {
		o := h.named(name)
		list = append(list, ModelFile{Name: o.name, Quant: o.quant, Family: o.family})
	}
	return list, nil
}

// Loaded asks the server how it holds s.Model. One that was unloaded since has no context.
func (e *OpenAI) Loaded(ctx context.Context, s *Server) (Loaded, error) {
	h, err := hear(ctx, e.box, s.Address)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask %s what it has loaded: %w", s.Title(), err)
	}
	if o := h.named(s.Model.Name); o != nil {
		return o.asLoaded(), nil
	}
	return Loaded{Name: s.Model.Name, Base: s.Model.Base}, nil
}

// Undo does nothing: Ensure has done nothing that could be taken back.
func (e *OpenAI) Undo(context.Context, *Server) []string { return nil }

// Stop does nothing: rlca started none.
func (e *OpenAI) Stop(context.Context) ([]string, error) { return nil, nil }

// InUse asks nothing: rlca starts no such server.
func (e *OpenAI) InUse(context.Context, string) error { return nil }

// Forget has nothing to forget.
func (e *OpenAI) Forget(context.Context, string) error { return nil }

// Log is empty: where such a server writes to is not known.
func (e *OpenAI) Log(context.Context) (string, error) { return "", nil }
