package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable"
)

// A Syncer brings a copy and a mailbox together. Its functions are the caller's, for it has
// the keyring.
type Syncer struct {
	Cache *Cache
	// Open opens a message's bytes with the keyring. Message has the envelope, Missing says how
	// many attachments were left with the server: sealed is then a whole message without any.
	// An error that wraps ErrAgain leaves the message to be fetched later; with any other it is
	// kept as one that does not open. Writer, Proof, Core and Text of Opened are for
	// Open to fill in.
	Open func(ctx context.Context, m *Message, sealed []byte, missing int) (*Opened, error)
	// OpenWords and SealWords are for the keywords of the message with that SHA-256 (section 29.3).
	OpenWords func(message Digest, keywords []byte) (words []string, ok bool)
	SealWords func(message Digest, words []string) ([]byte, error)
	// MaxKept is how many bytes of a message are kept, so that it can be read and saved without
	// a connection; default 1 MiB. Of longer ones the text is.
	MaxKept int64
	// MaxText is up to what length, in bytes, the sealed text of those is fetched; default 16 MiB.
	MaxText int64
	// MaxTold is how many entries a sync takes in, a page with more to follow counting as 64 at least; default 1,048,576. MinFree is
	// how many bytes have to be free on the copy's disk for anything to be added; default 64 MiB. Free says how many
	// are; default what the file system does.
	MaxTold int
	MinFree uint64
	Free    func() (uint64, error)
	// Listed is called after each answer that was kept, and Fetched after each message: how many
	// there were, and how many there are left to fetch. Both may be nil.
	Listed  func(entries int)
	Fetched func(done, left int64)
}

// ErrAgain is what Open wraps when it cannot say now what a message is.
var ErrAgain = errors.New("to be tried again")

// Errors of a sync that goes no further. What it did is kept, and the next one goes on.
var (
	// ErrEndless: the server has told of more than it has announced, or than a mailbox can be thought to have.
	ErrEndless = errors.New("the server tells of more and more messages")
	// ErrDisk: there is too little room for the copy.
	ErrDisk = errors.New("there is too little room on the disk of your mailbox's copy")
)

// A Report is what a sync has done.
type Report struct {
	Box        cmtp.MailboxState // of Run; zero where it was not asked for
	Anew       bool              // all numbers were forgotten: the mailbox has another epoch, or an older state
	Changes    int               // entries that the server told
	Fetched    int
	Unopenable int
	Unreadable int
	Told       int     // intents that the server has heard
	GivenUp    []error // intents that cannot be: each says of which message, and why
}

// Steps of a sync.
const (
	listCount  = 1000
	firstCount = 100 // the first page is there to be looked at soon
	movedTries = 20  // of an answer that another process overtakes
	wordTries  = 4   // of replacing keywords that other clients change meanwhile
	fetchCount = 64  // the first ones can be read soon
	fetchMore  = 256 // then fewer round trips are waited for
	fetchBytes = 8 << 20

	leastPage = 64     // entries that a page counts as: an honest one with more to follow has more
	arriving  = 10_000 // messages that may come between MAILBOX and LIST
)

// Run brings the copy and the mailbox together, and fetches what is new. It may break off
// anywhere: what it did is kept, and the next one goes on. It waits while another process syncs.
func (s *Syncer) Run(ctx context.Context, srv Server) (*Report, error) {
	r := &run{Syncer: s, srv: srv}
	return &r.report, r.locked(ctx, r.all)
}

// Wait waits until something changes in the mailbox, at most d, applies that and fetches what is new; where the copy and the
// mailbox are known to be apart it is Run. It reports nil where nothing has changed.
func (s *Syncer) Wait(ctx context.Context, srv Server, d time.Duration) (*Report, error) {
	at, err := s.Cache.position(ctx)
	if err != nil {
		return nil, err
	}
	left, err := s.Cache.intents(ctx, minID, 1)
	if err != nil {
		return nil, err
	}
	if !at.begun() || at.listing() || len(left) > 0 {
		return s.Run(ctx, srv)
	}
	page, err := srv.Wait(ctx, cmtp.WaitQuery{Epoch: at.key(), Change: at.change, Seconds: waitSeconds(d)})
	if err != nil {
		return nil, fmt.Errorf("waiting for news: %w", err)
	}
	if at.is(page.Epoch) && page.Next == at.change && len(page.Entries) == 0 {
		return nil, nil
	}
	r := &run{Syncer: s, srv: srv}
	return &r.report, r.locked(ctx, func(ctx context.Context) error { return r.news(ctx, at, page) })
}

