package remote

import (
	"context"
	"errors"
	"net"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// These loops run by a clock of their own.

var nonceOf = regexp.MustCompile(`(?m)^N=(rlca[0-9a-f]+)$`)

// saying is a box whose scripts all answer with the lines of reply, and where nothing can be dialed.
func saying(reply func(script string) (string, error)) Box {
	return Box{
		Run: func(ctx context.Context, script string) ([]byte, error) {
			text, err := reply(script)
			if err != nil {
				return nil, err
			}
			n := nonceOf.FindStringSubmatch(script)[1]
			return []byte(strings.ReplaceAll("N begin=1\n"+text+"\nN end=1\n", "N ", n+" ")), nil
		},
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") },
	}
}

func TestStartThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		o := NewOllama(saying(func(s string) (string, error) {
			if strings.Contains(s, "say alive 1; return") {
				asked++
			}
			return "N alive=1", nil
		}), "")
		start := time.Now()
		_, err := o.await(t.Context(), "127.0.0.1:11434", &launched{record: record{mark: "rlcax"}, ours: true})
		if err == nil || !strings.Contains(err.Error(), "no answer within 1m30s") || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("await = %v", err)
		}
		if d := time.Since(start); d != o.limit || asked < 80 || asked > 91 {
			t.Errorf("gave up after %v and %d questions", d, asked)
		}
	})
}

func TestStartThatDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOllama(saying(func(string) (string, error) { return "N log=boom", nil }), "")
		start := time.Now()
		_, err := o.await(t.Context(), "127.0.0.1:11434", &launched{})
		if !errors.Is(err, errDied) || time.Since(start) > 3*time.Second {
			t.Errorf("await = %v after %v", err, time.Since(start))
		}
	})
}

func TestFollowThroughLostLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		o := NewOllama(saying(func(string) (string, error) {
			calls++
			switch {
			case calls%8 != 0: // seven in a row
				return "", errors.New("connection lost")
			case calls == 16:
				return "N alive=1\nN raw:new=21\n" + `{"status":"success"}` + "\n", nil
			}
			return "N alive=1", nil
		}), "")
		p, err := o.follow(t.Context(), "pull-x", "m", func(Progress) {})
		if err != nil || !p.success || calls != 16 {
			t.Errorf("follow = %+v, %v after %d scripts", p, err, calls)
		}
		o = NewOllama(saying(func(string) (string, error) { return "", errors.New("connection lost") }), "")
		if _, err := o.follow(t.Context(), "pull-x", "m", func(Progress) {}); err == nil {
			t.Error("follow without a link never gives up")
		}
	})
}

// A launch whose script was cut is asked for again under the same mark, so that one that did begin is found as ours.
func TestPullLaunchIsLostOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var marks []string
		o := NewOllama(saying(func(s string) (string, error) {
			if m := regexp.MustCompile(`RLCA_OWNER=(rlca[0-9a-f]+)`).FindStringSubmatch(s); m != nil {
				if marks = append(marks, m[1]); len(marks) == 1 {
					return "", errors.New("connection lost")
				}
				return "N pid=7\nN mark=" + m[1], nil
			}
			if strings.Contains(s, "from=0") {
				return "N alive=1\nN raw:new=21\n" + `{"status":"success"}` + "\n", nil
			}
			return "", nil
		}), "")
		var j journal
		if err := o.pullOnBox(t.Context(), &j, "127.0.0.1:11434", "m", func(Progress) {}); err != nil || len(j.pulls) != 0 {
			t.Errorf("pull = %v, the journal has %v", err, j.pulls)
		}
		if len(marks) != 2 || marks[0] != marks[1] {
			t.Errorf("launched under %q", marks)
		}
	})
}

// What is held from here is given up when nothing ever came, and stops at once with ctx.
func TestHeldPullGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		box := saying(nil)
		dial := box.Dial
		box.Dial = func(ctx context.Context, n, a string) (net.Conn, error) { dials++; return dial(ctx, n, a) }
		o := NewOllama(box, "")
		var pull *PullError
		err := o.pullFromHere(t.Context(), "127.0.0.1:1", "m", func(Progress) {})
		if !errors.As(err, &pull) || pull.Class != "network" || dials != barrenAtFirst {
			t.Errorf("pull = %v after %d dials", err, dials)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		var stopped *PullStoppedError
		if err := o.pullFromHere(ctx, "127.0.0.1:1", "m", func(Progress) {}); !errors.As(err, &stopped) {
			t.Errorf("pull = %v", err)
		}
	})
}

func TestRate(t *testing.T) {
	r := &rate{}
	t0 := time.Now()
	var got float64
	for s := range 60 {
		got = r.add(t0.Add(time.Duration(s)*time.Second), int64(s)*1000)
	}
	if got != 1000 || len(r.at) > 13 {
		t.Errorf("rate = %v from %d samples, want 1000", got, len(r.at))
	}
	// After a standstill of a minute, ten seconds are enough to see it.
	for s := 60; s < 72; s++ {
		got = r.add(t0.Add(time.Duration(s)*time.Second), 60000)
	}
	if got > 100 {
		t.Errorf("rate after a standstill = %v", got)
	}
}
