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
		"the bare servers, and a process that carries packets there and back, each behind those before it and so much later. None is lost. The congestion control is %s.\n"+
		"Of small messages, which are asked for %d times each, at most %d requests are ahead of their answers.",
		linkRate/1e6, l.trip, congestion(), linkTimes, linkAhead)
	f, err := l.fetcher(over)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	for _, ld := range []struct {
		name string
		load fetchLoad
	}{
		{fmt.Sprintf("%d messages of 2 KiB", linkTimes*fetchMany), f.small},
		{"one message of 256 MiB", f.large},
		{"the same in ranges of 1 MiB", f.ranges()},
	} {
		s, err := f.compare(&ld.load)
		if err != nil {
			return nil, err
		}
		line := make(series, len(s[2]))
		for i := range line {
			line[i] = linkRate / 1e6
		}
		t.add(ld.name, number(s[0].median()), number(s[1].median()), verdict(s[1].over(s[0]).median(), 0.7),
			number(s[2].median()), verdict(s[2].over(s[0]).median(), 0.7), verdict(s[2].over(line).median(), 0.7))
	}
	return t, nil
}

// ranges is the large message, of which our client asks for a part at a time.
func (f *fetcher) ranges() fetchLoad {
	ld := f.large
	ld.part = 1 << 20
	return ld
}

// congestion names how TCP finds out what a line carries.
func congestion() string { return firstLine("cat", "/proc/sys/net/ipv4/tcp_congestion_control") }
