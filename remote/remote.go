// Package remote starts an engine on the box, or adopts the one that runs there, and makes it serve one model.
//
// Ask for a result, not for a state: Ensure finds a healthy engine or starts one, fetches the model if it may,
// loads it with the wanted context and reads back what really became of it. Ollama is the first engine; others are
// sibling files under the same contract test.
//
// What it promises: an engine that somebody else runs is never stopped, restarted or reconfigured. What it starts
// listens on the box's loopback only, outlives the connection that started it, carries a mark, and is stopped only
// after the mark was seen again. Everything that it leaves on the box lies in ~/.rlca there, and Stop takes it away.
// A step that fails or is cancelled is undone, except for downloaded parts of a model, which the next pull uses.
//
// The box is reached by two functions, one that runs a script and one that dials; nothing here knows SSH.
package remote

import (
	"context"
	"log/slog"
	"net"
	"strings"
)

// Box is the machine that an engine runs on.
type Box struct {
	// Run feeds script to a POSIX shell on the box and returns its standard output. The shell may print noise of its
	// own around it. It must be safe for concurrent use, and return soon after ctx ends.
	Run func(ctx context.Context, script string) ([]byte, error)

	// PowerShell runs a short script on a box that runs Windows and returns its standard output; Run is not used there. Nil
	// for all other boxes. Of the engines, only Ollama knows what to do with it.
	PowerShell func(ctx context.Context, script string) ([]byte, error)

	// Dial connects from the box to addr; network is always "tcp".
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Log is where each change is told. Nil discards it.
	Log *slog.Logger
}

// Engine is one kind of inference server on one box.
type Engine interface {
	// Find looks for a server that answers and starts nothing. Without one the error is a *NotRunningError if the
	// engine is installed and a *NotInstalledError if it is not; a *ForeignError if something else has the address
	// that was asked for.
	Find(ctx context.Context) (*Server, error)

	// Ensure makes a server serve plan.Model, and tells progress what it does from the caller's goroutine. If it
	// returns an error, it has undone what it did, as far as the box could be reached; Undo tries the rest again.
	Ensure(ctx context.Context, plan Plan, progress func(Progress)) (*Server, error)

	// Inventory lists the models on the box, also when no server runs. An empty list is no error.
	Inventory(ctx context.Context) ([]ModelFile, error)

	// Loaded asks the server what it holds of s.Model now. Sizes are 0 if it has unloaded it.
	Loaded(ctx context.Context, s *Server) (Loaded, error)

	// Undo takes back what Ensures of this value did and says in words what that was. It is for a walk that went on
	// after Ensure and then failed.
	Undo(ctx context.Context, s *Server) []string

	// InUse asks whether another laptop may be using the server that rlca started; then the error is an *InUseError. Forget
	// notes that this laptop does not any more. An empty name asks and notes nothing.
	InUse(ctx context.Context, laptop string) error
	Forget(ctx context.Context, laptop string) error

	// Stop ends everything on the box that rlca started, from whichever laptop, and says in words what that was.
	// An adopted server goes on running, without what was added to it.
	Stop(ctx context.Context) ([]string, error)

	// Log returns the end of the server's log, empty if there is none that may be read.
	Log(ctx context.Context) (string, error)
}

// Plan is what shall be served.
type Plan struct {
	// Model is the name as the engine knows it. An Ollama name without a tag means ":latest".
	Model string
	// Context is the tokens that one request may have. 0 leaves it to the engine.
	Context int
	// Parallel is the number of requests served at once. 0 leaves it to the engine. Adopted servers keep theirs.
	Parallel int
	// KeepAlive is how long an idle model stays loaded: a Go duration, or seconds; negative is for ever. Empty is "-1".
	KeepAlive string
	// Address is where the engine must listen on the box. Empty means wherever one is found, else a free port.
	Address string
	// Args are extra arguments of an engine that is started, passed as given. Those of the form NAME=value become
	// its environment, as Env does.
	Args []string
	// Env are extra NAME=value pairs for an engine that is started.
	Env []string
	// MayPull allows a download of the model on the box.
	MayPull bool
	// Unified says that the GPU has the system's memory: what an engine takes too much freezes the box.
	Unified bool
	// Floor is how much memory must stay available on the box, in bytes: below it the engine that rlca starts is ended
	// there and then, by a watch that runs on the box. 0 is no watch.
	Floor int64
	// Utilization is the share of a GPU's memory that vLLM may take, and Tensor the number of GPUs that it parts a model
	// over. 0 leaves both to it.
	Utilization float64
	Tensor      int
	// MayDerive allows a copy of the model's name with another context, on a server whose own context does not do.
	MayDerive bool
	// MayReplace allows that a server which rlca started is ended and started anew for this plan although somebody else
	// may be using it; without it that is an *InUseError. It is a person's word.
	MayReplace bool
	// Laptop is a random name of the machine that asks, of hexadecimal digits. A server that is started says by it whose
	// it is. Empty says nothing.
	Laptop string
}

