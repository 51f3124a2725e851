package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
)

// run syncs without trouble.
func run(t *testing.T, c *cache.Cache, b *fakeBox) *cache.Report {
	t.Helper()
	r, err := syncer(c).Run(t.Context(), b.session())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func list(t testing.TB, c *cache.Cache, f cache.Filter) []cache.Message {
	t.Helper()
	all, err := c.List(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func subjects(all []cache.Message) (s []string) {
	for _, m := range all {
		switch {
		case m.Opened != nil:
			s = append(s, m.Opened.Subject)
		default:
			s = append(s, fmt.Sprintf("state %d", m.State))
		}
	}
	return s
}

func TestSyncer_Run(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	for i := range 5 {
		b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprintf("letter %d\nwith text", i)))
	}
	b.arrive(text("ben@b.example", "anna@a.example", "!unopenable"))
	r := run(t, c, b)
	if r.Fetched != 5 || r.Unopenable != 1 || r.Anew {
		t.Errorf("the first sync: %+v", r)
	}
	got := subjects(list(t, c, cache.Filter{}))
	if want := []string{"state 3", "letter 4", "letter 3", "letter 2", "letter 1", "letter 0"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	all := list(t, c, cache.Filter{})
	m, err := c.Message(ctx, all[1].ID)
	if err != nil || m.Opened.Text != "letter 4\nwith text" || m.Header.SourceAccount != "ben" || m.Standing != cmtp.StandingVouched || m.State != cache.Kept {
		t.Errorf("message: %+v, %v", m, err)
	}
	for name, one := range map[string]func() (*cache.Message, error){
		"ByNumber": func() (*cache.Message, error) { return c.ByNumber(ctx, m.Number) },
		"ByDigest": func() (*cache.Message, error) { return c.ByDigest(ctx, m.SHA256) },
	} {
		if o, err := one(); err != nil || o.ID != m.ID {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
	if _, err := c.ByNumber(ctx, 1); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("a message that is not there: %v", err)
	}
	if all[0].Reason != errSealed.Error() {
		t.Errorf("why it does not open: %q", all[0].Reason)
	}

	b.arrive(text("ben@b.example", "anna@a.example", "news"))
	s := b.session()
	r, err = syncer(c).Run(ctx, s)
	if err != nil || r.Fetched != 1 || r.Changes != 1 || s.calls["LIST"] != 0 || s.calls["FETCH"] != 1 || s.calls["CHANGES"] != 1 {
		t.Errorf("the second sync: %+v with %v, %v", r, s.calls, err)
	}
	if err := c.RefetchAll(ctx); err != nil {
		t.Fatal(err)
	}
	if r := run(t, c, b); r.Unopenable != 1 {
		t.Errorf("after RefetchAll: %+v", r)
	}
	if n, err := c.Counts(ctx); err != nil || n.Messages != 7 || n.Unseen != 7 || n.Wanted != 0 || n.Unlisted || n.Box == nil || cache.Scarce(n.Box) {
		t.Errorf("counts: %+v, %v", n, err)
	}
}

// A first page is there, and fetched, before the rest of a large mailbox is listed.
func TestSyncer_Run_FirstPage(t *testing.T) {
	c, b := newCache(t), newBox()
	for i := range 450 {
		b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprint("letter ", i)))
	}
	b.page = 150
	s := b.session()
	lists := 0
	s.behind = func() {
		if s.calls["LIST"] == 1 && s.calls["FETCH"] == 64 && lists == 0 {
			lists = 1
			if got := subjects(list(t, c, cache.Filter{Limit: 2})); !slices.Equal(got, []string{"letter 449", "letter 448"}) {
				t.Errorf("after the first page: %q", got)
			}
			if n, _ := c.Counts(t.Context()); n.Messages != 100 || !n.Unlisted {
				t.Errorf("after the first page: %+v", n)
			}
		}
	}
	sync, kept := syncer(c), []int64{}
	sync.Fetched = func(n, _ int64) { kept = append(kept, n) }
	r, err := sync.Run(t.Context(), s)
	if err != nil || r.Fetched != 450 || lists != 1 || s.calls["LIST"] != 4 {
		t.Errorf("%+v, %v, %v", r, s.calls, err)
	}
	if !slices.Equal(kept, []int64{64, 128, 384, 450}) { // a round trip for each
		t.Errorf("kept together: up to %d", kept)
	}
	if got := list(t, c, cache.Filter{Limit: 1000}); len(got) != 450 || got[449].Opened.Subject != "letter 0" {
		t.Errorf("%d messages", len(got))
	}
	before := list(t, c, cache.Filter{Limit: 1000, Before: list(t, c, cache.Filter{Limit: 400})[399].ID})
	if len(before) != 50 {
		t.Errorf("%d messages before the 400th", len(before))
	}
}

// Of a large message the text is fetched, and all of it when it is asked for.
func TestSyncer_Run_Large(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	whole := text("ben@b.example", "anna@a.example", "large\n"+strings.Repeat("x", 4000), 3<<20, 10)
	b.arrive(whole)
	b.arrive(text("ben@b.example", "anna@a.example", "too much"+strings.Repeat("x", 5000)))
	b.arrive(text("ben@b.example", "anna@a.example", "at the limit"+strings.Repeat("x", 2931)))
	b.arrive(text("ben@b.example", "anna@a.example", "one past it"+strings.Repeat("x", 2933)))
	s := b.session()
	sizes := []uint64{}
	s.gave = func(_ cache.Digest, n uint64) { sizes = append(sizes, n) }
	y := syncer(c)
	y.MaxKept, y.MaxText = 3000, 4100
	r, err := y.Run(ctx, s)
	if err != nil || r.Fetched != 3 || r.Unopenable != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	all := list(t, c, cache.Filter{})
	states := []cache.State{all[0].State, all[1].State, all[2].State, all[3].State}
	if want := []cache.State{cache.Partial, cache.Kept, cache.Unopenable, cache.Partial}; !slices.Equal(states, want) || all[1].Size != 3000 || all[0].Size != 3001 {
		t.Errorf("states %v of %d and %d bytes, want %v", states, all[1].Size, all[0].Size, want)
	}
	large := all[3]
	if large.Opened.Missing != 2 || sizes[3] > 4200 {
		t.Errorf("%+v, %d bytes fetched", large.Opened, sizes)
	}
	if _, err := c.Sealed(ctx, large.ID); !errors.Is(err, cache.ErrNotKept) {
		t.Errorf("its bytes: %v", err)
	}
	var buf bytes.Buffer
	if err := c.WriteMessage(ctx, nil, large.ID, &buf); !errors.Is(err, cache.ErrNotKept) {
		t.Errorf("without a server: %v", err)
	}
	srv := b.session()
	if err := c.WriteMessage(ctx, srv, large.ID, &buf); err != nil || !bytes.Equal(buf.Bytes(), whole) || srv.calls["FETCH"] != 1 {
		t.Errorf("%d bytes, %v", buf.Len(), err)
	}
	b.mail[2].bytes[len(whole)-1] ^= 1
	if err := c.WriteMessage(ctx, b.session(), large.ID, &bytes.Buffer{}); err == nil {
		t.Error("other bytes are taken")
	}
	b.epoch[3]++
	if err := c.WriteMessage(ctx, b.session(), large.ID, &bytes.Buffer{}); err == nil {
		t.Error("a number of another epoch is taken")
	}
}

// What the server cannot give, or gives wrongly, is left alone until it is asked for.
func TestSyncer_Run_Unreadable(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	b.damaged[b.arrive(text("ben@b.example", "anna@a.example", "damaged"))] = true
	n := b.arrive(text("ben@b.example", "anna@a.example", "altered"))
	b.mail[n].bytes[60] ^= 1
	h := b.arrive(text("ben@b.example", "anna@a.example", "no header"))
	header := b.mail[h].entry.Header
	b.mail[h].entry.Header = nil
	if r := run(t, c, b); r.Unreadable != 2 || r.Fetched != 0 {
		t.Errorf("%+v", r)
	}
	s := b.session()
	if r, err := syncer(c).Run(ctx, s); err != nil || s.calls["FETCH"] != 0 {
		t.Errorf("fetched again: %+v, %v", r, err)
	}
	b.mail[h].entry.Header, b.mail[h].entry.Change = header, b.next()
	clear(b.damaged)
	if r := run(t, c, b); r.Fetched != 1 {
		t.Errorf("once it has a header: %+v", r)
	}
	for _, m := range list(t, c, cache.Filter{}) {
		if m.State == cache.Unreadable {
			if err := c.Refetch(ctx, m.ID); err != nil {
				t.Error(err)
			}
		}
	}
	if r := run(t, c, b); r.Fetched != 1 || r.Unreadable != 1 {
		t.Errorf("after Refetch: %+v", r)
	}
	if err := c.Refetch(ctx, 12345); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("Refetch of nothing: %v", err)
	}
}

