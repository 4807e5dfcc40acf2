package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// LlamaServer drives one llama-server, the server of llama.cpp, on one box. It serves the model that it was started
// with: for another one, or another context, one that rlca started is started anew. It is safe for concurrent use.
type LlamaServer struct{ service }

var _ Engine = (*LlamaServer)(nil)

// Limits of a start: how long a model may take to load, and how long that may stand still.
const (
	llamaLimit = 30 * time.Minute
	llamaStall = 10 * time.Minute
)

// llamaPlaces are where builds of llama.cpp lie.
var llamaPlaces = []string{
	"~/llama.cpp/build/bin", "~/llama.cpp", "~/src/llama.cpp/build/bin", "/opt/llama.cpp/build/bin", "/opt/llama.cpp/bin", "/opt/llama.cpp", "/usr/local/llama.cpp/bin",
}

// NewLlamaServer drives the llama-server on a box. An address, "127.0.0.1:8080", is where it listens or must listen;
// empty means that it is found, or chosen when one is started.
func NewLlamaServer(box Box, address string) *LlamaServer {
	e := &LlamaServer{service{host: newHost(box), title: "llama-server", job: "llama-server", address: address, port: 8080, also: []int{9931}, limit: llamaLimit, poll: time.Second}}
	e.places = slices.Concat(places, llamaPlaces)
	e.self = e
	return e
}

// ServesOtherError says that a server which is not to be started anew serves another model than the wanted one. It was
// left as it is.
type ServesOtherError struct {
	Engine  string `json:"engine"`
	Address string `json:"address"`
	// Serves says what it serves, Want is the model that was wanted.
	Serves string `json:"serves"`
	Want   string `json:"want"`
}

func (e *ServesOtherError) Error() string {
	return fmt.Sprintf("the %s on %s of the box serves %s, not %s, and rlca does not start it anew: ask for what it serves, end it there, or give the engine an address of its own",
		e.Engine, e.Address, e.Serves, e.Want)
}

// Find looks at the wanted address, else at the server that rlca started earlier, else at llama-server's own ports: 8080,
// and 9931 of newer ones. One that still loads its model is a *LoadingError.
func (e *LlamaServer) Find(ctx context.Context) (*Server, error) {
	f, err := e.look(ctx)
	if err != nil {
		return nil, err
	}
	s, foreign, err := e.find(ctx, f, e.address)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, e.absent(ctx, f, foreign)
	}
	return s, nil
}

// replaceTries is how often a server of ours is replaced in one Ensure: another laptop may want another model.
const replaceTries = 3

func (e *LlamaServer) ensure(ctx context.Context, j *journal, plan Plan, progress func(Progress)) (*Server, error) {
	for try := 0; ; try++ {
		s, f, err := e.serve(ctx, j, plan, progress)
		if err != nil {
			return nil, err
		}
		if !s.Fresh && !s.Adopted { // another laptop may have started it just now
			if f, err = e.look(ctx); err != nil {
				return nil, err
			}
			if (!f.alive || f.ours.address != s.Address) && try < replaceTries {
				continue
			}
		}
		other := ""
		if !s.Fresh {
			if other, err = e.differs(ctx, f, s, plan); err != nil {
				return nil, err
			}
		}
		if other == "" {
			e.noteUse(ctx, s, plan)
			told := *s
			progress(Progress{Step: StepServing, Text: s.Title() + " on " + s.Address + ", " + s.Origin(), Server: &told})
			return s, nil
		}
		switch {
		case s.Adopted:
			return nil, &ServesOtherError{Engine: e.title, Address: s.Address, Serves: s.Model.Name, Want: plan.Model}
		case try == replaceTries:
			return nil, &StartError{Engine: e.title, Address: s.Address, Reason: "another laptop starts it again and again with " + s.Model.Name}
		}
		if err := e.mayReplace(ctx, f.ours.mark, s.Address, fmt.Sprintf("%s with a context of %d", s.Model.Name, s.Model.Context), plan); err != nil {
			return nil, err
		}
		progress(Progress{Step: StepEngine, Text: fmt.Sprintf("stopping llama-server on %s, which serves %s", s.Address, other)})
		if _, err := e.halt(ctx, e.job, f.ours.mark, e.logFile(), e.logFile()+".old"); err != nil {
			return nil, fmt.Errorf("stop llama-server on %s to start it with %s: %w", s.Address, plan.Model, err)
		}
		e.log.Info("stopped to be started anew", "address", s.Address, "served", other)
		if e.stillOpen(ctx, s.Address) {
			return nil, fmt.Errorf("stop llama-server on %s: its process has ended, but the port still answers", s.Address)
		}
	}
}

