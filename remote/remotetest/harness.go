package remotetest

import (
	"context"
	"os"
	"path/filepath"
)

// ToolFile is the file that the harnesses' tool call writes in the folder in which it runs.
const ToolFile = "hello.txt"

// shellTools are the shells of the harnesses by the names that they give them, with what asks the scripted model for a
// call, and the call. Each echoes hi and writes ToolFile.
var shellTools = []struct {
	name  string
	after byte
	call  string
}{
	{"Bash", '@', `{"name": "Bash", "parameters": {"command": "echo hi | tee hello.txt", "description": "say hi"}}`},
	{"bash", '#', `{"name": "bash", "parameters": {"command": "echo hi | tee hello.txt", "description": "say  hi"}}`},
	{"run_shell_command", '%', `{"name": "run_shell_command", "parameters": {"command": "echo hi | tee hello.txt", "is_background": false}}`},
	{"exec_command", '=', `{"name": "exec_command", "parameters": {"cmd": "echo hi | tee hello.txt"}}`},
	{"shell_command", '+', `{"name": "shell_command", "parameters": {"command": "echo hi | tee hello.txt"}}`},
}

// Talker is a template with which the scripted model answers Hello, whatever tools there are; it has to name them, or
// Ollama refuses requests with tools.
const Talker = `{{- range .Messages }}{{ range .ToolCalls }}{{/* {"name":"{{ .Function.Name }}"} */}}{{ end }}{{ end }}{{- range .Tools }}{{ end }}|`

// Worker is a template with which it calls the harness's shell once, and then answers AfterTool.
func Worker() string {
	t := `{{- $last := "" }}{{- range .Messages }}{{ $last = .Role }}{{ range .ToolCalls }}{{/* {"name":"{{ .Function.Name }}"} */}}{{ end }}{{ end }}{{- $t := "|" }}{{- range .Tools }}`
	for _, s := range shellTools {
		t += `{{ if eq .Function.Name "` + s.name + `" }}{{ $t = "` + string(s.after) + `" }}{{ end }}`
	}
	return t + `{{ end }}{{ if eq $last "tool" }}^{{ else }}{{ $t }}{{ end }}`
}

// CreateForHarnesses gives the Ollama at baseURL two models, talker and worker.
func CreateForHarnesses(ctx context.Context, baseURL string) error {
	if err := createWith(ctx, baseURL, "talker", Talker); err != nil {
		return err
	}
	return CreateWorker(ctx, baseURL, "worker")
}

// CreateWorker gives it the model of Worker under a name.
func CreateWorker(ctx context.Context, baseURL, name string) error {
	return createWith(ctx, baseURL, name, Worker())
}

func createWith(ctx context.Context, baseURL, name, template string) error {
	dir, err := os.MkdirTemp("", "rlca-scripted-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "scripted.gguf")
	if err := WriteScripted(path); err != nil {
		return err
	}
	return Create(ctx, baseURL, name, path, map[string]any{"template": template, "parameters": map[string]any{"num_thread": 1, "temperature": 0}})
}
