//go:build !linux && !darwin && !windows

package tunnel

// systemSenses has nothing here: a Link then relies on its probes.
func systemSenses() Senses { return Senses{} }
