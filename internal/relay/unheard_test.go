package relay_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/relay"
)

// TestRelay_Serve_Unheard: a mail server that takes the PROXY header for a command puts the client
// off, and does not send it away for good. Whatever else it may mean by such a reply is passed on.
func TestRelay_Serve_Unheard(t *testing.T) {
	const syntax, unknown = "500 5.5.2 Error: bad syntax\r\n", "502-not\r\n502 known\r\n"
	long := "EHLO " + strings.Repeat("a", 256) + "\r\n"
	for _, tt := range []struct {
		name, first, reply, want string
		proxy                    config.ProxyProtocol
	}{
		{"v2", "EHLO client.example\r\n", syntax + syntax + "221 Bye\r\n", unavailable, config.ProxyV2},
		{"v1", "helo [192.0.2.7]\r\n", unknown, unavailable, config.ProxyV1},
		{"Exim", "EHLO client.example\r\n", "554 SMTP synchronization error\r\n", unavailable, config.ProxyV2},
		{"LongestName", "EHLO " + strings.Repeat("a", 255) + "\r\n", syntax, unavailable, config.ProxyV2},
		{"NoHeader", "EHLO client.example\r\n", syntax, syntax, config.ProxyNone},
		{"Name", "EHLO client\xff\r\n", syntax, syntax, config.ProxyV2},
		{"LongName", long, syntax, syntax, config.ProxyV2},
		{"NoWait", "EHLO client.example\r\nMAIL FROM:<>\r\n", syntax, syntax, config.ProxyV2},
		{"NoName", "EHLO \r\n", syntax, syntax, config.ProxyV2},
		{"OtherCommand", "HELP me\r\n", syntax, syntax, config.ProxyV2},
		{"OtherReply", "EHLO client.example\r\n", "501 5.5.4 no\r\n", "501 5.5.4 no\r\n", config.ProxyV2},
		{"Later", "EHLO client.example\r\n", "250 ok\r\n" + syntax, "250 ok\r\n" + syntax, config.ProxyV2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
				var end relay.End
				cfg.Proxy, cfg.Ended = tt.proxy, func(e relay.End) { end = e }
				r := relay.New(cfg)
				s := serve(context.Background(), t, r, wrap, tt.first)
				m := b.accept()
				io.WriteString(m, "220 ready\r\n"+tt.reply)
				m.CloseWrite()
				if got := readAll(t, s); got != tt.want {
					t.Errorf("the client heard %q, want %q", got, tt.want)
				}
				s.Close()
				m.Close()
				<-s.done
				off := tt.want == unavailable
				if st := r.Stats(); off != (st.Unavailable == 1) || off == (st.Passed == 1) || off != (end.Outcome == relay.Unavailable) {
					t.Errorf("counted %+v, ended %v", st, end.Outcome)
				}
			})
		})
	}
}

// TestRelay_Serve_Gone: a mail server that has greeted, and is gone before it has said more, has its place taken as one that
// is away; the log says why it may be so. What it has said at all is passed on, and nothing behind it.
func TestRelay_Serve_Gone(t *testing.T) {
	const hint = "does not expect a PROXY header"
	for _, tt := range []struct {
		name, first, said string
		proxy             config.ProxyProtocol
		reset             bool
	}{
		{"Closed", "EHLO client.example\r\n", "", config.ProxyV2, false},
		{"Reset", "EHLO client.example\r\n", "", config.ProxyV2, true},
		{"NoHeader", "EHLO client.example\r\n", "", config.ProxyNone, false},
		{"NoHeaderReset", "EHLO client.example\r\n", "", config.ProxyNone, true},
		{"NoWait", "EHLO client.example\r\nMAIL FROM:<>\r\n", "", config.ProxyV1, true},
		{"OtherCommand", "HELP me\r\n", "", config.ProxyV1, false},
		{"Said", "EHLO client.example\r\n", "2", config.ProxyV2, false},
		{"Complained", "EHLO client.example\r\n", "500 5.5.2 Error: bad syntax\r\n", config.ProxyV2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
				var end relay.End
				var log strings.Builder
				cfg.Proxy, cfg.Ended = tt.proxy, func(e relay.End) { end = e }
				cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
				r := relay.New(cfg)
				s := serve(context.Background(), t, r, wrap, tt.first)
				m := b.accept()
				io.WriteString(m, "220 ready\r\n"+tt.said)
				if tt.reset {
					hearAll(t, m, tt.first)
					m.SetLinger(0)
				}
				m.Close()
				want := unavailable
				if tt.said != "" && !tt.reset {
					want = tt.said
				}
				if got := readAll(t, s); got != want {
					t.Errorf("the client heard %q, want %q", got, want)
				}
				s.Close()
				<-s.done
				if off := want == unavailable; off != (r.Stats().Unavailable == 1) || off != (end.Outcome == relay.Unavailable) ||
					off != strings.Contains(log.String(), `msg="the mail server cannot be reached"`) {
					t.Errorf("counted %+v, ended %v, logged %s", r.Stats(), end.Outcome, &log)
				}
				if told := strings.Contains(log.String(), hint); told != (want == unavailable && tt.proxy != config.ProxyNone) {
					t.Errorf("logged %s", &log)
				}
			})
		})
	}
}

