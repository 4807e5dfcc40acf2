package gateway

import "errors"

// Bounds of what is no data in a chunked body. A request may have as much as net/http's server takes.
const (
	maxChunkLine      = 4 << 10
	maxRequestTrailer = 3 << 10
	maxReplyTrailer   = 64 << 10
)

var errFrame = errors.New("malformed chunked encoding")

// frame follows the body of one message and knows where it ends. It keeps none of it.
type frame struct {
	left    uint64 // bytes of a counted body, or of the chunk
	state   frameState
	digits  int  // of the size of the chunk
	ext     byte // what may follow the size: 0 anything, ' ' only blanks, ';' all
	line    int  // length of the line
	trailer int  // bytes of the trailer
	most    int  // that it may have
	colon   bool // the line of the trailer has one
}

type frameState byte

const (
	frameDone frameState = iota
	frameCounted
	frameUntilClose
	frameSize // in the line before a chunk
	frameSizeLF
	frameData
	frameDataCR
	frameDataLF
	frameTrailer // in a line of the trailer
	frameTrailerLF
)

// newFrame is for a body of that length: -1 means chunked, and -2 until the connection ends.
func newFrame(length int64, trailer int) frame {
	switch {
	case length == -2:
		return frame{state: frameUntilClose}
	case length == -1:
		return frame{state: frameSize, most: trailer}
	case length == 0:
		return frame{}
	}
	return frame{state: frameCounted, left: uint64(length)}
}

func (f *frame) done() bool { return f.state == frameDone }

// feed takes what comes and returns how many bytes of it belong to the body. Data, if not nil, gets what is left
// without the chunks around it.
func (f *frame) feed(p []byte, data func([]byte)) (n int, err error) {
	for n < len(p) && f.state != frameDone {
		switch f.state {
		case frameUntilClose:
			if data != nil {
				data(p[n:])
			}
			return len(p), nil
		case frameCounted, frameData:
			k := int(min(f.left, uint64(len(p)-n)))
			if data != nil {
				data(p[n : n+k])
			}
			n += k
			if f.left -= uint64(k); f.left > 0 {
				continue
			}
			if f.state == frameCounted {
				f.state = frameDone
			} else {
				f.state = frameDataCR
			}
		default:
			if !f.step(p[n]) {
				return n, errFrame
			}
			n++
		}
	}
	return n, nil
}

// step takes a byte between the chunks.
func (f *frame) step(c byte) bool {
	switch f.state {
	case frameSize:
		f.line++
		digit, ok := hex(c)
		switch {
		case f.line > maxChunkLine:
			return false
		case c == '\r':
			f.state = frameSizeLF
			return f.digits > 0
		case c == '\n' || c == 0:
			return false
		case f.ext == ';':
			return true
		case c == ';' && f.ext == 0:
			f.ext = ';'
			return f.digits > 0
		case c == ' ' || c == '\t':
			f.ext = ' '
			return f.digits > 0
		case !ok || f.ext != 0:
			return false
		}
		f.left = f.left<<4 | uint64(digit)
		f.digits++
		return f.digits <= 15 // net/http takes 16: nobody sends as much
	case frameSizeLF:
		f.digits, f.ext, f.line = 0, 0, 0
		if f.state = frameData; f.left == 0 {
			f.state = frameTrailer
		}
		return c == '\n'
	case frameDataCR:
		f.state = frameDataLF
		return c == '\r'
	case frameDataLF:
		f.state = frameSize
		return c == '\n'
	case frameTrailer:
		f.line++
		f.trailer++
		switch {
		case f.trailer > f.most:
			return false
		case c == '\r':
			f.state = frameTrailerLF
			return f.line == 1 || f.colon
		case c == ':':
			ok := f.line > 1
			f.colon = true
			return ok
		case !f.colon:
			return isToken([]byte{c})
		}
		return c >= ' ' && c != 0x7f || c == '\t'
	case frameTrailerLF:
		f.trailer++
		if f.state = frameTrailer; f.line == 1 {
			f.state = frameDone
		}
		f.line, f.colon = 0, false
		return c == '\n'
	}
	return false
}

func hex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
