package fit

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// ---- reading cells

func (f figure) float(col string) float64 {
	v, err := strconv.ParseFloat(f.get(col), 64)
	if err != nil {
		return 0
	}
	return v
}

func (f figure) int(col string) int { n, _ := strconv.Atoi(f.get(col)); return n }

// unitBytes are the units of the column "unit". Users write GB and mean what
// nvidia-smi shows, GiB; engines' tables and lists of files mean 1e9.
var unitBytes = map[string]Bytes{"bytes": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "GiB/GPU": GiB, "MB": MB, "GB": GB}

// value is the measured amount in bytes; 0 if the unit is none of memory.
func (f figure) value() float64 { return f.float("value") * float64(unitBytes[f.get("unit")]) }

// match gives the number that the first group of re finds in s, else 0.
func match(re *regexp.Regexp, s string) float64 {
	m := re.FindStringSubmatch(s)
	if m == nil {
		return 0
	}
	v, _ := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
	return v
}

var (
	reGiB       = regexp.MustCompile(`([\d.]+) GiB`)
	reKV        = regexp.MustCompile(`kv ([\d.]+) GiB`)
	reUtil      = regexp.MustCompile(`util(?:ization)?[= ]+(0?\.\d+)`)
	reDCP       = regexp.MustCompile(`DCP (\d+)`)
	reMTP       = regexp.MustCompile(`MTP ?(\d+)`)
	reUsable    = regexp.MustCompile(`([\d.]+) (?:GiB|GB) usable`)
	reTotal     = regexp.MustCompile(`([\d.]+) GiB(?: total|\)| GPUs)`)
	reFreeRange = regexp.MustCompile(`([\d.]+)-[\d.]+ GiB free`)
	reFree      = regexp.MustCompile(`([\d.]+) GiB free`)
	reLimitMB   = regexp.MustCompile(`limit(?:_mb)?[ =]([\d.]+)`)
	reLimitGiB  = regexp.MustCompile(`limit ~?([\d.]+) GiB`)
	rePlan      = regexp.MustCompile(`([\d.]+) GiB plan`)
	reResident  = regexp.MustCompile(`([\d.]+) GB resident`)
	reMiBBox    = regexp.MustCompile(`(\d+) MiB`)
	reGBBox     = regexp.MustCompile(`(\d+) ?GB`)
	reSeqs      = regexp.MustCompile(`max_num_seqs (\d+)`)
	reBillions  = regexp.MustCompile(`(?i)[:-](\d+(?:\.\d+)?)b\b`)
	reEmbed     = regexp.MustCompile(`([\d.]+) MiB embeddings`)
	reDraft     = regexp.MustCompile(`\+ ([\d.]+) GB draft`)
	reMonth     = regexp.MustCompile(`-\d{4}\b`)
	reFileGB    = regexp.MustCompile(`([\d.]+) GB`)
)

// ---- models

