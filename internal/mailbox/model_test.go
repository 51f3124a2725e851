package mailbox_test

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

// noted is what a mailbox ought to say of a message.
type noted struct {
	flags    uint32
	keywords string
	length   uint64
}

// A replica is a client's copy of a mailbox.
type replica struct {
	epoch   cmtp.Epoch
	change  uint64
	entries map[uint64]noted
}

// A model is two mailboxes as they ought to be, and clients that follow them.
type model struct {
	*world
	boxes    [2]map[uint64]noted
	replicas [2][2]*replica
	stored   int
}

func (m *model) box(i int) *mailbox.Box { return m.Of([]spool.MailboxID{alice, bob}[i], "somebody") }

// pick draws a mailbox and a number in or near it.
func (m *model) pick(t *rapid.T) (int, uint64) {
	return rapid.IntRange(0, 1).Draw(t, "mailbox"), uint64(rapid.IntRange(1, m.stored+2).Draw(t, "number"))
}

func (m *model) store(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "mailbox")
	data := message(rapid.SampledFrom([]int{80, 1000, 5000, 210 << 10}).Draw(t, "size") + m.stored%97)
	data[len(data)-1], data[len(data)-2] = byte(m.stored), byte(m.stored>>8)
	n := m.put([]spool.MailboxID{alice, bob}[i], data, "cmtpd")
	m.stored++
	m.boxes[i][n] = noted{length: uint64(len(data))}
}

func (m *model) flag(t *rapid.T) {
	var items []cmtp.FlagItem
	i, _ := m.pick(t)
	for range rapid.IntRange(1, 4).Draw(t, "items") {
		_, n := m.pick(t)
		mask := rapid.Uint32Range(0, 7).Draw(t, "mask")
		item := cmtp.FlagItem{Number: n, Mask: mask, Flags: mask & rapid.Uint32Range(0, 7).Draw(t, "flags")}
		if item.SetKeywords = rapid.Bool().Draw(t, "set"); item.SetKeywords {
			item.Keywords = []byte(rapid.SampledFrom([]string{"", "a", "bb"}).Draw(t, "keywords"))
		}
		items = append(items, item)
	}
	results, err := m.box(i).Flag(ctx, items)
	if err != nil {
		t.Fatal(err)
	}
	for k, item := range items {
		x, ok := m.boxes[i][item.Number]
		if ok != (results[k].Status == cmtp.StatusDone) {
			t.Fatalf("%+v: %+v, there: %v", item, results[k], ok)
		}
		if !ok {
			continue
		}
		x.flags = x.flags&^item.Mask | item.Flags
		if item.SetKeywords {
			x.keywords = string(item.Keywords)
		}
		m.boxes[i][item.Number] = x
	}
}

func (m *model) remove(t *rapid.T) {
	i, n := m.pick(t)
	_, there := m.boxes[i][n]
	k, _, err := m.box(i).Delete(ctx, []uint64{n, n})
	if err != nil || (k == 1) != there {
		t.Fatalf("%d are removed, there: %v, %v", k, there, err)
	}
	delete(m.boxes[i], n)
}

func (m *model) reopen(t *rapid.T) {
	fsys, spoolKey := m.fs, byte(1)
	m.spool.Close()
	if rapid.Bool().Draw(t, "power cut") {
		fsys = fsys.Crash(nil)
	}
	m.world = openWorld(m.tb, fsys, spoolKey)
}

func (m *model) compact(t *rapid.T) {
	if err := m.spool.Compact(ctx); err != nil {
		t.Fatal(err)
	}
}

// begin lets a client take the list anew, in steps, upwards or downwards.
func (m *model) begin(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "mailbox")
	r := &replica{entries: make(map[uint64]noted)}
	q := cmtp.ListQuery{Down: rapid.Bool().Draw(t, "down")}
	if q.Down {
		q.Number = math.MaxUint64
	}
	for more := true; more; {
		q.Count = rapid.Uint32Range(1, 5).Draw(t, "count")
		p := m.list(m.box(i), q)
		if r.change == 0 {
			r.epoch, r.change = p.Epoch, p.Next
		}
		r.take(p)
		if more = p.More; more {
			q.Number = p.Entries[len(p.Entries)-1].Number
			if rapid.Bool().Draw(t, "meanwhile") {
				m.store(t)
				m.remove(t)
			}
		}
	}
	m.replicas[i][rapid.IntRange(0, 1).Draw(t, "client")] = r
}

func (r *replica) take(p *cmtp.Page) {
	for _, e := range p.Entries {
		if e.Removed {
			delete(r.entries, e.Number)
		} else {
			r.entries[e.Number] = noted{e.Flags, string(e.Keywords), e.Length}
		}
	}
}

// check lets all clients catch up, and holds them to the mailbox.
func (m *model) check(t *rapid.T) {
	for i, clients := range m.replicas {
		for c, r := range clients {
			if rapid.IntRange(0, 2).Draw(t, "away") == 0 {
				continue
			}
			for more := true; more; {
				p := m.changes(m.box(i), cmtp.ChangesQuery{Epoch: r.epoch, Change: r.change, Count: rapid.Uint32Range(1, 7).Draw(t, "count")})
				if p.Epoch != r.epoch {
					clear(r.entries)
				}
				r.take(p)
				r.epoch, r.change, more = p.Epoch, p.Next, p.More
			}
			if fmt.Sprint(r.entries) != fmt.Sprint(m.boxes[i]) {
				t.Fatalf("client %d of mailbox %d has\n%v, want\n%v", c, i, r.entries, m.boxes[i])
			}
		}
		s := m.state(m.box(i))
		size, highest := uint64(0), uint64(0)
		for n, x := range m.boxes[i] {
			size, highest = size+x.length, max(highest, n)
		}
		if s.Messages != uint64(len(m.boxes[i])) || s.Bytes != size || s.Highest != highest {
			t.Fatalf("mailbox %d: %+v, want %d messages of %d bytes up to %d", i, s, len(m.boxes[i]), size, highest)
		}
	}
}

// TestMailboxes_Model does at random what can be done to mailboxes, while clients look away and come back.
func TestMailboxes_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{world: openWorld(t, durabletest.New(), 1), boxes: [2]map[uint64]noted{{}, {}}}
		for i := range m.replicas {
			m.replicas[i] = [2]*replica{{entries: map[uint64]noted{}}, {entries: map[uint64]noted{}}}
		}
		defer func() { m.spool.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"": m.check, "store": m.store, "store again": m.store, "flag": m.flag, "flag again": m.flag, "remove": m.remove,
			"reopen": m.reopen, "compact": m.compact, "begin": m.begin,
		})
	})
}
