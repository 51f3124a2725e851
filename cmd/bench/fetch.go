package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// What is fetched: bytes of a message's body, and how many messages.
const (
	smallFetch = 2 << 10
	largeFetch = 256 << 20
	fetchMany  = 20_000
	fetchAhead = 64 // requests that are sent before their answers have come
	// Over a link: as many as its line holds while their answers are on their way, and several times all messages,
	// since the first second of a connection is TCP's.
	linkAhead = 8192
	linkTimes = 5
)

// fetchCommand is FETCH for all of a message.
func fetchCommand(number uint64) []byte {
	q := cmtp.FetchQuery{Number: number, Length: cmtp.MaxNumber}
	return (&cmtp.Command{Verb: cmtp.Fetch, Fixed: q.Append(nil)}).Append(nil)
}

// fetchReply is how long the answer is for a message with a body of size bytes.
func fetchReply(size int) int {
	text, _ := sealedMail(0, size)
	return replyHead + len(text) - len((&cmtp.Command{Verb: cmtp.Mail}).Append(nil))
}

// serveFetch returns a bare server that answers every FETCH with as many bytes as cmtpd does for a
// message with a body of size bytes.
func serveFetch(size int) func(addr string) error {
	return func(addr string) error { // the answer is made only where it is needed
		n := fetchReply(size)
		reply := append(cmtp.AppendReplyHead(nil, cmtp.StatusDone, uint64(n-replyHead)), make([]byte, n-replyHead)...)
		return serveStartTLS(len(fetchCommand(0)), reply)(addr)
	}
}

// mailboxFetch compares fetching messages with reading as many bytes from a TLS server that has
// them in memory.
func mailboxFetch(l *lab) (_ *table, err error) {
	f, err := l.fetcher(nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	t := &table{
		title: "Fetching",
		note: fmt.Sprintf("One connection inside the channel, at most %d requests ahead of their answers. The daemon reads each message from its spool and verifies it before its end\n"+
			"leaves. The bare server is crypto/tls, and writes as many bytes from memory for each request. The client is the same for both, and only counts; beside it is internal/client's\n"+
			"FetchAll, by which internal/cache fetches. Loopback has no wire: all of it is processor time, of both sides on the same CPUs, and the bare server's is the least that encryption\n"+
			"and the kernel take. So the ratio is one of processor time, and a stricter one than that to a line, which is below.", fetchAhead),
		header: []string{"load", "bare TLS, MB/s", "cmtpd, MB/s", "cmtpd ÷ bare TLS", "by FetchAll, MB/s"},
	}
	for _, ld := range []struct {
		name string
		load fetchLoad
	}{
		{fmt.Sprintf("%d messages of 2 KiB", fetchMany), f.small},
		{"one message of 256 MiB", f.large},
	} {
		s, err := f.compare(&ld.load, &ld.load)
		if err != nil {
			return nil, err
		}
		t.add(ld.name, number(s[0].median()), number(s[1].median()), verdict(s[1].over(s[0]).median(), 0.7), number(s[2].median()))
	}
	return t, nil
}

// compare fetches from the bare server, from the daemon, and from that as our client does, in each of these ways.
func (f *fetcher) compare(ld *fetchLoad, ways ...*fetchLoad) ([]series, error) {
	return f.each(2+len(ways), func(cell int) (float64, error) {
		switch cell {
		case 0:
			return ld.from(func() (net.Conn, error) { return entered(ld.bare) })
		case 1:
			return ld.from(func() (net.Conn, error) { return f.prove(f.key) })
		}
		return f.fetchAll(ways[cell-2])
	})
}

// A fetcher has what is fetched.
type fetcher struct {
	*site
	key          *crypt.PrivateKey
	stop         func() error
	small, large fetchLoad
}

// A fetchLoad is messages of one size.
type fetchLoad struct {
	bare    string // address of the server that they are compared with
	numbers []uint64
	size    int // bytes of each
	ahead   int // requests that are sent before their answers have come
	part    int // bytes that our client asks for at once; 0 for all of a message
}

// fetcher makes all that is fetched from, at the far end of a link if there is one.
func (l *lab) fetcher(over *link) (f *fetcher, err error) {
	s, err := l.siteFor(over)
	if err != nil {
		return nil, err
	}
	cmd, err := s.serve(over.through()...)
	if err != nil {
		return nil, err
	}
	f = &fetcher{site: s, stop: func() error { return errors.Join(end(cmd, os.Kill), os.RemoveAll(filepath.Dir(s.conf))) }}
	return f, errors.Join(f.fill(), f.servePeers(over))
}

// siteFor makes the daemon's site.
func (l *lab) siteFor(over *link) (*site, error) {
	const extra = "max_message_size = \"300MiB\"\n"
	if over == nil {
		return l.site(1024, extra)
	}
	return l.siteAt("bench.example", over.addr(), 1024, extra)
}

// fill has messages come, and finds out their numbers.
func (f *fetcher) fill() (err error) {
	if f.key, err = f.aliceKey(); err != nil {
		return err
	}
	if _, err := inside.pipelined(64)(f.addr, f.serial(), smallFetch, fetchMany); err != nil {
		return err
	}
	if _, err := inside.sendMail(f.addr, f.serial(), largeFetch, 1); err != nil {
		return err
	}
	all, err := f.numbers()
	if err != nil {
		return err
	}
	if len(all) != fetchMany+1 {
		return fmt.Errorf("the mailbox has %d messages", len(all))
	}
	f.small = fetchLoad{numbers: all[:fetchMany], size: fetchReply(smallFetch) - replyHead, ahead: fetchAhead}
	f.large = fetchLoad{numbers: all[fetchMany:], size: fetchReply(largeFetch) - replyHead, ahead: fetchAhead}
	return nil
}

// servePeers starts the bare servers.
func (f *fetcher) servePeers(over *link) (err error) {
	if over == nil {
		if f.small.bare, err = f.self("letters"); err == nil {
			f.large.bare, err = f.self("letter")
		}
		return err
	}
	f.small.bare, f.large.bare = over.addr(), over.addr()
	f.small.ahead, f.small.numbers = linkAhead, slices.Repeat(f.small.numbers, linkTimes)
	return errors.Join(f.selfAt(f.small.bare, "letters", over.through()...), f.selfAt(f.large.bare, "letter", over.through()...))
}

// numbers returns those of all messages, ascending.
func (f *fetcher) numbers() (all []uint64, err error) {
	c, err := f.signIn(f.key)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for last := uint64(0); ; last = all[len(all)-1] {
		p, err := c.List(cmtp.ListQuery{Number: last, Count: cmtp.MaxEntries})
		if err != nil {
			return nil, err
		}
		for _, e := range p.Entries {
			all = append(all, e.Number)
		}
		if !p.More {
			return all, nil
		}
	}
}

// from asks whoever is at the other end of a new connection for the messages, and returns MB/s.
func (ld *fetchLoad) from(open func() (net.Conn, error)) (float64, error) {
	c, err := open()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitTime)); err != nil {
		return 0, err
	}
	in, buf := bufio.NewReaderSize(c, 64<<10), make([]byte, 64<<10)
	start := time.Now()
	asks, failed := make(chan []byte, 3), make(chan error, 1) // no more are under way
	go func() { failed <- writeAll(c, asks) }()
	asked, answered := 0, 0
	for ; answered < len(ld.numbers) && err == nil; answered++ {
		if asked-answered <= ld.ahead/2 && asked < len(ld.numbers) {
			var b []byte
			for ; asked < min(len(ld.numbers), answered+ld.ahead); asked++ {
				b = append(b, fetchCommand(ld.numbers[asked])...)
			}
			asks <- b
		}
		var n int
		if n, err = readBody(in, buf); err == nil && n != ld.size {
			err = fmt.Errorf("a message has %d bytes, not %d", n, ld.size)
		}
	}
	rate := ld.rate(start)
	close(asks)
	if err != nil {
		c.Close()
	}
	return rate, errors.Join(err, <-failed)
}