// A message that is shorter than its entry says keeps no other one away.
func TestSyncer_Run_Short(t *testing.T) {
	c, b := newCache(t), newBox()
	for _, more := range []uint64{1, 4 << 20} { // of the second one the text alone is wanted
		b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprint("good ", more)))
		e := &b.mail[b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprint("short ", more)))].entry
		e.Length += more
		e.Header.BodyLength++
	}
	if r := run(t, c, b); r.Fetched != 2 || r.Unreadable != 2 {
		t.Errorf("%+v", r)
	}
	if m := list(t, c, cache.Filter{})[0]; m.State != cache.Unreadable || !strings.Contains(m.Reason, "were asked for") {
		t.Errorf("%+v", m)
	}
	s := b.session()
	if _, err := syncer(c).Run(t.Context(), s); err != nil || s.calls["FETCH"] != 0 {
		t.Errorf("asked for again: %d, %v", s.calls["FETCH"], err)
	}
}

// A liar says of a message what it likes, and announces as many bytes as were asked for.
type liar struct {
	*session
	asked uint64 // the most bytes
}

func (l *liar) FetchAll(queries iter.Seq[cmtp.FetchQuery], each func(client.Fetched) error) error {
	for q := range queries {
		l.asked = max(l.asked, q.Length)
		if err := each(client.Fetched{FetchQuery: q, Size: q.Length, Body: strings.NewReader("")}); err != nil {
			return err
		}
	}
	return nil
}

