package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/invite"
	"cmtpd/internal/oprf"
	"cmtpd/internal/spool"
	"cmtpd/internal/xzibit"
)

func mustAddress(s string) address.Address {
	a, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

func newKey(tb testing.TB, n byte) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, crypt.SeedSize))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func register(tb testing.TB, addr string, n byte) account.Registration {
	tb.Helper()
	key := newKey(tb, n)
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}}
	x, err := xzibit.Seal(ring, addr, []byte("password"), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
	if err != nil {
		tb.Fatal(err)
	}
	return account.NewRegistration(mustAddress(addr), key, time.Now(), x)
}

// socketPath returns one that is short enough for a socket, whatever the test is called.
func socketPath(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cmtpd")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "control.sock")
}

// serve answers for users on a real socket.
func serve(tb testing.TB, users control.Users, options ...func(*http.Server)) (path string) {
	tb.Helper()
	path = socketPath(tb)
	l, err := control.Listen(path)
	if err != nil {
		tb.Fatal(err)
	}
	srv := control.NewServer(users, aSpool{})
	for _, o := range options {
		o(srv)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	tb.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			tb.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
	})
	return path
}

func openStore(tb testing.TB) *account.Store {
	tb.Helper()
	dir := tb.TempDir()
	s, err := account.Open(account.Options{Dir: filepath.Join(dir, "accounts"), Invitations: filepath.Join(dir, "invitations"), FS: durable.OS,
		Signer: newKey(tb, 1), Now: time.Now})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// same compares accounts by what is kept of them.
func same(t *testing.T, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g, w) {
		t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

// aSpool is one that is damaged.
type aSpool struct{}

func (aSpool) Stats() spool.Stats {
	return spool.Stats{Head: spool.Head{Number: 7, Hash: [32]byte{1, 2}}, Messages: 5, Damage: 1, Failed: true}
}

func (aSpool) Damage() []spool.Damage {
	return []spool.Damage{{File: "log/x", Segment: 2, Offset: 1 << 40, Messages: []spool.ID{1, 1 << 62}, Reason: "\"<\x00é"}}
}

// RemoveAll refuses one caller.
func (aSpool) RemoveAll(_ context.Context, ids []spool.ID, by string) (int, error) {
	if by == "nobody" {
		return 1, errors.New("not for nobody")
	}
	return len(ids), nil
}

func TestClient_RemoveAll(t *testing.T) {
	c := control.Dial(serve(t, openStore(t)))
	many := make([]spool.ID, 4096)
	for i := range many {
		many[i] = 1<<62 - spool.ID(i)
	}
	if n, err := c.RemoveAll(t.Context(), many, "admin"); err != nil || n != len(many) {
		t.Errorf("at the limit: %d, %v", n, err)
	}
	if _, err := c.RemoveAll(t.Context(), append(many, 1), "admin"); !errors.Is(err, control.ErrRemovals) {
		t.Errorf("one past it: %v", err)
	}
	if _, err := c.RemoveAll(t.Context(), many[:1], "nobody"); err == nil || !strings.Contains(err.Error(), "not for nobody") {
		t.Errorf("an error of the spool's: %v", err)
	}
}

func TestClient_Spool(t *testing.T) {
	path := serve(t, openStore(t))
	got, err := control.Dial(path).Spool()
	if want := (control.SpoolState{Stats: aSpool{}.Stats(), Damage: aSpool{}.Damage()}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := control.Dial(path + "x").Spool(); !errors.Is(err, control.ErrNobody) {
		t.Errorf("where nobody is: %v", err)
	}
}

// What a client is told is what the store behind the socket says.
func TestClient_Methods(t *testing.T) {
	s := openStore(t)
	c := control.Dial(serve(t, s))
	if all, err := c.List(); err != nil || len(all) != 0 {
		t.Errorf("List of none: %v, %v", all, err)
	}
	// Names that mean something in a URL, or are not ASCII.
	names := []string{"alice", "..", "a%2fb", "q?x=y&z", "#x", "zoë", "a;b", "%", "disabled", ":", "~a", strings.Repeat("x", 255-len("@example.org"))}
	for i, name := range names {
		r := register(t, name+"@example.org", byte(2+i))
		added, err := c.Add(r)
		if err != nil {
			t.Fatalf("adding %q: %v", name, err)
		}
		kept, err := s.Get(r.Address)
		if err != nil {
			t.Fatal(err)
		}
		same(t, added, kept)
		got, err := c.Get(r.Address)
		if err != nil {
			t.Fatalf("getting %q: %v", name, err)
		}
		same(t, got, kept)
		for _, disabled := range []bool{true, false} {
			if err := c.SetDisabled(r.Address, disabled); err != nil {
				t.Fatalf("disabling %q: %v", name, err)
			}
			if kept, err := s.Get(r.Address); err != nil || kept.Disabled != disabled {
				t.Errorf("%q: disabled is %v, %v; want %v", name, kept.Disabled, err, disabled)
			}
		}
		fresh := account.NewXzibit(got, newKey(t, byte(2+i)), register(t, name+"@example.org", byte(2+i)).Xzibit)
		if err := c.SetXzibit(fresh); err != nil {
			t.Fatalf("replacing the xzibit of %q: %v", name, err)
		}
		if kept, err := s.Get(r.Address); err != nil || !bytes.Equal(kept.Xzibit, fresh.Xzibit) {
			t.Errorf("%q: the xzibit was not replaced, %v", name, err)
		}
	}
	checkInvitations(t, c, s, names)
	all, err := c.List()
	if err != nil || len(all) != len(names) {
		t.Fatalf("List: %d accounts, %v; want %d", len(all), err, len(names))
	}
	kept, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	same(t, all, kept)
	for _, a := range all {
		if err := c.Remove(a.Address); err != nil {
			t.Errorf("removing %v: %v", a.Address, err)
		}
	}
	if left, err := s.List(); err != nil || len(left) != 0 {
		t.Errorf("%d accounts are left, %v", len(left), err)
	}
}

// checkInvitations resets every account, and takes that back.
func checkInvitations(t *testing.T, c *control.Client, s *account.Store, names []string) {
	t.Helper()
	for _, name := range names {
		made, err := c.Invite(mustAddress(name+"@example.org"), true, time.Hour)
		if err != nil {
			t.Fatalf("inviting %q: %v", name, err)
		}
		code, err := invite.Parse(made.Code)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enroll(made.Invitation.Address, code.Secret().Reveal(), blinded(t)); err != nil || !made.Invitation.Reset ||
			made.Invitation.Expires.Sub(made.Invitation.Created) != time.Hour {
			t.Errorf("the invitation of %q is %+v, %v", name, made.Invitation, err)
		}
	}
	all, err := c.Invitations()
	if err != nil || len(all) != len(names) {
		t.Fatalf("Invitations: %d, %v; want %d", len(all), err, len(names))
	}
	kept, err := s.Invitations()
	if err != nil {
		t.Fatal(err)
	}
	same(t, all, kept)
	for _, i := range all {
		if err := c.Revoke(i.Address); err != nil {
			t.Errorf("revoking that of %v: %v", i.Address, err)
		}
	}
	if left, err := s.Invitations(); err != nil || len(left) != 0 {
		t.Errorf("%d invitations are left, %v", len(left), err)
	}
}

func blinded(tb testing.TB) [32]byte {
	tb.Helper()
	r, b, err := oprf.Blind([]byte("password"))
	if err != nil {
		tb.Fatal(err)
	}
	r.Wipe()
	return b
}

// A seed goes in and does not come out; what it is for does.
func TestClient_Evaluate(t *testing.T) {
	s := openStore(t)
	path := serve(t, s)
	c := control.Dial(path)
	seed := bytes.Repeat([]byte{7}, oprf.SeedSize)
	key, err := oprf.KeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	r := register(t, "alice@example.org", 2)
	r.Seed = seed
	added, err := c.Add(r)
	if err != nil {
		t.Fatal(err)
	}
	b := blinded(t)
	want, err := key.Evaluate(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Evaluate(r.Address, b); err != nil || got != want {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
	got, err := c.Get(r.Address)
	if err != nil || got.HasSeed() || added.HasSeed() {
		t.Errorf("the seed came back, %v", err)
	}
	if _, err := c.Evaluate(r.Address, [32]byte{}); err == nil {
		t.Error("no element was evaluated")
	}
	if _, err := c.Evaluate(mustAddress("bob@example.org"), b); !errors.Is(err, account.ErrUnknown) {
		t.Errorf("for nobody: %v", err)
	}
}

// refusing answers everything with one error.
type refusing struct{ err error }

func (r refusing) Add(account.Registration) (*account.Account, error) { return nil, r.err }
func (r refusing) Get(address.Address) (*account.Account, error)      { return nil, r.err }
func (r refusing) List() ([]*account.Account, error)                  { return nil, r.err }
func (r refusing) SetXzibit(account.Registration) error               { return r.err }
func (r refusing) SetDisabled(address.Address, bool) error            { return r.err }
func (r refusing) Remove(address.Address) error                       { return r.err }
func (r refusing) Revoke(address.Address) error                       { return r.err }
func (r refusing) Invitations() ([]*account.Invitation, error)        { return nil, r.err }

func (r refusing) Evaluate(address.Address, [32]byte) ([32]byte, error) { return [32]byte{1}, r.err }

func (r refusing) Invite(address.Address, bool, time.Duration) (*account.Invited, error) {
	return nil, r.err
}

// Every error means on this side of the socket what it means on the other, and
// reads the same.
func TestClient_Errors(t *testing.T) {
	sentinels := []error{account.ErrExists, account.ErrUnknown, account.ErrProof, account.ErrXzibit, account.ErrForeign,
		account.ErrReserved, account.ErrFailed, account.ErrStatement, account.ErrHistoryFull, account.ErrConflict, account.ErrNoSeed,
		account.ErrInvitation, account.ErrInvitations, account.ErrLife}
	r := register(t, "alice@example.org", 2)
	for _, want := range append(sentinels, errors.New("something else: \"\x1b[2J\" ü")) {
		wrapped := fmt.Errorf("doing it to alice: %w", want)
		c := control.Dial(serve(t, refusing{wrapped}))
		added, add := c.Add(r)
		got, get := c.Get(r.Address)
		all, list := c.List()
		evaluated, evaluate := c.Evaluate(r.Address, [32]byte{})
		made, invite := c.Invite(r.Address, false, time.Hour)
		open, invitations := c.Invitations()
		if added != nil || got != nil || all != nil || evaluated != [32]byte{} || made != nil || open != nil {
			t.Errorf("%v: something was returned beside it", want)
		}
		for method, err := range map[string]error{"Add": add, "Get": get, "List": list, "SetXzibit": c.SetXzibit(r),
			"disable": c.SetDisabled(r.Address, true), "enable": c.SetDisabled(r.Address, false), "Remove": c.Remove(r.Address),
			"Evaluate": evaluate, "Invite": invite, "Invitations": invitations, "Revoke": c.Revoke(r.Address)} {
			if err == nil || err.Error() != wrapped.Error() {
				t.Errorf("%s: %v, want %v", method, err, wrapped)
			}
			for _, sentinel := range sentinels {
				if errors.Is(err, sentinel) != (sentinel == want) {
					t.Errorf("%s: %q is %q: %v", method, err, sentinel, errors.Is(err, sentinel))
				}
			}
		}
	}
}

// What a real store refuses is told by its reason.
func TestClient_StoreErrors(t *testing.T) {
	c := control.Dial(serve(t, openStore(t)))
	alice := register(t, "alice@example.org", 2)
	if _, err := c.Add(alice); err != nil {
		t.Fatal(err)
	}
	bad := register(t, "bob@example.org", 3)
	bad.Xzibit = bad.Xzibit[:50]
	for want, do := range map[error]func() error{
		account.ErrExists:   func() error { _, err := c.Add(register(t, "alice@example.org", 3)); return err },
		account.ErrReserved: func() error { _, err := c.Add(register(t, "alice+x@example.org", 3)); return err },
		account.ErrUnknown:  func() error { return c.Remove(mustAddress("bob@example.org")) },
		account.ErrProof:    func() error { return c.SetXzibit(register(t, "alice@example.org", 3)) },
		account.ErrConflict: func() error { return c.SetXzibit(alice) },
		account.ErrLife:     func() error { _, err := c.Invite(mustAddress("bob@example.org"), false, 0); return err },
		account.ErrXzibit:   func() error { _, err := c.Add(bad); return err },
	} {
		if err := do(); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}

// The socket is for its owner, and one that a dead daemon left is replaced.
func TestListen(t *testing.T) {
	path := socketPath(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := control.Listen(filepath.Join(filepath.Dir(path), "no", "directory")); err == nil {
		t.Error("listened in no directory")
	}
}

// Where nobody listens, the person is told what to do.
func TestClient_NobodyAnswers(t *testing.T) {
	path := socketPath(t)
	if _, err := control.Dial(path).List(); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("without a socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := control.Dial(path).Remove(mustAddress("a@b.example")); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("with a dead daemon's: %v", err)
	}
}

// What is no request of ours changes nothing and is answered.
func TestServer_BadRequests(t *testing.T) {
	s := openStore(t)
	r := register(t, "alice@example.org", 2)
	if _, err := s.Add(r); err != nil {
		t.Fatal(err)
	}
	before, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	path := serve(t, s)
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}
	defer client.CloseIdleConnections()
	huge, err := json.Marshal(map[string]any{"address": "bob@example.org", "xzibit": make([]byte, 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ method, path, body string }{
		{"POST", "/users", ""},
		{"POST", "/users", "{"},
		{"POST", "/users", "[]"},
		{"POST", "/users", `{"address":"../../etc"}`},
		{"POST", "/users", `{"address":"bob@example.org"}`},
		{"POST", "/users", string(huge)},
		{"PUT", "/xzibits", "{}"},
		{"POST", "/invitations", ""},
		{"POST", "/invitations", "{}"},
		{"POST", "/invitations", `{"address":"../../etc","life":3600000000000}`},
		{"POST", "/invitations", `{"address":"bob@example.org","life":"1h"}`},
		{"POST", "/invitations", `{"address":"alice@example.org","life":3600000000000}`},
		{"DELETE", "/invitations/bob", ""},
		{"DELETE", "/invitations", ""},
		{"POST", "/users/alice@example.org/evaluations", ""},
		{"POST", "/users/alice@example.org/evaluations", `{"element":"AAAA"}`},
		{"POST", "/users/alice/evaluations", `{"element":"AAAA"}`},
		{"GET", "/users/alice", ""},
		{"DELETE", "/users/", ""},
		{"DELETE", "/users/alice%40example.org%2f..", ""},
		{"DELETE", "/users", ""},
		{"PATCH", "/users/alice@example.org", ""},
		{"GET", "/", ""},
	} {
		req, err := http.NewRequest(tt.method, "http://cmtpd"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		text, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode < 400 || len(text) == 0 {
			t.Errorf("%s %s %.20s: %s %q, %v", tt.method, tt.path, tt.body, resp.Status, text, err)
		}
	}
	after, err := s.List()
	if err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("the accounts have changed, %v", err)
	}
}
