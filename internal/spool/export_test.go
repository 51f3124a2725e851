package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"cmtpd/internal/crypt"
)

// Forge appends to a segment a batch of one message, number 1<<40, that continues the chain
// from head and is signed by key.
func Forge(segment []byte, head Head, key *crypt.PrivateKey, data []byte) []byte {
	m := message{id: 1 << 40, entry: Entry{Mailbox: MailboxID{1}}, size: int64(len(data)), sha256: sha256.Sum256(data)}
	return forge(segment, head, key, m.id+1, kindMessage, m.append(nil), data)
}

// ForgeKeys appends a batch that replaces the spool's keys. before stands for the identity
// in force.
func ForgeKeys(segment []byte, head Head, of *Spool, key, before, identity *crypt.PrivateKey) []byte {
	k := keys{spool: of.chain.keys.spool, time: time.Unix(1, 0), key: key.Public(), identity: identity.Public()}
	k.sign(head.Hash, before, identity)
	return forge(segment, head, key, 1, kindKeys, k.append(nil), nil)
}

func forge(segment []byte, head Head, key *crypt.PrivateKey, next ID, k kind, recordHead, data []byte) []byte {
	h, err := parseHeader(segment)
	if err != nil {
		panic(err)
	}
	l := leaf(k, recordHead)
	c := commit{number: head.Number + 1, time: time.Unix(1, 0), next: next, count: 1,
		leaves: sha256.Sum256(l[:]), previous: head.Hash}
	c.sign(key)
	segment = appendFrame(segment[:len(segment):len(segment)], h.generation, k, 0, recordHead, len(data), crc32.Checksum(data, castagnoli))
	segment = append(segment, data...)
	segment = appendFrame(segment, h.generation, kindCommit, 0, c.append(nil), len(l), crc32.Checksum(l[:], castagnoli))
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
	case kindRemoval:
		if r, err := parseRemoval(f.head); err == nil {
			head = r.append(nil)
		}
	case kindMark:
		if m, err := parseMark(f.head); err == nil {
			head = m.append(nil)
		}
	case kindRepair:
		if r, err := parseRepair(f.head); err == nil {
			head = r.append(nil)
		}
	}
	out = appendFrame(nil, generation, f.kind, f.flags, head, len(f.data), crc32.Checksum(f.data, castagnoli))
	return b[:n], append(out, f.data...), nil
}

// FilledIndex returns an index of n messages in boxes mailboxes, to be weighed.
func FilledIndex(n, boxes int) any {
	x := newMemory()
	for i := range n {
		var m message
		m.id = ID(i + 1)
		m.entry.Mailbox = MailboxID{byte(i % boxes), byte(i % boxes >> 8)}
		m.entry.Digest = sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		x.add(&m, uint64(i), 0)
	}
	return x
}

// FilledMarks returns an index in which n messages are marked.
func FilledMarks(n, boxes int) any {
	x := newMemory()
	for i := range n {
		m := mark{id: ID(i + 1), mailbox: MailboxID{byte(i % boxes), byte(i % boxes >> 8)}, flags: FlagSeen}
		x.mark(&m, changeNumber(uint64(i+1), 0), 0)
	}
	return x
}

// ForgeRemoval appends a batch that removes a message.
func ForgeRemoval(segment []byte, head Head, key *crypt.PrivateKey, id ID, size int64) []byte {
	r := removal{removedRow: removedRow{id: id, size: size}, mailbox: MailboxID{1}, time: time.Unix(1, 0), by: "nobody"}
	return forge(segment, head, key, 1, kindRemoval, r.append(nil), nil)
}

// ForgeMark appends a batch that marks a message.
func ForgeMark(segment []byte, head Head, key *crypt.PrivateKey, id ID, mailbox MailboxID) []byte {
	m := mark{id: id, mailbox: mailbox, time: time.Unix(1, 0), flags: FlagSeen, keywords: "forged"}
	return forge(segment, head, key, 1, kindMark, m.append(nil), nil)
}

