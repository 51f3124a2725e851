package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/invite"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

var (
	bob      = name("bob@example.org")
	cheap    = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}
	password = []byte("correct horse")
	secret   = must(invite.ParseSecret("0123456789AB"))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// An owner is a user with all that a server keeps of one.
type owner struct {
	key, recovery *crypt.PrivateKey
	user          clienttest.User
}

// newOwner makes bob, whose xzibit is of version 3.
func newOwner(t testing.TB) *owner {
	t.Helper()
	o := &owner{key: clienttest.Key(t), recovery: clienttest.Key(t)}
	o.user = clienttest.User{Key: o.key.Public(), Seed: [oprf.SeedSize]byte{1, 2, 3}, Recovery: o.recovery.Public()}
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: o.key}}}
	ring.SetRecovery(o.recovery)
	var err error
	if o.user.Xzibit, err = client.Seal(ring, bob, password, cheap, o.evaluate); err != nil {
		t.Fatal(err)
	}
	if o.user.Copy, err = xzibit.SealCopy(ring, bob.String()); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *owner) evaluate(e oprf.Element) (oprf.Element, error) {
	k, err := oprf.KeyFromSeed(o.user.Seed[:])
	if err != nil {
		return e, err
	}
	return k.Evaluate(e)
}

// privateWith returns a server that has bob.
func privateWith(t testing.TB, o *owner) *clienttest.Server {
	s := private(t)
	s.Users[bob.String()] = o.user
	return s
}

func refused(t *testing.T, err error, status cmtp.Status) {
	t.Helper()
	var e *cmtp.StatusError
	if !errors.As(err, &e) || e.Status != status {
		t.Errorf("error %v, want status %d", err, status)
	}
}

// One channel bears every command, refusals among them.
func TestChannel(t *testing.T) {
	o := newOwner(t)
	s := privateWith(t, o)
	ch := open(t, s.Start(t))

	h, err := ch.History(bob)
	if err != nil || h.Current().Key != o.key.Public() {
		t.Fatalf("history %v, %v", h, err)
	}
	if h, err = ch.History(address.Address{Domain: bob.Domain}); err != nil || h.Current().Key != s.Key.Public() {
		t.Errorf("the server's history %v, %v", h, err)
	}
	_, err = ch.History(name("eve@example.org"))
	refused(t, err, cmtp.StatusNoAccount)
	if _, err := ch.Upload(&cmtp.UploadForm{Xzibit: o.user.Xzibit}); !errors.Is(err, client.ErrNotProven) {
		t.Errorf("error %v, want ErrNotProven", err)
	}
	_, err = ch.Auth(bob, clienttest.Key(t))
	refused(t, err, cmtp.StatusWrongProof)
	digest, err := ch.Auth(bob, o.key)
	if err != nil || digest != sha256.Sum256(o.user.Xzibit) {
		t.Errorf("digest %x, %v", digest, err)
	}
	if err := ch.AuthServer(domain("example.net"), bob.Domain, clienttest.Key(t)); err != nil {
		t.Error(err)
	}
	if b, err := ch.Recover(bob, o.recovery); err != nil || !bytes.Equal(b, o.user.Copy) {
		t.Errorf("copy of %d bytes, %v", len(b), err)
	}
	_, err = ch.Recover(bob, clienttest.Key(t))
	refused(t, err, cmtp.StatusWrongProof)
	ch.Close()
	s.Wait()
	if v := s.Verbs(); v[len(v)-1] != cmtp.Obai {
		t.Errorf("the last word was %v", v[len(v)-1])
	}
}

