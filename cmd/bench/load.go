package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/cmtp"
)

// An acceptance is what a run of accepting messages showed.
type acceptance struct {
	rate     float64       // messages a second
	cpu      time.Duration // of the server, a message
	load     time.Duration // processor time of the load, a message
	p50, p99 time.Duration
}

// accept is acceptAt outside.
func (l *lab) accept(addr string, pid, conns, size, total int) (acceptance, error) {
	return l.acceptAt(outside, addr, pid, conns, size, total)
}

// acceptAt sends total messages of size bytes over conns connections, each waiting
// for its SUCCESS before the next. One thread with blocking calls and epoll in place of
// goroutines was tried: it costs no less.
func (l *lab) acceptAt(s side, addr string, pid, conns, size, total int) (a acceptance, err error) {
	before, ownBefore, err := cpuTimes(pid)
	if err != nil {
		return a, err
	}
	var wg sync.WaitGroup
	results := make([][]time.Duration, conns)
	errs := make([]error, conns)
	start := time.Now()
	for i := range conns {
		wg.Go(func() { results[i], errs[i] = s.sendMail(addr, l.serial(), size, total/conns) })
	}
	wg.Wait()
	took := time.Since(start)
	for _, e := range errs {
		if e != nil {
			return a, e
		}
	}
	after, ownAfter, err := cpuTimes(pid)
	if err != nil {
		return a, err
	}
	all := slices.Concat(results...)
	slices.Sort(all)
	n := time.Duration(len(all))
	return acceptance{float64(n) / took.Seconds(), (after - before) / n, (ownAfter - ownBefore) / n, all[n/2], all[n*99/100]}, nil
}

// sendMail sends messages that only look sealed and returns how long each took
// to be acknowledged. No two are alike: serial and number stand in each.
func (s side) sendMail(addr string, serial uint64, size, messages int) ([]time.Duration, error) {
	c, err := s.open(addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: uint64(size),
		DestinationAccount: "alice", DestinationDomain: "bench.example", SourceAccount: "load", SourceDomain: "elsewhere.example"}
	text := append(h.Append((&cmtp.Command{Verb: cmtp.Mail}).Append(nil)), 0)
	text = append(text, make([]byte, size)...)
	unique := text[len(text)-16:]
	binary.BigEndian.PutUint64(unique, serial)
	latency := make([]time.Duration, 0, messages)
	reply := make([]byte, s.mail.size)
	for n := range messages {
		binary.BigEndian.PutUint64(unique[8:], uint64(n))
		start := time.Now()
		if _, err := c.Write(text); err != nil {
			return latency, err
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			return latency, err
		}
		if !s.mail.is(reply) {
			return latency, fmt.Errorf("message %d was answered %q", n+1, reply)
		}
		latency = append(latency, time.Since(start))
	}
	return latency, c.(interface{ CloseWrite() error }).CloseWrite()
}

// cpuTimes returns the processor time of a server, if its pid is not 0, and of this process.
func cpuTimes(pid int) (server, own time.Duration, err error) {
	if pid != 0 {
		if server, err = cpuTime(pid); err != nil {
			return 0, 0, err
		}
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, 0, fmt.Errorf("asking for the processor time: %w", err)
	}
	return server, time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
