package session_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/session"
)

// mail hands a message over on a connection of its own and expects reply. One that
// is refused early may not be taken whole.
func (s *server) mail(msg, reply string) {
	s.tb.Helper()
	c := s.dial(true)
	if _, err := io.WriteString(c, "MAIL\x00"+msg); err != nil && reply != failure(s.tb) {
		s.tb.Fatal(err)
	}
	c.expect(reply)
}

// The messages of the vectors are stored as they are, and answered with the
// vectors' SUCCESS.
func TestServer_Mail_Vectors(t *testing.T) {
	s := serve(t, setup{})
	want := map[string][]string{}
	for _, v := range loadVectors().Message.Good {
		msg := string(v.Message)
		m, err := cmtp.NewMessageReader(strings.NewReader(msg), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		switch h := m.Header(); {
		case strings.HasPrefix(v.Name, "longest names"):
			s.mail(msg, failure(t)) // its domains are no domains of ours
		case h.DestinationAccount == "":
			s.mail(msg, success(t))
			want[""] = append(want[""], msg)
		default:
			s.mail(msg, success(t))
			// These differ in their logs, which the core digest leaves out.
			if want["alice@cref.example"] == nil {
				want["alice@cref.example"] = []string{msg}
			}
		}
	}
	if len(want) != 2 {
		t.Fatalf("the vectors' messages were for %d mailboxes, want 2", len(want))
	}
	for addr, messages := range want {
		if got := s.mailbox(addr); !slices.Equal(got, messages) {
			t.Errorf("the mailbox of %q has %d messages, %q, want %q", addr, len(got), got, messages)
		}
	}
}

// Whoever the name leads to has the message, byte for byte, once, and nobody else.
func TestServer_Mail_Stored(t *testing.T) {
	s := serve(t, setup{postmaster: mustAddress("zoë@cref.example")})
	from := func(h cmtp.Header, addr string) cmtp.Header {
		h.SourceAccount, h.SourceDomain, _ = strings.Cut(addr, "@")
		return h
	}
	want := map[string][]string{}
	for _, m := range []struct {
		box string
		msg string
	}{
		{"alice@cref.example", message(t, to("alice@cref.example"), sealed("smallest", 48))},
		{"alice@cref.example", message(t, to("ALICE@Cref.Example."), sealed("case", 100))},
		{"alice@cref.example", message(t, to("sales+x@cref.example"), sealed("alias", 100))},
		{"alice@cref.example", message(t, to("alice+tag@cref.example"), sealed("tag", 100))},
		{"bob@cref.example", message(t, to("bob@cref.example"), sealed("parts", 100), sealed("1", 48), sealed("2", 5000))},
		{"bob@cref.example", message(t, to("bob@cref.example"), sealed("large", 300<<10), sealed("3", 300<<10))},
		{"bob@cref.example", message(t, from(to("bob@cref.example"), "alice@cref.example"), sealed("own", 48))},
		{"bob@cref.example", message(t, from(to("bob@cref.example"), "@other.example"), sealed("server", 48))},
		{"carol@second.example", message(t, to("carol@second.example"), sealed("second", 48))},
		{"zoë@cref.example", message(t, to("zoe\u0308@cref.example"), sealed("normal form", 48))},
		{"zoë@cref.example", message(t, to("postmaster@second.example"), sealed("postmaster", 48))},
		{"", message(t, to("@second.example"), sealed("operator", 48))},
	} {
		s.mail(m.msg, success(t))
		if got := s.tally.fate(t); got != session.Stored {
			t.Errorf("the fate of a message to %q is %s", m.box, got)
		}
		want[m.box] = append(want[m.box], m.msg)
	}
	for box, messages := range want {
		if got := s.mailbox(box); !slices.Equal(got, messages) {
			t.Errorf("the mailbox of %q has %d messages, want %d", box, len(got), len(messages))
		}
	}
}

func TestServer_Mail_OperatorIsPostmaster(t *testing.T) {
	s := serve(t, setup{})
	msg := message(t, to("postmaster@cref.example"), sealed("x", 48))
	s.mail(msg, success(t))
	if got := s.mailbox(""); !slices.Equal(got, []string{msg}) {
		t.Errorf("the operator has %q", got)
	}
}

// Messages and commands may come in one segment, or a byte in each.
func TestServer_Mail_Segments(t *testing.T) {
	s := serve(t, setup{})
	first, second := message(t, to("alice@cref.example"), sealed("1", 60), sealed("a", 50)), message(t, to("bob@cref.example"), sealed("2", 9000))
	sent := "NOOP\x00MAIL\x00" + first + key("alice", "") + "\r\nMAIL\x00" + second + key("", "") + "OBAI\x00"
	replies := version + "\x00" + success(t) + vectorReply(t, "KEYREQUEST, alice") + success(t) + vectorReply(t, "KEYREQUEST, server key")
	for _, cut := range []int{len(sent), 1, 7, 4096} {
		c := s.dial(true)
		for rest := sent; rest != ""; rest = rest[min(cut, len(rest)):] {
			c.send(rest[:min(cut, len(rest))])
		}
		c.expect(replies)
		c.expectEnd()
	}
	for addr, msg := range map[string]string{"alice@cref.example": first, "bob@cref.example": second} {
		if got := s.mailbox(addr); !slices.Equal(got, []string{msg}) {
			t.Errorf("%s has %d messages", addr, len(got))
		}
	}
}

// A client that never saw its reply sends again: it is told yes, and the mailbox
// has the message once, also when its log differs.
func TestServer_Mail_SentAgain(t *testing.T) {
	for name, size := range map[string]int{"small": 100, "large": 300 << 10} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, setup{})
			msg := message(t, to("alice@cref.example"), sealed("x", size))
			c := s.dial(true)
			c.send("MAIL\x00", msg)
			c.Close() // the reply is lost
			if got := s.tally.fate(t); got != session.Stored {
				t.Fatalf("the fate is %s", got)
			}
			s.mail(msg, success(t))
			var logged strings.Builder
			if err := cmtp.WriteMessage(&logged, to("alice@cref.example"), []byte("queued\x00"), bytesPart(sealed("x", size)), nil); err != nil {
				t.Fatal(err)
			}
			s.mail(logged.String(), success(t))
			for range 2 {
				if got := s.tally.fate(t); got != session.Duplicate {
					t.Errorf("the fate is %s", got)
				}
			}
			if got := s.mailbox("alice@cref.example"); !slices.Equal(got, []string{msg}) {
				t.Errorf("the mailbox has %d messages", len(got))
			}
			// To another user it is another message.
			s.mail(message(t, to("bob@cref.example"), sealed("x", size)), success(t))
			if got := s.mailbox("bob@cref.example"); len(got) != 1 {
				t.Errorf("the other mailbox has %d messages", len(got))
			}
		})
	}
}

