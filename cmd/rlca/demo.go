package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"rlca/internal/box"
	"rlca/internal/instance"
	"rlca/internal/supervisor"
	"rlca/profiles"
	"rlca/remote"
)

// demoModelLimit is the biggest model that the demo loads: it must be done within 20 s.
const demoModelLimit = 2 << 30

func (a *app) demoCmd() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "the whole main job against an embedded box: nothing needed, nothing left behind", Args: cobra.NoArgs,
		Long: `demo starts an SSH box inside this process, connects to it as it would to yours, asks it one question,
cuts the link while a second one waits, and shows that it is answered after the link has healed.

It uses an Ollama that this machine has, with its smallest model, or else a small built-in engine that
says so in its name and in every answer. Profile, keys and known_hosts are its own and are thrown away.`,
		RunE: func(*cobra.Command, []string) error { return a.demo() },
	}
}

func (a *app) demo() (err error) {
	ctx, cancel := context.WithTimeout(a.ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "rlca-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	defer os.RemoveAll(dir)

	b, err := a.demoBox(dir)
	if err != nil {
		return err
	}
	defer b.Close()
	req, engineEnd, done, err := a.demoRequest(ctx, dir)
	if err != nil {
		return err
	}
	defer done()

	// The same supervisor and the same connect as for any other host, in a state folder of their own.
	client := &supervisor.Client{Paths: supervisor.Paths{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run")}, Version: version}
	stop, err := (&app{ctx: ctx, talk: a.talk}).inProcess(client, make(chan error, 1))
	if err != nil {
		return err
	}
	defer stop()
	st, _, err := client.Connect(ctx, req, a.talk.step)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if _, e := client.Disconnect(end, req.Name, engineEnd); e != nil {
			err = errors.Join(err, e)
		} else if err == nil {
			a.talk.say("demo    everything it started is gone again. Now with your own box: rlca connect user@host")
		}
	}()
	a.talk.line("")
	url := "http://" + st.Forward.Listen

	const question = "what is 2 + 2?"
	start := time.Now()
	answer, err := ask(ctx, url, st.Model.Name, question)
	if err != nil {
		return err
	}
	a.talk.say("demo    asked: %s   answered in %s", question, instance.Span(time.Since(start)))
	a.talk.fact("        " + answer)

	// The cut: every connection is reset and nobody is let in again for a moment, as when a laptop changes networks.
	time.Sleep(100 * time.Millisecond) // the first answer's connection closes in peace
	b.Pause()
	b.Cut()
	cut := time.Now()
	reply := make(chan error, 1)
	go func() {
		_, err := ask(ctx, url, st.Model.Name, question)
		reply <- err
	}()
	time.Sleep(300 * time.Millisecond)
	b.Resume()
	if err := client.Poke(ctx, req.Name); err != nil {
		return err
	}
	back := time.Now()
	if err := <-reply; err != nil {
		return fmt.Errorf("the question that waited while the link was cut: %w", err)
	}
	after, err := client.Status(ctx)
	if err != nil {
		return err
	}
	f := after.Hosts[0].Forward
	a.talk.say("demo    cut the link while a second question waited … healed in %s, answered %s after the cut, %d refused",
		instance.Span(time.Since(back)), instance.Span(time.Since(cut)), f.Reset+f.Failed)
	return nil
}

// demoBox starts the embedded box, and writes an ssh_config, a key and a known_hosts that know it.
func (a *app) demoBox(dir string) (*box.Box, error) {
	key, pub, err := box.NewClientKey(dir)
	if err != nil {
		return nil, err
	}
	b, err := box.Start(box.Options{User: "demo", AuthorizedKeys: []box.PublicKey{pub}})
	if err != nil {
		return nil, fmt.Errorf("start the embedded box: %w", err)
	}
	known := filepath.Join(dir, "known_hosts")
	config := fmt.Sprintf("Host demo\n  HostName %s\n  Port %s\n  User demo\n  IdentityFile %s\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n",
		b.Host(), b.Port(), key, known)
	for path, text := range map[string]string{known: b.KnownHostsLine() + "\n", filepath.Join(dir, "ssh_config"): config} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	return b, nil
}

// demoRequest says what to connect to: the smallest model of this machine's Ollama, else the built-in engine.
// after is what becomes of the engine: where no Ollama runs yet, the one that the demo starts has to end with it.
func (a *app) demoRequest(ctx context.Context, dir string) (req instance.Request, after supervisor.Stop, done func(), err error) {
	req = instance.Request{Name: "demo", Profile: profiles.Default(), SSHConfig: filepath.Join(dir, "ssh_config"), OpenSSH: a.getenv("RLCA_OPENSSH")}
	req.Profile.Host = "demo"
	req.Profile.Forward.Listen = "127.0.0.1:0"
	req.Profile.Model.Context = 4096
	if model, running := smallest(ctx); model != "" {
		req.Profile.Model.Name = model
		if !running {
			after = supervisor.StopAlways
		}
		return req, after, func() {}, nil
	}
	engine, err := box.StartEngine(nil)
	if err != nil {
		return req, after, nil, fmt.Errorf("start the built-in engine: %w", err)
	}
	a.talk.say("demo    no Ollama with a small model here: a built-in engine that is no model answers instead")
	req.Profile.Engine.Address = engine.Addr()
	req.Profile.Model.Name = engine.Model()
	return req, after, func() { engine.Close() }, nil
}

// smallest is the smallest model of the Ollama on this machine, or empty, and whether that Ollama runs.
func smallest(ctx context.Context) (model string, running bool) {
	far, err := instance.Reach(ctx, instance.Request{Profile: profiles.Profile{Host: instance.Local}}, nil, quiet)
	if err != nil {
		return "", false
	}
	ollama := remote.NewOllama(remote.Box{Run: far.Run, Dial: far.Far.Dial, Log: slog.New(slog.DiscardHandler)}, "")
	_, err = ollama.Find(ctx)
	running = err == nil
	files, err := ollama.Inventory(ctx)
	if err != nil {
		return "", running
	}
	size := int64(demoModelLimit)
	for _, f := range files {
		if f.Bytes > 0 && f.Bytes < size {
			model, size = f.Name, f.Bytes
		}
	}
	return model, running
}

// ask sends one chat completion and returns its text.
func ask(ctx context.Context, url, model, question string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"model": model, "max_tokens": 64,
		"messages": []map[string]string{{"role": "user", "content": question}},
	})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var reply struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(text, &reply); err != nil || resp.StatusCode != http.StatusOK || len(reply.Choices) == 0 {
		return "", fmt.Errorf("%s answered %s: %s", url, resp.Status, bytes.TrimSpace(text))
	}
	return reply.Choices[0].Message.Content, nil
}
