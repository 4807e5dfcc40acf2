package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func systemSenses() Senses {
	s := Senses{Events: systemEvents}
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) == nil {
		// clock_gettime(2): BOOTTIME is MONOTONIC and the time in suspend.
		s.Asleep = newSleepClock(clock(unix.CLOCK_BOOTTIME), clock(unix.CLOCK_MONOTONIC)).asleep
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

func systemEvents(ctx context.Context, hint func()) {
	news := newBell()
	var wg sync.WaitGroup
	wg.Go(func() { watch(ctx, openRoutes, news) })
	wg.Go(func() { watch(ctx, openClock, news) })
	news.heed(ctx, hint)
	wg.Wait()
}

// openRoutes opens the kernel's news of links, addresses and routes (rtnetlink(7)), of the network namespace of the
// calling thread.
func openRoutes() (source, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return source{}, err
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return source{}, err
	}
	return newSource(fd, "netlink", func(b []byte, err error) (bool, error) {
		if errors.Is(err, unix.ENOBUFS) {
			return true, nil // messages were lost; the socket goes on
		}
		return routeNews(b), err
	})
}

// routeNews reports whether netlink messages (netlink(7)) tell of a changed address, route or link. Bytes that are no
// whole message are no news.
func routeNews(b []byte) bool {
	const header = unix.SizeofNlMsghdr
	for len(b) >= header {
		size := uint64(binary.NativeEndian.Uint32(b))
		body := b[header:min(max(size, header), uint64(len(b)))]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWROUTE, unix.RTM_DELROUTE, unix.RTM_DELLINK:
			return true
		case unix.RTM_NEWLINK:
			if !wireless(body) {
				return true
			}
		}
		next := (size + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if size < header || next >= uint64(len(b)) {
			return false
		}
		b = b[next:]
	}
	return false
}

// wireless reports whether the body of a RTM_NEWLINK tells of an event of the radio alone, as of a scan, which comes
// every few seconds or minutes and changes nothing. What matters comes in a message of its own.
func wireless(body []byte) bool {
	const header = unix.SizeofRtAttr
	if len(body) < unix.SizeofIfInfomsg {
		return false
	}
	for b := body[unix.SizeofIfInfomsg:]; len(b) >= header; {
		if binary.NativeEndian.Uint16(b[2:]) == unix.IFLA_WIRELESS {
			return true
		}
		size := int(binary.NativeEndian.Uint16(b))
		next := (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
		if size < header || next >= len(b) {
			return false
		}
		b = b[next:]
	}
	return false
}

// openClock opens a timer that is never due, but ends with ECANCELED when the clock on the wall jumps
// (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET). It does so when someone sets it, and at each wake from suspend.
func openClock() (source, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return source{}, err
	}
	if err := armClock(fd); err != nil {
		unix.Close(fd)
		return source{}, err
	}
	// A timer that was cancelled goes on as before. One that was due after all, or that a jump of the clock brought
	// near, must be set again, so it always is.
	return newSource(fd, "timerfd", func(_ []byte, err error) (bool, error) {
		if err != nil && !errors.Is(err, unix.ECANCELED) {
			return false, err
		}
		return true, armClock(fd)
	})
}

// armClock sets the timer to a year from now: beyond any clock's jump of interest, and within what a 32-bit system
// can count.
func armClock(fd int) error {
	due := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Now().AddDate(1, 0, 0).UnixNano())}
	err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &due, nil)
	if err == unix.ECANCELED {
		return nil // the clock jumped right now; the timer is set all the same
	}
	return err
}
