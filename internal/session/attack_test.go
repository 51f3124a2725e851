package session_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/session"
)

// privateVersion offers CMTP 1.
const privateVersion = "CMTP/0.01 CMTP/1 cmtpd/0.2.0"

func privately(cfg *session.Config) { cfg.Version = privateVersion }

// errOtherKey: the key that the server has proved is not the one that is known of it.
var errOtherKey = errors.New("the server has another key")

// A victim is a client that knows the server's key and has spoken CMTP 1 with it.
type victim struct {
	addr    string
	timeout time.Duration
	ready   func() // called before its last question
}

// visit asks for keys, proves to be alice and sends two messages. It returns the first
// error.
func (v victim) visit(t *testing.T) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := client.Dialer{Timeout: v.timeout, GreetingWait: v.timeout}
	conn, c, err := d.Open(ctx, v.addr, true)
	if err != nil {
		return err
	}
	if conn != nil {
		t.Fatal("a client that has spoken CMTP 1 goes on without")
	}
	defer c.Close()
	if c.ServerKey() != vectorKey(t, "server").Public() {
		// Before it leaves it asks whether the known key has named this one.
		h, err := c.History(name("@cref.example"))
		if err == nil && h.Follows(vectorKey(t, "server").Public()) {
			t.Error("the known key has named a stranger's")
		}
		return errors.Join(errOtherKey, err)
	}
	c.Accept()
	var names []address.Address
	for range 16 { // answers of more than a record
		names = append(names, mustAddress("sales@cref.example"))
	}
	if _, err := c.Histories(names...); err != nil {
		return err
	}
	if _, err := c.Auth(mustAddress("alice@cref.example"), vectorKey(t, "alice")); err != nil {
		return err
	}
	for i := range 2 {
		h := to("eve@other.example")
		h.SourceAccount, h.SourceDomain = "alice", "cref.example"
		sent, err := c.Send(h, nil, bytesPart(sealed(fmt.Sprint(v.addr, i), 8000)), nil)
		if err != nil {
			return err
		}
		if !sent.Queued {
			t.Error("a message for another server does not wait")
		}
	}
	if v.ready != nil {
		v.ready()
	}
	_, err = c.History(mustAddress("bob@cref.example"))
	return err
}

