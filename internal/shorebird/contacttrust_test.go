package shorebird_test

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

// trustIn returns what trust show says of an address.
func (p *person) trustIn(addr string) (v shorebird.TrustReport) {
	p.t.Helper()
	p.want(ok, "", []string{"trust", "show", addr, "--json"})
	p.json(&v)
	return v
}

// A contact is met, met again, shows another key, with which nothing is sent, and is accepted
// once both have read the same words.
func TestTrust(t *testing.T) {
	h := privateHouse(t, alice, bob)
	where := h.Start(t)
	p := h.recovered(t, where)
	p.want(failure, "", []string{"trust", "show", bob}, "no key is remembered", "shorebird keys "+bob)
	p.want(ok, "", []string{"trust", "list"}, "No keys are remembered yet")
	p.want(ok, "", []string{"keys", bob})
	if v := p.trustIn(bob); v.Trust != shorebird.TrustFirstContact || len(strings.Fields(v.SafetyWords)) != 12 {
		t.Fatalf("%+v", v)
	}
	p.want(ok, "", []string{"keys", bob})
	before := p.trustIn("bob+tag@example.org")
	if before.Trust != shorebird.TrustRemembered || before.Address != bob {
		t.Fatalf("%+v", before)
	}
	p.want(ok, "", []string{"trust", "accept", bob}, "there is nothing to accept")

	other := clienttest.Key(t).Public()
	h.set(bob, clienttest.User{Key: other})
	send := []string{"send", bob}
	p.want(trust, "x", send, "nothing was sent", "trust accept "+bob)
	p.want(trust, "x", send, "nothing was sent")
	v := p.trustIn(bob)
	if v.Trust != shorebird.TrustChanged || v.Fingerprint != before.Fingerprint || v.RefusedFingerprint != other.String() ||
		v.SafetyWords != before.SafetyWords || v.RefusedSafetyWords == before.SafetyWords || v.RefusedSafetyWords == "" {
		t.Fatalf("%+v", v)
	}
	p.want(ok, "", []string{"trust", "list"}, "changed        2027-01-15  "+before.Fingerprint+"  "+bob)

	// Bob sees the same words for Alice.
	if got := shorebird.SafetyWords(other, h.keys[alice].Public()); got != v.RefusedSafetyWords {
		t.Errorf("bob sees %q, and alice %q", got, v.RefusedSafetyWords)
	}
	accept := []string{"trust", "accept", bob}
	p.want(password, "", accept, "--fingerprint")
	p.want(trust, "", append(accept, "--fingerprint", before.Fingerprint), "was not accepted")
	answer := "no"
	p.app.ReadLine = func(_ context.Context, prompt string) ([]byte, error) {
		for _, w := range []string{v.RefusedSafetyWords, other.String(), before.Fingerprint} {
			if !strings.Contains(p.err.String(), w) {
				t.Errorf("asked without %q: %s", w, p.err.String())
			}
		}
		return []byte(answer), nil
	}
	p.want(trust, "", accept, "was not accepted", "nothing is sent there")
	p.want(trust, "x", send, "nothing was sent")
	if n := h.sent(cmtp.Mail); n > 0 {
		t.Fatalf("%d letters were sent", n)
	}
	answer = "Yes\r"
	p.want(ok, "", accept, "The key of "+bob+" is accepted: "+other.String())
	p.want(ok, "x", send)
	if v := p.trustIn(bob); v.Trust != shorebird.TrustRemembered || v.Fingerprint != other.String() || v.Refused != "" {
		t.Errorf("%+v", v)
	}
}

// Only the key that was compared is accepted, though the server shows a third one by then; and
// who shows the right one again is believed again.
func TestTrust_AcceptOnly(t *testing.T) {
	h := privateHouse(t, alice, bob)
	p := h.recovered(t, h.Start(t))
	p.want(ok, "", []string{"keys", bob})
	right := h.user(bob)
	second, third := clienttest.Key(t).Public(), clienttest.Key(t).Public()
	h.set(bob, clienttest.User{Key: second})
	p.app.ReadLine = func(context.Context, string) ([]byte, error) {
		h.set(bob, clienttest.User{Key: third})
		return []byte("yes"), nil
	}
	p.want(trust, "", []string{"trust", "accept", bob}, third.String(), "the one before did not sign for it")
	if v := p.trustIn(bob); v.Trust != shorebird.TrustChanged || v.RefusedFingerprint != third.String() {
		t.Errorf("%+v", v)
	}
	p.want(trust, "", []string{"trust", "accept", bob, "--fingerprint", second.String()}, "its fingerprint is "+third.String())
	h.set(bob, right)
	p.want(ok, "x", []string{"send", bob})
	if v := p.trustIn(bob); v.Trust != shorebird.TrustRemembered || v.Refused != "" {
		t.Errorf("%+v", v)
	}
	h.set(bob, clienttest.User{Key: third})
	fingerprint := strings.ToUpper(strings.ReplaceAll(third.String(), " ", ""))
	p.want(ok, "", []string{"trust", "accept", bob, "--fingerprint", fingerprint, "--json"})
}

