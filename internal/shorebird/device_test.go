package shorebird_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/shorebird"
	"cmtpd/internal/xzibit"
)

const fresh = "battery staple"

// ring opens the file of alice's keys.
func (p *person) ring(password string) *xzibit.Keyring {
	p.t.Helper()
	x, err := os.ReadFile(p.data(alice + ".xzibit"))
	if err != nil {
		p.t.Fatal(err)
	}
	ring, err := xzibit.Open(x, alice, []byte(password))
	if err != nil {
		p.t.Fatal(err)
	}
	return ring
}

func TestPasswd(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, v := h.registered(t, where)
	q := h.recovered(t, where)

	p.passwordFile(secret)
	p.want(password, "", []string{"passwd"}, "the password is empty", "second line")
	p.passwordFile(secret + "\n" + fresh + "\n")
	p.want(ok, "", []string{"passwd"}, "new password for", v.Fingerprint)
	if strings.Contains(p.out.String()+p.err.String(), "12 words") {
		t.Error("there is another recovery key")
	}
	p.ring(fresh)
	p.passwordFile(fresh)
	p.want(ok, "x", []string{"send", bob})

	// The other device needs the new password, once.
	q.want(password, "x", []string{"send", bob}, "another device has changed it", "give the one that it has now")
	q.answers(map[string]string{"Password of " + alice + ": ": secret, "Password of " + alice + ", as it is now: ": fresh})
	q.want(ok, "x", []string{"send", bob}, "another device has changed it")
	q.answers(map[string]string{"Password of " + alice + ": ": fresh})
	q.want(ok, "x", []string{"send", bob})
	q.ring(fresh)
}

// A device that is given the new password at once, by a script, follows; what it had
// under the old one is kept.
func TestPasswd_NewPasswordFirst(t *testing.T) {
	for _, command := range [][]string{{"send", bob}, {"rotate"}, {"passwd"}} {
		t.Run(command[0], func(t *testing.T) {
			h := privateHouse(t, bob)
			where := h.Start(t)
			p, _ := h.registered(t, where)
			q := h.recovered(t, where)
			p.passwordFile(secret + "\n" + fresh + "\n")
			p.want(ok, "", []string{"passwd"})

			q.passwordFile("neither")
			unlocks := h.sent(cmtp.Unlock)
			q.want(password, "x", command, "wrong password", "shorebird recover "+alice)
			if n := h.sent(cmtp.Unlock) - unlocks; n != 1 {
				t.Errorf("%d UNLOCK for a wrong password", n)
			}
			q.ring(secret)
			q.passwordFile(fresh + "\n" + fresh + "\n")
			q.want(password, "", []string{"open", q.letterFor(b64(h.user(alice).Key))}, "shorebird recover "+alice)
			q.want(ok, "x", command, "changed on another device", "kept in")
			q.ring(fresh)
			kept, _ := filepath.Glob(q.data(alice + ".xzibit.*"))
			if len(kept) != 1 {
				t.Fatalf("kept %q", kept)
			}
			if x, err := os.ReadFile(kept[0]); err != nil {
				t.Error(err)
			} else if _, err := xzibit.Open(x, alice, []byte(secret)); err != nil {
				t.Error(err)
			}
			q.want(ok, "x", []string{"send", bob})
			if strings.Contains(q.err.String(), "another device") {
				t.Errorf("it follows twice: %s", q.err.String())
			}
		})
	}
}

// The new password does not make a device believe in a key that does not follow.
func TestPasswd_NewPasswordAfterReset(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, before := h.registered(t, where)
	q := h.device(t, where)
	q.passwordFile(fresh)
	q.want(ok, h.invites(alice), []string{"register", alice, "--code-stdin"})
	p.passwordFile(fresh)
	p.want(trust, "x", []string{"send", bob}, "the key was reset")
	if ring := p.ring(secret); b64(ring.Keys[0].Key.Public()) != before.Key {
		t.Error("the keys were replaced")
	}
}

