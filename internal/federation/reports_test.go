package federation_test

import (
	"crypto/sha256"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/federation"
	"cmtpd/internal/provenance"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

var update = flag.Bool("update", false, "write what reports say into testdata")

func reportsOf(s *site) *federation.Reports {
	return federation.NewReports(s.peers, s.spool, s.directory)
}

// golden holds a text to a file.
func golden(t *testing.T, file string, text string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != text {
		t.Errorf("%s (%v) is\n%s", file, err, text)
	}
}

// Every kind of report says what happened, to whom, when, what the remote said, how often it
// was tried, and what to do.
func TestReports(t *testing.T) {
	at := time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC)
	once := queue.State{Attempts: 1, First: at.Add(time.Second), Last: at.Add(time.Second)}
	often := queue.State{Attempts: 63, First: at.Add(time.Second), Last: at.Add(240 * time.Hour)}
	with := func(s queue.State, status cmtp.Status, reason string) queue.State {
		s.Status, s.Reason = uint16(status), reason
		return s
	}
	for what, tt := range map[string]struct {
		to    string
		state queue.State
		late  bool
	}{
		"no-account":    {"bob@b.example", with(once, 550, "There is no such account here. Check the address."), false},
		"refused":       {"bob@b.example", with(once, 554, "The message is not well-formed."), false},
		"too-large":     {"bob@b.example", with(once, 552, "It is larger than this server takes."), false},
		"wrong-server":  {"bob@b.example", with(once, 551, "This server does not serve that domain."), false},
		"hostile-words": {"bob@b.example", with(once, 550, "\x1b[31mSend money\u202e\nTo: eve"), false},
		"no-cmtp":       {"bob@b.example", with(once, 0, federation.ErrNoCMTP.Error()), false},
		"no-domain":     {"bob@b.example", with(once, 0, "finding the servers of b.example: there is no such name in DNS"), false},
		"domain-gone":   {"bob@b.example", with(often, 0, "finding the servers of b.example: there is no such name in DNS"), false},
		"dead":          {"z\u00f6e@b.example", with(often, 0, "mx.b.example: dial: connection refused"), false},
		"busy":          {"bob@b.example", with(often, 452, "The server has no room for mail at present. Try again later."), false},
		"never-tried":   {"bob@b.example", with(queue.State{}, 0, ""), false},
		"late":          {"bob@b.example", with(once, 0, "mx.b.example: dial: connection refused"), true},
		"late-held":     {"bob@b.example", with(once, 0, "the domain was known by another key, and nothing vouches for this one"), true},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.clock.at = at
			a := w.serve("a.example", options{}, "alice")
			item := a.queued("alice+work", tt.to, "", 1000)
			item.State = tt.state
			r := reportsOf(a)
			tell := func() error { return r.Failed(t.Context(), item) }
			if tt.late {
				tell = func() error { return r.Delayed(t.Context(), item, item.Arrived.Add(240*time.Hour)) }
			}
			if err := tell(); err != nil {
				t.Fatal(err)
			}
			box := a.box("alice")
			if len(box) != 1 {
				t.Fatalf("%d reports", len(box))
			}
			h := box[0].Header
			if h.SourceAccount != "" || h.SourceDomain != "a.example" || h.DestinationAccount != "alice" || h.DestinationDomain != "a.example" || h.System != cmtp.SystemSealed {
				t.Errorf("the envelope is %+v", h)
			}
			digest := cmtp.CoreDigest(h, cmtp.Sum{Length: int64(len(box[0].body)), SHA256: sha256.Sum256(box[0].body)}, nil)
			if v := provenance.Judge(&h, box[0].Log, digest, provenance.Known{Servers: []crypt.PublicKey{a.key.Public()}}); v.Kind != provenance.ByDomain {
				t.Errorf("its reader is told that it is %+v", v)
			}
			b := box[0].open(t, a.users["alice"])
			if int64(b.Time) != at.Unix() || b.ReplyTo != "postmaster@a.example" {
				t.Errorf("%+v", b)
			}
			golden(t, what+".txt", b.Subject+"\n\n"+string(b.Text))
			// Asked twice it is stored once, whatever the last attempt has come to meanwhile.
			item.State.Attempts, item.State.Reason = item.State.Attempts+1, "something else"
			if err := tell(); err != nil || len(a.box("alice")) != 1 {
				t.Errorf("asked again: %d reports, %v", len(a.box("alice")), err)
			}
		})
	}
}