// Answers come in the order of the questions, more than are sent at once.
func TestChannel_Histories(t *testing.T) {
	s := private(t)
	var asked []address.Address
	for i := range 50 {
		a := name(fmt.Sprintf("user%d@example.org", i))
		asked = append(asked, a)
		if i%7 != 3 {
			s.Users[a.String()] = clienttest.User{Key: clienttest.Key(t).Public()}
		}
	}
	answers, err := open(t, s.Start(t)).Histories(asked...)
	if err != nil || len(answers) != len(asked) {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	for i, a := range answers {
		if i%7 == 3 {
			refused(t, a.Err, cmtp.StatusNoAccount)
		} else if a.Err != nil || a.History.Current().Key != s.Users[asked[i].String()].Key {
			t.Errorf("answer %d: %v, %v", i, a.History, a.Err)
		}
	}
}

// What could not stand in a command is never sent.
func TestChannel_Parameters(t *testing.T) {
	s := private(t)
	ch := open(t, s.Start(t))
	nobody, long := address.Address{Domain: bob.Domain}, name(strings.Repeat("a", 250)+"@example.org")
	errs := map[string]error{}
	_, errs["History"] = ch.History(address.Address{Account: bob.Account})
	_, errs["Login"] = ch.Login(nobody)
	_, errs["LoginTooLong"] = ch.Login(long)
	_, errs["Auth"] = ch.Auth(nobody, s.Key)
	_, errs["Unlock"] = ch.Unlock(nobody, oprf.Element{})
	_, errs["Recover"] = ch.Recover(nobody, s.Key)
	_, errs["Enroll"] = ch.Enroll(nobody, secret, oprf.Element{})
	_, errs["EnrollNoSecret"] = ch.Enroll(bob, invite.Secret{}, oprf.Element{})
	_, errs["RegisterNobody"] = ch.Register(nobody, secret, &cmtp.RegisterForm{Xzibit: []byte{1}})
	_, errs["RegisterTooLong"] = ch.Register(bob, secret, &cmtp.RegisterForm{Xzibit: make([]byte, cmtp.MaxForm)})
	for what, err := range errs {
		if !errors.Is(err, client.ErrParameter) || client.Temporary(err) {
			t.Errorf("%s: error %v, want a final ErrParameter", what, err)
		}
	}
	if _, err := ch.Send(cmtp.Header{DestinationDomain: "a b"}, nil, part{size: 100}, nil); !errors.Is(err, address.ErrInvalid) {
		t.Errorf("Send: error %v, want ErrInvalid", err)
	}
	if _, err := ch.History(nobody); err != nil {
		t.Errorf("the channel does not go on: %v", err)
	}
	if v := s.Verbs(); len(v) != 3 {
		t.Errorf("the verbs %v came, want OHAI, STARTTLS, KEYREQUEST", v)
	}
}

// registration returns what bob sends to register.
func registration(key *crypt.PrivateKey, x []byte) (*cmtp.RegisterForm, *crypt.KeyStatement) {
	k := &crypt.KeyStatement{Name: bob, Key: key.Public(), NotBefore: 1467676800}
	return &cmtp.RegisterForm{Statement: *k, Possession: k.Possess(key), Xzibit: x}, k
}

// A user registers, opens the keys with the password alone, and takes another key.
func TestChannel_Register(t *testing.T) {
	s := private(t)
	s.Users = map[string]clienttest.User{}
	s.Invitations = map[string]string{bob.String(): secret.Reveal()}
	addr := s.Start(t)
	ch := open(t, addr)
	_, err := ch.Enroll(bob, must(invite.ParseSecret("000000000000")), oprf.Element{1})
	refused(t, err, cmtp.StatusBadInvitation)

	key := clienttest.Key(t)
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}, Server: ch.ServerKey()}
	x, err := client.Seal(ring, bob, password, cheap, func(e oprf.Element) (oprf.Element, error) {
		return ch.Enroll(bob, secret, e)
	})
	if err != nil {
		t.Fatal(err)
	}
	form, k := registration(key, x)
	h, err := ch.Register(bob, secret, form)
	if err != nil || len(h.Keys) != 1 || h.Current().Key != key.Public() {
		t.Fatalf("history %v, %v", h, err)
	}

	again := open(t, addr)
	ring, got, err := client.Unseal(again, bob, password)
	if err != nil || !bytes.Equal(got, x) || ring.Keys[0].Key.Public() != key.Public() {
		t.Fatalf("keyring %v, %v", ring, err)
	}
	if _, _, err := client.Unseal(again, bob, []byte("wrong horse")); !errors.Is(err, xzibit.ErrPassword) {
		t.Errorf("error %v, want ErrPassword", err)
	}
	if _, err := again.Auth(bob, key); err != nil {
		t.Fatal(err)
	}
	upload := &cmtp.UploadForm{Replaces: sha256.Sum256(x), Xzibit: x}
	if h, err = again.Upload(upload); err != nil || len(h.Keys) != 1 {
		t.Fatalf("history %v, %v", h, err)
	}
	next := clienttest.Key(t)
	k2 := k.Follow(next.Public(), k.NotBefore+1)
	upload.Statement, upload.OldSignature, upload.Possession = &k2, key.Sign(k2.Append(nil)), k2.Possess(next)
	if h, err = again.Upload(upload); err != nil || len(h.Keys) != 2 || h.Current().Key != next.Public() {
		t.Fatalf("history %v, %v", h, err)
	}
	upload = &cmtp.UploadForm{Replaces: sha256.Sum256(x), Xzibit: x} // still proven, by the new key
	if _, err = again.Upload(upload); err != nil {
		t.Error(err)
	}
	upload.Replaces = [32]byte{}
	_, err = again.Upload(upload)
	refused(t, err, cmtp.StatusStale)
}

