// Package clienttest is a CMTP server for tests of clients, of either part of the
// protocol. It guarantees that it keeps to the protocol in everything but what a test
// tells it to do otherwise, and that it is gone when the test is over.
package clienttest

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
)

// Greeting is what a server on a shared port says first.
const Greeting = "220 mx.example.org ESMTP CMTP ready\r\n"

// A User is an account of the server.
type User struct {
	Key    crypt.PublicKey
	Xzibit []byte

	// For CMTP 1.
	History  []crypt.SignedKey // nil: one statement of Key; without the server's signatures
	Seed     [oprf.SeedSize]byte
	Copy     []byte
	Recovery crypt.PublicKey // whom Copy is for
}

// A Server serves every connection by itself. Its fields are set before Start.
type Server struct {
	Key      *crypt.PrivateKey
	Greeting string          // nothing is sent for ""
	Users    map[string]User // by account@domain

	Private     bool              // CMTP 1 is spoken
	Certificate *crypt.PrivateKey // shown in the channel; nil: Key
	Invitations map[string]string // secrets, by account@domain

	// Answer may answer a command in place of the server. It returns false to leave
	// it to the server, and io.EOF to hang up.
	Answer func(c *Conn, cmd cmtp.Command) (bool, error)

	channel *channel.Server
	conns   sync.WaitGroup

	mu       sync.Mutex // Users and Invitations too, once started
	verbs    []cmtp.Verb
	messages [][]byte
}

// A Conn is one connection to the server.
type Conn struct {
	net.Conn
	In      *bufio.Reader
	Server  *Server
	Channel *channel.Conn // nil in the clear; else Conn is the same

	below    net.Conn
	user     string // whom AUTH has proven
	enrolled string // what REGISTER may go on with
}

// NewServer returns a server with a key of its own and without users.
func NewServer(t testing.TB) *Server {
	return &Server{Key: Key(t), Greeting: Greeting, Users: map[string]User{}}
}

// Key makes a key.
func Key(t testing.TB) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Start serves on a free port of loopback until the test is over, and returns its
// host:port.
func (s *Server) Start(t testing.TB) string {
	t.Helper()
	if s.Private {
		s.prepare(t)
	}
	return Listen(t, func(c net.Conn) {
		s.conns.Add(1)
		defer s.conns.Done()
		if _, err := io.WriteString(c, s.Greeting); err != nil {
			return
		}
		// A client that leaves is every conversation's end; what it did is judged by
		// what the server noted down.
		conn := &Conn{Conn: c, In: bufio.NewReader(c), Server: s, below: c}
		_ = s.serve(conn)
		conn.Close()
	})
}

// Listen serves every connection by do, until the test is over, and returns the
// host:port. The connection is closed when do returns.
func Listen(t testing.TB, do func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				do(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// Wait waits until all connections that were greeted are over. No other may be made
// meanwhile.
func (s *Server) Wait() { s.conns.Wait() }

// Verbs returns the commands that came, in their order.
func (s *Server) Verbs() []cmtp.Verb {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]cmtp.Verb(nil), s.verbs...)
}

// Messages returns the messages that came whole, as on the wire.
func (s *Server) Messages() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]byte(nil), s.messages...)
}

func (s *Server) serve(c *Conn) error {
	for {
		cmd, err := readCommand(c.In)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.verbs = append(s.verbs, cmd.Verb)
		s.mu.Unlock()
		if s.Answer != nil {
			done, err := s.Answer(c, cmd)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		answer := s.answer
		if c.Channel != nil {
			answer = s.answer1
		}
		if err := answer(c, cmd); err != nil {
			return err
		}
	}
}

// readCommand reads up to the command's last byte and none behind it.
func readCommand(in *bufio.Reader) (cmtp.Command, error) {
	var raw []byte
	for {
		b, err := in.ReadByte()
		if err != nil {
			return cmtp.Command{}, err
		}
		raw = append(raw, b)
		cmd, _, err := cmtp.ParseCommand(raw)
		if !errors.Is(err, cmtp.ErrShort) {
			return cmd, err
		}
	}
}

func (s *Server) answer(c *Conn, cmd cmtp.Command) error {
	switch cmd.Verb {
	case cmtp.Ohai:
		return c.Reply(cmtp.AppendString(nil, "OHAI"+s.version()))
	case cmtp.StartTLS:
		if !s.Private {
			return c.Word(cmtp.Failure)
		}
		return s.secure(c)
	case cmtp.KeyRequest:
		key := s.Key.Public()
		if len(cmd.User()) > 0 {
			u, ok := s.user(string(cmd.User()) + "@" + string(cmd.Domain()))
			if !ok {
				return c.Word(cmtp.Failure)
			}
			key = u.Key
		}
		return c.Reply(cmtp.AppendKey(nil, key, s.Key.Sign(key[:])))
	case cmtp.Login:
		u, ok := s.user(string(cmd.User()))
		if !ok {
			return c.Word(cmtp.Failure)
		}
		return c.Reply(cmtp.AppendXzibit(nil, u.Xzibit, s.Key.Sign(u.Xzibit)))
	case cmtp.Mail:
		return s.mail(c)
	}
	return io.EOF // OBAI, or what no client should send
}

func (s *Server) mail(c *Conn) error {
	if _, err := s.receive(c); err != nil {
		return err
	}
	return c.Word(cmtp.Success)
}

// receive reads a message and keeps it.
func (s *Server) receive(c *Conn) (*cmtp.MessageReader, error) {
	r, err := cmtp.NewMessageReader(c.In, 1<<30)
	if err != nil {
		return nil, err
	}
	m, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.messages = append(s.messages, m)
	s.mu.Unlock()
	return r, nil
}

// With lets do look at and change the Users and Invitations of a server that was
// started.
func (s *Server) With(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// user returns an account.
func (s *Server) user(name string) (User, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.Users[name]
	return u, ok
}

// Reply sends b.
func (c *Conn) Reply(b []byte) error {
	_, err := c.Write(b)
	return err
}

// Word sends a signed word, cmtp.Success or cmtp.Failure.
func (c *Conn) Word(word string) error {
	return c.Reply(cmtp.AppendWord(nil, word, c.Server.Key.Sign([]byte(word))))
}
