package tunnel

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file was built and vetted for macOS, but not run there.

func systemSenses() Senses {
	s := Senses{Events: systemEvents}
	var raw, up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &raw) == nil && unix.ClockGettime(unix.CLOCK_UPTIME_RAW, &up) == nil {
		// clock_gettime(3): UPTIME_RAW is MONOTONIC_RAW, but does not go on while the system is asleep.
		s.Asleep = newSleepClock(clock(unix.CLOCK_MONOTONIC_RAW), clock(unix.CLOCK_UPTIME_RAW)).asleep
	}
	return s
}

func clock(id int32) func() time.Duration {
	return func() time.Duration {
		var ts unix.Timespec
		unix.ClockGettime(id, &ts) // fails for an unknown clock only
		return time.Duration(ts.Nano())
	}
}

// systemEvents has no news of a wake itself, but the interfaces come up after one.
func systemEvents(ctx context.Context, hint func()) {
	news := newBell()
	var wg sync.WaitGroup
	wg.Go(func() { watch(ctx, openRoutes, news) })
	news.heed(ctx, hint)
	wg.Wait()
}

// openRoutes opens the kernel's news of links, addresses and routes (route(4)).
func openRoutes() (source, error) {
	syscall.ForkLock.RLock() // no child may start before the flag is set
	fd, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return source{}, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return source{}, err
	}
	return newSource(fd, "route", func(b []byte, err error) (bool, error) {
		if errors.Is(err, unix.ENOBUFS) {
			return true, nil // messages were lost; the socket goes on
		}
		return routeSocketNews(b), err
	})
}
