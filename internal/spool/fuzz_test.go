package spool_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// seeds fails where the committed corpus has gone: a fuzz target without one tests nothing.
func seeds(f *testing.F) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no corpus: %v", err)
	}
}

// FuzzRecord: what is accepted as a header or record encodes to the same bytes again.
func FuzzRecord(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, generation uint64) {
		for _, b := range [][]byte{b, spool.Refit(bytes.Clone(b), generation)} {
			in, out, err := spool.Reencode(b, generation)
			if err == nil && !bytes.Equal(in, out) {
				t.Errorf("%x became %x", in, out)
			}
		}
	})
}

// FuzzLog: whatever a log of two segments holds, it is read without a panic; what is served is
// whole; and a spool that opens at all takes messages and opens again.
func FuzzLog(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, first, second []byte, refit bool) {
		if len(first)+len(second) > 64<<10 {
			return
		}
		if refit {
			first, second = spool.Refit(bytes.Clone(first), 0), spool.Refit(bytes.Clone(second), 0)
		}
		fsys := durabletest.New()
		for _, dir := range []string{"/spool/log", "/spool/large", "/spool/tmp"} {
			if err := durable.MkdirAll(fsys, dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		replace(t, fsys, "/spool/log/0000000000000001.seg", first)
		if len(second) > 0 {
			replace(t, fsys, "/spool/log/0000000000000002.seg", second)
		}
		o := options(t)
		o.FS = fsys
		ro, err := spool.OpenReadOnly("/spool", fsys)
		if err != nil {
			t.Fatal(err)
		}
		shown := served(t, ro)
		report, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := uint64(shown); report.Err() == nil && report.Messages != n {
			t.Errorf("%d messages are proven and %d removed, %d served", report.Messages, report.Removed, n)
		}
		s, err := spool.Open("/spool", o)
		if err != nil {
			return
		}
		st := mustStore(t, s, box(9), text(1, 10))
		n := served(t, s)
		s.Close()
		s = open(t, "/spool", o)
		if got := served(t, s); got != n {
			t.Errorf("%d messages after %d", got, n)
		}
		if _, err := read(s, st.ID); err != nil {
			t.Error(err)
		}
		s.Close()
	})
}

// served counts the messages that a spool serves, and reads each.
func served(t *testing.T, s *spool.Spool) (n int) {
	for info, err := range s.All(0) {
		if err == nil {
			checkMark(t, s, info)
		}
		if err == nil {
			_, err = read(s, info.ID)
		}
		if err == nil {
			n++
		} else if !errors.Is(err, spool.ErrDamaged) {
			t.Error(err)
		}
	}
	return n
}

// checkMark holds a message's mark to the list of changes.
func checkMark(t *testing.T, s *spool.Spool, info spool.Info) {
	t.Helper()
	if len(info.Mark.Keywords) > 128 || info.Change == 0 {
		t.Errorf("%+v", info)
	}
	for c, err := range s.Changes(info.Mailbox, info.Change-1) {
		if err != nil || c.Removed || c.ID != info.ID || c.Mark.Flags != info.Mark.Flags {
			t.Errorf("message %+v has changed as %+v, %v", info, c, err)
		}
		return
	}
	t.Errorf("message %+v has no change", info)
}
