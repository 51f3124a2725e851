package cache_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
)

// library is a copy with some letters to be found.
func library(t *testing.T) *cache.Cache {
	c, b := newCache(t), newBox()
	b.arrive(text("ben@b.example", "anna@a.example", "Café menu\nCrème brûlée, and the quick brown fox"))
	b.arrive(text("cleo@c.example", "anna+list@a.example", "Invoice 2031\nbrown quick; see \"attached\" (100%)", 10))
	b.arrive(text("ben@b.example", "anna@a.example", "ÜBER Straße\nfrom:cleo is what it says. Ελληνικά 日本語 हिन्दी"))
	b.arrive(text("dora@d.example", "anna@a.example", "!does not open brown"))
	run(t, c, b)
	all := list(t, c, cache.Filter{})
	if err := c.Change(t.Context(), []int64{all[1].ID}, cache.Note{Mask: cmtp.FlagSeen | cmtp.FlagFlagged, Flags: cmtp.FlagSeen | cmtp.FlagFlagged, Add: []string{"Steuer 2031", "Müll"}}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCache_Search(t *testing.T) {
	c := library(t)
	const cafe, invoice, uber = "Café menu", "Invoice 2031", "ÜBER Straße"
	for _, tt := range []struct {
		query string
		want  []string
	}{
		{"brown", []string{invoice, cafe}},
		{"BROWN quick", []string{invoice, cafe}},
		{`"quick brown"`, []string{cafe}},
		{`"brown quick"`, []string{invoice}},
		{"cafe", []string{cafe}}, {"CAFÉ", []string{cafe}}, {"cafe\u0301", []string{cafe}}, {"brulee creme", []string{cafe}},
		{"bru*", []string{cafe}}, {"bru", nil}, {`"quick br"*`, []string{cafe}}, {"uber", []string{uber}}, {"ελληνικα", []string{uber}}, {"日*", []string{uber}}, {"हिन्दी", []string{uber}}, {"हिन", nil},
		{"from:cleo", []string{invoice}}, {"from:ben", []string{uber, cafe}}, {"from:ben@b.example", []string{uber, cafe}}, {"FROM:b.example", []string{uber, cafe}},
		{`"from:cleo"`, []string{uber}}, {"to:list", []string{invoice}}, {"to:anna", []string{uber, invoice, cafe}}, {"to:ben", nil},
		{"subject:brown", nil}, {"subject:menu", []string{cafe}}, {"text:fox", []string{cafe}}, {"name:file0.pdf", []string{invoice}}, {"name:pdf", []string{invoice}},
		{"has:attachment", []string{invoice}}, {"-has:attachment", []string{"state 3", uber, cafe}}, {"brown -has:attachment", []string{cafe}},
		{"brown -fox", []string{invoice}}, {"-fox", []string{"state 3", uber, invoice}}, {`-"quick brown" -uber`, []string{"state 3", invoice}}, {"-from:ben brown", []string{invoice}},
		{"is:seen", []string{uber}}, {"is:unseen from:ben", []string{cafe}}, {"is:flagged", []string{uber}}, {"-is:flagged from:ben", []string{cafe}}, {"is:answered", nil},
		{`tag:"Steuer 2031"`, []string{uber}}, {"tag:Steuer", nil}, {"tag:Müll", []string{uber}}, {"tag:Mull", nil}, {`-tag:"Steuer 2031" from:ben`, []string{cafe}},
		{"2031", []string{invoice}}, {"100%", []string{invoice}}, {`brown AND`, []string{cafe}}, {"fox OR invoice", nil}, {"NEAR(brown fox)", nil},
		{`"unended quote`, nil}, {`brown "`, []string{invoice, cafe}}, {"subject: menu", []string{cafe}}, {"brown --- ***", []string{invoice, cafe}},
		{`"unknown:field"`, nil}, {"10:30", nil}, {"unknown: brown fox", nil}, {"http://c.example", nil}, {"quick'; DROP TABLE entry", nil}, {"{subject}:menu", nil}, {"^café", []string{cafe}},
	} {
		got, err := c.Search(t.Context(), tt.query, cache.Filter{})
		if err != nil || !slices.Equal(subjects(got), tt.want) {
			t.Errorf("%s: found %q, %v; want %q", tt.query, subjects(got), err, tt.want)
		}
	}
	all := list(t, c, cache.Filter{})
	got, err := c.Search(t.Context(), "brown", cache.Filter{Before: all[2].ID})
	if err != nil || !slices.Equal(subjects(got), []string{cafe}) {
		t.Errorf("before the invoice: %q, %v", subjects(got), err)
	}
	got, err = c.Search(t.Context(), "from:ben", cache.Filter{Mask: cmtp.FlagSeen, Limit: 1})
	if err != nil || !slices.Equal(subjects(got), []string{cafe}) {
		t.Errorf("with a filter: %q, %v", subjects(got), err)
	}
}

func TestCache_Search_Refused(t *testing.T) {
	c := newCache(t)
	for _, q := range []string{
		"", "  ", "-", `""`, "***", "from:", "is:new", "has:money", "tag:", "\x00", strings.Repeat("x", 1025), strings.Repeat("x ", 33), "\xff",
	} {
		if _, err := c.Search(t.Context(), q, cache.Filter{}); !errors.Is(err, cache.ErrQuery) {
			t.Errorf("%.20q: %v", q, err)
		}
	}
	for q, want := range map[string]string{
		"foo:bar": "foo: is no field; there are from:, to:, subject:, text:, name:, tag:, has:, is:. To look", "brown form:ben": "Did you mean from:?",
		"-Subjekt:x": "Did you mean subject:?", `sender:"x y"`: "sender: is no field", "tags:work": "Did you mean tag:?", "bcc:x": "bcc: is no field", "subj:x": "Did you mean subject:?",
	} {
		if _, err := c.Search(t.Context(), q, cache.Filter{}); !errors.Is(err, cache.ErrQuery) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", q, err)
		}
	}
	for _, q := range []string{strings.Repeat("x", 1024), strings.Repeat("x ", 32), strings.Repeat("-is:seen ", 32)} {
		if _, err := c.Search(t.Context(), q, cache.Filter{}); err != nil {
			t.Errorf("%.20q: %v", q, err)
		}
	}
}

// No query is an error of SQL's.
func TestCache_Search_Anything(t *testing.T) {
	c := library(t)
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{`"`, `*`, "-", "(", ")", "{", "}", ":", "^", "+", " ", "AND", "OR", "NOT", "NEAR", "from:", "is:seen", "tag:", "has:attachment", "brown", "é", "\u0301", "\x00", "'", "?1", "\ue000"}),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		q := strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), "")
		if _, err := c.Search(t.Context(), q, cache.Filter{}); err != nil && !errors.Is(err, cache.ErrQuery) {
			t.Fatalf("%q: %v", q, err)
		}
	})
}