// A version 2 account gets what is new, and so does one whose machine has no keys.
func TestPasswd_Version2(t *testing.T) {
	h := newHouse(t, bob, alice)
	h.Private = true
	where := h.Start(t)
	p := h.device(t, where)
	p.passwordFile(secret + "\n" + fresh + "\n")
	p.want(ok, "", []string{"passwd", "--json"})
	v, u := p.account(), h.user(alice)
	if version, _ := xzibit.Version(u.Xzibit); version != 3 || !v.Recovery || v.RecoveryWords == "" || len(u.Copy) == 0 {
		t.Errorf("version %d, %+v", version, v)
	}
	p.ring(fresh)
	p.passwordFile(fresh + "\n" + secret + "\n")
	p.want(ok, "", []string{"passwd", "--json"})
	if v := p.account(); !v.Recovery || v.RecoveryWords != "" || len(h.user(alice).Copy) == 0 {
		t.Errorf("got %+v", v)
	}
}

func TestRotate(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, before := h.registered(t, where)
	q := h.recovered(t, where)
	carols := h.device(t, where)
	carols.want(ok, "", []string{"keys", alice})
	old := p.letterFor(before.Key)

	p.want(ok, "", []string{"rotate", "--json"})
	after := p.account()
	if after.Key == before.Key || after.Keys != 2 || after.Statements != 2 || after.Resets != 0 || !after.Recovery {
		t.Fatalf("got %+v", after)
	}
	p.want(ok, "", []string{"open", old}, "Hello Alice")
	p.want(ok, "", []string{"open", p.letterFor(after.Key)}, "Hello Alice")
	p.want(ok, "x", []string{"send", bob})

	// Others are told, and trust it; the other device follows.
	carols.want(ok, "x", []string{"send", alice, "--from", "carol@example.net"}, "has a new key, which the one before has signed for")
	carols.want(ok, "", []string{"keys", alice}, "key 2 of the account")
	q.want(ok, "x", []string{"send", bob}, "has a newer key")
	q.want(ok, "", []string{"open", q.letterFor(after.Key)}, "Hello Alice")
	q.want(ok, "x", []string{"send", bob})
	if strings.Contains(q.err.String(), "newer") {
		t.Error("it follows twice")
	}
}

// A typed password that is not the account's is not made the account's.
func TestRotate_WrongPassword(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, _ := h.registered(t, where)
	p.app.Desktop = newDesktop()
	p.want(ok, "x", []string{"send", bob}) // fills the desktop keyring
	p.passwordFile("incorrect")
	p.want(ok, "x", []string{"send", bob})
	p.want(password, "", []string{"rotate"}, "wrong password")
	if n := h.sent(cmtp.Upload); n > 0 {
		t.Errorf("%d uploads", n)
	}
}

// Two devices at once: the slower one takes in what the faster one did.
func TestRotate_AnotherDeviceWasFirst(t *testing.T) {
	for _, theirs := range []string{"rotate", "passwd"} {
		t.Run(theirs, func(t *testing.T) {
			h := privateHouse(t, bob)
			var armed atomic.Bool
			var q *person
			h.Answer = func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb == cmtp.Upload && armed.Swap(false) {
					q.want(ok, "", []string{theirs})
				}
				return false, nil
			}
			where := h.Start(t)
			p, _ := h.registered(t, where)
			q = h.recovered(t, where)
			armed.Store(true)
			p.want(ok, "", []string{"rotate", "--json"})
			v := p.account()
			want := map[string]int{"rotate": 3, "passwd": 2}[theirs]
			if v.Keys != want || v.Statements != want || v.Key != b64(h.user(alice).Key) {
				t.Errorf("got %+v", v)
			}
			for _, k := range q.ring(secret).Keys {
				p.want(ok, "", []string{"open", p.letterFor(b64(k.Key.Public()))}, "Hello Alice")
			}
			q.want(ok, "x", []string{"send", bob}, "another device has changed it")
			q.want(ok, "", []string{"open", q.letterFor(v.Key)}, "Hello Alice")
			p.files(alice+".lock", alice+".xzibit", "accounts.json", "accounts.lock", "contacts.json", "contacts.lock", "servers.json", "servers.lock")
		})
	}
}

// A voice is where a person is told things; it calls back when it says a word.
type voice struct {
	io.Writer
	word string
	said func()
}

func (v voice) Write(b []byte) (int, error) {
	if strings.Contains(string(b), v.word) {
		v.said()
	}
	return v.Writer.Write(b)
}

