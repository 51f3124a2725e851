package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/cmtp"
)

const (
	connections = 64
	askFor      = 2 * time.Second
)

var keyRequest = (&cmtp.Command{Verb: cmtp.KeyRequest, Params: [3][]byte{[]byte("alice"), []byte("bench.example")}}).Append(nil)

// keyRequests compares KEYREQUEST for a local user with a server that reads as
// many bytes and answers as many, and does nothing else.
func keyRequests(l *lab) (*table, error) {
	bare, err := l.self("bare")
	if err != nil {
		return nil, err
	}
	cmtpd, _, err := l.cmtpd(1024, "")
	if err != nil {
		return nil, err
	}
	t := &table{
		title:  "KEYREQUEST for a local user",
		note:   fmt.Sprintf("%d kept connections for %v a cell. The bare server reads %d bytes, writes %d, and flushes when its input is empty.", connections, askFor, len(keyRequest), keyReply),
		header: []string{"requests in flight on a connection", "bare, requests/s", "cmtpd, requests/s", "cmtpd ÷ bare"},
	}
	for _, depth := range []int{1, 16} {
		s, err := l.each(2, func(cell int) (float64, error) {
			if cell == 0 {
				return outside.ask(bare, depth)
			}
			return outside.ask(cmtpd, depth)
		})
		if err != nil {
			return nil, err
		}
		t.add(fmt.Sprint(depth), number(s[0].median()), number(s[1].median()), verdict(s[1].over(s[0]).median(), 0.6))
	}
	return t, nil
}

// ask keeps depth requests in flight on every connection and returns answers a
// second.
func (s side) ask(addr string, depth int) (float64, error) {
	conns := make([]net.Conn, connections)
	for i := range conns {
		c, err := s.open(addr)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		conns[i] = c
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, connections)
	start := time.Now()
	for _, c := range conns {
		wg.Go(func() {
			n, err := s.askOn(c, depth, start.Add(askFor))
			total.Add(n)
			if err != nil {
				failed <- err
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

func (s side) askOn(c net.Conn, depth int, until time.Time) (answers int64, err error) {
	if err := c.SetDeadline(until.Add(20 * time.Second)); err != nil {
		return 0, err
	}
	requests := bytes.Repeat(keyRequest, depth)
	size := s.key.size
	replies := make([]byte, depth*size)
	for time.Now().Before(until) {
		if _, err := c.Write(requests); err != nil {
			return answers, err
		}
		if _, err := io.ReadFull(c, replies); err != nil {
			return answers, err
		}
		if first, last := replies[:size], replies[len(replies)-size:]; !s.key.is(first) || !s.key.is(last) {
			return answers, fmt.Errorf("a reply is no key: %q", first)
		}
		answers += int64(depth)
	}
	return answers, nil
}

// serveBare answers every 31 bytes with 101 others.
func serveBare(addr string) error {
	reply := make([]byte, keyReply)
	reply[3] = cmtp.KeyVersion
	return serveEach(addr, func(c net.Conn) error {
		if _, err := io.WriteString(c, bareGreeting); err != nil {
			return err
		}
		return answerAll(c, len(keyRequest), reply)
	})
}

// answerAll answers every request bytes with a reply, and flushes when its input is
// empty.
func answerAll(c net.Conn, request int, reply []byte) error {
	in, out := bufio.NewReader(c), bufio.NewWriterSize(c, 16<<10)
	asked := make([]byte, request)
	for {
		if _, err := io.ReadFull(in, asked); err != nil {
			return err
		}
		if _, err := out.Write(reply); err != nil {
			return err
		}
		if in.Buffered() < request {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// serveEach runs a session on each connection to addr.
func serveEach(addr string, session func(net.Conn) error) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return accept(l, session)
}

// accept runs a session on each connection, until the listener is closed. The error that
// ends a session is nobody's concern: a client may go at any time.
func accept(in net.Listener, session func(net.Conn) error) error {
	for {
		c, err := in.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			session(c)
		}()
	}
}
