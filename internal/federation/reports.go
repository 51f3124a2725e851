package federation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/provenance"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// A Mailroom is where messages are, and reports are put. spool.Spool is one.
type Mailroom interface {
	Messages
	NewWriter() *spool.Writer
}

// Users tells whose a name is. account.Directory is one.
type Users interface {
	// Resolve returns the account that takes mail for a name, nil where that is the server.
	Resolve(name, domain string) (*account.Account, error)
}

// Reports tells senders what became of their letters, by a letter from the server into
// their own mailboxes. It is a queue.Reporter.
//
// There can be no storm of them: a report is put into the spool and never sent; its reader is
// the account of this server whose user was proven when the message was taken; and the
// mailbox takes a report about the same message once.
type Reports struct {
	mail    Mailroom
	users   Users
	domains []address.Domain
	key     *crypt.PrivateKey // the server's, which vouches for what it writes
	now     func() time.Time
	log     *slog.Logger
}

var _ queue.Reporter = (*Reports)(nil)

// NewReports returns Reports of the server that p is.
func NewReports(p *Peers, mail Mailroom, users Users) *Reports {
	return &Reports{mail, users, p.cfg.Domains, p.cfg.Key, p.cfg.Now, p.cfg.Log}
}

// A kind of report.
type kind byte

const (
	failed  kind = 1
	delayed kind = 2
)

// Failed implements queue.Reporter.
func (r *Reports) Failed(ctx context.Context, item queue.Item) error {
	return r.report(ctx, item, failed, time.Time{})
}

// Delayed implements queue.Reporter.
func (r *Reports) Delayed(ctx context.Context, item queue.Item, until time.Time) error {
	return r.report(ctx, item, delayed, until)
}

func (r *Reports) report(ctx context.Context, item queue.Item, k kind, until time.Time) error {
	h, err := r.header(item.ID)
	if errors.Is(err, spool.ErrNotFound) {
		return nil // it was removed, and nobody waits for it
	}
	if err != nil {
		return fmt.Errorf("reporting on message %s: %w", item.ID, err)
	}
	reader, source := r.reader(h)
	if reader == nil {
		r.log.Warn("nobody can be told what became of a message", "message", item.ID, "digest", hex.EncodeToString(item.Digest[:]), "source", letter.Line(h.SourceAccount+"@"+h.SourceDomain))
		return nil
	}
	d := draft(k, h, &item, until)
	d.Time, d.ReplyTo = r.now(), "postmaster@"+source.Domain.String()
	if err := r.put(ctx, d, source.Domain, reader, digestOf(k, &item)); err != nil {
		return fmt.Errorf("reporting on message %s: %w", item.ID, err)
	}
	r.log.Info("a sender was told what became of a message", "message", item.ID, "digest", hex.EncodeToString(item.Digest[:]), "sender", source.String(), "late", k == delayed)
	return nil
}

// header reads the envelope of a message.
func (r *Reports) header(id spool.ID) (*cmtp.Header, error) {
	m, err := r.mail.Open(id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	l, err := cmtp.ParseLayout(m, m.Size())
	if err != nil {
		return nil, err
	}
	return &l.Header, nil
}

// reader returns who is told: an account of this server, and nobody else. A message of the
// server itself, as a report is one, has none.
func (r *Reports) reader(h *cmtp.Header) (*account.Account, address.Address) {
	source, err := provenance.SourceOf(h)
	if err != nil || source.Account.IsZero() {
		return nil, source
	}
	for _, own := range r.domains {
		if own != source.Domain {
			continue
		}
		if a, err := r.users.Resolve(h.SourceAccount, h.SourceDomain); err == nil {
			return a, source
		}
	}
	return nil, source
}

// digestOf names a report to the spool, which keeps a mailbox from having it twice. It is
// made of what the report is about, not of what it says: a box that is sealed anew differs,
// and so may what the last attempt came to. The message's number is not in it: a sender who
// got no answer hands the message in once more, and it may have been given up before that.
// No message from elsewhere can have it, since it is no core digest (docs/spool.md, Records).
func digestOf(k kind, item *queue.Item) [32]byte {
	b := append([]byte("cmtpd report\x00"), byte(k))
	return sha256.Sum256(append(b, item.Digest[:]...))
}

// put seals a report and stores it. It is durable when put returns.
func (r *Reports) put(ctx context.Context, d *letter.Draft, from address.Domain, to *account.Account, digest [32]byte) error {
	m, err := d.Seal(address.Address{Domain: from}, to.Address, to.Key)
	if err != nil {
		return err
	}
	if err := m.Vouch(r.now(), r.key); err != nil {
		return err
	}
	w := r.mail.NewWriter()
	defer w.Abort()
	if _, err := m.WriteTo(w); err != nil {
		return err
	}
	_, err = w.Commit(ctx, spool.Entry{Mailbox: spool.MailboxID(to.ID), Digest: digest, Received: r.now(), From: "cmtpd"})
	return err
}
