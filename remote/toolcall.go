package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// ToolError says that a model that should call tools does not, as harnesses ask it to.
type ToolError struct {
	Model string `json:"model"`
	// Text is what the engine or the model said instead.
	Text string `json:"text"`
	// NoParser is true where the server was started without a parser of the model's calls.
	NoParser bool `json:"no_parser"`
}

func (e *ToolError) Error() string { return fmt.Sprintf("%s calls no tools: %s", e.Model, e.Text) }

// toolTokens is enough for a call and some thoughts before it.
const toolTokens = 400

// CallTool has a model call one tool through the API at url, "http://127.0.0.1:11434", as a harness would. Nothing is
// run. A model that does not call it is a *ToolError; one whose answer was cut before it could is no error.
func CallTool(ctx context.Context, url, token, model string) error {
	body, err := json.Marshal(map[string]any{
		"model": model, "max_tokens": toolTokens, "stream": false, "temperature": 0,
		"messages": []map[string]string{{"role": "user", "content": "Call the tool bash with the command: echo hi"}},
		"tools": []any{map[string]any{"type": "function", "function": map[string]any{
			"name": "bash", "description": "Runs a shell command.",
			"parameters": map[string]any{
				"type": "object", "required": []string{"command"},
				"properties": map[string]any{"command": map[string]string{"type": "string", "description": "the command"}},
			},
		}}},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", strings.TrimSuffix(url, "/")+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // its Proxy is nil: none
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask %s to call a tool: %w", model, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", model, err)
	}
	if resp.StatusCode != http.StatusOK {
		said := errorText(text)
		if resp.StatusCode/100 == 4 {
			return &ToolError{Model: model, Text: said, NoParser: strings.Contains(said, "--tool-call-parser") || strings.Contains(said, "--jinja")}
		}
		return fmt.Errorf("ask %s to call a tool: it answered %s: %s", model, resp.Status, said)
	}
	return readToolCall(model, text)
}

// readToolCall looks for a call in the answer of a chat.
func readToolCall(model string, text []byte) error {
	var reply struct {
		Choices []struct {
			Finish  string `json:"finish_reason"`
			Message struct {
				Content string            `json:"content"`
				Calls   []json.RawMessage `json:"tool_calls"`
			} `json:"message"`
		} `json:"choices"`
	}
	switch err := json.Unmarshal(text, &reply); {
	case err != nil:
		return fmt.Errorf("read the answer of %s: no JSON: %q", model, clean(string(text)))
	case len(reply.Choices) == 0:
		return fmt.Errorf("the answer of %s has no choices", model)
	}
	c := reply.Choices[0]
	switch said := clean(c.Message.Content); {
	case len(c.Message.Calls) > 0, c.Finish == "length":
		return nil
	case strings.Contains(said, "<tool_call") || strings.Contains(said, `"arguments"`):
		return &ToolError{Model: model, Text: "its call came as text, which no harness runs", NoParser: true}
	default:
		return &ToolError{Model: model, Text: fmt.Sprintf("it answered in words: %q", strings.ToValidUTF8(said[:min(len(said), 80)], ""))}
	}
}
