package mailbox

import (
	"errors"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// maxPage is how many bytes of entries an answer has, unless one alone is longer: it is in memory
// until the client has read it.
const maxPage = 256 << 10

// A page gathers entries until there are enough.
type page struct {
	cmtp.Page
	count int
	size  int
}

// add adds an entry, or reports false: that one and others follow.
func (p *page) add(e cmtp.Entry) bool {
	size := len(e.Append(nil))
	if len(p.Entries) == p.count || len(p.Entries) > 0 && p.size+size > maxPage {
		p.More = true
		return false
	}
	p.size += size
	p.Entries = append(p.Entries, e)
	return true
}

func (b *Box) newPage(count uint32) *page {
	return &page{Page: cmtp.Page{Epoch: b.Epoch(), Next: b.all.spool.Head().LastChange()}, count: int(count)}
}

// List returns what LIST answers. Its change number is from before the first message was looked at.
func (b *Box) List(q cmtp.ListQuery) (*cmtp.Page, error) {
	p := b.newPage(q.Count)
	for info, err := range b.all.spool.ListStarts(b.id, spool.ID(q.Number), q.Down, cmtp.MaxHeader) {
		e, err := entry(&info, err)
		if err != nil {
			return nil, err
		}
		if !p.add(e) {
			break
		}
	}
	return &p.Page, nil
}

// Changes returns what CHANGES answers. What comes after the number that it begins with waits for
// the next time.
func (b *Box) Changes(q cmtp.ChangesQuery) (*cmtp.Page, error) {
	p := b.newPage(q.Count)
	after := q.Change
	if q.Epoch != p.Epoch || after > p.Next {
		after = 0
	}
	for c, err := range b.all.spool.Changes(b.id, after) {
		if err != nil && !errors.Is(err, spool.ErrDamaged) {
			return nil, err
		}
		if c.Number > p.Next {
			break
		}
		e, ok, err := b.changed(&c)
		if err != nil {
			return nil, err
		}
		if ok && !p.add(e) {
			p.Next = p.Entries[len(p.Entries)-1].Change
			break
		}
	}
	return &p.Page, nil
}

// changed returns the entry of a change, unless a newer one has followed it meanwhile.
func (b *Box) changed(c *spool.Change) (cmtp.Entry, bool, error) {
	if c.Removed {
		return cmtp.Entry{Number: uint64(c.ID), Change: c.Number, Removed: true}, true, nil
	}
	info, err := b.all.spool.GetStart(c.ID, cmtp.MaxHeader)
	if errors.Is(err, spool.ErrNotFound) {
		return cmtp.Entry{}, false, nil
	}
	e, err := entry(&info, err)
	return e, err == nil && e.Change == c.Number, err
}