// otherShapes are models of the figures that the catalog has no use for. The
// shapes are those of their config.json.
var otherShapes = []Model{
	{Name: "Qwen3.8-27B", Kind: KindHybrid, ParamsB: 27.781, Layers: 64, Hidden: 5120, FF: 17408, Heads: 24, KVHeads: 4, HeadK: 256, HeadV: 256, FullLayers: 16,
		StateLayers: 48, StateConv: 4, StateInner: 6144, StateSize: 128, StateGroups: 16, Context: 262144, Vocab: 248320}, // as Qwen3.6-27B
	{Name: "GLM-Z1-32B", Kind: KindFull, ParamsB: 32.566, Layers: 61, Hidden: 6144, FF: 23040, Heads: 48, KVHeads: 2, HeadK: 128, HeadV: 128, Context: 32768, Vocab: 151552},
	{Name: "GLM-4-32B", Kind: KindFull, ParamsB: 32.566, Layers: 61, Hidden: 6144, FF: 23040, Heads: 48, KVHeads: 2, HeadK: 128, HeadV: 128, Context: 32768, Vocab: 151552},
	{Name: "Llama-3.1-Nemotron-Ultra-253B", Kind: KindFull, ParamsB: 253.4, Layers: 162, FullLayers: 64, Hidden: 16384, FF: 53248, Heads: 128, KVHeads: 8, HeadK: 128, HeadV: 128,
		Context: 131072, Vocab: 128256},
	{Name: "Gemma-3-270m", Arch: "gemma3", Kind: KindSWA, ParamsB: 0.268, Layers: 18, Hidden: 640, FF: 2048, Heads: 4, KVHeads: 1, HeadK: 256, HeadV: 256,
		FullLayers: 3, SWALayers: 15, Window: 512, SWAKVHeads: 1, SWAHead: 256, Context: 32768, Vocab: 262144},
	{Name: "Llama-2-7B", Kind: KindFull, ParamsB: 6.738, Layers: 32, Hidden: 4096, FF: 11008, Heads: 32, KVHeads: 32, HeadK: 128, HeadV: 128, Context: 4096, Vocab: 32000},
	{Name: "Qwen3-4B", Kind: KindFull, ParamsB: 4.022, Layers: 36, Hidden: 2560, FF: 9728, Heads: 32, KVHeads: 8, HeadK: 128, HeadV: 128, Context: 262144, Vocab: 151936},
	{Name: "DeepSeek-V2-Lite", Arch: "deepseek2", Kind: KindFull, ParamsB: 15.706, Layers: 27, Hidden: 2048, FF: 10944, Heads: 16, KVHeads: 16, HeadK: 192, HeadV: 128,
		Context: 163840, Vocab: 102400},
	{Name: "phind-codellama", Kind: KindUnknown, ParamsB: 33.74},
}

// aliases name shapes that several models share.
var aliases = map[string]string{
	"deepseekr1/v3671b": "deepseek-r1", "deepseekv3": "deepseek-v3.1", "deepseekv3671b": "deepseek-v3.1", "kimik2thinking": "kimi-k2.7-code", "kimik2.5": "kimi-k2.7-code", "kimik2.6": "kimi-k2.7-code",
	"kimik2.7": "kimi-k2.7-code", "minimaxm2": "minimax-m2.5", "minimaxm2.1": "minimax-m2.5", "minimaxm2.7": "minimax-m2.5", "llama3.170b": "llama3.3-70b", "qwen3codernext": "qwen3-coder-next",
}

// plainName writes a name without what only tells variants of one shape apart.
func plainName(s string) string {
	s = reMonth.ReplaceAllString(strings.ToLower(clean(s)), "")
	for _, cut := range []string{"(", "+", ","} {
		s, _, _ = strings.Cut(s, cut)
	}
	return strings.NewReplacer("-", "", " ", "", "_", "", ":", "").Replace(s)
}

// shapeOf finds the model of a row: by its name, by its repository, or by the
// longest known name that it begins with.
func shapeOf(f figure) (Model, bool) {
	name := f.get("model")
	key := plainName(name)
	known := append(Catalog(), otherShapes...)
	for _, try := range []string{name, f.get("hf_repo_or_file"), aliases[key]} {
		if m, err := Find(try); err == nil {
			return m, true
		}
	}
	var best Model
	longest := 0
	consider := func(n string, m Model) {
		n = plainName(n)
		if len(n) > longest && len(n) >= 4 && strings.HasPrefix(key, n) && !strings.HasPrefix(strings.TrimLeft(key[len(n):], "."), "0") && !digitAfter(key, n) {
			best, longest = m, len(n)
		}
	}
	for _, m := range known {
		consider(m.Name, m)
		consider(m.Tag, m)
		if m.Repo != "" {
			consider(m.Repo[strings.LastIndex(m.Repo, "/")+1:], m)
		}
	}
	for alias, to := range aliases {
		if m, err := Find(to); err == nil {
			consider(alias, m)
		}
	}
	return best, longest > 0
}

