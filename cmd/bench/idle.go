package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

// How many connections are idle. Those inside the channel take a second for every
// thousand to set up.
const (
	idleOutside = 19000
	idleInside  = 5000
)

// idle measures what a connection costs that has spoken and waits.
func idle(l *lab) (*table, error) {
	t := &table{
		title: "Memory of idle connections",
		note: fmt.Sprintf("Resident memory of the daemon with %d connections, inside the channel %d, that have each asked for a key and wait, less what it was before, by their number.\n"+
			"Kernel memory is not in it.", idleOutside, idleInside),
		header: []string{"", "KiB a connection"},
	}
	s, err := l.each(2, func(cell int) (float64, error) {
		if cell == 0 {
			return l.idleOnce(outside, idleOutside)
		}
		return l.idleOnce(inside, idleInside)
	})
	if err != nil {
		return nil, err
	}
	kib := s[0].median()
	word := "met"
	if kib > 7 {
		word = fmt.Sprintf("**missed by %.0f %%**", 100*(kib/7-1))
	}
	t.add("after one KEYREQUEST", fmt.Sprintf("%.2f (target 7 at most: %s)", kib, word))
	t.add("the same, inside the channel", fmt.Sprintf("%.2f", s[1].median()))
	return t, nil
}

func (l *lab) idleOnce(s side, n int) (float64, error) {
	addr, cmd, err := l.cmtpd(n+100, "")
	if err != nil {
		return 0, err
	}
	defer end(cmd, os.Kill) // it is a benchmark's: nothing of it is kept
	before, err := resident(cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	reply := make([]byte, s.key.size)
	for i := range n {
		// Several loopback addresses, so that the ports of none run out.
		c, err := s.open(addr, net.IPv4(127, 0, 0, byte(2+i%8)))
		if err != nil {
			return 0, fmt.Errorf("connection %d: %w", i+1, err)
		}
		conns = append(conns, c)
		if _, err := c.Write(keyRequest); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, reply); err != nil || !s.key.is(reply) {
			return 0, fmt.Errorf("reply %d: %q, %w", i+1, reply, err)
		}
	}
	after, err := resident(cmd.Process.Pid)
	return (after - before) / float64(n), err
}

// resident returns a process' resident memory in KiB.
func resident(pid int) (float64, error) { return memory(pid, "VmRSS") }

// memory returns a line of a process' status in KiB.
func memory(pid int, key string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 64)
		}
	}
	return 0, fmt.Errorf("process %d shows no %s", pid, key)
}
