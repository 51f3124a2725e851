package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"io"
	"net"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// tlsKey returns the key of both servers.
func tlsKey() (*crypt.PrivateKey, error) {
	return crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{7}, crypt.SeedSize))
}

// bareTLS is how crypto/tls alone would serve CMTP 1.
func bareTLS() (*tls.Config, error) {
	key, err := tlsKey()
	if err != nil {
		return nil, err
	}
	der, err := channel.Certificate(key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: ed25519.PrivateKey(key.Bytes())}},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{channel.Protocol},
		SessionTicketsDisabled: true,
	}, nil
}

// serveTLS is the bare server.
func serveTLS(addr string) error {
	cfg, err := bareTLS()
	if err != nil {
		return err
	}
	return serveEach(addr, func(c net.Conn) error { return echo(tls.Server(c, cfg)) })
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
	return serveEach(addr, func(c net.Conn) error {
		inside, err := s.Handshake(ctx, c, 0)
		if err != nil {
			return err
		}
		return echo(inside)
	})
}

// echo repeats what comes.
func echo(c net.Conn) error {
	buf := make([]byte, 512)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// As long as what cmtpd says of itself here.
const (
	bareGreeting = "220 bare.bench.example ESMTP CMTP ready\r\n"
	bareVersion  = "CMTP/0.01 CMTP/1 bare/0.0.0"
)

// serveStartTLS returns a bare server that agrees on TLS as cmtpd does, and inside
// answers every request bytes with a reply.
func serveStartTLS(request int, reply []byte) func(addr string) error {
	return func(addr string) error {
		cfg, err := bareTLS()
		if err != nil {
			return err
		}
		return serveEach(addr, func(c net.Conn) error {
			if err := bareAgree(c); err != nil {
				return err
			}
			return answerAll(tls.Server(c, cfg), request, reply)
		})
	}
}

// bareAgree is the server's part of agree.
func bareAgree(c net.Conn) error {
	if _, err := io.WriteString(c, bareGreeting); err != nil {
		return err
	}
	asked := make([]byte, len(startTLS))
	if _, err := io.ReadFull(c, asked); err != nil {
		return err
	}
	if !bytes.Equal(asked, startTLS) {
		return fmt.Errorf("%q is not STARTTLS", asked)
	}
	_, err := c.Write(cmtp.AppendWord(nil, cmtp.Success, crypt.Signature{}))
	return err
}
