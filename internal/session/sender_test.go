package session_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// submission returns a message from one address to another with the log that entries
// makes for its core digest.
func submission(t *testing.T, from, dest, seed string, entries func(digest [32]byte) []string) string {
	t.Helper()
	h := to(dest)
	h.SourceAccount, h.SourceDomain, _ = strings.Cut(from, "@")
	var log []byte
	for _, e := range entries(digestOf(t, message(t, h, sealed(seed, 100)))) {
		log = append(log, e+"\x00"...)
	}
	var b bytes.Buffer
	if err := cmtp.WriteMessage(&b, h, log, bytesPart(sealed(seed, 100)), nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// by returns a sender entry.
func by(source string, at time.Time, key *crypt.PrivateKey) func([32]byte) []string {
	return func(digest [32]byte) []string {
		s := crypt.NewSender(digest, mustAddress(source), crypt.UnixTimeOf(at), key)
		return []string{s.String()}
	}
}

// twice returns what a function does, two times over.
func twice(f func([32]byte) []string) func([32]byte) []string {
	return func(d [32]byte) []string { return append(f(d), f(d)...) }
}

// A message of a source of ours is refused, for ever and with a reason, when its log shows
// that somebody else has submitted it, or another message.
func TestServer_Sender(t *testing.T) {
	s := serve(t, setup{})
	alice, bob, now := vectorKey(t, "alice"), vectorKey(t, "bob"), time.Now()
	const from = "alice@cref.example"
	cut := by(from, now, alice)([32]byte{1})
	for what, tt := range map[string]struct {
		from    string
		entries func([32]byte) []string
		reason  string // "": it is taken
	}{
		"None":           {from, func([32]byte) []string { return nil }, ""},
		"Own":            {from, by(from, now, alice), ""},
		"OwnInOther":     {"ALICE@Cref.Example.", by(from, now, alice), ""},
		"Subaddress":     {"alice+tag@cref.example", by("alice+tag@cref.example", now, alice), ""},
		"Alias":          {"sales@cref.example", by("sales@cref.example", now, alice), ""},
		"AliasElsewhere": {"team@second.example", by("team@second.example", now, alice), ""},
		"AmongOthers": {from, func(d [32]byte) []string {
			return append([]string{"received x", "senders"}, by(from, now, alice)(d)...)
		}, ""},
		"Two":          {from, twice(by(from, now, alice)), "no single"},
		"Malformed":    {from, func([32]byte) []string { return []string{"sender a=alice"} }, "no single"},
		"MalformedToo": {from, func(d [32]byte) []string { return append(by(from, now, alice)(d), "sender") }, "no single"},
		"OtherSpelling": {from, func(d [32]byte) []string {
			return []string{strings.Replace(by(from, now, alice)(d)[0], "a=alice", "a=Alice", 1)}
		}, "no single"},
		"OtherAccount":     {from, by("bob@cref.example", now, alice), "own source"},
		"OtherDomain":      {from, by("alice@second.example", now, alice), "own source"},
		"AliasAsAccount":   {"sales@cref.example", by(from, now, alice), "own source"},
		"OtherKey":         {from, by(from, now, bob), "not one of the account's"},
		"CutFromAnother":   {from, func([32]byte) []string { return cut }, "another message"},
		"KeyNotYetInForce": {from, by(from, now.Add(-3*time.Hour), alice), "not yours at its time"},
	} {
		for _, dest := range []string{"bob@cref.example", "eve@other.example"} {
			t.Run(what+"/"+dest, func(t *testing.T) {
				c := s.inside()
				c.tb = t
				c.auth(from, alice)
				msg := submission(t, tt.from, dest, what+dest, tt.entries)
				want := cmtp.StatusBadMessage
				switch {
				case tt.reason == "" && dest == "eve@other.example":
					want = cmtp.StatusQueued
				case tt.reason == "":
					want = cmtp.StatusDone
				}
				if got := c.want(want, "MAIL\x00"+msg); !strings.Contains(string(got), tt.reason) {
					t.Errorf("the reason is %q, which does not say %q", got, tt.reason)
				}
				c.end() // it stays in step
			})
		}
	}
	if local, queued := s.mailbox("bob@cref.example"), s.messages(spool.MailboxID(account.Outgoing)); len(local) != 7 || len(queued) != 7 {
		t.Errorf("%d and %d messages are there, want 7 each", len(local), len(queued))
	}
}

// A letter may have waited ten days to be submitted, and the clock may be an hour fast.
func TestServer_Sender_Time(t *testing.T) {
	made := time.Now().Truncate(time.Second)
	now := made.Add(10 * 24 * time.Hour)
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Now = func() time.Time { return now } }})
	alice := vectorKey(t, "alice")
	for what, tt := range map[string]struct {
		at   time.Time
		want cmtp.Status
	}{
		"oldest":  {made, cmtp.StatusDone},
		"too old": {made.Add(-time.Second), cmtp.StatusBadMessage},
		"newest":  {now.Add(time.Hour), cmtp.StatusDone},
		"too new": {now.Add(time.Hour + time.Second), cmtp.StatusBadMessage},
	} {
		c := s.inside()
		c.auth("alice@cref.example", alice)
		got := c.want(tt.want, "MAIL\x00"+submission(t, "alice@cref.example", "bob@cref.example", what, by("alice@cref.example", tt.at, alice)))
		if !tt.want.Done() && !strings.Contains(string(got), "Check your clock") {
			t.Errorf("%s: the reason is %q", what, got)
		}
	}
}

