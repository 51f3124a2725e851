package status

import (
	"context"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is remembered of troubles.
const (
	maxTroubles = 20
	maxDetail   = 400 // bytes
)

// A Trouble is a line of the log at the level warn or error. Of those with the same text the latest is
// remembered, and how many there were: a flood of one leaves the others where they are.
type Trouble struct {
	Level  slog.Level
	Text   string
	Detail string // keys and values
	Last   time.Time
	Times  int
}

// Troubles remembers the last ones.
type Troubles struct {
	mu  sync.Mutex
	all []Trouble // under mu: the latest last
}

// Recent returns what is remembered, the latest first.
func (t *Troubles) Recent() []Trouble {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.Clone(t.all)
	slices.Reverse(all)
	return all
}

func (t *Troubles) add(n Trouble) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.Times = 1
	for i := range t.all {
		if t.all[i].Level == n.Level && t.all[i].Text == n.Text {
			n.Times += t.all[i].Times
			t.all = slices.Delete(t.all, i, i+1)
			break
		}
	}
	if len(t.all) == maxTroubles {
		t.all = slices.Delete(t.all, 0, 1)
	}
	t.all = append(t.all, n)
}

// Handler returns a handler that passes everything on to next, and remembers the troubles.
func (t *Troubles) Handler(next slog.Handler) slog.Handler { return &handler{next: next, to: t} }

type handler struct {
	next  slog.Handler
	to    *Troubles
	attrs []slog.Attr
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || h.next.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		attrs := slices.Clip(h.attrs)
		r.Attrs(func(a slog.Attr) bool {
			attrs = append(attrs, a)
			return true
		})
		h.to.add(Trouble{Level: r.Level, Text: r.Message, Detail: detail(attrs), Last: r.Time})
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(attrs), h.to, append(slices.Clip(h.attrs), attrs...)}
}

// WithGroup implements slog.Handler. The page shows no groups.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.to, h.attrs}
}

// private are the keys under which the log has somebody's address. The page is for a glance, perhaps of somebody behind
// the operator's back; the log has them.
var private = []string{"account", "client", "from", "last", "sender", "source", "to"}

// local is the part of an address that says who.
var local = regexp.MustCompile(`[^\s"'<>()\[\],;:=@]+@`)

// detail makes one line of what stands in a record.
func detail(attrs []slog.Attr) string {
	var b strings.Builder
	for _, a := range attrs {
		if slices.Contains(private, a.Key) || a.Key == "stack" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a.Key + "=" + a.Value.Resolve().String())
		if b.Len() > 4*maxDetail {
			break
		}
	}
	s := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, local.ReplaceAllString(b.String(), "…@"))
	if len(s) <= maxDetail {
		return s
	}
	end := maxDetail
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
