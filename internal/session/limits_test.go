package session_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// wire is a session on a pipe, for synctest: time is the bubble's, and passes only
// while everybody waits.
type wire struct {
	net.Conn              // the client's end
	conn     *netbuf.Conn // the server's
	spool    *spool.Spool
	tally    *tally
	began    time.Time
	ended    chan struct{} // closed when Serve has returned
	took     time.Duration // of Serve, after ended
	handler  *session.Server
	ctx      context.Context // of Serve
	cancel   context.CancelFunc
}

const (
	commandTimeout = 5 * time.Minute
	sessionTimeout = time.Hour
	minRate        = 1000
	grace          = 30 * time.Second
)

func newWire(t *testing.T, edit func(*session.Config)) *wire {
	t.Helper()
	w := &wire{tally: newTally(), began: time.Now(), ended: make(chan struct{})}
	key := vectorKey(t, "server")
	fsys := durabletest.New()
	w.spool = openSpool(t, "/spool", fsys, key)
	t.Cleanup(func() { w.spool.Close() })
	cfg := sessionConfig(t, "/", fsys, key, directory(t, "/", fsys, key, mustAddress("bob@cref.example"), nil), store{w.spool}, w.tally)
	cfg.CommandTimeout, cfg.SessionTimeout, cfg.MinRate, cfg.MessageGrace = commandTimeout, sessionTimeout, minRate, grace
	if edit != nil {
		edit(&cfg)
	}
	w.handler = session.New(cfg)
	w.ctx, w.cancel = context.WithCancel(context.Background())
	t.Cleanup(w.cancel)
	var server net.Conn
	w.Conn, server = net.Pipe()
	w.conn = &netbuf.Conn{Conn: server, In: netbuf.NewReader(server), ID: "TEST"}
	return w
}

// serve runs the session, as the front does.
func (w *wire) serve() {
	w.began = time.Now()
	go func() {
		w.handler.Serve(w.ctx, w.conn)
		w.took = time.Since(w.began)
		w.conn.Close()
		close(w.ended)
	}()
}

// dribble writes s, n bytes every so often, until the server is gone.
func (w *wire) dribble(s string, n int, every time.Duration) error {
	for s != "" {
		k := min(n, len(s))
		if _, err := io.WriteString(w, s[:k]); err != nil {
			return err
		}
		s = s[k:]
		time.Sleep(every)
	}
	return nil
}

// endsAfter waits for the session's end.
func (w *wire) endsAfter(t *testing.T, least, most time.Duration) {
	t.Helper()
	<-w.ended
	if w.took < least || w.took > most {
		t.Errorf("the session ended after %v, want %v to %v", w.took, least, most)
	}
}

func (w *wire) expect(t *testing.T, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(w, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v\nwant %q", got[:n], err, want)
	}
}

func TestServer_Serve_Deadlines(t *testing.T) {
	for _, tt := range []struct {
		name        string
		client      func(t *testing.T, w *wire)
		least, most time.Duration
	}{
		{"silent", func(*testing.T, *wire) {}, commandTimeout, commandTimeout},
		{"silent after a command", func(t *testing.T, w *wire) {
			time.Sleep(time.Minute)
			io.WriteString(w, "NOOP\x00")
			w.expect(t, version+"\x00")
		}, time.Minute + commandTimeout, time.Minute + commandTimeout},
		{"a byte now and then", func(_ *testing.T, w *wire) {
			w.dribble("KEYREQUEST\x00"+strings.Repeat("a", 255), 1, 10*time.Second)
		}, commandTimeout, commandTimeout},
		{"filler now and then", func(_ *testing.T, w *wire) {
			w.dribble(strings.Repeat("\r\n\x00", 1000), 1, 10*time.Second)
		}, commandTimeout, commandTimeout},
		{"commands for ever", func(_ *testing.T, w *wire) {
			go io.Copy(io.Discard, w)
			w.dribble(strings.Repeat("NOOP\x00", 10000), 5, time.Minute)
		}, sessionTimeout, sessionTimeout},
		{"reads nothing", func(_ *testing.T, w *wire) {
			w.dribble(strings.Repeat("NOOP\x00", 10000), 4096, 0)
		}, commandTimeout, commandTimeout},
		{"reads no answers", func(t *testing.T, w *wire) {
			w.dribble(strings.Join(mails(t, 2*mostFlights, 300), ""), 4096, 0)
		}, commandTimeout, commandTimeout},
		{"reads no refusal", func(t *testing.T, w *wire) {
			w.dribble("MAIL\x00"+message(t, to("nobody@cref.example"), sealed("x", 5000)), 1<<20, 0)
		}, commandTimeout, commandTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, nil)
				w.serve()
				tt.client(t, w)
				// A sixteenth of a command's time is what a timer less costs.
				w.endsAfter(t, tt.least-tt.least/16, tt.most+tt.most/16)
				w.Close()
			})
		})
	}
}

