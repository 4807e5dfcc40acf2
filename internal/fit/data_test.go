package fit

import (
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// data opens a file of the folder with figures measured elsewhere, named by
// RLCA_FIT_DATA or beside the checkout, and skips the test without it.
func data(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("RLCA_FIT_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Skipf("no figures: %v", err)
	}
	return b
}

func rows(t *testing.T, name string) []map[string]string {
	t.Helper()
	all, err := csv.NewReader(strings.NewReader(string(data(t, name)))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, cells := range all[1:] {
		row := map[string]string{}
		for i, col := range all[0] {
			row[col] = cells[i]
		}
		out = append(out, row)
	}
	return out
}

func number(s string) int { n, _ := strconv.Atoi(s); return n }

// Bytes a token, window and state, recomputed from layers and heads.
func TestDataModels(t *testing.T) {
	n := 0
	for _, row := range rows(t, "models.csv") {
		m, err := Find(row["hf_repo"])
		if err != nil || m.Kind == KindUnknown || m.Name == "deepseek-coder-v2-16b" { // the last: stored without MLA
			continue
		}
		r, err := Check(Ask{Model: m, Context: m.Context, UBatch: 512})
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
			continue
		}
		if want := row["kv_bytes_per_token_f16"]; want != "" && *r.KVPerToken != Bytes(number(want)) {
			t.Errorf("%s: %d bytes a token, want %s", m.Name, *r.KVPerToken, want)
		}
		if want, err := strconv.ParseFloat(row["recurrent_mib_per_seq"], 64); err == nil {
			if got := float64(*r.State) / float64(MiB); math.Abs(got-want) > 0.006 {
				t.Errorf("%s: state of %.3f MiB, want %v", m.Name, got, want)
			}
		}
		n++
	}
	if n < 40 {
		t.Errorf("%d models were compared, want 40 or more", n)
	}
}

// Caches that engines logged, of every model that the catalog has and whose
// mode of storage is today's.
func TestDataCases(t *testing.T) {
	names := map[string]string{"Qwen3-235B-A22B": "qwen3:235b", "Qwen3-30B-A3B": "qwen3:30b", "Qwen3-32B": "qwen3:32b",
		"DeepSeek-R1 671B": "deepseek-r1:671b", "DeepSeek-R1-0528 671B": "deepseek-r1:671b", "Llama-3.1-8B": "llama3.1:8b", "Qwen3.6-27B": "qwen3.6:27b"}
	n := 0
	for _, row := range rows(t, "fit_cases.csv") {
		name := names[row["model"]]
		if row["kind"] != "kv_cache" && row["kind"] != "recurrent_state" || name == "" {
			continue
		}
		m, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		ask := Ask{Model: m, Context: number(row["context"]), Parallel: number(row["parallel"]), UBatch: 512}
		if row["kind"] == "recurrent_state" {
			ask.Context = 4096
		} else {
			ask.KVType = strings.NewReplacer("K=", "", " V=", "/").Replace(row["kv_dtype"])
		}
		r, err := Check(ask)
		if err != nil {
			t.Errorf("%s: %v", row["case_id"], err)
			continue
		}
		got, want := float64(*r.KV)/float64(MiB), 0.0
		if row["kind"] == "recurrent_state" {
			got = float64(*r.State) / float64(MiB)
		}
		if want, _ = strconv.ParseFloat(row["value"], 64); math.Abs(got/want-1) > 0.001 {
			t.Errorf("%s: %.2f MiB, want %.2f (%s)", row["case_id"], got, want, row["source"])
		}
		n++
	}
	if n < 10 {
		t.Errorf("%d cases were compared, want 10 or more", n)
	}
}

// Caches and compute buffers measured on real engines, with shapes as a GGUF
// header gives them.
func TestDataLive(t *testing.T) {
	models := liveShapes()
	size, kvs, computes, sum := Bytes(1), 0, 0, 0.0
	for _, row := range rows(t, "fit_live.csv") {
		m, ok := models[row["model"]]
		what := row["quantity"]
		if !ok || what != "kv_cache" && what != "compute_buffer" {
			continue
		}
		unlike := strings.Contains(row["flags"], "-kvu") || strings.Contains(row["flags"], "-fa off") || strings.Contains(row["flags"], "--swa-full") ||
			strings.Contains(row["flags"], "auto") || strings.Contains(row["flags"], "np -1") ||
			row["engine"] == "ollama" && (row["parallel"] != "1" && strings.Contains(row["engine_version"], "ollama-engine")) // slots share one cache there
		if unlike {
			continue
		}
		ask := Ask{Model: m.Model, WeightsBytes: &size, Context: number(row["context_per_slot"]), Parallel: number(row["parallel"]), KVType: row["kv_type"], UBatch: number(row["ubatch"]), Engine: "llama-server"}
		if row["engine"] == "ollama" && strings.Contains(row["engine_version"], "llamarunner") {
			ask.Engine, ask.EngineVersion = "ollama", "0.17.4"
		}
		r, err := Check(ask)
		if err != nil {
			t.Errorf("%v: %v", row, err)
			continue
		}
		want, _ := strconv.ParseFloat(row["actual_bytes"], 64)
		switch {
		case what == "kv_cache":
			kvs++
			if off := float64(*r.KV)/want - 1; math.Abs(off) > 0.001 && math.Abs(off*want) > float64(MiB/20) { // some logs have one decimal
				t.Errorf("KV of %s %s %s: %d, want %.0f: off by %.2f %%", row["engine_version"], row["model"], row["flags"], *r.KV, want, off*100)
			}
		case strings.Contains(row["engine_version"], "b11434"):
			computes++
			sum += math.Abs(float64(*r.Compute)/want - 1)
		}
	}
	if kvs < 50 || computes < 25 || sum/float64(computes) > 0.01 {
		t.Errorf("%d caches and %d compute buffers were compared; these are off by %.2f %% in the mean, want 1 at most", kvs, computes, 100*sum/float64(computes))
	}
	t.Logf("%d caches within 0.1 %%, %d compute buffers off by %.2f %% in the mean", kvs, computes, 100*sum/float64(computes))
}
