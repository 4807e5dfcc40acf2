package tunnel

import "golang.org/x/sys/unix"

// ackLimit is how long bytes that we sent may stay unacknowledged, in milliseconds. TCP counts from its first
// repetition and looks when the next one is due, so that it gives up within 9 s.
const ackLimit = 7500

// userTimeouts says that the system has such a limit.
const userTimeouts = true

// setTimeouts makes TCP itself give up on a black hole while data is pending.
func setTimeouts(fd uintptr) {
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ackLimit) // an old kernel without it is no loss
}