// digitAfter keeps "qwen3" from being taken for the beginning of "qwen3.6", or
// "m2" for that of "m2.5".
func digitAfter(key, prefix string) bool {
	rest := key[len(prefix):]
	return rest != "" && (rest[0] == '.' || rest[0] >= '0' && rest[0] <= '9')
}

// ---- fit_cases.csv

func scoreCase(r *report, f figure) {
	kinds := map[string]func(*report, figure, Model, bool) string{
		"weights_file": caseWeights, "model_buffer": caseWeights, "kv_cache": caseKV, "recurrent_state": caseState, "compute_buffer": caseCompute,
		"total_vram": caseTotal, "ollama_total": caseTotal, "vllm_load": caseVLLMLoad, "vllm_kv_mem": caseVLLMMemory,
		"vllm_kv_tokens": caseVLLMTokens, "fit_outcome": caseOutcome,
	}
	score := kinds[f.get("kind")]
	switch {
	case f.get("kind") == "device_memory":
		r.skip(f, "memory of a device: probed, not computed")
		return
	case score == nil:
		r.skip(f, "kind "+strconv.Quote(f.get("kind"))+" is not known")
		return
	}
	m, ok := shapeOf(f)
	if p := f.float("params_b"); p > 0 {
		m.ParamsB = p
	}
	m.Context = max(m.Context, f.int("context")) // published contexts may be stretched
	if why := score(r, f, m, ok); why != "" {
		r.skip(f, f.get("kind")+": "+why)
	}
}

// quantOf reads the first word that names a type: "FP8 (block)" is FP8.
func quantOf(f figure) string {
	other := map[string]string{"FP4": "NVFP4", "INT4": "GPTQ", "AWQ-INT4": "AWQ", "GPTQ-INT4": "GPTQ"}
	for word := range strings.FieldsSeq(f.get("quant")) {
		q := strings.TrimPrefix(normalQuant(strings.Trim(word, "(),")), "MLX-")
		q, _, _ = strings.Cut(q, "-CLASS")
		q = cmpString(other[q], q)
		if _, ok := quantTypes[q]; ok {
			return q
		}
	}
	return ""
}

func caseWeights(r *report, f figure, m Model, _ bool) string {
	quant, want := quantOf(f), f.value()
	switch {
	case quant == "":
		return "quantization " + strconv.Quote(f.get("quant")) + " is not known"
	case m.ParamsB <= 0:
		return "the number of parameters is not known"
	case want == 0:
		return "no value"
	}
	want += match(reEmbed, f.get("what")) * float64(MiB) // those stay on the CPU
	m.Files = nil                                        // the parameters, not the file
	var got Bytes
	var err error
	if f.get("engine") == "vllm" {
		got, _, err = SafetensorsWeights(m, quant)
	} else {
		var res Result
		if res, err = Check(Ask{Model: m, Quant: quant, Context: 256}); err == nil {
			got = *res.Weights
		}
	}
	if err != nil {
		return err.Error()
	}
	r.add(f.get("kind"), f, float64(got), want)
	return ""
}