// Whatever somebody between does to agreeing on the channel, the client has no channel,
// says by name what was done, and never goes on without.
func TestAttack_Agreement(t *testing.T) {
	s := serve(t, setup{edit: privately})
	filters := func(toServer, toClient func() cmtptest.Filter) func(c, s *net.TCPConn) {
		return func(c, s *net.TCPConn) { cmtptest.Relay(c, s, toServer(), toClient()) }
	}
	pass := func() cmtptest.Filter { return cmtptest.Pass }
	replace := func(before, after string) func() cmtptest.Filter {
		return func() cmtptest.Filter { return cmtptest.Replace(before, after) }
	}
	own := newKey(t)
	ownWord := func(word string) string {
		return string(cmtp.AppendWord(nil, word, own.Sign([]byte(word))))
	}
	for name, tt := range map[string]struct {
		attack func(c, s *net.TCPConn)
		want   error  // of the client
		log    string // a line of the server, if it can know
	}{
		"nobody":                        {filters(pass, pass), nil, `"protocol":"cmtp/1","why":"obai"`},
		"greeting stripped":             {filters(pass, replace(" CMTP", "")), client.ErrGreetingStripped, ""},
		"version stripped":              {filters(pass, replace(" CMTP/1", "")), client.ErrVersionStripped, ""},
		"version altered":               {filters(pass, replace("CMTP/1 ", "CMTP/2 ")), client.ErrVersionStripped, ""},
		"OHAI refused":                  {filters(pass, replace("OHAI"+privateVersion+"\x00", ownWord(cmtp.Failure))), client.ErrVersionStripped, ""},
		"STARTTLS refused":              {filters(pass, replace(success(t), ownWord(cmtp.Failure))), client.ErrStartTLSStripped, ""},
		"refused as SMTP does":          {filters(pass, replace(success(t), "500 5.5.1 No such command\r\n"+strings.Repeat("x", 100))), client.ErrStartTLSStripped, ""},
		"STARTTLS swallowed":            {filters(replace("STARTTLS\x00", ""), pass), client.ErrStartTLSUnanswered, ""},
		"STARTTLS exchanged":            {filters(replace("STARTTLS\x00", "NOOP\x00"), pass), client.ErrStartTLSStripped, ""},
		"the answer swallowed":          {filters(pass, replace(success(t), "")), client.ErrStartTLSUnanswered, ""},
		"bytes behind STARTTLS":         {filters(replace("STARTTLS\x00", "STARTTLS\x00NOOP\x00"), pass), client.ErrStartTLSUnanswered, channel.ErrInjected.Error()},
		"a NUL behind STARTTLS":         {filters(replace("STARTTLS\x00", "STARTTLS\x00\x00"), pass), client.ErrStartTLSUnanswered, channel.ErrInjected.Error()},
		"bytes behind the answer":       {filters(pass, replace(success(t), success(t)+"\x00\xc8")), channel.ErrInjected, ""},
		"a reply behind the answer":     {filters(pass, replace(success(t), success(t)+success(t))), channel.ErrInjected, ""},
		"the signature of another":      {filters(pass, replace(success(t), ownWord(cmtp.Success))), client.ErrSwapped, ""},
		"another certificate":           {ending(t, own, "", nil), client.ErrSwapped, ""},
		"another certificate and word":  {ending(t, own, ownWord(cmtp.Success), nil), errOtherKey, ""},
		"a copy of the certificate":     {ending(t, own, "", showCopy), channel.ErrUnproved, ""},
		"a copy of certificate, signed": {ending(t, own, ownWord(cmtp.Success), showCopy), channel.ErrUnproved, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := victim{addr: cmtptest.Between(t, s.addr, tt.attack), timeout: patience}
			if tt.want == client.ErrStartTLSUnanswered && tt.log == "" {
				v.timeout = time.Second // is waited out
			}
			lines := strings.Count(s.log.String(), tt.log)
			if err := v.visit(t); !errors.Is(err, tt.want) {
				t.Errorf("error %v\nwant %v", err, tt.want)
			} else if tt.want != nil {
				t.Log(err)
			}
			if tt.log != "" {
				s.ended(lines+1, tt.log)
			}
		})
	}
}

// Wherever the clear part is cut, there is no channel and no going on without.
func TestAttack_CutInTheClear(t *testing.T) {
	s := serve(t, setup{edit: privately})
	clear := map[bool]int{true: len("OHAI\x00STARTTLS\x00"), false: len(greeting) + len("OHAI"+privateVersion+"\x00") + wordReply}
	for up, length := range clear {
		for n := 0; n < length; n += 3 {
			cut := func() cmtptest.Filter {
				left := n
				return func(p []byte) ([]byte, error) {
					if len(p) > left {
						return p[:left], errCut
					}
					left -= len(p)
					return p, nil
				}
			}
			filters := map[bool]cmtptest.Filter{up: cut(), !up: cmtptest.Pass}
			addr := cmtptest.Between(t, s.addr, func(c, s *net.TCPConn) { cmtptest.Relay(c, s, filters[true], filters[false]) })
			if err := (victim{addr: addr, timeout: patience}).visit(t); !client.Temporary(err) {
				t.Errorf("cut after %d bytes (to the server: %v): error %v, want one of a lost connection", n, up, err)
			}
		}
	}
}

