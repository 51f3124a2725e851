package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
)

// tlsSetUps compares the channel with a bare TLS server, and the daemon with one that
// agrees on TLS first. All are asked for one round trip inside, so that a set-up
// counts when it is complete on both sides.
func tlsSetUps(l *lab) (*table, error) {
	var loads [4]setUps
	for i, role := range []string{"tls", "channel", "starttls"} {
		addr, err := l.self(role)
		if err != nil {
			return nil, err
		}
		loads[i] = setUps{addr: addr, request: []byte{1}, answer: echoed}
	}
	addr, _, err := l.cmtpd(1024, "")
	if err != nil {
		return nil, err
	}
	loads[2], loads[3] = starts(loads[2].addr), starts(addr)
	t := &table{
		title: "TLS set-ups",
		note: fmt.Sprintf("New connections a second, each with a full handshake and one round trip inside, %d at a time for %v a cell. The bare servers are\n"+
			"crypto/tls with an Ed25519 certificate of the same kind, TLS 1.3 and no tickets. The channel alone has no session before it, and repeats a byte. A\n"+
			"connection of cmtpd begins with the greeting, STARTTLS and SUCCESS, and ends with NOOP inside; its bare server writes and reads the same bytes.\n"+
			"The client is the same, and computes about as much as either.",
			connections, askFor),
		header: []string{"X25519MLKEM768", "crypto/tls, set-ups/s", "ours, set-ups/s", "ours ÷ crypto/tls"},
	}
	s, err := l.each(len(loads), func(cell int) (float64, error) {
		ctx, cancel := context.WithTimeout(l.ctx, askFor)
		defer cancel()
		return loads[cell].rate(ctx)
	})
	if err != nil {
		return nil, err
	}
	t.add("the channel alone", number(s[0].median()), number(s[1].median()), verdict(s[1].over(s[0]).median(), 0.8))
	t.add("cmtpd, from the greeting on", number(s[2].median()), number(s[3].median()), verdict(s[3].over(s[2]).median(), 0.8))
	return t, nil
}

// setUps is a load of connections that each start TLS and end.
type setUps struct {
	addr    string
	begin   func(net.Conn) error  // what is said before TLS; nil for nothing
	request []byte                // what is asked inside
	answer  func(io.Reader) error // reads what answers it
	hello   []byte                // sent in place of all that TLS is, until it is answered; nil for TLS
	from    []net.IP              // at most one, to come from
}

// starts is the load for a server that agrees on TLS first.
func starts(addr string) setUps {
	return setUps{addr: addr, begin: agree, request: noop, answer: replied}
}

var noop = (&cmtp.Command{Verb: cmtp.Noop}).Append(nil)

func echoed(r io.Reader) error {
	_, err := io.ReadFull(r, make([]byte, 1))
	return err
}

func replied(r io.Reader) error {
	_, _, err := cmtp.ReadReply(r, 512)
	return err
}

// begun reads the first byte of a ServerHello: of a record that is a handshake's, and
// not an alert's (RFC 8446 section 5.1).
func begun(r io.Reader) error {
	const handshake = 22
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		return err
	}
	if first[0] != handshake {
		return fmt.Errorf("a ClientHello was answered by a record of type %d", first[0])
	}
	return nil
}

// rate returns complete set-ups a second until ctx ends.
func (s setUps) rate(ctx context.Context) (float64, error) {
	var total atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, connections)
	start := time.Now()
	for range connections {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := s.once(); err != nil {
					failed <- fmt.Errorf("setting TLS up: %w", err)
					return
				}
				total.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	select {
	case err := <-failed:
		return 0, err
	default:
	}
	return float64(total.Load()) / took.Seconds(), nil
}

// once sets one connection up. It resets it at its end: a port that waits for late
// packets cannot be used for the next.
func (s setUps) once() error {
	c, err := dial(s.addr, s.from...)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.SetDeadline(time.Now().Add(20*time.Second))); err != nil {
		return err
	}
	if s.begin != nil {
		if err := s.begin(c); err != nil {
			return err
		}
	}
	if s.hello != nil {
		if _, err := c.Write(s.hello); err != nil {
			return err
		}
		return begun(c)
	}
	t := tls.Client(c, clientConfig)
	if _, err := t.Write(s.request); err != nil {
		return err
	}
	return s.answer(t)
}

// clientConfig is that of the load: whose key it is does not matter here.
var clientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{channel.Protocol}}
