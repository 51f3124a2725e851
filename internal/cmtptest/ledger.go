package cmtptest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/crypt"
	"cmtpd/internal/spool"
)

// A Ledger remembers what was sent to a server, over all of its daemons, what the
// server has acknowledged, and what was removed since. It is safe for concurrent use.
type Ledger struct {
	Accounts []string // whom letters are for
	Large    int64    // bytes; one in twenty parts is longer

	mu      sync.Mutex
	rand    *rand.Rand          // under mu
	entries map[[32]byte]*Entry // under mu, by the message's SHA-256
	acked   int                 // under mu
}

// An Entry is one letter of a Ledger.
type Entry struct {
	Letter
	Acked   bool
	Removed bool
}

// NewLedger returns an empty Ledger whose letters follow from seed.
func NewLedger(seed uint64, large int64, accounts ...string) *Ledger {
	return &Ledger{Accounts: accounts, Large: large, rand: rand.New(rand.NewPCG(seed, 1)), entries: make(map[[32]byte]*Entry)}
}

// Counts returns how many letters were sent, and how many of them acknowledged.
func (l *Ledger) Counts() (sent, acked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries), l.acked
}

// next writes a new letter, and down in the Ledger before anything of it is sent.
func (l *Ledger) next() *Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &Entry{Letter: Letter{To: l.Accounts[l.rand.IntN(len(l.Accounts))]}}
	for range 1 + l.rand.IntN(6)/4 { // a third has an attachment
		e.Parts = append(e.Parts, Noise{l.rand.Uint64(), 48 + l.rand.Int64N(l.length())})
	}
	l.entries[e.Sum()] = e
	return e
}

// length draws a bound for a part: most are short, some longer than Large.
func (l *Ledger) length() int64 {
	switch n := l.rand.IntN(20); {
	case n < 12:
		return 4 << 10
	case n < 19:
		return l.Large
	}
	return 6 * l.Large
}

func (l *Ledger) ack(e *Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !e.Acked {
		e.Acked = true
		l.acked++
	}
}

// Deliver sends one letter to the server at address, over a connection of its own.
func Deliver(ctx context.Context, address string, l *Letter) error {
	c, key, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	body, attachments := l.parts()
	return c.Send(l.Header(), nil, body, attachments, key)
}

// dial connects and asks for the server's key, as a client must.
func dial(ctx context.Context, address string) (*client.Conn, crypt.PublicKey, error) {
	d := client.Dialer{Timeout: patience}
	c, err := d.Connect(ctx, address)
	if err != nil {
		return nil, crypt.PublicKey{}, err
	}
	key, err := c.ServerKey()
	if err != nil {
		c.Close()
	}
	return c, key, err
}

func (l *Ledger) send(c *client.Conn, key crypt.PublicKey, e *Entry) error {
	body, attachments := e.parts()
	err := c.Send(e.Header(), nil, body, attachments, key)
	if err == nil {
		l.ack(e)
	}
	return err
}

// Load sends new letters over several connections at once until ctx ends or the
// server goes away. It fails when the server refuses one.
func (l *Ledger) Load(ctx context.Context, address string, connections int) error {
	failed := make(chan error, connections)
	for range connections {
		go func() { failed <- l.sendAll(ctx, address) }()
	}
	var refused error
	for range connections {
		if err := <-failed; errors.Is(err, client.ErrRefused) || errors.Is(err, client.ErrSignature) {
			refused = errors.Join(refused, err)
		}
	}
	return refused
}

func (l *Ledger) sendAll(ctx context.Context, address string) error {
	c, key, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		if err := l.send(c, key, l.next()); err != nil {
			return err
		}
	}
	return nil
}

// Deliver sends one new letter, over a connection of its own.
func (l *Ledger) Deliver(ctx context.Context, address string) error {
	c, key, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	return l.send(c, key, l.next())
}

