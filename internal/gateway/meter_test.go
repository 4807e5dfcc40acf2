package gateway

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// streams are the bodies of answers, as the engines gave them; each has the prompt's words in it, which must not leave
// the parser.
var streams = map[string]struct {
	shape shape
	body  string
	want  Exchange // what of it is told
}{
	"openai chat": {shapeEvents, `data: {"id":"c","object":"chat.completion.chunk","model":"qwen3:30b","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"id":"c","model":"qwen3:30b","choices":[{"index":0,"delta":{"content":"SECRET \"usage\":{\"prompt_tokens\":1}"},"finish_reason":null}]}

: ping

data: {"id":"c","model":"qwen3:30b","choices":[{"index":0,"delta":{"content":" two"},"finish_reason":null}]}

data: {"id":"c","model":"qwen3:30b","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: {"id":"c","model":"qwen3:30b","choices":[],"usage":{"prompt_tokens":4049,"completion_tokens":12,"total_tokens":4061,"prompt_tokens_details":{"cached_tokens":100}}}

data: [DONE]

`, Exchange{Answered: "qwen3:30b", PromptTokens: 4049, CachedTokens: 100, CompletionTokens: 12, Finish: "stop", Pieces: 2}},
	"openai tools, crlf": {shapeEvents, "data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"sh\",\"arguments\":\"\"}}]}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\":1}\"}}]},\"finish_reason\":\"tool_calls\"}],\"timings\":{\"predicted_per_second\":92.5}}\r\n\r\n",
		Exchange{Answered: "m", Finish: "tool_calls", Pieces: 2, Estimated: true, TokensPerSecond: 92.5}},
	"openai whole": {shapeWhole, `{"model":"m","choices":[{"message":{"role":"assistant","content":"SECRET","tool_calls":null},"finish_reason":"length"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`, Exchange{Answered: "m", PromptTokens: 7, CompletionTokens: 3, Finish: "length", Pieces: 1}},
	"two choices at once": {shapeEvents, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}},{\"index\":1,\"delta\":{\"content\":\"b\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"},{\"index\":1,\"delta\":{\"content\":\"c\"},\"finish_reason\":\"length\"}]}\n\n",
		Exchange{Finish: "length", Pieces: 2, Estimated: true}},
	"two choices, whole": {shapeWhole, `{"choices":[{"message":{"content":"a"},"finish_reason":"stop"},{"message":{"content":"b"},"finish_reason":"length"}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`,
		Exchange{PromptTokens: 7, CompletionTokens: 3, Finish: "length", Pieces: 1}},
	"thought and said":      {shapeEvents, "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"a\",\"content\":\"b\"}}]}\n\n", Exchange{Pieces: 1, Estimated: true}},
	"usage in every piece":  {shapeEvents, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: {\"usage\":null}\n\n", Exchange{PromptTokens: 9, CompletionTokens: 2, Pieces: 2}},
	"events, cr alone":      {shapeEvents, "data: {\"model\":\"m\"}\r\rdata: {\"usage\":{\"prompt_tokens\":5}}\r\r", Exchange{Answered: "m", PromptTokens: 5}},
	"cut in a piece":        {shapeEvents, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}", Exchange{Pieces: 2, Estimated: true}},
	"lines, the last cut":   {shapeLines, "{\"message\":{\"content\":\"a\"}}\n{\"message\":{\"content\":\"b\"},\"eval_cou", Exchange{Pieces: 2, Estimated: true}},
	"lines, one broken":     {shapeLines, "{\"model\":}\n\n{{{\n{\"model\":\"m\",\"prompt_eval_count\":7,\"eval_count\":2}\r\n", Exchange{Answered: "m", PromptTokens: 7, CompletionTokens: 2}},
	"nothing told":          {shapeWhole, `{"object":"list","data":[]}`, Exchange{}},
	"not a number":          {shapeWhole, `{"usage":{"prompt_tokens":true,"completion_tokens":{"x":3}}}`, Exchange{}},
	"not JSON":              {shapeWhole, "<html>\"model\":\"no\"</html>", Exchange{}},
	"a line without an end": {shapeEvents, "data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("x\\n", 1<<17) + "\"}}],\"model\":\"m\"}", Exchange{Answered: "m", Pieces: 1, Estimated: true}},
	"openai completions":    {shapeEvents, "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\ndata: {\"choices\":[{\"text\":\"b\",\"finish_reason\":\"stop\"}],\"model\":\"m\"}\n\n", Exchange{Answered: "m", Finish: "stop", Pieces: 2, Estimated: true}},
	"anthropic": {shapeEvents, `event: message_start
data: {"type":"message_start","message":{"id":"m1","model":"qwen3:30b","content":[],"stop_reason":null,"usage":{"input_tokens":20,"cache_read_input_tokens":300,"cache_creation_input_tokens":4,"output_tokens":0}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"SECRET"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"model\":\"x\"}"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"input_tokens":0,"output_tokens":9}}

event: message_stop
data: {"type":"message_stop"}

`, Exchange{Answered: "qwen3:30b", PromptTokens: 324, CachedTokens: 300, CompletionTokens: 9, Finish: "end_turn", Pieces: 2}},
	// Ollama 0.17.4 has to guess the prompt's tokens when the first piece comes, and knows them at the end.
	"anthropic of ollama": {shapeEvents, `event: message_start
data: {"type":"message_start","message":{"id":"m1","model":"m","content":[],"usage":{"input_tokens":15750,"output_tokens":0}}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"SECRET"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"input_tokens":4049,"output_tokens":9}}

`, Exchange{Answered: "m", PromptTokens: 4049, CompletionTokens: 9, Finish: "max_tokens", Pieces: 1}},
	"anthropic, told again as nothing": {shapeEvents, "data: {\"message\":{\"usage\":{\"input_tokens\":20,\"cache_read_input_tokens\":300,\"cache_creation_input_tokens\":4,\"output_tokens\":1}}}\n\n" +
		"data: {\"usage\":{\"input_tokens\":null,\"cache_read_input_tokens\":null,\"cache_creation_input_tokens\":0,\"output_tokens\":9}}\n\ndata: {\"usage\":{\"output_tokens\":0}}\n\n",
		Exchange{PromptTokens: 324, CachedTokens: 300, CompletionTokens: 9}},
	"responses": {shapeEvents, `event: response.created
data: {"type":"response.created","response":{"id":"r","status":"in_progress","model":"m","usage":null,"error":null}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","delta":"SECRET"}

event: response.completed
data: {"type":"response.completed","response":{"status":"completed","model":"m","output":[{"content":[{"text":"SECRET"}]}],"usage":{"input_tokens":50,"input_tokens_details":{"cached_tokens":8},"output_tokens":5}}}

`, Exchange{Answered: "m", PromptTokens: 50, CachedTokens: 8, CompletionTokens: 5, Finish: "completed", Pieces: 1}},
	"responses cut short": {shapeWhole, `{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"model":"m","output":[{"content":[{"type":"output_text","text":"x"}]}],"usage":{"input_tokens":1,"output_tokens":2}}`, Exchange{Answered: "m", PromptTokens: 1, CompletionTokens: 2, Finish: "max_output_tokens", Pieces: 1}},
	"ollama chat":         {shapeLines, "{\"model\":\"qwen3:30b\",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"SECRET\"},\"done\":false}\n{\"model\":\"qwen3:30b\",\"message\":{\"content\":\"b\"},\"done\":false}\n{\"model\":\"qwen3:30b\",\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":256,\"eval_count\":40,\"eval_duration\":2000000000}\n", Exchange{Answered: "qwen3:30b", PromptTokens: 256, CompletionTokens: 40, TokensPerSecond: 20, Finish: "stop", Pieces: 2}},
	"ollama generate":     {shapeLines, "{\"model\":\"m\",\"response\":\"a\",\"done\":false}\n{\"model\":\"m\",\"response\":\"\",\"done\":true,\"done_reason\":\"load\",\"context\":[1,2,3]}", Exchange{Answered: "m", Finish: "load", Pieces: 1, Estimated: true}},
	"error":               {shapeEvents, "data: {\"error\":{\"message\":\"SECRET\",\"code\":500}}\n\n", Exchange{Error: true}},
	"ollama error":        {shapeLines, "{\"error\":\"SECRET\"}\n", Exchange{Error: true}},
	"pretty":              {shapeWhole, "{\n  \"a.b\": {\"model\": \"no\"},\n  \"x\": [[{\"model\": \"no\"}], \"model\"],\n  \"m\\u006fdel\": \"no\",\n  \"usage\" : { \"prompt_tokens\" : 5 , \"completion_tokens\":1e3},\n  \"model\" :\"yes\"\n}\n", Exchange{Answered: "yes", PromptTokens: 5}},
	"data over two lines": {shapeEvents, "data: {\"model\":\ndata: \"m\"}\n\n", Exchange{Answered: "m"}},
	"no empty lines":      {shapeEvents, "data:{\"model\":\"a\"}\ndata:{\"model\":\"b\"}\n", Exchange{Answered: "b"}},
	"broken events":       {shapeEvents, "data: {\"model\":\ndatum: x\nda\n\ndata: }{\n\ndata: {\"model\":\"ok\"}\n\n", Exchange{Answered: "ok"}},
	"long values":         {shapeWhole, `{"model":"` + strings.Repeat("m", 1000) + `","stop_reason":"` + strings.Repeat("r", 129) + `"}`, Exchange{}},
	"deep":                {shapeWhole, `{"a":` + strings.Repeat(`[{"model":`, 200) + `"no"` + strings.Repeat(`}]`, 200) + `,"model":"yes"}`, Exchange{Answered: "yes"}},
	"too deep":            {shapeWhole, strings.Repeat("[", 100000), Exchange{}},
	"absurd numbers":      {shapeWhole, `{"usage":{"prompt_tokens":-5,"completion_tokens":99999999999999999999},"timings":{"predicted_per_second":1e300}}`, Exchange{}},
}