// writeAll writes beside who reads, so that neither side can wait for the other to read.
func writeAll(w io.Writer, all <-chan []byte) (err error) {
	for b := range all {
		if err == nil {
			_, err = w.Write(b)
		}
	}
	return err
}

// rate is MB/s since start.
func (ld *fetchLoad) rate(start time.Time) float64 {
	return float64(len(ld.numbers)) * float64(ld.size) / 1e6 / time.Since(start).Seconds()
}

// readBody reads one answer, and returns how long it is.
func readBody(in *bufio.Reader, buf []byte) (int, error) {
	_, left, err := cmtp.ReadReplyHead(in, largeFetch*2)
	size := int(left)
	for err == nil && left > 0 {
		var n int
		n, err = in.Read(buf[:min(uint64(len(buf)), left)])
		left -= uint64(n)
	}
	return size, err
}

// fetchAll fetches as our client does.
func (f *fetcher) fetchAll(ld *fetchLoad) (float64, error) {
	c, err := f.signIn(f.key)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	part := ld.part
	if part == 0 {
		part = ld.size
	}
	var queries []cmtp.FetchQuery
	for _, n := range ld.numbers {
		for at := 0; at < ld.size; at += part {
			queries = append(queries, cmtp.FetchQuery{Number: n, Offset: uint64(at), Length: uint64(min(part, ld.size-at))})
		}
	}
	start := time.Now()
	err = c.FetchAll(slices.Values(queries), func(m client.Fetched) error {
		if m.Err != nil {
			return m.Err
		}
		_, err := io.Copy(io.Discard, m.Body)
		return err
	})
	return ld.rate(start), err
}
