// Package spool is the signed log that keeps messages, in the format of
// docs/spool.md.
//
// It guarantees that a message whose Commit has returned without an error is on
// disk, byte for byte, vouched for by a signature, and that it is there once
// whatever happens after; that of any other message there is, after the next
// Open, either nothing or the whole; that a change to what it holds shows; and
// that neither the size of a message nor the number of writers decides how much
// memory it takes.
package spool

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// Errors of Open and OpenReadOnly.
var (
	// ErrIdentity: the spool belongs to a server with another identity key, which is not
	// there to sign that this one follows.
	ErrIdentity = errors.New("spool: belongs to another identity key")
	// ErrLost: there is a log, but not one commit in it is whole.
	ErrLost = errors.New("spool: no commit of the log can be read")
	// ErrNumbers: the log claims numbers that leave none to give, which no spool comes to by itself.
	ErrNumbers = errors.New("spool: no numbers are left to give")
	// ErrOptions: an option is out of its bounds.
	ErrOptions = errors.New("spool: unusable option")
)

// Errors of Writer.
var (
	// ErrFailed: a write or flush failed, so nothing is acknowledged any more until
	// the spool was opened again. Whether the message is stored shows only then.
	ErrFailed = errors.New("spool: stopped after a failed write")
	// ErrNoRoom: no further segment can be begun now. The message is not stored; a
	// later one may be.
	ErrNoRoom = errors.New("spool: no room for another segment now")
	// ErrReadOnly: the spool was opened by OpenReadOnly.
	ErrReadOnly = errors.New("spool: opened for reading only")
	// ErrDone: the Writer was committed or aborted before.
	ErrDone = errors.New("spool: the message is finished")
	// ErrEntry: the Entry has no mailbox, or a From of more than 255 bytes; or a Mark has
	// more than 128 bytes of keywords.
	ErrEntry = errors.New("spool: unusable entry")
)

// Errors of reading.
var (
	// ErrNotFound: no message has this number.
	ErrNotFound = errors.New("spool: no such message")
	// ErrDamaged: the message is not as it was when it was stored.
	ErrDamaged = errors.New("spool: the message is damaged")
	// ErrMoved: a compaction by another process took away what was about to be read. Nothing is
	// lost: OpenReadOnly finds it again.
	ErrMoved = errors.New("spool: the log changed while it was read")
)

// ErrClosed is what Open, Get and Commit return after Close.
var ErrClosed = errors.New("spool: closed")

// MailboxID is the stable number of a mailbox's owner. The zero value names none.
type MailboxID [16]byte

// String returns 32 lower-case hex digits.
func (m MailboxID) String() string { return hex.EncodeToString(m[:]) }

// ID is a message's number in its spool. It only grows, in the order in which
// messages became durable; 0 is never given.
type ID uint64

// String returns 16 lower-case hex digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseID reads what String returns.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 8 || hex.EncodeToString(b) != s {
		return 0, fmt.Errorf("message number %q is not 16 lower-case hex digits", s)
	}
	return ID(binary.BigEndian.Uint64(b)), nil
}

// Entry says what a message is to its server.
type Entry struct {
	Mailbox  MailboxID
	Digest   [32]byte  // core digest (protocol.md section 6.4)
	Received time.Time // zero for now
	From     string    // who handed it over, for the operator; at most 255 bytes
}

// Info is what the log says of a message.
type Info struct {
	ID ID
	Entry
	Size   int64
	SHA256 [32]byte // of the whole message
	Large  bool     // in a file of its own
	Commit uint64   // number of the commit that vouches for it
	Mark   Mark     // the newest, or none
	Change uint64   // number of the newest mark or, without one, of the arrival
	Start  []byte   // the message's first bytes, not verified, where they were asked for
}

// Head is a place in the chain of commits: with one that was kept elsewhere, a
// spool can be shown to hold everything up to there.
type Head struct {
	Number uint64
	Hash   [32]byte
}

// String returns the number, a colon, and the hash in hex.
func (h Head) String() string { return fmt.Sprintf("%d:%x", h.Number, h.Hash) }

// LogValue makes a log show what String returns.
func (h Head) LogValue() slog.Value { return slog.StringValue(h.String()) }

// Stored is the answer to Commit.
type Stored struct {
	ID        ID
	Duplicate bool // the mailbox had the message already; ID is the first copy's
	Head      Head // of a chain that includes the message
}

// Stats are a spool's numbers at one moment.
type Stats struct {
	Head     Head
	Messages int
	Bytes    int64 // of all messages, as on the wire
	Large    int   // messages in files of their own
	Segments int
	Memory   int64     // bytes that writers hold in memory
	Damage   int       // places that Damage lists
	Failed   bool      // nothing is acknowledged any more
	Scrubbed time.Time // when Scrub has come to the end of a round; zero: not since Open
}

// Options say how a spool is opened. FS, Key and Identity must be set.
type Options struct {
	FS       durable.FS
	Key      *crypt.PrivateKey // the spool's own; signs every commit
	Identity *crypt.PrivateKey // the server's; vouches for Key
	// Former returns an identity key that the server had before. Open asks for the one that the chain
	// ends with, where that is not Identity, and has it sign that Identity follows. May be nil.
	Former func(crypt.PublicKey) (*crypt.PrivateKey, error)
	Now    func() time.Time // time.Now if nil
	Log    *slog.Logger     // discarded if nil

	// Flushed, if not nil, is called after each commit's flush and before its messages are acknowledged:
	// with the number of its records and the time that signing, writing and flushing took. It must be quick.
	Flushed func(records int, took time.Duration)
	// Changed, if not nil, is called after each commit that is durable and can be found, before it is acknowledged: with
	// its number, and what it did to mailboxes, each of them once. It must be quick, and keep nothing of boxes.
	Changed func(commit uint64, boxes []BoxChange)

	SegmentSize    int64 // bytes; 64 MiB if 0, 4 KiB to 2 GiB
	LargeThreshold int64 // bytes from which a message has its own file; 256 KiB if 0, at most 4 MiB
	MemoryBudget   int64 // bytes that all writers together hold; 64 MiB if 0
	NoSpare        bool  // segments are not written ahead
	CompactRate    int64 // bytes a second that compaction in the background reads; 16 MiB if 0, none if negative
	BatchSize      int64 // bytes that one flush carries, unless a single message is longer, and that the committer keeps; 4 MiB if 0

	skip ID // how many message numbers are passed over when the key is introduced
}

func (o *Options) complete() error {
	if o.FS == nil || o.Key == nil || o.Identity == nil {
		return fmt.Errorf("%w: FS, Key and Identity are needed", ErrOptions)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CompactRate == 0 {
		o.CompactRate = 16 << 20
	}
	for _, v := range []struct {
		name             string
		value            *int64
		normal, min, max int64
	}{
		{"SegmentSize", &o.SegmentSize, 64 << 20, 4 << 10, 2 << 30},
		{"LargeThreshold", &o.LargeThreshold, 256 << 10, 1, maxData},
		{"MemoryBudget", &o.MemoryBudget, 64 << 20, 1, 1 << 40},
		{"BatchSize", &o.BatchSize, 4 << 20, 1, 256 << 20},
	} {
		if *v.value == 0 {
			*v.value = v.normal
		}
		if *v.value < v.min || *v.value > v.max {
			return fmt.Errorf("%w: %s must be %d to %d", ErrOptions, v.name, v.min, v.max)
		}
	}
	return nil
}
