package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// inside lets do answer every command of one kind inside the channel.
func inside(s *clienttest.Server, verb cmtp.Verb, do func(*clienttest.Conn) error) {
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if c.Channel == nil || cmd.Verb != verb {
			return false, nil
		}
		return true, do(c)
	}
}

// head begins a reply.
func head(status uint16, length uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(nil, status), length)
}

// endless replies with b and then with zeros for as long as the client takes them.
func endless(b []byte) func(*clienttest.Conn) error {
	return func(c *clienttest.Conn) error {
		zeros := make([]byte, 16<<10)
		err := c.Reply(b)
		for err == nil {
			err = c.Reply(zeros)
		}
		return err
	}
}

func just(b []byte) func(*clienttest.Conn) error {
	return func(c *clienttest.Conn) error { return c.Reply(b) }
}

// Whatever a reply says of itself, it is noticed, and nothing is said behind it.
func TestChannel_Replies(t *testing.T) {
	reason := func(s string) []byte { return append(head(550, uint64(len(s))), s...) }
	tests := map[string]struct {
		do   func(*clienttest.Conn) error
		want error
	}{
		"HugeLength":      {endless(head(200, math.MaxUint64)), cmtp.ErrTooLarge},
		"Endless":         {endless(nil), cmtp.ErrReply},
		"OneByteTooLong":  {endless(head(200, 33)), cmtp.ErrTooLarge},
		"OneByteTooShort": {just(append(head(200, 31), make([]byte, 31)...)), cmtp.ErrReply},
		"NoPayload":       {just(head(200, 0)), cmtp.ErrReply},
		"StatusOf1":       {just(head(100, 0)), cmtp.ErrReply},
		"StatusOf3":       {just(head(300, 0)), cmtp.ErrReply},
		"StatusOf6":       {just(head(600, 0)), cmtp.ErrReply},
		"StatusOf4Digits": {just(head(2000, 0)), cmtp.ErrReply},
		"ReasonControls":  {just(reason("no\x1b[2Jsuch account")), cmtp.ErrReply},
		"ReasonNotUTF8":   {just(reason("no \xff account")), cmtp.ErrReply},
		"ReasonTooLong":   {just(reason(strings.Repeat("a", cmtp.MaxReason+1))), cmtp.ErrReply},
		"ReasonHuge":      {endless(head(550, math.MaxUint64)), cmtp.ErrReply},
		"PartI":           {func(c *clienttest.Conn) error { return c.Word(cmtp.Failure) }, cmtp.ErrReply},
		"Ends":            {func(*clienttest.Conn) error { return io.EOF }, io.ErrUnexpectedEOF},
		"Cut":             {func(c *clienttest.Conn) error { return c.Cut() }, channel.ErrTruncated},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := private(t)
			inside(s, cmtp.Unlock, tt.do)
			ch := open(t, s.Start(t))
			_, err := ch.Unlock(bob, oprf.Element{})
			if !errors.Is(err, tt.want) || errors.Is(err, channel.ErrTruncated) != (tt.want == channel.ErrTruncated) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if _, err := ch.Login(bob); !errors.Is(err, client.ErrClosed) {
				t.Errorf("error %v, want ErrClosed", err)
			}
		})
	}
}

// A length alone costs nothing, neither one that is too large nor one that is not.
func TestChannel_Replies_Memory(t *testing.T) {
	p := newCast(t)
	for i := range p.calls() {
		for _, length := range []uint64{math.MaxUint64, 1 << 31, uint64(crypt.MaxHistory), xzibit.MaxSize, 32} {
			cmtptest.Bounded(t, 160<<10, func() { p.replay(append([]byte{byte(i)}, head(200, length)...)) })
		}
	}
}

// The longest reason and the longest payload are read.
func TestChannel_Replies_Limits(t *testing.T) {
	s := private(t)
	inside(s, cmtp.Unlock, func(c *clienttest.Conn) error {
		return c.Fail(cmtp.StatusTooOften, strings.Repeat("a", cmtp.MaxReason))
	})
	ch := open(t, s.Start(t))
	_, err := ch.Unlock(bob, oprf.Element{})
	refused(t, err, cmtp.StatusTooOften)
	if !client.Temporary(err) {
		t.Errorf("%v is not temporary", err)
	}
	_, err = ch.Login(bob)
	refused(t, err, cmtp.StatusNoAccount)
}