// cacheAsk is a row with a cache as a question. What a row remarks of older ways
// to store a cache changes the shape.
func cacheAsk(f figure, m Model) Ask {
	notes := f.all()
	a := Ask{Model: m, Quant: "F16", Context: max(1, f.int("context")), Parallel: max(1, f.int("parallel")), UBatch: f.int("n_ubatch"), Engine: "llama-server"}
	if a.Model.ParamsB <= 0 {
		a.Model.ParamsB = 1
	}
	if a.UBatch == 0 {
		a.UBatch = 512
	}
	a.KVType = strings.NewReplacer("K=", "", " V=", "/", "k=", "", " v=", "/").Replace(f.get("kv_dtype"))
	switch {
	case m.Kind == KindMLA && strings.Contains(notes, "no MLA"): // DeepSeek V3: 128 heads of 192 and 128
		a.Model.Kind, a.Model.KVHeads, a.Model.HeadK, a.Model.HeadV = KindFull, m.Heads, 192, 128
	case m.Kind == KindMLA && strings.Contains(notes, "mainline in 2025"):
		a.Model.HeadV = 512 // values were cached too
	}
	a.FullWindow = strings.Contains(notes, "full context on sliding-window") || strings.Contains(notes, "full-size cache on SWA") || strings.Contains(notes, "swa-full")
	a.Unified = strings.Contains(notes, "--kv-unified")
	if strings.Contains(f.get("engine"), "(llama-server)") { // left to itself it takes four slots that share a cache
		a.Parallel, a.Unified = cmpNonZero(f.int("parallel"), 4), true
	}
	if strings.Contains(notes, "total -c") && !a.Unified {
		a.Context = max(1, a.Context/a.Parallel)
	}
	return a
}

func caseKV(r *report, f figure, m Model, ok bool) string {
	switch {
	case strings.Contains(f.get("notes"), "DSV4"):
		m = Model{Name: "DeepSeek-V4, its windows alone", Kind: KindSWA, ParamsB: 1, Layers: 43, FullLayers: 1, SWALayers: 43, Window: 128, SWAKVHeads: 1, SWAHead: 512,
			KVHeads: 1, HeadK: 1, HeadV: 1, Hidden: 4096, Vocab: 1, Context: 1 << 20}
		m.groups = []kvGroup{{layers: 43, k: 512, window: true}}
	case !ok:
		return "the shape of the model is not known"
	case f.int("context") == 0:
		return "the context is not stated"
	}
	res, err := Check(cacheAsk(f, m))
	switch {
	case err != nil:
		return err.Error()
	case res.KV == nil:
		return "the cache of this architecture is not computed"
	}
	r.add("kv_cache", f, float64(*res.KV), f.value())
	return ""
}

func caseState(r *report, f figure, m Model, ok bool) string {
	if !ok {
		return "the shape of the model is not known"
	}
	f.cells = maps.Clone(f.cells)
	f.cells["kv_dtype"] = "" // of the state, which is always f32
	res, err := Check(cacheAsk(f, m))
	if err != nil || res.State == nil {
		return "the state of this architecture is not computed"
	}
	r.add("recurrent_state", f, float64(*res.State), f.value())
	return ""
}

func caseCompute(r *report, f figure, m Model, ok bool) string {
	switch {
	case !ok || m.Kind == KindUnknown:
		return "the shape of the model is not known"
	case f.int("context") == 0:
		return "a part that does not depend on the context"
	}
	a := cacheAsk(f, m)
	a.GPU, a.NoFlash = f.get("device") != "CPU", f.get("flash_attn") == "0"
	group := "compute_buffer mid-2026"
	if v := f.get("engine_version"); f.get("engine") == "ik_llama.cpp" || v == "" || strings.Contains(f.get("notes"), "2025") {
		a.EngineVersion, group = "b5000", "compute_buffer before 2026"
	}
	if m.Kind == KindMLA {
		group += " MLA"
	}
	devices := 1
	if strings.Contains(f.get("device"), "per device") && m.ParamsB > 200 { // no single GPU holds that
		devices = 8
	}
	a.Devices = devices
	res, err := Check(a)
	switch {
	case err != nil:
		return err.Error()
	case res.Compute == nil:
		return "the cache of this architecture is not computed"
	}
	r.add(group, f, float64(*res.Compute)/float64(devices), f.value())
	return ""
}

