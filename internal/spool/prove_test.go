package spool_test

import (
	"bytes"
	"slices"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// TestVerify_Sum changes messages whose check sums are made right again, so that only their
// SHA-256 shows it, at the beginning, in the middle and at the end of a segment that is longer
// than all buffers.
func TestVerify_Sum(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS = fsys
	s := open(t, "/spool", o)
	const messages = 60
	var ids []spool.ID
	for i := range messages {
		ids = append(ids, mustStore(t, s, box(1), text(100+i, 100<<10)).ID)
	}
	s.Close()
	path := newest(t, fsys)
	whole := contents(t, fsys, path)
	for _, changed := range []int{0, messages / 2, messages - 2, messages - 1} {
		b := bytes.Clone(whole)
		b[bytes.Index(b, text(100+changed, 50))+30] ^= 1
		replace(t, fsys, path, spool.Refit(b, 0))
		r, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil)
		if err != nil {
			t.Fatal(err)
		}
		switch last := changed == messages-1; {
		case last && (len(r.Damage) > 0 || r.Torn == 0 || r.Messages != messages-1):
			t.Errorf("the last message was changed: %+v", r)
		case !last && (len(r.Damage) != 1 || !slices.Equal(r.Damage[0].Messages, ids[changed:changed+1])):
			t.Errorf("message %s was changed: %v", ids[changed], r.Damage)
		}
	}
}
