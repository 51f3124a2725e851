package session_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/front"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// The bounds of docs/protocol.md section 11.
const (
	mostFlights     = 64
	mostFlightBytes = 256 << 10
)

// held is a store that keeps every message waiting until the test says what became of it.
type held struct {
	mu    sync.Mutex
	all   []*heldMessage
	quick bool // what comes is stored at once
}

type heldMessage struct {
	bytes.Buffer
	store  *held
	answer chan error
}

func (h *held) NewWriter() (session.Writer, error) {
	return &heldMessage{store: h, answer: make(chan error, 1)}, nil
}

func (m *heldMessage) Submit(spool.Entry) session.Pending {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	m.store.all = append(m.store.all, m)
	if m.store.quick {
		m.answer <- nil
	}
	return m
}

func (m *heldMessage) Ready() bool                 { return len(m.answer) > 0 }
func (m *heldMessage) Wait() (spool.Stored, error) { return spool.Stored{}, <-m.answer }
func (m *heldMessage) Abort()                      {}

// under returns what the store has once nothing moves any more.
func (h *held) under() []*heldMessage {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// hasten has what comes from now on stored at once.
func (h *held) hasten() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.quick = true
}

// holding serves a session with a held store in a bubble.
func holding(t *testing.T, f func(t *testing.T, h *held, w *wire)) {
	synctest.Test(t, func(t *testing.T) {
		h := &held{}
		w := newWire(t, func(cfg *session.Config) { cfg.Store = h })
		defer w.Close()
		w.serve()
		f(t, h, w)
	})
}

// silent fails the test if the server says anything now.
func (w *wire) silent(t *testing.T) {
	t.Helper()
	w.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := w.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v, where nothing is due", n, err)
	}
	w.SetReadDeadline(time.Time{})
}

// mails returns n MAILs with messages of so many bytes each.
func mails(t *testing.T, n, size int) (all []string) {
	overhead := len(message(t, to("alice@cref.example"), sealed("", 48))) - 48
	for i := range n {
		all = append(all, "MAIL\x00"+message(t, to("alice@cref.example"), sealed(fmt.Sprint(i, size), size-overhead)))
	}
	return all
}

// Many of one client are with the store at once, in their order, and answered in it, whatever
// becomes of each and whichever is known first.
func TestServer_Mail_Flights(t *testing.T) {
	holding(t, func(t *testing.T, h *held, w *wire) {
		sent := mails(t, 10, 5000)
		go io.WriteString(w, strings.Join(sent, ""))
		all := h.under()
		if len(all) != len(sent) {
			t.Fatalf("the store has %d messages at once, want %d", len(all), len(sent))
		}
		for i, m := range all {
			if "MAIL\x00"+m.String() != sent[i] {
				t.Errorf("message %d is not the client's", i)
			}
		}
		w.silent(t)
		for i := len(all) - 1; i > 0; i-- {
			if i%3 == 1 {
				all[i].answer <- errors.New("the disk is full")
			} else {
				all[i].answer <- nil
			}
			w.silent(t)
		}
		all[0].answer <- nil
		for i := range all {
			want, fate := success(t), session.Stored
			if i%3 == 1 {
				want, fate = failure(t), session.Failed
			}
			w.expect(t, want)
			if got := w.tally.fate(t); got != fate {
				t.Errorf("the fate of message %d is %s", i, got)
			}
		}
		w.silent(t)
	})
}

