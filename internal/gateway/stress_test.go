package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNetHTTP has net/http on both sides, many callers at once, and a link that is lost every few milliseconds. Every
// answer is either the right one or an error, and no prompt is done twice.
func TestNetHTTP(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"steady": 0, "flapping": 5 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen sync.Map
			e := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				if n, again := seen.LoadOrStore(r.Header.Get("X-Number"), true); again && r.Method == "POST" {
					t.Errorf("the engine got the prompt %v twice: %v", r.Header.Get("X-Number"), n)
				}
				size, _ := strconv.Atoi(r.Header.Get("X-Size"))
				sum := sha256.Sum256(body)
				for n := 0; n < size; n += 100 {
					fmt.Fprintf(w, "%x", sum[:]) // 64 bytes
					if n%500 == 0 {
						w.(http.Flusher).Flush()
					}
				}
			}))
			defer e.Close()
			var mu sync.Mutex
			live := map[net.Conn]bool{}
			g := &Gateway{Observe: new(Meter).Observe, Dial: func(ctx context.Context, _ net.Addr) (net.Conn, error) {
				if every > 0 && rand.IntN(4) == 0 {
					return nil, errDown
				}
				c, err := new(net.Dialer).DialContext(ctx, "tcp", e.Listener.Addr().String())
				if err == nil {
					mu.Lock()
					live[c] = true
					mu.Unlock()
				}
				return c, err
			}}
			addr := served(t, g)
			stop := make(chan struct{})
			var cutter sync.WaitGroup
			if every > 0 {
				cutter.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(every):
						}
						mu.Lock()
						for c := range live {
							rst(c)
							delete(live, c)
							break
						}
						mu.Unlock()
					}
				})
			}
			var wg sync.WaitGroup
			var right, failed atomic.Int64
			for i := range 16 {
				wg.Go(func() {
					client := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
					defer client.CloseIdleConnections()
					for j := range 20 {
						body := bytes.Repeat([]byte{byte(i)}, rand.IntN(50000))
						method := []string{"POST", "POST", "GET"}[rand.IntN(3)]
						if method == "GET" {
							body = nil
						}
						var r io.Reader = bytes.NewReader(body)
						if rand.IntN(2) == 0 && method == "POST" {
							r = struct{ io.Reader }{r} // in chunks
						}
						req, _ := http.NewRequest(method, "http://"+addr+"/v1/chat/completions", r)
						size := rand.IntN(20000)
						req.Header.Set("X-Size", strconv.Itoa(size))
						req.Header.Set("X-Number", fmt.Sprint(i, " ", j))
						resp, err := client.Do(req)
						if err != nil {
							failed.Add(1)
							continue
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						if err != nil || resp.StatusCode != 200 {
							failed.Add(1)
							continue
						}
						sum := sha256.Sum256(body)
						want := bytes.Repeat([]byte(fmt.Sprintf("%x", sum[:])), (size+99)/100)
						if !bytes.Equal(got, want) {
							t.Errorf("%s of %d bytes: %d bytes came back that look whole and are not the %d that were sent", method, len(body), len(got), len(want))
						}
						right.Add(1)
					}
				})
			}
			wg.Wait()
			close(stop)
			cutter.Wait()
			if every == 0 && failed.Load() > 0 || right.Load() == 0 {
				t.Errorf("%d right, %d failed", right.Load(), failed.Load())
			}
			t.Logf("%d right, %d failed; %+v", right.Load(), failed.Load(), g.Stats())
		})
	}
}
