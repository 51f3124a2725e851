package relay_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/relay"
)

// answers plays a mail server: for each session the PROXY header if there is
// one, then a reply for each command, by its verb.
func (b *backend) answers(proxied bool, reply func(client, verb string) string) (heard func() []string) {
	var mu sync.Mutex
	var lines []string
	go func() {
		for {
			c, err := b.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			client := ""
			if proxied {
				header, _ := r.ReadString('\n')
				client = strings.Fields(header + " ? ? ?")[2]
			}
			io.WriteString(c, reply(client, "")+"\r\n")
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				mu.Lock()
				lines = append(lines, client+" "+strings.TrimSpace(line))
				mu.Unlock()
				io.WriteString(c, reply(client, strings.Fields(line + " ?")[0])+"\r\n")
			}
			c.Close()
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return lines
	}
}

func TestCheckRelay(t *testing.T) {
	// script gives the replies that differ from a server's that relays.
	script := func(m map[string]string) func(string, string) string {
		return func(client, verb string) string {
			for _, key := range []string{client + " " + verb, verb} {
				if r, ok := m[key]; ok {
					return r
				}
			}
			if verb == "" {
				return "220 mail.example"
			}
			return "250 ok"
		}
	}
	const v6 = "2001:db8::1 "
	for _, tt := range []struct {
		name  string
		proxy config.ProxyProtocol
		reply map[string]string
		want  error // ErrDeferred is an ErrUndecided too; where that is wanted, it must not be one
	}{
		{"relays", "v1", nil, relay.ErrWouldRelay},
		{"relays for this host", "none", nil, relay.ErrWouldRelay},
		{"refuses", "v1", map[string]string{"RCPT": "554 5.7.1 relay access denied"}, nil},
		{"refuses this host", "none", map[string]string{"RCPT": "550-no\r\n550 no"}, nil},
		{"relays for IPv6 only", "v1", map[string]string{"RCPT": "554 no", v6 + "RCPT": "251 will forward"}, relay.ErrWouldRelay},
		{"unsure for IPv4, relays for IPv6", "v1", map[string]string{"RCPT": "450 later", v6 + "RCPT": "250 ok"}, relay.ErrWouldRelay},
		{"unsure for IPv6", "v1", map[string]string{"RCPT": "554 no", v6 + "RCPT": "450 later"}, relay.ErrDeferred},
		{"refuses the sender", "v1", map[string]string{"MAIL": "550 no"}, nil},
		{"refuses strangers", "v1", map[string]string{"": "554 no"}, nil},
		{"greylists", "v1", map[string]string{"RCPT": "450 4.2.0 later"}, relay.ErrDeferred},
		{"knows no IPv6", "v1", map[string]string{"RCPT": "554 no", v6: "421 later"}, relay.ErrDeferred},
		{"is busy", "v1", map[string]string{"": "421 later"}, relay.ErrUndecided},
		{"demands encryption", "v1", map[string]string{"MAIL": "530 5.7.0 Must issue a STARTTLS command first"}, relay.ErrDeferred},
		{"knows no EHLO", "v1", map[string]string{"EHLO": "502 what"}, relay.ErrUndecided},
		{"is no mail server", "v1", map[string]string{"": "SSH-2.0"}, relay.ErrUndecided},
		{"talks nonsense", "v1", map[string]string{"RCPT": "yes"}, relay.ErrUndecided},
		{"continues", "v1", map[string]string{"RCPT": "354 go on"}, relay.ErrUndecided},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend(t)
			heard := b.answers(tt.proxy != "none", script(tt.reply))
			err := relay.CheckRelay(context.Background(), relay.Config{Hostname: "me.example", Backend: b.Addr().String(), Proxy: tt.proxy})
			if !errors.Is(err, tt.want) || tt.want == relay.ErrUndecided && errors.Is(err, relay.ErrDeferred) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if tt.want == relay.ErrDeferred && !errors.Is(err, relay.ErrUndecided) {
				t.Errorf("%v, want ErrUndecided with it", err)
			}
			for _, line := range heard() {
				if strings.Contains(line, "DATA") || strings.Contains(line, "RCPT") && !strings.Contains(line, "@example.net>") {
					t.Errorf("it said %q", line)
				}
			}
		})
	}
}

// A backend that takes the header for a command is told from one that fails otherwise.
func TestCheckRelay_Unheard(t *testing.T) {
	const hint = "does not expect a PROXY header"
	for _, tt := range []struct {
		proxy config.ProxyProtocol
		ehlo  string
		hint  bool
	}{
		{config.ProxyV1, "500 5.5.2 Error: bad syntax", true},
		{config.ProxyV1, "502 5.5.1 unrecognized command", true},
		{config.ProxyV1, "550 5.7.1 no", false},
		{config.ProxyNone, "502 5.5.1 unrecognized command", false},
	} {
		b := newBackend(t)
		b.answers(tt.proxy != config.ProxyNone, func(_, verb string) string {
			if verb == "" {
				return "220 mail.example"
			}
			return tt.ehlo
		})
		err := relay.CheckRelay(t.Context(), relay.Config{Hostname: "me.example", Backend: b.Addr().String(), Proxy: tt.proxy})
		if !errors.Is(err, relay.ErrUndecided) || strings.Contains(err.Error(), hint) != tt.hint {
			t.Errorf("%s to %q: %v", tt.proxy, tt.ehlo, err)
		}
	}
}

func TestCheckRelay_Unreachable(t *testing.T) {
	b := newBackend(t)
	cfg := relay.Config{Hostname: "me.example", Backend: b.Addr().String(), Proxy: config.ProxyV2, ConnectTimeout: 50 * time.Millisecond}
	if err := relay.CheckRelay(context.Background(), cfg); !errors.Is(err, relay.ErrUndecided) {
		t.Errorf("a silent backend: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cfg.ConnectTimeout = time.Minute
	if err := relay.CheckRelay(ctx, cfg); !errors.Is(err, relay.ErrUndecided) {
		t.Errorf("a cancelled check: %v", err)
	}
	b.Close()
	if err := relay.CheckRelay(context.Background(), cfg); !errors.Is(err, relay.ErrUndecided) || !errors.As(err, new(*net.OpError)) {
		t.Errorf("a backend that is down: %v", err)
	}
}

// TestRelay_Serve_Refused: a mail server that is not there refused the connection, whatever was done first with it.
func TestRelay_Serve_Refused(t *testing.T) {
	for _, proxy := range []config.ProxyProtocol{config.ProxyNone, config.ProxyV2} {
		bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
			var log strings.Builder
			cfg.Proxy, cfg.Log = proxy, slog.New(slog.NewTextHandler(&log, nil))
			b.Close()
			s := serve(context.Background(), t, relay.New(cfg), wrap, "EHLO client.example\r\n")
			if got := readAll(t, s); got != unavailable {
				t.Errorf("the client heard %q", got)
			}
			s.Close()
			<-s.done
			if !strings.Contains(log.String(), "connect: connection refused") {
				t.Errorf("the log has\n%s", &log)
			}
		})
	}
}