// ending is somebody who ends the channel of either side: the client's with a key of
// their own, and with word for the server's answer to STARTTLS, or that answer itself.
func ending(t *testing.T, key *crypt.PrivateKey, word string, show func(*tls.Conn, net.Conn)) func(c, s *net.TCPConn) {
	return func(c, s *net.TCPConn) {
		fromServer := bufio.NewReader(s)
		greeting, _ := fromServer.ReadString('\n')
		io.WriteString(c, greeting)
		command := make([]byte, len("OHAI\x00"))
		io.ReadFull(c, command)
		s.Write(command)
		version, _ := fromServer.ReadString(0)
		io.WriteString(c, version)
		command = make([]byte, len("STARTTLS\x00"))
		io.ReadFull(c, command)
		s.Write(command)
		answer := make([]byte, wordReply)
		io.ReadFull(fromServer, answer)
		if word != "" {
			answer = []byte(word)
		}
		toServer, err := channel.Client(context.Background(), s, 0, patience)
		if err != nil {
			t.Error(err)
			return
		}
		c.Write(answer)
		if show != nil {
			show(toServer.Conn.(*tls.Conn), c)
			return
		}
		channels, err := channel.NewServer(channel.Config{Key: key})
		if err != nil {
			t.Error(err)
			return
		}
		if toClient, err := channels.Handshake(context.Background(), c, 0); err == nil {
			cmtptest.Relay(toClient, toServer, cmtptest.Pass, cmtptest.Pass)
		}
	}
}

// showCopy shows a client the certificate that the server has shown to us.
func showCopy(server *tls.Conn, c net.Conn) {
	_, own, _ := ed25519.GenerateKey(nil)
	shown := server.ConnectionState().PeerCertificates[0]
	t := tls.Server(c, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{channel.Protocol}, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{shown.Raw}, PrivateKey: pretender{own, shown.PublicKey}}},
	})
	t.Handshake()
	io.Copy(io.Discard, c)
}

// A pretender says that it has another key than it signs with.
type pretender struct {
	ed25519.PrivateKey
	public crypto.PublicKey
}

func (p pretender) Public() crypto.PublicKey { return p.public }