// A reply that ends within is noticed at every byte, and told from one that was cut.
func TestChannel_Replies_CutAtEachByte(t *testing.T) {
	reply := cmtp.AppendReply(nil, cmtp.StatusDone, make([]byte, 32))
	s := private(t)
	ends := make(chan func(*clienttest.Conn) error, 1)
	inside(s, cmtp.Unlock, func(c *clienttest.Conn) error { return (<-ends)(c) })
	addr := s.Start(t)
	for end := range reply {
		for _, cut := range []bool{false, true} {
			ends <- func(c *clienttest.Conn) error {
				c.Reply(reply[:end])
				if cut {
					return c.Cut()
				}
				return io.EOF
			}
			_, err := open(t, addr).Unlock(bob, oprf.Element{})
			if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, channel.ErrTruncated) != cut {
				t.Errorf("after %d bytes, cut %v: error %v", end, cut, err)
			}
		}
	}
}

// A byte now and then does not hold a client for ever.
func TestChannel_Replies_Dripping(t *testing.T) {
	reply := cmtp.AppendReply(nil, cmtp.StatusDone, make([]byte, 32))
	s := private(t)
	inside(s, cmtp.Unlock, func(c *clienttest.Conn) error {
		every := time.NewTicker(short)
		defer every.Stop()
		for i := range reply {
			<-every.C
			if _, err := c.Write(reply[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	})
	ch := openWith(t, client.Dialer{Timeout: 4 * short}, s.Start(t))
	began := time.Now()
	_, err := ch.Unlock(bob, oprf.Element{})
	if !errors.Is(err, os.ErrDeadlineExceeded) || !client.Temporary(err) {
		t.Errorf("error %v, want a temporary timeout", err)
	}
	if took := time.Since(began); took > 12*short {
		t.Errorf("took %v with a timeout of %v", took, 4*short)
	}
}

// A meddler is a connection whose incoming bytes are altered once it is told to.
type meddler struct {
	net.Conn
	on atomic.Bool
}

func (m *meddler) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if n > 0 && m.on.Load() {
		p[n-1] ^= 1
	}
	return n, err
}

// A byte that was altered on the way is found, and told from a mistake of the server.
func TestChannel_Altered(t *testing.T) {
	s := private(t)
	var m meddler
	d := client.Dialer{Timeout: long, Dial: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
		m.Conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return &m, err
	}}
	calls := map[string]func(*client.Channel) error{
		"Reply": func(ch *client.Channel) error { _, err := ch.Login(bob); return err },
		"Mail":  func(ch *client.Channel) error { _, err := sendOn(ch, part{size: 1000}); return err },
	}
	addr := s.Start(t)
	for name, call := range calls {
		m.on.Store(false)
		ch := openWith(t, d, addr)
		m.on.Store(true)
		if err := call(ch); !errors.Is(err, client.ErrAltered) || !client.Temporary(err) {
			t.Errorf("%s: error %v, want a temporary ErrAltered", name, err)
		}
	}
}

// A reply that nobody asked for is not taken for that of the next command; but a
// server may say, unasked, that it closes.
func TestChannel_Unasked(t *testing.T) {
	done := cmtp.AppendReply(nil, cmtp.StatusDone, make([]byte, 32))
	tests := map[string]struct {
		extra  []byte
		status cmtp.Status // 0: ErrUnasked
	}{
		"Reply":   {extra: done},
		"Failure": {extra: cmtp.AppendFailure(nil, cmtp.StatusTrouble, "later")},
		"OneByte": {extra: []byte{0}},
		"Huge":    {extra: head(200, math.MaxUint64)},
		"Closing": {extra: cmtp.AppendFailure(nil, cmtp.StatusClosing, "bye"), status: cmtp.StatusClosing},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := private(t)
			inside(s, cmtp.Unlock, just(append(slices.Clone(done), tt.extra...)))
			ch := open(t, s.Start(t))
			if _, err := ch.Unlock(bob, oprf.Element{}); err != nil {
				t.Fatal(err)
			}
			_, err := ch.Unlock(bob, oprf.Element{})
			if tt.status != 0 {
				refused(t, err, tt.status)
			} else if !errors.Is(err, client.ErrUnasked) {
				t.Errorf("error %v, want ErrUnasked", err)
			}
			if client.Temporary(err) != (tt.status != 0) {
				t.Errorf("Temporary(%v) = %v", err, tt.status == 0)
			}
			if _, err := ch.Login(bob); !errors.Is(err, client.ErrClosed) {
				t.Errorf("error %v, want ErrClosed", err)
			}
		})
	}
}

