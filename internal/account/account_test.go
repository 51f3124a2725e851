package account_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

var now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)) }

func mustAddress(s string) address.Address {
	a, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

// seeded returns the key that grows from 32 times n.
func seeded(tb testing.TB, n byte) *crypt.PrivateKey {
	tb.Helper()
	if k, ok := keys.Load(n); ok {
		return k.(*crypt.PrivateKey)
	}
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, crypt.SeedSize))
	if err != nil {
		tb.Fatal(err)
	}
	keys.Store(n, k)
	return k
}

var keys sync.Map // of what seeded has made: some tests need many

// cheap are parameters that no real user has.
var cheap = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}

func sealed(tb testing.TB, addr address.Address, key *crypt.PrivateKey, password string) []byte {
	tb.Helper()
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}}
	x, err := xzibit.Seal(ring, addr.String(), []byte(password), cheap)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// register makes the registration of addr for the key of seed n.
func register(tb testing.TB, addr string, n byte) account.Registration {
	tb.Helper()
	a, key := mustAddress(addr), seeded(tb, n)
	return account.NewRegistration(a, key, now(), sealed(tb, a, key, "password"))
}

// options are those of a store whose invitations lie beside its accounts.
func options(tb testing.TB, dir string, fsys durable.FS) account.Options {
	tb.Helper()
	return account.Options{Dir: dir, Invitations: dir + ".invitations", FS: fsys, Signer: seeded(tb, 1), Now: now}
}

func open(tb testing.TB, dir string, fsys durable.FS) *account.Store {
	tb.Helper()
	s, err := account.Open(options(tb, dir, fsys))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// statement is a first one of addr for the key of seed n, some seconds after now.
func statement(tb testing.TB, addr string, n byte, after crypt.UnixTime) *crypt.KeyStatement {
	tb.Helper()
	return &crypt.KeyStatement{Name: mustAddress(addr), Key: seeded(tb, n).Public(), NotBefore: crypt.UnixTimeOf(now()) + after}
}

// restate changes the statement of a registration, with a good proof by the key of seed n.
func restate(tb testing.TB, r *account.Registration, n byte, change func(*crypt.KeyStatement)) {
	tb.Helper()
	s, _, err := crypt.ParseKeyStatement(r.Statement)
	if err != nil {
		tb.Fatal(err)
	}
	change(&s)
	proof := s.Possess(seeded(tb, n))
	r.Statement, r.Possession = s.Append(nil), proof[:]
}

func mustAdd(tb testing.TB, s *account.Store, addr string, n byte) *account.Account {
	tb.Helper()
	a, err := s.Add(register(tb, addr, n))
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// dump is all that a store holds, in the form of its files.
func dump(tb testing.TB, s *account.Store) string {
	tb.Helper()
	all, err := s.List()
	if err != nil {
		tb.Fatal(err)
	}
	b, err := json.Marshal(all)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// A store is after a restart what it was before, and each change is on disk when
// it has been reported done.
func TestStore_Restart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "accounts")
	s := open(t, dir, durable.OS)
	again := func() {
		t.Helper()
		before := dump(t, s)
		if s = open(t, dir, durable.OS); dump(t, s) != before {
			t.Errorf("before the restart:\n%s\nafter:\n%s", before, dump(t, s))
		}
	}
	again()
	alice := mustAdd(t, s, "Alice@Example.org", 2)
	if want := now().UTC().Truncate(time.Second); alice.Created != want || alice.Address != mustAddress("alice@example.org") || alice.Disabled {
		t.Errorf("the account is %+v", alice)
	}
	again()
	mustAdd(t, s, "bob@b.example", 3)
	mustAdd(t, s, "bob@a.example", 3)
	mustAdd(t, s, "zoë@a.example", 3)
	again()
	if err := s.SetDisabled(mustAddress("bob@b.example"), true); err != nil {
		t.Fatal(err)
	}
	again()
	if a, err := s.Get(mustAddress("bob@b.example")); err != nil || !a.Disabled {
		t.Errorf("%+v, %v after SetDisabled", a, err)
	}
	if err := s.SetDisabled(mustAddress("bob@b.example"), false); err != nil {
		t.Fatal(err)
	}
	again()
	fresh := account.NewXzibit(alice, seeded(t, 2), sealed(t, alice.Address, seeded(t, 2), "new"))
	if err := s.SetXzibit(fresh); err != nil {
		t.Fatal(err)
	}
	again()
	a, err := s.Get(alice.Address)
	if err != nil || !bytes.Equal(a.Xzibit, fresh.Xzibit) || a.ID != alice.ID || a.Key != alice.Key || a.Created != alice.Created {
		t.Errorf("after SetXzibit: %+v, %v", a, err)
	}
	if bytes.Equal(alice.Xzibit, fresh.Xzibit) {
		t.Error("an account was changed that others may be reading")
	}
	if err := s.Remove(mustAddress("zoë@a.example")); err != nil {
		t.Fatal(err)
	}
	again()
	checkFiles(t, s, dir, "bob@a.example", "bob@b.example", "alice@example.org")
}

// checkFiles expects a store to list these accounts, and its directory to hold a
// file for each that says nothing of them.
func checkFiles(t *testing.T, s *account.Store, dir string, want ...string) {
	t.Helper()
	all, err := s.List()
	var names []string
	for _, a := range all {
		names = append(names, a.Address.String())
	}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("List: %v, %v, want %v", names, err, want)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(names) {
		t.Errorf("the directory has %d files, %v", len(files), err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
		if strings.Contains(f.Name(), "bob") || len(f.Name()) != len(account.ID{})*2+len(".json") {
			t.Errorf("a file is called %s", f.Name())
		}
	}
}

// A user of a name that somebody had before inherits nothing.
func TestStore_Remove_NewID(t *testing.T) {
	s := open(t, t.TempDir(), durable.OS)
	first := mustAdd(t, s, "alice@example.org", 2)
	if err := s.Remove(first.Address); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(first.Address); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("a removed account: %v", err)
	}
	if _, err := s.EnsureSeed(first.ID); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("by the ID of a removed account: %v", err)
	}
	if second := mustAdd(t, s, "alice@example.org", 2); second.ID == first.ID || second.ID == account.Operator {
		t.Errorf("the second alice has ID %v, the first had %v", second.ID, first.ID)
	}
}

