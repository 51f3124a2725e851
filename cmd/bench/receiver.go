package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// A receiver is a server of any domain, which takes every message, gives a receipt, and
// keeps nothing: what a queue does beside many domains shows best at one that costs little.
type receiver struct {
	addr   string
	key    *crypt.PrivateKey
	shakes *channel.Server

	mu     sync.Mutex
	got    int           // under mu: messages
	wanted int           // under mu: of them until all is closed
	began  time.Time     // under mu: when the first one came
	ended  time.Time     // under mu: when the last one was wanted
	first  chan struct{} // closed when the first one came
	all    chan struct{} // closed when wanted of them came
}

// receiver starts one that waits for a number of messages.
func (l *lab) receiver(wanted int) (*receiver, error) {
	key, err := tlsKey()
	if err != nil {
		return nil, err
	}
	s, err := channel.NewServer(channel.Config{Key: key, MaxHandshakes: 64})
	if err != nil {
		return nil, err
	}
	in, err := net.Listen("tcp", "127.0.0.4:0")
	if err != nil {
		return nil, err
	}
	r := &receiver{addr: in.Addr().String(), key: key, shakes: s, wanted: wanted, first: make(chan struct{}), all: make(chan struct{})}
	l.atEnd(in.Close)
	go accept(in, r.serve)
	return r, nil
}

// count counts a message.
func (r *receiver) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got++; r.got == 1 {
		r.began = time.Now()
		close(r.first)
	}
	if r.got == r.wanted {
		r.ended = time.Now()
		close(r.all)
	}
}

// rate is how many messages came a second, from the first to the last.
func (r *receiver) rate() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return float64(r.wanted) / r.ended.Sub(r.began).Seconds()
}

func (r *receiver) serve(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, bareGreeting); err != nil {
		return err
	}
	secured, err := commands(c, r.outside)
	if err != nil || !secured {
		return err
	}
	in, err := r.shakes.Handshake(context.Background(), c, 0)
	if err != nil {
		return err
	}
	_, err = commands(in, r.inside)
	return err
}

// commands answers commands until STARTTLS, which is the last one outside, or the end. Replies are
// written when all that has come is answered.
func commands(c net.Conn, answer func(cmd *cmtp.Command, in *bufio.Reader, reply []byte) ([]byte, error)) (secured bool, err error) {
	in := bufio.NewReaderSize(c, 64<<10)
	var replies []byte
	for want := 1; !secured; {
		if in.Buffered() < want {
			if _, err := c.Write(replies); err != nil {
				return false, err
			}
			replies = replies[:0]
		}
		b, err := in.Peek(max(want, in.Buffered()))
		if err != nil {
			return false, err
		}
		cmd, n, err := cmtp.ParseCommand(b)
		if errors.Is(err, cmtp.ErrShort) {
			want = len(b) + 1
			continue
		}
		if err != nil || cmd.Verb == cmtp.Obai {
			return false, err
		}
		want = 1
		secured = cmd.Verb == cmtp.StartTLS
		cmd.Params[1] = append([]byte(nil), cmd.Params[1]...) // the rest is not used behind Discard
		in.Discard(n)
		if replies, err = answer(&cmd, in, replies); err != nil {
			return false, err
		}
	}
	_, err = c.Write(replies)
	return true, err
}

func (r *receiver) outside(cmd *cmtp.Command, _ *bufio.Reader, reply []byte) ([]byte, error) {
	switch cmd.Verb {
	case cmtp.Ohai:
		return cmtp.AppendString(reply, cmtp.Ohai.String()+bareVersion), nil
	case cmtp.StartTLS:
		return cmtp.AppendWord(reply, cmtp.Success, r.key.Sign([]byte(cmtp.Success))), nil
	}
	return reply, errors.New("a command that no other server gives outside")
}

func (r *receiver) inside(cmd *cmtp.Command, in *bufio.Reader, reply []byte) ([]byte, error) {
	switch cmd.Verb {
	case cmtp.KeyRequest:
		domain, err := address.ParseDomain(string(cmd.Domain()))
		s := crypt.KeyStatement{Name: address.Address{Domain: domain}, Key: r.key.Public()}
		h := crypt.History{Keys: []crypt.SignedKey{{KeyStatement: s, Server: r.key.Sign(s.Append(nil))}}}
		return cmtp.AppendReply(reply, cmtp.StatusDone, h.Append(nil)), err
	case cmtp.Auth:
		return cmtp.AppendReply(reply, cmtp.StatusDone, nil), nil
	case cmtp.Mail:
		return r.mail(in, reply)
	}
	return reply, errors.New("a command that no other server gives inside")
}

func (r *receiver) mail(in *bufio.Reader, reply []byte) ([]byte, error) {
	m, err := cmtp.NewMessageReader(in, 64*mib)
	if err != nil {
		return reply, err
	}
	if _, err := io.Copy(io.Discard, m); err != nil {
		return reply, err
	}
	digest, err := m.Digest()
	if err != nil {
		return reply, err
	}
	to, err := address.Parse(m.Header().DestinationAccount + "@" + m.Header().DestinationDomain)
	if err != nil {
		return reply, err
	}
	r.count()
	receipt := crypt.Receipt{Digest: digest, Destination: to, When: crypt.UnixTimeOf(time.Now()), Commit: 1}
	return cmtp.AppendReply(reply, cmtp.StatusDone, receipt.AppendSigned(nil, r.key)), nil
}
