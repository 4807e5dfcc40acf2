package probe

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden reports")

// What whole machines print, and the reports that are made of it: testdata/MACHINE/answer.txt and report.json. The
// summary stands beside the report, for those who read.
func TestGolden(t *testing.T) {
	answers, err := filepath.Glob("testdata/*/answer.txt")
	if err != nil || len(answers) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range answers {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			out, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Parse(nonce, out)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(struct {
				Summary string  `json:"summary"`
				Report  *Report `json:"report"`
			}{r.Summary(), r}, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join(dir, "report.json")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
			for i := range min(len(g), len(w)) {
				if g[i] != w[i] {
					t.Fatalf("%s:%d has changed (-update rewrites it): got %s, want %s", golden, i+1, g[i], w[i])
				}
			}
			if len(g) != len(w) {
				t.Errorf("%s: %d lines, want %d", golden, len(g), len(w))
			}
		})
	}
}
