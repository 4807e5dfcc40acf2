package remotetest

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// HubFile is a file of a repository on a Hub.
type HubFile struct {
	Name string
	Data []byte
	// Large makes it one that the hub keeps elsewhere and sends away to, as it does with weights.
	Large bool
	// Size and Sum, if set, are what the hub says of it instead of the truth.
	Size int64
	Sum  string
}

// Hub is a Hugging Face hub with one repository. It serves any name that Repo has at the time.
type Hub struct {
	// URL is its address, with the host that it is asked at. Large files come from another host.
	URL string

	mu      sync.Mutex
	repo    string
	files   []HubFile
	rate    int    // bytes per second and transfer, 0 is as fast as can be
	away    bool   // every request is cut
	token   string // the one that is known; empty is all of them
	open    bool   // who has none is let in, too
	refuse  int    // the status of the next answers, how many, what to wait, and whether the list is spared
	times   int
	wait    int
	spare   bool
	cut     int64 // once, after so many bytes of a large file
	held    bool  // large files begin and bring nothing
	plain   bool  // it knows no ranges
	ranges  []string
	asked   int
	stolen  []string // tokens that came to the other host
	granted []string // those that came to the hub
}

// Commit is that of the repository.
const Commit = "0123456789abcdef0123456789abcdef01234567"

// StartHub starts one on a loopback port; it ends with the test.
func StartHub(t testing.TB, repo string, files ...HubFile) *Hub {
	t.Helper()
	h := &Hub{repo: repo, files: files}
	server := httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	h.URL = server.URL
	return h
}

func (h *Hub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// Throttle sets how many bytes a second a transfer brings, 0 is all at once.
func (h *Hub) Throttle(rate int) { h.set(func() { h.rate = rate }) }

// Away makes it cut every connection, or come back.
func (h *Hub) Away(away bool) { h.set(func() { h.away = away }) }

// Gate lets in only who has the token; if it is open, also who has none. Another token is refused.
func (h *Hub) Gate(token string, open bool) { h.set(func() { h.token, h.open = token, open }) }

// Refuse makes the next answers be of a status. wait is what it says to wait, in seconds, if it is not 0.
func (h *Hub) Refuse(status, times, wait int) {
	h.set(func() { h.refuse, h.times, h.wait, h.spare = status, times, wait, false })
}

// RefuseFiles does the same, and gives the list.
func (h *Hub) RefuseFiles(status, times, wait int) {
	h.set(func() { h.refuse, h.times, h.wait, h.spare = status, times, wait, true })
}

// Cut ends the next transfer of a large file after so many bytes.
func (h *Hub) Cut(after int64) { h.set(func() { h.cut = after }) }

// Hold makes transfers of large files stand still after their headers, until it is let go; those that stood never go on.
func (h *Hub) Hold(held bool) { h.set(func() { h.held = held }) }

// Plain makes it give out whole files only.
func (h *Hub) Plain() { h.set(func() { h.plain = true }) }

// SetFiles changes what it has.
func (h *Hub) SetFiles(files ...HubFile) { h.set(func() { h.files = files }) }

// Ranges are the Range headers of the requests for large files, empty for those without, in their order.
func (h *Hub) Ranges() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ranges)
}

// Asked is how often it was asked for the list.
func (h *Hub) Asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