// What a client has under way is bounded, in messages and in bytes; more is not taken before there is room.
func TestServer_Mail_FlightsBound(t *testing.T) {
	for name, tt := range map[string]struct {
		sent  []string
		first int // are under way at once
	}{
		"messages": {mails(t, mostFlights+3, 200), mostFlights},
		"bytes":    {mails(t, 5, mostFlightBytes/4), 4},
		"a byte":   {append(mails(t, 1, mostFlightBytes/4+1), mails(t, 4, mostFlightBytes/4)...), 3},
		"longer":   {append(mails(t, 1, 2*mostFlightBytes), mails(t, 2, 200)...), 1},
		"last":     {append(mails(t, 2, 200), mails(t, 1, mostFlightBytes)...), 2},
	} {
		t.Run(name, func(t *testing.T) {
			holding(t, func(t *testing.T, h *held, w *wire) {
				go io.WriteString(w, strings.Join(tt.sent, ""))
				if got := len(h.under()); got != tt.first {
					t.Fatalf("%d messages are under way, want %d", got, tt.first)
				}
				for i := range tt.sent {
					if got, want := len(h.under()), i+fitting(tt.sent[i:]); got != want {
						t.Fatalf("with %d answered %d messages were taken, want %d", i, got, want)
					}
					h.under()[i].answer <- nil
					w.expect(t, success(t))
				}
			})
		})
	}
}

// fitting returns how many of the first of these MAILs may be under way at once.
func fitting(all []string) (n int) {
	bytes := 0
	for _, m := range all {
		bytes += len(m) - len("MAIL\x00")
		if n == mostFlights || n > 0 && bytes > mostFlightBytes {
			break
		}
		n++
	}
	return n
}

// Nothing that comes behind a MAIL is answered before it, and what could depend on it is not
// even looked at.
func TestServer_Mail_FlightsFirst(t *testing.T) {
	unread := to("alice@cref.example")
	unread.System, unread.LogLength, unread.BodyLength = 2, 1, 100
	for name, tt := range map[string]struct{ sent, reply string }{
		"NOOP":       {"NOOP\x00", version + "\x00"},
		"KEYREQUEST": {key("alice", ""), vectorReply(t, "KEYREQUEST, alice")},
		"unknown":    {"HOLA\x00", failure(t)},
		"no command": {strings.Repeat("x", 33), failure(t)},
		"refused":    {"MAIL\x00" + message(t, to("nobody@cref.example"), sealed("x", 100)), failure(t)},
		"no message": {"MAIL\x00" + string(unread.Append(nil)), failure(t)},
		"OBAI":       {"OBAI\x00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			holding(t, func(t *testing.T, h *held, w *wire) {
				go io.WriteString(w, strings.Join(mails(t, 2, 200), "")+tt.sent)
				all := h.under()
				w.tally.mu.Lock()
				if n := len(w.tally.commands); n > 0 {
					t.Errorf("%d kinds of commands were answered", n)
				}
				w.tally.mu.Unlock()
				all[1].answer <- nil
				w.silent(t)
				all[0].answer <- nil
				w.expect(t, success(t)+success(t)+tt.reply)
			})
		})
	}
}

// A client that waits for an answer has it when it is there, also when it has begun to send
// something else.
func TestServer_Mail_FlightsBeside(t *testing.T) {
	sent := mails(t, 2, 5000)
	for name, begun := range map[string]string{"nothing": "", "part of a command": "MA", "part of a message": sent[1][:100], "most of it": sent[1][:4900]} {
		t.Run(name, func(t *testing.T) {
			holding(t, func(t *testing.T, h *held, w *wire) {
				io.WriteString(w, sent[0]+begun)
				h.under()[0].answer <- nil
				w.expect(t, success(t))
				go io.WriteString(w, sent[1][len(begun):])
				h.under()[1].answer <- nil
				w.expect(t, success(t))
			})
		})
	}
}

