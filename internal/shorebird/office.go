package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"unicode/utf8"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

// maxKept is App.Kept where that is zero: what a letter adds to the copy's database, until it is sent.
const maxKept = 64 << 20

func (r *run) maxKept() int64 {
	if r.Kept > 0 {
		return r.Kept
	}
	return maxKept
}

// An office is where letters are handed in: it looks keys up, keeps copies in the outbox of the account
// that sends them, and gives them to servers.
type office struct {
	run     *run
	net     *network
	home    home
	direct  bool
	unkept  bool   // nothing is kept: the user wants it so
	noCopy  bool   // nor is a copy of what was sent
	warning string // that a person should know before the letter is sent; "" for none
	finders map[way]*finder
	desks   map[address.Address]*desk        // by account, once it had to be proven
	boxes   map[address.Address]*cache.Cache // by account
}

func (r *run) office(direct, unkept bool) (*office, error) {
	n, h, err := r.network()
	if err != nil {
		return nil, err
	}
	return r.officeOf(n, h, direct, unkept), nil
}

func (r *run) officeOf(n *network, h home, direct, unkept bool) *office {
	return &office{
		run: r, net: n, home: h, direct: direct, unkept: unkept, finders: map[way]*finder{},
		desks: map[address.Address]*desk{}, boxes: map[address.Address]*cache.Cache{},
	}
}

func (o *office) close() {
	for _, box := range o.boxes {
		box.Close() // what it has reported as kept is kept
	}
	o.net.close()
}

// A way is how keys are found: for whom, and whether of each domain's own server.
type way struct {
	from   address.Address
	direct bool
}

// finder returns how keys are found for a letter, and for whom.
func (o *office) finder(d *cache.Draft) (*finder, address.Address, error) {
	from, err := address.Parse(d.From)
	if err != nil {
		return nil, from, err
	}
	w := way{from, d.Direct}
	f := o.finders[w]
	if f == nil {
		f = o.run.finder(o.net, o.home, from, d.Direct)
		o.finders[w] = f
	}
	return f, from, nil
}