// What one run has met by itself makes nobody better known; and in CMTP 0.01, too, a key is refused until the
// right one is shown again.
func TestTrust_Part1(t *testing.T) {
	h := newHouse(t, bob)
	const tagged = "bob+tag@example.org"
	h.set(tagged, h.user(bob))
	p, where := newPerson(t), h.Start(t)
	p.want(ok, "x", []string{"send", bob, tagged, "--from", "carol@example.net", "--server", where})
	if v := p.trustIn(bob); v.Trust != shorebird.TrustFirstContact || v.SafetyWords != "" {
		t.Errorf("%+v", v)
	}
	keys := []string{"keys", bob, "--server", where}
	right := h.user(bob)
	for _, step := range []struct {
		user clienttest.User
		code int
		word shorebird.ContactTrust
	}{
		{clienttest.User{Key: clienttest.Key(t).Public()}, trust, shorebird.TrustChanged}, {right, ok, shorebird.TrustRemembered},
	} {
		h.set(bob, step.user)
		p.want(step.code, "", keys)
		if v := p.trustIn(bob); v.Trust != step.word {
			t.Errorf("%+v, want %s", v, step.word)
		}
	}
}

// Who vouches for the domain's server is said in its word.
func TestTrust_Vouched(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	p := h.recovered(t, h.Start(t))
	for vouched, word := range map[crypt.Trust]shorebird.ContactTrust{
		crypt.TrustDNSSEC: shorebird.TrustDNSSEC, crypt.TrustOperator: shorebird.TrustOperator,
	} {
		f.with(func() { f.trust = vouched })
		p.want(ok, "", []string{"keys", dora})
		if v := p.trustIn(dora); v.Trust != word {
			t.Errorf("%+v, want %s", v, word)
		}
	}
}

// The word is coloured at a terminal alone, where the user has nothing against it.
func TestTrust_Colour(t *testing.T) {
	h := privateHouse(t, alice, bob)
	p := h.recovered(t, h.Start(t))
	p.want(ok, "", []string{"keys", bob})
	escape := func() bool { return strings.Contains(p.out.String(), "\x1b") }
	for _, args := range [][]string{{"trust", "list"}, {"trust", "show", bob}} {
		p.app.OutIsTerminal = false
		if p.want(ok, "", args, "first contact"); escape() {
			t.Errorf("%q: colour in a file: %q", args, p.out.String())
		}
		p.app.OutIsTerminal = true
		if p.want(ok, "", args, "\x1b[33mfirst contact\x1b[0m"); !escape() {
			t.Errorf("%q: no colour at a terminal: %q", args, p.out.String())
		}
		for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
			name, value, _ := strings.Cut(env, "=")
			p.env[name] = value
			if p.want(ok, "", args, "first contact"); escape() {
				t.Errorf("%q: colour with %s: %q", args, env, p.out.String())
			}
			delete(p.env, name)
		}
	}
}

// The words are those of docs/protocol.md section 29.4.
func TestSafetyWords(t *testing.T) {
	a, b := crypt.PublicKey{1, 2, 3}, crypt.PublicKey{1, 2, 4}
	const want = "chronic phrase attack ensure monkey toddler enroll autumn hood now bright couch" // by another program
	if got := shorebird.SafetyWords(a, b); got != want || got != shorebird.SafetyWords(b, a) {
		t.Errorf("%q, and the other way around %q", got, shorebird.SafetyWords(b, a))
	}
	if !regexp.MustCompile(`^([a-z]+ ){11}[a-z]+$`).MatchString(shorebird.SafetyWords(a, a)) {
		t.Error(fmt.Sprint("not twelve words: ", shorebird.SafetyWords(a, a)))
	}
}

// A command that a person is told to give is that command alone, whoever has chosen the address in it.
func TestTrust_EvilName(t *testing.T) {
	const evil = "$(id)'x@example.org"
	quoted := `'$(id)'\''x@example.org'`
	h := privateHouse(t, alice, evil)
	p := h.recovered(t, h.Start(t))
	p.want(failure, "", []string{"trust", "show", evil}, "shorebird keys "+quoted+" asks for it")
	p.want(ok, "", []string{"keys", evil})
	h.set(evil, clienttest.User{Key: clienttest.Key(t).Public()})
	p.want(trust, "x", []string{"send", evil}, "shorebird keys "+quoted+" --accept-new-key, or shorebird trust accept "+quoted+", which")
	to := p.write(filepath.Join(p.dir, "letter"), string(written(t, &letter.Draft{Time: time.Now(), Text: []byte("x")}, evil, h.keys[evil].Public())))
	newPerson(t).want(failure, "", []string{"open", to}, "shorebird recover "+quoted)
}