// A client's time for the next command does not run while it waits for an answer, and runs
// from then on. A server that stops gives the answers first.
func TestServer_Mail_FlightsTime(t *testing.T) {
	const long, short = 3 * commandTimeout / 2, commandTimeout / 3
	for name, tt := range map[string]struct {
		wait  time.Duration
		stop  bool
		lasts time.Duration
	}{
		"long": {long, false, long + commandTimeout}, "short": {short, false, short + commandTimeout}, "stopped": {long, true, long},
	} {
		t.Run(name, func(t *testing.T) {
			holding(t, func(t *testing.T, h *held, w *wire) {
				go io.WriteString(w, strings.Join(mails(t, 2, 5000), ""))
				all := h.under()
				if tt.stop {
					w.conn.Stop()
				}
				time.Sleep(tt.wait) // of the bubble
				all[0].answer <- nil
				all[1].answer <- nil
				w.expect(t, success(t)+success(t))
				w.endsAfter(t, tt.lasts, tt.lasts)
			})
		})
	}
}

// Of a client that is gone every message has its fate, whether it is cut short, waits for room, or is
// with the store; of the last, none is lost.
func TestServer_Mail_FlightsGone(t *testing.T) {
	for name, tt := range map[string]struct {
		sent  string
		taken int
		last  []session.Outcome
	}{
		"cut": {strings.Join(mails(t, 3, 5000), "")[:2*5005+300], 2, []session.Outcome{session.Broken}},
		// There is room for the last before the first answer cannot be written, or not.
		"room":    {strings.Join(mails(t, mostFlights+1, 200), ""), mostFlights, []session.Outcome{session.Broken, session.Stored}},
		"refused": {mails(t, 1, 200)[0] + "MAIL\x00" + message(t, to("nobody@cref.example"), sealed("x", 5000)), 1, []session.Outcome{session.Refused}},
	} {
		t.Run(name, func(t *testing.T) {
			holding(t, func(t *testing.T, h *held, w *wire) {
				go io.WriteString(w, tt.sent)
				all := h.under()
				if len(all) != tt.taken {
					t.Fatalf("the store has %d messages, want %d", len(all), tt.taken)
				}
				w.Close()
				h.hasten()
				for _, m := range all {
					m.answer <- nil
				}
				for range all {
					if got := w.tally.fate(t); got != session.Stored {
						t.Errorf("the fate of one with the store is %s", got)
					}
				}
				if got := w.tally.fate(t); !slices.Contains(tt.last, got) {
					t.Errorf("the fate of the last is %s, want one of %s", got, tt.last)
				}
				<-w.ended
			})
		})
	}
}

// Of messages that are the same, and under way at once, the mailbox has one, and each is answered.
func TestServer_Mail_FlightsAlike(t *testing.T) {
	s := serve(t, setup{})
	const copies = 40
	one, other := mails(t, 1, 300)[0], mails(t, 1, 301)[0]
	c := s.dial(true)
	c.send(strings.Repeat(one+other+one, copies))
	c.expect(strings.Repeat(success(t), 3*copies))
	fates := map[session.Outcome]int{}
	for range 3 * copies {
		fates[s.tally.fate(t)]++
	}
	if fates[session.Stored] != 2 || fates[session.Duplicate] != 3*copies-2 {
		t.Errorf("the fates are %v", fates)
	}
	if got := s.mailbox("alice@cref.example"); len(got) != 2 || "MAIL\x00"+got[0] != one || "MAIL\x00"+got[1] != other {
		t.Errorf("the mailbox has %d messages", len(got))
	}
}

// Inside, each receipt is of its own message: small ones and large ones, accepted and refused, in their order.
func TestServer_Inside_Flights(t *testing.T) {
	s := serve(t, setup{})
	c := s.inside()
	sizes := []int{300, 5000, 100 << 10, 300 << 10, 700}
	const messages = 100
	var all strings.Builder
	var digests [][32]byte
	for i := range messages {
		dest := "alice@cref.example"
		if i%7 == 6 {
			dest = "nobody@cref.example"
		}
		text := message(t, to(dest), sealed(fmt.Sprint(i), sizes[i%len(sizes)]))
		m, err := cmtp.NewMessageReader(strings.NewReader(text), 1<<20)
		if err == nil {
			_, err = io.Copy(io.Discard, m)
		}
		digest, err2 := m.Digest()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, digest)
		all.WriteString("MAIL\x00" + text)
	}
	go c.send(all.String())
	var commit uint64
	for i, digest := range digests {
		status, payload := c.reply()
		if i%7 == 6 {
			if status != cmtp.StatusNoAccount {
				t.Fatalf("message %d was answered %d", i, status)
			}
			continue
		}
		r, err := crypt.OpenReceipt(payload, c.key)
		if status != cmtp.StatusDone || err != nil || r.Digest != digest || r.Commit < commit {
			t.Fatalf("message %d was answered %d, %+v, %v", i, status, r, err)
		}
		commit = r.Commit
	}
	c.end()
}