// box opens the local copy of the account that a finder is for. It is nil where the account has no keys on
// this machine, or there is nobody to ask for the password of a letter that could be sent
// without.
func (o *office) box(ctx context.Context, f *finder) (*cache.Cache, error) {
	if f.account.IsZero() || !o.home.hasKeys(f.account) {
		return nil, nil
	}
	if box := o.boxes[f.account]; box != nil {
		return box, nil
	}
	ring, forget, err := o.ring(ctx, f.account)
	if errors.Is(err, errMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer forget()
	box, err := o.run.mailbox(ctx, o.home, f.account, keys(ring))
	if err != nil {
		return nil, err
	}
	o.boxes[f.account] = box
	return box, nil
}

// ring returns the keys of an account, which may be on the desk already. What is to be forgotten of them is for the
// caller to say.
func (o *office) ring(ctx context.Context, account address.Address) (*xzibit.Keyring, func(), error) {
	if d := o.desks[account]; d != nil && d.held != nil && len(d.held.ring.Keys) > 0 {
		return d.held.ring, func() {}, nil
	}
	held, err := o.run.held(ctx, o.home, account)
	if err != nil {
		return nil, nil, err
	}
	return held.ring, held.ring.Wipe, nil
}

// boxOf opens the local copy of the account that a letter is from; nil where there is none.
func (o *office) boxOf(ctx context.Context, d *cache.Draft) (*cache.Cache, error) {
	f, _, err := o.finder(d)
	if err != nil {
		return nil, err
	}
	return o.box(ctx, f)
}

// keepable reports whether a letter may wait in the outbox.
func (o *office) keepable(d *cache.Draft) bool {
	whole := !slices.ContainsFunc(d.Files, func(f cache.File) bool { return !utf8.ValidString(f.Path) })
	return !o.unkept && whole && length(d) <= o.run.maxKept()/int64(max(1, len(d.Recipients)))
}

// length is how many bytes a letter has, about.
func length(d *cache.Draft) int64 {
	n := int64(len(d.Text))
	for _, f := range d.Files {
		n += f.Size
	}
	return n
}

// deliver sends a letter to all its recipients. Nothing is sent to anybody unless every key was
// found; what cannot be sent for now stays in the outbox, where there is one.
func (o *office) deliver(ctx context.Context, d *cache.Draft) error {
	if err := o.check(d); err != nil {
		return err
	}
	to, err := recipients(d.Recipients)
	if err != nil {
		return err
	}
	d.Recipients = nil
	for _, a := range to {
		d.Recipients = append(d.Recipients, a.String())
	}
	d.Direct = d.Direct || o.direct
	if wanted := o.net.settings.SentCopies; o.noCopy || wanted != nil && !*wanted {
		d.NoCopy = true
	}
	f, from, err := o.finder(d)
	if err != nil {
		return err
	}
	o.show(d.Files)
	s, answers, err := o.find(ctx, f, from, to, false)
	if err != nil {
		return o.postpone(ctx, f, d, err)
	}
	var box *cache.Cache
	if o.keepable(d) {
		if box, err = o.box(ctx, f); err != nil {
			return fmt.Errorf("nothing was sent: %w", err)
		}
	}
	if box == nil {
		return o.sendUnkept(ctx, s, d, answers, f.account)
	}
	return o.sendKept(ctx, box, s, d, answers)
}

// check refuses a letter that could never be sent, before anybody is asked for anything.
func (o *office) check(d *cache.Draft) error {
	l := letter.Draft{Time: o.run.Now(), Subject: d.Subject, ReplyTo: d.ReplyTo, CC: d.CC, Text: []byte(d.Text)}
	return l.Check()
}

// find looks up every key, and returns who sends: proven to the own server where that takes the letter, or with own because
// it is to take the sender's copy.
func (o *office) find(ctx context.Context, f *finder, from address.Address, to []address.Address, own bool) (*sender, []*answer, error) {
	f.desk = o.desks[f.account]
	defer func() { o.desks[f.account] = f.desk }()
	answers, err := f.all(ctx, to)
	if err != nil {
		return nil, nil, err
	}
	s := &sender{network: o.net, from: from, mu: new(sync.Mutex)}
	if own {
		_, err = f.signIn(ctx)
		s.account = f.desk
	} else {
		s.account, err = f.submitter(ctx, from, answers)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("nothing was sent: %w", err)
	}
	return s, answers, nil
}

// postpone keeps a letter, of which nothing was sent, where the reason may go away.
func (o *office) postpone(ctx context.Context, f *finder, d *cache.Draft, why error) error {
	if diagnose(why).Code != exitTemporary || ctx.Err() != nil || !o.keepable(d) {
		return why
	}
	box, err := o.box(ctx, f)
	if box == nil || err != nil {
		return errors.Join(why, err)
	}
	id, err := o.queue(ctx, box, d)
	if err != nil {
		return errors.Join(why, err)
	}
	if l, err := outgoingLetter(ctx, box, id); err == nil {
		err = tried(ctx, box, pending(l), why)
		if err != nil && !errors.Is(err, cache.ErrNotFound) { // sent by another process meanwhile
			return errors.Join(why, err)
		}
	}
	v := &SendReport{From: d.From, Sent: []SentReport{}, Failed: []FailReport{}, Outbox: id, Warning: o.warning}
	for _, a := range d.Recipients {
		v.Failed = append(v.Failed, FailReport{Address: a, diagnosis: diagnose(why), Kept: true})
	}
	o.tellKept(id)
	return errors.Join(why, answered(ctx, box, d), o.run.report(v, func(*bytes.Buffer) {}))
}

func (o *office) tellKept(id int64) {
	o.run.note("The letter is in the outbox, with number %d. It goes with the next send or sync, or with: shorebird outbox send", id)
}

// queue puts a letter into the outbox.
func (o *office) queue(ctx context.Context, box *cache.Cache, d *cache.Draft) (int64, error) {
	if d.ID == 0 {
		if err := box.SaveDraft(ctx, d); err != nil {
			return 0, err
		}
	}
	return box.Queue(ctx, d.ID)
}

// sendUnkept sends a letter of which nothing is kept.
func (o *office) sendUnkept(ctx context.Context, s *sender, d *cache.Draft, answers []*answer, account address.Address) error {
	l, closeAll, err := o.openLetter(ctx, d)
	defer closeAll()
	if err != nil {
		return err
	}
	l.Time = o.run.Now()
	total, copies := int64(0), int64(len(answers))
	if s.keepsCopy(d) && length(d) <= o.run.maxKept() {
		copies++
	}
	for _, f := range d.Files {
		total += s.passes() * copies * f.Size
	}
	bar := o.run.progress(ctx, "sending", total)
	watchFiles(bar, l)
	var parcels []*parcel
	for _, a := range answers {
		parcels = append(parcels, &parcel{answer: a})
	}
	atOnce(ctx, parcels, func(p *parcel) error {
		m, err := s.seal(l, p.answer)
		if err == nil {
			p.message, p.size = outgoing(m), m.Size()
		}
		return err
	})
	s.sendParcels(ctx, parcels)
	v, failed := newSendReport(s.from, parcels)
	v.Warning = o.warning
	o.sendOwnUnkept(ctx, s, d, l, parcels, v)
	bar.Done()
	if failed == nil {
		failed = answered(ctx, o.boxes[account], d)
	}
	if failed != nil && !o.unkept && !o.keepable(d) {
		o.run.note("The letter is too long for the outbox, so nothing of it is kept: all copies together may have %s.", size(o.run.maxKept()))
	}
	return errors.Join(failed, o.run.report(v, v.text))
}

// passes is how often a file is read for each copy that is sealed.
func (s *sender) passes() int64 {
	if s.account != nil {
		return 3 // once for the signature
	}
	return 2
}

// watchFiles counts what is read of a letter's attachments.
func watchFiles(p *terminal.Progress, l *letter.Draft) {
	for i := range l.Attachments {
		l.Attachments[i].Data = p.Watch(l.Attachments[i].Data)
	}
}

// attach looks at the files that are to be attached.
func attach(paths []string) ([]cache.File, error) {
	var files []cache.File
	for _, path := range paths {
		f, err := letter.OpenFile(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if path, err = filepath.Abs(path); err != nil {
			return nil, fmt.Errorf("attaching a file: %w", err)
		}
		a := f.Attachment()
		files = append(files, cache.File{Path: path, Name: a.Name, Size: a.Size, Modified: f.Modified()})
	}
	return files, nil
}

// openLetter opens the attachments of a draft. A file that is not as it was when it was attached
// is an error.
func (o *office) openLetter(ctx context.Context, d *cache.Draft) (*letter.Draft, func(), error) {
	l := &letter.Draft{Subject: d.Subject, ReplyTo: d.ReplyTo, CC: d.CC, Text: []byte(d.Text)}
	var done []func()
	closeAll := func() {
		for _, do := range done {
			do()
		}
	}
	var forwarded []letter.Attachment
	for _, file := range d.Files {
		var a letter.Attachment
		if file.Path == "" {
			if forwarded == nil {
				all, forget, err := o.openForwarded(ctx, d)
				if err != nil {
					return nil, closeAll, err
				}
				forwarded, done = all, append(done, forget)
			}
			i := slices.IndexFunc(forwarded, func(a letter.Attachment) bool { return a.Name == file.Name && a.Size == file.Size })
			if i < 0 {
				return nil, closeAll, fmt.Errorf("%q: %w", file.Name, errOtherFile)
			}
			a = forwarded[i]
			forwarded = slices.Delete(forwarded, i, i+1)
		} else {
			f, err := letter.OpenFile(file.Path)
			if err != nil {
				return nil, closeAll, err
			}
			done = append(done, func() { f.Close() })
			a = f.Attachment()
			if a.Size != file.Size || !f.Modified().Equal(file.Modified) {
				return nil, closeAll, hint(fmt.Errorf("%s: %w", file.Path, errOtherFile), "Nothing was sent. Attach it anew, or put it back as it was.")
			}
		}
		a.Name = file.Name
		l.Attachments = append(l.Attachments, a)
	}
	return l, closeAll, nil
}

// openForwarded opens the message that a letter forwards, with the account's keys, which are forgotten when
// its attachments are not needed any more.
func (o *office) openForwarded(ctx context.Context, d *cache.Draft) ([]letter.Attachment, func(), error) {
	box, err := o.boxOf(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	if box == nil {
		return nil, nil, fmt.Errorf("opening the message that is forwarded: %w", cache.ErrNotKept)
	}
	msg, err := box.ByDigest(ctx, d.Forwards)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the message that is forwarded: %w", err)
	}
	sealed, err := box.Sealed(ctx, msg.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the message that is forwarded: %w", err)
	}
	f, _, err := o.finder(d)
	if err != nil {
		return nil, nil, err
	}
	ring, forget, err := o.ring(ctx, f.account)
	if err != nil {
		return nil, nil, err
	}
	l, err := letter.Open(bytes.NewReader(sealed), int64(len(sealed)), keys(ring))
	if err != nil {
		forget()
		return nil, nil, fmt.Errorf("opening the message that is forwarded: %w", err)
	}
	return l.Attachments, forget, nil
}

// pending returns the copies of a letter that are still to be sent.
func pending(l *cache.Outgoing) []cache.Copy {
	return slices.DeleteFunc(slices.Clone(l.Copies), func(c cache.Copy) bool { return c.State == cache.Sent || c.State == cache.Failed })
}
