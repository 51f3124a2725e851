package session_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/front"
	"cmtpd/internal/session"
)

var loopback = front.Config{Limits: front.Limits{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}

const help1 = "OHAI NOOP HELP KEYREQUEST LOGIN MAIL OBAI AUTH UNLOCK ENROLL REGISTER UPLOAD RECOVER " +
	"MAILBOX LIST CHANGES FETCH FLAG DELETE WAIT"

// The channel is to be had on every kind of listener, as the first command and later,
// however the command is cut, and what is said inside is CMTP 1.
func TestServer_StartTLS(t *testing.T) {
	for listener, o := range map[string]setup{"shared": {}, "CMTP only": {cmtpOnly: true}, "behind PROXY": {front: loopback},
		"CMTP only, behind PROXY": {cmtpOnly: true, front: loopback}} {
		s := serve(t, o)
		n := 0
		for name, before := range map[string][2]string{
			"first": {"", ""}, "later": {"NOOP\x00" + key("alice", ""), version + "\x00" + vectorReply(t, "KEYREQUEST, alice")},
		} {
			for _, cut := range []int{1, 1000} {
				t.Run(listener+"/"+name, func(t *testing.T) {
					c := s.dial(listener == "shared")
					if o.front.ProxyFrom != nil {
						c.send("PROXY TCP4 192.0.2.7 127.0.0.1 1000 25\r\n")
						if !o.cmtpOnly {
							c.expect(greeting)
						}
					}
					for rest := before[0] + "STARTTLS\x00"; rest != ""; rest = rest[min(cut, len(rest)):] {
						c.send(rest[:min(cut, len(rest))])
					}
					c.expect(before[1])
					in := c.handshake()
					if got := in.want(cmtp.StatusDone, "HELP\x00"); string(got) != help1 {
						t.Errorf("HELP inside: %q", got)
					}
					in.end()
					n++
					line := s.ended(n, `"protocol":"cmtp/1"`, `"why":"obai"`)
					if o.front.ProxyFrom != nil && !strings.Contains(line, `"client":"192.0.2.7:1000"`) {
						t.Errorf("the log does not name the client: %s", line)
					}
				})
			}
		}
	}
}

// A byte that came along with STARTTLS ends the connection: nothing is answered, and
// the log says what it was, also where STARTTLS would have been refused.
func TestServer_StartTLS_Injected(t *testing.T) {
	refusing := serve(t, setup{edit: func(cfg *session.Config) { cfg.AllowTLS = func(netip.Addr) bool { return false } }})
	for name, s := range map[string]*server{"taken": serve(t, setup{}), "refused": refusing} {
		for n, injected := range []string{"\x00", "\r\n", "NOOP\x00", "OBAI\x00", "\x16\x03\x01", strings.Repeat("x", 5000)} {
			for _, before := range []string{"", "NOOP\x00"} {
				c := s.dial(true)
				c.send(before + "STARTTLS\x00" + injected)
				if got, err := io.ReadAll(c); len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s, %.10q: answered with %q, %v", name, injected, got, err)
				}
			}
			s.ended(2*n+2, `"protocol":"cmtp"`, channel.ErrInjected.Error())
		}
	}
}

// What comes behind the answer is a part of the handshake, and breaks it.
func TestServer_StartTLS_InjectedLater(t *testing.T) {
	s := serve(t, setup{})
	for n, injected := range []string{"NOOP\x00", "OBAI\x00", "\x00\x00\x00\x00\x00", strings.Repeat("KEYREQUEST\x00\x00\x00", 100)} {
		c := s.dial(true)
		c.send("STARTTLS\x00")
		c.expect(success(t))
		c.send(injected)
		if _, err := channel.Client(context.Background(), c.TCPConn, 0, patience); err == nil {
			t.Fatal("there is a channel behind what was injected")
		}
		c.Close()
		s.ended(n+1, `"protocol":"cmtp"`, channel.ErrNotTLS.Error())
	}
}

func TestServer_StartTLS_Rate(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.AllowTLS = func(netip.Addr) bool { return false } }})
	c := s.dial(true)
	c.send("STARTTLS\x00")
	c.expect(failure(t))
	c.send("NOOP\x00")
	c.expect(version + "\x00")
}

func TestServer_StartTLS_Inside(t *testing.T) {
	c := serve(t, setup{}).inside()
	c.want(cmtp.StatusNotNow, "STARTTLS\x00NOOP\x00") // inside, what follows is a command
	c.expect(cmtp.StatusDone, "NOOP")
	c.end()
}

// A server that stops says so inside the channel and announces its end; one that
// receives a message answers it before.
func TestServer_Inside_Shutdown(t *testing.T) {
	s := serve(t, setup{})
	idle, half, busy := s.inside(), s.inside(), s.inside()
	msg := message(t, to("alice@cref.example"), sealed("x", 300<<10))
	idle.want(cmtp.StatusDone, "NOOP\x00")
	half.want(cmtp.StatusDone, "NOOP\x00KEYREQUEST\x00ali")
	busy.want(cmtp.StatusDone, "NOOP\x00MAIL\x00"+msg[:1000])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.front.Shutdown(ctx) }()
	for _, c := range []*insider{idle, half} {
		c.expect(cmtp.StatusClosing, "a stop")
		c.expectEnd()
	}
	select {
	case err := <-done:
		t.Fatalf("the server has stopped with a message under way: %v", err)
	default:
	}
	busy.want(cmtp.StatusDone, msg[1000:])
	busy.expect(cmtp.StatusClosing, "a stop")
	busy.expectEnd()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := s.mailbox("alice@cref.example"); len(got) != 1 || got[0] != msg {
		t.Errorf("the mailbox has %d messages", len(got))
	}
}

