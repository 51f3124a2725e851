package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/netbuf"
)

var (
	// ErrWouldRelay: the backend takes mail for elsewhere from a stranger
	// who comes through us.
	ErrWouldRelay = errors.New("relay: the mail server would relay for strangers")
	// ErrUndecided: the backend could not be asked, or gave no final answer.
	ErrUndecided = errors.New("relay: whether the mail server would relay for strangers is unknown")
	// ErrDeferred comes with ErrUndecided when the backend was asked and did not
	// take the stranger's mail, but did not refuse it for good either: 4xx, as
	// Postfix' defer_unauth_destination answers, or 530, encryption first. So it
	// does when one stranger was refused for good and the other not even heard, as
	// by a Postfix that is told to know no IPv6.
	ErrDeferred = errors.New("it puts the stranger off")
)

// strangers are addresses that nobody has (RFC 5737, RFC 3849), each with one
// that it is said to have connected to.
var strangers = []struct{ client, local netip.AddrPort }{
	{netip.MustParseAddrPort("192.0.2.1:1025"), netip.MustParseAddrPort("192.0.2.25:25")},
	{netip.MustParseAddrPort("[2001:db8::1]:1025"), netip.MustParseAddrPort("[2001:db8::25]:25")},
}

// The probe's recipient is in a domain that is nobody's (RFC 2606). Its sender is
// the empty one, which no server refuses for its domain.
const (
	probeMail = "MAIL FROM:<>"
	probeRcpt = "RCPT TO:<relay-check@example.net>"
)

// probeTimeout bounds the dialogue after the greeting.
const probeTimeout = 30 * time.Second

// CheckRelay plays a stranger to the backend: it comes through us, as cfg.Proxy
// tells the backend, and asks to send mail elsewhere. No message is sent. It
// returns nil when that is refused for good (5xx), ErrWouldRelay when it is
// accepted, and ErrUndecided when the backend is away, answers with 4xx, or
// demands encryption first. With config.ProxyNone every client looks to the backend like
// this host, so that is what it asks as. A backend that turns the stranger away for
// another reason, before it asks who is relaying, passes unrecognised: for a
// client without a name in DNS, a recipient's domain without mail, an empty sender.
func CheckRelay(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	who := strangers
	if cfg.Proxy == config.ProxyNone {
		who = who[:1]
	}
	var undecided error
	refused := false
	for _, s := range who {
		header, err := proxyHeader(cfg.Proxy, s.client, s.local)
		if err != nil {
			return err
		}
		as := s.client.Addr().String()
		if header == nil {
			as = "this host"
		}
		switch err := cfg.probe(ctx, header); {
		case errors.Is(err, ErrWouldRelay):
			return fmt.Errorf("%w (asked as %s)", err, as)
		case err != nil:
			undecided = fmt.Errorf("%w (asked as %s): %w", ErrUndecided, as, err)
		default:
			refused = true
		}
	}
	if refused && undecided != nil && !errors.Is(undecided, ErrDeferred) {
		return fmt.Errorf("%w: %w", ErrDeferred, undecided)
	}
	return undecided
}

// probe asks once.
func (c Config) probe(ctx context.Context, header []byte) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in := netbuf.NewReader(conn)
	defer in.Release()
	var refusal *refusedError
	if err := greet(conn, in, header); errors.As(err, &refusal) && refusal.code >= 500 {
		return nil // strangers do not even get in
	} else if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(probeTimeout))
	defer io.WriteString(conn, "RSET\r\nQUIT\r\n")
	code, err := say(conn, in, "EHLO "+c.Hostname)
	if err == nil && header != nil && (code == 500 || code == 502) { // as in unknownCommand: who expects it never says so
		return errUnheard
	}
	if err != nil || code != 250 {
		return answered(code, err)
	}
	for _, line := range []string{probeMail, probeRcpt} {
		code, err := say(conn, in, line)
		switch {
		case err == nil && (code/100 == 4 || code == 530): // 530: RFC 3207, RFC 4954
			return fmt.Errorf("%w: %s was answered %d", ErrDeferred, line, code)
		case err != nil, code < 200, code/100 == 3:
			return answered(code, err)
		case code >= 500:
			return nil
		}
	}
	return ErrWouldRelay
}

// say sends a command and returns the code of the reply.
func say(conn net.Conn, in *netbuf.Reader, line string) (code int, err error) {
	if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
		return 0, err
	}
	n, code, err := awaitReply(in)
	in.Discard(n)
	return code, err
}

func answered(code int, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("the answer was %d", code)
}