// TakeData makes the record of a message in a segment say that its data is gone, as compaction
// does.
func TakeData(segment []byte, id ID) []byte {
	h, err := parseHeader(segment)
	if err != nil {
		panic(err)
	}
	out := append([]byte(nil), segment[:headerSize]...)
	for rest := segment[headerSize:]; len(rest) > 0; {
		f, n, err := parseFrame(rest, h.generation)
		if err != nil {
			panic(err)
		}
		if m, err := parseMessage(f.kind, f.head); f.kind == kindMessage && err == nil && m.id == id {
			out = appendFrame(out, h.generation, f.kind, flagGone, f.head, 0, 0)
		} else {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}

// RefitIndex makes the check sums of an index file right, as far as its counts are possible.
func RefitIndex(b []byte) {
	be := binary.BigEndian
	if len(b) < indexHeader {
		return
	}
	var x indexFile
	seg := &segment{size: 1 << 40, header: header{sequence: be.Uint64(b[8:]), last: be.Uint64(b[16:]), generation: be.Uint64(b[24:])}}
	if d, err := x.parseHeader(b, seg, int64(len(b))); err == nil {
		be.PutUint32(b[376:], crc32.Checksum(b[indexHeader:indexHeader+d], castagnoli))
		for i := range x.sections {
			s := &x.sections[i]
			for at, rows := s.offset, s.count; rows > 0; rows -= blockRows {
				n := min(rows, blockRows) * int64(s.width)
				be.PutUint32(b[at+n:], crc32.Checksum(b[at:at+n], castagnoli))
				at += n + 4
			}
		}
	}
	be.PutUint32(b[380:], crc32.Checksum(b[:380], castagnoli))
}

// Waiting returns how many requests no batch has taken yet.
func (s *Spool) Waiting() int {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return len(s.queue.waiting)
}

// Refit makes every check sum right, and every generation that of the header or, where b
// begins with a record, the one given: so that fuzzing gets past them.
func Refit(b []byte, generation uint64) []byte {
	if len(b) >= headerSize && [8]byte(b) == segmentMagic {
		binary.BigEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli))
		generation = binary.BigEndian.Uint64(b[24:])
		refitRecords(b[headerSize:], generation)
		return b
	}
	refitRecords(b, generation)
	return b
}

func refitRecords(b []byte, generation uint64) {
	for len(b) >= frameSize {
		binary.BigEndian.PutUint64(b[8:], generation)
		head := frameSize + int(binary.BigEndian.Uint16(b[6:]))
		end := head + int(binary.BigEndian.Uint32(b[16:]))
		if end > len(b) {
			return
		}
		binary.BigEndian.PutUint32(b[20:], crc32.Checksum(b[head:end], castagnoli))
		binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:head], castagnoli))
		b = b[end:]
	}
}

// ForgeBatch appends a batch of messages with numbers from first on.
func ForgeBatch(segment []byte, head Head, key *crypt.PrivateKey, first ID, messages ...[]byte) []byte {
	h, err := parseHeader(segment)
	if err != nil {
		panic(err)
	}
	segment = segment[:len(segment):len(segment)]
	var leaves []byte
	for i, data := range messages {
		m := message{id: first + ID(i), entry: Entry{Mailbox: MailboxID{1}, Digest: sha256.Sum256(data)}, size: int64(len(data)), sha256: sha256.Sum256(data)}
		head := m.append(nil)
		l := leaf(kindMessage, head)
		leaves = append(leaves, l[:]...)
		segment = appendFrame(segment, h.generation, kindMessage, 0, head, len(data), crc32.Checksum(data, castagnoli))
		segment = append(segment, data...)
	}
	c := commit{number: head.Number + 1, time: time.Unix(1, 0), next: first + ID(len(messages)), count: uint32(len(messages)),
		leaves: sha256.Sum256(leaves), previous: head.Hash}
	c.sign(key)
	segment = appendFrame(segment, h.generation, kindCommit, 0, c.append(nil), len(leaves), crc32.Checksum(leaves, castagnoli))
	return append(segment, leaves...)
}

// ForgeRepair appends a batch that vouches for damage.
func ForgeRepair(segment []byte, head Head, key *crypt.PrivateKey, damage []Damage) []byte {
	r := repair{time: time.Unix(1, 0), class: damage[0].class, first: 1, last: 1, wound: damage[0].wound, key: damage[0].key, by: "nobody"}
	return forge(segment, head, key, 1, kindRepair, r.append(nil), nil)
}

