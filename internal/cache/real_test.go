package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

func TestMain(m *testing.M) { os.Exit(cmtptest.Main(m)) }

// A home is a real cmtpd with the mailbox of anna.
type home struct {
	*testing.T
	*cmtptest.Site
	daemon *cmtptest.Daemon
	anna   address.Address
	keys   []*crypt.PrivateKey
}

func newHome(t *testing.T) *home {
	h := &home{T: t, Site: cmtptest.NewSite(t, nil)}
	h.AddUsers(t, "anna")
	h.daemon = h.Start(t)
	var err error
	if h.anna, err = address.Parse("anna@" + cmtptest.Domain); err != nil {
		t.Fatal(err)
	}
	ch := h.open()
	ring, _, err := client.Unseal(ch, h.anna, []byte(cmtptest.Password))
	if err != nil {
		t.Fatal(err)
	}
	h.keys = []*crypt.PrivateKey{ring.Keys[0].Key}
	return h
}

// open goes inside the channel.
func (h *home) open() *client.Channel {
	h.Helper()
	_, ch, err := (&client.Dialer{Timeout: time.Minute}).Open(h.Context(), h.daemon.Shared[0], true)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { ch.Close() })
	ch.Accept()
	return ch
}

// post has anna write letters to herself, with these subjects.
func (h *home) post(subjects ...string) {
	h.Helper()
	ch := h.signIn()
	for _, s := range subjects {
		m, err := (&letter.Draft{Time: time.Now(), Subject: s, Text: []byte("about " + s)}).Seal(h.anna, h.anna, h.keys[0].Public())
		if err != nil {
			h.Fatal(err)
		}
		if _, err := ch.Send(m.Header, nil, m.Body, nil); err != nil {
			h.Fatal(err)
		}
	}
}

func (h *home) signIn() *client.Channel {
	h.Helper()
	ch := h.open()
	if _, err := ch.Auth(h.anna, h.keys[0]); err != nil {
		h.Fatal(err)
	}
	return ch
}

// restore puts the data back as they are in a backup, and starts a daemon with them.
func (h *home) restore(backup string) {
	h.Helper()
	if err := os.RemoveAll(h.Data); err != nil {
		h.Fatal(err)
	}
	h.Must(h, "", "restore", backup)
	h.daemon = h.Start(h)
}

// A machine is one of anna's.
type machine struct {
	*home
	copy *cache.Cache
}

func (h *home) machine() *machine {
	h.Helper()
	return &machine{h, open(h, filepath.Join(h.TempDir(), "anna.mail"), h.keys[0])}
}

// sync does so over a connection of its own.
func (d *machine) sync() *cache.Report {
	d.Helper()
	s := syncer(d.copy)
	s.Open = func(_ context.Context, _ *cache.Message, sealed []byte, _ int) (*cache.Opened, error) {
		l, err := letter.Open(bytes.NewReader(sealed), int64(len(sealed)), d.keys)
		if err != nil {
			return nil, err
		}
		return &cache.Opened{Written: l.Time, Subject: l.Subject, Text: string(l.Text)}, nil
	}
	r, err := s.Run(d.Context(), d.signIn())
	if err != nil {
		d.Fatal(err)
	}
	if r.Unopenable+r.Unreadable+len(r.GivenUp) > 0 {
		d.Errorf("the sync: %+v", r)
	}
	return r
}

// note notes something of the letter with a subject, for the next sync.
func (d *machine) note(subject string, n cache.Note) {
	d.Helper()
	if err := d.copy.Change(d.Context(), []int64{d.find(subject)}, n); err != nil {
		d.Fatal(err)
	}
}

func (d *machine) find(subject string) int64 {
	d.Helper()
	for _, m := range list(d, d.copy, cache.Filter{Limit: 1000}) {
		if m.Opened != nil && m.Opened.Subject == subject {
			return m.ID
		}
	}
	d.Fatalf("there is no letter %q", subject)
	return 0
}

// shows is what the device shows of all letters, a line each.
func (d *machine) shows() (all []string) {
	d.Helper()
	for _, m := range list(d, d.copy, cache.Filter{Limit: 1000}) {
		slices.Sort(m.Words)
		all = append(all, fmt.Sprintf("%s %x %q %x", m.Opened.Subject, m.Flags, m.Words, m.SHA256))
	}
	return all
}

// alike fails unless all devices show the same number of letters, in the same way, as a new one does.
func (h *home) alike(n int, all ...*machine) {
	h.Helper()
	fresh := h.machine()
	if r := fresh.sync(); r.Fetched != n {
		h.Errorf("a new device has fetched %d letters, not %d", r.Fetched, n)
	}
	want := fresh.shows()
	for i, d := range all {
		if got := d.shows(); !slices.Equal(got, want) {
			h.Errorf("device %d shows\n%s\nand a new one\n%s", i, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// many is more letters than the first answer to a LIST has.
const many = 130

// At a real server: devices that change things while they are apart end alike, and a new one shows what
// they show. After a restore from a backup all numbers are others; nothing is fetched again, what only
// the lost data had is gone, and what was changed meanwhile reaches the server.
func TestSyncer_Server(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	var subjects []string
	for i := range many {
		subjects = append(subjects, fmt.Sprintf("letter %d", i))
	}
	h.post(subjects...)
	one, two := h.machine(), h.machine()
	for _, d := range []*machine{one, two} {
		if r := d.sync(); r.Fetched != many || r.Changes != many {
			t.Errorf("a new device: %+v", r)
		}
	}
	one.note("letter 7", cache.Note{Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen, Add: []string{"home"}})
	one.note("letter 8", cache.Note{Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen})
	two.note("letter 7", cache.Note{Mask: cmtp.FlagFlagged, Flags: cmtp.FlagFlagged, Add: []string{"tax"}})
	if err := two.copy.Delete(t.Context(), []int64{two.find("letter 9")}); err != nil {
		t.Fatal(err)
	}
	one.sync()
	two.sync()
	one.sync()
	if m, err := one.copy.Message(t.Context(), one.find("letter 7")); err != nil || m.Flags != cmtp.FlagSeen|cmtp.FlagFlagged || len(m.Words) != 2 {
		t.Errorf("what two devices have noted of one letter: %+v, %v", m, err)
	}
	h.alike(many-1, one, two)

	backup := filepath.Join(t.TempDir(), "backup")
	h.Must(t, "", "backup", backup)
	h.post("lost")
	one.note("letter 8", cache.Note{Mask: cmtp.FlagAnswered, Flags: cmtp.FlagAnswered})
	if r := one.sync(); r.Fetched != 1 || r.Told != 1 {
		t.Errorf("before the restore: %+v", r)
	}
	h.daemon.Stop(t)
	two.note("letter 6", cache.Note{Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen, Add: []string{"later"}})
	h.restore(backup)
	h.post("after")
	if r := two.sync(); !r.Anew || r.Fetched != 1 || r.Told != 1 {
		t.Errorf("after the restore: %+v", r)
	}
	if r := one.sync(); !r.Anew || r.Fetched != 1 || r.Told != 0 {
		t.Errorf("the other device after the restore: %+v", r)
	}
	if m, err := one.copy.Message(t.Context(), one.find("letter 6")); err != nil || m.Flags != cmtp.FlagSeen || !slices.Equal(m.Words, []string{"later"}) {
		t.Errorf("what was noted while the server was down: %+v, %v", m, err)
	}
	h.alike(many, one, two)
}
