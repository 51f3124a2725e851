package client_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

var update = flag.Bool("update", false, "write the corpus of FuzzChannel anew")

const corpus = "testdata/fuzz/FuzzChannel"

// A tape is a server that says what is on it, when it is waited for.
type tape struct {
	net.Conn
	reader *bytes.Reader

	mu     sync.Mutex
	waited *sync.Cond // of mu
	wait   bool       // under mu: a deadline is set, so somebody waits for a reply
}

func newTape(b []byte) *tape {
	t := &tape{reader: bytes.NewReader(b)}
	t.waited = sync.NewCond(&t.mu)
	return t
}

func (t *tape) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.wait {
		t.waited.Wait()
	}
	return t.reader.Read(p)
}

func (t *tape) SetReadDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wait = !at.IsZero()
	t.waited.Broadcast()
	return nil
}

func (t *tape) SetDeadline(at time.Time) error      { return t.SetReadDeadline(at) }
func (t *tape) SetWriteDeadline(at time.Time) error { return nil }
func (t *tape) Write(p []byte) (int, error)         { return len(p), nil }
func (t *tape) Close() error                        { return nil }

// fixed returns the key whose seed is one byte over and over.
func fixed(t testing.TB, b byte) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{b}, crypt.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The parties of the fuzz target.
type cast struct{ server, user, next *crypt.PrivateKey }

func newCast(t testing.TB) cast { return cast{fixed(t, 1), fixed(t, 2), fixed(t, 3)} }

// statement returns the key statement that the cast's user sends.
func (p cast) statement() crypt.KeyStatement {
	first := crypt.KeyStatement{Name: bob, Key: p.user.Public(), NotBefore: 1000}
	return first.Follow(p.next.Public(), 1001)
}

// calls are what replies are read by. Each returns the payload as it is to be encoded.
func (p cast) calls() []func(*client.Channel) ([]byte, error) {
	history := func(h *crypt.History, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return h.Append(nil), nil
	}
	element := func(e oprf.Element, err error) ([]byte, error) { return e[:], err }
	k := p.statement()
	return []func(*client.Channel) ([]byte, error){
		func(c *client.Channel) ([]byte, error) { return history(c.History(bob)) },
		func(c *client.Channel) ([]byte, error) { return c.Login(bob) },
		func(c *client.Channel) ([]byte, error) {
			digest, err := c.Auth(bob, p.user)
			return digest[:], err
		},
		func(c *client.Channel) ([]byte, error) { return nil, c.AuthServer(bob.Domain, bob.Domain, p.user) },
		func(c *client.Channel) ([]byte, error) { return element(c.Unlock(bob, oprf.Element{})) },
		func(c *client.Channel) ([]byte, error) { return element(c.Enroll(bob, secret, oprf.Element{})) },
		func(c *client.Channel) ([]byte, error) {
			return history(c.Register(bob, secret, &cmtp.RegisterForm{Statement: k, Xzibit: []byte{1}}))
		},
		func(c *client.Channel) ([]byte, error) {
			return history(c.Upload(&cmtp.UploadForm{Statement: &k, Xzibit: []byte{1}}))
		},
		func(c *client.Channel) ([]byte, error) { return history(c.Upload(&cmtp.UploadForm{Xzibit: []byte{1}})) },
		func(c *client.Channel) ([]byte, error) { return c.Recover(bob, p.user) },
		func(c *client.Channel) ([]byte, error) {
			sent, err := c.Send(header, nil, part{size: 100}, nil)
			return sent.Receipt.AppendSigned(nil, p.server), err
		},
		func(c *client.Channel) ([]byte, error) {
			s, err := c.Mailbox()
			return s.Append(nil), err
		},
		func(c *client.Channel) ([]byte, error) { return page(c.List(cmtp.ListQuery{Count: 10})) },
		func(c *client.Channel) ([]byte, error) { return page(c.Changes(cmtp.ChangesQuery{Count: 10})) },
		func(c *client.Channel) ([]byte, error) {
			return page(c.Wait(context.Background(), cmtp.WaitQuery{Seconds: 1}))
		},
		func(c *client.Channel) ([]byte, error) {
			var b bytes.Buffer
			_, err := c.Fetch(cmtp.FetchQuery{Number: 1, Length: 4096}, &b)
			return b.Bytes(), err
		},
		func(c *client.Channel) (b []byte, _ error) {
			results, err := c.Flag(make([]cmtp.FlagItem, 2))
			for i := range results {
				b = results[i].Append(b)
			}
			return b, err
		},
		func(c *client.Channel) ([]byte, error) {
			n, err := c.Delete(make([]uint64, 5))
			return cmtp.AppendDeleted(nil, uint32(n)), err
		},
	}
}

func page(p *cmtp.Page, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return p.Append(nil), nil
}

