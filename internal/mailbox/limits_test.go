package mailbox_test

import (
	"errors"
	"testing"

	"cmtpd/internal/mailbox"
)

// TestMailboxes_SetLimits: other limits count at once, and nothing that is there goes.
func TestMailboxes_SetLimits(t *testing.T) {
	w := newWorld(t)
	reserve := func(n int64) error {
		release, err := w.Reserve(alice, n)
		if err == nil {
			release()
		}
		return err
	}
	waits := func(n int) (got int) {
		for range n {
			if wait, err := w.alice.Wait(func() {}); err == nil {
				got++
				defer wait.End()
			} else if !errors.Is(err, mailbox.ErrWaits) {
				t.Fatal(err)
			}
		}
		return got
	}
	w.put(alice, message(1000), "bob")
	if err := reserve(1<<20 - 1000); err != nil || waits(9) != 3 {
		t.Fatalf("before: %v, %d waits", err, waits(9))
	}
	w.SetLimits(mailbox.Limits{Size: 1500, MaxWaits: 2, MaxWaitsAccount: 8, MarkRate: 60, MarkBurst: 1})
	if err := reserve(500); err != nil {
		t.Errorf("what fits: %v", err)
	}
	if err := reserve(501); !errors.Is(err, mailbox.ErrFull) {
		t.Errorf("a byte more: %v", err)
	}
	if n := waits(9); n != 2 {
		t.Errorf("%d wait, and two may in all", n)
	}
	w.SetLimits(mailbox.Limits{Size: 500, MaxWaits: 9, MaxWaitsAccount: 1, MarkRate: 60, MarkBurst: 1})
	if err := reserve(1); !errors.Is(err, mailbox.ErrFull) {
		t.Errorf("in a mailbox that has too much: %v", err)
	}
	if n := waits(9); n != 1 {
		t.Errorf("%d wait, and one of an account may", n)
	}
	if st, err := w.alice.State(); err != nil || st.Messages != 1 || st.Quota != 500 {
		t.Errorf("the state is %+v, %v", st, err)
	}
}