// No letter has so many words that they do not fit into SQLite's memory; of a long text the beginning is found, to
// the byte.
func TestCache_Search_Long(t *testing.T) {
	c, b := newCache(t), newBox()
	var long strings.Builder
	for i := uint32(0); long.Len() < 15<<20; i++ {
		fmt.Fprintf(&long, "%x ", i*2654435761)
	}
	fill := strings.Repeat("x ", (1<<20-4)/2)
	for _, s := range []string{"first\n" + long.String(), fill + "last", fill + " lost"} {
		b.arrive(text("ben@b.example", "anna@a.example", s))
	}
	if r := run(t, c, b); r.Fetched != 3 {
		t.Fatalf("%+v", r)
	}
	for query, want := range map[string]int{"first": 1, "last": 1, "lost": 0, "los": 1, "ben": 3} {
		if all, err := c.Search(t.Context(), query, cache.Filter{}); err != nil || len(all) != want {
			t.Errorf("%s: %d messages, %v", query, len(all), err)
		}
	}
}

// A mailbox of 100,000 messages, of which a benchmark finds few and many.
func BenchmarkCache_Search(b *testing.B) {
	c, box := newCache(b), newBox()
	for i := range 100_000 {
		box.arrive(text(fmt.Sprintf("user%d@b.example", i%500), "anna@a.example", fmt.Sprintf(
			"hello subject %d\nsome text number %d with words like w%d and x%d the quick brown fox jumps over the lazy dog again and again and so on w%d", i, i, i%1000, i%377, i%91)))
	}
	if _, err := syncer(c).Run(b.Context(), box.session()); err != nil {
		b.Fatal(err)
	}
	for _, q := range []string{"w500 fox", "fox", "w5*", `"brown fox" from:user7`, "fox -again", "hello -w500", "is:unseen", "nowhere", "fo* ju* ov*", "has:attachment"} {
		b.Run(strings.ReplaceAll(q, " ", "_"), func(b *testing.B) {
			for b.Loop() {
				if _, err := c.Search(b.Context(), q, cache.Filter{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("List", func(b *testing.B) {
		for b.Loop() {
			list(b, c, cache.Filter{})
		}
	})
	b.Run("Counts", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Counts(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
