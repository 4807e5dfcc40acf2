package tunnel

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// A stream at full speed allocates as many bytes as it moves, in a heap of a few MiB: the collector would run every
// 3 MiB. While much is moved the heap may grow further; soon after that the memory goes back to the system.
const (
	bulkStep    = 8 << 20 // bytes, over all forwards, after which it counts as much
	bulkPercent = 800     // of the live heap, which is 3 MiB here and some for each stalled stream
	bulkQuiet   = 5 * time.Second
)

var bulk struct {
	moved atomic.Int64

	mu     sync.Mutex // guards what follows
	lower  *time.Timer
	normal int // the percentage of before
}

// moved counts bytes.
func moved(n int) {
	if now := bulk.moved.Add(int64(n)); now/bulkStep != (now-int64(n))/bulkStep {
		raise()
	}
}

// raise lets the heap grow, until nothing was moved for a while.
func raise() {
	bulk.mu.Lock()
	defer bulk.mu.Unlock()
	if bulk.lower != nil {
		bulk.lower.Reset(bulkQuiet)
		return
	}
	bulk.normal = debug.SetGCPercent(bulkPercent)
	bulk.lower = time.AfterFunc(bulkQuiet, func() {
		bulk.mu.Lock()
		debug.SetGCPercent(bulk.normal)
		bulk.lower = nil
		bulk.mu.Unlock()
		debug.FreeOSMemory()
	})
}
