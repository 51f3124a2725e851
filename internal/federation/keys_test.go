package federation_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/federation"
	"cmtpd/internal/session"
	"cmtpd/internal/trust"
)

func keysOf(s *site) *federation.Keys {
	return federation.NewKeys(federation.KeysConfig{Peers: s.peers})
}

func lookup(t testing.TB, k *federation.Keys, who string) (*federation.Foreign, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return k.Lookup(ctx, name(who), nil)
}

// statusOf returns what a user is told.
func statusOf(err error) cmtp.Status {
	status, _ := federation.LookupStatus(err)
	return status
}

// Who is not permitted a question has none put, and what is remembered takes none. It is said whether the domain was met.
func TestKeys_Lookup_Permit(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob", "carol")
	keys := keysOf(a)
	no := errors.New("no")
	var asked []bool
	ask := func(who string, answer error) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := keys.Lookup(ctx, name(who), func(met bool) error { asked = append(asked, met); return answer })
		return err
	}
	if err := ask("bob@b.example", no); !errors.Is(err, no) || w.dialed("127.0.0.3") != 0 {
		t.Errorf("not permitted: %v, %d connections", err, w.dialed("127.0.0.3"))
	}
	for _, who := range []string{"bob@b.example", "bob@b.example", "carol@b.example"} {
		if err := ask(who, nil); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	if err := ask("bob@b.example", no); err != nil {
		t.Errorf("what is remembered: %v", err)
	}
	if want := []bool{false, false, true}; !slices.Equal(asked, want) {
		t.Errorf("permits were asked for with %v, want %v", asked, want)
	}
}

