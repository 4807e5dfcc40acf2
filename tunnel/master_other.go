//go:build !unix

package tunnel

import (
	"errors"
	"os/exec"
)

// ownSession says no: the ssh of Windows has no control master.
func ownSession(*exec.Cmd) error {
	return errors.New("the ssh of this system has no control master")
}