// readIn reads a body in pieces of n bytes.
func readIn(shape shape, body string, n int) Exchange {
	x := Exchange{}
	u := newUsage(&x)
	defer u.free()
	u.shape = shape
	start := time.Now()
	for b := []byte(body); len(b) > 0; {
		k := min(n, len(b))
		u.take(b[:k], start)
		b = b[k:]
	}
	u.sum(start)
	return x
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, s := range streams {
		for _, n := range []int{1, 2, 3, 7, 64, 1 << 20} {
			x := readIn(s.shape, s.body, n)
			x.FirstToken = 0
			want := s.want
			if want.CompletionTokens == 0 && want.Pieces > 0 {
				want.Estimated = true
			}
			if x != want {
				t.Errorf("%s in pieces of %d:\n%+v, want\n%+v", name, n, x, want)
			}
		}
	}
}

// TestUsageKeepsNothing: what a parser has seen is not in it when it is used again.
func TestUsageKeepsNothing(t *testing.T) {
	t.Parallel()
	x := Exchange{}
	u := newUsage(&x)
	u.shape = shapeWhole
	u.request.feed([]byte(`{"model":"SECRET","messages":[{"SECRETKEY":"SECRET`))
	u.take([]byte(`{"model":"SECRET","usage":{"SECRETKEY":"SECRET`), time.Now())
	r, p := &u.request, &u.reply
	r.reset()
	p.reset()
	for _, b := range [][]byte{r.path[:], r.name[:], r.text[:], p.path[:], p.name[:], p.text[:]} {
		if strings.Contains(string(b), "SECRET") {
			t.Errorf("%q is kept", b)
		}
	}
	u.free()
}

