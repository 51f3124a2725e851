package account_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/config"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/oprf"
)

// A clock is one that a test moves on.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// openAt opens a store with a clock, and returns the IDs that it reports as gone.
func openAt(tb testing.TB, dir string, fsys durable.FS, c *clock) (s *account.Store, gone *[]account.ID) {
	tb.Helper()
	gone = new([]account.ID)
	o := options(tb, dir, fsys)
	o.Now, o.OnRemove = c.now, func(id account.ID) { *gone = append(*gone, id) }
	s, err := account.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	return s, gone
}

// invited lists the open invitations as "address reset".
func invited(tb testing.TB, s *account.Store) (names []string) {
	tb.Helper()
	all, err := s.Invitations()
	if err != nil {
		tb.Fatal(err)
	}
	for _, i := range all {
		name := i.Address.String()
		if i.Reset {
			name += " reset"
		}
		names = append(names, name)
	}
	return names
}

// files are the names in a directory that an invitation or account may have.
func files(tb testing.TB, fsys durable.FS, dir string) []string {
	tb.Helper()
	names, err := fsys.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

// element is a blinded one.
func element(tb testing.TB) [32]byte {
	tb.Helper()
	_, blinded, err := oprf.Blind([]byte("x"))
	if err != nil {
		tb.Fatal(err)
	}
	return blinded
}

// An invitation is there after a restart, for its own code alone, until it is replaced,
// revoked or expires; then its file is gone too.
func TestStore_Invite(t *testing.T) {
	dir, c := t.TempDir(), &clock{now()}
	s, _ := openAt(t, dir, durable.OS, c)
	at, blinded := mustAddress(alice), element(t)
	works := func(secret string, want bool) {
		t.Helper()
		if _, err := s.Enroll(at, secret, blinded); (err == nil) != want || err != nil && !errors.Is(err, account.ErrInvitation) {
			t.Errorf("a code that should work: %v; %v", want, err)
		}
		if _, err := s.Register(at, secret, registerForm(t, "bob@example.org", 2, nil)); errors.Is(err, account.ErrInvitation) == want {
			t.Errorf("registering with a code that should work: %v; %v", want, err)
		}
	}
	first := mustInvite(t, s, "Alice@Example.org.", false)
	id, ok := s.InvitationID(at)
	works(first, true)
	for _, bad := range []string{"", first[1:], first + "0", strings.ToLower(first), mustInvite(t, s, "bob@example.org", false)} {
		works(bad, false)
	}
	if _, err := s.Enroll(at, first, [32]byte{}); !errors.Is(err, oprf.ErrElement) {
		t.Errorf("an element that is none: %v", err)
	}
	if _, there := s.InvitationID(mustAddress("carol@example.org")); !ok || there {
		t.Error("InvitationID does not know who is invited")
	}
	s, gone := openAt(t, dir, durable.OS, c)
	works(first, true)
	second := mustInvite(t, s, alice, false)
	works(first, false)
	works(second, true)
	if again, _ := s.InvitationID(at); again != id || len(files(t, durable.OS, dir+".invitations")) != 2 {
		t.Error("a second invitation of one address is a second file")
	}
	if got := invited(t, s); !slices.Equal(got, []string{alice, "bob@example.org"}) {
		t.Errorf("open are %v", got)
	}
	if err := s.Revoke(at); err != nil {
		t.Fatal(err)
	}
	works(second, false)
	if err := s.Revoke(at); !errors.Is(err, account.ErrInvitation) {
		t.Errorf("revoked twice: %v", err)
	}
	if !slices.Equal(*gone, []account.ID{id}) {
		t.Errorf("gone are %v, want %v", *gone, id)
	}
	third := mustInvite(t, s, alice, false)
	if another, _ := s.InvitationID(at); another == id {
		t.Error("an ID was used again")
	}
	c.Time = c.Add(time.Hour - 2*time.Second)
	works(third, true)
	c.Time = c.Add(2 * time.Second)
	works(third, false)
	if _, ok := s.InvitationID(at); ok || len(invited(t, s)) != 0 {
		t.Error("expired invitations are shown")
	}
	mustInvite(t, s, "carol@example.org", false) // sweeps
	if names := files(t, durable.OS, dir+".invitations"); len(names) != 1 || len(*gone) != 3 {
		t.Errorf("left are %v, gone are %v", names, *gone)
	}
	s, _ = openAt(t, dir, durable.OS, c)
	c.Time = c.Add(time.Hour)
	mustInvite(t, s, "dave@example.org", false)
	if names := files(t, durable.OS, dir+".invitations"); len(names) != 1 {
		t.Errorf("after a restart left are %v", names)
	}
	c.Time = c.Add(time.Hour)
	if openAt(t, dir, durable.OS, c); len(files(t, durable.OS, dir+".invitations")) != 0 {
		t.Error("the next start leaves an expired invitation")
	}
}

// Who may be invited to what.
func TestStore_Invite_Refused(t *testing.T) {
	s := open(t, t.TempDir(), durable.OS)
	mustAdd(t, s, alice, 2)
	for _, tt := range []struct {
		addr  string
		reset bool
		life  time.Duration
		want  error
	}{
		{alice, false, time.Hour, account.ErrExists},
		{"bob@example.org", true, time.Hour, account.ErrUnknown},
		{"bob+x@example.org", false, time.Hour, account.ErrReserved},
		{"+x@example.org", false, time.Hour, account.ErrReserved},
		{"bob@example.org", false, 0, account.ErrLife},
		{"bob@example.org", false, -time.Hour, account.ErrLife},
		{"bob@example.org", false, config.MaxInvitationLife, nil},
		{"carol@example.org", false, config.MaxInvitationLife + 1, account.ErrLife},
		{alice, true, time.Hour, nil},
	} {
		if made, err := s.Invite(mustAddress(tt.addr), tt.reset, tt.life); !errors.Is(err, tt.want) || (made == nil) != (err != nil) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if got := invited(t, s); !slices.Equal(got, []string{alice + " reset", "bob@example.org"}) {
		t.Errorf("open are %v", got)
	}
}

// What makes an invitation useless ends it: an account that the operator adds, or removes.
func TestStore_Invite_Overtaken(t *testing.T) {
	dir, c := t.TempDir(), &clock{now()}
	s, gone := openAt(t, dir, durable.OS, c)
	secret := mustInvite(t, s, alice, false)
	id, _ := s.InvitationID(mustAddress(alice))
	a := mustAdd(t, s, alice, 2)
	if a.ID == id || len(invited(t, s)) != 0 || len(files(t, durable.OS, dir+".invitations")) != 0 || !slices.Equal(*gone, []account.ID{id}) {
		t.Errorf("an account was added: open are %v, gone %v", invited(t, s), *gone)
	}
	secret2 := mustInvite(t, s, alice, true)
	id2, _ := s.InvitationID(a.Address)
	if err := s.Remove(a.Address); err != nil {
		t.Fatal(err)
	}
	if len(invited(t, s)) != 0 || len(files(t, durable.OS, dir+".invitations")) != 0 || !slices.Equal(*gone, []account.ID{id, id2, a.ID}) {
		t.Errorf("an account was removed: open are %v, gone %v", invited(t, s), *gone)
	}
	mustAdd(t, s, alice, 3)
	for _, code := range []string{secret, secret2} {
		if _, err := s.Register(a.Address, code, registerForm(t, alice, 4, nil)); !errors.Is(err, account.ErrInvitation) {
			t.Errorf("a code of before: %v", err)
		}
	}
}

// There may be ten thousand open invitations. One past it is refused, but not another
// one for an address that has one, nor after some have expired.
func TestStore_Invite_Many(t *testing.T) {
	c := &clock{now()}
	s, _ := openAt(t, "/accounts", durabletest.New(), c)
	invite := func(n int, life time.Duration) error {
		_, err := s.Invite(mustAddress(fmt.Sprintf("user%d@example.org", n)), false, life)
		return err
	}
	for n := range account.MaxInvitations {
		life := 2 * time.Hour
		if n == 7 {
			life = time.Hour
		}
		if err := invite(n, life); err != nil {
			t.Fatal(err)
		}
	}
	if err := invite(account.MaxInvitations, time.Hour); !errors.Is(err, account.ErrInvitations) {
		t.Errorf("one more: %v", err)
	}
	if err := invite(3, 2*time.Hour); err != nil {
		t.Errorf("the same address again: %v", err)
	}
	c.Time = c.Add(time.Hour)
	if err := invite(account.MaxInvitations, time.Hour); err != nil {
		t.Errorf("after one has expired: %v", err)
	}
	if err := invite(account.MaxInvitations+1, time.Hour); !errors.Is(err, account.ErrInvitations) {
		t.Errorf("and one more: %v", err)
	}
}

// A file that is no invitation is named, with what to do.
func TestOpen_BadInvitations(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, durable.OS)
	mustInvite(t, s, alice, false)
	folder := dir + ".invitations"
	name := files(t, durable.OS, folder)[0]
	good, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(folder, name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if secret := mustInvite(t, s, alice, false); strings.Contains(string(good), secret) {
		t.Error("the file shows the code")
	}
	other := strings.Repeat("0", 31) + "9"
	edit := func(key string, value any) string {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		m[key] = value
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for what, bad := range map[string]map[string]string{
		"empty":         {name: ""},
		"wrong name":    {other + ".json": string(good)},
		"no ID":         {strings.Repeat("0", 32) + ".json": edit("id", strings.Repeat("0", 32))},
		"operator's ID": {account.Operator.String() + ".json": edit("id", account.Operator.String())},
		"no address":    {name: edit("address", nil)},
		"no hash":       {name: edit("hash", nil)},
		"short hash":    {name: edit("hash", make([]byte, 31))},
		"long hash":     {name: edit("hash", make([]byte, 33))},
		"short key":     {name: edit("server", make([]byte, 31))},
		"long key":      {name: edit("server", make([]byte, 64))},
		"no seed":       {name: edit("seed", nil)},
		"short seed":    {name: edit("seed", make([]byte, 31))},
		"twice":         {name: string(good), other + ".json": edit("id", other)},
		"good":          {name: string(good), ".abc.tmp": "x", "README": "y"},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(dir+".invitations", 0o700); err != nil {
			t.Fatal(err)
		}
		for name, data := range bad {
			if err := os.WriteFile(filepath.Join(dir+".invitations", name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := account.Open(options(t, dir, durable.OS))
		if (err == nil) != (what == "good") {
			t.Errorf("%s: %v", what, err)
		}
		for name := range maps.Keys(bad) {
			if err != nil && (!strings.Contains(err.Error(), name[:30]) || !strings.Contains(err.Error(), "invite again")) {
				t.Errorf("%s: %q does not name %s", what, err, name)
			}
		}
		if names := files(t, durable.OS, dir+".invitations"); what == "good" && (len(names) != 2 || !slices.Contains(names, name) || !slices.Contains(names, "README")) {
			t.Errorf("left are %v", names)
		}
	}
}
