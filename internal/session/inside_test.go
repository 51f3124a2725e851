package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// cheap is what no test waits for.
var cheap = xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1}

// dialFrom connects as a load balancer does that has a client of that address; the
// server must believe loopback.
func (s *server) dialFrom(client string) *peer {
	s.tb.Helper()
	c := s.dial(false)
	c.send("PROXY TCP4 " + client + " 127.0.0.1 1000 25\r\n")
	c.expect(greeting)
	return c
}

// An insider is a client inside the channel.
type insider struct {
	*channel.Conn
	tb    testing.TB
	below *peer
	key   crypt.PublicKey // the server's
}

// inside connects and goes into the channel.
func (s *server) inside() *insider {
	s.tb.Helper()
	c := s.dial(true)
	c.send("STARTTLS\x00")
	return c.handshake()
}

// insideFrom is inside for dialFrom.
func (s *server) insideFrom(client string) *insider {
	s.tb.Helper()
	c := s.dialFrom(client)
	c.send("STARTTLS\x00")
	return c.handshake()
}

// handshake reads what answers STARTTLS and starts TLS.
func (p *peer) handshake() *insider {
	p.tb.Helper()
	p.expect(success(p.tb))
	return p.startTLS()
}

func (p *peer) startTLS() *insider {
	p.tb.Helper()
	c, err := channel.Client(context.Background(), p.TCPConn, 0, patience)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.SetDeadline(time.Now().Add(patience))
	key := vectorKey(p.tb, "server").Public()
	if c.ServerKey() != key {
		p.tb.Fatalf("the certificate has the key %v", c.ServerKey())
	}
	return &insider{c, p.tb, p, key}
}

func (c *insider) send(parts ...string) {
	c.tb.Helper()
	if _, err := io.WriteString(c, strings.Join(parts, "")); err != nil {
		c.tb.Fatalf("sending: %v", err)
	}
}

// reply reads one reply. Of a failure the payload is the reason, which must be fit to
// be shown to a person.
func (c *insider) reply() (cmtp.Status, []byte) {
	c.tb.Helper()
	status, payload, err := cmtp.ReadReply(c, 1<<20)
	var failed *cmtp.StatusError
	if errors.As(err, &failed) {
		if bad := unfit(failed.Reason); bad != "" {
			c.tb.Errorf("status %d: the reason %q %s", failed.Status, failed.Reason, bad)
		}
		return failed.Status, []byte(failed.Reason)
	}
	if err != nil {
		c.tb.Fatalf("reading a reply: %v", err)
	}
	return status, payload
}

// unfit says why a reason is none for a person.
func unfit(reason string) string {
	switch {
	case len(reason) < 15:
		return "says too little"
	case !unicode.IsUpper([]rune(reason)[0]) || !strings.HasSuffix(reason, "."):
		return "is no sentence"
	case strings.ContainsAny(reason, "%{}<>!"):
		return "has what only a program reads"
	case strings.ContainsFunc(reason, func(r rune) bool { return r > unicode.MaxASCII || r < ' ' }):
		return "has more than English needs"
	}
	return ""
}

// want sends a command and expects a status. It returns the payload or the reason.
func (c *insider) want(status cmtp.Status, command string) []byte {
	c.tb.Helper()
	c.send(command)
	return c.expect(status, command)
}

func (c *insider) expect(status cmtp.Status, what string) []byte {
	c.tb.Helper()
	got, payload := c.reply()
	if got != status {
		c.tb.Errorf("%.40q is answered with %d %.80q, want %d", what, got, payload, status)
	}
	return payload
}

// expectEnd reads close_notify, and nothing before it.
func (c *insider) expectEnd() {
	c.tb.Helper()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		c.tb.Errorf("read %.80q, %v; want the end, announced", b, err)
	}
}

// command returns a command's bytes. The address is its first two parameters.
func command(v cmtp.Verb, at, third string, fixed ...byte) string {
	name, domain, _ := strings.Cut(at, "@")
	c := cmtp.Command{Verb: v, Params: [3][]byte{[]byte(name), []byte(domain), []byte(third)}, Fixed: fixed}
	return string(c.Append(nil))
}

