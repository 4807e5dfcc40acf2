package tunnel

import "encoding/binary"

// routeSocketNews reports whether messages of a route socket of macOS (route(4)) tell of a changed address, route or
// link. Of each it reads the start alone, which is the same in all of them (net/route.h: a length of 16 bits, a
// version and a type of 8 bits each). Bytes that are no whole start are no news.
func routeSocketNews(b []byte) bool {
	const (
		start = 4

		rtmAdd, rtmDelete, rtmChange      = 0x1, 0x2, 0x3
		rtmNewAddr, rtmDelAddr, rtmIfInfo = 0xc, 0xd, 0xe
	)
	for len(b) >= start {
		switch b[3] {
		case rtmAdd, rtmDelete, rtmChange, rtmNewAddr, rtmDelAddr, rtmIfInfo:
			return true
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < start || size >= len(b) {
			return false
		}
		b = b[size:]
	}
	return false
}
