package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/cmtp"
)

const (
	keyReply    = 101 // bytes
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
				return ask(bare, depth)
			}
			return ask(cmtpd, depth)
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
func ask(addr string, depth int) (float64, error) {
	conns := make([]net.Conn, connections)
	for i := range conns {
		c, err := greeted(addr)
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
			n, err := askOn(c, depth, start.Add(askFor))
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

func askOn(c net.Conn, depth int, until time.Time) (answers int64, err error) {
	var requests []byte
	for range depth {
		requests = append(requests, keyRequest...)
	}
	replies := make([]byte, depth*keyReply)
	for time.Now().Before(until) {
		if _, err := c.Write(requests); err != nil {
			return answers, err
		}
		if _, err := io.ReadFull(c, replies); err != nil {
			return answers, err
		}
		if replies[3] != cmtp.KeyVersion || replies[len(replies)-1] != 0 {
			return answers, fmt.Errorf("a reply is no key: %q", replies[:keyReply])
		}
		answers += int64(depth)
	}
	return answers, nil
}

// serveBare answers every 31 bytes with 101 others.
func serveBare(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go bareSession(c)
	}
}

func bareSession(c net.Conn) {
	defer c.Close()
	if _, err := io.WriteString(c, "220 bare ESMTP CMTP ready\r\n"); err != nil {
		return
	}
	in, out := bufio.NewReader(c), bufio.NewWriter(c)
	request, reply := make([]byte, len(keyRequest)), make([]byte, keyReply)
	reply[3] = cmtp.KeyVersion
	for {
		if _, err := io.ReadFull(in, request); err != nil {
			return
		}
		if _, err := out.Write(reply); err != nil {
			return
		}
		if in.Buffered() < len(request) && out.Flush() != nil {
			return
		}
	}
}