func TestServer_Mail_SentAtOnce(t *testing.T) {
	s := serve(t, setup{})
	for _, size := range []int{100, 300 << 10} {
		msg := message(t, to("alice@cref.example"), sealed("x", size))
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 16 {
			c := s.dial(true)
			wg.Go(func() {
				<-begin
				if _, err := io.WriteString(c, "MAIL\x00"+msg); err != nil {
					t.Error(err)
				}
				reply := make([]byte, wordReply)
				if _, err := io.ReadFull(c, reply); err != nil || string(reply) != success(t) {
					t.Errorf("reply %q, %v", reply, err)
				}
			})
		}
		close(begin)
		wg.Wait()
	}
	if got := s.mailbox("alice@cref.example"); len(got) != 2 {
		t.Errorf("the mailbox has %d messages, want 2", len(got))
	}
}

// refusals are messages that no mailbox may have, in lengths that are no reason.
func refusals(tb testing.TB) map[string]string {
	from := func(account, domain string) cmtp.Header {
		h := to("alice@cref.example")
		h.SourceAccount, h.SourceDomain = account, domain
		return h
	}
	plain := to("alice@cref.example")
	plain.System = cmtp.SystemPlain
	headers := map[string]cmtp.Header{
		"plaintext":             plain,
		"foreign domain":        to("alice@other.example"),
		"unknown user":          to("nobody@cref.example"),
		"user of other domain":  to("carol@cref.example"),
		"disabled user":         to("dave@cref.example"),
		"disabled user's tag":   to("dave+x@cref.example"),
		"no domain":             to("alice@"),
		"nothing":               to("@"),
		"another's operator":    to("@other.example"),
		"path":                  to("../../etc@cref.example"),
		"dots":                  to("..@cref.example"),
		"backslash":             to(`..\alice@cref.example`),
		"control":               to("alice\x07@cref.example"),
		"line":                  to("alice\r\n@cref.example"),
		"C1 control":            to("alice\u009b2J@cref.example"),
		"bidi override":         to("alice\u202e@cref.example"),
		"space":                 to("al ice@cref.example"),
		"domain is a path":      to("alice@../cref.example"),
		"address in account":    {System: 1, DestinationAccount: "alice@cref.example", DestinationDomain: "cref.example", SourceDomain: "other.example"},
		"source is a path":      from("../../etc", "other.example"),
		"source domain a path":  from("bob", "../etc"),
		"source without domain": from("bob", ""),
		"no source":             from("", ""),
		"source controls":       from("bob\x1b[2J", "other.example"),
	}
	messages := map[string]string{}
	for name, h := range headers {
		messages[name] = message(tb, h, sealed(name, 5000), sealed("a"+name, 100))
	}
	return messages
}

