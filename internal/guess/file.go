package guess

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"net/netip"
	"slices"
)

// maxProven is how many networks are remembered from which an account's user was
// proven.
const maxProven = 16

// Sizes of files and their parts, in bytes.
const (
	networkSize = 17
	entrySize   = networkSize + 8
	sumSize     = 4
	headAccount = 8 + 16 + 8 + 1
	headTable   = 8 + 8 + 4
	maxAccount  = headAccount + maxProven*entrySize + sumSize
	maxTable    = headTable + (maxNetworks+1)*entrySize + sumSize
)

const (
	magicAccount = "cmtpdGA1"
	magicTable   = "cmtpdGN1"
)

// errDamaged is what every parser here returns.
var errDamaged = errors.New("not a file of guesses as it was written")

// An entry is a network and when its allowance is whole.
type entry struct {
	network netip.Prefix
	whole   int64
}

// allowances are what is kept of an account.
type allowances struct {
	common int64   // when the allowance of all strangers together is whole
	proven []entry // the least recently proven first
}

// slot returns the allowance that an attempt from a network is charged on, and
// whether it is the network's own. It is valid until the networks change.
func (a *allowances) slot(network netip.Prefix) (whole *int64, proven bool) {
	if i := a.find(network); i >= 0 {
		return &a.proven[i].whole, true
	}
	return &a.common, false
}

func (a *allowances) find(network netip.Prefix) int {
	return slices.IndexFunc(a.proven, func(e entry) bool { return e.network == network })
}

// prove makes a network the most recently proven one, and reports whether that is new.
// Clients without an address have no network: they are anybody.
func (a *allowances) prove(network netip.Prefix) bool {
	e := entry{network: network}
	i := a.find(network)
	if !network.IsValid() || i >= 0 && i == len(a.proven)-1 {
		return false
	}
	if i >= 0 {
		e = a.proven[i]
	} else if len(a.proven) == maxProven {
		i = 0
	}
	if i >= 0 {
		a.proven = slices.Delete(a.proven, i, i+1)
	}
	a.proven = append(a.proven, e)
	return true
}

// bound bounds every time, and reports whether one has changed.
func (a *allowances) bound(r rate, now int64) (changed bool) {
	before := a.common
	a.common = r.bound(a.common, now)
	changed = a.common != before
	for i, e := range a.proven {
		a.proven[i].whole = r.bound(e.whole, now)
		changed = changed || a.proven[i] != e
	}
	return changed
}

// append appends the account's file to b.
func (a *allowances) append(b []byte, account [16]byte) []byte {
	at := len(b)
	b = append(append(b, magicAccount...), account[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.common))
	b = append(b, byte(len(a.proven)))
	for _, e := range a.proven {
		b = e.append(b)
	}
	return appendSum(b, at)
}

// parseAccount parses the file of an account.
func parseAccount(account [16]byte, data []byte) (*allowances, error) {
	body, err := cutSum(data, headAccount)
	if err != nil {
		return nil, err
	}
	if string(body[:8]) != magicAccount || !bytes.Equal(body[8:24], account[:]) {
		return nil, fmt.Errorf("%w: it is another account's, or of another version", errDamaged)
	}
	a := new(allowances)
	if a.common, err = parseTime(body[24:]); err != nil {
		return nil, err
	}
	if n := int(body[headAccount-1]); n > maxProven {
		return nil, fmt.Errorf("%w: %d networks", errDamaged, n)
	} else if a.proven, err = parseEntries(body[headAccount:], n); err != nil {
		return nil, err
	}
	for i, e := range a.proven {
		if a.find(e.network) != i || !e.network.IsValid() {
			return nil, fmt.Errorf("%w: network %d stands there twice, or is none", errDamaged, i+1)
		}
	}
	return a, nil
}

