package gateway

import (
	"bufio"
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
	"strings"
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

// TestOddPeers has callers that say many things at once in pieces of any size, and engines that answer when they like:
// before the body, in pieces, with an end to the connection before the next request. Every answer is the right one, in
// its turn, no prompt is done twice, and nobody waits for ever.
func TestOddPeers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(150) {
		within(t, &Gateway{}, nil, func(w *world) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex // guards rng
			dice := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return rng.IntN(n)
			}
			pause := func() { time.Sleep(time.Duration(dice(3)) * time.Second / 2) }
			pieces := func(c io.Writer, s string) error {
				for len(s) > 0 {
					n := min(len(s), 1+dice(200))
					if _, err := io.WriteString(c, s[:n]); err != nil {
						return err
					}
					if s = s[n:]; dice(4) == 0 {
						pause()
					}
				}
				return nil
			}
			seen := map[string]int{}
			w.serve = func(c net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					number := req.Header.Get("X-Number")
					mu.Lock()
					seen[number]++
					mu.Unlock()
					early := dice(3) == 0
					if !early {
						if body, err := io.ReadAll(req.Body); err != nil || strings.Trim(string(body), number) != "" {
							return
						}
					}
					answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(number), number)
					if dice(2) == 0 {
						answer = fmt.Sprintf("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(number), number)
					}
					if pieces(c, answer) != nil {
						return
					}
					if early {
						if _, err := io.Copy(io.Discard, req.Body); err != nil {
							return
						}
					}
					pause()
					if !early && dice(4) == 0 {
						return
					}
				}
			}
			const requests = 12
			var all strings.Builder
			for i := range requests {
				number, size := strconv.Itoa(100+i), dice(3)*dice(400)
				body := strings.Repeat(number, size)
				switch dice(3) {
				case 0:
					fmt.Fprintf(&all, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Number: %s\r\n\r\n", number)
				case 1:
					fmt.Fprintf(&all, "POST / HTTP/1.1\r\nHost: localhost\r\nX-Number: %s\r\nContent-Length: %d\r\n\r\n%s", number, len(body), body)
				case 2:
					fmt.Fprintf(&all, "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nX-Number: %s\r\nTransfer-Encoding: chunked\r\n\r\n", number)
					if body != "" {
						fmt.Fprintf(&all, "%x\r\n%s\r\n", len(body), body)
					}
					all.WriteString("0\r\n\r\n")
				}
			}
			c := w.call()
			c.SetDeadline(time.Now().Add(24 * time.Hour))
			var sending sync.WaitGroup
			sending.Go(func() { pieces(c, all.String()) })
			defer sending.Wait()
			defer c.Close()
			r := bufio.NewReader(c)
			for i := range requests {
				resp, err := http.ReadResponse(r, nil)
				for err == nil && resp.StatusCode == http.StatusEarlyHints {
					resp, err = http.ReadResponse(r, nil)
				}
				if err != nil {
					t.Errorf("seed %d: the %d. answer: %v", seed, i, err)
					return
				}
				if body, err := io.ReadAll(resp.Body); err != nil || string(body) != strconv.Itoa(100+i) {
					t.Errorf("seed %d: the %d. answer is %q, %v", seed, i, body, err)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for number, n := range seen {
				if n != 1 {
					t.Errorf("seed %d: request %s was done %d times", seed, number, n)
				}
			}
		})
	}
}