// A server that ends the session instead of answering is heard, and left.
func TestChannel_Closing(t *testing.T) {
	s := private(t)
	inside(s, cmtp.Login, func(c *clienttest.Conn) error {
		c.Fail(cmtp.StatusClosing, "bye")
		return io.EOF
	})
	ch := open(t, s.Start(t))
	_, err := ch.Login(bob)
	refused(t, err, cmtp.StatusClosing)
	if _, err := ch.Login(bob); !errors.Is(err, client.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
}

// chain returns a history of bob with these keys.
func chain(s *clienttest.Server, keys ...*crypt.PrivateKey) *crypt.History {
	k := crypt.KeyStatement{Name: bob, Key: keys[0].Public(), NotBefore: 1000}
	signed := []crypt.SignedKey{{KeyStatement: k}}
	for i, key := range keys[1:] {
		k = k.Follow(key.Public(), k.NotBefore+1)
		signed = append(signed, crypt.SignedKey{KeyStatement: k, Old: keys[i].Sign(k.Append(nil))})
	}
	return s.History(bob, signed)
}

// A history that lies in any way is none.
func TestChannel_History_Lies(t *testing.T) {
	stranger, first, second := clienttest.Key(t), clienttest.Key(t), clienttest.Key(t)
	eve := name("eve@example.org")
	tests := map[string]struct {
		change func(s *clienttest.Server, h *crypt.History)
		want   error
	}{
		"OK": {func(*clienttest.Server, *crypt.History) {}, nil},
		"OtherName": {func(s *clienttest.Server, h *crypt.History) {
			k := crypt.KeyStatement{Name: eve, Key: first.Public()}
			*h = *s.History(eve, []crypt.SignedKey{{KeyStatement: k}})
		}, crypt.ErrHistory},
		"NotByTheServer": {func(_ *clienttest.Server, h *crypt.History) {
			h.Keys[1].Server = stranger.Sign(h.Keys[1].KeyStatement.Append(nil))
		}, crypt.ErrUnsigned},
		"NotByTheOldKey": {func(_ *clienttest.Server, h *crypt.History) {
			h.Keys[1].Old = stranger.Sign(h.Keys[1].KeyStatement.Append(nil))
		}, crypt.ErrHistory},
		"WithoutItsFirst": {func(_ *clienttest.Server, h *crypt.History) { h.Keys = h.Keys[1:] }, crypt.ErrHistory},
		"Reordered":       {func(_ *clienttest.Server, h *crypt.History) { slices.Reverse(h.Keys) }, crypt.ErrHistory},
		"Repeated":        {func(_ *clienttest.Server, h *crypt.History) { h.Keys[1] = h.Keys[0] }, crypt.ErrHistory},
		"Rotation": {func(s *clienttest.Server, h *crypt.History) {
			r := crypt.Rotation{Domain: bob.Domain, Old: stranger.Public(), New: s.Key.Public()}
			h.Rotations = append(h.Rotations, r.Sign(stranger, s.Key))
		}, crypt.ErrHistory},
		"AliasOfAnother": {func(s *clienttest.Server, h *crypt.History) {
			a := crypt.Alias{From: eve, To: bob}
			h.Alias = &crypt.SignedAlias{Alias: a, Server: s.Key.Sign(a.Append(nil))}
		}, crypt.ErrHistory},
		"AliasNotByTheServer": {func(_ *clienttest.Server, h *crypt.History) {
			a := crypt.Alias{From: bob, To: bob}
			h.Alias = &crypt.SignedAlias{Alias: a, Server: stranger.Sign(a.Append(nil))}
		}, crypt.ErrUnsigned},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := private(t)
			h := chain(s, first, second)
			tt.change(s, h)
			inside(s, cmtp.KeyRequest, just(cmtp.AppendReply(nil, cmtp.StatusDone, h.Append(nil))))
			ch := open(t, s.Start(t))
			got, err := ch.History(bob)
			if !errors.Is(err, tt.want) || (got != nil) != (tt.want == nil) || client.Temporary(err) {
				t.Errorf("got %v, error %v; want a final %v", got, err, tt.want)
			}
			if _, err := ch.History(bob); errors.Is(err, client.ErrClosed) != (tt.want != nil) {
				t.Errorf("behind it: error %v", err)
			}
		})
	}
}

