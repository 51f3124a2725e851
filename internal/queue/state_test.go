package queue_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// FuzzState: what is accepted is written again as it was.
func FuzzState(f *testing.F) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzState/*")
	if err != nil || len(seeds) < 5 {
		f.Fatalf("the committed corpus is missing: %d seeds, %v", len(seeds), err)
	}
	f.Fuzz(func(t *testing.T, flags uint32, keywords []byte) {
		m := spool.Mark{Flags: spool.Flags(flags), Keywords: keywords}
		s, err := queue.ParseState(m)
		if again := s.Mark(); err == nil && (again.Flags != m.Flags || !bytes.Equal(again.Keywords, m.Keywords)) {
			t.Errorf("%x is written as %x", keywords, again.Keywords)
		}
		if s.Flags != m.Flags {
			t.Errorf("the flags %x are read as %x", m.Flags, s.Flags)
		}
	})
}

// TestState_Attempts holds what attempts make of a state, and its bytes, to docs/spool.md.
func TestState_Attempts(t *testing.T) {
	var s queue.State
	if m := s.Mark(); m.Flags != 0 || m.Keywords != nil {
		t.Errorf("of nothing there is a mark: %+v", m)
	}
	at := time.Unix(0x65000000, 1)
	s.Begin(at, at.Add(time.Minute))
	s.Answer(queue.Result{Outcome: queue.Distrusted, Status: 0x0102, Text: "no\r\n\x00\xff" + strings.Repeat("é", 100)})
	s.Flags |= queue.FlagNoticed
	m := s.Mark()
	want := "\x01\x00\x01\x01\x02" + "\x00\x00\x00\x00\x65\x00\x00\x01" + "\x00\x00\x00\x00\x65\x00\x00\x01" + "\x00\x00\x00\x00\x65\x00\x00\x3d" + "no   " + " "
	if m.Flags != 1<<9|1<<12 || len(m.Keywords) > 128 || len(m.Keywords) < 127 || !strings.HasPrefix(string(m.Keywords), want[:29]+"no") {
		t.Errorf("got %x, want %x", m, want)
	}
	back, err := queue.ParseState(m)
	if err != nil || back != s {
		t.Errorf("got %+v, %v, want %+v", back, err, s)
	}
	for range 1 << 16 {
		s.Begin(at, at)
	}
	if s.Attempts != 65535 {
		t.Errorf("%d attempts", s.Attempts)
	}
	if _, err := queue.ParseState(s.Mark()); err != nil {
		t.Error(err)
	}
	s.Begin(at.Add(-time.Hour), at) // the clock was set back
	if _, err := queue.ParseState(s.Mark()); err != nil {
		t.Error(err)
	}
}

// TestState_Refused: what no queue has written is refused, and the flags stay.
func TestState_Refused(t *testing.T) {
	good := queue.State{Attempts: 1, First: time.Unix(1, 0), Last: time.Unix(2, 0), Next: time.Unix(3, 0), Reason: "no"}
	b := good.Mark().Keywords
	if _, err := queue.ParseState(good.Mark()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"version":          func(b []byte) []byte { b[0] = 2; return b },
		"short":            func(b []byte) []byte { return b[:28] },
		"long":             func(b []byte) []byte { return append(b, strings.Repeat("x", 98)...) },
		"no attempts":      func(b []byte) []byte { b[2] = 0; return b },
		"no first":         func(b []byte) []byte { b[12] = 0; return b },
		"last before":      func(b []byte) []byte { b[12] = 3; return b },
		"beyond year 9999": func(b []byte) []byte { b[22] = 1; return b },
		"control":          func(b []byte) []byte { return append(b, 7) },
		"space":            func(b []byte) []byte { return append(b, ' ') },
		"not UTF-8":        func(b []byte) []byte { return append(b, 0xff) },
	} {
		s, err := queue.ParseState(spool.Mark{Flags: queue.FlagHeld, Keywords: spoil(bytes.Clone(b))})
		if err == nil || s != (queue.State{Flags: queue.FlagHeld}) {
			t.Errorf("%s: got %+v, %v", name, s, err)
		}
	}
	if most := append(bytes.Clone(b), strings.Repeat("x", 97)...); len(most) != 128 {
		t.Error("the longest has", len(most))
	} else if _, err := queue.ParseState(spool.Mark{Keywords: most}); err != nil {
		t.Error(err)
	}
}