// Resend sends everything again that was not acknowledged, and some of what was,
// as a client does that has lost a reply.
func (l *Ledger) Resend(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, key, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close()
	l.mu.Lock()
	var again []*Entry
	for _, e := range l.entries {
		if !e.Removed && (!e.Acked || l.rand.IntN(20) == 0) {
			again = append(again, e)
		}
	}
	l.mu.Unlock()
	for _, e := range again {
		if err := l.send(c, key, e); err != nil {
			return fmt.Errorf("sending %d bytes to %s again: %w", e.Size(), e.To, err)
		}
	}
	return nil
}

// Remove removes a share of a spool's messages, and returns how many.
func (l *Ledger) Remove(ctx context.Context, s *spool.Spool, share float64) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []spool.ID
	var entries []*Entry
	for info, err := range s.All(0) {
		if err != nil {
			return 0, err
		}
		if e := l.entries[info.SHA256]; e != nil && l.rand.Float64() < share {
			ids, entries = append(ids, info.ID), append(entries, e)
		}
	}
	n, err := s.RemoveAll(ctx, ids, "ledger")
	if err == nil && n != len(ids) {
		err = fmt.Errorf("%d of %d messages were removed", n, len(ids))
	}
	if err != nil {
		return n, err
	}
	for _, e := range entries {
		e.Removed = true
	}
	return n, nil
}

// Check reads a whole spool and holds it against the Ledger: every message there
// is a letter that was sent, byte for byte, in its reader's mailbox and no other,
// once; every letter that was acknowledged is there, unless it was removed, and none
// that was. mailboxes are the accounts' by name.
func (l *Ledger) Check(s *spool.Spool, mailboxes map[string]string) error {
	return l.CheckSince(s, mailboxes, l.Acked())
}

// Acked returns which letters were acknowledged so far, by the message's SHA-256.
func (l *Ledger) Acked() map[[32]byte]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	acked := make(map[[32]byte]bool, l.acked)
	for sum, e := range l.entries {
		if e.Acked {
			acked[sum] = true
		}
	}
	return acked
}

// CheckSince is Check where only what acked names has to be there: a copy of the spool
// from that time or later.
func (l *Ledger) CheckSince(s *spool.Spool, mailboxes map[string]string, acked map[[32]byte]bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []error
	found := make(map[[32]byte]spool.ID, len(l.entries))
	for info, err := range s.All(0) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("message %s: %w", info.ID, err))
			continue
		}
		sum, err := read(s, info.ID)
		e := l.entries[sum]
		switch before, twice := found[sum]; {
		case err != nil:
			wrong = append(wrong, fmt.Errorf("message %s: %w", info.ID, err))
		case e == nil:
			wrong = append(wrong, fmt.Errorf("message %s of %d bytes was never sent so", info.ID, info.Size))
		case twice:
			wrong = append(wrong, fmt.Errorf("message %s is message %s again", info.ID, before))
		case e.Removed:
			wrong = append(wrong, fmt.Errorf("message %s was removed and is there again", info.ID))
		case mailboxes[e.To] != info.Mailbox.String():
			wrong = append(wrong, fmt.Errorf("message %s for %s lies in mailbox %s", info.ID, e.To, info.Mailbox))
		}
		found[sum] = info.ID
	}
	for sum, e := range l.entries {
		if _, ok := found[sum]; acked[sum] && !e.Removed && !ok {
			wrong = append(wrong, fmt.Errorf("%d bytes to %s were acknowledged and are gone", e.Size(), e.To))
		}
	}
	return errors.Join(wrong...)
}

// read returns SHA-256 of what a message's reader delivers.
func read(s *spool.Spool, id spool.ID) (sum [32]byte, err error) {
	r, err := s.Open(id)
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// Moment returns a time up to most, drawn from the Ledger's seed.
func (l *Ledger) Moment(most time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Duration(l.rand.Int64N(int64(most)))
}