// What is refused leaves nothing on disk, and the session goes on in step.
func TestServer_Mail_Refused(t *testing.T) {
	s := serve(t, setup{})
	before := s.files()
	for name, msg := range refusals(t) {
		t.Run(name, func(t *testing.T) {
			c := s.dial(true)
			c.send("MAIL\x00"+msg+"NOOP\x00", "MAIL\x00"+msg+key("alice", ""))
			c.expect(failure(t) + version + "\x00" + failure(t) + vectorReply(t, "KEYREQUEST, alice"))
			for range 2 {
				if got := s.tally.fate(t); got != session.Refused {
					t.Errorf("the fate is %s", got)
				}
			}
		})
	}
	s.unchanged(before)
	for line := range strings.Lines(s.log.String()) {
		if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("the log passes a control on: %q", line)
		}
	}
}

func TestServer_Mail_AcceptPlaintext(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.AcceptPlaintext = true }})
	h := to("alice@cref.example")
	h.System = cmtp.SystemPlain
	msg := message(t, h, "plain", "")
	s.mail(msg, success(t))
	if got := s.mailbox("alice@cref.example"); !slices.Equal(got, []string{msg}) {
		t.Errorf("the mailbox has %q", got)
	}
}

// What breaks the format or a limit is refused as soon as that shows: the client
// has sent no byte behind it. The session ends, for nothing behind it can be found.
func TestServer_Mail_RefusedEarly(t *testing.T) {
	const limit = 64 << 10
	header := func(edit func(h *cmtp.Header)) string {
		h := to("alice@cref.example")
		h.LogLength, h.BodyLength = 1, 100
		edit(&h)
		return string(h.Append(nil))
	}
	least := uint64(len(header(func(*cmtp.Header) {}))) + 1
	attachment := func(length uint64) string {
		m := header(func(h *cmtp.Header) { h.Attachments = 1 }) + "\x00" + sealed("b", 100)
		return m + string([]byte{byte(length >> 56), 0, 0, 0, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)})
	}
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.MaxMessage = limit }})
	before := s.files()
	for name, sent := range map[string]string{
		"one byte too large":       header(func(h *cmtp.Header) { h.BodyLength = limit - least + 1 }),
		"two gigabytes":            header(func(h *cmtp.Header) { h.BodyLength = 2 << 30 }),
		"lengths overflow":         header(func(h *cmtp.Header) { h.BodyLength = 1<<64 - 1 }),
		"attachments do not fit":   header(func(h *cmtp.Header) { h.Attachments = limit / 56 }),
		"too many attachments":     header(func(h *cmtp.Header) { h.Attachments = 1<<32 - 1 }),
		"attachment too large":     attachment(limit),
		"attachment overflows":     attachment(1<<63 | 1),
		"attachment no sealed box": attachment(47),
		"body no sealed box":       header(func(h *cmtp.Header) { h.BodyLength = 47 }),
		"log too long":             header(func(h *cmtp.Header) { h.LogLength = 16<<10 + 1 }),
		"log without its NUL":      header(func(*cmtp.Header) {}) + "x",
		"system 2":                 header(func(h *cmtp.Header) { h.System = 2 }),
		"name without its NUL":     header(func(*cmtp.Header) {})[:24] + strings.Repeat("a", 256),
		"name not UTF-8":           header(func(h *cmtp.Header) { h.DestinationAccount = "\xff" }),
	} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(true)
			c.send("MAIL\x00", sent)
			c.expect(failure(t))
			c.expectEnd()
			if got := s.tally.fate(t); got != session.Refused {
				t.Errorf("the fate is %s", got)
			}
		})
	}
	s.unchanged(before)
}

