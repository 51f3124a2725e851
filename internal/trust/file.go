package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"cmtpd/internal/address"
)

const (
	format  = 1
	maxFile = 64 << 10 // bytes; a full state has a quarter of that
	suffix  = ".json"

	sumHead = ",\n  \"sum\": \""
	sumTail = "\"\n}\n"
	sumSize = len(sumHead) + 8 + len(sumTail)
)

// ErrDamaged is what is wrong with a file that is not as it was written.
var ErrDamaged = errors.New("it cannot be read as cmtpd wrote it")

// A name is what the file of a domain is named after: domains are bounded, but not always
// by what a file system takes.
type name [sha256.Size]byte

func nameOf(domain address.Domain) name { return sha256.Sum256([]byte(domain.String())) }

func (n name) file() string { return hex.EncodeToString(n[:]) + suffix }

// parseName returns what a file in the directory is named after, and whether it is one of ours.
func parseName(file string) (n name, ok bool) {
	if len(file) != 2*len(n)+len(suffix) {
		return n, false
	}
	_, err := hex.Decode(n[:], []byte(file[:2*len(n)]))
	return n, err == nil && n.file() == file
}

// stored is the form of a file, but for the check sum that stands at its end.
type stored struct {
	Format int `json:"format"`
	*State
}

// encode returns the file of a state.
func encode(s *State) ([]byte, error) {
	data, err := json.MarshalIndent(stored{format, s}, "", "  ")
	if err != nil {
		return nil, err
	}
	return appendSum(bytes.TrimSuffix(data, []byte("\n}"))), nil
}

// appendSum ends a file with the check sum of what it has.
func appendSum(data []byte) []byte {
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	return fmt.Appendf(data, "%s%08x%s", sumHead, sum, sumTail)
}

// decode reads the file with this name. It takes only what encode returns.
func decode(n name, data []byte) (*State, error) {
	if len(data) < sumSize {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrDamaged, len(data))
	}
	body := data[:len(data)-sumSize]
	if !bytes.Equal(appendSum(bytes.Clone(body)), data) {
		return nil, fmt.Errorf("%w: its check sum is wrong", ErrDamaged)
	}
	f := stored{State: new(State)}
	if err := json.Unmarshal(append(bytes.Clone(body), "\n}"...), &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if f.Format != format {
		return nil, fmt.Errorf("%w: format %d is of another version", ErrDamaged, f.Format)
	}
	if nameOf(f.Domain) != n {
		return nil, fmt.Errorf("%w: it is of the domain %q", ErrDamaged, f.Domain)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	if again, err := encode(f.State); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: it has what does not belong there", ErrDamaged)
	}
	return f.State, nil
}

// check finds what no sequence of sightings leads to, and what would break the bounds.
func (s *State) check() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrDamaged, what) }
	if len(s.Keys) > MaxKeys || len(s.Pending) > maxPending || len(s.Former) > maxFormer || len(s.Actions) > maxActions {
		return bad("it has more than there may be")
	}
	times := []time.Time{s.Latest, s.Without, s.Enforce}
	for i, k := range s.Keys {
		if s.find(k.Key) != i || s.findPending(k.Key) >= 0 || k.Provenance == 0 {
			return bad("a key stands there twice, or without its provenance")
		}
		times = append(times, k.First, k.Last)
	}
	for i, p := range s.Pending {
		if s.findPending(p.Key) != i || p.Held.IsZero() != (p.Why == "") || p.Why != "" && p.Why.Text() == "" {
			return bad("a key that waits stands there twice, or without a reason")
		}
		times = append(times, p.First, p.Last, p.Held, p.Only, p.Vouched)
	}
	for _, f := range s.Former {
		times = append(times, f.At)
	}
	for _, a := range s.Actions {
		times = append(times, a.At)
	}
	for _, next := range []*Successor{s.Successor, s.Candidate} {
		if next != nil {
			if next.Provenance != DNS && next.Provenance != DNSSEC || s.find(next.Key) >= 0 {
				return bad("a successor that nobody can have announced")
			}
			times = append(times, next.First)
		}
	}
	for _, t := range times {
		if t.Location() != time.UTC {
			return bad("a time is not in UTC")
		}
	}
	return nil
}