// The server's own history with the key of another is none; neither are bytes that
// are no history, or too many.
func TestChannel_History_Malformed(t *testing.T) {
	self := address.Address{Domain: bob.Domain}
	stranger := clienttest.Key(t)
	tests := map[string]struct {
		payload func(*clienttest.Server) []byte
		want    error
	}{
		"OtherServersKey": {func(s *clienttest.Server) []byte {
			k := crypt.KeyStatement{Name: self, Key: stranger.Public()}
			return s.History(self, []crypt.SignedKey{{KeyStatement: k}}).Append(nil)
		}, crypt.ErrHistory},
		"RotationOfAnother": {func(s *clienttest.Server) []byte {
			k := crypt.KeyStatement{Name: self, Key: s.Key.Public()}
			h := s.History(self, []crypt.SignedKey{{KeyStatement: k}})
			r := crypt.Rotation{Domain: bob.Domain, Old: stranger.Public(), New: s.Key.Public()}
			h.Rotations = append(h.Rotations, r.Sign(s.Key, s.Key))
			return h.Append(nil)
		}, crypt.ErrUnsigned},
		"Empty":   {func(*clienttest.Server) []byte { return nil }, crypt.ErrStatement},
		"NoKey":   {func(*clienttest.Server) []byte { return make([]byte, 12) }, crypt.ErrStatement},
		"Longest": {func(*clienttest.Server) []byte { return make([]byte, crypt.MaxHistory) }, crypt.ErrStatement},
		"TooLong": {func(*clienttest.Server) []byte { return make([]byte, crypt.MaxHistory+1) }, cmtp.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := private(t)
			inside(s, cmtp.KeyRequest, func(c *clienttest.Conn) error { return c.Done(tt.payload(s)) })
			if _, err := open(t, s.Start(t)).History(self); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// What REGISTER and UPLOAD answer has to end in what was sent.
func TestChannel_Statement_Dropped(t *testing.T) {
	old, next := clienttest.Key(t), clienttest.Key(t)
	x := newOwner(t).user.Xzibit
	s := private(t)
	s.Users[bob.String()] = clienttest.User{Key: old.Public()}
	var stays atomic.Pointer[crypt.History]
	stays.Store(chain(s, old))
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Register && cmd.Verb != cmtp.Upload {
			return false, nil
		}
		if _, err := cmtp.ReadForm(c.In); err != nil {
			return true, err
		}
		return true, c.Done(stays.Load().Append(nil))
	}
	addr := s.Start(t)

	form, _ := registration(next, x)
	if _, err := open(t, addr).Register(bob, secret, form); !errors.Is(err, crypt.ErrHistory) {
		t.Errorf("Register: error %v, want ErrHistory", err)
	}
	proven := func() *client.Channel {
		ch := open(t, addr)
		if _, err := ch.Auth(bob, old); err != nil {
			t.Fatal(err)
		}
		return ch
	}
	k := stays.Load().Current().Follow(next.Public(), 2000)
	upload := &cmtp.UploadForm{Statement: &k, Xzibit: x}
	if _, err := proven().Upload(upload); !errors.Is(err, crypt.ErrHistory) {
		t.Errorf("Upload of a key: error %v, want ErrHistory", err)
	}
	ch := proven()
	if _, err := ch.Upload(&cmtp.UploadForm{Xzibit: x}); err != nil {
		t.Errorf("Upload: error %v", err)
	}
	stays.Store(chain(s, old, next)) // another key than the one that was proven
	if _, err := ch.Upload(&cmtp.UploadForm{Xzibit: x}); !errors.Is(err, crypt.ErrHistory) {
		t.Errorf("Upload beside a new key: error %v, want ErrHistory", err)
	}
}

// What opening would cost is judged before anything is asked for or spent.
func TestUnseal_Absurd(t *testing.T) {
	o := newOwner(t)
	param := func(offset int, v uint32) []byte {
		x := slices.Clone(o.user.Xzibit)
		binary.BigEndian.PutUint32(x[offset:], v)
		return x
	}
	tests := map[string]struct {
		xzibit []byte
		want   error
	}{
		"Passes":  {param(44, 17), xzibit.ErrParams},
		"Memory":  {param(48, math.MaxUint32), xzibit.ErrParams},
		"Threads": {param(52, 1<<30), xzibit.ErrParams},
		"Version": {param(0, 4), xzibit.ErrVersion},
		"Length":  {param(36, 1), xzibit.ErrFormat},
		"Behind":  {append(slices.Clone(o.user.Xzibit), 0), xzibit.ErrFormat},
		"Empty":   {nil, xzibit.ErrFormat},
		"TooLong": {make([]byte, xzibit.MaxSize+1), cmtp.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := o.user
			u.Xzibit = tt.xzibit
			s := private(t)
			s.Users[bob.String()] = u
			ch := open(t, s.Start(t))
			if _, _, err := client.Unseal(ch, bob, password); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			s.Wait()
			if slices.Contains(s.Verbs(), cmtp.Unlock) {
				t.Error("UNLOCK was sent")
			}
		})
	}
}

// An evaluated element is one, or nothing is made of it.
func TestUnseal_Element(t *testing.T) {
	o := newOwner(t)
	other, _ := oprf.KeyFromSeed(make([]byte, oprf.SeedSize))
	_, some, err := oprf.Blind([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := other.Evaluate(some)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		element oprf.Element
		want    error
	}{
		"Identity":     {oprf.Element{}, oprf.ErrElement},
		"Garbage":      {oprf.Element(slices.Repeat([]byte{0xff}, 32)), oprf.ErrElement},
		"NotCanonical": {oprf.Element{0: 1}, oprf.ErrElement}, // a negative field element
		"AnotherKeys":  {wrong, xzibit.ErrPassword},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := privateWith(t, o)
			inside(s, cmtp.Unlock, func(c *clienttest.Conn) error { return c.Done(tt.element[:]) })
			if _, _, err := client.Unseal(open(t, s.Start(t)), bob, password); !errors.Is(err, tt.want) || client.Temporary(err) {
				t.Errorf("error %v, want a final %v", err, tt.want)
			}
		})
	}
}