func TestRequestUsage(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]Exchange{
		`{"messages":[{"role":"user","content":"\"model\":\"no\"","model":"no"}],"model":"qwen3:30b","stream":true}`: {Asked: "qwen3:30b"},
		`{"model":"m","options":{"num_ctx":8192}}`: {Asked: "m", AskedContext: 8192},
		`{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}]}`: {Asked: "m", Images: true},
		`{"model":"m","messages":[{"images":["AAAA"]}]}`:                                                                 {Asked: "m", Images: true},
		`{"model":"m","messages":[{"content":[{"type":"image","source":{"type":"base64","data":"AAAA"}}]}]}`:             {Asked: "m", Images: true},
		`{"model":null}`: {}, `not JSON`: {}, ``: {}, `{"model":5}`: {}, `{"model":"a` + "\x1b" + `b"}`: {Asked: "ab"},
	} {
		for n := 1; n < 9; n += 3 {
			x := Exchange{}
			u := newUsage(&x)
			for b := []byte(body); len(b) > 0; {
				k := min(n, len(b))
				u.request.feed(b[:k])
				b = b[k:]
			}
			u.free()
			if x != want {
				t.Errorf("%s: %+v, want %+v", body, x, want)
			}
		}
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		context := 4096
		m := &Meter{Context: func() int { return context }}
		if r := m.Reading(); r.Last != nil || r.Requests != 0 || r.Context != 4096 {
			t.Errorf("before the first %+v", r)
		}
		m.Observe(Exchange{Path: "/v1/models", Status: 200})
		ok := Exchange{Metered: true, Status: 200, PromptTokens: 1000, CompletionTokens: 50, FirstToken: time.Second, TokensPerSecond: 30, RequestBytes: 5000, Asked: "m", Answered: "m:latest"}
		for i := range 3 {
			x := ok
			x.FirstToken *= time.Duration(i + 1)
			m.Observe(x)
			time.Sleep(time.Minute)
		}
		r := m.Reading()
		if r.Requests != 3 || r.FirstToken != 2*time.Second || r.TokensPerSecond != 30 || r.PromptTokens != 3000 || r.Used != 1050 || len(r.Warnings) != 0 || r.Last.FirstToken != 3*time.Second {
			t.Errorf("after three %+v", r)
		}
		warns := func(x Exchange, want ...WarningKind) {
			t.Helper()
			m.Observe(x)
			got := m.Reading().Warnings
			for i, w := range got {
				if i >= len(want) || w.Kind != want[i] || w.Message == "" {
					t.Errorf("warns %+v, want %v", got, want)
				}
			}
			if len(got) != len(want) {
				t.Errorf("warns %+v, want %v", got, want)
			}
		}
		x := ok
		x.PromptTokens = 3891 // 94.99 %
		warns(x)
		x.PromptTokens = 3892
		warns(x, PromptFills)
		x.PromptTokens, x.Status = 0, 500
		warns(x, PromptFills) // that told nothing
		warns(ok)             // and that told that it is over
		x = ok
		x.RequestBytes = 63000
		x.PromptTokens = 5300 // of 63,000/6 = 10,500 at least
		context = 0
		warns(x)
		x.PromptTokens = 5200
		warns(x, PromptCut)
		x.Images = true
		warns(x)
		x = ok
		x.AskedContext = 1024
		warns(x, PromptFills)
		x.AskedContext = 0
		x.Answered = "other"
		warns(x, OtherModel)
		warns(x, OtherModel)
		if w := m.Reading().Warnings[0]; w.Count != 2 || w.Message != `"m" was asked for, and "other" answers` {
			t.Errorf("%+v", w)
		}
		if _, err := json.Marshal(m.Reading().Warnings); err != nil {
			t.Error(err)
		}
		m.Same = func(asked, answered string) bool { return asked == "m" && answered == "other" }
		warns(x)
		time.Sleep(6 * time.Minute)
		if r := m.Reading(); r.Requests != 0 || r.FirstToken != 0 || r.Last == nil {
			t.Errorf("six minutes later %+v", r)
		}
		for range 2000 {
			m.Observe(ok)
		}
		if len(m.samples) > meterSamples {
			t.Errorf("%d samples are kept", len(m.samples))
		}
	})
}

