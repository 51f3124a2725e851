package main_test

import (
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/spool"
)

// A sender is told once that a letter is late, however often the server is killed in between or
// stopped, and once more when it is given up.
func TestFederation_Late(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", cmtptest.Settings{"delivery.delay_notice": `"1s"`}), w.realm("b.example", nil)
	ch := w.signIn(a)
	key, seal := w.ring(ch, a), w.keyOf(ch, b)
	b.Stop(t)
	w.send(ch, a, b.alice(), seal, "late")
	a.await(w, "a sender was told", "late=true")
	a.Kill() // perhaps before it has noted so
	const late = "Not delivered yet: your letter to alice@b.example\n"
	for range 2 {
		a.again(w, nil)
		a.await(w, "destination failed")
		equal(t, "what alice was told", a.subjects(w, key), late)
		a.Stop(t)
	}
	a.again(w, cmtptest.Settings{"delivery.max_age": `"2s"`})
	a.await(w, "a sender was told", "late=false")
	a.awaitQueue(w, 0)
	a.Stop(t)
	equal(t, "what alice was told in the end", a.subjects(w, key), late+"Not delivered: your letter to alice@b.example\n")
}

// subjects returns those of a server's reports to the holder of a key, sorted, a line each.
func (r *realm) subjects(w *world, key *crypt.PrivateKey) string {
	w.Helper()
	var all []string
	r.each(w, func(info spool.Info, m *spool.Reader) error {
		if info.From != "cmtpd" {
			return nil
		}
		l, err := letter.Open(m, m.Size(), []*crypt.PrivateKey{key})
		if err == nil {
			all = append(all, l.Subject+"\n")
		}
		return err
	})
	slices.Sort(all)
	return strings.Join(all, "")
}
