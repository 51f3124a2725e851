package shorebird_test

import (
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
)

// known returns what is remembered of the servers.
func (p *person) known() map[string]map[string]any {
	p.t.Helper()
	b, err := os.ReadFile(p.data("servers.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[string]map[string]any{}
	if err := json.Unmarshal(b, &all); err != nil {
		p.t.Fatal(err)
	}
	return all
}

// twin is another server with the same key and users, of CMTP 0.01.
func (h *house) twin(t *testing.T) *house {
	w := &house{clienttest.NewServer(t), h.keys}
	w.Key, w.Users = h.Key, h.Users
	return w
}

func TestKeys_Private(t *testing.T) {
	h := privateHouse(t, bob)
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", h.Start(t), "--json"})
	var v shorebird.KeysReport
	p.json(&v)
	if v.Protocol != "CMTP 1" || v.Statements != 1 || v.Resets != 0 || v.Key != b64(h.keys[bob].Public()) || v.Trust != shorebird.FirstContact {
		t.Errorf("got %+v", v)
	}
	if p.known()["example.org"]["cmtp1"] != true {
		t.Errorf("remembered %v", p.known())
	}
}

// A domain that has spoken CMTP 1 is not spoken to without it any more.
func TestKeys_Downgrade(t *testing.T) {
	h := privateHouse(t, bob, alice)
	p := h.device(t, h.Start(t))
	p.want(ok, "", []string{"keys", bob})
	strip := map[string]func(*house){
		"Version":  func(*house) {},
		"Greeting": func(h *house) { h.Greeting = "220 mx.example.org ESMTP ready\r\n" },
		"StartTLS": func(h *house) {
			h.Private = true
			h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.StartTLS {
					return false, nil
				}
				return true, c.Word(cmtp.Failure)
			}
		},
	}
	for name, do := range strip {
		t.Run(name, func(t *testing.T) {
			w := h.twin(t)
			do(w)
			where := w.Start(t)
			for _, args := range [][]string{{"keys", bob}, {"send", bob}, {"recover", alice}, {"passwd"}, {"register", carol, "--code-stdin"}} {
				p.want(trust, h.invites(carol), append(args, "--server", where), "has spoken CMTP 1 before", "Try another network")
			}
			for _, v := range w.Verbs() {
				if v != cmtp.Ohai && v != cmtp.StartTLS && v != cmtp.Obai {
					t.Errorf("%v was sent", v)
				}
			}
		})
	}
	// Another domain of the same server has not.
	w := h.twin(t)
	w.Users["bob@example.net"] = w.Users[bob]
	where := w.Start(t)
	p.want(ok, "", []string{"keys", "bob@example.net", "--server", where, "--direct"}, "CMTP 0.01")
	p.want(trust, "x", []string{"send", "bob@example.net", bob, "--from", "alice@example.com", "--server", where, "--direct"}, "has spoken CMTP 1 before", "nothing was sent")
}

// From CMTP 0.01 to CMTP 1 nothing is asked: key and server are the same.
func TestKeys_Upgrade(t *testing.T) {
	h := privateHouse(t, bob)
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", h.twin(t).Start(t)}, "CMTP 0.01", "history", "has none")
	p.want(ok, "", []string{"keys", bob, "--server", h.Start(t)}, "CMTP 1", "remembered")
	if p.known()["example.org"]["cmtp1"] != true {
		t.Errorf("remembered %v", p.known())
	}
}

// An impostor is asked for the history of its key and for nothing else.
func TestKeys_PrivateImpostor(t *testing.T) {
	h, other := privateHouse(t, bob, alice), privateHouse(t, bob, alice)
	p := h.device(t, h.Start(t))
	p.want(ok, "", []string{"keys", bob})
	where := other.Start(t)
	for _, args := range [][]string{{"keys", bob}, {"send", bob}, {"recover", alice}, {"register", carol, "--code-stdin"}} {
		p.want(trust, h.invites(carol), append(args, "--server", where), "the server's key has changed", "--forget example.org")
	}
	for _, v := range other.Verbs() {
		if v != cmtp.Ohai && v != cmtp.StartTLS && v != cmtp.KeyRequest {
			t.Errorf("%v was sent", v)
		}
	}
}

// successor answers for a server whose key was changed, with these rotations.
func (h *house) successor(t *testing.T, rotations ...crypt.SignedRotation) {
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.KeyRequest || c.Channel == nil || len(cmd.User()) > 0 {
			return false, nil
		}
		name := parse(t, "x@"+string(cmd.Domain()))
		name.Account = address.Account{}
		history := h.History(name, []crypt.SignedKey{{KeyStatement: crypt.KeyStatement{Name: name, Key: h.Key.Public()}}})
		history.Rotations = rotations
		return true, c.Done(history.Append(nil))
	}
}

