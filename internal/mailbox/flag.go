package mailbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// maxTries is how often a message's flags are read again because somebody else has set some
// meanwhile.
const maxTries = 100

// Flag does what FLAG asks for, each item after those before it. The error is one of the spool's, after
// which it is not known what was done.
func (b *Box) Flag(ctx context.Context, items []cmtp.FlagItem) ([]cmtp.FlagResult, error) {
	results := make([]cmtp.FlagResult, len(items))
	seen := make(map[uint64]bool, len(items))
	from := 0
	for i := range items {
		if seen[items[i].Number] { // what was asked of it before comes first
			if err := b.flagEach(ctx, items[from:i], results[from:i]); err != nil {
				return nil, err
			}
			from = i
			clear(seen)
		}
		seen[items[i].Number] = true
	}
	return results, b.flagEach(ctx, items[from:], results[from:])
}

// flagEach is Flag for items of different messages, which share their commits.
func (b *Box) flagEach(ctx context.Context, items []cmtp.FlagItem, results []cmtp.FlagResult) error {
	left := make([]int, len(items)) // places
	for i := range items {
		left[i] = i
	}
	for range maxTries {
		var marks []spool.Marking
		var places []int
		for _, i := range left {
			m, err := b.marking(&items[i], &results[i])
			if err != nil {
				return err
			}
			if m != nil {
				marks, places = append(marks, *m), append(places, i)
			}
		}
		if len(marks) == 0 {
			return nil
		}
		may, why := b.mayMark(len(marks))
		for _, i := range places[may:] { // later
			results[i] = cmtp.FlagResult{Status: why}
		}
		answers, err := b.all.spool.MarkAll(ctx, marks[:may])
		b.all.marks.GiveBack(b.id, unchanged(answers))
		left = left[:0]
		for k, a := range answers {
			again, known := marked(&items[places[k]], &results[places[k]], &a)
			if !known {
				return fmt.Errorf("flagging message %d: %w", items[places[k]].Number, b.failed(err))
			}
			if again {
				left = append(left, places[k])
			}
		}
	}
	for _, i := range left {
		results[i] = cmtp.FlagResult{Status: cmtp.StatusTrouble}
	}
	return nil
}

// perMark is more than a mark takes on disk, with its part of commit and index.
const perMark = 512

// mayMark returns how many of n marks may be made now, and why no more. They are counted.
func (b *Box) mayMark(n int) (may int, why cmtp.Status) {
	if may = b.all.marks.Take(b.id, n); may == 0 {
		return 0, cmtp.StatusTrouble
	}
	err := b.all.cfg.Room(uint64(may) * perMark)
	if err == nil {
		return may, cmtp.StatusTrouble
	}
	b.all.marks.GiveBack(b.id, may)
	if errors.Is(err, ErrNoRoom) {
		return 0, cmtp.StatusNoRoom
	}
	return 0, cmtp.StatusTrouble
}

// unchanged counts what was not written.
func unchanged(answers []spool.Marked) (n int) {
	for i := range answers {
		if !answers[i].Changed {
			n++
		}
	}
	return n
}

// marking returns the mark that an item asks for, made from what there is now; or nil, and the
// result is known, as of what is so already.
func (b *Box) marking(i *cmtp.FlagItem, r *cmtp.FlagResult) (*spool.Marking, error) {
	info, err := b.all.spool.GetStart(spool.ID(i.Number), 0)
	switch {
	case errors.Is(err, spool.ErrNotFound):
		*r = cmtp.FlagResult{Status: cmtp.StatusNoMessage}
		return nil, nil
	case errors.Is(err, spool.ErrDamaged):
		*r = cmtp.FlagResult{Status: cmtp.StatusTrouble}
		if info.Mailbox != b.id && !b.lists(spool.ID(i.Number)) {
			r.Status = cmtp.StatusNoMessage
		}
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("flagging message %d: %w", i.Number, err)
	case info.Mailbox != b.id:
		*r = cmtp.FlagResult{Status: cmtp.StatusNoMessage}
		return nil, nil
	case i.Expect != 0 && i.Expect != info.Change:
		*r = cmtp.FlagResult{Status: cmtp.StatusChanged, Change: info.Change}
		return nil, nil
	}
	m := &spool.Marking{ID: info.ID, Mark: info.Mark, Expect: info.Change}
	m.Mark.Flags = m.Mark.Flags&^spool.Flags(i.Mask) | spool.Flags(i.Flags)
	if i.SetKeywords {
		m.Mark.Keywords = i.Keywords
	}
	if m.Mark.Flags == info.Mark.Flags && bytes.Equal(m.Mark.Keywords, info.Mark.Keywords) {
		*r = cmtp.FlagResult{Status: cmtp.StatusDone, Change: info.Change}
		return nil, nil
	}
	return m, nil
}

// marked notes what became of a mark. It reports whether it is to be tried again, since somebody else was
// quicker, and false for known where the spool has failed.
func marked(i *cmtp.FlagItem, r *cmtp.FlagResult, a *spool.Marked) (again, known bool) {
	switch {
	case a.Err == nil:
		*r = cmtp.FlagResult{Status: cmtp.StatusDone, Change: a.Change}
	case errors.Is(a.Err, spool.ErrChanged):
		if i.Expect == 0 {
			return true, true
		}
		*r = cmtp.FlagResult{Status: cmtp.StatusChanged, Change: a.Change}
	case errors.Is(a.Err, spool.ErrNotFound):
		*r = cmtp.FlagResult{Status: cmtp.StatusNoMessage}
	case errors.Is(a.Err, spool.ErrDamaged):
		*r = cmtp.FlagResult{Status: cmtp.StatusTrouble}
	default:
		return false, false
	}
	return false, true
}

// Delete removes messages for good, and returns how many were there, and which. (Of these another session of the
// same user may have been quicker to remove some.)
func (b *Box) Delete(ctx context.Context, numbers []uint64) (n int, mine []spool.ID, err error) {
	for _, n := range numbers {
		id := spool.ID(n)
		info, err := b.all.spool.GetStart(id, 0)
		switch {
		case errors.Is(err, spool.ErrNotFound):
			continue
		case err != nil && !errors.Is(err, spool.ErrDamaged):
			return 0, nil, fmt.Errorf("deleting message %d: %w", n, err)
		}
		if slices.Contains(mine, id) {
			continue
		}
		if info.Mailbox == b.id || err != nil && info.Mailbox == (spool.MailboxID{}) && b.lists(id) {
			mine = append(mine, id)
		}
	}
	if n, err = b.all.spool.RemoveAll(ctx, mine, "the user "+b.short()); err != nil {
		return n, mine, fmt.Errorf("deleting messages: %w", b.failed(err))
	}
	return n, mine, nil
}

// short returns as much of the owner as stands in a record beside two words.
func (b *Box) short() string {
	const most = 255 - len("the user ")
	s := b.owner
	for len(s) > most || !utf8.ValidString(s) {
		s = s[:min(len(s)-1, most)]
	}
	return s
}
