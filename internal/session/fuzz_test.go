package session_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/guess"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// A script is a connection whose client has sent everything already, and reads all.
type script struct {
	io.Reader
	out bytes.Buffer
}

func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// drain is a store that forgets.
type drain struct{}

func (drain) NewWriter() (session.Writer, error) { return drain{}, nil }
func (drain) Write(p []byte) (int, error)        { return len(p), nil }
func (drain) Abort()                             {}
func (drain) Submit(spool.Entry) session.Pending { return drain{} }
func (drain) Ready() bool                        { return true }
func (drain) Wait() (spool.Stored, error) {
	return spool.Stored{Head: spool.Head{Number: 7}}, nil
}

// few are guesses that come to an end.
type few struct{ left int }

func (g *few) take() error {
	if g.left == 0 {
		return &guess.Exhausted{RetryAfter: time.Hour}
	}
	g.left--
	return nil
}

func (g *few) Charge([16]byte, netip.Addr) error      { return g.take() }
func (g *few) ChargeNetwork(netip.Addr) error         { return g.take() }
func (g *few) Refund([16]byte, netip.Addr, int) error { return nil }

// fuzzed returns a server for scripts, a user of it, and an invitation's secret.
func fuzzed(tb testing.TB) (*session.Config, *account.Account, string) {
	tb.Helper()
	key := vectorKey(tb, "server")
	root := tb.TempDir()
	dir := directory(tb, root, durable.OS, key, mustAddress("bob@cref.example"), nil)
	made, err := dir.Store.Invite(mustAddress("erin@cref.example"), false, time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := sessionConfig(tb, filepath.Join(root, "g"), durable.OS, key, dir, drain{}, newTally())
	cfg.Observer, cfg.Log = nil, slog.New(slog.DiscardHandler)
	a, err := dir.Store.Get(mustAddress("alice@cref.example"))
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Mailboxes = newMailboxes(tb, 0)
	s := openSpoolWith(tb, "/spool", spool.Options{FS: durabletest.New(), Identity: key, LargeThreshold: 5000, Changed: cfg.Mailboxes.Changed})
	tb.Cleanup(func() { s.Close() })
	cfg.Mailboxes.Use(s)
	for i := range 20 {
		w := s.NewWriter()
		_, err := io.WriteString(w, message(tb, to("alice@cref.example"), sealed("", 100+500*i)))
		if err == nil {
			_, err = w.Commit(tb.Context(), spool.Entry{Mailbox: spool.MailboxID(a.ID), Digest: [32]byte{byte(i + 1)}, From: "cmtpd"})
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return &cfg, a, secret(made.Code)
}

// expected returns how many replies a session that is sent b owes, and whether one more
// may come, for a command that is not whole but refused already.
func expected(b []byte, maxMessage uint64) (replies int, more bool) {
	unknown := 0
	for {
		cmd, n, err := cmtp.ParseCommand(b)
		switch {
		case errors.Is(err, cmtp.ErrShort):
			return replies, false
		case err != nil:
			return replies + 1, false
		}
		b = b[n:]
		switch cmd.Verb {
		case cmtp.Obai:
			return replies, false
		case cmtp.Unknown:
			replies++
			if unknown++; unknown == 10 {
				return replies, false
			}
		case cmtp.Wait:
			if len(b) == 0 { // unless there is news, nothing ends the wait but the client's end
				return replies, true
			}
			replies++
		case cmtp.Register, cmtp.Upload, cmtp.Flag, cmtp.Delete:
			r := bytes.NewReader(b)
			switch _, err := cmtp.ReadForm(r); {
			case errors.Is(err, cmtp.ErrTooLarge):
				return replies + 1, false
			case err != nil:
				return replies, true
			}
			replies++
			b = b[len(b)-r.Len():]
		case cmtp.Mail:
			rest, whole, broken := message1(b, maxMessage)
			switch {
			case broken:
				return replies + 1, false
			case !whole:
				return replies, true
			}
			replies++
			b = rest
		default:
			replies++
		}
	}
}

// message1 returns what stands behind a message.
func message1(b []byte, most uint64) (rest []byte, whole, broken bool) {
	r := bytes.NewReader(b)
	m, err := cmtp.NewMessageReader(r, most)
	if err == nil {
		_, err = io.Copy(io.Discard, m)
	}
	if err == nil {
		return b[len(b)-r.Len():], true, false
	}
	for _, rule := range []error{cmtp.ErrMessage, cmtp.ErrTooLarge, cmtp.ErrSystem} {
		if errors.Is(err, rule) {
			return nil, false, true
		}
	}
	return nil, false, false
}

// Whatever a client sends inside the channel, every command has its reply, each is
// well-formed, and there are no others.
func FuzzInside(f *testing.F) {
	if seeds, err := os.ReadDir("testdata/fuzz/FuzzInside"); err != nil || len(seeds) < 8 {
		f.Fatalf("the seeds are missing: %d, %v", len(seeds), err)
	}
	cfg, alice, code := fuzzed(f)
	f.Fuzz(func(t *testing.T, sent []byte, proven bool) {
		if len(sent) > 200<<10 {
			return
		}
		mine := *cfg
		mine.Guesses = &few{left: 3}
		c := &script{Reader: bytes.NewReader(sent)}
		user := alice
		if !proven {
			user = nil
		}
		err := session.New(mine).ServeInside(t.Context(), &netbuf.Conn{Conn: c, In: netbuf.NewReader(c)}, user, code)
		want, more := expected(sent, mine.MaxMessage)
		got := 0
		for c.out.Len() > 0 {
			status, payload, err := cmtp.ReadReply(&c.out, uint64(crypt.MaxHistory))
			var failed *cmtp.StatusError
			if err != nil && !errors.As(err, &failed) {
				t.Fatalf("reply %d: %v", got, err)
			}
			if failed != nil && unfit(failed.Reason) != "" || failed == nil && status == 0 {
				t.Fatalf("reply %d: %v, %d bytes", got, failed, len(payload))
			}
			if failed != nil && failed.Status == cmtp.StatusTrouble {
				t.Fatalf("reply %d calls what a client sent a trouble of the server's", got)
			}
			got++
		}
		if got != want && (!more || got != want+1) {
			t.Fatalf("%d replies, want %d (one more: %v); the session ended with %v", got, want, more, err)
		}
	})
}