func TestKeys_ServerRotation(t *testing.T) {
	domain := parse(t, bob).Domain
	before := privateHouse(t, bob)
	after := before.twin(t)
	after.Private, after.Key = true, clienttest.Key(t)
	r := crypt.Rotation{Domain: domain, Old: before.Key.Public(), New: after.Key.Public(), When: 1}
	after.successor(t, r.Sign(before.Key, after.Key))
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", before.Start(t)})
	where := after.Start(t)
	p.want(ok, "", []string{"keys", bob, "--server", where}, "succeeded", "has a new key, which the one before has named", after.Key.Public().String())
	p.want(ok, "", []string{"keys", bob, "--server", where}, "remembered")

	// Who follows another key does not follow this one.
	stranger := privateHouse(t, bob)
	other := crypt.Rotation{Domain: domain, Old: before.Key.Public(), New: stranger.Key.Public(), When: 1}
	stranger.successor(t, other.Sign(before.Key, stranger.Key))
	p.want(trust, "", []string{"keys", bob, "--server", stranger.Start(t)}, "the server's key has changed")
}

// Keys that name a server that has another key by now belong to it all the same.
func TestRecover_ServerRotation(t *testing.T) {
	before := privateHouse(t, alice)
	after := before.twin(t)
	after.Private, after.Key = true, clienttest.Key(t)
	r := crypt.Rotation{Domain: parse(t, alice).Domain, Old: before.Key.Public(), New: after.Key.Public(), When: 1}
	after.successor(t, r.Sign(before.Key, after.Key))
	where := after.Start(t)
	p := before.device(t, where)
	p.want(ok, "", []string{"recover", alice})
	p.want(ok, "", []string{"rotate"})
	if ring := p.ring(secret); ring.Server != after.Key.Public() {
		t.Error("the keys still name the server that was")
	}
}

