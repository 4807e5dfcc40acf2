package instance

import (
	"strings"
	"testing"

	"rlca/probe"
)

func TestScarce(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	const gib = 1 << 30
	for _, test := range []struct {
		name  string
		s     probe.Sample
		first *int64
		want  string
	}{
		{"plenty", probe.Sample{TotalBytes: n(100 * gib), AvailableBytes: n(50 * gib), SwapTotalBytes: n(gib), SwapUsedBytes: n(gib)}, n(gib), ""},
		{"little", probe.Sample{TotalBytes: n(100 * gib), AvailableBytes: n(3 * gib), SwapTotalBytes: n(gib), SwapUsedBytes: n(0)}, n(0), "only 3.0 GiB of memory are left on the box, it will swap soon"},
		{"little, no swap", probe.Sample{TotalBytes: n(100 * gib), AvailableBytes: n(3 * gib), SwapTotalBytes: n(0)}, nil, "and it has no swap"},
		{"swapping", probe.Sample{TotalBytes: n(100 * gib), AvailableBytes: n(50 * gib), SwapUsedBytes: n(2 * gib)}, n(gib), "the box swaps: 1.0 GiB more"},
		{"swapped before", probe.Sample{TotalBytes: n(100 * gib), AvailableBytes: n(50 * gib), SwapUsedBytes: n(2 * gib)}, n(2 * gib), ""},
		{"nothing known", probe.Sample{}, nil, ""},
	} {
		if got := scarce(&test.s, test.first); got == "" != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
