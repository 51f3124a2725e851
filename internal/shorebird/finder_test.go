package shorebird_test

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

const dora = "dora@example.net" // whose server alice's own one has to ask

// A foreigner is the server of example.net, as alice's own one sees it.
type foreigner struct {
	home      *house
	mu        sync.Mutex
	server    *crypt.PrivateKey
	self      *crypt.PrivateKey // what the server is said to be when it is asked about itself; nil: server
	trust     crypt.Trust
	part      int
	key       *crypt.PrivateKey
	history   []crypt.SignedKey // of dora; nil: key alone
	rotations []crypt.SignedRotation
	refusal   cmtp.Status // of KEYREQUEST, when not zero
	forged    bool

	old   *crypt.PrivateKey        // of dora, which alice's server remembers, and answers a session's first question with; nil: key
	asked map[*clienttest.Conn]int // of proven users

	proven map[*clienttest.Conn]bool
	mail   [][]byte
}

// abroad makes h tell of a foreigner, and queue what is for it.
func (h *house) abroad(t *testing.T) *foreigner {
	f := &foreigner{home: h, server: clienttest.Key(t), trust: crypt.TrustDNS, part: 2, key: clienttest.Key(t), asked: map[*clienttest.Conn]int{}, proven: map[*clienttest.Conn]bool{}}
	h.Answer = f.answer
	return f
}

func (f *foreigner) with(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *foreigner) answer(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case cmd.Verb == cmtp.Auth:
		f.proven[c] = true // else the server refuses, and nothing follows
	case cmd.Verb == cmtp.KeyRequest && c.Channel != nil && string(cmd.Domain()) == "example.net":
		switch {
		case !f.proven[c]:
			return true, c.Fail(cmtp.StatusNotProven, "for users")
		case f.remembers(c):
			defer func(now *crypt.PrivateKey) { f.key = now }(f.key)
			f.key = f.old
			return true, c.Done(f.says(string(cmd.User())))
		case f.refusal != 0:
			return true, c.Fail(f.refusal, "says the server")
		}
		return true, c.Done(f.says(string(cmd.User())))
	case cmd.Verb == cmtp.Mail && f.proven[c]:
		return true, f.queue(c)
	}
	return false, nil
}

// remembers reports whether a question is answered from memory, and counts it.
func (f *foreigner) remembers(c *clienttest.Conn) bool {
	f.asked[c]++
	return f.old != nil && f.asked[c] == 1
}

