package spool

import (
	"crypto/sha256"
	"hash/crc32"
	"time"

	"cmtpd/internal/crypt"
)

// Forge appends to a segment a batch of one message, number 1<<40, that continues the chain
// from head and is signed by key.
func Forge(segment []byte, head Head, key *crypt.PrivateKey, data []byte) []byte {
	h, err := parseHeader(segment)
	if err != nil {
		panic(err)
	}
	m := message{id: 1 << 40, entry: Entry{Mailbox: MailboxID{1}}, size: int64(len(data)), sha256: sha256.Sum256(data)}
	mh := m.append(nil)
	l := leaf(kindMessage, mh)
	c := commit{number: head.Number + 1, time: time.Unix(1, 0), next: m.id + 1, count: 1,
		leaves: sha256.Sum256(l[:]), previous: head.Hash}
	c.sign(key)
	segment = appendFrame(segment[:len(segment):len(segment)], h.generation, kindMessage, mh, len(data), crc32.Checksum(data, castagnoli))
	segment = append(segment, data...)
	segment = appendFrame(segment, h.generation, kindCommit, c.append(nil), len(l), crc32.Checksum(l[:], castagnoli))
	return append(segment, l[:]...)
}

// Reencode parses a segment header, or the record that follows one of generation, and
// returns what its parts encode to, beside the bytes that they were parsed from.
func Reencode(b []byte, generation uint64) (in, out []byte, err error) {
	if h, err := parseHeader(b); err == nil {
		return b[:headerSize], h.append(nil), nil
	}
	f, n, err := parseFrame(b, generation)
	if err != nil {
		return nil, nil, err
	}
	head := f.head
	switch f.kind {
	case kindCommit:
		if c, err := parseCommit(f.head); err == nil {
			head = c.append(nil)
		}
	case kindKeys:
		if k, err := parseKeys(f.head); err == nil {
			head = k.append(nil)
		}
	case kindMessage, kindLarge:
		if m, err := parseMessage(f.kind, f.head); err == nil {
			head = m.append(nil)
		}
	}
	out = appendFrame(nil, generation, f.kind, head, len(f.data), crc32.Checksum(f.data, castagnoli))
	return b[:n], append(out, f.data...), nil
}

// FilledIndex returns an index of n messages in boxes mailboxes, to be weighed.
func FilledIndex(n, boxes int) any {
	x := newIndex()
	for i := range n {
		var m message
		m.id = ID(i + 1)
		m.entry.Mailbox = MailboxID{byte(i % boxes), byte(i % boxes >> 8)}
		m.entry.Digest = sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		x.add(&m, uint64(i), 0, 0)
	}
	return x
}

// Kind of a record whose parts Reencode knows.
const KindCommit = byte(kindCommit)
