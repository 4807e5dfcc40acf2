package remote

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// describeLimit is how long one question to an engine may take.
const describeLimit = 8 * time.Second

// Serves is what an engine says of itself. What it does not tell is zero.
type Serves struct {
	// Engine is "llama-server", "vllm" or "Ollama", or the name of another that speaks OpenAI's API, "LM Studio". Empty is
	// one that does not tell its name.
	Engine string `json:"engine"`
	// Version is "b11434-unknown" or "0.32.0".
	Version string `json:"version"`
	// Model is what to ask for. Ollama's is the one that stays loaded longest.
	Model string `json:"model"`
	// Path is where the model lies on the box, as the engine was given it: a file, a folder, or a repository. Relative
	// paths are possible.
	Path string `json:"path"`
	// WeightsBytes is the size of all tensors, Params their number of elements.
	WeightsBytes int64 `json:"weights_bytes"`
	Params       int64 `json:"params"`
	// Context is the tokens that one request may have, ContextTrain the model's own limit.
	Context      int `json:"context"`
	ContextTrain int `json:"context_train"`
	// Slots is the number of requests served at once.
	Slots     int `json:"slots"`
	Vocab     int `json:"vocab"`
	Embedding int `json:"embedding"`
}

// LoadingError says that an engine answers, and its model is not loaded yet.
type LoadingError struct {
	Address string `json:"address"`
	Text    string `json:"text"`
}

func (e *LoadingError) Error() string {
	return fmt.Sprintf("the engine on %s is not ready: %s", e.Address, e.Text)
}

// Describe asks what serves at an address of the box, "127.0.0.1:8080". It changes nothing there. A *LoadingError is
// an engine that will answer soon; one that wants a key, and what is no engine, are errors too.
func Describe(ctx context.Context, box Box, addr string) (*Serves, error) {
	h, err := hear(ctx, box, addr)
	if err == nil && h.Engine != "Ollama" && h.Model == "" && len(h.offers) == 0 {
		err = errNoModel
	}
	var loading *LoadingError
	switch {
	case errors.As(err, &loading):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("ask what serves on %s: %w", addr, err)
	}
	return &h.Serves, ctx.Err()
}

// heard is what a server says of itself, and of all models that it would answer with.
type heard struct {
	Serves
	offers []offer
}

// hear asks what serves at an address of the box: Ollama by its greeting, the others by their list of models.
func hear(ctx context.Context, box Box, addr string) (*heard, error) {
	o := NewOllama(box, addr)
	a := o.api(addr)
	switch id := o.fingerprint(ctx, addr); id.who {
	case nobody:
		return nil, id.err
	case itself:
		h := &heard{Serves: Serves{Engine: "Ollama", Version: id.version}}
		if list, err := a.ps(ctx); err == nil && len(list) > 0 {
			h.Model, h.Context = list[0].Name, list[0].Context
		}
		return h, nil
	}
	body, err := a.ask(ctx, "/v1/models")
	if err != nil {
		var status *statusError
		if errors.As(err, &status) && status.Code == http.StatusServiceUnavailable {
			return nil, &LoadingError{Address: addr, Text: cmp.Or(status.Text, "it answered 503")}
		}
		return nil, err
	}
	h := &heard{}
	s, err := readModels(body)
	switch {
	case err == nil:
		h.Serves, h.offers = *s, readOffers(body)
	case !errors.Is(err, errNoModel):
		return nil, err
	}
	// What follows adds to it; without it, too, there is an answer.
	switch h.Engine {
	case "llama-server":
		if body, err := a.ask(ctx, "/props"); err == nil {
			h.readProps(body)
		}
	case "vllm":
		if body, err := a.ask(ctx, "/version"); err == nil {
			h.readVersion(body)
		}
	default:
		h.recognise(ctx, a, ownerOf(body))
	}
	return h, nil
}

// ask makes one question and returns the answer as it is.
func (a *api) ask(ctx context.Context, path string) ([]byte, error) {
	var body json.RawMessage
	err := a.call(ctx, describeLimit, "GET", path, nil, &body)
	return body, err
}

