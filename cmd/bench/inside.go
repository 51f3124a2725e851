package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// tlsKeyRequests measures what the channel costs a KEYREQUEST, and how much of that is
// ours.
func tlsKeyRequests(l *lab) (*table, error) {
	bare, err := l.self("tlskeys")
	if err != nil {
		return nil, err
	}
	cmtpd, _, err := l.cmtpd(1024, "")
	if err != nil {
		return nil, err
	}
	t := &table{
		title: "KEYREQUEST inside the channel",
		note: fmt.Sprintf("%d kept connections for %v a cell. Outside a key is answered, inside a user's history of one key: %d bytes, not %d. The bare server is crypto/tls,\n"+
			"reads and writes as many bytes as cmtpd inside, and flushes when its input is empty. Half of TLS is computed by the client, on the same CPUs.",
			connections, askFor, historyReply, keyReply),
		header: []string{"requests in flight on a connection", "outside, requests/s", "bare TLS, requests/s", "inside, requests/s", "inside ÷ outside", "inside ÷ bare TLS"},
	}
	for _, depth := range []int{1, 16} {
		s, err := l.each(3, func(cell int) (float64, error) {
			switch cell {
			case 0:
				return outside.ask(cmtpd, depth)
			case 1:
				return inside.ask(bare, depth)
			}
			return inside.ask(cmtpd, depth)
		})
		if err != nil {
			return nil, err
		}
		t.add(fmt.Sprint(depth), number(s[0].median()), number(s[1].median()), number(s[2].median()),
			fmt.Sprintf("%.2f", s[2].over(s[0]).median()), fmt.Sprintf("%.2f", s[2].over(s[1]).median()))
	}
	return t, nil
}

// tlsMail measures what the channel and its receipts cost a message.
func tlsMail(l *lab) (t *table, err error) {
	s, err := l.site(1024, "")
	if err != nil {
		return nil, err
	}
	// The messages of all rounds are gigabytes, which nobody needs behind this.
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Dir(s.conf))) }()
	cmd, err := s.serve()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end(cmd, os.Kill)) }()
	t = &table{
		title: "MAIL inside the channel",
		note: "Messages accepted for good by the same daemon, on kept connections that each wait for the answer, or have so many on their way. Inside, that is a receipt, for which the server signs\n" +
			"each message; outside it is the same word every time. With 64 connections the signatures are three tenths of the server's processor time inside, and\n" +
			"encryption a fiftieth (counted by perf on a busy machine).",
		header: []string{"load", "outside", "inside", "inside ÷ outside"},
	}
	for _, ld := range []struct {
		name                      string
		conns, size, total, depth int
	}{
		{"4 KiB, one connection", 1, 4 << 10, 3000, 1},
		{"4 KiB, one connection, 64 on their way", 1, 4 << 10, 20000, 64},
		{"4 KiB, 64 connections", 64, 4 << 10, 20000, 1},
		{"1 MiB, 8 connections", 8, 1 << 20, 240, 1},
	} {
		var cpu [2]series
		r, err := l.each(2, func(cell int) (float64, error) {
			at := []side{outside, inside}[cell]
			send := at.sendMail
			if ld.depth > 1 {
				send = at.pipelined(ld.depth)
			}
			a, err := l.acceptAt(send, s.addr, cmd.Process.Pid, ld.conns, ld.size, ld.total)
			cpu[cell] = append(cpu[cell], a.cpu.Seconds()*1e6)
			return a.rate, err
		})
		if err != nil {
			return nil, err
		}
		t.add(ld.name+", messages/s", number(r[0].median()), number(r[1].median()), fmt.Sprintf("%.2f", r[1].over(r[0]).median()))
		t.add("the same, processor time of the server a message, µs", number(cpu[0].median()), number(cpu[1].median()), fmt.Sprintf("%.2f", cpu[1].over(cpu[0]).median()))
	}
	return t, nil
}
