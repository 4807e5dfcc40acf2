package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A thousand cuts at random moments, with 50 callers who never stop: each gets its answer, or is reset when its hold is
// over or the connection is cut under its answer; none is refused, none hangs, none reads an end that is none. Nothing
// is left over.
func TestThousandCuts(t *testing.T) {
	cuts, callers, most := 1000, 50, 3*time.Minute
	if testing.Short() {
		cuts = 50
	}
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go func() { // an answer in two halves: a cut in between must not look like the end
				defer c.Close()
				said, err := bufio.NewReader(c).ReadString('\n')
				if err != nil {
					return
				}
				io.WriteString(c, said[:len(said)/2])
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
				io.WriteString(c, said[len(said)/2:])
			}()
		}
	}()
	s := (&server{}).start(t)
	target, dialer := s.target(t), &Dialer{}
	before := usage(t)
	link := NewLink(func(ctx context.Context) (*Client, error) { return dialer.Dial(ctx, target) }, LinkOptions{Final: Final})
	link.wanted = 5 * time.Millisecond
	f := &Forward{Hold: 20 * time.Second, Dial: func(ctx context.Context, from net.Addr) (net.Conn, error) {
		return link.Open(ctx, Opening{Network: "tcp", Addr: far.Addr().String(), From: from})
	}}
	ls, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ls[0].Addr().String()
	ctx, end := context.WithCancel(t.Context())
	var running, calling sync.WaitGroup
	running.Go(func() { link.Run(ctx) })
	running.Go(func() { f.Serve(ctx, ls...) })

	var answered, reset atomic.Int64
	stop := make(chan struct{})
	for i := range callers {
		calling.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				switch err := oneCall(addr, fmt.Sprintf("caller %d call %d\n", i, n)); {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, syscall.ECONNRESET):
					reset.Add(1)
				default:
					t.Errorf("caller %d: %v", i, err)
					return
				}
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			}
		})
	}
	start := time.Now()
	for n := range cuts {
		if n%2 == 0 { // half of them in the middle of whatever it does, half when it is well
			for link.Status().State != Up && time.Since(start) < most {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		s.cut()
	}
	close(stop)
	calling.Wait()
	st, stats := link.Status(), f.Stats()
	end()
	running.Wait()
	t.Logf("%d cuts in %.0f s: %d reconnects, %d calls answered, %d reset; %+v", cuts, time.Since(start).Seconds(), st.Reconnects, answered.Load(), reset.Load(), stats)
	if answered.Load() < int64(cuts)/4 || st.Reconnects < cuts/10 { // a busy machine is slow
		t.Errorf("%d calls answered with %d reconnects: that was no test", answered.Load(), st.Reconnects)
	}
	if stats.Left != 0 || stats.Open != 0 {
		t.Errorf("stats %+v, want nobody left over and none that gave up", stats)
	}
	s.cut()
	after := usage(t)
	for wait := 0; wait < 100 && (after.files > before.files || after.goroutines > before.goroutines); wait++ {
		time.Sleep(50 * time.Millisecond)
		after = usage(t)
	}
	if after.files > before.files || after.goroutines > before.goroutines {
		t.Errorf("left over: before %+v, after %+v", before, after)
	}
	if grown := after.heap - before.heap; grown > 8<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
}

// oneCall wants its own words back, whole.
func oneCall(addr, words string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, words); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != words {
		return fmt.Errorf("said %q and got %q, with a clean end", words, got)
	}
	return err
}

type used struct {
	files, goroutines int
	heap              int64
}

func usage(t *testing.T) used {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, _ := os.ReadDir("/proc/self/fd") // nothing on other systems
	return used{len(fds), runtime.NumGoroutine(), int64(m.HeapAlloc)}
}