// A recovery copy is for the key that asked for it.
func TestChannel_Recover_Lies(t *testing.T) {
	o, other := newOwner(t), newOwner(t)
	tests := map[string]struct {
		copy []byte
		want error
	}{
		"OfAnother": {other.user.Copy, xzibit.ErrRecoveryKey},
		"Garbage":   {o.user.Copy[1:], xzibit.ErrCopy},
		"TooLong":   {make([]byte, xzibit.MaxSize+1), cmtp.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := privateWith(t, o)
			inside(s, cmtp.Recover, func(c *clienttest.Conn) error { return c.Done(tt.copy) })
			if _, err := open(t, s.Start(t)).Recover(bob, o.recovery); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// A proof is answered with a digest, that of a server with nothing.
func TestChannel_Auth_Lies(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := private(t)
			inside(s, cmtp.Auth, func(c *clienttest.Conn) error { return c.Done(make([]byte, n)) })
			ch := open(t, s.Start(t))
			if _, err := ch.Auth(bob, s.Key); !errors.Is(err, cmtp.ErrReply) && !errors.Is(err, cmtp.ErrTooLarge) {
				t.Errorf("error %v, want one of the codec", err)
			}
			if _, err := ch.Upload(&cmtp.UploadForm{}); !errors.Is(err, client.ErrNotProven) {
				t.Errorf("error %v, want ErrNotProven", err)
			}
		})
	}
	s := private(t)
	inside(s, cmtp.Auth, func(c *clienttest.Conn) error { return c.Done(make([]byte, 1)) })
	if err := open(t, s.Start(t)).AuthServer(domain("example.net"), bob.Domain, s.Key); !errors.Is(err, cmtp.ErrTooLarge) {
		t.Errorf("AuthServer: error %v, want ErrTooLarge", err)
	}
}