// What another server says is handed on in its own words, under its own signatures.
func TestKeys_Lookup(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	keys := keysOf(a)
	for who, want := range map[string]crypt.PublicKey{"bob@b.example": b.users["bob"].Public(), "bob+x@b.example": b.users["bob"].Public(), "@b.example": b.key.Public()} {
		got, err := lookup(t, keys, who)
		if err != nil {
			t.Fatal(err)
		}
		f, err := crypt.ParseForeign(got.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Verify(name(who)); err != nil || f.Part() != 2 || f.Server != b.key.Public() || f.Current() != want || got.Key != want || f.Trust != crypt.TrustFirstContact {
			t.Errorf("%s: %+v, %v", who, f, err)
		}
	}
	dials := w.dialed("127.0.0.3")
	if _, err := lookup(t, keys, "bob@b.example"); err != nil || w.dialed("127.0.0.3") != dials {
		t.Errorf("asked again: %v", err)
	}
	w.clock.add(federation.DefaultKeyLife - time.Second)
	if _, err := lookup(t, keys, "bob@b.example"); err != nil || w.dialed("127.0.0.3") != dials {
		t.Errorf("asked again too early: %v", err)
	}
	w.clock.add(time.Second)
	if _, err := lookup(t, keys, "bob@b.example"); err != nil || w.dialed("127.0.0.3") != dials+1 {
		t.Errorf("not asked again: %v", err)
	}
	if _, err := lookup(t, keys, "bob@a.example"); !errors.Is(err, federation.ErrOwn) {
		t.Errorf("of an own domain: %v", err)
	}
}

func TestKeys_Lookup_Part1(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	s := w.fake("b.example", "127.0.0.3", false)
	bob := newKey(t).Public()
	s.Users["bob@b.example"] = clienttest.User{Key: bob}
	w.start(s, "127.0.0.3")
	keys := keysOf(a)
	got, err := lookup(t, keys, "bob@b.example")
	if err != nil {
		t.Fatal(err)
	}
	f, err := crypt.ParseForeign(got.Payload)
	if err != nil || f.Part() != 1 || f.Key != bob || f.Verify(name("bob@b.example")) != nil {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := lookup(t, keys, "eve@b.example"); !errors.Is(err, federation.ErrNoAccount) || statusOf(err) != cmtp.StatusNoAccount {
		t.Errorf("FAILURE: %v", err)
	}
}

// Failures have their own statuses, and are remembered briefly: of an account five minutes,
// of a domain, for whatever name, half a minute.
func TestKeys_Lookup_Fails(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob")
	keys := keysOf(a)
	if _, err := lookup(t, keys, "eve@b.example"); !errors.Is(err, federation.ErrNoAccount) || statusOf(err) != cmtp.StatusNoAccount {
		t.Fatalf("unknown: %v", err)
	}
	dials := w.dialed("127.0.0.3")
	w.clock.add(5*time.Minute - time.Second)
	if _, err := lookup(t, keys, "eve@b.example"); err == nil || w.dialed("127.0.0.3") != dials {
		t.Errorf("asked again too early: %v", err)
	}
	w.clock.add(time.Second)
	if _, err := lookup(t, keys, "eve@b.example"); err == nil || w.dialed("127.0.0.3") != dials+1 {
		t.Errorf("not asked again: %v", err)
	}

	w.publish("dead.example. 600 A 127.0.0.10\nsmtp.example. 600 A 127.0.0.11\nnull.example. 600 MX 0 .")
	w.lead("127.0.0.11", saying(t, smtpOnly))
	thief := w.fake("thief.example", "127.0.0.12", true)
	w.start(thief, "127.0.0.12")
	if _, err := meet(t, a, "thief.example"); err != nil {
		t.Fatal(err)
	}
	other := clienttest.NewServer(t)
	other.Private = true
	w.lead("127.0.0.12", other.Start(t))
	for d, want := range map[string]cmtp.Status{"dead.example": cmtp.StatusPeerUnreached, "smtp.example": cmtp.StatusNoMail,
		"null.example": cmtp.StatusNoMail, "nowhere.example": cmtp.StatusNoMail, "thief.example": cmtp.StatusPeerDistrusted} {
		if _, err := lookup(t, keys, "bob@"+d); statusOf(err) != want {
			t.Errorf("%s: %v", d, err)
		}
	}
	for i := range 10 {
		lookup(t, keys, fmt.Sprintf("user%d@dead.example", i))
	}
	if n := w.dialed("127.0.0.10"); n != 1 {
		t.Errorf("a dead domain was asked %d times", n)
	}
	w.clock.add(30 * time.Second)
	if lookup(t, keys, "bob@dead.example"); w.dialed("127.0.0.10") != 2 {
		t.Error("a dead domain is not asked again")
	}
}

// Whatever a remote answers is bounded, and handed on only if it is true.
func TestKeys_Lookup_Hostile(t *testing.T) {
	huge := make([]byte, 10)
	huge[0], huge[1] = 0, 200
	for i := range 8 {
		huge[2+i] = 0xff
	}
	other := newKey(t)
	for what, answer := range map[string]func(c *clienttest.Conn) error{
		"Huge":    func(c *clienttest.Conn) error { return c.Reply(huge) },
		"TooLong": func(c *clienttest.Conn) error { return c.Done(make([]byte, crypt.MaxHistory+1)) },
		"Garbage": func(c *clienttest.Conn) error { return c.Done(make([]byte, 1000)) },
		"Cut": func(c *clienttest.Conn) error {
			return errors.Join(c.Reply([]byte{0, 200, 0, 0, 0, 0, 0, 0, 1, 0, 1}), io.EOF)
		},
		"AnotherName": func(c *clienttest.Conn) error {
			k := crypt.KeyStatement{Name: name("eve@b.example"), Key: other.Public()}
			return c.Done(c.Server.History(k.Name, []crypt.SignedKey{{KeyStatement: k}}).Append(nil))
		},
		"Busy": func(c *clienttest.Conn) error { return c.Fail(cmtp.StatusTooOften, "later") },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			a := w.site("a.example", "127.0.0.2", options{}, "alice")
			s := w.fake("b.example", "127.0.0.3", true)
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.KeyRequest || len(cmd.User()) == 0 {
					return false, nil
				}
				return true, answer(c)
			}
			w.start(s, "127.0.0.3")
			keys := keysOf(a)
			if got, err := lookup(t, keys, "bob@b.example"); err == nil || statusOf(err) != cmtp.StatusPeerUnreached {
				t.Errorf("%+v, %v", got, err)
			}
			dials := w.dialed("127.0.0.3")
			if _, err := lookup(t, keys, "bob@b.example"); err == nil || w.dialed("127.0.0.3") != dials {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// Many who ask for one name at once make one question, and one who gives up leaves it to
// the others.
func TestKeys_Lookup_OneFlight(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	s := w.fake("b.example", "127.0.0.3", true)
	s.Users["bob@b.example"] = clienttest.User{Key: newKey(t).Public()}
	asked, free := make(chan struct{}, 10), make(chan struct{})
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb == cmtp.KeyRequest && len(cmd.User()) > 0 {
			asked <- struct{}{}
			<-free
		}
		return false, nil
	}
	w.start(s, "127.0.0.3")
	keys := keysOf(a)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := keys.Lookup(ctx, name("bob@b.example"), nil)
		gone <- err
	}()
	<-asked
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, err := lookup(t, keys, "bob@b.example"); err != nil {
				t.Error(err)
			}
		})
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up: %v", err)
	}
	close(free)
	all.Wait()
	if n := w.dialed("127.0.0.3"); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A server that dawdles costs the time that it is given.