func TestContacts(t *testing.T) {
	name := parse(t, bob)
	keys := []*crypt.PrivateKey{clienttest.Key(t), clienttest.Key(t), clienttest.Key(t)}
	first := crypt.SignedKey{KeyStatement: crypt.KeyStatement{Name: name, Key: keys[0].Public(), NotBefore: 100}}
	follow := func(before crypt.SignedKey, i int, by *crypt.PrivateKey) crypt.SignedKey {
		s := before.Follow(keys[i].Public(), crypt.UnixTime(100*(i+1)))
		if by == nil {
			s.Reset = true
			return crypt.SignedKey{KeyStatement: s}
		}
		return crypt.SignedKey{KeyStatement: s, Old: by.Sign(s.Append(nil))}
	}
	second := follow(first, 1, keys[0])
	third := follow(second, 2, keys[1])
	reset := follow(first, 1, nil)
	afterReset := follow(reset, 2, keys[1])
	fresh := crypt.SignedKey{KeyStatement: crypt.KeyStatement{Name: name, Key: keys[0].Public(), NotBefore: 101}}
	tests := map[string]struct {
		seen, now []crypt.SignedKey
		part1     bool // seen over CMTP 0.01
		code      int
		word      string
	}{
		"Same":          {[]crypt.SignedKey{first}, []crypt.SignedKey{first}, false, ok, "key 1"},
		"Rotated":       {[]crypt.SignedKey{first}, []crypt.SignedKey{first, second}, false, ok, "which has signed for the new one"},
		"RotatedTwice":  {[]crypt.SignedKey{first}, []crypt.SignedKey{first, second, third}, false, ok, "key 3"},
		"Reset":         {[]crypt.SignedKey{first}, []crypt.SignedKey{first, reset}, false, trust, "the key was reset"},
		"ResetBefore":   {[]crypt.SignedKey{first, reset}, []crypt.SignedKey{first, reset, afterReset}, false, ok, "was reset 1 times"},
		"ResetOnTheWay": {[]crypt.SignedKey{first}, []crypt.SignedKey{first, reset, afterReset}, false, trust, "the key was reset"},
		"Older":         {[]crypt.SignedKey{first, second}, []crypt.SignedKey{first}, false, trust, "did not sign for it"},
		"Forked":        {[]crypt.SignedKey{first, second}, []crypt.SignedKey{first, reset}, false, trust, "did not sign for it"},
		"WrittenAnew":   {[]crypt.SignedKey{first}, []crypt.SignedKey{fresh}, false, trust, "did not sign for it"},
		"Part1Same":     {[]crypt.SignedKey{first}, []crypt.SignedKey{first}, true, ok, "key 1"},
		"Part1Rotated":  {[]crypt.SignedKey{first}, []crypt.SignedKey{first, second}, true, ok, "which has signed for the new one"},
		"Part1Reset":    {[]crypt.SignedKey{first}, []crypt.SignedKey{first, reset}, true, trust, "the key was reset"},
		"Part1Other":    {[]crypt.SignedKey{second}, []crypt.SignedKey{first}, true, trust, "did not sign for it"},
	}
	for test, tt := range tests {
		t.Run(test, func(t *testing.T) { metTwice(t, tt.seen, tt.now, tt.part1, tt.code, tt.word) })
	}
}

// metTwice meets bob with one history, and then with another.
func metTwice(t *testing.T, before, now []crypt.SignedKey, part1 bool, code int, word string) {
	h := privateHouse(t)
	set := func(keys []crypt.SignedKey) { h.set(bob, clienttest.User{History: keys, Key: keys[len(keys)-1].Key}) }
	set(before)
	where, p := h.Start(t), newPerson(t)
	seen := where
	if part1 {
		seen = h.twin(t).Start(t)
	}
	p.want(ok, "", []string{"keys", bob, "--server", seen})
	set(now)
	p.want(code, "x", []string{"keys", bob, "--server", where}, word)
	if code == ok {
		p.want(ok, "", []string{"keys", bob, "--server", where})
		return
	}
	p.want(trust, "x", []string{"send", bob, "--from", "carol@example.net", "--server", where}, word, "keys "+bob+" --accept-new-key", "nothing was sent")
	if n := h.sent(cmtp.Mail); n > 0 {
		t.Errorf("%d letters were sent", n)
	}
	p.want(ok, "", []string{"keys", bob, "--server", where, "--accept-new-key", "--json"})
	var v shorebird.KeysReport
	p.json(&v)
	was, is := before[len(before)-1].Key, now[len(now)-1].Key
	if was != is && (v.Previous != was.String() || v.Change != shorebird.AcceptedIt) {
		t.Errorf("got %+v", v)
	}
	p.want(ok, "x", []string{"send", bob, "--from", "carol@example.net", "--server", where})
}