func caseTotal(r *report, f figure, m Model, ok bool) string {
	quant, want := quantOf(f), f.value()
	layers := f.get("gpu_layers")
	switch {
	case !ok || m.Kind == KindUnknown:
		return "the shape of the model is not known"
	case f.int("context") == 0:
		return "the context is not stated"
	case layers != "" && layers != "all" && f.int("gpu_layers") <= m.Layers && f.get("unit") == "MiB":
		return "a part of the layers on the GPU: rlca serves models that fit"
	case quant == "":
		return "quantization " + strconv.Quote(f.get("quant")) + " is not known"
	case strings.HasPrefix(f.get("engine"), "vllm"):
		return "vLLM takes what it is given"
	}
	if f.get("engine") == "transformers" {
		w, _, err := SafetensorsWeights(m, quant)
		if err != nil {
			return err.Error()
		}
		groups, _ := m.kvGroups()
		kv := kvPerToken(groups, kvTypes[0], kvTypes[0])
		r.add("total_vram transformers", f, float64(add(w, mul(f.int("context"), int(kv)))), f.float("value")*float64(MiB)) // it prints MB for MiB
		return ""
	}
	a := cacheAsk(f, m)
	a.Quant, a.GPU, a.UBatch, a.Devices = quant, true, f.int("n_ubatch"), max(1, f.int("tensor_parallel"))
	group := "total_vram llama.cpp"
	if strings.HasPrefix(f.get("engine"), "ollama") {
		a.Engine, a.EngineVersion = "ollama", strings.TrimRight(f.get("engine_version"), "x.")
		if f.get("kind") == "ollama_total" {
			group = "ollama_total"
		}
	}
	if f.get("kind") == "total_vram" && f.get("unit") == "GB" {
		want = f.float("value") * float64(GiB)
	}
	res, err := Check(a)
	switch {
	case err != nil:
		return err.Error()
	case res.KV == nil:
		return "the cache of this architecture is not computed"
	}
	r.add(group, f, float64(*res.Total), want)
	return ""
}

func caseVLLMLoad(r *report, f figure, m Model, _ bool) string {
	quant := quantOf(f)
	if quant == "" || m.ParamsB <= 0 {
		return "quantization or parameters are not known"
	}
	w, _, err := SafetensorsWeights(m, quant)
	if err != nil {
		return err.Error()
	}
	group := "vllm_load"
	if quant == "NVFP4" {
		group = "vllm_load NVFP4 (mixed)"
	}
	r.add(group, f, float64(w)/float64(max(1, f.int("tensor_parallel"))), f.value())
	return ""
}

// vllmAsk is a row about vLLM as a question.
func vllmAsk(f figure, m Model) VLLMAsk {
	a := VLLMAsk{VLLMCache: VLLMCache{Model: m, Context: f.int("context"), Tensor: f.int("tensor_parallel"), KVType: f.get("kv_dtype")}, Quant: quantOf(f)}
	a.DecodeContext = int(match(reDCP, f.get("what")))
	a.Drafts = int(match(reMTP, f.get("quant")+" "+f.get("notes")))
	if a.KVType == "" && strings.Contains(f.get("quant"), "int8-per-token-head") {
		a.KVType = "int8_pth"
	}
	old := strings.HasPrefix(f.get("engine_version"), "0.6") || strings.HasPrefix(f.get("engine_version"), "0.5")
	if a.Old = old; old {
		a.Utilization = 0.9
		if m.Name == "DeepSeek-V2-Lite" { // before MLA: heads were padded to 256
			a.Model.HeadK, a.Model.HeadV = 256, 256
		}
	}
	if u := match(reUtil, f.get("device")); u > 0 {
		a.Utilization = u
	} else if a.Utilization == 0 {
		a.Utilization = 0.92
	}
	a.Eager = strings.Contains(f.all(), "--enforce-eager") && !strings.Contains(f.get("notes"), "OOM")
	a.Seqs = int(match(reSeqs, f.get("what")))
	total, free := deviceMemory(f.get("device"))
	for range max(1, a.Tensor) {
		a.Total, a.Free = append(a.Total, total), append(a.Free, free)
	}
	return a
}

