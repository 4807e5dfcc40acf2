package box

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// chat is what OpenAI's and Anthropic's requests have in common.
type chat struct {
	Model         string    `json:"model"`
	Messages      []message `json:"messages"`
	Stream        bool      `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

type message struct {
	Role    string `json:"role"`
	Content text   `json:"content"`
}

// text is the text of a message, which may come in one piece or in parts, some of them of other kinds.
type text string

func (t *text) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*t = text(s)
		return nil
	}
	var parts []struct{ Type, Text string }
	if err := json.Unmarshal(data, &parts); err != nil {
		return fmt.Errorf("content is neither text nor a list of parts: %w", err)
	}
	var all []string
	for _, p := range parts {
		if p.Type == "text" {
			all = append(all, p.Text)
		}
	}
	*t = text(strings.Join(all, "\n"))
	return nil
}

// refusal is why a request is not answered.
type refusal struct {
	status        int
	kind, message string
}

// readChat reads a request, and its answer.
func readChat(w http.ResponseWriter, r *http.Request) (in chat, out string, no *refusal) {
	if err := read(w, r, &in); err != nil {
		return in, "", &refusal{http.StatusBadRequest, "invalid_request_error", err.Error()}
	}
	if len(in.Messages) == 0 {
		return in, "", &refusal{http.StatusBadRequest, "invalid_request_error", "no messages in the request"}
	}
	if in.Model != engineModel {
		return in, "", &refusal{http.StatusNotFound, "not_found_error", notFound(in.Model)}
	}
	question := ""
	for _, m := range in.Messages {
		if m.Role == "user" {
			question = string(m.Content)
		}
	}
	return in, reckon(question), nil
}

// tokens counts words, which are what it streams.
func (in chat) tokens() (n int) {
	for _, m := range in.Messages {
		n += len(strings.Fields(string(m.Content)))
	}
	return n
}

func pieces(answer string) []string { return strings.SplitAfter(answer, " ") }

// chatCompletions answers as OpenAI does.
func chatCompletions(w http.ResponseWriter, r *http.Request) {
	in, out, no := readChat(w, r)
	if no != nil {
		reply(w, no.status, object{"error": object{"message": no.message, "type": no.kind, "param": nil, "code": nil}})
		return
	}
	head := func(kind string, choices ...object) object {
		if choices == nil {
			choices = []object{} // not null
		}
		return object{"id": "chatcmpl-rlca", "object": kind, "created": time.Now().Unix(), "model": engineModel, "system_fingerprint": "fp_rlca", "choices": choices}
	}
	asked, said := in.tokens(), len(pieces(out))
	usage := object{"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
	if !in.Stream {
		v := head("chat.completion", object{"index": 0, "message": object{"role": "assistant", "content": out}, "finish_reason": "stop"})
		v["usage"] = usage
		reply(w, http.StatusOK, v)
		return
	}
	s := stream(w)
	chunk := func(delta object, finish any) {
		s.send("", head("chat.completion.chunk", object{"index": 0, "delta": delta, "finish_reason": finish}))
	}
	for _, p := range pieces(out) {
		chunk(object{"role": "assistant", "content": p}, nil) // Ollama names the role in each
	}
	chunk(object{"role": "assistant", "content": ""}, "stop")
	if in.StreamOptions.IncludeUsage {
		v := head("chat.completion.chunk")
		v["usage"] = usage
		s.send("", v)
	}
	s.line("data: [DONE]\n\n")
}

// messages answers as Anthropic does.
func messages(w http.ResponseWriter, r *http.Request) {
	in, out, no := readChat(w, r)
	if no != nil {
		reply(w, no.status, object{"type": "error", "error": object{"type": no.kind, "message": no.message}, "request_id": "req_rlca"})
		return
	}
	asked, said := in.tokens(), len(pieces(out))
	whole := func(content []object, stop any, said int) object {
		return object{
			"id": "msg_rlca", "type": "message", "role": "assistant", "model": engineModel, "content": content, "stop_reason": stop,
			"stop_sequence": nil, "usage": object{"input_tokens": asked, "output_tokens": said},
		}
	}
	if !in.Stream {
		reply(w, http.StatusOK, whole([]object{{"type": "text", "text": out}}, "end_turn", said))
		return
	}
	s := stream(w)
	event := func(kind string, v object) {
		v["type"] = kind
		s.send(kind, v)
	}
	event("message_start", object{"message": whole([]object{}, nil, 0)})
	event("content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
	for _, p := range pieces(out) {
		event("content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": p}})
	}
	event("content_block_stop", object{"index": 0})
	event("message_delta", object{"delta": object{"stop_reason": "end_turn", "stop_sequence": nil}, "usage": object{"input_tokens": asked, "output_tokens": said}})
	event("message_stop", object{})
}

// events is a stream of server-sent events, each of them sent at once.
type events struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
}

func stream(w http.ResponseWriter) events {
	w.Header().Set("Content-Type", "text/event-stream")
	return events{w, http.NewResponseController(w)}
}

func (e events) send(name string, v object) {
	data, err := json.Marshal(v)
	if err != nil {
		return // it is made of strings and numbers
	}
	if name != "" {
		name = "event: " + name + "\n"
	}
	e.line(name + "data: " + string(data) + "\n\n")
}

// line is not heard by a caller who is gone; there is no more to do about it.
func (e events) line(text string) {
	fmt.Fprint(e.w, text)
	e.ctrl.Flush()
}
