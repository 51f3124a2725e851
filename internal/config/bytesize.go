package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
)

// A ByteSize is a number of bytes. In the file it is an integer, or a string of
// digits and a unit: B, kB, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB
// (powers of 1024).
type ByteSize int64

// The binary units.
const (
	KiB ByteSize = 1 << 10
	MiB ByteSize = 1 << 20
	GiB ByteSize = 1 << 30
	TiB ByteSize = 1 << 40
)

var units = []struct {
	name string
	size ByteSize
}{
	{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1}, {"", 1},
}

var errByteSize = errors.New(`expected a size: a number of bytes, or a string such as "512KiB", "64MiB" or "10MB"`)

// ParseByteSize returns the size that s spells.
func ParseByteSize(s string) (ByteSize, error) {
	digits := 0
	for digits < len(s) && '0' <= s[digits] && s[digits] <= '9' {
		digits++
	}
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("the size %q is too large", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%w; found %q", errByteSize, s)
	}
	for _, u := range units {
		if u.name != s[digits:] {
			continue
		}
		if n > math.MaxInt64/int64(u.size) {
			return 0, fmt.Errorf("the size %q is too large", s)
		}
		return ByteSize(n) * u.size, nil
	}
	return 0, fmt.Errorf("%w; found %q", errByteSize, s)
}

// String returns the shortest exact form with a binary unit, such as "64MiB".
func (b ByteSize) String() string {
	for _, u := range units[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// MarshalText returns what String returns.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
