package main_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"cmtpd/internal/cmtptest"
)

// behind returns settings that relay SMTP to b.
func behind(b *cmtptest.Backend, more cmtptest.Settings) cmtptest.Settings {
	s := cmtptest.Settings{"smtp.mode": `"relay"`, "smtp.backend": `"` + b.Addr + `"`, "smtp.proxy_protocol": `"v1"`, "log.level": `"debug"`}
	for k, v := range more {
		s[k] = v
	}
	return s
}

// bytewise returns s in segments of one byte.
func bytewise(s string) []string { return strings.Split(s, "") }

const neither = "500 5.5.2 "

// TestPort_Decision: the first command decides what a connection speaks, however
// its bytes are cut. SMTP reaches the mail server behind with every byte.
func TestPort_Decision(t *testing.T) {
	t.Parallel()
	b := cmtptest.NewBackend(t, false)
	d := cmtptest.NewSite(t, behind(b, nil)).Start(t)
	many := "OHAI\x00NOOP\x00\r\nHELP\x00KEYREQUEST\x00nobody\x00\x00OBAI\x00"
	manyWords := []string{"OHAI" + version, version, "OHAI NOOP HELP ", "FAILURE"}
	for _, tt := range []struct {
		name     string
		segments []string
		cmtp     []string // beginnings of the strings that answer, for CMTP
		smtp     string   // beginning of the line that answers, for SMTP; or neither
	}{
		{"MAIL NUL", []string{"MAIL\x00" + strings.Repeat("\xff", 24) + "a\x00b\x00c\x00d\x00"}, []string{"FAILURE"}, ""},
		{"MAIL FROM", []string{"MAIL FROM:<a@example.net>\r\nQUIT\r\n"}, nil, "250 2.0.0 backend MAIL"},
		{"MAIL FROM byte by byte", bytewise("MAIL FROM:<a@example.net>\r\nQUIT\r\n"), nil, "250 2.0.0 backend MAIL"},
		{"mail from", []string{"mail from:<a@example.net>\r\nQUIT\r\n"}, nil, "250 2.0.0 backend MAIL"},
		{"NOOP NUL", []string{"NOOP\x00"}, []string{version}, ""},
		{"NOOP CRLF", []string{"NOOP\r\nQUIT\r\n"}, nil, "250 2.0.0 backend NOOP"},
		{"NOOP, then its end", []string{"NOOP", "\r", "\nQUIT\r\n"}, nil, "250 2.0.0 backend NOOP"},
		{"NOOP, then its NUL", []string{"NOOP", "\x00"}, []string{version}, ""},
		{"HELP NUL", []string{"HELP\x00"}, []string{"OHAI NOOP HELP "}, ""},
		{"noop NUL", []string{"noop\x00"}, nil, neither},
		{"OHAI NUL CRLF", []string{"OHAI\x00\r\n"}, []string{"OHAI" + version}, ""},
		{"OHAI NUL CRLF byte by byte", bytewise("OHAI\x00\r\nNOOP\x00"), []string{"OHAI" + version, version}, ""},
		{"many commands at once", []string{many}, manyWords, ""},
		{"many commands byte by byte", bytewise(many), manyWords, ""},
		{"SMTP pipelined", []string{"EHLO client.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<x@example.org>\r\nQUIT\r\n"}, nil, "250-backend.example"},
		{"CRLF first", []string{"\r\nNOOP\x00"}, nil, neither},
		{"a TLS record", []string{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 500)}, nil, neither},
		{"HTTP", []string{"GET / HTTP/1.1\r\nHost: mx.example.org\r\n\r\n"}, nil, neither},
		{"1,024 bytes without an end", []string{"EHLO " + strings.Repeat("x", 1024-5)}, nil, neither},
		{"1,024 bytes with an end", []string{"EHLO " + strings.Repeat("x", 1024-7) + "\r\nQUIT\r\n"}, nil, "250-backend.example"},
		{"SMTP with a NUL", []string{"EHLO a\x00b\r\n"}, nil, neither},
		{"PROXY from nobody", []string{"PROXY TCP4 203.0.113.7 192.0.2.9 1234 25\r\nNOOP\x00"}, nil, neither},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := greeted(t, d.Shared[0])
			c.send(t, tt.segments...)
			c.CloseWrite()
			for _, want := range tt.cmtp {
				c.answer(t, want)
			}
			if tt.smtp != "" {
				c.line(t, tt.smtp)
			}
			switch {
			case tt.cmtp != nil, tt.smtp == neither:
				c.end(t)
			default:
				s := b.Next(t)
				equal(t, "received behind", s.Received, strings.Join(tt.segments, ""))
				equal(t, "PROXY header", s.Proxy, proxyV1(c.LocalAddr(), c.RemoteAddr()))
			}
		})
	}
}

