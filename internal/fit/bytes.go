package fit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is an amount of memory.
type Bytes int64

const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40

	KB Bytes = 1e3
	MB Bytes = 1e6
	GB Bytes = 1e9
	TB Bytes = 1e12
)

// String gives GiB with one decimal, "24.9 GiB"; below 0.1 GiB, MiB.
func (b Bytes) String() string {
	if b < GiB/10 && b > -GiB/10 {
		return fmt.Sprintf("%.1f MiB", float64(b)/float64(MiB))
	}
	return fmt.Sprintf("%.1f GiB", b.GiB())
}

// GiB gives the amount in units of 2^30 bytes.
func (b Bytes) GiB() float64 { return float64(b) / float64(GiB) }

// GB gives the amount in units of 1e9 bytes.
func (b Bytes) GB() float64 { return float64(b) / float64(GB) }

var units = map[string]Bytes{
	"": 1, "b": 1,
	"k": KB, "kb": KB, "kib": KiB,
	"m": MB, "mb": MB, "mib": MiB,
	"g": GB, "gb": GB, "gib": GiB,
	"t": TB, "tb": TB, "tib": TiB,
}

// ParseSize reads "32GB", "32GiB", "24g" or a plain number of bytes. GB, and g
// alone, are 1e9; only GiB is 2^30. Upper and lower case are the same.
func ParseSize(s string) (Bytes, error) {
	num, unit := split(s)
	mul, ok := units[unit]
	f, err := parseNumber(num)
	if err != nil || !ok {
		return 0, fmt.Errorf("size %q: want a number and a unit, such as 32GB or 29.8GiB", s)
	}
	if f *= float64(mul); f >= math.MaxInt64 {
		return 0, fmt.Errorf("size %q: too large", s)
	}
	return Bytes(math.Round(f)), nil
}

// ParseTokens reads "64k" (65536), "1m" (1048576) or a plain number.
func ParseTokens(s string) (int, error) {
	num, unit := split(s)
	mul, ok := map[string]float64{"": 1, "k": 1 << 10, "m": 1 << 20}[unit]
	f, err := parseNumber(num)
	if err != nil || !ok || f*mul != math.Trunc(f*mul) {
		return 0, fmt.Errorf("tokens %q: want a number, such as 65536 or 64k", s)
	}
	if f *= mul; f > math.MaxInt32 {
		return 0, fmt.Errorf("tokens %q: too many", s)
	}
	return int(f), nil
}

// Tokens writes a number of tokens, in units of 1024 where it is a whole
// number of them: "64k", else "40000".
func Tokens(n int) string {
	if n != 0 && n%1024 == 0 {
		return strconv.Itoa(n/1024) + "k"
	}
	return strconv.Itoa(n)
}

// split parts a number from the unit behind it.
func split(s string) (num, unit string) {
	s = strings.ToLower(strings.TrimSpace(s))
	i := strings.LastIndexAny(s, "0123456789.") + 1
	return s[:i], strings.TrimSpace(s[i:])
}

// parseNumber reads digits with at most one dot: no sign, exponent, hex or NaN.
func parseNumber(s string) (float64, error) {
	if strings.Trim(s, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}

// add adds and saturates; both are not below 0.
func add(a, b Bytes) Bytes {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// mul multiplies and saturates; all are not below 0.
func mul(ns ...int) Bytes {
	out := Bytes(1)
	for _, n := range ns {
		if n == 0 {
			return 0
		}
		if out > math.MaxInt64/Bytes(n) {
			return math.MaxInt64
		}
		out *= Bytes(n)
	}
	return out
}