// No length that a server claims, of a message or in its header, makes a client ask for more than it keeps.
func TestSyncer_Run_Lengths(t *testing.T) {
	const most = 1<<63 - 1
	for _, l := range []struct{ size, log, body uint64 }{
		{most, 1 << 62, 1 << 62}, {most, most, most}, {most, 4, most - 4}, {most, most, 0}, {most, 0, most}, {most, 1<<64 - 1, 1<<64 - 1},
		{2 << 20, 1<<64 - 1, 1}, {2 << 20, 1 << 20, 1 << 20}, {2 << 20, 1, 1<<64 - 1}, {0, most, most}, {1, 1 << 62, 1 << 62},
	} {
		c, b := newCache(t), newBox()
		e := &b.mail[b.arrive(text("ben@b.example", "anna@a.example", "x"))].entry
		e.Length, e.Header.LogLength, e.Header.BodyLength = l.size, l.log, l.body
		s := &liar{session: b.session()}
		if _, err := syncer(c).Run(t.Context(), s); s.asked > min(16<<20, l.size) {
			t.Errorf("%+v: %d bytes were asked for, %v", l, s.asked, err)
		}
	}
}

// A message within which every session breaks off does not keep others away for ever.
func TestSyncer_Run_Breaking(t *testing.T) {
	c, b := newCache(t), newBox()
	b.arrive(text("ben@b.example", "anna@a.example", "behind it"))
	bad := b.arrive(text("ben@b.example", "anna@a.example", "bad"))
	tries := 0
	for {
		s := b.session()
		s.fault = func() bool { return s.calls["FETCH"] > 0 && !fetched(c, bad) }
		_, err := syncer(c).Run(t.Context(), s)
		if err == nil {
			break
		}
		if tries++; tries > 10 {
			t.Fatal(err)
		}
	}
	if got := subjects(list(t, c, cache.Filter{})); tries != 5 || !slices.Equal(got, []string{"state 4", "behind it"}) {
		t.Errorf("after %d tries: %q", tries, got)
	}
}

// fetched reports whether a message is not wanted any more.
func fetched(c *cache.Cache, number uint64) bool {
	m, err := c.ByNumber(context.Background(), number)
	return err == nil && m.State != cache.Wanted
}