// shares returns another process on the same machine.
func (p *person) shares(t *testing.T) *person {
	q := newPerson(t)
	q.dir, q.env = p.dir, p.env
	q.app.Params = cheap
	return q
}

// Two processes of one person on one machine: neither takes the other's pending keys for
// its own. The second waits, says so, and goes on from what the first has done.
func TestRotate_TwoProcesses(t *testing.T) {
	h := privateHouse(t, bob)
	var armed atomic.Bool
	var p, q *person
	waits, done := make(chan struct{}), make(chan int, 1)
	h.Answer = func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb == cmtp.Upload && armed.Swap(false) {
			q.want(temporary, "", []string{"rotate", "--timeout", "1ms"}, "another shorebird, which works with the keys of "+alice, "Try again when it is done")
			q.want(ok, "", []string{"open", q.letterFor(b64(h.user(alice).Key))}, "Hello Alice") // changes nothing, and so waits for nobody
			go func() { done <- q.run("", "rotate") }()
			<-waits
		}
		return false, nil
	}
	p, _ = h.registered(t, h.Start(t))
	q = p.shares(t)
	armed.Store(true)
	times := 0
	q.app.Err = voice{&q.err, "Waiting for another shorebird, which works with the keys of " + alice, func() {
		if times++; times == 2 {
			close(waits)
		}
	}}
	p.want(ok, "", []string{"rotate"})
	if code := <-done; code != ok {
		t.Fatalf("the second ended with %d: %s", code, q.err.String())
	}
	ring := p.ring(secret)
	if len(ring.Keys) != 3 || ring.Keys[0].Key.Public() != h.user(alice).Key {
		t.Errorf("%d keys are kept", len(ring.Keys))
	}
	for _, k := range h.user(alice).History {
		p.want(ok, "", []string{"open", p.letterFor(b64(k.Key))}, "Hello Alice")
	}
	p.files(alice+".lock", alice+".xzibit", "accounts.json", "accounts.lock", "contacts.json", "contacts.lock", "servers.json", "servers.lock")
}

// Letters are sent at the same time all the same; and who is called anew while they are
// goes on from the keys that the other process has made.
func TestSend_TwoProcesses(t *testing.T) {
	h := privateHouse(t, bob, carol)
	var armed atomic.Bool
	var p, q *person
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb == cmtp.Mail && armed.Swap(false) {
			q.want(ok, "x", []string{"send", bob})
			q.want(ok, "", []string{"rotate"})
			return true, io.EOF
		}
		return false, nil
	}
	p, _ = h.registered(t, h.Start(t))
	q = p.shares(t)
	armed.Store(true)
	p.want(temporary, "x", []string{"send", bob, carol}, "1 of 2 copies were not sent")
	if n := h.sent(cmtp.Mail); n != 5 { // with a copy from each
		t.Errorf("%d letters were sent, want 5", n)
	}
	if ring := p.ring(secret); len(ring.Keys) != 2 || ring.Keys[0].Key.Public() != h.user(alice).Key {
		t.Errorf("%d keys are kept", len(ring.Keys))
	}
}

func TestRotate_AlwaysSecond(t *testing.T) {
	h := privateHouse(t)
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Upload {
			return false, nil
		}
		_, err := cmtp.ReadForm(c.In)
		return true, errors.Join(err, c.Fail(cmtp.StatusStale, "you are late"))
	}
	where := h.Start(t)
	p, before := h.registered(t, where)
	p.want(refused, "", []string{"rotate"}, "you are late", "faster 5 times")
	if n := h.sent(cmtp.Upload); n != 5 {
		t.Errorf("%d uploads, want 5", n)
	}
	if ring := p.ring(secret); len(ring.Keys) != 1 || b64(ring.Keys[0].Key.Public()) != before.Key {
		t.Errorf("%d keys are kept", len(ring.Keys))
	}
	p.files(alice+".lock", alice+".xzibit", "accounts.json", "accounts.lock", "contacts.json", "contacts.lock", "servers.json", "servers.lock")
}

