//go:build !linux

package netlab

import (
	"errors"
	"net"
	"os/exec"
	"testing"
	"time"

	"rlca/internal/peer"
)

// There is no lab on this system: New skips, and nothing else of this file is ever called.

// Enter does nothing on this system.
func Enter() {}

// Lab is a laptop, a box, and the network between them.
type Lab struct{}

// New skips the test.
func New(t testing.TB) *Lab {
	t.Helper()
	t.Skip("no network lab: it needs root on Linux")
	return nil
}

var errSystem = errors.New("no network lab: it needs root on Linux")

// Delay is how long a packet takes.
func (l *Lab) Delay(oneWay time.Duration) {}

// Hole begins or ends a black hole.
func (l *Lab) Hole(on bool) {}

// Forget is a NAT that forgot.
func (l *Lab) Forget() {}

// Remember lets the connections that Forget hid pass again.
func (l *Lab) Remember() {}

// Packets are how many packets have arrived.
func (l *Lab) Packets() (toBox, toLaptop int64) { return 0, 0 }

// Renumber gives the laptop another address.
func (l *Lab) Renumber(addr string) {}

// RemoveAddr takes the laptop's address away.
func (l *Lab) RemoveAddr() {}

// AddAddr gives the laptop an address.
func (l *Lab) AddAddr(addr string) {}

// LinkDown switches the laptop's device off.
func (l *Lab) LinkDown() {}

// LinkUp switches it on again.
func (l *Lab) LinkUp() {}

// Listen listens in the box.
func (l *Lab) Listen(network, addr string) (net.Listener, error) { return nil, errSystem }

// Command is a command for Start.
func (l *Lab) Command(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }

// Start starts a command in the box.
func (l *Lab) Start(cmd *exec.Cmd) error { return errSystem }

// StartSSHD starts an sshd in the box.
func (l *Lab) StartSSHD(extra ...string) *peer.SSHD { return nil }