// The steps that a Progress can be about, in their order.
const (
	StepEngine  = "engine"  // looking for a server, starting one
	StepServing = "serving" // Progress.Server answers; told once
	StepModel   = "model"   // looking for the model, giving it its context
	StepPull    = "pull"    // downloading; Done and Total are bytes
	StepLoad    = "load"    // loading into memory; Total is the size of the file
)

// Progress is one word from Ensure while it works.
type Progress struct {
	Step string
	// Done and Total are bytes, 0 where they are not known. Done never shrinks within one pull.
	Done, Total int64
	// Text says it to a person.
	Text string
	// Server is set at StepServing. It is a copy.
	Server *Server
}

// Server is an engine process that answers.
type Server struct {
	// Engine is the engine's name as people write it: "Ollama".
	Engine string `json:"engine"`
	// Version is what it tells; for a build from source what its compiler wrote into it, or "0.0.0".
	Version string `json:"version"`
	// FromSource is true for a build from source, whose options are not those of a release.
	FromSource bool `json:"from_source"`
	// Address is where it listens, as seen on the box.
	Address string `json:"address"`
	// Adopted is true for a server that rlca did not start.
	Adopted bool `json:"adopted"`
	// Fresh is true if this Ensure started it.
	Fresh bool `json:"fresh"`
	// How says how an adopted server is run: "system service", "desktop app". Empty is unknown.
	How string `json:"how"`
	// PID is 0 where it is not known.
	PID int `json:"pid"`
	// LoopbackBound is nil if the listeners of the box could not be read.
	LoopbackBound *bool `json:"loopback_bound"`
	// Exposed are the addresses beyond loopback on which its port is open.
	Exposed []string `json:"exposed"`
	// Model is what it has loaded: after Ensure the wanted one, after Find the one that stays longest.
	Model Loaded `json:"model"`
	// Boxes are the names of those that it works on, of a cluster; nil for one box.
	Boxes []string `json:"boxes"`
	// Warnings are what the user of the model should know, one sentence each.
	Warnings []string `json:"warnings"`
	// Added is the copy of a model's name that this Ensure made, empty if none.
	Added string `json:"added"`
}

// Title is the server's name and version. A build from source calls itself 0.0.0, which says nothing.
func (s *Server) Title() string {
	if s.Version == "" || s.Version == "0.0.0" {
		return s.Engine
	}
	return s.Engine + " " + s.Version
}

// Origin says in words where the server comes from: "adopted (system service)", "started by rlca".
func (s *Server) Origin() string {
	switch {
	case !s.Adopted && len(s.Boxes) > 0:
		return "started by rlca, works on " + strings.Join(s.Boxes, " and ")
	case !s.Adopted:
		return "started by rlca"
	case s.How != "":
		return "adopted (" + s.How + ")"
	}
	return "adopted"
}

// Loaded is a model in the memory of a server.
type Loaded struct {
	// Name is what to ask for.
	Name string `json:"name"`
	// Base is the model that it was made of; the same unless its context had to be set.
	Base string `json:"base"`
	// Digest is the hash of the manifest, without a prefix.
	Digest string `json:"digest"`
	// Context is the tokens it was really loaded with, 0 if the server does not tell.
	Context int `json:"context"`
	// SizeBytes is what the server says that it takes, VRAMBytes the part of it on a GPU.
	SizeBytes int64 `json:"size_bytes"`
	VRAMBytes int64 `json:"vram_bytes"`
}

// ModelFile is a model on the box, loaded or not.
type ModelFile struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	// Bytes is the size of the model on disk, nearly all of it weights.
	Bytes int64 `json:"bytes"`
	// Quant and Family are the engine's words: "Q4_K_M", "qwen3moe". Empty is unknown.
	Quant  string `json:"quant"`
	Family string `json:"family"`
	// Info is the metadata of the weights, by GGUF keys. Nil when no server could be asked.
	Info map[string]any `json:"-"`
	// Tensors are the parts of the weights, all of them. Nil when no server told them.
	Tensors []Tensor `json:"-"`
	// Path is the GGUF file on the box. Empty if a server told of the model, or if it is not one file.
	Path string `json:"-"`
}

// Tensor is a part of a model's weights.
type Tensor struct {
	// Type is ggml's name, "Q4_K"; "unknown" is one that the server does not know.
	Type string
	// Shape are its dimensions, the length of a row first.
	Shape []uint64
}

// splitArgs parts the extra arguments of a plan into environment and arguments.
func (p Plan) splitArgs() (env, args []string) {
	env = append(env, p.Env...)
	for _, a := range p.Args {
		if isAssignment(a) {
			env = append(env, a)
		} else {
			args = append(args, a)
		}
	}
	return env, args
}

func isAssignment(s string) bool {
	name, _, ok := strings.Cut(s, "=")
	if !ok || name == "" || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	return strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}