// askedScript reads how the server of our record was started.
const askedScript = `
if record llama-server && [ "$M" = %[1]s ]; then
  if [ -r "/proc/$P/cmdline" ]; then a=$(tr '\000' ' ' < "/proc/$P/cmdline"); else a=$(ps -ww -o args= -p "$P" 2>/dev/null); fi
  say context "$(printf '%%s ' "$a" | sed -n 's/.* -c \([0-9][0-9]*\) .*/\1/p')"
  say parallel "$(printf '%%s ' "$a" | sed -n 's/.* -np \([0-9][0-9]*\) .*/\1/p')"
fi
`

// differs says in words what a server serves that the plan does not want; empty if it does what it wants. Of ours the
// context counts as it was asked for: a model may give less, and would at each new start.
func (e *LlamaServer) differs(ctx context.Context, f *facts, s *Server, plan Plan) (string, error) {
	d, err := e.serves(ctx, s.Address)
	if err != nil {
		return "", fmt.Errorf("ask %s what it serves: %w", s.Title(), err)
	}
	name := cmp.Or(d.Model, d.Path, "another model")
	if s.Adopted && (d.Model != "" && (sameName(d.Model, plan.Model) || d.Model == aliasOf(plan.Model)) || d.Path != "" && d.Path == plan.Model) {
		return "", nil
	}
	m, err := e.file(ctx, plan.Model)
	var missing *ModelMissingError
	switch {
	case s.Adopted && errors.As(err, &missing):
		return name, nil
	case err != nil:
		return "", err
	case !e.sameFile(ctx, m.Path, d.Path):
		return name, nil
	case s.Adopted:
		return "", nil
	}
	a, err := e.script(ctx, fmt.Sprintf(askedScript, quote(f.ours.mark)))
	if err != nil {
		return "", err
	}
	parallel := max(1, a.int("parallel"))
	switch {
	case plan.Context > 0 && a.int("context")/parallel != plan.Context:
		return fmt.Sprintf("%s with another context", name), nil
	case plan.Parallel > 0 && parallel != plan.Parallel:
		return fmt.Sprintf("%s to %d at once", name, parallel), nil
	}
	return "", nil
}

// sameFile reports whether two paths on the box lead to one file. A relative one is of a folder that nobody knows.
func (e *LlamaServer) sameFile(ctx context.Context, a, b string) bool {
	switch {
	case a == "" || b == "":
		return false
	case a == b:
		return true
	case !path.IsAbs(b):
		return path.Base(a) == path.Base(b)
	}
	said, err := e.script(ctx, fmt.Sprintf(`[ %s -ef %s ] && say same 1`, quote(a), quote(b)))
	return err == nil && said.get("same") != ""
}

// Loaded asks the server what it serves now.
func (e *LlamaServer) Loaded(ctx context.Context, s *Server) (Loaded, error) {
	d, err := e.serves(ctx, s.Address)
	if err != nil {
		return Loaded{}, fmt.Errorf("ask %s what it has loaded: %w", s.Title(), err)
	}
	now := *s
	now.Model = Loaded{Name: d.Model, Base: d.Model, Context: d.Context}
	e.see(ctx, &facts{}, &now)
	return now.Model, nil
}

// Stop ends the server that rlca started on the box. One that is adopted goes on.
func (e *LlamaServer) Stop(ctx context.Context) ([]string, error) { return e.stopAll(ctx) }

// llamaLogScript prints the end of a log: of the server that we started, else of a service.
const llamaLogScript = `
f=$D/%s
if [ -r "$f" ]; then tail -n 400 "$f"
elif command -v journalctl >/dev/null 2>&1; then
  for u in "" --user; do journalctl $u --no-pager -q -o cat -u llama-server -n 400 2>/dev/null; done
fi | cut -c 1-2000 | while IFS= read -r l; do say log "$l"; done
`

// Log returns the end of the server's log.
func (e *LlamaServer) Log(ctx context.Context) (string, error) {
	a, err := e.script(ctx, fmt.Sprintf(llamaLogScript, quote(e.logFile())))
	if err != nil {
		return "", fmt.Errorf("read the engine's log: %w", err)
	}
	if len(a.lines["log"]) == 0 {
		return "", nil
	}
	return strings.Join(a.lines["log"], "\n") + "\n", nil
}
