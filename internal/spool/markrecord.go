package spool

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// Flags are what a mailbox's owner notes of a message. Bits without a name are kept as they
// are.
type Flags uint32

// The flags that have a name (docs/spool.md, Mark).
const (
	FlagSeen Flags = 1 << iota
	FlagAnswered
	FlagFlagged
)

// Names returns a word for each flag, from the lowest bit on.
func (f Flags) Names() []string {
	names := []string{}
	for bit := range 32 {
		if f>>bit&1 == 0 {
			continue
		}
		switch Flags(1) << bit {
		case FlagSeen:
			names = append(names, "seen")
		case FlagAnswered:
			names = append(names, "answered")
		case FlagFlagged:
			names = append(names, "flagged")
		default:
			names = append(names, "bit "+strconv.Itoa(bit))
		}
	}
	return names
}

// String returns the number and, in parentheses, the names.
func (f Flags) String() string {
	s := strconv.FormatUint(uint64(f), 10)
	if f != 0 {
		s += " (" + strings.Join(f.Names(), ", ") + ")"
	}
	return s
}

// Lengths of a mark's head, in bytes.
const (
	markHead    = 36
	maxKeywords = 128
)

// mark is the head of kind 6 (docs/spool.md, Mark).
type mark struct {
	id       ID
	mailbox  MailboxID
	time     time.Time
	flags    Flags
	keywords string
}

func (m *mark) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.id))
	dst = append(dst, m.mailbox[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.time.UnixNano()))
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.flags))
	return append(dst, m.keywords...)
}

func parseMark(b []byte) (m mark, err error) {
	if len(b) < markHead || len(b) > markHead+maxKeywords {
		return m, errHead
	}
	m.id = ID(binary.BigEndian.Uint64(b))
	m.mailbox = MailboxID(b[8:24])
	m.time = unixNano(b[24:])
	m.flags = Flags(binary.BigEndian.Uint32(b[32:]))
	m.keywords = string(b[markHead:])
	if m.id == 0 || m.id > maxNumber {
		return m, errHead
	}
	return m, nil
}