// A registration is taken with proof for what it says, and for nothing else.
func TestStore_Add_BadRegistration(t *testing.T) {
	s := open(t, t.TempDir(), durable.OS)
	other := register(t, "eve@example.org", 3)
	for _, tt := range []struct {
		name, addr string
		change     func(r *account.Registration)
		want       error
	}{
		{"with a subaddress", "bob+x@example.org", func(*account.Registration) {}, account.ErrReserved},
		{"begins with +", "+x@example.org", func(*account.Registration) {}, account.ErrReserved},
		{"no proof", "bob@example.org", func(r *account.Registration) { r.Possession = nil }, account.ErrProof},
		{"altered proof", "bob@example.org", func(r *account.Registration) { r.Possession[5] ^= 1 }, account.ErrProof},
		{"long proof", "bob@example.org", func(r *account.Registration) { r.Possession = append(r.Possession, 0) }, account.ErrProof},
		{"proof for another address", "bob@example.org", func(r *account.Registration) { r.Possession = other.Possession }, account.ErrProof},
		{"statement of another address", "bob@example.org", func(r *account.Registration) { r.Statement = other.Statement }, account.ErrStatement},
		{"replayed for another domain", "eve@example.com", func(r *account.Registration) { r.Possession = other.Possession }, account.ErrProof},
		{"another's key", "bob@example.org", func(r *account.Registration) { r.Statement = statement(t, "bob@example.org", 2, 0).Append(nil) }, account.ErrProof},
		{"no statement", "bob@example.org", func(r *account.Registration) { r.Statement = nil }, account.ErrStatement},
		{"bytes behind the statement", "bob@example.org", func(r *account.Registration) { r.Statement = append(r.Statement, 0) }, account.ErrStatement},
		{"follows another", "bob@example.org", func(r *account.Registration) { restate(t, r, 3, func(s *crypt.KeyStatement) { s.Previous[0] = 1 }) }, account.ErrStatement},
		{"too early", "bob@example.org", func(r *account.Registration) { restate(t, r, 3, func(s *crypt.KeyStatement) { s.NotBefore -= 3601 }) }, account.ErrStatement},
		{"too late", "bob@example.org", func(r *account.Registration) { restate(t, r, 3, func(s *crypt.KeyStatement) { s.NotBefore += 3601 }) }, account.ErrStatement},
		{"of no time", "bob@example.org", func(r *account.Registration) { restate(t, r, 3, func(s *crypt.KeyStatement) { s.NotBefore = 0 }) }, account.ErrStatement},
		{"bad copy", "bob@example.org", func(r *account.Registration) { r.Copy = []byte("x") }, xzibit.ErrCopy},
		{"short seed", "bob@example.org", func(r *account.Registration) { r.Seed = make([]byte, 31) }, oprf.ErrSeed},
		{"version 3 without a seed", "bob@example.org", func(r *account.Registration) { r.Xzibit[3] = 3 }, account.ErrXzibit},
		{"no xzibit", "bob@example.org", func(r *account.Registration) { r.Xzibit = nil }, account.ErrXzibit},
		{"cut xzibit", "bob@example.org", func(r *account.Registration) { r.Xzibit = r.Xzibit[:len(r.Xzibit)-1] }, account.ErrXzibit},
		{"unknown xzibit", "bob@example.org", func(r *account.Registration) { r.Xzibit[3] = 9 }, account.ErrXzibit},
		{"absurd parameters", "bob@example.org", func(r *account.Registration) { r.Xzibit[44] = 0xff }, account.ErrXzibit},
	} {
		r := register(t, tt.addr, 3)
		tt.change(&r)
		if a, err := s.Add(r); a != nil || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if got := dump(t, s); got != "[]" {
		t.Errorf("the store holds %s", got)
	}
}

func TestStore_Errors(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	mustAdd(t, s, "alice@example.org", 2)
	before := dump(t, s)
	alice, err := s.Get(mustAddress("alice@example.org"))
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() account.Registration {
		return account.NewXzibit(alice, seeded(t, 2), sealed(t, alice.Address, seeded(t, 2), "new"))
	}
	unproven, cut, stale, locked := fresh(), fresh(), fresh(), fresh()
	unproven.Possession[0] ^= 1
	cut.Xzibit = cut.Xzibit[:40]
	stale.Replaces[0] ^= 1
	locked.Xzibit[3] = 3
	restated := fresh()
	restate(t, &restated, 2, func(s *crypt.KeyStatement) { s.NotBefore++ })
	nobody := mustAddress("nobody@example.org")
	for _, tt := range []struct {
		name string
		do   func() error
		want error
	}{
		{"add twice", func() error { _, err := s.Add(register(t, "ALICE@example.org", 3)); return err }, account.ErrExists},
		{"replace with another key", func() error { return s.SetXzibit(register(t, "alice@example.org", 3)) }, account.ErrProof},
		{"replace with another statement of the key", func() error { return s.SetXzibit(restated) }, account.ErrProof},
		{"replace without proof", func() error { return s.SetXzibit(unproven) }, account.ErrProof},
		{"replace another xzibit", func() error { return s.SetXzibit(stale) }, account.ErrConflict},
		{"replace by version 3 without a seed", func() error { return s.SetXzibit(locked) }, account.ErrXzibit},
		{"evaluate without a seed", func() error { _, err := s.Evaluate(alice.Address, [32]byte{}); return err }, account.ErrNoSeed},
		{"evaluate for nobody", func() error { _, err := s.Evaluate(nobody, [32]byte{}); return err }, account.ErrUnknown},
		{"seed for nobody", func() error { _, err := s.EnsureSeed(account.ID{1}); return err }, account.ErrUnknown},
		{"upload for nobody", func() error { _, err := s.Upload(account.ID{1}, &cmtp.UploadForm{}); return err }, account.ErrUnknown},
		{"replace with no xzibit", func() error { return s.SetXzibit(cut) }, account.ErrXzibit},
		{"replace of unknown", func() error { return s.SetXzibit(register(t, "nobody@example.org", 2)) }, account.ErrUnknown},
		{"get unknown", func() error { _, err := s.Get(nobody); return err }, account.ErrUnknown},
		{"get of another domain", func() error { _, err := s.Get(mustAddress("alice@example.com")); return err }, account.ErrUnknown},
		{"disable unknown", func() error { return s.SetDisabled(nobody, true) }, account.ErrUnknown},
		{"remove unknown", func() error { return s.Remove(nobody) }, account.ErrUnknown},
	} {
		if err := tt.do(); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if after := dump(t, s); after != before {
		t.Errorf("before the refusals:\n%s\nafter:\n%s", before, after)
	}
	if restarted := dump(t, open(t, dir, durable.OS)); restarted != before {
		t.Errorf("before the refusals:\n%s\non disk:\n%s", before, restarted)
	}
}

// What is signed for outsiders is what they get.
func TestAccount_Signatures(t *testing.T) {
	s := open(t, t.TempDir(), durable.OS)
	mustAdd(t, s, "alice@example.org", 2)
	check := func() {
		t.Helper()
		a, err := s.Get(mustAddress("alice@example.org"))
		if err != nil {
			t.Fatal(err)
		}
		server := seeded(t, 1).Public()
		if !crypt.Verify(server, a.Key[:], a.KeySignature()) || !crypt.Verify(server, a.Xzibit, a.XzibitSignature()) {
			t.Error("a signature is wrong")
		}
	}
	check()
	a, err := s.Get(mustAddress("alice@example.org"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetXzibit(account.NewXzibit(a, seeded(t, 2), sealed(t, a.Address, seeded(t, 2), "new"))); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestID_UnmarshalText(t *testing.T) {
	id := account.NewID()
	var got account.ID
	if err := got.UnmarshalText([]byte(id.String())); err != nil || got != id {
		t.Errorf("%v, %v, want %v", got, err, id)
	}
	for _, bad := range []string{"", "00", id.String()[1:], id.String() + "0", id.String() + "00", strings.Repeat("0", 1000), strings.Repeat("g", 32)} {
		got := id
		if err := got.UnmarshalText([]byte(bad)); err == nil || got != id {
			t.Errorf("%q gives %v, %v", bad, got, err)
		}
	}
}

// Many change and read at once; each address is one account in the end.
func TestStore_Concurrent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	const names, each = 4, 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	added := map[string]int{}
	for i := range names * each {
		addr := fmt.Sprintf("user%d@example.org", i%names)
		r := register(t, addr, byte(2+i))
		wg.Go(func() {
			if _, err := s.Add(r); err == nil {
				mu.Lock()
				added[addr]++
				mu.Unlock()
			} else if !errors.Is(err, account.ErrExists) {
				t.Error(err)
			}
			if err := s.SetDisabled(r.Address, i%2 == 0); err != nil {
				t.Error(err)
			}
			a, err := s.Get(r.Address)
			if err != nil {
				t.Error(err)
				return
			}
			if !crypt.Verify(seeded(t, 1).Public(), a.Key[:], a.KeySignature()) {
				t.Error("a signature is wrong")
			}
			if _, err := s.List(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for addr, n := range added {
		if n != 1 {
			t.Errorf("%s was added %d times", addr, n)
		}
	}
	if len(added) != names {
		t.Errorf("%d names were added, want %d", len(added), names)
	}
	if before, after := dump(t, s), dump(t, open(t, dir, durable.OS)); before != after {
		t.Errorf("in memory:\n%s\non disk:\n%s", before, after)
	}
}

// An address that LOGIN cannot name is no account's.
func TestStore_Add_LongAddress(t *testing.T) {
	s := open(t, t.TempDir(), durable.OS)
	for n, want := range map[int]error{cmtp.MaxString: nil, cmtp.MaxString + 1: account.ErrReserved} {
		addr := strings.Repeat("a", n-len("@example.org")) + "@example.org"
		if _, err := s.Add(register(t, addr, 2)); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
		if _, err := s.Invite(mustAddress("b"+addr[1:]), false, time.Hour); !errors.Is(err, want) {
			t.Errorf("inviting %d bytes: %v, want %v", n, err, want)
		}
	}
}

// Every change of an account is told when it can be seen, a failed one is not.
func TestStore_OnChange(t *testing.T) {
	o := options(t, filepath.Join(t.TempDir(), "accounts"), durable.OS)
	var s *account.Store
	var told []string
	o.OnChange = func(id account.ID) { told = append(told, id.String()) }
	s, err := account.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	alice := mustAdd(t, s, "alice@example.org", 2)
	for _, disabled := range []bool{true, false} {
		if err := s.SetDisabled(alice.Address, disabled); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetDisabled(mustAddress("nobody@example.org"), true); err == nil {
		t.Error("nobody is disabled")
	}
	if err := s.Remove(alice.Address); err != nil {
		t.Fatal(err)
	}
	if id := alice.ID.String(); !slices.Equal(told, []string{id, id, id, id}) {
		t.Errorf("told of %v, want four times %v", told, id)
	}
}
