package shorebird_test

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

// coreDigest returns that of a whole message.
func coreDigest(t *testing.T, b []byte) ([32]byte, []string) {
	t.Helper()
	m, err := cmtp.NewMessageReader(bytes.NewReader(b), 1<<30)
	if err == nil {
		_, err = io.Copy(io.Discard, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return must(m.Digest()), cmtp.LogEntries(m.Log())
}

// signed fails the test unless a message was signed by key as from, and nothing else is
// in its log.
func signed(t *testing.T, b []byte, from string, key crypt.PublicKey, at time.Time) {
	t.Helper()
	digest, log := coreDigest(t, b)
	if len(log) != 1 {
		t.Fatalf("the log is %q", log)
	}
	s, err := crypt.ParseSender(log[0])
	if err != nil || s.Name != parse(t, from) || s.When != crypt.UnixTimeOf(at) || !s.Verify(digest, key) {
		t.Errorf("signed as %+v, %v", s, err)
	}
}

// What the user's own server takes is signed with the account's newest key; what goes
// anywhere else is not.
func TestSend_Signed(t *testing.T) {
	h := privateHouse(t, alice, bob)
	f := h.abroad(t)
	where := h.Start(t)
	p := h.recovered(t, where)
	plan := p.write(filepath.Join(p.dir, "plan"), strings.Repeat("the plan ", 20000))
	p.want(ok, "Hello", []string{"send", bob, dora, "-a", plan, "-a", plan})
	p.want(ok, "Hello", []string{"send", dora, "--from", "alice+tag@example.org"})
	p.want(ok, "Hello", []string{"send", dora, "--from", "sales@example.org"})
	first := h.keys[alice].Public()
	for i, from := range []string{alice, alice, "alice+tag@example.org", "sales@example.org"} {
		signed(t, f.mail[i], from, first, p.app.Now())
	}
	p.want(ok, "", []string{"rotate"})
	p.want(ok, "Hello", []string{"send", dora})
	if newest := h.Users[alice].History; len(newest) != 2 {
		t.Fatalf("%d keys", len(newest))
	} else {
		signed(t, f.mail[4], alice, newest[1].Key, p.app.Now())
	}

	theirs := privateHouse(t, dora)
	p.want(ok, "", []string{"keys", "--forget", "example.net"})
	p.want(ok, "", []string{"keys", "--forget", dora})
	p.want(ok, "Hello", []string{"send", dora, "--direct", "--server", theirs.Start(t)})
	if _, log := coreDigest(t, theirs.Messages()[0]); len(log) > 0 {
		t.Errorf("a stranger was given %q", log)
	}
}

// In CMTP 0.01 nobody is proven, and nothing is signed.
func TestSend_NotSigned(t *testing.T) {
	h := newHouse(t, alice, bob)
	p := h.reader(t, alice)
	p.want(ok, "Hello", []string{"send", bob, "--from", alice, "--server", h.Start(t)})
	if _, log := coreDigest(t, h.Messages()[0]); len(log) > 0 {
		t.Errorf("the log is %q", log)
	}
}

// delivered returns a letter with the entries that log makes for its core digest.
func delivered(t *testing.T, from, to string, key crypt.PublicKey, log func(digest [32]byte) []string) []byte {
	t.Helper()
	m, err := (&letter.Draft{Time: time.Unix(1, 0), Text: []byte("Hello\n")}).Seal(parse(t, from), parse(t, to), key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	digest, _ := coreDigest(t, b.Bytes())
	for _, e := range log(digest) {
		m.Log = append(m.Log, e+"\x00"...)
	}
	b.Reset()
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func senderBy(t *testing.T, from string, at crypt.UnixTime, key *crypt.PrivateKey) func([32]byte) []string {
	return func(digest [32]byte) []string {
		s := crypt.NewSender(digest, parse(t, from), at, key)
		return []string{s.String()}
	}
}

func originBy(t *testing.T, from string, key *crypt.PrivateKey) func([32]byte) []string {
	return func(digest [32]byte) []string {
		o := crypt.NewOrigin(digest, parse(t, from), 7, key)
		return []string{"received by=x from=- at=7 id=1 with=CMTP1", o.String()}
	}
}

func both(a, b func([32]byte) []string) func([32]byte) []string {
	return func(d [32]byte) []string { return append(a(d), b(d)...) }
}

// What is shown of a letter's source is what the keys that are remembered of it prove.
func TestOpen_Proof(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	doras, server, eve := f.key, f.server, clienttest.Key(t)
	own, vouched := senderBy(t, dora, 1_700_000_000, doras), originBy(t, dora, server)
	cut := func([32]byte) []string { return own([32]byte{9}) }
	const caveat = "that is who submitted it, not who wrote it"
	tests := map[string]struct {
		log         func([32]byte) []string
		before, now string // kinds, before anything is known of dora and after
		words       []string
	}{
		"Nothing":       {func([32]byte) []string { return nil }, "unproven", "unproven", []string{"claims to be from " + dora, "nothing that is signed"}},
		"Own":           {own, "unproven", "sender", []string{"submitted by " + dora + ", whose key", doras.Public().String(), caveat}},
		"OwnAndDomain":  {both(own, vouched), "unproven", "sender", []string{"submitted by " + dora + ", whose key"}},
		"Domain":        {vouched, "unproven", "domain", []string{"as the server of example.net says", server.Public().String(), caveat}},
		"OtherKey":      {senderBy(t, dora, 1, eve), "unproven", "unproven", []string{"claims to be from " + dora + ", unproven", "another key than the one that is remembered", "--check"}},
		"Cut":           {cut, "unproven", "false", []string{"WARNING", "FALSE", "claims to be from", "do not believe"}},
		"CutAndDomain":  {both(cut, vouched), "unproven", "false", []string{"WARNING"}},
		"OfSomebody":    {senderBy(t, bob, 1, h.keys[alice]), "false", "false", []string{"WARNING"}},
		"Twice":         {both(own, own), "false", "false", []string{"WARNING"}},
		"Malformed":     {func([32]byte) []string { return []string{"sender \u202e"} }, "false", "false", []string{"WARNING"}},
		"OtherServer":   {originBy(t, dora, eve), "unproven", "unproven", []string{"another key than the one that is known of the server"}},
		"EvesOwnDomain": {both(senderBy(t, dora, 1, eve), originBy(t, dora, eve)), "unproven", "unproven", []string{"another key"}},
	}
	paths := map[string]string{}
	kind := func(t *testing.T, path, want string) {
		t.Helper()
		p.t = t
		p.want(ok, "", []string{"open", path, "--json"})
		var got shorebird.OpenReport
		p.json(&got)
		if got.Proof != want || got.ProofText == "" || (got.ProofKey != "") != (want == "sender" || want == "domain") || got.CheckError != "" {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	for name, tt := range tests {
		paths[name] = p.write(filepath.Join(p.dir, name), string(delivered(t, dora, alice, h.keys[alice].Public(), tt.log)))
		t.Run("Before/"+name, func(t *testing.T) { kind(t, paths[name], tt.before) })
	}
	asked := h.sent(cmtp.KeyRequest)
	p.t = t
	p.want(ok, "", []string{"open", paths["Own"]}, "is not known here", "--check asks for keys")
	if h.sent(cmtp.KeyRequest) != asked {
		t.Error("somebody was asked although nobody said so")
	}
	p.want(ok, "", []string{"keys", dora})
	for name, tt := range tests {
		t.Run("Now/"+name, func(t *testing.T) {
			kind(t, paths[name], tt.now)
			p.want(ok, "", []string{"open", paths[name]}, tt.words...)
			if strings.Contains(p.out.String(), "claims to be") == (tt.now == "sender" || tt.now == "domain") {
				t.Errorf("it says\n%s", p.out.String())
			}
		})
	}
}

// With --check the source's keys are asked for, with those that it had; where that fails
// the letter is shown all the same, with why.
func TestOpen_Check(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	first, next := f.key, clienttest.Key(t)
	const changed = 1_700_000_000
	one := crypt.SignedKey{KeyStatement: crypt.KeyStatement{Name: parse(t, dora), Key: first.Public(), NotBefore: 1}}
	two := crypt.SignedKey{KeyStatement: one.Follow(next.Public(), changed)}
	two.Old = first.Sign(two.KeyStatement.Append(nil))
	f.with(func() { f.history = []crypt.SignedKey{one, two} })
	write := func(name string, log func([32]byte) []string) string {
		return p.write(filepath.Join(p.dir, name), string(delivered(t, dora, alice, h.keys[alice].Public(), log)))
	}
	former := write("former", senderBy(t, dora, changed-86400, first))
	late := write("late", senderBy(t, dora, changed+86400, first))
	newest := write("newest", senderBy(t, dora, changed+86400, next))
	eves := write("eve", senderBy(t, dora, changed, clienttest.Key(t)))
	nothing := write("nothing", func([32]byte) []string { return nil })

	asked := h.sent(cmtp.KeyRequest)
	p.want(ok, "", []string{"open", nothing, "--check"}, "nothing that is signed")
	if h.sent(cmtp.KeyRequest) != asked {
		t.Error("keys were asked for that prove nothing")
	}
	f.with(func() { f.refusal = cmtp.StatusPeerUnreached })
	p.want(ok, "", []string{"open", newest, "--check"}, "Hello", "is not known here", "Not checked", "says the server")
	p.want(ok, "", []string{"open", newest, "--check", "--json"})
	var got shorebird.OpenReport
	p.json(&got)
	if got.Proof != "unproven" || !strings.Contains(got.CheckError, "says the server") {
		t.Errorf("got %+v", got)
	}
	f.with(func() { f.refusal = 0 })
	p.want(ok, "", []string{"open", newest, "--check"}, "submitted by "+dora+", whose key", next.Public().String())
	p.want(ok, "", []string{"open", former, "--check"}, "submitted by "+dora+": a key that it had until 2023-11-14", first.Public().String())
	p.want(ok, "", []string{"open", late, "--check"}, "claims to be from", "not in force at "+dora+" then")
	p.want(ok, "", []string{"open", eves, "--check"}, "claims to be from", "a key that "+dora+" is not known to have")
	p.want(ok, "", []string{"open", newest}, "whose key") // it is remembered now
	p.want(ok, "", []string{"open", former}, "another key than the one that is remembered")

	// A server that gives another key now does not make a letter proven by it.
	f.with(func() { f.history, f.key = nil, clienttest.Key(t) })
	swapped := write("swapped", senderBy(t, dora, changed, f.key))
	p.want(ok, "", []string{"open", swapped, "--check"}, "claims to be from", "Not checked", "did not sign for it", "another key than the one that is remembered")
	p.want(ok, "", []string{"open", newest, "--check"}, "submitted by "+dora, "Not checked")
}

// A letter of a neighbour, whose server has only CMTP 0.01, and no history.
func TestOpen_CheckPlain(t *testing.T) {
	h := newHouse(t, bob, alice)
	p := h.reader(t, bob)
	path := p.write(filepath.Join(p.dir, "m"), string(delivered(t, alice, bob, h.keys[bob].Public(), senderBy(t, alice, 5, h.keys[alice]))))
	p.want(ok, "", []string{"open", path}, "is not known here")
	p.want(ok, "", []string{"open", path, "--check", "--server", h.Start(t)}, "submitted by "+alice)
	p.want(ok, "", []string{"open", path, "--check"}, "submitted by "+alice, "Not checked", "no server is known")
	p.want(ok, "", []string{"open", path, "--check", "--server", "localhost"}, "submitted by "+alice, "Not checked", "HOST:PORT")
}
