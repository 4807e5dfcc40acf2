package fit

import (
	"fmt"
	"slices"
	"time"
)

// Parts are the parts of what a loaded model takes, in bytes. A reserve that
// nobody measured is nil.
type Parts struct {
	Weights Bytes  `json:"weights_bytes"`
	KV      Bytes  `json:"kv_bytes"`
	State   Bytes  `json:"state_bytes"`
	Compute Bytes  `json:"compute_bytes"`
	Reserve *Bytes `json:"reserve_bytes"`
}

// Load is one load of a model on one box: what was predicted without any
// correction, and what the engine and the box told.
type Load struct {
	At        time.Time `json:"at"`
	Engine    string    `json:"engine"`
	Version   string    `json:"version"`
	GPU       bool      `json:"gpu"`
	Model     string    `json:"model"`
	Quant     string    `json:"quant"`
	Context   int       `json:"context"`
	Parallel  int       `json:"parallel"`
	Predicted Parts     `json:"predicted"`
	Actual    Parts     `json:"actual"`
}

// Correction is what the loads of one engine on one box have taught. Weights
// and caches are exact as computed; what differs from box to box is the compute
// buffer, which follows the build and its back end, and what the runtime takes
// for itself.
type Correction struct {
	Compute float64 `json:"compute_factor"` // of the compute buffer as computed
	Reserve *Bytes  `json:"reserve_bytes"`  // in place of the runtime's; nil if it was not measured
	Loads   int     `json:"loads"`          // that it comes from
}

const (
	learnFrom = 8    // loads; older ones may be of another state of the box
	worthIt   = 0.02 // a smaller difference is noise of rounding
	factorTop = 4
	// A load of another model, or of this one with another context, may be the
	// last in the log: it shows in parts that are exact as computed.
	sameWeights, sameKV = 0.25, 0.02
)

// Plausible reports whether the figures are those of the load that was
// predicted, and so good to learn from.
func (l Load) Plausible() bool {
	off := func(a, b Bytes) float64 {
		if b <= 0 {
			return 0
		}
		return max(float64(a)/float64(b), float64(b)/max(float64(a), 1)) - 1
	}
	return l.Predicted.Weights > 0 && l.Predicted.Compute > 0 && l.Actual.Compute > 0 &&
		off(l.Actual.Weights, l.Predicted.Weights) <= sameWeights &&
		off(l.Actual.KV, l.Predicted.KV) <= sameKV && off(l.Actual.State, l.Predicted.State) <= sameKV
}

// Learn makes a correction of the plausible loads of one engine and version, on
// GPUs or not: the median of
//
//	compute buffer in the log / compute buffer as computed
//
// over the last eight, and the median of the measured reserves. Nil if there is
// nothing to correct.
func Learn(loads []Load, engine, version string, gpu bool) *Correction {
	var factors []float64
	var reserves []Bytes
	for _, l := range slices.Backward(loads) {
		if l.Engine != engine || l.Version != version || l.GPU != gpu || !l.Plausible() {
			continue
		}
		factors = append(factors, min(max(float64(l.Actual.Compute)/float64(l.Predicted.Compute), 1.0/factorTop), factorTop))
		if r := l.Actual.Reserve; r != nil && *r >= 0 {
			reserves = append(reserves, *r)
		}
		if len(factors) == learnFrom {
			break
		}
	}
	if len(factors) == 0 {
		return nil
	}
	c := &Correction{Compute: middle(factors), Loads: len(factors)}
	if len(reserves) > 0 {
		r := middle(reserves)
		c.Reserve = &r
	}
	if c.Compute > 1-worthIt && c.Compute < 1+worthIt {
		c.Compute = 1
	}
	if c.Compute == 1 && c.Reserve == nil {
		return nil
	}
	return c
}

// middle is the median; of an even number of values the upper one, so that a
// doubt makes a model larger.
func middle[T float64 | Bytes](v []T) T {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// check refuses a correction that no measurement gives.
func (c *Correction) check() error {
	switch {
	case c == nil:
	case !(c.Compute >= 1.0/factorTop && c.Compute <= factorTop):
		return fmt.Errorf("correction of the compute buffer by %v: from %v to %v", c.Compute, 1.0/factorTop, factorTop)
	case c.Reserve != nil && *c.Reserve < 0:
		return fmt.Errorf("measured reserve of %d bytes: it is not below 0", *c.Reserve)
	}
	return nil
}

// String says what was corrected.
func (c *Correction) String() string {
	s := fmt.Sprintf("corrected by what %d loads on this box took: ", c.Loads)
	if c.Loads == 1 {
		s = "corrected by what one load on this box took: "
	}
	if c.Compute != 1 {
		s += fmt.Sprintf("compute buffer × %.2f", c.Compute)
	}
	if c.Reserve != nil {
		if c.Compute != 1 {
			s += ", "
		}
		s += fmt.Sprintf("reserve %s", *c.Reserve)
	}
	return s
}
