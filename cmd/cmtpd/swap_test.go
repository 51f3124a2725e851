package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/trust"
)

// A server that shows another key than before is noticed, whatever DNS says by now: mail
// waits and says why, its sender is told that it is late, and the operator's word releases it at once.
func TestFederation_SwappedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.realm("a.example", cmtptest.Settings{"delivery.delay_notice": `"2s"`, "delivery.retry_min": `"1h"`, "delivery.retry_max": `"2h"`})
	b := w.realm("b.example", nil)
	ch := w.signIn(a)
	key := w.keyOf(ch, b)
	w.send(ch, a, b.alice(), key, "before")
	a.await(w, "message delivered")

	b.Stop(t)
	old := b.key()
	if err := os.Remove(filepath.Join(b.Data, "server.key")); err != nil {
		t.Fatal(err)
	}
	if d, err := cmtptest.Launch(t.Context(), b.Program, b.Config); err == nil {
		d.Kill()
		t.Fatal("a server makes another key beside the spool of a lost one")
	} else if !strings.Contains(err.Error(), "there is a spool that belongs to it") {
		t.Errorf("a server with the spool of a lost key: %v", err)
	}
	for _, name := range []string{"spool", "spool.key"} { // as somebody else would have it
		if err := os.RemoveAll(filepath.Join(b.Data, name)); err != nil {
			t.Fatal(err)
		}
	}
	b.again(w, nil)
	if b.key() == old {
		t.Fatal("the key has not changed")
	}
	w.publish(b, b.key())
	w.send(ch, a, b.alice(), key, "to a stranger")
	a.await(w, "a sender was told", "late=true")
	if waits := a.awaitWaiting(w, "distrust", "key"); len(waits) != 1 {
		t.Errorf("what waits: %+v", waits)
	}
	if held := a.Must(w, "", "trust", "list", "--held"); !strings.Contains(held, b.key().String()) {
		t.Errorf("held: %s", held)
	}
	if all := b.list(w); len(all) != 0 {
		t.Errorf("the stranger has %+v", all)
	}
	a.Must(w, "", "trust", "accept", b.domain, b.key().String())
	b.awaitList(w, 1)
	if all := a.awaitList(w, 1); all[0].Source != "@a.example" {
		t.Errorf("alice's report: %+v", all)
	}
}

// A server that changes its own key in order needs nobody's help, neither before DNS names the
// new one nor afterwards, in both directions.
func TestFederation_OwnRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	ch := w.signIn(a)
	key := w.keyOf(ch, b)
	w.send(ch, a, b.alice(), key, "before")
	b.awaitList(w, 1)

	b.Stop(t)
	old := b.key()
	b.Must(w, "", "key", "rotate", "--now")
	b.again(w, nil)
	w.send(ch, a, b.alice(), key, "DNS has the former key")
	b.awaitList(w, 2)
	w.publish(b, b.key())
	w.send(ch, a, b.alice(), key, "DNS has the new key")
	b.awaitList(w, 3)
	known := a.Must(w, "", "trust", "list")
	if !strings.Contains(known, b.key().String()) || strings.Contains(known, old.String()) || strings.Contains(known, "held") {
		t.Errorf("known: %s", known)
	}

	back := w.signIn(b)
	w.send(back, b, a.alice(), w.keyOf(back, a), "the other way")
	a.await(w, "message stored", "alice@a.example")
	for _, m := range a.list(w) {
		if m.Source == "alice@b.example" && !strings.Contains(m.From, "origin=proven") {
			t.Errorf("arrived: %+v", m)
		}
	}
}

// A server that has changed its key writes to one that knows it, before that one has met it again: in order, when
// the records have named both keys, and at once, when they name the old one. Nothing is put off.
func TestFederation_WritesAfterRotation(t *testing.T) {
	t.Parallel()
	for name, rotate := range map[string]func(*testing.T, *world, *realm){"in order": rotateInOrder, "at once": func(t *testing.T, _ *world, b *realm) {
		b.Stop(t)
		b.Must(t, "", "key", "rotate", "--now")
	}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a, b := w.realm("a.example", nil), w.realm("b.example", nil)
			ch := w.signIn(a)
			w.send(ch, a, b.alice(), w.keyOf(ch, b), "before")
			b.awaitList(w, 1)
			old := b.key()
			rotate(t, w, b)
			b.again(w, nil)
			if b.key() == old {
				t.Fatal("the key has not changed")
			}
			back := w.signIn(b)
			w.send(back, b, a.alice(), w.keyOf(back, a), "after")
			all := a.awaitList(w, 1)
			if !strings.Contains(all[0].From, "origin=proven") {
				t.Errorf("arrived: %+v", all)
			}
			for _, line := range []string{"message not delivered", "does not take our proof", "destination failed"} {
				if strings.Contains(b.Log(), line) {
					t.Errorf("%s:\n%s", line, b.Log())
				}
			}
			known := a.Must(t, "", "trust", "list")
			if !strings.Contains(known, b.key().String()) || strings.Contains(known, old.String()) || strings.Contains(known, "held") {
				t.Errorf("known: %s", known)
			}
		})
	}
}

// rotateInOrder prepares, publishes both keys, waits as long as the records live, stops the server and switches.
func rotateInOrder(t *testing.T, w *world, b *realm) {
	t.Helper()
	b.Must(t, "", "key", "rotate", "--prepare")
	next, err := keyfile.Load(keyfile.NextPath(filepath.Join(b.Data, "server.key")))
	if err != nil {
		t.Fatal(err)
	}
	w.zone[b.domain] = strings.Replace(w.zone[b.domain], "; p=", "; p="+trust.Public{PublicKey: next.Public()}.Base64()+"; p=", 1)
	w.dns.SetZone(w, w.zoneText())
	b.Must(t, "", "key", "rotate", "--prepare")
	b.Stop(t)
	tick := time.NewTicker(200 * time.Millisecond) // the wait that is tried is the operator's
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		r := b.Run(t, "", "key", "rotate", "--switch", "--wait", "1s")
		if r.Status == 0 {
			return
		}
		if !strings.Contains(r.Err, "it is too early") || time.Now().After(end) {
			t.Fatalf("%+v", r)
		}
	}
}
