package relay_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"os/exec"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/relay"
)

// stranger is who every client is said to be.
var stranger = netip.MustParseAddrPort("203.0.113.9:2000")

// fronted puts front and relay before Postfix and returns the port's address.
func fronted(t *testing.T, p *cmtptest.Postfix, proxy config.ProxyProtocol) string {
	t.Helper()
	r := relay.New(backendOf(p, proxy))
	s := front.New(front.Config{
		Hostname: "mail.example",
		Limits:   front.Limits{MaxPerAddress: 100},
		IsCMTP:   func(string) bool { return false },
	}, handler{r}, nil)
	l, err := front.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l, false) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func backendOf(p *cmtptest.Postfix, proxy config.ProxyProtocol) relay.Config {
	cfg := relay.Config{Hostname: "mail.example", Backend: p.Proxied, Proxy: proxy}
	if proxy == config.ProxyNone {
		cfg.Backend = p.Plain
	}
	return cfg
}

// handler makes every client a stranger, which on loopback none is.
type handler struct{ *relay.Relay }

func (h handler) Serve(ctx context.Context, c *netbuf.Conn) {
	c.Client = stranger
	h.Relay.Serve(ctx, c)
}

// everyProxy runs f for each way in which Postfix learns the client's address.
func everyProxy(t *testing.T, p *cmtptest.Postfix, f func(t *testing.T, addr string)) {
	for _, proxy := range []config.ProxyProtocol{config.ProxyNone, config.ProxyV1, config.ProxyV2} {
		t.Run(string(proxy), func(t *testing.T) { f(t, fronted(t, p, proxy)) })
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// TestPostfix_STARTTLS: swaks sends mail through an encrypted session, and
// Postfix writes down whom it came from.
func TestPostfix_STARTTLS(t *testing.T) {
	cmtptest.Need(t, "swaks")
	p := cmtptest.StartPostfix(t)
	sent := 0
	everyProxy(t, p, func(t *testing.T, addr string) {
		host, port, _ := strings.Cut(addr, ":")
		out := run(t, "swaks", "--server", host, "--port", port, "--tls", "--helo", "client.example",
			"--from", "a@client.example", "--to", "b@mail.example", "--body", "sealed on the way "+t.Name())
		if !strings.Contains(out, "TLS started") {
			t.Errorf("no TLS in\n%s", out)
		}
		sent++
		mail := p.Mail(t, sent)
		from := "[" + stranger.Addr().String() + "]"
		if strings.HasSuffix(t.Name(), "none") {
			from = "[127.0.0.1]"
		}
		found := false
		for _, m := range mail {
			found = found || strings.Contains(m, "sealed on the way "+t.Name()) && strings.Contains(m, from)
		}
		if !found {
			t.Errorf("nothing from %s in %q", from, mail)
		}
	})
}

// TestPostfix_Binary: 8-bit text, in chunks, all of it in one segment, and mail
// as smtp-source sends it, in old and new sessions.
func TestPostfix_Binary(t *testing.T) {
	cmtptest.Need(t, "smtp-source")
	p := cmtptest.StartPostfix(t)
	sent := 0
	everyProxy(t, p, func(t *testing.T, addr string) {
		text := "Subject: grüße\r\n\r\n8 bits: \xe4\xf6\xfc, a lone dot:\r\n.\r\nend of " + t.Name() + "\r\n"
		c, err := textproto.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		reply := func(want int) {
			t.Helper()
			if _, msg, err := c.ReadResponse(want); err != nil {
				t.Fatalf("%v (%s)", err, msg)
			}
		}
		reply(220)
		fmt.Fprintf(c.W, "EHLO client.example\r\n")
		c.W.Flush()
		reply(250)
		fmt.Fprintf(c.W, "MAIL FROM:<a@client.example> BODY=8BITMIME\r\nRCPT TO:<b@mail.example>\r\nBDAT 10\r\n%sBDAT %d LAST\r\n%sQUIT\r\n",
			text[:10], len(text)-10, text[10:])
		c.W.Flush()
		for _, want := range []int{250, 250, 250, 250, 221} {
			reply(want)
		}
		sent++
		want := strings.ReplaceAll(text, "\r\n", "\n")
		found := false
		for _, m := range p.Mail(t, sent) {
			found = found || strings.HasSuffix(m, want[strings.Index(want, "\n\n"):])
		}
		if !found {
			t.Error("no delivered message ends as the one that was sent")
		}
		run(t, "smtp-source", "-s", "5", "-m", "20", "-l", "4096", "-t", "b@mail.example", addr)
		run(t, "smtp-source", "-d", "-s", "5", "-m", "20", "-l", "70000", "-t", "b@mail.example", addr)
		sent += 40
		p.Mail(t, sent)
	})
}

// TestPostfix_Stranger: Postfix refuses to relay for a stranger when the PROXY
// protocol tells it who that is.
func TestPostfix_Stranger(t *testing.T) {
	p := cmtptest.StartPostfix(t)
	for _, proxy := range []config.ProxyProtocol{config.ProxyV1, config.ProxyV2} {
		if code, msg := askToRelay(t, fronted(t, p, proxy)); code != 554 || !strings.Contains(msg, "Relay access denied") {
			t.Errorf("%s: %d %s", proxy, code, msg)
		}
		if err := relay.CheckRelay(context.Background(), backendOf(p, proxy)); err != nil {
			t.Errorf("%s: CheckRelay: %v", proxy, err)
		}
	}
}

// TestPostfix_StrangerWithoutProxy shows why there is no default: without the
// PROXY protocol Postfix takes the stranger for its own host, and relays.
func TestPostfix_StrangerWithoutProxy(t *testing.T) {
	p := cmtptest.StartPostfix(t)
	if code, msg := askToRelay(t, fronted(t, p, config.ProxyNone)); code != 250 {
		t.Errorf("%d %s", code, msg)
	}
	if err := relay.CheckRelay(context.Background(), backendOf(p, config.ProxyNone)); !errors.Is(err, relay.ErrWouldRelay) {
		t.Errorf("CheckRelay: %v", err)
	}
}

// askToRelay asks to send mail elsewhere and returns the answer.
func askToRelay(t *testing.T, addr string) (code int, msg string) {
	t.Helper()
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, line := range []string{"", "EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<victim@example.net>"} {
		if line != "" {
			c.PrintfLine("%s", line)
		}
		if code, msg, err = c.ReadResponse(0); err != nil {
			t.Fatal(err)
		}
	}
	return code, msg
}
