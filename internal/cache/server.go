package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"
)

// Digest is the SHA-256 of a message as the server stores it.
type Digest [sha256.Size]byte

// An Epoch is within what numbers hold (docs/protocol.md section 26.1).
type Epoch [16]byte

// Flags that have a meaning (section 26.2).
const (
	Seen     uint32 = 1 << 0
	Answered uint32 = 1 << 1
	Flagged  uint32 = 1 << 2

	clientFlags uint32 = 1<<16 - 1
)

// An Entry is what the server says of a message, or that it was removed (section 26.3).
type Entry struct {
	Number   uint64
	Change   uint64
	Removed  bool // and nothing of what follows is known
	Came     time.Time
	Size     int64 // bytes of the message
	SHA256   Digest
	Standing uint8
	Flags    uint32
	Keywords []byte // sealed
	Header   []byte // up to the log; empty where the message is damaged
}

// A Page is an answer to List, Changes or Wait (section 27.2).
type Page struct {
	Epoch   Epoch
	Change  uint64 // to go on from
	More    bool
	Entries []Entry
}

// A Box is what Mailbox answers (section 27.1).
type Box struct {
	Epoch   Epoch
	Number  uint64 // the highest; 0 for none
	Change  uint64 // the highest
	Count   uint64 // messages
	Size    uint64 // their bytes
	MaxSize uint64 // how many there may be
}

// Scarce reports whether less than a fifth of the room is left, which a user is told.
func (b *Box) Scarce() bool { return b.Size > b.MaxSize-b.MaxSize/5 }

// A Range is a part of a message (section 27.3). It ends with the message at the latest.
type Range struct {
	Number uint64
	Offset uint64
	Length uint64
}

// A FlagItem is a change of what is noted of a message (section 27.4).
type FlagItem struct {
	Number   uint64
	Change   uint64 // that the message has to have; 0 for any
	Mask     uint32
	Flags    uint32
	Replace  bool   // the keywords
	Keywords []byte // sealed; for Replace
}

// A FlagResult says what became of a FlagItem: nil, or an error that wraps one of those
// below; and the message's change number now.
type FlagResult struct {
	Err    error
	Change uint64
}

// What a Server's errors wrap, besides its own.
var (
	// ErrNoMessage: there is no message with that number (564).
	ErrNoMessage = errors.New("no such message")
	// ErrOutdated: the message has another change number (565).
	ErrOutdated = errors.New("the message was changed meanwhile")
	// ErrUnreadable: the server cannot give the message now, as it is damaged (451).
	ErrUnreadable = errors.New("the server cannot read the message")
)

// A Server is an open session of the account with its mailbox's server. Any error that is not
// said to be a single message's means that the session is over.
type Server interface {
	Mailbox(ctx context.Context) (*Box, error)
	// List gives entries above a number, ascending, or below it, descending.
	List(ctx context.Context, below bool, number uint64, count int) (*Page, error)
	Changes(ctx context.Context, epoch Epoch, change uint64, count int) (*Page, error)
	// Fetch asks for all ranges without waiting in between, and calls got for each, in their
	// order: with its bytes, which are got's, or with an error of this message alone, which
	// wraps ErrNoMessage or ErrUnreadable. It stops at the first error that got returns, and
	// returns it.
	Fetch(ctx context.Context, ranges []Range, got func(i int, b []byte, err error) error) error
	// Flag takes at most 256 items.
	Flag(ctx context.Context, items []FlagItem) ([]FlagResult, error)
	// Delete takes at most 1,000 numbers, and returns how many were removed.
	Delete(ctx context.Context, numbers []uint64) (int, error)
	// Wait answers once there is a change, or after the time.
	Wait(ctx context.Context, epoch Epoch, change uint64, d time.Duration) (*Page, error)
}