// A client that leaves is told from one that was cut off.
func TestServer_Inside_Leaves(t *testing.T) {
	s := serve(t, setup{})
	polite, cut := s.inside(), s.inside()
	polite.send("NOOP\x00")
	polite.CloseWrite()
	polite.expect(cmtp.StatusDone, "NOOP")
	polite.expectEnd()
	s.ended(1, `"why":"client left"`, `"protocol":"cmtp/1"`)
	cut.want(cmtp.StatusDone, "NOOP\x00")
	cut.below.CloseWrite()
	s.ended(1, channel.ErrTruncated.Error(), `"protocol":"cmtp/1"`)
}

// A client that leaves within a form is no trouble of the server's, for which its operator
// would be called.
func TestServer_Inside_LeavesForm(t *testing.T) {
	s := serve(t, setup{})
	c := s.inside()
	c.auth("alice@cref.example", vectorKey(t, "alice"))
	c.send("UPLOAD\x00" + form(make([]byte, 1000))[:500])
	c.CloseWrite()
	c.expectEnd()
	s.ended(1, `"protocol":"cmtp/1"`)
	if log := s.log.String(); strings.Contains(log, `"level":"ERROR"`) {
		t.Errorf("the log has\n%s", log)
	}
}

// wireInside is a session on a pipe, inside the channel.
func wireInside(t *testing.T, edit func(*session.Config)) (*wire, *insider) {
	t.Helper()
	w := newWire(t, edit)
	w.serve()
	io.WriteString(w, "STARTTLS\x00")
	w.expect(t, success(t))
	c, err := channel.Client(w.ctx, w.Conn, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return w, &insider{Conn: c, tb: t, key: c.ServerKey()}
}

// Every wait inside the channel has an end, which the server announces.
func TestServer_Inside_Deadlines(t *testing.T) {
	alice := vectorKey(t, "alice")
	stalled := form(make([]byte, 1000))[:500]
	for _, tt := range []struct {
		name        string
		client      func(t *testing.T, w *wire, c *insider)
		last        cmtp.Status // the server's last word; 0 when it is not read
		least, most time.Duration
	}{
		{"silent", func(*testing.T, *wire, *insider) {}, cmtp.StatusClosing, commandTimeout, commandTimeout},
		{"silent after a command", func(t *testing.T, _ *wire, c *insider) {
			time.Sleep(time.Minute)
			c.want(cmtp.StatusDone, "NOOP\x00")
		}, cmtp.StatusClosing, time.Minute + commandTimeout, time.Minute + commandTimeout},
		{"a byte now and then", func(_ *testing.T, _ *wire, c *insider) {
			go drip(c, "KEYREQUEST\x00"+strings.Repeat("a", 255), 10*time.Second)
		}, cmtp.StatusClosing, commandTimeout, commandTimeout},
		{"fixed bytes now and then", func(_ *testing.T, _ *wire, c *insider) {
			go drip(c, inside(cmtp.Auth)[:80], 10*time.Second)
		}, cmtp.StatusClosing, commandTimeout, commandTimeout},
		{"commands for ever", func(_ *testing.T, _ *wire, c *insider) {
			go io.Copy(io.Discard, c)
			drip(c, strings.Repeat("\x00NOOP\x00", 10000), 20*time.Second)
		}, 0, sessionTimeout, sessionTimeout},
		{"a form that stalls", func(_ *testing.T, _ *wire, c *insider) {
			c.auth("alice@cref.example", alice)
			c.send("UPLOAD\x00" + stalled)
		}, cmtp.StatusClosing, grace, grace + time.Second},
		{"a form that drips", func(_ *testing.T, _ *wire, c *insider) {
			c.auth("alice@cref.example", alice)
			c.send("UPLOAD\x00")
			go drip(c, form(make([]byte, 5000)), time.Second/2)
		}, cmtp.StatusClosing, grace, grace + time.Second},
		{"a form of nobody that stalls", func(_ *testing.T, _ *wire, c *insider) {
			c.want(cmtp.StatusNotProven, "UPLOAD\x00"+stalled)
		}, cmtp.StatusClosing, grace, grace + time.Second},
		{"a message that stalls", func(_ *testing.T, _ *wire, c *insider) {
			c.send("MAIL\x00" + message(t, to("alice@cref.example"), sealed("x", 5000))[:60])
		}, cmtp.StatusClosing, grace, grace + time.Second},
		{"reads nothing", func(_ *testing.T, _ *wire, c *insider) {
			io.WriteString(c, strings.Repeat("NOOP\x00", 500))
		}, 0, commandTimeout, commandTimeout + leave},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, c := wireInside(t, nil)
				tt.client(t, w, c)
				if tt.last != 0 {
					c.expect(tt.last, tt.name)
					c.expectEnd()
				}
				w.endsAfter(t, tt.least-tt.least/16, tt.most+tt.most/16)
				w.Close()
				time.Sleep(time.Minute) // who drips notices
			})
		})
	}
}

// leave is what a server waits for a client that does not read its last word.
const leave = 10 * time.Second

// drip writes a byte every so often, until the server is gone.
func drip(c io.Writer, s string, every time.Duration) {
	for i := range len(s) {
		if _, err := io.WriteString(c, s[i:i+1]); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// A handshake that is never finished ends when its time is up.
func TestServer_StartTLS_Stalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, nil)
		w.serve()
		io.WriteString(w, "STARTTLS\x00")
		w.expect(t, success(t))
		w.endsAfter(t, patience, patience+6*time.Second) // with the farewell of 5 s
		w.Close()
	})
}
