package remote

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// EndedError says that an engine that rlca started has ended by itself, or was killed.
type EndedError struct {
	Engine  string `json:"engine"`
	Address string `json:"address"`
	// Reason is why, empty if nobody knows; Log are the last lines that it wrote.
	Reason string   `json:"reason"`
	Log    []string `json:"log"`
	// Watchdog says that the memory watchdog ended it: started again, it would be again.
	Watchdog bool `json:"watchdog"`
}

func (e *EndedError) Error() string {
	s := fmt.Sprintf("%s on %s of the box, which rlca had started, has ended", e.Engine, e.Address)
	switch {
	case e.Reason != "":
		return s + ": " + e.Reason
	case len(e.Log) > 0:
		return s + ": " + strings.Join(tail(e.Log, 3), " · ")
	}
	return s
}

// Down says why the engine that rlca started on the box is gone: an *EndedError. Nil is that it is there, that rlca
// started none, or that the box could not be asked.
func (s *service) Down(ctx context.Context) error {
	r, err := s.runs(ctx, s.job, s.logFile(), "")
	if err != nil || r.up || r.address == "" {
		return nil
	}
	e := &EndedError{Engine: s.title, Address: r.address, Log: tail(r.said, 12)}
	e.Reason, e.Watchdog = watchdogSaid(r.said)
	return e
}

// run is how a process is doing that was launched under a name, by whichever laptop.
type run struct {
	// address is that of its record, empty if there is none.
	address string
	up      bool
	// seen says that its log has the wanted words; said is the end of the log of one that is gone.
	seen bool
	said []string
}

// runs asks how the process of a name is doing. words are looked for in its log; empty is none.
func (h *host) runs(ctx context.Context, name, log, words string) (run, error) {
	a, err := h.script(ctx, fmt.Sprintf(runsScript, quote(name), quote(log), quote(words)))
	if err != nil {
		return run{}, err
	}
	r := run{address: a.get("address"), up: a.get("up") != "", seen: a.get("seen") != "", said: a.lines["log"]}
	if w := a.get("watchdog"); w != "" && !slices.Contains(r.said, w) {
		r.said = append(r.said, w)
	}
	return r, nil
}

const runsScript = `
name=%[1]s log=$D/%[2]s words=%[3]s
[ -z "$words" ] || { grep -qF -- "$words" "$log" 2>/dev/null && say seen 1; }
if record "$name"; then say address "$A"; mine && { say up 1; return; }; fi
tail -n 40 "$log" 2>/dev/null | cut -c 1-300 | while IFS= read -r l; do say log "$l"; done
[ -z "$P" ] || {` + lastWordScript + `}
`
