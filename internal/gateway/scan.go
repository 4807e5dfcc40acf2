package gateway

// scan finds values in JSON that goes by, in pieces of any size. It keeps the path to where it is, and of the values
// only short ones that are asked for: numbers, names of models, reasons. Everything else passes through it unkept.
type scan struct {
	want  map[string]field // by path: keys joined with dots, arrays left out
	found func(f field, text []byte, length int)

	state  scanState
	depth  int
	arrays [maxDepth/64 + 1]uint64  // a bit for each level that is an array
	path   [96]byte                 // of the value that comes
	end    int                      // of path
	ends   [trackedDepth + 1]uint16 // of path, where the level began
	lost   int                      // the level at which the path was given up; 0 if it is good
	name   [48]byte                 // a key
	text   [128]byte                // a value that is kept
	n      int                      // bytes of the string or the word so far, not all of them kept
	escape bool                     // the last byte was a backslash
	odd    bool                     // the key has escapes or dots, or is too long
	field  field
}

const (
	maxDepth     = 512
	trackedDepth = 8 // no value that is wanted lies deeper
)

type scanState byte

const (
	scanValue scanState = iota
	scanKey             // a key, or the end of an object
	scanInKey
	scanColon
	scanString
	scanWord // a number, true, false, null
	scanNext // a comma, or the end of what is open
	scanBad
)

// reset begins a new text.
func (s *scan) reset() {
	clear(s.path[:])
	clear(s.name[:])
	clear(s.text[:])
	s.state, s.depth, s.end, s.lost, s.n, s.escape, s.odd, s.field = scanValue, 0, 0, 0, 0, false, false, 0
}

// open reports whether a text has begun and not ended.
func (s *scan) open() bool { return s.state != scanBad && (s.depth > 0 || s.state == scanString) }

func (s *scan) feed(p []byte) {
	for i := 0; i < len(p) && s.state != scanBad; {
		switch s.state {
		case scanString, scanInKey:
			i += s.inString(p[i:])
			continue
		case scanWord:
			if c := p[i]; c == ',' || c == '}' || c == ']' || c <= ' ' {
				s.value(s.n)
				s.state = scanNext
				continue
			}
			s.keep(p[i])
			i++
			continue
		}
		s.step(p[i])
		i++
	}
}

// inString takes bytes of a string, and returns how many.
func (s *scan) inString(p []byte) int {
	if s.state == scanString && !s.field.kept() && !s.escape { // most of all there is: nothing to keep
		i := 0
		for i < len(p) && p[i] != '"' && p[i] != '\\' {
			i++
		}
		if s.n += i; i > 0 {
			return i
		}
	}
	for i, c := range p {
		switch {
		case s.escape:
			s.escape = false
			if s.field != 0 && c == 'u' {
				s.odd = true // not worth decoding: the value is not used
			}
		case c == '\\':
			s.escape, s.odd = true, s.odd || s.state == scanInKey
			continue
		case c == '"':
			if s.state == scanInKey {
				s.state = scanColon
				s.enter()
			} else {
				s.value(s.n)
				s.state = scanNext
			}
			return i + 1
		}
		s.keep(c)
	}
	return len(p)
}

func (s *scan) keep(c byte) {
	if s.state == scanInKey {
		if s.n < len(s.name) {
			s.name[s.n] = c
		}
		s.odd = s.odd || c == '.'
	} else if s.field.kept() && s.n < len(s.text) {
		s.text[s.n] = c
	}
	s.n++
}

func (s *scan) step(c byte) {
	switch {
	case c == ' ' || c == '\t' || c == '\n' || c == '\r':
	case s.state == scanValue && c == '"':
		s.begin(scanString)
	case s.state == scanValue && (c == '{' || c == '['):
		s.push(c == '[')
	case s.state == scanValue && c == ']' && s.depth > 0 && s.isArray():
		s.pop() // an empty one; one comma too many is not our business
	case s.state == scanValue && (c == '-' || '0' <= c && c <= '9' || c == 't' || c == 'f' || c == 'n'):
		s.begin(scanWord)
		s.keep(c)
	case s.state == scanKey && c == '"':
		s.n, s.odd, s.state = 0, false, scanInKey
	case s.state == scanKey && c == '}':
		s.pop()
	case s.state == scanColon && c == ':':
		s.state = scanValue
	case s.state == scanNext && c == ',' && s.depth > 0:
		s.state = scanKey
		if s.isArray() {
			s.state = scanValue
		}
	case s.state == scanNext && s.depth > 0 && (c == ']') == s.isArray() && (c == ']' || c == '}'):
		s.pop()
	default:
		s.state = scanBad
	}
}

func (s *scan) isArray() bool { return s.arrays[s.depth/64]&(1<<(s.depth%64)) != 0 }

func (s *scan) push(array bool) {
	if s.depth++; s.depth >= maxDepth {
		s.state = scanBad
		return
	}
	s.arrays[s.depth/64] &^= 1 << (s.depth % 64)
	s.state = scanKey
	if array {
		s.arrays[s.depth/64] |= 1 << (s.depth % 64)
		s.state = scanValue
	}
	if s.depth <= trackedDepth {
		s.ends[s.depth] = uint16(s.end)
	} else if s.lost == 0 {
		s.lost = s.depth
	}
}

func (s *scan) pop() {
	if s.depth <= trackedDepth {
		s.end = int(s.ends[s.depth])
	}
	if s.lost >= s.depth {
		s.lost = 0
	}
	s.depth--
	s.state = scanNext
}

// enter makes the key part of the path.
func (s *scan) enter() {
	if s.depth > trackedDepth {
		return
	}
	s.end = int(s.ends[s.depth])
	if s.lost >= s.depth {
		s.lost = 0
	}
	if s.lost > 0 {
		return
	}
	if s.odd || s.n > len(s.name) || s.end+1+s.n > len(s.path) {
		s.lost = s.depth
		return
	}
	if s.end > 0 {
		s.path[s.end] = '.'
		s.end++
	}
	s.end += copy(s.path[s.end:], s.name[:s.n])
}

// begin is where a string or a word begins.
func (s *scan) begin(state scanState) {
	s.state, s.n, s.odd, s.field = state, 0, false, 0
	if s.lost == 0 && s.end > 0 {
		s.field = s.want[string(s.path[:s.end])]
	}
}

// value tells of a string or a word that is whole.
func (s *scan) value(length int) {
	if s.field == 0 {
		return
	}
	text := s.text[:min(length, len(s.text))]
	if !s.field.kept() || length > len(s.text) || s.odd {
		text = nil
	}
	if s.state == scanWord && s.field.words() {
		return // null, where a text is expected
	}
	s.found(s.field, text, length)
	clear(s.text[:])
	s.field = 0
}
