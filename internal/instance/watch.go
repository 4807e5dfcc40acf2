package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/tunnel"
)

const (
	// watchPause is the time before the box's memory is watched again after that has ended.
	watchPause = 10 * time.Second
	// A box that has less than this part of its memory left, or whose swap has grown by so much, is in trouble soon.
	scarcePart = 20 // 1/20
	swapGrown  = 64 << 20
)

// watch follows the box's memory, by one command that prints a line every 10 s, for as long as the link is up.
func (i *Instance) watch(ctx context.Context) {
	i.mu.Lock()
	link := i.link
	i.mu.Unlock()
	for {
		changed := link.Changed()
		if st := link.Status(); st.State == tunnel.Up {
			err := i.follow(ctx, link, st.Reconnects)
			var none *tunnel.NoShellError
			if errors.As(err, &none) {
				return
			}
			i.sampled(nil)
			changed = nil // at its pace, whatever happens
		}
		var pause <-chan time.Time
		if changed == nil {
			pause = time.After(watchPause)
		}
		select {
		case <-changed:
		case <-pause:
		case <-ctx.Done():
			return
		}
	}
}

// follow watches over the connection that is up, until it is lost or replaced: a connection that only keeps its
// streams must not be kept for this one.
func (i *Instance) follow(ctx context.Context, link *tunnel.Link, reconnects int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := link.Get(ctx)
	if err != nil {
		return err
	}
	go func() {
		for {
			changed := link.Changed()
			if link.Status().Reconnects != reconnects {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return conn.(*tunnel.Client).Follow(ctx, probe.WatchScript, func(line string) {
		if s, ok := probe.ParseWatch(line); ok {
			i.sampled(&s)
		}
	})
}

// sampled notes how much memory the box has left; nil says that nobody knows any more.
func (i *Instance) sampled(s *probe.Sample) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sample = s
	if s == nil {
		i.scarce = ""
		return
	}
	if i.swapFirst == nil {
		i.swapFirst = s.SwapUsedBytes
	}
	was := i.scarce
	i.scarce = scarce(s, i.swapFirst)
	if i.scarce != "" && was == "" {
		i.log.Warn("memory of the box", "trouble", i.scarce)
	} else if i.scarce == "" && was != "" {
		i.log.Info("memory of the box: enough again")
	}
}

// scarce says in words that the memory comes to its end; empty if it does not. first is the swap in use at first.
func scarce(s *probe.Sample, first *int64) string {
	if s.SwapUsedBytes != nil && first != nil && *s.SwapUsedBytes-*first > swapGrown {
		return fmt.Sprintf("the box swaps: %s more than when it was connected", fit.Bytes(*s.SwapUsedBytes-*first))
	}
	if s.AvailableBytes == nil || s.TotalBytes == nil || *s.AvailableBytes >= *s.TotalBytes/scarcePart {
		return ""
	}
	left := fmt.Sprintf("only %s of memory are left on the box", fit.Bytes(*s.AvailableBytes))
	if s.SwapTotalBytes != nil && *s.SwapTotalBytes > 0 {
		return left + ", it will swap soon"
	}
	return left + ", and it has no swap"
}
