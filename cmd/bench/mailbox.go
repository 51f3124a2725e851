package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
)

const (
	firstPage = 50   // entries, which fill a screen
	changed   = 1000 // messages since a device was there last
	searches  = 3    // of each query in a round
)

// bigMailbox measures what a device waits for whose mailbox is large.
func bigMailbox(l *lab) (_ *table, err error) {
	o, err := l.owner()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	t := &table{
		title: "A large mailbox",
		note: fmt.Sprintf("%d letters of about 2 KiB, sealed to their reader, in one user's mailbox. Round trips are counted on the connection once the user is proven: how often something is\n"+
			"received behind what was sent. TCP adds its own to a first long answer; FETCHes are sent while answers come, so not all of theirs are waited for. A new device is internal/cache's\n"+
			"Syncer with an empty directory. It has caught up when what has changed is kept; behind that, new letters are fetched, opened and indexed. Each of %d queries is asked %d times a\n"+
			"round, for the newest 50 that match. The copy of all of them was made once, at %.0f letters a second: fetched, opened, kept and indexed.",
			l.mail, len(o.queries()), searches, o.rate),
		header: []string{"", "round trips", "ms", ""},
	}
	return t, errors.Join(o.trips(t), o.searching(t))
}

// A stretch is what a device has waited for something.
type stretch struct {
	trips int64
	took  time.Duration
}

// trips measures what takes round trips.
func (o *owner) trips(t *table) error {
	cells := []struct {
		name string
		most float64 // round trips; 0 for no target
		do   func() (stretch, error)
	}{
		{fmt.Sprintf("the newest %d entries, with headers", firstPage), 1, o.page},
		{"a new device, until the newest 100 entries are kept", 0, func() (stretch, error) { return o.fresh(false) }},
		{"a new device, until the newest 64 letters can be read", 0, func() (stretch, error) { return o.fresh(true) }},
		{fmt.Sprintf("caught up on %d flags of another device", changed), 2, o.flagged},
		{fmt.Sprintf("caught up on %d new letters", changed), 2, o.arrived},
	}
	trips := make([]series, len(cells))
	took, err := o.each(len(cells), func(cell int) (float64, error) {
		s, err := cells[cell].do()
		trips[cell] = append(trips[cell], float64(s.trips))
		return s.took.Seconds() * 1e3, err
	})
	if err != nil {
		return err
	}
	for i, c := range cells {
		most, word := slices.Max(trips[i]), ""
		if c.most > 0 {
			word = atMost(most, c.most, "")
		}
		t.add(c.name, fmt.Sprint(most), number(took[i].median()), word)
	}
	t.add("the same, until they are opened and indexed", "", number(o.opened.median()), "")
	return nil
}

// page asks for a first page.
func (o *owner) page() (s stretch, err error) {
	c, err := o.signIn(o.key)
	if err != nil {
		return s, err
	}
	defer c.Close()
	start := time.Now()
	p, err := c.List(cmtp.ListQuery{Down: true, Number: cmtp.MaxNumber, Count: firstPage})
	if err == nil && (len(p.Entries) != firstPage || p.Entries[0].Header == nil) {
		err = fmt.Errorf("a first page has %d entries", len(p.Entries))
	}
	return stretch{c.line.since(), time.Since(start)}, err
}

// fresh begins a copy on a new device, and leaves when something is there to be looked at, or to
// be read.
func (o *owner) fresh(read bool) (s stretch, err error) {
	dir := filepath.Join(o.dir, "device"+strconv.FormatUint(o.serial(), 10))
	defer func() { err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(dir+".lock")) }()
	c, err := o.openCopy(dir)
	if err != nil {
		return s, err
	}
	defer c.Close()
	d, err := o.signIn(o.key)
	if err != nil {
		return s, err
	}
	defer d.Close()
	ctx, leave := context.WithCancel(o.ctx)
	defer leave()
	start := time.Now()
	there := func() {
		if s.trips == 0 {
			s = stretch{d.line.since(), time.Since(start)}
		}
		leave()
	}
	sync := o.syncer(c)
	if read {
		sync.Fetched = func(int64, int64) { there() }
	} else {
		sync.Listed = func(int) { there() }
	}
	if _, err := sync.Run(ctx, d); !errors.Is(err, context.Canceled) {
		return s, fmt.Errorf("a sync that was to be left: %w", err)
	}
	return s, o.ctx.Err()
}

// catchUp brings the copy up to date, on a new connection. Behind that all is opened.
func (o *owner) catchUp() (s stretch, opened time.Duration, err error) {
	d, err := o.signIn(o.key)
	if err != nil {
		return s, 0, err
	}
	defer d.Close()
	sync, listed := o.syncer(o.copy), 0
	start := time.Now()
	sync.Listed = func(n int) {
		if listed += n; listed == changed {
			s = stretch{d.line.since(), time.Since(start)}
		}
	}
	r, err := sync.Run(o.ctx, d)
	if err == nil && (listed != changed || r.Unopenable+r.Unreadable > 0) {
		err = fmt.Errorf("%d changes of %d, %d letters not opened", listed, changed, r.Unopenable+r.Unreadable)
	}
	return s, time.Since(start), err
}

// flagged has another device set flags, and this one hear of it.
func (o *owner) flagged() (s stretch, err error) {
	p, err := o.other.List(cmtp.ListQuery{Down: true, Number: cmtp.MaxNumber, Count: changed})
	if err != nil {
		return s, err
	}
	items := make([]cmtp.FlagItem, len(p.Entries))
	for i, e := range p.Entries {
		items[i] = cmtp.FlagItem{Number: e.Number, Mask: cmtp.FlagSeen, Flags: ^e.Flags & cmtp.FlagSeen}
	}
	if _, err = o.other.Flag(items); err == nil {
		s, _, err = o.catchUp()
	}
	return s, err
}

// arrived has new letters come.
func (o *owner) arrived() (s stretch, err error) {
	if err := o.post(changed); err != nil {
		return s, err
	}
	s, opened, err := o.catchUp()
	o.opened = append(o.opened, opened.Seconds()*1e3)
	return s, err
}

// searching measures searches in the copy.
func (o *owner) searching(t *table) error {
	queries := o.queries()
	each := make([]series, len(queries))
	for range o.rounds * searches {
		for i, q := range queries {
			start := time.Now()
			if _, err := o.copy.Search(o.ctx, q.text, cache.Filter{}); err != nil {
				return fmt.Errorf("searching for %q: %w", q.text, err)
			}
			each[i] = append(each[i], time.Since(start).Seconds()*1e3)
		}
	}
	slowest := 0
	for i := range each {
		if each[i].median() > each[slowest].median() {
			slowest = i
		}
	}
	all := series(slices.Concat(each...))
	t.add("a search, p50", "", number(all.median()), "")
	t.add("the slowest of them, p50: "+queries[slowest].kind, "", number(each[slowest].median()), atMost(each[slowest].median(), 100, " ms"))
	t.add("the slowest of all", "", number(slices.Max(all)), atMost(slices.Max(all), 100, " ms"))
	return nil
}
