package main_test

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"cmtpd/internal/cmtptest"
)

// Where the better hosts of a domain are dead, or turn away, the next one is asked in the
// same attempt.
func TestFederation_Fallback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	_, port, err := net.SplitHostPort(b.Shared[0])
	if err != nil {
		t.Fatal(err)
	}
	var turned atomic.Int32
	dead, busy := cmtptest.Loopback(), cmtptest.Loopback()
	l, err := net.Listen("tcp", net.JoinHostPort(busy, port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			turned.Add(1)
			io.WriteString(c, "421 too busy, come back later\r\n")
			c.Close()
		}
	}()
	w.lead(b.domain, b.Shared[0], b.key(), "b.example. 1 MX 1 dead.b.example.\ndead.b.example. 1 A "+dead+
		"\nb.example. 1 MX 2 busy.b.example.\nbusy.b.example. 1 A "+busy+"\n")
	ch := w.signIn(a)
	w.send(ch, a, b.alice(), w.keyOf(ch, b), "to the third host")
	a.await(w, "message delivered")
	equal(t, "messages at b", len(b.list(w)), 1)
	if turned.Load() == 0 {
		t.Error("the host that turns away was passed over")
	}
	if strings.Contains(a.Log(), "destination failed") {
		t.Errorf("it took more than an attempt:\n%s", a.Log())
	}
}

// Mail waits for a server that is down, however often the own one is restarted meanwhile, and
// arrives once.
func TestFederation_Down(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	ch := w.signIn(a)
	key := w.keyOf(ch, b)
	b.Kill()
	for _, subject := range []string{"one", "two", "three"} {
		w.send(ch, a, b.alice(), key, subject)
	}
	a.await(w, "destination failed", "attempt=2")
	a.awaitWaiting(w, "waiting", "connection refused", "cannot be reached")
	a.Stop(t)
	a.again(w, nil)
	equal(t, "messages that wait", len(a.waiting(w)), 3)
	b.again(w, nil)
	a.awaitList(w, 0)
	equal(t, "messages at b", len(b.list(w)), 3)
}

// A domain may move to another host and port with its key; DNS alone says so.
func TestFederation_Move(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	ch := w.signIn(a)
	key := w.keyOf(ch, b)
	w.send(ch, a, b.alice(), key, "before")
	a.await(w, "message delivered")
	b.Stop(t)
	w.send(ch, a, b.alice(), key, "between")
	a.await(w, "destination failed")
	before := b.Shared[0]
	b.again(w, cmtptest.Settings{"listen.addresses": `["` + cmtptest.Loopback() + `:0"]`})
	w.publish(b, b.key())
	if b.Shared[0] == before {
		t.Fatal("it has not moved")
	}
	b.awaitList(w, 2)
	a.awaitList(w, 0)
	w.send(ch, a, b.alice(), key, "after")
	b.awaitList(w, 3)
	if held := a.Must(w, "", "trust", "list", "--held"); held != "" {
		t.Errorf("held: %s", held)
	}
}
