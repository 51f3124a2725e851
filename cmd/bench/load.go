package main

import (
	"bufio"
	"encoding/binary"
	"errors"
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
	return l.acceptAt(outside.sendMail, addr, pid, conns, size, total)
}

// A sender sends messages of a size over a connection of its own, and returns how long each took to be
// acknowledged.
type sender func(addr string, serial uint64, size, messages int) ([]time.Duration, error)

// acceptAt sends total messages of size bytes over conns connections. Those of sendMail each wait
// for their SUCCESS before the next. One thread with blocking calls and epoll in place of
// goroutines was tried: it costs no less.
func (l *lab) acceptAt(send sender, addr string, pid, conns, size, total int) (a acceptance, err error) {
	before, ownBefore, err := cpuTimes(pid)
	if err != nil {
		return a, err
	}
	var wg sync.WaitGroup
	results := make([][]time.Duration, conns)
	errs := make([]error, conns)
	start := time.Now()
	for i := range conns {
		wg.Go(func() { results[i], errs[i] = send(addr, l.serial(), size, total/conns) })
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
	text, unique := sealedMail(serial, size)
	latency := make([]time.Duration, 0, messages)
	reply := make([]byte, s.mail.size)
	for n := range messages {
		binary.BigEndian.PutUint64(unique, uint64(n))
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

// sealedMail returns MAIL with a message that only looks sealed, and the eight bytes of it that are for
// its number.
func sealedMail(serial uint64, size int) (text, unique []byte) {
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: uint64(size),
		DestinationAccount: "alice", DestinationDomain: "bench.example", SourceAccount: "load", SourceDomain: "elsewhere.example"}
	text = append(h.Append((&cmtp.Command{Verb: cmtp.Mail}).Append(nil)), 0)
	text = append(text, make([]byte, size)...)
	unique = text[len(text)-16:]
	binary.BigEndian.PutUint64(unique, serial)
	return text, unique[8:]
}

// pipelined is sendMail with so many messages that wait for their answers.
func (s side) pipelined(depth int) sender {
	return func(addr string, serial uint64, size, messages int) ([]time.Duration, error) {
		c, err := s.open(addr)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		begun := make(chan time.Time, depth)
		sent := make(chan error, 1)
		go func() { sent <- sendAll(c, begun, serial, size, messages) }()
		latency := make([]time.Duration, 0, messages)
		reply := make([]byte, s.mail.size)
		in := bufio.NewReader(c)
		for range messages {
			if _, err := io.ReadFull(in, reply); err != nil {
				return latency, err
			}
			if !s.mail.is(reply) {
				return latency, fmt.Errorf("a message was answered %q", reply)
			}
			latency = append(latency, time.Since(<-begun))
		}
		return latency, errors.Join(<-sent, c.(interface{ CloseWrite() error }).CloseWrite())
	}
}

// sendAll sends messages while begun has room for their times.
func sendAll(c io.Writer, begun chan<- time.Time, serial uint64, size, messages int) error {
	text, unique := sealedMail(serial, size)
	out := bufio.NewWriterSize(c, 64<<10)
	for n := range messages {
		select {
		case begun <- time.Now():
		default:
			if err := out.Flush(); err != nil {
				return err
			}
			begun <- time.Now()
		}
		binary.BigEndian.PutUint64(unique, uint64(n))
		if _, err := out.Write(text); err != nil {
			return err
		}
	}
	return out.Flush()
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