// DropSpare gives the spare up, and the next. One chunk may follow.
func (s *Spool) DropSpare() error {
	s.spare.mu.Lock()
	defer s.spare.mu.Unlock()
	s.spare.credit.Store(0)
	return errors.Join(s.dropSpare(), s.dropSpare())
}

// SegmentName returns the name of a segment's file.
func SegmentName(sequence uint64) string { return segmentName(sequence) }

// AlterLeaves changes the data of a commit in a segment, and its check sum.
func AlterLeaves(segment []byte, number uint64, change func([]byte) []byte) []byte {
	h, err := parseHeader(segment)
	if err != nil {
		panic(err)
	}
	out := append([]byte(nil), segment[:headerSize]...)
	for rest := segment[headerSize:]; len(rest) > 0; {
		f, n, err := parseFrame(rest, h.generation)
		if err != nil {
			panic(err)
		}
		data := append([]byte(nil), f.data...)
		if c, err := parseCommit(f.head); f.kind == kindCommit && err == nil && c.number == number {
			data = change(data)
		}
		out = appendFrame(out, h.generation, f.kind, f.flags, f.head, len(data), crc32.Checksum(data, castagnoli))
		out, rest = append(out, data...), rest[n:]
	}
	return out
}

// ForgeIndexKeys puts another spool key into an index file.
func ForgeIndexKeys(b []byte, key *crypt.PrivateKey) {
	k, err := parseKeys(b[88:304])
	if err != nil {
		panic(err)
	}
	k.key = key.Public()
	copy(b[88:304], k.append(nil))
	RefitIndex(b)
}

// ForgeIndexRows puts all messages of an index file into a mailbox, and makes the first be known by an
// entry. The file has less than a block of each.
func ForgeIndexRows(b []byte, m MailboxID, e *Entry) {
	be := binary.BigEndian
	var x indexFile
	seg := &segment{size: 1 << 40, header: header{sequence: be.Uint64(b[8:]), last: be.Uint64(b[16:]), generation: be.Uint64(b[24:])}}
	if _, err := x.parseHeader(b, seg, int64(len(b))); err != nil {
		panic(err)
	}
	k := contentKeyOf(e)
	s := &x.sections[byMailbox]
	for i := range s.count {
		copy(b[s.offset+i*24:], m[:])
	}
	copy(b[indexHeader+8:], m[:])
	copy(b[x.sections[byContent].offset:], k[:])
	copy(b[indexHeader+8+24:], k[:])
	filter := b[x.sections[byNumber].offset-filterBlock*(filterBlocks(x.sections[byContent].count)+filterBlocks(x.sections[markRows].count)):]
	for i := range filterBlock * filterBlocks(x.sections[byContent].count) {
		filter[i] = 0xff
	}
	RefitIndex(b)
}

// ForgeIndexCircle gives two rows of an index file, which has more than 512 messages, the number of an earlier one: the second page of 256
// ends with it then, and so does the one that goes on after it.
func ForgeIndexCircle(b []byte) {
	var x indexFile
	var counts [tableCount]int64
	for i := range counts {
		counts[i] = int64(binary.BigEndian.Uint64(b[312+8*i:]))
	}
	x.lay(counts)
	row := func(i int) []byte {
		s := &x.sections[byNumber]
		return b[s.offset+int64(i*s.width+i/blockRows*4):][:8]
	}
	const back = 99
	copy(row(2*listPage-1), row(back))
	copy(row(back+listPage), row(back))
	RefitIndex(b)
}

// VastIndex returns the header of an index file that claims as many messages known by content, and the file's length.
func VastIndex(b []byte, rows int64) (front []byte, size int64) {
	be := binary.BigEndian
	var x indexFile
	counts := [tableCount]int64{byContent: rows}
	_, size = x.lay(counts)
	front = append([]byte(nil), b[:indexHeader]...)
	for i, n := range counts {
		be.PutUint64(front[312+8*i:], uint64(n))
	}
	be.PutUint32(front[380:], crc32.Checksum(front[:380], castagnoli))
	return front, size
}