func TestContacts_Forget(t *testing.T) {
	h, other := newHouse(t, bob), newHouse(t, bob)
	other.Key = h.Key
	p := newPerson(t)
	p.want(ok, "", []string{"keys", "bob+tag@example.org", "--server", h.twinOf(t, "bob+tag@example.org").Start(t)})
	where := other.Start(t)
	p.want(trust, "", []string{"keys", bob, "--server", where}, "did not sign for it")
	p.want(ok, "", []string{"keys", "--forget", bob}, "The key of "+bob+" is forgotten", h.keys[bob].Public().String())
	p.want(failure, "", []string{"keys", "--forget", bob, "--json"}, "no key is remembered")
	p.want(ok, "", []string{"keys", bob, "--server", where})
	p.want(ok, "", []string{"keys", "--forget", bob, "--json"})
	var v shorebird.ForgetReport
	p.json(&v)
	if v.Address != bob || v.Domain != "" || v.Key != b64(other.keys[bob].Public()) {
		t.Errorf("got %+v", v)
	}
}

// twinOf also answers for another name of bob's.
func (h *house) twinOf(t *testing.T, name string) *house {
	w := h.twin(t)
	w.Users[name] = w.Users[bob]
	return w
}

// A name that leads to the server's own key, as a postmaster's may, is the server's
// affair: its key may change as the server's may.
func TestContacts_ServersOwnKey(t *testing.T) {
	const postmaster = "postmaster@example.org"
	h, other := newHouse(t), newHouse(t)
	for _, h := range []*house{h, other} {
		h.Users[postmaster] = clienttest.User{Key: h.Key.Public()}
	}
	p := newPerson(t)
	p.want(ok, "", []string{"keys", postmaster, "--server", h.Start(t)})
	p.want(ok, "", []string{"keys", "--forget", "example.org"})
	p.want(ok, "", []string{"keys", postmaster, "--server", other.Start(t)}, "first contact")
}

// A tag does not lead around what is remembered of the name before it, whatever the
// server says of the longer name.
func TestContacts_Subaddress(t *testing.T) {
	const tagged = "bob+lists@example.org"
	for _, says := range []string{"AnotherAccount", "Alias"} {
		t.Run(says, func(t *testing.T) {
			h := privateHouse(t, bob)
			where, p := h.Start(t), newPerson(t)
			args := []string{"send", tagged, "--from", "carol@example.net", "--server", where}
			p.want(ok, "", []string{"keys", bob, "--server", where})
			other := clienttest.Key(t).Public()
			if says == "Alias" {
				h.leads(t, tagged, carol, other)
			} else {
				h.set(tagged, clienttest.User{Key: other})
			}
			p.want(trust, "x", args, bob+": the key has changed", "keys "+tagged+" --accept-new-key", "nothing was sent")

			// Who accepts the longer name's key has not accepted it for the shorter one.
			p.want(ok, "", []string{"keys", tagged, "--server", where, "--accept-new-key"}, "because you said so")
			p.want(ok, "x", args)
			p.want(ok, "", []string{"keys", bob, "--server", where})
		})
	}
}

// An alias of a name that nobody knows may lead anywhere, each of its tags, too.
func TestContacts_AliasFirst(t *testing.T) {
	h := privateHouse(t, carol)
	where, p := h.Start(t), newPerson(t)
	h.leads(t, "sales+x@example.org", carol, h.keys[carol].Public())
	for range 2 {
		p.want(ok, "x", []string{"send", "sales+x@example.org", "--from", "carol@example.net", "--server", where})
	}
	h.leads(t, "sales+x@example.org", carol, clienttest.Key(t).Public())
	p.want(trust, "x", []string{"keys", "sales+x@example.org", "--server", where}, "did not sign for it")
}

