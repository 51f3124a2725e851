package cache_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
)

// A stored message of a fakeBox.
type stored struct {
	entry cmtp.Entry
	bytes []byte
}

// A fakeBox is a mailbox by docs/protocol.md, Part III, in memory.
type fakeBox struct {
	mu      sync.Mutex
	epoch   cmtp.Epoch
	number  uint64 // the highest
	change  uint64 // the highest
	mail    map[uint64]*stored
	removed map[uint64]uint64 // number to change
	page    int               // the most entries of an answer
	news    chan struct{}     // closed with each change
	damaged map[uint64]bool
}

func newBox() *fakeBox {
	return &fakeBox{epoch: cmtp.Epoch{1}, page: cmtp.MaxEntries, change: 1, mail: map[uint64]*stored{}, removed: map[uint64]uint64{},
		news: make(chan struct{}), damaged: map[uint64]bool{}}
}

// next returns the next change number.
func (b *fakeBox) next() uint64 {
	b.change += 3
	close(b.news)
	b.news = make(chan struct{})
	return b.change
}

// arrive puts a message in, and returns its number.
func (b *fakeBox) arrive(m []byte) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, _, err := cmtp.ParseHeader(m)
	if err != nil {
		panic(err)
	}
	b.number += 2
	b.mail[b.number] = &stored{cmtp.Entry{
		Number: b.number, Change: b.next(), Arrived: 1_800_000_000 + b.number/8, Length: uint64(len(m)), SHA256: sha256.Sum256(m),
		Standing: cmtp.StandingVouched, Header: &h,
	}, m}
	return b.number
}

// A past is what a backup has.
type past struct {
	mail    map[uint64]*stored
	removed map[uint64]uint64
	number  uint64
	change  uint64
}

func (b *fakeBox) backup() *past {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &past{map[uint64]*stored{}, maps.Clone(b.removed), b.number, b.change}
	for n, m := range b.mail {
		c := *m
		p.mail[n] = &c
	}
	return p
}

// restore makes the box what it was, in another epoch.
func (b *fakeBox) restore(p *past) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch[1]++
	b.mail, b.removed = map[uint64]*stored{}, maps.Clone(p.removed)
	for n, m := range p.mail {
		c := *m
		b.mail[n] = &c
	}
	b.number, b.change = p.number+1<<32, p.change+1<<32
}

// A session is with a fakeBox. fault is asked before and after each step; an error ends the session,
// with the step done or not.
type session struct {
	box    *fakeBox
	fault  func() bool
	over   bool
	calls  map[string]int
	gave   func(sha cache.Digest, n uint64) // bytes that the client took
	behind func()                           // what happens before a call
	after  func()                           // and while its answer is on the way
}

var errLost = errors.New("the connection was lost")

func (b *fakeBox) session() *session {
	return &session{box: b, fault: func() bool { return false }, calls: map[string]int{}, gave: func(cache.Digest, uint64) {}, behind: func() {}, after: func() {}}
}

// step does one call, and loses it before, or its answer after.
func (s *session) step(name string, do func()) error {
	s.behind()
	if s.over || s.fault() {
		s.over = true
		return errLost
	}
	s.calls[name]++
	s.box.mu.Lock()
	do()
	s.box.mu.Unlock()
	s.after()
	if s.fault() {
		s.over = true
		return errLost
	}
	return nil
}

func (s *session) Mailbox() (st cmtp.MailboxState, err error) {
	err = s.step("MAILBOX", func() {
		st = cmtp.MailboxState{Epoch: s.box.epoch, Change: s.box.change, Messages: uint64(len(s.box.mail)), Quota: 1 << 34}
		for n, m := range s.box.mail {
			st.Highest, st.Bytes = max(st.Highest, n), st.Bytes+m.entry.Length
		}
	})
	return st, err
}

func (s *session) List(q cmtp.ListQuery) (p *cmtp.Page, err error) {
	err = s.step("LIST", func() {
		p = &cmtp.Page{Epoch: s.box.epoch, Next: s.box.change}
		for _, m := range s.box.mail {
			if q.Down == (m.entry.Number < q.Number) && m.entry.Number != q.Number {
				p.Entries = append(p.Entries, m.entry)
			}
		}
		slices.SortFunc(p.Entries, func(a, b cmtp.Entry) int {
			if q.Down {
				a, b = b, a
			}
			return cmp.Compare(a.Number, b.Number)
		})
		s.box.cut(p, int(q.Count), false)
	})
	return p, err
}

// cut makes a page of all that there is.
func (b *fakeBox) cut(p *cmtp.Page, count int, changes bool) {
	n := min(count, b.page)
	if p.More = len(p.Entries) > n; p.More {
		p.Entries = p.Entries[:n]
		if changes {
			p.Next = p.Entries[n-1].Change
		}
	}
}

func (s *session) Changes(q cmtp.ChangesQuery) (p *cmtp.Page, err error) {
	err = s.step("CHANGES", func() { p = s.box.changes(q) })
	return p, err
}

func (b *fakeBox) changes(q cmtp.ChangesQuery) *cmtp.Page {
	after := q.Change
	if q.Epoch != b.epoch || after > b.change {
		after = 0
	}
	p := &cmtp.Page{Epoch: b.epoch, Next: b.change}
	for _, m := range b.mail {
		if m.entry.Change > after {
			p.Entries = append(p.Entries, m.entry)
		}
	}
	for n, c := range b.removed {
		if c > after {
			p.Entries = append(p.Entries, cmtp.Entry{Number: n, Change: c, Removed: true})
		}
	}
	slices.SortFunc(p.Entries, func(a, b cmtp.Entry) int { return cmp.Compare(a.Change, b.Change) })
	b.cut(p, int(q.Count), true)
	return p
}

