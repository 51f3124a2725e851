package shorebird

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// What was sent is kept in the sender's own mailbox, as a copy that goes to it once some recipient's server has taken the
// letter (docs/protocol.md section 29.5). In the outbox it is sealed before anything is sent, as all copies are: so it is sent
// again in the same bytes, and is kept once.

// What may have become of the sender's own copy.
const (
	copyKept    = "kept"
	copyLater   = "later"   // it is in the outbox still
	copyRefused = "refused" // and given up
)

var (
	errNotYet      = errors.New("nobody has got the letter yet")
	errTooLongCopy = errors.New("the letter is too long for a copy of it")
)

// keepsCopy reports whether the sender keeps a copy of a letter: not where it goes past the account's own server, which
// would learn of it by the copy, nor where it is to nobody but the account, which has it then.
func (s *sender) keepsCopy(d *cache.Draft) bool {
	if d.NoCopy || s.account == nil || s.account.self == nil {
		return false
	}
	return slices.ContainsFunc(d.Recipients, func(to string) bool {
		a, err := address.Parse(to)
		a.Account = a.Account.Base()
		return err != nil || a != s.account.held.address
	})
}

// sealOwn seals the copy of a letter that the sender keeps.
func (s *sender) sealOwn(d *letter.Draft, to []string) (*letter.Message, error) {
	key := find(s.account.held.ring, s.account.used)
	if key == nil {
		return nil, fmt.Errorf("sealing your own copy of the letter: %w", errNoKeys)
	}
	c, err := d.Copy(to, key)
	if err != nil {
		return nil, err
	}
	return s.seal(c, s.account.self)
}

// ownPending reports whether there is an own copy of a letter that can be sent: somebody has got the letter.
func ownPending(l *cache.Outgoing) bool {
	return ownWaits(l) && slices.ContainsFunc(l.Copies, func(c cache.Copy) bool { return c.State == cache.Sent })
}

func ownWaits(l *cache.Outgoing) bool {
	return l.Own != nil && l.Own.State != cache.Sent && l.Own.State != cache.Failed
}

// ownParcel returns the copy that the sender keeps, unless there is none, or it was dealt with.
func (s *sender) ownParcel(l *cache.Outgoing) *parcel {
	if !ownWaits(l) || s.account == nil || s.account.self == nil {
		return nil
	}
	return &parcel{answer: s.account.self, copy: l.Own, to: l.Draft.Recipients}
}

// sendOwn sends the sender's own copy if somebody has got the letter: now, by these parcels, or before.
func (s *sender) sendOwn(ctx context.Context, own *parcel, before bool, parcels []*parcel) {
	if !before && !slices.ContainsFunc(parcels, func(p *parcel) bool { return p.err == nil }) {
		own.err = errNotYet
	}
	if own.err == nil {
		s.sendParcels(ctx, []*parcel{own})
	}
}

// noteOwn keeps what became of the own copy of a letter in the outbox, and reports it.
func (o *office) noteOwn(ctx context.Context, box *cache.Cache, own *parcel, v *SendReport) error {
	ctx = context.WithoutCancel(ctx)
	switch {
	case own == nil || own.err == errNotYet:
		return nil
	case own.err == nil:
		v.Copy = copyKept
		return box.SetSent(ctx, own.copy.ID, receiptOf(own.sent))
	case hasStatus(own.err, cmtp.StatusNoRoom) || diagnose(own.err).Code == exitRefused:
		o.lostOwn(own, v)
		return box.SetFailed(ctx, own.copy.ID, own.err.Error())
	}
	v.Copy, v.CopyError = copyLater, own.err.Error()
	o.run.note("Your own copy of the letter waits in the outbox, and goes with the next send or sync: %s", terminal.OneLine(v.CopyError))
	return box.SetTried(ctx, own.copy.ID, own.err.Error())
}

// lostOwn reports that the sender has no copy of a letter that was sent.
func (o *office) lostOwn(own *parcel, v *SendReport) {
	v.Copy, v.CopyError = copyRefused, own.err.Error()
	more := ""
	if hasStatus(own.err, cmtp.StatusNoRoom) {
		more = "; your mailbox is full: delete what you do not need"
	}
	o.run.note("WARNING: the letter is sent, and no copy of it is kept for you: %s%s", terminal.OneLine(v.CopyError), more)
}

// sendOwnUnkept sends the own copy of a letter that is not in the outbox. What breaks off here loses the copy, and nothing else.
func (o *office) sendOwnUnkept(ctx context.Context, s *sender, d *cache.Draft, l *letter.Draft, parcels []*parcel, v *SendReport) {
	if !s.keepsCopy(d) {
		return
	}
	own := &parcel{answer: s.account.self, to: d.Recipients}
	if length(d) > o.run.maxKept() {
		own.err = errTooLongCopy
	} else if m, err := s.sealOwn(l, own.to); err != nil {
		own.err = err
	} else {
		own.message, own.size = outgoing(m), m.Size()
	}
	if len(v.Sent) == 0 {
		return
	}
	if s.sendOwn(ctx, own, false, parcels); own.err != nil {
		o.lostOwn(own, v)
		return
	}
	v.Copy = copyKept
}