// Even to a client that takes any key, a proof is worth nothing to who is shown it: the
// real server is told another key than its own, and another channel.
func TestAttack_ProofPassedOn(t *testing.T) {
	s := serve(t, setup{edit: privately})
	own := newKey(t)
	attack := ending(t, own, string(cmtp.AppendWord(nil, cmtp.Success, own.Sign([]byte(cmtp.Success)))), nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, c, err := (&client.Dialer{Timeout: patience}).Open(ctx, cmtptest.Between(t, s.addr, attack), true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Accept()
	var refused *cmtp.StatusError
	if _, err := c.Auth(mustAddress("alice@cref.example"), vectorKey(t, "alice")); !errors.As(err, &refused) || refused.Status != cmtp.StatusWrongProof {
		t.Errorf("error %v, want 535", err)
	}
	s.logged(1, `"msg":"command failed"`, `"command":"AUTH"`, `"err":"the proof is wrong"`)
	if _, err := c.History(mustAddress("alice@cref.example")); !errors.Is(err, crypt.ErrUnsigned) {
		t.Errorf("error %v, want ErrUnsigned", err)
	}
}

// A server that holds the right key, and gives for a message the receipt of another one,
// is found out.
func TestAttack_ReceiptReplayed(t *testing.T) {
	s := serve(t, setup{edit: privately})
	// AUTH does not pass one that has the real server answer, so the messages are for users
	// of its own.
	for what, alter := range map[string]func(first, reply []byte) []byte{
		"replayed": func(first, _ []byte) []byte { return first },
		"altered":  func(_, reply []byte) []byte { reply[len(reply)-70] ^= 1; return reply },
		"cut": func(_, reply []byte) []byte {
			return append(append([]byte{0, 200, 0, 0, 0, 0, 0, 0, 0}, reply[9]-1), reply[10:len(reply)-1]...)
		},
	} {
		addr := cmtptest.Between(t, s.addr, relayed(t, func() cmtptest.Filter {
			var first []byte
			return func(p []byte) ([]byte, error) {
				switch {
				case !strings.Contains(string(p), "CMTP-1 receipt"):
				case first == nil:
					first = append(first, p...)
				default:
					return alter(first, p), nil
				}
				return p, nil
			}
		}))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, c, err := (&client.Dialer{Timeout: patience}).Open(ctx, addr, true)
		if err != nil {
			t.Fatal(err)
		}
		c.Accept()
		if _, err := c.Send(to("bob@cref.example"), nil, bytesPart(sealed("one"+what, 500)), nil); err != nil {
			t.Error(err)
		}
		if _, err := c.Send(to("bob@cref.example"), nil, bytesPart(sealed("two"+what, 500)), nil); !errors.Is(err, client.ErrReceipt) {
			t.Errorf("%s: error %v, want ErrReceipt", what, err)
		}
		c.Close()
		cancel()
	}
}

// relayed is a server with the right key, which has the real one answer, and alters that.
func relayed(t *testing.T, toClient func() cmtptest.Filter) func(c, s *net.TCPConn) {
	return func(c, s *net.TCPConn) {
		key := vectorKey(t, "server")
		read := func(from io.Reader, n int) { io.CopyN(io.Discard, from, int64(n)) }
		io.WriteString(c, greeting)
		read(c, len("OHAI\x00"))
		io.WriteString(c, "OHAI"+privateVersion+"\x00")
		read(c, len("STARTTLS\x00"))
		io.WriteString(c, success(t))
		channels, err := channel.NewServer(channel.Config{Key: key})
		if err != nil {
			t.Error(err)
			return
		}
		inner, err := channels.Handshake(context.Background(), c, 0)
		if err != nil {
			t.Error(err)
			return
		}
		read(s, len(greeting))
		io.WriteString(s, "STARTTLS\x00")
		read(s, wordReply)
		outer, err := channel.Client(context.Background(), s, 0, patience)
		if err != nil {
			t.Error(err)
			return
		}
		cmtptest.Relay(inner, outer, cmtptest.Pass, toClient())
	}
}

// A seen is one record that went by.
type seen struct {
	up   bool // to the server
	n    int
	kind byte
}

// A passage is every record of one visit, in the order in which they went by.
type passage struct {
	mu   sync.Mutex
	all  []seen
	over bool
}

func (p *passage) see(up bool, n int, record []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.all = append(p.all, seen{up, n, record[0]})
	}
}

// Types of records (RFC 8446 section 5.1).
const (
	changeCipherSpec = 20 // means nothing in TLS 1.3 (appendix D.4)
	applicationData  = 23
)

// errCut ends a direction.
var errCut = errors.New("cut")

// records returns a filter of the records of one direction.
func records(up bool, edit func(n int, record []byte) ([]byte, error)) cmtptest.Filter {
	if up {
		return cmtptest.Records("STARTTLS\x00", 0, edit)
	}
	return cmtptest.Records(cmtp.Success, wordReply-len(cmtp.Success), edit)
}

// A change is what is done to record at of a direction. held is the record before.
type change struct {
	do      func(at, n int, record, held []byte) ([]byte, error)
	follows bool // is noticed by the next record in that direction
}

var changes = map[string]change{
	"a bit of the end":    {do: at(func(r []byte) []byte { r[len(r)-1] ^= 1; return r })},
	"a bit of the middle": {do: at(func(r []byte) []byte { r[5+(len(r)-5)/2] ^= 0x80; return r })},
	"its type":            {do: at(func(r []byte) []byte { r[0] ^= 1; return r })},
	"repeated":            {do: at(func(r []byte) []byte { return append(r, r...) })},
	"text before":         {do: at(func(r []byte) []byte { return append([]byte("OBAI\x00NOOP\x00"), r...) })},
	"an alert before":     {do: at(func(r []byte) []byte { return append([]byte{21, 3, 3, 0, 2, 1, 0}, r...) })},
	"a record before":     {do: at(func(r []byte) []byte { return append(append([]byte{23, 3, 3, 0, 40}, make([]byte, 40)...), r...) })},
	"dropped":             {do: at(func([]byte) []byte { return nil }), follows: true},
	"exchanged with the next": {do: func(at, n int, r, held []byte) ([]byte, error) {
		switch n {
		case at:
			return nil, nil
		case at + 1:
			return append(r, held...), nil
		}
		return r, nil
	}, follows: true},
	"cut before": {do: func(at, n int, r, _ []byte) ([]byte, error) {
		if n == at {
			return nil, errCut
		}
		return r, nil
	}},
	"cut within": {do: func(at, n int, r, _ []byte) ([]byte, error) {
		if n == at {
			return r[:len(r)-3], errCut
		}
		return r, nil
	}},
}

func at(edit func([]byte) []byte) func(at, n int, record, held []byte) ([]byte, error) {
	return func(at, n int, r, _ []byte) ([]byte, error) {
		if n == at {
			return edit(r), nil
		}
		return r, nil
	}
}

// Whatever is done to any record, in either direction, in the handshake and behind it,
// client and server say what it was.
func TestAttack_Records(t *testing.T) {
	s := serve(t, setup{edit: privately})
	var p passage
	watch := func(up bool) cmtptest.Filter {
		return records(up, func(n int, r []byte) ([]byte, error) { p.see(up, n, r); return r, nil })
	}
	whole := cmtptest.Between(t, s.addr, func(c, s *net.TCPConn) { cmtptest.Relay(c, s, watch(true), watch(false)) })
	done := func() { p.mu.Lock(); p.over = true; p.mu.Unlock() }
	if err := (victim{addr: whole, timeout: patience, ready: done}).visit(t); err != nil {
		t.Fatal(err)
	}
	s.ended(1)
	if len(p.all) < 20 {
		t.Fatalf("only %d records went by", len(p.all))
	}
	tried := 0
	for name, change := range changes {
		for i, r := range p.all {
			last := i+1 == len(p.all) || p.all[i+1].up != r.up
			if r.kind == changeCipherSpec || change.follows && (last || p.all[i+1].kind == changeCipherSpec) {
				continue
			}
			tried++
			s.attacked(t, name, r, change)
		}
	}
	t.Logf("%d attacks on %d records", tried, len(p.all))
}

// With much under way behind an altered record, the client still hears why the channel is
// over: no reset overtakes the alert.
func TestAttack_AlertArrives(t *testing.T) {
	s := serve(t, setup{})
	c := s.inside()
	c.below.send(strings.Repeat("OBAI\x00", 100<<10))
	if b, err := io.ReadAll(c.below); err != nil || len(b) == 0 || b[0] != applicationData {
		t.Errorf("read %x, %v; want an alert, encrypted, and the end", b, err)
	}
	c.below.Close()
	s.ended(1, channel.ErrAltered.Error())
}

func (s *server) attacked(t *testing.T, name string, r seen, change change) {
	t.Helper()
	filter := func(up bool) cmtptest.Filter {
		if up != r.up {
			return cmtptest.Pass
		}
		var held []byte
		return records(up, func(n int, rec []byte) ([]byte, error) {
			out, err := change.do(r.n, n, append([]byte(nil), rec...), held)
			held = rec
			return out, err
		})
	}
	addr := cmtptest.Between(t, s.addr, func(c, s *net.TCPConn) { cmtptest.Relay(c, s, filter(true), filter(false)) })
	lines := strings.Count(s.log.String(), `"msg":"session ended"`)
	err := victim{addr: addr, timeout: patience}.visit(t)
	line := s.ended(lines + 1)
	cut := strings.HasPrefix(name, "cut")
	clientSays := errors.Is(err, channel.ErrHandshake) || errors.Is(err, channel.ErrAltered) || errors.Is(err, channel.ErrTruncated) ||
		r.up && cut && errors.Is(err, io.ErrUnexpectedEOF)
	serverSays := strings.Contains(line, channel.ErrHandshake.Error()) || strings.Contains(line, channel.ErrAltered.Error()) ||
		strings.Contains(line, channel.ErrTruncated.Error())
	if !clientSays || r.up && !serverSays {
		t.Errorf("%s, record %d (to the server: %v): the client says %v\nthe server %s", name, r.n, r.up, err, line)
	}
	if cut && !r.up && !errors.Is(err, channel.ErrTruncated) || cut && r.up && !strings.Contains(line, channel.ErrTruncated.Error()) {
		t.Errorf("%s, record %d (to the server: %v) is not called a cut: %v\n%s", name, r.n, r.up, err, line)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s, record %d: noticed by nothing but silence", name, r.n)
	}
}