// replay lets one call read what a server says, and returns what it makes of it.
func (p cast) replay(in []byte) ([]byte, error) {
	calls := p.calls()
	c := client.NewChannel(newTape(in[1:]), p.server.Public(), bob, p.user.Public())
	return calls[int(in[0])%len(calls)](c)
}

// FuzzChannel: whatever a server says inside the channel costs bounded memory, ends in
// an error that is known, and where it is accepted it encodes again identically.
func FuzzChannel(f *testing.F) {
	p := newCast(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		var payload []byte
		var err error
		cmtptest.Bounded(t, 256<<10+16*uint64(len(in)), func() { payload, err = p.replay(in) })
		var again []byte
		var status *cmtp.StatusError
		switch {
		case errors.As(err, &status):
			again = cmtp.AppendFailure(nil, status.Status, status.Reason)
		case err != nil:
			known(t, err)
			return
		default:
			again = cmtp.AppendReply(nil, cmtp.Status(binary.BigEndian.Uint16(in[1:])), payload)
		}
		if !bytes.HasPrefix(in[1:], again) {
			t.Fatalf("%x encodes again to %x (%v)", in[1:], again, err)
		}
	})
}

// known demands that an error names what was wrong.
func known(t *testing.T, err error) {
	t.Helper()
	for _, e := range []error{
		io.ErrUnexpectedEOF, cmtp.ErrReply, cmtp.ErrTooLarge, client.ErrReceipt, crypt.ErrStatement, crypt.ErrHistory,
		crypt.ErrUnsigned, xzibit.ErrFormat, xzibit.ErrVersion, xzibit.ErrParams, xzibit.ErrCopy, xzibit.ErrRecoveryKey,
	} {
		if errors.Is(err, e) {
			return
		}
	}
	t.Fatalf("an error that names nothing: %v", err)
}

// seeds returns an accepted payload for each call.
func (p cast) seeds(t *testing.T) [][]byte {
	s := clienttest.NewServer(t)
	s.Key = p.server
	both := chain(s, p.user, p.next).Append(nil)
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: p.user}}}
	ring.SetRecovery(p.user)
	backup, err := xzibit.SealCopy(ring, bob.String())
	if err != nil {
		t.Fatal(err)
	}
	x, err := xzibit.Seal(ring, bob.String(), password, cheap)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := cmtp.WriteDigested(io.Discard, header, nil, part{size: 100}, nil)
	if err != nil {
		t.Fatal(err)
	}
	receipt := crypt.Receipt{Digest: digest, Destination: bob, When: 1000, Commit: 1}
	some := bytes.Repeat([]byte{7}, 32)
	state := cmtp.MailboxState{Highest: 5, Change: 70000, Messages: 2, Bytes: 300, Quota: 1 << 30}
	entry := cmtp.Entry{Number: 5, Change: 70000, Length: 200, Keywords: some, Header: &header}
	list := cmtp.Page{Next: 70000, Entries: []cmtp.Entry{entry}}
	changes := cmtp.Page{Next: 70002, More: true, Entries: []cmtp.Entry{entry, {Number: 4, Change: 70001, Removed: true}}}
	done, missing := cmtp.FlagResult{Status: cmtp.StatusDone, Change: 5}, cmtp.FlagResult{Status: cmtp.StatusNoMessage}
	return [][]byte{both, x, some, nil, some, some, both, both, chain(s, p.user).Append(nil), backup, receipt.AppendSigned(nil, p.server),
		state.Append(nil), list.Append(nil), changes.Append(nil), changes.Append(nil), some, missing.Append(done.Append(nil)), cmtp.AppendDeleted(nil, 3)}
}

// The corpus has a reply that is accepted for every call, and a refusal.
func TestFuzzChannel_Corpus(t *testing.T) {
	p := newCast(t)
	if *update {
		for i, payload := range p.seeds(t) {
			writeSeed(t, fmt.Sprintf("done-%d", i), append([]byte{byte(i)}, cmtp.AppendReply(nil, cmtp.StatusDone, payload)...))
		}
		writeSeed(t, "failure", cmtp.AppendFailure([]byte{0}, cmtp.StatusTooOften, "Later."))
		writeSeed(t, "huge", append([]byte{1}, head(200, 1<<63)...))
	}
	accepted := map[int]bool{}
	files, err := filepath.Glob(corpus + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		in := readSeed(t, file)
		if _, err := p.replay(in); err == nil {
			accepted[int(in[0])] = true
		} else if filepath.Base(file)[0] == 'd' {
			t.Errorf("%s: %v", file, err)
		}
	}
	if len(accepted) != len(p.calls()) {
		t.Errorf("replies to %v are accepted, want one of each of %d", accepted, len(p.calls()))
	}
}

func writeSeed(t *testing.T, name string, b []byte) {
	t.Helper()
	err := os.MkdirAll(corpus, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(corpus, name), fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", b), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readSeed(t *testing.T, file string) (b []byte) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(raw), "go test fuzz v1\n[]byte(%q)", &b); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return b
}