// What a client has sent before the session began, as it does on a shared port,
// is answered under a deadline too.
func TestServer_Serve_FirstReplyUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, nil)
		defer w.Close()
		go w.dribble("NOOP\x00", 5, 0)
		for len(w.conn.In.Buffered()) < len("NOOP\x00") {
			if err := w.conn.In.Fill(); err != nil {
				t.Fatal(err)
			}
		}
		w.serve()
		w.endsAfter(t, commandTimeout, commandTimeout)
	})
}

// A sender below the least rate is cut off when the grace is used up; one at the
// rate is not, however long it takes.
func TestServer_Mail_Rate(t *testing.T) {
	const tenth = minRate / 10
	send := func(w *wire, bytesPerTenth int) error {
		msg := message(t, to("alice@cref.example"), sealed("x", 600*minRate))
		return w.dribble("MAIL\x00"+msg, bytesPerTenth, time.Second/10)
	}
	for name, client := range map[string]func(*testing.T, *wire){
		"below": func(t *testing.T, w *wire) {
			if err := send(w, tenth*9/10); err == nil {
				t.Error("the whole message was taken")
			}
			// A second at nine tenths of the rate uses up a tenth of one.
			w.endsAfter(t, 10*grace-2*time.Second, 10*grace+2*time.Second)
			if got := w.tally.fate(t); got != session.Broken {
				t.Errorf("the fate is %s", got)
			}
		},
		"at": func(t *testing.T, w *wire) {
			if err := send(w, tenth); err != nil {
				t.Fatal(err)
			}
			w.expect(t, success(t))
		},
		"stalls": func(t *testing.T, w *wire) {
			io.WriteString(w, "MAIL\x00"+message(t, to("alice@cref.example"), sealed("x", 5000))[:60])
			w.endsAfter(t, grace, grace+time.Second)
		},
		"rest of a refused one": func(t *testing.T, w *wire) {
			io.WriteString(w, "MAIL\x00"+message(t, to("nobody@cref.example"), sealed("x", 5000))[:100])
			w.expect(t, failure(t))
			w.endsAfter(t, grace, grace+6*time.Second) // with the farewell of 5 s
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, nil)
				defer w.Close()
				w.serve()
				client(t, w)
			})
		})
	}
}

// No message outlasts its session.
func TestServer_Mail_SessionTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, func(cfg *session.Config) { cfg.SessionTimeout = time.Minute })
		defer w.Close()
		w.serve()
		msg := message(t, to("alice@cref.example"), sealed("x", 600*minRate))
		if err := w.dribble("MAIL\x00"+msg, minRate, time.Second); err == nil {
			t.Error("the whole message was taken")
		}
		w.endsAfter(t, time.Minute, time.Minute)
	})
}

// What a great many bytes earn at the least rate of all is no time in the past.
func TestEarned(t *testing.T) {
	for _, tt := range []struct {
		bytes, rate int64
		want        time.Duration
	}{
		{0, 1, 0},
		{1500, 1000, 1500 * time.Millisecond},
		{1 << 40, 1, time.Hour},
		{math.MaxInt64, 1, time.Hour},
	} {
		if got := session.Earned(tt.bytes, tt.rate, time.Hour); got != tt.want {
			t.Errorf("%d bytes at %d a second earn %v, want %v", tt.bytes, tt.rate, got, tt.want)
		}
	}
}

// gated is a store that says what became of a message when it is let go.
type gated struct {
	begun chan struct{}
	leave chan error
}

func (g *gated) NewWriter() (session.Writer, error) { return gatedWriter{g}, nil }

type gatedWriter struct{ *gated }

func (gatedWriter) Write(p []byte) (int, error) { return len(p), nil }

func (g gatedWriter) Submit(spool.Entry) session.Pending {
	g.begun <- struct{}{}
	return g
}

func (gatedWriter) Ready() bool { return false }

func (g gatedWriter) Wait() (spool.Stored, error) { return spool.Stored{ID: 1}, <-g.leave }

func (gatedWriter) Abort() {}

// Not a byte of the reply comes before Wait has returned, whatever that says.
func TestServer_Mail_NothingBeforeCommit(t *testing.T) {
	for name, fault := range map[string]error{"stored": nil, "not stored": errors.New("the flush failed")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := &gated{begun: make(chan struct{}), leave: make(chan error)}
				w := newWire(t, func(cfg *session.Config) { cfg.Store = st })
				defer w.Close()
				w.serve()
				io.WriteString(w, "MAIL\x00"+message(t, to("alice@cref.example"), sealed("x", 5000)))
				<-st.begun
				w.SetReadDeadline(time.Now().Add(commandTimeout))
				if n, err := w.Read(make([]byte, 1)); n > 0 || err == nil {
					t.Fatalf("read %d bytes, %v before the message was stored", n, err)
				}
				w.SetReadDeadline(time.Time{})
				// A server at the end of its patience still waits for the flush: the
				// message may be there already.
				w.cancel()
				st.leave <- fault
				want := success(t)
				if fault != nil {
					want = failure(t)
				}
				w.expect(t, want)
				// The wait for the store was not the client's: it may go on.
				io.WriteString(w, "NOOP\x00")
				w.expect(t, version+"\x00")
			})
		})
	}
}
