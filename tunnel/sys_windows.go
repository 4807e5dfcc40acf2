package tunnel

import "golang.org/x/sys/windows"

// ackLimit is how long bytes that we sent may stay unacknowledged, in milliseconds. TCP counts from its first
// repetition and looks when the next one is due, so that it gives up within 9 s.
const ackLimit = 7500

// userTimeouts says that the system has such a limit.
const userTimeouts = true

// setTimeouts makes TCP itself give up on a black hole while data is pending. Systems before Windows 10 1709 know
// only the option in whole seconds.
func setTimeouts(fd uintptr) {
	h := windows.Handle(fd)
	if windows.SetsockoptInt(h, windows.IPPROTO_TCP, windows.TCP_MAXRTMS, ackLimit) != nil {
		windows.SetsockoptInt(h, windows.IPPROTO_TCP, windows.TCP_MAXRT, ackLimit/1000)
	}
}
