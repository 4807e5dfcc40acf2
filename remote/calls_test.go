package remote

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeCall is one program that a box of a cluster ran.
type fakeCall struct {
	Node, Program string
	Args          []string
	Env           map[string]string
}

// noteCall writes down that this process runs on a fake box.
func noteCall(program string, args []string) {
	dir := os.Getenv("FAKE_RAY")
	if dir == "" {
		return
	}
	c := fakeCall{Node: os.Getenv("FAKE_NODE"), Program: program, Args: args, Env: map[string]string{}}
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		c.Env[name] = value
	}
	line, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintf(f, "%s\n", line)
}

func fakeCalls(t *testing.T, dir string) (list []fakeCall) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var c fakeCall
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}