// What was signed with the key before, and submitted after another one took its place, is
// taken; what is signed with a key that was reset is not.
func TestServer_Sender_FormerKey(t *testing.T) {
	s := serve(t, setup{})
	m := newModern(t, "erin@cref.example")
	m.register(s)
	first, c := m.key, s.inside()
	c.auth(m.addr, first)
	second := newKey(t)
	s.rotate(c, m.addr, first, second)
	submit := func(want cmtp.Status, seed string, proven, signer *crypt.PrivateKey) {
		t.Helper()
		c := s.inside()
		c.auth(m.addr, proven)
		c.want(want, "MAIL\x00"+submission(t, m.addr, "bob@cref.example", seed, by(m.addr, time.Now(), signer)))
		c.end()
	}
	submit(cmtp.StatusDone, "with the first", second, first)
	submit(cmtp.StatusDone, "with the second", second, second)

	m.key = newKey(t)
	code, before := s.invite(m.addr, true), s.account(m.addr).Statement()
	c = s.inside()
	f := m.registration(t, m.enroll(c, code), before)
	c.want(cmtp.StatusDone, command(cmtp.Register, m.addr, code)+form(f.Append(nil)))
	submit(cmtp.StatusBadMessage, "with one before the reset", m.key, second)
	submit(cmtp.StatusDone, "with the one after it", m.key, m.key)
}

// In the clear, where the operator serves clients of 2016, an entry is held against the
// account's keys, too, and one of a source elsewhere is left to its readers.
func TestServer_Sender_InTheClear(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.AcceptUnproven = true }})
	alice, bob, now := vectorKey(t, "alice"), vectorKey(t, "bob"), time.Now()
	for what, tt := range map[string]struct {
		from    string
		entries func([32]byte) []string
		want    string
	}{
		"true":      {"alice@cref.example", by("alice@cref.example", now, alice), success(t)},
		"false":     {"alice@cref.example", by("alice@cref.example", now, bob), failure(t)},
		"nobody's":  {"nobody@cref.example", by("nobody@cref.example", now, bob), failure(t)},
		"a server":  {"@cref.example", by("alice@cref.example", now, alice), failure(t)},
		"elsewhere": {"eve@other.example", by("alice@cref.example", now, bob), success(t)},
		"malformed": {"eve@other.example", func([32]byte) []string { return []string{"sender", "sender"} }, success(t)},
	} {
		t.Run(what, func(t *testing.T) {
			s.tb = t
			s.mail(submission(t, tt.from, "bob@cref.example", what, tt.entries), tt.want)
		})
	}
}

// A log that is full is taken with its entry in it, and one byte more is no message.
func TestServer_Sender_FullLog(t *testing.T) {
	s := serve(t, setup{})
	alice := vectorKey(t, "alice")
	const from = "alice@cref.example"
	full := submission(t, from, "bob@cref.example", "full", func(d [32]byte) []string {
		e := by(from, time.Now(), alice)(d)
		return append(e, strings.Repeat("x", cmtp.MaxLog-len(e[0])-2))
	})
	c := s.inside()
	c.auth(from, alice)
	c.want(cmtp.StatusDone, "MAIL\x00"+full)
	h := []byte(full)
	h[15]++ // the log's length
	c.want(cmtp.StatusTooLarge, "MAIL\x00"+string(h))
}