func TestKeys_Lookup_Slow(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.publish("b.example. 600 A 127.0.0.3")
	w.lead("127.0.0.3", saying(t, ""))
	keys := federation.NewKeys(federation.KeysConfig{Peers: a.peers, Timeout: 50 * time.Millisecond})
	began := time.Now()
	if _, err := lookup(t, keys, "bob@b.example"); statusOf(err) != cmtp.StatusPeerUnreached || time.Since(began) > patience/4 {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// A domain that never answers takes a bounded number of connections, and no other domain's.
func TestKeys_Lookup_Crowd(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("c.example", "127.0.0.4", options{}, "carol")
	w.publish("b.example. 600 A 127.0.0.3")
	w.lead("127.0.0.3", saying(t, ""))
	keys := keysOf(a)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() { keys.Lookup(ctx, name(fmt.Sprintf("user%d@b.example", i)), nil) })
	}
	if _, err := lookup(t, keys, "carol@c.example"); err != nil {
		t.Error(err)
	}
	cancel()
	all.Wait()
	if n := w.dialed("127.0.0.3"); n > 4 {
		t.Errorf("%d connections to one domain", n)
	}
}

// The cache holds as many answers as it may, and as many bytes.
func TestCache(t *testing.T) {
	c := clock{at: time.Unix(1, 0)}
	held := federation.NewCache(3, 100, c.now)
	for i, bytes := range []int{40, 40, 10} {
		held.Put(fmt.Sprint(i), bytes, time.Minute)
	}
	held.Get("0")
	held.Put("3", 10, time.Minute) // one too many
	if held.Get("1") || !held.Get("0") || !held.Get("2") || !held.Get("3") {
		t.Error("the latest used are not kept")
	}
	held.Put("4", 51, time.Minute) // one byte too many with 40 and 10
	if held.Get("0") || !held.Get("3") || !held.Get("4") {
		t.Error("too many bytes are kept")
	}
	held.Put("4", 90, time.Minute)
	if !held.Get("3") || !held.Get("4") {
		t.Error("as many bytes as may be are not kept")
	}
	held.Put("5", math.MaxInt32, time.Minute)
	if held.Get("5") || held.Get("4") {
		t.Error("what does not fit at all is kept")
	}
	held.Put("6", 1, time.Minute)
	c.add(time.Minute)
	if held.Get("6") {
		t.Error("what has expired is kept")
	}
}

// Once a server was met with another key, nothing is handed on that it has said under the one before.
func TestKeys_Lookup_Rotated(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob", "bert")
	keys := keysOf(a)
	for _, who := range []string{"bob@b.example", "@b.example"} {
		if got, err := lookup(t, keys, who); err != nil || got.Server != b.key.Public() {
			t.Fatalf("%s: %+v, %v", who, got, err)
		}
	}
	next := w.serve("b.example", options{edit: func(cfg *session.Config) { cfg.Former = []*crypt.PrivateKey{b.key} }}, "bob", "bert")
	w.lead("127.0.0.3", next.addr)
	if got, err := lookup(t, keys, "bob@b.example"); err != nil || got.Server != b.key.Public() {
		t.Errorf("before anything new is known: %+v, %v", got, err)
	}
	for _, who := range []string{"bert@b.example", "bob@b.example", "@b.example"} {
		if got, err := lookup(t, keys, who); err != nil || got.Server != next.key.Public() {
			t.Errorf("%s after that: %+v, %v", who, got, err)
		}
	}
}