// Tokens are those that came to the hub, and those that came to the other host, which are none of its business.
func (h *Hub) Tokens() (granted, stolen []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.granted), slices.Clone(h.stolen)
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	away, repo, files, gate, open := h.away, h.repo, h.files, h.token, h.open
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	stored, elsewhere := strings.CutPrefix(r.URL.Path, "/elsewhere/")
	switch {
	case bearer != "" && elsewhere:
		h.stolen = append(h.stolen, bearer)
	case bearer != "":
		h.granted = append(h.granted, bearer)
	}
	list := r.URL.Path == "/api/models/"+repo+"/revision/main" && r.URL.Query().Get("blobs") == "true"
	if list {
		h.asked++
	}
	status := 0
	if h.times > 0 && !(h.spare && list) {
		h.times--
		status = h.refuse
		if h.wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(h.wait))
		}
	}
	h.mu.Unlock()
	refused := func(status int, reason string) {
		w.Header().Set("X-Error-Code", reason)
		http.Error(w, reason, status)
	}
	name, resolves := strings.CutPrefix(r.URL.Path, "/"+repo+"/resolve/"+Commit+"/")
	i := slices.IndexFunc(files, func(f HubFile) bool { return f.Name == name })
	switch {
	case away:
		cut(w)
	case status > 0:
		http.Error(w, "no", status)
	case elsewhere:
		i, err := strconv.Atoi(stored)
		if err != nil || i >= len(files) {
			http.NotFound(w, r)
			return
		}
		h.bytes(w, r, files[i].Data, true)
	case bearer != "" && gate != "" && bearer != gate:
		http.Error(w, "Invalid credentials in Authorization header", http.StatusUnauthorized)
	case list:
		json.NewEncoder(w).Encode(listing(files))
	case strings.HasPrefix(r.URL.Path, "/api/models/"+repo+"/revision/"):
		refused(http.StatusNotFound, "RevisionNotFound")
	case !resolves && bearer == "":
		refused(http.StatusUnauthorized, "RepoNotFound")
	case !resolves:
		refused(http.StatusNotFound, "RepoNotFound")
	case gate != "" && bearer == "" && !open:
		refused(http.StatusUnauthorized, "GatedRepo")
	case i < 0:
		refused(http.StatusNotFound, "EntryNotFound")
	case files[i].Large:
		_, port, _ := net.SplitHostPort(r.Host)
		http.Redirect(w, r, fmt.Sprintf("http://localhost:%s/elsewhere/%d", port, i), http.StatusFound)
	default:
		h.bytes(w, r, files[i].Data, false)
	}
}

// listing is what the hub says of its files.
func listing(files []HubFile) any {
	siblings := []any{}
	for _, f := range files {
		size := int64(len(f.Data))
		if f.Size != 0 {
			size = f.Size
		}
		git := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(f.Data)), f.Data...))
		s := map[string]any{"rfilename": f.Name, "size": size, "blobId": hex.EncodeToString(git[:])}
		if f.Large {
			sum := sha256.Sum256(f.Data)
			sha := hex.EncodeToString(sum[:])
			if f.Sum != "" {
				sha = f.Sum
			}
			s["lfs"] = map[string]any{"sha256": sha, "size": size, "pointerSize": 135}
		}
		siblings = append(siblings, s)
	}
	return map[string]any{"id": "x", "sha": Commit, "gated": false, "siblings": siblings}
}

// bytes gives out a file or the end of it, at the rate of the moment.
func (h *Hub) bytes(w http.ResponseWriter, r *http.Request, b []byte, large bool) {
	asked := r.Header.Get("Range")
	h.mu.Lock()
	if large {
		h.ranges = append(h.ranges, asked)
	}
	if h.plain {
		asked = ""
	}
	h.mu.Unlock()
	from := 0
	if asked != "" {
		if _, err := fmt.Sscanf(asked, "bytes=%d-", &from); err != nil || from >= len(b) {
			http.Error(w, "no such range", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)-from))
	if asked != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	h.mu.Lock()
	held := h.held && large
	h.mu.Unlock()
	if held {
		w.Write(b[from : from+1])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	for sent := int64(0); from < len(b); {
		h.mu.Lock()
		rate, over := h.rate, h.away
		n := len(b) - from
		if rate > 0 {
			n = min(n, max(1, rate/20))
		}
		if large && h.cut > 0 && sent+int64(n) >= h.cut {
			n, h.cut, over = int(h.cut-sent), 0, true
			w.Write(b[from : from+max(n, 0)])
			w.(http.Flusher).Flush()
		}
		h.mu.Unlock()
		if over {
			panic(http.ErrAbortHandler)
		}
		if _, err := w.Write(b[from : from+n]); err != nil {
			return
		}
		from, sent = from+n, sent+int64(n)
		if rate > 0 {
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}
