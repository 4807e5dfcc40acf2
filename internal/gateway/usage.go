package gateway

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// field is a value that the meter wants.
type field byte

const (
	fieldNone field = iota
	fieldModel
	fieldFinish
	fieldStatus
	fieldPrompt // numbers from here
	fieldCacheRead
	fieldCacheWrite
	fieldCached
	fieldCompletion
	fieldEvalTime
	fieldRate
	fieldContext
	fieldContent // texts that are not kept, from here
	fieldError
	fieldImage
)

func (f field) kept() bool { return f != fieldNone && f < fieldContent }

// words reports whether it is a string, and not a number.
func (f field) words() bool { return f < fieldPrompt || f >= fieldContent }

// What the APIs of OpenAI (chat, completions, responses), Anthropic and Ollama say of an answer, streamed or whole.
var replyFields = map[string]field{
	"model": fieldModel, "message.model": fieldModel, "response.model": fieldModel,

	"choices.finish_reason": fieldFinish, "stop_reason": fieldFinish, "delta.stop_reason": fieldFinish, "done_reason": fieldFinish,
	"incomplete_details.reason": fieldFinish, "response.incomplete_details.reason": fieldFinish,
	"status": fieldStatus, "response.status": fieldStatus,

	"usage.prompt_tokens": fieldPrompt, "usage.input_tokens": fieldPrompt, "message.usage.input_tokens": fieldPrompt,
	"response.usage.input_tokens": fieldPrompt, "prompt_eval_count": fieldPrompt,
	"usage.cache_read_input_tokens": fieldCacheRead, "message.usage.cache_read_input_tokens": fieldCacheRead,
	"usage.cache_creation_input_tokens": fieldCacheWrite, "message.usage.cache_creation_input_tokens": fieldCacheWrite,
	"usage.prompt_tokens_details.cached_tokens": fieldCached, "usage.input_tokens_details.cached_tokens": fieldCached,
	"response.usage.input_tokens_details.cached_tokens": fieldCached,
	"usage.completion_tokens":                           fieldCompletion, "usage.output_tokens": fieldCompletion, "message.usage.output_tokens": fieldCompletion,
	"response.usage.output_tokens": fieldCompletion, "eval_count": fieldCompletion,
	"eval_duration": fieldEvalTime, "timings.predicted_per_second": fieldRate,

	"choices.delta.content": fieldContent, "choices.delta.reasoning": fieldContent, "choices.delta.reasoning_content": fieldContent,
	"choices.delta.tool_calls.function.name": fieldContent, "choices.delta.tool_calls.function.arguments": fieldContent,
	"choices.text": fieldContent, "choices.message.content": fieldContent, "choices.message.tool_calls.function.name": fieldContent,
	"delta": fieldContent, "delta.text": fieldContent, "delta.thinking": fieldContent, "delta.partial_json": fieldContent,
	"content_block.name": fieldContent, "content.text": fieldContent, "output.content.text": fieldContent,
	"message.content": fieldContent, "message.thinking": fieldContent, "message.tool_calls.function.name": fieldContent,
	"response": fieldContent, "thinking": fieldContent,

	"error": fieldError, "error.message": fieldError, "response.error.message": fieldError,
}

var requestFields = map[string]field{
	"model": fieldModel, "options.num_ctx": fieldContext,
	"images": fieldImage, "messages.images": fieldImage, "messages.content.image_url": fieldImage, "messages.content.image_url.url": fieldImage,
	"messages.content.source.data": fieldImage, "messages.content.input_audio.data": fieldImage, "input.content.image_url": fieldImage,
	"input.content.file_data": fieldImage, "messages.content.content.source.data": fieldImage,
}

// metered reports whether a request asks a model for words.
func metered(req *http.Request) bool {
	if req.Method != http.MethodPost {
		return false
	}
	switch strings.TrimSuffix(req.URL.Path, "/") {
	case "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate":
		return true
	}
	return false
}

// usage reads what a request and its answer say of themselves, beside the copy: it gets each piece after it was passed
// on.
type usage struct {
	request, reply scan
	shape          shape
	at             time.Time // of the piece
	line           int       // bytes of "data:" so far, or one of the following
	blank          bool      // nothing in the line yet
	cr             bool      // the line ended with a carriage return
	content        bool      // in this event
	came           time.Time // the first of it
	x              *Exchange
	prompt         int // as told, without what a cache had
	read, wrote    int
	eval           time.Duration
	rate           float64
	status         string
	first, last    time.Time // content
}

const (
	lineData = len("data:") + iota // what follows it
	lineSkip
)

// shape is how the body of an answer is written.
type shape byte

const (
	shapeNone   shape = iota
	shapeWhole        // one JSON text
	shapeLines        // one in each line
	shapeEvents       // server-sent events (WHATWG HTML §9.2)
)

func shapeOf(kind string) shape {
	switch kind {
	case "text/event-stream":
		return shapeEvents
	case "application/x-ndjson", "application/jsonl", "application/json-lines":
		return shapeLines
	case "application/json":
		return shapeWhole
	}
	return shapeNone
}

var usages = sync.Pool{New: func() any {
	u := new(usage)
	u.request.want, u.request.found = requestFields, u.asked
	u.reply.want, u.reply.found = replyFields, u.told
	return u
}}

