package fit

import "testing"

func TestParseSize(t *testing.T) {
	for in, want := range map[string]Bytes{
		"32GB": 32e9, "32GiB": 32 << 30, "24g": 24e9, "24 GB": 24e9, " 1.5gib ": 3 << 29,
		"512MiB": 512 << 20, "0": 0, "1024": 1024, "7b": 7, "1TB": 1e12, "2TiB": 2 << 40, "3kB": 3000, "3KiB": 3072,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "GB", "-1GB", "1e3GB", "NaN", "Inf", "0x10", "1.2.3GB", "32 PB", "1GB2", "9999999999999TB", "+1GB", "32GBs"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestTokens(t *testing.T) {
	for in, want := range map[string]int{"64k": 65536, "65536": 65536, "128K": 131072, "1m": 1 << 20, "0": 0, "1.5k": 1536} {
		if got, err := ParseTokens(in); err != nil || got != want {
			t.Errorf("ParseTokens(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "k", "-1", "64kb", "1.5", "1e5", "9999999m", "64 kk"} {
		if got, err := ParseTokens(in); err == nil {
			t.Errorf("ParseTokens(%q) = %d, want an error", in, got)
		}
	}
	for in, want := range map[int]string{0: "0", 65536: "64k", 202752: "198k", 40000: "40000", 256: "256"} {
		if got := Tokens(in); got != want {
			t.Errorf("Tokens(%d) = %q, want %q", in, got, want)
		}
	}
}

func TestBytesString(t *testing.T) {
	for in, want := range map[Bytes]string{
		18556689568: "17.3 GiB", 12 << 30: "12.0 GiB", 45 << 20: "45.0 MiB", 0: "0.0 MiB", GiB / 2: "0.5 GiB",
	} {
		if got := in.String(); got != want {
			t.Errorf("Bytes(%d).String() = %q, want %q", in, got, want)
		}
	}
	if got := Bytes(15e9).GB(); got != 15 {
		t.Errorf("Bytes(15e9).GB() = %v, want 15", got)
	}
	if got := mul(1<<40, 1<<40); got != 1<<63-1 {
		t.Errorf("mul(1<<40, 1<<40) = %d, want the largest number", got)
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"32GB", "1.5GiB", "-1", "", "9e9g", "٣GB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := ParseSize(s); err == nil && b < 0 {
			t.Errorf("ParseSize(%q) = %d, below 0", s, b)
		}
	})
}

func FuzzParseTokens(f *testing.F) {
	for _, s := range []string{"64k", "65536", "", "1.5k", "-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseTokens(s)
		if err != nil {
			return
		}
		if again, err := ParseTokens(Tokens(n)); n < 0 || err != nil || again != n {
			t.Errorf("ParseTokens(Tokens(%d)) = %d, %v", n, again, err)
		}
	})
}
