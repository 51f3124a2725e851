package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"time"
)

// floodFor is the longest that a flood lasts whose end nobody asks for.
const floodFor = time.Minute

// tlsFlood measures how long others wait while connections are set up as fast as
// clients can.
func tlsFlood(l *lab) (*table, error) {
	bare, err := l.self("starttls")
	if err != nil {
		return nil, err
	}
	cmtpd, _, err := l.cmtpd(1024, "")
	if err != nil {
		return nil, err
	}
	t := &table{
		title: "KEYREQUESTs in a flood of TLS set-ups",
		note: fmt.Sprintf("What one client outside waits for the answer to a KEYREQUEST, one after the other for %v, while %d clients in another process set up\n"+
			"channels, at the default of max_handshakes. A flood of the bare server shows what comes of the CPUs being busy alone. Who sends a ClientHello, always\n"+
			"the same, and leaves with the first byte of the answer has computed nothing; the server has computed the costly half.", askFor, connections),
		header: []string{"meanwhile", "p50, µs", "p99, µs", "set-ups/s"},
	}
	cells := []struct{ name, role, addr string }{
		{"nothing else", "", ""},
		{"set-ups with the bare server", "flood", bare},
		{"set-ups with cmtpd", "flood", cmtpd},
		{"ClientHellos to the bare server", "hellos", bare},
		{"ClientHellos to cmtpd", "hellos", cmtpd},
	}
	type waits struct{ p50, p99, rate series }
	seen := make([]waits, len(cells))
	_, err = l.each(len(cells), func(cell int) (float64, error) {
		c, w := cells[cell], &seen[cell]
		rate, err := during(c.role, c.addr, func() error {
			all, err := latencies(cmtpd)
			if err == nil {
				w.p50 = append(w.p50, all[len(all)/2].Seconds())
				w.p99 = append(w.p99, all[len(all)*99/100].Seconds())
			}
			return err
		})
		w.rate = append(w.rate, rate)
		return rate, err
	})
	if err != nil {
		return nil, err
	}
	for i, w := range seen {
		t.add(cells[i].name, micros(w.p50), micros(w.p99), number(w.rate.median()))
	}
	return t, nil
}

func micros(seconds series) string { return number(seconds.median() * 1e6) }

// latencies asks on one connection outside, and returns how long each answer took,
// the shortest first.
func latencies(addr string) ([]time.Duration, error) {
	c, err := outside.open(addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	start := time.Now()
	if err := c.SetDeadline(start.Add(askFor + 20*time.Second)); err != nil {
		return nil, err
	}
	var all []time.Duration
	reply := make([]byte, outside.key.size)
	for asked := start; asked.Sub(start) < askFor; {
		if _, err := c.Write(keyRequest); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, reply); err != nil {
			return nil, err
		}
		if !outside.key.is(reply) {
			return nil, fmt.Errorf("a reply is no key: %q", reply)
		}
		now := time.Now()
		all = append(all, now.Sub(asked))
		asked = now
	}
	slices.Sort(all)
	return all, nil
}

// during measures while this program floods addr in another process, if role is not
// empty, and returns the flood's set-ups a second.
func during(role, addr string, measure func() error) (rate float64, err error) {
	if role == "" {
		return 0, measure()
	}
	me, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(me, "-role", role, addr)
	cmd.Stderr = os.Stderr
	stop, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	said := bufio.NewReader(out)
	if _, err = said.ReadString('\n'); err == nil {
		err = measure()
	}
	err = errors.Join(err, stop.Close())
	if _, e := fmt.Fscan(said, &rate); e != nil {
		err = errors.Join(err, fmt.Errorf("asking for the rate of a flood: %w", e))
	}
	return rate, errors.Join(err, cmd.Wait())
}

func floodSetUps(addr string) error { return flood(starts(addr)) }

// floodHellos floods a server that agrees on TLS with nothing but ClientHellos.
func floodHellos(addr string) error {
	hello, err := clientHello()
	if err != nil {
		return err
	}
	return flood(setUps{addr: addr, begin: agree, hello: hello})
}

// flood sets connections up until its standard input ends. It prints an empty line
// when it begins, and at the end how many a second they were.
func flood(s setUps) error {
	if err := s.once(); err != nil {
		return err
	}
	fmt.Println()
	ctx, cancel := context.WithTimeout(context.Background(), floodFor)
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	rate, err := s.rate(ctx)
	if err == nil {
		fmt.Println(rate)
	}
	return err
}

// clientHello returns the first record of the load's handshake.
func clientHello() ([]byte, error) {
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, clientConfig).Handshake() // until the other end is closed
		client.Close()
	}()
	const head = 5
	record := make([]byte, head)
	if _, err := io.ReadFull(server, record); err != nil {
		return nil, err
	}
	record = append(record, make([]byte, binary.BigEndian.Uint16(record[3:]))...)
	_, err := io.ReadFull(server, record[head:])
	return record, err
}