// Late and failed are two reports, and so are two messages, but not one that came twice; nobody but a user of this
// server gets one, and nothing is said of a report.
func TestReports_Storms(t *testing.T) {
	w := newWorld(t)
	a := w.serve("a.example", options{}, "alice", "bob")
	r := reportsOf(a)
	tell := func(item queue.Item) {
		t.Helper()
		if err := r.Failed(t.Context(), item); err != nil {
			t.Error(err)
		}
		if err := r.Delayed(t.Context(), item, time.Time{}); err != nil {
			t.Error(err)
		}
	}
	tell(a.queued("alice", "x@b.example", "", 100))
	tell(a.queued("alice", "x@b.example", "", 100))
	box := a.box("alice")
	if len(box) != 4 {
		t.Fatalf("alice has %d reports", len(box))
	}
	// The same message, handed in once more after it had failed: its sender had no answer.
	again := a.queued("alice", "x@b.example", "", 100)
	twin := again
	twin.ID = a.copy(again.ID)
	tell(again)
	tell(twin)
	if box = a.box("alice"); len(box) != 6 {
		t.Errorf("alice has %d reports", len(box))
	}
	before := a.spool.Stats().Messages
	for _, m := range box {
		tell(a.item(m.info.ID)) // as if a report could be queued
	}
	if n := a.spool.Stats().Messages - before; n != 0 {
		t.Errorf("%d reports about reports", n)
	}
	sealed := make([]byte, 100)
	for what, h := range map[string]cmtp.Header{
		"a stranger":     {SourceAccount: "bob", SourceDomain: "b.example"},
		"nobody":         {SourceDomain: "a.example"},
		"nothing":        {},
		"an unknown one": {SourceAccount: "carol", SourceDomain: "a.example"},
		"no name":        {SourceAccount: "a b", SourceDomain: "a.example"},
		"the postmaster": {SourceAccount: "postmaster", SourceDomain: "a.example"},
	} {
		h.System, h.DestinationAccount, h.DestinationDomain = cmtp.SystemSealed, "bob", "a.example"
		item := a.put(outgoing, h, "", sealed)
		before := a.spool.Stats().Messages
		tell(item)
		if n := a.spool.Stats().Messages - before; n != 0 {
			t.Errorf("%s: %d reports", what, n)
		}
	}
	tell(queue.Item{ID: 1 << 40}) // gone
	if len(a.box("bob")) != 0 {
		t.Error("bob was told of what is not his")
	}
}

// Ten thousand failures of one sender make one report each, and none makes another.
func TestReports_Many(t *testing.T) {
	many := 10_000
	if testing.Short() || raceEnabled { // which makes sealing ten times as slow
		many = 500
	}
	w := newWorld(t)
	a := w.serve("a.example", options{}, "alice")
	r := reportsOf(a)
	items := make([]queue.Item, many)
	each(many, func(i int) { items[i] = a.queued("alice", "bob@b.example", "", 48) })
	for range 2 {
		each(many, func(i int) {
			if err := r.Failed(t.Context(), items[i]); err != nil {
				t.Error(err)
			}
		})
	}
	n := 0
	for _, err := range a.spool.All(0) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 2*many {
		t.Errorf("%d messages, want %d and as many reports", n, many)
	}
	for info := range a.spool.List(spool.MailboxID(outgoing), 0) {
		if n--; info.From == "cmtpd" {
			t.Fatal("a report is to be sent")
		}
	}
	if n != many {
		t.Errorf("%d reports", n)
	}
}

// each calls do for every number below n, for many at a time.
func each(n int, do func(i int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range 64 {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}
