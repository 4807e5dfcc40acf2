package gateway

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Exchange is a request that reached the far side, and what became of it. It has no text of either.
type Exchange struct {
	Method, Path string // without the query
	// Status is of the answer; 0 if none came.
	Status int
	Start  time.Time     // the request's head was here
	Held   time.Duration // until the far side was reached
	// FirstByte, FirstToken and Took count from when the far side was reached to the first byte of the answer's body,
	// to the first piece of content, and to the end. Zero means that there was none, or that it cannot be told.
	FirstByte, FirstToken, Took time.Duration
	RequestBytes, ReplyBytes    int64 // of the bodies
	// Cut says that the answer was not whole, and why the caller was reset. Left: the caller left before its end.
	Cut, Left bool

	// What follows is known of requests that ask a model for words, as far as engine and caller told.

	Metered         bool
	Asked, Answered string // names of models
	// PromptTokens are all tokens of the prompt; CachedTokens of them were not computed anew. Zero means not told.
	PromptTokens, CachedTokens, CompletionTokens int
	// TokensPerSecond is the engine's own figure if it told one, and else that of the port.
	TokensPerSecond float64
	// Estimated says that the engine did not tell how many tokens it made, and the pieces were counted.
	Estimated bool
	Pieces    int    // of content in a streamed answer
	Finish    string // why it ended, in the engine's word
	Error     bool   // the answer tells of an error
	// AskedContext is the context that the request itself asks for (Ollama's num_ctx). Images: it has some, so that its
	// bytes say nothing of its tokens.
	AskedContext int
	Images       bool
}

const (
	meterWindow  = 5 * time.Minute
	meterSamples = 512

	fullPercent = 95   // of the context: Ollama, which cuts without a word, was seen to leave 98.9 to 100 %
	tokenBytes  = 6    // a request has a token for so many bytes at least, in any language that was seen
	smallBody   = 8192 // bytes under which a request says nothing of its tokens
)

// Meter keeps how the latest exchanges fared. The zero value is ready to use; Observe goes into Gateway.Observe.
type Meter struct {
	// Context is how many tokens a request may have, as the engine has loaded the model. Nil or 0 means not known.
	Context func() int
	// Same reports whether two names are of one model: llama-server answers with the path of its file, whatever was
	// asked for. Nil compares the names.
	Same func(asked, answered string) bool
	Log  *slog.Logger // nil discards

	mu       sync.Mutex // guards what follows
	samples  []sample   // in the order in which they came
	last     *Exchange
	warnings []Warning
}

type sample struct {
	at                 time.Time
	firstToken         time.Duration
	prompt, completion int
	rate               float64
	cut, failed        bool
}

// Warning is something that answers will not tell. It stays until an exchange shows that it is over.
type Warning struct {
	Kind    WarningKind `json:"kind"`
	Message string      `json:"message"`
	At      time.Time   `json:"at"` // of the latest
	Count   int         `json:"count"`
}

// WarningKind is a word for what is wrong.
type WarningKind string

const (
	PromptFills WarningKind = "prompt-fills-context" // the engine may have cut it
	PromptCut   WarningKind = "prompt-cut"           // it has fewer tokens than its bytes can be
	OtherModel  WarningKind = "other-model"          // not the one that was asked for answers
)

// Reading is what the meter shows. Zero means not known.
type Reading struct {
	Last *Exchange // that asked a model for words; nil before the first

	// Over the last five minutes:
	Requests, Cut, Failed          int
	PromptTokens, CompletionTokens int
	FirstToken                     time.Duration // the middle one
	TokensPerSecond                float64       // the middle one

	// Context is how many tokens a request may have; Used is of the last prompt and its answer.
	Context, Used int
	Warnings      []Warning
}

