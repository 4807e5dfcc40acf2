package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rlca/internal/box"
	"rlca/internal/instance"
	"rlca/profiles"
	"rlca/tunnel"
)

// A password is kept for the reconnects; a code is not, and a second connect hands over the next one.
func TestSecrets(t *testing.T) {
	for name, code := range map[string]bool{"password": false, "code": true} {
		t.Run(name, func(t *testing.T) {
			p := paths(t)
			s := &Server{Paths: p, Version: "1", Stay: true}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			defer func() { cancel(); <-done }()
			<-s.Ready()
			o := box.Options{User: "me", Password: "open sesame"}
			if code {
				o.Code = "1"
			}
			b, err := box.Start(o)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			req := instance.Request{Name: "box", Profile: profiles.Default(), OpenSSH: "none", SSHConfig: "none", AgentSocket: "none", AcceptNew: true}
			req.Profile.Host, req.Profile.Forward.Listen, req.Profile.Engine.Name = "me@"+b.Addr(), "127.0.0.1:0", "none"
			t.Setenv("HOME", t.TempDir())
			c := &Client{Paths: p, Version: "1"}
			connect := func() (*instance.Status, bool, error) {
				limit, end := context.WithTimeout(ctx, 20*time.Second)
				defer end()
				return c.Connect(limit, req, func(instance.Event) {})
			}
			ask := func(want string, answers ...string) {
				t.Helper()
				_, _, err := connect()
				var e *tunnel.SecretError
				if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
					t.Fatalf("Connect = %v, want %s", err, want)
				}
				for i, q := range e.Questions {
					req.Say(q, answers[i])
				}
			}
			if code {
				ask(`asks me@127.0.0.1 for "Password:" and "Code:"`, "open barley", "1")
				ask(`does not take`, "open sesame", "1")
			} else {
				ask("asks for the password of me@127.0.0.1", "open barley")
				ask("is not right", "open sesame")
			}
			if _, already, err := connect(); err != nil || already {
				t.Fatalf("Connect = %v", err)
			}
			state := func(want string) {
				t.Helper()
				for range 400 {
					st, err := c.Status(ctx)
					if err == nil && len(st.Hosts) == 1 && st.Hosts[0].State == want && (want != "up" || st.Hosts[0].Link.Reconnects > 0) {
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
				st, _ := c.Status(ctx)
				data, _ := json.Marshal(st)
				t.Fatalf("the state is not %s: %s", want, data)
			}
			b.Cut()
			if code {
				state("needs you")
				req.Spend()
				ask(`for "Code:"`, "1")
				if _, already, err := connect(); err != nil || !already {
					t.Errorf("Connect with another code = %v, %v", already, err)
				}
			}
			state("up")
			st, _ := c.Status(ctx)
			data, _ := json.Marshal(st)
			if strings.Contains(string(data), "sesame") {
				t.Errorf("the password is in the status %s", data)
			}
			filepath.Walk(p.State, func(path string, info os.FileInfo, _ error) error {
				if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "open ") {
					t.Errorf("the password is in %s: %s", path, text)
				}
				return nil
			})
		})
	}
}
