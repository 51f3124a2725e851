package cache_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
)

// An endless server tells of ever more messages, each in an answer that can be right.
type endless struct {
	*session
	messages uint64 // that it announces
	page     int    // entries of an answer
	given    int    // entries of all
	answers  int
}

func (e *endless) Mailbox() (cmtp.MailboxState, error) {
	return cmtp.MailboxState{Epoch: cmtp.Epoch{1}, Change: 5, Messages: e.messages, Highest: cmtp.MaxNumber - 1, Quota: 1 << 34}, nil
}

func (e *endless) entry(number, change uint64) cmtp.Entry {
	e.given++
	h := cmtp.Header{System: 1, LogLength: 1, BodyLength: 1, DestinationAccount: "anna", DestinationDomain: "a.example", SourceAccount: "ben", SourceDomain: "b.example"}
	return cmtp.Entry{Number: number, Change: change, Arrived: 1_800_000_000, Length: 100, Header: &h,
		SHA256: sha256.Sum256(binary.BigEndian.AppendUint64(nil, number))}
}

func (e *endless) List(q cmtp.ListQuery) (*cmtp.Page, error) {
	e.answers++
	p := &cmtp.Page{Epoch: cmtp.Epoch{1}, Next: 5, More: true}
	for i := range min(uint64(q.Count), uint64(e.page)) {
		p.Entries = append(p.Entries, e.entry(q.Number-1-i, 5))
	}
	return p, nil
}

// Changes are none, until the list was given up.
func (e *endless) Changes(q cmtp.ChangesQuery) (*cmtp.Page, error) {
	return &cmtp.Page{Epoch: cmtp.Epoch{1}, Next: max(q.Change, 5)}, nil
}

// changing is an endless server of one message that changes all the time.
type changing struct{ *endless }

func (c changing) List(cmtp.ListQuery) (*cmtp.Page, error) {
	return &cmtp.Page{Epoch: cmtp.Epoch{1}, Next: 5}, nil
}

func (c changing) Changes(q cmtp.ChangesQuery) (*cmtp.Page, error) {
	c.answers++
	p := &cmtp.Page{Epoch: cmtp.Epoch{1}, Next: q.Change + uint64(c.page), More: true}
	for i := range uint64(c.page) {
		p.Entries = append(p.Entries, c.entry(7, q.Change+1+i))
	}
	return p, nil
}

// A server that lists more than it has announced is stopped, as is one that announces what nobody can have. What came is
// there, and the next sync goes on.
func TestSyncer_Run_Endless(t *testing.T) {
	for name, tt := range map[string]struct {
		messages uint64
		page     int
		told     int
		given    int // entries that it comes to
	}{
		"Announced":   {100, 1000, 1 << 20, 100 + 11*1000}, // the first page is short
		"Absurd":      {1 << 50, 1000, 3100, 100 + 4*1000}, // at 3,100 it might have been the last
		"SmallPages":  {1 << 50, 1, 64 * 50, 51},           // which count as 64
		"OneMoreThan": {1 << 50, 1000, 3099, 100 + 3*1000},
	} {
		c := newCache(t)
		e := &endless{session: newBox().session(), messages: tt.messages, page: tt.page}
		s := syncer(c)
		s.MaxTold = tt.told
		if _, err := s.Run(t.Context(), e); !errors.Is(err, cache.ErrEndless) || e.given != tt.given {
			t.Errorf("%s: %v after %d entries, want %d", name, err, e.given, tt.given)
		}
		counts, err := c.Counts(t.Context())
		if err != nil || counts.Messages != int64(tt.given) {
			t.Errorf("%s: %+v, %v; want %d messages", name, counts, err, tt.given)
		}
		given := e.given
		if _, err := s.Run(t.Context(), e); !errors.Is(err, cache.ErrEndless) || e.given <= given {
			t.Errorf("%s: once more: %v after %d entries", name, err, e.given-given)
		}
	}
}

// Changes are bounded as the list is, though it be one message that they are of.
func TestSyncer_Run_EndlessChanges(t *testing.T) {
	for told, answers := range map[int]int{3 * 500: 4, 3*500 - 1: 3} {
		c := newCache(t)
		e := changing{&endless{session: newBox().session(), messages: 1, page: 500}}
		s := syncer(c)
		if _, err := s.Run(t.Context(), e); err != nil { // is the list
			t.Fatal(err)
		}
		s.MaxTold = told
		if _, err := s.Run(t.Context(), e); !errors.Is(err, cache.ErrEndless) || e.answers != answers {
			t.Errorf("%d entries: %v after %d answers, want %d", told, err, e.answers, answers)
		}
	}
}

// With too little room on its disk nothing is added to the copy; what was changed here is told all the same.
func TestSyncer_Run_DiskFull(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	first := b.arrive(text("ben@b.example", "anna@a.example", "one\nx"))
	run(t, c, b)
	s := syncer(c)
	free, trouble := uint64(0), error(nil)
	s.MinFree, s.Free = 1000, func() (uint64, error) { return free, trouble }
	if err := c.Change(ctx, []int64{list(t, c, cache.Filter{})[0].ID}, cache.Note{Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen}); err != nil {
		t.Fatal(err)
	}
	b.arrive(text("ben@b.example", "anna@a.example", "two\nx"))
	for _, free = range []uint64{0, 999} {
		if _, err := s.Run(ctx, b.session()); !errors.Is(err, cache.ErrDisk) || len(list(t, c, cache.Filter{})) != 1 {
			t.Errorf("with %d bytes: %v", free, err)
		}
	}
	if b.mail[first].entry.Flags != cmtp.FlagSeen {
		t.Error("what was changed here was not told")
	}
	at := b.session()
	at.after = func() {
		if at.calls["CHANGES"] == 1 {
			free = 999 // has come in, and is not fetched
		}
	}
	free = 1000
	if _, err := s.Run(ctx, at); !errors.Is(err, cache.ErrDisk) || at.calls["FETCH"] != 0 || len(list(t, c, cache.Filter{})) != 2 {
		t.Errorf("full behind CHANGES: %v, %v", err, at.calls)
	}
	free = 1000
	if r, err := s.Run(ctx, b.session()); err != nil || r.Fetched != 1 {
		t.Errorf("with room: %+v, %v", r, err)
	}
	trouble = errors.New("no such disk")
	if _, err := s.Run(ctx, b.session()); !errors.Is(err, trouble) {
		t.Errorf("where nobody knows: %v", err)
	}
	trouble = errors.ErrUnsupported
	if _, err := s.Run(ctx, b.session()); err != nil {
		t.Errorf("where nothing says how much there is: %v", err)
	}
}