func TestServer_Mail_LargestMessage(t *testing.T) {
	for name, limit := range map[string]int{"in the log": 64 << 10, "in its own file": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, setup{edit: func(cfg *session.Config) { cfg.MaxMessage = uint64(limit) }})
			h := to("alice@cref.example")
			overhead := len(message(t, h, sealed("", 100), sealed("", 100))) - 200
			fits := message(t, h, sealed("x", 1000), sealed("y", limit-overhead-1000))
			if len(fits) != limit {
				t.Fatalf("a message of %d bytes, want %d", len(fits), limit)
			}
			s.mail(fits, success(t))
			s.mail(message(t, h, sealed("x", 1000), sealed("z", limit-overhead-999)), failure(t))
			if got := s.mailbox("alice@cref.example"); !slices.Equal(got, []string{fits}) {
				t.Errorf("the mailbox has %d messages", len(got))
			}
		})
	}
}

// A client that leaves before the last byte has sent nothing.
func TestServer_Mail_Cut(t *testing.T) {
	s := serve(t, setup{})
	before := s.files()
	for name, msg := range map[string]string{
		"small":       message(t, to("alice@cref.example"), sealed("x", 100)),
		"large":       message(t, to("alice@cref.example"), sealed("x", 300<<10)),
		"attachments": message(t, to("alice@cref.example"), sealed("x", 100), sealed("y", 300<<10)),
	} {
		for _, n := range []int{1, 20, 30, len(msg) / 2, len(msg) - 1} {
			for _, end := range []func(*peer) error{(*peer).CloseWrite, (*peer).reset} {
				c := s.dial(true)
				c.send("MAIL\x00", msg[:n])
				if err := end(c); err != nil {
					t.Fatal(err)
				}
				if got := s.tally.fate(t); got != session.Broken {
					t.Errorf("%s: after %d of %d bytes the fate is %s", name, n, len(msg), got)
				}
			}
		}
	}
	s.unchanged(before)
}

// reset ends the connection without a farewell.
func (p *peer) reset() error { return errors.Join(p.SetLinger(0), p.Close()) }

// A refused message of which 1 MiB is left is read to its end; one byte more, and
// the session ends, with the refusal received.
func TestServer_Mail_RestOfRefused(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.MaxMessage = 100 << 20 }})
	h := to("nobody@cref.example")
	header := len(message(t, h, sealed("", 48))) - 48 - 1 // up to the log
	rest := func(n int) string { return message(t, h, sealed("x", n-1)) }

	c := s.dial(true)
	c.send("MAIL\x00", rest(1 << 20)[:header])
	c.expect(failure(t)) // at once
	c.send(rest(1 << 20)[header:], "NOOP\x00")
	c.expect(version + "\x00")

	over := s.dial(true)
	over.send("MAIL\x00", rest(1<<20+1), "NOOP\x00")
	over.expect(failure(t))
	over.expectEnd()

	// A client that writes on and on before it reads is refused all the same.
	huge := s.dial(true)
	if _, err := io.WriteString(huge, "MAIL\x00"+rest(20<<20)); err == nil {
		t.Error("all of 20 MiB was taken")
	}
	huge.expect(failure(t))
}

// A refusing store is nobody's acceptance, and no end of the session.
func TestServer_Mail_NoRoom(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.Store = noRoom{} }})
	before := s.files()
	c := s.dial(true)
	c.send("MAIL\x00", message(t, to("alice@cref.example"), sealed("x", 50000)), "NOOP\x00")
	c.expect(failure(t) + version + "\x00")
	if got := s.tally.fate(t); got != session.Failed {
		t.Errorf("the fate is %s", got)
	}
	s.unchanged(before)
}

type noRoom struct{}

func (noRoom) NewWriter() (session.Writer, error) { return nil, errors.New("the disk is full") }
