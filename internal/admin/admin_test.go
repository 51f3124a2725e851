package admin_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

func mustAddress(s string) address.Address {
	a, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

var alice = mustAddress("alice@example.org")

func openUsers(tb testing.TB, cfg *config.Config) *admin.Users {
	tb.Helper()
	u, err := admin.OpenUsers(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// One life of a user: made without a daemon, changed under one, gone without one.
// The password opens the keys at every step, and only it.
func TestUsers_Life(t *testing.T) {
	cfg := datadirtest.Config(t)
	direct := openUsers(t, cfg)
	made, err := direct.Create(alice, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := keyfile.Load(cfg.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	checkFresh(t, direct, made, server.Public())
	if err := direct.Close(); err != nil {
		t.Fatal(err)
	}

	store, stop := datadirtest.Occupy(t, cfg, nil)
	users := openUsers(t, cfg)
	if err := users.ChangePassword(alice, []byte("wrong"), []byte("second")); !errors.Is(err, admin.ErrPassword) {
		t.Errorf("with a wrong password: %v", err)
	}
	if err := users.ChangePassword(alice, []byte("first"), nil); !errors.Is(err, xzibit.ErrEmptyPassword) {
		t.Errorf("to an empty password: %v", err)
	}
	if err := users.ChangePassword(alice, []byte("first"), []byte("second")); err != nil {
		t.Fatal(err)
	}
	now, err := store.Get(alice) // what the daemon answers with, without a restart
	if err != nil {
		t.Fatal(err)
	}
	if openRing(t, store, now, "second").Keys[0].Key.Public() != made.Key || now.ID != made.ID {
		t.Error("another password made another user")
	}
	if _, err := xzibit.OpenUnlocked(now.Xzibit, alice.String(), []byte("first"), unlock(t, store, "first")); !errors.Is(err, xzibit.ErrPassword) {
		t.Errorf("the old password: %v", err)
	}
	if err := users.SetDisabled(alice, true); err != nil {
		t.Fatal(err)
	}
	if a, err := store.Get(alice); err != nil || !a.Disabled {
		t.Errorf("the daemon has %+v, %v", a, err)
	}
	if err := users.Close(); err != nil {
		t.Error(err)
	}
	stop()

	direct = openUsers(t, cfg)
	defer direct.Close()
	if a, err := direct.Get(alice); err != nil || !a.Disabled || a.ID != made.ID {
		t.Errorf("after the daemon: %+v, %v", a, err)
	}
	if err := direct.Remove(alice); err != nil {
		t.Fatal(err)
	}
	if err := direct.ChangePassword(alice, []byte("second"), []byte("third")); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("changing the password of nobody: %v", err)
	}
}

// checkFresh expects what Create seals under the password "first": one key, dated,
// with the server's, at the full cost of the default, and not without the server.
func checkFresh(t *testing.T, users control.Users, made *account.Account, server crypt.PublicKey) {
	t.Helper()
	ring := openRing(t, users, made, "first")
	if ring.Server != server || ring.Keys[0].Key.Public() != made.Key || len(ring.Keys) != 1 || ring.Keys[0].Made.IsZero() {
		t.Errorf("the keyring is %+v", ring)
	}
	if params := made.Xzibit[44:56]; !bytes.Equal(params, []byte{0, 0, 0, 3, 0, 1, 0, 0, 0, 0, 0, 1}) {
		t.Errorf("sealed with the parameters %x", params)
	}
	if _, err := xzibit.Open(made.Xzibit, alice.String(), []byte("first")); !errors.Is(err, xzibit.ErrLocked) {
		t.Errorf("without the server: %v", err)
	}
}

// unlock asks for the server's help with a password, as a client does.
func unlock(t *testing.T, users control.Users, password string) []byte {
	t.Helper()
	request, blinded, err := oprf.Blind([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	evaluated, err := users.Evaluate(alice, blinded)
	if err != nil {
		t.Fatal(err)
	}
	output, err := request.Finalize(evaluated)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

func openRing(t *testing.T, users control.Users, a *account.Account, password string) *xzibit.Keyring {
	t.Helper()
	ring, err := xzibit.OpenUnlocked(a.Xzibit, a.Address.String(), []byte(password), unlock(t, users, password))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// Users whose programs know no UNLOCK keep a xzibit that the password alone opens.
func TestUsers_CreateVersion2(t *testing.T) {
	u := openUsers(t, datadirtest.Config(t))
	defer u.Close()
	made, err := u.CreateVersion2(alice, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.ChangePassword(alice, []byte("first"), []byte("second")); err != nil {
		t.Fatal(err)
	}
	now, err := u.Get(alice)
	if err != nil || now.HasSeed() || now.XzibitVersion() != 2 {
		t.Errorf("%+v, %v", now, err)
	}
	if ring, err := xzibit.Open(now.Xzibit, alice.String(), []byte("second")); err != nil || ring.Keys[0].Key.Public() != made.Key {
		t.Errorf("with the new password: %v", err)
	}
}

// An invitation lasts as long as it is told, and else as long as the configuration says, and is
// for an address of ours.
func TestUsers_Invite(t *testing.T) {
	cfg := datadirtest.Config(t)
	u := openUsers(t, cfg)
	defer u.Close()
	for life, want := range map[time.Duration]time.Duration{0: 7 * 24 * time.Hour, time.Hour: time.Hour} {
		made, err := u.Invite(alice, false, life)
		if err != nil || made.Invitation.Expires.Sub(made.Invitation.Created) != want {
			t.Errorf("for %v: %+v, %v", life, made, err)
		}
	}
	for life, want := range map[time.Duration]error{time.Minute: nil, time.Minute - 1: account.ErrLife} {
		if _, err := u.Invite(alice, false, life); !errors.Is(err, want) {
			t.Errorf("for %v: %v, want %v", life, err, want)
		}
	}
	if _, err := u.Invite(mustAddress("alice@other.example"), false, 0); !errors.Is(err, account.ErrForeign) {
		t.Errorf("a foreign domain: %v", err)
	}
}

func TestUsers_Create_Refused(t *testing.T) {
	cfg := datadirtest.Config(t)
	u := openUsers(t, cfg)
	defer u.Close()
	if _, err := u.Create(mustAddress("alice@other.example"), []byte("x")); !errors.Is(err, account.ErrForeign) {
		t.Errorf("a foreign domain: %v", err)
	}
	sales := mustAddress("sales@example.org")
	cfg.Aliases = map[address.Address]address.Address{sales: alice}
	if _, err := u.Create(sales, []byte("x")); !errors.Is(err, account.ErrReserved) || !strings.Contains(err.Error(), alice.String()) {
		t.Errorf("an alias: %v", err)
	}
	if _, err := u.Invite(sales, false, 0); !errors.Is(err, account.ErrReserved) {
		t.Errorf("inviting an alias: %v", err)
	}
	if _, err := u.Create(alice, nil); !errors.Is(err, xzibit.ErrEmptyPassword) {
		t.Errorf("an empty password: %v", err)
	}
	if _, err := u.Create(mustAddress("alice+x@example.org"), []byte("x")); !errors.Is(err, account.ErrReserved) {
		t.Errorf("a subaddress: %v", err)
	}
	if all, err := u.List(); err != nil || len(all) != 0 {
		t.Errorf("there are %d users, %v", len(all), err)
	}
}

// While one command changes the data, no daemon can have it, and a second command
// changes nothing behind its back.
func TestOpenUsers_Locks(t *testing.T) {
	cfg := datadirtest.Config(t)
	first := openUsers(t, cfg)
	if _, err := durable.OS.Lock(cfg.LockFile()); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("the lock beside a command: %v", err)
	}
	second := openUsers(t, cfg) // takes the first for a daemon
	if err := second.Remove(alice); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a second command: %v", err)
	}
	if err := errors.Join(second.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	lock, err := durable.OS.Lock(cfg.LockFile())
	if err != nil {
		t.Fatalf("the lock after both: %v", err)
	}
	lock.Close()
}

// The lock is given back also when opening fails.
func TestOpenUsers_Damaged(t *testing.T) {
	cfg := datadirtest.Config(t)
	if err := openUsers(t, cfg).Close(); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(cfg.AccountsDir(), "bad.json")
	if err := os.WriteFile(bad, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.OpenUsers(cfg); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("with a damaged account: %v", err)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	if err := openUsers(t, cfg).Close(); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(cfg.KeyFile(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.OpenUsers(cfg); !errors.Is(err, keyfile.ErrMode) {
		t.Errorf("with a key that is open to others: %v", err)
	}
}

// Nobody leaves files in another user's data directory, root not either.
func TestOpenUsers_AnothersData(t *testing.T) {
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can give a directory to another user")
	}
	cfg := datadirtest.Config(t)
	if err := os.Mkdir(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(cfg.DataDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.OpenUsers(cfg); !errors.Is(err, datadir.ErrOwner) || !strings.Contains(err.Error(), "65534") {
		t.Errorf("another's directory: %v", err)
	}
	if left, err := os.ReadDir(cfg.DataDir); err != nil || len(left) > 0 {
		t.Errorf("there is %v in it, %v", left, err)
	}
}

// An empty password was sealed under nothing in 2017.
func TestCutPassword(t *testing.T) {
	for _, tt := range []struct {
		in, password, rest string
		ok                 bool
	}{
		{"secret", "secret", "", true},
		{"secret\n", "secret", "", true},
		{"secret\r\n", "secret", "", true},
		{"old\nnew\n", "old", "new\n", true},
		{"old\r\nnew", "old", "new", true},
		{" with spaces \n", " with spaces ", "", true},
		{"a\rb\n", "a\rb", "", true},
		{"pässwörd\n", "pässwörd", "", true},
		{strings.Repeat("x", 1024), strings.Repeat("x", 1024), "", true},
		{strings.Repeat("x", 1025), "", "", false},
		{"", "", "", false},
		{"\n", "", "", false},
		{"\r\n", "", "", false},
		{"\nsecret", "", "", false},
	} {
		password, rest, err := admin.CutPassword([]byte(tt.in))
		if (err == nil) != tt.ok || string(password) != tt.password || string(rest) != tt.rest {
			t.Errorf("%.20q gives %.20q, %q, %v", tt.in, password, rest, err)
		}
		if err != nil && len(tt.in) > 100 && strings.Contains(err.Error(), "xxx") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestView(t *testing.T) {
	key, err := crypt.PrivateKeyFromSeed(make([]byte, crypt.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	first := account.Statement{KeyStatement: crypt.KeyStatement{Name: alice, Key: key.Public(), NotBefore: 1e9}}
	next := account.Statement{KeyStatement: first.Follow(key.Public(), 2e9)}
	sealed, err := xzibit.Seal(&xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}}, alice.String(), []byte("x"), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	a := &account.Account{ID: account.ID{1}, Address: alice, Key: key.Public(), Statements: []account.Statement{first}, Xzibit: sealed, Created: time.Unix(1e9, 0), Disabled: true}
	want := admin.UserView{
		Address: "alice@example.org", ID: "01000000000000000000000000000000", Key: "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=",
		Fingerprint: key.Public().String(), Created: time.Unix(1e9, 0), Disabled: true,
		Keys: 1, KeySince: time.Unix(1e9, 0).UTC(), XzibitBytes: len(sealed), XzibitVersion: 2,
	}
	if got := admin.View(a); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	next.Reset = true
	a.Statements = append(a.Statements, next)
	want.Keys, want.KeySince, want.Reset = 2, time.Unix(2e9, 0).UTC(), true
	if got := admin.View(a); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
