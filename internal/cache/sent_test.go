package cache_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
)

// sentSyncer takes what begins with "copy" for a copy of what was sent to ben and cleo.
func sentSyncer(c *cache.Cache) *cache.Syncer {
	s := syncer(c)
	s.Open = func(ctx context.Context, m *cache.Message, sealed []byte, missing int) (*cache.Opened, error) {
		o, err := openText(ctx, m, sealed, missing)
		if err == nil && strings.HasPrefix(o.Text, "copy") {
			o.SentTo = []string{"ben@b.example", "cleo@c.example"}
		}
		return o, err
	}
	return s
}

// A copy of what was sent is told from what came, was never new, and is found.
func TestCache_Sent(t *testing.T) {
	dir, key := filepath.Join(t.TempDir(), "anna.mail"), newKey(t)
	c, b := open(t, dir, key), newBox()
	if err := cache.Age(c); err != nil { // a copy of the mailbox from before, with a draft, which stays
		t.Fatal(err)
	}
	c.Close()
	c = open(t, dir, key)
	if err := c.SaveDraft(t.Context(), &cache.Draft{Text: "begun"}); err != nil {
		t.Fatal(err)
	}
	b.arrive(text("ben@b.example", "anna@a.example", "first"))
	number := b.arrive(text("anna@a.example", "anna@a.example", "copy one"))
	b.arrive(text("anna@a.example", "anna@a.example", "last"))
	sync := func() {
		t.Helper()
		if _, err := sentSyncer(c).Run(t.Context(), b.session()); err != nil {
			t.Fatal(err)
		}
	}
	sync()
	check := func() { checkSent(t, c) }
	check()
	// Nor is it new by what is noted of it, here or elsewhere.
	one := list(t, c, cache.Filter{Way: cache.Went})[0]
	if err := c.Change(t.Context(), []int64{one.ID}, cache.Note{Mask: cmtp.FlagSeen, Add: []string{"work"}}); err != nil {
		t.Fatal(err)
	}
	check()
	sync()
	check()
	b.flag(cmtp.FlagItem{Number: number, Mask: cmtp.FlagFlagged, Flags: cmtp.FlagFlagged})
	sync()
	check()
	b.restore(b.backup())
	sync()
	check()
	if d, err := c.Drafts(t.Context()); err != nil || len(d) != 1 {
		t.Errorf("drafts %v, %v", d, err)
	}
}

// checkSent expects two letters that came, and between them one copy of what was sent.
func checkSent(t *testing.T, c *cache.Cache) {
	t.Helper()
	for way, want := range map[cache.Way][]string{
		cache.EitherWay: {"last", "copy one", "first"}, cache.Came: {"last", "first"}, cache.Went: {"copy one"},
	} {
		if got := subjects(list(t, c, cache.Filter{Way: way})); !slices.Equal(got, want) {
			t.Errorf("way %d: %q", way, got)
		}
	}
	if n, err := c.Counts(t.Context()); err != nil || n.Unseen != 2 || n.Messages != 3 {
		t.Errorf("counts %+v, %v", n, err)
	}
	for query, want := range map[string][]string{
		"is:sent": {"copy one"}, "is:received": {"last", "first"}, "-is:sent": {"last", "first"}, "is:unseen": {"last", "first"},
		"to:cleo": {"copy one"}, "to:ben one": {"copy one"}, "is:sent last": nil,
	} {
		if got, err := c.Search(t.Context(), query, cache.Filter{}); err != nil || !slices.Equal(subjects(got), want) {
			t.Errorf("%s: %q, %v", query, subjects(got), err)
		}
	}
	if got, err := c.Search(t.Context(), "anna", cache.Filter{Way: cache.Went}); err != nil || len(got) != 1 {
		t.Errorf("a search of what was sent finds %q, %v", subjects(got), err)
	}
}

// A letter has one copy of its sender's, told from its recipients'.
func TestCache_AddOwn(t *testing.T) {
	ctx, c := t.Context(), newCache(t)
	one := queued(t, c)
	for range 2 {
		if err := c.AddOwn(ctx, one.Letter); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.AddOwn(ctx, one.Letter+1); err != nil { // which is nowhere
		t.Fatal(err)
	}
	out, err := c.Outbox(ctx)
	if err != nil || len(out) != 1 || len(out[0].Copies) != 1 || out[0].Own == nil || out[0].Own.State != cache.Waiting || out[0].Own.ID == one.ID {
		t.Fatalf("outbox: %+v, %v", out, err)
	}
	if err := c.RemoveLetter(ctx, one.Letter); err != nil {
		t.Fatal(err)
	}
	if err := c.SetTried(ctx, out[0].Own.ID, "x"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("it is there after its letter: %v", err)
	}
}