// leads makes a name an alias of another, which has this key.
func (h *house) leads(t *testing.T, from, to string, key crypt.PublicKey) {
	asked, name := parse(t, from), parse(t, to)
	history := h.History(name, []crypt.SignedKey{{KeyStatement: crypt.KeyStatement{Name: name, Key: key}}})
	alias := crypt.Alias{From: asked, To: name}
	history.Alias = &crypt.SignedAlias{Alias: alias, Server: h.Key.Sign(alias.Append(nil))}
	h.With(func() {
		h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
			if cmd.Verb != cmtp.KeyRequest || c.Channel == nil || string(cmd.User()) != asked.Account.String() {
				return false, nil
			}
			return true, c.Done(history.Append(nil))
		}
	})
}

func TestSend_Receipt(t *testing.T) {
	h := privateHouse(t, bob, alice)
	p := h.recovered(t, h.Start(t))
	p.want(ok, "x", []string{"send", bob, "--json"})
	var v shorebird.SendReport
	p.json(&v)
	if len(v.Sent) != 1 || v.Sent[0].Receipt == nil {
		t.Fatalf("got %+v", v)
	}
	r := v.Sent[0].Receipt
	if len(r.Digest) != 64 || len(r.Hash) != 64 || r.Commit != 1 || time.Since(r.Time) > time.Hour || v.Sent[0].Queued || v.Sent[0].Protocol != "CMTP 1" {
		t.Errorf("got %+v", r)
	}
	verbs := h.Verbs()
	if mail, auth := slices.Index(verbs, cmtp.Mail), slices.Index(verbs, cmtp.Auth); auth < 0 || auth > mail {
		t.Errorf("the user was not proven before: %v", verbs)
	}
}

// Other servers are not shown who we are.
func TestSend_Guest(t *testing.T) {
	h := privateHouse(t, bob, alice)
	p := h.recovered(t, h.Start(t))
	before := h.sent(cmtp.Auth)
	p.want(ok, "x", []string{"send", bob, "--from", "alice@example.net"})
	if n := h.sent(cmtp.Auth) - before; n > 0 {
		t.Errorf("%d AUTH", n)
	}
	// A server that answers for both domains is the own one.
	h.set("bob@example.net", h.user(bob))
	p.want(ok, "x", []string{"send", "bob@example.net"})
	if n := h.sent(cmtp.Auth) - before; n != 1 {
		t.Errorf("%d AUTH, want 1", n)
	}
	q := newPerson(t)
	q.want(failure, "x", []string{"send", bob, "--from", alice, "--server", h.Start(t)}, "the keys are not on this machine", "shorebird recover "+alice, "nothing was sent")
}

func TestSend_Answers(t *testing.T) {
	fail := func(s cmtp.Status, reason string) func(*clienttest.Conn, *cmtp.MessageReader) error {
		return func(c *clienttest.Conn, _ *cmtp.MessageReader) error { return c.Fail(s, reason) }
	}
	receipt := func(change func(*crypt.Receipt, *clienttest.Conn) *crypt.PrivateKey, status cmtp.Status) func(*clienttest.Conn, *cmtp.MessageReader) error {
		return func(c *clienttest.Conn, m *cmtp.MessageReader) error {
			r, err := clienttest.Receipt(m)
			if err != nil {
				return err
			}
			return c.Reply(cmtp.AppendReply(nil, status, r.AppendSigned(nil, change(r, c))))
		}
	}
	own := func(_ *crypt.Receipt, c *clienttest.Conn) *crypt.PrivateKey { return c.Server.Key }
	tests := map[string]struct {
		answer func(*clienttest.Conn, *cmtp.MessageReader) error
		code   int
		word   string
	}{
		"Queued":        {receipt(own, cmtp.StatusQueued), ok, "queued for " + bob},
		"OtherDigest":   {receipt(func(r *crypt.Receipt, c *clienttest.Conn) *crypt.PrivateKey { r.Digest[0]++; return c.Server.Key }, cmtp.StatusDone), trust, "not known whether"},
		"OtherSigner":   {receipt(func(*crypt.Receipt, *clienttest.Conn) *crypt.PrivateKey { return clienttest.Key(t) }, cmtp.StatusDone), trust, "receipt"},
		"NoRoom":        {fail(cmtp.StatusNoRoom, "the disk is full"), temporary, "the disk is full"},
		"TooOften":      {fail(cmtp.StatusTooOften, "after 12:30 UTC"), temporary, "after 12:30 UTC"},
		"ForeignSource": {fail(cmtp.StatusForeignSource, "not yours"), refused, "--from"},
		"TooLarge":      {fail(cmtp.StatusTooLarge, "at most 1 byte"), refused, "at most 1 byte"},
		"Unknown":       {fail(599, "for reasons \u202e of its own"), refused, `for reasons \u202e of its own`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := privateHouse(t, bob, alice)
			h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.Mail {
					return false, nil
				}
				m, err := cmtp.NewMessageReader(c.In, 1<<20)
				if err == nil {
					_, err = io.Copy(io.Discard, m)
				}
				if err != nil {
					return true, err
				}
				return true, tt.answer(c, m)
			}
			p := h.recovered(t, h.Start(t))
			p.want(tt.code, "x", []string{"send", bob}, tt.word)
		})
	}
}

