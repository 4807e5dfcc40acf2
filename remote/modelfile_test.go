package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rlca/remote/remotetest"
)

// ggufBytes is a file of n bytes that begins as one.
func ggufBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	copy(b, "GGUF")
	for i := 1 << 10; i < n/2; i++ { // half of it packs well
		b[i] = byte(i >> 10)
	}
	return b
}

// tree writes files below the home of an account.
func tree(t *testing.T, acc *remotetest.Account, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		file := filepath.Join(acc.Home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// models are the files of a box, in the places where they are looked for.
func models(t *testing.T, acc *remotetest.Account) {
	t.Helper()
	hub := ".cache/huggingface/hub/"
	tree(t, acc, map[string][]byte{
		"m/a b's.gguf":                                       ggufBytes(1 << 20),
		"m/split-00001-of-00003.gguf":                        ggufBytes(1000),
		"m/split-00002-of-00003.gguf":                        ggufBytes(2000),
		"m/split-00003-of-00003.gguf":                        ggufBytes(3000),
		"part/split-00001-of-00003.gguf":                     ggufBytes(1000),
		"part/split-00003-of-00003.gguf":                     ggufBytes(3000),
		"nofirst/x-00002-of-00002.gguf":                      ggufBytes(3000),
		"one/model.gguf":                                     ggufBytes(77),
		"one/mmproj-model-f16.gguf":                          ggufBytes(99),
		"quants/x-Q8_0.gguf":                                 ggufBytes(800),
		"quants/x-Q4_K_M.gguf":                               ggufBytes(400),
		"quants/UD-Q2_K_XL/x-UD-Q2_K_XL-00001-of-00002.gguf": ggufBytes(100),
		"quants/UD-Q2_K_XL/x-UD-Q2_K_XL-00002-of-00002.gguf": ggufBytes(200),
		"two/a-Q8_0.gguf":                                    ggufBytes(100),
		"two/a-Q6_K.gguf":                                    ggufBytes(100),
		"blob/sha256-abc":                                    ggufBytes(500),
		"other/notes.txt":                                    []byte("hello"),
		"other/fake.gguf":                                    []byte("<html>\x1b[2J</html>"),
		"other/empty.gguf":                                   nil,
		"colon/x:Q4.gguf":                                    ggufBytes(300),
		"st/config.json":                                     []byte(`{"model_type":"qwen3"}`),
		"st/model.safetensors.index.json":                    []byte(`{"metadata":{"total_size":300}}` + strings.Repeat(" ", indexMost)),
		"st/model-00001-of-00003.safetensors":                make([]byte, 100),
		"st/model-00003-of-00003.safetensors":                make([]byte, 250),
		"st/consolidated.safetensors":                        make([]byte, 999),
		"bare/config.json":                                   []byte(`{}`),
		"huge/config.json":                                   make([]byte, configMost+1),
		"huge/model.safetensors":                             make([]byte, 1),
		hub + "models--org--name/refs/main":                  []byte("rev2"),
		hub + "models--org--name/blobs/b1":                   make([]byte, 4096),
		hub + "models--org--name/snapshots/rev1/x":           []byte("old"),
		hub + "models--org--name/blobs/c1":                   []byte(`{"model_type":"llama"}`),
		hub + "models--org--gguf/snapshots/r/x-Q4_K_M.gguf":  ggufBytes(444),
		hub + "models--org--gguf/snapshots/r/x-Q8_0.gguf":    ggufBytes(888),
		hub + "models--org--only/snapshots/r/config.json":    []byte(`{}`),
	})
	snap := filepath.Join(acc.Home, hub, "models--org--name/snapshots/rev2")
	if err := errors.Join(os.MkdirAll(snap, 0o755), os.Symlink("../../blobs/b1", filepath.Join(snap, "model.safetensors")),
		os.Symlink("../../blobs/c1", filepath.Join(snap, "config.json")), os.Symlink("../../blobs/gone", filepath.Join(snap, "extra.safetensors"))); err != nil {
		t.Fatal(err)
	}
}

func TestReadModel(t *testing.T) {
	acc := remotetest.NewAccount(t)
	models(t, acc)
	box := Box{Run: acc.Run, Log: testLog(t)}
	hub := filepath.Join(acc.Home, ".cache/huggingface/hub")
	for _, c := range []struct {
		name, path, format   string // path below the home
		size                 int64
		parts, missing, head int
	}{
		{"~/m/a b's.gguf", "m/a b's.gguf", "gguf", 1 << 20, 1, 0, 1000},
		{"~/m/a b's.gguf", "m/a b's.gguf", "gguf", 1 << 20, 1, 0, 0},
		{"~/m/a b's.gguf", "m/a b's.gguf", "gguf", 1 << 20, 1, 0, 700 << 10}, // gzipped
		{acc.Home + "/m/a b's.gguf", "m/a b's.gguf", "gguf", 1 << 20, 1, 0, headMost},
		{"~/m/split-00001-of-00003.gguf", "m/split-00001-of-00003.gguf", "gguf", 6000, 3, 0, 400},
		{"~/m/split-00003-of-00003.gguf", "m/split-00001-of-00003.gguf", "gguf", 6000, 3, 0, 400},
		{"~/part/split-00001-of-00003.gguf", "part/split-00001-of-00003.gguf", "gguf", 4000, 3, 1, 400},
		{"~/one", "one/model.gguf", "gguf", 77, 1, 0, 50},
		{"~/quants", "quants/x-Q4_K_M.gguf", "gguf", 400, 1, 0, 50},
		{"~/quants:q8_0", "quants/x-Q8_0.gguf", "gguf", 800, 1, 0, 50},
		{"~/quants:UD-Q2_K_XL", "quants/UD-Q2_K_XL/x-UD-Q2_K_XL-00001-of-00002.gguf", "gguf", 300, 2, 0, 50},
		{"~/blob/sha256-abc", "blob/sha256-abc", "gguf", 500, 1, 0, 100},
		{"~/colon/x:Q4.gguf", "colon/x:Q4.gguf", "gguf", 300, 1, 0, 100},
		{"~/st", "st", "safetensors", 350, 3, 1, 0},
		{"~/st/", "st", "safetensors", 350, 3, 1, 0},
		{"~/st/config.json", "st", "safetensors", 350, 3, 1, 0},
		{"~/st/model-00001-of-00003.safetensors", "st", "safetensors", 350, 3, 1, 0},
		{"org/name", ".cache/huggingface/hub/models--org--name/snapshots/rev2", "safetensors", 4096, 1, 0, 0},
		{"org/gguf", ".cache/huggingface/hub/models--org--gguf/snapshots/r/x-Q4_K_M.gguf", "gguf", 444, 1, 0, 10},
		{"org/gguf:Q8_0", ".cache/huggingface/hub/models--org--gguf/snapshots/r/x-Q8_0.gguf", "gguf", 888, 1, 0, 10},
	} {
		s, err := ReadModel(t.Context(), box, c.name, c.head)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if want := filepath.Join(acc.Home, c.path); s.Path != want || s.Format != c.format || s.Bytes != c.size || s.Parts != c.parts || s.Missing != c.missing {
			t.Errorf("%s: %s in %s of %d bytes, %d parts, %d missing, want %s in %s of %d, %d, %d",
				c.name, s.Format, s.Path, s.Bytes, s.Parts, s.Missing, c.format, want, c.size, c.parts, c.missing)
		}
		if c.format == "safetensors" {
			if config, _ := os.ReadFile(filepath.Join(s.Path, "config.json")); !bytes.Equal(s.Config, config) || s.Head != nil {
				t.Errorf("%s: config %q", c.name, s.Config)
			}
			if c.path == "st" && (len(s.Index) != indexMost || !bytes.HasPrefix(s.Index, []byte(`{"metadata"`))) {
				t.Errorf("%s: index of %d bytes", c.name, len(s.Index))
			}
			continue
		}
		file, _ := os.ReadFile(s.Path)
		if want := file[:min(len(file), c.head)]; !bytes.Equal(s.Head, want) {
			t.Errorf("%s: head of %d bytes, want the first %d of the file", c.name, len(s.Head), len(want))
		}
	}
	if _, err := os.Stat(hub); err != nil {
		t.Error(err)
	}
}

// The hub's cache may lie elsewhere: the environment says so, or a shell file that a bare command does not read.
func TestReadModelHub(t *testing.T) {
	files := func(at string) map[string][]byte {
		return map[string][]byte{at + "/models--o--n/snapshots/r/config.json": []byte("{}"), at + "/models--o--n/snapshots/r/model.safetensors": make([]byte, 9)}
	}
	for name, c := range map[string]struct {
		at, env, rc string
	}{
		"cache":           {"big/hub", "HF_HUB_CACHE=%s/big/hub", ""},
		"home":            {"big/hub", "HF_HOME=%s/big", ""},
		"xdg":             {"big/huggingface/hub", "XDG_CACHE_HOME=%s/big", ""},
		"shell file":      {"big disk/hub", "", `export HF_HOME="%s/big"` + "\n" + `HF_HOME="$HOME/hf" # the last line wins` + "\n"},
		"shell file, hub": {"other", "", "  export HF_HUB_CACHE=~/other; echo no\n"},
		"not a path":      {".cache/huggingface/hub", "", "export HF_HOME=$(cat /nowhere)\n"},
	} {
		acc := remotetest.NewAccount(t)
		if name == "shell file" {
			c.at = "hf/hub"
		}
		tree(t, acc, files(c.at))
		tree(t, acc, map[string][]byte{".bashrc": []byte(strings.ReplaceAll(c.rc, "%s", acc.Home))})
		if c.env != "" {
			acc.Env = []string{fmt.Sprintf(c.env, acc.Home)}
		}
		if s, err := ReadModel(t.Context(), Box{Run: acc.Run}, "o/n", 0); err != nil || s.Bytes != 9 {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func TestReadModelErrors(t *testing.T) {
	acc := remotetest.NewAccount(t)
	models(t, acc)
	box := Box{Run: acc.Run, Log: testLog(t)}
	for _, c := range []struct{ name, says string }{
		{"", "want a path"}, {"qwen3:30b", "want a path"}, {"a/b/c", "want a path"}, {"../x/y.gguf", "want a path"}, {"./x", "want a path"}, {"-x/y", "want a path"},
		{"/a\nb", "control characters"}, {"/a\x00b", "control characters"}, {"/" + strings.Repeat("x", 5000), "at most 4096 bytes"},
		{"~/other", "there are several"}, {"~/other/fake.gguf", `it begins with "<html>"`}, {"~/other/empty.gguf", `it begins with ""`}, {"~/other/notes.txt", `it begins with "hello"`},
		{"~/two", "there are several: name one, as in ~/two:Q8_0, of a-Q6_K.gguf, a-Q8_0.gguf"},
		{"~/nofirst/x-00002-of-00002.gguf", "its first part is not there"},
		{"~/huge", "no model"}, {"/dev/null", "no model"}, {"~/.cache", "no model"},
	} {
		s, err := ReadModel(t.Context(), box, c.name, 100)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.60q: %+v, %v, want an error that says %q", c.name, s, err, c.says)
			continue
		}
		checkClean(t, err.Error())
	}
	for name, near := range map[string][]string{
		"~/none.gguf": nil, "/none/at/all": nil, "org/none": nil, "org/only": nil, "~/bare": nil, "~/m/a b's.gguf/x": nil, "~/st:Q4_K_M": nil,
		"~/two:Q2_K": {"a-Q6_K.gguf", "a-Q8_0.gguf"}, "org/gguf:F16": {"x-Q4_K_M.gguf", "x-Q8_0.gguf"},
	} {
		var missing *ModelMissingError
		if _, err := ReadModel(t.Context(), box, name, 100); !errors.As(err, &missing) || missing.Model != name || !slices.Equal(missing.Near, near) {
			t.Errorf("%s: %v, want that it is missing, near %v", name, err, near)
		}
	}
	if os.Getuid() != 0 {
		os.Chmod(filepath.Join(acc.Home, "one/model.gguf"), 0)
		os.Chmod(filepath.Join(acc.Home, "st"), 0)
		t.Cleanup(func() { os.Chmod(filepath.Join(acc.Home, "st"), 0o755) })
		for _, name := range []string{"~/one/model.gguf", "~/one", "~/st", "~/st/config.json"} {
			if _, err := ReadModel(t.Context(), box, name, 100); err == nil || !strings.Contains(err.Error(), "may not read") {
				t.Errorf("%s: %v, want that it may not be read", name, err)
			}
		}
	}
	down := errors.New("the link is down")
	box.Run = func(context.Context, string) ([]byte, error) { return nil, down }
	if _, err := ReadModel(t.Context(), box, "~/m", 0); !errors.Is(err, down) {
		t.Errorf("no link: %v", err)
	}
}

// What may not be read is told from what is not there, whoever runs the tests.
func TestReadSourceDenied(t *testing.T) {
	a := parseAnswer("NN", []byte("NN begin=1\n\nNN raw:denied=*\n/root/\x1b[31mx\nNN end=1\n"))
	if _, err := readSource(a, "/root/x", 0); err == nil || err.Error() != "read model /root/x: this account may not read /root/x on the box" {
		t.Errorf("denied: %v", err)
	}
}

// Other shells, and boxes whose programs are others.
func TestReadModelShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"/bin/dash", "/bin/bash", "/usr/bin/zsh", "/bin/zsh", "/bin/ksh", "/bin/mksh", "busybox"} {
		t.Run(filepath.Base(filepath.Dir(shell))+"-"+filepath.Base(shell), func(t *testing.T) {
			acc := remotetest.NewAccount(t)
			dir := t.TempDir()
			target := shell
			if shell == "busybox" {
				program, err := exec.LookPath("busybox")
				if err != nil {
					t.Skip(err)
				}
				target = program
				for _, name := range []string{"ls", "stat", "sed", "dd", "gzip", "head", "tail", "tr", "cat", "mkdir", "grep", "ps", "cut"} {
					if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
				acc.Path = dir
			}
			if _, err := os.Stat(target); err != nil {
				t.Skip(err)
			}
			acc.Shell = filepath.Join(dir, "sh")
			if err := os.Symlink(target, acc.Shell); err != nil {
				t.Fatal(err)
			}
			models(t, acc)
			box := Box{Run: acc.Run, Log: testLog(t)}
			for name, size := range map[string]int64{"~/m/a b's.gguf": 1 << 20, "~/m/split-00002-of-00003.gguf": 6000, "~/quants:UD-Q2_K_XL": 300, "~/st": 350, "org/name": 4096, "org/gguf": 444} {
				s, err := ReadModel(t.Context(), box, name, 900<<10)
				if err != nil || s.Bytes != size {
					t.Errorf("%s: %+v, %v", name, s, err)
					continue
				}
				if file, _ := os.ReadFile(s.Path); s.Format == "gguf" && !bytes.Equal(s.Head, file[:min(len(file), 900<<10)]) {
					t.Errorf("%s: head of %d bytes", name, len(s.Head))
				}
			}
			var missing *ModelMissingError
			if _, err := ReadModel(t.Context(), box, "o/n", 0); !errors.As(err, &missing) {
				t.Errorf("o/n: %v", err)
			}
		})
	}
}

// What does not pack stays within what a script may answer, and a box without gzip gives less.
func TestReadModelLarge(t *testing.T) {
	acc := remotetest.NewAccount(t)
	file := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{2}).Read(file)
	copy(file, "GGUF")
	tree(t, acc, map[string][]byte{"x.gguf": file})
	longest := 0
	box := Box{Run: func(ctx context.Context, script string) ([]byte, error) {
		out, err := acc.Run(ctx, script)
		longest = max(longest, len(out))
		return out, err
	}}
	s, err := ReadModel(t.Context(), box, "~/x.gguf", 8<<20)
	if err != nil || len(s.Head) < 2<<20 || !bytes.Equal(s.Head, file[:len(s.Head)]) || longest > headBytes+4096 {
		t.Fatalf("head of %d bytes, %d over the line, %v", len(s.Head), longest, err)
	}
	dir := t.TempDir()
	for _, name := range []string{"ls", "dd", "head", "tr", "tail", "sed", "cat"} {
		if program, err := exec.LookPath(name); err == nil {
			os.Symlink(program, filepath.Join(dir, name))
		}
	}
	acc.Path, longest = dir, 0
	s, err = ReadModel(t.Context(), box, "~/x.gguf", 8<<20)
	if err != nil || len(s.Head) != headBytes || !bytes.Equal(s.Head, file[:len(s.Head)]) || longest > headBytes+4096 {
		t.Fatalf("without gzip: head of %d bytes, %d over the line, %v", len(s.Head), longest, err)
	}
}

// A server tells the tensors without being asked for more; a blob's path is known without one.
func TestInventoryTells(t *testing.T) {
	show := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "verbose") {
			t.Errorf("asked %s", body)
		}
		fmt.Fprint(w, show)
	}))
	defer s.Close()
	a := newAPI(new(remotetest.Account).Dial, strings.TrimPrefix(s.URL, "http://"))
	many, _ := json.Marshal(map[string]any{"tensors": make([]map[string]any, tensorMost+1)})
	for text, want := range map[string]int{
		`{"tensors":[{"name":"a","type":"Q4_K","shape":[256,2]},{"name":"b","type":"F32","shape":[5]}]}`: 2,
		`{"tensors":[{"name":"a","type":"F32"}]}`:                                                        1,
		`{}`:                 0,
		`{"tensors":null}`:   0,
		`{"tensors":"none"}`: 0,
		`{"tensors":[{"type":"F32","shape":[-1]}]}`:                0,
		`{"tensors":[{"type":"F32","shape":[1.5]}]}`:               0,
		`{"tensors":[{"type":"F32","shape":[1,1,1,1,1,1,1,1,1]}]}`: 0,
		string(many): 0,
	} {
		show = text
		got, err := a.show(t.Context(), "m")
		if list := got.tensors(); err != nil || len(list) != want || want == 2 && (list[0].Type != "Q4_K" || !slices.Equal(list[0].Shape, []uint64{256, 2})) {
			t.Errorf("%.80s: %v, %v, want %d tensors", text, list, err, want)
		}
	}

	digest := strings.Repeat("0a", 32)
	layer := `{"mediaType":"application/vnd.ollama.image.model","size":9,"digest":"sha256:` + digest + `"}`
	for manifest, want := range map[string]string{
		`{"layers":[` + layer + `]}`:               "blobs/sha256-" + digest,
		`{"layers":[` + layer + `,` + layer + `]}`: "",
		`{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":9,"digest":"sha256:../../etc/passwd"}]}`: "",
		`{"layers":[{"mediaType":"application/vnd.ollama.image.model","size":9}]}`:                                    "",
	} {
		if f, ok := readManifest(hub+"/library/a/b", []byte(manifest), nil); !ok || f.Path != want {
			t.Errorf("%s: path %q, %v, want %q", manifest, f.Path, ok, want)
		}
	}
}