// TestMeterLive looks at the times of a whole exchange.
func TestMeterLive(t *testing.T) {
	t.Parallel()
	done := make(chan Exchange, 4)
	within(t, &Gateway{Observe: func(x Exchange) { done <- x }}, errDown, func(w *world) {
		done = make(chan Exchange, 4)
		w.serve = slowStream
		time.AfterFunc(5*time.Second, func() { w.say(nil) })
		body := `{"stream":true,"messages":[],"model":"asked"}`
		if resp, _, _ := w.ask(post("/v1/chat/completions", body), "POST"); resp.StatusCode != 200 {
			t.Errorf("answered %d", resp.StatusCode)
		}
		x := <-done
		if x.Held < 5*time.Second || x.Held > 6*time.Second || x.FirstByte != time.Second || x.FirstToken != 2*time.Second || x.Took != 4*time.Second {
			t.Errorf("times are %+v", x)
		}
		if !x.Metered || x.Asked != "asked" || x.Answered != "answered" || x.Pieces != 3 || x.CompletionTokens != 3 || x.TokensPerSecond != 1 || x.RequestBytes != int64(len(body)) || x.Status != 200 {
			t.Errorf("told is %+v", x)
		}
	})
}

// slowStream answers with a piece every second, the first of them empty.
func slowStream(c net.Conn, r *bufio.Reader) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	io.Copy(io.Discard, req.Body)
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	for _, text := range []string{"", "a", "b", "c"} {
		time.Sleep(time.Second)
		event := fmt.Sprintf("data: {\"model\":\"answered\",\"choices\":[{\"delta\":{\"content\":%q}}],\"usage\":{\"completion_tokens\":3}}\n\n", text)
		fmt.Fprintf(c, "%x\r\n%s\r\n", len(event), event)
	}
	io.WriteString(c, "0\r\n\r\n")
}