// appendTable appends the file of networks to b. It sorts the entries.
func appendTable(b []byte, others int64, entries []entry) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint64(append(b, magicTable...), uint64(others))
	b = binary.BigEndian.AppendUint32(b, uint32(len(entries)))
	slices.SortFunc(entries, func(x, y entry) int {
		kx, ky := networkBytes(x.network), networkBytes(y.network)
		return bytes.Compare(kx[:], ky[:])
	})
	for _, e := range entries {
		b = e.append(b)
	}
	return appendSum(b, at)
}

// parseTable parses the file of networks.
func parseTable(data []byte) (others int64, entries []entry, err error) {
	body, err := cutSum(data, headTable)
	if err != nil {
		return 0, nil, err
	}
	if string(body[:8]) != magicTable {
		return 0, nil, fmt.Errorf("%w: it is of another version", errDamaged)
	}
	if others, err = parseTime(body[8:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(body[16:])
	if n > maxNetworks+1 {
		return 0, nil, fmt.Errorf("%w: %d networks", errDamaged, n)
	}
	body = body[headTable:]
	if entries, err = parseEntries(body, int(n)); err != nil {
		return 0, nil, err
	}
	for at := entrySize; at < len(body); at += entrySize {
		if bytes.Compare(body[at-entrySize:at-entrySize+networkSize], body[at:at+networkSize]) >= 0 {
			return 0, nil, fmt.Errorf("%w: the networks are not in order", errDamaged)
		}
	}
	return others, entries, nil
}

// append appends the entry to b.
func (e entry) append(b []byte) []byte {
	n := networkBytes(e.network)
	return binary.BigEndian.AppendUint64(append(b, n[:]...), uint64(e.whole))
}

func parseEntries(b []byte, n int) (entries []entry, err error) {
	if len(b) != n*entrySize {
		return nil, fmt.Errorf("%w: %d bytes for %d networks", errDamaged, len(b), n)
	}
	if n == 0 {
		return nil, nil
	}
	entries = make([]entry, n)
	for i := range entries {
		e := &entries[i]
		if e.network, err = parseNetwork([networkSize]byte(b)); err != nil {
			return nil, err
		}
		if e.whole, err = parseTime(b[networkSize:]); err != nil {
			return nil, err
		}
		b = b[entrySize:]
	}
	return entries, nil
}

// noNetwork is what stands for clients without an address, before zeros.
const noNetwork = 255

func networkBytes(p netip.Prefix) (b [networkSize]byte) {
	if !p.IsValid() {
		b[0] = noNetwork
		return b
	}
	a := p.Addr().As16()
	copy(b[1:], a[:])
	b[0] = byte(p.Bits())
	if p.Addr().Is4() {
		b[0] += 96
	}
	return b
}

func parseNetwork(b [networkSize]byte) (p netip.Prefix, err error) {
	if b[0] != noNetwork {
		a, bits := netip.AddrFrom16([16]byte(b[1:])), int(b[0])
		if a.Is4In6() {
			a, bits = a.Unmap(), bits-96
		}
		p = netip.PrefixFrom(a, bits).Masked()
		if !p.IsValid() {
			return p, fmt.Errorf("%w: a network of %d bits", errDamaged, b[0])
		}
	}
	if networkBytes(p) != b {
		return p, fmt.Errorf("%w: a network has bits behind its prefix", errDamaged)
	}
	return p, nil
}

func parseTime(b []byte) (int64, error) {
	t := binary.BigEndian.Uint64(b)
	if t > math.MaxInt64 {
		return 0, fmt.Errorf("%w: a time that no clock shows", errDamaged)
	}
	return int64(t), nil
}

func appendSum(b []byte, from int) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], crc32.MakeTable(crc32.Castagnoli)))
}

// cutSum returns the data without its check sum, at least so many bytes.
func cutSum(data []byte, least int) ([]byte, error) {
	if len(data) < least+sumSize {
		return nil, fmt.Errorf("%w: it has %d bytes", errDamaged, len(data))
	}
	body := data[:len(data)-sumSize]
	if !bytes.Equal(appendSum(bytes.Clone(body), 0), data) {
		return nil, fmt.Errorf("%w: its check sum is wrong", errDamaged)
	}
	return body, nil
}