// locked does do while no other process syncs.
func (r *run) locked(ctx context.Context, do func(context.Context) error) error {
	lock, err := waitLock(ctx, r.Cache.file(syncLock))
	if err != nil {
		return fmt.Errorf("waiting for another sync: %w", err)
	}
	defer lock.Close()
	return do(ctx)
}

// news does with the answer to a WAIT what there is to do.
func (r *run) news(ctx context.Context, at *position, page *cmtp.Page) error {
	if !at.is(page.Epoch) || page.Next < at.change || page.More {
		return r.all(ctx)
	}
	if err := r.roomy(); err != nil {
		return err
	}
	err := r.Cache.applyChanges(ctx, at, page, r.OpenWords)
	if errors.Is(err, errMoved) {
		return r.all(ctx)
	}
	if err != nil {
		return err
	}
	if err := r.listed(page); err != nil {
		return err
	}
	return r.finish(ctx)
}

// waitSeconds is d as the protocol has it.
func waitSeconds(d time.Duration) uint32 { return uint32(min(max(d/time.Second, 1), cmtp.MaxWait)) }

// A run is one sync.
type run struct {
	*Syncer
	srv     Server
	report  Report
	resets  int
	told    int    // entries of all answers
	listing uint64 // entries of the list
}

func (r *run) all(ctx context.Context) error {
	if err := r.look(ctx); err != nil {
		return err
	}
	for range wordTries {
		if err := r.tell(ctx); err != nil {
			return err
		}
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if left, err := r.Cache.intents(ctx, minID, 1); err != nil {
			return err
		} else if len(left) == 0 {
			break
		}
	}
	return r.finish(ctx)
}

// finish fetches what is wanted: then the copy is in step.
func (r *run) finish(ctx context.Context) error {
	if err := r.fetch(ctx); err != nil {
		return err
	}
	return r.Cache.inStep(ctx)
}

// look asks in which epoch the mailbox is: what was changed here goes by numbers.
func (r *run) look(ctx context.Context) error {
	box, err := r.srv.Mailbox()
	if err != nil {
		return fmt.Errorf("asking for the mailbox: %w", err)
	}
	r.report.Box = box
	if err := r.Cache.setBox(ctx, &box); err != nil {
		return err
	}
	at, err := r.Cache.position(ctx)
	if err != nil {
		return err
	}
	if at.begun() && (!at.is(box.Epoch) || box.Change < at.change) {
		return r.anew(ctx, at)
	}
	return nil
}

// anew begins from 0.
func (r *run) anew(ctx context.Context, at *position) error {
	if r.resets++; r.resets > 2 {
		return fmt.Errorf("%w: it has another epoch each time", errAnswer)
	}
	r.report.Anew, r.listing = true, 0
	return r.Cache.reset(ctx, at)
}

// again is anew for a mailbox that has become another one since it was looked at.
func (r *run) again(ctx context.Context, at *position) error {
	if err := r.anew(ctx, at); err != nil {
		return err
	}
	box, err := r.srv.Mailbox()
	if err != nil {
		return fmt.Errorf("asking for the mailbox: %w", err)
	}
	r.report.Box = box
	return r.Cache.setBox(ctx, &box)
}

// catchUp applies changes until there are no more, and lists what was not listed yet. Changes
// that come while the list is made are in the next sync.
func (r *run) catchUp(ctx context.Context) error {
	for moved := 0; ; {
		at, err := r.Cache.position(ctx)
		if err != nil {
			return err
		}
		more := false
		if at.begun() {
			more, err = r.changes(ctx, at)
		} else {
			more, err = r.list(ctx, at)
		}
		if moved++; errors.Is(err, errMoved) && moved < movedTries {
			continue
		}
		if err != nil || !more {
			return err
		}
	}
}

