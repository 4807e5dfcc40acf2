package tunnel

import "golang.org/x/sys/unix"

// ackLimit is how long bytes that we sent may stay unacknowledged, in seconds.
const ackLimit = 8

// userTimeouts says that the system has such a limit.
const userTimeouts = true

// setTimeouts makes TCP itself give up on a black hole while data is pending.
func setTimeouts(fd uintptr) {
	unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME, ackLimit)
}
