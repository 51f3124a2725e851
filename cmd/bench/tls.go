package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/crypt"
)

// tlsSetUps compares the channel with a bare TLS server. Both are asked for one
// round trip inside, so that a set-up counts when it is complete on both sides.
func tlsSetUps(l *lab) (*table, error) {
	bare, err := l.self("tls")
	if err != nil {
		return nil, err
	}
	ours, err := l.self("channel")
	if err != nil {
		return nil, err
	}
	t := &table{
		title: "TLS set-ups",
		note: fmt.Sprintf("New connections a second, each with a full handshake and one round trip inside, %d at a time for %v a cell. The bare server is\n"+
			"crypto/tls with the same Ed25519 certificate, TLS 1.3 and no tickets; the channel is measured alone, without a session before it.\n"+
			"The client is the same, and computes about as much as either.",
			connections, askFor),
		header: []string{"", "crypto/tls, set-ups/s", "channel, set-ups/s", "channel ÷ crypto/tls"},
	}
	s, err := l.each(2, func(cell int) (float64, error) {
		return setUps{addr: []string{bare, ours}[cell], request: []byte{1}, reply: 1}.rate()
	})
	if err != nil {
		return nil, err
	}
	t.add("X25519MLKEM768", number(s[0].median()), number(s[1].median()), verdict(s[1].over(s[0]).median(), 0.8))
	return t, nil
}

// setUps is a load of connections that each start TLS and end.
type setUps struct {
	addr    string
	begin   func(net.Conn) error // what is said before TLS; nil for nothing
	request []byte               // what is asked inside
	reply   int                  // the length of what answers it, in bytes
}

// rate returns complete set-ups a second.
func (s setUps) rate() (float64, error) {
	var total atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, connections)
	start := time.Now()
	for range connections {
		wg.Go(func() {
			for time.Since(start) < askFor {
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
	c, err := net.DialTimeout("tcp", s.addr, 10*time.Second)
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
	// Whose key it is does not matter here.
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{channel.Protocol}})
	if _, err := t.Write(s.request); err != nil {
		return err
	}
	_, err = io.ReadFull(t, make([]byte, s.reply))
	return err
}

// tlsKey returns the key of both servers.
func tlsKey() (*crypt.PrivateKey, error) {
	return crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{7}, crypt.SeedSize))
}

// serveTLS is the bare server.
func serveTLS(addr string) error {
	key, err := tlsKey()
	if err != nil {
		return err
	}
	der, err := channel.Certificate(key)
	if err != nil {
		return err
	}
	cfg := &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: ed25519.PrivateKey(key.Bytes())}},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{channel.Protocol},
		SessionTicketsDisabled: true,
	}
	return serveEcho(addr, func(c net.Conn) (net.Conn, error) { return tls.Server(c, cfg), nil })
}

// serveChannel is our server.
func serveChannel(addr string) error {
	key, err := tlsKey()
	if err != nil {
		return err
	}
	s, err := channel.NewServer(channel.Config{Key: key})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background()) // one that can end, as a daemon's
	defer cancel()
	return serveEcho(addr, func(c net.Conn) (net.Conn, error) { return s.Handshake(ctx, c, 0) })
}

// serveEcho repeats what comes inside.
func serveEcho(addr string, wrap func(net.Conn) (net.Conn, error)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			inside, err := wrap(c)
			if err != nil {
				return // one that only looked whether we listen
			}
			buf := make([]byte, 512)
			for {
				n, err := inside.Read(buf)
				if err != nil {
					return
				}
				if _, err := inside.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}