// Observe takes an exchange that is over.
func (m *Meter) Observe(x Exchange) {
	if !x.Metered {
		return
	}
	context := 0
	if m.Context != nil {
		context = m.Context()
	}
	if x.AskedContext > 0 && (context == 0 || x.AskedContext < context) {
		context = x.AskedContext
	}
	found := m.judge(x, context)
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = &x
	m.trim(now)
	if len(m.samples) == meterSamples {
		m.samples = slices.Delete(m.samples, 0, 1)
	}
	m.samples = append(m.samples, sample{now, x.FirstToken, x.PromptTokens, x.CompletionTokens, x.TokensPerSecond, x.Cut, x.Error || x.Status >= http.StatusBadRequest})
	for _, kind := range []WarningKind{PromptFills, PromptCut, OtherModel} {
		m.warn(kind, found[kind], x.PromptTokens > 0, now)
	}
}

// warn notes a warning, or that it is over: then a request that could have shown it did not.
func (m *Meter) warn(kind WarningKind, message string, told bool, now time.Time) {
	i := slices.IndexFunc(m.warnings, func(w Warning) bool { return w.Kind == kind })
	switch {
	case message == "":
		if i >= 0 && told {
			m.warnings = slices.Delete(m.warnings, i, i+1)
		}
		return
	case i < 0:
		m.warnings = append(m.warnings, Warning{Kind: kind})
		i = len(m.warnings) - 1
		if m.Log != nil {
			m.Log.Warn("answer in doubt", "kind", string(kind), "why", message)
		}
	}
	w := &m.warnings[i]
	w.Message, w.At = message, now
	w.Count++
}

// judge says what is wrong with an exchange that looks right.
func (m *Meter) judge(x Exchange, context int) map[WarningKind]string {
	found := map[WarningKind]string{}
	if x.Status != http.StatusOK {
		return found
	}
	p := int64(x.PromptTokens)
	if p > 0 && context > 0 && p*100 >= int64(context)*fullPercent {
		found[PromptFills] = fmt.Sprintf("the prompt has %d tokens of a context of %d: the engine may have cut it without a word; give the model more context, or let the harness compact sooner", p, context)
	}
	// Half of what the bytes say, for texts of long words and of many blanks.
	if least := x.RequestBytes / tokenBytes; p > 0 && !x.Images && x.RequestBytes >= smallBody && p < least/2 {
		found[PromptCut] = fmt.Sprintf("a request of %d bytes came to a prompt of %d tokens: a part of it did not reach the model, cut off or left out by its template", x.RequestBytes, p)
	}
	if x.Asked != "" && x.Answered != "" && !sameModel(x.Asked, x.Answered) && (m.Same == nil || !m.Same(x.Asked, x.Answered)) {
		found[OtherModel] = fmt.Sprintf("%q was asked for, and %q answers", x.Asked, x.Answered)
	}
	return found
}

// sameModel compares names as Ollama does: a tag that is left out is "latest".
func sameModel(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, ":latest"), strings.TrimSuffix(b, ":latest"))
}

// trim lets samples go that are too old.
func (m *Meter) trim(now time.Time) {
	n := 0
	for n < len(m.samples) && now.Sub(m.samples[n].at) > meterWindow {
		n++
	}
	m.samples = slices.Delete(m.samples, 0, n)
}

// Reading is how things stand.
func (m *Meter) Reading() Reading {
	r := Reading{}
	if m.Context != nil {
		r.Context = m.Context()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trim(time.Now())
	var firsts []time.Duration
	var rates []float64
	for _, s := range m.samples {
		r.Requests++
		if s.cut {
			r.Cut++
		}
		if s.failed {
			r.Failed++
		}
		r.PromptTokens += s.prompt
		r.CompletionTokens += s.completion
		if s.firstToken > 0 {
			firsts = append(firsts, s.firstToken)
		}
		if s.rate > 0 {
			rates = append(rates, s.rate)
		}
	}
	r.FirstToken, r.TokensPerSecond = middle(firsts), middle(rates)
	if m.last != nil {
		last := *m.last
		r.Last, r.Used = &last, last.PromptTokens+last.CompletionTokens
	}
	r.Warnings = slices.Clone(m.warnings)
	return r
}

func middle[T time.Duration | float64](all []T) T {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}
