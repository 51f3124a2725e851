package shorebird

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// sendKept sends a letter by way of the outbox, and then what else waits there.
//
//	queue the letter and lock it; seal all copies; send; note what became of each; unlock
//
// A crash before all are sealed leaves a letter that is sealed and sent later, and one after it
// copies that are sent again as they are, which their server knows by their core digest. The sender's own copy is one of them,
// and goes last.
func (o *office) sendKept(ctx context.Context, box *cache.Cache, s *sender, d *cache.Draft, answers []*answer) error {
	composed := d.ID != 0
	id, lock, err := o.queueLocked(ctx, box, d)
	if err != nil {
		return err
	}
	v, failed, err := o.sendQueued(ctx, box, s, id, answers, composed)
	lock.Close()
	if err == nil && failed == nil && v.Copy != copyLater {
		o.sendWaiting(ctx, box)
	}
	return errors.Join(failed, err)
}

// queueLocked puts a letter into the outbox so that no other process sends it.
func (o *office) queueLocked(ctx context.Context, box *cache.Cache, d *cache.Draft) (int64, io.Closer, error) {
	outbox, err := box.LockOutbox(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer outbox.Close()
	id, err := o.queue(ctx, box, d)
	if err != nil {
		return 0, nil, err
	}
	lock, err := box.LockLetter(id)
	return id, lock, err
}

// sendQueued sends a letter that is locked, and reports it. The first error is the first of a copy that was not
// sent; the second is one of this machine, or of a letter of which nothing was sent.
func (o *office) sendQueued(ctx context.Context, box *cache.Cache, s *sender, id int64, answers []*answer, composed bool) (v *SendReport, failed, err error) {
	l, err := outgoingLetter(ctx, box, id)
	if err != nil {
		return nil, nil, err
	}
	done, err := o.dispatch(ctx, box, s, l, answers)
	if err != nil {
		return nil, nil, errors.Join(err, o.unqueue(context.WithoutCancel(ctx), box, l, composed))
	}
	v, failed = newSendReport(s.from, done.parcels)
	v.Warning = o.warning
	if err = done.noted; err == nil {
		err = o.noteOwn(ctx, box, done.own, v)
	}
	if err == nil {
		err = o.settle(ctx, box, id, v)
	}
	if len(v.Sent) > 0 || slices.ContainsFunc(done.parcels, func(p *parcel) bool { return p.kept }) {
		err = errors.Join(err, answered(context.WithoutCancel(ctx), box, &l.Draft))
	}
	return v, failed, errors.Join(err, o.run.report(v, v.text))
}

// settle removes a letter from the outbox that has arrived everywhere, or says that it is there.
func (o *office) settle(ctx context.Context, box *cache.Cache, id int64, v *SendReport) error {
	if len(v.Failed) == 0 && v.Copy != copyLater {
		return box.RemoveLetter(context.WithoutCancel(ctx), id)
	}
	if v.Outbox = id; len(v.Failed) == 0 {
		return nil
	}
	for _, f := range v.Failed {
		if f.Kept {
			o.tellKept(id)
			return nil
		}
	}
	o.run.note("The letter is in the outbox, with number %[1]d, so that it is not lost. Seal it anew and send it with: shorebird outbox send --again %[1]d; or: shorebird outbox drop %[1]d", id)
	return nil
}

// unqueue takes a letter out of the outbox of which nothing was sent. One that was composed
// is a draft again.
func (o *office) unqueue(ctx context.Context, box *cache.Cache, l *cache.Outgoing, composed bool) error {
	if composed {
		d := l.Draft
		if err := box.SaveDraft(ctx, &d); err != nil {
			return err
		}
		o.tellDraft(&d)
	}
	return box.RemoveLetter(ctx, l.ID)
}

func (o *office) tellDraft(d *cache.Draft) {
	o.run.note("The letter is kept as draft %[1]d. Go on with: shorebird drafts edit %[1]d", d.ID)
}

// outgoingLetter returns a letter of the outbox.
func outgoingLetter(ctx context.Context, box *cache.Cache, id int64) (*cache.Outgoing, error) {
	all, err := box.Outbox(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].ID == id {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("letter %d of the outbox: %w", id, cache.ErrNotFound)
}

// dispatch seals the copies of a letter that are still to be sealed, and when all are, sends what is to
// be sent, and notes what became of it; the sender's own copy is sent after that, so that whatever happens to it nothing else
// is sent twice. The error is one before anything was sent.
func (o *office) dispatch(ctx context.Context, box *cache.Cache, s *sender, l *cache.Outgoing, answers []*answer) (done dispatched, err error) {
	if l.Own == nil && s.keepsCopy(&l.Draft) {
		if err = box.AddOwn(ctx, l.ID); err != nil {
			return done, err
		}
		if l, err = outgoingLetter(ctx, box, l.ID); err != nil {
			return done, err
		}
	}
	bar := o.run.progress(ctx, "sending", work(s, l))
	defer bar.Done()
	if err = o.sealKept(ctx, box, s, l, allParcels(s, l, answers), bar); err != nil {
		return done, err
	}
	if l, err = outgoingLetter(ctx, box, l.ID); err != nil {
		return done, err
	}
	all := allParcels(s, l, answers)
	for _, p := range all {
		m, err := box.Ready(ctx, p.copy)
		if err != nil {
			return done, err
		}
		p.message, p.size = watchParts(bar, m), p.copy.Size
	}
	if done.parcels = all; len(all) > 0 && all[len(all)-1].to != nil {
		done.parcels, done.own = all[:len(all)-1], all[len(all)-1]
	}
	s.sendParcels(ctx, done.parcels)
	done.noted = o.note(ctx, box, done.parcels)
	if done.own != nil && done.noted == nil {
		s.sendOwn(ctx, done.own, ownPending(l), done.parcels)
	}
	return done, nil
}

// dispatched is what was sent of a letter.
type dispatched struct {
	parcels []*parcel
	own     *parcel // the sender's own copy; nil where there is none
	noted   error   // of this machine; own is not sent then
}

// allParcels are those of parcelsOf, and behind them the sender's own.
func allParcels(s *sender, l *cache.Outgoing, answers []*answer) []*parcel {
	all := parcelsOf(l, answers)
	if own := s.ownParcel(l); own != nil {
		all = append(all, own)
	}
	return all
}

// work returns about how many bytes are read and sent for a letter.
func work(s *sender, l *cache.Outgoing) (total int64) {
	size, copies := length(&l.Draft), pending(l)
	if ownWaits(l) {
		copies = append(copies, *l.Own)
	}
	for _, c := range copies {
		if total += size; c.State == cache.Waiting {
			total += s.passes() * size
		}
	}
	return total
}

// parcelsOf returns the copies of a letter that are still to be sent, with the answers for them.
func parcelsOf(l *cache.Outgoing, answers []*answer) []*parcel {
	of := map[string]*answer{}
	for _, a := range answers {
		of[a.address.String()] = a
	}
	var parcels []*parcel
	for _, c := range pending(l) {
		parcels = append(parcels, &parcel{answer: of[c.Recipient], copy: &c})
	}
	return parcels
}

// sealKept seals what waits to be sealed.
func (o *office) sealKept(ctx context.Context, box *cache.Cache, s *sender, l *cache.Outgoing, parcels []*parcel, bar *terminal.Progress) error {
	var waiting []*parcel
	for _, p := range parcels {
		if p.copy.State == cache.Waiting {
			waiting = append(waiting, p)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	d, closeAll, err := o.openLetter(ctx, &l.Draft)
	defer closeAll()
	if err != nil {
		return err
	}
	d.Time = l.Queued
	watchFiles(bar, d)
	atOnce(ctx, waiting, func(p *parcel) error {
		var m *letter.Message
		var err error
		if p.to != nil {
			m, err = s.sealOwn(d, p.to)
		} else {
			m, err = s.seal(d, p.answer)
		}
		if err != nil {
			return err
		}
		return box.Seal(ctx, p.copy.ID, func(w io.Writer) (cache.Digest, error) {
			return cmtp.WriteDigested(w, m.Header, m.Log, m.Body, m.Attachments)
		})
	})
	for _, p := range waiting {
		if p.err != nil {
			return p.err
		}
	}
	return nil
}

// note keeps what became of each copy.
func (o *office) note(ctx context.Context, box *cache.Cache, parcels []*parcel) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, p := range parcels {
		var err error
		switch {
		case p.err == nil:
			err = box.SetSent(ctx, p.copy.ID, receiptOf(p.sent))
		case diagnose(p.err).Code == exitRefused:
			err = box.SetFailed(ctx, p.copy.ID, p.err.Error())
		default:
			p.kept = true
			err = box.SetTried(ctx, p.copy.ID, p.err.Error())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func receiptOf(sent *client.Sent) []byte {
	if sent == nil {
		return nil
	}
	return sent.Receipt.Append(nil)
}

// sendWaiting sends what waits in an outbox, besides what was asked for: what goes wrong with it is told, and
// is no error of what was asked for.
func (o *office) sendWaiting(ctx context.Context, box *cache.Cache) {
	letters, err := o.flush(ctx, box, 0)
	sent := 0
	for _, l := range letters {
		sent += len(l.Sent)
	}
	switch {
	case sent == 1:
		o.run.note("Of letters that waited in the outbox 1 copy was sent.")
	case sent > 1:
		o.run.note("Of letters that waited in the outbox %d copies were sent.", sent)
	}
	if err != nil {
		o.run.note("A letter still waits in the outbox: %v", err)
	}
}

// sendWaiting is that of an office, for a mailbox whose server was reached.
func (m *mailbox) sendWaiting(ctx context.Context) {
	o := m.run.officeOf(m.network, m.home, false, false)
	o.desks[m.held.address] = m.desk
	o.sendWaiting(ctx, m.copy)
}

// flush sends what waits in an outbox, or one letter of it where only is not 0, and reports of each
// letter of which there was something to send. What another process is sending is left to it. The error
// is the first one.
func (o *office) flush(ctx context.Context, box *cache.Cache, only int64) (all []SendReport, failed error) {
	letters, err := box.Outbox(ctx)
	if err != nil {
		return nil, err
	}
	for i := range letters {
		if only != 0 && letters[i].ID != only {
			continue
		}
		v, err := o.takeUp(ctx, box, letters[i].ID)
		if v != nil {
			all = append(all, *v)
		}
		if failed == nil {
			failed = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return all, failed
}

// takeUp goes on with a letter of the outbox unless another process does, or has done so.
func (o *office) takeUp(ctx context.Context, box *cache.Cache, id int64) (*SendReport, error) {
	lock, err := lockLetter(ctx, box, id)
	if errors.Is(err, durable.ErrLocked) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	l, err := outgoingLetter(ctx, box, id)
	if errors.Is(err, cache.ErrNotFound) {
		if err = box.RemoveLetter(ctx, id); errors.Is(err, cache.ErrNotFound) { // but for its lock
			err = nil
		}
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return o.goOn(ctx, box, l)
}

// lockLetter locks a letter that is in the outbox already.
func lockLetter(ctx context.Context, box *cache.Cache, id int64) (io.Closer, error) {
	outbox, err := box.LockOutbox(ctx)
	if err != nil {
		return nil, err
	}
	defer outbox.Close()
	return box.LockLetter(id)
}

// goOn goes on with a letter of the outbox. It returns nil where nothing of it was to be sent.
func (o *office) goOn(ctx context.Context, box *cache.Cache, l *cache.Outgoing) (*SendReport, error) {
	copies, own := pending(l), ownPending(l)
	if len(copies) == 0 && !own {
		return nil, o.clear(ctx, box, l)
	}
	l.Draft.Direct = l.Draft.Direct || o.direct
	f, from, err := o.finder(&l.Draft)
	if err != nil {
		return nil, err
	}
	var to []address.Address
	for _, c := range copies {
		a, err := address.Parse(c.Recipient)
		if err != nil {
			return nil, err
		}
		to = append(to, a)
	}
	v := &SendReport{From: l.Draft.From, Sent: []SentReport{}, Failed: []FailReport{}, Outbox: l.ID}
	s, answers, err := o.find(ctx, f, from, to, own)
	var done dispatched
	if err == nil {
		done, err = o.dispatch(ctx, box, s, l, answers)
	}
	if err != nil {
		err = errors.Join(err, tried(context.WithoutCancel(ctx), box, copies, err))
		for _, c := range copies {
			v.Failed = append(v.Failed, FailReport{Address: c.Recipient, diagnosis: diagnose(err), Kept: true})
		}
		return v, err
	}
	v, err = newSendReport(from, done.parcels)
	noted := done.noted
	if noted == nil {
		noted = o.noteOwn(ctx, box, done.own, v)
	}
	if noted == nil {
		l, noted = outgoingLetter(ctx, box, l.ID)
	}
	if noted == nil {
		if v.Outbox = l.ID; arrived(l) {
			v.Outbox = 0
		}
		noted = o.clear(ctx, box, l)
	}
	return v, errors.Join(err, noted)
}

// tried notes why copies were not sent.
func tried(ctx context.Context, box *cache.Cache, copies []cache.Copy, why error) error {
	for _, c := range copies {
		if err := box.SetTried(ctx, c.ID, why.Error()); err != nil {
			return err
		}
	}
	return nil
}

// clear removes a letter that has arrived everywhere.
func (o *office) clear(ctx context.Context, box *cache.Cache, l *cache.Outgoing) error {
	if !arrived(l) {
		return nil
	}
	return box.RemoveLetter(context.WithoutCancel(ctx), l.ID)
}

// arrived reports whether all copies of a letter were taken, and the sender's own one, too, or given up.
func arrived(l *cache.Outgoing) bool {
	return !ownWaits(l) && !slices.ContainsFunc(l.Copies, func(c cache.Copy) bool { return c.State != cache.Sent })
}

// answered notes of the message that a letter answers that it does.
func answered(ctx context.Context, box *cache.Cache, d *cache.Draft) error {
	if d.InReplyTo == (cache.Digest{}) || box == nil {
		return nil
	}
	msg, err := box.ByDigest(ctx, d.InReplyTo)
	if errors.Is(err, cache.ErrNotFound) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	return box.Change(ctx, []int64{msg.ID}, cache.Note{Mask: cmtp.FlagAnswered, Flags: cmtp.FlagAnswered})
}
