package relay_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

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

// TestPostfix_Unheard: so it is with a real one that expects no header. Version 2 has a QUIT in it, upon which Postfix is
// gone, and a reset may overtake what it said: a client that is left without a word comes again as well.
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
		got, left := string(b), proxy == config.ProxyV2 && string(b) == "220 mail.example ESMTP CMTP ready\r\n"
		if err != nil && !left {
			t.Errorf("%s: %v", proxy, err)
		}
		if !left && !strings.HasSuffix(got, "\r\n"+unavailable) || strings.Contains(got, "500") {
			t.Errorf("%s: the client heard %q", proxy, got)
		}
	}
}
