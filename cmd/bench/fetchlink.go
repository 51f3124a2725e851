package main

import (
	"errors"
	"fmt"
	"os"
)

// mailboxFetchLink compares fetching messages with the line that they come by.
func mailboxFetchLink(l *lab) (_ *table, err error) {
	t := &table{
		title:  "Fetching over a link",
		header: []string{"load", "bare TLS, MB/s", "cmtpd, MB/s", "cmtpd ÷ bare TLS", "by FetchAll, MB/s", "FetchAll ÷ bare TLS", "FetchAll ÷ line"},
	}
	over, err := l.link(l.trip)
	if errors.Is(err, errNoLink) {
		fmt.Fprintln(os.Stderr, "bench: LEFT OUT: fetching over a link:", err)
		t.note = fmt.Sprintf("**Left out:** %v.", err)
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	t.note = fmt.Sprintf("The same over a link of 1 Gbit/s, of which each way is %.0f MB/s with Ethernet's own bytes, and with a round trip of %v: a network of its own for the daemon and\n"+
		"the bare servers, and a process that carries packets there and back, each behind those before it and so much later. None is lost. TCP's congestion control is this machine's, %s.\n"+
		"Of small messages, which are asked for %d times each, at most %d requests are ahead of their answers. With a round trip of 100ms, tried by hand, bare TLS comes to 26 MB/s,\n"+
		"and cmtpd and FetchAll to as much: probably Linux's doing, which gives a connection at most 4 MiB to keep what was sent and is not acknowledged (net.ipv4.tcp_wmem).",
		linkRate/1e6, l.trip, congestion(), linkTimes, linkAhead)
	f, err := l.fetcher(over)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	ranges := f.large
	ranges.part = 1 << 20
	small, err := f.compare(&f.small, &f.small)
	if err != nil {
		return nil, err
	}
	one, err := f.compare(&f.large, &f.large, &ranges)
	if err != nil {
		return nil, err
	}
	t.addOver(fmt.Sprintf("%d messages of 2 KiB", linkTimes*fetchMany), small[0], small[1], small[2])
	t.addOver("one message of 256 MiB", one[0], one[1], one[2])
	t.addOver("the same in ranges of 1 MiB", one[0], nil, one[3])
	return t, nil
}

// addOver adds a row of what was fetched from a bare server, from the daemon, and by our client.
func (t *table) addOver(name string, bare, daemon, ours series) {
	line := make(series, len(ours))
	for i := range line {
		line[i] = linkRate / 1e6
	}
	row := []string{name, number(bare.median()), "", ""}
	if daemon != nil {
		row[2], row[3] = number(daemon.median()), verdict(daemon.over(bare).median(), 0.7)
	}
	t.add(append(row, number(ours.median()), verdict(ours.over(bare).median(), 0.7), verdict(ours.over(line).median(), 0.7))...)
}

// congestion names how TCP finds out what a line carries: a network of its own inherits it.
func congestion() string { return firstLine("cat", "/proc/sys/net/ipv4/tcp_congestion_control") }
