package shorebird_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
)

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

func TestKeys_Upgrade(t *testing.T) {
	h := privateHouse(t, bob)
	p := newPerson(t)
	p.want(ok, "", []string{"keys", bob, "--server", h.twin(t).Start(t)}, "CMTP 0.01", "history", "has none")
	p.want(ok, "", []string{"keys", bob, "--server", h.Start(t)}, "CMTP 1", "remembered")
	if p.known()["example.org"]["cmtp1"] != true {
		t.Errorf("remembered %v", p.known())
	}
}

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

func (h *house) twinOf(t *testing.T, name string) *house {
	w := h.twin(t)
	w.Users[name] = w.Users[bob]
	return w
}

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
