package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// floors is the house: imports point down only, and rooms on one floor do not know each other.
var floors = map[string]int{
	"rlca/cmd/rlca":            5,
	"rlca/internal/supervisor": 4,
	"rlca/internal/instance":   3,
	"rlca/probe":               2,
	"rlca/remote":              2,
	"rlca/tunnel":              1,
	"rlca/internal/gateway":    1,
	"rlca/internal/fit":        1,
	"rlca/internal/harness":    1,
	"rlca/profiles":            1,
}

// testRooms are imported by tests; true: by the roof too.
var testRooms = map[string]bool{
	"rlca/internal/box":      true, // rlca demo
	"rlca/internal/peer":     false,
	"rlca/internal/netlab":   false,
	"rlca/remote/remotetest": false,
}

type listed struct {
	ImportPath string
	Imports    []string
	Doc        string
	GoFiles    []string
}

func TestFloors(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Doc,GoFiles", "rlca/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	d := json.NewDecoder(strings.NewReader(string(out)))
	rooms := 0
	for {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) == 0 {
			continue
		}
		rooms++
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
		from, isRoom := floors[p.ImportPath]
		_, isTest := testRooms[p.ImportPath]
		if !isRoom && !isTest {
			t.Errorf("%s is on no floor: a new room needs a line in the table and a reason", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "rlca/") {
				continue
			}
			if byRoof, ok := testRooms[imp]; ok {
				if !isTest && (!byRoof || from != 5) {
					t.Errorf("%s imports %s, which is for tests", p.ImportPath, imp)
				}
				continue
			}
			if to := floors[imp]; isRoom && to >= from {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports point down", p.ImportPath, from, imp, to)
			}
		}
	}
	if rooms < 10 {
		t.Errorf("go list found %d rooms: the test is looking at the wrong place", rooms)
	}
}
