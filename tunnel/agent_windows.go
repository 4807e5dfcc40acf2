package tunnel

import (
	"context"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/windows"
)

// dialAgent opens the named pipe of OpenSSH's agent service, or a unix socket. The pipe is opened for overlapped
// input and output, so that closing it ends a read.
func dialAgent(ctx context.Context, addr string) (io.ReadWriteCloser, error) {
	if strings.HasPrefix(addr, `\\`) || strings.HasPrefix(addr, "//") {
		return os.OpenFile(addr, os.O_RDWR|windows.FILE_FLAG_OVERLAPPED, 0)
	}
	return new(net.Dialer).DialContext(ctx, "unix", addr)
}
