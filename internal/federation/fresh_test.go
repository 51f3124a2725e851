package federation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/federation"
	"cmtpd/internal/queue"
	"cmtpd/internal/session"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/spool"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

// abroad is what the sessions of a site know of others, and what waits there for them.
type abroad struct {
	*federation.Peers
	keys   *federation.Keys
	queued chan spool.ID
}

func (a *abroad) Lookup(ctx context.Context, n address.Address, may federation.Permit) (*federation.Foreign, error) {
	return a.keys.Lookup(ctx, n, may)
}

func (a *abroad) Refresh(ctx context.Context, n address.Address, may federation.Permit) (*federation.Foreign, error) {
	return a.keys.Refresh(ctx, n, may)
}

func (a *abroad) Added(id spool.ID, _ string) { a.queued <- id }

// A user has shorebird on a machine, and keys at a site.
type user struct {
	t    testing.TB
	dir  string
	site *site
}

func (s *site) user(name string) *user {
	s.t.Helper()
	u := &user{s.t, s.t.TempDir(), s}
	u.write("config/shorebird/config.toml", fmt.Sprintf("account = %q\nserver = %q\n", name+"@"+s.domain.String(), s.addr))
	u.write("password", "correct horse\ncorrect horse\n")
	return u
}

func (u *user) write(file, text string) string {
	u.t.Helper()
	path := filepath.Join(u.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		u.t.Fatal(err)
	}
	return path
}

// run runs shorebird, and returns its exit status and all that it says.
func (u *user) run(stdin string, args ...string) (status int, said string) {
	env := map[string]string{"HOME": u.dir, "XDG_CONFIG_HOME": u.dir + "/config", "XDG_DATA_HOME": u.dir + "/data",
		"SHOREBIRD_NO_KEYRING": "1", "SHOREBIRD_PASSWORD_FILE": u.dir + "/password"}
	cheap := xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}
	var out bytes.Buffer
	app := &shorebird.App{Terminal: terminal.Terminal{In: strings.NewReader(stdin), Out: &out, Err: &out},
		Getenv: func(name string) string { return env[name] }, Now: time.Now, Params: cheap, Least: cheap}
	return app.Run(u.t.Context(), args), out.String()
}

// must runs shorebird, which has to end with a status, and say all words.
func (u *user) must(status int, stdin string, args []string, words ...string) string {
	u.t.Helper()
	got, said := u.run(stdin, args...)
	if got != status {
		u.t.Fatalf("shorebird %q ended with %d, want %d:\n%s", args, got, status, said)
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			u.t.Errorf("shorebird %q does not say %q:\n%s", args, w, said)
		}
	}
	return said
}

// An account is reset at its own server, while another one remembers its old key. A user of that one who asks for the key is
// shown the new one at once; once it is accepted, letters are sealed to it, and can be read.
func TestKeys_Refresh_Reset(t *testing.T) {
	const distrust = 4 // shorebird's status
	w := newWorld(t)
	out := &abroad{queued: make(chan spool.ID, 10)}
	a := w.site("a.example", "127.0.0.2", options{edit: func(cfg *session.Config) { cfg.Elsewhere = out }}, "alice")
	out.Peers, out.keys = a.peers, keysOf(a)
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	alice, bob := a.user("alice"), b.user("bob")
	alice.must(0, "", []string{"recover", "alice@a.example"})
	old := b.users["bob"].Public().String()
	alice.must(0, "", []string{"keys", "bob@b.example"}, old)

	w.clock.add(20 * time.Minute) // within which a remembered answer is good enough for most
	invited, err := b.accounts.Invite(name("bob@b.example"), true, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	bob.must(0, invited.Code, []string{"register", "bob@b.example", "--code-stdin", "--no-recovery"})
	reset, err := b.accounts.Get(name("bob@b.example"))
	if err != nil || reset.Key == b.users["bob"].Public() {
		t.Fatalf("the reset: %v, %v", reset.Key, err)
	}

	alice.must(distrust, "", []string{"keys", "bob@b.example"}, "the key was reset", old, reset.Key.String())
	alice.must(distrust, "x", []string{"send", "bob@b.example", "--no-copy"}, "the key was reset") // the others of a.example are told, too
	alice.must(0, "", []string{"trust", "accept", "bob@b.example", "--fingerprint", reset.Key.String()}, "is accepted")
	var report shorebird.SendReport
	if err := json.Unmarshal([]byte(alice.must(0, "for your new key", []string{"send", "bob@b.example", "--no-copy", "--json"})), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Sent) != 1 || report.Sent[0].Fingerprint != reset.Key.String() {
		t.Errorf("sent: %+v", report)
	}
	got, err := a.deliver("b.example", a.item(<-out.queued))
	if err != nil || len(got) != 1 || got[0].Outcome != queue.Delivered {
		t.Fatalf("delivering: %+v, %v", got, err)
	}
	letters := b.box("bob")
	if len(letters) != 1 {
		t.Fatalf("bob has %d letters", len(letters))
	}
	bob.must(0, "", []string{"open", b.export(bob, letters[0].info.ID)}, "for your new key")
}

// export writes a message to a file of the user's.
func (s *site) export(u *user, id spool.ID) string {
	s.t.Helper()
	r, err := s.spool.Open(id)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return u.write("letter", string(text))
}
