package account_test

import (
	"bytes"
	"errors"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/xzibit"
)

// A user replaces xzibit and copy, then the key as well, and a second device that knows
// nothing of it replaces nothing.
func TestStore_Upload(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	first := mustRegister(t, s, alice, 2)
	f := uploadForm(t, first, 2, 0)
	second, err := s.Upload(first.ID, f)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(second.Xzibit, f.Xzibit) || !bytes.Equal(second.Copy, f.Copy) || second.Key != first.Key || second.ID != first.ID {
		t.Errorf("after an upload: %+v", second)
	}
	f = uploadForm(t, second, 2, 3)
	f.Copy = nil
	third, err := s.Upload(first.ID, f)
	if err != nil {
		t.Fatal(err)
	}
	if h := verified(t, third); third.Key != seeded(t, 3).Public() || len(h.Keys) != 2 || h.Keys[0].KeyStatement != *first.Statement() || h.Current().Reset {
		t.Errorf("after another key: %+v", third)
	}
	if _, ok := third.RecoveryKey(); ok || third.Copy != nil {
		t.Error("a copy is left that was to be replaced by none")
	}
	if !bytes.Equal(unlock(t, third.Evaluate), unlock(t, first.Evaluate)) {
		t.Error("an upload changed the evaluation")
	}
	if verified(t, first); len(first.Statements) != 1 {
		t.Error("an account was changed that others may be reading")
	}
	if _, err := s.Upload(first.ID, f); !errors.Is(err, account.ErrConflict) {
		t.Errorf("the same again: %v", err)
	}
	before := dump(t, s)
	if s = open(t, dir, durable.OS); dump(t, s) != before {
		t.Error("another account after a restart")
	}
	if err := s.SetDisabled(first.Address, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Upload(first.ID, uploadForm(t, third, 3, 0)); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("for a disabled account: %v", err)
	}
	if err := s.Remove(first.Address); err != nil {
		t.Fatal(err)
	}
	again := mustRegister(t, s, alice, 3)
	if _, err := s.Upload(first.ID, uploadForm(t, again, 3, 0)); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("for an account of that name that is gone: %v", err)
	}
}

func TestStore_Upload_Refused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	a := mustRegister(t, s, alice, 2)
	before := dump(t, s)
	restate := func(f *cmtp.UploadForm, change func(*crypt.KeyStatement)) {
		st := *f.Statement
		change(&st)
		f.Statement, f.OldSignature, f.Possession = &st, seeded(t, 2).Sign(st.Append(nil)), st.Possess(seeded(t, 3))
	}
	for name, tt := range map[string]struct {
		change func(f *cmtp.UploadForm)
		want   error
	}{
		"another digest":      {func(f *cmtp.UploadForm) { f.Replaces[31] ^= 1 }, account.ErrConflict},
		"no signature before": {func(f *cmtp.UploadForm) { f.OldSignature = crypt.Signature{} }, account.ErrStatement},
		"signed by itself":    {func(f *cmtp.UploadForm) { f.OldSignature = seeded(t, 3).Sign(f.Statement.Append(nil)) }, account.ErrStatement},
		"without possession":  {func(f *cmtp.UploadForm) { f.Possession[0] ^= 1 }, account.ErrProof},
		"a reset": {func(f *cmtp.UploadForm) {
			restate(f, func(s *crypt.KeyStatement) { s.Reset = true })
			f.OldSignature = crypt.Signature{}
		}, account.ErrStatement},
		"a first one": {func(f *cmtp.UploadForm) { restate(f, func(s *crypt.KeyStatement) { s.Previous = [32]byte{} }) }, account.ErrStatement},
		"another's": {func(f *cmtp.UploadForm) {
			restate(f, func(s *crypt.KeyStatement) { s.Name = mustAddress("bob@example.org") })
		}, account.ErrStatement},
		"into the past":   {func(f *cmtp.UploadForm) { restate(f, func(s *crypt.KeyStatement) { s.NotBefore-- }) }, account.ErrStatement},
		"into the future": {func(f *cmtp.UploadForm) { restate(f, func(s *crypt.KeyStatement) { s.NotBefore += 3601 }) }, account.ErrStatement},
		"cut xzibit":      {func(f *cmtp.UploadForm) { f.Xzibit = f.Xzibit[:70] }, account.ErrXzibit},
		"cut copy":        {func(f *cmtp.UploadForm) { f.Copy = f.Copy[:70] }, xzibit.ErrCopy},
		"back to version 2": {func(f *cmtp.UploadForm) {
			f.Xzibit = sealed(t, a.Address, seeded(t, 3), "password")
		}, account.ErrXzibit},
	} {
		f := uploadForm(t, a, 2, 3)
		tt.change(f)
		if got, err := s.Upload(a.ID, f); got != nil || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if dump(t, s) != before || dump(t, open(t, dir, durable.OS)) != before {
		t.Error("a refusal has changed something")
	}
	if _, err := s.Upload(a.ID, uploadForm(t, a, 2, 3)); err != nil {
		t.Errorf("the form that all of them were made of: %v", err)
	}
}