// Keyrings under the password alone open as ever, and without UNLOCK.
func TestUnseal_Version2(t *testing.T) {
	s := private(t)
	s.Users[bob.String()] = clienttest.User{Xzibit: sealedKeys(t, bob.String())}
	ch := open(t, s.Start(t))
	if _, _, err := client.Unseal(ch, bob, []byte("secret")); err != nil {
		t.Error(err)
	}
	ch.Close()
	s.Wait()
	for _, v := range s.Verbs() {
		if v == cmtp.Unlock {
			t.Error("UNLOCK was sent")
		}
	}
}

func sendOn(ch *client.Channel, attachment part) (client.Sent, error) {
	return ch.Send(header, []byte("origin\x00"), part{size: 100}, []cmtp.Part{attachment})
}

func TestChannel_Send(t *testing.T) {
	s := private(t)
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		r, err := received(c)
		if err != nil {
			return true, err
		}
		r.Commit = 7
		return true, c.Done(r.AppendSigned(nil, s.Key))
	}
	ch := open(t, s.Start(t))
	for range 2 { // the channel stays in step
		sent, err := sendOn(ch, part{size: 1 << 20})
		if err != nil || sent.Queued || sent.Receipt.Commit != 7 || sent.Receipt.Destination != bob {
			t.Fatalf("sent %+v, %v", sent, err)
		}
	}
}

func TestChannel_Send_Queued(t *testing.T) {
	s := private(t)
	onMail(s, func(c *clienttest.Conn) error {
		r, err := received(c)
		if err != nil {
			return err
		}
		return c.Reply(cmtp.AppendReply(nil, cmtp.StatusQueued, r.AppendSigned(nil, s.Key)))
	})
	sent, err := sendOn(open(t, s.Start(t)), part{size: 1000})
	if err != nil || !sent.Queued {
		t.Errorf("sent %+v, %v; want it queued", sent, err)
	}
}

// received reads a message, and returns what is to be said of it.
func received(c *clienttest.Conn) (*crypt.Receipt, error) {
	m, err := cmtp.NewMessageReader(c.In, 1<<30)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, m); err != nil {
		return nil, err
	}
	return clienttest.Receipt(m)
}

func TestChannel_Send_RefusedEarly(t *testing.T) {
	ends := map[string]func(context.Context, *clienttest.Conn) error{
		"AndStops":   func(test context.Context, _ *clienttest.Conn) error { <-test.Done(); return nil },
		"AndHangsUp": func(context.Context, *clienttest.Conn) error { return io.EOF },
		"AndDrains":  func(_ context.Context, c *clienttest.Conn) error { return drain(c) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			s := private(t)
			onMail(s, func(c *clienttest.Conn) error {
				if _, err := c.In.Discard(200); err != nil {
					return err
				}
				if err := c.Fail(cmtp.StatusTooLarge, "too large"); err != nil {
					return err
				}
				return end(t.Context(), c)
			})
			_, err := sendOn(open(t, s.Start(t)), part{size: 1 << 40}) // for ever, at any speed
			refused(t, err, cmtp.StatusTooLarge)
		})
	}
}

