// Package netlab is a test laboratory: a laptop, a box, and a network between them that a test can delay, black-hole,
// cut, renumber and restore, so that a real sshd is reached through real TCP at a real distance.
//
// The test process is the laptop. Its TestMain calls Main, which runs the tests again in a network namespace of their
// own; the box is a second namespace. Each has a TUN device, and the test process carries the packets from one to the
// other. What is lost is lost there, a hop away from both TCPs: Linux notices a loss in its own device and answers it
// differently from one on the way.
//
// Nothing is left behind: the devices end with the process and the namespaces with the last process in them, and all of
// these are killed when the tests end, however they do.
//
// It needs root on Linux. Elsewhere New skips its test, and on Linux with CI=true fails it.
package netlab

import "testing"

// The addresses at first, both of a /24. With IPv6 they are also fd50::1 and fd50::2.
const (
	LaptopAddr = "10.50.0.1"
	BoxAddr    = "10.50.0.2"
)

// Main is what a TestMain calls: it runs the tests in a network namespace of their own, where New can make a lab.
// Without root on Linux it just runs them. A TestMain that has to run them itself calls Enter before.
func Main(m *testing.M) {
	Enter()
	m.Run()
}
