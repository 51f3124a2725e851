package client_test

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// outgoing are n messages to user0@example.org and so on, of this size.
func outgoing(n int, size int64) iter.Seq[client.Outgoing] {
	return func(yield func(client.Outgoing) bool) {
		for i := range n {
			h := header
			h.DestinationAccount, h.DestinationDomain = fmt.Sprintf("user%d", i), "example.org"
			if !yield(client.Outgoing{Header: h, Body: part{size: size}}) {
				return
			}
		}
	}
}

// taking answers MAIL: each message is read, unless early has answered it already, and gets
// what say says of the i-th.
func taking(s *clienttest.Server, say func(c *clienttest.Conn, i int, r *crypt.Receipt) error) {
	i := 0
	inside(s, cmtp.Mail, func(c *clienttest.Conn) error {
		m, err := cmtp.NewMessageReader(c.In, 1<<30)
		if err == nil {
			_, err = io.Copy(io.Discard, m)
		}
		if err != nil {
			return err
		}
		r, err := clienttest.Receipt(m)
		if err != nil {
			return err
		}
		i++
		return say(c, i-1, r)
	})
}

// More messages than may be under way get each its own answer, refusals among them.
func TestChannel_SendAll(t *testing.T) {
	s := private(t)
	taking(s, func(c *clienttest.Conn, i int, r *crypt.Receipt) error {
		if i%5 == 2 {
			return c.Fail(cmtp.StatusNoAccount, fmt.Sprint("nobody ", i))
		}
		return c.Done(r.AppendSigned(nil, s.Key))
	})
	ch := open(t, s.Start(t))
	fates, err := ch.SendAll(outgoing(100, 1000))
	if err != nil || len(fates) != 100 {
		t.Fatalf("%d fates, %v", len(fates), err)
	}
	for i, f := range fates {
		if i%5 == 2 {
			refused(t, f.Err, cmtp.StatusNoAccount)
		} else if to := fmt.Sprintf("user%d@example.org", i); f.Err != nil || f.Receipt.Destination.String() != to || f.Queued {
			t.Errorf("message %d: %+v", i, f)
		}
	}
	if fates, err := ch.SendAll(outgoing(0, 1)); err != nil || len(fates) != 0 {
		t.Errorf("nothing to send: %v, %v", fates, err)
	}
	if _, err := ch.History(name("eve@example.org")); err == nil {
		t.Error("the channel does not go on")
	}
}

// One that cannot be sent takes none of the others with it.
func TestChannel_SendAll_NoName(t *testing.T) {
	s := private(t)
	ch := open(t, s.Start(t))
	fates, err := ch.SendAll(func(yield func(client.Outgoing) bool) {
		all := slices.Collect(outgoing(3, 100))
		all[1].Header.DestinationDomain = "no domain"
		for _, m := range all {
			yield(m)
		}
	})
	if err != nil || len(fates) != 3 || fates[0].Err != nil || !errors.Is(fates[1].Err, client.ErrParameter) || fates[2].Err != nil {
		t.Errorf("%+v, %v", fates, err)
	}
	if len(s.Messages()) != 2 {
		t.Errorf("%d messages came", len(s.Messages()))
	}
}