// changes asks for one answer of changes, and for one of the list once there are no more.
func (r *run) changes(ctx context.Context, at *position) (more bool, err error) {
	if err := r.roomy(); err != nil {
		return false, err
	}
	page, err := r.srv.Changes(cmtp.ChangesQuery{Epoch: at.key(), Change: at.change, Count: listCount})
	if err != nil {
		return false, fmt.Errorf("asking for changes: %w", err)
	}
	if !at.is(page.Epoch) || page.Next < at.change {
		return true, r.again(ctx, at)
	}
	if err := r.Cache.applyChanges(ctx, at, page, r.OpenWords); err != nil {
		return false, err
	}
	if err := r.listed(page); err != nil {
		return false, err
	}
	if page.More && page.Next == at.change {
		return false, fmt.Errorf("asking for changes: %w: more, and none", errAnswer)
	}
	if page.More || !at.listing() {
		return page.More, nil
	}
	if at, err = r.Cache.position(ctx); err != nil || !at.listing() {
		return err == nil, err
	}
	return r.list(ctx, at)
}

// list asks for one answer of the list, downwards.
func (r *run) list(ctx context.Context, at *position) (more bool, err error) {
	below, count := at.below, uint32(listCount)
	if !at.begun() {
		below, count = newest, firstCount
	}
	if err := r.roomy(); err != nil {
		return false, err
	}
	page, err := r.srv.List(cmtp.ListQuery{Down: true, Number: below, Count: count})
	if err != nil {
		return false, fmt.Errorf("asking for the list: %w", err)
	}
	if at.begun() && !at.is(page.Epoch) {
		return true, r.again(ctx, at)
	}
	if err := r.Cache.applyList(ctx, at, page, r.OpenWords); err != nil {
		return false, err
	}
	if r.listing += uint64(len(page.Entries)); r.listing > r.report.Box.Messages+arriving {
		return false, fmt.Errorf("%w: it has announced %d, and lists %d", ErrEndless, r.report.Box.Messages, r.listing)
	}
	if err := r.listed(page); err != nil {
		return false, err
	}
	if !at.begun() { // what a person looks at first is there
		return page.More, r.fetchSome(ctx, fetchCount)
	}
	return page.More, nil
}

// listed counts an answer that was kept. Numbers only grow, or fall, but there are more of them than anybody can wait for.
func (r *run) listed(p *cmtp.Page) error {
	r.report.Changes += len(p.Entries)
	if r.Listed != nil && len(p.Entries) > 0 {
		r.Listed(len(p.Entries))
	}
	if r.told += len(p.Entries); !p.More {
		return nil
	}
	r.told += max(leastPage-len(p.Entries), 0)
	if r.told > r.maxTold() {
		return fmt.Errorf("%w: %d in one sync, and still more; what came is kept. If your mailbox is that large, sync again: it goes on from there", ErrEndless, r.report.Changes)
	}
	return nil
}

func (r *run) maxTold() int {
	if r.MaxTold > 0 {
		return r.MaxTold
	}
	return 1 << 20
}

// roomy reports why nothing can be added to the copy.
func (r *run) roomy() error {
	free, least := r.Free, r.MinFree
	if free == nil {
		free = func() (uint64, error) { return durable.FreeSpace(r.Cache.dir) }
	}
	if least == 0 {
		least = 64 << 20
	}
	n, err := free()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if n < least {
		return fmt.Errorf("%w: %d bytes are free, and there must be %d; make room, and sync again", ErrDisk, n, least)
	}
	return nil
}

// fetch fetches all that is wanted, the newest first.
func (r *run) fetch(ctx context.Context) error {
	for count := fetchCount; ; count = fetchMore {
		before := r.report.Fetched + r.report.Unopenable + r.report.Unreadable
		if err := r.fetchSome(ctx, count); err != nil {
			return err
		}
		if r.report.Fetched+r.report.Unopenable+r.report.Unreadable == before {
			return nil
		}
	}
}

