package account_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
)

// Changes are made one after another while one call to the disk fails, and the
// power is cut. What was reported done is there, what failed is there whole or not
// at all, a code that was used or ended is good for nothing, and one that was not still
// is; and a store that cannot know changes nothing any more.
func TestStore_Faults(t *testing.T) {
	calls := runFault(t, 0, durabletest.None)
	if calls < 60 {
		t.Fatalf("only %d calls to the disk", calls)
	}
	for n := 1; n <= calls; n++ {
		for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
			t.Run(fmt.Sprintf("call %d/fault %d", n, fault), func(t *testing.T) { runFault(t, n, fault) })
		}
	}
}

// state is what can be seen of an account. Keys are named by their seeds.
type state struct {
	there, disabled, seed bool
	xzibit, copy          [32]byte
	keys                  string
}

func stateOf(t *testing.T, s *account.Store, addr string) state {
	t.Helper()
	a, err := s.Get(mustAddress(addr))
	if errors.Is(err, account.ErrUnknown) {
		return state{}
	}
	if err != nil {
		t.Fatal(err)
	}
	st := state{there: true, disabled: a.Disabled, seed: a.HasSeed(), xzibit: a.XzibitDigest(), copy: sha256.Sum256(a.Copy)}
	for _, k := range a.Statements {
		for n := range byte(20) {
			if seeded(t, n).Public() == k.Key {
				st.keys += fmt.Sprint(n, k.Reset, " ")
			}
		}
	}
	return st
}

// A code is one that was shown.
type code struct {
	addr, secret string
	gone         bool // used or ended, as reported
	using        bool // by the change that failed: used if that took effect
	either       bool // ended by the change that failed, or not
}

// A trial makes changes to a store while a call fails, and keeps what was reported.
type trial struct {
	*testing.T
	s      *account.Store
	done   map[string]state // as last reported
	half   map[string]state // what the one failed change may have made of it
	codes  []*code
	failed bool
}

// step makes a change of which after is the result; a clean failure is tried again.
func (tr *trial) step(addr string, do func() error, after state) (ok, failed bool) {
	tr.Helper()
	err := do()
	if err != nil && !errors.Is(err, account.ErrFailed) && !tr.failed {
		if stateOf(tr.T, tr.s, addr) != tr.done[addr] {
			tr.Errorf("%s is in memory what was never reported", addr)
		}
		err = do()
	}
	switch {
	case err == nil && tr.failed:
		tr.Error("a change was made after one had failed half way")
	case err == nil:
		tr.done[addr] = after
	case errors.Is(err, account.ErrFailed) && !tr.failed:
		tr.failed, failed = true, true
		tr.half[addr] = after
	case !tr.failed:
		tr.Fatalf("twice: %v", err)
	}
	if stateOf(tr.T, tr.s, addr) != tr.done[addr] {
		tr.Errorf("%s is in memory what was never reported", addr)
	}
	return err == nil, failed
}

func (tr *trial) get(addr string) *account.Account {
	a, err := tr.s.Get(mustAddress(addr))
	if err != nil {
		return nil
	}
	return a
}

// codeOf returns the newest code of an address.
func (tr *trial) codeOf(addr string) *code {
	for i := len(tr.codes) - 1; i >= 0; i-- {
		if tr.codes[i].addr == addr {
			return tr.codes[i]
		}
	}
	return nil
}

func (tr *trial) invite(addr string, reset bool) {
	var made *account.Invited
	old := tr.codeOf(addr)
	ok, failed := tr.step(addr, func() (err error) {
		made, err = tr.s.Invite(mustAddress(addr), reset, time.Hour)
		return err
	}, tr.done[addr])
	if old != nil {
		old.gone, old.either = old.gone || ok, old.either || failed
	}
	if ok {
		tr.codes = append(tr.codes, &code{addr: addr, secret: secretOf(tr, made)})
	}
}

func (tr *trial) register(addr string, n byte) {
	c, before := tr.codeOf(addr), tr.done[addr]
	if c == nil || c.gone {
		return
	}
	f := registerForm(tr, addr, n, nil)
	after := state{there: true, seed: true, xzibit: sha256.Sum256(f.Xzibit), copy: sha256.Sum256(f.Copy), keys: fmt.Sprint(n, false, " ")}
	if before.there {
		f = registerForm(tr, addr, n, tr.get(addr).Statement())
		after.xzibit, after.copy, after.disabled = sha256.Sum256(f.Xzibit), sha256.Sum256(f.Copy), before.disabled
		after.keys = before.keys + fmt.Sprint(n, true, " ")
	}
	ok, failed := tr.step(addr, func() error {
		_, err := tr.s.Register(mustAddress(addr), c.secret, f)
		return err
	}, after)
	c.gone, c.using = ok, c.using || failed
}

// end makes a change that also ends the code of an address.
func (tr *trial) end(addr string, do func() error, after state) {
	ok, failed := tr.step(addr, do, after)
	if c := tr.codeOf(addr); c != nil && !c.gone {
		c.gone, c.either = ok, c.either || failed
	}
}

