package box

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	engineModel   = "rlca-demo:builtin" // the one name that the built-in engine serves
	engineContext = 65536               // tokens
	engineSize    = 1 << 20             // bytes that stand for its weights: it has none
	maxRequest    = 64 << 20            // bytes of a request that it reads
)

// Engine is the small built-in engine of the demo. It is no model and says so in its name and in every answer; it
// speaks enough of Ollama's, OpenAI's and Anthropic's words for rlca and harnesses to treat it as an Ollama.
type Engine struct {
	ln  net.Listener
	srv *http.Server
	end chan struct{}
}

// StartEngine brings it up on a free port of 127.0.0.1. Log hears of connections that went wrong; nil means nobody does.
func StartEngine(log *slog.Logger) (*Engine, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the built-in engine: %w", err)
	}
	e := &Engine{ln: ln, end: make(chan struct{})}
	e.srv = &http.Server{
		Handler: guard(routes()), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 16,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(e.end)
		e.srv.Serve(ln)
	}()
	return e, nil
}

// Addr is its host:port, Model the name that it answers to.
func (e *Engine) Addr() string  { return e.ln.Addr().String() }
func (e *Engine) Model() string { return engineModel }

// Close ends it and its connections.
func (e *Engine) Close() error {
	err := e.srv.Close()
	<-e.end
	return err
}

// guard lets only requests through that are meant for this machine, by Ollama's rule: a web page that gives its own
// name a loopback address is told 403, with nothing more.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r.Host) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost says whether a Host header names this machine or its network.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsUnspecified()
	}
	host = strings.ToLower(host)
	if host == "" || host == "localhost" {
		return true
	}
	for _, end := range []string{".localhost", ".local", ".internal"} {
		if strings.HasSuffix(host, end) {
			return true
		}
	}
	name, err := os.Hostname()
	return err == nil && host == strings.ToLower(name)
}

// object is a JSON object.
type object = map[string]any

// routes are Ollama's own paths, and those of the two other tongues that it speaks.
func routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Ollama is running") })
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, object{"version": "0.0.0"})
	})
	mux.HandleFunc("GET /api/tags", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, object{"models": []object{described(object{"modified_at": born})}})
	})
	mux.HandleFunc("GET /api/ps", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, object{"models": []object{described(object{
			"expires_at": "2318-01-01T00:00:00Z", "size_vram": 0, "context_length": engineContext, // no GPU is used, ever
		})}})
	})
	mux.HandleFunc("POST /api/show", show)
	mux.HandleFunc("POST /api/generate", generate)
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, object{"object": "list", "data": []object{{"id": engineModel, "object": "model", "created": 0, "owned_by": "rlca"}}})
	})
	mux.HandleFunc("POST /v1/chat/completions", chatCompletions)
	mux.HandleFunc("POST /v1/messages", messages)
	return mux
}

// born is when it was made, as far as Ollama's answers need a date.
const born = "2026-01-01T00:00:00Z"

func details() object {
	return object{
		"parent_model": "", "format": "builtin", "family": "rlca-demo", "families": []string{"rlca-demo"}, "parameter_size": "0",
		"quantization_level": "Q8_0",
	}
}

// described adds what Ollama says of a model wherever it lists one.
func described(o object) object {
	digest := sha256.Sum256([]byte(engineModel))
	o["name"], o["model"], o["size"], o["details"] = engineModel, engineModel, engineSize, details()
	o["digest"] = hex.EncodeToString(digest[:])
	return o
}

func show(w http.ResponseWriter, r *http.Request) {
	var in struct{ Model, Name string } // name is the older word
	if err := read(w, r, &in); err != nil {
		reply(w, http.StatusBadRequest, object{"error": err.Error()})
		return
	}
	if name := cmp.Or(in.Model, in.Name); name != engineModel {
		reply(w, http.StatusNotFound, object{"error": notFound(name)})
		return
	}
	reply(w, http.StatusOK, object{
		"details": details(), "modified_at": born, "capabilities": []string{"completion"}, "model_info": object{
			"general.architecture": "llama", "general.parameter_count": 1, "llama.block_count": 1, "llama.context_length": engineContext,
			"llama.embedding_length": 64, "llama.attention.head_count": 1, "llama.attention.head_count_kv": 1, "llama.feed_forward_length": 64,
			"llama.vocab_size": 256,
		},
	})
}

// generate loads or unloads, which is nothing here, or answers a prompt in one piece.
func generate(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model     string
		Prompt    string
		KeepAlive any `json:"keep_alive"`
	}
	if err := read(w, r, &in); err != nil {
		reply(w, http.StatusBadRequest, object{"error": err.Error()})
		return
	}
	if in.Model != engineModel {
		reply(w, http.StatusNotFound, object{"error": notFound(in.Model)})
		return
	}
	out := object{"model": engineModel, "created_at": time.Now().UTC(), "response": "", "done": true, "done_reason": "load"}
	if in.Prompt != "" {
		out["response"], out["done_reason"] = reckon(in.Prompt), "stop"
	} else if in.KeepAlive == float64(0) || in.KeepAlive == "0" {
		out["done_reason"] = "unload"
	}
	reply(w, http.StatusOK, out)
}

func notFound(model string) string {
	return fmt.Sprintf("model %q not found, try pulling it first", model)
}

func read(w http.ResponseWriter, r *http.Request, v any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(v); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return nil
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
