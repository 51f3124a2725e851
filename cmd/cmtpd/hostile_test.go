package main_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
)

var errCut = errors.New("cut")

// Whoever cuts the connection behind a letter, so that its receipt never comes, makes it be
// sent again, and not arrive again.
func TestFederation_Truncated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	const whole = 200 << 10
	var cuts atomic.Int32
	between := cmtptest.Between(t, b.Shared[0], func(client, server *net.TCPConn) {
		var sent atomic.Int64
		cmtptest.Relay(client, server, func(p []byte) ([]byte, error) {
			if sent.Add(int64(len(p))) < whole/2 || cuts.Load() > 2 {
				return p, nil
			}
			if cuts.Load() == 0 {
				cuts.Add(1)
				return p[:len(p)/2], errCut // in the letter
			}
			return p, nil
		}, func(p []byte) ([]byte, error) {
			if sent.Load() < whole || cuts.Load() > 2 {
				return p, nil
			}
			cuts.Add(1)
			return nil, errCut // in front of its receipt
		})
	})
	w.lead(b.domain, between, b.key(), "")
	ch := w.signIn(a)
	w.sendLarge(ch, a, b, make([]byte, whole))
	a.await(w, "message delivered")
	if cuts.Load() != 3 {
		t.Errorf("it was cut off %d times", cuts.Load())
	}
	a.await(w, "message not delivered", "attempt=2")
	equal(t, "letters at b", len(b.list(w)), 1)
	a.awaitList(w, 0)
}

// A server that takes all the time that there is keeps nobody's mail but its own.
func TestFederation_Slow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b, c := w.realm("a.example", nil), w.realm("b.example", nil), w.realm("c.example", nil)
	quick := make(chan struct{})
	speak := sync.OnceFunc(func() { close(quick) })
	t.Cleanup(speak)
	between := cmtptest.Between(t, b.Shared[0], func(client, server *net.TCPConn) {
		cmtptest.Relay(client, server, cmtptest.Pass, func(p []byte) ([]byte, error) {
			for len(p) > 1 { // a byte at once, and the rest when it pleases
				client.Write(p[:1])
				p = p[1:]
				<-quick
			}
			return p, nil
		})
	})
	w.lead(b.domain, between, b.key(), "")
	ch := w.signIn(a)
	w.send(ch, a, b.alice(), b.key(), "to the slow one")
	for range 20 {
		w.send(ch, a, c.alice(), w.keyOf(ch, c), "to the other one")
	}
	c.awaitList(w, 20)
	for _, e := range a.awaitQueue(w, 1) {
		if e.Domain != b.domain || e.Condition != "sending" && e.Condition != "waiting" {
			t.Errorf("it waits so: %+v", e)
		}
	}
	speak()
	b.awaitList(w, 1)
	a.awaitList(w, 0)
}

// A domain's server that lies, but has the domain's key, is caught wherever a lie can be seen: a
// receipt for another letter delivers none, and one user's key is not taken for another's.
func TestFederation_Liar(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.realm("a.example", nil)
	var first atomic.Pointer[crypt.Receipt]
	var honest atomic.Bool
	to, eve := parsed(t, "alice@b.example"), parsed(t, "eve@b.example")
	liar := clienttest.NewServer(t)
	liar.Private = true
	liar.Users["alice@b.example"] = clienttest.User{Key: clienttest.Key(t).Public()}
	liar.Users["eve@b.example"] = clienttest.User{Key: clienttest.Key(t).Public()}
	liar.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		switch {
		case c.Channel == nil || honest.Load():
			return false, nil
		case cmd.Verb == cmtp.KeyRequest && string(cmd.User()) == "alice":
			statement := crypt.SignedKey{KeyStatement: crypt.KeyStatement{Name: eve, Key: liar.Users["eve@b.example"].Key}}
			return true, c.Done(liar.History(eve, []crypt.SignedKey{statement}).Append(nil))
		case cmd.Verb == cmtp.Mail:
			m, err := cmtp.NewMessageReader(c.In, mib)
			if err != nil {
				return false, err
			}
			if _, err := io.Copy(io.Discard, m); err != nil {
				return false, err
			}
			r, err := clienttest.Receipt(m)
			if err != nil {
				return false, err
			}
			first.CompareAndSwap(nil, r)
			return true, c.Done(first.Load().AppendSigned(nil, liar.Key))
		}
		return false, nil
	}
	w.lead("b.example", liar.Start(t), liar.Key.Public(), "")

	ch := w.signIn(a)
	if f, err := ch.Foreign(to); err == nil {
		t.Errorf("eve's key is taken for alice's: %+v", f)
	}
	w.send(ch, a, to, liar.Users["alice@b.example"].Key, "that is received")
	a.await(w, "message delivered")
	w.send(ch, a, to, liar.Users["alice@b.example"].Key, "whose receipt is another's")
	a.await(w, "message not delivered", "attempt=2")
	for _, e := range a.awaitQueue(w, 1) {
		if e.Condition == "waiting" && !strings.Contains(e.Text, "receipt") {
			t.Errorf("it waits so: %+v", e)
		}
	}
	honest.Store(true)
	a.awaitList(w, 0)
	equal(t, "letters that were believed to have arrived", len(liar.Messages()), 1)
}

func parsed(t *testing.T, s string) address.Address {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