// Nothing that a server has said is handed on once it is not trusted any more, or otherwise: by the operator's word, or
// since another part of this server has met the key that has followed.
func TestKeys_Lookup_Distrusted(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	keys := keysOf(a)
	ask := func(when string, server crypt.PublicKey, want crypt.Trust) {
		t.Helper()
		if got, err := lookup(t, keys, "bob@b.example"); err != nil || got.Server != server || got.Trust != want {
			t.Fatalf("%s: %+v, %v", when, got, err)
		}
	}
	ask("at first", b.key.Public(), crypt.TrustFirstContact)
	if err := a.trust.Pin(b.domain, trust.Public{PublicKey: b.key.Public()}); err != nil {
		t.Fatal(err)
	}
	ask("pinned", b.key.Public(), crypt.TrustOperator)
	met := w.dialed("127.0.0.3")
	ask("again", b.key.Public(), crypt.TrustOperator)
	if n := w.dialed("127.0.0.3"); n != met {
		t.Errorf("what still holds was asked for anew")
	}
	next := w.serve("b.example", options{edit: func(cfg *session.Config) { cfg.Former = []*crypt.PrivateKey{b.key} }}, "bob")
	w.lead("127.0.0.3", next.addr)
	p, err := a.peers.Open(t.Context(), b.domain)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	ask("delivered to under another key", next.key.Public(), crypt.TrustOperator)
	if err := a.trust.Forget(b.domain); err != nil {
		t.Fatal(err)
	}
	if err := a.trust.Pin(b.domain, trust.Public{PublicKey: newKey(t).Public()}); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(t, keys, "bob@b.example"); !errors.Is(err, federation.ErrDistrusted) {
		t.Errorf("with another key pinned: %+v, %v", got, err)
	}
}

func refresh(t testing.TB, k *federation.Keys, who string) (*federation.Foreign, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return k.Refresh(ctx, name(who), nil)
}

// A shifty server says of bob what it is told to; of the others, nothing.
type shifty struct {
	key       atomic.Pointer[crypt.PublicKey] // bob's; nil: there is no such account
	busy      atomic.Bool                     // it has a trouble
	reach     func(bool)                      // whether it can be met
	questions func() int                      // how often it was called
}

func (w *world) shifty() *shifty {
	s, f := w.fake("b.example", "127.0.0.3", true), new(shifty)
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		key := f.key.Load()
		switch {
		case cmd.Verb != cmtp.KeyRequest || string(cmd.User()) != "bob":
			return false, nil
		case f.busy.Load():
			return true, c.Fail(cmtp.StatusTooOften, "later")
		case key == nil:
			return true, c.Fail(cmtp.StatusNoAccount, "no such account")
		}
		k := crypt.KeyStatement{Name: name("bob@b.example"), Key: *key}
		return true, c.Done(c.Server.History(k.Name, []crypt.SignedKey{{KeyStatement: k}}).Append(nil))
	}
	at := s.Start(w.t)
	f.reach = func(can bool) {
		w.lead("127.0.0.3", at)
		if !can {
			w.strand("127.0.0.3")
		}
	}
	f.reach(true)
	f.questions = func() int { return w.dialed("127.0.0.3") }
	return f
}

func (f *shifty) changeKey(t testing.TB) crypt.PublicKey {
	k := newKey(t).Public()
	f.key.Store(&k)
	return k
}

