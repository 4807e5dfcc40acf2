package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ticking answers with a token every gap, each with the time at which it was sent.
func ticking(gap time.Duration, tokens int) func(c *net.TCPConn, r *bufio.Reader) {
	return func(c *net.TCPConn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
			next := time.Now().Add(rand.N(gap)) // streams do not tick together
			for range tokens {
				next = next.Add(gap)
				time.Sleep(time.Until(next))
				event := fmt.Sprintf("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"qwen3:30b\",\"at\":%d,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n", time.Now().UnixNano())
				fmt.Fprintf(c, "%x\r\n%s\r\n", len(event), event)
			}
			io.WriteString(c, "0\r\n\r\n")
		}
	}
}

// delays asks once, and returns how long each token was under way.
func delays(t testing.TB, addr string) (all []time.Duration) {
	c := call(t, addr)
	c.SetDeadline(time.Now().Add(time.Minute))
	defer c.Close()
	send(t, c, post("/v1/chat/completions", `{"model":"qwen3:30b","stream":true}`))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Error(err)
		return nil
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), `"at":`); ok {
			var at int64
			fmt.Sscan(rest[:strings.IndexByte(rest, ',')], &at)
			all = append(all, time.Since(time.Unix(0, at)))
		}
	}
	return all
}

func at(all []time.Duration, percent int) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return float64(all[(len(all)-1)*percent/100].Nanoseconds()) / 1000
}

// plain copies both ways, as a raw forward does.
func plain(t testing.TB, e *engine) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				far, err := e.Dial(context.Background(), nil)
				if err != nil {
					return
				}
				defer far.Close()
				go func() {
					io.Copy(struct{ io.Writer }{far}, c)
					closeWrite(far)
				}()
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{far})
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// BenchmarkTokenDelay is what the gateway adds to a token, beside a plain forward and no forward, of one stream.
func BenchmarkTokenDelay(b *testing.B) {
	e := newEngine(b, ticking(2*time.Millisecond, 300))
	for _, way := range []struct{ name, addr string }{{"direct", e.ln.Addr().String()}, {"plain", plain(b, e)}, {"gateway", served(b, &Gateway{Dial: e.Dial, Observe: new(Meter).Observe})}} {
		b.Run(way.name, func(b *testing.B) {
			var all []time.Duration
			for b.Loop() {
				all = append(all, delays(b, way.addr)...)
			}
			b.ReportMetric(at(all, 50), "p50-µs")
			b.ReportMetric(at(all, 99), "p99-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// Benchmark64Streams has 64 streams of 50 tokens a second at once, beside one.
func Benchmark64Streams(b *testing.B) {
	e := newEngine(b, ticking(20*time.Millisecond, 100))
	plainly, gateway := plain(b, e), served(b, &Gateway{Dial: e.Dial, Observe: new(Meter).Observe})
	for _, way := range []struct {
		name, addr string
		streams    int
	}{{"plain/1", plainly, 1}, {"plain/64", plainly, 64}, {"gateway/1", gateway, 1}, {"gateway/64", gateway, 64}} {
		b.Run(way.name, func(b *testing.B) {
			var mu sync.Mutex
			var all []time.Duration
			for b.Loop() {
				var wg sync.WaitGroup
				for range way.streams {
					wg.Go(func() {
						d := delays(b, way.addr)
						mu.Lock()
						all = append(all, d...)
						mu.Unlock()
					})
				}
				wg.Wait()
			}
			b.ReportMetric(at(all, 50), "p50-µs")
			b.ReportMetric(at(all, 99), "p99-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// heldMemory is what n held callers cost that have sent so much, in bytes; the callers are not counted.
func heldMemory(t testing.TB, n, size int) int64 {
	g := &Gateway{Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }}
	addr := served(t, g)
	request := []byte(post("/v1/chat/completions", strings.Repeat("x", size)))
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = call(t, addr)
	}
	memory := func() int64 {
		runtime.GC()
		runtime.GC() // pools give back what they have after two
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	waitFor(t, "all are here", func() bool { return g.Stats().Open == n })
	before := memory()
	for _, c := range conns {
		c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // the rest has to wait
		c.Write(request)
	}
	waitFor(t, "all are held", func() bool { return g.Stats().Held == n })
	time.Sleep(50 * time.Millisecond)
	return memory() - before
}

func BenchmarkHeldMemory(b *testing.B) {
	for _, size := range []int{60 << 10, 900 << 10} {
		b.Run(fmt.Sprintf("256x%dKiB", size>>10), func(b *testing.B) {
			var most int64
			for b.Loop() {
				most = max(most, heldMemory(b, 256, size))
			}
			b.ReportMetric(float64(most)/(1<<20), "MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestHeldMemory: 256 held callers cost at most 32 MiB, however much they have to say.
func TestHeldMemory(t *testing.T) { // not beside others: it looks at the process
	if got := heldMemory(t, 256, 200<<10); got > 32<<20 {
		t.Errorf("256 held callers cost %d MiB, want at most 32", got>>20)
	}
}

// BenchmarkUsage is what reading a token of a stream costs beside the copy.
func BenchmarkUsage(b *testing.B) {
	event := []byte("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"qwen3:30b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n")
	u := newUsage(new(Exchange))
	u.shape = shapeEvents
	now := time.Now()
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		u.take(event, now)
	}
}

// BenchmarkRequestUsage is what reading a request costs beside the copy.
func BenchmarkRequestUsage(b *testing.B) {
	body := []byte(`{"messages":[{"role":"user","content":"` + strings.Repeat(`func main() {\n\tfmt.Println(\"x\")\n}\n`, 1500) + `"}],"model":"m"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		u := newUsage(new(Exchange))
		u.request.feed(body)
		u.free()
	}
}