// devices are the memory of GPUs as engines print it (the rows of kind
// device_memory), and of a DGX Spark what was free.
var devices = []struct {
	name        string
	total, free float64 // GiB
}{
	{"RTX PRO 6000", 94.97, 94.97}, {"RTX A6000", 47.5, 47.5}, {"RTX 3090", 23.58, 23.58}, {"RTX 4090", 23.52, 23.52}, {"RTX 5090", 31.4, 31.4}, {"RTX 5080", 15.5, 15.5},
	{"H100", 79.1, 79.1}, {"H200", 139.8, 139.8}, {"A100", 79.1, 79.1}, {"DGX Spark", 121.63, 101.7}, {"GB10", 121.63, 101.7}, {"7900 XT", 20, 20}, {"NVIDIA L4", 21.95, 21.95}, {"H20", 95, 95},
}

// deviceMemory reads the memory of a device, and what is free of it.
func deviceMemory(s string) (total, free Bytes) {
	for _, d := range devices {
		if strings.Contains(s, d.name) {
			total, free = scale(GiB, d.total), scale(GiB, d.free)
			break
		}
	}
	said := false
	for _, re := range []*regexp.Regexp{reUsable, reTotal} {
		if v := match(re, s); v > 0 && !said {
			total, said = scale(GiB, v), true
			free = total
			if strings.Contains(s, "GB usable") {
				total = scale(GB, v)
				free = total
			}
		}
	}
	if v := match(reLimitGiB, s); v > 0 {
		total = scale(GiB, v)
		free = total
	} else if v := match(reLimitMB, s); v > 0 {
		total = scale(MiB, v)
		free = total
	}
	for _, re := range []*regexp.Regexp{reFree, reFreeRange} {
		if v := match(re, s); v > 0 {
			free = scale(GiB, v)
		}
	}
	if total == 0 {
		if v := match(reMiBBox, s); v > 0 {
			total = scale(MiB, v)
		} else if v := match(reGBBox, s); v > 0 {
			total = scale(GB, v)
		}
		free = total
	}
	return total, free
}

func caseVLLMMemory(r *report, f figure, m Model, ok bool) string {
	a := vllmAsk(f, m)
	switch {
	case !ok || m.Kind == KindUnknown:
		return "the shape of the model is not known"
	case a.Total[0] == 0:
		return "the device is not known"
	case f.get("quant") == "":
		return "the type of the weights is not stated"
	}
	res, err := CheckVLLM(a)
	if err != nil {
		return err.Error()
	}
	// What is left is a small difference of large numbers, so its error is told
	// in shares of the budget.
	r.put("vllm_kv_mem (of the budget)", f, 100*(float64(res.Available)-f.value())/float64(*res.Budget))
	return ""
}

func caseVLLMTokens(r *report, f figure, m Model, ok bool) string {
	avail := match(reKV, f.get("device"))
	if avail == 0 {
		avail = match(reGiB, f.get("what"))
	}
	notes := f.all()
	switch {
	case !ok || m.Kind == KindUnknown:
		return "the shape of the model is not known, or its cache is not computed"
	case avail == 0:
		return "the memory of the cache is not stated"
	case strings.Contains(notes, "DFlash") || strings.Contains(notes, "drafter"):
		return "a drafter of its own, which only the engine knows"
	case strings.Contains(notes, "maximum model length"):
		return "a longest context, from an attempt whose memory is not stated"
	}
	a := vllmAsk(f, m)
	group := "vllm_kv_tokens plain"
	switch m.Kind {
	case KindMLA:
		group = "vllm_kv_tokens MLA"
	case KindSWA:
		group = "vllm_kv_tokens windows"
	case KindHybrid:
		// A row names its flags if it is of a log, with the type of its cache,
		// and does not say that something was cut off.
		group = "vllm_kv_tokens hybrid"
		if f.get("kv_dtype") == "" || f.get("evidence") != "log" || strings.Contains(notes, "cut off") || strings.Contains(notes, "not stated") {
			group += ", flags not named"
		}
	}
	res, err := a.Capacity(scale(GiB, avail))
	if err != nil {
		return err.Error()
	}
	got := float64(res.Tokens)
	if strings.Contains(notes, "old print") { // then it printed the blocks of one group
		g := (m.StateLayers + m.FullLayers - 1) / max(1, m.FullLayers)
		got = float64(res.Blocks / (g + 1) * res.Block)
	}
	r.add(group, f, got, f.float("value"))
	return ""
}