// Who doubts what is remembered is given nothing that is a minute old, and what is learnt for one stands for all; more than
// once a minute nobody has the other server asked.
func TestKeys_Refresh(t *testing.T) {
	w := newWorld(t)
	keys, b := keysOf(w.site("a.example", "127.0.0.2", options{}, "alice")), w.shifty()
	for _, step := range []struct {
		what   string
		after  time.Duration
		change bool
		ask    func(testing.TB, *federation.Keys, string) (*federation.Foreign, error)
		asked  bool
	}{
		{"first", 0, true, refresh, true},
		{"at once", 0, false, refresh, false},
		{"just young enough", time.Minute - 1, false, refresh, false},
		{"old, but good enough", 1, false, lookup, false},
		{"too old, changed", 0, true, refresh, true},
		{"the others after that", 0, false, lookup, false},
		{"young again", time.Minute - 1, false, refresh, false},
		{"old again", 1, false, refresh, true},
		{"kept as long as any", federation.DefaultKeyLife - 1, false, lookup, false},
		{"not longer", 1, true, lookup, true},
		{"after one that was no refresh", 0, false, refresh, false},
	} {
		w.clock.add(step.after)
		if step.change {
			b.changeKey(t)
		}
		before := b.questions()
		got, err := step.ask(t, keys, "bob@b.example")
		if err != nil || got.Key != *b.key.Load() || b.questions() != before+map[bool]int{true: 1}[step.asked] {
			t.Errorf("%s: %+v, %v, asked %d times", step.what, got, err, b.questions()-before)
		}
	}
}

// A refresh that fails is a failure like any other: no old answer comes out as a new one, and a trouble is not asked for again at once.
func TestKeys_Refresh_Fails(t *testing.T) {
	w := newWorld(t)
	keys, b := keysOf(w.site("a.example", "127.0.0.2", options{}, "alice")), w.shifty()
	old := b.changeKey(t)
	step := func(what string, ask func(testing.TB, *federation.Keys, string) (*federation.Foreign, error), status cmtp.Status, questions int) {
		t.Helper()
		before := b.questions()
		got, err := ask(t, keys, "bob@b.example")
		if (err != nil) != (status != 0) || err != nil && statusOf(err) != status || err == nil && got.Key != *b.key.Load() || b.questions() != before+questions {
			t.Errorf("%s: %+v, %v, asked %d times", what, got, err, b.questions()-before)
		}
	}
	step("first", lookup, 0, 1)

	w.clock.add(time.Minute)
	b.reach(false)
	step("out of reach", refresh, cmtp.StatusPeerUnreached, 1)
	step("at once", refresh, cmtp.StatusPeerUnreached, 0)
	step("who takes an old answer", lookup, 0, 0)
	w.clock.add(30 * time.Second)
	step("still out of reach", refresh, cmtp.StatusPeerUnreached, 1)
	b.reach(true)
	w.clock.add(30 * time.Second)
	step("back", refresh, 0, 1)

	w.clock.add(time.Minute)
	b.busy.Store(true)
	step("in trouble", refresh, cmtp.StatusPeerUnreached, 1)
	step("at once", refresh, cmtp.StatusPeerUnreached, 0)
	step("the others", lookup, cmtp.StatusPeerUnreached, 0)
	w.clock.add(30 * time.Second)
	b.busy.Store(false)
	step("without trouble", lookup, 0, 1)

	w.clock.add(time.Minute)
	b.key.Store(nil)
	step("removed", refresh, cmtp.StatusNoAccount, 1)
	step("the others", lookup, cmtp.StatusNoAccount, 0)
	w.clock.add(time.Minute)
	if b.changeKey(t) == old {
		t.Fatal("the same key")
	}
	step("made anew, as remembered", func(t testing.TB, k *federation.Keys, who string) (*federation.Foreign, error) {
		if _, err := lookup(t, k, who); statusOf(err) != cmtp.StatusNoAccount {
			t.Errorf("what is remembered: %v", err)
		}
		return refresh(t, k, who)
	}, 0, 1)
}

// Many who doubt at once make one question.
func TestKeys_Refresh_OneFlight(t *testing.T) {
	w := newWorld(t)
	keys, b := keysOf(w.site("a.example", "127.0.0.2", options{}, "alice")), w.shifty()
	b.changeKey(t)
	if _, err := lookup(t, keys, "bob@b.example"); err != nil {
		t.Fatal(err)
	}
	w.clock.add(time.Minute)
	want, before := b.changeKey(t), b.questions()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if got, err := refresh(t, keys, "bob@b.example"); err != nil || got.Key != want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := b.questions() - before; n != 1 {
		t.Errorf("%d questions", n)
	}
}
