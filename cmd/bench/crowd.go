package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/spool"
)

const (
	toEach  = 10     // messages of the long queue are for one domain
	drainOf = 50_000 // of the messages to healthy domains are waited for, at most
)

// A crowd is what stands in a long queue beside the healthy half of the domains.
type crowd uint8

const (
	nobodyElse crowd = iota
	knownDead        // an attempt to reach each of them has failed
	newDead          // nothing is known of them
	crowds
)

// longQueue measures what a message in a long queue takes of the daemon's memory, and
// what dead domains take of the others' time.
func longQueue(l *lab) (*table, error) {
	t := &table{
		title: "A long queue",
		note: fmt.Sprintf("%d messages of 256 bytes to %d domains, half of which are dead: half of those refuse connections, the others take them and say nothing. The healthy ones are\n"+
			"one program that gives receipts and keeps nothing. The daemon has its defaults, and starts with all of it in the queue; the rate is that of the first %d messages to healthy\n"+
			"domains. Memory is what is resident of it, less what is with an empty queue, by the number of messages: when the first one arrives, and the most until the last of those.\n"+
			"One round. With a million messages it takes longer: go run ./cmd/bench -only queue -queued 1000000.",
			l.queued, l.queued/toEach, l.drained()),
		header: []string{"", "figure", ""},
	}
	var r [crowds]drained
	for c := range crowds {
		var err error
		if r[c], err = l.drain(c); err != nil {
			return nil, err
		}
	}
	known := r[knownDead]
	word := "target 200 at most with a million: much here does not depend on their number"
	if l.queued >= 1_000_000 {
		word = atMost(known.first, 200, "")
	}
	t.add("resident a message, bytes", number(known.first), word)
	t.add("the most, bytes", number(known.most), "")
	t.add("to healthy domains alone, messages/s", number(r[nobodyElse].rate), "")
	t.add("beside as many dead ones that are known as such, messages/s", number(known.rate), "beside ÷ alone "+verdict(known.rate/r[nobodyElse].rate, 0.8))
	t.add("beside as many dead ones of which nothing is known, messages/s", number(r[newDead].rate), fmt.Sprintf("beside ÷ alone %.2f", r[newDead].rate/r[nobodyElse].rate))
	return t, nil
}

// drained is how a long queue got shorter.
type drained struct {
	rate        float64 // messages to healthy domains a second
	first, most float64 // bytes resident a message
}

// drained is how many messages to healthy domains are waited for: not all, since the last of
// them may have been unlucky once, and wait for their next attempt.
func (l *lab) drained() int { return min(l.queued/2*9/10, drainOf) }

// drain lets a daemon deliver messages to healthy domains.
func (l *lab) drain(c crowd) (d drained, err error) {
	in, err := l.receiver(l.drained())
	if err != nil {
		return d, err
	}
	n, err := l.crowdNames(in)
	if err != nil {
		return d, err
	}
	s, err := l.siteOf(nearDomain, "127.0.0.3", 1024, n.settings())
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Dir(s.conf))) }()
	emptyNow, emptyMost, err := s.empty()
	if err != nil {
		return d, err
	}
	if err := s.within(func(sp *spool.Spool) error { return s.crowd(sp, c, l.queued) }); err != nil {
		return d, err
	}
	cmd, err := s.serve()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, end(cmd, os.Kill)) }() // it has dead ones to wait for
	if err := l.arrived(in.first); err != nil {
		return d, err
	}
	first, err := resident(cmd.Process.Pid)
	if err != nil {
		return d, err
	}
	if err := l.arrived(in.all); err != nil {
		return d, err
	}
	most, err := memory(cmd.Process.Pid, "VmHWM")
	each := func(kib float64) float64 { return kib * 1024 / float64(l.queued) }
	return drained{in.rate(), each(first - emptyNow), each(most - emptyMost)}, err
}

// arrived waits for messages at the receiver.
func (l *lab) arrived(what <-chan struct{}) error {
	timer := time.NewTimer(10 * time.Minute)
	defer timer.Stop()
	select {
	case <-what:
		return nil
	case <-l.ctx.Done():
		return l.ctx.Err()
	case <-timer.C:
		return errors.New("waited 10 minutes for a long queue")
	}
}

// empty returns what is resident of a daemon with nothing in its queue, in KiB.
func (s *site) empty() (now, most float64, err error) {
	cmd, err := s.serveAll()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, end(cmd, os.Interrupt)) }()
	if now, err = resident(cmd.Process.Pid); err != nil {
		return 0, 0, err
	}
	most, err = memory(cmd.Process.Pid, "VmHWM")
	return now, most, err
}

// crowdNames returns DNS in which the domains below up.example are the receiver's, those below
// refused.example are nobody's, and those below silent.example are one's who says nothing.
func (l *lab) crowdNames(up *receiver) (*names, error) {
	n, err := l.names()
	if err != nil {
		return nil, err
	}
	refused, err := freePortOf("127.0.0.5")
	if err != nil {
		return nil, err
	}
	silent, err := net.Listen("tcp", "127.0.0.6:0")
	if err != nil {
		return nil, err
	}
	l.atEnd(silent.Close)
	go accept(silent, func(c net.Conn) error {
		_, err := io.Copy(io.Discard, c) // until the other side has had enough
		return err
	})
	all := map[string]string{"up.example": up.addr, "refused.example": refused, "silent.example": silent.Addr().String()}
	places := make(map[string]place)
	for domain, addr := range all {
		places[domain] = place{"mx." + domain, addr, up.key.Public()}
		if err := n.publish(domain, places[domain]); err != nil {
			return nil, err
		}
	}
	n.many = func(name string) place {
		_, parent, _ := strings.Cut(name, ".")
		return places[parent]
	}
	return n, nil
}

// domain returns whom message n of a crowd is for: healthy domains and others in turn.
func (c crowd) domain(n, domains int) string {
	i := n % domains
	switch {
	case c == nobodyElse || i%2 == 0:
		return fmt.Sprintf("d%d.up.example", i)
	case i%4 == 1:
		return fmt.Sprintf("d%d.refused.example", i)
	}
	return fmt.Sprintf("d%d.silent.example", i)
}

// crowd puts messages into the queue.
func (s *site) crowd(sp *spool.Spool, c crowd, messages int) error {
	domains := messages / toEach
	if c == nobodyElse {
		messages, domains = messages/2, domains/2
	}
	var mu sync.Mutex
	leads := make(map[int]spool.ID) // of dead domains, by n
	err := s.enqueue(sp, messages, 256, func(n int) string { return c.domain(n, domains) }, func(n int, id spool.ID) {
		if c == knownDead && n < domains && n%2 == 1 {
			mu.Lock()
			defer mu.Unlock()
			leads[n] = id
		}
	})
	if err != nil {
		return err
	}
	marks := make([]spool.Marking, 0, len(leads))
	for _, id := range leads {
		marks = append(marks, spool.Marking{ID: id, Mark: failedMark(time.Now())})
	}
	_, err = sp.MarkAll(s.ctx, marks)
	return err
}

// failedMark is the mark of a message whose domain could not be reached three times, and which
// may be tried again by now (docs/spool.md, The queue).
func failedMark(now time.Time) spool.Mark {
	b := binary.BigEndian.AppendUint16([]byte{1}, 3)
	b = binary.BigEndian.AppendUint16(b, 0)
	for _, ago := range []time.Duration{time.Hour, 10 * time.Minute, time.Minute} {
		b = binary.BigEndian.AppendUint64(b, uint64(now.Add(-ago).Unix()))
	}
	return spool.Mark{Flags: 1 << 11, Keywords: append(b, "connection refused"...)}
}