func caseOutcome(r *report, f figure, m Model, ok bool) string {
	was := f.float("value") != 0
	total, free := deviceMemory(f.get("device"))
	notes := f.all()
	if u := match(reUtil, notes); strings.Contains(f.get("what"), "free-memory check") && u > 0 && total > 0 {
		r.outcome(f, scale(total, u) <= free, was)
		return ""
	}
	if total == 0 {
		return "the device is not stated"
	}
	need := scale(GiB, match(rePlan, notes)) + scale(GB, match(reResident, notes))
	if need > 0 {
		r.outcome(f, verdict(need, &free).OK(), was)
		return ""
	}
	if draft := match(reDraft, f.get("model")); !ok || m.Kind == KindUnknown || draft > 0 {
		quant := quantOf(f)
		if m.ParamsB <= 0 {
			m.ParamsB = match(reBillions, f.get("model"))
		}
		a := Ask{Model: Model{Name: f.get("model"), Kind: KindUnknown, ParamsB: m.ParamsB}, Quant: quant, Budget: &free}
		if size := match(reFileGB, f.get("quant")); size > 0 {
			w := scale(GB, size+draft)
			a.WeightsBytes = &w
		}
		res, err := Check(a)
		if err != nil {
			return err.Error()
		}
		r.outcome(f, res.Verdict.OK(), was)
		return ""
	}
	if f.get("engine") == "vllm" {
		a := vllmAsk(f, m)
		if size := match(reGiB, f.get("quant")); size > 0 {
			w := scale(GiB, size)
			a.WeightsBytes = &w
		}
		if n := a.Total[0]; n == 0 {
			return "the device is not stated"
		}
		res, err := CheckVLLM(a)
		if err != nil {
			return err.Error()
		}
		r.outcome(f, res.Verdict.OK(), was)
		return ""
	}
	quant := quantOf(f)
	if quant == "" {
		return "quantization " + strconv.Quote(f.get("quant")) + " is not known"
	}
	a := cacheAsk(f, m)
	a.Quant, a.GPU, a.Budget, a.UBatch = quant, true, &free, f.int("n_ubatch")
	if strings.HasPrefix(f.get("engine"), "ollama") {
		a.Engine, a.EngineVersion = "ollama", f.get("engine_version")
	}
	res, err := Check(a)
	if err != nil {
		return err.Error()
	}
	r.outcome(f, res.Verdict.OK(), was)
	return ""
}

// ---- fit_live.csv

// liveShape is a shape of fit_live_models.json.
type liveShape struct {
	Model
	tensors Bytes
}