func TestRecover_Words(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, v := h.registered(t, where)
	old := p.letterFor(v.Key)
	q := h.device(t, where)
	q.passwordFile(fresh)
	words := strings.ToUpper(v.RecoveryWords)
	q.want(ok, words, []string{"recover", alice, "--words-stdin"}, "recovered", v.Fingerprint)
	q.want(ok, "", []string{"open", old}, "Hello Alice")
	q.want(ok, "x", []string{"send", bob})
	q.ring(fresh)

	// The words are good for another time, from a file or a person.
	q = h.device(t, where)
	q.passwordFile(secret)
	q.env["SHOREBIRD_WORDS_FILE"] = q.write(filepath.Join(q.dir, "words"), strings.ReplaceAll(v.RecoveryWords, " ", "\n"))
	q.want(ok, "", []string{"recover", alice, "--words", "--json"})
	if got := q.account(); !got.Recovery || got.RecoveryWords != "" || got.Keys != 1 || got.Trust != shorebird.FirstContact {
		t.Errorf("got %+v", got)
	}
	q = h.device(t, where)
	q.answers(map[string]string{"The 12 words": v.RecoveryWords, "New password": "third", "Once more": "third"})
	q.want(ok, "", []string{"recover", alice, "--words"})
	q.ring("third")
}

// Keys that are among the new ones are not put aside.
func TestRecover_Again(t *testing.T) {
	h := privateHouse(t, bob)
	where := h.Start(t)
	p, _ := h.registered(t, where)
	q := h.recovered(t, where)
	p.want(ok, "", []string{"rotate"})
	for range 2 {
		q.want(ok, "", []string{"recover", alice})
	}
	if kept, _ := filepath.Glob(q.data(alice + ".xzibit.*")); len(kept) > 0 {
		t.Errorf("kept %q", kept)
	}
	if ring := q.ring(secret); len(ring.Keys) != 2 {
		t.Errorf("%d keys", len(ring.Keys))
	}
}

func TestRecover_WrongWords(t *testing.T) {
	h := privateHouse(t)
	where := h.Start(t)
	_, v := h.registered(t, where)
	list := strings.Fields(v.RecoveryWords)
	tests := map[string]struct{ words, want string }{
		"Others":   {"legal winner thank year wave sausage worth useful legal winner thank yellow", "not this account's recovery key"},
		"Eleven":   {strings.Join(list[1:], " "), "12 words"},
		"Order":    {"zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo", "no recovery key"},
		"Mistyped": {strings.Join(list[:11], " ") + " shorebird", "word 12"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := h.device(t, where)
			p.want(password, tt.words, []string{"recover", alice, "--words-stdin"}, tt.want)
			if strings.Contains(p.err.String(), "winner") || strings.Contains(p.err.String(), "shorebird\"") {
				t.Errorf("the words were printed: %s", p.err.String())
			}
			p.notSaved()
		})
	}
	if n := h.sent(cmtp.Upload); n > 0 {
		t.Errorf("%d uploads", n)
	}
}

// A server that gives a device a keyring without one of its keys, or one that does not
// go on from them, is not believed.
func TestRefresh_Hostile(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, h *house, ring *xzibit.Keyring, u *clienttest.User)
		word   string
	}{
		"LacksAKey": {func(_ *testing.T, _ *house, ring *xzibit.Keyring, _ *clienttest.User) {
			ring.Keys = ring.Keys[:1]
		}, "lack one that is on this machine"},
		"AnotherKey": {func(t *testing.T, _ *house, ring *xzibit.Keyring, _ *clienttest.User) {
			ring.Keys[0].Key = clienttest.Key(t)
		}, "a key that is not yours"},
		"AnotherServer": {func(t *testing.T, _ *house, ring *xzibit.Keyring, _ *clienttest.User) {
			ring.Server = clienttest.Key(t).Public()
		}, "not your server"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := privateHouse(t, bob)
			where := h.Start(t)
			p, _ := h.registered(t, where)
			q := h.recovered(t, where)
			p.want(ok, "", []string{"rotate"})
			u := h.user(alice)
			ring := p.ring(secret)
			tt.change(t, h, ring, &u)
			u.Xzibit = sealed(t, ring, u, cheap)
			h.set(alice, u)
			q.want(trust, "x", []string{"send", bob}, tt.word)
			if ring := q.ring(secret); len(ring.Keys) != 1 {
				t.Errorf("%d keys are saved", len(ring.Keys))
			}
			if n := h.sent(cmtp.Mail); n > 0 {
				t.Errorf("%d letters were sent", n)
			}
		})
	}
}