// While a reset is open, the account's keys do not change by whoever has the old one: a
// thief of a device could otherwise keep ahead of the owner.
func TestStore_Upload_Reset(t *testing.T) {
	s := open(t, "/accounts", durabletest.New())
	a := mustRegister(t, s, alice, 2)
	mustInvite(t, s, alice, true)
	if _, err := s.Upload(a.ID, uploadForm(t, a, 2, 3)); !errors.Is(err, account.ErrStatement) {
		t.Errorf("another key: %v", err)
	}
	if err := s.Revoke(a.Address); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Upload(a.ID, uploadForm(t, a, 2, 3)); err != nil {
		t.Errorf("after the invitation: %v", err)
	}
}

// An account has as many keys as a history may have, also after a restart, and not one
// more. Its user can use up all but what is kept for resets, and none twice.
func TestStore_Upload_History(t *testing.T) {
	fsys := durabletest.New()
	s := open(t, "/accounts", fsys)
	a := mustRegister(t, s, alice, 2)
	const last = 1 + crypt.MaxKeyStatements - account.KeptForResets
	for n := byte(3); n <= last; n++ {
		var err error
		if a, err = s.Upload(a.ID, uploadForm(t, a, n-1, n)); err != nil {
			t.Fatalf("key %d: %v", n-1, err)
		}
		if _, err := s.Upload(a.ID, uploadForm(t, a, n, 2)); n < last && !errors.Is(err, account.ErrStatement) {
			t.Fatalf("the first key again, after %d: %v", n-1, err)
		}
	}
	if _, err := s.Upload(a.ID, uploadForm(t, a, last, last+1)); !errors.Is(err, account.ErrHistoryFull) {
		t.Errorf("one more: %v", err)
	}
	reset := func(n byte) (err error) {
		b, err := s.Register(a.Address, mustInvite(t, s, alice, true), registerForm(t, alice, n, a.Statement()))
		if err == nil {
			a = b
		}
		return err
	}
	if err := reset(2); !errors.Is(err, account.ErrStatement) {
		t.Errorf("a reset to the first key: %v", err)
	}
	n := byte(last)
	for range account.KeptForResets {
		if n++; reset(n) != nil {
			t.Fatalf("a reset to key %d failed", n)
		}
	}
	if h := verified(t, a); len(h.Keys) != crypt.MaxKeyStatements {
		t.Errorf("there are %d keys", len(h.Keys))
	}
	if err := reset(n + 1); !errors.Is(err, account.ErrHistoryFull) {
		t.Errorf("one more by a reset: %v", err)
	}
	if first, second := a.History(), a.History(); &first[0] != &second[0] {
		t.Error("a history is encoded each time that it is asked for")
	}
	again, err := open(t, "/accounts", fsys).Get(a.Address)
	if err != nil {
		t.Fatal(err)
	}
	if verified(t, again); !bytes.Equal(again.History(), a.History()) {
		t.Error("another history after a restart")
	}
	if _, err := s.Upload(a.ID, uploadForm(t, a, n, 0)); err != nil {
		t.Errorf("another xzibit for the last key: %v", err)
	}
}

// An account of before CMTP 1 may go on with its version, and goes over to version 3 once
// it has a seed, which it gets once.
func TestStore_EnsureSeed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	a := mustAdd(t, s, alice, 2)
	f := uploadForm(t, a, 2, 0)
	if _, err := s.Upload(a.ID, f); !errors.Is(err, account.ErrXzibit) {
		t.Errorf("version 3 without a seed: %v", err)
	}
	f.Xzibit = sealed(t, a.Address, seeded(t, 2), "other")
	if _, err := s.Upload(a.ID, f); err != nil {
		t.Errorf("version 2 again: %v", err)
	}
	seeded1, err := s.EnsureSeed(a.ID)
	if err != nil {
		t.Fatal(err)
	}
	output := unlock(t, seeded1.Evaluate)
	if a, err = s.EnsureSeed(a.ID); err != nil || !bytes.Equal(unlock(t, a.Evaluate), output) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := s.Upload(a.ID, uploadForm(t, a, 2, 3)); err != nil {
		t.Errorf("version 3: %v", err)
	}
	evaluate := func(blinded [32]byte) ([32]byte, error) { return open(t, dir, durable.OS).Evaluate(a.Address, blinded) }
	if !bytes.Equal(unlock(t, evaluate), output) {
		t.Error("another seed after a restart")
	}
}
