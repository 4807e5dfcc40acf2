package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// answerLimit is how long the first token may take: a cold prompt on a slow machine.
const answerLimit = 5 * time.Minute

// Answer asks model for one real token at url, "http://127.0.0.1:11434", as a harness would, and returns how long it
// took. No proxy is used. An answer without text counts: a model may begin with thoughts. A model that answers with
// an error is a *LoadError.
func Answer(ctx context.Context, url, token, model string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"model": model, "max_tokens": 1, "stream": false,
		"messages": []map[string]string{{"role": "user", "content": "Say yes."}},
	})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", strings.TrimSuffix(url, "/")+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // its Proxy is nil: none
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, fmt.Errorf("read the answer of %s: %w", model, err)
	}
	took := time.Since(start)
	if resp.StatusCode != http.StatusOK {
		e := loadError(model, errorText(text))
		if e.Text == "" {
			e.Text = "it answered " + resp.Status
		}
		return 0, e
	}
	var reply struct {
		Choices []json.RawMessage `json:"choices"`
		Error   json.RawMessage   `json:"error"`
	}
	switch err := json.Unmarshal(text, &reply); {
	case err != nil:
		return 0, fmt.Errorf("read the answer of %s: no JSON: %q", model, clean(string(text)))
	case len(reply.Error) > 0 && string(reply.Error) != "null":
		return 0, loadError(model, errorText(text))
	case len(reply.Choices) == 0:
		return 0, errors.New("the answer of " + model + " has no choices")
	}
	return took, nil
}
