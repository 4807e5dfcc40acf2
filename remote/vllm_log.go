package remote

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// vllmPrefix is what stands before the words of a line: its processes, Ray's colours dropped, then level, time and place.
var vllmPrefix = regexp.MustCompile(`^(?:\([A-Za-z_][^()]*\) )*(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?`)

// split parts a line of the log into its level, empty if it has none, and its words.
func splitLine(line string) (level, words string) {
	m := vllmPrefix.FindStringSubmatch(line)
	return m[1], line[len(m[0]):]
}

// phase is a step of a start.
type phase struct {
	line *regexp.Regexp
	step string
	text string
}

// phases are the steps of a start, in their order, by what a line begins with or contains. A group is a percentage.
var phases = sync.OnceValue(func() []phase {
	return []phase{
		{regexp.MustCompile(`non-default args: `), StepEngine, "reading its arguments"},
		{regexp.MustCompile(`^Resolved architecture: `), StepEngine, "reading the model's configuration"},
		{regexp.MustCompile(`^Initializing a V\d LLM engine|^Waiting for \d+ local, \d+ remote core engine`), StepEngine, "starting its engine"},
		{regexp.MustCompile(`^Waiting for creating a placement group`), StepEngine, "waiting for the other boxes"},
		{regexp.MustCompile(`^Starting to load model `), StepLoad, "loading weights"},
		{regexp.MustCompile(`^Loading .*shards: +(\d+)% Completed`), StepLoad, "loading weights"},
		{regexp.MustCompile(`^(?:Loading weights|Model loading) took `), StepLoad, "weights are loaded"},
		{regexp.MustCompile(`for vLLM's torch\.compile|^Dynamo bytecode transform|^Cache the graph of compile|^Compiling a graph|^Directly load the compiled graph`), StepLoad, "compiling"},
		{regexp.MustCompile(`^torch\.compile took .* in total`), StepLoad, "compiled"},
		{regexp.MustCompile(`^Available KV cache memory: |^[CG]PU KV cache size: |GiB for KV cache on node`), StepLoad, "laying out the cache"},
		{regexp.MustCompile(`^\[Autotuner\]|[Aa]utotun.* start|^Warming up `), StepLoad, "trying out kernels"},
		{regexp.MustCompile(`^Capturing CUDA graphs.*?: +(\d+)%`), StepLoad, "capturing graphs"},
		{regexp.MustCompile(`^Graph capturing finished`), StepLoad, "graphs are captured"},
		{regexp.MustCompile(`^init engine .* took `), StepLoad, "engine is ready"},
		{regexp.MustCompile(`^Starting vLLM (?:API )?server`), StepLoad, "opening its port"},
	}
})

// vllmPhases follows a start by the end of its log, again and again, and says how far it is. It goes back only when the
// log begins anew.
func vllmPhases() func(lines []string) Progress {
	at, said, told := 0, "", ""
	return func(lines []string) Progress {
		for _, line := range lines {
			_, words := splitLine(line)
			for i, p := range phases() {
				m := p.line.FindStringSubmatch(words)
				if m == nil || i < at && i > 0 {
					continue
				}
				at, said = i, "vLLM: "+p.text
				if len(m) > 1 {
					said += " " + m[1] + " %"
				}
				break
			}
		}
		now := cmp.Or(said, "vLLM: importing its libraries")
		if now == told {
			return Progress{}
		}
		told = now
		return Progress{Step: phases()[at].step, Text: now}
	}
}

// vllmSizesScript reads from the log what the last start said that it took.
const vllmSizesScript = `
f=$D/%s
[ -r "$f" ] || return
grep -aoE "non-default args: |'tensor_parallel_size': [0-9]+|Model loading took [0-9.]+ Gi?B|Available KV cache memory: [0-9.]+ GiB|\([0-9.]+/[0-9.]+\) GiB for KV cache on node [0-9]+|Graph capturing finished in [0-9.]+ secs, took [0-9.]+ GiB" "$f" 2>/dev/null | tail -n 60 | while IFS= read -r l; do say took "$l"; done
`

// measured adds what a server of ours said that it takes. vLLM tells it nowhere but in its log, and of weights on a CPU
// not even there: those are as big as their files. Of other servers nothing is known.
func (v *VLLM) measured(ctx context.Context, s *Server, l Loaded) Loaded {
	if s.Adopted {
		return l
	}
	a, err := v.script(ctx, fmt.Sprintf(vllmSizesScript, quote(v.logFile())))
	if err != nil {
		return l
	}
	weights, cache, gpu := vllmTook(a.lines["took"])
	if weights == 0 {
		model := l.Base
		if src, err := v.source(ctx, model); err == nil {
			weights = src.Bytes
		}
	}
	if cache > 0 {
		l.SizeBytes = weights + cache
		if gpu {
			l.VRAMBytes = l.SizeBytes
		}
	}
	return l
}

var tookNumber = regexp.MustCompile(`[0-9]+(?:\.[0-9]+)?`)

// vllmTook understands what vllmSizesScript found: the last start counts. Only the first process of a box tells, so each
// of those that share a model is taken to have as much.
func vllmTook(lines []string) (weights, cache int64, gpu bool) {
	processes := int64(1)
	size := func(text string) int64 {
		n, err := strconv.ParseFloat(tookNumber.FindString(text), 64)
		if err != nil || n < 0 || n > 1<<20 {
			return 0
		}
		return int64(n * (1 << 30))
	}
	var graphs int64
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "non-default args"):
			weights, cache, graphs, gpu, processes = 0, 0, 0, false, 1
		case strings.HasPrefix(line, "'tensor_parallel_size'"):
			if n, err := strconv.ParseInt(tookNumber.FindString(line), 10, 16); err == nil && n > 0 {
				processes = n
			}
		case strings.HasPrefix(line, "Model loading took"):
			weights, gpu = size(line), true
		case strings.HasPrefix(line, "Available KV cache memory"):
			cache, gpu = size(line), true
		case strings.HasPrefix(line, "Graph capturing"):
			_, took, _ := strings.Cut(line, "took")
			graphs = size(took)
		case strings.HasSuffix(line, "for KV cache on node 0"):
			cache = size(line)
		}
	}
	return weights * processes, (cache + graphs) * processes, gpu
}