// What was changed without a connection is shown at once, and told with the next sync.
func TestCache_Change(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	one := b.arrive(text("ben@b.example", "anna@a.example", "one"))
	two := b.arrive(text("ben@b.example", "anna@a.example", "two"))
	run(t, c, b)
	all := list(t, c, cache.Filter{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Change(ctx, []int64{all[1].ID}, cache.Note{Mask: cmtp.FlagSeen | cmtp.FlagFlagged, Flags: cmtp.FlagSeen, Add: []string{"work", "tax"}}))
	must(c.Change(ctx, []int64{all[1].ID}, cache.Note{Remove: []string{"tax"}, Add: []string{"home"}}))
	must(c.Delete(ctx, []int64{all[0].ID}))
	check := func(when string) {
		t.Helper()
		all := list(t, c, cache.Filter{})
		if len(all) != 1 || all[0].Flags != cmtp.FlagSeen || !slices.Equal(all[0].Words, []string{"work", "home"}) {
			t.Errorf("%s: %+v", when, all)
		}
		if got := list(t, c, cache.Filter{Mask: cmtp.FlagSeen}); len(got) != 0 {
			t.Errorf("%s: %d unseen", when, len(got))
		}
		if got := list(t, c, cache.Filter{Word: "home", Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen}); len(got) != 1 {
			t.Errorf("%s: %d with the word", when, len(got))
		}
	}
	check("before the sync")
	b.flag(cmtp.FlagItem{Number: one, Mask: cmtp.FlagAnswered, Flags: 0, SetKeywords: true, Keywords: b.keywords(one, "tax")}) // another client
	r := run(t, c, b)
	if len(r.GivenUp) > 0 || r.Told != 3 { // the message's flags, its words after the server's were known, the deletion
		t.Errorf("%+v", r)
	}
	check("after the sync")
	if b.mail[two] != nil || !bytes.Equal(b.mail[one].entry.Keywords, b.keywords(one, "work", "home")) || b.mail[one].entry.Flags != cmtp.FlagSeen {
		t.Errorf("the server has %+v", b.mail)
	}
	if n, _ := c.Counts(ctx); n.Pending != 0 {
		t.Errorf("%d changes are pending", n.Pending)
	}
	for name, err := range map[string]error{
		"Change of nothing": c.Change(ctx, []int64{77}, cache.Note{Mask: 1}), "Delete twice": c.Delete(ctx, []int64{all[0].ID}),
	} {
		if !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []cache.Note{{Mask: 1 << 16}, {Flags: 1}, {Add: []string{""}}, {Remove: []string{"a\x00b"}}} {
		if err := c.Change(ctx, []int64{all[1].ID}, n); err == nil {
			t.Errorf("%+v is taken", n)
		}
	}
}

// Keywords that do not open are replaced only when that is asked for.
func TestCache_Change_Sealed(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	n := b.arrive(text("ben@b.example", "anna@a.example", "one"))
	run(t, c, b)
	id := list(t, c, cache.Filter{})[0].ID
	if err := c.Change(ctx, []int64{id}, cache.Note{Add: []string{"mine"}}); err != nil {
		t.Fatal(err)
	}
	b.flag(cmtp.FlagItem{Number: n, SetKeywords: true, Keywords: []byte("unknown")})
	if r := run(t, c, b); len(r.GivenUp) != 1 || !errors.Is(r.GivenUp[0], cache.ErrWords) {
		t.Errorf("%+v", r)
	}
	m := list(t, c, cache.Filter{})[0]
	if !m.SealedWords || len(m.Words) > 0 || string(b.mail[n].entry.Keywords) != "unknown" {
		t.Errorf("%+v", m)
	}
	if err := c.Change(ctx, []int64{id}, cache.Note{Add: []string{"mine"}}); !errors.Is(err, cache.ErrWords) {
		t.Errorf("changing keywords that do not open: %v", err)
	}
	if err := c.Change(ctx, []int64{id}, cache.Note{Add: []string{"mine"}, Force: true}); err != nil {
		t.Fatal(err)
	}
	if r := run(t, c, b); len(r.GivenUp) > 0 || !bytes.Equal(b.mail[n].entry.Keywords, b.keywords(n, "mine")) {
		t.Errorf("%+v, %q", r, b.mail[n].entry.Keywords)
	}
	long := strings.Repeat("x", 100)
	if err := c.Change(ctx, []int64{id}, cache.Note{Add: []string{long}, Mask: 1, Flags: 1}); err != nil {
		t.Fatal(err)
	}
	r := run(t, c, b)
	if m := list(t, c, cache.Filter{})[0]; len(r.GivenUp) != 1 || m.Flags != 1 || !slices.Equal(m.Words, []string{"mine"}) || b.mail[n].entry.Flags != 1 {
		t.Errorf("%+v, %+v", r, m)
	}
}

// In another epoch, or an older state of the same, all is listed anew and nothing fetched again.
func TestSyncer_Run_Epoch(t *testing.T) {
	for _, name := range []string{"Epoch", "OlderState"} {
		t.Run(name, func(t *testing.T) {
			ctx, c, b := t.Context(), newCache(t), newBox()
			b.page = 2
			for i := range 5 {
				b.arrive(text("ben@b.example", "anna@a.example", fmt.Sprint("letter ", i)))
			}
			old := b.backup()
			last := b.arrive(text("ben@b.example", "anna@a.example", "lost"))
			run(t, c, b)
			all := list(t, c, cache.Filter{})
			if err := c.Change(ctx, []int64{all[2].ID}, cache.Note{Mask: 1, Flags: 1}); err != nil {
				t.Fatal(err)
			}
			if err := c.Change(ctx, []int64{all[0].ID}, cache.Note{Mask: 1, Flags: 1}); err != nil {
				t.Fatal(err)
			}
			b.restore(old)
			if name == "OlderState" {
				b.epoch, b.number, b.change = cmtp.Epoch{1}, old.number, old.change
			}
			s := b.session()
			r, err := syncer(c).Run(ctx, s)
			if err != nil || !r.Anew || s.calls["FETCH"] != 0 {
				t.Errorf("%+v, %v, %v", r, s.calls, err)
			}
			got := list(t, c, cache.Filter{})
			if len(got) != 5 || got[1].Opened.Subject != "letter 3" || got[1].Flags != 1 || b.mail[got[1].Number].entry.Flags != 1 {
				t.Errorf("%q, %+v", subjects(got), got[1])
			}
			if n, _ := c.Counts(ctx); n.Pending != 0 {
				t.Errorf("%+v", n)
			}
			if found, err := c.Search(ctx, "lost", cache.Filter{}); err != nil || len(found) > 0 {
				t.Errorf("message %d is found: %v, %v", last, found, err)
			}
		})
	}
}

// Keywords that a server gives to another message do not open there.
func TestSyncer_Run_MovedKeywords(t *testing.T) {
	c, b := newCache(t), newBox()
	one := b.arrive(text("ben@b.example", "anna@a.example", "one"))
	two := b.arrive(text("ben@b.example", "anna@a.example", "two"))
	b.flag(cmtp.FlagItem{Number: one, SetKeywords: true, Keywords: b.keywords(one, "paid")})
	b.flag(cmtp.FlagItem{Number: two, SetKeywords: true, Keywords: b.keywords(one, "paid")})
	run(t, c, b)
	if all := list(t, c, cache.Filter{}); !all[0].SealedWords || len(all[0].Words) > 0 || !slices.Equal(all[1].Words, []string{"paid"}) {
		t.Errorf("%+v", all)
	}
}

func TestSyncer_Wait(t *testing.T) {
	ctx, c, b := t.Context(), newCache(t), newBox()
	y := syncer(c)
	if r, err := y.Wait(ctx, b.session(), time.Hour); err != nil || r == nil {
		t.Fatalf("a first Wait syncs: %+v, %v", r, err)
	}
	s := b.session()
	waits := make(chan bool, 9)
	s.behind = func() { waits <- true }
	go func() {
		<-waits
		b.arrive(text("ben@b.example", "anna@a.example", "news"))
	}()
	if r, err := y.Wait(ctx, s, time.Hour); err != nil || r == nil || r.Fetched != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := y.Wait(ctx, b.session(), time.Second); err != nil || r != nil {
		t.Errorf("without news: %+v, %v", r, err)
	}
}