// form returns a form behind its length.
func form(b []byte) string { return string(cmtp.AppendForm(nil, b)) }

// proof returns what a user proves to its own server in this channel.
func (c *insider) proof(addr string, key *crypt.PrivateKey) crypt.Proof {
	at := mustAddress(addr)
	return crypt.Proof{Role: crypt.UserRole, Name: at, Server: at.Domain, Key: key.Public(), ServerKey: c.key, Binding: c.Binding()}
}

// authBytes returns AUTH with a signature of p by key.
func authBytes(p crypt.Proof, key *crypt.PrivateKey) string {
	sig := p.Sign(key)
	name := p.Name.Account.String() + "@" + p.Name.Domain.String()
	return command(cmtp.Auth, name, p.Server.String(), append(p.Key[:], sig[:]...)...)
}

// auth proves to be a user.
func (c *insider) auth(addr string, key *crypt.PrivateKey) []byte {
	c.tb.Helper()
	return c.want(cmtp.StatusDone, authBytes(c.proof(addr, key), key))
}

// recoverBytes returns RECOVER by a key.
func (c *insider) recoverBytes(addr string, key *crypt.PrivateKey) string {
	p := c.proof(addr, key)
	p.Role = crypt.RecoveryRole
	sig := p.Sign(key)
	return command(cmtp.Recover, addr, "", append(p.Key[:], sig[:]...)...)
}

// A modern is a user with a xzibit of version 3 and a recovery copy.
type modern struct {
	addr, password string
	key, recovery  *crypt.PrivateKey
	ring           *xzibit.Keyring
}

func newModern(tb testing.TB, addr string) *modern {
	tb.Helper()
	m := &modern{addr: addr, password: "correct horse", key: newKey(tb), recovery: newKey(tb)}
	m.ring = &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: m.key}}}
	m.ring.SetRecovery(m.recovery)
	return m
}

func newKey(tb testing.TB) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.GenerateKey()
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// blind returns what UNLOCK and ENROLL send, and what makes of the answer the secret
// that a password opens a xzibit with.
func blind(tb testing.TB, password string) (element []byte, finish func(answer []byte) []byte) {
	tb.Helper()
	input, err := xzibit.UnlockInput([]byte(password))
	if err != nil {
		tb.Fatal(err)
	}
	request, blinded, err := oprf.Blind(input)
	if err != nil {
		tb.Fatal(err)
	}
	return blinded[:], func(answer []byte) []byte {
		if len(answer) != oprf.ElementSize {
			tb.Fatalf("an element of %d bytes", len(answer))
		}
		output, err := request.Finalize(oprf.Element(answer))
		if err != nil {
			tb.Fatal(err)
		}
		return output
	}
}

// seal returns the user's keyring as xzibit and recovery copy.
func (m *modern) seal(tb testing.TB, output []byte) (x, recovery []byte) {
	tb.Helper()
	x, err := xzibit.SealUnlocked(m.ring, m.addr, []byte(m.password), output, cheap)
	if err != nil {
		tb.Fatal(err)
	}
	if recovery, err = xzibit.SealCopy(m.ring, m.addr); err != nil {
		tb.Fatal(err)
	}
	return x, recovery
}

// opens fetches the user's xzibit, and fails the test unless the password opens it.
func (m *modern) opens(c *insider) {
	c.tb.Helper()
	x := c.want(cmtp.StatusDone, login(m.addr))
	e, finish := blind(c.tb, m.password)
	output := finish(c.want(cmtp.StatusDone, command(cmtp.Unlock, m.addr, "", e...)))
	ring, err := xzibit.OpenUnlocked(x, m.addr, []byte(m.password), output)
	if err != nil {
		c.tb.Fatal(err)
	}
	if ring.Keys[0].Key.Public() != m.key.Public() {
		c.tb.Error("the keyring has another key")
	}
}

// secret returns what of an invitation's code goes over the wire.
func secret(code string) string { return strings.ReplaceAll(code, "-", "")[:12] }

