package instance

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
)

// windowsFar is a box that runs Windows, with the desktop app of Ollama. It answers the probe as a real one did, and of
// rlca's own scripts the one that asks for facts.
type windowsFar struct {
	t     *testing.T
	leads string // where Ollama answers
	bound string // the address that it listens on
	ran   *[]string
}

func (windowsFar) ServerVersion() string { return "OpenSSH_for_Windows_9.5" }

func (f windowsFar) Run(context.Context, string) ([]byte, error) {
	f.t.Error("a shell's script was sent to a Windows box")
	return nil, errors.New("'exec' is not recognized")
}

func (f windowsFar) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if addr != "127.0.0.1:11434" {
		return nil, fmt.Errorf("dial %s: refused", addr)
	}
	return new(net.Dialer).DialContext(ctx, network, f.leads)
}

func (f windowsFar) Command(_ context.Context, command string) ([]byte, error) {
	if command == probe.WindowsCommand() {
		out, err := os.ReadFile("../../probe/testdata/windows-rtx4070/answer.txt")
		return []byte(strings.ReplaceAll(string(out), "n0nce", "rlca-windows")), err
	}
	script := decoded(f.t, command)
	name, rest, _ := strings.Cut(strings.TrimPrefix(script, "# rlca "), "\n")
	*f.ran = append(*f.ran, name)
	tag, _, _ := strings.Cut(strings.TrimPrefix(rest, "$tag='"), "'")
	said := "begin=1 end=1"
	if name == "facts" {
		said = `begin=1 home=C:\Users\me path=C:\ollama.exe how=Windows~desktop~app listeners=net listen=` + f.bound + `~11434~6200~ollama end=1`
	}
	var out strings.Builder
	for word := range strings.FieldsSeq(said) {
		fmt.Fprintf(&out, "\r\n%s %s\r\n", tag, strings.ReplaceAll(word, "~", " "))
	}
	return []byte(out.String()), nil
}

// decoded is the script of a command.
func decoded(t *testing.T, command string) string {
	t.Helper()
	text, ok := strings.CutPrefix(command, "powershell -NoProfile -NonInteractive -EncodedCommand ")
	raw, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(raw)%2 != 0 {
		t.Fatalf("not a command of ours: %.80s: %v", command, err)
	}
	var b strings.Builder
	for i := 0; i < len(raw); i += 2 {
		b.WriteByte(raw[i]) // all of it is ASCII
	}
	return b.String()
}

func newWindowsFar(t *testing.T, bound string) windowsFar {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			fmt.Fprint(w, "Ollama is running")
		case "/api/version":
			fmt.Fprint(w, `{"version":"0.32.9"}`)
		case "/api/tags":
			fmt.Fprint(w, `{"models":[{"name":"smol:latest","size":100000000,"digest":"d","details":{"family":"llama","quantization_level":"Q4_K_M"}}]}`)
		case "/api/show":
			fmt.Fprint(w, `{"model_info":{"general.architecture":"llama","llama.context_length":8192,"llama.block_count":2,"llama.embedding_length":64,"llama.attention.head_count":2}}`)
		case "/api/ps":
			fmt.Fprint(w, `{"models":[]}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return windowsFar{t, strings.TrimPrefix(s.URL, "http://"), bound, &[]string{}}
}

func windowsRequest(engine string) Request {
	p := profiles.Default()
	p.Engine.Name, p.Model.Name, p.Model.Context = engine, "smol", 8192
	return Request{Name: "attic", Profile: p}
}

// The plan for a Windows box is made without a shell: its Ollama is adopted, and nothing is started.
func TestLookAtWindows(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"auto", "ollama"} {
		far := newWindowsFar(t, "0.0.0.0")
		s, err := Look(t.Context(), windowsRequest(engine), &Reached{Far: far, Box: "b"}, slog.New(slog.DiscardHandler), func(Event) {})
		if err != nil {
			t.Fatalf("%s: %v", engine, err)
		}
		if s.Running == nil || s.Running.Origin() != "adopted (Windows desktop app)" || s.Plan.Model != "smol:latest" && s.Plan.Model != "smol" || !s.OnBox {
			t.Errorf("%s: %+v, plan %+v", engine, s.Running, s.Plan)
		}
		if text := exposureText(s.Running, ""); !strings.Contains(text, "Ollama on the box listens on 0.0.0.0:11434") || !strings.Contains(text, "remove OLLAMA_HOST") {
			t.Errorf("%s: warning %q", engine, text)
		}
		for _, name := range *far.ran {
			if name != "facts" {
				t.Errorf("%s: ran %s", engine, name)
			}
		}
	}
}

func TestWindowsHasOllamaAlone(t *testing.T) {
	t.Parallel()
	for engine, says := range map[string]string{
		"vllm":         "find vLLM on attic: it does not run on Windows itself: set it up in WSL2",
		"llama-server": "find llama-server on attic: on Windows rlca starts and adopts Ollama alone",
	} {
		far := newWindowsFar(t, "127.0.0.1")
		_, err := Look(t.Context(), windowsRequest(engine), &Reached{Far: far, Box: "b"}, slog.New(slog.DiscardHandler), func(Event) {})
		if err == nil || !strings.HasPrefix(err.Error(), says) || !strings.Contains(err.Error(), "--engine none") {
			t.Errorf("%s: %v", engine, err)
		}
		if len(*far.ran) > 0 {
			t.Errorf("%s: ran %q", engine, *far.ran)
		}
	}
}

func TestBoxOf(t *testing.T) {
	t.Parallel()
	if b := boxOf(portFar{}, nil); b.PowerShell != nil {
		t.Error("a box that runs no Windows is asked by PowerShell")
	}
	far := newWindowsFar(t, "127.0.0.1")
	b := boxOf(far, slog.New(slog.DiscardHandler))
	if out, err := b.PowerShell(t.Context(), "# rlca facts\n$tag='n'\n"); err != nil || !strings.Contains(string(out), "n listen=127.0.0.1 11434 6200 ollama") {
		t.Errorf("PowerShell = %q, %v", out, err)
	}
	if _, err := b.PowerShell(t.Context(), strings.Repeat("x", 3000)); err == nil || !strings.Contains(err.Error(), "and Windows takes 8000") || len(*far.ran) != 1 {
		t.Errorf("a script that is too long: %v; ran %q", err, *far.ran)
	}
	if s, err := remote.NewOllama(b, "").Find(t.Context()); err != nil || !s.Adopted {
		t.Errorf("Find = %+v, %v", s, err)
	}
	if orphans, err := remote.Orphans(t.Context(), b); err != nil || len(orphans) != 0 {
		t.Errorf("Orphans = %+v, %v", orphans, err)
	}
}