// What ends the channel leaves the fates that are known.
func TestChannel_SendAll_Ends(t *testing.T) {
	tests := map[string]struct {
		say  func(c *clienttest.Conn, i int, r *crypt.Receipt) error // of the messages from the third on
		want error
	}{
		"HangsUp": {func(*clienttest.Conn, int, *crypt.Receipt) error { return io.EOF }, nil},
		"NoReply": {func(c *clienttest.Conn, _ int, _ *crypt.Receipt) error { return c.Reply(make([]byte, 10)) }, cmtp.ErrReply},
		"ForeignReceipt": {func(c *clienttest.Conn, _ int, r *crypt.Receipt) error {
			r.Digest[0]++
			return c.Done(r.AppendSigned(nil, c.Server.Key))
		}, client.ErrReceipt},
		"AnotherKey": {func(c *clienttest.Conn, _ int, r *crypt.Receipt) error { return c.Done(r.AppendSigned(nil, otherKey)) }, client.ErrReceipt},
		"ReceiptTooLong": {func(c *clienttest.Conn, _ int, _ *crypt.Receipt) error {
			return c.Done(make([]byte, crypt.MaxReceipt+1))
		}, cmtp.ErrTooLarge},
		"ClosesWithAWord": {func(c *clienttest.Conn, _ int, _ *crypt.Receipt) error { return c.Fail(cmtp.StatusClosing, "bye") }, nil},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			s := private(t)
			taking(s, func(c *clienttest.Conn, i int, r *crypt.Receipt) error {
				if i < 2 {
					return c.Done(r.AppendSigned(nil, s.Key))
				}
				return tt.say(c, i, r)
			})
			ch := open(t, s.Start(t))
			fates, err := ch.SendAll(outgoing(100, 50_000))
			if err == nil || len(fates) != 2 || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%d fates, %v, want %v", len(fates), err, tt.want)
			}
			if tt.want == nil && !client.Temporary(err) {
				t.Errorf("%v is final", err)
			}
			if _, err := ch.SendAll(outgoing(1, 1)); !errors.Is(err, client.ErrClosed) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

var otherKey = must(crypt.GenerateKey())

// A server that answers at once and reads nothing is not waited for longer than allowed,
// and is not believed.
func TestChannel_SendAll_Early(t *testing.T) {
	for what, say := range map[string]func(c *clienttest.Conn) error{
		"Receipt": func(c *clienttest.Conn) error {
			r := crypt.Receipt{Destination: name("user0@example.org")}
			return c.Done(r.AppendSigned(nil, c.Server.Key))
		},
		"Refusal": func(c *clienttest.Conn) error { return c.Fail(cmtp.StatusTooLarge, "too large") },
		"Silence": func(*clienttest.Conn) error { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			s := private(t)
			inside(s, cmtp.Mail, func(c *clienttest.Conn) error {
				if err := say(c); err != nil {
					return err
				}
				<-t.Context().Done()
				return io.EOF
			})
			ch := openWith(t, client.Dialer{Timeout: 4 * short}, s.Start(t))
			fates, err := ch.SendAll(outgoing(2, 32<<20))
			if err == nil {
				t.Fatal("it was believed")
			}
			if what == "Refusal" {
				if len(fates) != 1 {
					t.Fatalf("fates %+v, %v", fates, err)
				}
				refused(t, fates[0].Err, cmtp.StatusTooLarge)
			} else if len(fates) != 0 {
				t.Errorf("fates %+v", fates)
			}
			if what == "Receipt" && !errors.Is(err, cmtp.ErrReply) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A part that cannot be read ends the channel: the server must not wait for its rest.
func TestChannel_SendAll_BadPart(t *testing.T) {
	s := private(t)
	ch := open(t, s.Start(t))
	began := time.Now()
	fates, err := ch.SendAll(func(yield func(client.Outgoing) bool) {
		for m := range outgoing(3, 100) {
			if m.Header.DestinationAccount == "user1" {
				m.Body = part{size: 100_000, fail: 40_000}
			}
			if !yield(m) {
				return
			}
		}
	})
	if !errors.Is(err, errPart) || len(fates) > 1 || time.Since(began) > long/2 {
		t.Errorf("%d fates, %v, after %v", len(fates), err, time.Since(began))
	}
}

// Once a server has lied, nobody waits for it to read on.
func TestChannel_SendAll_Lied(t *testing.T) {
	s := private(t)
	taking(s, func(c *clienttest.Conn, _ int, r *crypt.Receipt) error {
		if err := c.Done(r.AppendSigned(nil, otherKey)); err != nil {
			return err
		}
		<-t.Context().Done()
		return io.EOF
	})
	ch := open(t, s.Start(t))
	began := time.Now()
	fates, err := ch.SendAll(func(yield func(client.Outgoing) bool) {
		for m := range outgoing(1, 100) {
			_ = yield(m) && yield(client.Outgoing{Header: m.Header, Body: part{size: 32 << 20}})
		}
	})
	if !errors.Is(err, client.ErrReceipt) || len(fates) != 0 || time.Since(began) > long/2 {
		t.Errorf("%d fates, %v, after %v", len(fates), err, time.Since(began))
	}
}