// answer reads one reply of CMTP that begins with want.
func (c *wire) answer(t *testing.T, want string) {
	t.Helper()
	if want == "FAILURE" {
		c.failure(t)
		return
	}
	c.str(t, want)
}

// proxyV1 is the header for a client of IPv4 that has connected to local.
func proxyV1(client, local net.Addr) string {
	c, l := client.(*net.TCPAddr), local.(*net.TCPAddr)
	return fmt.Sprintf("PROXY TCP4 %s %s %d %d", c.IP, l.IP, c.Port, l.Port)
}

// TestPort_Silence: whoever says nothing, or not enough, is told so as long as the
// session is not CMTP, and is not waited for any longer than configured.
func TestPort_Silence(t *testing.T) {
	t.Parallel()
	d := cmtptest.NewSite(t, cmtptest.Settings{"limits.command_timeout": `"400ms"`}).Start(t)
	for _, tt := range []struct{ name, said, answer, last string }{
		{"nothing", "", "", "421 4.4.2 " + hostname},
		{"half of a command", "EHLO client", "", "421 4.4.2 " + hostname},
		{"half of a verb", "NOO", "", "421 4.4.2 " + hostname},
		{"CMTP, then nothing", "NOOP\x00", version, ""},
		{"CMTP, then half of a command", "NOOP\x00KEYREQUEST\x00ali", version, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			c := greeted(t, d.Shared[0])
			c.send(t, tt.said)
			if tt.answer != "" {
				c.str(t, tt.answer)
			}
			if tt.last != "" {
				c.line(t, tt.last)
			}
			c.end(t)
			if took := time.Since(began); took < 400*time.Millisecond || took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestPort_Vanish: a client that goes away or resets, at any point, ends its own
// session, and nothing of its message stays.
func TestPort_Vanish(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, cmtptest.Settings{"log.level": `"debug"`})
	d := site.Start(t)
	half := announce(400 << 10)
	half += strings.Repeat("x", 300<<10) // more than limits.large_message: into a file
	for _, tt := range []struct{ name, said, logged string }{
		{"before a command", "", "protocol=undecided"},
		{"in a command", "MAI", "protocol=undecided"},
		{"in CMTP", "OHAI\x00", "session ended"},
		{"in a message", half, "message broken"},
	} {
		for _, reset := range []bool{false, true} {
			name := tt.name
			if reset {
				name += " by a reset"
			}
			t.Run(name, func(t *testing.T) {
				c := greeted(t, d.Shared[0])
				client := c.LocalAddr().String()
				c.send(t, tt.said)
				if reset {
					c.reset(t)
				} else {
					c.Close()
				}
				d.Line(t, tt.logged, "client="+client)
			})
		}
	}
	c := greeted(t, d.Shared[0])
	c.send(t, "NOOP\x00")
	c.str(t, version)
	d.Stop(t) // whatever a session has to clean up is cleaned up behind it
	for _, dir := range []string{"tmp", "large"} {
		equal(t, "files in "+dir, len(entries(t, site.Data+"/spool/"+dir)), 0)
	}
}

// TestPort_CMTPOnly: no greeting, no SMTP, and filler before the first command.
func TestPort_CMTPOnly(t *testing.T) {
	t.Parallel()
	b := cmtptest.NewBackend(t, false)
	d := cmtptest.NewSite(t, behind(b, cmtptest.Settings{"listen.cmtp_only": `["127.0.0.1:0"]`})).Start(t)
	c := dialFrom(t, "127.0.0.1", d.CMTPOnly[0])
	c.send(t, "\r\n\x00OHAI\x00")
	c.str(t, "OHAI"+version) // so there was no greeting
	c.send(t, "OBAI\x00")
	c.end(t)

	c = dialFrom(t, "127.0.0.1", d.CMTPOnly[0])
	c.send(t, "EHLO client.example\r\nMAIL FROM:<a@example.net>\r\n")
	c.failure(t) // a verb without a NUL within bounds is no CMTP
	c.end(t)

	// What reaches the backend next is this, and nothing of the above.
	c = greeted(t, d.Shared[0])
	c.send(t, "QUIT\r\n")
	c.line(t, "221 ")
	equal(t, "received behind", b.Next(t).Received, "QUIT\r\n")
}

// TestPort_Caps: so many connections of one address and in all, and no more, with
// a line that says which; one that leaves makes room.
func TestPort_Caps(t *testing.T) {
	t.Parallel()
	d := cmtptest.NewSite(t, cmtptest.Settings{
		"limits.max_connections": "5", "limits.max_connections_per_address": "3",
	}).Start(t)
	from := func(addr, want string) *wire {
		c := dialFrom(t, addr, d.Shared[0])
		c.line(t, want)
		return c
	}
	const mine, all = "421 4.7.0 " + hostname + " has too many connections from your address", "421 4.7.0 " + hostname + " has too many connections,"
	var open []*wire
	for range 3 {
		open = append(open, from("127.0.0.1", greeting))
	}
	from("127.0.0.1", mine).end(t)
	from("127.0.0.2", greeting)
	from("127.0.0.2", greeting)
	from("127.0.0.2", all).end(t)
	from("127.0.0.3", all).end(t)
	open[0].send(t, "OBAI\x00")
	open[0].end(t)
	// The server counts it out after it has closed it, so one may still come too early.
	for deadline := time.Now().Add(20 * time.Second); ; {
		c := dialFrom(t, "127.0.0.3", d.Shared[0])
		line, err := c.in.ReadString('\n')
		if line == greeting {
			break
		}
		if err != nil || !strings.HasPrefix(line, all) || time.Now().After(deadline) {
			t.Fatalf("after one has left: %q, %v", line, err)
		}
	}
	from("127.0.0.1", all).end(t)
}

// TestPort_Proxy: a PROXY header from a configured network is required and
// believed; what comes from elsewhere is no command (TestPort_Decision).
func TestPort_Proxy(t *testing.T) {
	t.Parallel()
	b := cmtptest.NewBackend(t, false)
	d := cmtptest.NewSite(t, behind(b, cmtptest.Settings{"listen.proxy_from": `["127.0.0.2/32"]`})).Start(t)
	client := &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 1234}
	local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 25}
	v1 := proxyV1(client, local) + "\r\n"
	var v2 bytes.Buffer
	if _, err := proxyproto.HeaderProxyFromAddrs(2, client, local).WriteTo(&v2); err != nil {
		t.Fatal(err)
	}

	for name, header := range map[string]string{"version 1": v1, "version 2": v2.String()} {
		t.Run(name, func(t *testing.T) {
			c := dialFrom(t, "127.0.0.2", d.Shared[0])
			c.send(t, header[:7], header[7:]+"NOOP\x00")
			c.line(t, greeting)
			c.str(t, version)
			c.send(t, "OBAI\x00")
			c.end(t)
			line := d.Line(t, "session ended")
			equal(t, "client that the log names", cmtptest.Field(line, "client"), client.String())
		})
	}
	t.Run("SMTP", func(t *testing.T) {
		c := dialFrom(t, "127.0.0.2", d.Shared[0])
		c.send(t, v1+"NOOP\r\nQUIT\r\n")
		c.line(t, greeting)
		c.line(t, "250 ")
		equal(t, "PROXY header behind", b.Next(t).Proxy, proxyV1(client, local))
	})
	t.Run("none where one is required", func(t *testing.T) {
		c := dialFrom(t, "127.0.0.2", d.Shared[0])
		c.send(t, "NOOP\x00\r\n")
		if rest, err := c.in.ReadString('\n'); rest != "" || !gone(err) {
			t.Errorf("answered %q, %v", rest, err)
		}
		d.Line(t, "connections were refused", "proxy_header=1", c.LocalAddr().String())
	})
	t.Run("from elsewhere", func(t *testing.T) {
		c := greeted(t, d.Shared[0])
		c.send(t, v1+"NOOP\x00")
		c.line(t, neither)
		c.end(t)
		if strings.Contains(d.Log(), "client="+c.LocalAddr().String()+" protocol=cmtp") {
			t.Error("it became a CMTP session")
		}
	})
}