func TestChannel_Send_Errors(t *testing.T) {
	stranger := clienttest.Key(t)
	reply := func(change func(*crypt.Receipt), key func(*clienttest.Conn) *crypt.PrivateKey) func(*clienttest.Conn) error {
		return func(c *clienttest.Conn) error {
			r, err := received(c)
			if err != nil {
				return err
			}
			change(r)
			return c.Done(r.AppendSigned(nil, key(c)))
		}
	}
	own := func(c *clienttest.Conn) *crypt.PrivateKey { return c.Server.Key }
	tests := map[string]struct {
		do   func(*clienttest.Conn) error
		part part
		want error
		word string
	}{
		"OtherMessage":       {reply(func(r *crypt.Receipt) { r.Digest[0]++ }, own), part{size: 1000}, client.ErrReceipt, "digest"},
		"OtherDestination":   {reply(func(r *crypt.Receipt) { r.Destination = name("eve@example.org") }, own), part{size: 1000}, client.ErrReceipt, "eve@example.org"},
		"OtherDomain":        {reply(func(r *crypt.Receipt) { r.Destination.Domain = domain("example.net") }, own), part{size: 1000}, client.ErrReceipt, "example.net"},
		"OtherKey":           {reply(func(*crypt.Receipt) {}, func(*clienttest.Conn) *crypt.PrivateKey { return stranger }), part{size: 1000}, client.ErrReceipt, "signed"},
		"NoReceipt":          {func(c *clienttest.Conn) error { drainMessage(c); return c.Done(nil) }, part{size: 1000}, client.ErrReceipt, ""},
		"ReceiptTooLong":     {func(c *clienttest.Conn) error { drainMessage(c); return c.Done(make([]byte, crypt.MaxReceipt+1)) }, part{size: 1000}, cmtp.ErrTooLarge, ""},
		"Refused":            {func(c *clienttest.Conn) error { drainMessage(c); return c.Fail(cmtp.StatusNoRoom, "full") }, part{size: 1000}, new(cmtp.StatusError), "full"},
		"SuccessTooEarly":    {func(c *clienttest.Conn) error { c.Done(nil); return drain(c) }, part{size: 1 << 40}, cmtp.ErrReply, ""},
		"EndsBeforeTheReply": {func(c *clienttest.Conn) error { drainMessage(c); return io.EOF }, part{size: 1000}, io.ErrUnexpectedEOF, ""},
		"CutBeforeTheReply":  {func(c *clienttest.Conn) error { drainMessage(c); return c.Cut() }, part{size: 1000}, channel.ErrTruncated, ""},
		"PartFails":          {drainMessage1, part{size: 1 << 20, fail: 32 << 10}, errPart, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := private(t)
			onMail(s, tt.do)
			ch := open(t, s.Start(t))
			sent, err := sendOn(ch, tt.part)
			var status *cmtp.StatusError
			if _, ok := tt.want.(*cmtp.StatusError); ok {
				if !errors.As(err, &status) {
					t.Fatalf("error %v, want a StatusError", err)
				}
			} else if !errors.Is(err, tt.want) || sent != (client.Sent{}) {
				t.Fatalf("sent %+v, error %v; want %v", sent, err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.word) {
				t.Errorf("error %v does not name %q", err, tt.word)
			}
			if _, err := ch.History(bob); errors.Is(err, client.ErrClosed) != (status == nil) {
				t.Errorf("behind it: error %v", err)
			}
		})
	}
}

func drainMessage1(c *clienttest.Conn) error { drainMessage(c); return nil }

// A receipt that was noted down on an earlier connection is none for a later message.
func TestChannel_Send_Replayed(t *testing.T) {
	s := private(t)
	var once sync.Once
	var noted []byte
	onMail(s, func(c *clienttest.Conn) error {
		r, err := received(c)
		if err != nil {
			return err
		}
		once.Do(func() { noted = r.AppendSigned(nil, s.Key) })
		return c.Done(noted)
	})
	addr := s.Start(t)
	if _, err := sendOn(open(t, addr), part{size: 1000}); err != nil {
		t.Fatal(err)
	}
	if _, err := sendOn(open(t, addr), part{size: 1001}); !errors.Is(err, client.ErrReceipt) || client.Temporary(err) {
		t.Errorf("error %v, want a final ErrReceipt", err)
	}
}

func TestChannel_Send_Stalled(t *testing.T) {
	s := private(t)
	onMail(s, func(*clienttest.Conn) error { <-t.Context().Done(); return nil })
	ch := openWith(t, client.Dialer{Timeout: 4 * short}, s.Start(t))
	if _, err := sendOn(ch, part{size: 1 << 40}); !errors.Is(err, os.ErrDeadlineExceeded) || !client.Temporary(err) {
		t.Errorf("error %v, want a temporary timeout", err)
	}
}
