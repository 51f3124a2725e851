package account_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/invite"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

const alice = "alice@example.org"

// locked is an xzibit of version 3 with the keys of these seeds, the newest first.
func locked(tb testing.TB, addr string, output []byte, keys ...byte) []byte {
	tb.Helper()
	if output == nil {
		output = make([]byte, oprf.OutputSize) // the server cannot tell
	}
	x, err := xzibit.SealUnlocked(ring(tb, keys...), addr, []byte("password"), output, cheap)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func ring(tb testing.TB, keys ...byte) *xzibit.Keyring {
	tb.Helper()
	r := &xzibit.Keyring{}
	for _, n := range keys {
		r.Keys = append(r.Keys, xzibit.KeyPair{Key: seeded(tb, n)})
	}
	return r
}

// recoveryCopy is one as far as a server can tell, sealed to the key of seed 200.
func recoveryCopy(tb testing.TB, n byte) []byte {
	tb.Helper()
	key, box := seeded(tb, 200).Public(), bytes.Repeat([]byte{n}, 400)
	c := append([]byte{0, 0, 0, 1}, key[:]...)
	return append(append(c, 0, 0, 0, 0, 0, 0, 1, 144), box...)
}

// registerForm is one for the key of seed n: after nothing, or a reset after a statement.
func registerForm(tb testing.TB, addr string, n byte, before *crypt.KeyStatement) *cmtp.RegisterForm {
	tb.Helper()
	s := statement(tb, addr, n, 0)
	if before != nil {
		*s = before.Follow(s.Key, s.NotBefore)
		s.Reset = true
	}
	return &cmtp.RegisterForm{Statement: *s, Possession: s.Possess(seeded(tb, n)), Xzibit: locked(tb, addr, nil, n), Copy: recoveryCopy(tb, n)}
}

// uploadForm replaces a's xzibit, and its key, which is that of seed old, by that of seed n;
// n = 0 leaves the key.
func uploadForm(tb testing.TB, a *account.Account, old, n byte) *cmtp.UploadForm {
	tb.Helper()
	addr := a.Address.String()
	f := &cmtp.UploadForm{Replaces: a.XzibitDigest(), Xzibit: locked(tb, addr, nil, old), Copy: recoveryCopy(tb, old+100)}
	if n != 0 {
		s := a.Statement().Follow(seeded(tb, n).Public(), crypt.UnixTimeOf(now()))
		f.Statement, f.OldSignature, f.Possession = &s, seeded(tb, old).Sign(s.Append(nil)), s.Possess(seeded(tb, n))
	}
	return f
}

// uploadForm2 is uploadForm with an xzibit of version 2.
func uploadForm2(tb testing.TB, a *account.Account, old, n byte) *cmtp.UploadForm {
	tb.Helper()
	f := uploadForm(tb, a, old, n)
	f.Xzibit = sealed(tb, a.Address, seeded(tb, old), "password")
	return f
}

func mustInvite(tb testing.TB, s *account.Store, addr string, reset bool) (secret string) {
	tb.Helper()
	made, err := s.Invite(mustAddress(addr), reset, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	return secretOf(tb, made)
}

func mustRegister(tb testing.TB, s *account.Store, addr string, n byte) *account.Account {
	tb.Helper()
	a, err := s.Register(mustAddress(addr), mustInvite(tb, s, addr, false), registerForm(tb, addr, n, nil))
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// verified returns an account's history after a client's checks.
func verified(tb testing.TB, a *account.Account) *crypt.History {
	tb.Helper()
	h, err := crypt.ParseHistory(a.History())
	if err != nil {
		tb.Fatal(err)
	}
	if err := h.Verify(a.Address, seeded(tb, 1).Public()); err != nil {
		tb.Fatal(err)
	}
	if h.Current().Key != a.Key || *h.Current() != *a.Statement() {
		tb.Error("the account's key is not that of its history")
	}
	return h
}

// unlock is the client's half of asking the server for its help with a password.
func unlock(tb testing.TB, evaluate func([32]byte) ([32]byte, error)) []byte {
	tb.Helper()
	r, blinded, err := oprf.Blind([]byte("password"))
	if err != nil {
		tb.Fatal(err)
	}
	evaluated, err := evaluate(blinded)
	if err != nil {
		tb.Fatal(err)
	}
	out, err := r.Finalize(evaluated)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// A user who was invited makes an account with what the server evaluated before there was
// one, and opens it with what it evaluates then, also after a restart. A reset gives the
// account another key and another evaluation, in the same mailbox.
func TestStore_Register(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	at := mustAddress(alice)
	secret := mustInvite(t, s, alice, false)
	id, ok := s.InvitationID(at)
	if !ok {
		t.Fatal("there is no invitation")
	}
	enroll := func(secret string) func([32]byte) ([32]byte, error) {
		return func(blinded [32]byte) ([32]byte, error) { return s.Enroll(at, secret, blinded) }
	}
	f := registerForm(t, alice, 2, nil)
	output := unlock(t, enroll(secret))
	f.Xzibit = locked(t, alice, output, 2)
	a, err := s.Register(at, secret, f)
	if err != nil {
		t.Fatal(err)
	}
	if a.ID != id || a.Address != at || !bytes.Equal(a.Xzibit, f.Xzibit) || !bytes.Equal(a.Copy, f.Copy) || !a.Created.Equal(now().Truncate(time.Second)) {
		t.Errorf("the account is %+v", a)
	}
	if key, ok := a.RecoveryKey(); !ok || key != seeded(t, 200).Public() {
		t.Error("the recovery key is another one")
	}
	clear(f.Xzibit) // the form was the caller's
	clear(f.Copy)
	if bytes.Equal(a.Xzibit, f.Xzibit) || bytes.Equal(a.Copy, f.Copy) {
		t.Error("the account shares the caller's bytes")
	}
	if h := verified(t, a); len(h.Keys) != 1 || !h.Current().IsFirst() {
		t.Errorf("the history is %+v", h)
	}
	s = open(t, dir, durable.OS)
	if a, err = s.Get(at); err != nil {
		t.Fatal(err)
	}
	if a.XzibitDigest() != sha256.Sum256(a.Xzibit) || a.XzibitVersion() != 3 || !a.HasSeed() {
		t.Errorf("after a restart: %+v", a)
	}
	if _, err := xzibit.OpenUnlocked(a.Xzibit, alice, []byte("password"), unlock(t, a.Evaluate)); err != nil {
		t.Error(err)
	}
	if _, err := s.Register(at, secret, registerForm(t, alice, 3, nil)); !errors.Is(err, account.ErrInvitation) {
		t.Errorf("the code again: %v", err)
	}

	secret = mustInvite(t, s, alice, true)
	anew := unlock(t, enroll(secret))
	if bytes.Equal(anew, output) {
		t.Error("a reset has the same seed")
	}
	b, err := s.Register(at, secret, registerForm(t, alice, 4, a.Statement()))
	if err != nil {
		t.Fatal(err)
	}
	h := verified(t, b)
	if b.ID != id || len(h.Keys) != 2 || !h.Current().Reset || !bytes.Equal(unlock(t, b.Evaluate), anew) || !b.Created.Equal(a.Created) {
		t.Errorf("after the reset: %+v", b)
	}
	if _, err := s.Enroll(at, secret, [32]byte{}); !errors.Is(err, account.ErrInvitation) {
		t.Errorf("the code of the reset again: %v", err)
	}
	if open, err := s.Invitations(); err != nil || len(open) != 0 {
		t.Errorf("left are %v, %v", open, err)
	}
}

// A form is taken for what it says, and the code can still be used after a refusal.
func TestStore_Register_Refused(t *testing.T) {
	for name, tt := range map[string]struct {
		reset  bool
		change func(f *cmtp.RegisterForm, first *crypt.KeyStatement)
		want   error
	}{
		"of another address": {false, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) {
			*f = *registerForm(t, "bob@example.org", 3, nil)
		}, account.ErrStatement},
		"of another domain": {false, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) {
			*f = *registerForm(t, "alice@example.com", 3, nil)
		}, account.ErrStatement},
		"without possession": {false, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) { f.Possession[0] ^= 1 }, account.ErrProof},
		"xzibit of version 2": {false, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) {
			f.Xzibit = sealed(t, mustAddress(alice), seeded(t, 3), "password")
		}, account.ErrXzibit},
		"cut xzibit":        {false, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) { f.Xzibit = f.Xzibit[:60] }, account.ErrXzibit},
		"cut copy":          {false, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) { f.Copy = f.Copy[:60] }, xzibit.ErrCopy},
		"a reset of nobody": {false, func(f *cmtp.RegisterForm, first *crypt.KeyStatement) { *f = *registerForm(t, alice, 3, first) }, account.ErrStatement},
		"a first one of somebody": {true, func(f *cmtp.RegisterForm, _ *crypt.KeyStatement) {
			*f = *registerForm(t, alice, 3, nil)
		}, account.ErrStatement},
		"a follower instead of a reset": {true, func(f *cmtp.RegisterForm, first *crypt.KeyStatement) {
			s := first.Follow(seeded(t, 3).Public(), first.NotBefore)
			f.Statement, f.Possession = s, s.Possess(seeded(t, 3))
		}, account.ErrStatement},
		"a reset of another statement": {true, func(f *cmtp.RegisterForm, first *crypt.KeyStatement) {
			*f = *registerForm(t, alice, 3, statement(t, alice, 9, 0))
		}, account.ErrStatement},
		"a reset into the past": {true, func(f *cmtp.RegisterForm, first *crypt.KeyStatement) {
			s := first.Follow(seeded(t, 3).Public(), first.NotBefore)
			s.Reset, s.NotBefore = true, s.NotBefore-1
			f.Statement, f.Possession = s, s.Possess(seeded(t, 3))
		}, account.ErrStatement},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, durable.OS)
			good, first := registerForm(t, alice, 3, nil), statement(t, alice, 2, 0)
			if tt.reset {
				first = mustRegister(t, s, alice, 2).Statement()
				good = registerForm(t, alice, 3, first)
			}
			secret := mustInvite(t, s, alice, tt.reset)
			before, bad := dump(t, s), *good
			tt.change(&bad, first)
			if a, err := s.Register(mustAddress(alice), secret, &bad); a != nil || !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if dump(t, s) != before || dump(t, open(t, dir, durable.OS)) != before {
				t.Error("the refusal has changed something")
			}
			if _, err := s.Register(mustAddress(alice), secret, good); err != nil {
				t.Errorf("the same code with a good form: %v", err)
			}
		})
	}
}

