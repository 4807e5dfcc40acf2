package fit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The example of docs/catalog.md does what the text around it says.
func TestCatalogExample(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "catalog.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(doc), "```toml\n")
	example, _, ok2 := strings.Cut(example, "```")
	if !ok || !ok2 {
		t.Fatal("docs/catalog.md has no example")
	}
	l, err := ParseCatalog("catalog.toml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(l.Entries()), len(Catalog())+2; got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	m, err := l.Find("qwen3-coder:30b")
	if err != nil || m.Context != 131072 || m.Files["Q8_0"] != 32483932576 || m.Layers != 48 || !strings.HasSuffix(m.Source, "; catalog.toml:2") {
		t.Errorf("qwen3-coder:30b is %+v, %v", m, err)
	}
	house, err := l.Entry("house-coder:12b")
	if err != nil || house.Kind != KindFull || house.FullLayers != 40 || house.HeadV != 128 || house.ActiveB != 12.2 || house.Licence != "Apache-2.0" {
		t.Errorf("house-coder:12b is %+v, %v", house, err)
	}
	r, err := Check(Ask{Model: house.Model, Context: 65536})
	if err != nil || r.KV == nil || *r.KV != 40*8*128*2*2*65536 {
		t.Errorf("Check(house-coder) = %+v, %v, want a cache of 10 GiB", r, err)
	}
	mystery, err := l.Find("mystery-70b")
	if err != nil || mystery.Kind != KindUnknown || mystery.Source != "catalog.toml:26" {
		t.Errorf("mystery-70b is %+v, %v", mystery, err)
	}
	if got, err := Choose(want(20, 65536), 4, l.Pullable()); err != nil || got.Model != "house-coder:12b" {
		t.Errorf("Choose in 20 GiB = %+v, %v, want the user's own coder", got, err)
	}
	if _, err := Find("house-coder:12b"); err == nil {
		t.Error("the built-in catalog has changed")
	}
	keys := map[string]bool{} // every key that may be set is explained, and no other
	for _, line := range strings.Split(string(doc), "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for i, w := range strings.Split(cells[1], "`") {
				if i%2 == 1 {
					keys[w] = true
				}
			}
		}
	}
	for _, k := range overrideKeys {
		if !keys[k] || (&Entry{}).field(k) == nil {
			t.Errorf("key %s: explained %v", k, keys[k])
		}
		delete(keys, k)
	}
	if len(keys) > 0 {
		t.Errorf("docs/catalog.md explains keys that do not exist: %v", keys)
	}
}

func TestLoadCatalog(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"", filepath.Join(dir, "none.toml")} {
		if l, err := LoadCatalog(path); err != nil || len(l.Entries()) != len(Catalog()) {
			t.Errorf("LoadCatalog(%q): %v, want the built-in catalog", path, err)
		}
	}
	path := filepath.Join(dir, "catalog.toml")
	if err := os.WriteFile(path, []byte("\xef\xbb\xbf[[model]]\nname = \"QWEN3-8B\"\ncontext = 1_000_000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := LoadCatalog(path)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := l.Find("qwen3:8b"); err != nil || m.Context != 1000000 || m.Name != "qwen3-8b" {
		t.Errorf("qwen3:8b is %+v, %v", m, err)
	}
	if l.Pullable()[0].Model.Tag != Pullable()[0].Model.Tag {
		t.Error("the order of the catalog has changed")
	}
	if _, err := LoadCatalog(dir); err == nil {
		t.Error("LoadCatalog of a folder gave no error")
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("#\n", maxCatalog/2+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCatalog(path); err == nil || !strings.Contains(err.Error(), "catalog.toml: is longer") {
		t.Errorf("LoadCatalog of 1 MiB and more: %v", err)
	}
}

// A row that changes one number leaves the others in step.
func TestOverrideInStep(t *testing.T) {
	l, err := ParseCatalog("c.toml", []byte("[[model]]\nname = \"llama3.1-8b\"\nlayers = 16\nparams_b = 4.5\n[[model]]\nname = \"gpt-oss-20b\"\nfiles = { MXFP4 = 13_780_000_000 }\n"))
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := l.Find("llama3.1:8b"); m.FullLayers != 16 || m.ActiveB != 4.5 {
		t.Errorf("llama3.1:8b has %d full layers and %v B active, want 16 and 4.5", m.FullLayers, m.ActiveB)
	}
	if m, _ := l.Find("gpt-oss:20b"); m.Files["MXFP4"] != 13780000000 || m.ActiveB != 3.6 {
		t.Errorf("gpt-oss:20b has files %v and %v B active", m.Files, m.ActiveB)
	}
	if m, _ := Find("gpt-oss:20b"); m.Files["MXFP4"] == 13780000000 {
		t.Error("the built-in catalog has changed")
	}
}

func TestCatalogProblems(t *testing.T) {
	const row = "[[model]]\nname = \"x\"\nparams_b = 7\n"
	for text, want := range map[string]string{
		"layers = 3\n":                                     "c.toml:1: layers stands before the first [[model]]",
		"[model]\nname = \"x\"\n":                          "c.toml:1: [model] must be one of a list: write [[model]]",
		"[[modle]]\nname = \"x\"\n":                        "c.toml:1: unknown section [modle]: a catalog has [[model]] only",
		"[[model]]\nparams_b = 7\n":                        "c.toml:1: the model needs a name",
		"[[model]]\nname = \"x\"\n":                        "c.toml:1: model x needs params_b, or files with their sizes",
		row + "kvheads = 8\n":                              `c.toml:4: unknown key "kvheads", did you mean "kv_heads"?`,
		row + "wheels = 4\n":                               `c.toml:4: unknown key "wheels"`,
		row + "checked = \"me\"\n":                         `c.toml:4: unknown key "checked"`,
		row + "layers = \"many\"\n":                        "c.toml:4: layers must be a whole number from 0",
		row + "layers = -1\n":                              "c.toml:4: layers must be a whole number from 0",
		row + "layers = 70000\n":                           "c.toml:1: model x: 70000 is out of range",
		row + "active_b = nan\n":                           "c.toml:4: active_b must be a number from 0",
		row + "active_b = 8.5\n":                           "c.toml:1: model x has active_b 8.5, more than params_b 7",
		row + "tag = 3\n":                                  "c.toml:4: tag must be a text in quotes",
		row + "tag = \"-rm\"\n":                            `c.toml:4: tag must be a name without spaces that does not begin with "-"`,
		row + "arch = \"a\\u001b[2J\"\n":                   "c.toml:4: arch must not contain control characters",
		row + "coder = \"maybe\"\n":                        `c.toml:4: coder must be yes, agentic or no, not "maybe"`,
		row + "quant = \"Q9\"\n":                           `c.toml:4: quant "Q9" is not known`,
		row + "context = 1\ncontext = 2\n":                 "c.toml:5: context is set twice, first on line 4",
		row + "files = 3\n":                                "c.toml:4: files must be a table: { Q4_K_M = 18556689568 }, in bytes",
		row + "files = { Q9 = 3 }\n":                       `c.toml:4: files: quantization "Q9" is not known`,
		row + "files = { Q8_0 = 0 }\n":                     "c.toml:4: files: the size of Q8_0 must be a whole number of bytes",
		row + "kind = \"swa\"\n":                           "c.toml:1: model x of kind swa needs hidden, full_layers",
		row + "kind = \"hybrid\"\nhidden = 9\n":            "c.toml:1: model x of kind hybrid needs",
		row + "layers = 2\nkv_heads = 1\nhead_k = 64\n":    "c.toml:1: model x of kind full needs hidden",
		row + "repo = \"Qwen/Qwen3-8B\"\n":                 `c.toml:1: model x: "qwen/qwen3-8b" is a name of qwen3-8b too`,
		row + row:                                          "c.toml:4: model x is there twice, first on line 1",
		row + "layers = = 3\n" + row:                       "what follows was not read",
		row + "[model.files]\nQ8_0 = 3\n":                  "c.toml:4: write the files in the model itself",
		row + "experts = 2\nexperts_used = 3\n":            "c.toml:1: model x: 3 experts of 2 are used",
		row + "name.first = \"y\"\n":                       "c.toml:4: name is set twice, first on line 2",
		row + "layers.deep = 3\n":                          "c.toml:4: layers has no keys of its own",
		row + "files = { Q8_0 = 3, Q8_0 = 4 }\n":           "c.toml:4: invalid TOML",
		"[[model]]\nname = \"qwen3-8b\"\nkind = \"swa\"\n": "c.toml:1: model qwen3-8b of kind swa needs",
	} {
		_, err := ParseCatalog("c.toml", []byte(text))
		var all CatalogProblems
		if !errors.As(err, &all) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCatalog(%q): %v, want %q", text, err, want)
		}
	}

	_, err := ParseCatalog("c.toml", []byte("[[model]]\nnmae = \"x\"\nlayers = true\n\n[[model]]\nname = \"y\"\ncoder = \"no way\"\n"))
	var lines []int
	var all CatalogProblems
	var first *CatalogProblem
	if !errors.As(err, &all) || !errors.As(err, &first) {
		t.Fatalf("ParseCatalog: %v, want CatalogProblems", err)
	}
	for _, p := range all {
		lines = append(lines, p.Line)
	}
	if !slices.Equal(lines, []int{1, 2, 3, 5, 7}) {
		t.Errorf("problems on lines %v, want all of them at once:\n%v", lines, err)
	}
}

func FuzzCatalogOverride(f *testing.F) {
	f.Add("[[model]]\nname = \"x\"\nparams_b = 7\nfiles = { Q8_0 = 5 }\n")
	f.Add("[[model]]\nname = \"qwen3-8b\"\nkind = \"mla\"\n[model.files]\n")
	f.Add("model = [{ name = \"x\" }]\n[[model.model]]\n'''")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseCatalog("c.toml", []byte(text))
		if err != nil {
			var all CatalogProblems
			if !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("ParseCatalog(%q): %v, want CatalogProblems", text, err)
			}
			return
		}
		names := map[string]string{}
		for _, e := range l.Entries() {
			if e.check() != nil || e.missing() != "" {
				t.Errorf("ParseCatalog(%q) let %+v through", text, e)
			}
			for _, n := range e.names() {
				if o := names[n]; o != "" && o != e.Name {
					t.Errorf("ParseCatalog(%q): %q is a name of %s and of %s", text, n, o, e.Name)
				}
				names[n] = e.Name
			}
		}
	})
}