// count is a number of a foreign answer. What is none, or below zero, or more than memory has bytes, is 0.
type count int64

func (c *count) UnmarshalJSON(b []byte) error {
	var f float64
	if json.Unmarshal(b, &f) == nil && f >= 1 && f <= 1<<50 {
		*c = count(f)
	}
	return nil
}

// tokens is a number of tokens, or of things of which there are no more.
func (c count) tokens() int {
	if c > 1<<30 {
		return 0
	}
	return int(c)
}

// word is a text of a foreign answer. What is none is empty.
type word string

func (w *word) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*w = word(s)
	}
	return nil
}

// path keeps what may be one, and drops the rest.
func (w word) path() string {
	s := string(w)
	if len(s) > 4096 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar
	}) {
		return ""
	}
	return s
}

// errNoModel says that a server answers and has nothing to answer with.
var errNoModel = errors.New("it has no model")

// readModels reads /v1/models: of llama-server, of vLLM, of others.
func readModels(body []byte) (*Serves, error) {
	var said struct {
		Data []struct {
			ID      word  `json:"id"`
			OwnedBy word  `json:"owned_by"`
			Root    word  `json:"root"`
			Limit   count `json:"max_model_len"`
			Meta    struct {
				Params  count `json:"n_params"`
				Size    count `json:"size"`
				Context count `json:"n_ctx"`
				Train   count `json:"n_ctx_train"`
				Embed   count `json:"n_embd"`
				Vocab   count `json:"n_vocab"`
			} `json:"meta"`
			Status struct {
				Value word `json:"value"`
			} `json:"status"`
		} `json:"data"`
	}
	var other *json.UnmarshalTypeError // one field is not as expected: the others were read
	if err := json.Unmarshal(body, &said); err != nil && (!errors.As(err, &other) || len(said.Data) == 0) {
		return nil, fmt.Errorf("its list of models is another than OpenAI's: %q", clean(string(body[:min(len(body), textLimit)])))
	}
	if len(said.Data) == 0 {
		return nil, errNoModel
	}
	m := said.Data[0]
	for _, d := range said.Data {
		if d.Status.Value == "loaded" { // of a llama-server that switches between models
			m = d
			break
		}
	}
	s := &Serves{
		Model: clean(string(m.ID)), Path: m.Root.path(), WeightsBytes: int64(m.Meta.Size), Params: int64(m.Meta.Params),
		Context: cmp.Or(m.Limit, m.Meta.Context).tokens(), ContextTrain: m.Meta.Train.tokens(), Vocab: m.Meta.Vocab.tokens(), Embedding: m.Meta.Embed.tokens(),
	}
	switch m.OwnedBy {
	case "llamacpp":
		s.Engine = "llama-server"
	case "vllm":
		s.Engine = "vllm"
	}
	return s, nil
}

// readProps reads /props of llama-server. Its n_ctx is that of one slot, which is what a request may have.
func (s *Serves) readProps(body []byte) {
	var said struct {
		Path     word  `json:"model_path"`
		Alias    word  `json:"model_alias"`
		Build    word  `json:"build_info"`
		Slots    count `json:"total_slots"`
		Defaults struct {
			Context count `json:"n_ctx"`
		} `json:"default_generation_settings"`
	}
	if json.Unmarshal(body, &said) != nil {
		return
	}
	s.Path = cmp.Or(said.Path.path(), s.Path)
	s.Model = cmp.Or(s.Model, clean(string(said.Alias)))
	s.Version = clean(string(said.Build))
	s.Slots = said.Slots.tokens()
	s.Context = cmp.Or(said.Defaults.Context.tokens(), s.Context)
}

// readVersion reads /version of vLLM.
func (s *Serves) readVersion(body []byte) {
	var said struct {
		Version word `json:"version"`
	}
	if json.Unmarshal(body, &said) == nil {
		s.Version = clean(string(said.Version))
	}
}