// invite lets an address register and returns the secret.
func (s *server) invite(addr string, reset bool) string {
	s.tb.Helper()
	made, err := s.accounts.Invite(mustAddress(addr), reset, time.Hour)
	if err != nil {
		s.tb.Fatal(err)
	}
	return secret(made.Code)
}

// enroll shows a secret and returns the secret that the password opens the xzibit with.
func (m *modern) enroll(c *insider, secret string) []byte {
	c.tb.Helper()
	e, finish := blind(c.tb, m.password)
	return finish(c.want(cmtp.StatusDone, command(cmtp.Enroll, m.addr, secret, e...)))
}

// registration returns the form by which the user registers, after before, where the
// account is there already.
func (m *modern) registration(tb testing.TB, output []byte, before *crypt.KeyStatement) *cmtp.RegisterForm {
	tb.Helper()
	s := crypt.KeyStatement{Name: mustAddress(m.addr), Key: m.key.Public(), NotBefore: crypt.UnixTimeOf(time.Now())}
	if before != nil {
		s = before.Follow(m.key.Public(), s.NotBefore)
		s.Reset = true
	}
	x, recovery := m.seal(tb, output)
	return &cmtp.RegisterForm{Statement: s, Possession: s.Possess(m.key), Xzibit: x, Copy: recovery}
}

// register makes the user, by an invitation of the operator.
func (m *modern) register(s *server) {
	s.tb.Helper()
	code := s.invite(m.addr, false)
	c := s.inside()
	f := m.registration(s.tb, m.enroll(c, code), nil)
	verifyHistory(s.tb, c.want(cmtp.StatusDone, command(cmtp.Register, m.addr, code)+form(f.Append(nil))), m.addr, m.key.Public())
	c.end()
}

// account returns the user's account as the server has it.
func (s *server) account(addr string) *account.Account {
	s.tb.Helper()
	a, err := s.accounts.Get(mustAddress(addr))
	if err != nil {
		s.tb.Fatal(err)
	}
	return a
}

// verifyHistory returns the history in a payload, which must be one that the server may
// give for a name, and end in a key.
func verifyHistory(tb testing.TB, payload []byte, asked string, key crypt.PublicKey) *crypt.History {
	tb.Helper()
	h, err := crypt.ParseHistory(payload)
	if err != nil {
		tb.Fatalf("the history of %s: %v", asked, err)
	}
	if err := h.Verify(name(asked), vectorKey(tb, "server").Public()); err != nil {
		tb.Errorf("the history of %s: %v", asked, err)
	}
	if h.Current().Key != key {
		tb.Errorf("the key of %s is %v, want %v", asked, h.Current().Key, key)
	}
	return h
}

// name is mustAddress for the empty account too.
func name(addr string) address.Address {
	if domain, ok := strings.CutPrefix(addr, "@"); ok {
		d, err := address.ParseDomain(domain)
		if err != nil {
			panic(err)
		}
		return address.Address{Domain: d}
	}
	return mustAddress(addr)
}

// end ends the session as its user does.
func (c *insider) end() {
	c.tb.Helper()
	c.send("OBAI\x00")
	c.expectEnd()
	c.Close()
}

// ended waits for the line with which a session's end is logged, the nth.
func (s *server) ended(n int, words ...string) string {
	s.tb.Helper()
	return s.logged(n, append(words, `"msg":"session ended"`)...)
}

// logged waits for the nth line of the log with all these words.
func (s *server) logged(n int, words ...string) string {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	line, err := s.log.await(ctx, n, words)
	if err != nil {
		s.tb.Fatalf("%v\n%s", err, s.log)
	}
	return line
}

// await waits for the nth line with all these words.
func (b *syncBuffer) await(ctx context.Context, n int, words []string) (string, error) {
	for {
		b.mu.Lock()
		if b.more == nil {
			b.more = make(chan struct{})
		}
		more, text := b.more, b.buf.String()
		b.mu.Unlock()
		found := 0
		for line := range strings.Lines(text) {
			if holds(line, words) {
				if found++; found == n {
					return line, nil
				}
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", fmt.Errorf("the log has %d lines with %q, want %d", found, words, n)
		}
	}
}

func holds(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}