// A channel that was left alone for long is made anew, and the user proven anew.
func TestSend_PrivateAgain(t *testing.T) {
	h := privateHouse(t, bob, carol, alice)
	p := h.recovered(t, h.Start(t))
	now := p.app.Now()
	var passed atomic.Int64 // copies are sealed, and look at the clock, at the same time
	var pause atomic.Bool
	p.app.Now = func() time.Time {
		if pause.Load() {
			passed.Add(int64(2 * time.Minute))
		}
		return now.Add(time.Duration(passed.Load()))
	}
	pause.Store(true)
	before := h.sent(cmtp.Auth)
	p.want(ok, "x", []string{"send", bob, carol})
	if n := h.sent(cmtp.Auth) - before; n < 2 {
		t.Errorf("%d AUTH", n)
	}
	if n := len(h.Messages()); n != 2 {
		t.Errorf("%d letters came", n)
	}
}

// What a server says in a refusal does not steer the terminal.
func TestStatus_Hints(t *testing.T) {
	for status, want := range map[cmtp.Status]struct {
		code int
		word string
	}{
		cmtp.StatusNoAccount: {refused, "Check the address"}, cmtp.StatusForeignDomain: {refused, "not the server of that domain"},
		cmtp.StatusSwitchedOff: {refused, "operator"}, cmtp.StatusTrouble: {temporary, "Try again later"}, cmtp.StatusClosing: {temporary, "Try again later"},
	} {
		h := privateHouse(t, bob)
		h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
			if cmd.Verb != cmtp.KeyRequest {
				return false, nil
			}
			return true, c.Fail(status, "because \u2066 of this")
		}
		p := newPerson(t)
		p.want(want.code, "", []string{"keys", bob, "--server", h.Start(t)}, want.word, `because \u2066 of this`)
		if strings.Contains(p.err.String(), "\u2066") {
			t.Error("it reached the terminal")
		}
	}
}

// A server that answers with its own key for somebody whose key is remembered would read
// the letter: it is as wrong as any other key, over either part of the protocol.
func TestContacts_ServersOwnKeyInstead(t *testing.T) {
	for _, private := range []bool{true, false} {
		h := newHouse(t, bob)
		h.Private = private
		where, p := h.Start(t), newPerson(t)
		p.want(ok, "x", []string{"send", bob, "--from", "carol@example.net", "--server", where})
		h.set(bob, clienttest.User{Key: h.Key.Public()})
		sent := h.sent(cmtp.Mail)
		if got := p.run("x", "send", bob, "--from", "carol@example.net", "--server", where); got != 4 || h.sent(cmtp.Mail) != sent {
			t.Errorf("private %v: ended with %d, %d letters more\n%s", private, got, h.sent(cmtp.Mail)-sent, p.err.String())
		}
	}
}
