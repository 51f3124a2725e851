// Package mailbox shows each user their part of the spool (docs/protocol.md, Part III):
// numbered, flagged, with its changes, and with news for who waits for them.
//
// It guarantees that a mailbox shows nothing of another one, that a message which is not as it
// was stored never leaves whole, that flags which two clients set at once are both set, and that a
// mailbox takes no more than it may, nor is changed more often. What it holds in memory is a few words for each mailbox
// that was asked for, and for each client that waits.
package mailbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/limit"
	"cmtpd/internal/spool"
)

// Errors of a Box, beside those of the spool.
var (
	// ErrNoMessage: the mailbox has no message of that number.
	ErrNoMessage = errors.New("the mailbox has no such message")
	// ErrOffset: a message ends before what was asked for begins.
	ErrOffset = errors.New("the message ends before that")
	// ErrFull: the mailbox has no room for the message.
	ErrFull = errors.New("the mailbox is full")
	// ErrNoRoom is wrapped where the disk has no room now for what is not to fill it: by errors of Config.Room, and of
	// whoever stores messages.
	ErrNoRoom = errors.New("there is no room")
	// ErrWaits: as many wait as may.
	ErrWaits = errors.New("too many clients wait for news")
)

// A Spool keeps the messages of all mailboxes. spool.Spool is one.
type Spool interface {
	Head() spool.Head
	ListStarts(m spool.MailboxID, from spool.ID, down bool, n int) iter.Seq2[spool.Info, error]
	GetStart(id spool.ID, n int) (spool.Info, error)
	Changes(m spool.MailboxID, after uint64) iter.Seq2[spool.Change, error]
	Usage(m spool.MailboxID) (spool.Usage, error)
	Browse(m spool.MailboxID) *spool.Browser
	MarkAll(ctx context.Context, all []spool.Marking) ([]spool.Marked, error)
	RemoveAll(ctx context.Context, ids []spool.ID, by string) (int, error)
}

// Config says how mailboxes are served.
type Config struct {
	Limits                 // SetLimits changes them
	Key    crypt.PublicKey // the spool's, to derive epochs from
	// Unlimited are mailboxes that take whatever comes.
	Unlimited []spool.MailboxID
	Now       func() time.Time // default time.Now
	// Room takes that many bytes of the disk, or says why there is no room for what is not to fill it: ErrNoRoom is wrapped then.
	// nil: there always is. Removals do without, since they make room.
	Room func(bytes uint64) error
	// Failed is told when the spool has stopped, and does not wait. It may be nil.
	Failed func(error)
}

// Mailboxes are all of a server's. They are safe for many goroutines.
type Mailboxes struct {
	cfg   Config
	spool Spool
	news  *news
	// marks bounds how often each mailbox is changed by its user: what is noted of a message stays in the spool for
	// good, also when it is noted otherwise (docs/spool.md, Mark).
	marks *limit.Budget[spool.MailboxID]
	wide  seats

	size atomic.Int64 // bytes in a mailbox

	mu     sync.Mutex
	counts map[spool.MailboxID]*count // under mu: of those that were asked for
}

// New returns Mailboxes of a spool that is still to be opened, with Changed as its hook: Use has to be
// called before anything else is.
func New(cfg Config) *Mailboxes {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Room == nil {
		cfg.Room = func(uint64) error { return nil }
	}
	m := &Mailboxes{cfg: cfg, news: newNews(cfg.MaxWaits, cfg.MaxWaitsAccount), marks: limit.NewBudget[spool.MailboxID](cfg.MarkRate, cfg.MarkBurst, time.Minute, cfg.Now),
		wide: make(seats, wideMessages), counts: make(map[spool.MailboxID]*count)}
	m.size.Store(cfg.Size)
	return m
}

// Use says where the messages are.
func (m *Mailboxes) Use(s Spool) { m.spool = s }

// Changed is spool.Options.Changed.
func (m *Mailboxes) Changed(commit uint64, boxes []spool.BoxChange) {
	m.recount(commit, boxes)
	m.news.tell(boxes)
}

// Tell wakes all who wait for news of a mailbox: who may read it has changed.
func (m *Mailboxes) Tell(id spool.MailboxID) { m.news.tell([]spool.BoxChange{{Mailbox: id}}) }

// Waiting returns how many clients wait for news.
func (m *Mailboxes) Waiting() int { return m.news.waiting() }

// Of returns the mailbox with this number. Its owner is named in what is removed.
func (m *Mailboxes) Of(id spool.MailboxID, owner string) *Box { return &Box{m, id, owner} }

// A Box is one user's mailbox.
type Box struct {
	all   *Mailboxes
	id    spool.MailboxID
	owner string
}

// epochLabel begins what an epoch is made of (docs/spool.md, Change numbers).
const epochLabel = "CMTP-1 mailbox epoch\x00"

// Epoch returns that within which the mailbox's numbers hold.
func (b *Box) Epoch() cmtp.Epoch {
	sum := sha256.Sum256(append(append([]byte(epochLabel), b.all.cfg.Key[:]...), b.id[:]...))
	return cmtp.Epoch(sum[:16])
}

// State returns what MAILBOX answers.
func (b *Box) State() (cmtp.MailboxState, error) {
	s := cmtp.MailboxState{Epoch: b.Epoch(), Change: b.all.spool.Head().LastChange(), Quota: uint64(b.all.size.Load())}
	c, err := b.all.count(b.id)
	if err != nil {
		return s, fmt.Errorf("counting a mailbox: %w", err)
	}
	s.Messages, s.Bytes = b.all.used(c)
	for info, err := range b.all.spool.ListStarts(b.id, 1<<63, true, 0) {
		if err != nil && !errors.Is(err, spool.ErrDamaged) {
			return s, err
		}
		s.Highest = uint64(info.ID)
		break
	}
	return s, nil
}

// failed passes on an error of writing, and tells whoever has to act that the spool has stopped.
func (b *Box) failed(err error) error {
	if errors.Is(err, spool.ErrFailed) && b.all.cfg.Failed != nil {
		b.all.cfg.Failed(err)
	}
	return err
}

// entry makes an entry of what the spool says, unless that is wrong in itself: damaged says that
// it may not be as it was stored.
func entry(info *spool.Info, damaged error) (cmtp.Entry, error) {
	if damaged != nil && !errors.Is(damaged, spool.ErrDamaged) {
		return cmtp.Entry{}, damaged
	}
	e := cmtp.Entry{Number: uint64(info.ID), Change: info.Change, Length: uint64(info.Size), SHA256: info.SHA256,
		Standing: standing(info.From), Flags: uint32(info.Mark.Flags) & cmtp.UserFlags, Keywords: info.Mark.Keywords}
	if !info.Received.IsZero() {
		e.Arrived = uint64(crypt.UnixTimeOf(info.Received))
	}
	if h, n, err := cmtp.ParseHeader(info.Start); err == nil && n <= cmtp.MaxHeader {
		e.Header = &h
	}
	return e, nil
}

// standing reads who brought a message (docs/spool.md, Message).
func standing(from string) cmtp.Standing {
	if from == "cmtpd" {
		return cmtp.StandingServer
	}
	addr, word, _ := strings.Cut(from, " ")
	if _, err := netip.ParseAddr(addr); err != nil {
		return cmtp.StandingUnknown
	}
	switch word {
	case "origin=proven":
		return cmtp.StandingVouched
	case "origin=user":
		return cmtp.StandingSubmitted
	case "origin=unverified":
		return cmtp.StandingClaimed
	}
	return cmtp.StandingUnknown
}
