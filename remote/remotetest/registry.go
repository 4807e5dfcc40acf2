package remotetest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Registry serves the scripted model under the name Model, as the registry does that Ollama pulls from.
type Registry struct {
	// Model is the name to pull.
	Model string
	// Size is that of the weights in bytes.
	Size int64

	mu       sync.Mutex
	rate     int  // bytes per second, 0 is as fast as can be
	away     bool // every request is cut
	manifest int  // the status of a manifest, 0 is fine
	text     string
	ranges   []string
	asked    int
}

// StartRegistry starts one on a loopback port; it ends with the test.
func StartRegistry(t testing.TB) *Registry {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scripted.gguf")
	if err := WriteScripted(path); err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	digest := func(b []byte) string {
		sum := sha256.Sum256(b)
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	config := fmt.Appendf(nil, `{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"1M","file_type":"F32","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, digest(weights))
	template := []byte(Template)
	params := []byte(`{"num_thread":1,"temperature":0}`)
	blobs := map[string][]byte{}
	layer := func(kind string, b []byte) map[string]any {
		blobs[digest(b)] = b
		return map[string]any{"mediaType": kind, "digest": digest(b), "size": len(b)}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": layer("application/vnd.docker.container.image.v1+json", config),
		"layers": []any{
			layer("application/vnd.ollama.image.model", weights), layer("application/vnd.ollama.image.template", template), layer("application/vnd.ollama.image.params", params),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &Registry{Size: int64(len(weights))}
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/rlca/scripted/manifests/latest", func(w http.ResponseWriter, req *http.Request) {
		status, text := r.meets(w)
		if status < 0 {
			return
		}
		if status > 0 {
			http.Error(w, text, status)
			return
		}
		w.Write(manifest)
	})
	mux.HandleFunc("/v2/rlca/scripted/blobs/{digest}", func(w http.ResponseWriter, req *http.Request) {
		b, ok := blobs[req.PathValue("digest")]
		if !ok {
			http.NotFound(w, req)
			return
		}
		if req.Method == http.MethodHead {
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			return
		}
		// Ollama wants to be sent to another host for the bytes.
		_, port, _ := net.SplitHostPort(req.Host)
		http.Redirect(w, req, "http://localhost:"+port+"/bytes/"+req.PathValue("digest"), http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/bytes/{digest}", func(w http.ResponseWriter, req *http.Request) { r.bytes(w, req, blobs[req.PathValue("digest")]) })
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	r.Model = strings.TrimPrefix(server.URL, "http://") + "/rlca/scripted"
	return r
}

// Throttle sets how many bytes a second it gives out, 0 is all at once.
func (r *Registry) Throttle(rate int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate = rate
}

// Away makes it cut every connection, or come back.
func (r *Registry) Away(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// Refuse makes it answer with a status and a text instead of the manifest.
func (r *Registry) Refuse(status int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifest, r.text = status, text
}

// Ranges are the Range headers of the requests for the weights, in their order.
func (r *Registry) Ranges() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.ranges...)
}

// Asked is how often the manifest was asked for.
func (r *Registry) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// meets receives a request for the manifest; status is negative when it was cut.
func (r *Registry) meets(w http.ResponseWriter) (status int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.away {
		cut(w)
		return -1, ""
	}
	return r.manifest, r.text
}

func cut(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		conn.Close()
	}
}

// bytes gives out a blob or a range of it, at the rate of the moment.
func (r *Registry) bytes(w http.ResponseWriter, req *http.Request, b []byte) {
	from, to := 0, len(b)-1
	if h := req.Header.Get("Range"); h != "" {
		if int64(len(b)) == r.Size {
			r.mu.Lock()
			r.ranges = append(r.ranges, h)
			r.mu.Unlock()
		}
		if _, err := fmt.Sscanf(h, "bytes=%d-%d", &from, &to); err != nil || from < 0 || from > to || to >= len(b) {
			http.Error(w, "no such range", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(b)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(to-from+1))
	if req.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	for from <= to {
		r.mu.Lock()
		rate, away := r.rate, r.away
		r.mu.Unlock()
		if away {
			panic(http.ErrAbortHandler)
		}
		n := to - from + 1
		if rate > 0 {
			n = min(n, max(1, rate/20))
		}
		if _, err := w.Write(b[from : from+n]); err != nil {
			return
		}
		from += n
		if rate > 0 {
			w.(http.Flusher).Flush()
			select {
			case <-req.Context().Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}
