package remote

import (
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Buffers are what an engine says that it allocated for the model that it loaded last, in bytes, over all devices.
type Buffers struct {
	Weights int64 // with copies that were packed anew for the processor
	KV      int64
	State   int64 // of recurrent layers
	Compute int64 // with the outputs
	// GPU is the part of all these that lies on other devices than the processor.
	GPU int64
}

// Total is the sum, GPU is part of it.
func (b Buffers) Total() int64 { return b.Weights + b.KV + b.State + b.Compute }

var (
	// "load_tensors:   CPU_Mapped model buffer size =   104.37 MiB" of llama.cpp; its server writes time and level before
	bufferLine = regexp.MustCompile(`(\S*)\s+(model|KV|RS|compute|output) buffer size\s*=\s*([0-9.]+)\s*([KMG]iB)`)
	// msg="model weights" device=CPU size="405.2 MiB" of Ollama's own engine
	deviceLine = regexp.MustCompile(`msg="(model weights|kv cache|compute graph)"(?: device=(\S+))?[^"]* size="([0-9.]+) ([KMG]?i?B)"`)
)

// ParseBuffers reads an engine's log to its end: that of Ollama, or of a llama-server that says enough (-lv 4). It is
// false if the log does not say. llama.cpp's own lines count for more than Ollama's words on them, which are an estimate.
func ParseBuffers(log string) (Buffers, bool) {
	var llama, own Buffers
	var seen, ownSeen bool
	scratch := map[string]int64{} // what counts as compute, by the words before it: who says it, and the device
	for line := range strings.SplitSeq(log, "\n") {
		if m := bufferLine.FindStringSubmatch(line); m != nil {
			n := size(m[3], m[4])
			if m[2] == "model" && (llama.KV > 0 || llama.State > 0 || llama.Compute > 0) {
				llama = Buffers{} // the next load
				clear(scratch)
			}
			seen = true
			switch m[2] {
			case "model":
				llama.Weights += n
			case "KV":
				llama.KV += n
			case "RS":
				llama.State += n
			default: // a graph that is reserved anew takes the place of the one before
				before, _, _ := strings.Cut(line, m[0])
				who := before[strings.LastIndexByte(strings.TrimRight(before, " "), ' ')+1:] + m[1] + " " + m[2]
				n, scratch[who] = n-scratch[who], n
				llama.Compute += n
			}
			if !onProcessor(m[1]) {
				llama.GPU += n
			}
		}
		if m := deviceLine.FindStringSubmatch(line); m != nil {
			n := size(m[3], m[4])
			if m[1] == "model weights" && (own.KV > 0 || own.Compute > 0) {
				own = Buffers{}
			}
			if m[1] == "model weights" && seen && llama.Compute > 0 { // another engine's load begins
				llama, seen = Buffers{}, false
				clear(scratch)
			}
			ownSeen = true
			switch m[1] {
			case "model weights":
				own.Weights += n
			case "kv cache":
				own.KV += n
			default:
				own.Compute += n
			}
			if !onProcessor(m[2]) {
				own.GPU += n
			}
		}
	}
	if seen && llama.Weights > 0 {
		return llama, true
	}
	return own, ownSeen && own.Weights > 0
}

// onProcessor reports whether a buffer of that name lies in the memory of the processor: "CPU_Mapped", "AMX", and
// "CUDA_Host", which a GPU reads there.
func onProcessor(name string) bool {
	return name == "" || strings.HasPrefix(name, "CPU") || strings.HasPrefix(name, "AMX") || strings.HasPrefix(name, "BLAS") || strings.HasSuffix(name, "_Host")
}

// size reads a number with its unit; what makes no sense is nothing.
func size(number, unit string) int64 {
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0
	}
	switch unit {
	case "KiB":
		n *= 1 << 10
	case "MiB":
		n *= 1 << 20
	case "GiB":
		n *= 1 << 30
	}
	if n > 1<<50 {
		return 0
	}
	return int64(math.Round(n))
}