// TestMeterEncoded: an answer that is compressed is passed on as it is, and tells nothing.
func TestMeterEncoded(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, streams["openai chat"].body)
	z.Close()
	done := make(chan Exchange, 1)
	e := newEngine(t, func(c *net.TCPConn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", packed.Len(), packed.String())
	})
	c := call(t, served(t, &Gateway{Dial: e.Dial, Observe: func(x Exchange) { done <- x }}))
	send(t, c, post("/v1/chat/completions", `{"model":"m"}`))
	if _, body := readAnswer(t, bufio.NewReader(c), "POST"); body != packed.String() {
		t.Errorf("%d bytes came, want the %d of the engine", len(body), packed.Len())
	}
	x := <-done
	if x.Status != 200 || x.ReplyBytes != int64(packed.Len()) || x.Asked != "m" || x.Answered != "" || x.PromptTokens != 0 || x.Pieces != 0 || x.Error {
		t.Errorf("told is %+v", x)
	}
	m := &Meter{Context: func() int { return 100 }}
	m.Observe(x)
	if r := m.Reading(); r.Requests != 1 || r.TokensPerSecond != 0 || r.FirstToken != 0 || len(r.Warnings) != 0 {
		t.Errorf("the meter reads %+v", r)
	}
}

// TestUsageMemory: however long a line, a text or a key is, reading it takes no memory.
func TestUsageMemory(t *testing.T) { // not beside others: it looks at the process
	long := strings.Repeat("x", 64<<10)
	for name, begin := range map[string]string{
		"content": `data: {"choices":[{"delta":{"content":"`, "model": `data: {"model":"`, "key": `data: {"`, "number": `data: {"eval_count":1`,
		"no event": "xdata: ", "no JSON": "data: ", "depth": "data: " + strings.Repeat("[", 1000), "escapes": `data: {"model":"\u0041`,
	} {
		for _, shape := range []shape{shapeEvents, shapeLines, shapeWhole} {
			u := newUsage(new(Exchange))
			u.shape = shape
			first, more := []byte(begin), []byte(long)
			now := time.Now()
			u.take(first, now)
			if n := testing.AllocsPerRun(10, func() { u.take(more, now); u.request.feed(more) }); n > 0 {
				t.Errorf("%s in shape %d: %v allocations for each 64 KiB, want none", name, shape, n)
			}
			u.free()
		}
	}
}
