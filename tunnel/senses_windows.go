package tunnel

import (
	"context"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// This file was built and vetted for Windows, but not run there.

var (
	procUnbiasedTime = windows.NewLazySystemDLL("kernel32.dll").NewProc("QueryUnbiasedInterruptTime")

	powrprof            = windows.NewLazySystemDLL("powrprof.dll")
	procPowerRegister   = powrprof.NewProc("PowerRegisterSuspendResumeNotification")
	procPowerUnregister = powrprof.NewProc("PowerUnregisterSuspendResumeNotification")
)

func systemSenses() Senses {
	s := Senses{Events: systemEvents}
	if procUnbiasedTime.Find() == nil {
		// GetTickCount64 counts sleep, and moves in steps of 10 to 16 ms; so this may be wrong by one of these.
		s.Asleep = newSleepClock(windows.DurationSinceBoot, unbiasedTime).asleep
	}
	return s
}

// unbiasedTime is how long the machine has been awake since it was started.
func unbiasedTime() time.Duration {
	var ticks uint64                                       // of 100 ns
	procUnbiasedTime.Call(uintptr(unsafe.Pointer(&ticks))) // fails for a nil pointer only
	return time.Duration(ticks) * 100
}

func systemEvents(ctx context.Context, hint func()) {
	news := newBell()
	bells.Lock()
	bells.all[news] = true
	bells.Unlock()
	defer func() {
		bells.Lock()
		delete(bells.all, news)
		bells.Unlock()
	}()
	var wg sync.WaitGroup
	for _, s := range []func() (func(), error){subscribeAddresses, subscribeRoutes, subscribePower} {
		wg.Go(func() { keepSubscribed(ctx, s) })
	}
	news.heed(ctx, hint)
	wg.Wait()
}

// keepSubscribed has a subscription until ctx ends. One that the system refuses is asked for again.
func keepSubscribed(ctx context.Context, subscribe func() (cancel func(), err error)) {
	for pause := minSourcePause; ; pause = min(2*pause, maxSourcePause) {
		if cancel, err := subscribe(); err == nil {
			<-ctx.Done()
			cancel()
			return
		}
		if !rest(ctx, pause) {
			return
		}
	}
}

// bells are the bells of all calls of systemEvents. What the system calls can never be freed, so there is one function
// of each kind for the whole process, and it rings them all.
var bells = struct {
	sync.Mutex
	all map[bell]bool
}{all: map[bell]bool{}}

func ringAll() {
	bells.Lock()
	defer bells.Unlock()
	for b := range bells.all {
		b.ring()
	}
}

// networkChanged is a PUNICAST_IPADDRESS_CHANGE_CALLBACK and a PIPFORWARD_CHANGE_CALLBACK (netioapi.h): these differ
// in the type of the row alone, which it does not read.
var networkChanged = sync.OnceValue(func() uintptr {
	return windows.NewCallback(func(context, row, kind uintptr) uintptr {
		ringAll()
		return 0
	})
})

func subscribeAddresses() (cancel func(), err error) {
	var h windows.Handle
	if err := windows.NotifyUnicastIpAddressChange(windows.AF_UNSPEC, networkChanged(), nil, false, &h); err != nil {
		return nil, err
	}
	return func() { windows.CancelMibChangeNotify2(h) }, nil
}

func subscribeRoutes() (cancel func(), err error) {
	var h windows.Handle
	if err := windows.NotifyRouteChange2(windows.AF_UNSPEC, networkChanged(), nil, false, &h); err != nil {
		return nil, err
	}
	return func() { windows.CancelMibChangeNotify2(h) }, nil
}

// powerChanged is what the system calls when it has woken: a DEVICE_NOTIFY_CALLBACK_ROUTINE with its parameters
// (powrprof.h: DEVICE_NOTIFY_SUBSCRIBE_PARAMETERS).
var powerChanged = sync.OnceValue(func() *powerSubscriber {
	return &powerSubscriber{callback: windows.NewCallback(func(context, kind, setting uintptr) uintptr {
		const resumeSuspend, resumeAutomatic = 0x7, 0x12 // winuser.h: PBT_APMRESUMESUSPEND, PBT_APMRESUMEAUTOMATIC
		if kind := uint32(kind); kind == resumeSuspend || kind == resumeAutomatic {
			ringAll()
		}
		return 0
	})}
})

type powerSubscriber struct{ callback, context uintptr }

// subscribePower has no error where the system is too old (before Windows 8) to tell: it never will.
func subscribePower() (cancel func(), err error) {
	if procPowerRegister.Find() != nil || procPowerUnregister.Find() != nil {
		return func() {}, nil
	}
	const toCallback = 2 // winuser.h: DEVICE_NOTIFY_CALLBACK
	var h uintptr
	code, _, _ := procPowerRegister.Call(toCallback, uintptr(unsafe.Pointer(powerChanged())), uintptr(unsafe.Pointer(&h)))
	if code != 0 {
		return nil, windows.Errno(code)
	}
	return func() { procPowerUnregister.Call(h) }, nil
}