func (tr *trial) upload(addr string, old, n byte) {
	a, after := tr.get(addr), tr.done[addr]
	if a == nil {
		return
	}
	f := uploadForm(tr, a, old, n)
	after.xzibit, after.copy = sha256.Sum256(f.Xzibit), sha256.Sum256(f.Copy)
	after.keys += fmt.Sprint(n, false, " ")
	tr.step(addr, func() error { _, err := tr.s.Upload(a.ID, f); return err }, after)
}

func (tr *trial) add(addr string, n byte) {
	r := register(tr, addr, n)
	tr.end(addr, func() error { _, err := tr.s.Add(r); return err },
		state{there: true, xzibit: sha256.Sum256(r.Xzibit), copy: sha256.Sum256(nil), keys: fmt.Sprint(n, false, " ")})
}

func (tr *trial) remove(addr string) {
	tr.end(addr, func() error { return tr.s.Remove(mustAddress(addr)) }, state{})
}

// run makes every kind of change at least once.
func (tr *trial) run() {
	const a, b, c = "a@example.org", "b@example.org", "c@example.org"
	tr.add(a, 2)
	tr.invite(b, false)
	tr.invite(b, false)
	tr.register(b, 3)
	if old := tr.get(a); old != nil {
		fresh := account.NewXzibit(old, seeded(tr, 2), sealed(tr, old.Address, seeded(tr, 2), "new"))
		after := tr.done[a]
		after.xzibit = sha256.Sum256(fresh.Xzibit)
		tr.step(a, func() error { return tr.s.SetXzibit(fresh) }, after)
		after = tr.done[a]
		after.seed = true
		tr.step(a, func() error { _, err := tr.s.EnsureSeed(old.ID); return err }, after)
	}
	tr.upload(b, 3, 4)
	tr.invite(c, false)
	tr.add(c, 5)
	tr.invite(c, true)
	after := tr.done[b]
	after.disabled = true
	tr.step(b, func() error { return tr.s.SetDisabled(mustAddress(b), true) }, after)
	tr.invite(b, true)
	tr.register(b, 6)
	tr.remove(c)
	tr.invite(c, false)
	tr.end(c, func() error { return tr.s.Revoke(mustAddress(c)) }, state{})
	tr.remove(b)
	tr.invite(b, false)
	tr.register(b, 7)
	tr.remove(b)
}

// runFault makes the n-th call fail, and returns how many there are. What is on disk is
// then looked at after several power cuts.
func runFault(t *testing.T, n int, fault durabletest.Fault) (calls int) {
	t.Helper()
	fsys := durabletest.New()
	tr := &trial{T: t, s: open(t, "/accounts", fsys), done: map[string]state{}, half: map[string]state{}}
	first := fsys.Calls()
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.N == first+n {
			return fault
		}
		return durabletest.None
	})
	tr.run()
	calls = fsys.Calls() - first
	if n == 0 && len(tr.codes) < 7 {
		t.Errorf("only %d codes were made", len(tr.codes))
	}
	tr.afterCrash(fsys.Crash(nil))
	for seed := range uint64(3) {
		tr.afterCrash(fsys.Crash(rand.New(rand.NewPCG(seed, uint64(n)))))
	}
	return calls
}

func (tr *trial) afterCrash(fsys durable.FS) {
	tr.Helper()
	s, err := account.Open(options(tr, "/accounts", fsys))
	if err != nil {
		tr.Fatalf("after the crash: %v", err)
	}
	for addr, want := range tr.done {
		got := stateOf(tr.T, s, addr)
		if half, failed := tr.half[addr]; got != want && (!failed || got != half) {
			tr.Errorf("after the crash %s is %+v, reported was %+v, failed %+v", addr, got, want, half)
		}
	}
	tr.checkCodes(s, true)
	// Not even when nobody remembers who used them.
	all, err := s.List()
	if err != nil {
		tr.Fatal(err)
	}
	for _, a := range all {
		verified(tr, a)
		if err := s.Remove(a.Address); err != nil {
			tr.Fatal(err)
		}
	}
	tr.checkCodes(s, false)
	tr.checkCodes(open(tr, "/accounts", fsys), false)
}

// checkCodes tries each code. With live, those that must still work have to.
func (tr *trial) checkCodes(s *account.Store, live bool) {
	tr.Helper()
	blinded := element(tr)
	for i, c := range tr.codes {
		_, err := s.Enroll(mustAddress(c.addr), c.secret, blinded)
		if err != nil && !errors.Is(err, account.ErrInvitation) {
			tr.Fatal(err)
		}
		used := c.using && stateOf(tr.T, s, c.addr) == tr.half[c.addr]
		switch {
		case err == nil && (c.gone || used && live):
			tr.Errorf("code %d, of %s, works again", i, c.addr)
		case err != nil && live && !c.gone && !used && !c.either:
			tr.Errorf("code %d, of %s, was never used and does not work", i, c.addr)
		}
	}
}