func newUsage(x *Exchange) *usage {
	u := usages.Get().(*usage)
	u.x = x
	return u
}

func (u *usage) free() {
	u.request.reset()
	u.reply.reset()
	*u = usage{request: u.request, reply: u.reply}
	usages.Put(u)
}

// asked takes a value of the request.
func (u *usage) asked(f field, text []byte, length int) {
	switch f {
	case fieldModel:
		tell(&u.x.Asked, text)
	case fieldContext:
		u.x.AskedContext = number(text)
	case fieldImage:
		u.x.Images = true
	}
}

// told takes a value of the answer.
func (u *usage) told(f field, text []byte, length int) {
	switch f {
	case fieldModel:
		tell(&u.x.Answered, text)
	case fieldFinish:
		tell(&u.x.Finish, text)
	case fieldStatus:
		tell(&u.status, text)
	case fieldPrompt:
		count(&u.prompt, text)
	case fieldCacheRead:
		count(&u.read, text)
	case fieldCacheWrite:
		count(&u.wrote, text)
	case fieldCached:
		count(&u.x.CachedTokens, text)
	case fieldCompletion:
		count(&u.x.CompletionTokens, text)
	case fieldEvalTime:
		u.eval = time.Duration(number(text))
	case fieldRate:
		if r, err := strconv.ParseFloat(string(text), 64); err == nil && r > 0 && r < 1e9 {
			u.rate = r
		}
	case fieldContent:
		if length > 0 && !u.content {
			u.content, u.came = true, u.at
		}
	case fieldError:
		u.x.Error = u.x.Error || length > 0
	}
}

// tell sets a word. Most pieces of a stream say the same as the one before.
func tell(word *string, text []byte) {
	if *word != string(text) {
		*word = clean(string(text))
	}
}

// count sets a number. The last one told is right, where Ollama begins with a guess; a zero or null after it tells
// nothing.
func count(n *int, text []byte) {
	if told := number(text); told > 0 {
		*n = told
	}
}

// number is a count. What is none is 0, which means not known.
func number(text []byte) int {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 0 || n > 1<<50 {
		return 0
	}
	return int(n)
}

// take reads a piece of the answer's body that came then.
func (u *usage) take(p []byte, at time.Time) {
	u.at = at
	switch u.shape {
	case shapeWhole:
		u.reply.feed(p)
	case shapeLines:
		for len(p) > 0 {
			line, rest, whole := bytes.Cut(p, newline)
			u.reply.feed(line)
			if p = rest; whole {
				u.reply.feed(newline)
				u.event()
				u.reply.reset()
			}
		}
	case shapeEvents:
		u.events(p)
	}
}

var newline = []byte("\n")

// events reads lines of server-sent events. A text that is split over lines is one text: an event ends with an empty
// line.
func (u *usage) events(p []byte) {
	for len(p) > 0 {
		if u.cr && p[0] == '\n' { // of one end of line
			u.cr, p = false, p[1:]
			continue
		}
		u.cr = false
		if u.line < lineData {
			c := p[0]
			p = p[1:]
			switch {
			case c == '\n' || c == '\r':
				if u.line == 0 && u.blank {
					u.reply.reset()
				}
				u.line, u.blank, u.cr = 0, true, c == '\r'
			case c == "data:"[u.line]:
				u.blank = false
				if u.line++; u.line == lineData && !u.reply.open() {
					u.reply.reset() // whoever leaves the empty line out
				}
			default:
				u.line, u.blank = lineSkip, false
			}
			continue
		}
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			i = len(p)
		}
		if u.line == lineData {
			u.reply.feed(p[:i])
		}
		if p = p[i:]; len(p) > 0 {
			if u.line == lineData {
				u.reply.feed(newline)
				u.event()
			}
			u.line, u.blank, u.cr = 0, true, p[0] == '\r'
			p = p[1:]
		}
	}
}

// event is where an event, a line or the whole text ends: the content in it is one piece.
func (u *usage) event() {
	if !u.content {
		return
	}
	u.content = false
	u.x.Pieces++
	if u.first.IsZero() {
		u.first = u.came
	}
	u.last = u.came
}

// sum puts together what was told.
func (u *usage) sum(reached time.Time) {
	x := u.x
	u.event() // one whose end did not come
	if u.prompt+u.read+u.wrote > 0 {
		x.PromptTokens = u.prompt + u.read + u.wrote
	}
	if u.read > 0 {
		x.CachedTokens = u.read
	}
	if x.Finish == "" && (u.status == "completed" || u.status == "incomplete" || u.status == "failed" || u.status == "cancelled") {
		x.Finish = u.status
	}
	if !u.first.IsZero() && u.shape != shapeWhole { // one text comes when the last token is made
		x.FirstToken = u.first.Sub(reached)
	}
	tokens := x.CompletionTokens
	if tokens == 0 {
		tokens = x.Pieces
		x.Estimated = true
	}
	switch took := u.last.Sub(u.first); {
	case u.eval > 0 && x.CompletionTokens > 0:
		x.TokensPerSecond = float64(x.CompletionTokens) / u.eval.Seconds()
	case u.rate > 0:
		x.TokensPerSecond = u.rate
	case u.shape != shapeWhole && tokens > 1 && took > 0:
		x.TokensPerSecond = float64(tokens-1) / took.Seconds()
	}
	x.Estimated = x.Estimated && x.Pieces > 0
}
