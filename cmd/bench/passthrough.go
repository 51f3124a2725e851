package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The ways to the sink behind.
const (
	direct = iota
	haproxy
	ours
	ways
)

// A load is one row of the passthrough table.
type load struct {
	name    string
	target  float64 // of ours to haproxy
	measure func(addr string) (float64, error)
	unit    string
	bulk    bool // goes to the byte sink, not to smtp-sink
}

func smtpSource(sessions, messages, size int, extra ...string) func(string) (float64, error) {
	return func(addr string) (float64, error) {
		args := append([]string{"-s", strconv.Itoa(sessions), "-m", strconv.Itoa(messages), "-l", strconv.Itoa(size)}, extra...)
		args = append(args, "-f", "a@bench.example", "-t", "b@bench.example", "inet:"+addr)
		start := time.Now()
		if out, err := exec.Command("smtp-source", args...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("smtp-source to %s: %w\n%s", addr, err, out)
		}
		return float64(messages) / time.Since(start).Seconds(), nil
	}
}

var loads = []load{
	{"new sessions, 4 KiB, 64 at a time", 0.9, smtpSource(64, 6000, 4096), "messages/s", false},
	{"kept sessions, 4 KiB, 64 at a time", 0.95, smtpSource(64, 16000, 4096, "-d"), "messages/s", false},
	{"new sessions, 1 MiB, 64 at a time", 0.97, smtpSource(64, 300, 1<<20), "messages/s", false},
	{"one stream of 1 GiB", 1.2, pump, "MB/s", true},
}

func passthrough(l *lab) (*table, error) {
	smtpSink, err := l.smtpSink()
	if err != nil {
		return nil, err
	}
	byteSink, err := l.self("sink")
	if err != nil {
		return nil, err
	}
	addrs := [2][ways]string{}
	for i, sink := range []string{smtpSink, byteSink} {
		addrs[i][direct] = sink
		if addrs[i][haproxy], err = l.haproxy(sink); err != nil {
			return nil, err
		}
		// smtp-sink knows no PROXY header and takes mail for anywhere.
		addrs[i][ours], _, err = l.cmtpd(1024, fmt.Sprintf("[smtp]\nmode = \"relay\"\nbackend = %q\nproxy_protocol = \"none\"\nrelay_check = \"warn\"\n", sink))
		if err != nil {
			return nil, err
		}
	}
	t := &table{
		title: "SMTP passthrough",
		note: "smtp-source through each to smtp-sink, and one Go client to a Go sink that discards; haproxy in TCP mode on as many threads as there are CPUs.\n" +
			"Round trips are the same on all three ways: greeting, then SMTP's own.",
		header: []string{"load", "unit", "direct", "haproxy", "cmtpd", "cmtpd ÷ haproxy", "cmtpd ÷ direct"},
	}
	for _, ld := range loads {
		kind := 0
		if ld.bulk {
			kind = 1
		}
		s, err := l.each(ways, func(way int) (float64, error) { return ld.measure(addrs[kind][way]) })
		if err != nil {
			return nil, err
		}
		t.add(ld.name, ld.unit, number(s[direct].median()), number(s[haproxy].median()), number(s[ours].median()),
			verdict(s[ours].over(s[haproxy]).median(), ld.target), fmt.Sprintf("%.2f", s[ours].over(s[direct]).median()))
	}
	return t, nil
}

func (l *lab) smtpSink() (string, error) {
	addr, err := freePort()
	if err != nil {
		return "", err
	}
	args := []string{addr, "1024"}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...) // it will not run as root
	}
	_, err = l.start(addr, "smtp-sink", args...)
	return addr, err
}

func (l *lab) haproxy(backend string) (string, error) {
	addr, err := freePort()
	if err != nil {
		return "", err
	}
	conf := filepath.Join(l.dir, "haproxy-"+strings.ReplaceAll(addr, ":", "-")+".cfg")
	text := fmt.Sprintf("global\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n  option splice-auto\n"+
		"listen smtp\n  bind %s\n  server sink %s\n", addr, backend)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	_, err = l.start(addr, "haproxy", "-db", "-f", conf)
	return addr, err
}

const (
	bulk        = 1 << 30 // bytes
	bulkCommand = "NOOP\r\n"
)

// pump sends one long stream of what begins like SMTP and returns MB/s.
func pump(addr string) (rate float64, err error) {
	c, err := greeted(addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	start := time.Now()
	if _, err := io.WriteString(c, bulkCommand); err != nil {
		return 0, err
	}
	block := make([]byte, 256<<10)
	for sent := 0; sent < bulk; sent += len(block) {
		if _, err := c.Write(block); err != nil {
			return 0, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "221 ") {
		return 0, fmt.Errorf("the sink answered %q: %w", line, err)
	}
	return bulk / 1e6 / time.Since(start).Seconds(), nil
}

// serveSink greets, discards all that comes behind bulkCommand, and says goodbye
// at its end. To cmtpd, which asks first, it says that it relays nothing.
func serveSink(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go sinkSession(c)
	}
}

func sinkSession(c net.Conn) {
	defer c.Close()
	if _, err := io.WriteString(c, "220 sink ESMTP\r\n"); err != nil {
		return
	}
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if line == bulkCommand {
			break
		}
		reply := "250 ok\r\n"
		if strings.HasPrefix(line, "RCPT") {
			reply = "550 no\r\n"
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
	block := make([]byte, 256<<10)
	for {
		if _, err := in.Read(block); errors.Is(err, io.EOF) {
			io.WriteString(c, "221 bye\r\n") // to a client that may have left
			return
		} else if err != nil {
			return
		}
	}
}
