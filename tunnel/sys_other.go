//go:build !linux && !darwin && !windows

package tunnel

// userTimeouts says that the system limits how long bytes that we sent may stay unacknowledged.
const userTimeouts = false

// setTimeouts is left to the idle probe where the system has no such option.
func setTimeouts(uintptr) {}