// liveShapes reads them beside the figures, else those of testdata.
var liveShapes = sync.OnceValue(func() map[string]liveShape {
	out := map[string]liveShape{}
	b, err := os.ReadFile(figuresPath("RLCA_FIT_LIVE_MODELS", "fit_live_models.json"))
	if err != nil {
		b, err = os.ReadFile("testdata/live_models.json")
	}
	var shapes map[string]map[string]any
	if err != nil || json.Unmarshal(b, &shapes) != nil {
		return out
	}
	keys := map[string]string{"layers": "block_count", "embedding": "embedding_length", "feed_forward": "feed_forward_length", "heads": "attention.head_count",
		"kv_heads": "attention.head_count_kv", "vocab": "vocab_size", "native_context": "context_length", "sliding_window": "attention.sliding_window",
		"experts": "expert_count", "experts_used": "expert_used_count", "expert_feed_forward": "expert_feed_forward_length"}
	for name, s := range shapes {
		arch, _ := s["arch"].(string)
		md := map[string]any{"general.architecture": arch, arch + ".attention.key_length": s["head_dim"], arch + ".attention.value_length": s["head_dim"]}
		for from, to := range keys {
			if v, ok := s[from]; ok {
				md[arch+"."+to] = v
			}
		}
		if m, err := FromMetadata(md); err == nil {
			m.Name, m.ParamsB = name, 1
			out[name] = liveShape{m, Bytes(whole(s["tensor_bytes"]))}
		}
	}
	return out
})

// sameDecimal reports whether two amounts are one in a log of MiB with one
// decimal, as Ollama writes it: no error can be told from that.
func sameDecimal(f figure, got, want float64) bool {
	d := (got - want) / float64(MiB)
	return f.get("engine") == "ollama" && d > -0.0501 && d < 0.0501
}

func scoreLive(r *report, f figure) {
	what := f.get("quantity")
	s, ok := liveShapes()[f.get("model")]
	version, flags, want := f.get("engine_version"), f.get("flags"), f.float("actual_bytes")
	amx := strings.Contains(version, "AMX") && !strings.Contains(flags, "--no-repack")
	switch {
	case !ok:
		r.skip(f, "live: the shape of the model is not known")
		return
	case what == "api_ps_size":
		r.skip(f, "live: what /api/ps says is read, and known to be too low; it is not computed")
		return
	case (what == "weights_buffer" || what == "weights_buffer_with_cpu_repack") && amx && strings.Contains(flags, "--no-mmap"):
		r.skip(f, "live: without mmap only the tensors that are not repacked stay; which ones depends on their types")
		return
	}
	a := Ask{Model: s.Model, WeightsBytes: &s.tensors, Quant: f.get("quant"), Context: f.int("context_per_slot"), Parallel: f.int("parallel"), KVType: f.get("kv_type"), UBatch: f.int("ubatch"),
		Engine: f.get("engine"), EngineVersion: version, Repack: amx, Unified: strings.Contains(flags, "-kvu"), FullWindow: strings.Contains(flags, "--swa-full"), NoFlash: strings.Contains(flags, "-fa off")}
	if s.tensors == 0 { // synthetic: only their buffers are known
		one := Bytes(1)
		a.WeightsBytes = &one
	}
	group := ""
	if a.Engine == "ollama" {
		a.EngineVersion, group, _ = strings.Cut(version, "/")
		group = " Ollama " + group
	} else {
		group, _, _ = strings.Cut(version, "(")
		a.EngineVersion, group = group, " "+group
	}
	if a.NoFlash {
		group += " without flash attention"
	}
	p, err := newPricer(a)
	if err != nil || p.groups == nil {
		r.skip(f, "live: it is not computed")
		return
	}
	c := p.price(max(1, a.Context))
	got := map[string]Bytes{"weights_buffer": add(p.weights, c.tied), "weights_buffer_with_cpu_repack": add(p.weights, c.repack), "kv_cache": c.kv, "compute_buffer": c.compute,
		"output_buffer": p.output(), "process_rss": c.total}
	name := map[string]string{"weights_buffer": "live weights", "weights_buffer_with_cpu_repack": "live weights with CPU repack", "kv_cache": "live kv_cache", "compute_buffer": "live compute" + group,
		"output_buffer": "live output", "process_rss": "live process_rss"}[what]
	switch v, known := got[what]; {
	case !known:
		r.skip(f, "live: quantity "+strconv.Quote(what)+" is not known")
	case want > 0 && sameDecimal(f, float64(v), want):
		r.put(name, f, 0)
	default:
		r.add(name, f, float64(v), want)
	}
}