// says returns the payload about a name.
func (f *foreigner) says(user string) []byte {
	server := f.server
	if user == "" && f.self != nil {
		server = f.self
	}
	a := crypt.Foreign{Trust: f.trust, Server: server.Public()}
	key := f.key.Public()
	if user == "" {
		key = a.Server
	}
	if f.part == 1 {
		a.Key, a.Signature = key, server.Sign(key[:])
		return a.Append(nil)
	}
	name := address.Address{Domain: must(address.ParseDomain("example.net"))}
	keys := f.history
	if user != "" {
		name.Account = must(address.ParseAccount(user))
	}
	if keys == nil || user == "" {
		keys = []crypt.SignedKey{{KeyStatement: crypt.KeyStatement{Name: name, Key: key}}}
	}
	signer := &clienttest.Server{Key: server}
	a.History = signer.History(name, keys)
	if user == "" {
		a.History.Rotations = f.rotations
	}
	if f.forged {
		a.Server = f.key.Public()
	}
	return a.Append(nil)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (f *foreigner) queue(c *clienttest.Conn) error {
	m, err := cmtp.NewMessageReader(c.In, 1<<20)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(m)
	if err != nil {
		return err
	}
	r, err := clienttest.Receipt(m)
	if err != nil {
		return err
	}
	status := cmtp.StatusDone
	if r.Destination.Domain.String() == "example.net" {
		status = cmtp.StatusQueued
	}
	if _, own := f.home.own(b); !own {
		f.mail = append(f.mail, b)
	}
	return c.Reply(cmtp.AppendReply(nil, status, r.AppendSigned(nil, c.Server.Key)))
}

func TestSend_Abroad(t *testing.T) {
	h := privateHouse(t, alice, bob)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	p.want(ok, "Hello Dora", []string{"send", bob, dora, bob, "--json"})
	var v shorebird.SendReport
	p.json(&v)
	if len(v.Sent) != 2 || v.Sent[0].Queued || !v.Sent[1].Queued || v.Sent[1].Receipt == nil {
		t.Fatalf("got %s", p.out.String())
	}
	s := v.Sent[1]
	if s.Key != b64(f.key.Public()) || s.ServerKey != b64(f.server.Public()) || s.Protocol != "CMTP 1" || s.Trust != shorebird.FirstContact ||
		s.Home == nil || s.Home.Domain != "example.org" || s.Home.ServerKey != b64(h.Key.Public()) || s.Home.Vouched != shorebird.VouchedDNS || v.Sent[0].Home != nil {
		t.Errorf("got %+v, home %+v", s, s.Home)
	}
	l, err := letter.Open(bytes.NewReader(f.mail[1]), int64(len(f.mail[1])), []*crypt.PrivateKey{f.key})
	if err != nil || string(l.Text) != "Hello Dora" || l.Header.SourceAccount != "alice" || l.Header.SourceDomain != "example.org" {
		t.Errorf("got %+v, %v", l, err)
	}
	p.want(ok, "x", []string{"send", dora}, "queued for "+dora, f.key.Public().String(), "remembered, vouched for by DNS", "a report comes to your mailbox")
	if k := p.known()["example.net"]; k["key"] != b64(f.server.Public()) || k["cmtp1"] != true || k["told_by"] != "example.org" || k["vouched"] != "dns" {
		t.Errorf("remembered %v", k)
	}
}

func TestKeys_Abroad(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	for trust, words := range map[crypt.Trust]string{
		crypt.TrustFirstContact: "nobody: your server took the key", crypt.TrustDNS: "nothing proves", crypt.TrustDNSSEC: "signed records", crypt.TrustOperator: "by hand",
	} {
		f.with(func() { f.trust = trust })
		p.want(ok, "", []string{"keys", dora}, f.server.Public().String(), f.key.Public().String(), words, "key 1 of the account", "your own server, of example.org")
		if name := p.known()["example.net"]["vouched"]; name != map[crypt.Trust]string{
			crypt.TrustFirstContact: "first_contact", crypt.TrustDNS: "dns", crypt.TrustDNSSEC: "dnssec", crypt.TrustOperator: "operator",
		}[trust] {
			t.Errorf("remembered %v", name)
		}
	}
	f.with(func() { f.trust = crypt.TrustOperator })
	p.want(ok, "", []string{"keys", dora}, "remembered")
	p.want(ok, "", []string{"keys", dora}, "remembered")
	if p.err.Len() > 0 {
		t.Errorf("told although nothing is new: %s", p.err.String())
	}
	f.with(func() { f.trust = crypt.TrustDNS })
	p.want(ok, "", []string{"keys", dora}, "vouches less", "it was your server's operator, and is DNS")
	p.want(ok, "", []string{"keys", dora, "--json"})
	f.with(func() { f.part = 1 })
	p.want(trust, "", []string{"keys", dora}, "has spoken CMTP 1 before", "your own server says")
	p.want(ok, "", []string{"keys", "--forget", "example.net"})
	p.want(ok, "", []string{"keys", dora}, "first contact", "CMTP 0.01", "has none")
	f.with(func() { f.key = clienttest.Key(t) })
	p.want(trust, "", []string{"keys", dora}, "the one before did not sign for it", "--accept-new-key")
	p.want(ok, "", []string{"keys", dora, "--accept-new-key"}, "because you said so")
	f.with(func() { f.part, f.forged = 2, true })
	p.want(trust, "", []string{"keys", dora}, "tells something about a key that cannot be")
}

// Whose account asks is said by the flag, too.
func TestKeys_AbroadAccount(t *testing.T) {
	h := privateHouse(t, alice)
	h.abroad(t)
	where := h.Start(t)
	p := h.recovered(t, where)
	p.configure("server = \"" + where + "\"")
	p.want(refused, "", []string{"keys", dora}, "only from its own users")
	p.want(ok, "", []string{"keys", dora, "--account", alice}, "vouched for by")
	p.want(usage, "", []string{"keys", dora, "--account", "alice"}, "--account")
	q := h.device(t, where)
	q.want(failure, "", []string{"keys", dora}, "the keys are not on this machine", "shorebird recover "+alice)
}

// A server's other key is refused, whoever vouches for it, unless the one before named it.
func TestSend_AbroadServerKey(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	p.want(ok, "", []string{"keys", dora})
	before, after := f.server, clienttest.Key(t)
	f.with(func() { f.server, f.trust = after, crypt.TrustOperator })
	for _, args := range [][]string{{"send", dora}, {"keys", dora}, {"keys", dora, "--accept-new-key"}} {
		p.want(trust, "x", args, "the server's key has changed", before.Public().String(), after.Public().String(),
			"your own server, of example.org; vouched for by your server's operator", "keys --forget example.net", "between your server and it")
	}
	other := clienttest.Key(t)
	r := crypt.Rotation{Domain: parse(t, dora).Domain, Old: other.Public(), New: after.Public(), When: 1}
	f.with(func() { f.rotations = []crypt.SignedRotation{r.Sign(other, after)} })
	p.want(trust, "x", []string{"send", dora}, "the server's key has changed", "nothing was sent")
	// Nor does it help that another key than the one that is told was named.
	r.Old, r.New = before.Public(), other.Public()
	f.with(func() { f.self, f.rotations = other, []crypt.SignedRotation{r.Sign(before, other)} })
	p.want(trust, "x", []string{"send", dora}, "the server's key has changed")
	r.New = after.Public()
	f.with(func() { f.self, f.rotations = nil, []crypt.SignedRotation{r.Sign(before, after)} })
	p.want(ok, "x", []string{"send", dora}, "which the one before has named", "succeeded")
	if k := p.known()["example.net"]; k["key"] != b64(after.Public()) || k["vouched"] != "operator" {
		t.Errorf("remembered %v", k)
	}

	f.with(func() { f.server = clienttest.Key(t) })
	p.want(trust, "x", []string{"send", dora}, "the server's key has changed")
	p.want(ok, "", []string{"keys", "--forget", "example.net"})
	p.want(ok, "x", []string{"send", dora}, "first contact")
	if len(f.mail) != 2 {
		t.Errorf("%d letters came, want 2", len(f.mail))
	}
}

// A user's other key has to be signed for by the one before, as anywhere.
func TestSend_AbroadKey(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	name := parse(t, dora)
	first := crypt.SignedKey{KeyStatement: crypt.KeyStatement{Name: name, Key: f.key.Public(), NotBefore: 1}}
	next := clienttest.Key(t)
	rotated := crypt.SignedKey{KeyStatement: first.Follow(next.Public(), 2)}
	rotated.Old = f.key.Sign(rotated.KeyStatement.Append(nil))
	f.with(func() { f.history = []crypt.SignedKey{first} })
	p.want(ok, "", []string{"keys", dora})
	f.with(func() { f.history = []crypt.SignedKey{first, rotated} })
	p.want(ok, "x", []string{"send", dora}, "which the one before has signed for", next.Public().String())
	f.with(func() { f.history, f.key = nil, clienttest.Key(t) })
	p.want(trust, "x", []string{"send", dora}, "did not sign for it", next.Public().String(), f.key.Public().String())
	p.want(ok, "", []string{"keys", dora, "--accept-new-key"})
	p.want(ok, "x", []string{"send", dora}, f.key.Public().String())
}

func TestSend_AbroadRefused(t *testing.T) {
	h := privateHouse(t, alice, bob)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	for status, want := range map[cmtp.Status]struct {
		code int
		word string
	}{
		cmtp.StatusPeerUnreached:  {temporary, "cannot reach the server of example.net"},
		cmtp.StatusPeerDistrusted: {temporary, "cmtpd trust show example.net"},
		cmtp.StatusNotProven:      {refused, "only from its own users"},
		cmtp.StatusNoAccount:      {refused, "knows no such account"},
		cmtp.StatusForeignDomain:  {refused, "does not write to other domains"},
		cmtp.StatusNoMail:         {refused, "has no mail of this kind"},
		cmtp.StatusTrouble:        {temporary, "Try again later"},
	} {
		f.with(func() { f.refusal = status })
		p.want(want.code, "x", []string{"send", bob, dora}, want.word, "says the server", "nothing was sent")
		p.want(want.code, "x", []string{"keys", dora}, want.word)
	}
	if _, err := os.Stat(p.data("servers.json")); err != nil || p.known()["example.net"] != nil || len(f.mail) > 0 {
		t.Errorf("something was learnt or sent: %v", p.known())
	}
}

// A domain that the configuration names, and --direct, leave the own server out.
func TestKeys_AbroadDirect(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	where := h.Start(t)
	p := h.recovered(t, where)
	theirs := privateHouse(t, dora)
	there := theirs.Start(t)
	p.want(trust, "", []string{"keys", dora, "--server", there}, "the server's key has changed", "add --direct", "of example.org")
	p.want(ok, "x", []string{"send", dora, "--server", there, "--direct"}, theirs.keys[dora].Public().String())
	p.want(trust, "", []string{"keys", dora}, "the server's key has changed", "told by") // what was seen counts
	p.want(ok, "", []string{"keys", "--forget", "example.net"})
	p.want(ok, "", []string{"keys", "--forget", dora})
	p.want(ok, "", []string{"keys", dora}, f.key.Public().String())
	p.configure("account = \"" + alice + "\"\nserver = \"" + where + "\"\n[servers]\n\"example.net\" = \"" + there + "\"")
	p.want(trust, "x", []string{"send", dora}, "the server's key has changed")
	p.want(ok, "", []string{"keys", "--forget", "example.net"})
	p.want(ok, "", []string{"keys", "--forget", dora})
	p.want(ok, "x", []string{"send", dora}, theirs.keys[dora].Public().String())
	if len(f.mail) > 0 {
		t.Error("the own server got a letter")
	}
}

// The own server may answer for other domains by itself, before and after AUTH.
func TestKeys_AbroadAtHome(t *testing.T) {
	h := privateHouse(t, alice)
	h.Users["erna@example.com"] = clienttest.User{Key: clienttest.Key(t).Public()}
	h.abroad(t)
	p := h.recovered(t, h.Start(t))
	auth, questions := h.sent(cmtp.Auth), h.sent(cmtp.KeyRequest)
	p.want(ok, "", []string{"keys", "erna@example.com"}, "first contact", h.Key.Public().String())
	if n := h.sent(cmtp.KeyRequest) - questions; n != 1 {
		t.Errorf("asked %d times for what is the own server's", n)
	}
	if h.sent(cmtp.Auth) != auth || p.known()["example.com"]["key"] != b64(h.Key.Public()) {
		t.Errorf("remembered %v, or proven without need", p.known())
	}
	p.want(ok, "x", []string{"send", dora, "erna@example.com"}, "sent to erna@example.com", "queued for "+dora)

	p.write(p.data("servers.json"), strings.Replace(string(must(os.ReadFile(p.data("servers.json")))), `"example.com": {
    "key": "`+b64(h.Key.Public()), `"example.com": {
    "key": "`+b64(clienttest.Key(t).Public()), 1))
	p.want(trust, "", []string{"keys", "erna@example.com"}, "the server's key has changed")
}

// A channel that was left alone between the answer and the letter is made anew.
func TestSend_AbroadAgain(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	began, asked := p.app.Now(), atomic.Int64{}
	p.app.Now = func() time.Time { return began.Add(time.Duration(asked.Add(1)) * 2 * time.Minute) }
	p.want(ok, "x", []string{"send", dora}, "queued")
	if len(f.mail) != 1 {
		t.Error("no letter came")
	}
}

// What the user's own server remembers is good enough to send with, and not for who asks for a key, or decides about one: they ask a
// second time in the session, and what that fails with they are told.
func TestFinder_Fresh(t *testing.T) {
	h := privateHouse(t, alice, bob)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	p.want(ok, "", []string{"keys", dora})
	old, next := f.key, clienttest.Key(t)
	asked := func(questions int, code int, args []string, words ...string) {
		t.Helper()
		f.with(func() { clear(f.asked) })
		p.want(code, "x", args, words...)
		f.with(func() {
			if n := slices.Collect(maps.Values(f.asked)); !slices.Equal(n, []int{questions}) {
				t.Errorf("%q asks %d times, want %d", args, n, questions)
			}
		})
	}
	asked(2, ok, []string{"keys", dora}, old.Public().String())
	f.with(func() { f.old, f.key = old, next })
	asked(1, ok, []string{"send", dora}, old.Public().String())
	path := p.write(filepath.Join(p.dir, "newest"), string(delivered(t, dora, alice, h.keys[alice].Public(), senderBy(t, dora, 5, next))))
	asked(2, ok, []string{"open", path, "--check"}, "Not checked", "did not sign for it")
	asked(2, trust, []string{"keys", dora}, "did not sign for it", next.Public().String())
	asked(1, ok, []string{"send", dora}, old.Public().String())
	// It is asked for before and after the comparison, which may outlast a session.
	asked(4, ok, []string{"trust", "accept", dora, "--fingerprint", next.Public().String()}, "is accepted")
	f.with(func() { f.old = nil })
	asked(1, ok, []string{"send", dora}, next.Public().String())

	f.with(func() { f.old, f.refusal = next, cmtp.StatusPeerUnreached })
	asked(2, temporary, []string{"keys", dora}, "cannot reach the server of example.net")
	asked(2, temporary, []string{"trust", "accept", dora}, "cannot reach the server of example.net")
	asked(1, ok, []string{"send", dora}, next.Public().String())

	// That there is no such account may be remembered, too.
	f.with(func() { f.old, f.refusal = nil, cmtp.StatusNoAccount })
	asked(2, refused, []string{"keys", dora}, "knows no such account")
}

// A shell takes the quotation marks; what was one argument stays together.
func TestQuery(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"a b"}, "a b"}, {[]string{"a", "b c"}, `a "b c"`}, {[]string{"from:bob", "subject:two words"}, `from:bob subject:"two words"`},
		{[]string{`"a b" c`, "d"}, `"a b" c d`},
	} {
		if got := shorebird.Query(tt.args); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.args, got, tt.want)
		}
	}
}
