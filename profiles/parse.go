package profiles

import (
	"bytes"
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxSize is how long a profile may be, in bytes. A real one has a few hundred.
const maxSize = 1 << 20

// Parse reads the text of a profile over the defaults. The error is of type Problems and holds everything that is
// wrong, by line. File names the text in messages, as "spark.toml".
func Parse(file string, text []byte) (*Profile, error) {
	c := &checker{
		file:     file,
		known:    keys(),
		sections: map[string]place{},
		set:      map[string]int{},
		strange:  map[string]bool{},
		texts:    map[string]string{},
		ports:    map[int]place{},
	}
	if len(text) > maxSize {
		c.fail(0, "is longer than 1 MiB, which no profile is")
		return nil, c.problems
	}
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		c.fail(1, "is in UTF-16: save it as UTF-8")
		return nil, c.problems
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))

	list, whole := read(text, c.fail)
	for _, s := range list {
		c.statement(s)
	}
	if whole && c.set["host"] == 0 {
		c.fail(1, "host is missing: write host = \"spark-box\", the ssh_config alias, name or address of the box")
	}
	c.checkPorts()
	c.checkGuard()
	if len(c.problems) > 0 {
		return nil, c.problems.sorted()
	}

	p := Default()
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&p); err != nil {
		// Whatever the rules of TOML forbid beyond what the checker knows.
		line := 1
		var where *toml.DecodeError
		if errors.As(err, &where) {
			line, _ = where.Position()
		}
		c.fail(line, "invalid TOML: "+strings.TrimPrefix(err.Error(), "toml: "))
		return nil, c.problems
	}
	for _, k := range c.known { // an empty list is no list
		switch f := k.at(&p).(type) {
		case *[]string:
			if len(*f) == 0 {
				*f = nil
			}
		case *[]Also:
			if len(*f) == 0 {
				*f = nil
			}
		}
	}
	return &p, nil
}
