package remote

import (
	"fmt"
	"strings"
)

// NotInstalledError says that the engine neither runs on the box nor is installed there.
type NotInstalledError struct {
	Engine string `json:"engine"`
	// Tried says where it was looked for.
	Tried string `json:"tried"`
}

func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("there is no %s on the box: %s", e.Engine, e.Tried)
}

// NotRunningError says that the engine is installed on the box, but does not run.
type NotRunningError struct {
	Engine string `json:"engine"`
	// Path is the program on the box.
	Path string `json:"path"`
	// Version is that of a program built from source, which does not tell it when asked. Empty is not known.
	Version string `json:"version"`
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("%s is installed on the box (%s), but does not run", e.Engine, e.Path)
}

// ForeignError says that something else holds the address that the engine must have.
type ForeignError struct {
	Engine  string `json:"engine"`
	Address string `json:"address"`
	// Said is the beginning of what it answered.
	Said string `json:"said"`
}

func (e *ForeignError) Error() string {
	s := fmt.Sprintf("use %s on %s of the box: something else listens there", e.Engine, e.Address)
	if e.Said != "" {
		s += fmt.Sprintf(" and says %q", e.Said)
	}
	return s
}

// StartError says that the engine was started and did not come up. It has been stopped again.
type StartError struct {
	Engine  string `json:"engine"`
	Address string `json:"address"`
	// Reason is what went wrong; Log are the last lines that the engine wrote.
	Reason string   `json:"reason"`
	Log    []string `json:"log"`
	// Class is, where the engine's words are known: memory, context (too long), busy (others hold the memory), race (memory
	// moved, try again), model (files lack or are broken), trust, version (the engine is too old), build or driver (they do
	// not suit the GPU), install, parser, arguments, graphs, port, worker, slow, cluster, container (docker or podman did not run it), disk, permission, or
	// other.
	Class string `json:"class"`
	// Remedy says what the user can do, empty if that is not known.
	Remedy string `json:"remedy"`
	// Context is the longest that would do, in tokens, as far as the engine said it. 0 is not known.
	Context int   `json:"context"`
	Err     error `json:"-"`
}

func (e *StartError) Error() string {
	s := fmt.Sprintf("start %s on %s of the box: %s", e.Engine, e.Address, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if n := len(e.Log); n > 0 {
		s += ": " + strings.Join(e.Log[max(0, n-3):], " · ")
	}
	return s
}

func (e *StartError) Unwrap() error { return e.Err }

// ModelMissingError says that the model is not on the box and was not to be pulled.
type ModelMissingError struct {
	Model string `json:"model"`
	// Near are models of the box, the most similar first.
	Near []string `json:"near"`
	// Known are models elsewhere whose names look alike. Callers who know some fill it in.
	Known []string `json:"known"`
	// Bytes is the size of the download, 0 if unknown. Callers who know the model fill it in.
	Bytes int64 `json:"bytes"`
}

func (e *ModelMissingError) Error() string { return fmt.Sprintf("model %s is not on the box", e.Model) }

// PullError says that a download cannot succeed by trying again.
type PullError struct {
	Model string `json:"model"`
	// Class is name (no such model or tag), version (the engine is too old), format (the engine cannot use such
	// files), auth, space (disk full), permission, tls, network, or other.
	Class string `json:"class"`
	// Need and Have say in bytes what the download takes on the disk and what is free there, where that was known before
	// it began. Both 0 is not known.
	Need int64 `json:"need"`
	Have int64 `json:"have"`
	// Text is what the engine said.
	Text string `json:"text"`
}

func (e *PullError) Error() string { return fmt.Sprintf("pull %s on the box: %s", e.Model, e.Text) }

// PullStoppedError says that a download was left because ctx ended. What was downloaded stays on the box and is
// used by the next pull.
type PullStoppedError struct {
	Model string `json:"model"`
	// Done and Total are bytes.
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// Running is true if the download goes on: it was begun by somebody else, or could not be reached.
	Running bool  `json:"running"`
	Err     error `json:"-"`
}

func (e *PullStoppedError) Error() string {
	s := fmt.Sprintf("pull %s on the box: stopped", e.Model)
	if e.Running {
		s = fmt.Sprintf("pull %s on the box: it goes on without us", e.Model)
	}
	if e.Total > 0 {
		s += fmt.Sprintf(" at %s, which stay there", gibOf(e.Done, e.Total))
	}
	return s + ": " + e.Err.Error()
}

func (e *PullStoppedError) Unwrap() error { return e.Err }

// LoadError says that the engine could not load the model, or not answer with it.
type LoadError struct {
	Model string `json:"model"`
	// OutOfMemory is true if the engine's words say so.
	OutOfMemory bool   `json:"out_of_memory"`
	Text        string `json:"text"`
}

func (e *LoadError) Error() string { return fmt.Sprintf("load %s: %s", e.Model, e.Text) }

func loadError(model, text string) *LoadError {
	e := &LoadError{Model: model, Text: text}
	low := strings.ToLower(text)
	for _, word := range []string{
		"more system memory", "out of memory", "out-of-memory", "out of device memory", "outofdevicememory", "cudamalloc failed",
		"hipmalloc failed", "failed to allocate", "allocation failed", "not enough memory", "insufficient memory", "erroroutofmemory",
	} {
		if strings.Contains(low, word) {
			e.OutOfMemory = true
		}
	}
	return e
}