// Whatever call to the disk fails while many messages of one client are under way, those that
// it was told of are there after a crash.
func TestServer_Mail_FlightsFaults(t *testing.T) {
	calls := flightsWithFault(t, 0, durabletest.None)
	for n := 1; n <= calls; n += 1 + n/8 {
		for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
			t.Run(fmt.Sprintf("call %d/fault %d", n, fault), func(t *testing.T) { flightsWithFault(t, n, fault) })
		}
	}
}

// flightsWithFault sends messages while the nth call from there on fails, or cuts the connection when
// it has read some answers and no call is to fail.
func flightsWithFault(t *testing.T, n int, fault durabletest.Fault) (calls int) {
	t.Helper()
	fsys := durabletest.New()
	s := serve(t, setup{fs: fsys})
	alice, err := s.accounts.Get(mustAddress("alice@cref.example"))
	if err != nil {
		t.Fatal(err)
	}
	first := fsys.Calls()
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.N == first+n {
			return fault
		}
		return durabletest.None
	})
	sent := mails(t, 150, 400)
	c := s.dial(true)
	c.send(strings.Join(sent, ""))
	told := map[string]bool{}
	reply := make([]byte, wordReply)
	for i := range sent {
		if n == 0 && i == len(sent)/2 {
			if err := c.reset(); err != nil {
				t.Fatal(err)
			}
			break
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if string(reply) == success(t) {
			told[strings.TrimPrefix(sent[i], "MAIL\x00")] = true
		} else if n == 0 || string(reply) != failure(t) {
			t.Fatalf("answer %d is %q", i, reply)
		}
	}
	s.stop()
	calls = fsys.Calls() - first
	if m := s.spool.Stats().Memory; m != 0 {
		t.Errorf("%d bytes of memory were not given back", m)
	}
	for _, m := range stored(t, fsys.Crash(nil), alice.ID) {
		delete(told, m)
	}
	if len(told) > 0 {
		t.Errorf("%d messages were acknowledged, and are gone", len(told))
	}
	return calls
}

// broken is a store with a bug.
type broken struct{ drain }

func (broken) NewWriter() (session.Writer, error) { return broken{}, nil }
func (broken) Submit(spool.Entry) session.Pending { return broken{} }
func (broken) Wait() (spool.Stored, error)        { panic("a bug") }

// A bug in answering costs the one session.
func TestServer_Mail_FlightsPanic(t *testing.T) {
	log := &syncBuffer{}
	s := serve(t, setup{
		edit:  func(cfg *session.Config) { cfg.Store = broken{} },
		front: front.Config{Log: slog.New(slog.NewTextHandler(log, nil))},
	})
	c := s.dial(true)
	c.send(strings.Join(mails(t, 3, 300), ""), "NOOP\x00")
	if got, _ := io.ReadAll(c); len(got) > 0 {
		t.Errorf("read %q", got)
	}
	other := s.dial(true)
	other.send("NOOP\x00")
	other.expect(version + "\x00")
	s.stop()
	if text := log.String(); !strings.Contains(text, "this is a bug") || !strings.Contains(text, "broken.Wait") {
		t.Errorf("the log does not say where: %s", text)
	}
}