// The time of a statement may be an hour from the server's, and no second more.
func TestStore_Register_Time(t *testing.T) {
	s := open(t, "/accounts", durabletest.New())
	for seconds, want := range map[int]error{-3601: account.ErrStatement, -3600: nil, 3600: nil, 3601: account.ErrStatement} {
		addr := fmt.Sprintf("user%d@example.org", seconds)
		st := statement(t, addr, 2, crypt.UnixTime(seconds))
		f := registerForm(t, addr, 2, nil)
		f.Statement, f.Possession = *st, st.Possess(seeded(t, 2))
		if _, err := s.Register(mustAddress(addr), mustInvite(t, s, addr, false), f); !errors.Is(err, want) {
			t.Errorf("%d seconds from now: %v, want %v", seconds, err, want)
		}
	}
}

// An ID is reported as gone when nothing is called by it any more, and not before.
func TestStore_Register_Gone(t *testing.T) {
	s, gone := openAt(t, t.TempDir(), durable.OS, &clock{now()})
	a := mustRegister(t, s, alice, 2)
	if len(*gone) != 0 {
		t.Errorf("gone are %v, the account is %v", *gone, a.ID)
	}
	secret := mustInvite(t, s, alice, true)
	id, _ := s.InvitationID(a.Address)
	if id == a.ID {
		t.Error("an invitation to a reset has the account's ID")
	}
	if _, err := s.Register(a.Address, secret, registerForm(t, alice, 3, a.Statement())); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(*gone, []account.ID{id}) {
		t.Errorf("gone are %v, want %v", *gone, id)
	}
}

// Of many who come with one code at once one gets the account.
func TestStore_Register_Once(t *testing.T) {
	s := open(t, t.TempDir(), durable.OS)
	secret := mustInvite(t, s, alice, false)
	const many = 8
	results := make(chan error, many)
	for n := range byte(many) {
		f := registerForm(t, alice, 10+n, nil)
		go func() {
			_, err := s.Register(mustAddress(alice), secret, f)
			results <- err
		}()
	}
	won := 0
	for range many {
		if err := <-results; err == nil {
			won++
		} else if !errors.Is(err, account.ErrInvitation) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d got the account", won)
	}
}

// secretOf is what a client sends of a code that was shown.
func secretOf(tb testing.TB, made *account.Invited) string {
	tb.Helper()
	code, err := invite.Parse(made.Code)
	if err != nil || !code.IsFor(seeded(tb, 1).Public()) {
		tb.Fatalf("the code is not one of this server: %v", err)
	}
	return code.Secret().Reveal()
}
