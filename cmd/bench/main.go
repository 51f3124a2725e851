// Command bench measures cmtpd against real peers on this machine and writes what
// it found as a document: medians of interleaved rounds and the ratios within
// each round, since absolute figures of a shared machine swing and ratios less.
//
// Everything runs on loopback, but for one measurement over a link in networks of its
// own, and for a bounded time. It needs bin/cmtpd, haproxy, Postfix with its smtp-source
// and smtp-sink, strace, mkfs.xfs, ip, /dev/net/tun, root, and 6 GiB in the temporary
// directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cmtpd/internal/cmtp"
)

// roles are what this program is when it calls itself: the bare peers have to be
// processes of their own, as cmtpd is.
var roles = map[string]func(addr string) error{
	"bare": serveBare, "sink": serveSink, "tls": serveTLS, "channel": serveChannel,
	"starttls":    serveStartTLS(len(noop), cmtp.AppendReply(nil, cmtp.StatusDone, []byte(bareVersion))),
	"tlskeys":     serveStartTLS(len(keyRequest), cmtp.AppendReply(nil, cmtp.StatusDone, make([]byte, historyReply-replyHead))),
	"foreignkeys": serveStartTLS(len(keyRequest), cmtp.AppendReply(nil, cmtp.StatusDone, make([]byte, foreignReply-replyHead))),
	"knock":       knock, "rush": rush, "churn": churn, "door": serveDoor, "flood": floodSetUps, "hellos": floodHellos, "letters": serveFetch(smallFetch), "letter": serveFetch(largeFetch), "link": serveLink,
}

func main() {
	bin := flag.String("bin", "bin", "the directory that holds cmtpd")
	out := flag.String("out", "", "write the document to this `file`, not to standard output")
	messages := flag.Int("messages", 1_000_000, "how many messages the large spool has")
	mail := flag.Int("mail", 100_000, "how many messages the large mailbox has")
	queued := flag.Int("queued", 200_000, "how many messages the long queue has")
	rounds := flag.Int("rounds", 5, "interleaved rounds of every measurement")
	trip := flag.Duration("trip", 20*time.Millisecond, "the round trip of the link that messages are fetched over")
	only := flag.String("only", "", "run only the measurements whose name begins so")
	role := flag.String("role", "", "be a peer of the measurement, at the address that follows")
	flag.Parse()
	if *role != "" {
		fail(roles[*role](flag.Arg(0)))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := newLab(ctx, *bin, *rounds, *messages, *mail, *queued)
	fail(err)
	l.trip = *trip
	fail(run(l, *out, *only))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A measurement is one table of the document.
type measurement struct {
	name string
	run  func(*lab) (*table, error)
}

func run(l *lab, out, only string) (err error) {
	defer func() { err = errors.Join(err, l.close()) }()
	var doc strings.Builder
	fmt.Fprint(&doc, preamble(l.rounds))
	for _, m := range []measurement{
		{"passthrough", passthrough},
		{"keyrequest", keyRequests},
		{"tls-setups", tlsSetUps},
		{"tls-keyrequest", tlsKeyRequests},
		{"tls-mail", tlsMail},
		{"tls-flood", tlsFlood},
		{"federation", federation},
		{"foreign-keyrequest", foreignKeyRequests},
		{"queue", longQueue},
		{"mailbox-large", bigMailbox},
		{"mailbox-fetch", mailboxFetch},
		{"mailbox-fetch-link", mailboxFetchLink},
		{"mailbox-wait", mailboxWait},
		{"idle", idle},
		{"siege", siege},
		{"durable", acceptances},
		{"flushes", flushes},
		{"filesystems", fileSystems},
		{"scale", scale},
		{"large", large},
	} {
		if !strings.HasPrefix(m.name, only) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", m.name)
		t, err := m.run(l)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", m.name, err)
		}
		doc.WriteString(t.markdown())
	}
	doc.WriteString(missed)
	if out == "" {
		_, err = os.Stdout.WriteString(doc.String())
		return err
	}
	return os.WriteFile(out, []byte(doc.String()), 0o644)
}
