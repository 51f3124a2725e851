package client_test

import (
	"errors"
	"testing"

	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// What one's own server says of another one's names is held to that one's signatures.
func TestChannel_Foreign(t *testing.T) {
	other, carol := clienttest.Key(t), name("carol@example.net")
	key := clienttest.Key(t).Public()
	good := &crypt.Foreign{Trust: crypt.TrustDNS, Server: other.Public(), Key: key, Signature: other.Sign(key[:])}
	forged := *good
	forged.Key = clienttest.Key(t).Public()
	for what, tt := range map[string]struct {
		payload []byte
		want    error
	}{
		"Good":    {good.Append(nil), nil},
		"Forged":  {forged.Append(nil), crypt.ErrUnsigned},
		"Cut":     {good.Append(nil)[:100], crypt.ErrForeign},
		"TooLong": {make([]byte, crypt.MaxForeign+1), cmtp.ErrTooLarge},
	} {
		t.Run(what, func(t *testing.T) {
			s := private(t)
			inside(s, cmtp.KeyRequest, func(c *clienttest.Conn) error { return c.Done(tt.payload) })
			ch := open(t, s.Start(t))
			f, err := ch.Foreign(carol)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if err == nil && (f.Current() != key || f.Server != other.Public() || f.Trust != crypt.TrustDNS) {
				t.Errorf("answer %+v", f)
			}
			if _, again := ch.Foreign(carol); err != nil && !errors.Is(again, client.ErrClosed) {
				t.Errorf("after a lie: %v", again)
			}
		})
	}
	s := private(t)
	inside(s, cmtp.KeyRequest, func(c *clienttest.Conn) error { return c.Fail(cmtp.StatusPeerDistrusted, "held") })
	_, err := open(t, s.Start(t)).Foreign(carol)
	refused(t, err, cmtp.StatusPeerDistrusted)
}

// A name of the server's own is told from one of another server's by the answer alone.
func TestChannel_Either(t *testing.T) {
	other, carol := clienttest.Key(t), name("carol@example.net")
	key := clienttest.Key(t).Public()
	foreign := &crypt.Foreign{Trust: crypt.TrustFirstContact, Server: other.Public(), Key: key, Signature: other.Sign(key[:])}
	statements := []crypt.SignedKey{{KeyStatement: crypt.KeyStatement{Name: carol, Key: key}}}
	forged := (&clienttest.Server{Key: other}).History(carol, statements)
	for what, tt := range map[string]struct {
		payload []byte
		want    error
	}{
		"Own":     {nil, nil}, // by the server's key
		"Foreign": {foreign.Append(nil), nil},
		"Forged":  {forged.Append(nil), crypt.ErrUnsigned},
		"Empty":   {nil, crypt.ErrForeign},
	} {
		t.Run(what, func(t *testing.T) {
			s := private(t)
			if what == "Own" {
				tt.payload = s.History(carol, statements).Append(nil)
			}
			inside(s, cmtp.KeyRequest, func(c *clienttest.Conn) error { return c.Done(tt.payload) })
			h, f, err := open(t, s.Start(t)).Either(carol)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if (h != nil) != (what == "Own") || (f != nil) != (what == "Foreign") {
				t.Errorf("answers %v and %v", h, f)
			}
		})
	}
}
