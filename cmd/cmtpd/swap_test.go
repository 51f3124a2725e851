package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

// A server that shows another key than before is noticed, whatever DNS says by now: mail
// waits and says why, its sender is told that it is late, and the operator's word releases it.
func TestFederation_SwappedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.realm("a.example", cmtptest.Settings{"delivery.delay_notice": `"2s"`})
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
