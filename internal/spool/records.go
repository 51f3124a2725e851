package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"cmtpd/internal/crypt"
)

const (
	commitLabel = "CMTP-1 spool commit\x00"
	keysLabel   = "CMTP-1 spool keys\x00"
)

// Lengths of heads, in bytes. A message's head ends with up to maxFrom more.
const (
	commitHead     = 156
	commitSigned   = 92
	keysHead       = 216
	keysSigned     = 88
	messageHead    = 104
	largeHead      = 120
	removalHead    = 41
	maxFrom        = 255
	maxMessageHead = largeHead + maxFrom
)

// commit vouches for the batch before it (docs/spool.md, Commit).
type commit struct {
	number    uint64
	time      time.Time
	next      ID
	count     uint32
	leaves    [32]byte // SHA-256 of the record's data
	previous  [32]byte
	signature crypt.Signature
}

func (c *commit) appendSigned(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, c.number)
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.time.UnixNano()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.next))
	dst = binary.BigEndian.AppendUint32(dst, c.count)
	dst = append(dst, c.leaves[:]...)
	return append(dst, c.previous[:]...)
}

func (c *commit) append(dst []byte) []byte {
	return append(c.appendSigned(dst), c.signature[:]...)
}

func (c *commit) sign(key *crypt.PrivateKey) {
	c.signature = key.Sign(c.appendSigned([]byte(commitLabel)))
}

func (c *commit) verify(key crypt.PublicKey) bool {
	return crypt.Verify(key, c.appendSigned([]byte(commitLabel)), c.signature)
}

// head is the chain's head when c is its last commit.
func (c *commit) head() Head {
	return Head{Number: c.number, Hash: sha256.Sum256(c.append(make([]byte, 0, commitHead)))}
}

func parseCommit(b []byte) (c commit, err error) {
	if len(b) != commitHead {
		return c, errHead
	}
	c.number = binary.BigEndian.Uint64(b)
	c.time = unixNano(b[8:])
	c.next = ID(binary.BigEndian.Uint64(b[16:]))
	c.count = binary.BigEndian.Uint32(b[24:])
	c.leaves = [32]byte(b[28:60])
	c.previous = [32]byte(b[60:92])
	c.signature = crypt.Signature(b[92:156])
	if c.number == 0 || c.number > maxCommit || c.next > maxNumber || c.count == 0 || c.count > maxRecords {
		return c, errHead
	}
	return c, nil
}

// keys says which keys are in force from its own commit on (docs/spool.md, Keys).
type keys struct {
	spool    [16]byte
	time     time.Time
	key      crypt.PublicKey
	identity crypt.PublicKey
	before   crypt.Signature // by the identity that was in force
	own      crypt.Signature // by identity
}

func (k *keys) appendSigned(dst []byte) []byte {
	dst = append(dst, k.spool[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(k.time.UnixNano()))
	dst = append(dst, k.key[:]...)
	return append(dst, k.identity[:]...)
}

func (k *keys) append(dst []byte) []byte {
	dst = append(k.appendSigned(dst), k.before[:]...)
	return append(dst, k.own[:]...)
}

func (k *keys) toSign(previous [32]byte) []byte {
	return k.appendSigned(append([]byte(keysLabel), previous[:]...))
}

// sign makes both signatures. previous is the hash of the commit before the one
// that will hold the record.
func (k *keys) sign(previous [32]byte, before, own *crypt.PrivateKey) {
	msg := k.toSign(previous)
	k.before, k.own = before.Sign(msg), own.Sign(msg)
}

func (k *keys) verify(previous [32]byte, before crypt.PublicKey) bool {
	msg := k.toSign(previous)
	return crypt.Verify(before, msg, k.before) && crypt.Verify(k.identity, msg, k.own)
}

func parseKeys(b []byte) (k keys, err error) {
	if len(b) != keysHead {
		return k, errHead
	}
	k.spool = [16]byte(b)
	k.time = unixNano(b[16:])
	k.key = crypt.PublicKey(b[24:56])
	k.identity = crypt.PublicKey(b[56:88])
	k.before = crypt.Signature(b[88:152])
	k.own = crypt.Signature(b[152:216])
	return k, nil
}

// message is the head of kinds 3 and 4 (docs/spool.md, Message).
type message struct {
	id     ID
	entry  Entry
	size   int64
	sha256 [32]byte
	large  bool
	file   [16]byte // of a large one
}

func (m *message) kind() kind {
	if m.large {
		return kindLarge
	}
	return kindMessage
}

func (m *message) fileName() string { return hex.EncodeToString(m.file[:]) }

func (m *message) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.id))
	dst = append(dst, m.entry.Mailbox[:]...)
	dst = append(dst, m.entry.Digest[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.entry.Received.UnixNano()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.size))
	dst = append(dst, m.sha256[:]...)
	if m.large {
		dst = append(dst, m.file[:]...)
	}
	return append(dst, m.entry.From...)
}

func parseMessage(k kind, b []byte) (m message, err error) {
	m.large = k == kindLarge
	fixed := messageHead
	if m.large {
		fixed = largeHead
	}
	if len(b) < fixed || len(b) > fixed+maxFrom {
		return m, errHead
	}
	m.id = ID(binary.BigEndian.Uint64(b))
	m.entry.Mailbox = MailboxID(b[8:24])
	m.entry.Digest = [32]byte(b[24:56])
	m.entry.Received = unixNano(b[56:])
	m.size = int64(binary.BigEndian.Uint64(b[64:]))
	m.sha256 = [32]byte(b[72:104])
	if m.large {
		m.file = [16]byte(b[104:120])
	}
	m.entry.From = string(b[fixed:])
	if m.id == 0 || m.id > maxNumber || m.size < 0 {
		return m, errHead
	}
	return m, nil
}

// removal is the head of kind 5 (docs/spool.md, Removal).
type removal struct {
	removedRow
	mailbox MailboxID
	time    time.Time
	by      string
}

func (r *removal) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.id))
	dst = append(dst, r.mailbox[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.time.UnixNano()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.size))
	k := kindMessage
	if r.large {
		k = kindLarge
	}
	return append(append(dst, byte(k)), r.by...)
}

func parseRemoval(b []byte) (r removal, err error) {
	if len(b) < removalHead || len(b) > removalHead+maxFrom {
		return r, errHead
	}
	r.id = ID(binary.BigEndian.Uint64(b))
	r.mailbox = MailboxID(b[8:24])
	r.time = unixNano(b[24:])
	r.size = int64(binary.BigEndian.Uint64(b[32:]))
	r.large = kind(b[40]) == kindLarge
	r.by = string(b[removalHead:])
	if r.id == 0 || r.id > maxNumber || r.size < 0 || (!r.large && kind(b[40]) != kindMessage) {
		return r, errHead
	}
	return r, nil
}

func unixNano(b []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(b))).UTC()
}