// hearAll reads what ends with first.
func hearAll(t *testing.T, m io.Reader, first string) {
	t.Helper()
	var heard []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(heard), first); heard = append(heard, b...) {
		if _, err := io.ReadFull(m, b); err != nil {
			t.Fatalf("after %q: %v", heard, err)
		}
	}
}

// TestRelay_Serve_Gone_Greeted: so it is with one that is gone at the greeting's end, before it was sent anything: what is
// written to it fails, at once or later.
func TestRelay_Serve_Gone_Greeted(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		r := relay.New(cfg)
		const rounds = 50
		for range rounds {
			s := serve(context.Background(), t, r, wrap, "EHLO client.example\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n")
			m.CloseRead() // who is sent more resets
			m.Close()
			if got := readAll(t, s); got != unavailable {
				t.Fatalf("the client heard %q", got)
			}
			s.Close()
			<-s.done
		}
		if st := r.Stats(); st.Unavailable != rounds {
			t.Errorf("counted %+v", st)
		}
	})
}

// TestRelay_Serve_Gone_Linger: a client that stays after it was put off is cut, so that somebody hears of it.
func TestRelay_Serve_Gone_Linger(t *testing.T) {
	for _, said := range []string{"", "500 5.5.2 Error: bad syntax\r\n"} {
		bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
			cfg.Proxy = config.ProxyV1
			r := relay.New(cfg)
			r.SetLinger(time.Millisecond)
			s := serve(context.Background(), t, r, wrap, "EHLO client.example\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n"+said)
			hearAll(t, m, "EHLO client.example\r\n")
			m.Close()
			if got := readAll(t, s); got != unavailable {
				t.Errorf("the client heard %q", got)
			}
			<-s.done
			if st := r.Stats(); st.Unavailable != 1 {
				t.Errorf("counted %+v", st)
			}
		})
	}
}

// TestRelay_Serve_Gone_Client: a client that is gone first leaves no failure of the mail server.
func TestRelay_Serve_Gone_Client(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		r := relay.New(cfg)
		s := serve(context.Background(), t, r, wrap, "EHLO client.example\r\n")
		m := b.accept()
		io.WriteString(m, "220 ready\r\n")
		expect(t, m, "EHLO client.example\r\n")
		s.SetLinger(0)
		s.Close()
		io.Copy(io.Discard, m)
		m.Close()
		<-s.done
		if st := r.Stats(); st.Passed != 1 || st.Unavailable != 0 {
			t.Errorf("counted %+v", st)
		}
	})
}

// TestRelay_Serve_Gone_ClientEnds: nor does one that has ended before, be it in the middle of a command, which a mail server need
// not answer any more. Strangers could else have the operator believe that it is away.
func TestRelay_Serve_Gone_ClientEnds(t *testing.T) {
	for _, reset := range []bool{false, true} {
		bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
			var end relay.End
			var log strings.Builder
			cfg.Ended = func(e relay.End) { end = e }
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
			r := relay.New(cfg)
			s := serve(context.Background(), t, r, wrap, "BDAT 100000\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n")
			s.CloseWrite()
			io.Copy(io.Discard, m)
			if reset {
				m.SetLinger(0)
			}
			m.Close()
			<-s.done
			if st := r.Stats(); st.Passed != 1 || st.Unavailable != 0 || end.Outcome != relay.Passed || strings.Contains(log.String(), "cannot be reached") {
				t.Errorf("counted %+v, ended %v, logged %s", st, end.Outcome, &log)
			}
		})
	}
}

// TestPostfix_Gone_ClientEnds: so it is with a real one, which leaves without a word.
func TestPostfix_Gone_ClientEnds(t *testing.T) {
	cfg := backendOf(cmtptest.StartPostfix(t), config.ProxyV2)
	bothEnds := make(chan relay.End, 1)
	cfg.Ended = func(e relay.End) { bothEnds <- e }
	r := relay.New(cfg)
	for _, wrap := range []bool{false, true} {
		s := serve(context.Background(), t, r, wrap, "BDAT 100000\r\n")
		s.CloseWrite()
		<-s.done
		if e := <-bothEnds; e.Outcome != relay.Passed {
			t.Errorf("ended %v", e.Outcome)
		}
	}
}

// TestPostfix_Unheard: so it is with a real one that expects no header. Version 2 has a QUIT in it, upon which Postfix is
// gone, and a reset may overtake what it said.
func TestPostfix_Unheard(t *testing.T) {
	p := cmtptest.StartPostfix(t)
	for _, proxy := range []config.ProxyProtocol{config.ProxyV1, config.ProxyV2} {
		unheard := *p
		unheard.Proxied = p.Plain
		c, err := net.Dial("tcp", fronted(t, &unheard, proxy))
		if err != nil {
			t.Fatal(err)
		}
		tcp := limit(t, c.(*net.TCPConn))
		io.WriteString(tcp, "EHLO client.example\r\n")
		b, err := io.ReadAll(tcp)
		if err != nil {
			t.Errorf("%s: %v", proxy, err)
		}
		if got := string(b); !strings.HasSuffix(got, "\r\n"+unavailable) || strings.Contains(got, "500") {
			t.Errorf("%s: the client heard %q", proxy, got)
		}
	}
}