// fetchSome fetches some messages at once, at most count, and keeps them together.
func (r *run) fetchSome(ctx context.Context, count int) error {
	wants, err := r.Cache.wants(ctx, count)
	if err != nil || len(wants) == 0 {
		return err
	}
	if err := r.roomy(); err != nil {
		return err
	}
	var ranges []cmtp.FetchQuery
	total := int64(0)
	for i := range wants {
		length := r.length(&wants[i])
		if total += length; i > 0 && total > fetchBytes {
			break
		}
		ranges = append(ranges, cmtp.FetchQuery{Number: wants[i].number, Length: uint64(length)})
	}
	var got []catch
	err = r.srv.FetchAll(slices.Values(ranges), func(f client.Fetched) error {
		m, err := r.take(ctx, &wants[len(got)], f)
		if m != nil {
			got = append(got, *m)
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("fetching messages: %w", err)
	}
	if len(got) > 0 {
		err = errors.Join(err, r.Cache.keep(ctx, got))
	}
	if r.Fetched != nil && err == nil {
		left, err := r.Cache.wanted(ctx)
		if err != nil {
			return err
		}
		r.Fetched(int64(r.report.Fetched), left)
	}
	return err
}

// length is how much of a message is fetched: all, or up to the end of its body, or, where that is too
// long, its header.
func (r *run) length(w *want) int64 {
	if w.size <= r.maxKept() {
		return w.size
	}
	n := textEnd(w)
	if n > r.maxText() {
		return int64(len(w.header))
	}
	return n
}

func (r *run) maxKept() int64 {
	if r.MaxKept > 0 {
		return r.MaxKept
	}
	return 1 << 20
}

func (r *run) maxText() int64 {
	if r.MaxText > 0 {
		return r.MaxText
	}
	return 16 << 20
}

// textEnd is where the body of a message ends; no further than the message, whatever its header says.
func textEnd(w *want) int64 {
	h := &w.entry.Header
	size := uint64(w.size)
	if h.LogLength > size || h.BodyLength > size-h.LogLength {
		return w.size
	}
	return int64(min(size, uint64(len(w.header))+h.LogLength+h.BodyLength))
}

// take makes of what was fetched what is kept. The error is one that ends the sync.
func (r *run) take(ctx context.Context, w *want, f client.Fetched) (*catch, error) {
	m := &catch{id: w.id, sha: w.sha, header: addresses{w.entry.source(), w.entry.destination()}}
	var status *cmtp.StatusError
	switch {
	case errors.As(f.Err, &status) && (status.Status == cmtp.StatusTrouble || status.Status == cmtp.StatusNoMessage):
		return r.unreadable(m, f.Err.Error()), nil // where it was removed, a change will say so
	case f.Err != nil:
		return nil, f.Err
	}
	if f.Size != f.Length {
		return r.unreadable(m, fmt.Sprintf("the server gave %d bytes of it, where %d were asked for", f.Size, f.Length)), nil
	}
	b := make([]byte, f.Size)
	if _, err := io.ReadFull(f.Body, b); err != nil { // so ends what is damaged, too (section 27.3)
		m.broken, m.reason = true, "the session broke off within it, time and again"
		return m, err
	}
	whole := int64(len(b)) == w.size
	if whole && digest(b) != w.sha || !bytes.HasPrefix(b, w.header) {
		return r.unreadable(m, "the server gave other bytes than it has listed"), nil
	}
	missing := 0
	if !whole {
		if int64(len(b)) < textEnd(w) {
			return r.unopenable(m, fmt.Errorf("its text has more than %d bytes: save it, and open the file", r.maxText())), nil
		}
		missing = int(w.entry.Header.Attachments)
		b = withoutAttachments(w, b)
	}
	opened, err := r.Open(ctx, &w.entry, b, missing)
	switch {
	case errors.Is(err, ErrAgain) || ctx.Err() != nil:
		return nil, err
	case err != nil:
		return r.unopenable(m, err), nil
	}
	m.opened, m.state = opened, Partial
	opened.Missing = missing
	if whole && w.size <= r.maxKept() {
		m.state, m.sealed = Kept, b
	}
	r.report.Fetched++
	return m, nil
}

func (r *run) unreadable(m *catch, reason string) *catch {
	r.report.Unreadable++
	m.state, m.reason = Unreadable, reason
	return m
}

func (r *run) unopenable(m *catch, err error) *catch {
	r.report.Unopenable++
	m.state, m.reason = Unopenable, err.Error()
	return m
}

// withoutAttachments makes a whole message of one's header, log and body.
func withoutAttachments(w *want, b []byte) []byte {
	h := w.entry.Header
	h.Attachments = 0
	return append(h.Append(nil), b[len(w.header):]...)
}

// source and destination are the envelope's addresses.
func (m *Message) source() string { return m.Header.SourceAccount + "@" + m.Header.SourceDomain }
func (m *Message) destination() string {
	return m.Header.DestinationAccount + "@" + m.Header.DestinationDomain
}
