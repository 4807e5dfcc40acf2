package remote

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// InUseError says that a server which rlca started, and which would have to be stopped, or started anew to serve a plan,
// may be in use by somebody else. It was left as it is; Plan.MayReplace allows it.
type InUseError struct {
	Engine  string `json:"engine"`
	Address string `json:"address"`
	// Serves says what it serves, Want is the model that was wanted. Both are empty where it was to be stopped.
	Serves string `json:"serves"`
	Want   string `json:"want"`
	// Connections are those that are open to it now. Other is true if another laptop started it, or has found it since.
	Connections int  `json:"connections"`
	Other       bool `json:"other"`
}

func (e *InUseError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("stop %s on %s of the box: %s", e.Engine, e.Address, e.Users())
	}
	return fmt.Sprintf("the %s on %s of the box serves %s, and %s: to serve %s it would have to be started anew", e.Engine, e.Address, e.Serves, e.Users(), e.Want)
}

// Users says who may be using it: "2 connections to it are open, another laptop has connected to it".
func (e *InUseError) Users() string {
	var parts []string
	switch e.Connections {
	case 0:
	case 1:
		parts = append(parts, "1 connection to it is open")
	default:
		parts = append(parts, fmt.Sprintf("%d connections to it are open", e.Connections))
	}
	if e.Other {
		parts = append(parts, "another laptop has connected to it")
	}
	return strings.Join(parts, ", ")
}

// The mark of what is launched for a laptop that has a name of its own ends with this and the name, so that every record on
// the box says whose it is, also to an older rlca, which reads the mark as one word.
const byLaptop = "by"

// markFor is a new mark for what a laptop launches.
func markFor(laptop string) string {
	if laptop == "" || strings.Trim(laptop, "0123456789abcdef") != "" {
		return nonce()
	}
	return nonce() + byLaptop + laptop
}

// laptopOf is the laptop in a mark, empty if it does not say. What stands before it is hexadecimal but for rlca.
func laptopOf(mark string) string {
	_, laptop, _ := strings.Cut(mark, byLaptop)
	return laptop
}

// locking takes the one lock of the account for what writes the list, if it can be had: two laptops write it at once.
const locking = `locked=; lock >/dev/null 2>&1 && { trap unlock EXIT; trap 'unlock; exit 1' HUP INT TERM; locked=1; }
`

// foundScript adds a laptop to those that have found the server of a record that another one made. The list goes with the record.
const foundScript = `
name=%s laptop=%s
record "$name" || return
case $M in *` + byLaptop + `"$laptop") return ;; esac
` + locking + `grep -qxF "$laptop" "$D/$name.users" 2>/dev/null || (umask 077; echo "$laptop" >> "$D/$name.users") 2>/dev/null
[ -z "$locked" ] || unlock
`

// noteUse notes on the box that a laptop uses a server which another one started: when it is idle nothing else shows that.
func (s *service) noteUse(ctx context.Context, found *Server, plan Plan) {
	if s.windows() || found.Adopted || found.Fresh || plan.Laptop == "" {
		return
	}
	if _, err := s.script(ctx, fmt.Sprintf(foundScript, quote(s.job), quote(plan.Laptop))); err != nil {
		s.log.Info("not noted on the box", "what", "that this laptop uses "+s.title, "err", err)
	}
}

// forgetScript takes a laptop from the list again.
const forgetScript = `
name=%s laptop=%s
[ -f "$D/$name.users" ] || return
` + locking + `(umask 077; grep -vxF "$laptop" "$D/$name.users" > "$D/$name.users.new"; mv -f "$D/$name.users.new" "$D/$name.users") 2>/dev/null
[ -s "$D/$name.users" ] || rm -f "$D/$name.users"
[ -z "$locked" ] || unlock
`

// Forget notes on the box that a laptop uses the server no longer.
func (s *service) Forget(ctx context.Context, laptop string) error {
	if laptop == "" || s.windows() {
		return nil
	}
	_, err := s.script(ctx, fmt.Sprintf(forgetScript, quote(s.job), quote(laptop)))
	return err
}

// InUse asks whether another laptop may be using the server that rlca started: it started it, or has found it since and not
// said that it is done. Then the error is an *InUseError. Open connections do not count, as the asking laptop's own are among them.
func (s *service) InUse(ctx context.Context, laptop string) error {
	f, err := s.self.look(ctx)
	if err != nil {
		return err
	}
	if laptop == "" || f.ours.mark == "" || !f.alive {
		return nil
	}
	other := laptopOf(f.ours.mark)
	e := &InUseError{Engine: s.title, Address: f.ours.address, Other: other != "" && other != laptop}
	if !e.Other && !s.windows() {
		a, err := s.script(ctx, fmt.Sprintf(usersScript, quote(s.job), quote(laptop), portOf(f.ours.address)))
		if err != nil {
			return fmt.Errorf("ask who uses %s on %s: %w", s.title, f.ours.address, err)
		}
		e.Other = a.int("laptops") > 0
	}
	if !e.Other {
		return nil
	}
	return e
}

// usersScript counts the other laptops of a record, and the connections to a port of the box, by the server's end of them.
const usersScript = `
[ -r "$D/"%[1]s.users ] && say laptops "$(grep -vxF %[2]s "$D/"%[1]s.users | grep -c .)"
if [ -r /proc/net/tcp ]; then say users "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -cE '^ *[0-9]+: [0-9A-F]+:%04[3]X [0-9A-F]+:[0-9A-F]+ 01 ')"
elif command -v netstat >/dev/null 2>&1; then say users "$(netstat -an 2>/dev/null | grep ESTABLISHED | while read -r p r s l f x; do case $l in *[.:]%[3]d) echo "$l";; esac; done | grep -c .)"
fi
`

// mayReplace asks whether a server of ours may be ended for a plan, and returns an *InUseError if somebody else may need
// it: connections to it are open, which every request has, or another laptop has connected to it. Our own requests close theirs, so
// one counts only if it is still there a moment later.
func (s *service) mayReplace(ctx context.Context, mark, addr, serves string, plan Plan) error {
	if plan.MayReplace {
		return nil
	}
	e := &InUseError{Engine: s.title, Address: addr, Serves: serves, Want: plan.Model}
	other := laptopOf(mark)
	e.Other = other != "" && plan.Laptop != "" && other != plan.Laptop
	for try := range 5 {
		a, err := s.script(ctx, fmt.Sprintf(usersScript, quote(s.job), quote(plan.Laptop), portOf(addr)))
		if err != nil {
			return fmt.Errorf("ask who uses %s on %s: %w", s.title, addr, err)
		}
		e.Other = e.Other || plan.Laptop != "" && a.int("laptops") > 0
		if e.Connections = a.int("users"); e.Connections == 0 || try == 4 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(150 * time.Millisecond):
		}
	}
	if e.Connections == 0 && !e.Other {
		return nil
	}
	return e
}