func (s *session) FetchAll(queries iter.Seq[cmtp.FetchQuery], each func(client.Fetched) error) error {
	for q := range queries {
		f := client.Fetched{FetchQuery: q}
		var sha cache.Digest
		err := s.step("FETCH", func() {
			m := s.box.mail[q.Number]
			if m == nil {
				f.Err = &cmtp.StatusError{Status: cmtp.StatusNoMessage}
				return
			}
			if s.box.damaged[q.Number] {
				f.Err = &cmtp.StatusError{Status: cmtp.StatusTrouble}
				return
			}
			sha = m.entry.SHA256
			part := m.bytes[min(q.Offset, uint64(len(m.bytes))):]
			part = part[:min(q.Length, uint64(len(part)))]
			f.Size, f.Body = uint64(len(part)), bytes.NewReader(part)
		})
		if err != nil {
			if f.Body != nil && s.fault() {
				f.Body = io.MultiReader(io.LimitReader(f.Body, int64(f.Size/2)), broken{})
				return errors.Join(err, each(f))
			}
			return err
		}
		if err := each(f); err != nil {
			return err
		}
		if f.Err == nil {
			s.gave(sha, f.Size)
		}
	}
	return nil
}

// broken is a connection that ends.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errLost }

func (s *session) Flag(items []cmtp.FlagItem) (results []cmtp.FlagResult, err error) {
	err = s.step("FLAG", func() {
		for _, i := range items {
			results = append(results, s.box.flag(i))
		}
	})
	return results, err
}

func (b *fakeBox) flag(i cmtp.FlagItem) cmtp.FlagResult {
	m := b.mail[i.Number]
	if m == nil {
		return cmtp.FlagResult{Status: cmtp.StatusNoMessage}
	}
	if i.Expect != 0 && i.Expect != m.entry.Change {
		return cmtp.FlagResult{Status: cmtp.StatusChanged, Change: m.entry.Change}
	}
	e := m.entry
	e.Flags = e.Flags&^i.Mask | i.Flags
	if i.SetKeywords {
		e.Keywords = i.Keywords
	}
	if e.Flags != m.entry.Flags || !bytes.Equal(e.Keywords, m.entry.Keywords) {
		e.Change = b.next()
		m.entry = e
	}
	return cmtp.FlagResult{Status: cmtp.StatusDone, Change: e.Change}
}

func (s *session) Delete(numbers []uint64) (removed int, err error) {
	err = s.step("DELETE", func() {
		for _, n := range numbers {
			if s.box.mail[n] != nil {
				delete(s.box.mail, n)
				s.box.removed[n] = s.box.next()
				removed++
			}
		}
	})
	return removed, err
}

func (s *session) Wait(ctx context.Context, q cmtp.WaitQuery) (p *cmtp.Page, err error) {
	over := time.After(time.Duration(q.Seconds) * time.Second)
	for {
		var news chan struct{}
		err := s.step("WAIT", func() { p, news = s.box.changes(q.Changes()), s.box.news })
		if err != nil || len(p.Entries) > 0 || p.Epoch != q.Epoch {
			return p, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return p, nil
		case <-over:
			return p, nil
		}
	}
}

// text is a message of the crypto system 0, with a log, and attachments of so many bytes.
func text(from, to, body string, attachments ...int) []byte {
	h := cmtp.Header{Attachments: uint32(len(attachments)), LogLength: 4, BodyLength: uint64(len(body))}
	h.SourceAccount, h.SourceDomain, _ = strings.Cut(from, "@")
	h.DestinationAccount, h.DestinationDomain, _ = strings.Cut(to, "@")
	b := append(h.Append(nil), "log\x00"+body...)
	for _, n := range attachments {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
		b = append(b, bytes.Repeat([]byte{'a'}, n)...)
	}
	return b
}

var errSealed = errors.New("sealed to another key")

// openText opens what text has made: the subject is its first line. One that begins with ! does not
// open.
func openText(_ context.Context, m *cache.Message, sealed []byte, missing int) (*cache.Opened, error) {
	l, err := cmtp.ParseLayout(bytes.NewReader(sealed), int64(len(sealed)))
	if err != nil {
		return nil, err
	}
	body := string(sealed[l.Body.Offset:][:l.Body.Length])
	if strings.HasPrefix(body, "!") {
		return nil, errSealed
	}
	o := &cache.Opened{Written: time.Unix(1_700_000_000, 0).UTC(), Text: body, Writer: m.Header.SourceAccount, Proof: "vouched"}
	o.Subject, _, _ = strings.Cut(body, "\n")
	for i, a := range l.Attachments {
		o.Attachments = append(o.Attachments, cache.Attachment{Name: fmt.Sprintf("file%d.pdf", i), Type: "application/pdf", Size: a.Length})
	}
	return o, nil
}

// sealWords and openWords are for keywords, which they bind to their message.
func sealWords(message cache.Digest, words []string) ([]byte, error) {
	b := append(message[:4:4], strings.Join(words, ",")...)
	if len(b) > 88 {
		return nil, errors.New("too many")
	}
	return b, nil
}

func openWords(message cache.Digest, b []byte) ([]string, bool) {
	if len(b) == 0 {
		return nil, true
	}
	words, ok := bytes.CutPrefix(b, message[:4])
	if !ok {
		return nil, false
	}
	return strings.Split(string(words), ","), true
}

// keywords are words sealed by another client.
func (b *fakeBox) keywords(number uint64, words ...string) []byte {
	sealed, err := sealWords(b.mail[number].entry.SHA256, words)
	if err != nil {
		panic(err)
	}
	return sealed
}

func syncer(c *cache.Cache) *cache.Syncer {
	return &cache.Syncer{Cache: c, Open: openText, OpenWords: openWords, SealWords: sealWords}
}
