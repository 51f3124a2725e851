package spool

import (
	"crypto/rand"
	"encoding/binary"
)

// Continue makes a copy of a spool ready to go on where the spool itself may have gone on, too: under
// a new key, which o must have, so that no key signs two histories; and with message numbers that
// neither the spool nor another of its copies will have given. It returns the copy's head then. No
// other process may have it open. docs/spool.md, Restore.
func Continue(dir string, o Options) (Head, error) {
	var b [2]byte
	rand.Read(b[:])
	o.skip = ID(1+int64(binary.BigEndian.Uint16(b[:]))) << 32
	o.NoSpare, o.CompactRate = true, -1
	s, err := Open(dir, o)
	if err != nil {
		return Head{}, err
	}
	head := s.Head()
	return head, s.Close()
}
