package fit_test

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the examples into docs/fit.md")

// marked is a place of the document that belongs to an example: its name in a
// comment, and its text.
var marked = regexp.MustCompile("(?s)<!-- (Example\\w+) -->\n```go\n(.*?)```\n")

// The worked examples of docs/fit.md are those of example_test.go, which are run
// and their output compared; every one is in the document, and no other code is.
func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "fit.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, want := string(b), examples(t)
	if *update {
		doc = marked.ReplaceAllStringFunc(doc, func(old string) string {
			name := marked.FindStringSubmatch(old)[1]
			return "<!-- " + name + " -->\n```go\n" + want[name] + "```\n"
		})
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found := map[string]bool{}
	for _, m := range marked.FindAllStringSubmatch(doc, -1) {
		name, text := m[1], m[2]
		found[name] = true
		if want[name] == "" || text != want[name] {
			t.Errorf("%s in docs/fit.md is\n%s\nand in example_test.go\n%s\ngo test ./internal/fit -run TestDocument -update writes it anew", name, text, want[name])
		}
	}
	for name := range want {
		if !found[name] {
			t.Errorf("%s is not in docs/fit.md", name)
		}
	}
	if n := strings.Count(doc, "```go\n"); n != len(found) {
		t.Errorf("docs/fit.md has %d pieces of Go, of which %d are examples that run", n, len(found))
	}
}

// examples gives the body of each example, with its output.
func examples(t *testing.T) map[string]string {
	t.Helper()
	src, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "example_test.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		body := string(src[fset.Position(f.Body.Lbrace).Offset+2 : fset.Position(f.Body.Rbrace).Offset])
		out[f.Name.Name] = strings.ReplaceAll(strings.TrimPrefix(body, "\t"), "\n\t", "\n")
	}
	return out
}
