package remote

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"it's": `'it'\''s'`, "": "''", "a b$c`d`": "'a b$c`d`'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "\x1b[31mred\x1b[0m": "red", "a\nb\tc\r\n": "a b c", "bell\x07": "bell", "\u202eevil": "evil", "\x1b": "", "\x1b[": "", "caf\xe9": "caf",
		strings.Repeat("x", 500): strings.Repeat("x", 400) + "…",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"qwen3": "qwen3:latest", "Qwen3:30B": "qwen3:30b", "library/qwen3": "qwen3:latest", "registry.ollama.ai/library/qwen3:8b": "qwen3:8b",
		"me/model": "me/model:latest", "127.0.0.1:5000/a/b": "127.0.0.1:5000/a/b:latest", "hf.co/org/Model-GGUF:Q4_K_M": "hf.co/org/model-gguf:q4_k_m",
	} {
		if got := canonical(in); got != want {
			t.Errorf("canonical(%q) = %q, want %q", in, got, want)
		}
	}
	for _, c := range []struct {
		base    string
		context int
		want    string
	}{{"a:b", 65536, "a:b-rlca64k"}, {"a", 65536, "a:latest-rlca64k"}, {"h:1/a/b", 1000, "h:1/a/b:latest-rlca1000"}} {
		if got := derivedName(c.base, c.context); got != c.want {
			t.Errorf("derivedName(%q, %d) = %q, want %q", c.base, c.context, got, c.want)
		}
		if got := baseOf(c.want); !sameName(got, c.base) {
			t.Errorf("baseOf(%q) = %q, want %q", c.want, got, c.base)
		}
	}
	for _, name := range []string{"a:b", "a:b-rlca", "a:b-rlcak", "a:b-rlca64kk", "a:b-rlca-64k"} {
		if got := baseOf(name); got != name {
			t.Errorf("baseOf(%q) = %q", name, got)
		}
	}
	for name, want := range map[string]bool{
		"127.0.0.1:5000/a/b": true, "[::1]:5000/a/b": true, "127.0.0.1/a/b": true, "localhost:5000/a/b": false, "10.0.0.1:5000/a/b": false, "a/b": false, "a": false,
	} {
		if got := insecureHost(name); got != want {
			t.Errorf("insecureHost(%q) = %v", name, got)
		}
	}
	got := near("qwen3-coder:480b", []string{"llama3:8b", "qwen3:8b", "qwen3-coder:30b", "a", "b", "c", "d"})
	if len(got) != 5 || got[0] != "qwen3-coder:30b" || got[1] != "qwen3:8b" {
		t.Errorf("near = %v", got)
	}
}

func TestKeepAlive(t *testing.T) {
	for in, want := range map[string]any{"": -1, "-1": -1, "300": 300, "5m": "5m", "0": nil, "0s": nil, "-1m": "-1m"} {
		if got := keepAlive(in); got != want {
			t.Errorf("keepAlive(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestServerEnv(t *testing.T) {
	env, args, err := serverEnv(Plan{Context: 65536, Parallel: 2, KeepAlive: "10m", Args: []string{"OLLAMA_KV_CACHE_TYPE=q8_0", "--verbose"}}, "/data")
	if want := []string{"OLLAMA_NOPRUNE=1", "OLLAMA_NO_CLOUD=1", "OLLAMA_KEEP_ALIVE=10m", "OLLAMA_LOAD_TIMEOUT=20m", "OLLAMA_CONTEXT_LENGTH=65536", "OLLAMA_NUM_PARALLEL=2", "OLLAMA_MODELS=/data", "OLLAMA_KV_CACHE_TYPE=q8_0"}; err != nil || !slices.Equal(env, want) || !slices.Equal(args, []string{"--verbose"}) {
		t.Errorf("serverEnv = %v, %v, %v", env, args, err)
	}
	for _, p := range []Plan{{Args: []string{"OLLAMA_HOST=0.0.0.0"}}, {Env: []string{"OLLAMA_NO_CLOUD=0"}}, {Env: []string{"-x"}}, {Env: []string{"RLCA_OWNER=me"}}} {
		if _, _, err := serverEnv(p, ""); err == nil {
			t.Errorf("serverEnv(%+v) lets it through", p)
		}
	}
}

func TestStartOnLoopbackOnly(t *testing.T) {
	o := NewOllama(Box{}, "")
	for addr, ok := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "0.0.0.0:1": false, "192.168.1.5:11434": false, ":11434": false, "box:1": false} {
		if _, err := o.candidates(addr); (err == nil) != ok {
			t.Errorf("candidates(%q) = %v", addr, err)
		}
	}
}

func TestModelsFolder(t *testing.T) {
	for _, c := range []struct {
		env  string
		rc   []string
		want string
	}{
		{"", nil, "/home/me/.ollama/models"},
		{"/env", []string{"/rc"}, "/env"},
		{"", []string{"/first", `"/data/my models"`}, "/data/my models"},
		{"", []string{"'/data'  # big disk"}, "/data"},
		{"", []string{"/data # big disk"}, "/data"},
		{"", []string{"$HOME/m"}, "/home/me/m"},
		{"", []string{`"${HOME}/m"`}, "/home/me/m"},
		{"", []string{"~/m; export OLLAMA_MODELS"}, "/home/me/m"},
		{"", []string{"/known", "$(evil)", "$DATA/m", "relative"}, "/known"},
	} {
		if got := modelsFolder("/home/me", c.env, c.rc); got != c.want {
			t.Errorf("modelsFolder(%q, %q) = %q, want %q", c.env, c.rc, got, c.want)
		}
	}
}

func TestListeners(t *testing.T) {
	for _, c := range []struct {
		kind, line, want string
		loopback         bool
	}{
		{"proc", "0100007F:2CAA", "127.0.0.1:11434", true},
		{"proc", "00000000:2CAA", "0.0.0.0:11434", false},
		{"proc", "0500A8C0:2CAA", "192.168.0.5:11434", false},
		{"proc", "00000000000000000000000000000000:2CAA", "*:11434", false},
		{"proc", "00000000000000000000000001000000:2CAA", "[::1]:11434", true},
		{"proc", "0000000000000000FFFF00000100007F:2CAA", "127.0.0.1:11434", true},
		{"netstat", "tcp4       0      0  127.0.0.1.11434        *.*                    LISTEN", "127.0.0.1:11434", true},
		{"netstat", "tcp46      0      0  *.11434                *.*                    LISTEN", "*:11434", false},
		{"netstat", "tcp        0      0 0.0.0.0:11434           0.0.0.0:*               LISTEN", "0.0.0.0:11434", false},
		{"netstat", "tcp6       0      0  ::1.11434              *.*                    LISTEN", "[::1]:11434", true},
		{"netstat", "tcp6       0      0  fe80::1%lo0.11434      *.*                    LISTEN", "[fe80::1]:11434", false},
		{"lsof", "ollama   812 me    5u  IPv4 0xd1f      0t0  TCP 127.0.0.1:11434 (LISTEN)", "127.0.0.1:11434", true},
		{"lsof", "ollama   812 me    5u  IPv6 0xd1f      0t0  TCP *:11434 (LISTEN)", "*:11434", false},
		{"proc", "xyz", "", false}, {"proc", "0100007F:FFFFF", "", false}, {"proc", "01:2CAA", "", false}, {"netstat", "unix 2 [ ACC ] STREAM LISTENING 123 /run/x", "", false}, {"lsof", "", "", false}, {"", "x", "", false},
	} {
		got, ok := parseListener(c.kind, c.line)
		if ok != (c.want != "") || ok && (got.String() != c.want || got.loopback() != c.loopback) {
			t.Errorf("parseListener(%s, %q) = %v %v, want %q", c.kind, c.line, got, ok, c.want)
		}
	}
	var f facts
	if only, open := f.bound(11434); only != nil || open != nil {
		t.Errorf("bound without a table = %v, %v", only, open)
	}
	l1, _ := parseListener("proc", "0100007F:2CAA")
	l2, _ := parseListener("proc", "00000000:2CAA")
	f = facts{listenersKnown: true, listeners: []listener{l1}}
	if only, open := f.bound(11434); only == nil || !*only || open != nil || !f.busy(11434) || f.busy(11435) {
		t.Errorf("bound to loopback = %v, %v", only, open)
	}
	f.listeners = append(f.listeners, l2)
	if only, open := f.bound(11434); only == nil || *only || !slices.Equal(open, []string{"0.0.0.0:11434"}) {
		t.Errorf("bound to all = %v, %v", only, open)
	}
}

func TestPullStream(t *testing.T) {
	p := &pullStream{}
	text := `{"status":"pulling manifest"}
{"status":"pulling aa","digest":"sha256:aa","total":1000}
{"status":"pulling aa","digest":"sha256:aa","total":1000,"completed":600}
{"status":"pulling aa","digest":"sha256:aa","total":1000,"completed":400}
{"error":"max retries exceeded: EOF"}

{"rlca":"again","code":0}
noise {
{"status":"pulling manifest"}
{"status":"pulling bb","digest":"sha256:bb","total":500,"completed":9999}
`
	for i := range len(text) { // in the smallest pieces
		p.add([]byte(text[i : i+1]))
	}
	if done, total := p.sum(); done != 900 || total != 1500 || p.success || p.ended || p.failure != "" || p.code != 0 {
		t.Errorf("half way: %d of %d, %+v", done, total, p)
	}
	p.add([]byte(`{"status":"pulling aa","digest":"sha256:aa","total":1000,"completed":100}` + "\n"))
	if done, _ := p.sum(); done != 900 {
		t.Errorf("the bar went back to %d", done)
	}
	p.add([]byte(`{"status":"verifying sha256 digest"}` + "\n" + `{"status":"success"}`))
	if p.success {
		t.Error("a line without an end was read")
	}
	p.flush()
	if !p.success {
		t.Error("flush did not read the last line")
	}
	p = &pullStream{}
	p.add([]byte(`{"error":"no space left on device"}` + "\n\n" + `{"rlca":"end","code":0}` + "\n"))
	err := p.err("m").(*PullError)
	if !p.ended || err.Class != "space" || err.Text != "no space left on device" {
		t.Errorf("err = %+v", err)
	}
	p = &pullStream{ended: true, code: 7}
	if err := p.err("m").(*PullError); err.Class != "network" {
		t.Errorf("err after a refused connection = %+v", err)
	}
}

func TestPullProgressText(t *testing.T) {
	now := time.Now()
	r := &rate{}
	p := &pullStream{phase: "pulling manifest"}
	if got := p.progress("m", r, now, "!").Text; got != "pulling m: asking the registry" {
		t.Errorf("text = %q", got)
	}
	p = &pullStream{layers: map[string]layer{"a": {1 << 30, 17 << 30}}}
	if got := p.progress("m", r, now, " (on the box)"); got.Text != "pulling 1.0 of 17.0 GiB (on the box)" || got.Total != 17<<30 {
		t.Errorf("progress = %+v", got)
	}
	p.layers["a"] = layer{2 << 30, 17 << 30}
	if got := p.progress("m", r, now.Add(8*time.Second), " (on the box)").Text; got != "pulling 2.0 of 17.0 GiB, 128.0 MiB/s, 2 min left (on the box)" {
		t.Errorf("text = %q", got)
	}
	p.failure = "EOF"
	if got := p.progress("m", r, now, "").Text; got != "pulling m: trying again after: EOF" {
		t.Errorf("text = %q", got)
	}
}

func TestParseAnswer(t *testing.T) {
	out := "motd\x1b[0m\nNN begin=1\nNN a=1\nNN a=x=y\nother NN a=3\nNN raw:x=5\nNN a\n\nNN raw:y=99\nshort\nNN end=1\nlogout\n"
	a := parseAnswer("NN", []byte(out))
	if !slices.Equal(a.lines["a"], []string{"1", "x=y"}) || string(a.raw["x"]) != "NN a\n" || a.raw["y"] != nil || a.get("end") != "1" {
		t.Errorf("parseAnswer = %+v", a)
	}
	if !slices.Equal(a.lines["noise"], []string{"motd", "other NN a=3", "short", "logout"}) {
		t.Errorf("noise = %q", a.lines["noise"])
	}
}

func TestReadManifest(t *testing.T) {
	manifest := `{"schemaVersion":2,"config":{"digest":"sha256:aa"},"layers":[{"mediaType":"application/vnd.ollama.image.model","size":1000},{"mediaType":"application/vnd.ollama.image.template","size":5}]}`
	for rel, want := range map[string]string{
		hub + "/library/qwen3/8b": "qwen3:8b", hub + "/me/x/latest": "me/x:latest", "hf.co/org/m/Q4": "hf.co/org/m:Q4", "127.0.0.1:5000/a/b/latest": "127.0.0.1:5000/a/b:latest",
	} {
		got, ok := readManifest(rel, []byte(manifest), []byte(`{"model_family":"qwen3","file_type":"Q4_K_M"}`))
		if !ok || got.Name != want || got.Bytes != 1000 || got.Quant != "Q4_K_M" || got.Family != "qwen3" || len(got.Digest) != 64 {
			t.Errorf("readManifest(%s) = %+v, %v, want %s", rel, got, ok, want)
		}
	}
	for _, bad := range []string{"", "{", `{"layers":[]}`, `{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":-5}]}`} {
		if got, ok := readManifest(hub+"/library/a/b", []byte(bad), nil); ok {
			t.Errorf("readManifest(%q) = %+v", bad, got)
		}
	}
	if _, ok := readManifest("a/b", []byte(manifest), nil); ok {
		t.Error("a manifest in the wrong place was read")
	}
}

func TestErrorText(t *testing.T) {
	for in, want := range map[string]string{
		`{"error":"model 'x' not found"}`: "model 'x' not found", `{"error":{"message":"no","code":3}}`: "no", "plain\n": "plain", "": "", `{"error":null}`: `{"error":null}`,
	} {
		if got := errorText([]byte(in)); got != want {
			t.Errorf("errorText(%s) = %q, want %q", in, got, want)
		}
	}
}

// Errors that cross to another process as JSON keep their facts.
func TestErrorsAsJSON(t *testing.T) {
	for _, e := range []error{
		&NotInstalledError{Engine: "Ollama", Tried: "x"}, &ModelMissingError{Model: "m", Near: []string{"n"}, Bytes: 5}, &PullError{Model: "m", Class: "space", Text: "t"},
		&LoadError{Model: "m", OutOfMemory: true, Text: "t"}, &StartError{Engine: "Ollama", Reason: "r", Log: []string{"l"}},
		&InUseError{Engine: "llama-server", Address: "a", Serves: "s", Want: "w", Connections: 2, Other: true},
	} {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(e).Elem()).Interface().(error)
		if err := json.Unmarshal(data, back); err != nil || back.Error() != e.Error() {
			t.Errorf("%T: %v became %v, %v", e, e, back, err)
		}
		if s := e.Error(); s != strings.TrimRight(s, ".") || strings.Contains(s, "failed to") {
			t.Errorf("%T says %q", e, s)
		}
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{gib(512), "0.5 KiB"}, {gib(94 << 20), "94.0 MiB"}, {gib(17<<30 + 300<<20), "17.3 GiB"},
		{gibOf(7<<30, 17<<30), "7.0 of 17.0 GiB"}, {gibOf(0, 5<<20), "0.0 of 5.0 MiB"},
		{left(0), "1 s"}, {left(22 * time.Second), "22 s"}, {left(2 * time.Minute), "2 min"}, {left(65 * time.Minute), "1 h 5 min"},
		{(&Server{Engine: "Ollama", Version: "0.32.9", Adopted: true, How: "system service"}).Title(), "Ollama 0.32.9"},
		{(&Server{Engine: "Ollama", Version: "0.0.0"}).Title(), "Ollama"},
		{(&Server{Adopted: true, How: "system service"}).Origin(), "adopted (system service)"},
		{(&Server{Adopted: true}).Origin(), "adopted"}, {(&Server{}).Origin(), "started by rlca"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func FuzzPullStream(f *testing.F) {
	f.Add([]byte(`{"status":"pulling aa","digest":"sha256:aa","total":1000,"completed":600}`+"\n"+`{"error":"x"}`+"\n"), 3)
	f.Add([]byte(`{"status":"a","digest":"d","total":9223372036854775807,"completed":-5}`+"\n"+`{"digest":"e","total":9223372036854775807}`+"\n"), 1)
	f.Add([]byte(`{"rlca":"end","code":23}`), 100)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		p := &pullStream{}
		piece = max(1, min(piece, 4096))
		var last int64
		for len(data) > 0 {
			n := min(piece, len(data))
			p.add(data[:n])
			data = data[n:]
			done, total := p.sum()
			if done < 0 || total < 0 || done > total && total > 0 {
				t.Fatalf("%d of %d", done, total)
			}
			if p.best < last {
				t.Fatalf("the bar went back from %d to %d", last, p.best)
			}
			last = p.best
		}
		p.flush()
		checkClean(t, p.failure)
		checkClean(t, p.phase)
		checkClean(t, p.progress("m", &rate{}, time.Now(), "").Text)
	})
}

func checkClean(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		t.Fatalf("not clean: %q", s)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("NN begin=1\nNN raw:x=3\nabcNN end=1\n"))
	f.Add([]byte("NN raw:x=-1\nNN listen=\nNN listeners=proc\nNN listen=00000000:2CAA"))
	f.Add([]byte("NN listeners=netstat\nNN listen=tcp4 0 0 *.1 *.* LISTEN\nNN listeners=lsof\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := parseAnswer("NN", data)
		for k, vs := range a.lines {
			for _, v := range vs {
				if len(v) > textLimit+len("…") {
					t.Fatalf("%q is too long", k)
				}
				checkClean(t, v)
			}
		}
		_, list := parseListeners(a)
		for _, l := range list {
			checkClean(t, l.String())
		}
		if dir := modelsFolder("/h", "", a.lines["noise"]); !strings.HasPrefix(dir, "/") {
			t.Fatalf("models folder %q", dir)
		}
	})
}

func FuzzReadManifest(f *testing.F) {
	f.Add(hub+"/library/a/b", []byte(`{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":1}]}`), []byte(`{"file_type":"Q4_0"}`))
	f.Fuzz(func(t *testing.T, rel string, manifest, config []byte) {
		if m, ok := readManifest(rel, manifest, config); ok {
			if m.Bytes <= 0 {
				t.Fatalf("size %d", m.Bytes)
			}
			checkClean(t, m.Name+m.Quant+m.Family)
		}
		_, _ = near(rel, []string{string(manifest), string(config)}), baseOf(rel)
	})
}