func FuzzReadSource(f *testing.F) {
	f.Add([]byte("NN begin=1\nNN parts=00003\nNN part=10\nNN format=gguf\n\nNN raw:path=*\n/a\n\nNN raw:head=*\nGGUFxx\nNN end=1\n"), 100)
	f.Add([]byte("NN format=safetensors\n\nNN raw:path=*\n/a\n\nNN raw:config=*\n{}\nNN weights=10 model-00001-of-00003.safetensors\nNN weights=x consolidated.safetensors\n"), 0)
	f.Add([]byte("NN format=gguf\nNN raw:path=1\n/NN raw:gz=*\n\x1f\x8b\x08\nNN end=1\n"), 1<<30)
	f.Fuzz(func(t *testing.T, out []byte, head int) {
		s, err := readSource(parseAnswer("NN", out), string(out[:min(len(out), 8)]), head)
		if err != nil {
			checkClean(t, strings.ToValidUTF8(err.Error(), ""))
			return
		}
		if s.Bytes < 0 || s.Missing < 0 || s.Missing > s.Parts || len(s.Head) > max(head, 0) || len(s.Index) > indexMost {
			t.Fatalf("%+v", s)
		}
	})
}

// The real Ollama lists the tensors of a model, and its file is where the manifest says.
func TestRealModelFile(t *testing.T) {
	t.Parallel()
	alone(t)
	real := remotetest.StartOllama(t)
	if err := remotetest.CreateScripted(t.Context(), real.URL, "scripted"); err != nil {
		t.Fatal(err)
	}
	acc := remotetest.NewAccount(t)
	served, err := testOllama(t, acc, int(portOf(real.Address))).Inventory(t.Context())
	if err != nil || len(served) != 1 {
		t.Fatalf("Inventory = %+v, %v", served, err)
	}
	elements := uint64(0)
	for _, tensor := range served[0].Tensors {
		n := uint64(1)
		for _, d := range tensor.Shape {
			n *= d
		}
		if elements += n; tensor.Type != "F32" {
			t.Errorf("a tensor of type %q", tensor.Type)
		}
	}
	if size := uint64(served[0].Bytes); len(served[0].Tensors) != 12 || 4*elements > size || 4*elements < size*9/10 {
		t.Errorf("%d tensors of %d bytes, in a file of %d", len(served[0].Tensors), 4*elements, size)
	}
	if s, err := Describe(t.Context(), Box{Dial: acc.Dial}, real.Address); err != nil || s.Engine != "Ollama" || s.Version == "" {
		t.Errorf("Describe = %+v, %v", s, err)
	}

	acc.Env = []string{"OLLAMA_MODELS=" + real.Models}
	disk, err := testOllama(t, acc, remotetest.FreePort(t)).Inventory(t.Context())
	if err != nil || len(disk) != 1 || disk[0].Path == "" || disk[0].Tensors != nil {
		t.Fatalf("Inventory of the disk = %+v, %v", disk, err)
	}
	s, err := ReadModel(t.Context(), Box{Run: acc.Run, Log: testLog(t)}, disk[0].Path, 64<<10)
	if err != nil || s.Bytes != disk[0].Bytes || len(s.Head) != 64<<10 {
		t.Errorf("ReadModel(%s) = %+v, %v", disk[0].Path, s, err)
	}
}
