//go:build !linux && !darwin && !windows

package tunnel

// setTimeouts is left to the idle probe where the system has no such option.
func setTimeouts(uintptr) {}
