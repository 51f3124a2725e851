package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
)

// Lengths of answers in bytes, those inside with their heads (docs/protocol.md
// sections 3, 16.2, 17.3 and 17.5): a key, a word, alice's history of one key, and a
// receipt of a message to her.
const (
	keyReply     = 101
	wordReply    = 72
	replyHead    = 10
	historyReply = replyHead + 248
	receiptReply = replyHead + 179
)

// A side is where a server is asked: outside, in the clear and by CMTP 0.01, or inside
// of its channel, by CMTP 1.
type side struct {
	open func(addr string, from ...net.IP) (net.Conn, error)
	key  answer // to KEYREQUEST for alice
	mail answer // to MAIL for alice
}

// An answer is what says that a command was done.
type answer struct {
	size int // bytes
	is   func([]byte) bool
}

var outside = side{
	open: greeted,
	key:  answer{keyReply, func(b []byte) bool { return b[3] == cmtp.KeyVersion && b[len(b)-1] == 0 }},
	mail: answer{wordReply, isSuccess},
}

var inside = side{open: entered, key: done(historyReply), mail: done(receiptReply)}

func isSuccess(b []byte) bool { return string(b[:len(cmtp.Success)]) == cmtp.Success }

// done returns the answer of a length that CMTP 1 gives to what was done.
func done(size int) answer {
	return answer{size, func(b []byte) bool {
		return binary.BigEndian.Uint16(b) == uint16(cmtp.StatusDone) && binary.BigEndian.Uint64(b[2:]) == uint64(size-replyHead)
	}}
}

// entered connects and goes inside the channel, as a client of ours does. Whose key the
// server shows does not matter here.
func entered(addr string, from ...net.IP) (net.Conn, error) {
	c, err := dial(addr, from...)
	if err != nil {
		return nil, err
	}
	if err := agree(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	in, err := channel.Client(context.Background(), c, 0, 0)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return in, nil
}

var startTLS = (&cmtp.Command{Verb: cmtp.StartTLS}).Append(nil)

// agree reads the greeting and agrees with the server on TLS.
func agree(c net.Conn) error {
	in := bufio.NewReaderSize(c, 512)
	if _, err := in.ReadSlice('\n'); err != nil {
		return fmt.Errorf("reading a greeting: %w", err)
	}
	if _, err := c.Write(startTLS); err != nil {
		return err
	}
	var reply [wordReply]byte
	if _, err := io.ReadFull(in, reply[:]); err != nil {
		return fmt.Errorf("asking for TLS: %w", err)
	}
	if !isSuccess(reply[:]) || in.Buffered() > 0 {
		return fmt.Errorf("STARTTLS was answered %q", reply[:len(cmtp.Success)])
	}
	return nil
}
