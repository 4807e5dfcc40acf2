//go:build unix

package tunnel

import (
	"context"
	"io"
	"net"
)

// dialAgent opens the agent's socket.
func dialAgent(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
	return new(net.Dialer).DialContext(ctx, "unix", addr)
}
